"""Tests of records.shards."""

import contextlib
import os
import resource
import struct
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from conftest import REPOSITORY, assert_names, error_of, read_batches
from hypothesis import strategies
from make_records import SMALL_VIDEO_FLAGS, small_video, write_records

from engine.data import Data
from records import messages, shards

RECORDS = [b"", b"one", bytes(300), b"x" * 7, b"last"]


@pytest.fixture
def file(tmp_path):
  return write_records(tmp_path / "file", RECORDS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A folder of kept walks for each test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "yt8m"


def read_all(file):
  """The records of a file, and the (number, error) of those that are bad."""
  errors = []
  records = shards.numbered_records(file, lambda *error: errors.append(error))
  return {number: bytes(data) for number, data in records}, errors


def by_tensorflow(file):
  """The records that TensorFlow reads before it stops."""
  found = []
  with contextlib.suppress(tf.errors.DataLossError):
    for data in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
      found.append(data)
  return found


# --------------------------------------------------------------------------
# Walks and records


def test_records_are_found_and_read(file):
  walk = shards.walk(file)
  assert walk.lengths.tolist() == [len(record) for record in RECORDS]
  assert walk.size == walk.offsets[-1] == os.path.getsize(file)
  assert walk.lost_bytes == walk.lost_records(100.0) == 0
  assert shards.damage_after(file, walk) is None
  reader = shards.RecordReader([file])
  places = list(zip(walk.offsets, walk.lengths, RECORDS, strict=False))
  assert [walk.place(number) for number in range(len(walk))] == [
    (offset, length) for offset, length, _ in places
  ]
  for offset, length, record in places[::-1]:
    reader.read_ahead(0, offset, length)
    assert reader.read(0, offset, length) == record
  assert read_all(file) == (dict(enumerate(RECORDS)), [])


def test_a_reader_closes_files_and_makes_room(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_MOST_OPEN_FILES", 2)
  large = bytes(range(256)) * 5000
  files = [
    write_records(tmp_path / f"file{number}", [bytes([number]), large])
    for number in range(5)
  ]
  walks = [shards.walk(file) for file in files]
  reader = shards.RecordReader(files)
  for number in (0, 4, 2, 0, 1, 3, 4):
    offsets, lengths = walks[number].offsets, walks[number].lengths
    assert reader.read(number, offsets[0], lengths[0]) == bytes([number])
    assert reader.read(number, offsets[1], lengths[1]) == large
  assert len(reader._files) == 2


def test_where_few_files_may_be_open_others_are_closed(tmp_path):
  files = [
    write_records(tmp_path / str(number), [bytes([number])])
    for number in range(20)
  ]
  reader = shards.RecordReader(files)
  for number in range(5):
    reader.read(number, 0, 1)
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  # The number of the next one is the lowest that is free.
  with open(os.devnull) as last:
    lowest = last.fileno()
  resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
  try:
    found = [bytes(reader.read(number, 0, 1)) for number in range(20)]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
  assert found == [bytes([number]) for number in range(20)]


def header(length):
  data = struct.pack("<Q", length)
  return data + struct.pack("<I", shards.checksum(data))


DAMAGED = {
  "length of 2^40": (lambda whole, at: whole[:at] + header(1 << 40), "cut off"),
  "2 GB": (lambda whole, at: whole[:at] + header(2 << 30) + whole, "cut off"),
  "half a header": (lambda whole, at: whole[: at + 5], "cut off"),
  "half a record": (lambda whole, at: whole[: at + 20], "cut off"),
  "no footer": (lambda whole, at: whole[: at + 12 + 300], "cut off"),
  "a bit of the length": (
    lambda whole, at: whole[:at] + b"\x01" + whole[at + 1 :],
    "checksum",
  ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_after_a_damaged_length_the_rest_is_given_up(tmp_path, file, name):
  damage, kind = DAMAGED[name]
  with open(file, "rb") as opened:
    whole = opened.read()
  at = int(shards.walk(file).offsets[2])
  damaged = tmp_path / "damaged"
  damaged.write_bytes(damage(whole, at))
  walk = shards.walk(str(damaged))
  assert len(walk) == 2
  assert walk.lost_bytes == damaged.stat().st_size - at
  records, errors = read_all(str(damaged))
  assert records == dict(enumerate(RECORDS[:2]))
  ((number, error),) = errors
  assert (number, error.kind) == (2, kind)
  assert walk.lost_records(walk.lost_bytes / 3) == 3


@pytest.mark.parametrize(
  ("content", "kind", "words"),
  [
    (b"", "empty file", "an empty file"),
    (bytes(7), "not a TFRecord", "one that begins with"),
    (b"\x1f\x8b" + bytes(50), "not a TFRecord", "gzip"),
    (b"\n<!DOCTYPE html>" * 5, "not a TFRecord", "HTML"),
    (b"id,label\n1,2\n" * 9, "not a TFRecord", "b'id,label"),
  ],
)
def test_files_that_are_no_tfrecord_files(tmp_path, content, kind, words):
  file = tmp_path / "file"
  file.write_bytes(content)
  records, errors = read_all(str(file))
  assert not records
  ((number, error),) = errors
  assert (number, error.kind) == (0, kind)
  assert words in str(error)
  text = error_of(Data, SMALL_VIDEO_FLAGS, [str(file)], True)
  assert_names(text, f"{file}, record 0: ", words)


def test_a_record_that_no_program_can_parse_takes_no_memory(tmp_path):
  file = tmp_path / "file"
  length = 5 << 30
  file.write_bytes(header(length))
  os.truncate(file, length + 16)  # takes no disk
  walk = shards.walk(str(file))
  assert walk.lengths.tolist() == [length]
  reader = shards.RecordReader([str(file)])
  with pytest.raises(messages.BadRecordError, match="at most 2147483647"):
    reader.read(0, 0, length)
  assert len(reader._buffer) < 1 << 20


def test_a_record_may_come_in_parts(file, monkeypatch):
  read = os.preadv

  def read_some(descriptor, buffers, offset):
    return read(descriptor, [buffers[0][:7]], offset)

  monkeypatch.setattr(os, "preadv", read_some)
  assert read_all(file) == (dict(enumerate(RECORDS)), [])


def test_damaged_data_is_one_record(tmp_path, file):
  walk = shards.walk(file)
  with open(file, "r+b") as opened:
    opened.seek(walk.offsets[2] + 100)
    opened.write(b"!")
  records, errors = read_all(file)
  assert sorted(records) == [0, 1, 3, 4]
  ((number, error),) = errors
  assert (number, error.kind) == (2, "checksum")


def test_a_file_that_changes_while_it_is_read(file):
  walk = shards.walk(file)
  reader = shards.RecordReader([file])
  reader.read(0, walk.offsets[2], 300)
  os.truncate(file, walk.offsets[2] + 100)
  with pytest.raises(messages.BadRecordError, match="received 100") as caught:
    reader.read(0, walk.offsets[2], 300)
  assert caught.value.kind == "cut off"
  write_records(file, [b"longer"] * 40)
  with pytest.raises(messages.BadRecordError, match="has changed"):
    reader.read(0, walk.offsets[2], 300)


def test_a_file_that_is_replaced_while_it_is_open(tmp_path, file):
  reader = shards.RecordReader([file])
  reader.read(0, 0, 0)
  os.replace(write_records(tmp_path / "new", [b"longer", b"two"]), file)
  walk = shards.kept_walk(file)
  assert reader.read(0, walk.offsets[0], 6) == b"longer"
  assert reader.read(0, walk.offsets[1], 3) == b"two"


def check_changed_file(folder, changes, length):
  """Compares a walk over a changed file with TensorFlow's reading."""
  whole = (folder / "whole").read_bytes()
  changed = bytearray(whole)
  for place, value in changes:
    changed[place % len(changed)] = value
  file = folder / "changed"
  file.write_bytes(bytes(changed[: length % (len(whole) + 1)]))
  records, _ = read_all(str(file))
  # TensorFlow stops at the first damage, of a length or of data.
  expected = by_tensorflow(file)
  first = [records.get(number) for number in range(len(expected))]
  assert first == expected
  assert len(records) >= len(expected)
  # What comes after it is a record that was written.
  assert set(records.values()) <= {*RECORDS, *expected}


CHANGES = hypothesis.given(
  changes=strategies.lists(
    strategies.tuples(strategies.integers(0, 500), strategies.integers(0, 255)),
    max_size=3,
  ),
  length=strategies.one_of(
    strategies.just(-1), strategies.integers(0, 1 << 20)
  ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("changed")
  write_records(folder / "whole", RECORDS)
  return folder


@CHANGES
@hypothesis.settings(max_examples=300, deadline=None)
def test_changed_files_are_read_as_tensorflow_reads_them(
  folder, changes, length
):
  check_changed_file(folder, changes, length)


@pytest.mark.slow
@CHANGES
@hypothesis.settings(max_examples=10_000, deadline=None)
def test_many_more_changed_files(folder, changes, length):
  check_changed_file(folder, changes, length)


def damage_end(content):
  return content[:-7]


def damage_middle(content):
  """Flips a bit inside of the third of four equally long records."""
  position = len(content) * 5 // 8
  changed = content[position] ^ 1
  return content[:position] + bytes([changed]) + content[position + 1 :]


@pytest.mark.parametrize(
  ("damage", "number", "words"),
  [(damage_end, 3, "a file that ends"), (damage_middle, 2, "damaged data")],
)
def test_damaged_file(tmp_path, damage, number, words):
  write_records(tmp_path / "whole", [small_video("good")] * 4)
  before = write_records(tmp_path / "before", [small_video("good")] * 70)
  damaged = tmp_path / "damaged"
  damaged.write_bytes(damage((tmp_path / "whole").read_bytes()))
  data = Data(SMALL_VIDEO_FLAGS, [before, str(damaged)], True)
  text = error_of(read_batches, data, batch_size=2)
  assert_names(text, f"{damaged}, record {number}: ", words)


# --------------------------------------------------------------------------
# Kept walks


def forbid_walks(monkeypatch):
  def fail(path):
    raise AssertionError(f"{path} was walked again")

  monkeypatch.setattr(shards, "walk", fail)


def test_a_walk_is_kept(file, cache, monkeypatch):
  assert not shards.is_kept(file)
  walk = shards.kept_walk(file)
  assert shards.is_kept(file)
  assert len(list(cache.iterdir())) == 1
  forbid_walks(monkeypatch)
  again = shards.kept_walk(file)
  np.testing.assert_array_equal(again.offsets, walk.offsets)
  assert again.size == walk.size
  # By whichever path.
  link = f"{file}_link"
  os.symlink(file, link)
  assert len(shards.kept_walk(link)) == 5


def test_what_a_kill_has_left_over_is_removed_after_a_day(file, cache):
  cache.mkdir(parents=True)
  old, new = cache / "tmpold.aside", cache / "tmpnew.aside"
  for path in (old, new):
    path.write_bytes(b"half of a walk")
  os.utime(old, (1e9, 1e9))
  shards.kept_walk(file)
  assert not old.exists()
  assert new.exists()


def test_a_walk_of_a_changed_file_is_not_used(file, cache):
  shards.kept_walk(file)
  write_records(file, RECORDS[:3])
  assert not shards.is_kept(file)
  assert len(shards.kept_walk(file)) == 3
  assert len(list(cache.iterdir())) == 1


def test_a_damaged_file_may_be_replaced_by_one_of_its_size_and_time(
  tmp_path, file
):
  """As programs do that set the time which the server says."""
  whole = shards.walk(file)
  damaged = str(tmp_path / "damaged")
  with open(file, "rb") as opened:
    content = bytearray(opened.read())
  content[whole.offsets[2]] ^= 1
  with open(damaged, "wb") as opened:
    opened.write(content)
  for path in (file, damaged):
    os.utime(path, (1e9, 1e9))
  assert len(shards.kept_walk(damaged)) == 2
  os.replace(file, damaged)
  again = shards.kept_walk(damaged)
  assert len(again) == len(RECORDS)
  assert shards.damage_after(damaged, again) is None


@pytest.mark.parametrize("content", [b"", b"short", bytes(400)])
def test_a_damaged_walk_is_not_used(file, cache, content):
  shards.kept_walk(file)
  (kept,) = cache.iterdir()
  kept.write_bytes(content)
  assert not shards.is_kept(file)
  assert len(shards.kept_walk(file)) == 5
  assert shards.is_kept(file)
  damaged = bytearray(kept.read_bytes())
  damaged[-5] ^= 1
  kept.write_bytes(bytes(damaged))
  assert not shards.is_kept(file)


def test_where_nothing_can_be_kept_a_file_is_walked_again(file, cache):
  cache.parent.mkdir()
  cache.write_text("a file where the folder should be")
  assert len(shards.kept_walk(file)) == 5
  assert not shards.is_kept(file)


def test_without_a_home_nothing_is_kept(file, tmp_path, monkeypatch):
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  monkeypatch.chdir(tmp_path)
  assert len(shards.kept_walk(file)) == 5
  assert not shards.is_kept(file)
  assert not (tmp_path / "~").exists()


def test_several_processes_may_keep_the_same(file, cache):
  code = f"""if True:
    from records import shards
    for _ in range(200):
      identity = shards.identity_of({file!r})
      offsets = shards.walk({file!r}).offsets
      shards.keep({file!r}, "records", offsets, identity)
  """
  processes = [
    subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    for _ in range(2)
  ]
  while any(process.poll() is None for process in processes):
    assert len(shards.kept_walk(file)) == 5
  assert [process.returncode for process in processes] == [0, 0]
  assert len(list(cache.iterdir())) == 1


def test_records_are_read_in_a_row(tmp_path):
  contents = [b"a" * 5, b"", b"b" * 700_000, b"c" * 9]
  path = write_records(tmp_path / "a", contents)
  offsets = shards.walk(path).offsets.tolist()
  reader = shards.RecordReader([path])
  assert [bytes(of) for of in reader.read_row(0, offsets)] == contents
  assert [bytes(of) for of in reader.read_row(0, offsets[1:3])] == [b""]
  # Those that are damaged are left to `read`.
  data = bytearray((tmp_path / "a").read_bytes())
  data[offsets[2] + 500] ^= 1
  data[offsets[0]] ^= 1  # a length
  (tmp_path / "b").write_bytes(data[:-3])
  reader = shards.RecordReader([str(tmp_path / "b")])
  row = reader.read_row(0, offsets)
  assert [None if of is None else bytes(of) for of in row] == [
    None,
    b"",
    None,
    None,
  ]
