"""Compares models: python -m reports.compare_models --output_dir=DIR.

Trains each entry of --models under the same budget with several seeds, each in
a process of its own, one after the other; scores them on other videos; and
writes report.html, report.md and report.csv, pictures and TensorBoard HParams
to --output_dir. The same command goes on where an earlier one was stopped.
"""

import contextlib
import glob
import os
import shlex
import sys

import startup  # isort: skip
from absl import flags, logging

import errors
import program_flags
from engine.files import text_written_aside
from reports import (
  comparison_estimate,
  comparison_gathering,
  comparison_hparams,
  comparison_labels,
  comparison_plan,
  comparison_runs,
  comparison_tables,
)
from reports.comparison_plan import Given
from reports.templating import require_report_packages

FLAGS = flags.FLAGS

_OWN_FLAGS = (
  *("models", "budget", "seeds", "output_dir", "data_fractions", "workers"),
  *("dry_run", "train_data_pattern", "eval_data_pattern", "dataset_dir"),
  "min_frames",
)
# What a report is made of, in the --output_dir.
_PICTURES, _HPARAMS = "pictures", "hparams"
_REPORT = ("report.md", "report.csv", "table.md", "report.html", _HPARAMS)


# --------------------------------------------------------------------------
# Flags


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  program_flags.define_graph_flags(flag_values)
  # --models names them.
  delattr(flag_values, "model")
  program_flags.define_dataset_dir(flag_values)
  data = program_flags.Subject(program_flags.DATA, flag_values)
  for name, use in (("train", "train on"), ("eval", "score on")):
    data.string(
      f"{name}_data_pattern",
      "",
      f"Glob pattern of the TFRecord files to {use}, or several separated by"
      " commas; empty: the built-in sample data.",
    )
  program_flags.define_min_frames(flag_values)
  data.list(
    "data_fractions",
    [],
    "Also train on these parts of the data, such as 0.1,0.3; empty: on all of"
    " it only.",
  )
  program_flags.Subject(program_flags.MODEL, flag_values).string(
    "models",
    ",".join(comparison_plan.THESIS_MODELS),
    "Models to compare, separated by commas, each with flags of train.py after"
    " colons, such as MoeModel,BiLstmModel:lstm_layers=1:lstm_cells=256.",
  )
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.string(
    "budget",
    "steps:500",
    "How long each run trains: minutes:M of the steps alone, steps:N or"
    " epochs:N.",
  )
  training.integer(
    "seeds",
    3,
    "Runs of each model, with the seeds from 0 on.",
    lower_bound=1,
    upper_bound=1000,
  )
  training.list(
    "workers",
    [],
    "Also train with so many workers, such as 2,4, all on this machine; empty:"
    " with one only.",
  )
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.string(
    "output_dir", "", "Folder for the runs and the report; required."
  )
  output.bool(
    "dry_run",
    False,
    "Show what would be trained, and about how long it takes; train nothing.",
  )


def _numbers(name: str, convert, low, high) -> list:
  """The numbers of a list flag.

  Raises:
    errors.UserError: one is not from above `low` to `high`.
  """
  found = []
  for text in FLAGS[name].value or []:
    try:
      number = convert(text)
    except ValueError:
      number = low
    if not low < number <= high:
      raise errors.UserError(
        f"Expected numbers above {low} and up to {high} as --{name}, separated"
        f" by commas, received {text!r}."
      )
    found.append(number)
  return found


def _text(value) -> str:
  """The value of a flag as it is typed."""
  return ",".join(value) if isinstance(value, list) else str(value)


def given_from_flags() -> Given:
  """The data that the flags name.

  Raises:
    errors.UserError: only one of the two patterns is typed.
  """
  shared = flags.FlagValues()
  program_flags.define_graph_flags(shared)
  modules = FLAGS.flags_by_module_dict()
  names = set(shared) | {
    flag.name
    for module in program_flags.hyperparameter_modules()
    for flag in modules.get(module, [])
  }
  common = {
    name: _text(FLAGS[name].value)
    for name in sorted(names - set(_OWN_FLAGS))
    if name in FLAGS and FLAGS[name].present
  }
  given = Given(
    FLAGS.train_data_pattern,
    FLAGS.eval_data_pattern,
    FLAGS.dataset_dir,
    common,
    FLAGS.min_frames,
  )
  given.check()
  return given


# --------------------------------------------------------------------------
# The plan


def _existing_folder(path: str) -> str:
  """The nearest folder above a path that exists, or the path."""
  path = os.path.abspath(path)
  while not os.path.isdir(path):
    path = os.path.dirname(path)
  return path


def _print_plan(runs, left, budget, facts, needed) -> None:
  """Prints what would be trained, and an estimate."""
  seconds = 0.0
  for number, run in enumerate(runs, 1):
    about = "finished"
    if run in left:
      of = facts[run.entry.name]
      own = comparison_estimate.seconds_of(run, budget, of)
      seconds += own
      about = (
        f"{comparison_tables.amount(of.parameters)} parameters, at most about"
        f" {comparison_tables.seconds(own)}"
      )
    pattern = comparison_runs.planned_pattern(run, FLAGS.output_dir)
    command = comparison_runs.train_command(run, FLAGS.output_dir, pattern)
    print(f"{number} of {len(runs)}: {run.describe()}: {about}")
    print(f"  python {shlex.join(command)}")
  print(
    f"{len(left)} of {len(runs)} runs to train, for {budget} each: at most"
    f" about {comparison_tables.seconds(seconds)}, and"
    f" {comparison_tables.num_bytes(needed)} of disk."
  )
  if budget.unit != "minutes":
    print(
      "The time is estimated from a forward pass; the first runs show how long"
      " it really takes."
    )


# --------------------------------------------------------------------------
# The program


def _picture(name: str) -> str:
  """The file of a picture in the --output_dir."""
  return f"{_PICTURES}/{name}.svg"


def _check_output_dir(output_dir: str) -> None:
  """Checks that a report replaces nothing but an earlier one.

  Raises:
    errors.UserError: it would.
  """
  # It imports matplotlib.
  from reports import comparison_pictures

  # What each comparison has left that wrote a report.
  marks = (comparison_labels.COUNTS_FILE, comparison_runs.SCORES_PATTERN)
  folder = glob.escape(output_dir)
  if not any(glob.glob(os.path.join(folder, mark)) for mark in marks):
    pictures = map(_picture, comparison_pictures.NAMES)
    comparison_runs.check_no_other_files(output_dir, [*_REPORT, *pictures])
  comparison_hparams.check_replaceable(os.path.join(output_dir, _HPARAMS))


def write_report(comparison, output_dir: str) -> None:
  """Writes all files of a report, each whole.

  Args:
    comparison: a Comparison.
    output_dir: where to.
  """
  # They import matplotlib.
  from reports import comparison_page, comparison_pictures

  pictures = comparison_pictures.draw(
    comparison, lambda run: comparison_runs.train_dir_of(run, output_dir)
  )
  texts = {
    "report.md": comparison_tables.make_markdown(comparison),
    "report.csv": comparison_tables.make_csv(comparison),
    "table.md": comparison_tables.readme_table(comparison),
    "report.html": comparison_page.make_page(comparison, pictures),
    **{
      _picture(picture.name): picture.svg
      for of in pictures.values()
      for picture in of
    },
  }
  for name, text in texts.items():
    with text_written_aside(os.path.join(output_dir, name)) as file:
      file.write(text)
  # An earlier report may have had more pictures.
  folder = os.path.join(output_dir, _PICTURES)
  for name in comparison_pictures.NAMES:
    if _picture(name) not in texts and not os.path.islink(folder):
      with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(output_dir, _picture(name)))
  comparison_hparams.write_hparams(
    comparison, os.path.join(output_dir, _HPARAMS)
  )


def main() -> None:
  """Trains, scores and reports what the flags say.

  Raises:
    errors.UserError: a flag is wrong; files of another origin would be
      replaced; a run failed, after all others and the report are done.
  """
  require_report_packages()
  if not FLAGS.output_dir:
    raise errors.UserError(
      "Expected --output_dir, received none. Name a folder for the runs and the"
      " report."
    )
  _check_output_dir(FLAGS.output_dir)
  budget = comparison_plan.parse_budget(FLAGS.budget)
  fractions = _numbers("data_fractions", float, 0, 1)
  workers = _numbers("workers", int, 0, 64)
  given = given_from_flags()
  entries = comparison_plan.parse_entries(FLAGS.models)
  entries = comparison_plan.add_baseline(entries, given)
  runs = comparison_plan.make_runs(
    entries, given, budget, FLAGS.seeds, fractions, workers
  )
  left = [
    run
    for run in runs
    if not comparison_runs.is_finished(run, FLAGS.output_dir)
  ]
  facts, needed = {}, 0
  if left:
    logging.info("Looking at %d models.", len({run.entry.name for run in left}))
    facts = comparison_estimate.look_at_entries(left)
    needed = comparison_estimate.check_disk(
      left, facts, _existing_folder(FLAGS.output_dir)
    )
  if FLAGS.dry_run:
    _print_plan(runs, left, budget, facts, needed)
    return
  with comparison_runs.alone_in(FLAGS.output_dir) as lock:
    if left:
      comparison_labels.look_at_labels(runs, facts, FLAGS.output_dir)
    failed = comparison_runs.finish_all(runs, FLAGS.output_dir, lock)
    comparison = comparison_gathering.gather(
      runs,
      failed,
      budget,
      FLAGS.output_dir,
      shlex.join(["python", "-m", "reports.compare_models", *sys.argv[1:]]),
    )
    write_report(comparison, FLAGS.output_dir)
  logging.info("Report: %s", os.path.join(FLAGS.output_dir, "report.html"))
  if failed:
    raise errors.UserError(
      f"Expected {len(runs)} runs to end, of which {len(failed)} failed, as"
      " said above and in the report. Start the same command again when the"
      " cause is repaired: finished runs stay."
    )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
