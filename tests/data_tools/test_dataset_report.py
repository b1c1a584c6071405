"""Tests of data_tools.dataset_report; see also test_inspect_dataset.py."""

import numpy as np
from make_records import small_frames, small_video, write_records

from data_tools import dataset_report, inspect_dataset
from data_tools.dataset_facts import FeatureForm


def inspect(*patterns):
  sources = inspect_dataset.find_sources([str(path) for path in patterns])
  return inspect_dataset.inspect(sources)[0]


def test_distributions():
  counts = {4: 1, 2: 3, 9: 1}
  assert dataset_report.distribution(counts) == (
    "2 at least, 2 in the middle, 3.8 on average, 9 at most"
  )
  assert "3 in the middle, 2.5 on" in dataset_report.distribution({1: 1, 3: 3})


def test_kinds_in_words():
  form = FeatureForm("clip", "float16", 512, True)
  assert dataset_report.kind_text((form,)) == "frame level: clip (512 float16)"
  assert "further kinds" in dataset_report.kind_text(())


def test_bytes_stand_for_numbers():
  form = FeatureForm("x", "uint8", 1, True)
  scale, bias = dataset_report.byte_scale(form, {})
  np.testing.assert_allclose([bias, 255 * scale], [4 / 512 - 2, 4])
  scale, bias = dataset_report.byte_scale(form, {"x": (-1.0, 2.0)})
  np.testing.assert_allclose([bias, 255 * scale], [-1.0, 3.0])
  floats = form._replace(dtype="float32")
  assert dataset_report.byte_scale(floats, {"x": (-1.0, 2.0)}) == (1.0, 0.0)


def test_of_many_files_only_the_damaged_ones_are_listed(tmp_path, monkeypatch):
  monkeypatch.setattr(dataset_report, "MOST_FILES", 3)
  for name in "abcd":
    records = [small_video(name), b"damaged" if name == "b" else b""][
      : 1 + (name == "b")
    ]
    write_records(tmp_path / f"train_{name}", records)
  found = inspect(tmp_path / "train_*")
  rows = dataset_report.group_table(found, with_files=True)
  assert [row[0] for row in rows] == ["", "train", "  train_b"]
  assert rows[2] == ["  train_b", "1", "1", "0", "1 not an Example"]
  assert rows[1] == ["train", "4", "4", "0", "1 not an Example"]


def test_names_of_others_cannot_control_a_terminal(tmp_path):
  write_records(tmp_path / "train0\x1b[2J", [small_video("a", x_hidden=[1.0])])
  names = tmp_path / "vocabulary.csv"
  names.write_text("Index,Name\n0,a\n1,\x1b[31mred\n")
  found = inspect(tmp_path / "train*")
  text = dataset_report.report(found, [1], dataset_report.find(found))
  assert "\x1b" not in text
  assert "1 \ufffd[31mred" in text
  assert "train0\ufffd[2J" in text


def test_columns_that_tell_nothing_are_left_out(tmp_path):
  write_records(tmp_path / "video", [small_video("a")])
  heads = dataset_report.group_table(inspect(tmp_path / "video"))[0]
  assert heads == ["", "videos", "labels", "unlabeled"]
  write_records(tmp_path / "frame", [small_frames("a"), b"damaged"])
  heads = dataset_report.group_table(inspect(tmp_path / "frame"))[0]
  assert heads == ["", "videos", "frames", "labels", "unlabeled", "damage"]


def test_the_gravest_findings_come_first(tmp_path):
  write_records(
    tmp_path / "a", [small_video("a", None), small_video("a", None), b"damaged"]
  )
  levels = [of.level for of in dataset_report.find(inspect(tmp_path / "a"))]
  assert levels[0] == "damage"
  assert levels[-1] == "note"
  assert set(levels[1:-1]) == {"warning"}
