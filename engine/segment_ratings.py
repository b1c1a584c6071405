"""The ratings of segments in records, and a file that keeps them.

A rating says of a segment of 5 s and of a class whether the segment shows it.
Reading ratings needs no frames: of a large record in a local file only the
front is read, where the context is.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

import errors
from engine.data import naming_file, records_of
from engine.data_files import reads_by_number
from engine.files import written_aside
from engine.prediction_file import READ_ERRORS
from engine.progress_bar import Progress
from engine.skipped import STOP, SkippedRecords
from records import contents, messages, selection, shards
from records.messages import BadRecordError, Feature

# More classes than any data has.
_ANY_CLASS = 1 << 63

_NAMES = ("segment_start_times", "segment_labels", "segment_scores")

# Takes the path of a file, the number of a bad record in it, and its error.
OnBad = Callable[[str, int, BadRecordError], None]


class Ratings(NamedTuple):
  """Rated pairs of a segment and a class, each once.

  Attributes:
    segments: (pairs,) bytes, as in predictions: "id:start".
    classes: (pairs,) int64, class indices.
    is_positive: (pairs,) bool, whether the segment shows the class.
  """

  segments: np.ndarray
  classes: np.ndarray
  is_positive: np.ndarray


# --------------------------------------------------------------------------
# Records


def _contexts(
  files: list[str], on_bad: OnBad
) -> Iterator[tuple[str, int, dict[str, Feature]]]:
  """Reads the path, the number and the context of each record."""
  progress = Progress("Read")
  if reads_by_number(files):
    for done, path in enumerate(files, 1):
      yield from _local_contexts(path, on_bad)
      if progress.is_due():
        text = f"the ratings of {done:,} of {len(files):,} files"
        progress.show(done / len(files), text)
  else:
    for path, number, data in records_of(files, on_bad):
      try:
        context = messages.parse_record(data).context
      except BadRecordError as error:
        on_bad(path, number, error)
        continue
      yield path, number, context
  progress.end()


def _local_contexts(path: str, on_bad: OnBad):
  """As `_contexts`, of a local file."""
  with naming_file(path):
    walk = shards.kept_walk(path)
    damage = shards.damage_after(path, walk)
    reader = shards.RecordReader([path])
    for number in range(len(walk)):
      try:
        context = selection.stored_context(reader, *walk.place(number))
      except BadRecordError as error:
        on_bad(path, number, error)
        continue
      yield path, number, context
  if damage:
    on_bad(path, len(walk), damage)


def _ratings_of_records(
  files: list[str], on_bad: OnBad
) -> Iterator[tuple[bytes, list[int], list[int], list[float]]]:
  """Reads the ratings of each record that has some.

  Args:
    files: as from find_files.
    on_bad: see OnBad.

  Yields:
    The id of the video, and of each rating the start time in seconds, the class
    and the score.
  """
  for path, number, context in _contexts(files, on_bad):
    if context.keys().isdisjoint(_NAMES):
      continue
    try:
      ratings = contents.segments(context, _ANY_CLASS)
      video_id = contents.video_id(context)
    except BadRecordError as error:
      on_bad(path, number, error)
      continue
    if ratings[0]:
      yield video_id, *ratings


def read_ratings(files: list[str]) -> Ratings:
  """Reads the ratings of all records, in their order.

  Several ratings of a pair are one, which is positive if any of them is, as in
  the labels of evaluation.

  Args:
    files: as from find_files.

  Raises:
    errors.UserError: a record is bad, a file cannot be read, or there are no
      ratings.
  """
  found: dict[tuple[bytes, int], bool] = {}
  for video_id, *ratings in _ratings_of_records(
    files, SkippedRecords(STOP).add
  ):
    for time, index, score in zip(*ratings, strict=True):
      pair = b"%b:%d" % (video_id, time), index
      found[pair] = found.get(pair, False) or score > 0
  if not found:
    first, *others = files
    more = f" and {len(others)} more files" if others else ""
    raise errors.UserError(
      f"Expected rated segments ({', '.join(_NAMES)}) in {first}{more}, found"
      " none. Name files such as 3/frame/validate*.tfrecord; the test split has"
      " no ratings."
    )
  return Ratings(
    np.array([segment for segment, _ in found]),
    np.array([index for _, index in found], np.int64),
    np.array(list(found.values())),
  )


def rated_classes(files: list[str]) -> list[int]:
  """The classes that segments are rated for, ascending; of bad records none.

  Args:
    files: as from find_files.

  Raises:
    errors.UserError: a file cannot be read.
  """
  classes = set()
  for _, _, rated, _ in _ratings_of_records(files, lambda *_: None):
    classes.update(rated)
  return sorted(classes)


# --------------------------------------------------------------------------
# The file that keeps them


def _identity(files: list[str]) -> str:
  """A text that changes with the names, sizes and times of files."""
  known = hashlib.sha256()
  for file in files:
    found = tf.io.gfile.stat(file)
    name = os.path.basename(file)
    known.update(f"{name}\n{found.length} {found.mtime_nsec}\n".encode())
  return known.hexdigest()


@contextlib.contextmanager
def _naming_cache(path: str) -> Iterator[None]:
  """Turns what the system says about the file into an error with its flag."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    reason = getattr(error, "message", None) or error
    raise errors.of_system(
      error,
      "Expected a file that can be read and written as"
      f" --label_cache={path}: {reason}. Name another.",
    ) from error


def _read_kept(path: str) -> tuple[str, Ratings] | None:
  """Reads a file that `_keep` wrote.

  Returns:
    The identity of the data, and the ratings; None if there is no such file.

  Raises:
    errors.UserError: it holds something else, or is damaged.
  """
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "rb") as file:
    data = io.BytesIO(file.read())
  try:
    content = np.load(data, allow_pickle=False)
    ratings = Ratings(*(content[name] for name in Ratings._fields))
    identity = str(content["identity"])
    kinds = [array.dtype.kind for array in ratings]
    shapes = {array.shape for array in ratings}
    if kinds == ["S", "i", "b"] and shapes == {(len(ratings.segments),)}:
      return identity, ratings
  except (*READ_ERRORS, OSError):
    pass
  raise errors.UserError(
    f"Expected ratings that an earlier run kept in --label_cache={path},"
    " received a file that is damaged or holds something else. Delete it, or"
    " name another."
  )


def _keep(path: str, identity: str, ratings: Ratings) -> None:
  """Writes a file of ratings."""
  content = io.BytesIO()
  np.savez(content, identity=np.array(identity), **ratings._asdict())
  with written_aside(path) as aside, tf.io.gfile.GFile(aside, "wb") as file:
    file.write(content.getvalue())


def kept_ratings(files: list[str], path: str) -> Ratings:
  """Reads ratings from a file that keeps them, if it is of the same data.

  Else they are read from the records, and kept.

  Args:
    files: as from find_files.
    path: of the file that keeps them; empty for none.

  Raises:
    errors.UserError: see read_ratings; the file holds something else, is
      damaged, or cannot be read or written.
  """
  if not path:
    return read_ratings(files)
  with _naming_cache(path):
    kept = _read_kept(path)
  identity = _identity(files)
  if kept and kept[0] == identity:
    logging.info("The ratings are those kept in %s.", path)
    return kept[1]
  if kept:
    logging.info(
      "The ratings kept in %s are of other files, or these have changed since:"
      " reading them again.",
      path,
    )
  ratings = read_ratings(files)
  with _naming_cache(path):
    _keep(path, identity, ratings)
  logging.info("The ratings are kept in %s.", path)
  return ratings
