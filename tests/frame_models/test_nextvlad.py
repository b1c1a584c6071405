"""Tests of frame_models.nextvlad."""

import math

import keras
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
  run,
  sigmoid,
  softmax,
  valid_parts,
  vlad,
)

import models


def normalized_together(values, weights, name, training):
  """Batch normalization of what each video has, frames or a vector."""
  statistics = ()
  if training:
    together = np.concatenate([np.atleast_2d(x) for x in values])
    statistics = together.mean(axis=0), together.var(axis=0)
  return [normalized(x, weights, name, *statistics) for x in values]


def next_vlad_logits(valid, weights, num_clusters, training, prefix=""):
  """The logits for the valid frames of videos, without dropout.

  The first feature has 2 groups; the second 1, and half as many clusters.
  """
  weights = {
    path.removeprefix(prefix): value
    for path, value in weights.items()
    if path.startswith(prefix)
  }

  def together(values, name):
    return normalized_together(values, weights, name, training)

  pooled = [[] for _ in valid]
  for index, features in enumerate((slice(0, 3), slice(3, 5))):
    name, groups = f"feature_{index}", 2 - index
    clusters = num_clusters // (index + 1)
    expanded = [
      dense(frames[:, features], weights, f"{name}_expansion")
      for frames in valid
    ]
    scores = together(
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
    for video, vector in enumerate(together(vectors, f"{name}_vlad_bn")):
      pooled[video].append(vector)
  hidden = together(
    [dense(np.concatenate(x), weights, "hidden") for x in pooled], "hidden_bn"
  )
  gates = together(
    [dense(x, weights, "gate_inner") for x in hidden], "gate_inner_bn"
  )
  gates = [classified(relu(x), weights, "gate_outer") for x in gates]
  return [
    dense(x * gate, weights, "classifier")
    for x, gate in zip(hidden, gates, strict=True)
  ]


SMALL_NEXT_VLAD = {
  "nextvlad_groups": 2,
  "nextvlad_hidden_size": 6,
  "nextvlad_gating_reduction": 2,
  "dropout_rate": 0.0,
}
SMALL_MIXTURE = {
  **SMALL_NEXT_VLAD,
  "mix_branches": 2,
  "nextvlad_cluster_size": 4,
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
  expected = sigmoid(
    np.array(
      next_vlad_logits(
        valid_parts(frames, NUM_FRAMES), weights, clusters, training
      )
    )
  )
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES, training), expected, atol=1e-4
  )


@pytest.mark.parametrize("name", ["NextVladModel", "MixNextVladModel"])
def test_groups_that_do_not_fit_are_refused(name):
  with pytest.raises(ValueError, match=r"^Expected .* --nextvlad_groups"):
    build(name, "3,2", 4, nextvlad_groups=4)


@pytest.mark.parametrize("training", [True, False])
def test_mix_next_vlad_model_against_plain_loops(training):
  model = build("MixNextVladModel", "3,2", 3, **SMALL_MIXTURE)
  weights = {**random_weights(model), **random_statistics(model)}
  frames = random_frames(NUM_FRAMES, 9, 5)
  valid = valid_parts(frames, NUM_FRAMES)
  # (branches, videos, classes)
  branches = np.array(
    [
      next_vlad_logits(valid, weights, 4, training, f"branch_{n}_")
      for n in range(2)
    ]
  )
  means = [video.mean(axis=0) for video in valid]
  means = normalized_together(means, weights, "mixture_bn", training)
  mixture, loss = np.zeros((3, 3)), 0.0
  for video, mean in enumerate(means):
    shares = softmax(dense(mean, weights, "mixture"))
    for share, branch in zip(shares, branches[:, video], strict=True):
      mixture[video] += share * branch
    log_p = np.log(softmax(mixture[video] / 3.0))
    for branch in branches[:, video]:
      log_q = np.log(softmax(branch / 3.0))
      loss += 9.0 * sum(np.exp(log_p) * (log_p - log_q)) / 3
  outputs = run(model, frames, NUM_FRAMES, training)
  np.testing.assert_allclose(
    outputs["predictions"], sigmoid(mixture), atol=1e-4
  )
  assert len(outputs["auxiliary_predictions"]) == 2
  for received, expected in zip(
    outputs["auxiliary_predictions"], sigmoid(branches), strict=True
  ):
    np.testing.assert_allclose(received, expected, atol=1e-4)
  (received,) = outputs["auxiliary_losses"].values()
  assert loss > 0.01
  np.testing.assert_allclose(received, loss * training, rtol=1e-3)


def test_branches_have_weights_and_dropout_of_their_own():
  model = build(
    "MixNextVladModel", "3,2", 3, **{**SMALL_MIXTURE, "dropout_rate": 0.5}
  )
  branches = [
    {
      weight.path.removeprefix(prefix): weight.numpy()
      for weight in model.trainable_variables
      if weight.path.startswith(prefix)
    }
    for prefix in ("branch_0_", "branch_1_")
  ]
  assert branches[0].keys() == branches[1].keys()
  assert (
    abs(branches[0]["hidden/kernel"] - branches[1]["hidden/kernel"]).max() > 0.1
  )
  masks = [
    layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)
  ]
  draws = [layer(np.ones((50, 50)), training=True) for layer in masks]
  assert len(draws) == 2
  assert (draws[0] != draws[1]).numpy().any()


def test_initial_weights_are_those_of_he():
  # Enough numbers for 6 standard errors, 6 / sqrt(2 n), below 10 %.
  model = build(
    "NextVladModel",
    "100,40",
    40,
    nextvlad_cluster_size=64,
    nextvlad_groups=4,
    nextvlad_hidden_size=80,
    nextvlad_gating_reduction=2,
  )
  weights = {weight.path: weight.numpy() for weight in model.weights}
  fans = {
    "feature_0_expansion/kernel": 100,
    "feature_0_clusters/kernel": 200,
    # Parts of 200 / 4 and of 80 / 2 numbers.
    "feature_0_vlad/vlad/centers": 50,
    "feature_1_vlad/vlad/centers": 40,
    "hidden/kernel": 64 * 50 + 32 * 40,
    "gate_inner/kernel": 80,
    "gate_outer/kernel": 40,
    "classifier/kernel": 80,
  }
  for path, fan in fans.items():
    values = weights[path]
    error = 6.0 / math.sqrt(2 * values.size)
    assert error < 0.13
    assert values.std() == pytest.approx(math.sqrt(2 / fan), rel=error), path
    # Nothing beyond two deviations of the normal distribution that is cut.
    assert abs(values).max() < 2.0 * math.sqrt(2 / fan) / 0.8796, path


@pytest.mark.parametrize(
  ("name", "classifiers"),
  [
    ("NextVladModel", ["classifier"]),
    ("MixNextVladModel", ["branch_0_classifier", "branch_1_classifier"]),
  ],
)
@pytest.mark.parametrize(
  ("given", "penalty"), [({}, 1e-5), ({"l2_penalty": 0.5}, 0.5)]
)
def test_the_classifier_is_penalized_with_its_bias(
  name, classifiers, given, penalty
):
  model = build(name, "3,2", 3, **SMALL_MIXTURE, **given)
  weights = random_weights(model)
  expected = 0.0
  for layer in classifiers:
    for part in ("kernel", "bias"):
      for value in weights[f"{layer}/{part}"].flatten():
        expected += 0.5 * penalty * value**2
  loss = models.regularization_loss(model, {})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


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


def pooling_parameters(size, clusters, groups):
  """Of a feature: expansion, attention, assignment with BN, centers, BN."""
  wide = 2 * size
  vector = clusters * wide // groups
  return (
    (size + 1) * wide
    + (wide + 1) * groups
    + (wide + 2) * groups * clusters
    + vector
    + 2 * vector
  )


def network_parameters(clusters, reduction):
  """Of NextVladModel with 8 groups and 2048 hidden units; 3862 classes."""
  vectors = clusters * 2048 // 8 + clusters // 2 * 256 // 4
  inner = 2048 // reduction
  return (
    pooling_parameters(1024, clusters, 8)
    + pooling_parameters(128, clusters // 2, 4)
    + (vectors + 2) * 2048
    + (2048 + 2) * inner
    + inner * 2048
    + 2049 * 3862
  )


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("NextVladModel", network_parameters(128, 8)),
    # And BN of the mean frame, and the shares of the three.
    (
      "MixNextVladModel",
      3 * network_parameters(112, 16) + 2 * 1152 + 1153 * 3,
    ),
  ],
)
def test_parameters_of_the_published_models(name, expected):
  preset = models.find_class_by_name(name).presets["published"]
  sizes = {key: preset[key] for key in models.resolve_hyperparameters(name)}
  assert count_trainable(name, "1024,128", 3862, **sizes) == expected


@pytest.mark.parametrize("name", ["NextVladModel", "MixNextVladModel"])
def test_the_defaults_are_the_published_sizes(name):
  model_class = models.find_class_by_name(name)
  preset = model_class.presets["published"]
  resolved = models.resolve_hyperparameters(name)
  assert {key: preset[key] for key in resolved} == resolved
  assert preset["input_transform"] == model_class.input_transform == "dewhiten"
