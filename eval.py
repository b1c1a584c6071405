"""Scores a trained model: python eval.py [--run_once].

Rebuilds the model from model_flags.json in --train_dir and scores its
checkpoints on labelled videos: the newest with --run_once, else each new one
as training writes it. Scores go to the log, to TensorBoard and to
metrics-<step>.json, both in --train_dir's folder eval.
"""

import os
import time

import startup  # isort: skip
import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging

import distribution
import errors
import eval_util
import losses
import models
import readers
import train_dir as train_dirs
from data_tools import sample_data

FLAGS = flags.FLAGS

_POLL_SECONDS = 2.0


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  flags.DEFINE_string(
    "eval_data_pattern",
    "",
    "Glob pattern of the TFRecord files, several with commas between; empty:"
    " the built-in sample data.",
  )
  flags.DEFINE_bool(
    "segment_labels", False, "Score the rated 5 s segments of the videos."
  )
  flags.DEFINE_integer("batch_size", 1024, "Videos a step.", lower_bound=1)
  flags.DEFINE_integer(
    "num_readers", 8, "Files read at the same time.", lower_bound=1
  )
  flags.DEFINE_bool(
    "run_once",
    False,
    "Score the newest checkpoint and end; False: wait for new ones.",
  )
  flags.DEFINE_integer(
    "top_k", 20, "Best predictions of each video that GAP ranks.", lower_bound=1
  )


def make_score_batch(
  model: keras.Model, loss: losses.BaseLoss, placement, with_xla: bool
):
  """Compiles the forward pass and the loss of each video.

  Args:
    model: as from models.build_model.
    loss: of each video.
    placement: a distribution.Placement.
    with_xla: whether XLA shall compile it, on a single device.

  Returns:
    A function from the numeric part of a batch to predictions (batch, classes)
    and losses (batch,).
  """

  def score(batch):
    predictions = model(
      {name: batch[name] for name in ("video_matrix", "num_frames")},
      training=False,
    )["predictions"]
    video_losses = loss.per_video_loss(
      predictions, batch["labels"], batch.get("label_weights")
    )
    return predictions, video_losses

  return placement.compile_forward(score, with_xla)


class Evaluation:
  """Scores checkpoints of one model on one set of files.

  Args:
    model_flags: see train_dir.py.
    files: labelled TFRecord files.
    batch_size: videos a step.
    segment_labels: score rated segments.
    num_readers: files read at the same time.
    top_k: best predictions of each video that GAP ranks.
    placement: a distribution.Placement; None for one device.
  """

  def __init__(
    self,
    model_flags: dict,
    files: list[str],
    *,
    batch_size: int = 1024,
    segment_labels: bool = False,
    num_readers: int = 8,
    top_k: int = 20,
    placement: distribution.Placement | None = None,
  ):
    placement = placement or distribution.Placement()
    self._files = files
    self._reader = readers.open_reader(model_flags, files, True, segment_labels)
    self._batches = readers.evaluation_batches(
      self._reader, files, batch_size, True, num_readers
    )
    with placement.strategy.scope():
      self._model = models.build_model(model_flags, self._reader.quantized)
    self._metrics = eval_util.EvaluationMetrics(
      model_flags["num_classes"], top_k
    )
    self._score_batch = make_score_batch(
      self._model,
      losses.find_class_by_name(model_flags["label_loss"])(),
      placement,
      models.compiles_predictions(model_flags),
    )

  def score(self, checkpoint: str) -> dict:
    """Scores a checkpoint on every example once.

    Args:
      checkpoint: path without its file endings.

    Returns:
      global_step, num_examples, avg_hit_at_one, avg_perr, avg_loss, map, gap,
      examples_per_second.

    Raises:
      errors.UserError: a record is not as the flags say; the model's
        predictions are no numbers.
    """
    train_dirs.load_weights(self._model, checkpoint)
    step = train_dirs.checkpoint_step(checkpoint)
    self._metrics.clear()
    num_examples = 0
    began = last_line = time.monotonic()
    try:
      for batch in self._batches:
        predictions, video_losses = self._score_batch(
          readers.numeric_part(batch)
        )
        weights = batch.get("label_weights")
        scores = self._metrics.accumulate(
          predictions.numpy(),
          batch["labels"].numpy(),
          video_losses.numpy(),
          None if weights is None else weights.numpy(),
        )
        num_examples += len(video_losses)
        now = time.monotonic()
        if now - last_line > 5.0:
          logging.info(
            "examples_processed: %d | global_step %d | Batch Hit@1: %.3f |"
            " Batch PERR: %.3f | Batch Loss: %.3f | Examples_per_sec: %.3f",
            num_examples,
            step,
            scores["hit_at_one"],
            scores["perr"],
            scores["loss"],
            num_examples / (now - began),
          )
          last_line = now
    except readers.READ_ERRORS:
      readers.raise_for_bad_record(self._reader, self._files, True)
      raise
    except ValueError as error:
      raise errors.UserError(f"Scoring {checkpoint} failed: {error}") from error
    if not num_examples:
      raise errors.UserError(
        f"Expected examples in {self._files[0]} and the files after it, found"
        " none. With --segment_labels, records need rated segments."
      )
    found = self._metrics.get()
    average_precisions = found["aps"]
    return {
      "global_step": step,
      "num_examples": num_examples,
      "avg_hit_at_one": float(found["avg_hit_at_one"]),
      "avg_perr": float(found["avg_perr"]),
      "avg_loss": float(found["avg_loss"]),
      "map": float(np.mean(average_precisions)) if average_precisions else 0.0,
      "gap": float(found["gap"]),
      "examples_per_second": num_examples / (time.monotonic() - began),
    }


def report(scores: dict, eval_dir: str, writer, segment_labels: bool) -> None:
  """Writes scores to metrics-<step>.json, to TensorBoard and to the log.

  Args:
    scores: as from Evaluation.score.
    eval_dir: folder of the JSON file.
    writer: a tf.summary writer.
    segment_labels: whether segments were scored.
  """
  step = scores["global_step"]
  scope = "SegEval" if segment_labels else "Eval"
  train_dirs.write_json(
    os.path.join(
      eval_dir,
      f"{'segment-' if segment_labels else ''}metrics-{step}.json",
    ),
    scores,
  )
  tags = {
    "GlobalStep/{}_Hit@1": "avg_hit_at_one",
    "GlobalStep/{}_Perr": "avg_perr",
    "GlobalStep/{}_Loss": "avg_loss",
    "GlobalStep/{}_Example_Second": "examples_per_second",
    "Epoch/{}_Avg_Hit@1": "avg_hit_at_one",
    "Epoch/{}_Avg_Perr": "avg_perr",
    "Epoch/{}_Avg_Loss": "avg_loss",
    "Epoch/{}_MAP": "map",
    "Epoch/{}_GAP": "gap",
  }
  with writer.as_default(step=step):
    for tag, name in tags.items():
      tf.summary.scalar(tag.format(scope), scores[name])
  writer.flush()
  # Last: whoever waits for this line finds the rest written.
  logging.info(
    "epoch/eval number %d | Avg_Hit@1: %.3f | Avg_PERR: %.3f | MAP: %.3f |"
    " GAP: %.3f | Avg_Loss: %.3f",
    step,
    scores["avg_hit_at_one"],
    scores["avg_perr"],
    scores["map"],
    scores["gap"],
    scores["avg_loss"],
  )


def wait_for_checkpoint(train_dir: str, run_once: bool) -> None:
  """Waits until training has saved a checkpoint; with run_once it must have.

  Raises:
    errors.UserError: there is none, with run_once.
  """
  if run_once:
    train_dirs.require_checkpoint(train_dir)
  elif train_dirs.latest_checkpoint(train_dir) is None:
    logging.info("Waiting for a checkpoint in %s.", train_dir)
    while train_dirs.latest_checkpoint(train_dir) is None:
      time.sleep(_POLL_SECONDS)


def evaluate(
  train_dir: str,
  files: list[str],
  *,
  run_once: bool = True,
  segment_labels: bool = False,
  **settings,
) -> dict:
  """Scores the newest checkpoint, or each new one as it appears.

  Args:
    train_dir: folder of the run.
    files: labelled TFRecord files.
    run_once: score one checkpoint and end; else go on until interrupted.
    segment_labels: score rated segments.
    **settings: batch_size, num_readers, top_k and placement, see Evaluation.

  Returns:
    The last scores, see Evaluation.score.

  Raises:
    errors.UserError: for all that the user can mend.
  """
  wait_for_checkpoint(train_dir, run_once)
  evaluation = Evaluation(
    train_dirs.require_model_flags(train_dir),
    files,
    segment_labels=segment_labels,
    **settings,
  )
  eval_dir = os.path.join(train_dir, train_dirs.EVAL_DIR)
  writer = tf.summary.create_file_writer(eval_dir)
  scored = None
  while True:
    checkpoint = train_dirs.latest_checkpoint(train_dir)
    if checkpoint is None or checkpoint == scored:
      time.sleep(_POLL_SECONDS)
      continue
    try:
      scores = evaluation.score(checkpoint)
    except tf.errors.NotFoundError:
      # Training deleted it between its name and its weights; there is a newer
      # one, unless the files were deleted by hand.
      if checkpoint == train_dirs.latest_checkpoint(train_dir):
        raise
      continue
    report(scores, eval_dir, writer, segment_labels)
    scored = checkpoint
    if run_once:
      writer.close()
      return scores


def main() -> None:
  """Turns the flags into a call of evaluate."""
  wait_for_checkpoint(FLAGS.train_dir, FLAGS.run_once)
  pattern = FLAGS.eval_data_pattern
  if not pattern:
    model_flags = train_dirs.require_model_flags(FLAGS.train_dir)
    pattern = sample_data.pattern_or_sample_data(
      pattern, "validate", model_flags["frame_features"]
    )
  logging.info("Scoring the model in %s on %s", FLAGS.train_dir, pattern)
  evaluate(
    FLAGS.train_dir,
    readers.find_files(pattern, "eval_data_pattern"),
    run_once=FLAGS.run_once,
    segment_labels=FLAGS.segment_labels,
    batch_size=FLAGS.batch_size,
    num_readers=FLAGS.num_readers,
    top_k=FLAGS.top_k,
    placement=distribution.choose("", None),
  )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
