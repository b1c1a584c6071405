"""Opens media files for FFmpeg, through PyAV, and says why they cannot be."""

import os
from typing import Any

import errors

# Formats of text that FFmpeg would draw as a video.
_TEXT_FORMATS = {"adf", "bin", "idf", "tty", "xbin"}


class BadVideoError(Exception):
  """A file cannot be used as a video; the text is the reason, in one line."""


def import_av() -> Any:
  """The package av.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    import av
  except ImportError as error:
    raise errors.UserError(
      f"Expected the package av, which reads videos, received: {error}. Install"
      " it with: pip install -r requirements/videos.txt"
    ) from error
  return av


def ffmpeg_errors() -> tuple:
  """What PyAV raises for files that FFmpeg cannot read or decode."""
  from av.error import FFmpegError

  # IndexError: of a stream that begins in the middle of a file.
  return FFmpegError, OSError, ValueError, IndexError


def open_media(path: str):
  """Opens a file for FFmpeg.

  Args:
    path: of a local file. What is in it can name other files and addresses;
      only local files are followed.

  Returns:
    A container of PyAV, to be closed.

  Raises:
    BadVideoError: the file is missing, empty or of an unknown format.
  """
  av = import_av()
  try:
    size = os.path.getsize(path)
    if not os.path.isfile(path):
      raise BadVideoError("is a folder or device, not a file")
    if not size:
      raise BadVideoError("is empty")
    # With its protocol, a name may have colons in it.
    container = av.open(
      f"file:{path}",
      container_options={"protocol_whitelist": "file"},
      metadata_errors="replace",  # titles may be of any encoding
    )
  except ffmpeg_errors() as error:
    raise BadVideoError(f"cannot be opened: {reason_of(error)}") from error
  if container.format.name in _TEXT_FORMATS:
    container.close()
    raise BadVideoError("is text, not a video")
  return container


def reason_of(error: BaseException) -> str:
  """FFmpeg's or the system's words for an error, in one line."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return " ".join(text.split())


def video_stream(container):
  """The first video stream that is no cover picture.

  Raises:
    BadVideoError: there is none, or no decoder for it.
  """
  from av.stream import Disposition

  pictures = Disposition.attached_pic
  streams = [
    stream
    for stream in container.streams.video
    if not stream.disposition & pictures
  ]
  if not streams:
    kinds = sorted({stream.type for stream in container.streams})
    raise BadVideoError(f"has no video stream, only {', '.join(kinds) or '-'}")
  usable = [stream for stream in streams if stream.codec_context is not None]
  if not usable:
    raise BadVideoError("has a video stream of an unknown codec")
  return usable[0]
