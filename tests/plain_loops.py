"""Padded videos, and functions for plain loops that layers are compared with.

The videos have NUM_FRAMES valid frames, the last one none. In the padding their
values are a hundred times larger.
"""

import math

import numpy as np

SIZE = 6
LENGTH = 9
NUM_FRAMES = np.array([9, 4, 1, 0], np.int32)

CLUSTERS = 3


def masked_values(features, length=LENGTH, garbage=100.0, seed=6):
  """(4, length, features) float64; the valid ones depend on the seed only."""
  random = np.random.default_rng(9)
  values = garbage * random.normal(size=(len(NUM_FRAMES), length, features))
  random = np.random.default_rng(seed)
  for video, valid in enumerate(NUM_FRAMES):
    values[video, :valid] = random.normal(size=(valid, features))
  return values


def mask_of(length=LENGTH):
  """(4, length), True for the valid frames."""
  return np.arange(length)[None, :] < NUM_FRAMES[:, None]


def random_assignment():
  """(4, LENGTH, CLUSTERS) with a sum of 1 for each valid frame."""
  assignment = np.exp(masked_values(CLUSTERS, garbage=1.0, seed=7))
  assignment /= assignment.sum(axis=2, keepdims=True)
  return assignment * mask_of()[:, :, None]


def randomize(layer):
  """Sets all weights of a layer at random, so that no term is zero."""
  random = np.random.default_rng(10)
  for variable in layer.variables:
    if variable.dtype.startswith("float"):
      value = random.normal(size=variable.shape)
      if "variance" in variable.path:
        value = np.abs(value) + 0.5
      variable.assign(value)


def unit(vector):
  """A vector divided by its length; zeros stay zeros."""
  vector = np.asarray(vector)
  return vector / math.sqrt(max(sum(vector.flatten() ** 2), 1e-12))


def softmax(scores):
  powers = np.exp(np.asarray(scores) - np.max(scores))
  return powers / powers.sum()


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))
