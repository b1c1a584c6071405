"""Tests of frame_level_models."""

import startup  # isort: skip # noqa: F401
import keras
import numpy as np
import pytest

import frame_level_models
import models


def build(model, feature_sizes, num_classes, **hyperparameters):
  """A model on frames of floats."""
  sizes = feature_sizes.split(",")
  return models.build_model(
    {
      "model": model,
      "feature_names": ",".join(f"feature{n}" for n in range(len(sizes))),
      "feature_sizes": feature_sizes,
      "frame_features": True,
      "num_classes": num_classes,
      "max_frames": 300,
      "label_loss": "CrossEntropyLoss",
      **hyperparameters,
    },
    quantized=False,
  )


def set_weights(model, weights):
  """Sets all weights of a model, but not the seeds, by their paths."""
  variables = {
    variable.path: variable
    for variable in model.variables
    if "seed_generator" not in variable.path
  }
  assert set(variables) == set(weights)
  for path, value in weights.items():
    variables[path].assign(value)


def random_weights(model, scale=0.8):
  """Sets all trainable weights at random; gives them by path, in float64."""
  generator = np.random.default_rng(1)
  weights = {}
  for variable in model.trainable_variables:
    value = generator.normal(scale=scale, size=variable.shape)
    variable.assign(value)
    weights[variable.path] = value
  return weights


def predict(model, frames, num_frames):
  """The predictions of some videos, as an array."""
  batch = {
    "video_matrix": np.asarray(frames, np.float32),
    "num_frames": np.asarray(num_frames, np.int32),
  }
  return model(batch, training=False)["predictions"].numpy()


def random_frames(num_frames, length, size):
  """Frames of length 1, with garbage in the padding."""
  generator = np.random.default_rng(2)
  frames = generator.normal(size=(len(num_frames), length, size))
  return frames / np.linalg.norm(frames, axis=-1, keepdims=True)


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))


def count_trainable(model):
  """The number of trainable numbers in a model."""
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


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
  """The weights of one batch normalisation of the golden DbofModel."""
  return {
    f"{layer}/{name}": golden[f"DbofModel/var/tower/{layer}/{name}"]
    for name in ("beta", "gamma", "moving_mean", "moving_variance")
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
  # model_utils.SampleFrames.
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
  model = build("DbofModel", "1024,128", 3862)
  # Batch norm of 1152, 8192 and 1024: 2 * 10,368 = 20,736; clusters
  # 1152 * 8192 = 9,437,184; hidden 8192 * 1024 = 8,388,608; MoE on 1024:
  # 1024 * 3862 * 5 + 3862 * 2 = 19,781,164.
  assert count_trainable(model) == 37_627_692


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


def lstm_states(frames, weights, prefix):
  """The states of an LSTM after each of (frames, features), (frames, units)."""
  kernel = weights[f"{prefix}/kernel"]
  recurrent_kernel = weights[f"{prefix}/recurrent_kernel"]
  state = cell = np.zeros(len(recurrent_kernel))
  states = []
  for frame in frames:
    gates = frame @ kernel + state @ recurrent_kernel
    gates = np.split(gates + weights[f"{prefix}/bias"], 4)
    cell = sigmoid(gates[1]) * cell + sigmoid(gates[0]) * np.tanh(gates[2])
    state = sigmoid(gates[3]) * np.tanh(cell)
    states.append(state)
  return np.array(states)


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


def test_forget_gates_start_at_1_as_in_the_starter():
  model = build("LstmModel", "5", 3, lstm_cells=4)
  bias = model.get_layer("lstm_1").cell.bias
  # Gates: input, forget, candidate, output.
  assert bias.numpy().tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_size_of_lstm_model():
  model = build("LstmModel", "1024,128", 3862)
  # 4 * (1152 + 1024 + 1) * 1024 = 8,916,992 and 4 * (1024 + 1024 + 1) * 1024
  # = 8,392,704; MoE on 1024 as in DbofModel 19,781,164.
  assert count_trainable(model) == 37_090_860


# --------------------------------------------------------------------------
# StreamLstmModel

SMALL_STREAMS = {"stream_dense_size": 4, "lstm_cells": 3}


def logit(probability):
  return float(np.log(probability / (1.0 - probability)))


@pytest.mark.parametrize("feature_sizes", ["6", "6,2", "6,2,3"])
def test_one_stream_for_each_feature(feature_sizes):
  model = build("StreamLstmModel", feature_sizes, 5, stream_dense_size=4)
  sizes = [int(size) for size in feature_sizes.split(",")]
  names = [layer.name for layer in model.layers]
  assert sorted(name for name in names if name.startswith("stream_")) == sorted(
    f"stream_{stream}_{part}"
    for stream in range(len(sizes))
    for part in ("dense", "lstm_0", "lstm_1", "classifier")
  )
  for stream, size in enumerate(sizes):
    dense = model.get_layer(f"stream_{stream}_dense")
    assert tuple(dense.kernel.shape) == (size, 4)
    # As many units in each direction as the stream has features.
    classifier = model.get_layer(f"stream_{stream}_classifier")
    assert tuple(classifier.kernel.shape) == (2 * size, 5)


@pytest.mark.parametrize(
  ("probabilities", "expected"),
  [
    ([0.79], 0.79),
    ([0.79, 0.99], 0.89),
    # (0.2 + 0.3 + 0.7) / 3
    ([0.2, 0.3, 0.7], 0.4),
  ],
)
def test_the_prediction_is_the_mean_of_the_streams_probabilities(
  probabilities, expected
):
  feature_sizes = ",".join("2" for _ in probabilities)
  model = build("StreamLstmModel", feature_sizes, 1, **SMALL_STREAMS)
  for stream, probability in enumerate(probabilities):
    classifier = model.get_layer(f"stream_{stream}_classifier")
    classifier.kernel.assign(np.zeros(classifier.kernel.shape))
    classifier.bias.assign([logit(probability)])
  num_frames = [3, 1]
  frames = random_frames(num_frames, 3, 2 * len(probabilities))
  np.testing.assert_allclose(
    predict(model, frames, num_frames), [[expected], [expected]], atol=1e-6
  )


def test_a_stream_sees_its_own_feature_only():
  model = build("StreamLstmModel", "3,2", 4, **SMALL_STREAMS)
  random_weights(model)
  num_frames = [4, 2]
  frames = random_frames(num_frames, 4, 5)
  # The other sign of a feature leaves the length of a frame as it is.
  other_rgb = frames * [-1, -1, -1, 1, 1]
  other_audio = frames * [1, 1, 1, -1, -1]
  kernels = [
    model.get_layer(f"stream_{stream}_classifier").kernel for stream in range(2)
  ]
  weights = [kernel.numpy() for kernel in kernels]
  for silenced, same, different in (
    (1, other_audio, other_rgb),
    (0, other_rgb, other_audio),
  ):
    for stream, kernel in enumerate(kernels):
      kernel.assign(weights[stream] * (stream != silenced))
    expected = predict(model, frames, num_frames)
    np.testing.assert_array_equal(predict(model, same, num_frames), expected)
    changes = abs(predict(model, different, num_frames) - expected)
    assert changes.max(axis=1).min() > 1e-3


def test_stream_lstm_model_against_plain_loops():
  model = build("StreamLstmModel", "3,2", 4, **SMALL_STREAMS)
  weights = random_weights(model)
  num_frames = [6, 3, 1]
  frames = random_frames(num_frames, 7, 5)
  expected = []
  for video, valid in enumerate(num_frames):
    probabilities = []
    for stream, features in enumerate((slice(0, 3), slice(3, 5))):
      name = f"stream_{stream}"
      states = np.maximum(
        frames[video, :valid, features] @ weights[f"{name}_dense/kernel"]
        + weights[f"{name}_dense/bias"],
        0.0,
      )
      for layer in range(2):
        bidirectional = f"{name}_lstm_{layer}"
        forward, backward = (
          next(
            path.rsplit("/", 1)[0]
            for path in weights
            if path.startswith(f"{bidirectional}/{direction}")
          )
          for direction in ("forward", "backward")
        )
        # The backward one begins at the last valid frame.
        states = np.concatenate(
          [
            lstm_states(states, weights, forward),
            lstm_states(states[::-1], weights, backward)[::-1],
          ],
          axis=1,
        )
      probabilities.append(
        sigmoid(
          states.max(axis=0) @ weights[f"{name}_classifier/kernel"]
          + weights[f"{name}_classifier/bias"]
        )
      )
    expected.append(np.mean(probabilities, axis=0))
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_stream_lstm_model_declares_its_own_training_settings():
  assert frame_level_models.StreamLstmModel.batch_size == 128
  assert frame_level_models.StreamLstmModel.base_learning_rate == 0.001


# --------------------------------------------------------------------------
# classify


def test_classify_passes_hyperparameters_on():
  features = keras.Input((2,))
  outputs = frame_level_models.classify(
    "MoeModel", features, 3, {"moe_num_mixtures": 4, "unknown": 1}
  )
  model = keras.Model(features, outputs["predictions"])
  # Gates 2 * 3 * 5, experts (2 + 1) * 3 * 4.
  assert model.count_params() == 30 + 36


def test_classify_refuses_an_unknown_classifier():
  with pytest.raises(ValueError, match="'NoSuchModel'"):
    frame_level_models.classify("NoSuchModel", None, 3, {})
