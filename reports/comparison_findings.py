"""Where models disagree most, and what each confuses with what."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reports.comparison import Row, Scored

# Rarer classes among the scored videos: their scores are chance.
_FEWEST_POSITIVES = 3
_BINS_A_DECADE = 3


def average_precisions(row: Row) -> np.ndarray:
  """The average precision of each class, a mean over the seeds.

  Returns:
    (classes,) float64, NaN for a class that no scored video has.
  """
  ones = np.ones(len(row.runs[0].video_ids), np.int64)
  return np.mean(
    [run.ranked.average_precisions(ones) for run in row.runs], axis=0
  )


def positives_of(scored: Scored) -> np.ndarray:
  """How many scored videos have each class, (classes,) int64."""
  return np.bincount(scored.positives[1], minlength=len(scored.classes))


@dataclasses.dataclass
class ByFrequency:
  """Average precision against the frequency of classes.

  Attributes:
    frequencies: (bins,) training videos of a class, the mean of each bin.
    means: {row: (bins,) mean AP of the classes in each bin}.
    num_classes: (bins,) how many.
  """

  frequencies: np.ndarray
  means: dict[str, np.ndarray]
  num_classes: np.ndarray


def by_frequency(
  precisions: dict[str, np.ndarray], train_counts: np.ndarray
) -> ByFrequency:
  """Gathers classes by how many training videos they have.

  Args:
    precisions: {row: (classes,) average precisions, NaN where unknown}.
    train_counts: (classes,) training videos.

  Returns:
    Bins of equal width on a logarithmic scale, those with classes. Classes
    without training videos are in a bin with those that have one.
  """
  known = ~np.isnan(next(iter(precisions.values())))
  counts = np.maximum(train_counts[known], 1)
  bins = np.floor(np.log10(counts) * _BINS_A_DECADE).astype(int)
  shown = np.unique(bins)
  members = [np.flatnonzero(bins == one) for one in shown]
  return ByFrequency(
    np.array([counts[of].mean() for of in members]),
    {
      name: np.array([values[known][of].mean() for of in members])
      for name, values in precisions.items()
    },
    np.array([len(of) for of in members]),
  )


# --------------------------------------------------------------------------
# Disagreement


class ClassDisagreement(NamedTuple):
  """A class whose average precision differs between models.

  Attributes:
    place: of the class.
    positives: scored videos that have it.
    precisions: of each row.
  """

  place: int
  positives: int
  precisions: list[float]


def class_disagreements(
  precisions: Sequence[np.ndarray], positives: np.ndarray, most: int
) -> list[ClassDisagreement]:
  """The classes whose average precision differs most, the largest first.

  Args:
    precisions: (classes,) of each row.
    positives: (classes,) scored videos; rarer than 3 are left out.
    most: how many classes.
  """
  table = np.array(precisions)
  ranges = table.max(axis=0) - table.min(axis=0)
  usable = (positives >= _FEWEST_POSITIVES) & (ranges > 0)
  places = np.flatnonzero(usable)
  order = places[np.argsort(-ranges[places], kind="stable")][:most]
  return [
    ClassDisagreement(
      int(place), int(positives[place]), table[:, place].tolist()
    )
    for place in order
  ]


class VideoDisagreement(NamedTuple):
  """A video whose labels some models find and others do not.

  Attributes:
    video: its place.
    labels: places of its classes.
    scores: of each row, the share of labels among the first predictions, as
      many as the video has labels (PERR), a mean over the seeds.
    best: of each row, the class that its first seed predicts first.
    best_is_label: of each row, whether this is a label.
  """

  video: int
  labels: list[int]
  scores: list[float]
  best: list[int]
  best_is_label: list[bool]


def video_scores(scored: Scored) -> np.ndarray:
  """PERR of each video, (videos,) float64.

  Of more labels than there are predictions, those beyond count as missed.
  """
  num_labels = np.bincount(scored.positives[0], minlength=len(scored.video_ids))
  within = np.arange(scored.hits.shape[1]) < num_labels[:, np.newaxis]
  hits = np.count_nonzero(scored.hits & within, axis=1)
  return hits / np.maximum(num_labels, 1)


def video_disagreements(
  rows: Sequence[Row], most: int
) -> list[VideoDisagreement]:
  """The videos whose PERR differs most between rows, the largest first.

  Of equally large differences those come first for which the best classes of
  the models are the most different ones.
  """
  table = np.array(
    [np.mean([video_scores(run) for run in row.runs], axis=0) for row in rows]
  )
  ranges = table.max(axis=0) - table.min(axis=0)
  firsts = [row.runs[0] for row in rows]
  best = np.array([run.class_indexes[:, 0] for run in firsts])
  sorted_best = np.sort(best, axis=0)
  different = 1 + np.count_nonzero(np.diff(sorted_best, axis=0), axis=0)
  order = np.lexsort((-different, -ranges))[:most]
  label_rows, label_classes = firsts[0].positives
  return [
    VideoDisagreement(
      int(video),
      np.sort(label_classes[label_rows == video]).tolist(),
      table[:, video].tolist(),
      best[:, video].tolist(),
      [bool(run.hits[video, 0]) for run in firsts],
    )
    for video in order
    if ranges[video] > 0
  ]


# --------------------------------------------------------------------------
# Confusions


class Confusion(NamedTuple):
  """A class that a model predicts in the place of another.

  Attributes:
    missed: place of a class that videos have.
    predicted: place of the class that they are given instead.
    count: videos.
    share: of the videos that have the class.
  """

  missed: int
  predicted: int
  count: int
  share: float


def confusions(scored: Scored, most: int) -> list[Confusion]:
  """What a run confuses most.

  A video with n labels gets n predictions. A label that is not among them is
  confused with each predicted class that is no label.

  Args:
    scored: a run.
    most: how many pairs.

  Returns:
    The pairs with the most videos, the most frequent first.
  """
  num_videos, k = scored.hits.shape
  num_classes = len(scored.classes)
  label_rows, label_classes = scored.positives
  num_labels = np.bincount(label_rows, minlength=num_videos)
  within = np.arange(k) < num_labels[:, np.newaxis]
  hit_rows, ranks = np.nonzero(scored.hits & within)
  found = hit_rows * num_classes + scored.class_indexes[hit_rows, ranks]
  labels = label_rows * num_classes + label_classes
  missed = ~np.isin(labels, found)
  missed_rows, missed_classes = label_rows[missed], label_classes[missed]
  wrong_rows, ranks = np.nonzero(~scored.hits & within)
  wrong_classes = scored.class_indexes[wrong_rows, ranks]
  # Each missed label of a video with each wrong prediction of it.
  starts = np.searchsorted(wrong_rows, missed_rows, "left")
  counts = np.searchsorted(wrong_rows, missed_rows, "right") - starts
  places = np.arange(counts.sum()) - np.repeat(
    np.cumsum(counts) - counts, counts
  )
  predicted = wrong_classes[np.repeat(starts, counts) + places]
  pairs = np.repeat(missed_classes.astype(np.int64), counts) * num_classes
  keys, totals = np.unique(pairs + predicted, return_counts=True)
  order = np.argsort(-totals, kind="stable")[:most]
  of_class = positives_of(scored)
  return [
    Confusion(
      int(keys[place] // num_classes),
      int(keys[place] % num_classes),
      int(totals[place]),
      float(totals[place] / of_class[keys[place] // num_classes]),
    )
    for place in order
  ]
