"""Tests of weights in float16."""

import numpy as np
import pytest
from conftest import error_of
from tiny_runs import TINY_FLAGS

import models
from engine import half_weights
from engine.checkpoints import Checkpoints, load_weights

# It has a matrix, a bias and, by the last one, statistics.
FLAGS = {
  **TINY_FLAGS,
  "model": "DbofModel",
  "frame_features": True,
  "dbof_cluster_size": 4,
  "dbof_hidden_size": 3,
}


def fill(model, scale=1.0):
  """Sets random float weights; returns those of all variables."""
  random = np.random.default_rng(3)
  for variable in model.variables:
    if variable.dtype.startswith("float"):
      variable.assign(scale * random.random(variable.shape))
  return [variable.numpy() for variable in model.variables]


def save(model, folder) -> str:
  state = {half_weights.PART: half_weights.to_store(model)}
  return Checkpoints(str(folder), 1, **state).save(7)


def test_matrices_are_rounded_and_vectors_are_not(tmp_path):
  model = models.build_model(FLAGS)
  before = fill(model)
  path = save(model, tmp_path)
  for variable in model.variables:
    variable.assign(np.zeros(variable.shape))
  load_weights(model, path)
  dtypes = set()
  for variable, value in zip(model.variables, before, strict=True):
    expected = value
    if value.dtype == np.float32 and value.ndim > 1:
      expected = value.astype(np.float16).astype(np.float32)
      assert not np.array_equal(expected, value)
    dtypes.add((value.dtype.name, value.ndim > 1))
    np.testing.assert_array_equal(variable.numpy(), expected)
    assert variable.numpy().dtype == value.dtype
  assert {("float32", True), ("float32", False)} <= dtypes


def test_bytes_by_hand(tmp_path):
  model = models.build_model(TINY_FLAGS)
  path = save(model, tmp_path / "half")
  assert half_weights.weight_bytes(model, path) == 2 * 7 * 6 + 4 * 6
  path = Checkpoints(str(tmp_path / "whole"), 1, model=model).save(1)
  assert half_weights.weight_bytes(model, path) == 4 * (7 * 6 + 6)


def test_a_weight_that_is_too_large():
  model = models.build_model(TINY_FLAGS)
  fill(model, 60000)
  half_weights.to_store(model)
  fill(model, 70000)
  text = error_of(half_weights.to_store, model)
  assert "Expected weights up to 65504 for --float16, received 6" in text
  assert "fully_connected/kernel" in text
  fill(model, np.nan)
  assert "received nan" in error_of(half_weights.to_store, model)


@pytest.mark.parametrize(
  "changes",
  [{"num_classes": 5}, {"model": "MoeModel"}, {"model": "DeepNnModel"}],
)
def test_weights_of_another_model(tmp_path, changes):
  path = save(models.build_model(TINY_FLAGS), tmp_path)
  other = models.build_model({**TINY_FLAGS, **changes})
  text = error_of(load_weights, other, path)
  assert "Expected the weights of the model that model_flags.json" in text
