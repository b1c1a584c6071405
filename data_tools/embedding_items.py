"""The items of data_tools.import_embeddings: what they are and their arrays."""

import functools
import io
import json
import math
import os
from collections.abc import Callable, Sequence

import numpy as np

import errors
from data_tools.item_lists import (
  categories_of,
  known_split,
  read_labels,
  read_rows,
  split_labels,
)
from data_tools.item_table import BadItemError, Item, ItemTable
from engine.prediction_file import READ_ERRORS

FILE_ENDINGS = (".npy", ".npz", ".json")
PARQUET_ENDING = ".parquet"

# --------------------------------------------------------------------------
# Lists of items


def read_manifest(path: str, feature_names: Sequence[str]) -> ItemTable:
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
  table = ItemTable(feature_names)
  for row in read_rows(path, "manifest", (*columns.values(), "labels")):
    _add_row(table, row, columns, os.path.dirname(path))
  return table


def _add_row(table: ItemTable, row, columns, folder: str) -> None:
  """Adds the item of a line of a manifest."""
  paths = [row[column] for column in columns.values()]
  name = row.get("id") or os.path.splitext(os.path.basename(paths[0]))[0]
  split, problem = known_split(row.get("split", ""))
  if not problem and not all(paths):
    problem = "no path"
  table.add(
    name,
    [os.path.join(folder, path) for path in paths],
    split_labels(row["labels"]),
    split,
    row.get("group", ""),
    problem,
  )


def read_folder(folder: str, labels: str, feature_name: str) -> ItemTable:
  """Finds the files of a folder and their labels in a JSON file.

  Args:
    folder: holds ID.json, ID.npy, ID.npz or ID.parquet.
    labels: see item_lists.read_labels.
    feature_name: what the files hold.

  Returns:
    An item for each id of the JSON file in its order, then one without labels
    for each other file. One with several files has a problem, but ID.json
    beside another one is taken for facts about the video.

  Raises:
    errors.UserError: one of them cannot be read or is something else.
  """
  listed = read_labels(labels)
  try:
    names = sorted(os.listdir(folder))
  except OSError as error:
    raise errors.UserError(
      "Expected a folder that can be read, received"
      f" --embeddings_dir={folder} ({error.strerror})."
    ) from error
  endings: dict[str, str] = {}
  repeated: dict[str, str] = {}
  for root, ending in map(os.path.splitext, names):  # .json comes first
    if ending not in (*FILE_ENDINGS, PARQUET_ENDING):
      continue
    if endings.get(root, ".json") != ".json":
      repeated[root] = f"two files, {root}{endings[root]} and {root}{ending}"
    endings[root] = ending
  table = ItemTable([feature_name], os.path.join(folder, ""))
  for name, category in listed:
    path, found = name + endings.get(name, ""), []
    problem = repeated.get(name, "")
    try:
      found = categories_of(category)
    except BadItemError as error:
      problem = str(error)
    table.add(name, [path], found, problem=problem)
  for name in sorted(endings.keys() - set(table.ids)):
    problem = repeated.get(name, "")
    table.add(name, [name + endings[name]], [], problem=problem)
  return table


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
  if ending not in FILE_ENDINGS:
    endings = ", ".join((*FILE_ENDINGS, PARQUET_ENDING))
    if not ending:
      raise BadItemError(f"no file of this name that ends in {endings}")
    raise BadItemError(
      f"ends in {ending}, expected {endings}; of videos, python -m"
      " data_tools.extract_features makes features"
    )
  try:
    with open(path, "rb", buffering=0) as file:
      content = file.read()
  except OSError as error:
    raise BadItemError(f"cannot be read: {error.strerror or error}") from error
  except ValueError as error:  # of a name that no file can have
    raise BadItemError(f"cannot be read: {error}") from error
  if ending == ".npy":
    return parse_npy(content)
  try:
    if ending == ".json":
      array = _parse_json(content)
    else:
      array = _only_array(np.load(io.BytesIO(content), allow_pickle=False))
  except (*READ_ERRORS, OSError) as error:  # the latter of bz2
    raise BadItemError(f"cannot be read: {error}") from error
  return check_array(array)


def _parse_json(content: bytes) -> np.ndarray:
  """The numbers in JSON, of any shape.

  Raises:
    BadItemError: it holds something that NumPy would make numbers of.
  """
  values = json.loads(content)
  found = {type(value) for value in np.array(values, object).flat}
  if found & {str, bool}:
    kind = "texts" if str in found else "true or false"
    raise BadItemError(f"expected numbers, found {kind}")
  return np.array(values, np.float32)


@functools.lru_cache(maxsize=256)
def _npy_form(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
  """(shape, whether columns come first, dtype) of the head of an .npy file."""
  file = io.BytesIO(head)
  version = np.lib.format.read_magic(file)
  read = np.lib.format.read_array_header_1_0
  if version > (1, 0):
    read = np.lib.format.read_array_header_2_0
  return read(file)


def parse_npy(content: bytes) -> np.ndarray:
  """The embeddings in the bytes of an .npy file.

  Most files of a data set begin with the same bytes, which are parsed once; so
  it takes a tenth of the time of np.load.

  Returns:
    (numbers,) or (frames, numbers) float32.

  Raises:
    BadItemError: they hold something else.
  """
  wide = content[6:7] > b"\1"  # since version 2.0 of the format
  begin = 12 if wide else 10
  begin += int.from_bytes(content[8:begin], "little")
  try:
    shape, columns_first, dtype = _npy_form(content[:begin])
    if dtype.hasobject:
      raise BadItemError("expected numbers, found objects")
    if min(shape, default=0) < 0:
      raise BadItemError(f"expected a shape, found {shape}")
    array = np.frombuffer(content, dtype, math.prod(shape), begin)
    array = array.reshape(shape, order="F" if columns_first else "C")
  except READ_ERRORS as error:
    raise BadItemError(f"cannot be read: {error}") from error
  return check_array(array)


def check_array(array: np.ndarray) -> np.ndarray:
  """Checks that an array can be an item's.

  Args:
    array: any.

  Returns:
    (numbers,) or (frames, numbers) float32.

  Raises:
    BadItemError: it is none of numbers, has another shape, is empty, or holds
      NaN or infinity.
  """
  if array.dtype.kind not in "fiu":
    raise BadItemError(f"expected numbers, found {array.dtype}")
  if array.ndim not in (1, 2):
    raise BadItemError(
      "expected one vector, or a list of vectors of equal size, found the shape"
      f" {array.shape}"
    )
  if array.dtype != np.float32:
    with np.errstate(over="ignore"):
      array = array.astype(np.float32)
  if not array.size:
    raise BadItemError("it is empty")
  if not np.isfinite(array).all():
    raise BadItemError("NaN or infinity")
  return array


def _only_array(archive) -> np.ndarray:
  """The embedding in an .npz file."""
  if not isinstance(archive, np.lib.npyio.NpzFile):
    raise BadItemError("expected an archive of arrays, found something else")
  names = archive.files
  named = [name for name in ("embedding", "embeddings") if name in names]
  chosen = named or names
  if len(chosen) != 1:
    raise BadItemError(
      "expected one array, or one named embedding, found"
      f" {', '.join(names) or 'none'}"
    )
  array = archive[chosen[0]]
  if not isinstance(array, np.ndarray):
    raise BadItemError(f"expected an array as {chosen[0]}, found other bytes")
  return array


class ArrayReader:
  """Reads the arrays of items, and checks that they all have one form.

  Args:
    align: whether to cut the features of an item to the shortest.
    read_part: see ItemTable; for items with spans.

  Attributes:
    sizes: numbers of each feature, known from the first good item on.
    is_frame_level: whether there is a vector for each frame, likewise.
  """

  def __init__(
    self,
    align: bool = False,
    read_part: Callable[[Item, str], np.ndarray] | None = None,
  ):
    self._align = align
    self._read_part = read_part
    self.sizes: dict[str, int] = {}
    self.is_frame_level: bool | None = None

  def read(self, item: Item) -> dict[str, np.ndarray]:
    """The arrays of an item, by feature.

    Raises:
      BadItemError: it cannot be used.
    """
    if item.problem:
      raise BadItemError(item.problem)
    arrays = {}
    for name, path in item.paths.items():
      if name in item.spans and self._read_part is not None:
        arrays[name] = self._read_part(item, name)
      else:
        arrays[name] = read_array(path)
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
