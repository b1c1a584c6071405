"""Tests of extraction_runs: log lines of an extraction, and its parts."""

import os

import numpy as np
import pytest
from absl import logging
from conftest import assert_names

import errors
from data_tools import extraction_runs
from media.extraction import Extracted, Extraction
from media.frames import BadVideoError
from media.parts import Entry


class FakeExtractor:
  """What an Observer asks."""

  takes_sound = True
  waiting_seconds = 1.0
  encoding_seconds = 3.0


@pytest.fixture
def lines(monkeypatch):
  """The lines of the log."""
  found = []
  for name in ("info", "warning"):
    monkeypatch.setattr(
      logging, name, lambda text, *values: found.append(text % values)
    )
  return found


def test_what_fails_is_named_and_what_bounds_is_said(lines):
  observer = extraction_runs.Observer(30)
  silent = Extracted({}, np.zeros(0), 1.0, has_sound=False, note="cut off")
  observer("a", silent)
  for number in range(25):
    observer(f"b{number}", BadVideoError("is text"))
  observer.end(FakeExtractor())
  assert lines[0] == "a: cut off"
  assert lines[1:21] == [f"b{number}: is text" for number in range(20)]
  assert_names(
    lines[21],
    "26 videos",
    "bounded by the encoder",
    "25 % of the time",
    "25 cannot be used",
  )
  assert_names(lines[22], "silence: 1 videos")


def test_decoding_bounds(lines):
  observer = extraction_runs.Observer(1)
  observer("a", Extracted({}, np.zeros(0), 1.0))
  fast = FakeExtractor()
  fast.encoding_seconds = 0.5
  fast.takes_sound = False
  observer.end(fast)
  assert len(lines) == 1
  assert "bounded by decoding" in lines[0]


def test_parts_that_lack_videos_are_an_error(tmp_path):
  folder = str(tmp_path)
  path = extraction_runs.part_path(folder, 2, 3)
  assert os.path.basename(path) == "00002-of-00003.part"
  extraction = Extraction("random")
  extraction_runs.run_part(path, {}, extraction, num_workers=1)
  settings = extraction.to_dict()
  assert extraction_runs.open_parts(folder, [], settings).entries == {}
  with pytest.raises(errors.UserError) as error:
    extraction_runs.open_parts(folder, ["a", "b"], settings)
  assert_names(str(error.value), "all 2 videos", "none for 2", "such as a")


def test_videos_are_divided_among_rays_parts(tmp_path):
  folder = str(tmp_path)
  videos = {f"{number}.mp4": f"/v/{number}.mp4" for number in range(300)}
  parts = extraction_runs.divided(folder, videos, {})
  assert 50 < len(parts) <= 64
  assert len({path for path, _ in parts}) == len(parts)
  assert all(path.endswith("-of-00064.part") for path, _ in parts)
  everything = [pair for _, group in parts for pair in group.items()]
  assert sorted(everything) == sorted(videos.items())

  path, group = parts[0]
  own, *_ = group
  elsewhere, failed, *_ = parts[1][1]
  entries = {
    own: Entry(path, 0, 1, "", "stamp"),
    elsewhere: Entry("shard.part", 0, 1, "", "stamp"),
    failed: Entry("shard.part", 0, 1, "is text", "stamp"),
  }
  again = dict(extraction_runs.divided(folder, videos, entries))
  assert again[path] == group  # a part verifies what it has
  assert again[parts[1][0]].keys() == parts[1][1].keys() - {elsewhere}


def test_a_part_with_nothing_to_do_is_left_out(tmp_path):
  entries = {"a": Entry("shard.part", 0, 1, "", "stamp")}
  assert extraction_runs.divided(str(tmp_path), {"a": "a"}, entries) == []
