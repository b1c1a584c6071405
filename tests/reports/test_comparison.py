"""Tests of reports.comparison."""

import dataclasses
import json

import numpy as np
import pytest
import small_comparison
from conftest import error_of
from paired import paired_difference
from small_comparison import (
  NUM_CLASSES,
  NUM_VIDEOS,
  labels_of_all,
  made_up_rows,
  made_up_run,
  made_up_scored,
  predictions_of,
  record_of,
)

import eval_util
import losses
from reports import comparison
from reports.comparison import (
  Spread,
  check_same_videos,
  constant_rows,
  cost_of,
  differences,
  load,
  pareto_front,
  score_constant,
  spread_of,
  starts_of,
)


def test_spread_is_that_of_a_sample():
  assert spread_of([1.0, 2.0, 6.0]) == Spread(3.0, pytest.approx(7**0.5))
  assert spread_of([4.0]) == Spread(4.0, None)
  assert spread_of([1.0, None]) is None
  assert spread_of([]) is None


def test_costs_are_over_all_starts():
  record = record_of(seconds=10.0, videos=100)
  second = record_of(
    seconds=30.0,
    videos=600,
    first_step=101,
    last_step=200,
    start_seconds=None,
    resources={"cpu_percent": 190.0, "peak_memory_bytes": 3e9},
  )
  record["starts"] += second["starts"]
  found = cost_of(record)
  assert found["training_seconds"] == 40
  assert found["start_seconds"] == 7.5
  assert found["videos"] == 700
  assert found["videos_per_second"] == pytest.approx((10 * 10 + 20 * 30) / 40)
  assert found["cpu_percent"] == pytest.approx((150 + 3 * 190) / 4)
  assert found["peak_memory_bytes"] == 3e9
  assert found["gpu_percent"] is None
  assert set(cost_of(None).values()) == {None}


def test_a_start_that_was_killed_before_it_saved_costs_nothing():
  record = record_of()
  expected = cost_of(record)
  (kept,) = record["starts"]
  unsaved = {
    **kept,
    "last_step": 0,
    "videos": 0,
    "start_seconds": None,
    "training_seconds": 0.0,
    "videos_per_second": None,
    "resources": {"cpu_percent": None, "peak_memory_bytes": 9e9},
  }
  # Its checkpoint was lost, so that the next one began at the same step.
  lost = {**kept, "last_step": 40, "training_seconds": 8.0}
  record["starts"] = [unsaved, lost, kept]
  assert starts_of(record) == [kept]
  assert cost_of(record) == expected
  later = {**kept, "first_step": 101, "last_step": 150}
  record["starts"] += [{**unsaved, "first_step": 101, "last_step": 100}, later]
  assert starts_of(record) == [kept, later]


def test_values_of_a_run():
  scored = made_up_scored(made_up_run("A"), predictions_of(0, 0.5))
  values = scored.values()
  assert values["loss"] == 2.5
  assert values["gap"] == scored.scores["gap"]
  assert values["training_seconds"] == 20
  # Training's and prediction's rate are told apart.
  assert values["videos_per_second"] == 20
  assert values["predicted_per_second"] == 800
  ones = np.ones(NUM_VIDEOS)
  assert scored.ranked.scores(ones) == pytest.approx(
    (values["gap"], values["map"])
  )


def test_load_sorts_videos_by_id(tmp_path, monkeypatch):
  run = made_up_run("A")
  wanted = made_up_scored(run, predictions_of(0, 0.5))
  folder = tmp_path / "runs" / run.name
  (folder / "model").mkdir(parents=True)
  (folder / "model" / "run.json").write_text(json.dumps(record_of()))
  (folder / "scores.json").write_text(json.dumps(wanted.scores))
  order = np.random.default_rng(0).permutation(NUM_VIDEOS)
  rows, classes = np.nonzero(labels_of_all()[order])
  np.savez(
    folder / "predictions.npz",
    video_ids=wanted.video_ids[order],
    class_indexes=wanted.class_indexes[order],
    confidences=wanted.confidences[order],
    hits=wanted.hits[order],
    label_rows=rows,
    label_classes=classes.astype(np.int32),
    classes=wanted.classes,
  )
  found = load(run, str(tmp_path))
  np.testing.assert_array_equal(found.video_ids, wanted.video_ids)
  np.testing.assert_array_equal(found.hits, wanted.hits)
  check_same_videos([wanted, found])
  assert found.values() == wanted.values()
  for content in ("{", "[" * 100_000):
    (folder / "scores.json").write_text(content)
    text = error_of(load, run, str(tmp_path))
    assert "Delete this folder" in text
    assert str(folder) in text
  (folder / "scores.json").write_text(json.dumps(wanted.scores))
  damaged = folder / "predictions.npz"
  for content in (b"", damaged.read_bytes()[:-100], b"PK\x03\x04"):
    damaged.write_bytes(content)
    assert "Delete this folder" in error_of(load, run, str(tmp_path))


def test_other_videos_and_labels_are_refused():
  one = made_up_scored(made_up_run("A"), predictions_of(0, 0.5))
  other = made_up_scored(made_up_run("B"), predictions_of(1, 0.5))
  check_same_videos([one, other])
  renamed = dataclasses.replace(other, video_ids=other.video_ids[::-1])
  assert "60 and 60 videos of A and B" in error_of(
    check_same_videos, [one, renamed]
  )
  rows, classes = other.positives
  changed = classes.copy()
  changed[0] = (changed[0] + 1) % NUM_CLASSES
  relabeled = dataclasses.replace(other, positives=(rows, changed))
  assert "with other labels" in error_of(check_same_videos, [one, relabeled])
  classes = dataclasses.replace(other, classes=other.classes + 1)
  assert "classes of A and B" in error_of(check_same_videos, [one, classes])


@pytest.mark.parametrize("at_a_time", [7, 1024])
def test_constant_predictions_are_scored_as_a_model(monkeypatch, at_a_time):
  monkeypatch.setattr(comparison, "_ROWS_AT_A_TIME", at_a_time)
  labels = labels_of_all()
  prediction = np.random.default_rng(2).random(NUM_CLASSES).astype(np.float32)
  tiled = np.tile(prediction, (NUM_VIDEOS, 1))
  found = score_constant(prediction, np.nonzero(labels), NUM_VIDEOS)
  metrics = eval_util.EvaluationMetrics(NUM_CLASSES, 20)
  metrics.accumulate(tiled, labels, loss=0.0)
  scores = metrics.scores()
  assert found["gap"] == pytest.approx(scores["gap"])
  assert found["map"] == pytest.approx(scores["map"])
  assert found["hit_at_one"] == scores["avg_hit_at_one"]
  assert found["perr"] == scores["avg_perr"]
  loss = losses.CrossEntropyLoss().per_video_loss(tiled, labels)
  assert found["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)


def test_rows_that_do_not_look_at_videos():
  scored = made_up_scored(made_up_run("A"), predictions_of(0, 0.5))
  counts = np.array([10, 40, 5, 0, 0, 0, 0, 0])
  majority, frequencies = constant_rows(counts, 50, scored)
  labels = labels_of_all()
  assert majority.name == "majority class"
  assert majority.values["hit_at_one"].mean == labels[:, 1].mean()
  assert "loss" not in majority.values  # 0 and 1 are no probabilities
  assert frequencies.values["loss"].mean > 0
  assert frequencies.values["hit_at_one"].mean == labels[:, 1].mean()
  assert majority.is_baseline
  assert majority.runs == []
  scored.scores["label_loss"] = "HingeLoss"
  assert "loss" not in constant_rows(counts, 50, scored)[1].values


def test_differences_are_those_of_the_bootstrap():
  rows = made_up_rows()
  found = differences(rows, 100)
  assert len(found) == 3
  good, bad, _ = rows
  of_good, of_bad = ([run.ranked for run in row.runs] for row in (good, bad))
  assert found[0].better == good.name
  assert found[0].worse == bad.name
  assert found[0].intervals == paired_difference(of_good, of_bad, 100, seed=0)
  assert found[0].intervals["gap"].shows_difference
  assert not found[2].intervals["gap"].shows_difference
  # The better one is named first, whatever the order of the rows.
  (turned,) = differences([bad, good], 100)
  assert turned.better == good.name
  assert turned.intervals == found[0].intervals


def test_only_seeds_that_both_have_are_compared():
  good, bad, _ = made_up_rows()
  lacking = dataclasses.replace(good, runs=good.runs[1:])
  (found,) = differences([lacking, bad], 50)
  expected = paired_difference(
    [good.runs[1].ranked], [bad.runs[1].ranked], 50, seed=0
  )
  assert found.intervals == expected
  apart = dataclasses.replace(bad, runs=bad.runs[:1])
  assert differences([lacking, apart], 50) == []


def slow_front(costs, qualities):
  return {
    place
    for place in range(len(costs))
    if not any(
      (costs[other] <= costs[place] and qualities[other] > qualities[place])
      or (costs[other] < costs[place] and qualities[other] >= qualities[place])
      for other in range(len(costs))
    )
  }


def test_pareto_front():
  assert pareto_front([1, 2, 3, 4], [0.5, 0.4, 0.7, 0.7]) == [0, 2]
  assert pareto_front([3, 1], [0.5, 0.6]) == [1]
  random = np.random.default_rng(0)
  for _ in range(50):
    costs, qualities = random.integers(0, 6, (2, 8)).tolist()
    front = pareto_front(costs, qualities)
    slow = slow_front(costs, qualities)
    # Of equal ones, one is on the front.
    pairs = {(costs[place], qualities[place]) for place in slow}
    assert {(costs[place], qualities[place]) for place in front} == pairs
    assert set(front) <= slow
    assert [costs[place] for place in front] == sorted(
      costs[place] for place in front
    )


def test_a_comparison_knows_its_videos():
  found = small_comparison.made_up_comparison()
  assert found.num_videos == NUM_VIDEOS
  assert [row.name for row in found.trained] == [
    row.name for row in found.rows[:3]
  ]
