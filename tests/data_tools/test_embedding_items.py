"""Tests of data_tools.embedding_items."""

import io
import json
import zipfile

import numpy as np
import pytest
from conftest import assert_names, error_of

from data_tools import embedding_items
from data_tools.embedding_items import ArrayReader
from data_tools.item_table import BadItemError, Item


def write(folder, name, text):
  (folder / name).write_text(text, encoding="utf-8")
  return str(folder / name)


def test_a_manifest_is_read(tmp_path):
  path = write(
    tmp_path,
    "m.csv",
    "\ufeffpath,labels,split,id,group\n"
    'a/1.npy,"cat; big, dog ;",train,first,g\n'
    "2.npy,cat,,,\n"
    ",cat,,,\n"
    "3.npy,cat,other,,\n"
    "/x/4.npy\n",
  )
  items = embedding_items.read_manifest(path, ["e"])
  paths = {"e": f"{tmp_path}/a/1.npy"}
  assert items[0] == Item("first", paths, ["cat", "big, dog"], "train", "g")
  assert items[1] == Item("2", {"e": f"{tmp_path}/2.npy"}, ["cat"])
  assert items[2].problem == "no path"
  assert "the split other" in items[3].problem
  assert items[4].paths == {"e": "/x/4.npy"}
  items.check()
  assert items[4].problem == "no label"


def test_several_features_have_columns_of_their_own(tmp_path):
  path = write(tmp_path, "m.csv", "path_a,path_b,labels\n1.npy,2.npy,x\n")
  (item,) = embedding_items.read_manifest(path, ["a", "b"])
  assert item.paths == {"a": f"{tmp_path}/1.npy", "b": f"{tmp_path}/2.npy"}
  assert item.video_id == "1"


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "the column path"),
    ("path,x\n", "the column labels"),
    ("name,labels\n", "the column path"),
  ],
)
def test_a_missing_column_is_named(tmp_path, text, words):
  path = write(tmp_path, "m.csv", text)
  text = error_of(embedding_items.read_manifest, path, ["e"])
  assert_names(text, words, path)


def test_a_manifest_that_is_no_text_is_named(tmp_path):
  (tmp_path / "m.csv").write_bytes(b"path,labels\n\xff,a\n")
  for name in ("m.csv", "none.csv"):
    path = str(tmp_path / name)
    assert path in error_of(embedding_items.read_manifest, path, ["e"])


@pytest.mark.parametrize(
  "labels",
  [{"a": "cat", "b": ["dog", "cat"]}, [["a", "cat"], ["b", ["dog", "cat"]]]],
)
def test_a_folder_is_read(tmp_path, labels):
  folder = tmp_path / "arrays"
  folder.mkdir()
  for name in ("a.json", "b.npy", "c.npz", "readme.txt"):
    write(folder, name, "")
  config = write(tmp_path, "config.json", json.dumps(labels))
  items = embedding_items.read_folder(str(folder), config, "e")
  assert [(item.video_id, item.labels) for item in items] == [
    ("a", ["cat"]),
    ("b", ["dog", "cat"]),
    ("c", []),
  ]
  assert items[1].paths == {"e": f"{folder}/b.npy"}


@pytest.mark.parametrize("text", ["x", "3", '["a"]', "[[1, 2, 3]]", "null"])
def test_labels_of_another_form_are_named(tmp_path, text):
  config = write(tmp_path, "config.json", text)
  folder = str(tmp_path)
  text = error_of(embedding_items.read_folder, folder, config, "e")
  assert config in text


def test_two_files_of_an_item_are_a_problem(tmp_path):
  names = ("a.npy", "a.npz", "b.json", "b.npy", "c.npz", "c.parquet")
  for name in names:
    write(tmp_path, name, "")
  config = write(tmp_path, "labels.txt", '{"a": "cat", "b": "cat"}')
  items = embedding_items.read_folder(str(tmp_path), config, "e")
  assert [(item.video_id, item.problem) for item in items] == [
    ("a", "two files, a.npy and a.npz"),
    ("b", ""),
    ("c", "two files, c.npz and c.parquet"),
  ]
  # As of tars, JSON may hold facts.
  assert items[1].paths == {"e": f"{tmp_path}/b.npy"}


def test_arrays_of_all_formats_are_equal(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  np.save(tmp_path / "a.npy", array)
  np.save(tmp_path / "half.npy", array.astype(np.float16))
  np.save(tmp_path / "whole.npy", array.astype(np.int64))
  np.savez(tmp_path / "b.npz", array)
  np.savez(tmp_path / "c.npz", embedding=array, other=np.zeros(5))
  write(tmp_path, "d.json", json.dumps(array.tolist()))
  names = ("a.npy", "half.npy", "whole.npy", "b.npz", "c.npz", "d.json")
  for name in names:
    found = embedding_items.read_array(str(tmp_path / name))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)


def make_bad_arrays(folder):
  """Files that hold no embedding, and a word of what is said about each."""
  np.save(folder / "nan.npy", np.array([1.0, np.nan]))
  np.save(folder / "empty.npy", np.zeros((0, 3)))
  np.save(folder / "deep.npy", np.zeros((2, 2, 2)))
  np.save(folder / "scalar.npy", np.zeros(()))
  np.save(folder / "text.npy", np.array(["a"]))
  np.save(folder / "object.npy", np.array([{}], object), allow_pickle=True)
  np.save(folder / "large.npy", np.array([1e300]))
  np.savez(folder / "two.npz", a=np.zeros(2), b=np.zeros(2))
  write(folder, "ragged.json", "[[1, 2], [3]]")
  write(folder, "words.json", '["a"]')
  write(folder, "numbers.json", '[[1, "2"], [3, 4]]')
  write(folder, "truth.json", "[1, true]")
  write(folder, "no.json", "{")
  write(folder, "no.npy", "hello")
  write(folder, "no.npz", "hello")
  write(folder, "short.npy", "")
  write(folder, "x.txt", "")
  return {
    "nan.npy": "NaN",
    "empty.npy": "empty",
    "deep.npy": "(2, 2, 2)",
    "scalar.npy": "shape ()",
    "text.npy": "expected numbers",
    "object.npy": "found objects",
    "large.npy": "infinity",
    "two.npz": "a, b",
    "ragged.json": "cannot be read",
    "words.json": "expected numbers, found texts",
    "numbers.json": "expected numbers, found texts",
    "truth.json": "expected numbers, found true or false",
    "no.json": "cannot be read",
    "no.npy": "cannot be read",
    "no.npz": "cannot be read",
    "short.npy": "cannot be read",
    "x.txt": "ends in .txt, expected .npy",
    "x.mp4": "data_tools.extract_features",
    "x": "no file of this name that ends in .npy",
    "missing.npy": "No such file",
  }


def test_bad_arrays_are_named(tmp_path):
  for name, words in make_bad_arrays(tmp_path).items():
    with pytest.raises(BadItemError) as caught:
      embedding_items.read_array(str(tmp_path / name))
    assert words in str(caught.value), name


def reader_of(folder, *shapes, align=False):
  """Reads items with arrays of the given shapes, one after the other."""
  reader, found = ArrayReader(align), []
  for number, shapes_of_item in enumerate(shapes):
    paths = {}
    for feature, shape in shapes_of_item.items():
      path = folder / f"{number}{feature}.npy"
      np.save(path, np.ones(shape))
      paths[feature] = str(path)
    try:
      arrays = reader.read(Item("x", paths, ["a"]))
      found.append({name: array.shape for name, array in arrays.items()})
    except BadItemError as error:
      found.append(str(error))
  return found


def test_all_items_have_the_form_of_the_first(tmp_path):
  first, size, level = reader_of(
    tmp_path, {"e": (2, 3)}, {"e": (2, 4)}, {"e": (3,)}
  )
  assert first == {"e": (2, 3)}
  assert "expected 3 numbers in e" in size
  assert "expected a vector for each frame" in level


def test_unequal_numbers_of_frames_are_cut_only_if_asked(tmp_path):
  shapes = {"a": (5, 3), "b": (4, 2)}
  assert reader_of(tmp_path, shapes) == ["unequal numbers of frames: a 5, b 4"]
  assert reader_of(tmp_path, shapes, align=True) == [{"a": (4, 3), "b": (4, 2)}]
  assert "another has none" in reader_of(tmp_path, {"a": (5, 3), "b": (2,)})[0]


def npy_head(text):
  return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


def zipped(first_bytes):
  """An .npz whose zip headers begin with other bytes from version on."""
  file = io.BytesIO()
  np.savez(file, x=np.ones(4, np.float32))
  content = bytearray(file.getvalue())
  for magic, skip in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
    at = content.index(magic) + skip
    content[at : at + len(first_bytes)] = first_bytes
  return bytes(content)


def zip_of(member, method=zipfile.ZIP_STORED):
  """An .npz with a member of these bytes."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", method) as archive:
    archive.writestr("a.npy", member)
  return stream.getvalue()


def damaged_npz(method):
  """An .npz whose compressed bytes are others."""
  content = bytearray(zip_of(npy_head("{}"), method))
  place = 30 + len("a.npy") + 4  # after the header, and what LZMA has first
  content[place : place + 8] = b"\xff" * 8
  return bytes(content)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("huge.json", b"[" + b"9" * 400 + b"]"),
    ("deep.json", b"[" * 100_000),
    ("is_npy.npz", npy_head("{}")),
    ("encrypted.npz", zipped(b"\1\0")),
    ("method.npz", zipped(b"\0\0\x63\0")),
    (
      "large.npy",
      npy_head(
        "{'descr':'<f4','fortran_order':False,'shape':(" + "9" * 30 + ",)}"
      ),
    ),
    (
      "negative.npy",
      npy_head("{'descr':'<f4','fortran_order':False,'shape':(-1,-1)}"),
    ),
    (
      "truth.npy",
      npy_head("{'descr':'<f4','fortran_order':False,'shape':(True,1)}")
      + bytes(4),
    ),
    ("lzma.npz", damaged_npz(zipfile.ZIP_LZMA)),
    ("bzip2.npz", damaged_npz(zipfile.ZIP_BZIP2)),
    ("keys.npy", npy_head("{1: 2, 'a': 3}")),
    ("other.npz", zip_of(b"not npy")),
    (
      "huge.npz",
      zip_of(
        npy_head(
          f"{{'descr':'<f8','fortran_order':False,'shape':({'9' * 15},)}}"
        )
      ),
    ),
    ("minus.npy", npy_head("-" * 9000 + "1")),
    ("open.npy", npy_head("(")),
  ],
)
def test_absurd_files_are_bad_items(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(
    BadItemError, match=r"cannot be read|something else|a shape|other bytes"
  ):
    embedding_items.read_array(str(path))


def test_a_name_that_no_file_can_have():
  with pytest.raises(BadItemError, match="null byte"):
    embedding_items.read_array("a\0.npy")


def test_categories_that_are_none(tmp_path):
  labels = write(tmp_path, "labels.json", '{"a": {"x": 1}, "b": 7.0}')
  items = embedding_items.read_folder(str(tmp_path), labels, "e")
  assert [item.labels for item in items] == [[], ["7"], []]
  assert "found ('x', 1)" in items[0].problem
