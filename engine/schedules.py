"""Learning rate schedules: functions of the examples seen.

To add a schedule, write a function here and a line in SCHEDULES. The flag
--learning_rate_schedule then takes its name.

Every schedule has the arguments
  examples_seen: int64 scalar, the examples before this step.
  settings: a settings.Settings.
  horizon: int64 scalar, the examples that the whole run was planned to see when
    it began; 0 if it is not needed, see needs_horizon.
and returns the learning rate as a float32 scalar.
"""

import math

import tensorflow as tf

from engine.settings import Settings


def exponential(examples_seen, settings: Settings, horizon):
  """Staircase decay, the starter code's: r d^floor(n / N).

  r is --base_learning_rate, d --learning_rate_decay and N
  --learning_rate_decay_examples.
  """
  del horizon
  decays = examples_seen // settings.learning_rate_decay_examples
  return settings.base_learning_rate * tf.pow(
    settings.learning_rate_decay, tf.cast(decays, tf.float32)
  )


def cosine(examples_seen, settings: Settings, horizon):
  """Half a cosine, from the base rate to 0 at the horizon.

  r (1 + cos(pi n / H)) / 2. Source: Loshchilov & Hutter 2017, SGDR, equation 5
  without restarts.
  """
  done = tf.cast(examples_seen / tf.maximum(horizon, 1), tf.float32)
  angle = math.pi * tf.minimum(done, 1.0)
  return 0.5 * settings.base_learning_rate * (1.0 + tf.cos(angle))


def constant(examples_seen, settings: Settings, horizon):
  """The base learning rate."""
  del examples_seen, horizon
  return tf.constant(settings.base_learning_rate, tf.float32)


SCHEDULES = {
  "exponential": exponential,
  "cosine": cosine,
  "constant": constant,
}
"""Each schedule by its name."""

_WITHOUT_HORIZON = ("exponential", "constant")


def needs_horizon(settings: Settings) -> bool:
  """Whether the learning rate depends on where the run will end."""
  is_without = settings.learning_rate_schedule in _WITHOUT_HORIZON
  return not is_without or _warms_up_by_fraction(settings)


def _warms_up_by_fraction(settings: Settings) -> bool:
  return settings.warmup_fraction > 0 and not settings.warmup_examples


def learning_rate(examples_seen, settings: Settings, horizon):
  """The rate of a step: the schedule's, after a linear warm-up.

  Over the first N examples the schedule's rate is multiplied by (n + 1) / N. N
  is --warmup_examples, or --warmup_fraction of the horizon. See this module for
  the arguments.
  """
  rate = SCHEDULES[settings.learning_rate_schedule](
    examples_seen, settings, horizon
  )
  warmup = tf.cast(settings.warmup_examples, tf.float32)
  if _warms_up_by_fraction(settings):
    warmup = settings.warmup_fraction * tf.cast(horizon, tf.float32)
  elif not settings.warmup_examples:
    return rate
  warm = tf.cast(examples_seen + 1, tf.float32) / tf.maximum(warmup, 1.0)
  return rate * tf.minimum(warm, 1.0)
