"""Tests of engine.step: losses, gradients and updates by hand."""

import errno
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  assert_same_state,
  checkpoint_values,
  event_tags,
  load_model,
)
from make_records import segment_record, write_records
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  tiny_labels,
  train_tiny,
)

import errors
import models
import video_level_models
from engine.checkpoints import load_weights
from engine.data import Data
from engine.step import clip_by_global_norm, draw_mixup_weight


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))


def normalized(vectors):
  vectors = vectors.astype(np.float64)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clipped(gradient, limit):
  return gradient * min(1.0, limit / np.linalg.norm(gradient))


def test_the_loss_where_the_data_ends_by_hand(tiny_files, tmp_path):
  """It ends before the steps that were to be taken at once."""
  train_tiny(tmp_path, tiny_files, base_learning_rate=0.0, num_epochs=1)
  losses = event_tags(tmp_path)["label_loss"]
  kernel, bias = load_model(tmp_path).get_layer("fully_connected").get_weights()
  data = Data(TINY_FLAGS, tiny_files, True)
  batches = data.training_batches(5, num_epochs=1, seed=0)
  expected = {}
  for step, batch in enumerate(batches.as_numpy_iterator(), start=1):
    predictions = sigmoid(normalized(batch["video_matrix"]) @ kernel + bias)
    likely = np.where(batch["labels"], predictions, 1 - predictions)
    expected[step] = -np.log(likely + 1e-5).sum(axis=1).mean()
  assert {1, 5} <= losses.keys()
  for step, value in losses.items():
    assert value == pytest.approx(expected[step], rel=1e-5)


def test_the_loss_of_mixed_videos_by_hand(tiny_files, tmp_path):
  settings = {"batch_size": NUM_TINY, "base_learning_rate": 0.0, "seed": 5}
  train_tiny(tmp_path, tiny_files, mixup_alpha=0.4, max_steps=3, **settings)
  losses = event_tags(tmp_path)["label_loss"]
  kernel, bias = (
    value.astype(np.float64)
    for value in load_model(tmp_path).get_layer("fully_connected").get_weights()
  )
  data = Data(TINY_FLAGS, tiny_files, True)
  batches = data.training_batches(NUM_TINY, num_epochs=3, seed=5)
  weights = []
  for step, batch in enumerate(batches.as_numpy_iterator()):
    weight = float(
      draw_mixup_weight(
        0.4, tf.constant(5, tf.int64), tf.constant(step, tf.int64)
      )
    )
    weights.append(weight)
    inputs = normalized(batch["video_matrix"])
    inputs = weight * inputs + (1 - weight) * np.roll(inputs, 1, axis=0)
    predictions = sigmoid(inputs @ kernel + bias)
    expected = 0.0
    for share, labels in (
      (weight, batch["labels"]),
      (1 - weight, np.roll(batch["labels"], 1, axis=0)),
    ):
      likely = np.where(labels, predictions, 1 - predictions)
      expected -= share * np.log(likely + 1e-5).sum() / NUM_TINY
    if step + 1 in losses:
      assert losses[step + 1] == pytest.approx(expected, abs=1e-5)
  assert {1, 3} <= set(losses)
  assert len(set(weights)) == 3


def test_auxiliary_predictions_get_the_label_loss_too(
  tiny_files, tmp_path, monkeypatch
):
  create_model = video_level_models.LogisticModel.create_model

  def create_more(*arguments, **keywords):
    outputs = create_model(*arguments, **keywords)
    same = [outputs["predictions"] * 1.0 for _ in range(2)]
    return {**outputs, "auxiliary_predictions": same}

  settings = {
    "optimizer": "GradientDescentOptimizer",
    "clip_gradient_norm": 0.0,
    "regularization_penalty": 0.0,
    "mixup_alpha": 0.4,
    "max_steps": 1,
  }
  train_tiny(tmp_path / "one", tiny_files, base_learning_rate=0.3, **settings)
  monkeypatch.setattr(
    video_level_models.LogisticModel, "create_model", create_more
  )
  train_tiny(tmp_path / "three", tiny_files, base_learning_rate=0.1, **settings)
  one, three = (
    load_model(tmp_path / name).get_weights() for name in ("one", "three")
  )
  for weight, other in zip(one, three, strict=True):
    np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)
  tags = event_tags(tmp_path / "three")
  assert tags["auxiliary_label_loss"][1] == pytest.approx(
    2 * tags["label_loss"][1], rel=1e-5
  )
  assert "auxiliary_label_loss" not in event_tags(tmp_path / "one")


def test_mixup_weights_have_the_beta_distribution():
  weights = np.array(
    [
      draw_mixup_weight(
        0.4, tf.constant(1, tf.int64), tf.constant(step, tf.int64)
      )
      for step in range(2000)
    ]
  )
  # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
  assert weights.mean() == pytest.approx(0.5, abs=0.03)
  assert weights.var() == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_learning_rate_decays_in_stairs(tiny_files, tmp_path):
  train_tiny(
    tmp_path,
    tiny_files,
    base_learning_rate=0.02,
    learning_rate_decay=0.5,
    learning_rate_decay_examples=12,
    export_model_steps=1,
    max_steps=8,
  )
  # Before the steps 0, 5, 10 | 15, 20 | 25, 30, 35 examples were seen.
  rates = event_tags(tmp_path)["learning_rate"]
  assert rates == pytest.approx(
    {1: 0.02, 2: 0.02, 3: 0.02, 4: 0.01, 5: 0.01, 6: 0.005, 7: 0.005, 8: 0.005}
  )


def test_a_step_of_gradient_descent_by_hand(tiny_files, tiny_vectors, tmp_path):
  penalty, clip, rate = 3e7, 0.3, 0.25

  def train_until(max_steps, base_learning_rate):
    train_tiny(
      tmp_path,
      tiny_files,
      batch_size=NUM_TINY,
      base_learning_rate=base_learning_rate,
      optimizer="GradientDescentOptimizer",
      regularization_penalty=penalty,
      clip_gradient_norm=clip,
      max_steps=max_steps,
    )
    layer = load_model(tmp_path).get_layer("fully_connected")
    return [value.astype(np.float64) for value in layer.get_weights()]

  # A first step with rate 0 only shows the initial weights; the next one is on
  # all videos again.
  kernel, bias = train_until(1, 0.0)
  inputs = normalized(tiny_vectors)
  labels = np.zeros((NUM_TINY, 6))
  for number in range(NUM_TINY):
    labels[number, tiny_labels(number)] = 1
  predictions = sigmoid(inputs @ kernel + bias)
  epsilon = 1e-5
  loss = -np.sum(
    labels * np.log(predictions + epsilon)
    + (1 - labels) * np.log(1 - predictions + epsilon)
  )
  by_predictions = -labels / (predictions + epsilon) + (1 - labels) / (
    1 - predictions + epsilon
  )
  by_logits = by_predictions * predictions * (1 - predictions) / NUM_TINY
  kernel_gradient = inputs.T @ by_logits + penalty * 1e-8 * kernel
  bias_gradient = by_logits.sum(axis=0)
  # Each variable is clipped separately, and the regularization matters.
  assert np.linalg.norm(kernel_gradient) > 1.5 * clip
  assert np.linalg.norm(inputs.T @ by_logits - kernel_gradient) > 0.3

  new_kernel, new_bias = train_until(2, rate)
  np.testing.assert_allclose(
    new_kernel, kernel - rate * clipped(kernel_gradient, clip), atol=1e-6
  )
  np.testing.assert_allclose(
    new_bias, bias - rate * clipped(bias_gradient, clip), atol=1e-6
  )
  tags = event_tags(tmp_path)
  for step in (1, 2):
    assert tags["label_loss"][step] == pytest.approx(loss / NUM_TINY, rel=1e-5)
    assert tags["reg_loss"][step] == pytest.approx(
      1e-8 / 2 * np.sum(kernel**2), rel=1e-5
    )
  assert tags["learning_rate"] == {1: 0.0, 2: rate}


def train_one_real_step(train_dir, tiny_files, **settings):
  """Trains a step of rate 0, which saves the initial weights, then one of 1."""
  for max_steps, rate in ((1, 0.0), (2, 1.0)):
    train_tiny(
      train_dir,
      tiny_files,
      batch_size=NUM_TINY,
      base_learning_rate=rate,
      optimizer="SGD",
      keep_checkpoints=0,
      max_steps=max_steps,
      **settings,
    )


def test_gradients_are_not_clipped_without_a_limit(tiny_files, tmp_path):
  changes = {}
  for clip in (0.0, 1e-3, 1e9):
    train_dir = tmp_path / str(clip)
    train_one_real_step(train_dir, tiny_files, clip_gradient_norm=clip)
    before, after = (
      checkpoint_values(train_dir / f"model.ckpt-{step}") for step in (1, 2)
    )
    name = "optimizer/_trainable_variables/0/.ATTRIBUTES/VARIABLE_VALUE"
    changes[clip] = after[name] - before[name]
  np.testing.assert_allclose(changes[0.0], changes[1e9], atol=1e-7)
  assert np.linalg.norm(changes[0.0]) > 0.1
  assert np.linalg.norm(changes[1e-3]) == pytest.approx(1e-3, rel=1e-3)


def test_segments_are_trained_on_their_ratings_only(tmp_path):
  rgb = np.arange(40, dtype=np.uint8).reshape(10, 4)
  audio = np.arange(30, dtype=np.uint8).reshape(10, 3) + 100
  file = write_records(
    tmp_path / "a",
    [
      segment_record(
        "one", [(0, 2, 1.0), (0, 3, 0.0), (5, 1, 0.0)], rgb=rgb, audio=audio
      )
    ],
  )
  train_tiny(
    tmp_path / "model",
    [file],
    TINY_FRAME_FLAGS,
    base_learning_rate=0.0,
    segment_labels=True,
    max_steps=1,
    batch_size=2,
  )
  model = load_model(tmp_path / "model")
  kernel, bias = model.get_layer("fully_connected").get_weights()
  frames = np.concatenate([rgb, audio], axis=1) * (4 / 255) + 4 / 512 - 2
  means = normalized(frames).reshape(2, 5, 7).mean(axis=1)
  predictions = sigmoid(means @ kernel + bias)
  loss = -(
    np.log(predictions[0, 2] + 1e-5)
    + np.log(1 - predictions[0, 3] + 1e-5)
    + np.log(1 - predictions[1, 1] + 1e-5)
  )
  tags = event_tags(tmp_path / "model")
  assert tags["label_loss"][1] == pytest.approx(loss / 2, rel=1e-5)


# --------------------------------------------------------------------------
# The joint norm, several batches per step


def test_all_gradients_are_scaled_alike_to_a_joint_norm():
  gradients = [tf.constant([[3.0, 0.0]]), tf.constant([4.0])]
  for norm, scale in ((1.0, 0.2), (5.0, 1.0), (9.0, 1.0)):
    clipped_ones = clip_by_global_norm(gradients, norm)
    for gradient, found in zip(gradients, clipped_ones, strict=True):
      np.testing.assert_allclose(found, scale * gradient.numpy(), rtol=1e-6)


def test_a_joint_norm_limits_the_whole_update(tiny_files, tmp_path):
  changes = {}
  for limit in (0.0, 1e-3, 1e9):
    train_dir = tmp_path / str(limit)
    train_one_real_step(
      train_dir, tiny_files, clip_gradient_norm=0.0, clip_global_norm=limit
    )
    before, after = (
      load_model_at(train_dir, f"model.ckpt-{step}") for step in (1, 2)
    )
    changes[limit] = np.concatenate(
      [(b - a).ravel() for a, b in zip(before, after, strict=True)]
    )
  np.testing.assert_allclose(changes[0.0], changes[1e9], atol=1e-7)
  assert np.linalg.norm(changes[1e-3]) == pytest.approx(1e-3, rel=1e-3)


def load_model_at(train_dir, name):
  """The trainable weights of a LogisticModel's checkpoint."""
  model = models.build_model(TINY_FLAGS)
  load_weights(model, str(train_dir / name))
  return [variable.numpy() for variable in model.trainable_variables]


ACCUMULATED = {
  "adam": {},
  "clipped": {"clip_gradient_norm": 0.05},
  "momentum, averages and a cosine": {
    "optimizer": "MomentumOptimizer",
    "ema_decay": 0.9,
    "learning_rate_schedule": "cosine",
    "warmup_examples": 20,
  },
  "with XLA": {"xla": True},
  "regularized": {"regularization_penalty": 1e7},
}


@pytest.mark.parametrize("name", ACCUMULATED)
def test_accumulated_batches_equal_one_large_batch(tiny_files, tmp_path, name):
  # 66 examples in steps of 10 are 7 steps; the last one has 6 in batches of 5.
  settings = {"num_epochs": 3, **ACCUMULATED[name]}
  one, many = tmp_path / "one", tmp_path / "many"
  assert train_tiny(one, tiny_files, batch_size=10, **settings) == 7
  assert (
    train_tiny(many, tiny_files, batch_size=5, accumulate_steps=2, **settings)
    == 7
  )
  expected, found = checkpoint_values(one), checkpoint_values(many)
  assert expected.keys() == found.keys()
  for key, value in expected.items():
    if value.dtype == np.float32:
      np.testing.assert_allclose(found[key], value, atol=2e-6, err_msg=key)
  for counter in ("global_step", "examples_seen", "position"):
    key = f"{counter}/.ATTRIBUTES/VARIABLE_VALUE"
    np.testing.assert_array_equal(found[key], expected[key])
  # Which steps are reported depends on how fast they are.
  rates = [event_tags(folder)["learning_rate"] for folder in (one, many)]
  for step in rates[0].keys() & rates[1].keys():
    assert rates[0][step] == pytest.approx(rates[1][step])


def test_accumulation_keeps_nothing_after_a_stop(tiny_files, tmp_path):
  settings = {"batch_size": 2, "accumulate_steps": 3, "num_epochs": 2}
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  steps = train_tiny(whole, tiny_files, **settings)
  for max_steps in (3, 5):
    train_tiny(parts, tiny_files, **settings, max_steps=max_steps)
  assert train_tiny(parts, tiny_files, **settings) == steps
  assert_same_state(
    whole / f"model.ckpt-{steps}", parts / f"model.ckpt-{steps}"
  )


def test_a_temporary_folder_that_cannot_be_written_to(
  tiny_files, tmp_path, monkeypatch
):
  def fail(function):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/generated.py")

  monkeypatch.setattr(tf.autograph, "to_graph", fail)
  with pytest.raises(errors.MachineError, match="room on the disk for /tmp/"):
    train_tiny(tmp_path, tiny_files, max_steps=1)
