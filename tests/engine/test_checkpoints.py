"""Tests of checkpoints."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from small_checkpoints import (
  assert_same_weights,
  cut,
  empty,
  garble,
  make_run,
  set_weights,
  small_model,
)

import errors
from engine import train_dir as train_dirs
from engine.checkpoints import (
  Checkpoints,
  checkpoint_step,
  files_of_checkpoint,
  latest_checkpoint,
  load_weights,
  require_checkpoint,
)


def checkpoint_steps(folder):
  """The steps of the checkpoints in a folder, which must be complete."""
  names = sorted(os.listdir(folder))
  steps = [
    int(name.split("-")[1].removesuffix(".index"))
    for name in names
    if name.endswith(".index")
  ]
  assert names == sorted(
    [
      "checkpoint",
      *[f"model.ckpt-{step}.index" for step in steps],
      *[f"model.ckpt-{step}.data-00000-of-00001" for step in steps],
    ]
  )
  return sorted(steps)


def train_a_step(run, gradient):
  """One step of Adam with a gradient whose numbers are all the same."""
  variables = run["model"].trainable_variables
  run["optimizer"].apply(
    [tf.fill(variable.shape, gradient) for variable in variables], variables
  )
  run["global_step"].assign_add(1)


def test_a_restored_run_continues_as_if_it_had_not_stopped(tmp_path):
  folder = str(tmp_path / "new")
  run = make_run(0)
  checkpoints = Checkpoints(folder, 5, **run)
  assert checkpoints.restore() is None
  assert latest_checkpoint(folder) is None
  for gradient in (1.0, -3.0):
    train_a_step(run, gradient)
  path = checkpoints.save(2)
  assert path == f"{folder}/model.ckpt-2"
  assert latest_checkpoint(folder) == path
  assert require_checkpoint(folder) == path
  # The third step depends on the moments of the first two.
  train_a_step(run, 0.5)

  resumed = make_run(99)
  assert Checkpoints(folder, 5, **resumed).restore() == path
  assert int(resumed["global_step"]) == 2
  assert int(resumed["optimizer"].iterations) == 2
  train_a_step(resumed, 0.5)
  assert_same_weights(resumed["model"], run["model"])
  for variable, other in zip(
    resumed["optimizer"].variables, run["optimizer"].variables, strict=True
  ):
    np.testing.assert_array_equal(variable.value, other.value)

  # Without the optimizer's state the third step is different.
  forgetful = make_run(0)
  load_weights(forgetful["model"], path)
  train_a_step(forgetful, 0.5)
  difference = (
    forgetful["model"].variables[0].numpy() - run["model"].variables[0].numpy()
  )
  assert abs(difference).min() > 0.01


@pytest.mark.parametrize(
  ("keep", "expected"), [(1, [4]), (3, [2, 3, 4]), (0, [1, 2, 3, 4])]
)
def test_the_newest_checkpoints_are_kept(tmp_path, keep, expected):
  checkpoints = Checkpoints(str(tmp_path), keep, **make_run(0))
  for step in range(1, 5):
    checkpoints.save(step)
  assert checkpoint_steps(tmp_path) == expected


def test_a_resumed_run_deletes_the_checkpoints_of_the_previous_one(tmp_path):
  folder = str(tmp_path)
  checkpoints = Checkpoints(folder, 2, **make_run(0))
  for step in (1, 2):
    checkpoints.save(step)
  checkpoints = Checkpoints(folder, 2, **make_run(0))
  checkpoints.restore()
  checkpoints.save(3)
  assert checkpoint_steps(tmp_path) == [2, 3]


def test_a_train_dir_may_be_moved(tmp_path):
  run = make_run(7)
  set_weights(run["model"], 3.0)
  Checkpoints(str(tmp_path / "old"), 2, **run).save(7)
  (tmp_path / "old").rename(tmp_path / "new")
  path = require_checkpoint(str(tmp_path / "new"))
  assert path == str(tmp_path / "new" / "model.ckpt-7")
  model = small_model()
  load_weights(model, path)
  assert_same_weights(model, run["model"])


def test_a_missing_checkpoint(tmp_path):
  assert latest_checkpoint(str(tmp_path / "missing")) is None
  with pytest.raises(errors.UserError, match="received none") as error:
    require_checkpoint(str(tmp_path))
  assert f"--train_dir={tmp_path}" in str(error.value)


def test_checkpoint_step():
  assert checkpoint_step("/a-1/model.ckpt-0012") == 12


def test_load_weights_takes_the_model_of_a_whole_run(saved_run):
  _, model, path = saved_run
  loaded = small_model()
  load_weights(loaded, path)
  assert_same_weights(loaded, model)


@pytest.mark.parametrize(
  "changes",
  [
    {"num_classes": 4},
    {"feature_sizes": "5"},
    {"model": "MoeModel"},
    {"model": "LstmModel", "frame_features": True, "lstm_cells": 2},
  ],
)
def test_load_weights_refuses_another_model(saved_run, changes):
  _, _, path = saved_run
  with pytest.raises(
    errors.UserError, match="received different weights"
  ) as error:
    load_weights(small_model(**changes), path)
  assert path in str(error.value)
  assert "\n" not in str(error.value)


def test_load_weights_refuses_a_model_with_additional_weights(tmp_path):
  # Everything in the checkpoint has its place in the model.
  changes = {"model": "LstmModel", "frame_features": True, "lstm_cells": 2}
  smaller = small_model(**changes, lstm_layers=1)
  path = Checkpoints(str(tmp_path), 5, model=smaller).save(1)
  with pytest.raises(errors.UserError, match="received different weights"):
    load_weights(small_model(**changes, lstm_layers=2), path)


def test_restore_refuses_another_model(saved_run):
  folder, _, path = saved_run
  run = {**make_run(0), "model": small_model(num_classes=4)}
  with pytest.raises(
    errors.UserError, match="received different weights"
  ) as error:
    Checkpoints(str(folder), 5, **run).restore()
  assert path in str(error.value)


@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", [cut, empty, garble])
def test_a_damaged_checkpoint_is_a_user_error(saved_run, ending, damage):
  folder, _, path = saved_run
  file = folder / f"model.ckpt-5.{ending}"
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(errors.UserError, match="damaged file") as error:
    load_weights(small_model(), path)
  assert path in str(error.value)
  with pytest.raises(errors.UserError, match="damaged file") as error:
    Checkpoints(str(folder), 5, **make_run(0)).restore()
  assert path in str(error.value)


@pytest.mark.parametrize("endings", [["index"], ["data*"], ["index", "data*"]])
def test_a_deleted_checkpoint_raises_a_different_error(saved_run, endings):
  # An evaluation during a training run then takes the next checkpoint.
  folder, _, path = saved_run
  for ending in endings:
    for file in folder.glob(f"model.ckpt-5.{ending}"):
      file.unlink()
  with pytest.raises(tf.errors.NotFoundError):
    load_weights(small_model(), path)


@pytest.mark.parametrize("name", ["r*", "ru?"])
def test_a_folder_may_have_the_name_of_a_pattern(saved_run, tmp_path, name):
  """One that matches the folder run, too."""
  folder = shutil.copytree(saved_run[0], tmp_path / name)
  train_dirs.check_no_file(str(folder))
  path = require_checkpoint(str(folder))
  assert files_of_checkpoint(path) == [
    f"{folder}/model.ckpt-5.data-00000-of-00001",
    f"{folder}/model.ckpt-5.index",
  ]


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_a_folder_where_no_checkpoint_is_found_is_refused(
  saved_run, tmp_path, name
):
  folder = str(shutil.copytree(saved_run[0], tmp_path / name))
  assert latest_checkpoint(folder) is None  # TensorFlow's
  with pytest.raises(errors.UserError, match=r"without \[") as error:
    train_dirs.check_no_file(folder)
  assert folder in str(error.value)
