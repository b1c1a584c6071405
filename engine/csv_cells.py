r"""Ids and names as text, and lines of CSV files that are read back exactly.

The id of a video is bytes, and may be any. In a file it is UTF-8, as it is.
What cannot be: a byte that is no UTF-8, and a NUL, which readers take for the
end; these are written as \xNN, with two hexadecimal digits in lower case. So
that no other id looks the same, the backslash of an id that has \xNN in it is
written as \x5c. All other ids stay as they are; original_bytes is the inverse.

A cell is quoted where it has to be: around a comma, a quote or the end of a
line. A carriage return counts as one, which csv.writer does not know in all
versions of Python.
"""

import contextlib
import re
from collections.abc import Iterable, Sequence

# A backslash that would be read as the beginning of \xNN.
_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_NUL = re.compile(rb"\0")

# What may make a cell out of the ordinary, besides bytes that are no UTF-8.
_UNUSUAL = re.compile(rb'[,"\r\0\\]')
_QUOTED = re.compile('[,"\r\n]')

# What separates the ids of a list, or would end its cell.
_NOT_IN_LISTS = re.compile(rb'[\0-\x20,"]')

# What spreadsheets take for a formula, also in its wide form; and the
# apostrophe, so that one that was put in front is known from one of the id.
_FORMULA = re.compile("[=+\\-@\t\r\n'\uff1d\uff0b\uff0d\uff20]")

_MOST_DIGITS = 18


# --------------------------------------------------------------------------
# Text


def _escaped(name: bytes, special: re.Pattern[bytes]) -> bytes:
  r"""Writes some bytes of an id as \xNN, and its own \xNN as \x5cxNN.

  Args:
    name: the id.
    special: matches each byte to write so.
  """
  name = _LOOKS_ESCAPED.sub(rb"\\x5c", name)
  return special.sub(lambda found: b"\\x%02x" % ord(found[0]), name)


def without_nul(name: bytes) -> bytes:
  r"""An id for an array of NumPy, which would lose NULs at its end.

  Each NUL is written as \x00, and the backslash of a \xNN as \x5c.
  """
  if b"\0" not in name and b"\\x" not in name:
    return name
  return _escaped(name, _NUL)


def unescaped(name: bytes) -> bytes:
  """The bytes of an id that was written with escapes."""
  if b"\\x" not in name:
    return name
  return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), name)


def to_text(name: bytes | str) -> str:
  """An id or a name as text for a file, see this module.

  Args:
    name: bytes; or a text in which surrogates stand for bytes of a file's name
      that are no UTF-8, as in Python, or for half a letter, as in JSON.
  """
  if isinstance(name, str):
    try:
      name = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
      name = name.encode("utf-8", "surrogatepass")
  return without_nul(name).decode("utf-8", "backslashreplace")


def original_bytes(text: str) -> bytes:
  """The bytes that to_text has made a text of."""
  return unescaped(text.encode())


def item_text(name: bytes) -> str:
  r"""The text of an id in a list with spaces between the ids.

  Also a space, a comma, a quote and control characters are written as \xNN, so
  that neither the list nor its cell has to be quoted.
  """
  return _escaped(name, _NOT_IN_LISTS).decode("utf-8", "backslashreplace")


# --------------------------------------------------------------------------
# Cells and lines


def cell(value: object, spreadsheet_safe: bool = False) -> str:
  """A value as a cell: an id, a name or a number.

  Args:
    value: text and bytes become what to_text makes of them, None an empty cell,
      and all else what str makes of it.
    spreadsheet_safe: put an apostrophe before a text that a spreadsheet would
      take for a formula, and before one that begins with an apostrophe.
  """
  if not isinstance(value, (str, bytes)):
    return "" if value is None else str(value)
  text = to_text(value)
  if spreadsheet_safe and _FORMULA.match(text):
    text = f"'{text}"
  if not _QUOTED.search(text):
    return text
  quoted = text.replace('"', '""')
  return f'"{quoted}"'


def cells(names: Sequence[bytes], spreadsheet_safe: bool = False) -> list[str]:
  """The cells of ids; where all are usual, they are not looked at one by one.

  Args:
    names: the ids.
    spreadsheet_safe: see `cell`.
  """
  joined = b"\n".join(names)
  if not spreadsheet_safe and not _UNUSUAL.search(joined):
    with contextlib.suppress(UnicodeDecodeError):
      found = joined.decode().split("\n")
      if len(found) == len(names):  # else there are line feeds, or no names
        return found
  return [cell(name, spreadsheet_safe) for name in names]


def line(values: Iterable[object], spreadsheet_safe: bool = False) -> str:
  """A line of a CSV file with at least two cells, with its end.

  Args:
    values: of its cells.
    spreadsheet_safe: see `cell`.
  """
  return ",".join(cell(one, spreadsheet_safe) for one in values) + "\n"


def is_index(text: str | bytes) -> bool:
  """Whether a cell is a whole number from 0 on, of at most 18 digits.

  Classes and sizes have fewer, and Python makes no number of thousands.
  """
  is_whole = text.isdigit() if isinstance(text, bytes) else text.isdecimal()
  return is_whole and len(text) <= _MOST_DIGITS
