"""Optimizers by name, as this project's training step needs them."""

import keras
from keras import ops

import errors


class CenteredRMSProp(keras.optimizers.RMSprop):
  """RMSProp that divides by the gradient's standard deviation.

  Each weight's gradient is divided by sqrt(E[g^2] - E[g]^2 + epsilon) instead
  of sqrt(E[g^2] + epsilon), E being exponential moving averages with decay rho.
  Source: Graves 2013, Generating sequences with recurrent neural networks,
  equations 38 to 45. Unlike keras.optimizers.RMSprop(centered=True), it never
  takes the root of a variance that rounding has made negative.

  Args:
    rho: decay of the averages.
    epsilon: added to the variance. It is small because the gradients of a mean
      over videos are.
  """

  def __init__(self, rho=0.95, epsilon=1e-10):
    super().__init__(rho=rho, epsilon=epsilon, centered=True)

  def update_step(self, gradient, variable, learning_rate):
    """Takes a step of one variable; see keras.optimizers.Optimizer."""
    index = self._get_variable_index(variable)
    square, mean = self._velocities[index], self._average_gradients[index]
    share = 1.0 - self.rho
    gradient = ops.cast(gradient, variable.dtype)
    self.assign_add(square, share * (ops.square(gradient) - square))
    self.assign_add(mean, share * (gradient - mean))
    variance = ops.maximum(square - ops.square(mean), 0.0)
    step = gradient * ops.rsqrt(variance + self.epsilon)
    self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)


# TensorFlow 1's settings.
_STARTERS = {
  "Adam": lambda: keras.optimizers.Adam(epsilon=1e-8),
  "AdamOptimizer": lambda: keras.optimizers.Adam(epsilon=1e-8),
  "CenteredRMSProp": CenteredRMSProp,
  "GradientDescentOptimizer": keras.optimizers.SGD,
  "MomentumOptimizer": lambda: keras.optimizers.SGD(momentum=0.9),
  "RMSPropOptimizer": keras.optimizers.RMSprop,
}
# The first is the base class; the others wrap another optimizer.
_NOT_BY_THEMSELVES = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")


def make_optimizer(
  name: str, weight_decay: float | None = None
) -> keras.optimizers.Optimizer:
  """Makes an optimizer from a TensorFlow 1 or a Keras name.

  Args:
    name: such as "AdamOptimizer" or "Adam".
    weight_decay: see `build_optimizer`; None for the optimizer's default.

  Raises:
    errors.UserError: there is no such optimizer.
  """
  known = {
    key: value
    for key, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and key not in _NOT_BY_THEMSELVES
  }
  make = (
    _STARTERS.get(name)
    or known.get(name)
    or known.get(name.removesuffix("Optimizer"))
  )
  if make is None:
    names = {*known, CenteredRMSProp.__name__}
    raise errors.UserError(
      f"Expected --optimizer to name a class in keras.optimizers or"
      f" CenteredRMSProp, received {name!r}."
      f"{errors.did_you_mean(name, {*names, *_STARTERS})} Available:"
      f" {', '.join(sorted(names))}."
    )
  optimizer = make()
  if weight_decay is not None:
    optimizer.weight_decay = weight_decay or None
  return optimizer


def _is_decayed(variable) -> bool:
  """Whether weight decay applies: not to biases and normalization."""
  return len(variable.shape) > 1 and variable.name not in (
    "bias",
    "beta",
    "gamma",
  )


def build_optimizer(
  name: str, model: keras.Model, weight_decay: float | None = None
) -> keras.optimizers.Optimizer:
  """Makes an optimizer and its variables for the weights of a model.

  It expects gradients that are already summed over all replicas.

  Args:
    name: see `make_optimizer`.
    model: whose trainable weights it will update.
    weight_decay: after each update w becomes w - rate * weight_decay * w, but
      not for biases and the weights of normalization layers. 0 for none, None
      for the optimizer's default. Source: Loshchilov & Hutter 2019, AdamW.

  Raises:
    errors.UserError: there is no such optimizer.
  """
  optimizer = make_optimizer(name, weight_decay)
  if optimizer.weight_decay:
    optimizer.exclude_from_weight_decay(
      [
        variable
        for variable in model.trainable_variables
        if not _is_decayed(variable)
      ]
    )
  optimizer.build(model.trainable_variables)
  # Keras has no public way to skip this sum. The step clips gradients after
  # they are summed, so they must not be summed again.
  optimizer._all_reduce_sum_gradients = lambda pairs: pairs
  return optimizer
