"""Cuts the frames out of serialized frame-level records, a batch at a time.

A frame-level record is a tf.train.SequenceExample in which each frame is a
separate byte string. Parsing it makes a string of each frame, and putting
these together copies them three times. But all frames of a feature have the
same length, and so does what protobuf writes in front of each. The frames
therefore lie at equal distances in the record, and one strided copy moves them
to their place in the batch. A record with another valid layout is parsed by
protobuf.
"""

import numpy as np
import tensorflow as tf

# Field numbers and wire types, as in tensorflow/core/example/*.proto: all the
# messages on the way to a frame are length-delimited fields.
_CONTEXT = 0x0A  # SequenceExample.context
_FEATURE_LISTS = 0x12  # SequenceExample.feature_lists
_FIRST_FIELD = 0x0A  # map entry, its key, feature, bytes_list and value
_SECOND_FIELD = 0x12  # the map entry's value

# TensorFlow uses an array without copying it if its address is a multiple of
# this number.
_ALIGNMENT = 64


class _OtherLayoutError(Exception):
  """The record has another layout than this module expects; may be valid."""


def _length(record: bytes, at: int, tag: int) -> tuple[int, int]:
  """Reads a length-delimited field's head: its length and where it begins.

  Raises:
    _OtherLayoutError: another field begins there.
  """
  if record[at] != tag:
    raise _OtherLayoutError
  at += 1
  length = shift = 0
  while True:
    byte = record[at]
    at += 1
    length |= (byte & 0x7F) << shift
    if byte < 0x80:
      return length, at
    shift += 7


def _first_frames(record: bytes) -> dict[bytes, tuple[int, int, int, int]]:
  """Finds the feature lists of a record.

  Returns:
    For each name: where the list begins and ends, where the content of its
    first frame begins, and that frame's size in bytes; all 0 for an empty list.
  """
  found = {}
  at = 0
  while at < len(record):
    if record[at] == _CONTEXT:
      length, at = _length(record, at, _CONTEXT)
      at += length
      continue
    length, at = _length(record, at, _FEATURE_LISTS)
    end = at + length
    while at < end:
      length, at = _length(record, at, _FIRST_FIELD)
      entry_end = at + length
      length, at = _length(record, at, _FIRST_FIELD)
      name, at = record[at : at + length], at + length
      length, at = _length(record, at, _SECOND_FIELD)
      if name in found or at + length != entry_end:
        raise _OtherLayoutError
      found[name] = (0, 0, 0, 0)
      if length:
        content = at
        for _ in ("feature", "bytes_list", "value"):
          size, content = _length(record, content, _FIRST_FIELD)
        found[name] = (at, entry_end, content, size)
      at = entry_end
    if at != end:
      raise _OtherLayoutError
  if at != len(record):
    raise _OtherLayoutError
  return found


def _strided_frames(record: bytes, names: list[bytes], sizes: list[int]):
  """Makes views of a record's frames, if they lie at equal distances.

  Returns:
    For each feature its frames, (frames, size) uint8, and what lies in front of
    them, (frames, any) uint8. A frame of another length than the first shows in
    the latter: its row differs.

  Raises:
    _OtherLayoutError: the first frame or the whole list shows another layout.
  """
  lists = _first_frames(record)
  array = np.frombuffer(record, np.uint8)
  features, heads = [], []
  for name, size in zip(names, sizes, strict=True):
    if name not in lists:
      raise _OtherLayoutError
    begin, end, content, found_size = lists[name]
    if begin == end:
      features.append(np.empty((0, size), np.uint8))
      continue
    head = content - begin
    frames, rest = divmod(end - begin, head + size)
    if rest or found_size != size:
      raise _OtherLayoutError
    rows = array[begin:end].reshape(frames, head + size)
    features.append(rows[:, head:])
    heads.append(rows[:, :head])
  return features, heads


def _parsed_frames(record: bytes, names: list[bytes], sizes: list[int]):
  """Parses the frames of any valid record; slower than _strided_frames.

  Returns:
    For each feature its frames, (frames, size) uint8.

  Raises:
    ValueError: the record is not valid, or its frames have other sizes.
  """
  try:
    parsed = tf.train.SequenceExample.FromString(record)
  except Exception as error:  # the class differs between protobuf's backends
    raise ValueError("not a SequenceExample") from error
  lists = parsed.feature_lists.feature_list
  features = []
  for name, size in zip(names, sizes, strict=True):
    if name.decode() not in lists:
      raise ValueError(f"no feature list {name!r}")
    frames = [
      list(frame.bytes_list.value) for frame in lists[name.decode()].feature
    ]
    if any(len(frame) != 1 or len(frame[0]) != size for frame in frames):
      raise ValueError(f"frames of {name!r} that do not have {size} bytes")
    joined = b"".join(frame[0] for frame in frames)
    features.append(np.frombuffer(joined, np.uint8).reshape(-1, size))
  return features


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
  """Makes a uint8 array that TensorFlow uses without copying it."""
  size = int(np.prod(shape))
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  first = -memory.ctypes.data % _ALIGNMENT
  return memory[first : first + size].reshape(shape)


def cut_frames(
  records, names: list[str], sizes: list[int], max_frames: int, padded_length
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts out the frames of a batch of records.

  Args:
    records: serialized SequenceExamples whose features are bytes.
    names: the feature lists, in the order in which to concatenate them.
    sizes: bytes in a frame of each.
    max_frames: how many frames of each record to use at most, from the first.
    padded_length: function that takes the number of frames of the longest
      record and returns the length to pad all records to.

  Returns:
    (records, length, sum of sizes) uint8, zero after the last frame of each;
    and (records,) int32, the number of frames of each.

  Raises:
    ValueError: a record is not a SequenceExample, lacks a feature, has frames
      of other sizes, or has features with different numbers of frames.
  """
  encoded = [name.encode() for name in names]
  videos = []
  for record in records:
    try:
      videos.append(_strided_frames(record, encoded, sizes))
    except (_OtherLayoutError, IndexError):
      videos.append((_parsed_frames(record, encoded, sizes), []))
  try:
    return _side_by_side(videos, sum(sizes), max_frames, padded_length)
  except _OtherLayoutError:
    videos = [
      (_parsed_frames(record, encoded, sizes), []) for record in records
    ]
    return _side_by_side(videos, sum(sizes), max_frames, padded_length)


def _side_by_side(videos, size, max_frames, padded_length):
  """Copies the frames of videos to one array; see cut_frames.

  Args:
    videos: (features, heads) of each, as from _strided_frames.
    size: numbers in a frame, over all features.
    max_frames: see cut_frames.
    padded_length: see cut_frames.

  Raises:
    ValueError: a video's features have different numbers of frames.
    _OtherLayoutError: the frames of a video do not lie at equal distances.
  """
  for features, _ in videos:
    if len({len(feature) for feature in features}) > 1:
      raise ValueError("unequal frame counts")
  num_frames = np.array(
    [min(len(features[0]), max_frames) for features, _ in videos], np.int32
  )
  length = padded_length(int(num_frames.max(initial=0)))
  frames = _aligned_empty((len(videos), length, size))
  for video, (features, heads), count in zip(
    frames, videos, num_frames, strict=True
  ):
    start = 0
    for feature in features:
      end = start + feature.shape[1]
      video[:count, start:end] = feature[:count]
      start = end
    video[count:] = 0
    # Only now: the copy has brought the heads into the cache. Fetching these
    # alone, a few bytes here and there, would take as long as the whole copy.
    if any(head.tobytes() != head[0].tobytes() * len(head) for head in heads):
      raise _OtherLayoutError
  return frames, num_frames
