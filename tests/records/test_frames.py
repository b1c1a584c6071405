"""Tests of records.frames."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from changed_records import FRAME_NAMES, changed_record
from hypothesis import strategies
from make_records import frame_record

from records import contents, memory, messages
from records import frames as frames_file

NAMES = ["rgb", "audio"]
SIZES = [5, 130]  # lengths of one and of two bytes


def random_features(num_frames, seed=0):
  """Frames of both features, uint8."""
  generator = np.random.default_rng(seed)
  return {
    name: generator.integers(256, size=(num_frames, size), dtype=np.uint8)
    for name, size in zip(NAMES, SIZES, strict=True)
  }


FEATURES = frames_file.FrameFeatures(tuple(NAMES), tuple(SIZES), ("bytes",) * 2)


def cut(
  records,
  max_frames=300,
  padded_length=lambda frames: frames,
  features=FEATURES,
):
  """The frames of a batch of records, and how many each has."""
  batch = frames_file.FrameBatch(
    len(records), features, max_frames, padded_length
  )
  for row, record in enumerate(records):
    batch.add(row, memoryview(record))
  return batch.finish(np.arange(len(records)))


def forbid_parsing(monkeypatch):
  """Makes the slow way fail."""

  def fail(*unused_arguments):
    raise AssertionError("a usual record was parsed the slow way")

  monkeypatch.setattr(frames_file, "parsed_frames", fail)


def side_by_side(features):
  return np.concatenate([features[name] for name in NAMES], axis=1)


@hypothesis.given(
  counts=strategies.lists(strategies.integers(0, 40), min_size=1, max_size=5),
  max_frames=strategies.integers(1, 45),
  extra=strategies.integers(0, 3),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_frames_are_cut_out_and_padded(counts, max_frames, extra):
  videos = [random_features(count, seed) for seed, count in enumerate(counts)]
  records = [
    frame_record(f"v{number}", [number], **features)
    for number, features in enumerate(videos)
  ]
  with pytest.MonkeyPatch.context() as monkeypatch:
    forbid_parsing(monkeypatch)
    frames, num_frames = cut(records, max_frames, lambda most: most + extra)
  longest = min(max(counts), max_frames)
  assert frames.shape == (len(counts), longest + extra, sum(SIZES))
  assert frames.dtype == np.uint8
  assert num_frames.dtype == np.int32
  for video, features in enumerate(videos):
    count = min(counts[video], max_frames)
    assert num_frames[video] == count
    np.testing.assert_array_equal(
      frames[video, :count], side_by_side(features)[:count]
    )
    assert not frames[video, count:].any()


def test_the_order_of_the_features_is_that_of_the_names():
  features = random_features(3)
  other = frames_file.FrameFeatures(("audio", "rgb"), (130, 5), ("bytes",) * 2)
  frames, _ = cut([frame_record("v", **features)], features=other)
  np.testing.assert_array_equal(
    frames[0], np.concatenate([features["audio"], features["rgb"]], axis=1)
  )


def test_tensorflow_takes_the_frames_without_a_copy():
  for count in range(1, 9):
    frames, _ = cut([frame_record("v", **random_features(count))])
    assert frames.ctypes.data % 64 == 0


def varint(number, extra_bytes=0):
  """A number as protobuf writes it, or longer than it needs to be."""
  found = bytearray()
  while number >= 0x80:
    found.append(number & 0x7F | 0x80)
    number >>= 7
  found.append(number)
  for _ in range(extra_bytes):
    found[-1] |= 0x80
    found.append(0)
  return bytes(found)


def field(tag, content, extra_bytes=0):
  return bytes([tag]) + varint(len(content), extra_bytes) + content


def feature_lists(*lists, extra_bytes=0):
  """A record's feature lists, (name, frames) each, written by hand."""
  entries = b""
  for name, frames in lists:
    content = b"".join(
      field(
        0x0A, field(0x0A, field(0x0A, frame.tobytes()), extra_bytes=extra_bytes)
      )
      for frame in frames
    )
    entries += field(0x0A, field(0x0A, name.encode()) + field(0x12, content))
  return field(0x12, entries)


def test_other_valid_layouts_are_parsed():
  features = random_features(4)
  usual = frame_record("v", [1], **features)
  context = field(0x0A, b"")
  pairs = list(features.items())
  layouts = {
    "by hand": context + feature_lists(*pairs),
    "lists first": feature_lists(*pairs) + context,
    "another order": feature_lists(*pairs[::-1]),
    "lists in two parts": feature_lists(pairs[0]) + feature_lists(pairs[1]),
    "a list twice, the last one counts": feature_lists(
      (NAMES[0], features["rgb"][:2]), *pairs
    ),
    "long lengths": feature_lists(*pairs, extra_bytes=2),
    "one more list": feature_lists(("other", features["rgb"]), *pairs),
  }
  expected, _ = cut([usual])
  for name, record in layouts.items():
    parsed = tf.train.SequenceExample.FromString(record)
    assert set(NAMES) <= set(parsed.feature_lists.feature_list), name
    frames, num_frames = cut([usual, record])
    np.testing.assert_array_equal(frames[1], expected[0], err_msg=name)
    assert num_frames[1] == 4, name


def bad_records():
  """Records that must be refused, by what is wrong with them."""
  good = random_features(3)
  mixed = [*good["rgb"][:2], good["rgb"][0][:4]]
  # As many bytes as three frames of the right size have.
  shifted = [good["rgb"][0][:4], good["rgb"][1], good["audio"][0][:6]]
  return {
    "a shorter frame": frame_record("v", rgb=mixed, audio=good["audio"]),
    "sizes that add up": frame_record("v", rgb=shifted, audio=good["audio"]),
    "another size": frame_record("v", rgb=good["rgb"], audio=good["rgb"]),
    "unequal frame counts": frame_record(
      "v", rgb=good["rgb"][:2], audio=good["audio"]
    ),
    "a missing list": frame_record("v", rgb=good["rgb"]),
    "floats": frame_record(
      "v", rgb=good["rgb"], audio=good["audio"].astype(np.float32)
    ),
    "cut off": frame_record("v", **good)[:-1],
    "a length past the end": frame_record("v", **good)[:-200],
    "no protobuf": b"\xff\xff no record",
  }


@pytest.mark.parametrize("name", bad_records())
def test_bad_records_are_refused(name):
  good = frame_record("w", **random_features(3))
  with pytest.raises(messages.BadRecordError, match=r"frame|Example|feature"):
    cut([good, bad_records()[name]])


@hypothesis.given(
  position=strategies.integers(0, 500), value=strategies.integers(0, 255)
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_a_damaged_byte_is_refused_or_read_as_protobuf_reads_it(
  position, value
):
  record = bytearray(frame_record("v", [1], **random_features(3)))
  record[position % len(record)] = value
  expected = plain_frames(bytes(record))
  if expected is None:
    with pytest.raises(messages.BadRecordError):
      cut([bytes(record)])
  else:
    frames, _ = cut([bytes(record)])
    np.testing.assert_array_equal(frames[0], expected)


def plain_frames(record):
  """The frames of a record by protobuf; None if it must be refused."""
  try:
    parsed = tf.train.SequenceExample.FromString(record)
  except Exception:  # the class differs between protobuf's backends
    return None
  columns = []
  for name, size in zip(NAMES, SIZES, strict=True):
    if name not in parsed.feature_lists.feature_list:
      return None
    frames = parsed.feature_lists.feature_list[name].feature
    if any(
      len(frame.bytes_list.value) != 1 or len(frame.bytes_list.value[0]) != size
      for frame in frames
    ):
      return None
    joined = b"".join(frame.bytes_list.value[0] for frame in frames)
    columns.append(np.frombuffer(joined, np.uint8).reshape(-1, size))
  if len({len(column) for column in columns}) > 1:
    return None
  return np.concatenate(columns, axis=1)


# --------------------------------------------------------------------------
# Changed records

LEVELS = ("frames", "float frames")


def values_of(context):
  return {
    name: (feature.kind, list(feature.values))
    for name, feature in context.items()
  }


def read_both_ways(record, level, sizes):
  """The values of a record, fast and by the plain parser; None if refused."""
  kind = "float" if level == "float frames" else "bytes"
  kinds = (kind, kind)
  features = frames_file.FrameFeatures(tuple(FRAME_NAMES), tuple(sizes), kinds)

  def fast():
    batch = frames_file.FrameBatch(1, features, 300, lambda frames: frames)
    context = batch.add(0, memoryview(record))
    frames, _ = batch.finish(np.arange(1))
    return frames[0], values_of(context)

  def plain():
    parsed = messages.parse_record(record)
    contents.check_frame_features(parsed, FRAME_NAMES, sizes, kinds)
    frames = frames_file.parsed_frames(parsed, features)
    return frames, values_of(parsed.context)

  found = []
  for read in (fast, plain):
    try:
      found.append(read())
    except messages.BadRecordError:
      found.append(None)
  return found


def check_changed_record(seed, num_changes, num_damages, level, sizes):
  """Compares both ways; returns whether both accept the record."""
  record = changed_record(seed, num_changes, num_damages, level, sizes)
  fast, plain = read_both_ways(record, level, sizes)
  assert (fast is None) == (plain is None)
  if fast is None or plain is None:
    return False
  np.testing.assert_array_equal(fast[0], plain[0])
  assert fast[1] == plain[1]
  return True


CHANGED_RECORDS = hypothesis.given(
  seed=strategies.integers(0, 1 << 64),
  num_changes=strategies.sampled_from([0, 1, 1, 2, 3]),
  num_damages=strategies.sampled_from([0, 0, 1, 1, 2]),
  level=strategies.sampled_from(LEVELS),
  sizes=strategies.sampled_from([[3, 2], [2, 130]]),
)


@CHANGED_RECORDS
@hypothesis.settings(max_examples=1000, deadline=None)
def test_changed_records_are_read_as_parsed(**arguments):
  check_changed_record(**arguments)


@pytest.mark.slow
@CHANGED_RECORDS
@hypothesis.settings(max_examples=20_000, deadline=None)
def test_many_more_changed_records_are_read_as_parsed(**arguments):
  check_changed_record(**arguments)


@pytest.mark.parametrize("level", LEVELS)
def test_changed_records_are_often_accepted(level):
  accepted = [
    check_changed_record(seed, seed % 3, seed % 2, level, [3, 2])
    for seed in range(300)
  ]
  assert 0.15 < np.mean(accepted) < 0.9


@pytest.mark.parametrize("level", LEVELS)
def test_each_byte_may_be_damaged(level):
  """One frame: what is before it cannot differ from that of another one."""
  rows = {"rgb": np.ones((1, 3)), "audio": np.ones((1, 2))}
  dtype = np.float32 if level == "float frames" else np.uint8
  record = frame_record(
    "v", [1], **{name: row.astype(dtype) for name, row in rows.items()}
  )
  for place in range(len(record)):
    for value in (0, 1, 2, 0x0A, 0x12, 0x7F, 0x80, 0xFF, record[place] ^ 1):
      damaged = bytearray(record)
      damaged[place] = value
      fast, plain = read_both_ways(bytes(damaged), level, [3, 2])
      assert (fast is None) == (plain is None), (place, value)
      if fast is not None and plain is not None:
        np.testing.assert_array_equal(fast[0], plain[0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_no_model_can_use_are_refused(wrong):
  values = np.ones((4, 3), np.float32)
  values[2, 1] = wrong
  features = frames_file.FrameFeatures(("rgb",), (3,), ("float",))
  batch = frames_file.FrameBatch(1, features, 300, lambda frames: frames)
  with pytest.raises(messages.BadRecordError) as caught:
    batch.add(0, memoryview(frame_record("v", [1], rgb=values)))
  assert caught.value.kind == "not finite"


def test_memory_is_used_again_only_after_the_last_reference():
  first = memory.aligned_empty((1 << 20,), np.uint8)
  first[:] = 7
  part = first[5:9]
  address = first.ctypes.data
  del first
  for _ in range(3):
    other = memory.aligned_empty((1 << 20,), np.uint8)
    other[:] = 0
    assert other.ctypes.data != address
  assert part.tolist() == [7] * 4
  del part, other
  found = {memory.aligned_empty((1 << 20,), np.uint8).ctypes.data}
  assert len(found) == 1
