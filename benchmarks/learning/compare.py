"""Compares what two versions of the models have learned.

Usage, from the root of the repository:

  python -m benchmarks.learning.compare BEFORE AFTER

Both are folders that LEARNING_RESULTS has named for `make learn`. For each
task, each model that both have, and each measure, prints the means, and whether
the difference is larger than that between seeds. Exits with 1 if something is
worse.

The models of an older version are trained on the same data by this version's
benchmarks/learning and tests/learning, copied to a checkout of the older one.
"""

import sys
from collections.abc import Sequence

import command_line
import errors
from benchmarks.learning import results as of_runs
from benchmarks.learning.results import Results
from benchmarks.learning.tables import in_order

MEASURES = {"score": "score", "gap": "GAP"}


def compare(before: Results, after: Results) -> list[tuple]:
  """Compares all models of all tasks that are in both.

  Returns:
    (task, model, measure, mean before, mean after, verdict) of each.
  """
  found = []
  for (task, model), new in in_order(after).items():
    old = before.get((task, model))
    if old is None or not new.seeds:
      continue
    for measure in MEASURES:
      usual = max(
        of_runs.usual_spread(results, task, measure)
        for results in (before, after)
      )
      values = old.values(measure), new.values(measure)
      if not all(values):
        continue
      word = of_runs.verdict(*values, least_spread=usual)
      if min(map(len, values)) == 1:
        word += ", one seed"
      means = old.mean(measure), new.mean(measure)
      found.append((task, model, measure, *means, word))
  return found


def table(before: Results, after: Results) -> list[str]:
  """The comparison in Markdown, and which models are in only one of both."""
  lines = [
    "| task | model | measure | before | after | change | verdict |",
    f"|{'---|' * 7}",
  ]
  for task, model, measure, old, new, word in compare(before, after):
    lines.append(
      f"| {task} | {model} | {MEASURES[measure]} | {old:.3f} | {new:.3f}"
      f" | {new - old:+.3f} | {word} |"
    )
  for name, one, other in (
    ("before", before, after),
    ("after", after, before),
  ):
    if only := [
      f"{task}: {model}" for task, model in one if (task, model) not in other
    ]:
      lines += ["", f"Only {name}:", *(f"- {text}" for text in only)]
  return lines


def main(folders: Sequence[str]) -> None:
  """Prints the comparison of the folders that were named."""
  if len(folders) != 2:
    raise errors.UserError(
      "Expected two folders with results of make learn, those of the earlier"
      f" version first, received {len(folders)}."
    )
  before, after = map(of_runs.load, folders)
  print("\n".join(table(before, after)))
  if any(word.startswith("worse") for *_, word in compare(before, after)):
    sys.exit(1)


if __name__ == "__main__":
  command_line.run(main)
