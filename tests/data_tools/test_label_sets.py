"""Tests of data_tools.label_sets."""

import numpy as np

from data_tools import label_sets

# Labels of five videos.
VIDEOS = [[1, 4], [], [4], [1, 4, 9], [9]]


def make(videos):
  numbers = np.array([len(labels) for labels in videos], np.int32)
  flat = [index for labels in videos for index in labels]
  return label_sets.LabelSets(numbers, np.array(flat, np.int32))


def test_counts():
  labels = make(VIDEOS)
  assert list(labels.counts.items()) == [(4, 3), (1, 2), (9, 2)]
  assert labels.of(0) == [1, 4]
  assert labels.of(1) == []
  assert labels.of(3) == [1, 4, 9]
  some = labels.counts_of(np.array([True, True, False, False, True]))
  assert some == {1: 1, 4: 1, 9: 1}


def test_other_labels():
  labels = make(VIDEOS)
  assert labels.others(4, 5) == [1, 1, 1, 0, 0, 0]
  assert labels.others(4, 1) == [1, 2]
  assert labels.others(7, 2) == [0, 0, 0]
  assert labels.num_labels_with(9).tolist() == [3, 1]


def test_partners():
  labels = make(VIDEOS)
  assert list(labels.partners([1]).items()) == [(4, 2), (9, 1)]
  assert labels.partners([1, 4, 9]) == {}
  assert labels.partners([7]) == {}


def test_together():
  labels = make(VIDEOS)
  expected = [[2, 1, 1, 0], [1, 2, 2, 0], [1, 2, 3, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(labels.together([9, 1, 4, 7]), expected)
  assert labels.together([]).shape == (0, 0)


def test_together_of_more_videos_than_one_product_takes(monkeypatch):
  monkeypatch.setattr(label_sets, "_ROWS", 3)
  random = np.random.default_rng(0)
  has = random.random((20, 6)) < 0.4
  labels = make([np.flatnonzero(row).tolist() for row in has])
  order = [3, 0, 5]
  expected = has[:, order].T.astype(int) @ has[:, order]
  np.testing.assert_array_equal(labels.together(order), expected)


def test_no_videos():
  labels = make([])
  assert labels.counts == {}
  assert labels.others(0, 1) == [0, 0]
  assert labels.together([1]).tolist() == [[0]]
