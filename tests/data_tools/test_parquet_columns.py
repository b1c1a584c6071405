"""Tests of data_tools.parquet_columns, through parquet_items.read_tables."""

import numpy as np
import pytest
from parquet_files import VECTORS, frame_columns, pa, read_all, write

from data_tools import parquet_columns, parquet_items


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
  "order",
  [
    range,
    lambda number: [2, 0, 1, 4, 3, 8, 6, 7, 5],  # frames of a video mixed
    lambda number: range(number - 1, -1, -1),
    lambda number: np.random.default_rng(0).permutation(number).tolist(),
  ],
)
def test_a_row_a_frame_in_any_order(tmp_path, order, first, monkeypatch):
  columns, arrays = frame_columns(order, first=first)
  paths = []
  half = len(columns["id"]) // 2
  for number, part in enumerate((slice(0, half), slice(half, None))):
    some = {name: column[part] for name, column in columns.items()}
    paths.append(write(tmp_path / f"{number}.parquet", 2, **some))
  table = parquet_items.read_tables(paths, ["e"])
  for _ in range(2):
    found = read_all(table)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
      np.testing.assert_array_equal(found[name], array)


def test_rows_that_stand_together_are_not_copied(tmp_path, monkeypatch):
  """Also where a video is in two files."""
  monkeypatch.setattr(parquet_columns, "_Copy", None)
  columns, _ = frame_columns(range)
  paths = []
  for number, part in enumerate((slice(0, 4), slice(4, None))):
    some = {name: column[part] for name, column in columns.items()}
    paths.append(write(tmp_path / f"{number}.parquet", 2, **some))
  found = read_all(parquet_items.read_tables(paths, ["e"]))
  assert [array.shape for array in found.values()] == [(3, 2), (2, 2), (4, 2)]


def test_missing_and_repeated_frames_are_bad_items(tmp_path):
  rows = [
    *[("twice", frame) for frame in (0, 1, 1)],
    *[("gap", frame) for frame in (0, 3, 1)],
    *[("late", frame) for frame in (7, 8)],
    *[("none", frame) for frame in (0, None)],
    ("good", 1),
  ]
  path = write(
    tmp_path / "a.parquet",
    id=[name for name, _ in rows],
    frame=[frame for _, frame in rows],
    embedding=pa.array([[1.0, 2.0]] * len(rows), VECTORS),
    labels=["x"] * len(rows),
  )
  found = read_all(parquet_items.read_tables([path], ["e"]))
  assert found["twice"] == "frame 1 is there twice"
  assert found["gap"] == "frame 2 is missing"
  assert "its first frame is 7" in found["late"]
  assert "not a whole number" in found["none"]
  np.testing.assert_array_equal(found["good"], [[1, 2]])


def test_a_frame_of_64_bits_is_a_bad_item(tmp_path):
  path = write(
    tmp_path / "a.parquet",
    id=["a", "b", "a", "b"],
    frame=pa.array([0, 0, 2**64 - 1, 1], pa.uint64()),
    embedding=pa.array([[1.0, 2.0]] * 4, VECTORS),
    labels=["x"] * 4,
  )
  found = read_all(parquet_items.read_tables([path], ["e"]))
  assert found["a"] == "frame 1 is missing"
  assert found["b"].shape == (2, 2)


def test_matrices_in_rows(tmp_path):
  matrices = [[[1, 2], [3, 4]], [[5, 6]], [[1, 2], [3]], None, [], [None]]
  path = write(
    tmp_path / "a.parquet",
    id=[f"{number}" for number in range(6)],
    clip=pa.array(matrices, pa.list_(VECTORS)),
    labels=["x"] * 6,
  )
  table = parquet_items.read_tables([path], ["clip"])
  found = read_all(table)
  np.testing.assert_array_equal(found["0"], [[1, 2], [3, 4]])
  np.testing.assert_array_equal(found["1"], [[5, 6]])
  for number in (2, 3, 4, 5):
    assert "a row without an array" in found[str(number)]
  # In an order of its own, they are copied.
  order = [1, 0, 5, 1, 0, 5, 1, 0, 1, 0, 5, 0, 1, 0]
  again = read_all(table, order)
  np.testing.assert_array_equal(again["0"], [[1, 2], [3, 4]])
  np.testing.assert_array_equal(again["1"], [[5, 6]])
  assert "a row without an array" in again["5"]


def test_slots_put_the_rows_of_an_item_together():
  """Of the rows a b a c a, where a has the slots 0 to 2, b 3 and c 4."""
  index = parquet_columns.Index()
  assert index.add("a", 0, 1)
  assert index.add("b", 1, 1)
  assert not index.add("a", 2, 1)
  assert index.is_scattered
  assert index.add("c", 3, 1)
  assert not index.add("a", 4, 1)
  assert list(index.counts) == [3, 1, 1]
  index.starts[1:] = type(index.starts)("q", [3, 4])
  slots = index.slots()
  assert list(slots(0, ["a", "b"])) == [0, 3]
  assert list(slots(2, ["a", "c", "a"])) == [1, 4, 2]
