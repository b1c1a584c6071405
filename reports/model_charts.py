"""Charts of a comparison of models, as texts of SVG images.

A row keeps its color and its marker in all charts. Text is numbers, names of
entries and words of this file.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
  EngFormatter,
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
)

from reports.calibration import Calibration
from reports.charts import (
  GRAY,
  IN_THE_DARK,
  INK,
  STYLE,
  new_figure,
  svg_text,
)
from reports.comparison_findings import ByFrequency
from reports.learning_curves import Curve, smoothed

# On a light screen, and on a dark one.
_SERIES = {
  "#2468b0": "#6aaef0",
  "#b85c00": "#f0a35e",
  "#2e7d4f": "#7cc79a",
  "#7b4fb5": "#b795ec",
  "#b3261a": "#ff8a7a",
  "#00798c": "#5cc4d4",
  "#8a6d3b": "#d3b27a",
  "#b5447d": "#ee8cbb",
}
_DARK = {**IN_THE_DARK, **_SERIES}
_COLORS = list(_SERIES)
_MARKERS = "osD^vPX<>"
_LINES = ("-", "--", ":")
# Longer names have a line of the legend each.
_LONGEST_OF_TWO, _LONGEST_NAME = 26, 62
_SMOOTHED_REPORTS = 9
# Of a bin of a reliability diagram: fewer predictions are chance.
FEWEST_PREDICTIONS = 20

_MODEL_STYLE: Any = {
  **STYLE,
  "text.parse_math": False,  # a name is not a formula
  "legend.fontsize": 8,
  "legend.frameon": False,
  "lines.linewidth": 1.3,
  "lines.markersize": 4.5,
}


def _look(place: int) -> dict:
  """The color, marker and line of a row."""
  return {
    "color": _COLORS[place % len(_COLORS)],
    "marker": _MARKERS[place % len(_MARKERS)],
    "linestyle": _LINES[place // len(_COLORS) % len(_LINES)],
  }


def _short(name: str) -> str:
  if len(name) <= _LONGEST_NAME:
    return name
  return f"{name[: _LONGEST_NAME - 1]}…"


def _legend_columns(names: Iterable[str]) -> int:
  return 2 if max(map(len, names), default=0) <= _LONGEST_OF_TWO else 1


def _finish(figure, axes: Axes) -> str:
  """Adds the legend below; returns the image."""
  handles, names = axes.get_legend_handles_labels()
  if names:
    figure.legend(
      handles,
      map(_short, names),
      loc="outside lower center",
      ncols=_legend_columns(names),
      columnspacing=1.2,
      handlelength=1.8,
    )
  return svg_text(figure, _DARK)


def _height(names: Collection[str]) -> float:
  """Of a chart with a legend of these names and one more, in inches."""
  lines = -(-(len(names) + 1) // _legend_columns(names))
  return 2.8 + 0.18 * lines


def _grid(axes: Axes) -> None:
  axes.grid(color=GRAY, linewidth=0.6)
  axes.set_axisbelow(True)


def _set_logarithmic(axis, formatter, low: float, high: float) -> None:
  """Labels of powers of ten, and between them if these are few."""
  axis.set_major_formatter(formatter)
  axis.set_minor_formatter(NullFormatter())
  if high < 30 * low:
    between = (2, 3, 5) if high > 3 * low else (1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axis.set_minor_locator(LogLocator(subs=between))
    axis.set_minor_formatter(formatter)


def _plain(value, _=None) -> str:
  return f"{value:,.4g}"


def learning_curves(
  curves: Mapping[str, Curve], against: str, label: str
) -> str:
  """Loss and GAP of training batches, as means of nine reports.

  Args:
    curves: {row: its first run}.
    against: "steps", "seconds" or "videos".
    label: of this axis.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height(curves) + 1.6)
    above, below = figure.subplots(2, sharex=True)
    for place, (name, curve) in enumerate(curves.items()):
      at = getattr(curve, against)
      look = {**_look(place), "marker": ""}
      for axes, values in ((above, curve.loss), (below, curve.gap)):
        axes.plot(at, smoothed(values, _SMOOTHED_REPORTS), label=name, **look)
    above.set_ylabel("loss of training")
    above.set_yscale("log")
    losses = np.concatenate([curve.loss for curve in curves.values()])
    _set_logarithmic(
      above.yaxis, FuncFormatter(_plain), losses.min(), losses.max()
    )
    below.set_ylabel("GAP of training")
    below.set_ylim(bottom=0)
    below.set_xlabel(label)
    below.set_xlim(left=0)
    below.xaxis.set_major_locator(MaxNLocator(nbins=6))
    below.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in (above, below):
      _grid(axes)
    return _finish(figure, below)


def quality_against_cost(
  points: Sequence[tuple[str, float, float]],
  front: Sequence[int],
  label: str,
  spreads: Sequence[float | None],
) -> str:
  """GAP against a cost, with the Pareto front.

  Args:
    points: (row, cost, GAP); costs above 0.
    front: places of the points on the front, from the cheapest.
    label: of the cost, with its unit.
    spreads: the standard deviation of each GAP, or None.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height([name for name, *_ in points]))
    axes = figure.subplots()
    costs = [cost for _, cost, _ in points]
    limits = min(costs) / 1.6, max(costs) * 1.6
    at = [points[place][1] for place in front]
    best = [points[place][2] for place in front]
    axes.plot(
      [*at, limits[1]],
      [*best, best[-1]],
      color=INK,
      linewidth=0.9,
      linestyle="--",
      drawstyle="steps-post",
      label="Pareto front",
      zorder=1,
    )
    for place, (name, cost, quality) in enumerate(points):
      look = {**_look(place), "linestyle": "none"}
      axes.errorbar(
        cost,
        quality,
        yerr=spreads[place],
        label=name,
        elinewidth=0.9,
        capsize=2,
        zorder=2,
        **look,
      )
    axes.set_xscale("log")
    _set_logarithmic(axes.xaxis, EngFormatter(sep=""), *limits)
    axes.set_xlim(*limits)
    axes.set_xlabel(label)
    axes.set_ylabel("GAP")
    _grid(axes)
    return _finish(figure, axes)


def precision_by_frequency(found: ByFrequency) -> str:
  """Mean average precision of classes against their frequency.

  Args:
    found: see comparison_findings.by_frequency.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height(found.means))
    axes = figure.subplots()
    for place, (name, means) in enumerate(found.means.items()):
      axes.plot(found.frequencies, means, label=name, **_look(place))
    axes.set_xscale("log")
    low, high = found.frequencies.min(), found.frequencies.max()
    _set_logarithmic(axes.xaxis, FuncFormatter(_plain), low, high)
    axes.set_xlim(low / 1.3, high * 1.3)
    axes.set_ylim(0, 1)
    axes.set_xlabel("training videos of the class")
    axes.set_ylabel("average precision")
    _grid(axes)
    return _finish(figure, axes)


def reliability(calibrations: Mapping[str, Calibration]) -> str:
  """How many of the predictions of each probability are labels.

  Args:
    calibrations: of each row.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height(calibrations) + 0.5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--")
    for place, (name, of) in enumerate(calibrations.items()):
      predicted, observed = of.points(FEWEST_PREDICTIONS)
      axes.plot(predicted, observed, label=name, **_look(place))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that are labels")
    _grid(axes)
    return _finish(figure, axes)


def quality_by_fraction(
  points: Mapping[str, Sequence[tuple[float, float, float | None]]],
) -> str:
  """GAP against the part of the training data.

  Args:
    points: {row: (fraction, mean GAP, standard deviation or None), ...}.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height(points))
    axes = figure.subplots()
    for place, (name, of) in enumerate(points.items()):
      fractions, means, spreads = zip(*of, strict=True)
      axes.errorbar(
        fractions,
        means,
        yerr=[spread or 0.0 for spread in spreads],
        label=name,
        elinewidth=0.9,
        capsize=2,
        **_look(place),
      )
    axes.set_xscale("log")
    shown = sorted({fraction for of in points.values() for fraction, *_ in of})
    axes.set_xticks(shown, [f"{100 * fraction:g}%" for fraction in shown])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("part of the training data")
    axes.set_ylabel("GAP")
    _grid(axes)
    return _finish(figure, axes)


def speed_by_workers(
  points: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
  """How many times as fast several workers are as one.

  Args:
    points: {row: (workers, videos/s), ...}, with one worker first.

  Returns:
    The text of the image.
  """
  with mpl.rc_context(_MODEL_STYLE):
    figure = new_figure(_height(points))
    axes = figure.subplots()
    most = max(workers for of in points.values() for workers, _ in of)
    axes.plot(
      [1, most],
      [1, most],
      color=INK,
      linewidth=0.9,
      linestyle="--",
      label="as many times as workers",
    )
    for place, (name, of) in enumerate(points.items()):
      workers, rates = (np.array(part) for part in zip(*of, strict=True))
      axes.plot(workers, rates / rates[0], label=name, **_look(place))
    axes.set_xlim(0.8, most + 0.2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("workers")
    axes.set_ylabel("videos/s, times one worker's")
    _grid(axes)
    return _finish(figure, axes)
