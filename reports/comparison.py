"""The numbers of a comparison: rows of the table, and what is more than chance.

Everything comes from files of the runs: scores.json and predictions.npz of
reports/score_run.py, run.json and the events of training.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import errors
import eval_util
from engine.prediction_file import READ_ERRORS
from engine.run_record import read_run_record
from losses import EPSILON
from reports import bootstrap
from reports.bootstrap import Interval, Ranked
from reports.comparison_plan import FREQUENCIES, MAJORITY, Entry, Run
from reports.comparison_runs import run_folder, train_dir_of
from reports.score_run import PREDICTIONS_FILE, SCORES_FILE, TOP_K

_BOOTSTRAP_SEED = 0
_ROWS_AT_A_TIME = 1024

# Keys of eval_util's scores, by what they are called in a comparison.
_SCORES = {
  "loss": "avg_loss",
  "hit_at_one": "avg_hit_at_one",
  "perr": "avg_perr",
  "map": "map",
  "gap": "gap",
}


class Spread(NamedTuple):
  """A value of several seeds.

  Attributes:
    mean: over the seeds.
    deviation: the standard deviation of a sample; None for a single seed.
  """

  mean: float
  deviation: float | None


def spread_of(values: Sequence[float | None]) -> Spread | None:
  """Mean and standard deviation; None if a value is not known."""
  known = [value for value in values if value is not None]
  if not known or len(known) < len(values):
    return None
  deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
  return Spread(float(np.mean(known)), deviation)


# --------------------------------------------------------------------------
# One run


def _weighted(pairs) -> float | None:
  """The mean of (value, weight) pairs; None without a known value."""
  known = [(value, weight) for value, weight in pairs if value is not None]
  total = sum(weight for _, weight in known)
  if not total:
    return None
  return sum(value * weight for value, weight in known) / total


def starts_of(record: dict | None) -> list[dict]:
  """The starts whose steps are in a run; see engine/run_record.py.

  Not one that was killed before it saved: the next start took its steps anew.

  Args:
    record: the content of run.json; None for a run without it.
  """
  kept: list[dict] = []
  for start in reversed(record["starts"] if record else []):
    was_repeated = kept and kept[0]["first_step"] <= start["first_step"]
    if start["last_step"] >= start["first_step"] and not was_repeated:
      kept.insert(0, start)
  return kept


def cost_of(record: dict | None) -> dict[str, float | None]:
  """What a training has cost, over all starts whose steps are in the run.

  Args:
    record: the content of run.json; None for a run without it.

  Returns:
    training_seconds (steps alone), start_seconds (until the first step was
    done), videos, videos_per_second, cpu_percent, peak_memory_bytes,
    gpu_percent and gpu_memory_bytes; None where it is not known.
  """
  starts = starts_of(record)

  def most(name):
    known = [start["resources"].get(name) for start in starts]
    return max((value for value in known if value is not None), default=None)

  def mean(of):
    return _weighted((of(start), start["training_seconds"]) for start in starts)

  return {
    "training_seconds": sum(start["training_seconds"] for start in starts)
    if starts
    else None,
    "start_seconds": sum(start["start_seconds"] or 0.0 for start in starts)
    if starts
    else None,
    "videos": sum(start["videos"] for start in starts) if starts else None,
    "videos_per_second": mean(lambda start: start["videos_per_second"]),
    "cpu_percent": mean(lambda start: start["resources"].get("cpu_percent")),
    "gpu_percent": mean(lambda start: start["resources"].get("gpu_percent")),
    "peak_memory_bytes": most("peak_memory_bytes"),
    "gpu_memory_bytes": most("gpu_memory_bytes"),
  }


@dataclasses.dataclass(eq=False)
class Scored:
  """A finished run. Videos are in the order of their ids.

  Attributes:
    run: what was trained.
    scores: the content of scores.json.
    record: of run.json; None for none.
    video_ids: (videos,) bytes.
    class_indexes: (videos, k) int32, best first; places in `classes`.
    confidences: (videos, k) float32.
    hits: (videos, k) bool.
    positives: the place of the video and of the class of each label.
    classes: (classes,) int32, the index of each class in the data.
  """

  run: Run
  scores: dict
  record: dict | None
  video_ids: np.ndarray
  class_indexes: np.ndarray
  confidences: np.ndarray
  hits: np.ndarray
  positives: tuple[np.ndarray, np.ndarray]
  classes: np.ndarray

  def __post_init__(self):
    self.ranked = Ranked(
      self.class_indexes,
      self.confidences,
      self.hits,
      self.positives,
      len(self.classes),
    )

  def values(self) -> dict[str, float | None]:
    """All numbers of the run, by the names of the table's columns."""
    scores = self.scores
    return {
      **{name: scores[key] for name, key in _SCORES.items()},
      **cost_of(self.record),
      "parameters": scores["parameters"],
      "export_bytes": scores["export_bytes"],
      "latency_seconds": scores["latency_seconds"],
      "predicted_per_second": scores["videos_per_second"],
      "steps": scores["step"],
    }


def load(run: Run, output_dir: str) -> Scored:
  """Reads the files of a finished run.

  Raises:
    errors.UserError: one was not written by this project.
  """
  folder = run_folder(run, output_dir)
  try:
    with open(os.path.join(folder, SCORES_FILE), encoding="utf-8") as file:
      scores = json.load(file)
    path = os.path.join(folder, PREDICTIONS_FILE)
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
    order = np.argsort(arrays["video_ids"], kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return Scored(
      run,
      scores,
      read_run_record(train_dir_of(run, output_dir)),
      arrays["video_ids"][order],
      arrays["class_indexes"][order],
      arrays["confidences"][order],
      arrays["hits"][order],
      (places[arrays["label_rows"]], arrays["label_classes"]),
      arrays["classes"],
    )
  except (*READ_ERRORS, OSError) as error:
    raise errors.UserError(
      f"Expected the scores of a run in {folder}, received something else"
      f" ({type(error).__name__}: {error}). Delete this folder and start again."
    ) from error


def check_same_videos(runs: Sequence[Scored]) -> None:
  """Checks that runs were scored on the same videos with the same labels.

  Raises:
    errors.UserError: names two that were not.
  """

  def labels_of(scored):
    rows, classes = scored.positives
    return np.sort(rows * len(scored.classes) + classes)

  first = runs[0]
  labels = labels_of(first)
  for other in runs[1:]:
    if not np.array_equal(first.video_ids, other.video_ids):
      what = f"{len(first.video_ids)} and {len(other.video_ids)} videos"
    elif not np.array_equal(first.classes, other.classes):
      what = f"{len(first.classes)} and {len(other.classes)} classes"
    elif not np.array_equal(labels, labels_of(other)):
      what = "the same videos with other labels"
    else:
      continue
    raise errors.UserError(
      "Expected models that are scored on the same videos with the same labels,"
      f" received {what} of {first.run.entry.name} and {other.run.entry.name}."
      " Name files with the same videos for both."
    )


# --------------------------------------------------------------------------
# Rows


@dataclasses.dataclass(eq=False)
class Row:
  """A row of the table.

  Attributes:
    name: of the entry, or of a constant prediction.
    entry: None for a constant prediction.
    runs: finished ones, one for each seed.
    values: {column: Spread, or None where it is not known}.
    is_baseline: whether it is there to be exceeded.
    command: of the first run.
  """

  name: str
  entry: Entry | None
  runs: list[Scored]
  values: dict[str, Spread | None]
  is_baseline: bool
  command: str

  def spread(self, column: str) -> Spread:
    """The value of a column that is known.

    Raises:
      KeyError: it is not known.
    """
    value = self.values[column]
    if value is None:
      raise KeyError(column)
    return value


def make_row(runs: list[Scored], command: str) -> Row:
  """The row of an entry's runs, at least one."""
  entry = runs[0].run.entry
  of_runs = [run.values() for run in runs]
  values = {
    name: spread_of([values[name] for values in of_runs]) for name in of_runs[0]
  }
  return Row(entry.name, entry, runs, values, entry.is_baseline, command)


def score_constant(
  prediction: np.ndarray,
  positives: tuple[np.ndarray, np.ndarray],
  num_videos: int,
) -> dict[str, float]:
  """Scores the same prediction for all videos.

  Args:
    prediction: (classes,) float32.
    positives: the place of the video and of the class of each label.
    num_videos: how many.

  Returns:
    hit_at_one, perr, map, gap, and loss, the cross entropy of losses.py.
  """
  rows, classes = positives
  metrics = eval_util.EvaluationMetrics(len(prediction), TOP_K)
  order = np.argsort(rows, kind="stable")
  rows, classes = rows[order], classes[order]
  for first in range(0, num_videos, _ROWS_AT_A_TIME):
    count = min(_ROWS_AT_A_TIME, num_videos - first)
    begin, end = np.searchsorted(rows, [first, first + count])
    labels = np.zeros((count, len(prediction)), bool)
    labels[rows[begin:end] - first, classes[begin:end]] = True
    metrics.accumulate(
      np.broadcast_to(prediction, labels.shape), labels, loss=0.0
    )
  scores = metrics.scores()
  given = prediction.astype(np.float64)
  without = -np.log(1 - given + EPSILON)
  gain = -np.log(given + EPSILON) - without
  loss = without.sum() + gain[classes].sum() / max(num_videos, 1)
  return {
    **{name: scores[key] for name, key in _SCORES.items()},
    "loss": float(loss),
  }


def constant_rows(counts: np.ndarray, num_videos: int, scored: Scored) -> list:
  """The rows of predictions that do not look at the video.

  Args:
    counts: (classes,) training videos of each class.
    num_videos: training videos.
    scored: any run, for the videos to score on.
  """
  frequencies = (counts / max(num_videos, 1)).astype(np.float32)
  majority = np.zeros_like(frequencies)
  majority[np.argmax(counts)] = 1
  rows = []
  for name, prediction in ((MAJORITY, majority), (FREQUENCIES, frequencies)):
    scores = score_constant(prediction, scored.positives, len(scored.video_ids))
    has_loss = (
      name == FREQUENCIES and scored.scores["label_loss"] == "CrossEntropyLoss"
    )
    values: dict[str, Spread | None] = {
      key: Spread(value, None)
      for key, value in scores.items()
      if key != "loss" or has_loss
    }
    rows.append(Row(name, None, [], values, True, ""))
  return rows


# --------------------------------------------------------------------------
# Differences


@dataclasses.dataclass
class Difference:
  """How much better one row is than another.

  Attributes:
    better: name of the row with the higher score of the first metric.
    worse: name of the other.
    intervals: {"gap": Interval, "map": Interval} of better minus worse.
  """

  better: str
  worse: str
  intervals: dict[str, Interval]


def differences(
  rows: Sequence[Row],
  resamples: int,
  tick: Callable[[int], object] | None = None,
) -> list[Difference]:
  """Compares each two rows by a paired bootstrap over seeds and videos.

  Args:
    rows: with runs on the same videos.
    resamples: number of draws.
    tick: see bootstrap.resampled_scores.

  Returns:
    A Difference for each pair.
  """
  runs = [run for row in rows for run in row.runs]
  ranked = [run.ranked for run in runs]
  drawn = bootstrap.resampled_scores(ranked, resamples, _BOOTSTRAP_SEED, tick)
  ones = np.ones(ranked[0].num_videos, np.int64)
  of_all = np.array([one.scores(ones) for one in ranked])
  places = {
    row.name: {run.run.seed: runs.index(run) for run in row.runs}
    for row in rows
  }
  found = []
  for one, other in itertools.combinations(rows, 2):
    seeds = sorted(places[one.name].keys() & places[other.name].keys())
    if not seeds:
      continue
    here, there = (
      [places[row.name][seed] for seed in seeds] for row in (one, other)
    )
    if of_all[here, 0].mean() < of_all[there, 0].mean():
      one, other, here, there = other, one, there, here
    intervals = bootstrap.difference_of_resamples(
      drawn[here], drawn[there], of_all[here], of_all[there], _BOOTSTRAP_SEED
    )
    found.append(Difference(one.name, other.name, intervals))
  return found


def pareto_front(
  costs: Sequence[float], qualities: Sequence[float]
) -> list[int]:
  """Those that no other one equals at a lower cost, or exceeds at the same.

  Args:
    costs: lower is better.
    qualities: higher is better.

  Returns:
    Their places, from the cheapest to the best.
  """
  order = sorted(
    range(len(costs)), key=lambda place: (costs[place], -qualities[place])
  )
  front, best = [], -math.inf
  for place in order:
    if qualities[place] > best:
      front.append(place)
      best = qualities[place]
  return front


# --------------------------------------------------------------------------
# All of it


@dataclasses.dataclass(eq=False)
class Comparison:
  """All that a report shows.

  Attributes:
    budget: of each run, in words.
    seeds: of each row of the main table.
    rows: of the main table, entries first, then the baselines.
    differences: between each two rows with runs.
    resamples: draws of the bootstrap.
    names: of the classes, by their places.
    train_counts: (classes,) training videos of each class.
    num_train_videos: as many.
    by_fraction: {part of the training data: its rows}, with all of it if there
      are any.
    by_workers: {number of workers: their rows}, with one if there are any.
    failed: (run, why) of those that could not be finished.
    facts: (what, text) about the machine, the versions and the data.
    notes: what a reader must know about the figures.
    command: of the comparison.
  """

  budget: str
  seeds: int
  rows: list[Row]
  differences: list[Difference]
  resamples: int
  names: list[str]
  train_counts: np.ndarray
  num_train_videos: int
  by_fraction: dict[float, list[Row]]
  by_workers: dict[int, list[Row]]
  failed: list[tuple[str, str]]
  facts: list[tuple[str, str]]
  notes: list[str]
  command: str

  @property
  def trained(self) -> list[Row]:
    """The rows of the main table that have runs."""
    return [row for row in self.rows if row.runs]

  @property
  def num_videos(self) -> int:
    """Scored videos."""
    return len(self.trained[0].runs[0].video_ids)
