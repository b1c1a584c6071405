"""Tests of benchmarks/input_transforms.py."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import input_transforms


def run_of(transform, seed, gap, mean_ap=0.5, model="LogisticModel"):
  return {
    "model": model,
    "transform": transform,
    "learning_rate": "",
    "seed": seed,
    "steps": 2,
    "batch_size": 6,
    "gap": gap,
    "map": mean_ap,
  }


RUNS = [
  run_of("l2", "0", 0.2, 0.1),
  run_of("none", "0", 0.5),
  run_of("l2", "1", 0.4, 0.2),
  run_of("none", "1", 0.4),
  run_of("none", "2", 0.9),  # without its pair
  run_of("dewhiten", "0", 0.25, model="MoeModel"),
]


def test_means_and_spreads_by_hand():
  first, second, third = input_transforms.summary(
    RUNS, ["l2", "none", "dewhiten"]
  )
  assert (first["transform"], first["seeds"]) == ("l2", 2)
  assert first["gap"] == pytest.approx((0.3, 0.1414214))
  assert first["map"] == pytest.approx((0.15, 0.0707107))
  assert first["gain"] == (0.0, 0.0)
  assert (second["transform"], second["seeds"]) == ("none", 3)
  assert second["gap"] == pytest.approx((0.6, 0.2645751))
  # 0.3 and 0.
  assert second["gain"] == pytest.approx((0.15, 0.2121320))
  assert (third["model"], third["gap"]) == ("MoeModel", (0.25, 0.0))
  assert third["gain"] is None


def test_a_table():
  rows = input_transforms.summary(RUNS, ["l2", "none", "dewhiten"])
  assert input_transforms.table(rows, "l2")[2:] == [
    "LogisticModel  own   none           3  0.6000 ± 0.2646  0.5000 ± 0.0000"
    "  +0.1500 ± 0.2121",
    "MoeModel       own   dewhiten       1  0.2500 ± 0.0000  0.5000 ± 0.0000"
    "                 -",
  ]


@pytest.fixture
def call(capsys):
  """A function: runs the benchmark with flags; returns its JSON."""

  def call(*typed):
    with flagsaver.flagsaver():
      input_transforms.define_bench_flags()
      flags.FLAGS(["input_transforms", *typed])
      input_transforms.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])

  return call


def test_runs_in_the_file_are_not_repeated(call, tmp_path, monkeypatch):
  asked = []

  def scores_of(run):
    asked.append((run["transform"], run["seed"]))
    return {"gap": 0.5, "map": 0.25}

  monkeypatch.setattr(input_transforms, "scores_of", scores_of)
  line = (
    "--data=x",
    "--models=LogisticModel",
    "--transforms=l2,none",
    "--steps=2",
    f"--results={tmp_path}/runs",
  )
  call(*line, "--seeds=0")
  assert asked == [("l2", "0"), ("none", "0")]
  figures = call(*line, "--seeds=1,0")
  assert asked[2:] == [("l2", "1"), ("none", "1")]
  assert [row["seeds"] for row in figures["summary"]] == [2, 2]
  # Other steps are another comparison.
  figures = call(*line, "--seeds=0", "--steps=3")
  assert [row["seeds"] for row in figures["summary"]] == [1, 1]


@pytest.mark.slow
def test_models_are_trained_and_evaluated(call, data_dir):
  figures = call(
    f"--data={data_dir}/video",
    "--models=LogisticModel",
    "--transforms=l2,dewhiten",
    "--seeds=0",
    "--steps=30",
    "--batch_size=10",
    "--num_classes=40",
  )
  l2, dewhitened = figures["summary"]
  assert 0.0 < l2["gap"][0] < 1.0
  assert l2["gap"] != dewhitened["gap"]
