"""Predictions of trained models, kept between two calls of a program.

A file of predictions has a .json beside it, which says what they were made of:
they are made again if a checkpoint or a file of records has changed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

import errors
import models
from engine import (
  best_checkpoint,
  half_weights,
  prediction_file,
  unlikely_flags,
)
from engine.checkpoints import files_of_checkpoint
from engine.data import Data
from engine.distribution import Placement
from engine.files import write_json
from engine.forward import ForwardPass, predicted_batches
from engine.model_flags import require_model_flags
from engine.prediction_file import Predictions
from engine.skipped import Policy
from reports.mixtures import JoinedPredictions, mix

_BATCH_SIZE = 512
# The speed of a model is measured for so long.
_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Member:
  """A trained model.

  Attributes:
    train_dir: its folder.
    model_flags: see engine/train_dir.py.
    checkpoint: its path without its file endings.
  """

  train_dir: str
  model_flags: dict
  checkpoint: str

  @classmethod
  def find(
    cls, train_dir: str, which: str = best_checkpoint.LATEST
  ) -> "Member":
    """A checkpoint of a train_dir.

    Args:
      train_dir: the folder.
      which: see --checkpoint.

    Raises:
      errors.UserError: there is none.
    """
    return cls(
      train_dir,
      require_model_flags(train_dir),
      best_checkpoint.find_checkpoint(train_dir, which),
    )

  @property
  def name(self) -> str:
    """The name of its folder."""
    return os.path.basename(os.path.normpath(self.train_dir))

  @property
  def is_frame_level(self) -> bool:
    """Whether it takes the frames of videos."""
    return self.model_flags["frame_features"]


@dataclasses.dataclass(frozen=True)
class Predicted:
  """What a model predicts for some files.

  Attributes:
    path: of the file of predictions.
    predictions: what it holds.
    videos_per_second: how fast the model was, compiled, with reading; None
      where nobody measured it.
    weight_bytes: of the model; None likewise.
  """

  path: str
  predictions: Predictions
  videos_per_second: float | None = None
  weight_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Workplace:
  """Where and how predictions are made.

  Attributes:
    folder: of the files of predictions.
    placement: where to compute.
    policy: what to do about records that cannot be used.
  """

  folder: str
  placement: Placement
  policy: Policy


def _identity(path: str) -> list:
  """What changes if a file does."""
  found = tf.io.gfile.stat(path)
  return [path, found.length, found.mtime_nsec]


def made_of(member: Member, files: Sequence[str], dtype: type) -> str:
  """A hash of what predictions depend on.

  Args:
    member: the model.
    files: of records.
    dtype: of the predictions in their file.
  """
  parts = [
    member.model_flags,
    member.checkpoint,
    *map(_identity, files_of_checkpoint(member.checkpoint)),
    [_identity(path) for path in files],
    np.dtype(dtype).name,
  ]
  return _hash(parts)


def _hash(parts) -> str:
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def videos_per_second(forward: ForwardPass) -> float:
  """How fast a model predicts, measured for a few seconds.

  Args:
    forward: that has been run, so that it is compiled.
  """
  rate = 0.0
  for _, _, progress in forward.run():
    rate = progress.rate
    if progress.seconds > _SECONDS:
      break
  return rate


def _facts_path(path: str) -> str:
  return path.removesuffix(prediction_file.ENDING) + ".json"


def _read_facts(path: str) -> dict:
  """What is known of a file of predictions; empty if nothing is."""
  try:
    with open(_facts_path(path)) as file:
      facts = errors.parse_json(file.read())
  except (OSError, ValueError):
    return {}
  return facts if isinstance(facts, dict) and os.path.exists(path) else {}


def _remove_facts(path: str) -> None:
  """Forgets what a file was made of, before another one takes its place.

  Else, stopped between the two, the next start would take the new one for the
  old one.
  """
  with contextlib.suppress(FileNotFoundError):
    os.remove(_facts_path(path))


def predict(
  member: Member,
  files: list[str],
  split: str,
  workplace: Workplace,
  dtype: type = np.float32,
) -> Predicted:
  """Predicts files, unless this was done before.

  Args:
    member: the model.
    files: TFRecord files, which need no labels.
    split: what they are, for the name of the file.
    workplace: where and how.
    dtype: of the predictions in their file.

  Raises:
    errors.UserError: a record or a prediction cannot be used.
  """
  digest = _hash(os.path.abspath(member.train_dir))[:8]
  name = f"{split}-{member.name}-{digest}{prediction_file.ENDING}"
  path = os.path.join(workplace.folder, name)
  wanted = made_of(member, files, dtype)
  facts = _read_facts(path)
  if facts.get("made_of") != wanted:
    _remove_facts(path)
    logging.info("Predicting %d files with %s", len(files), member.checkpoint)
    unlikely_flags.warn_of_other_ranges(files, member.model_flags)
    listed = f"{path.removesuffix(prediction_file.ENDING)}_skipped_records.csv"
    policy = dataclasses.replace(workplace.policy, path=listed)
    forward = ForwardPass(
      member.model_flags,
      Data(
        member.model_flags,
        files,
        with_labels=False,
        for_trained=True,
        policy=policy,
      ),
      workplace.placement,
      batch_size=_BATCH_SIZE,
    )
    forward.load_weights(member.checkpoint)
    batches = (
      (batch["video_ids"].numpy(), predictions)
      for batch, predictions in predicted_batches(forward)
    )
    classes = models.output_classes(member.model_flags)
    prediction_file.write_predictions(path, batches, classes, dtype)
    facts = {
      "made_of": wanted,
      "checkpoint": member.checkpoint,
      "videos_per_second": videos_per_second(forward),
      "weight_bytes": half_weights.weight_bytes(
        forward.model, member.checkpoint
      ),
    }
    write_json(_facts_path(path), facts)
  return Predicted(
    path,
    prediction_file.read_predictions(path),
    facts.get("videos_per_second"),
    facts.get("weight_bytes"),
  )


# --------------------------------------------------------------------------
# What a student learns from


# The names that teacher_path gives.
_TEACHER = re.compile(
  rf"teacher-[0-9a-f]{{16}}{re.escape(prediction_file.ENDING)}"
)
# A target needs no more digits.
_TAUGHT_DTYPE = np.float16


def teacher_path(
  members: Sequence[Member],
  weights: np.ndarray,
  files_of: Sequence[list[str]],
  folder: str,
) -> str:
  """Where make_teacher puts its file.

  Its name says what it is made of, so that a student knows its teacher.
  """
  used = np.flatnonzero(weights).tolist()
  parts = [made_of(members[one], files_of[one], _TAUGHT_DTYPE) for one in used]
  digest = _hash([parts, weights[used].tolist()])
  return os.path.join(folder, f"teacher-{digest}{prediction_file.ENDING}")


def make_teacher(
  members: Sequence[Member],
  weights: np.ndarray,
  files_of: Sequence[list[str]],
  workplace: Workplace,
) -> None:
  """Predicts the training videos with an ensemble, unless this was done before.

  When its file is complete, those of its members and of other teachers are
  removed. See teacher_path.

  Args:
    members: the models.
    weights: of each, with a sum of 1. A model of weight 0 predicts nothing.
    files_of: of each, its files of the training videos.
    workplace: where and how.

  Raises:
    errors.UserError: a record or a prediction cannot be used; models did not
      read the same videos.
  """
  path = teacher_path(members, weights, files_of, workplace.folder)
  if os.path.exists(path):
    logging.info("The ensemble's predictions to learn from are there: %s", path)
    return
  used = np.flatnonzero(weights).tolist()
  found = [
    predict(members[one], files_of[one], "train", workplace, _TAUGHT_DTYPE)
    for one in used
  ]
  sources = [predicted.predictions for predicted in found]
  video_ids = sources[0].video_ids
  joined = JoinedPredictions(sources, video_ids)
  check_missing(joined, video_ids, workplace.policy)
  rows = np.flatnonzero(~joined.missing)
  batches = (
    (
      prediction_file.original_ids(video_ids[part]),
      mix(weights[used], predictions),
    )
    for part, predictions in joined.blocks(rows)
  )
  classes = sources[0].classes
  prediction_file.write_predictions(path, batches, classes, _TAUGHT_DTYPE)
  logging.info("The ensemble's predictions to learn from: %s", path)
  for predicted in found:
    os.remove(predicted.path)
    os.remove(_facts_path(predicted.path))
  for other in os.listdir(workplace.folder):
    if _TEACHER.fullmatch(other) and other != os.path.basename(path):
      os.remove(os.path.join(workplace.folder, other))


def check_missing(
  joined: JoinedPredictions, video_ids: np.ndarray, policy: Policy
) -> None:
  """Checks that all models predicted all videos.

  Args:
    joined: their predictions.
    video_ids: of the videos.
    policy: if records may be left out, so may videos; the log says how many.

  Raises:
    errors.UserError: names a video without a prediction.
  """
  missing = np.flatnonzero(joined.missing)
  if not len(missing):
    return
  if policy.skip and len(missing) < len(video_ids):
    logging.warning(
      "%d of %d videos are left out, because not every model predicted them.",
      len(missing),
      len(video_ids),
    )
    return
  first = bytes(video_ids[missing[0]])
  raise errors.UserError(
    "Expected predictions of all models for the same videos, received"
    f" {len(missing)} of {len(video_ids)} videos that some did not predict,"
    f" such as {first.decode(errors='replace')}. Name files of"
    " the same videos."
  )
