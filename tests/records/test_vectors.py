"""Tests of records.vectors."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from changed_records import changed_record, varint
from hypothesis import strategies
from make_records import segment_record, video_record

from records import contents, messages, vectors, writing

NAMES, SIZES = ["mean_rgb", "mean_audio"], [3, 40]
NUM_CLASSES = 3862


def read(records, num_classes=NUM_CLASSES, names=NAMES, sizes=SIZES):
  """The batch of records, and the errors by row."""
  errors = {}
  batch = vectors.VectorBatch(len(records), names, sizes, num_classes)
  for row, record in enumerate(records):
    batch.add(row, memoryview(record))
  return batch.finish(errors.__setitem__), errors


def plain(record, num_classes=NUM_CLASSES):
  """(id, vector, classes) of a record by the plain parser; None if refused."""
  try:
    parsed = messages.parse_record(record)
    contents.check_video_features(parsed, NAMES, SIZES)
    video_id = contents.video_id(parsed.context)
    classes = contents.labels(parsed.context, num_classes)
  except messages.BadRecordError:
    return None
  vector = np.concatenate([parsed.context[name].values for name in NAMES])
  return video_id, vector, sorted(set(classes))


def assert_read_as_parsed(records):
  """Compares a batch with the plain parser; returns how many are accepted."""
  batch, errors = read(records)
  expected = [plain(record) for record in records]
  assert list(errors) == [
    row for row, found in enumerate(expected) if found is None
  ]
  expected = [found for found in expected if found is not None]
  assert batch["video_ids"].tolist() == [found[0] for found in expected]
  for vector, found in zip(batch["video_matrix"], expected, strict=True):
    np.testing.assert_array_equal(vector, found[1])
  assert [np.flatnonzero(row).tolist() for row in batch["labels"]] == [
    found[2] for found in expected
  ]
  assert batch["num_frames"].tolist() == [1] * len(expected)
  return len(expected)


def good_record(seed):
  values = np.random.default_rng(seed)
  labels = values.integers(0, NUM_CLASSES, size=values.integers(0, 5))
  return video_record(
    "abcd"[: values.integers(1, 5)],
    labels,
    mean_rgb=values.normal(size=3).astype(np.float32),
    mean_audio=values.normal(size=40).astype(np.float32),
  )


def test_records_of_the_usual_layout_are_not_parsed_one_by_one(monkeypatch):
  def fail(*unused_arguments):
    raise AssertionError("a usual record was parsed the slow way")

  records = [good_record(seed) for seed in range(200)]
  expected = [plain(record) for record in records]
  monkeypatch.setattr(messages, "parse_record", fail)
  batch, errors = read(records)
  assert not errors
  assert batch["video_ids"].tolist() == [found[0] for found in expected]
  # Features that are not wanted may have any values.
  batch, errors = read(records, None, ["mean_audio"], [40])
  assert not errors
  for vector, found in zip(batch["video_matrix"], expected, strict=True):
    np.testing.assert_array_equal(vector, found[1][3:])
  assert set(batch) == {"video_ids", "video_matrix", "num_frames"}


def test_any_mixture_of_good_records():
  assert assert_read_as_parsed([good_record(s) for s in range(300)]) == 300
  assert assert_read_as_parsed([]) == 0


def test_videos_without_exactly_one_label_are_left_out():
  vector = {"mean_rgb": [1.0, 2.0, 3.0], "mean_audio": [0.5] * 40}
  # Fifteen of one layout, which are taken apart together, and an unusual one.
  records = [
    video_record(f"{row:02}", [row % 3, 3 + row % 2], **vector)
    for row in range(15)
  ]
  records.append(video_record("unusual", [1, 4], context=[1], **vector))

  def read_subset(subset, exclusive_classes):
    found = {}
    batch = vectors.VectorBatch(
      16,
      NAMES,
      SIZES,
      6,
      label_subset=subset,
      exclusive_classes=exclusive_classes,
    )
    for row, record in enumerate(records):
      batch.add(row, memoryview(record))
    return batch.finish(found.__setitem__), found

  batch, found = read_subset([1, 2, 3], True)
  # Classes 0 and 4 do not count.
  counts = [(row % 3 > 0) + (row % 2 == 0) for row in range(15)] + [1]
  assert sorted(found) == [row for row in range(16) if counts[row] != 1]
  assert all("exactly one label" in str(error) for error in found.values())
  assert batch["labels"].sum(axis=1).tolist() == [1] * counts.count(1)
  assert batch["video_ids"].tolist()[-1] == b"unusual"
  assert len(batch["video_matrix"]) == counts.count(1)
  batch, found = read_subset([1, 2, 3], False)
  assert not found
  assert batch["labels"].sum(axis=1).tolist() == counts


def test_an_empty_id_beside_a_video_id():
  record = tf.train.Example.FromString(good_record(0))
  record.features.feature["id"].bytes_list.value[:] = [b""]
  record.features.feature["video_id"].bytes_list.value[:] = [b"name"]
  assert assert_read_as_parsed([record.SerializeToString()] * 2) == 2


def test_tensorflow_takes_the_vectors_without_a_copy():
  for count in range(1, 5):
    batch, _ = read([good_record(seed) for seed in range(count)])
    assert batch["video_matrix"].ctypes.data % 64 == 0


def check_changed_records(seed, num_changes, num_damages):
  """A batch of good records and of changed ones, of which some are alike."""
  changed = [
    changed_record(seed + number, num_changes, num_damages, "video", [3, 2])
    for number in range(3)
  ]
  again = bytearray(changed[0])
  if again:
    again[seed % len(again)] ^= 1 << seed % 8
  records = [good_record(seed), *changed, bytes(again), good_record(seed + 1)]
  assert_read_as_parsed(records)
  assert_read_as_parsed(records[::-1])


CHANGED = hypothesis.given(
  seed=strategies.integers(0, 1 << 60),
  num_changes=strategies.sampled_from([0, 1, 1, 2, 3]),
  num_damages=strategies.sampled_from([0, 0, 1, 1, 2]),
)


@CHANGED
@hypothesis.settings(max_examples=500, deadline=None)
def test_changed_records_are_read_as_parsed(**arguments):
  check_changed_records(**arguments)


@pytest.mark.slow
@CHANGED
@hypothesis.settings(max_examples=20_000, deadline=None)
def test_many_more_changed_records_are_read_as_parsed(**arguments):
  check_changed_records(**arguments)


def test_each_byte_may_be_damaged_beside_a_good_record():
  record = good_record(4)
  for place in range(len(record)):
    for value in (0, 1, 2, 0x0A, 0x12, 0x7F, 0x80, 0xFF, record[place] ^ 1):
      damaged = bytearray(record)
      damaged[place] = value
      assert_read_as_parsed([record, bytes(damaged)])


def with_labels(packed):
  """A record whose packed labels are these bytes."""
  record = tf.train.Example.FromString(good_record(0))
  del record.features.feature["labels"]
  base = record.features.SerializeToString()
  integers = b"\x0a" + varint(len(packed)) + packed
  feature = b"\x1a" + varint(len(integers)) + integers
  entry = b"\x0a\x06labels\x12" + varint(len(feature)) + feature
  features = base + b"\x0a" + varint(len(entry)) + entry
  return b"\x0a" + varint(len(features)) + features


@pytest.mark.parametrize(
  "packed",
  [
    [b"\x01\x02\x03", b"\x80\x01\x05", b"\x05\x80\x01", b"\x81\x80\x00"],
    [b"\x01\x02", b"\x80\x80", b"\x01\x80", b"\xff\x7f"],
    [b"\x80\x80\x80\x80\x01", b"\x01\x80\x80\x80\x00"],
    [b"\xff" * 9 + b"\x01", b"\x01" * 10, b"\x80" * 10],
    [b"\x00", b"\x80"],
  ],
)
def test_labels_of_equally_many_bytes(packed):
  records = [with_labels(labels) for labels in packed]
  assert_read_as_parsed(records)
  assert_read_as_parsed(records[::-1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_no_model_can_use_are_refused(wrong):
  bad = video_record(
    "abcd", [1], mean_rgb=np.float32([1, wrong, 1]), mean_audio=[1.0] * 40
  )
  good = video_record(
    "abcd", [1], mean_rgb=np.float32([1, 2, 1]), mean_audio=[1.0] * 40
  )
  batch, errors = read([good, bad, good])
  assert len(batch["video_ids"]) == 2
  assert list(errors) == [1]
  assert errors[1].kind == "not finite"


# --------------------------------------------------------------------------
# Without being told what records hold


def own_record(video_id, labels, **vectors):
  return writing.video_record(video_id.encode(), labels, vectors)


def test_records_of_one_layout_are_taken_apart_at_once():
  random = np.random.default_rng(0)
  label_sets = [[300, 5], [5, 300], [127, 128], [1, 400], [2, 130]]
  arrays = random.normal(size=(5, 3)).astype(np.float32)
  halves = arrays.astype(np.float16)
  records = [
    own_record(f"v{row}", labels, x=arrays[row], y=halves[row])
    for row, labels in enumerate(label_sets)
  ]
  other = own_record("frames", [1], z=arrays[0])
  ((found,), single) = vectors.take_apart_alike(
    [*records[:2], other, *map(memoryview, records[2:])]
  )
  assert single == [2]
  assert found.rows.tolist() == [0, 1, 3, 4, 5]
  assert found.video_ids == [b"v0", b"v1", b"v2", b"v3", b"v4"]
  assert found.features.keys() == {"x", "y"}
  np.testing.assert_array_equal(found.features["x"], arrays)
  half = found.features["y"]
  assert half.dtype == np.float16
  np.testing.assert_array_equal(half, halves)
  of, classes = found.labels
  for row, labels in enumerate(label_sets):
    assert sorted(classes[of == row].tolist()) == sorted(labels)


def test_records_without_labels_have_none():
  zeros = np.zeros(3, np.float32)
  records = [own_record(f"v{row}", None, x=zeros) for row in range(4)]
  ((found,), single) = vectors.take_apart_alike(records)
  assert (found.labels, single) == (None, [])
  records = [own_record(f"v{row}", [], x=zeros) for row in range(4)]
  ((found,), _) = vectors.take_apart_alike(records)
  assert found.labels is not None
  assert len(found.labels[0]) == 0


@pytest.mark.parametrize(
  "record",
  [
    video_record("v", [-1], x=[1.0]),
    video_record("v", [1], id_name="name", x=[1.0]),
    video_record("v", [1], x=[1.0], labels_are=[2]),
    segment_record("v", [(0, 1, 1.0)], x=[[1.0]]),
    b"no record",
  ],
)
def test_what_has_to_be_taken_apart_one_by_one(record):
  found, single = vectors.take_apart_alike([record] * 5)
  rows = [row for group in found for row in group.rows.tolist()]
  # An integer feature is part of the layout.
  expected = [] if b"labels_are" in record else list(range(5))
  assert single == expected
  assert sorted([*rows, *single]) == list(range(5))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_numbers_are_taken_apart_as_they_are_stored(dtype):
  records = [
    own_record("v", [1], x=np.arange(seed, seed + 6, dtype=dtype))
    for seed in range(5)
  ]
  ((found,), single) = vectors.take_apart_alike(records)
  assert not single
  assert found.features["x"].dtype == dtype
  expected = np.arange(5)[:, np.newaxis] + np.arange(6)
  np.testing.assert_array_equal(found.features["x"], expected)
