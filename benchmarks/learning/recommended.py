"""Compares settings of a model with its defaults, at equal steps.

Usage, from the root of the repository:

  python -m benchmarks.learning.recommended [--models=MoeModel]
    [--candidate="--optimizer=AdamW --base_learning_rate=0.001"] ...

Without --candidate it compares --preset=recommended, and exits with 1 if this
is worse than the defaults anywhere. Batch size, steps, and the rest of a task's
flags are the same for all settings, so that presets can be chosen by it.

The tasks are such that no model of theirs gets everything right: see tasks.py.
Each run writes a file to --results_dir, and what is there is not run again, so
that candidates share the runs of the defaults. Delete the folder after a change
of the code.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import startup  # isort: skip
from absl import flags

import errors
import models
from benchmarks.learning import documentation, results, tasks, training
from benchmarks.learning.results import Results, Row, verdict

FLAGS = flags.FLAGS

MODELS = (
  "LogisticModel",
  "MoeModel",
  "DeepNnModel",
  "FrameLevelLogisticModel",
  "StreamLstmModel",
  "TransformerModel",
  "LatentPoolingModel",
  "NextVladModel",
)
DEFAULTS = "defaults"
RECOMMENDED = "--preset=recommended"

# Sizes of models that would take hours, the same for all settings.
SMALLER = {"StreamLstmModel": ("--lstm_cells=256",)}

_MANY_CLASSES, _MANY_VIDEOS = 1000, 10000
_MANY_NOISE = 1.5
_NEEDLE = tasks.Needle(frames=60, shown=3, scenes=(10, 14), train=960, test=640)


def _make_many_classes(folder: Path) -> None:
  label_sets = tasks.made_up_label_sets(_MANY_VIDEOS, _MANY_CLASSES)
  tasks.make_many_labels(folder, label_sets, _MANY_CLASSES, _MANY_NOISE)


def _accuracy(trained: training.Trained) -> float:
  return trained.accuracy()


def _accuracy_of_pairs(trained: training.Trained) -> float:
  """The mean over order and sound."""
  found = training.pair_accuracies(trained)
  return sum(accuracy for accuracy, _ in found.values()) / len(found)


@dataclasses.dataclass
class Task:
  """Data, and how long to train on it.

  Attributes:
    level: of the models that can learn it: "frame" or "video".
    make: writes the data to a folder; None for data that exists.
    data: describes it.
    flags: of train.py.
    score: the task's own.
  """

  level: str
  make: Callable[[Path], None] | None
  data: Callable[[Path], tasks.DataSet]
  flags: tuple[str, ...]
  score: Callable[[training.Trained], float] = _accuracy


TASKS = {
  "co-occurrence": Task(
    "video",
    tasks.make_co_occurrence,
    tasks.co_occurrence,
    ("--batch_size=128", "--num_epochs=20"),
  ),
  "many classes": Task(
    "video",
    _make_many_classes,
    lambda folder: tasks.many_labels(folder, _MANY_CLASSES),
    ("--batch_size=256", "--num_epochs=10"),
  ),
  # As many steps as the original code was trained for its scores.
  "real records": Task(
    "video",
    None,
    tasks.real_sample,
    ("--batch_size=60", "--num_epochs=0", "--max_steps=410"),
  ),
  "order and sound": Task(
    "frame",
    tasks.make_pairs,
    tasks.pairs,
    ("--batch_size=32", "--num_epochs=3"),
    _accuracy_of_pairs,
  ),
  "short needle": Task(
    "frame",
    _NEEDLE.make,
    _NEEDLE.data,
    ("--batch_size=32", "--num_epochs=10"),
  ),
  "labels in scenes": Task(
    "frame",
    tasks.make_shown,
    tasks.shown,
    ("--batch_size=32", "--num_epochs=10"),
  ),
}


# --------------------------------------------------------------------------
# Runs


@dataclasses.dataclass(frozen=True)
class Spec:
  """One run.

  Attributes:
    task: its name.
    model: its name.
    candidate: flags; empty for the defaults.
    common_flags: of all settings.
    seed: of the run.
    folder: of the data.
    results_dir: for the row.
  """

  task: str
  model: str
  candidate: str
  common_flags: tuple[str, ...]
  seed: int
  folder: Path
  results_dir: Path

  @property
  def name(self) -> str:
    """Of the row: the model, what all settings share, and the setting."""
    parts = [self.model, *self.common_flags, self.candidate or DEFAULTS]
    return " ".join(parts)


def run(spec: Spec) -> Row:
  """Trains one model and saves its row."""
  task = TASKS[spec.task]
  is_frame = task.level == "frame"
  with tempfile.TemporaryDirectory() as folder:
    trained = training.train_and_predict(
      Path(folder) / "run",
      task.data(spec.folder),
      [
        f"--model={spec.model}",
        f"--frame_features={is_frame}",
        *shlex.split(spec.candidate),
      ],
      # Presets may leave out videos that are short; none is here.
      [
        *(["--min_frames=0"] if is_frame else []),
        *SMALLER.get(spec.model, ()),
        *task.flags,
        *spec.common_flags,
        f"--seed={spec.seed}",
      ],
    )
  row = Row(
    spec.task,
    spec.name,
    spec.seed,
    task.score(trained),
    trained.gap(),
    trained.steps,
    round(trained.seconds, 1),
    commit=results.commit(),
  )
  results.save(spec.results_dir, row)
  return row


def _run_all(specs: Sequence[Spec], jobs: int) -> None:
  """Runs what has no file yet, `jobs` at a time, and prints each result."""

  def is_missing(spec):
    row = Row(spec.task, spec.name, spec.seed, None, 0.0)
    return not results.is_saved(spec.results_dir, row)

  specs = [spec for spec in specs if is_missing(spec)]
  if jobs == 1:
    rows = map(run, specs)
  else:
    # TensorFlow reads it when it starts.
    threads = max((os.cpu_count() or 1) // jobs, 1)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    rows = concurrent.futures.ProcessPoolExecutor(
      jobs, multiprocessing.get_context("spawn")
    ).map(run, specs)
  for number, row in enumerate(rows, 1):
    print(
      f"{number}/{len(specs)} {row.task}: {row.model}, seed {row.seed}: GAP"
      f" {row.gap:.3f}, score {row.score:.3f}, {row.steps} steps,"
      f" {row.seconds:.0f} s",
      file=sys.stderr,
      flush=True,
    )


# --------------------------------------------------------------------------
# The table


def compare(found: Results, specs: Sequence[Spec]) -> list[tuple[Spec, str]]:
  """Says of each candidate whether its GAP is better than the defaults'.

  Args:
    found: rows of all specs.
    specs: of any seeds.

  Returns:
    (one of its specs, "better", "worse" or "within the spread") of each task,
    model and candidate.

  Raises:
    errors.UserError: steps differ.
  """
  words = {}
  for spec in specs:
    if not spec.candidate or (spec.task, spec.name) in words:
      continue
    defaults = found[spec.task, dataclasses.replace(spec, candidate="").name]
    candidate = found[spec.task, spec.name]
    if defaults.values("steps") != candidate.values("steps"):
      raise errors.UserError(
        f"Expected equal steps, received {defaults.values('steps')} with the"
        f" defaults of {spec.model} on {spec.task} and"
        f" {candidate.values('steps')} with {spec.candidate}. Leave out flags"
        " that change them, such as --max_steps."
      )
    word = verdict(defaults.values("gap"), candidate.values("gap"))
    words[spec.task, spec.name] = spec, word
  return list(words.values())


def table(found: Results, specs: Sequence[Spec]) -> list[str]:
  """The comparison in Markdown, and what it says of each model."""
  lines = [
    "| model | task | settings | score | GAP | steps | verdict |",
    f"|{'---|' * 7}",
  ]
  compared = compare(found, specs)
  words = {(spec.task, spec.name): word for spec, word in compared}
  for spec in dict.fromkeys(
    dataclasses.replace(spec, seed=0) for spec in specs
  ):
    key = spec.task, spec.name
    model = " ".join([spec.model, *SMALLER.get(spec.model, ())])
    settings = " ".join([*spec.common_flags, spec.candidate or DEFAULTS])
    lines.append(
      f"| {model} | {spec.task} | {settings} | {found[key].text('score')}"
      f" | {found[key].text('gap')} | {found[key].mean('steps'):.0f}"
      f" | {words.get(key, '')} |"
    )
  lines.append("")
  for model, candidate in dict.fromkeys(
    (spec.model, spec.candidate) for spec, _ in compared
  ):
    of = [
      word
      for spec, word in compared
      if (spec.model, spec.candidate) == (model, candidate)
    ]
    lines.append(
      f"{model} with {candidate}: better on {of.count('better')} of"
      f" {len(of)} tasks, worse on {of.count('worse')}."
    )
  return lines


# --------------------------------------------------------------------------
# The program


def define_own_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("models", list(MODELS), "Models to train.")
  flags.DEFINE_list(
    "tasks", [], f"Tasks, of {', '.join(TASKS)}; empty: all of a model's level."
  )
  flags.DEFINE_integer("seeds", 3, "Seeds of each setting.", lower_bound=1)
  flags.DEFINE_multi_string(
    "candidate",
    [RECOMMENDED],
    "Flags of train.py to compare with the defaults; may be repeated.",
  )
  flags.DEFINE_string(
    "common_flags", "", "Flags of train.py for the defaults and all candidates."
  )
  flags.DEFINE_string(
    "results_dir", "/tmp/yt8m_recommended", "Folder of the data and results."
  )
  flags.DEFINE_string(
    "real_records",
    "",
    "Folder with video-level records of YouTube-8M, train*.tfrecord and"
    " validate*.tfrecord, for the task real records; empty: leave it out.",
  )
  flags.DEFINE_integer("jobs", 1, "Runs at a time.", lower_bound=1)


def _check_names(given: Sequence[str], known: Sequence[str], flag: str) -> None:
  """Raises errors.UserError if a name is unknown."""
  unknown = [name for name in given if name not in known]
  if unknown:
    raise errors.UserError(
      f"Expected --{flag} of {', '.join(known)}, received {', '.join(unknown)}."
    )


def _check_presets(given: Sequence[str], candidates: Sequence[str]) -> None:
  """Raises errors.UserError if a model lacks a preset that a candidate names.

  Before anything is trained: the defaults come first, and may take hours.
  """
  for model, candidate in itertools.product(given, candidates):
    for flag in shlex.split(candidate):
      name, _, value = flag.partition("=")
      if name != "--preset":
        continue
      presets = models.find_class_by_name(model).presets
      if value not in presets:
        raise errors.UserError(
          f"Expected --candidate={candidate} to name a preset of {model},"
          f" received {value!r}. Available:"
          f" {', '.join(sorted(presets)) or 'none'}. Leave {model} out of"
          " --models, or name flags as --candidate."
        )


def _make_data(task: str) -> Path:
  """The folder of a task's data, which is made if it is not there."""
  make = TASKS[task].make
  if make is None:
    return Path(FLAGS.real_records)
  folder = Path(FLAGS.results_dir) / "data" / task.replace(" ", "_")
  return tasks.made_once(folder, make)


def specs_from_flags() -> list[Spec]:
  """All runs that the flags ask for, the defaults of a model and task first."""
  table = documentation.model_table()
  _check_names(FLAGS.models, list(table), "models")
  _check_names(FLAGS.tasks, list(TASKS), "tasks")
  _check_presets(FLAGS.models, FLAGS.candidate)
  if "real records" in FLAGS.tasks and not FLAGS.real_records:
    raise errors.UserError(
      "Expected --real_records for --tasks=real records, received none. Name"
      " the folder of the records."
    )
  chosen = [
    name
    for name, task in TASKS.items()
    if (not FLAGS.tasks or name in FLAGS.tasks)
    and (task.make or FLAGS.real_records)
  ]
  pairs = [
    (model, task)
    for model in FLAGS.models
    for task in chosen
    if TASKS[task].level == table[model]["level"]
  ]
  if not pairs:
    raise errors.UserError(
      f"Expected --tasks at the level of --models={','.join(FLAGS.models)},"
      f" received {', '.join(FLAGS.tasks)}: models on frames and on videos have"
      " different ones. Leave --tasks out for all that fit."
    )
  folders = {task: _make_data(task) for _, task in pairs}
  return [
    Spec(
      task,
      model,
      candidate,
      tuple(shlex.split(FLAGS.common_flags)),
      seed,
      folders[task],
      Path(FLAGS.results_dir),
    )
    for (model, task), candidate, seed in itertools.product(
      pairs, ["", *FLAGS.candidate], range(FLAGS.seeds)
    )
  ]


def main() -> None:
  """Runs everything, prints the table."""
  specs = specs_from_flags()
  _run_all(specs, FLAGS.jobs)
  names = {(spec.task, spec.name, spec.seed) for spec in specs}
  found = results.summarize(
    row
    for summary in results.load(FLAGS.results_dir).values()
    for row in summary.rows
    if (row.task, row.model, row.seed) in names
  )
  print("\n".join(table(found, specs)))
  is_worse = any(word == "worse" for _, word in compare(found, specs))
  if FLAGS.candidate == [RECOMMENDED] and is_worse:
    sys.exit(1)


if __name__ == "__main__":
  define_own_flags()
  startup.run(main)
