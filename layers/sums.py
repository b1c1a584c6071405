"""Sums and lengths that are fast with XLA on CPUs."""

import math

import keras
from keras import ops

_SMALLEST_SQUARED_NORM = 1e-12

_LONGEST_PIECE = 32
_LANES = 128  # of float32: eight registers of AVX-512


def widen(values):
  """Casts half precision to float32, in which many numbers can be added."""
  return ops.cast(values, keras.backend.result_type(values.dtype, "float32"))


def l2_normalize(vectors):
  """Divides each vector by its length; a zero vector stays zero.

  Args:
    vectors: (..., features) float.

  Returns:
    Same shape and dtype: x / sqrt(max(sum(x^2), 1e-12)).
  """
  scale = inverse_lengths(widen(vectors))[..., None]
  return vectors * ops.cast(scale, vectors.dtype)


def inverse_lengths(vectors):
  """The factors that normalize vectors: (..., features) -> (...)."""
  squared = squared_lengths(vectors)
  return ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))


def squared_lengths(vectors):
  """The sum of squares of each vector.

  On CPUs, XLA adds the numbers of a row one after the other, at a twentieth of
  the processor's speed. It can add up several runs at the same time. So the
  numbers are first added up in as many lanes as fit, and a matrix product adds
  up the lanes, because XLA would merge a second sum with the first.

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


def _column_sums(values):
  """The sums over all but the last dimension: (..., columns) -> (columns,)."""
  rows, columns = values.shape[-2:]
  piece = 1
  if rows is not None:
    piece = max(
      size for size in range(1, _LONGEST_PIECE + 1) if not rows % size
    )
  pieces = ops.sum(ops.reshape(values, (-1, piece, columns)), axis=1)
  # Two equal rows: a product with one alone would be merged with the sum.
  ones = ops.ones((2, ops.shape(pieces)[0]), values.dtype)
  return ops.matmul(ones, pieces)[0]


def moments(values):
  """The mean and the variance of each column; ops.moments is slow, see total.

  Args:
    values: (..., columns) float, at least two dimensions.

  Returns:
    Two (columns,) float: the mean, and the mean of (x - mean)^2.
  """
  count = ops.cast(ops.size(values[..., 0]), values.dtype)
  mean = _column_sums(values) / count
  variance = _column_sums(ops.square(values - ops.stop_gradient(mean))) / count
  return mean, variance


def total(values):
  """The sum of all numbers; ops.sum is slow, see squared_lengths.

  On CPUs, XLA cuts a long sum into pieces and first writes their numbers to
  memory. The pieces here are short enough that it does not cut them.

  Args:
    values: float, at least one dimension.

  Returns:
    A scalar.
  """
  columns = values.shape[-1]
  if len(values.shape) > 1:
    piece = 1
    if None not in values.shape[:-1]:
      piece = math.gcd(math.prod(values.shape[:-1]), _LONGEST_PIECE)
    pieces = ops.sum(ops.reshape(values, (-1, piece, columns)), axis=1)
    values = ops.sum(pieces, axis=0) if piece == 1 else pieces
  sums = ops.matmul(values, ops.ones((columns,), values.dtype))
  return ops.sum(sums)
