"""Converts the data set's bytes to floats.

The data set stores each number as one byte q, which stands for a float between
-2 and 2: q * 4/255 + 4/512 - 2.
"""

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
