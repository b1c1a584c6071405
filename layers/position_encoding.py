"""A layer that adds the position in the video to each frame."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("layers")
class PositionEncoding(keras.layers.Layer):
  """Adds sines and cosines of the frame's index to each frame.

  Source: Vaswani et al. 2017, section 3.5.

  Input shape: (B, T, D), D even.
  Output shape: the same.
  """

  def call(self, frames):
    features = frames.shape[2]
    index = ops.arange(ops.shape(frames)[1], dtype="float32")[:, None]
    pair = ops.arange(features // 2, dtype="float32")[None, :]
    angle = index * ops.exp(pair * (-2.0 * math.log(1e4) / features))
    encoding = ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=1)
    return frames + ops.cast(encoding, frames.dtype)[None]

  def compute_output_spec(self, frames):
    return keras.KerasTensor(frames.shape, self.compute_dtype)
