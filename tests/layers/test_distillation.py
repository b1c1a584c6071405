"""Tests of layers.distillation."""

import math

import numpy as np
import pytest
import tensorflow as tf
from plain_loops import softmax

from layers import distillation

TEMPERATURE = 3.0


def random_logits():
  """(4, 6) of a mixture and (4, 2, 6) of its branches."""
  random = np.random.default_rng(3)
  return random.normal(size=(4, 6)) * 4.0, random.normal(size=(4, 2, 6)) * 4.0


def plain_loss(mixture, branches):
  """The mean over videos of T^2 KL(p || q), summed over the branches."""
  losses = []
  for video in range(len(mixture)):
    likely = softmax(mixture[video] / TEMPERATURE)
    loss = 0.0
    for branch in branches[video]:
      others = softmax(branch / TEMPERATURE)
      for p, q in zip(likely, others, strict=True):
        loss += p * (math.log(p) - math.log(q))
    losses.append(9.0 * loss)
  return sum(losses) / len(losses)


def test_distillation_against_a_plain_loop():
  mixture, branches = random_logits()
  layer = distillation.Distillation(TEMPERATURE)
  loss = layer(mixture, branches, training=True)
  assert loss.shape == ()
  assert loss.dtype == "float32"
  expected = plain_loss(mixture, branches)
  assert expected > 1.0
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_two_classes_by_hand():
  # p = (3/4, 1/4), q = (1/2, 1/2): log 2 + 3/4 log(3/4) + 1/4 log(1/4).
  mixture = np.array([[3.0 * math.log(3.0), 0.0]])
  loss = distillation.Distillation(TEMPERATURE)(
    mixture, np.zeros((1, 1, 2)), training=True
  )
  assert float(loss) == pytest.approx(9.0 * 0.130812, rel=1e-5)


def test_nothing_to_learn_outside_of_training_or_from_equals():
  mixture, branches = random_logits()
  layer = distillation.Distillation(TEMPERATURE)
  for training in (False, None):
    loss = layer(mixture, branches, training=training)
    assert (float(loss), loss.dtype, loss.shape) == (0.0, "float32", ())
  # A sum over the classes does not change a softmax.
  equal = np.stack([mixture, mixture + 5.0], axis=1)
  assert float(layer(mixture, equal, training=True)) == pytest.approx(
    0.0, abs=1e-5
  )


def test_large_logits_give_finite_losses_and_gradients():
  # exp(-900 / 3) is 0 in float32, and its logarithm would be infinite.
  mixture = tf.constant([[900.0, 0.0, -900.0]])
  branches = tf.constant([[[-900.0, 0.0, 900.0]]])
  with tf.GradientTape() as tape:
    tape.watch([mixture, branches])
    loss = distillation.Distillation(TEMPERATURE)(
      mixture, branches, training=True
    )
  assert float(loss) == pytest.approx(9.0 * 600.0)
  for gradient in tape.gradient(loss, [mixture, branches]):
    assert np.isfinite(gradient).all()


def test_the_gradient_goes_through_both():
  mixture, branches = random_logits()
  variables = [tf.constant(x, "float32") for x in (mixture, branches)]
  with tf.GradientTape() as tape:
    tape.watch(variables)
    loss = distillation.Distillation(TEMPERATURE)(*variables, training=True)
  received = tape.gradient(loss, variables)
  small = 1e-5
  for values, gradient in zip((mixture, branches), received, strict=True):
    expected = np.zeros_like(values)
    for index in np.ndindex(values.shape):
      before = values[index]
      sides = []
      for change in (small, -small):
        values[index] = before + change
        sides.append(plain_loss(mixture, branches))
      values[index] = before
      expected[index] = (sides[0] - sides[1]) / (2 * small)
    assert abs(expected).max() > 0.05
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
