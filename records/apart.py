"""Takes a record apart without being told what it holds.

Readers are told which features they want and refuse a record without them. To
find out what files hold, this module returns all features of a record as they
are stored, of either level.
"""

import dataclasses

import numpy as np

from records import contents, frames, messages
from records.messages import BadRecordError, Feature

# One more than the largest class index that is no mistake.
_MOST_CLASSES = 1 << 28
# The tag of the only field of an Example, the first one of a SequenceExample.
_CONTEXT = 0x0A
_RATINGS = {"segment_start_times", "segment_labels", "segment_scores"}


@dataclasses.dataclass(slots=True)
class Apart:
  """What a record holds.

  Attributes:
    video_id: its id.
    labels: class indices; None without the feature.
    ratings: start time in seconds, class and score of each rated segment.
    is_frame_level: whether it is a tf.train.SequenceExample with feature lists.
    features: uint8, float16 or float32 array as stored, by name; (frames,
      numbers), at video level (numbers,). They may be views of the record.
  """

  video_id: bytes
  labels: list[int] | None
  ratings: list[tuple[int, int, float]]
  is_frame_level: bool
  features: dict[str, np.ndarray]

  @property
  def num_frames(self) -> int:
    """Frames of the video; 0 at video level."""
    if not self.is_frame_level:
      return 0
    return len(next(iter(self.features.values())))

  @property
  def has_numbers(self) -> bool:
    """Whether there is any: a feature, and in frame-level records a frame."""
    return any(of.size for of in self.features.values())


def _labels(context: dict[str, Feature]) -> list[int] | None:
  """The classes of a video.

  Raises:
    BadRecordError: they are no class indices.
  """
  found = context.get("labels")
  if found is None:
    return None
  if found.kind not in ("int64", "empty"):
    raise BadRecordError(
      "wrong type",
      "expected class indices (int64) in the feature labels, found"
      f" {contents.listing({'labels': found})}; make the record again",
    )
  for index in found.values:
    if not 0 <= index < _MOST_CLASSES:
      raise BadRecordError(
        "label out of range",
        f"expected class indices from 0 to {_MOST_CLASSES - 1} in labels, found"
        f" {index}; make the record again",
      )
  return list(found.values)


def _ratings(context: dict[str, Feature]) -> list[tuple[int, int, float]]:
  """The ratings of segments, if there are any; see contents.segments."""
  if not context.keys() >= _RATINGS:
    return []
  times, classes, scores = contents.segments(context, _MOST_CLASSES)
  return list(zip(times, classes, map(float, scores), strict=True))


def _vectors(context: dict[str, Feature]) -> dict[str, np.ndarray]:
  """The features of a video-level record."""
  found = {}
  for name, feature in context.items():
    if feature.kind == "float" and name not in contents.WITH_FRAMES:
      found[name] = feature.values
    elif feature.kind == "bytes" and contents.dtype_key(name) in context:
      if len(feature.values) > 1:
        raise BadRecordError(
          "wrong size",
          f"expected one value in the feature {name}, found"
          f" {contents.listing({name: feature})}; make the record again",
        )
      (value,) = feature.values or [b""]
      half = contents.is_half(context, name)
      if half and len(value) % 2:
        raise BadRecordError(
          "wrong size",
          f"expected two bytes for each number of {name}, found {len(value)}"
          " bytes; make the record again",
        )
      found[name] = np.frombuffer(value, "<f2" if half else np.uint8)
  return found


def is_example(record: memoryview) -> bool:
  """Whether a record looks like a tf.train.Example, a video-level record.

  All of it is then its features; a tf.train.SequenceExample has lists too.
  """
  try:
    return messages.usual_length(record, 0, _CONTEXT, len(record))[1] == len(
      record
    )
  except messages.PARSE_ERRORS:
    return False


def take_apart(record: memoryview) -> Apart:
  """Takes a record of either level apart.

  Args:
    record: its data.

  Returns:
    What it holds; its arrays are valid as long as the data.

  Raises:
    BadRecordError: it is no record or has no id, its features cannot be arrays
      or have unequally many frames, or its labels are no class indices.
  """
  lists = None
  if is_example(record):
    begin, end = messages.usual_length(record, 0, _CONTEXT, len(record))
    context = messages.parse_context(record[begin:end])
  else:
    context, lists = frames.frames_by_name(record)
  if lists and len(set(map(len, lists.values()))) > 1:
    found = ", ".join(f"{name} ({len(of)})" for name, of in lists.items())
    raise BadRecordError(
      "different lengths",
      f"expected equally many frames in each feature, found {found}; make the"
      " record again",
    )
  return Apart(
    video_id=contents.video_id(context),
    labels=_labels(context),
    ratings=_ratings(context),
    is_frame_level=bool(lists),
    features=lists or _vectors(context),
  )
