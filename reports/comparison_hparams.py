"""A comparison as TensorBoard's HParams, where the table can be sorted."""

import os
from collections.abc import Iterable

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

import errors
from engine import files
from engine.local_files import is_of_system
from reports.comparison import Comparison, Scored
from reports.comparison_tables import COLUMNS


def _settings_of(scored: Scored, budget: str) -> dict:
  run = scored.run
  return {
    "model": run.entry.name,
    "seed": run.seed,
    "fraction": run.fraction,
    "workers": run.workers,
    "budget": budget,
    **{f"flag {name}": value for name, value in run.entry.flags.items()},
  }


def _all_runs(comparison: Comparison) -> Iterable[Scored]:
  """Each run once."""
  tables = [
    comparison.rows,
    *comparison.by_fraction.values(),
    *comparison.by_workers.values(),
  ]
  return {
    run.run.name: run for rows in tables for row in rows for run in row.runs
  }.values()


def check_replaceable(folder: str) -> None:
  """Checks that a folder holds nothing but what write_hparams has written.

  Args:
    folder: see write_hparams.

  Raises:
    errors.UserError: it holds something else.
  """
  for parent, _, names in os.walk(folder):
    for name in names:
      is_events = name.startswith("events.out.tfevents.")
      if not is_events and not is_of_system(name):
        path = os.path.join(parent, name)
        raise errors.UserError(
          f"Expected nothing but TensorBoard's events in {folder}, which each"
          f" report replaces, received {path}. Move it."
        )


def write_hparams(comparison: Comparison, folder: str) -> None:
  """Writes a session for each run.

  Args:
    comparison: what to write.
    folder: for the events; replaced if it is there, when the new one is whole.
  """
  settings = [
    _settings_of(run, comparison.budget) for run in _all_runs(comparison)
  ]
  with files.beside(os.path.abspath(folder)) as aside:
    writer = tf.summary.create_file_writer(aside)
    with writer.as_default(step=0):
      hparams.hparams_config(
        hparams=[
          hparams.HParam(name)
          for name in dict.fromkeys(name for of in settings for name in of)
        ],
        metrics=[
          hparams.Metric(column.key, display_name=column.title)
          for column in COLUMNS
        ],
      )
    writer.close()
    for scored in _all_runs(comparison):
      values = scored.values()
      path = os.path.join(aside, scored.run.name)
      writer = tf.summary.create_file_writer(path)
      with writer.as_default(step=scored.scores["step"]):
        hparams.hparams(
          _settings_of(scored, comparison.budget), trial_id=scored.run.name
        )
        for column in COLUMNS:
          if values[column.key] is not None:
            tf.summary.scalar(column.key, values[column.key])
      writer.close()
    if os.path.isdir(folder):
      files.replace_folder(aside, os.path.abspath(folder))
    else:
      files.put_in_place(aside, os.path.abspath(folder))
