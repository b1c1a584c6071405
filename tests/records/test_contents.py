"""Tests of records.contents."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, error_of, read_batches
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  bytes_of,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

from engine.data import Data
from records import contents, messages

# Bad data. Each of BAD is (records around a bad one, flags, what the message
# must hold).

GOOD_VIDEO = small_video("good")
GOOD_FRAMES = small_frames("good")


def changed_video(name, **values):
  """GOOD_VIDEO with another feature of this name."""
  record = tf.train.Example.FromString(GOOD_VIDEO)
  record.features.feature[name].CopyFrom(tf.train.Feature(**values))
  return record.SerializeToString()


def two_values_in_a_frame():
  record = tf.train.SequenceExample.FromString(GOOD_FRAMES)
  frame = record.feature_lists.feature_list["rgb"].feature[1]
  frame.bytes_list.value.append(b"abc")
  return record.SerializeToString()


BAD = {
  "a number as the id": (
    GOOD_VIDEO,
    changed_video("id", int64_list=tf.train.Int64List(value=[7])),
    SMALL_VIDEO_FLAGS,
    ["expected one name in the feature id", "id (1 int64)"],
  ),
  "two ids": (
    GOOD_VIDEO,
    changed_video("id", bytes_list=tf.train.BytesList(value=[b"a", b"b"])),
    SMALL_VIDEO_FLAGS,
    ["expected one name in the feature id", "found 2 values"],
  ),
  "names as labels": (
    GOOD_VIDEO,
    changed_video("labels", bytes_list=tf.train.BytesList(value=[b"cat"])),
    SMALL_VIDEO_FLAGS,
    ["expected class indices (int64) in the feature labels", "3 bytes"],
  ),
  "two of exclusive classes": (
    GOOD_VIDEO,
    small_video("two", labels=(1, 3, 1)),
    {**SMALL_VIDEO_FLAGS, "exclusive_classes": True},
    ["exactly one label", "--exclusive_classes, found 2: 1, 3; leave this"],
  ),
  "none of exclusive classes": (
    GOOD_VIDEO,
    small_video("none", labels=()),
    {**SMALL_VIDEO_FLAGS, "exclusive_classes": True},
    ["exactly one label", "--exclusive_classes, found none; leave this"],
  ),
  "two of exclusive classes of frames": (
    GOOD_FRAMES,
    small_frames("two", labels=(4, 0)),
    {**SMALL_FRAME_FLAGS, "exclusive_classes": True},
    ["exactly one label", "--exclusive_classes, found 2: 0, 4; leave this"],
  ),
  "none of exclusive classes of frames": (
    GOOD_FRAMES,
    small_frames("none", labels=()),
    {**SMALL_FRAME_FLAGS, "exclusive_classes": True},
    ["exactly one label", "--exclusive_classes, found none; leave this"],
  ),
  "two of a subset of exclusive classes": (
    small_video("one", labels=(0, 1, 2)),
    small_video("two", labels=(0, 1, 3)),
    {
      **SMALL_VIDEO_FLAGS,
      "exclusive_classes": True,
      "label_subset": [1, 3, 4],
    },
    ["exactly one label", "--exclusive_classes, found 2: 1, 3; leave this"],
  ),
  "two values in a frame": (
    GOOD_FRAMES,
    two_values_in_a_frame(),
    SMALL_FRAME_FLAGS,
    ["in every frame of the feature rgb", "the first of 2 values in frame 1"],
  ),
  "not a number": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1.0, float("nan"), 1.0]),
    SMALL_VIDEO_FLAGS,
    ["expected finite numbers in the feature mean_rgb, found nan"],
  ),
  "too large a number": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1.0, 3e38, 1.0]),
    SMALL_VIDEO_FLAGS,
    ["squares add up to a float32 number", "3e+38"],
  ),
  "missing feature": (
    GOOD_VIDEO,
    small_video("bad", mean_audio=None, sound=[1.0]),
    SMALL_VIDEO_FLAGS,
    [
      "expected the feature mean_audio (--feature_names)",
      "mean_rgb (3 float)",
      "sound (1 float)",
      "change --feature_names",
    ],
  ),
  "missing frame feature": (
    GOOD_FRAMES,
    small_frames("bad", audio=None, sound=bytes_of(3, 9)),
    SMALL_FRAME_FLAGS,
    [
      "expected the feature audio (--feature_names)",
      "rgb (3 frames of 3 bytes)",
      "sound (3 frames of 9 bytes)",
    ],
  ),
  "wrong size": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1.0] * 4),
    SMALL_VIDEO_FLAGS,
    [
      "expected 3 numbers in the feature mean_rgb",
      "mean_rgb (4 float)",
      "--feature_sizes",
    ],
  ),
  "wrong frame size": (
    GOOD_FRAMES,
    small_frames("bad", rgb=bytes_of(3, 4)),
    SMALL_FRAME_FLAGS,
    [
      "expected 3 numbers in the feature rgb",
      "rgb (3 frames of 4 bytes)",
      "--feature_sizes",
    ],
  ),
  "a frame of another size": (
    GOOD_FRAMES,
    small_frames("bad", rgb=[*bytes_of(2, 3), np.zeros(4, np.uint8)]),
    SMALL_FRAME_FLAGS,
    ["expected 3 numbers in every frame of the feature rgb"],
  ),
  "unequal frame counts": (
    GOOD_FRAMES,
    small_frames("bad", audio=bytes_of(2, 2)),
    SMALL_FRAME_FLAGS,
    [
      "equally many frames in each feature",
      "rgb (3 frames of 3 bytes)",
      "audio (2 frames of 2 bytes)",
    ],
  ),
  "integers instead of floats": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1, 2, 3]),
    SMALL_VIDEO_FLAGS,
    ["expected float in the feature mean_rgb", "mean_rgb (3 int64)"],
  ),
  "frame-level record read as video-level": (
    GOOD_VIDEO,
    GOOD_FRAMES,
    SMALL_VIDEO_FLAGS,
    [
      "this is a frame-level record",
      "rgb (3 frames of 3 bytes)",
      "add --frame_features=True if all are, else name files of one level",
    ],
  ),
  "video-level record read as frame-level": (
    GOOD_FRAMES,
    GOOD_VIDEO,
    SMALL_FRAME_FLAGS,
    [
      "this is a video-level record",
      "mean_rgb (3 float)",
      "leave out --frame_features if all are, else name files of one level",
    ],
  ),
  "class too large": (
    GOOD_VIDEO,
    small_video("bad", labels=[1, 5]),
    SMALL_VIDEO_FLAGS,
    ["from 0 to 4 in labels, found 5", "--num_classes"],
  ),
  "class below zero": (
    GOOD_FRAMES,
    small_frames("bad", labels=[-1]),
    SMALL_FRAME_FLAGS,
    ["from 0 to 4 in labels, found -1"],
  ),
  "no record at all": (
    GOOD_FRAMES,
    b"\xff\xff no protocol buffer",
    SMALL_FRAME_FLAGS,
    ["expected a tf.train.Example or SequenceExample", "21 bytes"],
  ),
}


def train_on(data):
  """Reads every training batch as the programs do."""
  with data.naming_errors():
    return list(data.training_batches(2, num_epochs=1))


@pytest.mark.parametrize("name", BAD)
def test_bad_first_record(tmp_path, name):
  _, bad, model_flags, parts = BAD[name]
  file = write_records(tmp_path / "a", [bad])
  text = error_of(Data, model_flags, [file], True)
  assert_names(text, f"{file}, record 0: ", *parts)


@pytest.mark.parametrize("name", BAD)
def test_bad_record_in_the_middle_of_the_second_file(tmp_path, name):
  good, bad, model_flags, parts = BAD[name]
  files = [
    write_records(tmp_path / "first", [good] * 70),
    write_records(tmp_path / "second", [good, good, bad, good]),
  ]
  data = Data(model_flags, files, True)
  for read in (read_batches, train_on):
    text = error_of(read, data)
    assert_names(text, f"{files[1]}, record 2: ", *parts)


@pytest.mark.parametrize("model_flags", [SMALL_VIDEO_FLAGS, SMALL_FRAME_FLAGS])
def test_no_labels_in_training(tmp_path, model_flags):
  make = small_frames if model_flags["frame_features"] else small_video
  file = write_records(tmp_path / "a", [make("one", labels=None)])
  text = error_of(Data, model_flags, [file], True)
  assert_names(
    text,
    f"{file}, record 0: expected the feature labels",
    "id (3 bytes)",
    "the test split has none",
  )


@pytest.mark.parametrize("model_flags", [SMALL_VIDEO_FLAGS, SMALL_FRAME_FLAGS])
def test_no_id(tmp_path, model_flags):
  make = small_frames if model_flags["frame_features"] else small_video
  record = tf.train.SequenceExample.FromString(make("one"))
  del record.context.feature["id"]
  file = write_records(tmp_path / "a", [record.SerializeToString()])
  text = error_of(Data, model_flags, [file], True)
  assert_names(
    text, "expected the feature id (or video_id)", "labels (1 int64)"
  )


def test_a_label_that_is_there_twice_is_one():
  contents.check_one_label([3, 3])
  contents.check_one_label([3, 1, 2], subset=[2, 5])
  with pytest.raises(messages.BadRecordError) as error:
    contents.check_one_label(range(100), for_trained=True)
  text = str(error.value)
  assert_names(text, "found 100: 0, 1, ", "19, ...; name files like those that")
  assert error.value.kind == "not one label"


def test_a_message_does_not_list_thousands_of_features():
  features = {
    f"{number:04d}" + "x" * 200: messages.Feature("int64", [1])
    for number in range(5000)
  }
  text = contents.listing(features)
  assert text.startswith("0000" + "x" * 96 + "... (1 int64), 0001")
  assert text.endswith(", 4980 more")
  assert len(text) < 3000


def test_a_segment_class_out_of_range(tmp_path):
  features = {"rgb": bytes_of(9, 3), "audio": bytes_of(9, 2)}
  file = write_records(
    tmp_path / "a",
    [
      *[segment_record("good", [(0, 4, 1.0)], **features)] * 70,
      # Rated as wrong, but still no class.
      segment_record("bad", [(0, 5, 0.0)], **features),
    ],
  )
  data = Data(SMALL_FRAME_FLAGS, [file], True, True)
  text = error_of(read_batches, data)
  assert_names(
    text,
    f"{file}, record 70: ",
    "from 0 to 4 in segment_labels, found 5",
    "--num_classes",
  )


def test_a_segment_before_the_video(tmp_path):
  features = {"rgb": bytes_of(9, 3), "audio": bytes_of(9, 2)}
  file = write_records(
    tmp_path / "a",
    [
      *[segment_record("good", [(0, 4, 1.0)], **features)] * 70,
      segment_record("bad", [(0, 4, 1.0), (-5, 4, 1.0)], **features),
    ],
  )
  data = Data(SMALL_FRAME_FLAGS, [file], True, True)
  text = error_of(read_batches, data)
  assert_names(text, f"{file}, record 70: ", "segment_start_times", "-5")


def test_bytes_in_one_file_and_floats_in_another(tmp_path):
  floats = np.ones((3, 3), np.float32)
  files = [
    write_records(tmp_path / "bytes", [GOOD_FRAMES] * 70),
    write_records(
      tmp_path / "floats", [GOOD_FRAMES, small_frames("bad", rgb=floats)]
    ),
  ]
  data = Data(SMALL_FRAME_FLAGS, files, True)
  text = error_of(read_batches, data)
  assert_names(
    text,
    f"{files[1]}, record 1: ",
    "expected bytes in the feature rgb",
    "rgb (3 frames of 3 float)",
  )
