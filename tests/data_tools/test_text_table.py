"""Tests of data_tools.text_table."""

from data_tools import text_table


def test_numbers_end_and_text_begins_at_the_same_place():
  rows = [
    ["file", "videos", "damage"],
    ["a", "7", "2 cut off"],
    ["b", "10", ""],
  ]
  assert text_table.aligned(rows, texts=(0, -1)) == [
    "file  videos  damage",
    "a          7  2 cut off",
    "b         10",
  ]
  assert text_table.aligned(rows)[1] == "a          7  2 cut off"
  assert text_table.aligned([["a", "b"], ["c", "100"]]) == ["a    b", "c  100"]


def test_wide_letters_and_marks_take_the_columns_of_a_terminal():
  assert text_table.width_of("日本") == 4
  assert text_table.width_of("e\u0301") == 1
  lines = text_table.aligned([["日本", "1"], ["abcd", "2"]])
  assert lines == ["日本  1", "abcd  2"]


def test_long_text_is_cut():
  assert text_table.cut("abcdef", 6) == "abcdef"
  assert text_table.cut("abcdefg", 6) == "abcde…"
  assert text_table.cut("日本語日本語", 6) == "日本…"


def test_what_controls_a_terminal_is_replaced_and_what_joins_letters_stays():
  assert text_table.printable("a\x1b[31mb\n\0") == "a\ufffd[31mb\ufffd\ufffd"
  assert text_table.printable("\u202egnp.exe") == "\ufffdgnp.exe"
  assert text_table.printable("\udc80") == "\ufffd"
  family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
  assert text_table.printable(family) == family
  assert text_table.printable("क्\u200dष") == "क्\u200dष"
