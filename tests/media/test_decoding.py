"""Tests of media.decoding: order, errors of single files, and ending."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from painted_videos import SIDE, numbers_in, write_video

import errors
from media import decoding
from media.decoding import decode_all
from media.frames import BadVideoError, Sampling, read_audio, read_video

SIZE = (SIDE, SIDE)
FRAME = Fraction(1, 25)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
  """Eight videos of 1 to 8 seconds, the third with sound."""
  folder = tmp_path_factory.mktemp("videos")
  time = np.arange(3 * 16000) / 16000
  sound = ("pcm_s16le", "mono", 16000, np.sin(3000 * time)[None] / 2, 0.0)
  return [
    write_video(
      folder / f"{seconds}.mov",
      range(25 * seconds),
      base=FRAME,
      audio=sound if seconds == 3 else None,
      preset="ultrafast",
    )
    for seconds in range(1, 9)
  ]


# Runs in workers as they start: some files end them or stop them.
MISCHIEF = """
import os, signal, time

getsize = os.path.getsize

def slow(path):
  if path.endswith("crash.mp4"):
    os.kill(os.getpid(), signal.SIGSEGV)
  while path.endswith("stuck.mp4") and os.path.exists(path):
    time.sleep(0.01)
  return getsize(path)

os.path.getsize = slow
"""


@pytest.fixture
def mischief(tmp_path, monkeypatch) -> Path:
  """A folder with crash.mp4 and stuck.mp4."""
  (tmp_path / "sitecustomize.py").write_text(MISCHIEF)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  for name in ("crash.mp4", "stuck.mp4"):
    (tmp_path / name).write_bytes(b"0")
  return tmp_path


def children() -> list[psutil.Process]:
  return psutil.Process().children(recursive=True)


def wait_until(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_videos_come_in_order_and_are_those_of_read_video(paths):
  results = list(
    decode_all(paths, Sampling(), SIZE, with_audio=True, num_workers=2)
  )
  assert [path for path, *_ in results] == paths
  for (path, video, audio), seconds in zip(results, range(1, 9), strict=True):
    assert numbers_in(video.images) == list(range(0, 25 * seconds, 25))
    alone = read_video(path, Sampling(), SIZE)
    np.testing.assert_array_equal(video.images, alone.images)
    np.testing.assert_array_equal(video.frame_times, alone.frame_times)
    np.testing.assert_array_equal(video.times, alone.times)
    assert video.duration == seconds
    if seconds == 3:
      np.testing.assert_array_equal(audio, read_audio(path))
      assert len(audio) == 48000
    else:
      assert audio is None
  assert children() == []


def test_sound_is_of_the_seconds_of_the_frames(paths):
  [(_, video, audio)] = decode_all(
    [paths[2]], Sampling(2.0, max_frames=3), SIZE, with_audio=True
  )
  assert len(video.images) == 3
  assert len(audio) == 24000


def test_a_bad_file_is_its_own_error(paths, tmp_path):
  text = tmp_path / "text.mp4"
  text.write_text("no video\n")
  given = [paths[0], str(text), str(tmp_path / "none.mp4"), paths[1]]
  results = list(decode_all(given, Sampling(), SIZE, num_workers=2))
  assert [result[0] for result in results] == given
  assert [len(result) for result in results] == [3, 2, 2, 3]
  assert isinstance(results[1][1], BadVideoError)
  assert "Invalid data" in str(results[1][1])
  assert "No such file" in str(results[2][1])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_dies_is_the_error_of_its_file(
  paths, mischief, num_workers
):
  crash = str(mischief / "crash.mp4")
  given = [paths[0], crash, paths[1], crash, crash, *paths[2:4]]
  found = list(decode_all(given, Sampling(), SIZE, num_workers=num_workers))
  assert [result[0] for result in found] == given
  for path, *rest in found:
    if path == crash:
      assert str(rest[0]) == (
        "ended the process that decoded it (Segmentation fault)"
      )
    else:
      assert rest[0].duration == paths.index(path) + 1
  assert children() == []


def test_few_videos_are_decoded_ahead(paths):
  taken = []

  def given():
    for path in paths:
      taken.append(path)
      yield path

  videos = decode_all(given(), Sampling(), SIZE, num_workers=2)
  next(videos)
  wait_until(lambda: len(taken) == 5)
  time.sleep(0.1)
  assert len(taken) == 5  # one was given, four are ahead
  videos.close()
  assert children() == []


def test_memory_of_waiting_videos_is_bounded(paths, monkeypatch):
  monkeypatch.setattr(decoding, "_MOST_WAITING_BYTES", 1)
  taken = []

  def given():
    for path in paths:
      taken.append(path)
      yield path

  videos = decode_all(given(), Sampling(), SIZE, num_workers=1)
  next(videos)
  wait_until(lambda: len(taken) == 2)
  time.sleep(0.1)
  assert len(taken) == 2
  assert len(list(videos)) == 7  # it goes on all the same


def test_an_error_of_the_caller_is_raised(paths):
  def given():
    yield paths[0]
    raise KeyError("a bug")

  with pytest.raises(KeyError):
    list(decode_all(given(), Sampling(), SIZE, num_workers=2))
  with pytest.raises(errors.UserError, match="one of stretch, crop"):
    list(decode_all(paths, Sampling(), SIZE, fit="pad", num_workers=1))
  assert children() == []


def test_a_worker_that_cannot_start_is_one_line(paths, monkeypatch):
  monkeypatch.setattr(decoding, "_ROOT", "/nowhere")
  monkeypatch.delenv("PYTHONPATH", raising=False)
  with pytest.raises(errors.UserError, match="No module named 'media'"):
    list(decode_all(paths, Sampling(), SIZE, num_workers=1))


PROGRAM = """
import sys
from media.decoding import decode_all
from media.frames import Sampling

for path, *rest in decode_all(sys.argv[1:], Sampling(), (64, 64)):
  print(path, flush=True)
"""


@pytest.fixture
def stuck_program(paths, mischief):
  """A program, one of whose workers is stuck, in a group of processes."""
  root = Path(decoding.__file__).parents[1]
  with subprocess.Popen(
    [sys.executable, "-P", "-c", PROGRAM, paths[0], mischief / "stuck.mp4"],
    env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{mischief}"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as process:
    assert process.stdout.readline().strip() == paths[0]
    workers = psutil.Process(process.pid).children()
    assert workers
    yield process, workers
    process.kill()


def are_gone(workers) -> bool:
  return not any(
    worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
    for worker in workers
  )


def test_ctrl_c_ends_the_workers_quietly(stuck_program):
  process, workers = stuck_program
  os.killpg(process.pid, signal.SIGINT)
  _, said = process.communicate(timeout=20)
  assert said.count("Traceback") == 1  # the program's own
  assert "KeyboardInterrupt" in said
  wait_until(lambda: are_gone(workers))


def test_workers_end_when_the_program_is_killed(stuck_program, mischief):
  process, workers = stuck_program
  process.kill()
  process.wait()
  # They finish what they do.
  (mischief / "stuck.mp4").unlink()
  wait_until(lambda: are_gone(workers))


def test_workers_import_no_tensorflow():
  code = "import sys, media.decoding; print('tensorflow' in sys.modules)"
  root = Path(decoding.__file__).parents[1]
  found = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=root,
  )
  assert found.stdout == "False\n"
