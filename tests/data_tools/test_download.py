"""Tests of data_tools.download, against a mirror that misbehaves."""

import contextlib
import errno
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import string
import subprocess
import sys

import in_process
import pytest
from conftest import (
  REPOSITORY,
  Program,
  assert_names,
  folder_content,
)
from mirror import random_bytes, serving

from data_tools import download, fetching
from data_tools.download_plan import local_name

PARTITION = "2/frame/train"
NAMES = [f"train{suffix}.tfrecord" for suffix in ("aa", "aA", "Aa", "99")]
FILES = {
  name: random_bytes(name, 100_000 + 1000 * number)
  for number, name in enumerate(NAMES)
}
LOCAL = {local_name(name): content for name, content in FILES.items()}


@pytest.fixture
def mirror(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(fetching, "_FIRST_WAIT_SECONDS", 0.001)
  with serving() as mirror:
    mirror.add_partition(PARTITION, FILES)
    mirror.files["/csv/2/vocabulary.csv"] = b"Index,Name\n0,Game\n"
    yield mirror


def arguments(mirror, folder, *more) -> list[str]:
  return [
    f"--partition={PARTITION}",
    f"--base_url={mirror.url}",
    f"--output_dir={folder}",
    *more,
  ]


def run(mirror, folder, *more) -> str:
  """Downloads what must succeed; returns the log."""
  mirror.requests.clear()
  return in_process.run(
    "data_tools.download", *arguments(mirror, folder, *more)
  )


def run_into_error(mirror, folder, *more, exit_code=1) -> str:
  """Downloads what must fail; returns its line."""
  mirror.requests.clear()
  return in_process.run_into_error(
    "data_tools.download",
    *arguments(mirror, folder, *more),
    exit_code=exit_code,
  )


def data(folder) -> dict:
  """{name: content} of the data in a folder, also of parts."""
  return {
    name: content
    for name, content in folder_content(folder).items()
    if ".tfrecord" in name
  }


# --------------------------------------------------------------------------
# What is fetched


def test_a_whole_partition(mirror, tmp_path):
  folder = tmp_path / "new" / "folder"
  log = run(mirror, folder)
  assert data(folder) == LOCAL
  assert mirror.fetched() == sorted(NAMES)
  assert_names(
    log, "4 of 4 files", "4 to download, 0 of them in part: about 0.4 MB;"
  )
  assert f"All 4 files are in {folder}." in log
  others = folder_content(folder).keys() - LOCAL.keys()
  assert others == {"download_plan_train.json", "downloaded_train.csv"}
  plan = json.loads((folder / "download_plan_train.json").read_text())
  assert plan["partition"] == PARTITION
  assert plan["files"] == {
    name: hashlib.md5(content).hexdigest() for name, content in FILES.items()
  }


def test_a_rerun_fetches_nothing(mirror, tmp_path):
  run(mirror, tmp_path)
  before = folder_content(tmp_path)
  log = run(mirror, tmp_path)
  assert [path for _, path, _ in mirror.requests] == [
    "/2/download_plans/frame_train.json"
  ]
  assert "4 verified" in log
  assert folder_content(tmp_path) == before


def test_a_rerun_fetches_what_is_missing_or_damaged(mirror, tmp_path):
  run(mirror, tmp_path)
  first, second, third, _ = sorted(LOCAL)
  (tmp_path / first).unlink()
  with open(tmp_path / second, "r+b") as file:
    file.write(b"damage")
  os.utime(tmp_path / third)  # as a copy, it is read and found to be right
  log = run(mirror, tmp_path)
  assert_names(log, "1 verified", "2 to verify", "1 to download")
  assert f"{second} is damaged" in log
  assert data(tmp_path) == LOCAL
  assert sorted(map(local_name, mirror.fetched())) == [first, second]
  assert "4 verified" in run(mirror, tmp_path)


def test_a_file_that_was_cut_off_is_fetched_again(mirror, tmp_path):
  run(mirror, tmp_path)
  name = sorted(LOCAL)[0]
  os.truncate(tmp_path / name, 1000)
  run(mirror, tmp_path)
  assert data(tmp_path) == LOCAL
  assert len(mirror.fetched()) == 1


def test_damage_that_keeps_size_and_time_needs_verify(mirror, tmp_path):
  run(mirror, tmp_path)
  name = sorted(LOCAL)[0]
  path = tmp_path / name
  path.write_bytes(bytes(len(LOCAL[name])))
  kept = tmp_path / "downloaded_train.csv"
  # As if the disk had changed it: nothing shows.
  time = path.stat().st_ctime_ns
  kept.write_text(
    re.sub(rf"^({name},.*),\d+$", rf"\1,{time}", kept.read_text(), flags=re.M)
  )
  assert "4 verified" in run(mirror, tmp_path)
  assert data(tmp_path) != LOCAL
  log = run(mirror, tmp_path, "--verify")
  assert_names(log, "4 to verify", f"{name} is damaged")
  assert data(tmp_path) == LOCAL
  assert len(mirror.fetched()) == 1


def test_what_was_kept_may_be_damaged(mirror, tmp_path):
  run(mirror, tmp_path)
  kept = tmp_path / "downloaded_train.csv"
  kept.write_bytes(kept.read_bytes()[:-30] + b"\xff")
  log = run(mirror, tmp_path)
  assert_names(log, "3 verified", "1 to verify")
  assert mirror.fetched() == []
  kept.write_bytes(b"x" * 200_000)
  assert "4 to verify" in run(mirror, tmp_path)
  for content in ("cut o", "[" * 100_000):
    kept.unlink()
    (tmp_path / "download_plan_train.json").write_text(content)
    assert "4 to verify" in run(mirror, tmp_path)
    assert mirror.fetched() == []
  assert "4 verified" in run(mirror, tmp_path)


def test_another_file_of_the_same_name_is_not_replaced(mirror, tmp_path):
  name = sorted(LOCAL)[0]
  (tmp_path / name).write_text("someone's own")
  line = run_into_error(mirror, tmp_path)
  assert_names(line, "received 3", f"{name} (another file has this name", "md5")
  assert data(tmp_path) == LOCAL | {name: b"someone's own"}
  (tmp_path / name).unlink()
  run(mirror, tmp_path)
  assert data(tmp_path) == LOCAL


def test_another_partition_of_the_same_names_is_refused(mirror, tmp_path):
  run(mirror, tmp_path)
  mirror.add_partition("2/video/train", FILES)
  line = run_into_error(
    mirror, tmp_path, "--partition=2/video/train", exit_code=2
  )
  assert_names(line, "2/video/train", f"{tmp_path}, which holds {PARTITION}")
  assert mirror.requests == []
  # Another split has other names.
  mirror.add_partition("2/frame/test", {"testaa.tfrecord": b"test"})
  run(mirror, tmp_path, "--partition=2/frame/test")
  assert data(tmp_path) == LOCAL | {"test0000.tfrecord": b"test"}


def test_parts_make_the_whole(mirror, tmp_path):
  run(mirror, tmp_path, "--shard=1,3")
  assert mirror.fetched() == ["train99.tfrecord", "trainAa.tfrecord"]
  line = run_into_error(mirror, tmp_path, "--shard=2,3", exit_code=2)
  assert_names(line, "--shard", "2,3", "none of 4")
  run(mirror, tmp_path, "--shard=3,3")
  assert mirror.fetched() == ["trainaA.tfrecord", "trainaa.tfrecord"]
  assert data(tmp_path) == LOCAL


def test_the_class_names(mirror, tmp_path):
  run(mirror, tmp_path, "--with_vocabulary")
  assert (tmp_path / "vocabulary.csv").read_text() == "Index,Name\n0,Game\n"
  mirror.files.pop("/csv/2/vocabulary.csv")
  run(mirror, tmp_path, "--with_vocabulary")  # it is there


@pytest.mark.parametrize("content", [None, b"<html>"])
def test_class_names_that_cannot_be_had(mirror, tmp_path, content):
  mirror.files["/csv/2/vocabulary.csv"] = content
  line = run_into_error(mirror, tmp_path, "--with_vocabulary")
  assert_names(line, "Expected 4 files, received 4. Missing: vocabulary.csv")
  assert_names(line, f"{mirror.url}/csv/2/vocabulary.csv", "--with_vocabulary")
  assert data(tmp_path) == LOCAL


def test_the_official_address_of_the_class_names_refuses(
  mirror, tmp_path, monkeypatch
):
  asked = []

  def refuse(url, *unused):
    asked.append(url)
    raise fetching.NotFetchedError("403 Forbidden", may_pass=False)

  monkeypatch.setattr(fetching, "fetch_small", refuse)
  source = download.Source(PARTITION)
  problem = download._fetch_vocabulary(source, str(tmp_path), None)
  assert asked == [source.vocabulary_url]
  assert_names(problem, "403 Forbidden", "official address has begun to refuse")


# --------------------------------------------------------------------------
# What is only said


def test_a_dry_run_writes_nothing(mirror, tmp_path):
  folder = tmp_path / "new"
  text = run(mirror, folder, "--dry_run")
  assert not folder.exists()
  assert mirror.fetched() == []
  assert_names(text, "4 of 4 files", "0 verified", "4 to download", "are free")
  assert f"{mirror.url}/{PARTITION}/trainaA.tfrecord -> train0026" in text
  run(mirror, tmp_path, "--shard=1,3")
  (tmp_path / "train0000.tfrecord.part").write_bytes(b"part")
  before = folder_content(tmp_path)
  text = run(mirror, tmp_path, "--dry_run")
  assert before == folder_content(tmp_path)
  assert_names(text, "2 verified", "2 to download, 1 of them in part")


def test_the_thousandth_of_a_whole_plan(mirror, tmp_path):
  letters = string.ascii_letters + string.digits
  mirror.add_partition(
    "2/video/validate",
    {
      f"validate{first}{second}.tfrecord": b"data"
      for first in letters
      for second in letters
    },
  )
  flags = ("--partition=2/video/validate", "--shard=1,1000")
  text = run(mirror, tmp_path, *flags, "--dry_run")
  assert "5 of 3844 files" in text
  kept = [
    f"validate{suffix}.tfrecord" for suffix in ("4r", "BE", "DH", "HW", "ks")
  ]
  for name in kept:
    assert f"/{name} -> {local_name(name)}" in text
  run(mirror, tmp_path, *flags)
  assert mirror.fetched() == kept


def test_progress_is_logged(mirror, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "_PROGRESS_SECONDS", 0.0)
  monkeypatch.setattr(download, "_REDRAW_SECONDS", 0.01)
  mirror.seconds = 0.005
  log = run(mirror, tmp_path)
  assert re.search(
    r"\n[IW]\d{4} [\d:]+ \d of 4 files, 0\.00 of 0\.00 GB, \d+\.\d MB/s\n", log
  )


# --------------------------------------------------------------------------
# What goes wrong


def path_of(name) -> str:
  return f"/{PARTITION}/{name}"


@pytest.mark.parametrize("num_connections", [1, 8])
def test_everything_that_goes_wrong_once(mirror, tmp_path, num_connections):
  for name, faults in zip(
    NAMES,
    (["drop", 503], ["wrong"], ["cut", "drop"], [500, 429, "drop"]),
    strict=True,
  ):
    mirror.faults[path_of(name)] = faults
  mirror.faults["/2/download_plans/frame_train.json"] = [503, "drop"]
  log = run(mirror, tmp_path, f"--num_connections={num_connections}")
  assert data(tmp_path) == LOCAL
  assert_names(log, "503 Service Unavailable. Retry 1 of 8 in")


def test_a_mirror_without_ranges_lengths_and_heads(mirror, tmp_path):
  mirror.has_ranges = mirror.has_lengths = mirror.has_head = False
  log = run(mirror, tmp_path)
  assert data(tmp_path) == LOCAL
  assert_names(log, "The sizes are not known yet", "of unknown size")


def test_what_stays_wrong_is_named_and_the_rest_is_brought(mirror, tmp_path):
  wrong, missing, *good = NAMES
  mirror.faults[path_of(wrong)] = ["wrong"] * 9
  content = mirror.files.pop(path_of(missing))
  line = run_into_error(mirror, tmp_path)
  assert_names(
    line,
    "Expected 4 files, received 2.",
    f"{local_name(wrong)} (expected the md5",
    f"{local_name(missing)} (404 Not Found)",
    "Run the same command again",
  )
  assert data(tmp_path) == {local_name(name): FILES[name] for name in good}
  mirror.files[path_of(missing)] = content
  mirror.faults.clear()
  run(mirror, tmp_path)
  assert mirror.fetched() == sorted([wrong, missing])
  assert data(tmp_path) == LOCAL


def test_after_many_failures_in_a_row_no_more_are_tried(
  mirror, tmp_path, monkeypatch
):
  monkeypatch.setattr(download, "_MOST_FAILED", 2)
  for name in NAMES:
    mirror.faults[path_of(name)] = [404]
  line = run_into_error(mirror, tmp_path, "--num_connections=1")
  assert len(mirror.fetched()) == 2
  assert_names(line, "Expected 4 files, received 0.", "and 2 more.")


def test_no_plan(mirror, tmp_path):
  line = run_into_error(
    mirror, tmp_path, "--partition=2/frame/validate", exit_code=2
  )
  assert_names(
    line,
    f"{mirror.url}/2/download_plans/frame_validate.json",
    "404 Not Found",
    "--partition",
  )
  assert folder_content(tmp_path) == {}


def free_bytes(monkeypatch, number):
  usage = shutil.disk_usage("/")._replace(free=number)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_a_disk_that_is_too_small(mirror, tmp_path, monkeypatch):
  free_bytes(monkeypatch, 400_000)  # the files have 406,000
  line = run_into_error(mirror, tmp_path)
  assert_names(line, "4 files that are missing", str(tmp_path), "--shard")
  assert "Expected about 0.4 MB of free disk" in line
  assert mirror.fetched() == []
  assert folder_content(tmp_path) == {}
  run_into_error(mirror, tmp_path, "--dry_run")
  # What is there needs no room.
  free_bytes(monkeypatch, 410_000)
  run(mirror, tmp_path)
  free_bytes(monkeypatch, 0)
  run(mirror, tmp_path)


def test_a_disk_that_becomes_too_full(mirror, tmp_path, monkeypatch):
  mirror.has_head = False
  free_bytes(monkeypatch, 99_000)
  line = run_into_error(mirror, tmp_path, "--num_connections=1")
  assert_names(line, "of free disk", str(tmp_path))
  assert data(tmp_path) == {}


def test_a_disk_that_cannot_be_written(mirror, tmp_path, monkeypatch):
  def fail(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(fetching.local_files, "put_in_place", fail)
    patch.setattr(download.local_files, "write_whole", lambda *_: None)
    line = run_into_error(mirror, tmp_path)
  assert_names(line, "--output_dir", str(tmp_path), "No space left on device")
  run(mirror, tmp_path)
  assert data(tmp_path) == LOCAL


def test_a_folder_that_is_a_file(mirror, tmp_path):
  (tmp_path / "file").touch()
  assert f"{tmp_path}/file" in run_into_error(
    mirror, tmp_path / "file", exit_code=2
  )


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    ([], ["--partition", "2/frame/train"]),
    (["--partition=2/frame/train"], ["--output_dir"]),
    (["--partition=2/frame", "--output_dir=d"], ["'2/frame'"]),
    ([f"--partition={PARTITION}", "--output_dir=gs://a/b"], ["gs://a/b"]),
    (["--mirror=moon"], ["--mirror", "moon"]),
    (
      [f"--partition={PARTITION}", "--output_dir=d", "--shard=3,2"],
      ["--shard=3,2"],
    ),
    (
      [f"--partition={PARTITION}", "--output_dir=d", "--base_url=moon"],
      ["'moon'"],
    ),
    (["--num_connections=0"], ["num_connections"]),
  ],
)
def test_wrong_flags(flags, parts):
  assert_names(in_process.run_into_error("data_tools.download", *flags), *parts)


# --------------------------------------------------------------------------
# As a process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_goes_on_inside_its_files(mirror, tmp_path, number):
  folder = tmp_path / "data"
  mirror.seconds = 0.1
  command = ["-m", "data_tools.download", *arguments(mirror, folder)]
  with Program(tmp_path / "log", *command, no_proxy="127.0.0.1") as program:
    program.wait_for(
      lambda: (
        len(parts := list(folder.glob("*.part"))) == 4
        and all(part.stat().st_size for part in parts)
      )
    )
    program.send_signal(number)
    code = program.wait_for_end()
    if number == signal.SIGINT:
      assert code == 130
      assert program.log.endswith("Stopped by Ctrl-C.\n")
      assert "Traceback" not in program.log
  sizes = {name: len(content) for name, content in data(folder).items()}
  assert sizes.keys() == {f"{name}.part" for name in LOCAL}
  mirror.seconds = 0.0
  log = run(mirror, folder)
  assert "4 to download, 4 of them in part" in log
  assert data(folder) == LOCAL
  for name in NAMES:
    assert mirror.begins(name) == [sizes[f"{local_name(name)}.part"]]


def test_the_bar_on_a_terminal(mirror, tmp_path):
  mirror.seconds = 0.1
  leader, follower = pty.openpty()
  command = ["-m", "data_tools.download", *arguments(mirror, tmp_path / "data")]
  with (
    os.fdopen(leader, "rb", buffering=0) as terminal,
    Program(
      tmp_path / "unused", *command, output=follower, no_proxy="127.0.0.1"
    ) as program,
  ):
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's end, when all of it is read
      while part := terminal.read(4096):
        shown += part
    program.finish()
  bars = re.findall(
    r"\r\[(=*) *\] (\d) of 4 files, 0\.00 of 0\.00 GB, \d+\.\d MB/s",
    shown.decode(),
  )
  filled = [len(bar) for bar, _ in bars]
  assert len(filled) > 2
  assert filled == sorted(filled)
  assert filled[0] < filled[-1]
  assert data(tmp_path / "data") == LOCAL


def test_no_tensorflow_is_needed(mirror, tmp_path):
  for name in ("tensorflow", "keras", "numpy"):
    (tmp_path / f"{name}.py").write_text("raise AssertionError")

  def call(*words):
    done = subprocess.run(
      [sys.executable, "-m", "data_tools.download", *words],
      cwd=REPOSITORY,
      env={
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "no_proxy": "127.0.0.1",
      },
      capture_output=True,
      text=True,
      check=False,
    )
    return done.returncode, done.stdout, done.stderr

  code, text, log = call("--help")
  assert (code, log) == (0, "")
  assert_names(text, "Flags:", "  --mirror=us|eu|asia (default: us)\n")
  code, text, log = call(*arguments(mirror, tmp_path / "data"))
  assert (code, text) == (0, "")
  assert re.search(r"\nI\d{4} .* All 4 files are in ", log)
  assert data(tmp_path / "data") == LOCAL
  code, text, log = call("--partition=2")
  assert code == 2
  assert log.startswith("ERROR: Expected --partition=")
  assert len(log.splitlines()) == 1
