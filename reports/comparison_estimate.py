"""Looks at the entries of a comparison before any is trained.

Builds each model and reads its first records in a process of its own, so that
a mistake shows at once, and the memory is free again when training begins.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import shutil
import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging
from absl.testing import flagsaver

import command_line
import errors
import models
import program_flags
import readers
import train
import training_flags
from engine import model_building, schedules
from engine.data import Data
from engine.data_files import find_files
from engine.settings import Settings
from reports.comparison_plan import Budget, Run

# Besides the steps: starting twice, compiling, saving, scoring.
_SECONDS_BESIDES = 60.0
# Forward, and twice as much backward.
_PASSES = 3
# Of each weight a step reads and writes the gradient, the weight and Adam's two
# moments, at the speed of a slow memory.
_UPDATE_SECONDS = 28 / 8e9
# Weights and Adam's two moments in float32; a SavedModel and a second
# checkpoint while it is written.
_KEPT_BYTES, _MORE_BYTES = 12, 16
_SAMPLED_VIDEOS = 32


@dataclasses.dataclass
class Facts:
  """What is known of an entry before it is trained.

  Attributes:
    parameters: of the model.
    num_videos: to train on, about.
    seconds_a_video: of a forward pass, as Keras computes it uncompiled.
    batch_size: videos in a step.
    error: why it cannot be trained; empty if it can.
    model_flags: see engine/train_dir.py.
  """

  parameters: int = 0
  num_videos: int = 0
  seconds_a_video: float = 0.0
  batch_size: int = 1
  error: str = ""
  model_flags: dict = dataclasses.field(default_factory=dict)


def _check_schedule(settings: Settings) -> None:
  """Checks that a learning rate that depends on the end of a run has one.

  Raises:
    errors.UserError: the budget is a time, so that nobody knows how many videos
      the run will see.
  """
  if schedules.needs_horizon(settings) and not settings.planned_examples(1, 1):
    raise errors.UserError(
      "Expected --budget=steps:N or epochs:N for"
      f" --learning_rate_schedule={settings.learning_rate_schedule} with"
      f" --warmup_fraction={settings.warmup_fraction:g}, which need to know how"
      " many videos a run will see, received minutes. Name one, or another"
      " schedule."
    )


def _look_at(arguments: Sequence[str], eval_pattern: str) -> Facts:
  """Builds the model of a command of train.py, and opens its data."""
  with flagsaver.flagsaver():  # removes new flags at the end
    train.define_flags()
    command_line.parse_flags(train.main, ["train.py", *arguments])
    card = program_flags.apply_dataset_dir("train", "train_data_pattern")
    preset = program_flags.apply_preset()
    model_flags = {**training_flags.model_flags_from_flags(card), **preset}
    num_videos = card.splits["train"]["videos"] if card else None
    settings = training_flags.settings_from_flags(
      model_flags["model"], num_videos
    )
    _check_schedule(settings)
    files = find_files(flags.FLAGS.train_data_pattern, "train_data_pattern")
    data = Data(
      model_flags, files, with_labels=True, min_frames=settings.min_frames
    )
    Data(
      model_flags,
      find_files(eval_pattern, "eval_data_pattern"),
      with_labels=True,
      for_trained=True,
      min_frames=settings.min_frames,
    )
    batch = next(iter(data.evaluation_batches(_SAMPLED_VIDEOS)))
    model = model_building.build_model(model_flags, data.reader.quantized)
    parameters = sum(
      int(np.prod(weight.shape)) for weight in model.trainable_variables
    )
    inputs = models.model_inputs(model, readers.numeric_part(batch))
    for _ in range(2):  # the first one also sets up
      began = time.perf_counter()
      model(inputs, training=False)["predictions"].numpy()
      seconds = time.perf_counter() - began
    keras.backend.clear_session()
    return Facts(
      parameters,
      data.num_videos,
      seconds / len(batch["num_frames"]),
      settings.batch_size,
      model_flags=model_flags,
    )


def _look_at_all(
  commands: Mapping[str, tuple[Sequence[str], str]],
) -> dict[str, Facts]:
  """The facts of each command of train.py, and of files to score on."""
  found = {}
  logging.set_verbosity(logging.ERROR)
  for name, command in commands.items():
    try:
      found[name] = _look_at(*command)
    except errors.UserError as error:
      found[name] = Facts(error=str(error))
  return found


def look_at_entries(runs: Sequence[Run]) -> dict[str, Facts]:
  """Finds out what is known of the entries of runs.

  Args:
    runs: any; only one of each entry is looked at.

  Returns:
    {entry: Facts}.

  Raises:
    errors.UserError: an entry cannot be trained; names it.
  """
  commands = {
    run.entry.name: (
      [*run.flags, f"--train_data_pattern={run.data.train_pattern}"],
      run.data.eval_pattern,
    )
    for run in reversed(runs)
  }
  # Not forked: TensorFlow has threads.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    found = pool.submit(_look_at_all, commands).result()
  for name, facts in found.items():
    if facts.error:
      raise errors.UserError(f"{name} of --models: {facts.error}")
  return found


def seconds_of(run: Run, budget: Budget, facts: Facts) -> float:
  """About how long a run takes, scoring included; rather too long.

  Args:
    run: not yet trained.
    budget: of it.
    facts: of its entry.
  """
  if budget.unit == "minutes":
    return 60 * budget.amount + _SECONDS_BESIDES
  steps = budget.amount
  if budget.unit == "epochs":
    videos = budget.amount * facts.num_videos * run.fraction
    steps = videos / (facts.batch_size * run.workers)
  # Workers are on one machine.
  videos_a_step = facts.batch_size * run.workers
  a_step = (
    _PASSES * facts.seconds_a_video * videos_a_step
    + _UPDATE_SECONDS * facts.parameters * run.workers
  )
  return steps * a_step + _SECONDS_BESIDES


def _copied_bytes(runs: Sequence[Run]) -> float:
  """Bytes of the parts of the data that are copied, about."""
  parts = {
    (run.data_hash, run.fraction): run
    for run in runs
    if run.fraction != 1 and not run.by_files
  }
  return sum(
    run.fraction * tf.io.gfile.stat(file).length
    for run in parts.values()
    for file in find_files(run.data.train_pattern, "train_data_pattern")
  )


def check_disk(
  runs: Sequence[Run], facts: Mapping[str, Facts], folder: str
) -> int:
  """Checks that checkpoints and copied data fit on the disk.

  Args:
    runs: not yet trained.
    facts: of their entries.
    folder: that exists, on the disk.

  Returns:
    Bytes that they need.

  Raises:
    errors.MachineError: there are fewer.
  """
  sizes = [facts[run.entry.name].parameters for run in runs]
  needed = _KEPT_BYTES * sum(sizes) + _MORE_BYTES * max(sizes, default=0)
  needed += round(_copied_bytes(runs))
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise errors.MachineError(
      f"Expected {needed / 1e9:.1f} GB of free disk for {len(runs)} runs,"
      f" received {free / 1e9:.1f} GB in {folder}. Name an --output_dir on"
      " another disk, or fewer --models or --seeds."
    )
  return needed
