"""Tests of records.messages."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from changed_records import by_protobuf, changed_record, field, varint
from hypothesis import strategies
from make_records import frame_record, video_record

from records import messages


def plain_values(kind, values):
  """Values for a comparison bit by bit, but for what is not a number."""
  if kind != "float":
    return [value if kind == "bytes" else int(value) for value in values]
  values = np.array(values, np.float32)
  values[np.isnan(values)] = np.nan
  return values.tobytes()


def of_protobuf(feature):
  """(kind, values) of a tf.train.Feature."""
  kind = feature.WhichOneof("kind")
  if kind is None:
    return "empty", []
  values = getattr(feature, kind).value
  kind = kind.removesuffix("_list")
  return kind, plain_values(kind, values)


def ours(feature):
  """(kind, values) of our feature; checks the types of its values."""
  if feature.kind == "bytes":
    assert isinstance(feature.values, list)
    assert all(type(value) is bytes for value in feature.values)
  elif feature.kind == "float":
    assert feature.values.dtype == np.float32
    assert feature.values.ndim == 1
  else:
    assert isinstance(feature.values, list)
  return feature.kind, plain_values(feature.kind, feature.values)


def context_of_protobuf(record):
  return {
    name: of_protobuf(feature)
    for name, feature in record.context.feature.items()
  }


def assert_parsed_as_by_protobuf(data):
  """Compares our parser with protobuf's; returns whether both accept."""
  expected = by_protobuf(data)
  if expected is None:
    with pytest.raises(messages.BadRecordError) as caught:
      messages.parse_record(data)
    assert caught.value.kind == "not an Example"
    return False
  record = messages.parse_record(data)
  context = {name: ours(feature) for name, feature in record.context.items()}
  assert context == context_of_protobuf(expected)
  lists = {
    name: [ours(frame) for frame in frames]
    for name, frames in record.lists.items()
  }
  assert lists == {
    name: [of_protobuf(frame) for frame in frames.feature]
    for name, frames in expected.feature_lists.feature_list.items()
  }
  return True


def assert_context_parsed_as_by_protobuf(data):
  """Compares parse_context with protobuf."""
  expected = by_protobuf(field(0x0A, data))
  if expected is None:
    with pytest.raises(messages.BadRecordError):
      messages.parse_context(data)
    return
  context = messages.parse_context(memoryview(data))
  assert {
    name: ours(feature) for name, feature in context.items()
  } == context_of_protobuf(expected)


ANY_RECORD = hypothesis.given(
  seed=strategies.integers(0, 1 << 64),
  num_changes=strategies.integers(0, 6),
  num_damages=strategies.sampled_from([0, 0, 0, 1, 1, 2]),
  level=strategies.sampled_from(
    ["video", "frames", "float frames", "segments"]
  ),
  sizes=strategies.sampled_from([[3, 2], [2, 130]]),
)


def check_any_record(seed, num_changes, num_damages, level, sizes):
  record = changed_record(seed, num_changes, num_damages, level, sizes)
  assert_parsed_as_by_protobuf(record)
  # Most records begin with the context, behind two or three bytes; to it the
  # feature lists are an unknown field.
  for begin in (2, 3):
    assert_context_parsed_as_by_protobuf(record[begin:])
  if len(record) > 1 and record[1] < 0x80:
    assert_context_parsed_as_by_protobuf(record[2 : 2 + record[1]])


@ANY_RECORD
@hypothesis.settings(max_examples=1000, deadline=None)
def test_any_record_is_parsed_as_by_protobuf(**arguments):
  check_any_record(**arguments)


@pytest.mark.slow
@ANY_RECORD
@hypothesis.settings(max_examples=20_000, deadline=None)
def test_many_more_records_are_parsed_as_by_protobuf(**arguments):
  check_any_record(**arguments)


@hypothesis.given(strategies.binary(max_size=40))
@hypothesis.settings(max_examples=500, deadline=None)
def test_any_bytes_are_parsed_as_by_protobuf(data):
  assert_parsed_as_by_protobuf(data)
  assert_context_parsed_as_by_protobuf(data)


def test_changed_records_are_often_valid():
  levels = ["video", "frames", "float frames", "segments"]
  accepted = [
    assert_parsed_as_by_protobuf(
      changed_record(seed, seed % 7, seed % 2, levels[seed % 4], [3, 2])
    )
    for seed in range(300)
  ]
  assert 0.3 < np.mean(accepted) < 0.9


# --------------------------------------------------------------------------
# Single layouts


def entry(*fields):
  """A record whose context holds one entry."""
  return field(0x0A, field(0x0A, b"".join(fields)))


KEY = field(0x0A, b"k")


def feature(*parts):
  """A record with a feature k in its context; parts are its fields."""
  return entry(KEY, field(0x12, b"".join(parts)))


def int64_list(*parts):
  return feature(field(0x1A, b"".join(parts)))


ONES = b"\xff" * 9
VALUE = field(0x12, field(0x0A, field(0x0A, b"v")))

# {name: (record, the feature k as (kind, values), or None without it)}.
VALID = {
  "nothing at all": (b"", None),
  "a context without entries": (field(0x0A, b""), None),
  "an entry without value": (entry(KEY), ("empty", [])),
  "a feature without kind": (feature(), ("empty", [])),
  "a list without values": (feature(field(0x0A, b"")), ("bytes", [])),
  "value before key": (entry(VALUE, KEY), ("bytes", [b"v"])),
  "two keys": (entry(field(0x0A, b"x"), VALUE, KEY), ("bytes", [b"v"])),
  "two values": (entry(KEY, VALUE, VALUE), ("bytes", [b"v", b"v"])),
  "an entry with an unknown field": (entry(KEY, VALUE, b"\x18\x01"), None),
  "an entry with a number for a key": (entry(KEY, VALUE, b"\x08\x01"), None),
  "that after a good one": (
    feature() + entry(KEY, VALUE, b"\x18\x01"),
    ("empty", []),
  ),
  "an entry twice": (
    feature(field(0x0A, field(0x0A, b"old"))) + entry(KEY, VALUE),
    ("bytes", [b"v"]),
  ),
  "one kind twice": (
    feature(field(0x1A, b"\x08\x05"), field(0x1A, b"\x0a\x01\x06")),
    ("int64", [5, 6]),
  ),
  "another kind": (
    feature(
      field(0x1A, b"\x08\x05"), field(0x0A, b""), field(0x1A, b"\x08\x06")
    ),
    ("int64", [6]),
  ),
  "an unknown field in a feature": (
    feature(b"\x08\x07", field(0x1A, b"\x08\x05"), field(0x22, b"any")),
    ("int64", [5]),
  ),
  "packed and unpacked": (
    int64_list(b"\x08\x01", b"\x0a\x02\x02\x03", b"\x0a\x00", b"\x08\x04"),
    ("int64", [1, 2, 3, 4]),
  ),
  "-1": (int64_list(field(0x0A, ONES + b"\x01")), ("int64", [-1])),
  "more than 64 bits": (
    int64_list(field(0x0A, ONES + b"\x02"), b"\x08" + ONES + b"\x7f"),
    ("int64", [(1 << 63) - 1, -1]),
  ),
  "zeros in front": (int64_list(b"\x0a\x03\x81\x80\x00"), ("int64", [1])),
  "a float for an integer": (
    int64_list(b"\x0d\x00\x00\x80\x3f", b"\x08\x01"),
    ("int64", [1]),
  ),
  "an integer for a float": (
    feature(field(0x12, b"\x08\x01\x0d\x00\x00\x80\x3f")),
    ("float", [1.0]),
  ),
  "a long tag": (
    field(0x0A, b"\x8a\x80\x80\x80\x00" + field(0x0A, KEY)[1:]),
    ("empty", []),
  ),
  "a long length": (b"\x0a\x85\x80\x80\x80\x00\x0a\x03" + KEY, ("empty", [])),
  "an unknown field of each type": (
    b"\x18\x01\x19" + bytes(8) + b"\x1a\x01a\x1b\x23\x18\x01\x24\x1c\x1d"
    + bytes(4) + feature(),
    ("empty", []),
  ),
  "100 groups": (b"\x1b" * 100 + b"\x1c" * 100 + feature(), ("empty", [])),
  "96 groups in a list": (
    int64_list(b"\x1b" * 96, b"\x1c" * 96), ("int64", [])
  ),
  "field number 0 in a group": (
    b"\x1b\x00\x01\x03\x02\x01a\x04\x1c" + feature(), ("empty", [])
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_valid_layouts(name):
  record, expected = VALID[name]
  assert assert_parsed_as_by_protobuf(record)
  found = messages.parse_record(record).context
  if expected is None:
    assert found == {}
    return
  assert found["k"].kind == expected[0]
  assert list(found["k"].values) == expected[1]


INVALID = {
  "101 groups": b"\x1b" * 101 + b"\x1c" * 101,
  "97 groups in a list": int64_list(b"\x1b" * 97, b"\x1c" * 97),
  "many groups": b"\x1b" * 1_000_000,
  "a group without end": b"\x1b\x18\x01",
  "an end without group": b"\x1c",
  "the end of another group": b"\x1b\x24",
  "a group past its message": field(0x0A, b"\x1b") + b"\x1c",
  "field number 0": b"\x02\x00",
  "group number 0": b"\x03\x04",
  "the end of group 0": b"\x1b\x04\x1c",
  "wire type 6": b"\x1e",
  "wire type 7": b"\x1f",
  "a tag of 33 bits": b"\x8a\x80\x80\x80\x10\x00",
  "a tag of 6 bytes": b"\x8a\x80\x80\x80\x80\x00\x00",
  "a length of 6 bytes": b"\x0a\x80\x80\x80\x80\x80\x00",
  "a length of 2 GB": b"\x0a\x80\x80\x80\x80\x08",
  "an endless number": b"\x18" + b"\xff" * 1_000_000,
  "a number of 11 bytes": int64_list(field(0x0A, ONES + b"\x80\x00")),
  "a number past its list": int64_list(field(0x0A, b"\x80")) + b"\x00",
  "half a float": feature(field(0x12, field(0x0A, b"\x00\x00"))),
  "a float past its list": feature(field(0x12, b"\x0d\x00\x00")) + bytes(4),
  "a key past its entry": entry(b"\x0a\x05k"),
  "a key that is not UTF-8": entry(field(0x0A, b"\xff"), VALUE),
  "a surrogate in a key": entry(field(0x0A, b"\xed\xa0\x80"), VALUE),
  "a good key after a bad one": entry(field(0x0A, b"\xff"), KEY, VALUE),
  "a bad key in an unknown entry": entry(field(0x0A, b"\xff"), b"\x18\x01"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_layouts(name):
  assert not assert_parsed_as_by_protobuf(INVALID[name])


def test_parts_are_parsed_one_by_one():
  """Two parts that are not valid do not make a valid whole."""
  whole = field(0x0A, KEY + VALUE)
  for cut in range(1, len(whole)):
    parts = field(0x0A, whole[:cut]) + field(0x0A, whole[cut:])
    assert not assert_parsed_as_by_protobuf(parts)


def test_lists_in_parts_are_merged():
  frame = field(0x0A, field(0x0A, field(0x0A, b"frame")))
  other = field(0x0A, b"")
  parts = field(0x0A, KEY + field(0x12, frame) + field(0x12, other))
  record = field(0x12, parts) + field(0x12, field(0x0A, field(0x0A, b"x")))
  assert assert_parsed_as_by_protobuf(record)
  lists = messages.parse_record(record).lists
  assert [one.kind for one in lists["k"]] == ["bytes", "empty"]
  assert lists["x"] == []


def test_entries_about_as_long_as_a_short_one():
  """Entries of up to 127 bytes are parsed in another way than longer ones."""
  for length in range(140):
    for made in (
      video_record("i" * length),
      video_record("i", list(range(length))),
      video_record("i", [100 * number for number in range(length)]),
      video_record("i", id_name="n" * length),
    ):
      assert assert_parsed_as_by_protobuf(made)
      example = tf.train.Example.FromString(made)
      context = example.features.SerializeToString()
      assert_context_parsed_as_by_protobuf(context)


def test_each_byte_of_a_short_context_may_be_damaged():
  record = video_record("abcd", [3, 200])
  for place in range(len(record)):
    for value in range(256):
      damaged = bytearray(record)
      damaged[place] = value
      assert_parsed_as_by_protobuf(bytes(damaged))


def test_a_memoryview_is_parsed():
  frames = np.arange(6, dtype=np.uint8).reshape(2, 3)
  record = messages.parse_record(
    memoryview(frame_record("v", [7], rgb=frames, xyz=frames / 2))
  )
  assert record.context["id"] == messages.Feature("bytes", [b"v"])
  assert record.context["labels"].values == [7]
  assert [frame.values for frame in record.lists["rgb"]] == [
    [b"\0\1\2"],
    [b"\3\4\5"],
  ]
  np.testing.assert_array_equal(record.lists["xyz"][1].values, [1.5, 2, 2.5])


def test_many_small_parts_take_time_in_proportion():
  """A million parts of one feature, list or kind; quadratic, it would hang."""
  many = 100_000
  kinds = (field(0x0A, b"") + field(0x1A, b"\x08\x01")) * many
  for record in (
    feature(field(0x1A, b"\x08\x01") * many),
    feature(kinds),
    entry(KEY, field(0x12, field(0x1A, b"\x08\x01")) * many),
    feature() * many,
    field(0x12, field(0x0A, KEY + field(0x12, field(0x0A, b"")) * many)),
    b"\x18\x01" * many,
    varint(0x1B) * 50 + b"\x18\x01" * many + varint(0x1C) * 50,
  ):
    messages.parse_record(record)
