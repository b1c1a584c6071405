"""The items in WebDataset's tars, as clip-video-encode and video2dataset write.

The members of an item stand one after the other and have one key, their name up
to the first dot after the last slash: KEY.npy, KEY.cls, KEY.json, KEY.txt.

The tars are looked through once, for keys, labels and the places of the arrays,
which are then read from these places alone. The webdataset library reads every
byte and gives no places.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

import errors
from data_tools.embedding_items import parse_npy
from data_tools.item_lists import (
  categories_of,
  known_split,
  labels_of,
  split_labels,
  text_of,
)
from data_tools.item_table import BadItemError, Item, ItemTable, Span
from data_tools.tar_members import DamagedTarError, find_members

LABEL_KEYS = ("labels", "label", "cls", "category")
"""Keys of a .json that may hold labels; the first that is there counts."""

_MOST_OPEN = 8

Parts = dict[str, Span]


def read_tars(
  paths: Sequence[str],
  feature_names: Sequence[str],
  labels: Mapping[str, object] | None = None,
  tell: Callable[[float, int], None] = lambda done, found: None,
) -> ItemTable:
  """Finds the items of tars.

  Args:
    paths: of the tars.
    feature_names: of one feature, the array of an item is KEY.npy, or its only
      member with this ending; of several, KEY.NAME.npy.
    labels: categories by key, in the place of those in the tars.
    tell: called after each tar with the part of the tars that was looked at and
      the number of items so far.

  Returns:
    Its items in their order, then one with a problem for each tar that could
    not be read to its end.
  """
  table = ItemTable(feature_names)
  table.is_streamed = True
  table.read_part = _Reader().read
  damaged = []
  for number, path in enumerate(paths):
    before = len(table)
    try:
      with open(path, "rb") as file:
        for key, parts in _items_of(path):
          _add(table, path, file, key, parts, feature_names, labels)
    except OSError as error:
      damaged.append((path, f"cannot be read: {error.strerror or error}"))
    except DamagedTarError as error:
      used = "; the items before are used" if len(table) > before else ""
      damaged.append((path, f"{error}{used}"))
    tell((number + 1) / len(paths), len(table))
  for path, problem in damaged:
    table.add_damaged(path, problem)
  return table


def _items_of(path: str) -> Iterator[tuple[str, Parts]]:
  """Yields the key of each item, and the place of its members by ending.

  Raises:
    DamagedTarError: the tar is damaged from some place on.
  """
  key, parts = None, {}
  try:
    for name, span in find_members(path):
      folder, slash, base = name.rpartition("/")
      root, dot, ending = base.partition(".")
      # As the library does, without what has no ending or no name before it.
      if not root or not dot:
        continue
      if folder + slash + root != key:
        if key is not None:
          yield key, parts
        key, parts = folder + slash + root, {}
      parts[ending.lower()] = span
  except DamagedTarError:
    # What stands before the damage is whole.
    if key is not None:
      yield key, parts
    raise
  if key is not None:
    yield key, parts


def _add(table, path, file, key, parts, feature_names, labels) -> None:
  """Adds the item of some members of a tar."""
  problem, spans, found = "", [], []
  arrays = [ending for ending in parts if ending.split(".")[-1] == "npy"]
  for name in feature_names:
    wanted = f"{name}.npy".lower()
    if len(feature_names) == 1 and wanted not in parts:
      wanted = arrays[0] if len(arrays) == 1 else "npy"
    if wanted not in parts:
      there = ", ".join(f".{ending}" for ending in parts)
      problem = problem or f"no {key}.{wanted} in the tar, found {there}"
    spans.append(parts.get(wanted))
  split = group = ""
  try:
    values = _json_of(file, parts)
    split, group = (text_of(values.get(name)) for name in ("split", "group"))
    if labels is not None and key in labels:
      found = categories_of(labels[key])
    else:
      found = _labels_in(file, parts, values)
  except BadItemError as error:
    problem = problem or str(error)
  except ValueError as error:
    problem = problem or f"its labels cannot be read: {error}"
  split, trouble = known_split(split)
  paths = [path] * len(feature_names)
  table.add(key, paths, found, split, group, problem or trouble, spans)


def _text_in(file, parts: Parts, ending: str) -> str:
  """The text of a member.

  Raises:
    ValueError: it is no UTF-8.
  """
  start, size = parts[ending]
  return os.pread(file.fileno(), size, start).decode()


def _json_of(file, parts: Parts) -> dict:
  """The content of KEY.json; nothing without it.

  Raises:
    ValueError: it is no JSON object.
  """
  if "json" not in parts:
    return {}
  values = errors.parse_json(_text_in(file, parts, "json"))
  if not isinstance(values, dict):
    raise ValueError("expected a JSON object in the .json")
  return values


def _labels_in(file, parts: Parts, values: dict) -> list[str]:
  """The labels in KEY.cls, else in KEY.json, else in KEY.txt.

  Raises:
    BadItemError: the JSON's are no labels.
    ValueError: a text is no UTF-8.
  """
  if "cls" in parts:
    return split_labels(_text_in(file, parts, "cls"))
  for key in LABEL_KEYS:
    if values.get(key) is not None:
      return labels_of(values[key])
  return split_labels(_text_in(file, parts, "txt")) if "txt" in parts else []


class _Reader:
  """Reads arrays from their places in tars."""

  def __init__(self):
    self._files = {}

  def read(self, item: Item, name: str) -> np.ndarray:
    """The array of an item; see ItemTable."""
    path, (start, size) = item.paths[name], item.spans[name]
    try:
      file = self._files.get(path)
      if file is None:
        while len(self._files) >= _MOST_OPEN:
          self._files.pop(next(iter(self._files))).close()
        file = self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115
      content = os.pread(file.fileno(), size, start)
    except OSError as error:
      raise BadItemError(
        f"cannot be read: {error.strerror or error}"
      ) from error
    return parse_npy(content)
