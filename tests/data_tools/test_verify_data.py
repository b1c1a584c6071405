"""Tests of data_tools.verify_data."""

import csv
import os

import in_process
import numpy as np
import pytest
from conftest import folder_content, read_batches, run_program
from make_records import (
  SMALL_FRAME_FLAGS,
  frame_record,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

from data_tools import verify_data
from engine import progress_bar
from engine.data import Data
from records import shards

FRAME_FLAGS = (
  "--frame_features",
  "--feature_names=rgb,audio",
  "--feature_sizes=3,2",
  "--num_classes=5",
)
VIDEO_FLAGS = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=3,2",
  "--num_classes=5",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def verify(*arguments, exit_code=0) -> str:
  code, log = in_process.call("data_tools.verify_data", *arguments)
  assert code == exit_code, log
  return log


def row_of(log, name) -> list[str]:
  """The cells of a row of the table."""
  (row,) = [line for line in log.splitlines() if line.startswith(f"{name} ")]
  return row.split(maxsplit=row.count("  ") + 4)


def flip(path, at) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


def test_good_frames(tmp_path):
  write_records(
    tmp_path / "a.tfrecord",
    [small_frames("a", 2, [1, 4]), small_frames("b", 7, [])],
  )
  write_records(tmp_path / "b.tfrecord", [small_frames("c", 0, [1])])

  log = verify(f"{tmp_path}/*.tfrecord", *FRAME_FLAGS)

  assert log.startswith(f"2 files in {tmp_path}\n")
  assert row_of(log, "a.tfrecord") == ["a.tfrecord", "2", "9", "2"]
  assert row_of(log, "b.tfrecord") == ["b.tfrecord", "1", "0", "1"]
  assert row_of(log, "total") == ["total", "3", "9", "3"]
  assert "0 at least, 3.0 on average, 7 at most" in log
  assert "Videos without frames: 1." in log
  assert "Classes: 2 of 5 occur, the largest is 4." in log


def test_files_are_named_with_and_without_a_flag(tmp_path):
  for name in ("a", "b", "c,d", "e"):
    write_records(tmp_path / name, [small_video(name)])
  # As the shell expands a pattern; flags may follow.
  log = verify(
    tmp_path / "a",
    *VIDEO_FLAGS,
    tmp_path / "c,d",
    f"--data_pattern={tmp_path}/b,{tmp_path}/e",
  )
  assert log.startswith("4 files")
  assert row_of(log, "total") == ["total", "4", "4"]


def test_damage_of_every_kind_of_place(tmp_path):
  path = tmp_path / "damaged"
  good = small_frames("good", 4)
  write_records(
    path,
    [
      good,
      good,
      small_frames("far", 4, [5]),
      small_frames("wide", rgb=np.zeros((4, 9), np.uint8)),
      small_video("other level"),
      b"no record",
      good,
      good,
    ],
  )
  offsets = shards.walk(str(path)).offsets
  flip(path, int(offsets[1]) + 40)
  path.write_bytes(path.read_bytes()[:-5])
  (tmp_path / "empty").touch()
  (tmp_path / "text").write_text("id,label\n1,2\n")
  report = tmp_path / "report.csv"

  log = verify(
    f"{tmp_path}/damaged",
    f"{tmp_path}/[et]*t*",
    *FRAME_FLAGS,
    f"--output_file={report}",
    exit_code=2,
  )

  with report.open() as file:
    rows = list(csv.DictReader(file))
  found = [(row["record"], row["kind"]) for row in rows[:-2]]
  assert found == [
    ("1", "checksum"),
    ("2", "label out of range"),
    ("3", "wrong size"),
    ("4", "missing feature"),
    ("5", "not an Example"),
    ("7", "cut off"),
  ]
  assert {row["file"] for row in rows[:-2]} == {str(path)}
  kinds = {os.path.basename(row["file"]): row["kind"] for row in rows[-2:]}
  assert kinds == {"empty": "empty file", "text": "not a TFRecord"}
  assert row_of(log, "damaged")[1:4] == ["2", "8", "2"]
  for row in rows:
    assert f"1 {row['kind']}, first in {row['file']}, record" in log
  lost = path.stat().st_size - int(offsets[7]) + 13
  assert f"is cut off: {lost} bytes, about" in log
  line = log.splitlines()[-1]
  assert line.startswith("ERROR: ")
  assert "received 8 that cannot, in 3 of 3 files" in line


def test_what_is_left_out_is_what_training_leaves_out(tmp_path):
  records = [
    small_frames(
      f"v{number}", labels=[number % 7], rgb=np.zeros((3, 3), np.uint8)
    )
    for number in range(20)
  ]
  path = tmp_path / "a"
  write_records(path, records)
  flip(path, int(shards.walk(str(path)).offsets[3]) + 30)
  report = tmp_path / "report.csv"
  verify(path, *FRAME_FLAGS, f"--output_file={report}", exit_code=2)

  policy = verify_data.Policy(skip=True)
  data = Data(SMALL_FRAME_FLAGS, [str(path)], True, policy=policy)
  read_batches(data)

  with report.open() as file:
    rows = [tuple(row) for row in list(csv.reader(file))[1:]]
  assert rows == [tuple(map(str, row)) for row in data.skipped.rows]
  assert len(rows) == 6


def test_an_old_report_is_replaced_by_an_empty_one(tmp_path):
  path = write_records(tmp_path / "a", [small_video("a")])
  report = tmp_path / "report.csv"
  report.write_text("old")
  verify(path, *VIDEO_FLAGS, f"--output_file={report}")
  assert report.read_text().splitlines() == ["file,record,kind,problem"]


def test_an_earlier_list_is_replaced_but_no_file_of_a_run_or_a_data_set(
  tmp_path,
):
  path = write_records(tmp_path / "a", [small_video("a")])
  flags = (path, *VIDEO_FLAGS)
  for _ in range(2):
    verify(*flags, f"--output_file={tmp_path}/skipped_records.csv")
  for name in ("model_flags.json", "dataset.json", "test0000.tfrecord"):
    file = tmp_path / name
    file.write_text("precious")
    log = verify(*flags, f"--output_file={file}", exit_code=2)
    assert f"--output_file, received {file}, which belongs to a" in log
    assert file.read_text() == "precious"


def test_split_without_labels(tmp_path):
  path = write_records(
    tmp_path / "a", [small_video("a", None), small_video("b", [2])]
  )
  assert "1 no labels" in verify(path, *VIDEO_FLAGS, exit_code=2)
  log = verify(path, *VIDEO_FLAGS, "--nolabels")
  assert row_of(log, "a") == ["a", "2", "1"]
  wrong = write_records(tmp_path / "b", [small_video("b", [9])])
  log = verify(wrong, *VIDEO_FLAGS, "--nolabels", exit_code=2)
  assert "1 label out of range" in log


def test_exclusive_classes_need_exactly_one_label(tmp_path):
  file = write_records(
    tmp_path / "a",
    [
      small_video(f"v{number}", labels)
      for number, labels in enumerate([[1], [1, 3], [], [4]])
    ],
  )
  assert row_of(verify(file, *VIDEO_FLAGS), "a")[1] == "4"
  log = verify(file, *VIDEO_FLAGS, "--exclusive_classes", exit_code=2)
  assert f"2 not one label, first in {file}, record 1: expected exactly" in log
  assert row_of(log, "a")[1] == "2"
  log = verify(
    file,
    *("--frame_features", "--segment_labels", "--exclusive_classes"),
    exit_code=2,
  )
  assert "Expected labels of whole videos with --exclusive_classes" in log


def test_float_frames_are_recognized(tmp_path):
  wrong = np.full((2, 3), np.nan)
  audio = np.zeros((2, 2))
  path = write_records(
    tmp_path / "a",
    [
      small_video("another level"),
      small_frames("a", rgb=np.zeros((2, 3)), audio=audio),
      small_frames("b", rgb=wrong, audio=audio),
      small_frames("c"),
    ],
  )
  log = verify(path, *FRAME_FLAGS, exit_code=2)
  assert row_of(log, "a")[1:4] == ["1", "2", "1"]
  assert "1 missing feature, 1 not finite, 1 wrong type" in log


def test_segments_are_counted_and_kept_as_a_run_would(tmp_path):
  features = {
    "rgb": np.zeros((20, 3), np.uint8),
    "audio": np.zeros((20, 2), np.uint8),
  }
  path = write_records(
    tmp_path / "a",
    [
      segment_record("a", [(0, 1, 1.0), (5, 1, 0.0), (5, 2, 1.0)], **features),
      segment_record("b", [], **features),
      segment_record("c", [(0, 9, 1.0), (5, 1, 1.0)], **features),
      frame_record("d", [1], **features),
      segment_record("e", [(0, 1, 1.0), (5, 1, 1.0)], rgb=features["rgb"]),
    ],
  )
  log = verify(path, *FRAME_FLAGS, "--segment_labels", exit_code=2)
  assert row_of(log, "a")[1:5] == ["2", "40", "2", "3"]
  assert "1 label out of range, 2 missing feature" in log

  kept = shards.kept(path, "segments").tolist()
  assert kept == [2, 0, 2, 1, 2]
  os.remove(shards._kept_path(path, "segments"))
  policy = verify_data.Policy(skip=True)
  data = Data(SMALL_FRAME_FLAGS, [path], True, True, policy=policy)
  _, counts = data._open_segments(0)
  assert counts.tolist() == kept


def test_walks_are_kept_and_a_wrong_one_is_replaced(tmp_path):
  path = write_records(tmp_path / "a", [small_video("a")] * 3)
  right = shards.walk(path).offsets
  identity = shards.identity_of(path)
  shards.keep(path, "records", right[:2], identity)
  verify(path, *VIDEO_FLAGS)
  np.testing.assert_array_equal(shards.kept(path, "records"), right)


def test_of_many_files_only_the_damaged_ones_are_listed(tmp_path, monkeypatch):
  monkeypatch.setattr(verify_data, "MOST_LISTED", 3)
  for name in "abcd":
    write_records(tmp_path / name, [small_video(name)] * 2)
  flip(tmp_path / "b", 30)
  log = verify(f"{tmp_path}/[a-d]", *VIDEO_FLAGS, exit_code=2)
  assert "4 files" in log
  assert "1 of them with damage" in log
  assert [line[:2] for line in log.splitlines()[3:6]] == ["b ", "to", ""]
  assert row_of(log, "total")[:2] == ["total", "7"]


def test_a_file_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
  path = write_records(tmp_path / "a", [small_video("a")] * 3)
  read = shards.RecordReader.read

  def fail(self, file, offset, length):
    if offset:
      raise OSError(5, "Input/output error")
    return read(self, file, offset, length)

  monkeypatch.setattr(shards.RecordReader, "read", fail)
  log = verify(path, *VIDEO_FLAGS, exit_code=2)
  assert row_of(log, "a")[1:3] == ["1", "1"]
  assert "2 cannot be read" in log
  assert "Input/output error" in log


def test_progress_lines_where_there_is_no_terminal(tmp_path, monkeypatch):
  monkeypatch.setattr(progress_bar, "_LINE_SECONDS", 0.0)
  path = write_records(tmp_path / "a", [small_video("a")] * 3)
  assert "Checked " in verify(path, *VIDEO_FLAGS)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "Expected files, received none"),
    (("nothing*",), "found none"),
    (("gs://bucket/a", "--segment_labels"), "add --frame_features"),
    (("{}.gz",), "not compressed"),
    (("{}.b", "--output_file={}.b"), "Expected a file of its own"),
  ],
)
def test_wrong_command_lines_end_in_one_line(tmp_path, arguments, words):
  path = write_records(tmp_path / "a.gz", [small_video("a")])[:-3]
  write_records(tmp_path / "a.b", [small_video("a")])
  before = folder_content(tmp_path)
  line = in_process.run_into_error(
    "data_tools.verify_data", *(text.format(path) for text in arguments)
  )
  assert words in line
  assert folder_content(tmp_path) == before


def test_program(data_dir, tmp_path):
  log = run_program(
    "-m",
    "data_tools.verify_data",
    f"{data_dir}/frame/train*",
    "--frame_features",
    "--num_classes=40",
  )
  assert row_of(log, "total")[1] == "60"
