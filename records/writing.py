"""Writes records, and files of them.

Arrays become records of the layout that records/frames.py and vectors.py read
fastest, the usual one of every writer. The numbers of a float32 array are in
the record as protobuf's packed floats; those of a float16 or uint8 array as
bytes, two or one for each number. The dtype of each feature NAME is in the
context, as NAME/dtype: 1024 bytes may be 1024 numbers or 512.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from records.contents import dtype_key
from records.shards import checksum

# Tags of length-delimited fields, by their number.
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A


def _varint(number: int) -> bytes:
  """A number as protobuf writes it, 7 bits a byte."""
  digits = bytearray()
  while number >= 0x80:
    digits.append(number & 0x7F | 0x80)
    number >>= 7
  digits.append(number)
  return bytes(digits)


def _head(tag: int, size: int) -> bytes:
  """What precedes the content of a field."""
  return bytes((tag,)) + _varint(size)


def _field(tag: int, content: bytes) -> bytes:
  return _head(tag, len(content)) + content


def _nested(tags: Sequence[int], size: int) -> bytes:
  """The heads of fields around some bytes, each the only content of another.

  Args:
    tags: from the outermost field on.
    size: of the bytes in the innermost one.
  """
  heads = b""
  for tag in reversed(tags):
    heads = _head(tag, len(heads) + size) + heads
  return heads


def _entry(name: str, value: bytes) -> bytes:
  """An entry of a map of messages."""
  key = _field(_FIRST, name.encode())
  return _field(_FIRST, key + _field(_SECOND, value))


def _bytes_feature(value: bytes) -> bytes:
  return _field(_FIRST, _field(_FIRST, value))


def _labels_feature(labels: Sequence[int]) -> bytes:
  packed = b"".join(map(_varint, labels))
  return _field(_THIRD, _field(_FIRST, packed) if packed else b"")


def _array_tag(array: np.ndarray) -> int:
  """The list of a feature that holds an array: of bytes or of floats.

  Raises:
    ValueError: it has another dtype.
  """
  if array.dtype == np.float32:
    return _SECOND
  if array.dtype in (np.float16, np.uint8):
    return _FIRST
  raise ValueError(
    f"Expected float32, float16 or uint8, received {array.dtype}."
  )


def _context(
  video_id: bytes, labels: Sequence[int] | None, arrays: Mapping
) -> bytes:
  """The entries that records of both levels have."""
  entries = [_entry("id", _bytes_feature(video_id))]
  if labels is not None:
    entries.append(_entry("labels", _labels_feature(sorted(labels))))
  for name, array in arrays.items():
    dtype = array.dtype.name.encode()
    entries.append(_entry(dtype_key(name), _bytes_feature(dtype)))
  return b"".join(entries)


def video_record(
  video_id: bytes,
  labels: Sequence[int] | None,
  vectors: Mapping[str, np.ndarray],
) -> bytes:
  """Makes a video-level record, a tf.train.Example.

  Args:
    video_id: its id.
    labels: class indices; None for a record without the feature.
    vectors: (numbers,) array of float32, float16 or uint8 for each feature.

  Raises:
    ValueError: an array has another dtype.
  """
  entries = [_context(video_id, labels, vectors)]
  for name, vector in vectors.items():
    content = np.ascontiguousarray(vector).tobytes()
    value = _nested((_array_tag(vector), _FIRST), len(content)) + content
    entries.append(_entry(name, value))
  return _field(_FIRST, b"".join(entries))


def frame_record(
  video_id: bytes,
  labels: Sequence[int] | None,
  frames: Mapping[str, np.ndarray],
) -> bytes:
  """Makes a frame-level record, a tf.train.SequenceExample.

  Args:
    video_id: its id.
    labels: class indices; None for a record without the feature.
    frames: (frames, numbers) array of float32, float16 or uint8 for each
      feature.

  Raises:
    ValueError: an array has another dtype.
  """
  lists = []
  for name, matrix in frames.items():
    content = np.ascontiguousarray(matrix).view(np.uint8)
    count, size = content.shape
    heads = _nested((_FIRST, _array_tag(matrix), _FIRST), size)
    rows = np.empty((count, len(heads) + size), np.uint8)
    rows[:, : len(heads)] = np.frombuffer(heads, np.uint8)
    rows[:, len(heads) :] = content
    lists.append(_entry(name, rows.tobytes()))
  context = _context(video_id, labels, frames)
  return _field(_FIRST, context) + _field(_SECOND, b"".join(lists))


class RecordWriter:
  """Writes a TFRecord file; a context manager.

  Args:
    path: of the new file, which is not whole before the writer is closed.

  Attributes:
    num_bytes: written so far.
  """

  _HEADER = struct.Struct("<Q")
  _CHECKSUM = struct.Struct("<I")

  def __init__(self, path: str):
    self._file = open(path, "wb")  # noqa: SIM115
    self.num_bytes = 0

  def __enter__(self) -> "RecordWriter":
    return self

  def __exit__(self, *_) -> None:
    self._file.close()

  def write(self, record: bytes) -> None:
    """Adds a record.

    Raises:
      OSError: it cannot be written.
    """
    length = self._HEADER.pack(len(record))
    parts = (
      length,
      self._CHECKSUM.pack(checksum(length)),
      record,
      self._CHECKSUM.pack(checksum(record)),
    )
    for part in parts:
      self._file.write(part)
      self.num_bytes += len(part)
