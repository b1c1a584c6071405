"""Tests of pr_curves, against TensorBoard's own computation."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.pr_curve import metadata
from tensorboard.plugins.pr_curve import summary as pr_summary

from engine.pr_curves import PrecisionRecallCounts

NUM_CLASSES = 9


@pytest.fixture
def examples():
  """Predictions float32 with 0, 1 and thresholds; labels; rated pairs."""
  random = np.random.default_rng(4)
  predictions = random.random((50, NUM_CLASSES)).astype(np.float32) ** 4
  predictions[:3] = 0.0
  predictions[3] = 1.0
  predictions[4] = np.float32(0.005)
  predictions[5] = np.float32(0.25)
  labels = random.random(predictions.shape) < 0.3
  labels[:, 7] = False
  return predictions, labels, random.random(predictions.shape) < 0.6


def tensor_of(summary) -> np.ndarray:
  (value,) = summary.value
  return tf.make_ndarray(value.tensor)


def as_table(curve) -> np.ndarray:
  """A curve as TensorBoard stores it, (6, thresholds)."""
  rows = [
    "true_positive_counts",
    "false_positive_counts",
    "true_negative_counts",
    "false_negative_counts",
    "precision",
    "recall",
  ]
  return np.stack([curve[row] for row in rows])


def reference(predictions, labels) -> np.ndarray:
  return tensor_of(pr_summary.pb("any", labels, predictions))


def test_curves_are_those_of_tensorboard(examples):
  predictions, labels, _ = examples
  counts = PrecisionRecallCounts(NUM_CLASSES)
  for part in np.array_split(np.arange(50), [1, 20, 20, 41]):
    counts.add(predictions[part], labels[part])
  for column in range(NUM_CLASSES):
    np.testing.assert_allclose(
      as_table(counts.curve([column])),
      reference(predictions[:, column], labels[:, column]),
      rtol=1e-6,
    )
  np.testing.assert_allclose(
    as_table(counts.curve()),
    reference(predictions.ravel(), labels.ravel()),
    rtol=1e-6,
  )


def test_only_rated_pairs_count(examples):
  predictions, labels, rated = examples
  counts = PrecisionRecallCounts(NUM_CLASSES)
  counts.add(predictions, labels & rated, rated)
  np.testing.assert_allclose(
    as_table(counts.curve()),
    reference(predictions[rated], labels[rated]),
    rtol=1e-6,
  )
  chosen = rated[:, 2]
  np.testing.assert_allclose(
    as_table(counts.curve([2])),
    reference(predictions[chosen, 2], labels[chosen, 2]),
    rtol=1e-6,
  )


def test_a_curve_by_hand():
  counts = PrecisionRecallCounts(2)
  counts.add(
    np.float32([[0.9, 0.1], [0.6, 0.0], [0.3, 1.0000001]]),
    np.array([[True, False], [False, False], [True, True]]),
  )
  curve = counts.curve([0])
  half = 100
  assert curve["true_positive_counts"][[0, half, 180, 181]].tolist() == [
    2,
    1,
    1,
    0,
  ]
  assert curve["false_positive_counts"][[0, half, 180]].tolist() == [1, 1, 0]
  assert curve["precision"][half] == 0.5
  assert curve["recall"][half] == 0.5
  # A rounding error above 1 counts as 1.
  assert counts.curve([1])["true_positive_counts"][200] == 1


def test_the_most_frequent_classes_have_curves():
  labels = np.zeros((6, 8), bool)
  for column, number in enumerate([1, 4, 0, 6, 4, 2, 1, 0]):
    labels[:number, column] = True
  counts = PrecisionRecallCounts(8)
  counts.add(np.full((6, 8), 0.5, np.float32), labels)
  assert counts.most_frequent() == [3, 1, 4, 5, 0]
  classes = [10, 11, 12, 13, 14, 15, 16, 17]
  found = [
    tf.compat.v1.Summary.FromString(one)
    for one in counts.summaries("Eval", classes, {13: "Dance", 10: ""})
  ]
  assert [
    (one.value[0].tag, one.value[0].metadata.display_name) for one in found
  ] == [
    ("Eval_PR/all/pr_curves", "all classes"),
    ("Eval_PR/class_13/pr_curves", "class 13 Dance"),
    ("Eval_PR/class_11/pr_curves", "class 11"),
    ("Eval_PR/class_14/pr_curves", "class 14"),
    ("Eval_PR/class_15/pr_curves", "class 15"),
    ("Eval_PR/class_10/pr_curves", "class 10"),
  ]
  plugin = found[0].value[0].metadata.plugin_data
  assert plugin.plugin_name == metadata.PLUGIN_NAME
  assert metadata.parse_plugin_metadata(plugin.content).num_thresholds == 201
  assert tensor_of(found[0]).shape == (6, 201)


def test_without_labels_there_is_the_curve_of_all():
  counts = PrecisionRecallCounts(3)
  counts.add(np.full((2, 3), 0.5, np.float32), np.zeros((2, 3), bool))
  assert counts.most_frequent() == []
  assert len(counts.summaries("Eval", [0, 1, 2], {})) == 1
  curve = counts.curve()
  assert curve["recall"].tolist() == [0.0] * 201
  assert curve["precision"].tolist() == [0.0] * 201
