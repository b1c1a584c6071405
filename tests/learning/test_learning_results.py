"""Tests of benchmarks/learning/results.py."""

import dataclasses
import json

import pytest
from conftest import assert_names, error_of

from benchmarks.learning import results
from benchmarks.learning.results import Row, load, save, spread, verdict


def row(seed=0, gap=0.5, model="MoeModel", task="needle", **more):
  return Row(task, model, seed, score=0.25, gap=gap, more=more)


def test_a_row_comes_back_from_its_file(tmp_path):
  written = Row("order", "A --b=c/d", 2, None, 0.5, 3, 4.5, {"mAP": 0.1}, "abc")
  path = save(tmp_path / "new", written)
  ((key, summary),) = load(tmp_path / "new").items()
  assert key == ("order", "A --b=c/d")
  assert summary.rows == [written]
  assert path.parent == tmp_path / "new"


def test_files_of_different_runs_differ(tmp_path):
  runs = [
    row(),
    row(seed=1),
    row(task="order"),
    row(model="MoeModel --a=1"),
    row(model="MoeModel --a=2"),
    row(seed=None),
  ]
  assert len({save(tmp_path, run) for run in runs}) == len(runs)


def test_settings_may_be_long(tmp_path):
  flags = " ".join(f"--some_flag_{number}=0.5" for number in range(30))
  runs = [row(model=f"MoeModel {flags} --last={last}") for last in (1, 2)]
  assert not results.is_saved(tmp_path, runs[0])
  save(tmp_path, runs[0])
  assert results.is_saved(tmp_path, runs[0])
  assert not results.is_saved(tmp_path, runs[1])
  assert list(load(tmp_path)) == [("needle", runs[0].model)]


def test_a_second_run_replaces_the_first(tmp_path):
  assert not results.is_saved(tmp_path, row())
  save(tmp_path, row(gap=0.1))
  save(tmp_path, row(gap=0.2))
  assert results.is_saved(tmp_path, row())
  (summary,) = load(tmp_path).values()
  assert summary.values("gap") == [0.2]
  assert len(list(tmp_path.iterdir())) == 1


def test_seeds_are_in_order_and_mean_and_range_by_hand():
  (summary,) = results.summarize(
    [row(2, 0.4, x=1.0), row(0, 0.1), row(1, 0.7, x=2.0)]
  ).values()
  assert [of.seed for of in summary.rows] == [0, 1, 2]
  assert summary.seeds == 3
  assert summary.mean("gap") == pytest.approx(0.4)
  assert summary.text("gap") == "0.400 (0.100 to 0.700)"
  assert summary.text("score") == "0.250"
  assert summary.values("x") == [2.0, 1.0]
  assert summary.text("y") == ""


def test_what_is_not_trained_has_no_seed():
  (summary,) = results.summarize(
    [dataclasses.replace(row(None), score=None)]
  ).values()
  assert summary.seeds == 0
  assert summary.text("score") == ""


def test_an_empty_folder_and_other_files(tmp_path):
  assert_names(error_of(load, tmp_path), str(tmp_path), "LEARNING_RESULTS")
  (tmp_path / "a.json").write_text(json.dumps({"rows": []}))
  assert_names(error_of(load, tmp_path), "a.json", "rows")
  (tmp_path / "a.json").write_text("{")
  assert_names(error_of(load, tmp_path), "a.json")


@pytest.mark.parametrize(
  ("before", "after", "word"),
  [
    ([0.5, 0.6], [0.6, 0.62], "within the spread"),  # +0.06 of 0.1
    ([0.5, 0.6], [0.66, 0.66], "better"),  # +0.11 of 0.1
    ([0.66, 0.66], [0.5, 0.6], "worse"),
    ([0.5, 0.5], [0.501, 0.501], "within the spread"),
    ([0.5, 0.5], [0.502, 0.502], "better"),
  ],
)
def test_verdict_by_hand(before, after, word):
  assert verdict(before, after) == word


def test_one_seed_takes_the_spread_of_other_models():
  assert verdict([0.5], [0.53]) == "better"
  assert verdict([0.5], [0.53], least_spread=0.05) == "within the spread"
  assert verdict([0.5, 0.5], [0.53, 0.53], least_spread=0.05) == "better"


def test_usual_spread_is_the_median_of_those_with_several_seeds():
  rows = [
    row(seed, gap, model)
    for model, gaps in {
      "A": (0.1, 0.2),
      "B": (0.1, 0.4),
      "C": (0.1, 0.6, 0.5),
      "D": (0.9,),
    }.items()
    for seed, gap in enumerate(gaps)
  ]
  found = results.summarize([*rows, row(0, 0.0, "A", "order")])
  assert results.usual_spread(found, "needle", "gap") == pytest.approx(0.3)
  assert results.usual_spread(found, "order", "gap") == 0
  assert spread([0.3]) == 0
