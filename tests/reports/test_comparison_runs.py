"""Tests of reports.comparison_runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS, REPOSITORY, error_of
from small_comparison import made_up_run

from reports import comparison_runs
from reports.comparison_runs import (
  StepError,
  alone_in,
  finish_all,
  run_folder,
  run_process,
  train_command,
)


@pytest.fixture
def lock(tmp_path):
  with alone_in(str(tmp_path)) as descriptor:
    yield descriptor


def test_commands_name_folder_and_files(tmp_path):
  run = made_up_run("A", seed=1)
  folder = run_folder(run, str(tmp_path))
  assert train_command(run, str(tmp_path), "t*") == [
    "train.py",
    "--batch_size=4",
    "--train_data_pattern=t*",
    f"--train_dir={folder}/model",
  ]
  part = made_up_run("A", fraction=0.3)
  assert comparison_runs.planned_pattern(part, "out") == (
    "out/data/0123456789abcdef_fraction0.3_of_videos/*.tfrecord*"
  )


def test_one_comparison_at_a_time(tmp_path, lock):
  def enter():
    with alone_in(str(tmp_path)):
      pass

  assert "no other comparison works in" in error_of(enter)


def test_a_lock_empties_no_file(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  (tmp_path / "important.txt").write_text("important")
  (out / ".lock").symlink_to("../important.txt")
  with alone_in(str(out)):
    pass
  assert (tmp_path / "important.txt").read_text() == "important"


def test_a_process_holds_the_lock(tmp_path):
  with alone_in(str(tmp_path)) as lock:
    child = subprocess.Popen(
      [sys.executable, "-c", "input()"],
      stdin=subprocess.PIPE,
      pass_fds=(lock,),
    )

  def enter():
    with alone_in(str(tmp_path)):
      pass

  assert "no other comparison" in error_of(enter)
  child.communicate(b"\n")
  enter()


def test_output_and_errors_of_a_process(tmp_path, lock):
  log = str(tmp_path / "a.log")
  run_process(["-c", "print('one')"], log, lock)
  with pytest.raises(StepError, match=r"^Expected more \(log: .*a\.log\)$"):
    run_process(
      ["-c", "import sys; sys.exit('ERROR: Expected more')"], log, lock
    )
  with pytest.raises(StepError, match="exit code 3: two"):
    run_process(["-c", "print('two', flush=True); exit(3)"], log, lock)
  assert (tmp_path / "a.log").read_text().splitlines() == [
    "one",
    "ERROR: Expected more",
    "two",
  ]


def test_processes_run_here_with_this_code_and_know_of_no_other_machine(
  tmp_path, lock, monkeypatch
):
  monkeypatch.setenv("TF_CONFIG", "{}")
  monkeypatch.setenv("PYTHONPATH", "")
  monkeypatch.chdir(tmp_path)
  # Beside a module of a user, that of the code.
  (tmp_path / "here.py").write_text("import errors; print(errors.__file__)")
  run_process(["here.py"], "a.log", lock)
  assert (tmp_path / "a.log").read_text() == f"{REPOSITORY / 'errors.py'}\n"
  program = "import os; print(os.getcwd(), 'TF_CONFIG' in os.environ)"
  run_process(["-c", program], "b.log", lock)
  assert (tmp_path / "b.log").read_text() == f"{tmp_path} False\n"
  command = train_command(made_up_run("A"), "out", "t*")
  assert os.path.samefile(command[0], REPOSITORY / "train.py")
  assert command[-1].startswith("--train_dir=out/")


def test_workers_know_each_other(tmp_path, lock):
  program = "import os; print(os.environ['TF_CONFIG'])"
  run_process(["-c", program], str(tmp_path / "a.log"), lock, workers=2)
  first, second = (
    json.loads((tmp_path / name).read_text()) for name in ("a.log", "a-1.log")
  )
  assert first["cluster"] == second["cluster"]
  assert len(set(first["cluster"]["worker"])) == 2
  assert [one["task"]["index"] for one in (first, second)] == [0, 1]


def test_a_worker_that_fails_ends_the_others(tmp_path, lock):
  program = (
    "import json, os, sys, time\n"
    "if json.loads(os.environ['TF_CONFIG'])['task']['index']:\n"
    "  sys.exit('ERROR: lost')\n"
    "time.sleep(60)"
  )
  began = time.monotonic()
  with pytest.raises(StepError):
    run_process(["-c", program], str(tmp_path / "a.log"), lock, workers=2)
  assert time.monotonic() - began < 30


# Stands for train.py: hangs when it trains seed 1 for the first time.
_TRAIN = """
import os, sys, time
(folder,) = [
  flag.split("=", 1)[1] for flag in sys.argv if flag.startswith("--train_dir=")
]
os.makedirs(folder, exist_ok=True)
with open(f"{folder}/starts", "a+") as file:
  file.write(f"{os.getpid()}\\n")
  file.flush()
  file.seek(0)
  if "seed1" in folder and len(file.readlines()) == 1:
    time.sleep(100)
"""
_SCORE = """
import sys
(folder,) = [
  flag.split("=", 1)[1] for flag in sys.argv if flag.startswith("--output_dir=")
]
with open(f"{folder}/scores.json", "w") as file:
  file.write("{}")
"""
_COMPARISON = """
import sys
from small_comparison import made_up_run
from reports import comparison_runs
comparison_runs.ROOT, folder = sys.argv[1:]
with comparison_runs.alone_in(folder) as lock:
  runs = [made_up_run("A", seed) for seed in (0, 1)]
  comparison_runs.finish_all(runs, folder, lock)
"""


def wait_until(condition):
  give_up = time.monotonic() + PATIENCE_SECONDS
  while not condition():
    assert time.monotonic() < give_up
    time.sleep(0.05)


def is_running(process_id):
  try:
    with open(f"/proc/{process_id}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_killed_in_the_second_run_and_started_again(tmp_path, monkeypatch):
  code, folder = tmp_path / "code", tmp_path / "out"
  (code / "reports").mkdir(parents=True)
  (code / "train.py").write_text(_TRAIN)
  (code / "reports" / "__init__.py").touch()
  (code / "reports" / "score_run.py").write_text(_SCORE)
  runs = [made_up_run("A", seed) for seed in (0, 1)]
  first, second = (Path(run_folder(run, str(folder))) for run in runs)

  def starts(of):
    path = of / "model" / "starts"
    return path.read_text().split() if path.exists() else []

  monkeypatch.chdir(tmp_path)
  paths = [str(REPOSITORY), str(REPOSITORY / "tests" / "reports")]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
  with subprocess.Popen(
    [sys.executable, "-c", _COMPARISON, str(code), str(folder)]
  ) as comparison:
    try:
      wait_until(lambda: starts(second))
    finally:
      comparison.send_signal(signal.SIGKILL)
  # Its process has ended too, and no longer holds the lock.
  (process_id,) = starts(second)
  wait_until(lambda: not is_running(process_id))
  assert (first / "scores.json").exists()
  assert not (second / "scores.json").exists()
  monkeypatch.setattr(comparison_runs, "ROOT", str(code))
  with alone_in(str(folder)) as lock:
    assert finish_all(runs, str(folder), lock) == {}
  assert len(starts(first)) == 1
  assert len(starts(second)) == 2
  assert (second / "scores.json").exists()


def test_a_process_whose_comparison_has_ended_does_nothing(tmp_path):
  ended = subprocess.Popen([sys.executable, "-c", ""])
  ended.wait()
  program = ["-c", "print('trained')"]
  for parent, output in ((ended.pid, ""), (os.getpid(), "trained\n")):
    found = subprocess.run(
      [sys.executable, "-c", comparison_runs._LAUNCHER, str(parent), *program],
      capture_output=True,
      text=True,
    )
    assert found.stdout == output
    assert bool(found.returncode) == (not output)


@pytest.fixture
def steps(monkeypatch):
  """Stands for the processes: writes what they would, collects commands."""
  ran = []

  def run(arguments, log, lock, workers=1):
    ran.append((arguments, workers))
    flags = dict(
      argument.removeprefix("--").split("=", 1)
      for argument in arguments
      if "=" in argument
    )
    if arguments[0] == "train.py":
      os.makedirs(f"{flags['train_dir']}/export/step_1")
      if "fail" in flags:
        raise StepError("diverged (log: x)")
    else:
      with open(f"{flags['output_dir']}/scores.json", "w") as file:
        file.write("{}")

  monkeypatch.setattr(comparison_runs, "run_process", run)
  return ran


def test_finished_runs_are_not_trained_again(tmp_path, steps):
  runs = [made_up_run("A"), made_up_run("A", seed=1)]
  assert finish_all(runs[:1], str(tmp_path), 0) == {}
  assert len(steps) == 2
  model = f"{run_folder(runs[0], str(tmp_path))}/model"
  assert os.listdir(model) == []  # the SavedModel has been measured
  assert finish_all(runs, str(tmp_path), 0) == {}
  assert len(steps) == 4
  assert "--train_dir=" in steps[2][0][-1]
  assert runs[1].name in steps[2][0][-1]
  score = steps[3][0]
  assert score[:2] == ["-m", "reports.score_run"]
  assert "--eval_data_pattern=validate*.tfrecord" in score
  assert "--min_frames=0" in score


def test_a_run_that_was_stopped_while_it_was_scored(
  tmp_path, steps, monkeypatch
):
  run = made_up_run("A")
  whole = comparison_runs.run_process

  def stopped(arguments, *more):
    if arguments[0] == "-m":
      raise KeyboardInterrupt
    whole(arguments, *more)

  with monkeypatch.context() as patch:
    patch.setattr(comparison_runs, "run_process", stopped)
    with pytest.raises(KeyboardInterrupt):
      finish_all([run], str(tmp_path), 0)
  assert not comparison_runs.is_finished(run, str(tmp_path))
  os.rmdir(f"{run_folder(run, str(tmp_path))}/model/export/step_1")
  finish_all([run], str(tmp_path), 0)
  assert comparison_runs.is_finished(run, str(tmp_path))


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, steps):
  good = made_up_run("B", workers=2)
  bad = dataclasses.replace(made_up_run("A"), flags=("--fail=1",))
  failed = finish_all([bad, good], str(tmp_path), 0)
  assert failed == {bad.name: "diverged (log: x)"}
  assert comparison_runs.is_finished(good, str(tmp_path))
  assert not comparison_runs.is_finished(bad, str(tmp_path))
  assert [workers for _, workers in steps] == [1, 2, 1]


def test_a_training_that_was_told_to_stop_is_not_scored(
  tmp_path, steps, monkeypatch
):
  run = made_up_run("A")
  record = tmp_path / "runs" / run.name / "model" / "run.json"
  start = {"training_seconds": 1.0}
  whole = comparison_runs.run_process

  def train(arguments, *more):
    whole(arguments, *more)
    if arguments[0] == "train.py":
      record.write_text(json.dumps({"starts": [start, start | last]}))

  monkeypatch.setattr(comparison_runs, "run_process", train)
  last = {"stopped_by": "SIGTERM"}
  (why,) = finish_all([run], str(tmp_path), 0).values()
  assert "received SIGTERM" in why
  assert not comparison_runs.is_finished(run, str(tmp_path))
  last = {"stopped_by": None}
  os.rmdir(record.parent / "export" / "step_1")
  assert finish_all([run], str(tmp_path), 0) == {}
  assert comparison_runs.is_finished(run, str(tmp_path))


def test_parts_of_the_data_are_made_before(tmp_path, steps, tiny_files):
  run = made_up_run("A", fraction=0.5)
  data = dataclasses.replace(run.data, train_pattern=",".join(tiny_files))
  run = dataclasses.replace(run, data=data)
  assert finish_all([run], str(tmp_path), 0) == {}
  pattern = comparison_runs.planned_pattern(run, str(tmp_path))
  assert f"--train_data_pattern={pattern}" in steps[0][0]
  assert os.listdir(os.path.dirname(pattern))
