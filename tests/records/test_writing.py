"""Tests of records.writing: TensorFlow and the readers see what was given."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import error_of

from quantization import YOUTUBE8M_RANGE
from records import contents, messages, shards, writing
from records.frames import FrameBatch, FrameFeatures
from records.vectors import VectorBatch

DTYPES = (np.float32, np.float16, np.uint8)


def numbers(rng, dtype, *shape):
  if dtype == np.uint8:
    return rng.integers(0, 256, shape, np.uint8)
  return rng.standard_normal(shape).astype(dtype)


def by_tensorflow(values, dtype):
  """The numbers of a tf.train.Feature."""
  if dtype == np.float32:
    return np.array(values.float_list.value, np.float32)
  return np.frombuffer(values.bytes_list.value[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [None, [], [300, 0, 5]])
def test_tensorflow_parses_a_video(dtype, labels):
  rng = np.random.default_rng(0)
  vectors = {"a": numbers(rng, dtype, 200), "b": numbers(rng, np.float32, 3)}
  record = writing.video_record("é/1".encode(), labels, vectors)
  features = tf.train.Example.FromString(record).features.feature
  assert features["id"].bytes_list.value[:] == ["é/1".encode()]
  assert ("labels" in features) == (labels is not None)
  assert features["labels"].int64_list.value[:] == sorted(labels or [])
  for name, vector in vectors.items():
    found = by_tensorflow(features[name], vector.dtype)
    np.testing.assert_array_equal(found, vector)
    dtypes = features[contents.dtype_key(name)].bytes_list.value[:]
    assert dtypes == [vector.dtype.name.encode()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 40])
def test_tensorflow_parses_frames(dtype, count):
  rng = np.random.default_rng(1)
  frames = {"a": numbers(rng, dtype, count, 200)}
  frames["b"] = numbers(rng, np.float32, count, 3)
  record = tf.train.SequenceExample.FromString(
    writing.frame_record(b"x", [1, 2], frames)
  )
  assert record.context.feature["labels"].int64_list.value[:] == [1, 2]
  for name, matrix in frames.items():
    found = record.feature_lists.feature_list[name].feature
    assert len(found) == count
    for values, row in zip(found, matrix, strict=True):
      np.testing.assert_array_equal(by_tensorflow(values, matrix.dtype), row)


def batch_of(features, records):
  """The batch of frame-level records."""
  batch = FrameBatch(len(records), features, 300, lambda frames: frames)
  for row, record in enumerate(records):
    batch.add(row, memoryview(record))
  return batch.finish(np.arange(len(records)))


@pytest.mark.parametrize("kind", ["float", "float16", "bytes"])
def test_frames_come_back(kind):
  dtype = {"float": np.float32, "float16": np.float16, "bytes": np.uint8}[kind]
  rng = np.random.default_rng(2)
  videos = [
    {"a": numbers(rng, dtype, count, 7), "b": numbers(rng, dtype, count, 2)}
    for count in (5, 9, 1)
  ]
  records = [writing.frame_record(b"x", [0], video) for video in videos]
  features = FrameFeatures(("b", "a"), (2, 7), (kind, kind))
  matrix, num_frames = batch_of(features, records)
  assert matrix.dtype == dtype
  assert num_frames.tolist() == [5, 9, 1]
  for row, video in enumerate(videos):
    wanted = np.concatenate([video["b"], video["a"]], axis=1)
    np.testing.assert_array_equal(matrix[row, : len(wanted)], wanted)
    assert not matrix[row, len(wanted) :].any()


def test_features_of_different_dtypes_become_float32():
  rng = np.random.default_rng(3)
  half, whole = numbers(rng, np.float16, 4, 6), numbers(rng, np.float32, 4, 2)
  record = writing.frame_record(b"x", [0], {"half": half, "whole": whole})
  features = FrameFeatures(("half", "whole"), (6, 2), ("float16", "float"))
  matrix, _ = batch_of(features, [record])
  assert matrix.dtype == np.float32
  wanted = np.concatenate([half.astype(np.float32), whole], axis=1)
  np.testing.assert_array_equal(matrix[0], wanted)


def test_the_dtype_is_not_guessed_from_the_length():
  as_bytes = np.zeros((3, 8), np.uint8)
  half = np.zeros((3, 4), np.float16)
  record = writing.frame_record(b"x", [0], {"a": as_bytes})
  features = FrameFeatures(("a",), (4,), ("float16",))
  text = error_of(batch_of, features, [record])
  assert "expected float16 in the feature a" in text
  record = writing.frame_record(b"x", [0], {"a": half})
  features = FrameFeatures(("a",), (8,), ("bytes",))
  assert "expected bytes in the feature a" in error_of(
    batch_of, features, [record]
  )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_half_that_is_not_finite_is_named(value):
  half = np.ones((3, 4), np.float16)
  half[1, 2] = value
  features = FrameFeatures(("a",), (4,), ("float16",))
  record = writing.frame_record(b"x", [0], {"a": half})
  assert "in frame 1" in error_of(batch_of, features, [record])
  largest = np.full((3, 4), np.finfo(np.float16).max, np.float16)
  batch_of(features, [writing.frame_record(b"x", [0], {"a": largest})])


def test_videos_of_both_dtypes_come_back():
  rng = np.random.default_rng(4)
  videos = [
    {"a": numbers(rng, dtype, 6), "b": numbers(rng, np.float32, 2)}
    for dtype in (np.float16, np.float32, np.float16, np.float16)
  ]
  batch = VectorBatch(len(videos), ["b", "a"], [2, 6], 9)
  for row, video in enumerate(videos):
    record = writing.video_record(f"v{row}".encode(), [row], video)
    batch.add(row, memoryview(record))
  made = batch.finish(lambda row, error: pytest.fail(str(error)))
  assert made["video_ids"].tolist() == [b"v0", b"v1", b"v2", b"v3"]
  for row, video in enumerate(videos):
    wanted = np.concatenate([video["b"], video["a"].astype(np.float32)])
    np.testing.assert_array_equal(made["video_matrix"][row], wanted)
    assert np.flatnonzero(made["labels"][row]).tolist() == [row]


def test_features_of_every_dtype_become_float32():
  rng = np.random.default_rng(5)
  names, sizes = ("whole", "own", "ranged", "half"), (2, 3, 4, 5)
  dtypes = (np.float32, np.uint8, np.uint8, np.float16)
  ranges = (YOUTUBE8M_RANGE, YOUTUBE8M_RANGE, (-3.0, 252.0), YOUTUBE8M_RANGE)
  frames = {
    name: numbers(rng, dtype, 4, size)
    for name, dtype, size in zip(names, dtypes, sizes, strict=True)
  }
  wanted = np.concatenate(
    [
      frames["whole"],
      frames["own"] * (4 / 255) - 1.9921875,
      frames["ranged"].astype(np.float32) - 3,  # a step is 1
      frames["half"],
    ],
    axis=1,
  )
  kinds = ("float", "bytes", "bytes", "float16")
  features = FrameFeatures(names, sizes, kinds, ranges=ranges)
  matrix, _ = batch_of(features, [writing.frame_record(b"x", [0], frames)])
  assert matrix.dtype == np.float32
  np.testing.assert_allclose(matrix[0], wanted, rtol=1e-6, atol=1e-6)
  batch = VectorBatch(4, names, sizes, ranges=ranges)
  for row in range(4):
    vectors = {name: of[row] for name, of in frames.items()}
    record = writing.video_record(f"v{row}".encode(), [], vectors)
    if row == 2:  # which is not taken apart at once
      record = with_other_layout(record)
    batch.add(row, memoryview(record))
  made = batch.finish(lambda row, error: pytest.fail(str(error)))
  np.testing.assert_allclose(made["video_matrix"], wanted, rtol=1e-6, atol=1e-6)


def with_other_layout(record):
  """The same tf.train.Example in two parts, which protobuf merges."""
  example = tf.train.Example.FromString(record)
  name = tf.train.Example()
  name.features.feature["id"].CopyFrom(example.features.feature.pop("id"))
  return example.SerializeToString() + name.SerializeToString()


@pytest.mark.parametrize("size", [3, 5, 8])
def test_bytes_of_a_video_have_one_for_each_number(size):
  vector = np.zeros(size, np.uint8)
  batch = VectorBatch(1, ["a"], [4])
  batch.add(0, memoryview(writing.video_record(b"x", [], {"a": vector})))
  errors = []
  batch.finish(lambda row, error: errors.append(str(error)))
  assert "expected 4 numbers in the feature a" in errors[0]


def test_floats_of_a_video_whose_dtype_says_bytes():
  example = tf.train.Example()
  features = example.features.feature
  features["id"].bytes_list.value.append(b"x")
  features["a"].float_list.value.extend([1.0, 2.0])
  features["a/dtype"].bytes_list.value.append(b"float16")
  batch = VectorBatch(1, ["a"], [2])
  batch.add(0, memoryview(example.SerializeToString()))
  errors = []
  batch.finish(lambda row, error: errors.append(str(error)))
  assert "expected bytes in the feature a" in errors[0]


def test_bytes_of_a_video_without_a_dtype_are_no_numbers():
  example = tf.train.Example()
  example.features.feature["id"].bytes_list.value.append(b"x")
  example.features.feature["a"].bytes_list.value.append(bytes(4))
  batch = VectorBatch(1, ["a"], [4])
  batch.add(0, memoryview(example.SerializeToString()))
  errors = []
  batch.finish(lambda row, error: errors.append(str(error)))
  assert "expected float in the feature a" in errors[0]


def test_a_bad_half_of_a_video_is_named():
  vector = np.array([1, np.nan], np.float16)
  batch = VectorBatch(1, ["a"], [2])
  batch.add(0, memoryview(writing.video_record(b"x", [], {"a": vector})))
  errors = []
  batch.finish(lambda row, error: errors.append(str(error)))
  assert "expected finite numbers in the feature a" in errors[0]


def test_other_dtypes_are_refused():
  with pytest.raises(ValueError, match="float64"):
    writing.video_record(b"x", [], {"a": np.zeros(2)})


def test_files_are_read_by_tensorflow_and_by_number(tmp_path):
  records = [b"", b"one", bytes(range(256)) * 999]
  path = str(tmp_path / "a")
  with writing.RecordWriter(path) as writer:
    for record in records:
      writer.write(record)
  assert writer.num_bytes == (tmp_path / "a").stat().st_size
  found = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
  assert found == records
  by_number = shards.numbered_records(path, pytest.fail)
  assert [bytes(data) for _, data in by_number] == records


def test_a_record_has_the_usual_layout():
  vectors = {"a": np.ones(3, np.float32), "b": np.ones(2, np.float16)}
  spans = messages.usual_spans(writing.video_record(b"x", [1], vectors))
  assert list(spans) == ["id", "labels", "a/dtype", "b/dtype", "a", "b"]


def test_a_full_disk_is_named():
  writer = writing.RecordWriter("/dev/full")
  with pytest.raises(OSError, match=r"No space left.*'/dev/full'"):
    writer.write(bytes(1 << 20))
  with pytest.raises(OSError, match="'/dev/full'"):
    writer.flush()
  with pytest.raises(OSError, match="'/dev/full'"):
    writer.close()
