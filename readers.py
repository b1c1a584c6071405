"""TFRecord files -> batches, for training, evaluation and prediction.

The batch is the one contract between the data and everything else. It is a
dict of tensors, with `batch` videos (or, for segments, segments):

  video_ids     (batch,) string
  video_matrix  (batch, frames, features) at frame level: uint8, still
                quantised, or float32 where the records hold floats;
                (batch, features) float32 at video level
  num_frames    (batch,) int32, the valid frames of each; 1 at video level
  labels        (batch, classes) bool; absent if read without labels
  label_weights (batch, classes) float32, 1 where a class was rated; segments
                only
  segment_start_times (batch,) int64, seconds; segments only

Features are concatenated in the order of --feature_names. Frames past
num_frames are padding. Frame features stay bytes until they are on the device
(models.build_model dequantises them there): a quarter of the memory and of the
transfer. A batch is padded to its longest video, rounded up to one of a few
lengths so that few shapes are compiled.
"""

import dataclasses
import os

import tensorflow as tf
from absl import logging

import errors
import frame_records

# (x - 0) / 255 * 4 - 2, moved up by half a step of 4 / 256: the dataset's own
# quantisation, see dequantize.
_DEQUANTIZE_SCALE = 4.0 / 255.0
_DEQUANTIZE_BIAS = 4.0 / 512.0 - 2.0

# A small record is read much faster with many others at once. A local
# frame-level one is large enough to go past the buffer, which saves a copy; a
# remote file needs the buffer, since each read is a request.
_READ_BUFFER_BYTES = 1 << 20
# AutoGraph would rewrite each function for tf.data, a good part of a second.
_as_written = tf.autograph.experimental.do_not_convert

SEGMENT_FRAMES = 5  # a rated segment is 5 s, at one frame a second

# Fixed rather than tf.data.AUTOTUNE, which takes many batches to get there.
_PARALLEL_CALLS = (os.cpu_count() or 1) + 1
# Reading local files and cutting frames out of them take about the same time;
# more threads than cores only get into each other's way.
_HALF_THE_CORES = max((os.cpu_count() or 1) // 2, 1)


# --------------------------------------------------------------------------
# Flags -> names, sizes, files


def get_feature_names_and_sizes(
  feature_names: str, feature_sizes: str
) -> tuple[list[str], list[int]]:
  """Splits the flags --feature_names and --feature_sizes.

  Args:
    feature_names: names with commas between, blanks allowed: "rgb, audio".
    feature_sizes: as many whole numbers: "1024, 128".

  Returns:
    The names and the sizes, in the order given.

  Raises:
    errors.UserError: another number of names than of sizes, or no numbers.
  """
  names = [name.strip() for name in feature_names.split(",")]
  sizes = [size.strip() for size in feature_sizes.split(",")]
  if len(names) != len(sizes):
    raise errors.UserError(
      f"Expected one size for each feature, received {len(names)} names"
      f" (--feature_names={feature_names}) and {len(sizes)} sizes"
      f" (--feature_sizes={feature_sizes}). Name a size for each."
    )
  if not all(names) or len(set(names)) < len(names):
    raise errors.UserError(
      f"Expected different, non-empty feature names, received"
      f" --feature_names={feature_names}."
    )
  if not all(size.isdigit() and int(size) > 0 for size in sizes):
    raise errors.UserError(
      f"Expected whole numbers above 0 with commas between, received"
      f" --feature_sizes={feature_sizes}."
    )
  return names, [int(size) for size in sizes]


def find_files(data_pattern: str, flag_name: str) -> list[str]:
  """Lists the files of one or more glob patterns, sorted by name.

  Args:
    data_pattern: glob pattern, or several with commas between; any file system
      that tf.io.gfile knows.
    flag_name: the flag to name in the error.

  Returns:
    The paths, sorted, each once.

  Raises:
    errors.UserError: a pattern matches no file.
  """
  files = set()
  for pattern in data_pattern.split(","):
    found = tf.io.gfile.glob(pattern.strip())
    if not found:
      raise errors.UserError(
        f"Expected files that match --{flag_name}={pattern.strip()}, found"
        " none. Check the path, and quote the pattern so that the shell does"
        " not expand it."
      )
    files.update(found)
  return sorted(files)


# --------------------------------------------------------------------------
# What a record holds


@dataclasses.dataclass(frozen=True)
class FoundFeature:
  """One feature as found in a record.

  Attributes:
    kind: "bytes", "float", "int64" or "empty".
    size: numbers in it, at frame level in its first frame; bytes count one
      number a byte.
    frames: number of frames, or None where it is not a list of frames.
  """

  kind: str
  size: int
  frames: int | None = None

  def __str__(self):
    frames = "" if self.frames is None else f"{self.frames} frames of "
    return f"{frames}{self.size} {self.kind}"


def _found_feature(feature, frames=None) -> FoundFeature:
  kind = feature.WhichOneof("kind")
  if kind == "bytes_list":
    values = feature.bytes_list.value
    return FoundFeature("bytes", len(values[0]) if values else 0, frames)
  if kind is None:
    return FoundFeature("empty", 0, frames)
  size = len(getattr(feature, kind).value)
  return FoundFeature(kind.removesuffix("_list"), size, frames)


def parse_record(serialized: bytes) -> tf.train.SequenceExample:
  """Parses either record format: a tf.Example is one without feature lists.

  The two share their field numbers, so that a video-level record parses as a
  SequenceExample whose context holds all its features.

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


def describe_record(
  record: tf.train.SequenceExample,
) -> tuple[dict[str, FoundFeature], dict[str, FoundFeature]]:
  """Tells which features a record holds.

  Returns:
    Those of the context (all of them, in a video-level record) and those of
    the feature lists, by name.
  """
  context = {
    name: _found_feature(feature)
    for name, feature in sorted(record.context.feature.items())
  }
  lists = {}
  for name, frames in sorted(record.feature_lists.feature_list.items()):
    first = frames.feature[0] if frames.feature else tf.train.Feature()
    lists[name] = _found_feature(first, len(frames.feature))
  return context, lists


def _listing(features: dict[str, FoundFeature]) -> str:
  if not features:
    return "none"
  return ", ".join(f"{name} ({found})" for name, found in features.items())


def _check_common(context, labels, num_classes, needs_labels) -> None:
  """Checks the id and the labels of a record; see check_record."""
  if not {"id", "video_id"} & context.keys():
    raise errors.UserError(
      f"expected the feature id (or video_id), found only {_listing(context)}"
    )
  if not needs_labels:
    return
  if "labels" not in context:
    raise errors.UserError(
      f"expected the feature labels, found only {_listing(context)};"
      " training and evaluation need labels, the test split has none: name"
      " the train or validate files"
    )
  _check_classes("labels", labels, num_classes)


def _check_classes(feature_name, classes, num_classes) -> None:
  wrong = [index for index in classes if not 0 <= index < num_classes]
  if wrong:
    raise errors.UserError(
      f"expected class indices from 0 to {num_classes - 1} in"
      f" {feature_name}, found {wrong[0]}; set --num_classes to the number of"
      " classes of this data"
    )


def _check_feature(name, size, kinds, found, level_hint) -> None:
  """Checks one wanted feature against those found; see check_record."""
  if name not in found:
    raise errors.UserError(
      f"expected the feature {name} (--feature_names), found"
      f" {_listing(found)}; {level_hint}"
    )
  if found[name].kind not in kinds:
    raise errors.UserError(
      f"expected {' or '.join(kinds)} in the feature {name}, found"
      f" {_listing(found)}; {level_hint}"
    )
  if found[name].size != size:
    raise errors.UserError(
      f"expected {size} numbers in the feature {name}, found"
      f" {_listing(found)}; change --feature_sizes"
    )


# --------------------------------------------------------------------------
# Pure functions on tensors


def dequantize(quantized: tf.Tensor) -> tf.Tensor:
  """Gives the floats in [-2, 2] that bytes stand for: q * 4/255 + 4/512 - 2.

  Args:
    quantized: uint8, any shape.

  Returns:
    float32, same shape.
  """
  return tf.cast(quantized, tf.float32) * _DEQUANTIZE_SCALE + _DEQUANTIZE_BIAS


def frame_buckets(max_frames: int) -> list[int]:
  """The lengths that videos are padded to: 8, then each about 1/4 longer.

  Args:
    max_frames: the longest length used.

  Returns:
    Ascending lengths, the last one max_frames; 300 frames make 13.
  """
  buckets = []
  length = 8
  while length < max_frames:
    buckets.append(length)
    length = -(-length * 5 // 4 // 8) * 8 if length >= 32 else length + 8
  return [*buckets, max_frames]


def _bucket(num_frames: int, max_frames: int) -> int:
  """The first of the frame_buckets that holds so many frames."""
  return next(
    length for length in frame_buckets(max_frames) if length >= num_frames
  )


def _video_id(features: dict[str, tf.Tensor]) -> tf.Tensor:
  """The 2017 release and older tools call the key video_id instead of id."""
  return tf.where(features["id"] == "", features["video_id"], features["id"])


_ID_FEATURES = {
  "id": tf.io.FixedLenFeature([], tf.string, default_value=""),
  "video_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
}


def _dense_labels(labels, num_videos, num_classes: int) -> tf.Tensor:
  """Turns a sparse (videos, labels) int64 tensor into (videos, classes) bool.

  A class out of range makes it fail.
  """
  dense = _set_true(
    [num_videos, num_classes],
    tf.stack([labels.indices[:, 0], labels.values], axis=1),
  )
  return tf.ensure_shape(dense, [None, num_classes])


def _set_true(shape, indices: tf.Tensor) -> tf.Tensor:
  """A bool tensor, True at the (n, rank) indices; fails on one out of range."""
  return tf.tensor_scatter_nd_update(
    tf.zeros(shape, tf.bool), indices, tf.ones(tf.shape(indices)[:1], tf.bool)
  )


# --------------------------------------------------------------------------
# The two readers


class YT8MAggregatedFeatureReader:
  """Reads video-level records: tf.Example with one vector a feature.

  Attributes:
    kinds: None; see YT8MFrameFeatureReader.
    quantized: whether video_matrix holds bytes; never, at this level.
    one_example_per_record: True; skipping records skips as many videos.
  """

  kinds = None
  quantized = False
  one_example_per_record = True

  def __init__(
    self, num_classes=3862, feature_sizes=(1024,), feature_names=("mean_rgb",)
  ):
    """Takes what --num_classes, --feature_sizes and --feature_names hold."""
    self.num_classes = num_classes
    self.feature_sizes = list(feature_sizes)
    self.feature_names = list(feature_names)

  def check_record(self, serialized: bytes, with_labels: bool) -> None:
    """Raises errors.UserError if a record is not as the flags say."""
    record = parse_record(serialized)
    context, lists = describe_record(record)
    hint = "change --feature_names and --feature_sizes"
    if lists:
      hint = (
        f"this is a frame-level record with {_listing(lists)}: add"
        " --frame_features=True"
      )
    for name, size in zip(self.feature_names, self.feature_sizes, strict=True):
      _check_feature(name, size, ["float"], context, hint)
    labels = record.context.feature["labels"].int64_list.value
    _check_common(context, labels, self.num_classes, with_labels)

  def configure(self, serialized: bytes) -> bool:
    """Nothing depends on the records at this level."""
    del serialized
    return True

  def parse_batch(
    self, serialized: tf.Tensor, with_labels: bool = False
  ) -> dict[str, tf.Tensor]:
    """Parses (batch,) serialized tf.Examples into a batch; see this module."""
    wanted = {
      **_ID_FEATURES,
      **{
        name: tf.io.FixedLenFeature([size], tf.float32)
        for name, size in zip(
          self.feature_names, self.feature_sizes, strict=True
        )
      },
    }
    if with_labels:
      wanted["labels"] = tf.io.VarLenFeature(tf.int64)
    features = tf.io.parse_example(serialized, wanted)
    num_videos = tf.shape(serialized)[0]
    batch = {
      "video_ids": _video_id(features),
      "video_matrix": tf.concat(
        [features[name] for name in self.feature_names], axis=1
      ),
      "num_frames": tf.ones([num_videos], tf.int32),
    }
    if with_labels:
      batch["labels"] = _dense_labels(
        features["labels"], num_videos, self.num_classes
      )
    return batch

  def batches(
    self, records: tf.data.Dataset, batch_size: int, with_labels: bool
  ) -> tf.data.Dataset:
    """Batches a dataset of serialized records, keeping their order."""
    return records.batch(batch_size).map(
      _as_written(lambda serialized: self.parse_batch(serialized, with_labels)),
      num_parallel_calls=_PARALLEL_CALLS,
    )


class YT8MFrameFeatureReader:
  """Reads frame-level records: SequenceExamples with one value a frame.

  With segment_labels, a record gives one example for each rated segment.

  Attributes:
    kinds: "bytes" or "float" for each feature, see `configure`.
    quantized: whether video_matrix holds bytes.
    one_example_per_record: whether each record gives exactly one example.
  """

  def __init__(
    self,
    num_classes=3862,
    feature_sizes=(1024, 128),
    feature_names=("rgb", "audio"),
    max_frames=300,
    segment_labels=False,
    kinds=None,
  ):
    """Takes what the flags of these names hold, and how frames are stored.

    Args:
      num_classes: classes of the data.
      feature_sizes: numbers in each feature.
      feature_names: in the order in which they are concatenated.
      max_frames: frames used of each video.
      segment_labels: read segments.
      kinds: "bytes" or "float" for each feature; None for bytes.
    """
    self.num_classes = num_classes
    self.feature_sizes = list(feature_sizes)
    self.feature_names = list(feature_names)
    self.max_frames = max_frames
    self.segment_labels = segment_labels
    self.kinds = kinds or ["bytes"] * len(self.feature_names)
    self._is_configured = False

  @property
  def quantized(self) -> bool:
    """True if all features are stored as bytes, so that a batch is uint8."""
    return all(kind == "bytes" for kind in self.kinds)

  @property
  def one_example_per_record(self) -> bool:
    """False with segments: a record has as many examples as rated segments."""
    return not self.segment_labels

  def configure(self, serialized: bytes) -> bool:
    """Takes over from a checked record which features are floats.

    Returns:
      Whether the record told: one without frames does not.
    """
    _, lists = describe_record(parse_record(serialized))
    if any(lists[name].frames == 0 for name in self.feature_names):
      return False
    self.kinds = [lists[name].kind for name in self.feature_names]
    self._is_configured = True
    return True

  def check_record(self, serialized: bytes, with_labels: bool) -> None:
    """Raises errors.UserError if a record is not as the flags say."""
    record = parse_record(serialized)
    context, lists = describe_record(record)
    hint = "change --feature_names and --feature_sizes"
    if not lists:
      hint = (
        f"this is a video-level record with {_listing(context)}: leave out"
        " --frame_features"
      )
    for name, size, kind in zip(
      self.feature_names, self.feature_sizes, self.kinds, strict=True
    ):
      if name not in lists or lists[name].frames:
        kinds = [kind] if self._is_configured else ["bytes", "float"]
        _check_feature(name, size, kinds, lists, hint)
      if any(
        _found_feature(frame).size != size
        for frame in record.feature_lists.feature_list[name].feature
      ):
        raise errors.UserError(
          f"expected {size} numbers in every frame of the feature {name},"
          " found a frame with another number"
        )
    frames = {lists[name].frames for name in self.feature_names}
    if len(frames) > 1:
      raise errors.UserError(
        "expected as many frames in each feature, found"
        f" {_listing({name: lists[name] for name in self.feature_names})}"
      )
    if not self.segment_labels:
      labels = record.context.feature["labels"].int64_list.value
      _check_common(context, labels, self.num_classes, with_labels)
      return
    _check_common(context, [], self.num_classes, needs_labels=False)
    if with_labels:
      self._check_segments(record, context)

  def _check_segments(self, record, context) -> None:
    names = ["segment_start_times", "segment_labels", "segment_scores"]
    if not set(names) <= context.keys():
      raise errors.UserError(
        f"expected the features {', '.join(names)} (--segment_labels), found"
        f" {_listing(context)}; leave out --segment_labels for records that"
        " are labelled as whole videos"
      )
    if len({context[name].size for name in names}) > 1:
      raise errors.UserError(
        f"expected as many values in each of {', '.join(names)}, found"
        f" {_listing({name: context[name] for name in names})}"
      )
    starts = record.context.feature["segment_start_times"].int64_list.value
    if min(starts, default=0) < 0:
      raise errors.UserError(
        "expected segment_start_times from 0 on, in seconds, found"
        f" {min(starts)}"
      )
    classes = record.context.feature["segment_labels"].int64_list.value
    _check_classes("segment_labels", classes, self.num_classes)

  def _list_features(self):
    return {
      name: tf.io.FixedLenSequenceFeature([], tf.string)
      if kind == "bytes"
      else tf.io.FixedLenSequenceFeature([size], tf.float32)
      for name, size, kind in zip(
        self.feature_names, self.feature_sizes, self.kinds, strict=True
      )
    }

  def _side_by_side(self, lists):
    """Decodes feature lists, (..., frames) each, to (..., frames, features)."""
    columns = []
    for name, size, kind in zip(
      self.feature_names, self.feature_sizes, self.kinds, strict=True
    ):
      column = lists[name]
      if kind == "bytes":
        column = tf.io.decode_raw(column, tf.uint8)
        if not self.quantized:
          column = dequantize(column)
      # Not ensure_shape: decode_raw makes no numbers of no frames, not `size`.
      shape = tf.concat(
        [tf.shape(lists[name])[: column.shape.rank - 1], [size]], 0
      )
      columns.append(tf.reshape(column, shape))
    frames = tf.concat(columns, axis=-1)
    return tf.ensure_shape(
      frames, [None] * (frames.shape.rank - 1) + [sum(self.feature_sizes)]
    )

  def _parse(self, serialized, context_features):
    """Parses a scalar record: its context, and all its frames."""
    context, lists = tf.io.parse_single_sequence_example(
      serialized, {**_ID_FEATURES, **context_features}, self._list_features()
    )
    return context, self._side_by_side(lists)

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
    for name, size, kind in zip(
      self.feature_names, self.feature_sizes, self.kinds, strict=True
    ):
      if kind == "bytes":  # decode_raw wants the padding as long as the rest
        lists[name] = tf.where(lists[name] == "", bytes(size), lists[name])
    with tf.control_dependencies(equal):
      frames = self._side_by_side(lists)
    return frames, tf.cast(num_frames[0], tf.int32)

  def _parse_context(self, serialized, with_labels):
    """Parses what (batch,) records hold besides frames."""
    wanted = {"labels": tf.io.VarLenFeature(tf.int64)} if with_labels else {}
    # The context is the field that a tf.Example has its features in.
    context = tf.io.parse_example(serialized, {**_ID_FEATURES, **wanted})
    parsed = {"video_ids": _video_id(context)}
    if with_labels:
      parsed["labels"] = _dense_labels(
        context["labels"], tf.shape(serialized)[0], self.num_classes
      )
    return parsed

  def parse_batch(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses (batch,) records into a batch without labels, for serving."""
    frames, num_frames = self._parse_frames(serialized)
    return {
      **self._parse_context(serialized, with_labels=False),
      "video_matrix": frames[:, : self.max_frames],
      "num_frames": tf.minimum(num_frames, self.max_frames),
    }

  def parse_segments(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a scalar record into its rated segments, in order of rating.

    Several ratings of one start time are one segment. Frames past the end of
    the video are padding.
    """
    times = tf.io.VarLenFeature(tf.int64)
    context, frames = self._parse(
      serialized,
      {
        "segment_start_times": times,
        "segment_labels": times,
        "segment_scores": tf.io.VarLenFeature(tf.float32),
      },
    )
    starts, segment_of_rating = tf.unique(context["segment_start_times"].values)
    num_segments = tf.size(starts)
    num_frames = tf.shape(frames)[0]
    rated = tf.stack(
      [
        tf.cast(segment_of_rating, tf.int64),
        context["segment_labels"].values,
      ],
      axis=1,
    )
    shape = [num_segments, self.num_classes]
    positive = tf.boolean_mask(rated, context["segment_scores"].values > 0)
    first = tf.cast(starts, tf.int32)
    padded = tf.pad(frames, [[0, SEGMENT_FRAMES], [0, 0]])
    index = tf.minimum(
      first[:, tf.newaxis] + tf.range(SEGMENT_FRAMES), num_frames
    )
    return {
      "video_ids": tf.fill([num_segments], _video_id(context)),
      "video_matrix": tf.gather(padded, index),
      "num_frames": tf.clip_by_value(num_frames - first, 0, SEGMENT_FRAMES),
      "labels": _set_true(shape, positive),
      "label_weights": tf.cast(_set_true(shape, rated), tf.float32),
      "segment_start_times": starts,
    }

  def parse_every_segment(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a scalar record into all its segments, for prediction.

    Rated or not, there is one every 5 frames; the last may be shorter.
    """
    context, frames = self._parse(serialized, {})
    frames = frames[: self.max_frames]
    num_frames = tf.shape(frames)[0]
    num_segments = -(-num_frames // SEGMENT_FRAMES)
    padding = num_segments * SEGMENT_FRAMES - num_frames
    starts = tf.range(num_segments) * SEGMENT_FRAMES
    return {
      "video_ids": tf.fill([num_segments], _video_id(context)),
      "video_matrix": tf.reshape(
        tf.pad(frames, [[0, padding], [0, 0]]),
        [num_segments, SEGMENT_FRAMES, sum(self.feature_sizes)],
      ),
      "num_frames": tf.minimum(num_frames - starts, SEGMENT_FRAMES),
      "segment_start_times": tf.cast(starts, tf.int64),
    }

  def batches(
    self, records: tf.data.Dataset, batch_size: int, with_labels: bool
  ) -> tf.data.Dataset:
    """Batches a dataset of serialized records, keeping their order."""
    if self.segment_labels:
      parse = self.parse_segments if with_labels else self.parse_every_segment
      segments = records.map(
        _as_written(parse), num_parallel_calls=_PARALLEL_CALLS
      )
      return segments.unbatch().batch(batch_size)

    def parse(serialized):
      frames, num_frames = self._padded_frames(serialized)
      return {
        **self._parse_context(serialized, with_labels),
        "video_matrix": frames,
        "num_frames": num_frames,
      }

    # Python takes turns, so that more than two at once would only take memory.
    return (
      records.batch(batch_size)
      .prefetch(1)
      .map(_as_written(parse), num_parallel_calls=min(_HALF_THE_CORES, 2))
    )

  def _padded_frames(self, serialized):
    """The frames of (batch,) records, padded to a bucket, and their numbers."""
    if self.quantized:
      frames, num_frames = tf.numpy_function(
        lambda records: frame_records.cut_frames(
          records,
          self.feature_names,
          self.feature_sizes,
          self.max_frames,
          lambda frames: _bucket(frames, self.max_frames),
        ),
        [serialized],
        [tf.uint8, tf.int32],
        stateful=False,
      )
      frames = tf.ensure_shape(frames, [None, None, sum(self.feature_sizes)])
      return frames, tf.ensure_shape(num_frames, [None])
    frames, num_frames = self._parse_frames(serialized)
    num_frames = tf.minimum(num_frames, self.max_frames)
    buckets = tf.constant(frame_buckets(self.max_frames))
    longest = tf.reduce_max(num_frames)
    length = tf.gather(buckets, tf.searchsorted(buckets, [longest])[0])
    frames = frames[:, :length]
    missing = length - tf.shape(frames)[1]
    return tf.pad(frames, [[0, 0], [0, missing], [0, 0]]), num_frames


Reader = YT8MAggregatedFeatureReader | YT8MFrameFeatureReader


# --------------------------------------------------------------------------
# Files -> datasets of batches


def make_reader(
  model_flags: dict, kinds: list[str] | None = None, segment_labels=False
) -> Reader:
  """Makes the reader that the flags ask for.

  Args:
    model_flags: feature_names, feature_sizes, frame_features, num_classes and
      max_frames are used; see train_dir.py.
    kinds: see YT8MFrameFeatureReader.
    segment_labels: whether to read segments instead of whole videos.
  """
  names, sizes = get_feature_names_and_sizes(
    model_flags["feature_names"], model_flags["feature_sizes"]
  )
  if not model_flags["frame_features"]:
    return YT8MAggregatedFeatureReader(model_flags["num_classes"], sizes, names)
  return YT8MFrameFeatureReader(
    model_flags["num_classes"],
    sizes,
    names,
    model_flags["max_frames"],
    segment_labels,
    kinds,
  )


def open_reader(
  model_flags: dict, files: list[str], with_labels: bool, segment_labels=False
) -> Reader:
  """Makes the reader that the flags ask for and checks it against the data.

  Args:
    model_flags: see make_reader.
    files: the data; the first record of the first file that has one is read.
    with_labels: whether labels will be needed.
    segment_labels: whether to read segments instead of whole videos.

  Returns:
    A reader that knows which features are floats.

  Raises:
    errors.UserError: the record is not what the flags say, or there is none.
  """
  if segment_labels and not model_flags["frame_features"]:
    raise errors.UserError(
      "Expected frame-level features with --segment_labels, received"
      " --frame_features=False. Segments are cut from frames: add"
      " --frame_features=True."
    )
  reader = make_reader(model_flags, segment_labels=segment_labels)
  is_empty = True
  for file in files:
    for number, serialized in numbered_records(file):
      is_empty = False
      _check_numbered(reader, file, number, serialized, with_labels)
      if reader.configure(serialized):
        return reader
  if not is_empty:
    return reader  # no video has a frame
  raise errors.UserError(
    f"Expected records in the {len(files)} files from {files[0]}, found none:"
    " all are empty. Name other files, or make them anew."
  )


def estimate_num_videos(files: list[str], sampled=64) -> int:
  """Estimates how many records files hold, from their sizes.

  Args:
    files: TFRecord files.
    sampled: how many records of the first file to take the mean size of.

  Returns:
    A number for progress bars only: right if records are alike.
  """
  sizes = [
    len(serialized) + 16  # TFRecord adds a length and two checksums
    for serialized in (
      tf.data.TFRecordDataset(files).take(sampled).as_numpy_iterator()
    )
  ]
  num_bytes = sum(tf.io.gfile.stat(file).length for file in files)
  return round(num_bytes / (sum(sizes) / len(sizes)))


def _has_large_local_records(reader, files) -> bool:
  """Whether reading is work for the processor, in large pieces."""
  is_local = all("://" not in file for file in files)
  return is_local and isinstance(reader, YT8MFrameFeatureReader)


def _read_buffer_bytes(reader, files) -> int:
  return 0 if _has_large_local_records(reader, files) else _READ_BUFFER_BYTES


def _interleave(reader, paths, files, num_readers, skips=False):
  """The records of the paths, num_readers files at a time, in a fixed order.

  With skips, where the first ones are left out, they are read as fast as can
  be: nothing else is to be done until there is one that counts.
  """
  cycle_length = min(num_readers, len(files))
  buffer_size = _read_buffer_bytes(reader, files)
  shares_cores = _has_large_local_records(reader, files) and not skips
  calls = _HALF_THE_CORES if shares_cores else _PARALLEL_CALLS
  calls = min(calls, cycle_length)
  return paths.interleave(
    _as_written(
      lambda path: tf.data.TFRecordDataset(path, buffer_size=buffer_size)
    ),
    cycle_length=cycle_length,
    # A single call at a time is made without threads, and in the same order.
    num_parallel_calls=calls if calls > 1 else None,
    deterministic=True if calls > 1 else None,
  )


def _epoch_records(
  reader,
  files,
  epoch,
  seed,
  num_readers,
  shuffle_buffer,
  worker,
  num_workers,
  skips,
):
  """One epoch's serialized records in an order that seed and epoch decide.

  Machines share the files out. Where these do not divide evenly, other machines
  get one more in the next epoch.
  """
  epoch_seed = tf.constant(seed, tf.int64) * 1_000_003 + epoch
  paths = tf.data.Dataset.from_tensor_slices(files).shuffle(
    len(files), seed=epoch_seed, reshuffle_each_iteration=False
  )
  paths = paths.shard(num_workers, (worker + epoch) % num_workers)
  records = _interleave(reader, paths, files, num_readers, skips)
  return records.shuffle(
    shuffle_buffer, seed=epoch_seed, reshuffle_each_iteration=False
  )


def training_batches(
  reader: Reader,
  files: list[str],
  batch_size: int,
  num_epochs: int | None = None,
  seed: int = 0,
  skip_examples: int = 0,
  num_readers: int = 8,
  worker: int = 0,
  num_workers: int = 1,
) -> tf.data.Dataset:
  """Shuffled batches with labels, in an order that only the seed decides.

  The order of a record is that of its shard in the epoch's own order of
  shards, read num_readers at a time and shuffled in a buffer of five batches.
  A batch may span two epochs; only the last one may be smaller.

  Args:
    reader: as from open_reader.
    files: TFRecord files.
    batch_size: examples a batch.
    num_epochs: times each record is read; None or 0 for without end.
    seed: decides the order.
    skip_examples: how many examples of that order to leave out, so that a
      resumed run goes on where it was; they are read but not parsed.
    num_readers: files read at the same time.
    worker: which of several machines this is, from 0 on.
    num_workers: how many there are; each reads files of its own.

  Returns:
    A dataset of batches, see this module's docstring.
  """
  epochs = (
    tf.data.Dataset.range(num_epochs)
    if num_epochs
    else tf.data.Dataset.counter()
  )
  records = epochs.flat_map(
    _as_written(
      lambda epoch: _epoch_records(
        reader,
        files,
        epoch,
        seed,
        num_readers,
        5 * batch_size,
        worker,
        num_workers,
        skip_examples > 0,
      )
    )
  )
  if reader.one_example_per_record:
    batches = reader.batches(records.skip(skip_examples), batch_size, True)
  else:
    # How many segments a record holds is known only once it is parsed.
    batches = (
      reader.batches(records, 1, True)
      .unbatch()
      .skip(skip_examples)
      .batch(batch_size)
    )
  return batches.prefetch(2)


def evaluation_batches(
  reader: Reader,
  files: list[str],
  batch_size: int,
  with_labels: bool = True,
  num_readers: int = 8,
) -> tf.data.Dataset:
  """Every example once, the last batch perhaps smaller.

  Args:
    reader: as from open_reader.
    files: TFRecord files.
    batch_size: examples a batch.
    with_labels: False for prediction: the records need no labels then.
    num_readers: files read at the same time; 1 keeps the order of the files
      and of the records in them.

  Returns:
    A dataset of batches, see this module's docstring.
  """
  if num_readers > 1:
    records = _interleave(
      reader, tf.data.Dataset.from_tensor_slices(files), files, num_readers
    )
  else:
    records = tf.data.TFRecordDataset(
      files, buffer_size=_read_buffer_bytes(reader, files)
    )
  return reader.batches(records, batch_size, with_labels).prefetch(2)


# --------------------------------------------------------------------------
# Naming the record that broke a pipeline


def numbered_records(file: str):
  """Yields (number, bytes) of a file's records; a damaged one is an error."""
  number = 0
  try:
    for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
      yield number, serialized
      number += 1
  except tf.errors.DataLossError as error:
    raise errors.UserError(
      f"{file}, record {number}: expected a whole TFRecord, received a damaged"
      " or cut off one, or the file is no TFRecord file. Fetch or make the"
      " file anew."
    ) from error


def _check_numbered(reader, file, number, serialized, with_labels) -> None:
  try:
    reader.check_record(serialized, with_labels)
  except errors.UserError as error:
    raise errors.UserError(f"{file}, record {number}: {error}.") from error


def check_labels(file: str, number: int, context, num_classes: int) -> None:
  """Raises errors.UserError if a record has no usable labels.

  Args:
    file: for the message.
    number: of the record, for the message.
    context: its features, by name.
    num_classes: classes of the data.
  """
  found = {name: _found_feature(value) for name, value in context.items()}
  labels = context["labels"].int64_list.value if "labels" in found else []
  try:
    _check_common(found, labels, num_classes, needs_labels=True)
  except errors.UserError as error:
    raise errors.UserError(f"{file}, record {number}: {error}.") from error


def raise_for_bad_record(
  reader: Reader, files: list[str], with_labels: bool
) -> None:
  """Finds the record that made a pipeline fail, and says what is wrong.

  The pipeline itself carries no file names, so that it stays fast; when it
  fails, the files are read again here: first the head of each, where a wrong
  file shows, then all of them.

  Raises:
    errors.UserError: names file, record number (from 0) and what is wrong.
      Returns without one if every record is good.
  """
  logging.info("A record could not be read; looking for it in the data.")
  for file in files:
    for number, serialized in numbered_records(file):
      _check_numbered(reader, file, number, serialized, with_labels)
      break
  for index, file in enumerate(files):
    if index % 10 == 0 and index:
      logging.info("Checked %d of %d files.", index, len(files))
    for number, serialized in numbered_records(file):
      _check_numbered(reader, file, number, serialized, with_labels)


def numeric_part(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """A batch without what only names its examples, strings among it.

  XLA cannot compile strings, and a GPU cannot hold them.
  """
  names = ("video_ids", "segment_start_times")
  return {name: value for name, value in batch.items() if name not in names}


READ_ERRORS = (
  tf.errors.InvalidArgumentError,
  tf.errors.DataLossError,
  UnicodeDecodeError,  # from a message that quotes the bytes of the record
)
"""What reading a bad record raises; answer it with raise_for_bad_record."""
