"""Scores a trained model: python eval.py [--run_once | --all_checkpoints].

Rebuilds the model from model_flags.json in --train_dir and scores its
checkpoints on labeled videos: the newest with --run_once, all that are kept
with --all_checkpoints, else each new one as training writes it. Scores go to
the log, to TensorBoard and to metrics-<step>.json, both in --train_dir's folder
eval; scores of each class to metrics-by-class-<step>.csv, if --metrics asks for
some. The checkpoint with the best score is kept, see best.json.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import program_flags
import requested_metrics
import train
from data_tools import vocabulary
from engine import (
  best_checkpoint,
  distribution,
  scoring,
  skipped,
  unlikely_flags,
)
from engine import train_dir as train_dirs
from engine.checkpoints import (
  DamagedCheckpointError,
  latest_checkpoint,
  require_checkpoint,
)
from engine.data_files import find_files, is_local
from engine.model_flags import require_model_flags

FLAGS = flags.FLAGS

_POLL_SECONDS = 2.0
_SECONDS_BETWEEN_WARNINGS = 60


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
  data.integer(
    "batch_size",
    1024,
    "Videos per step.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  program_flags.define_min_frames(flag_values)
  program_flags.define_num_readers(flag_values)
  program_flags.define_skipping_flags(flag_values)
  program_flags.Subject(program_flags.MODEL, flag_values).path(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  program_flags.define_checkpoint(flag_values)
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.bool(
    "run_once",
    False,
    "Score the newest checkpoint and end; False: wait for new ones.",
  )
  output.bool(
    "all_checkpoints",
    False,
    "Score every kept checkpoint that these files, --top_k and --metrics have"
    " not scored yet, in the order of the steps, and end.",
  )
  output.integer(
    "top_k",
    20,
    "Best predictions of each video that GAP ranks.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  output.string(
    "metrics",
    "",
    "Metrics besides the usual ones, separated by commas:"
    f" {', '.join(requested_metrics.names())}; see docs/metrics.md. Empty:"
    " none, but accuracy with a model of exclusive classes.",
  )
  program_flags.define_best_metric(program_flags.OUTPUT, flag_values)
  program_flags.define_spreadsheet_safe(flag_values)
  program_flags.define_device_flags(flag_values)


def accept_flags() -> None:
  """Accepts the flags of train.py that have no effect here."""
  program_flags.accept_flags_of(train.define_flags)


# --------------------------------------------------------------------------
# Checkpoints, one after the other


def _find_newest(
  train_dir: str, known_damage: dict[str, str] | None = None
) -> str | None:
  """As latest_checkpoint, but waits while a remote folder does not answer."""
  while True:
    try:
      return latest_checkpoint(train_dir, known_damage)
    except tf.errors.OpError as error:
      if is_local(train_dir) or not errors.is_fault_of_machine(error):
        raise
      logging.log_every_n_seconds(
        logging.WARNING,
        "No answer of %s, trying again: %s",
        _SECONDS_BETWEEN_WARNINGS,
        train_dir,
        error.message.split("\n")[0],
      )
      time.sleep(_POLL_SECONDS)


def wait_for_checkpoint(train_dir: str, run_once: bool) -> None:
  """Waits until training has saved a checkpoint; with run_once it must have.

  Raises:
    errors.UserError: there is none, with run_once.
  """
  if run_once:
    require_checkpoint(train_dir)
  elif not _find_newest(train_dir):
    logging.info(
      "Waiting for train.py to save the first checkpoint in %s. Ctrl-C ends"
      " this program.",
      train_dir,
    )
    while not _find_newest(train_dir):
      time.sleep(_POLL_SECONDS)


def _say_that_it_waits(train_dir: str) -> None:
  logging.info(
    "Waiting for train.py to save the next checkpoint in %s. Ctrl-C ends this"
    " program; --run_once scores one checkpoint.",
    train_dir,
  )


def _score_one(evaluator: scoring.Evaluator, checkpoint: str) -> dict:
  """Scores a checkpoint, which may become the best one.

  But a choice by another metric or on other files stays: one score is none, and
  training or another eval.py may choose at the same time.
  """
  scores = evaluator.evaluate(checkpoint)
  evaluator.choose({checkpoint: scores}, replaces_others=False)
  return scores


def _score_each(train_dir: str, evaluator: scoring.Evaluator) -> Iterator[dict]:
  """Scores the newest checkpoint, then each new one, without an end.

  Args:
    train_dir: folder of the run.
    evaluator: of the run.

  Yields:
    The scores of each.
  """
  scored = None
  known_damage: dict[str, str] = {}
  while True:
    checkpoint = _find_newest(train_dir, known_damage)
    if checkpoint is None or checkpoint == scored:
      time.sleep(_POLL_SECONDS)
      continue
    try:
      scores = _score_one(evaluator, checkpoint)
    except DamagedCheckpointError as error:
      known_damage[checkpoint] = error.damage
      continue
    except tf.errors.NotFoundError:
      # Training deleted it between its name and its weights; there is another
      # one, unless the files were deleted by hand.
      if latest_checkpoint(train_dir) in (None, checkpoint):
        raise
      continue
    yield scores
    if scored is None:
      _say_that_it_waits(train_dir)
    scored = checkpoint


def _keeps_choice(train_dir: str, evaluator: scoring.Evaluator) -> bool:
  """Whether the best checkpoint stays because other files chose it; says so."""
  best = best_checkpoint.read_best(train_dir)
  if (
    best is None
    or best["files"] == evaluator.conditions["files"]
    or not tf.io.gfile.exists(f"{best['checkpoint']}.index")
  ):
    return False
  logging.warning(
    "The best checkpoint stays that of step %d: it was chosen by %s on other"
    " files, %s. To choose on these files, add --best_metric=%s.",
    best["step"],
    best["metric"],
    best["pattern"],
    evaluator.task.best_metric,
  )
  return True


def _score_all(
  train_dir: str, evaluator: scoring.Evaluator, replaces_best: bool
) -> dict:
  """Scores every kept checkpoint that has not been, in the order of the steps.

  Args:
    train_dir: folder of the run.
    evaluator: of the run.
    replaces_best: see evaluate.

  Returns:
    The scores of the last one.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  num_scored, num_known, scored = 0, 0, {}
  kept = best_checkpoint.kept_checkpoints(train_dir)
  for step, checkpoint in kept.items():
    try:
      scores = evaluator.recorded(checkpoint)
      if scores is None:
        scores = evaluator.evaluate(checkpoint)
        num_scored += 1
      else:
        evaluator.log(scores)
        num_known += 1
      scored[checkpoint] = scores
    except tf.errors.NotFoundError:
      logging.info("Step %d: training has deleted this checkpoint.", step)
    except DamagedCheckpointError as error:
      logging.warning("Step %d is not scored: %s.", step, error.damage)
  logging.info(
    "Scored %d of the %d kept checkpoints in %s; %d had been scored before.",
    num_scored,
    len(kept),
    train_dir,
    num_known,
  )
  if replaces_best or not _keeps_choice(train_dir, evaluator):
    evaluator.choose(scored)
  return next(reversed(scored.values()), {})


def evaluate(
  train_dir: str,
  files: list[str],
  *,
  run_once: bool = True,
  checkpoint: str = best_checkpoint.LATEST,
  all_checkpoints: bool = False,
  replaces_best: bool = False,
  placement: distribution.Placement | None = None,
  feature_ranges: str | None = None,
  **more,
) -> dict:
  """Scores the newest checkpoint, or each new one as it appears, or all.

  Args:
    train_dir: folder of the run.
    files: labeled TFRecord files.
    run_once: score one checkpoint and end; else continue until interrupted.
    checkpoint: if not the newest, the only one to score, see --checkpoint.
    all_checkpoints: score all that are kept and have not been scored, and end.
    replaces_best: with all_checkpoints, let these files choose the best
      checkpoint also where other files have chosen one.
    placement: where; None for one device.
    feature_ranges: of the files' bytes; None for those of the training data.
    **more: other attributes of scoring.Task.

  Returns:
    The last scores, see scoring.Result.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  named = ""
  if checkpoint == best_checkpoint.LATEST:
    wait_for_checkpoint(train_dir, run_once or all_checkpoints)
  else:
    named = best_checkpoint.find_checkpoint(train_dir, checkpoint)
  train_dirs.clean(train_dir)
  model_flags = require_model_flags(train_dir, feature_ranges)
  with contextlib.closing(
    scoring.Evaluator(
      train_dir,
      model_flags,
      scoring.Task(files, **more),
      placement or distribution.Placement(),
    )
  ) as evaluator:
    if all_checkpoints:
      return _score_all(train_dir, evaluator, replaces_best)
    if named:
      if checkpoint == best_checkpoint.BEST:
        evaluator.warn_of_choice()
      return _score_one(evaluator, named)
    results = _score_each(train_dir, evaluator)
    while True:
      scores = next(results)
      if run_once:
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


def _read_class_names(files: list[str], num_classes: int) -> dict[int, str]:
  """The names of classes that the model keeps, else those of the data.

  Args:
    files: that are scored.
    num_classes: of the data.

  Returns:
    {class index: name}; empty if they are not known.
  """
  path = train_dirs.find_vocabulary(
    FLAGS.train_dir
  ) or vocabulary.find_vocabulary(files, num_classes)
  return vocabulary.read_names(path) if path else {}


def _check_flags() -> None:
  """Checks flags before anything is waited for.

  Raises:
    errors.UserError: they contradict each other, or name no metric.
  """
  has_threshold_data = bool(FLAGS.threshold_data_pattern)
  scoring.find_requested(FLAGS.metrics, has_threshold_data, {})
  scoring.check_best_metric(
    FLAGS.best_metric,
    requested_metrics.find_metrics(FLAGS.metrics),
    # A model of exclusive classes has its accuracy too.
    perhaps=requested_metrics.find_metrics("accuracy"),
  )
  if FLAGS.all_checkpoints and FLAGS["checkpoint"].present:
    raise errors.UserError(
      "Expected one of --all_checkpoints and --checkpoint, received both. Leave"
      " one of them out."
    )


def main() -> None:
  """Turns the flags into a call of evaluate."""
  _check_flags()
  card = program_flags.apply_dataset_dir("validate", "eval_data_pattern")
  program_flags.log_flags_without_effect()
  if FLAGS.checkpoint == best_checkpoint.LATEST:
    wait_for_checkpoint(
      FLAGS.train_dir, FLAGS.run_once or FLAGS.all_checkpoints
    )
  checkpoint = best_checkpoint.find_checkpoint(
    FLAGS.train_dir, FLAGS.checkpoint
  )
  model_flags = require_model_flags(FLAGS.train_dir)
  program_flags.check_typed_flags(
    model_flags, f"--train_dir={FLAGS.train_dir}", FLAGS.train_dir
  )
  pattern = program_flags.data_or_sample(
    "eval_data_pattern",
    "validate",
    model_flags["frame_features"],
    checkpoint,
    FLAGS.segment_labels,
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
    checkpoint=FLAGS.checkpoint,
    all_checkpoints=FLAGS.all_checkpoints,
    replaces_best=FLAGS["best_metric"].present > 0,
    pattern=pattern,
    segment_labels=FLAGS.segment_labels,
    batch_size=FLAGS.batch_size,
    num_readers=FLAGS.num_readers,
    policy=skipped.Policy(FLAGS.skip_corrupt, FLAGS.max_corrupt_fraction),
    top_k=FLAGS.top_k,
    min_frames=FLAGS.min_frames,
    spreadsheet_safe=FLAGS.spreadsheet_safe,
    placement=distribution.choose("", FLAGS.num_gpu),
    feature_ranges=ranges,
    metrics=FLAGS.metrics,
    best_metric=FLAGS.best_metric,
    threshold_files=threshold_files,
    class_names=_read_class_names(files, model_flags["num_classes"]),
  )


if __name__ == "__main__":
  define_flags()
  accept_flags()
  startup.run(main)
