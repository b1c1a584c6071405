"""Compares what models learn from each input transform on real records.

Usage, from the root of the repository:

  python -m benchmarks.input_transforms --data=FOLDER

FOLDER holds video-level records of YouTube-8M: models are trained on its
train*.tfrecord by train.py, with a fixed number of steps and each --seeds, and
scored on validate*.tfrecord by eval.py. Prints a table, and at the end one line
of JSON with all figures: mean and standard deviation of GAP and mAP over the
seeds, and GAP minus that of the first transform with the same seed.

--results names a file that gets a line of JSON for each run. Runs that are in
it are not repeated, and the table covers all runs in it with the same steps and
batch size: several processes, each with its own models, learning rates or
seeds, may share one.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile

import startup  # isort: skip
from absl import flags

import errors
import models
from benchmarks import run_all
from data_tools.text_table import aligned

FLAGS = flags.FLAGS

# What a run is known by.
_KEYS = ("model", "transform", "learning_rate", "seed", "steps", "batch_size")


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_string("data", None, "Folder of the records.", required=True)
  flags.DEFINE_list(
    "models", ["LogisticModel", "MoeModel", "DeepNnModel"], "Models to train."
  )
  flags.DEFINE_list(
    "transforms", list(models.INPUT_TRANSFORMS), "Transforms to compare."
  )
  flags.DEFINE_list(
    "learning_rates",
    [""],
    "Learning rates to try; nothing in the place of one: the model's own.",
  )
  flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds of the runs.")
  flags.DEFINE_integer("steps", 410, "Steps of each run.", lower_bound=1)
  flags.DEFINE_integer("batch_size", 60, "Videos of a step.", lower_bound=1)
  flags.DEFINE_integer("num_classes", 3862, "Classes.", lower_bound=1)
  flags.DEFINE_string("results", "", "File of the runs; empty: none.")


def planned_runs() -> list[dict]:
  """The runs that the flags ask for, by _KEYS."""
  return [
    dict(zip(_KEYS, (*of, FLAGS.steps, FLAGS.batch_size), strict=True))
    for of in itertools.product(
      FLAGS.models, FLAGS.transforms, FLAGS.learning_rates, FLAGS.seeds
    )
  ]


def scores_of(run: dict) -> dict[str, float]:
  """Trains and evaluates a model.

  Args:
    run: see planned_runs.

  Returns:
    Its "gap" and "map".
  """
  with tempfile.TemporaryDirectory() as train_dir:
    common = [f"--train_dir={train_dir}"]
    rate = run["learning_rate"]
    _call(
      "train.py",
      *common,
      f"--train_data_pattern={FLAGS.data}/train*.tfrecord",
      "--feature_names=mean_rgb,mean_audio",
      "--feature_sizes=1024,128",
      f"--num_classes={FLAGS.num_classes}",
      f"--model={run['model']}",
      f"--input_transform={run['transform']}",
      f"--seed={run['seed']}",
      f"--max_steps={run['steps']}",
      f"--batch_size={run['batch_size']}",
      "--num_epochs=0",
      *([f"--base_learning_rate={rate}"] if rate else []),
    )
    _call(
      "eval.py",
      *common,
      f"--eval_data_pattern={FLAGS.data}/validate*.tfrecord",
      "--run_once",
    )
    path = os.path.join(train_dir, "eval", f"metrics-{run['steps']}.json")
    with open(path) as file:
      metrics = json.load(file)
  return {name: metrics[name] for name in ("gap", "map")}


def _call(program: str, *arguments: str) -> None:
  """Runs a program, which must succeed.

  Raises:
    errors.UserError: it failed; its last line.
  """
  done = subprocess.run(
    [sys.executable, program, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    raise errors.UserError(
      f"Expected {program} {' '.join(arguments)} to succeed, received: {last}"
    )


def read_runs(path: str) -> list[dict]:
  """The runs in a file of --results; none if there is no such file."""
  if not path or not os.path.exists(path):
    return []
  with open(path) as file:
    return [json.loads(line) for line in file]


def add_run(path: str, run: dict) -> None:
  """Adds a run to a file of --results, at once: others may add theirs."""
  if path:
    with open(path, "a") as file:
      file.write(f"{json.dumps(run)}\n")


def _key(run: dict, *names: str) -> tuple:
  """The values of some of _KEYS."""
  return tuple(run[name] for name in names)


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
  """The mean and the standard deviation, which is 0 for a single value."""
  spread = statistics.stdev(values) if len(values) > 1 else 0.0
  return statistics.mean(values), spread


def summary(runs: list[dict], transforms: list[str]) -> list[dict]:
  """Means and spreads over the seeds.

  Args:
    runs: with "gap" and "map".
    transforms: to list, in this order; the others are compared with the first.

  Returns:
    A dict for each model, learning rate and transform: these, the number of
    "seeds", pairs of mean and standard deviation of "gap" and "map", and of
    "gain", the GAP minus that of the first transform with the same seed, None
    if there are no such pairs.
  """
  gap_of = {
    _key(run, "model", "learning_rate", "transform", "seed"): run["gap"]
    for run in runs
  }
  rows = []
  groups = dict.fromkeys(_key(run, "model", "learning_rate") for run in runs)
  for group, transform in itertools.product(groups, transforms):
    found = [
      run
      for run in runs
      if _key(run, "model", "learning_rate", "transform") == (*group, transform)
    ]
    if not found:
      continue
    gains = [
      run["gap"] - gap_of[*group, transforms[0], run["seed"]]
      for run in found
      if (*group, transforms[0], run["seed"]) in gap_of
    ]
    rows.append(
      {
        "model": group[0],
        "learning_rate": group[1],
        "transform": transform,
        "seeds": len(found),
        "gap": _mean_and_spread([run["gap"] for run in found]),
        "map": _mean_and_spread([run["map"] for run in found]),
        "gain": _mean_and_spread(gains) if gains else None,
      }
    )
  return rows


def table(rows: list[dict], first: str) -> list[str]:
  """The lines of a table of the result of summary.

  Args:
    rows: of summary.
    first: the transform that the others are compared with.
  """
  head = ["model", "rate", "transform", "seeds", "GAP", "mAP", f"GAP - {first}"]
  cells = [
    [
      row["model"],
      row["learning_rate"] or "own",
      row["transform"],
      str(row["seeds"]),
      *(
        f"{mean:.4f} ± {spread:.4f}"
        for mean, spread in (row["gap"], row["map"])
      ),
      "{:+.4f} ± {:.4f}".format(*row["gain"]) if row["gain"] else "-",
    ]
    for row in rows
  ]
  return aligned([head, *cells], texts=(0, 1, 2))


def main() -> None:
  """Trains, evaluates and prints."""
  runs = read_runs(FLAGS.results)
  known = {_key(run, *_KEYS) for run in runs}
  for run in planned_runs():
    if _key(run, *_KEYS) in known:
      continue
    run.update(scores_of(run))
    print(json.dumps(run), file=sys.stderr)
    add_run(FLAGS.results, run)
    if not FLAGS.results:
      runs.append(run)
  if FLAGS.results:
    runs = read_runs(FLAGS.results)  # also what others have added
  runs = [
    run
    for run in runs
    if _key(run, "steps", "batch_size") == (FLAGS.steps, FLAGS.batch_size)
  ]
  rows = summary(runs, FLAGS.transforms)
  print("\n".join(table(rows, FLAGS.transforms[0])))
  about = run_all.machine()
  about["command"] = " ".join(
    ["python -m benchmarks.input_transforms", *sys.argv[1:]]
  )
  print(json.dumps({"machine": about, "runs": runs, "summary": rows}))


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
