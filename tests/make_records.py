"""Serialized records of either level, and files of them."""

import numpy as np
import tensorflow as tf


def _fill(feature, values) -> None:
  """Sets a tf.train.Feature to bytes, floats or integers."""
  if isinstance(values, bytes):
    feature.bytes_list.value.append(values)
    return
  values = np.asarray(values)
  if values.dtype == np.uint8:
    feature.bytes_list.value.append(values.tobytes())
  elif values.dtype.kind == "f":
    feature.float_list.value.extend(values.tolist())
  else:
    feature.int64_list.value.extend(values.astype(np.int64).tolist())


def _bytes_of(video_id: str | bytes) -> bytes:
  return video_id.encode() if isinstance(video_id, str) else video_id


def video_record(video_id, labels=None, id_name="id", **features) -> bytes:
  """A serialized tf.Example; features are floats, or integers."""
  example = tf.train.Example()
  _fill(example.features.feature[id_name], _bytes_of(video_id))
  if labels is not None:
    _fill(example.features.feature["labels"], np.array(labels, np.int64))
  for name, values in features.items():
    _fill(example.features.feature[name], values)
  return example.SerializeToString(deterministic=True)


def frame_record(
  video_id, labels=None, id_name="id", context=None, **features
) -> bytes:
  """A serialized tf.SequenceExample.

  Args:
    video_id: its id.
    labels: class indices, or None for a record without the key.
    id_name: key of the id.
    context: {name: values} of further context features.
    **features: for each feature list its frames: arrays, each uint8 for
      bytes or float.
  """
  record = tf.train.SequenceExample()
  _fill(record.context.feature[id_name], _bytes_of(video_id))
  if labels is not None:
    _fill(record.context.feature["labels"], np.array(labels, np.int64))
  for name, values in (context or {}).items():
    _fill(record.context.feature[name], values)
  for name, frames in features.items():
    feature_list = record.feature_lists.feature_list[name]
    for frame in frames:
      _fill(feature_list.feature.add(), frame)
  return record.SerializeToString(deterministic=True)


def segment_record(video_id, ratings, **features) -> bytes:
  """A frame_record with rated segments.

  Args:
    video_id: its id.
    ratings: (start time, class, score) of each rating.
    **features: see frame_record.
  """
  starts = np.array([start for start, _, _ in ratings], np.int64)
  context = {
    "segment_start_times": starts,
    "segment_end_times": starts + 5,
    "segment_labels": np.array([index for _, index, _ in ratings], np.int64),
    "segment_scores": np.array([score for _, _, score in ratings], np.float32),
  }
  return frame_record(video_id, [0], context=context, **features)


def write_records(path, records) -> str:
  """Writes a TFRecord file; returns its path."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return str(path)


# --------------------------------------------------------------------------
# Small records: 3 numbers of one feature, 2 of another, 5 classes

SMALL_NUM_CLASSES = 5
SMALL_VIDEO_FLAGS = {
  "feature_names": "mean_rgb,mean_audio",
  "feature_sizes": "3,2",
  "frame_features": False,
  "num_classes": SMALL_NUM_CLASSES,
  "max_frames": 300,
}
SMALL_FRAME_FLAGS = {
  **SMALL_VIDEO_FLAGS,
  "feature_names": "rgb,audio",
  "frame_features": True,
}


def bytes_of(length, size, first=0):
  """(length, size) bytes, all different from their neighbors."""
  values = first + np.arange(length * size)
  return (values % 251).astype(np.uint8).reshape(length, size)


def small_video(video_id, labels=(1,), **changes):
  """A good record for SMALL_VIDEO_FLAGS; changes replace or add features."""
  features = {"mean_rgb": [0.5, 1.0, -1.0], "mean_audio": [0.25, 2.0]}
  features.update(changes)
  return video_record(
    video_id,
    labels,
    **{name: value for name, value in features.items() if value is not None},
  )


def small_frames(video_id, length=3, labels=(1,), **changes):
  """A good record for SMALL_FRAME_FLAGS; changes replace or add features."""
  features = {"rgb": bytes_of(length, 3), "audio": bytes_of(length, 2, 100)}
  features.update(changes)
  return frame_record(
    video_id,
    labels,
    **{name: value for name, value in features.items() if value is not None},
  )
