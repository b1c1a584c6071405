"""Tests of benchmarks/learning/training.py."""

import numpy as np
import pytest
from learning_runs import cases, small_preset

import errors
import models
from benchmarks.learning import tasks, training


def trained(predictions, labels):
  return training.Trained(
    np.array(predictions, np.float32), np.array(labels, bool), 1, 1.0, {}
  )


def test_scores_by_hand():
  found = trained(
    [[0.9, 0.2, 0.1], [0.5, 0.6, 0.3], [0.2, 0.4, 0.7]],
    [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
  )
  assert found.accuracy() == pytest.approx(1 / 3)
  # Class 0: its two videos are first. Class 1: its one is second. No class 2.
  assert found.mean_average_precision() == pytest.approx((1 + 1 / 2) / 2)
  assert found.calibration() == pytest.approx(
    {"labels predicted": (1.2 + 1.4 + 1.3) / 3, "labels": 1.0}
  )
  # Ranked: hit .9, .7 no, .6 no, hit .5 at 4, hit .4 at 5; precisions of hits
  # 1, 2/4, 3/5.
  assert found.gap() == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


def test_accuracies_of_pairs_by_hand():
  """Order: one of two correct, and one the same for both. Sound: all."""
  predictions = np.full((5, 12), 0.9, np.float32)
  labels = np.zeros((5, 12), bool)
  for video, (label, of_pair) in enumerate(
    [
      (0, (0.3, 0.2)),
      (1, (0.3, 0.2)),
      (2, (0.5, 0.5)),
      (6, (0.2, 0.1)),
      (11, (0.1, 0.2)),
    ]
  ):
    labels[video, label] = True
    predictions[video, label // 2 * 2 : label // 2 * 2 + 2] = of_pair
  found = training.pair_accuracies(trained(predictions, labels))
  assert found["order"][0] == pytest.approx(0.5)
  assert found["sound"][0] == 1.0


def test_a_model_is_trained_and_its_folder_removed(tmp_path):
  """The data's flags win over the command's, and further ones over both."""
  tasks.make_co_occurrence(tmp_path / "data")
  data = tasks.co_occurrence(tmp_path / "data")
  found = training.train_and_predict(
    tmp_path / "run",
    data,
    ["--model=LogisticModel", "--feature_sizes=7", "--batch_size=100"],
    ["--batch_size=500", "--num_epochs=2"],
    facts=lambda train_dir: {"files": len(list(train_dir.iterdir()))},
  )
  assert found.steps == 8
  assert found.predictions.shape == found.labels.shape == (1000, 50)
  assert found.facts["files"] > 2
  assert not (tmp_path / "run").exists()
  assert found.gap() > training.frequencies_gap(data)


def test_wrong_flags_end_a_run(tmp_path):
  with pytest.raises(errors.UserError, match="no_such_flag"):
    training.train_by_flags([f"--train_dir={tmp_path}", "--no_such_flag=1"])


def test_cases_have_a_seed_each(monkeypatch):
  monkeypatch.delenv("LEARNING_SEEDS", raising=False)
  runs = [("A", ("--b=1",), 2, True), ("C", (), 1, False)]
  found = [(case.values, case.id) for case in cases(runs)]
  assert found == [
    (("A", ("--b=1",), 0, True), "A --b=1-seed0"),
    (("A", ("--b=1",), 1, True), "A --b=1-seed1"),
    (("C", (), 0, False), "C-seed0"),
  ]
  monkeypatch.setenv("LEARNING_SEEDS", "3")
  assert len(cases(runs)) == 6


def test_a_preset_with_a_fraction_of_its_units(monkeypatch):
  preset = {
    "deep_hidden_sizes": "512,4096,classes",
    "lstm_cells": 128,
    "stream_frame_size": 4,
    "batch_size": 64,
    "dropout_rate": 0.5,
  }
  model = models.find_class_by_name("LogisticModel")
  monkeypatch.setattr(model, "presets", {"p": preset}, raising=False)
  assert small_preset("LogisticModel", "p") == (
    "--preset=p",
    "--deep_hidden_sizes=32,256,classes",
    "--lstm_cells=8",
  )
