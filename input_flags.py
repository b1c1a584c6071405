"""What --input_transform and --dewhiten_scales come to; see models.BaseModel.

Only programs and program_flags.py, which defines both flags, import this file.
"""

from absl import flags, logging

import errors
import models
import readers
from data_tools import dewhiten_scales
from engine.dataset_card import DatasetCard
from layers import whitening

FLAGS = flags.FLAGS


def resolve(features: dict, card: DatasetCard | None = None) -> dict:
  """What is done to the features, as in model_flags.json.

  A model that declares "dewhiten" gets "l2" if no feature has scales: it is
  then unknown what their variances were.

  Args:
    features: result of feature_flags.
    card: of --dataset_dir, if it is given.

  Returns:
    "input_transform", and "dewhiten_scales" if these are not those of
    whitening.scales_of.

  Raises:
    errors.UserError: a typed flag does not fit the features or the other one.
    ValueError: there is no such model.
  """
  declared = models.find_class_by_name(FLAGS.model).input_transform
  transform = FLAGS.input_transform or declared
  if transform != "dewhiten":
    if FLAGS.dewhiten_scales:
      raise errors.UserError(
        "Expected --dewhiten_scales with --input_transform=dewhiten, received"
        f" it with {transform}, which multiplies nothing. Leave one of them"
        " out."
      )
    return {"input_transform": transform}
  names, sizes = _names_and_sizes(features)
  known = whitening.scales_of(names, sizes)
  scales = known
  if card and card.extraction and not _is_youtube8ms(card):
    scales = [() for _ in names]  # rgb is that of another encoder
  if FLAGS.dewhiten_scales:
    scales = dewhiten_scales.read_dewhiten_scales(
      FLAGS.dewhiten_scales, names, sizes, scales
    )
  if not any(map(len, scales)):
    if FLAGS["input_transform"].present:
      raise errors.UserError(
        "Expected whitened features with --input_transform=dewhiten, such as"
        f" YouTube-8M's rgb of 1024 numbers, received {', '.join(names)}. Name"
        " files of their scales by --dewhiten_scales, or set another"
        " --input_transform."
      )
    logging.info(
      "%s dewhitens its features, but none of %s is known to be whitened:"
      " --input_transform is l2.",
      FLAGS.model,
      ", ".join(names),
    )
    return {"input_transform": "l2"}
  if scales == known:
    return {"input_transform": transform}
  return {
    "input_transform": transform,
    "dewhiten_scales": [list(of) for of in scales],
  }


def _is_youtube8ms(card: DatasetCard) -> bool:
  """Whether YouTube-8M's PCA made the features of videos: it alone whitens.

  --pca_dir may also name one that was fitted on another data set, whose frames
  are stored as floats.

  Args:
    card: with an extraction.
  """
  return (
    card.extraction.get("encoder") == "inception_2015"
    and bool(card.extraction.get("pca_dir"))
    and (not card.frame_features or "uint8" in card.feature_dtypes)
  )


def differing(model_flags: dict) -> list[str]:
  """Describes typed flags of the input that are not the model's."""
  differing = []
  kept = model_flags.get("input_transform", "l2")
  if FLAGS["input_transform"].present and FLAGS.input_transform != kept:
    differing.append(
      f"--input_transform={FLAGS.input_transform} instead of {kept}"
    )
  if FLAGS["dewhiten_scales"].present:
    names, sizes = _names_and_sizes(model_flags)
    kept = []
    if model_flags.get("input_transform") == "dewhiten":
      kept = [tuple(of) for of in models.dewhiten_scales(model_flags)]
    typed = dewhiten_scales.read_dewhiten_scales(
      FLAGS.dewhiten_scales, names, sizes, kept or [() for _ in names]
    )
    if [tuple(of) for of in typed] != kept:
      differing.append(
        f"--dewhiten_scales={FLAGS.dewhiten_scales} instead of"
        f" {whitening.describe(kept) or 'none'}"
      )
  return differing


def _names_and_sizes(model_flags: dict) -> tuple[list[str], list[int]]:
  """The features in model_flags.json, or in the result of feature_flags."""
  return readers.get_feature_names_and_sizes(
    model_flags["feature_names"], model_flags["feature_sizes"]
  )
