"""Dropout that is fast with XLA on CPUs."""

import keras
from keras import ops

from layers import random_numbers


@keras.saving.register_keras_serializable("layers")
class Dropout(keras.layers.Dropout):
  """keras.layers.Dropout with the faster random numbers of random_numbers.py.

  Args:
    rate: the fraction of the numbers that is set to zero in training. The
      others are scaled up to keep the mean.
    **kwargs: see keras.layers.Dropout.

  Input shape: any, float. Output shape: the same.
  """

  def __init__(self, rate, **kwargs):
    super().__init__(rate, **kwargs)
    if rate == 1.0:
      raise ValueError(f"Expected a rate from 0 to below 1, received {rate}.")

  def call(self, inputs, training=False):
    if not training or self.rate == 0.0:
      return inputs
    keep = (
      random_numbers.uniform(ops.shape(inputs), self.seed_generator)
      >= self.rate
    )
    return ops.where(keep, inputs / (1.0 - self.rate), 0.0)
