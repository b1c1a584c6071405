"""Tests of the best threshold, against every threshold there is."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

import errors
from engine import f1_threshold, prediction_columns
from engine.f1_threshold import best_threshold
from engine.prediction_columns import PredictionColumns


def fill(predictions, labels, rated=None) -> PredictionColumns:
  columns = PredictionColumns(predictions.shape[1])
  columns.add(predictions, labels, rated)
  return columns


def every_threshold(predictions, labels) -> tuple[float, float]:
  """The largest F1 and the largest threshold that has it."""
  best = (0.0, 0.0)
  for value in np.unique(predictions):
    decided = predictions >= value
    hits = np.count_nonzero(decided & labels)
    f1 = 2 * hits / (np.count_nonzero(decided) + np.count_nonzero(labels))
    best = max(best, (f1, float(value)))
  decided = predictions >= best[1]
  assert best[0] == pytest.approx(f1_score(labels, decided), abs=1e-12)
  return best


def draw(kind: str, seed: int):
  random = np.random.default_rng(seed)
  shape = (40, 6)
  predictions = random.random(shape)
  if kind == "near 0":
    predictions = predictions**8
  elif kind == "near 0.5":  # in one range of the upper bits
    predictions = 0.5 + 1e-3 * predictions
  elif kind == "ties":
    predictions = random.integers(9, size=shape) / 8
  elif kind == "equal":
    predictions[:] = 0.3
  elif kind == "zeros and ones":
    predictions = random.integers(2, size=shape)
  labels = random.random(shape) < 0.3
  if kind == "good":
    predictions = 0.7 * predictions + 0.3 * labels
  labels[0, 0] = True
  return predictions.astype(np.float32), labels


@pytest.mark.parametrize("ranges_at_a_time", [1, 64])
@pytest.mark.parametrize(
  "kind",
  ["any", "near 0", "near 0.5", "ties", "equal", "zeros and ones", "good"],
)
def test_the_best_of_all(kind, ranges_at_a_time, monkeypatch):
  monkeypatch.setattr(f1_threshold, "_RANGES_AT_A_TIME", ranges_at_a_time)
  for seed in range(3):
    predictions, labels = draw(kind, seed)
    _, expected = every_threshold(predictions.ravel(), labels.ravel())
    assert best_threshold(fill(predictions, labels)) == expected


def test_many_blocks(monkeypatch):
  monkeypatch.setattr(prediction_columns, "_BLOCK_BYTES", 7 * 6 * 4)
  predictions, labels = draw("good", 5)
  _, expected = every_threshold(predictions.ravel(), labels.ravel())
  columns = PredictionColumns(6, memory_bytes=0)
  columns.add(predictions, labels)
  with columns:
    assert best_threshold(columns) == expected


def test_pairs_that_do_not_count():
  predictions, labels = draw("any", 1)
  rated = np.random.default_rng(0).random(labels.shape) < 0.5
  _, of_rated = every_threshold(predictions[rated], labels[rated])
  _, of_all = every_threshold(predictions.ravel(), labels.ravel())
  assert of_rated != of_all
  assert best_threshold(fill(predictions, labels & rated, rated)) == of_rated


@pytest.fixture
def counted(monkeypatch):
  """The ranges whose lower bits are counted."""
  found = []

  def count(columns, ranges):
    found.extend(ranges.tolist())
    return original(columns, ranges)

  original = f1_threshold._count_lower_bits
  monkeypatch.setattr(f1_threshold, "_count_lower_bits", count)
  return found


def test_only_promising_ranges_are_counted_twice(counted):
  predictions, labels = draw("good", 0)
  best_threshold(fill(predictions, labels))
  with_labels = np.unique(predictions[labels].view(np.uint32) >> 16)
  assert 1 <= len(counted) < len(with_labels) / 2


def test_what_a_range_finds_counts_as_predicted(counted):
  # At 0.9 two of four labels and nothing else: 4 / (2 + 4) = 0.667. At 0.5 the
  # other two, below 5 that are none: at most 8 / (9 + 4) = 0.615.
  predictions = np.array([[0.9] * 2 + [0.7] * 5 + [0.5] * 2], np.float32)
  labels = np.array([[True] * 2 + [False] * 5 + [True] * 2])
  assert best_threshold(fill(predictions, labels)) == np.float32(0.9)
  assert counted == [np.float32(0.9).view(np.uint32) >> 16]


def test_predictions_that_rounding_puts_outside():
  predictions = np.array([[1.0009], [-0.0009], [0.5]], np.float32)
  labels = np.array([[True], [False], [False]])
  assert best_threshold(fill(predictions, labels)) == predictions[0, 0]
  # A label below 0 is found at 0.
  assert best_threshold(fill(predictions[1:2], labels[:1])) == 0.0


def test_without_labels():
  predictions, labels = draw("any", 0)
  with pytest.raises(
    errors.UserError,
    match="Expected labels in the files of --threshold_data_pattern, received"
    " none",
  ):
    best_threshold(fill(predictions, np.zeros_like(labels)))
