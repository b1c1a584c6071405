"""Charts of a data set's numbers, as images that stand in a page.

Text in them is numbers and words of this file only: names of classes may be in
any script, and are shown by the browser, which has the fonts.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
  MaxNLocator,
  NullFormatter,
  StrMethodFormatter,
)

PAPER, INK = "#ffffff", "#52605b"
BLUE, _PALE, GRAY = "#2468b0", "#a9c8ea", "#cdd5d2"
_ORANGE, _GREEN = "#b8520a", "#2c7d4f"
# What they are on a dark screen, as in templates/look.css.
IN_THE_DARK = {
  PAPER: "#191f1d",
  INK: "#9daaa5",
  BLUE: "#6aaef0",
  _PALE: "#2b4a6b",
  GRAY: "#323b38",
  _ORANGE: "#f0954a",
  _GREEN: "#6cc493",
}
# Of curves that may lie on each other: each color, and under it wider lines.
CURVES = (
  (BLUE, "-", 3.2),
  (_ORANGE, "-", 1.6),
  (_GREEN, "--", 1.2),
)
# Small, since a phone shows a chart no wider: its text stays readable there.
_WIDTH, _HEIGHT = 4.8, 2.7
_MOST_BARS = 60
_DPI = 130  # of images within charts
# Of the values of a heat map: the outermost ones would leave no contrast.
_PERCENTILES = (1, 99)

STYLE: Any = {
  "font.family": "sans-serif",
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "figure.facecolor": PAPER,
  "axes.facecolor": PAPER,
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "figure.constrained_layout.use": True,
  "svg.fonttype": "none",
  "svg.hashsalt": "dataset",  # the same data give the same file
}


def _dark_style(in_the_dark: Mapping[str, str]) -> str:
  """The style that changes the colors of a chart on a dark screen."""
  rules = "".join(
    f'[style*="{what}: {color}"]{{{what}:{dark}!important}}'
    for color, dark in in_the_dark.items()
    for what in ("fill", "stroke")
  )
  return f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"


def svg_text(
  figure: Figure, in_the_dark: Mapping[str, str] = IN_THE_DARK
) -> str:
  """The figure as the text of an SVG image.

  Args:
    figure: with the colors of this module.
    in_the_dark: what its colors are on a dark screen.
  """
  content = io.StringIO()
  FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
  style = _dark_style(in_the_dark)
  return content.getvalue().replace("</svg>", f"{style}</svg>")


def uri_of(svg: str) -> str:
  """The text of an SVG image as an address that stands in a page."""
  content = base64.b64encode(svg.encode()).decode("ascii")
  return f"data:image/svg+xml;base64,{content}"


def _uri(figure: Figure) -> str:
  """The figure as the address of an SVG image."""
  return uri_of(svg_text(figure))


def new_figure(height: float = _HEIGHT) -> Figure:
  """A figure as wide as all others, of some height in inches."""
  return Figure(figsize=(_WIDTH, height), dpi=_DPI)


def label_frequency(counts: Sequence[int]) -> str:
  """Videos of each class, by rank, on logarithmic axes.

  Args:
    counts: videos of each class that occurs, in descending order.

  Returns:
    The address of the image.
  """
  with mpl.rc_context(STYLE):
    figure = new_figure()
    axes = figure.subplots()
    ranks = np.arange(1, len(counts) + 1)
    marker = "o" if len(counts) <= _MOST_BARS else ""
    axes.loglog(ranks, counts, color=BLUE, marker=marker, markersize=3)
    axes.set_xlabel("rank of the class")
    axes.set_ylabel("videos")
    axes.set_xlim(0.9, 1.1 * _power(len(counts), np.ceil))
    axes.set_ylim(
      0.8 * _power(min(counts), np.floor), 1.2 * _power(max(counts), np.ceil)
    )
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
      axis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRAY, linewidth=0.6)
    return _uri(figure)


def add_legend_above(axes) -> None:
  """Adds a legend above a chart, where it hides nothing."""
  axes.legend(
    loc="lower center",
    bbox_to_anchor=(0.5, 1.0),
    ncols=3,
    frameon=False,
    fontsize=8,
  )


def _power(number: int, rounded: Callable) -> float:
  """A power of 10 near a number; not 1 as the upper end of an axis."""
  power = rounded(np.log10(number))
  return float(10 ** (max(power, 1) if rounded is np.ceil else power))


def histogram(counts: Mapping[int, int], label: str) -> str:
  """How often whole numbers occur.

  Args:
    counts: {number: videos}; at least one.
    label: what the numbers are.

  Returns:
    The address of the image.
  """
  low, high = min(counts), max(counts)
  step = -(-(high - low + 1) // _MOST_BARS)
  edges = np.arange(low, high + step + 1, step)
  heights = np.zeros(len(edges) - 1)
  for number, count in counts.items():
    heights[(number - low) // step] += count
  with mpl.rc_context(STYLE):
    figure = new_figure()
    axes = figure.subplots()
    axes.bar(
      edges[:-1] + (step - 1) / 2, heights, width=0.85 * step, color=BLUE
    )
    # A few bars are no wider than others.
    space = max(0.6, (5 - len(heights)) / 2) * step
    axes.set_xlim(max(low - space, -0.6 * step), edges[-1] - 1 + space)
    axes.set_xlabel(label)
    axes.set_ylabel("videos")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return _uri(figure)


def curves(
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  x_label: str,
  y_label: str,
) -> str:
  """Numbers against others, a line for each series.

  Args:
    series: {name: (where, numbers)}, each with at least one number.
    x_label: what "where" is.
    y_label: what the numbers are.

  Returns:
    The address of the image.
  """
  with mpl.rc_context(STYLE):
    figure = new_figure()
    axes = figure.subplots()
    for place, (name, (where, numbers)) in enumerate(series.items()):
      color, line, width = CURVES[place % len(CURVES)]
      axes.plot(
        where,
        numbers,
        line if place < len(CURVES) else ":",
        color=color,
        linewidth=width,
        label=name,
        marker="o" if len(numbers) == 1 else "",
      )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=GRAY, linewidth=0.6)
    add_legend_above(axes)
    return _uri(figure)


def dimensions(
  mean: np.ndarray, spread: np.ndarray, least: np.ndarray, most: np.ndarray
) -> str:
  """Mean, spread and range of each dimension of a feature.

  Args:
    mean: (size,) float, of each dimension.
    spread: (size,) standard deviation.
    least: (size,) the least number.
    most: (size,) the largest number.

  Returns:
    The address of the image.
  """
  with mpl.rc_context(STYLE):
    figure = new_figure()
    axes = figure.subplots()
    # Steps, so that a single dimension has a width too.
    edges = np.arange(len(mean) + 1) - 0.5
    style = {"step": "post", "linewidth": 0}

    def band(low, high, color, label):
      low, high = np.append(low, low[-1]), np.append(high, high[-1])
      axes.fill_between(edges, low, high, color=color, label=label, **style)

    band(least, most, GRAY, "range")
    band(mean - spread, mean + spread, _PALE, "mean ± spread")
    axes.stairs(mean, edges, color=BLUE, linewidth=0.8, label="mean")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("dimension")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    add_legend_above(axes)
    return _uri(figure)


def heat_map(values: np.ndarray) -> str:
  """A video's feature over time, and below it its first difference.

  Args:
    values: (frames, size) float32.

  Returns:
    The address of the image.
  """
  panels = [("feature", values, "viridis")]
  if len(values) > 1:
    panels.append(
      ("change from\nframe before", np.diff(values, axis=0), "PuOr")
    )
  with mpl.rc_context(STYLE):
    figure = new_figure(1.9 * len(panels) + 0.3)
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, matrix, colors) in zip(all_axes, panels, strict=True):
      finite = matrix[np.isfinite(matrix)]
      low, high = np.percentile(finite, _PERCENTILES) if len(finite) else (0, 0)
      if matrix is not values:  # no change is white
        high = max(abs(low), abs(high))
        low = -high
      if low >= high:
        low, high = low - 1.0, high + 1.0
      first = len(values) - len(matrix) - 0.5
      image = axes.imshow(
        matrix.T,
        aspect="auto",
        cmap=colors,
        vmin=low,
        vmax=high,
        origin="lower",
        extent=(first, len(values) - 0.5, -0.5, matrix.shape[1] - 0.5),
      )
      axes.set_xlim(-0.5, len(values) - 0.5)
      axes.set_ylabel(f"{title}\ndimension")
      axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
      axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
      figure.colorbar(image, ax=axes, pad=0.02, aspect=12)
    all_axes[-1].set_xlabel("frame")
    return _uri(figure)


def vector(values: np.ndarray) -> str:
  """The numbers of a video-level feature.

  Args:
    values: (size,) float32.

  Returns:
    The address of the image.
  """
  with mpl.rc_context(STYLE):
    figure = new_figure()
    axes = figure.subplots()
    axes.stairs(values, color=BLUE, linewidth=0.8)
    axes.set_xlabel("dimension")
    axes.set_xlim(0, len(values))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    return _uri(figure)
