"""Layers between a batch and a model: bytes to floats, normalization.

Shapes in comments: B videos, T frames, D features.
"""

import math

import keras
from keras import ops

import quantization
from layers import masking, sums


class _OfBytes(keras.layers.Layer):
  """A layer on frames that may be bytes.

  Args:
    scale: of the bytes, a float or a (D,) array, see
      quantization.scales_and_biases; YouTube-8M's by default.
    bias: likewise.
    **kwargs: of keras.layers.Layer.
  """

  def __init__(
    self,
    scale=quantization.DEQUANTIZE_SCALE,
    bias=quantization.DEQUANTIZE_BIAS,
    **kwargs,
  ):
    super().__init__(autocast=False, **kwargs)
    self._scale_and_bias = scale, bias

  def get_config(self):
    """The arguments, arrays as lists of numbers."""

    def listed(number):
      if isinstance(number, float):
        return number
      return [float(one) for one in number]

    scale, bias = map(listed, self._scale_and_bias)
    return {**super().get_config(), "scale": scale, "bias": bias}

  def _dequantize(self, values, weights=1.0):
    """See quantization.dequantize.

    Args:
      values: (..., D) float: bytes, or weighted sums of bytes.
      weights: the sums of their weights.
    """
    scale, bias = (
      number
      if isinstance(number, float)
      else ops.convert_to_tensor(number, values.dtype)
      for number in self._scale_and_bias
    )
    return quantization.dequantize(values, scale, bias * weights)

  def _to_float(self, frames):
    """Turns bytes into the floats they stand for; leaves floats as they are."""
    values = ops.cast(frames, "float32")
    if keras.backend.standardize_dtype(frames.dtype) == "uint8":
      return self._dequantize(values)
    return values


@keras.saving.register_keras_serializable("layers")
class L2Normalize(keras.layers.Layer):
  """l2_normalize as a layer.

  Input shape: (..., features) float. Output shape: the same.
  """

  def call(self, vectors):
    return sums.l2_normalize(vectors)


@keras.saving.register_keras_serializable("layers")
class NormalizeFrames(_OfBytes):
  """Dequantizes, zeroes the padding and L2-normalizes each frame.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, T, D) float.
  """

  def call(self, video_matrix, num_frames):
    mask = ops.cast(masking.frame_mask(video_matrix, num_frames), "float32")
    frames = self._to_float(video_matrix)
    scale = mask * sums.inverse_lengths(frames)
    return ops.cast(frames * scale[:, :, None], self.compute_dtype)

  def compute_output_spec(self, video_matrix, num_frames):
    return keras.KerasTensor(video_matrix.shape, self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class ScaleFeatures(_OfBytes):
  """Multiplies each number and adds to it; zeroes the padding.

  Scale and bias are those of the numbers as they come in, bytes or floats.

  Input shape: (B, D) float; or (B, T, D) uint8 or float, and num_frames (B,)
  int. Output shape: that of the vectors, float.
  """

  def call(self, vectors, num_frames=None):
    scaled = self._dequantize(ops.cast(vectors, "float32"))
    if num_frames is not None:
      mask = masking.frame_mask(vectors, num_frames)
      scaled = ops.where(mask[:, :, None], scaled, 0.0)
    return ops.cast(scaled, self.compute_dtype)

  def compute_output_spec(self, vectors, num_frames=None):
    return keras.KerasTensor(vectors.shape, self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class MeanFrame(_OfBytes):
  """The mean of a video's valid frames, each number multiplied and added to.

  Scale and bias are those of the numbers as they come in, bytes or floats.

  Equal to the mean over ScaleFeatures, but computed for a few videos at a time,
  so that the float frames stay in the CPU's cache: those of a batch of 128
  would take 177 MB, written and read again. Four videos are enough work for
  several cores to share.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, D) float. A video without frames gives zeros.
  """

  _VIDEOS_AT_A_TIME = 4
  _FRAMES_AT_A_TIME = 10

  def _weights(self, frames, weights):
    """What to multiply each frame by: (B, T, D), (B, T) -> (B, T)."""
    return weights

  def _scale_mean(self, mean, weight, dtype):
    """Dequantization is linear, so it can wait until the frames are summed.

    Args:
      mean: (B, D), the weighted sum of the frames.
      weight: (B, 1), the sum of their weights.
      dtype: of the frames.
    """
    return self._dequantize(mean, weight)

  def call(self, video_matrix, num_frames):
    batch, length, features = ops.shape(video_matrix)
    group, run = self._VIDEOS_AT_A_TIME, self._FRAMES_AT_A_TIME
    # Numbers that are known need no padding, which LiteRT has not for bytes.
    if isinstance(batch, int) and isinstance(length, int):
      group, run = math.gcd(batch, group), math.gcd(length, run)
    weights = masking.mean_weights(masking.frame_mask(video_matrix, num_frames))
    dtype = keras.backend.standardize_dtype(video_matrix.dtype)

    def means_of_group(videos):
      frames, weights = videos  # (group, T, D), (group, T)
      scale = self._weights(frames, weights)
      frames = ops.cast(frames, "float32")
      # Each addition waits for the previous one, so there are several short
      # sums, and a matrix product to add these up. With only a product, XLA
      # would write the float frames to memory first.
      parts = ops.sum(
        ops.reshape(frames * scale[:, :, None], (group, -1, run, features)),
        axis=2,
      )
      means = ops.einsum("gpd,gp->gd", parts, ops.ones_like(parts[:, :, 0]))
      return self._scale_mean(means, ops.sum(scale, axis=1)[:, None], dtype)

    # The remainder of a negative number is another in ONNX.
    more_videos = (batch + group - 1) // group * group - batch
    more_frames = (length + run - 1) // run * run - length
    if not (isinstance(batch, int) and isinstance(length, int)):
      video_matrix = ops.pad(
        video_matrix, [[0, more_videos], [0, more_frames], [0, 0]]
      )
      weights = ops.pad(weights, [[0, more_videos], [0, more_frames]])
    length = length + more_frames
    means = ops.map(
      means_of_group,
      (
        ops.reshape(video_matrix, (-1, group, length, features)),
        ops.reshape(weights, (-1, group, length)),
      ),
    )
    means = ops.reshape(means, (-1, features))[:batch]
    return ops.cast(means, self.compute_dtype)

  def compute_output_spec(self, video_matrix, num_frames):
    shape = (video_matrix.shape[0], video_matrix.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class MeanNormalizedFrame(MeanFrame):
  """The mean of a video's valid, dequantized and L2-normalized frames.

  Equal to the mean over NormalizeFrames. Scale and bias are those of bytes;
  floats are taken as they are.

  Input and output shapes: as of MeanFrame.
  """

  def _weights(self, frames, weights):
    return weights * sums.inverse_lengths(self._to_float(frames))

  def _scale_mean(self, mean, weight, dtype):
    return self._dequantize(mean, weight) if dtype == "uint8" else mean


def split_features(frames, feature_sizes):
  """Splits frames into the features that they concatenate.

  Args:
    frames: (..., sum of sizes).
    feature_sizes: the size of each.

  Returns:
    A list of (..., size).
  """
  ends = [sum(feature_sizes[: i + 1]) for i in range(len(feature_sizes))]
  return [
    frames[..., end - size : end]
    for end, size in zip(ends, feature_sizes, strict=True)
  ]
