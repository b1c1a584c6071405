"""What undoes the whitening of YouTube-8M's rgb features.

youtube8m_eigenvalues.txt, beside this file, holds facts of the YouTube-8M data
set (Google, CC BY 4.0): the variances of the 1024 principal components of
Inception features that it keeps, the first 1024 numbers of the eigenvals.npy
that is published with it, see media/pca.py. The data set divides each component
by its standard deviation.
"""

import functools
import os
from collections.abc import Sequence

_EIGENVALUES_FILE = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), "youtube8m_eigenvalues.txt"
)
_WHITENED_NAMES = ("rgb", "mean_rgb")

# NeXtVLAD's: added to the standard deviation. The data set's own 1e-4 was added
# to the variance, see media/pca.py; the two differ by less than 0.3 %.
_OFFSET = 1e-4


@functools.cache
def youtube8m_scales() -> tuple[float, ...]:
  """What each of the 1024 numbers of rgb is multiplied by.

  sqrt(eigenvalue) + 1e-4. Source: Lin et al. 2018, NeXtVLAD, section 4.3, and
  its code.
  """
  with open(_EIGENVALUES_FILE, encoding="ascii") as file:
    return tuple(float(line) ** 0.5 + _OFFSET for line in file)


def is_whitened(name: str, size: int) -> bool:
  """Whether a feature has the name and the size of YouTube-8M's rgb.

  Args:
    name: of the feature.
    size: how many numbers it has.
  """
  return name in _WHITENED_NAMES and size == len(youtube8m_scales())


def scales_of(
  names: Sequence[str], sizes: Sequence[int]
) -> list[Sequence[float]]:
  """The scales of each feature.

  Args:
    names: of the features.
    sizes: how many numbers each has.

  Returns:
    youtube8m_scales() for each feature that is_whitened, () for the others.
  """
  return [
    youtube8m_scales() if is_whitened(name, size) else ()
    for name, size in zip(names, sizes, strict=True)
  ]


def describe(scales: Sequence[Sequence[float]]) -> str:
  """Describes scales in a message, where all numbers would be too long.

  Args:
    scales: of each feature; empty for none.
  """
  return ", ".join(
    f"{len(of)} numbers of sum {sum(of):.6g}" if of else "none" for of in scales
  )
