"""Tests of data_tools.tf1_checkpoint: what is read of the original's files."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, error_of
from original_checkpoints import (
  original_flags,
  random_variables,
  with_adam,
  write_original,
)

from data_tools import tf1_checkpoint
from data_tools.tf1_checkpoint import Original

KERNEL = "tower/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel"
BIAS = "tower/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/bias"


def original_of(folder, variables, step=None) -> Original:
  return Original(write_original(folder, None, variables, step))


# --------------------------------------------------------------------------
# Files


def test_there_is_no_such_checkpoint(tmp_path):
  write_original(tmp_path, None, {"global_step": 123}, 123)
  path = f"{tmp_path}/model.ckpt-12"
  line = error_of(Original, path)
  assert_names(line, f"--checkpoint={path}", "without the file endings")


@pytest.mark.parametrize(
  "typed", ["/model.ckpt-9.index", "/model.ckpt-9.data-00000-of-00001", "", "/"]
)
def test_a_file_or_the_folder_of_a_checkpoint(tmp_path, typed):
  path = write_original(tmp_path / "old", None, {"global_step": 9}, 9)
  line = error_of(Original, f"{tmp_path}/old{typed}")
  assert line.endswith(f" Use --checkpoint={path}.")


def test_a_folder_without_a_checkpoint(tmp_path):
  line = error_of(Original, str(tmp_path))
  assert_names(line, f"--checkpoint={tmp_path}", "without the file endings")


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_a_checkpoint_that_is_not_whole(tmp_path, part):
  variables = random_variables("LogisticModel")
  path = write_original(tmp_path, None, variables)
  damaged = pathlib.Path(f"{path}.{part}")
  damaged.write_bytes(damaged.read_bytes()[:20])

  def read():
    name = "tower/fully_connected/weights"
    return Original(path).values(name, (7, 6))

  assert_names(error_of(read), f"received {path}, which is damaged")


def test_a_checkpoint_of_tensorflow_2(tmp_path):
  path = tf.train.Checkpoint(step=tf.Variable(1)).save(f"{tmp_path}/model.ckpt")
  assert_names(error_of(Original, path), path, "TensorFlow 2")


def test_variables_are_read_or_named(tmp_path):
  values = np.arange(6, dtype=np.float32).reshape(2, 3)
  with_nan = np.array([1.0, np.nan], np.float32)
  original = original_of(tmp_path, {"a/b": values, "c": with_nan})

  np.testing.assert_array_equal(original.values("a/b", (2, 3)), values)
  assert original.shape("a/b", 2) == [2, 3]
  missing = error_of(original.values, "a/x", (2, 3))
  assert_names(missing, "the variable a/x in", "without it")
  shape = error_of(original.values, "a/b", (3, 2))
  assert_names(shape, "the shape [3, 2] for a/b", "received the shape [2, 3]")
  rank = error_of(original.shape, "a/b", 1)
  assert_names(rank, "1 dimensions for a/b", "received the shape [2, 3]")
  assert_names(error_of(original.values, "c", (2,)), "in c of", "NaN")


# --------------------------------------------------------------------------
# Steps


def test_the_step(tmp_path):
  variables = {"other": np.float32(1)}
  assert original_of(tmp_path / "none", variables).step == 0
  assert original_of(tmp_path / "name", variables, 45).step == 45
  variables["global_step"] = np.int64(123)
  assert original_of(tmp_path / "both", variables, 45).step == 123


@pytest.mark.parametrize(
  ("step", "power", "expected"),
  [
    (123, None, 123),
    # The optimizer is as old as the run, ...
    (123, 0.999**124, 123),
    # ... was started again 23 steps ago, ...
    (123, 0.999**24, 23),
    # ... or was there before the steps were counted from 0 again.
    (0, 0.999**124, 123),
    # 0.999^200001 is 0 in float32.
    (200_000, 0.0, 200_000),
  ],
)
def test_the_updates_of_adam(tmp_path, step, power, expected):
  variables = {"global_step": np.int64(step)}
  if power is not None:
    variables["beta2_power"] = np.float32(power)
  assert original_of(tmp_path, variables).adam_steps == expected


def test_powers_of_float32_are_exact_enough(tmp_path):
  power = np.float32(0.999)
  for _ in range(50_000):
    power *= np.float32(0.999)
  # The product is not what the number of steps says to the last digits.
  assert power != np.float32(0.999**50_001)
  variables = {"global_step": np.int64(50_000), "beta2_power": power}
  assert original_of(tmp_path, variables).adam_steps == 50_000


# --------------------------------------------------------------------------
# Models


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("LogisticModel", {}),
    ("MoeModel", {"moe_num_mixtures": 3, "moe_output_gating": False}),
    ("FrameLevelLogisticModel", {}),
    (
      "DbofModel",
      {
        "video_level_classifier_model": "MoeModel",
        "moe_num_mixtures": 2,
        "moe_output_gating": False,
        "dbof_add_batch_norm": True,
        "dbof_cluster_size": 5,
        "dbof_hidden_size": 4,
      },
    ),
    (
      "DbofModel without batch normalization",
      {
        "video_level_classifier_model": "LogisticModel",
        "dbof_add_batch_norm": False,
        "dbof_cluster_size": 5,
        "dbof_hidden_size": 4,
      },
    ),
    (
      "LstmModel",
      {
        "video_level_classifier_model": "MoeModel",
        "moe_num_mixtures": 1,
        "moe_output_gating": False,
        "lstm_cells": 3,
        "lstm_layers": 2,
      },
    ),
  ],
)
def test_hyperparameters_are_those_of_the_shapes(tmp_path, name, expected):
  original = original_of(tmp_path, random_variables(name))
  model = original_flags(name)["model"]
  found = tf1_checkpoint.hyperparameters_of(original, model)
  assert found == {"num_classes": 6, **expected}
  # Each variable is used, and there are no others.
  variables = tf1_checkpoint.sources({"model": model, **found})
  assert variables.keys() == random_variables(name).keys()


@pytest.mark.parametrize(
  ("gates", "experts"), [(6, 6), (6, 12), (11, 6), (6, 0)]
)
def test_a_mixture_has_a_gate_more_than_experts(tmp_path, gates, experts):
  original = original_of(
    tmp_path,
    {
      "tower/gates/weights": np.zeros((2, gates), np.float32),
      "tower/experts/weights": np.zeros((2, experts), np.float32),
    },
  )
  line = error_of(tf1_checkpoint.hyperparameters_of, original, "MoeModel")
  assert_names(line, f"{gates} columns of tower/gates/weights and {experts} of")


def test_the_parts_of_an_lstm_by_hand(tmp_path):
  # One feature, two units: the columns are i, i, j, j, f, f, o, o; the first
  # row is for the feature.
  kernel = np.arange(24, dtype=np.float32).reshape(3, 8)
  bias = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32)
  original = original_of(
    tmp_path, {KERNEL: kernel, BIAS: bias, f"{BIAS}/Adam": 10 * bias}
  )

  def read(name, *more):
    parts = tf1_checkpoint.read_parts(original, name, *more)
    return [part.tolist() for part in parts]

  assert read(KERNEL, [(1, 8), (2, 8)]) == [
    [[0, 1, 4, 5, 2, 3, 6, 7]],
    [[8, 9, 12, 13, 10, 11, 14, 15], [16, 17, 20, 21, 18, 19, 22, 23]],
  ]
  # The forget gates get 1, but not what Adam keeps of them.
  assert read(BIAS, [(8,)]) == [[1, 2, 6, 7, 3, 4, 7, 8]]
  assert read(BIAS, [(8,)], "Adam") == [[10, 20, 50, 60, 30, 40, 70, 80]]


def test_other_variables(tmp_path):
  variables = random_variables("LogisticModel")
  names = list(variables)
  original = original_of(tmp_path / "adam", with_adam(variables, 3))
  assert tf1_checkpoint.other_variables(original, names) == []

  others = {
    "tower/fully_connected/weights/Momentum": np.float32(1),
    "counter": np.float32(1),
  }
  original = original_of(tmp_path / "more", variables | others)
  assert tf1_checkpoint.other_variables(original, names) == sorted(others)

  variables["tower/gating/weights"] = np.float32(1)
  original = original_of(tmp_path / "weights", variables)
  line = error_of(tf1_checkpoint.other_variables, original, names)
  assert_names(line, "received tower/gating/weights too", "porting_a_fork.md")
