"""Records -> batches, for training, evaluation and prediction.

The batch is the one contract between the data and everything else. It is a
dict of arrays that hold `batch` videos, or segments:

  video_ids     (batch,) string
  video_matrix  (batch, frames, features) at frame level: uint8, still
                quantized, or float16 or float32 where the records hold these;
                (batch, features) float32 at video level
  num_frames    (batch,) int32, the valid frames of each; 1 at video level
  labels        (batch, classes) bool; absent if read without labels; with
                --label_subset, these are its classes alone
  label_weights (batch, classes) float32, 1 where a class was rated; segments
                only
  segment_start_times (batch,) int64, seconds; segments only

Features are concatenated in the order of --feature_names. Frames past
num_frames are padding. Frame features stay bytes until they are on the device,
where models.build_model dequantizes them: this takes a quarter of the memory
and of the transfer. A batch is padded to its longest video, rounded up to one
of a few lengths so that few shapes are compiled.

A training batch also has `place` (5,) int64, which says where the run is in
the data; see engine/data_order.py, which decides what records come when.
"""

import numpy as np
import tensorflow as tf

import errors
import quantization
from records import contents, messages, selection
from records.frames import FrameBatch, FrameFeatures
from records.memory import aligned_zeros
from records.messages import BadRecordError
from records.vectors import VectorBatch

SEGMENT_FRAMES = 5  # a rated segment is 5 s, at one frame a second
ALL_FRAMES = 1 << 30


# --------------------------------------------------------------------------
# Flags -> names and sizes


def get_feature_names_and_sizes(
  feature_names: str, feature_sizes: str
) -> tuple[list[str], list[int]]:
  """Splits the flags --feature_names and --feature_sizes.

  Args:
    feature_names: names with commas between them, blanks allowed: "rgb, audio".
    feature_sizes: a whole number for each: "1024, 128".

  Returns:
    The names and the sizes, in the order given.

  Raises:
    errors.UserError: there are not equally many names and sizes, or one of
      them is not a name or a size.
  """
  names = [name.strip() for name in feature_names.split(",")]
  sizes = [size.strip() for size in feature_sizes.split(",")]
  if len(names) != len(sizes):
    raise errors.UserError(
      f"Expected one size for each feature, received {len(names)} names"
      f" (--feature_names={feature_names}) and {len(sizes)} sizes"
      f" (--feature_sizes={feature_sizes}). Give a size for each name."
    )
  if not all(names) or len(set(names)) < len(names):
    raise errors.UserError(
      f"Expected different, non-empty feature names, received"
      f" --feature_names={feature_names}. Name each feature once, with commas"
      " between them."
    )
  if not all(size.isdecimal() and 0 < int(size[:11]) < 2**31 for size in sizes):
    raise errors.UserError(
      f"Expected whole numbers above 0 with commas between them, received"
      f" --feature_sizes={feature_sizes}. Give how many numbers each feature"
      " has."
    )
  return names, [int(size) for size in sizes]


def frame_buckets(max_frames: int) -> list[int]:
  """Returns the lengths that videos are padded to.

  The first is 8 and each of the others about a quarter longer than the one
  before.

  Args:
    max_frames: the longest length used.

  Returns:
    Ascending lengths, the last one max_frames; there are 13 for 300 frames.
  """
  buckets = []
  length = 8
  while length < max_frames:
    buckets.append(length)
    length = -(-length * 5 // 4 // 8) * 8 if length >= 32 else length + 8
  return [*buckets, max_frames]


def _bucket(num_frames: int, max_frames: int) -> int:
  """Returns the smallest of the frame_buckets for this number of frames."""
  return next(
    length for length in frame_buckets(max_frames) if length >= num_frames
  )


def get_feature_ranges(
  feature_ranges: str, number: int
) -> list[quantization.Range]:
  """Splits the flag --feature_ranges; see quantization.parse_ranges.

  Args:
    feature_ranges: the flag.
    number: of features.

  Raises:
    errors.UserError: it is not a range for each feature.
  """
  try:
    return quantization.parse_ranges(feature_ranges, number)
  except ValueError as error:
    raise errors.UserError(str(error)) from error


# --------------------------------------------------------------------------
# Batches of frame-level records


class _VideoBatch:
  """A batch of whole videos that records are added to.

  Args:
    reader: of the records.
    arrays: a FrameBatch of num_records rows.
    num_records: how many records may be added.
    with_labels: whether to read labels.
    needs_frames: whether a video without frames is a bad record.
  """

  def __init__(
    self,
    reader,
    arrays: FrameBatch,
    num_records: int,
    with_labels: bool,
    needs_frames: bool = False,
  ):
    self._reader = reader
    self._needs_frames = needs_frames
    self._arrays = arrays
    self._ids: list[bytes | None] = [None] * num_records
    self._labels = None
    if with_labels:
      shape = (num_records, reader.num_classes)
      self._labels = aligned_zeros(shape, np.bool_)

  def add(self, row: int, data: memoryview) -> None:
    """Adds a record.

    Raises:
      BadRecordError: it is not what the flags say, and is left out.
    """
    context = self._arrays.add(row, data)
    video_id = contents.video_id(context)
    if self._labels is not None:
      classes = contents.labels(
        context, self._reader.num_classes, self._reader.for_trained
      )
      self._labels[row, classes] = True
      if self._reader.exclusive_classes:
        contents.check_one_label(
          classes, self._reader.label_subset, self._reader.for_trained
        )
    if self._needs_frames and not self._arrays.num_frames[row]:
      raise BadRecordError(
        "no frames", "expected frames to train on, found none"
      )
    self._ids[row] = video_id

  def finish(self, on_bad=None) -> dict[str, np.ndarray]:
    """The batch of those that were added, in the order of their rows.

    Args:
      on_bad: unused, as bad records are not added.
    """
    del on_bad
    rows = np.array(
      [row for row, name in enumerate(self._ids) if name is not None], np.int64
    )
    matrix, num_frames = self._arrays.finish(rows)
    batch = {
      "video_ids": np.array([self._ids[row] for row in rows], object),
      "video_matrix": matrix,
      "num_frames": num_frames,
    }
    if self._labels is not None:
      labels, subset = self._labels, self._reader.label_subset
      labels = labels if len(rows) == len(labels) else labels[rows]
      batch["labels"] = labels if subset is None else labels[:, subset]
    return batch


# --------------------------------------------------------------------------
# The two readers


def _tf_video_id(features: dict[str, tf.Tensor]) -> tf.Tensor:
  """Takes the id; the 2017 release and older tools call its key video_id."""
  return tf.where(features["id"] == "", features["video_id"], features["id"])


def _decode(column, kind: str, of: quantization.Range | None):
  """Decodes the numbers of a parsed feature.

  Args:
    column: (...) strings, or floats, which stay as they are.
    kind: "bytes", "float" or "float16".
    of: range of the bytes; None to leave them quantized.

  Returns:
    (..., numbers) float32, or uint8.
  """
  if kind == "float":
    return column
  if kind == "float16":
    return tf.cast(tf.io.decode_raw(column, tf.float16), tf.float32)
  column = tf.io.decode_raw(column, tf.uint8)
  if of is None:
    return column
  scale, bias = quantization.scale_and_bias(of)
  return quantization.dequantize(tf.cast(column, tf.float32), scale, bias)


_ID_FEATURES = {
  "id": tf.io.FixedLenFeature([], tf.string, default_value=""),
  "video_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
}


class _Reader:
  """What both readers have.

  Attributes:
    num_classes: of the data.
    label_subset: the classes that labels are wanted of, ascending; None for
      all.
    exclusive_classes: whether a video without exactly one label of these is a
      bad record.
    for_trained: whether a trained model has fixed the flags, so that errors
      advise to name other files.
  """

  num_classes: int
  label_subset: list[int] | None = None
  exclusive_classes = False
  for_trained = False
  _usual_kind: str

  def __init__(self, num_classes, feature_sizes, feature_names, kinds, ranges):
    """Takes what both take; see YT8MFrameFeatureReader."""
    self.num_classes = num_classes
    self.feature_sizes = list(feature_sizes)
    self.feature_names = list(feature_names)
    self.kinds = kinds or [self._usual_kind] * len(self.feature_names)
    self.ranges = ranges or [quantization.YOUTUBE8M_RANGE] * len(self.kinds)

  @property
  def num_outputs(self) -> int:
    """Classes of a batch's labels."""
    if self.label_subset is None:
      return self.num_classes
    return len(self.label_subset)

  def _stored_features(self):
    """(name, size, kind, range) of each feature."""
    return zip(
      self.feature_names,
      self.feature_sizes,
      self.kinds,
      self.ranges,
      strict=True,
    )


class YT8MAggregatedFeatureReader(_Reader):
  """Reads video-level records: tf.Examples with one vector for each feature.

  Attributes:
    kinds: "bytes", "float" or "float16" for each feature; see `configure`.
    quantized: whether video_matrix holds bytes; always False at this level.
    segment_labels: always False at this level.
  """

  quantized = False
  segment_labels = False
  _usual_kind = "float"

  def __init__(
    self,
    num_classes=3862,
    feature_sizes=(1024,),
    feature_names=("mean_rgb",),
    kinds=None,
    ranges=None,
  ):
    """Takes what the flags of these names hold, and how numbers are stored."""
    super().__init__(num_classes, feature_sizes, feature_names, kinds, ranges)

  def configure(self, record: messages.Record) -> bool:
    """Finds out how numbers are stored; only serving has to know it."""
    self.kinds = [
      contents.vector_kind(record.context, name) for name in self.feature_names
    ]
    return True

  def start_batch(
    self, num_records: int, with_labels: bool, for_training: bool = False
  ) -> VectorBatch:
    """Starts a batch that records are added to.

    Args:
      num_records: how many.
      with_labels: whether to read labels.
      for_training: unused at this level.
    """
    del for_training
    return VectorBatch(
      num_records,
      self.feature_names,
      self.feature_sizes,
      self.num_classes if with_labels else None,
      self.for_trained,
      self.ranges,
      self.label_subset,
      with_labels and self.exclusive_classes,
    )

  def element_spec(self, with_labels: bool) -> dict[str, tf.TensorSpec]:
    """What a batch holds, by name."""
    spec = {
      "video_ids": tf.TensorSpec([None], tf.string),
      "video_matrix": tf.TensorSpec(
        [None, sum(self.feature_sizes)], tf.float32
      ),
      "num_frames": tf.TensorSpec([None], tf.int32),
    }
    if with_labels:
      spec["labels"] = tf.TensorSpec([None, self.num_outputs], tf.bool)
    return spec

  def parse_batch(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses (batch,) records into a batch without labels, for serving."""
    wanted = {
      name: tf.io.FixedLenFeature([size], tf.float32)
      if kind == "float"
      else tf.io.FixedLenFeature([], tf.string)
      for name, size, kind, _ in self._stored_features()
    }
    features = tf.io.parse_example(serialized, {**_ID_FEATURES, **wanted})
    columns = [
      tf.ensure_shape(_decode(features[name], kind, of), [None, size])
      for name, size, kind, of in self._stored_features()
    ]
    return {
      "video_ids": _tf_video_id(features),
      "video_matrix": tf.concat(columns, axis=1),
      "num_frames": tf.ones([tf.shape(serialized)[0]], tf.int32),
    }


class YT8MFrameFeatureReader(_Reader):
  """Reads frame-level records: SequenceExamples with one value for each frame.

  With segment_labels, a record gives one example for each rated segment.

  Attributes:
    kinds: "bytes", "float" or "float16" for each feature; see `configure`.
    quantized: whether video_matrix holds bytes.
    segment_labels: whether it reads segments.
  """

  _usual_kind = "bytes"

  def __init__(
    self,
    num_classes=3862,
    feature_sizes=(1024, 128),
    feature_names=("rgb", "audio"),
    max_frames=300,
    segment_labels=False,
    kinds=None,
    ranges=None,
  ):
    """Takes what the flags of these names hold, and how frames are stored.

    Args:
      num_classes: number of classes of the data.
      feature_sizes: how many numbers a frame of each feature has.
      feature_names: in the order in which they are concatenated.
      max_frames: frames used of each video.
      segment_labels: read segments.
      kinds: "bytes", "float" or "float16" for each feature; None for bytes.
      ranges: of the bytes of each feature; None for YouTube-8M's.
    """
    super().__init__(num_classes, feature_sizes, feature_names, kinds, ranges)
    self.max_frames = max_frames
    self.segment_labels = segment_labels

  @property
  def quantized(self) -> bool:
    """True if all features are stored as bytes: a batch then holds uint8."""
    return all(kind == "bytes" for kind in self.kinds)

  def configure(self, record: messages.Record) -> bool:
    """Finds out from a record how the numbers of each feature are stored.

    Returns:
      Whether the record shows it: one without frames does not.

    Raises:
      BadRecordError: its frames are not what the flags say.
    """
    contents.check_frame_features(
      record, self.feature_names, self.feature_sizes, None, self.for_trained
    )
    if not all(record.lists[name] for name in self.feature_names):
      return False
    self.kinds = [
      "float16"
      if contents.is_half(record.context, name)
      else record.lists[name][0].kind
      for name in self.feature_names
    ]
    return True

  @property
  def frame_features(self) -> FrameFeatures:
    """What is wanted of each frame."""
    return FrameFeatures(
      tuple(self.feature_names),
      tuple(self.feature_sizes),
      tuple(self.kinds),
      self.for_trained,
      tuple(self.ranges),
    )

  def start_batch(
    self, num_records: int, with_labels: bool, for_training: bool = False
  ) -> "_VideoBatch | _SegmentBatch":
    """Starts a batch that records are added to.

    Args:
      num_records: how many, or with segment_labels how many segments.
      with_labels: whether to read labels.
      for_training: whether a video without frames is a bad record.
    """
    if self.segment_labels:
      return _SegmentBatch(self, self.frame_features, with_labels)
    arrays = FrameBatch(
      num_records,
      self.frame_features,
      self.max_frames,
      lambda frames: _bucket(frames, self.max_frames),
    )
    return _VideoBatch(self, arrays, num_records, with_labels, for_training)

  def element_spec(self, with_labels: bool) -> dict[str, tf.TensorSpec]:
    """What a batch holds, by name."""
    length = SEGMENT_FRAMES if self.segment_labels else None
    spec = {
      "video_ids": tf.TensorSpec([None], tf.string),
      "video_matrix": tf.TensorSpec(
        [None, length, sum(self.feature_sizes)],
        tf.as_dtype(self.frame_features.dtype),
      ),
      "num_frames": tf.TensorSpec([None], tf.int32),
    }
    if with_labels:
      spec["labels"] = tf.TensorSpec([None, self.num_outputs], tf.bool)
    if self.segment_labels:
      spec["segment_start_times"] = tf.TensorSpec([None], tf.int64)
      if with_labels:
        spec["label_weights"] = tf.TensorSpec(
          [None, self.num_outputs], tf.float32
        )
    return spec

  def _list_features(self):
    return {
      name: tf.io.FixedLenSequenceFeature([size], tf.float32)
      if kind == "float"
      else tf.io.FixedLenSequenceFeature([], tf.string)
      for name, size, kind, _ in self._stored_features()
    }

  def _side_by_side(self, lists):
    """Decodes feature lists, (..., frames) each, to (..., frames, features)."""
    columns = []
    for name, size, kind, of in self._stored_features():
      column = _decode(lists[name], kind, None if self.quantized else of)
      # Not ensure_shape: without frames, decode_raw's last axis is 0, not size.
      shape = tf.concat(
        [tf.shape(lists[name])[: column.shape.rank - 1], [size]], 0
      )
      columns.append(tf.reshape(column, shape))
    frames = tf.concat(columns, axis=-1)
    return tf.ensure_shape(
      frames, [None] * (frames.shape.rank - 1) + [sum(self.feature_sizes)]
    )

  def _parse_frames(self, serialized):
    """Parses the frames of (batch,) records of any layout."""
    _, lists, lengths = tf.io.parse_sequence_example(
      serialized, {}, self._list_features()
    )
    num_frames = [lengths[name] for name in self.feature_names]
    equal = [
      tf.debugging.assert_equal(num_frames[0], other, "unequal frame counts")
      for other in num_frames[1:]
    ]
    for name, size, kind, _ in self._stored_features():
      if kind != "float":  # decode_raw needs padding as long as the rest
        padding = bytes(2 * size if kind == "float16" else size)
        lists[name] = tf.where(lists[name] == "", padding, lists[name])
    with tf.control_dependencies(equal):
      frames = self._side_by_side(lists)
    return frames, tf.cast(num_frames[0], tf.int32)

  def parse_batch(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses (batch,) records into a batch without labels, for serving."""
    frames, num_frames = self._parse_frames(serialized)
    return {
      # The context is the field in which a tf.Example has its features.
      "video_ids": _tf_video_id(tf.io.parse_example(serialized, _ID_FEATURES)),
      "video_matrix": frames[:, : self.max_frames],
      "num_frames": tf.minimum(num_frames, self.max_frames),
    }


class _SegmentBatch:
  """A batch of segments that records are added to.

  Args:
    reader: of the records.
    features: of the frames.
    with_labels: whether to take the rated segments, with their ratings, or all.
  """

  def __init__(self, reader, features: FrameFeatures, with_labels: bool):
    self._reader = reader
    self._features = features
    self._with_labels = with_labels
    self._parts: dict[int, dict[str, np.ndarray]] = {}

  def add(self, row: int, data: memoryview, wanted=None) -> None:
    """Adds a record.

    Args:
      row: segments of lower rows come first.
      data: of the record.
      wanted: indices of the segments to take; None for all.

    Raises:
      BadRecordError: it is not what the flags say, and is left out.
    """
    video = FrameBatch(1, self._features, ALL_FRAMES, lambda frames: frames)
    context = video.add(0, data)
    frames, _ = video.finish(np.array([0]))
    video_id = contents.video_id(context)
    part = (
      self._rated(context, frames[0])
      if self._with_labels
      else self._every(frames[0])
    )
    part["video_ids"] = np.full(len(part["num_frames"]), video_id, object)
    if wanted is not None:
      part = {name: values[wanted] for name, values in part.items()}
    self._parts[row] = part

  def _rated(self, context, frames) -> dict[str, np.ndarray]:
    """The rated segments, in the order of their first ratings.

    All ratings of one start time are one segment. Frames past the end of the
    video are padding.
    """
    reader = self._reader
    ratings = contents.segments(context, reader.num_classes, reader.for_trained)
    times, classes, scores = selection.renumbered(*ratings, reader.label_subset)
    starts = list(dict.fromkeys(times))
    place = {start: index for index, start in enumerate(starts)}
    matrix = np.zeros(
      (len(starts), SEGMENT_FRAMES, frames.shape[1]), frames.dtype
    )
    num_frames = np.zeros(len(starts), np.int32)
    for index, start in enumerate(starts):
      found = frames[start : start + SEGMENT_FRAMES]
      matrix[index, : len(found)] = found
      num_frames[index] = len(found)
    labels = np.zeros((len(starts), reader.num_outputs), bool)
    weights = np.zeros((len(starts), reader.num_outputs), np.float32)
    for start, label, score in zip(times, classes, scores, strict=True):
      weights[place[start], label] = 1.0
      labels[place[start], label] |= score > 0
    return {
      "video_matrix": matrix,
      "num_frames": num_frames,
      "labels": labels,
      "label_weights": weights,
      "segment_start_times": np.array(starts, np.int64),
    }

  def _every(self, frames) -> dict[str, np.ndarray]:
    """All segments, one every 5 frames; the last may be shorter."""
    frames = frames[: self._reader.max_frames]
    number = -(-len(frames) // SEGMENT_FRAMES)
    matrix = np.zeros((number * SEGMENT_FRAMES, frames.shape[1]), frames.dtype)
    matrix[: len(frames)] = frames
    starts = np.arange(number) * SEGMENT_FRAMES
    return {
      "video_matrix": matrix.reshape(number, SEGMENT_FRAMES, frames.shape[1]),
      "num_frames": np.minimum(len(frames) - starts, SEGMENT_FRAMES).astype(
        np.int32
      ),
      "segment_start_times": starts,
    }

  def finish(self, on_bad=None) -> dict[str, np.ndarray]:
    """The batch of the segments of all records that were added, in order.

    Args:
      on_bad: unused, as bad records are not added.
    """
    del on_bad
    parts = [part for _, part in sorted(self._parts.items())]
    spec = self._reader.element_spec(self._with_labels)
    empty = {
      name: np.zeros([size or 0 for size in of.shape], of.dtype.as_numpy_dtype)
      for name, of in spec.items()
    }
    return {
      name: np.concatenate([empty[name], *(part[name] for part in parts)])
      for name in spec
    }


Reader = YT8MAggregatedFeatureReader | YT8MFrameFeatureReader


# --------------------------------------------------------------------------
# Flags and files -> a reader


def make_reader(
  model_flags: dict, kinds: list[str] | None = None, segment_labels=False
) -> Reader:
  """Makes the reader that the flags ask for.

  Args:
    model_flags: feature_names, feature_sizes, frame_features, num_classes,
      max_frames and, if there, feature_ranges, label_subset and
      exclusive_classes are used; see model_flags.json.
    kinds: see YT8MFrameFeatureReader.
    segment_labels: whether to read segments instead of whole videos.
  """
  names, sizes = get_feature_names_and_sizes(
    model_flags["feature_names"], model_flags["feature_sizes"]
  )
  ranges = get_feature_ranges(model_flags.get("feature_ranges", ""), len(names))
  reader: Reader
  if model_flags["frame_features"]:
    reader = YT8MFrameFeatureReader(
      model_flags["num_classes"],
      sizes,
      names,
      model_flags["max_frames"],
      segment_labels,
      kinds,
      ranges,
    )
  else:
    reader = YT8MAggregatedFeatureReader(
      model_flags["num_classes"], sizes, names, kinds, ranges
    )
  reader.label_subset = model_flags.get("label_subset")
  reader.exclusive_classes = bool(model_flags.get("exclusive_classes"))
  return reader


def numeric_part(batch: dict) -> dict:
  """Returns a batch without the entries that only name its examples.

  These hold strings, which XLA cannot compile and a GPU cannot hold.
  """
  names = ("video_ids", "segment_start_times")
  return {name: value for name, value in batch.items() if name not in names}
