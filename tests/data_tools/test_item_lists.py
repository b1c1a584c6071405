"""Tests of data_tools.item_lists."""

import pytest

import errors
from data_tools import item_lists
from data_tools.item_table import BadItemError


@pytest.mark.parametrize(
  ("value", "labels"),
  [
    (None, []),
    ("cat; dog", ["cat; dog"]),
    ([" cat", 7, None, ""], ["cat", "7"]),
    ([3.0, float("nan"), 2.5], ["3", "2.5"]),
    (b"cat", ["cat"]),
  ],
)
def test_categories(value, labels):
  assert item_lists.categories_of(value) == labels


@pytest.mark.parametrize("value", [{"a": 1}, [["cat"]], [("a", 1)]])
def test_what_is_no_category_is_not_made_a_name(value):
  with pytest.raises(
    BadItemError, match=r"expected a name, a number or a list"
  ):
    item_lists.categories_of(value)


def test_texts_are_divided_and_zero_is_a_group():
  assert item_lists.labels_of("cat; dog;") == ["cat", "dog"]
  assert item_lists.labels_of(b"cat;dog") == ["cat", "dog"]
  assert item_lists.labels_of(["a;b"]) == ["a;b"]
  texts = map(item_lists.text_of, (0, 1.0, "x", None, float("nan")))
  assert list(texts) == ["0", "1", "x", "", ""]
  with pytest.raises(BadItemError, match=r"found"):
    item_lists.text_of(["a", "b"])


def test_rows_of_a_table(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(
    b"\xef\xbb\xbfpath, labels ,id\r\n a ,x; y\r\n,,\r\n\r\nb,z,1,,\r\n"
  )
  assert list(item_lists.read_rows(str(path), "manifest", ("labels",))) == [
    {"path": "a", "labels": "x; y", "id": ""},
    {"path": "b", "labels": "z", "id": "1"},
  ]


def test_a_value_too_many_is_not_lost(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("path,labels\na,cat\nb,cat,dog\n")
  with pytest.raises(errors.UserError, match=r"2 values in line 3 .* found 3"):
    list(item_lists.read_rows(str(path), "manifest", ("path",)))


@pytest.mark.parametrize(
  ("header", "words"),
  [
    ("path,labels,labels", "found labels as the columns 2 and 3"),
    ("path, path,labels", "found path as the columns 1 and 2"),
    ("id,path,labels,split,id", "found id as the columns 1 and 5"),
  ],
)
def test_a_column_that_is_there_twice(tmp_path, header, words):
  path = tmp_path / "a.csv"
  path.write_text(f"{header}\n")
  with pytest.raises(errors.UserError, match=f"--manifest={path}, {words}"):
    list(item_lists.read_rows(str(path), "manifest", ("path", "labels")))


def test_columns_without_a_meaning_may_have_one_name(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("path,,,x,x\na,,,1,2\n")
  (row,) = item_lists.read_rows(str(path), "manifest", ("path",))
  assert row["path"] == "a"


def test_labels_by_id(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('\ufeff{"b": "x", "a": ["y", 1]}')
  assert item_lists.read_labels(str(path)) == [("b", "x"), ("a", ["y", 1])]
  path.write_text('[["b", "x"], [7, 2]]')
  assert item_lists.read_labels_once(str(path)) == {"b": "x", "7": 2}


@pytest.mark.parametrize(
  "text", ['["ab", "cd"]', "5", "[[1, 2], [3]]", "[" * 99999, "{", "[5]"]
)
def test_other_json_is_refused(tmp_path, text):
  path = tmp_path / "a.json"
  path.write_text(text)
  with pytest.raises(errors.UserError, match=r"Expected JSON of \{id"):
    item_lists.read_labels(str(path))


@pytest.mark.parametrize(
  "text", ['{"a": "x", "a": "y"}', '[["a", "x"], ["a", "y"]]']
)
def test_an_id_that_is_there_twice(tmp_path, text):
  path = tmp_path / "a.json"
  path.write_text(text)
  assert item_lists.read_labels(str(path)) == [("a", "x"), ("a", "y")]
  with pytest.raises(errors.UserError, match=r"each id once .* found a twice"):
    item_lists.read_labels_once(str(path))
