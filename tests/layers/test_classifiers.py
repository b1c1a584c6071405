"""Tests of layers.classifiers."""

import math

import keras
import numpy as np
import pytest
from plain_loops import (
  CLUSTERS,
  NUM_FRAMES,
  SIZE,
  masked_values,
  randomize,
  sigmoid,
)

from layers import classifiers


def test_probabilities_are_exact_whatever_the_logits_are():
  logits = keras.ops.cast([[8.0, -8.0, 0.0]], "bfloat16")
  probabilities = classifiers.probabilities(logits)
  assert probabilities.dtype == "float32"
  # 1 / (1 + e^-8) = 1 - 0.00033535; bfloat16 would give 1.
  np.testing.assert_allclose(
    probabilities, [[0.99966465, 0.00033535, 0.5]], atol=1e-7
  )


def test_probabilities_of_exclusive_classes_are_a_softmax():
  logits = keras.ops.cast(
    [[[math.log(1.0), math.log(3.0)], [5.0, 5.0]]], "bfloat16"
  )
  with classifiers.exclusive_classes() as made:
    assert classifiers.are_exclusive()
    probabilities = classifiers.probabilities(logits)
    with classifiers.exclusive_classes(False):
      assert not classifiers.are_exclusive()
      assert classifiers.probabilities(logits)[0, 1, 0] > 0.99
  assert not classifiers.are_exclusive()
  assert len(made) == 1
  assert probabilities.dtype == "float32"
  # bfloat16 has log(3) to 8 bits.
  np.testing.assert_allclose(
    probabilities, [[[0.25, 0.75], [0.5, 0.5]]], atol=1e-3
  )


def test_l2_is_half_the_sum_of_squares_times_the_penalty():
  weights = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)
  # 0.1 / 2 * (1 + 4 + 9 + 16)
  assert float(classifiers.L2(0.1)(weights)) == pytest.approx(1.5)


def test_no_penalty_is_no_regularizer():
  assert classifiers.l2(0.0) is None
  assert classifiers.l2(0.1).penalty == 0.1


def test_l2_survives_serialization():
  config = keras.regularizers.serialize(classifiers.L2(0.1))
  again = keras.regularizers.deserialize(config)
  assert isinstance(again, classifiers.L2)
  assert float(again(np.array([2.0]))) == pytest.approx(0.2)


@pytest.mark.parametrize(
  ("classes", "frequency"), [(3862, 3 / 3862), (10, 0.3), (4, 0.5), (1, 0.5)]
)
def test_classifiers_start_at_a_labels_frequency(classes, frequency):
  features = keras.Input((2,))
  probabilities = classifiers.classify_logistic(features, classes)
  model = keras.Model(features, probabilities)
  np.testing.assert_allclose(
    model(np.zeros((1, 2))), np.full((1, classes), frequency), rtol=1e-5
  )
  frames = classifiers.FrameClassifier(classes)(
    np.zeros((1, 3, 2), np.float32), np.array([2], np.int32)
  )
  np.testing.assert_allclose(
    frames, np.full((1, classes), frequency), rtol=1e-5
  )


def test_classifiers_of_exclusive_classes_start_at_equal_probabilities():
  features = keras.Input((2,))
  with classifiers.exclusive_classes():
    probabilities = classifiers.classify_logistic(features, 10)
    layer = classifiers.FrameClassifier(10)
  model = keras.Model(features, probabilities)
  np.testing.assert_allclose(model(np.zeros((1, 2))), np.full((1, 10), 0.1))
  frames = np.zeros((1, 3, 2), np.float32)
  np.testing.assert_allclose(
    layer(frames, np.array([2], np.int32)), np.full((1, 10), 0.1), rtol=1e-6
  )


@pytest.mark.parametrize("num_experts", [1, 3])
def test_mix_softmaxes_against_a_plain_loop(num_experts):
  features = keras.Input((4,))
  with classifiers.exclusive_classes():
    mixed = classifiers.mix_softmaxes(features, 5, num_experts, l2_penalty=0.5)
  assert mixed.dtype == "float32"
  model = keras.Model(features, mixed)
  generator = np.random.default_rng(6)
  weights = {}
  for variable in model.weights:
    weights[variable.path] = generator.normal(size=variable.shape)
    variable.assign(weights[variable.path])
  kernel, bias = weights["experts/kernel"], weights["experts/bias"]
  # One expert needs no gate.
  gate_kernel = weights.get("gates/kernel", np.zeros((4, 1)))
  assert len(weights) == (2 if num_experts == 1 else 3)
  assert gate_kernel.shape == (4, num_experts)
  videos = generator.normal(size=(6, 4))
  expected = np.zeros((6, 5))
  for video, vector in enumerate(videos):
    gates = np.exp(vector @ gate_kernel)
    for expert in range(num_experts):
      own = slice(5 * expert, 5 * expert + 5)
      powers = np.exp(vector @ kernel[:, own] + bias[own])
      expected[video] += gates[expert] / sum(gates) * powers / sum(powers)
  np.testing.assert_allclose(expected.sum(axis=1), 1.0)
  np.testing.assert_allclose(model(videos), expected, atol=1e-6)
  squares = (kernel**2).sum() + (gate_kernel**2).sum()
  assert float(sum(model.losses)) == pytest.approx(0.25 * squares, rel=1e-5)


def test_divided_by_sum():
  values = np.array([[1.0, 3.0], [0.2, 0.0]], np.float32)
  np.testing.assert_allclose(
    classifiers.divided_by_sum(values), [[0.25, 0.75], [1.0, 0.0]]
  )


@pytest.mark.parametrize("l2_penalty", [0.0, 0.5])
def test_classify_logistic(l2_penalty):
  features = keras.Input((2,))
  probabilities = classifiers.classify_logistic(
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
  outputs = classifiers.dense_layers(features, "4, 2", "net")
  assert outputs.shape == (None, 2)
  model = keras.Model(features, outputs)
  inputs = np.random.default_rng(5).normal(size=(5, 3))
  hidden = inputs
  for index, size in enumerate((4, 2)):
    layer = model.get_layer(f"net_{index}")
    assert layer.kernel.shape == (hidden.shape[1], size)
    randomize(layer)
    hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
  # Otherwise the ReLU would have no effect.
  assert (hidden == 0.0).any()
  assert (hidden > 0.0).any()
  np.testing.assert_allclose(model(inputs), hidden, atol=1e-5)


def test_no_dense_layers():
  features = keras.Input((3,))
  assert classifiers.dense_layers(features, "", "net") is features


@pytest.mark.parametrize("sizes", ["4,", ",4", "0", "-3", "1.5", "a", " "])
def test_dense_layers_refuse_bad_sizes(sizes):
  with pytest.raises(ValueError, match="512,1024"):
    classifiers.dense_layers(keras.Input((3,)), sizes, "net")


def frame_classifier():
  """A FrameClassifier with random weights, frames and their probabilities."""
  frames = masked_values(SIZE)
  layer = classifiers.FrameClassifier(CLUSTERS, dtype="float64")
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


def test_frame_classifier_of_exclusive_classes():
  frames = masked_values(SIZE)
  frames *= np.arange(frames.shape[1])[:, None] < NUM_FRAMES[:, None, None]
  with classifiers.exclusive_classes() as made:
    layer = classifiers.FrameClassifier(CLUSTERS)
  assert made == [layer]
  layer(frames, NUM_FRAMES)
  randomize(layer)
  logits = frames @ layer.dense.kernel.numpy() + layer.dense.bias.numpy()
  likely = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
  expected = np.zeros((len(NUM_FRAMES), CLUSTERS))
  for video, valid in enumerate(NUM_FRAMES):
    for frame in range(max(valid, 1)):
      expected[video] += likely[video, frame] / max(valid, 1)
  assert 0 in NUM_FRAMES
  np.testing.assert_allclose(
    layer(frames, NUM_FRAMES, training=False), expected, atol=1e-5
  )
  trained_on = layer(frames, NUM_FRAMES, training=True).numpy()
  np.testing.assert_allclose(trained_on.sum(axis=1), 1.0, atol=1e-5)


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
  # 80 draws miss a given frame of nine in one of 12,000 runs, and seeds are
  # random: expect all of the four frames, and more than half of the nine.
  assert seen[0] <= set(range(9))
  assert len(seen[0]) > 4
  assert seen[1] == {0, 1, 2, 3}
  assert seen[2] == {0}
