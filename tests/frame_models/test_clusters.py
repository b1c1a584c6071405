"""Tests of frame_models.clusters."""

import math

import numpy as np
import pytest
from small_models import (
  build,
  classified,
  count_trainable,
  dense,
  normalized,
  predict,
  random_frames,
  random_statistics,
  random_weights,
  relu,
  sigmoid,
  softmax,
  unit,
  vlad,
)

import models

# Models and the first word of their flags.
PREFIXES = {
  "NetVladModel": "netvlad",
  "NetFvModel": "fv",
  "SoftDbowModel": "dbow",
}


def assigned_features(frames, indices, weights):
  """Of both features: name, sampled and normalized frames, assignment."""
  sampled = normalized(frames[indices], weights, "input_bn")
  for index, feature in enumerate((sampled[:, :3], sampled[:, 3:])):
    name = f"feature_{index}"
    scores = dense(feature, weights, f"{name}_clusters")
    scores = normalized(scores, weights, f"{name}_clusters_bn")
    yield name, feature, softmax(scores)


def gated_mixture(pooled, weights):
  """Dense layer, context gating, two experts and output gating."""

  def gate(values, name):
    gates = dense(values, weights, f"{name}_dense")
    return values * sigmoid(normalized(gates, weights, f"{name}_bn"))

  hidden = gate(dense(pooled, weights, "hidden"), "hidden_gating")
  gates = softmax(dense(hidden, weights, "gates").reshape(3, 3))
  experts = classified(hidden, weights, "experts").reshape(3, 2)
  return gate((gates[:, :2] * experts).sum(axis=1), "output_gating")


# Of 10, 3 and 1 valid frames, the evenly spaced four.
SAMPLES = {10: [1, 3, 6, 8], 3: [0, 1, 1, 2], 1: [0, 0, 0, 0]}


@pytest.mark.parametrize("residual", [True, False])
def test_net_vlad_model_against_plain_loops(residual):
  model = build(
    "NetVladModel",
    "3,2",
    3,
    iterations=4,
    netvlad_cluster_size=4,
    netvlad_hidden_size=6,
    netvlad_residual=residual,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  # The second feature has half as many clusters.
  assert weights["feature_0_clusters/kernel"].shape == (3, 4)
  assert weights["feature_1_clusters/kernel"].shape == (2, 2)
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    vectors = []
    assigned = assigned_features(frames[video], indices, weights)
    for name, feature, assignment in assigned:
      centers = np.zeros((assignment.shape[1], feature.shape[1]))
      if residual:
        centers = weights[f"{name}_vlad/centers"]
      vectors.append(unit(vlad(feature, assignment, centers)))
    expected.append(gated_mixture(np.concatenate(vectors), weights))
  assert ("feature_0_vlad/centers" in weights) == residual
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-5
  )


def test_net_fv_model_against_plain_loops():
  model = build(
    "NetFvModel",
    "3,2",
    3,
    iterations=4,
    fv_cluster_size=4,
    fv_hidden_size=6,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    vectors = []
    assigned = assigned_features(frames[video], indices, weights)
    for name, feature, assignment in assigned:
      centers = weights[f"{name}_fisher/centers"]
      covariance = weights[f"{name}_fisher/deviations"] ** 2 + 1e-6
      first, second = np.zeros((2, *centers.shape))
      for frame, shares in zip(feature, assignment, strict=True):
        distance = (frame - centers) / covariance
        first += shares[:, None] * distance
        second += shares[:, None] * (distance**2 - 1.0)
      vectors.append(unit(unit(first).flatten()))
      vectors.append(unit(second.flatten()))
    expected.append(gated_mixture(np.concatenate(vectors), weights))
  # If w is near 0, its square in the divisor gives large numbers.
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-4
  )


@pytest.mark.parametrize("has_relu", [False, True])
def test_soft_dbow_model_against_plain_loops(has_relu):
  model = build(
    "SoftDbowModel",
    "3,2",
    3,
    iterations=4,
    dbow_cluster_size=24,
    dbow_hidden_size=6,
    dbow_relu=has_relu,
    video_level_classifier_model="LogisticModel",
  )
  weights = {**random_weights(model), **random_statistics(model)}
  # The second feature has an eighth as many words.
  assert weights["feature_0_clusters/kernel"].shape == (3, 24)
  assert weights["feature_1_clusters/kernel"].shape == (2, 3)
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    assigned = assigned_features(frames[video], indices, weights)
    words = np.concatenate(
      [unit(assignment.sum(axis=0)) for _, _, assignment in assigned]
    )
    hidden = dense(words, weights, "hidden")
    if has_relu:
      hidden = relu(normalized(hidden, weights, "hidden_bn"))
    expected.append(classified(hidden, weights, "fully_connected"))
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-5
  )


def normalization_weights(name, size):
  """Path and shape of each weight of batch normalization."""
  vectors = ("gamma", "beta", "moving_mean", "moving_variance")
  return [
    *((f"{name}/{vector}", (size,)) for vector in vectors),
    (f"{name}/num_updates", ()),
  ]


def test_soft_dbow_of_an_earlier_version_keeps_its_weights():
  model_class = models.find_class_by_name("SoftDbowModel")
  model = build(
    "SoftDbowModel",
    "3,2",
    3,
    dbow_cluster_size=8,
    dbow_hidden_size=4,
    video_level_classifier_model="LogisticModel",
    **model_class.earlier_defaults,
  )
  # What that version built, in its order.
  assert [(weight.path, weight.shape) for weight in model.weights] == [
    *normalization_weights("input_bn", 5),
    ("feature_0_clusters/kernel", (3, 8)),
    ("feature_1_clusters/kernel", (2, 2)),
    *normalization_weights("feature_0_clusters_bn", 8),
    *normalization_weights("feature_1_clusters_bn", 2),
    ("hidden/kernel", (10, 4)),
    ("hidden/bias", (4,)),
    *normalization_weights("hidden_bn", 4),
    ("fully_connected/kernel", (4, 3)),
    ("fully_connected/bias", (3,)),
  ]


@pytest.mark.parametrize("name", PREFIXES)
def test_the_hidden_layer_starts_as_the_winners(name):
  prefix = PREFIXES[name]
  given = {f"{prefix}_cluster_size": 16, f"{prefix}_hidden_size": 400}
  model = build(name, "3,2", 3, **given)
  weights = {weight.path: weight.numpy() for weight in model.weights}
  # Of the 16 clusters of the first feature, whatever the inputs. 6 standard
  # errors: 6 / sqrt(2 n) of the deviation.
  kernel, bias = weights["hidden/kernel"], weights["hidden/bias"]
  tolerance = 6.0 / math.sqrt(2 * kernel.size)
  assert kernel.std() == pytest.approx(0.25, rel=tolerance)
  assert abs(kernel.mean()) < 0.25 * 6.0 / math.sqrt(kernel.size)
  assert bias.std() == pytest.approx(0.01, rel=6.0 / math.sqrt(2 * 400))


@pytest.mark.parametrize(
  ("name", "given", "penalty"),
  [
    ("NetVladModel", {}, 1e-6),
    ("NetFvModel", {}, 1e-6),
    ("SoftDbowModel", {}, 1e-8),
    ("NetVladModel", {"l2_penalty": 0.5}, 0.5),
  ],
)
def test_only_the_kernels_of_the_classifier_are_penalized(name, given, penalty):
  prefix = PREFIXES[name]
  sizes = {f"{prefix}_cluster_size": 8, f"{prefix}_hidden_size": 4}
  model = build(name, "3,2", 3, **sizes, **given)
  weights = random_weights(model)
  expected = 0.0
  for layer in ("gates", "experts"):
    for row in weights[f"{layer}/kernel"]:
      expected += 0.5 * penalty * sum(row**2)
  loss = models.regularization_loss(model, {})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def moe_parameters(gating):
  """Of MoeModel on 1024 numbers: 3 gates, 2 experts with biases."""
  return 3862 * (3 * 1024 + 2 * 1025) + gating * (3862**2 + 2 * 3862)


# BN of the frames; hidden layer; gate.
@pytest.mark.parametrize(
  ("name", "expected"),
  [
    (
      "NetVladModel",
      2 * 1152
      # Assignment with BN, centers, of rgb and of audio.
      + 256 * (1024 + 2 + 1024)
      + 128 * (128 + 2 + 128)
      + (256 * 1024 + 128 * 128 + 1) * 1024
      + 1024**2
      + 2 * 1024
      + moe_parameters(gating=True),
    ),
    (
      "NetFvModel",
      2 * 1152
      + 128 * (1024 + 2 + 2 * 1024)
      + 64 * (128 + 2 + 2 * 128)
      + (2 * 128 * 1024 + 2 * 64 * 128 + 1) * 1024
      + 1024**2
      + 2 * 1024
      + moe_parameters(gating=True),
    ),
    (
      "SoftDbowModel",
      2 * 1152
      + 8000 * (1024 + 2)
      + 1000 * (128 + 2)
      + 9001 * 1024
      + moe_parameters(gating=False),
    ),
  ],
)
def test_parameters_of_the_published_models(name, expected):
  preset = models.find_class_by_name(name).presets["published"]
  sizes = {key: preset[key] for key in models.resolve_hyperparameters(name)}
  assert count_trainable(name, "1024,128", 3862, **sizes) == expected


@pytest.mark.parametrize("name", PREFIXES)
def test_the_defaults_are_the_published_sizes(name):
  model_class = models.find_class_by_name(name)
  preset = model_class.presets["published"]
  resolved = models.resolve_hyperparameters(name)
  assert {key: preset[key] for key in resolved} == resolved
  assert preset["input_transform"] == model_class.input_transform
