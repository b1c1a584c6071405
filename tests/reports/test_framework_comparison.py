"""Tests of reports.framework_comparison, with numbers worked out by hand."""

import math

import numpy as np
import pytest

from reports import framework_comparison as comparison
from reports.framework_runs import Result


def make_result(losses, predictions, gradients, norms=None) -> Result:
  arrays = {
    f"gradient_{place}": np.array(one, np.float32)
    for place, one in enumerate(gradients)
  }
  lengths = [np.linalg.norm(one) for one in gradients]
  return Result(
    {"losses": losses},
    {
      "predictions": np.array(predictions, np.float32),
      "norms": np.array(lengths if norms is None else norms),
      **arrays,
    },
  )


ONE = make_result([2.0, 1.0], [[0.5, 0.25], [1.0, 0.0]], [[3.0, -4.0], [0.5]])


def test_differences():
  other = make_result(
    [2.001, 1.002], [[0.5, 0.26], [1.0, 0.0]], [[3.0, -4.2], [0.5]]
  )
  found = comparison.agreement(ONE, other)
  assert found.outputs == pytest.approx(0.01, rel=1e-5)
  assert found.gradients == pytest.approx(0.2 / 4.0, rel=1e-5)
  assert found.losses == pytest.approx(0.002, rel=1e-6)
  assert not found.holds


def test_equal_ones_agree():
  found = comparison.agreement(ONE, ONE)
  assert (found.outputs, found.gradients, found.losses) == (0, 0, 0)
  assert found.holds


@pytest.mark.parametrize(
  ("outputs", "gradients", "losses", "holds"),
  [
    (1e-4, 1e-4, 1e-3, True),
    (1.1e-4, 0, 0, False),
    (0, 1.1e-4, 0, False),
    (0, 0, 1.1e-3, False),
    (math.nan, 0, 0, False),
    (0, math.nan, 0, False),
    (0, 0, math.nan, False),
  ],
)
def test_what_counts_as_agreement(outputs, gradients, losses, holds):
  assert comparison.Agreement(outputs, gradients, losses).holds == holds


def test_the_first_process_has_the_first_rows():
  other = make_result([2.0, 1.0], [[0.5, 0.25]], [[3.0, -4.0], [0.5]])
  assert comparison.agreement(ONE, other).holds


def test_what_is_between_the_kept_numbers_shows_in_the_length():
  other = make_result(
    [2.0, 1.0],
    [[0.5, 0.25], [1.0, 0.0]],
    [[3.0, -4.0], [0.5]],
    norms=[5.0, 0.75],
  )
  assert comparison.agreement(ONE, other).gradients == pytest.approx(0.5)


def test_gradients_of_zero_are_measured_by_those_of_other_weights():
  one = make_result([1.0], [[0.5]], [[1.0], [1e-9]])
  other = make_result([1.0], [[0.5]], [[1.0], [-1e-9]])
  found = comparison.agreement(one, other)
  assert found.gradients == pytest.approx(2e-9 / 1e-3, rel=1e-5)


def test_the_rate_leaves_out_the_first_step():
  numbers = {"step_seconds": [9.0, 0.5, 0.25, 4.0]}
  assert comparison.videos_per_second(numbers, 8) == 16


def test_seconds_after_each_step():
  numbers = {"start_seconds": 10.0, "step_seconds": [9.0, 0.5, 0.25]}
  assert comparison.seconds_after(numbers) == [10.0, 10.5, 10.75]


def test_smoothed():
  assert comparison.smoothed([4.0, 2.0, 6.0, 1.0], 2) == [4.0, 3.0, 4.0, 3.5]
