"""Part files: extracted features on the way to a data set.

Extraction takes hours, so that what is done is kept. A part is a TFRecord file
that only grows: first the settings, then a record for each video. A process
that is killed leaves at most a torn record at the end, which the next one cuts
off. Parts are combined by lying in one folder: processes or machines that share
the work write a file each.

A record is the length of its head in four bytes, the head as JSON, and the
bytes of the arrays that the head lists.
"""

import dataclasses
import errno
import fcntl
import glob
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

import errors
from media.extraction import Extracted, Extractor, stamp_of
from media.frames import BadVideoError
from records.messages import BadRecordError
from records.shards import HEADER_BYTES, RecordReader, walk
from records.writing import RecordWriter

PART_ENDING = ".part"


class OtherSettingsError(errors.UserError):
  """A part was begun with other settings."""


_LENGTH = struct.Struct("<I")
# Read at once to see a head; few are longer.
_HEAD_BYTES = 4096
_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
  """Where a video is in part files.

  Attributes:
    path: of the part.
    offset: of the record in it.
    length: bytes of its data.
    problem: why the video has no features; empty if it has.
    stamp: of the video's file, see extraction.stamp_of.
  """

  path: str
  offset: int
  length: int
  problem: str
  stamp: str


# --------------------------------------------------------------------------
# Records


def _pack(head: dict, blobs: Iterable[bytes] = ()) -> bytes:
  text = json.dumps(head).encode()
  return b"".join([_LENGTH.pack(len(text)), text, *blobs])


def _result_record(key: str, stamp: str, found: Extracted) -> bytes:
  """The record of a video that has features."""
  arrays = {**found.arrays, "": found.times}  # no feature has an empty name
  head = {
    "key": key,
    "stamp": stamp,
    "duration": found.duration,
    "has_sound": found.has_sound,
    "note": found.note,
    "arrays": [
      [name, array.dtype.name, array.shape] for name, array in arrays.items()
    ],
  }
  blobs = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
  return _pack(head, blobs)


def _unpack(data: memoryview) -> Extracted:
  """What `_result_record` packed."""
  (length,) = _LENGTH.unpack_from(data)
  at = _LENGTH.size + length
  head = json.loads(bytes(data[_LENGTH.size : at]))
  arrays = {}
  for name, dtype, shape in head["arrays"]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(bytes(data[at : at + size]), dtype)
    arrays[name] = array.reshape(shape)
    at += size
  times = arrays.pop("")
  return Extracted(
    arrays,
    times,
    head["duration"],
    head["has_sound"],
    head["note"],
  )


def _head_of(file, offset: int, length: int) -> dict:
  """The head of a record, without reading the rest of it."""
  start = offset + HEADER_BYTES
  data = os.pread(file.fileno(), min(length, _HEAD_BYTES), start)
  end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
  if end > length:
    raise ValueError("a head longer than its record")
  if end > len(data):
    data = os.pread(file.fileno(), end, start)
  return errors.parse_json(data[_LENGTH.size : end])


# --------------------------------------------------------------------------
# A part


def _index(path: str, verify: bool) -> tuple[dict, dict[str, Entry], int]:
  """The videos of a part, up to the first damaged record.

  Args:
    path: of the part.
    verify: whether to read everything and compare checksums.

  Returns:
    The settings, empty if not even they are there; the videos by key, of two
    records of one the later; the end of what is whole.

  Raises:
    errors.UserError: something else wrote the file.
  """
  settings, entries, end = {}, {}, 0
  found = walk(path)
  reader = RecordReader([path])
  with open(path, "rb") as file:
    for offset, length in zip(
      found.offsets[:-1].tolist(), found.lengths.tolist(), strict=True
    ):
      try:
        if verify:
          reader.read(0, offset, length)
        head = _head_of(file, offset, length)
      except BadRecordError:
        break
      except (ValueError, struct.error) as error:
        if verify:  # it is not damaged
          raise _not_a_part(path) from error
        break
      if not _is_head(head, is_first=not offset):
        raise _not_a_part(path)
      if not offset:
        settings = head
      else:
        entries[head["key"]] = Entry(
          path, offset, length, head.get("problem", ""), head["stamp"]
        )
      end = offset + length + HEADER_BYTES + 4
  return settings, entries, end


def _is_head(head: object, is_first: bool) -> bool:
  """Whether JSON is the head of a part's record, as far as it is used here.

  Args:
    head: of a record.
    is_first: whether it has the settings.
  """
  if not isinstance(head, dict):
    return False
  if is_first:
    return "version" in head
  texts = (head.get("key"), head.get("stamp"), head.get("problem", ""))
  return all(isinstance(text, str) for text in texts)


def _not_a_part(path: str) -> errors.UserError:
  return errors.UserError(
    f"Expected features that an extraction keeps in {path}, received a file"
    " that something else wrote. Move it elsewhere."
  )


def is_part(path: str) -> bool:
  """Whether an extraction wrote a file."""
  try:
    settings, _, _ = _index(path, verify=False)
  except errors.UserError:
    return False
  return bool(settings)


def _check_settings(path: str, found: dict, wanted: dict) -> None:
  """Checks that a part was begun with these settings.

  Raises:
    OtherSettingsError: names what differs.
  """
  found, wanted = (json.loads(json.dumps(one)) for one in (found, wanted))
  differing = [
    f"{name} {found.get(name)!r} instead of {wanted.get(name)!r}"
    for name in sorted({*found, *wanted})
    if found.get(name) != wanted.get(name)
  ]
  if differing:
    raise OtherSettingsError(
      f"Expected what an earlier start kept in {os.path.dirname(path)} to have"
      f" the settings of this one, received {', '.join(differing)}. Use the"
      " earlier ones to go on, or delete this folder to begin again."
    )


def _with_version(settings: Mapping) -> dict:
  return {"version": _VERSION, **settings}


def extract_part(
  path: str,
  videos: Mapping[str, str],
  settings: Mapping,
  make_extractor: Callable[[], Extractor],
  on_done: Callable[[str, Extracted | BadVideoError], None] | None = None,
  patience: float = 0,
) -> Extractor | None:
  """Extracts videos to a part; goes on with one that was begun.

  Videos that are in the part are left out, unless they failed or their file was
  replaced. The order of the videos decides the order of the records alone.

  Args:
    path: of the part; its folder is made.
    videos: {key: path of the file}. The key is the name of the video in all
      parts.
    settings: all that decides what is in the records; JSON.
    make_extractor: called if there is something to do.
    on_done: called with the key and the result of each video.
    patience: seconds to wait while another process writes to the part.

  Returns:
    What made the features; None if there was nothing to do.

  Raises:
    errors.UserError: the part has other settings, or another process writes to
      it.
    OSError: it cannot be written.
  """
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  wanted = _with_version(settings)
  with open(path, "ab") as file:
    _lock(file, path, patience)
    begun, entries, end = _index(path, verify=True)
    if begun:
      _check_settings(path, begun, wanted)
    file.truncate(end)
    left = {
      key: video
      for key, video in videos.items()
      if key not in entries or _is_to_repeat(entries[key], video)
    }
    # First, as it may raise: the part would hold settings and nothing else,
    # and refuse others.
    extractor = make_extractor() if left else None
    with RecordWriter(path, append=True) as writer:
      if not begun:
        writer.write(_pack(wanted))
      if not extractor:
        return None
      writer.flush()
      stamps = [stamp_of(video) for video in left.values()]
      results = extractor.extract(list(left.values()))
      for key, stamp, (_, result) in zip(left, stamps, results, strict=True):
        if isinstance(result, BadVideoError):
          head = {"key": key, "stamp": stamp, "problem": str(result)}
          writer.write(_pack(head))
        else:
          writer.write(_result_record(key, stamp, result))
        writer.flush()
        if on_done:
          on_done(key, result)
  return extractor


def _is_to_repeat(entry: Entry, video: str) -> bool:
  """Whether a video has to be extracted again."""
  stamp = stamp_of(video)
  return bool(entry.problem) or (stamp != "" and stamp != entry.stamp)


def _lock(file, path: str, patience: float = 0) -> None:
  """Makes sure that no other process writes to a part.

  Where a file system has no locks, nothing is sure: the records of two writers
  may then be mixed, which their checksums show.

  Args:
    file: the open part.
    path: of it.
    patience: seconds to wait for another process.

  Raises:
    errors.UserError: one writes to it.
  """
  until = time.monotonic() + patience
  while True:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except OSError as error:
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        return  # some file systems have no locks
      if time.monotonic() >= until:
        raise errors.UserError(
          f"Expected to be the only process that writes {path}, received a file"
          " that another one is writing. Wait for it, or stop it."
        ) from error
    time.sleep(min(1, max(0, until - time.monotonic())))


# --------------------------------------------------------------------------
# All parts of a folder


class Parts:
  """The parts of a folder, as one.

  Args:
    folder: of the parts; may be missing.
    settings: that they must have.

  Attributes:
    entries: the videos by key.

  Raises:
    OtherSettingsError: a part has other settings.
    errors.UserError: two parts have the same video; something else wrote a
      file with the ending of a part.
    OSError: a part cannot be read.
  """

  def __init__(self, folder: str, settings: Mapping):
    self._paths = sorted(
      glob.glob(os.path.join(glob.escape(folder), f"*{PART_ENDING}"))
    )
    self._reader = RecordReader(self._paths)
    self._number_of = {path: at for at, path in enumerate(self._paths)}
    self.entries: dict[str, Entry] = {}
    for path in self._paths:
      begun, entries, _ = _index(path, verify=False)
      if not begun:  # was killed before its first record
        continue
      _check_settings(path, begun, _with_version(settings))
      for key, entry in entries.items():
        self._add(key, entry)

  def _add(self, key: str, entry: Entry) -> None:
    """Adds a video; one with features counts before one that failed."""
    other = self.entries.get(key)
    if other and not other.problem and not entry.problem:
      raise errors.UserError(
        f"Expected each video in one part, received {key} in {other.path} and"
        f" in {entry.path}. Delete one of these files and start again."
      )
    if not other or other.problem:
      self.entries[key] = entry

  def read(self, key: str) -> Extracted:
    """The features of a video.

    Raises:
      errors.UserError: the part is damaged.
    """
    entry = self.entries[key]
    try:
      data = self._reader.read(
        self._number_of[entry.path], entry.offset, entry.length
      )
      return _unpack(data)
    except (BadRecordError, LookupError, TypeError, ValueError) as error:
      raise errors.UserError(
        f"Expected {entry.path} as it was written, received a damaged file"
        f" ({error}). Start again what wrote it, with its --shard if it had"
        " one: it repeats what is damaged."
      ) from error
