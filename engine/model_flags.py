"""model_flags.json in a train_dir: what shapes the graph or reads the data.

It is enough to rebuild the model: eval.py, inference.py and export_model.py
need nothing else.
"""

import json
import os

import tensorflow as tf
from absl import logging

import errors
import losses
import models
from engine.files import write_json
from layers import whitening

MODEL_FLAGS_FILE = "model_flags.json"

# By how readers.py calls them.
_DTYPES = {"bytes": "uint8", "float16": "float16", "float": "float32"}


def _read_noted_flags(train_dir: str) -> dict | None:
  """Reads what model_flags.json holds; see read_model_flags."""
  path = os.path.join(train_dir, MODEL_FLAGS_FILE)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "rb") as file:
    content = file.read()
  try:
    model_flags = json.loads(content)
    missing = [name for name in models.GRAPH_FLAGS if name not in model_flags]
  except (ValueError, TypeError) as error:
    raise errors.UserError(
      f"Expected JSON in {path}, received something else ({error}). Name"
      " another model, or start again with train.py --start_new_model."
    ) from error
  if missing:
    raise errors.UserError(
      f"Expected {', '.join(models.GRAPH_FLAGS)} in {path}, received a file"
      f" without {missing[0]}, probably by the original TensorFlow 1 code. Make"
      " a new folder of its checkpoint with python -m"
      " data_tools.import_tf1_checkpoint, name another model, or start again"
      " with train.py --start_new_model."
    )
  return model_flags


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
