"""Where the records of a TFRecord file are, and their bytes.

A TFRecord file is a sequence of records: the length of the data (uint64), a
checksum of the length, the data, a checksum of the data, all little-endian,
the checksums CRC32C with the bits rotated, see tensorflow/core/lib/io/
record_writer.h. A walk goes from length to length and finds where each record
begins. From then on a record is a file, an offset and a length, which is all
that has to be shuffled, skipped or counted.

This module needs NumPy and the package crc32c, so that it also serves readers
outside TensorFlow; see docs/reading.md.
"""

import array
import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import itertools
import os
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from records.messages import BadRecordError

try:
  import crc32c
except ImportError:  # TensorFlow reads instead, see engine/data.py
  crc32c = None

HEADER_BYTES = 12  # the length and its checksum
FOOTER_BYTES = 4  # the checksum of the data

# Of a file of kept walks; raised when its content changes.
_KEPT_VERSION = 2
# Open files of a reader; the next one closes the one longest unused. Opening a
# file again takes 5 us, half of what a video-level record takes.
_MOST_OPEN_FILES = 128
# A program has up to nine readers, which may together open about half of the
# files that the system allows it.
_LIMIT_A_READER = 16
# Bytes of data of a record: protobuf refuses more.
_MOST_BYTES = (1 << 31) - 1

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

# What embeddings are stored in, by how it begins.
_EMBEDDING_FILES = {
  b"\x93NUMPY": "a NumPy array (.npy)",
  b"PK\x03\x04": "an archive of NumPy arrays (.npz) or another zip file",
  b"PAR1": "a parquet file",
  b"././@PaxHead": "a tar, perhaps of WebDataset",
  b"[": "JSON",
  b"{": "JSON",
}

# How files of videos begin; those of MP4 and its relatives after four bytes.
_VIDEO_FILES = (
  b"\x1a\x45\xdf\xa3",
  b"RIFF",
  b"FLV",
  b"OggS",
  b"\x00\x00\x01\xba",
)
_MP4 = b"ftyp"

_FETCH_AGAIN = "download or make the file again"


def checksum(data) -> int:
  """The CRC32C of bytes, with its bits rotated as TFRecord files have it."""
  crc = crc32c.crc32c(data)  # pyright: ignore[reportOptionalMemberAccess]
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --------------------------------------------------------------------------
# Walks


@dataclasses.dataclass(frozen=True)
class Walk:
  """Where the records of a file are.

  Attributes:
    offsets: (records + 1,) int64, where each record begins, and where the last
      one ends.
    size: bytes of the file. If the last record ends before, the rest is
      damaged, and what it held is not known.
  """

  offsets: np.ndarray
  size: int

  def __len__(self) -> int:
    return len(self.offsets) - 1

  @property
  def lengths(self) -> np.ndarray:
    """(records,) int64, the bytes of data of each record."""
    return np.diff(self.offsets) - (HEADER_BYTES + FOOTER_BYTES)

  def place(self, number: int) -> tuple[int, int]:
    """Where a record begins, and its bytes of data.

    Args:
      number: of the record, from 0.
    """
    begin, end = self.offsets[number : number + 2].tolist()
    return begin, end - begin - HEADER_BYTES - FOOTER_BYTES

  @property
  def lost_bytes(self) -> int:
    """Bytes after the last whole record."""
    return self.size - int(self.offsets[-1])

  def lost_records(self, record_bytes: float) -> int:
    """About how many records the lost bytes held: at least one, or none.

    Args:
      record_bytes: the mean size of a record, with its checksums.
    """
    if not self.lost_bytes:
      return 0
    return max(1, round(self.lost_bytes / record_bytes))


def walk(path: str) -> Walk:
  """Finds the records of a file, up to its end or to a damaged length.

  Args:
    path: of a local file.

  Raises:
    OSError: it cannot be read.
  """
  offsets = array.array("q", [0])  # a hostile file may have 16 bytes a record
  at = 0
  descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
  try:
    # Only the lengths are read: no more of the file needs to be fetched.
    _advise(descriptor, 0, 0, "POSIX_FADV_RANDOM")
    size = os.fstat(descriptor).st_size
    while at < size:
      header = os.pread(descriptor, HEADER_BYTES, at)
      if len(header) < HEADER_BYTES:
        break
      length, crc = _HEADER.unpack(header)
      if checksum(header[:8]) != crc:
        break
      at += HEADER_BYTES + length + FOOTER_BYTES
      if at > size:
        break
      offsets.append(at)
  finally:
    os.close(descriptor)
  return Walk(np.array(offsets, np.int64), size)


def damage_after(path: str, found: Walk) -> BadRecordError | None:
  """What is wrong after the last record that a walk found.

  Args:
    path: the file.
    found: its walk.

  Returns:
    None if nothing is wrong. An empty file counts as damaged.
  """
  if not found.size:
    return BadRecordError(
      "empty file",
      f"expected records, received an empty file; {_FETCH_AGAIN}",
    )
  if not found.lost_bytes:
    return None
  at = int(found.offsets[-1])
  with open(path, "rb", buffering=0) as file:
    header = os.pread(file.fileno(), HEADER_BYTES, at)
  if len(header) == HEADER_BYTES:
    length, crc = _HEADER.unpack(header)
    if checksum(header[:8]) == crc:
      return BadRecordError(
        "cut off",
        f"expected {length} bytes of data, received a file that ends"
        f" {at + HEADER_BYTES + length + FOOTER_BYTES - found.size} bytes"
        f" before the record does; {_FETCH_AGAIN}",
      )
    if at:
      return BadRecordError(
        "checksum",
        "expected a length that agrees with its checksum, received a damaged"
        f" one, so that no later record can be found; {_FETCH_AGAIN}",
      )
  elif at:
    return BadRecordError(
      "cut off",
      f"expected a record, received a file that ends {len(header)} bytes"
      f" after the one before; {_FETCH_AGAIN}",
    )
  return BadRecordError(
    "not a TFRecord",
    f"expected a TFRecord file, received {_kind_of_file(header)};"
    " name TFRecord files, or download or make this one again",
  )


def _kind_of_file(header: bytes) -> str:
  """What a file is that is no TFRecord file, from its first bytes."""
  if header.startswith(b"\x1f\x8b"):
    return (
      "one that gzip has compressed (its name must end in .gz to be read so)"
    )
  if header.lstrip().startswith(b"<"):
    return "HTML or XML, perhaps the error page of a server"
  if header.startswith(_VIDEO_FILES) or header[4:8] == _MP4:
    return (
      "a video, of which python -m data_tools.extract_features makes a data set"
      " (docs/your_own_data.md)"
    )
  for magic, kind in _EMBEDDING_FILES.items():
    if header.startswith(magic):
      return (
        f"{kind}, of which python -m data_tools.import_embeddings makes a data"
        " set (docs/your_own_data.md)"
      )
  return f"one that begins with {header[:8]!r}"


# --------------------------------------------------------------------------
# Kept walks


def cache_folder() -> str:
  """The folder of kept walks: yt8m in the user's cache folder.

  Raises:
    FileNotFoundError: the user has no home, as in some containers.
  """
  root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  if root.startswith("~"):
    raise FileNotFoundError(errno.ENOENT, "no home folder", root)
  return os.path.join(root, "yt8m")


def _kept_path(path: str, what: str) -> str:
  name = os.fsencode(os.path.realpath(path))
  return os.path.join(
    cache_folder(), f"{hashlib.sha256(name).hexdigest()[:32]}.{what}"
  )


def identity_of(path: str) -> list[int]:
  """What a kept file must agree with: its version, the data's size and time.

  Not the time of modification: programs that download or copy files set it, so
  that a damaged file and the whole one that replaces it may agree in it.
  """
  found = os.stat(path)
  return [_KEPT_VERSION, found.st_size, found.st_ctime_ns]


def kept(path: str, what: str) -> np.ndarray | None:
  """Reads what was kept about a file, if the file has not changed since.

  Args:
    path: of the data.
    what: "records", "segments", or see records/selection.py.

  Returns:
    An int64 array; None if nothing valid is kept.
  """
  try:
    with open(_kept_path(path, what), "rb") as file:
      numbers = np.frombuffer(file.read(), np.int64)
  except (OSError, ValueError):
    return None
  identity, body = numbers[:4].tolist(), numbers[4:]
  if identity != [*identity_of(path), checksum(body.data)]:
    return None
  return body


@functools.cache
def _remove_leftovers(folder: str) -> None:
  """Removes what processes that were killed a day ago have left aside; once."""
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.endswith(".aside"):
        # Another process may do the same.
        with contextlib.suppress(FileNotFoundError):
          if time.time() - entry.stat().st_mtime > 24 * 60 * 60:
            os.remove(entry.path)


def keep(
  path: str, what: str, numbers: np.ndarray, identity: list[int]
) -> None:
  """Keeps an int64 array about a file, where that is possible.

  It is written aside and renamed, so that several processes may keep the same.

  Args:
    path: of the data.
    what: see `kept`.
    numbers: what to keep.
    identity: of the file before it was read, see `identity_of`.
  """
  numbers = np.ascontiguousarray(numbers, np.int64)
  head = [*identity, checksum(numbers.data)]
  aside = None
  try:
    target = _kept_path(path, what)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    _remove_leftovers(os.path.dirname(target))
    descriptor, aside = tempfile.mkstemp(".aside", dir=os.path.dirname(target))
    with os.fdopen(descriptor, "wb") as file:
      file.write(np.array(head, np.int64).tobytes() + numbers.tobytes())
    os.replace(aside, target)
  except OSError:  # a full or read-only disk: the file is walked again
    if aside and os.path.exists(aside):
      os.remove(aside)


def is_kept(path: str) -> bool:
  """Whether the walk of a file is kept and still right."""
  return kept(path, "records") is not None


def kept_walk(path: str) -> Walk:
  """The walk of a file: the kept one, else a new one, which is then kept.

  Raises:
    OSError: the file cannot be read.
  """
  offsets = kept(path, "records")
  if offsets is None:
    identity = identity_of(path)
    found = walk(path)
    keep(path, "records", found.offsets, identity)
    return found
  return Walk(offsets, os.stat(path).st_size)


# --------------------------------------------------------------------------
# Records


def _advise(descriptor: int, offset: int, length: int, advice: str) -> None:
  """Calls posix_fadvise, where there is one."""
  if hasattr(os, "posix_fadvise"):
    os.posix_fadvise(descriptor, offset, length, getattr(os, advice))


class RecordReader:
  """Reads records by their place; for one thread.

  Args:
    paths: local files.

  Example:
    reader = RecordReader(paths)
    found = kept_walk(paths[0])
    data = reader.read(0, *found.place(7))
  """

  def __init__(self, paths: list[str]):
    self._paths = paths
    self._files = collections.OrderedDict()
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    self._most_files = _MOST_OPEN_FILES
    if allowed != resource.RLIM_INFINITY:
      share = allowed // _LIMIT_A_READER
      self._most_files = max(1, min(share, _MOST_OPEN_FILES))
    self._buffer = bytearray(1 << 19)
    self._view = memoryview(self._buffer)

  def _descriptor(self, file: int) -> int:
    found = self._files.get(file)
    if found is None:
      if len(self._files) >= self._most_files:
        self._files.popitem(last=False)[1].close()
      found = self._open(self._paths[file])
      _advise(found.fileno(), 0, 0, "POSIX_FADV_RANDOM")
      self._files[file] = found
    else:
      self._files.move_to_end(file)
    return found.fileno()

  def _open(self, path: str) -> io.FileIO:
    """Opens a file; closes the others if the system allows no more."""
    try:
      return open(path, "rb", buffering=0)
    except OSError as error:
      if error.errno != errno.EMFILE or not self._files:
        raise
    # All of them, because the rest of the program opens files too.
    while self._files:
      self._files.popitem()[1].close()
    return open(path, "rb", buffering=0)

  def read(self, file: int, offset: int, length: int) -> memoryview:
    """Reads the data of a record and verifies its checksum.

    Args:
      file: index of the path.
      offset: where the record begins.
      length: bytes of data, as the walk has found.

    Returns:
      The data; valid until the next call.

    Raises:
      BadRecordError: it is damaged, or the file has changed.
      OSError: it cannot be read.
    """
    was_open = file in self._files
    try:
      return self._read(file, offset, length)
    except BadRecordError:
      if not was_open:
        raise
    # Another file may have its name by now, which the walk is of.
    self._files.pop(file).close()
    return self._read(file, offset, length)

  def read_row(self, file: int, offsets: list[int]) -> list[memoryview | None]:
    """Reads records that follow each other, at once.

    Args:
      file: index of the path.
      offsets: where each record begins and the last one ends, as the walk has
        found; together at most 2 GB.

    Returns:
      The data of each record, valid until the next call; None for one that is
      damaged, of which `read` says what is wrong.

    Raises:
      OSError: they cannot be read.
    """
    whole = self._memory(offsets[-1] - offsets[0])
    received = self._fill(whole, self._descriptor(file), offsets[0])
    found = []
    for begin, end in itertools.pairwise(offsets):
      begin, end = begin - offsets[0], end - offsets[0]
      length = end - begin - HEADER_BYTES - FOOTER_BYTES
      data = whole[begin + HEADER_BYTES : end - FOOTER_BYTES]
      is_good = (
        end <= received
        and _HEADER.unpack_from(whole, begin)[0] == length
        and checksum(data) == _FOOTER.unpack_from(whole, end - FOOTER_BYTES)[0]
      )
      found.append(data if is_good else None)
    return found

  def _memory(self, size: int) -> memoryview:
    """Memory of some bytes, which is used again."""
    if size > len(self._buffer):
      # Views of the old one may still be in use.
      self._buffer = bytearray(size * 5 // 4)
      self._view = memoryview(self._buffer)
    return self._view[:size]

  def _read(self, file: int, offset: int, length: int) -> memoryview:
    """As `read`, of the file that is open or is opened now."""
    if length > _MOST_BYTES:
      raise BadRecordError(
        "not an Example",
        f"expected at most {_MOST_BYTES} bytes of data, received {length};"
        f" {_FETCH_AGAIN}",
      )
    end = HEADER_BYTES + length
    wanted = end + FOOTER_BYTES
    whole = self._memory(wanted)
    received = self._fill(whole, self._descriptor(file), offset)
    if received < wanted:
      raise BadRecordError(
        "cut off",
        f"expected {wanted} bytes from byte {offset} on, received {received}:"
        " the file was cut off while it was read, or the disk fails;"
        f" {_FETCH_AGAIN}",
      )
    if _HEADER.unpack_from(whole)[0] != length:
      raise BadRecordError(
        "checksum",
        f"expected {length} bytes of data, received another length: the file"
        f" has changed since it was walked; start again, or {_FETCH_AGAIN}",
      )
    data = whole[HEADER_BYTES:end]
    if checksum(data) != _FOOTER.unpack_from(whole, end)[0]:
      raise BadRecordError(
        "checksum",
        "expected data that agrees with its checksum, received damaged data;"
        f" {_FETCH_AGAIN}",
      )
    return data

  @staticmethod
  def _fill(whole: memoryview, descriptor: int, offset: int) -> int:
    """Reads until memory is full or the file ends; returns how many bytes.

    A file system may return fewer bytes than there are.
    """
    received = 0
    while received < len(whole):
      count = os.preadv(descriptor, [whole[received:]], offset + received)
      if not count:
        break
      received += count
    return received

  def part(self, file: int, offset: int, at: int, size: int) -> bytes:
    """Reads some of the data of a record, without verifying it.

    Args:
      file: index of the path.
      offset: where the record begins.
      at: where in its data to begin.
      size: how many bytes.

    Returns:
      These bytes; fewer where the file ends.

    Raises:
      OSError: the file cannot be read.
    """
    return os.pread(self._descriptor(file), size, offset + HEADER_BYTES + at)

  def read_ahead(self, file: int, offset: int, length: int) -> None:
    """Asks the kernel to fetch a record that will be read soon."""
    _advise(
      self._descriptor(file),
      offset,
      HEADER_BYTES + length + FOOTER_BYTES,
      "POSIX_FADV_WILLNEED",
    )


def numbered_records(
  path: str, on_damage: Callable[[int, BadRecordError], None]
) -> Iterator[tuple[int, memoryview]]:
  """Reads the records of a local file, in order.

  Args:
    path: of the file.
    on_damage: takes the number and the error of a record that cannot be read.

  Yields:
    The number of each record, from 0, and its data, valid until the next one.

  Raises:
    OSError: the file cannot be read.
  """
  reader = RecordReader([path])
  found = kept_walk(path)
  for number, (offset, length) in enumerate(
    zip(found.offsets.tolist(), found.lengths.tolist(), strict=False)
  ):
    try:
      data = reader.read(0, offset, length)
    except BadRecordError as error:
      on_damage(number, error)
      continue
    yield number, data
  damage = damage_after(path, found)
  if damage:
    on_damage(len(found), damage)
