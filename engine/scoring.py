"""Scores checkpoints of a run on labeled files, and writes what it finds.

eval.py scores the checkpoints that it is asked for, and training its own, see
validation.py. Both write the same files to the run's folder eval:
metrics-<step>.json, metrics-by-class-<step>.csv and TensorBoard events; and
both keep the best checkpoint, see best_checkpoint.py.
"""

import dataclasses
import errno
import functools
import glob
import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

import errors
import eval_util
import losses
import models
import requested_metrics
from engine import best_checkpoint, data_files, skipped
from engine import train_dir as train_dirs
from engine.checkpoints import checkpoint_step
from engine.data import Data
from engine.data_files import is_local
from engine.distribution import Placement
from engine.event_file import EventFile, write_scalars
from engine.files import beside, check_number, read_json, write_json
from engine.forward import ForwardPass
from engine.pr_curves import PrecisionRecallCounts
from engine.requested_scores import (
  NO_REQUEST,
  Request,
  rated_labels,
  write_by_class,
)
from requested_metrics import RequestedMetric

# What writing to a folder raises that may only be read. TensorFlow has no kind
# of its own for a file system of this kind, only its text.
_READ_ONLY_ERRORS = (
  tf.errors.PermissionDeniedError,
  tf.errors.FailedPreconditionError,
  tf.errors.UnknownError,
)
_READ_ONLY_TEXT = os.strerror(errno.EROFS)


def _is_read_only(error: Exception) -> bool:
  return isinstance(
    error, tf.errors.PermissionDeniedError | PermissionError
  ) or _READ_ONLY_TEXT in str(error)


class StoppedError(Exception):
  """Someone asked to stop, before all examples were scored."""


# --------------------------------------------------------------------------
# Metrics


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


def check_best_metric(
  name: str,
  metrics: Sequence[RequestedMetric],
  perhaps: Sequence[RequestedMetric] = (),
) -> None:
  """Checks that a metric can choose the best checkpoint.

  Args:
    name: see --best_metric.
    metrics: those that were requested.
    perhaps: those that some models have besides.

  Raises:
    errors.UserError: it is not computed; lists those that are.
  """
  keys = [metric.key for metric in eval_util.METRICS]
  keys += ["avg_loss"]
  # A threshold is neither good nor bad.
  keys += [
    metric.key
    for metric in metrics
    if metric.of_decisions is not requested_metrics.threshold
  ]
  if name not in (*keys, *(metric.key for metric in perhaps)):
    raise errors.UserError(
      f"Expected one of {', '.join(keys)} as --best_metric, received {name!r}."
      f"{errors.did_you_mean(name, keys)} Name one of these; --metrics of"
      " eval.py adds others."
    )


# --------------------------------------------------------------------------
# Scores of a checkpoint


class Result(NamedTuple):
  """What was found about a checkpoint.

  Attributes:
    scores: global_step, num_examples, avg_loss, a score for each of
      eval_util.METRICS by its key, examples_per_second, and requested scores by
      their keys.
    by_class: requested scores of each class, see RequestedScores.compute.
    average_precisions: of each class that has labels.
    counts: for the curves of precision and recall.
  """

  scores: dict
  by_class: dict
  average_precisions: list[float]
  counts: PrecisionRecallCounts


def never() -> bool:
  """Says that nobody has asked to stop."""
  return False


def score_checkpoint(
  checkpoint: str,
  forward: ForwardPass,
  num_classes: int,
  top_k: int,
  request: Request = NO_REQUEST,
  is_stopped: Callable[[], bool] = never,
) -> Result:
  """Scores a checkpoint on every example once.

  Args:
    checkpoint: path without its file endings.
    forward: over labeled examples, with a loss.
    num_classes: of the model.
    top_k: best predictions of each video that GAP ranks.
    request: what else to compute.
    is_stopped: whether someone has asked to stop.

  Raises:
    errors.UserError: a record is not as the flags say; a prediction is not
      finite; there are no examples.
    StoppedError: someone has asked to stop.
    tf.errors.NotFoundError: the checkpoint was deleted.
  """
  forward.load_weights(checkpoint)
  step = checkpoint_step(checkpoint)
  metrics = eval_util.EvaluationMetrics(num_classes, top_k)
  counts = PrecisionRecallCounts(num_classes)
  progress = None
  with request.start(num_classes) as requested:
    try:
      for batch, (predictions, video_losses), progress in forward.run():
        labels, weights = batch["labels"].numpy(), batch.get("label_weights")
        if weights is not None:
          weights = weights.numpy()
        scores = metrics.accumulate(predictions, labels, video_losses, weights)
        requested.accumulate(predictions, labels, weights)
        counts.add(predictions, *rated_labels(labels, weights))
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
        if is_stopped():
          raise StoppedError
    except ValueError as error:
      raise errors.UserError(f"Scoring {checkpoint} failed: {error}") from error
    if progress is None:
      raise errors.UserError(
        "Expected examples in the files of --eval_data_pattern, received none."
        " With --segment_labels, records need rated segments."
      )
    more, by_class = requested.compute()
  all_scores = {
    "global_step": step,
    "num_examples": progress.num_examples,
    **metrics.scores(),
    **more,
    "examples_per_second": progress.rate,
  }
  return Result(all_scores, by_class, metrics.average_precisions(), counts)


# --------------------------------------------------------------------------
# What is written


def _scope(segment_labels: bool) -> str:
  """The first word of TensorBoard's tags."""
  return "SegEval" if segment_labels else "Eval"


def path_of(
  eval_dir: str, name: str, step: int, ending: str, segment_labels: bool
) -> str:
  """The path of a file with the scores of a checkpoint."""
  prefix = "segment-" if segment_labels else ""
  return os.path.join(eval_dir, f"{prefix}{name}-{step}.{ending}")


def write_scores(
  scores: dict,
  eval_dir: str,
  segment_labels: bool,
  metrics: Sequence[RequestedMetric] = (),
  evaluation: dict | None = None,
) -> None:
  """Writes scores to metrics-<step>.json.

  Args:
    scores: see Result.
    eval_dir: folder of the file.
    segment_labels: whether segments were scored.
    metrics: those that were requested.
    evaluation: what was scored, and how; None to leave it out.
  """
  # JSON has neither NaN nor infinity.
  unknown = {
    metric.key: None
    for metric in metrics
    if not math.isfinite(scores[metric.key])
  }
  more = {"evaluation": evaluation} if evaluation else {}
  write_json(
    path_of(eval_dir, "metrics", scores["global_step"], "json", segment_labels),
    {**scores, **unknown, **more},
  )


def write_events(
  result: Result,
  writer,
  segment_labels: bool,
  metrics: Sequence[RequestedMetric] = (),
  classes: Sequence[int] = (),
  class_names: Mapping[int, str] | None = None,
) -> None:
  """Writes scores, their distribution over classes and curves to TensorBoard.

  Args:
    result: of score_checkpoint.
    writer: of the events, an EventFile.
    segment_labels: whether segments were scored.
    metrics: those that were requested.
    classes: the class index of each prediction.
    class_names: of class indices, for the titles of curves.
  """
  scope, scores = _scope(segment_labels), result.scores
  tags = eval_util.evaluation_tags(scope)
  tags |= {tag: key for tag, (_, key) in eval_util.COMPARED_TAGS.items()}
  for metric in metrics:
    if math.isfinite(scores[metric.key]):
      tags[f"Epoch/{scope}_{metric.tag}"] = metric.key
  step = scores["global_step"]
  with writer.as_default(step=step):
    write_scalars({tag: scores[name] for tag, name in tags.items()})
    if result.average_precisions:
      tf.summary.histogram(
        f"Epoch/{scope}_AP_By_Class", result.average_precisions
      )
    for summary in result.counts.summaries(scope, classes, class_names or {}):
      tf.summary.experimental.write_raw_pb(summary)
  writer.flush()


def log_scores(scores: dict, metrics: Sequence[RequestedMetric] = ()) -> None:
  """Writes scores to the log; the files of the evaluation are there by then.

  Args:
    scores: see Result.
    metrics: those that were requested.
  """
  step = scores["global_step"]
  if metrics:
    listed = [
      f"{metric.key}: {scores.get(metric.key, math.nan):.4g}"
      for metric in metrics
    ]
    logging.info("epoch/requested number %d | %s", step, " | ".join(listed))
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
# Evaluations of a run


@dataclasses.dataclass(frozen=True)
class Task:
  """What to score checkpoints on, and by what.

  Attributes:
    files: labeled TFRecord files.
    pattern: that named them; empty to list the files.
    segment_labels: score rated segments.
    batch_size: videos per step.
    num_readers: threads that read.
    policy: what to do about records that cannot be used.
    top_k: best predictions of each video that GAP ranks.
    min_frames: shorter videos are left out; 0 for none.
    metrics: see --metrics; more may be requested by the model.
    threshold_files: labeled TFRecord files that choose the best threshold, for
      metrics that need one.
    class_names: of class indices; may lack some.
    best_metric: see --best_metric.
    spreadsheet_safe: see csv_cells.cell.
  """

  files: list[str]
  pattern: str = ""
  segment_labels: bool = False
  batch_size: int = 1024
  num_readers: int = 8
  policy: skipped.Policy = skipped.STOP
  top_k: int = 20
  min_frames: int = 0
  metrics: str = ""
  threshold_files: Sequence[str] = ()
  class_names: Mapping[int, str] = dataclasses.field(default_factory=dict)
  best_metric: str = "gap"
  spreadsheet_safe: bool = False


def _absolute(task: Task) -> str:
  """The pattern of a task's files, for a process in any folder."""
  if not task.pattern:
    paths = [glob.escape(file).replace(",", "\\,") for file in task.files]
  else:
    paths = [one.strip() for one in re.split(r"(?<!\\),", task.pattern)]
  return ",".join(
    os.path.abspath(path) if is_local(path) else path for path in paths
  )


def _identity(checkpoint: str) -> str:
  """A text that identifies the content of a checkpoint.

  Its index, a small file, has checksums of everything in it.
  """
  with tf.io.gfile.GFile(f"{checkpoint}.index", "rb") as file:
    return hashlib.sha256(file.read()).hexdigest()[:16]


def _check_recorded(content: dict) -> None:
  """Raises a TypeError or AttributeError if it is no metrics-N.json."""
  content["evaluation"].keys()
  check_number(content["global_step"], int)
  for name, value in content.items():
    if name != "evaluation" and value is not None:
      check_number(value)


class Evaluator:
  """Scores checkpoints of a run, writes the scores, keeps the best checkpoint.

  Opens the data at once; builds the model when it is needed.

  Args:
    train_dir: folder of the run.
    model_flags: of the run, see train_dir.py.
    task: what to score on.
    placement: where.

  Attributes:
    task: see above.
    conditions: what the scores of a checkpoint depend on, for best.json: the
      hash and the pattern of the files, segment_labels, top_k,
      min_frames, and the hash of the files that choose a threshold.

  Raises:
    errors.UserError: there are no such metrics, or the first records are
      not what the model's flags say.
  """

  def __init__(
    self,
    train_dir: str,
    model_flags: dict,
    task: Task,
    placement: Placement,
  ):
    self._metrics = find_requested(
      task.metrics, bool(task.threshold_files), model_flags
    )
    check_best_metric(task.best_metric, self._metrics)
    self.task = task
    self._train_dir = train_dir
    self._eval_dir = os.path.join(train_dir, train_dirs.EVAL_DIR)
    self._model_flags = model_flags
    self._placement = placement
    self._classes = models.output_classes(model_flags)
    self._writer = None
    listed = task.policy.listing_in(self._eval_dir)
    self._data = self._open(task.files, listed)
    self._threshold_data = None
    if task.threshold_files:
      self._threshold_data = self._open(task.threshold_files, task.policy)
    self.conditions = {
      "files": data_files.hash_of_files(task.files, self._data.file_sizes),
      "pattern": _absolute(task),
      "segment_labels": task.segment_labels,
      "top_k": task.top_k,
      "min_frames": task.min_frames,
    }
    if self._threshold_data:
      self.conditions["threshold_files"] = data_files.hash_of_files(
        self._threshold_data.files, self._threshold_data.file_sizes
      )

  def _open(self, files, policy) -> Data:
    return Data(
      self._model_flags,
      list(files),
      with_labels=True,
      segment_labels=self.task.segment_labels,
      for_trained=True,
      policy=policy,
      min_frames=self.task.min_frames,
    )

  @functools.cached_property
  def _forward(self) -> ForwardPass:
    try:
      loss = losses.make_loss(self._model_flags)
    except ValueError as error:  # its class is gone
      raise errors.UserError(str(error)) from error
    return ForwardPass(
      self._model_flags,
      self._data,
      self._placement,
      batch_size=self.task.batch_size,
      num_readers=self.task.num_readers,
      loss=loss,
    )

  @functools.cached_property
  def _request(self) -> Request:
    over = None
    if self._threshold_data:
      over = self._forward.over(self._threshold_data, "threshold_data_pattern")
    return Request(self._metrics, over)

  def build(self) -> None:
    """Builds the model now, instead of with the first evaluation."""
    _ = self._request

  def _evaluation(self, checkpoint: str) -> dict:
    """What metrics-<step>.json says about itself."""
    ranges = self._model_flags.get("feature_ranges")
    return {
      "checkpoint": _identity(checkpoint),
      **self.conditions,
      "metrics": [metric.key for metric in self._metrics],
      **({"feature_ranges": ranges} if ranges else {}),
    }

  def recorded(self, checkpoint: str) -> dict | None:
    """The scores that an earlier evaluation has written, if it was this one.

    Args:
      checkpoint: path without its file endings.

    Returns:
      The scores, see Result, without the numbers that do not exist; None if the
      checkpoint was not scored, or other files, or in another way.

    Raises:
      tf.errors.NotFoundError: the checkpoint was deleted.
    """
    step = checkpoint_step(checkpoint)
    path = path_of(
      self._eval_dir, "metrics", step, "json", self.task.segment_labels
    )
    found = {}
    try:
      found = (
        read_json(
          path,
          ("global_step", "evaluation"),
          "",
          _check_recorded,
        )
        or {}
      )
    except errors.UserError:  # of an earlier version, or damaged
      return None
    noted, wanted = found.pop("evaluation", {}), self._evaluation(checkpoint)
    if {**noted, "pattern": ""} != {**wanted, "pattern": ""}:
      return None
    return {name: value for name, value in found.items() if value is not None}

  def evaluate(
    self,
    checkpoint: str,
    is_stopped: Callable[[], bool] = never,
  ) -> dict:
    """Scores a checkpoint and writes its scores.

    Args:
      checkpoint: path without its file endings.
      is_stopped: whether someone has asked to stop.

    Returns:
      The scores, see Result.

    Raises:
      errors.UserError: for everything that the user can fix.
      StoppedError: someone has asked to stop; nothing was written.
      tf.errors.NotFoundError: the checkpoint was deleted.
    """
    best_checkpoint.read_best(self._train_dir)  # fails now, if it is damaged
    evaluation = self._evaluation(checkpoint)
    task, num_classes = self.task, len(self._classes)
    if not self._is_writable:
      self._data.skipped.list_nowhere()
    result = score_checkpoint(
      checkpoint,
      self._forward,
      num_classes,
      task.top_k,
      self._request,
      is_stopped,
    )
    if self._is_writable:
      self._write(result, evaluation)
    self.log(result.scores)
    return result.scores

  def log(self, scores: dict) -> None:
    """Writes the scores of a checkpoint to the log.

    Args:
      scores: see Result; those that `recorded` finds will do too.
    """
    log_scores(scores, self._metrics)

  @functools.cached_property
  def _is_writable(self) -> bool:
    """Whether files can be written to the run's folder; says if not.

    That of someone else may be mounted to be read only.
    """
    try:
      with (
        beside(os.path.join(self._eval_dir, "events")) as probe,
        tf.io.gfile.GFile(probe, "w") as file,
      ):
        file.write(" ")
    except (*_READ_ONLY_ERRORS, OSError) as error:
      if not _is_read_only(error):
        raise
      logging.warning(
        "%s is read-only: no TensorBoard events, no metrics-N.json and no best"
        " checkpoint are written.",
        self._train_dir,
      )
      return False
    return True

  def _write(self, result: Result, evaluation: dict) -> None:
    """Writes the files of an evaluation; see evaluate."""
    task, scores = self.task, result.scores
    given = (task.segment_labels, self._metrics)
    if result.by_class:
      name, step = "metrics-by-class", scores["global_step"]
      path = path_of(self._eval_dir, name, step, "csv", task.segment_labels)
      write_by_class(
        path,
        result.by_class,
        self._classes,
        task.class_names,
        task.spreadsheet_safe,
      )
    if self._writer is None:
      self._writer = EventFile(self._eval_dir)
    write_events(result, self._writer, *given, self._classes, task.class_names)
    # What `recorded` finds comes after what it takes for granted.
    write_scores(scores, self._eval_dir, *given, evaluation)

  def choose(
    self, scored: Mapping[str, dict], replaces_others: bool = True
  ) -> None:
    """Keeps the best of some checkpoints, if none better is kept already.

    Where a choice by another metric or under other conditions is replaced, all
    must be given at once: the one that was best by it may exist nowhere else.

    Args:
      scored: the scores, see Result, of each checkpoint, by its path without
        its file endings, in the order of the steps.
      replaces_others: see best_checkpoint.consider.
    """
    if not self._is_writable:
      return
    best_checkpoint.choose(
      self._train_dir,
      self.task.best_metric,
      {
        checkpoint: scores.get(self.task.best_metric, math.nan)
        for checkpoint, scores in scored.items()
      },
      self.conditions,
      replaces_others,
    )

  def warn_of_choice(self) -> None:
    """Warns if the best checkpoint was chosen on some of the scored files."""
    best_checkpoint.warn_of_choice(self._train_dir, self.task.files)

  def close(self) -> None:
    """Ends the event file."""
    if self._writer is not None:
      self._writer.close()
