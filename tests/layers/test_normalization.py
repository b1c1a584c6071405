"""Tests of layers.normalization."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_loops import (
  NUM_FRAMES,
  SIZE,
  mask_of,
  masked_values,
  randomize,
  sigmoid,
)

from layers import normalization


def test_batch_normalization_has_the_starter_codes_settings():
  layer = normalization.batch_normalization()
  inputs = np.array([[4.0], [8.0]], np.float32)
  layer.build(inputs.shape)
  layer.num_updates.assign(8990.0)
  layer(inputs, training=True)
  # From step 8990 on, (1 + n) / (10 + n) = 8991 / 9000, the momentum is 0.999:
  # 0.999 * 0 + 0.001 * 6 and 0.999 * 1 + 0.001 * 4
  np.testing.assert_allclose(layer.moving_mean, [0.006], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [1.003], rtol=1e-6)
  layer.moving_mean.assign([2.0])
  layer.moving_variance.assign([3.999])
  # (4 - 2) / sqrt(3.999 + 0.001), (8 - 2) / 2
  np.testing.assert_allclose(
    layer(inputs, training=False), [[1.0], [3.0]], rtol=1e-6
  )


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalization_knows_the_data_from_the_first_steps_on(compiled):
  layer = normalization.batch_normalization()
  inputs = np.array([[4.0], [8.0]], np.float32)
  layer.build(inputs.shape)

  def step():
    layer(inputs, training=True)

  step = tf.function(step, jit_compile=True) if compiled else step
  step()
  # Momentum 1 / 10: 0.1 * 0 + 0.9 * 6 and 0.1 * 1 + 0.9 * 4
  np.testing.assert_allclose(layer.moving_mean, [5.4], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [3.7], rtol=1e-4)
  step()
  # Momentum 2 / 11: 5.4 * 2 / 11 + 6 * 9 / 11 and 3.7 * 2 / 11 + 4 * 9 / 11
  np.testing.assert_allclose(layer.moving_mean, [64.8 / 11], rtol=1e-4)
  np.testing.assert_allclose(layer.moving_variance, [43.4 / 11], rtol=1e-4)
  assert float(layer.num_updates) == 2
  layer(inputs, training=False)
  assert float(layer.num_updates) == 2


@pytest.mark.parametrize("training", [True, False])
def test_context_gating_against_a_plain_loop(training):
  features = keras.Input((SIZE,), dtype="float64")
  gated = normalization.context_gating(features, "gate", dtype="float64")
  model = keras.Model(features, gated)
  assert {variable.path for variable in model.variables} == {
    "gate_dense/kernel",
    "gate_bn/gamma",
    "gate_bn/beta",
    "gate_bn/moving_mean",
    "gate_bn/moving_variance",
    "gate_bn/num_updates",
  }
  for layer in model.layers:
    randomize(layer)
  norm = model.get_layer("gate_bn")
  inputs = np.random.default_rng(5).normal(size=(4, SIZE))
  switches = inputs @ model.get_layer("gate_dense").kernel.numpy()
  expected = np.zeros((4, SIZE))
  for feature in range(SIZE):
    mean = norm.moving_mean.numpy()[feature]
    variance = norm.moving_variance.numpy()[feature]
    if training:
      mean = sum(switches[:, feature]) / 4
      variance = sum((switches[:, feature] - mean) ** 2) / 4
    for video in range(4):
      normal = (switches[video, feature] - mean) / math.sqrt(variance + 0.001)
      gate = sigmoid(
        normal * norm.gamma.numpy()[feature] + norm.beta.numpy()[feature]
      )
      expected[video, feature] = inputs[video, feature] * gate
  np.testing.assert_allclose(
    model(inputs, training=training), expected, atol=1e-5
  )


def outputs_and_gradients(layers, inputs, training):
  """Outputs, gradients and statistics of compiled layers in a row."""
  rng = np.random.default_rng(5)
  frames = tf.constant(inputs, tf.float32)
  variables = [value for layer in layers for value in layer.variables]
  trainable = [value.value for value in variables if value.trainable]

  @tf.function
  def run(frames):
    with tf.GradientTape() as tape:
      tape.watch(frames)
      outputs = frames
      for layer in layers:
        outputs = layer(outputs, training=training)
      weight = rng.normal(size=outputs.shape)
      loss = tf.reduce_sum(outputs * tf.constant(weight, tf.float32))
    return outputs, tape.gradient(loss, [frames, *trainable])

  outputs, gradients = run(frames)
  moved = [value.numpy() for value in variables if not value.trainable]
  return [outputs.numpy(), *(value.numpy() for value in gradients), *moved]


class MaxOverFrames(keras.layers.Layer):
  """The plain maximum."""

  def call(self, frames):
    return keras.ops.max(frames, axis=1)


@pytest.mark.parametrize("training", [True, False])
def test_max_of_normalized_is_the_max_after_normalizing(training):
  """Also if gamma reverses the order, and with equal frames."""
  rng = np.random.default_rng(4)
  frames = rng.normal(3.0, 2.0, (5, 7, 6))
  frames[2, 3] = frames[2, 4]
  statistics = rng.uniform(0.5, 2.0, 6), rng.uniform(0.5, 2.0, 6)
  gamma = np.array([1.0, -2.0, 0.5, -0.5, 0.25, 3.0])
  found = []
  for layers in (
    [normalization.batch_normalization(normalization.MaxOfNormalized)],
    [normalization.batch_normalization(), MaxOverFrames()],
  ):
    layers[0].build(frames.shape)
    layers[0].set_weights([gamma, np.arange(6.0), *statistics, np.zeros(())])
    found.append(outputs_and_gradients(layers, frames, training))
  assert len(found[0]) == 1 + 3 + 3
  for one, other in zip(*found, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_max_of_normalized_in_half_precision():
  """Statistics are float32, outputs are not."""
  layer = normalization.batch_normalization(
    normalization.MaxOfNormalized, dtype="mixed_bfloat16"
  )
  frames = np.random.default_rng(4).normal(3.0, 2.0, (5, 7, 6))
  outputs = layer(tf.constant(frames, tf.bfloat16), training=True)
  assert outputs.dtype == tf.bfloat16
  assert layer.moving_mean.dtype == "float32"
  assert layer(keras.KerasTensor((None, 7, 6))).shape == (None, 6)


def test_scaled_dense_is_a_scaling_before_a_dense_layer():
  """Outputs and gradients are equal, and the number of weights."""
  rng = np.random.default_rng(6)
  kernel = rng.normal(size=(6, 3))
  gamma, beta = rng.normal(size=6), rng.normal(size=6)

  class Scaling(keras.layers.Layer):
    def build(self, input_shape):
      self.gamma = self.add_weight(shape=(6,))
      self.beta = self.add_weight(shape=(6,))

    def call(self, inputs):
      return inputs * self.gamma + self.beta

  scaled = normalization.ScaledDense(3)
  scaled.build((None, 4, 6))
  scaled.set_weights([kernel, gamma, beta])
  plain = [Scaling(), keras.layers.Dense(3, use_bias=False)]
  for layer in plain:
    layer.build((None, 4, 6))
  plain[0].set_weights([gamma, beta])
  plain[1].set_weights([kernel])
  inputs = rng.normal(size=(5, 4, 6))
  outputs, d_inputs, *found = outputs_and_gradients([scaled], inputs, True)
  wanted, d_wanted, *others = outputs_and_gradients(plain, inputs, True)
  np.testing.assert_allclose(outputs, wanted, atol=1e-5)
  np.testing.assert_allclose(d_inputs, d_wanted, atol=1e-5)
  for one, other in zip(found, [others[2], *others[:2]], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masked_batch_normalization_against_a_plain_loop():
  frames = masked_values(SIZE)
  layer = normalization.batch_normalization(dtype="float64")
  layer.build(frames.shape)
  randomize(layer)
  layer.num_updates.assign(1e5)  # past the first steps' smaller momentum
  gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
  moving_mean = layer.moving_mean.numpy()
  moving_variance = layer.moving_variance.numpy()
  valid_frames = []
  for video, valid in enumerate(NUM_FRAMES):
    valid_frames.extend(frames[video, frame] for frame in range(valid))
  assert len(valid_frames) == 14
  mean = sum(valid_frames) / 14
  variance = sum((frame - mean) ** 2 for frame in valid_frames) / 14
  outputs = layer(frames, mask=mask_of(), training=True).numpy()
  for video, valid in enumerate(NUM_FRAMES):
    for frame in range(valid):
      normal = (frames[video, frame] - mean) / np.sqrt(variance + 0.001)
      np.testing.assert_allclose(
        outputs[video, frame], gamma * normal + beta, atol=1e-5
      )
  np.testing.assert_allclose(
    layer.moving_mean, 0.999 * moving_mean + 0.001 * mean, atol=1e-5
  )
  np.testing.assert_allclose(
    layer.moving_variance,
    0.999 * moving_variance + 0.001 * variance,
    atol=1e-5,
  )
