"""Layers that turn features into a probability for each class.

Shapes in comments: B videos, T frames, D features.
"""

import contextlib
import contextvars
import math

import keras
from keras import ops

from layers import masking, sampling, sums

# The layers that have made distributions over exclusive classes so far; None
# where a video may have any number of classes.
_distributions: contextvars.ContextVar[list[keras.layers.Layer] | None] = (
  contextvars.ContextVar("distributions", default=None)
)


@contextlib.contextmanager
def exclusive_classes(wanted: bool = True):
  """In this context, each video has exactly one class.

  Classifiers that are made in the block, on this thread, give a softmax over
  the classes instead of a sigmoid for each.

  Args:
    wanted: False: videos may have any number of classes.

  Yields:
    A list, to which each layer is added that makes such a softmax.
  """
  made: list[keras.layers.Layer] = []
  token = _distributions.set(made if wanted else None)
  try:
    yield made
  finally:
    _distributions.reset(token)


def are_exclusive() -> bool:
  """Whether each video has exactly one class; see exclusive_classes."""
  return _distributions.get() is not None


@keras.saving.register_keras_serializable("layers")
class L2(keras.regularizers.Regularizer):
  """Half the sum of squares times the penalty, like slim.l2_regularizer.

  Args:
    penalty: its weight in the loss.
  """

  def __init__(self, penalty):
    self.penalty = penalty

  def __call__(self, weights):
    return 0.5 * self.penalty * sums.total(ops.square(weights))

  def get_config(self):
    return {"penalty": self.penalty}


def l2(penalty):
  """An L2, or None where the penalty is 0, which costs nothing."""
  return L2(penalty) if penalty else None


def probabilities(logits):
  """The probabilities of symbolic logits, in float32 under any dtype policy.

  The sigmoid of each, or for exclusive_classes the softmax over the last axis,
  which then is that of the classes. In half precision 1 - p has only two digits
  where p is near 1.

  Args:
    logits: any shape, float.

  Returns:
    Same shape, float32.
  """
  made = _distributions.get()
  if made is None:
    return keras.layers.Activation("sigmoid", dtype="float32")(logits)
  layer = keras.layers.Activation("softmax", dtype="float32")
  made.append(layer)
  return layer(logits)


def prior_bias(vocab_size):
  """Initializes a classifier's bias so that its sigmoid is a label's frequency.

  A video has about 3 labels. With a bias of 0 every class begins at 0.5, and
  the first steps only lower the probabilities of thousands of classes.
  Source: Lin et al. 2017, Focal Loss, section 4.1. A softmax over exclusive
  classes begins at their frequency with a bias of 0.

  Args:
    vocab_size: number of classes.

  Returns:
    A Keras initializer.
  """
  if are_exclusive():
    return keras.initializers.Zeros()
  prior = min(3.0 / vocab_size, 0.5)
  return keras.initializers.Constant(math.log(prior / (1.0 - prior)))


# What initial_weights takes.
INITIAL_WEIGHTS = ("he", "keras")


def classify_logistic(
  features, vocab_size, l2_penalty=0.0, name="classifier", initial_weights="he"
):
  """A logistic classifier of each class, or a softmax, with the prior_bias.

  Args:
    features: (B, D) symbolic.
    vocab_size: number of classes.
    l2_penalty: weight of half the sum of squares of W.
    name: of the layer.
    initial_weights: "keras" for a bias of zeros instead.

  Returns:
    (B, vocab_size) float32: probabilities(W x + b).
  """
  logits = keras.layers.Dense(
    vocab_size,
    bias_initializer=(
      "zeros" if initial_weights == "keras" else prior_bias(vocab_size)
    ),
    kernel_regularizer=l2(l2_penalty),
    name=name,
  )(features)
  return probabilities(logits)


def mix_softmaxes(features, vocab_size, num_experts, l2_penalty=0.0):
  """A mixture of experts for exclusive classes.

  p = sum_i g_i softmax(W_i x + b_i), where g = softmax(V x) has a gate for each
  expert, so p sums to 1. Source: Jordan & Jacobs 1994, section 2, with one
  level. One expert needs no gate.

  Args:
    features: (B, D) symbolic.
    vocab_size: number of classes.
    num_experts: number of experts.
    l2_penalty: weight of half the sum of squares of the kernels.

  Returns:
    (B, vocab_size) float32.
  """
  logits = keras.layers.Dense(
    vocab_size * num_experts,
    kernel_regularizer=l2(l2_penalty),
    name="experts",
  )(features)
  if num_experts == 1:
    return probabilities(logits)
  # Columns are expert major: all classes of expert 0 come first.
  experts = probabilities(ops.reshape(logits, (-1, num_experts, vocab_size)))
  gates = keras.layers.Dense(
    num_experts,
    use_bias=False,
    kernel_regularizer=l2(l2_penalty),
    name="gates",
  )(features)
  gates = keras.layers.Softmax(dtype="float32")(gates)
  return ops.sum(gates[:, :, None] * experts, axis=1)


def divided_by_sum(values):
  """Divides (B, classes) float by their sum, so that they are a distribution.

  Args:
    values: symbolic, none below 0.

  Returns:
    The same shape.
  """
  return values / ops.maximum(ops.sum(values, axis=1, keepdims=True), 1e-30)


def layer_sizes(text, vocab_size=None):
  """Parses the sizes of layers, or of cells.

  Args:
    text: whole numbers separated by commas: "512,1024"; "" for none. If
      vocab_size is given, "classes" stands for it.
    vocab_size: number of classes.

  Returns:
    A list of ints.

  Raises:
    ValueError: the sizes are not whole numbers above 0.
  """
  sizes = [size.strip() for size in text.split(",")] if text else []
  if vocab_size is not None:
    sizes = [str(vocab_size) if size == "classes" else size for size in sizes]
  if not all(size.isdecimal() and 0 < int(size[:11]) < 2**31 for size in sizes):
    example = "512,1024" if vocab_size is None else "512,1024 or 512,classes"
    raise ValueError(
      f"Expected layer sizes such as {example}, received {text!r}."
    )
  return [int(size) for size in sizes]


def dense_layers(features, sizes, name, vocab_size=None, initial_weights="he"):
  """Stacked dense layers with ReLU.

  Args:
    features: (B, D) symbolic.
    sizes: units of each layer, see layer_sizes.
    name: of the layers; each gets its number.
    vocab_size: see layer_sizes.
    initial_weights: of the kernels, "he" for He's normal distribution (He et
      al. 2015, equation 10), "keras" for Keras's default, Glorot's uniform one.

  Returns:
    (B, the last size).

  Raises:
    ValueError: the sizes are not whole numbers above 0.
  """
  for index, size in enumerate(layer_sizes(sizes, vocab_size)):
    features = keras.layers.Dense(
      size,
      activation="relu",
      kernel_initializer=(
        "glorot_uniform" if initial_weights == "keras" else "he_normal"
      ),
      name=f"{name}_{index}",
    )(features)
  return features


def towers(features, sizes, vocab_size, initial_weights):
  """dense_layers on each feature, side by side.

  Args:
    features: a list of (B, D) symbolic.
    sizes: see dense_layers, for each feature.
    vocab_size: see dense_layers.
    initial_weights: see dense_layers.

  Returns:
    (B, features times the last size); without sizes (B, all features).
  """
  return side_by_side(
    [
      dense_layers(
        feature, sizes, f"tower_{index}", vocab_size, initial_weights
      )
      for index, feature in enumerate(features)
    ]
  )


def side_by_side(features):
  """Concatenates a list of (..., D) on the last axis."""
  if len(features) == 1:
    return features[0]
  return keras.layers.Concatenate()(features)


@keras.saving.register_keras_serializable("layers")
class FrameClassifier(keras.layers.Layer):
  """A classifier of single frames: logistic, or a softmax.

  In training it classifies one random valid frame of each video. Otherwise it
  returns the mean of the probabilities of all valid frames. It is a softmax for
  exclusive_classes; a video without frames then counts as a frame of zeros, so
  that its probabilities have a sum of 1 too.

  Args:
    vocab_size: number of classes.
    is_softmax: None: as exclusive_classes says. A saved layer says it itself.

  Input shape: frames (B, T, D), num_frames (B,) int.
  Output shape: (B, vocab_size) float32.
  """

  def __init__(self, vocab_size, is_softmax: bool | None = None, **kwargs):
    super().__init__(**kwargs)
    self.vocab_size = vocab_size
    made = _distributions.get()
    self._is_softmax = made is not None if is_softmax is None else is_softmax
    if made is not None:
      made.append(self)
    self.sample = sampling.SampleFrames(1, dtype=self.dtype_policy)
    self.dense = keras.layers.Dense(
      vocab_size,
      bias_initializer=prior_bias(vocab_size),
      dtype=self.dtype_policy,
      name="dense",
    )

  def get_config(self):
    return {
      **super().get_config(),
      "vocab_size": self.vocab_size,
      "is_softmax": self._is_softmax,
    }

  def build(self, frames_shape, num_frames_shape):
    """Creates W and b."""
    del num_frames_shape
    self.dense.build((None, frames_shape[-1]))

  def _probabilities(self, frames):
    """(..., D) -> (..., vocab_size) float32."""
    logits = ops.cast(self.dense(frames), "float32")
    return ops.softmax(logits) if self._is_softmax else ops.sigmoid(logits)

  def call(self, frames, num_frames, training=None):
    if training:
      frame = self.sample(frames, num_frames, training=True)[:, 0]
      return self._probabilities(frame)
    if self._is_softmax:
      num_frames = ops.maximum(num_frames, 1)
    weights = masking.mean_weights(masking.frame_mask(frames, num_frames))

    def classify_video(video):
      # The probabilities of all frames of a batch would take gigabytes.
      frames, weights = video  # (T, D), (T,)
      return ops.matmul(weights, self._probabilities(frames))

    return ops.map(classify_video, (frames, weights))

  def compute_output_spec(self, frames, num_frames, training=None):
    return keras.KerasTensor((frames.shape[0], self.vocab_size), "float32")
