"""Principal component analysis: YouTube-8M's own, and one of your own data.

A folder holds it as YouTube-8M publishes its own:

| file | content |
|---|---|
| mean.npy | (numbers, 1), the mean vector |
| eigenvecs.npy | (components, numbers), the components, of length 1 |
| eigenvals.npy | (components, 1), variances along them, largest first |

One that was fitted here also has pca.json, which names its encoder.
"""

import contextlib
import dataclasses
import json
import os
import re
import tokenize
import uuid

import numpy as np

import errors

# YouTube-8M keeps 1024 of 2048 components, and adds this to their variances
# before it divides by the square root. See feature_extractor.py of the original
# starter code.
YOUTUBE8M_COMPONENTS = 1024
WHITENING_OFFSET = 1e-4

FILES = ("mean.npy", "eigenvecs.npy", "eigenvals.npy")
_CARD = "pca.json"
_OWN_NAME = re.compile(
  rf"({'|'.join(map(re.escape, (*FILES, _CARD)))})(\.tmp-[0-9a-f]{{8}})?"
)


@dataclasses.dataclass(frozen=True)
class Pca:
  """A projection on components.

  Attributes:
    mean: (numbers,), float32.
    eigenvectors: (components, numbers), float32.
    eigenvalues: (components,), float32.
    encoder: whose numbers it was fitted on; empty for YouTube-8M's own, which
      is whitened: each component is divided by its standard deviation.
    explained: fraction of the variance that is along the components; 0 if
      unknown.
  """

  mean: np.ndarray
  eigenvectors: np.ndarray
  eigenvalues: np.ndarray
  encoder: str = ""
  explained: float = 0.0

  @property
  def size(self) -> int:
    """Number of components."""
    return len(self.eigenvectors)

  def apply(self, vectors: np.ndarray) -> np.ndarray:
    """Projects vectors.

    Args:
      vectors: (n, numbers), float32.

    Returns:
      (n, components), float32.
    """
    projected = (vectors - self.mean) @ self.eigenvectors.T
    if not self.encoder:
      projected /= np.sqrt(self.eigenvalues + WHITENING_OFFSET)
    return projected.astype(np.float32, copy=False)

  def save(self, folder: str) -> None:
    """Writes a fitted one to a folder, which is made; pca.json comes last.

    Raises:
      OSError: it cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    card = {
      "encoder": self.encoder,
      "components": self.size,
      "explained_variance": self.explained,
      "whitened": False,
    }
    # YouTube-8M's files have columns.
    arrays = (self.mean[:, None], self.eigenvectors, self.eigenvalues[:, None])
    for name, array in zip(FILES, arrays, strict=True):
      _write(os.path.join(folder, name), lambda file, a=array: np.save(file, a))
    text = json.dumps(card, indent=2) + "\n"
    _write(os.path.join(folder, _CARD), lambda file: file.write(text.encode()))


def _write(path: str, write) -> None:
  """Writes a file aside, flushes and renames it, and flushes its folder."""
  aside = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
  try:
    with open(aside, "wb") as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
      # Some file systems cannot flush a folder.
      with contextlib.suppress(OSError):
        os.fsync(folder)
    finally:
      os.close(folder)
  finally:
    if os.path.exists(aside):
      os.remove(aside)


def is_own_name(name: str) -> bool:
  """Whether a file of this name may be one that `Pca.save` wrote."""
  return bool(_OWN_NAME.fullmatch(name))


def read(folder: str) -> Pca:
  """Reads YouTube-8M's, or one that was fitted.

  Args:
    folder: with the files above.

  Raises:
    errors.UserError: a file is missing or holds something else.
  """
  card = _read_card(os.path.join(folder, _CARD))
  mean, vectors, values = (_read_array(folder, name) for name in FILES)
  count = card["components"] if card else YOUTUBE8M_COMPONENTS
  if (
    vectors.ndim != 2
    or len(vectors) < count
    or mean.size != vectors.shape[1]
    or values.size < count
  ):
    raise errors.UserError(
      f"Expected a PCA with {count} components in --pca_dir={folder}, found"
      f" mean.npy of shape {mean.shape}, eigenvecs.npy of {vectors.shape} and"
      f" eigenvals.npy of {values.shape}."
    )
  return Pca(
    mean.reshape(-1),
    np.ascontiguousarray(vectors[:count]),
    values.reshape(-1)[:count],
    encoder=card["encoder"] if card else "",
    explained=card["explained_variance"] if card else 0.0,
  )


def _read_card(path: str) -> dict | None:
  """What pca.json holds; None if there is none."""
  try:
    with open(path, encoding="utf-8") as file:
      card = errors.parse_json(file.read())
    if not card["encoder"] or not isinstance(card["encoder"], str):
      raise ValueError("no encoder")
    components = int(card["components"])
    if components < 1:
      raise ValueError(f"{components} components")
    return {
      "encoder": card["encoder"],
      "components": components,
      "explained_variance": float(card["explained_variance"]),
    }
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
    raise errors.UserError(
      f"Expected {path} as --fit_pca writes it, received another file"
      f" ({error!r})."
    ) from error


def _read_array(folder: str, name: str) -> np.ndarray:
  """An array of floats, all finite as float32."""
  path = os.path.join(folder, name)
  try:
    with open(path, "rb") as file:
      # np.load would open an archive too.
      array = np.lib.format.read_array(file, allow_pickle=False)
    with np.errstate(over="ignore"):
      numbers = array.astype(np.float32) if array.dtype.kind == "f" else None
    if numbers is None or not np.isfinite(numbers).all():
      raise ValueError(f"{array.dtype} of shape {array.shape}")
    return numbers
  except (OSError, ValueError, MemoryError, tokenize.TokenError) as error:
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    raise errors.UserError(
      f"Expected floats in the file {path} of --pca_dir, received"
      f" {said or type(error).__name__}. YouTube-8M's {name} is in"
      " http://data.yt8m.org/yt8m_pca.tgz."
    ) from error


# --------------------------------------------------------------------------
# Fitting


class Fit:
  """Fits a PCA to vectors that come in any number of parts.

  It holds their mean and their scatter matrix, so its memory grows with the
  square of their size but not with their number. Parts are merged by the
  formula of Chan, Golub and LeVeque, "Updating formulae and a pairwise
  algorithm for computing sample variances" (1979), whose error does not grow
  with the distance of the mean from zero, as that of plain second moments does.
  """

  def __init__(self, size: int):
    """Starts without vectors.

    Args:
      size: numbers in a vector.
    """
    self.count = 0
    self._mean = np.zeros(size)
    self._scatter = np.zeros((size, size))

  def add(self, vectors: np.ndarray) -> None:
    """Adds vectors.

    Args:
      vectors: (n, size), float.
    """
    if not len(vectors):
      return
    part = np.asarray(vectors, np.float64)
    mean = part.mean(axis=0)
    centered = part - mean
    shift = mean - self._mean
    total = self.count + len(part)
    self._scatter += centered.T @ centered
    self._scatter += np.outer(shift, shift) * (self.count * len(part) / total)
    self._mean += shift * (len(part) / total)
    self.count = total

  def finish(self, components: int, encoder: str) -> Pca:
    """The PCA of all vectors, which is not whitened.

    Without whitening, distances between vectors stay about what they were, and
    directions in which videos hardly differ stay small. The largest number of a
    component is positive, so the same vectors give the same signs.

    Args:
      components: how many to keep.
      encoder: of the vectors.

    Raises:
      errors.UserError: there are too few vectors or numbers for as many.
    """
    size = len(self._mean)
    if not 1 <= components <= min(size, self.count - 1):
      raise errors.UserError(
        f"Expected --fit_pca from 1 to {max(min(size, self.count - 1), 1)}, for"
        f" {self.count} training frames of {size} numbers, received"
        f" {components}."
      )
    values, columns = np.linalg.eigh(self._scatter / (self.count - 1))
    # eigh gives the smallest first.
    values = np.maximum(values[::-1], 0)
    vectors = columns.T[::-1][:components]
    largest = np.abs(vectors).argmax(axis=1)
    signs = np.sign(vectors[np.arange(components), largest])
    return Pca(
      self._mean.astype(np.float32),
      (vectors * signs[:, None]).astype(np.float32),
      values[:components].astype(np.float32),
      encoder,
      float(values[:components].sum() / max(values.sum(), 1e-300)),
    )
