"""Replaces what stands between two marks in a page."""

import pathlib

import errors


def replaced(page: str, begin: str, end: str, text: str) -> str:
  """A page with another text between its two marks.

  Args:
    page: its text.
    begin: the first mark, a line.
    end: the second one.
    text: what to put between them, without the line breaks around it.

  Raises:
    errors.UserError: the page does not have both marks once, in this order.
  """
  before, _, rest = page.partition(f"{begin}\n")
  _, _, after = rest.partition(end)
  if (page.count(begin), page.count(end), rest.count(end)) != (1, 1, 1):
    raise errors.UserError(
      f"Expected the lines {begin} and {end} once each in the page, received it"
      " without. Put them where the text should be."
    )
  return f"{before}{begin}\n{text}\n{end}{after}"


def put(path: pathlib.Path, begin: str, end: str, text: str) -> None:
  """Replaces what stands between the two marks of a file; see replaced."""
  new = replaced(path.read_text(encoding="utf-8"), begin, end, text)
  path.write_text(new, encoding="utf-8")
