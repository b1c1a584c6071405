r"""Tests of engine.csv_cells: what it writes, other programs read back."""

import csv
import io

import numpy as np
import pytest

from engine import csv_cells

IDS = [
  *(b"abcd", b"-_xY", b"007", b"NA", b"", "猫 \u2028\x85\xa0".encode()),
  *(b"a,b", b'a"b', b'"', b'"a"', b"a\nb", b"a\rb", b"a\r\nb", b"\r", b"\n"),
  *(b"=cmd()", b"+1", b"@x", b"\tx", b"'=x", b"'", "\uff1d1".encode()),
  *(b" before", b"after ", b"a b"),
  *(b"a\0b", b"\0", b"a\0", b"caf\xe9", b"\xff\xfe", "猫".encode()[:2]),
  *(b"\\", b"\\xff", b"\\x00", b"\\x5c", b"\\x5cxff", b"\\\\xff", b"\\xFF"),
  *(b"\\x\xff", b"\\x4\xff", b"\\\0", b"\\\xff"),
]
NAMES = dict.fromkeys(IDS).keys()


def file_of(ids, **options) -> str:
  rows = (csv_cells.line((name, 0.5), **options) for name in ids)
  return "".join(("id,score\n", *rows))


def read(text) -> list[str]:
  head, *rows = csv.reader(io.StringIO(text, newline=""))
  assert head == ["id", "score"]
  assert {tuple(row[1:]) for row in rows} <= {("0.5",)}
  return [row[0] for row in rows]


def test_every_id_is_read_back():
  texts = read(file_of(IDS))
  assert list(map(csv_cells.original_bytes, texts)) == IDS
  assert len(set(texts)) == len(NAMES)


def test_text_stays_as_it_is_unless_it_looks_escaped():
  changed = {b"\\xff", b"\\x00", b"\\x5c", b"\\x5cxff", b"\\\\xff"}
  for name in NAMES:
    try:
      text = name.decode()
    except UnicodeDecodeError:
      continue
    is_kept = csv_cells.to_text(name) == text
    assert is_kept == (b"\0" not in name and name not in changed)


def test_how_bytes_are_written():
  assert csv_cells.to_text(b"caf\xe9") == "caf\\xe9"
  assert csv_cells.to_text(b"a\0") == "a\\x00"
  assert csv_cells.to_text(b"\\xe9 \\y") == "\\x5cxe9 \\y"
  assert csv_cells.line((b'a "b", c', "x", None, 2)) == '"a ""b"", c",x,,2\n'


def test_random_bytes_are_read_back_and_stay_different():
  random = np.random.default_rng(1)
  letters = list(b'\\x05cfA\0\xff\xc3,"\r\n ')
  ids = {
    bytes(random.choice(letters, random.integers(7)).tolist())
    for _ in range(9999)
  }
  ids = sorted(ids)
  texts = read(file_of(ids))
  assert len(set(texts)) == len(ids)
  assert list(map(csv_cells.original_bytes, texts)) == ids
  items = list(map(csv_cells.item_text, ids))
  assert [csv_cells.unescaped(item.encode()) for item in items] == ids
  assert set("".join(items)).isdisjoint(' ,"\r\n\0')


def test_pandas_reads_the_same(tmp_path):
  pandas = pytest.importorskip("pandas")
  (tmp_path / "x.csv").write_text(file_of(IDS), newline="", encoding="utf-8")
  found = pandas.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
  assert found["id"].tolist() == read(file_of(IDS))


def test_arrow_reads_the_same(tmp_path):
  arrow = pytest.importorskip("pyarrow.csv")
  (tmp_path / "x.csv").write_text(file_of(IDS), newline="", encoding="utf-8")
  found = arrow.read_csv(
    tmp_path / "x.csv",
    parse_options=arrow.ParseOptions(newlines_in_values=True),
    convert_options=arrow.ConvertOptions(column_types={"id": "string"}),
  )
  assert found["id"].to_pylist() == read(file_of(IDS))


@pytest.mark.parametrize("safe", [False, True])
def test_many_cells_are_those_of_each(safe):
  for ids in (
    *([], [b""], [b"", b""], [b"a"], [b"a\n", b"b"], [b"\xc3", b"\xa9"]),
    *([b"abc", "é".encode()], list(IDS), np.array([b"a,", b"b"])),
  ):
    expected = [csv_cells.cell(name, safe) for name in ids]
    assert csv_cells.cells(ids, safe) == expected
  assert csv_cells.cells(np.array([b"a", b"b"], object), safe) == ["a", "b"]


def test_nothing_is_a_formula_in_a_spreadsheet():
  texts = read(file_of(IDS, spreadsheet_safe=True))
  begins = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
  assert not any(text.startswith(begins) for text in texts)
  assert {"abcd", "'-_xY", "'=cmd()", "''=x", "a b"} <= set(texts)
  without = [text.removeprefix("'") for text in texts]
  assert list(map(csv_cells.original_bytes, without)) == IDS


def test_names_of_files_and_halves_of_letters():
  name = b"caf\xe9".decode("utf-8", "surrogateescape")
  assert csv_cells.original_bytes(csv_cells.to_text(name)) == b"caf\xe9"
  assert csv_cells.to_text("a\ud800") == "a\\xed\\xa0\\x80"


def test_ids_without_nul_are_other_ids_in_an_array():
  ids = sorted(NAMES)
  stored = np.array(list(map(csv_cells.without_nul, ids)), np.bytes_)
  assert list(map(csv_cells.unescaped, stored.tolist())) == ids
  assert csv_cells.without_nul(b"caf\xe9") == b"caf\xe9"


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    *[("0", True), ("9" * 18, True), ("9" * 19, False), ("-1", False)],
    *[("", False), ("1.5", False), ("x", False), ("\xb2", False)],
  ],
)
def test_what_is_an_index(text, wanted):
  assert csv_cells.is_index(text) == wanted
  assert csv_cells.is_index(text.encode()) == wanted
