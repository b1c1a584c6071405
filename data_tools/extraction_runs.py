"""Runs extractions with progress, to parts that are kept till they are used."""

import os
import time
from collections.abc import Iterable

from absl import logging

import errors
from engine.progress_bar import Progress
from media.extraction import Extracted, Extraction, Extractor
from media.frames import BadVideoError
from media.parts import PART_ENDING, Parts, extract_part

MOST_LISTED = 20
"""Files that a program names one by one."""


class Observer:
  """Shows the progress of an extraction, and says what fails.

  Args:
    total: number of videos.
  """

  def __init__(self, total: int):
    self._total = total
    self._done = self._bad = self._noted = self._silent = 0
    self._began = time.monotonic()
    self._progress = Progress("Extracted")

  def __call__(self, key: str, result: Extracted | BadVideoError) -> None:
    """Takes the result of a video."""
    self._done += 1
    if isinstance(result, BadVideoError):
      self._bad += 1
      if self._bad <= MOST_LISTED:
        logging.warning("%s: %s", key, result)
    else:
      self._silent += not result.has_sound
      self._noted += bool(result.note)
      if result.note and self._noted <= MOST_LISTED:
        logging.warning("%s: %s", key, result.note)
    if self._progress.is_due():
      self._progress.show(
        self._done / self._total,
        f"{self._done} of {self._total} videos, {self._rate:.1f} a second,"
        f" {self._bad} cannot be used",
      )

  @property
  def _rate(self) -> float:
    return self._done / max(time.monotonic() - self._began, 1e-9)

  def end(self, extractor: Extractor | None) -> None:
    """Logs how fast it was, and what bounds it.

    Args:
      extractor: what made the features; None if it did not get to its end.
    """
    self._progress.end()
    if not extractor or not self._done:
      return
    waiting, encoding = extractor.waiting_seconds, extractor.encoding_seconds
    share = waiting / max(waiting + encoding, 1e-9)
    bound = "decoding" if share > 0.5 else "the encoder"
    logging.info(
      "Extracted %d videos in %.1f s, %.2f a second, bounded by %s: the encoder"
      " waited for frames %.0f %% of the time. %d cannot be used.",
      self._done,
      time.monotonic() - self._began,
      self._rate,
      bound,
      100 * share,
      self._bad,
    )
    if extractor.takes_sound and self._silent:
      logging.info("Without sound, stored as silence: %d videos", self._silent)


def run_part(
  path: str,
  videos: dict[str, str],
  extraction: Extraction,
  *,
  num_workers: int | None,
  batch_size: int = 32,
) -> None:
  """Extracts videos to a part, with progress; see parts.extract_part.

  Args:
    path: of the part.
    videos: {key: path}.
    extraction: the settings.
    num_workers: processes that decode; None: one for each CPU.
    batch_size: frames that the encoder takes at once.
  """
  observer = Observer(len(videos))
  extractor = None
  try:
    extractor = extract_part(
      path,
      videos,
      extraction.to_dict(),
      lambda: Extractor(
        extraction,
        batch_size=batch_size,
        num_workers=num_workers,
      ),
      observer,
    )
  finally:
    observer.end(extractor)


def part_path(folder: str, number: int = 1, count: int = 1) -> str:
  """The path of one of several parts."""
  return os.path.join(folder, f"{number:05d}-of-{count:05d}{PART_ENDING}")


def open_parts(folder: str, keys: Iterable[str], settings: dict) -> Parts:
  """Opens the parts of a folder, and checks that they hold each video once.

  Raises:
    errors.UserError: one is missing or there twice.
  """
  parts = Parts(folder, settings)
  keys = list(keys)
  missing = [key for key in keys if key not in parts.entries]
  if missing:
    raise errors.UserError(
      f"Expected all {len(keys)} videos in the parts in {folder}, received"
      f" none for {len(missing)} of them, such as {missing[0]}. Start the parts"
      " again that have not ended, or leave --merge out to extract the rest."
    )
  return parts
