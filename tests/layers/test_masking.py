"""Tests of layers.masking."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_loops import (
  CLUSTERS,
  LENGTH,
  NUM_FRAMES,
  SIZE,
  mask_of,
  masked_values,
  randomize,
)

from layers import masking, normalization, pooling


def test_frame_mask():
  frames = np.zeros((4, 3, 2), "uint8")
  num_frames = np.array([0, 2, 3, 7], np.int32)
  expected = [
    [False, False, False],
    [True, True, False],
    [True, True, True],
    [True, True, True],
  ]
  mask = masking.frame_mask(frames, num_frames)
  assert mask.numpy().tolist() == expected
  assert mask.dtype == "bool"
  mask = masking.FrameMask()(frames, num_frames)
  assert mask.numpy().tolist() == expected


def test_masked_max():
  # Feature 0 is negative in all valid frames, and larger in the padding.
  frames = np.array(
    [
      [[-3.0, 1.0], [-1.0, 0.5], [0.0, 9.0]],
      [[-3.0, 1.0], [-1.0, 0.5], [0.0, 9.0]],
      [[-3.0, 1.0], [-1.0, 0.5], [0.0, 9.0]],
    ],
    np.float32,
  )
  mask = np.array(
    [[True, True, False], [True, False, True], [False, False, False]]
  )
  largest = masking.MaskedMax()(frames, mask)
  np.testing.assert_array_equal(largest, [[-1.0, 1.0], [0.0, 9.0], [0.0, 0.0]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masked_max_in_half_precision(dtype):
  frames = keras.ops.cast([[[-3.0], [-1.0]], [[-3.0], [-1.0]]], dtype)
  mask = np.array([[True, False], [False, False]])
  largest = masking.MaskedMax(dtype=dtype)(frames, mask)
  assert largest.dtype == dtype
  np.testing.assert_array_equal(
    keras.ops.cast(largest, "float32"), [[-3.0], [0.0]]
  )


def test_masked_mean_and_max_against_plain_loops():
  frames = masked_values(SIZE)
  mean = np.zeros((len(NUM_FRAMES), SIZE))
  largest = np.zeros((len(NUM_FRAMES), SIZE))
  for video, valid in enumerate(NUM_FRAMES):
    for feature in range(SIZE if valid else 0):
      values = [frames[video, frame, feature] for frame in range(valid)]
      mean[video, feature] = sum(values) / valid
      largest[video, feature] = max(values)
  layer = masking.MaskedMean(dtype="float64")
  np.testing.assert_allclose(layer(frames, mask_of()), mean, atol=1e-5)
  layer = masking.MaskedMax(dtype="float64")
  np.testing.assert_allclose(layer(frames, mask_of()), largest, atol=1e-5)


def test_zero_padding():
  frames = masked_values(SIZE)
  expected = frames.copy()
  for video, valid in enumerate(NUM_FRAMES):
    expected[video, valid:] = 0.0
  padded = masking.ZeroPadding(dtype="float64")(frames, mask_of())
  np.testing.assert_array_equal(padded, expected)


def test_zero_padding_ends_the_mask():
  # Otherwise a later layer would skip the zeros that it must use.
  frames = keras.Input((None, 1))
  valid = keras.Input((None,), dtype="bool")
  states = keras.layers.Masking()(frames)
  states = masking.ZeroPadding()(states, valid)
  mean = keras.layers.GlobalAveragePooling1D()(states)
  model = keras.Model([frames, valid], mean)
  inputs = [np.array([[[6.0], [0.0], [9.0]]]), np.array([[True, True, False]])]
  # 6, 0 and 0; the mask of the first layer has the first and the last frame.
  np.testing.assert_allclose(model(inputs), [[2.0]])


@pytest.mark.filterwarnings("error:Layer .* does not support masking")
@pytest.mark.parametrize(
  "pool",
  [
    lambda frames, mask: masking.MaskedMax()(frames, mask),
    lambda frames, mask: masking.MaskedMean()(frames, mask),
    lambda frames, mask: pooling.AttentionPooling()(frames, frames, mask),
  ],
)
def test_pooling_ends_the_mask(pool):
  # The mask has a value for each frame; the output has no frames.
  frames = keras.Input((None, SIZE))
  mask = keras.Input((None,), dtype="bool")
  normalized = normalization.batch_normalization()(frames, mask=mask)
  assert keras.layers.Flatten()(pool(normalized, mask)).shape[0] is None


class NextVladOfFrames:
  """NextVlad whose attention and scores come from the frames, too."""

  def __init__(self):
    self.layer = pooling.NextVlad(CLUSTERS, dtype="float64")
    self.layer.build((None, None, SIZE), (None, None, 2), None)
    random = np.random.default_rng(11)
    self._attention = random.normal(size=(SIZE, 2))
    self._scores = random.normal(size=(SIZE, 2 * CLUSTERS))

  def __call__(self, frames, mask):
    return self.layer(
      frames,
      keras.ops.sigmoid(frames @ self._attention),
      frames @ self._scores,
      mask,
    )


class AttentionPoolingOfFrames:
  """AttentionPooling whose scores come from the frames by a dense layer."""

  def __init__(self):
    self.layer = keras.layers.Dense(CLUSTERS, use_bias=False, dtype="float64")
    self.layer.build((None, None, SIZE))
    self._pooling = pooling.AttentionPooling(dtype="float64")

  def __call__(self, frames, mask):
    return self._pooling(frames, self.layer(frames), mask)


class NormalizedFrames:
  """Batch normalization in training; the padding's outputs are not used."""

  def __init__(self):
    self.layer = normalization.batch_normalization(dtype="float64")
    self.layer.build((None, None, SIZE))

  def __call__(self, frames, mask):
    outputs = self.layer(frames, mask=mask, training=True)
    return keras.ops.concatenate(
      [outputs[video, :valid] for video, valid in enumerate(NUM_FRAMES)]
    )


class MaskedPooling:
  """MaskedMean or MaskedMax."""

  def __init__(self, layer_class):
    self.layer = layer_class(dtype="float64")

  def __call__(self, frames, mask):
    return self.layer(frames, mask)


@pytest.mark.parametrize(
  ("make", "num_weights"),
  [
    (NextVladOfFrames, 1),
    (AttentionPoolingOfFrames, 1),
    (NormalizedFrames, 2),
    (lambda: MaskedPooling(masking.MaskedMean), 0),
    (lambda: MaskedPooling(masking.MaskedMax), 0),
  ],
  ids=["NextVlad", "AttentionPooling", "BatchNorm", "MaskedMean", "MaskedMax"],
)
def test_gradients_do_not_see_the_padding(make, num_weights):
  function = make()
  randomize(function.layer)
  weights = [weight.value for weight in function.layer.trainable_variables]
  assert len(weights) == num_weights

  def gradients(frames):
    """Those of a weighted sum of the outputs, weights first."""
    frames = tf.constant(frames)
    with tf.GradientTape() as tape:
      tape.watch(frames)
      outputs = function(frames, mask_of(frames.shape[1]))
      direction = np.random.default_rng(12).normal(size=outputs.shape)
      loss = tf.reduce_sum(outputs * direction)
    found = tape.gradient(loss, [*weights, frames])
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]

  *of_weights, of_frames = gradients(masked_values(SIZE))
  for gradient in of_weights:
    assert abs(gradient).min() > 1e-6
  for length, garbage in ((LENGTH, 3.0), (LENGTH, 0.0), (LENGTH + 5, 100.0)):
    *other_weights, other_frames = gradients(
      masked_values(SIZE, length, garbage)
    )
    for gradient, other in zip(of_weights, other_weights, strict=True):
      np.testing.assert_allclose(other, gradient, atol=1e-6)
    for video, valid in enumerate(NUM_FRAMES):
      np.testing.assert_array_equal(other_frames[video, valid:], 0.0)
      np.testing.assert_allclose(
        other_frames[video, :valid], of_frames[video, :valid], atol=1e-6
      )
      if valid:
        assert abs(of_frames[video, :valid]).max() > 1e-4
