"""Batch normalization and related layers.

Shapes in comments: B videos, T frames, D features.
"""

import keras
from keras import ops

from layers import sums


@keras.saving.register_keras_serializable("layers")
class BatchNormalization(keras.layers.BatchNormalization):
  """Batch normalization whose statistics fit the data from the first steps on.

  After 100 steps with a momentum of 0.999, nine tenths of the initial mean 0
  and variance 1 are still there, while normalized frames have a variance of
  about 1/1024. For about 7,000 steps a model would be evaluated with statistics
  that are not the data's. So step n, counted from 0, uses the momentum
  (1 + n) / (10 + n) as long as that is smaller, as TensorFlow's
  ExponentialMovingAverage does with num_updates.
  """

  def build(self, input_shape):
    """Creates the layer's weights and the number of steps, n."""
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
    inputs = sums.widen(inputs)
    mean, variance = self._statistics(inputs, training, mask)
    outputs = ops.batch_normalization(
      inputs, mean, variance, self.axis, self.beta, self.gamma, self.epsilon
    )
    return ops.cast(outputs, self.compute_dtype)

  def _statistics(self, inputs, training, mask=None):
    """The mean and the variance to normalize with, each (features,)."""
    if not (training and self.trainable):
      return self.moving_mean, self.moving_variance
    if mask is None:
      mean, variance = sums.moments(inputs)
    else:
      mean, variance = self._moments(inputs, mask)
    way = ops.maximum(1.0 - self.momentum, 9.0 / (10.0 + self.num_updates))
    self.moving_mean.assign_add(way * (mean - self.moving_mean))
    self.moving_variance.assign_add(way * (variance - self.moving_variance))
    self.num_updates.assign_add(1.0)
    return mean, variance


@keras.saving.register_keras_serializable("layers")
class MaxOfNormalized(BatchNormalization):
  """The largest value of each normalized feature over the frames.

  Equal to the maximum of BatchNormalization's outputs, but normalizes only the
  maxima. Normalization is linear in each feature, so the largest input gives
  the largest output, or the smallest input where gamma is negative.

  Input shape: frames (B, T, D), all of them valid.
  Output shape: (B, D).
  """

  def call(self, inputs, training=None):
    inputs = sums.widen(inputs)
    mean, variance = self._statistics(inputs, training)
    sign = ops.where(self.gamma < 0, -1.0, 1.0)
    largest = sign * ops.max(sign * inputs, axis=1)
    outputs = ops.batch_normalization(
      largest, mean, variance, -1, self.beta, self.gamma, self.epsilon
    )
    return ops.cast(outputs, self.compute_dtype)

  def compute_output_spec(self, inputs, training=None):
    shape = (inputs.shape[0], inputs.shape[2])
    return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("layers")
class ScaledDense(keras.layers.Dense):
  """A dense layer without bias on x * gamma + beta, for each feature of x.

  Equal to a scaling before a dense layer, but scales the weights. If x depends
  on no other weights, as in normalized input, the gradient of gamma then needs
  no matrix product back to x, a third of the layer's work.

  Args:
    units: see keras.layers.Dense.
    **kwargs: see keras.layers.Dense, such as kernel_initializer.
  """

  # In Keras files keras.layers.Dense keeps only its own weights.
  save_own_variables = keras.layers.Layer.save_own_variables
  load_own_variables = keras.layers.Layer.load_own_variables

  def __init__(self, units, **kwargs):
    super().__init__(units, **{**kwargs, "use_bias": False})

  def build(self, input_shape):
    """Creates the kernel (D, units), gamma, ones (D,), and beta, zeros (D,)."""
    super().build(input_shape)
    self.gamma, self.beta = (
      self.add_weight(
        shape=(input_shape[-1],), initializer=initializer, name=name
      )
      for name, initializer in (("gamma", "ones"), ("beta", "zeros"))
    )

  def call(self, inputs):
    scaled = self.gamma[:, None] * self.kernel
    return ops.matmul(inputs, scaled) + ops.matmul(self.beta, self.kernel)


def batch_normalization(kind=BatchNormalization, **kwargs):
  """Batch normalization with the starter code's settings.

  Args:
    kind: BatchNormalization or a subclass.
    **kwargs: passed on to the layer.
  """
  return kind(momentum=0.999, epsilon=0.001, **kwargs)


def context_gating(features, name, dtype=None):
  """Lets features gate each other: y = x * sigmoid(BN(W x)).

  Source: Miech et al. 2017, equation 10. W has no bias because BN has one.

  Args:
    features: (B, D) symbolic.
    name: of the layers.
    dtype: of the computation; None for the policy's.

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
