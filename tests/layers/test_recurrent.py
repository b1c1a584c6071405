"""Tests of layers.recurrent against Keras's own layers."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import recurrent

_UNITS = 4
_NUM_FRAMES = (37, 2, 0, 38, 3, 38)
_CASES = {
  "all": {"return_sequences": True},
  "last": {},
  "all_backwards": {"return_sequences": True, "go_backwards": True},
  "last_backwards": {"go_backwards": True},
}


def _pair(name, **settings):
  """The layer and Keras's, with the same random weights, and a video batch."""
  rng = np.random.default_rng(0)
  # Keras repeats the last state in the padding unless told otherwise.
  zeros = settings.get("return_sequences", False)
  layers = [
    getattr(module, name)(_UNITS, zero_output_for_mask=zeros, **settings)
    for module in (recurrent, keras.layers)
  ]
  frames = tf.constant(rng.normal(size=(6, 40, 5)), tf.float32)
  for layer in layers:
    layer.build(frames.shape)
  weights = [rng.normal(size=value.shape) for value in layers[0].weights]
  for layer in layers:
    layer.set_weights(weights)
  return layers, frames


def _mask(num_frames, length=40):
  return tf.sequence_mask(num_frames, length)


def _outputs_and_gradients(layer, frames, mask, training, states=None):
  """Compiled, since that is how models run."""
  rng = np.random.default_rng(1)
  shape = layer(frames, mask=mask).shape
  weight = tf.constant(rng.normal(size=shape), tf.float32)

  @tf.function
  def run(frames, states):
    with tf.GradientTape() as tape:
      tape.watch([frames, *states])
      outputs = layer(
        frames,
        mask=mask,
        training=training,
        initial_state=states if states else None,
      )
      loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weight)
    variables = [value.value for value in layer.trainable_variables]
    return outputs, [
      tf.convert_to_tensor(value)
      for value in tape.gradient(loss, [frames, *states, *variables])
    ]

  return run(frames, [] if states is None else states)


def _assert_equal(found, wanted, rtol=1e-4, atol=1e-5):
  """Compares nests of arrays one by one."""
  for one, other in zip(
    tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@functools.cache
def _keras_results(name, case, training):
  (_, expected), frames = _pair(name, **_CASES[case])
  mask = _mask(_NUM_FRAMES)
  return _outputs_and_gradients(expected, frames, mask, training)


@pytest.mark.parametrize("frames_at_a_time", [16, 4096])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_equals_keras(name, case, training, frames_at_a_time, monkeypatch):
  """Outputs and all gradients, with equal, short and empty videos."""
  monkeypatch.setattr(recurrent, "_FRAMES_AT_A_TIME", frames_at_a_time)
  (layer, _), frames = _pair(name, **_CASES[case])
  found = _outputs_and_gradients(layer, frames, _mask(_NUM_FRAMES), training)
  _assert_equal(found, _keras_results(name, case, training))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_initial_state(name):
  """It is used, and gets its gradient, in the order of the videos."""
  (layer, expected), frames = _pair(name, return_sequences=True)
  mask = _mask([3, 40, 17, 5, 5, 1])
  rng = np.random.default_rng(2)
  states = [
    tf.constant(rng.normal(size=(6, _UNITS)), tf.float32)
    for _ in range(2 if name == "LSTM" else 1)
  ]
  found = _outputs_and_gradients(layer, frames, mask, True, states)
  wanted = _outputs_and_gradients(expected, frames, mask, True, states)
  _assert_equal(found, wanted)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_no_video_has_frames(name):
  """Outputs and gradients are zero then, and there are no NaNs."""
  (layer, _), frames = _pair(name, return_sequences=True)
  outputs, gradients = _outputs_and_gradients(
    layer, frames, _mask([0] * 6), True
  )
  assert not np.any(outputs)
  for gradient in gradients:
    assert not np.any(gradient)


def test_return_state():
  """A GRU's last state is that of the last valid frame."""
  (layer, expected), frames = _pair(
    "GRU", return_sequences=True, return_state=True
  )
  mask = _mask(_NUM_FRAMES)
  found = layer(frames, mask=mask)
  for one, other in zip(found, expected(frames, mask=mask), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
  np.testing.assert_array_equal(found[0][1, 1], found[1][1])


def test_bidirectional():
  """Keras's wrapper itself reverses the backward outputs."""
  rng = np.random.default_rng(3)
  frames = tf.constant(rng.normal(size=(3, 9, 5)), tf.float32)
  layers = [
    keras.layers.Bidirectional(module.LSTM(_UNITS, return_sequences=True))
    for module in (recurrent, keras.layers)
  ]
  for layer in layers:
    layer.build(frames.shape)
  layers[0].set_weights(layers[1].get_weights())
  mask = _mask([9, 4, 1], 9)
  found, wanted = (layer(frames, mask=mask) for layer in layers)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_half_precision(name):
  """Products are in bfloat16, sums and states in float32."""
  (layer, _), frames = _pair(name, return_sequences=True)
  half = getattr(recurrent, name)(
    _UNITS, return_sequences=True, dtype="mixed_bfloat16"
  )
  half.build(frames.shape)
  half.set_weights(layer.get_weights())
  mask = _mask(_NUM_FRAMES)
  outputs, gradients = _outputs_and_gradients(half, frames, mask, True)
  assert outputs.dtype == tf.bfloat16
  wanted, wanted_gradients = _outputs_and_gradients(layer, frames, mask, True)
  np.testing.assert_allclose(tf.cast(outputs, tf.float32), wanted, atol=0.1)
  for one, other in zip(gradients, wanted_gradients, strict=True):
    assert one.dtype == tf.float32
    np.testing.assert_allclose(one, other, atol=0.1 * np.abs(other).max())


def test_works_frame_by_frame_only_on_valid_frames(monkeypatch):
  """The products have a row for each valid frame, none for padding."""
  (layer, _), frames = _pair("LSTM", return_sequences=True)
  rows = []
  forward = recurrent._LstmStep.forward

  def counted(tf, inputs, recurrent_part, states):
    tf.py_function(lambda count: rows.append(int(count)), [len_of(inputs)], [])
    return forward(tf, inputs, recurrent_part, states)

  def len_of(values):
    return tf.shape(values)[0]

  monkeypatch.setattr(recurrent._LstmStep, "forward", staticmethod(counted))
  mask = _mask([7, 2, 0, 5, 3, 5])
  tf.function(lambda: layer(frames, mask=mask))()
  assert rows == [5, 5, 4, 3, 3, 1, 1]


class Nested(keras.layers.Layer):
  """Holds an LSTM as a user's layer may: in a list, in a wrapper."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    lstm = recurrent.LSTM(_UNITS, return_sequences=True)
    self.parts = [keras.layers.Bidirectional(lstm)]

  def build(self, frames_shape):
    self.parts[0].build(frames_shape)

  def call(self, frames, mask):
    return self.parts[0](frames, mask=mask)


def test_keras_loops_can_be_compiled_by_xla():
  """Also those of layers in wrappers and in other layers."""
  frames = keras.Input((None, 5))
  mask = keras.Input((None,), dtype="bool")
  states = Nested()(frames, mask)
  model = keras.Model([frames, mask], recurrent.GRU(_UNITS)(states, mask=mask))
  values = [tf.random.stateless_normal((3, 9, 5), (1, 2)), _mask([9, 4, 1], 9)]
  expected = model(values)

  @tf.function(jit_compile=True)
  def compiled(values):
    with recurrent.keras_loops():
      return model(values)

  np.testing.assert_allclose(compiled(values), expected, atol=1e-5)


def test_keras_loops_end_with_the_block(monkeypatch):
  (layer, _), frames = _pair("LSTM")
  calls = []
  packed = recurrent._recur
  monkeypatch.setattr(
    recurrent, "_recur", lambda *given: calls.append(1) or packed(*given)
  )
  mask = _mask([37, 2, 9, 38, 3, 38])
  with recurrent.keras_loops():
    with recurrent.keras_loops(False):  # does not end the outer one
      layer(frames, mask=mask)
    layer(frames, mask=mask)
  assert not calls
  with recurrent.keras_loops(False):
    layer(frames, mask=mask)
  layer(frames, mask=mask)
  assert len(calls) == 2


@pytest.mark.parametrize(
  "settings",
  [
    {"activation": "relu"},
    {"recurrent_activation": "hard_sigmoid"},
    {"use_bias": False},
    {"unroll": True},
    {"return_state": True},
  ],
  ids=lambda settings: next(iter(settings)),
)
def test_other_settings_are_left_to_keras(settings):
  """They give the same as keras.layers.LSTM."""
  (layer, expected), frames = _pair("LSTM", **settings)
  mask = _mask([37, 2, 9, 38, 3, 38])
  found, wanted = (one(frames, mask=mask) for one in (layer, expected))
  _assert_equal(found, wanted, rtol=1e-5, atol=1e-6)


def test_without_a_mask_it_equals_keras():
  """All frames are valid then."""
  (layer, expected), frames = _pair("GRU")
  np.testing.assert_allclose(layer(frames), expected(frames), atol=1e-6)


def test_a_gpu_gets_the_keras_layer(monkeypatch):
  """Only that one uses cuDNN."""
  (layer, _), frames = _pair("LSTM")
  marked = tf.fill([6, _UNITS], 7.0)
  monkeypatch.setattr(
    tf.config, "list_logical_devices", lambda kind=None: [f"{kind}:0"]
  )
  monkeypatch.setattr(
    keras.layers.LSTM,
    "inner_loop",
    lambda *arguments, **named: (marked, marked[:, None], [marked, marked]),
  )
  outputs = layer(frames, mask=_mask([37, 2, 9, 38, 3, 38]))
  np.testing.assert_array_equal(outputs, marked)
