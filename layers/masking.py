"""Layers that distinguish valid frames from padding.

Shapes in comments: B videos, T frames, D features.
"""

import keras
from keras import ops


def frame_mask(frames, num_frames):
  """Marks the valid frames.

  Args:
    frames: (B, T, ...) any dtype.
    num_frames: (B,) int.

  Returns:
    (B, T) bool.
  """
  index = ops.arange(ops.shape(frames)[1], dtype="int32")
  return index[None, :] < ops.cast(num_frames, "int32")[:, None]


def mean_weights(mask):
  """Each valid frame's weight in a mean, else 0: (B, T) bool -> float32."""
  mask = ops.cast(mask, "float32")
  return mask / ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)


@keras.saving.register_keras_serializable("layers")
class FrameMask(keras.layers.Layer):
  """frame_mask as a layer, for symbolic tensors.

  Input shape: frames (B, T, D), num_frames (B,).
  Output shape: (B, T) bool.
  """

  def call(self, frames, num_frames):
    return frame_mask(frames, num_frames)

  def compute_output_spec(self, frames, num_frames):
    return keras.KerasTensor(frames.shape[:2], "bool")


class MaskedLayer(keras.layers.Layer):
  """A layer that takes a mask as an input and accepts Keras's own too."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.supports_masking = True

  def compute_mask(self, inputs, previous_mask=None):
    """Drops Keras's mask: the frames are pooled, or the padding is zero."""
    return None


@keras.saving.register_keras_serializable("layers")
class MaskedMax(MaskedLayer):
  """The largest value of each feature over the valid frames.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, D). A video without valid frames gives zeros.
  """

  def call(self, frames, mask):
    mask = mask[:, :, None]
    lowest = ops.cast(-3e4, frames.dtype)  # finite in every half precision
    largest = ops.max(ops.where(mask, frames, lowest), axis=1)
    return ops.where(ops.any(mask, axis=1), largest, 0)


@keras.saving.register_keras_serializable("layers")
class MaskedMean(MaskedLayer):
  """The mean of each feature over the valid frames.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, D). A video without valid frames gives zeros.
  """

  def call(self, frames, mask):
    weights = ops.cast(mean_weights(mask), frames.dtype)
    return ops.einsum("bt,btd->bd", weights, frames)


@keras.saving.register_keras_serializable("layers")
class ZeroPadding(MaskedLayer):
  """Sets the frames past the valid ones to zero.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, T, D).
  """

  def call(self, frames, mask):
    return ops.where(mask[:, :, None], frames, 0)
