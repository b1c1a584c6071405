"""Tests of metrics on request over batches, against scikit-learn."""

import csv

import numpy as np
import pytest
from sklearn import metrics as reference

import errors
import requested_metrics
from engine import requested_scores
from engine.forward import Progress
from engine.requested_scores import Request, RequestedScores, write_by_class
from requested_metrics import RequestedMetric, find_metrics

NUM_CLASSES = 6
ALL = ",".join(requested_metrics.names())
THRESHOLD = 5 / 8


def draw(seed=0, num_videos=120):
  """Predictions with ties and labels; class 1 has no labels."""
  random = np.random.default_rng(seed)
  shape = (num_videos, NUM_CLASSES)
  predictions = (random.integers(9, size=shape) / 8).astype(np.float32)
  labels = random.random(shape) < 0.5 * predictions
  labels[:, 1] = False
  # Some have exactly one label, which is predicted.
  labels[:20] = False
  labels[np.arange(20), predictions[:20].argmax(axis=1)] = True
  labels[:20, 1] = False
  return predictions, labels.astype(np.uint8)


def compute(predictions, labels, weights=None, metrics=ALL, batch_size=50):
  scores = RequestedScores(
    find_metrics(metrics), predictions.shape[1], THRESHOLD
  )
  with scores:
    for first in range(0, len(predictions), batch_size):
      part = slice(first, first + batch_size)
      given = None if weights is None else weights[part]
      scores.accumulate(predictions[part], labels[part], given)
    return scores.compute()


def of_largest(predictions):
  """One-hot rows, of the first of the largest."""
  rows = np.zeros_like(predictions, dtype=int)
  rows[np.arange(len(rows)), predictions.argmax(axis=1)] = 1
  return rows


def test_all_pairs_count():
  predictions, labels = draw()
  scores, by_class = compute(predictions, labels)

  def f1(decided, average):
    return reference.f1_score(labels, decided, average=average, zero_division=0)

  halves, best = predictions >= 0.5, predictions >= THRESHOLD
  largest = of_largest(predictions)
  with_both = [0, 2, 3, 4, 5]
  aucs = reference.roc_auc_score(
    labels[:, with_both], predictions[:, with_both], average=None
  )
  precisions = reference.average_precision_score(
    labels[:, with_both], predictions[:, with_both], average=None
  )
  assert scores == pytest.approx(
    {
      "f1_micro": f1(halves, "micro"),
      "f1_macro": f1(halves, "macro"),
      "best_f1_micro": f1(best, "micro"),
      "best_f1_macro": f1(best, "macro"),
      "best_f1_threshold": THRESHOLD,
      "auc": np.mean(aucs),
      "d_prime": requested_metrics.d_prime(np.mean(aucs)),
      "full_map": np.mean(precisions),
      "accuracy": reference.accuracy_score(labels, largest),
      "accuracy_f1_micro": f1(largest, "micro"),
      "accuracy_f1_macro": f1(largest, "macro"),
    },
    abs=1e-12,
  )
  assert 0.1 < scores["accuracy"] < 0.9
  assert list(by_class) == [
    "positives",
    "f1",
    "best_f1",
    "auc",
    "d_prime",
    "average_precision",
    "accuracy_f1",
  ]
  np.testing.assert_array_equal(by_class["positives"], labels.sum(axis=0))
  for title, decided in (
    ("f1", halves),
    ("best_f1", best),
    ("accuracy_f1", largest),
  ):
    np.testing.assert_allclose(by_class[title], f1(decided, None), atol=1e-12)
  for title, values in (("auc", aucs), ("average_precision", precisions)):
    np.testing.assert_allclose(by_class[title][with_both], values, atol=1e-12)
    assert np.isnan(by_class[title][1])


def test_pairs_of_weight_0_do_not_count():
  predictions, labels = draw(1)
  random = np.random.default_rng(2)
  weights = 0.5 * (random.random(labels.shape) < 0.4)
  weights[:, 3] = 0
  weights[7] = 0  # a segment without ratings
  rated = weights > 0
  scores, by_class = compute(predictions, labels, weights)
  f1s, aucs, precisions = [], [], []
  for index in range(NUM_CLASSES):
    counts = rated[:, index]
    values, positive = predictions[counts, index], labels[counts, index]
    if not counts.any():
      continue
    f1s.append(reference.f1_score(positive, values >= 0.5, zero_division=0))
    if positive.any():
      precisions.append(reference.average_precision_score(positive, values))
      aucs.append(reference.roc_auc_score(positive, values))
  assert len(f1s) == 5
  assert len(aucs) == 4
  micro = reference.f1_score(labels[rated], predictions[rated] >= 0.5)
  largest = of_largest(np.where(rated, predictions, -1)) * rated
  assert scores["f1_micro"] == pytest.approx(micro, abs=1e-12)
  assert scores["f1_macro"] == pytest.approx(np.mean(f1s), abs=1e-12)
  assert scores["auc"] == pytest.approx(np.mean(aucs), abs=1e-12)
  assert scores["full_map"] == pytest.approx(np.mean(precisions), abs=1e-12)
  assert scores["accuracy"] == pytest.approx(
    reference.accuracy_score(labels * rated, largest), abs=1e-12
  )
  assert np.isnan(by_class["f1"][3])
  np.testing.assert_array_equal(
    by_class["positives"], (labels * rated).sum(axis=0)
  )


def test_batches_do_not_matter():
  predictions, labels = draw(4)
  whole, _ = compute(predictions, labels, batch_size=1000)
  assert compute(predictions, labels, batch_size=7)[0] == whole


def test_a_prediction_at_the_threshold_decides():
  scores, _ = compute(
    np.array([[0.5], [THRESHOLD]], np.float32), np.array([[1], [1]])
  )
  assert scores["f1_micro"] == 1.0
  assert scores["best_f1_micro"] == pytest.approx(2 / 3)


def test_only_what_is_asked_for():
  predictions, labels = draw()
  scores, by_class = compute(predictions, labels, metrics="auc")
  assert list(scores) == ["auc"]
  assert list(by_class) == ["positives", "auc"]
  assert compute(predictions, labels, metrics="") == ({}, {})


def test_a_function_and_a_line_add_a_metric(monkeypatch):
  def recall(decisions):
    return decisions.true_positives / np.maximum(decisions.positives, 1)

  def most_confident(column):
    return column.values[-1]

  table = (
    RequestedMetric("recall", "recall", "Recall", recall, title="recalls"),
    RequestedMetric("top", "top", "Top", of_column=most_confident),
    RequestedMetric("wrong", "wrong", "Wrong"),
  )
  monkeypatch.setattr(requested_metrics, "REQUESTED_METRICS", table)
  predictions = np.array([[0.75, 0.1], [0.25, 0.6]], np.float32)
  labels = np.array([[1, 0], [1, 1]])
  scores, by_class = compute(predictions, labels, metrics="recall,top")
  assert scores == pytest.approx({"recall": 0.75, "top": 0.675})
  assert list(by_class) == ["positives", "recalls", "top"]
  with pytest.raises(ValueError, match="Expected of_decisions or of_column of"):
    compute(predictions, labels, metrics="wrong")


class Tensor(np.ndarray):
  def numpy(self):
    return np.asarray(self)


class Forward:
  """Stands for a pass over two batches."""

  def __init__(self, predictions, labels, weights=None):
    self._given = predictions, labels, weights

  def run(self):
    for part in (slice(0, 50), slice(50, None)):
      predictions, labels, weights = (
        None if one is None else one[part] for one in self._given
      )
      batch = {"labels": labels.view(Tensor)}
      if weights is not None:
        batch["label_weights"] = weights.view(Tensor)
      yield batch, (predictions, None), Progress(50, 1.0, True)


@pytest.mark.parametrize("with_weights", [False, True])
def test_the_threshold_is_that_of_other_data(with_weights):
  predictions, labels = draw(8)
  rated = np.ones_like(labels)
  if with_weights:
    rated = (np.random.default_rng(3).random(labels.shape) < 0.3) * 1
  counts = rated > 0
  f1_of = {
    value: reference.f1_score(labels[counts], predictions[counts] >= value)
    for value in np.unique(predictions)
  }
  best = max(f1_of, key=f1_of.get)
  forward = Forward(predictions, labels, rated if with_weights else None)
  metrics = find_metrics("best_f1")
  others, their_labels = draw(9)
  with Request(metrics, forward).start(NUM_CLASSES) as scores:
    scores.accumulate(others, their_labels)
    computed, _ = scores.compute()
  assert computed["best_f1_threshold"] == best
  assert computed["best_f1_micro"] == pytest.approx(
    reference.f1_score(their_labels, others >= best, average="micro")
  )


def test_a_threshold_of_a_model_that_diverged():
  predictions, labels = draw()
  predictions[3, 4] = np.nan
  with pytest.raises(errors.UserError, match=r"columns \(classes\) 4\."):
    requested_scores.choose_threshold(Forward(predictions, labels), NUM_CLASSES)


def test_a_threshold_without_data():
  with pytest.raises(ValueError, match="Expected threshold_forward"):
    Request(find_metrics("best_f1")).start(NUM_CLASSES)


BY_CLASS = {
  "positives": np.array([1234567, 0]),
  "auc": np.array([0.25, np.nan]),
  "d_prime": np.array([np.inf, np.nan]),
}


def test_scores_by_class_are_written(tmp_path):
  path = tmp_path / "eval" / "table.csv"
  write_by_class(str(path), BY_CLASS, [4, 9], {4: 'a, "b"', 5: "c"})
  assert path.read_text() == (
    'index,name,positives,auc,d_prime\n4,"a, ""b""",1234567,0.25,inf\n9,,0,,\n'
  )
  assert [one.name for one in path.parent.iterdir()] == ["table.csv"]


def test_scores_by_class_without_names(tmp_path):
  path = tmp_path / "table.csv"
  write_by_class(str(path), BY_CLASS, range(2), {})
  assert path.read_text().splitlines()[:2] == [
    "index,positives,auc,d_prime",
    "0,1234567,0.25,inf",
  ]


def test_names_of_classes_are_read_back(tmp_path):
  path = tmp_path / "table.csv"
  names = dict(enumerate(["a,b", "a\nb", "a\rb", '"', "=cmd()", " x ", "'y"]))
  numbers = {"d_prime": np.full(len(names), -1.5)}
  for safe in (False, True):
    write_by_class(str(path), numbers, range(len(names)), names, safe)
    with path.open(newline="", encoding="utf-8") as file:
      _, *rows = csv.reader(file)
    assert {row[2] for row in rows} == {"-1.5"}
    found = dict(enumerate(row[1] for row in rows))
    assert found == ({**names, 4: "'=cmd()", 6: "''y"} if safe else names)
