"""Tests of data_tools.webdataset_items."""

import io
import json
import tarfile

import numpy as np
import pytest

from data_tools import webdataset_items
from data_tools.embedding_items import ArrayReader
from data_tools.item_table import BadItemError


def npy(array) -> bytes:
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def write_tar(path, members):
  """A tar of {name: bytes}."""
  with tarfile.open(path, "w") as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return str(path)


def read_all(table):
  """{id: (labels, array or the problem)}."""
  reader, found = ArrayReader(False, table.read_part), {}
  for item in table:
    try:
      arrays = reader.read(item)
      array = arrays if len(arrays) > 1 else next(iter(arrays.values()))
      found[item.video_id] = item.labels, array
    except BadItemError as error:
      found[item.video_id] = item.labels, str(error)
  return found


def vector(*numbers):
  return npy(np.array(numbers, np.float32))


def test_labels_are_found_where_encoders_write_them(tmp_path):
  data = vector(1, 2)
  members = {
    "a/000.npy": data,
    "a/000.cls": b"3\n",
    "a/000.json": b'{"label": "other"}',
    "a/000.txt": b"a caption",
    "a/001.json": b'{"key": 1, "labels": ["cat", 7]}',
    "a/001.npy": data,
    "a/001.txt": b"a caption",
    "a/002.npy": data,
    "a/002.json": b'{"category": "dog; cat"}',
    "a/003.npy": data,
    "a/003.json": b'{"videoID": "x"}',
    "a/003.txt": b"bird;cat\n",
    "a/004.npy": data,
    "b/004.cls": b"1",
    "b/004.embedding.npy": data,
  }
  path = write_tar(tmp_path / "0.tar", members)
  table = webdataset_items.read_tars([path], ["embedding"])
  assert [(item.video_id, item.labels) for item in table] == [
    ("a/000", ["3"]),
    ("a/001", ["cat", "7"]),
    ("a/002", ["dog", "cat"]),
    ("a/003", ["bird", "cat"]),
    ("a/004", []),
    ("b/004", ["1"]),
  ]
  for _, array in read_all(table).values():
    np.testing.assert_array_equal(array, [1, 2])
  # A table of labels wins.
  table = webdataset_items.read_tars([path], ["e"], {"a/000": ["x", "y"]})
  assert [table[0].labels, table[1].labels] == [["x", "y"], ["cat", "7"]]


def test_several_tars_and_features(tmp_path):
  clips = [np.full((2, 3), number, np.float16) for number in range(20)]
  paths = []
  for shard in range(10):  # more than are open at once
    members = {}
    for number in (2 * shard, 2 * shard + 1):
      members[f"{number}.clip.npy"] = npy(clips[number])
      members[f"{number}.audio.npy"] = npy(-clips[number][:, :1])
      members[f"{number}.cls"] = b"0"
    paths.append(write_tar(tmp_path / f"{shard}.tar", members))
  table = webdataset_items.read_tars(paths, ["clip", "audio"])
  assert table.is_streamed
  found = read_all(table)
  for _ in range(2):  # it can be read again
    for number, clip in enumerate(clips):
      _, arrays = found[str(number)]
      np.testing.assert_array_equal(arrays["clip"], clip)
      np.testing.assert_array_equal(arrays["audio"], -clip[:, :1])
    found = read_all(table)


@pytest.mark.parametrize("cut", ["content", "padding", "head", "mark"])
def test_a_tar_cut_short_is_reported_and_what_is_whole_is_used(tmp_path, cut):
  members = {"a.npy": vector(1, 2), "a.cls": b"0", "b.npy": vector(3, 4)}
  path = write_tar(tmp_path / "0.tar", members)
  good = write_tar(tmp_path / "1.tar", {"c.npy": vector(5, 6), "c.cls": b"cat"})
  content = (tmp_path / "0.tar").read_bytes()
  # Heads and contents have a block each, of 512 bytes; the last content begins
  # at 2560 and has 136 bytes.
  size = {"content": 2690, "padding": 2700, "head": 2148, "mark": 3072}[cut]
  (tmp_path / "0.tar").write_bytes(content[:size])
  table = webdataset_items.read_tars([path, good], ["e"])
  found = read_all(table)
  np.testing.assert_array_equal(found["a"][1], [1, 2])
  np.testing.assert_array_equal(found["c"][1], [5, 6])
  assert "cut short" in found["0.tar"][1]
  assert ("b" in found) == (cut in ("padding", "mark"))


def test_files_that_are_no_tars_are_reported(tmp_path):
  members = {"a.npy": vector(1), "a.cls": b"0", "b.npy": vector(3)}
  write_tar(tmp_path / "damaged.tar", members)
  content = bytearray((tmp_path / "damaged.tar").read_bytes())
  content[512 * 2 : 512 * 3] = b"x" * 512
  (tmp_path / "damaged.tar").write_bytes(content)
  (tmp_path / "text.tar").write_text("hello " * 200)
  (tmp_path / "short.tar").write_text("hello")
  (tmp_path / "empty.tar").touch()
  with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
    tar.addfile(tarfile.TarInfo("x.npy"))
  names = ["damaged", "text", "short", "packed", "empty", "missing"]
  paths = [str(tmp_path / f"{name}.tar") for name in names]
  table = webdataset_items.read_tars(paths, ["e"])
  problems = {item.video_id: item.problem for item in table}
  assert "damaged at 1024 bytes" in problems["damaged.tar"]
  for name in ("text", "short", "packed"):
    assert "no tar without compression" in problems[f"{name}.tar"]
  assert "no tar, but empty" in problems["empty.tar"]
  assert "No such file" in problems["missing.tar"]
  assert problems["a"] == ""


def test_bad_items_are_reported_and_the_others_are_used(tmp_path):
  members = {
    "no.cls": b"0",
    "two.a.npy": vector(1),
    "two.b.npy": vector(2),
    "two.cls": b"0",
    "json.npy": vector(1),
    "json.json": b"{",
    "list.npy": vector(1),
    "list.json": b"[1]",
    "text.npy": vector(1),
    "text.cls": b"\xff",
    "broken.npy": vector(1, 2)[:-1],
    "broken.cls": b"0",
    "README": b"no item",
    ".hidden": b"no item",
    "good.npy": vector(1),
    "good.cls": b"0",
  }
  path = write_tar(tmp_path / "0.tar", members)
  found = read_all(webdataset_items.read_tars([path], ["e"]))
  found = {name: text for name, (_, text) in found.items()}
  assert "no no.npy" in found["no"]
  assert ".a.npy, .b.npy" in found["two"]
  for name in ("json", "list", "text"):
    assert "its labels cannot be read" in found[name]
  assert "cannot be read" in found["broken"]
  np.testing.assert_array_equal(found["good"], [1])
  assert len(found) == 7


def test_what_the_library_writes_is_read(tmp_path):
  webdataset = pytest.importorskip("webdataset")
  path = str(tmp_path / "0.tar")
  long_name = "a folder/" * 30 + "日本"
  frames = np.arange(12, dtype=np.float32).reshape(3, 4)
  with webdataset.TarWriter(path) as writer:
    for key in ("000", long_name):
      writer.write(
        {"__key__": key, "npy": frames, "json": {"label": "cat"}, "cls": 3}
      )
  table = webdataset_items.read_tars([path], ["e"])
  assert [item.video_id for item in table] == ["000", long_name]
  for labels, array in read_all(table).values():
    assert labels == ["3"]
    np.testing.assert_array_equal(array, frames)
  assert json.dumps(list(table.label_names)) == '["3"]'


def test_splits_and_groups_in_json(tmp_path):
  given = [
    {"label": "x", "split": "test", "group": 0},
    {"label": "x"},
    {"label": "x", "split": "dev"},
    {"label": {"a": 1}},
    ["x"],
  ]
  members = {}
  for number, values in enumerate(given):
    members[f"{number}.npy"] = vector(1, 2)
    members[f"{number}.json"] = json.dumps(values).encode()
  path = write_tar(tmp_path / "0.tar", members)
  table = webdataset_items.read_tars([path], ["e"])
  assert [(item.split, item.group) for item in table][:2] == [
    ("test", "0"),
    ("", ""),
  ]
  words = ["", "", "the split dev, expected train", "found {'a': 1}", "a JSON"]
  for item, part in zip(table, words, strict=True):
    assert (part in item.problem) if part else not item.problem
