"""The items of data_tools.import_embeddings: what they are and their arrays."""

import csv
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

import errors
from engine.dataset_card import SPLITS

FILE_ENDINGS = (".npy", ".npz", ".json")


class BadItemError(Exception):
  """An item that is left out; the text says why."""


@dataclasses.dataclass(frozen=True)
class Item:
  """A video to import.

  Attributes:
    video_id: its id, not empty.
    paths: for each feature the file that holds it.
    labels: names or numbers of its classes.
    split: of SPLITS, or empty.
    group: items with the same one go to the same split; empty for none.
    problem: why it cannot be used, if that is known already.
  """

  video_id: str
  paths: Mapping[str, str]
  labels: Sequence[str]
  split: str = ""
  group: str = ""
  problem: str = ""


# --------------------------------------------------------------------------
# Lists of items


def _split_labels(text: str) -> list[str]:
  return [label.strip() for label in text.split(";") if label.strip()]


def read_manifest(path: str, feature_names: Sequence[str]) -> list[Item]:
  """Reads a CSV with a line for each video.

  Its columns are path, or path_NAME for each of several features; labels,
  separated by semicolons; and, if wanted, split, id and group. Paths are
  relative to the CSV. Without an id it is the name of the first file.

  Args:
    path: of the CSV.
    feature_names: of the features.

  Raises:
    errors.UserError: it cannot be read or a column is missing.
  """
  columns = {name: f"path_{name}" for name in feature_names}
  if len(feature_names) == 1:
    columns = {feature_names[0]: "path"}
  folder = os.path.dirname(path)
  items = []
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      rows = csv.DictReader(file)
      found = rows.fieldnames or []
      missing = [
        name for name in (*columns.values(), "labels") if name not in found
      ]
      if missing:
        raise errors.UserError(
          f"Expected the column {missing[0]} in --manifest={path}, found"
          f" {', '.join(found) or 'nothing'}. Its first line names the columns:"
          f" {','.join(columns.values())},labels and, if wanted, split, id and"
          " group."
        )
      for row in rows:
        values = {
          key: (value or "").strip() for key, value in row.items() if key
        }
        items.append(_item_of_row(values, columns, folder))
  except OSError as error:
    raise errors.UserError(
      f"Expected a file that can be read, received --manifest={path}"
      f" ({error.strerror})."
    ) from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.UserError(
      f"Expected a CSV in UTF-8, received --manifest={path} ({error})."
    ) from error
  return items


def _item_of_row(row, columns, folder) -> Item:
  """The item of a line of a manifest."""
  paths = {name: row[column] for name, column in columns.items()}
  first = next(iter(paths.values()))
  name = row.get("id") or os.path.splitext(os.path.basename(first))[0]
  problem = ""
  if not all(paths.values()):
    problem = "no path"
  split = row.get("split", "")
  if split and split not in SPLITS:
    problem = f"the split {split}, expected {', '.join(SPLITS)}"
    split = ""
  return Item(
    video_id=name,
    paths={name: os.path.join(folder, path) for name, path in paths.items()},
    labels=_split_labels(row["labels"]),
    split=split,
    group=row.get("group", ""),
    problem=problem,
  )


def read_folder(folder: str, labels: str, feature_name: str) -> list[Item]:
  """Finds the files of a folder and their labels in a JSON file.

  Args:
    folder: holds ID.json, ID.npy or ID.npz.
    labels: JSON that maps each id to a category or a list of categories, or
      lists [id, category] pairs.
    feature_name: what the files hold.

  Returns:
    An item for each id of the JSON file in its order, then one without labels
    for each other file.

  Raises:
    errors.UserError: one of them cannot be read or is something else.
  """
  try:
    with open(labels, encoding="utf-8") as file:
      content = json.load(file)
    names = sorted(os.listdir(folder))
  except OSError as error:
    raise errors.UserError(
      f"Expected a folder and a file that can be read, received"
      f" --embeddings_dir={folder} and --labels={labels}: {error.filename}"
      f" ({error.strerror})."
    ) from error
  except ValueError as error:
    raise errors.UserError(
      f"Expected JSON in --labels={labels}, received something else ({error})."
    ) from error
  files = {
    root: os.path.join(folder, root + ending)
    for root, ending in map(os.path.splitext, names)
    if ending in FILE_ENDINGS
  }
  listed = dict(content) if isinstance(content, dict) else {}
  try:
    for name, category in [] if listed else content:
      listed[str(name)] = category
  except (TypeError, ValueError) as error:
    raise errors.UserError(
      f"Expected a JSON object of id: category, or a list of [id, category]"
      f" pairs in --labels={labels}, received something else."
    ) from error
  items = []
  for name, category in listed.items():
    categories = category if isinstance(category, list) else [category]
    items.append(
      Item(
        video_id=name,
        paths={feature_name: files.pop(name, os.path.join(folder, name))},
        labels=[str(one).strip() for one in categories if one is not None],
      )
    )
  items += [
    Item(name, {feature_name: path}, []) for name, path in files.items()
  ]
  return items


def check_items(items: list[Item]) -> list[Item]:
  """Notes the problems that show without reading a file.

  Args:
    items: in their order.

  Returns:
    The same items; those without labels or with the id of an earlier one have
    a problem.
  """
  seen, checked = set(), []
  for item in items:
    problem = item.problem
    if not problem and not item.labels:
      problem = "no label"
    if not problem and item.video_id in seen:
      problem = "the id of an earlier item"
    seen.add(item.video_id)
    checked.append(dataclasses.replace(item, problem=problem))
  return checked


# --------------------------------------------------------------------------
# Arrays


def read_array(path: str) -> np.ndarray:
  """Reads the embedding of a video, or one of each frame.

  Args:
    path: .npy; .npz with a single array, or one named embedding or embeddings;
      .json with a list of numbers, or of lists of them.

  Returns:
    (numbers,) or (frames, numbers) float32.

  Raises:
    BadItemError: there is none.
  """
  ending = os.path.splitext(path)[1].lower()
  try:
    if ending == ".json":
      with open(path, encoding="utf-8") as file:
        array = np.array(json.load(file), np.float32)
    elif ending in (".npy", ".npz"):
      loaded = np.load(path, allow_pickle=False)
      array = loaded if ending == ".npy" else _only_array(loaded)
    else:
      raise BadItemError(f"no file of {', '.join(FILE_ENDINGS)}")
  except OSError as error:
    raise BadItemError(f"cannot be read: {error.strerror or error}") from error
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise BadItemError(f"cannot be read: {error}") from error
  if array.dtype.kind not in "fiu":
    raise BadItemError(f"expected numbers, found {array.dtype}")
  if array.ndim not in (1, 2):
    raise BadItemError(
      "expected one vector, or a list of vectors of equal size, found the shape"
      f" {array.shape}"
    )
  with np.errstate(over="ignore"):
    array = array.astype(np.float32)
  if not array.size:
    raise BadItemError("it is empty")
  if not np.isfinite(array).all():
    raise BadItemError("NaN or infinity")
  return array


def _only_array(archive) -> np.ndarray:
  """The embedding in an .npz file."""
  names = archive.files
  named = [name for name in ("embedding", "embeddings") if name in names]
  chosen = named or names
  if len(chosen) != 1:
    raise BadItemError(
      "expected one array, or one named embedding, found"
      f" {', '.join(names) or 'none'}"
    )
  return archive[chosen[0]]


class ArrayReader:
  """Reads the arrays of items, and checks that they all have one form.

  Args:
    align: whether to cut the features of an item to the shortest.

  Attributes:
    sizes: numbers of each feature, known from the first good item on.
    is_frame_level: whether there is a vector for each frame, likewise.
  """

  def __init__(self, align: bool = False):
    self._align = align
    self.sizes: dict[str, int] = {}
    self.is_frame_level: bool | None = None

  def read(self, item: Item) -> dict[str, np.ndarray]:
    """The arrays of an item, by feature.

    Raises:
      BadItemError: it cannot be used.
    """
    if item.problem:
      raise BadItemError(item.problem)
    arrays = {name: read_array(path) for name, path in item.paths.items()}
    dimensions = {array.ndim for array in arrays.values()}
    if len(dimensions) > 1:
      raise BadItemError("one feature has frames and another has none")
    is_frame_level = dimensions == {2}
    sizes = {name: array.shape[-1] for name, array in arrays.items()}
    if self.is_frame_level is None:
      self.is_frame_level, self.sizes = is_frame_level, sizes
    if is_frame_level != self.is_frame_level:
      forms = ("one vector", "a vector for each frame")
      raise BadItemError(
        f"expected {forms[self.is_frame_level]} as in the first item, found"
        f" {forms[is_frame_level]}"
      )
    for name, size in sizes.items():
      if size != self.sizes[name]:
        raise BadItemError(
          f"expected {self.sizes[name]} numbers in {name} as in the first item,"
          f" found {size}"
        )
    if not is_frame_level:
      return arrays
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1 and not self._align:
      found = ", ".join(f"{name} {len(of)}" for name, of in arrays.items())
      raise BadItemError(f"unequal numbers of frames: {found}")
    return {name: array[: min(counts)] for name, array in arrays.items()}
