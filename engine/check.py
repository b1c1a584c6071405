"""Finds out what a training would take, without training: train.py --check.

Everything that training opens is opened, and one step is taken, of which
nothing is kept. Nothing is written.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

import errors
import models
from engine import files, local_files, machine, model_building, resources
from engine import train_dir as train_dirs
from engine.checkpoints import latest_checkpoint
from engine.data import Data
from engine.data_files import is_local
from engine.loop import no_examples, prepare, training_batches
from engine.run import Run
from engine.scoring import Evaluator

# Of the memory, how much is left to others while a step is tried.
_RESERVE = 0.03
_LOOK_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Opened:
  """What a training has opened; see train.py.

  Attributes:
    run: neither restored nor begun.
    data: of the run.
    evaluator: of the run, if it is evaluated while it trains.
    machines: that train together; this is one of them.
  """

  run: Run
  data: Data
  evaluator: Evaluator | None
  machines: int

  @property
  def step_videos(self) -> int:
    """Examples of a step, on all machines."""
    replicas = self.run.placement.num_replicas * self.machines
    return self.run.settings.step_examples(replicas)

  @property
  def planned_examples(self) -> int:
    """Examples of a whole run; 0 if it has no end."""
    return self.run.settings.planned_examples(
      self.data.num_videos, self.step_videos
    )

  @property
  def planned_steps(self) -> int:
    """Steps of a whole run; 0 if it has no end."""
    return math.ceil(self.planned_examples / self.step_videos)


def _size(number: float) -> str:
  """Bytes in words: 12.3 MB."""
  for unit, factor in (("GB", 1e9), ("MB", 1e6)):
    if number >= factor:
      return f"{number / factor:.3g} {unit}"
  return f"{number / 1e3:.3g} kB"


def _bytes_of(variables: Iterable) -> int:
  """The bytes of Keras's or TensorFlow's variables."""
  return sum(
    math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
    for variable in variables
  )


# --------------------------------------------------------------------------
# The disk


def checkpoint_bytes(run: Run) -> int:
  """The bytes of a checkpoint of a run: weights, optimizer and averages."""
  parts = (run.model.variables, run.optimizer.variables, run.average)
  return sum(map(_bytes_of, parts))


def _saves_left(opened: Opened, steps: int) -> int:
  """About how many checkpoints a run still saves; 1 if it has no end."""
  settings = opened.run.settings
  every = settings.export_model_steps
  every = min(every, settings.steps_between_evaluations or every)
  return max(math.ceil((steps - opened.run.step) / every), 1)


def _bytes_that_go(train_dir: str, starts_new: bool, keep: int) -> int:
  """The bytes of files in a train_dir that training removes or replaces."""
  names = [train_dirs.EXPORT_DIR]
  if starts_new:
    names.append(train_dirs.BEST_DIR)
  paths = [os.path.join(train_dir, name) for name in names]
  if starts_new or keep:
    pattern = os.path.join(train_dir, f"{train_dirs.CHECKPOINT_NAME}-*")
    paths += tf.io.gfile.glob(pattern)
  return sum(files.size_of(path) for path in paths if tf.io.gfile.exists(path))


def disk_bytes(opened: Opened, steps: int, starts_new: bool) -> int:
  """The bytes that a training adds to a disk, at most: all but event files.

  One more checkpoint than are kept is there while the oldest is removed, and
  the same is true of the SavedModel and of the best checkpoint.

  Args:
    opened: see Opened.
    steps: of the whole run; 0 if it has no end.
    starts_new: whether a run in the folder is deleted.
  """
  run = opened.run
  keep = run.settings.keep_checkpoints
  checkpoints = (keep or _saves_left(opened, steps)) + 1
  if opened.evaluator:
    checkpoints += 1
  total = checkpoints * checkpoint_bytes(run)
  total += 2 * _bytes_of(run.model.variables)
  return max(
    total - _bytes_that_go(run.train_dir, starts_new, keep),
    checkpoint_bytes(run),
  )


def _free(train_dir: str) -> int | None:
  """The free bytes where a train_dir is or will be; None if not known."""
  if not is_local(train_dir):
    return None
  return shutil.disk_usage(local_files.nearest_folder(train_dir)).free


def _check_disk(opened: Opened, steps: int, starts_new: bool) -> str:
  """Compares what a training writes with the free space.

  Returns:
    Both in words.

  Raises:
    errors.UserError: it does not fit.
  """
  run = opened.run
  needed, free = disk_bytes(opened, steps, starts_new), _free(run.train_dir)
  if free is None:
    return f"{_size(needed)} needed; how much is free there is not known"
  if needed > free:
    raise errors.UserError(
      f"Expected {_size(needed)} of free space for the checkpoints, of"
      f" {_size(checkpoint_bytes(run))} each, and SavedModels in"
      f" --train_dir={run.train_dir}, found {_size(free)}. Lower"
      " --keep_checkpoints, free space, or name a folder on another disk."
    )
  return f"{_size(needed)} needed at most, {_size(free)} free"


def warn_of_little_space(opened: Opened) -> None:
  """Warns if what a training may write does not fit on its disk now.

  This is no error: it may end before all of it is there, and other files may go
  meanwhile.

  Args:
    opened: see Opened; an old run that is replaced is deleted already.
  """
  run = opened.run
  needed = disk_bytes(opened, opened.planned_steps, starts_new=False)
  free = _free(run.train_dir)
  if free is not None and needed > free:
    logging.warning(
      "The checkpoints, of %s each, and SavedModels may take %s more in"
      " --train_dir=%s, where %s are free. Lower --keep_checkpoints, free"
      " space, or name a folder on another disk.",
      _size(checkpoint_bytes(run)),
      _size(needed),
      run.train_dir,
      _size(free),
    )


# --------------------------------------------------------------------------
# The memory


def _end_process(line: str) -> None:
  """Ends the program, whatever it does, with an error."""
  sys.stderr.write(f"ERROR: {line}\n")
  sys.stderr.flush()
  os._exit(1)


def _too_little_memory(needed: str) -> str:
  usable = machine.usable_memory()
  available = machine.available_memory()
  return (
    f"Expected enough memory for a step, which needs {needed}; this machine has"
    f" {_size(usable or 0)}, of which {_size(available or 0)} are free now."
    " Lower --batch_size (--accumulate_steps makes up for it) or --max_frames,"
    " or use a larger machine."
  )


@contextlib.contextmanager
def _within_memory() -> Iterator[None]:
  """Ends the program before a block takes the last memory of the machine.

  Without it the system would end some process, perhaps another one.
  """
  used, free = resources.used_memory(), machine.available_memory()
  if used is None or free is None:
    yield
    return
  limit = used + free - _RESERVE * (machine.usable_memory() or free)
  ended = threading.Event()

  def watch():
    while not ended.wait(_LOOK_SECONDS):
      now = resources.used_memory() or 0
      if now > limit:
        _end_process(_too_little_memory(f"more than {_size(now)}"))
        return

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _least_memory(opened: Opened, element_spec) -> int:
  """Bytes that a step adds at least: the batch and the gradients."""
  run = opened.run
  videos = run.settings.batch_size * run.placement.local_replicas
  of_batch = 0
  for spec in element_spec.values():
    shape = list(spec.shape)
    unknown = [videos, 1]  # the frames of the longest video are not known
    sizes = [
      size or (unknown[axis] if axis < 2 else 1)
      for axis, size in enumerate(shape)
    ]
    of_batch += math.prod(sizes) * (spec.dtype.size or 1)
  weights = run.model.trainable_variables
  return of_batch + _bytes_of(weights) * run.placement.local_replicas


def _try_step(opened: Opened) -> None:
  """Takes the first step, of real data, and forgets it.

  Raises:
    errors.UserError: it is impossible.
  """
  run, data = opened.run, opened.data
  batches = training_batches(run, data, run.place, 0)
  least, free = (
    _least_memory(opened, batches.element_spec),
    machine.available_memory(),
  )
  has_gpu = bool(tf.config.list_logical_devices("GPU"))
  if free is not None and least > free and not has_gpu:
    used = resources.used_memory() or 0
    raise errors.UserError(
      _too_little_memory(f"at least {_size(used + least)}")
    )
  with (
    _within_memory(),
    data.naming_errors(),
    model_building.naming_bug(run.model_flags),
  ):
    iterator, run_steps, reaction = prepare(run, data)
    done, outputs = run_steps(iterator, tf.constant(1))
  if not int(done):
    raise no_examples(data)
  reaction.react(run.step, outputs)
  _, predictions, labels = outputs
  if len(labels):
    model_building.check_probabilities(
      np.asarray(predictions),
      run.model_flags["model"],
      models.are_exclusive(run.model_flags),
    )


def _check_memory(opened: Opened) -> dict[str, str]:
  """Takes a step, and compares what it needed with what there is.

  Returns:
    {what: in words}.

  Raises:
    errors.UserError: it does not fit.
  """
  run = opened.run
  _try_step(opened)
  found = {}
  peak, usable = resources.peak_memory(), machine.usable_memory()
  # The SavedModel is written from a copy; evaluations have another one.
  copies = 2 if opened.evaluator else 1
  if peak and usable:
    peak += copies * _bytes_of(run.model.variables)
    if peak > usable:
      raise errors.UserError(_too_little_memory(_size(peak)))
    found["memory"] = f"{_size(peak)} at least, {_size(usable)} in all"
  meter = resources.Meter()
  if on_gpu := meter.usage(1.0, 0.0).gpu_memory_bytes:
    whole = meter.gpu_memory()
    of = f", {_size(whole)} in all" if whole else ""
    found["GPU memory"] = f"{_size(on_gpu)} at least{of}"
  return found


# --------------------------------------------------------------------------
# All


def _restore(run: Run, data: Data, starts_new: bool) -> None:
  """As Run.restore_or_begin, but writes nothing."""
  checkpoints = run.open_checkpoints()
  if not starts_new:
    checkpoints.restore()
  run.continue_on(data)
  if starts_new:  # it has found those of the run that would be deleted
    run.training_seconds = 0.0


def _steps_in_words(opened: Opened, steps: int) -> str:
  settings = opened.run.settings
  ends = [f"{steps:,}" if steps else "no end"]
  if settings.max_minutes:
    ends.append(f"at most {settings.max_minutes:g} minutes of steps")
  if opened.run.step:
    ends.append(f"{opened.run.step:,} are done")
  return ", ".join(ends)


def check(opened: Opened) -> dict[str, str]:
  """Finds out whether a training would start, and what it takes.

  Args:
    opened: what training has opened.

  Returns:
    {what: in words}, in the order to show them.

  Raises:
    errors.UserError: training would not start, or would not fit.
  """
  run, data = opened.run, opened.data
  settings, placement = run.settings, run.placement
  starts_new = settings.start_new_model or not latest_checkpoint(run.train_dir)
  _restore(run, data, starts_new)
  steps, planned = opened.planned_steps, opened.planned_examples
  if opened.machines > 1:
    logging.info("Checking this machine, one of %d.", opened.machines)
  devices = placement.num_replicas * opened.machines
  keep = settings.keep_checkpoints
  kept = f"the newest {keep}" if keep else "all"
  unit = "segments" if settings.segment_labels else "videos"
  found = {
    "model": f"{run.model_flags['model']},"
    f" {models.num_parameters(run.model):,} parameters",
    unit: f"about {data.num_videos:,} in {len(data.files):,} files",
    "batch": f"{opened.step_videos:,} {unit} in a step, on"
    f" {devices} device{'s' if devices > 1 else ''}",
    "steps": _steps_in_words(opened, steps),
    "epochs": f"{planned / data.num_videos:.3g}" if planned else "no end",
    "checkpoints": f"{_size(checkpoint_bytes(run))} each, every"
    f" {settings.export_model_steps:,} steps and 15 minutes; {kept} are kept",
    "disk": _check_disk(opened, steps, starts_new),
  }
  if run.has_ended():
    found["end"] = f"after step {run.step:,}: there is nothing left to do"
    return found
  return {**found, **_check_memory(opened)}


def in_lines(found: dict[str, str]) -> str:
  """The result of `check` as a table."""
  width = max(map(len, found))
  return "\n".join(f"{name:{width}}  {text}" for name, text in found.items())
