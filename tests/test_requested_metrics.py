"""Tests of the table of metrics on request; expectations by hand."""

import math

import numpy as np
import pytest

import errors
import eval_util
import requested_metrics
from requested_metrics import (
  REQUESTED_METRICS,
  Decisions,
  RankedColumn,
  RequestedMetric,
  find_metrics,
)


def decisions(true_positives, predicted, positives, rated, **more) -> Decisions:
  given = {"threshold": 0.5, "num_videos": 4, "num_exact": 1, **more}
  return Decisions(
    true_positives=np.array(true_positives),
    predicted=np.array(predicted),
    positives=np.array(positives),
    rated=np.array(rated),
    **given,
  )


def column(negatives, positives) -> RankedColumn:
  return RankedColumn(
    np.sort(np.array([*negatives, *positives], np.float32)),
    np.sort(np.array(positives, np.float32)),
  )


def test_f1():
  # Of 4 videos: half right, nothing to find, all missed, not rated.
  counts = decisions([1, 0, 0, 0], [2, 0, 0, 0], [2, 0, 1, 0], [4, 4, 4, 0])
  np.testing.assert_array_equal(
    requested_metrics.f1_by_class(counts), [0.5, 0, 0, np.nan]
  )
  assert requested_metrics.micro_f1(counts) == 2 * 1 / (2 + 3)
  nothing = decisions([0], [0], [0], [4])
  assert requested_metrics.micro_f1(nothing) == 0.0


def test_accuracy():
  counts = decisions([1], [2], [2], [4])
  assert requested_metrics.accuracy(counts) == 0.25
  empty = decisions([0], [0], [0], [0], num_videos=0, num_exact=0)
  assert math.isnan(requested_metrics.accuracy(empty))


@pytest.mark.parametrize(
  ("negatives", "positives", "auc", "precision"),
  [
    ([0.1, 0.2], [0.3], 1.0, 1.0),
    ([0.1, 0.2], [0.0], 0.0, 1 / 3),
    # 0.5 ties with one of two negatives and is above the other; 0.9 is above
    # both.
    ([0.1, 0.5], [0.5, 0.9], 3.5 / 4, (2 / 3 + 1) / 2),
    # Equal positives are found together, at the same rank.
    ([0.1, 0.7], [0.5, 0.5], 2 / 4, 2 / 3),
    ([0.5, 0.5], [0.5], 0.5, 1 / 3),
    ([], [0.5, 0.7], math.nan, 1.0),
    ([0.5], [], math.nan, math.nan),
    ([], [], math.nan, math.nan),
  ],
)
def test_ranked_columns(negatives, positives, auc, precision):
  ranked = column(negatives, positives)
  assert requested_metrics.area_under_curve(ranked) == pytest.approx(
    auc, abs=1e-15, nan_ok=True
  )
  assert requested_metrics.average_precision(ranked) == pytest.approx(
    precision, abs=1e-15, nan_ok=True
  )


def test_d_prime():
  # The normal distribution function is 0.975 at 1.959964.
  assert requested_metrics.d_prime(0.975) == pytest.approx(
    1.959963985 * math.sqrt(2), abs=1e-8
  )
  assert requested_metrics.d_prime(0.5) == 0.0
  assert requested_metrics.d_prime(1.0) == math.inf
  assert requested_metrics.d_prime(0.0) == -math.inf
  assert math.isnan(requested_metrics.d_prime(math.nan))


def metric_of(key: str) -> RequestedMetric:
  (found,) = [metric for metric in REQUESTED_METRICS if metric.key == key]
  return found


def test_d_prime_is_of_the_mean_area():
  whole, by_class = requested_metrics.score(
    metric_of("d_prime"), np.array([0.5, 1.0, np.nan])
  )
  assert whole == requested_metrics.d_prime(0.75)
  np.testing.assert_array_equal(by_class, [0, np.inf, np.nan])


def test_a_number_is_its_own_score():
  assert requested_metrics.score(metric_of("f1_micro"), 0.25) == (0.25, None)


def test_a_mean_without_a_known_number():
  whole, by_class = requested_metrics.score(
    metric_of("full_map"), np.array([np.nan])
  )
  assert math.isnan(whole)
  assert np.isnan(by_class).all()


def test_metrics_are_found_in_the_order_of_the_table():
  keys = [metric.key for metric in find_metrics(" auc, f1,")]
  assert keys == ["f1_micro", "f1_macro", "auc"]
  assert find_metrics("") == ()
  assert find_metrics("auc", ["auc"]) == (metric_of("auc"),)
  assert [metric.key for metric in find_metrics("", ["accuracy"])] == [
    "accuracy",
    "accuracy_f1_micro",
    "accuracy_f1_macro",
  ]


def test_an_unknown_metric_lists_those_there_are():
  with pytest.raises(errors.UserError) as error:
    find_metrics("f1,recall,F1")
  assert str(error.value) == (
    "Expected metrics among f1, best_f1, auc, d_prime, full_map, accuracy in"
    " --metrics, received 'F1', 'recall'. Did you mean f1? Name these,"
    " separated by commas."
  )


def test_only_some_metrics_need_a_threshold():
  needing = [
    name
    for name in requested_metrics.names()
    if requested_metrics.needs_threshold(find_metrics(name))
  ]
  assert needing == ["best_f1"]


def test_names_are_used_once():
  others = [metric.key for metric in eval_util.METRICS]
  keys = [metric.key for metric in REQUESTED_METRICS] + others
  tags = [metric.tag for metric in REQUESTED_METRICS]
  titles = [metric.title for metric in REQUESTED_METRICS if metric.title]
  for names in (keys, tags, titles):
    assert len(set(names)) == len(names)
  tags_of_others = eval_util.evaluation_tags("Eval")
  assert not {f"Epoch/Eval_{tag}" for tag in tags} & set(tags_of_others)
