"""Tests of data_tools.local_shards."""

import pytest

import errors
from data_tools import local_shards
from records import shards


def test_arguments_are_files_or_patterns(tmp_path):
  for name in ("a,b", "c1", "c2"):
    (tmp_path / name).touch()
  patterns = local_shards.patterns_of([f"{tmp_path}/a,b"], f"{tmp_path}/c*")
  assert patterns == [f"{tmp_path}/a\\,b", f"{tmp_path}/c*"]
  found = local_shards.find_local_files(patterns, "data_pattern", "program")
  assert found == [f"{tmp_path}/{name}" for name in ("a,b", "c1", "c2")]


@pytest.mark.parametrize(
  "name", ["a [1].tfrecord", "d[1],x/t.tfrecord", "a?,*", r"b\,[!c]"]
)
def test_a_file_that_looks_like_a_pattern_is_found(tmp_path, name):
  file = tmp_path / name
  file.parent.mkdir(exist_ok=True)
  file.touch()
  (tmp_path / "a1,2").touch()
  (pattern,) = local_shards.patterns_of([str(file)])
  found = local_shards.find_local_files([pattern], "data_pattern", "program")
  assert found == [local_shards.path_of(pattern)] == [str(file)]


@pytest.mark.parametrize(
  ("patterns", "words"),
  [
    ([], "Expected files, received none"),
    (["{}/no*"], "--flag={}/no*, found none"),
    (["{}/a.gz"], "Expected local files that are not compressed"),
  ],
)
def test_what_cannot_be_read_is_said(tmp_path, patterns, words):
  (tmp_path / "a.gz").touch()
  patterns = [pattern.format(tmp_path) for pattern in patterns]
  with pytest.raises(errors.UserError) as raised:
    local_shards.find_local_files(patterns, "flag", "some.program")
  assert words.format(tmp_path) in str(raised.value)


def test_without_the_package_for_checksums(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "crc32c", None)
  with pytest.raises(errors.UserError, match="pip install"):
    local_shards.find_local_files([str(tmp_path)], "flag", "program")


def test_the_reason_of_the_system_is_in_the_error():
  error = local_shards.not_readable(OSError(5, "Input/output error"))
  assert error.kind == "cannot be read"
  assert "Input/output error" in str(error)
