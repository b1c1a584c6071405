"""Gathers what finished runs have left behind into a Comparison."""

import shlex
from collections.abc import Mapping, Sequence

from absl import logging

import errors
from data_tools import vocabulary
from engine import train_dir as train_dirs
from engine.data_files import find_files
from engine.machine import machine_text
from engine.model_flags import require_model_flags
from engine.progress_bar import Progress
from reports import bootstrap
from reports.comparison import (
  Comparison,
  Difference,
  Row,
  Scored,
  check_same_videos,
  constant_rows,
  differences,
  load,
  make_row,
  starts_of,
)
from reports.comparison_labels import count_labels
from reports.comparison_plan import Budget, Run
from reports.comparison_runs import (
  is_finished,
  planned_pattern,
  train_command,
  train_dir_of,
)


def _commands(run: Run, output_dir: str) -> str:
  """The exact command of a run."""
  pattern = planned_pattern(run, output_dir)
  command = shlex.join(["python", *train_command(run, output_dir, pattern)])
  if run.workers == 1:
    return command
  return f"{command}  # {run.workers} times, each with its TF_CONFIG"


def _rows(runs: Sequence[Scored], output_dir: str) -> list[Row]:
  """A row for each entry, in order."""
  by_entry: dict[str, list[Scored]] = {}
  for scored in runs:
    by_entry.setdefault(scored.run.entry.name, []).append(scored)
  return [
    make_row(of, _commands(of[0].run, output_dir)) for of in by_entry.values()
  ]


def _class_names(scored: Scored, output_dir: str) -> list[str]:
  """A name for each class; "class N" where it is not known."""
  num_classes = scored.scores["num_classes"]
  path = train_dirs.find_vocabulary(train_dir_of(scored.run, output_dir))
  if not path:
    files = find_files(scored.run.data.train_pattern, "train_data_pattern")
    path = vocabulary.find_vocabulary(files, num_classes)
  names = vocabulary.read_names(path) if path else {}
  return [names.get(index) or f"class {index}" for index in scored.classes]


def _compare(rows: Sequence[Row]) -> tuple[list[Difference], int]:
  """The differences between each two rows, and how many draws were taken."""
  resamples = bootstrap.num_resamples(rows[0].runs[0].ranked.num_videos)
  if len(rows) < 2:
    return [], resamples
  logging.info("Comparing %d models by %d resamples.", len(rows), resamples)
  progress = Progress("Drew")

  def tick(done):
    if progress.is_due():
      progress.show(done / resamples, f"{done:,} of {resamples:,} resamples")

  found = differences(rows, resamples, tick)
  progress.end()
  return found, resamples


def _distinct(texts) -> str:
  """Different texts, in order."""
  return "; ".join(dict.fromkeys(filter(None, texts)))


def _files(number: int) -> str:
  return f"{number} file{'s' if number != 1 else ''}"


def facts_of(runs: Sequence[Scored], num_train_videos: int) -> list:
  """(what, text) about the machine, the versions and the data of runs."""
  starts = [start for run in runs for start in starts_of(run.record)]
  facts = [
    ("Machine", _distinct(machine_text(start["machine"]) for start in starts)),
    (
      "Versions",
      _distinct(
        ", ".join(f"{name} {of}" for name, of in start["versions"].items())
        for start in starts
      ),
    ),
    ("Commit", _distinct(start["commit"] for start in starts)),
    ("Begun", min((start["began"] for start in starts), default="")),
  ]
  for run in runs:
    record = run.record or {}
    of = record.get("data") or {}
    if of:
      facts.append(
        (
          "Training data",
          f"{run.run.data.train_pattern}: {_files(of['files'])}, about"
          f" {of['videos']:,} videos, hash {of['hash']}",
        )
      )
    facts.append(
      (
        "Scored data",
        f"{run.run.data.eval_pattern}: {_files(run.scores['eval_files'])},"
        f" {run.scores['num_videos']:,} videos, hash {run.scores['eval_hash']}",
      )
    )
  facts.append(("Training videos counted", f"{num_train_videos:,}"))
  return [fact for fact in dict.fromkeys(facts) if fact[1]]


def notes_of(rows: Sequence[Row]) -> list[str]:
  """What a reader must know about the figures of rows with runs."""
  notes = []
  runs = [run for row in rows for run in row.runs]
  losses = {run.scores["label_loss"] for run in runs}
  if len(losses) > 1:
    notes.append(
      f"Losses are not comparable: models have {', '.join(sorted(losses))}."
    )
  starts = [start for run in runs for start in starts_of(run.record)]
  for what, found in (
    ("commits", {start["commit"] for start in starts}),
    ("machines", {machine_text(start["machine"]) for start in starts}),
  ):
    if len(found) > 1:
      notes.append(
        f"Runs are of {len(found)} different {what}: times may not be"
        " comparable. Delete the folders of older runs to train them again."
      )
  if any(len(starts_of(run.record)) > 1 for run in runs):
    notes.append(
      "Some runs were stopped and continued: their start is the sum of all"
      " starts."
    )
  seeds = {len(row.runs) for row in rows}
  if len(seeds) > 1:
    notes.append(
      f"Rows have {min(seeds)} to {max(seeds)} seeds, because some runs failed."
    )
  return notes


def gather(
  runs: Sequence[Run],
  failed: Mapping[str, str],
  budget: Budget,
  output_dir: str,
  command: str,
) -> Comparison:
  """Reads the finished runs and computes what the report shows.

  Args:
    runs: of the comparison.
    failed: {name of a run: why}.
    budget: of each run.
    output_dir: of the comparison.
    command: of it.

  Raises:
    errors.UserError: no run of the main table is finished; runs were scored on
      different videos.
  """
  scored = [
    load(run, output_dir) for run in runs if is_finished(run, output_dir)
  ]
  main = [one for one in scored if one.run.is_main]
  if not main:
    raise errors.UserError(
      "Expected a run that ends, but all failed. The first one:"
      f" {next(iter(failed.values()), 'none was started')}"
    )
  check_same_videos(scored)
  run = main[0].run
  model_flags = require_model_flags(train_dir_of(run, output_dir))
  counts, num_train_videos = count_labels(run, model_flags, output_dir)
  rows = _rows(main, output_dir)
  rows.sort(key=lambda row: row.is_baseline)
  found, resamples = _compare(rows)
  by_fraction = {
    fraction: _rows(
      [
        one
        for one in scored
        if one.run.fraction == fraction and one.run.workers == 1
      ],
      output_dir,
    )
    for fraction in sorted({one.run.fraction for one in scored})
  }
  # One worker's row has the same seed as the others.
  by_workers = {
    workers: _rows(
      [
        one
        for one in scored
        if one.run.fraction == 1
        and one.run.workers == workers
        and one.run.seed == 0
        and not one.run.entry.is_baseline
      ],
      output_dir,
    )
    for workers in sorted({one.run.workers for one in scored})
  }
  described = {run.name: run.describe() for run in runs}
  return Comparison(
    budget=str(budget),
    seeds=max(len(row.runs) for row in rows),
    rows=[*rows, *constant_rows(counts, num_train_videos, main[0])],
    differences=found,
    resamples=resamples,
    names=_class_names(main[0], output_dir),
    train_counts=counts,
    num_train_videos=num_train_videos,
    by_fraction=by_fraction if len(by_fraction) > 1 else {},
    by_workers=by_workers if len(by_workers) > 1 else {},
    failed=[(described[name], why) for name, why in failed.items()],
    facts=facts_of(main, num_train_videos),
    notes=notes_of(rows),
    command=command,
  )
