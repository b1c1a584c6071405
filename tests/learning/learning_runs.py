"""What the tests of learning share: seeds, settings, rows of results.

All thresholds were set before the results were known. LEARNING_RESULTS names a
folder for the rows; `make learn` makes tables of them. LEARNING_SEEDS is the
number of seeds of every model; without it, models that take long have fewer.
"""

import dataclasses
import os
import re

import conftest
import pytest

import models
from benchmarks.learning import documentation, results, tasks, training

LEARN = [pytest.mark.slow, pytest.mark.learn]

SEEDS = 3


def seeds(number=SEEDS) -> range:
  """The seeds of a model."""
  return range(int(os.environ.get("LEARNING_SEEDS") or number))


def cases(runs) -> list:
  """A test case for each seed of each run.

  Args:
    runs: (model, its flags, how many seeds, ...) of each.

  Returns:
    pytest's parameters (model, flags, seed, ...), with ids for -k.
  """
  return [
    pytest.param(
      model, flags, seed, *more, id=f"{name_of(model, flags)}-seed{seed}"
    )
    for model, flags, number, *more in runs
    for seed in seeds(number)
  ]


def name_of(model, flags) -> str:
  """The name of a row: the model and what differs from its command."""
  return " ".join([model, *flags])


def presets_of(model) -> dict[str, dict]:
  """The presets of a model; none in versions that have none."""
  return getattr(models.find_class_by_name(model), "presets", {})


def small_preset(model, name, divisor=16) -> tuple[str, ...]:
  """Flags for a preset whose layers have a fraction of its units.

  Args:
    model: class.
    name: of the preset.
    divisor: of all sizes; none becomes smaller than 8.
  """

  def smaller(value) -> str:
    return re.sub(
      r"\d+",
      lambda found: str(max(int(found[0]) // divisor, min(int(found[0]), 8))),
      str(value),
    )

  return (
    f"--preset={name}",
    *(
      f"--{flag}={smaller(value)}"
      for flag, value in presets_of(model)[name].items()
      if re.search(r"_(sizes?|cells)$", flag)
      and flag != "batch_size"
      and smaller(value) != str(value)
    ),
  )


def made_data(tmp_path_factory, name, make):
  """The folder of a task, made once for all processes; see tasks.py."""
  return conftest.make_once(tmp_path_factory, f"learning_{name}", make)


def learn(train_dir, data, model, flags, seed, facts=None) -> training.Trained:
  """Trains a model by its documented command, with the flags of the task."""
  return training.train_and_predict(
    train_dir,
    data,
    documentation.command(model),
    [*flags, f"--seed={seed}"],
    facts,
  )


def add_row(task, name, seed, trained, score=None, gap=None, **more) -> None:
  """Writes the row of a run.

  Args:
    task: its table.
    name: of the model.
    seed: of the run.
    trained: what was learned.
    score: the task's own; None for the accuracy of the most probable class.
    gap: None for that of all test videos.
    **more: further numbers.
  """
  keep(
    results.Row(
      task,
      name,
      seed,
      trained.accuracy() if score is None else score,
      trained.gap() if gap is None else gap,
      trained.steps,
      round(trained.seconds, 1),
      {**trained.facts, **more},
      results.commit(),
    )
  )


def keep(row) -> None:
  """Prints a row, and writes it where LEARNING_RESULTS says."""
  print(f"\n{row}", flush=True)
  if folder := os.environ.get("LEARNING_RESULTS"):
    results.save(folder, row)


def add_floor(task, data: tasks.DataSet) -> float:
  """Adds the row of only label frequencies; returns its GAP."""
  gap = training.frequencies_gap(data)
  row = results.Row(task, "only label frequencies", None, None, gap)
  keep(dataclasses.replace(row, commit=results.commit()))
  return gap
