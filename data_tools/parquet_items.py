"""The items in parquet files: a row a video, or a row a frame.

Columns: id; the name of the feature, or embedding; if there is a row a frame,
frame; and of files that are not in a manifest labels, and, if wanted, split and
group. A row a video may hold a list of vectors, too.
"""

import array
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

import errors
from data_tools.embedding_items import PARQUET_ENDING
from data_tools.item_lists import (
  categories_of,
  known_split,
  labels_of,
  text_of,
)
from data_tools.item_table import BadItemError, Item, ItemTable, Span
from data_tools.parquet_columns import FRAME, ID, ColumnReader, Index, ids_of
from data_tools.parquet_rows import (
  RowTable,
  import_pyarrow,
  is_array,
  values_of,
)

DEFAULT_COLUMN = "embedding"
_FACTS = ("labels", "split", "group")

Tell = Callable[[float, int], None]


def _no_news(done: float, found: int) -> None:
  """Tells nothing."""


def _column_of(rows: RowTable, name: str) -> str | None:
  """The column that holds a feature; None if there is none."""
  for column in (name, DEFAULT_COLUMN):
    if column in rows.columns and is_array(rows.columns[column]):
      return column
  return None


# --------------------------------------------------------------------------
# Tables that name their labels


def read_tables(
  paths: Sequence[str],
  feature_names: Sequence[str],
  labels: Mapping[str, object] | None = None,
  tell: Tell = _no_news,
) -> ItemTable:
  """Finds the items of parquet files, which together are one table.

  Args:
    paths: of the files.
    feature_names: of the features; the columns have these names. If there is
      one feature, its column may be called embedding.
    labels: categories by id, in the place of those in the files.
    tell: called now and then with the part of the rows that was looked at and
      the number of items so far.

  Returns:
    Its items in their order, then one with a problem for each file that could
    not be read.

  Raises:
    errors.UserError: a column is missing.
  """
  rows = RowTable(paths)
  columns = {name: _column_of(rows, name) for name in feature_names}
  if rows.columns:
    lacking = [name for name, column in columns.items() if column is None]
    if ID not in rows.columns:
      lacking.insert(0, ID)
    if labels is None and "labels" not in rows.columns:
      lacking.append("labels")
    if len(set(columns.values())) < len(columns):
      lacking.append(feature_names[-1])
    if lacking:
      found = ", ".join(f"{name} ({of})" for name, of in rows.columns.items())
      known = dict.fromkeys((", ".join(feature_names), DEFAULT_COLUMN))
      raise errors.UserError(
        f"Expected the column {lacking[0]} in {paths[0]}, found {found}. A"
        " parquet file has the columns id, labels and, with a list of numbers"
        f" in each row, {' or '.join(known)}. Labels"
        " may come from --labels=FILE.json, or from a --manifest that names the"
        " file."
      )
  table, index = _find_items(rows, feature_names, labels, tell)
  readers = {
    name: ColumnReader(rows, column, index)
    for name, column in columns.items()
    if column
  }
  table.read_part = lambda item, name: readers[name].read(item.spans[name])
  return table


def _find_items(
  rows: RowTable,
  feature_names: Sequence[str],
  labels: Mapping[str, object] | None,
  tell: Tell,
) -> tuple[ItemTable, Index]:
  """Looks through the ids of all rows."""
  table, index = ItemTable(feature_names), Index()
  table.is_streamed = True
  has_frames = FRAME in rows.columns
  number = len(feature_names)
  for group in range(rows.num_groups):
    try:
      for video_id, start, count, facts in _runs(rows, group, has_frames):
        if has_frames and not index.add(video_id, start, count):
          continue
        if not has_frames:
          index.append(start, count)
        paths = [rows.path_of(start)] * number
        table.add(video_id, paths, *_values(video_id, facts, labels, start))
    except BadItemError as error:
      if has_frames and len(table):
        # Its last frames may be among the lost rows.
        table.set_problem(len(table) - 1, f"it may go on where {error}")
      table.add_damaged(rows.path_of(rows.first_row(group)), str(error))
      index.append(0, 0)
    tell(rows.first_row(group) / rows.num_rows, len(table))
  if index.is_scattered:
    index.starts = array.array("q", [0])
    for count in index.counts[:-1]:
      index.starts.append(index.starts[-1] + count)
  for position, span in enumerate(zip(index.starts, index.counts, strict=True)):
    for name in feature_names if span[1] else ():  # a damaged group has no rows
      table.set_span(position, name, span)
  for path, problem in rows.damaged.items():
    table.add_damaged(path, problem)
  return table, index


def _runs(
  rows: RowTable, group: int, has_frames: bool
) -> Iterator[tuple[str, int, int, dict]]:
  """Yields (id, first row, number of rows, facts) of rows that belong together.

  If there is a row a frame, these are rows with the same id one after the
  other, as far as a batch goes, else each row. The facts are those of the first
  row.

  Raises:
    BadItemError: the row group cannot be read.
  """
  facts = [name for name in _FACTS if name in rows.columns]

  def decode(batch, first: int) -> list[tuple[str, int, int, dict]]:
    ids = ids_of(batch)
    starts = range(len(ids))
    if has_frames:
      starts = [at for at in starts if not at or ids[at] != ids[at - 1]]
    taken = import_pyarrow().array(starts)
    columns = [
      values_of(batch.column(name).take(taken), name) for name in facts
    ]
    ends = [*starts[1:], len(ids)]
    found = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
      values = [column[number] for column in columns]
      of_run = dict(zip(facts, values, strict=True))
      found.append((ids[start], first + start, end - start, of_run))
    return found

  for found in rows.batches(group, [ID, *facts], decode):
    yield from found


def _values(
  video_id: str, facts: dict, labels: Mapping[str, object] | None, row: int
) -> tuple[list[str], str, str, str]:
  """(labels, split, group, problem) of an item."""
  found, split, group, problem = [], "", "", ""

  def fact(name: str) -> object:
    value = facts.get(name)
    if isinstance(value, BadItemError):
      raise value
    return value

  try:
    if labels is not None and video_id in labels:
      found = categories_of(labels[video_id])
    else:
      found = labels_of(fact("labels"))
    split, group = (text_of(fact(name)) for name in ("split", "group"))
  except BadItemError as error:
    problem = str(error)
  split, trouble = known_split(split)
  problem = trouble or problem
  if not video_id:
    problem = f"no id in row {row}, or one that is no text"
  return found, split, group, problem


# --------------------------------------------------------------------------
# Tables that a manifest names


def find_in_manifest(
  table: ItemTable, feature_names: Sequence[str]
) -> ItemTable:
  """Finds the rows of the items of a manifest that are in parquet files.

  A file of one item is read when it is needed; in one of several, the ids tell
  which rows are whose.

  Args:
    table: the items of the manifest.
    feature_names: of its features.

  Returns:
    The same items; if there are parquet files, sorted as these are.
  """
  of_path: dict[tuple[str, str], list[int]] = {}
  for name in feature_names:
    for number, path in enumerate(table.paths(name)):
      if path.lower().endswith(PARQUET_ENDING):
        of_path.setdefault((name, path), []).append(number)
  if not of_path:
    return table
  import_pyarrow()
  readers: dict[tuple[str, str], Callable] = {}
  for (name, path), numbers in of_path.items():
    if len(numbers) == 1:
      table.set_span(numbers[0], name, (0, 0))
    elif (reader := _find_in_file(table, numbers, name, path)) is not None:
      readers[name, path] = reader

  def read_part(item: Item, name: str) -> np.ndarray:
    path = item.paths[name]
    if (name, path) in readers:
      return readers[name, path](item.spans[name])
    return _read_only_item(path, name, item.video_id)

  table.read_part = read_part
  table.is_streamed = bool(readers)
  if not readers:
    return table
  numbers = {key: number for number, key in enumerate(readers)}
  name = feature_names[0]

  def place(index: int) -> tuple[int, int]:
    item = table[index]
    known = numbers.get((name, item.paths[name]), -1)
    return known, item.spans.get(name, (0, 0))[0] if known >= 0 else 0

  return table.in_order(sorted(range(len(table)), key=place))


def _open_file(path: str, name: str) -> tuple[RowTable, str]:
  """The rows of a file, and the column of a feature.

  Raises:
    BadItemError: it cannot be read or has none.
  """
  rows = RowTable([path])
  if rows.damaged:
    raise BadItemError(rows.damaged[path])
  column = _column_of(rows, name)
  if column is None:
    raise BadItemError(
      f"no column {name} or {DEFAULT_COLUMN} of lists of numbers"
    )
  if not rows.num_rows:
    raise BadItemError("no rows")
  return rows, column


def _find_in_file(
  table: ItemTable, numbers: list[int], name: str, path: str
) -> Callable[[Span], np.ndarray] | None:
  """Notes which rows of a file are those of some items.

  Returns:
    What reads them; None if the file cannot be used.
  """
  try:
    rows, column = _open_file(path, name)
    if ID not in rows.columns:
      raise BadItemError("no column id, but several items are in the file")
  except BadItemError as error:
    for number in numbers:
      table.set_problem(number, str(error))
    return None
  inside, index = _find_items(rows, [name], None, _no_news)
  place_of: dict[str, int] = {}
  repeated = set()
  for place, video_id in enumerate(inside.ids):
    if place_of.setdefault(video_id, place) != place:
      repeated.add(video_id)
  for number in numbers:
    video_id = table.ids[number]
    if video_id in repeated:
      table.set_problem(number, f"several rows have the id {video_id}")
      continue
    # What stands for a damaged part has the file's name as its id, and no rows.
    span = None
    if video_id in place_of:
      span = inside[place_of[video_id]].spans.get(name)
    if span:
      table.set_span(number, name, span)
    else:
      table.set_problem(number, f"no row has the id {video_id}")
  return ColumnReader(rows, column, index).read


def _read_only_item(path: str, name: str, video_id: str) -> np.ndarray:
  """The array of an item that has a file for itself, or one of its rows.

  Raises:
    BadItemError: it has none.
  """
  rows, column = _open_file(path, name)
  index, span = Index(), (0, rows.num_rows)
  if ID in rows.columns:
    inside, index = _find_items(rows, [name], None, _no_news)
    found = [at for at, of in enumerate(inside.ids) if of == video_id]
    if len(inside) == 1:
      found = [0]
    if len(found) != 1:
      raise BadItemError(f"{len(found) or 'no'} rows have the id {video_id}")
    span = inside[found[0]].spans.get(name)
    if span is None:
      raise BadItemError(inside[found[0]].problem)
  return ColumnReader(rows, column, index).read(span)
