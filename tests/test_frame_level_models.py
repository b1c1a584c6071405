"""Tests of frame_level_models, except for the original's models."""

import numpy as np
import pytest
from small_models import (
  NUM_FRAMES,
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
  valid_parts,
)

# --------------------------------------------------------------------------
# SimpleRnnModel


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


@pytest.mark.parametrize("cells", ["", "4,", "4,x", "0", "4,\u00b2"])
def test_cnn_lstm_model_refuses_cells_that_are_none(cells):
  with pytest.raises(ValueError, match=r"^Expected .* such as 512,"):
    build("CnnLstmModel", "5", 4, cnn_lstm_cells=cells)


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
