"""Tests of weighted means and their weights, by slow independent ways."""

import itertools

import numpy as np
import pytest
from conftest import error_of
from make_records import small_frames, small_video, write_records

from engine.prediction_file import Predictions
from engine.skipped import STOP, Policy
from reports import mixtures

# --------------------------------------------------------------------------
# Weights


def cross_entropy(weights, predictions, labels) -> float:
  """The mean over videos of the cross entropy of a mean, one by one."""
  total = 0.0
  for video, row in enumerate(labels):
    for index, is_label in enumerate(row):
      p = sum(
        weight * float(model[video, index])
        for weight, model in zip(weights, predictions, strict=True)
      )
      total -= np.log((p if is_label else 1 - p) + 1e-5)
  return total / len(labels)


def models_of(labels, sharpness, seed):
  """Predictions that are near the labels, each in its own way."""
  random = np.random.default_rng(seed)
  logits = (2.0 * labels - 1.0)[None] * np.array(sharpness)[:, None, None]
  logits = logits + random.normal(size=logits.shape)
  return 1 / (1 + np.exp(-logits))


@pytest.fixture
def labels():
  return np.random.default_rng(0).random((60, 4)) < 0.3


@pytest.mark.parametrize("sharpness", [[1.0, 1.0], [0.5, 1.0], [3.0, 1.0]])
def test_two_weights_are_those_of_a_fine_grid(labels, sharpness):
  predictions = models_of(labels, sharpness, 1)
  weights = mixtures.fit_weights(predictions, labels)
  assert weights.sum() == pytest.approx(1.0)
  grid = np.linspace(0, 1, 201)
  best = min(
    grid, key=lambda one: cross_entropy([one, 1 - one], predictions, labels)
  )
  assert weights[0] == pytest.approx(best, abs=0.006)
  assert cross_entropy(weights, predictions, labels) <= (
    cross_entropy([best, 1 - best], predictions, labels) + 1e-6
  )


def test_three_weights_are_those_of_a_grid(labels):
  predictions = models_of(labels, [1.0, 0.2, 0.8], 2)
  found = cross_entropy(
    mixtures.fit_weights(predictions, labels), predictions, labels
  )
  steps = np.linspace(0, 1, 21)
  for one, two in itertools.product(steps, steps):
    if one + two <= 1:
      other = [one, two, max(0.0, 1 - one - two)]
      assert found <= cross_entropy(other, predictions, labels) + 1e-6


def test_a_model_of_chance_gets_no_weight(labels):
  random = np.random.default_rng(3).random(labels.shape)
  good = np.where(labels, 0.95, 0.05)
  weights = mixtures.fit_weights(np.stack([random, good]), labels)
  assert weights[0] < 1e-4
  assert weights[1] > 0.9999


def test_equal_models_keep_equal_weights(labels):
  one = models_of(labels, [1.0], 4)[0]
  weights = mixtures.fit_weights(np.stack([one, one]), labels)
  np.testing.assert_allclose(weights, [0.5, 0.5])


def test_half_precision_of_models_and_blocks_make_no_difference(
  labels, monkeypatch
):
  predictions = models_of(labels, [1.0, 0.4], 5)
  expected = mixtures.fit_weights(predictions, labels)
  monkeypatch.setattr(mixtures, "_BLOCK_VIDEOS", 7)
  found = mixtures.fit_weights(predictions.astype(np.float32), labels)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_slopes_are_those_of_small_steps(labels):
  predictions = models_of(labels, [1.0, 0.4, 0.7], 6)
  weights = np.array([0.2, 0.5, 0.3])
  loss, slopes = mixtures._loss_and_slopes(weights, predictions, labels)
  assert loss == pytest.approx(cross_entropy(weights, predictions, labels))
  for place in range(3):
    # A step along a direction whose sum is 0, where 1 - p is that of a mean.
    step = 1e-6 * (np.eye(3)[place] - 1 / 3)
    low, high = (
      cross_entropy(weights + sign * step, predictions, labels)
      for sign in (-1, 1)
    )
    assert (low - high) / 2e-6 == pytest.approx(
      slopes[place] - slopes.mean(), rel=1e-3, abs=1e-4
    )


# --------------------------------------------------------------------------
# Halves


IDS = [f"v{number}".encode() for number in range(200)]


def test_a_half_depends_on_the_id_alone():
  fitted, scored = mixtures.halves(IDS)
  assert sorted([*fitted, *scored]) == list(range(200))
  assert 70 < len(fitted) < 130
  turned = IDS[::-1][:150]
  other_fitted, other_scored = mixtures.halves(turned)
  in_half = {IDS[row] for row in fitted}
  assert {turned[row] for row in other_fitted} == in_half & set(turned)
  assert not {turned[row] for row in other_scored} & in_half


def test_the_hash_is_part_of_the_results():
  # With another one, halves that weights were fitted on would be scored.
  assert mixtures.hash_of(b"v0") == 0x0270DA4DAAC514F3  # sha256sum's
  assert mixtures.hash_of(b"v1") == 0x3BFC269594EF6492
  assert [rows.tolist() for rows in mixtures.halves([b"v0", b"v1"])] == [
    [1],
    [0],
  ]


def test_too_few_videos():
  assert "received 1 in all" in error_of(mixtures.halves, [b"a"])


def test_fewer_videos_where_memory_is_short(monkeypatch):
  video_ids = np.array(IDS)
  rows = np.arange(0, 200, 2)
  np.testing.assert_array_equal(
    mixtures.rows_to_fit_on(rows, video_ids, 100), rows
  )
  monkeypatch.setattr(mixtures, "_MOST_FITTED", 1000)
  found = mixtures.rows_to_fit_on(rows, video_ids, 100)
  assert len(found) == 10
  assert (np.diff(found) > 0).all()
  hashes = {row: mixtures.hash_of(IDS[row]) for row in rows}
  chosen = max(hashes[row] for row in found)
  assert sum(value <= chosen for value in hashes.values()) == 10
  # They do not depend on the order of the videos.
  turned = mixtures.rows_to_fit_on(199 - rows[::-1], video_ids[::-1], 100)
  assert set(199 - turned) == set(found)


# --------------------------------------------------------------------------
# Labels and predictions, joined


@pytest.mark.parametrize("record", [small_video, small_frames])
def test_labels_of_either_level(tmp_path, record):
  files = [
    write_records(
      tmp_path / "a", [record("b", labels=(4, 1)), record("a", labels=())]
    ),
    write_records(tmp_path / "b", [record("c", labels=(2,))]),
  ]
  found = mixtures.read_labeled_videos(files, 5, np.arange(5), STOP)
  assert found.video_ids.tolist() == [b"b", b"a", b"c"]
  assert found.labels(np.array([2, 0, 1]), 5).astype(int).tolist() == [
    [0, 0, 1, 0, 0],
    [0, 1, 0, 0, 1],
    [0, 0, 0, 0, 0],
  ]
  # Of some classes, only videos with one of them, in columns of their own.
  some = mixtures.read_labeled_videos(files, 5, np.array([1, 2]), STOP)
  assert some.video_ids.tolist() == [b"b", b"c"]
  assert some.labels(np.arange(2), 2).astype(int).tolist() == [[1, 0], [0, 1]]


def test_bad_labels(tmp_path):
  file = write_records(tmp_path / "a", [small_video("a"), small_video("a")])
  given = (5, np.arange(5))
  read = mixtures.read_labeled_videos
  assert "received a twice" in error_of(read, [file], *given, STOP)
  file = write_records(
    tmp_path / "b", [small_video("a"), small_video("b", labels=(9,))]
  )
  assert f"{file}, record 1: " in error_of(read, [file], *given, STOP)
  skip = Policy(skip=True, max_fraction=1.0)
  assert read([file], *given, skip).video_ids.tolist() == [b"a"]
  file = write_records(tmp_path / "c", [small_video("a", labels=None)])
  assert "received none" in error_of(read, [file], *given, skip)


def test_ids_need_no_labels(tmp_path):
  files = [
    write_records(tmp_path / "a", [small_video("b", labels=None)]),
    write_records(tmp_path / "b", [small_frames("a"), b"no record"]),
  ]
  skip = Policy(skip=True, max_fraction=1.0)
  assert mixtures.read_video_ids(files, skip, "x").tolist() == [b"b", b"a"]
  assert f"{files[1]}, record 1: " in error_of(
    mixtures.read_video_ids, files, STOP, "x"
  )
  bad = write_records(tmp_path / "c", [b"no record"])
  assert "--x, received none" in error_of(
    mixtures.read_video_ids, [bad], skip, "x"
  )


def source(ids, seed, dtype=np.float32):
  values = np.random.default_rng(seed).random((len(ids), 3)).astype(dtype)
  return Predictions(np.array(ids), values, np.arange(3, dtype=np.int32))


def test_predictions_are_joined_by_their_ids(monkeypatch):
  monkeypatch.setattr(mixtures, "_BLOCK_VIDEOS", 2)
  first = source([b"a", b"b", b"c", b"d"], 0)
  second = source([b"d", b"x", b"a", b"c"], 1, np.float16)
  joined = mixtures.JoinedPredictions(
    [first, second], np.array([b"c", b"b", b"a", b"d"])
  )
  assert joined.missing.tolist() == [False, True, False, False]
  assert (joined.num_models, joined.num_classes) == (2, 3)
  rows = np.array([0, 2, 3])
  expected = np.stack(
    [
      first.predictions[[2, 0, 3]],
      second.predictions[[3, 2, 0]].astype(np.float32),
    ]
  )
  np.testing.assert_array_equal(joined.of(rows), expected)
  blocks = list(joined.blocks(rows))
  assert [part.tolist() for part, _ in blocks] == [[0, 2], [3]]
  np.testing.assert_array_equal(
    np.concatenate([found for _, found in blocks], axis=1), expected
  )


@pytest.mark.parametrize(
  ("value", "part"), [(1.5, "values from"), (np.nan, "received NaN")]
)
def test_what_are_no_probabilities(value, part):
  bad = source([b"a", b"b"], 0)
  bad.predictions[1, 2] = value
  joined = mixtures.JoinedPredictions([bad], np.array([b"a", b"b"]))
  joined.of(np.array([0]))
  assert part in error_of(joined.of, np.array([1]))


def test_the_mean_by_hand():
  predictions = np.array([[[0.1, 0.5]], [[0.9, 0.7]]], np.float32)
  found = mixtures.mix(np.array([0.25, 0.75]), predictions)
  np.testing.assert_allclose(found, [[0.7, 0.65]], rtol=1e-6)
  assert found.dtype == np.float32
