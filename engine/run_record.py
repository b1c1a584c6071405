"""run.json in a train_dir: how a run was made, and what it took.

  command        of the last start, a list of words
  settings       all of settings.py
  model_flags    see train_dir.py
  data           pattern; files, how many; videos, about how many examples an
                 epoch has; hash, of the files' names and sizes
  parameters     of the model, how many: the numbers that training changes
  starts         a list, with one for each start of the program that trained:

    command, machine, versions, commit   see machine.py
    replicas             over all machines
    process              of the first machine, see process_names.process_name
    began, ended         ISO 8601, UTC; ended is null while it runs, and if it
                         was killed or failed
    stopped_by           the signal that ended it before the run's end
    first_step           the first that it took
    last_step            the last of which the record knows
    videos               that it trained on, up to last_step
    skipped_steps        of these, how many changed no weight, see --nan_policy
    start_seconds        until the first step was done, compiling included,
                         without evaluations before it
    training_seconds     of all other steps alone, without saving and so on
    videos_per_second    in these
    resources            cpu_percent and gpu_percent, means over these;
                         peak_memory_bytes and gpu_memory_bytes, the most so
                         far; see resources.py

What is not known is null. The first machine writes the record: when the run
begins, after each checkpoint and at the end.
"""

import datetime
import os
import time
from typing import NamedTuple

from engine import machine, resources
from engine.files import check_number, read_json, write_json
from engine.process_names import process_name

RUN_FILE = "run.json"


class Call(NamedTuple):
  """What a user typed.

  Attributes:
    command: the words of the command line.
    data_pattern: of the files to train on.
  """

  command: list[str]
  data_pattern: str


NO_CALL = Call([], "")
"""That of a training that no command line has started."""


def read_run_record(train_dir: str) -> dict | None:
  """Reads run.json; returns None if there is none, as in an older run.

  Raises:
    errors.UserError: the file was not written by this project.
  """
  return read_json(
    os.path.join(train_dir, RUN_FILE),
    ("starts",),
    "Delete the file: the run continues without it, and begins another record.",
    lambda record: [
      (
        check_number(one["training_seconds"]),
        check_number(one.get("last_step", 0), int),
      )
      for one in _list(record["starts"])
    ],
  )


def _list(value) -> list:
  """Raises a TypeError if a value is none."""
  if not isinstance(value, list):
    raise TypeError
  return value


def training_seconds(train_dir: str) -> float:
  """How many seconds all starts of a run have trained, as far as is recorded.

  Raises:
    errors.UserError: see read_run_record.
  """
  record = read_run_record(train_dir) or {"starts": []}
  return sum(start["training_seconds"] for start in record["starts"])


def last_step(train_dir: str) -> int:
  """The last step that run.json knows of, after which a run was saved.

  Returns:
    0 if there is no record, or none of a step.

  Raises:
    errors.UserError: see read_run_record.
  """
  record = read_run_record(train_dir) or {"starts": []}
  return max([0, *(start.get("last_step", 0) for start in record["starts"])])


def last_writer(train_dir: str) -> str:
  """The process that trained last, see process_names.process_name.

  Returns:
    Empty if that is not known.

  Raises:
    errors.UserError: see read_run_record.
  """
  starts = (read_run_record(train_dir) or {"starts": []})["starts"]
  return str(starts[-1].get("process", "")) if starts else ""


def _iso(seconds: float) -> str:
  """A moment, in seconds since 1970, as text."""
  moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  return moment.isoformat(timespec="seconds")


class _Mean:
  """A mean over seconds, as far as it is known."""

  def __init__(self):
    self._sum = self._seconds = 0.0

  def add(self, value: float | None, seconds: float) -> None:
    if value is not None:
      self._sum += value * seconds
      self._seconds += seconds

  @property
  def value(self) -> float | None:
    return round(self._sum / self._seconds, 2) if self._seconds else None


class RunRecord:
  """Keeps the record of a run while a start of the program trains.

  Args:
    train_dir: folder of the run.
    about: command, settings, model_flags, data and parameters; see above.
    step: steps before this start.
    replicas: over all machines.
    writes: whether this machine writes the record.
    began: when the start began, as time.monotonic tells it.

  Attributes:
    content: of run.json.

  Raises:
    errors.UserError: there is a record that cannot be read.
  """

  def __init__(
    self,
    train_dir: str,
    about: dict,
    *,
    step: int,
    replicas: int,
    writes: bool,
    began: float,
  ):
    self._path = os.path.join(train_dir, RUN_FILE)
    self._writes = writes
    self._began = began
    self._cpu, self._gpu = _Mean(), _Mean()
    self._gpu_memory: int | None = None
    self._timed_videos = 0
    self._start: dict = {
      "command": about["command"],
      "began": _iso(time.time() - (time.monotonic() - began)),
      "ended": None,
      "stopped_by": None,
      "first_step": step + 1,
      "last_step": step,
      "videos": 0,
      "skipped_steps": 0,
      "start_seconds": None,
      "training_seconds": 0.0,
      "videos_per_second": None,
      "replicas": replicas,
      "process": process_name(),
      "machine": machine.describe_machine(),
      "versions": machine.versions(),
      "commit": machine.commit(),
      "resources": {},
    }
    earlier = read_run_record(train_dir) or {"starts": []}
    self.content: dict = {**about, "starts": [*earlier["starts"], self._start]}

  def add_steps(
    self, steps: int, videos: int, seconds: float, usage: resources.Usage
  ) -> float:
    """Counts steps; those of the first call are part of the start.

    Args:
      steps: how many.
      videos: that they had on all machines.
      seconds: that they took.
      usage: during them.

    Returns:
      The seconds that count as training.
    """
    if not steps:
      return 0.0
    start = self._start
    start["last_step"] += steps
    start["videos"] += videos
    if usage.gpu_memory_bytes is not None:
      self._gpu_memory = max(self._gpu_memory or 0, usage.gpu_memory_bytes)
    if start["start_seconds"] is None:
      start["start_seconds"] = round(time.monotonic() - self._began, 3)
      return 0.0
    start["training_seconds"] += seconds
    self._timed_videos += videos
    self._cpu.add(usage.cpu_percent, seconds)
    self._gpu.add(usage.gpu_percent, seconds)
    return seconds

  def add_skipped_steps(self, steps: int) -> None:
    """Counts steps whose updates were left out; add_steps counts them too."""
    self._start["skipped_steps"] += steps

  def leave_out(self, seconds: float) -> None:
    """Leaves time before the first step out of start_seconds."""
    self._began += seconds

  def note_stop(self, stopped_by: str) -> None:
    """Notes that the start was told to stop before the end of its run.

    Args:
      stopped_by: the signal.
    """
    self._start["stopped_by"] = stopped_by

  def write(self, ended: bool = False) -> None:
    """Writes run.json with all that was counted so far.

    Args:
      ended: whether the start ends now.
    """
    if not self._writes:
      return
    start = self._start
    if ended:
      start["ended"] = _iso(time.time())
    if start["training_seconds"]:
      rate = self._timed_videos / start["training_seconds"]
      start["videos_per_second"] = round(rate, 3)
    start["resources"] = {
      "cpu_percent": self._cpu.value,
      "peak_memory_bytes": resources.peak_memory(),
      "gpu_percent": self._gpu.value,
      "gpu_memory_bytes": self._gpu_memory,
    }
    write_json(self._path, self.content)
