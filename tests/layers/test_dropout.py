"""Tests of layers.dropout."""

import numpy as np
import pytest
import tensorflow as tf

from layers import dropout


@pytest.mark.parametrize("compiled", [True, False])
def test_dropout(compiled):
  """A part is zero, the rest is scaled up; another part in the next step."""
  layer = dropout.Dropout(0.3)
  run = tf.function(
    lambda values: layer(values, training=True), jit_compile=compiled
  )
  values = tf.random.stateless_uniform((300, 400), (1, 2), 1.0, 2.0)
  first, second = run(values).numpy(), run(values).numpy()
  for found in (first, second):
    kept = found > 0
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    # No row or column is dropped more often than the others.
    assert abs(kept.mean(axis=0) - 0.7).max() < 0.15
    assert abs(kept.mean(axis=1) - 0.7).max() < 0.15
    np.testing.assert_allclose(
      found[kept], values.numpy()[kept] / 0.7, rtol=1e-6
    )
  together = ((first > 0) & (second > 0)).mean()
  assert together == pytest.approx(0.49, abs=0.01)
  assert layer(values, training=False) is values


def test_dropout_refuses_a_rate_that_leaves_nothing():
  with pytest.raises(ValueError, match=r"below 1, received 1\.0"):
    dropout.Dropout(1.0)
