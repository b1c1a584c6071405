"""The order in which the examples of a data set are read, and places in it.

The order is a pure function of a seed. In each epoch, the shards come in an
order of the epoch's own, some at a time: these are a window, whose examples are
permuted. A place says how much of this has been read: the epoch, the window and
the examples of that window. So a run that is resumed computes where to go on,
and reads nothing to get there; and as the order is one for all machines, which
take turns, their number may change on the way.

What is handed on is a table with a row for each example, see `Column`.
"""

import concurrent.futures
import dataclasses
import enum
import os
from collections.abc import Callable, Iterator

import numpy as np

from records import shards


class Column(enum.IntEnum):
  """The columns of a table of examples, which is (examples, 5) int64."""

  FILE = 0  # index of the file
  NUMBER = 1  # of the record in the file
  OFFSET = 2  # where the record begins
  LENGTH = 3  # bytes of its data
  EXAMPLE = 4  # which example of the record, 0 except for segments


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a run is in the order of its data.

  Attributes:
    epoch: epochs that were read.
    window: windows of this epoch that were read.
    offset: examples of this window that were read.
  """

  epoch: int = 0
  window: int = 0
  offset: int = 0


BEGINNING = Place()


@dataclasses.dataclass(frozen=True)
class Window:
  """A part of an epoch.

  Attributes:
    examples: its table, in order.
    lost_records: about how many records its shards held after damaged lengths.
  """

  examples: np.ndarray
  lost_records: int


def _mix(numbers: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer: a bijection of uint64 that looks random.

  Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
  Generators" (OOPSLA 2014). NumPy's own generators may change with its version,
  and with them the order of a run that is resumed.
  """
  numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(
    0xBF58476D1CE4E5B9
  )
  numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(
    0x94D049BB133111EB
  )
  return numbers ^ (numbers >> np.uint64(31))


def permutation(length: int, *seeds: int) -> np.ndarray:
  """A permutation of 0 to length - 1 that depends on the seeds alone."""
  step = np.uint64(0x9E3779B97F4A7C15)
  state = np.zeros(1, np.uint64)
  for seed in seeds:
    state = _mix(state + step + np.array([seed % 2**64], np.uint64))
  keys = _mix(state + step * np.arange(1, length + 1, dtype=np.uint64))
  return np.argsort(keys, kind="stable")


class Order:
  """The order of the examples of files.

  Args:
    num_files: how many.
    open_file: function of a file's index that returns its walk, and how many
      examples each record has, (records,), or None for one each.
    seed: decides the order; None for the order of the files.
    window_shards: files in a window.
    record_bytes: mean size of a record, to say how many a damaged file lost.
  """

  def __init__(
    self,
    num_files: int,
    open_file: Callable[[int], tuple[shards.Walk, np.ndarray | None]],
    seed: int | None,
    window_shards: int,
    record_bytes: float = 1.0,
  ):
    self._num_files = num_files
    self._open_file = open_file
    self._seed = seed
    self._window_shards = window_shards
    self._record_bytes = record_bytes
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._windows: dict[tuple[int, int], concurrent.futures.Future] = {}

  @property
  def num_windows(self) -> int:
    """Windows of an epoch."""
    return -(-self._num_files // self._window_shards)

  def _table(self, file: int) -> tuple[np.ndarray, int]:
    """The examples of a file, and about how many records it has lost."""
    walk, counts = self._open_file(file)
    numbers = np.arange(len(walk))
    table = np.empty((len(walk), len(Column)), np.int64)
    table[:, Column.FILE] = file
    table[:, Column.NUMBER] = numbers
    table[:, Column.OFFSET] = walk.offsets[:-1]
    table[:, Column.LENGTH] = walk.lengths
    table[:, Column.EXAMPLE] = 0
    if counts is not None:
      table = np.repeat(table, counts, axis=0)
      first = np.cumsum(counts) - counts
      table[:, Column.EXAMPLE] = np.arange(len(table)) - np.repeat(
        first, counts
      )
    return table, walk.lost_records(self._record_bytes)

  def _make_window(self, epoch: int, window: int) -> Window:
    order = np.arange(self._num_files)
    if self._seed is not None:
      order = permutation(self._num_files, self._seed, epoch)
    begin = window * self._window_shards
    files = order[begin : begin + self._window_shards]
    # In the order of their names, so that the order of the records does not
    # depend on that of the files where a window has all of them.
    tables, lost = zip(*map(self._table, np.sort(files).tolist()), strict=True)
    examples = np.concatenate(tables)
    if self._seed is not None:
      examples = examples[
        permutation(len(examples), self._seed, epoch, window + 1)
      ]
    return Window(examples, sum(lost))

  def window(self, epoch: int, window: int) -> Window:
    """A window of an epoch; starts to make the next one.

    Raises:
      OSError, errors.UserError: a file cannot be read.
    """
    following = (epoch, window + 1)
    if following[1] == self.num_windows:
      following = (epoch + 1, 0)
    wanted = ((epoch, window), following)
    if self.num_windows == 1:
      wanted = wanted[:1]
    for key in [key for key in self._windows if key not in wanted]:
      del self._windows[key]
    for key in wanted:
      if key not in self._windows:
        self._windows[key] = self._thread.submit(self._make_window, *key)
    return self._windows[epoch, window].result()

  def next_place(self, place: Place) -> Place:
    """The same place, in the next window where this one was read to its end.

    Raises:
      OSError, errors.UserError: a file cannot be read.
    """
    empty = 0
    while place.offset >= len(self.window(place.epoch, place.window).examples):
      epoch, window = place.epoch, place.window + 1
      if window == self.num_windows:
        epoch, window = epoch + 1, 0
      place = Place(epoch, window, 0)
      empty += 1
      if empty > self.num_windows:  # there are no examples at all
        break
    return place

  def place_after(self, num_examples: int) -> Place:
    """The place after so many examples from the beginning on.

    Raises:
      OSError, errors.UserError: a file cannot be read.
    """
    place = Place()
    while True:
      held = len(self.window(place.epoch, place.window).examples)
      if num_examples < held:
        return Place(place.epoch, place.window, num_examples)
      num_examples -= held
      following = self.next_place(Place(place.epoch, place.window, held))
      if following.epoch > place.epoch and not num_examples:
        return following
      place = following

  def batches(
    self, place: Place, batch_size: int, num_epochs: int | None
  ) -> Iterator[tuple[np.ndarray, Place, int]]:
    """Cuts the order into batches.

    Args:
      place: where to begin.
      batch_size: examples in a batch, over all machines; only the last batch
        may have fewer. A batch may span two epochs.
      num_epochs: epochs from the beginning of the order; None or 0 for no end.

    Yields:
      The table of a batch; the place after it; about how many records were lost
      to damaged lengths in the windows that it begins.

    Raises:
      OSError, errors.UserError: a file cannot be read.
    """
    place = self.next_place(place)
    while not num_epochs or place.epoch < num_epochs:
      parts, wanted, lost = [], batch_size, 0
      while wanted and (not num_epochs or place.epoch < num_epochs):
        window = self.window(place.epoch, place.window)
        if not place.offset:
          lost += window.lost_records
        end = place.offset + wanted
        parts.append(window.examples[place.offset : end])
        wanted -= len(parts[-1])
        after = Place(place.epoch, place.window, place.offset + len(parts[-1]))
        following = self.next_place(after)
        if following == after and not len(parts[-1]):
          return  # there are no examples at all
        place = following
      yield np.concatenate(parts), place, lost


# --------------------------------------------------------------------------
# The size of a window

WINDOW_SHARDS = 16
_FEW_BYTES = 1 << 30


def choose_window(files: list[str]) -> int:
  """Chooses how many shards a window has.

  All of them, if that costs nothing: where they are small, or where all walks
  are kept and the disk bears random reads. Else as many as mix well, see
  docs/reading.md.

  Args:
    files: local paths.
  """
  if len(files) <= WINDOW_SHARDS:
    return len(files)
  if sum(os.stat(file).st_size for file in files) <= _FEW_BYTES:
    return len(files)
  if all(map(shards.is_kept, files)) and not _is_rotational(files[0]):
    return len(files)
  return WINDOW_SHARDS


def _is_rotational(path: str) -> bool:
  """Whether a file is on a disk that turns, or on one that does not tell."""
  device = os.stat(path).st_dev
  name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
  for folder in (name, f"{name}/.."):  # a partition's disk is its parent
    try:
      with open(f"{folder}/queue/rotational") as file:
        return file.read().strip() != "0"
    except OSError:
      continue
  return True
