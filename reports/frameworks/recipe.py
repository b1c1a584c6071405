"""What the loops of all frameworks share: the model, its loss, Adam's numbers.

Each framework has its loop in a file: tensorflow_loop.py, torch_loop.py and
jax_loop.py. Its class Loop takes a Job and the number of the process, and has
the attributes and methods of the protocol `Loop`.
"""

import random
from typing import Protocol

import keras
import numpy as np

import losses
import models
from engine.local_files import put_in_place
from reports.frameworks.batches import Batch
from reports.frameworks.jobs import Job, name_aside

# Adam's. Source: Kingma & Ba 2015, Adam, algorithm 1: each weight w becomes
#   w - rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
# with the moving averages m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g^2 of
# the gradient g, t counting steps from 1. (Keras adds epsilon to sqrt(v)
# instead.)
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

# Numbers of the gradient of a weight that are compared.
_MOST_NUMBERS = 100_000


class Loop(Protocol):
  """Trains a model; see Job.

  Attributes:
    model: result of models.build_model.
    how: how the step is computed, such as "XLA", "torch.compile" or "eager".
    device: what it is computed on: the name of a GPU, or "CPU".
  """

  model: keras.Model
  how: str
  device: str

  def gradients(self, batch: Batch) -> tuple[np.ndarray, list[np.ndarray]]:
    """The predictions and the gradients of a batch, as in training.

    The weights stay; what layers count as they train, such as seeds, moves on.

    Args:
      batch: this process's part.

    Returns:
      (videos, classes) float32, of this part; the gradient of the loss of the
      whole batch for each trainable weight.
    """
    ...

  def step(self, batch: Batch) -> float:
    """Trains on a batch; returns when this is done.

    Args:
      batch: this process's part.

    Returns:
      The loss of the whole batch, before the update.
    """
    ...

  def peak_gpu_bytes(self) -> int | None:
    """The most memory of the GPU that was in use; None without a GPU."""
    ...


def build_model(job: Job) -> keras.Model:
  """The model of a job, with its starting weights."""
  random.seed(job.seed)  # Keras draws its seeds from here
  is_bytes = set(job.kinds) == {"bytes"}
  model = models.build_model(job.model_flags, quantized=is_bytes)
  read_weights(model, job.weights)
  return model


def write_weights(model: keras.Model, path: str) -> None:
  """Writes the weights of a model, in their order, whole or not at all.

  Args:
    model: of any backend.
    path: ends in .npz.
  """
  aside = name_aside(path)
  with open(aside, "wb") as file:
    np.savez(file, *model.get_weights())
  put_in_place(aside, path)


def read_weights(model: keras.Model, path: str) -> None:
  """Sets the weights of a model to those that write_weights has written."""
  with np.load(path, allow_pickle=False) as stored:
    model.set_weights([stored[f"arr_{index}"] for index in range(len(stored))])


def training_loss(outputs: dict, layer_losses: list, loss, labels):
  """The loss of a batch, as train.py computes it.

  Args:
    outputs: of a call of the model.
    layer_losses: those of kernel regularizers, model.losses.
    loss: a losses.BaseLoss.
    labels: (batch, classes) bool.

  Returns:
    A float32 scalar.
  """
  total = sum(
    loss.calculate_loss(predictions, labels)
    for predictions in (
      outputs["predictions"],
      *outputs.get("auxiliary_predictions", []),
    )
  )
  more = [*layer_losses, *outputs.get("auxiliary_losses", {}).values()]
  if "regularization_loss" in outputs:
    more.append(outputs["regularization_loss"])
  return sum(more, total)


def make_loss(job: Job) -> losses.BaseLoss:
  """The loss of the labels."""
  return losses.make_loss(job.model_flags)


def corrections(step: int) -> tuple[float, float]:
  """1 - b1^t and 1 - b2^t of Adam, in double precision.

  In float32 the second one would be wrong by 1e-5 of it, and each framework
  would round in its own way.

  Args:
    step: t, from 1.
  """
  return 1.0 - BETA_1**step, 1.0 - BETA_2**step


def some_numbers(values: np.ndarray) -> np.ndarray:
  """At most 100,000 numbers of an array, evenly spaced, in their order."""
  flat = np.asarray(values, np.float32).reshape(-1)
  return flat[:: max(1, -(-len(flat) // _MOST_NUMBERS))]
