"""Tests of segment_ratings."""

import contextlib
import gzip
import io
import os

import in_process
import numpy as np
import pytest
from conftest import SEGMENT_RATINGS, assert_names, error_of
from make_records import (
  bytes_of,
  segment_record,
  small_frames,
  video_record,
  write_records,
)

import errors
from engine import segment_ratings
from engine.data import Data
from engine.data_files import find_files
from engine.segment_ratings import Ratings, kept_ratings, read_ratings


def pairs(ratings: Ratings) -> dict:
  """{(segment, class): whether it is positive}."""
  columns = (column.tolist() for column in ratings)
  return {(name, index): hit for name, index, hit in zip(*columns, strict=True)}


def record(video_id, ratings, length=12):
  return segment_record(
    video_id, ratings, rgb=bytes_of(length, 3), audio=bytes_of(length, 2)
  )


RECORDS = [
  record("a", [(0, 3, 1.0), (0, 1, 0.0), (5, 3, 0.0)]),
  record("none", []),
  small_frames("plain"),
  record("b", [(10, 2, 1.0)]),
]
EXPECTED = {
  (b"a:0", 3): True,
  (b"a:0", 1): False,
  (b"a:5", 3): False,
  (b"b:10", 2): True,
}


@pytest.fixture
def file(tmp_path):
  return write_records(tmp_path / "data.tfrecord", RECORDS)


# --------------------------------------------------------------------------
# Records


def test_ratings(file, segment_files):
  found = read_ratings([file])
  assert pairs(found) == EXPECTED
  assert found.segments.dtype.kind == "S"
  assert found.classes.dtype == np.int64
  # Of records that are too large to be read whole.
  assert pairs(read_ratings(find_files(segment_files, "flag"))) == {
    (f"seg{number}:{start}".encode(), index): score > 0
    for number, ratings in enumerate(SEGMENT_RATINGS)
    for start, index, score in ratings
  }


def test_compressed_records(tmp_path, file):
  path = tmp_path / "data.tfrecord.gz"
  with open(file, "rb") as data:
    path.write_bytes(gzip.compress(data.read()))
  assert pairs(read_ratings([str(path)])) == EXPECTED
  assert segment_ratings.rated_classes([str(path)]) == [1, 2, 3]


def test_ratings_of_one_pair_are_one(tmp_path):
  """Any positive one counts, as in the labels of evaluation."""
  records = [
    record("a", [(0, 3, 1.0), (0, 3, 0.0), (5, 1, 0.0), (5, 1, 0.0)]),
    record("b", [(0, 4, 0.0)]),
    record("b", [(0, 4, 1.0)]),
  ]
  file = write_records(tmp_path / "data", records)
  assert pairs(read_ratings([file])) == {
    (b"a:0", 3): True,
    (b"a:5", 1): False,
    (b"b:0", 4): True,
  }


def test_golden_ratings(shared_dir):
  """As many ratings as the original's reader has weights, of the same sum."""
  folder = shared_dir / "golden" / "readers"
  expected = np.load(folder / "expected.npz")
  found = read_ratings([str(folder / "segment.tfrecord")])
  assert sorted(found.classes.tolist()) == sorted(
    expected["segment_weight_classes"].tolist()
  )
  assert found.is_positive.sum() == expected["segment_scores"].sum()
  ids = {name.split(b":")[0] for name in found.segments.tolist()}
  assert ids == set(expected["segment_ids"].tolist())


def test_ratings_are_the_labels_of_evaluation(segment_files):
  files = find_files(segment_files, "flag")
  model_flags = {
    "feature_names": "rgb,audio",
    "feature_sizes": "1024,128",
    "frame_features": True,
    "num_classes": 40,
    "max_frames": 300,
  }
  expected = {}
  data = Data(model_flags, files, with_labels=True, segment_labels=True)
  for batch in data.evaluation_batches(4).as_numpy_iterator():
    for row, index in np.argwhere(batch["label_weights"]).tolist():
      start = batch["segment_start_times"][row]
      name = b"%b:%d" % (batch["video_ids"][row], start)
      expected[name, index] = bool(batch["labels"][row, index])
  assert pairs(read_ratings(files)) == expected


def test_no_ratings(tmp_path):
  file = write_records(tmp_path / "data", [small_frames("a"), record("b", [])])
  text = error_of(read_ratings, [file])
  assert_names(text, "Expected rated segments", file, "found none")
  assert segment_ratings.rated_classes([file]) == []


def test_a_bad_record_is_named(tmp_path):
  bad = video_record("bad", segment_labels=np.array([1]))
  file = write_records(tmp_path / "data", [*RECORDS, bad])
  assert_names(error_of(read_ratings, [file]), file, "record 4", "expected")
  # Prediction goes on: what is wrong is said where the record is used.
  assert segment_ratings.rated_classes([file]) == [1, 2, 3]


def test_a_file_that_is_cut_off_is_named(tmp_path, file):
  path = tmp_path / "cut"
  with open(file, "rb") as data:
    path.write_bytes(data.read()[:-3])
  assert_names(error_of(read_ratings, [str(path)]), str(path))


# --------------------------------------------------------------------------
# The file that keeps them


def read_log(files, cache) -> tuple[dict, str]:
  """The ratings, and what was logged."""
  log = io.StringIO()
  with in_process._logged_to(log):
    found = kept_ratings(files, str(cache))
  return pairs(found), log.getvalue()


def test_ratings_are_kept(tmp_path, file, monkeypatch):
  cache = tmp_path / "cache"
  assert read_log([file], "")[0] == EXPECTED
  found, log = read_log([file], cache)
  assert found == EXPECTED
  assert f"The ratings are kept in {cache}" in log
  monkeypatch.delattr(segment_ratings, "read_ratings")
  found, log = read_log([file], cache)
  assert found == EXPECTED
  assert f"those kept in {cache}" in log


@pytest.mark.parametrize("change", ["content", "time", "name", "more files"])
def test_ratings_of_changed_files_are_read_again(tmp_path, file, change):
  cache = tmp_path / "cache"
  read_log([file], cache)
  files, expected = [file], EXPECTED
  other = record("b", [(5, 2, 1.0)])
  if change == "content":
    write_records(file, [other])
    expected = {(b"b:5", 2): True}
  elif change == "time":
    os.utime(file, ns=(1, 1))
  elif change == "name":
    os.rename(file, f"{file}.new")
    files = [f"{file}.new"]
  else:
    files = [file, write_records(tmp_path / "more", [other])]
    expected = {**EXPECTED, (b"b:5", 2): True}
  found, log = read_log(files, cache)
  assert found == expected
  assert "these have changed" in log
  found, log = read_log(files, cache)
  assert found == expected
  assert "those kept" in log


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_file_is_one_line(tmp_path, file, number):
  cache = tmp_path / "cache"
  kept_ratings([file], str(cache))
  content = bytearray(cache.read_bytes())
  if number < 4:  # cut off
    content = content[: len(content) * number // 4]
  else:
    # Not in the dates of the archive's members, which mean nothing.
    place = content.index(b"a:0") + number - 4
    content[place] ^= 1
  cache.write_bytes(content)
  text = error_of(kept_ratings, [file], str(cache))
  assert_names(text, f"--label_cache={cache}", "damaged", "Delete it")
  assert cache.read_bytes() == content


def test_any_other_byte_is_one_line_or_harmless(tmp_path, file):
  cache = tmp_path / "cache"
  kept_ratings([file], str(cache))
  whole = cache.read_bytes()
  for place in range(len(whole)):
    content = bytearray(whole)
    content[place] ^= 0xFF
    cache.write_bytes(content)
    with contextlib.suppress(errors.UserError):  # and nothing else
      segment_ratings._read_kept(str(cache))


@pytest.mark.parametrize("content", [b"", b"a:0,3,1.0\n", b"\x93NUMPY"])
def test_another_file_is_not_overwritten(tmp_path, file, content):
  cache = tmp_path / "cache"
  cache.write_bytes(content)
  assert_names(error_of(kept_ratings, [file], str(cache)), str(cache))
  assert cache.read_bytes() == content


def test_a_place_where_no_file_can_be(tmp_path, file):
  (tmp_path / "folder").mkdir()
  for cache in (tmp_path / "folder", f"{file}/cache"):
    text = error_of(kept_ratings, [file], str(cache))
    assert_names(text, f"--label_cache={cache}: ", "Name another")


def test_a_new_folder_is_made(tmp_path, file):
  cache = tmp_path / "new" / "cache"
  kept_ratings([file], str(cache))
  assert "those kept" in read_log([file], cache)[1]


def test_arrays_that_are_no_ratings(tmp_path, file):
  cache = tmp_path / "cache"
  for content in [
    {"segments": np.array([b"a"])},
    {name: np.array([1]) for name in (*Ratings._fields, "identity")},
  ]:
    with open(cache, "wb") as out:
      np.savez(out, **content)
    assert "holds something else" in error_of(kept_ratings, [file], str(cache))
