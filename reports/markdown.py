"""Tables in Markdown."""

import re
from collections.abc import Sequence

from data_tools.text_table import printable


def escaped(text: str) -> str:
  """Text that Markdown shows as it is, also in a cell of a table."""
  text = printable(" ".join(text.split()))
  return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def markdown_table(
  head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1
) -> str:
  """A table of texts that are escaped already.

  Args:
    head: the first row.
    rows: the others.
    words: columns that hold words, the first ones; the others hold numbers,
      which stand to the right.
  """
  lines = [
    f"| {' | '.join(head)} |",
    f"|{'---|' * words}{'--:|' * (len(head) - words)}",
    *(f"| {' | '.join(row)} |" for row in rows),
  ]
  return "\n".join(lines) + "\n"
