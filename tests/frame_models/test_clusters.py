"""Tests of frame_models.clusters."""

import math

import numpy as np
import pytest
from small_models import (
  NUM_FRAMES,
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
  valid_parts,
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
  published = models.find_class_by_name(name).presets["published"]
  assert count_trainable(name, "1024,128", 3862, **published) == expected


@pytest.mark.parametrize("name", PREFIXES)
def test_published_settings_are_complete(name):
  preset = models.find_class_by_name(name).presets["published"]
  assert set(models.resolve_hyperparameters(name)) <= set(preset)
  assert preset["max_steps"] > 0


def next_vlad_predictions(valid, weights, num_clusters, training):
  """The predictions for the valid frames of videos, without dropout.

  The first feature has 2 groups; the second 1, and half as many clusters.
  """

  def normalized_together(values, name):
    """Batch normalization of what each video has, frames or a vector."""
    statistics = ()
    if training:
      together = np.concatenate([np.atleast_2d(x) for x in values])
      statistics = together.mean(axis=0), together.var(axis=0)
    return [normalized(x, weights, name, *statistics) for x in values]

  pooled = [[] for _ in valid]
  for index, features in enumerate((slice(0, 3), slice(3, 5))):
    name, groups = f"feature_{index}", 2 - index
    clusters = num_clusters // (index + 1)
    expanded = [
      dense(frames[:, features], weights, f"{name}_expansion")
      for frames in valid
    ]
    scores = normalized_together(
      [dense(frames, weights, f"{name}_clusters") for frames in expanded],
      f"{name}_clusters_bn",
    )
    vectors = []
    for frames, score in zip(expanded, scores, strict=True):
      attention = classified(frames, weights, f"{name}_attention")
      # (frames, groups, ...) -> frames and groups in one dimension.
      assignment = softmax(score.reshape(-1, groups, clusters))
      assignment = assignment * attention[:, :, None]
      vectors.append(
        vlad(
          frames.reshape(len(frames) * groups, -1),
          assignment.reshape(-1, clusters),
          weights[f"{name}_vlad/vlad/centers"],
        )
      )
    for video, vector in enumerate(
      normalized_together(vectors, f"{name}_vlad_bn")
    ):
      pooled[video].append(vector)
  hidden = normalized_together(
    [dense(np.concatenate(x), weights, "hidden") for x in pooled], "hidden_bn"
  )
  gates = normalized_together(
    [dense(x, weights, "gate_inner") for x in hidden], "gate_inner_bn"
  )
  gates = [classified(relu(x), weights, "gate_outer") for x in gates]
  return [
    classified(x * gate, weights) for x, gate in zip(hidden, gates, strict=True)
  ]


SMALL_NEXT_VLAD = {
  "nextvlad_groups": 2,
  "nextvlad_hidden_size": 6,
  "nextvlad_gating_reduction": 2,
  "dropout_rate": 0.0,
}


# With two clusters the second feature has one: a single score to normalize, and
# a softmax that is 1, which Keras warns about.
@pytest.mark.filterwarnings("ignore:You are using a softmax")
@pytest.mark.parametrize("clusters", [4, 2])
@pytest.mark.parametrize("training", [True, False])
def test_next_vlad_model_against_plain_loops(clusters, training):
  model = build(
    "NextVladModel",
    "3,2",
    3,
    nextvlad_cluster_size=clusters,
    **SMALL_NEXT_VLAD,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  for layer in ("feature_0_clusters", "hidden", "gate_inner", "gate_outer"):
    assert f"{layer}/bias" not in weights
  frames = random_frames(NUM_FRAMES, 9, 5)
  expected = next_vlad_predictions(
    valid_parts(frames, NUM_FRAMES), weights, clusters, training
  )
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES, training), expected, atol=1e-4
  )


def test_next_vlad_model_refuses_groups_that_do_not_fit():
  with pytest.raises(ValueError, match="--nextvlad_groups"):
    build("NextVladModel", "3,2", 4, nextvlad_groups=4)


@pytest.mark.parametrize(
  ("name", "hyperparameters", "millions"),
  [
    ("NextVladModel", {}, 88.9),
    ("NextVladModel", {"nextvlad_cluster_size": 112}, 79.2),
  ],
)
def test_sizes_are_the_published_ones(name, hyperparameters, millions):
  count = count_trainable(name, "1024,128", 3862, **hyperparameters)
  assert count / 1e6 == pytest.approx(millions, rel=0.002)
