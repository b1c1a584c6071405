"""Models on the frames of a video.

Add a model: a subclass of models.BaseModel with a create_model, and a flag for
each of its hyper-parameters, named as the keyword. A flag that several models
share has no default of its own; each model's keyword default holds.

Shapes in comments: B videos, T frames, D features.
"""

import math

import keras
from absl import flags
from keras import ops

import model_utils
import models
import recurrent

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

flags.DEFINE_enum(
  "stream_fusion",
  "late",
  ["late", "concat"],
  "StreamLstmModel: mean of the streams' probabilities, or one classifier on"
  " the streams side by side.",
)
flags.DEFINE_string(
  "nn_branch_sizes",
  "2048,1024",
  "NnStreamLstmModel, AutoencoderConcatModel: units of the layers of the fully"
  " connected branch, with commas between.",
)
flags.DEFINE_bool(
  "autoencoder",
  True,
  "AutoencoderConcatModel: False makes it NnStreamLstmModel.",
)
flags.DEFINE_integer(
  "autoencoder_code_size",
  4096,
  "AutoencoderConcatModel: units of the code.",
  lower_bound=1,
)
flags.DEFINE_float(
  "reconstruction_weight",
  1.0,
  "AutoencoderConcatModel: weight of the reconstruction error in the loss.",
  lower_bound=0.0,
)
flags.DEFINE_integer(
  "rnn_cells", 64, "SimpleRnnModel: units of each layer.", lower_bound=1
)
flags.DEFINE_string(
  "cnn_lstm_cells",
  "512,256,128",
  "CnnLstmModel: units of its LSTMs, with commas between.",
)
flags.DEFINE_integer(
  "cnn_filters", 10, "CnnLstmModel: filters of a convolution.", lower_bound=1
)
flags.DEFINE_integer(
  "transformer_size", 512, "TransformerModel: units of a frame.", lower_bound=2
)
flags.DEFINE_integer(
  "transformer_layers", 1, "TransformerModel: encoder layers.", lower_bound=1
)
flags.DEFINE_integer(
  "transformer_heads",
  8,
  "TransformerModel: attention heads; they share --transformer_size.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "gru_cells", 1200, "GruModel: units of each GRU.", lower_bound=1
)
flags.DEFINE_integer("gru_layers", 2, "GruModel: stacked GRUs.", lower_bound=1)
flags.DEFINE_integer(
  "netvlad_cluster_size",
  256,
  "NetVladModel: clusters of the first feature; later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "netvlad_hidden_size",
  1024,
  "NetVladModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_bool(
  "netvlad_residual",
  True,
  "NetVladModel: subtract the cluster centers; False: NetRVLAD.",
)
flags.DEFINE_integer(
  "fv_cluster_size",
  128,
  "NetFvModel: clusters of the first feature; later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "fv_hidden_size",
  1024,
  "NetFvModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "dbow_cluster_size",
  8000,
  "SoftDbowModel: words of the first feature; later ones have an eighth as"
  " many.",
  lower_bound=8,
)
flags.DEFINE_integer(
  "dbow_hidden_size",
  1024,
  "SoftDbowModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "nextvlad_cluster_size",
  128,
  "NextVladModel: clusters of the first feature; later ones have half as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "nextvlad_groups",
  8,
  "NextVladModel: parts of a frame of the first feature; later ones have half"
  " as many.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "nextvlad_expansion",
  2,
  "NextVladModel: factor on the features before they are cut into parts.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "nextvlad_hidden_size",
  2048,
  "NextVladModel: units of the hidden layer.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "nextvlad_gating_reduction",
  8,
  "NextVladModel: how many times narrower the gate's inner layer is.",
  lower_bound=1,
)
flags.DEFINE_string(
  "attention_hidden_sizes",
  None,
  "AttentionLstmModel, AttentionClusterModel: units of the two layers before"
  " the classifier; default: 8192,4096 and 1024,4096.",
)
flags.DEFINE_integer(
  "attention_units",
  32,
  "AttentionClusterModel: attention units for each feature.",
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
    """See models.BaseModel."""
    return classify("LogisticModel", mean_frame, vocab_size, {})


# Their largest value is that of their largest input.
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

    def dense(kind, inputs, units, name):
      """A dense layer, with a bias unless batch normalisation follows."""
      return kind(
        units,
        use_bias=not dbof_add_batch_norm,
        kernel_initializer=keras.initializers.RandomNormal(
          stddev=inputs.shape[-1] ** -0.5
        ),
        bias_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=name,
      )(inputs)

    def normalized(inputs, name):
      if not dbof_add_batch_norm:
        return inputs
      return model_utils.batch_normalization(name=name)(inputs)

    frames = model_utils.SampleFrames(iterations, sample_random_frames)(
      model_input, num_frames
    )
    kind = keras.layers.Dense
    if dbof_add_batch_norm:
      kind = model_utils.ScaledDense
      frames = model_utils.batch_normalization(
        scale=False, center=False, name="input_bn"
      )(frames)
    clusters = dense(kind, frames, dbof_cluster_size, "cluster")  # (B, T, K)
    activation = keras.layers.Activation(dbof_activation)
    if (
      dbof_add_batch_norm
      and dbof_pooling_method == "max"
      and dbof_activation in _RISING_ACTIVATIONS
    ):
      pooled = activation(
        model_utils.batch_normalization(
          model_utils.MaxOfNormalized, name="cluster_bn"
        )(clusters)
      )
    else:
      pool = {"max": ops.max, "average": ops.mean}[dbof_pooling_method]
      pooled = pool(activation(normalized(clusters, "cluster_bn")), axis=1)
    hidden = dense(keras.layers.Dense, pooled, dbof_hidden_size, "hidden1")
    hidden = keras.layers.Activation(dbof_activation)(
      normalized(hidden, "hidden1_bn")
    )
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
      lstm_cells: units of each layer.
      lstm_layers: number of layers.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    states = model_input
    for layer in range(lstm_layers):
      states = recurrent.LSTM(
        lstm_cells,
        return_sequences=layer < lstm_layers - 1,
        name=f"lstm_{layer}",
      )(states, mask=mask)
    return classify(
      video_level_classifier_model, states, vocab_size, classifier_params
    )


def lstm_streams(
  model_input, num_frames, feature_sizes, dense_size, cells, layers
):
  """A bidirectional LSTM stream for each feature.

  Dense layer -> bidirectional LSTMs -> largest value over the valid frames.

  Args:
    model_input: (B, T, D) float.
    num_frames: (B,) int32.
    feature_sizes: sizes of the features that lie side by side in model_input.
    dense_size: units of the dense layer of a stream.
    cells: units of each direction of an LSTM; None for as many as the stream
      has features.
    layers: bidirectional LSTMs on top of each other.

  Returns:
    A (B, 2 cells) for each feature.
  """
  mask = model_utils.FrameMask()(model_input, num_frames)
  pooled = []
  for stream, states in enumerate(
    model_utils.split_features(model_input, feature_sizes)
  ):
    states = keras.layers.Dense(
      dense_size, activation="relu", name=f"stream_{stream}_dense"
    )(states)
    for layer in range(layers):
      states = keras.layers.Bidirectional(
        recurrent.LSTM(cells or feature_sizes[stream], return_sequences=True),
        name=f"stream_{stream}_lstm_{layer}",
      )(states, mask=mask)
    pooled.append(model_utils.MaskedMax()(states, mask))
  return pooled


class StreamLstmModel(models.BaseModel):
  """One bidirectional LSTM stream for each feature, rgb and audio apart.

  See lstm_streams. Each stream has a logistic classifier; the prediction is the
  mean of the streams' probabilities (late fusion: 0.79 and 0.99 give 0.89). Or
  the streams are concatenated and classified once.
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
    stream_fusion="late",
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      stream_dense_size: units of the dense layer of a stream.
      lstm_cells: units of each direction of an LSTM; None for as many as the
        stream has features (rgb 1024, audio 128).
      lstm_layers: bidirectional LSTMs on top of each other.
      stream_fusion: "late" or "concat".
    """
    streams = lstm_streams(
      model_input,
      num_frames,
      feature_sizes,
      stream_dense_size,
      lstm_cells,
      lstm_layers,
    )
    if stream_fusion == "concat":
      streams = [model_utils.side_by_side(streams)]
    predictions = [
      model_utils.classify_logistic(
        stream, vocab_size, name=f"stream_{index}_classifier"
      )
      for index, stream in enumerate(streams)
    ]
    return {"predictions": sum(predictions) / len(predictions)}


class NnStreamLstmModel(models.BaseModel):
  """A fully connected net on the mean frame, beside the two LSTM streams.

  The net's output and the streams (see lstm_streams) are concatenated and
  classified by one logistic layer. It needs frame-level records only: the
  video-level vector is the mean of the valid frames.
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
    mean_frame,
    nn_branch_sizes="2048,1024",
    stream_dense_size=512,
    lstm_cells=None,
    lstm_layers=2,
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      nn_branch_sizes: units of the net's layers, "2048,1024".
      stream_dense_size: see lstm_streams.
      lstm_cells: see lstm_streams.
      lstm_layers: see lstm_streams.
      dropout_rate: part of what is classified left out in training.
    """
    net = model_utils.dense_layers(mean_frame, nn_branch_sizes, "nn_branch")
    streams = lstm_streams(
      model_input,
      num_frames,
      feature_sizes,
      stream_dense_size,
      lstm_cells,
      lstm_layers,
    )
    joint = model_utils.side_by_side([net, *streams])
    joint = model_utils.Dropout(dropout_rate)(joint)
    return {"predictions": model_utils.classify_logistic(joint, vocab_size)}


class AutoencoderConcatModel(NnStreamLstmModel):
  """NnStreamLstmModel with an autoencoder in front of its net.

  The mean frame is encoded into a code with more numbers than there are
  classes, which the net gets in its place; a decoder reconstructs the mean
  frame from the code. The reconstruction error, the squared distance, joins
  the loss.
  """

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    mean_frame,
    autoencoder=True,
    autoencoder_code_size=4096,
    reconstruction_weight=1.0,
    nn_branch_sizes="2048,1024",
    stream_dense_size=512,
    lstm_cells=None,
    lstm_layers=2,
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel and NnStreamLstmModel.

    Args:
      autoencoder: False makes it NnStreamLstmModel.
      autoencoder_code_size: units of the code.
      reconstruction_weight: weight of the reconstruction error.
      nn_branch_sizes: see NnStreamLstmModel, as for what follows.
      stream_dense_size: see lstm_streams.
      lstm_cells: see lstm_streams.
      lstm_layers: see lstm_streams.
      dropout_rate: see NnStreamLstmModel.
    """
    net_input = mean_frame
    auxiliary_losses = {}
    if autoencoder:
      net_input = keras.layers.Dense(
        autoencoder_code_size, activation="relu", name="encoder"
      )(mean_frame)
      decoded = keras.layers.Dense(
        mean_frame.shape[-1], dtype="float32", name="decoder"
      )(net_input)
      error = ops.sum(
        ops.square(decoded - ops.cast(mean_frame, "float32")), axis=1
      )
      auxiliary_losses["reconstruction_loss"] = (
        reconstruction_weight * ops.mean(error)
      )
    outputs = super().create_model(
      model_input,
      vocab_size,
      num_frames,
      feature_sizes,
      net_input,
      nn_branch_sizes=nn_branch_sizes,
      stream_dense_size=stream_dense_size,
      lstm_cells=lstm_cells,
      lstm_layers=lstm_layers,
      dropout_rate=dropout_rate,
    )
    if auxiliary_losses:
      outputs["auxiliary_losses"] = auxiliary_losses
    return outputs


class BiLstmModel(models.BaseModel):
  """Stacked bidirectional LSTMs over all features together, with shortcuts.

  Dense layer -> blocks x + BiLSTM(x) -> largest value over the valid frames ->
  ReLU layer -> logistic classifier. --lstm_layers=4 --lstm_cells=1152 has the
  thesis's width and depth; its LSTMs turned direction from block to block,
  these go both ways in each.
  """

  batch_size = 128
  base_learning_rate = 0.001
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    lstm_cells=512,
    lstm_layers=2,
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      lstm_cells: units of each direction; a block's width is twice as many.
      lstm_layers: blocks.
      dropout_rate: part of what is classified left out in training.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    width = 2 * lstm_cells
    states = keras.layers.Dense(width, activation="relu", name="projection")(
      model_input
    )
    for layer in range(lstm_layers):
      lstm = keras.layers.Bidirectional(
        recurrent.LSTM(lstm_cells, return_sequences=True),
        name=f"lstm_{layer}",
      )
      states = keras.layers.Add()([states, lstm(states, mask=mask)])
    pooled = model_utils.MaskedMax()(states, mask)
    hidden = model_utils.dense_layers(pooled, str(width), "hidden")
    hidden = model_utils.Dropout(dropout_rate)(hidden)
    return {"predictions": model_utils.classify_logistic(hidden, vocab_size)}


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
    mask = model_utils.FrameMask()(model_input, num_frames)
    states = model_input
    for layer in range(2):
      states = keras.layers.SimpleRNN(
        rnn_cells, return_sequences=layer == 0, name=f"rnn_{layer}"
      )(states, mask=mask)
    hidden = model_utils.dense_layers(states, str(2 * rnn_cells), "hidden")
    return {"predictions": model_utils.classify_logistic(hidden, vocab_size)}


class CnnLstmModel(models.BaseModel):
  """Convolutions over time beside stacked LSTMs.

  Three blocks [convolution of width 5, batch normalisation, leaky ReLU] and the
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
      dropout_rate: part of what is classified left out in training.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    frames = model_input
    for block in range(3):
      frames = keras.layers.Conv1D(
        cnn_filters, 5, padding="same", name=f"conv_{block}"
      )(frames)
      frames = model_utils.batch_normalization(name=f"conv_{block}_bn")(
        frames, mask=mask
      )
      frames = keras.layers.LeakyReLU(0.1)(frames)
      # The next convolution looks past the last frame.
      frames = model_utils.ZeroPadding()(frames, mask)
    states = model_input
    cells = [int(size) for size in cnn_lstm_cells.split(",")]
    for layer, size in enumerate(cells):
      states = recurrent.LSTM(
        size, return_sequences=layer < len(cells) - 1, name=f"lstm_{layer}"
      )(states, mask=mask)
    joint = model_utils.side_by_side(
      [model_utils.MaskedMean()(frames, mask), states]
    )
    hidden = model_utils.dense_layers(joint, "128,64", "hidden")
    hidden = model_utils.Dropout(dropout_rate)(hidden)
    return {"predictions": model_utils.classify_logistic(hidden, vocab_size)}


class RandomFrameModel(models.BaseModel):
  """A logistic classifier of single frames.

  It trains on one random frame of each video, and predicts the mean of the
  frames' probabilities.
  """

  batch_size = 128
  base_learning_rate = 0.01

  def create_model(self, model_input, vocab_size, num_frames, **unused_params):
    """See models.BaseModel."""
    classifier = model_utils.FrameClassifier(vocab_size, name="classifier")
    return {"predictions": classifier(model_input, num_frames)}


class TransformerModel(models.BaseModel):
  """A transformer encoder over the frames.

  Dense layer -> position encoding -> layers [x + attention(LN(x)), x +
  net(LN(x))] -> LN -> mean over the valid frames -> logistic classifier. The
  net has four times the width. Source: Vaswani et al. 2017; normalisation in
  front of each part: Xiong et al. 2020.
  """

  batch_size = 128
  base_learning_rate = 0.0003
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    transformer_size=512,
    transformer_layers=1,
    transformer_heads=8,
    dropout_rate=0.1,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      transformer_size: units of a frame, even and a multiple of the heads.
      transformer_layers: encoder layers.
      transformer_heads: attention heads.
      dropout_rate: part of each sublayer's output left out in training.
    """
    if transformer_size % transformer_heads:
      raise ValueError(
        f"--transformer_size={transformer_size} is no multiple of"
        f" --transformer_heads={transformer_heads}."
      )
    mask = model_utils.FrameMask()(model_input, num_frames)
    frames = keras.layers.Dense(transformer_size, name="projection")(
      model_input
    )
    # Normalised frames are short; the encoding's length is sqrt(size / 2).
    frames = keras.layers.LayerNormalization(name="projection_norm")(frames)
    frames = model_utils.PositionEncoding()(frames)
    for layer in range(transformer_layers):
      name = f"encoder_{layer}"
      normal = keras.layers.LayerNormalization(name=f"{name}_norm_0")(frames)
      attended = keras.layers.MultiHeadAttention(
        transformer_heads,
        transformer_size // transformer_heads,
        # Those of the keys would have no effect.
        use_bias=False,
        name=f"{name}_attention",
      )(normal, normal, attention_mask=mask[:, None, :])
      attended = model_utils.Dropout(dropout_rate)(attended)
      frames = keras.layers.Add()([frames, attended])
      inner = keras.layers.LayerNormalization(name=f"{name}_norm_1")(frames)
      inner = keras.layers.Dense(
        4 * transformer_size, activation="gelu", name=f"{name}_inner"
      )(inner)
      inner = keras.layers.Dense(transformer_size, name=f"{name}_outer")(inner)
      inner = model_utils.Dropout(dropout_rate)(inner)
      frames = keras.layers.Add()([frames, inner])
    frames = keras.layers.LayerNormalization(name="norm")(frames)
    pooled = model_utils.MaskedMean()(frames, mask)
    return {"predictions": model_utils.classify_logistic(pooled, vocab_size)}


class GruModel(models.BaseModel):
  """Stacked GRUs; the last valid states of all layers are classified.

  Source: Cho et al. 2014; Miech et al. 2017, section 4.2.
  """

  batch_size = 128
  base_learning_rate = 0.0005
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    gru_cells=1200,
    gru_layers=2,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      gru_cells: units of each layer.
      gru_layers: number of layers.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    states, finals = model_input, []
    for layer in range(gru_layers):
      states, final = recurrent.GRU(
        gru_cells, return_sequences=True, return_state=True, name=f"gru_{layer}"
      )(states, mask=mask)
      finals.append(final)
    return classify(
      video_level_classifier_model,
      model_utils.side_by_side(finals),
      vocab_size,
      classifier_params,
    )


def soft_assignment(frames, clusters, name):
  """How much each frame belongs to each cluster: softmax(BN(x W)).

  Args:
    frames: (B, T, D) symbolic, all of them valid.
    clusters: K.
    name: of the layers.

  Returns:
    (B, T, K), the sum over K being 1.
  """
  scores = keras.layers.Dense(
    clusters,
    use_bias=False,
    kernel_initializer=keras.initializers.RandomNormal(
      stddev=frames.shape[-1] ** -0.5
    ),
    name=f"{name}_clusters",
  )(frames)
  scores = model_utils.batch_normalization(name=f"{name}_clusters_bn")(scores)
  return keras.layers.Softmax(dtype="float32")(scores)


def pool_sampled_frames(
  model_input,
  num_frames,
  feature_sizes,
  iterations,
  random_frames,
  clusters,
  pool,
):
  """Samples frames, normalises them and pools each feature by its clusters.

  Args:
    model_input: (B, T, D) float.
    num_frames: (B,) int32.
    feature_sizes: sizes of the features that lie side by side in model_input.
    iterations: frames sampled from each video.
    random_frames: see model_utils.SampleFrames.
    clusters: number of clusters of the first feature, and of later ones.
    pool: function (frames of one feature, their soft_assignment, name) ->
      (B, any).

  Returns:
    What pool gave, concatenated.
  """
  frames = model_utils.SampleFrames(iterations, random_frames)(
    model_input, num_frames
  )
  frames = model_utils.batch_normalization(name="input_bn")(frames)
  pooled = []
  for index, feature in enumerate(
    model_utils.split_features(frames, feature_sizes)
  ):
    name = f"feature_{index}"
    assignment = soft_assignment(feature, clusters[min(index, 1)], name)
    pooled.append(pool(feature, assignment, name))
  return model_utils.side_by_side(pooled)


class NetVladModel(models.BaseModel):
  """Gated NetVLAD, the model that won the challenge of 2017.

  Sampled frames -> BN -> for each feature its Vlad -> concatenated -> dense
  layer -> context gating -> mixture of experts with output gating. Source:
  Miech et al. 2017, Learnable pooling with context gating.
  """

  batch_size = 80
  base_learning_rate = 0.0002

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    netvlad_cluster_size=256,
    netvlad_hidden_size=1024,
    netvlad_residual=True,
    moe_output_gating=True,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see model_utils.SampleFrames.
      netvlad_cluster_size: clusters of the first feature, twice those of
        others.
      netvlad_hidden_size: units of the hidden layer.
      netvlad_residual: False for NetRVLAD, without centers.
      moe_output_gating: see MoeModel.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return model_utils.Vlad(netvlad_residual, name=f"{name}_vlad")(
        frames, assignment
      )

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (netvlad_cluster_size, netvlad_cluster_size // 2),
      pool,
    )
    return classify_gated(
      pooled,
      vocab_size,
      netvlad_hidden_size,
      video_level_classifier_model,
      moe_output_gating=moe_output_gating,
      **classifier_params,
    )


def classify_gated(
  pooled, vocab_size, hidden_size, classifier_name, **classifier_params
):
  """Dense layer -> context gating -> classifier, with the winner's settings.

  Args:
    pooled: (B, D).
    vocab_size: number of classes.
    hidden_size: units of the dense layer.
    classifier_name: a class of video_level_models.
    **classifier_params: passed on to it, with an L2 penalty of 1e-6.

  Returns:
    The classifier's dict, see models.BaseModel.create_model.
  """
  hidden = keras.layers.Dense(
    hidden_size,
    kernel_initializer=keras.initializers.RandomNormal(
      stddev=pooled.shape[-1] ** -0.5
    ),
    name="hidden",
  )(pooled)
  hidden = model_utils.context_gating(hidden, "hidden_gating")
  return classify(
    classifier_name,
    hidden,
    vocab_size,
    {**classifier_params, "l2_penalty": 1e-6},
  )


class NetFvModel(models.BaseModel):
  """Fisher vectors in place of NetVladModel's Vlad, else the same.

  Source: Miech et al. 2017, section 4.1.
  """

  batch_size = 80
  base_learning_rate = 0.0002

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    fv_cluster_size=128,
    fv_hidden_size=1024,
    moe_output_gating=True,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see model_utils.SampleFrames.
      fv_cluster_size: clusters of the first feature, twice those of others.
      fv_hidden_size: units of the hidden layer.
      moe_output_gating: see MoeModel.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return model_utils.FisherVector(name=f"{name}_fisher")(frames, assignment)

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (fv_cluster_size, fv_cluster_size // 2),
      pool,
    )
    return classify_gated(
      pooled,
      vocab_size,
      fv_hidden_size,
      video_level_classifier_model,
      moe_output_gating=moe_output_gating,
      **classifier_params,
    )


class SoftDbowModel(models.BaseModel):
  """A bag of visual and of audio words, softly assigned.

  Source: Miech et al. 2017, section 4.1.
  """

  batch_size = 80
  base_learning_rate = 0.0002

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=300,
    sample_random_frames=True,
    dbow_cluster_size=8000,
    dbow_hidden_size=1024,
    video_level_classifier_model="MoeModel",
    **classifier_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames sampled from each video.
      sample_random_frames: see model_utils.SampleFrames.
      dbow_cluster_size: words of the first feature, eight times those of
        others.
      dbow_hidden_size: units of the hidden layer.
      video_level_classifier_model: a class of video_level_models.
      **classifier_params: passed on to it.
    """

    def pool(frames, assignment, name):
      return model_utils.BagOfWords(name=f"{name}_words")(assignment)

    pooled = pool_sampled_frames(
      model_input,
      num_frames,
      feature_sizes,
      iterations,
      sample_random_frames,
      (dbow_cluster_size, max(dbow_cluster_size // 8, 2)),
      pool,
    )
    hidden = keras.layers.Dense(dbow_hidden_size, name="hidden")(pooled)
    hidden = model_utils.batch_normalization(name="hidden_bn")(hidden)
    hidden = keras.layers.Activation("relu")(hidden)
    return classify(
      video_level_classifier_model, hidden, vocab_size, classifier_params
    )


class NextVladModel(models.BaseModel):
  """NeXtVLAD: VLAD over groups of features, with a gate instead of a mixture.

  All frames, for each feature: dense layer (expansion) -> NextVlad -> BN;
  concatenated -> dropout -> dense layer -> BN -> squeeze-and-excitation gate ->
  logistic classifier. Padded frames enter no batch statistics. Source: Lin et
  al. 2018, NeXtVLAD.
  """

  batch_size = 160
  base_learning_rate = 0.0002
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    nextvlad_cluster_size=128,
    nextvlad_groups=8,
    nextvlad_expansion=2,
    nextvlad_hidden_size=2048,
    nextvlad_gating_reduction=8,
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      nextvlad_cluster_size: clusters of the first feature, twice those of
        others.
      nextvlad_groups: parts of a frame, likewise.
      nextvlad_expansion: factor on the features before they are cut.
      nextvlad_hidden_size: units of the hidden layer.
      nextvlad_gating_reduction: the gate's inner layer is so much narrower.
      dropout_rate: part of the pooled features left out in training.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    pooled = []
    for index, frames in enumerate(
      model_utils.split_features(model_input, feature_sizes)
    ):
      name = f"feature_{index}"
      share = 2 if index else 1
      clusters = nextvlad_cluster_size // share
      groups = nextvlad_groups // share
      size = nextvlad_expansion * frames.shape[-1]
      if size % groups:
        raise ValueError(
          f"--nextvlad_expansion times the {frames.shape[-1]} numbers of a"
          f" feature is no multiple of its {groups} --nextvlad_groups."
        )
      frames = keras.layers.Dense(
        size, kernel_initializer="he_normal", name=f"{name}_expansion"
      )(frames)
      attention = keras.layers.Dense(
        groups,
        activation="sigmoid",
        kernel_initializer="he_normal",
        name=f"{name}_attention",
      )(frames)
      scores = keras.layers.Dense(
        groups * clusters,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_clusters",
      )(frames)
      scores = model_utils.batch_normalization(name=f"{name}_clusters_bn")(
        scores, mask=mask
      )
      vector = model_utils.NextVlad(clusters, name=f"{name}_vlad")(
        frames, attention, scores, mask
      )
      pooled.append(
        model_utils.batch_normalization(name=f"{name}_vlad_bn")(vector)
      )
    hidden = model_utils.Dropout(dropout_rate)(model_utils.side_by_side(pooled))
    hidden = self._dense(nextvlad_hidden_size, "hidden")(hidden)
    hidden = model_utils.batch_normalization(name="hidden_bn")(hidden)
    gates = self._dense(
      max(nextvlad_hidden_size // nextvlad_gating_reduction, 1), "gate_inner"
    )(hidden)
    gates = model_utils.batch_normalization(name="gate_inner_bn")(gates)
    gates = keras.layers.Activation("relu")(gates)
    gates = self._dense(nextvlad_hidden_size, "gate_outer", "sigmoid")(gates)
    hidden = keras.layers.Multiply()([hidden, gates])
    return {
      "predictions": model_utils.classify_logistic(
        hidden, vocab_size, l2_penalty=1e-5
      )
    }

  @staticmethod
  def _dense(units, name, activation=None):
    return keras.layers.Dense(
      units,
      use_bias=False,
      activation=activation,
      kernel_initializer="he_normal",
      name=name,
    )


class AttentionLstmModel(models.BaseModel):
  """Bidirectional LSTMs whose states are pooled by attention.

  For each feature: tanh layer of 512 -> bidirectional LSTM -> dropout ->
  AttentionPooling with one unit; concatenated -> ReLU layer -> tanh layer ->
  logistic classifier. Source: Bober-Irizar et al. 2017; Li et al. 2017,
  Temporal modeling approaches, section 4.
  """

  batch_size = 128
  base_learning_rate = 0.0003
  xla = False

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    stream_dense_size=512,
    lstm_cells=1024,
    attention_hidden_sizes="8192,4096",
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      stream_dense_size: units of the layer in front of each LSTM.
      lstm_cells: units of each direction.
      attention_hidden_sizes: units of the ReLU and of the tanh layer.
      dropout_rate: part of the LSTM's states left out in training.
    """
    mask = model_utils.FrameMask()(model_input, num_frames)
    pooled = []
    for index, states in enumerate(
      model_utils.split_features(model_input, feature_sizes)
    ):
      name = f"feature_{index}"
      states = keras.layers.Dense(
        stream_dense_size, activation="tanh", name=f"{name}_dense"
      )(states)
      states = keras.layers.Bidirectional(
        recurrent.LSTM(lstm_cells, return_sequences=True),
        name=f"{name}_lstm",
      )(states, mask=mask)
      states = model_utils.Dropout(dropout_rate)(states)
      # A bias would shift all frames' scores alike.
      scores = keras.layers.Dense(1, use_bias=False, name=f"{name}_attention")(
        states
      )
      pooled.append(model_utils.AttentionPooling()(states, scores, mask)[:, 0])
    return classify_attention(
      model_utils.side_by_side(pooled),
      vocab_size,
      attention_hidden_sizes,
      "relu",
    )


def classify_attention(pooled, vocab_size, hidden_sizes, activation):
  """A hidden layer, a tanh layer and a logistic classifier.

  Args:
    pooled: (B, D).
    vocab_size: number of classes.
    hidden_sizes: units of the two layers, "8192,4096".
    activation: of the first.

  Returns:
    The dict, see models.BaseModel.create_model.
  """
  first, second = (int(size) for size in hidden_sizes.split(","))
  hidden = keras.layers.Dense(first, activation=activation, name="hidden_0")(
    pooled
  )
  hidden = keras.layers.Dense(second, activation="tanh", name="hidden_1")(
    hidden
  )
  return {"predictions": model_utils.classify_logistic(hidden, vocab_size)}


class AttentionClusterModel(models.BaseModel):
  """Many attention units with a shift, instead of a recurrent network.

  Evenly spaced frames, for each feature: AttentionPooling with K units ->
  AttentionCluster; concatenated -> dropout -> two tanh layers -> logistic
  classifier. Source: Long et al. 2018, Attention Clusters.
  """

  batch_size = 128
  base_learning_rate = 0.0003

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    iterations=100,
    attention_units=32,
    attention_hidden_sizes="1024,4096",
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      iterations: frames taken from each video, in training too.
      attention_units: K, for each feature.
      attention_hidden_sizes: units of the two tanh layers.
      dropout_rate: part of the pooled features left out in training.
    """
    # A training=False in the call would give way to that of the whole model's.
    frames = model_utils.SampleFrames(iterations, random_frames=None)(
      model_input, num_frames
    )
    mask = model_utils.FrameMask()(frames, num_frames * 0 + iterations)
    pooled = []
    for index, feature in enumerate(
      model_utils.split_features(frames, feature_sizes)
    ):
      # The numbers of a frame of length 1 are small: unscaled, its scores would
      # take thousands of steps to tell frames apart.
      scores = keras.layers.Dense(
        attention_units, use_bias=False, name=f"feature_{index}_attention"
      )(feature * math.sqrt(sum(feature_sizes)))
      vectors = model_utils.AttentionPooling()(feature, scores, mask)
      pooled.append(
        model_utils.AttentionCluster(name=f"feature_{index}_cluster")(vectors)
      )
    pooled = model_utils.Dropout(dropout_rate)(model_utils.side_by_side(pooled))
    return classify_attention(
      pooled, vocab_size, attention_hidden_sizes, "tanh"
    )
