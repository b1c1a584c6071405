"""Tests of engine.files."""

import concurrent.futures
import errno
import math
import os
import re
import socket
import stat
import time

import pytest
import tensorflow as tf
from conftest import error_of, folder_content

import errors
from engine import files, local_files, process_names
from engine.files import read_json, size_of, write_json, written_aside


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
  path = tmp_path / "predictions.csv"
  path.write_text("old")
  with written_aside(str(path)) as aside:
    assert os.path.dirname(aside) == str(tmp_path)
    with open(aside, "w") as file:
      file.write("new")
    assert path.read_text() == "old"
  assert folder_content(tmp_path) == {"predictions.csv": b"new"}


def test_a_new_file_is_not_there_before_it_is_whole(tmp_path):
  path = tmp_path / "a" / "b" / "predictions.csv"
  with written_aside(str(path)) as aside:
    with open(aside, "w") as file:
      file.write("new")
    assert not path.exists()
  assert folder_content(tmp_path) == {"a/b/predictions.csv": b"new"}


def test_a_file_in_the_current_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with (
    written_aside("predictions.csv") as aside,
    open(aside, "w") as file,
  ):
    file.write("new")
  assert folder_content(tmp_path) == {"predictions.csv": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_stays_as_it_was_if_writing_fails(tmp_path, error):
  path = tmp_path / "predictions.csv"
  path.write_text("old")

  def fail():
    with written_aside(str(path)) as aside:
      with open(aside, "w") as file:
        file.write("half")
      raise error

  with pytest.raises(error):
    fail()
  assert folder_content(tmp_path) == {"predictions.csv": b"old"}


def test_a_failure_before_anything_is_written(tmp_path):
  def fail():
    with written_aside(str(tmp_path / "new")):
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  assert list(tmp_path.iterdir()) == []


def test_a_folder_to_make_is_new_or_empty(tmp_path):
  folder, link = tmp_path / "data", tmp_path / "link"
  link.symlink_to("data")
  for _ in range(2):
    for path in (folder, f"{folder}/", link, f"{link}/"):
      assert files.free_folder(str(path)) == str(folder)
    folder.mkdir(exist_ok=True)
  assert files.free_folder(f"{folder}/.") == str(folder)
  (folder / "saved_model.pb").touch()
  for path in (folder, link, folder / "saved_model.pb"):
    text = error_of(files.free_folder, str(path))
    assert f"as --output_dir, received {path}, which exists already" in text


def test_a_folder_that_cannot_be_replaced_is_refused_first(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  text = error_of(files.folder_to_make, ".", "train_dir")
  assert "as --train_dir, received ., the current one" in text
  monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path))
  text = error_of(files.folder_to_make, str(tmp_path), "train_dir")
  assert f"received {tmp_path}, a mount point" in text
  with (
    pytest.raises(errors.UserError, match="mount point"),
    written_aside(str(tmp_path)),
  ):
    raise AssertionError("it has begun")


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_is_replaced_when_it_is_whole(tmp_path, ending):
  folder = tmp_path / "step_1"
  folder.mkdir()
  (folder / "saved_model.pb").write_text("old")
  with written_aside(f"{folder}{ending}") as aside:
    os.makedirs(f"{aside}/inner")
    with open(f"{aside}/inner/new", "w") as file:
      file.write("new")
    assert folder_content(folder) == {"saved_model.pb": b"old"}
  assert folder_content(tmp_path) == {"step_1/inner/new": b"new"}
  assert list(tmp_path.iterdir()) == [folder]


def test_a_model_with_notes_in_its_folder_is_not_replaced(tmp_path):
  folder = tmp_path / "step_1"
  for name in ("saved_model.pb", "assets/a", "variables/b", ".DS_Store"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("old")

  def write():
    with written_aside(str(folder)) as aside:
      os.makedirs(f"{aside}/variables")

  for name in ("notes.txt", ".hidden"):
    (folder / name).write_text("mine")
    assert f"{folder}, a folder with other files in it" in error_of(write)
    assert (folder / name).read_text() == "mine"
    (folder / name).unlink()
  write()
  assert os.listdir(folder) == ["variables"]


def test_a_file_or_the_root_is_not_replaced_by_a_folder(tmp_path):
  path = tmp_path / "notes"
  path.write_text("mine")

  def write(target):
    with written_aside(target) as aside:
      os.makedirs(f"{aside}/inner")

  text = error_of(write, str(path))
  assert f"Expected the name of a folder, received {path}, a file" in text
  assert folder_content(tmp_path) == {"notes": b"mine"}
  assert "received /, a folder with other files" in error_of(write, "//")


def test_a_folder_stays_as_it_was_if_writing_fails(tmp_path):
  folder = tmp_path / "step_1"
  folder.mkdir()
  (folder / "saved_model.pb").write_text("old")

  def fail():
    with written_aside(str(folder)) as aside:
      os.makedirs(f"{aside}/inner")
      with open(f"{aside}/inner/new", "w") as file:
        file.write("half")
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  assert folder_content(tmp_path) == {"step_1/saved_model.pb": b"old"}
  assert list(tmp_path.iterdir()) == [folder]


def write_new(path):
  with open(path, "w") as file:
    file.write("new")


@pytest.mark.parametrize("make", [os.makedirs, write_new])
def test_a_folder_of_the_user_is_never_replaced(tmp_path, make):
  thesis = tmp_path / "thesis"
  thesis.mkdir()
  (thesis / "thesis.tex").write_text("mine")
  with (
    pytest.raises(errors.UserError, match="thesis, a folder with other files"),
    written_aside(str(thesis)) as aside,
  ):
    make(aside)
  assert list(folder_content(tmp_path)) == ["thesis/thesis.tex"]


def test_a_file_never_replaces_a_saved_model(tmp_path):
  folder = tmp_path / "step_1"
  folder.mkdir()
  (folder / "saved_model.pb").write_text("old")
  with (
    pytest.raises(errors.UserError, match="step_1, a folder"),
    written_aside(str(folder)) as aside,
    open(aside, "w") as file,
  ):
    file.write("new")
  assert list(folder_content(tmp_path)) == ["step_1/saved_model.pb"]


def test_write_json(tmp_path):
  write_json(str(tmp_path / "content.json"), {"a": 1, "b": [0.5]})
  assert (tmp_path / "content.json").read_text() == (
    '{\n  "a": 1,\n  "b": [\n    0.5\n  ]\n}\n'
  )


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
  path = str(tmp_path / "content.json")
  write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    write_json(path, {"a": object()})
  assert folder_content(tmp_path) == {"content.json": b'{\n  "a": 1\n}\n'}


# --------------------------------------------------------------------------
# Folders


def make_folder(folder, name):
  """A folder with one file of this name."""
  folder.mkdir()
  (folder / name).write_text(name)
  return str(folder)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_takes_the_place_of_an_empty_one(tmp_path, is_there):
  new = make_folder(tmp_path / "new", "a")
  if is_there:
    (tmp_path / "place").mkdir()
  files.put_in_place(new, str(tmp_path / "place"))
  assert folder_content(tmp_path) == {"place/a": b"a"}


def test_a_folder_with_files_is_not_replaced_unasked(tmp_path):
  new = make_folder(tmp_path / "new", "a")
  old = make_folder(tmp_path / "place", "b")
  with pytest.raises(files.FOLDER_EXISTS_ERRORS):
    files.put_in_place(new, old)
  assert folder_content(tmp_path) == {"new/a": b"a", "place/b": b"b"}


@pytest.fixture
def one_after_the_other(monkeypatch):
  """As where two folders cannot change places at once."""
  monkeypatch.setattr(local_files, "exchange", lambda path, other: False)


def test_two_folders_change_places_at_once(tmp_path, monkeypatch):
  new = make_folder(tmp_path / "new", "a")
  old = make_folder(tmp_path / "place", "b")
  monkeypatch.setattr(tf.io.gfile, "rename", pytest.fail)
  files.replace_folder(new, old)
  assert folder_content(tmp_path) == {"place/a": b"a"}
  assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("at_once", [True, False])
def test_what_links_point_to_stays(tmp_path, monkeypatch, at_once):
  if not at_once:
    monkeypatch.setattr(local_files, "exchange", lambda path, other: False)
  make_folder(tmp_path / "other", "a")
  for name in ("link", "old"):
    new = make_folder(tmp_path / "new", "b")
    if name == "link":
      (tmp_path / name).symlink_to("other")
    else:
      (tmp_path / name).mkdir()
      (tmp_path / name / "within").symlink_to("../other")
    files.replace_folder(new, str(tmp_path / name))
  assert folder_content(tmp_path) == {
    "other/a": b"a",
    "link/b": b"b",
    "old/b": b"b",
  }
  assert sorted(os.listdir(tmp_path)) == ["link", "old", "other"]


def test_folders_that_cannot_change_places_stay(tmp_path):
  new = make_folder(tmp_path / "new", "a")
  with pytest.raises(FileNotFoundError):
    local_files.exchange(new, f"{tmp_path}/place")
  assert folder_content(tmp_path) == {"new/a": b"a"}


@pytest.mark.usefixtures("one_after_the_other")
def test_an_old_folder_stays_if_the_new_one_cannot_be_renamed(
  tmp_path, monkeypatch
):
  new = make_folder(tmp_path / "new", "a")
  old = make_folder(tmp_path / "place", "b")
  rename = tf.io.gfile.rename

  def rename_others(source, path, overwrite=False):
    if source == new:
      raise tf.errors.PermissionDeniedError(None, None, "not this one")
    rename(source, path, overwrite)

  monkeypatch.setattr(tf.io.gfile, "rename", rename_others)
  with pytest.raises(tf.errors.PermissionDeniedError):
    files.replace_folder(new, old)
  assert folder_content(tmp_path) == {"new/a": b"a", "place/b": b"b"}
  assert sorted(os.listdir(tmp_path)) == ["new", "place"]


@pytest.mark.usefixtures("one_after_the_other")
def test_the_folder_of_a_faster_process_stays(tmp_path, monkeypatch):
  new = make_folder(tmp_path / "new", "a")
  old = make_folder(tmp_path / "place", "b")
  rename = tf.io.gfile.rename

  def rename_slowly(source, path, overwrite=False):
    rename(source, path, overwrite)
    if source == old:
      make_folder(tmp_path / "place", "c")

  monkeypatch.setattr(tf.io.gfile, "rename", rename_slowly)
  with pytest.raises(files.FOLDER_EXISTS_ERRORS):
    files.replace_folder(new, old)
  assert folder_content(tmp_path) == {"new/a": b"a", "place/c": b"c"}


# --------------------------------------------------------------------------
# Flushing


@pytest.fixture
def flushed(monkeypatch):
  """The inodes given to fsync, in order; each call does its work."""
  inodes = []
  fsync = os.fsync

  def record(descriptor):
    inodes.append(os.fstat(descriptor).st_ino)
    fsync(descriptor)

  monkeypatch.setattr(os, "fsync", record)
  return inodes


def test_a_file_and_its_folder_are_flushed(tmp_path, flushed):
  path = tmp_path / "predictions.csv"
  with written_aside(str(path)) as aside:
    write_new(aside)
  assert flushed == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_a_folder_that_cannot_be_listed_is_not_put_in_place(
  tmp_path, monkeypatch
):
  scandir = os.scandir

  def fail(path):
    if str(path).endswith("variables"):
      raise OSError(errno.EIO, "failed", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", fail)
  folder = tmp_path / "step_1"
  with pytest.raises(OSError, match="failed"), written_aside(str(folder)) as at:
    os.makedirs(os.path.join(at, "variables"))
  assert not folder.exists()


def test_everything_in_a_folder_is_flushed_before_the_folder(tmp_path, flushed):
  folder = tmp_path / "step_1"
  with written_aside(str(folder)) as aside:
    os.makedirs(f"{aside}/inner")
    write_new(f"{aside}/inner/new")
  assert set(flushed[:2]) == {
    (folder / "inner").stat().st_ino,
    (folder / "inner" / "new").stat().st_ino,
  }
  assert flushed[2:] == [folder.stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
  ("number", "is_fatal"), [(errno.EINVAL, False), (errno.EIO, True)]
)
def test_only_a_write_that_may_be_lost_is_an_error(
  tmp_path, monkeypatch, number, is_fatal
):
  def fail(descriptor):
    raise OSError(number, "fsync failed")

  path = tmp_path / "content.json"
  path.write_text("old")
  monkeypatch.setattr(os, "fsync", fail)
  if is_fatal:
    with pytest.raises(OSError, match=r"fsync failed: .*content"):
      write_json(str(path), {})
    assert folder_content(tmp_path) == {"content.json": b"old"}
  else:
    write_json(str(path), {})
    assert folder_content(tmp_path) == {"content.json": b"{}\n"}


@pytest.mark.parametrize(
  "content", ["", "{", "[1]", "null", '{"a": 1}', "\xff"]
)
def test_json_that_was_not_written_here(tmp_path, content):
  path = tmp_path / "content.json"
  assert read_json(str(path), ("a", "b"), "Delete it.") is None
  path.write_bytes(content.encode("latin-1"))
  with pytest.raises(errors.UserError) as caught:
    read_json(str(path), ("a", "b"), "Delete it.")
  assert str(caught.value) == (
    f"Expected JSON with a, b in {path}, received something else. Delete it."
  )


def test_json_is_read_as_it_was_written(tmp_path):
  content = {"a": 0.1, "b": None, "c": [1, "\u00e9"]}
  write_json(str(tmp_path / "content.json"), content)
  assert read_json(str(tmp_path / "content.json"), ("a",), "") == content


def test_sizes(tmp_path):
  (tmp_path / "a" / "b").mkdir(parents=True)
  (tmp_path / "a" / "one").write_bytes(bytes(7))
  (tmp_path / "a" / "b" / "two").write_bytes(bytes(5))
  assert size_of(str(tmp_path / "a" / "one")) == 7
  assert size_of(str(tmp_path / "a")) == 12


# --------------------------------------------------------------------------
# Links, pipes and devices


def write_text(path, text="new"):
  with files.text_written_aside(str(path)) as file:
    file.write(text)


@pytest.mark.parametrize("is_there", [False, True])
def test_the_file_that_a_link_points_to_is_replaced(tmp_path, is_there):
  (tmp_path / "far").mkdir()
  if is_there:
    (tmp_path / "far" / "file").write_text("old")
  (tmp_path / "near").mkdir()
  link = tmp_path / "near" / "link"
  link.symlink_to("../far/file")
  write_text(link)
  assert os.readlink(link) == "../far/file"
  assert (tmp_path / "far" / "file").read_text() == "new"
  assert os.listdir(tmp_path / "near") == ["link"]
  assert os.listdir(tmp_path / "far") == ["file"]


def test_a_link_to_itself_is_an_error_and_stays(tmp_path):
  link = tmp_path / "link"
  link.symlink_to("link")
  with pytest.raises(OSError, match="symbolic links"):
    write_text(link)
  assert os.readlink(link) == "link"


def test_a_device_stays(tmp_path):
  before = os.stat("/dev/null")
  write_text("/dev/null")
  write_json("/dev/null", {"a": 1})
  after = os.stat("/dev/null")
  assert stat.S_ISCHR(after.st_mode)
  assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
  (tmp_path / "link").symlink_to("/dev/null")
  write_text(tmp_path / "link")
  assert os.stat("/dev/null").st_ino == before.st_ino


def test_a_pipe_gets_a_file_when_it_is_whole(tmp_path):
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    content = thread.submit(pipe.read_bytes)
    write_text(pipe, "a,b\r\n" * 100_000)
    assert content.result(60) == b"a,b\r\n" * 100_000
  assert stat.S_ISFIFO(os.stat(pipe).st_mode)
  assert os.listdir(tmp_path) == ["pipe"]


def test_a_pipe_gets_nothing_if_writing_fails(tmp_path):
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)

  def fail():
    with files.text_written_aside(str(pipe)) as file:
      file.write("half")
      raise KeyError("stop")

  with pytest.raises(KeyError):
    fail()
  assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1"])
def test_the_output_of_the_program(path, capfd):
  os.write(1, b"before,")
  write_text(path, "new,")
  os.write(1, b"after")
  assert capfd.readouterr().out == "before,new,after"


def test_a_folder_cannot_be_written_to_a_device():
  with (
    pytest.raises(errors.UserError, match="/dev/null, a pipe or a device"),
    written_aside("/dev/null") as aside,
  ):
    os.makedirs(aside)


def test_nothing_is_written_to_a_socket(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # the name of a socket must be short
  with socket.socket(socket.AF_UNIX) as one:
    one.bind("socket")
    with pytest.raises(errors.UserError, match="received socket, a socket"):
      write_text("socket")
  assert os.listdir(tmp_path) == ["socket"]


def test_a_full_device_is_named():
  with pytest.raises(OSError, match=r"No space left.*'/dev/full'"):
    write_text("/dev/full")


@pytest.mark.parametrize(
  "content",
  [b"", b"null", b"[1]", b"\xff", b'{"a": ' * 100_000, b"[" * 100_000],
)
def test_json_of_something_else(tmp_path, content):
  path = tmp_path / "a.json"
  path.write_bytes(content)
  error = error_of(files.read_json, str(path), ("a",), "Delete it.")
  assert error.endswith(f"in {path}, received something else. Delete it.")


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_what_is_no_number(value):
  with pytest.raises(TypeError, match="no number"):
    files.check_number(value)
  for useless in (math.nan, math.inf, 10**400, 2**63):
    with pytest.raises(ValueError, match="not finite"):
      files.check_number(useless)
  files.check_number(1)
  files.check_number(1.5)
  files.check_number(1e300)
  with pytest.raises(TypeError):
    files.check_number(1.5, int)


def leave(folder, name, days=0.0):
  path = folder / name
  path.mkdir(parents=True)
  (path / "part").write_text("half")
  moment = time.time() - days * 86400
  for one in (path / "part", path):
    os.utime(one, (moment, moment))
  return path


def test_leftovers_of_the_dead_are_removed(tmp_path, shown, dead_process):
  dead = process_names.process_name(dead_process)
  alive = process_names.process_name()
  elsewhere = f"00000000-{dead.split('-')[1]}"
  gone = [
    leave(tmp_path, f".a.tmp-{dead}-0123abcd"),
    leave(tmp_path, f".b.csv.tmp-{dead}-0123abcd"),
    leave(tmp_path, f".a.tmp-{elsewhere}-0123abcd", days=1.1),
    leave(tmp_path, ".a.tmp-0123abcd", days=1.1),
  ]
  kept = [
    leave(tmp_path, f".a.tmp-{alive}-0123abcd"),
    leave(tmp_path, f".b.tmp-{alive}-0123abcd", days=9),  # the clock was set
    leave(tmp_path, f".a.tmp-{elsewhere}-0123abce", days=0.9),
    leave(tmp_path, ".a.tmp-0123abce", days=0.9),
    leave(tmp_path, ".mine", days=9),
    leave(tmp_path, f"a.tmp-{dead}-0123abcd", days=9),
    leave(tmp_path, f"x/.a.tmp-{dead}-0123abcd", days=9),
  ]
  files.remove_leftovers(str(tmp_path))
  assert not any(path.exists() for path in gone)
  assert all(path.exists() for path in kept)
  assert shown == [
    f"Removed 4 leftovers of programs that were killed in {tmp_path}, 0.0 MB."
  ]
  files.remove_leftovers(str(tmp_path / "missing"))


def test_a_leftover_that_cannot_be_removed_keeps_no_others(
  tmp_path, monkeypatch, dead_process
):
  dead = process_names.process_name(dead_process)
  paths = [leave(tmp_path, f".a.tmp-{dead}-0123abc{n}") for n in range(5)]
  first = str(tmp_path / tf.io.gfile.listdir(str(tmp_path))[0]).rstrip("/")
  remove = files.remove

  def refuse(path):
    if path == first:
      raise tf.errors.PermissionDeniedError(None, None, f"{path}; of another")
    remove(path)

  monkeypatch.setattr(files, "remove", refuse)
  files.remove_leftovers(str(tmp_path))
  assert [str(path) for path in paths if path.exists()] == [first]


def test_a_folder_that_is_still_written_to_is_no_leftover(tmp_path):
  path = leave(tmp_path, ".a.tmp-0123abcd", days=3)
  (path / "part").write_text("more")
  os.utime(path, (0, 0))
  files.remove_leftovers(str(tmp_path))
  assert path.exists()


def test_who_writes_removes_the_leftovers_of_the_same_path(
  tmp_path, dead_process
):
  dead = process_names.process_name(dead_process)
  gone = leave(tmp_path, f".a.csv.tmp-{dead}-0123abcd")
  kept = leave(tmp_path, f".b.csv.tmp-{dead}-0123abcd")
  with files.text_written_aside(f"{tmp_path}/a.csv") as file:
    assert not gone.exists()
    file.write("new")
  assert kept.exists()
  assert (tmp_path / "a.csv").read_text() == "new"


def test_what_is_beside_a_path_names_this_process(tmp_path):
  with files.beside(f"{tmp_path}/a") as aside:
    name = os.path.basename(aside)
    assert name.startswith(f".a.tmp-{process_names.process_name()}-")
    assert re.fullmatch(rf"\.a\.tmp-{files.TOKEN}", name)
    os.mkdir(aside)
    files.remove_leftovers(str(tmp_path))
    assert os.path.exists(aside)


def test_names_that_are_not_utf8_stop_nothing(tmp_path, dead_process):
  other = os.fsencode(tmp_path) + b"/caf\xe9"
  with open(other, "wb"):
    pass
  dead = process_names.process_name(dead_process)
  gone = leave(tmp_path, f".a.csv.tmp-{dead}-0123abcd")
  with files.text_written_aside(f"{tmp_path}/a.csv") as file:
    file.write("new")
  assert not gone.exists()
  assert sorted(files.names_in(str(tmp_path))) == ["a.csv", "caf\udce9"]
  assert files.size_of(str(tmp_path)) == 3
  with pytest.raises(tf.errors.NotFoundError):
    files.names_in(str(tmp_path / "missing"))
