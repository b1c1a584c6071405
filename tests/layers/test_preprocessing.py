"""Tests of layers.preprocessing."""

import keras
import numpy as np
import pytest
from plain_loops import LENGTH, NUM_FRAMES, SIZE

import quantization
from layers import masking, preprocessing, sampling


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


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalize_frames_against_a_plain_loop(dtype):
  frames = random_frames(dtype)
  normalized = preprocessing.NormalizeFrames()(frames, NUM_FRAMES)
  assert normalized.dtype == "float32"
  np.testing.assert_allclose(
    normalized, normalized_frames(frames, NUM_FRAMES), atol=1e-6
  )


def test_normalize_frames_by_hand():
  # 0 -> -1.9921875 and 255 -> 2.0078125; the length of the two is
  # sqrt(3.968811 + 4.031311) = 2.828449.
  frames = np.array([[[0, 255], [9, 9]]], np.uint8)
  normalized = preprocessing.NormalizeFrames()(frames, np.array([1]))
  np.testing.assert_allclose(
    normalized, [[[-0.704339, 0.709863], [0.0, 0.0]]], atol=1e-6
  )


def test_bytes_stand_for_the_original_codes_floats(shared_dir):
  golden = np.load(shared_dir / "golden" / "readers" / "expected.npz")
  table = golden["dequantize_table"]
  frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
  normalized = preprocessing.NormalizeFrames()(frames, np.array([1]))
  np.testing.assert_allclose(
    normalized[0, 0],
    table / np.sqrt((table.astype("float64") ** 2).sum()),
    atol=1e-7,
  )


def test_a_frame_of_zeros_stays_zero():
  frames = np.zeros((1, 2, 3), np.float32)
  normalized = preprocessing.NormalizeFrames()(frames, np.array([2]))
  np.testing.assert_array_equal(normalized, frames)
  mean = preprocessing.MeanNormalizedFrame()(frames, np.array([2]))
  np.testing.assert_array_equal(mean, np.zeros((1, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_mean_normalized_frame_is_the_mean_over_normalize_frames(dtype):
  frames = random_frames(dtype)
  mean = preprocessing.MeanNormalizedFrame()(frames, NUM_FRAMES)
  assert mean.dtype == "float32"
  sums = normalized_frames(frames, NUM_FRAMES).sum(axis=1)
  # The last video has no frames: zeros.
  expected = sums / np.maximum(NUM_FRAMES, 1)[:, None]
  np.testing.assert_allclose(mean, expected, atol=1e-6)
  normalized = preprocessing.NormalizeFrames()(frames, NUM_FRAMES)
  np.testing.assert_allclose(
    mean,
    normalized.numpy().sum(axis=1) / np.maximum(NUM_FRAMES, 1)[:, None],
    atol=1e-6,
  )


def test_mean_normalized_frame_by_hand():
  # (0.6, 0.8) and (1, 0); the third frame is padding.
  frames = np.array([[[3, 4], [2, 0], [5, 5]]], np.float32)
  mean = preprocessing.MeanNormalizedFrame()(frames, np.array([2]))
  np.testing.assert_allclose(mean, [[0.8, 0.4]], rtol=1e-6)


def test_bytes_of_features_with_ranges_by_hand():
  # Steps of 1 from 0 and of 0.2 from -25.5: 3, 4 and 0.5 become 3/k, 4/k and
  # 0.5/k with k = sqrt(25.25) = 5.0249378.
  of = quantization.scales_and_biases([(0.0, 255.0), (-25.5, 25.5)], [2, 1])
  frames = np.array([[[3, 4, 130], [9, 9, 9]]], np.uint8)
  normalized = preprocessing.NormalizeFrames(*of)(frames, np.array([1]))
  np.testing.assert_allclose(
    normalized, [[[0.5970223, 0.7960298, 0.0995037], [0, 0, 0]]], atol=1e-6
  )
  mean = preprocessing.MeanNormalizedFrame(*of)(frames, np.array([1]))
  np.testing.assert_allclose(mean, normalized[:, 0], atol=1e-6)


@pytest.mark.parametrize(
  "ranges", [[(-1.0, 3.0)], [(-1.0, 3.0), quantization.YOUTUBE8M_RANGE]]
)
def test_bytes_with_ranges_are_as_the_floats_they_stand_for(ranges):
  frames = random_frames("uint8")
  sizes = [SIZE] if len(ranges) == 1 else [3, SIZE - 3]
  of = quantization.scales_and_biases(ranges, sizes)
  floats = quantization.dequantize(frames.astype(np.float32), *of)
  for layer in (
    preprocessing.NormalizeFrames,
    preprocessing.MeanNormalizedFrame,
  ):
    np.testing.assert_allclose(
      layer(*of)(frames, NUM_FRAMES), layer()(floats, NUM_FRAMES), atol=1e-6
    )


SCALES = np.array([0.5, 2.0, -1.0, 3.0, 0.25, 1.0], np.float32)
BIASES = np.array([1.0, -2.0, 0.5, 0.0, 100.0, -0.125], np.float32)


def scaled_frames(frames, num_frames, scales, biases):
  """What ScaleFeatures should give, by a plain loop."""
  result = np.zeros(frames.shape)
  for video, valid in enumerate(num_frames):
    for index in range(valid):
      for number in range(SIZE):
        value = float(frames[video, index, number])
        result[video, index, number] = value * scales[number] + biases[number]
  return result


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_scaled_frames_and_their_mean_against_a_plain_loop(dtype):
  frames = random_frames(dtype)
  expected = scaled_frames(frames, NUM_FRAMES, SCALES, BIASES)
  scaled = preprocessing.ScaleFeatures(SCALES, BIASES)(frames, NUM_FRAMES)
  assert scaled.dtype == "float32"
  np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-5)
  mean = preprocessing.MeanFrame(SCALES, BIASES)(frames, NUM_FRAMES)
  assert mean.dtype == "float32"
  # The last video has no frames: zeros, without the biases.
  np.testing.assert_allclose(
    mean,
    expected.sum(axis=1) / np.maximum(NUM_FRAMES, 1)[:, None],
    rtol=1e-6,
    atol=2e-5,
  )
  np.testing.assert_array_equal(mean[-1], np.zeros(SIZE))


def test_scaled_frames_by_hand():
  # 0 -> -1.9921875 and 255 -> 2.0078125, YouTube-8M's; their mean is 0.0078125.
  frames = np.array([[[0, 255], [255, 0], [9, 9]]], np.uint8)
  scaled = preprocessing.ScaleFeatures()(frames, np.array([2]))
  low, high = -1.9921875, 2.0078125
  np.testing.assert_allclose(
    scaled, [[[low, high], [high, low], [0, 0]]], atol=1e-6
  )
  mean = preprocessing.MeanFrame()(frames, np.array([2]))
  np.testing.assert_allclose(mean, [[0.0078125, 0.0078125]], atol=1e-6)


def test_padding_that_is_no_number_is_zero():
  frames = np.full((1, 2, 3), np.nan, np.float32)
  frames[0, 0] = 1.0
  scaled = preprocessing.ScaleFeatures(2.0, 1.0)(frames, np.array([1]))
  np.testing.assert_array_equal(scaled, [[[3, 3, 3], [0, 0, 0]]])


def test_whole_videos_are_scaled():
  videos = np.array([[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]], np.float32)
  scaled = preprocessing.ScaleFeatures(SCALES, BIASES)(videos)
  np.testing.assert_allclose(
    scaled, [[1.5, 2.0, -2.5, 12.0, 101.25, 5.875], BIASES]
  )


@pytest.mark.parametrize(
  "layer",
  [
    preprocessing.NormalizeFrames,
    preprocessing.MeanNormalizedFrame,
    preprocessing.ScaleFeatures,
    preprocessing.MeanFrame,
  ],
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
  normalized = preprocessing.NormalizeFrames()(frames, num_frames)
  assert (normalized.shape, normalized.dtype) == ((None, None, SIZE), "float32")
  mean = preprocessing.MeanNormalizedFrame()(frames, num_frames)
  assert (mean.shape, mean.dtype) == ((None, SIZE), "float32")
  scaled = preprocessing.ScaleFeatures(SCALES, 0.0)(frames, num_frames)
  assert (scaled.shape, scaled.dtype) == ((None, None, SIZE), "float32")
  mean = preprocessing.MeanFrame(SCALES, 0.0)(frames, num_frames)
  assert (mean.shape, mean.dtype) == ((None, SIZE), "float32")
  mask = masking.FrameMask()(frames, num_frames)
  assert (mask.shape, mask.dtype) == ((None, None), "bool")
  sample = sampling.SampleFrames(4)(normalized, num_frames)
  assert (sample.shape, sample.dtype) == ((None, 4, SIZE), "float32")
  largest = masking.MaskedMax()(normalized, mask)
  assert (largest.shape, largest.dtype) == ((None, SIZE), "float32")


def test_split_features():
  frames = np.arange(24).reshape(2, 2, 6)
  parts = preprocessing.split_features(frames, [3, 1, 2])
  assert [part.shape[-1] for part in parts] == [3, 1, 2]
  np.testing.assert_array_equal(parts[0][1, 0], [12, 13, 14])
  np.testing.assert_array_equal(parts[1][1, 0], [15])
  np.testing.assert_array_equal(parts[2][1, 0], [16, 17])
  (whole,) = preprocessing.split_features(frames, [6])
  np.testing.assert_array_equal(whole, frames)
