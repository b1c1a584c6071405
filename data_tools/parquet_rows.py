"""Reads columns of parquet files row by row, in little memory.

Several files are one long table. Rows are numbered over all of them. A part of
a row group is decoded at a time, since a row group may be the whole file.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import errors
from data_tools.item_table import BadItemError

_ROWS_AT_A_TIME = 1024
_MATRICES_AT_A_TIME = 8
_READ_AHEAD_BYTES = 1 << 20

# What Python raises, besides Arrow's own errors, for names and texts that are
# no UTF-8, dates that it has not, and columns that are there twice.
_VALUE_ERRORS = (ValueError, OverflowError, TypeError)
_READ_ERRORS = (*_VALUE_ERRORS, OSError, LookupError, MemoryError)


def import_pyarrow() -> Any:
  """The library that reads parquet files.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise errors.UserError(
      "Expected the library pyarrow, which reads parquet files, found none."
      " Install it: pip install -r requirements/embeddings.txt"
    ) from error
  return pyarrow


class RowTable:
  """The rows of some parquet files.

  Args:
    paths: of the files.

  Attributes:
    damaged: {path: why} of the files that cannot be read at all. They have no
      rows.
    columns: the types of the columns of the first file that can be read, by
      name.
    num_rows: of all files.
  """

  def __init__(self, paths: Sequence[str]):
    self._arrow = import_pyarrow()
    self.damaged: dict[str, str] = {}
    self.columns: dict[str, Any] = {}
    self.num_rows = 0
    # Of each row group: its first row, file and number in the file.
    self._first_rows: list[int] = []
    self._groups: list[tuple[str, int]] = []
    self._bad_groups: dict[int, str] = {}
    for path in paths:
      self._add_file(path)

  def _add_file(self, path: str) -> None:
    try:
      with self._open(path) as file:
        schema = {field.name: field.type for field in file.schema_arrow}
        counts = [
          file.metadata.row_group(number).num_rows
          for number in range(file.num_row_groups)
        ]
    except (*_READ_ERRORS, self._arrow.ArrowException) as error:
      self.damaged[path] = f"cannot be read: {first_line(error)}"
      return
    self.columns = self.columns or schema
    lacking = [name for name in self.columns if name not in schema]
    if lacking:
      self.damaged[path] = f"no column {lacking[0]}, as the first file has"
      return
    for name, of in self.columns.items():
      if is_array(of) and not is_array(schema[name]):
        self.damaged[path] = (
          f"the column {name} has {schema[name]}, expected {of} as in the first"
          " file"
        )
        return
    for number, count in enumerate(counts):
      if count:
        self._first_rows.append(self.num_rows)
        self._groups.append((path, number))
        self.num_rows += count

  def _open(self, path: str):
    return self._arrow.parquet.ParquetFile(
      path,
      pre_buffer=False,
      buffer_size=_READ_AHEAD_BYTES,
      page_checksum_verification=True,  # of files that hold checksums
    )

  def group_of(self, row: int) -> int:
    """The number, among all row groups, of the one that holds a row."""
    return bisect.bisect_right(self._first_rows, row) - 1

  def first_row(self, group: int) -> int:
    """The first row of a row group."""
    return self._first_rows[group]

  def path_of(self, row: int) -> str:
    """The file that holds a row."""
    return self._groups[self.group_of(row)][0]

  @property
  def num_groups(self) -> int:
    """Row groups of all files."""
    return len(self._groups)

  def batches(
    self,
    group: int,
    columns: Sequence[str],
    decode: Callable[[Any, int], Any] = lambda batch, first: batch,
  ) -> Iterator[Any]:
    """Yields the batches of a row group, in order.

    Args:
      group: see group_of.
      columns: the names of those to read.
      decode: makes what is yielded of a batch and the number of its first row.
        What it raises for damaged content counts as damage of the row group.

    Raises:
      BadItemError: it is damaged.
    """
    if group in self._bad_groups:
      raise BadItemError(self._bad_groups[group])
    size = _ROWS_AT_A_TIME
    if any(_depth(self.columns[name]) > 1 for name in columns):
      size = _MATRICES_AT_A_TIME
    path, number = self._groups[group]
    row = self._first_rows[group]
    end = (*self._first_rows, self.num_rows)[group + 1]
    try:
      with self._open(path) as file:
        for batch in file.iter_batches(
          size, row_groups=[number], columns=list(columns), use_threads=False
        ):
          yield decode(batch, row)
          row += len(batch)
      if row != end:
        raise ValueError("it has fewer or more rows than the file says")
    except (*_READ_ERRORS, self._arrow.ArrowException) as error:
      text = f"row group {number} cannot be read: {first_line(error)}"
      # Else each of its rows would be tried.
      self._bad_groups[group] = text
      raise BadItemError(text) from error


def values_of(column, name: str) -> list:
  """The values of a column; a BadItemError for each that cannot be read.

  Args:
    column: Arrow's array.
    name: of the column, for messages.
  """
  try:
    return column.to_pylist()
  except _VALUE_ERRORS:
    return [_value_of(scalar, name) for scalar in column]


def _value_of(scalar, name: str) -> Any:
  """See values_of."""
  try:
    return scalar.as_py()
  except _VALUE_ERRORS as error:
    return BadItemError(f"its {name} cannot be read: {first_line(error)}")


def first_line(error: Exception) -> str:
  """The first line of an error's text; its name if it has none."""
  return (str(error).splitlines() or [type(error).__name__])[0]


def _depth(column_type) -> int:
  """How many lists are around the values of a column."""
  depth = 0
  while hasattr(column_type, "value_type") and "list" in str(column_type):
    column_type, depth = column_type.value_type, depth + 1
  return depth


def is_array(column_type) -> bool:
  """Whether a column holds vectors, or matrices, of numbers."""
  depth = _depth(column_type)
  for _ in range(depth):
    column_type = column_type.value_type
  text = str(column_type)
  is_number = text.startswith(("float", "double", "halffloat", "int", "uint"))
  return depth in (1, 2) and is_number


def arrays_of(column) -> list[np.ndarray | None]:
  """The array of each row of a column.

  Args:
    column: Arrow's array of lists of numbers, or of lists of such lists.

  Returns:
    (numbers,), or (frames, numbers) of lists of lists; None for a row without
    one, or whose lists are unequally long.
  """
  ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy(False))
  values = column.flatten()
  if _depth(values.type):
    rows = arrays_of(values)
    return [
      _stack(rows[begin:end])
      for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
  numbers = values.to_numpy(zero_copy_only=False)
  arrays: list[np.ndarray | None] = [*np.split(numbers, ends[:-1])]
  if column.null_count:
    for row in np.flatnonzero(column.is_null().to_numpy(False)):
      arrays[row] = None
  return arrays


def _stack(vectors: Sequence[np.ndarray | None]) -> np.ndarray | None:
  """Puts vectors into a matrix; None if they are unequally long or missing."""
  present = [vector for vector in vectors if vector is not None]
  sizes = {vector.size for vector in present}
  if len(present) < len(vectors) or len(sizes) != 1:
    return None
  return np.stack(present)
