"""The items that a data set is made of, and a table of many in little memory.

A list of a million items takes about 1 GB; an `ItemTable` takes about 100 bytes
an item.
"""

import array
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from engine.dataset_card import SPLITS

Span = tuple[int, int]


class BadItemError(Exception):
  """An item that is left out; the text says why."""


class Item(NamedTuple):
  """A video to import.

  Attributes:
    video_id: its id, not empty.
    paths: for each feature the file that holds it.
    labels: names or numbers of its classes.
    split: of SPLITS, or empty.
    group: items with the same one go to the same split; empty for none.
    problem: why it cannot be used, if that is known already.
    spans: for each feature that is a part of its file, where it starts and how
      much it is: bytes of a tar, rows of a parquet file.
  """

  video_id: str
  paths: Mapping[str, str]
  labels: Sequence[str]
  split: str = ""
  group: str = ""
  problem: str = ""
  spans: Mapping[str, Span] = MappingProxyType({})


def _is_utf8(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


class Texts(Sequence[str]):
  """Many texts in one piece of memory, 12 bytes each besides their characters.

  A text that equals the one before it is not stored again.
  """

  def __init__(self):
    self._bytes = bytearray()
    self._starts = array.array("q")
    self._sizes = array.array("i")
    self._last = None

  def append(self, text: str) -> None:
    """Adds a text."""
    if text == self._last:
      self._starts.append(self._starts[-1])
      self._sizes.append(self._sizes[-1])
      return
    # A file name may hold bytes that are no text, and JSON halves of letters.
    content = text.encode("utf-8", "surrogatepass")
    self._starts.append(len(self._bytes))
    self._sizes.append(len(content))
    self._bytes += content
    self._last = text

  def __len__(self) -> int:
    return len(self._starts)

  def __getitem__(self, index):
    start = self._starts[index]
    content = self._bytes[start : start + self._sizes[index]]
    return content.decode("utf-8", "surrogatepass")


class ItemTable(Sequence[Item]):
  """A sequence of items.

  Args:
    feature_names: of every item.
    prefix: what the path of each begins with and is not stored again, such as
      "folder/".

  Attributes:
    ids: of the items.
    groups: of the items; empty for none.
    is_streamed: whether reading the items in their order is much faster than in
      another one.
    read_part: reads an array of which an item has a span: takes the item and
      the feature's name, returns float32, raises BadItemError. None if no item
      has one.
  """

  def __init__(self, feature_names: Sequence[str], prefix: str = ""):
    self.ids = Texts()
    self.groups = Texts()
    self.is_streamed = False
    self.read_part: Callable[[Item, str], np.ndarray] | None = None
    self._names = tuple(feature_names)
    self._prefix = prefix
    self._paths = [Texts() for _ in self._names]
    self._spans = [(array.array("q"), array.array("q")) for _ in self._names]
    self._label_names: list[str] = []
    self._code_of: dict[str, int] = {}
    self._labels = array.array("i")
    self._label_ends = array.array("q")
    self._splits = array.array("b")
    self._problems: dict[int, str] = {}

  def add(
    self,
    video_id: str,
    paths: Sequence[str],
    labels: Iterable[str],
    split: str = "",
    group: str = "",
    problem: str = "",
    spans: Sequence[Span | None] = (),
  ) -> None:
    """Adds an item.

    Args:
      video_id: see Item, as all others.
      paths: for each feature, in their order, without the prefix.
      labels: of its classes.
      split: its split.
      group: its group.
      problem: why it cannot be used.
      spans: for each feature, if it is a part of a file; None if not.
    """
    self.ids.append(video_id)
    self.groups.append(group)
    for number in range(len(self._names)):
      self._paths[number].append(paths[number])
      span = spans[number] if spans else None
      start, size = (-1, 0) if span is None else span
      self._spans[number][0].append(start)
      self._spans[number][1].append(size)
    self._add_labels(labels)
    self._splits.append(SPLITS.index(split) if split else -1)
    if problem:
      self._problems[len(self) - 1] = problem

  def _add_labels(self, labels: Iterable[str]) -> None:
    for name in labels:
      code = self._code_of.get(name)
      if code is None:
        code = self._code_of[name] = len(self._label_names)
        self._label_names.append(name)
      self._labels.append(code)
    self._label_ends.append(len(self._labels))

  def __len__(self) -> int:
    return len(self._splits)

  def __getitem__(self, index):
    number = len(self._splits)
    if not -number <= index < number:
      raise IndexError(f"Expected one of {number} items, received {index}.")
    index = int(index) % number
    paths, spans = {}, {}
    for name, texts, (starts, sizes) in zip(
      self._names, self._paths, self._spans, strict=True
    ):
      paths[name] = self._prefix + texts[index]
      if starts[index] >= 0:
        spans[name] = starts[index], sizes[index]
    return Item(
      self.ids[index],
      paths,
      self.labels(index),
      self.split(index),
      self.groups[index],
      self._problems.get(index, ""),
      spans,
    )

  def labels(self, index: int) -> list[str]:
    """The labels of an item."""
    begin = self._label_ends[index - 1] if index else 0
    codes = self._labels[begin : self._label_ends[index]]
    return [self._label_names[code] for code in codes]

  def split(self, index: int) -> str:
    """The split of an item, or an empty text."""
    code = self._splits[index]
    return SPLITS[code] if code >= 0 else ""

  @property
  def label_names(self) -> Sequence[str]:
    """The names of all labels, each once."""
    return tuple(self._label_names)

  def rename_labels(self, names: Sequence[str]) -> None:
    """Gives new names, in the order of label_names; several may be the same."""
    self._label_names = list(names)
    self._code_of = {name: code for code, name in enumerate(names)}

  def paths(self, name: str) -> Iterator[str]:
    """Yields the path of a feature of each item."""
    for path in self._paths[self._names.index(name)]:
      yield self._prefix + path

  @property
  def num_problems(self) -> int:
    """Items that cannot be used, as far as is known."""
    return len(self._problems)

  def set_problem(self, index: int, problem: str) -> None:
    """Notes why an item cannot be used, unless a reason is known already."""
    self._problems.setdefault(index, problem)

  def set_span(self, index: int, name: str, span: Span) -> None:
    """Sets where a feature of an item is in its file."""
    starts, sizes = self._spans[self._names.index(name)]
    starts[index], sizes[index] = span

  def add_damaged(self, path: str, problem: str) -> None:
    """Adds an item that stands for a damaged file, or a part of one."""
    paths = [path] * len(self._names)
    self.add(os.path.basename(path), paths, [], problem=problem)

  @classmethod
  def of(
    cls,
    feature_names: Sequence[str],
    items: Iterable[Item],
    prefix: str = "",
  ) -> "ItemTable":
    """A table of items.

    Args:
      feature_names: of every item.
      items: all with paths that begin with the prefix.
      prefix: see ItemTable.
    """
    table = cls(feature_names, prefix)
    for item in items:
      table.add(
        item.video_id,
        [item.paths[name][len(prefix) :] for name in feature_names],
        item.labels,
        item.split,
        item.group,
        item.problem,
        [item.spans.get(name) for name in feature_names],
      )
    return table

  def in_order(self, order: Iterable[int]) -> "ItemTable":
    """The same items in another order."""
    items = (self[index] for index in order)
    table = ItemTable.of(self._names, items, self._prefix)
    table.is_streamed, table.read_part = self.is_streamed, self.read_part
    return table

  def check(self) -> None:
    """Notes the problems that show without reading an array.

    An item without labels has one; see check_ids for others.
    """
    begin = 0
    for index, end in enumerate(self._label_ends):
      if begin == end:
        self.set_problem(index, "no label")
      begin = end
    self.check_ids()

  def check_ids(self) -> None:
    """Notes which items have an id of an earlier one, or one for no record."""
    for index, video_id in enumerate(self.ids):
      if not video_id.isascii() and not _is_utf8(video_id):
        self.set_problem(index, "its id is no text in UTF-8")
    for index in self._repeated():
      self.set_problem(index, "the id of an earlier item")

  def _repeated(self) -> Iterator[int]:
    """Yields the items with the id of an earlier one."""
    hashes = np.fromiter(map(hash, self.ids), np.int64, len(self))
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    seen = set()
    # Different ids may have the same hash.
    for index in np.unique(order[np.concatenate([same, same + 1])]).tolist():
      if self.ids[index] in seen:
        yield index
      seen.add(self.ids[index])
