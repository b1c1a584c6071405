"""Every file in a --train_dir.

  model_flags.json          what shapes the graph or reads the data
  run.json                  how it was made and what it took, see run_record.py
  checkpoint                names the newest checkpoint
  model.ckpt-N.*            weights, optimizer and data position after step N
  events.out.tfevents.*     TensorBoard, training
  eval/                     TensorBoard, evaluation and hyper-parameters;
                            metrics-N.json
  evaluations.json          the scores of training's own evaluations
  best.json, best/          the checkpoint with the best score
  export/step_N/            SavedModels
  export/formats_N/         the model after step N in other formats
  vocabulary.csv            the names of the classes, if they are known
  extraction.json, pca/     how features were made of videos, if they were

model_flags.json is enough to rebuild the model: eval.py, inference.py and
export_model.py need nothing else.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import tarfile

import keras
import tensorflow as tf
from absl import logging

import errors
import losses
import models
from engine import half_weights
from engine.dataset_card import PCA_FOLDER, VOCABULARY_FILE, DatasetCard
from engine.files import write_json, written_aside
from layers import whitening

MODEL_FLAGS_FILE = "model_flags.json"
CHECKPOINT_NAME = "model.ckpt"
EVAL_DIR = "eval"
EXPORT_DIR = "export"
BEST_DIR = "best"
BEST_FILE = "best.json"
EVALUATIONS_FILE = "evaluations.json"
EXTRACTION_FILE = "extraction.json"

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
  }
)

# By how readers.py calls them.
_DTYPES = {"bytes": "uint8", "float16": "float16", "float": "float32"}

_OWN_FILES = re.compile(
  r"model_flags\.json|vocabulary\.csv|extraction\.json"
  r"|run\.json|best\.json|evaluations\.json"
  r"|checkpoint|model\.ckpt-(again-)?\d+\..*|events\.out\.tfevents\..*"
  r"|(segment-)?metrics-(\d+\.json|by-class-\d+\.csv)|(step|formats)_\d+"
  r"|skipped_records(-\d+)?\.csv"
  # Left over by a process that was killed while writing.
  r"|\..+\.tmp-[0-9a-f]{8}|checkpoint\.tmp[0-9a-f]{32}|model\.ckpt-\d+_temp"
)


# --------------------------------------------------------------------------
# model_flags.json


def _read_noted_flags(train_dir: str) -> dict | None:
  """Reads what model_flags.json holds; see read_model_flags."""
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
      " another model, or start again with train.py --start_new_model."
    ) from error
  if missing:
    raise errors.UserError(
      f"Expected {', '.join(models.GRAPH_FLAGS)} in {path}, received a file"
      f" without {missing[0]}, probably by the original TensorFlow 1 code. Make"
      " a new folder of its checkpoint with python -m"
      " data_tools.import_tf1_checkpoint, name another model, or start again"
      " with train.py --start_new_model."
    )
  return model_flags


def read_model_flags(train_dir: str) -> dict | None:
  """Reads model_flags.json; returns None if the file is missing.

  Flags that an earlier version did not know are added.

  Raises:
    errors.UserError: the file was not written by this project.
  """
  noted = _read_noted_flags(train_dir)
  return None if noted is None else models.with_earlier_defaults(noted)


def require_model_flags(
  train_dir: str, feature_ranges: str | None = None
) -> dict:
  """Reads model_flags.json, which must exist.

  Args:
    train_dir: folder of the run.
    feature_ranges: in the place of those in the file; None for these.

  Raises:
    errors.UserError: the file is missing.
  """
  model_flags = read_model_flags(train_dir)
  if model_flags is None:
    raise errors.UserError(
      f"Expected a trained model in --train_dir={train_dir}, received a folder"
      f" without {MODEL_FLAGS_FILE}. Train a model first (python train.py"
      f" --train_dir={train_dir} ...) or name another folder."
    )
  if feature_ranges is not None:
    model_flags["feature_ranges"] = feature_ranges
  return model_flags


def keep_vocabulary(train_dir: str, vocabulary: str) -> None:
  """Copies a file with the names of the classes to a train_dir."""
  _copy(vocabulary, os.path.join(train_dir, VOCABULARY_FILE))


def keep_extraction(
  train_dir: str, dataset_dir: str, card: DatasetCard
) -> None:
  """Keeps how the features of a data set were made of videos.

  Args:
    train_dir: where to. Nothing is changed in it if the features are of another
      origin.
    dataset_dir: folder of the data set.
    card: of it.
  """
  if not card.extraction:
    return
  for path in _pca_files(dataset_dir):
    _copy(path, os.path.join(train_dir, PCA_FOLDER, os.path.basename(path)))
  content = {
    **card.extraction,
    "feature_names": card.feature_names,
    "feature_dtypes": card.feature_dtypes,
    "feature_ranges": card.feature_ranges,
  }
  write_json(os.path.join(train_dir, EXTRACTION_FILE), content)


def _copy(path: str, target: str) -> None:
  """Copies a file, which appears under its new name only when it is whole."""
  with (
    tf.io.gfile.GFile(path, "rb") as file,
    written_aside(target) as aside,
    tf.io.gfile.GFile(aside, "wb") as copy,
  ):
    copy.write(file.read())


def read_extraction(train_dir: str) -> dict:
  """Reads how the features of a model were made of videos.

  Raises:
    errors.UserError: the train_dir does not say, or was written by something
      else.
  """
  path = os.path.join(train_dir, EXTRACTION_FILE)
  if not tf.io.gfile.exists(path):
    raise errors.UserError(
      f"Expected a model of features that data_tools.extract_features made, to"
      f" predict videos, received {train_dir}, which has no {EXTRACTION_FILE}:"
      " how its features were made is not known. Predict records, or train with"
      " the --dataset_dir of extracted videos."
    )
  with tf.io.gfile.GFile(path, "rb") as file:
    content = file.read()
  try:
    return dict(json.loads(content))
  except (ValueError, TypeError) as error:
    raise errors.UserError(
      f"Expected JSON in {path}, received something else ({error}). Train again"
      " with the --dataset_dir of the data set."
    ) from error


def _pca_files(folder: str) -> list[str]:
  """The files of a PCA that was fitted on a data set, if there is one."""
  pattern = os.path.join(glob.escape(folder), PCA_FOLDER, "*")
  return sorted(tf.io.gfile.glob(pattern))


def _facts(train_dir: str) -> list[str]:
  """The files that a model needs besides a checkpoint, those that are there."""
  names = (MODEL_FLAGS_FILE, VOCABULARY_FILE, EXTRACTION_FILE)
  paths = [os.path.join(train_dir, name) for name in names]
  return [*filter(tf.io.gfile.exists, paths), *_pca_files(train_dir)]


def copy_facts(train_dir: str, folder: str) -> None:
  """Copies what a model needs besides a checkpoint to another train_dir."""
  for path in _facts(train_dir):
    _copy(path, os.path.join(folder, os.path.relpath(path, train_dir)))


def find_vocabulary(train_dir: str) -> str:
  """The path of the names of the classes; empty if the train_dir has none."""
  path = os.path.join(train_dir, VOCABULARY_FILE)
  return path if tf.io.gfile.exists(path) else ""


def resumed_model_flags(train_dir: str, model_flags: dict) -> dict:
  """Checks that a run to be resumed in a train_dir has the same model.

  Logs which defaults an earlier version has begun it with that are others now.

  Returns:
    model_flags, with the run's own value of each flag that an earlier version
    did not know, and that is not set to another value than its default.

  Raises:
    errors.UserError: lists the flags that differ.
  """
  noted = _read_noted_flags(train_dir)
  if noted is None:
    return model_flags
  defaults = losses.default_hyperparameters(model_flags["label_loss"])
  if noted["model"] == model_flags["model"]:
    defaults |= models.default_hyperparameters(model_flags)
    defaults["input_transform"] = models.find_class_by_name(
      model_flags["model"]
    ).input_transform
  old = {**defaults, **models.with_earlier_defaults(noted)}
  new = {**defaults, **model_flags}
  kept = [
    name
    for name in sorted(old.keys() - noted.keys())
    if new.get(name) == defaults.get(name) != old[name]
  ]
  new |= {name: old[name] for name in kept}
  # Training reads the dtypes from the records, so they may change; what a
  # preset stood for is among the other flags.
  ignored = ("feature_dtypes", *models.PRESET_FLAGS)
  differing = [
    f"--{name} was {_shown(name, old)} and is now {_shown(name, new)}"
    for name in sorted({*old, *new})
    if name not in ignored and old.get(name) != new.get(name)
  ]
  if not differing:
    if kept:
      logging.info(
        "The run in %s keeps what an earlier version began it with: %s.",
        train_dir,
        ", ".join(f"--{name}={old[name]}" for name in kept),
      )
    if noted.get("preset") and not model_flags.get("preset"):
      logging.warning(
        "This run was trained with --preset=%s. Without it the settings of"
        " training are those of the command line and the defaults; add it to"
        " continue as before.",
        noted["preset"],
      )
    return {**model_flags, **{name: new[name] for name in model_flags}}
  raise errors.UserError(
    f"Expected the flags of the model in --train_dir={train_dir}, received"
    f" different ones: {'; '.join(differing)}. Use the old flags to continue"
    " it, another --train_dir to keep it, or --start_new_model to delete it."
  )


def _shown(name: str, model_flags: dict) -> str:
  """The value of a flag in a message; not a thousand numbers."""
  if name == "dewhiten_scales" and name in model_flags:
    return whitening.describe(model_flags[name])
  return repr(model_flags.get(name, "not set"))


def with_dtypes(model_flags: dict, kinds: list[str]) -> dict:
  """Adds how the training data's numbers are stored, which only export needs.

  Everything else finds this in the records that it reads.

  Args:
    model_flags: see read_model_flags.
    kinds: of each feature, see readers.py.
  """
  dtypes = ",".join(_DTYPES[kind] for kind in kinds)
  return {**model_flags, "feature_dtypes": dtypes}


def kinds_of_training_data(model_flags: dict) -> list[str] | None:
  """The inverse of with_dtypes; None where an older run has not noted it."""
  if not model_flags.get("feature_dtypes"):
    return None
  kinds = {dtype: kind for kind, dtype in _DTYPES.items()}
  return [kinds[dtype] for dtype in model_flags["feature_dtypes"].split(",")]


def write_model_flags(train_dir: str, model_flags: dict) -> None:
  """Writes model_flags.json."""
  write_json(os.path.join(train_dir, MODEL_FLAGS_FILE), model_flags)


# --------------------------------------------------------------------------
# The folder


def check_no_file(train_dir: str) -> None:
  """Checks that a --train_dir, if there is one, is a folder.

  Raises:
    errors.UserError: it is a file, or checkpoints would not be found in it.
  """
  # TensorFlow looks for a checkpoint by its path as a pattern, which matches
  # itself without these.
  if set(train_dir) & set("[\\"):
    raise errors.UserError(
      f"Expected a --train_dir without [ and \\, received {train_dir}, where"
      " TensorFlow would not find a checkpoint again. Name another one."
    )
  if tf.io.gfile.exists(train_dir) and not tf.io.gfile.isdir(train_dir):
    raise errors.UserError(
      f"Expected a folder as --train_dir, received the file {train_dir}. Name"
      " another one."
    )


def check_removable(train_dir: str) -> None:
  """Checks that a folder is empty, missing or a train_dir.

  Raises:
    errors.UserError: it is something else, and must not be emptied.
  """
  if not tf.io.gfile.exists(train_dir):
    return
  check_no_file(train_dir)
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
      f" delete, received a folder with other files, such as"
      f" {sorted(names)[0]!r}. Name another folder, or empty this one yourself."
    )


def check_no_own_file(path: str, flag_name: str) -> None:
  """Checks that writing a file does not overwrite a file of a run.

  Args:
    path: the file that is about to be written.
    flag_name: the flag that names it.

  Raises:
    errors.UserError: it exists and has the name of a run's file.
  """
  if _OWN_FILES.fullmatch(os.path.basename(path)) and tf.io.gfile.exists(path):
    raise errors.UserError(
      f"Expected a file that is not part of a run as --{flag_name}, received"
      f" {path}, which belongs to a training run. Name another one."
    )


def remove_run(train_dir: str) -> None:
  """Deletes the files of an old run; anything else in the folder stays.

  Raises:
    errors.UserError: see check_removable.
  """
  check_removable(train_dir)
  if tf.io.gfile.exists(train_dir):
    for folder in (EVAL_DIR, EXPORT_DIR, BEST_DIR):
      path = os.path.join(train_dir, folder)
      if tf.io.gfile.isdir(path):
        _remove_own_files(path)
        if not tf.io.gfile.listdir(path):
          tf.io.gfile.rmtree(path)
    pca_dir = os.path.join(train_dir, PCA_FOLDER)
    is_kept = tf.io.gfile.exists(os.path.join(train_dir, EXTRACTION_FILE))
    if is_kept and tf.io.gfile.isdir(pca_dir):
      tf.io.gfile.rmtree(pca_dir)
    _remove_own_files(train_dir)


def _remove_own_files(folder) -> None:
  for name in tf.io.gfile.listdir(folder):
    name = name.rstrip("/")
    path = os.path.join(folder, name)
    if not _OWN_FILES.fullmatch(name):
      logging.info("Kept, because it is not part of a run: %s", path)
    elif tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    else:
      tf.io.gfile.remove(path)


# --------------------------------------------------------------------------
# Checkpoints


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
  path = tf.train.latest_checkpoint(train_dir)
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
  except (tf.errors.NotFoundError, tf.errors.ResourceExhaustedError):
    raise
  except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
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
    self._manager = tf.train.CheckpointManager(
      self._checkpoint,
      train_dir,
      max_to_keep=keep or None,
      checkpoint_name=CHECKPOINT_NAME,
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
    return self._manager.save(checkpoint_number=step)


# --------------------------------------------------------------------------
# A model in one file


def write_model_tgz(train_dir: str, checkpoint_path: str, tgz: str) -> None:
  """Packs a checkpoint and model_flags.json, which is enough to predict.

  Args:
    train_dir: folder of the run.
    checkpoint_path: of a checkpoint, without its file endings.
    tgz: path of the archive to write.
  """
  of_checkpoint = files_of_checkpoint(checkpoint_path)
  # The best checkpoint is in a folder of its own.
  members = {path: os.path.basename(path) for path in of_checkpoint}
  members |= {
    path: os.path.relpath(path, train_dir) for path in _facts(train_dir)
  }
  with (
    written_aside(tgz) as aside,
    tf.io.gfile.GFile(aside, "wb") as file,
    tarfile.open(fileobj=file, mode="w:gz") as archive,
  ):
    for path, name in members.items():
      with tf.io.gfile.GFile(path, "rb") as member:
        info = tarfile.TarInfo(name)
        info.size = tf.io.gfile.stat(path).length
        archive.addfile(info, member)


def extract_model_tgz(tgz: str, folder: str) -> str:
  """Unpacks what write_model_tgz wrote.

  Args:
    tgz: path of the archive.
    folder: where to; made if it is missing.

  Returns:
    The checkpoint's path. model_flags.json is in the same folder.

  Raises:
    errors.UserError: the archive does not hold a model.
  """
  if tf.io.gfile.exists(os.path.join(folder, "checkpoint")):
    raise errors.UserError(
      "Expected a folder for an unpacked model, received the --train_dir of a"
      f" run, {folder}, whose files would be overwritten. Name another"
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
          f"Expected {MODEL_FLAGS_FILE} and one checkpoint in {tgz}, received"
          f" {', '.join(names) or 'nothing'}. Make the archive with"
          " inference.py --output_model_tgz."
        )
      archive.extractall(folder, filter="data")
      # Read to the end, because gzip checks its checksum there.
      while archive.fileobj.read(1 << 20):
        pass
  except (tarfile.TarError, EOFError, OSError) as error:
    raise errors.UserError(
      f"Expected a .tgz archive of a model, received {tgz}, which is not one"
      f" ({error}). Make it with inference.py --output_model_tgz."
    ) from error
  return os.path.join(folder, indexes[0].removesuffix(".index"))
