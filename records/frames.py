"""From the bytes of frame-level records to the arrays of a batch.

A frame-level record is a tf.train.SequenceExample in which each frame is a
separate message. Parsing it makes an object of each frame, and putting these
together copies them three times. But all frames of a feature have the same
length, and so does what protobuf writes before each. So the frames are at equal
distances in the record, and one strided copy moves them to their place in the
batch, while the record is in the cache. A record with another valid layout is
parsed by records/messages.py, and records/contents.py says what is wrong with a
bad one.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

import quantization
from records import contents, messages
from records.memory import aligned_empty, aligned_zeros
from records.messages import usual_length

# Field numbers and wire types, as in tensorflow/core/example/*.proto: all the
# messages on the way to a frame are length-delimited fields.
_CONTEXT = 0x0A  # SequenceExample.context
_FEATURE_LISTS = 0x12  # SequenceExample.feature_lists
_FIRST_FIELD = 0x0A  # map entry, its key, feature, bytes_list and value
_SECOND_FIELD = 0x12  # the map entry's value, float_list


class _OtherLayoutError(Exception):
  """The record has another layout than this module expects; may be valid."""


@dataclasses.dataclass(frozen=True)
class FrameFeatures:
  """The features that are wanted of each frame.

  Attributes:
    names: of the feature lists, in the order in which to concatenate them.
    sizes: how many numbers a frame of each has.
    kinds: "bytes", "float" or "float16" for each. If all are the same, so is
      the result; else it is float, and bytes are dequantized.
    for_trained: whether a trained model has fixed these, see records.contents.
    ranges: of the bytes of each, if they are dequantized; None for
      YouTube-8M's.
  """

  names: tuple[str, ...]
  sizes: tuple[int, ...]
  kinds: tuple[str, ...]
  for_trained: bool = False
  ranges: tuple[quantization.Range, ...] | None = None

  @functools.cached_property
  def dtype(self) -> type:
    """Of the frames: np.uint8, np.float16 or np.float32."""
    if len(set(self.kinds)) > 1:
      return np.float32
    return {"bytes": np.uint8, "float16": np.float16}.get(
      self.kinds[0], np.float32
    )

  @functools.cached_property
  def num_bytes(self) -> list[int]:
    """The bytes of a frame of each feature in a record."""
    return [
      size * {"bytes": 1, "float16": 2, "float": 4}[kind]
      for size, kind in zip(self.sizes, self.kinds, strict=True)
    ]


def _find_lists(record: memoryview) -> tuple[memoryview, dict[str, tuple]]:
  """Finds the context and the feature lists of a record.

  Returns:
    The context, and for each list where its entries begin and end.

  Raises:
    _OtherLayoutError, one of messages.PARSE_ERRORS: there are other fields, or
      several of one kind, or it is no record.
  """
  context, lists = None, {}
  at, size = 0, len(record)
  while at < size:
    if record[at] == _CONTEXT:
      begin, at = usual_length(record, at, _CONTEXT, size)
      if context is not None:
        raise _OtherLayoutError
      context = record[begin:at]
      continue
    at, end = usual_length(record, at, _FEATURE_LISTS, size)
    while at < end:
      at, entry_end = usual_length(record, at, _FIRST_FIELD, end)
      at, name_end = usual_length(record, at, _FIRST_FIELD, entry_end)
      name = str(record[at:name_end], "utf-8")
      at, value_end = usual_length(record, name_end, _SECOND_FIELD, entry_end)
      if name in lists or value_end != entry_end:
        raise _OtherLayoutError
      lists[name] = (at, entry_end)
      at = entry_end
  if context is None:
    raise _OtherLayoutError
  return context, lists


def _rows(record: memoryview, span: tuple) -> tuple[np.ndarray, int, str]:
  """Views the frames of a list as the rows of a matrix.

  Args:
    record: the data of a record.
    span: where the list's entries begin and end.

  Returns:
    (frames, head bytes + frame bytes) uint8 view of the record; the number of
    head bytes; the kind, "bytes" or "float". A frame of another length than the
    first shows in its head, which differs from the first one.

  Raises:
    _OtherLayoutError, one of messages.PARSE_ERRORS: the first frame or the
      whole list shows another layout.
  """
  begin, end = span
  if begin == end:
    return np.empty((0, 0), np.uint8), 0, "empty"
  at, frame_end = usual_length(record, begin, _FIRST_FIELD, end)  # its feature
  kind = "float" if record[at] == _SECOND_FIELD else "bytes"
  for tag in (_SECOND_FIELD if kind == "float" else _FIRST_FIELD, _FIRST_FIELD):
    at, value_end = usual_length(record, at, tag, frame_end)  # list, value
    if value_end != frame_end:
      raise _OtherLayoutError
  stride = frame_end - begin
  frames, rest = divmod(end - begin, stride)
  if rest:
    raise _OtherLayoutError
  rows = np.frombuffer(record[begin:end], np.uint8).reshape(frames, stride)
  return rows, at - begin, kind


def _heads_differ(rows: np.ndarray, head: int) -> bool:
  """Whether what is before some frame differs from what is before the first."""
  heads = rows[:, :head].tobytes()
  return heads != heads[:head] * len(rows)


def _find_matrices(
  record: memoryview, spans: dict[str, tuple], features: FrameFeatures
) -> list[tuple[np.ndarray, int]]:
  """Finds the frames of all wanted features, which must have equally many.

  Returns:
    For each feature the matrix of its frames and the number of head bytes.

  Raises:
    _OtherLayoutError: they are not as wanted, or have another layout.
  """
  if len(set(features.kinds)) > 1:
    raise _OtherLayoutError  # which are converted on the way
  found = {name: _rows(record, span) for name, span in spans.items()}
  if not found.keys() >= set(features.names):
    raise _OtherLayoutError
  wanted = [found.pop(name) for name in features.names]
  if len({len(rows) for rows, _, _ in wanted}) > 1:
    raise _OtherLayoutError
  if any(_heads_differ(rows, head) for rows, head, _ in found.values()):
    raise _OtherLayoutError
  stored = "float" if features.kinds[0] == "float" else "bytes"
  matrices = []
  for (rows, head, kind), size in zip(wanted, features.num_bytes, strict=True):
    if kind == "empty":
      rows = np.empty((0, size), np.uint8)
    elif kind != stored or rows.shape[1] - head != size:
      raise _OtherLayoutError
    matrices.append((rows, head))
  return matrices


def parsed_frames(
  record: messages.Record, features: FrameFeatures
) -> np.ndarray:
  """The frames of a parsed record.

  Args:
    record: as from messages.parse_record, checked by
      contents.check_frame_features.
    features: that are wanted.

  Returns:
    (frames, sum of sizes) array of the features' dtype.
  """
  columns = []
  ranges = features.ranges or [quantization.YOUTUBE8M_RANGE] * len(
    features.names
  )
  for name, size, kind, of in zip(
    features.names, features.sizes, features.kinds, ranges, strict=True
  ):
    column = _stacked(record.lists[name], kind, size)
    if features.dtype == np.float32:
      column = quantization.floats_of(column, of)
    columns.append(column)
  return np.concatenate(columns, axis=1, dtype=features.dtype)


def _stacked(found: list[messages.Feature], kind: str, size: int) -> np.ndarray:
  """The frames of a feature of a parsed and checked record, as stored.

  Args:
    found: the frames, all of this kind and size.
    kind: "bytes", "float" or "float16".
    size: how many numbers each has.

  Returns:
    (frames, numbers) uint8, float32 or float16.
  """
  if kind == "float":
    numbers = np.array([frame.values for frame in found], np.float32)
  else:
    joined = b"".join(frame.values[0] for frame in found)
    numbers = np.frombuffer(joined, "<f2" if kind == "float16" else np.uint8)
  return numbers.reshape(len(found), size)


class FrameBatch:
  """The frames of a batch of videos, added one by one.

  Args:
    num_videos: rows of the batch.
    features: that are wanted of each frame.
    max_frames: how many frames of each video to use at most, from the first.
    padded_length: function that takes the number of frames of the longest
      video and returns the length to pad all videos to. It grows with it.

  Attributes:
    num_frames: (num_videos,) int32, the valid frames of each, 0 at first.
  """

  def __init__(
    self,
    num_videos: int,
    features: FrameFeatures,
    max_frames: int,
    padded_length: Callable[[int], int],
  ):
    self._features = features
    self._max_frames = max_frames
    self._padded_length = padded_length
    # Without frames: the first video says how long it must be.
    self._frames = np.empty(
      (num_videos, 0, sum(features.sizes)), features.dtype
    )
    self.num_frames = np.zeros(num_videos, np.int32)
    self._is_empty = True

  def add(self, row: int, record: memoryview) -> dict[str, messages.Feature]:
    """Adds a record and returns its context.

    Begin with the longest record: a longer one that follows makes the batch be
    copied.

    Args:
      row: of the batch; each is added once.
      record: its data.

    Raises:
      BadRecordError: it is no record, or its frames are not as wanted; leave
        the row out then.
    """
    try:
      context, spans = _find_lists(record)
      matrices = _find_matrices(record, spans, self._features)
      return self._add_matrices(row, matrices, messages.parse_context(context))
    except (_OtherLayoutError, *messages.PARSE_ERRORS):
      parsed = messages.parse_record(record)
      contents.check_frame_features(
        parsed,
        self._features.names,
        self._features.sizes,
        self._features.kinds,
        self._features.for_trained,
      )
      frames = parsed_frames(parsed, self._features)
      place = self._place(row, len(frames))
      place[:] = frames[: len(place)]
      return parsed.context

  def _place(self, row: int, count: int) -> np.ndarray:
    """The part of the batch for a video's frames; the rest of the row is 0."""
    count = min(count, self._max_frames)
    length = self._frames.shape[1]
    if count > length or not length:
      old = self._frames
      shape = (len(old), self._padded_length(count), old.shape[2])
      self._frames = aligned_empty(shape, old.dtype)
      if not self._is_empty:
        self._frames[:, :length] = old
        self._frames[:, length:] = 0
    self._is_empty = False
    self.num_frames[row] = count
    self._frames[row, count:] = 0
    return self._frames[row, :count]

  def _add_matrices(self, row, matrices, context):
    """Copies frames that are at equal distances to their row.

    Raises:
      _OtherLayoutError: they are not.
      BadRecordError: a float is not finite.
    """
    for name, kind in zip(
      self._features.names, self._features.kinds, strict=True
    ):
      if contents.is_half(context, name) != (kind == "float16"):
        raise _OtherLayoutError  # another dtype
    place = self._place(row, len(matrices[0][0]))
    target = place.view(np.uint8) if place.dtype != np.uint8 else place
    count, end = len(place), 0
    for matrix, head in matrices:
      begin, end = end, end + matrix.shape[1] - head
      target[:, begin:end] = matrix[:count, head:]
    # Only now: the copy has brought the heads into the cache. Fetching these
    # alone, a few bytes here and there, would take as long as the whole copy.
    for matrix, head in matrices:
      if _heads_differ(matrix, head):
        raise _OtherLayoutError
    if (
      place.dtype != np.uint8
      and not contents.rows_of_finite_length(place).all()
    ):
      raise _OtherLayoutError  # the plain check says which and why
    return context

  def finish(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The batch.

    Args:
      rows: indices of the rows to keep.

    Returns:
      (rows, length, features) array, zero after the last frame of each video;
      and (rows,) int32, the number of frames of each.
    """
    num_frames = self.num_frames[rows]
    length = self._padded_length(int(num_frames.max(initial=0)))
    if len(rows) == len(self.num_frames) and length == self._frames.shape[1]:
      return self._frames, num_frames
    shape = (len(rows), length, self._frames.shape[2])
    frames = aligned_zeros(shape, self._frames.dtype)
    common = min(length, self._frames.shape[1])
    frames[:, :common] = self._frames[rows, :common]
    return frames, num_frames


def frames_by_name(
  record: memoryview,
) -> tuple[dict[str, messages.Feature], dict[str, np.ndarray]]:
  """The frames of a record, without being told which features there are.

  Args:
    record: its data.

  Returns:
    The context; and for each feature list its frames, (frames, numbers) uint8,
    float16 or float32, as they are stored; (0, 0) if it has none. They are
    views of the record if it has the usual layout.

  Raises:
    BadRecordError: it is no record, or the frames of a feature differ in kind
      or size, or are integers.
  """
  try:
    content, spans = _find_lists(record)
    context = messages.parse_context(content)
    found = {}
    for name, span in spans.items():
      rows, head, kind = _rows(record, span)
      if _heads_differ(rows, head):
        raise _OtherLayoutError
      matrix = rows[:, head:]
      if kind == "float":
        matrix = np.ascontiguousarray(matrix).view("<f4")
      elif contents.is_half(context, name):
        matrix = np.ascontiguousarray(matrix).view("<f2")
      found[name] = matrix
    return context, found
  except (_OtherLayoutError, ValueError, *messages.PARSE_ERRORS):
    parsed = messages.parse_record(record)
    return parsed.context, {
      name: _parsed_matrix(parsed, name) for name in parsed.lists
    }


def _parsed_matrix(record: messages.Record, name: str) -> np.ndarray:
  """The frames of one feature of a parsed record, see `frames_by_name`."""
  frames = record.lists[name]
  if not frames:
    return np.empty((0, 0), np.uint8)
  first = frames[0]
  half = contents.is_half(record.context, name)
  is_usable = first.kind == "float" or (
    first.kind == "bytes"
    and all(len(frame.values) == 1 for frame in frames)
    and (not half or first.size % 2 == 0)
  )
  if not is_usable or any(
    (frame.kind, frame.size) != (first.kind, first.size) for frame in frames
  ):
    raise messages.BadRecordError(
      "wrong size",
      "expected frames that all hold equally many numbers, found"
      f" {contents.listing({name: frames})} and others in it; make the record"
      " again",
    )
  if half and first.kind == "bytes":
    return _stacked(frames, "float16", first.size // 2)
  return _stacked(frames, first.kind, first.size)
