"""Tests of model_utils."""

import startup  # isort: skip # noqa: F401
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model_utils

SIZE = 6
LENGTH = 9
NUM_FRAMES = np.array([9, 4, 1, 0], np.int32)


def random_frames(dtype):
  """(4, LENGTH, SIZE) frames with values in the padding as well."""
  random = np.random.default_rng(1)
  frames = random.integers(256, size=(len(NUM_FRAMES), LENGTH, SIZE))
  if dtype == "uint8":
    return frames.astype("uint8")
  return ((frames - 128) / 32).astype(dtype)


def normalized_frame(frame):
  """What NormalizeFrames makes of one valid frame, in float64."""
  if frame.dtype == np.uint8:
    frame = frame * (4 / 255) + 4 / 512 - 2
  frame = np.asarray(frame, np.float64)
  return frame / np.sqrt((frame**2).sum())


def normalized_frames(frames, num_frames):
  """What NormalizeFrames should give, by a plain loop."""
  result = np.zeros(frames.shape)
  for video, valid in enumerate(num_frames):
    for index in range(valid):
      result[video, index] = normalized_frame(frames[video, index])
  return result


def counting_frames(num_videos, length):
  """(num_videos, length, 1): frame t of video v holds 100 v + t."""
  videos = 100.0 * np.arange(num_videos)[:, None, None]
  return (videos + np.arange(length)[None, :, None]).astype("float32")


# --------------------------------------------------------------------------
# Normalisation


def test_l2_normalize():
  vectors = np.array(
    # Lengths 5, 3, 0, and below 1e-6, from where on the divisor stays 1e-6.
    [[3.0, -4.0, 0.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3e-7, 0.0, 0.0]],
    np.float32,
  )
  np.testing.assert_allclose(
    model_utils.l2_normalize(vectors),
    [[0.6, -0.8, 0.0], [1 / 3, 2 / 3, 2 / 3], [0.0, 0.0, 0.0], [0.3, 0.0, 0.0]],
    rtol=1e-6,
  )


def test_l2_normalize_takes_the_last_axis():
  vectors = np.array([[[3.0, 4.0], [0.0, 2.0]]], np.float32)
  np.testing.assert_allclose(
    model_utils.l2_normalize(vectors), [[[0.6, 0.8], [0.0, 1.0]]], rtol=1e-6
  )


def test_probabilities_are_exact_whatever_the_logits_are():
  logits = keras.ops.cast([[8.0, -8.0, 0.0]], "bfloat16")
  probabilities = model_utils.probabilities(logits)
  assert probabilities.dtype == "float32"
  # 1 / (1 + e^-8) = 1 - 0.00033535; bfloat16 would give 1.
  np.testing.assert_allclose(
    probabilities, [[0.99966465, 0.00033535, 0.5]], atol=1e-7
  )


def test_frame_mask():
  frames = np.zeros((4, 3, 2), "uint8")
  num_frames = np.array([0, 2, 3, 7], np.int32)
  expected = [
    [False, False, False],
    [True, True, False],
    [True, True, True],
    [True, True, True],
  ]
  mask = model_utils.frame_mask(frames, num_frames)
  assert mask.numpy().tolist() == expected
  assert mask.dtype == "bool"
  mask = model_utils.FrameMask()(frames, num_frames)
  assert mask.numpy().tolist() == expected


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalize_frames_against_a_plain_loop(dtype):
  frames = random_frames(dtype)
  normalized = model_utils.NormalizeFrames()(frames, NUM_FRAMES)
  assert normalized.dtype == "float32"
  np.testing.assert_allclose(
    normalized, normalized_frames(frames, NUM_FRAMES), atol=1e-6
  )


def test_normalize_frames_by_hand():
  # 0 -> -1.9921875 and 255 -> 2.0078125; the length of the two is
  # sqrt(3.968811 + 4.031311) = 2.828449.
  frames = np.array([[[0, 255], [9, 9]]], np.uint8)
  normalized = model_utils.NormalizeFrames()(frames, np.array([1]))
  np.testing.assert_allclose(
    normalized, [[[-0.704339, 0.709863], [0.0, 0.0]]], atol=1e-6
  )


def test_bytes_stand_for_the_original_codes_floats(shared_dir):
  golden = np.load(shared_dir / "golden" / "readers" / "expected.npz")
  table = golden["dequantize_table"]
  frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
  normalized = model_utils.NormalizeFrames()(frames, np.array([1]))
  np.testing.assert_allclose(
    normalized[0, 0],
    table / np.sqrt((table.astype("float64") ** 2).sum()),
    atol=1e-7,
  )


def test_a_frame_of_zeros_stays_zero():
  frames = np.zeros((1, 2, 3), np.float32)
  normalized = model_utils.NormalizeFrames()(frames, np.array([2]))
  np.testing.assert_array_equal(normalized, frames)
  mean = model_utils.MeanNormalizedFrame()(frames, np.array([2]))
  np.testing.assert_array_equal(mean, np.zeros((1, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_mean_normalized_frame_is_the_mean_over_normalize_frames(dtype):
  frames = random_frames(dtype)
  mean = model_utils.MeanNormalizedFrame()(frames, NUM_FRAMES)
  assert mean.dtype == "float32"
  sums = normalized_frames(frames, NUM_FRAMES).sum(axis=1)
  # The last video has no frames: zeros.
  expected = sums / np.maximum(NUM_FRAMES, 1)[:, None]
  np.testing.assert_allclose(mean, expected, atol=1e-6)
  normalized = model_utils.NormalizeFrames()(frames, NUM_FRAMES)
  np.testing.assert_allclose(
    mean,
    normalized.numpy().sum(axis=1) / np.maximum(NUM_FRAMES, 1)[:, None],
    atol=1e-6,
  )


def test_mean_normalized_frame_by_hand():
  # (0.6, 0.8) and (1, 0); the third frame is padding.
  frames = np.array([[[3, 4], [2, 0], [5, 5]]], np.float32)
  mean = model_utils.MeanNormalizedFrame()(frames, np.array([2]))
  np.testing.assert_allclose(mean, [[0.8, 0.4]], rtol=1e-6)


@pytest.mark.parametrize(
  "layer", [model_utils.NormalizeFrames, model_utils.MeanNormalizedFrame]
)
def test_half_precision_is_only_in_the_result(layer):
  frames = random_frames("uint8")
  exact = layer()(frames, NUM_FRAMES)
  half = layer(dtype="mixed_bfloat16")(frames, NUM_FRAMES)
  assert half.dtype == "bfloat16"
  np.testing.assert_array_equal(
    keras.ops.cast(half, "float32"),
    keras.ops.cast(keras.ops.cast(exact, "bfloat16"), "float32"),
  )


def test_symbolic_shapes():
  frames = keras.Input((None, SIZE), dtype="uint8")
  num_frames = keras.Input((), dtype="int32")
  normalized = model_utils.NormalizeFrames()(frames, num_frames)
  assert (normalized.shape, normalized.dtype) == ((None, None, SIZE), "float32")
  mean = model_utils.MeanNormalizedFrame()(frames, num_frames)
  assert (mean.shape, mean.dtype) == ((None, SIZE), "float32")
  mask = model_utils.FrameMask()(frames, num_frames)
  assert (mask.shape, mask.dtype) == ((None, None), "bool")
  sample = model_utils.SampleFrames(4)(normalized, num_frames)
  assert (sample.shape, sample.dtype) == ((None, 4, SIZE), "float32")
  largest = model_utils.MaskedMax()(normalized, mask)
  assert (largest.shape, largest.dtype) == ((None, SIZE), "float32")


# --------------------------------------------------------------------------
# SampleFrames


@pytest.mark.parametrize(
  ("num_samples", "valid", "expected"),
  [
    # (k + 1/2) 10 / 4 = 1.25, 3.75, 6.25, 8.75
    (4, 10, [1, 3, 6, 8]),
    # (k + 1/2) 3 / 4 = 0.375, 1.125, 1.875, 2.625
    (4, 3, [0, 1, 1, 2]),
    (4, 4, [0, 1, 2, 3]),
    (4, 1, [0, 0, 0, 0]),
    # 10 / 2: the middle.
    (1, 10, [5]),
    # No valid frames: the first one, which is padding.
    (4, 0, [0, 0, 0, 0]),
  ],
)
@pytest.mark.parametrize("random_frames", [True, False])
def test_inference_takes_evenly_spaced_frames(
  num_samples, valid, expected, random_frames
):
  layer = model_utils.SampleFrames(num_samples, random_frames)
  # Video 1 shows that frames come from the video they belong to.
  sample = layer(
    counting_frames(2, 10), np.array([valid, valid]), training=False
  )
  assert sample.shape == (2, num_samples, 1)
  np.testing.assert_array_equal(sample[0, :, 0], expected)
  np.testing.assert_array_equal(sample[1, :, 0], 100 + np.array(expected))


@pytest.mark.parametrize("num_frames", [7, 30, 299, 300])
def test_as_many_samples_as_frames_are_all_frames(num_frames):
  layer = model_utils.SampleFrames(num_frames)
  frames = np.arange(num_frames, dtype="float32").reshape(1, -1, 1)
  np.testing.assert_array_equal(layer(frames, np.array([num_frames])), frames)


@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.integers(1, 300), min_size=1, max_size=4),
  st.integers(1, 40),
  st.booleans(),
  st.booleans(),
)
def test_only_valid_frames_are_sampled(
  num_frames, num_samples, random_frames, training
):
  layer = model_utils.SampleFrames(num_samples, random_frames)
  valid = np.arange(300)[None, :] < np.array(num_frames)[:, None]
  sample = layer(
    valid[:, :, None].astype("float32"),
    np.array(num_frames, np.int32),
    training=training,
  )
  assert sample.shape == (len(num_frames), num_samples, 1)
  assert sample.numpy().min() == 1.0


def test_training_samples_frames_independently_of_each_other():
  layer = model_utils.SampleFrames(4000)
  frames = counting_frames(2, 12)
  num_frames = np.array([10, 3])
  first = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  counts = np.bincount(first[0].astype(int), minlength=12)
  # Each of 10 frames 400 times, give or take 6 standard deviations of 19.
  assert (counts[10:] == 0).all()
  assert (abs(counts[:10] - 400) < 114).all()
  # Each of 3 frames 1333 times, give or take 6 standard deviations of 30.
  counts = np.bincount((first[1] - 100).astype(int), minlength=12)
  assert (counts[3:] == 0).all()
  assert (abs(counts[:3] - 1333) < 180).all()
  # Neighbours are independent: 4000 / 10 pairs of equal ones.
  equal = (first[0][1:] == first[0][:-1]).sum()
  assert abs(equal - 400) < 114
  second = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (first != second).any()


def test_training_samples_a_run_of_following_frames():
  layer = model_utils.SampleFrames(3, random_frames=False)
  # 200 videos with 7 valid frames, then 200 with 3 and 200 with 2.
  num_frames = np.repeat([7, 3, 2], 200)
  frames = np.tile(counting_frames(1, 9), (600, 1, 1))
  runs = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert {tuple(run) for run in runs[:200]} == {
    (first, first + 1, first + 2) for first in range(5)
  }
  assert {tuple(run) for run in runs[200:400]} == {(0, 1, 2)}
  assert {tuple(run) for run in runs[400:]} == {(0, 1, 1)}
  again = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (runs != again).any()


# --------------------------------------------------------------------------
# MaskedMax and batch normalisation


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
  largest = model_utils.MaskedMax()(frames, mask)
  np.testing.assert_array_equal(largest, [[-1.0, 1.0], [0.0, 9.0], [0.0, 0.0]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masked_max_in_half_precision(dtype):
  frames = keras.ops.cast([[[-3.0], [-1.0]], [[-3.0], [-1.0]]], dtype)
  mask = np.array([[True, False], [False, False]])
  largest = model_utils.MaskedMax(dtype=dtype)(frames, mask)
  assert largest.dtype == dtype
  np.testing.assert_array_equal(
    keras.ops.cast(largest, "float32"), [[-3.0], [0.0]]
  )


def test_batch_normalization_has_the_starter_codes_settings():
  layer = model_utils.batch_normalization()
  inputs = np.array([[4.0], [8.0]], np.float32)
  layer(inputs, training=True)
  # 0.999 * 0 + 0.001 * 6 and 0.999 * 1 + 0.001 * 4
  np.testing.assert_allclose(layer.moving_mean, [0.006], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [1.003], rtol=1e-6)
  layer.moving_mean.assign([2.0])
  layer.moving_variance.assign([3.999])
  # (4 - 2) / sqrt(3.999 + 0.001), (8 - 2) / 2
  np.testing.assert_allclose(
    layer(inputs, training=False), [[1.0], [3.0]], rtol=1e-6
  )
