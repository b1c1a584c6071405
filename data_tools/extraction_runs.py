"""Runs extractions to parts that are kept till they are used.

One process extracts all videos, or each of many its part of them (--shard), or
workers of Ray do (--engine=ray). What is in the parts is the same.
"""

import collections
import dataclasses
import os
import time
from collections.abc import Iterable, Mapping

from absl import flags, logging

import errors
import program_flags
from data_tools import ray_engine
from data_tools.download_plan import Shard, part_of
from data_tools.item_table import BadItemError, Item
from engine.progress_bar import Progress
from media.extraction import Extracted, Extraction, Extractor
from media.frames import BadVideoError
from media.parts import PART_ENDING, Entry, Parts, extract_part

FLAGS = flags.FLAGS

MOST_LISTED = 20
"""Files that a program names one by one."""


def define_run_flags(
  devices: program_flags.Subject, condition: str = ""
) -> None:
  """Defines the flags that say which processes extract.

  Args:
    devices: the subject to define them in.
    condition: what their texts begin with.
  """
  devices.integer(
    "num_workers",
    None,
    f"{condition}Processes that decode videos; default: one for each CPU. With"
    " --engine=ray: those of each worker of Ray; default: 1, or with a GPU its"
    " share of the CPUs.",
    lower_bound=1,
  )
  devices.string(
    "shard",
    "",
    f"{condition}i,n: extract only the i-th of n parts of the videos, for many"
    " machines; --merge combines them.",
  )
  devices.bool(
    "merge",
    False,
    f"{condition}Extract nothing; combine what all parts have extracted, after"
    " checking that no video is missing.",
  )
  devices.enum(
    "engine",
    "local",
    ["local", "ray"],
    f"{condition}What runs the extraction: this process, or Ray on many"
    " machines, see docs/many_machines.md.",
  )
  devices.string(
    "ray_address",
    "",
    "With --engine=ray: address of a cluster, HOST:PORT; empty: Ray is started"
    " on this machine.",
  )


@dataclasses.dataclass(frozen=True)
class Processes:
  """Which processes extract.

  Attributes:
    shard: this one, a part of the videos; None for all.
    merge: none, it was done.
    engine: "local" for this one, or "ray".
    ray_address: of a cluster; empty for this machine.
    num_workers: processes that decode, for each that encodes; None for the
      engine's choice.
  """

  shard: Shard | None = None
  merge: bool = False
  engine: str = "local"
  ray_address: str = ""
  num_workers: int | None = None

  @classmethod
  def from_flags(cls) -> "Processes":
    """What the flags name.

    Raises:
      errors.UserError: they do not go together.
    """
    typed = {
      "--shard": FLAGS.shard,
      "--merge": FLAGS.merge,
      "--engine=ray": FLAGS.engine == "ray",
    }
    names = [name for name, value in typed.items() if value]
    if len(names) > 1:
      raise errors.UserError(
        f"Expected one of --shard, --merge and --engine=ray, received"
        f" {' and '.join(names)}. Extract each part by --shard, then combine"
        " them by --merge; or extract all by --engine=ray."
      )
    if FLAGS.ray_address and FLAGS.engine != "ray":
      raise errors.UserError(
        f"Expected --engine=ray with --ray_address={FLAGS.ray_address},"
        f" received --engine={FLAGS.engine}."
      )
    return cls(
      Shard.parse(FLAGS.shard) if FLAGS.shard else None,
      FLAGS.merge,
      FLAGS.engine,
      FLAGS.ray_address,
      FLAGS.num_workers,
    )


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


def _left(
  videos: Iterable[tuple[str, str]], entries: Mapping[str, Entry], own: str
) -> dict[str, str]:
  """The videos that are for a part, since no other part has them.

  Args:
    videos: (key, path).
    entries: of all parts.
    own: the path of the part. What it has is left to extract_part, which
      verifies it.
  """
  return {
    key: path
    for key, path in videos
    if key not in entries or entries[key].problem or entries[key].path == own
  }


def divided(
  folder: str, videos: Mapping[str, str], entries: Mapping[str, Entry]
) -> list[tuple[str, dict[str, str]]]:
  """Divides videos among the parts of Ray's workers.

  Args:
    folder: of the parts.
    videos: {key: path}.
    entries: of the parts that are there.

  Returns:
    The path of each part, and the videos that are for it, at least one.
  """
  count = ray_engine.num_parts(len(videos))
  groups = collections.defaultdict(list)
  for key, path in videos.items():
    groups[part_of(key, count)].append((key, path))
  parts = []
  for number in sorted(groups):
    path = part_path(folder, number, count)
    if left := _left(groups[number], entries, path):
      parts.append((path, left))
  return parts


def read_extracted(item: Item, key: str, parts: Parts) -> Extracted:
  """What was made of a video.

  Args:
    item: the video.
    key: of it in the parts, see extract.
    parts: result of extract.

  Raises:
    BadItemError: nothing was.
  """
  problem = item.problem or parts.entries[key].problem
  if problem:
    raise BadItemError(problem)
  return parts.read(key)


def extract(
  folder: str,
  videos: dict[str, str],
  extraction: Extraction,
  processes: Processes,
  *,
  batch_size: int = 32,
) -> Parts | None:
  """Extracts videos to parts in a folder; goes on with those that are there.

  Args:
    folder: of the parts; made if it is missing.
    videos: {key: path}.
    extraction: the settings.
    processes: which extract.
    batch_size: frames that an encoder takes at once.

  Returns:
    All of them; None if this process had to extract a part only.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  settings = extraction.to_dict()
  shard, num_workers = processes.shard, processes.num_workers
  if shard:
    own = {key: path for key, path in videos.items() if shard.keeps(key)}
    run_part(
      part_path(folder, shard.number, shard.count),
      own,
      extraction,
      num_workers=num_workers,
      batch_size=batch_size,
    )
    print(
      f"Part {shard.number} of {shard.count} is complete: {len(own)} of"
      f" {len(videos)} videos, in {folder}. When all parts are, combine them"
      " with the same command with --merge instead of --shard."
    )
    return None
  if not processes.merge:
    entries = Parts(folder, settings).entries
    before = sum(not entry.problem for entry in entries.values())
    if before:
      logging.info("Going on: %d videos are in %s already.", before, folder)
    if processes.engine == "ray":
      ray_engine.extract_on_ray(
        divided(folder, videos, entries),
        extraction,
        address=processes.ray_address,
        num_workers=num_workers,
        batch_size=batch_size,
      )
    else:
      run_part(
        part_path(folder),
        _left(videos.items(), entries, part_path(folder)),
        extraction,
        num_workers=num_workers,
        batch_size=batch_size,
      )
  if processes.engine == "ray":
    return open_parts(folder, videos, settings, _AFTER_RAY)
  return open_parts(folder, videos, settings)


_AFTER_SHARDS = (
  "Start the parts again that have not ended, or leave --merge out to extract"
  " the rest."
)
_AFTER_RAY = (
  "Their workers died each time, perhaps for want of memory. What was extracted"
  " is kept; take these videos out, or start again to extract the rest."
)


def open_parts(
  folder: str,
  keys: Iterable[str],
  settings: dict,
  advice: str = _AFTER_SHARDS,
) -> Parts:
  """Opens the parts of a folder, and checks that they hold each video once.

  Args:
    folder: of the parts.
    keys: of all videos.
    settings: of the extraction.
    advice: for videos that are missing.

  Raises:
    errors.UserError: one is missing or there twice.
  """
  parts = Parts(folder, settings)
  keys = list(keys)
  missing = [key for key in keys if key not in parts.entries]
  if missing:
    raise errors.UserError(
      f"Expected all {len(keys)} videos in the parts in {folder}, received"
      f" none for {len(missing)} of them, such as {missing[0]}. {advice}"
    )
  return parts
