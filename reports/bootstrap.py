"""Which differences of GAP and mAP are more than chance: paired bootstrap.

Models are scored on the same videos, which are a sample of all videos that
there could be. Videos are drawn again and again with replacement, as many as
there are, and every model is scored on each of these draws. If a model is
better on nearly all draws, then a few videos more or less would not change
which is better. Training with several seeds is a sample too: each draw also
draws seeds with replacement, the same for both models.

A score of a draw is exactly that of a data set in which each video stands as
often as it was drawn. Rankings are sorted once; a draw only changes weights.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13 (percentile intervals).
"""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

METRICS = ("gap", "map")
"""The scores of a draw, in order."""

RESAMPLES = 10_000
# Of more than this many videos, fewer draws take as long as 10,000 of these.
_MOST_VIDEOS = 100_000
_FEWEST_RESAMPLES = 1_000
_CONFIDENCE = 95  # percent
# Each needs memory; more gain little.
_MOST_THREADS = 8


class Interval(NamedTuple):
  """A difference and the interval that holds 95% of its resamples.

  Attributes:
    mean: the difference of all videos, as a mean over the seeds.
    low: the lower end.
    high: the upper end.
  """

  mean: float
  low: float
  high: float

  @property
  def shows_difference(self) -> bool:
    """Whether the interval excludes 0."""
    return self.low > 0 or self.high < 0


def num_resamples(num_videos: int) -> int:
  """How many draws to take: 10,000, fewer above 100,000 videos."""
  affordable = RESAMPLES * _MOST_VIDEOS // max(num_videos, 1)
  return max(_FEWEST_RESAMPLES, min(RESAMPLES, affordable))


class _Rankings:
  """Rankings that share flat arrays, such as one of each class.

  Entries are sorted by ranking, then best first, negatives before positives of
  the same confidence. Entries behind the last hit of their ranking change
  nothing and are left out, so each ranking ends with a hit.

  Args:
    videos: (entries,) integers, the video of each entry.
    confidences: (entries,) floats.
    hits: (entries,) bool.
    rankings: (entries,) integers, which ranking the entry is in.
    count: number of rankings.
  """

  def __init__(self, videos, confidences, hits, rankings, count):
    order = np.lexsort((hits, -confidences, rankings))
    hits, rankings = hits[order], rankings[order]
    hits_until_end = np.cumsum(np.bincount(rankings, hits, count))
    hits_before = np.cumsum(hits) - hits
    kept = hits_before < hits_until_end[rankings]
    self._count = count
    self._videos = videos[order][kept].astype(np.int32)
    self._hit_places = np.flatnonzero(hits[kept])
    self._hit_rankings = rankings[kept][self._hit_places]
    # Places among the hits where another ranking begins.
    self._starts = np.flatnonzero(np.diff(self._hit_rankings, prepend=-1))
    self._lengths = np.diff(self._starts, append=len(self._hit_rankings))

  def precision_sums(self, weights):
    """Sums, for each ranking, the precisions at the ranks of its hits.

    Args:
      weights: (videos,) integers, how often each video counts.

    Returns:
      (count,) float64.
    """
    if not len(self._hit_places):
      return np.zeros(self._count)
    # Many of these arrays at once are much memory.
    most = len(self._videos) * int(weights.max())
    dtype = np.int32 if most < 1 << 31 else np.int64
    drawn = weights.astype(dtype)[self._videos]
    entries = np.cumsum(drawn, dtype=dtype)[self._hit_places]
    drawn = drawn[self._hit_places]
    hits = np.cumsum(drawn, dtype=dtype)
    negatives = entries - hits
    # The rankings before have both too.
    ends = self._starts[1:] - 1
    negatives -= np.repeat(np.append(0, negatives[ends]), self._lengths)
    hits_before = np.repeat(np.append(0, hits[ends]), self._lengths)
    # A hit of a video that was drawn three times is three hits of successive
    # ranks.
    hits = np.arange(1, hits[-1] + 1, dtype=dtype) - np.repeat(
      hits_before, drawn
    )
    precisions = hits / (hits + np.repeat(negatives, drawn))
    return np.bincount(
      np.repeat(self._hit_rankings, drawn), precisions, self._count
    )


class Ranked:
  """The top predictions of each video, ranked once for GAP and for mAP.

  Args:
    class_indexes: (videos, k) integers, each video's classes.
    confidences: (videos, k) floats, their predictions; -inf marks places
      without a prediction.
    hits: (videos, k) bool, whether they are labels of the video.
    positives: (rows, classes), two integer arrays of the same length: all
      labels of all videos, predicted or not.
    num_classes: number of classes.

  Raises:
    ValueError: shapes do not fit.

  Example:
    >>> ranked = Ranked([[0, 2]], [[0.9, 0.5]], [[1, 0]], ([0], [0]), 3)
    >>> ranked.scores(np.ones(1))
    (1.0, 1.0)
  """

  def __init__(self, class_indexes, confidences, hits, positives, num_classes):
    class_indexes = np.asarray(class_indexes)
    confidences = np.asarray(confidences)
    hits = np.asarray(hits) > 0
    rows, classes = (np.asarray(part, np.int64) for part in positives)
    if (
      confidences.ndim != 2
      or class_indexes.shape != confidences.shape
      or hits.shape != confidences.shape
      or rows.ndim != 1
      or classes.shape != rows.shape
    ):
      raise ValueError(
        "Expected class_indexes, confidences and hits of one shape (videos, k),"
        f" and as many rows as classes, received {class_indexes.shape},"
        f" {confidences.shape}, {hits.shape}, {rows.shape} and"
        f" {classes.shape}. Pass one row for each video."
      )
    self.num_videos = len(confidences)
    self._rows, self._classes = rows, classes
    self._num_classes = num_classes
    filled = confidences > -np.inf
    videos = np.broadcast_to(
      np.arange(self.num_videos)[:, np.newaxis], confidences.shape
    )[filled]
    classes_of_entries = class_indexes[filled].astype(np.int64)
    confidences, hits = confidences[filled], hits[filled]
    self._pooled = _Rankings(
      videos, confidences, hits, np.zeros(len(videos), np.int64), 1
    )
    self._by_class = _Rankings(
      videos, confidences, hits, classes_of_entries, num_classes
    )

  def scores(self, weights: np.ndarray) -> tuple[float, float]:
    """GAP and mAP if each video stood there as often as its weight says.

    Args:
      weights: (videos,) whole numbers of any dtype.

    Returns:
      (gap, mean average precision); those of eval_util for ones.

    Raises:
      ValueError: there is not one weight for each video.
    """
    weights = np.asarray(weights)
    if weights.shape != (self.num_videos,):
      raise ValueError(
        f"Expected one weight for each of {self.num_videos} videos, received"
        f" shape {weights.shape}. Count how often each was drawn."
      )
    average_precisions = self.average_precisions(weights)
    num_positives = int(weights[self._rows].sum())
    pooled = self._pooled.precision_sums(weights.astype(np.int64))[0]
    return (
      float(pooled / max(num_positives, 1)),
      float(np.nanmean(average_precisions)) if num_positives else 0.0,
    )

  def average_precisions(self, weights: np.ndarray) -> np.ndarray:
    """The average precision of each class, NaN for one without positives.

    Args:
      weights: (videos,) whole numbers of any dtype.

    Returns:
      (classes,) float64.
    """
    num_positives = np.bincount(
      self._classes, weights[self._rows], self._num_classes
    )
    sums = self._by_class.precision_sums(weights.astype(np.int64))
    return np.where(
      num_positives > 0, sums / np.maximum(num_positives, 1), np.nan
    )


def resampled_scores(
  runs: Sequence[Ranked],
  resamples: int,
  seed: int,
  tick: Callable[[int], object] | None = None,
) -> np.ndarray:
  """Scores of runs on videos that are drawn with replacement.

  The same seed and number of videos give the same draws, so scores of several
  calls can be compared with each other.

  Args:
    runs: of the same videos in the same order.
    resamples: number of draws.
    seed: decides the draws.
    tick: called with the number of draws that are done, now and then.

  Returns:
    (runs, resamples, 2) float64, the METRICS of each run.

  Raises:
    ValueError: the runs have different numbers of videos.
  """
  sizes = {run.num_videos for run in runs}
  if len(sizes) > 1:
    raise ValueError(
      f"Expected predictions of the same videos, received {sorted(sizes)}"
      " videos. Score the models on the same files."
    )

  def score(index):
    weights = _draw_videos(runs[0].num_videos, index, seed)
    return [run.scores(weights) for run in runs]

  scores = np.empty((len(runs), resamples, len(METRICS)))
  # NumPy works on large arrays without the lock of the interpreter.
  threads = min(os.cpu_count() or 1, _MOST_THREADS)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for index, of_runs in enumerate(pool.map(score, range(resamples))):
      scores[:, index] = of_runs
      if tick:
        tick(index + 1)
  return scores


def _draw_videos(num_videos, index, seed):
  """How often each video is in a draw, (videos,) integers."""
  random = np.random.default_rng([seed, index])
  drawn = random.integers(num_videos, size=num_videos)
  return np.bincount(drawn, minlength=num_videos)


def difference_of_resamples(
  scores_a: np.ndarray,
  scores_b: np.ndarray,
  all_a: np.ndarray,
  all_b: np.ndarray,
  seed: int,
) -> dict[str, Interval]:
  """How much better a is than b, from scores that were drawn for both.

  Args:
    scores_a: (seeds, resamples, 2), from resampled_scores.
    scores_b: the same of b.
    all_a: (seeds, 2), the scores of all videos.
    all_b: the same of b.
    seed: decides which seeds are drawn.

  Returns:
    {metric: Interval} of METRICS.

  Raises:
    ValueError: a and b have different numbers of seeds.
  """
  if scores_a.shape != scores_b.shape:
    raise ValueError(
      "Expected two models with the same seeds and draws, received scores of"
      f" shapes {scores_a.shape} and {scores_b.shape}. Train both with the same"
      " seeds."
    )
  num_seeds, resamples, _ = scores_a.shape
  drawn = np.random.default_rng(seed).integers(
    num_seeds, size=(num_seeds, resamples)
  )
  differences = np.take_along_axis(
    scores_a - scores_b, drawn[:, :, np.newaxis], axis=0
  ).mean(axis=0)
  tail = (100 - _CONFIDENCE) / 2
  low, high = np.percentile(differences, [tail, 100 - tail], axis=0)
  mean = (all_a - all_b).mean(axis=0)
  return {
    name: Interval(float(mean[place]), float(low[place]), float(high[place]))
    for place, name in enumerate(METRICS)
  }
