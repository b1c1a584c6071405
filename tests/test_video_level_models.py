"""Tests of video_level_models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
import video_level_models


def build(model, feature_sizes, num_classes, **hyperparameters):
  """A model on features of some sizes: 24, or "24,8"."""
  sizes = str(feature_sizes).split(",")
  return models.build_model(
    {
      "model": model,
      "feature_names": ",".join(f"feature{n}" for n in range(len(sizes))),
      "feature_sizes": str(feature_sizes),
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


def random_weights(model):
  """Sets all weights at random, but not the seeds; returns them by path."""
  generator = np.random.default_rng(1)
  weights = {}
  for variable in model.variables:
    if "seed_generator" not in variable.path:
      value = generator.normal(size=variable.shape)
      if "variance" in variable.path:
        value = abs(value) + 0.5
      variable.assign(value)
      weights[variable.path] = value
  return weights


def random_videos(size):
  """Four vectors of length 1."""
  videos = np.random.default_rng(2).normal(size=(4, size))
  return videos / np.linalg.norm(videos, axis=1, keepdims=True)


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))


def dense(values, weights, name):
  return values @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def count_trainable(model_name, feature_sizes, num_classes, **hyperparameters):
  """The number of trainable numbers in a model, which it does not allocate."""
  # In a separate graph TensorFlow records how the variables would be
  # initialized without doing it: the largest have a gigabyte.
  with tf.Graph().as_default():
    model = build(model_name, feature_sizes, num_classes, **hyperparameters)
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def predict(model, video_matrix, training=False):
  """The predictions of some videos, as an array."""
  video_matrix = np.asarray(video_matrix, np.float32)
  batch = {
    "video_matrix": video_matrix,
    "num_frames": np.ones(len(video_matrix), np.int32),
  }
  return model(batch, training=training)["predictions"].numpy()


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
  assert count_trainable("LogisticModel", 1152, 3862) == 4_452_886


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
  assert count_trainable("MoeModel", 1152, 3862) == 22_252_844


@pytest.mark.parametrize("training", [True, False])
def test_output_gating_against_a_plain_loop(training):
  model = build("MoeModel", 5, 3, moe_output_gating=True)
  weights = random_weights(model)
  assert weights["output_gating_dense/kernel"].shape == (3, 3)
  assert "output_gating_dense/bias" not in weights
  videos = random_videos(5)
  mixed = np.zeros((4, 3))
  for video in range(4):
    gates = np.exp(videos[video] @ weights["gates/kernel"]).reshape(3, 3)
    experts = sigmoid(dense(videos[video], weights, "experts")).reshape(3, 2)
    for label in range(3):
      for expert in range(2):
        # The third gate is the dummy's.
        share = gates[label, expert] / sum(gates[label])
        mixed[video, label] += share * experts[label, expert]
  switches = mixed @ weights["output_gating_dense/kernel"]
  norm = {
    name: weights[f"output_gating_bn/{name}"]
    for name in ("gamma", "beta", "moving_mean", "moving_variance")
  }
  mean, variance = norm["moving_mean"], norm["moving_variance"]
  if training:
    mean, variance = switches.mean(axis=0), switches.var(axis=0)
  normal = (switches - mean) / np.sqrt(variance + 0.001)
  expected = mixed * sigmoid(normal * norm["gamma"] + norm["beta"])
  np.testing.assert_allclose(
    predict(model, videos, training), expected, atol=1e-5
  )


@pytest.mark.parametrize("gating", [False, True])
def test_moe_model_of_exclusive_classes_against_a_plain_loop(gating):
  model = build(
    "MoeModel", 5, 3, moe_output_gating=gating, exclusive_classes=True
  )
  weights = random_weights(model)
  assert weights["gates/kernel"].shape == (5, 2)
  assert weights["experts/kernel"].shape == (5, 2 * 3)
  videos = random_videos(5)
  expected = np.zeros((4, 3))
  for video in range(4):
    gates = np.exp(videos[video] @ weights["gates/kernel"])
    # One expert's classes come first, then the other's.
    experts = np.exp(dense(videos[video], weights, "experts")).reshape(2, 3)
    for expert in range(2):
      share = gates[expert] / sum(gates)
      expected[video] += share * experts[expert] / sum(experts[expert])
    if gating:
      switches = expected[video] @ weights["output_gating_dense/kernel"]
      mean, variance, gamma, beta = (
        weights[f"output_gating_bn/{name}"]
        for name in ("moving_mean", "moving_variance", "gamma", "beta")
      )
      normal = (switches - mean) / np.sqrt(variance + 0.001)
      expected[video] *= sigmoid(normal * gamma + beta)
      assert abs(sum(expected[video]) - 1.0) > 0.1  # else no need to divide
      expected[video] /= sum(expected[video])
  np.testing.assert_allclose(predict(model, videos), expected, atol=1e-5)


def test_there_is_no_output_gating_by_default():
  model = build("MoeModel", 5, 3)
  assert {variable.path for variable in model.variables} == {
    "gates/kernel",
    "experts/kernel",
    "experts/bias",
  }


# --------------------------------------------------------------------------
# DeepNnModel


def deep_nn_predictions(videos, weights, towers, joint):
  """The predictions without dropout; towers and joint count layers."""
  vectors = []
  for index, values in enumerate((videos[:, :3], videos[:, 3:])):
    for layer in range(towers):
      name = f"tower_{index}_{layer}"
      values = np.maximum(dense(values, weights, name), 0.0)
    vectors.append(values)
  hidden = np.concatenate(vectors, axis=1)
  for layer in range(joint):
    hidden = np.maximum(dense(hidden, weights, f"joint_{layer}"), 0.0)
  return sigmoid(dense(hidden, weights, "classifier"))


@pytest.mark.parametrize(
  ("towers", "joint"), [("6,4", "5"), ("4", "6,5"), ("", "6"), ("4", "")]
)
def test_deep_nn_model_against_numpy(towers, joint):
  model = build(
    "DeepNnModel", "3,2", 4, nn_tower_sizes=towers, nn_joint_sizes=joint
  )
  weights = random_weights(model)
  num_towers, num_joint = (
    len(sizes.split(",")) if sizes else 0 for sizes in (towers, joint)
  )
  # The layers of two towers, those on them and the classifier.
  assert len(weights) == 2 * (2 * num_towers + num_joint + 1)
  videos = random_videos(5)
  np.testing.assert_allclose(
    predict(model, videos),
    deep_nn_predictions(videos, weights, num_towers, num_joint),
    atol=1e-5,
  )


def test_a_tower_sees_its_own_feature_only():
  model = build(
    "DeepNnModel", "3,2", 4, nn_tower_sizes="6,4", nn_joint_sizes="5"
  )
  weights = random_weights(model)
  videos = random_videos(5)
  # Changing the sign of a feature does not change the length of a vector.
  other_rgb = videos * [-1, -1, -1, 1, 1]
  other_audio = videos * [1, 1, 1, -1, -1]
  kernel = model.get_layer("joint_0").kernel
  assert kernel.shape == (8, 5)
  rows = np.arange(8)[:, None]
  for heard, same, different in (
    (rows < 4, other_audio, other_rgb),
    (rows >= 4, other_rgb, other_audio),
  ):
    # The joint layer gets only one tower.
    kernel.assign(weights["joint_0/kernel"] * heard)
    expected = predict(model, videos)
    np.testing.assert_array_equal(predict(model, same), expected)
    changes = abs(predict(model, different) - expected)
    assert changes.max(axis=1).min() > 1e-3


def test_deep_nn_model_leaves_units_out_in_training():
  sizes = {"nn_tower_sizes": "6", "nn_joint_sizes": "200"}
  model = build("DeepNnModel", "3,2", 4, **sizes)
  all_units = build("DeepNnModel", "3,2", 4, dropout_rate=0.0, **sizes)
  weights = random_weights(model)
  set_weights(all_units, weights)
  videos = random_videos(5)
  expected = predict(model, videos)
  # A rate of 0 drops nothing in training either.
  np.testing.assert_allclose(
    predict(all_units, videos, training=True), expected, atol=1e-6
  )
  assert abs(predict(model, videos, training=True) - expected).max() > 0.01
  # Only the output of the last layer: the classifier's bias stays.
  model.get_layer("classifier").kernel.assign(np.zeros((200, 4)))
  np.testing.assert_allclose(
    predict(model, videos, training=True),
    np.tile(sigmoid(weights["classifier/bias"]), (4, 1)),
    atol=1e-6,
  )


def test_the_preset_has_as_many_weights_as_the_thesiss_network():
  count = count_trainable(
    "DeepNnModel",
    "1024,128",
    3846,
    **video_level_models.DeepNnModel.presets["thesis"],
  )
  # Of two towers the layers behind the first: 512 * 1024 + 1024 = 525,312;
  # 1024 * 4096 + 4096 = 4,198,400; 4096 * 8192 + 8192 = 33,562,624;
  # 8192 * 4096 + 4096 = 33,558,528: together 143,689,728. The first layers
  # (1024 + 1 + 128 + 1) * 512 = 590,848. Joint (8192 + 1) * 4096 = 33,558,528,
  # classifier (4096 + 1) * 3846 = 15,757,062.
  assert count == 193_596_166


def test_the_preset_of_deep_nn_model_against_numpy():
  preset = video_level_models.DeepNnModel.presets["thesis"]
  sizes = {"nn_tower_sizes": "6,4,5,classes,3", "nn_joint_sizes": "5"}
  model = build("DeepNnModel", "3,2", 4, **{**preset, **sizes})
  for layer in model.layers:
    if isinstance(layer, keras.layers.Dense):
      own = keras.layers.Dense(1)
      assert isinstance(layer.kernel_initializer, type(own.kernel_initializer))
      assert isinstance(layer.bias_initializer, type(own.bias_initializer))
  weights = random_weights(model)
  assert weights["tower_1_3/kernel"].shape == (5, 4)
  videos = random_videos(5)
  expected = deep_nn_predictions(videos, weights, 5, 1)
  # No dropout.
  for training in (False, True):
    np.testing.assert_allclose(
      predict(model, videos, training=training), expected, atol=1e-5
    )


# --------------------------------------------------------------------------
# Regularization


@pytest.mark.parametrize(
  ("name", "num_weights"),
  # Kernels of 3 features and 2 classes: 3 * 2; 3 * (2 * 3 + 2 * 2).
  [("LogisticModel", 6), ("MoeModel", 30)],
)
@pytest.mark.parametrize(
  ("hyperparameters", "penalty"), [({}, 1e-8), ({"l2_penalty": 0.5}, 0.5)]
)
def test_kernels_are_regularized(name, num_weights, hyperparameters, penalty):
  model = build(name, 3, 2, **hyperparameters)
  for variable in model.trainable_variables:
    variable.assign(keras.ops.full(variable.shape, 10.0))
  # Half the sum of squares; not of the biases.
  expected = penalty * num_weights * 100.0 / 2
  loss = models.regularization_loss(model, {})
  assert float(loss) == pytest.approx(expected, rel=1e-5)
