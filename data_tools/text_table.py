"""Tables for a terminal, and text of others that is safe to print there."""

import unicodedata
from collections.abc import Collection, Sequence

# Marks that change the direction of the text around them.
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
  """Text in which what controls a terminal or a page is replaced.

  Args:
    text: of a file or a record, such as the name of a class.

  Returns:
    The text with U+FFFD for control characters, halves of surrogate pairs, line
    breaks and changes of direction. Joiners stay: emoji and some scripts need
    them.
  """
  return "".join(
    "\ufffd"
    if unicodedata.category(letter) in _CONTROL or letter in _DIRECTION
    else letter
    for letter in text
  )


def width_of(text: str) -> int:
  """The columns that a text takes on a terminal."""
  return sum(
    0
    if unicodedata.category(letter) in ("Mn", "Me", "Cf")
    else 2
    if unicodedata.east_asian_width(letter) in "WF"
    else 1
    for letter in text
  )


def cut(text: str, width: int) -> str:
  """A text of at most some columns, with an ellipsis where it is cut."""
  if width_of(text) <= width:
    return text
  kept = ""
  for letter in text:
    if width_of(kept + letter) >= width:
      break
    kept += letter
  return f"{kept}…"


def aligned(
  rows: Sequence[Sequence[str]], texts: Collection[int] = (0,)
) -> list[str]:
  """The lines of a table.

  Args:
    rows: cells, the first row the heads of the columns.
    texts: columns that hold text, which begins at the same place; the others
      hold numbers, which end there. -1 is the last one.
  """
  are_text = [
    place in texts or place - len(rows[0]) in texts
    for place in range(len(rows[0]))
  ]
  widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = []
    for cell, width, is_text in zip(row, widths, are_text, strict=True):
      space = " " * (width - width_of(cell))
      cells.append(cell + space if is_text else space + cell)
    lines.append("  ".join(cells).rstrip())
  return lines
