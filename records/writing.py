"""Writes records, and files of them.

Arrays become records of the layout that records/frames.py and vectors.py read
fastest, the usual one of every writer. The numbers of a float32 array are in
the record as protobuf's packed floats; those of a float16 or uint8 array as
bytes, two or one for each number. The dtype of each feature NAME is in the
context, as NAME/dtype: 1024 bytes may be 1024 numbers or 512.
"""

import functools
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from records.contents import dtype_key
from records.shards import checksum

_SMALL = [bytes((number,)) for number in range(0x80)]

# Tags of length-delimited fields, by their number.
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A


def _varint(number: int) -> bytes:
  """A number as protobuf writes it, 7 bits a byte."""
  if number < 0x80:
    return _SMALL[number]
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


def _array_tag(dtype: np.dtype) -> int:
  """The list of a feature that holds an array: of bytes or of floats.

  Raises:
    ValueError: it has another dtype.
  """
  if dtype == np.float32:
    return _SECOND
  if dtype in (np.float16, np.uint8):
    return _FIRST
  raise ValueError(f"Expected float32, float16 or uint8, received {dtype}.")


# The parts that most records share are made once.


@functools.lru_cache(maxsize=4096)
def _labels_entry(labels: tuple[int, ...]) -> bytes:
  return _entry("labels", _labels_feature(sorted(labels)))


@functools.lru_cache(maxsize=256)
def _dtype_entry(name: str, dtype: np.dtype) -> bytes:
  return _entry(dtype_key(name), _bytes_feature(dtype.name.encode()))


@functools.lru_cache(maxsize=256)
def _vector_head(name: str, dtype: np.dtype, size: int) -> bytes:
  """What precedes the bytes of a vector in its entry."""
  heads = _nested((_SECOND, _array_tag(dtype), _FIRST), size)
  key = _field(_FIRST, name.encode())
  return _head(_FIRST, len(key) + len(heads) + size) + key + heads


def _context(
  video_id: bytes, labels: Sequence[int] | None, arrays: Mapping
) -> bytes:
  """The entries that records of both levels have."""
  entries = [_entry("id", _bytes_feature(video_id))]
  if labels is not None:
    entries.append(_labels_entry(tuple(labels)))
  for name, array in arrays.items():
    entries.append(_dtype_entry(name, array.dtype))
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
    content = vector.tobytes()
    entries += (_vector_head(name, vector.dtype, len(content)), content)
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
    heads = _nested((_FIRST, _array_tag(matrix.dtype), _FIRST), size)
    rows = np.empty((count, len(heads) + size), np.uint8)
    rows[:, : len(heads)] = np.frombuffer(heads, np.uint8)
    rows[:, len(heads) :] = content
    lists.append(_entry(name, rows.tobytes()))
  context = _context(video_id, labels, frames)
  return _field(_FIRST, context) + _field(_SECOND, b"".join(lists))


class RecordWriter:
  """Writes a TFRecord file; a context manager.

  Args:
    path: of the file, which is not whole before the writer is closed.
    append: whether to add to a file that is there.

  Attributes:
    num_bytes: written so far.
  """

  _HEADER = struct.Struct("<Q")
  _CHECKSUM = struct.Struct("<I")

  def __init__(self, path: str, append: bool = False):
    self._file = open(path, "ab" if append else "wb")  # noqa: SIM115
    self.num_bytes = 0

  def __enter__(self) -> "RecordWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file.

    Raises:
      OSError: what is left cannot be written; names the file.
    """
    try:
      self._file.close()
    except OSError as error:
      error.filename = self._file.name
      raise

  def write(self, record: bytes) -> None:
    """Adds a record.

    Raises:
      OSError: it cannot be written; names the file.
    """
    length = self._HEADER.pack(len(record))
    head = length + self._CHECKSUM.pack(checksum(length))
    try:
      self._file.write(head)
      self._file.write(record)
      self._file.write(self._CHECKSUM.pack(checksum(record)))
    except OSError as error:
      error.filename = self._file.name
      raise
    self.num_bytes += len(head) + len(record) + self._CHECKSUM.size

  def flush(self) -> None:
    """Gives what was written to the system, where it outlives this process.

    Raises:
      OSError: it cannot be written; names the file.
    """
    try:
      self._file.flush()
    except OSError as error:
      error.filename = self._file.name
      raise
