"""Tests of readers."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, error_of, read_batches
from hypothesis import given
from hypothesis import strategies as st
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  bytes_of,
  frame_record,
  segment_record,
  small_frames,
  small_video,
  video_record,
  write_records,
)

import quantization
import readers
from engine.data import Data
from engine.skipped import Policy


def read_one(model_flags, files, with_labels=True, segment_labels=False):
  """(reader, the one batch) of files."""
  data = Data(model_flags, files, with_labels, segment_labels)
  (batch,) = read_batches(data)
  return data.reader, batch


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
  floats = quantization.dequantize(matrix.astype(np.float32))
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
  table = quantization.dequantize(np.arange(256, dtype=np.float32))
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
    quantization.dequantize(batch["video_matrix"].astype(np.float32)),
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
    ("rgb", "²", ["--feature_sizes=²"]),
    ("rgb", "2147483648", ["--feature_sizes=2147483648"]),
    ("rgb", "9" * 5000, ["--feature_sizes=999"]),
  ],
)
def test_feature_flags_that_cannot_be(names, sizes, parts):
  text = error_of(readers.get_feature_names_and_sizes, names, sizes)
  assert_names(text, *parts)


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
  _, batch = read_one(SMALL_VIDEO_FLAGS, [file])
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
    **SMALL_VIDEO_FLAGS,
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
  reader, batch = read_one(SMALL_FRAME_FLAGS, [file])
  assert reader.quantized
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
  _, batch = read_one({**SMALL_FRAME_FLAGS, "max_frames": 10}, [file])
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
  reader, batch = read_one(SMALL_FRAME_FLAGS, [file])
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
    {**SMALL_FRAME_FLAGS, "feature_names": "embedding", "feature_sizes": "3"},
    [file],
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
  reader, batch = read_one(SMALL_FRAME_FLAGS, [file])
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
      **SMALL_FRAME_FLAGS,
      "feature_names": "clip",
      "feature_sizes": "7",
      "num_classes": 100,
    },
    [file],
  )
  np.testing.assert_array_equal(batch["video_matrix"][0, :2], frames)
  assert batch["labels"].shape == (1, 100)
  assert np.flatnonzero(batch["labels"]).tolist() == [99]


@pytest.mark.parametrize("model_flags", [SMALL_VIDEO_FLAGS, SMALL_FRAME_FLAGS])
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


@pytest.mark.parametrize("model_flags", [SMALL_VIDEO_FLAGS, SMALL_FRAME_FLAGS])
def test_prediction_needs_no_labels(tmp_path, model_flags):
  frame_features = model_flags["frame_features"]
  make = small_frames if frame_features else small_video
  file = write_records(
    tmp_path / "a", [make("one", labels=None), make("two", labels=(4,))]
  )
  _, batch = read_one(model_flags, [file], with_labels=False)
  assert batch["video_ids"].tolist() == [b"one", b"two"]
  assert "labels" not in batch


@pytest.mark.parametrize("model_flags", [SMALL_VIDEO_FLAGS, SMALL_FRAME_FLAGS])
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
  reader, batch = read_one(SMALL_FRAME_FLAGS, [file], with_labels=False)
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
  _, batch = read_one(SMALL_FRAME_FLAGS, [file], segment_labels=True)
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


@pytest.mark.parametrize("audio_in_bytes", [True, False])
def test_segments_of_bytes_with_ranges(tmp_path, audio_in_bytes):
  """Beside floats, bytes become what they stand for, and padding stays 0."""
  rgb = bytes_of(12, 3, 1)
  audio = bytes_of(12, 2, 9)
  if not audio_in_bytes:
    audio = audio.astype(np.float32) + 0.5
  record = segment_record("one", [(10, 0, 1.0)], rgb=rgb, audio=audio)
  file = write_records(tmp_path / "a", [record])
  model_flags = {**SMALL_FRAME_FLAGS, "feature_ranges": "-100:155,0:127.5"}
  reader, batch = read_one(model_flags, [file], segment_labels=True)
  assert reader.ranges == [(-100.0, 155.0), (0.0, 127.5)]
  assert reader.quantized == audio_in_bytes
  assert batch["num_frames"].tolist() == [2]
  matrix = batch["video_matrix"][0]
  shown = rgb[10:] if audio_in_bytes else rgb[10:].astype(np.float32) - 100
  np.testing.assert_array_equal(
    matrix[:2], np.concatenate([shown, audio[10:]], axis=1)
  )
  assert not matrix[2:].any()


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
  _, batch = read_one(SMALL_FRAME_FLAGS, [file], segment_labels=True)
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
  _, batch = read_one(SMALL_FRAME_FLAGS, [file], segment_labels=True)
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
    SMALL_FRAME_FLAGS, [file], with_labels=False, segment_labels=True
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
  text = error_of(Data, SMALL_VIDEO_FLAGS, [file], True, True)
  assert_names(text, "--segment_labels", "--frame_features=True")


def test_segments_need_ratings(tmp_path):
  file = write_records(tmp_path / "a", [small_frames("one")])
  text = error_of(Data, SMALL_FRAME_FLAGS, [file], True, True)
  assert_names(
    text,
    f"{file}, record 0",
    "segment_start_times, segment_labels, segment_scores",
    "labels (1 int64)",
    "leave out --segment_labels",
  )


@pytest.mark.parametrize(
  ("scores", "listed"),
  [
    ([1.0], "equally many values in segment_start_times, segment_labels"),
    ([1, 0], "expected int64, int64, float in segment_start_times"),
  ],
)
def test_segments_need_as_many_scores_as_ratings(tmp_path, scores, listed):
  context = {
    "segment_start_times": np.array([0, 5]),
    "segment_labels": np.array([1, 2]),
    "segment_scores": np.array(scores),
  }
  file = write_records(
    tmp_path / "a",
    [
      frame_record(
        "one", [1], context=context, rgb=bytes_of(9, 3), audio=bytes_of(9, 2)
      )
    ],
  )
  text = error_of(Data, SMALL_FRAME_FLAGS, [file], True, True)
  kind = f"{len(scores)} {'float' if len(scores) == 1 else 'int64'}"
  assert_names(
    text,
    listed,
    *("segment_labels (2 int64)", f"segment_scores ({kind})", "record 0"),
  )


def test_files_without_records(tmp_path):
  files = [write_records(tmp_path / name, []) for name in "ab"]
  text = error_of(Data, SMALL_VIDEO_FLAGS, files, True)
  assert_names(text, f"{files[0]}, record 0: ", "an empty file")


def test_only_files_without_records_cannot_be_left_out(tmp_path):
  files = [write_records(tmp_path / name, []) for name in "ab"]
  text = error_of(
    Data, SMALL_VIDEO_FLAGS, files, True, policy=Policy(skip=True)
  )
  assert_names(text, f"records in {files[0]} and 1 more files, found none")
