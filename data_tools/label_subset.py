r"""The classes that --label_subset names: indices, names, or a file of them."""

import csv
import difflib
import functools
from collections.abc import Callable

import tensorflow as tf

import errors
from data_tools.text_table import cut
from engine import csv_cells
from engine.data_files import split_at_commas

# Columns that a file's entries are taken from, as in vocabularies, see
# data_tools/vocabulary.py, and in the file of the classes of segments.
_COLUMNS = ("index", "name", "display_name")
# Entries that a message lists.
_MOST_LISTED = 5
_SHOWN = 40  # columns of what a message names


def _entries_of_file(path: str) -> list[str]:
  """Reads the entries of a file.

  Args:
    path: with an entry a line, or a CSV file with one of _COLUMNS.

  Raises:
    errors.UserError: it is no text.
  """
  try:
    with tf.io.gfile.GFile(path) as file:
      text = file.read().removeprefix("\ufeff")
    lines = [line for line in text.splitlines() if line.strip()]
    header, *rows = csv.reader(lines) if lines else [[]]
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.UserError(
      f"Expected a text file in UTF-8 as --label_subset={path}, received"
      f" another one ({error}). Save it as such, with a class a line."
    ) from error
  titles = [title.strip().lower() for title in header]
  for column in _COLUMNS:
    if column in titles:
      place = titles.index(column)
      return [row[place].strip() for row in rows if len(row) > place]
  return [line.strip() for line in lines]


def _looks_like_file(text: str) -> bool:
  return "/" in text or text.endswith((".csv", ".txt"))


def _index_of(entry: str, num_classes: int, find_names, where: str) -> int:
  """The index of a class.

  Args:
    entry: its index or its name.
    num_classes: classes of the data.
    find_names: see read_label_subset.
    where: it stands, for messages.

  Raises:
    errors.UserError: there is no such class, or more than one.
  """
  if entry.isdecimal():
    if csv_cells.is_index(entry) and int(entry) < num_classes:
      return int(entry)
    raise errors.UserError(
      f"Expected class indices from 0 to {num_classes - 1} in {where},"
      f" received {cut(entry, _SHOWN)}. Name other classes, or set"
      " --num_classes to the number of classes of the data."
    )
  names, source = find_names()
  if not names:
    raise errors.UserError(
      f"Expected class indices in {where}, received {entry!r}, and no"
      " vocabulary that has names is known for this data. Give indices, or put"
      " a vocabulary.csv beside the data."
    )
  found = [index for index, name in names.items() if name == entry]
  if len(found) == 1 and found[0] < num_classes:
    return found[0]
  if found:
    shown = ", ".join(map(str, found))
    raise errors.UserError(
      f"Expected a name of one of {num_classes} classes in {where},"
      f" received {entry!r}, which {source} has for {shown}. Give the index"
      " instead."
    )
  near = difflib.get_close_matches(entry, list(names.values()), 3)
  advice = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
  raise errors.UserError(
    f"Expected names of {source} in {where}, received {entry!r}."
    f" {advice or 'Give names as they are written there, or indices.'}"
  )


def read_label_subset(
  text: str,
  num_classes: int,
  find_names: Callable[[], tuple[dict[int, str], str]],
) -> list[int]:
  r"""Reads the classes that --label_subset names.

  Args:
    text: class indices or names with commas between them, a comma in a name
      written r"\,"; or the path of a file with one of them a line, or of a CSV
      file with a column Index or Name.
    num_classes: classes of the data.
    find_names: function that returns {class index: name} and the path of the
      vocabulary; empty if there is none. Called for names alone.

  Returns:
    The indices, ascending.

  Raises:
    errors.UserError: there is no such class, one is named twice, or there are
      none.
    tf.errors.OpError: the file cannot be read.
  """
  find_names = functools.cache(find_names)  # not once for each name
  entries = split_at_commas(text)
  source, where = f"--label_subset={text}", "--label_subset"
  is_plain = all(entry.isdecimal() for entry in entries)
  if not is_plain and tf.io.gfile.exists(text):
    if tf.io.gfile.isdir(text):
      raise errors.UserError(
        f"Expected a file as {source}, received a folder. Name a file with a"
        " class a line."
      )
    entries, source, where = _entries_of_file(text), text, text
  elif not is_plain and _looks_like_file(text) and len(entries) == 1:
    names, _ = find_names()
    if text not in names.values():
      raise errors.UserError(
        f"Expected a file as {source}, found none. Check the path, or give"
        " indices or names with commas between them."
      )
  if not entries or not all(entries):
    raise errors.UserError(
      f"Expected classes with commas between them in --label_subset, received"
      f" {text!r}{', which names none' if source == text else ''}. Give the"
      " index or the name of each."
    )
  indices = [
    _index_of(entry, num_classes, find_names, where) for entry in entries
  ]
  twice = sorted({index for index in indices if indices.count(index) > 1})
  if twice:
    shown = ", ".join(map(str, twice[:_MOST_LISTED]))
    raise errors.UserError(
      f"Expected each class once in {source}, received {shown} more than once."
      " Leave the others out."
    )
  return sorted(indices)
