"""Tests of reports.class_graph."""

import numpy as np
import pytest

from reports import class_graph
from reports.class_graph import Edge, places, strongest_edges


def test_strongest_edges():
  together = np.array(
    [
      [16, 8, 0, 0, 0, 0],
      [8, 4, 1, 1, 1, 1],
      [0, 1, 9, 0, 0, 0],
      [0, 1, 0, 9, 0, 0],
      [0, 1, 0, 0, 1, 0],
      [0, 1, 0, 0, 0, 25],
    ]
  )
  assert strongest_edges(together) == [
    Edge(0, 1, 8, 1.0),  # 8 / sqrt(16 * 4)
    # Of class 1 the three strongest are 0, 4 and 2; 3 and 5 choose it.
    Edge(1, 2, 1, pytest.approx(1 / 6)),
    Edge(1, 3, 1, pytest.approx(1 / 6)),
    Edge(1, 4, 1, pytest.approx(1 / 2)),
    Edge(1, 5, 1, pytest.approx(1 / 10)),
  ]
  assert together[0, 0] == 16
  assert strongest_edges(np.zeros((3, 3), int)) == []


def test_classes_that_occur_together_are_near():
  edges = [
    Edge(one, other, 1, 0.9)
    for group in (range(4), range(4, 8))
    for one in group
    for other in group
    if one < other
  ]
  at = places(8, edges)
  distance = np.linalg.norm(at[:, None] - at[None], axis=2)
  same = np.kron(np.eye(2), np.ones((4, 4))).astype(bool)
  np.fill_diagonal(same, False)
  other = np.kron(1 - np.eye(2), np.ones((4, 4))).astype(bool)
  assert distance[same].mean() < 0.6 * distance[other].mean()


@pytest.mark.parametrize("count", [2, 3, 12, 28])
def test_labels_lie_inside_and_not_on_each_other(count):
  random = np.random.default_rng(count)
  edges = [
    Edge(one, other, 1, float(random.random()))
    for one in range(count)
    for other in range(one + 1, count)
    if random.random() < 3 / count
  ]
  at = places(count, edges)
  np.testing.assert_array_equal(at, places(count, edges))
  assert at.shape == (count, 2)
  assert at.min() >= 0
  assert at.max() <= 1
  apart = np.abs(at[:, None] - at[None])
  overlap = (apart[..., 0] < 0.9 * class_graph._LABEL_WIDTH) & (
    apart[..., 1] < 0.9 * class_graph._LABEL_HEIGHT
  )
  assert overlap.sum() == count  # each with itself


def test_one_class_is_in_the_middle():
  assert places(1, []).tolist() == [[0.5, 0.5]]
  assert places(0, []).shape == (0, 2)
