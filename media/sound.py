"""Reads the sound of video files with PyAV."""

import math

import numpy as np

from media.opening import (
  BadVideoError,
  ffmpeg_errors,
  import_av,
  open_media,
  video_stream,
)
from media.timeline import has_no_presentation_times

# Times of sound that differ less than this from those of the samples counted
# are rounded; beyond it, there is silence or an overlap.
_TOLERANCE_SECONDS = 0.1


def read_audio(
  path: str, sample_rate: int = 16000, seconds: float | None = None
) -> np.ndarray | None:
  """Reads the sound of a video as one channel, the mean of its channels.

  Packets that cannot be decoded, and times without sound, are silent.

  Args:
    path: a local file of any format that FFmpeg reads.
    sample_rate: of the result, in Hz.
    seconds: reads so much from the video's time 0; None: up to the end.

  Returns:
    (samples,) float32 in [-1, 1]. Sample 0 is at the time of the first frame of
    the video, or of the sound itself where there is no video. None if the file
    has no sound.

  Raises:
    BadVideoError: the file cannot be read, or nothing of its sound decoded.
    errors.UserError: av is not installed.
  """
  start = _video_start(path)
  with open_media(path) as container:
    streams = [
      stream
      for stream in container.streams.audio
      if stream.codec_context is not None
    ]
    if not streams:
      return None
    stream = streams[0]
    if seconds is None:
      limit = (container.duration or math.inf) / 1e6
    else:
      limit = seconds
    track = _Track(sample_rate, limit)
    num_damaged = 0
    packets = container.demux(stream)
    while not track.is_full:
      try:
        packet = next(packets, None)
      except ffmpeg_errors():  # breaks off
        break
      if packet is None:
        break
      try:
        frames = packet.decode()
      except ffmpeg_errors():
        num_damaged += 1
        continue
      for frame in frames:
        time = frame.time
        if start is None:
          start = time or 0.0
        track.add(frame, None if time is None else time - start)
    samples = track.samples()
  if not len(samples) and num_damaged:
    raise BadVideoError("has sound of which nothing can be decoded")
  return samples if track.has_sound else None


def _video_start(path: str) -> float | None:
  """The file's time of the first frame; None if there is no video."""
  with open_media(path) as container:
    try:
      stream = video_stream(container)
    except BadVideoError:
      return None
    stream.codec_context.thread_count = 1
    base = stream.time_base or 0
    packets = container.demux(stream)
    while True:
      try:
        packet = next(packets, None)
        frames = packet.decode() if packet else []
      except ffmpeg_errors():
        continue
      if packet is None:
        return None
      if has_no_presentation_times(container):
        return float((packet.dts or 0) * base)
      for frame in frames:
        timestamp = frame.dts if frame.pts is None else frame.pts
        return float((timestamp or 0) * base)


class _Track:
  """Collects sound at its time.

  Args:
    sample_rate: of the result, in Hz.
    limit: seconds from which on sound is left out; may be inf.

  Attributes:
    has_sound: whether anything was added.
  """

  def __init__(self, sample_rate: int, limit: float):
    self.has_sound = False
    self._rate = sample_rate
    self._limit = limit * sample_rate
    self._pieces: list[np.ndarray] = []
    self._written = 0
    self._resampler = None
    self._shape: tuple | None = None
    self._expected = 0.0
    self._drop = 0

  @property
  def is_full(self) -> bool:
    """Whether the sound goes up to the limit."""
    return self._written >= self._limit

  def add(self, frame, time: float | None) -> None:
    """Adds an audio frame of PyAV.

    Args:
      frame: to be added.
      time: when it begins, in seconds; None: where the last one ended.
    """
    begin = self._expected if time is None else time * self._rate
    if begin > self._limit:
      begin = self._expected
    shape = frame.format.name, frame.layout.name, frame.sample_rate
    differs = abs(begin - self._expected) > _TOLERANCE_SECONDS * self._rate
    if differs or shape != self._shape:
      self._begin_piece(frame, begin, shape)
    self.has_sound = True
    self._expected += frame.samples * self._rate / frame.sample_rate
    frame.pts = None  # the resampler would fill gaps in its own way
    self._resample(frame)

  def _begin_piece(self, frame, begin: float, shape: tuple) -> None:
    """Ends the sound before, and adds silence or drops what overlaps."""
    av = import_av()
    self._flush()
    place = round(begin)
    if place > self._written:
      self._append(np.zeros(place - self._written, np.float32))
    self._drop = max(0, self._written - place)
    self._expected = begin
    self._shape = shape
    self._resampler = av.AudioResampler(
      format="fltp", layout=frame.layout, rate=self._rate
    )

  def _resample(self, frame) -> None:
    """Adds the resampler's output for a frame; None: all that it holds."""
    assert self._resampler
    for part in self._resampler.resample(frame):
      mono = part.to_ndarray().mean(axis=0, dtype=np.float32)
      kept = mono[self._drop :]
      self._drop -= len(mono) - len(kept)
      self._append(kept)

  def _flush(self) -> None:
    """Takes the last samples out of the resampler."""
    if self._resampler:
      self._resample(None)
      self._resampler = None

  def _append(self, piece: np.ndarray) -> None:
    self._pieces.append(piece)
    self._written += len(piece)

  def samples(self) -> np.ndarray:
    """All that was added: (samples,) float32 in [-1, 1]."""
    self._flush()
    joined = np.concatenate([np.empty(0, np.float32), *self._pieces])
    if math.isfinite(self._limit):
      joined = joined[: math.ceil(self._limit)]
    return np.clip(joined, -1.0, 1.0)
