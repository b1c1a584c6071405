"""Scores a trained model: python eval.py [--run_once].

Rebuilds the model from model_flags.json in --train_dir and scores its
checkpoints on labeled videos: the newest with --run_once, else each new one
as training writes it. Scores go to the log, to TensorBoard and to
metrics-<step>.json, both in --train_dir's folder eval.
"""

import os
import time

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import eval_util
import losses
import models
import program_flags
import train
from engine import distribution, skipped, unlikely_flags
from engine import files as files_in_place
from engine import train_dir as train_dirs
from engine.data import Data
from engine.data_files import find_files
from engine.forward import ForwardPass

FLAGS = flags.FLAGS

_POLL_SECONDS = 2.0


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  program_flags.define_graph_flags(flag_values, trained=True)
  program_flags.define_dataset_dir(flag_values)
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "eval_data_pattern",
    "",
    "Glob pattern of the TFRecord files, or several separated by commas; empty:"
    " the built-in sample data.",
  )
  data.bool(
    "segment_labels", False, "Score the rated 5 s segments of the videos."
  )
  data.integer("batch_size", 1024, "Videos per step.", lower_bound=1)
  program_flags.define_min_frames(flag_values)
  program_flags.define_num_readers(flag_values)
  program_flags.define_skipping_flags(flag_values)
  program_flags.Subject(program_flags.MODEL, flag_values).string(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.bool(
    "run_once",
    False,
    "Score the newest checkpoint and end; False: wait for new ones.",
  )
  output.integer(
    "top_k", 20, "Best predictions of each video that GAP ranks.", lower_bound=1
  )
  program_flags.define_device_flags(flag_values)


def accept_flags() -> None:
  """Accepts the flags of train.py that have no effect here."""
  program_flags.accept_flags_of(train.define_flags)


# --------------------------------------------------------------------------
# Scores of a checkpoint


def score_checkpoint(
  forward: ForwardPass,
  checkpoint: str,
  num_classes: int,
  top_k: int,
) -> dict:
  """Scores a checkpoint on every example once.

  Args:
    forward: over labeled examples, with a loss.
    checkpoint: path without its file endings.
    num_classes: of the model.
    top_k: best predictions of each video that GAP ranks.

  Returns:
    global_step, num_examples, avg_loss, a score for each of eval_util.METRICS
    by its key, and examples_per_second.

  Raises:
    errors.UserError: a record is not as the flags say; a prediction is not
      finite; there are no examples.
  """
  forward.load_weights(checkpoint)
  step = train_dirs.checkpoint_step(checkpoint)
  metrics = eval_util.EvaluationMetrics(num_classes, top_k)
  progress = None
  try:
    for batch, (predictions, video_losses), progress in forward.run():
      weights = batch.get("label_weights")
      scores = metrics.accumulate(
        predictions,
        batch["labels"].numpy(),
        video_losses,
        None if weights is None else weights.numpy(),
      )
      if progress.is_due:
        logging.info(
          "examples_processed: %d | global_step %d | Batch Hit@1: %.3f |"
          " Batch PERR: %.3f | Batch Loss: %.3f | Examples_per_sec: %.3f",
          progress.num_examples,
          step,
          scores["hit_at_one"],
          scores["perr"],
          scores["loss"],
          progress.rate,
        )
  except ValueError as error:
    raise errors.UserError(f"Scoring {checkpoint} failed: {error}") from error
  if progress is None:
    raise errors.UserError(
      "Expected examples in the files of --eval_data_pattern, received none."
      " With --segment_labels, records need rated segments."
    )
  return {
    "global_step": step,
    "num_examples": progress.num_examples,
    **metrics.scores(),
    "examples_per_second": progress.rate,
  }


def report(scores: dict, eval_dir: str, writer, segment_labels: bool) -> None:
  """Writes scores to metrics-<step>.json, to TensorBoard and to the log.

  Args:
    scores: result of score_checkpoint.
    eval_dir: folder of the JSON file.
    writer: a tf.summary writer.
    segment_labels: whether segments were scored.
  """
  step = scores["global_step"]
  scope = "SegEval" if segment_labels else "Eval"
  files_in_place.write_json(
    os.path.join(
      eval_dir,
      f"{'segment-' if segment_labels else ''}metrics-{step}.json",
    ),
    scores,
  )
  with writer.as_default(step=step):
    for tag, name in eval_util.evaluation_tags(scope).items():
      tf.summary.scalar(tag, scores[name])
  writer.flush()
  # Last: when this line appears, the rest is written.
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


# --------------------------------------------------------------------------
# Checkpoints, one after the other


def wait_for_checkpoint(train_dir: str, run_once: bool) -> None:
  """Waits until training has saved a checkpoint; with run_once it must have.

  Raises:
    errors.UserError: there is none, with run_once.
  """
  if run_once:
    train_dirs.require_checkpoint(train_dir)
  elif train_dirs.latest_checkpoint(train_dir) is None:
    logging.info(
      "Waiting for train.py to save the first checkpoint in %s. Ctrl-C ends"
      " this program.",
      train_dir,
    )
    while train_dirs.latest_checkpoint(train_dir) is None:
      time.sleep(_POLL_SECONDS)


def _loss_of(model_flags: dict) -> losses.BaseLoss:
  """The loss of a model.

  Raises:
    errors.UserError: its class is gone.
  """
  try:
    return losses.make_loss(model_flags)
  except ValueError as error:
    raise errors.UserError(str(error)) from error


def _say_that_it_waits(train_dir: str) -> None:
  logging.info(
    "Waiting for train.py to save the next checkpoint in %s. Ctrl-C ends this"
    " program; --run_once scores one checkpoint.",
    train_dir,
  )


def evaluate(
  train_dir: str,
  files: list[str],
  *,
  run_once: bool = True,
  segment_labels: bool = False,
  batch_size: int = 1024,
  num_readers: int = 8,
  policy: skipped.Policy = skipped.STOP,
  top_k: int = 20,
  min_frames: int = 0,
  placement: distribution.Placement | None = None,
  feature_ranges: str | None = None,
) -> dict:
  """Scores the newest checkpoint, or each new one as it appears.

  Args:
    train_dir: folder of the run.
    files: labeled TFRecord files.
    run_once: score one checkpoint and end; else continue until interrupted.
    segment_labels: score rated segments.
    batch_size: videos per step.
    num_readers: threads that read.
    policy: what to do about records that cannot be used.
    top_k: best predictions of each video that GAP ranks.
    min_frames: shorter videos are left out; 0 for none.
    placement: where; None for one device.
    feature_ranges: of the files' bytes; None for those of the training data.

  Returns:
    The last scores, see score_checkpoint.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  wait_for_checkpoint(train_dir, run_once)
  model_flags = train_dirs.require_model_flags(train_dir, feature_ranges)
  eval_dir = os.path.join(train_dir, train_dirs.EVAL_DIR)
  forward = ForwardPass(
    model_flags,
    Data(
      model_flags,
      files,
      with_labels=True,
      segment_labels=segment_labels,
      for_trained=True,
      policy=policy.listing_in(eval_dir),
      min_frames=min_frames,
    ),
    placement or distribution.Placement(),
    batch_size=batch_size,
    num_readers=num_readers,
    loss=_loss_of(model_flags),
  )
  writer = tf.summary.create_file_writer(eval_dir)
  scored = None
  while True:
    checkpoint = train_dirs.latest_checkpoint(train_dir)
    if checkpoint is None or checkpoint == scored:
      time.sleep(_POLL_SECONDS)
      continue
    try:
      scores = score_checkpoint(
        forward, checkpoint, models.num_outputs(model_flags), top_k
      )
    except tf.errors.NotFoundError:
      # Training deleted it between its name and its weights; there is a newer
      # one, unless the files were deleted by hand.
      if checkpoint == train_dirs.latest_checkpoint(train_dir):
        raise
      continue
    report(scores, eval_dir, writer, segment_labels)
    if run_once:
      writer.close()
      return scores
    if scored is None:
      _say_that_it_waits(train_dir)
    scored = checkpoint


def main() -> None:
  """Turns the flags into a call of evaluate."""
  card = program_flags.apply_dataset_dir("validate", "eval_data_pattern")
  program_flags.log_flags_without_effect()
  wait_for_checkpoint(FLAGS.train_dir, FLAGS.run_once)
  model_flags = train_dirs.require_model_flags(FLAGS.train_dir)
  program_flags.check_typed_flags(
    model_flags, f"--train_dir={FLAGS.train_dir}", FLAGS.train_dir
  )
  pattern = program_flags.data_or_sample(
    "eval_data_pattern",
    "validate",
    model_flags["frame_features"],
    train_dirs.require_checkpoint(FLAGS.train_dir),
  )
  logging.info("Scoring the model in %s on %s", FLAGS.train_dir, pattern)
  files = find_files(pattern, "eval_data_pattern")
  ranges = program_flags.ranges_of_data(model_flags, card)
  if ranges is not None:
    model_flags["feature_ranges"] = ranges
  unlikely_flags.warn_of_other_ranges(files, model_flags)
  evaluate(
    FLAGS.train_dir,
    files,
    run_once=FLAGS.run_once,
    segment_labels=FLAGS.segment_labels,
    batch_size=FLAGS.batch_size,
    num_readers=FLAGS.num_readers,
    policy=skipped.Policy(FLAGS.skip_corrupt, FLAGS.max_corrupt_fraction),
    top_k=FLAGS.top_k,
    min_frames=FLAGS.min_frames,
    placement=distribution.choose("", FLAGS.num_gpu),
    feature_ranges=ranges,
  )


if __name__ == "__main__":
  define_flags()
  accept_flags()
  startup.run(main)
