"""Scores of models on the same videos, and which differences are real."""

from collections.abc import Sequence

import numpy as np

import eval_util
import ranking
from engine.progress_bar import Progress
from losses import EPSILON
from reports import bootstrap
from reports.bootstrap import Interval, Ranked

SCORE_HEADS = ("GAP", "mAP", "Hit@1", "PERR", "loss")
"""Heads of a table's columns with the scores of eval.py."""


class VideoScores:
  """Scores predictions that arrive in batches, and keeps their rankings.

  Args:
    num_classes: of the predictions.
    top_k: best predictions of each video that GAP and mAP rank.
  """

  def __init__(self, num_classes: int, top_k: int):
    self._num_classes = num_classes
    self._top_k = top_k
    self._metrics = eval_util.EvaluationMetrics(num_classes, top_k)
    self._ranked: list[tuple[np.ndarray, ...]] = []
    self._num_videos = 0

  def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Adds a batch.

    Args:
      predictions: (videos, classes) float32 probabilities.
      labels: (videos, classes) bool.
    """
    ranked = ranking.rank_videos_for_perr(
      predictions, labels, self._top_k, None
    )
    likelihood = np.where(labels, predictions, 1 - predictions)
    losses = -np.log(likelihood + np.float32(EPSILON)).sum(axis=1)
    self._metrics.accumulate_top_k(*ranked, loss=losses)
    rows, classes = np.nonzero(labels)
    self._ranked.append(
      (
        ranked.class_indexes[:, : self._top_k].astype(np.int32),
        ranked.predictions[:, : self._top_k],
        ranked.actuals[:, : self._top_k],
        rows + self._num_videos,
        classes,
      )
    )
    self._num_videos += len(predictions)

  def scores(self) -> dict[str, float]:
    """The scores of eval.py: gap, map, avg_hit_at_one, avg_perr, avg_loss.

    avg_loss is the cross entropy, whatever a model was trained with.
    """
    return self._metrics.scores()

  def ranked(self) -> Ranked:
    """The rankings of all videos so far."""
    indexes, confidences, hits, rows, classes = map(
      np.concatenate, zip(*self._ranked, strict=True)
    )
    return Ranked(
      indexes, confidences, hits, (rows, classes), self._num_classes
    )


def score_cells(scores: dict[str, float]) -> list[str]:
  """The cells of a table under SCORE_HEADS."""
  keys = ("gap", "map", "avg_hit_at_one", "avg_perr")
  return [f"{scores[key]:.4f}" for key in keys] + [f"{scores['avg_loss']:.3f}"]


def megabytes(num_bytes: int | None) -> str:
  """A cell of a table; a dash where the number is not known."""
  return "-" if num_bytes is None else f"{num_bytes / 1e6:.3g}"


def gain_text(gain: Interval) -> str:
  """A difference with its interval, and whether it may be chance."""
  text = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
  return text if gain.shows_difference else f"{text} no difference shown"


class PairedScores:
  """Compares systems that were scored on the same videos.

  Args:
    systems: their rankings.
    seed: of the bootstrap.
  """

  def __init__(self, systems: Sequence[Ranked], seed: int = 0):
    resamples = bootstrap.num_resamples(systems[0].num_videos)
    progress = Progress("Drew")

    def tick(done: int) -> None:
      if progress.is_due():
        text = f"{done} of {resamples} samples of the videos"
        progress.show(done / resamples, text)

    self._seed = seed
    self._scores = bootstrap.resampled_scores(systems, resamples, seed, tick)
    progress.end()
    ones = np.ones(systems[0].num_videos, np.int64)
    self._of_all = np.array([system.scores(ones) for system in systems])

  def gain(self, system: int, baseline: int) -> dict[str, Interval]:
    """How much better one is than another, both by their places.

    Returns:
      The differences of "gap" and "map".
    """
    return bootstrap.difference_of_resamples(
      self._scores[[system]],
      self._scores[[baseline]],
      self._of_all[[system]],
      self._of_all[[baseline]],
      self._seed,
    )
