"""Tests of records.apart, and of records.frames.frames_by_name."""

import numpy as np
import pytest
import tensorflow as tf
from make_records import bytes_of, frame_record, segment_record, video_record

from records import apart, frames, messages, writing


def take(record: bytes) -> apart.Apart:
  return apart.take_apart(memoryview(record))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_features_come_back_as_they_are_stored(dtype):
  vector = np.arange(6).astype(dtype)
  matrix = np.arange(12).astype(dtype).reshape(4, 3)

  video = take(writing.video_record(b"v", [3, 1], {"x": vector}))
  assert (video.video_id, video.labels) == (b"v", [1, 3])
  assert not video.is_frame_level
  assert video.num_frames == 0
  assert video.features.keys() == {"x"}
  assert video.features["x"].dtype == dtype
  np.testing.assert_array_equal(video.features["x"], vector)

  video = take(writing.frame_record(b"v", None, {"x": matrix, "y": matrix}))
  assert video.labels is None
  assert video.is_frame_level
  assert video.num_frames == 4
  assert video.features.keys() == {"x", "y"}
  assert video.features["y"].dtype == dtype
  np.testing.assert_array_equal(video.features["y"], matrix)


def test_records_of_the_official_forms():
  video = take(video_record("a", [5], mean_rgb=[0.5, -1.0], mean_audio=[2.0]))
  np.testing.assert_array_equal(video.features["mean_rgb"], [0.5, -1.0])
  np.testing.assert_array_equal(video.features["mean_audio"], [2.0])
  assert (video.labels, video.ratings) == ([5], [])

  rgb = np.arange(6, dtype=np.uint8).reshape(2, 3)
  video = take(segment_record("b", [(5, 7, 1.0), (5, 8, 0.0)], rgb=rgb))
  assert video.has_numbers
  assert video.ratings == [(5, 7, 1.0), (5, 8, 0.0)]
  np.testing.assert_array_equal(video.features["rgb"], rgb)

  context = {"start_time_seconds": np.array([30.0], np.float32)}
  video = take(frame_record("c", [1], "video_id", context, audio_embedding=rgb))
  assert video.video_id == b"c"
  assert video.features.keys() == {"audio_embedding"}


def test_another_layout_gives_the_same():
  """Two parts of a message are merged, as protobuf does."""
  matrix = np.arange(12, dtype=np.float16).reshape(4, 3)
  record = writing.frame_record(b"v", [1], {"x": matrix})
  other = record + writing.frame_record(b"v", [1], {"x": matrix})
  np.testing.assert_array_equal(take(other).features["x"], matrix)
  _, found = frames.frames_by_name(memoryview(other))
  assert found["x"].dtype == np.float16
  for floats in (np.float32, np.uint8):
    part = writing.frame_record(b"v", [1], {"x": matrix.astype(floats)})
    _, found = frames.frames_by_name(memoryview(part + part))
    np.testing.assert_array_equal(found["x"], matrix)


def test_videos_without_frames():
  video = take(frame_record("v", [1], rgb=[]))
  assert video.is_frame_level
  assert video.num_frames == 0
  assert not video.has_numbers


@pytest.mark.parametrize(
  ("record", "kind"),
  [
    (b"no record", "not an Example"),
    (b"", "missing feature"),
    (
      frame_record("v", [1], rgb=[np.zeros(3, np.uint8)])[:-1],
      "not an Example",
    ),
    (video_record("v", [-1], x=[1.0]), "label out of range"),
    (video_record("v", [1 << 40], x=[1.0]), "label out of range"),
    (frame_record("v", context={"labels": np.array([0.5])}), "wrong type"),
    (
      frame_record("v", [1], rgb=[*bytes_of(1, 3), *bytes_of(1, 2)]),
      "wrong size",
    ),
    (
      frame_record("v", [1], rgb=[*bytes_of(1, 3), np.zeros(3)]),
      "wrong size",
    ),
    (frame_record("v", [1], rgb=[np.arange(3)]), "wrong size"),
    (
      frame_record(
        "v",
        [1],
        rgb=bytes_of(2, 3),
        audio=bytes_of(1, 3),
      ),
      "different lengths",
    ),
    (
      frame_record(
        "v",
        [1],
        context={"rgb/dtype": b"float16"},
        rgb=bytes_of(2, 3),
      ),
      "wrong size",
    ),
    (
      frame_record("v", [1], context={"x/dtype": b"float16", "x": b"abc"}),
      "wrong size",
    ),
  ],
)
def test_what_cannot_be_taken_apart(record, kind):
  with pytest.raises(messages.BadRecordError) as raised:
    take(record)
  assert raised.value.kind == kind


def test_several_byte_strings_are_no_vector():
  example = tf.train.Example()
  for name, values in {
    "id": [b"v"],
    "x": [b"abc", b"de"],
    "x/dtype": [b"uint8"],
  }.items():
    example.features.feature[name].bytes_list.value.extend(values)
  with pytest.raises(messages.BadRecordError) as raised:
    take(example.SerializeToString())
  assert raised.value.kind == "wrong size"
  assert str(raised.value) == (
    "expected one value in the feature x, found x (3 bytes in the first of 2"
    " values); make the record again"
  )
