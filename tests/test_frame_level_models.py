"""Tests of frame_level_models."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import frame_level_models
import losses
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
  """Sets all weights of a model, not its seeds and counters, by their paths."""
  variables = {
    variable.path: variable
    for variable in model.variables
    if not re.search("seed_generator|num_updates", variable.path)
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


def random_statistics(model):
  """Sets all moving means and variances at random; gives them by path."""
  generator = np.random.default_rng(3)
  weights = {}
  for variable in model.non_trainable_variables:
    if "moving_" in variable.path:
      value = generator.normal(scale=0.5, size=variable.shape)
      if "variance" in variable.path:
        value = abs(value) + 0.5
      variable.assign(value)
      weights[variable.path] = value
  return weights


def run(model, frames, num_frames, training=False):
  """All outputs for some videos."""
  batch = {
    "video_matrix": np.asarray(frames, np.float32),
    "num_frames": np.asarray(num_frames, np.int32),
  }
  return model(batch, training=training)


def predict(model, frames, num_frames, training=False):
  """The predictions of some videos, as an array."""
  return run(model, frames, num_frames, training)["predictions"].numpy()


def random_frames(num_frames, length, size):
  """Frames of length 1, with garbage in the padding."""
  generator = np.random.default_rng(2)
  frames = generator.normal(size=(len(num_frames), length, size))
  return frames / np.linalg.norm(frames, axis=-1, keepdims=True)


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))


def dense(values, weights, name):
  """A dense layer of (..., features), without a bias if it has none."""
  return values @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0.0)


def relu(values):
  return np.maximum(values, 0.0)


def softmax(scores, axis=-1):
  powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
  return powers / powers.sum(axis=axis, keepdims=True)


def unit(values):
  """Vectors divided by their length."""
  return values / np.linalg.norm(values, axis=-1, keepdims=True)


def normalized(values, weights, name, mean=None, variance=None):
  """Batch normalisation, by the moving statistics unless others are given."""
  if mean is None:
    mean = weights[f"{name}/moving_mean"]
    variance = weights[f"{name}/moving_variance"]
  values = (values - mean) / np.sqrt(variance + 0.001)
  return values * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def classified(values, weights, name="classifier"):
  """A logistic classifier."""
  return sigmoid(dense(values, weights, name))


def count_trainable(model_name, feature_sizes, num_classes, **hyperparameters):
  """The number of trainable numbers in a model, which it does not allocate."""
  # In a graph of its own TensorFlow notes down how the variables would be
  # initialised, and does not do it: the largest have a gigabyte.
  with tf.Graph().as_default():
    model = build(model_name, feature_sizes, num_classes, **hyperparameters)
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
  weights = {
    name: golden[f"DbofModel/var/tower/{layer}/{name}"]
    for name in ("beta", "gamma", "moving_mean", "moving_variance")
  }
  # The first one's scaling is part of the layer behind it.
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
  # 4 * (1152 + 1024 + 1) * 1024 = 8,916,992 and 4 * (1024 + 1024 + 1) * 1024
  # = 8,392,704; MoE on 1024 as in DbofModel 19,781,164.
  assert count_trainable("LstmModel", "1024,128", 3862) == 37_090_860


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


def bidirectional_states(frames, weights, name):
  """What a bidirectional LSTM gives for valid frames alone."""
  forward, backward = (
    next(
      path.rsplit("/", 1)[0]
      for path in weights
      if path.startswith(f"{name}/{direction}")
    )
    for direction in ("forward", "backward")
  )
  # The backward one begins at the last valid frame.
  return np.concatenate(
    [
      lstm_states(frames, weights, forward),
      lstm_states(frames[::-1], weights, backward)[::-1],
    ],
    axis=1,
  )


def stream_vectors(frames, weights):
  """The pooled streams of a video's valid frames, of features 0-2 and 3-4."""
  vectors = []
  for stream, features in enumerate((slice(0, 3), slice(3, 5))):
    name = f"stream_{stream}"
    states = relu(dense(frames[:, features], weights, f"{name}_dense"))
    for layer in range(2):
      states = bidirectional_states(states, weights, f"{name}_lstm_{layer}")
    vectors.append(states.max(axis=0))
  return vectors


def valid_parts(frames, num_frames):
  """The valid frames of each video."""
  return [frames[video, :valid] for video, valid in enumerate(num_frames)]


def test_stream_lstm_model_against_plain_loops():
  model = build("StreamLstmModel", "3,2", 4, **SMALL_STREAMS)
  weights = random_weights(model)
  num_frames = [6, 3, 1]
  frames = random_frames(num_frames, 7, 5)
  expected = []
  for valid in valid_parts(frames, num_frames):
    probabilities = [
      classified(vector, weights, f"stream_{stream}_classifier")
      for stream, vector in enumerate(stream_vectors(valid, weights))
    ]
    expected.append(np.mean(probabilities, axis=0))
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_concatenated_streams_are_classified_once():
  model = build(
    "StreamLstmModel", "3,2", 4, stream_fusion="concat", **SMALL_STREAMS
  )
  weights = random_weights(model)
  # Both streams, of three units in each direction.
  kernels = [path for path in weights if path.endswith("classifier/kernel")]
  assert kernels == ["stream_0_classifier/kernel"]
  assert weights[kernels[0]].shape == (12, 4)
  num_frames = [6, 3, 1]
  frames = random_frames(num_frames, 7, 5)
  expected = [
    classified(
      np.concatenate(stream_vectors(valid, weights)),
      weights,
      "stream_0_classifier",
    )
    for valid in valid_parts(frames, num_frames)
  ]
  np.testing.assert_allclose(
    predict(model, frames, num_frames), expected, atol=1e-5
  )


def test_stream_lstm_model_declares_its_own_training_settings():
  assert frame_level_models.StreamLstmModel.batch_size == 128
  assert frame_level_models.StreamLstmModel.base_learning_rate == 0.001


# --------------------------------------------------------------------------
# NnStreamLstmModel and AutoencoderConcatModel

SMALL_NN_STREAMS = {"nn_branch_sizes": "6,4", **SMALL_STREAMS}

NUM_FRAMES = [6, 3, 1]


def nn_streams_prediction(net_input, valid, weights):
  """The prediction for a video's valid frames and its net's input."""
  for layer in range(2):
    net_input = relu(dense(net_input, weights, f"nn_branch_{layer}"))
  joint = np.concatenate([net_input, *stream_vectors(valid, weights)])
  return classified(joint, weights)


def test_nn_stream_lstm_model_against_plain_loops():
  model = build("NnStreamLstmModel", "3,2", 4, **SMALL_NN_STREAMS)
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    nn_streams_prediction(valid.mean(axis=0), valid, weights)
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def without_counters(path):
  """A variable's path without the number in forward_lstm_3.

  Keras counts the LSTMs of the whole process there.
  """
  return re.sub(r"(for|back)ward_lstm(_\d+)?/", r"\1ward/", path)


def test_without_its_autoencoder_it_is_nn_stream_lstm_model():
  with_streams = build("NnStreamLstmModel", "3,2", 4, **SMALL_NN_STREAMS)
  without = build(
    "AutoencoderConcatModel", "3,2", 4, autoencoder=False, **SMALL_NN_STREAMS
  )
  weights = {
    without_counters(path): value
    for path, value in random_weights(with_streams).items()
  }
  variables = {without_counters(v.path): v for v in without.trainable_variables}
  assert {path: tuple(v.shape) for path, v in variables.items()} == {
    path: value.shape for path, value in weights.items()
  }
  for path, variable in variables.items():
    variable.assign(weights[path])
  frames = random_frames(NUM_FRAMES, 7, 5)
  outputs = run(without, frames, NUM_FRAMES)
  assert set(outputs) == {"predictions"}
  np.testing.assert_allclose(
    outputs["predictions"], predict(with_streams, frames, NUM_FRAMES), atol=1e-6
  )


@pytest.mark.parametrize("reconstruction_weight", [1.0, 0.25])
@pytest.mark.parametrize("training", [True, False])
def test_autoencoder_against_plain_loops(reconstruction_weight, training):
  model = build(
    "AutoencoderConcatModel",
    "3,2",
    4,
    autoencoder_code_size=7,
    reconstruction_weight=reconstruction_weight,
    dropout_rate=0.0,
    **SMALL_NN_STREAMS,
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  errors, expected = [], []
  for valid in valid_parts(frames, NUM_FRAMES):
    mean = valid.mean(axis=0)
    code = relu(dense(mean, weights, "encoder"))
    assert code.shape == (7,)
    # The decoder ends in no activation: features may be negative.
    distance = dense(code, weights, "decoder") - mean
    errors.append((distance**2).sum())
    expected.append(nn_streams_prediction(code, valid, weights))
  outputs = run(model, frames, NUM_FRAMES, training)
  assert set(outputs["auxiliary_losses"]) == {"reconstruction_loss"}
  np.testing.assert_allclose(
    outputs["auxiliary_losses"]["reconstruction_loss"],
    reconstruction_weight * np.mean(errors),
    rtol=1e-5,
  )
  np.testing.assert_allclose(outputs["predictions"], expected, atol=1e-5)


def test_the_reconstruction_error_falls_in_training():
  keras.utils.set_random_seed(1)
  model = build(
    "AutoencoderConcatModel",
    "5",
    4,
    autoencoder_code_size=20,
    lstm_layers=1,
    **SMALL_NN_STREAMS,
  )
  num_frames = np.array([6, 3, 1, 2, 5, 1, 1, 4], np.int32)
  batch = {
    "video_matrix": random_frames(num_frames, 6, 5).astype("float32"),
    "num_frames": num_frames,
  }
  labels = np.arange(4) % 2 == np.arange(8)[:, None] % 2
  optimizer = keras.optimizers.Adam(0.01)

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      outputs = model(batch, training=True)
      error = outputs["auxiliary_losses"]["reconstruction_loss"]
      loss = losses.CrossEntropyLoss().calculate_loss(
        outputs["predictions"], labels
      )
      loss += error
    weights = model.trainable_variables
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    optimizer.apply(gradients, weights)
    return error

  optimizer.build(model.trainable_variables)
  errors = [float(step()) for _ in range(60)]
  means = [
    valid.mean(axis=0)
    for valid in valid_parts(batch["video_matrix"], num_frames)
  ]
  # What a decoder that ignores the code reaches at best.
  constant = ((means - np.mean(means, axis=0)) ** 2).sum(axis=1).mean()
  assert errors[0] > 0.5 * constant
  assert errors[-1] < 0.1 * constant
  assert errors[-1] < 0.1 * errors[0]


# --------------------------------------------------------------------------
# BiLstmModel, SimpleRnnModel, GruModel


def test_bi_lstm_model_against_plain_loops():
  model = build("BiLstmModel", "3,2", 4, lstm_cells=3, lstm_layers=2)
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    states = relu(dense(valid, weights, "projection"))
    for layer in range(2):
      # The shortcut.
      states = states + bidirectional_states(states, weights, f"lstm_{layer}")
    hidden = relu(dense(states.max(axis=0), weights, "hidden_0"))
    expected.append(classified(hidden, weights))
  assert weights["hidden_0/kernel"].shape == (6, 6)
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_simple_rnn_model_against_plain_loops():
  model = build("SimpleRnnModel", "3,2", 4, rnn_cells=3)
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for states in valid_parts(frames, NUM_FRAMES):
    for layer in range(2):
      cell = f"rnn_{layer}/simple_rnn_cell"
      state, inputs, states = np.zeros(3), states, []
      for frame in inputs:
        state = np.tanh(
          dense(frame, weights, cell)
          + state @ weights[f"{cell}/recurrent_kernel"]
        )
        states.append(state)
    hidden = relu(dense(states[-1], weights, "hidden_0"))
    expected.append(classified(hidden, weights))
  assert weights["hidden_0/kernel"].shape == (3, 6)
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def gru_states(frames, weights, prefix):
  """The states of a GRU after each of (frames, features), (frames, units).

  Keras keeps the gates in the order update, reset, candidate, and applies the
  reset gate behind the product with the state, as cuDNN does.
  """
  state = np.zeros(len(weights[f"{prefix}/recurrent_kernel"]))
  bias, recurrent_bias = weights[f"{prefix}/bias"]
  states = []
  for frame in frames:
    of_frame = np.split(frame @ weights[f"{prefix}/kernel"] + bias, 3)
    of_state = np.split(
      state @ weights[f"{prefix}/recurrent_kernel"] + recurrent_bias, 3
    )
    update = sigmoid(of_frame[0] + of_state[0])
    reset = sigmoid(of_frame[1] + of_state[1])
    candidate = np.tanh(of_frame[2] + reset * of_state[2])
    state = update * state + (1.0 - update) * candidate
    states.append(state)
  return np.array(states)


def test_gru_model_classifies_the_final_states_of_both_layers():
  model = build(
    "GruModel",
    "3,2",
    4,
    gru_cells=3,
    video_level_classifier_model="LogisticModel",
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for states in valid_parts(frames, NUM_FRAMES):
    finals = []
    for layer in range(2):
      states = gru_states(states, weights, f"gru_{layer}/gru_cell")
      finals.append(states[-1])
    expected.append(
      classified(np.concatenate(finals), weights, "fully_connected")
    )
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


# --------------------------------------------------------------------------
# CnnLstmModel


def cnn_lstm_predictions(valid, weights, training):
  """The predictions for the valid frames of videos, without dropout."""
  convolved = valid
  for block in range(3):
    name = f"conv_{block}"
    outputs = []
    for frames in convolved:
      # As if nothing but zeros were around the valid frames.
      padded = np.pad(frames, [[2, 2], [0, 0]])
      outputs.append(
        np.array(
          [
            np.einsum("kd,kdf->f", padded[t : t + 5], weights[f"{name}/kernel"])
            + weights[f"{name}/bias"]
            for t in range(len(frames))
          ]
        )
      )
    together = np.concatenate(outputs)
    statistics = (
      (together.mean(axis=0), together.var(axis=0)) if training else ()
    )
    outputs = [
      normalized(frames, weights, f"{name}_bn", *statistics)
      for frames in outputs
    ]
    convolved = [np.where(x > 0.0, x, 0.1 * x) for x in outputs]
  predictions = []
  for frames, states in zip(convolved, valid, strict=True):
    for layer in range(3):
      states = lstm_states(states, weights, f"lstm_{layer}/lstm_cell")
    hidden = np.concatenate([frames.mean(axis=0), states[-1]])
    for layer in range(2):
      hidden = relu(dense(hidden, weights, f"hidden_{layer}"))
    predictions.append(classified(hidden, weights))
  return predictions


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("filters", [1, 3])
def test_cnn_lstm_model_against_plain_loops(training, filters):
  model = build(
    "CnnLstmModel",
    "5",
    4,
    cnn_filters=filters,
    cnn_lstm_cells="4,3,2",
    dropout_rate=0.0,
  )
  # Smaller than elsewhere, else the sums over 128 units give 0 and 1 only.
  weights = {**random_weights(model, 0.35), **random_statistics(model)}
  for layer, size in enumerate((4, 3, 2)):
    cell = f"lstm_{layer}/lstm_cell"
    assert weights[f"{cell}/recurrent_kernel"].shape == (size, 4 * size)
  frames = random_frames(NUM_FRAMES, 9, 5)
  expected = cnn_lstm_predictions(
    valid_parts(frames, NUM_FRAMES), weights, training
  )
  assert np.ptp(expected, axis=0).max() > 0.01
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES, training), expected, atol=1e-5
  )


def test_the_frame_after_the_last_valid_one_does_not_reach_a_convolution():
  model = build("CnnLstmModel", "5", 4, cnn_lstm_cells="4,3,2")
  random_weights(model, 0.35)
  random_statistics(model)
  frames = random_frames(NUM_FRAMES, 9, 5)
  other = frames.copy()
  for video, valid in enumerate(NUM_FRAMES):
    other[video, valid] = [9.0, -5.0, 3.0, 1.0, 0.0]
  np.testing.assert_array_equal(
    predict(model, other, NUM_FRAMES), predict(model, frames, NUM_FRAMES)
  )
  # The last valid one does.
  for video, valid in enumerate(NUM_FRAMES):
    other[video, valid - 1] = [9.0, -5.0, 3.0, 1.0, 0.0]
  changes = predict(model, other, NUM_FRAMES) - predict(
    model, frames, NUM_FRAMES
  )
  assert abs(changes).max(axis=1).min() > 1e-4


# --------------------------------------------------------------------------
# RandomFrameModel


def test_random_frame_model_predicts_the_mean_of_its_frames():
  model = build("RandomFrameModel", "3,2", 4)
  weights = random_weights(model, 3.0)
  frames = random_frames(NUM_FRAMES, 7, 5)
  likely = classified(frames, weights, "classifier/dense")
  expected = [x.mean(axis=0) for x in valid_parts(likely, NUM_FRAMES)]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )
  # Not that of the mean frame: the two must be told apart here.
  of_mean = [
    classified(valid.mean(axis=0), weights, "classifier/dense")
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  assert abs(np.array(of_mean) - expected).max() > 0.05


def test_random_frame_model_trains_on_one_valid_frame():
  model = build("RandomFrameModel", "3,2", 4)
  weights = random_weights(model, 3.0)
  frames = random_frames(NUM_FRAMES, 7, 5)
  likely = classified(frames, weights, "classifier/dense")
  seen = [set() for _ in NUM_FRAMES]
  for _ in range(60):
    predictions = predict(model, frames, NUM_FRAMES, training=True)
    for video, prediction in enumerate(predictions):
      distances = abs(likely[video] - prediction).max(axis=1)
      assert distances.min() < 1e-5
      seen[video].add(int(distances.argmin()))
  # One of three is missed in 60 draws in one of 10^10 runs.
  assert seen[1:] == [{0, 1, 2}, {0}]
  assert seen[0] <= set(range(6))
  assert len(seen[0]) > 3


# --------------------------------------------------------------------------
# TransformerModel


def layer_normalized(values, weights, name):
  values = values - values.mean(axis=-1, keepdims=True)
  deviation = np.sqrt((values**2).mean(axis=-1, keepdims=True) + 0.001)
  return values / deviation * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def attended(frames, weights, name):
  """Self-attention of a video's valid frames, head by head."""
  query, key, value = (
    weights[f"{name}/{part}/kernel"] for part in ("query", "key", "value")
  )
  output = weights[f"{name}/attention_output/kernel"]
  heads, size = query.shape[1:]
  result = np.zeros_like(frames)
  for head in range(heads):
    scores = (frames @ query[:, head]) @ (frames @ key[:, head]).T
    assigned = softmax(scores / math.sqrt(size))
    result += assigned @ (frames @ value[:, head]) @ output[head]
  return result


def gelu(values):
  return values * 0.5 * (1.0 + np.vectorize(math.erf)(values / math.sqrt(2.0)))


def transformer_prediction(valid, weights):
  """The prediction of a transformer of size 4 with two layers."""
  frames = layer_normalized(
    dense(valid, weights, "projection"), weights, "projection_norm"
  )
  for index in range(len(frames)):
    # 10000^(2 i / 4) is 1 and 100.
    angles = np.array([index, index / 100.0])
    frames[index] += np.concatenate([np.sin(angles), np.cos(angles)])
  for layer in range(2):
    name = f"encoder_{layer}"
    normal = layer_normalized(frames, weights, f"{name}_norm_0")
    frames = frames + attended(normal, weights, f"{name}_attention")
    inner = layer_normalized(frames, weights, f"{name}_norm_1")
    inner = gelu(dense(inner, weights, f"{name}_inner"))
    frames = frames + dense(inner, weights, f"{name}_outer")
  frames = layer_normalized(frames, weights, "norm")
  return classified(frames.mean(axis=0), weights)


@pytest.fixture(scope="module")
def transformer():
  """A small TransformerModel with random weights, and these by path."""
  model = build(
    "TransformerModel",
    "3,2",
    4,
    transformer_size=4,
    transformer_heads=2,
    transformer_layers=2,
  )
  return model, random_weights(model)


def test_transformer_model_against_plain_loops(transformer):
  model, weights = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = [
    transformer_prediction(valid, weights)
    for valid in valid_parts(frames, NUM_FRAMES)
  ]
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


def test_the_order_of_frames_matters_to_a_transformer(transformer):
  model, _ = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = predict(model, frames, NUM_FRAMES)
  swapped = frames.copy()
  swapped[:, [0, 2]] = swapped[:, [2, 0]]
  changes = abs(predict(model, swapped, NUM_FRAMES) - expected).max(axis=1)
  # The third video has one frame, and now another.
  assert changes.min() > 1e-3


def test_the_length_of_a_batch_does_not_matter_to_a_transformer(transformer):
  model, _ = transformer
  frames = random_frames(NUM_FRAMES, 7, 5)
  longer = np.concatenate([frames, random_frames(NUM_FRAMES, 6, 5)], axis=1)
  np.testing.assert_allclose(
    predict(model, longer, NUM_FRAMES),
    predict(model, frames, NUM_FRAMES),
    atol=1e-6,
  )


def test_transformer_model_refuses_heads_that_do_not_fit():
  with pytest.raises(ValueError, match="--transformer_heads=3"):
    build("TransformerModel", "5", 4, transformer_size=4, transformer_heads=3)


# --------------------------------------------------------------------------
# Models that pool by attention


@pytest.mark.parametrize("training", [True, False])
def test_attention_cluster_model_against_plain_loops(training):
  model = build(
    "AttentionClusterModel",
    "3,2",
    3,
    iterations=4,
    attention_units=2,
    attention_hidden_sizes="6,5",
    dropout_rate=0.0,
  )
  weights = random_weights(model)
  # The evenly spaced four of 10, 3 and 1 frames, in training too.
  samples = [[1, 3, 6, 8], [0, 1, 1, 2], [0, 0, 0, 0]]
  num_frames = [10, 3, 1]
  frames = random_frames(num_frames, 11, 5)
  expected = []
  for video, indices in enumerate(samples):
    vectors = []
    for index, features in enumerate((slice(0, 3), slice(3, 5))):
      sampled = frames[video, indices][:, features]
      name = f"feature_{index}"
      assert f"{name}_attention/bias" not in weights
      scaled = sampled * math.sqrt(5.0)  # numbers of a frame
      scores = dense(scaled, weights, f"{name}_attention")
      for k in range(2):
        pooled = softmax(scores[:, k]) @ sampled
        shifted = (
          weights[f"{name}_cluster/alpha"][k] * pooled
          + weights[f"{name}_cluster/beta"][k]
        )
        vectors.append(unit(shifted) / math.sqrt(2.0))
    hidden = np.concatenate(vectors)
    for layer in range(2):
      hidden = np.tanh(dense(hidden, weights, f"hidden_{layer}"))
    expected.append(classified(hidden, weights))
  np.testing.assert_allclose(
    predict(model, frames, num_frames, training), expected, atol=1e-5
  )


def test_attention_lstm_model_against_plain_loops():
  model = build(
    "AttentionLstmModel",
    "3,2",
    4,
    stream_dense_size=4,
    lstm_cells=3,
    attention_hidden_sizes="6,5",
  )
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, 7, 5)
  expected = []
  for valid in valid_parts(frames, NUM_FRAMES):
    vectors = []
    for index, features in enumerate((slice(0, 3), slice(3, 5))):
      name = f"feature_{index}"
      states = np.tanh(dense(valid[:, features], weights, f"{name}_dense"))
      states = bidirectional_states(states, weights, f"{name}_lstm")
      scores = dense(states, weights, f"{name}_attention")[:, 0]
      vectors.append(softmax(scores) @ states)
    hidden = relu(dense(np.concatenate(vectors), weights, "hidden_0"))
    hidden = np.tanh(dense(hidden, weights, "hidden_1"))
    expected.append(classified(hidden, weights))
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES), expected, atol=1e-5
  )


# --------------------------------------------------------------------------
# Models that pool by clusters


def vlad(frames, assignment, centers):
  """V_k = sum_t a_tk (x_t - c_k), each divided by its length, side by side."""
  vectors = []
  for cluster, center in enumerate(centers):
    vector = np.zeros(frames.shape[1])
    for frame, assigned in zip(frames, assignment, strict=True):
      vector += assigned[cluster] * (frame - center)
    vectors.append(unit(vector))
  return np.concatenate(vectors)


def assigned_features(frames, indices, weights):
  """Of both features: name, sampled and normalised frames, assignment."""
  sampled = normalized(frames[indices], weights, "input_bn")
  for index, feature in enumerate((sampled[:, :3], sampled[:, 3:])):
    name = f"feature_{index}"
    scores = dense(feature, weights, f"{name}_clusters")
    scores = normalized(scores, weights, f"{name}_clusters_bn")
    yield name, feature, softmax(scores)


def gated_mixture(pooled, weights):
  """Dense layer, context gating, two experts and output gating."""

  def gate(values, name):
    gates = dense(values, weights, f"{name}_dense")
    return values * sigmoid(normalized(gates, weights, f"{name}_bn"))

  hidden = gate(dense(pooled, weights, "hidden"), "hidden_gating")
  gates = softmax(dense(hidden, weights, "gates").reshape(3, 3))
  experts = classified(hidden, weights, "experts").reshape(3, 2)
  return gate((gates[:, :2] * experts).sum(axis=1), "output_gating")


# Of 10, 3 and 1 valid frames, the evenly spaced four.
SAMPLES = {10: [1, 3, 6, 8], 3: [0, 1, 1, 2], 1: [0, 0, 0, 0]}


@pytest.mark.parametrize("residual", [True, False])
def test_net_vlad_model_against_plain_loops(residual):
  model = build(
    "NetVladModel",
    "3,2",
    3,
    iterations=4,
    netvlad_cluster_size=4,
    netvlad_hidden_size=6,
    netvlad_residual=residual,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  # The second feature has half as many clusters.
  assert weights["feature_0_clusters/kernel"].shape == (3, 4)
  assert weights["feature_1_clusters/kernel"].shape == (2, 2)
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    vectors = []
    assigned = assigned_features(frames[video], indices, weights)
    for name, feature, assignment in assigned:
      centers = np.zeros((assignment.shape[1], feature.shape[1]))
      if residual:
        centers = weights[f"{name}_vlad/centers"]
      vectors.append(unit(vlad(feature, assignment, centers)))
    expected.append(gated_mixture(np.concatenate(vectors), weights))
  assert ("feature_0_vlad/centers" in weights) == residual
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-5
  )


def test_net_fv_model_against_plain_loops():
  model = build(
    "NetFvModel",
    "3,2",
    3,
    iterations=4,
    fv_cluster_size=4,
    fv_hidden_size=6,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    vectors = []
    assigned = assigned_features(frames[video], indices, weights)
    for name, feature, assignment in assigned:
      centers = weights[f"{name}_fisher/centers"]
      covariance = weights[f"{name}_fisher/deviations"] ** 2 + 1e-6
      first, second = np.zeros((2, *centers.shape))
      for frame, shares in zip(feature, assignment, strict=True):
        distance = (frame - centers) / covariance
        first += shares[:, None] * distance
        second += shares[:, None] * (distance**2 - 1.0)
      vectors.append(unit(unit(first).flatten()))
      vectors.append(unit(second.flatten()))
    expected.append(gated_mixture(np.concatenate(vectors), weights))
  # Where w is near 0 its square in the divisor makes large numbers.
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-4
  )


def test_soft_dbow_model_against_plain_loops():
  model = build(
    "SoftDbowModel",
    "3,2",
    3,
    iterations=4,
    dbow_cluster_size=24,
    dbow_hidden_size=6,
    video_level_classifier_model="LogisticModel",
  )
  weights = {**random_weights(model), **random_statistics(model)}
  # The second feature has an eighth as many words.
  assert weights["feature_0_clusters/kernel"].shape == (3, 24)
  assert weights["feature_1_clusters/kernel"].shape == (2, 3)
  frames = random_frames(SAMPLES, 11, 5)
  expected = []
  for video, indices in enumerate(SAMPLES.values()):
    assigned = assigned_features(frames[video], indices, weights)
    words = np.concatenate(
      [unit(assignment.sum(axis=0)) for _, _, assignment in assigned]
    )
    hidden = normalized(dense(words, weights, "hidden"), weights, "hidden_bn")
    expected.append(classified(relu(hidden), weights, "fully_connected"))
  np.testing.assert_allclose(
    predict(model, frames, list(SAMPLES)), expected, atol=1e-5
  )


def next_vlad_predictions(valid, weights, num_clusters, training):
  """The predictions for the valid frames of videos, without dropout.

  The first feature has 2 groups; the second 1, and half as many clusters.
  """

  def normalized_together(values, name):
    """Batch normalisation of what each video has, frames or a vector."""
    statistics = ()
    if training:
      together = np.concatenate([np.atleast_2d(x) for x in values])
      statistics = together.mean(axis=0), together.var(axis=0)
    return [normalized(x, weights, name, *statistics) for x in values]

  pooled = [[] for _ in valid]
  for index, features in enumerate((slice(0, 3), slice(3, 5))):
    name, groups = f"feature_{index}", 2 - index
    clusters = num_clusters // (index + 1)
    expanded = [
      dense(frames[:, features], weights, f"{name}_expansion")
      for frames in valid
    ]
    scores = normalized_together(
      [dense(frames, weights, f"{name}_clusters") for frames in expanded],
      f"{name}_clusters_bn",
    )
    vectors = []
    for frames, score in zip(expanded, scores, strict=True):
      attention = classified(frames, weights, f"{name}_attention")
      # (frames, groups, ...) -> frames and groups alike.
      assignment = softmax(score.reshape(-1, groups, clusters))
      assignment = assignment * attention[:, :, None]
      vectors.append(
        vlad(
          frames.reshape(len(frames) * groups, -1),
          assignment.reshape(-1, clusters),
          weights[f"{name}_vlad/vlad/centers"],
        )
      )
    for video, vector in enumerate(
      normalized_together(vectors, f"{name}_vlad_bn")
    ):
      pooled[video].append(vector)
  hidden = normalized_together(
    [dense(np.concatenate(x), weights, "hidden") for x in pooled], "hidden_bn"
  )
  gates = normalized_together(
    [dense(x, weights, "gate_inner") for x in hidden], "gate_inner_bn"
  )
  gates = [classified(relu(x), weights, "gate_outer") for x in gates]
  return [
    classified(x * gate, weights) for x, gate in zip(hidden, gates, strict=True)
  ]


SMALL_NEXT_VLAD = {
  "nextvlad_groups": 2,
  "nextvlad_hidden_size": 6,
  "nextvlad_gating_reduction": 2,
  "dropout_rate": 0.0,
}


# Of two clusters the second feature has one: a single score to normalise, and
# a softmax that is 1, of which Keras warns.
@pytest.mark.filterwarnings("ignore:You are using a softmax")
@pytest.mark.parametrize("clusters", [4, 2])
@pytest.mark.parametrize("training", [True, False])
def test_next_vlad_model_against_plain_loops(clusters, training):
  model = build(
    "NextVladModel",
    "3,2",
    3,
    nextvlad_cluster_size=clusters,
    **SMALL_NEXT_VLAD,
  )
  weights = {**random_weights(model), **random_statistics(model)}
  for layer in ("feature_0_clusters", "hidden", "gate_inner", "gate_outer"):
    assert f"{layer}/bias" not in weights
  frames = random_frames(NUM_FRAMES, 9, 5)
  expected = next_vlad_predictions(
    valid_parts(frames, NUM_FRAMES), weights, clusters, training
  )
  np.testing.assert_allclose(
    predict(model, frames, NUM_FRAMES, training), expected, atol=1e-4
  )


def test_next_vlad_model_refuses_groups_that_do_not_fit():
  with pytest.raises(ValueError, match="--nextvlad_groups"):
    build("NextVladModel", "3,2", 4, nextvlad_groups=4)


# --------------------------------------------------------------------------
# Sizes of the other models


@pytest.mark.parametrize(
  ("name", "feature_sizes", "classes", "hyperparameters", "millions"),
  [
    ("NetVladModel", "1024,128", 3862, {}, 321.5),
    ("NextVladModel", "1024,128", 3862, {}, 88.9),
    (
      "NextVladModel",
      "1024,128",
      3862,
      {"nextvlad_cluster_size": 112},
      79.2,
    ),
    ("CnnLstmModel", "1024", 10, {}, 4.21),
  ],
)
def test_sizes_are_the_published_ones(
  name, feature_sizes, classes, hyperparameters, millions
):
  count = count_trainable(name, feature_sizes, classes, **hyperparameters)
  assert count / 1e6 == pytest.approx(millions, rel=0.002)


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
