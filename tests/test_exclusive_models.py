"""Tests of every model of the model files with exclusive classes."""

import random

import every_model
import numpy as np
import pytest
import tensorflow as tf
from every_model import CLASSES, NUM_FRAMES, make_batch, make_model_flags

import losses
import models

# Each video has one of the classes.
CLASS_OF_VIDEO = np.arange(len(NUM_FRAMES)) % CLASSES
LABELS = np.eye(CLASSES, dtype=bool)[CLASS_OF_VIDEO]


def build(model_class, **changes):
  """A small model of a class, and a batch for it."""
  random.seed(1)
  flags = make_model_flags(model_class, exclusive_classes=True, **changes)
  return models.build_model(flags), make_batch(flags)


@pytest.mark.parametrize(
  "model_class",
  every_model.model_classes(),
  ids=lambda model_class: model_class.__name__,
)
def test_predictions_are_a_distribution_over_the_classes(model_class):
  model, batch = build(model_class)
  in_training = model(batch, training=True)["predictions"].numpy()
  predictions = every_model.predict(model, batch)
  if every_model.is_frame_level(model_class):
    # Garbage in more padding, and a video without frames.
    longer = {
      **batch,
      "video_matrix": np.pad(
        batch["video_matrix"], [(0, 0), (0, 3), (0, 0)], constant_values=77
      ),
    }
    np.testing.assert_allclose(
      every_model.predict(model, longer), predictions, atol=1e-6
    )
    empty = {**batch, "num_frames": NUM_FRAMES * (np.arange(6) != 1)}
    without = every_model.predict(model, empty)
    np.testing.assert_allclose(without.sum(axis=1), 1.0, atol=1e-5)
  for found in (in_training, predictions):
    assert found.shape == LABELS.shape
    assert found.dtype == "float32"
    assert found.min() >= 0.0
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
  # It is no softmax of another axis: videos differ.
  assert np.ptp(predictions, axis=0).max() > 1e-5


@pytest.mark.parametrize("name", ["MoeModel", "RandomFrameModel"])
def test_in_half_precision_it_is_a_float32_distribution(name):
  model_class = models.find_class_by_name(name)
  model, batch = build(model_class)
  half = models.build_model(
    make_model_flags(model_class, exclusive_classes=True),
    dtype_policy="mixed_bfloat16",
  )
  half.set_weights(model.get_weights())
  for training in (False, True):
    predictions = half(batch, training=training)["predictions"]
    assert predictions.dtype == "float32"
    # bfloat16 has 8 bits, so that sums would be wrong by far more.
    np.testing.assert_allclose(predictions.numpy().sum(axis=1), 1.0, atol=1e-5)
  np.testing.assert_allclose(
    every_model.predict(half, batch),
    every_model.predict(model, batch),
    atol=0.1,
  )


def test_a_gradient_reaches_every_weight_of_a_mixture():
  model, batch = build(models.find_class_by_name("MoeModel"))
  loss = losses.CategoricalCrossEntropyLoss()
  with tf.GradientTape() as tape:
    predictions = model(batch, training=True)["predictions"]
    value = loss.calculate_loss(predictions, LABELS)
  weights = [variable.value for variable in model.trainable_variables]
  for gradient in tape.gradient(value, weights):
    assert abs(gradient.numpy()).max() > 1e-7


def test_without_the_flag_the_graph_is_as_before():
  model_class = models.find_class_by_name("MoeModel")
  shapes = {
    kind: [
      tuple(weight.shape)
      for weight in models.build_model(
        make_model_flags(model_class, **flags)
      ).weights
    ]
    for kind, flags in {
      "neither": {},
      "false": {"exclusive_classes": False},
      "true": {"exclusive_classes": True},
    }.items()
  }
  assert shapes["neither"] == shapes["false"] == [(16, 15), (16, 10), (10,)]
  assert sorted(shapes["true"]) == [(10,), (16, 2), (16, 10)]
