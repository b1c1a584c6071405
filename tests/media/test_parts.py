"""Tests of parts: what is extracted survives a kill, once and whole."""

import fcntl
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import small_clips
from conftest import REPOSITORY, assert_names

import errors
from media.extraction import Extracted, Extraction, Extractor
from media.frames import BadVideoError
from media.parts import PART_ENDING, Parts, _pack, extract_part
from records.writing import RecordWriter

SETTINGS = {"encoder": "none"}


def features_of(path) -> Extracted:
  """Features that depend on the name."""
  value = sum(os.fsencode(path))
  return Extracted(
    {
      "rgb": np.full((2, 3), value, np.float32),
      "audio": np.full((2, 1), value % 256, np.uint8),
    },
    np.array([0.0, 1.0]),
    2.5,
    has_sound=value % 2 == 0,
    note="cut off",
  )


class FakeExtractor:
  """Makes features_of a path; those named bad fail."""

  def extract(self, paths):
    for path in paths:
      bad = "bad" in path
      yield path, BadVideoError("is bad") if bad else features_of(path)


def extract(folder, names, number=1, settings=SETTINGS, stop_before=None):
  """Extracts to a part; returns the keys of what was extracted."""
  done = []

  def on_done(key, _):
    done.append(key)
    if key == stop_before:
      raise KeyboardInterrupt

  extract_part(
    str(folder / f"{number}{PART_ENDING}"),
    {name: f"{folder}/{name}" for name in names},
    settings,
    FakeExtractor,
    on_done,
  )
  return done


def test_what_was_written_comes_back(tmp_path):
  extract(tmp_path, ["a", "b bad", "ü\udcff"])

  parts = Parts(str(tmp_path), SETTINGS)

  assert list(parts.entries) == ["a", "b bad", "ü\udcff"]
  assert parts.entries["b bad"].problem == "is bad"
  found, wanted = parts.read("a"), features_of(f"{tmp_path}/a")
  assert list(found.arrays) == ["rgb", "audio"]
  for name, array in wanted.arrays.items():
    assert found.arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(found.arrays[name], array)
  np.testing.assert_array_equal(found.times, wanted.times)
  assert found.times.dtype == np.float64
  assert (found.duration, found.note) == (2.5, "cut off")
  assert found.has_sound == wanted.has_sound


def test_a_part_that_was_stopped_goes_on(tmp_path):
  names = ["a", "b", "c", "d"]
  whole = tmp_path / "whole"
  cut = tmp_path / "cut"
  whole.mkdir()
  cut.mkdir()
  extract(cut, names)
  with pytest.raises(KeyboardInterrupt):
    extract(whole, names, stop_before="b")
  assert extract(whole, names) == ["c", "d"]
  path, other = (folder / f"1{PART_ENDING}" for folder in (whole, cut))
  parts = Parts(str(whole), SETTINGS)
  assert list(parts.entries) == names
  # A record that was torn anywhere is made again, and no other.
  content = path.read_bytes()
  last = parts.entries["d"].offset
  for end in (last + 1, last + 13, len(content) - 1):
    path.write_bytes(content[:end])
    assert list(Parts(str(whole), SETTINGS).entries) == names[:3]
    assert extract(whole, names) == ["d"]
    assert path.read_bytes() == content
  path.write_bytes(content[:-9] + b"?" + content[-8:])
  assert extract(whole, names) == ["d"]
  assert path.read_bytes() == content
  path.write_bytes(content[:5])  # not even the settings
  assert Parts(str(whole), SETTINGS).entries == {}
  assert extract(whole, names) == names
  assert path.read_bytes() == content
  assert other.stat().st_size > 0


def test_nothing_is_done_twice_except_what_failed_or_changed(tmp_path):
  for name in ("a", "b bad"):
    (tmp_path / name).write_text("1")
  assert extract(tmp_path, ["a", "b bad"]) == ["a", "b bad"]
  assert extract(tmp_path, ["a"]) == []
  assert extract(tmp_path, ["a", "b bad"]) == ["b bad"]
  (tmp_path / "a").write_text("12")
  assert extract(tmp_path, ["a"]) == ["a"]
  (tmp_path / "a").unlink()  # it is known already
  assert extract(tmp_path, ["a"]) == []
  assert list(Parts(str(tmp_path), SETTINGS).entries) == ["a", "b bad"]


def test_other_settings_are_an_error(tmp_path):
  extract(tmp_path, ["a"])
  other = {"encoder": "other"}
  for call in (
    lambda: extract(tmp_path, ["a"], settings=other),
    lambda: Parts(str(tmp_path), other),
  ):
    with pytest.raises(errors.UserError) as error:
      call()
    assert_names(str(error.value), "encoder 'none' instead of 'other'")


def test_an_encoder_that_cannot_be_made_leaves_nothing_that_binds(tmp_path):
  def without_weights():
    raise errors.UserError("no weights")

  path = str(tmp_path / f"1{PART_ENDING}")
  with pytest.raises(errors.UserError, match="no weights"):
    extract_part(path, {"a": "a"}, {"encoder": "other"}, without_weights)
  assert Parts(str(tmp_path), SETTINGS).entries == {}
  assert extract(tmp_path, ["a"]) == ["a"]


def test_parts_are_combined(tmp_path):
  extract(tmp_path, ["a", "b bad"], 1)
  extract(tmp_path, ["c", "b bad"], 2)
  assert set(Parts(str(tmp_path), SETTINGS).entries) == {"a", "b bad", "c"}
  extract(tmp_path, ["a"], 3)
  with pytest.raises(errors.UserError) as error:
    Parts(str(tmp_path), SETTINGS)
  assert_names(str(error.value), "a in", "1.part", "3.part")


def test_a_damaged_part_is_an_error_of_reading(tmp_path):
  extract(tmp_path, ["a"])
  path = tmp_path / f"1{PART_ENDING}"
  content = path.read_bytes()
  path.write_bytes(content[:-9] + b"?" + content[-8:])
  with pytest.raises(errors.UserError, match="damaged"):
    Parts(str(tmp_path), SETTINGS).read("a")


def test_one_process_writes_a_part(tmp_path):
  class Meanwhile(FakeExtractor):
    def extract(self, paths):
      with pytest.raises(errors.UserError, match="another one is writing"):
        extract(tmp_path, ["a"])
      return super().extract(paths)

  path = str(tmp_path / f"1{PART_ENDING}")
  extract_part(path, {"a": "a"}, SETTINGS, Meanwhile)
  assert list(Parts(str(tmp_path), SETTINGS).entries) == ["a"]


def test_a_patient_process_waits_for_the_other(tmp_path):
  path = tmp_path / f"1{PART_ENDING}"
  with open(path, "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    unlock = threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN))
    unlock.start()
    extract_part(str(path), {"a": "a"}, SETTINGS, FakeExtractor, patience=60)
    unlock.join()
  assert list(Parts(str(tmp_path), SETTINGS).entries) == ["a"]


KILLED = """
import os, signal
from media.extraction import Extraction, Extractor
from media.parts import extract_part

extraction = Extraction("random")
videos = {name: name for name in ("0.mp4", "1.mp4", "2.mp4", "3.mp4")}

def on_done(key, result):
  if key == "1.mp4":
    os.kill(os.getpid(), signal.SIGKILL)

extract_part("killed/1.part", videos, extraction.to_dict(),
             lambda: Extractor(extraction, num_workers=2), on_done)
"""


def test_a_killed_process_leaves_what_it_has_done(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  videos = {f"{number}.mp4": f"{number}.mp4" for number in range(4)}
  for number, name in enumerate(videos):
    small_clips.make_clip(name, (40 * number, 90, 10), 1)
  ended = subprocess.run(
    [sys.executable, "-c", KILLED],
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    check=False,
  )
  assert ended.returncode == -9
  extraction = Extraction("random")
  settings = extraction.to_dict()
  assert list(Parts("killed", settings).entries) == ["0.mp4", "1.mp4"]
  for folder in ("killed", "whole"):
    extract_part(
      f"{folder}/1.part",
      videos,
      settings,
      lambda: Extractor(extraction, num_workers=1),
    )
  contents = [
    pathlib.Path(f"{folder}/1.part").read_bytes()
    for folder in ("killed", "whole")
  ]
  assert contents[0] == contents[1]


@pytest.mark.parametrize(
  "records",
  [
    [b"text"],
    [b"\0\0\0\0"],
    [b"\xff\xff\xff\x7f"],
    [_pack([1, 2])],
    [_pack({"id": "x"})],
    [_pack({"version": 1, **SETTINGS}), _pack({"stamp": "x"})],
    [_pack({"version": 1, **SETTINGS}), _pack({"key": 1, "stamp": "x"})],
    [_pack({"version": 1, **SETTINGS}), _pack("text")],
  ],
)
def test_what_something_else_wrote_is_refused_and_stays(records, tmp_path):
  path = tmp_path / f"1{PART_ENDING}"
  with RecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  before = path.read_bytes()
  with pytest.raises(errors.UserError, match="something else wrote") as error:
    extract(tmp_path, ["a"])
  assert str(path) in str(error.value)
  assert path.read_bytes() == before


def test_arrays_that_are_none_are_an_error_of_the_part(tmp_path):
  path = tmp_path / f"1{PART_ENDING}"
  with RecordWriter(str(path)) as writer:
    writer.write(_pack({"version": 1, **SETTINGS}))
    writer.write(_pack({"key": "a", "stamp": ""}))
  with pytest.raises(errors.UserError, match="received a damaged file"):
    Parts(str(tmp_path), SETTINGS).read("a")
