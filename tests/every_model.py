"""Every model of the model files, small, and a batch for each."""

import inspect
import re

import numpy as np

import models
import video_level_models

MODEL_FILES = models.import_model_files()

CLASSES = 5
FEATURE_SIZES = (12, 4)
# Frames past these hold garbage: bytes that must not matter.
NUM_FRAMES = np.array([6, 4, 1, 5, 6, 2], np.int32)
LENGTH = 6

# Small values of hyper-parameters whose default does not show that they are
# large; for the others, see small_hyperparameters.
SMALL_VALUES = {"lstm_cells": 4}
SMALL_NUMBER = 8

# Keywords that build_model itself provides.
AT_HAND = (
  "feature_names",
  "feature_sizes",
  "input_transform",
  "mean_frame",
  "mean_dequantized_frame",
)


def model_classes():
  """All models of the model files."""
  return [
    value
    for module in MODEL_FILES
    for value in vars(module).values()
    if inspect.isclass(value)
    and issubclass(value, models.BaseModel)
    and value.__module__ == module.__name__
  ]


def is_frame_level(model_class) -> bool:
  """Whether a model takes frames."""
  return model_class.__module__ != video_level_models.__name__


def keyword_defaults(model_class):
  """The hyper-parameters of a model, by name."""
  return {
    name: parameter.default
    for name, parameter in inspect.signature(
      model_class.create_model
    ).parameters.items()
    if parameter.default is not parameter.empty and name not in AT_HAND
  }


def small_hyperparameters(model_class, preset=""):
  """A model's own defaults, with 8 for each whole number above it.

  Strings of whole numbers separated by commas are treated the same way.

  Args:
    model_class: a model.
    preset: whose values replace the defaults; "" for none.
  """
  settings = model_class.presets[preset] if preset else {}
  small = {}
  for name, of_model in keyword_defaults(model_class).items():
    default = settings.get(name, of_model)
    if name in SMALL_VALUES:
      small[name] = SMALL_VALUES[name]
    elif isinstance(default, int) and default > SMALL_NUMBER:
      small[name] = SMALL_NUMBER
    elif isinstance(default, str) and re.fullmatch(
      r"\d+(,(\d+|classes))*", default
    ):
      small[name] = re.sub(r"\d\d+", str(SMALL_NUMBER), default)
    else:
      small[name] = default
  return small


def make_model_flags(model_class, preset="", **changes):
  """Model_flags.json of a small model; see small_hyperparameters."""
  return {
    "model": model_class.__name__,
    "feature_names": "rgb,audio",
    "feature_sizes": ",".join(map(str, FEATURE_SIZES)),
    "frame_features": is_frame_level(model_class),
    "num_classes": CLASSES,
    "max_frames": 20,
    "label_loss": "CrossEntropyLoss",
    **small_hyperparameters(model_class, preset),
    **changes,
  }


def make_batch(model_flags):
  """Inputs of a model: bytes at frame level, else floats."""
  generator = np.random.default_rng(2)
  videos, features = len(NUM_FRAMES), sum(FEATURE_SIZES)
  if model_flags["frame_features"]:
    video_matrix = generator.integers(
      256, size=(videos, LENGTH, features), dtype=np.uint8
    )
    return {"video_matrix": video_matrix, "num_frames": NUM_FRAMES}
  video_matrix = generator.normal(size=(videos, features)).astype("float32")
  return {
    "video_matrix": video_matrix,
    "num_frames": np.ones(videos, np.int32),
  }


def predict(model, batch):
  """The predictions of a batch, as an array."""
  return model(batch, training=False)["predictions"].numpy()


def rows(batch, selection):
  """Some videos of a batch."""
  return {name: values[selection] for name, values in batch.items()}


def dequantized(batch):
  """A batch of bytes as the floats they stand for."""
  frames = batch["video_matrix"].astype(np.float32)
  return {**batch, "video_matrix": frames * (4 / 255) + (4 / 512 - 2)}
