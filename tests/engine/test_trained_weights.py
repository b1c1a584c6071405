"""Tests of trained weights by themselves."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import checkpoint_values, error_of, folder_content
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import models
from engine import half_weights, trained_weights
from engine import train_dir as train_dirs
from engine.checkpoints import (
  latest_checkpoint,
  load_weights,
  require_checkpoint,
)

WITH_STATISTICS = {
  **TINY_FRAME_FLAGS,
  "model": "DbofModel",
  "iterations": 3,
  "dbof_cluster_size": 4,
  "dbof_hidden_size": 3,
}


@pytest.fixture(scope="module")
def run(tiny_frame_files, tmp_path_factory):
  """A train_dir with checkpoints of the steps 2, 4 and 6, with statistics."""
  train_dir = tmp_path_factory.mktemp("run")
  train_tiny(
    train_dir,
    tiny_frame_files,
    WITH_STATISTICS,
    max_steps=6,
    export_model_steps=2,
  )
  return train_dir


def weights_of(checkpoint) -> dict:
  """The weights of a checkpoint, by their paths."""
  model = models.build_model(WITH_STATISTICS)
  load_weights(model, str(checkpoint))
  return {
    variable.path: variable.numpy()
    for variable in model.variables
    if variable.dtype == "float32"
  }


@pytest.mark.parametrize("number", [2, 3])
def test_means_by_hand(run, tmp_path, number):
  checkpoints = [f"{run}/model.ckpt-{step}" for step in (2, 4, 6)][-number:]
  model = models.build_model(WITH_STATISTICS)
  trained_weights.load_mean(model, checkpoints)
  path = trained_weights.write_train_dir(
    model, str(run), checkpoints[-1], str(tmp_path / "new")
  )
  assert path == f"{tmp_path}/new/model.ckpt-6"
  assert latest_checkpoint(str(tmp_path / "new")) == path
  found, each = weights_of(path), [weights_of(one) for one in checkpoints]
  assert any("moving_variance" in name for name in found)
  for name, value in found.items():
    mean = sum(one[name].astype(np.float64) for one in each) / number
    np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-9, err_msg=name)
    assert not np.array_equal(value, each[-1][name]), name


@pytest.mark.slow
def test_means_of_moving_averages(tiny_files, tmp_path):
  settings = {"ema_decay": 0.6, "export_model_steps": 3, "max_steps": 6}
  train_tiny(tmp_path, tiny_files, **settings)
  checkpoints = [f"{tmp_path}/model.ckpt-{step}" for step in (3, 6)]
  model = models.build_model(TINY_FLAGS)
  trained_weights.load_mean(model, checkpoints)
  name = "average/0/.ATTRIBUTES/VARIABLE_VALUE"
  values = [checkpoint_values(path)[name] for path in checkpoints]
  np.testing.assert_allclose(
    model.trainable_variables[0].numpy(), np.mean(values, axis=0), atol=1e-7
  )


def test_a_new_train_dir_has_all_that_predictions_need(run, tmp_path):
  old = shutil.copytree(run, tmp_path / "old")
  (old / "vocabulary.csv").write_text("Index,Name\n0,A\n")
  (old / "extraction.json").write_text("{}")
  (old / "pca").mkdir()
  (old / "pca" / "mean.npy").write_text("numbers")
  checkpoint = require_checkpoint(str(old))
  model = models.build_model(WITH_STATISTICS)
  load_weights(model, checkpoint)
  new = tmp_path / "new"
  trained_weights.write_train_dir(
    model, str(old), checkpoint, str(new), half=True
  )
  content, before = folder_content(new), folder_content(old)
  facts = {
    "model_flags.json",
    "vocabulary.csv",
    "extraction.json",
    "pca/mean.npy",
  }
  assert {name: content[name] for name in facts} == {
    name: before[name] for name in facts
  }
  assert content.keys() - facts == {
    "checkpoint",
    "model.ckpt-6.index",
    "model.ckpt-6.data-00000-of-00001",
  }
  train_dirs.check_removable(str(new))
  train_dirs.remove_run(str(new))
  assert not folder_content(new)


def test_a_best_checkpoint_of_a_second_time_is_named_by_its_step(run, tmp_path):
  model = models.build_model(WITH_STATISTICS)
  best = f"{run}/best/model.ckpt-again-6"
  path = trained_weights.write_train_dir(
    model, str(run), best, str(tmp_path / "new")
  )
  assert path == f"{tmp_path}/new/model.ckpt-6"
  assert latest_checkpoint(str(tmp_path / "new")) == path


def test_bytes_of_files(run, tmp_path):
  for name in ("r*", "run"):  # the first also matches the second
    shutil.copytree(run, tmp_path / name)
  checkpoint = f"{tmp_path}/r*/model.ckpt-6"
  assert trained_weights.file_bytes(checkpoint) == sum(
    path.stat().st_size for path in run.glob("model.ckpt-6.*")
  )


def test_a_folder_with_files_is_refused(run, tmp_path):
  (tmp_path / "notes.txt").write_text("of the user")
  model = models.build_model(WITH_STATISTICS)
  checkpoint = require_checkpoint(str(run))
  text = error_of(
    trained_weights.write_train_dir, model, str(run), checkpoint, str(tmp_path)
  )
  assert f"Expected a new folder for the weights, received {tmp_path}" in text
  assert folder_content(tmp_path) == {"notes.txt": b"of the user"}


@pytest.mark.parametrize("half", [False, True])
def test_training_does_not_continue_from_weights_alone(
  tiny_files, tmp_path, half
):
  model = models.build_model(TINY_FLAGS)
  train_tiny(tmp_path / "old", tiny_files, max_steps=1)
  checkpoint = require_checkpoint(str(tmp_path / "old"))
  new = tmp_path / "new"
  old = str(tmp_path / "old")
  trained_weights.write_train_dir(model, old, checkpoint, str(new), half)
  before = folder_content(new)
  text = error_of(train_tiny, new, tiny_files, max_steps=2)
  assert f"--train_dir={new}, received weights alone" in text
  assert folder_content(new) == before
  held = tf.train.list_variables(str(new))
  assert any(name.startswith(half_weights.PART) for name, _ in held) == half
