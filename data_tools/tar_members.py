"""Finds where the files in a tar are, without reading them.

Python's tarfile parses each field of each header, of which a video of three
members has six as webdataset writes them. For a million videos this takes
longer than writing their records. This module parses the few fields that count.

Source: the ustar and pax formats of POSIX.1-2001 (pax), and GNU tar's manual
for long names and large sizes.
"""

import os
from collections.abc import Iterator

from data_tools.item_table import Span
from engine.csv_cells import is_index

BLOCK = 512
_ZEROS = bytes(BLOCK)
_CHECKSUM = slice(148, 156)
_BLANK_SUM = 8 * ord(" ")  # the checksum counts as spaces


class DamagedTarError(Exception):
  """A tar that cannot be read to its end; the text says why."""


def find_members(path: str) -> Iterator[tuple[str, Span]]:
  """Yields the name of each regular file in a tar, and where its bytes are.

  Args:
    path: of a tar without compression.

  Raises:
    DamagedTarError: it is damaged, cut short or no tar, from some place on.
    OSError: it cannot be read.
  """
  with open(path, "rb", buffering=0) as file:
    yield from _members_in(file.fileno())


def _members_in(file: int) -> Iterator[tuple[str, Span]]:
  """Does the work of find_members on an open file."""
  at, total = 0, os.fstat(file).st_size
  if not total:
    raise DamagedTarError("no tar, but empty")
  # What the headers before that of a file say about it.
  long_name: str | None = None
  long_size: int | None = None
  has_ended = False
  while True:
    head = os.pread(file, BLOCK, at)
    if head == _ZEROS:  # the end, unless another tar was appended
      at, has_ended = at + BLOCK, True
      continue
    if has_ended and not head:
      return
    size = _size_of(head) if len(head) == BLOCK else None
    if size is None:
      if at == 0:
        raise DamagedTarError("no tar without compression")
      what = "damaged" if len(head) == BLOCK else "cut short"
      raise DamagedTarError(f"{what} at {at} bytes")
    has_ended = False
    kind = head[156:157]
    is_file = kind in b"0\0"
    if is_file and long_size is not None:
      size = long_size
    begin = at + BLOCK
    end = begin + size
    if end > total:
      raise DamagedTarError(f"cut short in the member at {at} bytes")
    if kind == b"x":
      fields = _pax_fields(os.pread(file, size, begin))
      if b"path" in fields:
        long_name = _text(fields[b"path"])
      if b"size" in fields:
        long_size = _decimal(fields[b"size"])
    elif kind == b"L":
      long_name = _text(os.pread(file, size, begin).rstrip(b"\0"))
    elif kind not in b"Kg":  # long link targets; defaults for all files
      if is_file:
        yield _name_of(head) if long_name is None else long_name, (begin, size)
      long_name = long_size = None
    at = end + -size % BLOCK


def _size_of(head: bytes) -> int | None:
  """The size of a member; None if its header is damaged."""
  try:
    checksum = int(head[_CHECKSUM].strip(b" \0"), 8)
    if sum(head) - sum(head[_CHECKSUM]) + _BLANK_SUM != checksum:
      return None
    if head[124] == 0x80:  # GNU tar's form of sizes above 8 GiB
      return int.from_bytes(head[125:136])
    size = int(head[124:136].strip(b" \0") or b"0", 8)
  except ValueError:
    return None
  return size if size >= 0 else None


def _decimal(digits: bytes) -> int:
  """A number in an extended header."""
  if not is_index(digits):
    raise DamagedTarError("its extended header is damaged")
  return int(digits)


def _name_of(head: bytes) -> str:
  """The name of a member, as its own header has it."""
  name = head[:100].partition(b"\0")[0]
  # GNU tar has other things in the place of ustar's prefix.
  if head[257:263] == b"ustar\0" and head[345]:
    name = head[345:500].partition(b"\0")[0] + b"/" + name
  return _text(name)


def _text(name: bytes) -> str:
  return name.decode("utf-8", "surrogateescape")


def _pax_fields(records: bytes) -> dict[bytes, bytes]:
  """The fields of an extended header: lines of length, key=value."""
  fields = {}
  while records:
    digits, _, _ = records.partition(b" ")
    length = _decimal(digits)
    if not 0 < length <= len(records):
      raise DamagedTarError("its extended header is damaged")
    line, records = records[:length], records[length:]
    key, _, value = line[len(digits) + 1 : -1].partition(b"=")
    fields[key] = value
  return fields
