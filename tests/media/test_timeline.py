"""Tests of media.timeline: when a video ends, and where decoding can start."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from painted_videos import uneven_times, write_video

from media.opening import BadVideoError, open_media, video_stream
from media.timeline import Timeline

FRAME = Fraction(1, 25)


def seconds(path, timestamps) -> np.ndarray:
  with open_media(path) as container:
    base = video_stream(container).time_base
  return np.array([float(timestamp * base) for timestamp in timestamps])


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_key_frames_and_the_end(name, tmp_path):
  path = write_video(tmp_path / name, range(100), bf=0, base=FRAME)
  found = Timeline(path)
  np.testing.assert_allclose(
    seconds(path, found.keys), np.arange(0, 100, 12) / 25
  )
  np.testing.assert_allclose(seconds(path, [found.end]), [4.0])
  assert found.note == ""


@pytest.mark.parametrize(
  ("name", "codec"),
  [
    ("a.ts", "libx264"),
    ("a.h264", "libx264"),
    ("a.flv", "libx264"),
    ("a.avi", "libx264"),  # frames out of order
    ("a.gif", "gif"),
  ],
)
def test_no_starts_where_they_are_unreliable(name, codec, tmp_path):
  pixels = "rgb8" if codec == "gif" else "yuv420p"
  path = write_video(
    tmp_path / name, range(50), codec, pixels=pixels, base=FRAME
  )
  found = Timeline(path)
  assert found.keys == []
  start = 0 if name == "a.avi" else first_time(path)
  end = seconds(path, [found.end])[0]
  assert end - start == pytest.approx(2.0, abs=0.001)


def first_time(path) -> float:
  with open_media(path) as container:
    return next(container.decode(video=0)).time or 0.0


def test_the_end_is_that_of_the_video_not_of_longer_sound(tmp_path):
  sound = ("aac", "mono", 16000, np.zeros((1, 5 * 16000)), 0.0)
  for name in ("a.mkv", "a.mp4"):
    path = write_video(tmp_path / name, range(50), base=FRAME, audio=sound)
    found = Timeline(path)
    assert len(found.keys) == 5
    np.testing.assert_allclose(seconds(path, [found.end]), [2.0])
    assert found.note == ""


def test_uneven_frames(tmp_path):
  times = uneven_times(60)
  path = write_video(tmp_path / "a.mkv", times)
  # The last frame has no length in the file; it is that of the others.
  end = seconds(path, [Timeline(path).end])[0]
  assert times[-1] / 1000 < end < times[-1] / 1000 + 0.1


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("a.mp4", {"movflags": "faststart"}),
    ("a.mkv", None),
    ("a.avi", None),
  ],
)
def test_a_file_that_breaks_off_is_noted(name, options, tmp_path):
  path = write_video(
    tmp_path / name,
    range(250),
    "mpeg4",
    base=FRAME,
    container_options=options,
  )
  assert Timeline(path).note == ""
  content = Path(path).read_bytes()
  Path(path).write_bytes(content[: len(content) // 2])
  found = Timeline(path)
  end = seconds(path, [found.end])[0]
  assert 2 < end < 8
  if name != "a.avi":  # its header does not say how long it is
    assert found.note == f"breaks off after {end:.1f} s of 10.0 s"


def test_no_video(tmp_path):
  with pytest.raises(BadVideoError, match="No such file"):
    Timeline(str(tmp_path / "a.mp4"))
