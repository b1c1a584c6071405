"""Tests of the program export_model.py."""

import shutil

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_program
from make_records import write_records
from saved_models import (
  BATCH,
  VIDEO_FLAGS,
  predict,
  randomize,
  saved_predictions,
)

import models
import train
from engine import best_checkpoint
from engine import train_dir as train_dirs
from engine.settings import Settings
from records import writing


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


def test_the_export_reads_what_the_model_was_trained_on(tmp_path):
  random = np.random.default_rng(0)
  arrays = {
    "mean_rgb": random.integers(256, size=6, dtype=np.uint8),
    "mean_audio": random.normal(size=2).astype(np.float16),
  }
  record = writing.video_record(b"one", [3], arrays)
  files = [write_records(tmp_path / "a", [record])]
  folder = tmp_path / "run"
  model_flags = {**VIDEO_FLAGS, "feature_ranges": "5:8,"}
  vocabulary = tmp_path / "names.csv"
  vocabulary.write_text("Index,Name\n0,a\n")
  train.train(
    str(folder),
    model_flags,
    files,
    Settings(batch_size=1, base_learning_rate=0.01, max_steps=1),
    vocabulary=str(vocabulary),
  )
  kept = train_dirs.require_model_flags(str(folder))
  assert kept == {
    **model_flags,
    "input_transform": "l2",
    "feature_dtypes": "uint8,float16",
  }

  def answer(*typed):
    in_process.run(
      "export_model",
      f"--train_dir={folder}",
      f"--output_dir={folder}/out",
      *typed,
    )
    served = tf.saved_model.load(f"{folder}/out")
    signature = served.signatures["serving_default"]
    assert served.vocabulary.asset_path.numpy().endswith(b"vocabulary.csv")
    return signature(example_bytes=tf.constant([record]))["predictions"]

  def wanted(low, high):
    model = models.build_model(VIDEO_FLAGS)
    train_dirs.load_weights(model, str(folder / "model.ckpt-1"))
    rgb = low + arrays["mean_rgb"] * ((high - low) / 255)
    matrix = np.concatenate([rgb, arrays["mean_audio"]])[np.newaxis]
    batch = {"video_matrix": np.float32(matrix), "num_frames": np.ones(1)}
    return -np.sort(-predict(model, batch))[:, :20]

  np.testing.assert_allclose(answer(), wanted(5, 8), atol=1e-6)
  typed = wanted(-3, 0.5)
  assert abs(typed - wanted(5, 8)).max() > 1e-4
  np.testing.assert_allclose(
    answer("--feature_ranges=-3:0.5,"), typed, atol=1e-6
  )
  # Floats, where the records hold bytes.
  with pytest.raises(tf.errors.InvalidArgumentError):
    answer("--float_frames")


def test_the_checkpoint_that_is_exported(train_dir):
  checkpoint = f"{train_dir}/model.ckpt-4"
  conditions = {"files": "", "pattern": ""}
  best_checkpoint.consider(str(train_dir), checkpoint, "gap", 1.0, conditions)
  folder = train_dir / "export"

  def exported(*flags) -> str:
    log = in_process.run("export_model", f"--train_dir={train_dir}", *flags)
    (path,) = folder.iterdir()
    shutil.rmtree(folder)
    assert f"SavedModel of {train_dir}/" in log
    return f"{path.name}: {'No effect with --checkpoint_file' in log}"

  assert exported() == "step_9: False"
  assert exported("--checkpoint=latest") == "step_9: False"
  assert exported("--checkpoint=best") == "step_4: False"
  assert exported("--checkpoint=4") == "step_4: False"
  newest = f"--checkpoint_file={train_dir}/model.ckpt-9"
  assert exported(newest) == "step_9: False"
  # The path wins, and the log says so.
  assert exported(newest, "--checkpoint=best") == "step_9: True"
  line = in_process.run_into_error(
    "export_model", f"--train_dir={train_dir}", "--checkpoint=5"
  )
  assert "There are 4, 9; the best one is 4." in line
