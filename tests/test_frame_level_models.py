"""Tests of frame_level_models, except for the original's models."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
  NUM_FRAMES,
  bidirectional_states,
  build,
  classified,
  count_trainable,
  dense,
  lstm_states,
  normalized,
  predict,
  random_frames,
  random_statistics,
  random_weights,
  relu,
  run,
  valid_parts,
  without_counters,
)

import frame_level_models
import losses

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
    # Each direction has as many units as the stream has features.
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
  # Changing the sign of a feature does not change the length of a frame.
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
  random.seed(1)  # of the initializers; TensorFlow's seed affects other tests
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
  # The best that a decoder that ignores the code can reach.
  constant = ((means - np.mean(means, axis=0)) ** 2).sum(axis=1).mean()
  assert errors[0] > 0.5 * constant
  assert errors[-1] < 0.1 * constant
  assert errors[-1] < 0.1 * errors[0]


# --------------------------------------------------------------------------
# BiLstmModel, SimpleRnnModel


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


# --------------------------------------------------------------------------
# CnnLstmModel


def cnn_lstm_predictions(valid, weights, training):
  """The predictions for the valid frames of videos, without dropout."""
  convolved = valid
  for block in range(3):
    name = f"conv_{block}"
    outputs = []
    for frames in convolved:
      # As if only zeros were around the valid frames.
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
  # Not that of the mean frame: the two must differ here.
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
  # 60 draws miss one of three frames in one of 10^10 runs.
  assert seen[1:] == [{0, 1, 2}, {0}]
  assert seen[0] <= set(range(6))
  assert len(seen[0]) > 3


def test_size_of_cnn_lstm_model():
  count = count_trainable("CnnLstmModel", "1024", 10)
  assert count / 1e6 == pytest.approx(4.21, rel=0.002)
