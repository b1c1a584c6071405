"""A small run: its model, its checkpoints, and damage to them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from engine.checkpoints import Checkpoints
from engine.model_flags import write_model_flags

MODEL_FLAGS = {
  "model": "LogisticModel",
  "feature_names": "mean_rgb",
  "feature_sizes": "4",
  "frame_features": False,
  "num_classes": 3,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
  "l2_penalty": 1e-8,
  "input_transform": "l2",
}


def small_model(**changes):
  """A LogisticModel, or what the changes to its flags make of it."""
  return models.build_model({**MODEL_FLAGS, **changes})


def set_weights(model, value):
  """Sets every weight of a model to a different number."""
  for variable in model.trainable_variables:
    numbers = np.arange(np.prod(variable.shape)).reshape(variable.shape)
    variable.assign(value + numbers / 10)


def assert_same_weights(model, other):
  for variable, other_variable in zip(
    model.variables, other.variables, strict=True
  ):
    np.testing.assert_array_equal(variable.value, other_variable.value)


def make_run(step):
  """A model with its optimizer and a step counter."""
  model = small_model()
  optimizer = keras.optimizers.Adam(0.1)
  optimizer.build(model.trainable_variables)
  return {
    "model": model,
    "optimizer": optimizer,
    "global_step": tf.Variable(step, dtype=tf.int64),
  }


@pytest.fixture
def saved_run(tmp_path):
  """(folder, model, checkpoint's path) of a run after step 5."""
  folder = tmp_path / "run"
  run = make_run(5)
  set_weights(run["model"], 3.0)
  write_model_flags(str(folder), MODEL_FLAGS)
  Checkpoints(str(folder), 5, **run).save(4)
  path = Checkpoints(str(folder), 5, **run).save(5)
  return folder, run["model"], path


def cut(content):
  return content[: len(content) // 2]


def empty(content):
  return content[:0]


def garble(content):
  return bytes(byte ^ 0x5A for byte in content)


def damage_data(path) -> None:
  """Overwrites half of a checkpoint's data file; its size stays."""
  content = path.read_bytes()
  half = len(content) // 2
  path.write_bytes(content[:100] + b"?" * half + content[half + 100 :])
