"""Trained weights by themselves: means over checkpoints, half the bytes.

A train_dir of such weights has one checkpoint without an optimizer. It is
evaluated, predicts and is exported as any other; training does not continue it.
"""

import keras
import numpy as np
import tensorflow as tf

import errors
from engine import half_weights
from engine import train_dir as train_dirs
from engine.checkpoints import (
  Checkpoints,
  checkpoint_path,
  checkpoint_step,
  files_of_checkpoint,
  load_weights,
)
from engine.files import names_in, size_of, written_aside


def load_mean(model: keras.Model, checkpoints: list[str]) -> None:
  """Sets the weights of a model to their means over checkpoints.

  Of a run with --ema_decay, they are means of moving averages. The statistics
  of batch normalization are averaged like weights: means over data that the
  checkpoints saw, not those of the averaged model. What is no float, such as
  the state of random numbers, is that of the last checkpoint.

  Source: Vaswani et al. 2017, Attention Is All You Need, section 6.1; Izmailov
  et al. 2018, Averaging Weights Leads to Wider Optima and Better
  Generalization.

  Args:
    model: result of models.build_model.
    checkpoints: their paths without the file endings.

  Raises:
    errors.UserError: one holds another model, or is damaged.
  """
  sums: list[np.ndarray] = []
  for path in checkpoints:
    load_weights(model, path)
    values = [
      variable.numpy().astype(np.float64) for variable in model.variables
    ]
    sums = [
      total + value
      for total, value in zip(sums or [0.0] * len(values), values, strict=True)
    ]
  for variable, total in zip(model.variables, sums, strict=True):
    if variable.dtype.startswith("float"):
      mean = total / len(checkpoints)
      variable.assign(mean.astype(variable.dtype))


def write_train_dir(
  model: keras.Model,
  train_dir: str,
  checkpoint: str,
  folder: str,
  half: bool = False,
) -> str:
  """Writes a model's weights to a train_dir of their own.

  Args:
    model: with the weights.
    train_dir: of the run that they come from, with the model_flags.json to
      copy.
    checkpoint: its path without file endings, which names the step.
    folder: the new train_dir, which appears when it is complete.
    half: store most weights in float16, see half_weights.py.

  Returns:
    The path of the new checkpoint without its file endings.

  Raises:
    errors.UserError: the folder holds other files, or a weight is too large for
      float16.
  """
  if tf.io.gfile.isdir(folder) and names_in(folder):
    raise errors.UserError(
      f"Expected a new folder for the weights, received {folder}, which has"
      " files. Name another one."
    )
  state: dict = {"model": model}
  if half:
    state = {half_weights.PART: half_weights.to_store(model)}
  with written_aside(folder) as aside:
    train_dirs.copy_facts(train_dir, aside)
    step = checkpoint_step(checkpoint)
    Checkpoints(aside, 1, **state).save(step)
  return checkpoint_path(folder, step)


def file_bytes(checkpoint: str) -> int:
  """The bytes of the files of a checkpoint, with all that they hold."""
  return sum(map(size_of, files_of_checkpoint(checkpoint)))
