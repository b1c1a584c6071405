"""Tests of the program export_model.py."""

import in_process
import numpy as np
import pytest
from conftest import run_program
from saved_models import (
  BATCH,
  VIDEO_FLAGS,
  predict,
  randomize,
  saved_predictions,
)

import models
from engine import train_dir as train_dirs


@pytest.fixture
def model():
  """A model with random weights."""
  model = models.build_model(VIDEO_FLAGS)
  randomize(model)
  return model


@pytest.fixture
def train_dir(model, tmp_path):
  """A train_dir with checkpoints of the steps 4 and 9."""
  folder = tmp_path / "run"
  train_dirs.write_model_flags(str(folder), VIDEO_FLAGS)
  checkpoints = train_dirs.Checkpoints(str(folder), 5, model=model)
  checkpoints.save(4)
  randomize(model, seed=2)
  checkpoints.save(9)
  return folder


def test_the_program_exports_the_newest_checkpoint(train_dir, model):
  run_program("export_model.py", f"--train_dir={train_dir}")
  np.testing.assert_allclose(
    saved_predictions(train_dir / "export" / "step_9"),
    predict(model, BATCH),
    atol=1e-6,
  )


def test_the_program_exports_the_checkpoint_that_is_named(train_dir, tmp_path):
  in_process.run(
    "export_model",
    f"--train_dir={train_dir}",
    f"--checkpoint_file={train_dir}/model.ckpt-4",
    f"--output_dir={tmp_path}/out",
  )
  model = models.build_model(VIDEO_FLAGS)
  train_dirs.load_weights(model, str(train_dir / "model.ckpt-4"))
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "out"), predict(model, BATCH), atol=1e-6
  )
  assert not (train_dir / "export").exists()


def test_a_bad_checkpoint_file_ends_in_one_line(train_dir):
  code, output = in_process.call(
    "export_model",
    f"--train_dir={train_dir}",
    f"--checkpoint_file={train_dir}/model.ckpt-4.index",
  )
  assert code == 1
  assert output.startswith("ERROR: ")
  assert "model.ckpt-4.index" in output
  assert output.count("\n") == 1
