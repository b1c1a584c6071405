"""Log lines, the progress bar and TensorBoard events of a training run."""

import concurrent.futures
import datetime
import time

import numpy as np
import tensorflow as tf
from absl import logging
from tensorboard.plugins.histogram import metadata as histogram_metadata

import eval_util
import models
from engine import model_building
from engine.event_file import EventFile, write_scalars
from engine.progress_bar import ProgressBar
from engine.resources import NO_USAGE, Usage
from engine.settings import Settings


def _shown(rate: float) -> str:
  """A rate with at least two digits: large models take minutes for a step."""
  return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


class Reporter:
  """Writes log lines, the progress bar and TensorBoard events.

  The scores of a step are computed in another thread, so that the next steps
  need not wait for them.

  Args:
    train_dir: where the events go; None to write none.
    settings: how long the run is.
    epoch_videos: about how many examples are in one epoch.
    model_flags: see train_dir.py.
    parameters: see models.num_parameters.

  Attributes:
    writer: of the events.
  """

  def __init__(
    self,
    train_dir: str | None,
    settings: Settings,
    epoch_videos: int,
    model_flags: dict,
    parameters: int = 0,
  ):
    self.writer = EventFile(train_dir)
    self._unit = "segments" if settings.segment_labels else "videos"
    self._model_flags = model_flags
    self._parameters = parameters
    self._num_videos = epoch_videos * (settings.num_epochs or 0)
    self._max_steps = settings.max_steps
    self._max_seconds = 60.0 * settings.max_minutes
    self._part_done = 0.0
    self._epoch_videos = epoch_videos
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending = None
    self._bar = ProgressBar()
    self._began = time.monotonic()
    self._best = None

  def report(
    self,
    step,
    examples_seen,
    rate,
    outputs,
    usage: Usage = NO_USAGE,
    training_seconds: float = 0.0,
  ) -> None:
    """Reports a step, after the previous report is done.

    Args:
      step: steps so far.
      examples_seen: videos so far.
      rate: videos/s since the last report.
      outputs: (scalars, predictions, labels) of the step.
      usage: of the machine since the last report.
      training_seconds: that all steps took so far.

    Raises:
      errors.UserError: a prediction was not a probability.
    """
    self.wait()
    # The first step takes long, so the time left is estimated from there.
    self._part_done = self._find_part(step, examples_seen, training_seconds)
    self._bar.begin(self._part_done)
    self._pending = self._thread.submit(
      self._report, step, examples_seen, rate, usage, *outputs
    )

  def wait(self) -> None:
    """Waits until the last report is written; raises its error."""
    if self._pending is not None:
      self._pending.result()
      self._pending = None

  def _report(
    self, step, examples_seen, rate, usage, scalars, predictions, labels
  ):
    scalars = {tag: float(value) for tag, value in scalars.items()}
    predictions, labels = predictions.numpy(), labels.numpy()
    if len(labels):
      model_building.check_probabilities(
        predictions,
        self._model_flags["model"],
        models.are_exclusive(self._model_flags),
      )
    loss = scalars["label_loss"]
    with self.writer.as_default(step=step):
      write_scalars(scalars)
    if not len(labels):  # only other machines had videos
      return
    scores = eval_util.score_batch(predictions, labels)
    gap = scores["gap"]
    if self._best is None or gap > self._best[0]:
      self._best = gap, step
    if self._bar.is_on_terminal:
      self._draw_bar(step, examples_seen, rate, loss, gap)
    else:
      logging.info(
        "training step %d | Loss: %.2f Examples/sec: %.2f | Hit@1: %.2f"
        " PERR: %.2f GAP: %.2f",
        step,
        loss,
        rate,
        scores["hit_at_one"],
        scores["perr"],
        gap,
      )
    with self.writer.as_default(step=step):
      write_scalars(self._more_scalars(scores, loss, rate, usage))
    self.writer.flush()

  def _more_scalars(self, scores, loss, rate, usage) -> dict[str, float]:
    """Scores, what is compared with evaluation, and what training takes.

    Returns:
      values by TensorBoard tag.
    """
    compared = {**scores, "loss": loss}
    return {
      **{
        f"model/Training_{metric.tag}": scores[metric.name]
        for metric in eval_util.METRICS
        if metric.name in scores
      },
      "global_step/Examples/Second": rate,
      **{tag: compared[of[0]] for tag, of in eval_util.COMPARED_TAGS.items()},
      **usage.scalars(),
      "resources/videos_per_second": rate,
      "resources/parameters": self._parameters,
    }

  def _find_part(self, step, examples_seen, training_seconds) -> float:
    """How much of the whole run is done, from 0 to 1; 0 if it has no end."""
    parts = [0.0]
    if self._num_videos:
      parts.append(examples_seen / self._num_videos)
    if self._max_steps:
      parts.append(step / self._max_steps)
    if self._max_seconds:
      parts.append(training_seconds / self._max_seconds)
    return min(max(parts), 1.0)

  def _draw_bar(self, step, examples_seen, rate, loss, gap) -> None:
    # Of the last video seen: a full epoch does not begin the next one.
    epoch = 1 + int((examples_seen - 1) / max(self._epoch_videos, 1))
    unit = "/s" if self._bar.columns < 95 else f" {self._unit}/s"
    self._bar.draw(
      self._part_done,
      f"epoch {epoch} step {step} | {_shown(rate)}{unit} | Loss: {loss:.2f}"
      f" GAP: {gap:.2f}",
    )

  def leave_out(self, seconds: float) -> None:
    """Leaves time that was not spent on training out of the summary."""
    self._began += seconds

  def summary(self, videos, train_dir) -> str:
    """One line about the whole run.

    Args:
      videos: or segments, trained on since the program began.
      train_dir: the run's folder.
    """
    seconds = time.monotonic() - self._began
    best = ""
    if self._best:
      best = "; best GAP in training {:.3f} at step {}".format(*self._best)
    return (
      f"{videos} {self._unit} in {datetime.timedelta(seconds=round(seconds))},"
      f" {_shown(videos / seconds)} {self._unit}/s including saving{best}."
      f" All files: {train_dir}"
    )

  def histograms(self, model, step) -> None:
    """Writes a histogram of each variable, after the previous report."""
    self.wait()
    values = {
      variable.path: variable.numpy()
      for variable in model.variables
      if variable.dtype.startswith(("float", "bfloat"))
    }
    self._pending = self._thread.submit(self._histograms, values, step)

  def _histograms(self, values, step) -> None:
    metadata = histogram_metadata.create_summary_metadata(None, None)
    with self.writer.as_default(step=step):
      for tag, array in values.items():
        # tf.summary.histogram takes 30 doubles for each weight to count them.
        # In float32 there may be no room for the bins between two numbers.
        finite = array[np.isfinite(array)].astype(np.float64)
        counts, edges = np.histogram(finite, bins=30)
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
        tf.summary.write(tag, buckets.astype(np.float64), metadata=metadata)

  def close(self) -> None:
    """Ends the event file and the progress bar."""
    self.wait()
    self._bar.end()
    self._thread.shutdown()
    self.writer.close()


class Profile:
  """Writes what some steps spend their time on, for TensorBoard.

  Args:
    train_dir: where; None to write nothing, but to take as many steps at once
      as the machine that does.
    steps: first and last step, or nothing.
  """

  def __init__(self, train_dir: str | None, steps: tuple[int, int] | None):
    self._train_dir = train_dir
    # The steps after which it begins and ends.
    self._borders = [steps[0] - 1, steps[1]] if steps else []
    self._is_running = False

  def steps_to_border(self, step, wanted) -> int:
    """How many of the wanted steps to take at once after `step` steps."""
    return min(
      [border - step for border in self._borders if border > step] + [wanted]
    )

  def begin_or_end(self, step, ended=False) -> None:
    """Begins or ends the profile, if it is time after `step` steps.

    Args:
      step: steps so far.
      ended: whether these were the last.
    """
    if self._is_running and (ended or step >= self._borders[1]):
      tf.profiler.experimental.stop()
      self._is_running = False
      logging.info(
        "A profile of steps %d to %d is in %s.",
        self._borders[0] + 1,
        step,
        self._train_dir,
      )
    elif step in self._borders[:1] and self._train_dir and not ended:
      tf.profiler.experimental.start(self._train_dir)
      self._is_running = True
