"""Precision and recall at all thresholds, as curves for TensorBoard."""

from collections.abc import Mapping, Sequence

import numpy as np
from tensorboard.plugins.pr_curve import summary as pr_summary

NUM_THRESHOLDS = 201
"""0, 0.005, ... 1: as many as TensorBoard takes by itself."""
NUM_CLASSES = 5
"""Classes that get a curve of their own, the most frequent ones."""


class PrecisionRecallCounts:
  """Counts the predictions of each class between two thresholds each.

  Takes 3 kB a class: 12 MB for YouTube-8M's.

  Args:
    num_classes: of the predictions.
  """

  def __init__(self, num_classes: int):
    self._num_classes = num_classes
    # Of each class, by the number of the largest threshold at or below the
    # prediction. The lowest is left out: most predictions are below the second,
    # and how many they are follows from the sums.
    shape = num_classes, NUM_THRESHOLDS
    self._positives = np.zeros(shape, np.int64)
    self._negatives = np.zeros(shape, np.int64)
    self._num_positives = np.zeros(num_classes, np.int64)
    self._num_negatives = np.zeros(num_classes, np.int64)

  def add(
    self,
    predictions: np.ndarray,
    labels: np.ndarray,
    rated: np.ndarray | None = None,
  ) -> None:
    """Adds a batch of videos.

    Args:
      predictions: (videos, classes) float32 from 0 to 1.
      labels: (videos, classes) bool, only at rated pairs.
      rated: (videos, classes) bool, the pairs that count; None for all.
    """
    positives = labels.sum(axis=0)
    num_rated = len(labels) if rated is None else rated.sum(axis=0)
    self._num_positives += positives
    self._num_negatives += num_rated - positives
    scaled = predictions.reshape(-1) * np.float32(NUM_THRESHOLDS - 1)
    is_counted = scaled >= 1
    if rated is not None:
      is_counted &= rated.reshape(-1)
    places = np.flatnonzero(is_counted)
    thresholds = scaled[places].astype(np.int64)
    # Predictions may exceed 1 by a rounding error.
    thresholds = np.minimum(thresholds, NUM_THRESHOLDS - 1)
    codes = places % self._num_classes * NUM_THRESHOLDS + thresholds
    is_positive = labels.reshape(-1)[places]
    for counts, chosen in (
      (self._positives, is_positive),
      (self._negatives, ~is_positive),
    ):
      found = np.bincount(codes[chosen], minlength=counts.size)
      counts += found.reshape(counts.shape)

  def most_frequent(self) -> list[int]:
    """The classes with the most labels, at most NUM_CLASSES, in this order.

    Of equally frequent ones, the lower index comes first.
    """
    order = np.argsort(-self._num_positives, kind="stable")[:NUM_CLASSES]
    return [int(index) for index in order if self._num_positives[index]]

  def curve(self, classes: Sequence[int] | None = None) -> dict:
    """The curve of some classes, whose predictions are taken together.

    Args:
      classes: columns of the predictions; None for all.

    Returns:
      {name: (thresholds,) float64}, named as the arguments of TensorBoard's
      raw_data_pb: true_positive_counts, false_positive_counts,
      true_negative_counts, false_negative_counts, precision, recall. Where
      nothing is predicted or labeled, precision and recall are 0.
    """
    chosen = slice(None) if classes is None else list(classes)
    at_or_above = []
    for counts, total in (
      (self._positives, self._num_positives),
      (self._negatives, self._num_negatives),
    ):
      summed = counts[chosen].sum(axis=0)[::-1].cumsum()[::-1]
      summed[0] = total[chosen].sum()  # every prediction is at 0 or above
      at_or_above.append(summed.astype(np.float64))
    hits, misses = at_or_above
    return {
      "true_positive_counts": hits,
      "false_positive_counts": misses,
      "true_negative_counts": misses[0] - misses,
      "false_negative_counts": hits[0] - hits,
      "precision": hits / np.maximum(hits + misses, 1),
      "recall": hits / max(hits[0], 1),
    }

  def summaries(
    self, scope: str, classes: Sequence[int], names: Mapping[int, str]
  ) -> list[bytes]:
    """The curves of all classes together and of the most frequent ones.

    Args:
      scope: "Eval", or "SegEval" for segments.
      classes: the class index of each column of the predictions.
      names: of class indices; may lack some.

    Returns:
      Serialized Summary messages, with the tags SCOPE_PR/all/pr_curves and
      SCOPE_PR/class_N/pr_curves.
    """
    shown = [(f"{scope}_PR/all", "all classes", self.curve())]
    for column in self.most_frequent():
      index = classes[column]
      title = f"class {index} {names.get(index, '')}".strip()
      curve = self.curve([column])
      shown.append((f"{scope}_PR/class_{index}", title, curve))
    return [
      pr_summary.raw_data_pb(
        tag, **curve, num_thresholds=NUM_THRESHOLDS, display_name=title
      ).SerializeToString()
      for tag, title, curve in shown
    ]
