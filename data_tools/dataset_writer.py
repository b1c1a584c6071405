"""Writes a data set to a folder: records, class names, card and report.

The folder is written under another name and renamed when it is whole, so that a
program that is stopped leaves nothing half done.
"""

import collections
import contextlib
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import errors
from data_tools import croissant
from data_tools.item_table import BadItemError, Item, ItemTable
from data_tools.number_stores import STORES
from data_tools.splits import hashes_of
from engine import csv_cells, files
from engine.dataset_card import (
  SPLITS,
  VOCABULARY_FILE,
  DatasetCard,
)
from engine.progress_bar import Progress
from records.writing import RecordWriter, frame_record, video_record

REPORT_FILE = "import_report.csv"
FAILED_REPORT = "{output_dir}." + REPORT_FILE
"""The list of what was left out, if this is too much to make the data set."""

_SHARD_BYTES = 64 << 20
_MOST_SIDE_BY_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Options:
  """How to write a data set.

  Attributes:
    store: one of number_stores.STORES.
    seed: decides the order of the videos.
    max_bad_fraction: the largest part of the items that may be left out.
    made_by: what dataset.json says about the origin.
    in_order: whether to read the items in their order, because this is much
      faster. Several files of each split are then written side by side, so that
      each holds a random part of the videos.
    extraction: likewise, the settings with which the features were made.
    folders: {name in the data set: folder to copy there}.
    left_out: (id, path, reason) of files to list in the report that are no
      items, and so do not count as unusable.
  """

  store: str
  seed: int
  max_bad_fraction: float
  made_by: dict
  in_order: bool = False
  extraction: dict = dataclasses.field(default_factory=dict)
  folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  left_out: Sequence[tuple[str, str, str]] = ()


@dataclasses.dataclass
class Report:
  """What was written.

  Attributes:
    card: the content of dataset.json.
    class_counts: of each split how many videos each class has.
    bad_items: (id, file, reason) of what was left out.
    num_frames: written.
    num_bytes: written.
    storage_errors: lines that say how much the stored numbers differ from the
      given ones.
    seconds: it took.
  """

  card: DatasetCard
  class_counts: dict[str, collections.Counter]
  bad_items: list[tuple[str, str, str]]
  num_frames: int = 0
  num_bytes: int = 0
  storage_errors: Sequence[str] = ()
  seconds: float = 0.0


REPORT_COLUMNS = ("id", "path", "reason")
"""Of write_report."""


class _Shards:
  """Writes the records of a split to files of limited size.

  Attributes:
    num_videos: written.
    num_files: begun.
    num_bytes: written.
  """

  def __init__(self, folder: str, split: str):
    self.num_videos = self.num_files = self.num_bytes = 0
    self._folder, self._split = folder, split
    self._writers: list[RecordWriter | None] = [None]

  def mix(self, number: int) -> None:
    """Writes some files side by side from now on.

    Args:
      number: of files; no more than a process may have open.
    """
    self._writers = [None] * max(1, min(number, _MOST_SIDE_BY_SIDE))

  def write(self, record: bytes, number: int) -> None:
    """Adds a record.

    Args:
      record: its bytes.
      number: decides which of the files side by side gets it.
    """
    lane = number % len(self._writers)
    writer = self._writers[lane]
    if writer is None or writer.num_bytes > _SHARD_BYTES:
      if writer is not None:
        writer.close()
      name = f"{self._split}{self.num_files:04d}.tfrecord"
      writer = RecordWriter(os.path.join(self._folder, name))
      self._writers[lane] = writer
      self.num_files += 1
    self.num_bytes -= writer.num_bytes
    writer.write(record)
    self.num_bytes += writer.num_bytes
    self.num_videos += 1

  def close(self) -> None:
    """Closes the files."""
    for writer in self._writers:
      if writer is not None:
        writer.close()


class DatasetWriter:
  """Writes the items of a data set.

  Args:
    items: of which those with a problem are left out.
    splits: of each item.
    classes: names of the classes, in the order of their indices.
    read: returns an item's arrays by feature, all of one form, see
      embedding_items.ArrayReader.
    options: how. To be stored as uint8, each item is read twice.
  """

  def __init__(
    self,
    items: Sequence[Item],
    splits: Sequence[str],
    classes: Sequence[str],
    read: Callable[[Item], dict[str, np.ndarray]],
    options: Options,
  ):
    self._items = items
    self._splits = splits
    self._classes = classes
    self._index_of = {name: index for index, name in enumerate(classes)}
    self._read = read
    self._options = options
    self._store = STORES[options.store]()
    self._form: dict[str, np.ndarray] = {}
    self._done = 0
    self._began = self._began_writing = time.monotonic()
    self._progress = Progress("Wrote")
    self.report = Report(
      DatasetCard(
        frame_features=False,
        feature_names=[],
        feature_sizes=[],
        feature_dtypes=[],
        num_classes=len(classes),
        splits={},
        made_by=options.made_by,
        extraction=options.extraction,
      ),
      {split: collections.Counter() for split in SPLITS},
      [],
    )

  def write(self, output_dir: str) -> Report:
    """Writes everything to a new folder.

    Raises:
      errors.UserError: too many items cannot be used, or none can; the folder
        holds something.
      OSError: it cannot be written.
    """
    target = files.free_folder(output_dir)
    # Each of two starts for one folder has its own.
    with files.beside(target) as partial:
      os.mkdir(partial)
      try:
        if self._store.needs_ranges:
          self._measure()
        self._write_records(partial)
        self._progress.end()
        self._check(target)
        self._finish(partial, os.path.basename(target))
      finally:
        self._progress.end()
      files.free_folder(output_dir)
      files.put_in_place(partial, target)
    self.report.seconds = time.monotonic() - self._began
    return self.report

  def _measure(self) -> None:
    """Reads all items once, for the ranges of their numbers."""
    self._progress = Progress("Measured")
    for number, item in enumerate(self._items, 1):
      if self._progress.is_due():
        self._progress.show(
          number / len(self._items), f"{number} of {len(self._items)} videos"
        )
      # Those that cannot be used are listed when they are to be written.
      with contextlib.suppress(BadItemError):
        self._store.measure(self._read(item))
    self._progress.end()
    self._progress = Progress("Wrote")
    self._began_writing = time.monotonic()

  def _write_records(self, folder: str) -> None:
    """Writes the shards of all splits, their videos in no order."""
    if isinstance(self._items, ItemTable):
      ids = self._items.ids
    else:
      ids = [item.video_id for item in self._items]
    hashes = hashes_of(self._options.seed, ids)
    order = range(len(self._items))
    if not self._options.in_order:
      order = np.argsort(hashes, kind="stable").tolist()
    with contextlib.ExitStack() as stack:
      shards = {split: _Shards(folder, split) for split in SPLITS}
      for of_split in shards.values():
        stack.callback(of_split.close)
      for index in order:
        split = self._splits[index]
        record = self._record_of(self._items[index], split)
        if record is None:
          continue
        if self._options.in_order and not shards[split].num_videos:
          expected = self._splits.count(split) * len(record)
          shards[split].mix(math.ceil(expected / _SHARD_BYTES))
        shards[split].write(record, int(hashes[index]))
    for split, of_split in shards.items():
      self.report.num_bytes += of_split.num_bytes
      if of_split.num_videos:
        self.report.card.splits[split] = {
          "videos": of_split.num_videos,
          "files": of_split.num_files,
        }

  def _record_of(self, item: Item, split: str) -> bytes | None:
    """The record of an item; None for one that is left out."""
    self._done += 1
    if self._progress.is_due():
      rate = self._done / (time.monotonic() - self._began_writing)
      self._progress.show(
        self._done / len(self._items),
        f"{self._done} of {len(self._items)} videos, {rate:.0f} a second,"
        f" {len(self.report.bad_items)} left out",
      )
    try:
      arrays = self._store.convert(self._read(item))
    except BadItemError as error:
      path = next(iter(item.paths.values()))
      self.report.bad_items.append((item.video_id, path, str(error)))
      return None
    self._form = self._form or arrays
    labels = sorted({self._index_of[name] for name in item.labels})
    self.report.class_counts[split].update(labels)
    video_id = item.video_id.encode()
    first = next(iter(arrays.values()))
    if first.ndim == 1:
      return video_record(video_id, labels, arrays)
    self.report.num_frames += len(first)
    return frame_record(video_id, labels, arrays)

  def _check(self, output_dir: str) -> None:
    """Checks that enough items could be used.

    Raises:
      errors.UserError: names the list of those that could not.
    """
    bad = self.report.bad_items
    allowed = self._options.max_bad_fraction * len(self._items)
    if self._form and len(bad) <= allowed:
      return
    listed = FAILED_REPORT.format(output_dir=output_dir)
    write_report(listed, [*bad, *self._options.left_out])
    video_id, path, reason = bad[0]
    raise errors.UserError(
      f"Expected at most {self._options.max_bad_fraction:.2%} of the items to"
      f" be unusable, received {len(bad)} of {len(self._items)}; the first is"
      f" {video_id} ({path}): {reason}. {listed} lists them. Correct them, or"
      " raise --max_bad_fraction."
    )

  def _finish(self, folder: str, name: str) -> None:
    """Writes what is beside the records of the data set of a name."""
    card = self.report.card
    arrays = self._form
    card.frame_features = next(iter(arrays.values())).ndim == 2
    card.feature_names = list(arrays)
    card.feature_sizes = [array.shape[-1] for array in arrays.values()]
    card.feature_dtypes = [array.dtype.name for array in arrays.values()]
    card.feature_ranges = self._store.ranges(arrays)
    if self._store.errors():
      card.made_by = {**card.made_by, "storage_errors": self._store.errors()}
    self.report.storage_errors = self._store.describe_errors()
    counts = self.report.class_counts["train"]
    rows = [
      (index, counts[index], name) for index, name in enumerate(self._classes)
    ]
    _write_csv(
      os.path.join(folder, VOCABULARY_FILE),
      [("Index", "TrainVideoCount", "Name"), *rows],
    )
    write_report(
      os.path.join(folder, REPORT_FILE),
      [*self.report.bad_items, *self._options.left_out],
    )
    for name, source in self._options.folders.items():
      shutil.copytree(source, os.path.join(folder, name))
    card.write(folder)
    croissant.write(folder, name, card)


def write_report(path: str, bad_items, spreadsheet_safe: bool = False) -> None:
  """Writes the list of the items that were left out.

  Args:
    path: of the CSV file.
    bad_items: (id, path, reason) of each.
    spreadsheet_safe: see csv_cells.cell.
  """
  rows = (REPORT_COLUMNS, *bad_items)
  _write_csv(path, rows, spreadsheet_safe)


def _write_csv(path: str, rows, spreadsheet_safe: bool = False) -> None:
  with files.text_written_aside(path) as file:
    for row in rows:
      file.write(csv_cells.line(row, spreadsheet_safe))
