"""Scores a trained model: python eval.py [--run_once].

Rebuilds the model from model_flags.json in --train_dir and scores its
checkpoints on labeled videos: the newest with --run_once, else each new one
as training writes it. Scores go to the log, to TensorBoard and to
metrics-<step>.json, both in --train_dir's folder eval; scores of each class to
metrics-by-class-<step>.csv, if --metrics asks for some.
"""

import functools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import eval_util
import losses
import models
import program_flags
import requested_metrics
import train
from data_tools import vocabulary
from engine import distribution, skipped, unlikely_flags
from engine import files as files_in_place
from engine import train_dir as train_dirs
from engine.data import Data
from engine.data_files import find_files
from engine.forward import ForwardPass
from engine.requested_scores import NO_REQUEST, Request, write_by_class
from requested_metrics import RequestedMetric

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
  data.string(
    "threshold_data_pattern",
    "",
    "Like --eval_data_pattern, the other files on which --metrics=best_f1"
    " chooses its threshold.",
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
  output.string(
    "metrics",
    "",
    "Metrics besides the usual ones, separated by commas:"
    f" {', '.join(requested_metrics.names())}; see docs/metrics.md. Empty:"
    " none, but accuracy with a model of exclusive classes.",
  )
  program_flags.define_device_flags(flag_values)


def accept_flags() -> None:
  """Accepts the flags of train.py that have no effect here."""
  program_flags.accept_flags_of(train.define_flags)


# --------------------------------------------------------------------------
# Scores of a checkpoint


def score_checkpoint(
  checkpoint: str,
  forward: ForwardPass,
  num_classes: int,
  top_k: int,
  request: Request = NO_REQUEST,
) -> tuple[dict, dict]:
  """Scores a checkpoint on every example once.

  Args:
    checkpoint: path without its file endings.
    forward: over labeled examples, with a loss.
    num_classes: of the model.
    top_k: best predictions of each video that GAP ranks.
    request: what else to compute.

  Returns:
    global_step, num_examples, avg_loss, a score for each of eval_util.METRICS
    by its key, examples_per_second, and requested scores by their keys; and
    those by class, see RequestedScores.compute.

  Raises:
    errors.UserError: a record is not as the flags say; a prediction is not
      finite; there are no examples.
  """
  forward.load_weights(checkpoint)
  step = train_dirs.checkpoint_step(checkpoint)
  metrics = eval_util.EvaluationMetrics(num_classes, top_k)
  progress = None
  with request.start(num_classes) as requested:
    try:
      for batch, (predictions, video_losses), progress in forward.run():
        labels, weights = batch["labels"].numpy(), batch.get("label_weights")
        if weights is not None:
          weights = weights.numpy()
        scores = metrics.accumulate(predictions, labels, video_losses, weights)
        requested.accumulate(predictions, labels, weights)
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
    more, by_class = requested.compute()
  return {
    "global_step": step,
    "num_examples": progress.num_examples,
    **metrics.scores(),
    **more,
    "examples_per_second": progress.rate,
  }, by_class


def report(
  scores: dict,
  eval_dir: str,
  writer,
  segment_labels: bool,
  metrics: Sequence[RequestedMetric] = (),
) -> None:
  """Writes scores to metrics-<step>.json, to TensorBoard and to the log.

  Args:
    scores: of score_checkpoint.
    eval_dir: folder of the JSON file.
    writer: a tf.summary writer.
    segment_labels: whether segments were scored.
    metrics: those that were requested.
  """
  step = scores["global_step"]
  scope = "SegEval" if segment_labels else "Eval"
  requested = {metric.key: scores[metric.key] for metric in metrics}
  # JSON has neither NaN nor infinity.
  unknown = {
    key: None for key, value in requested.items() if not math.isfinite(value)
  }
  files_in_place.write_json(
    _path(eval_dir, "metrics", scores, "json", segment_labels),
    {**scores, **unknown},
  )
  tags = eval_util.evaluation_tags(scope)
  for metric in metrics:
    if metric.key not in unknown:
      tags[f"Epoch/{scope}_{metric.tag}"] = metric.key
  with writer.as_default(step=step):
    for tag, name in tags.items():
      tf.summary.scalar(tag, scores[name])
  writer.flush()
  if requested:
    listed = [f"{key}: {value:.4g}" for key, value in requested.items()]
    logging.info("epoch/requested number %d | %s", step, " | ".join(listed))
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


def _path(eval_dir, name, scores, ending, segment_labels) -> str:
  """The path of a file with the scores of a checkpoint."""
  prefix = "segment-" if segment_labels else ""
  file = f"{prefix}{name}-{scores['global_step']}.{ending}"
  return os.path.join(eval_dir, file)


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


def _score_each(train_dir, *given) -> Iterator[tuple[dict, dict]]:
  """Scores the newest checkpoint, then each new one, without an end.

  Args:
    train_dir: folder of the run.
    *given: what score_checkpoint takes after the checkpoint.

  Yields:
    Results of score_checkpoint.
  """
  scored = None
  while True:
    checkpoint = train_dirs.latest_checkpoint(train_dir)
    if checkpoint is None or checkpoint == scored:
      time.sleep(_POLL_SECONDS)
      continue
    try:
      result = score_checkpoint(checkpoint, *given)
    except tf.errors.NotFoundError:
      # Training deleted it between its name and its weights; there is a newer
      # one, unless the files were deleted by hand.
      if checkpoint == train_dirs.latest_checkpoint(train_dir):
        raise
      continue
    yield result
    if scored is None:
      _say_that_it_waits(train_dir)
    scored = checkpoint


def find_requested(
  metrics: str, has_threshold_data: bool, model_flags: dict
) -> tuple[RequestedMetric, ...]:
  """Finds what --metrics and the model ask for.

  Args:
    metrics: see --metrics.
    has_threshold_data: whether there are files that choose a threshold.
    model_flags: of the model; those of exclusive classes always have their
      accuracy.

  Raises:
    errors.UserError: there is no such metric, or files are missing.
  """
  always = ("accuracy",) if models.are_exclusive(model_flags) else ()
  wanted = requested_metrics.find_metrics(metrics, always)
  if requested_metrics.needs_threshold(wanted) and not has_threshold_data:
    raise errors.UserError(
      f"Expected --threshold_data_pattern with --metrics={metrics}, received"
      " none. The best threshold is chosen on other files than those that are"
      " scored: name labeled ones, such as validate0*.tfrecord."
    )
  return wanted


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
  metrics: str = "",
  threshold_files: list[str] | None = None,
  class_names: Mapping[int, str] | None = None,
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
    metrics: see --metrics.
    threshold_files: labeled TFRecord files that choose the best threshold; None
      for metrics without it.
    class_names: of class indices, for the scores by class; None for no names.

  Returns:
    The last scores, the first result of score_checkpoint.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  wait_for_checkpoint(train_dir, run_once)
  model_flags = train_dirs.require_model_flags(train_dir, feature_ranges)
  eval_dir = os.path.join(train_dir, train_dirs.EVAL_DIR)
  wanted = find_requested(metrics, bool(threshold_files), model_flags)
  open_data = functools.partial(
    Data,
    model_flags,
    with_labels=True,
    segment_labels=segment_labels,
    for_trained=True,
    min_frames=min_frames,
  )
  forward = ForwardPass(
    model_flags,
    open_data(files, policy=policy.listing_in(eval_dir)),
    placement or distribution.Placement(),
    batch_size=batch_size,
    num_readers=num_readers,
    loss=_loss_of(model_flags),
  )
  request = Request(wanted)
  if threshold_files:
    other_data = open_data(threshold_files, policy=policy)
    other = forward.over(other_data, "threshold_data_pattern")
    request = Request(wanted, other)
  classes = models.output_classes(model_flags)
  results = _score_each(train_dir, forward, len(classes), top_k, request)
  writer = tf.summary.create_file_writer(eval_dir)
  while True:
    scores, by_class = next(results)
    if by_class:
      path = _path(eval_dir, "metrics-by-class", scores, "csv", segment_labels)
      write_by_class(path, by_class, classes, class_names or {})
    report(scores, eval_dir, writer, segment_labels, wanted)
    if run_once:
      writer.close()
      return scores


def _find_threshold_files(files: list[str]) -> list[str]:
  """The files of --threshold_data_pattern.

  Args:
    files: those that are scored.

  Raises:
    errors.UserError: there are none, or some are scored too.
  """
  if not FLAGS.threshold_data_pattern:
    return []
  if not requested_metrics.needs_threshold(
    requested_metrics.find_metrics(FLAGS.metrics)
  ):
    logging.info(
      "No effect without --metrics=best_f1: --threshold_data_pattern."
    )
    return []
  found = find_files(FLAGS.threshold_data_pattern, "threshold_data_pattern")
  scored = set(map(os.path.realpath, files))
  in_both = [file for file in found if os.path.realpath(file) in scored]
  if in_both:
    raise errors.UserError(
      "Expected other files as --threshold_data_pattern than as"
      f" --eval_data_pattern, received {len(in_both)} as both, such as"
      f" {in_both[0]}. A threshold that is chosen on the scored files flatters"
      " the score: divide the files between the two."
    )
  return found


def _read_class_names(files: list[str], model_flags: dict) -> dict[int, str]:
  """The names of classes that the model keeps, else those of the data.

  Args:
    files: that are scored.
    model_flags: of the model.

  Returns:
    {class index: name}; empty if they are not known or not needed.
  """
  if not find_requested(FLAGS.metrics, True, model_flags):
    return {}
  path = train_dirs.find_vocabulary(
    FLAGS.train_dir
  ) or vocabulary.find_vocabulary(files, model_flags["num_classes"])
  return vocabulary.read_names(path) if path else {}


def main() -> None:
  """Turns the flags into a call of evaluate."""
  find_requested(FLAGS.metrics, bool(FLAGS.threshold_data_pattern), {})
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
  threshold_files = _find_threshold_files(files)
  if threshold_files:
    unlikely_flags.warn_of_other_ranges(threshold_files, model_flags)
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
    metrics=FLAGS.metrics,
    threshold_files=threshold_files,
    class_names=_read_class_names(files, model_flags),
  )


if __name__ == "__main__":
  define_flags()
  accept_flags()
  startup.run(main)
