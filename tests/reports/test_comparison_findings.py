"""Tests of reports.comparison_findings."""

import collections
import dataclasses

import numpy as np
import pytest
from small_comparison import (
  NUM_CLASSES,
  NUM_VIDEOS,
  labels_of_all,
  made_up_rows,
  made_up_run,
  made_up_scored,
  predictions_of,
)

import eval_util
from reports import comparison_findings
from reports.comparison import make_row
from reports.comparison_findings import (
  average_precisions,
  by_frequency,
  class_disagreements,
  confusions,
  positives_of,
  video_disagreements,
  video_scores,
)


def test_average_precisions_are_means_over_seeds():
  row = made_up_rows()[0]
  expected = []
  for seed in (0, 1):
    metrics = eval_util.EvaluationMetrics(NUM_CLASSES, 20)
    metrics.accumulate(predictions_of(seed, 0.6), labels_of_all(), loss=0.0)
    expected.append(metrics.get()["aps"])
  found = average_precisions(row)
  np.testing.assert_allclose(found[~np.isnan(found)], np.mean(expected, axis=0))
  np.testing.assert_array_equal(
    positives_of(row.runs[0]), labels_of_all().sum(axis=0)
  )


def test_classes_are_gathered_by_frequency():
  precisions = {
    "A": np.array([0.9, 0.8, 0.5, np.nan, 0.1]),
    "B": np.array([0.7, 0.6, 0.4, np.nan, 0.3]),
  }
  # Thirds of a decade: 1000 alone; 120 and 150 share 100 to 215; 0 is with 1.
  found = by_frequency(precisions, np.array([1000, 120, 150, 7, 0]))
  assert found.frequencies.tolist() == [1, 135, 1000]
  assert found.num_classes.tolist() == [1, 2, 1]
  assert found.means["A"] == pytest.approx([0.1, 0.65, 0.9])
  assert found.means["B"] == pytest.approx([0.3, 0.5, 0.7])


def test_classes_that_models_disagree_on():
  precisions = [
    np.array([0.9, 0.5, 0.1, np.nan, 0.4]),
    np.array([0.8, 0.1, 0.9, np.nan, 0.4]),
  ]
  positives = np.array([30, 20, 2, 0, 9])
  found = class_disagreements(precisions, positives, most=5)
  # Class 2 has too few videos, class 4 no difference.
  assert [one.place for one in found] == [1, 0]
  assert found[0] == (1, 20, [0.5, 0.1])
  assert len(class_disagreements(precisions, positives, most=1)) == 1


def test_video_scores_are_perr():
  predictions = predictions_of(3, 0.3)
  scored = made_up_scored(made_up_run("A"), predictions)
  found = video_scores(scored)
  assert found.mean() == pytest.approx(
    eval_util.calculate_precision_at_equal_recall_rate(
      predictions, labels_of_all()
    )
  )
  # Labels beyond the ranks that are kept count as missed.
  short = dataclasses.replace(
    scored,
    class_indexes=scored.class_indexes[:, :1],
    confidences=scored.confidences[:, :1],
    hits=scored.hits[:, :1],
  )
  counts = labels_of_all().sum(axis=1)
  np.testing.assert_allclose(video_scores(short), scored.hits[:, 0] / counts)


def test_videos_that_models_disagree_on():
  rows = made_up_rows()
  found = video_disagreements(rows, most=10)
  table = np.array(
    [np.mean([video_scores(run) for run in row.runs], axis=0) for row in rows]
  )
  ranges = table.max(axis=0) - table.min(axis=0)
  assert len(found) == 10
  assert [ranges[one.video] for one in found] == sorted(ranges)[::-1][:10]
  for one in found:
    assert one.scores == table[:, one.video].tolist()
    assert one.labels == np.flatnonzero(labels_of_all()[one.video]).tolist()
    for place, row in enumerate(rows):
      assert one.best[place] == row.runs[0].class_indexes[one.video, 0]
      assert one.best_is_label[place] == (one.best[place] in one.labels)
  same = [rows[0], rows[0]]
  assert video_disagreements(same, most=10) == []


def slow_confusions(predictions, labels):
  counts = collections.Counter()
  for scores, of in zip(predictions, labels, strict=True):
    wanted = set(np.flatnonzero(of).tolist())
    order = np.argsort(-scores, kind="stable")
    given = set(order[: len(wanted)].tolist())
    for missed in wanted - given:
      for wrong in given - wanted:
        counts[missed, wrong] += 1
  return counts


def test_confusions_are_counted_one_by_one():
  predictions = predictions_of(4, 0.2)
  scored = made_up_scored(made_up_run("A"), predictions)
  expected = slow_confusions(predictions, labels_of_all())
  found = confusions(scored, most=1000)
  assert {(one.missed, one.predicted): one.count for one in found} == expected
  assert [one.count for one in found] == sorted(expected.values())[::-1]
  of_class = labels_of_all().sum(axis=0)
  for one in found:
    assert one.share == one.count / of_class[one.missed]
  assert confusions(scored, most=3) == found[:3]


def test_a_perfect_model_confuses_nothing():
  scored = made_up_scored(made_up_run("A"), labels_of_all().astype(np.float32))
  assert confusions(scored, most=5) == []
  row = make_row([scored], "")
  assert np.nanmin(average_precisions(row)) == 1.0
  assert len(comparison_findings.video_scores(scored)) == NUM_VIDEOS
