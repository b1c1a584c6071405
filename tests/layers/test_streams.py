"""Tests of layers.streams."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
  NUM_FRAMES,
  bidirectional_states,
  dense,
  lstm_states,
  random_frames,
  random_weights,
  relu,
  valid_parts,
)

from layers import masking, recurrent, streams

LENGTH = 7


def stack(direction):
  """A model of three stacked LSTMs of 3 units on 4 features."""
  frames = keras.Input((None, 4))
  num_frames = keras.Input((), dtype="int32")
  mask = masking.FrameMask()(frames, num_frames)
  states = frames
  for layer in range(3):
    states = streams.stacked_lstm(
      states, mask, 3, direction, layer, f"lstm_{layer}"
    )
  return keras.Model([frames, num_frames], states)


def states_of_loops(frames, weights, direction):
  """The states of the stack for the valid frames of a video."""
  for layer in range(3):
    name = f"lstm_{layer}"
    if direction == "both":
      frames = bidirectional_states(frames, weights, name)
    elif layer == 1:
      frames = lstm_states(frames[::-1], weights, f"{name}/lstm_cell")[::-1]
    else:
      frames = lstm_states(frames, weights, f"{name}/lstm_cell")
  return frames


@pytest.mark.parametrize("direction", ["both", "alternating"])
def test_stacked_lstms_against_plain_loops(direction):
  model = stack(direction)
  weights = random_weights(model)
  frames = random_frames(NUM_FRAMES, LENGTH, 4)
  states = model([frames, np.array(NUM_FRAMES)], training=False).numpy()
  assert states.shape == (3, LENGTH, 6 if direction == "both" else 3)
  parts = valid_parts(frames, NUM_FRAMES)
  for video, valid in enumerate(parts):
    np.testing.assert_allclose(
      states[video, : len(valid)],
      states_of_loops(valid, weights, direction),
      atol=1e-5,
    )


def test_alternating_lstms_are_the_same_packed_and_in_keras_loops():
  model = stack("alternating")
  random_weights(model)
  frames = tf.constant(random_frames(NUM_FRAMES, LENGTH, 4), tf.float32)
  is_valid = np.arange(LENGTH)[:, None] < np.array(NUM_FRAMES)[:, None, None]
  watched = [frames, *(v.value for v in model.trainable_variables)]
  results = []
  for keras_loops in (False, True):
    with recurrent.keras_loops(keras_loops), tf.GradientTape() as tape:
      tape.watch(frames)
      states = model([frames, tf.constant(NUM_FRAMES)], training=True)
      states = tf.where(is_valid, states, 0.0)
      loss = tf.reduce_sum(tf.square(states))
    results.append([states, *tape.gradient(loss, watched)])
  for packed, looped in zip(*results, strict=True):
    assert abs(packed.numpy()).max() > 0.01
    np.testing.assert_allclose(packed, looped, atol=1e-4)


def test_a_stream_against_plain_loops():
  settings = streams.Streams(
    stream_dense_size=4,
    stream_activation="tanh",
    lstm_cells=None,
    lstm_layers=1,
    lstm_direction="alternating",
    stream_dropout_rate=0.0,
    stream_frame_size=2,
    stream_hidden_sizes="6,classes",
    initial_weights="he",
  )
  features = [keras.Input((None, size)) for size in (3, 2)]
  num_frames = keras.Input((), dtype="int32")
  pooled = streams.lstm_streams(features, num_frames, [5, 4], 7, settings)
  model = keras.Model([*features, num_frames], pooled)
  weights = random_weights(model)
  frames = [random_frames(NUM_FRAMES, LENGTH, size) for size in (3, 2)]
  received = model([*frames, np.array(NUM_FRAMES)], training=False)
  for stream, cells in enumerate((5, 4)):
    name = f"stream_{stream}"
    assert weights[f"{name}_frame/kernel"].shape == (cells, 2)
    for video, valid in enumerate(valid_parts(frames[stream], NUM_FRAMES)):
      states = np.tanh(dense(valid, weights, f"{name}_dense"))
      states = lstm_states(states, weights, f"{name}_lstm_0/lstm_cell")
      vector = relu(dense(states, weights, f"{name}_frame")).max(axis=0)
      for layer in range(2):
        vector = relu(dense(vector, weights, f"{name}_hidden_{layer}"))
      assert vector.shape == (7,)
      np.testing.assert_allclose(
        received[stream][video], vector, rtol=1e-5, atol=1e-5
      )
