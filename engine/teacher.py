"""Training on a teacher's predictions besides the labels: train.py --teacher.

The teacher is another model, or several, whose predictions of the training
videos are in a file of prediction_file.py. The target of a class is (1 - w)
times its label plus w times the teacher's probability, w being
--teacher_weight, and the label loss is that of BaseLoss.calculate_target_loss.
Source: Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural
Network, section 2, at the temperature 1.

Targets are made of the ids and labels of a batch alone, so a run resumes as
exactly as without a teacher.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
import tensorflow as tf

import errors
import losses
import models
import readers
from engine import prediction_file
from engine.settings import Settings


class Teacher:
  """What a file of predictions says about videos.

  Args:
    path: of the file.
    weight: of the predictions in the targets; the rest is the labels'.

  Attributes:
    classes: (classes,) int32, the class index of each column.

  Raises:
    errors.UserError: the file holds something else.
    OSError: it cannot be read.
  """

  def __init__(self, path: str, weight: float):
    self._path = path
    self._weight = np.float32(weight)
    found = prediction_file.read_predictions(path)
    self._predictions = found.predictions
    self._index = prediction_file.VideoIndex(found.video_ids)
    self.classes = found.classes

  def targets(
    self, video_ids: Iterable[bytes], labels: np.ndarray
  ) -> np.ndarray:
    """What a model should predict.

    Args:
      video_ids: of the videos.
      labels: (videos, classes) bool.

    Returns:
      (videos, classes) float32, from 0 to 1.

    Raises:
      errors.UserError: the teacher did not predict one of them.
    """
    video_ids = list(video_ids)
    rows = self._index.rows_of(prediction_file.stored_ids(video_ids))
    missing = np.flatnonzero(rows < 0)
    if len(missing):
      raise errors.UserError(
        "Expected predictions of all training videos in"
        f" --teacher={self._path}, received none of the video"
        f" {video_ids[missing[0]].decode(errors='replace')}. Predict the files"
        " of --train_data_pattern with inference.py --all_classes."
      )
    taught = self._predictions[rows].astype(np.float32)
    return (1 - self._weight) * labels + self._weight * taught


class _TaughtBatch:
  """A batch of a reader, to which targets are added when it is finished."""

  def __init__(self, batch, teacher: Teacher):
    self._batch = batch
    self._teacher = teacher
    self.add = batch.add

  def finish(self, on_bad) -> dict[str, np.ndarray]:
    arrays = self._batch.finish(on_bad)
    targets = self._teacher.targets(arrays["video_ids"], arrays["labels"])
    return {**arrays, "targets": targets}


class _TaughtReader:
  """A reader of labeled videos whose batches also have `targets`.

  In all else it is the reader that it stands for.
  """

  def __init__(self, reader: readers.Reader, teacher: Teacher):
    self._reader = reader
    self._teacher = teacher

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def start_batch(self, *given) -> _TaughtBatch:
    return _TaughtBatch(self._reader.start_batch(*given), self._teacher)

  def element_spec(self, with_labels: bool) -> dict[str, tf.TensorSpec]:
    spec = self._reader.element_spec(with_labels)
    return {**spec, "targets": tf.TensorSpec(spec["labels"].shape, tf.float32)}


def check_loss(model_flags: dict) -> None:
  """Checks that a model's loss takes probabilities as labels.

  Args:
    model_flags: of the model that learns, see train_dir.py.

  Raises:
    errors.UserError: it does not.
  """
  if not losses.make_loss(model_flags).takes_targets():
    raise errors.UserError(
      "Expected a loss of each class by itself with --teacher, received"
      f" --label_loss={model_flags['label_loss']}, which cannot take"
      " probabilities as labels. Use another one, such as CrossEntropyLoss."
    )


def taught_reader(
  reader: readers.Reader, settings: Settings, model_flags: dict
) -> readers.Reader:
  """Lets a reader read what the teacher of a run says too, if it has one.

  Args:
    reader: of the training data.
    settings: of the run.
    model_flags: of the model that learns, see train_dir.py.

  Returns:
    A reader whose batches also have `targets`, (batch, classes) float32; the
    same reader without a teacher.

  Raises:
    errors.UserError: the teacher is of other classes or not a file of
      predictions; the loss takes labels only; examples are segments.
  """
  if not settings.teacher:
    return reader
  if settings.segment_labels:
    raise errors.UserError(
      "Expected one of --teacher and --segment_labels, received both. A teacher"
      " predicts whole videos: leave one of them out."
    )
  check_loss(model_flags)
  try:
    teacher = Teacher(settings.teacher, settings.teacher_weight)
  except OSError as error:
    raise errors.of_system(
      error,
      f"Expected a file that can be read as --teacher={settings.teacher}:"
      f" {error.strerror or error}",
    ) from error
  classes = models.output_classes(model_flags)
  if not np.array_equal(teacher.classes, classes):
    raise errors.UserError(
      f"Expected a teacher of the {len(classes)} classes that the model learns,"
      f" received --teacher={settings.teacher} with {len(teacher.classes)}"
      " classes that are not the same. Set --num_classes and --label_subset as"
      " they were for the teacher."
    )
  return cast(readers.Reader, _TaughtReader(reader, teacher))
