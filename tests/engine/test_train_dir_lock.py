"""Tests of train_dir_lock: one training in a train_dir at a time."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time

import pytest
from conftest import assert_names, error_of, folder_content

import errors
from engine import files, process_names
from engine import train_dir as train_dirs
from engine import train_dir_lock as locks

COMMAND = ("python", "train.py", "--model=A B")


def lock_path(folder) -> str:
  return os.path.join(folder, "training.lock")


def leave_lock(folder, **changes) -> locks.Owner:
  """Leaves a lock of this process, or another one, in a folder."""
  owner = dataclasses.replace(locks._this_process(COMMAND), **changes)
  with open(lock_path(folder), "w") as file:
    json.dump(dataclasses.asdict(owner), file)
  return owner


def take(folder) -> None:
  with locks.hold(str(folder), COMMAND):
    pass


@pytest.fixture
def fast(monkeypatch):
  """Waits a thousandth as long."""
  for name, seconds in {
    "_RENEWAL_SECONDS": 0.02,
    "_PATIENCE_SECONDS": 0.5,
    "_LOOK_SECONDS": 0.3,
    "_POLL_SECONDS": 0.01,
    "_LINE_SECONDS": 0.2,
  }.items():
    monkeypatch.setattr(locks, name, seconds)


# --------------------------------------------------------------------------
# Two trainings


def test_a_second_training_is_refused(tmp_path):
  with locks.hold(str(tmp_path), COMMAND):
    before = folder_content(tmp_path)
    text = error_of(take, tmp_path)
    assert folder_content(tmp_path) == before
    began = json.loads(before["training.lock"])["began"]
  assert text == (
    f"Expected a --train_dir that no other process trains in, received"
    f" {tmp_path}, which is being trained in by process {os.getpid()} on host"
    f" {platform.node()} since {began}, started with: python train.py"
    " '--model=A B'. Wait for its end, stop it, or name another --train_dir."
  )
  assert not list(tmp_path.iterdir())
  take(tmp_path)


def test_a_look_refuses_too_and_changes_nothing(tmp_path):
  folder = tmp_path / "a" / "b"
  locks.check_free(str(folder))
  assert not list(tmp_path.iterdir())
  with locks.hold(str(folder)):
    before = folder_content(tmp_path)
    text = error_of(locks.check_free, str(folder))
    assert folder_content(tmp_path) == before
  assert_names(text, "is being trained in by", str(folder))


def test_a_folder_that_was_made_goes_only_if_nothing_is_in_it(tmp_path):
  take(tmp_path / "a" / "b")
  assert not list(tmp_path.iterdir())
  with locks.hold(str(tmp_path / "a" / "b")):
    (tmp_path / "a" / "b" / "checkpoint").write_text("")
  assert list(folder_content(tmp_path)) == ["a/b/checkpoint"]
  (tmp_path / "empty").mkdir()
  take(tmp_path / "empty")
  assert (tmp_path / "empty").is_dir()


@pytest.mark.parametrize("with_links", [True, False])
@pytest.mark.parametrize("left_over", [False, True])
def test_of_many_starts_at_once_one_wins(
  tmp_path, fast, dead_process, monkeypatch, left_over, with_links
):
  def no_links(source, target):
    raise OSError(errno.EPERM, "Operation not permitted")

  if not with_links:
    monkeypatch.setattr(os, "link", no_links)
  number = 8
  for _ in range(5):
    if left_over:
      leave_lock(tmp_path, pid=dead_process)
    together = threading.Barrier(number)
    refused = threading.Barrier(number)

    def start(together=together, refused=refused):
      together.wait(20)
      with contextlib.ExitStack() as stack:
        try:
          lock = stack.enter_context(locks.hold(str(tmp_path)))
        except errors.UserError:
          refused.wait(20)
          return False
        refused.wait(20)
        lock.verify()
        return True

    with concurrent.futures.ThreadPoolExecutor(number) as threads:
      results = [threads.submit(start) for _ in range(number)]
    assert sum(result.result() for result in results) == 1
    assert not list(tmp_path.iterdir())


def test_the_lock_goes_after_an_error_and_as_signals_are_raised(tmp_path):
  with pytest.raises(ZeroDivisionError), locks.hold(str(tmp_path)):
    print(1 // 0)
  assert not list(tmp_path.iterdir())
  with pytest.raises(KeyboardInterrupt), locks.hold(str(tmp_path)):
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------
# Locks that were left behind


def test_the_lock_of_a_dead_process_is_taken_at_once(
  tmp_path, dead_process, shown
):
  leave_lock(tmp_path, pid=dead_process)
  locks.check_free(str(tmp_path))
  take(tmp_path)
  assert shown == [
    f"Took over the lock of process {dead_process} on host {platform.node()},"
    " which is dead."
  ]


def test_the_lock_of_a_killed_process_that_nobody_waited_for(tmp_path):
  code = "import time; print(flush=True); time.sleep(60)"
  with subprocess.Popen(
    [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE
  ) as process:
    process.stdout.readline()
    _, start = process_names.state_and_start(process.pid)
    leave_lock(tmp_path, pid=process.pid, process_start=start)
    assert_names(error_of(take, tmp_path), f"by process {process.pid} on host")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    take(tmp_path)


def test_another_process_may_have_got_the_number(tmp_path):
  owner = locks._this_process(COMMAND)
  leave_lock(tmp_path, process_start=owner.process_start - 1)
  take(tmp_path)


@pytest.mark.parametrize(
  "elsewhere",
  [
    {"host": "other", "kernel": "other"},
    {"kernel": "other"},  # of the same name
    {"pid_namespace": "pid:[1]"},  # a container on this machine
    {"kernel": ""},  # without /proc
  ],
)
def test_a_lock_of_elsewhere_is_watched(
  tmp_path, fast, shown, dead_process, elsewhere
):
  leave_lock(tmp_path, pid=dead_process, **elsewhere)
  locks.check_free(str(tmp_path))
  shown.clear()
  began = time.monotonic()
  take(tmp_path)
  assert time.monotonic() - began >= 0.5
  watching = [line for line in shown if "watching it for a sign" in line]
  assert len(watching) >= 2
  assert_names(watching[0], lock_path(tmp_path), f"process {dead_process} on")
  assert "which is dead" in shown[-1]


def test_a_lock_of_elsewhere_that_is_touched_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "_POLL_SECONDS", 0.01)
  leave_lock(tmp_path, kernel="other")
  touch = threading.Timer(0.2, os.utime, (lock_path(tmp_path),))
  touch.start()
  text = error_of(take, tmp_path)
  assert_names(text, "is being trained in by process")
  touch = threading.Timer(0.2, os.utime, (lock_path(tmp_path),))
  touch.start()
  assert error_of(locks.check_free, str(tmp_path)) == text
  assert os.path.exists(lock_path(tmp_path))


@pytest.mark.parametrize(
  "content",
  [
    *("", "[]", "{}", '{"pid": 1}', "\0"),
    pytest.param("[" * 100_000, id="deep"),
  ],
)
def test_a_damaged_lock_is_watched(tmp_path, fast, content):
  with open(lock_path(tmp_path), "w") as file:
    file.write(content)
  take(tmp_path)


def test_a_link_to_nothing_is_no_endless_loop(tmp_path, fast):
  os.symlink(tmp_path / "nothing", lock_path(tmp_path))
  take(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_lock_that_was_just_replaced_stays(tmp_path):
  path = lock_path(tmp_path)
  leave_lock(tmp_path, token="dead")
  dead = locks._read(path)
  leave_lock(tmp_path, token="alive")
  new = locks._read(path)
  assert not locks._replace_dead(path, dead, b"mine")
  assert locks._read(path) == new
  assert locks._replace_dead(path, new, b"mine")
  assert folder_content(tmp_path) == {"training.lock": b"mine"}


@pytest.mark.parametrize("alive", [True, False])
def test_a_start_that_takes_over_at_the_same_moment(
  tmp_path, dead_process, alive
):
  """It may also have been killed just then."""
  leave_lock(tmp_path, pid=dead_process)
  dead = locks._read(lock_path(tmp_path))
  (tmp_path / "other").mkdir()
  other = leave_lock(
    tmp_path / "other", pid=os.getpid() if alive else dead_process
  )
  token = hashlib.sha256(repr(dead).encode()).hexdigest()[:8]
  successor = tmp_path / f".training.lock.tmp-{token}"
  os.rename(lock_path(tmp_path / "other"), successor)
  if alive:
    assert_names(error_of(take, tmp_path), f"by {other} since")
    assert locks._read(lock_path(tmp_path)) == dead
  else:
    take(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# --------------------------------------------------------------------------
# Keeping it


def test_the_lock_is_touched(tmp_path, fast):
  with locks.hold(str(tmp_path)) as lock:
    first = locks._read(lock_path(tmp_path))
    give_up = time.monotonic() + 20
    while locks._read(lock_path(tmp_path)) == first:
      assert time.monotonic() < give_up
      time.sleep(0.01)
    lock.verify()
    lock.raise_if_lost()


@pytest.mark.parametrize("how", ["taken", "removed"])
def test_a_lost_lock_stops_the_training(tmp_path, how):
  with locks.hold(str(tmp_path)) as lock:
    lock.verify()
    os.remove(lock_path(tmp_path))
    if how == "taken":
      leave_lock(tmp_path, pid=12345, host="other")
    lock.raise_if_lost()  # nobody has looked yet
    text = error_of(lock.verify)
    assert error_of(lock.raise_if_lost) == text
  by = "process 12345 on host other does" if how == "taken" else "it gone"
  assert_names(text, f"found that {by}" if how == "taken" else f"found {by}")
  # The other's lock stays.
  assert os.path.exists(lock_path(tmp_path)) == (how == "taken")


@pytest.mark.parametrize("times", [1, 2])
def test_a_lock_that_a_network_file_system_mistakes(
  tmp_path, monkeypatch, times
):
  failures = [OSError(errno.ESTALE, "Stale file handle")] * times
  with locks.hold(str(tmp_path)) as lock:

    def open_once_more(*arguments):
      if failures:
        raise failures.pop()
      return open(*arguments)

    monkeypatch.setattr(locks, "open", open_once_more, raising=False)
    if times == 1:
      lock.verify()
      return
    with pytest.raises(errors.UserError, match="found it gone"):
      lock.verify()


def test_the_thread_notes_the_loss(tmp_path, fast):
  with locks.hold(str(tmp_path)) as lock:
    leave_lock(tmp_path, pid=12345)
    lock._thread.join(20)
    with pytest.raises(errors.UserError, match="process 12345"):
      lock.raise_if_lost()


def test_a_new_run_leaves_the_lock_alone(tmp_path):
  with locks.hold(str(tmp_path)) as lock:
    (tmp_path / "checkpoint").write_text("")
    train_dirs.remove_run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["training.lock"]
    train_dirs.check_removable(str(tmp_path))  # it is empty but for the lock
    lock.verify()
    with pytest.raises(errors.UserError, match="belongs to a training run"):
      train_dirs.check_no_own_file(lock_path(tmp_path), "output_file")


# --------------------------------------------------------------------------
# Folders that cannot be written to


@pytest.fixture(params=["read-only", "full"])
def bad_disk(request, tmp_path):
  """A folder that is mounted read-only, or a disk that is full."""
  folder = tmp_path / "disk"
  folder.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
  if subprocess.run(command, capture_output=True, check=False).returncode:
    pytest.skip("needs the right to mount a file system")
  try:
    if request.param == "full":
      with contextlib.suppress(OSError):
        (folder / "full").write_bytes(bytes(100_000))
    else:
      remount = ["mount", "-o", "remount,ro", str(folder)]
      subprocess.run(remount, check=True)
    yield folder
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", ["", "new"])
def test_a_disk_that_cannot_be_written_to(bad_disk, name):
  before = sorted(bad_disk.iterdir())
  text = error_of(take, bad_disk / name)
  assert text.startswith(
    "Expected a --train_dir that can be written to, received"
  )
  assert "Read-only file" in text or "No space left" in text
  assert sorted(bad_disk.iterdir()) == before


def test_a_look_at_a_read_only_disk(bad_disk):
  if (bad_disk / "full").exists():
    pytest.skip("check.py counts the free bytes")
  text = error_of(locks.check_free, str(bad_disk / "new"))
  assert_names(text, "that can be written to", f"{bad_disk} is not writable")


@pytest.mark.parametrize("look", [False, True])
def test_a_folder_that_cannot_be_made(tmp_path, look):
  (tmp_path / "file").write_text("")
  check = locks.check_free if look else take
  text = error_of(check, str(tmp_path / "file" / "run"))
  assert_names(text, "can be written to", "Not a directory")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
  ("number", "status"),
  [
    (errno.EROFS, 2),
    (errno.EACCES, 2),
    (errno.ENOSPC, 1),
    (errno.EDQUOT, 1),
    (errno.EIO, 1),
  ],
)
def test_an_error_of_the_disk(tmp_path, monkeypatch, number, status):
  def fail(*unused_arguments):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(locks, "_write", fail)
  with pytest.raises(errors.UserError) as error:
    take(tmp_path / "run")
  assert_names(str(error.value), str(tmp_path / "run"), os.strerror(number))
  assert errors.exit_status(error.value) == status
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_removed_names_its_process(tmp_path, monkeypatch):
  remove = os.remove

  def fail(path):
    if ".tmp-" in path:
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    remove(path)

  monkeypatch.setattr(os, "remove", fail)
  take(tmp_path)
  (left,) = os.listdir(tmp_path)
  # So that the next start, which removes what the dead have left, knows it.
  found = re.fullmatch(rf"\.training\.lock\.tmp-{files.TOKEN}", left)
  assert found
  assert found["writer"] == process_names.process_name()


def test_remote_folders_have_no_lock(shown):
  folder = "ram://train_dir_lock/run"
  with locks.hold(folder) as lock:
    assert lock is locks.NO_LOCK
    lock.verify()
    lock.raise_if_lost()
  assert shown == [
    f"{folder} is remote and has no lock: see to it that nothing else trains"
    " there."
  ]
  text = error_of(take, "nowhere://bucket/run")
  assert_names(text, "can be written to, received nowhere://bucket/run")
