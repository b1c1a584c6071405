"""Tests of reports.model_charts."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from reports import model_charts
from reports.calibration import Calibration
from reports.comparison_findings import ByFrequency
from reports.learning_curves import Curve

BLUE, ORANGE = "#2468b0", "#b85c00"


def texts_of(svg):
  return set(re.findall(r">([^<>]+)</text>", svg))


def lines_of(svg, color):
  """The points of each line of a color, in the order of drawing."""
  paths = re.findall(rf'<path d="(M [^"]*)"[^>]*stroke: {color}', svg)
  return [
    np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2)
    for path in paths
    if "L" in path and "C" not in path
  ]


def line_of(svg, color):
  """The points of the first line of a color."""
  return lines_of(svg, color)[0]


@pytest.fixture(autouse=True)
def no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    yield


def curve(rate):
  steps = np.arange(1, 41)
  return Curve(
    steps, steps * 0.5, steps * 16.0, 5.0 * np.exp(-rate * steps), steps / 50
  )


@pytest.mark.parametrize("against", ["steps", "seconds", "videos"])
def test_learning_curves(against):
  curves = {"A:lstm_layers=1": curve(0.1), "B $x$ & <b>": curve(0.05)}
  svg = model_charts.learning_curves(curves, against, f"{against} so far")
  assert {
    "A:lstm_layers=1",
    "B $x$ &amp; &lt;b&gt;",
    f"{against} so far",
    "loss of training",
    "GAP of training",
  } <= texts_of(svg)
  # The loss falls exponentially: a straight line on a logarithmic axis, but
  # for what smoothing does at the ends. In SVG, y grows downward.
  line = line_of(svg, BLUE)
  slopes = np.diff(line[5:-5, 1]) / np.diff(line[5:-5, 0])
  assert slopes == pytest.approx(slopes[0], rel=1e-2)
  assert slopes[0] > 0


def test_quality_against_cost_has_the_front():
  points = [("cheap", 1.0, 0.2), ("good", 100.0, 0.6), ("bad", 100.0, 0.1)]
  svg = model_charts.quality_against_cost(
    points, [0, 1], "seconds of training", [0.01, None, 0.02]
  )
  assert {"cheap", "good", "bad", "Pareto front", "GAP"} <= texts_of(svg)
  # Along, then up.
  # Along, then up, then on to the end.
  # The legend has such a line too, but it is drawn later.
  front = next(line for line in lines_of(svg, "#52605b") if len(line) >= 4)
  assert front[0, 1] == front[1, 1]
  assert front[1, 0] == front[2, 0]
  assert front[2, 1] < front[1, 1]


def test_one_point_has_a_chart():
  svg = model_charts.quality_against_cost(
    [("only", 5.0, 0.2)], [0], "parameters", [None]
  )
  assert "only" in texts_of(svg)


def test_precision_by_frequency():
  found = ByFrequency(
    np.array([1.0, 10.0, 100.0]),
    {"A": np.array([0.1, 0.4, 0.7]), "B": np.array([0.2, 0.2, 0.9])},
    np.array([3, 4, 5]),
  )
  svg = model_charts.precision_by_frequency(found)
  line = line_of(svg, BLUE)
  # Equal steps on both axes.
  np.testing.assert_allclose(np.diff(line, n=2, axis=0), 0, atol=1e-3)
  assert {"1", "10", "100"} <= texts_of(svg)


def test_reliability():
  of = Calibration()
  of.add(np.full(100, 0.1), np.arange(100) < 10)  # as often as predicted
  of.add(np.full(100, 0.9), np.arange(100) < 45)
  of.add(np.full(5, 0.5), np.zeros(5))  # too few to be shown
  svg = model_charts.reliability({"A": of})
  line = line_of(svg, BLUE)
  diagonal = line_of(svg, "#52605b")
  assert len(line) == 2
  slope = np.diff(diagonal, axis=0)[0]
  at = (line - diagonal[0]) / slope
  np.testing.assert_allclose(at, [[0.1, 0.1], [0.9, 0.45]], atol=1e-3)


def test_quality_by_fraction():
  svg = model_charts.quality_by_fraction(
    {"A": [(0.1, 0.2, 0.01), (1.0, 0.5, None)], "B": [(1.0, 0.4, None)]}
  )
  assert {"10%", "100%", "part of the training data"} <= texts_of(svg)


def test_speed_by_workers():
  svg = model_charts.speed_by_workers({"A": [(1, 100.0), (2, 150.0)]})
  line = line_of(svg, BLUE)
  ideal = line_of(svg, "#52605b")
  rise = (line[1, 1] - line[0, 1]) / (ideal[1, 1] - ideal[0, 1])
  assert rise == pytest.approx(0.5, abs=1e-3)
  assert "as many times as workers" in texts_of(svg)


def test_many_rows_differ_in_look():
  looks = [tuple(model_charts._look(place).values()) for place in range(24)]
  assert len(set(looks)) == 24
  long = {f"{'Model' * 10}{number}": curve(0.1) for number in range(12)}
  svg = model_charts.learning_curves(long, "steps", "steps")
  assert all(len(text) <= 62 for text in texts_of(svg))


def test_colors_change_in_the_dark():
  svg = model_charts.speed_by_workers({"A": [(1, 1.0), (2, 2.0)]})
  assert f'[style*="stroke: {BLUE}"]{{stroke:#6aaef0!important}}' in svg
  assert f'[style*="fill: {ORANGE}"]{{fill:#f0a35e!important}}' in svg
