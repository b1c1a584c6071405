"""Encoders by name: they turn the images of a video into features.

| name | numbers a frame |
|---|---|
| random | 128 that need no weights, for tests and demonstrations |
| inception_2015 | 2048 of YouTube-8M's own network, 1024 after its PCA |
| clip:NAME:PRETRAINED | the image embedding of a CLIP model of open_clip |
| timm:NAME | what a network of timm computes before its classifier |
| keras:NAME | what a network of keras.applications computes before it |
| MODULE:FUNCTION | what a function of your own returns |

An encoder is described by three strings, and made again from them; see
`Encoder.settings`. Libraries are imported when an encoder needs them.
"""

import collections.abc
import difflib
import importlib
import importlib.machinery
import os
import sys
import types

import numpy as np

import errors
import quantization
from media import pca

DEFAULT_ENCODER = "clip:ViT-B-32:openai"


class BadFeaturesError(Exception):
  """An encoder returned numbers for a video that are not finite."""


class Encoder:
  """Turns images into vectors; made by `make_encoder`.

  A subclass sets the attributes and defines `encode_batch`.

  Attributes:
    name: as it is typed in --encoder.
    size: numbers in the vector of an image.
    image_size: (height, width) of the images it takes.
    fit: how a frame is brought to this size: "stretch", or "crop" for the
      middle of the frame after its shorter side has this size.
    dtype: of the vectors, "float32" or "uint8". Only YouTube-8M's own encoder
      has uint8, which is quantized as `quantization` says.
    weights: the file of --encoder_weights, or empty.
    batch_size: images that are encoded at once, so that memory does not grow
      with videos.
    projection: a PCA that is applied to what the network returns, or None.
    pca_dir: where it was read, or empty.
  """

  name = ""
  size = 0
  image_size = (224, 224)
  fit = "crop"
  dtype = "float32"
  weights = ""
  batch_size = 32
  projection: pca.Pca | None = None
  pca_dir = ""

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Encodes a few images.

    Args:
      images: (n, height, width, 3), uint8, RGB, of `image_size`.

    Returns:
      (n, numbers), float.
    """
    raise NotImplementedError

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Encodes images.

    Args:
      images: (n, height, width, 3), uint8, RGB, of `image_size`.

    Returns:
      (n, size), of `dtype`.

    Raises:
      BadFeaturesError: a number is not finite.
      errors.UserError: the encoder returned something else than a vector for
        each image.
      ValueError: the images have another size or dtype.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (*self.image_size, 3):
      raise ValueError(
        f"Expected uint8 images of {(*self.image_size, 3)}, received"
        f" {images.dtype} of {images.shape[1:]}."
      )
    vectors = np.empty((len(images), self.size), self.dtype)
    for start in range(0, len(images), self.batch_size):
      batch = images[start : start + self.batch_size]
      vectors[start : start + len(batch)] = self._checked(batch)
    return vectors

  def _checked(self, batch: np.ndarray) -> np.ndarray:
    """The vectors of a batch, after the PCA."""
    found = _as_vectors(self.name, self.encode_batch(batch), len(batch))
    if not np.isfinite(found).all():
      raise BadFeaturesError(
        f"the encoder {self.name} returned numbers that are not finite"
      )
    if self.projection:
      found = self.projection.apply(found)
    if found.shape[1] != self.size:
      raise errors.UserError(
        f"Expected {self.size} numbers for each image from"
        f" --encoder={self.name}, as for the first one, received"
        f" {found.shape[1]}."
      )
    return quantization.quantize(found) if self.dtype == "uint8" else found

  def settings(self) -> dict[str, str]:
    """The arguments with which `make_encoder` makes this encoder again."""
    return {
      "encoder": self.name,
      "encoder_weights": self.weights,
      "pca_dir": self.pca_dir,
    }


def _as_vectors(name: str, returned, count: int) -> np.ndarray:
  """What an encoder returned, if it is a vector for each image.

  Args:
    name: of the encoder.
    returned: by it.
    count: number of images.

  Raises:
    errors.UserError: it is something else.
  """
  found = np.asarray(returned)
  if (
    found.ndim != 2
    or found.shape[0] != count
    or found.shape[1] == 0
    or found.dtype.kind not in "fiu"
  ):
    raise errors.UserError(
      f"Expected an array ({count}, numbers) of floats from --encoder={name}"
      f" for {count} images, received {found.dtype} of shape {found.shape}."
    )
  return found.astype(np.float32, copy=False)


# --------------------------------------------------------------------------
# An encoder without weights


class RandomEncoder(Encoder):
  """A fixed random projection of colors and edges in an 8 x 8 grid.

  It needs no weights and no library, and differs with colors, shapes and
  positions. It is for tests and demonstrations: features of a trained network
  say much more about a video.

  All sums are of whole numbers below 2^53, so the vector of an image is the
  same to the last bit on each machine and in each batch.
  """

  name = "random"
  size = 128
  image_size = (64, 64)
  fit = "stretch"

  def __init__(self):
    # RandomState, because its numbers are the same in all versions of NumPy.
    random = np.random.RandomState(64)
    cells = 8 * 8 * (3 + 2)
    self._weights = random.randint(-8, 9, (cells, self.size)).astype(np.float64)
    # As many cells are positive as negative: gray images make small sums.
    self._weights -= np.rint(self._weights.mean(axis=0))
    self._bias = random.randint(-200_000, 200_001, self.size)

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Projects sums over the cells; shapes as in `Encoder.encode_batch`."""
    pixels = images.astype(np.float64)
    gray = pixels.sum(axis=3, keepdims=True)  # (n, 64, 64, 1)
    edges = np.zeros((*gray.shape[:3], 2))
    edges[:, 1:, :, :1] = np.abs(np.diff(gray, axis=1))
    edges[:, :, 1:, 1:] = np.abs(np.diff(gray, axis=2))
    both = np.concatenate([pixels, edges], axis=3)  # (n, 64, 64, 5)
    cells = both.reshape(-1, 8, 8, 8, 8, 5).sum(axis=(2, 4))  # (n, 8, 8, 5)
    sums = cells.reshape(len(images), -1) @ self._weights + self._bias
    return (np.maximum(sums, 0) / 500_000).astype(np.float32)


# --------------------------------------------------------------------------
# A function of the user


class FunctionEncoder(Encoder):
  """A function (n, height, width, 3) uint8 -> (n, numbers) float.

  Its attributes `image_size` and `fit`, if it has them, say which images it
  takes; otherwise they are 224 x 224 from the middle of the frame.
  """

  def __init__(self, name: str):
    """Imports the function and calls it with an image.

    Args:
      name: MODULE:FUNCTION.

    Raises:
      errors.UserError: it cannot be found, or returns something else.
    """
    self.name = name
    self._function = _find_function(name)
    self.image_size = _image_size(name, self._function)
    self.fit = getattr(self._function, "fit", "crop")
    if self.fit not in ("stretch", "crop"):
      raise errors.UserError(
        f'Expected "stretch" or "crop" as the attribute `fit` of'
        f" --encoder={name}, received {self.fit!r}."
      )
    # Not one color, whose vector some functions cannot scale.
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (1, *self.image_size, 3)).astype(np.uint8)
    self.size = _as_vectors(name, self._function(image), 1).shape[1]

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Calls the function; shapes as in `Encoder.encode_batch`."""
    return np.asarray(self._function(images))


def _image_size(name: str, function) -> tuple[int, int]:
  """The height and width of the images that a function takes."""
  size = getattr(function, "image_size", (224, 224))
  try:
    height, width = (int(number) for number in size)
  except (TypeError, ValueError):
    height = width = 0
  if min(height, width) < 1:
    raise errors.UserError(
      "Expected (height, width) as the attribute `image_size` of"
      f" --encoder={name}, received {size!r}."
    )
  return height, width


def _find_function(name: str):
  """The function that MODULE:FUNCTION names.

  Raises:
    errors.UserError: there is none.
  """
  module_name, _, function_name = name.partition(":")
  module = _find_module(module_name)
  function = getattr(module, function_name, None)
  if not callable(function):
    others = [key for key, value in vars(module).items() if callable(value)]
    raise errors.UserError(
      f"Expected a function {function_name} in {module_name}, as"
      f" --encoder={name} says, found none{close_name(function_name, others)}."
    )
  return function


def _find_module(name: str) -> types.ModuleType:
  """Imports a module: an installed one, or a file in the working directory.

  Raises:
    errors.UserError: there is none.
  """
  if not all(part.isidentifier() for part in name.split(".")):
    raise errors.UserError(
      f"Expected --encoder=MODULE:FUNCTION with the name of a module as in"
      f" `import MODULE`, received the module {name!r}."
    )
  # A program that lies elsewhere does not see the working directory.
  path = os.path.join(os.getcwd(), *name.split(".")) + ".py"
  try:
    try:
      return importlib.import_module(name)
    except ModuleNotFoundError as error:
      if not _is_part(error.name, name) or not os.path.isfile(path):
        raise
    return _import_file(name, path)
  except ModuleNotFoundError as error:
    if not _is_part(error.name, name):
      raise errors.UserError(
        f"Expected that {name} of --encoder can be imported, but it imports"
        f" {error.name}, which is not installed."
      ) from error
    raise errors.UserError(
      f"Expected {_known_names()}, received {name} before the colon of"
      f" --encoder, and there is no {path}{close_name(name, _MAKERS)}."
    ) from error


def _is_part(missing: str | None, name: str) -> bool:
  """Whether a module that is missing is `name`, or a package around it."""
  return f"{name}.".startswith(f"{missing}.")


def _import_file(name: str, path: str) -> types.ModuleType:
  """Imports a file as the module `name`."""
  module = types.ModuleType(name)
  module.__file__ = path
  sys.modules[name] = module  # Before it runs, as `import` does.
  try:
    importlib.machinery.SourceFileLoader(name, path).exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def close_name(name: str, known: collections.abc.Iterable[str]) -> str:
  """A hint for a message: the known name that is most like this one."""
  matches = difflib.get_close_matches(name, list(known), 1)
  return f"; perhaps {matches[0]} is meant" if matches else ""


def first_line(error: Exception) -> str:
  """The first line of an error's text, at most 200 characters."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _known_names() -> str:
  """What can be typed."""
  kinds = [f"{kind}:NAME" for kind in _MAKERS]
  return f"{', '.join([*_NAMES, *kinds])} or MODULE:FUNCTION"


# --------------------------------------------------------------------------
# Names


def _keras(name: str, weights: str) -> Encoder:
  from media import keras_encoder

  return keras_encoder.KerasEncoder(name, weights)


def _inception_2015(weights: str) -> Encoder:
  from media import inception_2015

  return inception_2015.Inception2015(weights)


def _clip(name: str, weights: str) -> Encoder:
  from media import torch_encoders

  return torch_encoders.ClipEncoder(name, weights)


def _timm(name: str, weights: str) -> Encoder:
  from media import torch_encoders

  return torch_encoders.TimmEncoder(name, weights)


# By what stands before the colon of a name.
_MAKERS: dict[str, collections.abc.Callable[[str, str], Encoder]] = {
  "clip": _clip,
  "keras": _keras,
  "timm": _timm,
}
_NAMES: dict[str, collections.abc.Callable[[str], Encoder]] = {
  "inception_2015": _inception_2015,
  "random": lambda weights: RandomEncoder(),
}


def make_encoder(
  encoder: str, encoder_weights: str = "", pca_dir: str = ""
) -> Encoder:
  """Makes an encoder, and loads its weights.

  Args:
    encoder: its name, see above.
    encoder_weights: a file with its weights; empty: they come from the
      encoder's own loader, which may download them.
    pca_dir: a folder with mean.npy, eigenvals.npy and eigenvecs.npy; empty:
      none. YouTube-8M's is for inception_2015 only. One that was fitted on your
      own data is for the encoder it was fitted with.

  Raises:
    errors.UserError: there is no such encoder, a library or a file is missing,
      or the files do not belong together.
  """
  weights = os.path.abspath(encoder_weights) if encoder_weights else ""
  if weights and not os.path.isfile(weights):
    raise errors.UserError(
      f"Expected a file, received --encoder_weights={encoder_weights}."
    )
  kind, colon, rest = encoder.partition(":")
  if encoder in _NAMES:
    made = _NAMES[encoder](weights)
  elif colon and kind in _MAKERS:
    made = _MAKERS[kind](rest, weights)
  elif kind and rest:
    made = FunctionEncoder(encoder)
  else:
    raise errors.UserError(
      f"Expected --encoder={_known_names()}, received {encoder!r}"
      f"{close_name(encoder, [*_NAMES, *_MAKERS])}."
    )
  made.name = encoder
  if weights and isinstance(made, (RandomEncoder, FunctionEncoder)):
    raise errors.UserError(
      f"Expected no --encoder_weights with --encoder={encoder}, which reads no"
      f" such file; received {encoder_weights}."
    )
  made.weights = weights
  if pca_dir:
    _project(made, pca_dir)
  return made


def _project(encoder: Encoder, pca_dir: str) -> None:
  """Puts a PCA behind an encoder.

  Raises:
    errors.UserError: it cannot be read, or was fitted on other numbers.
  """
  projection = pca.read(pca_dir)
  wanted = projection.encoder or "inception_2015"
  if encoder.name != wanted:
    kind = "a PCA" if projection.encoder else "YouTube-8M's PCA"
    raise errors.UserError(
      f"Expected --encoder={wanted} with --pca_dir={pca_dir}, {kind} of its"
      f" numbers, received --encoder={encoder.name}. On the numbers of another"
      " encoder it gives noise. Leave out --pca_dir."
    )
  if len(projection.mean) != encoder.size:
    raise errors.UserError(
      f"Expected a PCA of {encoder.size} numbers for --encoder={encoder.name},"
      f" received one of {len(projection.mean)} in --pca_dir={pca_dir}."
    )
  encoder.projection = projection
  encoder.pca_dir = os.path.abspath(pca_dir)
  encoder.size = projection.size
  # YouTube-8M's components have variance 1, for which its bytes are made.
  encoder.dtype = "float32" if projection.encoder else "uint8"
