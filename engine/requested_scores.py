"""Computes the metrics of requested_metrics.py over batches of videos."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

import errors
import ranking
from engine import csv_cells, f1_threshold
from engine.files import text_written_aside
from engine.forward import ForwardPass
from engine.prediction_columns import PredictionColumns
from requested_metrics import (
  BEST,
  HALF,
  LARGEST,
  Decisions,
  RequestedMetric,
  needs_threshold,
  score,
)


class _DecisionCounts:
  """Counts how often classes are decided for; see Decisions.

  Args:
    num_classes: of the predictions.
    threshold: of the decisions; None for the largest prediction.
  """

  def __init__(self, num_classes: int, threshold: float | None):
    self._num_classes = num_classes
    self._threshold = threshold
    self._num_videos = self._num_exact = 0
    self._true_positives, self._predicted, self._positives, self._rated = (
      np.zeros((4, num_classes), np.int64)
    )

  def _decide(self, predictions, rated):
    """The pairs decided for, as places in the flat array, ascending."""
    if self._threshold is not None:
      decided = predictions >= np.float32(self._threshold)
      return np.flatnonzero(decided if rated is None else decided & rated)
    if rated is not None:
      predictions = np.where(rated, predictions, -np.inf)
    best = predictions.argmax(axis=1)
    places = np.arange(len(predictions)) * self._num_classes + best
    return places if rated is None else places[rated.any(axis=1)]

  def add(
    self,
    predictions: np.ndarray,
    labels: np.ndarray,
    rated: np.ndarray | None,
  ) -> None:
    """Adds a batch; see PredictionColumns.add."""
    num_videos = len(predictions)

    def count(places):
      videos, classes = np.divmod(places, self._num_classes)
      return (
        np.bincount(videos, minlength=num_videos),
        np.bincount(classes, minlength=self._num_classes),
      )

    places = self._decide(predictions, rated)
    num_predicted, predicted = count(places)
    num_hits, hits = count(places[labels.reshape(-1)[places]])
    num_labels, positives = count(np.flatnonzero(labels))
    self._num_videos += num_videos
    is_exact = (num_hits == num_predicted) & (num_hits == num_labels)
    self._num_exact += int(is_exact.sum())
    self._true_positives += hits
    self._predicted += predicted
    self._positives += positives
    self._rated += num_videos if rated is None else rated.sum(axis=0)

  def decisions(self) -> Decisions:
    """All that was counted."""
    return Decisions(
      np.nan if self._threshold is None else self._threshold,
      self._num_videos,
      self._num_exact,
      self._true_positives,
      self._predicted,
      self._positives,
      self._rated,
    )


def rated_labels(
  labels: np.ndarray, label_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns labels and rated pairs, bool; see PredictionColumns.add."""
  labels = np.asarray(labels) > 0
  if label_weights is None:
    return labels, None
  rated = np.asarray(label_weights) > 0
  return labels & rated, rated


def choose_threshold(forward: ForwardPass, num_classes: int) -> float:
  """Finds the threshold with the best micro F1 on some data.

  Args:
    forward: over the examples of --threshold_data_pattern, with a loss; its
      weights are loaded.
    num_classes: of the predictions.

  Raises:
    errors.UserError: a record is not as the flags say; a prediction is not
      finite; there are no labels.
  """
  with PredictionColumns(num_classes) as columns:
    for batch, (predictions, _), progress in forward.run():
      finite = np.isfinite(predictions).all(axis=0)
      if not finite.all():
        error = ranking.not_finite_error(np.flatnonzero(~finite))
        raise errors.UserError(str(error))
      weights = batch.get("label_weights")
      labels, rated = rated_labels(
        batch["labels"].numpy(), None if weights is None else weights.numpy()
      )
      columns.add(predictions, labels, rated)
      if progress.is_due:
        logging.info(
          "Choosing the threshold: %d examples", progress.num_examples
        )
    return f1_threshold.best_threshold(columns)


class RequestedScores:
  """Computes requested metrics of one checkpoint.

  Args:
    metrics: what to compute; see requested_metrics. Without any, nothing is
      done.
    num_classes: of the predictions.
    threshold: see choose_threshold; for metrics of the best threshold.
  """

  def __init__(
    self,
    metrics: Sequence[RequestedMetric],
    num_classes: int,
    threshold: float | None = None,
  ):
    self._metrics = metrics
    thresholds = {HALF: 0.5, BEST: threshold, LARGEST: None}
    wanted = {one.decided for one in metrics if one.of_decisions}
    self._counts = {
      decided: _DecisionCounts(num_classes, thresholds[decided])
      for decided in wanted
    }
    self._columns = None
    if any(one.of_column for one in metrics):
      self._columns = PredictionColumns(num_classes)
    self._positives = np.zeros(num_classes, np.int64)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._columns:
      self._columns.close()

  def accumulate(
    self,
    predictions: np.ndarray,
    labels: np.ndarray,
    label_weights: np.ndarray | None = None,
  ) -> None:
    """Adds a batch of videos.

    Args:
      predictions: (videos, classes) float32, finite.
      labels: (videos, classes) labels, bool or 0 and 1 of any dtype.
      label_weights: (videos, classes) numbers or None. Only the classes of
        weight above 0 count.

    Raises:
      errors.UserError: see PredictionColumns.add.
    """
    if not self._metrics:
      return
    labels, rated = rated_labels(labels, label_weights)
    for counts in self._counts.values():
      counts.add(predictions, labels, rated)
    if self._columns:
      self._columns.add(predictions, labels, rated)
    self._positives += labels.sum(axis=0)

  def compute(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Computes all metrics.

    Returns:
      {key: metric}, a float that may be NaN or infinite; and {title: number of
      each class}, (classes,), of those that have one, after "positives"; it is
      empty if none has.
    """
    # Each once: AUC and d' are of the same function.
    functions = {one.of_column for one in self._metrics if one.of_column}
    of_columns = {}
    if self._columns:
      of_columns = self._columns.compute(functions)
    scores, by_class = {}, {}
    for metric in self._metrics:
      if metric.of_column:
        result = of_columns[metric.of_column]
      elif metric.of_decisions:
        decisions = self._counts[metric.decided].decisions()
        result = metric.of_decisions(decisions)
      else:
        raise ValueError(
          f"Expected of_decisions or of_column of the metric {metric.key},"
          " received neither. Give one in REQUESTED_METRICS."
        )
      scores[metric.key], numbers = score(metric, result)
      if numbers is not None:
        by_class[metric.title or metric.key] = numbers
    if by_class:
      by_class = {"positives": self._positives, **by_class}
    return scores, by_class


class Request(NamedTuple):
  """What an evaluation computes besides the usual metrics.

  Attributes:
    metrics: see requested_metrics.
    threshold_forward: over the examples that choose the best threshold, with a
      loss; for metrics that need it.
  """

  metrics: Sequence[RequestedMetric] = ()
  threshold_forward: ForwardPass | None = None

  def start(self, num_classes: int) -> RequestedScores:
    """Starts with a checkpoint whose weights are loaded.

    Args:
      num_classes: of the predictions.

    Raises:
      errors.UserError: see choose_threshold.
    """
    threshold = None
    if needs_threshold(self.metrics):
      if self.threshold_forward is None:
        raise ValueError(
          "Expected threshold_forward for metrics at the best threshold,"
          " received None. Give one over other examples."
        )
      threshold = choose_threshold(self.threshold_forward, num_classes)
      logging.info("The best threshold for micro F1: %.6g", threshold)
    return RequestedScores(self.metrics, num_classes, threshold)


NO_REQUEST = Request()


def write_by_class(
  path: str,
  by_class: Mapping[str, np.ndarray],
  classes: Sequence[int],
  names: Mapping[int, str],
  spreadsheet_safe: bool = False,
) -> None:
  """Writes a CSV with a line for each class, whole or not at all.

  Args:
    path: of the file.
    by_class: see RequestedScores.compute.
    classes: the class index of each number.
    names: of class indices; empty for no column of names.
    spreadsheet_safe: see csv_cells.cell.
  """
  with text_written_aside(path) as file:
    heads = ["index", *(["name"] if names else []), *by_class]
    file.write(csv_cells.line(heads))
    for row, index in enumerate(classes):
      numbers = [values[row] for values in by_class.values()]
      # A number with a minus is no formula.
      scores = ["" if np.isnan(one) else f"{one:.9g}" for one in numbers]
      named = []
      if names:
        named = [csv_cells.cell(names.get(index, ""), spreadsheet_safe)]
      file.write(f"{','.join([str(index), *named, *scores])}\n")
