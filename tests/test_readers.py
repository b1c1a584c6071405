"""Tests of readers."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  frame_record,
  segment_record,
  video_record,
  write_records,
)
from hypothesis import given
from hypothesis import strategies as st

import errors
import readers

NUM_CLASSES = 5
VIDEO_FLAGS = {
  "feature_names": "mean_rgb,mean_audio",
  "feature_sizes": "3,2",
  "frame_features": False,
  "num_classes": NUM_CLASSES,
  "max_frames": 300,
}
FRAME_FLAGS = {
  **VIDEO_FLAGS,
  "feature_names": "rgb,audio",
  "frame_features": True,
}


# --------------------------------------------------------------------------
# Data made here


def bytes_of(length, size, first=0):
  """(length, size) bytes, all different from their neighbours."""
  values = first + np.arange(length * size)
  return (values % 251).astype(np.uint8).reshape(length, size)


def small_video(video_id, labels=(1,), **changes):
  """A good record for VIDEO_FLAGS; changes replace or add features."""
  features = {"mean_rgb": [0.5, 1.0, -1.0], "mean_audio": [0.25, 2.0]}
  features.update(changes)
  return video_record(
    video_id,
    labels,
    **{name: value for name, value in features.items() if value is not None},
  )


def small_frames(video_id, length=3, labels=(1,), **changes):
  """A good record for FRAME_FLAGS; changes replace or add features."""
  features = {"rgb": bytes_of(length, 3), "audio": bytes_of(length, 2, 100)}
  features.update(changes)
  return frame_record(
    video_id,
    labels,
    **{name: value for name, value in features.items() if value is not None},
  )


def read(reader, files, batch_size=100, with_labels=True, num_readers=1):
  """All batches of an evaluation, as dicts of arrays."""
  dataset = readers.evaluation_batches(
    reader, files, batch_size, with_labels, num_readers
  )
  return list(dataset.as_numpy_iterator())


def read_one(model_flags, files, with_labels=True, segment_labels=False):
  """(reader, the one batch) of files."""
  reader = readers.open_reader(model_flags, files, with_labels, segment_labels)
  (batch,) = read(reader, files, with_labels=with_labels)
  return reader, batch


def ids_of(batches):
  return [video_id.decode() for batch in batches for video_id in batch]


def error_of(function, *arguments, **keywords) -> str:
  """The text of the UserError that a call raises."""
  with pytest.raises(errors.UserError) as caught:
    function(*arguments, **keywords)
  return str(caught.value)


def assert_names(text, *parts):
  for part in parts:
    assert part in text


# --------------------------------------------------------------------------
# Golden values of the original code


def golden(shared_dir, name):
  expected = np.load(shared_dir / "golden" / "readers" / "expected.npz")
  file = str(shared_dir / "golden" / "readers" / f"{name}.tfrecord")
  return expected, [file]


def golden_flags(frame_features):
  return {
    "feature_names": "rgb,audio" if frame_features else "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
    "frame_features": frame_features,
    "num_classes": 3862,
    "max_frames": 300,
  }


def test_golden_frames(shared_dir):
  expected, files = golden(shared_dir, "frame")
  reader, batch = read_one(golden_flags(True), files)
  assert reader.quantized
  matrix, num_frames = batch["video_matrix"], batch["num_frames"]
  assert matrix.dtype == np.uint8
  assert list(matrix.shape) == expected["frame_matrix_shape"].tolist()
  np.testing.assert_array_equal(batch["video_ids"], expected["frame_ids"])
  np.testing.assert_array_equal(num_frames, expected["frame_num_frames"])
  assert num_frames.dtype == np.int32
  rows, classes = np.nonzero(batch["labels"])
  np.testing.assert_array_equal(rows, expected["frame_label_rows"])
  np.testing.assert_array_equal(classes, expected["frame_label_classes"])
  floats = readers.dequantize(matrix).numpy()
  videos = np.arange(len(matrix))
  np.testing.assert_allclose(
    floats[:, 0], expected["frame_first"], rtol=0, atol=1e-6
  )
  np.testing.assert_allclose(
    floats[videos, num_frames - 1], expected["frame_last"], rtol=0, atol=1e-6
  )
  valid = np.arange(300) < num_frames[:, np.newaxis]
  np.testing.assert_allclose(
    floats.sum(axis=2, dtype=np.float64) * valid,
    expected["frame_row_sum"],
    rtol=0,
    atol=1e-3,
  )


def test_golden_dequantize_table(shared_dir):
  expected, _ = golden(shared_dir, "frame")
  table = readers.dequantize(tf.range(256)).numpy()
  assert table.dtype == np.float32
  np.testing.assert_allclose(table, expected["dequantize_table"], atol=1e-6)


def test_golden_videos(shared_dir):
  expected, files = golden(shared_dir, "video")
  reader, batch = read_one(golden_flags(False), files)
  assert not reader.quantized
  np.testing.assert_array_equal(batch["video_ids"], expected["video_ids"])
  np.testing.assert_array_equal(batch["video_matrix"], expected["video_matrix"])
  assert batch["video_matrix"].dtype == np.float32
  np.testing.assert_array_equal(
    batch["num_frames"], expected["video_num_frames"]
  )
  rows, classes = np.nonzero(batch["labels"])
  np.testing.assert_array_equal(rows, expected["video_label_rows"])
  np.testing.assert_array_equal(classes, expected["video_label_classes"])


def test_golden_segments(shared_dir):
  expected, files = golden(shared_dir, "segment")
  _, batch = read_one(golden_flags(True), files, segment_labels=True)
  np.testing.assert_array_equal(batch["video_ids"], expected["segment_ids"])
  np.testing.assert_array_equal(
    batch["num_frames"], expected["segment_num_frames"]
  )
  np.testing.assert_allclose(
    readers.dequantize(batch["video_matrix"]),
    expected["segment_matrix"],
    rtol=0,
    atol=1e-6,
  )
  rows, classes = np.nonzero(batch["label_weights"])
  np.testing.assert_array_equal(rows, expected["segment_weight_rows"])
  np.testing.assert_array_equal(classes, expected["segment_weight_classes"])
  np.testing.assert_array_equal(
    batch["labels"][rows, classes], expected["segment_scores"]
  )
  assert batch["labels"].sum() == expected["segment_scores"].sum()


# --------------------------------------------------------------------------
# Flags and files


@pytest.mark.parametrize(
  ("names", "sizes"),
  [
    ("rgb,audio", "1024,128"),
    ("rgb, audio", "1024, 128"),
    (" rgb ,audio ", " 1024,128 "),
  ],
)
def test_feature_flags_may_hold_blanks(names, sizes):
  assert readers.get_feature_names_and_sizes(names, sizes) == (
    ["rgb", "audio"],
    [1024, 128],
  )


@pytest.mark.parametrize(
  ("names", "sizes", "parts"),
  [
    ("rgb,audio", "1024", ["2 names", "1 sizes", "--feature_sizes=1024"]),
    ("rgb", "1024,128", ["1 names", "2 sizes", "--feature_names=rgb"]),
    ("rgb,", "1024,128", ["--feature_names=rgb,"]),
    ("rgb,rgb", "1024,128", ["different", "--feature_names=rgb,rgb"]),
    ("rgb", "big", ["--feature_sizes=big"]),
    ("rgb", "0", ["--feature_sizes=0"]),
    ("rgb", "-4", ["--feature_sizes=-4"]),
    ("rgb", "10.5", ["--feature_sizes=10.5"]),
  ],
)
def test_feature_flags_that_cannot_be(names, sizes, parts):
  text = error_of(readers.get_feature_names_and_sizes, names, sizes)
  assert_names(text, *parts)


def test_find_files_sorts_and_joins_patterns(tmp_path):
  for name in ["b1", "a2", "a1", "c1"]:
    (tmp_path / name).touch()
  found = readers.find_files(f"{tmp_path}/b*, {tmp_path}/a*,{tmp_path}/a1", "x")
  assert found == [str(tmp_path / name) for name in ["a1", "a2", "b1"]]


def test_find_files_names_the_pattern_without_files(tmp_path):
  (tmp_path / "a1").touch()
  text = error_of(
    readers.find_files, f"{tmp_path}/a*,{tmp_path}/b*", "eval_data_pattern"
  )
  assert f"--eval_data_pattern={tmp_path}/b*" in text
  assert f"{tmp_path}/a*" not in text


@given(st.integers(1, 2000))
def test_frame_buckets(max_frames):
  buckets = readers.frame_buckets(max_frames)
  assert buckets[-1] == max_frames
  assert all(low < high for low, high in itertools.pairwise(buckets))
  assert all(length % 8 == 0 for length in buckets[:-1])
  # Padding is 7 frames at most up to 32 frames, then less than a half.
  for low, high in itertools.pairwise([0, *buckets]):
    assert high - low <= max(8, 0.5 * low)


def test_frame_buckets_of_the_dataset_are_few():
  assert readers.frame_buckets(300)[:5] == [8, 16, 24, 32, 40]
  assert len(readers.frame_buckets(300)) <= 14
  assert readers.frame_buckets(5) == [5]


# --------------------------------------------------------------------------
# What the pipelines give


def test_video_level_batch(tmp_path):
  file = write_records(
    tmp_path / "a",
    [
      video_record("one", [0, 4], mean_audio=[4.0, 5.0], mean_rgb=[1, 2, 3.0]),
      video_record("two", [], mean_audio=[9.0, 0.0], mean_rgb=[6, 7, 8.0]),
    ],
  )
  reader, batch = read_one(VIDEO_FLAGS, [file])
  assert reader.one_example_per_record
  assert set(batch) == {"video_ids", "video_matrix", "num_frames", "labels"}
  assert batch["video_ids"].tolist() == [b"one", b"two"]
  assert batch["video_matrix"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
  assert batch["num_frames"].tolist() == [1, 1]
  assert batch["labels"].dtype == np.bool_
  assert batch["labels"].tolist() == [
    [True, False, False, False, True],
    [False] * 5,
  ]


def test_features_lie_in_the_order_of_the_flag(tmp_path):
  file = write_records(
    tmp_path / "a",
    [video_record("one", [0], mean_audio=[4.0, 5.0], mean_rgb=[1, 2, 3.0])],
  )
  swapped = {
    **VIDEO_FLAGS,
    "feature_names": "mean_audio, mean_rgb",
    "feature_sizes": "2, 3",
  }
  _, batch = read_one(swapped, [file])
  assert batch["video_matrix"].tolist() == [[4, 5, 1, 2, 3]]


def test_frame_level_batch_is_padded_to_a_bucket(tmp_path):
  rgb, audio = bytes_of(9, 3), bytes_of(9, 2, 77)
  file = write_records(
    tmp_path / "a",
    [
      frame_record("one", [2], rgb=rgb[:4], audio=audio[:4]),
      frame_record("two", [0, 1], rgb=rgb, audio=audio),
    ],
  )
  reader, batch = read_one(FRAME_FLAGS, [file])
  assert reader.quantized
  assert reader.one_example_per_record
  assert set(batch) == {"video_ids", "video_matrix", "num_frames", "labels"}
  matrix = batch["video_matrix"]
  assert matrix.dtype == np.uint8
  assert matrix.shape == (2, 16, 5)
  assert batch["num_frames"].tolist() == [4, 9]
  together = np.concatenate([rgb, audio], axis=1)
  np.testing.assert_array_equal(matrix[0, :4], together[:4])
  np.testing.assert_array_equal(matrix[1, :9], together)
  assert not matrix[0, 4:].any()
  assert not matrix[1, 9:].any()
  assert np.flatnonzero(batch["labels"][1]).tolist() == [0, 1]


def test_max_frames_cuts_off_the_end(tmp_path):
  file = write_records(
    tmp_path / "a", [small_frames("one", 12), small_frames("two", 3)]
  )
  _, batch = read_one({**FRAME_FLAGS, "max_frames": 10}, [file])
  assert batch["video_matrix"].shape == (2, 10, 5)
  assert batch["num_frames"].tolist() == [10, 3]
  np.testing.assert_array_equal(
    batch["video_matrix"][0, :, :3], bytes_of(12, 3)[:10]
  )


@pytest.mark.parametrize("lengths", [[0, 3], [3, 0], [0]])
def test_a_video_without_frames_is_all_padding(tmp_path, lengths):
  records = [
    small_frames(f"v{number}", length) for number, length in enumerate(lengths)
  ]
  file = write_records(tmp_path / "a", records)
  reader, batch = read_one(FRAME_FLAGS, [file])
  assert reader.quantized
  assert batch["num_frames"].tolist() == lengths
  assert batch["video_matrix"].shape == (len(lengths), 8, 5)
  assert not batch["video_matrix"][np.array(lengths) == 0].any()


def test_float_frames_stay_floats(tmp_path):
  values = np.array([[0.5, -3.0, 1e6], [0.0, 1.0, 2.0]], np.float32)
  file = write_records(
    tmp_path / "a", [frame_record("one", [0], embedding=values)]
  )
  reader, batch = read_one(
    {**FRAME_FLAGS, "feature_names": "embedding", "feature_sizes": "3"}, [file]
  )
  assert not reader.quantized
  assert batch["video_matrix"].dtype == np.float32
  np.testing.assert_array_equal(batch["video_matrix"][0, :2], values)
  assert not batch["video_matrix"][0, 2:].any()


def test_bytes_beside_floats_are_dequantized(tmp_path):
  floats = np.array([[0.5, -3.0, 7.0], [0.0, 1.0, 2.0]], np.float32)
  quantized = np.array([[0, 255], [128, 1]], np.uint8)
  file = write_records(
    tmp_path / "a", [frame_record("one", [0], rgb=floats, audio=quantized)]
  )
  reader, batch = read_one(FRAME_FLAGS, [file])
  assert not reader.quantized
  matrix = batch["video_matrix"]
  np.testing.assert_array_equal(matrix[0, :2, :3], floats)
  np.testing.assert_allclose(
    matrix[0, :2, 3:],
    # q * 4 / 255 + 4 / 512 - 2
    [[-1.9921875, 2.0078125], [0.0156556, -1.9765013]],
    atol=1e-6,
  )
  # Padding is 0.0, never byte 0 dequantised.
  assert matrix.shape[1] > 2
  assert not matrix[0, 2:].any()


def test_other_names_sizes_and_class_counts(tmp_path):
  frames = bytes_of(2, 7)
  file = write_records(
    tmp_path / "a", [frame_record("one", [99], clip=frames, unused=frames)]
  )
  _, batch = read_one(
    {
      **FRAME_FLAGS,
      "feature_names": "clip",
      "feature_sizes": "7",
      "num_classes": 100,
    },
    [file],
  )
  np.testing.assert_array_equal(batch["video_matrix"][0, :2], frames)
  assert batch["labels"].shape == (1, 100)
  assert np.flatnonzero(batch["labels"]).tolist() == [99]


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_the_id_may_be_called_video_id(tmp_path, model_flags):
  if model_flags["frame_features"]:
    features = {"rgb": bytes_of(2, 3), "audio": bytes_of(2, 2)}
    make = frame_record
  else:
    features = {"mean_rgb": [1.0, 2.0, 3.0], "mean_audio": [1.0, 2.0]}
    make = video_record
  records = [
    make("new", [0], "id", **features),
    make("old", [0], "video_id", **features),
  ]
  for order in (records, records[::-1]):
    file = write_records(tmp_path / "a", order)
    reader, batch = read_one(model_flags, [file])
    expected = {b"new", b"old"}
    assert set(batch["video_ids"]) == expected
    served = reader.parse_batch(tf.constant(order))
    np.testing.assert_array_equal(served["video_ids"], batch["video_ids"])


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_prediction_needs_no_labels(tmp_path, model_flags):
  frame_features = model_flags["frame_features"]
  make = small_frames if frame_features else small_video
  file = write_records(
    tmp_path / "a", [make("one", labels=None), make("two", labels=(4,))]
  )
  _, batch = read_one(model_flags, [file], with_labels=False)
  assert batch["video_ids"].tolist() == [b"one", b"two"]
  assert "labels" not in batch


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_serving_parses_as_the_pipelines_do(tmp_path, model_flags):
  random = np.random.default_rng(0)
  model_flags = {**model_flags, "max_frames": 10}
  if model_flags["frame_features"]:
    records = [
      frame_record(
        f"v{length}",
        rgb=random.integers(256, size=(length, 3), dtype=np.uint8),
        audio=random.integers(256, size=(length, 2), dtype=np.uint8),
      )
      for length in (4, 12, 1, 10)
    ]
  else:
    records = [
      video_record(
        f"v{number}",
        mean_rgb=random.normal(size=3),
        mean_audio=random.normal(size=2),
      )
      for number in range(4)
    ]
  file = write_records(tmp_path / "a", records)
  reader, batch = read_one(model_flags, [file], with_labels=False)
  served = reader.parse_batch(tf.constant(records))
  assert set(served) == set(batch)
  for name in ("video_ids", "num_frames"):
    np.testing.assert_array_equal(served[name], batch[name])
  matrix = served["video_matrix"].numpy()
  assert matrix.dtype == batch["video_matrix"].dtype
  if not model_flags["frame_features"]:
    np.testing.assert_array_equal(matrix, batch["video_matrix"])
  else:
    for number, length in enumerate(batch["num_frames"]):
      np.testing.assert_array_equal(
        matrix[number, :length], batch["video_matrix"][number, :length]
      )


def test_serving_parses_float_frames(tmp_path):
  lengths = [3, 1]
  values = np.arange(9.0, dtype=np.float32).reshape(3, 3)
  records = [
    frame_record(f"v{length}", rgb=values[:length], audio=bytes_of(length, 2))
    for length in lengths
  ]
  file = write_records(tmp_path / "a", records)
  reader, batch = read_one(FRAME_FLAGS, [file], with_labels=False)
  served = reader.parse_batch(tf.constant(records))
  assert served["num_frames"].numpy().tolist() == lengths
  for number, length in enumerate(lengths):
    np.testing.assert_allclose(
      served["video_matrix"][number, :length],
      batch["video_matrix"][number, :length],
      atol=1e-6,
    )


# --------------------------------------------------------------------------
# Segments


def test_ratings_of_one_start_time_are_one_segment(tmp_path):
  rgb, audio = bytes_of(20, 3), bytes_of(20, 2, 9)
  file = write_records(
    tmp_path / "a",
    [
      segment_record(
        "one",
        [(10, 2, 1.0), (5, 4, 0.0), (10, 0, 0.0), (10, 3, 1.0)],
        rgb=rgb,
        audio=audio,
      )
    ],
  )
  reader, batch = read_one(FRAME_FLAGS, [file], segment_labels=True)
  assert not reader.one_example_per_record
  assert batch["video_ids"].tolist() == [b"one", b"one"]
  assert batch["segment_start_times"].tolist() == [10, 5]
  assert batch["num_frames"].tolist() == [5, 5]
  assert batch["label_weights"].tolist() == [[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
  assert batch["label_weights"].dtype == np.float32
  assert batch["labels"].tolist() == [
    [False, False, True, True, False],
    [False] * 5,
  ]
  together = np.concatenate([rgb, audio], axis=1)
  np.testing.assert_array_equal(
    batch["video_matrix"], [together[10:15], together[5:10]]
  )


def test_a_segment_past_the_end_is_padded(tmp_path):
  rgb, audio = bytes_of(12, 3, 1), bytes_of(12, 2, 1)
  file = write_records(
    tmp_path / "a",
    [
      segment_record(
        "one", [(10, 0, 1.0), (12, 1, 1.0), (30, 2, 1.0)], rgb=rgb, audio=audio
      )
    ],
  )
  _, batch = read_one(FRAME_FLAGS, [file], segment_labels=True)
  assert batch["num_frames"].tolist() == [2, 0, 0]
  np.testing.assert_array_equal(
    batch["video_matrix"][0, :2], np.concatenate([rgb, audio], axis=1)[10:]
  )
  assert not batch["video_matrix"][0, 2:].any()
  assert not batch["video_matrix"][1:].any()


def test_a_record_without_ratings_gives_no_segment(tmp_path):
  features = {"rgb": bytes_of(10, 3), "audio": bytes_of(10, 2)}
  file = write_records(
    tmp_path / "a",
    [
      segment_record("none", [], **features),
      segment_record("one", [(5, 1, 1.0)], **features),
      segment_record("none", [], **features),
    ],
  )
  _, batch = read_one(FRAME_FLAGS, [file], segment_labels=True)
  assert batch["video_ids"].tolist() == [b"one"]


def test_prediction_reads_every_segment(tmp_path):
  rgb, audio = bytes_of(12, 3), bytes_of(12, 2, 40)
  file = write_records(
    tmp_path / "a",
    [
      frame_record("long", rgb=rgb, audio=audio),
      segment_record("short", [(0, 1, 1.0)], rgb=rgb[:5], audio=audio[:5]),
    ],
  )
  _, batch = read_one(
    FRAME_FLAGS, [file], with_labels=False, segment_labels=True
  )
  assert set(batch) == {
    "video_ids",
    "video_matrix",
    "num_frames",
    "segment_start_times",
  }
  assert batch["video_ids"].tolist() == [b"long"] * 3 + [b"short"]
  assert batch["segment_start_times"].tolist() == [0, 5, 10, 0]
  assert batch["num_frames"].tolist() == [5, 5, 2, 5]
  together = np.concatenate([rgb, audio], axis=1)
  padded = np.pad(together, [[0, 3], [0, 0]]).reshape(3, 5, 5)
  np.testing.assert_array_equal(batch["video_matrix"][:3], padded)
  np.testing.assert_array_equal(batch["video_matrix"][3], together[:5])


def test_segments_need_frame_level_features(tmp_path):
  file = write_records(tmp_path / "a", [small_video("one")])
  text = error_of(readers.open_reader, VIDEO_FLAGS, [file], True, True)
  assert_names(text, "--segment_labels", "--frame_features=True")


def test_segments_need_ratings(tmp_path):
  file = write_records(tmp_path / "a", [small_frames("one")])
  text = error_of(readers.open_reader, FRAME_FLAGS, [file], True, True)
  assert_names(
    text,
    f"{file}, record 0",
    "segment_start_times, segment_labels, segment_scores",
    "labels (1 int64)",
    "leave out --segment_labels",
  )


def test_segments_need_as_many_scores_as_ratings(tmp_path):
  context = {
    "segment_start_times": np.array([0, 5]),
    "segment_labels": np.array([1, 2]),
    "segment_scores": np.array([1.0]),
  }
  file = write_records(
    tmp_path / "a",
    [
      frame_record(
        "one", [1], context=context, rgb=bytes_of(9, 3), audio=bytes_of(9, 2)
      )
    ],
  )
  text = error_of(readers.open_reader, FRAME_FLAGS, [file], True, True)
  assert_names(
    text, "segment_labels (2 int64)", "segment_scores (1 float)", "record 0"
  )


# --------------------------------------------------------------------------
# Bad data. Each of BAD is (records around a bad one, flags, what the message
# must hold).

GOOD_VIDEO = small_video("good")
GOOD_FRAMES = small_frames("good")
BAD = {
  "missing feature": (
    GOOD_VIDEO,
    small_video("bad", mean_audio=None, sound=[1.0]),
    VIDEO_FLAGS,
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
    FRAME_FLAGS,
    [
      "expected the feature audio (--feature_names)",
      "rgb (3 frames of 3 bytes)",
      "sound (3 frames of 9 bytes)",
    ],
  ),
  "wrong size": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1.0] * 4),
    VIDEO_FLAGS,
    [
      "expected 3 numbers in the feature mean_rgb",
      "mean_rgb (4 float)",
      "--feature_sizes",
    ],
  ),
  "wrong frame size": (
    GOOD_FRAMES,
    small_frames("bad", rgb=bytes_of(3, 4)),
    FRAME_FLAGS,
    [
      "expected 3 numbers in the feature rgb",
      "rgb (3 frames of 4 bytes)",
      "--feature_sizes",
    ],
  ),
  "a frame of another size": (
    GOOD_FRAMES,
    small_frames("bad", rgb=[*bytes_of(2, 3), np.zeros(4, np.uint8)]),
    FRAME_FLAGS,
    ["expected 3 numbers in every frame of the feature rgb"],
  ),
  "unequal frame counts": (
    GOOD_FRAMES,
    small_frames("bad", audio=bytes_of(2, 2)),
    FRAME_FLAGS,
    [
      "as many frames in each feature",
      "rgb (3 frames of 3 bytes)",
      "audio (2 frames of 2 bytes)",
    ],
  ),
  "integers instead of floats": (
    GOOD_VIDEO,
    small_video("bad", mean_rgb=[1, 2, 3]),
    VIDEO_FLAGS,
    ["expected float in the feature mean_rgb", "mean_rgb (3 int64)"],
  ),
  "frame-level record read as video-level": (
    GOOD_VIDEO,
    GOOD_FRAMES,
    VIDEO_FLAGS,
    [
      "this is a frame-level record",
      "rgb (3 frames of 3 bytes)",
      "--frame_features=True",
    ],
  ),
  "video-level record read as frame-level": (
    GOOD_FRAMES,
    GOOD_VIDEO,
    FRAME_FLAGS,
    [
      "this is a video-level record",
      "mean_rgb (3 float)",
      "leave out --frame_features",
    ],
  ),
  "class too large": (
    GOOD_VIDEO,
    small_video("bad", labels=[1, 5]),
    VIDEO_FLAGS,
    ["from 0 to 4 in labels, found 5", "--num_classes"],
  ),
  "class below zero": (
    GOOD_FRAMES,
    small_frames("bad", labels=[-1]),
    FRAME_FLAGS,
    ["from 0 to 4 in labels, found -1"],
  ),
  "no record at all": (
    GOOD_FRAMES,
    b"\xff\xff no protocol buffer",
    FRAME_FLAGS,
    ["expected a tf.train.Example or SequenceExample", "21 bytes"],
  ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_first_record(tmp_path, name):
  _, bad, model_flags, parts = BAD[name]
  file = write_records(tmp_path / "a", [bad])
  text = error_of(readers.open_reader, model_flags, [file], True)
  assert_names(text, f"{file}, record 0: ", *parts)


@pytest.mark.parametrize("name", BAD)
def test_bad_record_in_the_middle_of_the_second_file(tmp_path, name):
  good, bad, model_flags, parts = BAD[name]
  files = [
    write_records(tmp_path / "first", [good] * 3),
    write_records(tmp_path / "second", [good, good, bad, good]),
  ]
  reader = readers.open_reader(model_flags, files, True)
  for dataset in (
    readers.evaluation_batches(reader, files, 2),
    readers.training_batches(reader, files, 2, num_epochs=1),
  ):
    with pytest.raises(readers.READ_ERRORS):
      list(dataset)
  text = error_of(readers.raise_for_bad_record, reader, files, True)
  assert_names(text, f"{files[1]}, record 2: ", *parts)


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_no_labels_in_training(tmp_path, model_flags):
  make = small_frames if model_flags["frame_features"] else small_video
  file = write_records(tmp_path / "a", [make("one", labels=None)])
  text = error_of(readers.open_reader, model_flags, [file], True)
  assert_names(
    text,
    f"{file}, record 0: expected the feature labels",
    "id (3 bytes)",
    "the test split has none",
  )


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_no_id(tmp_path, model_flags):
  make = small_frames if model_flags["frame_features"] else small_video
  record = readers.parse_record(make("one"))
  del record.context.feature["id"]
  file = write_records(tmp_path / "a", [record.SerializeToString()])
  text = error_of(readers.open_reader, model_flags, [file], True)
  assert_names(
    text, "expected the feature id (or video_id)", "labels (1 int64)"
  )


def test_a_segment_class_out_of_range(tmp_path):
  features = {"rgb": bytes_of(9, 3), "audio": bytes_of(9, 2)}
  file = write_records(
    tmp_path / "a",
    [
      segment_record("good", [(0, 4, 1.0)], **features),
      # Rated as wrong, but still no class.
      segment_record("bad", [(0, 5, 0.0)], **features),
    ],
  )
  reader = readers.open_reader(FRAME_FLAGS, [file], True, True)
  with pytest.raises(readers.READ_ERRORS):
    read(reader, [file])
  text = error_of(readers.raise_for_bad_record, reader, [file], True)
  assert_names(
    text,
    f"{file}, record 1: ",
    "from 0 to 4 in segment_labels, found 5",
    "--num_classes",
  )


def test_a_segment_before_the_video(tmp_path):
  features = {"rgb": bytes_of(9, 3), "audio": bytes_of(9, 2)}
  file = write_records(
    tmp_path / "a",
    [
      segment_record("good", [(0, 4, 1.0)], **features),
      segment_record("bad", [(0, 4, 1.0), (-5, 4, 1.0)], **features),
    ],
  )
  reader = readers.open_reader(FRAME_FLAGS, [file], True, True)
  with pytest.raises(readers.READ_ERRORS):
    read(reader, [file])
  text = error_of(readers.raise_for_bad_record, reader, [file], True)
  assert_names(text, f"{file}, record 1: ", "segment_start_times", "-5")


def test_bytes_in_one_file_and_floats_in_another(tmp_path):
  floats = np.ones((3, 3), np.float32)
  files = [
    write_records(tmp_path / "bytes", [GOOD_FRAMES] * 3),
    write_records(
      tmp_path / "floats", [GOOD_FRAMES, small_frames("bad", rgb=floats)]
    ),
  ]
  reader = readers.open_reader(FRAME_FLAGS, files, True)
  with pytest.raises(readers.READ_ERRORS):
    read(reader, files)
  text = error_of(readers.raise_for_bad_record, reader, files, True)
  assert_names(
    text,
    f"{files[1]}, record 1: ",
    "expected bytes in the feature rgb",
    "rgb (3 frames of 3 float)",
  )


def damage_end(content):
  return content[:-7]


def damage_middle(content):
  """Flips a bit inside of the third of four equally long records."""
  position = len(content) * 5 // 8
  changed = content[position] ^ 1
  return content[:position] + bytes([changed]) + content[position + 1 :]


@pytest.mark.parametrize(
  ("damage", "number"), [(damage_end, 3), (damage_middle, 2)]
)
def test_damaged_file(tmp_path, damage, number):
  whole = write_records(tmp_path / "whole", [GOOD_VIDEO] * 4)
  damaged = tmp_path / "damaged"
  damaged.write_bytes(damage((tmp_path / "whole").read_bytes()))
  files = [whole, str(damaged)]
  reader = readers.open_reader(VIDEO_FLAGS, files, True)
  with pytest.raises(readers.READ_ERRORS):
    read(reader, files, batch_size=2)
  text = error_of(readers.raise_for_bad_record, reader, files, True)
  assert_names(text, f"{damaged}, record {number}: ", "damaged or cut off")


@pytest.mark.parametrize("content", [b"id,label\n1,2\n", b"x" * 5000])
def test_file_that_is_no_tfrecord_file(tmp_path, content):
  file = tmp_path / "predictions.csv"
  file.write_bytes(content)
  text = error_of(readers.open_reader, VIDEO_FLAGS, [str(file)], True)
  assert_names(text, f"{file}, record 0: ", "no TFRecord file")


def test_good_data_does_not_raise(tmp_path):
  file = write_records(tmp_path / "a", [GOOD_VIDEO] * 3)
  reader = readers.open_reader(VIDEO_FLAGS, [file], True)
  readers.raise_for_bad_record(reader, [file], True)


def test_files_without_records(tmp_path):
  files = [write_records(tmp_path / name, []) for name in "ab"]
  text = error_of(readers.open_reader, VIDEO_FLAGS, files, True)
  assert_names(text, "2 files", files[0], "empty")


def test_an_empty_file_among_others_is_passed_over(tmp_path):
  files = [
    write_records(tmp_path / "a", []),
    write_records(tmp_path / "b", [small_video("one"), small_video("two")]),
    write_records(tmp_path / "c", []),
    write_records(tmp_path / "d", [small_video("three")]),
  ]
  reader = readers.open_reader(VIDEO_FLAGS, files, True)
  (batch,) = read(reader, files)
  assert batch["video_ids"].tolist() == [b"one", b"two", b"three"]
  assert readers.estimate_num_videos(files) == 3
  batches = readers.training_batches(reader, files, 3, num_epochs=2)
  for batch in batches.as_numpy_iterator():
    assert set(batch["video_ids"]) == {b"one", b"two", b"three"}


# --------------------------------------------------------------------------
# Order


def video_files(folder, counts):
  """Files with so many videos each, with ids f0v0, f0v1, ..., f1v0, ..."""
  return [
    write_records(
      folder / f"part{part}",
      [small_video(f"f{part}v{number}") for number in range(count)],
    )
    for part, count in enumerate(counts)
  ]


def all_ids(counts):
  return [
    f"f{part}v{number}"
    for part, count in enumerate(counts)
    for number in range(count)
  ]


def training_ids(reader, files, batch_size, *arguments, **keywords):
  """The ids of each training batch."""
  dataset = readers.training_batches(
    reader, files, batch_size, *arguments, **keywords
  )
  return [
    [video_id.decode() for video_id in batch["video_ids"]]
    for batch in dataset.as_numpy_iterator()
  ]


def joined(batches):
  return [video_id for batch in batches for video_id in batch]


COUNTS = [7, 1, 12, 9]
NUM_VIDEOS = sum(COUNTS)


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory):
  """(reader, files) of 29 video-level records."""
  files = video_files(tmp_path_factory.mktemp("many"), COUNTS)
  return readers.open_reader(VIDEO_FLAGS, files, True), files


@pytest.mark.parametrize("batch_size", [1, 4, 29, 100])
def test_evaluation_keeps_the_order_with_one_reader(many_videos, batch_size):
  reader, files = many_videos
  batches = read(reader, files, batch_size, num_readers=1)
  sizes = [len(batch["video_ids"]) for batch in batches]
  assert all(size == batch_size for size in sizes[:-1])
  assert ids_of(batch["video_ids"] for batch in batches) == all_ids(COUNTS)


@pytest.mark.parametrize("num_readers", [2, 8])
def test_evaluation_reads_each_video_once(many_videos, num_readers):
  reader, files = many_videos
  batches = read(reader, files, 4, num_readers=num_readers)
  found = collections.Counter(ids_of(batch["video_ids"] for batch in batches))
  assert found == collections.Counter(all_ids(COUNTS))


def test_training_reads_each_video_once_an_epoch(many_videos):
  reader, files = many_videos
  order = joined(training_ids(reader, files, 4, num_epochs=3))
  assert len(order) == 3 * NUM_VIDEOS
  epochs = [
    order[first : first + NUM_VIDEOS] for first in range(0, len(order), 29)
  ]
  for epoch in epochs:
    assert sorted(epoch) == sorted(all_ids(COUNTS))
    assert epoch != all_ids(COUNTS)
  assert epochs[0] != epochs[1]
  assert epochs[1] != epochs[2]
  assert epochs[0] != epochs[2]


def test_a_training_batch_spans_two_epochs(many_videos):
  reader, files = many_videos
  batches = training_ids(reader, files, 4, num_epochs=2)
  # 58 = 14 * 4 + 2; batch 7 holds video 28 of the first epoch and the first
  # three of the second.
  assert [len(batch) for batch in batches] == [4] * 14 + [2]
  order = joined(batches)
  assert batches[7] == order[28:32]
  assert sorted(order[:29]) == sorted(order[29:]) == sorted(all_ids(COUNTS))


def test_the_seed_decides_the_training_order(many_videos):
  reader, files = many_videos
  first = training_ids(reader, files, 4, num_epochs=2, seed=3)
  assert training_ids(reader, files, 4, num_epochs=2, seed=3) == first
  assert training_ids(reader, files, 4, num_epochs=2, seed=4) != first
  assert training_ids(reader, files, 4, num_epochs=2, seed=0) != first


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_machines_read_each_video_once_an_epoch(many_videos, num_workers):
  reader, files = many_videos
  everything = sorted(joined(training_ids(reader, files, 4, num_epochs=1)))
  shares = []
  for num_epochs in range(1, num_workers + 1):
    found = [
      joined(
        training_ids(
          reader,
          files,
          4,
          num_epochs=num_epochs,
          worker=worker,
          num_workers=num_workers,
        )
      )
      for worker in range(num_workers)
    ]
    assert sorted(joined(found)) == sorted(num_epochs * everything)
    shares = [len(ids) for ids in found]
  # In as many epochs as there are machines each reads as many files, be they
  # fewer than the machines.
  assert min(shares) >= min(COUNTS) * len(COUNTS)


def test_a_machine_continues_exactly(many_videos):
  reader, files = many_videos
  where = {"num_epochs": 3, "worker": 1, "num_workers": 2}
  whole = joined(training_ids(reader, files, 4, **where))
  for skipped in (1, 10, 25):
    rest = training_ids(reader, files, 4, skip_examples=skipped, **where)
    assert joined(rest) == whole[skipped:]


@pytest.mark.parametrize("num_epochs", [None, 0])
def test_training_without_end(many_videos, num_epochs):
  reader, files = many_videos
  endless = readers.training_batches(reader, files, 29, num_epochs, seed=3)
  ids = [
    [video_id.decode() for video_id in batch["video_ids"]]
    for batch in endless.take(4).as_numpy_iterator()
  ]
  assert ids == training_ids(reader, files, 29, num_epochs=4, seed=3)


@pytest.mark.parametrize("skipped", [0, 1, 4, 28, 29, 30, 57, 58])
def test_training_continues_exactly(many_videos, skipped):
  reader, files = many_videos
  order = joined(training_ids(reader, files, 4, num_epochs=2, seed=9))
  rest = training_ids(reader, files, 4, 2, 9, skipped)
  assert joined(rest) == order[skipped:]
  assert all(len(batch) == 4 for batch in rest[:-1])


def test_training_on_segments_continues_exactly(tmp_path):
  features = {"rgb": bytes_of(30, 3), "audio": bytes_of(30, 2)}
  ratings = [[0, 5, 10], [5], [], [20, 0], [25, 5, 15, 10]]
  records = [
    segment_record(
      f"v{number}", [(start, 1, 1.0) for start in starts], **features
    )
    for number, starts in enumerate(ratings)
  ]
  files = [
    write_records(tmp_path / "a", records[:3]),
    write_records(tmp_path / "b", records[3:]),
  ]
  reader = readers.open_reader(FRAME_FLAGS, files, True, True)

  def order(skipped):
    dataset = readers.training_batches(reader, files, 3, 2, 1, skipped)
    batches = list(dataset.as_numpy_iterator())
    assert all(len(batch["video_ids"]) == 3 for batch in batches[:-1])
    return [
      (video_id.decode(), int(start))
      for batch in batches
      for video_id, start in zip(
        batch["video_ids"], batch["segment_start_times"], strict=True
      )
    ]

  whole = order(0)
  expected = sorted(
    (f"v{number}", start)
    for number, starts in enumerate(ratings)
    for start in starts
  )
  assert sorted(whole[:10]) == sorted(whole[10:]) == expected
  for skipped in (1, 3, 9, 10, 11, 19):
    assert order(skipped) == whole[skipped:]


def test_training_on_frames_reads_each_video_once_an_epoch(tmp_path):
  files = [
    write_records(
      tmp_path / f"part{part}",
      [
        small_frames(f"f{part}v{number}", 1 + 5 * number) for number in range(5)
      ],
    )
    for part in range(2)
  ]
  reader = readers.open_reader(FRAME_FLAGS, files, True)
  dataset = readers.training_batches(reader, files, 4, num_epochs=2)
  lengths = collections.Counter()
  for batch in dataset.as_numpy_iterator():
    for number, video_id in enumerate(batch["video_ids"]):
      length = 1 + 5 * int(video_id.decode()[-1])
      assert batch["num_frames"][number] == length
      np.testing.assert_array_equal(
        batch["video_matrix"][number, :length, :3], bytes_of(length, 3)
      )
      lengths[video_id] += 1
  assert len(lengths) == 10
  assert set(lengths.values()) == {2}


@pytest.mark.parametrize("count", [1, 64, 200])
def test_estimate_num_videos_of_like_records(tmp_path, count):
  files = [
    write_records(tmp_path / name, [GOOD_VIDEO] * count) for name in "ab"
  ]
  assert readers.estimate_num_videos(files) == 2 * count
