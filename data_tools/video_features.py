"""The last steps from an encoder's numbers to what records hold.

Extraction of a data set and prediction on videos both take them here, so that a
model gets the same numbers.
"""

from collections.abc import Iterable

import numpy as np

import errors
import quantization
from media import pca
from media.extraction import VISUAL


class Finish:
  """Applies what the settings say after the encoders.

  Args:
    settings: "video_level" says whether to store the mean of the frames;
      "fit_pca", unless it is 0, that a PCA was fitted on the data set.
    pca_folder: where this PCA is.
  """

  def __init__(self, settings: dict, pca_folder: str = ""):
    self._projection = None
    if settings["fit_pca"]:
      self._projection = pca.read(pca_folder)
    self._video_level = settings["video_level"]

  def __call__(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes the arrays to store.

    Args:
      arrays: (frames, numbers) float32 or uint8 for each feature.

    Returns:
      The same; for models of whole videos (numbers,) float32, and the names
      begin with mean_.
    """
    if self._projection:
      arrays = {**arrays, VISUAL: self._projection.apply(arrays[VISUAL])}
    if not self._video_level:
      return arrays
    return {f"mean_{name}": _mean(array) for name, array in arrays.items()}


def _mean(array: np.ndarray) -> np.ndarray:
  """The mean of frames, (numbers,) float32."""
  mean = array.mean(axis=0, dtype=np.float64)
  if array.dtype == np.uint8:
    mean = quantization.dequantize(mean)
  return mean.astype(np.float32)


def fit_pca(
  videos: Iterable[np.ndarray], size: int, encoder: str, folder: str
) -> None:
  """Fits a PCA on the frames of videos, and writes it to a folder.

  Args:
    videos: (frames, numbers) of each, read once.
    size: numbers to keep.
    encoder: that made the numbers.
    folder: to make.

  Raises:
    errors.UserError: there are no videos, or fewer frames or numbers than size.
  """
  fit = None
  for frames in videos:
    fit = fit or pca.Fit(frames.shape[1])
    fit.add(frames)
  if not fit:
    raise errors.UserError(
      "Expected training videos to fit the PCA of --fit_pca on, received none"
      " that can be used. Give the split train a part in --splits, or leave"
      " --fit_pca out."
    )
  fit.finish(size, encoder).save(folder)
