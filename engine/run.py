"""A model in training: everything that a checkpoint holds."""

import dataclasses
import math
import os
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import logging

import errors
import models
from engine import (
  data_order,
  model_building,
  optimizers,
  run_record,
  schedules,
)
from engine import train_dir as train_dirs
from engine.checkpoints import (
  STATE_FILE,
  Checkpoints,
  checkpoint_step,
  checkpoints_by_step,
  fingerprint,
  latest_checkpoint,
  noted_checkpoint,
)
from engine.data import Data
from engine.distribution import Placement
from engine.files import check_number, read_json
from engine.model_flags import write_model_flags
from engine.settings import Settings
from engine.train_dir_lock import NO_LOCK, NoLock
from version import __version__


def _make_counters(num_workers: int) -> dict[str, tf.Variable]:
  """Makes the counters of a run, all of them 0."""
  state = {
    name: tf.Variable(0, dtype=tf.int64, name=name)
    for name in (
      "global_step",
      "examples_seen",
      "finished_epochs",
      "data_fingerprint",
      "seed",
      "schedule_examples",
      "min_frames",
    )
  }
  # Where the run is in the order of its data, see data_order.Place, and the
  # shards of a window; 0 if TensorFlow reads the data.
  state["place"] = tf.Variable(tf.zeros([3], tf.int64), name="place")
  state["window_shards"] = tf.Variable(0, dtype=tf.int64, name="window_shards")
  # Records of this epoch so far, on all machines, and how many were left out.
  state["epoch_records"] = tf.Variable(
    tf.zeros([2], tf.int64), name="epoch_records"
  )
  # Where TensorFlow reads, of each machine, examples of its order.
  state["position"] = tf.Variable(
    tf.zeros([num_workers], tf.int64), shape=[None], name="position"
  )
  # Steps whose updates were left out, and how many of them were the last ones,
  # see divergence.py.
  state["left_out"] = tf.Variable(tf.zeros([2], tf.int64), name="left_out")
  state["version"] = tf.Variable(__version__, name="version")
  return state


def floats(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
  """Those of some variables that are floats, and not counters or seeds."""
  return [
    variable
    for variable in variables
    if variable.dtype.startswith(("float", "bfloat"))
  ]


def first_not_finite(model: keras.Model) -> str:
  """The path of a variable with NaN or infinity; empty if there is none."""
  for variable in floats(model.variables):
    if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
      return variable.path
  return ""


def check_not_lost(train_dir: str) -> None:
  """Checks that a folder without checkpoints never had any of a trained step.

  Else a run whose files were deleted by mistake would begin again, and
  overwrite what is left of it.

  Args:
    train_dir: folder of the run.

  Raises:
    errors.UserError: a file in it speaks of such steps.
  """
  if checkpoints_by_step(train_dir) and latest_checkpoint(train_dir):
    return
  noted = noted_checkpoint(train_dir)
  steps = {
    STATE_FILE: checkpoint_step(noted) if noted else 0,
    run_record.RUN_FILE: run_record.last_step(train_dir),
    train_dirs.EVALUATIONS_FILE: _last_evaluated(train_dir),
  }
  for name, step in steps.items():
    if step:
      raise errors.UserError(
        f"Expected the checkpoints of the run in --train_dir={train_dir}, found"
        f" none, although {name} says that it has saved step {step}. Put its"
        " files model.ckpt-N.* back, name another folder, or add"
        " --start_new_model to begin anew."
      )


def _last_evaluated(train_dir: str) -> int:
  """The last step in evaluations.json; 0 without one. See validation.py."""
  content = read_json(
    os.path.join(train_dir, train_dirs.EVALUATIONS_FILE),
    ("evaluations",),
    "Delete it; training then evaluates the kept checkpoints again.",
    lambda content: [
      check_number(scores["global_step"], int)
      for scores in content["evaluations"]
    ],
  ) or {"evaluations": []}
  return max([0, *(one["global_step"] for one in content["evaluations"])])


class Run:
  """A model in training.

  Args:
    train_dir: its folder.
    model_flags: see train_dir.py.
    quantized: whether frames arrive as bytes.
    settings: how to train.
    placement: where.
    lock: that this process has on the train_dir.

  Attributes:
    train_dir: see above.
    model_flags: see train_dir.py.
    settings: see above.
    placement: see above.
    lock: see above.
    model: result of models.build_model.
    model_class: its class in the model files.
    optimizer: built for its weights.
    average: their moving averages, empty without --ema_decay.
    state: counters, by name.
    training_seconds: that its steps took so far, over all starts of the
      program, as far as is recorded; the same on all machines.

  Raises:
    errors.UserError: the model or the optimizer cannot be built.
  """

  def __init__(
    self,
    train_dir: str,
    model_flags: dict,
    quantized: bool,
    settings: Settings,
    placement: Placement,
    lock: NoLock = NO_LOCK,
  ):
    self.train_dir = train_dir
    self.lock = lock
    self.model_flags = model_flags
    self.settings = settings
    self.placement = placement
    self.model_class = models.find_class_by_name(model_flags["model"])
    with placement.strategy.scope():
      self.model = model_building.build_model(
        model_flags, quantized, settings.dtype_policy
      )
      self.optimizer = optimizers.build_optimizer(
        settings.optimizer, self.model, settings.weight_decay
      )
      averaged = self.model.trainable_variables if settings.ema_decay else []
      self.average = [
        placement.replicated(variable.value) for variable in averaged
      ]
    self.state = _make_counters(placement.num_workers)
    self.training_seconds = 0.0
    self._checkpoints: Checkpoints | None = None

  def open_checkpoints(self, with_optimizer: bool = True) -> Checkpoints:
    """Says what the checkpoints of this run hold; needed before `save`.

    Args:
      with_optimizer: whether they hold the optimizer. A run that continues from
        one without begins with a new optimizer.

    Returns:
      What restores them.
    """
    optimizer = {"optimizer": self.optimizer} if with_optimizer else {}
    self._checkpoints = Checkpoints(
      self.train_dir,
      self.settings.keep_checkpoints,
      self.average,
      model=self.model,
      # Keras keeps these in the layers, where tf.train.Checkpoint misses them.
      random_state=[
        variable.value
        for variable in self.model.variables
        if variable.path.endswith("seed_generator_state")
      ],
      **optimizer,
      **self.state,
    )
    return self._checkpoints

  def restore_or_begin(self, data: Data) -> None:
    """Continues the run in train_dir on this data, or begins one.

    Args:
      data: to train on.

    Raises:
      errors.UserError: the checkpoint is of another model or damaged, or see
        continue_on.
    """
    path = self.open_checkpoints().restore()
    if path is None:
      if self.placement.is_chief:
        write_model_flags(self.train_dir, self.model_flags)
      logging.info("A new run in %s.", self.train_dir)
    else:
      logging.info("Continuing from %s.", path)
    self.continue_on(data)

  def continue_on(self, data: Data) -> None:
    """Finds where the run, restored or new, is in its data and its schedule.

    Args:
      data: to train on.

    Raises:
      errors.UserError: machines disagree; the learning rate schedule needs an
        end and there is none.
    """
    asked_for = fingerprint(
      [
        *data.files,
        repr(self.settings),
        repr(self.model_flags.get("label_subset")),
        repr(self.model_flags.get("exclusive_classes")),
      ]
    )
    self.placement.check_same(
      [self.step, asked_for % 2**53],
      "Expected all machines to begin at the same step of the same run. Give"
      " them the same flags, the same files and a --train_dir that they share.",
    )
    # Not in the checkpoint, which is the same for two equal runs.
    (self.training_seconds,) = self.placement.most(
      [run_record.training_seconds(self.train_dir)]
    )
    data.skipped.continue_list()
    examples_before = self._find_place(data)
    self._fix_horizon(data.num_videos, examples_before)
    self.state["version"].assign(__version__)

  def _find_place(self, data: Data) -> int:
    """Finds where in the data to continue; at its beginning for other data.

    Returns:
      The examples seen before those that epochs are counted of.
    """
    state, placement, seed = self.state, self.placement, self.settings.seed
    of_files = fingerprint(data.files)
    position = state["position"]
    was_by_number = bool(int(state["window_shards"]))
    is_other = self.step and (
      int(state["data_fingerprint"]) != of_files
      or int(state["seed"]) != seed
      or int(state["min_frames"]) != self.settings.min_frames
    )
    # The order in which TensorFlow reads depends on the number of machines.
    if (
      self.step
      and not data.by_number
      and (was_by_number or len(position.numpy()) != placement.num_workers)
    ):
      is_other = True
    # A run made of another's weights, as by import_tf1_checkpoint, has read
    # nothing yet.
    if is_other and int(state["data_fingerprint"]):
      logging.info(
        "The files, --seed, --min_frames, the way to read or the number of"
        " machines changed: epochs count from here."
      )
    if is_other or not self.step:
      position.assign(tf.zeros([placement.num_workers], tf.int64))
      state["place"].assign(tf.zeros([3], tf.int64))
      state["epoch_records"].assign(tf.zeros([2], tf.int64))
      state["window_shards"].assign(0)
      state["finished_epochs"].assign(0)
    state["data_fingerprint"].assign(of_files)
    state["seed"].assign(seed)
    state["min_frames"].assign(self.settings.min_frames)
    if data.by_number:
      if not int(state["window_shards"]):
        self._begin_order(data, int(tf.reduce_sum(position)))
      # It is of TensorFlow's reading, perhaps on another number of machines.
      position.assign(tf.zeros([placement.num_workers], tf.int64))
    return self.examples_seen if is_other else 0

  def _begin_order(self, data: Data, num_examples: int) -> None:
    """Fixes the order in which a run reads its records by number.

    Args:
      data: to train on.
      num_examples: that an earlier version has read in an order of its own.
    """
    # Machines may have kept different walks; all take the largest window.
    (window_shards,) = self.placement.most(
      [data_order.choose_window(data.files)]
    )
    self.state["window_shards"].assign(int(window_shards))
    if num_examples:
      order = data.order(self.settings.seed, int(window_shards))
      place = order.place_after(num_examples)
      self.state["place"].assign(dataclasses.astuple(place))
      logging.info(
        "The order of the data is another one than before: continuing after as"
        " many examples, which are not the same."
      )

  @property
  def place(self) -> data_order.Place:
    """Where the run is in the order of its data."""
    return data_order.Place(*self.state["place"].numpy().tolist())

  def _fix_horizon(self, epoch_videos: int, examples_before: int) -> None:
    """Fixes the end of the run for the learning rate schedule.

    A resumed run keeps the end that was planned when it began, so that its
    learning rate does not depend on where it was stopped.

    Args:
      epoch_videos: examples in one epoch.
      examples_before: result of _find_place.
    """
    horizon = self.state["schedule_examples"]
    if not schedules.needs_horizon(self.settings):
      return
    if not int(horizon):
      planned = self.settings.planned_examples(
        epoch_videos,
        self.settings.step_examples(self.placement.num_replicas),
      )
      if 0 < planned <= examples_before:
        self._check_rate(examples_before, planned)
      horizon.assign(planned)
    if not int(horizon):
      raise errors.UserError(
        "Expected a run with an end for --learning_rate_schedule="
        f"{self.settings.learning_rate_schedule} and --warmup_fraction="
        f"{self.settings.warmup_fraction:g}, received neither --num_epochs nor"
        " --max_steps. Set one of them."
      )
    logging.info(
      "The learning rate is planned over %d examples, fixed when the run"
      " began.",
      int(horizon),
    )

  def _check_rate(self, examples_before: int, planned: int) -> None:
    """Refuses to train on at a learning rate of 0.

    Args:
      examples_before: result of _find_place.
      planned: all examples that the run will see.

    Raises:
      errors.UserError: a schedule that ends has ended before.
    """
    schedule = self.settings.learning_rate_schedule
    rate = schedules.learning_rate(
      tf.constant(examples_before, tf.int64),
      self.settings,
      tf.constant(planned, tf.int64),
    )
    if not float(rate):
      raise errors.UserError(
        f"Expected a run at its beginning for --learning_rate_schedule="
        f"{schedule}, received one that has seen {examples_before} examples of"
        f" other data, while {planned} are planned: its learning rate would be"
        " 0. Set --learning_rate_schedule to exponential or constant, or begin"
        " a new run with these weights: another --train_dir, and"
        " --init_checkpoint."
      )

  @property
  def step(self) -> int:
    """Steps so far."""
    return int(self.state["global_step"])

  @property
  def examples_seen(self) -> int:
    """Examples so far, over all epochs."""
    return int(self.state["examples_seen"])

  def has_ended(self) -> bool:
    """Whether num_epochs, max_steps or max_minutes was reached."""
    num_epochs, max_steps = self.settings.num_epochs, self.settings.max_steps
    if num_epochs and int(self.state["finished_epochs"]) >= num_epochs:
      return True
    if max_steps and self.step >= max_steps:
      return True
    return self.seconds_left() <= 0.0

  def seconds_left(self) -> float:
    """Seconds that steps may still take; infinite without max_minutes."""
    if not self.settings.max_minutes:
      return math.inf
    return 60.0 * self.settings.max_minutes - self.training_seconds

  def save(self) -> None:
    """Saves a checkpoint, unless a weight is not finite.

    The loss shows such a weight only a step later.

    Raises:
      errors.UserError: names the weight; or another process trains here.
    """
    self.lock.verify()
    if path := first_not_finite(self.model):
      raise errors.UserError(
        f"Expected finite weights, received NaN or infinite ones in {path}"
        f" after step {self.step}: training diverged. Start again with"
        " --start_new_model and a smaller --base_learning_rate."
      )
    if self.placement.is_chief and self._checkpoints:
      self._checkpoints.save(self.step)
