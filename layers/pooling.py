"""Layers that pool the frames of a video by attention or by clusters.

Shapes in comments: B videos, T frames, D features, K clusters or attention
units.
"""

import math

import keras
from keras import ops

from layers import masking, sums


@keras.saving.register_keras_serializable("layers")
class AttentionPooling(masking.MaskedLayer):
  """Weighted sums of the frames; the weights are a softmax over valid frames.

  v_k = sum_t w_tk x_t with w_tk = exp(s_tk) / sum over valid t' of exp(s_t'k).

  Input shape: frames (B, T, D), scores (B, T, K), mask (B, T) bool.
  Output shape: (B, K, D). A video without valid frames gives zeros.
  """

  def call(self, frames, scores, mask):
    mask = mask[:, :, None]
    scores = ops.where(mask, ops.cast(scores, "float32"), -1e9)
    weights = ops.where(mask, ops.softmax(scores, axis=1), 0.0)
    return ops.einsum("btk,btd->bkd", ops.cast(weights, frames.dtype), frames)

  def compute_output_spec(self, frames, scores, mask):
    shape = (frames.shape[0], scores.shape[2], frames.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class AttentionCluster(keras.layers.Layer):
  """Attention units with a shift: v_i = L2(alpha_i a_i + beta_i) / sqrt(K).

  a_i is the i-th weighted sum of the frames; alpha_i and beta_i are learned
  numbers. Source: Long et al. 2018, Attention Clusters, equations 4 and 5.

  Input shape: pooled (B, K, D), from AttentionPooling.
  Output shape: (B, K D).
  """

  def build(self, pooled_shape):
    """Creates alpha, ones, and beta, near zero."""
    _, self._units, self._features = pooled_shape
    self.alpha = self.add_weight(
      shape=(self._units, 1), initializer="ones", name="alpha"
    )
    # With zeros, the division by the length would cancel alpha: no gradient.
    self.beta = self.add_weight(
      shape=(self._units, 1),
      initializer=keras.initializers.RandomNormal(stddev=0.01),
      name="beta",
    )

  def call(self, pooled):
    shifted = sums.l2_normalize(self.alpha * pooled + self.beta)
    return ops.reshape(
      shifted / math.sqrt(self._units), (-1, self._units * self._features)
    )


def _sums_of_residuals(frames, assignment, centers):
  """sum_t a_tk x_t - c_k sum_t a_tk, (B, K, D); without c only the first sum.

  Takes frames (B, T, D), assignment (B, T, K), centers (K, D) or None.
  """
  weighted = ops.einsum("btk,btd->bkd", assignment, frames)
  if centers is None:
    return weighted
  return weighted - _assigned(assignment) * centers


def _assigned(assignment):
  """How much is assigned to each cluster: (B, T, K) -> (B, K, 1)."""
  # A matrix product: XLA would compute a sum again for each of its uses.
  assignment_wide = sums.widen(assignment)
  ones = ops.ones_like(assignment_wide[:, :, :1])
  assigned = ops.einsum("btk,bto->bko", assignment_wide, ones)
  return ops.cast(assigned, assignment.dtype)


@keras.saving.register_keras_serializable("layers")
class Vlad(keras.layers.Layer):
  """Vectors of locally aggregated descriptors, with soft assignment.

  V_k = sum_t a_tk (x_t - c_k), each divided by its length. Source: Arandjelovic
  et al. 2016, NetVLAD, equation 4; without the centers NetRVLAD, Miech et al.
  2017, equation 6.

  Args:
    residual: whether centers c_k are learned and subtracted.
    normalize_all: whether the K vectors together are divided by their length
      too.
    initializer: of the centers (K, D); None: normally distributed with
      deviation 1/sqrt(D).

  Input shape: frames (B, T, D), assignment (B, T, K), zero for padding.
  Output shape: (B, K D).
  """

  def __init__(
    self, residual=True, normalize_all=True, initializer=None, **kwargs
  ):
    super().__init__(**kwargs)
    self.residual = residual
    self.normalize_all = normalize_all
    self.initializer = initializer

  def build(self, frames_shape, assignment_shape):
    """Creates the centers."""
    self._features, self._clusters = frames_shape[2], assignment_shape[2]
    self.centers = None
    if self.residual:
      self.centers = self.add_weight(
        shape=(self._clusters, self._features),
        initializer=self.initializer
        or keras.initializers.RandomNormal(stddev=self._features**-0.5),
        name="centers",
      )

  def call(self, frames, assignment):
    vectors = _sums_of_residuals(frames, assignment, self.centers)
    vectors = ops.reshape(
      sums.l2_normalize(vectors), (-1, self._clusters * self._features)
    )
    return sums.l2_normalize(vectors) if self.normalize_all else vectors

  def compute_output_spec(self, frames, assignment):
    size = assignment.shape[2] * frames.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class FisherVector(keras.layers.Layer):
  """First and second order statistics of the frames around learned centers.

  With s_k = w_k^2 + 1e-6 for the covariance,
    F1_k = sum_t a_tk (x_t - c_k) / s_k, each divided by its length,
    F2_k = sum_t a_tk ((x_t - c_k)^2 / s_k^2 - 1),
  then F1 and F2 are each divided by their length. Source: Miech et al. 2017,
  Learnable pooling, equations 8 and 9.

  Input shape: frames (B, T, D), assignment (B, T, K), zero for padding.
  Output shape: (B, 2 K D), F1 first.
  """

  def build(self, frames_shape, assignment_shape):
    """Creates centers around 0 and w around 1, with deviation 1/sqrt(D)."""
    self._features, self._clusters = frames_shape[2], assignment_shape[2]
    for name, mean in (("centers", 0.0), ("deviations", 1.0)):
      weight = self.add_weight(
        shape=(self._clusters, self._features),
        initializer=keras.initializers.RandomNormal(mean, self._features**-0.5),
        name=name,
      )
      setattr(self, name, weight)

  def call(self, frames, assignment):
    scale = ops.square(self.deviations) + 1e-6
    assigned = _assigned(assignment)
    weighted = ops.einsum("btk,btd->bkd", assignment, frames)
    squares = ops.einsum("btk,btd->bkd", assignment, ops.square(frames))
    first = sums.l2_normalize((weighted - assigned * self.centers) / scale)
    second = squares + ops.square(self.centers) * assigned
    second = second - 2.0 * self.centers * weighted
    second = second / ops.square(scale) - assigned
    size = self._clusters * self._features
    return ops.concatenate(
      [
        sums.l2_normalize(ops.reshape(order, (-1, size)))
        for order in (first, second)
      ],
      axis=1,
    )

  def compute_output_spec(self, frames, assignment):
    size = 2 * assignment.shape[2] * frames.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class BagOfWords(keras.layers.Layer):
  """How often each word occurs: the sum of the assignments over the frames.

  Source: Philbin et al. 2008, soft assignment; Miech et al. 2017, section 4.2.

  Input shape: assignment (B, T, K), zero for padding.
  Output shape: (B, K), each video's vector divided by its length.
  """

  def call(self, assignment):
    return sums.l2_normalize(_assigned(assignment)[:, :, 0])


@keras.saving.register_keras_serializable("layers")
class NextVlad(masking.MaskedLayer):
  """VLAD over groups of features: each frame is cut into G smaller ones.

  V_k = sum over t and g of alpha_tg a_tgk (x_tg - c_k), each divided by its
  length, where x_tg is the g-th of G equal parts of a frame, a_tg a softmax
  over the clusters and alpha_tg in [0, 1] the attention to that part. Source:
  Lin et al. 2018, NeXtVLAD, equations 3 to 6; the centers start as in its code,
  He's way with the fan-in F / G.

  Args:
    clusters: K.

  Input shape: frames (B, T, F), attention (B, T, G), scores (B, T, G K), mask
    (B, T) bool. G must divide F.
  Output shape: (B, K F / G).
  """

  def __init__(self, clusters, **kwargs):
    super().__init__(**kwargs)
    self.clusters = clusters
    self.vlad = Vlad(
      normalize_all=False,
      # Keras takes the rows, the clusters, for the inputs.
      initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out"),
      dtype=self.dtype_policy,
      name="vlad",
    )

  def build(self, frames_shape, attention_shape, scores_shape):
    """Creates the centers."""
    del scores_shape
    self._groups = attention_shape[2]
    self._group_size = frames_shape[2] // self._groups
    self.vlad.build(
      (frames_shape[0], None, self._group_size),
      (frames_shape[0], None, self.clusters),
    )

  def call(self, frames, attention, scores, mask):
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
    size = self.clusters * frames.shape[2] // attention.shape[2]
    return keras.KerasTensor((frames.shape[0], size), self.compute_dtype)
