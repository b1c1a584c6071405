"""Encoders that run on PyTorch: CLIP models of open_clip, networks of timm."""

import collections.abc
import contextlib
import importlib
import logging
import math
from typing import Any

import numpy as np

import errors
from media import encoders


def _library(name: str) -> Any:
  """Imports a library of requirements/clip.txt.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"Expected the library {error.name} for --encoder=clip:... or timm:...,"
      " which is not installed. Use: pip install -r requirements/clip.txt"
    ) from error


class _TorchEncoder(encoders.Encoder):
  """Scales images to floats of mean 0 and standard deviation 1; runs a network.

  A subclass calls `_prepare`.
  """

  def _prepare(
    self,
    network: collections.abc.Callable,
    side: tuple[int, int],
    mean: collections.abc.Sequence[float],
    std: collections.abc.Sequence[float],
  ) -> None:
    """Sets the network and how images are scaled.

    Args:
      network: (n, 3, height, width) float -> (n, numbers).
      side: height and width of its images: the middle of those of `image_size`.
      mean: of each color, from 0 to 1.
      std: of each color.
    """
    torch = _library("torch")
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    self._network = network
    self._side = side
    self._mean = torch.tensor(mean, device=self._device).view(1, 3, 1, 1)
    self._std = torch.tensor(std, device=self._device).view(1, 3, 1, 1)
    black = np.zeros((1, *self.image_size, 3), np.uint8)
    self.size = self.encode_batch(black).shape[1]

  def encode_batch(self, images: np.ndarray) -> np.ndarray:
    """Runs the network; shapes as in `Encoder.encode_batch`."""
    torch = _library("torch")
    # As torchvision's CenterCrop rounds.
    top, left = (
      round((whole - part) / 2)
      for whole, part in zip(self.image_size, self._side, strict=True)
    )
    middle = images[:, top : top + self._side[0], left : left + self._side[1]]
    pixels = torch.from_numpy(np.ascontiguousarray(middle)).to(self._device)
    with torch.inference_mode():
      floats = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
      vectors = self._network((floats - self._mean) / self._std)
      return vectors.float().cpu().numpy()

  def _move(self, network):
    """A network for prediction, on the GPU if there is one."""
    torch = _library("torch")
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


# --------------------------------------------------------------------------
# CLIP


class ClipEncoder(_TorchEncoder):
  """The image encoder of a CLIP model, without the final normalization.

  Images are brought to the size that the model declares, and scaled by its own
  mean and standard deviation.
  """

  def __init__(self, model: str, weights: str):
    """Loads the model.

    Args:
      model: NAME:PRETRAINED of open_clip; with weights NAME is enough, but
        some of the names of weights also say how the network is built.
      weights: a file of them, or empty for those of PRETRAINED, which
        open_clip downloads.

    Raises:
      errors.UserError: open_clip is missing, knows no such model, or cannot get
        its weights.
    """
    open_clip = _library("open_clip")
    name, _, tag = model.partition(":")
    _check_clip(open_clip, name, tag, weights)
    config = open_clip.get_pretrained_cfg(name, tag) or {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    try:
      with _quiet():
        network = open_clip.create_model(
          name,
          pretrained=weights or tag,
          # OpenAI's weights need it. open_clip only warns if it is not set.
          force_quick_gelu=config.get("quick_gelu", False),
          force_preprocess_cfg={k: config[k] for k in keys if k in config},
        )
    except Exception as error:  # From many libraries, depending on the cause.
      raise _no_weights(f"clip:{model}", weights, config, error) from error
    preprocessing = network.visual.preprocess_cfg
    side = preprocessing["size"]
    self.image_size = (side, side) if isinstance(side, int) else tuple(side)
    is_squash = preprocessing["resize_mode"] == "squash"
    self.fit = "stretch" if is_squash else "crop"
    self._prepare(
      self._move(network).encode_image,
      self.image_size,
      preprocessing["mean"],
      preprocessing["std"],
    )


def _check_clip(open_clip, name: str, tag: str, weights: str) -> None:
  """Checks that open_clip knows a model and the name of its weights."""
  models = open_clip.list_models()
  if name not in models:
    raise errors.UserError(
      "Expected --encoder=clip:NAME:PRETRAINED with a NAME of open_clip, such"
      f" as ViT-B-32, received {name!r}{encoders.close_name(name, models)}."
    )
  tags = open_clip.list_pretrained_tags_by_model(name)
  if tag not in tags and (tag or not weights):
    raise errors.UserError(
      f"Expected --encoder=clip:{name}:PRETRAINED with one of"
      f" {', '.join(tags) or 'none'}, received {tag!r}"
      f"{encoders.close_name(tag, tags)}. Or use --encoder=clip:{name}"
      " and --encoder_weights=FILE."
    )


# --------------------------------------------------------------------------
# timm


class TimmEncoder(_TorchEncoder):
  """A network of timm up to its classifier.

  Images are brought to the size, and scaled, as its own configuration says. If
  this cuts a border, `image_size` has the border.
  """

  def __init__(self, name: str, weights: str):
    """Loads the network.

    Args:
      name: of a network of timm, with or without the name of its weights, such
        as resnext50_32x4d or resnext50_32x4d.a1_in1k.
      weights: a file of them, or empty for those that timm downloads.

    Raises:
      errors.UserError: timm is missing, knows no such network, or cannot get
        its weights.
    """
    timm = _library("timm")
    config = _timm_config(timm, name, weights)
    try:
      with _quiet():
        network = _timm_network(timm, name, weights)
    except Exception as error:  # From many libraries, depending on the cause.
      raise _no_weights(f"timm:{name}", weights, config, error) from error
    preprocessing = timm.data.resolve_model_data_config(network)
    _, *side = preprocessing["input_size"]
    crop = preprocessing["crop_pct"]
    self.image_size = (math.floor(side[0] / crop), math.floor(side[1] / crop))
    self.fit = _TIMM_FITS[preprocessing["crop_mode"]]
    self._prepare(
      self._move(network),
      (side[0], side[1]),
      preprocessing["mean"],
      preprocessing["std"],
    )


# What timm calls them. The few networks with a "border" are refused.
_TIMM_FITS = {"center": "crop", "squash": "stretch"}


def _timm_config(timm, name: str, weights: str) -> dict:
  """What timm knows of the weights of a network.

  Raises:
    errors.UserError: it knows no such network, or no weights for it.
  """
  if not timm.is_model(name):
    raise errors.UserError(
      "Expected --encoder=timm:NAME with a name of timm.list_models(), such as"
      f" resnet50, received {name!r}"
      f"{encoders.close_name(name, timm.list_models())}."
    )
  try:
    config = timm.get_pretrained_cfg(name)
  except RuntimeError:
    config = None
  if not weights and not (config and config.has_weights):
    network = name.partition(".")[0]
    known = timm.list_models(f"{network}.*", pretrained=True)
    raise errors.UserError(
      f"Expected --encoder=timm:NAME with one of {', '.join(known) or 'none'},"
      f" of which timm has weights, received {name!r}. Or name your own with"
      " --encoder_weights=FILE."
    )
  if config and config.crop_mode not in _TIMM_FITS:
    raise errors.UserError(
      "Expected a network that takes the middle of a frame or the squeezed"
      f" frame, received --encoder=timm:{name}, which adds borders."
    )
  return config.to_dict() if config else {}


def _timm_network(timm, name: str, weights: str):
  """A network with weights."""
  if not weights:
    return timm.create_model(name, pretrained=True, num_classes=0)
  torch = _library("torch")
  built = []
  # Without a classifier, timm accepts a file that has nothing of a network.
  # What is in the file does not depend on the seed.
  for seed in (0, 1):
    with torch.random.fork_rng():
      torch.manual_seed(seed)
      built.append(
        timm.create_model(
          name,
          pretrained=True,
          pretrained_cfg_overlay={"file": weights},
          num_classes=0,
        )
      )
  first, second = (network.state_dict() for network in built)
  for key, value in first.items():
    if not torch.equal(value, second[key]):
      raise KeyError(f"the file has no {key}")
  return built[0]


# --------------------------------------------------------------------------
# Messages


@contextlib.contextmanager
def _quiet():
  """Silences loggers: libraries log what `_no_weights` says in one line."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    yield
  finally:
    logging.disable(before)


def _no_weights(
  name: str, weights: str, config: dict, error: Exception
) -> errors.UserError:
  """The error for weights that cannot be had.

  Args:
    name: of the encoder.
    weights: the file of --encoder_weights, or empty.
    config: what the library knows of the weights.
    error: of the library.
  """
  reason = encoders.first_line(error)
  if weights:
    return errors.UserError(
      f"Expected weights of {name} (a state dict in .safetensors, .pt, .pth or"
      f" .bin), received --encoder_weights={weights} ({reason})."
    )
  hub = str(config.get("hf_hub") or config.get("hf_hub_id") or "").strip("/")
  source = f"https://huggingface.co/{hub}" if hub else config.get("url", "")
  return errors.UserError(
    f"Expected the weights of {name}, which its library downloads from"
    f" {source}, but it could not ({reason}). Fetch its .safetensors file"
    " elsewhere, and name it with --encoder_weights=FILE."
  )
