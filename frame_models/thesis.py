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
from layers import classifiers, dropout, masking, preprocessing, streams

# Thesis: the first 100 frames of each video, no video with fewer.
_FRAMES_OF_THE_THESIS = {"max_frames": 100, "min_frames": 100}


def classify_streams(
  pooled, vocab_size, fusion, joint_sizes, dropout_rate, initial_weights
):
  """Logistic classifiers of streams, or one of all of them.

  Args:
    pooled: a (B, D) float for each stream.
    vocab_size: number of classes.
    fusion: "late" or "concat", see StreamLstmModel.
    joint_sizes: units of the layers on the concatenated streams.
    dropout_rate: fraction of a classifier's input left out in training.
    initial_weights: see classifiers.dense_layers and classify_logistic.

  Returns:
    The predictions, (B, vocab_size) float32.

  Raises:
    ValueError: joint layers without concatenated streams.
  """
  if joint_sizes and fusion != "concat":
    raise ValueError(
      "Expected --stream_fusion=concat with --nn_joint_sizes, whose layers are"
      " on the concatenated streams, received"
      f" --nn_joint_sizes={joint_sizes} and --stream_fusion={fusion}. Add"
      " --nn_joint_sizes= for no such layers, or --stream_fusion=concat."
    )
  if fusion == "concat":
    joint = classifiers.side_by_side(pooled)
    pooled = [
      classifiers.dense_layers(
        joint, joint_sizes, "joint", vocab_size, initial_weights
      )
    ]
  if dropout_rate:
    pooled = [dropout.Dropout(dropout_rate)(stream) for stream in pooled]
  predictions = [
    classifiers.classify_logistic(
      stream,
      vocab_size,
      name=f"stream_{index}_classifier",
      initial_weights=initial_weights,
    )
    for index, stream in enumerate(pooled)
  ]
  return sum(predictions) / len(predictions)


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

  See streams.lstm_streams. Each stream has a logistic classifier. The
  prediction is the mean of the streams' probabilities (late fusion: 0.79 and
  0.99 give 0.89), or one classifier takes the concatenated streams.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  earlier_defaults = {"stream_hidden_sizes": "", "dropout_rate": 0.0}
  # The network of the thesis's code: 65,343,270 parameters with its 3846
  # classes, rgb and audio.
  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.003,
    },
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
    },
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
      lstm_direction: see streams.stacked_lstm.
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
    pooled = streams.lstm_streams(
      preprocessing.split_features(model_input, feature_sizes),
      num_frames,
      feature_sizes,
      vocab_size,
      streams.Streams(
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
    predictions = classify_streams(
      pooled,
      vocab_size,
      stream_fusion,
      nn_joint_sizes,
      dropout_rate,
      initial_weights,
    )
    return {"predictions": predictions}


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


def classify_nn_and_streams(features, pooled, vocab_size, net, settings):
  """A net on whole videos beside streams, and one classifier of both.

  Args:
    features: what the net gets, a (B, D) float for each tower.
    pooled: result of streams.lstm_streams.
    vocab_size: number of classes.
    net: Net.
    settings: streams.Streams.

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
    classifiers.side_by_side([branch, *pooled]),
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
  "2048,1024",
  "NnStreamLstmModel, AutoencoderConcatModel: units of the layers of the"
  " fully connected branch after its towers, separated by commas; classes: as"
  " many as there are classes; empty: none.",
)


class NnStreamLstmModel(models.BaseModel):
  """A fully connected net on the mean frame, and the LSTM streams.

  The net has a tower for each feature. Its output and the streams (see
  streams.lstm_streams) are concatenated and classified by one logistic layer.
  Frame-level records are enough: the video-level vector is the mean of the
  valid frames.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False
  earlier_defaults = {"nn_tower_sizes": "", "stream_hidden_sizes": ""}
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
    nn_branch_sizes="2048,1024",
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
    settings = streams.Streams(
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
    pooled = streams.lstm_streams(
      preprocessing.split_features(model_input, feature_sizes),
      num_frames,
      feature_sizes,
      vocab_size,
      settings,
    )
    predictions = classify_nn_and_streams(
      nn_input_features(mean, feature_sizes, nn_tower_sizes),
      pooled,
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
  levels = {level.strip() for level in text.split(",")} if text else set()
  if not levels <= set(_LEVELS) or {"video", "joint_video"} <= levels:
    raise ValueError(
      "Expected --autoencoder_levels to name some of video and frame, or"
      " joint_video instead of video, separated by a comma, received"
      f" {text!r}."
    )
  return sorted(levels)


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


def encode_levels(inputs, names, levels, code_sizes, num_frames):
  """Autoencoders of the features of videos and of frames.

  Args:
    inputs: {level: for each feature (B, D) float, at level "frame" (B, T, D)}.
    names: of the features.
    levels: those that have autoencoders.
    code_sizes: units of each code of a video, and of a frame.
    num_frames: (B,) int32.

  Returns:
    {level: codes}, like inputs, and {tag: scalar float32}: each autoencoder's
    reconstruction error, its mean over the valid frames and over the videos.
  """
  codes, errors = {}, {}
  of_video, of_frame = code_sizes
  for level in levels:
    joint = level == "joint_video"
    size = of_frame if level == "frame" else of_video
    codes[level] = []
    for index, feature in enumerate(inputs[level]):
      code, error = encode(feature, size, "" if joint else f"_{level}_{index}")
      if level == "frame":
        mask = masking.FrameMask()(feature, num_frames)
        error = ops.sum(error * masking.mean_weights(mask), axis=1)
      codes[level].append(code)
      tag = "reconstruction_loss"
      errors[tag if joint else f"{tag}_{names[index]}_{level}"] = ops.mean(
        error
      )
  # Sorted as models.build_model sorts the outputs.
  return codes, dict(sorted(errors.items()))


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
    nn_branch_sizes="2048,1024",
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
      autoencoder_levels: "video,frame", one of them, "joint_video" or "".
      autoencoder_code_size: units of each code at video level.
      autoencoder_frame_code_size: units of each code of a frame.
      reconstruction_weight: weight of each reconstruction error.
    """
    mean = mean_frame if nn_input == "transformed" else mean_dequantized_frame
    inputs = {
      "video": preprocessing.split_features(mean, feature_sizes),
      "joint_video": [mean],
      "frame": preprocessing.split_features(model_input, feature_sizes),
    }
    codes, errors = encode_levels(
      inputs,
      feature_names,
      _parse_levels(autoencoder_levels) if autoencoder else [],
      (autoencoder_code_size, autoencoder_frame_code_size),
      num_frames,
    )
    settings = streams.Streams(
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
      codes.get("video")
      or codes.get("joint_video")
      or nn_input_features(mean, feature_sizes, nn_tower_sizes),
      streams.lstm_streams(
        codes.get("frame", inputs["frame"]),
        num_frames,
        feature_sizes,
        vocab_size,
        settings,
      ),
      vocab_size,
      Net(nn_tower_sizes, nn_branch_sizes, nn_joint_sizes, dropout_rate),
      settings,
    )
    losses = {tag: reconstruction_weight * errors[tag] for tag in errors}
    return {"predictions": predictions, "auxiliary_losses": losses}


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
      lstm_direction: see streams.stacked_lstm. With "both" a block is twice as
        wide.
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
      after = streams.stacked_lstm(
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
