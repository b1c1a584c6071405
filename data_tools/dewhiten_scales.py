"""Reads the files that --dewhiten_scales names."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

import errors
from engine.prediction_file import READ_ERRORS


def read_dewhiten_scales(
  text: str,
  names: Sequence[str],
  sizes: Sequence[int],
  known: Sequence[Sequence[float]],
) -> list[Sequence[float]]:
  """Reads the value of --dewhiten_scales.

  Args:
    text: a path for each feature, separated by commas; nothing for one whose
      scales are known, or that has none.
    names: of the features.
    sizes: how many numbers each has.
    known: scales of the features without a path; empty for none.

  Returns:
    The scales of each feature, as many as it has numbers, or none.

  Raises:
    errors.UserError: there are more or fewer paths than features, a file cannot
      be read, or holds something else than a number for each of the feature's.
  """
  paths = [os.path.expanduser(path.strip()) for path in text.split(",")]
  if len(paths) != len(names):
    raise errors.UserError(
      f"Expected a file for each of the features {', '.join(names)}, received"
      f" {len(paths)} (--dewhiten_scales={text}). Name one for each, separated"
      " by commas, with nothing in the place of a feature without scales."
    )
  return [
    _read_file(path, name, size) if path else scales
    for path, name, size, scales in zip(paths, names, sizes, known, strict=True)
  ]


def _read_file(path: str, name: str, size: int) -> list[float]:
  """Reads the scales of one feature; see read_dewhiten_scales."""
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      if path.endswith(".npy"):
        numbers = np.load(file, allow_pickle=False)
        if (
          not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "fiu"
        ):
          raise ValueError("not an array of real numbers")
      else:
        numbers = np.array(file.read().split(), np.float64)
    numbers = numbers.astype(np.float64).ravel()
  except (*READ_ERRORS, OSError, tf.errors.OpError) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise errors.UserError(
      f"Expected a .npy or text file of numbers as --dewhiten_scales={path},"
      f" received one that cannot be read ({reason}). Write a number for each"
      f" of the {size} of {name}."
    ) from error
  if len(numbers) != size:
    raise errors.UserError(
      f"Expected {size} numbers in --dewhiten_scales={path}, one for each of"
      f" the feature {name}, received {len(numbers)}. Name the file of this"
      " feature."
    )
  if not np.isfinite(numbers).all():
    raise errors.UserError(
      f"Expected finite numbers in --dewhiten_scales={path}, received"
      f" {numbers[~np.isfinite(numbers)][0]}. Correct the file."
    )
  return numbers.tolist()
