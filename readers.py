"""Records -> batches, for training, evaluation and prediction.

The batch is the one contract between the data and everything else. It is a
dict of tensors that hold `batch` videos, or segments:

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
num_frames are padding. Frame features stay bytes until they are on the device,
where models.build_model dequantises them: this takes a quarter of the memory
and of the transfer. A batch is padded to its longest video, rounded up to one
of a few lengths so that few shapes are compiled.

Which records come when is decided in engine/data_order.py.
"""

import os

import tensorflow as tf

import errors
import quantization
from records import contents, shards
from records.frames import cut_frames

SEGMENT_FRAMES = 5  # a rated segment is 5 s, at one frame a second

# Not tf.data.AUTOTUNE, which needs many batches to find such a number.
PARALLEL_CALLS = (os.cpu_count() or 1) + 1
# Reading local files and cutting frames out of them take about the same time;
# more threads than cores only get into each other's way.
HALF_THE_CORES = max((os.cpu_count() or 1) // 2, 1)

# AutoGraph would rewrite each function for tf.data, which takes a good part of
# a second.
as_written = tf.autograph.experimental.do_not_convert


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
  if not all(size.isdigit() and int(size) > 0 for size in sizes):
    raise errors.UserError(
      f"Expected whole numbers above 0 with commas between them, received"
      f" --feature_sizes={feature_sizes}. Give how many numbers each feature"
      " has."
    )
  return names, [int(size) for size in sizes]


# --------------------------------------------------------------------------
# Pure functions on tensors


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


def _video_id(features: dict[str, tf.Tensor]) -> tf.Tensor:
  """Takes the id; the 2017 release and older tools call its key video_id."""
  return tf.where(features["id"] == "", features["video_id"], features["id"])


_ID_FEATURES = {
  "id": tf.io.FixedLenFeature([], tf.string, default_value=""),
  "video_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
}


def _dense_labels(labels, num_videos, num_classes: int) -> tf.Tensor:
  """Turns a sparse (videos, labels) int64 tensor into (videos, classes) bool.

  It fails if a class is out of range.
  """
  dense = _set_true(
    [num_videos, num_classes],
    tf.stack([labels.indices[:, 0], labels.values], axis=1),
  )
  return tf.ensure_shape(dense, [None, num_classes])


def _set_true(shape, indices: tf.Tensor) -> tf.Tensor:
  """Makes a bool tensor that is True at the (n, rank) indices.

  It fails if one is out of range.
  """
  return tf.tensor_scatter_nd_update(
    tf.zeros(shape, tf.bool), indices, tf.ones(tf.shape(indices)[:1], tf.bool)
  )


# --------------------------------------------------------------------------
# The two readers


class YT8MAggregatedFeatureReader:
  """Reads video-level records: tf.Examples with one vector for each feature.

  Attributes:
    kinds: None; see YT8MFrameFeatureReader.
    quantized: whether video_matrix holds bytes; always False at this level.
    one_example_per_record: True: skipping a record skips one video.
    for_trained: whether a trained model has fixed the flags, so that errors
      advise to name other files.
  """

  for_trained = False
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
    """Raises errors.UserError if a record is not what the flags say."""
    record = contents.parse_record(serialized)
    contents.check_video_features(
      record, self.feature_names, self.feature_sizes, self.for_trained
    )
    contents.check_id(record)
    if with_labels:
      contents.check_labels(record, self.num_classes, self.for_trained)

  def configure(self, serialized: bytes) -> bool:
    """Does nothing, because nothing depends on the records at this level."""
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
      as_written(lambda serialized: self.parse_batch(serialized, with_labels)),
      num_parallel_calls=PARALLEL_CALLS,
    )


class YT8MFrameFeatureReader:
  """Reads frame-level records: SequenceExamples with one value for each frame.

  With segment_labels, a record gives one example for each rated segment.

  Attributes:
    kinds: "bytes" or "float" for each feature; see `configure`.
    quantized: whether video_matrix holds bytes.
    one_example_per_record: whether each record gives exactly one example.
    for_trained: see YT8MAggregatedFeatureReader.
  """

  for_trained = False

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
      num_classes: number of classes of the data.
      feature_sizes: how many numbers a frame of each feature has.
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
    """True if all features are stored as bytes: a batch then holds uint8."""
    return all(kind == "bytes" for kind in self.kinds)

  @property
  def one_example_per_record(self) -> bool:
    """False with segments: a record gives an example for each rated segment."""
    return not self.segment_labels

  def configure(self, serialized: bytes) -> bool:
    """Finds out from a checked record which features are floats.

    Returns:
      Whether the record shows it: one without frames does not.
    """
    lists = contents.frame_features(contents.parse_record(serialized))
    if any(lists[name].frames == 0 for name in self.feature_names):
      return False
    self.kinds = [lists[name].kind for name in self.feature_names]
    self._is_configured = True
    return True

  def check_record(self, serialized: bytes, with_labels: bool) -> None:
    """Raises errors.UserError if a record is not what the flags say."""
    record = contents.parse_record(serialized)
    contents.check_frame_features(
      record,
      self.feature_names,
      self.feature_sizes,
      self.kinds if self._is_configured else None,
      self.for_trained,
    )
    contents.check_id(record)
    if with_labels and self.segment_labels:
      contents.check_segments(record, self.num_classes, self.for_trained)
    elif with_labels:
      contents.check_labels(record, self.num_classes, self.for_trained)

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
          column = quantization.dequantize(tf.cast(column, tf.float32))
      # Not ensure_shape: without frames, decode_raw's last axis is 0, not size.
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
      if kind == "bytes":  # decode_raw needs padding as long as the rest
        lists[name] = tf.where(lists[name] == "", bytes(size), lists[name])
    with tf.control_dependencies(equal):
      frames = self._side_by_side(lists)
    return frames, tf.cast(num_frames[0], tf.int32)

  def _parse_context(self, serialized, with_labels):
    """Parses what (batch,) records hold besides frames."""
    wanted = {"labels": tf.io.VarLenFeature(tf.int64)} if with_labels else {}
    # The context is the field in which a tf.Example has its features.
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

    All ratings of one start time are one segment. Frames past the end of the
    video are padding.
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

    There is one every 5 frames, rated or not; the last may be shorter.
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
        as_written(parse), num_parallel_calls=PARALLEL_CALLS
      )
      return segments.unbatch().batch(batch_size)

    def parse(serialized):
      frames, num_frames = self._padded_frames(serialized)
      return {
        **self._parse_context(serialized, with_labels),
        "video_matrix": frames,
        "num_frames": num_frames,
      }

    # Python runs one at a time: more than two would only take memory.
    return (
      records.batch(batch_size)
      .prefetch(1)
      .map(as_written(parse), num_parallel_calls=min(HALF_THE_CORES, 2))
    )

  def _padded_frames(self, serialized):
    """Cuts out the frames of (batch,) records, padded to a bucket."""
    if self.quantized:
      frames, num_frames = tf.numpy_function(
        lambda records: cut_frames(
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
# Flags and files -> a reader


def make_reader(
  model_flags: dict, kinds: list[str] | None = None, segment_labels=False
) -> Reader:
  """Makes the reader that the flags ask for.

  Args:
    model_flags: feature_names, feature_sizes, frame_features, num_classes and
      max_frames are used; see model_flags.json.
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
  model_flags: dict,
  files: list[str],
  with_labels: bool,
  segment_labels: bool = False,
  for_trained: bool = False,
) -> Reader:
  """Makes the reader that the flags ask for and checks it against the data.

  Args:
    model_flags: see make_reader.
    files: the data; the first record of the first file that has one is read.
    with_labels: whether labels will be needed.
    segment_labels: whether to read segments instead of whole videos.
    for_trained: whether a trained model has fixed the flags.

  Returns:
    A reader that knows which features are floats.

  Raises:
    errors.UserError: the record is not what the flags say, or there is none.
  """
  if segment_labels and not model_flags["frame_features"]:
    received, advice = "--frame_features=False", "add --frame_features=True"
    if for_trained:
      received, advice = "a video-level model", "leave out --segment_labels"
    raise errors.UserError(
      f"Expected frame-level features with --segment_labels, received"
      f" {received}. Segments are cut from frames: {advice}."
    )
  reader = make_reader(model_flags, segment_labels=segment_labels)
  reader.for_trained = for_trained
  is_empty = True
  for file in files:
    for number, serialized in shards.numbered_records(file):
      is_empty = False
      with shards.naming_record(file, number):
        reader.check_record(serialized, with_labels)
      if reader.configure(serialized):
        return reader
  if not is_empty:
    return reader  # no video has a frame
  raise errors.UserError(
    f"Expected records in the {len(files)} files from {files[0]} on, found"
    " none: all are empty. Name other files, or make these again."
  )


def numeric_part(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Returns a batch without the entries that only name its examples.

  These hold strings, which XLA cannot compile and a GPU cannot hold.
  """
  names = ("video_ids", "segment_start_times")
  return {name: value for name, value in batch.items() if name not in names}
