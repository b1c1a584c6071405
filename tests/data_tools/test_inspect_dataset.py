"""Tests of data_tools.inspect_dataset."""

import csv
import re
import sys

import in_process
import numpy as np
import pytest
from conftest import folder_content
from make_records import (
  bytes_of,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

import errors
import reports
from data_tools import dataset_report, inspect_dataset, vocabulary
from data_tools.inspect_dataset import choose_classes, find_sources
from engine import progress_bar
from engine.dataset_card import DatasetCard
from records import shards


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def inspect(*arguments, exit_code=0) -> str:
  code, log = in_process.call("data_tools.inspect_dataset", *arguments)
  assert code == exit_code, log
  return log


def row_of(log, name) -> list[str]:
  """The cells of a row of a table."""
  (row,) = [line for line in log.splitlines() if re.match(rf" *{name}  ", line)]
  return row.split()


def test_a_good_data_set(tmp_path):
  frames = [bytes_of(length, 3, length) for length in (2, 7, 3, 4)]
  audio = [bytes_of(length, 2) for length in (2, 7, 3, 4)]
  records = [
    small_frames(
      f"v{number}", labels=labels, rgb=frames[number], audio=audio[number]
    )
    for number, labels in enumerate([[1, 4], [4], [4], None])
  ]
  write_records(tmp_path / "train0.tfrecord", records[:2])
  write_records(tmp_path / "validate0.tfrecord", records[2:3])
  write_records(tmp_path / "test0.tfrecord", records[3:])
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n1,Dog\n4,Cat\n")

  log = inspect(f"{tmp_path}/*.tfrecord")

  assert log.startswith(f"3 files in {tmp_path}\n")
  assert row_of(log, "train") == ["train", "2", "9", "3", "0"]
  assert row_of(log, "train0.tfrecord")[1:] == ["2", "9", "3", "0"]
  assert row_of(log, "test") == ["test", "1", "4", "0", "1"]
  assert row_of(log, "total") == ["total", "4", "16", "4", "1"]
  assert "4 records: frame level: audio (2 uint8), rgb (3 uint8)" in log
  assert (
    "Frames of a video: 2 at least, 3 in the middle, 4.0 on average, 7 at most."
  ) in log
  assert "Labels of a video: 1 at least, 1 in the middle, 1.3 on" in log
  assert "Classes: 2 of 5 occur, the largest index is 4." in log
  # As the numbers that the bytes stand for, see quantization.py.
  rgb = row_of(log, "rgb")
  assert rgb[:3] == ["rgb", "uint8", "3"]
  every = np.concatenate(frames).astype(float) * 4 / 255 + 4 / 512 - 2
  expected = [every.min(), every.max(), every.mean(), every.std(axis=0).mean()]
  assert rgb[3:7] == [f"{value:.4g}" for value in expected]
  assert rgb[7:] == ["0", "0", "0", "0"]
  assert row_of(log, "4 Cat") == ["4", "Cat", "2", "1", "0", "0.3"]
  assert "note: test: 1 of 1 video without the feature labels" in log
  assert "warning" not in log
  assert "4 videos in " in log.splitlines()[-1]


def test_what_hurts_training_is_found(tmp_path):
  same = np.float32([1.5, 0.0, 2.0])
  train = [
    small_video("a", [1], mean_rgb=same),
    small_video("b", [2], mean_rgb=same),
    small_video("c", [], mean_rgb=[2.5, 0.0, 2.0]),
    small_video("d", [2], mean_rgb=[np.nan, 0.0, 2.0]),
    small_frames("e"),
  ]
  validate = [
    small_video("a", [1], mean_rgb=[7.5, 0.0, 2.0]),
    small_video("f", [3], mean_rgb=same),
    small_frames("g", 0),
  ]
  train = write_records(tmp_path / "train0", train)
  validate = write_records(tmp_path / "validate0", validate)

  log = inspect(train, validate)

  found = [line for line in log.splitlines() if line.startswith("warning")]
  assert found == [
    "warning: 1 video beyond the first of 1 group with the same id: for example"
    f" {train}, record 0, and {validate}, record 0.",
    "warning: train and validate overlap: 1 with the same id in both.",
    "warning: 2 videos beyond the first of 1 group with identical features (1"
    " under different ids, 1 with different labels): for example"
    f" {train}, record 0, and {train}, record 1.",
    "warning: train and validate overlap: 1 with identical features in both.",
    "warning: Records of several kinds, of which a model takes one: 6 video"
    " level: mean_audio (2 float32), mean_rgb (3 float32) (first in"
    f" {train}, record 0); 1 frame level: audio (2 uint8), rgb (3 uint8) (first"
    f" in {train}, record 4).",
    "warning: 1 video with NaN or infinity, which training refuses, first in"
    f" {train}, record 3.",
    "warning: mean_audio: 2 of 2 dimensions never change, the first is 0.",
    "warning: mean_rgb: 2 of 3 dimensions never change (1 always 0), the first"
    " is 1.",
    "warning: 1 video without frames; training leaves them out.",
    "warning: train: 1 of 5 videos with an empty list of labels.",
    "warning: 1 class of validate with no video in train: class 3.",
  ]
  assert row_of(log, "mean_rgb")[-4:] == ["2", "1", "1", "0"]


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path):
  path = tmp_path / "train0"
  write_records(path, [small_video(name) for name in "abc"])
  path.write_bytes(path.read_bytes()[:-5])
  (tmp_path / "train1").write_text("<html>")
  (tmp_path / "train2").touch()
  write_records(tmp_path / "train3", [small_video("d"), b"no record"])

  log = inspect(f"{tmp_path}/train*", exit_code=2)

  assert row_of(log, "train0")[1:4] == ["2", "2", "0"]
  assert "1 cut off" in log
  assert row_of(log, "train")[1:4] == ["3", "3", "0"]
  damage = [line for line in log.splitlines() if line.startswith("damage: 1")]
  assert [re.findall(r"train\d, record \d", line) for line in damage] == [
    ["train0, record 2"],
    ["train1, record 0"],
    ["train2, record 0"],
    ["train3, record 1"],
  ]
  line = log.splitlines()[-1]
  assert line.startswith("ERROR: Expected records that can all be read")
  assert "received 4 that cannot, in 4 of 4 files" in line


def test_a_file_that_cannot_be_opened_is_damage(tmp_path, monkeypatch):
  good = write_records(tmp_path / "a", [small_video("a")])
  bad = write_records(tmp_path / "b", [small_video("b")])
  kept_walk = shards.kept_walk

  def fail(path):
    if path == bad:
      raise OSError(5, "Input/output error")
    return kept_walk(path)

  monkeypatch.setattr(shards, "kept_walk", fail)
  log = inspect(good, bad, exit_code=2)
  assert f"damage: 1 cannot be read, first in {bad}, record 0" in log
  assert row_of(log, "files")[1] == "1"


def test_small_parts_and_many_threads_give_the_same(tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  for file in range(3):
    records = [
      small_video(
        f"{file} {number}",
        random.integers(0, 5, 2).tolist(),
        mean_rgb=random.normal(size=3).astype(np.float32),
      )
      for number in range(25)
    ]
    write_records(tmp_path / f"train{file}", [*records, records[3]])
  one = inspect(f"{tmp_path}/train*", "--num_readers=1")
  monkeypatch.setattr(inspect_dataset, "_PART_RECORDS", 4)
  monkeypatch.setattr(inspect_dataset, "_PART_BYTES", 300)
  other = inspect(f"{tmp_path}/train*", "--num_readers=5")
  assert one.splitlines()[:-1] == other.splitlines()[:-1]
  assert "warning: 3 videos beyond the first of 3 groups with the same" in one


def test_segments(tmp_path):
  rgb = bytes_of(20, 3)
  path = write_records(
    tmp_path / "a",
    [segment_record("a", [(0, 1, 1.0), (5, 1, 0.0), (5, 2, 1.0)], rgb=rgb)],
  )
  log = inspect(path)
  assert "Segments: 2 rated, 3 ratings of 2 classes, 2 of them positive." in log


def test_records_are_not_replaced_by_their_page(tmp_path):
  path = write_records(tmp_path / "a.tfrecord", [small_video("a")])
  before = folder_content(tmp_path)
  log = inspect(path, f"--html={path}", exit_code=2)
  assert "Expected a file of its own as --html" in log
  assert folder_content(tmp_path) == before


@pytest.mark.parametrize(
  "name", ["checkpoint", "dataset.json", "vocabulary.csv", "b.tfrecord"]
)
def test_no_file_of_a_run_or_a_data_set_is_replaced(tmp_path, name):
  path = write_records(tmp_path / "a.tfrecord", [small_video("a")])
  (tmp_path / name).write_text("precious")
  log = inspect(path, f"--html={tmp_path / name}", exit_code=2)
  assert "which belongs to a" in log
  assert (tmp_path / name).read_text() == "precious"


def test_an_imported_data_set(tmp_path):
  rows = [("path", "labels")]
  random = np.random.default_rng(0)
  for number in range(20):
    array = random.normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / f"{number}.npy", array)
    rows.append((f"{number}.npy", ("cat", "dog;日本")[number % 2]))
  with (tmp_path / "m.csv").open("w", newline="") as file:
    csv.writer(file).writerows(rows)
  in_process.run(
    "data_tools.import_embeddings",
    f"--manifest={tmp_path}/m.csv",
    f"--output_dir={tmp_path}/set",
  )

  log = inspect(f"--dataset_dir={tmp_path}/set")

  assert row_of(log, "train")[1:4] == ["16", "48", "24"]
  assert row_of(log, "total")[1:4] == ["20", "60", "30"]
  assert "20 records: frame level: embedding (4 float16)" in log
  assert "Classes: 3 of 3 occur" in log
  assert row_of(log, "2 日本")[2:] == ["8", "1", "1", "1.0"]
  # As the last line has the time, all others.
  by_folder = inspect(f"{tmp_path}/set")
  assert by_folder.splitlines()[:-1] == log.splitlines()[:-1]
  log = inspect(f"--dataset_dir={tmp_path}/set", "x", exit_code=2)
  assert "Expected files or --dataset_dir, received both" in log


def test_ranges_of_bytes_are_those_of_the_card(tmp_path):
  path = write_records(
    tmp_path / "train0", [small_frames("a", rgb=np.uint8([[0, 51, 255]] * 3))]
  )
  card = DatasetCard(True, ["rgb", "audio"], [3, 2], ["uint8"] * 2, 5, {}, {})
  card.feature_ranges = [[-5.0, 5.0], None]
  sources = inspect_dataset.Sources([path], ["train"], [0], card)
  inspection, _ = inspect_dataset.inspect(sources)
  of = {of.form.name: of for of in dataset_report.feature_numbers(inspection)}
  np.testing.assert_allclose(of["rgb"].mean, [-5.0, -3.0, 5.0], atol=1e-6)
  np.testing.assert_allclose(of["audio"].least[0], 100 * 4 / 255 + 4 / 512 - 2)


def test_files_belong_to_the_split_or_the_pattern_that_named_them(tmp_path):
  for name in ("train0", "train1", "test0", "other,1", "more"):
    (tmp_path / name).touch()
  sources = find_sources([f"{tmp_path}/t*", f"{tmp_path}/m*"])
  assert sources.groups == ["train", "test", f"{tmp_path}/m*"]
  assert sources.group_of_file == [2, 1, 0, 0]
  sources = find_sources([f"{tmp_path}/other\\,1", f"{tmp_path}/more"])
  assert sources.groups == ["files"]


# --------------------------------------------------------------------------
# Classes


def test_names_of_the_classes_are_found_where_they_are(tmp_path):
  frames = {
    "rgb": np.zeros((1, 1024), np.uint8),
    "audio": np.zeros((1, 128), np.uint8),
  }
  (tmp_path / "a").mkdir()
  path = write_records(
    tmp_path / "a" / "train0", [small_frames("a", labels=[0, 1], **frames)]
  )
  other = write_records(tmp_path / "a" / "other", [small_frames("a")])

  youtube_8m = vocabulary.read_names(vocabulary.YOUTUBE_8M_FILE)[1]
  assert f"1 {youtube_8m} " in inspect(path)
  assert "1 class 1 " in inspect(other)
  beside = tmp_path / "vocabulary.csv"
  beside.write_text("Index,Name\n0,Dog\n")  # has not all of the classes
  assert f"1 {youtube_8m} " in inspect(path)
  beside.write_text("Index,Name\n0,Dog\n1,Cat\n")
  log = inspect(path)
  assert "1 Cat " in log
  assert f"Names: {beside}." in log
  typed = tmp_path / "names.csv"
  typed.write_text("index,mid,display_name\n1,m,Bird\n")
  assert "1 Bird " in inspect(path, f"--vocabulary={typed}")
  log = inspect(path, f"--vocabulary={tmp_path}/none", exit_code=2)
  assert f"--vocabulary={tmp_path}/none" in log


def test_chosen_classes():
  names = {1: "Dog", 2: "Cat, wild", 3: "7"}
  counts = {2: 5, 9: 4}
  assert choose_classes([], names, counts) == [2, 9]
  assert choose_classes(["Dog", "9", "Dog"], names, counts) == [1, 9]
  assert choose_classes(["Cat, wild", "7"], names, counts) == [2, 3]
  for wrong in ("Bird", "8", "-1", "²"):
    with pytest.raises(errors.UserError, match=r"--classes, received '"):
      choose_classes([wrong], names, counts)


def test_classes_beyond_those_that_are_known(tmp_path):
  path = write_records(tmp_path / "a", [small_video("a", [1, 7])])
  names = tmp_path / "names.csv"
  names.write_text("Index,Name\n0,Dog\n1,Cat\n")
  log = inspect(path, f"--vocabulary={names}", "--classes=Cat")
  assert "1 label beyond the 2 classes that are known: 7." in log
  assert row_of(log, "1 Cat") == ["1", "Cat", "1", "1.0"]


# --------------------------------------------------------------------------
# The command


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "Expected files, received none"),
    (["{}/no*"], "--data_pattern={}/no*, found none"),
    (["--dataset_dir={}"], "dataset.json"),
    (["{}/a.gz"], "not compressed"),
    (["{}/a", "--classes=Dog"], "--classes, received 'Dog'"),
    (["{}/a", "--html={}/p.html", "--video_id=x"], "--video_id, received x"),
    (["{}/a", "--html={}/a/p.html"], "--html={}/a/p.html"),
  ],
)
def test_wrong_command_lines_end_in_one_line(tmp_path, arguments, words):
  (tmp_path / "a.gz").touch()
  write_records(tmp_path / "a", [small_video("a")])
  before = sorted(tmp_path.iterdir())
  log = inspect(*(word.format(tmp_path) for word in arguments), exit_code=2)
  line = log.splitlines()[-1]
  assert line.startswith("ERROR: ")
  assert words.format(tmp_path) in line
  assert sorted({*tmp_path.iterdir()} - {tmp_path / "cache"}) == before


def test_a_missing_package_is_said_before_anything_is_read(
  tmp_path, monkeypatch
):
  path = write_records(tmp_path / "a", [small_video("a")])
  monkeypatch.setitem(sys.modules, "jinja2", None)
  monkeypatch.delitem(sys.modules, "reports.dataset_page", raising=False)
  log = inspect(path, f"--html={tmp_path}/p.html", exit_code=2)
  assert log.startswith("ERROR: Expected jinja2 for HTML pages")
  assert "requirements/inspect.txt" in log


def test_a_missing_library_of_pictures_is_said(tmp_path, monkeypatch):
  path = write_records(tmp_path / "a", [small_video("a")])
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  for name in ("charts", "dataset_page"):
    monkeypatch.delitem(sys.modules, f"reports.{name}", raising=False)
    monkeypatch.delattr(reports, name, raising=False)
  log = inspect(path, f"--html={tmp_path}/p.html", exit_code=2)
  assert log.startswith("ERROR: Expected the package matplotlib for --html")


def test_progress_lines_where_there_is_no_terminal(tmp_path, monkeypatch):
  monkeypatch.setattr(progress_bar, "_LINE_SECONDS", 0.0)
  path = write_records(tmp_path / "a", [small_video("a")] * 2)
  log = inspect(path)
  assert re.search(r"Read 0 of 0 MB, 2 records, \d+ a second", log)
  assert "Compared 1 of 2 videos that may be there twice" in log


def test_no_usable_record(tmp_path):
  path = write_records(tmp_path / "a", [b"no record"])
  log = inspect(path, f"--html={tmp_path}/p.html", exit_code=2)
  assert "received 1 that cannot" in log
  assert "not an Example" in (tmp_path / "p.html").read_text()
