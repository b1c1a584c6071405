"""Checkpoints in a train_dir: model.ckpt-N.*, and `checkpoint`.

model.ckpt-N.* hold the weights, the optimizer and the place in the data after
step N; the file `checkpoint` names the newest.
"""

import contextlib
import functools
import glob
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import keras
import tensorflow as tf
from absl import logging

import errors
from engine import checkpoint_files, checkpoint_index, half_weights
from engine.checkpoint_index import find_damage
from engine.data_files import is_local
from engine.files import names_in, text_written_aside
from engine.model_flags import MODEL_FLAGS_FILE

CHECKPOINT_NAME = "model.ckpt"

# Parts that a checkpoint may lack: averages exist only with --ema_decay, an
# optimizer not if data_tools.import_tf1_checkpoint found none, and the others
# were not written by earlier versions.
_ADDED_PARTS = frozenset(
  {
    "average",
    "optimizer",
    "min_frames",
    "schedule_examples",
    "version",
    "place",
    "window_shards",
    "epoch_records",
    "left_out",
  }
)


STATE_FILE = "checkpoint"
_MOST_STATE_BYTES = 1 << 20
_NOTED = re.compile(rb'^model_checkpoint_path: "([ !#-\[\]-~]+)"\s*$', re.M)
_NAME = re.compile(rf"{re.escape(CHECKPOINT_NAME)}-\d+")
_INDEX = re.compile(rf"{re.escape(CHECKPOINT_NAME)}-(\d+)\.index")
_DATA = re.compile(rf"{re.escape(CHECKPOINT_NAME)}-(\d+)\.data-\d+-of-\d+")

# What damaged files are renamed to, see Checkpoints.
_DAMAGED = "damaged-"
_SET_ASIDE = re.compile(rf"{_DAMAGED}{re.escape(CHECKPOINT_NAME)}-(\d+)\..*")

# What TensorFlow raises if a checkpoint is damaged, or not what was expected.
_READ_ERRORS = (AssertionError, ValueError, IndexError, tf.errors.OpError)

_Result = TypeVar("_Result")


class DamagedCheckpointError(errors.UserError):
  """A checkpoint is not whole.

  Args:
    message: what was expected, what was received, how to fix it.
    damage: the damaged file and what is wrong with it.
  """

  def __init__(self, message: str, damage: str = ""):
    super().__init__(message)
    self.damage = damage


class DeletedCheckpointError(tf.errors.NotFoundError):
  """A checkpoint was deleted; a training run deletes old ones.

  Args:
    message: names it.
  """

  def __init__(self, message: str):
    super().__init__(None, None, message)


def checkpoint_path(train_dir: str, step: int) -> str:
  """The path, without its file endings, of a checkpoint in a train_dir."""
  return os.path.join(train_dir, f"{CHECKPOINT_NAME}-{step}")


def files_of_checkpoint(checkpoint_path: str) -> list[str]:
  """The paths of a checkpoint's files, those that are there."""
  return sorted(tf.io.gfile.glob(f"{glob.escape(checkpoint_path)}.*"))


def checkpoints_by_step(train_dir: str) -> dict[int, str]:
  """The paths of all checkpoints that training kept, by step, in order.

  An index is written last, so a checkpoint that has one was saved completely.
  The best one may be missing; see best_checkpoint.kept_checkpoints.

  Raises:
    tf.errors.OpError: the folder cannot be listed.
  """
  # Of a remote folder, isdir also says no if the network does not answer, where
  # exists raises an error. A run must not begin anew for that.
  is_there = tf.io.gfile.isdir(train_dir) or (
    not is_local(train_dir) and tf.io.gfile.exists(train_dir)
  )
  names = names_in(train_dir) if is_there else []
  steps = [int(match[1]) for match in map(_INDEX.fullmatch, names) if match]
  return {step: checkpoint_path(train_dir, step) for step in sorted(steps)}


def noted_checkpoint(train_dir: str) -> str | None:
  """The path of the newest checkpoint, as the file `checkpoint` names it.

  Returns:
    None if there is no such file, or if it is damaged or names a path outside
    the folder, which the log says. Its files may be missing.
  """
  path = os.path.join(train_dir, STATE_FILE)
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      content = file.read(_MOST_STATE_BYTES)
  except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
    return None
  named = _NOTED.search(content)
  noted = named[1].decode() if named else ""
  folder, name = os.path.split(noted)
  # A relative path is one in the folder.
  is_inside = not folder or os.path.abspath(folder) == os.path.abspath(
    train_dir
  )
  if is_inside and _NAME.fullmatch(name):
    return os.path.join(train_dir, name)
  held = f"names {noted!r}" if noted else "is damaged"
  _say_once(
    f"No use is made of {path}, which {held}: the checkpoints are found by"
    " their index files."
  )
  return None


def _newest_first(train_dir: str) -> list[str]:
  """The paths of the checkpoints, the one to use first.

  That is the one that `checkpoint` names: a run that went on from an older
  checkpoint, because a newer one was damaged, saves smaller steps again.
  """
  paths = list(reversed(checkpoints_by_step(train_dir).values()))
  noted = noted_checkpoint(train_dir)
  if noted is None or not paths:
    return paths
  return [noted, *(path for path in paths if path != noted)]


def _is_unfinished(train_dir: str) -> bool:
  """Whether a run has begun to save its first checkpoint, and not ended.

  `checkpoint` does not name it yet. After a kill there is nothing to lose: the
  run begins anew. (If another file says that steps were saved, it does not, see
  run.check_not_lost.)
  """
  if len(checkpoints_by_step(train_dir)) != 1:
    return False
  return not tf.io.gfile.exists(os.path.join(train_dir, STATE_FILE))


def _was_deleted(train_dir: str, path: str) -> bool:
  """Whether training has just deleted a checkpoint, so that it is not damaged.

  It deletes the index first, when the file `checkpoint` names another.
  """
  return path not in checkpoints_by_step(
    train_dir
  ).values() and path != noted_checkpoint(train_dir)


@functools.cache
def _say_once(message: str) -> None:
  """Logs a warning, but only once: programs look for checkpoints often."""
  logging.warning("%s", message)


def latest_checkpoint(
  train_dir: str, known_damage: Mapping[str, str] | None = None
) -> str | None:
  """The newest whole checkpoint's path without its file endings, or None.

  The file `checkpoint` names it. If that file is damaged, or the run was killed
  before it was written, the checkpoints are found by their index files. In the
  place of one that is damaged comes the one before; the log says so.

  Args:
    train_dir: folder of the run.
    known_damage: {path: the damage} of checkpoints that cannot be read
      although find_damage sees nothing, or that were deleted, without damage.

  Returns:
    None if there is no checkpoint, damaged or not, but for half of a first one,
    see _is_unfinished.

  Raises:
    DamagedCheckpointError: none is whole.
  """
  damaged = []
  for path in _newest_first(train_dir):
    damage = (known_damage or {}).get(path)
    if damage is None:
      damage = find_damage(path)
      if damage and _was_deleted(train_dir, path):
        continue
    elif not damage:
      continue
    if not damage:
      if damaged:
        _say_once(
          f"{'; '.join(damaged)}. Using the checkpoint before, of step"
          f" {checkpoint_step(path)}."
        )
      return path
    damaged.append(damage)
  if damaged and not _is_unfinished(train_dir):
    raise DamagedCheckpointError(
      f"Expected a whole checkpoint in --train_dir={train_dir}, received none:"
      f" {'; '.join(damaged)}. Name another folder, or start again with"
      " train.py --start_new_model."
    )
  return None


def require_checkpoint(
  train_dir: str, known_damage: Mapping[str, str] | None = None
) -> str:
  """The newest whole checkpoint's path; there must be one.

  Args:
    train_dir: folder of the run.
    known_damage: see latest_checkpoint.

  Raises:
    errors.UserError: there is no checkpoint, or none is whole.
  """
  checkpoint_path = latest_checkpoint(train_dir, known_damage)
  if checkpoint_path is None:
    unfinished = [
      f" ({find_damage(path)})"
      for path in checkpoints_by_step(train_dir).values()
    ]
    raise errors.UserError(
      f"Expected a checkpoint in --train_dir={train_dir}, received none"
      f"{''.join(unfinished)}. Train first (python train.py"
      f" --train_dir={train_dir} ...) or name another folder."
    )
  return checkpoint_path


def with_newest(
  train_dir: str,
  use: Callable[[str], _Result],
  known_damage: dict[str, str] | None = None,
) -> _Result:
  """Calls a function with the newest checkpoint that can be read.

  Args:
    train_dir: folder of the run.
    use: function of its path, which loads it before it does anything else. If
      the checkpoint is damaged, or was deleted meanwhile, it is called again
      with another.
    known_damage: see latest_checkpoint; what is found is added.

  Returns:
    What the function returns.

  Raises:
    errors.UserError: there is no checkpoint, or none is whole.
  """
  known_damage = {} if known_damage is None else known_damage
  while True:
    path = require_checkpoint(train_dir, known_damage)
    try:
      return use(path)
    except DamagedCheckpointError as error:
      known_damage[path] = error.damage
    except DeletedCheckpointError:
      logging.info("%s was deleted while it was read.", path)
      known_damage[path] = ""


def checkpoint_step(checkpoint_path: str) -> int:
  """The step after which a checkpoint was saved, from its name."""
  return int(checkpoint_path.rsplit("-", 1)[1])


def fingerprint(files: list[str]) -> int:
  """A number that identifies a list of data files by their names."""
  names = "\n".join(os.path.basename(file) for file in files)
  return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7])


def was_trained_on(checkpoint_path: str, files: list[str]) -> bool:
  """Whether a checkpoint's run was reading files with these names.

  True also if the checkpoint does not say, or cannot be read.
  """
  name = "data_fingerprint/.ATTRIBUTES/VARIABLE_VALUE"
  try:
    with _checkpoint_errors(checkpoint_path):
      checkpoint = tf.train.load_checkpoint(checkpoint_path)
      if not checkpoint.has_tensor(name):
        return True
      return int(checkpoint.get_tensor(name)) == fingerprint(files)
  except (DamagedCheckpointError, DeletedCheckpointError):
    return True  # whoever loads it deals with it


def _parts(checkpoint_path: str) -> set[str]:
  """The names under which a checkpoint holds models, optimizers, counters."""
  names = checkpoint_index.read(checkpoint_path).names
  return {name.split("/")[0] for name in names}


def load_weights(model: keras.Model, checkpoint_path: str) -> None:
  """Restores the model of a checkpoint, without the optimizer.

  If the training run kept moving averages, weights become these averages.

  Raises:
    errors.UserError: the checkpoint holds another model.
    DamagedCheckpointError: it is damaged.
    DeletedCheckpointError: it was deleted; a training run deletes old ones.
  """
  _reading(checkpoint_path, lambda: _load_weights(model, checkpoint_path))


def _load_weights(model: keras.Model, checkpoint_path: str) -> None:
  held = _parts(checkpoint_path)
  if half_weights.PART in held:
    half_weights.load(model, checkpoint_path)
    return
  parts = [{"model": model}]
  if "average" in held:
    weights = [variable.value for variable in model.trainable_variables]
    parts.append({"average": weights})
  for part in parts:
    status = tf.train.Checkpoint(**part).restore(checkpoint_path)
    status.expect_partial().assert_existing_objects_matched()


def _reading(checkpoint_path: str, read: Callable[[], _Result]) -> _Result:
  """Reads a checkpoint; what fails without a reason is tried again, once.

  A disk that fails once is a tensor that is missing, or weights of another
  model, to TensorFlow. What is so comes again.

  Args:
    checkpoint_path: path without its file endings.
    read: reads it.

  Returns:
    What `read` returns.

  Raises:
    errors.UserError: see load_weights, as the other errors.
  """
  with _checkpoint_errors(checkpoint_path):
    try:
      return read()
    except _READ_ERRORS as error:
      if errors.is_fault_of_machine(error):
        raise
    return read()


def _find_damage_of_data(checkpoint_path: str) -> str:
  """Reads all of a checkpoint to find damage that its sizes do not show.

  TensorFlow compares each tensor with its checksum.

  Returns:
    The damage in words; empty if there is none.

  Raises:
    tf.errors.OpError: it cannot be read, by a fault of the machine.
  """
  damage = find_damage(checkpoint_path)
  if damage:
    return damage
  try:
    reader = tf.train.load_checkpoint(checkpoint_path)
    for name in checkpoint_index.read(checkpoint_path).names:
      reader.get_tensor(name)
  except (tf.errors.OpError, IndexError, ValueError) as error:
    if errors.is_fault_of_machine(error):
      raise
    return f"{checkpoint_path} is damaged: {_reason(error)}"
  return ""


def _reason(error: Exception) -> str:
  """The first line of what TensorFlow says."""
  return str(getattr(error, "message", error)).strip().split("\n")[0]


def check_whole(checkpoint_path: str, with_data: bool = False) -> None:
  """Checks that a checkpoint is not damaged.

  Args:
    checkpoint_path: its path without file endings.
    with_data: whether to read all of it; else see checkpoint_index.find_damage.

  Raises:
    DamagedCheckpointError: it is damaged.
  """
  find = _find_damage_of_data if with_data else find_damage
  damage = find(checkpoint_path)
  if damage:
    raise _damaged(damage)


def _damaged(damage: str) -> DamagedCheckpointError:
  return DamagedCheckpointError(
    f"Expected a whole checkpoint, received a damaged one: {damage}. Name"
    " another --checkpoint or model, or start again with train.py"
    " --start_new_model.",
    damage,
  )


@contextlib.contextmanager
def _checkpoint_errors(checkpoint_path):
  """Turns errors in reading a checkpoint into three kinds; see load_weights.

  TensorFlow raises an IndexError for a file that is too short, and a plain
  OpError both for a damaged file and for one that was just deleted. So after an
  error, and only then, the whole checkpoint is read again: it is damaged, or
  whole, and of another model.
  """
  try:
    yield
  except _READ_ERRORS as error:
    if errors.is_fault_of_machine(error):
      raise
    if not tf.io.gfile.exists(f"{checkpoint_path}.index"):
      raise DeletedCheckpointError(
        f"{checkpoint_path} was deleted: {_reason(error)}"
      ) from error
    damage = _find_damage_of_data(checkpoint_path)
    if damage:
      raise _damaged(damage) from error
    raise errors.UserError(
      f"Expected the weights of the model that {MODEL_FLAGS_FILE} describes in"
      f" {checkpoint_path}, received different weights, as after a change of"
      f" the model's code ({_reason(error)}). Name another model, or start"
      " again with train.py --start_new_model."
    ) from error


class Checkpoints:
  """Saves and restores everything that exact resuming needs.

  Args:
    train_dir: where.
    keep: how many of the newest to keep; 0 for all.
    average: moving averages of the model's trainable weights, a tf.Variable
      each; empty for none.
    **state: what else to save: name -> model, optimizer or tf.Variable.
  """

  def __init__(self, train_dir: str, keep: int, average=(), **state):
    self._train_dir = train_dir
    self._average = list(average)
    self._state = state
    if average:
      self._state["average"] = self._average
    self._keep = keep
    self._damaged: list[str] = []
    self._newest: str | None = None  # that was restored or saved here
    self._manager: tf.train.CheckpointManager | None = None

  def restore(self) -> str | None:
    """Restores the newest checkpoint that is whole.

    Missing averages start at the restored weights. Counters that an earlier
    version did not write keep their values.

    Returns:
      The checkpoint's path, or None if there is none, see latest_checkpoint.

    Raises:
      errors.UserError: it holds something else, or none is whole.
    """
    if latest_checkpoint(self._train_dir) is None:
      self._damaged = list(checkpoints_by_step(self._train_dir).values())
      return None
    known_damage: dict[str, str] = {}
    path = with_newest(self._train_dir, self._restore_one, known_damage)
    self._damaged = [
      newer
      for step, newer in checkpoints_by_step(self._train_dir).items()
      if step > checkpoint_step(path)
      and (known_damage.get(newer) or find_damage(newer))
    ]
    self._newest = path
    return path

  def _restore_one(self, path: str) -> str:
    """Restores a checkpoint; returns its path."""
    return _reading(path, lambda: self._restore_from(path))

  def _restore_from(self, path: str) -> str:
    held = _parts(path)
    # An imported run may be without the optimizer, but not without its step.
    if "optimizer" in self._state and held.isdisjoint(
      {"optimizer", "global_step"}
    ):
      raise errors.UserError(
        f"Expected a run to continue in --train_dir={self._train_dir},"
        " received weights alone, as reports.compress_model writes them."
        " Train in another folder, or add --start_new_model to delete this"
        " model."
      )
    missing = _ADDED_PARTS - held
    known = {
      name: value for name, value in self._state.items() if name not in missing
    }
    checkpoint = tf.train.Checkpoint(**known)
    checkpoint.restore(path).assert_existing_objects_matched()
    if self._average and "average" in missing:
      weights = self._state["model"].trainable_variables
      for mean, variable in zip(self._average, weights, strict=True):
        mean.assign(variable.value)
    return path

  def save(self, step: int) -> str:
    """Saves a checkpoint after a step, unless it is there; returns its path.

    TensorFlow writes over a checkpoint piece by piece: a kill would leave none.
    """
    if self._newest and checkpoint_step(self._newest) == step:
      return self._newest
    manager = self._manager or self._make_manager()
    self._manager = manager
    self._newest = checkpoint_files.save(manager, CHECKPOINT_NAME, step)
    self._remove_past(step)
    return self._newest

  def _remove_past(self, step: int) -> None:
    """Removes what is of no use once the run has saved a step.

    That is what was set aside, and data without an index: a kill leaves it,
    while a checkpoint is written or an old one deleted.
    """
    kept = checkpoints_by_step(self._train_dir)
    for name in names_in(self._train_dir):
      match = _SET_ASIDE.fullmatch(name) or _DATA.fullmatch(name)
      if match and int(match[1]) <= step:
        if match.re is _DATA and int(match[1]) in kept:
          continue
        tf.io.gfile.remove(os.path.join(self._train_dir, name))

  def _make_manager(self) -> tf.train.CheckpointManager:
    """What saves, and deletes old checkpoints, from those that are whole on."""
    self._set_damaged_aside()
    self._write_state()
    return tf.train.CheckpointManager(
      tf.train.Checkpoint(**self._state),
      self._train_dir,
      max_to_keep=self._keep or None,
      checkpoint_name=CHECKPOINT_NAME,
    )

  def _set_damaged_aside(self) -> None:
    """Renames the damaged checkpoints before which the run goes on.

    Under their own names they would count as the newest once the file
    `checkpoint` is lost. They are kept until the run has saved their steps
    again.
    """
    for path in self._damaged:
      for file in files_of_checkpoint(path):
        name = f"{_DAMAGED}{os.path.basename(file)}"
        aside = os.path.join(self._train_dir, name)
        tf.io.gfile.rename(file, aside, overwrite=True)

  def _write_state(self) -> None:
    """Lets the file `checkpoint` name the checkpoints that are there.

    The manager goes on from it, and deletes old ones that it names, wherever
    they are.
    """
    path = os.path.join(self._train_dir, STATE_FILE)
    kept = list(checkpoints_by_step(self._train_dir).values())
    if not kept:
      if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)
      return
    newest = latest_checkpoint(self._train_dir)
    assert newest
    kept.sort(key=lambda one: one == newest)
    lines = [f'model_checkpoint_path: "{os.path.basename(newest)}"']
    lines += [
      f'all_model_checkpoint_paths: "{os.path.basename(one)}"' for one in kept
    ]
    # It never deletes what is not newer than the last preserved one.
    lines += [
      f"all_model_checkpoint_timestamps: {number}.0"
      for number in range(1, len(kept) + 1)
    ]
    lines.append("last_preserved_timestamp: 0.0")
    with text_written_aside(path) as file:
      file.write("\n".join(lines) + "\n")
