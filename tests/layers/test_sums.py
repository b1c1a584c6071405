"""Tests of layers.sums."""

import keras
import numpy as np
import pytest
from keras import ops

from layers import sums


def test_l2_normalize():
  vectors = np.array(
    # Lengths 5, 3, 0, and one below 1e-6, where the divisor stays 1e-6.
    [[3.0, -4.0, 0.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3e-7, 0.0, 0.0]],
    np.float32,
  )
  np.testing.assert_allclose(
    sums.l2_normalize(vectors),
    [[0.6, -0.8, 0.0], [1 / 3, 2 / 3, 2 / 3], [0.0, 0.0, 0.0], [0.3, 0.0, 0.0]],
    rtol=1e-6,
  )


def test_l2_normalize_takes_the_last_axis():
  vectors = np.array([[[3.0, 4.0], [0.0, 2.0]]], np.float32)
  np.testing.assert_allclose(
    sums.l2_normalize(vectors), [[[0.6, 0.8], [0.0, 1.0]]], rtol=1e-6
  )


# One lane, several, all 128 of them and several times 128, of 1, 2 and 9 rows.
@pytest.mark.parametrize("features", [1, 6, 7, 96, 128, 1152])
def test_squared_lengths(features):
  vectors = np.random.default_rng(3).normal(size=(2, 5, features))
  lengths = sums.squared_lengths(keras.ops.convert_to_tensor(vectors))
  expected = np.zeros((2, 5))
  for video in range(2):
    for frame in range(5):
      for value in vectors[video, frame]:
        expected[video, frame] += value * value
  np.testing.assert_allclose(lengths, expected, rtol=1e-12)


def test_squared_lengths_of_symbolic_vectors():
  vectors = keras.Input((3, 6))
  lengths = sums.squared_lengths(vectors)
  assert lengths.shape == (None, 3)
  values = np.arange(36, dtype="float32").reshape(2, 3, 6)
  np.testing.assert_allclose(
    keras.Model(vectors, lengths)(values), (values**2).sum(axis=-1)
  )


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_total(shape):
  values = np.random.default_rng(3).normal(size=shape)
  expected = sum(values.flatten().tolist())
  result = sums.total(keras.ops.convert_to_tensor(values))
  assert result.shape == ()
  assert float(result) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 3), (64, 5), (2, 30, 4), (3, 300, 2)])
def test_moments(shape):
  values = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)
  mean, variance = sums.moments(ops.convert_to_tensor(values))
  rows = values.reshape(-1, shape[-1]).astype(np.float64)
  np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(variance, rows.var(axis=0), rtol=1e-5)
