"""Checkpoints in a train_dir: model.ckpt-N.*, and `checkpoint`.

model.ckpt-N.* hold the weights, the optimizer and the place in the data after
step N; the file `checkpoint` names the newest.
"""

import contextlib
import glob
import hashlib
import os

import keras
import tensorflow as tf

import errors
from engine import checkpoint_files, half_weights
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


def checkpoint_path(train_dir: str, step: int) -> str:
  """The path, without its file endings, of a checkpoint in a train_dir."""
  return os.path.join(train_dir, f"{CHECKPOINT_NAME}-{step}")


def files_of_checkpoint(checkpoint_path: str) -> list[str]:
  """The paths of a checkpoint's files, those that are there."""
  return sorted(tf.io.gfile.glob(f"{glob.escape(checkpoint_path)}.*"))


def latest_checkpoint(train_dir: str) -> str | None:
  """The newest checkpoint's path without its file endings, or None.

  The file `checkpoint` names it. If that file is damaged, or the run was killed
  before it was written, the checkpoints are found by their index files. An
  index is written last, so a checkpoint that has one is complete.
  """
  path = checkpoint_files.latest(train_dir)
  if path is None:
    indexes = tf.io.gfile.glob(
      os.path.join(train_dir, f"{CHECKPOINT_NAME}-*.index")
    )
    paths = [index.removesuffix(".index") for index in indexes]
    path = max(paths, key=checkpoint_step, default=None)
  return path


def require_checkpoint(train_dir: str) -> str:
  """The newest checkpoint's path; there must be one.

  Raises:
    errors.UserError: there is no checkpoint.
  """
  checkpoint_path = latest_checkpoint(train_dir)
  if checkpoint_path is None:
    raise errors.UserError(
      f"Expected a checkpoint in --train_dir={train_dir}, received none. Train"
      f" first (python train.py --train_dir={train_dir} ...) or name another"
      " folder."
    )
  return checkpoint_path


def checkpoint_step(checkpoint_path: str) -> int:
  """The step after which a checkpoint was saved, from its name."""
  return int(checkpoint_path.rsplit("-", 1)[1])


def fingerprint(files: list[str]) -> int:
  """A number that identifies a list of data files by their names."""
  names = "\n".join(os.path.basename(file) for file in files)
  return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7])


def was_trained_on(checkpoint_path: str, files: list[str]) -> bool:
  """Whether a checkpoint's run was reading files with these names.

  True also if the checkpoint does not say.
  """
  checkpoint = tf.train.load_checkpoint(checkpoint_path)
  name = "data_fingerprint/.ATTRIBUTES/VARIABLE_VALUE"
  if not checkpoint.has_tensor(name):
    return True
  return int(checkpoint.get_tensor(name)) == fingerprint(files)


def _parts(checkpoint_path: str) -> set[str]:
  """The names under which a checkpoint holds models, optimizers, counters."""
  names = tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
  return {name.split("/")[0] for name in names}


def load_weights(model: keras.Model, checkpoint_path: str) -> None:
  """Restores the model of a checkpoint, without the optimizer.

  If the training run kept moving averages, weights become these averages.

  Raises:
    errors.UserError: the checkpoint holds another model, or is damaged.
    tf.errors.NotFoundError: it was deleted; a training run deletes old ones.
  """
  with _checkpoint_errors(checkpoint_path):
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


@contextlib.contextmanager
def _checkpoint_errors(checkpoint_path):
  """Turns errors in reading a checkpoint into two kinds; see load_weights.

  TensorFlow raises an IndexError for a file that is too short, and a plain
  OpError both for a damaged file and for one that was just deleted.
  """
  try:
    yield
  except tf.errors.NotFoundError:
    raise
  except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
    if errors.is_fault_of_machine(error):
      raise
    reason = str(getattr(error, "message", error)).strip().split("\n")[0]
    for ending in ("index", "data-*"):
      if not tf.io.gfile.glob(f"{checkpoint_path}.{ending}"):
        raise tf.errors.NotFoundError(None, None, reason) from error
    raise errors.UserError(
      f"Expected the weights of the model that {MODEL_FLAGS_FILE} describes in"
      f" {checkpoint_path}, received different weights, as after a change of"
      " the model's code, or a damaged file"
      f" ({reason}). Name another model, or start again with train.py"
      " --start_new_model."
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
    self._checkpoint = tf.train.Checkpoint(**self._state)
    self._manager = checkpoint_files.open_manager(
      self._checkpoint, train_dir, keep, CHECKPOINT_NAME
    )

  def restore(self) -> str | None:
    """Restores the newest checkpoint.

    Missing averages start at the restored weights. Counters that an earlier
    version did not write keep their values.

    Returns:
      The checkpoint's path, or None if there is no checkpoint.

    Raises:
      errors.UserError: it holds something else, or is damaged.
    """
    path = latest_checkpoint(self._train_dir)
    if path is None:
      return None
    with _checkpoint_errors(path):
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
        name: value
        for name, value in self._state.items()
        if name not in missing
      }
      checkpoint = tf.train.Checkpoint(**known)
      checkpoint.restore(path).assert_existing_objects_matched()
    if self._average and "average" in missing:
      weights = self._state["model"].trainable_variables
      for mean, variable in zip(self._average, weights, strict=True):
        mean.assign(variable.value)
    return path

  def save(self, step: int) -> str:
    """Saves a checkpoint after a step; returns its path."""
    return checkpoint_files.save(self._manager, CHECKPOINT_NAME, step)
