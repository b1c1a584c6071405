"""model_flags.json in a train_dir: what shapes the graph or reads the data.

It is enough to rebuild the model: eval.py, inference.py and export_model.py
need nothing else.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

import errors
import losses
import models
from engine.files import check_number, write_json
from layers import whitening

MODEL_FLAGS_FILE = "model_flags.json"

# By how readers.py calls them.
_DTYPES = {"bytes": "uint8", "float16": "float16", "float": "float32"}

# Characters of a value in a message.
_MOST_SHOWN = 80

_SIZES = re.compile(r"\s*[1-9]\d{0,9}\s*(,\s*[1-9]\d{0,9}\s*)*", re.ASCII)


# What TensorFlow counts in 32 bits; lists of so many names fill any memory.
_LARGEST_SIZE = 2**31 - 1


def _is_size(value) -> bool:
  return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _has_use(value, kind: type = float) -> bool:
  """Whether a value is a number that check_number lets pass."""
  with contextlib.suppress(TypeError, ValueError):
    check_number(value, kind)
    return True
  return False


def _is_text(value) -> bool:
  return isinstance(value, str) and bool(value)


def _are_dtypes(value) -> bool:
  return not value or (
    isinstance(value, str) and set(value.split(",")) <= set(_DTYPES.values())
  )


# Of the flags that belong to no model and no loss: what a value is in words,
# and whether one is.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
  "model": ("the name of a model", _is_text),
  "label_loss": ("the name of a loss", _is_text),
  "feature_names": ("names separated by commas", _is_text),
  "feature_sizes": (
    "numbers separated by commas",
    lambda value: isinstance(value, str) and bool(_SIZES.fullmatch(value)),
  ),
  "frame_features": ("true or false", lambda value: isinstance(value, bool)),
  "num_classes": (f"a number from 1 to {_LARGEST_SIZE}", _is_size),
  "max_frames": (f"a number from 1 to {_LARGEST_SIZE}", _is_size),
  "label_subset": (
    "a list of classes",
    lambda value: (
      value is None
      or (
        isinstance(value, list)
        and all(type(index) is int and index >= 0 for index in value)
      )
    ),
  ),
  "exclusive_classes": (
    "true or false",
    lambda value: isinstance(value, bool | None),
  ),
  "feature_ranges": (
    "ranges such as -2:2",
    lambda value: isinstance(value, str | None),
  ),
  "feature_dtypes": (
    f"some of {', '.join(_DTYPES.values())}, separated by commas",
    _are_dtypes,
  ),
  "input_transform": (
    f"one of {', '.join(models.INPUT_TRANSFORMS)}",
    lambda value: value in models.INPUT_TRANSFORMS,
  ),
  "dewhiten_scales": (
    "a list of numbers for each feature",
    lambda value: (
      isinstance(value, list)
      and all(
        isinstance(scales, list) and all(map(_has_use, scales))
        for scales in value
      )
    ),
  ),
  "preset": (
    "the name of a preset",
    lambda value: isinstance(value, str | None),
  ),
}


def _read_noted_flags(train_dir: str) -> dict | None:
  """Reads what model_flags.json holds; see read_model_flags."""
  path = os.path.join(train_dir, MODEL_FLAGS_FILE)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "rb") as file:
    content = file.read()
  advice = "Name another model, or start again with train.py --start_new_model."
  try:
    model_flags = errors.parse_json(content)
    if not isinstance(model_flags, dict):
      raise ValueError(f"a {type(model_flags).__name__}")
  except ValueError as error:
    raise errors.UserError(
      f"Expected JSON in {path}, received something else ({error}). {advice}"
    ) from error
  missing = [name for name in models.GRAPH_FLAGS if name not in model_flags]
  if missing:
    raise errors.UserError(
      f"Expected {', '.join(models.GRAPH_FLAGS)} in {path}, received a file"
      f" without {missing[0]}, probably by the original TensorFlow 1 code. Make"
      " a new folder of its checkpoint with python -m"
      " data_tools.import_tf1_checkpoint, name another model, or start again"
      " with train.py --start_new_model."
    )
  for name, what in _wrong_values(model_flags):
    raise errors.UserError(
      f"Expected {what} as {name} in {path}, received"
      f" {_short(model_flags[name])}. {advice}"
    )
  return model_flags


def _short(value) -> str:
  """A value in a message, which may be of any length."""
  try:
    text = repr(value)
  except RecursionError:
    text = f"a {type(value).__name__}"
  return text if len(text) < _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _wrong_values(model_flags: dict) -> Iterator[tuple[str, str]]:
  """Finds values of another type or range than flags have.

  Keys that are not known are left alone: a model may take them as a keyword,
  and is asked when it is built.

  Args:
    model_flags: with all GRAPH_FLAGS.

  Yields:
    The name of the flag, and what its value should be.
  """
  for name, (what, fits) in _KINDS.items():
    if name in model_flags and not fits(model_flags[name]):
      yield name, what
      return
  names = model_flags["feature_names"].split(",")
  sizes = model_flags["feature_sizes"].split(",")
  if len(names) != len(sizes):
    yield "feature_sizes", f"a size for each of {len(names)} features"
  if max(map(int, sizes)) > _LARGEST_SIZE:
    yield "feature_sizes", f"numbers from 1 to {_LARGEST_SIZE}"
  if any(
    index >= model_flags["num_classes"]
    for index in model_flags.get("label_subset") or []
  ):
    yield "label_subset", f"classes below {model_flags['num_classes']}"
  for name, default in _known_defaults(model_flags).items():
    if name not in _KINDS and name in model_flags:
      what = _expected(default, model_flags[name])
      if what:
        yield name, what


def _known_defaults(model_flags: dict) -> dict:
  """The defaults of the model's and the loss's hyper-parameters, if they exist.

  Who builds one that does not exist says so.
  """
  defaults = {}
  with contextlib.suppress(ValueError):
    defaults |= losses.default_hyperparameters(model_flags["label_loss"])
  with contextlib.suppress(ValueError, TypeError):
    defaults |= models.default_hyperparameters(model_flags)
  return defaults


def _expected(default, value) -> str:
  """What a hyper-parameter should be, if it is not; else an empty text."""
  kind = type(value)
  if default is None:
    return "" if kind in (str, int, float, bool, type(None)) else "one value"
  if isinstance(default, bool):
    return "" if kind is bool else "true or false"
  if isinstance(default, float):
    return "" if _has_use(value) else "a number"
  # Such as lstm_cells, which are one number or "512,256".
  if isinstance(default, int):
    fits = _has_use(value, int) or (kind is str and _SIZES.fullmatch(value))
    return "" if fits else "a whole number"
  if isinstance(default, str):
    return "" if kind in (str, int) else "a text"
  return ""  # of a model of one's own


def read_model_flags(train_dir: str) -> dict | None:
  """Reads model_flags.json; returns None if the file is missing.

  Flags that an earlier version did not know are added.

  Raises:
    errors.UserError: the file was not written by this project.
  """
  noted = _read_noted_flags(train_dir)
  return None if noted is None else models.with_earlier_defaults(noted)


def require_model_flags(
  train_dir: str, feature_ranges: str | None = None
) -> dict:
  """Reads model_flags.json, which must exist.

  Args:
    train_dir: folder of the run.
    feature_ranges: in the place of those in the file; None for these.

  Raises:
    errors.UserError: the file is missing.
  """
  model_flags = read_model_flags(train_dir)
  if model_flags is None:
    raise errors.UserError(
      f"Expected a trained model in --train_dir={train_dir}, received a folder"
      f" without {MODEL_FLAGS_FILE}. Train a model first (python train.py"
      f" --train_dir={train_dir} ...) or name another folder."
    )
  if feature_ranges is not None:
    model_flags["feature_ranges"] = feature_ranges
  return model_flags


def resumed_model_flags(train_dir: str, model_flags: dict) -> dict:
  """Checks that a run to be resumed in a train_dir has the same model.

  Logs which defaults an earlier version has begun it with that are others now.

  Returns:
    model_flags, with the run's own value of each flag that an earlier version
    did not know, and that is not set to another value than its default.

  Raises:
    errors.UserError: lists the flags that differ.
  """
  noted = _read_noted_flags(train_dir)
  if noted is None:
    return model_flags
  defaults = losses.default_hyperparameters(model_flags["label_loss"])
  if noted["model"] == model_flags["model"]:
    defaults |= models.default_hyperparameters(model_flags)
    defaults["input_transform"] = models.find_class_by_name(
      model_flags["model"]
    ).input_transform
  old = {**defaults, **models.with_earlier_defaults(noted)}
  new = {**defaults, **model_flags}
  kept = [
    name
    for name in sorted(old.keys() - noted.keys())
    if new.get(name) == defaults.get(name) != old[name]
  ]
  new |= {name: old[name] for name in kept}
  # Training reads the dtypes from the records, so they may change; what a
  # preset stood for is among the other flags.
  ignored = ("feature_dtypes", *models.PRESET_FLAGS)
  differing = [
    f"--{name} was {_shown(name, old)} and is now {_shown(name, new)}"
    for name in sorted({*old, *new})
    if name not in ignored and old.get(name) != new.get(name)
  ]
  if not differing:
    if kept:
      logging.info(
        "The run in %s keeps what an earlier version began it with: %s.",
        train_dir,
        ", ".join(f"--{name}={old[name]}" for name in kept),
      )
    if noted.get("preset") and not model_flags.get("preset"):
      logging.warning(
        "This run was trained with --preset=%s. Without it the settings of"
        " training are those of the command line and the defaults; add it to"
        " continue as before.",
        noted["preset"],
      )
    return {**model_flags, **{name: new[name] for name in model_flags}}
  raise errors.UserError(
    f"Expected the flags of the model in --train_dir={train_dir}, received"
    f" different ones: {'; '.join(differing)}. Use the old flags to continue"
    " it, another --train_dir to keep it, or --start_new_model to delete it."
  )


def _shown(name: str, model_flags: dict) -> str:
  """The value of a flag in a message; not a thousand numbers."""
  if name == "dewhiten_scales" and name in model_flags:
    return whitening.describe(model_flags[name])
  return repr(model_flags.get(name, "not set"))


def with_dtypes(model_flags: dict, kinds: list[str]) -> dict:
  """Adds how the training data's numbers are stored, which only export needs.

  Everything else finds this in the records that it reads.

  Args:
    model_flags: see read_model_flags.
    kinds: of each feature, see readers.py.
  """
  dtypes = ",".join(_DTYPES[kind] for kind in kinds)
  return {**model_flags, "feature_dtypes": dtypes}


def kinds_of_training_data(model_flags: dict) -> list[str] | None:
  """The inverse of with_dtypes; None where an older run has not noted it."""
  if not model_flags.get("feature_dtypes"):
    return None
  kinds = {dtype: kind for kind, dtype in _DTYPES.items()}
  return [kinds[dtype] for dtype in model_flags["feature_dtypes"].split(",")]


def write_model_flags(train_dir: str, model_flags: dict) -> None:
  """Writes model_flags.json."""
  write_json(os.path.join(train_dir, MODEL_FLAGS_FILE), model_flags)
