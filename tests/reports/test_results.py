"""Tests of reports.results."""

import csv
import json

import numpy as np
import pytest

from reports.results import (
  ClassScore,
  VideoResult,
  Window,
  readable,
  write_timeline_csv,
  write_timeline_json,
)

NAMES = ['a "quoted", name', "two\nlines", "one\rline", "=1+1", "猫 🐈", ""]
NOT_UTF8 = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")


def video(names, path="clips/a.mp4", video_id="a"):
  top = [
    ClassScore(index, name, np.float32(0.9) - index / 10)
    for index, name in enumerate(names)
  ]
  windows = [
    Window(0.0, 5.0, top, b"\xff\xd8"),
    Window(5.0, 7.234375, top[:1]),
  ]
  return VideoResult(path, video_id, 7.234375, top, windows, b"\xff\xd8")


def read_csv(path):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.reader(file))


def test_csv_has_a_line_for_each_class_of_each_window(tmp_path):
  path = tmp_path / "timeline.csv"
  write_timeline_csv(str(path), iter([video(["cat", "dog"])]))
  assert path.read_text().splitlines() == [
    "video_id,start,end,rank,class_index,class_name,confidence",
    "a,0,5,1,0,cat,0.9",
    "a,0,5,2,1,dog,0.8",
    "a,5,7.234375,1,0,cat,0.9",
  ]


def test_hostile_names_survive_the_csv(tmp_path):
  path = tmp_path / "new" / "timeline.csv"
  write_timeline_csv(str(path), [video(NAMES, video_id='v,"1"\n')])
  rows = read_csv(path)
  assert {len(row) for row in rows} == {7}
  assert {row[0] for row in rows[1:]} == {'v,"1"\n'}
  assert [row[5] for row in rows[1:7]] == NAMES


def test_json_has_everything_except_the_thumbnails(tmp_path):
  path = tmp_path / "timeline.json"
  write_timeline_json(str(path), iter([video(NAMES), video(["cat"])]))
  text = path.read_text(encoding="utf-8")
  assert len(text.splitlines()) == 4
  assert "猫 🐈" in text
  first, second = json.loads(text)["videos"]
  assert [score["name"] for score in first["top"]] == NAMES
  score = {"index": 0, "name": "cat", "confidence": 0.9}
  assert second == {
    "video_id": "a",
    "path": "clips/a.mp4",
    "duration": 7.234375,
    "top": [score],
    "windows": [
      {"start": 0.0, "end": 5.0, "top": [score]},
      {"start": 5.0, "end": 7.234375, "top": [score]},
    ],
  }


@pytest.mark.parametrize(
  ("write", "shown"),
  [
    (write_timeline_csv, "\ncaf\\xe9.mp4,0,5,"),
    (write_timeline_json, "caf\ufffd.mp4"),
  ],
)
def test_names_of_files_that_are_no_text_are_written(tmp_path, write, shown):
  path = tmp_path / "timeline"
  write(str(path), [video(["cat"], NOT_UTF8, NOT_UTF8)])
  assert shown in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("write", [write_timeline_csv, write_timeline_json])
def test_an_error_leaves_the_old_file(tmp_path, write):
  path = tmp_path / "timeline"
  path.write_text("old")

  def results():
    yield video(["cat"])
    raise KeyError("stop")

  with pytest.raises(KeyError):
    write(str(path), results())
  assert [one.name for one in tmp_path.iterdir()] == ["timeline"]
  assert path.read_text() == "old"


def test_no_video_gives_empty_tables(tmp_path):
  write_timeline_csv(str(tmp_path / "a.csv"), [])
  write_timeline_json(str(tmp_path / "a.json"), [])
  assert len(read_csv(tmp_path / "a.csv")) == 1
  assert json.loads((tmp_path / "a.json").read_text()) == {"videos": []}


def test_copies_without_thumbnails():
  before = video(["cat"])
  after = before.without_thumbnails()
  assert [after.thumbnail, after.windows[0].thumbnail] == [b"", b""]
  assert before.windows[0].thumbnail == b"\xff\xd8"
  assert after.windows[1] == before.windows[1]


def test_labels_are_never_empty():
  labels = [ClassScore(7, name, 1.0).label for name in ("cat", " ", NOT_UTF8)]
  assert labels == ["cat", "Class 7", "caf\ufffd.mp4"]


def test_a_lone_surrogate_is_replaced():
  assert readable("a\udce9 b") == "a\ufffd b"
