"""Tests of video_level_models."""

import startup  # isort: skip # noqa: F401
import keras
import numpy as np
import pytest

import models


def build(model, feature_size, num_classes, **hyperparameters):
  """A model on one feature."""
  return models.build_model(
    {
      "model": model,
      "feature_names": "mean_rgb",
      "feature_sizes": str(feature_size),
      "frame_features": False,
      "num_classes": num_classes,
      "max_frames": 300,
      "label_loss": "CrossEntropyLoss",
      **hyperparameters,
    },
    quantized=False,
  )


def set_weights(model, weights):
  """Sets all weights of a model by their paths."""
  variables = {variable.path: variable for variable in model.variables}
  assert set(variables) == set(weights)
  for path, value in weights.items():
    variables[path].assign(value)


def predict(model, video_matrix):
  """The predictions of some videos, as an array."""
  video_matrix = np.asarray(video_matrix, np.float32)
  batch = {
    "video_matrix": video_matrix,
    "num_frames": np.ones(len(video_matrix), np.int32),
  }
  return model(batch, training=False)["predictions"].numpy()


@pytest.fixture(scope="module")
def golden(shared_dir):
  """Inputs, variables and predictions of the original code's models."""
  return np.load(shared_dir / "golden" / "starter_models.npz")


# --------------------------------------------------------------------------
# LogisticModel


def test_golden_values_of_logistic_model(golden):
  name = "LogisticModel"
  model = build(name, 24, 17)
  dense = f"{name}/var/tower/fully_connected"
  set_weights(
    model,
    {
      "fully_connected/kernel": golden[f"{dense}/weights"],
      "fully_connected/bias": golden[f"{dense}/biases"],
    },
  )
  np.testing.assert_allclose(
    predict(model, golden[f"{name}/input"]),
    golden[f"{name}/predictions"],
    atol=1e-5,
  )


def test_logistic_model_by_hand():
  model = build("LogisticModel", 2, 2)
  set_weights(
    model,
    {
      "fully_connected/kernel": [[1.0, -5.0], [2.0, 0.0]],
      "fully_connected/bias": [0.5, 3.0],
    },
  )
  # x = (3, 4) / 5: sigmoid(0.6 + 1.6 + 0.5) = 1 / (1 + e^-2.7) = 0.937027 and
  # sigmoid(-3 + 3) = 0.5.
  np.testing.assert_allclose(
    predict(model, [[3.0, 4.0]]), [[0.937027, 0.5]], atol=1e-6
  )


def test_size_of_logistic_model():
  # (1024 + 128 + 1) * 3862
  assert build("LogisticModel", 1152, 3862).count_params() == 4_452_886


# --------------------------------------------------------------------------
# MoeModel


def test_golden_values_of_moe_model(golden):
  name = "MoeModel"
  model = build(name, 24, 17, moe_num_mixtures=3)
  tower = f"{name}/var/tower"
  set_weights(
    model,
    {
      "gates/kernel": golden[f"{tower}/gates/weights"],
      "experts/kernel": golden[f"{tower}/experts/weights"],
      "experts/bias": golden[f"{tower}/experts/biases"],
    },
  )
  np.testing.assert_allclose(
    predict(model, golden[f"{name}/input"]),
    golden[f"{name}/predictions"],
    atol=1e-5,
  )


def test_moe_model_by_hand():
  model = build("MoeModel", 2, 2, moe_num_mixtures=2)
  # The input (1, 0) picks the first row. Columns are class major, and the last
  # gate of each class is the dummy's.
  gates = np.log([2.0, 1.0, 1.0, 1.0, 6.0, 1.0])
  experts = np.log([3.0, 1 / 3, 1.0, 4.0])
  set_weights(
    model,
    {
      "gates/kernel": [gates, np.full(6, 9.0)],
      "experts/kernel": [experts, np.full(4, 9.0)],
      "experts/bias": np.zeros(4),
    },
  )
  # Class 0: gates 2/4, 1/4, (1/4); experts 3/4, 1/4:
  #   2/4 * 3/4 + 1/4 * 1/4 = 0.4375.
  # Class 1: gates 1/8, 6/8, (1/8); experts 1/2, 4/5:
  #   1/8 * 1/2 + 6/8 * 4/5 = 0.6625.
  np.testing.assert_allclose(
    predict(model, [[7.0, 0.0]]), [[0.4375, 0.6625]], atol=1e-6
  )


def test_the_bias_of_the_experts_and_a_single_mixture():
  model = build("MoeModel", 1, 2, moe_num_mixtures=1)
  set_weights(
    model,
    {
      # Gates (1/2, 1/2) and (3/4, 1/4).
      "gates/kernel": [[0.0, 0.0, np.log(3.0), 0.0]],
      "experts/kernel": [[0.0, 0.0]],
      # 4/5 and 1/2.
      "experts/bias": [np.log(4.0), 0.0],
    },
  )
  # 1/2 * 4/5, 3/4 * 1/2
  np.testing.assert_allclose(predict(model, [[2.0]]), [[0.4, 0.375]], atol=1e-6)


def test_size_of_moe_model():
  # Gates without bias 1152 * 3862 * 3 = 13,347,072; experts
  # 1152 * 3862 * 2 + 3862 * 2 = 8,905,772. Two mixtures are the default.
  assert build("MoeModel", 1152, 3862).count_params() == 22_252_844


# --------------------------------------------------------------------------
# Regularisation


@pytest.mark.parametrize(
  ("name", "num_weights"),
  # Kernels of 3 features and 2 classes: 3 * 2; 3 * (2 * 3 + 2 * 2).
  [("LogisticModel", 6), ("MoeModel", 30)],
)
@pytest.mark.parametrize(
  ("hyperparameters", "penalty"), [({}, 1e-8), ({"l2_penalty": 0.5}, 0.5)]
)
def test_kernels_are_regularised(name, num_weights, hyperparameters, penalty):
  model = build(name, 3, 2, **hyperparameters)
  for variable in model.trainable_variables:
    variable.assign(keras.ops.full(variable.shape, 10.0))
  # Half the sum of squares; not of the biases.
  expected = penalty * num_weights * 100.0 / 2
  loss = models.regularization_loss(model, {})
  assert float(loss) == pytest.approx(expected, rel=1e-5)
