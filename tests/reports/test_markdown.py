"""Tests of reports.markdown."""

from reports.markdown import escaped, markdown_table


def test_a_table():
  head, rows = ["a", "b", "c"], [["1", "2", ""]]
  assert markdown_table(head, rows) == (
    "| a | b | c |\n|---|--:|--:|\n| 1 | 2 |  |\n"
  )
  assert markdown_table(head, rows, 3).splitlines()[1] == "|---|---|---|"


def test_what_markdown_would_take_for_its_own_is_escaped():
  assert escaped("a|b\n`c` <d> \\e x_y*") == (
    "a\\|b \\`c\\` \\<d\\> \\\\e x\\_y\\*"
  )
  assert escaped("a\u202eb") == "a\ufffdb"
