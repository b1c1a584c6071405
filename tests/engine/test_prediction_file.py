"""Tests of files with the predictions of all classes."""

import contextlib
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from conftest import error_of

import errors
from engine import prediction_file
from engine.prediction_file import (
  VideoIndex,
  read_predictions,
  write_predictions,
)

CLASSES = [2, 5, 7]


def make_batches(sizes, num_classes=3):
  """Batches of random predictions; ids are v0, v1, ..."""
  random = np.random.default_rng(1)
  batches, number = [], 0
  for size in sizes:
    ids = np.array([f"v{number + i}".encode() for i in range(size)], object)
    batches.append((ids, random.random((size, num_classes), np.float32)))
    number += size
  return batches


@pytest.mark.parametrize("sizes", [[1], [4, 4, 3], [700, 700]])
def test_what_is_written_is_read(tmp_path, sizes):
  batches = make_batches(sizes)
  path = str(tmp_path / "x.npz")
  assert write_predictions(path, iter(batches), CLASSES) == sum(sizes)
  expected = np.concatenate([rows for _, rows in batches])
  ids = [f"v{number}".encode() for number in range(sum(sizes))]
  with np.load(path, allow_pickle=False) as loaded:  # checks the checksums
    assert set(loaded) == {"video_ids", "predictions", "classes"}
    np.testing.assert_array_equal(loaded["predictions"], expected)
    assert loaded["predictions"].dtype == np.float32
    assert loaded["video_ids"].tolist() == ids
    assert loaded["classes"].tolist() == CLASSES
    assert loaded["classes"].dtype == np.int32
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
  found = read_predictions(path)
  np.testing.assert_array_equal(found.predictions, expected)
  assert found.video_ids.tolist() == ids
  assert found.classes.tolist() == CLASSES
  assert isinstance(found.predictions, np.memmap)


def test_files_above_the_limit_of_old_archives(tmp_path, monkeypatch):
  monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # 2 GB
  ((ids, expected),) = batches = make_batches([500])
  path = str(tmp_path / "x.npz")
  write_predictions(path, batches, CLASSES)
  with np.load(path) as loaded:
    np.testing.assert_array_equal(loaded["predictions"], expected)
    assert loaded["video_ids"].tolist() == ids.tolist()
  np.testing.assert_array_equal(read_predictions(path).predictions, expected)


def test_half_as_many_bytes(tmp_path):
  path = str(tmp_path / "x.npz")
  ((_, expected),) = batches = make_batches([8])
  write_predictions(path, batches, CLASSES, np.float16)
  found = read_predictions(path).predictions
  assert found.dtype == np.float16
  np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_a_file_of_numpy_is_read_too(tmp_path):
  predictions = np.asfortranarray(np.random.default_rng(1).random((4, 3)))
  np.savez(
    tmp_path / "x.npz",
    video_ids=np.array([b"a", b"bc", b"d", b"e"]),
    predictions=predictions.astype(np.float32, order="F"),
    classes=np.arange(3),
  )
  found = read_predictions(str(tmp_path / "x.npz"))
  np.testing.assert_array_equal(
    found.predictions, predictions.astype(np.float32)
  )
  assert found.video_ids.tolist() == [b"a", b"bc", b"d", b"e"]


@pytest.mark.parametrize("length", [0, 1, 6, 7, 30])
def test_the_checksum_of_another_beginning(monkeypatch, length):
  monkeypatch.setattr(prediction_file, "_ZEROS", bytes(7))
  random = np.random.default_rng(length)
  before, after, rest = (random.bytes(size) for size in (16, 16, length))
  found = prediction_file._with_other_beginning(
    zlib.crc32(before + rest), before, after, length
  )
  assert found == zlib.crc32(after + rest)


def test_writing_needs_little_memory(tmp_path):
  rows = np.ones((256, 1024), np.float32)  # 1 MB
  ids = np.array([b"v"] * 256, object)
  tracemalloc.start()
  write_predictions(
    str(tmp_path / "x.npz"), ((ids, rows) for _ in range(50)), range(1024)
  )
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.reset_peak()
  found = read_predictions(str(tmp_path / "x.npz"))
  assert found.predictions[12_000].sum() == 1024
  _, reading_peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert found.predictions.nbytes > 50e6
  assert peak < 5e6
  assert reading_peak < 5e6


def test_a_failure_leaves_the_old_file(tmp_path):
  path = tmp_path / "x.npz"
  path.write_text("of an earlier run")

  def batches():
    yield from make_batches([3])
    raise KeyError("a bad record")

  with pytest.raises(KeyError):
    write_predictions(str(path), batches(), CLASSES)
  assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
  assert path.read_text() == "of an earlier run"


GOOD = {
  "video_ids": np.array([b"a", b"b"]),
  "predictions": np.zeros((2, 3), np.float32),
  "classes": np.arange(3),
}


@pytest.mark.parametrize(
  ("changes", "part"),
  [
    ({"classes": None}, "classes.npy"),
    ({"classes": np.arange(2)}, "classes (2,)"),
    ({"video_ids": np.array(["a", "b"])}, "video_ids (2,) <U1"),
    ({"video_ids": np.array([b"a"])}, "video_ids (1,)"),
    ({"predictions": np.zeros((2, 3))}, "float64"),
    ({"predictions": np.zeros((2, 3), object)}, "object"),
    ({"predictions": np.zeros((0, 3), np.float32)}, "(0, 3)"),
  ],
)
def test_other_arrays(tmp_path, changes, part):
  arrays = {**GOOD, **changes}
  arrays = {key: value for key, value in arrays.items() if value is not None}
  path = str(tmp_path / "x.npz")
  np.savez(path, **arrays)
  text = error_of(read_predictions, path)
  assert f"received {path} (" in text
  assert part in text
  assert "inference.py --all_classes" in text


def test_a_compressed_file(tmp_path):
  path = str(tmp_path / "x.npz")
  np.savez_compressed(path, **GOOD)
  assert "video_ids is compressed" in error_of(read_predictions, path)


def test_no_archive(tmp_path):
  (tmp_path / "x.npz").write_text("text")
  assert "not a zip file" in error_of(read_predictions, str(tmp_path / "x.npz"))


def test_a_damaged_header(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, **GOOD)
  content = bytearray(path.read_bytes())
  place = content.index(b"\x93NUMPY", content.index(b"predictions.npy"))
  shape = content.index(b"(2, 3)", place)
  content[shape : shape + 6] = b"(9, 3)"
  path.write_bytes(content)
  # More than the file holds, or other shapes; but no crash.
  assert "Expected an uncompressed" in error_of(read_predictions, str(path))
  content[place : place + 6] = struct.pack("6s", b"other.")
  path.write_bytes(content)
  assert "Expected an uncompressed" in error_of(read_predictions, str(path))


def test_any_other_byte_in_the_structure(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, **GOOD)
  whole = path.read_bytes()
  for place in range(len(whole)):
    for change in (1, 0x80, 0xFF):
      content = bytearray(whole)
      content[place] ^= change
      path.write_bytes(content)
      with contextlib.suppress(errors.UserError):  # and nothing else
        read_predictions(str(path))


def test_a_shape_that_no_file_has(tmp_path):
  shape = b"(" + b"9" * 25 + b", 3)"
  path = tmp_path / "x.npz"
  np.savez(path, **GOOD)
  content = path.read_bytes()
  place = content.index(b"(2, 3)")
  spaces = content[place + 6 :].index(b"\n")
  padded = shape + b", }".ljust(spaces + 6 - len(shape))
  path.write_bytes(content[:place] + padded + content[place + 6 + spaces :])
  assert "Expected an uncompressed" in error_of(read_predictions, str(path))


@pytest.mark.parametrize("path", ["x.csv", "gs://bucket/x.npz", ""])
def test_names_that_are_refused(path):
  text = error_of(prediction_file.check_path, path, "output_file")
  assert (
    f"as --output_file for predictions of all classes, received {path}"
    in (text)
  )


def test_videos_are_found_by_their_ids():
  index = VideoIndex(np.array([b"b", b"abc", b"a", b"b"]))
  rows = index.rows_of([b"a", b"nothing", b"b", b"abc", b"zz", b"ab"])
  assert rows.tolist() == [2, -1, 0, 1, -1, -1]
  assert index.rows_of([]).tolist() == []
  assert index.repeated() == b"b"
  assert VideoIndex(np.array([b"b", b"a"])).repeated() is None


def test_ids_of_any_bytes_are_found(tmp_path):
  ids = [b"a", b"a\0", b"\0", b"caf\xe9", b"\\x00", b"a\\x00", b""]
  predictions = np.arange(7, dtype=np.float32)[:, None] / 8
  path = str(tmp_path / "x.npz")
  prediction_file.write_predictions(path, [(ids, predictions)], [3])
  found = read_predictions(path)
  assert prediction_file.original_ids(found.video_ids) == ids
  with np.load(path) as arrays:
    assert arrays["video_ids"][3] == b"caf\xe9"
  index = VideoIndex(found.video_ids)
  assert index.repeated() is None
  wanted = prediction_file.stored_ids([*ids[::-1], b"a\0\0"])
  assert index.rows_of(wanted).tolist() == [6, 5, 4, 3, 2, 1, 0, -1]
