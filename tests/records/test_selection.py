"""Tests of records.selection."""

import numpy as np
import pytest
from make_records import (
  bytes_of,
  frame_record,
  segment_record,
  small_frames,
  small_video,
  video_record,
  write_records,
)

from records import messages, shards
from records.selection import (
  Selection,
  context_of,
  count_segments,
  renumbered,
  stored_context,
)

NUM_CLASSES = 5
BIG = 3000  # numbers of a frame, so that a record has many of its front's size


def wide_frames(video_id, length, labels=(1,), **more):
  """A record whose second frame already is past what is fetched at first."""
  return frame_record(
    video_id,
    labels,
    rgb=bytes_of(length, BIG),
    audio=bytes_of(length, BIG),
    **more,
  )


def used(selection, folder, records) -> list[int]:
  """The examples of the records of a file, and of each in hand."""
  path = write_records(folder / "a", records)
  walk = shards.kept_walk(path)
  of_file = selection.examples_of_file(path, walk).tolist()
  assert of_file == selection.examples_of_file(path, walk).tolist()  # kept
  assert of_file == [selection.num_examples(record) for record in records]
  return of_file


LABELS = [[], [1], [0, 2], [4], [3, 1], [2]]


@pytest.mark.parametrize("make", [small_video, small_frames])
def test_videos_with_one_of_the_classes(tmp_path, make):
  records = [make(f"v{labels}", labels=labels) for labels in LABELS]
  assert used(Selection(NUM_CLASSES, [1, 4]), tmp_path, records) == [
    *(0, 1, 0),
    *(1, 1, 0),
  ]
  assert used(Selection(NUM_CLASSES, [0]), tmp_path, records) == [
    *(0, 0, 1),
    *(0, 0, 0),
  ]


def test_videos_with_enough_frames(tmp_path):
  for make in (
    lambda length: small_frames("v", length),
    lambda length: wide_frames("v", length),
    # Floats, and another list before the one that is counted.
    lambda length: frame_record(
      "v", [1], aaa=bytes_of(9, BIG), rgb=np.ones((length, 700), np.float32)
    ),
  ):
    records = [make(length) for length in (3, 0, 5, 4, 130)]
    selection = Selection(NUM_CLASSES, min_frames=4, feature="rgb")
    assert used(selection, tmp_path, records) == [0, 0, 1, 1, 1]


def test_both_conditions(tmp_path):
  records = [
    wide_frames(f"v{length}{label}", length, [label])
    for length in (2, 3)
    for label in (1, 2)
  ]
  selection = Selection(NUM_CLASSES, [2], 3, "rgb")
  assert used(selection, tmp_path, records) == [0, 0, 0, 1]


def test_frames_of_another_feature_are_counted_apart(tmp_path):
  record = frame_record("v", [1], rgb=bytes_of(3, 2), audio=bytes_of(7, 2))
  path = write_records(tmp_path / "a", [record])
  walk = shards.kept_walk(path)
  for feature, expected in (("rgb", 0), ("audio", 1), ("rgb", 0)):
    selection = Selection(NUM_CLASSES, min_frames=5, feature=feature)
    assert selection.examples_of_file(path, walk).tolist() == [expected]


# Ratings: start time, class, score.
RATINGS = [
  [],
  [(0, 1, 1.0)],
  [(0, 1, 0.0), (5, 2, 1.0), (5, 1, 1.0), (0, 3, 1.0)],
  [(10, 3, 1.0), (10, 4, 0.0), (0, 0, 1.0)],
]


def test_segments_that_are_rated_for_one_of_the_classes(tmp_path):
  records = [
    segment_record(f"v{number}", ratings, rgb=bytes_of(5 + number, 3))
    for number, ratings in enumerate(RATINGS)
  ]
  assert [count_segments(record) for record in records] == [0, 1, 2, 2]
  for classes, min_frames, expected in (
    ([1], 0, [0, 1, 2, 0]),
    ([3], 0, [0, 0, 1, 1]),
    ([3, 4], 0, [0, 0, 1, 1]),
    ([0, 3], 0, [0, 0, 1, 2]),
    ([1, 3], 7, [0, 0, 2, 1]),
    ([], 7, [0, 0, 2, 2]),
  ):
    selection = Selection(NUM_CLASSES, classes, min_frames, "rgb", True)
    assert used(selection, tmp_path, records) == expected


def test_ratings_get_the_places_of_their_classes():
  rated = ([5, 0, 5, 9], [3, 1, 4, 0], [1.0, 0.0, 0.5, 1.0])
  assert renumbered(*rated, None) == rated
  assert renumbered(*rated, [1, 4]) == ([0, 5], [0, 1], [0.0, 0.5])
  assert renumbered(*rated, [2]) == ([], [], [])


# --------------------------------------------------------------------------
# Records of other layouts, and bad ones


def field(tag, content) -> bytes:
  """A field of a message, of less than 16384 bytes."""
  size = len(content)
  head = [size] if size < 128 else [size & 127 | 128, size >> 7]
  return bytes([tag, *head]) + content


def parts_of(record) -> tuple[bytes, bytes]:
  """The context and the lists of a frame-level record."""
  _, end = messages.usual_length(record, 0, 0x0A, len(record))
  return record[:end], record[end:]


def test_other_layouts_of_a_record(tmp_path):
  context, lists = parts_of(small_frames("v", 4, labels=[1]))
  more, _ = parts_of(frame_record("v", [3], rgb=[]))
  # Numbers one by one instead of packed.
  unpacked = field(
    0x0A,
    field(
      0x0A,
      field(0x0A, b"labels") + field(0x12, field(0x1A, b"\x08\x01\x08\x02")),
    ),
  )
  padding = field(0x7A, bytes(9000))  # a field that no record has
  for records, expected in (
    ([lists + context, context + lists, lists], [1, 1, 1]),
    ([context + lists + more, more + lists + context], [0, 1]),
    ([unpacked + lists, lists + unpacked], [1, 1]),
    ([padding + context + lists, context + padding + lists], [1, 1]),
  ):
    selection = Selection(NUM_CLASSES, [1], 4, "rgb")
    assert used(selection, tmp_path, records) == expected
    too_few = Selection(NUM_CLASSES, [1], 5, "rgb")
    assert not any(used(too_few, tmp_path, records))


def test_the_context_of_any_layout():
  record = small_frames("v", 4, labels=[1])
  context, lists = parts_of(record)
  padding = field(0x7A, bytes(9000))
  for one in (record, lists + context, context + padding + lists):
    found = context_of(one)
    assert found == messages.parse_record(one).context
    assert found["id"].values == [b"v"]
  assert list(context_of(small_video("v", labels=[4]))["labels"].values) == [4]
  with pytest.raises(messages.BadRecordError):
    context_of(b"\xff\xff no protocol buffer")


def test_a_bad_record_is_used_so_that_it_is_named(tmp_path):
  records = [
    b"\xff\xff no protocol buffer",
    small_frames("v", 9, labels=None),
    small_frames("v", 9, labels=[7, 2]),
    small_frames("v", 9, labels=[-1]),
    frame_record("v", [1], audio=bytes_of(3, 2)),
  ]
  selection = Selection(NUM_CLASSES, [1], 4, "rgb")
  assert used(selection, tmp_path, records) == [1] * 5
  # Some things are known of a bad record too.
  selection = Selection(NUM_CLASSES, [0], 10, "rgb")
  assert used(selection, tmp_path, records) == [1, 0, 0, 0, 0]
  record = segment_record("v", [(0, 9, 1.0)], rgb=bytes_of(5, 3))
  selection = Selection(NUM_CLASSES, [1], segments=True)
  assert used(selection, tmp_path, [record, small_frames("v")]) == [1, 1]


def test_a_damaged_record_is_used(tmp_path):
  path = write_records(tmp_path / "a", [small_video("v", [2])] * 3)
  content = bytearray((tmp_path / "a").read_bytes())
  content[shards.walk(path).offsets[1] + 30] ^= 1
  (tmp_path / "a").write_bytes(content)
  selection = Selection(NUM_CLASSES, [1])
  examples = selection.examples_of_file(path, shards.kept_walk(path))
  assert examples.tolist() == [0, 1, 0]


# --------------------------------------------------------------------------
# What is read, and what is kept


@pytest.fixture
def fetched(monkeypatch):
  """How many bytes each call of RecordReader has read."""
  sizes = []
  of_part, of_read = shards.RecordReader.part, shards.RecordReader.read

  def part(self, file, offset, at, size):
    sizes.append(size)
    return of_part(self, file, offset, at, size)

  def read(self, file, offset, length):
    sizes.append(length)
    return of_read(self, file, offset, length)

  monkeypatch.setattr(shards.RecordReader, "part", part)
  monkeypatch.setattr(shards.RecordReader, "read", read)
  return sizes


def test_only_the_front_of_a_long_record_is_read(tmp_path, fetched):
  records = [wide_frames("v", 300, [number % 3]) for number in range(4)]
  path = write_records(tmp_path / "a", records)
  walk = shards.kept_walk(path)
  selection = Selection(NUM_CLASSES, [1], 200, "rgb")
  assert selection.examples_of_file(path, walk).tolist() == [0, 1, 0, 0]
  assert sum(fetched) < 4 * 6000 < len(records[0]) / 50


def test_another_selection_needs_no_second_look(tmp_path, fetched):
  path = write_records(
    tmp_path / "a", [small_frames("v", 4, [number]) for number in range(3)]
  )
  walk = shards.kept_walk(path)

  def examples(*arguments):
    found = Selection(NUM_CLASSES, *arguments).examples_of_file(path, walk)
    return found.tolist()

  assert examples([1], 4, "rgb") == [0, 1, 0]
  fetched.clear()
  assert examples([0, 2], 3, "rgb") == [1, 0, 1]
  assert examples([0], 5, "rgb") == [0, 0, 0]
  assert examples([2]) == [0, 0, 1]
  assert not fetched
  write_records(tmp_path / "a", [small_frames("v", 4, [2])] * 2)
  walk = shards.kept_walk(path)
  assert examples([2]) == [1, 1]
  assert fetched


def test_where_nothing_can_be_kept(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
  records = [small_frames("v", 4, [number]) for number in range(3)]
  assert used(Selection(NUM_CLASSES, [1], 4, "rgb"), tmp_path, records) == [
    *(0, 1, 0)
  ]


def test_random_records_against_a_plain_computation(tmp_path):
  random = np.random.default_rng(0)
  num_classes = 400  # indices of one byte and of two
  for _ in range(20):
    facts, records = [], []
    for _ in range(30):
      labels = random.integers(num_classes, size=random.integers(5))
      length = int(random.integers(200))
      facts.append((set(labels.tolist()), length))
      records.append(
        frame_record("v", labels, rgb=bytes_of(length, random.integers(1, 90)))
      )
    classes = random.choice(num_classes, 150, replace=False).tolist()
    min_frames = int(random.integers(1, 150))
    selection = Selection(num_classes, classes, min_frames, "rgb")
    expected = [
      int(bool(labels & {*classes}) and length >= min_frames)
      for labels, length in facts
    ]
    assert 0 < sum(expected) < 30
    assert used(selection, tmp_path, records) == expected


def test_classes_of_video_level_records_of_any_order(tmp_path):
  records = [
    video_record("v", [number], **{name: np.ones(2000, np.float32)})
    for number in range(3)
    for name in ("a", "z")  # before the labels and after
  ]
  selection = Selection(NUM_CLASSES, [2])
  assert used(selection, tmp_path, records) == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("make", [wide_frames, frame_record, video_record])
def test_the_context_of_a_stored_record(tmp_path, make):
  """The same as of a record that was read whole; also of large ones."""
  records = [
    make(f"v{number}", *([6] if make is wide_frames else []), labels=[number])
    for number in range(3)
  ]
  path = write_records(tmp_path / "a", records)
  walk, reader = shards.kept_walk(path), shards.RecordReader([path])
  for number, record in enumerate(records):
    context = stored_context(reader, *walk.place(number))
    assert context == messages.parse_record(record).context
    assert context["labels"].values == [number]


def test_a_context_in_a_damaged_record(tmp_path):
  path = write_records(tmp_path / "a", [frame_record("v", [1]), b"nothing"])
  walk, reader = shards.kept_walk(path), shards.RecordReader([path])
  assert stored_context(reader, *walk.place(0))["labels"].values == [1]
  with pytest.raises(messages.BadRecordError):
    stored_context(reader, *walk.place(1))
