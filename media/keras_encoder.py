"""Networks of keras.applications as encoders."""

import inspect
import os
import warnings

import numpy as np

import errors
from media import encoders

# Height and width of the images that the published weights were trained on, of
# the networks for which it is not 224.
IMAGE_SIZES = {
  "EfficientNetB1": 240,
  "EfficientNetB2": 260,
  "EfficientNetB3": 300,
  "EfficientNetB4": 380,
  "EfficientNetB5": 456,
  "EfficientNetB6": 528,
  "EfficientNetB7": 600,
  "EfficientNetV2B1": 240,
  "EfficientNetV2B2": 260,
  "EfficientNetV2B3": 300,
  "EfficientNetV2L": 480,
  "EfficientNetV2M": 480,
  "EfficientNetV2S": 384,
  "InceptionResNetV2": 299,
  "InceptionV3": 299,
  "NASNetLarge": 331,
  "Xception": 299,
}


class KerasEncoder(encoders.Encoder):
  """A network of keras.applications up to its global average pooling.

  Images are scaled by the network's own preprocess_input.
  """

  def __init__(self, network: str, weights: str):
    """Builds the network.

    Args:
      network: its name in keras.applications.
      weights: a file of them, or empty for those of ImageNet, which Keras
        downloads to ~/.keras/models.

    Raises:
      errors.UserError: there is no such network, or no weights for it.
    """
    build = networks().get(network)
    if build is None:
      raise errors.UserError(
        "Expected --encoder=keras:NAME with a name of keras.applications, such"
        f" as ResNet50, received keras:{network}"
        f"{encoders.close_name(network, networks())}."
      )
    self._preprocess = preprocessing(build)
    side = IMAGE_SIZES.get(network, 224)
    self.image_size = (side, side)
    self._model = _build(network, build, side, weights)
    self.size = self._model.output_shape[-1]

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Runs the network; shapes as in `Encoder.encode_batch`."""
    scaled = self._preprocess(images.astype(np.float32))
    return self._model.predict_on_batch(scaled)


def networks() -> dict:
  """The functions of keras.applications by name."""
  import keras

  return {
    name: value
    for name, value in vars(keras.applications).items()
    if inspect.isfunction(value)
  }


def preprocessing(build):
  """The preprocess_input that belongs to a function of keras.applications."""
  import keras

  module = build.__module__.rpartition(".")[2]
  return getattr(keras.applications, module).preprocess_input


def _build(network: str, build, side: int, weights: str):
  """A network with its weights.

  Raises:
    errors.UserError: the weights cannot be had.
  """
  arguments = {
    "include_top": False,
    "pooling": "avg",
    "input_shape": (side, side, 3),
  }
  if weights:
    model = build(weights=None, **arguments)
    _load(model, network, weights)
    return model
  try:
    return build(weights="imagenet", **arguments)
  except Exception as error:  # Keras raises Exception itself.
    reason = encoders.first_line(error)
    folder = os.path.join(os.path.expanduser("~"), ".keras", "models")
    raise errors.UserError(
      f"Expected the ImageNet weights of keras:{network}, which Keras downloads"
      f" to {folder}, but it could not ({reason}). Fetch the file with `notop`"
      " or `no_top` in its name elsewhere, and put it there or name it with"
      " --encoder_weights=FILE."
    ) from error


def _load(model, network: str, weights: str) -> None:
  """Reads the weights of a network.

  Raises:
    errors.UserError: the file lacks some of them, or is none of weights.
  """
  # Keras only warns of some weights that a file lacks.
  for variable in model.weights:
    variable.assign(np.full(variable.shape, np.nan))
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      model.load_weights(weights)
    missing = [
      variable.path
      for variable in model.weights
      if np.isnan(variable.numpy()).any()
    ]
    reason = f"{missing[0]} is not in it" if missing else ""
  except Exception as error:  # Keras raises several, depending on the file.
    reason = encoders.first_line(error)
  if reason:
    raise errors.UserError(
      f"Expected weights of keras.applications.{network} with"
      " include_top=False, in a file .weights.h5, .keras or .h5, received"
      f" --encoder_weights={weights} ({reason})."
    )
