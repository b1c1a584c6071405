"""Tests of reports.comparison_pictures."""

import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from small_comparison import made_up_comparison, made_up_rows

from reports import comparison_pictures
from reports.comparison_pictures import draw
from reports.learning_curves import Curve


@pytest.fixture
def with_events(monkeypatch):
  """Every run has the same events; collects who was asked for."""
  asked = []

  def read(train_dir, videos_a_step):
    asked.append((train_dir, videos_a_step))
    steps = np.arange(1, 11)
    return Curve(
      steps, steps / 2, steps * videos_a_step, 3.0 / steps, steps / 20
    )

  monkeypatch.setattr(comparison_pictures.learning_curves, "read_curve", read)
  return asked


def test_all_pictures_of_a_comparison(with_events):
  rows = made_up_rows(seeds=1)
  faster = made_up_rows(seeds=1)
  found = draw(
    made_up_comparison(
      by_fraction={0.1: rows, 1.0: rows}, by_workers={1: rows, 2: faster}
    ),
    lambda run: f"of {run.entry.name}",
  )
  assert {
    section: [picture.name for picture in of] for section, of in found.items()
  } == {
    "learning": ["learning_steps", "learning_seconds", "learning_videos"],
    "cost": ["cost_training", "cost_parameters", "cost_latency"],
    "quality": ["frequency", "reliability"],
    "fractions": ["fractions"],
    "workers": ["workers"],
  }
  drawn = [picture.name for of in found.values() for picture in of]
  assert drawn == list(comparison_pictures.NAMES)
  # 400 videos in 100 steps, of the first seed.
  assert with_events == [(f"of {row.name}", 4.0) for row in rows]
  for of in found.values():
    for picture in of:
      assert picture.svg.count("</svg>") == 1
      assert not re.search(r"\bnan\b|None", picture.text)


def test_without_events_or_more_runs_there_are_fewer(tmp_path):
  found = draw(made_up_comparison(), lambda run: str(tmp_path))
  assert found["learning"] == found["fractions"] == found["workers"] == []
  assert len(found["cost"]) == 3


def test_words_say_what_is_drawn(with_events):
  comparison = made_up_comparison()
  found = draw(comparison, lambda run: "")
  (training, *_) = found["cost"]
  good = comparison.rows[0]
  # It is the best one and took the least time.
  assert training.text.endswith(f"On the Pareto front: {good.name}.")
  reliability = found["quality"][1]
  error = comparison_pictures.calibrations_of(comparison)[good.name].error()
  assert f"{good.name} {error:.4f}" in reliability.text
