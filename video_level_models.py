"""Models on one vector for each video; frame-level models can end with them.

To add a model, write a subclass of models.BaseModel with a create_model, and
above it a flag for each of its hyper-parameters, named like the keyword.
"""

import keras
from absl import flags
from keras import ops

import models
from layers import classifiers, dropout, normalization, preprocessing

flags.DEFINE_float(
  "l2_penalty",
  None,
  "Weight of half the sum of squares of the kernels of the classifier, with its"
  " biases (NextVladModel, MixNextVladModel), or of all layers"
  " (AttentionLstmModel), in the loss. Default: 1e-08 (LogisticModel, MoeModel,"
  " FrameLevelLogisticModel), 1e-06 (GruModel, NetVladModel, NetFvModel), 1e-05"
  " (NextVladModel, MixNextVladModel), 0.0 (AttentionLstmModel).",
  lower_bound=0.0,
)


class LogisticModel(models.BaseModel):
  """One logistic classifier for each class: sigmoid(W x + b)."""

  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.1,
    }
  }

  def create_model(
    self, model_input, vocab_size, l2_penalty=1e-8, **unused_params
  ):
    """See models.BaseModel.

    Args:
      l2_penalty: weight of half the sum of squares of W.
    """
    logits = keras.layers.Dense(
      vocab_size,
      kernel_regularizer=classifiers.L2(l2_penalty),
      name="fully_connected",
    )(model_input)
    return {"predictions": classifiers.probabilities(logits)}


flags.DEFINE_integer(
  "moe_num_mixtures",
  2,
  "MoeModel: experts for each class, besides the dummy expert that always"
  " predicts 0; with --exclusive_classes, experts for all classes together.",
  lower_bound=1,
)
flags.DEFINE_bool(
  "moe_output_gating",
  None,
  "Let classes gate each other, p * sigmoid(BN(W p)). Default: False"
  " (MoeModel), True (NetVladModel, NetFvModel).",
)


class MoeModel(models.BaseModel):
  """A mixture of logistic experts for each class.

  p = sum_{i<=m} g_i sigmoid(w_i x + b_i), where g is a softmax over the m
  experts and a dummy that always predicts 0. Source: Jordan & Jacobs 1994;
  Abu-El-Haija et al. 2016, section 4.2.2.

  For exclusive classes, a gate and a dummy for each class have no meaning. The
  model is then classifiers.mix_softmaxes: m experts, each a softmax over the
  classes, and one gate for each video. The probabilities after output gating
  are divided by their sum.
  """

  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.03,
    }
  }

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
      moe_output_gating: whether the probabilities pass
        normalization.context_gating (Miech et al. 2017, equation 10).
      l2_penalty: weight of half the sum of squares of the kernels.
    """
    mixture = (
      classifiers.mix_softmaxes
      if classifiers.are_exclusive()
      else self._mix_for_each_class
    )
    predictions = mixture(model_input, vocab_size, moe_num_mixtures, l2_penalty)
    if moe_output_gating:
      predictions = normalization.context_gating(
        predictions, "output_gating", dtype="float32"
      )
      if classifiers.are_exclusive():
        predictions = classifiers.divided_by_sum(predictions)
    return {"predictions": predictions}

  def _mix_for_each_class(self, model_input, vocab_size, mixtures, l2_penalty):
    """(batch, vocab_size) float32 by the equation above."""
    gates = keras.layers.Dense(
      vocab_size * (mixtures + 1),
      use_bias=False,
      kernel_regularizer=classifiers.L2(l2_penalty),
      name="gates",
    )(model_input)
    experts = keras.layers.Dense(
      vocab_size * mixtures,
      kernel_regularizer=classifiers.L2(l2_penalty),
      name="experts",
    )(model_input)
    # Columns are class major: all gates of class 0 come first.
    gates = keras.layers.Softmax(dtype="float32")(
      ops.reshape(gates, (-1, vocab_size, mixtures + 1))
    )
    experts = classifiers.probabilities(
      ops.reshape(experts, (-1, vocab_size, mixtures))
    )
    return ops.sum(gates[:, :, :mixtures] * experts, axis=2)


flags.DEFINE_string(
  "nn_tower_sizes",
  "1024",
  "DeepNnModel, NnStreamLstmModel, AutoencoderConcatModel: units of the layers"
  " on each feature of the video, separated by commas; classes: as many as"
  " there are classes; empty: none.",
)
flags.DEFINE_string(
  "nn_joint_sizes",
  None,
  "Units of the layers before the classifier, separated by commas; classes: as"
  " many as there are classes; empty: none. Default: 2048 (DeepNnModel), the"
  " size of a block (BiLstmModel), empty (StreamLstmModel, NnStreamLstmModel,"
  " AutoencoderConcatModel).",
)
flags.DEFINE_enum(
  "initial_weights",
  "he",
  classifiers.INITIAL_WEIGHTS,
  "DeepNnModel, StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel,"
  " BiLstmModel: he: He's kernels in the ReLU layers on a video, and a"
  " classifier that begins at the frequency of a label; keras: Keras's"
  " defaults, Glorot's kernels and zeros.",
)
flags.DEFINE_float(
  "dropout_rate",
  None,
  "Fraction of the units that are dropped in training. Default: 0.5"
  " (DeepNnModel, StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel,"
  " BiLstmModel, CnnLstmModel, AttentionLstmModel, AttentionClusterModel,"
  " NextVladModel, MixNextVladModel), 0.1 (TransformerModel,"
  " LatentPoolingModel).",
  lower_bound=0.0,
  upper_bound=0.99,
)


class DeepNnModel(models.BaseModel):
  """A deep neural net: a tower for each feature, then joint layers.

  Every layer is dense with ReLU; dropout, then a logistic classifier. Source:
  the thesis project Label_YT_Videos, "Fully Connected Net".
  """

  base_learning_rate = 0.001
  # The network of the thesis's code: 193,596,166 parameters with its 3846
  # classes, mean_rgb and mean_audio.
  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.003,
      "input_transform": "dewhiten",
    },
    "thesis": {
      "nn_tower_sizes": "512,1024,4096,8192,4096",
      "nn_joint_sizes": "4096",
      "dropout_rate": 0.0,
      "initial_weights": "keras",
    },
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    feature_sizes,
    nn_tower_sizes="1024",
    nn_joint_sizes="2048",
    dropout_rate=0.5,
    initial_weights="he",
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      nn_tower_sizes: units of each tower's layers, "1024,512".
      nn_joint_sizes: units of the layers on all towers' outputs, "2048".
      dropout_rate: fraction of the last layer's units left out in training.
      initial_weights: see classifiers.dense_layers and classify_logistic.
    """
    joint = classifiers.towers(
      preprocessing.split_features(model_input, feature_sizes),
      nn_tower_sizes,
      vocab_size,
      initial_weights,
    )
    joint = classifiers.dense_layers(
      joint, nn_joint_sizes, "joint", vocab_size, initial_weights
    )
    joint = dropout.Dropout(dropout_rate)(joint)
    return {
      "predictions": classifiers.classify_logistic(
        joint, vocab_size, initial_weights=initial_weights
      )
    }
