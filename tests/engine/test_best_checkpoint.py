"""Tests of best_checkpoint: what is kept, whole at any time, and found."""

import errno
import json
import math
import os
import shutil
import threading

import pytest
import tensorflow as tf
from conftest import error_of, folder_content
from small_checkpoints import make_run, set_weights

import errors
from engine import best_checkpoint, checkpoint_index, files
from engine.checkpoints import Checkpoints, check_whole, checkpoints_by_step

CONDITIONS = {"files": "0123", "pattern": "/data/validate*", "top_k": 20}
ENDINGS = ("index", "data-00000-of-00002", "data-00001-of-00002")


@pytest.fixture(autouse=True)
def _words_are_an_index(monkeypatch, request):
  """The files here hold words, which name two files of data."""
  if "saved_run" not in request.fixturenames:
    index = checkpoint_index.Index(2, {}, frozenset())
    monkeypatch.setattr(checkpoint_index, "parse", lambda content: index)


def save(folder, step, content="") -> str:
  """Writes the files of a checkpoint; returns its path."""
  path = f"{folder}/model.ckpt-{step}"
  for ending in ENDINGS:
    with open(f"{path}.{ending}", "w") as file:
      file.write(content or f"{ending} of {step}")
  return path


def delete(checkpoint) -> None:
  """Deletes a checkpoint, as training does."""
  for ending in ENDINGS:
    os.remove(f"{checkpoint}.{ending}")


def content_of(checkpoint) -> list[str]:
  contents = []
  for ending in ENDINGS:
    with open(f"{checkpoint}.{ending}") as file:
      contents.append(file.read())
  return contents


def consider(folder, step, score, metric="gap", **more) -> bool:
  path = f"{folder}/model.ckpt-{step}"
  conditions = {**CONDITIONS, **more.pop("conditions", {})}
  return best_checkpoint.consider(
    str(folder), path, metric, score, conditions, **more
  )


def best_step(folder) -> int:
  """The step of the best checkpoint, which must be whole."""
  path = best_checkpoint.find_checkpoint(str(folder), "best")
  step = json.loads((folder / "best.json").read_text())["step"]
  assert content_of(path) == [f"{ending} of {step}" for ending in ENDINGS]
  return step


# --------------------------------------------------------------------------
# What is kept


@pytest.mark.parametrize(
  ("metric", "scores", "expected", "next_best"),
  [
    ("gap", [0.1, 0.3, 0.2, 0.3], 2, 4),
    ("avg_loss", [0.1, 0.3, 0.1, 0.3], 1, 3),
    ("gap", [math.nan, 0.1, math.inf, 0.0], 2, 4),
  ],
)
def test_the_best_of_some(tmp_path, metric, scores, expected, next_best):
  paths = [save(tmp_path, step) for step in range(1, 5)]
  given = dict(zip(paths, scores, strict=True))
  best_checkpoint.choose(str(tmp_path), metric, given, CONDITIONS)
  assert best_step(tmp_path) == expected
  # If it is gone, the next one; but not where one as good is kept already.
  delete(paths[expected - 1])
  best_checkpoint.choose(str(tmp_path), metric, given, CONDITIONS)
  assert best_step(tmp_path) == expected
  shutil.rmtree(tmp_path / "best")
  best_checkpoint.choose(str(tmp_path), metric, given, CONDITIONS)
  assert best_step(tmp_path) == next_best


@pytest.mark.parametrize(
  ("metric", "score", "other", "expected"),
  [
    ("gap", 0.5, 0.4, True),
    ("gap", 0.4, 0.5, False),
    ("gap", 0.4, 0.4, False),
    ("avg_loss", 3.0, 4.0, True),
    ("avg_loss", 4.0, 3.0, False),
    ("avg_loss", 3.0, 3.0, False),
  ],
)
def test_which_score_is_better(metric, score, other, expected):
  assert best_checkpoint.is_better(metric, score, other) is expected


def test_the_best_one_is_kept_when_training_deletes_it(tmp_path):
  kept = []
  for step, score in enumerate([0.2, 0.5, 0.5, 0.3, 0.6, 0.1]):
    path = save(tmp_path, step)
    kept.append(consider(tmp_path, step, score))
    delete(path)
  assert kept == [True, True, False, False, True, False]
  assert best_step(tmp_path) == 4
  assert json.loads((tmp_path / "best.json").read_text()) == {
    "checkpoint": "best/model.ckpt-4",
    "step": 4,
    "metric": "gap",
    "score": 0.6,
    **CONDITIONS,
  }
  # Nothing else is left.
  assert sorted(path.name for path in (tmp_path / "best").iterdir()) == sorted(
    f"model.ckpt-4.{ending}" for ending in ENDINGS
  )
  # A folder may be moved.
  moved = shutil.copytree(tmp_path, tmp_path / "moved")
  assert best_step(moved) == 4


def test_the_least_loss_is_the_best(tmp_path):
  for step, score in enumerate([5.0, 3.0, 4.0]):
    save(tmp_path, step)
    consider(tmp_path, step, score, "avg_loss")
  assert best_step(tmp_path) == 1


def test_the_data_takes_no_disk_where_it_can_be_linked(tmp_path):
  path = save(tmp_path, 3)
  assert consider(tmp_path, 3, 0.5)
  for ending in ENDINGS[1:]:
    kept = f"{tmp_path}/best/model.ckpt-3.{ending}"
    assert os.path.samefile(f"{path}.{ending}", kept)


def test_a_checkpoint_is_copied_where_it_cannot_be_linked(
  tmp_path, monkeypatch
):
  def refuse(source, target):
    raise OSError(errno.EPERM, "no links here")

  monkeypatch.setattr(os, "link", refuse)
  path = save(tmp_path, 3)
  assert consider(tmp_path, 3, 0.5)
  for ending in ENDINGS:
    kept = f"{tmp_path}/best/model.ckpt-3.{ending}"
    assert not os.path.samefile(f"{path}.{ending}", kept)
  delete(path)
  assert best_step(tmp_path) == 3


@pytest.mark.parametrize(
  "gone", [ENDINGS, ENDINGS[:1], ENDINGS[1:], ENDINGS[2:]]
)
def test_a_checkpoint_that_training_deletes_meanwhile_is_no_error(
  tmp_path, gone, caplog
):
  caplog.set_level("INFO", "absl")
  save(tmp_path, 1)
  consider(tmp_path, 1, 0.3)
  path = save(tmp_path, 2)
  for ending in gone:
    os.remove(f"{path}.{ending}")
  assert not consider(tmp_path, 2, 0.4)
  assert best_step(tmp_path) == 1
  assert "Step 2 has the best gap so far, 0.4, but its checkpoint was dele" in (
    caplog.text
  )
  # What was taken of it does not stay.
  save(tmp_path, 3)
  assert consider(tmp_path, 3, 0.5)
  assert len(list((tmp_path / "best").iterdir())) == len(ENDINGS)


CHANGES = [
  {"metric": "map"},
  {"conditions": {"files": "4567"}},
  {"conditions": {"top_k": 5}},
  {"conditions": {"threshold_files": "89"}},
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_metric_or_other_files_start_again(tmp_path, change, caplog):
  caplog.set_level("INFO", "absl")
  for step in (1, 2):
    save(tmp_path, step)
  consider(tmp_path, 1, 0.9)
  assert consider(tmp_path, 2, 0.1, **change)
  assert best_step(tmp_path) == 2
  assert "again. That of step 1 was chosen by gap on /data/validate*, by" in (
    caplog.text
  )
  assert consider(tmp_path, 1, 0.05)  # and back
  assert best_step(tmp_path) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_one_scoring_is_no_choice(tmp_path, change, caplog):
  caplog.set_level("INFO", "absl")
  for step in (1, 2):
    save(tmp_path, step)
  # Nothing is lost, so the first one may be kept.
  assert consider(tmp_path, 1, 0.5, replaces_others=False)
  assert not consider(tmp_path, 2, 0.9, replaces_others=False, **change)
  assert best_step(tmp_path) == 1
  assert "stays that of step 1, chosen by gap on /data/validate*: by" in (
    caplog.text
  )
  # By the same metric, on the same files, it may.
  assert consider(tmp_path, 2, 0.6, replaces_others=False)
  assert best_step(tmp_path) == 2


def test_the_folder_of_the_files_does_not_matter(tmp_path):
  for step in (1, 2):
    save(tmp_path, step)
  consider(tmp_path, 1, 0.9)
  elsewhere = {"pattern": "/elsewhere/validate*"}
  assert not consider(tmp_path, 2, 0.1, conditions=elsewhere)


def test_a_step_that_is_scored_again_stays(tmp_path):
  save(tmp_path, 1)
  consider(tmp_path, 1, 0.5)
  assert consider(tmp_path, 1, 0.6)  # the scores depend on the machine
  assert best_step(tmp_path) == 1
  best = best_checkpoint.find_checkpoint(str(tmp_path), "best")
  # Scored where it is kept, for another metric.
  assert best_checkpoint.consider(str(tmp_path), best, "map", 0.1, CONDITIONS)
  assert best_step(tmp_path) == 1


def test_a_best_checkpoint_that_was_deleted_by_hand_is_replaced(tmp_path):
  for step in (1, 2):
    save(tmp_path, step)
  consider(tmp_path, 1, 0.9)
  shutil.rmtree(tmp_path / "best")
  assert consider(tmp_path, 2, 0.1)
  assert best_step(tmp_path) == 2


# --------------------------------------------------------------------------
# At any time


class Killed(BaseException):
  """Raised in the place of the end of the process."""


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_at_any_time_leaves_the_old_or_the_new_one(
  tmp_path, monkeypatch, links, step
):
  """Also if a run reaches a step twice, after its checkpoints were deleted."""
  operations = 0
  last = None  # the number of the last operation before the kill

  def killing(function):
    def operation(*arguments, **keywords):
      nonlocal operations
      if last is not None and operations >= last:
        raise Killed  # and what would clean up does nothing either
      operations += 1
      return function(*arguments, **keywords)

    return operation

  for name in ("rename", "remove", "copy", "rmtree", "makedirs"):
    monkeypatch.setattr(tf.io.gfile, name, killing(getattr(tf.io.gfile, name)))
  if links:
    monkeypatch.setattr(os, "link", killing(os.link))
  else:
    monkeypatch.setattr(best_checkpoint, "_link", lambda *_: False)

  def whole(folder):
    best = best_checkpoint.read_best(str(folder))
    return best["step"], best["score"], content_of(best["checkpoint"])

  outcomes = []
  number = 0
  while True:
    folder = tmp_path / str(number)
    folder.mkdir()
    last = None
    save(folder, 1, "old")
    assert consider(folder, 1, 0.3)
    old = whole(folder)
    os.remove(f"{folder}/model.ckpt-1.index")  # not the same file any more
    os.remove(f"{folder}/model.ckpt-1.data-00000-of-00002")
    os.remove(f"{folder}/model.ckpt-1.data-00001-of-00002")
    save(folder, step, "new")
    new = (step, 0.4, ["new"] * 3)
    operations, last = 0, number
    try:
      consider(folder, step, 0.4)
      was_killed = False
    except Killed:
      was_killed = True
    last = None
    found = whole(folder)
    assert found in (old, new), number
    outcomes.append(found == new)
    # The next one is kept in any case, and what was left over is removed.
    save(folder, 3)
    assert consider(folder, 3, 0.5)
    assert best_step(folder) == 3
    assert len(list((folder / "best").iterdir())) == len(ENDINGS)
    if not was_killed:
      break
    number += 1
  assert outcomes == sorted(outcomes)
  assert not outcomes[0]
  assert outcomes[-1]
  assert number > 5


def test_a_choice_that_changes_nothing_removes_what_was_left_over(
  tmp_path, monkeypatch
):
  tried = []

  def fail(path):
    tried.append(os.path.basename(path))
    raise tf.errors.UnknownError(None, None, "Input/output error")

  save(tmp_path, 1)
  assert consider(tmp_path, 1, 0.1)
  save(tmp_path, 2)
  with monkeypatch.context() as patch:
    patch.setattr(tf.io.gfile, "remove", fail)
    with pytest.raises(tf.errors.UnknownError):
      consider(tmp_path, 2, 0.2)
  assert tried == ["model.ckpt-1.index"]  # the rest is no checkpoint then
  assert best_step(tmp_path) == 2
  assert len(list((tmp_path / "best").iterdir())) == 2 * len(ENDINGS)
  assert not consider(tmp_path, 2, 0.2)
  assert best_step(tmp_path) == 2
  assert len(list((tmp_path / "best").iterdir())) == len(ENDINGS)


def test_two_processes_at_once_keep_the_best_of_both(tmp_path):
  scores = [(7 * step % 40) / 40 for step in range(40)]
  for step in range(40):
    save(tmp_path, step)

  def work(steps):
    for step in steps:
      consider(tmp_path, step, scores[step])

  threads = [
    threading.Thread(target=work, args=(range(first, 40, 2),))
    for first in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert scores[best_step(tmp_path)] == max(scores)
  assert len(list((tmp_path / "best").iterdir())) == len(ENDINGS)


# --------------------------------------------------------------------------
# Names


@pytest.fixture
def run(tmp_path):
  """A train_dir with checkpoints of three steps, and a best one of another."""
  for step in (2, 9, 10, 12):
    save(tmp_path, step)
  consider(tmp_path, 9, 0.5)
  delete(tmp_path / "model.ckpt-9")
  (tmp_path / "model.ckpt-11.data-00000-of-00001").write_text("incomplete")
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-12"')
  return tmp_path


def test_checkpoints_by_name(run):
  def find(which):
    path = best_checkpoint.find_checkpoint(str(run), which)
    return os.path.relpath(path, run)

  assert find("latest") == "model.ckpt-12"
  assert find("best") == find("9") == "best/model.ckpt-9"
  assert find("2") == "model.ckpt-2"
  assert find("10") == "model.ckpt-10"
  kept = best_checkpoint.kept_checkpoints(str(run))
  assert list(kept) == [2, 9, 10, 12]


def test_checkpoints_come_by_their_steps(tmp_path):
  for step in (9, 100, 20):
    (tmp_path / f"model.ckpt-{step}.index").touch()
  for name in ("model.ckpt-again-3.index", "model.ckpt-4.data-00000-of-00001"):
    (tmp_path / name).touch()
  assert list(checkpoints_by_step(str(tmp_path)).items()) == [
    (step, f"{tmp_path}/model.ckpt-{step}") for step in (9, 20, 100)
  ]
  assert not checkpoints_by_step(str(tmp_path / "no"))


def test_unknown_names_list_those_there_are(run, tmp_path_factory):
  def error_of(which, folder=run):
    with pytest.raises(errors.UserError) as caught:
      best_checkpoint.find_checkpoint(str(folder), which)
    return str(caught.value)

  assert "received 11, which is damaged: " in error_of("11")
  assert "11.index is missing. There are 2, 9, 10, 12; the best one is 9." in (
    error_of("11")
  )
  assert "received 'newest'" in error_of("newest")
  assert "received '-1'" in error_of("-1")
  empty = tmp_path_factory.mktemp("empty")
  assert "received 11. There are none." in error_of("11", empty)
  assert "found none, because none was scored" in error_of("best", empty)
  assert "Expected a checkpoint in --train_dir" in error_of("latest", empty)
  shutil.rmtree(run / "best")
  assert "found no such file" in error_of("best")
  assert "There are 2, 10, 12; the best" in error_of("9")


@pytest.mark.parametrize("content", ["", "{", "3", '{"step": 3}'])
def test_a_damaged_file_is_named(run, content):
  (run / "best.json").write_text(content)
  for which in ("best", "3"):
    with pytest.raises(errors.UserError, match="all_checkpoints") as caught:
      best_checkpoint.find_checkpoint(str(run), which)
    assert f"{run}/best.json" in str(caught.value)


def test_a_file_is_written_whole_or_not(run, monkeypatch):
  """best.json itself, beside the checkpoint."""
  before = (run / "best.json").read_text()

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(files, "put_in_place", fail)
  with pytest.raises(OSError, match="disk full"):
    consider(run, 12, 0.9)
  assert (run / "best.json").read_text() == before
  assert best_step(run) == 9


# --------------------------------------------------------------------------
# Damage


def best_of_run(folder, step=5) -> None:
  assert best_checkpoint.consider(
    str(folder), f"{folder}/model.ckpt-{step}", "gap", 0.5, CONDITIONS
  )


def test_a_damaged_best_one_is_an_error_and_gives_way(saved_run):
  folder, _, path = saved_run
  best_of_run(folder)
  data = folder / "best" / "model.ckpt-5.data-00000-of-00001"
  content = data.read_bytes()
  data.write_bytes(content[:9])  # the same file as that of the run
  for which in ("best", "5"):
    error = error_of(best_checkpoint.find_checkpoint, str(folder), which)
    assert "received a damaged one" in error
    assert "model.ckpt-5.data-00000-of-00001 is damaged: it has 9 of" in error
  os.remove(f"{path}.data-00000-of-00001")
  with open(f"{path}.data-00000-of-00001", "wb") as file:
    file.write(content)
  best_of_run(folder)  # although its score is no better
  assert data.read_bytes() == content


def test_the_best_one_stays_whole_when_its_step_is_saved_again(saved_run):
  """With other weights, as on a GPU after a kill."""
  folder, _, path = saved_run
  best_of_run(folder)
  best = best_checkpoint.find_checkpoint(str(folder), "best")
  before = folder_content(folder / "best")
  run = make_run(5)
  set_weights(run["model"], 7.0)
  Checkpoints(str(folder), 5, **run).save(5)
  check_whole(best, with_data=True)
  assert folder_content(folder / "best") == before
  # What is scored now is the new one.
  assert best_checkpoint.consider(str(folder), path, "map", 0.6, CONDITIONS)
  best = best_checkpoint.find_checkpoint(str(folder), "best")
  check_whole(best, with_data=True)
  assert folder_content(folder / "best") != before


def test_a_damaged_step_without_an_index_is_named(saved_run):
  folder, _, path = saved_run
  os.remove(f"{path}.index")
  error = error_of(best_checkpoint.find_checkpoint, str(folder), "5")
  assert f"which is damaged: {path}.index is missing. There are 4." in error
  assert best_checkpoint.find_checkpoint(str(folder), "4").endswith("-4")


def test_a_damaged_best_one_that_a_run_has_not_reached_is_forgotten(saved_run):
  folder, _, _ = saved_run
  best_of_run(folder)
  data = folder / "best" / "model.ckpt-5.data-00000-of-00001"
  content = data.read_bytes()
  best_checkpoint.drop_damaged(str(folder), 4)
  assert best_checkpoint.read_best(str(folder))["step"] == 5
  middle = len(content) // 2
  data.write_bytes(content[:middle] + b"?" + content[middle + 1 :])
  best_checkpoint.drop_damaged(str(folder), 5)
  assert best_checkpoint.read_best(str(folder))["step"] == 5
  best_checkpoint.drop_damaged(str(folder), 4)
  assert best_checkpoint.read_best(str(folder)) is None


@pytest.mark.parametrize(
  "change",
  [
    {"step": "5"},
    {"step": True},
    {"score": None},
    {"score": math.nan},
    {"score": 10**400},
    {"step": 10**400},
    {"step": 4},
    {"checkpoint": "../other/model.ckpt-5"},
    {"checkpoint": "/other/model.ckpt-5"},
    {"checkpoint": 5},
    {"pattern": None},
  ],
)
def test_a_best_file_of_other_types_is_an_error(saved_run, change):
  folder, _, _ = saved_run
  best_of_run(folder)
  file = folder / "best.json"
  content = json.loads(file.read_text())
  file.write_text(json.dumps({**content, **change}))
  error = error_of(best_checkpoint.read_best, str(folder))
  assert f"in {file}, received something else. Delete it" in error
