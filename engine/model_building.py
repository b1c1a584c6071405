"""Builds the model that a user named, and explains what is wrong with it."""

import contextlib
import inspect
import os
import re
import traceback

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import errors
import models
import readers
from layers import classifiers

_ROOT = os.path.dirname(os.path.abspath(models.__file__))

# Rounding may take a sum of probabilities above 1.
_ROUNDING = 1e-3

# What computing raises where memory is short.
_TOO_LARGE = (MemoryError, tf.errors.ResourceExhaustedError)

# Parts of error messages about TensorFlow 1 code on symbolic tensors.
_NOT_SYMBOLIC = re.compile(
  r"KerasTensor|symbolic|module 'tensorflow\S*' has no attribute"
)

# Arguments that only models on frames get.
_OF_FRAMES = re.compile(r"'mean_(dequantized_)?frame'")

# Parts of error messages about shapes.
_OF_SHAPES = re.compile(r"shape|dim\b|dimension|axis|axes|rank|unpack", re.I)

# Keras's escape sequences for bold text.
_BOLD = re.compile(r"\x1b\[\d*m")

# Lines around TensorFlow's message about an operation that failed.
_AROUND_GRAPH_ERROR = re.compile(
  r"\s*(Graph execution error:|Detected at node|<stack traces|Stack trace for"
  r"|File \"|tf2xla conversion failed|\[\[).*"
)


# --------------------------------------------------------------------------
# Where in the model


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
  """The lines in model files that led to an error, the innermost last."""
  own_files = {module.__file__ for module in models.import_model_files()}
  return [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename in own_files
  ]


def _place(path: str, line: int | None) -> str:
  """A line of a file, with its path from the root of the project."""
  relative = os.path.relpath(path, _ROOT)
  return f"{path if relative.startswith('..') else relative}:{line}"


def _place_of(error: BaseException, model_name: str) -> str:
  """The line of the model that led to an error, else create_model's line."""
  frames = _own_frames(error)
  if frames:
    return _place(frames[-1].filename, frames[-1].lineno)
  code = _create_model(model_name).__code__
  return _place(code.co_filename, code.co_firstlineno)


def _create_model(model_name: str):
  return models.find_class_by_name(model_name).create_model


def _is_on_purpose(error: BaseException) -> bool:
  """Whether a model, or one of layers/, refuses hyper-parameters itself."""
  last = traceback.extract_tb(error.__traceback__)[-1]
  return (
    isinstance(error, ValueError)
    and str(error).startswith("Expected ")
    and (
      _own_frames(error)[-1:] == [last]
      or os.path.dirname(last.filename) == os.path.join(_ROOT, "layers")
    )
    and (last.line or "").startswith("raise")
  )


# --------------------------------------------------------------------------
# What is wrong, and what helps


def _reason(error: BaseException) -> str:
  """The whole message of an error, as one line that ends like a sentence."""
  text = str(getattr(error, "message", error))
  if isinstance(error, tf.errors.OpError):
    lines = text.splitlines()
    kept = [line for line in lines if not _AROUND_GRAPH_ERROR.fullmatch(line)]
    text = "\n".join(kept)
  text = " ".join(_BOLD.sub("", text).split())
  kind = type(error).__name__
  if not text:
    return f"{kind}."
  if not isinstance(error, ValueError | tf.errors.OpError):
    text = f"{kind}: {text}"
  return text if text.endswith((".", "!", "?", "```")) else f"{text}."


def _advice(model_flags: dict, error: BaseException) -> str:
  """Advice that is likely to help, from the text of an error."""
  text = str(error)
  if _NOT_SYMBOLIC.search(text):
    return (
      "create_model gets symbolic tensors: use keras.layers and keras.ops in"
      " place of TensorFlow's and NumPy's functions."
    )
  if "create_model() got an unexpected keyword argument" in text:
    return (
      "create_model receives more keywords than a model needs: end its"
      " arguments with **unused_params."
    )
  missing = re.search(r"create_model\(\) missing .* required", text)
  at_frame_level = model_flags["frame_features"]
  if missing and not at_frame_level and _OF_FRAMES.search(text):
    return "Models on frames need --frame_features=True."
  if missing:
    return (
      "create_model receives model_input, vocab_size, num_frames,"
      " feature_names, feature_sizes and, at frame level, mean_frame and"
      " mean_dequantized_frame; every other argument needs a default (labels"
      " and is_training of the TensorFlow 1 code are gone)."
    )
  if not at_frame_level and (
    not _is_on_videos(model_flags) or _OF_SHAPES.search(text)
  ):
    return (
      "At video level model_input has the shape (batch, features); models on"
      " frames need --frame_features=True."
    )
  if at_frame_level and _OF_SHAPES.search(text):
    return (
      "At frame level model_input has the shape (batch, frames, features),"
      " padded to the longest video of the batch, and num_frames the shape"
      " (batch,)."
    )
  return "BaseModel.create_model in models.py describes what a model gets."


def _is_on_videos(model_flags: dict) -> bool:
  """Whether the model is in the file of models on whole videos."""
  model_class = models.find_class_by_name(model_flags["model"])
  return model_class.__module__ == "video_level_models"


def _check_level(model_flags: dict) -> None:
  """Refuses frames for a model on whole videos; some could even be built.

  Raises:
    errors.UserError: says which models take frames.
  """
  if model_flags["frame_features"] and _is_on_videos(model_flags):
    raise errors.UserError(
      "Expected a model on frames for frame-level data, received"
      f" --model={model_flags['model']}, which takes whole videos. Name one"
      " such as FrameLevelLogisticModel or TransformerModel. For whole videos,"
      " use --frame_features=False and data with one vector for each video."
    )


def _takes_frames(model_flags: dict, *options) -> bool:
  """Whether a model that whole videos do not fit can be built on frames."""
  try:
    models.build_model({**model_flags, "frame_features": True}, *options)
  except Exception:  # a model may raise anything
    return False
  return True


def _check_is_training(model_name: str) -> None:
  """Warns of an argument of TensorFlow 1 models that nothing sets."""
  if "is_training" in inspect.signature(_create_model(model_name)).parameters:
    logging.log_first_n(
      logging.WARNING,
      "%s.create_model has an argument is_training, which always keeps its"
      " default. Leave it out: Keras tells layers whether they train.",
      1,
      model_name,
    )


# --------------------------------------------------------------------------
# Building and running


def build_model(
  model_flags: dict, quantized: bool | None, dtype_policy: str | None = None
) -> keras.Model:
  """Calls models.build_model, with one clear message for every error.

  Args:
    model_flags: see models.build_model.
    quantized: see models.build_model.
    dtype_policy: see models.build_model.

  Raises:
    errors.UserError: the model refuses its hyper-parameters or its input, or
      there is a bug in it; names file and line of the model.
  """
  name = model_flags["model"]
  if name in models.class_names():
    _check_level(model_flags)
  try:
    model = models.build_model(model_flags, quantized, dtype_policy)
  except models.ContractError as error:
    place = _place_of(error, name)
    raise errors.UserError(f"{error} create_model is at {place}.") from error
  except _TOO_LARGE:  # no bug
    raise
  except Exception as error:  # a model may raise anything
    if name not in models.class_names() or _is_on_purpose(error):
      raise errors.UserError(str(error)) from error
    level = "frame" if model_flags["frame_features"] else "video"
    if level == "video" and _takes_frames(model_flags, quantized, dtype_policy):
      raise errors.UserError(
        "Expected a model on whole videos for video-level data, received"
        f" --model={name}, which takes frames. Name another, such as"
        " LogisticModel or MoeModel. Models on frames need"
        " --frame_features=True and data with frames."
      ) from error
    raise errors.UserError(
      f"Expected a model that can be built on {level}-level features, received"
      f" from {name} at {_place_of(error, name)}: {_reason(error)}"
      f" {_advice(model_flags, error)}"
    ) from error
  _check_is_training(name)
  return model


@contextlib.contextmanager
def naming_bug(model_flags: dict):
  """Explains errors of a model that could be built but cannot compute.

  Args:
    model_flags: see models.build_model.

  Raises:
    errors.UserError: the block raised because of the model; names its file and
      line, if they can be found. All other errors are unchanged.
  """
  name = model_flags["model"]
  try:
    yield
  except (errors.UserError, *_TOO_LARGE):
    raise
  except Exception as error:  # a model may raise anything
    place = ""
    if _own_frames(error):
      place = f" at {_place_of(error, name)}"
    elif not _is_of_operation(error, name):
      raise
    elif (cause := _error_of_a_trial(model_flags)) and _own_frames(cause):
      place = f" at {_place_of(cause, name)}"
    raise errors.UserError(
      f"Expected a model that can compute a batch, received from"
      f" {name}{place}: {_reason(error)} {_advice(model_flags, error)}"
    ) from error


def _is_of_operation(error: Exception, model_name: str) -> bool:
  """Whether an operation of the model failed in a compiled function."""
  operation = rf"\b{re.escape(model_name)}(_\d+)?/"
  return isinstance(error, tf.errors.InvalidArgumentError) and bool(
    re.search(operation, str(error))
  )


def _error_of_a_trial(model_flags: dict) -> Exception | None:
  """The error of create_model on two videos of zeros instead of symbols.

  The operations of a compiled function do not know the lines they come from.
  """
  names, sizes = readers.get_feature_names_and_sizes(
    model_flags["feature_names"], model_flags["feature_sizes"]
  )
  frames = (11,) if model_flags["frame_features"] else ()
  given = models.hyperparameters(model_flags)
  if model_flags["frame_features"]:
    for name in ("mean_frame", "mean_dequantized_frame"):
      given[name] = tf.zeros((2, sum(sizes)))
  model = models.find_class_by_name(model_flags["model"])()
  try:
    with classifiers.exclusive_classes(models.are_exclusive(model_flags)):
      model.create_model(
        model_input=tf.zeros((2, *frames, sum(sizes))),
        vocab_size=models.num_outputs(model_flags),
        num_frames=tf.constant(np.array([11, 7], np.int32)),
        feature_names=names,
        feature_sizes=sizes,
        input_transform=model_flags.get("input_transform", "l2"),
        **given,
      )
  except Exception as error:  # a model may raise anything
    return error
  return None


def named(model_name: str) -> str:
  """The name of a model, with the line of its create_model if it is known."""
  if model_name not in models.class_names():
    return model_name
  code = _create_model(model_name).__code__
  return f"{model_name} at {_place(code.co_filename, code.co_firstlineno)}"


def check_probabilities(
  predictions, model_name: str, exclusive_classes: bool = False
) -> None:
  """Checks that a model's predictions are probabilities.

  Args:
    predictions: (videos, classes) float array. NaN passes: training diverged.
    model_name: for the message.
    exclusive_classes: whether those of a video have a sum of 1.

  Raises:
    errors.UserError: some are below 0 or above 1, or their sums are not 1.
  """
  smallest, largest = np.min(predictions), np.max(predictions)
  if smallest < -_ROUNDING or largest > 1.0 + _ROUNDING:
    raise errors.UserError(
      f"Expected probabilities from 0 to 1 as the predictions of"
      f" {named(model_name)}, received values from {smallest:.3g} to"
      f" {largest:.3g}. If they are logits, return"
      ' {"predictions": keras.ops.sigmoid(logits)} in float32.'
    )
  if not exclusive_classes:
    return
  sums = np.sum(predictions, axis=1)
  if (abs(sums - 1.0) > _ROUNDING).any():
    raise errors.UserError(
      "Expected probabilities with a sum of 1 for each video, with"
      f" --exclusive_classes, as the predictions of {named(model_name)},"
      f" received sums from {sums.min():.3g} to {sums.max():.3g}. Return those"
      " of layers.classifiers.probabilities(logits) as they are, or divide by"
      " their sum."
    )
