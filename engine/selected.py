"""What --label_subset and --min_frames leave of the files of a run.

records/selection.py decides it. Here are its flags, its totals at the start of
a run, and what a user is told.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

import errors
import models
from engine.progress_bar import Progress
from records import shards
from records.messages import BadRecordError
from records.selection import Selection

# AutoGraph would rewrite each function for tf.data, which takes a good part of
# a second.
_as_written = tf.autograph.experimental.do_not_convert


# Function of a file's index that returns its walk and how many examples of each
# record are used.
OpenFile = Callable[[int], tuple[shards.Walk, Any]]


@dataclasses.dataclass
class Count:
  """How much is left.

  Attributes:
    records: that were looked at.
    videos: that are left of them.
    examples: videos or rated segments of these.
  """

  records: int = 0
  videos: int = 0
  examples: int = 0

  def add(self, examples: np.ndarray) -> None:
    """Adds records.

    Args:
      examples: (records,) int, how many of each are left.
    """
    self.records += len(examples)
    self.videos += int(np.count_nonzero(examples))
    self.examples += int(examples.sum())


class SelectedRecords:
  """The records of files that are used, and how many examples each has.

  Args:
    files: as from find_files.
    selection: which are used.
    conditions: what a video must be like, for messages.

  """

  def __init__(self, files: list[str], selection: Selection, conditions: str):
    self._files = files
    self._selection = selection
    self._conditions = conditions
    self._found: dict[str, tuple[list[int], np.ndarray]] = {}
    self._first = Count()

  def examples(self, path: str, walk: shards.Walk) -> np.ndarray:
    """How many examples of each record of a local file are used.

    Args:
      path: of the file.
      walk: its walk.

    Returns:
      (records,) int32.

    Raises:
      OSError: the file cannot be read.
    """
    # Kept in memory too, for homes where nothing can be written.
    identity = shards.identity_of(path)
    before, found = self._found.get(path, (None, None))
    if found is None or before != identity or len(found) != len(walk):
      found = self._selection.examples_of_file(path, walk).astype(np.int32)
      self._found[path] = identity, found
    return found

  def filter(self, records: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves out records of remote_files.interleave."""

    def is_used(_, __, data):
      used = tf.numpy_function(
        lambda record: np.bool_(self._selection.num_examples(record) > 0),
        [data],
        tf.bool,
      )
      return tf.ensure_shape(used, [])

    return records.filter(_as_written(is_used))

  def local_records(
    self,
    open_file: OpenFile,
    on_damage: Callable[[str, int, BadRecordError], None],
  ) -> Iterator[tuple[str, int, memoryview]]:
    """Reads the records that are used, as engine.data.records_of does.

    Args:
      open_file: see OpenFile.
      on_damage: see records_of.

    Raises:
      errors.UserError: there are records, but none is used.
    """
    reader = shards.RecordReader(self._files)
    count = Count()
    for file, path in enumerate(self._files):
      walk, examples = open_file(file)
      count.add(examples)
      for number in np.flatnonzero(examples).tolist():
        try:
          data = reader.read(file, *walk.place(number))
        except BadRecordError as error:
          on_damage(path, number, error)
          continue
        yield path, number, data
    self._check(count)

  def of_remote(self, records) -> Iterator[tuple[str, int, bytes]]:
    """Leaves out records of engine.data.records_of, and counts them.

    Raises:
      errors.UserError: there are records, but none is used.
    """
    for file, number, data in records:
      examples = np.array([self._selection.num_examples(data)])
      self._first.add(examples)
      if examples[0]:
        yield file, number, data
    self._check(self._first)

  def count(self, open_file: OpenFile | None) -> Count:
    """Finds out how much is left, and says it.

    Args:
      open_file: see OpenFile; None for files that TensorFlow reads, of which
        the first records stand for all.

    Raises:
      errors.UserError: a file cannot be read; no record is left.
    """
    count, first = self._first, " first"
    if open_file:
      count, first = self._count_all(open_file), ""
    self._check(count)
    segments = ""
    if count.examples > count.videos:
      segments = f", which have {count.examples:,} rated segments"
    logging.info(
      "Using %s of the%s %s videos: those with %s%s.",
      f"{count.videos:,}",
      first,
      f"{count.records:,}",
      self._conditions,
      segments,
    )
    return count

  def _count_all(self, open_file: OpenFile) -> Count:
    """Looks at all records of local files."""
    count = Count()
    progress = Progress("Looked at")
    for file in range(len(self._files)):
      _, examples = open_file(file)
      count.add(examples)
      if progress.is_due():
        done = file + 1
        text = f"{done:,} of {len(self._files):,} files for videos to use"
        progress.show(done / len(self._files), text)
    progress.end()
    return count

  def _check(self, count: Count) -> None:
    if count.records and not count.videos:
      first, *others = self._files
      more = f" and {len(others)} more files" if others else ""
      raise errors.UserError(
        f"Expected videos with {self._conditions}, found none among the"
        f" {count.records:,} of {first}{more}. Name other files,"
        " or change the flags."
      )


def _check_exclusive(model_flags: dict, segment_labels: bool) -> None:
  """Checks that examples can have exactly one label each.

  Raises:
    errors.UserError: they are segments, or there is nothing to choose.
  """
  if segment_labels:
    raise errors.UserError(
      "Expected whole videos with --exclusive_classes, received"
      " --segment_labels: a segment is rated for some classes, which does not"
      " say which one it has. Leave one of the flags out."
    )
  if models.num_outputs(model_flags) < 2:
    raise errors.UserError(
      "Expected at least two classes to choose from with --exclusive_classes,"
      " received one. Leave the flag out, or name more classes."
    )


def select(
  model_flags: dict,
  files: list[str],
  *,
  with_labels: bool,
  segment_labels: bool,
  min_frames: int,
) -> SelectedRecords | None:
  """Turns flags into what they leave of files.

  Args:
    model_flags: see engine/train_dir.py.
    files: as from find_files.
    with_labels: whether labels are needed; else --label_subset leaves out none.
    segment_labels: whether the examples are rated segments.
    min_frames: see --min_frames; 0 for none.

  Returns:
    None if they leave out nothing.

  Raises:
    errors.UserError: videos without frames are to have some; there cannot be
      one label of each example, as --exclusive_classes needs.
  """
  if with_labels and models.are_exclusive(model_flags):
    _check_exclusive(model_flags, segment_labels)
  classes = model_flags.get("label_subset") if with_labels else None
  if not classes and not min_frames:
    return None
  if min_frames and not model_flags["frame_features"]:
    raise errors.UserError(
      f"Expected frame-level features with --min_frames={min_frames}, received"
      " video-level ones, which do not say how long a video is. Leave the flag"
      " out."
    )
  conditions = []
  if classes:
    conditions.append(
      f"one of the {len(classes)} classes of --label_subset"
      if len(classes) > 1
      else f"the class {classes[0]} (--label_subset)"
    )
  if min_frames:
    conditions.append(f"at least {min_frames} frames (--min_frames)")
  selection = Selection(
    model_flags["num_classes"],
    classes or (),
    min_frames,
    model_flags["feature_names"].split(",")[0],
    segments=segment_labels and with_labels,
  )
  return SelectedRecords(files, selection, " and ".join(conditions))
