"""Layers and functions that several models share.

Shapes in comments: B videos, T frames, D features, K frames kept.
"""

import math

import keras
from keras import ops

import random_numbers

# The bytes of the dataset stand for q * 4/255 + 4/512 - 2; see readers.py.
_SCALE = 4.0 / 255.0
_BIAS = 4.0 / 512.0 - 2.0

_SMALLEST_SQUARED_NORM = 1e-12

_LONGEST_PIECE = 32
_LANES = 128  # of float32: eight registers of AVX-512


def _widen(values):
  """Half precision becomes float32, in which many numbers can be added."""
  return ops.cast(values, keras.backend.result_type(values.dtype, "float32"))


def l2_normalize(vectors):
  """Divides each vector by its length; a zero vector stays zero.

  Args:
    vectors: (..., features) float.

  Returns:
    Same shape and dtype: x / sqrt(max(sum(x^2), 1e-12)).
  """
  scale = _inverse_lengths(_widen(vectors))[..., None]
  return vectors * ops.cast(scale, vectors.dtype)


def _inverse_lengths(vectors):
  """What to multiply vectors by to normalise them: (..., features) -> (...)."""
  squared = squared_lengths(vectors)
  return ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))


def squared_lengths(vectors):
  """The sum of squares of each vector.

  XLA adds the numbers of a row one after the other on CPUs, at a twentieth of
  what the processor can do, but runs of them side by side: so they are added
  up in as many lanes as fit first. A product ends it, since XLA would join two
  sums into one.

  Args:
    vectors: (..., features) float, the number of features known; of a symbolic
      tensor at most one other dimension may be unknown.

  Returns:
    (...) float.
  """
  features = vectors.shape[-1]
  lanes = math.gcd(features, _LANES)
  outer = [-1 if size is None else size for size in ops.shape(vectors)[:-1]]
  shape = (*outer, features // lanes, lanes)
  sums = ops.sum(ops.reshape(ops.square(vectors), shape), axis=-2)
  return ops.matmul(sums, ops.ones((lanes,), sums.dtype))


def total(values):
  """The sum of all numbers; see squared_lengths for why not by ops.sum alone.

  XLA cuts a long sum on CPUs into pieces, of numbers that it first writes to
  memory; so pieces are short enough here to be left as they are.

  Args:
    values: float, at least one dimension.

  Returns:
    A scalar.
  """
  columns = values.shape[-1]
  if len(values.shape) > 1:
    piece = 1
    if None not in values.shape[:-1]:
      piece = math.gcd(math.prod(values.shape[:-1]), _LONGEST_PIECE)
    pieces = ops.sum(ops.reshape(values, (-1, piece, columns)), axis=1)
    values = ops.sum(pieces, axis=0) if piece == 1 else pieces
  sums = ops.matmul(values, ops.ones((columns,), values.dtype))
  return ops.sum(sums)


@keras.saving.register_keras_serializable("model_utils")
class L2(keras.regularizers.Regularizer):
  """As slim.l2_regularizer: half the sum of squares, times the penalty.

  Args:
    penalty: its weight in the loss.
  """

  def __init__(self, penalty):
    self.penalty = penalty

  def __call__(self, weights):
    """Gives the scalar."""
    return 0.5 * self.penalty * total(ops.square(weights))

  def get_config(self):
    """See keras.regularizers.Regularizer."""
    return {"penalty": self.penalty}


def probabilities(logits):
  """The sigmoid of symbolic logits, in float32 whatever the layers compute in.

  Half precision leaves 1 - p with two digits where p is near 1.

  Args:
    logits: any shape, float.

  Returns:
    Same shape, float32.
  """
  return keras.layers.Activation("sigmoid", dtype="float32")(logits)


def prior_bias(vocab_size):
  """Starts a classifier's bias where its sigmoid is about a label's frequency.

  A video has about 3 labels. With a bias of 0 the loss begins with every class
  at 0.5, and all that early steps do is to bring thousands of classes down.
  Source: Lin et al. 2017, Focal Loss, section 4.1.

  Args:
    vocab_size: number of classes.

  Returns:
    A Keras initializer.
  """
  prior = min(3.0 / vocab_size, 0.5)
  return keras.initializers.Constant(math.log(prior / (1.0 - prior)))


def classify_logistic(features, vocab_size, l2_penalty=0.0, name="classifier"):
  """A logistic classifier for each class that starts at the prior_bias.

  Args:
    features: (B, D) symbolic.
    vocab_size: number of classes.
    l2_penalty: weight of half the sum of squares of W.
    name: of the layer.

  Returns:
    (B, vocab_size) float32: sigmoid(W x + b).
  """
  logits = keras.layers.Dense(
    vocab_size,
    bias_initializer=prior_bias(vocab_size),
    kernel_regularizer=L2(l2_penalty) if l2_penalty else None,
    name=name,
  )(features)
  return probabilities(logits)


def dense_layers(features, sizes, name):
  """Dense layers with ReLU on top of each other.

  Args:
    features: (B, D) symbolic.
    sizes: units of each layer, with commas between: "512,1024"; "" for none.
    name: of the layers, which get a number.

  Returns:
    (B, the last size).

  Raises:
    ValueError: the sizes are no whole numbers above 0.
  """
  numbers = [size.strip() for size in sizes.split(",")] if sizes else []
  if not all(size.isdigit() and int(size) > 0 for size in numbers):
    raise ValueError(
      f"expected layer sizes such as 512,1024, received {sizes!r}."
    )
  for index, size in enumerate(numbers):
    features = keras.layers.Dense(
      int(size),
      activation="relu",
      kernel_initializer="he_normal",
      name=f"{name}_{index}",
    )(features)
  return features


def side_by_side(features):
  """Concatenates a list of (..., D) on the last axis; one alone stays it."""
  if len(features) == 1:
    return features[0]
  return keras.layers.Concatenate()(features)


def frame_mask(frames, num_frames):
  """Tells which frames are valid.

  Args:
    frames: (B, T, ...) any dtype.
    num_frames: (B,) int.

  Returns:
    (B, T) bool.
  """
  index = ops.arange(ops.shape(frames)[1], dtype="int32")
  return index[None, :] < ops.cast(num_frames, "int32")[:, None]


def _mean_weights(mask):
  """Each valid frame's part in a mean, else 0: (B, T) bool -> float32."""
  mask = ops.cast(mask, "float32")
  return mask / ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)


def _to_float(frames, dtype):
  """Bytes become the floats they stand for; floats stay what they are."""
  if keras.backend.standardize_dtype(frames.dtype) == "uint8":
    return ops.cast(frames, dtype) * _SCALE + _BIAS
  return ops.cast(frames, dtype)


class L2Normalize(keras.layers.Layer):
  """l2_normalize as a layer.

  Input shape: (..., features) float. Output shape: the same.
  """

  def call(self, vectors):
    """See the class."""
    return l2_normalize(vectors)


class FrameMask(keras.layers.Layer):
  """frame_mask as a layer, for symbolic tensors.

  Input shape: frames (B, T, D), num_frames (B,).
  Output shape: (B, T) bool.
  """

  def call(self, frames, num_frames):
    """See the class."""
    return frame_mask(frames, num_frames)

  def compute_output_spec(self, frames, num_frames):
    """See the class."""
    return keras.KerasTensor(frames.shape[:2], "bool")


class NormalizeFrames(keras.layers.Layer):
  """Dequantises, zeroes the padding and L2-normalises each frame.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, T, D) float.
  """

  def __init__(self, **kwargs):
    super().__init__(autocast=False, **kwargs)

  def call(self, video_matrix, num_frames):
    """See the class."""
    mask = ops.cast(frame_mask(video_matrix, num_frames), "float32")
    frames = _to_float(video_matrix, "float32")
    scale = mask * _inverse_lengths(frames)
    return ops.cast(frames * scale[:, :, None], self.compute_dtype)

  def compute_output_spec(self, video_matrix, num_frames):
    """See the class."""
    return keras.KerasTensor(video_matrix.shape, self.compute_dtype)


class MeanNormalizedFrame(keras.layers.Layer):
  """The mean of a video's valid, dequantised and L2-normalised frames.

  Equal to the mean over NormalizeFrames, but worked out for a few videos at a
  time, so that what lies between the bytes and the mean stays in the CPU's
  cache: the float frames of a batch of 128 would be 177 MB, written and read
  again. Four videos are enough work for several cores to share.

  Input shape: video_matrix (B, T, D) uint8 or float, num_frames (B,) int.
  Output shape: (B, D) float. A video without frames gives zeros.
  """

  _VIDEOS_AT_A_TIME = 4
  _FRAMES_AT_A_TIME = 4

  def __init__(self, **kwargs):
    super().__init__(autocast=False, **kwargs)

  def call(self, video_matrix, num_frames):
    """See the class."""
    batch, length, features = ops.shape(video_matrix)
    group, run = self._VIDEOS_AT_A_TIME, self._FRAMES_AT_A_TIME
    weights = _mean_weights(frame_mask(video_matrix, num_frames))

    def means_of_group(videos):
      frames, weights = videos  # (group, T, D), (group, T)
      frames = _to_float(frames, "float32")
      scale = weights * _inverse_lengths(frames)
      # Each addition waits for the one before it: short sums side by side, and
      # a product for the sum of these. A product for all of it would have the
      # float frames written to memory first.
      parts = ops.sum(
        ops.reshape(frames * scale[:, :, None], (group, -1, run, features)),
        axis=2,
      )
      return ops.einsum("gpd,gp->gd", parts, ops.ones_like(parts[:, :, 0]))

    more_videos, more_frames = -batch % group, -length % run
    video_matrix = ops.pad(
      video_matrix, [[0, more_videos], [0, more_frames], [0, 0]]
    )
    weights = ops.pad(weights, [[0, more_videos], [0, more_frames]])
    length = length + more_frames
    means = ops.map(
      means_of_group,
      (
        ops.reshape(video_matrix, (-1, group, length, features)),
        ops.reshape(weights, (-1, group, length)),
      ),
    )
    means = ops.reshape(means, (-1, features))[:batch]
    return ops.cast(means, self.compute_dtype)

  def compute_output_spec(self, video_matrix, num_frames):
    """See the class."""
    shape = (video_matrix.shape[0], video_matrix.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


class Dropout(keras.layers.Dropout):
  """keras.layers.Dropout, but see random_numbers.py.

  Args:
    rate: the part of the numbers that is set to zero in training, the others
      growing to keep the mean.
    **kwargs: see keras.layers.Dropout.

  Input shape: any, float. Output shape: the same.
  """

  def __init__(self, rate, **kwargs):
    super().__init__(rate, **kwargs)
    if rate == 1.0:
      raise ValueError(f"expected a rate from 0 to below 1, received {rate}.")

  def call(self, inputs, training=False):
    """See the class."""
    if not training or self.rate == 0.0:
      return inputs
    keep = (
      random_numbers.uniform(ops.shape(inputs), self.seed_generator)
      >= self.rate
    )
    return ops.where(keep, inputs / (1.0 - self.rate), 0.0)


class SampleFrames(keras.layers.Layer):
  """Picks as many frames of each video, all of them valid ones.

  In training at random, otherwise evenly spaced: predictions change neither
  from run to run nor with the batch.

  Args:
    num_samples: K, frames to pick.
    random_frames: in training, True picks K frames independently of each
      other, with repetition; False a run of K following frames (of a shorter
      video, all frames, the last one repeated); None evenly spaced ones there
      too.

  Input shape: frames (B, T, D), num_frames (B,) int.
  Output shape: (B, K, D).
  """

  def __init__(self, num_samples, random_frames=True, **kwargs):
    super().__init__(**kwargs)
    self.num_samples = num_samples
    self.random_frames = random_frames
    self.seed_generator = keras.random.SeedGenerator()

  def call(self, frames, num_frames, training=None):
    """See the class."""
    batch, length, features = ops.shape(frames)
    valid = ops.cast(num_frames, "float32")[:, None]
    steps = ops.arange(self.num_samples, dtype="float32")[None, :]
    if not training or self.random_frames is None:
      index = (steps + 0.5) * valid / self.num_samples
    elif self.random_frames:
      index = valid * random_numbers.uniform(
        (batch, self.num_samples), self.seed_generator
      )
    else:
      room = ops.maximum(valid - self.num_samples + 1.0, 1.0)
      first = ops.floor(
        room * random_numbers.uniform((batch, 1), self.seed_generator)
      )
      index = first + steps
    index = ops.minimum(index, valid - 1.0)
    # A product just below a whole number may round up to it.
    index = ops.cast(ops.maximum(index, 0.0), "int32")  # (B, K)
    start = ops.arange(batch, dtype="int32")[:, None] * length
    picked = ops.take(
      ops.reshape(frames, (-1, features)),
      ops.reshape(start + index, (-1,)),
      axis=0,
    )
    return ops.reshape(picked, (batch, self.num_samples, features))

  def compute_output_spec(self, frames, num_frames, training=None):
    """See the class."""
    return keras.KerasTensor(
      (frames.shape[0], self.num_samples, frames.shape[2]), frames.dtype
    )


class _MaskedLayer(keras.layers.Layer):
  """A layer that takes a mask as an input and works with Keras's own too."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.supports_masking = True


class MaskedMax(_MaskedLayer):
  """The largest value of each feature over the valid frames.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, D). A video without valid frames gives zeros.
  """

  def call(self, frames, mask):
    """See the class."""
    mask = mask[:, :, None]
    lowest = ops.cast(-3e4, frames.dtype)  # finite in every half precision
    largest = ops.max(ops.where(mask, frames, lowest), axis=1)
    return ops.where(ops.any(mask, axis=1), largest, 0)


class MaskedMean(_MaskedLayer):
  """The mean of each feature over the valid frames.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, D). A video without valid frames gives zeros.
  """

  def call(self, frames, mask):
    """See the class."""
    weights = ops.cast(_mean_weights(mask), frames.dtype)
    return ops.einsum("bt,btd->bd", weights, frames)


class ZeroPadding(_MaskedLayer):
  """Sets the frames past the valid ones to zero.

  Input shape: frames (B, T, D), mask (B, T) bool.
  Output shape: (B, T, D).
  """

  def call(self, frames, mask):
    """See the class."""
    return ops.where(mask[:, :, None], frames, 0)

  def compute_mask(self, frames, previous_mask=None):
    """Ends the mask: what follows may look at the zeros."""
    return None


class FrameClassifier(keras.layers.Layer):
  """A logistic classifier of single frames.

  In training it classifies one random valid frame of each video, otherwise it
  gives the mean of the probabilities of all valid frames.

  Args:
    vocab_size: number of classes.

  Input shape: frames (B, T, D), num_frames (B,) int.
  Output shape: (B, vocab_size) float32.
  """

  def __init__(self, vocab_size, **kwargs):
    super().__init__(**kwargs)
    self.vocab_size = vocab_size
    self.sample = SampleFrames(1, dtype=self.dtype_policy)
    self.dense = keras.layers.Dense(
      vocab_size,
      bias_initializer=prior_bias(vocab_size),
      dtype=self.dtype_policy,
      name="dense",
    )

  def build(self, frames_shape, num_frames_shape):
    """Makes W and b."""
    del num_frames_shape
    self.dense.build((None, frames_shape[-1]))

  def call(self, frames, num_frames, training=None):
    """See the class."""
    if training:
      frame = self.sample(frames, num_frames, training=True)[:, 0]
      return ops.sigmoid(ops.cast(self.dense(frame), "float32"))
    weights = _mean_weights(frame_mask(frames, num_frames))

    def classify_video(video):
      # The probabilities of all frames of a batch would be gigabytes.
      frames, weights = video  # (T, D), (T,)
      likely = ops.sigmoid(ops.cast(self.dense(frames), "float32"))
      return ops.matmul(weights, likely)

    return ops.map(classify_video, (frames, weights))

  def compute_output_spec(self, frames, num_frames, training=None):
    """See the class."""
    return keras.KerasTensor((frames.shape[0], self.vocab_size), "float32")


class AttentionPooling(_MaskedLayer):
  """Weighted sums of the frames, the weights a softmax over the valid ones.

  v_k = sum_t w_tk x_t with w_tk = exp(s_tk) / sum over valid t' of exp(s_t'k).

  Input shape: frames (B, T, D), scores (B, T, K), mask (B, T) bool.
  Output shape: (B, K, D). A video without valid frames gives zeros.
  """

  def call(self, frames, scores, mask):
    """See the class."""
    mask = mask[:, :, None]
    scores = ops.where(mask, ops.cast(scores, "float32"), -1e9)
    weights = ops.where(mask, ops.softmax(scores, axis=1), 0.0)
    return ops.einsum("btk,btd->bkd", ops.cast(weights, frames.dtype), frames)

  def compute_output_spec(self, frames, scores, mask):
    """See the class."""
    shape = (frames.shape[0], scores.shape[2], frames.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


class AttentionCluster(keras.layers.Layer):
  """Attention units with a shift: v_i = L2(alpha_i a_i + beta_i) / sqrt(K).

  a_i is the i-th weighted sum of the frames; alpha_i and beta_i are learnt
  numbers. Source: Long et al. 2018, Attention Clusters, equations 4 and 5.

  Input shape: pooled (B, K, D), as from AttentionPooling.
  Output shape: (B, K D).
  """

  def build(self, pooled_shape):
    """Makes alpha, ones, and beta, about zero."""
    _, self._units, self._features = pooled_shape
    self.alpha = self.add_weight(
      shape=(self._units, 1), initializer="ones", name="alpha"
    )
    # Were it zero, the length would hide alpha, which would not be learnt.
    self.beta = self.add_weight(
      shape=(self._units, 1),
      initializer=keras.initializers.RandomNormal(stddev=0.01),
      name="beta",
    )

  def call(self, pooled):
    """See the class."""
    shifted = l2_normalize(self.alpha * pooled + self.beta)
    return ops.reshape(
      shifted / math.sqrt(self._units), (-1, self._units * self._features)
    )


def _sums_of_residuals(frames, assignment, centers):
  """sum_t a_tk x_t - c_k sum_t a_tk, (B, K, D); without centers the first sum.

  Takes frames (B, T, D), assignment (B, T, K), centers (K, D) or None.
  """
  sums = ops.einsum("btk,btd->bkd", assignment, frames)
  if centers is None:
    return sums
  return sums - _assigned(assignment) * centers


def _assigned(assignment):
  """How much is assigned to each cluster: (B, T, K) -> (B, K, 1)."""
  # As a product: XLA would work a sum out anew for each number that needs it.
  assignment_wide = _widen(assignment)
  ones = ops.ones_like(assignment_wide[:, :, :1])
  assigned = ops.einsum("btk,bto->bko", assignment_wide, ones)
  return ops.cast(assigned, assignment.dtype)


class Vlad(keras.layers.Layer):
  """Vectors of locally aggregated descriptors, with soft assignment.

  V_k = sum_t a_tk (x_t - c_k), each divided by its length. Source: Arandjelovic
  et al. 2016, NetVLAD, equation 4; without the centers NetRVLAD, Miech et al.
  2017, equation 6.

  Args:
    residual: whether centers c_k are learnt and subtracted.
    normalize_all: whether the K vectors together are divided by their length
      too.

  Input shape: frames (B, T, D), assignment (B, T, K), zero for padding.
  Output shape: (B, K D).
  """

  def __init__(self, residual=True, normalize_all=True, **kwargs):
    super().__init__(**kwargs)
    self.residual = residual
    self.normalize_all = normalize_all

  def build(self, frames_shape, assignment_shape):
    """Makes the centers, normally distributed with deviation 1/sqrt(D)."""
    self._features, self._clusters = frames_shape[2], assignment_shape[2]
    self.centers = None
    if self.residual:
      self.centers = self.add_weight(
        shape=(self._clusters, self._features),
        initializer=keras.initializers.RandomNormal(
          stddev=self._features**-0.5
        ),
        name="centers",
      )

  def call(self, frames, assignment):
    """See the class."""
    vectors = _sums_of_residuals(frames, assignment, self.centers)
    vectors = ops.reshape(
      l2_normalize(vectors), (-1, self._clusters * self._features)
    )
    return l2_normalize(vectors) if self.normalize_all else vectors

  def compute_output_spec(self, frames, assignment):
    """See the class."""
    size = assignment.shape[2] * frames.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)


class FisherVector(keras.layers.Layer):
  """First and second order statistics of the frames about learnt centers.

  With s_k = w_k^2 + 1e-6 for the covariance,
    F1_k = sum_t a_tk (x_t - c_k) / s_k, each divided by its length,
    F2_k = sum_t a_tk ((x_t - c_k)^2 / s_k^2 - 1),
  then F1 and F2 are each divided by their length. Source: Miech et al. 2017,
  Learnable pooling, equations 8 and 9.

  Input shape: frames (B, T, D), assignment (B, T, K), zero for padding.
  Output shape: (B, 2 K D), F1 first.
  """

  def build(self, frames_shape, assignment_shape):
    """Makes centers about 0 and w about 1, with deviation 1/sqrt(D)."""
    self._features, self._clusters = frames_shape[2], assignment_shape[2]
    for name, mean in (("centers", 0.0), ("deviations", 1.0)):
      weight = self.add_weight(
        shape=(self._clusters, self._features),
        initializer=keras.initializers.RandomNormal(mean, self._features**-0.5),
        name=name,
      )
      setattr(self, name, weight)

  def call(self, frames, assignment):
    """See the class."""
    scale = ops.square(self.deviations) + 1e-6
    assigned = _assigned(assignment)
    sums = ops.einsum("btk,btd->bkd", assignment, frames)
    squares = ops.einsum("btk,btd->bkd", assignment, ops.square(frames))
    first = l2_normalize((sums - assigned * self.centers) / scale)
    second = squares + ops.square(self.centers) * assigned
    second = (second - 2.0 * self.centers * sums) / ops.square(scale) - assigned
    size = self._clusters * self._features
    return ops.concatenate(
      [
        l2_normalize(ops.reshape(order, (-1, size)))
        for order in (first, second)
      ],
      axis=1,
    )

  def compute_output_spec(self, frames, assignment):
    """See the class."""
    size = 2 * assignment.shape[2] * frames.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)


class BagOfWords(keras.layers.Layer):
  """How often each word is seen: the sum of the assignments over the frames.

  Source: Philbin et al. 2008, soft assignment; Miech et al. 2017, section 4.2.

  Input shape: assignment (B, T, K), zero for padding.
  Output shape: (B, K), each video's vector divided by its length.
  """

  def call(self, assignment):
    """See the class."""
    return l2_normalize(_assigned(assignment)[:, :, 0])


class NextVlad(_MaskedLayer):
  """VLAD over groups of features: each frame counts as G smaller ones.

  V_k = sum over t and g of alpha_tg a_tgk (x_tg - c_k), each divided by its
  length, where x_tg is the g-th of G equal parts of a frame, a_tg a softmax
  over the clusters and alpha_tg in [0, 1] the attention to that part. Source:
  Lin et al. 2018, NeXtVLAD, equations 3 to 6.

  Args:
    clusters: K.

  Input shape: frames (B, T, F), attention (B, T, G), scores (B, T, G K), mask
    (B, T) bool. G must divide F.
  Output shape: (B, K F / G).
  """

  def __init__(self, clusters, **kwargs):
    super().__init__(**kwargs)
    self.clusters = clusters
    self.vlad = Vlad(normalize_all=False, dtype=self.dtype_policy, name="vlad")

  def build(self, frames_shape, attention_shape, scores_shape):
    """Makes the centers."""
    del scores_shape
    self._groups = attention_shape[2]
    self._group_size = frames_shape[2] // self._groups
    self.vlad.build(
      (frames_shape[0], None, self._group_size),
      (frames_shape[0], None, self.clusters),
    )

  def call(self, frames, attention, scores, mask):
    """See the class."""
    batch, length = ops.shape(mask)
    scores = ops.reshape(scores, (batch, length, self._groups, self.clusters))
    assignment = ops.softmax(ops.cast(scores, "float32"), axis=-1)
    attention = ops.where(mask[:, :, None], attention, 0)
    assignment = ops.cast(assignment, frames.dtype) * attention[..., None]
    return self.vlad(
      ops.reshape(frames, (batch, length * self._groups, self._group_size)),
      ops.reshape(assignment, (batch, length * self._groups, self.clusters)),
    )

  def compute_output_spec(self, frames, attention, scores, mask):
    """See the class."""
    size = self.clusters * frames.shape[2] // attention.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)


class PositionEncoding(keras.layers.Layer):
  """Adds to each frame what tells its place: sines and cosines of the index.

  Source: Vaswani et al. 2017, section 3.5.

  Input shape: (B, T, D), D even.
  Output shape: the same.
  """

  def call(self, frames):
    """See the class."""
    features = frames.shape[2]
    index = ops.arange(ops.shape(frames)[1], dtype="float32")[:, None]
    pair = ops.arange(features // 2, dtype="float32")[None, :]
    angle = index * ops.exp(pair * (-2.0 * math.log(1e4) / features))
    encoding = ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=1)
    return frames + ops.cast(encoding, frames.dtype)[None]

  def compute_output_spec(self, frames):
    """See the class."""
    return keras.KerasTensor(frames.shape, self.compute_dtype)


def context_gating(features, name, dtype=None):
  """Lets features switch each other: y = x * sigmoid(BN(W x)).

  Source: Miech et al. 2017, equation 10; W has no bias since BN has one.

  Args:
    features: (B, D) symbolic.
    name: of the layers.
    dtype: what to compute in; None for the policy's.

  Returns:
    (B, D).
  """
  gates = keras.layers.Dense(
    features.shape[-1],
    use_bias=False,
    kernel_initializer=keras.initializers.RandomNormal(
      stddev=features.shape[-1] ** -0.5
    ),
    dtype=dtype,
    name=f"{name}_dense",
  )(features)
  gates = batch_normalization(dtype=dtype, name=f"{name}_bn")(gates)
  gates = keras.layers.Activation("sigmoid", dtype=dtype)(gates)
  return keras.layers.Multiply(dtype=dtype)([features, gates])


def split_features(frames, feature_sizes):
  """Cuts frames into the features that lie side by side in them.

  Args:
    frames: (..., sum of sizes).
    feature_sizes: the size of each.

  Returns:
    A list of (..., size).
  """
  ends = [sum(feature_sizes[: i + 1]) for i in range(len(feature_sizes))]
  return [
    frames[..., end - size : end]
    for end, size in zip(ends, feature_sizes, strict=True)
  ]


@keras.saving.register_keras_serializable("model_utils")
class BatchNormalization(keras.layers.BatchNormalization):
  """Batch normalisation whose statistics are right from the first steps on.

  A momentum of 0.999 keeps nine tenths of the initial mean 0 and variance 1
  for 100 steps, while normalised frames have a variance of about 1/1024: a
  model would be evaluated with statistics that are not the data's for some
  7,000 steps. So the n-th step, counted from 0, moves them as a momentum of
  (1 + n) / (10 + n) does, until that is the larger one; TensorFlow's
  ExponentialMovingAverage does likewise with num_updates.
  """

  def build(self, input_shape):
    """Makes the layer's weights and the number of steps, n."""
    super().build(input_shape)
    self.num_updates = self.add_weight(
      shape=(),
      initializer="zeros",
      trainable=False,
      autocast=False,
      name="num_updates",
    )

  def call(self, inputs, training=None, mask=None):
    """See keras.layers.BatchNormalization."""
    inputs = _widen(inputs)
    mean, variance = self._statistics(inputs, training, mask)
    outputs = ops.batch_normalization(
      inputs, mean, variance, self.axis, self.beta, self.gamma, self.epsilon
    )
    return ops.cast(outputs, self.compute_dtype)

  def _statistics(self, inputs, training, mask=None):
    """The mean and the variance to normalise with, each (features,)."""
    if not (training and self.trainable):
      return self.moving_mean, self.moving_variance
    mean, variance = self._moments(inputs, mask)
    way = ops.maximum(1.0 - self.momentum, 9.0 / (10.0 + self.num_updates))
    self.moving_mean.assign_add(way * (mean - self.moving_mean))
    self.moving_variance.assign_add(way * (variance - self.moving_variance))
    self.num_updates.assign_add(1.0)
    return mean, variance


@keras.saving.register_keras_serializable("model_utils")
class MaxOfNormalized(BatchNormalization):
  """The largest value of each normalised feature over the frames.

  Equal to the maximum of BatchNormalization's outputs, but only the maxima are
  normalised: as that is a line for each feature, the largest input gives the
  largest output, or, where gamma is negative, the smallest one.

  Input shape: frames (B, T, D), all of them valid.
  Output shape: (B, D).
  """

  def call(self, inputs, training=None):
    """See the class."""
    inputs = _widen(inputs)
    mean, variance = self._statistics(inputs, training)
    sign = ops.where(self.gamma < 0, -1.0, 1.0)
    largest = sign * ops.max(sign * inputs, axis=1)
    outputs = ops.batch_normalization(
      largest, mean, variance, -1, self.beta, self.gamma, self.epsilon
    )
    return ops.cast(outputs, self.compute_dtype)

  def compute_output_spec(self, inputs, training=None):
    """See the class."""
    shape = (inputs.shape[0], inputs.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("model_utils")
class ScaledDense(keras.layers.Dense):
  """A dense layer without bias on x * gamma + beta, for each feature of x.

  Equal to a scaling in front of a dense layer, but it scales the weights: where
  x does not depend on other weights, as in normalised input, the gradient of
  gamma then needs no product that goes back to x, a third of all of the layer.

  Args:
    units: see keras.layers.Dense.
    **kwargs: kernel_initializer and the like.
  """

  def __init__(self, units, **kwargs):
    super().__init__(units, **{**kwargs, "use_bias": False})

  def build(self, input_shape):
    """Makes the kernel (D, units), gamma of ones and beta of zeros (D,)."""
    super().build(input_shape)
    self.gamma, self.beta = (
      self.add_weight(
        shape=(input_shape[-1],), initializer=initializer, name=name
      )
      for name, initializer in (("gamma", "ones"), ("beta", "zeros"))
    )

  def call(self, inputs):
    """Gives (..., units)."""
    scaled = self.gamma[:, None] * self.kernel
    return ops.matmul(inputs, scaled) + ops.matmul(self.beta, self.kernel)


def batch_normalization(kind=BatchNormalization, **kwargs):
  """Batch normalisation with the starter code's settings.

  Args:
    kind: BatchNormalization or a class derived from it.
    **kwargs: passed on to the layer.
  """
  return kind(momentum=0.999, epsilon=0.001, **kwargs)
