"""Models on one vector a video, and classifiers at the end of frame models.

Add a model: a subclass of models.BaseModel with a create_model, and a flag for
each of its hyper-parameters, named as the keyword.
"""

import keras
from absl import flags
from keras import ops

import model_utils
import models

flags.DEFINE_string(
  "nn_tower_sizes",
  "1024",
  "DeepNnModel: units of the layers on each feature, with commas between;"
  " empty: none.",
)
flags.DEFINE_string(
  "nn_joint_sizes",
  "2048",
  "DeepNnModel: units of the layers after the features are joined, with commas"
  " between; empty: none.",
)
flags.DEFINE_float(
  "dropout_rate",
  None,
  "Part of the units that is left out in training; default: the model's own.",
  lower_bound=0.0,
  upper_bound=0.99,
)
flags.DEFINE_bool(
  "moe_output_gating",
  None,
  "MoeModel: let classes switch each other, p * sigmoid(BN(W p)); default: the"
  " model's own, False but for NetVladModel and its kin.",
)
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
      l2_penalty: weight of half the sum of squares of W.
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
    moe_output_gating=False,
    l2_penalty=1e-8,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      moe_num_mixtures: m, experts for each class.
      moe_output_gating: whether the probabilities pass model_utils'
        context_gating (Miech et al. 2017, equation 10).
      l2_penalty: weight of half the sum of squares of the kernels.
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
    predictions = ops.sum(gates[:, :, :mixtures] * experts, axis=2)
    if moe_output_gating:
      predictions = model_utils.context_gating(
        predictions, "output_gating", dtype="float32"
      )
    return {"predictions": predictions}


class DeepNnModel(models.BaseModel):
  """A deep neural net: a tower for each feature, then joint layers.

  Every layer is dense with ReLU; dropout, then a logistic classifier. Towers of
  512,1024,4096,8192,4096 and one joint layer of 4096 are those of the thesis
  (193.7 M parameters with mean_rgb and mean_audio).
  """

  base_learning_rate = 0.001

  def create_model(
    self,
    model_input,
    vocab_size,
    feature_sizes,
    nn_tower_sizes="1024",
    nn_joint_sizes="2048",
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      nn_tower_sizes: units of each tower's layers, "1024,512".
      nn_joint_sizes: units of the layers on all towers' outputs, likewise.
      dropout_rate: part of the last layer's units left out in training.
    """
    towers = [
      model_utils.dense_layers(feature, nn_tower_sizes, f"tower_{index}")
      for index, feature in enumerate(
        model_utils.split_features(model_input, feature_sizes)
      )
    ]
    joint = model_utils.dense_layers(
      model_utils.side_by_side(towers), nn_joint_sizes, "joint"
    )
    joint = model_utils.Dropout(dropout_rate)(joint)
    return {"predictions": model_utils.classify_logistic(joint, vocab_size)}
