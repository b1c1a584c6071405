"""Tests of training on a teacher's predictions besides the labels."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  assert_same_state,
  checkpoint_values,
  error_of,
  event_tags,
  load_model,
)
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  tiny_labels,
  train_tiny,
)

import readers
from engine import prediction_file
from engine.settings import Settings
from engine.teacher import Teacher, taught_reader


def write_teacher(path, predictions, ids=None, classes=range(6)):
  """A file of predictions of the videos v0, v1, ..., in reverse order."""
  if ids is None:
    ids = [f"v{number}".encode() for number in range(len(predictions))]
  batch = (np.array(ids[::-1], object), np.asarray(predictions)[::-1])
  prediction_file.write_predictions(str(path), [batch], classes, np.float16)
  return str(path)


def all_labels():
  """(22, 6) bool, the labels of the tiny videos."""
  labels = np.zeros((NUM_TINY, 6), bool)
  for number in range(NUM_TINY):
    labels[number, tiny_labels(number)] = True
  return labels


@pytest.fixture
def probabilities():
  """(22, 6) float32 that float16 can hold."""
  random = np.random.default_rng(5).random((NUM_TINY, 6))
  return random.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_targets_by_hand(tmp_path, probabilities, weight):
  teacher = Teacher(write_teacher(tmp_path / "t.npz", probabilities), weight)
  videos = [3, 20, 3, 0]
  labels = all_labels()[videos]
  ids = [f"v{number}".encode() for number in videos]
  found = teacher.targets(ids, labels)
  assert found.dtype == np.float32
  expected = (1 - weight) * labels + weight * probabilities[videos]
  np.testing.assert_allclose(found, expected, atol=1e-7)


def descend(kernel, bias, vectors, targets, steps, rate=0.5):
  """Gradient descent of a logistic regression on all videos, by hand.

  The loss of a video is the sum over the classes of the cross entropy with
  e = 1e-5 in its logarithms.
  """
  inputs = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  inputs = inputs.astype(np.float64)
  for _ in range(steps):
    p = 1 / (1 + np.exp(-(inputs @ kernel + bias)))
    slope = -targets / (p + 1e-5) + (1 - targets) / (1 - p + 1e-5)
    slope = slope * p * (1 - p) / len(inputs)
    kernel, bias = kernel - rate * inputs.T @ slope, bias - rate * slope.sum(0)
  return kernel, bias


def test_training_follows_the_targets(
  tiny_files, tiny_vectors, tmp_path, probabilities
):
  path = write_teacher(tmp_path / "teacher.npz", probabilities)
  settings = {
    "teacher": path,
    "teacher_weight": 0.7,
    "batch_size": NUM_TINY,
    "optimizer": "SGD",
    "base_learning_rate": 0.5,
    "clip_gradient_norm": 0.0,
    "regularization_penalty": 0.0,
  }
  # The first weights are random, so begin with a step of nothing.
  flags = {**TINY_FLAGS, "l2_penalty": 0.0}
  train_dir = tmp_path / "model"
  train_tiny(train_dir, tiny_files, flags, **settings, max_steps=1)
  model = load_model(train_dir)
  first = [variable.numpy() for variable in model.trainable_variables]
  train_tiny(train_dir, tiny_files, flags, **settings, max_steps=3)
  found = [
    variable.numpy() for variable in load_model(train_dir).trainable_variables
  ]
  targets = 0.3 * all_labels() + 0.7 * probabilities
  kernel, bias = descend(*first, tiny_vectors, targets, steps=2)
  np.testing.assert_allclose(found[0], kernel, atol=1e-5)
  np.testing.assert_allclose(found[1], bias, atol=1e-5)
  assert np.abs(found[0] - first[0]).max() > 1e-3
  # Of the scores in training, labels are the measure.
  assert event_tags(train_dir)["model/Training_Hit@1"].keys() >= {1, 3}


@pytest.mark.slow
def test_a_teacher_without_weight_changes_nothing(
  tiny_files, tmp_path, probabilities
):
  path = write_teacher(tmp_path / "t.npz", probabilities)
  one, other = tmp_path / "one", tmp_path / "other"
  train_tiny(one, tiny_files, max_steps=6)
  train_tiny(other, tiny_files, max_steps=6, teacher=path, teacher_weight=0.0)
  values, others = checkpoint_values(one), checkpoint_values(other)
  for name in values:
    if name.startswith("model/"):
      np.testing.assert_allclose(values[name], others[name], atol=1e-6)


@pytest.mark.parametrize(
  "level", ["video", pytest.param("frame", marks=pytest.mark.slow)]
)
def test_a_stopped_run_continues_exactly(
  tiny_files, tiny_frame_files, tmp_path, probabilities, level
):
  path = write_teacher(tmp_path / "t.npz", probabilities)
  given = (tiny_files, TINY_FLAGS)
  if level == "frame":
    given = (tiny_frame_files, TINY_FRAME_FLAGS)
  settings = {"teacher": path, "num_epochs": 3, "mixup_alpha": 0.4}
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert train_tiny(whole, *given, **settings) == 14
  train_tiny(parts, *given, **settings, max_steps=9)
  assert train_tiny(parts, *given, **settings) == 14
  assert_same_state(whole / "model.ckpt-14", parts / "model.ckpt-14")


@pytest.mark.slow
def test_compressed_files_are_taught_too(tiny_files, tmp_path, probabilities):
  files = []
  for number, file in enumerate(tiny_files):
    path = str(tmp_path / f"{number}.gz")
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(path, options) as writer:
      for record in tf.data.TFRecordDataset(file):
        writer.write(record.numpy())
    files.append(path)
  teacher = write_teacher(tmp_path / "t.npz", probabilities)
  given = {"teacher": teacher, "batch_size": NUM_TINY, "max_steps": 2}
  train_tiny(tmp_path / "plain", tiny_files, **given)
  train_tiny(tmp_path / "gz", files, **given)
  losses = [
    event_tags(tmp_path / name)["label_loss"][2] for name in ("plain", "gz")
  ]
  assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_label_subset_has_its_own_columns(
  tiny_files, tmp_path, probabilities
):
  flags = {**TINY_FLAGS, "label_subset": [1, 4]}
  given = {"max_steps": 1}
  path = write_teacher(tmp_path / "all.npz", probabilities)
  text = error_of(
    train_tiny, tmp_path / "model", tiny_files, flags, teacher=path, **given
  )
  assert "Expected a teacher of the 2 classes that the model learns" in text
  assert f"--teacher={path} with 6 classes" in text
  assert not (tmp_path / "model").exists()
  path = write_teacher(
    tmp_path / "two.npz", probabilities[:, [1, 4]], classes=[1, 4]
  )
  train_tiny(tmp_path / "model", tiny_files, flags, teacher=path, **given)


def test_a_video_that_the_teacher_does_not_know(
  tiny_files, tmp_path, probabilities
):
  path = write_teacher(tmp_path / "t.npz", probabilities[: NUM_TINY - 1])
  text = error_of(
    train_tiny, tmp_path / "model", tiny_files, teacher=path, max_steps=9
  )
  assert f"--teacher={path}, received none of the video v21." in text


@pytest.mark.parametrize(
  ("flags", "settings", "part"),
  [
    ({}, {"teacher": "/no/such.npz"}, "--teacher=/no/such.npz: No such file"),
    ({"label_loss": "SoftmaxLoss"}, {}, "received --label_loss=SoftmaxLoss"),
    ({}, {"segment_labels": True}, "one of --teacher and --segment_labels"),
  ],
)
def test_what_cannot_be_taught(
  tiny_segment_files, tmp_path, probabilities, flags, settings, part
):
  path = write_teacher(tmp_path / "t.npz", probabilities)
  text = error_of(
    train_tiny,
    tmp_path / "model",
    tiny_segment_files,
    {**TINY_FRAME_FLAGS, **flags},
    **{"teacher": path, **settings},
  )
  assert part in text
  assert not (tmp_path / "model").exists()


def test_without_a_teacher_the_reader_stays():
  reader = readers.make_reader(TINY_FLAGS)
  settings = Settings(batch_size=1, base_learning_rate=0.01)
  assert taught_reader(reader, settings, TINY_FLAGS) is reader
