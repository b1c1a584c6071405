"""Small frame-level models, and plain loops that they are compared with."""

import re

import numpy as np
import tensorflow as tf

import models

# Valid frames of the three videos of random_frames.
NUM_FRAMES = [6, 3, 1]


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


def random_weights(model, scale=0.8):
  """Sets all trainable weights at random; returns them by path, in float64."""
  generator = np.random.default_rng(1)
  weights = {}
  for variable in model.trainable_variables:
    value = generator.normal(scale=scale, size=variable.shape)
    variable.assign(value)
    weights[variable.path] = value
  return weights


def random_statistics(model):
  """Sets all moving means and variances at random; returns them by path."""
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


def vlad(frames, assignment, centers):
  """V_k = sum_t a_tk (x_t - c_k), each divided by its length; concatenated."""
  vectors = []
  for cluster, center in enumerate(centers):
    vector = np.zeros(frames.shape[1])
    for frame, assigned in zip(frames, assignment, strict=True):
      vector += assigned[cluster] * (frame - center)
    vectors.append(unit(vector))
  return np.concatenate(vectors)


def normalized(values, weights, name, mean=None, variance=None):
  """Batch normalization, by the moving statistics unless others are given."""
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
  # In a separate graph TensorFlow records how the variables would be
  # initialized without doing it: the largest have a gigabyte.
  with tf.Graph().as_default():
    model = build(model_name, feature_sizes, num_classes, **hyperparameters)
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


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


def bidirectional_states(frames, weights, name):
  """The states of a bidirectional LSTM on only the valid frames."""
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


def valid_parts(frames, num_frames):
  """The valid frames of each video."""
  return [frames[video, :valid] for video, valid in enumerate(num_frames)]


def without_counters(path):
  """A variable's path without the number in forward_lstm_3.

  Keras counts the LSTMs of the whole process there.
  """
  return re.sub(r"(for|back)ward_lstm(_\d+)?/", r"\1ward/", path)
