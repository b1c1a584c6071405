"""A loss by which the branches of a model learn from their mixture.

Shapes in comments: B videos, N branches, V classes.
"""

import keras
from keras import ops


class Distillation(keras.layers.Layer):
  """The distance of each branch's ranking of the classes to the mixture's.

  T^2 sum over the branches n of sum_v p_v (log p_v - log q_nv), the mean over
  the videos, where p = softmax(mixture / T) and q_n = softmax(branch n / T).
  The gradient goes through both. Only in training; otherwise 0. Source: Lin et
  al. 2018, NeXtVLAD; T^2, which keeps the gradient's size: Hinton
  et al. 2015, Distilling the knowledge in a neural network.

  Args:
    temperature: T; the higher, the more the unlikely classes count.

  Input shape: logits of the mixture (B, V), of the branches (B, N, V).
  Output shape: (), float32 under any dtype policy.
  """

  def __init__(self, temperature, **kwargs):
    super().__init__(dtype="float32", **kwargs)
    self.temperature = temperature

  def call(self, mixture, branches, training=False):
    if not training:
      return ops.zeros((), "float32")
    log_p = ops.log_softmax(mixture / self.temperature)[:, None, :]
    log_q = ops.log_softmax(branches / self.temperature)
    distances = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=(1, 2))
    return self.temperature**2 * ops.mean(distances)

  def compute_output_spec(self, mixture, branches, training=False):
    return keras.KerasTensor((), "float32")
