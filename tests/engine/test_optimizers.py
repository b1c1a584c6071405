"""Tests of engine.optimizers: names, settings, weight decay, private API."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import errors
from engine import optimizers


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("AdamOptimizer", keras.optimizers.Adam),
    ("GradientDescentOptimizer", keras.optimizers.SGD),
    ("MomentumOptimizer", keras.optimizers.SGD),
    ("RMSPropOptimizer", keras.optimizers.RMSprop),
    ("AdagradOptimizer", keras.optimizers.Adagrad),
    ("AdadeltaOptimizer", keras.optimizers.Adadelta),
    ("FtrlOptimizer", keras.optimizers.Ftrl),
    ("Adam", keras.optimizers.Adam),
    ("AdamW", keras.optimizers.AdamW),
    ("SGD", keras.optimizers.SGD),
    ("RMSprop", keras.optimizers.RMSprop),
    ("Lion", keras.optimizers.Lion),
    ("CenteredRMSProp", optimizers.CenteredRMSProp),
  ],
)
def test_optimizer_names(name, expected):
  assert type(optimizers.make_optimizer(name)) is expected


def test_optimizer_settings_are_the_starters():
  for name in ("Adam", "AdamOptimizer"):
    adam = optimizers.make_optimizer(name)
    assert adam.epsilon == 1e-8
    assert (adam.beta_1, adam.beta_2) == (0.9, 0.999)
  assert optimizers.make_optimizer("MomentumOptimizer").momentum == 0.9
  assert optimizers.make_optimizer("GradientDescentOptimizer").momentum == 0.0
  # TensorFlow 1's defaults.
  rmsprop = optimizers.make_optimizer("RMSPropOptimizer")
  assert (rmsprop.rho, rmsprop.momentum) == (0.9, 0.0)
  adagrad = optimizers.make_optimizer("AdagradOptimizer")
  assert adagrad.initial_accumulator_value == 0.1


def optimizer_error(name):
  with pytest.raises(errors.UserError) as caught:
    optimizers.make_optimizer(name)
  return str(caught.value)


@pytest.mark.parametrize(
  "name",
  # The last one is a class, but needs another optimizer.
  ["NoSuch", "Optimizer", "adam", "get", "", "LossScaleOptimizer"],
)
def test_unknown_optimizer(name):
  text = optimizer_error(name)
  assert f"received {name!r}" in text
  for known in ("Adam", "SGD", "RMSprop", "Adagrad", "CenteredRMSProp"):
    assert re.search(rf"\b{known}\b", text)


def test_an_optimizer_that_was_meant():
  assert "Did you mean AdamW?" in optimizer_error("AdamWW")
  assert "Did you mean AdamOptimizer?" in optimizer_error("AdamOptimiser")


def test_all_optimizers_of_the_error_message_can_be_made():
  listed = optimizer_error("NoSuch").split("Available: ")[1].rstrip(".")
  for name in listed.split(", "):
    assert type(optimizers.make_optimizer(name)).__name__ == name


# --------------------------------------------------------------------------
# CenteredRMSProp


def steps_of_centered_rmsprop(gradients):
  """The weights after each step from 0, with a learning rate of 0.5."""
  variable = keras.Variable(tf.zeros([2]))
  optimizer = optimizers.make_optimizer("CenteredRMSProp")
  optimizer.build([variable])
  optimizer.learning_rate.assign(0.5)
  weights = []
  for gradient in gradients:
    optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    weights.append(variable.numpy())
  return np.array(weights)


def test_centered_rmsprop_against_a_plain_loop():
  gradients = np.random.default_rng(4).normal(size=(20, 2))
  square = mean = weight = np.zeros(2)
  expected = []
  for gradient in gradients:
    square = 0.95 * square + 0.05 * gradient**2
    mean = 0.95 * mean + 0.05 * gradient
    weight = weight - 0.5 * gradient / np.sqrt(square - mean**2 + 1e-10)
    expected.append(weight)
  steps = steps_of_centered_rmsprop(gradients)
  np.testing.assert_allclose(steps, expected, rtol=1e-4)


def test_a_constant_gradient_is_no_root_of_a_negative_number():
  # Keras's own gives NaN here: the variance is 0, or just below it by rounding.
  steps = steps_of_centered_rmsprop([[0.7, 3.0]] * 1000)
  assert np.isfinite(steps).all()


# --------------------------------------------------------------------------
# Weight decay


def make_model():
  inputs = keras.Input((3,))
  hidden = keras.layers.Dense(4, name="hidden")(inputs)
  hidden = keras.layers.BatchNormalization(name="bn")(hidden)
  return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))


@pytest.mark.parametrize(
  "name", ["AdamOptimizer", "AdamW", "SGD", "CenteredRMSProp"]
)
def test_weight_decay_by_hand(name):
  model = make_model()
  for variable in model.trainable_variables:
    variable.assign(tf.ones_like(variable.value) * 2.0)
  optimizer = optimizers.build_optimizer(name, model, weight_decay=0.1)
  optimizer.learning_rate.assign(0.5)
  zeros = [tf.zeros_like(v.value) for v in model.trainable_variables]
  optimizer.apply(zeros, model.trainable_variables)
  for variable in model.trainable_variables:
    decayed = variable.name == "kernel"
    # 2 - 0.5 * 0.1 * 2, only for kernels.
    np.testing.assert_allclose(
      variable.numpy(), 1.9 if decayed else 2.0, err_msg=variable.path
    )


def test_without_weight_decay_nothing_changes():
  model = make_model()
  before = [variable.numpy() for variable in model.trainable_variables]
  optimizer = optimizers.build_optimizer("AdamW", model, weight_decay=0.0)
  optimizer.learning_rate.assign(0.5)
  zeros = [tf.zeros_like(v.value) for v in model.trainable_variables]
  optimizer.apply(zeros, model.trainable_variables)
  for variable, old in zip(model.trainable_variables, before, strict=True):
    np.testing.assert_array_equal(variable.numpy(), old)


# --------------------------------------------------------------------------
# Keras's private API


def test_keras_still_sums_gradients_where_this_project_leaves_it_out():
  """If this fails, see how Keras's optimizer now sums over replicas."""
  optimizer = keras.optimizers.SGD(learning_rate=1.0)
  called = []

  def record(pairs):
    called.append(pairs)
    return pairs

  assert callable(optimizer._all_reduce_sum_gradients)
  optimizer._all_reduce_sum_gradients = record
  variable = keras.Variable(tf.ones([2]))
  optimizer.build([variable])
  optimizer.apply([tf.ones([2])], [variable])
  assert len(called) == 1
  np.testing.assert_array_equal(variable.numpy(), [0.0, 0.0])
