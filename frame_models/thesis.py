"""The frame-level networks of the thesis project Label_YT_Videos.

It compares four networks on the same videos; DeepNnModel, the one on whole
videos, is in video_level_models.py. The defaults follow the thesis's text, the
preset "thesis" has the networks of its code. docs/thesis.md tells where they
differ.

Shapes in comments: B videos, T frames, D features.
"""

import typing

import keras
from absl import flags
from keras import ops

import models
from layers import classifiers, dropout, masking, preprocessing, recurrent

# Thesis: the first 100 frames of each video, no video with fewer.
_FRAMES_OF_THE_THESIS = {"max_frames": 100, "min_frames": 100}


def stacked_lstm(states, mask, cells, direction, layer, name):
  """One of several stacked LSTMs, over the valid frames.

  Args:
    states: (B, T, D) float.
    mask: (B, T) bool.
    cells: units of each direction.
    direction: "both", or "alternating": forward in layers 0, 2 and so on,
      backward in the others.
    layer: its number, from 0.
    name: of the layer.

  Returns:
    The states in the order of the frames, (B, T, 2 cells) for both directions,
    otherwise (B, T, cells).
  """
  if direction == "both":
    return keras.layers.Bidirectional(
      recurrent.LSTM(cells, return_sequences=True), name=name
    )(states, mask=mask)
  backwards = layer % 2 == 1
  states = recurrent.LSTM(
    cells, return_sequences=True, go_backwards=backwards, name=name
  )(states, mask=mask)
  # Keras returns the states of a backward LSTM with the last frame first.
  return ops.flip(states, axis=1) if backwards else states


class Streams(typing.NamedTuple):
  """How the stream of each feature is built: flags of the models below."""

  stream_dense_size: int
  stream_activation: str
  lstm_cells: int | None
  lstm_layers: int
  lstm_direction: str
  stream_dropout_rate: float
  stream_frame_size: int
  stream_hidden_sizes: str
  initial_weights: str


def lstm_streams(features, num_frames, cells, vocab_size, settings):
  """A stream of LSTMs for each feature.

  Dense layer -> LSTMs -> dropout -> ReLU layer on each frame, if any -> largest
  value over the valid frames -> fully connected ReLU layers.

  Args:
    features: a (B, T, D) float for each stream.
    num_frames: (B,) int32.
    cells: units of each direction of the LSTMs of each stream, where
      settings.lstm_cells is None.
    vocab_size: number of classes.
    settings: Streams.

  Returns:
    A (B, the last size) for each stream.
  """
  mask = masking.FrameMask()(features[0], num_frames)
  pooled = []
  for stream, states in enumerate(features):
    name = f"stream_{stream}"
    states = keras.layers.Dense(
      settings.stream_dense_size,
      activation=settings.stream_activation,
      name=f"{name}_dense",
    )(states)
    for layer in range(settings.lstm_layers):
      states = stacked_lstm(
        states,
        mask,
        settings.lstm_cells or cells[stream],
        settings.lstm_direction,
        layer,
        f"{name}_lstm_{layer}",
      )
    if settings.stream_dropout_rate:
      states = dropout.Dropout(settings.stream_dropout_rate)(states)
    if settings.stream_frame_size:
      states = keras.layers.Dense(
        settings.stream_frame_size, activation="relu", name=f"{name}_frame"
      )(states)
    pooled.append(
      classifiers.dense_layers(
        masking.MaskedMax()(states, mask),
        settings.stream_hidden_sizes,
        f"{name}_hidden",
        vocab_size,
        settings.initial_weights,
      )
    )
  return pooled


flags.DEFINE_enum(
  "stream_activation",
  "relu",
  ["relu", "tanh"],
  "StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel: activation of"
  " the dense layer before each feature's LSTMs.",
)
flags.DEFINE_enum(
  "lstm_direction",
  "both",
  ["both", "alternating"],
  "StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel, BiLstmModel:"
  " each LSTM in both directions, or the first forward, the next backward and"
  " so on.",
)
flags.DEFINE_float(
  "stream_dropout_rate",
  0.0,
  "StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel: fraction of the"
  " LSTMs' states that are dropped in training.",
  lower_bound=0.0,
  upper_bound=0.99,
)
flags.DEFINE_integer(
  "stream_frame_size",
  0,
  "StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel: units of a ReLU"
  " layer on each frame after the LSTMs; 0: none.",
  lower_bound=0,
)
flags.DEFINE_string(
  "stream_hidden_sizes",
  "512",
  "StreamLstmModel, NnStreamLstmModel, AutoencoderConcatModel: units of the"
  " layers of each stream after the maximum over the frames, separated by"
  " commas; classes: as many as there are classes; empty: none.",
)
flags.DEFINE_enum(
  "stream_fusion",
  "late",
  ["late", "concat"],
  "StreamLstmModel: mean of the streams' probabilities, or one classifier"
  " on the concatenated streams.",
)


class StreamLstmModel(models.BaseModel):
  """A stream of LSTMs for each feature.

  See lstm_streams. Each stream has a logistic classifier. The prediction is the
  mean of the streams' probabilities (late fusion: 0.79 and 0.99 give 0.89), or
  one classifier takes the concatenated streams.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  earlier_defaults = {"stream_hidden_sizes": "", "dropout_rate": 0.0}
  # The network of the thesis's code: 65,343,270 parameters with its 3846
  # classes, rgb and audio.
  presets = {
    "thesis": {
      "lstm_direction": "alternating",
      "stream_dropout_rate": 0.5,
      "stream_frame_size": 16,
      "stream_hidden_sizes": "",
      "stream_fusion": "concat",
      "nn_joint_sizes": "8192,4096",
      "dropout_rate": 0.0,
      "initial_weights": "keras",
      **_FRAMES_OF_THE_THESIS,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    stream_dense_size=512,
    stream_activation="relu",
    lstm_cells=None,
    lstm_layers=2,
    lstm_direction="both",
    stream_dropout_rate=0.0,
    stream_frame_size=0,
    stream_hidden_sizes="512",
    stream_fusion="late",
    nn_joint_sizes="",
    dropout_rate=0.5,
    initial_weights="he",
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      stream_dense_size: units of the dense layer of a stream.
      stream_activation: of that layer, "relu" or "tanh".
      lstm_cells: units of each direction of an LSTM; None for the size of the
        stream's feature (rgb 1024, audio 128).
      lstm_layers: number of stacked LSTMs.
      lstm_direction: see stacked_lstm.
      stream_dropout_rate: fraction of the last LSTM's states left out in
        training.
      stream_frame_size: units of the ReLU layer on each frame after the LSTMs,
        0 for none.
      stream_hidden_sizes: units of the layers of a stream after the maximum.
      stream_fusion: "late" or "concat".
      nn_joint_sizes: units of the layers on the concatenated streams.
      dropout_rate: fraction of a classifier's input left out in training.
      initial_weights: see classifiers.dense_layers and classify_logistic.
    """
    if nn_joint_sizes and stream_fusion != "concat":
      raise ValueError(
        "Expected --stream_fusion=concat with --nn_joint_sizes, whose layers"
        " are on the concatenated streams, received"
        f" --nn_joint_sizes={nn_joint_sizes} and"
        f" --stream_fusion={stream_fusion}. Remove one of them."
      )
    streams = lstm_streams(
      preprocessing.split_features(model_input, feature_sizes),
      num_frames,
      feature_sizes,
      vocab_size,
      Streams(
        stream_dense_size,
        stream_activation,
        lstm_cells,
        lstm_layers,
        lstm_direction,
        stream_dropout_rate,
        stream_frame_size,
        stream_hidden_sizes,
        initial_weights,
      ),
    )
    if stream_fusion == "concat":
      joint = classifiers.side_by_side(streams)
      streams = [
        classifiers.dense_layers(
          joint, nn_joint_sizes, "joint", vocab_size, initial_weights
        )
      ]
    if dropout_rate:
      streams = [dropout.Dropout(dropout_rate)(stream) for stream in streams]
    predictions = [
      classifiers.classify_logistic(
        stream,
        vocab_size,
        name=f"stream_{index}_classifier",
        initial_weights=initial_weights,
      )
      for index, stream in enumerate(streams)
    ]
    return {"predictions": sum(predictions) / len(predictions)}


class Net(typing.NamedTuple):
  """How the net and the classifier are built: flags of the models below."""

  nn_tower_sizes: str
  nn_branch_sizes: str
  nn_joint_sizes: str
  dropout_rate: float


def nn_input_features(mean, feature_sizes, nn_tower_sizes):
  """The inputs of the net's towers: each feature, or all where none has one."""
  if not nn_tower_sizes:
    return [mean]
  return preprocessing.split_features(mean, feature_sizes)


def classify_nn_and_streams(features, streams, vocab_size, net, settings):
  """A net on whole videos beside streams, and one classifier of both.

  Args:
    features: what the net gets, a (B, D) float for each tower.
    streams: result of lstm_streams.
    vocab_size: number of classes.
    net: Net.
    settings: Streams.

  Returns:
    The predictions, (B, vocab_size) float32.
  """
  initial_weights = settings.initial_weights
  branch = classifiers.dense_layers(
    classifiers.towers(
      features, net.nn_tower_sizes, vocab_size, initial_weights
    ),
    net.nn_branch_sizes,
    "nn_branch",
    vocab_size,
    initial_weights,
  )
  joint = classifiers.dense_layers(
    classifiers.side_by_side([branch, *streams]),
    net.nn_joint_sizes,
    "joint",
    vocab_size,
    initial_weights,
  )
  joint = dropout.Dropout(net.dropout_rate)(joint)
  return classifiers.classify_logistic(
    joint, vocab_size, initial_weights=initial_weights
  )


flags.DEFINE_enum(
  "nn_input",
  "transformed",
  ["transformed", "dequantized"],
  "NnStreamLstmModel, AutoencoderConcatModel: the fully connected branch gets"
  " the mean of the frames as the streams get them, or only dequantized.",
)
flags.DEFINE_string(
  "nn_branch_sizes",
  "2048",
  "NnStreamLstmModel, AutoencoderConcatModel: units of the layers of the"
  " fully connected branch after its towers, separated by commas; classes: as"
  " many as there are classes; empty: none.",
)


class NnStreamLstmModel(models.BaseModel):
  """A fully connected net on the mean frame, and the LSTM streams.

  The net has a tower for each feature. Its output and the streams (see
  lstm_streams) are concatenated and classified by one logistic layer.
  Frame-level records are enough: the video-level vector is the mean of the
  valid frames.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  earlier_defaults = {
    "nn_tower_sizes": "",
    "nn_branch_sizes": "2048,1024",
    "stream_hidden_sizes": "",
  }
  # The network of the thesis's code: 429,937,568 parameters with its 3846
  # classes, rgb and audio.
  presets = {
    "thesis": {
      "nn_input": "dequantized",
      "nn_tower_sizes": "512,1024,4096,8192,4096,classes",
      "nn_branch_sizes": "",
      "stream_activation": "tanh",
      "lstm_direction": "alternating",
      "stream_dropout_rate": 0.5,
      "stream_frame_size": 1,
      "stream_hidden_sizes": "8192,classes",
      "nn_joint_sizes": "8192,4096",
      "dropout_rate": 0.0,
      "initial_weights": "keras",
      **_FRAMES_OF_THE_THESIS,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    mean_frame,
    mean_dequantized_frame,
    nn_input="transformed",
    nn_tower_sizes="1024",
    nn_branch_sizes="2048",
    stream_dense_size=512,
    stream_activation="relu",
    lstm_cells=None,
    lstm_layers=2,
    lstm_direction="both",
    stream_dropout_rate=0.0,
    stream_frame_size=0,
    stream_hidden_sizes="512",
    nn_joint_sizes="",
    dropout_rate=0.5,
    initial_weights="he",
    **unused_params,
  ):
    """See models.BaseModel; for the streams, see StreamLstmModel.

    Args:
      nn_input: "transformed" for a net on mean_frame, "dequantized" for
        mean_dequantized_frame.
      nn_tower_sizes: units of the net's layers on each feature.
      nn_branch_sizes: units of the net's layers on all towers' outputs.
      nn_joint_sizes: units of the layers on net and streams together.
      dropout_rate: fraction of the classifier's input left out in training.
      initial_weights: see classifiers.dense_layers and classify_logistic.
    """
    mean = mean_frame if nn_input == "transformed" else mean_dequantized_frame
    settings = Streams(
      stream_dense_size,
      stream_activation,
      lstm_cells,
      lstm_layers,
      lstm_direction,
      stream_dropout_rate,
      stream_frame_size,
      stream_hidden_sizes,
      initial_weights,
    )
    streams = lstm_streams(
      preprocessing.split_features(model_input, feature_sizes),
      num_frames,
      feature_sizes,
      vocab_size,
      settings,
    )
    predictions = classify_nn_and_streams(
      nn_input_features(mean, feature_sizes, nn_tower_sizes),
      streams,
      vocab_size,
      Net(nn_tower_sizes, nn_branch_sizes, nn_joint_sizes, dropout_rate),
      settings,
    )
    return {"predictions": predictions}


# What --autoencoder_levels may name.
_LEVELS = ("video", "frame", "joint_video")


def _parse_levels(text):
  """The levels that --autoencoder_levels names.

  Raises:
    ValueError: it names others, or video and joint_video at once.
  """
  levels = [level.strip() for level in text.split(",")] if text else []
  if not set(levels) <= set(_LEVELS) or {"video", "joint_video"} <= set(levels):
    raise ValueError(
      "Expected --autoencoder_levels to name some of video and frame, or"
      " joint_video instead of video, separated by a comma, received"
      f" {text!r}."
    )
  return levels


def encode(inputs, code_size, name):
  """An autoencoder: a code, from which a decoder reconstructs the input.

  Args:
    inputs: (..., D) float; all frames share the weights.
    code_size: units of the code.
    name: ending of the layers' names.

  Returns:
    The code, (..., code_size), and the squared distance of each input from its
    reconstruction, (...) float32.
  """
  code = keras.layers.Dense(
    code_size, activation="relu", name=f"encoder{name}"
  )(inputs)
  # No activation: features may be negative.
  decoded = keras.layers.Dense(
    inputs.shape[-1], dtype="float32", name=f"decoder{name}"
  )(code)
  error = ops.sum(ops.square(decoded - ops.cast(inputs, "float32")), axis=-1)
  return code, error


def encode_features(features, names, level, code_size, num_frames):
  """An autoencoder for each feature of the video or of its frames.

  Args:
    features: for each feature (B, D) float, or (B, T, D) at level "frame".
    names: of the features.
    level: "video", "frame" or "joint_video"; see AutoencoderConcatModel.
    code_size: units of each code.
    num_frames: (B,) int32.

  Returns:
    The code of each feature, and {tag: scalar float32}, the reconstruction
    error of each, a mean over the valid frames and over the videos.
  """
  codes, errors = [], {}
  for index, (feature, name) in enumerate(zip(features, names, strict=True)):
    joint = level == "joint_video"
    code, error = encode(
      feature, code_size, "" if joint else f"_{level}_{index}"
    )
    if level == "frame":
      mask = masking.FrameMask()(feature, num_frames)
      error = ops.sum(error * masking.mean_weights(mask), axis=1)
    codes.append(code)
    tag = "reconstruction_loss" + ("" if joint else f"_{name}_{level}")
    errors[tag] = ops.mean(error)
  return codes, errors


flags.DEFINE_bool(
  "autoencoder",
  True,
  "AutoencoderConcatModel: False makes it NnStreamLstmModel, as empty"
  " --autoencoder_levels do.",
)
flags.DEFINE_string(
  "autoencoder_levels",
  "video,frame",
  "AutoencoderConcatModel: where each feature has an autoencoder: video for the"
  " net's input, frame for the streams', both separated by a comma; empty: no"
  " autoencoders. joint_video: one on all features of the video.",
)
flags.DEFINE_integer(
  "autoencoder_code_size",
  4096,
  "AutoencoderConcatModel: units of each code at video level.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "autoencoder_frame_code_size",
  2048,
  "AutoencoderConcatModel: units of each feature's code of a frame.",
  lower_bound=1,
)
flags.DEFINE_float(
  "reconstruction_weight",
  1.0,
  "AutoencoderConcatModel: weight of each reconstruction error in the loss.",
  lower_bound=0.0,
)


class AutoencoderConcatModel(models.BaseModel):
  """NnStreamLstmModel behind autoencoders.

  An encoder for each feature turns its mean frame into a code, which becomes
  the input of the net's tower. Another one for each feature turns frames into
  codes, which become the input of its stream. Codes are wider than what they
  encode, and those of the video together wider than the number of classes. A
  decoder for each encoder reconstructs its input; the squared distances are
  added to the loss, at frame level their mean over the valid frames.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  earlier_defaults = {
    "autoencoder_levels": "joint_video",
    **NnStreamLstmModel.earlier_defaults,
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    mean_frame,
    mean_dequantized_frame,
    feature_names,
    autoencoder=True,
    autoencoder_levels="video,frame",
    autoencoder_code_size=4096,
    autoencoder_frame_code_size=2048,
    reconstruction_weight=1.0,
    nn_input="transformed",
    nn_tower_sizes="1024",
    nn_branch_sizes="2048",
    stream_dense_size=512,
    stream_activation="relu",
    lstm_cells=None,
    lstm_layers=2,
    lstm_direction="both",
    stream_dropout_rate=0.0,
    stream_frame_size=0,
    stream_hidden_sizes="512",
    nn_joint_sizes="",
    dropout_rate=0.5,
    initial_weights="he",
    **unused_params,
  ):
    """See models.BaseModel; for the rest, see NnStreamLstmModel.

    Args:
      autoencoder: False turns all autoencoders off.
      autoencoder_levels: "video", "frame", both separated by a comma, or "";
        "joint_video": one autoencoder of all features of the video.
      autoencoder_code_size: units of each code at video level.
      autoencoder_frame_code_size: units of each code of a frame.
      reconstruction_weight: weight of each reconstruction error.
    """
    levels = _parse_levels(autoencoder_levels) if autoencoder else []
    mean = mean_frame if nn_input == "transformed" else mean_dequantized_frame
    net_features = nn_input_features(mean, feature_sizes, nn_tower_sizes)
    frames = preprocessing.split_features(model_input, feature_sizes)
    losses = {}
    if "joint_video" in levels:
      net_features, losses = encode_features(
        [mean], [None], "joint_video", autoencoder_code_size, num_frames
      )
    if "video" in levels:
      net_features, losses = encode_features(
        preprocessing.split_features(mean, feature_sizes),
        feature_names,
        "video",
        autoencoder_code_size,
        num_frames,
      )
    if "frame" in levels:
      frames, of_frames = encode_features(
        frames, feature_names, "frame", autoencoder_frame_code_size, num_frames
      )
      losses = {**losses, **of_frames}
    settings = Streams(
      stream_dense_size,
      stream_activation,
      lstm_cells,
      lstm_layers,
      lstm_direction,
      stream_dropout_rate,
      stream_frame_size,
      stream_hidden_sizes,
      initial_weights,
    )
    predictions = classify_nn_and_streams(
      net_features,
      lstm_streams(frames, num_frames, feature_sizes, vocab_size, settings),
      vocab_size,
      Net(nn_tower_sizes, nn_branch_sizes, nn_joint_sizes, dropout_rate),
      settings,
    )
    if not losses:
      return {"predictions": predictions}
    return {
      "predictions": predictions,
      "auxiliary_losses": {
        tag: reconstruction_weight * loss for tag, loss in losses.items()
      },
    }


flags.DEFINE_enum(
  "bi_lstm_dense",
  "first",
  ["first", "each"],
  "BiLstmModel: a ReLU layer in the first block only, or in each.",
)
flags.DEFINE_bool(
  "bi_lstm_last_shortcut",
  True,
  "BiLstmModel: add the input of the last LSTM to its output, as in the other"
  " blocks.",
)


class BiLstmModel(models.BaseModel):
  """Stacked LSTMs over all features together, with shortcuts.

  Dense layer -> blocks x + LSTM(x) -> largest value over the valid frames ->
  ReLU layer -> logistic classifier.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  # The network of the thesis's code: 201,095,942 parameters with its 3846
  # classes, rgb and audio.
  presets = {
    "thesis": {
      "lstm_cells": 2304,
      "lstm_layers": 4,
      "lstm_direction": "alternating",
      "bi_lstm_dense": "each",
      "bi_lstm_last_shortcut": False,
      "nn_joint_sizes": "2048",
      "dropout_rate": 0.0,
      "initial_weights": "keras",
      **_FRAMES_OF_THE_THESIS,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    lstm_cells=512,
    lstm_layers=2,
    lstm_direction="both",
    bi_lstm_dense="first",
    bi_lstm_last_shortcut=True,
    nn_joint_sizes=None,
    dropout_rate=0.5,
    initial_weights="he",
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      lstm_cells: units of each direction.
      lstm_layers: blocks.
      lstm_direction: see stacked_lstm. With "both" a block is twice as wide.
      bi_lstm_dense: "first" for a ReLU layer before the first LSTM only, "each"
        for one before each.
      bi_lstm_last_shortcut: whether the last block adds its LSTM's input too.
      nn_joint_sizes: units of the layers after the maximum; None for one as
        wide as a block.
      dropout_rate: fraction of the classifier's input left out in training.
      initial_weights: see classifiers.dense_layers and classify_logistic.
    """
    mask = masking.FrameMask()(model_input, num_frames)
    width = 2 * lstm_cells if lstm_direction == "both" else lstm_cells
    states = model_input
    for layer in range(lstm_layers):
      if layer == 0 or bi_lstm_dense == "each":
        states = keras.layers.Dense(
          width,
          activation="relu",
          name=f"projection_{layer}" if layer else "projection",
        )(states)
      after = stacked_lstm(
        states, mask, lstm_cells, lstm_direction, layer, f"lstm_{layer}"
      )
      if layer < lstm_layers - 1 or bi_lstm_last_shortcut:
        after = keras.layers.Add()([states, after])
      states = after
    hidden = classifiers.dense_layers(
      masking.MaskedMax()(states, mask),
      str(width) if nn_joint_sizes is None else nn_joint_sizes,
      "hidden",
      vocab_size,
      initial_weights,
    )
    hidden = dropout.Dropout(dropout_rate)(hidden)
    return {
      "predictions": classifiers.classify_logistic(
        hidden, vocab_size, initial_weights=initial_weights
      )
    }
