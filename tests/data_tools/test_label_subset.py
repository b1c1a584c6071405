"""Tests of data_tools.label_subset."""

import pytest
from conftest import assert_names, error_of

from data_tools import vocabulary
from data_tools.label_subset import read_label_subset

NAMES = {0: "Game", 1: "Car", 2: "Pet, dog", 3: "Car", 4: "42", 5: "Concert"}


def read(text, num_classes=6, names=NAMES):
  return read_label_subset(text, num_classes, lambda: (names, "vocabulary.csv"))


def no_names():
  raise AssertionError("asked for names")


def test_indices_need_no_names():
  assert read_label_subset("4, 0,2", 6, no_names) == [0, 2, 4]
  assert read_label_subset("5", 6, no_names) == [5]


def test_names_and_a_mix():
  assert read("Concert,Game") == [0, 5]
  assert read(r"Pet\, dog, 1") == [1, 2]
  assert read(
    "Concert", 3862, vocabulary.read_names(vocabulary.YOUTUBE_8M_FILE)
  ) == [3]


@pytest.mark.parametrize(
  "content",
  [
    "Index\n5\n2\n",  # as segment_label_ids.csv
    "5\n\n2\n",
    "Concert\nPet, dog\n",
    "Concert\n2\n",
    'Index,Count,Name\n5,9,x\n2,3,"a, b"\n',
    'Name,Count\nConcert,1\n"Pet, dog",3\n',
    "index,mid,display_name\n2,/m/1,x\n5,/m/2,y\n",
    "\ufeffIndex\r\n2\r\n5\r\n",
  ],
)
def test_a_file(tmp_path, content):
  path = tmp_path / "classes.csv"
  path.write_text(content, newline="")
  assert read(str(path)) == [2, 5]


def test_a_file_whose_name_could_be_that_of_a_class(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "Concert").write_text("3\n")
  assert read("Concert") == [3]
  assert read("TV/Radio", names={1: "TV/Radio"}) == [1]
  assert read("3") == [3]  # indices are never a file


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("1,6", ("from 0 to 5", "received 6", "--num_classes")),
    ("1," + "9" * 5000, ("from 0 to 5 in --label_subset, received 999",)),
    ("1,Dog", ("names of vocabulary.csv", "received 'Dog'")),
    ("1,Concerts", ("received 'Concerts'. Did you mean 'Concert'?",)),
    ("Car", ("'Car', which vocabulary.csv has for 1, 3.", "the index")),
    ("1,2,1", ("each class once", "received 1 more than once")),
    ("5,Concert", ("received 5 more than once",)),
    ("1,,2", ("received '1,,2'",)),
    (",", ("received ','",)),
    ("-1", ("received '-1'",)),
    ("./none.csv", ("Expected a file as --label_subset=./none.csv",)),
    ("classes.txt", ("found none. Check the path",)),
    ("/", ("received a folder",)),
  ],
)
def test_what_is_wrong_is_named(text, parts):
  assert_names(error_of(read, text), *parts)


def test_names_without_a_vocabulary():
  text = error_of(read_label_subset, "Concert", 6, lambda: ({}, ""))
  assert_names(text, "'Concert', and no vocabulary", "indices")


@pytest.mark.parametrize(
  ("content", "part"),
  [
    (b"", "which names none"),
    (b"Index\n", "which names none"),
    (b"\xff\xfe\x00", "UTF-8"),
    (b"1\n2\n1\n", "each class once"),
    (b"1\n99\n", "received 99"),
    (b"9" * 5000 + b"\n", "received 999"),
  ],
)
def test_a_bad_file_is_named(tmp_path, content, part):
  path = tmp_path / "classes.csv"
  path.write_bytes(content)
  text = error_of(read, str(path))
  assert_names(text, str(path), part)
