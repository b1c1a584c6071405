"""Tests of engine.local_files; its flushing is tested with files.py."""

import os

import pytest
from conftest import folder_content

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
