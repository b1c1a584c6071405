"""Models on one vector a video, and classifiers at the end of frame models.

Add a model: a subclass of models.BaseModel with a create_model, and a flag for
each of its hyper-parameters, named as the keyword.
"""

import keras
from absl import flags
from keras import ops

import model_utils
import models

flags.DEFINE_integer(
  "moe_num_mixtures",
  2,
  "MoeModel: experts for each class, besides the dummy one that says no.",
  lower_bound=1,
)


class LogisticModel(models.BaseModel):
  """One logistic classifier for each class: sigmoid(W x + b)."""

  def create_model(
    self, model_input, vocab_size, l2_penalty=1e-8, **unused_params
  ):
    """See models.BaseModel.

    Args:
      model_input: (batch, features) float.
      vocab_size: number of classes.
      l2_penalty: weight of half the sum of squares of W.
      **unused_params: not used.
    """
    logits = keras.layers.Dense(
      vocab_size,
      kernel_regularizer=model_utils.L2(l2_penalty),
      name="fully_connected",
    )(model_input)
    return {"predictions": model_utils.probabilities(logits)}


class MoeModel(models.BaseModel):
  """A mixture of logistic experts for each class.

  p = sum_{i<=m} g_i sigmoid(w_i x + b_i), where g is a softmax over the m
  experts and a dummy that always says no. Source: Jordan & Jacobs 1994; Abu-El-
  Haija et al. 2016, section 4.2.2.
  """

  def create_model(
    self,
    model_input,
    vocab_size,
    moe_num_mixtures=2,
    l2_penalty=1e-8,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      model_input: (batch, features) float.
      vocab_size: number of classes.
      moe_num_mixtures: m, experts for each class.
      l2_penalty: weight of half the sum of squares of the kernels.
      **unused_params: not used.
    """
    mixtures = moe_num_mixtures
    gates = keras.layers.Dense(
      vocab_size * (mixtures + 1),
      use_bias=False,
      kernel_regularizer=model_utils.L2(l2_penalty),
      name="gates",
    )(model_input)
    experts = keras.layers.Dense(
      vocab_size * mixtures,
      kernel_regularizer=model_utils.L2(l2_penalty),
      name="experts",
    )(model_input)
    # Columns are class major: all gates of class 0 come first.
    gates = keras.layers.Softmax(dtype="float32")(
      ops.reshape(gates, (-1, vocab_size, mixtures + 1))
    )
    experts = model_utils.probabilities(
      ops.reshape(experts, (-1, vocab_size, mixtures))
    )
    return {"predictions": ops.sum(gates[:, :, :mixtures] * experts, axis=2)}
