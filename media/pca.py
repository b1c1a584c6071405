"""Principal component analysis: YouTube-8M's own, and one of your own data.

A folder holds it as YouTube-8M publishes its own:

| file | content |
|---|---|
| mean.npy | (numbers, 1), the mean vector |
| eigenvecs.npy | (components, numbers), the components, of length 1 |
| eigenvals.npy | (components, 1), variances along them, largest first |

One that was fitted here also has pca.json, which names its encoder.
"""

import dataclasses

import numpy as np

# YouTube-8M adds it to the variances before it divides by their square root.
WHITENING_OFFSET = 1e-4


@dataclasses.dataclass
class Pca:
  """A projection on components.

  Attributes:
    mean: (numbers,), float32.
    eigenvalues: (components,), float32.
    eigenvectors: (components, numbers), float32.
    whiten: whether each component is divided by its standard deviation.
  """

  mean: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray
  whiten: bool

  def apply(self, vectors: np.ndarray) -> np.ndarray:
    """Projects vectors.

    Args:
      vectors: (n, numbers), float32.

    Returns:
      (n, components), float32.
    """
    projected = (vectors - self.mean) @ self.eigenvectors.T
    if self.whiten:
      projected /= np.sqrt(self.eigenvalues + WHITENING_OFFSET)
    return projected.astype(np.float32, copy=False)
