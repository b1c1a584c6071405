"""Tests of the program export_model_mediapipe.py."""

import json

import in_process
import numpy as np
import pytest
import tensorflow as tf
from saved_models import VIDEO_FLAGS, predict, randomize
from tiny_runs import TINY_FRAME_FLAGS

import models
from engine import best_checkpoint
from engine.checkpoints import Checkpoints, load_weights
from engine.model_flags import write_model_flags

SUBSET_FLAGS = {**TINY_FRAME_FLAGS, "label_subset": [1, 3, 4]}


def make_run(folder, model_flags) -> str:
  """A train_dir with checkpoints of the steps 4 and 9."""
  write_model_flags(str(folder), model_flags)
  model = models.build_model(model_flags)
  randomize(model)
  checkpoints = Checkpoints(str(folder), 5, model=model)
  checkpoints.save(4)
  randomize(model, seed=2)
  checkpoints.save(9)
  return str(folder)


def answer(folder, frames):
  """What a SavedModel says about windows of frames, all of them valid."""
  loaded = tf.saved_model.load(str(folder))  # holds the weights
  served = loaded.signatures["serving_default"]
  num_frames = tf.fill([len(frames), 1], frames.shape[1])
  found = served(rgb_and_audio=tf.constant(frames), num_frames=num_frames)
  return found["predictions"].numpy()


def of_checkpoint(path, model_flags, frames):
  """What the model of a checkpoint says about them."""
  model = models.build_model(model_flags, quantized=False)
  load_weights(model, path)
  num_frames = np.full(len(frames), frames.shape[1], np.int32)
  return predict(model, {"video_matrix": frames, "num_frames": num_frames})


FRAMES = np.random.default_rng(7).uniform(-2, 2, (3, 5, 7)).astype(np.float32)


def test_the_command_of_the_original(tmp_path):
  run = make_run(tmp_path / "run", TINY_FRAME_FLAGS)
  log = in_process.run(
    "export_model_mediapipe",
    f"--checkpoint_file={run}/model.ckpt-4",
    f"--output_dir={tmp_path}/out",
  )
  assert f"{run}/model.ckpt-4 for MediaPipe: {tmp_path}/out" in log
  np.testing.assert_allclose(
    answer(tmp_path / "out", FRAMES),
    of_checkpoint(f"{run}/model.ckpt-4", TINY_FRAME_FLAGS, FRAMES),
    atol=1e-6,
  )
  assets = tmp_path / "out" / "assets"
  kept = json.loads((assets / "model_flags.json").read_text())
  assert kept["feature_dtypes"] == "float32,float32"
  assert [path.name for path in assets.iterdir()] == ["model_flags.json"]


def test_the_newest_checkpoint_and_the_names_of_a_label_subset(tmp_path):
  run = make_run(tmp_path / "run", SUBSET_FLAGS)
  (tmp_path / "run" / "vocabulary.csv").write_text(
    "Index,Name\n0,zero\n1,one\n3,\n4,fo\u2028ur\n"
  )
  in_process.run(
    "export_model_mediapipe",
    f"--train_dir={run}",
    f"--output_dir={tmp_path}/out",
  )
  found = answer(tmp_path / "out", FRAMES)
  assert found.shape == (3, 3)
  np.testing.assert_allclose(
    found, of_checkpoint(f"{run}/model.ckpt-9", SUBSET_FLAGS, FRAMES), atol=1e-6
  )
  label_map = tmp_path / "out" / "assets" / "label_map.txt"
  assert label_map.read_text() == "one\n3\nfo\ufffdur\n"


@pytest.mark.parametrize(
  ("model_flags", "received"),
  [
    (VIDEO_FLAGS, "MoeModel on whole videos with mean_rgb,mean_audio."),
    (
      {**TINY_FRAME_FLAGS, "feature_names": "audio,rgb"},
      "FrameLevelLogisticModel on frames with audio,rgb.",
    ),
  ],
)
def test_what_mediapipe_cannot_feed_is_refused(tmp_path, model_flags, received):
  run = make_run(tmp_path / "run", model_flags)
  error = in_process.run_into_error(
    "export_model_mediapipe",
    f"--train_dir={run}",
    f"--output_dir={tmp_path}/out",
  )
  assert received in error
  assert not (tmp_path / "out").exists()


def test_the_checkpoint_that_is_exported(tmp_path):
  run = make_run(tmp_path / "run", TINY_FRAME_FLAGS)
  oldest = f"{run}/model.ckpt-4"
  conditions = {"files": "", "pattern": ""}
  best_checkpoint.consider(run, oldest, "gap", 1.0, conditions)

  def exported(*given) -> np.ndarray:
    in_process.run(
      "export_model_mediapipe", f"--output_dir={tmp_path}/out", *given
    )
    return answer(tmp_path / "out", FRAMES)

  of_run = f"--train_dir={run}"
  old = of_checkpoint(oldest, TINY_FRAME_FLAGS, FRAMES)
  new = of_checkpoint(f"{run}/model.ckpt-9", TINY_FRAME_FLAGS, FRAMES)
  assert abs(old - new).max() > 0.01
  for given, wanted in (
    ([of_run, "--checkpoint=best"], old),
    ([f"--checkpoint_file={run}/best/model.ckpt-4"], old),
    ([of_run, "--checkpoint=9"], new),
    # The path wins.
    ([f"--checkpoint_file={run}/model.ckpt-9", "--checkpoint=best"], new),
  ):
    np.testing.assert_allclose(exported(*given), wanted, atol=1e-6)
  error = in_process.run_into_error(
    "export_model_mediapipe", of_run, "--checkpoint=5"
  )
  assert "There are 4, 9; the best one is 4." in error


def test_a_checkpoint_that_is_missing_is_named(tmp_path):
  run = make_run(tmp_path / "run", TINY_FRAME_FLAGS)
  error = in_process.run_into_error(
    "export_model_mediapipe", f"--checkpoint_file={run}/model.ckpt-5"
  )
  assert f"found no {run}/model.ckpt-5.index" in error
