"""Tests of engine.local_files; its flushing is tested with files.py."""

import errno
import os

import pytest
from conftest import folder_content

import errors
from engine import local_files


def test_a_file_is_put_into_place(tmp_path):
  (tmp_path / "old").write_text("old")
  (tmp_path / "new").write_text("new")
  local_files.put_in_place(f"{tmp_path}/new", f"{tmp_path}/old")
  assert folder_content(tmp_path) == {"old": b"new"}


def test_a_name_without_a_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  local_files.write_whole("new", b"content")
  assert folder_content(tmp_path) == {"new": b"content"}


def test_nothing_is_left_of_what_cannot_be_put_into_place(
  tmp_path, monkeypatch
):
  (tmp_path / "file").write_text("old")

  def fail(*unused):
    raise OSError("no renaming")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="no renaming"):
    local_files.write_whole(f"{tmp_path}/file", b"new")
  assert folder_content(tmp_path) == {"file": b"old"}


def test_files_of_one_beginning_are_flushed(tmp_path, monkeypatch):
  flushed = []
  monkeypatch.setattr(local_files, "flush", flushed.append)
  for name in ("a[1].x", "a[1].y", "a1.x", "b"):
    (tmp_path / name).touch()
  local_files.flush_files(f"{tmp_path}/a[1].")
  assert sorted(flushed[:2]) == [f"{tmp_path}/a[1].x", f"{tmp_path}/a[1].y"]
  assert flushed[2:] == [str(tmp_path)]


def test_a_number_of_no_open_file_is_named(tmp_path):
  with (tmp_path / "file").open("wb") as file:
    path = f"/dev/fd/{file.fileno()}"
    assert local_files.is_stream(path)
  with pytest.raises(errors.UserError, match=f"open as {path}, found none"):
    local_files.is_stream(path)


def test_a_lock_keeps_others_out(tmp_path, monkeypatch):
  fcntl = pytest.importorskip("fcntl")
  (tmp_path / "file").touch()
  with (tmp_path / "file").open() as one, (tmp_path / "file").open() as other:
    assert local_files.lock(one)
    assert not local_files.lock(other, waits=False)
    assert not local_files.lock(other, shared=True, waits=False)
    assert local_files.lock(one, shared=True)
    assert local_files.lock(other, shared=True, waits=False)
    assert not local_files.lock(other, waits=False)

    def fail(*unused):
      raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert local_files.lock(other, waits=False)


@pytest.mark.parametrize(
  ("number", "named"),
  [(errno.ENOSPC, "/disk/file"), (errno.ENOENT, None)],
)
def test_only_a_lack_of_room_is_named(number, named):
  with (
    pytest.raises(OSError, match=os.strerror(number)) as caught,
    local_files.naming("/disk/file"),
  ):
    raise OSError(number, os.strerror(number))
  assert caught.value.filename == named


def test_a_path_that_is_named_already_stays():
  with (
    pytest.raises(OSError, match="other"),
    local_files.naming("/disk/file"),
  ):
    raise OSError(errno.ENOSPC, "full", "/other")


def test_the_nearest_folder(tmp_path, monkeypatch):
  assert local_files.nearest_folder(str(tmp_path)) == str(tmp_path)
  missing = tmp_path / "a" / "b"
  assert local_files.nearest_folder(str(missing)) == str(tmp_path)
  monkeypatch.chdir(tmp_path)
  assert local_files.nearest_folder("a/b") == str(tmp_path)
