"""dataset.json: what a data set in a folder holds, so that no flag repeats it.

data_tools.import_embeddings and extract_features write it beside the records
and vocabulary.csv; --dataset_dir of the programs reads it.
"""

import dataclasses
import glob
import os
from collections.abc import Sequence

import errors
import quantization
from engine.files import is_number, write_json

CARD_FILE = "dataset.json"
VOCABULARY_FILE = "vocabulary.csv"
PCA_FOLDER = "pca"
"""Where a data set and a train_dir keep a PCA fitted on the data set."""
SPLITS = ("train", "validate", "test")
_VERSION = 1
# What TensorFlow counts in 32 bits.
_LARGEST_SIZE = 2**31 - 1
_TYPES = {
  "frame_features": bool,
  "feature_names": list,
  "feature_dtypes": list,
  "splits": dict,
  "made_by": dict,
  "extraction": dict,
}


@dataclasses.dataclass
class DatasetCard:
  """The content of dataset.json.

  Attributes:
    frame_features: whether records are frame-level ones.
    feature_names: of the features, in the order in which to concatenate them.
    feature_sizes: numbers of each.
    feature_dtypes: "float32", "float16" or "uint8", how the numbers of each are
      stored.
    num_classes: of the labels.
    splits: of each split its number of videos and of files.
    made_by: the command line that made the data, and its settings.
    feature_ranges: of each feature what the bytes 0 and 255 stand for; None for
      one that is not uint8 or has YouTube-8M's own range. Empty if all are.
    extraction: the settings with which the features were made of videos; empty
      for features of another origin.
  """

  frame_features: bool
  feature_names: list[str]
  feature_sizes: list[int]
  feature_dtypes: list[str]
  num_classes: int
  splits: dict[str, dict[str, int]]
  made_by: dict
  feature_ranges: list[list[float] | None] = dataclasses.field(
    default_factory=list
  )
  extraction: dict = dataclasses.field(default_factory=dict)

  def write(self, folder: str) -> None:
    """Writes dataset.json to a folder."""
    content = {"format_version": _VERSION, **dataclasses.asdict(self)}
    write_json(os.path.join(folder, CARD_FILE), content)

  def flags(self) -> dict:
    """The flags, by name, that say what the records hold."""
    return {
      "frame_features": self.frame_features,
      "feature_names": ",".join(self.feature_names),
      "feature_sizes": ",".join(map(str, self.feature_sizes)),
      "num_classes": self.num_classes,
    }

  def byte_ranges(self) -> dict[str, quantization.Range]:
    """What the bytes of each feature stand for, if not as YouTube-8M's."""
    if not self.feature_ranges:
      return {}
    pairs = zip(self.feature_names, self.feature_ranges, strict=True)
    return {
      name: (float(of[0]), float(of[1])) for name, of in pairs if of is not None
    }

  def ranges_of(self, names: Sequence[str]) -> str:
    """The flag --feature_ranges for some of the features.

    Args:
      names: of any features; those that the card lacks have YouTube-8M's range.
    """
    if not self.feature_ranges:
      return ""
    known = self.byte_ranges()
    return quantization.format_ranges(
      [known.get(name, quantization.YOUTUBE8M_RANGE) for name in names]
    )

  def pattern(self, folder: str, split: str) -> str:
    """The pattern of the files of a split.

    Args:
      folder: of the data set.
      split: one of SPLITS.

    Raises:
      errors.UserError: the data set has no such split.
    """
    if not self.splits.get(split, {}).get("videos"):
      found = [name for name, of in self.splits.items() if of.get("videos")]
      raise errors.UserError(
        f"Expected the split {split} in --dataset_dir={folder}, found"
        f" {', '.join(found) or 'none'}. Name files by the program's data"
        " pattern, or make the data set anew with this split."
      )
    # A comma would separate patterns, see data_files.find_files.
    literal = glob.escape(folder).replace(",", "\\,")
    return os.path.join(literal, f"{split}*.tfrecord")


def _check_types(card: DatasetCard) -> None:
  """Checks what else would fail later, and less clearly.

  Raises:
    ValueError: says what is wrong.
    TypeError, AttributeError: a value is of another type.
  """
  for name, kind in _TYPES.items():
    value = getattr(card, name)
    if not isinstance(value, kind):
      raise TypeError(f"{name} is a {type(value).__name__}")
  number = len(card.feature_names)
  if number != len(card.feature_sizes) or number != len(card.feature_dtypes):
    raise ValueError("a name, a size and a dtype for each feature")
  for name in card.feature_names:
    if not isinstance(name, str) or not name.strip() or "," in name:
      raise ValueError(f"{name!r} in the place of a feature's name")
  for value in (*card.feature_sizes, card.num_classes):
    if not is_number(value, int) or not 1 <= value <= _LARGEST_SIZE:
      raise ValueError(
        f"{value!r} in the place of a number from 1 to {_LARGEST_SIZE}"
      )
  unknown = set(card.feature_dtypes) - {"float32", "float16", "uint8"}
  if unknown:
    raise ValueError(f"the dtype {unknown.pop()}")
  for of in card.splits.values():
    videos = of.get("videos")
    if not is_number(videos, int) or videos < 0:
      raise ValueError(f"{videos!r} in the place of a number of videos")


def read_card(folder: str) -> DatasetCard:
  """Reads dataset.json.

  Raises:
    errors.UserError: there is none in the folder, or it was written by
      something else.
  """
  path = os.path.join(folder, CARD_FILE)
  advice = (
    "Make a data set with python -m data_tools.extract_features (of videos) or"
    " data_tools.import_embeddings, or name the files of another by its"
    " pattern; see docs/your_own_data.md."
  )
  try:
    with open(path, encoding="utf-8") as file:
      content = errors.parse_json(file.read())
    version = content.pop("format_version")
    if version != _VERSION:
      raise ValueError(f"format_version {version}")
    card = DatasetCard(**content)
    _check_types(card)
    ranges = card.ranges_of(card.feature_names)
    quantization.parse_ranges(ranges, len(card.feature_names))
    return card
  except OSError as error:
    raise errors.UserError(
      f"Expected a data set with {CARD_FILE} in --dataset_dir={folder}, found"
      f" none ({error.strerror}). {advice}"
    ) from error
  except (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,  # a number of hundreds of digits
  ) as error:
    raise errors.UserError(
      f"Expected {path} as this project writes it, found something else"
      f" ({error}). {advice}"
    ) from error
