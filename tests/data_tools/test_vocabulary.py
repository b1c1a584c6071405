"""Tests of data_tools.vocabulary."""

import csv

import pytest
from absl import logging
from conftest import error_of

from data_tools import vocabulary
from engine import csv_cells

HEADER = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n"


@pytest.fixture
def shown(monkeypatch):
  """The warnings."""
  lines = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: lines.append(text % values)
  )
  return lines


def write(path, text) -> str:
  path.write_text(text)
  return str(path)


def rows_of(num_classes) -> str:
  """A vocabulary."""
  rows = [f"{index},name {index}" for index in range(num_classes)]
  return "\n".join(["Index,Name", *rows])


def test_names_with_commas_and_quotes(tmp_path):
  path = write(
    tmp_path / "words.csv",
    HEADER
    + "4,1,/m/4,Café,\n"
    + '2,1,/m/2,"Salt, ""pepper"" & co",\n'
    + "0,1,/m/0,,\n"
    + "3,1,,,\n"
    + "99,1,/m/99,Not of this model,\n",
  )
  assert vocabulary.read_class_names(path, 6) == [
    "/m/0",
    "class 1",
    'Salt, "pepper" & co',
    "class 3",
    "Café",
    "class 5",
  ]


def test_a_vocabulary_of_audioset(tmp_path):
  path = write(
    tmp_path / "class_labels_indices.csv",
    "index,mid,display_name\n"
    "0,/m/09x0r,Speech\n"
    '1,/m/05zppz,"Male speech, man speaking"\n'
    "2,/m/02zsn,\n",
  )
  assert vocabulary.read_class_names(path, 3) == [
    "Speech",
    "Male speech, man speaking",
    "/m/02zsn",
  ]


@pytest.mark.parametrize(
  ("num_rows", "warns"), [(6, False), (5, True), (3862, True)]
)
def test_a_vocabulary_of_other_classes(tmp_path, shown, num_rows, warns):
  path = write(tmp_path / "words.csv", rows_of(num_rows))
  names = vocabulary.read_class_names(path, 6)
  assert names[:5] == [f"name {index}" for index in range(5)]
  expected = (
    f"{path} has the classes 0 to {num_rows - 1}, but the model has 6 classes."
    " Set --vocabulary=FILE to the vocabulary of its training data."
  )
  assert shown == ([expected] if warns else [])


@pytest.mark.parametrize(
  ("content", "parts"),
  [
    (b"", ["Index and Name", "found nothing"]),
    (b"Number,Title\n1,Game\n", ["Index and Name", "found Number, Title"]),
    (b"index,Name\n1,Game\n", ["index and display_name", "found index, Name"]),
    (b"Index,Name\n0,Game\nx,Car\n", ["line 3", "'x'"]),
    (b"Index,Name\n0,Game\n0,Car\n", ["class 0 in line 3", "'Car'"]),
    (b"Index,Name\n-1,Game\n", ["line 2", "'-1'"]),
    (b"Index,Name\n0,Game\n" + b"9" * 5000 + b",Car\n", ["line 3", "9…'"]),
    (b"Index,Name\n,Game\n", ["line 2", "''"]),
    # A name of two lines.
    (b'Index,Name\n0,"Video\ngame"\nx,Car\n', ["line 4", "'x'"]),
    (b"Index,Name\n0,Caf\xe9\n", ["UTF-8"]),
  ],
)
def test_bad_vocabulary(tmp_path, content, parts):
  path = tmp_path / "vocabulary.csv"
  path.write_bytes(content)
  text = error_of(vocabulary.read_class_names, str(path), 6)
  for part in [*parts, str(path)]:
    assert part in text


def test_a_vocabulary_that_a_spreadsheet_has_saved(tmp_path):
  path = tmp_path / "vocabulary.csv"
  path.write_text("\ufeffIndex,Name\r\n0,Game\r\n", newline="")
  assert vocabulary.read_names(str(path)) == {0: "Game"}


# --------------------------------------------------------------------------
# YouTube-8M's


def test_the_vocabulary_of_youtube_8m():
  with open(vocabulary.YOUTUBE_8M_FILE, encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [int(row["Index"]) for row in rows] == list(range(3862))
  assert all(int(row["TrainVideoCount"]) > 0 for row in rows)
  assert all(row["KnowledgeGraphId"].startswith("/") for row in rows)
  assert sum(not row["Name"] for row in rows) == 56
  assert rows[0] == {
    "Index": "0",
    "TrainVideoCount": "788288",
    "KnowledgeGraphId": "/m/03bt1gh",
    "Name": "Game",
    "Vertical1": "Games",
    "Vertical2": "",
    "Vertical3": "",
  }


def test_it_is_that_of_the_published_facts(shared_dir):
  published = (shared_dir / "data" / "vocabulary.csv").read_text()
  with open(vocabulary.YOUTUBE_8M_FILE, encoding="utf-8") as file:
    assert file.read().splitlines() == published.splitlines()


def test_names_of_a_model_with_as_many_classes(tmp_path):
  names = vocabulary.default_class_names([f"{tmp_path}/a.tfrecord"], 3862)
  assert names is not None
  assert len(names) == 3862
  assert names[:2] == ["Game", "Video game"]
  assert names[120] == "/m/0dxrf"  # has no name


@pytest.mark.parametrize("num_classes", [527, 3861, 4716])
def test_other_models_have_no_names(tmp_path, num_classes):
  write(tmp_path / "vocabulary.csv", rows_of(num_classes))
  files = [f"{tmp_path}/a.tfrecord"]
  assert vocabulary.default_class_names(files, num_classes) is None


@pytest.mark.parametrize("folder", ["", "video"])
def test_the_vocabulary_of_the_data_itself(tmp_path, monkeypatch, folder):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / "vocabulary.csv", rows_of(3862))
  (tmp_path / "video").mkdir(exist_ok=True)
  for path in (f"{tmp_path}/{folder}/a.tfrecord", f"./{folder}/a.tfrecord"):
    names = vocabulary.default_class_names([path], 3862)
    assert names is not None
    assert names[:2] == ["name 0", "name 1"]


@pytest.mark.parametrize(
  "content", ["", "notes of mine", rows_of(3861), rows_of(3863), "\xe9"]
)
def test_another_file_beside_the_data(tmp_path, shown, content):
  (tmp_path / "vocabulary.csv").write_text(content, encoding="latin-1")
  names = vocabulary.default_class_names([f"{tmp_path}/a.tfrecord"], 3862)
  assert names is not None
  assert names[0] == "Game"
  assert not shown


def test_remote_data():
  names = vocabulary.default_class_names(["gs://bucket/a.tfrecord"], 3862)
  assert names is not None
  assert names[0] == "Game"


def test_names_of_any_text(tmp_path):
  names = ["a,b", "a\nb", "a\rb", "a\r\nb", '"', " x ", "=cmd()"]
  path = tmp_path / "vocabulary.csv"
  rows = map(csv_cells.line, [("Index", "Name"), *enumerate(names)])
  path.write_text("".join(rows), newline="")
  assert vocabulary.read_names(str(path)) == dict(enumerate(names))
