"""Tests of engine.dataset_card."""

import dataclasses
import glob
import json

import pytest
from conftest import assert_names, error_of

from engine.dataset_card import DatasetCard, read_card

CARD = DatasetCard(
  frame_features=True,
  feature_names=["a", "b"],
  feature_sizes=[3, 2],
  feature_dtypes=["float32", "float16"],
  num_classes=4,
  splits={"train": {"videos": 7, "files": 1}},
  made_by={"command": "x"},
)


def test_a_card_comes_back(tmp_path):
  CARD.write(str(tmp_path))
  assert read_card(str(tmp_path)) == CARD
  assert CARD.flags() == {
    "frame_features": True,
    "feature_names": "a,b",
    "feature_sizes": "3,2",
    "num_classes": 4,
  }


def test_ranges_are_those_of_the_features_in_use():
  assert CARD.ranges_of(["a", "b"]) == ""
  card = dataclasses.replace(CARD, feature_ranges=[[-0.1, 2.0], None])
  assert card.ranges_of(["a", "b"]) == "-0.1:2.0,"
  assert card.ranges_of(["b", "a"]) == ",-0.1:2.0"
  assert card.ranges_of(["a"]) == "-0.1:2.0"
  assert card.ranges_of(["b"]) == card.ranges_of(["another"]) == ""


def test_a_card_of_before_has_no_ranges(tmp_path):
  CARD.write(str(tmp_path))
  path = tmp_path / "dataset.json"
  content = json.loads(path.read_text())
  content.pop("feature_ranges")
  path.write_text(json.dumps(content))
  assert read_card(str(tmp_path)) == CARD


@pytest.mark.parametrize(
  "ranges",
  [
    [[1, 2]],
    [[1, 2], [2]],
    [[2, 1], None],
    [["a", "b"], None],
    [1, 2],
    [[0, 10**400], None],
  ],
)
def test_ranges_that_are_none_are_named(tmp_path, ranges):
  dataclasses.replace(CARD, feature_ranges=ranges).write(str(tmp_path))
  assert_names(error_of(read_card, str(tmp_path)), "dataset.json")


def test_a_strange_folder_is_a_pattern(tmp_path):
  folder = tmp_path / "a[1]*"
  folder.mkdir()
  (folder / "train0000.tfrecord").touch()
  assert glob.glob(CARD.pattern(str(folder), "train"))


def test_a_missing_split_is_named():
  text = error_of(CARD.pattern, "folder", "test")
  assert_names(text, "the split test", "folder", "found train")


@pytest.mark.parametrize(
  "content",
  [
    *(None, "x", "[]", "{}", '{"format_version": 2}', '{"a": 1}'),
    pytest.param("[" * 100_000, id="deep list"),
    pytest.param('{"a":' * 100_000, id="deep object"),
  ],
)
def test_what_is_no_card_is_named(tmp_path, content):
  if content is not None:
    (tmp_path / "dataset.json").write_text(content)
  text = error_of(read_card, str(tmp_path))
  assert_names(text, "dataset.json", str(tmp_path), "import_embeddings")


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("feature_names", ["rgb"], "a size and a dtype for each feature"),
    ("feature_sizes", ["8", 2], "'8' in the place of a number"),
    ("feature_sizes", 8, "int"),
    ("feature_dtypes", ["float32", "int8"], "the dtype int8"),
    ("num_classes", 0, "0 in the place of a number"),
    ("num_classes", True, "True in the place of a number"),
    ("num_classes", 2**31, "from 1 to 2147483647"),
    ("frame_features", "yes", "frame_features is a str"),
    ("feature_names", ["a", 1], "1 in the place of a feature's name"),
    ("feature_names", ["a", "b,c"], "'b,c' in the place of"),
    ("splits", {"train": {"videos": "7"}}, "'7' in the place of a number of"),
    ("splits", {"train": {"videos": -7}}, "-7 in the place of a number of"),
    ("splits", {"train": {}}, "None in the place of a number of videos"),
    ("made_by", "me", "made_by is a str"),
    ("splits", [], "splits is a list"),
    ("splits", {"train": 5}, "no attribute"),
    ("feature_names", "ab", "feature_names is a str"),
    ("made_by", None, "made_by is a NoneType"),
    ("extraction", 5, "extraction is a int"),
  ],
)
def test_a_card_with_something_else_in_it(tmp_path, name, value, words):
  dataclasses.replace(CARD, **{name: value}).write(str(tmp_path))
  text = error_of(read_card, str(tmp_path))
  assert_names(text, "as this project writes it", words)
