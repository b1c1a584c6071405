"""Tests of benchmarks/learning/recommended.py."""

import dataclasses

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import assert_names, error_of

import models
from benchmarks.learning import recommended, results, tasks, training

ADAMW = "--optimizer=AdamW"


@pytest.fixture
def calls(monkeypatch):
  """Replaces training: the GAP depends on the setting and the seed."""
  found = []

  def train_and_predict(train_dir, data, command, more):
    found.append((data, command, more))
    seed = int(more[-1].removeprefix("--seed="))
    right = 0.5 + 0.02 * seed + (0.2 if ADAMW in command else 0.0)
    # A video of an order pair, and one of a sound pair.
    labels = np.eye(12, dtype=bool)[[0, 6]]
    trained = training.Trained(np.zeros((2, 12)), labels, 7, 1.5, {})
    trained.gap = lambda videos=None: right
    trained.accuracy = lambda: right / 2
    return trained

  monkeypatch.setattr(training, "train_and_predict", train_and_predict)
  return found


@pytest.fixture
def program(tmp_path, monkeypatch):
  """Calls the program; the data of its tasks is empty."""
  for name, task in recommended.TASKS.items():
    if task.make:
      empty = dataclasses.replace(task, make=lambda folder: None)
      monkeypatch.setitem(recommended.TASKS, name, empty)

  def call(*arguments):
    with flagsaver.flagsaver():
      recommended.define_own_flags()
      flags.FLAGS(["", f"--results_dir={tmp_path}", *arguments])
      recommended.main()

  return call


def test_a_candidate_is_compared_with_the_defaults(calls, program, capsys):
  program("--models=MoeModel", "--tasks=co-occurrence", f"--candidate={ADAMW}")
  shown = capsys.readouterr().out.splitlines()
  assert shown[2:] == [
    "| MoeModel | co-occurrence | defaults | 0.260 (0.250 to 0.270) | 0.520"
    " (0.500 to 0.540) | 7 |  |",
    "| MoeModel | co-occurrence | --optimizer=AdamW | 0.360 (0.350 to 0.370) |"
    " 0.720 (0.700 to 0.740) | 7 | better |",
    "",
    "MoeModel with --optimizer=AdamW: better on 1 of 1 tasks, worse on 0.",
  ]
  # The batches and the epochs are the task's, whatever a setting says.
  assert [command for _, command, _ in calls] == 3 * [
    ["--model=MoeModel", "--frame_features=False"]
  ] + 3 * [["--model=MoeModel", "--frame_features=False", ADAMW]]
  assert calls[0][2] == ["--batch_size=128", "--num_epochs=20", "--seed=0"]


def test_what_was_run_is_not_run_again(calls, program):
  arguments = "--models=MoeModel", "--tasks=many classes", "--seeds=2"
  program(*arguments, f"--candidate={ADAMW}")
  assert len(calls) == 4
  program(*arguments, f"--candidate={ADAMW}", "--candidate=--ema_decay=0.9")
  assert len(calls) == 6
  program(
    *arguments, f"--candidate={ADAMW}", "--common_flags=--clip_gradient_norm=0"
  )
  assert len(calls) == 10
  assert calls[-1][2][-2:] == ["--clip_gradient_norm=0", "--seed=1"]


def test_models_have_the_tasks_of_their_level(calls, program, tmp_path):
  program(
    "--models=LogisticModel,StreamLstmModel",
    "--seeds=1",
    f"--candidate={ADAMW}",
    f"--real_records={tmp_path}/real",
  )
  of_model = {}
  for data, command, more in calls:
    of_model.setdefault(command[0], set()).add(data.folder.name)
    assert ("--lstm_cells=256" in more) == ("Stream" in command[0])
  assert of_model == {
    "--model=LogisticModel": {"co-occurrence", "many_classes", "real"},
    "--model=StreamLstmModel": {
      "order_and_sound",
      "short_needle",
      "labels_in_scenes",
    },
  }


def test_a_worse_preset_fails(monkeypatch, calls, program, capsys):
  arguments = "--models=MoeModel", "--tasks=co-occurrence"
  program(*arguments)  # both have the same scores here
  assert "| within the spread |" in capsys.readouterr().out
  monkeypatch.setattr(recommended, "verdict", lambda before, after: "worse")
  with pytest.raises(SystemExit):
    program(*arguments)
  program(*arguments, "--candidate=--ema_decay=0.9")  # is only tried


def test_steps_must_be_equal():
  specs = [
    recommended.Spec("t", "M", candidate, (), 0, None, None)
    for candidate in ("", ADAMW)
  ]
  found = results.summarize(
    results.Row("t", spec.name, 0, 0.5, 0.5, steps)
    for spec, steps in zip(specs, (7, 8), strict=True)
  )
  message = error_of(recommended.compare, found, specs)
  assert_names(message, "equal steps", "[7]", "[8]", ADAMW)


def test_unknown_names(program):
  assert_names(error_of(program, "--models=NoModel"), "NoModel", "MoeModel")
  assert_names(
    error_of(program, "--models=MoeModel", "--tasks=none"),
    "none",
    "co-occurrence",
  )
  message = error_of(program, "--models=MoeModel", "--tasks=real records")
  assert_names(message, "--real_records")


def test_what_nothing_can_be_compared_by_is_named_before_training(
  calls, program
):
  message = error_of(program, "--models=MoeModel,RandomFrameModel")
  assert_names(message, "RandomFrameModel", "'recommended'", "Available: none")
  candidate = "--candidate=--ema_decay=0.9 --preset=thesis"
  message = error_of(program, "--models=MoeModel", candidate)
  assert_names(message, "MoeModel", "'thesis'", "Available: recommended.")
  message = error_of(program, "--models=MoeModel", "--tasks=short needle")
  assert_names(message, "--models=MoeModel", "received short needle")
  assert not calls


def test_every_model_that_is_compared_exists_and_has_a_task():
  assert len(recommended.MODELS) == 8
  for name in recommended.MODELS:
    assert models.find_class_by_name(name)
  assert {task.level for task in recommended.TASKS.values()} == {
    "video",
    "frame",
  }
  folder = tasks.Path("folder")
  for task in recommended.TASKS.values():
    assert task.data(folder).num_classes > 1
