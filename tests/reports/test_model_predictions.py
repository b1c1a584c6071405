"""Tests of predictions of trained models that are kept."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import error_of, folder_content, load_model
from make_records import video_record, write_records
from tiny_runs import NUM_TINY, TINY_FLAGS, train_tiny

from engine import prediction_file
from engine.distribution import Placement
from engine.skipped import STOP, Policy
from reports import model_predictions
from reports.mixtures import JoinedPredictions
from reports.model_predictions import (
  Member,
  Workplace,
  make_teacher,
  predict,
  teacher_path,
)


@pytest.fixture(scope="module")
def runs(tiny_files, tmp_path_factory):
  """Two train_dirs after 3 and 6 steps."""
  folder = tmp_path_factory.mktemp("runs")
  train_tiny(folder / "a", tiny_files, max_steps=3)
  train_tiny(folder / "b", tiny_files, max_steps=6, seed=1)
  return folder


@pytest.fixture
def workplace(tmp_path):
  return Workplace(str(tmp_path / "predictions"), Placement(), STOP)


def expected_of(train_dir, vectors):
  batch = {
    "video_matrix": vectors,
    "num_frames": np.ones(len(vectors), np.int32),
  }
  return load_model(train_dir)(batch, training=False)["predictions"].numpy()


@pytest.fixture
def calls(monkeypatch):
  """The files that were written."""
  written = []
  write = prediction_file.write_predictions

  def noted(path, *more):
    written.append(os.path.basename(path).split("-")[0])
    return write(path, *more)

  monkeypatch.setattr(prediction_file, "write_predictions", noted)
  return written


def test_predictions_are_made_once(
  runs, tiny_files, tiny_vectors, workplace, calls
):
  member = Member.find(str(runs / "a"))
  assert member.name == "a"
  assert not member.is_frame_level
  first = predict(member, tiny_files, "validate", workplace)
  again = predict(member, tiny_files, "validate", workplace)
  assert calls == ["validate"]
  assert again.path == first.path
  assert again.videos_per_second == first.videos_per_second > 0
  assert again.weight_bytes == first.weight_bytes == 4 * (7 * 6 + 6)
  found = first.predictions
  np.testing.assert_allclose(
    found.predictions, expected_of(runs / "a", tiny_vectors), atol=1e-6
  )
  assert found.video_ids.tolist() == [f"v{n}".encode() for n in range(NUM_TINY)]
  # Other files, another dtype, a checkpoint that went on: all is made again.
  predict(member, tiny_files[:1], "validate", workplace)
  predict(member, tiny_files, "validate", workplace)
  predict(member, tiny_files, "validate", workplace, np.float16)
  assert len(calls) == 4


def test_predictions_are_made_of_the_bytes_of_a_checkpoint(
  runs, tiny_files, tmp_path
):
  train_dir = shutil.copytree(runs / "a", tmp_path / "a*")
  member = Member.find(str(train_dir))

  def made_of() -> str:
    return model_predictions.made_of(member, tiny_files, np.float32)

  before = made_of()
  assert made_of() == before
  for path in train_dir.glob("model.ckpt-3.*"):
    os.utime(path, ns=(1, 1))
    assert made_of() != before
    before = made_of()


@pytest.mark.slow
def test_a_run_that_went_on_is_predicted_again(
  runs, tiny_files, tmp_path, workplace, calls
):
  train_dir = shutil.copytree(runs / "a", tmp_path / "a")
  before = predict(Member.find(str(train_dir)), tiny_files, "x", workplace)
  old = np.array(before.predictions.predictions)
  train_tiny(train_dir, tiny_files, max_steps=5)
  after = predict(Member.find(str(train_dir)), tiny_files, "x", workplace)
  assert len(calls) == 2
  assert after.path == before.path
  assert np.abs(after.predictions.predictions - old).max() > 1e-3


def test_predictions_without_their_json_are_made_again(
  runs, tiny_files, workplace, calls
):
  member = Member.find(str(runs / "a"))
  path = predict(member, tiny_files, "x", workplace).path
  facts = Path(path).with_suffix(".json")
  assert json.loads(facts.read_text())["checkpoint"] == member.checkpoint
  for content in ("{", "[" * 100_000):
    facts.write_text(content)
    predict(member, tiny_files, "x", workplace)
  os.remove(path)
  predict(member, tiny_files, "x", workplace)
  assert len(calls) == 4


def test_predictions_that_were_cut_short_are_not_taken_for_others(
  runs, tiny_files, workplace, monkeypatch
):
  """Stopped between the predictions of another checkpoint and their json."""
  first, second = (Member.find(str(runs / name)) for name in ("a", "b"))
  second = dataclasses.replace(second, train_dir=first.train_dir)
  before = predict(first, tiny_files, "x", workplace)
  expected = np.array(before.predictions.predictions)

  def stop(path, facts):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(model_predictions, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
      predict(second, tiny_files, "x", workplace)
  after = predict(first, tiny_files, "x", workplace)
  np.testing.assert_array_equal(after.predictions.predictions, expected)


def test_a_teacher_by_hand(runs, tiny_files, tiny_vectors, workplace, calls):
  members = [Member.find(str(runs / name)) for name in ("a", "b")]
  weights = np.array([0.3, 0.7])
  given = (members, weights, [tiny_files, tiny_files], workplace)
  path = teacher_path(*given[:3], workplace.folder)
  make_teacher(*given)
  found = prediction_file.read_predictions(path)
  assert found.predictions.dtype == np.float16
  expected = sum(
    weight * expected_of(member.train_dir, tiny_vectors)
    for weight, member in zip(weights, members, strict=True)
  )
  np.testing.assert_allclose(found.predictions, expected, atol=2e-3)
  assert folder_content(workplace.folder).keys() == {os.path.basename(path)}
  make_teacher(*given)
  assert calls == ["train", "train", "teacher"]
  notes = os.path.join(workplace.folder, "teacher-notes.txt")
  Path(notes).write_text("mine")
  # Another mixture is another teacher, which takes the place of the first.
  given = (members, np.array([0.0, 1.0]), given[2], workplace)
  make_teacher(*given)
  assert calls[3:] == ["train", "teacher"]
  other = teacher_path(*given[:3], workplace.folder)
  assert folder_content(workplace.folder).keys() == {
    os.path.basename(other),
    "teacher-notes.txt",
  }
  found = prediction_file.read_predictions(other)
  np.testing.assert_allclose(
    found.predictions,
    expected_of(members[1].train_dir, tiny_vectors),
    atol=2e-3,
  )


def test_a_teacher_is_named_by_what_it_is_made_of(runs, tiny_files):
  a, b = (Member.find(str(runs / name)) for name in ("a", "b"))

  def name(members, weights, files=tiny_files) -> str:
    files_of = [files] * len(members)
    return teacher_path(members, np.array(weights), files_of, "x")

  found = name([a, b], [0.5, 0.5])
  assert name([a, b], [0.5, 0.5]) == found
  # A model of weight 0 says nothing.
  more = dataclasses.replace(b, train_dir="c")
  assert name([a, more, b], [0.5, 0.0, 0.5]) == found
  others = [
    name([a, b], [0.4, 0.6]),
    name([a, a], [0.5, 0.5]),
    name([a, b], [0.5, 0.5], tiny_files[:1]),
  ]
  assert len({found, *others}) == 4


def test_models_that_read_other_videos(runs, tiny_files, workplace):
  members = [Member.find(str(runs / name)) for name in ("a", "b")]
  files_of = [tiny_files, tiny_files[:1]]
  given = (members, np.array([0.5, 0.5]))
  text = error_of(make_teacher, *given, files_of, workplace)
  assert (
    "received 9 of 22 videos that some did not predict, such as v13" in text
  )
  # As where records may be left out, so may videos.
  skip = Policy(skip=True)
  lenient = Workplace(workplace.folder, Placement(), skip)
  make_teacher(*given, files_of, lenient)
  path = teacher_path(*given, files_of, workplace.folder)
  assert len(prediction_file.read_predictions(path).video_ids) == 13


def test_no_video_in_common():
  source = prediction_file.Predictions(
    np.array([b"a"]), np.zeros((1, 2), np.float32), np.arange(2)
  )
  joined = JoinedPredictions([source], np.array([b"b"]))
  for policy in (STOP, Policy(skip=True)):
    text = error_of(
      model_predictions.check_missing, joined, np.array([b"b"]), policy
    )
    assert "received 1 of 1 videos" in text


def test_bad_records_are_left_out_and_listed(runs, tmp_path):
  records = [
    video_record(f"v{number}", mean_rgb=np.ones(4), mean_audio=np.ones(size))
    for number, size in enumerate([3, 3, 2])
  ]
  file = write_records(tmp_path / "a", records)
  folder = str(tmp_path / "predictions")
  member = Member.find(str(runs / "a"))
  strict = Workplace(folder, Placement(), STOP)
  assert f"{file}, record 2: " in error_of(predict, member, [file], "x", strict)
  lenient = Workplace(folder, Placement(), Policy(True, 1.0))
  found = predict(member, [file], "x", lenient)
  assert found.predictions.video_ids.tolist() == [b"v0", b"v1"]
  (listed,) = (tmp_path / "predictions").glob("*_skipped_records.csv")
  assert "mean_audio" in listed.read_text()


def test_predictions_are_made_of_the_flags_of_a_model_too(runs, tiny_files):
  member = Member.find(str(runs / "a"))
  other = Member(
    member.train_dir, {**TINY_FLAGS, "max_frames": 9}, member.checkpoint
  )
  one, two = (
    model_predictions.made_of(model, tiny_files, np.float32)
    for model in (member, other)
  )
  assert one != two
