"""Tests of media.sound: level, channels, and alignment with the frames."""

from fractions import Fraction

import numpy as np
import pytest
from painted_videos import write_video

from media.frames import BadVideoError, read_audio

FRAME = Fraction(1, 25)
RATE = 44100


def tone(seconds=3.0, begin=1.0, rate=RATE, frequency=440) -> np.ndarray:
  """A tone of amplitude 0.5, after silence: (samples,)."""
  time = np.arange(round(seconds * rate)) / rate
  return np.where(
    time >= begin, 0.5 * np.sin(2 * np.pi * frequency * time), 0.0
  )


def make(folder, name, codec, layout, channels, begin=0.0, times=range(100)):
  """A video whose first channel has a tone from second 1 of its sound on."""
  samples = np.zeros((channels, 3 * RATE))
  samples[0] = tone()
  return write_video(
    folder / name,
    times,
    base=FRAME,
    audio=(codec, layout, RATE, samples, begin),
    preset="ultrafast",
  )


def onset(samples) -> float:
  """When the tone begins, in seconds."""
  loud = np.abs(samples) > 0.2 * np.abs(samples).max()
  return float(loud.argmax() / 16000)


@pytest.mark.parametrize(
  ("name", "codec", "layout", "channels"),
  [
    ("a.mp4", "aac", "mono", 1),
    ("a.mov", "pcm_s16le", "stereo", 2),
    ("a.mkv", "flac", "stereo", 2),
    ("a.mp4", "aac", "5.1", 6),
  ],
)
def test_one_channel_is_the_mean(name, codec, layout, channels, tmp_path):
  samples = read_audio(make(tmp_path, name, codec, layout, channels))
  assert samples.dtype == np.float32
  assert samples.ndim == 1
  assert len(samples) == pytest.approx(48000, abs=400)  # AAC fills a frame
  assert onset(samples) == pytest.approx(1.0, abs=0.003)
  loud = samples[20000:46000]
  assert np.sqrt(2 * np.mean(loud**2)) == pytest.approx(
    0.5 / channels, rel=0.03
  )
  # 440 Hz: 440 times upwards through 0 in a second.
  assert np.sum((loud[:-1] < 0) & (loud[1:] >= 0)) == pytest.approx(
    440 * len(loud) / 16000, abs=1
  )


def test_other_sample_rates(tmp_path):
  path = make(tmp_path, "a.mov", "pcm_s16le", "mono", 1)
  assert len(read_audio(path, 8000)) == 24000
  # The same rate needs no filter.
  found = read_audio(path, RATE)
  np.testing.assert_allclose(found, tone(), atol=1e-4)


@pytest.mark.parametrize(
  ("name", "codec", "begin", "times", "expected"),
  [
    ("a.mov", "pcm_s16le", 0.25, range(100), 1.25),  # sound begins later
    ("a.mkv", "aac", 0.5, range(100), 1.5),
    ("a.mkv", "aac", 0.0, range(10, 100), 0.6),  # frames begin later
    ("a.mp4", "aac", 0.0, range(10, 100), 0.6),
    ("a.ts", "aac", 1.0, range(25, 100), 1.0),  # both
    ("a.avi", "pcm_s16le", 0.0, range(100), 1.0),
  ],
)
def test_sample_0_is_at_the_first_frame(
  name, codec, begin, times, expected, tmp_path
):
  path = make(tmp_path, name, codec, "mono", 1, begin, times)
  assert onset(read_audio(path)) == pytest.approx(expected, abs=0.003)


def test_a_gap_is_silent(tmp_path, monkeypatch):
  from media import sound

  path = make(tmp_path, "a.mov", "pcm_s16le", "mono", 1)
  add = sound._Track.add

  def later(track, frame, time):
    """As if there was nothing from second 1.5 to 2."""
    add(track, frame, time if time < 1.5 else time + 0.5)

  monkeypatch.setattr(sound._Track, "add", later)
  samples = read_audio(path, seconds=9.0)
  assert len(samples) == pytest.approx(3.5 * 16000, abs=2)
  assert onset(samples) == pytest.approx(1.0, abs=0.003)
  assert np.abs(samples[int(1.55 * 16000) : int(1.95 * 16000)]).max() == 0
  assert np.abs(samples[int(2.05 * 16000) :]).max() > 0.4


def test_an_overlap_is_dropped(tmp_path, monkeypatch):
  from media import sound

  path = make(tmp_path, "a.mov", "pcm_s16le", "mono", 1)
  add = sound._Track.add

  def earlier(track, frame, time):
    """As if what is at second 2 was at 1.5 again."""
    add(track, frame, time if time < 2.0 else time - 0.5)

  monkeypatch.setattr(sound._Track, "add", earlier)
  assert len(read_audio(path)) == pytest.approx(2.5 * 16000, abs=2)


def test_only_some_seconds(tmp_path):
  path = make(tmp_path, "a.mov", "pcm_s16le", "mono", 1)
  whole = read_audio(path)
  part = read_audio(path, seconds=1.5)
  assert len(part) == 24000
  np.testing.assert_array_equal(part[:23000], whole[:23000])


def test_no_sound(tmp_path):
  path = write_video(tmp_path / "a.mp4", range(5), base=FRAME)
  assert read_audio(path) is None


def test_no_file(tmp_path):
  with pytest.raises(BadVideoError, match="No such file"):
    read_audio(str(tmp_path / "a.mp4"))
