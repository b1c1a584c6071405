"""Tests of data_tools.item_table."""

import os
import tracemalloc

import pytest

from data_tools.item_table import Item, ItemTable, Texts


def test_texts_come_back_and_a_repeated_one_is_stored_once():
  texts = Texts()
  odd = os.fsdecode(b"\xff.npy")  # a file name that is no text
  wanted = ["a", "", "日本", "日本", odd, "a"]
  for text in wanted:
    texts.append(text)
  assert list(texts) == wanted
  before = len(texts._bytes)
  texts.append("a")
  assert len(texts._bytes) == before


def test_items_come_back_as_they_were_added():
  table = ItemTable(["clip", "audio"], "folder/")
  table.add(
    "one", ["1.npy", "1.tar"], ["x", "y"], "test", "g", "", [None, (3, 4)]
  )
  table.add("two", ["2.npy", "2.npy"], ["y"], problem="bad")
  first = Item(
    "one",
    {"clip": "folder/1.npy", "audio": "folder/1.tar"},
    ["x", "y"],
    "test",
    "g",
    "",
    {"audio": (3, 4)},
  )
  second = Item(
    "two",
    {"clip": "folder/2.npy", "audio": "folder/2.npy"},
    ["y"],
    problem="bad",
  )
  assert list(table) == [first, second]
  assert table[-1] == second
  assert list(table.in_order([1, 0])) == [second, first]
  assert list(table.paths("audio")) == ["folder/1.tar", "folder/2.npy"]
  assert table.num_problems == 1
  with pytest.raises(IndexError):
    table[2]
  table.set_span(1, "clip", (0, 9))
  assert table[1].spans == {"clip": (0, 9)}
  table.rename_labels(["same", "same"])
  assert table[0].labels == ["same", "same"]


def test_problems_that_show_without_reading(monkeypatch):
  table = ItemTable(["e"])
  for name, labels in (
    ("a", ["x"]),
    ("b", []),
    ("a", ["x"]),
    ("c", ["x"]),
    ("b", ["x"]),
    ("a", []),
  ):
    table.add(name, ["p"], labels)
  table.check()
  again = "the id of an earlier item"
  assert [item.problem for item in table] == [
    "",
    "no label",
    again,
    "",
    again,
    "no label",
  ]


def test_ids_with_the_same_hash_are_different_items(monkeypatch):
  monkeypatch.setattr("builtins.hash", lambda text: 7)
  table = ItemTable(["e"])
  for name in ("a", "b", "a"):
    table.add(name, ["p"], ["x"])
  table.check()
  assert [bool(item.problem) for item in table] == [False, False, True]


def test_an_item_takes_little_memory():
  """Of its 39 characters and 5 columns; a list of Items takes 700 bytes."""
  number = 20_000
  tracemalloc.start()
  table = ItemTable(["e"], "/some/folder/of/embeddings/")
  for index in range(number):
    table.add(f"video {index:09}", [f"clips/video {index:09}.npy"], ["cat"])
  size, _ = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(table) == number
  assert size / number < 150


def test_names_that_are_no_text_stay_and_are_bad_items():
  names = ["é", "\udcff", "\ud800"]
  items = ItemTable(["e"])
  for name in names:
    items.add(name, [name], ["x"])
  assert list(items.ids) == names
  assert [item.paths["e"] for item in items] == names
  items.check()
  problem = "its id is no text in UTF-8"
  assert [item.problem for item in items] == ["", problem, problem]
