"""Every file in a --train_dir.

  model_flags.json          what shapes the graph or reads the data, see
                            model_flags.py
  run.json                  how it was made and what it took, see run_record.py
  checkpoint                names the newest checkpoint
  model.ckpt-N.*            weights, optimizer and data position after step N,
                            see checkpoints.py
  events.out.tfevents.*     TensorBoard, training
  eval/                     TensorBoard, evaluation and hyper-parameters;
                            metrics-N.json
  evaluations.json          the scores of training's own evaluations
  best.json, best/          the checkpoint with the best score
  export/step_N/            SavedModels
  export/formats_N/         the model after step N in other formats
  vocabulary.csv            the names of the classes, if they are known
  extraction.json, pca/     how features were made of videos, if they were
  training.lock             who trains in it now, see train_dir_lock.py

Programs write no other files to it.
"""

import glob
import os
import re

import tensorflow as tf
from absl import logging

import errors
from engine.checkpoints import CHECKPOINT_NAME
from engine.data_files import is_local
from engine.dataset_card import (
  CARD_FILE,
  PCA_FOLDER,
  VOCABULARY_FILE,
  DatasetCard,
)
from engine.files import (
  TOKEN,
  check_number,
  names_in,
  read_json,
  remove,
  remove_leftovers,
  write_json,
  written_aside,
)
from engine.model_flags import MODEL_FLAGS_FILE
from engine.process_names import is_dead

EVAL_DIR = "eval"
EXPORT_DIR = "export"
BEST_DIR = "best"
BEST_FILE = "best.json"
EVALUATIONS_FILE = "evaluations.json"
EXTRACTION_FILE = "extraction.json"
LOCK_FILE = "training.lock"
_DTYPES = ("uint8", "float16", "float32")

# What TensorFlow names while it saves a checkpoint.
_OF_TENSORFLOW = r"checkpoint\.tmp[0-9a-f]{32}|model\.ckpt-\d+_temp"
_OF_SKIPPED = r"skipped_records(-\d+)?\.csv"

_OWN_FILES = re.compile(
  r"model_flags\.json|vocabulary\.csv|extraction\.json"
  r"|run\.json|best\.json|evaluations\.json|training\.lock|checkpoint"
  r"|(damaged-)?model\.ckpt-(again-)?\d+\..*|events\.out\.tfevents\..*"
  r"|(segment-)?metrics-(\d+\.json|by-class-\d+\.csv)"
  rf"|{_OF_SKIPPED}"
  # Left over by a process that was killed while writing.
  rf"|\..+\.tmp-{TOKEN}|{_OF_TENSORFLOW}"
)
# Besides a run's: what a data set has.
_OF_DATA = re.compile(
  rf"{re.escape(CARD_FILE)}|croissant\.json|import_report\.csv"
  r"|.+\.tfrecord(\.gz)?"
)
# What export/ has; its folders are deleted with all that is in them.
_OWN_EXPORTS = re.compile(rf"(step|formats)_\d+|\..+\.tmp-{TOKEN}")
# What may lie in a folder in which no run has begun.
_NO_MARK = re.compile(rf"{re.escape(LOCK_FILE)}|\..+\.tmp-{TOKEN}")


# --------------------------------------------------------------------------
# What a model needs besides its checkpoint


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
  content = read_json(
    os.path.join(train_dir, EXTRACTION_FILE),
    (
      *("feature_names", "feature_dtypes", "feature_ranges"),
      *("video_level", "fit_pca"),
    ),
    "Train again with the --dataset_dir of the data set.",
    _check_extraction,
  )
  if content is None:
    raise errors.UserError(
      f"Expected a model of features that data_tools.extract_features made, to"
      f" predict videos, received {train_dir}, which has no {EXTRACTION_FILE}:"
      " how its features were made is not known. Predict records, or train with"
      " the --dataset_dir of extracted videos."
    )
  return content


def _check_extraction(content: dict) -> None:
  """Raises a TypeError or ValueError if extraction.json holds something else.

  What is said of the encoders is checked by those that know them.
  """
  check_number(content["fit_pca"], int)
  if not isinstance(content["video_level"], bool):
    raise TypeError
  names, dtypes = content["feature_names"], content["feature_dtypes"]
  given = content["feature_ranges"]
  if not all(isinstance(of, list) for of in (names, dtypes, given)):
    raise TypeError
  ranges: list = given or [None] * len(names)
  for name, dtype, of in zip(names, dtypes, ranges, strict=True):
    if not isinstance(name, str) or dtype not in _DTYPES:
      raise ValueError
    if of is not None:
      least, most = of
      check_number(least)
      check_number(most)


def _pca_files(folder: str) -> list[str]:
  """The files of a PCA that was fitted on a data set, if there is one."""
  pattern = os.path.join(glob.escape(folder), PCA_FOLDER, "*")
  return sorted(tf.io.gfile.glob(pattern))


def fact_files(train_dir: str) -> list[str]:
  """The files that a model needs besides a checkpoint, those that are there."""
  names = (MODEL_FLAGS_FILE, VOCABULARY_FILE, EXTRACTION_FILE)
  paths = [os.path.join(train_dir, name) for name in names]
  return [*filter(tf.io.gfile.exists, paths), *_pca_files(train_dir)]


def copy_facts(train_dir: str, folder: str) -> None:
  """Copies what a model needs besides a checkpoint to another train_dir."""
  for path in fact_files(train_dir):
    _copy(path, os.path.join(folder, os.path.relpath(path, train_dir)))


def find_vocabulary(train_dir: str) -> str:
  """The path of the names of the classes; empty if the train_dir has none."""
  path = os.path.join(train_dir, VOCABULARY_FILE)
  return path if tf.io.gfile.exists(path) else ""


# --------------------------------------------------------------------------
# The folder


def check_no_file(train_dir: str) -> None:
  """Checks that a --train_dir, if there is one, is a folder.

  Raises:
    errors.UserError: it is a file, or its name is a pattern to TensorFlow.
  """
  # TensorFlow looks for a checkpoint, and for those to delete, by its path as a
  # pattern, which matches itself and nothing else without these.
  if set(train_dir) & set("[\\*?"):
    raise errors.UserError(
      f"Expected a --train_dir without [, \\, * and ?, received {train_dir},"
      " where TensorFlow would not find a checkpoint again, or delete those of"
      " other folders. Name another one."
    )
  if tf.io.gfile.exists(train_dir) and not tf.io.gfile.isdir(train_dir):
    raise errors.UserError(
      f"Expected a folder as --train_dir, received the file {train_dir}. Name"
      " another one."
    )


def check_removable(train_dir: str) -> None:
  """Checks that a folder is empty, missing or a train_dir.

  Raises:
    errors.UserError: it is something else, such as a data set in which a model
      was trained, and must not be emptied.
  """
  if not tf.io.gfile.exists(train_dir):
    return
  check_no_file(train_dir)
  names = {name.rstrip("/") for name in names_in(train_dir)}
  # A start that was killed before it began its run may have left no more.
  names = {name for name in names if not _NO_MARK.fullmatch(name)}
  if CARD_FILE in names:
    raise errors.UserError(
      f"Expected a run alone in --train_dir={train_dir} for --start_new_model"
      f" to delete, received the folder of a data set ({CARD_FILE}), whose"
      f" {VOCABULARY_FILE} would be lost. Name another folder, and take the"
      " files of the run out of this one yourself."
    )
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


def check_no_own_file(
  path: str, flag_name: str, lists_skipped: bool = False
) -> None:
  """Checks that writing a file overwrites no file of a run or a data set.

  Args:
    path: the file that is about to be written.
    flag_name: the flag that names it.
    lists_skipped: whether it lists records that cannot be used, so that it may
      take the place of an earlier list.

  Raises:
    errors.UserError: it exists and has the name of such a file.
  """
  # What a link points to would be replaced.
  name = os.path.basename(os.path.realpath(path) if is_local(path) else path)
  if lists_skipped and re.fullmatch(_OF_SKIPPED, name):
    return
  for names, whole, owner in (
    (_OWN_FILES, "run", "training run"),
    (_OF_DATA, "data set", "data set"),
  ):
    if names.fullmatch(name) and tf.io.gfile.exists(path):
      raise errors.UserError(
        f"Expected a file that is not part of a {whole} as --{flag_name},"
        f" received {path}, which belongs to a {owner}. Name another one."
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
        own = _OWN_EXPORTS if folder == EXPORT_DIR else _OWN_FILES
        _remove_own_files(path, own)
        if not names_in(path):
          remove(path)
    pca_dir = os.path.join(train_dir, PCA_FOLDER)
    is_kept = tf.io.gfile.exists(os.path.join(train_dir, EXTRACTION_FILE))
    if is_kept and tf.io.gfile.isdir(pca_dir):
      remove(pca_dir)
    _remove_own_files(train_dir, _OWN_FILES)


def clean(train_dir: str, last_writer: str = "") -> None:
  """Removes what programs that were killed have left over in a train_dir.

  Args:
    train_dir: folder of the run.
    last_writer: the process that trained last, see process_names.py, if this
      one trains; else empty. TensorFlow's temporary names do not say who
      writes: one process trains at a time, so that if it is dead, nobody does.
  """
  remove_leftovers(
    train_dir,
    others=_OF_TENSORFLOW,
    others_are_dead=bool(is_dead(last_writer)),
  )
  for folder in (EVAL_DIR, EXPORT_DIR, BEST_DIR, PCA_FOLDER):
    remove_leftovers(os.path.join(train_dir, folder))


def _remove_own_files(folder: str, own: re.Pattern[str]) -> None:
  """Removes what a run has in a folder; see remove_run.

  Args:
    folder: the train_dir, or one in it.
    own: matches the names of a run's files there.
  """
  # model_flags.json at last: if this process is killed before, the rest is
  # still known to be a run.
  names = names_in(folder)
  for name in sorted(names, key=lambda name: name == MODEL_FLAGS_FILE):
    name = name.rstrip("/")
    path = os.path.join(folder, name)
    if name == LOCK_FILE:  # of the process that begins another run here
      continue
    if not own.fullmatch(name):
      logging.info("Kept, because it is not part of a run: %s", path)
    else:
      remove(path)
