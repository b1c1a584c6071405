"""Weights in half the bytes: most in float16, computed with in float32.

A checkpoint holds them as a list, in the order of the model's variables.
Vectors, such as biases and the statistics of batch normalization, stay float32:
they take few bytes, and their numbers may be of any size.
"""

import keras
import numpy as np
import tensorflow as tf

import errors

PART = "half_weights"
"""The part of a checkpoint that has these weights in the place of a model."""

_FEWEST_DIMENSIONS = 2


def to_store(model: keras.Model) -> list[tf.Variable]:
  """The values of a model's variables, as a checkpoint holds them.

  Raises:
    errors.UserError: see to_half.
  """
  return [
    tf.Variable(
      to_half(variable.numpy(), variable.path)
      if becomes_half(variable)
      else variable.numpy()
    )
    for variable in model.variables
  ]


def becomes_half(variable: keras.Variable) -> bool:
  """Whether float16 is enough for a weight."""
  return (
    variable.dtype == "float32" and len(variable.shape) >= _FEWEST_DIMENSIONS
  )


def to_half(values: np.ndarray, name: str) -> np.ndarray:
  """Weights in float16.

  Args:
    values: (...) float32.
    name: of the weights, for the message.

  Returns:
    (...) float16.

  Raises:
    errors.UserError: one is too large, or not a number.
  """
  most = float(np.finfo(np.float16).max)
  largest = float(np.abs(values).max(initial=0.0))
  if not largest <= most:  # NaN too
    raise errors.UserError(
      f"Expected weights up to {most:g} for --float16, received {largest:g} in"
      f" {name}. Leave --float16 out."
    )
  return values.astype(np.float16)


def weight_bytes(model: keras.Model, checkpoint_path: str) -> int:
  """The bytes of a model's weights in a checkpoint, without the optimizer's.

  Args:
    model: result of models.build_model.
    checkpoint_path: of a checkpoint of it, without file endings.
  """
  names = tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
  are_half = any(name.startswith(f"{PART}/") for name in names)
  return sum(
    int(np.prod(variable.shape))
    * (2 if are_half and becomes_half(variable) else 4)
    for variable in model.variables
    if variable.dtype == "float32"
  )


def load(model: keras.Model, checkpoint_path: str) -> None:
  """Sets the weights of a model, in its own dtypes.

  Args:
    model: result of models.build_model.
    checkpoint_path: of a checkpoint with this part, without file endings.

  Raises:
    ValueError: they are of another model.
  """
  reader = tf.train.load_checkpoint(checkpoint_path)
  shapes = reader.get_variable_to_shape_map()
  names = [
    f"{PART}/{place}/.ATTRIBUTES/VARIABLE_VALUE"
    for place in range(len(model.variables))
  ]
  held = [tuple(shapes[name]) for name in names if name in shapes]
  wanted = [tuple(variable.shape) for variable in model.variables]
  num_held = sum(name.split("/")[0] == PART for name in shapes)
  if held != wanted or num_held != len(wanted):
    raise ValueError(f"shapes {held} instead of {wanted}")
  for name, variable in zip(names, model.variables, strict=True):
    variable.assign(np.asarray(reader.get_tensor(name), variable.dtype))
