"""How far probabilities can be believed: reliability and calibration error.

Of all predictions near 0.3, three of ten should be labels. Predictions are
counted in bins of equal width; the expected calibration error is the mean
distance of a bin's labels from its predictions, weighted by how many
predictions the bin has.

Source: Guo et al., "On Calibration of Modern Neural Networks", 2017,
https://arxiv.org/abs/1706.04599.
"""

from collections.abc import Sequence

import numpy as np

NUM_BINS = 15


class Calibration:
  """Sums of predictions in bins, which arrive in batches.

  Attributes:
    counts: (NUM_BINS,) int64, predictions in each bin.
    predicted: (NUM_BINS,) float64, their sums.
    labels: (NUM_BINS,) int64, how many of them are labels.
  """

  def __init__(self):
    self.counts = np.zeros(NUM_BINS, np.int64)
    self.predicted = np.zeros(NUM_BINS)
    self.labels = np.zeros(NUM_BINS, np.int64)

  def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Adds predictions.

    Args:
      predictions: floats from 0 to 1, of any shape. A bin includes its lower
        end, the last one both.
      labels: of the same shape, those above 0 are labels.
    """
    predictions = np.asarray(predictions).ravel()
    bins = (predictions * NUM_BINS).astype(np.int64)
    bins = np.clip(bins, 0, NUM_BINS - 1)
    self.counts += np.bincount(bins, minlength=NUM_BINS)
    self.predicted += np.bincount(bins, predictions, NUM_BINS)
    hits = np.asarray(labels).ravel() > 0
    self.labels += np.bincount(bins[hits], minlength=NUM_BINS)

  @property
  def total(self) -> int:
    """How many predictions there are."""
    return int(self.counts.sum())

  def error(self) -> float:
    """The expected calibration error; 0 without predictions."""
    distances = np.abs(self.predicted - self.labels)
    return float(distances.sum() / max(self.total, 1))

  def points(self, at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What a reliability diagram shows.

    Args:
      at_least: predictions that a bin needs to be shown.

    Returns:
      The mean prediction of each bin shown, and the share of labels in it.
    """
    shown = self.counts >= max(at_least, 1)
    counts = self.counts[shown]
    return self.predicted[shown] / counts, self.labels[shown] / counts

  def as_json(self) -> dict:
    """The sums, for a JSON file."""
    return {
      "counts": self.counts.tolist(),
      "predicted": self.predicted.tolist(),
      "labels": self.labels.tolist(),
    }


def joined(parts: Sequence[dict]) -> Calibration:
  """The sums of several runs together.

  Args:
    parts: results of Calibration.as_json.
  """
  whole = Calibration()
  for part in parts:
    whole.counts += np.array(part["counts"], np.int64)
    whole.predicted += np.array(part["predicted"])
    whole.labels += np.array(part["labels"], np.int64)
  return whole
