"""Recurrent layers that skip the padding of videos on CPUs.

On a CPU, Keras's loop runs over every frame of the longest video for all
videos, projects each frame's input in a separate matrix product, and adds up
the gradient of both weight matrices frame by frame, so most of the time it
waits for memory. Here, as in cuDNN, the videos are sorted by length, each step
works on the videos that still have frames, and whatever needs no earlier state
is one product for many frames: the projection of the inputs and all gradients
of weights and inputs. docs/performance.md has the measurements.

On a GPU, on other backends and without a mask, the layers are Keras's own. The
weights are always Keras's.

Shapes in comments: B videos, T frames, D features, H units; F valid frames of
all videos, those of the first step first, then those of the second one; n
videos that have a frame in a step.
"""

import contextlib
import contextvars

import keras
from keras import ops

# Frames whose inputs are projected in one product: enough for its full rate,
# few enough to need little memory.
_FRAMES_AT_A_TIME = 4096

_wants_keras_loops = contextvars.ContextVar("wants_keras_loops", default=False)


@contextlib.contextmanager
def keras_loops(wanted: bool = True):
  """In this context, LSTMs and GRUs run Keras's loops, which XLA can compile.

  It applies to the calls of layers in the block, on this thread: in a
  tf.function, while it is traced.

  Args:
    wanted: False changes nothing.
  """
  token = _wants_keras_loops.set(wanted or _wants_keras_loops.get())
  try:
    yield
  finally:
    _wants_keras_loops.reset(token)


class _LstmStep:
  """One step of an LSTM, on the concatenated gates i, f, g, o.

  The states are h and c. Source: Hochreiter & Schmidhuber 1997, with forget
  gates, Gers et al. 2000.
  """

  num_states = 2

  @staticmethod
  def forward(tf, inputs, recurrent, states):
    """Returns the next states and what `backward` needs.

    Args:
      tf: TensorFlow.
      inputs: (n, 4 H) float32, projected inputs.
      recurrent: (n, 4 H) float32, the projected h before this step.
      states: h and c before it, (n, H) float32.
    """
    sums = tf.split(inputs + recurrent, 4, axis=1)
    i, f, o = (tf.sigmoid(sums[index]) for index in (0, 1, 3))
    g = tf.tanh(sums[2])
    c = f * states[1] + i * g
    return (o * tf.tanh(c), c), tf.concat([i, f, g, o], axis=1)

  @staticmethod
  def backward(tf, known, before, after, gradients):
    """Returns gradients, from those of the states after the step.

    Args:
      tf: TensorFlow.
      known: see `forward`, (n, 4 H).
      before: states before the step.
      after: states after it.
      gradients: of `after`.

    Returns:
      Gradients of inputs, of recurrent, and of the states before, without the
      part that reaches h through recurrent; None stands for zero.
    """
    i, f, g, o = tf.split(known, 4, axis=1)
    dh, dc = gradients
    squashed = tf.tanh(after[1])
    dc += dh * o * (1.0 - squashed * squashed)
    sums = tf.concat(
      [
        dc * g * i * (1.0 - i),
        dc * before[1] * f * (1.0 - f),
        dc * i * (1.0 - g * g),
        dh * squashed * o * (1.0 - o),
      ],
      axis=1,
    )
    return sums, sums, (None, dc * f)


class _GruStep:
  """One step of a GRU, on the gates z, r and the candidate, concatenated.

  The only state is h; r switches the candidate's recurrent part after its
  product. See _LstmStep. Source: Cho et al. 2014, in cuDNN's form.
  """

  num_states = 1

  @staticmethod
  def forward(tf, inputs, recurrent, states):
    """See _LstmStep."""
    x_z, x_r, x_g = tf.split(inputs, 3, axis=1)
    h_z, h_r, h_g = tf.split(recurrent, 3, axis=1)
    z, r = tf.sigmoid(x_z + h_z), tf.sigmoid(x_r + h_r)
    g = tf.tanh(x_g + r * h_g)
    return (g + z * (states[0] - g),), tf.concat([z, r, g, h_g], axis=1)

  @staticmethod
  def backward(tf, known, before, after, gradients):
    """See _LstmStep."""
    z, r, g, h_g = tf.split(known, 4, axis=1)
    (dh,) = gradients
    d_z = dh * (before[0] - g) * z * (1.0 - z)
    d_g = dh * (1.0 - z) * (1.0 - g * g)
    d_r = d_g * h_g * r * (1.0 - r)
    d_inputs = tf.concat([d_z, d_r, d_g], axis=1)
    d_recurrent = tf.concat([d_z, d_r, d_g * r], axis=1)
    return d_inputs, d_recurrent, (dh * z,)


class _Recurrence:
  """Steps through packed frames.

  Args:
    step: _LstmStep or _GruStep.
    counts: (T,) int32, the n of each step; it never increases.
    keeps: whether to keep what `gradients` needs.
  """

  def __init__(self, step, counts, keeps):
    import tensorflow as tf

    self._tf = tf
    self._step = step
    self._counts = counts
    self._starts = tf.cumsum(counts, exclusive=True)
    self._num_steps = tf.size(counts)
    self._keeps = keeps

  def _lists(self, number):
    return tuple(
      self._tf.TensorArray(
        self._tf.float32,
        size=self._num_steps,
        infer_shape=False,
        element_shape=[None, None],
      )
      for _ in range(number)
    )

  def _steps_at_a_time(self):
    return self._tf.maximum(
      _FRAMES_AT_A_TIME // self._tf.maximum(self._counts[0], 1), 1
    )

  def run(self, frames, weights, states):
    """Steps from the first frames to the last.

    Args:
      frames: (F, D).
      weights: kernel (D, gates), input bias, recurrent kernel (H, gates) and
        recurrent bias, None for none.
      states: before the first step, each (n of the first step, H) float32.

    Returns:
      The states after each frame, each (F, H) float32, and what the steps'
      `backward` needs; only the first state unless `keeps`.
    """
    tf = self._tf
    kernel, bias, recurrent_kernel, recurrent_bias = weights
    units, gates = recurrent_kernel.shape
    num_lists = self._step.num_states + 1 if self._keeps else 1
    at_a_time = self._steps_at_a_time()

    def projected(index):
      last = tf.minimum(index + at_a_time, self._num_steps) - 1
      end = self._starts[last] + self._counts[last]
      inputs = tf.matmul(frames[self._starts[index] : end], kernel)
      return tf.cast(tf.nn.bias_add(inputs, bias), tf.float32)

    def body(index, inputs, states, lists):
      count, start = self._counts[index], self._starts[index]
      first = index - index % at_a_time
      inputs = tf.cond(
        tf.equal(index, first), lambda: projected(index), lambda: inputs
      )
      states = [state[:count] for state in states]
      recurrent = tf.matmul(
        tf.cast(states[0], recurrent_kernel.dtype), recurrent_kernel
      )
      if recurrent_bias is not None:
        recurrent = tf.nn.bias_add(recurrent, recurrent_bias)
      start -= self._starts[first]
      states, known = self._step.forward(
        tf,
        inputs[start : start + count],
        tf.cast(recurrent, tf.float32),
        states,
      )
      lists = tuple(
        values.write(index, value)
        for values, value in zip(lists, (*states, known), strict=False)
      )
      return index + 1, inputs, states, lists

    *_, lists = tf.while_loop(
      lambda index, *_: index < self._num_steps,
      body,
      (0, tf.zeros([0, gates]), tuple(states), self._lists(num_lists)),
      shape_invariants=(
        tf.TensorShape([]),
        tf.TensorShape([None, gates]),
        (tf.TensorShape([None, units]),) * self._step.num_states,
        (tf.TensorShape(None),) * num_lists,
      ),
      parallel_iterations=1,
    )
    return [
      tf.ensure_shape(values.concat(), [None, None if last else units])
      for values, last in zip(
        lists,
        [False] * self._step.num_states + [True],
        strict=False,
      )
    ]

  def gradients(self, frames, weights, states, kept, d_h):
    """Returns the gradients of the arguments of `run`.

    Args:
      frames: see `run`.
      weights: see `run`.
      states: see `run`.
      kept: what `run` returned.
      d_h: (F, H) float32, the gradient of the first state after each frame.

    Returns:
      The gradients of frames, of the weights in their order, of each state.
    """
    tf = self._tf
    kernel, bias, recurrent_kernel, recurrent_bias = weights
    *after, known = kept
    # The state before a video's frame is the one after its previous frame.
    num_first = self._counts[0]
    earlier = tf.range(tf.shape(d_h)[0] - num_first) + tf.repeat(
      self._starts[:-1] - self._starts[1:] + num_first, self._counts[1:]
    )
    before = [
      tf.concat([first, tf.gather(state, earlier)], axis=0)
      for first, state in zip(states, after, strict=True)
    ]
    # With a recurrent bias, inputs and recurrent have different gradients.
    num_lists = 1 if recurrent_bias is None else 2
    d_states, sums = self._steps_back(
      recurrent_kernel, before, after, known, d_h, num_lists
    )
    narrow = [tf.cast(value, kernel.dtype) for value in sums]
    d_frames = tf.matmul(narrow[0], kernel, transpose_b=True)
    d_kernel = tf.matmul(frames, narrow[0], transpose_a=True)
    d_recurrent_kernel = tf.matmul(
      tf.cast(before[0], kernel.dtype), narrow[-1], transpose_a=True
    )
    d_biases = [
      tf.cast(tf.reduce_sum(value, axis=0), bias.dtype) for value in sums
    ]
    return (
      d_frames,
      [d_kernel, d_biases[0], d_recurrent_kernel, *d_biases[1:]],
      d_states,
    )

  def _steps_back(self, recurrent_kernel, before, after, known, d_h, num_lists):
    """Steps from the last frames to the first.

    Args:
      recurrent_kernel: (H, gates).
      before: states before each frame, each (F, H) float32.
      after: states after each frame.
      known: see the steps' `forward`.
      d_h: see `gradients`.
      num_lists: 2 for the gradients of inputs and of recurrent, 1 where they
        are the same.

    Returns:
      The gradients of the states before the first step, and num_lists
      gradients (F, gates) float32.
    """
    tf = self._tf
    units, gates = recurrent_kernel.shape
    transposed = tf.transpose(recurrent_kernel)

    def body(index, d_states, lists):
      count, start = self._counts[index], self._starts[index]
      here = slice(start, start + count)
      # Videos whose last frame this is have no gradients from later frames.
      d_states = [
        tf.pad(value, [[0, count - tf.shape(value)[0]], [0, 0]])
        for value in d_states
      ]
      d_states[0] += d_h[here]
      d_inputs, d_recurrent, d_states = self._step.backward(
        tf,
        known[here],
        [state[here] for state in before],
        [state[here] for state in after],
        d_states,
      )
      lists = tuple(
        values.write(index, value)
        for values, value in zip(lists, (d_inputs, d_recurrent), strict=False)
      )
      handed_on = tf.matmul(tf.cast(d_recurrent, transposed.dtype), transposed)
      handed_on = tf.cast(handed_on, tf.float32)
      first, *others = d_states
      d_states = (handed_on if first is None else handed_on + first, *others)
      return index - 1, d_states, lists

    shape = tf.TensorShape([None, units])
    _, d_states, lists = tf.while_loop(
      lambda index, *_: index >= 0,
      body,
      (
        self._num_steps - 1,
        (tf.zeros([0, units]),) * self._step.num_states,
        self._lists(num_lists),
      ),
      shape_invariants=(
        tf.TensorShape([]),
        (shape,) * self._step.num_states,
        (tf.TensorShape(None),) * num_lists,
      ),
      parallel_iterations=1,
    )
    return d_states, [
      tf.ensure_shape(values.concat(), [None, gates]) for values in lists
    ]


def _packed(step, counts, frames, weights, states, keeps):
  """The first state after each frame, (F, H) float32; see _Recurrence.run."""
  import tensorflow as tf

  recurrence = _Recurrence(step, counts, keeps)

  def unpack(arguments):
    frames, *others = arguments
    weights, states = others[: -step.num_states], others[-step.num_states :]
    return frames, [*weights, None][:4], states

  arguments = [frames, *weights, *states]
  if not keeps:
    return recurrence.run(*unpack(arguments))[0]

  @tf.custom_gradient
  def run(*arguments):
    kept = recurrence.run(*unpack(arguments))

    def gradients(d_h):
      d_frames, d_weights, d_states = recurrence.gradients(
        *unpack(arguments), kept, tf.convert_to_tensor(d_h)
      )
      return (d_frames, *d_weights, *d_states)

    return kept[0], gradients

  return run(*arguments)


def _recur(layer, step, weights, sequences, states, mask, training):
  """Replaces the inner_loop of a recurrent Keras layer.

  Args:
    layer: a keras.layers.RNN.
    step: _LstmStep or _GruStep.
    weights: see _Recurrence.run; without a last None.
    sequences: (B, T, D).
    states: before the first frame, each (B, H).
    mask: (B, T) bool, True for the first frames of each video.
    training: whether gradients will be wanted.

  Returns:
    The last output (B, H); all of them (B, T, H), zero for padding, or the last
    one (B, 1, H); and [h].
  """
  import tensorflow as tf

  batch, length = tf.unstack(tf.shape(sequences)[:2])
  num_frames = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
  order = tf.argsort(num_frames, direction="DESCENDING", stable=True)
  sorted_lengths = tf.gather(num_frames, order)
  num_steps = tf.reduce_max(num_frames)
  is_valid = tf.range(num_steps)[:, None] < sorted_lengths[None, :]
  counts = tf.reduce_sum(tf.cast(is_valid, tf.int32), axis=1)
  index, rank = tf.unstack(tf.where(is_valid), axis=1)
  video = tf.gather(order, rank)
  index = tf.cast(index, tf.int32)
  frame = index
  if layer.go_backwards:
    frame = tf.gather(num_frames, video) - 1 - index
  frames = tf.gather_nd(sequences, tf.stack([video, frame], axis=1))
  states = [tf.gather(tf.cast(state, tf.float32), order) for state in states]
  # Without any frame there is still one step, of zero videos.
  counts = tf.pad(counts, [[0, tf.cast(tf.equal(num_steps, 0), tf.int32)]])
  outputs = _packed(
    step,
    counts,
    frames,
    [tf.convert_to_tensor(ops.convert_to_tensor(one)) for one in weights],
    [state[: counts[0]] for state in states],
    training,
  )
  units = outputs.shape[1]
  starts = tf.cumsum(counts, exclusive=True)
  ends = tf.gather(starts, tf.maximum(sorted_lengths - 1, 0)) + tf.range(batch)
  # A video without frames ends with the states that it began with.
  candidates = tf.concat([outputs, states[0]], axis=0)
  ends = tf.where(
    sorted_lengths > 0, ends, tf.shape(outputs)[0] + tf.range(batch)
  )
  last = tf.gather(candidates, tf.gather(ends, tf.argsort(order)))
  last = tf.cast(last, sequences.dtype)
  if not layer.return_sequences:
    return last, last[:, None], [last]
  if layer.go_backwards:  # the last frame first, after the padding
    frame = length - 1 - frame
  outputs = tf.scatter_nd(
    tf.stack([video, frame], axis=1),
    tf.cast(outputs, sequences.dtype),
    [batch, length, units],
  )
  return last, tf.ensure_shape(outputs, [*sequences.shape[:2], units]), [last]


def _packs(layer, mask) -> bool:
  """Whether a layer can and should work on packed frames."""
  cell = layer.cell
  if keras.backend.backend() != "tensorflow" or mask is None:
    return False
  import tensorflow as tf

  return (
    not _wants_keras_loops.get()
    and not tf.config.list_logical_devices("GPU")
    and cell.activation is keras.activations.tanh
    and cell.recurrent_activation is keras.activations.sigmoid
    and cell.use_bias
    and not (cell.dropout or cell.recurrent_dropout)
    and not (layer.unroll or layer.stateful)
  )


@keras.saving.register_keras_serializable("layers")
class LSTM(keras.layers.LSTM):
  """keras.layers.LSTM that skips padding on a CPU.

  The mask must be True for the first frames of each video and False for the
  padding after them, as cuDNN requires too. The outputs for padding are then
  zeros.
  """

  def inner_loop(self, sequences, initial_state, mask, training=False):
    # Keras's loop returns both states, the packed one only h.
    if self.return_state or not _packs(self, mask):
      return super().inner_loop(sequences, initial_state, mask, training)
    cell = self.cell
    weights = [cell.kernel, cell.bias, cell.recurrent_kernel]
    return _recur(
      self, _LstmStep, weights, sequences, initial_state, mask, training
    )


@keras.saving.register_keras_serializable("layers")
class GRU(keras.layers.GRU):
  """keras.layers.GRU that skips padding on a CPU; see LSTM."""

  def inner_loop(self, sequences, initial_state, mask, training=False):
    if not (self.cell.reset_after and _packs(self, mask)):
      return super().inner_loop(sequences, initial_state, mask, training)
    cell = self.cell
    weights = [cell.kernel, cell.bias[0], cell.recurrent_kernel, cell.bias[1]]
    return _recur(
      self, _GruStep, weights, sequences, initial_state, mask, training
    )
