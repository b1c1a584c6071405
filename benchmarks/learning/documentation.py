"""What docs/model_overview.md says about each model."""

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "model_overview.md"


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in line.strip().strip("|").split("|")]


def model_table(page: str | None = None) -> dict[str, dict[str, str]]:
  """The first table of models of the page that says which see the order.

  Args:
    page: its text; None for the page itself.

  Returns:
    {name: {column: cell}}.

  Raises:
    ValueError: there is no such table.
  """
  page = PAGE.read_text() if page is None else page
  for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
    columns, _, *lines = map(_cells, table.splitlines())
    if {"model", "level", "order"} <= set(columns):
      rows = [dict(zip(columns, cells, strict=True)) for cells in lines]
      return {re.sub(r"\(.*|\W", "", row["model"]): row for row in rows}
  raise ValueError(
    "Expected a table with the columns model, level and order in the page of"
    " models, found none."
  )


def frame_level_models(order: bool | None = None) -> list[str]:
  """Names of the frame-level models.

  Args:
    order: only those that see the order of the frames, or only the others.
  """
  return [
    name
    for name, row in model_table().items()
    if row["level"] == "frame"
    and (order is None or row["order"].startswith("yes") == order)
  ]


def video_level_models() -> list[str]:
  """Names of the video-level models."""
  table = model_table()
  return [name for name, row in table.items() if row["level"] == "video"]


def command(model: str) -> list[str]:
  """The flags of the first command line to train a model in its section.

  Raises:
    ValueError: it has no section or no command.
  """
  section = re.search(
    rf"^##+ `?{model}`?\s*$(.*?)(?=^##+ |\Z)",
    PAGE.read_text(),
    re.MULTILINE | re.DOTALL,
  )
  found = section and re.search(
    r"^python train\.py((?:.*\\\n)*.*)$", section[1], re.MULTILINE
  )
  words = shlex.split(found[1].replace("\\\n", " ")) if found else []
  if f"--model={model}" not in words:
    raise ValueError(
      f"Expected a section {model} with its command line in"
      f" docs/model_overview.md, found {' '.join(words) or 'none'}."
    )
  return words
