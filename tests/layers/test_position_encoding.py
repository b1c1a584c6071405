"""Tests of layers.position_encoding."""

import math

import numpy as np
from plain_loops import SIZE, masked_values

from layers import position_encoding


def test_position_encoding_against_a_plain_loop():
  frames = masked_values(SIZE, length=50)
  expected = frames.copy()
  for index in range(50):
    for pair in range(SIZE // 2):
      angle = index / 10000 ** (2 * pair / SIZE)
      expected[:, index, pair] += math.sin(angle)
      expected[:, index, SIZE // 2 + pair] += math.cos(angle)
  layer = position_encoding.PositionEncoding(dtype="float64")
  np.testing.assert_allclose(layer(frames), expected, atol=1e-5)
