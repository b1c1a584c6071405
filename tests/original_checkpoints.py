"""Writes checkpoints as the original TensorFlow 1 code does.

The models have 7 features, 6 classes and random weights. Names and shapes are
written out, not made from the code that reads them.
"""

import json

import numpy as np
import tensorflow as tf

_CELL = "tower/rnn/multi_rnn_cell/cell_{}/basic_lstm_cell/{}"


def _logistic(features):
  return {
    "tower/fully_connected/weights": (features, 6),
    "tower/fully_connected/biases": (6,),
  }


def _mixture(features, mixtures):
  return {
    "tower/gates/weights": (features, 6 * (mixtures + 1)),
    "tower/experts/weights": (features, 6 * mixtures),
    "tower/experts/biases": (6 * mixtures,),
  }


def _batch_norm(layer, features):
  return {
    f"tower/{layer}/{name}": (features,)
    for name in ("beta", "gamma", "moving_mean", "moving_variance")
  }


# Of each model: the shapes of its variables.
SHAPES = {
  "LogisticModel": _logistic(7),
  "MoeModel": _mixture(7, 3),
  "FrameLevelLogisticModel": _logistic(7),
  "DbofModel": {
    **_batch_norm("input_bn", 7),
    "tower/cluster_weights": (7, 5),
    **_batch_norm("cluster_bn", 5),
    "tower/hidden1_weights": (5, 4),
    **_batch_norm("hidden1_bn", 4),
    **_mixture(4, 2),
  },
  "DbofModel without batch normalization": {
    "tower/cluster_weights": (7, 5),
    "tower/cluster_biases": (5,),
    "tower/hidden1_weights": (5, 4),
    "tower/hidden1_biases": (4,),
    **_logistic(4),
  },
  "LstmModel": {
    _CELL.format(0, "kernel"): (7 + 3, 4 * 3),
    _CELL.format(0, "bias"): (4 * 3,),
    _CELL.format(1, "kernel"): (3 + 3, 4 * 3),
    _CELL.format(1, "bias"): (4 * 3,),
    **_mixture(3, 1),
  },
}


def original_flags(name) -> dict:
  """The model_flags.json of a model of SHAPES."""
  model = name.partition(" ")[0]
  is_frame_level = model not in ("LogisticModel", "MoeModel")
  return {
    "model": model,
    "feature_sizes": "4, 3",
    "feature_names": "rgb, audio" if is_frame_level else "mean_rgb, mean_audio",
    "frame_features": is_frame_level,
    "label_loss": "CrossEntropyLoss",
  }


def random_variables(name) -> dict:
  """{variable: float32 array} of a model of SHAPES; the same each time."""
  random = np.random.default_rng(6)
  found = {}
  for variable, shape in SHAPES[name].items():
    values = random.normal(scale=0.5, size=shape)
    if variable.endswith("moving_variance"):
      values = np.abs(values) + 0.5
    found[variable] = values.astype(np.float32)
  return found


def with_adam(variables, step) -> dict:
  """Adds what Adam keeps: twice each weight, and its square."""
  found = dict(variables)
  for name, values in variables.items():
    if "moving_" not in name:
      found[f"{name}/Adam"] = 2.0 * values
      found[f"{name}/Adam_1"] = values * values
  return {
    **found,
    "beta1_power": np.float32(0.9 ** (step + 1)),
    "beta2_power": np.float32(0.999 ** (step + 1)),
    "global_step": np.int64(step),
  }


def write_original(folder, model_flags, variables, step=None) -> str:
  """Writes a checkpoint, and model_flags.json beside it.

  Args:
    folder: made if it is missing.
    model_flags: see original_flags; None for no such file.
    variables: {name: array}.
    step: in the name of the checkpoint.

  Returns:
    Its path without the file endings.
  """
  folder.mkdir(exist_ok=True)
  if model_flags is not None:
    (folder / "model_flags.json").write_text(json.dumps(model_flags))
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    kept = [
      tf.compat.v1.Variable(values, name=name, use_resource=False)
      for name, values in variables.items()
    ]
    session.run([variable.initializer for variable in kept])
    saver = tf.compat.v1.train.Saver(kept)
    return saver.save(session, str(folder / "model.ckpt"), global_step=step)
