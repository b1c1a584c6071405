"""Results of trained models: a file for each run, and what several runs say.

Each run writes a file of its own, so that tests in several processes, or on
several machines, can fill one folder.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import errors

# A difference is within the spread of the seeds up to this one, even if all
# seeds gave the same: tables show three digits.
SMALLEST_DIFFERENCE = 0.001


@dataclasses.dataclass
class Row:
  """One trained model.

  Attributes:
    task: the table.
    model: name, and what differs from its usual command.
    seed: of the run; None for what is not trained.
    score: the task's own, from 0 to 1; None if it has none.
    gap: GAP@20 on the videos of the task.
    steps: of training.
    seconds: of training, including what is built and saved.
    more: further numbers, by name.
    commit: of the code.
  """

  task: str
  model: str
  seed: int | None
  score: float | None
  gap: float
  steps: int = 0
  seconds: float = 0.0
  more: dict[str, float] = dataclasses.field(default_factory=dict)
  commit: str = ""


@dataclasses.dataclass
class Summary:
  """All seeds of a model on a task.

  Attributes:
    rows: in the order of their seeds.
  """

  rows: list[Row]

  @property
  def seeds(self) -> int:
    """How many runs there are; 0 if nothing was trained."""
    return sum(row.seed is not None for row in self.rows)

  def values(self, name: str) -> list[float]:
    """A measure of each run that has it: an attribute of Row, or of `more`."""
    values = [
      row.more.get(name) if name not in _COLUMNS else getattr(row, name)
      for row in self.rows
    ]
    return [value for value in values if value is not None]

  def mean(self, name: str) -> float:
    """The mean of a measure."""
    return statistics.fmean(self.values(name))

  def text(self, name: str) -> str:
    """Mean, smallest and largest value of a measure; empty without any."""
    values = self.values(name)
    if not values:
      return ""
    mean, least, most = (
      f"{value:.3f}" for value in (self.mean(name), min(values), max(values))
    )
    return mean if least == most else f"{mean} ({least} to {most})"


# A file system allows 255 bytes, of which the ending needs some.
_LONGEST_NAME = 200

_COLUMNS = {field.name for field in dataclasses.fields(Row)} - {"more"}

Results = dict[tuple[str, str], Summary]
"""A Summary for each (task, model), in the order in which they were read."""


@functools.cache
def commit() -> str:
  """The commit of the code, "-dirty" with changes; empty if unknown."""
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty"],
      cwd=Path(__file__).parent,
      capture_output=True,
      text=True,
      check=False,
    ).stdout.strip()
  except OSError:
    return ""


def _file_name(row: Row) -> str:
  parts = [row.task, row.model]
  if row.seed is not None:
    parts.append(f"seed {row.seed}")
  text = "-".join(parts)
  name = re.sub(r"[^A-Za-z0-9_.=,-]+", "_", text)
  if len(name) > _LONGEST_NAME:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"{name[:_LONGEST_NAME]}-{digest}"
  return f"{name}.json"


def save(folder: str | os.PathLike, row: Row) -> Path:
  """Writes a row to its file in a folder, which is made; returns the file.

  An earlier run of the same task, model and seed is replaced.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / _file_name(row)
  # Not seen by `load` before it is whole.
  aside = path.with_suffix(f".{os.getpid()}")
  aside.write_text(json.dumps(dataclasses.asdict(row), indent=2) + "\n")
  aside.replace(path)
  return path


def is_saved(folder: str | os.PathLike, row: Row) -> bool:
  """Whether a folder has a run of the same task, model and seed."""
  return (Path(folder) / _file_name(row)).exists()


def load(folder: str | os.PathLike) -> Results:
  """Reads all rows of a folder.

  Raises:
    errors.UserError: there are none, or a file holds something else.
  """
  rows = []
  for path in sorted(Path(folder).glob("*.json")):
    try:
      rows.append(Row(**json.loads(path.read_text())))
    except (TypeError, ValueError) as error:
      raise errors.UserError(
        f"Expected results of make learn in {path}, received something else:"
        f" {error}. Name a folder that holds only results."
      ) from error
  if not rows:
    raise errors.UserError(
      f"Expected a folder with results (*.json), found none in {folder}. Make"
      " them with LEARNING_RESULTS=<folder> make learn."
    )
  return summarize(rows)


def summarize(rows: Iterable[Row]) -> Results:
  """Groups rows by task and model."""
  found: dict[tuple[str, str], list[Row]] = {}
  for row in rows:
    found.setdefault((row.task, row.model), []).append(row)
  return {
    key: Summary(sorted(of, key=lambda row: (row.seed is None, row.seed)))
    for key, of in found.items()
  }


# --------------------------------------------------------------------------
# Differences


def spread(values: Sequence[float]) -> float:
  """The largest difference between seeds; 0 for one."""
  return max(values) - min(values)


def usual_spread(results: Results, task: str, measure: str) -> float:
  """The median spread of the models of a task that have several seeds."""
  spreads = [
    spread(summary.values(measure))
    for (of_task, _), summary in results.items()
    if of_task == task and summary.seeds > 1
  ]
  return statistics.median(spreads) if spreads else 0.0


def verdict(
  before: Sequence[float], after: Sequence[float], least_spread: float = 0.0
) -> str:
  """Whether the mean of `after` is better than that of `before`.

  A difference of means counts if it is larger than the largest difference
  between seeds, of either. If nothing has changed, this happens by chance in
  one of 20 cases with three normally distributed seeds, in one of 5 with two.

  Args:
    before: a value for each seed.
    after: likewise.
    least_spread: of other models, for where there is one seed.

  Returns:
    "better", "worse" or "within the spread".
  """
  difference = statistics.fmean(after) - statistics.fmean(before)
  allowed = max(spread(before), spread(after), SMALLEST_DIFFERENCE)
  if min(len(before), len(after)) == 1:
    allowed = max(allowed, least_spread)
  # Sums of floats: 0.95 - 0.949 is a little more than 0.001.
  if abs(difference) <= allowed + 1e-9:
    return "within the spread"
  return "better" if difference > 0 else "worse"
