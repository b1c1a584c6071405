"""The labels of many videos, and which of them occur together."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

# Rows of the matrix of chosen classes that are multiplied at a time.
_ROWS = 1 << 16


class LabelSets:
  """The labels of videos, each once in a video.

  Args:
    num_labels: (videos,) int, how many each video has.
    labels: (labels,) int, those of the first video, then of the second, ...
  """

  def __init__(self, num_labels: np.ndarray, labels: np.ndarray):
    self.num_labels = num_labels
    self._labels = labels
    self._ends = np.cumsum(num_labels, dtype=np.int64)

  @functools.cached_property
  def counts(self) -> dict[int, int]:
    """{class: videos} of the classes that occur, the most frequent first."""
    classes, counts = np.unique(self._labels, return_counts=True)
    order = np.lexsort((classes, -counts))
    return dict(
      zip(classes[order].tolist(), counts[order].tolist(), strict=True)
    )

  def of(self, video: int) -> list[int]:
    """The labels of a video."""
    end = int(self._ends[video])
    return self._labels[end - int(self.num_labels[video]) : end].tolist()

  def counts_of(self, videos: np.ndarray) -> dict[int, int]:
    """As `counts`, of some videos.

    Args:
      videos: (videos,) bool.
    """
    is_wanted = np.repeat(videos, self.num_labels)
    classes, counts = np.unique(self._labels[is_wanted], return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))

  @functools.cached_property
  def _videos_of(self) -> np.ndarray:
    """(labels,) int32, the video of each label."""
    return np.repeat(
      np.arange(len(self.num_labels), dtype=np.int32), self.num_labels
    )

  def num_labels_with(self, index: int) -> np.ndarray:
    """(videos of a class,) int, how many labels these have."""
    return self.num_labels[self._videos_of[self._labels == index]]

  def others(self, index: int, most: int) -> list[int]:
    """How many videos of a class have 0, 1, ... other labels.

    Args:
      index: of the class.
      most: the last number counts all from it on.

    Returns:
      most + 1 numbers.
    """
    others = np.minimum(self.num_labels_with(index) - 1, most)
    return np.bincount(others, minlength=most + 1).tolist()

  def partners(self, classes: Sequence[int]) -> dict[int, int]:
    """Counts the labels of the videos that have at least one of some classes.

    Args:
      classes: indices.

    Returns:
      {class: videos} of other classes, the most frequent first.
    """
    has = np.zeros(len(self.num_labels), bool)
    has[self._videos_of[np.isin(self._labels, classes)]] = True
    counts = self.counts_of(has)
    others = sorted(counts.keys() - set(classes))
    others.sort(key=lambda index: -counts[index])
    return {index: counts[index] for index in others}

  def together(self, classes: Sequence[int]) -> np.ndarray:
    """How many videos have two classes.

    Args:
      classes: indices, each once.

    Returns:
      (classes, classes) int64; on the diagonal the videos of a class.
    """
    order = np.argsort(classes)
    known = np.asarray(classes, np.int64)[order]
    counts = np.zeros((len(known), len(known)), np.int64)
    if not len(known):
      return counts
    place = np.minimum(np.searchsorted(known, self._labels), len(known) - 1)
    is_known = known[place] == self._labels
    videos, columns = self._videos_of[is_known], order[place[is_known]]
    starts = np.arange(0, len(self.num_labels) + _ROWS, _ROWS)
    bounds = np.searchsorted(videos, starts)
    for begin, end in itertools.pairwise(bounds.tolist()):
      rows = np.unique(videos[begin:end], return_inverse=True)[1]
      has = np.zeros((int(rows.max(initial=-1)) + 1, len(known)), np.float32)
      has[rows, columns[begin:end]] = 1
      counts += np.rint(has.T @ has).astype(np.int64)
    return counts
