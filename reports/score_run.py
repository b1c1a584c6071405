"""Scores a run for a comparison: python -m reports.score_run --train_dir=DIR.

Writes to --output_dir what reports.compare_models needs of a run: the scores
and the cost of predictions (scores.json), and the best predictions of each
video (predictions.npz). compare_models calls it in a process of its own.
"""

import os
import statistics
import time

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags, logging

import errors
import eval_util
import losses
import models
import program_flags
from engine import distribution
from engine import train_dir as train_dirs
from engine.checkpoints import checkpoint_step, load_weights, require_checkpoint
from engine.data import Data
from engine.data_files import find_files, hash_of_files
from engine.export import Exporter
from engine.files import size_of, write_json, written_aside
from engine.forward import ForwardPass
from engine.model_flags import kinds_of_training_data, require_model_flags
from reports.calibration import Calibration

FLAGS = flags.FLAGS

SCORES_FILE = "scores.json"
PREDICTIONS_FILE = "predictions.npz"
TOP_K = 20

_BATCH_SIZE = 128
# Batches whose speed is measured. Each shape is compiled, which takes longer
# than the measurement.
_BATCH_SIZES = (1, 8, 32, 128, 512)
_REPEATS = 5
_SECONDS_A_SIZE = 2.0
# A larger batch that is not faster by this ends the search.
_WORTHWHILE = 1.05


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "eval_data_pattern",
    "",
    "Glob pattern of the labeled TFRecord files, or several separated by"
    " commas; required.",
  )
  program_flags.define_min_frames(flag_values)
  program_flags.Subject(program_flags.MODEL, flag_values).string(
    "train_dir", "", "Folder with the trained model; required."
  )
  program_flags.Subject(program_flags.OUTPUT, flag_values).string(
    "output_dir", "", "Folder for the two files; required."
  )
  program_flags.define_device_flags(flag_values)


# --------------------------------------------------------------------------
# Scores


class _Kept:
  """Each video's best predictions and its labels, as they come."""

  def __init__(self):
    self._parts = []
    self._rows, self._classes = [], []
    self._num_videos = 0

  def add(self, video_ids, predictions, labels):
    classes, confidences = eval_util.top_k_classes(predictions, TOP_K)
    hits = np.take_along_axis(labels, classes, axis=1) > 0
    self._parts.append((video_ids, classes.astype(np.int32), confidences, hits))
    rows, of_labels = np.nonzero(labels)
    self._rows.append((rows + self._num_videos).astype(np.int64))
    self._classes.append(of_labels.astype(np.int32))
    self._num_videos += len(predictions)

  def arrays(self) -> dict[str, np.ndarray]:
    """What predictions.npz holds; see score_run."""
    ids, classes, confidences, hits = (
      np.concatenate(part) for part in zip(*self._parts, strict=True)
    )
    return {
      "video_ids": ids.astype("S"),
      "class_indexes": classes,
      "confidences": confidences.astype(np.float32),
      "hits": hits,
      "label_rows": np.concatenate(self._rows),
      "label_classes": np.concatenate(self._classes),
    }


def _score(forward: ForwardPass, num_classes: int) -> tuple[dict, dict]:
  """Scores every video once.

  Returns:
    The scores, and the arrays of predictions.npz.

  Raises:
    errors.UserError: see ForwardPass.run; there are no videos.
  """
  metrics = eval_util.EvaluationMetrics(num_classes, TOP_K)
  of_all, of_best = Calibration(), Calibration()
  kept = _Kept()
  progress = None
  for batch, (predictions, video_losses), progress in forward.run():
    labels = batch["labels"].numpy()
    metrics.accumulate(predictions, labels, video_losses)
    of_all.add(predictions, labels)
    best = np.argmax(predictions, axis=1)[:, np.newaxis]
    of_best.add(
      *(np.take_along_axis(of, best, 1) for of in (predictions, labels))
    )
    kept.add(batch["video_ids"].numpy(), predictions, labels)
    if progress.is_due:
      logging.info(
        "Scored %d videos, %.0f a second",
        progress.num_examples,
        progress.rate,
      )
  if progress is None:
    raise errors.UserError(
      "Expected videos in the files of --eval_data_pattern, received none."
      " Name labeled files."
    )
  return {
    "num_videos": progress.num_examples,
    **metrics.scores(),
    "calibration": of_all.as_json(),
    "calibration_of_best": of_best.as_json(),
  }, kept.arrays()


# --------------------------------------------------------------------------
# Cost


def _seconds_a_batch(forward: ForwardPass, batch: dict) -> float:
  """The median time from a batch in memory to its predictions."""
  forward.compute(batch)  # compiles
  seconds = []
  began = time.perf_counter()
  while len(seconds) < _REPEATS or (
    len(seconds) < 10 * _REPEATS
    and time.perf_counter() - began < _SECONDS_A_SIZE
  ):
    before = time.perf_counter()
    forward.compute(batch)
    seconds.append(time.perf_counter() - before)
  return statistics.median(seconds)


def measure_speed(forward: ForwardPass, data: Data) -> dict:
  """Measures predictions from batches in memory, without reading.

  Args:
    forward: without a loss, with its weights.
    data: whose first videos are predicted, repeated if they are few.

  Returns:
    latency_seconds of the first video alone; videos_per_second and batch_size
    of the fastest batch; rates {batch size: videos/s}.
  """
  single = next(iter(data.evaluation_batches(1)))
  many = next(iter(data.evaluation_batches(max(_BATCH_SIZES))))
  count = len(many["video_ids"])
  rates, latency = {}, 0.0
  for size in _BATCH_SIZES:
    batch = single
    if size > 1:
      rows = np.arange(size) % count
      batch = {name: tf.gather(value, rows) for name, value in many.items()}
    try:
      seconds = _seconds_a_batch(forward, batch)
    except tf.errors.ResourceExhaustedError:  # more than the device holds
      break
    latency = latency or seconds
    best = max(rates.values(), default=0.0)
    rates[size] = size / seconds
    if rates[size] < _WORTHWHILE * best:
      break
  fastest = max(rates, key=lambda size: rates[size])
  return {
    "latency_seconds": latency,
    "videos_per_second": rates[fastest],
    "batch_size": fastest,
    "rates": {str(size): rate for size, rate in rates.items()},
  }


def export_bytes(train_dir: str, checkpoint: str, model_flags: dict) -> int:
  """The size of the SavedModel of a checkpoint, which training has written.

  It is exported if it is not there.
  """
  step = checkpoint_step(checkpoint)
  folder = os.path.join(train_dir, train_dirs.EXPORT_DIR, f"step_{step}")
  if not tf.io.gfile.isdir(folder):
    kinds = kinds_of_training_data(model_flags)
    vocabulary = train_dirs.find_vocabulary(train_dir)
    exporter = Exporter(model_flags, kinds, vocabulary)
    load_weights(exporter.model, checkpoint)
    exporter.save(folder)
  return size_of(folder)


# --------------------------------------------------------------------------
# The program


def score_run(
  train_dir: str,
  files: list[str],
  output_dir: str,
  min_frames: int = 0,
  placement: distribution.Placement | None = None,
) -> dict:
  """Scores the newest checkpoint and writes the two files.

  predictions.npz has an entry for each video: video_ids (videos,) bytes;
  class_indexes (videos, k) int32, confidences (videos, k) float32 and hits
  (videos, k) bool, best first, k at most 20; and for each label label_rows,
  the place of its video, int64, and label_classes, int32. classes
  (classes,) int32 has the index of each class in the data, others are places in
  it. scores.json, written last, has num_videos, the
  scores of eval_util.METRICS and avg_loss by their keys, the sums of
  Calibration for all predictions and for the best of each video, parameters,
  export_bytes, what measure_speed returns, and about the files.

  Args:
    train_dir: folder of the run.
    files: labeled TFRecord files.
    output_dir: where to write.
    min_frames: shorter videos are left out; 0 for none.
    placement: where; None for one device.

  Returns:
    What scores.json holds.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  placement = placement or distribution.Placement()
  checkpoint = require_checkpoint(train_dir)
  model_flags = require_model_flags(train_dir)
  classes = models.output_classes(model_flags)
  given = {"for_trained": True, "min_frames": min_frames}
  data = Data(model_flags, files, with_labels=True, **given)
  forward = ForwardPass(
    model_flags,
    data,
    placement,
    batch_size=_BATCH_SIZE,
    loss=losses.make_loss(model_flags),
  )
  forward.load_weights(checkpoint)
  scores, arrays = _score(forward, len(classes))
  arrays["classes"] = np.array(classes, np.int32)
  del forward
  unlabeled = Data(model_flags, files, with_labels=False, **given)
  forward = ForwardPass(model_flags, unlabeled, placement, batch_size=1)
  forward.load_weights(checkpoint)
  logging.info("Measuring the speed of predictions.")
  scores |= {
    "step": checkpoint_step(checkpoint),
    "label_loss": model_flags["label_loss"],
    "num_classes": model_flags["num_classes"],
    "parameters": forward.num_parameters,
    "export_bytes": export_bytes(train_dir, checkpoint, model_flags),
    **measure_speed(forward, unlabeled),
    "eval_files": len(files),
    "eval_hash": hash_of_files(files, unlabeled.file_sizes),
  }
  os.makedirs(output_dir, exist_ok=True)
  path = os.path.join(output_dir, PREDICTIONS_FILE)
  with written_aside(path) as aside, open(aside, "wb") as file:
    np.savez(file, **arrays)
  write_json(os.path.join(output_dir, SCORES_FILE), scores)
  return scores


def main() -> None:
  """Turns the flags into a call of score_run."""
  for name in ("train_dir", "eval_data_pattern", "output_dir"):
    if not FLAGS[name].value:
      raise errors.UserError(f"Expected --{name}, received none. Name one.")
  scores = score_run(
    FLAGS.train_dir,
    find_files(FLAGS.eval_data_pattern, "eval_data_pattern"),
    FLAGS.output_dir,
    FLAGS.min_frames,
    distribution.choose("", FLAGS.num_gpu),
  )
  logging.info("GAP %.3f, mAP %.3f", scores["gap"], scores["map"])


if __name__ == "__main__":
  define_flags()
  startup.run(main)
