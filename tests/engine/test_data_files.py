"""Tests of engine.data_files."""

import errno
import glob
import hashlib
import os

import pytest
import tensorflow as tf
from conftest import assert_names, error_of

import errors
from engine import data_files
from engine.data_files import (
  check_not_used,
  expand_ranges,
  find_files,
  hash_of_files,
)


def test_find_files_sorts_and_joins_patterns(tmp_path):
  for name in ["b1", "a2", "a1", "c1"]:
    (tmp_path / name).touch()
  found = find_files(f"{tmp_path}/b*, {tmp_path}/a*,{tmp_path}/a1", "x")
  assert found == [str(tmp_path / name) for name in ["a1", "a2", "b1"]]


def test_find_files_names_the_pattern_without_files(tmp_path):
  (tmp_path / "a1").touch()
  text = error_of(
    find_files, f"{tmp_path}/a*,{tmp_path}/b*", "eval_data_pattern"
  )
  assert f"--eval_data_pattern={tmp_path}/b*" in text
  assert f"{tmp_path}/a*" not in text


def test_a_file_that_is_used_is_not_written(tmp_path):
  used, other = tmp_path / "used", tmp_path / "other"
  for path in (used, other):
    path.touch()
  (tmp_path / "link").symlink_to(used)
  for path in (used, tmp_path / "link", f"{tmp_path}/./used", "gs://a/used"):
    text = error_of(check_not_used, str(path), "x", [str(used), "gs://a/used"])
    assert_names(text, "as --x", str(path), "Name another one.")
  for path in ("", str(other), str(tmp_path / "new"), "gs://a/b", os.devnull):
    check_not_used(path, "x", [str(used), "gs://a/used", os.devnull])


def test_a_pattern_without_files_shows_what_is_near(tmp_path):
  for number in range(7):
    (tmp_path / f"validate{number}").touch()
  text = error_of(find_files, f"{tmp_path}/train*", "x")
  assert_names(
    text,
    f"The folder {tmp_path} holds validate0, validate1, validate2, validate3,"
    " validate4 and 2 more.",
  )
  missing = f"{tmp_path}/no/such*/folder/train*"
  assert f"The folder {tmp_path} holds" in error_of(find_files, missing, "x")
  (tmp_path / "empty").mkdir()
  text = error_of(find_files, f"{tmp_path}/empty/*", "x")
  assert f"The folder {tmp_path}/empty holds nothing." in text


@pytest.mark.parametrize(
  "pattern",
  ["*", "a*/*", "*/[ab]?", "a1/b1", "a1/", "*/", "no*/x", "a?/.*", "{0}/a1/*"],
)
def test_local_files_are_those_of_glob(tmp_path, monkeypatch, pattern):
  for name in ("a1", "a2", "c"):
    (tmp_path / name).mkdir()
    for file in ("b1", "a2", ".hidden"):
      (tmp_path / name / file).touch()
  (tmp_path / "a3").touch()
  monkeypatch.chdir(tmp_path)
  pattern = pattern.format(tmp_path)
  found = data_files._find_local(pattern, "--x")
  assert sorted(found) == sorted(glob.glob(pattern))


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
  listdir = os.listdir

  def fail(path):
    if str(path).endswith("b"):
      raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    return listdir(path)

  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "train1").touch()
  monkeypatch.setattr(os, "listdir", fail)
  with pytest.raises(errors.MachineError) as error:
    find_files(f"{tmp_path}/*/train*", "train_data_pattern")
  assert_names(
    str(error.value),
    f"--train_data_pattern={tmp_path}/*/train*",
    f"the folder {tmp_path}/b cannot be read (Input/output error)",
  )


def test_a_comma_in_a_name(tmp_path):
  for name in ("a,b", "c"):
    (tmp_path / name).touch()
  found = find_files(rf"{tmp_path}/a\,b,{tmp_path}/c", "x")
  assert found == [str(tmp_path / "a,b"), str(tmp_path / "c")]
  text = error_of(find_files, f"{tmp_path}/a,b", "x")
  assert r"a comma in a name is written \," in text


def test_a_folder_among_the_files(tmp_path):
  (tmp_path / "train1").touch()
  (tmp_path / "train2").mkdir()
  text = error_of(find_files, f"{tmp_path}/train*", "train_data_pattern")
  assert_names(text, f"{tmp_path}/train2, which is a folder", "FOLDER/*")


def test_a_pipe_among_the_files(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  text = error_of(find_files, f"{tmp_path}/pipe", "x")
  assert_names(text, f"{tmp_path}/pipe, which is no regular file")


def test_a_link_to_nothing(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "gone")
  text = error_of(find_files, f"{tmp_path}/li*", "x")
  assert_names(text, f"{tmp_path}/link", "No such file", "Check its link")


@pytest.mark.parametrize("second", ["../d/file", "link", "hard_link"])
def test_a_file_that_is_named_twice(tmp_path, second):
  folder = tmp_path / "d"
  folder.mkdir()
  (folder / "file").touch()
  (folder / "link").symlink_to(folder / "file")
  os.link(folder / "file", folder / "hard_link")
  text = error_of(find_files, f"{folder}/file,{folder}/{second}", "x")
  assert_names(text, "each file once", f"{folder}/{second}", f"{folder}/file")
  # The same path by two patterns is one file.
  found = find_files(f"{folder}/file,{folder}/fil*", "x")
  assert found == [f"{folder}/file"]


def test_a_name_that_is_not_utf_8(tmp_path):
  (tmp_path / "train1").touch()
  with open(os.fsencode(tmp_path) + b"/train\xff", "wb"):
    pass
  text = error_of(find_files, f"{tmp_path}/train*", "x")
  assert_names(text, "UTF-8", r"train\xff")
  assert text.encode()  # every terminal can show it
  text = error_of(find_files, f"{tmp_path}/other*", "x")
  assert r"train\xff" in text


def failing_glob(error):
  def fail(pattern):
    raise error(None, None, f"no luck with {pattern}\nmore")

  return fail


def test_a_file_system_that_is_not_registered(monkeypatch):
  text = error_of(find_files, "hdfs://host/train*", "x")
  assert_names(text, "--x=hdfs://host/train*", "Copy the files")
  glob = failing_glob(tf.errors.UnimplementedError)
  monkeypatch.setattr(tf.io.gfile, "glob", glob)
  text = error_of(find_files, "gs://bucket/train*", "x")
  assert_names(text, "gs:// is not registered", "tensorflow[gcs-filesystem]")


def test_a_file_system_that_does_not_answer(monkeypatch):
  glob = failing_glob(tf.errors.FailedPreconditionError)
  monkeypatch.setattr(tf.io.gfile, "glob", glob)
  text = error_of(find_files, "gs://bucket/train*", "x")
  assert_names(text, "gs://bucket/train* (no luck with gs://bucket/train*)")


@pytest.mark.parametrize(
  ("pattern", "wanted"),
  [
    ("x/{098..101}.tar", ["x/098.tar", "x/099.tar", "x/100.tar", "x/101.tar"]),
    ("{9..11}", ["9", "10", "11"]),
    ("{2..1}{0..1}", ["20", "21", "10", "11"]),
    ("a{0..1},b*", ["a0", "a1", "b*"]),
    (r"a\,b{00..01},{a,b}", [r"a\,b00", r"a\,b01", "{a", "b}"]),
    ("{..2}{1..}{a..b}", ["{..2}{1..}{a..b}"]),
  ],
)
def test_ranges_of_numbers_are_expanded(pattern, wanted):
  assert expand_ranges(pattern, "webdataset") == wanted


def test_a_range_of_absurd_size_is_refused():
  text = error_of(expand_ranges, "a{0..1000},{0..9999999999}", "webdataset")
  assert_names(text, "at most 1000000 files as --webdataset", "9999999999")


def test_the_hash_is_of_names_and_sizes():
  found = hash_of_files(["/a/x", "gs://b/y"], [10, 200])
  assert found == hashlib.sha256(b"x\t10\ny\t200\n").hexdigest()
  assert hash_of_files(["/elsewhere/x", "y"], [10, 200]) == found
  others = [
    hash_of_files(["/a/x", "gs://b/y"], [10, 201]),
    hash_of_files(["/a/x", "gs://b/z"], [10, 200]),
    hash_of_files(["/a/x"], [10]),
    hash_of_files(["/a/x", "gs://b/y"], [200, 10]),
  ]
  assert found not in others
  assert len(set(others)) == 4
