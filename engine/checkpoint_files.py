"""Writes the files of checkpoints; a power cut or a full disk loses none.

TensorFlow gives what it writes to the system, which may keep it in memory for
half a minute. So a new checkpoint is flushed to the disk before the file
`checkpoint` names it and before an older one is deleted.
"""

import contextlib
import glob
import os

import tensorflow as tf

from engine import local_files
from engine.checkpoint_index import find_damage
from engine.data_files import is_local

_STATE_FILE = "checkpoint"


def save(manager: tf.train.CheckpointManager, name: str, step: int) -> str:
  """Saves a checkpoint after a step.

  If this fails, no older one was deleted, and what was written is removed.

  Args:
    manager: of the folder.
    name: that the files begin with.
    step: number in the name.

  Returns:
    Its path without its file endings.
  """
  folder = manager.directory
  path = os.path.join(folder, f"{name}-{step}")
  # Called before the manager's own, which deletes.
  options = tf.train.CheckpointOptions(
    experimental_write_callbacks=[lambda saved: _flush(f"{saved}.")]
  )
  try:
    manager.save(checkpoint_number=step, options=options)
  except BaseException:
    with contextlib.suppress(tf.errors.OpError):
      for part in tf.io.gfile.glob(f"{glob.escape(folder)}/checkpoint.tmp*"):
        tf.io.gfile.remove(part)
      if find_damage(path):
        for part in tf.io.gfile.glob(f"{glob.escape(path)}.*"):
          tf.io.gfile.remove(part)
      tf.io.gfile.rmtree(f"{path}_temp")
    raise
  _flush(os.path.join(folder, _STATE_FILE))
  return path


def _flush(prefix: str) -> None:
  """Flushes files and their folder, where they are local."""
  if is_local(prefix):
    local_files.flush_files(prefix)
