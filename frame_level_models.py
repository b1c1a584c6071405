"""Models on the frames of a video.

Add a model: a subclass of models.BaseModel with a create_model, and a flag for
each of its hyper-parameters, named as the keyword. A flag that several models
share has no default of its own; each model's keyword default holds.

Shapes in comments: B videos, T frames, D features.
"""

import keras
from absl import flags
from keras import ops

import model_utils
import models

flags.DEFINE_integer(
  "iterations",
  None,
  "Frames sampled from each video; default: 30.",
  lower_bound=1,
)
flags.DEFINE_bool(
  "sample_random_frames",
  True,
  "In training, sample frames independently of each other; False: a run of"
  " following frames.",
)
flags.DEFINE_bool(
  "dbof_add_batch_norm", True, "DbofModel: add batch normalisation."
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
  "Video-level model that DbofModel and LstmModel end with.",
)
flags.DEFINE_integer(
  "lstm_cells",
  None,
  "Units of each LSTM; default: the model's own.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "lstm_layers",
  None,
  "Stacked LSTMs; default: the model's own.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "stream_dense_size",
  512,
  "StreamLstmModel: units of the dense layer in front of each stream's LSTMs.",
  lower_bound=1,
)


def classify(classifier_name, features, vocab_size, params):
  """Ends a frame-level model with a video-level one.

  Args:
    classifier_name: a class of video_level_models.
    features: (B, D) float.
    vocab_size: number of classes.
    params: hyper-parameters, passed on.

  Returns:
    The classifier's dict, see models.BaseModel.create_model.
  """
  classifier = models.find_class_by_name(classifier_name)()
  return classifier.create_model(
    model_input=features, vocab_size=vocab_size, num_frames=None, **params
  )


class FrameLevelLogisticModel(models.BaseModel):
  """A logistic classifier on the mean of the valid frames."""

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    mean_frame,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      model_input: (B, T, D) float.
      vocab_size: number of classes.
      num_frames: (B,) int32.
      mean_frame: (B, D) float, the mean of the valid frames.
      **unused_params: not used.
    """
    return classify("LogisticModel", mean_frame, vocab_size, {})


class DbofModel(models.BaseModel):
  """Deep bag of frames: sampled frames vote for clusters.

  Frames -> clusters -> max or mean over the frames -> hidden -> classifier,
  with batch normalisation before the clusters and before each activation.
  Source: Abu-El-Haija et al. 2016, section 4.1.2.
  """

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
      model_input: (B, T, D) float.
      vocab_size: number of classes.
      num_frames: (B,) int32.
      iterations: frames sampled from each video.
      sample_random_frames: see model_utils.SampleFrames.
      dbof_add_batch_norm: whether to normalise; else layers have a bias.
      dbof_cluster_size: units in the cluster layer.
      dbof_hidden_size: units in the hidden layer.
      dbof_pooling_method: "max" or "average" over the frames.
      dbof_activation: a name in keras.activations, for both layers.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def layer(inputs, units, name):
      """Dense, batch normalisation or bias, activation."""
      outputs = keras.layers.Dense(
        units,
        use_bias=not dbof_add_batch_norm,
        kernel_initializer=keras.initializers.RandomNormal(
          stddev=inputs.shape[-1] ** -0.5
        ),
        bias_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=name,
      )(inputs)
      if dbof_add_batch_norm:
        outputs = model_utils.batch_normalization(name=f"{name}_bn")(outputs)
      return keras.layers.Activation(dbof_activation)(outputs)

    frames = model_utils.SampleFrames(iterations, sample_random_frames)(
      model_input, num_frames
    )
    if dbof_add_batch_norm:
      frames = model_utils.batch_normalization(name="input_bn")(frames)
    clusters = layer(frames, dbof_cluster_size, "cluster")  # (B, T, clusters)
    pool = {"max": ops.max, "average": ops.mean}[dbof_pooling_method]
    hidden = layer(pool(clusters, axis=1), dbof_hidden_size, "hidden1")
    return classify(
      video_level_classifier_model, hidden, vocab_size, classifier_params
    )


class LstmModel(models.BaseModel):
  """Stacked LSTMs; the last valid state of the top one is classified.

  Source: Hochreiter & Schmidhuber 1997; Abu-El-Haija et al. 2016, 4.1.3.
  """

  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    lstm_cells=1024,
    lstm_layers=2,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      model_input: (B, T, D) float.
      vocab_size: number of classes.
      num_frames: (B,) int32.
      lstm_cells: units of each layer.
      lstm_layers: number of layers.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    states = model_input
    for layer in range(lstm_layers):
      states = keras.layers.LSTM(
        lstm_cells,
        return_sequences=layer < lstm_layers - 1,
        name=f"lstm_{layer}",
      )(states, mask=mask)
    return classify(
      video_level_classifier_model, states, vocab_size, classifier_params
    )


class StreamLstmModel(models.BaseModel):
  """One bidirectional LSTM stream for each feature, rgb and audio apart.

  Each stream: dense layer -> bidirectional LSTMs -> largest value over the
  valid frames -> logistic classifier. The prediction is the mean of the
  streams' probabilities (late fusion: 0.79 and 0.99 give 0.89).
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    stream_dense_size=512,
    lstm_cells=None,
    lstm_layers=2,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      model_input: (B, T, D) float.
      vocab_size: number of classes.
      num_frames: (B,) int32.
      feature_sizes: sizes of the features that lie side by side in
        model_input, one for each stream.
      stream_dense_size: units of the dense layer of a stream.
      lstm_cells: units of each direction of an LSTM; None for as many as the
        stream has features (rgb 1024, audio 128).
      lstm_layers: bidirectional LSTMs on top of each other.
      **unused_params: not used.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    predictions = []
    start = 0
    for stream, size in enumerate(feature_sizes):
      states = model_input[:, :, start : start + size]
      start += size
      states = keras.layers.Dense(
        stream_dense_size, activation="relu", name=f"stream_{stream}_dense"
      )(states)
      for layer in range(lstm_layers):
        states = keras.layers.Bidirectional(
          keras.layers.LSTM(lstm_cells or size, return_sequences=True),
          name=f"stream_{stream}_lstm_{layer}",
        )(states, mask=mask)
      pooled = model_utils.MaskedMax()(states, mask)
      logits = keras.layers.Dense(
        vocab_size,
        bias_initializer=model_utils.prior_bias(vocab_size),
        name=f"stream_{stream}_classifier",
      )(pooled)
      predictions.append(model_utils.probabilities(logits))
    return {"predictions": sum(predictions) / len(predictions)}
