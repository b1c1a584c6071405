"""Tests of the scores of an ensemble."""

import numpy as np
import pytest
from conftest import error_of

import eval_util
from engine.prediction_file import Predictions
from reports import bootstrap, ensemble_results
from reports.ensemble_results import Source, System
from reports.mixtures import JoinedPredictions, LabeledVideos
from reports.model_predictions import Predicted
from reports.video_scores import PairedScores

NUM_VIDEOS, NUM_CLASSES = 80, 6
FITTING, SCORED = np.arange(0, 80, 2), np.arange(1, 80, 2)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
  monkeypatch.setattr(bootstrap, "num_resamples", lambda videos: 100)


def make_labels():
  labels = np.random.default_rng(0).random((NUM_VIDEOS, NUM_CLASSES)) < 0.3
  rows, columns = np.nonzero(labels)
  counts = np.bincount(rows, minlength=NUM_VIDEOS)
  ids = np.array([f"v{n}".encode() for n in range(NUM_VIDEOS)])
  return labels, LabeledVideos(ids, np.cumsum([0, *counts]), columns)


LABELS, LABELED = make_labels()


def test_names_are_short_where_they_differ():
  assert ensemble_results.names_of(["/x/a/", "/y/b"]) == ["a", "b"]
  assert ensemble_results.names_of(["x/a", "y/a"]) == ["x/a", "y/a"]


def make_source(name, noise, seed, **more) -> Source:
  """A model that is right but for noise; its videos come in another order."""
  random = np.random.default_rng(seed)
  values = 0.5 * LABELS + noise * random.random(LABELS.shape)
  values = np.clip(values, 0, 1).astype(np.float32)
  order = random.permutation(NUM_VIDEOS)
  predictions = Predictions(
    LABELED.video_ids[order], values[order], np.arange(NUM_CLASSES)
  )
  return Source(
    name, Predicted("", predictions, more.get("rate"), more.get("size"))
  )


def values_of(source) -> np.ndarray:
  """The predictions of a source in the order of the videos."""
  order = np.argsort(
    [int(video_id[1:]) for video_id in source.predictions.video_ids]
  )
  return source.predictions.predictions[order]


@pytest.fixture
def sources():
  return [
    make_source("a", 0.5, 1, rate=100.0, size=4000),
    make_source("b", 0.9, 2, rate=50.0, size=1000),
  ]


def join(sources):
  return JoinedPredictions(
    [source.predictions for source in sources], LABELED.video_ids
  )


def test_only_one_half_is_fitted_on(sources):
  expected = ensemble_results.fit(join(sources), LABELED, FITTING, 20)
  assert expected.best == 0
  assert (expected.num_videos, expected.num_fitted) == (40, 40)
  assert expected.weights.sum() == pytest.approx(1)
  scored = set(LABELED.video_ids[SCORED].tolist())
  for source in sources:
    for row, video_id in enumerate(source.predictions.video_ids.tolist()):
      if video_id in scored:
        source.predictions.predictions[row] = np.nan  # would be refused
  joined = join(sources)
  found = ensemble_results.fit(joined, LABELED, FITTING, 20)
  np.testing.assert_array_equal(found.weights, expected.weights)
  assert found.best == expected.best
  assert "received NaN" in error_of(
    ensemble_results.fit, joined, LABELED, SCORED, 20
  )


def test_a_model_that_adds_nothing_has_no_weight(sources):
  chance = make_source("chance", 0.0, 3)
  chance.predictions.predictions[:] = 0.5
  good = make_source("good", 0.01, 4)
  good.predictions.predictions[:] = np.where(
    good.predictions.predictions > 0.4, 0.99, 0.01
  )
  found = ensemble_results.fit(join([chance, good]), LABELED, FITTING, 20)
  assert found.weights.tolist() == [0.0, 1.0]
  assert found.best == 1


def test_systems_by_hand(sources):
  fitted = ensemble_results.Fit(np.array([0.8, 0.2]), 0, 40, 40)
  systems = ensemble_results.score_systems(
    sources, join(sources), LABELED, SCORED, fitted, 4
  )
  assert [system.name for system in systems] == [
    "a",
    "b",
    "plain mean",
    "weighted mean",
  ]
  one, two = map(values_of, sources)
  for system, values in zip(
    systems, [one, two, (one + two) / 2, 0.8 * one + 0.2 * two], strict=True
  ):
    expected = eval_util.calculate_gap(values[SCORED], LABELS[SCORED], 4)
    assert system.scores.scores()["gap"] == pytest.approx(expected, rel=1e-6)
  assert [system.weight_bytes for system in systems] == [4000, 1000, 5000, 5000]
  # A video takes 10 ms and 20 ms.
  assert [system.videos_per_second for system in systems] == pytest.approx(
    [100, 50, 1000 / 30, 1000 / 30]
  )


def test_models_without_weight_cost_nothing(sources):
  fitted = ensemble_results.Fit(np.array([1.0, 0.0]), 0, 40, 40)
  *_, weighted = ensemble_results.score_systems(
    sources, join(sources), LABELED, SCORED, fitted, 4
  )
  assert weighted.weight_bytes == 4000
  assert weighted.videos_per_second == pytest.approx(100)


def test_costs_that_nobody_measured():
  sources = [make_source("a", 0.5, 1), make_source("b", 0.9, 2)]
  fitted = ensemble_results.Fit(np.array([0.5, 0.5]), 0, 40, 40)
  for system in ensemble_results.score_systems(
    sources, join(sources), LABELED, SCORED, fitted, 4
  ):
    assert system.weight_bytes is None
    assert system.videos_per_second is None


def test_a_student_is_scored_on_the_same_videos(sources):
  student = ensemble_results.score_student(sources[0], LABELED, SCORED, 4)
  expected = eval_util.calculate_gap(
    values_of(sources[0])[SCORED], LABELS[SCORED], 4
  )
  assert student.scores.scores()["gap"] == pytest.approx(expected, rel=1e-6)
  assert student.weights is None
  row = sources[0].predictions.video_ids.tolist().index(b"v1")
  sources[0].predictions.video_ids[row] = b"x"
  text = error_of(
    ensemble_results.score_student, sources[0], LABELED, SCORED, 4
  )
  assert "such as v1." in text


def test_the_table_and_the_json(sources):
  fitted = ensemble_results.Fit(np.array([0.8, 0.2]), 1, 40, 40)
  systems = ensemble_results.score_systems(
    sources, join(sources), LABELED, SCORED, fitted, 4
  )
  student = ensemble_results.score_student(sources[0], LABELED, SCORED, 4)
  systems.append(
    System("student", student.scores, None, student.weight_bytes, None)
  )
  comparison = PairedScores([system.scores.ranked() for system in systems])
  heads, *lines = ensemble_results.table(systems, comparison, 1)
  assert heads.split()[:5] == ["GAP", "mAP", "Hit@1", "PERR", "loss"]
  assert heads.endswith("weights, MB  videos/s  GAP gained over b (95%)")
  words = [line.split() for line in lines]
  assert words[0][:2] == ["a", f"{systems[0].scores.scores()['gap']:.4f}"]
  assert words[1][-1] == "50"  # b itself has no gain
  assert lines[4].split()[6:8] == ["0.004", "-"]
  gain = comparison.gain(0, 1)
  assert f"{gain['gap'].mean:+.4f} [{gain['gap'].low:+.4f}," in lines[0]
  content = ensemble_results.as_json(systems, comparison, 1, ["a", "b"])
  assert content[3]["weights"] == {"a": 0.8, "b": 0.2}
  assert "weights" not in content[4]
  assert content[0]["gains"]["map"] == gain["map"]._asdict()
  assert content[0]["gap"] == systems[0].scores.scores()["gap"]
