"""Tests of data_tools.croissant: its library reads what is written."""

import hashlib
import json
import logging

import numpy as np
import pytest

from data_tools import croissant
from data_tools.dataset_writer import DatasetWriter, Options
from data_tools.item_table import Item
from engine.dataset_card import DatasetCard

mlcroissant = pytest.importorskip("mlcroissant")


def write_dataset(folder, is_frame_level=True, store="float16"):
  """A data set of six videos with two features in two splits."""
  shape = (3, 8) if is_frame_level else (8,)
  arrays = {
    "clip": np.ones(shape, np.float32),
    "\u97f3 audio": np.ones(shape, np.float32)[..., :2],
  }
  paths = dict.fromkeys(arrays, "x")
  items = [Item(f"v{number}", paths, ["cat"]) for number in range(6)]
  splits = ["train", "train", "train", "train", "test", "test"]
  options = Options(store, 0, 0.0, {"command": "import --x"})
  writer = DatasetWriter(
    items, splits, ["cat", "a, \u65e5"], lambda item: arrays, options
  )
  writer.write(str(folder))


@pytest.mark.parametrize(
  ("is_frame_level", "store"),
  [(True, "float16"), (False, "float16"), (True, "uint8")],
)
def test_the_library_has_nothing_to_complain_of(
  tmp_path, is_frame_level, store, caplog
):
  folder = tmp_path / "my, [data]"
  write_dataset(folder, is_frame_level, store)
  with caplog.at_level(logging.WARNING):
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
  issues = dataset.metadata.ctx.issues
  assert not issues.errors
  assert not issues.warnings
  assert not caplog.records
  assert dataset.metadata.name == "my, [data]"
  classes = list(dataset.records("classes"))
  assert [row["classes/index"] for row in classes] == [0, 1]
  assert [row["classes/name"].decode() for row in classes] == [
    "cat",
    "a, \u65e5",
  ]
  assert [row["classes/videos"] for row in classes] == [4, 0]
  splits = list(dataset.records("splits"))
  assert {row["splits/name"]: row["splits/videos"] for row in splits} == {
    "train": 4,
    "test": 2,
  }


def test_it_says_what_the_files_are(tmp_path):
  folder = tmp_path / "data"
  write_dataset(folder)
  content = json.loads((folder / "croissant.json").read_text())
  objects = {
    of["name"]: of
    for of in content["distribution"]
    if of["@type"] == "cr:FileObject"
  }
  names = ["test0000.tfrecord", "train0000.tfrecord", "vocabulary.csv"]
  assert sorted(objects) == names
  for name in names:
    data = (folder / name).read_bytes()
    assert objects[name]["sha256"] == hashlib.sha256(data).hexdigest()
    assert objects[name]["contentSize"] == f"{len(data)} B"
  sets = {of["@id"]: of for of in content["recordSet"]}
  fields = {of["name"]: of for of in sets["videos-of-train"]["field"]}
  assert list(fields) == ["id", "labels", "clip", "\u97f3 audio"]
  assert fields["clip"]["dataType"] == "cr:Float16"
  assert fields["clip"]["arrayShape"] == "-1,8"
  assert "videos-of-validate" not in sets


def test_it_says_what_bytes_stand_for():
  card = DatasetCard(
    frame_features=True,
    feature_names=["a", "b", "c"],
    feature_sizes=[4, 2, 1],
    feature_dtypes=["uint8", "uint8", "float32"],
    num_classes=1,
    splits={"train": {"videos": 1, "files": 1}},
    made_by={},
    feature_ranges=[[-1.0, 126.5], None, None],
  )
  (records,) = croissant.describe("x", card, {})["recordSet"][2:]
  fields = {of["name"]: of for of in records["field"]}
  words = fields["a"]["description"]
  assert words == "The byte q stands for -1.0 + q * 0.5."
  words = fields["b"]["description"]  # YouTube-8M's
  assert words == "The byte q stands for -1.9921875 + q * 0.01568627450980392."
  assert "description" not in fields["c"]


def test_a_file_that_was_changed_is_noticed(tmp_path):
  folder = tmp_path / "data"
  write_dataset(folder)
  with open(folder / "vocabulary.csv", "a") as file:
    file.write("2,0,dog\n")
  dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
  with pytest.raises(mlcroissant.GenerationError):
    list(dataset.records("classes"))


def test_sha256_of_a_file(tmp_path, monkeypatch):
  """Of the message abc, as the standard (FIPS 180-2) has it."""
  (tmp_path / "a").write_bytes(b"abc")
  monkeypatch.setattr(croissant, "_CHUNK_BYTES", 2)
  assert croissant.sha256_of(str(tmp_path / "a")) == (
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  )
