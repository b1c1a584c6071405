"""Converts bytes to the floats they stand for, and back.

YouTube-8M stores each number as one byte q, which stands for a float between
-2 and 2: q * 4/255 + 4/512 - 2. A data set of one's own has a range for each
feature: the byte q stands for LOW + q * (HIGH - LOW)/255.
"""

import math
from collections.abc import Sequence

import numpy as np

HALF_STEP = 4.0 / 512.0
DEQUANTIZE_SCALE = 4.0 / 255.0
DEQUANTIZE_BIAS = HALF_STEP - 2.0

# What the bytes 0 and 255 stand for.
Range = tuple[float, float]
YOUTUBE8M_RANGE: Range = (DEQUANTIZE_BIAS, DEQUANTIZE_BIAS + 4.0)


def dequantize(values, scale=DEQUANTIZE_SCALE, bias=DEQUANTIZE_BIAS):
  """Turns bytes, already cast to floats, into the floats they stand for.

  Args:
    values: any shape, float, whole numbers from 0 to 255; an array or a tensor
      of any library.
    scale: see scale_and_bias; YouTube-8M's by default.
    bias: likewise.

  Returns:
    The same shape, dtype and library.
  """
  return values * scale + bias


def scale_and_bias(of: Range) -> tuple[float, float]:
  """What to multiply bytes of this range by, and what to add then."""
  low, high = of
  return (high - low) / 255.0, low


def floats_of(values: np.ndarray, of: Range) -> np.ndarray:
  """The floats that bytes stand for; floats as they are.

  Args:
    values: any shape, uint8 or float.
    of: range of the bytes.

  Returns:
    The same shape, float32 if they were bytes.
  """
  if values.dtype != np.uint8:
    return values
  return dequantize(values.astype(np.float32), *scale_and_bias(of))


def scales_and_biases(ranges: Sequence[Range], sizes: Sequence[int]):
  """The same for several features side by side.

  Args:
    ranges: of each feature.
    sizes: how many numbers each has.

  Returns:
    Two floats if all ranges are the same; else two arrays (sum of sizes,)
    float32.
  """
  if len(set(ranges)) == 1:
    return scale_and_bias(ranges[0])
  pairs = np.array([scale_and_bias(of) for of in ranges], np.float32)
  scales, biases = np.repeat(pairs, sizes, axis=0).T
  return scales, biases


def dewhitened(scale, bias, scales: Sequence, sizes: Sequence[int]):
  """What also undoes a whitening: a multiplication and an addition for both.

  The numbers x of a feature with scales become (x - 4/512) scale, of the others
  they stay. 4/512 is what YouTube-8M's floats lie above those that the bytes
  were made of. Source: Lin et al. 2018, NeXtVLAD, section 4.3, and its code.

  Args:
    scale: of the bytes, see scales_and_biases; 1.0 for floats.
    bias: likewise; 0.0 for floats.
    scales: of each feature, as many as it has numbers; empty for none.
    sizes: how many numbers each feature has.

  Returns:
    Two arrays (sum of sizes,) float32, as of scales_and_biases.
  """
  factors = np.concatenate(
    [
      np.asarray(of, np.float64) if len(of) else np.ones(size)
      for of, size in zip(scales, sizes, strict=True)
    ]
  )
  half_steps = np.repeat(
    [HALF_STEP if len(of) else 0.0 for of in scales], sizes
  )
  return (
    (scale * factors).astype(np.float32),
    ((bias - half_steps) * factors).astype(np.float32),
  )


def parse_ranges(text: str, number: int) -> list[Range]:
  """Reads the value of --feature_ranges.

  Args:
    text: LOW:HIGH for each feature, separated by commas; empty for YouTube-8M's
      own range, as a whole or for one of the features.
    number: of features.

  Returns:
    The range of each feature.

  Raises:
    ValueError: it is something else; says what.
  """
  if not text.strip():
    return [YOUTUBE8M_RANGE] * number
  parts = [part.strip() for part in text.split(",")]
  if len(parts) != number:
    raise ValueError(
      f"Expected a range for each feature, received {len(parts)} ranges"
      f" (--feature_ranges={text}) and {number} features. Give LOW:HIGH for"
      " each of --feature_names, or nothing between two commas for YouTube-8M's"
      " own."
    )
  return [_parse_range(part, text) for part in parts]


def _parse_range(part: str, text: str) -> Range:
  """Reads the range of one feature; see parse_ranges."""
  if not part:
    return YOUTUBE8M_RANGE
  try:
    low, high = map(float, part.split(":"))
  except ValueError:
    low = high = math.nan
  if not (math.isfinite(low) and math.isfinite(high) and low < high):
    raise ValueError(
      "Expected LOW:HIGH, what the bytes 0 and 255 stand for, with LOW below"
      f" HIGH, received {part!r} in --feature_ranges={text}. Give the range"
      " that the feature was quantized with, such as -1.5:2."
    )
  return low, high


def format_ranges(ranges: Sequence[Range]) -> str:
  """Writes ranges as parse_ranges reads them; "" if all are YouTube-8M's."""
  if all(of == YOUTUBE8M_RANGE for of in ranges):
    return ""
  return ",".join(
    "" if of == YOUTUBE8M_RANGE else f"{of[0]!r}:{of[1]!r}" for of in ranges
  )


def quantize(values: np.ndarray) -> np.ndarray:
  """Turns floats into bytes, as the data set was made.

  What `dequantize` makes of a byte gives this byte again. But a float comes
  back 0.0078 larger on average.

  Args:
    values: any shape, float; what is not in [-2, 2] is clipped.

  Returns:
    The same shape, uint8.
  """
  return np.rint((np.clip(values, -2, 2) + 2) * (255 / 4)).astype(np.uint8)


def quantize_in(values: np.ndarray, of: Range) -> np.ndarray:
  """Turns floats into the nearest bytes of a range.

  Args:
    values: any shape, float; what is not in the range is clipped.
    of: the range.

  Returns:
    The same shape, uint8.
  """
  scale, bias = scale_and_bias(of)
  steps = np.rint((np.asarray(values, np.float64) - bias) / scale)
  return np.clip(steps, 0, 255).astype(np.uint8)
