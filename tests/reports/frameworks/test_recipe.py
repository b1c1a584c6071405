"""Tests of reports.frameworks.recipe."""

import keras
import numpy as np
import pytest
from jobs_for_tests import make_job

import losses
import models
from reports.frameworks import recipe


def cross_entropy(predictions, labels):
  right = np.where(labels, predictions, 1.0 - predictions)
  return -np.log(right + 1e-5).sum(axis=1).mean()


def test_the_loss_has_all_that_a_model_returns():
  random = np.random.default_rng(0)
  one, other = random.uniform(0.1, 0.9, size=(2, 3, 4)).astype(np.float32)
  labels = random.integers(2, size=(3, 4)).astype(bool)
  loss = losses.CrossEntropyLoss()
  plain = recipe.training_loss({"predictions": one}, [], loss, labels)
  assert float(plain) == pytest.approx(cross_entropy(one, labels), rel=1e-5)
  outputs = {
    "predictions": one,
    "auxiliary_predictions": [other],
    "auxiliary_losses": {"a": np.float32(3.0), "b": np.float32(0.5)},
    "regularization_loss": np.float32(20.0),
  }
  whole = recipe.training_loss(outputs, [np.float32(100.0)], loss, labels)
  expected = cross_entropy(one, labels) + cross_entropy(other, labels) + 123.5
  assert float(whole) == pytest.approx(expected, rel=1e-5)


def test_weights_return_in_their_places(tmp_path):
  job = make_job(tmp_path, [])
  model = models.build_model(job.model_flags)
  expected = [
    np.random.default_rng(place).normal(size=one.shape)
    for place, one in enumerate(model.weights)
  ]
  model.set_weights(expected)
  recipe.write_weights(model, job.weights)
  keras.backend.clear_session()
  found = recipe.build_model(job).get_weights()
  assert len(found) == len(expected) > 1
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_corrections():
  assert recipe.corrections(1) == pytest.approx((0.1, 0.001), rel=1e-12)
  assert recipe.corrections(2) == pytest.approx((0.19, 0.001999), rel=1e-9)


@pytest.mark.parametrize(
  ("shape", "number"),
  [((2, 3), 6), ((100_000,), 100_000), ((300, 500), 75_000)],
)
def test_some_numbers(shape, number):
  values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  found = recipe.some_numbers(values)
  assert len(found) == number
  assert found[0] == 0
  assert len(set(np.diff(found).tolist())) == 1
