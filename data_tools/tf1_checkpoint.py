"""Reads checkpoints of the original TensorFlow 1 code.

Its own models have the same weights as here, under other names; an LSTM has its
gates in another order. Source of the names: the original code and the variables
in its checkpoints.
"""

import contextlib
import functools
import math
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

import errors

MODELS = (
  "LogisticModel",
  "MoeModel",
  "FrameLevelLogisticModel",
  "DbofModel",
  "LstmModel",
)
"""The models of the original code."""

ADAM_SLOTS = {"Adam": "momentum", "Adam_1": "velocity"}
"""What Adam keeps of a weight, the means of its gradient and of the gradient's
square: as the original names it, and as Keras does."""

# All weights are in this scope.
_SCOPE = "tower/"
_CELL = _SCOPE + "rnn/multi_rnn_cell/cell_{}/basic_lstm_cell"

_ADAM_POWERS = ("beta1_power", "beta2_power")
_BETA_2 = 0.999
# A float32 product of thousands of factors is less exact.
_POWER_TOLERANCE = 0.01


@contextlib.contextmanager
def _one_line_for_damage(path: str):
  """Turns what TensorFlow raises for a damaged checkpoint into one line."""
  try:
    yield
  except (ValueError, IndexError, tf.errors.OpError) as error:
    reason = str(getattr(error, "message", error)).strip().split("\n")[0]
    raise errors.UserError(
      f"Expected a checkpoint that can be read, received {path}, which is"
      f" damaged or not whole ({reason}). Copy it again, with all of its files,"
      " or name another one."
    ) from error


def _advice(path: str) -> str:
  """What to type instead of a folder, one file of a checkpoint, or nothing."""
  if tf.io.gfile.isdir(path):
    found = tf.train.latest_checkpoint(path) or ""
  else:
    found = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
  if found and tf.io.gfile.exists(f"{found}.index"):
    return f"Use --checkpoint={found}."
  return "Give its path without the file endings, such as old/model.ckpt-123."


class Original:
  """A checkpoint of the original code.

  Args:
    path: without its file endings.

  Attributes:
    path: see above.
    shapes: {name of a variable: list of int}.

  Raises:
    errors.UserError: there is none, it cannot be read, or it is not of
      TensorFlow 1.
  """

  def __init__(self, path: str):
    if not tf.io.gfile.exists(f"{path}.index"):
      raise errors.UserError(
        f"Expected a checkpoint as --checkpoint={path}, found no {path}.index."
        f" {_advice(path)}"
      )
    self.path = path
    with _one_line_for_damage(path):
      self._reader = tf.train.load_checkpoint(path)
      self.shapes = self._reader.get_variable_to_shape_map()
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in self.shapes:
      raise errors.UserError(
        "Expected a checkpoint of the original TensorFlow 1 code as"
        f" --checkpoint={path}, received one of TensorFlow 2. If train.py of"
        " this project wrote it, its folder is a --train_dir already."
      )

  def shape(self, name: str, rank: int) -> list[int]:
    """The shape of a variable.

    Args:
      name: of the variable.
      rank: how many dimensions it must have.

    Raises:
      errors.UserError: it is missing, or has another number of dimensions.
    """
    if name not in self.shapes:
      raise errors.UserError(
        f"Expected the variable {name} in {self.path}, received a checkpoint"
        " without it. Name a checkpoint of the original's own model, with the"
        " model_flags.json that it was trained with."
      )
    if len(self.shapes[name]) != rank:
      self._refuse_shape(name, f"{rank} dimensions")
    return self.shapes[name]

  def values(self, name: str, shape: Sequence[int]) -> np.ndarray:
    """Reads a variable.

    Args:
      name: of the variable.
      shape: that it must have.

    Returns:
      Its values, an array of this shape.

    Raises:
      errors.UserError: it is missing, has another shape, cannot be read, or has
        NaN or infinity.
    """
    if list(self.shape(name, len(shape))) != list(shape):
      self._refuse_shape(name, f"the shape {list(shape)}")
    with _one_line_for_damage(self.path):
      values = np.asarray(self._reader.get_tensor(name))
    if not np.isfinite(values).all():
      raise errors.UserError(
        f"Expected finite numbers in {name} of {self.path}, received NaN or"
        " infinity: training diverged. Name an earlier checkpoint."
      )
    return values

  def _refuse_shape(self, name: str, expected: str) -> None:
    raise errors.UserError(
      f"Expected {expected} for {name} in {self.path}, received the shape"
      f" {list(self.shapes[name])}. Name a checkpoint of the original's own"
      " model, with the model_flags.json that it was trained with."
    )

  @functools.cached_property
  def step(self) -> int:
    """The step after which it was saved; 0 if neither it nor its name says."""
    if "global_step" in self.shapes:
      return int(self.values("global_step", ()))
    number = re.search(r"-(\d+)$", self.path)
    return int(number[1]) if number else 0

  @property
  def adam_steps(self) -> int:
    """The updates that Adam has made: n, where beta2_power is beta2^(n + 1).

    They are as many as the steps, unless these were counted from elsewhere.
    """
    name = _ADAM_POWERS[1]
    if name in self.shapes:
      power = float(self.values(name, ()))
      expected = _BETA_2 ** (self.step + 1)
      # After 100,000 steps it is 0.
      if 0.0 < power < 1.0 and not math.isclose(
        power, expected, rel_tol=_POWER_TOLERANCE
      ):
        return max(round(math.log(power, _BETA_2)) - 1, 0)
    return self.step


# --------------------------------------------------------------------------
# What model it is


def _classifier_of(original: Original, model: str) -> str:
  """The video-level model that a model is, or ends with."""
  is_mixture = f"{_SCOPE}gates/weights" in original.shapes
  if model == "MoeModel" or (
    is_mixture and model in ("DbofModel", "LstmModel")
  ):
    return "MoeModel"
  return "LogisticModel"


def _of_mixture(original: Original) -> dict:
  """num_classes and the hyper-parameters of a MoeModel."""
  gates = original.shape(f"{_SCOPE}gates/weights", 2)[1]
  experts = original.shape(f"{_SCOPE}experts/weights", 2)[1]
  # Each class has a gate for each of its experts, and one for the dummy.
  num_classes = gates - experts
  if num_classes < 1 or not experts or experts % num_classes:
    raise errors.UserError(
      "Expected one gate more than experts for each class in"
      f" {original.path}, received {gates} columns of {_SCOPE}gates/weights and"
      f" {experts} of {_SCOPE}experts/weights. Name a checkpoint of the"
      " original's own model."
    )
  return {
    "num_classes": num_classes,
    "moe_num_mixtures": experts // num_classes,
    "moe_output_gating": False,
  }


def hyperparameters_of(original: Original, model: str) -> dict:
  """What the weights of a model say about it.

  Args:
    original: the checkpoint.
    model: one of MODELS.

  Returns:
    num_classes, and the hyper-parameters that decide which weights there are.

  Raises:
    errors.UserError: the weights are not those of this model.
  """
  classifier = _classifier_of(original, model)
  if classifier == "MoeModel":
    found: dict = _of_mixture(original)
  else:
    weights = original.shape(f"{_SCOPE}fully_connected/weights", 2)
    found = {"num_classes": weights[1]}
  if model in ("DbofModel", "LstmModel"):
    found["video_level_classifier_model"] = classifier
  if model == "DbofModel":
    clusters = original.shape(f"{_SCOPE}cluster_weights", 2)
    hidden = original.shape(f"{_SCOPE}hidden1_weights", 2)
    biases = f"{_SCOPE}cluster_biases"
    found["dbof_add_batch_norm"] = biases not in original.shapes
    found["dbof_cluster_size"] = clusters[1]
    found["dbof_hidden_size"] = hidden[1]
  if model == "LstmModel":
    kernel = _CELL + "/kernel"
    found["lstm_cells"] = original.shape(kernel.format(0), 2)[1] // 4
    found["lstm_layers"] = 1
    while kernel.format(found["lstm_layers"]) in original.shapes:
      found["lstm_layers"] += 1
  return found


# --------------------------------------------------------------------------
# Its weights


def _of_dbof(add_batch_norm: bool) -> dict[str, str]:
  """The variables of a DbofModel before its classifier, see sources."""
  found = {
    "cluster_weights": "cluster/kernel",
    "hidden1_weights": "hidden1/kernel",
  }
  if not add_batch_norm:
    found["cluster_biases"] = "cluster/bias"
    found["hidden1_biases"] = "hidden1/bias"
    return found
  for layer in ("input_bn", "cluster_bn", "hidden1_bn"):
    # The scaling of the first one is a part of the layer after it.
    scaling = "cluster" if layer == "input_bn" else layer
    found[f"{layer}/gamma"] = f"{scaling}/gamma"
    found[f"{layer}/beta"] = f"{scaling}/beta"
    found[f"{layer}/moving_mean"] = f"{layer}/moving_mean"
    found[f"{layer}/moving_variance"] = f"{layer}/moving_variance"
  return found


def sources(model_flags: dict) -> dict[str, list[str]]:
  """The weights that each variable of the original becomes.

  Args:
    model_flags: the model, one of MODELS, and its hyper-parameters.

  Returns:
    {variable: paths of weights}. A variable that becomes several has the rows
    of the first one, then those of the next.
  """
  model = model_flags["model"]
  if model_flags.get("video_level_classifier_model", model) == "MoeModel":
    found = {
      "gates/weights": "gates/kernel",
      "experts/weights": "experts/kernel",
      "experts/biases": "experts/bias",
    }
  else:
    found = {
      "fully_connected/weights": "fully_connected/kernel",
      "fully_connected/biases": "fully_connected/bias",
    }
  if model == "DbofModel":
    found |= _of_dbof(model_flags["dbof_add_batch_norm"])
  variables = {_SCOPE + name: [path] for name, path in found.items()}
  if model == "LstmModel":
    for layer in range(model_flags["lstm_layers"]):
      cell = f"lstm_{layer}/lstm_cell"
      kernels = [f"{cell}/kernel", f"{cell}/recurrent_kernel"]
      variables[_CELL.format(layer) + "/kernel"] = kernels
      variables[_CELL.format(layer) + "/bias"] = [f"{cell}/bias"]
  return variables


def read_parts(
  original: Original,
  name: str,
  shapes: Sequence[Sequence[int]],
  slot: str = "",
) -> list[np.ndarray]:
  """Reads the weights that a variable becomes.

  Args:
    original: the checkpoint.
    name: of the variable, a key of sources.
    shapes: of the weights.
    slot: a key of ADAM_SLOTS, to read what Adam keeps of them instead.

  Returns:
    An array for each weight.

  Raises:
    errors.UserError: see Original.values.
  """
  rows = [shape[0] for shape in shapes]
  values = original.values(
    f"{name}/{slot}" if slot else name, [sum(rows), *shapes[0][1:]]
  )
  if name.startswith(f"{_SCOPE}rnn/"):
    # BasicLSTMCell has the gates in the order input, candidate, forget, output,
    # and adds 1 to the sum of the forget gate.
    gate, candidate, forget, output = np.split(values, 4, axis=-1)
    if name.endswith("/bias") and not slot:
      forget = forget + 1.0
    values = np.concatenate([gate, forget, candidate, output], axis=-1)
  return np.split(values, np.cumsum(rows)[:-1])


def other_variables(original: Original, variables: Sequence[str]) -> list[str]:
  """The variables that are neither weights nor the state of Adam.

  Args:
    original: the checkpoint.
    variables: names of the weights, the keys of sources.

  Returns:
    Their names, sorted: of other optimizers, for instance.

  Raises:
    errors.UserError: one is a weight that the original's model does not have.
  """
  slots = {f"{name}/{slot}" for name in variables for slot in ADAM_SLOTS}
  known = {*variables, *slots, *_ADAM_POWERS, "global_step"}
  others = sorted(original.shapes.keys() - known)
  for name in others:
    is_kept_of_weight = any(name.startswith(f"{of}/") for of in variables)
    if name.startswith(_SCOPE) and not is_kept_of_weight:
      raise errors.UserError(
        "Expected the variables of the original's own model in"
        f" {original.path}, received {name} too. Without it, the predictions"
        " would be others. Name another checkpoint; a changed model has to be"
        " trained again, see docs/porting_a_fork.md."
      )
  return others
