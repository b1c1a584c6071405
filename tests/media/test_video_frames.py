"""Tests of media.frames: which frames are taken, and that seeking is exact."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import painted_videos
import pytest
from conftest import error_of
from painted_videos import (
  MILLISECOND,
  SIDE,
  even_times,
  number_in,
  numbers_in,
  paint,
  uneven_times,
  write_video,
)

import errors
from media import frames
from media.frames import BadVideoError, Moments, Sampling, read_video

SIZE = (SIDE, SIDE)
FRAME = Fraction(1, 25)

X264 = {"preset": "veryfast"}
OPEN_GROUPS = "open-gop=1:keyint=12:bframes=3:scenecut=0"


@pytest.fixture
def starts(monkeypatch):
  """A list that gets an entry for each start at a key frame."""
  made = []
  start_before = frames._Decoder.start_before

  def counted(decoder, moment, keys):
    found = start_before(decoder, moment, keys)
    made.append(moment)
    return found

  monkeypatch.setattr(frames._Decoder, "start_before", counted)
  return made


def frames_at(times, base, moments) -> list[int]:
  """Which frame is shown at each moment, slowly."""
  first = times[0]
  return [
    max(
      index
      for index, time in enumerate(times)
      if float((time - first) * base) <= moment
    )
    for moment in moments
  ]


def read_both(path, sampling):
  """read_video, after a comparison with decoding everything."""
  found = read_video(path, sampling, SIZE)
  slow = frames.read_every_frame_of(path, sampling, SIZE)
  np.testing.assert_array_equal(found.images, slow.images)
  np.testing.assert_array_equal(found.times, slow.times)
  np.testing.assert_array_equal(found.frame_times, slow.frame_times)
  assert (found.duration, found.note) == (slow.duration, slow.note)
  return found


# --------------------------------------------------------------------------
# Which moments


def test_moments_at_a_rate():
  sampling = Sampling(frames_per_second=2.0)
  np.testing.assert_array_equal(sampling.times(1.6), [0, 0.5, 1, 1.5])
  # The moment of the end itself has no frame.
  np.testing.assert_array_equal(sampling.times(1.5), [0, 0.5, 1])
  np.testing.assert_array_equal(sampling.times(0.0), [0])
  np.testing.assert_array_equal(Sampling(0.1).times(21.0), [0, 10, 20])
  np.testing.assert_array_equal(Sampling(max_frames=2).times(9.0), [0, 1])


def test_evenly_spaced_moments_are_the_middles_of_equal_parts():
  np.testing.assert_array_equal(Sampling(num_frames=1).times(8.0), [4])
  np.testing.assert_array_equal(Sampling(num_frames=4).times(8.0), [1, 3, 5, 7])
  np.testing.assert_array_equal(
    Sampling(num_frames=4, max_frames=2).times(8.0), [2, 6]
  )


def test_moments_that_are_known(tmp_path):
  path = write_video(tmp_path / "a.mp4", even_times(300), **X264)
  found = read_both(path, Moments([0.5, 7.52, 7.52, 9.9]))
  assert numbers_in(found.images) == [15, 225, 225, 297]


@pytest.mark.parametrize(
  "settings",
  [
    {"frames_per_second": 0.0},
    {"frames_per_second": float("nan")},
    {"num_frames": -1},
    {"max_frames": -1},
  ],
)
def test_sampling_that_is_none_is_refused(settings):
  with pytest.raises(errors.UserError, match="Expected"):
    Sampling(**settings)


# --------------------------------------------------------------------------
# Which frames

# Name of the file, codec, options; whether starts at key frames are expected.
KINDS = [
  ("a.mp4", "libx264", X264, True),
  ("a.mov", "libx264", X264, True),
  ("a.mkv", "libx264", X264, True),
  ("a.ts", "libx264", X264, False),
  ("a.mp4", "libx264", {"x264_params": OPEN_GROUPS}, True),
  ("a.mkv", "libx264", {"x264_params": OPEN_GROUPS}, True),
  # Frames are not whole until some time after a start.
  ("a.mkv", "libx264", {"x264_params": "intra-refresh=1:keyint=12"}, True),
  ("a.mp4", "mpeg4", {"bf": 2}, True),
  ("a.mkv", "mpeg2video", {"bf": 2}, True),
  ("a.webm", "libvpx", {"deadline": "realtime", "cpu_used": 8}, True),
  ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu_used": 8}, True),
]
# Formats with a constant frame rate alone.
EVEN_KINDS = [
  ("a.avi", "mpeg4", {}, True),
  # Times of presentation are missing, and frames are stored out of order.
  ("a.avi", "mpeg4", {"bf": 2}, False),
  ("a.avi", "libx264", X264, False),
  ("a.h264", "libx264", X264, False),
]


@pytest.mark.parametrize(("name", "codec", "options", "starts_expected"), KINDS)
def test_frames_at_a_variable_rate(
  name, codec, options, starts_expected, tmp_path, starts
):
  if codec == "mpeg2video":
    times, base = list(range(120)), FRAME  # it has no other rates
  else:
    times, base = uneven_times(120), MILLISECOND
  path = write_video(tmp_path / name, times, codec, base=base, **options)
  for sampling in (Sampling(1.0), Sampling(num_frames=5)):
    found = read_both(path, sampling)
    expected = frames_at(times, base, found.times)
    assert numbers_in(found.images) == expected
    shown = [float((times[index] - times[0]) * base) for index in expected]
    np.testing.assert_allclose(found.frame_times, shown, atol=1e-9)
    assert found.note == ""
  assert bool(starts) == starts_expected


@pytest.mark.parametrize(
  ("name", "codec", "options", "starts_expected"), EVEN_KINDS
)
def test_frames_at_a_constant_rate(
  name, codec, options, starts_expected, tmp_path, starts
):
  path = write_video(tmp_path / name, range(120), codec, base=FRAME, **options)
  found = read_both(path, Sampling(0.9))
  assert found.duration == 4.8
  # 0, 1.11, 2.22, 3.33, 4.44 s, of 25 frames each
  assert numbers_in(found.images) == [0, 27, 55, 83, 111]
  assert bool(starts) == starts_expected


def test_a_long_group_of_pictures_is_decoded_without_starts(tmp_path, starts):
  path = write_video(
    tmp_path / "a.mp4", range(120), "libx264", key_every=250, base=FRAME
  )
  assert numbers_in(read_both(path, Sampling(1.0)).images) == [
    *(0, 25, 50, 75, 100)
  ]
  assert starts == []


def test_few_frames_are_decoded_where_starts_are_possible(
  tmp_path, monkeypatch
):
  path = write_video(tmp_path / "a.mp4", range(250), "libx264", base=FRAME)
  decoded = []
  following = frames._Decoder.next

  def counted(decoder):
    decoded.append(None)
    return following(decoder)

  monkeypatch.setattr(frames._Decoder, "next", counted)
  read_video(path, Sampling(0.25), SIZE)
  few = len(decoded)
  frames.read_every_frame_of(path, Sampling(0.25), SIZE)
  assert few < (len(decoded) - few) / 3


@pytest.mark.parametrize(
  ("name", "begin"),
  # Only MP4 keeps frames that are not shown.
  [("a.mp4", -37), ("a.mp4", 50), ("a.mkv", 50), ("a.ts", 50)],
)
def test_times_begin_at_the_first_frame_shown(name, begin, tmp_path):
  times = range(begin, 130)
  path = write_video(tmp_path / name, times, "libx264", base=FRAME)
  found = read_both(path, Sampling(1.0))
  # An edit list hides the frames before time 0.
  first = 37 if begin < 0 else 0
  count = 130 if begin < 0 else 80
  assert found.duration == pytest.approx(count / 25)
  assert numbers_in(found.images) == list(range(first, first + count, 25))


def test_a_fragmented_file(tmp_path):
  path = write_video(
    tmp_path / "a.mp4",
    range(100),
    base=FRAME,
    container_options={"movflags": "frag_keyframe+empty_moov"},
  )
  assert numbers_in(read_both(path, Sampling(1.0)).images) == [0, 25, 50, 75]


def test_a_video_of_few_frames_repeats_them(tmp_path):
  path = write_video(tmp_path / "a.mp4", range(3), base=FRAME)
  found = read_both(path, Sampling(num_frames=6))
  assert numbers_in(found.images) == [0, 0, 1, 1, 2, 2]
  np.testing.assert_allclose(found.frame_times * 25, [0, 0, 1, 1, 2, 2])


def test_random_rates_and_samplings(tmp_path):
  random = np.random.default_rng(5)
  for trial in range(6):
    count = int(random.integers(1, 150))
    times = uneven_times(max(count, 2), seed=trial)
    path = write_video(
      tmp_path / f"{trial}.mkv",
      times,
      "libx264",
      key_every=int(random.integers(1, 40)),
      preset="veryfast",
      bf=int(random.integers(0, 4)),
    )
    for sampling in (
      Sampling(float(random.uniform(0.2, 40))),
      Sampling(num_frames=int(random.integers(1, 60))),
    ):
      found = read_both(path, sampling)
      expected = frames_at(times, MILLISECOND, found.times)
      assert numbers_in(found.images) == expected


# --------------------------------------------------------------------------
# Files with defects


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mpeg2video"])
def test_an_index_of_frames_that_are_no_key_frames(codec, tmp_path):
  path = write_video(tmp_path / "a.mp4", range(120), codec, base=FRAME)
  content = bytearray(Path(path).read_bytes())
  place = content.index(b"stss") + 8
  count = int.from_bytes(content[place : place + 4])
  for entry in range(place + 8, place + 4 + 4 * count, 4):
    number = int.from_bytes(content[entry : entry + 4])
    content[entry : entry + 4] = (number + 5).to_bytes(4)
  Path(path).write_bytes(content)
  found = read_both(path, Sampling(0.9))
  assert numbers_in(found.images) == [0, 27, 55, 83, 111]


def test_damage_after_a_start_makes_everything_be_decoded(
  tmp_path, monkeypatch
):
  path = write_video(tmp_path / "a.mp4", range(120), bf=0, base=FRAME)
  with painted_videos.av.open(path) as file:
    packets = [(packet.pos, packet.size) for packet in file.demux(video=0)]
  content = bytearray(Path(path).read_bytes())
  for number in (20, 73):  # the second is between a key frame and second 3
    place, size = packets[number]
    content[place : place + size] = b"\xff" * size
  Path(path).write_bytes(content)
  assert read_both(path, Sampling(1.0)).note == (
    "2 damaged packets were left out"
  )


def cut(path, fraction):
  """Leaves the first part of a file."""
  content = Path(path).read_bytes()
  Path(path).write_bytes(content[: int(len(content) * fraction)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_breaks_off_is_used_up_to_there(name, tmp_path):
  path = write_video(
    tmp_path / name,
    range(250),
    base=FRAME,
    preset="ultrafast",
    container_options={"movflags": "faststart"} if name == "a.mp4" else None,
  )
  cut(path, 0.6)
  found = read_both(path, Sampling(1.0))
  assert 2 < found.duration < 8
  assert len(found.images) == np.ceil(found.duration)
  assert numbers_in(found.images) == [25 * i for i in range(len(found.times))]
  assert re.fullmatch(
    rf"breaks off after {found.duration:.1f} s of 10.0 s", found.note
  )


def test_damaged_packets_are_counted(tmp_path):
  path = write_video(tmp_path / "a.mp4", range(100), base=FRAME)
  with painted_videos.av.open(path) as file:
    packets = [(packet.pos, packet.size) for packet in file.demux(video=0)]
  content = bytearray(Path(path).read_bytes())
  for place, size in packets[40:45]:  # the key frames are 36 and 48
    content[place : place + size] = b"\xff" * size
  Path(path).write_bytes(content)
  found = read_both(path, Sampling(5.0))
  assert found.note == "5 damaged packets were left out"
  expected = list(range(0, 100, 5))
  # Around frame 42, some other one is shown.
  assert numbers_in(found.images[:8]) == expected[:8]
  assert numbers_in(found.images[10:]) == expected[10:]
  # What is between the moments is not looked at where it is not decoded.
  assert read_video(path, Sampling(0.5), SIZE).note == ""


@pytest.mark.parametrize(
  ("name", "content", "reason"),
  [
    ("a.mp4", b"", "is empty"),
    ("a.mp4", b"It is Monday.\n" * 500, "cannot be opened: Invalid data"),
    ("a.txt", b"It is Monday.\n" * 500, "is text, not a video"),
    ("a.mp4", None, "cannot be opened: No such file"),
  ],
)
def test_what_is_no_video_is_refused(name, content, reason, tmp_path):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(BadVideoError, match=reason) as raised:
    read_video(str(path), Sampling(), SIZE)
  assert "\n" not in str(raised.value)


def test_sound_without_a_video_is_refused(tmp_path):
  with painted_videos.av.open(str(tmp_path / "a.m4a"), "w") as file:
    tone = np.zeros((1, 8000), np.float32)
    stream = painted_videos.add_sound(file, ("aac", "mono", 8000, tone, 0))
    file.mux(stream.encode(None))
  with pytest.raises(BadVideoError, match="has no video stream, only audio"):
    read_video(str(tmp_path / "a.m4a"), Sampling(), SIZE)


def test_a_video_without_its_frames_is_refused(tmp_path):
  path = write_video(
    tmp_path / "a.mp4",
    range(50),
    base=FRAME,
    container_options={"movflags": "faststart"},
  )
  content = Path(path).read_bytes()
  place = content.index(b"mdat") + 4
  Path(path).write_bytes(content[:place] + bytes(len(content) - place))
  with pytest.raises(BadVideoError, match="no frame can be decoded"):
    read_video(path, Sampling(), SIZE)


def test_more_frames_than_memory_are_refused(tmp_path):
  path = write_video(tmp_path / "a.mp4", even_times(30))
  with pytest.raises(BadVideoError, match="over 4 GiB of memory; take fewer"):
    read_video(path, Sampling(num_frames=10_000), (400, 400))


def test_a_missing_package_has_its_install_command(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "av", None)
  text = error_of(read_video, "a.mp4", Sampling(), SIZE)
  assert "pip install -r requirements/videos.txt" in text


def test_painted_numbers_are_read_back():
  for number in (0, 1, 77, 65535):
    assert number_in(paint(number)) == number
