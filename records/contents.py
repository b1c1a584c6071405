"""What records must hold, and what is wrong with one that does not.

A check raises a BadRecordError whose text goes on a line that begins with the
file and the record's number.
"""

from collections.abc import Sequence

import numpy as np

from records.messages import BadRecordError, Feature, Record

# What helps where a trained model has fixed the flags.
_OTHER_FILES = "name files like those that the model was trained on"
# The flags are wrong, or the files are a mix: a record alone does not tell.
_ONE_LEVEL = " if all are, else name files of one level only"

# Features that a message lists, and characters of the name of each.
_MOST_LISTED = 20
_LONGEST_NAME = 100


# --------------------------------------------------------------------------
# What was found, in words


def _found(feature: Feature, frames: int | None = None) -> str:
  """Describes a feature: "3 frames of 1024 bytes"."""
  number = "" if frames is None else f"{frames} frames of "
  several = ""
  if feature.kind == "bytes" and len(feature.values) > 1:
    several = f" in the first of {len(feature.values)} values"
  return f"{number}{feature.size} {feature.kind}{several}"


def listing(features: dict[str, Feature] | dict[str, list[Feature]]) -> str:
  """Lists features for a message: "rgb (3 frames of 1024 bytes), ..."."""
  found = []
  for name, feature in sorted(features.items())[:_MOST_LISTED]:
    if len(name) > _LONGEST_NAME:
      name = f"{name[:_LONGEST_NAME]}..."
    if isinstance(feature, Feature):
      found.append(f"{name} ({_found(feature)})")
    else:
      first = feature[0] if feature else Feature("empty", [])
      found.append(f"{name} ({_found(first, len(feature))})")
  if len(features) > len(found):
    found.append(f"{len(features) - len(found)} more")
  return ", ".join(found) or "none"


# --------------------------------------------------------------------------
# How numbers are stored


def dtype_key(name: str) -> str:
  """The feature of a context that says of which dtype another one is."""
  return f"{name}/dtype"


def is_half(context: dict[str, Feature], name: str) -> bool:
  """Whether a feature's bytes are float16 numbers, as the context says."""
  return _dtype(context, name) == b"float16"


def vector_kind(context: dict[str, Feature], name: str) -> str:
  """How a video-level record must hold a feature: its dtype decides.

  Returns:
    "bytes", "float16" (in bytes, too) or "float".
  """
  kinds = {b"uint8": "bytes", b"float16": "float16"}
  return kinds.get(_dtype(context, name), "float")


def _dtype(context: dict[str, Feature], name: str) -> bytes:
  """The dtype that the context gives for a feature; empty if it has none."""
  found = context.get(dtype_key(name))
  if found is None or found.kind != "bytes" or len(found.values) != 1:
    return b""
  return found.values[0]


def half_as_float(value: bytes) -> np.ndarray:
  """The numbers of float16 bytes, as float32."""
  return np.frombuffer(value, "<f2").astype(np.float32)


# --------------------------------------------------------------------------
# Checks


def video_id(context: dict[str, Feature]) -> bytes:
  """The id of a video; the 2017 release and older tools call it video_id.

  Args:
    context: the features of a record.

  Raises:
    BadRecordError: there is none, or not one.
  """
  found = context.get("id")
  if found is None or (found.kind == "bytes" and found.values == [b""]):
    found = context.get("video_id", found)
  if found is None:
    raise BadRecordError(
      "missing feature",
      f"expected the feature id (or video_id), found only {listing(context)}",
    )
  if found.kind != "bytes" or len(found.values) != 1:
    raise BadRecordError(
      "wrong type",
      "expected one name in the feature id (or video_id), found"
      f" {len(found.values)} values in {listing(context)}",
    )
  return found.values[0]


def labels(
  context: dict[str, Feature], num_classes: int, for_trained: bool = False
) -> list[int]:
  """The classes of a whole video.

  Args:
    context: the features of a record.
    num_classes: number of classes of the data.
    for_trained: whether a trained model has fixed the flags.

  Returns:
    Class indices; none are a video without labels, which is a good one.

  Raises:
    BadRecordError: there is no feature of this name, it has another type, or a
      class is out of range.
  """
  feature = context.get("labels")
  if feature is None:
    raise BadRecordError(
      "no labels",
      f"expected the feature labels, found only {listing(context)};"
      " training and evaluation need labels, the test split has none: name"
      " the train or validate files",
    )
  return _classes("labels", feature, num_classes, for_trained)


def check_one_label(
  classes: Sequence[int],
  subset: Sequence[int] | None = None,
  for_trained: bool = False,
) -> None:
  """Checks that a video has exactly one label, for exclusive classes.

  Args:
    classes: of the video; one that is there twice counts once.
    subset: the classes that count; None for all.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    BadRecordError: it has none, or several.
  """
  found = sorted(set(classes) if subset is None else {*classes} & {*subset})
  if len(found) == 1:
    return
  number = "none"
  if found:
    shown = ", ".join(map(str, found[:_MOST_LISTED]))
    more = ", ..." if len(found) > _MOST_LISTED else ""
    number = f"{len(found)}: {shown}{more}"
  advice = "leave this flag out, for a probability of each class"
  if for_trained:
    advice = _OTHER_FILES
  raise BadRecordError(
    "not one label",
    "expected exactly one label of each video with --exclusive_classes, found"
    f" {number}; {advice}",
  )


def _classes(
  name: str, feature: Feature, num_classes: int, for_trained: bool
) -> list[int]:
  """Checks the class indices of a feature, and returns them."""
  if feature.kind not in ("int64", "empty"):
    raise BadRecordError(
      "wrong type",
      f"expected class indices (int64) in the feature {name}, found"
      f" {_found(feature)}",
    )
  for index in feature.values:
    if not 0 <= index < num_classes:
      advice = "set --num_classes to the number of classes of this data"
      if for_trained:
        advice = _OTHER_FILES
      raise BadRecordError(
        "label out of range",
        f"expected class indices from 0 to {num_classes - 1} in"
        f" {name}, found {index}; {advice}",
      )
  return feature.values


def segments(
  context: dict[str, Feature], num_classes: int, for_trained: bool = False
) -> tuple[list[int], list[int], list[float]]:
  """The ratings of a record's segments.

  Args:
    context: the features of a record.
    num_classes: number of classes of the data.
    for_trained: whether a trained model has fixed the flags.

  Returns:
    Of each rating the start time in seconds, the class and the score.

  Raises:
    BadRecordError: they are missing or incomplete, or a start time or a class
      is out of range.
  """
  names = ("segment_start_times", "segment_labels", "segment_scores")
  if not set(names) <= context.keys():
    raise BadRecordError(
      "missing feature",
      f"expected the features {', '.join(names)} (--segment_labels), found"
      f" {listing(context)}; leave out --segment_labels for records that are"
      " labelled as whole videos",
    )
  found = {name: context[name] for name in names}
  kinds = ("int64", "int64", "float")
  for feature, kind in zip(found.values(), kinds, strict=True):
    if feature.kind not in (kind, "empty"):
      raise BadRecordError(
        "wrong type",
        f"expected {', '.join(kinds)} in {', '.join(names)}, found"
        f" {listing(found)}",
      )
  times, classes, scores = (list(found[name].values) for name in names)
  if not len(times) == len(classes) == len(scores):
    raise BadRecordError(
      "different lengths",
      f"expected equally many values in {', '.join(names)}, found"
      f" {listing(found)}",
    )
  if min(times, default=0) < 0:
    raise BadRecordError(
      "wrong size",
      f"expected segment_start_times of 0 seconds or more, found {min(times)}",
    )
  _classes("segment_labels", found["segment_labels"], num_classes, for_trained)
  return times, classes, scores


def check_video_features(
  record: Record,
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
    BadRecordError: one is missing, is not float or has another size, holds a
      value that is not finite, or the record is a frame-level one.
  """
  level = ""
  if record.lists:
    level = f"this is a frame-level record with {listing(record.lists)}: "
  advice = _advice(level, "add --frame_features=True", for_trained)
  vectors = []
  for name, size in zip(names, sizes, strict=True):
    if name not in record.context:
      raise _missing(name, record.context, advice)
    found = record.context[name]
    kind = vector_kind(record.context, name)
    stored = "float" if kind == "float" else "bytes"
    if found.kind != stored:
      raise BadRecordError(
        "wrong type",
        f"expected {stored} in the feature {name}, found"
        f" {listing(record.context)}; {advice}",
      )
    is_one = found.kind == "float" or len(found.values) == 1
    if found.size != (2 * size if kind == "float16" else size) or not is_one:
      raise BadRecordError(
        "wrong size",
        f"expected {size} numbers in the feature {name}, found"
        f" {listing(record.context)}; {advice}",
      )
    if kind != "bytes":
      vectors.append(video_vector(record, name))
      _check_finite(name, vectors[-1])
  if vectors:
    _check_length(vectors)


def video_vector(record: Record, name: str) -> np.ndarray:
  """The numbers of a feature of a checked video-level record.

  Returns:
    (numbers,) float32; uint8 of bytes.
  """
  values = record.context[name].values
  kind = vector_kind(record.context, name)
  if kind == "float16":
    return half_as_float(values[0])
  return np.frombuffer(values[0], np.uint8) if kind == "bytes" else values


def check_frame_features(
  record: Record,
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
    kinds: "bytes", "float" or "float16" for each; None for any.
    for_trained: whether a trained model has fixed the flags.

  Raises:
    BadRecordError: one is missing, is of another kind, size or number of
      frames, holds a value that is not finite, or the record is a video-level
      one.
  """
  level = ""
  if not record.lists and set(record.context) - WITH_FRAMES:
    level = f"this is a video-level record with {listing(record.context)}: "
  advice = _advice(level, "leave out --frame_features", for_trained)
  for name in names:
    if name not in record.lists:
      raise _missing(name, record.lists, advice)
  lists = {name: record.lists[name] for name in names}
  for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
    allowed = [kinds[index]] if kinds else ["bytes", "float", "float16"]
    half = is_half(record.context, name)
    _check_frames(name, lists[name], size, allowed, half, record.lists, advice)
  if len({len(frames) for frames in lists.values()}) > 1:
    raise BadRecordError(
      "different lengths",
      f"expected equally many frames in each feature, found {listing(lists)}",
    )
  floats = [
    [
      half_as_float(feature.values[0])
      if feature.kind == "bytes"
      else feature.values
      for feature in frames
    ]
    for name, frames in lists.items()
    if frames and (frames[0].kind == "float" or is_half(record.context, name))
  ]
  for frame in zip(*floats, strict=True):
    _check_length(frame)


# What a context holds beside features, in frame-level records too.
WITH_FRAMES = frozenset(
  {
    "id",
    "video_id",
    "labels",
    "start_time_seconds",
    "end_time_seconds",
    "segment_start_times",
    "segment_end_times",
    "segment_labels",
    "segment_scores",
  }
)


def _missing(name: str, found: dict, advice: str) -> BadRecordError:
  return BadRecordError(
    "missing feature",
    f"expected the feature {name} (--feature_names), found"
    f" {listing(found)}; {advice}",
  )


def _check_frames(name, frames, size, kinds, half, lists, advice) -> None:
  """Checks the frames of one feature, whose bytes may be float16.

  Raises:
    BadRecordError: the first frame is of another kind or size, or another frame
      differs from it.
  """
  if not frames:
    return
  first = frames[0]
  is_stored_half = half and first.kind == "bytes"
  if ("float16" if is_stored_half else first.kind) not in kinds:
    raise BadRecordError(
      "wrong type",
      f"expected {' or '.join(kinds)} in the feature {name}, found"
      f" {listing(lists)}; {advice}",
    )
  stored_size = 2 * size if is_stored_half else size
  if first.size != stored_size:
    raise BadRecordError(
      "wrong size",
      f"expected {size} numbers in the feature {name}, found"
      f" {listing(lists)}; {advice}",
    )
  for number, frame in enumerate(frames):
    if frame.kind != first.kind:
      raise BadRecordError(
        "wrong type",
        f"expected {first.kind} in every frame of the feature {name}, found"
        f" {frame.kind} in frame {number}",
      )
    if frame.size != stored_size or (
      frame.kind == "bytes" and len(frame.values) > 1
    ):
      raise BadRecordError(
        "wrong size",
        f"expected {size} numbers in every frame of the feature {name}, found"
        f" {_found(frame)} in frame {number}",
      )
    if frame.kind == "float":
      _check_finite(name, frame.values, f" in frame {number}")
    elif is_stored_half:
      numbers = half_as_float(frame.values[0])
      _check_finite(name, numbers, f" in frame {number}")


def _check_finite(name: str, values: np.ndarray, where: str = "") -> None:
  """Raises a BadRecordError if a value is NaN or infinite."""
  wrong = np.flatnonzero(~np.isfinite(values))
  if len(wrong):
    raise BadRecordError(
      "not finite",
      f"expected finite numbers in the feature {name}, found"
      f" {values[wrong[0]]}{where}; make the record again",
    )


def rows_of_finite_length(values: np.ndarray) -> np.ndarray:
  """Finds the rows whose length is a finite float32 number.

  It is not with a NaN or an infinity among them, nor if squares overflow.

  Args:
    values: (rows, numbers) float32 or float16.

  Returns:
    (rows,) bool.
  """
  if values.dtype == np.float16:  # the squares of which cannot overflow
    largest = np.float16(np.inf).view(np.uint16)
    magnitudes = values.view(np.uint16) & np.uint16(0x7FFF)
    return magnitudes.max(axis=1, initial=0) < largest
  with np.errstate(over="ignore", invalid="ignore"):
    return np.isfinite(np.einsum("ij,ij->i", values, values))


def _check_length(parts: Sequence[np.ndarray]) -> None:
  """Raises a BadRecordError if the length of a vector is not finite.

  Models divide by it; where squares overflow, they compute with 0.
  """
  vector = np.concatenate(parts)
  if not rows_of_finite_length(vector[np.newaxis]).all():
    largest = vector[np.argmax(np.abs(vector))]
    raise BadRecordError(
      "not finite",
      "expected features whose squares add up to a float32 number, found values"
      f" as large as {largest:g}; make the record again",
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
    return level + other_level + _ONE_LEVEL
  return "change --feature_names and --feature_sizes"
