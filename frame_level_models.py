"""Models on the frames of a video.

To add a model, write a subclass of models.BaseModel with a create_model, and
above it a flag for each of its hyper-parameters, named like the keyword. A flag
that several models share is defined above the first of them. If their defaults
differ, the flag's default is None and each model's keyword default applies.
frame_models/ has more models.

Shapes in comments: B videos, T frames, D features.
"""

import keras
from absl import flags
from keras import ops

import models
from layers import (
  classifiers,
  dropout,
  masking,
  normalization,
  recurrent,
  sampling,
)

# Activations that never decrease: the largest input gives the largest output.
_RISING_ACTIVATIONS = (
  "elu",
  "leaky_relu",
  "linear",
  "relu",
  "selu",
  "sigmoid",
  "softplus",
  "softsign",
  "tanh",
)


class FrameLevelLogisticModel(models.BaseModel):
  """A logistic classifier on the mean of the valid frames."""

  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.1,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    mean_frame,
    l2_penalty=1e-8,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      l2_penalty: see LogisticModel.
    """
    return models.classify(
      "LogisticModel", mean_frame, vocab_size, {"l2_penalty": l2_penalty}
    )


flags.DEFINE_integer(
  "iterations",
  None,
  "Frames sampled from each video. Default: 30 (DbofModel), 100"
  " (AttentionClusterModel), 300 (NetVladModel, NetFvModel,"
  " SoftDbowModel).",
  lower_bound=1,
)
flags.DEFINE_bool(
  "sample_random_frames",
  True,
  "DbofModel, NetVladModel, NetFvModel, SoftDbowModel: in training,"
  " sample frames independently of each other; False: consecutive frames.",
)
flags.DEFINE_bool(
  "dbof_add_batch_norm",
  True,
  "DbofModel: add batch normalization.",
)
flags.DEFINE_integer(
  "dbof_cluster_size",
  8192,
  "DbofModel: units in the cluster layer.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "dbof_hidden_size",
  1024,
  "DbofModel: units in the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_enum(
  "dbof_pooling_method",
  "max",
  ["max", "average"],
  "DbofModel: how the clusters of the frames become one vector.",
)
flags.DEFINE_string(
  "dbof_activation",
  "sigmoid",
  "DbofModel: activation of the cluster and the hidden layer, a name in"
  " keras.activations.",
)
flags.DEFINE_string(
  "video_level_classifier_model",
  "MoeModel",
  "DbofModel, LstmModel, GruModel, NetVladModel, NetFvModel,"
  " SoftDbowModel: video-level model at the end.",
)


def _random_dense(kind, inputs, units, bias_deviation, name):
  """A dense layer with the starter's random initial weights.

  Args:
    kind: keras.layers.Dense or a subclass.
    inputs: (..., D).
    units: number of outputs.
    bias_deviation: standard deviation of the initial biases; None for no bias.
    name: of the layer.

  Returns:
    (..., units).
  """
  return kind(
    units,
    use_bias=bias_deviation is not None,
    kernel_initializer=keras.initializers.RandomNormal(
      stddev=inputs.shape[-1] ** -0.5
    ),
    bias_initializer=keras.initializers.RandomNormal(
      stddev=bias_deviation or 0
    ),
    name=name,
  )(inputs)


class DbofModel(models.BaseModel):
  """Deep bag of frames: sampled frames vote for clusters.

  Frames -> clusters -> max or mean over the frames -> hidden -> classifier,
  with batch normalization before the clusters and before each activation.
  Source: Abu-El-Haija et al. 2016, section 4.1.2.
  """

  # The sizes and settings of the "gated DBoF" of the winning team of 2017
  # (WILLOW), in this model. Theirs is another network: softmax assignments,
  # summed, gated by their maxima, rgb and audio apart, a linear hidden layer.
  presets = {
    "published": {
      "iterations": 300,
      "sample_random_frames": True,
      "dbof_add_batch_norm": True,
      "dbof_cluster_size": 4096,
      "dbof_hidden_size": 1024,
      "dbof_pooling_method": "max",
      "dbof_activation": "sigmoid",
      "video_level_classifier_model": "MoeModel",
      "moe_num_mixtures": 2,
      "moe_output_gating": False,
      "l2_penalty": 1e-6,
      "input_transform": "l2",
      "batch_size": 80,
      "base_learning_rate": 0.0002,
      "learning_rate_schedule": "exponential",
      "learning_rate_decay": 0.9,
      "learning_rate_decay_examples": 4000000,
      "optimizer": "AdamOptimizer",
      "clip_gradient_norm": 1.0,
      "num_epochs": 0,
      "max_steps": 1000000,
      "max_frames": 300,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    iterations=30,
    sample_random_frames=True,
    dbof_add_batch_norm=True,
    dbof_cluster_size=8192,
    dbof_hidden_size=1024,
    dbof_pooling_method="max",
    dbof_activation="sigmoid",
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see sampling.SampleFrames.
      dbof_add_batch_norm: whether to normalize; else layers have a bias.
      dbof_cluster_size: units in the cluster layer.
      dbof_hidden_size: units in the hidden layer.
      dbof_pooling_method: "max" or "average" over the frames.
      dbof_activation: a name in keras.activations, for both layers.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def dense(kind, inputs, units, bias_deviation, name):
      # Batch normalization has a bias.
      if dbof_add_batch_norm:
        bias_deviation = None
      return _random_dense(kind, inputs, units, bias_deviation, name)

    def normalized(inputs, name):
      if not dbof_add_batch_norm:
        return inputs
      return normalization.batch_normalization(name=name)(inputs)

    frames = sampling.SampleFrames(iterations, sample_random_frames)(
      model_input, num_frames
    )
    kind = keras.layers.Dense
    if dbof_add_batch_norm:
      kind = normalization.ScaledDense
      frames = normalization.batch_normalization(
        scale=False, center=False, name="input_bn"
      )(frames)
    clusters = dense(
      kind, frames, dbof_cluster_size, frames.shape[-1] ** -0.5, "cluster"
    )  # (B, T, K)
    activation = keras.layers.Activation(dbof_activation)
    if (
      dbof_add_batch_norm
      and dbof_pooling_method == "max"
      and dbof_activation in _RISING_ACTIVATIONS
    ):
      pooled = activation(
        normalization.batch_normalization(
          normalization.MaxOfNormalized, name="cluster_bn"
        )(clusters)
      )
    else:
      pool = {"max": ops.max, "average": ops.mean}[dbof_pooling_method]
      pooled = pool(activation(normalized(clusters, "cluster_bn")), axis=1)
    hidden = dense(
      keras.layers.Dense, pooled, dbof_hidden_size, 0.01, "hidden1"
    )
    hidden = keras.layers.Activation(dbof_activation)(
      normalized(hidden, "hidden1_bn")
    )
    return models.classify(
      video_level_classifier_model, hidden, vocab_size, classifier_params
    )


flags.DEFINE_integer(
  "lstm_cells",
  None,
  "Units of each LSTM, in each direction. Default: 1024 (LstmModel,"
  " AttentionLstmModel), 512 (BiLstmModel), the size of the stream's"
  " feature (StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel).",
  lower_bound=1,
)
flags.DEFINE_integer(
  "lstm_layers",
  None,
  "Stacked LSTMs. Default: 2 (LstmModel, StreamLstmModel,"
  " NnStreamLstmModel, AutoencoderConcatModel, BiLstmModel).",
  lower_bound=1,
)


flags.DEFINE_integer(
  "lstm_random_frames",
  0,
  "LstmModel: in training, random frames of each video, in order; otherwise"
  " that many evenly spaced ones; 0: all frames.",
  lower_bound=0,
)


class LstmModel(models.BaseModel):
  """Stacked LSTMs; the last valid state of the top one is classified.

  Source: Hochreiter & Schmidhuber 1997; Abu-El-Haija et al. 2016, 4.1.3.
  """

  xla = False
  # The command of the winning team of 2017, for its ensemble (WILLOW), and the
  # defaults of the flags there. It classified the states and the cells of both
  # layers, 4096 numbers, and not only the state of the top one.
  presets = {
    "published": {
      "lstm_cells": 1024,
      "lstm_layers": 2,
      "lstm_random_frames": 150,
      "video_level_classifier_model": "MoeModel",
      "moe_num_mixtures": 2,
      "moe_output_gating": False,
      "l2_penalty": 1e-8,
      "input_transform": "l2",
      "batch_size": 128,
      "base_learning_rate": 0.0002,
      "learning_rate_schedule": "exponential",
      "learning_rate_decay": 0.9,
      "learning_rate_decay_examples": 4000000,
      "optimizer": "AdamOptimizer",
      "clip_gradient_norm": 1.0,
      "num_epochs": 0,
      "max_steps": 400000,
      "max_frames": 300,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    lstm_cells=1024,
    lstm_layers=2,
    lstm_random_frames=0,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      lstm_cells: units of each layer.
      lstm_layers: number of layers.
      lstm_random_frames: frames of each video, at random and in order in
        training, else evenly spaced; 0 for all frames.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """
    if lstm_random_frames:
      model_input = sampling.SampleFrames(lstm_random_frames, "in_order")(
        model_input, num_frames
      )
      num_frames = ops.full_like(num_frames, lstm_random_frames)
    mask = masking.FrameMask()(model_input, num_frames)
    states = model_input
    for layer in range(lstm_layers):
      states = recurrent.LSTM(
        lstm_cells,
        return_sequences=layer < lstm_layers - 1,
        name=f"lstm_{layer}",
      )(states, mask=mask)
    return models.classify(
      video_level_classifier_model, states, vocab_size, classifier_params
    )


flags.DEFINE_integer(
  "rnn_cells",
  64,
  "SimpleRnnModel: units of each layer.",
  lower_bound=1,
)


class SimpleRnnModel(models.BaseModel):
  """Two simple recurrent layers for short videos with few classes.

  The last valid state of the second -> ReLU layer of 128 -> logistic
  classifier.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False

  def create_model(
    self, model_input, vocab_size, num_frames, rnn_cells=64, **unused_params
  ):
    """See models.BaseModel.

    Args:
      rnn_cells: units of each of the two layers.
    """
    mask = masking.FrameMask()(model_input, num_frames)
    states = model_input
    for layer in range(2):
      states = keras.layers.SimpleRNN(
        rnn_cells, return_sequences=layer == 0, name=f"rnn_{layer}"
      )(states, mask=mask)
    hidden = classifiers.dense_layers(states, str(2 * rnn_cells), "hidden")
    return {"predictions": classifiers.classify_logistic(hidden, vocab_size)}


flags.DEFINE_integer(
  "cnn_filters",
  10,
  "CnnLstmModel: filters of each convolution.",
  lower_bound=1,
)
flags.DEFINE_string(
  "cnn_lstm_cells",
  "512,256,128",
  "CnnLstmModel: units of its LSTMs, separated by commas.",
)


class CnnLstmModel(models.BaseModel):
  """Convolutions over time and stacked LSTMs, in parallel.

  Three blocks [convolution of width 5, batch normalization, leaky ReLU] and the
  mean over the valid frames; the last valid state of the LSTMs; concatenated ->
  ReLU layers of 128 and 64 -> dropout -> logistic classifier. 4.21 M parameters
  with 1024 features and 10 classes.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    cnn_filters=10,
    cnn_lstm_cells="512,256,128",
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      cnn_filters: of each convolution.
      cnn_lstm_cells: units of each LSTM, "512,256,128".
      dropout_rate: fraction of the classifier's input left out in training.

    Raises:
      ValueError: the cells are not whole numbers above 0, or there are none.
    """
    cells = classifiers.layer_sizes(cnn_lstm_cells)
    if not cells:
      raise ValueError(
        "Expected --cnn_lstm_cells to have the units of one LSTM or more, such"
        f" as 512,256,128, received {cnn_lstm_cells!r}."
      )
    mask = masking.FrameMask()(model_input, num_frames)
    frames = model_input
    for block in range(3):
      frames = keras.layers.Conv1D(
        cnn_filters, 5, padding="same", name=f"conv_{block}"
      )(frames)
      frames = normalization.batch_normalization(name=f"conv_{block}_bn")(
        frames, mask=mask
      )
      frames = keras.layers.LeakyReLU(0.1)(frames)
      # The next convolution looks past the last frame.
      frames = masking.ZeroPadding()(frames, mask)
    states = model_input
    for layer, size in enumerate(cells):
      states = recurrent.LSTM(
        size, return_sequences=layer < len(cells) - 1, name=f"lstm_{layer}"
      )(states, mask=mask)
    joint = classifiers.side_by_side(
      [masking.MaskedMean()(frames, mask), states]
    )
    hidden = classifiers.dense_layers(joint, "128,64", "hidden")
    hidden = dropout.Dropout(dropout_rate)(hidden)
    return {"predictions": classifiers.classify_logistic(hidden, vocab_size)}


class RandomFrameModel(models.BaseModel):
  """A logistic classifier of single frames.

  It trains on one random frame of each video and predicts the mean of the
  frames' probabilities.
  """

  batch_size = 128
  base_learning_rate = 0.01

  def create_model(self, model_input, vocab_size, num_frames, **unused_params):
    """See models.BaseModel."""
    classifier = classifiers.FrameClassifier(vocab_size, name="classifier")
    return {"predictions": classifier(model_input, num_frames)}
