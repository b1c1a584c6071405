"""Files with the predictions of all classes: inference.py --all_classes.

Such a file is an .npz, which np.load reads too. It holds three arrays:

  video_ids    (videos,) bytes, see stored_ids
  predictions  (videos, classes) float32, probabilities; float16 where a file is
               only learned from
  classes      (classes,) int32, the class index of each column

The 1.1 million videos of YouTube-8M's validate split take 17 GB. So they are
written as they come, and read where they are on the disk.
"""

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import IO, NamedTuple

import numpy as np

try:
  from lzma import LZMAError
except ImportError:  # Python may be built without it
  LZMAError = zlib.error

import errors
from engine import csv_cells
from engine.data_files import is_local
from engine.files import written_aside

ENDING = ".npz"

_NAMES = ("video_ids", "predictions", "classes")
_ZEROS = bytes(1 << 24)
# Of a zip's header of a member: its fixed part, and where in it the lengths of
# the name and of what else follows are.
_ZIP_HEADER_BYTES = 30
_ZIP_LENGTHS_AT = 26


# What zipfile, NumPy and its parser of headers raise for damaged files,
# encrypted ones and absurd numbers. No memory holds what some claim to hold.
READ_ERRORS = (
  MemoryError,
  *(ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError),
  *(RuntimeError, SyntaxError, tokenize.TokenError),  # also NotImplementedError
  *(zipfile.BadZipFile, zlib.error, LZMAError, struct.error),
)


class Predictions(NamedTuple):
  """What a file holds.

  Attributes:
    video_ids: (videos,) bytes of one length, shorter ones filled with zeros;
      see stored_ids.
    predictions: (videos, classes) float32 or float16, mapped from the disk.
    classes: (classes,) int32.
  """

  video_ids: np.ndarray
  predictions: np.ndarray
  classes: np.ndarray


def check_path(path: str, flag_name: str) -> None:
  """Checks the name of a file that is to be written.

  Args:
    path: of the file.
    flag_name: the flag that names it.

  Raises:
    errors.UserError: it does not end in .npz, or is not of this machine.
  """
  if not path.endswith(ENDING) or not is_local(path):
    raise errors.UserError(
      f"Expected the name of a local file that ends in {ENDING} as"
      f" --{flag_name} for predictions of all classes, received {path}. Name it"
      f" predictions{ENDING}, for example."
    )


# --------------------------------------------------------------------------
# Ids


def stored_ids(video_ids: Iterable[bytes]) -> np.ndarray:
  r"""Ids as an array, which has no NULs: it could not hold one at an end.

  Args:
    video_ids: any bytes; a NUL is stored as \x00, see csv_cells.without_nul.

  Returns:
    (videos,) bytes of one length, shorter ones filled with zeros.
  """
  return np.array(list(map(csv_cells.without_nul, video_ids)), np.bytes_)


def original_ids(stored: np.ndarray) -> list[bytes]:
  """The inverse of stored_ids."""
  return list(map(csv_cells.unescaped, stored.tolist()))


# --------------------------------------------------------------------------
# Writing


def write_predictions(
  path: str,
  batches: Iterable[tuple[Sequence[bytes] | np.ndarray, np.ndarray]],
  classes: Sequence[int] | np.ndarray,
  dtype: type = np.float32,
) -> int:
  """Writes predictions as they come; the file appears when it is complete.

  Args:
    path: of the file.
    batches: ids of videos, bytes, and their predictions (videos, classes).
    classes: the class index of each column.
    dtype: of the predictions in the file.

  Returns:
    The number of videos.
  """
  with (
    written_aside(path) as aside,
    open(aside, "wb") as file,
    zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
  ):
    video_ids = _write_rows(file, archive, batches, len(classes), dtype)
    for name, values in (
      ("video_ids", stored_ids(video_ids)),
      ("classes", np.array(classes, np.int32)),
    ):
      with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, values, allow_pickle=False)
  return len(video_ids)


def _npy_header(num_videos: int, num_classes: int, dtype) -> bytes:
  """The header of an .npy file, as long for any number of videos."""
  stream = io.BytesIO()
  description = {
    "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
    "fortran_order": False,
    "shape": (num_videos, num_classes),
  }
  np.lib.format.write_array_header_1_0(stream, description)
  return stream.getvalue()


def _write_rows(
  file: IO[bytes], archive: zipfile.ZipFile, batches, num_classes: int, dtype
) -> list[bytes]:
  """Writes the member of an archive that has the predictions.

  Its header has the number of videos, which is known only at the end. So the
  header is written twice, and the checksum corrected, instead of copying all.

  Args:
    file: of the archive.
    archive: the archive.
    batches: see write_predictions.
    num_classes: columns.
    dtype: of the predictions.

  Returns:
    The ids of the videos.
  """
  video_ids: list[bytes] = []
  before = _npy_header(0, num_classes, dtype)
  with archive.open("predictions.npy", "w", force_zip64=True) as member:
    member.write(before)
    for ids, predictions in batches:
      video_ids.extend(ids)
      member.write(np.ascontiguousarray(predictions, dtype).data)
  header = _npy_header(len(video_ids), num_classes, dtype)
  info = archive.getinfo("predictions.npy")
  info.CRC = _with_other_beginning(
    info.CRC, before, header, info.file_size - len(header)
  )
  end = file.tell()
  file.seek(info.header_offset)
  file.write(info.FileHeader(zip64=True))
  file.write(header)
  file.seek(end)
  return video_ids


def _with_other_beginning(
  checksum: int, before: bytes, after: bytes, length: int
) -> int:
  """The CRC-32 of bytes whose beginning is replaced by another as long.

  A CRC is linear: how those of two beginnings differ depends only on the number
  of bytes that follow, and may be found with zeros in their place.

  Args:
    checksum: with the old beginning.
    before: the old beginning.
    after: the new one.
    length: number of bytes that follow.
  """
  for beginning in (before, after):
    of_zeros = zlib.crc32(beginning)
    for _ in range(length // len(_ZEROS)):
      of_zeros = zlib.crc32(_ZEROS, of_zeros)
    of_zeros = zlib.crc32(_ZEROS[: length % len(_ZEROS)], of_zeros)
    checksum ^= of_zeros
  return checksum


# --------------------------------------------------------------------------
# Reading


def read_predictions(path: str) -> Predictions:
  """Reads a file of write_predictions, or of np.savez with the same arrays.

  Args:
    path: of the file; a local one.

  Raises:
    errors.UserError: it holds something else.
    OSError: it cannot be read.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      found = [_mapped(path, archive, name) for name in _NAMES]
  except READ_ERRORS as error:
    raise _not_predictions(path, str(error)) from error
  video_ids, predictions, classes = found
  if (
    video_ids.dtype.kind != "S"
    or predictions.dtype not in (np.float32, np.float16)
    or classes.dtype.kind != "i"
    or predictions.shape != (*video_ids.shape, *classes.shape)
    or predictions.ndim != 2
  ):
    shown = ", ".join(
      f"{name} {values.shape} {values.dtype}"
      for name, values in zip(_NAMES, found, strict=True)
    )
    raise _not_predictions(path, shown)
  return Predictions(
    np.array(video_ids), predictions, np.array(classes, np.int32)
  )


def _not_predictions(path: str, found: str) -> errors.UserError:
  return errors.UserError(
    f"Expected an uncompressed {ENDING} file with video_ids (videos,) bytes,"
    " predictions (videos, classes) float32 and classes (classes,) int32,"
    f" received {path} ({found}). Make it with inference.py --all_classes."
  )


def _mapped(path: str, archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """Maps an array of an .npz into memory, without reading it.

  Raises:
    KeyError, ValueError: there is none, or it cannot be mapped.
  """
  info = archive.getinfo(f"{name}.npy")
  if info.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"{name} is compressed")
  if info.header_offset < 0:
    raise ValueError(f"{name} begins before the file")
  with open(path, "rb") as file:
    file.seek(info.header_offset + _ZIP_LENGTHS_AT)
    lengths = struct.unpack("<HH", file.read(4))
    file.seek(info.header_offset + _ZIP_HEADER_BYTES + sum(lengths))
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    offset = file.tell()
  if dtype.hasobject or not np.prod(shape):
    raise ValueError(f"{name} is {dtype} {shape}")
  order = "F" if is_fortran else "C"
  return np.memmap(path, dtype, "r", offset, shape, order)


class VideoIndex:
  """Finds videos by their ids.

  Args:
    video_ids: (videos,) bytes, see stored_ids.
  """

  def __init__(self, video_ids: np.ndarray):
    self._order = np.argsort(video_ids, kind="stable")
    self._sorted = video_ids[self._order]

  def rows_of(self, video_ids: Iterable[bytes]) -> np.ndarray:
    """Where videos are.

    Args:
      video_ids: of the wanted ones, see stored_ids.

    Returns:
      (wanted,) int64, the row of each, the first one of an id that is there
      twice; -1 for a video that is missing.
    """
    wanted = np.array(list(video_ids), np.bytes_)
    places = np.searchsorted(self._sorted, wanted)
    places = np.minimum(places, len(self._sorted) - 1)
    found = self._sorted[places] == wanted
    return np.where(found, self._order[places], -1)

  def repeated(self) -> bytes | None:
    """An id that is there twice; None if each is there once."""
    again = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
    return bytes(self._sorted[again[0]]) if len(again) else None
