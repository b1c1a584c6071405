"""Trains and scores the runs of a comparison, one after the other.

Each step is a process of its own, one after the other. A run is finished when
its scores.json is there, and is not trained again. A run that was stopped goes
on from its checkpoint.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from absl import logging

import errors
import stopping
from engine import local_files
from engine import train_dir as train_dirs
from engine.data_files import find_files
from engine.run_record import read_run_record
from reports.comparison_plan import Run
from reports.data_fractions import part_of_data
from reports.processes import free_ports, last_line
from reports.score_run import SCORES_FILE

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNS_FOLDER = "runs"
DATA_FOLDER = "data"
SCORES_PATTERN = f"{RUNS_FOLDER}/*/{SCORES_FILE}"
"""The scores of all runs in the --output_dir."""

_LOCK_FILE = ".lock"
_POLL_SECONDS = 0.2
_LINE_SECONDS = 30.0
# Its arguments: the process id of the comparison, then those of a program.
# Makes the system kill a process when the comparison is killed, where it can;
# ends if that happened before; then becomes `python <arguments>`.
_LAUNCHER = """
import ctypes, os, signal, sys
comparison, *arguments = sys.argv[1:]
try:
  PR_SET_PDEATHSIG = 1
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
except (AttributeError, OSError, TypeError):
  pass
if os.getppid() != int(comparison):
  sys.exit("ERROR: Expected the comparison to run, but it has ended.")
os.execv(sys.executable, [sys.executable, *arguments])
"""


# --------------------------------------------------------------------------
# Folders and commands


def run_folder(run: Run, output_dir: str) -> str:
  """The folder of a run: train_dir, logs and scores."""
  return os.path.join(output_dir, RUNS_FOLDER, run.name)


def train_dir_of(run: Run, output_dir: str) -> str:
  """The --train_dir of a run."""
  return os.path.join(run_folder(run, output_dir), "model")


def is_finished(run: Run, output_dir: str) -> bool:
  """Whether a run has been trained and scored."""
  return os.path.exists(os.path.join(run_folder(run, output_dir), SCORES_FILE))


def _part_folder(run: Run, output_dir: str) -> str:
  name = f"{run.data_hash}_{run.part}"
  return os.path.join(output_dir, DATA_FOLDER, name)


def train_command(run: Run, output_dir: str, train_pattern: str) -> list[str]:
  """The command that trains a run, after `python`.

  Args:
    run: see Run.
    output_dir: of the comparison.
    train_pattern: of its files, which are a part of all for a fraction.
  """
  return [
    os.path.relpath(os.path.join(ROOT, "train.py")),
    *run.flags,
    f"--train_data_pattern={train_pattern}",
    f"--train_dir={train_dir_of(run, output_dir)}",
  ]


def planned_pattern(run: Run, output_dir: str) -> str:
  """The files that a run trains on; for a part of the data, its folder."""
  if run.fraction == 1:
    return run.data.train_pattern
  return os.path.join(_part_folder(run, output_dir), "*.tfrecord*")


def _score_command(run: Run, output_dir: str) -> list[str]:
  num_gpu = [flag for flag in run.flags if flag.startswith("--num_gpu=")]
  return [
    "-m",
    "reports.score_run",
    f"--train_dir={train_dir_of(run, output_dir)}",
    f"--eval_data_pattern={run.data.eval_pattern}",
    f"--output_dir={run_folder(run, output_dir)}",
    f"--min_frames={run.min_frames}",
    *num_gpu,
  ]


# --------------------------------------------------------------------------
# Processes


def check_no_other_files(output_dir: str, names: Iterable[str]) -> None:
  """Checks that a first report replaces nothing.

  Args:
    output_dir: of a comparison that has left no report here yet.
    names: of what the report is made of.

  Raises:
    errors.UserError: one of them is there.
  """
  for name in names:
    if os.path.lexists(os.path.join(output_dir, name)):
      raise errors.UserError(
        "Expected an --output_dir that is new, or of an earlier comparison,"
        f" received {output_dir}, which has a {name} of another origin. Name"
        " another folder, or give that another name."
      )


@contextlib.contextmanager
def alone_in(output_dir: str) -> Iterator[int]:
  """Keeps other comparisons out of a folder, for as long as a process of this.

  Yields:
    A file descriptor that holds the lock; processes that inherit it hold it
    too.

  Raises:
    errors.UserError: another comparison works there.
  """
  os.makedirs(output_dir, exist_ok=True)
  # Adds nothing, where a user's own file has this name.
  with open(os.path.join(output_dir, _LOCK_FILE), "a") as file:
    if not local_files.lock(file, waits=False):
      raise errors.UserError(
        f"Expected an --output_dir that no other comparison works in, received"
        f" {output_dir}. Wait until that ends, or name another folder."
      )
    yield file.fileno()


def _environments(workers: int) -> list[dict[str, str]]:
  """The environment of each process of a run."""
  plain = {
    name: value for name, value in os.environ.items() if name != "TF_CONFIG"
  }
  paths = [ROOT, plain.get("PYTHONPATH", "")]
  plain["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
  if workers == 1:
    return [plain]
  addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
  return [
    {
      **plain,
      "TF_CONFIG": json.dumps(
        {
          "cluster": {"worker": addresses},
          "task": {"type": "worker", "index": index},
        }
      ),
    }
    for index in range(workers)
  ]


class StepError(Exception):
  """A process failed; the text is its last line, or what to look at."""


def run_process(
  arguments: Sequence[str], log: str, lock: int, workers: int = 1
) -> None:
  """Runs `python <arguments>` with this code until it ends.

  In the folder of this process, where paths that were typed begin.

  Args:
    arguments: a program and its flags.
    log: file to add its output to; other workers write to files beside it.
    lock: see alone_in.
    workers: processes that do this together.

  Raises:
    StepError: it failed.
    KeyboardInterrupt: of this process, after the other has ended.
  """
  processes, logs = [], []
  with contextlib.ExitStack() as stack:
    for index, environment in enumerate(_environments(workers)):
      path = log if not index else f"{log.removesuffix('.log')}-{index}.log"
      logs.append(path)
      output = stack.enter_context(open(path, "ab"))
      processes.append(
        subprocess.Popen(
          [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *arguments],
          env=environment,
          stdin=subprocess.DEVNULL,
          stdout=output,
          stderr=output,
          pass_fds=(lock,),
        )
      )
    try:
      _wait(processes, log)
    except BaseException:
      # Ctrl-C reaches them too, SIGTERM does not: they save.
      for process in processes:
        if stopping.received() == signal.SIGTERM:
          process.terminate()
        process.wait()
      raise
  failed = [
    (process.returncode, path)
    for process, path in zip(processes, logs, strict=True)
    if process.returncode
  ]
  if failed:
    # Others were ended by a signal when the first one failed.
    code, path = max(failed)
    line = last_line(path)
    if not line.startswith("ERROR: "):
      line = f"exit code {code}: {line}"
    raise StepError(f"{line.removeprefix('ERROR: ')} (log: {path})")


def _wait(processes: Sequence[subprocess.Popen], log: str) -> None:
  """Waits for processes; logs the last line of their log now and then."""
  shown = time.monotonic()
  while None in [process.poll() for process in processes]:
    time.sleep(_POLL_SECONDS)
    if time.monotonic() - shown > _LINE_SECONDS:
      shown = time.monotonic()
      logging.info("    %s", last_line(log))
    if any(process.returncode for process in processes):
      for process in processes:  # the others would wait for it
        process.terminate()


# --------------------------------------------------------------------------
# Runs


def _check_not_stopped(train_dir: str) -> None:
  """Checks that a training was not told to stop: it saves, and is no failure.

  Raises:
    StepError: it was, and has to go on.
  """
  record = read_run_record(train_dir) or {"starts": []}
  stopped_by = record["starts"] and record["starts"][-1].get("stopped_by")
  if stopped_by:
    raise StepError(
      f"Expected training until its end, received {stopped_by}: it has saved,"
      " and goes on from there."
    )


def _finish(run: Run, output_dir: str, lock: int) -> None:
  """Trains and scores a run, from where it is.

  Raises:
    StepError: a process failed.
    errors.UserError: a part of the data cannot be made.
  """
  folder = run_folder(run, output_dir)
  os.makedirs(folder, exist_ok=True)
  pattern = run.data.train_pattern
  if run.fraction != 1:
    files = find_files(pattern, "train_data_pattern")
    part = _part_folder(run, output_dir)
    pattern = part_of_data(files, run.fraction, part, run.by_files)
  logging.info("    training")
  run_process(
    train_command(run, output_dir, pattern),
    os.path.join(folder, "train.log"),
    lock,
    run.workers,
  )
  _check_not_stopped(train_dir_of(run, output_dir))
  logging.info("    scoring")
  run_process(
    _score_command(run, output_dir), os.path.join(folder, "score.log"), lock
  )
  # As large as the weights, and measured.
  exports = os.path.join(train_dir_of(run, output_dir), train_dirs.EXPORT_DIR)
  shutil.rmtree(exports, ignore_errors=True)


def finish_all(
  runs: Sequence[Run], output_dir: str, lock: int
) -> dict[str, str]:
  """Trains and scores all runs that are not finished.

  A run that fails does not keep the others from being trained.

  Args:
    runs: of a comparison.
    output_dir: of it.
    lock: see alone_in.

  Returns:
    {name of a run that failed: why}.
  """
  failed = {}
  for number, run in enumerate(runs, 1):
    where = f"{number} of {len(runs)}: {run.describe()}"
    if is_finished(run, output_dir):
      logging.info("%s: finished before", where)
      continue
    logging.info("%s", where)
    try:
      _finish(run, output_dir, lock)
    except (StepError, errors.UserError) as error:
      failed[run.name] = str(error)
      logging.error("%s failed: %s", run.describe(), error)
  return failed
