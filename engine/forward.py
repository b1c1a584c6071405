"""The forward pass of a checkpoint over files, for evaluation and prediction.

Both take the same steps: open the data, build the model that model_flags.json
describes, compile it, go through every example once, name a bad record.
"""

import copy
import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import errors
import losses
import models
import readers
from engine import csv_cells, model_building, unlikely_flags
from engine.checkpoints import load_weights
from engine.data import Data
from engine.distribution import Placement

_LOG_SECONDS = 5.0


@dataclasses.dataclass
class Progress:
  """How far a pass is.

  Attributes:
    num_examples: examples so far.
    seconds: since the pass began.
    is_due: whether it is time for a log line: once every five seconds.
  """

  num_examples: int = 0
  seconds: float = 0.0
  is_due: bool = False

  @property
  def rate(self) -> float:
    """Examples a second so far."""
    return self.num_examples / max(self.seconds, 1e-9)


class ForwardPass:
  """Computes what a checkpoint's model says about the examples of files.

  Args:
    model_flags: see train_dir.py.
    data: opened with labels if there is a loss.
    placement: where to compute.
    batch_size: videos a step.
    num_readers: see Data.evaluation_batches.
    loss: of the labels; None for predictions of records that may have no
      labels.
  """

  def __init__(
    self,
    model_flags: dict,
    data: Data,
    placement: Placement,
    *,
    batch_size: int,
    num_readers: int | None = None,
    loss: losses.BaseLoss | None = None,
  ):
    self._model_flags = model_flags
    self._data = data
    self._with_labels = loss is not None
    unlikely_flags.check_batch_fits(
      data, model_flags, min(batch_size, data.num_videos)
    )
    with placement.strategy.scope():
      self._model = model_building.build_model(
        model_flags, data.reader.quantized
      )
    self._given_batches = (batch_size, num_readers)
    self._batches = data.evaluation_batches(batch_size, num_readers)
    self._compute = placement.compile_forward(
      self._make_function(loss), models.compiles_predictions(model_flags)
    )

  @property
  def model(self) -> keras.Model:
    """The result of models.build_model."""
    return self._model

  def _make_function(self, loss):
    model = self._model

    def predict(batch):
      inputs = models.model_inputs(model, batch)
      return model(inputs, training=False)["predictions"]

    def score(batch):
      predictions = predict(batch)
      video_losses = loss.per_video_loss(
        predictions, batch["labels"], batch.get("label_weights")
      )
      return predictions, video_losses

    return score if loss else predict

  def over(self, data: Data, flag_name: str) -> "ForwardPass":
    """The same model, with the same weights, over other data.

    Args:
      data: see above.
      flag_name: that names its files, for the message.

    Raises:
      errors.UserError: its features are not stored as those of this data.
    """
    if data.reader.quantized != self._data.reader.quantized:
      raise errors.UserError(
        f"Expected features stored as in {self._data.files[0]}, received others"
        f" in {data.files[0]}: bytes in one, floats in the other. Name files as"
        f" --{flag_name} that store them alike."
      )
    other = copy.copy(self)
    other._data = data
    other._batches = data.evaluation_batches(*self._given_batches)
    return other

  @property
  def num_parameters(self) -> int:
    """See models.num_parameters."""
    return models.num_parameters(self._model)

  def load_weights(self, checkpoint: str) -> None:
    """Restores a checkpoint; see train_dir.load_weights."""
    load_weights(self._model, checkpoint)

  def compute(self, batch: dict):
    """Computes what `run` yields for a batch that is at hand.

    Args:
      batch: of readers.py.

    Returns:
      The result of `run`, as arrays: the computation has ended.

    Raises:
      errors.UserError: names the line of the model that failed.
    """
    with model_building.naming_bug(self._model_flags):
      result = self._compute(readers.numeric_part(batch))
    # Once: each call copies, from a GPU too.
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), result)

  def run(self):
    """Goes through every example once, the last batch perhaps smaller.

    Yields:
      (batch of readers.py, result, Progress): the result is an array of
      predictions (batch, classes), with a loss a pair of it and of an array of
      losses (batch,).

    Raises:
      errors.UserError: names a record that is not as the model's flags say, or
        the line of the model that failed; a prediction is not a probability.
    """
    progress = Progress()
    began = last_line = time.monotonic()
    with self._data.naming_errors():
      for batch in self._batches:
        result = self.compute(batch)
        predictions = result[0] if self._with_labels else result
        model_building.check_probabilities(
          predictions,
          self._model_flags["model"],
          models.are_exclusive(self._model_flags),
        )
        self._data.check_skipped()
        now = time.monotonic()
        progress = Progress(
          progress.num_examples + len(predictions),
          now - began,
          now - last_line > _LOG_SECONDS,
        )
        if progress.is_due:
          last_line = now
        yield batch, result, progress
    # Once more: the last batches may have been left out as a whole.
    self._data.check_skipped()
    self._data.skipped.write_over()
    self._data.skipped.log()


def predicted_batches(forward: ForwardPass):
  """Predicts all examples and logs the progress.

  Yields:
    (batch of readers.py, predictions (batch, classes) array).

  Raises:
    errors.UserError: a prediction is not finite, or a record is bad.
  """
  progress = None
  for batch, predictions, progress in forward.run():
    _check_finite(predictions, batch["video_ids"].numpy())
    yield batch, predictions
    if progress.is_due:
      _log_progress(progress)
  if progress and not progress.is_due:  # else it was logged already
    _log_progress(progress)


def _log_progress(progress) -> None:
  logging.info(
    "num examples processed: %d elapsed seconds: %.1f examples/sec: %.2f",
    progress.num_examples,
    progress.seconds,
    progress.rate,
  )


def _check_finite(values, video_ids) -> None:
  """Refuses predictions that are not finite.

  Raises:
    errors.UserError: names the video.
  """
  rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
  if len(rows):
    raise errors.UserError(
      "Expected probabilities, received NaN for the video"
      f" {csv_cells.to_text(video_ids[rows[0]])}: training diverged, or the"
      " video's features are not finite. Train again with a smaller learning"
      " rate, or fix the record."
    )
