"""From video files to features: the settings, and one video after another.

Worker processes decode the next videos while the encoder runs in this process.
An encoder gets batches of one video only: its numbers depend, in their last
bits, on what else is in a batch, and so a video has the same ones wherever it
stands in a list and however a list is divided.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

import numpy as np

import errors
from media import decoding, encoders, frames

VISUAL = "rgb"
SOUND = "audio"
"""The names of the features, as in YouTube-8M."""


@dataclasses.dataclass(frozen=True)
class Extraction:
  """All that decides what numbers a video has.

  Attributes:
    encoder: see encoders.make_encoder.
    encoder_weights: file of its weights; empty for the encoder's own.
    pca_dir: folder of YouTube-8M's PCA; empty for none.
    frames_per_second: see frames.Sampling.
    num_frames: likewise.
    max_frames: likewise.
    audio: "vggish", or empty for no feature of the sound.
    audio_weights: its checkpoint.
    audio_pca: its PCA parameters; empty for none.
  """

  encoder: str
  encoder_weights: str = ""
  pca_dir: str = ""
  frames_per_second: float = 1.0
  num_frames: int = 0
  max_frames: int = 0
  audio: str = ""
  audio_weights: str = ""
  audio_pca: str = ""

  @classmethod
  def from_dict(
    cls, settings: dict, source: str = "the settings of an extraction"
  ) -> "Extraction":
    """The extraction of settings that may hold more than its own.

    Args:
      settings: values by name.
      source: where they are from, for messages.

    Raises:
      errors.UserError: one is missing, as of another version, or of another
        type.
    """
    fields = dataclasses.fields(cls)
    try:
      made = cls(**{field.name: settings[field.name] for field in fields})
    except KeyError as error:
      names = ", ".join(field.name for field in fields)
      raise errors.UserError(
        f"Expected {names} in {source}, received none for {error.args[0]}: they"
        " are of another version. Extract the features again."
      ) from error
    for name, kind in get_type_hints(cls).items():
      value = getattr(made, name)
      if type(value) not in ((int, float) if kind is float else (kind,)):
        raise errors.UserError(
          f"Expected the type {kind.__name__} as {name} in {source}, received"
          f" {type(value).__name__}. Extract the features again."
        )
    return made

  def to_dict(self) -> dict:
    """The settings as JSON holds them."""
    return dataclasses.asdict(self)

  @property
  def files(self) -> list[str]:
    """The files and folders that encoders read; empty texts for none."""
    return [
      *(self.encoder_weights, self.pca_dir),
      *(self.audio_weights, self.audio_pca),
    ]

  @property
  def sampling(self) -> frames.Sampling:
    """Which frames to take."""
    return frames.Sampling(
      frames_per_second=self.frames_per_second,
      num_frames=self.num_frames,
      max_frames=self.max_frames,
    )


@dataclasses.dataclass
class Extracted:
  """What was made of a video.

  Attributes:
    arrays: (frames, numbers) float32 or uint8 for each feature, equally many
      frames.
    times: (frames,) float64, seconds from the video's start.
    duration: seconds.
    has_sound: whether the video has sound; without, an audio feature is silent.
    note: what is missing or damaged, in one line; else empty.
  """

  arrays: dict[str, np.ndarray]
  times: np.ndarray
  duration: float
  has_sound: bool = True
  note: str = ""


class Extractor:
  """Makes features of videos.

  Args:
    extraction: the settings.
    batch_size: frames that the encoder takes at once.
    num_workers: processes that decode; None: one for each CPU core.

  Attributes:
    takes_sound: whether there is a feature of the sound.
    waiting_seconds: spent waiting for decoded frames so far.
    encoding_seconds: spent in the encoders so far.

  Raises:
    errors.UserError: an encoder is not there; says what to install or fetch.
  """

  def __init__(
    self,
    extraction: Extraction,
    *,
    batch_size: int = 32,
    num_workers: int | None = None,
  ):
    self._extraction = extraction
    self._num_workers = num_workers
    self._encoder = encoders.make_encoder(
      extraction.encoder,
      encoder_weights=extraction.encoder_weights,
      pca_dir=extraction.pca_dir,
    )
    self._encoder.batch_size = batch_size
    self.takes_sound = bool(extraction.audio)
    self._sound_encoder: Any = None
    if extraction.audio:
      from media import audio

      self._sound_encoder = audio.Vggish(
        extraction.audio_weights, extraction.audio_pca
      )
    self.waiting_seconds = 0.0
    self.encoding_seconds = 0.0

  def extract(
    self, paths: Sequence[str]
  ) -> Iterator[tuple[str, Extracted | frames.BadVideoError]]:
    """Makes the features of videos, in their order.

    Yields:
      (path, what was made of it, or why nothing was).
    """
    began = time.monotonic()
    decoded = decoding.decode_all(
      paths,
      self._extraction.sampling,
      self._encoder.image_size,
      self._encoder.fit,
      with_audio=self.takes_sound,
      num_workers=self._num_workers,
    )
    for path, video, *sound in decoded:
      received = time.monotonic()
      self.waiting_seconds += received - began
      if isinstance(video, frames.BadVideoError):
        result = video
      else:
        try:
          result = self._encode(video, *sound)
        except encoders.BadFeaturesError as error:
          result = frames.BadVideoError(str(error))
      self.encoding_seconds += time.monotonic() - received
      yield path, result
      began = time.monotonic()

  def _encode(self, video: frames.DecodedVideo, samples) -> Extracted:
    """The features of a decoded video."""
    arrays = {VISUAL: self._encoder.encode(video.images)}
    if self.takes_sound:
      sound = self._sound_encoder
      arrays[SOUND] = (
        sound.no_sound(len(video.times))
        if samples is None
        else sound.encode(samples, video.times)
      )
    return Extracted(
      arrays,
      video.times,
      video.duration,
      samples is not None,
      video.note,
    )


def stamp_of(path: str) -> str:
  """What changes when a file is replaced; empty for one that is not there."""
  try:
    status = os.stat(path)
  except OSError:
    return ""
  return f"{status.st_size} bytes, {int(status.st_mtime)}"
