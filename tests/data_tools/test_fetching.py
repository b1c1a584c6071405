"""Tests of data_tools.fetching, against a server that misbehaves."""

import fcntl
import hashlib
import threading

import pytest
from conftest import folder_content
from mirror import random_bytes, serving

from data_tools import fetching
from data_tools.fetching import NotFetchedError, RemoteFile, Retries

CONTENT = random_bytes("content", 100_000)


@pytest.fixture
def mirror(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(fetching, "_FIRST_WAIT_SECONDS", 0.001)
  with serving() as mirror:
    mirror.files["/file"] = CONTENT
    yield mirror


def fetch(mirror, folder, max_retries=2, check_room=lambda: None) -> RemoteFile:
  """Fetches the file; returns what is known of it."""
  md5 = hashlib.md5(CONTENT).hexdigest()
  file = RemoteFile(f"{mirror.url}/file", f"{folder}/file", md5)
  must_stop = threading.Event()
  retries = Retries(max_retries, must_stop)
  fetching.fetch_file(file, retries, must_stop, check_room)
  return file


def reason(mirror, folder, *arguments) -> str:
  """Fetches a file that cannot be had; returns why."""
  with pytest.raises(NotFetchedError) as caught:
    fetch(mirror, folder, *arguments)
  assert not (folder / "file").exists()
  return str(caught.value)


def test_a_file(mirror, tmp_path):
  file = fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert file.size == file.done_bytes == len(CONTENT)
  assert mirror.begins("file") == [0]


def test_an_empty_file(mirror, tmp_path):
  mirror.files["/file"] = b""
  md5 = hashlib.md5(b"").hexdigest()
  file = RemoteFile(f"{mirror.url}/file", f"{tmp_path}/file", md5)
  must_stop = threading.Event()
  fetching.fetch_file(file, Retries(0, must_stop), must_stop, lambda: None)
  assert folder_content(tmp_path) == {"file": b""}


def test_what_was_dropped_goes_on_inside_the_file(mirror, tmp_path):
  mirror.faults["/file"] = ["drop", "drop"]
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.begins("file") == [0, 50_000, 75_000]


def test_a_part_is_continued(mirror, tmp_path):
  (tmp_path / "file.part").write_bytes(CONTENT[:1234])
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.begins("file") == [1234]


def test_a_complete_part_needs_no_request(mirror, tmp_path):
  (tmp_path / "file.part").write_bytes(CONTENT)
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.requests == []


@pytest.mark.parametrize("more", [0, 7])
def test_a_wrong_part_begins_again(mirror, tmp_path, more):
  wrong = bytes(len(CONTENT) + more)
  (tmp_path / "file.part").write_bytes(wrong)
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.begins("file") == [len(wrong), 0]


def test_a_part_of_another_file_is_found_by_the_md5(mirror, tmp_path):
  (tmp_path / "file.part").write_bytes(bytes(10))
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.begins("file") == [10, 0]


def test_a_server_without_ranges(mirror, tmp_path):
  mirror.has_ranges = False
  mirror.faults["/file"] = ["drop"]
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  # Asked for the rest, it sent the whole file.
  assert mirror.begins("file") == [0, 50_000]


def test_a_server_without_lengths(mirror, tmp_path):
  mirror.has_lengths = False
  mirror.faults["/file"] = ["drop"]
  # What is missing cannot be told from what is wrong.
  file = fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert file.size == len(CONTENT)
  assert mirror.begins("file") == [0, 0]


@pytest.mark.parametrize("fault", ["wrong", "cut", 503, 500, 429, 408])
def test_what_goes_wrong_once(mirror, tmp_path, fault):
  mirror.faults["/file"] = [fault]
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  assert mirror.begins("file") == [0, 0]


def test_a_server_that_stalls(mirror, tmp_path, monkeypatch):
  monkeypatch.setattr(fetching, "_TIMEOUT_SECONDS", 0.2)
  mirror.faults["/file"] = ["stall"]
  fetch(mirror, tmp_path)
  assert folder_content(tmp_path) == {"file": CONTENT}
  mirror.faults["/file"] = ["stall"]
  (tmp_path / "file").unlink()
  assert reason(mirror, tmp_path, 0) == "no answer for 0.2 s"


def test_a_server_that_is_not_there(mirror, tmp_path):
  mirror.url = "http://127.0.0.1:9"
  assert reason(mirror, tmp_path) == "Connection refused"


@pytest.mark.parametrize("code", [400, 403, 404])
def test_what_does_not_pass_is_not_tried_again(mirror, tmp_path, code):
  mirror.faults["/file"] = [code]
  assert reason(mirror, tmp_path).startswith(f"{code} ")
  assert mirror.begins("file") == [0]
  assert folder_content(tmp_path) == {}


def test_retries_end(mirror, tmp_path):
  mirror.faults["/file"] = [503] * 9
  assert reason(mirror, tmp_path, 4) == "503 Service Unavailable"
  assert len(mirror.requests) == 5


def test_a_file_that_is_always_wrong_is_not_fetched_for_ever(mirror, tmp_path):
  mirror.faults["/file"] = ["wrong"] * 20
  text = reason(mirror, tmp_path, 10)
  assert f"expected the md5 {hashlib.md5(CONTENT).hexdigest()}" in text
  assert mirror.begins("file") == [0, 0, 0]
  assert folder_content(tmp_path) == {}


def test_progress_counts_as_no_failure(mirror, tmp_path, monkeypatch):
  monkeypatch.setattr(fetching, "_PROGRESS_BYTES", 10_000)
  mirror.faults["/file"] = ["drop"] * 5
  # 50,000, 25,000, 12,500 bytes; then fewer.
  assert "dropped after" in reason(mirror, tmp_path, 1)
  assert len(mirror.requests) == 4
  assert folder_content(tmp_path) == {"file.part": CONTENT[:93_750]}


def test_without_ranges_the_same_progress_counts_once(
  mirror, tmp_path, monkeypatch
):
  monkeypatch.setattr(fetching, "_PROGRESS_BYTES", 10_000)
  mirror.has_ranges = False
  mirror.faults["/file"] = ["drop"] * 20
  assert "dropped after" in reason(mirror, tmp_path, 2)
  assert len(mirror.requests) == 3


class Waits(threading.Event):
  """Keeps how long was waited, and does not wait."""

  def __init__(self):
    super().__init__()
    self.seconds = []

  def wait(self, timeout=None):
    self.seconds.append(timeout)
    return False


def test_waits_double_up_to_a_minute():
  waits = Waits()
  retries = Retries(8, waits)
  for _ in range(8):
    retries.wait(NotFetchedError("503"), "file")
  with pytest.raises(NotFetchedError, match="503"):
    retries.wait(NotFetchedError("503"), "file")
  for seconds, mean in zip(
    waits.seconds, [1, 2, 4, 8, 16, 32, 60, 60], strict=True
  ):
    assert 0.75 * mean <= seconds <= 1.25 * mean
  retries.begin_again()
  retries.wait(NotFetchedError("503"), "file")
  assert waits.seconds[-1] <= 1.25


@pytest.mark.parametrize(
  ("asked", "waited"),
  [("7", 7), ("9999", 600), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.00125)],
)
def test_a_server_asks_to_wait(mirror, asked, waited):
  mirror.files["/plan"] = b"{}"
  mirror.faults["/plan"] = [503]
  mirror.retry_after = asked
  waits = Waits()
  content = fetching.fetch_small(f"{mirror.url}/plan", Retries(1, waits))
  assert content == b"{}"
  (seconds,) = waits.seconds
  assert seconds == waited or 0.0007 < seconds <= waited < 1


def test_a_small_file_that_is_cut_off(mirror):
  mirror.faults["/file"] = ["drop"]
  retries = Retries(1, threading.Event())
  assert fetching.fetch_small(f"{mirror.url}/file", retries) == CONTENT


def test_a_small_file_that_is_large(mirror, monkeypatch):
  monkeypatch.setattr(fetching, "_MOST_SMALL_BYTES", 99_999)
  with pytest.raises(NotFetchedError, match="more than"):
    fetching.fetch_small(f"{mirror.url}/file", Retries(1, threading.Event()))


def test_sizes(mirror):
  assert fetching.remote_size(f"{mirror.url}/file") == 100_000
  with pytest.raises(NotFetchedError, match="404"):
    fetching.remote_size(f"{mirror.url}/other")


def test_the_room_is_checked_when_the_size_is_known(mirror, tmp_path):
  class FullError(Exception):
    pass

  def check():
    raise FullError

  (tmp_path / "file.part").write_bytes(CONTENT[:10])
  with pytest.raises(FullError):
    fetch(mirror, tmp_path, 2, check)
  assert folder_content(tmp_path) == {"file.part": CONTENT[:10]}


def test_a_stop_leaves_the_part(mirror, tmp_path):
  mirror.seconds = 0.05
  must_stop = threading.Event()
  file = RemoteFile(f"{mirror.url}/file", f"{tmp_path}/file", "")
  threading.Timer(0.1, must_stop.set).start()
  with pytest.raises(fetching.StoppedError):
    fetching.fetch_file(file, Retries(1, must_stop), must_stop, lambda: None)
  part = (tmp_path / "file.part").read_bytes()
  assert 0 < len(part) < len(CONTENT)
  assert CONTENT.startswith(part)
  assert file.done_bytes == len(part)


def test_a_stop_ends_a_wait(mirror, tmp_path, monkeypatch):
  monkeypatch.setattr(fetching, "_FIRST_WAIT_SECONDS", 60.0)
  mirror.faults["/file"] = [503]
  must_stop = threading.Event()
  file = RemoteFile(f"{mirror.url}/file", f"{tmp_path}/file", "")
  threading.Timer(0.05, must_stop.set).start()
  with pytest.raises(fetching.StoppedError):
    fetching.fetch_file(file, Retries(1, must_stop), must_stop, lambda: None)


def test_only_one_process_writes_a_part(mirror, tmp_path):
  with open(tmp_path / "file.part", "wb") as part:
    fcntl.flock(part, fcntl.LOCK_EX)
    assert reason(mirror, tmp_path) == "another process downloads it"
  assert mirror.requests == []
