"""How data_tools stores the numbers of a data set: float32, float16 or uint8.

A store makes of an item's float32 arrays those that are written, and keeps
account of the error. Only uint8 has to see all items before: its bytes divide
the range from the smallest number of a feature to the largest.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

import quantization
from data_tools.item_table import BadItemError
from quantization import Range
from records.contents import rows_of_finite_length

Arrays = Mapping[str, np.ndarray]

_MOST_HALF = float(np.finfo(np.float16).max)
_LEAST_NORMAL_HALF = float(np.finfo(np.float16).smallest_normal)
_LARGEST_HALF_ERROR = 2.0**-11


class Store:
  """Stores numbers as float32, exactly.

  Attributes:
    needs_ranges: whether `measure` must be called with all arrays first.
  """

  needs_ranges = False

  def measure(self, arrays: Arrays) -> None:
    """Looks at the arrays of an item that will be stored.

    Args:
      arrays: see `convert`.

    Raises:
      BadItemError: the item cannot be stored.
    """
    self._checked(arrays)

  def convert(self, arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays to write.

    Args:
      arrays: of an item by feature, (numbers,) or (frames, numbers) float32, or
        uint8: YouTube-8M's bytes, which are stored as they are.

    Returns:
      The same shapes, the floats in the dtype of the store.

    Raises:
      BadItemError: a number cannot be stored, or no model could use it.
    """
    stored = dict(arrays)
    for name, array in self._checked(arrays):
      stored[name] = self._store(name, array)
    return stored

  def _checked(self, arrays: Arrays) -> list[tuple[str, np.ndarray]]:
    """The features with floats, all of which can be stored."""
    floats = [
      (name, array) for name, array in arrays.items() if array.dtype != np.uint8
    ]
    for _, array in floats:
      self._check(array)
    return floats

  def _check(self, array: np.ndarray) -> None:
    """Raises a BadItemError if the array cannot be stored."""
    if not rows_of_finite_length(np.atleast_2d(array)).all():
      raise BadItemError(
        f"numbers as large as {np.abs(array).max():g}, whose squares do not add"
        " up to a float32 number"
      )

  def _store(self, name: str, array: np.ndarray) -> np.ndarray:
    """The array of a feature as it is written."""
    del name
    return array

  def ranges(self, names: Iterable[str]) -> list[list[float] | None]:
    """What a card says of the ranges of features; empty without bytes."""
    del names
    return []

  def errors(self) -> dict:
    """The errors so far, for a card, by feature; empty if there are none."""
    return {}

  def describe_errors(self) -> list[str]:
    """The errors so far, as lines for a user."""
    return []


class HalfStore(Store):
  """Stores numbers as float16."""

  def __init__(self):
    self._largest: dict[str, float] = {}

  def _check(self, array: np.ndarray) -> None:
    largest = float(np.abs(array).max())
    # Squares of numbers that fit add up to a float32 number in any case.
    if not largest <= _MOST_HALF:
      super()._check(array)
      raise BadItemError(
        f"the number {largest:g} is too large for float16; use --store=float32"
      )

  def _store(self, name: str, array: np.ndarray) -> np.ndarray:
    half = array.astype(np.float16)
    difference = half.astype(np.float32)
    difference -= array
    np.abs(difference, out=difference)
    difference /= np.maximum(np.abs(array), np.float32(_LEAST_NORMAL_HALF))
    error = difference.max()
    if error:  # rounded up: the division rounded to float32
      error = np.nextafter(error, np.float32(1))
    error = min(float(error), _LARGEST_HALF_ERROR)
    self._largest[name] = max(self._largest.get(name, 0.0), error)
    return half

  def errors(self) -> dict:
    """{feature: {"largest_relative_error": it}}.

    Relative to the number, or to 2^-14, the smallest normal float16, if that is
    larger. It is at most 2^-11.
    """
    return {
      name: {"largest_relative_error": error}
      for name, error in self._largest.items()
    }

  def describe_errors(self) -> list[str]:
    """See Store.describe_errors."""
    if not self._largest:
      return []
    largest = max(self._largest.values())
    return [f"Largest relative error of float16: {largest:.2g}"]


@dataclasses.dataclass
class _Feature:
  """What is known about the numbers of a feature.

  Attributes:
    low: the smallest.
    high: the largest.
    count: how many.
    mean: of them.
    squares: sum of the squares of their distances from the mean.
    largest_error: of a stored number.
    squared_errors: sum of the squares of the errors.
    num_errors: how many numbers were stored.
  """

  low: float = np.inf
  high: float = -np.inf
  count: int = 0
  mean: float = 0.0
  squares: float = 0.0
  largest_error: float = 0.0
  squared_errors: float = 0.0
  num_errors: int = 0

  def measure(self, array: np.ndarray) -> None:
    """Adds numbers: Chan et al. 1979, pairwise updating of variances."""
    values = array.astype(np.float64)
    self.low = min(self.low, float(values.min()))
    self.high = max(self.high, float(values.max()))
    mean, count = float(values.mean()), values.size
    total, difference = self.count + count, mean - self.mean
    self.squares += float(np.square(values - mean).sum())
    self.squares += difference**2 * self.count * count / total
    self.mean += difference * count / total
    self.count = total

  @property
  def range(self) -> Range:
    """What the bytes 0 and 255 stand for.

    In the fewest digits that give the same float32 numbers. If all numbers are
    equal, it begins with them, so that they are stored exactly.
    """
    low, high = (
      float(str(np.float32(number))) for number in (self.low, self.high)
    )
    return (low, high) if low < high else (low, low + max(1.0, abs(low)))

  def add_errors(self, differences: np.ndarray) -> None:
    """Adds the differences of stored numbers from those given, float64."""
    self.largest_error = max(
      self.largest_error, float(np.abs(differences).max())
    )
    self.squared_errors += float(np.square(differences).sum())
    self.num_errors += differences.size

  @property
  def relative_error(self) -> float:
    """Root mean square of the errors, in standard deviations of the numbers."""
    if not self.squares or not self.num_errors:
      return 0.0
    error = self.squared_errors / self.num_errors
    return float(np.sqrt(error / (self.squares / self.count)))


class ByteStore(Store):
  """Stores numbers as uint8, in the range of each feature."""

  needs_ranges = True

  def __init__(self):
    self._features: dict[str, _Feature] = {}

  def measure(self, arrays: Arrays) -> None:
    """See Store.measure."""
    for name, array in self._checked(arrays):
      self._features.setdefault(name, _Feature()).measure(array)

  def _store(self, name: str, array: np.ndarray) -> np.ndarray:
    feature = self._features.get(name)
    if feature is None:
      raise BadItemError("it could not be read when ranges were measured")
    stored = quantization.quantize_in(array, feature.range)
    restored = quantization.floats_of(stored, feature.range)
    feature.add_errors(restored - array.astype(np.float64))
    return stored

  def ranges(self, names: Iterable[str]) -> list[list[float] | None]:
    """See Store.ranges."""
    if not self._features:
      return []
    return [
      list(self._features[name].range) if name in self._features else None
      for name in names
    ]

  def errors(self) -> dict:
    """{feature: its largest error, and the root mean square of all}.

    The latter is in standard deviations of the feature's numbers.
    """
    return {
      name: {
        "largest_error": feature.largest_error,
        "rms_error_of_spread": feature.relative_error,
      }
      for name, feature in self._features.items()
    }

  def describe_errors(self) -> list[str]:
    """See Store.describe_errors."""
    return [
      f"{name} in bytes from {feature.range[0]:.6g} to {feature.range[1]:.6g}:"
      f" largest error {feature.largest_error:.2g}, root mean square"
      f" {feature.relative_error:.2%} of the spread"
      for name, feature in self._features.items()
    ]


# By the value of --store.
STORES = {"float16": HalfStore, "float32": Store, "uint8": ByteStore}


def store_as(
  array: np.ndarray, dtype: str, of: Sequence[float] | None = None
) -> np.ndarray:
  """Converts numbers as those of a data set were.

  Args:
    array: float32 or uint8, see Store.convert.
    dtype: of the data set's card.
    of: likewise, the range of uint8; None for YouTube-8M's.

  Returns:
    The same shape, in the dtype.

  Raises:
    BadItemError: a number cannot be stored.
  """
  if dtype != "uint8":
    return STORES[dtype]().convert({"": array})[""]
  if array.dtype == np.uint8:
    return array
  low, high = of or quantization.YOUTUBE8M_RANGE
  return quantization.quantize_in(array, (low, high))
