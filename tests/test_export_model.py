"""Tests of the program export_model.py."""

import re
import shutil
import sys

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_program
from make_records import frame_record, video_record, write_records
from saved_models import (
  BATCH,
  VIDEO_FLAGS,
  predict,
  randomize,
  saved_predictions,
)
from tiny_runs import TINY_FRAME_FLAGS

import models
import train
from data_tools import sample_data, sample_videos
from engine import best_checkpoint, export_formats
from engine.checkpoints import Checkpoints, load_weights
from engine.model_flags import require_model_flags, write_model_flags
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
  write_model_flags(str(folder), VIDEO_FLAGS)
  checkpoints = Checkpoints(str(folder), 5, model=model)
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
  load_weights(model, str(train_dir / "model.ckpt-4"))
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
  assert code == 2
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
  kept = require_model_flags(str(folder))
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
    load_weights(model, str(folder / "model.ckpt-1"))
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
    assert f"Exporting {train_dir}/" in log
    assert log.count(str(path)) == 1
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


# --------------------------------------------------------------------------
# Other formats


@pytest.fixture
def records(tmp_path):
  """A file of three videos that the model can read."""
  random = np.random.default_rng(1)
  videos = [
    video_record(
      f"video{number}",
      mean_rgb=random.normal(size=6),
      mean_audio=random.normal(size=2),
    )
    for number in range(3)
  ]
  return write_records(tmp_path / "three", videos)


def test_a_keras_file_beside_the_saved_models(train_dir, model, records):
  log = in_process.run(
    "export_model",
    f"--train_dir={train_dir}",
    "--format=keras",
    f"--input_data_pattern={records}",
  )
  path = train_dir / "export" / "formats_9" / "model.keras"
  assert re.search(
    r"keras: 0\.\d\d MB, \d+ videos/s, differs by up to \S+: " + str(path), log
  )
  loaded = keras.models.load_model(path, compile=False)
  found = loaded({"video_matrix": BATCH["video_matrix"]}, training=False)
  np.testing.assert_allclose(
    found["predictions"].numpy(), predict(model, BATCH), atol=1e-6
  )
  assert [one.name for one in path.parent.iterdir()] == ["model.keras"]
  assert not (train_dir / "export" / "step_9").exists()


def only_keras(monkeypatch, **more):
  """Leaves the formats that need no other packages, and adds some."""
  keras_alone = {"keras": export_formats.FORMATS["keras"], **more}
  monkeypatch.setattr(export_formats, "FORMATS", keras_alone)


def test_all_formats_but_those_that_cannot_hold_the_model(
  train_dir, model, records, monkeypatch
):
  def fail(*_):
    raise NotImplementedError("no such operation")

  bad = export_formats.FORMATS["keras"]._replace(write=fail, path="bad")
  only_keras(monkeypatch, bad=bad)
  out = train_dir / "out"
  given = (f"--train_dir={train_dir}", f"--output_dir={out}")
  log = in_process.run(
    "export_model",
    *given,
    "--format=all",
    f"--input_data_pattern={records}",
  )
  assert sorted(one.name for one in out.iterdir()) == [
    "model.keras",
    "saved_model",
  ]
  np.testing.assert_allclose(
    saved_predictions(out / "saved_model"), predict(model, BATCH), atol=1e-6
  )
  (refused,) = [line for line in log.splitlines() if "No bad." in line]
  assert "no such operation" in refused
  # Alone, it is an error.
  error = in_process.run_into_error(
    "export_model",
    *given,
    "--format=bad",
    f"--input_data_pattern={records}",
  )
  assert "no such operation" in error


def test_packages_are_asked_for_first(train_dir, monkeypatch):
  monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
  for name in ("all", "litert"):
    error = in_process.run_into_error(
      "export_model", "--train_dir=missing", f"--format={name}"
    )
    assert "pip install -r requirements/export.txt" in error


def test_without_records_there_is_nothing_to_compare(train_dir):
  error = in_process.run_into_error(
    "export_model", f"--train_dir={train_dir}", "--format=keras"
  )
  assert "Name some by --input_data_pattern." in error
  assert "mean_rgb,mean_audio with 6,2" in error


def test_records_that_are_stored_otherwise(tmp_path):
  model_flags = {**TINY_FRAME_FLAGS, "feature_dtypes": "uint8,uint8"}
  folder = tmp_path / "run"
  write_model_flags(str(folder), model_flags)
  model = models.build_model(model_flags)
  Checkpoints(str(folder), 5, model=model).save(4)
  frames = np.ones((3, 4), np.float32), np.ones((3, 3), np.float32)
  path = write_records(
    tmp_path / "floats", [frame_record("a", rgb=frames[0], audio=frames[1])]
  )
  given = (f"--train_dir={folder}", f"--input_data_pattern={path}")
  error = in_process.run_into_error("export_model", *given)
  assert "Expected frames of bytes" in error
  assert "--float_frames=True" in error
  log = in_process.run("export_model", *given, "--float_frames")
  assert "videos/s" in log


@pytest.mark.parametrize("place", ["others", "others/notes.txt/data"])
def test_a_saved_model_needs_no_sample_data(
  place, train_dir, tmp_path, monkeypatch
):
  """Its folder has other files, or cannot be made."""
  (tmp_path / "others").mkdir()
  (tmp_path / "others" / "notes.txt").write_text("notes")
  make = sample_data.ensure_sample_data
  monkeypatch.setattr(
    sample_data, "ensure_sample_data", lambda: make(f"{tmp_path}/{place}")
  )
  monkeypatch.setattr(sample_videos, "RGB_SIZE", 6)
  monkeypatch.setattr(sample_videos, "AUDIO_SIZE", 2)
  log = in_process.run("export_model", f"--train_dir={train_dir}")
  (line,) = [line for line in log.splitlines() if "No videos" in line]
  assert f"{tmp_path}/others" in line
  assert (train_dir / "export" / "step_9" / "saved_model.pb").exists()
  # The other formats are not written unchecked.
  code, log = in_process.call(
    "export_model", f"--train_dir={train_dir}", "--format=keras"
  )
  assert code == 2
  assert log.splitlines()[-1].startswith("ERROR: ")
  assert not (train_dir / "export" / "formats_9").exists()


def test_float16_is_about_half_and_says_what_it_changes(train_dir, records):
  sizes = {}
  for name in ("", "--float16"):
    log = in_process.run(
      "export_model",
      f"--train_dir={train_dir}",
      f"--input_data_pattern={records}",
      *([name] if name else []),
    )
    (line,) = [line for line in log.splitlines() if "saved_model: " in line]
    assert ("differs by up to" in line) == bool(name)
    variables = train_dir / "export" / "step_9" / "variables"
    sizes[name] = sum(one.stat().st_size for one in variables.glob("*data*"))
  assert sizes["--float16"] < 0.75 * sizes[""]
