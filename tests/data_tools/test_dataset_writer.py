"""Tests of data_tools.dataset_writer."""

import csv
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, error_of, read_batches

import quantization
from data_tools import dataset_writer
from data_tools.dataset_writer import DatasetWriter, Options
from data_tools.item_table import BadItemError, Item
from engine import process_names
from engine.data import Data
from engine.data_files import find_files
from engine.dataset_card import read_card


def read_all(folder, split):
  """{id: (frames, labels)} of a split, through the program's own reader."""
  card = read_card(folder)
  ranges = card.ranges_of(card.feature_names)
  flags = {**card.flags(), "max_frames": 300, "feature_ranges": ranges}
  files = find_files(card.pattern(folder, split), "x")
  found = {}
  for batch in read_batches(Data(flags, files, True), 7):
    for row, name in enumerate(batch["video_ids"].tolist()):
      labels = np.flatnonzero(batch["labels"][row]).tolist()
      matrix = batch["video_matrix"][row]
      if matrix.ndim == 2:
        matrix = matrix[: batch["num_frames"][row]]
      found[name.decode()] = matrix, labels
  return found


def tf_records(path) -> list[bytes]:
  return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def record_id(record: bytes) -> str:
  features = tf.train.Example.FromString(record).features.feature
  return features["id"].bytes_list.value[0].decode()


def make_items(seed, is_frame_level, scale=1.0, number=60):
  """Random items with strange ids and classes, and their arrays."""
  rng = np.random.default_rng(seed)
  classes = ["cat", "a,b", 'say "no"', "=1+1", "日本"]
  items, arrays, splits = [], {}, []
  for index in range(number):
    name = f'{index}, 日本 "x" {rng.integers(1 << 30)}'
    labels = rng.choice(classes, rng.integers(1, 4), replace=False).tolist()
    items.append(Item(name, {"e": f"{index}.npy"}, labels))
    shape = (rng.integers(1, 9), 5) if is_frame_level else (5,)
    values = rng.standard_normal(shape) * scale ** rng.integers(-3, 4)
    arrays[name] = values.astype(np.float32)
    splits.append(["train", "validate", "test"][rng.integers(3)])
  return items, arrays, splits, sorted(classes)


def write(tmp_path, items, arrays, splits, classes, store, fraction=0.05):
  """Writes a data set of items whose arrays are known."""

  def read(item):
    if item.video_id not in arrays:
      raise BadItemError("it is missing")
    return {"e": arrays[item.video_id]}

  folder = str(tmp_path / "data")
  options = Options(store, 0, fraction, {"command": "x"})
  writer = DatasetWriter(items, splits, classes, read, options)
  return folder, writer.write(folder)


def error_in_card(report):
  """What the card says about the error of the only feature."""
  return report.card.made_by["storage_errors"]["e"]


@pytest.mark.parametrize("is_frame_level", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_float32_comes_back_bit_for_bit(tmp_path, seed, is_frame_level):
  made = make_items(seed, is_frame_level, scale=30.0)
  items, arrays, splits, classes = made
  folder, report = write(tmp_path, *made, "float32")
  for split in ("train", "validate", "test"):
    wanted = {
      item.video_id: (arrays[item.video_id], item.labels)
      for item, of in zip(items, splits, strict=True)
      if of == split
    }
    found = read_all(folder, split)
    assert found.keys() == wanted.keys()
    for name, (array, labels) in wanted.items():
      np.testing.assert_array_equal(found[name][0], array)
      assert [classes[index] for index in found[name][1]] == sorted(labels)
  assert report.card.num_classes == 5
  assert not report.bad_items


@pytest.mark.parametrize("is_frame_level", [False, True])
def test_float16_comes_back_within_the_stated_error(tmp_path, is_frame_level):
  made = make_items(9, is_frame_level)
  folder, report = write(tmp_path, *made, "float16")
  largest = error_in_card(report)["largest_relative_error"]
  assert 0 < largest <= 2.0**-11
  assert report.card.feature_dtypes == ["float16"]
  for split in ("train", "validate", "test"):
    for name, (array, _) in read_all(folder, split).items():
      given = made[1][name]
      np.testing.assert_array_equal(array, given.astype(np.float16))
      is_normal = np.abs(given) >= 2.0**-14
      error = np.abs(array - given)[is_normal] / np.abs(given)[is_normal]
      assert error.max(initial=0) <= largest


@pytest.mark.parametrize("is_frame_level", [False, True])
def test_uint8_comes_back_within_the_stated_error(tmp_path, is_frame_level):
  made = make_items(9, is_frame_level)
  items, arrays = made[:2]
  # Neither counts for the range.
  arrays.pop(items[0].video_id)
  arrays[items[1].video_id] = np.full(5, -1e20, np.float32)
  folder, report = write(tmp_path, *made, "uint8")
  assert len(report.bad_items) == 2
  arrays.pop(items[1].video_id)
  card = report.card
  assert card.feature_dtypes == ["uint8"]
  ((low, high),) = card.feature_ranges
  everything = np.concatenate([of.reshape(-1) for of in arrays.values()])
  assert np.float32(low) == everything.min()
  assert np.float32(high) == everything.max()
  largest = error_in_card(report)["largest_error"]
  assert 0 < largest <= (high - low) / 510 * (1 + 1e-6)
  found = {}
  for split in ("train", "validate", "test"):
    found.update(read_all(folder, split))
  assert found.keys() == arrays.keys()
  errors = []
  for name, (array, _) in found.items():
    if is_frame_level:
      assert array.dtype == np.uint8
      array = quantization.dequantize(
        array.astype(np.float32), *quantization.scale_and_bias((low, high))
      )
    errors.append(np.abs(array - arrays[name].astype(float)).max())
  assert max(errors) == largest


def test_float16_takes_half_the_disk_and_uint8_a_quarter(tmp_path):
  items, arrays, splits, classes = make_items(0, False)
  arrays = {name: np.ones(512, np.float32) for name in arrays}
  given = (items, arrays, splits, classes)
  (tmp_path / "half").mkdir()
  (tmp_path / "whole").mkdir()
  _, half = write(tmp_path / "half", *given, "float16")
  _, whole = write(tmp_path / "whole", *given, "float32")
  assert half.num_bytes < 0.6 * whole.num_bytes
  _, byte = write(tmp_path, *given, "uint8")
  assert byte.num_bytes < 0.6 * half.num_bytes


def test_bad_items_are_listed_and_the_rest_is_written(tmp_path):
  items, arrays, splits, classes = make_items(0, False)
  arrays.pop(items[3].video_id)
  arrays[items[5].video_id] = np.full(5, 1e6, np.float32)
  folder, report = write(
    tmp_path, items, arrays, splits, classes, "float16", 0.04
  )
  with open(f"{folder}/import_report.csv", newline="") as file:
    rows = list(csv.reader(file))
  assert rows[0] == ["id", "path", "reason"]
  found = {name: reason for name, _, reason in rows[1:]}
  assert found[items[3].video_id] == "it is missing"
  assert "--store=float32" in found[items[5].video_id]
  assert len(found) == len(report.bad_items) == 2
  with open(f"{folder}/vocabulary.csv", newline="") as file:
    names = [row["Name"] for row in csv.DictReader(file)]
  assert names == classes


def test_too_many_bad_items_leave_the_list_only(tmp_path):
  items, arrays, splits, classes = make_items(0, False)
  for item in items[:4]:
    arrays.pop(item.video_id)
  given = (tmp_path, items, arrays, splits, classes, "float32")
  text = error_of(write, *given)
  assert_names(text, "5.00%", "4 of 60", "data.import_report.csv", "missing")
  assert [path.name for path in tmp_path.iterdir()] == [
    "data.import_report.csv"
  ]
  write(*given, 0.1)


def test_no_good_item_at_all_is_an_error(tmp_path):
  items, _, splits, classes = make_items(0, False, number=3)
  text = error_of(write, tmp_path, items, {}, splits, classes, "float32", 1.0)
  assert "3 of 3" in text


def test_an_interrupted_start_leaves_nothing_and_a_killed_one_is_replaced(
  tmp_path, dead_process
):
  made = make_items(0, False)
  dead = process_names.process_name(dead_process)
  left = tmp_path / f".data.tmp-{dead}-0123abcd"
  left.mkdir()
  (left / "train9999.tfrecord").touch()

  class Interrupting(dict):
    def __getitem__(self, name):
      raise KeyboardInterrupt

  items, arrays, splits, classes = made
  with pytest.raises(KeyboardInterrupt):
    write(tmp_path, items, Interrupting(arrays), splits, classes, "float32")
  assert not list(tmp_path.iterdir())
  folder, _ = write(tmp_path, *made, "float32")
  assert len(read_all(folder, "train")) == splits.count("train")


def test_two_at_once_do_not_mix_their_records(tmp_path):
  mine, others = make_items(0, False), make_items(1, False)

  class Meanwhile(dict):
    """Lets another start write to the same folder after the first array."""

    def __getitem__(self, name):
      if not (tmp_path / "data").exists():
        write(tmp_path, *others, "float32")
      return super().__getitem__(name)

  items, arrays, splits, classes = mine
  text = error_of(
    write, tmp_path, items, Meanwhile(arrays), splits, classes, "float32"
  )
  assert "Expected a new or empty folder as --output_dir" in text
  ids = {item.video_id for item in others[0]}
  found = read_all(tmp_path / "data", "train")
  assert len(found) == others[2].count("train")
  assert found.keys() <= ids
  assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_shards_are_cut_by_size(tmp_path, monkeypatch):
  monkeypatch.setattr(dataset_writer, "_SHARD_BYTES", 500)
  made = make_items(0, False)
  folder, report = write(tmp_path, *made, "float32")
  assert report.card.splits["train"]["files"] > 2
  assert len(read_all(folder, "train")) == made[2].count("train")


def test_items_in_their_order_are_spread_over_shards(tmp_path, monkeypatch):
  """Each file holds a part of the whole sequence, not one piece of it."""
  monkeypatch.setattr(dataset_writer, "_SHARD_BYTES", 500)
  monkeypatch.setattr(dataset_writer, "_MOST_SIDE_BY_SIDE", 4)
  items, arrays, _, classes = make_items(0, False)
  folder, seen = str(tmp_path / "data"), []

  def read(item):
    seen.append(item.video_id)
    return {"e": arrays[item.video_id]}

  options = Options("float32", 0, 0.0, {"command": "x"}, in_order=True)
  splits = ["train"] * len(items)
  report = DatasetWriter(items, splits, classes, read, options).write(folder)
  names = [item.video_id for item in items]
  assert seen == names
  files = sorted((tmp_path / "data").glob("train*.tfrecord"))
  assert len(files) == report.card.splits["train"]["files"] > 8
  assert report.num_bytes == sum(path.stat().st_size for path in files)
  places = [
    [names.index(record_id(record)) for record in tf_records(path)]
    for path in files
  ]
  # The first records go to four files side by side.
  file_of = {at: number for number, of in enumerate(places) for at in of}
  assert sorted(file_of) == list(range(len(items)))
  assert {file_of[at] for at in range(12)} >= {0, 1, 2, 3}
  assert read_all(folder, "train").keys() == set(names)


def test_items_of_any_name_are_listed(tmp_path):
  rows = [
    ('a,"b"', os.fsdecode(b"/d/caf\xe9.mp4"), "two\nlines"),
    ("=1", "/d/a\rb", "no\0thing"),
  ]
  path = tmp_path / "report.csv"
  for safe in (False, True):
    dataset_writer.write_report(str(path), rows, safe)
    with path.open(newline="", encoding="utf-8") as file:
      assert list(csv.reader(file)) == [
        ["id", "path", "reason"],
        ['a,"b"', "/d/caf\\xe9.mp4", "two\nlines"],
        ["'=1" if safe else "=1", "/d/a\rb", "no\\x00thing"],
      ]
