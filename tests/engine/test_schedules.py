"""Tests of engine.schedules: each rate by hand."""

import math

import pytest
import tensorflow as tf

from engine import schedules
from engine.settings import Settings


def rate_after(examples_seen, horizon=0, **settings):
  """The learning rate after some examples, base rate 0.2."""
  settings = Settings(
    **{"batch_size": 4, "base_learning_rate": 0.2, **settings}
  )
  return float(
    schedules.learning_rate(
      tf.constant(examples_seen, tf.int64),
      settings,
      tf.constant(horizon, tf.int64),
    )
  )


@pytest.mark.parametrize(
  ("seen", "expected"),
  [(0, 0.2), (11, 0.2), (12, 0.1), (23, 0.1), (24, 0.05), (36, 0.025)],
)
def test_exponential_is_the_starters_staircase(seen, expected):
  rate = rate_after(
    seen, learning_rate_decay=0.5, learning_rate_decay_examples=12
  )
  assert rate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ("seen", "expected"),
  [
    (0, 0.2),
    (25, 0.1 * (1 + math.sqrt(0.5))),
    (50, 0.1),
    (100, 0.0),
    (170, 0.0),
  ],
)
def test_cosine(seen, expected):
  rate = rate_after(seen, 100, learning_rate_schedule="cosine")
  assert rate == pytest.approx(expected, abs=1e-7)


def test_cosine_of_more_examples_than_float32_can_count():
  horizon = 5 * 10**9
  rate = rate_after(horizon // 2, horizon, learning_rate_schedule="cosine")
  assert rate == pytest.approx(0.1, rel=1e-6)


def test_constant():
  for seen in (0, 10, 10**7):
    rate = rate_after(seen, learning_rate_schedule="constant")
    assert rate == pytest.approx(0.2)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_warmup_rises_to_the_schedules_rate(name):
  given = {"learning_rate_schedule": name, "warmup_examples": 10}
  for seen in (0, 4, 9, 10, 30):
    unwarmed = rate_after(seen, 100, learning_rate_schedule=name)
    expected = unwarmed * min(1.0, (seen + 1) / 10)
    assert rate_after(seen, 100, **given) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({"num_epochs": 3}, 66),
    ({"num_epochs": 0}, 0),
    ({"num_epochs": 0, "max_steps": 4}, 40),
    ({"num_epochs": 3, "max_steps": 4}, 40),
    ({"num_epochs": 1, "max_steps": 4}, 22),
    ({"num_epochs": 2**62}, 2**63 - 1),
  ],
)
def test_planned_examples(settings, expected):
  settings = Settings(batch_size=10, base_learning_rate=0.1, **settings)
  assert settings.planned_examples(epoch_videos=22, step_videos=10) == expected


@pytest.mark.parametrize(
  ("seen", "expected"), [(0, 0.01), (9, 0.1), (19, 0.2), (20, 0.2), (99, 0.2)]
)
def test_warmup_over_a_part_of_the_run(seen, expected):
  settings = {"learning_rate_schedule": "constant", "warmup_fraction": 0.2}
  assert rate_after(seen, 100, **settings) == pytest.approx(expected, rel=1e-5)
  # A number of examples has precedence, and needs no horizon.
  settings["warmup_examples"] = 10
  assert rate_after(9, 0, **settings) == pytest.approx(0.2, rel=1e-6)


def test_what_needs_the_end_of_the_run():
  def needs(**settings):
    return schedules.needs_horizon(Settings(4, 0.2, **settings))

  assert needs(learning_rate_schedule="cosine")
  assert not needs()
  assert not needs(learning_rate_schedule="constant", warmup_examples=5)
  assert needs(learning_rate_schedule="constant", warmup_fraction=0.1)
  assert not needs(warmup_examples=5, warmup_fraction=0.1)
