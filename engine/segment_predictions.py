"""The best segments of each class: what inference.py --segment_labels writes.

Every segment competes in every class: nothing is cut to the best classes of a
segment first, which would lose answers.
"""

import array
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

import errors
import readers
from engine import csv_cells, segment_ratings
from engine.files import text_written_aside
from engine.progress_bar import Progress

# Segments whose confidences are sorted into the classes together: enough to
# make the work for a class large, few enough to need little memory.
_SEGMENTS_AT_A_TIME = 4096
_SHOWN = 40  # letters of a line that a message names


# --------------------------------------------------------------------------
# Which classes


def find_classes(
  files: list[str], num_classes: int, label_subset: list[int] | None = None
) -> np.ndarray:
  """Finds out which classes to predict segments of.

  Those that the records have ratings of; if they have none, as in the test
  split, all that the model predicts.

  Args:
    files: of records, as from find_files.
    num_classes: classes of the data.
    label_subset: those that the model predicts; None for all.

  Returns:
    Class indices, int64, ascending.

  Raises:
    errors.UserError: a file cannot be read.
  """
  predicted = label_subset or range(num_classes)
  rated = sorted({*segment_ratings.rated_classes(files)} & {*predicted})
  if rated:
    logging.info(
      "Segments of the %d classes that the records have ratings of;"
      " --segment_label_ids_file names others.",
      len(rated),
    )
  else:
    logging.info(
      "Segments of all %d classes of the model, as the records have no ratings;"
      " --segment_label_ids_file names fewer.",
      len(predicted),
    )
  return np.array(rated or predicted, np.int64)


def read_classes(
  path: str, num_classes: int, label_subset: list[int] | None = None
) -> np.ndarray:
  """Reads which classes to predict segments of.

  Args:
    path: CSV with a header and one class index per line.
    num_classes: classes of the data.
    label_subset: those that the model predicts; None for all.

  Returns:
    Class indices, int64, in the order of the file.

  Raises:
    errors.UserError: a line is not a class of the model, or is there twice.
  """
  classes: dict[int, int] = {}
  try:
    with tf.io.gfile.GFile(path) as file:
      text = file.read().removeprefix("\ufeff")  # as spreadsheets write it
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"Expected a CSV file in UTF-8 as {path}, received another one ({error})."
      " Save it as such."
    ) from error
  header, *lines = text.splitlines() or [""]
  if header.strip().isdigit() or not header:
    raise errors.UserError(
      f"Expected a header, such as Index, in {path}, line 1, found {header!r}."
    )
  for number, line in enumerate(lines, start=2):
    text = line.strip()
    if not csv_cells.is_index(text) or int(text) >= num_classes:
      raise errors.UserError(
        f"Expected a class index from 0 to {num_classes - 1} in {path}, line"
        f" {number}, found {line[:_SHOWN]!r}."
      )
    index = int(text)
    if label_subset and index not in label_subset:
      raise errors.UserError(
        f"Expected classes of the model's --label_subset in {path}, line"
        f" {number}, found {index}. Leave it out, or name another model."
      )
    if index in classes:
      raise errors.UserError(
        f"Expected each class once in {path}, found {index} in line {number}"
        f" and in line {classes[index]}. Leave one out."
      )
    classes[index] = number
  return np.array(list(classes), np.int64)


# --------------------------------------------------------------------------
# The best of each class


class _Names:
  """The names of segments, by their number in the order of the input.

  The segments of a video follow each other, so a video takes a few bytes, and
  not each of its segments.
  """

  def __init__(self):
    self._ids: list[str] = []
    # Of each video, the number and the start time of its first segment.
    self._firsts = array.array("q")
    self._starts = array.array("q")
    self._next: tuple[bytes, int] | None = None
    self._count = 0

  def add(self, video_ids: np.ndarray, starts: np.ndarray) -> None:
    """Takes the next segments; see BestSegments.add."""
    follows = np.zeros(len(starts), bool)
    follows[1:] = (video_ids[1:] == video_ids[:-1]) & (
      starts[1:] == starts[:-1] + readers.SEGMENT_FRAMES
    )
    follows[:1] = self._next == (video_ids[0], starts[0])
    for row in np.flatnonzero(~follows).tolist():
      self._ids.append(csv_cells.item_text(video_ids[row]))
      self._firsts.append(self._count + row)
      self._starts.append(int(starts[row]))
    self._count += len(starts)
    self._next = video_ids[-1], starts[-1] + readers.SEGMENT_FRAMES

  def of(self, numbers: np.ndarray) -> list[str]:
    """The names of segments, "id:start"."""
    firsts, starts = np.array(self._firsts), np.array(self._starts)
    videos = np.searchsorted(firsts, numbers, "right") - 1
    begins = starts[videos] + readers.SEGMENT_FRAMES * (
      numbers - firsts[videos]
    )
    return [
      f"{self._ids[video]}:{start}"
      for video, start in zip(videos.tolist(), begins.tolist(), strict=True)
    ]


class _Best:
  """The largest of many numbers, in bounded memory, and their places.

  It holds a quarter more than it keeps. When it is full, it drops the smallest;
  what is not larger than the last one that stayed need not be held at all. What
  it holds is in the order of the input, so that of equal numbers the earlier
  ones stay.

  Args:
    limit: how many to keep.
  """

  def __init__(self, limit: int):
    self._limit = limit
    self._room = limit + max(limit // 4, _SEGMENTS_AT_A_TIME)
    self._values = np.empty(0, np.float32)
    self._places = np.empty(0, np.int32)
    self._count = 0
    self._least = -np.inf

  def add(self, values: np.ndarray, first: int) -> None:
    """Takes numbers.

    Args:
      values: (numbers,) float32, at most _SEGMENTS_AT_A_TIME.
      first: the place of the first; that of the next is larger by one.
    """
    rows = np.flatnonzero(values > self._least)
    if self._count + len(rows) > self._room:
      self._drop_smallest()
      rows = np.flatnonzero(values > self._least)
    end = self._count + len(rows)
    if end > len(self._values):
      size = min(max(2 * end, _SEGMENTS_AT_A_TIME), self._room)
      self._values = _longer(self._values, size)
      self._places = _longer(self._places, size)
    self._values[self._count : end] = values[rows]
    self._places[self._count : end] = first + rows
    self._count = end

  def _drop_smallest(self) -> None:
    """Keeps as many as there may be."""
    held = self._values[: self._count]
    surplus = self._count - self._limit
    if surplus <= 0:
      return
    self._least = np.partition(held, surplus)[surplus]
    stay = held > self._least
    ties = np.flatnonzero(held == self._least)
    stay[ties[: self._limit - np.count_nonzero(stay)]] = True
    self._values[: self._limit] = held[stay]
    self._places[: self._limit] = self._places[: self._count][stay]
    self._count = self._limit

  def ranked(self) -> np.ndarray:
    """The places of the largest, the largest first."""
    order = np.argsort(-self._values[: self._count], kind="stable")
    return self._places[order[: self._limit]]


def _longer(values: np.ndarray, size: int) -> np.ndarray:
  """A copy of an array with room for more."""
  longer = np.empty(size, values.dtype)
  longer[: len(values)] = values
  return longer


class BestSegments:
  """Keeps the best segments of each class, in bounded memory.

  Of equally confident segments, the earlier one in the input comes first. For a
  class it takes at most 10 bytes for each of the `limit` segments: 1 GB for
  1000 classes and 100,000 segments.

  Args:
    num_classes: number of classes kept.
    limit: best segments kept for each.
  """

  def __init__(self, num_classes: int, limit: int):
    self._best = [_Best(limit) for _ in range(num_classes)]
    self._names = _Names()
    self._pending: list[np.ndarray] = []
    self._num_pending = self._num_segments = 0

  def add(
    self, video_ids: np.ndarray, starts: np.ndarray, confidences: np.ndarray
  ) -> None:
    """Takes segments, those of a video one after the other.

    Args:
      video_ids: (segments,) bytes, of their videos.
      starts: (segments,) int, where they start, in seconds.
      confidences: (segments, classes) float32, finite.
    """
    for first in range(0, len(starts), _SEGMENTS_AT_A_TIME):
      rows = slice(first, first + _SEGMENTS_AT_A_TIME)
      self._names.add(video_ids[rows], starts[rows])
      part = confidences[rows]
      if self._num_pending + len(part) > _SEGMENTS_AT_A_TIME:
        self._sort_in()
      self._pending.append(part)
      self._num_pending += len(part)

  def _sort_in(self) -> None:
    """Gives each class the confidences that wait."""
    if not self._pending:
      return
    by_class = np.ascontiguousarray(np.concatenate(self._pending).T)
    for best, values in zip(self._best, by_class, strict=True):
      best.add(values, self._num_segments)
    self._num_segments += self._num_pending
    self._pending, self._num_pending = [], 0

  def ranked(self) -> Iterator[list[str]]:
    """Yields for each class the names of its best segments, best first."""
    self._sort_in()
    for best in self._best:
      yield self._names.of(best.ranked())


# --------------------------------------------------------------------------
# The file


def write_best_segments(
  predictions: Iterable[tuple[Mapping, np.ndarray]],
  output_file: str,
  classes: np.ndarray,
  limit: int,
  label_subset: list[int] | None = None,
) -> None:
  """Writes the best segments of each class, highest confidence first.

  Args:
    predictions: (batch of readers.py, its predictions (segments, classes)).
    output_file: CSV: Class,Segments; a line is class,id:start id:start ..., the
      ids as csv_cells.item_text writes them.
    classes: the classes to write, in this order.
    limit: most segments per class.
    label_subset: the class of each prediction, ascending; None if the model
      predicts all classes.
  """
  columns = classes
  if label_subset:
    columns = np.searchsorted(label_subset, classes)
  best = BestSegments(len(classes), limit)
  for batch, confidences in predictions:
    best.add(
      batch["video_ids"].numpy(),
      batch["segment_start_times"].numpy(),
      confidences[:, columns],
    )
  progress = Progress("Wrote")
  with text_written_aside(output_file) as file:
    file.write("Class,Segments\n")
    ranked = zip(classes, best.ranked(), strict=True)
    for done, (class_index, names) in enumerate(ranked, 1):
      file.write(f"{class_index},{' '.join(names)}\n")
      if progress.is_due():
        text = f"the segments of {done:,} of {len(classes):,} classes"
        progress.show(done / len(classes), text)
  progress.end()
