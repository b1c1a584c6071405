"""Tests of data_tools.parquet_rows."""

import sys

import numpy as np
import pytest
from conftest import error_of
from parquet_files import VECTORS, make_large, pa, pq, write

from data_tools import parquet_rows
from data_tools.item_table import BadItemError
from data_tools.parquet_rows import RowTable


def test_files_are_one_table(tmp_path):
  """Of 7 and 5 rows, in groups of 3, without an empty file."""
  paths = []
  for number, count in enumerate((7, 0, 5)):
    ids = [f"{number}{row}" for row in range(count)]
    path = tmp_path / f"{number}.parquet"
    paths.append(write(path, 3, id=pa.array(ids, pa.string())))
  rows = RowTable(paths)
  assert rows.num_rows == 12
  assert [rows.first_row(group) for group in range(rows.num_groups)] == [
    0,
    3,
    6,
    7,
    10,
  ]
  assert [rows.group_of(row) for row in (0, 2, 3, 6, 7, 9, 11)] == [
    0,
    0,
    1,
    2,
    3,
    3,
    4,
  ]
  assert [rows.path_of(row) for row in (6, 7)] == [paths[0], paths[2]]
  (batch,) = rows.batches(4, ["id"])
  assert batch.column("id").to_pylist() == ["23", "24"]


def test_a_large_row_group_comes_in_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet_rows, "_ROWS_AT_A_TIME", 10)
  make_large(tmp_path / "a.parquet", 35, 1000)
  rows = RowTable([str(tmp_path / "a.parquet")])
  assert rows.num_groups == 1
  sizes = [len(batch) for batch in rows.batches(0, ["embedding"])]
  assert sizes == [10, 10, 10, 5]


def test_a_number_that_does_not_fit_its_checksum_is_not_read(tmp_path):
  path, value = tmp_path / "a.parquet", np.float32(0.123)
  pq.write_table(
    pa.table({"x": pa.array([value], pa.float32())}),
    path,
    compression="none",
    use_dictionary=False,
    write_page_checksum=True,
    write_statistics=False,
  )
  content = path.read_bytes()
  assert content.count(value.tobytes()) == 1
  path.write_bytes(content.replace(value.tobytes(), b"\0\0\0\0"))
  with pytest.raises(BadItemError, match="row group 0 cannot be read"):
    list(RowTable([str(path)]).batches(0, ["x"]))


def test_a_row_group_with_fewer_rows_than_the_file_says(tmp_path):
  path = write(tmp_path / "a.parquet", x=[1, 2, 3])
  rows = RowTable([path])
  rows.num_rows += 1
  with pytest.raises(BadItemError, match="row group 0 cannot be read: it has"):
    list(rows.batches(0, ["x"]))


def test_what_decoding_raises_is_damage(tmp_path):
  rows = RowTable([write(tmp_path / "a.parquet", x=[1])])
  with pytest.raises(BadItemError, match=r"row group 0 cannot be read: .*'y'"):
    list(rows.batches(0, ["x"], lambda batch, first: {}["y"]))


def test_values_that_python_cannot_have():
  texts = pa.array([b"a", b"\xff", None]).view(pa.string())
  found = parquet_rows.values_of(texts, "labels")
  assert found[::2] == ["a", None]
  assert "its labels cannot be read: 'utf-8'" in str(found[1])
  times = pa.array([9 * 10**18]).cast(pa.timestamp("us"))
  (found,) = parquet_rows.values_of(times, "group")
  assert isinstance(found, BadItemError)


def test_a_name_of_a_column_that_is_no_text_is_damage(tmp_path):
  path = tmp_path / "a.parquet"
  write(path, strange=[1])
  content = path.read_bytes()
  path.write_bytes(content.replace(b"strange", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9"))
  assert "cannot be read" in RowTable([str(path)]).damaged[str(path)]


def test_a_file_without_a_column_of_the_others_is_damaged(tmp_path):
  one = write(tmp_path / "a.parquet", id=["a"], x=[1])
  other = write(tmp_path / "b.parquet", id=["b"])
  rows = RowTable([one, other])
  assert rows.num_rows == 1
  assert "no column x" in rows.damaged[other]


@pytest.mark.parametrize(
  ("kind", "wanted"),
  [
    (VECTORS, True),
    (pa.list_(VECTORS), True),
    (pa.list_(pa.list_(VECTORS)), False),
    (pa.large_list(pa.uint8()), True),
    (pa.list_(pa.string()), False),
    (pa.float32(), False),
    (pa.struct([("x", pa.float32())]), False),
  ],
)
def test_which_columns_hold_arrays(kind, wanted):
  assert parquet_rows.is_array(kind) == wanted


def test_arrays_of_a_part_of_a_column():
  column = pa.array([[1, 2], None, [3], [], [4, None]], VECTORS)
  found = parquet_rows.arrays_of(column.slice(1))
  assert found[0] is None
  np.testing.assert_array_equal(found[1], [3])
  assert found[2].size == 0
  np.testing.assert_array_equal(found[3], [4, np.nan])
  fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
  found = parquet_rows.arrays_of(fixed)
  assert found[1] is None
  np.testing.assert_array_equal(found[2], [3, 4])
  matrices = pa.array([[[1], [2]], [[3, 4]], [[5], [6, 7]]], pa.list_(VECTORS))
  first, second, third = parquet_rows.arrays_of(matrices)
  np.testing.assert_array_equal(first, [[1], [2]])
  np.testing.assert_array_equal(second, [[3, 4]])
  assert third is None


def test_without_the_library_the_install_command_is_named(
  tmp_path, monkeypatch
):
  path = write(tmp_path / "a.parquet", id=["a"])
  monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
  text = error_of(RowTable, [path])
  assert "pip install -r requirements/embeddings.txt" in text
