"""Converts the data set's bytes to floats, and back.

The data set stores each number as one byte q, which stands for a float between
-2 and 2: q * 4/255 + 4/512 - 2.
"""

import numpy as np

DEQUANTIZE_SCALE = 4.0 / 255.0
DEQUANTIZE_BIAS = 4.0 / 512.0 - 2.0


def dequantize(values):
  """Turns bytes, already cast to floats, into the floats they stand for.

  Args:
    values: any shape, float, whole numbers from 0 to 255; an array or a tensor
      of any library.

  Returns:
    The same shape, dtype and library.
  """
  return values * DEQUANTIZE_SCALE + DEQUANTIZE_BIAS


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
