"""Reads the arrays of items from columns of parquet files."""

import array
import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_tools.embedding_items import check_array
from data_tools.item_table import BadItemError, Span
from data_tools.parquet_rows import (
  RowTable,
  arrays_of,
  first_line,
  import_pyarrow,
  values_of,
)

ID, FRAME = "id", "frame"
_MOST_REWINDS = 4

Slots = Callable[[int, Sequence[str]], Sequence[int]]


class Index:
  """Where the rows of each item are.

  Attributes:
    starts: the first row of each item.
    counts: its rows.
    is_scattered: whether the rows of some item do not stand together. Then the
      starts are of a table in which they do.
    by_id: the number of each item, if there is a row a frame.
  """

  def __init__(self):
    self.starts = array.array("q")
    self.counts = array.array("q")
    self.is_scattered = False
    self.by_id: dict[str, int] = {}

  def add(self, video_id: str, start: int, count: int) -> bool:
    """Adds rows; returns whether they are those of a new item."""
    number = len(self.starts)
    known = self.by_id.setdefault(video_id, number)
    if known == number:
      self.append(start, count)
      return True
    if start != self.starts[known] + self.counts[known]:
      self.is_scattered = True
    self.counts[known] += count
    return False

  def append(self, start: int, count: int) -> None:
    """Adds an item."""
    self.starts.append(start)
    self.counts.append(count)

  def slots(self) -> Slots:
    """A function that says where each row goes in a table without gaps.

    It takes the number of a row and the ids from there on. The rows must be
    given in their order.
    """
    if not self.is_scattered:
      return lambda row, ids: range(row, row + len(ids))
    free = array.array("q", self.starts)

    def slots_of(unused_row: int, ids: Sequence[str]) -> list[int]:
      found = []
      for video_id in ids:
        number = self.by_id[video_id]
        found.append(free[number])
        free[number] += 1
      return found

    return slots_of


def ids_of(batch) -> list[str]:
  """The ids in a batch; an empty text for none, and for one that is no text.

  Raises:
    BadItemError: they are no texts or numbers.
  """
  arrow = import_pyarrow()
  try:
    # Bytes that are no UTF-8 are not refused, but are those of one bad row.
    ids = batch.column(ID).cast(arrow.string(), safe=False)
  except arrow.ArrowException as error:
    raise BadItemError(
      f"expected texts or numbers in the column {ID}, found others:"
      f" {first_line(error)}"
    ) from error
  names = values_of(ids, ID)
  return [name if isinstance(name, str) else "" for name in names]


class ColumnReader:
  """Reads the arrays of items from a column.

  The rows are decoded one batch after the other, as long as the items come in
  their order; it may begin again. If they come in another order, or if the rows
  of an item do not stand together, all rows are first copied to a temporary
  file, where each can be found at once.
  """

  def __init__(self, rows: RowTable, column: str, index: Index):
    self._rows = rows
    self._names = [name for name in (ID, FRAME) if name in rows.columns]
    self._names.append(column)
    self._index = index
    self._copy: _Copy | None = None
    self._rewinds = 0
    self._group = -1
    self._batches: Iterator = iter(())
    self._batch: _Batch | None = None

  def read(self, span: Span) -> np.ndarray:
    """The array of an item.

    Raises:
      BadItemError: it has none.
    """
    start, count = span
    if self._copy is None and self._needs_copy(start):
      self._copy = _Copy(self._every_batch(), self._index.slots())
    if self._copy is not None:
      vectors, frames = self._copy.read(start, count)
    else:
      vectors, frames = self._next_rows(start, count)
    if FRAME in self._names:
      vectors = _in_order(vectors, frames)
    elif count == 1 and vectors[0] is not None:
      return check_array(vectors[0])
    sizes = {-1 if of is None else of.shape[-1] for of in vectors}
    if -1 in sizes:
      raise BadItemError("a row without an array, or one of unequal lists")
    if len(sizes) > 1 or any(of.ndim != 1 for of in vectors):
      raise BadItemError("its rows have vectors of unequal sizes")
    return check_array(np.stack(vectors))

  def _needs_copy(self, start: int) -> bool:
    if self._index.is_scattered:
      return True
    if self._batch is not None and start < self._batch.first:
      self._rewinds += 1
    return self._rewinds > _MOST_REWINDS

  def _next_rows(self, row: int, count: int) -> tuple[list, list]:
    """The arrays and frames of some rows, at best those that come next."""
    vectors, frames = [], []
    end = row + count
    while row < end:
      batch = self._batch_of(row)
      begin = row - batch.first
      taken = slice(begin, begin + end - row)
      vectors += batch.vectors[taken]
      frames += batch.frames[taken]
      row = batch.end
    return vectors, frames

  def _batch_of(self, row: int) -> "_Batch":
    """The batch that holds a row."""
    batch = self._batch
    if batch is not None and batch.first <= row < batch.end:
      return batch
    group = self._rows.group_of(row)
    end = batch.end if batch is not None else 0
    if group != self._group or row < end:
      self._group, self._batch = group, None
      end = self._rows.first_row(group)
      self._batches = self._rows.batches(group, self._names, self._decode)
    try:
      while row >= end:
        batch = self._batch = next(self._batches)
        end = batch.end
    except BadItemError:
      self._group, self._batch = -1, None
      raise
    assert batch is not None
    return batch

  def _decode(self, batch, first: int) -> "_Batch":
    return _Batch(batch, first, self._names)

  def _every_batch(self) -> Iterator["_Batch"]:
    """Yields all batches; of damaged row groups those before the damage."""
    for group in range(self._rows.num_groups):
      with contextlib.suppress(BadItemError):
        yield from self._rows.batches(group, self._names, self._decode)


class _Batch:
  """Some rows, decoded.

  Attributes:
    first: the number of the first row.
    end: that of the row after the last.
    ids: of the rows, if the table has ids.
    vectors: the array of each row, or None.
    frames: the number of the frame of each row, or None.
  """

  def __init__(self, batch, first: int, names: Sequence[str]):
    self.first, self.end = first, first + len(batch)
    self.vectors = arrays_of(batch.column(names[-1]))
    self.frames = [None] * len(batch)
    if FRAME in names:
      self.frames = values_of(batch.column(FRAME), FRAME)
    self.ids = ids_of(batch) if ID in names else [""] * len(batch)


def _in_order(vectors: list, frames: list) -> list:
  """Sorts the vectors of frames.

  Raises:
    BadItemError: a frame is missing or there twice.
  """
  if not all(isinstance(frame, int) for frame in frames):
    raise BadItemError("a row whose frame is not a whole number")
  order = sorted(range(len(frames)), key=frames.__getitem__)
  first = frames[order[0]]
  if first not in (0, 1):
    raise BadItemError(f"its first frame is {first}, expected 0 or 1")
  for expected, position in enumerate(order, first):
    frame = frames[position]
    if frame != expected:
      trouble = "missing" if frame > expected else "there twice"
      raise BadItemError(f"frame {min(frame, expected)} is {trouble}")
  return [vectors[position] for position in order]


class _Copy:
  """The rows of a column in a temporary file, each found by its slot.

  Args:
    batches: all rows.
    slots: see Index.slots.
  """

  # Frame, offset of the numbers, dimensions and a letter of the dtype.
  _ENTRY = struct.Struct("<qqii8s")
  _NO_FRAME = -(1 << 62)

  def __init__(self, batches: Iterator[_Batch], slots: Slots):
    self._numbers = tempfile.TemporaryFile()  # noqa: SIM115
    self._entries = tempfile.TemporaryFile()  # noqa: SIM115
    offset = 0
    for batch in batches:
      places = slots(batch.first, batch.ids)
      for slot, vector, frame in zip(
        places, batch.vectors, batch.frames, strict=True
      ):
        if vector is None:
          continue
        content = vector.tobytes()
        self._numbers.write(content)
        shape = (0, *vector.shape)[-2:]
        number = self._NO_FRAME
        if isinstance(frame, int):  # no video has a frame beyond these
          number = max(self._NO_FRAME + 1, min(frame, -self._NO_FRAME))
        entry = self._ENTRY.pack(
          number, offset, *shape, vector.dtype.str.encode()
        )
        os.pwrite(self._entries.fileno(), entry, slot * self._ENTRY.size)
        offset += len(content)
    self._numbers.flush()

  def read(self, slot: int, count: int) -> tuple[list, list]:
    """The arrays and frames of the rows in some slots."""
    size = self._ENTRY.size
    entries = os.pread(self._entries.fileno(), count * size, slot * size)
    vectors, frames = [], []
    for entry in self._ENTRY.iter_unpack(entries.ljust(count * size, b"\0")):
      number, offset, rows, columns, dtype = entry
      frames.append(None if number == self._NO_FRAME else number)
      vectors.append(self._vector(offset, rows, columns, dtype.rstrip(b"\0")))
    return vectors, frames

  def _vector(self, offset, rows, columns, dtype) -> np.ndarray | None:
    if not dtype:  # nothing was written to this slot
      return None
    kind = np.dtype(dtype.decode())
    size = (rows or 1) * columns * kind.itemsize
    content = os.pread(self._numbers.fileno(), size, offset)
    array_ = np.frombuffer(content, kind)
    return array_.reshape(rows, columns) if rows else array_
