"""Memory for the arrays of batches."""

import math
import sys
import threading

import numpy as np

# TensorFlow uses an array without copying it if its address is a multiple of
# this number.
_ALIGNMENT = 64


class _Memory:
  """Memory of batches, which is used again once nobody refers to it.

  New memory costs a page fault for every 4 KB, which together take a third of
  the time to read a batch of frames.
  """

  # References to a block that is in the list: the list, the argument.
  _UNUSED = 2

  def __init__(self):
    self._blocks: list[np.ndarray] = []
    self._lock = threading.Lock()

  def take(self, size: int) -> np.ndarray:
    """Returns uint8 memory at an address that TensorFlow wants.

    Args:
      size: how many bytes.
    """
    blocks = self._blocks
    with self._lock:
      free = [
        index
        for index in range(len(blocks))
        if sys.getrefcount(blocks[index]) == self._UNUSED
      ]
      fitting = [
        index for index in free if len(blocks[index]) >= size + _ALIGNMENT
      ]
      if fitting:
        block = blocks[min(fitting, key=lambda index: len(blocks[index]))]
      else:
        for index in free[:1]:  # too small: batches have become larger
          del blocks[index]
        block = np.empty(size + _ALIGNMENT, np.uint8)
        blocks.append(block)
    first = -block.ctypes.data % _ALIGNMENT
    return block[first : first + size]


_memory = _Memory()


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
  """Makes an array that TensorFlow uses without copying it."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  return _memory.take(size).view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
  """Makes an array of zeros that TensorFlow uses without copying it."""
  made = aligned_empty(shape, dtype)
  made[...] = 0
  return made
