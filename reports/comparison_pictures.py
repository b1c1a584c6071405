"""Which pictures a comparison has, and the numbers that go into each."""

import dataclasses
from collections.abc import Callable

import numpy as np

from reports import (
  calibration,
  comparison_findings,
  learning_curves,
  model_charts,
)
from reports.comparison import Comparison, Row, pareto_front
from reports.learning_curves import Curve

# Costs of the pictures of quality: name, column, factor, label of the axis.
_COSTS = (
  ("training", "training_seconds", 1, "seconds of training"),
  ("parameters", "parameters", 1, "parameters"),
  ("latency", "latency_seconds", 1000, "milliseconds to predict one video"),
)

NAMES = (
  *(f"learning_{against}" for against in ("steps", "seconds", "videos")),
  *(f"cost_{cost[0]}" for cost in _COSTS),
  *("frequency", "reliability", "fractions", "workers"),
)
"""The names that pictures have; not every comparison has all of them."""


@dataclasses.dataclass(frozen=True)
class Picture:
  """A chart and its words.

  Attributes:
    name: of its file, without .svg.
    title: above it.
    svg: the text of the image.
    text: what it shows, for those who do not see it.
  """

  name: str
  title: str
  svg: str
  text: str


def _curve(row: Row, train_dir_of: Callable) -> Curve:
  """The learning curve of a row's first run."""
  run = row.runs[0]
  cost = run.values()
  steps = max(run.scores["step"], 1)
  return learning_curves.read_curve(
    train_dir_of(run.run), (cost["videos"] or 0.0) / steps
  )


def _learning(comparison: Comparison, train_dir_of: Callable) -> list[Picture]:
  curves = {row.name: _curve(row, train_dir_of) for row in comparison.trained}
  curves = {
    name: curve for name, curve in curves.items() if len(curve.steps) > 1
  }
  if not curves:
    return []
  pictures = []
  for against, label in (
    ("steps", "steps"),
    ("seconds", "seconds since the first report"),
    ("videos", "videos seen"),
  ):
    if against == "videos" and not all(
      curve.videos.any() for curve in curves.values()
    ):
      continue
    ends = "; ".join(
      f"{name} ends with GAP"
      f" {learning_curves.smoothed(curve.gap, 9)[-1]:.2f} after"
      f" {getattr(curve, against)[-1]:,.0f}"
      for name, curve in curves.items()
    )
    pictures.append(
      Picture(
        f"learning_{against}",
        f"Against {against}",
        model_charts.learning_curves(curves, against, label),
        f"Loss and GAP of training batches against {label}. {ends}.",
      )
    )
  return pictures


def _cost(comparison: Comparison) -> list[Picture]:
  pictures = []
  for name, key, factor, label in _COSTS:
    rows = [row for row in comparison.trained if row.values.get(key)]
    if not rows:
      continue
    costs = [factor * row.spread(key).mean for row in rows]
    gaps = [row.spread("gap").mean for row in rows]
    if min(costs) <= 0:
      continue
    front = pareto_front(costs, gaps)
    on_front = ", ".join(rows[place].name for place in front)
    pictures.append(
      Picture(
        f"cost_{name}",
        f"Against {label}",
        model_charts.quality_against_cost(
          [
            (row.name, cost, gap)
            for row, cost, gap in zip(rows, costs, gaps, strict=True)
          ],
          front,
          label,
          [row.spread("gap").deviation for row in rows],
        ),
        f"GAP against {label}. On the Pareto front: {on_front}.",
      )
    )
  return pictures


def calibrations_of(comparison: Comparison) -> dict:
  """{row: Calibration of all predictions of all of its seeds}."""
  return {
    row.name: calibration.joined(
      [run.scores["calibration"] for run in row.runs]
    )
    for row in comparison.trained
  }


def _quality(comparison: Comparison) -> list[Picture]:
  precisions = {
    row.name: comparison_findings.average_precisions(row)
    for row in comparison.trained
  }
  pictures = []
  if not all(np.isnan(values).all() for values in precisions.values()):
    found = comparison_findings.by_frequency(
      precisions, comparison.train_counts
    )
    pictures.append(
      Picture(
        "frequency",
        "Average precision by class",
        model_charts.precision_by_frequency(found),
        "Mean average precision of classes against their training videos, from"
        f" {found.frequencies[0]:,.0f} to {found.frequencies[-1]:,.0f}.",
      )
    )
  calibrations = calibrations_of(comparison)
  errors = ", ".join(
    f"{name} {of.error():.4f}" for name, of in calibrations.items()
  )
  pictures.append(
    Picture(
      "reliability",
      "Reliability of the probabilities",
      model_charts.reliability(calibrations),
      f"Share of labels against predicted probability. Expected calibration"
      f" error: {errors}.",
    )
  )
  return pictures


def _more_data(comparison: Comparison) -> list[Picture]:
  if len(comparison.by_fraction) < 2:
    return []
  points: dict[str, list] = {}
  for fraction, rows in sorted(comparison.by_fraction.items()):
    for row in rows:
      gap = row.spread("gap")
      points.setdefault(row.name, []).append(
        (fraction, gap.mean, gap.deviation)
      )
  return [
    Picture(
      "fractions",
      "GAP against the amount of data",
      model_charts.quality_by_fraction(points),
      "GAP against the part of the training data: "
      + "; ".join(
        f"{name} from {of[0][1]:.3f} to {of[-1][1]:.3f}"
        for name, of in points.items()
      ),
    )
  ]


def _more_workers(comparison: Comparison) -> list[Picture]:
  points: dict[str, list] = {}
  for workers, rows in sorted(comparison.by_workers.items()):
    for row in rows:
      rate = row.values["videos_per_second"]
      if rate:
        points.setdefault(row.name, []).append((workers, rate.mean))
  points = {
    name: of for name, of in points.items() if len(of) > 1 and of[0][0] == 1
  }
  if not points:
    return []
  return [
    Picture(
      "workers",
      "Speed against workers",
      model_charts.speed_by_workers(points),
      "Videos/s of several workers, times those of one: "
      + "; ".join(
        f"{name} {of[-1][1] / of[0][1]:.2f} with {of[-1][0]}"
        for name, of in points.items()
      ),
    )
  ]


def draw(
  comparison: Comparison, train_dir_of: Callable
) -> dict[str, list[Picture]]:
  """Draws all pictures that there are numbers for.

  Args:
    comparison: with trained rows.
    train_dir_of: function of a Run that returns its --train_dir.

  Returns:
    {section: its pictures}: learning, cost, quality, fractions, workers.
  """
  return {
    "learning": _learning(comparison, train_dir_of),
    "cost": _cost(comparison),
    "quality": _quality(comparison),
    "fractions": _more_data(comparison),
    "workers": _more_workers(comparison),
  }
