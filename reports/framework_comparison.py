"""Whether frameworks compute the same, and what each of them needs."""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from reports.framework_runs import Result

CHECK_STEPS = 50
"""Steps with dropout off whose losses must agree."""

CHECK_SHARE = 0.03
"""The part of the learning rate that these steps train at.

At the whole rate, the loss of a recurrent model jumps in its first steps. Each
step then makes differences of rounding larger, from 1e-6 to 7e-3 in 50 steps
(at a tenth of it still to 1e-3), so that equal computations part.
"""

MOST_OUTPUTS, MOST_GRADIENTS, MOST_LOSSES = 1e-4, 1e-4, 1e-3
"""The largest differences that count as agreement; see Agreement."""

# A gradient is compared with the largest number of its weight, but not with
# less than this part of the largest number of all weights: where the true
# gradient is 0, rounding is all there is.
_LEAST_SHARE = 1e-3


@dataclasses.dataclass(frozen=True)
class Agreement:
  """The largest differences between two trainings of CHECK_STEPS steps.

  Attributes:
    outputs: of the predictions of the first step, which are probabilities.
    gradients: of the gradients of the first step, divided by the largest number
      of the gradient of the same weight.
    losses: of the loss of a step, divided by the loss.
  """

  outputs: float
  gradients: float
  losses: float

  @property
  def holds(self) -> bool:
    """Whether all differences are small. NaN is not."""
    return (
      self.outputs <= MOST_OUTPUTS
      and self.gradients <= MOST_GRADIENTS
      and self.losses <= MOST_LOSSES
    )


def agreement(one: Result, other: Result) -> Agreement:
  """Compares two results of checks on the same batches.

  Args:
    one: of the framework that others are compared with.
    other: of another one, or of several processes, of which the first one has
      the first rows of each batch.
  """
  losses, other_losses = (
    np.array(of.numbers["losses"], np.float64) for of in (one, other)
  )
  predictions, other_predictions = (
    of.arrays["predictions"] for of in (one, other)
  )
  outputs = np.abs(
    predictions[: len(other_predictions)] - other_predictions
  ).max()
  return Agreement(
    float(outputs),
    _gradient_difference(one, other),
    float((np.abs(losses - other_losses) / np.abs(losses)).max()),
  )


def _gradient_difference(one: Result, other: Result) -> float:
  """The largest difference of gradients; see Agreement."""
  number = len(one.arrays["norms"])
  pairs = [
    tuple(of.arrays[f"gradient_{place}"] for of in (one, other))
    for place in range(number)
  ]
  sizes = np.array([np.abs(gradient).max() for gradient, _ in pairs])
  differences = np.array([np.abs(a - b).max() for a, b in pairs])
  norms = np.abs(one.arrays["norms"] - other.arrays["norms"])
  # The numbers are a part of large gradients, the lengths are of the whole.
  least = _LEAST_SHARE * sizes.max()
  of_numbers = differences / np.maximum(sizes, least)
  lengths = one.arrays["norms"]
  of_lengths = norms / np.maximum(lengths, _LEAST_SHARE * lengths.max())
  return float(max(of_numbers.max(), of_lengths.max()))


def videos_per_second(numbers: dict, batch_size: int) -> float:
  """The rate of the median step after the first one, which also compiles.

  Args:
    numbers: of a Result with at least two steps.
    batch_size: videos of a step.
  """
  return batch_size / statistics.median(numbers["step_seconds"][1:])


def seconds_after(numbers: dict) -> list[float]:
  """Seconds from the start of the program to the end of each step."""
  first, *others = numbers["step_seconds"]
  del first  # in start_seconds
  ends = [numbers["start_seconds"]]
  for seconds in others:
    ends.append(ends[-1] + seconds)
  return ends


def smoothed(values: Sequence[float], window: int = 10) -> list[float]:
  """The mean of each value and those before it, at most `window` of them."""
  return [
    statistics.fmean(values[max(0, end - window) : end])
    for end in range(1, len(values) + 1)
  ]
