"""Tests of engine.run_record: run.json, and the end after some minutes."""

import datetime
import hashlib
import json
import os
import re
import time

import pytest
from conftest import assert_names, assert_same_state, folder_content
from test_run import stop_after
from tiny_runs import TINY_FLAGS, train_tiny

import errors
import train
from engine import loop, resources, run_record, validation
from engine.run_record import RunRecord, read_run_record
from engine.settings import Settings


def read(train_dir) -> dict:
  return json.loads((train_dir / "run.json").read_text())


def new_record(train_dir, **changes) -> RunRecord:
  """A record with little in it."""
  given = {
    "step": 0,
    "replicas": 1,
    "writes": True,
    "began": time.monotonic(),
    **changes,
  }
  return RunRecord(str(train_dir), {"command": ["python", "train.py"]}, **given)


# --------------------------------------------------------------------------
# By itself


def test_no_record(tmp_path):
  assert read_run_record(str(tmp_path)) is None
  assert run_record.training_seconds(str(tmp_path)) == 0.0


@pytest.mark.parametrize(
  "content",
  [
    "{",
    "[]",
    "{}",
    '{"starts": 1}',
    '{"starts": [{}]}',
    '{"starts": [{"training_seconds": null}]}',
    '{"starts": [{"training_seconds": "x"}]}',
    "\xff",
  ],
)
def test_a_record_of_something_else(tmp_path, content):
  (tmp_path / "run.json").write_text(content, encoding="latin-1")
  with pytest.raises(errors.UserError) as caught:
    read_run_record(str(tmp_path))
  assert_names(str(caught.value), f"{tmp_path}/run.json", "Delete the file")


def test_steps_by_hand(tmp_path):
  record = new_record(tmp_path, step=7, began=time.monotonic() - 100.0)
  gigabyte = 10**9
  assert record.add_steps(0, 0, 1.0, resources.NO_USAGE) == 0.0
  # The first step compiles.
  first = resources.Usage(190.0, 1, 1.0, 3 * gigabyte)
  assert record.add_steps(1, 10, 50.0, first) == 0.0
  second = resources.Usage(100.0, 2, 20.0, 2 * gigabyte)
  assert record.add_steps(2, 20, 1.0, second) == 1.0
  third = resources.Usage(160.0, 3, None, None)
  assert record.add_steps(10, 100, 3.0, third) == 3.0
  record.write()
  (start,) = read(tmp_path)["starts"]
  assert start["first_step"] == 8
  assert start["last_step"] == 20
  assert start["videos"] == 130
  assert 100.0 <= start["start_seconds"] < 130.0
  assert start["training_seconds"] == 4.0
  assert start["videos_per_second"] == 30.0
  found = start["resources"]
  assert found.pop("peak_memory_bytes") == pytest.approx(
    resources.peak_memory(), rel=0.1
  )
  assert found == {
    "cpu_percent": 145.0,  # (1 * 100 + 3 * 160) / 4
    "gpu_percent": 20.0,
    "gpu_memory_bytes": 3 * gigabyte,
  }


def test_evaluations_are_no_part_of_the_start(
  tiny_files, tmp_path, monkeypatch
):
  """An hour that catching up takes."""
  now = 0.0
  monotonic = time.monotonic
  monkeypatch.setattr(time, "monotonic", lambda: monotonic() + now)
  catch_up = validation.Validation.catch_up

  def take_long(self):
    nonlocal now
    now += 3600.0
    return catch_up(self)

  monkeypatch.setattr(validation.Validation, "catch_up", take_long)
  train_tiny(
    tmp_path, tiny_files[:1], max_steps=1, eval_data_pattern=tiny_files[1]
  )
  (start,) = read(tmp_path)["starts"]
  assert 0 < start["start_seconds"] < 1800


def test_times(tmp_path):
  record = new_record(tmp_path, began=time.monotonic() - 100.0)
  record.write()
  (start,) = read(tmp_path)["starts"]
  now = datetime.datetime.now(datetime.UTC)
  began = datetime.datetime.fromisoformat(start["began"])
  assert began.utcoffset() == datetime.timedelta(0)
  assert 99 <= (now - began).total_seconds() < 130
  assert start["ended"] is None
  record.write(ended=True)
  (start,) = read(tmp_path)["starts"]
  ended = datetime.datetime.fromisoformat(start["ended"])
  assert 99 <= (ended - began).total_seconds() < 130


def test_a_start_without_a_step(tmp_path):
  new_record(tmp_path, step=3).write()
  (start,) = read(tmp_path)["starts"]
  assert start["first_step"] == 4
  assert start["last_step"] == 3
  assert start["start_seconds"] is None
  assert start["videos_per_second"] is None
  assert start["resources"]["cpu_percent"] is None


def test_only_one_machine_writes(tmp_path):
  record = new_record(tmp_path, writes=False)
  assert record.add_steps(1, 1, 1.0, resources.NO_USAGE) == 0.0
  assert record.add_steps(1, 1, 1.0, resources.NO_USAGE) == 1.0
  record.write(ended=True)
  assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------
# Of runs


def test_the_record_of_a_run(tiny_files, tmp_path):
  settings = {"num_epochs": 3, "seed": 7, "ema_decay": 0.9}
  train_tiny(tmp_path, tiny_files, **settings)
  record = read_run_record(str(tmp_path))
  assert record.keys() == {
    "command",
    "settings",
    "model_flags",
    "data",
    "parameters",
    "starts",
  }
  expected = Settings(
    batch_size=5, base_learning_rate=0.01, xla=False, **settings
  )
  assert record["settings"] == vars(expected)
  flags = json.loads((tmp_path / "model_flags.json").read_text())
  assert record["model_flags"] == flags
  assert record["parameters"] == 7 * 6 + 6
  names = "".join(
    f"{os.path.basename(file)}\t{os.path.getsize(file)}\n"
    for file in tiny_files
  )
  assert record["data"] == {
    "pattern": "",
    "files": 2,
    "videos": 22,
    "hash": hashlib.sha256(names.encode()).hexdigest(),
  }
  (start,) = record["starts"]
  assert start["first_step"] == 1
  assert start["last_step"] == 14
  assert start["videos"] == 66
  assert start["replicas"] == 1
  assert start["training_seconds"] > 0
  # The first step had 5 of the videos.
  assert start["videos_per_second"] == pytest.approx(
    61 / start["training_seconds"], rel=1e-3
  )
  assert start["start_seconds"] > 0
  assert start["began"] <= start["ended"]
  assert start["resources"]["cpu_percent"] > 0
  assert start["versions"].keys() >= {"tensorflow", "yt8m"}
  assert start["machine"]["cores"] >= 1
  assert start["commit"] is None or re.match("[0-9a-f]{40}", start["commit"])


def test_a_resumed_run_has_two_starts(tiny_files, tmp_path):
  call = run_record.Call(["python", "train.py", "--max_steps=4"], "data*")
  given = (str(tmp_path), TINY_FLAGS, tiny_files)
  tiny = {"batch_size": 5, "base_learning_rate": 0.01, "xla": False}
  train.train(*given, Settings(max_steps=4, **tiny), call=call)
  (first,) = read(tmp_path)["starts"]
  call = run_record.Call(["python", "train.py", "--max_steps=6"], "data?")
  train.train(*given, Settings(max_steps=6, **tiny), call=call)
  record = read(tmp_path)
  assert record["command"] == ["python", "train.py", "--max_steps=6"]
  assert record["data"]["pattern"] == "data?"
  assert record["settings"]["max_steps"] == 6
  before, second = record["starts"]
  assert before == first
  assert first["command"] == ["python", "train.py", "--max_steps=4"]
  assert (first["first_step"], first["last_step"]) == (1, 4)
  assert (second["first_step"], second["last_step"]) == (5, 6)
  assert second["videos"] == 10
  assert run_record.training_seconds(str(tmp_path)) == pytest.approx(
    first["training_seconds"] + second["training_seconds"]
  )


def test_a_run_that_was_told_to_stop(tiny_files, tmp_path, monkeypatch):
  class Stop(loop.StopSignal):
    def __enter__(self):
      self.received = "SIGTERM"
      return self

    def __exit__(self, *unused_exception):
      pass

  with monkeypatch.context() as patch:
    patch.setattr(loop, "StopSignal", Stop)
    assert train_tiny(tmp_path, tiny_files, max_steps=2) == 1
    # After its last step there is nothing to stop.
    assert train_tiny(tmp_path, tiny_files, max_steps=2) == 2
  first, last = read(tmp_path)["starts"]
  assert first["stopped_by"] == "SIGTERM"
  assert last["stopped_by"] is None


def test_a_new_run_has_a_new_record(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=3)
  train_tiny(tmp_path, tiny_files, max_steps=2, start_new_model=True)
  (start,) = read(tmp_path)["starts"]
  assert start["last_step"] == 2


def test_a_run_of_an_earlier_version_begins_its_record(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=3)
  (tmp_path / "run.json").unlink()
  assert train_tiny(tmp_path, tiny_files, max_steps=5) == 5
  (start,) = read(tmp_path)["starts"]
  assert (start["first_step"], start["last_step"]) == (4, 5)


def test_the_record_is_kept_at_each_checkpoint(
  tiny_files, tmp_path, monkeypatch
):
  def fail(*unused):
    raise errors.UserError("the disk is full")

  save_if_due = loop.Saver.save_if_due

  def save(self, step, *given):
    ended = save_if_due(self, step, *given)
    if step == 9:
      fail()
    return ended

  monkeypatch.setattr(loop.Saver, "save_if_due", save)
  with pytest.raises(errors.UserError, match="the disk is full"):
    train_tiny(tmp_path, tiny_files, export_model_steps=3)
  (start,) = read(tmp_path)["starts"]
  assert start["last_step"] == 9
  assert start["videos"] == 45
  assert start["ended"] is None


# --------------------------------------------------------------------------
# --max_minutes


@pytest.fixture
def steps_of_a_second(monkeypatch):
  """Lets each step take a second, and the first of a start a hundred."""
  run_steps = loop.run_some_steps
  is_first = []

  def run_some_steps(*arguments):
    done, outputs, _, stopped, _ = run_steps(*arguments)
    pace = 1.0 if is_first else 100.0
    is_first.append(False)
    return done, outputs, pace * done, stopped, pace

  monkeypatch.setattr(loop, "run_some_steps", run_some_steps)
  return is_first


@pytest.mark.slow
def test_the_end_after_some_minutes(tiny_files, tmp_path, steps_of_a_second):
  timed, other = tmp_path / "timed", tmp_path / "other"
  settings = {"num_epochs": 0, "ema_decay": 0.9}
  # A first step that does not count, and six of a second.
  assert train_tiny(timed, tiny_files, **settings, max_minutes=0.1) == 7
  assert run_record.training_seconds(str(timed)) == 6.0
  train_tiny(other, tiny_files, **settings, max_steps=7)
  assert_same_state(timed / "model.ckpt-7", other / "model.ckpt-7")
  # The same again changes nothing.
  before = folder_content(timed)
  assert train_tiny(timed, tiny_files, **settings, max_minutes=0.1) == 7
  assert folder_content(timed) == before
  # Six more seconds, and again a first step.
  steps_of_a_second.clear()
  assert train_tiny(timed, tiny_files, **settings, max_minutes=0.2) == 14
  assert run_record.training_seconds(str(timed)) == 12.0
  train_tiny(other, tiny_files, **settings, max_steps=14)
  assert_same_state(timed / "model.ckpt-14", other / "model.ckpt-14")


def test_minutes_are_counted_over_stops(
  tiny_files, tmp_path, steps_of_a_second, monkeypatch
):
  settings = {"num_epochs": 0, "max_minutes": 0.5}
  stops = 0
  with monkeypatch.context() as patch:
    patch.setattr(loop, "StopSignal", lambda: stop_after(3))
    while run_record.training_seconds(str(tmp_path)) < 20.0:
      steps_of_a_second.clear()
      train_tiny(tmp_path, tiny_files, **settings)
      stops += 1
  assert stops >= 2
  steps_of_a_second.clear()
  # Thirty steps that count, and the first one of each start.
  assert train_tiny(tmp_path, tiny_files, **settings) == 30 + stops + 1
  assert run_record.training_seconds(str(tmp_path)) == 30.0


def test_whatever_comes_first_ends_the_run(
  tiny_files, tmp_path, steps_of_a_second
):
  assert train_tiny(tmp_path, tiny_files, max_minutes=1.0, max_steps=5) == 5
  assert train_tiny(tmp_path, tiny_files, max_minutes=1.0, num_epochs=2) == 9


def test_no_limit_of_time(tiny_files, tmp_path, steps_of_a_second):
  assert train_tiny(tmp_path, tiny_files, num_epochs=3) == 14
