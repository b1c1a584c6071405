"""Every file in a --train_dir, and how a file is put into place whole.

  model_flags.json          all that shapes the graph or reads the data
  checkpoint                names the newest checkpoint
  model.ckpt-N.*            weights, optimizer and data position after step N
  events.out.tfevents.*     TensorBoard, training
  eval/                     TensorBoard, evaluation; metrics-N.json
  export/step_N/            SavedModels

model_flags.json alone rebuilds the model: eval.py, inference.py and
export_model.py take nothing else about it.
"""

import contextlib
import json
import os
import re
import tarfile
import uuid

import keras
import tensorflow as tf
from absl import logging

import errors
import models

MODEL_FLAGS_FILE = "model_flags.json"
CHECKPOINT_NAME = "model.ckpt"
EVAL_DIR = "eval"
EXPORT_DIR = "export"

_OWN_FILES = re.compile(
  r"model_flags\.json|checkpoint|model\.ckpt-\d+\..*|events\.out\.tfevents\..*"
  r"|(segment-)?metrics-\d+\.json|step_\d+"
  # What is left where a process was killed while it wrote.
  r"|\..+\.tmp-[0-9a-f]{8}|checkpoint\.tmp[0-9a-f]{32}|model\.ckpt-\d+_temp"
)


# --------------------------------------------------------------------------
# Files put into place whole


@contextlib.contextmanager
def written_aside(path: str):
  """Lets a file or folder be written aside and renames it into place.

  Whoever reads `path` finds the old content or the whole new one; between an
  old folder and a new one, for a moment, neither. If the block raises, what it
  wrote is removed.

  Args:
    path: the final path; its folder is made if it is missing.

  Yields:
    A path in the same folder to write to.
  """
  path = path.rstrip("/")
  if tf.io.gfile.isdir(path):
    old = tf.io.gfile.listdir(path)
    if old and "saved_model.pb" not in old:
      raise errors.UserError(
        f"Expected the name of a new file, or of a SavedModel to replace,"
        f" received {path}, a folder with other files in it. Name another."
      )
  folder, name = os.path.split(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  aside = os.path.join(folder, f".{name}.tmp-{uuid.uuid4().hex[:8]}")
  try:
    yield aside
    if tf.io.gfile.isdir(path):
      if not tf.io.gfile.isdir(aside):
        raise errors.UserError(
          f"Expected the name of a file, {path} is a folder. Name another."
        )
      old = f"{aside[:-8]}{uuid.uuid4().hex[:8]}"
      tf.io.gfile.rename(path, old)
      tf.io.gfile.rename(aside, path)
      tf.io.gfile.rmtree(old)
    else:
      tf.io.gfile.rename(aside, path, overwrite=True)
  except BaseException:
    if tf.io.gfile.isdir(aside):
      tf.io.gfile.rmtree(aside)
    elif tf.io.gfile.exists(aside):
      tf.io.gfile.remove(aside)
    raise


def write_json(path: str, content: dict) -> None:
  """Writes a dict as JSON that a person can read, whole or not at all."""
  with written_aside(path) as aside, tf.io.gfile.GFile(aside, "w") as file:
    file.write(json.dumps(content, indent=2) + "\n")


# --------------------------------------------------------------------------
# model_flags.json


def read_model_flags(train_dir: str) -> dict | None:
  """Reads model_flags.json; None if there is none.

  Raises:
    errors.UserError: the file is not one of this project's.
  """
  path = os.path.join(train_dir, MODEL_FLAGS_FILE)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "rb") as file:
    content = file.read()
  try:
    model_flags = json.loads(content)
    missing = [name for name in models.GRAPH_FLAGS if name not in model_flags]
  except (ValueError, TypeError) as error:
    raise errors.UserError(
      f"Expected JSON in {path}, received something else ({error}). Name"
      " another --train_dir, or train anew with --start_new_model."
    ) from error
  if missing:
    raise errors.UserError(
      f"Expected {', '.join(models.GRAPH_FLAGS)} in {path}, {missing[0]} is"
      " missing: the original TensorFlow 1 code wrote it, whose checkpoints"
      " cannot be read. Name another --train_dir, or train anew with"
      " --start_new_model."
    )
  return model_flags


def require_model_flags(train_dir: str) -> dict:
  """Reads model_flags.json, which a program that needs a model must find.

  Raises:
    errors.UserError: there is none.
  """
  model_flags = read_model_flags(train_dir)
  if model_flags is None:
    raise errors.UserError(
      f"Expected a trained model in --train_dir={train_dir}, found no"
      f" {MODEL_FLAGS_FILE} there. Train one first (python train.py"
      f" --train_dir={train_dir} ...) or name another folder."
    )
  return model_flags


def check_same_model(train_dir: str, model_flags: dict) -> None:
  """Checks that a run which goes on in a train_dir is of the same model.

  Raises:
    errors.UserError: lists the flags that differ.
  """
  old = read_model_flags(train_dir)
  if old is None:
    return
  differing = [
    f"--{name} was {old.get(name, 'not set')!r} and is now"
    f" {model_flags.get(name, 'not set')!r}"
    for name in sorted({*old, *model_flags})
    if old.get(name) != model_flags.get(name)
  ]
  if not differing:
    return
  raise errors.UserError(
    f"Expected the flags of the model in --train_dir={train_dir}, received"
    f" others: {'; '.join(differing)}. Use the old flags to go on with it,"
    " another --train_dir to keep it, or --start_new_model to delete it."
  )


def write_model_flags(train_dir: str, model_flags: dict) -> None:
  """Writes model_flags.json."""
  write_json(os.path.join(train_dir, MODEL_FLAGS_FILE), model_flags)


# --------------------------------------------------------------------------
# The folder


def check_removable(train_dir: str) -> None:
  """Checks that a folder is empty, missing or a train_dir.

  Raises:
    errors.UserError: it is none of these, and so must not be emptied.
  """
  if not tf.io.gfile.exists(train_dir):
    return
  if not tf.io.gfile.isdir(train_dir):
    raise errors.UserError(
      f"Expected a folder as --train_dir, {train_dir} is a file."
    )
  names = [name.rstrip("/") for name in tf.io.gfile.listdir(train_dir)]
  marks = [
    name
    for name in names
    if name in (MODEL_FLAGS_FILE, "checkpoint")
    or name.startswith((CHECKPOINT_NAME, "events.out.tfevents."))
  ]
  if names and not marks:
    raise errors.UserError(
      f"Expected an old run in --train_dir={train_dir} for --start_new_model to"
      f" delete, found none of its files but {sorted(names)[0]!r}. Name another"
      " folder, or empty this one yourself."
    )


def check_no_own_file(path: str, flag_name: str) -> None:
  """Checks that writing a file would not destroy a run.

  Args:
    path: the file that is about to be written.
    flag_name: the flag that names it.

  Raises:
    errors.UserError: it is there, and named as the files of a run are.
  """
  if _OWN_FILES.fullmatch(os.path.basename(path)) and tf.io.gfile.exists(path):
    raise errors.UserError(
      f"Expected a file of your own as --{flag_name}, {path} belongs to a"
      " training run. Name another one."
    )


def remove_run(train_dir: str) -> None:
  """Deletes the files of an old run; anything else in the folder stays.

  Raises:
    errors.UserError: see check_removable.
  """
  check_removable(train_dir)
  if tf.io.gfile.exists(train_dir):
    for folder in (EVAL_DIR, EXPORT_DIR):
      path = os.path.join(train_dir, folder)
      if tf.io.gfile.isdir(path):
        _remove_own_files(path)
        if not tf.io.gfile.listdir(path):
          tf.io.gfile.rmtree(path)
    _remove_own_files(train_dir)


def _remove_own_files(folder) -> None:
  for name in tf.io.gfile.listdir(folder):
    name = name.rstrip("/")
    path = os.path.join(folder, name)
    if not _OWN_FILES.fullmatch(name):
      logging.info("Left alone, as it is not of a training run: %s", path)
    elif tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    else:
      tf.io.gfile.remove(path)


# --------------------------------------------------------------------------
# Checkpoints


def latest_checkpoint(train_dir: str) -> str | None:
  """The newest checkpoint's path without its file endings, or None.

  The file `checkpoint` names it. A run that was killed before that file was
  written, or where it is damaged, still has its checkpoints: the index of each
  is written last, so one with an index is whole.
  """
  path = tf.train.latest_checkpoint(train_dir)
  if path is None:
    indexes = tf.io.gfile.glob(
      os.path.join(train_dir, f"{CHECKPOINT_NAME}-*.index")
    )
    paths = [index.removesuffix(".index") for index in indexes]
    path = max(paths, key=checkpoint_step, default=None)
  return path


def require_checkpoint(train_dir: str) -> str:
  """The newest checkpoint's path, which must be there.

  Raises:
    errors.UserError: there is none.
  """
  checkpoint_path = latest_checkpoint(train_dir)
  if checkpoint_path is None:
    raise errors.UserError(
      f"Expected a checkpoint in --train_dir={train_dir}, found none. Train"
      f" first (python train.py --train_dir={train_dir} ...) or name another"
      " folder."
    )
  return checkpoint_path


def checkpoint_step(checkpoint_path: str) -> int:
  """The step after which a checkpoint was saved, from its name."""
  return int(checkpoint_path.rsplit("-", 1)[1])


def _has_average(checkpoint_path: str) -> bool:
  """Whether a checkpoint holds moving averages of the weights."""
  names = tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
  return any(name.startswith("average/") for name in names)


def load_weights(model: keras.Model, checkpoint_path: str) -> None:
  """Restores the model of a checkpoint, without the optimizer.

  Weights of which the training run kept a moving average become that average.

  Raises:
    errors.UserError: the checkpoint holds another model, or is damaged.
    tf.errors.NotFoundError: it is gone; a training run deletes old ones.
  """
  with _checkpoint_errors(checkpoint_path):
    parts = [{"model": model}]
    if _has_average(checkpoint_path):
      weights = [variable.value for variable in model.trainable_variables]
      parts.append({"average": weights})
    for part in parts:
      status = tf.train.Checkpoint(**part).restore(checkpoint_path)
      status.expect_partial().assert_existing_objects_matched()


@contextlib.contextmanager
def _checkpoint_errors(checkpoint_path):
  """Turns what reading a checkpoint raises into two errors; see load_weights.

  TensorFlow raises an IndexError for a file that is too short, and a bare
  OpError for a damaged one as for one that is deleted meanwhile.
  """
  try:
    yield
  except (tf.errors.NotFoundError, tf.errors.ResourceExhaustedError):
    raise
  except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
    reason = str(getattr(error, "message", error)).strip().split("\n")[0]
    for ending in ("index", "data-*"):
      if not tf.io.gfile.glob(f"{checkpoint_path}.{ending}"):
        raise tf.errors.NotFoundError(None, None, reason) from error
    raise errors.UserError(
      f"Expected in {checkpoint_path} the weights of the model that"
      f" {MODEL_FLAGS_FILE} describes, received others or a damaged file"
      f" ({reason}). Name another --train_dir, or train anew with"
      " --start_new_model."
    ) from error


class Checkpoints:
  """Saves and restores all that a training run needs to go on exactly.

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
    extra = {"average": self._average} if average else {}
    self._checkpoint = tf.train.Checkpoint(**state, **extra)
    self._manager = tf.train.CheckpointManager(
      self._checkpoint,
      train_dir,
      max_to_keep=keep or None,
      checkpoint_name=CHECKPOINT_NAME,
    )

  def restore(self) -> str | None:
    """Restores the newest checkpoint; gives its path, or None without one.

    Where it has no averages, they begin at the weights that it has.

    Raises:
      errors.UserError: it holds something else, or is damaged.
    """
    path = latest_checkpoint(self._train_dir)
    if path is None:
      return None
    with _checkpoint_errors(path):
      checkpoint = self._checkpoint
      begins_average = self._average and not _has_average(path)
      if begins_average:
        checkpoint = tf.train.Checkpoint(**self._state)
      checkpoint.restore(path).assert_existing_objects_matched()
    if begins_average:
      weights = self._state["model"].trainable_variables
      for mean, variable in zip(self._average, weights, strict=True):
        mean.assign(variable.value)
    return path

  def save(self, step: int) -> str:
    """Saves after a step; gives the checkpoint's path."""
    return self._manager.save(checkpoint_number=step)


# --------------------------------------------------------------------------
# A model in one file


def write_model_tgz(train_dir: str, checkpoint_path: str, tgz: str) -> None:
  """Packs a checkpoint and model_flags.json, all that a prediction needs.

  Args:
    train_dir: folder of the run.
    checkpoint_path: as from latest_checkpoint.
    tgz: path of the archive to write.
  """
  files = [
    os.path.join(train_dir, MODEL_FLAGS_FILE),
    *tf.io.gfile.glob(f"{checkpoint_path}.*"),
  ]
  with (
    written_aside(tgz) as aside,
    tf.io.gfile.GFile(aside, "wb") as file,
    tarfile.open(fileobj=file, mode="w:gz") as archive,
  ):
    for path in files:
      with tf.io.gfile.GFile(path, "rb") as member:
        info = tarfile.TarInfo(os.path.basename(path))
        info.size = tf.io.gfile.stat(path).length
        archive.addfile(info, member)


def extract_model_tgz(tgz: str, folder: str) -> str:
  """Unpacks what write_model_tgz wrote.

  Args:
    tgz: path of the archive.
    folder: where to; made if it is missing.

  Returns:
    The checkpoint's path. Its model_flags.json lies beside it.

  Raises:
    errors.UserError: the archive does not hold a model.
  """
  if tf.io.gfile.exists(os.path.join(folder, "checkpoint")):
    raise errors.UserError(
      f"Expected a folder for an unpacked model, {folder} is the --train_dir of"
      " a run, whose files would be overwritten. Name another"
      " --untar_model_dir."
    )
  tf.io.gfile.makedirs(folder)
  try:
    with (
      tf.io.gfile.GFile(tgz, "rb") as file,
      tarfile.open(fileobj=file, mode="r:gz") as archive,
    ):
      names = archive.getnames()
      indexes = [name for name in names if name.endswith(".index")]
      if MODEL_FLAGS_FILE not in names or len(indexes) != 1:
        raise errors.UserError(
          f"Expected {MODEL_FLAGS_FILE} and one checkpoint in {tgz}, found"
          f" {', '.join(names) or 'nothing'}. Make the archive with"
          " inference.py --output_model_tgz."
        )
      archive.extractall(folder, filter="data")
      # Reads on to the end, where gzip compares its checksum.
      while archive.fileobj.read(1 << 20):
        pass
  except (tarfile.TarError, EOFError, OSError) as error:
    raise errors.UserError(
      f"Expected a .tgz archive of a model, {tgz} is none ({error}). Make it"
      " with inference.py --output_model_tgz."
    ) from error
  return os.path.join(folder, indexes[0].removesuffix(".index"))
