"""The video files that a flag names, with their ids and labels."""

import collections
import dataclasses
import glob
import os
from collections.abc import Sequence

import errors
from data_tools.embedding_items import FILE_ENDINGS, PARQUET_ENDING
from data_tools.item_lists import (
  categories_of,
  known_split,
  read_labels,
  read_rows,
  split_labels,
)
from data_tools.item_table import BadItemError, Item
from reports.results import readable

VIDEO_ENDINGS = frozenset(
  (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
  )
)
FEATURE = "video"
"""The key of an item's path."""

_MANY_FILES = "several files have this name; write its folder too"


@dataclasses.dataclass(frozen=True)
class Videos:
  """The videos that a flag names.

  Attributes:
    items: each with the path of its file.
    keys: of each its path relative to the folder or list that named it; all
      different.
    left_out: paths of files without a line in the labels.
    notes: what was decided, a line each.
  """

  items: Sequence[Item]
  keys: Sequence[str]
  left_out: Sequence[str] = ()
  notes: Sequence[str] = ()


def files_to_extract(
  items: Sequence[Item], keys: Sequence[str]
) -> dict[str, str]:
  """{key: file} of the videos that have no problem yet."""
  return {
    key: item.paths[FEATURE]
    for item, key in zip(items, keys, strict=True)
    if not item.problem
  }


def _key(path: str, root: str) -> str:
  """The path relative to a folder, the same on each machine."""
  return os.path.relpath(path, root or ".").replace(os.sep, "/")


def _stem(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


# --------------------------------------------------------------------------
# Files


def _files_of_folder(folder: str) -> list[str]:
  """The files with the ending of a video, in a folder and those in it."""
  found = []
  for place, folders, names in os.walk(folder, followlinks=True):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    found += [
      os.path.join(place, name)
      for name in names
      if os.path.splitext(name)[1].lower() in VIDEO_ENDINGS
      and not name.startswith(".")
    ]
  return sorted(found)


def _files_and_root(videos: str) -> tuple[list[str], str]:
  """The files of a folder, a pattern or a path; and the folder they are in.

  Raises:
    errors.UserError: there are none.
  """
  if os.path.isdir(videos):
    files, root = _files_of_folder(videos), videos
    what = f"files with the ending {', '.join(sorted(VIDEO_ENDINGS))} in"
  else:
    files = [videos] if os.path.isfile(videos) else []
    files = files or sorted(glob.glob(videos, recursive=True))
    files = [path for path in files if os.path.isfile(path)]
    root = os.path.dirname(videos)
    while glob.has_magic(root) and not os.path.isdir(root):
      root = os.path.dirname(root)
    what = "a folder, a CSV or a pattern of video files as"
  if not files:
    raise errors.UserError(
      f"Expected {what} --videos={videos}, found none. Name the folder of your"
      " videos, or a pattern in quotes, such as 'clips/*.mp4'."
    )
  embeddings = (*FILE_ENDINGS, PARQUET_ENDING)
  if all(path.lower().endswith(embeddings) for path in files):
    raise errors.UserError(
      f"Expected video files as --videos={videos}, received {files[0]}. Of"
      " embeddings, python -m data_tools.import_embeddings makes a data set."
    )
  return files, root


def name_videos(keys: Sequence[str]) -> tuple[list[str], str]:
  """Ids of videos: the names of their files, as far as these differ.

  Args:
    keys: paths relative to one folder, all different.

  Returns:
    The ids: names without ending; if two are equal, paths without ending; if
    two of these are equal, paths. And a line that says so, or an empty text.
  """
  keys = [readable(key) for key in keys]
  names = [_stem(key) for key in keys]
  if len(set(names)) == len(names):
    return names, ""
  twice, _ = collections.Counter(names).most_common(1)[0]
  note = f"Several files are called {twice}: the ids of the videos are "
  paths = [os.path.splitext(key)[0] for key in keys]
  if len(set(paths)) == len(paths):
    return paths, f"{note}their paths without ending."
  return keys, f"{note}their paths."


# --------------------------------------------------------------------------
# Tables


def _read_label_json(path: str) -> list[dict]:
  """Lines of the JSON that item_lists.read_labels reads."""
  rows = []
  for name, category in read_labels(path, "a CSV that ends in .csv, or "):
    try:
      rows.append({"path": name, "labels": categories_of(category)})
    except BadItemError as error:
      rows.append({"path": name, "labels": [], "problem": str(error)})
  return rows


def _item(row: dict, video_id: str, path: str, problem: str = "") -> Item:
  """The item of a line of a table."""
  if "\0" in path:  # Python raises a ValueError for it
    problem = "a path with a NUL"
  labels = row.get("labels", "")
  split, trouble = known_split(row.get("split", ""))
  return Item(
    video_id=row.get("id") or video_id,
    paths={FEATURE: path},
    labels=labels if isinstance(labels, list) else split_labels(labels),
    split=split,
    group=row.get("group", ""),
    problem=problem or row.get("problem", "") or trouble,
  )


# --------------------------------------------------------------------------
# Videos


def find_videos(videos: str) -> Videos:
  """Finds the videos of --videos, without labels.

  Args:
    videos: a folder, which is searched with the folders in it; a pattern; a
      file; or a CSV with the columns path and, if wanted, id.

  Raises:
    errors.UserError: there are none.
  """
  if videos.lower().endswith(".csv"):
    return _listed_videos(videos, ("path",))
  files, root = _files_and_root(videos)
  keys = [_key(path, root) for path in files]
  ids, note = name_videos(keys)
  items = [_item({}, *pair) for pair in zip(ids, files, strict=True)]
  return Videos(items, keys, notes=[note] if note else [])


def find_labeled_videos(videos: str, labels: str) -> Videos:
  """Finds the videos of --videos and their labels.

  Args:
    videos: see find_videos; a CSV also has the column labels.
    labels: a CSV with path,labels, or JSON; empty: the labels are in the CSV
      of --videos, or they are the names of the folders in its folder.

  Raises:
    errors.UserError: there are no videos or no labels.
  """
  if videos.lower().endswith(".csv"):
    if labels:
      raise errors.UserError(
        f"Expected the labels in --videos={videos}, received"
        f" --labels={labels} too. Leave --labels out, or name a folder."
      )
    return _listed_videos(videos, ("path", "labels"))
  found = find_videos(videos)
  if not labels:
    return _labeled_by_folder(found, videos)
  if labels.lower().endswith(".csv"):
    rows = list(read_rows(labels, "labels", ("path", "labels")))
  else:
    rows = _read_label_json(labels)
  return _labeled_by_rows(found, rows, os.path.dirname(labels))


def _listed_videos(table: str, columns: Sequence[str]) -> Videos:
  """The videos of a CSV, in its order."""
  rows = list(read_rows(table, "videos", columns))
  if not rows:
    raise errors.UserError(
      f"Expected lines with videos in --videos={table}, found none."
    )
  root = os.path.dirname(table)
  rows_of: dict[str, dict] = {}
  repeated = []
  for row in rows:
    path = os.path.join(root, row["path"])
    if rows_of.setdefault(_key(path, root), row) is not row:
      repeated.append(row["path"])
  ids, note = name_videos(list(rows_of))
  items = [
    _item(
      row,
      video_id,
      os.path.join(root, row["path"]),
      "" if row["path"] else "no path",
    )
    for video_id, row in zip(ids, rows_of.values(), strict=True)
  ]
  notes = [note] if note and not all(row.get("id") for row in rows) else []
  if repeated:
    notes.append(
      f"{len(repeated)} lines of {table} name a file again and have no effect,"
      f" such as that of {repeated[0]}."
    )
  return Videos(items, list(rows_of), notes=notes)


def _labeled_by_folder(found: Videos, videos: str) -> Videos:
  """Labels videos by the first folder of their path.

  Raises:
    errors.UserError: none is in a folder.
  """
  items, keys, left_out = [], [], []
  for item, key in zip(found.items, found.keys, strict=True):
    folder, slash, _ = key.partition("/")
    if slash:
      items.append(item._replace(labels=[readable(folder)]))
      keys.append(key)
    else:
      left_out.append(item.paths[FEATURE])
  if not items:
    raise errors.UserError(
      f"Expected --labels=FILE.csv with the columns path,labels, or videos in a"
      f" folder for each class, received --videos={videos} without either."
    )
  counts = collections.Counter(item.labels[0] for item in items)
  most = [f"{name} ({count})" for name, count in counts.most_common(8)]
  more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
  note = f"The classes are the names of the folders: {', '.join(most)}{more}."
  return Videos(items, keys, left_out, [*found.notes, note])


def _labeled_by_rows(found: Videos, rows: list[dict], folder: str) -> Videos:
  """Labels videos by lines that name them.

  Args:
    found: the videos.
    rows: lines with path, labels and, if wanted, split, id and group.
    folder: of the file with these lines.
  """
  of_path = {
    os.path.abspath(item.paths[FEATURE]): number
    for number, item in enumerate(found.items)
  }
  of_key = {key: number for number, key in enumerate(found.keys)}
  of_name = collections.defaultdict(set)
  for number, key in enumerate(found.keys):
    for name in {key, os.path.splitext(key)[0]}:
      of_name[name].add(number)
      of_name[os.path.basename(name)].add(number)
  items, keys, used, extra = [], [], set(), 0
  for row in rows:
    path = row["path"]
    at = of_path.get(os.path.abspath(os.path.join(folder, path)))
    at = of_key.get(os.path.normpath(path)) if at is None else at
    matches = {at} if at is not None else of_name[os.path.normpath(path)]
    if len(matches) == 1 and not matches & used:
      (number,) = matches
      used.add(number)
      item, key = found.items[number], found.keys[number]
      items.append(_item(row, item.video_id, item.paths[FEATURE]))
      keys.append(key)
      continue
    problem = "no such file" if path else "no path"
    if len(matches) > 1:
      problem = _MANY_FILES
    elif matches:
      problem = "an earlier line has the same file"
    extra += 1
    items.append(_item(row, path, os.path.join(folder, path), problem))
    keys.append(f"line without a video, {extra}")
  left_out = [
    item.paths[FEATURE]
    for number, item in enumerate(found.items)
    if number not in used
  ]
  return Videos(items, keys, left_out, found.notes)
