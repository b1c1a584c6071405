"""Tests of layers.pooling."""

import math

import numpy as np
import pytest
from plain_loops import (
  CLUSTERS,
  NUM_FRAMES,
  SIZE,
  mask_of,
  masked_values,
  random_assignment,
  randomize,
  softmax,
  unit,
)

from layers import pooling


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("normalize_all", [True, False])
def test_vlad_against_a_plain_loop(residual, normalize_all):
  frames, assignment = masked_values(SIZE), random_assignment()
  layer = pooling.Vlad(residual, normalize_all, dtype="float64")
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
  layer = pooling.FisherVector(dtype="float64")
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
  vlad = pooling.Vlad()
  vlad.build(*shapes)
  fisher = pooling.FisherVector()
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
  layer = pooling.BagOfWords(dtype="float64")
  np.testing.assert_allclose(layer(assignment), expected, atol=1e-5)


def test_next_vlad_against_a_plain_loop():
  groups, part = 2, SIZE // 2
  frames = masked_values(SIZE)
  scores = masked_values(groups * CLUSTERS, seed=7)
  attention = np.abs(masked_values(groups, seed=8))
  layer = pooling.NextVlad(CLUSTERS, dtype="float64")
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
  layer = pooling.AttentionPooling(dtype="float64")
  pooled = layer(frames, scores, mask_of())
  np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_attention_pooling_of_large_scores():
  # All the weight is on the second frame; exp(300) overflows float32.
  frames = np.array([[[1.0], [2.0], [3.0]]])
  scores = np.array([[[200.0], [300.0], [999.0]]])
  mask = np.array([[True, True, False]])
  layer = pooling.AttentionPooling()
  np.testing.assert_allclose(layer(frames, scores, mask), [[[2.0]]])
  # Only the scores of valid frames count, however low they are.
  pooled = layer(frames, scores * [[[-1e4], [-1e4], [0]]], mask)
  np.testing.assert_allclose(pooled, [[[1.0]]])


def test_attention_cluster_against_a_plain_loop():
  pooled = np.random.default_rng(5).normal(size=(4, CLUSTERS, SIZE))
  layer = pooling.AttentionCluster(dtype="float64")
  layer.build(pooled.shape)
  randomize(layer)
  # One number per unit, not per feature.
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
