"""Tests of reports.charts."""

import base64
import re
import warnings

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from reports import charts

PATH = re.compile(r'<g id="patch_\d+">\s*<path d="([^"]*)"[^>]*fill: #2468b0')


def svg_of(uri: str) -> str:
  head = "data:image/svg+xml;base64,"
  assert uri.startswith(head)
  return base64.b64decode(uri.removeprefix(head)).decode()


def bars_of(svg: str) -> list[tuple[float, float]]:
  """The width and height of each bar."""
  bars = []
  for path in PATH.findall(svg):
    numbers = np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2)
    bars.append(tuple((numbers.max(axis=0) - numbers.min(axis=0)).tolist()))
  return bars


def texts_of(svg: str) -> set[str]:
  return set(re.findall(r">([^<>]+)</text>", svg))


def test_bars_are_as_high_as_the_numbers():
  bars = bars_of(svg_of(charts.histogram({3: 10, 5: 40, 6: 20}, "frames")))
  heights = np.array([height for _, height in bars])
  np.testing.assert_allclose(heights / heights[0], [1, 0, 4, 2], atol=1e-3)


def test_many_numbers_share_bars():
  counts = dict.fromkeys(range(1, 301), 2)
  svg = svg_of(charts.histogram(counts, "frames of a video"))
  heights = [height for _, height in bars_of(svg)]
  assert len(heights) == 60
  np.testing.assert_allclose(heights, heights[0], rtol=1e-3)
  assert "frames of a video" in texts_of(svg)


def test_label_frequency_is_on_logarithmic_axes():
  svg = svg_of(charts.label_frequency([1000, 30, 1]))
  assert {"1", "10", "100", "1,000", "rank of the class"} <= texts_of(svg)
  # The line: ranks 1, 2, 3.
  (line,) = re.findall(r'<path d="(M [^"]*)"[^>]*stroke: #2468b0', svg)
  at = np.array(re.findall(r"-?[\d.]+", line), float).reshape(-1, 2)
  x, y = at[:, 0], at[:, 1]
  np.testing.assert_allclose(
    (x[1] - x[0]) / (x[2] - x[0]), np.log(2) / np.log(3), rtol=1e-3
  )
  np.testing.assert_allclose(
    (y[1] - y[0]) / (y[2] - y[0]), 1 - np.log(30) / np.log(1000), rtol=1e-3
  )


def test_a_heat_map_has_an_image_for_the_values_and_one_for_the_changes():
  values = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
  svg = svg_of(charts.heat_map(values))
  # Besides those of the bars of colors.
  assert (
    svg.count("<image")
    == svg_of(charts.heat_map(values[:1])).count("<image") * 2
  )
  assert {"frame", "dimension"} <= texts_of(svg)
  assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"', "", svg.split("<defs")[1])


def test_the_same_numbers_give_the_same_chart():
  values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  assert charts.heat_map(values) == charts.heat_map(values)
  assert charts.histogram({1: 2}, "x") == charts.histogram({1: 2}, "x")


def test_unusual_numbers_make_no_warning():
  nan = np.full((4, 3), np.nan, np.float32)
  zero, one = np.zeros(3), np.ones(1)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    for uri in (
      charts.heat_map(nan),
      charts.heat_map(np.zeros((4, 3), np.float32)),
      charts.heat_map(np.zeros((1, 1), np.float32)),
      charts.label_frequency([1]),
      charts.label_frequency([1] * 4000),
      charts.histogram({0: 1}, "x"),
      charts.histogram({0: 1, 100_000: 1}, "x"),
      charts.dimensions(zero, zero, zero, zero),
      charts.dimensions(one, one, -one, 2 * one),
      charts.vector(np.zeros(1, np.float32)),
      charts.vector(nan[0]),
    ):
      assert svg_of(uri).startswith("<?xml")


def test_every_color_changes_on_a_dark_screen():
  uris = [
    charts.label_frequency([5, 3, 1]),
    charts.histogram({1: 2, 3: 1}, "labels"),
    charts.dimensions(*np.arange(12.0).reshape(4, 3)),
    charts.heat_map(np.eye(3, dtype=np.float32)),
    charts.vector(np.arange(3.0)),
  ]
  for uri in uris:
    drawn, style = svg_of(uri).split("<style>@media")
    assert style.startswith(" (prefers-color-scheme:dark)")
    used = set(re.findall(r"(?:fill|stroke): #\w{6}", drawn))
    assert used
    assert {f'[style*="{one}"]' for one in used} <= set(
      re.findall(r'\[style\*="[^"]*"\]', style)
    )


def test_curves_have_their_colors_and_places():
  svg = svg_of(
    charts.curves(
      {
        "one": ([1, 2, 4], [0, 1, 3]),
        "other": ([1, 2, 4], [3, 2, 0]),
        "a point": ([3], [1.5]),
      },
      "step",
      "loss",
    )
  )
  assert {"one", "other", "a point", "step", "loss"} <= texts_of(svg)
  lines = {}
  for color in ("#2468b0", "#b8520a"):
    line, _ = re.findall(rf'<path d="(M [^"]*)"[^>]*stroke: {color}', svg)
    at = np.array(re.findall(r"-?[\d.]+", line), float).reshape(-1, 2)
    lines[color] = at
    x = at[:, 0]
    np.testing.assert_allclose((x[1] - x[0]) / (x[2] - x[0]), 1 / 3, atol=1e-3)
  # One rises as the other falls: y grows downward.
  one, other = (at[:, 1] for at in lines.values())
  assert one[0] > one[2]
  assert other[0] < other[2]
  np.testing.assert_allclose(one[0], other[2], atol=1e-3)
