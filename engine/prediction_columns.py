"""The predictions of many videos, class by class, in bounded memory.

A validation set of YouTube-8M has 1.1 million videos and 3862 classes: 17 GB of
float32. Up to a limit, predictions stay in memory; beyond it they go to a
temporary file, which has no name and vanishes with the program. Nothing is
rounded or left out.

Videos come as rows, and are read as columns. Rows are collected to blocks of a
few thousand, which are stored transposed, so that a class's predictions in a
block lie together.
"""

import concurrent.futures
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

import errors
from requested_metrics import RankedColumn

Item = TypeVar("Item")

# Predictions that stay in memory.
_MEMORY_BYTES = 1 << 30
# Of a block: 2172 videos at 3862 classes, so 8 kB that lie together.
_BLOCK_BYTES = 1 << 25
# Of the columns that a thread reads and sorts at a time.
_COLUMNS_BYTES = 1 << 24
_LOG_SECONDS = 5.0


def with_progress(
  items: Iterable[Item], total: int, text: str
) -> Iterator[Item]:
  """Logs every five seconds how many of the items are done.

  Args:
    items: what to go through.
    total: how many there are.
    text: what is done with them: "Sorting the predictions: part".

  Yields:
    The items.
  """
  last_line = time.monotonic()
  for number, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if now - last_line > _LOG_SECONDS:
      last_line = now
      logging.info("%s %d of %d", text, number, total)


class _Entries:
  """Predictions with their classes, in any order; 6 bytes each."""

  def __init__(self, num_classes):
    self._num_classes = num_classes
    self._dtype = np.min_scalar_type(num_classes)
    self._classes, self._values = [], []

  def add(self, classes, values):
    self._classes.append(classes.astype(self._dtype))
    # Adding 0 turns -0.0 into 0.0, which equals it but has other bits.
    self._values.append(values.astype(np.float32) + np.float32(0))

  @property
  def values(self):
    """All of them, (entries,) float32."""
    return np.concatenate([np.empty(0, np.float32), *self._values])

  def by_class(self):
    """A list of (entries of the class,) float32 arrays."""
    classes = np.concatenate([np.empty(0, self._dtype), *self._classes])
    counts = np.bincount(classes, minlength=self._num_classes)
    values = self.values[np.argsort(classes, kind="stable")]
    return np.split(values, np.cumsum(counts)[:-1])


class PredictionColumns:
  """Collects predictions by video and ranks them by class.

  Needs 4 bytes for each prediction, above 1 GiB in a temporary file in $TMPDIR;
  6 bytes of memory for each label; and where pairs have weights 6 bytes of
  memory for each pair that counts.

  Args:
    num_classes: classes of the predictions.
    memory_bytes: of predictions that stay in memory.
  """

  def __init__(self, num_classes: int, memory_bytes: int = _MEMORY_BYTES):
    self._num_classes = num_classes
    self._memory_bytes = memory_bytes
    rows = max(_BLOCK_BYTES // (4 * num_classes), 1)
    self._rows = np.empty((rows, num_classes), np.float32)  # not yet a block
    self._num_rows = 0
    self._blocks = []  # (classes, rows) each
    self._file = None
    self._num_blocks = 0
    self._rated = _Entries(num_classes)
    self._positives = _Entries(num_classes)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Frees the temporary file, if there is one."""
    self._blocks = []
    if self._file:
      self._file.close()

  def add(
    self,
    predictions: np.ndarray,
    labels: np.ndarray,
    rated: np.ndarray | None = None,
  ) -> None:
    """Adds a batch of videos.

    Args:
      predictions: (videos, classes) float32, at least 0.
      labels: (videos, classes) bool, only of pairs that count.
      rated: (videos, classes) bool, the pairs that count; None for all.

    Raises:
      errors.MachineError: the temporary file cannot be written.
    """
    classes = np.flatnonzero(labels) % self._num_classes
    self._positives.add(classes, predictions[labels])
    if rated is not None:
      classes = np.flatnonzero(rated) % self._num_classes
      self._rated.add(classes, predictions[rated])
      return
    while len(predictions):
      part = predictions[: len(self._rows) - self._num_rows]
      end = self._num_rows + len(part)
      np.add(part, np.float32(0), out=self._rows[self._num_rows : end])
      predictions, self._num_rows = predictions[len(part) :], end
      if end == len(self._rows):
        self._store_block()

  def _store_block(self) -> None:
    self._blocks.append(np.ascontiguousarray(self._rows.T))
    self._num_blocks += 1
    self._num_rows = 0
    if self._num_blocks * self._rows.nbytes <= self._memory_bytes:
      return
    try:
      if self._file is None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        logging.info(
          "Predictions beyond %.3g GiB are kept in a temporary file in %s.",
          self._memory_bytes / 2**30,
          tempfile.gettempdir(),
        )
      for block in self._blocks:
        self._file.write(block.data)
      self._file.flush()
    except OSError as error:
      raise errors.MachineError(
        f"Expected space for the predictions in {tempfile.gettempdir()}, 4"
        f" bytes for each video and class, received: {error.strerror}. Set"
        " TMPDIR to a folder with more space, or leave out of --metrics those"
        " that rank all predictions."
      ) from error
    self._blocks = []

  def _stored(self) -> Sequence[np.ndarray] | np.ndarray:
    """The blocks, (classes, rows) each, in memory or mapped into it."""
    if self._file is None:
      return self._blocks
    shape = (self._num_blocks, *self._rows.T.shape)
    return np.memmap(self._file, np.float32, "r", shape=shape)

  @property
  def positives(self) -> np.ndarray:
    """The predictions of all labels, (labels,) float32, in any order."""
    return self._positives.values

  def blocks(self, text: str) -> Iterator[np.ndarray]:
    """Goes through all predictions that count, in any order.

    Args:
      text: for the progress in the log.

    Yields:
      Arrays of float32, of any shape, together every prediction once.
    """
    yield from with_progress(self._stored(), self._num_blocks, text)
    yield self._rows[: self._num_rows]
    yield self._rated.values

  def compute(
    self, functions: Collection[Callable[[RankedColumn], float]]
  ) -> dict[Callable, np.ndarray]:
    """Computes numbers of each class, in as many threads as there are cores.

    Args:
      functions: of the class's predictions.

    Returns:
      {function: its numbers, (classes,) float64}.
    """
    results = {one: np.empty(self._num_classes) for one in functions}
    stored = self._stored()
    rated, positives = self._rated.by_class(), self._positives.by_class()
    num_videos = self._num_blocks * len(self._rows) + self._num_rows
    size = max(_COLUMNS_BYTES // max(4 * num_videos, 1), 1)

    def compute_part(first):
      part = slice(first, first + size)
      blocks = [block[part] for block in stored]
      blocks.append(self._rows[: self._num_rows, part].T)
      # In rows, also if all that is joined is transposed.
      columns = np.ascontiguousarray(np.concatenate(blocks, axis=1))
      for index, column in enumerate(columns, first):
        values = column
        if rated[index].size:
          values = np.concatenate([column, rated[index]])
        values.sort()
        ranked = RankedColumn(values, np.sort(positives[index]))
        for function, numbers in results.items():
          numbers[index] = function(ranked)

    firsts = range(0, self._num_classes, size)
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
      done = pool.map(compute_part, firsts)
      text = "Ranking the predictions of each class: part"
      for _ in with_progress(done, len(firsts), text):
        pass
    finally:
      pool.shutdown(cancel_futures=True)
    return results
