"""Makes parquet files of embeddings for tests, and reads them."""

import numpy as np
import pytest

from data_tools.embedding_items import ArrayReader
from data_tools.item_table import BadItemError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

VECTORS = pa.list_(pa.float32())


def write(path, row_group_size=None, **columns):
  pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
  return str(path)


def read_all(table, order=None):
  """{id: array or the problem}."""
  reader, found = ArrayReader(False, table.read_part), {}
  for index in range(len(table)) if order is None else order:
    item = table[index]
    try:
      (found[item.video_id],) = reader.read(item).values()
    except BadItemError as error:
      found[item.video_id] = str(error)
  return found


def frame_columns(order, lengths=(3, 2, 4), first=0):
  """Columns of videos a, b, c with a row a frame; the arrays by id."""
  rows = [
    (name, first + frame)
    for name, length in zip("abc", lengths, strict=True)
    for frame in range(length)
  ]
  rows = [rows[number] for number in order(len(rows))]
  vectors = [[ord(name), frame] for name, frame in rows]
  arrays = {
    name: np.array([[ord(name), first + frame] for frame in range(length)])
    for name, length in zip("abc", lengths, strict=True)
  }
  columns = {
    "id": [name for name, _ in rows],
    "frame": [frame for _, frame in rows],
    "embedding": pa.array(vectors, VECTORS),
    "labels": [name for name, _ in rows],
  }
  return columns, arrays


def make_large(path, number=40, row_group_size=10):
  vectors = np.random.default_rng(0).standard_normal((number, 64))
  columns = {
    "id": [f"v{index}" for index in range(number)],
    "embedding": pa.array(list(vectors.astype(np.float32)), VECTORS),
    "labels": ["x"] * number,
  }
  pq.write_table(
    pa.table(columns),
    path,
    row_group_size=row_group_size,
    use_dictionary=False,
    compression="zstd",
  )
  return vectors.astype(np.float32)
