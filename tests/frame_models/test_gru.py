"""Tests of frame_models.gru."""

import numpy as np
import pytest
from small_models import (
  NUM_FRAMES,
  build,
  classified,
  predict,
  random_frames,
  random_weights,
  sigmoid,
  valid_parts,
)

import models


def gru_states(frames, weights, prefix):
  """The states of a GRU after each of (frames, features), (frames, units).

  Keras keeps the gates in the order update, reset, candidate, and applies the
  reset gate after the product with the state, as cuDNN does.
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


@pytest.mark.parametrize(
  ("penalty", "weight"), [({}, 1e-6), ({"l2_penalty": 0.5}, 0.5)]
)
def test_the_classifier_of_gru_model_has_the_published_penalty(penalty, weight):
  model = build("GruModel", "3,2", 4, gru_cells=3, **penalty)
  weights = random_weights(model)
  # Half the sum of squares of the classifier's kernels, no others.
  expected = sum(
    0.5 * weight * (weights[f"{name}/kernel"] ** 2).sum()
    for name in ("gates", "experts")
  )
  loss = float(models.regularization_loss(model, {}))
  assert loss == pytest.approx(expected, rel=1e-5)
