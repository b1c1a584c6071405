"""What a record holds, and whether it is what the flags say.

A check raises an errors.UserError whose text goes on a line that begins with
the file and the record's number, see shards.naming_record.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import tensorflow as tf

import errors

# What helps where a trained model has fixed the flags.
_OTHER_FILES = "name files like those that the model was trained on"


@dataclasses.dataclass(frozen=True)
class FoundFeature:
  """One feature as found in a record.

  Attributes:
    kind: "bytes", "float", "int64" or "empty".
    size: how many numbers it holds; at frame level, in its first frame. Each
      byte counts as one number.
    frames: number of frames, or None where it is not a list of frames.
  """

  kind: str
  size: int
  frames: int | None = None

  def __str__(self):
    frames = "" if self.frames is None else f"{self.frames} frames of "
    return f"{frames}{self.size} {self.kind}"


def _found_feature(
  feature: tf.train.Feature, frames: int | None = None
) -> FoundFeature:
  kind = feature.WhichOneof("kind")
  if kind == "bytes_list":
    values = feature.bytes_list.value
    return FoundFeature("bytes", len(values[0]) if values else 0, frames)
  if kind is None:
    return FoundFeature("empty", 0, frames)
  size = len(getattr(feature, kind).value)
  return FoundFeature(kind.removesuffix("_list"), size, frames)


def parse_record(serialized: bytes) -> tf.train.SequenceExample:
  """Parses a record of either level.

  A tf.train.Example parses as a SequenceExample without feature lists: the two
  share their field numbers, so its features are those of the context.

  Args:
    serialized: the bytes of a record.

  Returns:
    The record.

  Raises:
    errors.UserError: the bytes are neither.
  """
  try:
    return tf.train.SequenceExample.FromString(serialized)
  except Exception as error:  # the class differs between protobuf's backends
    raise errors.UserError(
      "expected a tf.train.Example or SequenceExample, received"
      f" {len(serialized)} bytes that are neither"
    ) from error


def context_features(
  record: tf.train.SequenceExample,
) -> dict[str, FoundFeature]:
  """Describes the features of the context, sorted by name.

  In a video-level record these are all of its features.
  """
  return {
    name: _found_feature(feature)
    for name, feature in sorted(record.context.feature.items())
  }


def frame_features(record: tf.train.SequenceExample) -> dict[str, FoundFeature]:
  """Describes the feature lists, sorted by name; empty at video level."""
  lists = {}
  for name, frames in sorted(record.feature_lists.feature_list.items()):
    first = frames.feature[0] if frames.feature else tf.train.Feature()
    lists[name] = _found_feature(first, len(frames.feature))
  return lists


def listing(features: dict[str, FoundFeature]) -> str:
  """Lists features for a message: "rgb (3 frames of 1024 bytes), ..."."""
  if not features:
    return "none"
  return ", ".join(f"{name} ({found})" for name, found in features.items())


# --------------------------------------------------------------------------
# Checks


def check_id(record: tf.train.SequenceExample) -> None:
  """Checks that a record has an id.

  Raises:
    errors.UserError: it has none.
  """
  context = context_features(record)
  if not {"id", "video_id"} & context.keys():
    raise errors.UserError(
      f"expected the feature id (or video_id), found only {listing(context)}"
    )


def check_labels(
  record: tf.train.SequenceExample, num_classes: int, for_trained: bool = False
) -> None:
  """Checks the labels of a whole video.

  Args:
    record: as from parse_record.
    num_classes: number of classes of the data.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    errors.UserError: it has no labels, or a class is out of range.
  """
  context = context_features(record)
  if "labels" not in context:
    raise errors.UserError(
      f"expected the feature labels, found only {listing(context)};"
      " training and evaluation need labels, the test split has none: name"
      " the train or validate files"
    )
  labels = record.context.feature["labels"].int64_list.value
  _check_classes("labels", labels, num_classes, for_trained)


def check_segments(
  record: tf.train.SequenceExample, num_classes: int, for_trained: bool = False
) -> None:
  """Checks the ratings of a record's segments.

  Args:
    record: as from parse_record.
    num_classes: number of classes of the data.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    errors.UserError: they are missing or incomplete, or a start time or a
      class is out of range.
  """
  context = context_features(record)
  names = ["segment_start_times", "segment_labels", "segment_scores"]
  if not set(names) <= context.keys():
    raise errors.UserError(
      f"expected the features {', '.join(names)} (--segment_labels), found"
      f" {listing(context)}; leave out --segment_labels for records that are"
      " labelled as whole videos"
    )
  if len({context[name].size for name in names}) > 1:
    raise errors.UserError(
      f"expected equally many values in {', '.join(names)}, found"
      f" {listing({name: context[name] for name in names})}"
    )
  starts = record.context.feature["segment_start_times"].int64_list.value
  if min(starts, default=0) < 0:
    raise errors.UserError(
      f"expected segment_start_times of 0 seconds or more, found {min(starts)}"
    )
  classes = record.context.feature["segment_labels"].int64_list.value
  _check_classes("segment_labels", classes, num_classes, for_trained)


def _check_classes(
  feature_name: str,
  classes: Iterable[int],
  num_classes: int,
  for_trained: bool,
) -> None:
  wrong = [index for index in classes if not 0 <= index < num_classes]
  if wrong:
    advice = "set --num_classes to the number of classes of this data"
    if for_trained:
      advice = _OTHER_FILES
    raise errors.UserError(
      f"expected class indices from 0 to {num_classes - 1} in"
      f" {feature_name}, found {wrong[0]}; {advice}"
    )


def check_video_features(
  record: tf.train.SequenceExample,
  names: Sequence[str],
  sizes: Sequence[int],
  for_trained: bool = False,
) -> None:
  """Checks the features of a video-level record.

  Args:
    record: as from parse_record.
    names: of the features that are wanted.
    sizes: how many numbers each must hold.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    errors.UserError: one is missing, is not float or has another size, or the
      record is a frame-level one.
  """
  level = ""
  lists = frame_features(record)
  if lists:
    level = f"this is a frame-level record with {listing(lists)}: "
  advice = _advice(level, "add --frame_features=True", for_trained)
  context = context_features(record)
  for name, size in zip(names, sizes, strict=True):
    _check_feature(name, size, ["float"], context, advice)


def check_frame_features(
  record: tf.train.SequenceExample,
  names: Sequence[str],
  sizes: Sequence[int],
  kinds: Sequence[str] | None = None,
  for_trained: bool = False,
) -> None:
  """Checks the features of a frame-level record.

  Args:
    record: as from parse_record.
    names: of the features that are wanted.
    sizes: how many numbers a frame of each must hold.
    kinds: "bytes" or "float" for each; None for either.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    errors.UserError: one is missing, is of another kind, size or number of
      frames, or the record is a video-level one.
  """
  lists = frame_features(record)
  level = ""
  if not lists:
    context = context_features(record)
    level = f"this is a video-level record with {listing(context)}: "
  advice = _advice(level, "leave out --frame_features", for_trained)
  for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
    if name not in lists or lists[name].frames:
      allowed = [kinds[index]] if kinds else ["bytes", "float"]
      _check_feature(name, size, allowed, lists, advice)
    if any(
      _found_feature(frame).size != size
      for frame in record.feature_lists.feature_list[name].feature
    ):
      raise errors.UserError(
        f"expected {size} numbers in every frame of the feature {name}, found"
        " a frame with another number"
      )
  if len({lists[name].frames for name in names}) > 1:
    raise errors.UserError(
      "expected equally many frames in each feature, found"
      f" {listing({name: lists[name] for name in names})}"
    )


def _advice(level: str, other_level: str, for_trained: bool) -> str:
  """What to do about features that are not as the flags say.

  Args:
    level: says that the record is of the other level; else empty.
    other_level: how to read that level.
    for_trained: whether a trained model has fixed the flags.
  """
  if for_trained:
    return level + _OTHER_FILES
  if level:
    return level + other_level
  return "change --feature_names and --feature_sizes"


def _check_feature(
  name: str,
  size: int,
  kinds: Sequence[str],
  found: dict[str, FoundFeature],
  advice: str,
) -> None:
  """Checks one feature that is wanted against those found.

  Raises:
    errors.UserError: it is missing, or is of another kind or size.
  """
  if name not in found:
    raise errors.UserError(
      f"expected the feature {name} (--feature_names), found"
      f" {listing(found)}; {advice}"
    )
  if found[name].kind not in kinds:
    raise errors.UserError(
      f"expected {' or '.join(kinds)} in the feature {name}, found"
      f" {listing(found)}; {advice}"
    )
  if found[name].size != size:
    raise errors.UserError(
      f"expected {size} numbers in the feature {name}, found"
      f" {listing(found)}; {advice}"
    )
