"""Tests of reports.bootstrap."""

import concurrent.futures
import os

import numpy as np
import pytest
from paired import paired_difference

import eval_util
from reports import bootstrap
from reports.bootstrap import (
  Interval,
  Ranked,
  num_resamples,
  resampled_scores,
)

TOP_K = 5
NUM_CLASSES = 9


def made_up(num_videos, seed, skill=0.3, ties=True):
  """Predictions and labels: (videos, classes) float32 and bool."""
  labels = np.random.default_rng(0).random((num_videos, NUM_CLASSES)) < 0.25
  labels[0] = False  # a video without labels
  labels[:, 3] = False  # a class without positives
  noise = np.random.default_rng(seed).random(labels.shape)
  predictions = skill * labels + (1 - skill) * noise
  if ties:
    predictions = np.round(predictions, 1)
  return predictions.astype(np.float32), labels


def ranked(predictions, labels):
  classes, confidences = eval_util.top_k_classes(predictions, TOP_K)
  hits = np.take_along_axis(labels, classes, axis=1)
  return Ranked(classes, confidences, hits, np.nonzero(labels), labels.shape[1])


def slow_scores(predictions, labels, weights):
  """GAP and mAP of videos that stand there as often as they were drawn."""
  rows = np.repeat(np.arange(len(labels)), weights)
  metrics = eval_util.EvaluationMetrics(labels.shape[1], TOP_K)
  metrics.accumulate(predictions[rows], labels[rows], loss=0.0)
  scores = metrics.scores()
  return scores["gap"], scores["map"]


def test_by_hand():
  # Pooled: 0.9 hit, 0.8 miss, 0.6 miss, 0.6 hit (a tie, the miss first); of 3
  # positives one is not among the predictions.
  run = Ranked(
    [[0, 1], [1, 0]],
    [[0.9, 0.6], [0.8, 0.6]],
    [[True, False], [False, True]],
    ([0, 1, 1], [0, 0, 2]),
    3,
  )
  gap, mean_ap = run.scores(np.ones(2))
  assert gap == pytest.approx((1 + 2 / 4) / 3)
  # Class 0: two hits; class 1 has no positives; class 2: its one is missed.
  assert mean_ap == pytest.approx((1 + 0) / 2)
  # The second video twice: of 0.9, 0.8, 0.8, 0.6 (the miss), 0.6 and 0.6 the
  # ranks 1, 5 and 6 are hits; there are 5 positives.
  gap, mean_ap = run.scores(np.array([1.0, 2.0]))
  assert gap == pytest.approx((1 + 2 / 5 + 3 / 6) / 5)
  assert mean_ap == pytest.approx(0.5)
  # Only the first video: no class but the first has positives.
  assert run.scores(np.array([1, 0])) == (1.0, 1.0)
  assert run.scores(np.zeros(2)) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_videos_that_are_repeated(seed):
  random = np.random.default_rng(seed)
  predictions, labels = made_up(40, seed, ties=seed % 2 == 0)
  run = ranked(predictions, labels)
  ones = np.ones(len(labels), int)
  for weights in (ones, random.integers(0, 4, len(labels))):
    assert run.scores(weights) == pytest.approx(
      slow_scores(predictions, labels, weights), rel=1e-12
    )


def test_average_precision_of_each_class():
  predictions, labels = made_up(60, seed=1)
  by_class = ranked(predictions, labels).average_precisions(np.ones(60))
  assert np.isnan(by_class).tolist() == [index == 3 for index in range(9)]
  metrics = eval_util.EvaluationMetrics(NUM_CLASSES, TOP_K)
  metrics.accumulate(predictions, labels, loss=0.0)
  np.testing.assert_allclose(
    np.delete(by_class, 3), metrics.get()["aps"], rtol=1e-12
  )


def test_places_without_a_prediction_do_not_count():
  with_places = Ranked(
    [[0, 1, 0]], [[0.9, 0.6, -np.inf]], [[0, 1, 1]], ([0, 0], [1, 2]), 3
  )
  without = Ranked([[0, 1]], [[0.9, 0.6]], [[0, 1]], ([0, 0], [1, 2]), 3)
  ones = np.ones(1)
  assert with_places.scores(ones) == without.scores(ones) == (0.25, 0.5)


def test_without_a_hit_every_score_is_0():
  run = Ranked([[0], [1]], [[0.9], [0.6]], [[0], [0]], ([0], [1]), 2)
  assert run.scores(np.ones(2)) == (0.0, 0.0)


def test_resamples_are_drawn_with_replacement_and_repeatable():
  predictions, labels = made_up(30, seed=2)
  other, _ = made_up(30, seed=3)
  runs = [ranked(predictions, labels), ranked(other, labels)]
  done = []
  scores = resampled_scores(runs, 25, seed=7, tick=done.append)
  assert done == list(range(1, 26))
  for index in range(25):
    drawn = np.random.default_rng([7, index]).integers(30, size=30)
    weights = np.bincount(drawn, minlength=30)
    for run, values in enumerate((predictions, other)):
      assert scores[run, index] == pytest.approx(
        slow_scores(values, labels, weights)
      )
  # Whoever is scored beside it, a run has the same scores.
  np.testing.assert_array_equal(
    resampled_scores(runs[1:], 25, seed=7), scores[1:]
  )


def slow_difference(a, b, labels, resamples, random):
  """The means over the seeds that were drawn, one resample at a time."""
  differences = []
  for _ in range(resamples):
    weights = np.bincount(random.integers(len(labels), size=len(labels)))
    weights = np.pad(weights, (0, len(labels) - len(weights)))
    seeds = random.integers(len(a), size=len(a))
    differences.append(
      np.mean(
        [
          np.subtract(
            slow_scores(a[seed], labels, weights),
            slow_scores(b[seed], labels, weights),
          )
          for seed in seeds
        ],
        axis=0,
      )
    )
  return np.percentile(differences, [2.5, 97.5], axis=0)


def test_intervals_are_those_of_a_slow_bootstrap():
  a, b = (
    [made_up(50, seed, skill)[0] for seed in (start, start + 1)]
    for start, skill in ((10, 0.4), (20, 0.3))
  )
  labels = made_up(50, 0)[1]
  found = paired_difference(
    [ranked(predictions, labels) for predictions in a],
    [ranked(predictions, labels) for predictions in b],
    resamples=4000,
    seed=1,
  )
  ones = np.ones(50, int)
  low, high = slow_difference(a, b, labels, 1500, np.random.default_rng(3))
  for place, name in enumerate(bootstrap.METRICS):
    interval = found[name]
    assert interval.mean == pytest.approx(
      np.mean(
        [
          slow_scores(one, labels, ones)[place]
          - slow_scores(other, labels, ones)[place]
          for one, other in zip(a, b, strict=True)
        ]
      )
    )
    # Other draws: their ends vary by some hundredths of the interval.
    tolerance = 0.08 * (interval.high - interval.low)
    assert interval.low == pytest.approx(low[place], abs=tolerance)
    assert interval.high == pytest.approx(high[place], abs=tolerance)


def test_many_cores_do_not_need_more_memory(monkeypatch):
  labels = made_up(50, 0)[1]
  run = ranked(made_up(50, 1)[0], labels)
  few = resampled_scores([run], 20, seed=0)
  used = []

  class Pool(concurrent.futures.ThreadPoolExecutor):
    def __init__(self, max_workers):
      used.append(max_workers)
      super().__init__(max_workers)

  monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
  monkeypatch.setattr(os, "cpu_count", lambda: 200)
  np.testing.assert_array_equal(resampled_scores([run], 20, seed=0), few)
  assert used == [8]


def test_what_is_a_difference():
  labels = made_up(200, 0)[1]
  good, bad, like_bad = (
    [ranked(made_up(200, seed, skill)[0], labels)]
    for seed, skill in ((1, 0.6), (2, 0.2), (3, 0.2))
  )
  better = paired_difference(good, bad, 300, seed=0)
  assert better["gap"].shows_difference
  assert better["map"].low > 0
  worse = paired_difference(bad, good, 300, seed=0)
  assert worse["gap"].high < 0
  assert worse["gap"].shows_difference
  assert worse["gap"].mean == pytest.approx(-better["gap"].mean)
  assert not paired_difference(bad, like_bad, 300, 0)["gap"].shows_difference
  assert paired_difference(good, good, 50, seed=0) == {
    "gap": Interval(0.0, 0.0, 0.0),
    "map": Interval(0.0, 0.0, 0.0),
  }
  assert not Interval(0.0, 0.0, 0.0).shows_difference


def test_95_of_100_intervals_hold_the_true_difference():
  # Two models that are equally good: nearly all intervals must hold 0.
  labels = np.random.default_rng(5).random((120, NUM_CLASSES)) < 0.3
  holding = 0
  for trial in range(60):
    a, b = (
      (
        0.3 * labels
        + 0.7 * np.random.default_rng([trial, side]).random(labels.shape)
      ).astype(np.float32)
      for side in (0, 1)
    )
    found = paired_difference(
      [ranked(a, labels)], [ranked(b, labels)], 200, seed=trial
    )
    holding += not found["gap"].shows_difference
  assert 52 <= holding <= 60


def test_fewer_resamples_of_many_videos():
  assert num_resamples(1) == num_resamples(100_000) == 10_000
  assert num_resamples(400_000) == 2_500
  assert num_resamples(10_000_000) == 1_000


def test_what_does_not_fit_is_refused():
  run = Ranked([[0]], [[0.9]], [[1]], ([0], [0]), 1)
  two = Ranked([[0], [0]], [[0.9], [0.8]], [[1], [0]], ([0], [0]), 1)
  with pytest.raises(ValueError, match=r"Expected class_indexes.*\(1, 2\)"):
    Ranked([[0, 1]], [[0.9]], [[1]], ([0], [0]), 2)
  with pytest.raises(ValueError, match="as many rows as classes"):
    Ranked([[0]], [[0.9]], [[1]], ([0, 0], [0]), 2)
  with pytest.raises(ValueError, match="one weight for each of 1 videos"):
    run.scores(np.ones(2))
  with pytest.raises(ValueError, match=r"the same videos, received \[1, 2\]"):
    paired_difference([run], [two], 10, seed=0)
  with pytest.raises(ValueError, match="the same seeds"):
    paired_difference([run, run], [run], 10, seed=0)
