"""Reads frames and sound of video files with PyAV, which brings FFmpeg.

Times are in seconds from the first frame that can be shown, whatever time the
file gives to it. The frame of second t is the last one whose presentation time
is not after t.

Only what is needed is decoded: if the file has an index of its key frames, and
the next moment asked for is some way behind the next key frame, the decoder
starts again at the last key frame before that moment. It then shows the same
frames as if it had decoded everything, since nothing after a key frame depends
on what is before it. Where this cannot be relied on, everything is decoded.

Of a file that breaks off or is damaged, what can be decoded is used, and `note`
says what is missing.
"""

import bisect
import dataclasses
import fractions
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

import errors
from media.images import Converter, size_inside
from media.opening import (
  BadVideoError,
  ffmpeg_errors,
  open_media,
  reason_of,
  video_stream,
)
from media.sound import read_audio
from media.timeline import Timeline, frame_length, has_no_presentation_times

__all__ = [
  "BadVideoError",
  "DecodedVideo",
  "Moments",
  "Sampling",
  "read_audio",
  "read_every_frame_of",
  "read_video",
]

# To start at a key frame costs about as much as to decode so many frames.
_FRAMES_OF_A_START = 8

_MOST_BYTES = 4 << 30


class _UnreliableIndexError(Exception):
  """Decoding did not start where the index says; decode everything."""


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Which moments of a video to take.

  Attributes:
    frames_per_second: takes the moments 0, 1/f, 2/f ... below the duration.
    num_frames: above 0, takes so many moments instead, evenly spaced: of N, the
      middles (i + 0.5) * duration / N of N equal parts of the video. Middles
      stand for their parts better than the beginnings do, the first of which is
      often black. A video of fewer frames repeats them, so there are always N.
    max_frames: above 0, the most moments: the first ones at
      `frames_per_second`; of `num_frames`, a smaller N.
  """

  frames_per_second: float = 1.0
  num_frames: int = 0
  max_frames: int = 0

  def __post_init__(self):
    if not 0 < self.frames_per_second < math.inf:
      raise errors.UserError(
        "Expected frames_per_second above 0, received"
        f" {self.frames_per_second}. For one frame in 10 s, write 0.1."
      )
    if self.num_frames < 0 or self.max_frames < 0:
      raise errors.UserError(
        "Expected num_frames and max_frames of at least 0, received"
        f" {self.num_frames} and {self.max_frames}. 0 means that there is none."
      )

  def count(self, duration: float) -> int:
    """How many moments `times` gives."""
    most = self.max_frames or math.inf
    if self.num_frames:
      return int(min(self.num_frames, most))
    # At least the first frame, also of a still picture, whose duration is 0.
    return int(max(1, min(math.ceil(duration * self.frames_per_second), most)))

  def times(self, duration: float) -> np.ndarray:
    """The moments to take.

    Args:
      duration: of the video, in seconds.

    Returns:
      (n,) float64, in seconds, ascending.
    """
    count = self.count(duration)
    if self.num_frames:
      return (np.arange(count) + 0.5) * duration / count
    return np.arange(count) / self.frames_per_second


@dataclasses.dataclass(frozen=True)
class Moments:
  """Moments that are known, in the place of a Sampling.

  Attributes:
    seconds: at least one, ascending.
  """

  seconds: Sequence[float]

  def count(self, duration: float) -> int:
    """How many they are."""
    del duration
    return len(self.seconds)

  def times(self, duration: float) -> np.ndarray:
    """The moments, (n,) float64."""
    del duration
    return np.array(self.seconds, np.float64)


@dataclasses.dataclass
class DecodedVideo:
  """Frames of a video.

  Attributes:
    images: (n, height, width, 3) uint8, RGB.
    times: (n,) float64, the moments asked for, in seconds.
    frame_times: (n,) float64, the presentation times of the frames taken.
    duration: of the video stream, in seconds, up to where the last frame ends.
    note: what is missing or damaged, in one line; else empty.
  """

  images: np.ndarray
  times: np.ndarray
  frame_times: np.ndarray
  duration: float
  note: str = ""


def read_video(
  path: str,
  sampling: Sampling | Moments,
  size: tuple[int, int],
  fit: str = "stretch",
) -> DecodedVideo:
  """Reads frames of a video.

  Rotation and mirroring that the file asks for are applied. Transparent parts
  are black. Interlaced frames stay as they are stored. Colors are converted as
  the file says, and as FFmpeg assumes (BT.601) if it says nothing.

  Args:
    path: a local file of any format that FFmpeg reads.
    sampling: which moments to take.
    size: (height, width) of the images.
    fit: "stretch": the whole frame, whatever its shape. "crop": the frame at
      its true shape, pixels of other shapes than squares included, its
      short side fitted to the size, and the middle of its long side.
      "inside": the whole frame at its true shape; the images are as large as
      fits into the size, and all of the shape of the first frame.

  Returns:
    At least one frame. Two readings of a file are equal, and so are those with
    and without starts at key frames.

  Raises:
    BadVideoError: no frame can be decoded, or all would need over 4 GiB.
    errors.UserError: av is not installed.
  """
  timeline = Timeline(path)
  try:
    return _read(timeline, sampling, size, fit, may_skip=True)
  except _UnreliableIndexError:
    return _read(timeline, sampling, size, fit, may_skip=False)


def read_every_frame_of(
  path: str, sampling: Sampling, size: tuple[int, int], fit: str = "stretch"
) -> DecodedVideo:
  """`read_video`, by decoding everything; for comparisons."""
  return _read(Timeline(path), sampling, size, fit, may_skip=False)


@dataclasses.dataclass
class _Frame:
  """A decoded frame and its timestamp, in the stream's time base."""

  frame: Any
  timestamp: int


class _Decoder:
  """Decodes frames in the order of presentation.

  Args:
    container: an open file, to be read from its beginning.
    stream: its video stream.

  Attributes:
    length: the usual time between two frames, in the stream's time base.
    num_damaged: packets that could not be decoded.
    is_in_order: whether each frame was whole and had a later time than the one
      before.
  """

  def __init__(self, container, stream):
    # Several videos are decoded at the same time, which is faster than several
    # threads for one, and such a thread holds frames of its own.
    stream.codec_context.thread_count = 1
    self.length = frame_length(stream)
    self.num_damaged = 0
    self.is_in_order = True
    self._container = container
    self._stream = stream
    self._by_dts = has_no_presentation_times(container)
    self._delay: int | None = None
    self._frames = self._decode()

  def _decode(self) -> Generator[_Frame, None, None]:
    """All frames from the current position on."""
    first_dts = last = None
    packets = self._container.demux(self._stream)
    while True:
      try:
        packet = next(packets, None)
      except ffmpeg_errors():  # it breaks off; Timeline notes it
        return
      if packet is None:
        return
      first_dts = packet.dts if first_dts is None else first_dts
      try:
        decoded = packet.decode()
      except ffmpeg_errors():
        self.num_damaged += 1
        continue
      for frame in decoded:
        timestamp = frame.pts
        if timestamp is None or self._by_dts:
          timestamp = self._time_of_decoding(frame, first_dts)
        if timestamp is None:
          timestamp = 0 if last is None else last + self.length
        if frame.is_corrupt or (last is not None and timestamp <= last):
          self.is_in_order = False
        last = timestamp
        yield _Frame(frame, timestamp)

  def _time_of_decoding(self, frame, first_dts: int | None) -> int | None:
    """Stands for a presentation time; None if there is none.

    Frames come out of the decoder at a constant delay, in the order in which
    they are shown. The first one is shown when the first packet is decoded.
    """
    if frame.dts is None or first_dts is None:
      return None
    if self._delay is None:
      self._delay = frame.dts - first_dts
    return frame.dts - self._delay

  def next(self) -> _Frame | None:
    """The next frame; None at the end."""
    return next(self._frames, None)

  def start_before(self, moment: int, keys: list[int]) -> _Frame:
    """Starts at a key frame that is not after a moment.

    Args:
      moment: a timestamp.
      keys: those of the last key frames up to it, ascending, see `Timeline`.

    Returns:
      The key frame; `next` returns the one after it.

    Raises:
      _UnreliableIndexError: there is none where the file's index says so.
    """
    # A key frame that is decoded before the moment may be shown after it.
    for target in (moment, *(key - 1 for key in reversed(keys))):
      found = self._start(target)
      if found is not None and found.timestamp <= moment:
        return found
    raise _UnreliableIndexError

  def _start(self, target: int) -> _Frame | None:
    """Goes to the key frame before a timestamp; None: there is none."""
    self._frames.close()
    try:
      self._container.seek(target, stream=self._stream)
    except ffmpeg_errors():
      return None
    self._frames = self._decode()
    # Frames shown before the key frame but stored after it may depend on what
    # was skipped.
    found = self.next()
    while found is not None and not found.frame.key_frame:
      found = self.next()
    return found


def _read(
  timeline: Timeline, sampling, size, fit, may_skip: bool
) -> DecodedVideo:
  """See `read_video`; `may_skip`: whether to start at key frames."""
  with open_media(timeline.path) as container:
    stream = video_stream(container)
    base = stream.time_base or fractions.Fraction(1, 1000)
    decoder = _Decoder(container, stream)
    first = decoder.next()
    if first is None:
      raise BadVideoError(
        timeline.note or "has a video stream of which no frame can be decoded"
      )
    end = max(first.timestamp, timeline.end or first.timestamp)
    duration = _seconds(end - first.timestamp, base)
    count = sampling.count(duration)
    if fit == "inside":
      size = size_inside(first.frame, size, stream.sample_aspect_ratio)
      fit = "stretch"
    if count * size[0] * size[1] * 3 > _MOST_BYTES:
      raise BadVideoError(
        f"has {duration:.0f} s, of which {count} frames of"
        f" {size[0]} x {size[1]} would need over {_MOST_BYTES >> 30} GiB of"
        " memory; take fewer"
      )
    times = sampling.times(duration)
    images = np.empty((count, *size, 3), np.uint8)
    frame_times = np.empty(count)
    convert = Converter(size, fit, stream.sample_aspect_ratio)
    keys = timeline.keys if may_skip else []
    taken = None
    frames = _frames_at(decoder, first, times, base, keys)
    for index, found in enumerate(frames):
      if found is taken:
        images[index] = images[index - 1]
      else:
        images[index] = _converted(found.frame, convert)
      taken = found
      frame_times[index] = _seconds(found.timestamp - first.timestamp, base)
  note = timeline.note
  if keys and (decoder.num_damaged or not decoder.is_in_order):
    raise _UnreliableIndexError
  if decoder.num_damaged:
    damaged = f"{decoder.num_damaged} damaged packets were left out"
    note = f"{note}; {damaged}" if note else damaged
  return DecodedVideo(images, times, frame_times, duration, note)


def _converted(frame, convert: Converter) -> np.ndarray:
  """The image of a frame.

  Raises:
    BadVideoError: its size or pixels are of no kind that FFmpeg converts.
  """
  try:
    return convert(frame)
  except ffmpeg_errors() as error:
    raise BadVideoError(
      f"has frames of {frame.width} x {frame.height} {frame.format.name} that"
      f" cannot be converted: {reason_of(error)}"
    ) from error


def _seconds(difference: int, base: fractions.Fraction) -> float:
  """A difference of timestamps in seconds, rounded once."""
  return difference * base.numerator / base.denominator


def _frames_at(
  decoder: _Decoder,
  first: _Frame,
  times: np.ndarray,
  base: fractions.Fraction,
  keys: list[int],
) -> Iterator[_Frame]:
  """The frame of each moment.

  Args:
    decoder: has just given the first frame.
    first: this frame.
    times: the moments, ascending, in seconds after the first frame.
    base: of timestamps, in seconds.
    keys: timestamps of key frames; empty: decode everything.

  Raises:
    _UnreliableIndexError: see `_Decoder.start_before`.
  """
  current, following = first, decoder.next()
  start_cost = _FRAMES_OF_A_START * max(1, decoder.length)
  for time in times.tolist():
    moment = first.timestamp + math.floor(fractions.Fraction(time) / base)
    place = bisect.bisect_right(keys, moment) - 1
    if (
      place >= 0
      and following is not None
      and keys[place] > following.timestamp + start_cost
    ):
      reached = following.timestamp
      current = decoder.start_before(
        moment, keys[max(0, place - 1) : place + 1]
      )
      following = decoder.next()
      if current.timestamp <= reached:
        keys = []  # starts do not lead forward
    while (
      following is not None
      and _seconds(following.timestamp - first.timestamp, base) <= time
    ):
      current, following = following, decoder.next()
    yield current
