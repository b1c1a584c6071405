"""Tests of model_utils."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
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
@pytest.mark.parametrize("random_frames", [True, False, None])
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


def test_training_on_evenly_spaced_frames():
  layer = model_utils.SampleFrames(4, random_frames=None)
  frames, num_frames = counting_frames(2, 12), np.array([10, 3])
  for training in (True, False):
    sample = layer(frames, num_frames, training=training)
    # As in inference, see above.
    np.testing.assert_array_equal(sample[0, :, 0], [1, 3, 6, 8])
    np.testing.assert_array_equal(sample[1, :, 0], [100, 101, 101, 102])


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
  layer.build(inputs.shape)
  layer.num_updates.assign(8990.0)
  layer(inputs, training=True)
  # From step 8990 on, (1 + n) / (10 + n) = 8991 / 9000, the momentum is 0.999:
  # 0.999 * 0 + 0.001 * 6 and 0.999 * 1 + 0.001 * 4
  np.testing.assert_allclose(layer.moving_mean, [0.006], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [1.003], rtol=1e-6)
  layer.moving_mean.assign([2.0])
  layer.moving_variance.assign([3.999])
  # (4 - 2) / sqrt(3.999 + 0.001), (8 - 2) / 2
  np.testing.assert_allclose(
    layer(inputs, training=False), [[1.0], [3.0]], rtol=1e-6
  )


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalization_knows_the_data_from_the_first_steps_on(compiled):
  layer = model_utils.batch_normalization()
  inputs = np.array([[4.0], [8.0]], np.float32)
  layer.build(inputs.shape)

  def step():
    layer(inputs, training=True)

  step = tf.function(step, jit_compile=True) if compiled else step
  step()
  # Momentum 1 / 10: 0.1 * 0 + 0.9 * 6 and 0.1 * 1 + 0.9 * 4
  np.testing.assert_allclose(layer.moving_mean, [5.4], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [3.7], rtol=1e-4)
  step()
  # Momentum 2 / 11: 5.4 * 2 / 11 + 6 * 9 / 11 and 3.7 * 2 / 11 + 4 * 9 / 11
  np.testing.assert_allclose(layer.moving_mean, [64.8 / 11], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [43.4 / 11], rtol=1e-4)
  assert float(layer.num_updates) == 2
  layer(inputs, training=False)
  assert float(layer.num_updates) == 2


# --------------------------------------------------------------------------
# Sums of squares, regularisers


# One lane, several, all 128 of them and several times 128, of 1, 2 and 9 rows.
@pytest.mark.parametrize("features", [1, 6, 7, 96, 128, 1152])
def test_squared_lengths(features):
  vectors = np.random.default_rng(3).normal(size=(2, 5, features))
  lengths = model_utils.squared_lengths(keras.ops.convert_to_tensor(vectors))
  expected = np.zeros((2, 5))
  for video in range(2):
    for frame in range(5):
      for value in vectors[video, frame]:
        expected[video, frame] += value * value
  np.testing.assert_allclose(lengths, expected, rtol=1e-12)


def test_squared_lengths_of_symbolic_vectors():
  vectors = keras.Input((3, 6))
  lengths = model_utils.squared_lengths(vectors)
  assert lengths.shape == (None, 3)
  values = np.arange(36, dtype="float32").reshape(2, 3, 6)
  np.testing.assert_allclose(
    keras.Model(vectors, lengths)(values), (values**2).sum(axis=-1)
  )


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_total(shape):
  values = np.random.default_rng(3).normal(size=shape)
  expected = sum(values.flatten().tolist())
  result = model_utils.total(keras.ops.convert_to_tensor(values))
  assert result.shape == ()
  assert float(result) == pytest.approx(expected, rel=1e-12)


def test_l2_is_half_the_sum_of_squares_times_the_penalty():
  weights = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)
  # 0.1 / 2 * (1 + 4 + 9 + 16)
  assert float(model_utils.L2(0.1)(weights)) == pytest.approx(1.5)


def test_l2_survives_serialisation():
  config = keras.regularizers.serialize(model_utils.L2(0.1))
  again = keras.regularizers.deserialize(config)
  assert isinstance(again, model_utils.L2)
  assert float(again(np.array([2.0]))) == pytest.approx(0.2)


# --------------------------------------------------------------------------
# Classifiers and dense layers


@pytest.mark.parametrize(
  ("classes", "frequency"), [(3862, 3 / 3862), (10, 0.3), (4, 0.5), (1, 0.5)]
)
def test_classifiers_start_at_a_labels_frequency(classes, frequency):
  features = keras.Input((2,))
  probabilities = model_utils.classify_logistic(features, classes)
  model = keras.Model(features, probabilities)
  np.testing.assert_allclose(
    model(np.zeros((1, 2))), np.full((1, classes), frequency), rtol=1e-5
  )
  frames = model_utils.FrameClassifier(classes)(
    np.zeros((1, 3, 2), np.float32), np.array([2], np.int32)
  )
  np.testing.assert_allclose(
    frames, np.full((1, classes), frequency), rtol=1e-5
  )


@pytest.mark.parametrize("l2_penalty", [0.0, 0.5])
def test_classify_logistic(l2_penalty):
  features = keras.Input((2,))
  probabilities = model_utils.classify_logistic(
    features, 3, l2_penalty, name="last"
  )
  assert probabilities.dtype == "float32"
  model = keras.Model(features, probabilities)
  layer = model.get_layer("last")
  kernel = np.array([[1.0, -2.0, 0.0], [3.0, 4.0, 0.5]])
  layer.kernel.assign(kernel)
  layer.bias.assign([0.1, 0.2, 0.3])
  inputs = np.array([[0.3, -0.7], [1.0, 2.0]])
  expected = np.zeros((2, 3))
  for video in range(2):
    for label in range(3):
      logit = layer.bias.numpy()[label]
      for feature in range(2):
        logit += inputs[video, feature] * kernel[feature, label]
      expected[video, label] = 1.0 / (1.0 + math.exp(-logit))
  np.testing.assert_allclose(model(inputs), expected, atol=1e-6)
  # Half of 1 + 4 + 9 + 16 + 0.25; the bias does not count.
  assert float(sum(model.losses)) == pytest.approx(l2_penalty * 15.125)


def test_dense_layers_are_relus_on_top_of_each_other():
  features = keras.Input((3,))
  outputs = model_utils.dense_layers(features, "4, 2", "net")
  assert outputs.shape == (None, 2)
  model = keras.Model(features, outputs)
  inputs = np.random.default_rng(5).normal(size=(5, 3))
  hidden = inputs
  for index, size in enumerate((4, 2)):
    layer = model.get_layer(f"net_{index}")
    assert layer.kernel.shape == (hidden.shape[1], size)
    randomize(layer)
    hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
  # Else the ReLU would not show.
  assert (hidden == 0.0).any()
  assert (hidden > 0.0).any()
  np.testing.assert_allclose(model(inputs), hidden, atol=1e-5)


def test_no_dense_layers():
  features = keras.Input((3,))
  assert model_utils.dense_layers(features, "", "net") is features


@pytest.mark.parametrize("sizes", ["4,", ",4", "0", "-3", "1.5", "a", " "])
def test_dense_layers_refuse_what_are_no_sizes(sizes):
  with pytest.raises(ValueError, match="512,1024"):
    model_utils.dense_layers(keras.Input((3,)), sizes, "net")


def test_split_features():
  frames = np.arange(24).reshape(2, 2, 6)
  parts = model_utils.split_features(frames, [3, 1, 2])
  assert [part.shape[-1] for part in parts] == [3, 1, 2]
  np.testing.assert_array_equal(parts[0][1, 0], [12, 13, 14])
  np.testing.assert_array_equal(parts[1][1, 0], [15])
  np.testing.assert_array_equal(parts[2][1, 0], [16, 17])
  (whole,) = model_utils.split_features(frames, [6])
  np.testing.assert_array_equal(whole, frames)


# --------------------------------------------------------------------------
# Pooling layers against plain loops. Videos have NUM_FRAMES valid frames, the
# last one none, and values a hundred times larger in the padding.

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
  """(4, LENGTH, CLUSTERS) of which each valid frame's sum is 1."""
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


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("normalize_all", [True, False])
def test_vlad_against_a_plain_loop(residual, normalize_all):
  frames, assignment = masked_values(SIZE), random_assignment()
  layer = model_utils.Vlad(residual, normalize_all, dtype="float64")
  layer.build(frames.shape, assignment.shape)
  randomize(layer)
  assert len(layer.variables) == int(residual)
  centers = np.zeros((CLUSTERS, SIZE))
  if residual:
    centers = layer.centers.numpy()
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS * SIZE))
  for video, valid in enumerate(NUM_FRAMES):
    clusters = []
    for cluster in range(CLUSTERS):
      vector = np.zeros(SIZE)
      for frame in range(valid):
        distance = frames[video, frame] - centers[cluster]
        vector += assignment[video, frame, cluster] * distance
      clusters.append(unit(vector))
    expected[video] = np.concatenate(clusters)
    if normalize_all:
      expected[video] = unit(expected[video])
  vectors = layer(frames, assignment)
  assert vectors.dtype == "float64"
  np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_fisher_vector_against_a_plain_loop():
  frames, assignment = masked_values(SIZE), random_assignment()
  layer = model_utils.FisherVector(dtype="float64")
  layer.build(frames.shape, assignment.shape)
  randomize(layer)
  centers = layer.centers.numpy()
  covariance = layer.deviations.numpy() ** 2 + 1e-6
  expected = []
  for video, valid in enumerate(NUM_FRAMES):
    first = np.zeros((CLUSTERS, SIZE))
    second = np.zeros((CLUSTERS, SIZE))
    for cluster in range(CLUSTERS):
      for frame in range(valid):
        weight = assignment[video, frame, cluster]
        distance = frames[video, frame] - centers[cluster]
        first[cluster] += weight * distance / covariance[cluster]
        second[cluster] += weight * (
          distance**2 / covariance[cluster] ** 2 - 1.0
        )
      first[cluster] = unit(first[cluster])
    expected.append(
      np.concatenate([unit(first).flatten(), unit(second).flatten()])
    )
  np.testing.assert_allclose(layer(frames, assignment), expected, atol=1e-5)


def test_centers_and_deviations_start_as_published():
  shapes = (1, None, 400), (1, None, 50)
  vlad = model_utils.Vlad()
  vlad.build(*shapes)
  fisher = model_utils.FisherVector()
  fisher.build(*shapes)
  # 20,000 numbers: 1/sqrt(400) = 0.05, give or take 6 standard errors.
  for weight, mean in (
    (vlad.centers, 0.0),
    (fisher.centers, 0.0),
    (fisher.deviations, 1.0),
  ):
    values = weight.numpy()
    assert values.mean() == pytest.approx(mean, abs=0.0022)
    assert values.std() == pytest.approx(0.05, abs=0.0016)


def test_bag_of_words_against_a_plain_loop():
  assignment = random_assignment()
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS))
  for video, valid in enumerate(NUM_FRAMES):
    for frame in range(valid):
      expected[video] += assignment[video, frame]
    expected[video] = unit(expected[video])
  layer = model_utils.BagOfWords(dtype="float64")
  np.testing.assert_allclose(layer(assignment), expected, atol=1e-5)


def test_next_vlad_against_a_plain_loop():
  groups, part = 2, SIZE // 2
  frames = masked_values(SIZE)
  scores = masked_values(groups * CLUSTERS, seed=7)
  attention = np.abs(masked_values(groups, seed=8))
  layer = model_utils.NextVlad(CLUSTERS, dtype="float64")
  layer.build(frames.shape, attention.shape, scores.shape)
  randomize(layer)
  centers = layer.vlad.centers.numpy()
  assert centers.shape == (CLUSTERS, part)
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS * part))
  for video, valid in enumerate(NUM_FRAMES):
    vectors = np.zeros((CLUSTERS, part))
    for frame in range(valid):
      for group in range(groups):
        start = group * CLUSTERS
        assigned = softmax(scores[video, frame, start : start + CLUSTERS])
        piece = frames[video, frame, group * part : (group + 1) * part]
        for cluster in range(CLUSTERS):
          vectors[cluster] += (
            attention[video, frame, group]
            * assigned[cluster]
            * (piece - centers[cluster])
          )
    expected[video] = np.concatenate([unit(vector) for vector in vectors])
  vectors = layer(frames, attention, scores, mask_of())
  np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_attention_pooling_against_a_plain_loop():
  frames, scores = masked_values(SIZE), masked_values(CLUSTERS, seed=7)
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS, SIZE))
  for video, valid in enumerate(NUM_FRAMES):
    for unit_index in range(CLUSTERS if valid else 0):
      weights = softmax(scores[video, :valid, unit_index])
      for frame in range(valid):
        expected[video, unit_index] += weights[frame] * frames[video, frame]
  layer = model_utils.AttentionPooling(dtype="float64")
  pooled = layer(frames, scores, mask_of())
  np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_attention_pooling_of_large_scores():
  # All the weight on the second frame; exp(300) is no float32.
  frames = np.array([[[1.0], [2.0], [3.0]]])
  scores = np.array([[[200.0], [300.0], [999.0]]])
  mask = np.array([[True, True, False]])
  layer = model_utils.AttentionPooling()
  np.testing.assert_allclose(layer(frames, scores, mask), [[[2.0]]])
  # However low, only the valid frames' scores count.
  pooled = layer(frames, scores * [[[-1e4], [-1e4], [0]]], mask)
  np.testing.assert_allclose(pooled, [[[1.0]]])


def test_attention_cluster_against_a_plain_loop():
  pooled = np.random.default_rng(5).normal(size=(4, CLUSTERS, SIZE))
  layer = model_utils.AttentionCluster(dtype="float64")
  layer.build(pooled.shape)
  randomize(layer)
  # One number each for a unit, not for a feature.
  assert layer.alpha.shape == layer.beta.shape == (CLUSTERS, 1)
  alpha, beta = layer.alpha.numpy()[:, 0], layer.beta.numpy()[:, 0]
  expected = [
    np.concatenate(
      [
        unit(alpha[k] * pooled[video, k] + beta[k]) / math.sqrt(CLUSTERS)
        for k in range(CLUSTERS)
      ]
    )
    for video in range(4)
  ]
  vectors = layer(pooled)
  np.testing.assert_allclose(vectors, expected, atol=1e-5)
  # The point of the square root.
  np.testing.assert_allclose((vectors.numpy() ** 2).sum(axis=1), 1.0)


@pytest.mark.parametrize("training", [True, False])
def test_context_gating_against_a_plain_loop(training):
  features = keras.Input((SIZE,), dtype="float64")
  gated = model_utils.context_gating(features, "gate", dtype="float64")
  model = keras.Model(features, gated)
  assert {variable.path for variable in model.variables} == {
    "gate_dense/kernel",
    "gate_bn/gamma",
    "gate_bn/beta",
    "gate_bn/moving_mean",
    "gate_bn/moving_variance",
    "gate_bn/num_updates",
  }
  for layer in model.layers:
    randomize(layer)
  norm = model.get_layer("gate_bn")
  inputs = np.random.default_rng(5).normal(size=(4, SIZE))
  switches = inputs @ model.get_layer("gate_dense").kernel.numpy()
  expected = np.zeros((4, SIZE))
  for feature in range(SIZE):
    mean = norm.moving_mean.numpy()[feature]
    variance = norm.moving_variance.numpy()[feature]
    if training:
      mean = sum(switches[:, feature]) / 4
      variance = sum((switches[:, feature] - mean) ** 2) / 4
    for video in range(4):
      normal = (switches[video, feature] - mean) / math.sqrt(variance + 0.001)
      gate = sigmoid(
        normal * norm.gamma.numpy()[feature] + norm.beta.numpy()[feature]
      )
      expected[video, feature] = inputs[video, feature] * gate
  np.testing.assert_allclose(
    model(inputs, training=training), expected, atol=1e-5
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
  layer = model_utils.MaskedMean(dtype="float64")
  np.testing.assert_allclose(layer(frames, mask_of()), mean, atol=1e-5)
  layer = model_utils.MaskedMax(dtype="float64")
  np.testing.assert_allclose(layer(frames, mask_of()), largest, atol=1e-5)


def test_zero_padding():
  frames = masked_values(SIZE)
  expected = frames.copy()
  for video, valid in enumerate(NUM_FRAMES):
    expected[video, valid:] = 0.0
  padded = model_utils.ZeroPadding(dtype="float64")(frames, mask_of())
  np.testing.assert_array_equal(padded, expected)


def test_zero_padding_ends_the_mask():
  # Else a layer behind it would leave out the zeros that it shall look at.
  frames = keras.Input((None, 1))
  valid = keras.Input((None,), dtype="bool")
  states = keras.layers.Masking()(frames)
  states = model_utils.ZeroPadding()(states, valid)
  mean = keras.layers.GlobalAveragePooling1D()(states)
  model = keras.Model([frames, valid], mean)
  inputs = [np.array([[[6.0], [0.0], [9.0]]]), np.array([[True, True, False]])]
  # 6, 0 and 0; the mask of the first layer has the first and the last frame.
  np.testing.assert_allclose(model(inputs), [[2.0]])


def test_position_encoding_against_a_plain_loop():
  frames = masked_values(SIZE, length=50)
  expected = frames.copy()
  for index in range(50):
    for pair in range(SIZE // 2):
      angle = index / 10000 ** (2 * pair / SIZE)
      expected[:, index, pair] += math.sin(angle)
      expected[:, index, SIZE // 2 + pair] += math.cos(angle)
  layer = model_utils.PositionEncoding(dtype="float64")
  np.testing.assert_allclose(layer(frames), expected, atol=1e-5)


def frame_classifier():
  """A FrameClassifier with random weights, frames and their probabilities."""
  frames = masked_values(SIZE)
  layer = model_utils.FrameClassifier(CLUSTERS, dtype="float64")
  layer(frames, NUM_FRAMES)
  randomize(layer)
  logits = frames @ layer.dense.kernel.numpy() + layer.dense.bias.numpy()
  return layer, frames, sigmoid(logits)


def test_frame_classifier_gives_the_mean_of_the_valid_frames():
  layer, frames, likely = frame_classifier()
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS))
  for video, valid in enumerate(NUM_FRAMES):
    for frame in range(valid):
      expected[video] += likely[video, frame] / valid
  predictions = layer(frames, NUM_FRAMES, training=False)
  assert predictions.dtype == "float32"
  np.testing.assert_allclose(predictions, expected, atol=1e-5)


def test_frame_classifier_trains_on_one_random_valid_frame():
  layer, frames, likely = frame_classifier()
  seen = [set() for _ in NUM_FRAMES]
  for _ in range(80):
    predictions = layer(frames, NUM_FRAMES, training=True).numpy()
    for video, valid in enumerate(NUM_FRAMES):
      if valid:
        distances = abs(likely[video] - predictions[video]).max(axis=1)
        assert distances.min() < 1e-5
        seen[video].add(int(distances.argmin()))
  # A frame of nine is missed in 80 draws in one of 12,000 runs, and seeds are
  # random: all of the four frames, and more than half of the nine.
  assert seen[0] <= set(range(9))
  assert len(seen[0]) > 4
  assert seen[1] == {0, 1, 2, 3}
  assert seen[2] == {0}


# --------------------------------------------------------------------------
# Batch normalisation of valid frames alone


def outputs_and_gradients(layers, inputs, training):
  """Of layers one after the other, compiled: outputs, gradients, statistics."""
  rng = np.random.default_rng(5)
  frames = tf.constant(inputs, tf.float32)
  variables = [value for layer in layers for value in layer.variables]
  trainable = [value.value for value in variables if value.trainable]

  @tf.function
  def run(frames):
    with tf.GradientTape() as tape:
      tape.watch(frames)
      outputs = frames
      for layer in layers:
        outputs = layer(outputs, training=training)
      weight = rng.normal(size=outputs.shape)
      loss = tf.reduce_sum(outputs * tf.constant(weight, tf.float32))
    return outputs, tape.gradient(loss, [frames, *trainable])

  outputs, gradients = run(frames)
  moved = [value.numpy() for value in variables if not value.trainable]
  return [outputs.numpy(), *(value.numpy() for value in gradients), *moved]


class MaxOverFrames(keras.layers.Layer):
  """The plain maximum."""

  def call(self, frames):
    return keras.ops.max(frames, axis=1)


@pytest.mark.parametrize("training", [True, False])
def test_max_of_normalized_is_the_max_after_normalising(training):
  """Also where gamma turns the order round, and with equal frames."""
  rng = np.random.default_rng(4)
  frames = rng.normal(3.0, 2.0, (5, 7, 6))
  frames[2, 3] = frames[2, 4]
  statistics = rng.uniform(0.5, 2.0, 6), rng.uniform(0.5, 2.0, 6)
  gamma = np.array([1.0, -2.0, 0.5, -0.5, 0.25, 3.0])
  found = []
  for layers in (
    [model_utils.batch_normalization(model_utils.MaxOfNormalized)],
    [model_utils.batch_normalization(), MaxOverFrames()],
  ):
    layers[0].build(frames.shape)
    layers[0].set_weights([gamma, np.arange(6.0), *statistics, np.zeros(())])
    found.append(outputs_and_gradients(layers, frames, training))
  assert len(found[0]) == 1 + 3 + 3
  for one, other in zip(*found, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_max_of_normalized_in_half_precision():
  """Statistics are float32, outputs are not."""
  layer = model_utils.batch_normalization(
    model_utils.MaxOfNormalized, dtype="mixed_bfloat16"
  )
  frames = np.random.default_rng(4).normal(3.0, 2.0, (5, 7, 6))
  outputs = layer(tf.constant(frames, tf.bfloat16), training=True)
  assert outputs.dtype == tf.bfloat16
  assert layer.moving_mean.dtype == "float32"
  assert layer(keras.KerasTensor((None, 7, 6))).shape == (None, 6)


@pytest.mark.parametrize("compiled", [True, False])
def test_dropout(compiled):
  """A part is zero, the others grow; another part in the next step."""
  layer = model_utils.Dropout(0.3)
  run = tf.function(
    lambda values: layer(values, training=True), jit_compile=compiled
  )
  values = tf.random.stateless_uniform((300, 400), (1, 2), 1.0, 2.0)
  first, second = run(values).numpy(), run(values).numpy()
  for found in (first, second):
    kept = found > 0
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    # No row or column of it is left out more than the others.
    assert abs(kept.mean(axis=0) - 0.7).max() < 0.15
    assert abs(kept.mean(axis=1) - 0.7).max() < 0.15
    np.testing.assert_allclose(
      found[kept], values.numpy()[kept] / 0.7, rtol=1e-6
    )
  together = ((first > 0) & (second > 0)).mean()
  assert together == pytest.approx(0.49, abs=0.01)
  assert layer(values, training=False) is values


def test_dropout_refuses_a_rate_that_leaves_nothing():
  with pytest.raises(ValueError, match=r"below 1, received 1\.0"):
    model_utils.Dropout(1.0)


def test_scaled_dense_is_a_scaling_before_a_dense_layer():
  """Outputs and gradients, and it is as large as both."""
  rng = np.random.default_rng(6)
  kernel = rng.normal(size=(6, 3))
  gamma, beta = rng.normal(size=6), rng.normal(size=6)

  class Scaling(keras.layers.Layer):
    def build(self, input_shape):
      self.gamma = self.add_weight(shape=(6,))
      self.beta = self.add_weight(shape=(6,))

    def call(self, inputs):
      return inputs * self.gamma + self.beta

  scaled = model_utils.ScaledDense(3)
  scaled.build((None, 4, 6))
  scaled.set_weights([kernel, gamma, beta])
  plain = [Scaling(), keras.layers.Dense(3, use_bias=False)]
  for layer in plain:
    layer.build((None, 4, 6))
  plain[0].set_weights([gamma, beta])
  plain[1].set_weights([kernel])
  inputs = rng.normal(size=(5, 4, 6))
  outputs, d_inputs, *found = outputs_and_gradients([scaled], inputs, True)
  wanted, d_wanted, *others = outputs_and_gradients(plain, inputs, True)
  np.testing.assert_allclose(outputs, wanted, atol=1e-5)
  np.testing.assert_allclose(d_inputs, d_wanted, atol=1e-5)
  for one, other in zip(found, [others[2], *others[:2]], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masked_batch_normalization_against_a_plain_loop():
  frames = masked_values(SIZE)
  layer = model_utils.batch_normalization(dtype="float64")
  layer.build(frames.shape)
  randomize(layer)
  layer.num_updates.assign(1e5)  # past the first steps' smaller momentum
  gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
  moving_mean = layer.moving_mean.numpy()
  moving_variance = layer.moving_variance.numpy()
  valid_frames = []
  for video, valid in enumerate(NUM_FRAMES):
    valid_frames.extend(frames[video, frame] for frame in range(valid))
  assert len(valid_frames) == 14
  mean = sum(valid_frames) / 14
  variance = sum((frame - mean) ** 2 for frame in valid_frames) / 14
  outputs = layer(frames, mask=mask_of(), training=True).numpy()
  for video, valid in enumerate(NUM_FRAMES):
    for frame in range(valid):
      normal = (frames[video, frame] - mean) / np.sqrt(variance + 0.001)
      np.testing.assert_allclose(
        outputs[video, frame], gamma * normal + beta, atol=1e-5
      )
  np.testing.assert_allclose(
    layer.moving_mean, 0.999 * moving_mean + 0.001 * mean, atol=1e-5
  )
  np.testing.assert_allclose(
    layer.moving_variance,
    0.999 * moving_variance + 0.001 * variance,
    atol=1e-5,
  )


# --------------------------------------------------------------------------
# Gradients: the padding is not there


class NextVladOfFrames:
  """NextVlad whose attention and scores come from the frames, too."""

  def __init__(self):
    self.layer = model_utils.NextVlad(CLUSTERS, dtype="float64")
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
    self._pooling = model_utils.AttentionPooling(dtype="float64")

  def __call__(self, frames, mask):
    return self._pooling(frames, self.layer(frames), mask)


class NormalizedFrames:
  """Batch normalisation in training; the padding's outputs are not used."""

  def __init__(self):
    self.layer = model_utils.batch_normalization(dtype="float64")
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
    (lambda: MaskedPooling(model_utils.MaskedMean), 0),
    (lambda: MaskedPooling(model_utils.MaskedMax), 0),
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
