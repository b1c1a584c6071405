"""Tests of the original's frame-level models, also against its values."""

import itertools
import re

import numpy as np
import pytest
from absl.testing import flagsaver
from small_models import (
  build,
  count_trainable,
  lstm_states,
  predict,
  random_frames,
  random_weights,
  sigmoid,
)

import models


def set_weights(model, weights):
  """Sets all weights of a model, not its seeds and counters, by their paths."""
  variables = {
    variable.path: variable
    for variable in model.variables
    if not re.search("seed_generator|num_updates", variable.path)
  }
  assert set(variables) == set(weights)
  for path, value in weights.items():
    variables[path].assign(value)


@pytest.fixture(scope="module")
def golden(shared_dir):
  """Inputs, variables and predictions of the original code's models."""
  return np.load(shared_dir / "golden" / "starter_models.npz")


def assert_golden_predictions(golden, name, model):
  predictions = predict(
    model, golden[f"{name}/input"], golden[f"{name}/num_frames"]
  )
  np.testing.assert_allclose(
    predictions, golden[f"{name}/predictions"], atol=1e-5
  )


def golden_moe(golden, name):
  """The weights of a MoeModel at the end of a golden model."""
  tower = f"{name}/var/tower"
  return {
    "gates/kernel": golden[f"{tower}/gates/weights"],
    "experts/kernel": golden[f"{tower}/experts/weights"],
    "experts/bias": golden[f"{tower}/experts/biases"],
  }


# --------------------------------------------------------------------------
# FrameLevelLogisticModel


def test_golden_values_of_frame_level_logistic_model(golden):
  name = "FrameLevelLogisticModel"
  model = build(name, "24", 17)
  dense = f"{name}/var/tower/fully_connected"
  set_weights(
    model,
    {
      "fully_connected/kernel": golden[f"{dense}/weights"],
      "fully_connected/bias": golden[f"{dense}/biases"],
    },
  )
  assert_golden_predictions(golden, name, model)


def test_frame_level_logistic_model_by_hand():
  model = build("FrameLevelLogisticModel", "2", 1)
  set_weights(
    model,
    {
      "fully_connected/kernel": [[1.0], [2.0]],
      "fully_connected/bias": [-0.5],
    },
  )
  # The mean of (1, 0) and (0.6, 0.8) is (0.8, 0.4): sigmoid(0.8 + 0.8 - 0.5)
  # = 1 / (1 + e^-1.1) = 0.750260. The third frame is padding.
  frames = [[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]]
  np.testing.assert_allclose(
    predict(model, frames, [2]), [[0.750260]], atol=1e-6
  )
  # 1e-8 / 2 * (1 + 4)
  loss = models.regularization_loss(model, {})
  assert float(loss) == pytest.approx(2.5e-8, rel=1e-5)


# --------------------------------------------------------------------------
# DbofModel


def golden_batch_normalization(golden, layer):
  """The weights of one batch normalization of the golden DbofModel."""
  weights = {
    name: golden[f"DbofModel/var/tower/{layer}/{name}"]
    for name in ("beta", "gamma", "moving_mean", "moving_variance")
  }
  # The first one's scaling is part of the layer after it.
  scaling = "cluster" if layer == "input_bn" else layer
  places = {"beta": scaling, "gamma": scaling}
  return {
    f"{places.get(name, layer)}/{name}": value
    for name, value in weights.items()
  }


def test_golden_values_of_dbof_model(golden):
  name = "DbofModel"
  model = build(
    name,
    "24",
    17,
    iterations=6,
    dbof_cluster_size=20,
    dbof_hidden_size=14,
    moe_num_mixtures=3,
  )
  tower = f"{name}/var/tower"
  set_weights(
    model,
    {
      **golden_batch_normalization(golden, "input_bn"),
      "cluster/kernel": golden[f"{tower}/cluster_weights"],
      **golden_batch_normalization(golden, "cluster_bn"),
      "hidden1/kernel": golden[f"{tower}/hidden1_weights"],
      **golden_batch_normalization(golden, "hidden1_bn"),
      **golden_moe(golden, name),
    },
  )
  assert_golden_predictions(golden, name, model)


@pytest.mark.parametrize("pooling_method", ["max", "average"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_dbof_model_without_batch_norm(pooling_method, activation):
  model = build(
    "DbofModel",
    "5",
    3,
    iterations=4,
    dbof_add_batch_norm=False,
    dbof_cluster_size=6,
    dbof_hidden_size=4,
    dbof_pooling_method=pooling_method,
    dbof_activation=activation,
    video_level_classifier_model="LogisticModel",
  )
  weights = random_weights(model)
  assert set(weights) == {
    f"{layer}/{name}"
    for layer in ("cluster", "hidden1", "fully_connected")
    for name in ("kernel", "bias")
  }
  # Of 10, 3 and 1 valid frames, the evenly spaced four; see the tests of
  # sampling.SampleFrames.
  samples = [[1, 3, 6, 8], [0, 1, 1, 2], [0, 0, 0, 0]]
  num_frames = [10, 3, 1]
  frames = random_frames(num_frames, 11, 5)
  pool = {"max": np.max, "average": np.mean}[pooling_method]
  activate = {
    "relu": lambda values: np.maximum(values, 0.0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
  }[activation]
  expected = []
  for video, indices in enumerate(samples):
    clusters = activate(
      frames[video, indices] @ weights["cluster/kernel"]
      + weights["cluster/bias"]
    )
    hidden = activate(
      pool(clusters, axis=0) @ weights["hidden1/kernel"]
      + weights["hidden1/bias"]
    )
    expected.append(
      sigmoid(
        hidden @ weights["fully_connected/kernel"]
        + weights["fully_connected/bias"]
      )
    )
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_initial_biases_of_dbof_model_are_the_starters():
  model = build(
    "DbofModel",
    "100",
    3,
    dbof_add_batch_norm=False,
    dbof_cluster_size=5000,
    dbof_hidden_size=2500,
  )
  # 1/sqrt(100) and 0.01, give or take 5 standard errors of 1/sqrt(2 units).
  for layer, deviation, tolerance in (
    ("cluster", 0.1, 0.05),
    ("hidden1", 0.01, 0.071),
  ):
    biases = model.get_layer(layer).bias.numpy()
    assert biases.std() == pytest.approx(deviation, rel=tolerance)
    assert abs(biases.mean()) < 5 * deviation / len(biases) ** 0.5


@pytest.mark.parametrize(
  ("name", "hyperparameters", "kernels"),
  [
    ("FrameLevelLogisticModel", {}, ["fully_connected"]),
    (
      "DbofModel",
      {"dbof_cluster_size": 6, "dbof_hidden_size": 4},
      ["gates", "experts"],
    ),
    ("LstmModel", {"lstm_cells": 4}, ["gates", "experts"]),
  ],
)
def test_the_penalty_of_the_classifier_is_a_flag(
  name, hyperparameters, kernels
):
  with flagsaver.flagsaver(l2_penalty=0.5):
    penalty = models.resolve_hyperparameters(name)["l2_penalty"]
  model = build(name, "5", 3, **hyperparameters, l2_penalty=penalty)
  weights = random_weights(model)
  # Half of 0.5 times the sum of squares of the classifier's kernels.
  expected = sum(
    0.25 * (weights[f"{kernel}/kernel"] ** 2).sum() for kernel in kernels
  )
  loss = float(models.regularization_loss(model, {}))
  assert loss == pytest.approx(expected, rel=1e-5)


def test_dbof_model_samples_at_random_only_in_training():
  model = build(
    "DbofModel",
    "5",
    3,
    iterations=4,
    dbof_add_batch_norm=False,
    dbof_cluster_size=6,
    dbof_hidden_size=4,
  )
  random_weights(model)
  batch = {
    "video_matrix": random_frames([50], 50, 5).astype("float32"),
    "num_frames": np.array([50], np.int32),
  }
  in_training = [
    model(batch, training=True)["predictions"].numpy() for _ in range(5)
  ]
  assert any((in_training[0] != other).any() for other in in_training[1:])


def test_size_of_dbof_model():
  # Batch norm of 1152, 8192 and 1024: 2 * 10,368 = 20,736; clusters
  # 1152 * 8192 = 9,437,184; hidden 8192 * 1024 = 8,388,608; MoE on 1024:
  # 1024 * 3862 * 5 + 3862 * 2 = 19,781,164.
  assert count_trainable("DbofModel", "1024,128", 3862) == 37_627_692


# --------------------------------------------------------------------------
# LstmModel


def keras_lstm(golden, cell):
  """Weights of a TF1 BasicLSTMCell in Keras's order.

  TF1 stacks the gates input, candidate, forget, output in one kernel over
  [input, state] and adds 1 to the forget gate.
  """
  kernel = golden[f"{cell}/kernel"]
  units = kernel.shape[1] // 4

  def reorder(values):
    gate, candidate, forget, output = np.split(values, 4, axis=-1)
    return np.concatenate([gate, forget, candidate, output], axis=-1)

  bias = reorder(golden[f"{cell}/bias"])
  bias[units : 2 * units] += 1.0
  inputs, state = np.split(kernel, [kernel.shape[0] - units])
  return {
    "kernel": reorder(inputs),
    "recurrent_kernel": reorder(state),
    "bias": bias,
  }


def golden_lstms(golden, name):
  """The weights of both LSTMs of a golden model."""
  weights = {}
  for layer in range(2):
    cell = f"{name}/var/tower/rnn/multi_rnn_cell/cell_{layer}/basic_lstm_cell"
    for weight, value in keras_lstm(golden, cell).items():
      weights[f"lstm_{layer}/lstm_cell/{weight}"] = value
  return weights


def test_golden_values_of_lstm_model(golden):
  name = "LstmModel"
  model = build(name, "24", 17, lstm_cells=12, moe_num_mixtures=3)
  set_weights(model, {**golden_lstms(golden, name), **golden_moe(golden, name)})
  assert_golden_predictions(golden, name, model)


def test_golden_values_of_lstm_model_with_a_logistic_classifier(golden):
  name = "LstmModel_Logistic"
  model = build(
    "LstmModel",
    "24",
    17,
    lstm_cells=12,
    video_level_classifier_model="LogisticModel",
  )
  dense = f"{name}/var/tower/fully_connected"
  set_weights(
    model,
    {
      **golden_lstms(golden, name),
      "fully_connected/kernel": golden[f"{dense}/weights"],
      "fully_connected/bias": golden[f"{dense}/biases"],
    },
  )
  assert_golden_predictions(golden, name, model)


def test_lstm_model_classifies_the_last_valid_state():
  model = build(
    "LstmModel",
    "5",
    3,
    lstm_cells=4,
    lstm_layers=3,
    video_level_classifier_model="LogisticModel",
  )
  weights = random_weights(model)
  num_frames = [7, 4, 1]
  frames = random_frames(num_frames, 8, 5)
  expected = []
  for video, valid in enumerate(num_frames):
    states = frames[video, :valid]
    for layer in range(3):
      states = lstm_states(states, weights, f"lstm_{layer}/lstm_cell")
    expected.append(
      sigmoid(
        states[-1] @ weights["fully_connected/kernel"]
        + weights["fully_connected/bias"]
      )
    )
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def lstm_on_some_frames(num_samples):
  """A small LstmModel that reads num_samples frames, and its weights."""
  model = build(
    "LstmModel",
    "5",
    3,
    lstm_cells=4,
    lstm_layers=1,
    lstm_random_frames=num_samples,
    video_level_classifier_model="LogisticModel",
  )
  return model, random_weights(model)


def lstm_prediction(frames, weights):
  """The prediction of lstm_on_some_frames for the frames that it reads."""
  state = lstm_states(frames, weights, "lstm_0/lstm_cell")[-1]
  return sigmoid(
    state @ weights["fully_connected/kernel"] + weights["fully_connected/bias"]
  )


def test_lstm_model_of_random_frames_predicts_from_evenly_spaced_ones():
  model, weights = lstm_on_some_frames(4)
  # See the tests of sampling.SampleFrames.
  samples = [[1, 3, 6, 8], [0, 1, 1, 2], [0, 0, 0, 0]]
  num_frames = [10, 3, 1]
  frames = random_frames(num_frames, 11, 5)
  expected = [
    lstm_prediction(frames[video, indices], weights)
    for video, indices in enumerate(samples)
  ]
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_lstm_model_trains_on_random_frames_in_order():
  model, weights = lstm_on_some_frames(2)
  frames = random_frames([3] * 100, 3, 5)
  frames[:] = frames[0]
  possible = np.array(
    [
      lstm_prediction(frames[0, [first, second]], weights)
      for first, second in itertools.combinations_with_replacement(range(3), 2)
    ]
  )
  predictions = predict(model, frames, [3] * 100, training=True)
  distances = abs(predictions[:, None] - possible[None]).max(axis=2)
  assert (distances.min(axis=1) < 1e-5).all()
  # All six pairs; the rarest has a chance of 1/9 in each of 100 videos.
  assert set(distances.argmin(axis=1)) == set(range(6))


def test_forget_gates_start_at_1_as_in_the_starter():
  model = build("LstmModel", "5", 3, lstm_cells=4)
  bias = model.get_layer("lstm_1").cell.bias
  # Gates: input, forget, candidate, output.
  assert bias.numpy().tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_size_of_lstm_model():
  # 4 * (1152 + 1024 + 1) * 1024 = 8,916,992 and 4 * (1024 + 1024 + 1) * 1024
  # = 8,392,704; MoE on 1024 as in DbofModel 19,781,164.
  assert count_trainable("LstmModel", "1024,128", 3862) == 37_090_860
