"""Metrics that eval.py computes if they are asked for: --metrics=f1,auc.

Definitions are scikit-learn's. A prediction at or above the threshold decides
for the class. Where pairs have weights (segments), those of weight 0 do not
count, and a class without any other pair is not rated.

* F1 is 2 TP / (predicted + labels), 0 if this is 0 / 0. Micro counts all
  classes together; macro is the mean over all rated classes, also those
  without labels, whose F1 is 0.
* AUC, the area under the ROC curve, is the probability that a random positive
  of the class has a larger prediction than a random negative, half of ties
  counted. Its mean is over the classes that have both.
* d' is sqrt(2) times the inverse of the normal distribution function at the
  AUC. That of all classes is taken of the mean AUC, as is usual for AudioSet;
  it is not the mean of the classes' d'.
* Average precision is the mean over the positives of a class of the precision
  at their prediction; equal predictions are taken together. Unlike eval_util's
  MAP it counts all predictions, not the top k of each video. Its mean is over
  the classes that have positives.
* Accuracy is the share of videos whose largest prediction is their one label.

Sources: scikit-learn's f1_score with zero_division=0, roc_auc_score,
average_precision_score and accuracy_score; Gemmeke et al., "Audio Set: An
ontology and human-labeled dataset for audio events", 2017; for d', Hershey et
al., "CNN architectures for large-scale audio classification", 2017,
https://arxiv.org/abs/1609.09430.
"""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import errors

# --------------------------------------------------------------------------
# What a metric is computed from


class Decisions(NamedTuple):
  """How often classes were decided for, and how often rightly.

  Attributes:
    threshold: a prediction at or above it decides for the class; NaN if the
      class of the largest prediction is decided for.
    num_videos: videos, or segments.
    num_exact: those that were decided to have exactly their labels.
    true_positives: (classes,) int64, labels that were decided for.
    predicted: (classes,) int64, decisions for each class.
    positives: (classes,) int64, labels.
    rated: (classes,) int64, pairs that count.
  """

  threshold: float
  num_videos: int
  num_exact: int
  true_positives: np.ndarray
  predicted: np.ndarray
  positives: np.ndarray
  rated: np.ndarray


class RankedColumn(NamedTuple):
  """The predictions of a class.

  Attributes:
    values: (rated videos,) float32, ascending.
    positives: (positives,) float32, those of the videos that it labels,
      ascending; they are among `values` too.
  """

  values: np.ndarray
  positives: np.ndarray


# --------------------------------------------------------------------------
# The table of metrics


def micro_f1(decisions):
  """F1 of the decisions of all classes together."""
  total = decisions.predicted.sum() + decisions.positives.sum()
  return float(2 * decisions.true_positives.sum() / total) if total else 0.0


def f1_by_class(decisions):
  """F1 of each class, (classes,) float64; NaN for one that is not rated."""
  total = decisions.predicted + decisions.positives
  f1 = 2 * decisions.true_positives / np.maximum(total, 1)
  return np.where(decisions.rated > 0, f1, np.nan)


def accuracy(decisions):
  """Share of the videos that were decided to have exactly their labels."""
  if not decisions.num_videos:
    return math.nan
  return decisions.num_exact / decisions.num_videos


def threshold(decisions):
  """The threshold itself, to report it."""
  return decisions.threshold


def area_under_curve(column):
  """AUC of a class; NaN without positives or without negatives."""
  values, positives = column
  num_positives = len(positives)
  num_negatives = len(values) - num_positives
  if not num_positives or not num_negatives:
    return math.nan
  # Pairs of a positive and a smaller negative, and half of those that tie.
  # Twice their number is a whole number, which is exact.
  doubled = sum(
    np.searchsorted(values, positives, side).sum()
    - np.searchsorted(positives, positives, side).sum()
    for side in ("left", "right")
  )
  return float(doubled / (2 * num_positives * num_negatives))


def average_precision(column):
  """Average precision of a class; NaN without positives."""
  values, positives = column
  if not len(positives):
    return math.nan
  ranks = len(values) - np.searchsorted(values, positives)
  hits = len(positives) - np.searchsorted(positives, positives)
  return float(np.mean(hits / ranks))


def d_prime(auc):
  """The d' of an AUC; infinite at 0 and 1, NaN at NaN."""
  if math.isnan(auc):
    return math.nan
  if auc in (0.0, 1.0):
    return math.copysign(math.inf, auc - 0.5)
  return math.sqrt(2) * statistics.NormalDist().inv_cdf(auc)


HALF = "half"
BEST = "best"
LARGEST = "largest"
"""Which classes are decided for: those predicted at or above 0.5, those at or
above the best threshold of other data, or each video's first one."""


class RequestedMetric(NamedTuple):
  """A number that --metrics can ask for.

  Attributes:
    request: the value of --metrics that asks for it; several may share one.
    key: its key in metrics-<step>.json.
    tag: its name in TensorBoard.
    of_decisions: Decisions -> number, or (classes,) numbers, whose mean it is;
      or None.
    decided: which Decisions: HALF, BEST or LARGEST.
    of_column: RankedColumn -> number, whose mean over the classes it is; or
      None.
    of_mean: number -> number, applied to this mean and to each class's number;
      or None. A class whose number is NaN does not count in the mean.
    title: of its column in metrics-by-class-<step>.csv, if it has a number for
      each class.
  """

  request: str
  key: str
  tag: str
  of_decisions: Callable | None = None
  decided: str = HALF
  of_column: Callable | None = None
  of_mean: Callable | None = None
  title: str = ""


REQUESTED_METRICS = (
  RequestedMetric("f1", "f1_micro", "F1_Micro", micro_f1),
  RequestedMetric("f1", "f1_macro", "F1_Macro", f1_by_class, title="f1"),
  RequestedMetric("best_f1", "best_f1_micro", "Best_F1_Micro", micro_f1, BEST),
  RequestedMetric(
    "best_f1",
    "best_f1_macro",
    "Best_F1_Macro",
    f1_by_class,
    BEST,
    title="best_f1",
  ),
  RequestedMetric(
    "best_f1", "best_f1_threshold", "Best_F1_Threshold", threshold, BEST
  ),
  RequestedMetric("auc", "auc", "AUC", of_column=area_under_curve, title="auc"),
  RequestedMetric(
    "d_prime",
    "d_prime",
    "D_Prime",
    of_column=area_under_curve,
    of_mean=d_prime,
    title="d_prime",
  ),
  RequestedMetric(
    "full_map",
    "full_map",
    "Full_MAP",
    of_column=average_precision,
    title="average_precision",
  ),
  RequestedMetric("accuracy", "accuracy", "Accuracy", accuracy, LARGEST),
  RequestedMetric(
    "accuracy", "accuracy_f1_micro", "Accuracy_F1_Micro", micro_f1, LARGEST
  ),
  RequestedMetric(
    "accuracy",
    "accuracy_f1_macro",
    "Accuracy_F1_Macro",
    f1_by_class,
    LARGEST,
    title="accuracy_f1",
  ),
)
"""All metrics. To add one, write a function above and a line here."""


def names():
  """The values of --metrics, in the order of the table."""
  return list(dict.fromkeys(metric.request for metric in REQUESTED_METRICS))


def find_metrics(text, always=()):
  """Finds the metrics that --metrics asks for.

  Args:
    text: values of --metrics, separated by commas; may be empty.
    always: more of them.

  Returns:
    RequestedMetrics, in the order of the table.

  Raises:
    errors.UserError: there is no such metric.
  """
  wanted = {name.strip() for name in text.split(",") if name.strip()}
  unknown = sorted(wanted.difference(names()))
  if unknown:
    raise errors.UserError(
      f"Expected metrics among {', '.join(names())} in --metrics, received"
      f" {', '.join(map(repr, unknown))}."
      f"{errors.did_you_mean(unknown[0], names())} Name these, separated by"
      " commas."
    )
  wanted.update(always)
  return tuple(
    metric for metric in REQUESTED_METRICS if metric.request in wanted
  )


def needs_threshold(metrics):
  """Whether some of the metrics are at the best threshold of other data."""
  return any(metric.decided == BEST for metric in metrics)


def mean_of_known(values):
  """The mean of the numbers that are not NaN, a float; NaN if all are."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else math.nan


def score(metric, result):
  """Computes a metric of what its function returned.

  Args:
    metric: a RequestedMetric.
    result: a number, or (classes,) float64.

  Returns:
    The metric, a float, which may be NaN or infinite; and the number of each
    class, (classes,) float64, or None.
  """
  if np.ndim(result) == 0:
    return float(result), None
  of_mean = metric.of_mean or float
  by_class = np.array([of_mean(value) for value in result.tolist()])
  return float(of_mean(mean_of_known(result))), by_class
