"""Tests of reports.calibration."""

import json

import numpy as np
import pytest

from reports.calibration import NUM_BINS, Calibration, joined


def slow_error(predictions, labels):
  """The definition, one bin and one prediction at a time."""
  error = 0.0
  for number in range(NUM_BINS):
    low, high = number / NUM_BINS, (number + 1) / NUM_BINS
    inside = [
      (prediction, label)
      for prediction, label in zip(predictions, labels, strict=True)
      if low <= prediction < high or (prediction == 1 and number == 14)
    ]
    if inside:
      confidence = sum(prediction for prediction, _ in inside) / len(inside)
      accuracy = sum(label for _, label in inside) / len(inside)
      error += len(inside) / len(predictions) * abs(accuracy - confidence)
  return error


def test_by_hand():
  found = Calibration()
  # Bins of 1/15: two predictions of 0.3 in the bin from 4/15 on, one of them a
  # label; 1.0 in the last bin.
  found.add(np.array([[0.3, 0.3], [0.0, 1.0]]), np.array([[1, 0], [0, 1]]))
  assert found.counts.tolist() == [1, *[0] * 3, 2, *[0] * 9, 1]
  assert found.total == 4
  assert found.error() == pytest.approx(2 / 4 * abs(0.5 - 0.3))
  predicted, observed = found.points()
  assert predicted == pytest.approx([0.0, 0.3, 1.0])
  assert observed.tolist() == [0.0, 0.5, 1.0]
  predicted, observed = found.points(at_least=2)
  assert predicted == pytest.approx([0.3])


@pytest.mark.parametrize("seed", range(5))
def test_error_is_the_definition(seed):
  random = np.random.default_rng(seed)
  predictions = random.random((40, 20)) ** 2
  predictions[0, :2] = 0, 1
  labels = random.random((40, 20)) < predictions**1.5
  found = Calibration()
  for rows in (slice(0, 7), slice(7, 40)):  # however they arrive
    found.add(predictions[rows], labels[rows])
  expected = slow_error(predictions.ravel(), labels.ravel())
  assert found.error() == pytest.approx(expected, rel=1e-9)
  assert expected > 0.01


def test_float32_and_true_probabilities():
  random = np.random.default_rng(0)
  predictions = random.random(200_000).astype(np.float32)
  found = Calibration()
  found.add(predictions, random.random(200_000) < predictions)
  assert found.error() < 0.01
  assert Calibration().error() == 0.0


def test_joined_runs_are_like_one():
  random = np.random.default_rng(1)
  parts = [random.random(50) for _ in range(3)]
  labels = [random.random(50) < 0.3 for _ in range(3)]
  whole, kept = Calibration(), []
  for predictions, of in zip(parts, labels, strict=True):
    whole.add(predictions, of)
    one = Calibration()
    one.add(predictions, of)
    kept.append(json.loads(json.dumps(one.as_json())))
  together = joined(kept)
  assert together.error() == pytest.approx(whole.error())
  np.testing.assert_array_equal(together.counts, whole.counts)
