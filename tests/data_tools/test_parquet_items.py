"""Tests of data_tools.parquet_items."""

import numpy as np
import pytest
from conftest import assert_names, error_of
from parquet_files import (
  VECTORS,
  frame_columns,
  make_large,
  pa,
  pq,
  read_all,
  write,
)

from data_tools import embedding_items, parquet_items
from data_tools.embedding_items import ArrayReader
from data_tools.item_table import BadItemError


@pytest.mark.parametrize(
  "kind",
  [
    VECTORS,
    pa.list_(pa.float32(), 3),
    pa.large_list(pa.float64()),
    pa.list_(pa.float16()),
    pa.list_(pa.int8()),
  ],
)
def test_a_row_a_video(tmp_path, kind):
  vectors = np.arange(30).reshape(10, 3)
  values = [row.astype(kind.value_type.to_pandas_dtype()) for row in vectors]
  for shard in (0, 1):
    write(
      tmp_path / f"{shard}.parquet",
      2,
      id=[f"v{number}" for number in range(5 * shard, 5 * shard + 5)],
      embedding=pa.array(values[5 * shard : 5 * shard + 5], kind),
      labels=[["cat", "dog"], [], None, ["a;b"], ["x"]],
      split=["train", "test", "", None, "other"],
      group=["g", "g", None, "", "h"],
    )
  paths = [str(tmp_path / f"{shard}.parquet") for shard in (0, 1)]
  table = parquet_items.read_tables(paths, ["e"])
  items = list(table)
  assert [item.labels for item in items[:5]] == [
    ["cat", "dog"],
    [],
    [],
    ["a;b"],
    ["x"],
  ]
  assert [item.split for item in items[:5]] == ["train", "test", "", "", ""]
  assert [item.group for item in items[:5]] == ["g", "g", "", "", "h"]
  assert "the split other" in items[4].problem
  assert items[7].paths == {"e": paths[1]}
  for _ in range(2):  # it can be read again
    found = read_all(table)
    for number in (0, 1, 2, 3, 5, 6, 7, 8):
      assert found[f"v{number}"].dtype == np.float32
      np.testing.assert_array_equal(found[f"v{number}"], vectors[number])


@pytest.mark.parametrize(
  ("labels", "wanted"),
  [
    (["cat; dog", ""], [["cat", "dog"], []]),
    ([3, None], [["3"], []]),
    ([[3, 4], []], [["3", "4"], []]),
    (pa.array(["cat", "cat"]).dictionary_encode(), [["cat"], ["cat"]]),
  ],
)
def test_labels_are_names_or_numbers(tmp_path, labels, wanted):
  path = write(
    tmp_path / "a.parquet",
    id=[1, 2],
    embedding=pa.array([[1.0], [2.0]], VECTORS),
    labels=labels,
  )
  table = parquet_items.read_tables([path], ["e"])
  assert [item.labels for item in table] == wanted
  assert [item.video_id for item in table] == ["1", "2"]
  table = parquet_items.read_tables([path], ["e"], {"1": "fish"})
  assert [item.labels for item in table] == [["fish"], wanted[1]]


def test_bad_rows_are_named(tmp_path):
  path = write(
    tmp_path / "a.parquet",
    id=["good", "short", "nan", "null", None, "hole", "empty"],
    embedding=pa.array(
      [[1, 2], [1], [1, np.nan], None, [1, 2], [1, None], []], VECTORS
    ),
    labels=["x"] * 7,
  )
  table = parquet_items.read_tables([path], ["e"])
  found = read_all(table)
  np.testing.assert_array_equal(found["good"], [1, 2])
  assert "expected 2 numbers" in found["short"]
  assert "NaN" in found["nan"]
  assert "NaN" in found["hole"]
  assert "empty" in found["empty"]
  assert "without an array" in found["null"]
  assert "no id in row 4" in found[""]


def test_several_features_are_columns(tmp_path):
  path = write(
    tmp_path / "a.parquet",
    id=["a", "b"],
    clip=pa.array([[1, 2], [3, 4]], VECTORS),
    audio=pa.array([[1], [2]], VECTORS),
    labels=["x", "y"],
  )
  table = parquet_items.read_tables([path], ["audio", "clip"])
  reader = ArrayReader(False, table.read_part)
  found = [reader.read(item) for item in table]
  np.testing.assert_array_equal(found[1]["audio"], [2])
  np.testing.assert_array_equal(found[1]["clip"], [3, 4])
  text = error_of(parquet_items.read_tables, [path], ["clip", "other"])
  assert "the column other" in text


@pytest.mark.parametrize("lacking", ["id", "embedding", "labels"])
def test_a_missing_column_is_named(tmp_path, lacking):
  columns = {
    "id": ["a"],
    "embedding": pa.array([[1.0]], VECTORS),
    "labels": ["x"],
  }
  columns.pop(lacking)
  path = write(tmp_path / "a.parquet", **columns)
  text = error_of(parquet_items.read_tables, [path], ["embedding"])
  assert_names(text, f"the column {lacking} ", path)
  if lacking == "labels":
    parquet_items.read_tables([path], ["embedding"], {"a": "x"})


def test_a_column_of_something_else_is_named(tmp_path):
  path = write(
    tmp_path / "a.parquet", id=["a"], embedding=["text"], labels=["x"]
  )
  text = error_of(parquet_items.read_tables, [path], ["embedding"])
  assert_names(text, "the column embedding", "embedding (string)")


def test_damaged_files_are_reported_and_the_others_are_used(tmp_path):
  vectors = make_large(tmp_path / "a.parquet")
  column = (
    pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(1)
  )
  content = bytearray((tmp_path / "a.parquet").read_bytes())
  middle = column.data_page_offset + column.total_compressed_size // 2
  content[middle : middle + 100] = bytes(100)
  (tmp_path / "a.parquet").write_bytes(content)
  (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
  (tmp_path / "text.parquet").write_text("hello")
  names = ("a", "cut", "text")
  paths = [str(tmp_path / f"{name}.parquet") for name in names]
  table = parquet_items.read_tables(paths, ["e"])
  found = read_all(table)
  for number in range(40):
    array = found[f"v{number}"]
    if 10 <= number < 20:
      assert "row group 1 cannot be read" in array
    else:
      np.testing.assert_array_equal(array, vectors[number])
  assert "cannot be read" in found["cut.parquet"]
  assert "cannot be read" in found["text.parquet"]


def write_manifest(folder, *lines):
  path = folder / "m.csv"
  path.write_text("\n".join(lines) + "\n")
  table = embedding_items.read_manifest(str(path), ["e"])
  return parquet_items.find_in_manifest(table, ["e"])


def test_a_manifest_names_rows_by_id(tmp_path):
  vectors = make_large(tmp_path / "many.parquet")
  np.save(tmp_path / "one.npy", vectors[0])
  table = write_manifest(
    tmp_path,
    "path,id,labels",
    "many.parquet,v31,a",
    "many.parquet,v2,b",
    "many.parquet,none,c",
    "one.npy,,d",
    "many.parquet,v30,e",
  )
  assert table.is_streamed
  found = read_all(table)
  assert {item.video_id: item.labels[0] for item in table} == {
    "v31": "a",
    "v2": "b",
    "none": "c",
    "one": "d",
    "v30": "e",
  }
  np.testing.assert_array_equal(found["v31"], vectors[31])
  np.testing.assert_array_equal(found["v30"], vectors[30])
  np.testing.assert_array_equal(found["v2"], vectors[2])
  np.testing.assert_array_equal(found["one"], vectors[0])
  assert found["none"] == "no row has the id none"
  # In the order of their rows, so that each row group is decoded once.
  rows = [item.video_id for item in table if item.labels[0] in "abe"]
  assert rows == ["v2", "v30", "v31"]


def test_a_manifest_names_files_of_one_video(tmp_path):
  columns, arrays = frame_columns(range, lengths=(3, 0, 0))
  columns.pop("labels")
  write(tmp_path / "one.parquet", **columns)
  columns.pop("id")
  write(tmp_path / "no id.parquet", **columns)
  columns.pop("frame")
  write(tmp_path / "no frame.parquet", **columns)
  make_large(tmp_path / "many.parquet")
  make_large(tmp_path / "other.parquet")
  (tmp_path / "text.parquet").write_text("hello")
  write(tmp_path / "other column.parquet", a=[1])
  names = ["one", "no id", "no frame", "text", "other column"]
  table = write_manifest(
    tmp_path,
    "path,id,labels",
    *[f"{name}.parquet,,x" for name in names],
    "many.parquet,v3,x",
    "other.parquet,v99,x",
    "missing.parquet,,x",
  )
  reader, found = ArrayReader(False, table.read_part), {}
  for item in table:
    try:
      found[item.video_id] = reader.read(item)["e"]
    except BadItemError as error:
      found[item.video_id] = str(error)
  for name in names[:3]:
    np.testing.assert_array_equal(found[name], arrays["a"])
  assert "in the first item, found one vector" in found["v3"]
  assert found["v99"] == "no rows have the id v99"
  assert "cannot be read" in found["text"]
  assert "cannot be read" in found["missing"]
  assert "no column e or embedding" in found["other column"]


def test_a_manifest_may_not_leave_open_which_rows(tmp_path):
  make_large(tmp_path / "a.parquet", 3)
  write(tmp_path / "b.parquet", embedding=pa.array([[1.0]] * 2, VECTORS))
  write(
    tmp_path / "c.parquet",
    id=["x", "x", "y"],
    embedding=pa.array([[1.0]] * 3, VECTORS),
  )
  found = read_all(
    write_manifest(
      tmp_path,
      "path,id,labels",
      "b.parquet,p,x",
      "b.parquet,q,x",
      "c.parquet,x,x",
      "c.parquet,y,x",
    )
  )
  assert "no column id" in found["p"]
  assert found["x"] == "several rows have the id x"
  np.testing.assert_array_equal(found["y"], [1])


def test_ids_and_columns_of_other_types_are_reported(tmp_path):
  vectors = pa.array([[1.0, 2.0]], VECTORS)
  good = {"id": ["a"], "labels": ["x"], "embedding": vectors}
  paths = [
    write(tmp_path / "0.parquet", **good),
    write(tmp_path / "1.parquet", **{**good, "embedding": ["text"]}),
    write(tmp_path / "2.parquet", **{**good, "id": pa.array([{"a": 1}])}),
    write(tmp_path / "3.parquet", **{**good, "labels": pa.array([{"a": 1}])}),
  ]
  found = [
    parquet_items.read_tables([path], ["embedding"]) for path in paths[2:]
  ]
  assert "texts or numbers in the column id" in found[0][0].problem
  assert "expected a name, a number" in found[1][0].problem
  table = parquet_items.read_tables(paths[:2], ["embedding"])
  assert [item.problem for item in table] == [
    "",
    "the column embedding has string, expected list<element: float> as in the"
    " first file",
  ]


def test_groups_may_be_numbers(tmp_path):
  columns = {
    "id": ["a", "b", "c"],
    "labels": pa.array([1.0, 0.0, None]),
    "embedding": pa.array([[1.0]] * 3, VECTORS),
    "group": pa.array([0, 0, None]),
  }
  path = write(tmp_path / "a.parquet", **columns)
  table = parquet_items.read_tables([path], ["embedding"])
  assert list(table.groups) == ["0", "0", ""]
  assert [item.labels for item in table] == [["1"], ["0"], []]


def test_a_video_that_goes_on_in_lost_rows_is_no_shorter_video(tmp_path):
  columns, _ = frame_columns(range, lengths=(3, 4, 4))
  path = write(tmp_path / "a.parquet", row_group_size=5, **columns)
  metadata = pq.ParquetFile(path).metadata.row_group(1).column(0)
  assert metadata.path_in_schema == "id"
  begin = metadata.dictionary_page_offset
  with open(path, "r+b") as file:
    file.seek(begin)
    file.write(b"\xff" * metadata.total_compressed_size)
  table = parquet_items.read_tables([path], ["embedding"])
  found = read_all(table)
  np.testing.assert_array_equal(found["a"][:, 1], [0, 1, 2])
  assert "it may go on where row group 1 cannot be read" in found["b"]
  assert "row group 1 cannot be read" in found["a.parquet"]
  assert "its first frame is 3" in found["c"]


def test_a_file_of_one_video_whose_rows_are_lost_is_a_bad_item(tmp_path):
  columns, _ = frame_columns(range, lengths=(3, 0, 0))
  columns.pop("labels")
  path = write(tmp_path / "one.parquet", **columns)
  metadata = pq.ParquetFile(path).metadata.row_group(0).column(0)
  with open(path, "r+b") as file:
    file.seek(metadata.dictionary_page_offset)
    file.write(b"\xff" * metadata.total_compressed_size)
  table = write_manifest(tmp_path, "path,id,labels", "one.parquet,,x")
  reader = ArrayReader(False, table.read_part)
  with pytest.raises(BadItemError, match="row group 0 cannot be read"):
    reader.read(table[0])


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_what_is_no_text_is_a_bad_row(tmp_path, kind):
  def texts(*values):
    return pa.array(values, pa.binary()).view(pa.string())

  path = write(
    tmp_path / "a.parquet",
    id=texts(b"good", b"labels", b"\xff").view(kind),
    embedding=pa.array([[1, 2]] * 3, VECTORS),
    labels=texts(b"x", b"caf\xe9", b"x"),
  )
  found = read_all(parquet_items.read_tables([path], ["e"]))
  np.testing.assert_array_equal(found["good"], [1, 2])
  assert "its labels cannot be read: 'utf-8'" in found["labels"]
  assert "no id in row 2" in found[""]


@pytest.mark.parametrize("name", ["id", "labels", "embedding"])
def test_a_column_that_is_there_twice(tmp_path, name):
  vectors = pa.array([[1, 2]], VECTORS)
  columns = {"id": ["a"], "labels": ["x"], "embedding": vectors}
  names = [*columns, name]
  path = str(tmp_path / "a.parquet")
  pq.write_table(pa.table([columns[one] for one in names], names=names), path)
  (problem,) = read_all(parquet_items.read_tables([path], ["e"])).values()
  assert name in problem


def test_a_row_without_an_id_may_have_an_unknown_split(tmp_path):
  path = write(
    tmp_path / "a.parquet",
    id=["good", None],
    embedding=pa.array([[1, 2], [1, 2]], VECTORS),
    labels=["x", "x"],
    split=["train", "other"],
  )
  found = read_all(parquet_items.read_tables([path], ["e"]))
  assert "no id in row 1" in found[""]
