"""Finds out when a video ends and where decoding can start."""

import contextlib
import math

from media.opening import ffmpeg_errors, open_media, reason_of, video_stream

# Formats whose index says where each key frame is. In AVI there are only
# decoding times, which are presentation times if no frame is reordered.
_INDEXED_FORMATS = {"mov", "matroska", "avi"}

# Headers of whole files are so many seconds from the truth.
_ROUNDING = 1.0


class Timeline:
  """When a video ends and where its key frames are, without decoding it.

  Args:
    path: a local file.

  Attributes:
    path: of the file.
    keys: the timestamps of key frames in the file's index, ascending; in the
      stream's time base. Some formats give decoding times, which are somewhat
      earlier than presentation times.
    end: the timestamp where the last frame ends.
    note: where the file breaks off; empty if it does not.

  Raises:
    BadVideoError: the file cannot be opened or has no video.
  """

  def __init__(self, path: str):
    self.path = path
    self.note = ""
    self.keys: list[int] = []
    self._last_indexed = -math.inf
    with open_media(path) as container:
      stream = video_stream(container)
      end = None
      if self._has_index(container, stream):
        self._read_index(container, stream)
        end = self._end_after_last_key(container, stream)
      base = stream.time_base or 0
      is_short = end is None or _missing(container, end * base) > _ROUNDING
    if is_short:
      is_complete = end is not None or not self.keys
      with open_media(path) as container:
        stream = video_stream(container)
        last = self._end_of_all(container, stream, is_complete)
      if end is None:
        self.keys, end = [], last
    self.end = end

  def _has_index(self, container, stream) -> bool:
    """Whether the index of this format can be relied on."""
    names = set(container.format.name.split(","))
    if has_no_presentation_times(container):
      return not stream.codec_context.has_b_frames
    return bool(names & _INDEXED_FORMATS)

  def _read_index(self, container, stream) -> None:
    """Finds the key frames that the file lists."""
    if "matroska" in container.format.name:
      # The index is at the end of the file and read when it is needed.
      with contextlib.suppress(*ffmpeg_errors()):
        container.seek(0, stream=stream)
    for entry in stream.index_entries:
      self._last_indexed = max(self._last_indexed, entry.timestamp)
      if entry.is_keyframe and not entry.is_discard:
        self.keys.append(entry.timestamp)
    self.keys.sort()

  def _end_after_last_key(self, container, stream) -> int | None:
    """The end, from the frames behind the last key frame of the index.

    Returns:
      None if the file does not hold all that the index lists.
    """
    if not self.keys:
      return None
    last_read, end = -math.inf, None
    try:
      container.seek(self.keys[-1], stream=stream)
      for packet in container.demux(stream):
        if packet.is_corrupt:
          return None
        # The index has decoding or presentation times.
        for timestamp in (packet.dts, packet.pts):
          if timestamp is not None:
            last_read = max(last_read, timestamp)
        end = _later(end, _end_of(packet, stream))
    except ffmpeg_errors():
      return None
    return end if last_read >= self._last_indexed else None

  def _end_of_all(self, container, stream, is_complete: bool) -> int | None:
    """The end, from all packets; notes whether the file breaks off.

    Args:
      container: the file, open.
      stream: its video stream.
      is_complete: False if the file is known to lack something.
    """
    end, last, problem, num_packets = None, 0.0, "", 0
    try:
      for packet in container.demux():
        its = packet.stream
        num_packets += bool(packet.size and its.index == stream.index)
        packet_end = _end_of(packet, its)
        if packet_end is None:
          continue
        last = max(last, float(packet_end * its.time_base))
        if its.index == stream.index:
          end = _later(end, packet_end)
    except ffmpeg_errors() as error:
      problem = reason_of(error)
    missing = _missing(container, last)
    if problem or missing > (_ROUNDING if is_complete else 0):
      self.note = f"breaks off after {last:.1f} s"
      if missing > 0:
        self.note += f" of {last + missing:.1f} s"
      if problem:
        self.note += f" ({problem})"
    # Frames of a file without times follow each other from 0 on.
    return num_packets * frame_length(stream) if end is None else end


def has_no_presentation_times(container) -> bool:
  """Whether a file has only times of decoding; FFmpeg guesses the others."""
  return container.format.name == "avi"


def _missing(container, end) -> float:
  """How many seconds a file ends before its header says."""
  declared = (container.start_time or 0) + (container.duration or 0)
  return declared / 1e6 - float(end)


def _later(one: int | None, other: int | None) -> int | None:
  """The later of two timestamps, of which either may be missing."""
  if one is None or other is None:
    return other if one is None else one
  return max(one, other)


def frame_length(stream) -> int:
  """The usual time between two frames, in the stream's time base."""
  rate = getattr(stream, "average_rate", None)
  if not rate or not stream.time_base:
    return 0
  return round(1 / (rate * stream.time_base))


def _end_of(packet, stream) -> int | None:
  """The timestamp where a packet's frame ends; None if it has no time."""
  begin = packet.pts
  if begin is None or has_no_presentation_times(stream.container):
    begin = packet.dts
  if begin is None or packet.is_discard:  # discarded: never shown
    return None
  return begin + (packet.duration or frame_length(stream))
