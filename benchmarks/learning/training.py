"""Trains models by their command lines, and scores what they have learned."""

import contextlib
import dataclasses
import gc
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from absl.testing import flagsaver

import command_line
import eval_util
import models
import train
from benchmarks.learning import tasks
from data_tools import label_frequencies
from engine.checkpoints import checkpoint_step, load_weights, require_checkpoint
from engine.data import Data
from engine.model_flags import require_model_flags


@dataclasses.dataclass
class Trained:
  """A trained model's predictions of the test split, sorted by video id.

  Attributes:
    predictions: (videos, classes) probabilities.
    labels: likewise, of booleans.
    steps: of training.
    seconds: of training, including what is built and saved.
    facts: what was read from its folder, by name.
  """

  predictions: np.ndarray
  labels: np.ndarray
  steps: int
  seconds: float
  facts: dict[str, float]

  def accuracy(self) -> float:
    """How often the most probable class is a label."""
    best = np.argmax(self.predictions, axis=1)
    return float(np.mean(self.labels[np.arange(len(best)), best]))

  def gap(self, videos: slice | np.ndarray = slice(None)) -> float:
    """GAP@20 on some of the videos."""
    return float(
      eval_util.calculate_gap(self.predictions[videos], self.labels[videos])
    )

  def mean_average_precision(self) -> float:
    """MAP over all classes that a video has, with all predictions."""
    shown = self.labels.any(axis=0)
    order = np.argsort(-self.predictions[:, shown], axis=0, kind="stable")
    hits = np.take_along_axis(self.labels[:, shown], order, axis=0)
    ranks = np.arange(1, len(hits) + 1)[:, None]
    precisions = np.cumsum(hits, axis=0) / ranks
    return float(np.mean((precisions * hits).sum(0) / hits.sum(0)))

  def calibration(self) -> dict[str, float]:
    """Labels a video has by the sum of its probabilities, and has."""
    return {
      "labels predicted": float(self.predictions.sum(axis=1).mean()),
      "labels": float(self.labels.sum(axis=1).mean()),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides the logs of a training; errors are raised, not logged."""
  verbosity, level = logging.get_verbosity(), tf.get_logger().level
  logging.set_verbosity(logging.ERROR)
  tf.get_logger().setLevel("ERROR")
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
    tf.get_logger().setLevel(level)


def train_by_flags(flags: Sequence[str]) -> None:
  """Does what `python train.py` does, in this process.

  A process of its own would take some seconds more, to import TensorFlow.

  Raises:
    errors.UserError: see train.py; a flag is unknown or has an invalid value.
  """
  with flagsaver.flagsaver(), _quiet():  # removes new flags at the end
    train.define_flags()
    command_line.parse_flags(train.main, ["train.py", *flags])
    train.main()


def _predict(train_dir: str, data: tasks.DataSet) -> dict[bytes, tuple]:
  """(predictions, labels) of each video of the test split, by its id."""
  model_flags = require_model_flags(train_dir)
  test_data = Data(model_flags, data.files(data.test_split), with_labels=True)
  graph = models.build_model(model_flags, test_data.reader.quantized)
  load_weights(graph, require_checkpoint(train_dir))

  @tf.function(reduce_retracing=True, autograph=False)
  def predict(video_matrix, num_frames):
    inputs = {"video_matrix": video_matrix, "num_frames": num_frames}
    return graph(inputs, training=False)["predictions"]

  found = {}
  for batch in test_data.evaluation_batches(batch_size=64):
    predictions = predict(batch["video_matrix"], batch["num_frames"]).numpy()
    if not np.isfinite(predictions).all():
      raise ValueError("Expected finite predictions, received others.")
    ids, labels = batch["video_ids"].numpy(), batch["labels"].numpy()
    found.update(zip(ids, zip(predictions, labels, strict=True), strict=True))
  return found


def train_and_predict(
  train_dir: Path,
  data: tasks.DataSet,
  command: Sequence[str],
  flags: Sequence[str] = (),
  facts: Callable[[Path], dict[str, float]] | None = None,
) -> Trained:
  """Trains a model and predicts the test split.

  Args:
    train_dir: for the run; it must not exist, and is removed.
    data: to train on and to predict.
    command: flags of train.py that name the model. Those that describe the data
      win over them.
    flags: win over both.
    facts: reads more from the train_dir before it is removed.
  """
  began = time.monotonic()
  train_by_flags(
    [
      *command,
      f"--train_dir={train_dir}",
      f"--train_data_pattern={data.pattern('train')}",
      *data.flags,
      *flags,
    ]
  )
  seconds = time.monotonic() - began
  with _quiet():
    found = _predict(str(train_dir), data)
  checkpoint = require_checkpoint(str(train_dir))
  trained = Trained(
    predictions=np.array([found[video][0] for video in sorted(found)]),
    labels=np.array([found[video][1] for video in sorted(found)]),
    steps=checkpoint_step(checkpoint),
    seconds=seconds,
    facts=facts(train_dir) if facts else {},
  )
  # With the optimizer's slots a large model takes gigabytes.
  shutil.rmtree(train_dir)
  keras.backend.clear_session()
  gc.collect()
  return trained


def pair_accuracies(trained: Trained) -> dict[str, tuple[float, float]]:
  """What a model has learned of tasks.make_pairs.

  Returns:
    For "order" and "sound": how often the correct class of the pair is the more
    probable one, and GAP.
  """
  found = {}
  pairs = np.argmax(trained.labels, axis=1) // 2
  for task in ("order", "sound"):
    videos = (pairs < tasks.NUM_PAIRS) == (task == "order")
    of_pair = 2 * pairs[videos, None] + np.arange(2)
    likely = np.take_along_axis(trained.predictions[videos], of_pair, axis=1)
    true = np.argmax(trained.labels[videos], axis=1) % 2
    index = np.arange(len(true))
    # The twins of a pair may get the very same prediction: half a point.
    ahead = likely[index, true] - likely[index, 1 - true]
    accuracy = np.mean((ahead > 0) + 0.5 * (ahead == 0))
    found[task] = float(accuracy), trained.gap(videos)
  return found


def frequencies_gap(data: tasks.DataSet) -> float:
  """GAP of only label frequencies."""
  return label_frequencies.score_label_frequencies(
    data.files("train"), data.files(data.test_split), data.num_classes
  )["gap"]
