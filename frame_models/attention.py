"""Models that weigh frames by attention.

Shapes in comments: B videos, T frames, D features.
"""

import math

import keras
from absl import flags
from keras import ops

import models
from layers import (
  classifiers,
  dropout,
  masking,
  normalization,
  pooling,
  position_encoding,
  preprocessing,
  recurrent,
  sampling,
)

flags.DEFINE_integer(
  "transformer_size",
  512,
  "TransformerModel: units of a frame.",
  lower_bound=2,
)
flags.DEFINE_integer(
  "transformer_layers",
  1,
  "TransformerModel: encoder layers.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "transformer_heads",
  8,
  "TransformerModel: attention heads; they share --transformer_size.",
  lower_bound=1,
)


class TransformerModel(models.BaseModel):
  """A transformer encoder over the frames.

  Dense layer -> position encoding -> layers [x + attention(LN(x)), x +
  net(LN(x))] -> LN -> mean over the valid frames -> logistic classifier. The
  net has four times the width. Source: Vaswani et al. 2017; normalization
  before each part: Xiong et al. 2020.
  """

  batch_size = 128
  base_learning_rate = 0.0003
  xla = False
  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.001,
    }
  }

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
      dropout_rate: fraction of each sublayer's output left out in training.
    """
    if transformer_size % transformer_heads:
      raise ValueError(
        "Expected --transformer_size to be a multiple of --transformer_heads,"
        f" received --transformer_size={transformer_size} and"
        f" --transformer_heads={transformer_heads}."
      )
    mask = masking.FrameMask()(model_input, num_frames)
    frames = keras.layers.Dense(transformer_size, name="projection")(
      model_input
    )
    # Normalized frames are short; the encoding's length is sqrt(size / 2).
    frames = keras.layers.LayerNormalization(name="projection_norm")(frames)
    frames = position_encoding.PositionEncoding()(frames)
    for layer in range(transformer_layers):
      name = f"encoder_{layer}"
      normal = keras.layers.LayerNormalization(name=f"{name}_norm_0")(frames)
      attended = keras.layers.MultiHeadAttention(
        transformer_heads,
        transformer_size // transformer_heads,
        # The biases of the keys would have no effect.
        use_bias=False,
        name=f"{name}_attention",
      )(normal, normal, attention_mask=mask[:, None, :])
      attended = dropout.Dropout(dropout_rate)(attended)
      frames = keras.layers.Add()([frames, attended])
      inner = keras.layers.LayerNormalization(name=f"{name}_norm_1")(frames)
      inner = keras.layers.Dense(
        4 * transformer_size, activation="gelu", name=f"{name}_inner"
      )(inner)
      inner = keras.layers.Dense(transformer_size, name=f"{name}_outer")(inner)
      inner = dropout.Dropout(dropout_rate)(inner)
      frames = keras.layers.Add()([frames, inner])
    frames = keras.layers.LayerNormalization(name="norm")(frames)
    pooled = masking.MaskedMean()(frames, mask)
    return {"predictions": classifiers.classify_logistic(pooled, vocab_size)}


def classify_attention(
  pooled, vocab_size, hidden_sizes, activation, l2_penalty=0.0
):
  """A hidden layer, a tanh layer and a logistic classifier.

  Args:
    pooled: (B, D).
    vocab_size: number of classes.
    hidden_sizes: units of the two layers, "8192,4096".
    activation: of the first.
    l2_penalty: weight of half the sum of squares of the kernels.

  Returns:
    The dict, see models.BaseModel.create_model.

  Raises:
    ValueError: the sizes are not two whole numbers above 0.
  """
  sizes = [size.strip() for size in hidden_sizes.split(",")]
  if len(sizes) != 2 or not all(
    size.isdecimal() and int(size) > 0 for size in sizes
  ):
    raise ValueError(
      "Expected two layer sizes as --attention_hidden_sizes, such as"
      f" 1024,4096, received {hidden_sizes!r}."
    )
  hidden = pooled
  for index, size in enumerate(sizes):
    hidden = keras.layers.Dense(
      int(size),
      activation="tanh" if index else activation,
      kernel_regularizer=classifiers.l2(l2_penalty),
      name=f"hidden_{index}",
    )(hidden)
  return {
    "predictions": classifiers.classify_logistic(hidden, vocab_size, l2_penalty)
  }


flags.DEFINE_integer(
  "stream_dense_size",
  512,
  "AttentionLstmModel, StreamLstmModel, NnStreamLstmModel,"
  " AutoencoderConcatModel: units of the dense layer before each feature's"
  " LSTMs.",
  lower_bound=1,
)
flags.DEFINE_string(
  "attention_hidden_sizes",
  None,
  "Units of the two layers before the classifier, separated by a comma."
  " Default: 8192,4096 (AttentionLstmModel), 1024,4096"
  " (AttentionClusterModel).",
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
  input_transform = "none"
  # PaddleVideo's configuration for YouTube-8M, on 8 devices (on one:
  # --accumulate_steps=8). Its penalty of 4e-4 stands beside the sum of 128
  # videos' losses; here it is divided by 128, beside their mean. Its rate falls
  # to a tenth after 5 epochs of 3,888,919 videos, as here, and again after 8.
  presets = {
    "published": {
      "stream_dense_size": 512,
      "lstm_cells": 1024,
      "attention_hidden_sizes": "8192,4096",
      "dropout_rate": 0.5,
      "l2_penalty": 3.125e-6,
      "input_transform": "none",
      "batch_size": 128,
      "base_learning_rate": 0.00025,
      "learning_rate_schedule": "exponential",
      "learning_rate_decay": 0.1,
      "learning_rate_decay_examples": 19444595,
      "optimizer": "CenteredRMSProp",
      "clip_gradient_norm": 0.0,
      "num_epochs": 10,
      "max_frames": 300,
    }
  }

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
    l2_penalty=0.0,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      stream_dense_size: units of the layer before each LSTM.
      lstm_cells: units of each direction.
      attention_hidden_sizes: units of the ReLU and of the tanh layer.
      dropout_rate: fraction of the LSTM's states left out in training.
      l2_penalty: weight of half the sum of squares of all kernels.
    """
    regularizer = classifiers.l2(l2_penalty)
    mask = masking.FrameMask()(model_input, num_frames)
    pooled = []
    for index, states in enumerate(
      preprocessing.split_features(model_input, feature_sizes)
    ):
      name = f"feature_{index}"
      states = keras.layers.Dense(
        stream_dense_size,
        activation="tanh",
        kernel_regularizer=regularizer,
        name=f"{name}_dense",
      )(states)
      states = keras.layers.Bidirectional(
        recurrent.LSTM(
          lstm_cells,
          return_sequences=True,
          kernel_regularizer=regularizer,
          recurrent_regularizer=regularizer,
          name="lstm",
        ),
        name=f"{name}_lstm",
      )(states, mask=mask)
      states = dropout.Dropout(dropout_rate)(states)
      # A bias would shift the scores of all frames equally.
      scores = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_regularizer=regularizer,
        name=f"{name}_attention",
      )(states)
      pooled.append(pooling.AttentionPooling()(states, scores, mask)[:, 0])
    return classify_attention(
      classifiers.side_by_side(pooled),
      vocab_size,
      attention_hidden_sizes,
      "relu",
      l2_penalty,
    )


flags.DEFINE_integer(
  "attention_units",
  32,
  "AttentionClusterModel: attention units for each feature.",
  lower_bound=1,
)


class AttentionClusterModel(models.BaseModel):
  """Many attention units with a shift, instead of a recurrent network.

  Evenly spaced frames, in training each at random in its part of the video, for
  each feature: AttentionPooling with K units -> AttentionCluster; concatenated
  -> dropout -> two tanh layers -> logistic classifier. Source: Long et al.
  2018, Attention Clusters.
  """

  batch_size = 128
  base_learning_rate = 0.0003
  input_transform = "none"
  # PaddleVideo's configuration for YouTube-8M. The batch was divided among 7
  # devices; --batch_size is that of each device.
  presets = {
    "published": {
      "iterations": 100,
      "attention_units": 32,
      "attention_hidden_sizes": "1024,4096",
      "dropout_rate": 0.5,
      "input_transform": "none",
      "batch_size": 2048,
      "base_learning_rate": 0.001,
      "learning_rate_schedule": "constant",
      "optimizer": "AdamOptimizer",
      "clip_gradient_norm": 0.0,
      "num_epochs": 5,
      "max_frames": 300,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_sizes,
    input_transform="none",
    iterations=100,
    attention_units=32,
    attention_hidden_sizes="1024,4096",
    dropout_rate=0.5,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      input_transform: what was done to the frames.
      iterations: frames taken from each video.
      attention_units: K, for each feature.
      attention_hidden_sizes: units of the two tanh layers.
      dropout_rate: fraction of the pooled features left out in training.
    """
    frames = sampling.SampleFrames(iterations, "jittered")(
      model_input, num_frames
    )
    # Checkpoints find a layer by its place among all operations: those of
    # earlier versions had these two here, and the product of the scores.
    mask = masking.FrameMask()(frames, num_frames * 0 + iterations)
    # The numbers of a frame of length 1 are small: unscaled, its scores would
    # take thousands of steps to distinguish frames. Others are near 1.
    scale = math.sqrt(sum(feature_sizes)) if input_transform == "l2" else 1.0
    pooled = []
    for index, feature in enumerate(
      preprocessing.split_features(frames, feature_sizes)
    ):
      scores = keras.layers.Dense(
        attention_units, use_bias=False, name=f"feature_{index}_attention"
      )(feature * scale)
      vectors = pooling.AttentionPooling()(feature, scores, mask)
      pooled.append(
        pooling.AttentionCluster(name=f"feature_{index}_cluster")(vectors)
      )
    pooled = dropout.Dropout(dropout_rate)(classifiers.side_by_side(pooled))
    return classify_attention(
      pooled, vocab_size, attention_hidden_sizes, "tanh"
    )


@keras.saving.register_keras_serializable("frame_models")
class LearnedQueries(keras.layers.Layer):
  """The same learned vectors for every video.

  Args:
    queries: Q, number of vectors.
    size: of each.

  Input shape: (B, ...), which only gives the number of videos.
  Output shape: (B, Q, size).
  """

  def __init__(self, queries, size, **kwargs):
    super().__init__(**kwargs)
    self.queries = queries
    self.size = size

  def build(self, inputs_shape):
    """Creates the vectors (Q, size)."""
    del inputs_shape
    self.vectors = self.add_weight(
      shape=(self.queries, self.size),
      initializer=keras.initializers.RandomNormal(stddev=0.02),
      name="vectors",
    )

  def call(self, inputs):
    shape = (ops.shape(inputs)[0], self.queries, self.size)
    return ops.broadcast_to(self.vectors[None], shape)

  def compute_output_spec(self, inputs):
    shape = (inputs.shape[0], self.queries, self.size)
    return keras.KerasTensor(shape, self.compute_dtype)


flags.DEFINE_integer(
  "latent_queries",
  16,
  "LatentPoolingModel: learned vectors that gather what the frames hold.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "latent_blocks",
  2,
  "LatentPoolingModel: times that they attend to the frames.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "latent_size",
  512,
  "LatentPoolingModel: units of a learned vector and of a frame.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "latent_heads",
  8,
  "LatentPoolingModel: attention heads; they share --latent_size.",
  lower_bound=1,
)


class LatentPoolingModel(models.BaseModel):
  """Learned queries that attend to all frames, whatever their order.

  Dense layer -> LN -> blocks [q + attention of LN(q) to the frames, q +
  attention of LN(q) to itself, q + net(LN(q))] -> LN -> all queries
  concatenated -> dropout -> dense layer, twice as wide as a query -> context
  gating -> logistic classifier. The net has four times the width. There is no
  position encoding. Source: Lee et al. 2019, Set Transformer, pooling by
  multihead attention; Jaegle et al. 2021, Perceiver; gating: Miech et al. 2017,
  equation 10.
  """

  batch_size = 128
  base_learning_rate = 0.0003
  xla = False
  presets = {
    "recommended": {
      **models.RECOMMENDED_TRAINING,
      "base_learning_rate": 0.0003,
    }
  }

  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    latent_queries=16,
    latent_blocks=2,
    latent_size=512,
    latent_heads=8,
    dropout_rate=0.1,
    **unused_params,
  ):
    """See models.BaseModel.

    Args:
      latent_queries: Q, learned vectors.
      latent_blocks: times that they attend to the frames.
      latent_size: units of a query and of a frame, a multiple of the heads.
      latent_heads: attention heads.
      dropout_rate: fraction of each sublayer's output, and of the classifier's
        input, left out in training.
    """
    if latent_size % latent_heads:
      raise ValueError(
        "Expected --latent_size to be a multiple of --latent_heads, received"
        f" --latent_size={latent_size} and --latent_heads={latent_heads}."
      )
    # Without any frame to attend to, backends differ: such a video has one
    # frame, of zeros.
    mask = masking.FrameMask()(model_input, ops.maximum(num_frames, 1))
    frames = keras.layers.Dense(latent_size, name="projection")(model_input)
    frames = keras.layers.LayerNormalization(name="projection_norm")(frames)
    latents = LearnedQueries(latent_queries, latent_size, name="queries")(
      model_input
    )

    def add(latents, change):
      change = dropout.Dropout(dropout_rate)(change)
      return keras.layers.Add()([latents, change])

    def attention(name):
      return keras.layers.MultiHeadAttention(
        latent_heads,
        latent_size // latent_heads,
        # The biases of the keys would have no effect.
        use_bias=False,
        name=name,
      )

    for block in range(latent_blocks):
      name = f"block_{block}"
      normal = keras.layers.LayerNormalization(name=f"{name}_norm_0")(latents)
      attended = attention(f"{name}_frames")(
        normal, frames, attention_mask=mask[:, None, :]
      )
      latents = add(latents, attended)
      normal = keras.layers.LayerNormalization(name=f"{name}_norm_1")(latents)
      latents = add(latents, attention(f"{name}_self")(normal, normal))
      inner = keras.layers.LayerNormalization(name=f"{name}_norm_2")(latents)
      inner = keras.layers.Dense(
        4 * latent_size, activation="gelu", name=f"{name}_inner"
      )(inner)
      inner = keras.layers.Dense(latent_size, name=f"{name}_outer")(inner)
      latents = add(latents, inner)
    latents = keras.layers.LayerNormalization(name="norm")(latents)
    pooled = ops.reshape(latents, (-1, latent_queries * latent_size))
    pooled = dropout.Dropout(dropout_rate)(pooled)
    hidden = keras.layers.Dense(2 * latent_size, name="hidden")(pooled)
    hidden = normalization.context_gating(hidden, "hidden_gating")
    return {"predictions": classifiers.classify_logistic(hidden, vocab_size)}
