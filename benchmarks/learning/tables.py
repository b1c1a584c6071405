"""Prints the tables of `make learn` in Markdown, as in docs/model_overview.md.

Usage, from the root of the repository:

  python -m benchmarks.learning.tables FOLDER [FOLDER ...]

Several folders, of several machines, are read as one. Exits with 1 if what the
rows of a task say together is not what the models are for.
"""

import sys
from collections.abc import Sequence

import command_line
import errors
from benchmarks.learning import documentation
from benchmarks.learning.conclusions import conclusions
from benchmarks.learning.results import Results, Row, load, summarize

TASKS = (
  "order",
  "sound",
  "needle",
  "variance",
  "co-occurrence",
  "many labels",
  "real sample",
)


def _place(task: str, model: str) -> tuple:
  """Sorts tasks as above, and models as the page of models does."""
  tasks = [*TASKS, task]
  models = list(documentation.model_table())
  name = model.replace(",", " ").partition(" ")[0]
  return (
    tasks.index(task),
    task,
    models.index(name) if name in models else -1,
    model,
  )


def in_order(results: Results) -> Results:
  """The same in the order in which tables show them."""
  return dict(sorted(results.items(), key=lambda item: _place(*item[0])))


def shared_numbers(results: Results, task: str) -> list[str]:
  """Names of further numbers that most rows of a task have."""
  rows = [
    row
    for (of, _), summary in results.items()
    for row in summary.rows
    if of == task and row.seed is not None
  ]
  names = dict.fromkeys(name for row in rows for name in row.more)
  return [
    name
    for name in names
    if 2 * sum(name in row.more for row in rows) > len(rows)
  ]


def table(results: Results, task: str) -> list[str]:
  """The lines of the table of a task."""
  numbers = shared_numbers(results, task)
  columns = ["model", "seeds", "score", "GAP", *numbers, "steps", "seconds"]
  lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
  for (of, model), summary in results.items():
    if of != task:
      continue
    cells = [model, summary.seeds or "", summary.text("score")]
    cells += [summary.text(name) for name in ("gap", *numbers)]
    trained = bool(summary.seeds)
    cells += [
      f"{summary.mean(name):.0f}" if trained else ""
      for name in ("steps", "seconds")
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return lines


def _all_rows(results: Results) -> list[Row]:
  return [row for summary in results.values() for row in summary.rows]


def page(results: Results) -> tuple[str, bool]:
  """All tables, with what they say; whether all of it is as expected."""
  results = in_order(results)
  lines, holds = [], True
  for task in dict.fromkeys(task for task, _ in results):
    lines += [f"### {task.capitalize()}", ""]
    for conclusion in conclusions(results, task):
      holds &= conclusion.holds
      warning = "" if conclusion.holds else " THIS IS NOT AS EXPECTED."
      lines += [conclusion.text + warning, ""]
    lines += [*table(results, task), ""]
  rows = _all_rows(results)
  # A model learns order and sound in the same run.
  runs = {(row.model, row.seed, row.steps, row.seconds) for row in rows}
  minutes = sum(seconds for *_, seconds in runs) / 60
  lines.append(f"{len(rows)} rows, {minutes:.0f} minutes of training.")
  commits = sorted({row.commit for row in rows})
  if len(commits) > 1:
    lines.append(f"They are from several versions: {', '.join(commits)}.")
  return "\n".join(lines), holds


def main(folders: Sequence[str]) -> None:
  """Prints the tables of the folders that were named."""
  if not folders:
    raise errors.UserError(
      "Expected folders with results of make learn, received none."
    )
  rows = [row for folder in folders for row in _all_rows(load(folder))]
  text, holds = page(summarize(rows))
  print(text)
  if not holds:
    sys.exit(1)


if __name__ == "__main__":
  command_line.run(main)
