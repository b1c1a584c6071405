"""Layers and functions that several models share.

Shapes in comments: B videos, T frames, D features, K frames kept.
"""

import math

import keras
from keras import ops

# The bytes of the dataset stand for q * 4/255 + 4/512 - 2; see readers.py.
_SCALE = 4.0 / 255.0
_BIAS = 4.0 / 512.0 - 2.0

_SMALLEST_SQUARED_NORM = 1e-12

_LANES = 128  # of float32: eight registers of AVX-512


def l2_normalize(vectors):
  """Divides each vector by its length; a zero vector stays zero.

  Args:
    vectors: (..., features) float.

  Returns:
    Same shape: x / sqrt(max(sum(x^2), 1e-12)).
  """
  squared = squared_lengths(vectors)[..., None]
  return vectors * ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))


def squared_lengths(vectors):
  """The sum of squares of each vector.

  XLA adds the numbers of a row one after the other on CPUs, at a twentieth of
  what the processor can do, but runs of them side by side: so they are added
  up in as many lanes as fit first. A product ends it, since XLA would join two
  sums into one.

  Args:
    vectors: (..., features) float, the number of features known; of a symbolic
      tensor at most one other dimension may be unknown.

  Returns:
    (...) float.
  """
  features = vectors.shape[-1]
  lanes = math.gcd(features, _LANES)
  outer = [-1 if size is None else size for size in ops.shape(vectors)[:-1]]
  shape = (*outer, features // lanes, lanes)
  sums = ops.sum(ops.reshape(ops.square(vectors), shape), axis=-2)
  return ops.matmul(sums, ops.ones((lanes,), sums.dtype))


def total(values):
  """The sum of all numbers; see squared_lengths for why not by ops.sum alone.

  Args:
    values: float, at least one dimension.

  Returns:
    A scalar.
  """
  while len(values.shape) > 1:
    values = ops.sum(values, axis=0)
  return ops.matmul(values, ops.ones_like(values))


@keras.saving.register_keras_serializable("model_utils")
class L2(keras.regularizers.Regularizer):
  """As slim.l2_regularizer: half the sum of squares, times the penalty.

  Args:
    penalty: its weight in the loss.
  """

  def __init__(self, penalty):
    self.penalty = penalty

  def __call__(self, weights):
    """Gives the scalar."""
    return 0.5 * self.penalty * total(ops.square(weights))

  def get_config(self):
    """See keras.regularizers.Regularizer."""
    return {"penalty": self.penalty}


def probabilities(logits):
  """The sigmoid of symbolic logits, in float32 whatever the layers compute in.

  Half precision leaves 1 - p with two digits where p is near 1.

  Args:
    logits: any shape, float.

  Returns:
    Same shape, float32.
  """
  return keras.layers.Activation("sigmoid", dtype="float32")(logits)


def prior_bias(vocab_size):
  """Starts a classifier's bias where its sigmoid is about a label's frequency.

  A video has about 3 labels. With a bias of 0 the loss begins with every class
  at 0.5, and all that early steps do is to bring thousands of classes down.
  Source: Lin et al. 2017, Focal Loss, section 4.1.

  Args:
    vocab_size: number of classes.

  Returns:
    A Keras initializer.
  """
  prior = min(3.0 / vocab_size, 0.5)
  return keras.initializers.Constant(math.log(prior / (1.0 - prior)))


def frame_mask(frames, num_frames):
  """Tells which frames are valid.

  Args:
    frames: (B, T, ...) any dtype.
    num_frames: (B,) int.

  Returns:
    (B, T) bool.
  """
  index = ops.arange(ops.shape(frames)[1], dtype="int32")
  return index[None, :] < ops.cast(num_frames, "int32")[:, None]


def _to_float(frames, dtype):
  """Bytes become the floats they stand for; floats stay what they are."""
  if keras.backend.standardize_dtype(frames.dtype) == "uint8":
    return ops.cast(frames, dtype) * _SCALE + _BIAS
  return ops.cast(frames, dtype)


class FrameMask(keras.layers.Layer):
  """frame_mask as a layer, for symbolic tensors.

  Input shape: frames (B, T, D), num_frames (B,).
  Output shape: (B, T) bool.
  """

  def call(self, frames, num_frames):
    """See the class."""
    return frame_mask(frames, num_frames)

  def compute_output_spec(self, frames, num_frames):
    """See the class."""
    return keras.KerasTensor(frames.shape[:2], "bool")


class NormalizeFrames(keras.layers.Layer):
  """Dequantises, zeroes the padding and L2-normalises each frame.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, T, D) float.
  """

  def __init__(self, **kwargs):
    super().__init__(autocast=False, **kwargs)

  def call(self, video_matrix, num_frames):
    """See the class."""
    mask = ops.cast(frame_mask(video_matrix, num_frames), "float32")
    frames = _to_float(video_matrix, "float32")
    squared = squared_lengths(frames)
    scale = mask * ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))
    return ops.cast(frames * scale[:, :, None], self.compute_dtype)

  def compute_output_spec(self, video_matrix, num_frames):
    """See the class."""
    return keras.KerasTensor(video_matrix.shape, self.compute_dtype)


class MeanNormalizedFrame(keras.layers.Layer):
  """The mean of a video's valid, dequantised and L2-normalised frames.

  Equal to the mean over NormalizeFrames, but worked out for a few videos at a
  time, so that what lies between the bytes and the mean stays in the CPU's
  cache: the float frames of a batch of 128 would be 177 MB, written and read
  again. Four videos are enough work for several cores to share.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, D) float. A video without frames gives zeros.
  """

  _VIDEOS_AT_A_TIME = 4

  def __init__(self, **kwargs):
    super().__init__(autocast=False, **kwargs)

  def call(self, video_matrix, num_frames):
    """See the class."""
    batch, length, features = ops.shape(video_matrix)
    group = self._VIDEOS_AT_A_TIME
    mask = ops.cast(frame_mask(video_matrix, num_frames), "float32")
    valid = ops.maximum(ops.cast(num_frames, "float32"), 1.0)
    weights = mask / valid[:, None]

    def means_of_group(videos):
      frames, weights = videos  # (group, T, D), (group, T)
      frames = _to_float(frames, "float32")
      squared = squared_lengths(frames)
      scale = weights * ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))
      # A matrix product would have the float frames written to memory first.
      return ops.sum(frames * scale[:, :, None], axis=1)

    missing = -batch % group
    video_matrix = ops.pad(video_matrix, [[0, missing], [0, 0], [0, 0]])
    weights = ops.pad(weights, [[0, missing], [0, 0]])
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
    """See the class."""
    shape = (video_matrix.shape[0], video_matrix.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


class SampleFrames(keras.layers.Layer):
  """Picks as many frames of each video, all of them valid ones.

  In training at random, otherwise evenly spaced: predictions change neither
  from run to run nor with the batch.

  Args:
    num_samples: K, frames to pick.
    random_frames: in training, True picks K frames independently of each
      other, with repetition; False a run of K following frames (of a shorter
      video, all frames, the last one repeated).

  Input shape: frames (B, T, D), num_frames (B,) int.
  Output shape: (B, K, D).
  """

  def __init__(self, num_samples, random_frames=True, **kwargs):
    super().__init__(**kwargs)
    self.num_samples = num_samples
    self.random_frames = random_frames
    self.seed_generator = keras.random.SeedGenerator()

  def call(self, frames, num_frames, training=None):
    """See the class."""
    batch, length, features = ops.shape(frames)
    valid = ops.cast(num_frames, "float32")[:, None]
    steps = ops.arange(self.num_samples, dtype="float32")[None, :]
    if not training:
      index = (steps + 0.5) * valid / self.num_samples
    elif self.random_frames:
      index = valid * keras.random.uniform(
        (batch, self.num_samples), seed=self.seed_generator
      )
    else:
      room = ops.maximum(valid - self.num_samples + 1.0, 1.0)
      first = ops.floor(
        room * keras.random.uniform((batch, 1), seed=self.seed_generator)
      )
      index = first + steps
    index = ops.minimum(index, valid - 1.0)
    # A product just below a whole number may round up to it.
    index = ops.cast(ops.maximum(index, 0.0), "int32")  # (B, K)
    start = ops.arange(batch, dtype="int32")[:, None] * length
    picked = ops.take(
      ops.reshape(frames, (-1, features)),
      ops.reshape(start + index, (-1,)),
      axis=0,
    )
    return ops.reshape(picked, (batch, self.num_samples, features))

  def compute_output_spec(self, frames, num_frames, training=None):
    """See the class."""
    return keras.KerasTensor(
      (frames.shape[0], self.num_samples, frames.shape[2]), frames.dtype
    )


class MaskedMax(keras.layers.Layer):
  """The largest value of each feature over the valid frames.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, D). A video without valid frames gives zeros.
  """

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.supports_masking = True

  def call(self, frames, mask):
    """See the class."""
    mask = mask[:, :, None]
    lowest = ops.cast(-3e4, frames.dtype)  # finite in every half precision
    largest = ops.max(ops.where(mask, frames, lowest), axis=1)
    return ops.where(ops.any(mask, axis=1), largest, 0)


def batch_normalization(**kwargs) -> keras.layers.BatchNormalization:
  """Batch normalisation with the starter code's settings.

  Args:
    **kwargs: passed on to the layer.
  """
  return keras.layers.BatchNormalization(
    momentum=0.999, epsilon=0.001, **kwargs
  )
