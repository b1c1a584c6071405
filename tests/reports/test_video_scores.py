"""Tests of scores of models on the same videos."""

import numpy as np
import pytest
from paired import paired_difference

import eval_util
from reports import bootstrap
from reports.bootstrap import Interval
from reports.video_scores import (
  PairedScores,
  VideoScores,
  gain_text,
  megabytes,
  score_cells,
)


@pytest.fixture
def labels():
  labels = np.random.default_rng(0).random((50, 30)) < 0.1
  labels[3] = labels[3] | (np.arange(30) < 9)  # more labels than ranks
  return labels


def predict(labels, seed, noise):
  random = np.random.default_rng(seed)
  values = 0.3 * labels + noise * random.random(labels.shape)
  return np.clip(values, 0, 1).astype(np.float32)


def score(labels, predictions, batch_size=7):
  scores = VideoScores(30, top_k=5)
  for begin in range(0, 50, batch_size):
    part = slice(begin, begin + batch_size)
    scores.add(predictions[part], labels[part])
  return scores


def test_scores_are_those_of_an_evaluation(labels):
  predictions = predict(labels, 1, 0.6)
  losses = [
    -sum(
      np.log((p if label else 1 - p) + 1e-5)
      for p, label in zip(row.tolist(), of_video, strict=True)
    )
    for row, of_video in zip(predictions, labels, strict=True)
  ]
  metrics = eval_util.EvaluationMetrics(30, 5)
  metrics.accumulate(predictions, labels, losses)
  found = score(labels, predictions).scores()
  expected = metrics.scores()
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, rel=1e-5), name
  cells = score_cells(found)
  assert cells[0] == f"{expected['gap']:.4f}"
  assert cells[-1] == f"{expected['avg_loss']:.3f}"


def test_rankings_give_the_same_scores(labels):
  scores = score(labels, predict(labels, 1, 0.6))
  gap, mean_ap = scores.ranked().scores(np.ones(50))
  assert gap == pytest.approx(scores.scores()["gap"])
  assert mean_ap == pytest.approx(scores.scores()["map"])


def test_gains_by_hand(labels, monkeypatch):
  monkeypatch.setattr(bootstrap, "num_resamples", lambda videos: 200)
  better, worse = predict(labels, 1, 0.4), predict(labels, 2, 0.8)
  systems = [score(labels, one).ranked() for one in (worse, better)]
  comparison = PairedScores(systems)
  gain = comparison.gain(1, 0)["gap"]
  gaps = [
    eval_util.calculate_gap(one, labels, top_k=5) for one in (worse, better)
  ]
  assert gain.mean == pytest.approx(gaps[1] - gaps[0])
  assert gain.low > 0
  again = paired_difference([systems[1]], [systems[0]], 200, 0)
  assert again == comparison.gain(1, 0)
  assert comparison.gain(0, 1)["gap"].mean == pytest.approx(-gain.mean)
  assert comparison.gain(0, 0)["map"] == Interval(0.0, 0.0, 0.0)


def test_texts():
  assert gain_text(Interval(0.01234, 0.001, 0.02)) == (
    "+0.0123 [+0.0010, +0.0200]"
  )
  assert gain_text(Interval(-0.01, -0.02, 0.001)) == (
    "-0.0100 [-0.0200, +0.0010] no difference shown"
  )
  assert [megabytes(value) for value in (None, 4_321_000)] == ["-", "4.32"]
