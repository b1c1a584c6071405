"""Streams of LSTMs: each feature of the frames becomes a vector by itself.

Shapes in comments: B videos, T frames, D features.
"""

import typing

import keras
from keras import ops

from layers import classifiers, dropout, masking, recurrent


def stacked_lstm(states, mask, cells, direction, layer, name):
  """One of several stacked LSTMs, over the valid frames.

  Args:
    states: (B, T, D) float.
    mask: (B, T) bool.
    cells: units of each direction.
    direction: "both", or "alternating": forward in layers 0, 2 and so on,
      backward in the others.
    layer: its number, from 0.
    name: of the layer.

  Returns:
    The states in the order of the frames, (B, T, 2 cells) for both directions,
    otherwise (B, T, cells).
  """
  if direction == "both":
    return keras.layers.Bidirectional(
      recurrent.LSTM(cells, return_sequences=True, name="lstm"), name=name
    )(states, mask=mask)
  backwards = layer % 2 == 1
  states = recurrent.LSTM(
    cells, return_sequences=True, go_backwards=backwards, name=name
  )(states, mask=mask)
  # Keras returns the states of a backward LSTM with the last frame first.
  return ops.flip(states, axis=1) if backwards else states


class Streams(typing.NamedTuple):
  """How each stream is built; see the flags in frame_models/thesis.py."""

  stream_dense_size: int
  stream_activation: str
  lstm_cells: int | None
  lstm_layers: int
  lstm_direction: str
  stream_dropout_rate: float
  stream_frame_size: int
  stream_hidden_sizes: str
  initial_weights: str


def lstm_streams(features, num_frames, cells, vocab_size, settings):
  """A stream of LSTMs for each feature.

  Dense layer -> LSTMs -> dropout -> ReLU layer on each frame, if any -> largest
  value over the valid frames -> fully connected ReLU layers.

  Args:
    features: a (B, T, D) float for each stream.
    num_frames: (B,) int32.
    cells: units of each direction of the LSTMs of each stream, where
      settings.lstm_cells is None.
    vocab_size: number of classes.
    settings: Streams.

  Returns:
    A (B, the last size) for each stream.
  """
  mask = masking.FrameMask()(features[0], num_frames)
  pooled = []
  for stream, states in enumerate(features):
    name = f"stream_{stream}"
    states = keras.layers.Dense(
      settings.stream_dense_size,
      activation=settings.stream_activation,
      name=f"{name}_dense",
    )(states)
    for layer in range(settings.lstm_layers):
      states = stacked_lstm(
        states,
        mask,
        settings.lstm_cells or cells[stream],
        settings.lstm_direction,
        layer,
        f"{name}_lstm_{layer}",
      )
    if settings.stream_dropout_rate:
      states = dropout.Dropout(settings.stream_dropout_rate)(states)
    if settings.stream_frame_size:
      states = keras.layers.Dense(
        settings.stream_frame_size, activation="relu", name=f"{name}_frame"
      )(states)
    pooled.append(
      classifiers.dense_layers(
        masking.MaskedMax()(states, mask),
        settings.stream_hidden_sizes,
        f"{name}_hidden",
        vocab_size,
        settings.initial_weights,
      )
    )
  return pooled
