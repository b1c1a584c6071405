"""Makes a data set of embeddings that are there already, one file a video.

  python -m data_tools.import_embeddings --manifest=a.csv --output_dir=my_data
  python train.py --dataset_dir=my_data --model=TransformerModel
    --train_dir=my_model

See docs/your_own_data.md.
"""

import collections
import glob
import itertools
import os
import shlex
import sys

import startup  # isort: skip
import numpy as np
from absl import flags

import errors
import program_flags
from data_tools import (
  embedding_items,
  parquet_items,
  splits,
  webdataset_items,
)
from data_tools.dataset_writer import DatasetWriter, Options, Report, check_free
from data_tools.embedding_items import ArrayReader
from data_tools.item_lists import read_labels_once
from data_tools.item_table import BadItemError, ItemTable
from data_tools.number_stores import STORES
from data_tools.text_table import aligned, cut, printable
from engine.data_files import expand_ranges, find_files
from engine.dataset_card import SPLITS
from engine.progress_bar import Progress
from records.contents import WITH_FRAMES, dtype_key

FLAGS = flags.FLAGS

SOURCES = ("manifest", "embeddings_dir", "parquet", "webdataset")

_MOST_LISTED = 12
_NAME_COLUMNS = 40
# Of class indices: more would be more classes than any data has.
_MOST_DIGITS = 6


def define_flags() -> None:
  """Defines the flags of this program."""
  data = program_flags.Subject(program_flags.DATA)
  data.string(
    "manifest",
    "",
    "CSV with a line for each video: path,labels and, if wanted,"
    " split,id,group. Paths are relative to it; several labels have semicolons"
    " between them.",
  )
  data.string(
    "embeddings_dir",
    "",
    "Instead of a manifest: folder of ID.npy, ID.npz, ID.json or ID.parquet;"
    " needs --labels.",
  )
  data.string(
    "labels",
    "",
    "With --embeddings_dir: JSON of {id: category}, or of [id, category]"
    " pairs. With --parquet or --webdataset: instead of the labels in these.",
  )
  data.string(
    "parquet",
    "",
    "Instead of a manifest: pattern of parquet files with the columns id,"
    " labels, embedding (or --feature_names) and, if wanted, frame, split and"
    " group.",
  )
  data.string(
    "webdataset",
    "",
    "Instead of a manifest: pattern of tars, such as x/{000..099}.tar, with"
    " KEY.npy and, for the labels, KEY.cls, KEY.json or KEY.txt.",
  )
  data.list(
    "feature_names",
    ["embedding"],
    "Names of the features. Of several, the manifest has a column path_NAME"
    " for each.",
  )
  data.enum(
    "align",
    "",
    ["", "truncate"],
    "truncate: cut the features of a video to the shortest; empty: leave out"
    " videos whose features have unequally many frames.",
  )
  define_writing_flags()


def define_writing_flags() -> None:
  """Defines the flags of each program that makes a data set of items."""
  data = program_flags.Subject(program_flags.DATA)
  data.list(
    "splits",
    ["train:0.8", "validate:0.1", "test:0.1"],
    "Part of the videos that each split gets, by class; those that are listed"
    " with a split keep it.",
  )
  data.float(
    "max_bad_fraction",
    0.05,
    "The largest part of the items that may be left out.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  data.integer("seed", 0, "Decides the splits and the order of the videos.")
  output = program_flags.Subject(program_flags.OUTPUT)
  output.string("output_dir", "", "Folder to make; required.")
  output.enum(
    "store",
    "float16",
    list(STORES),
    "How to store numbers. float16 has 11 significant bits for each, and takes"
    " half the disk and the time to read of float32. uint8 takes a quarter; it"
    " divides the range of each feature in 255 steps, so that a few large"
    " numbers make all coarse, and reads all items twice.",
  )
  output.bool("dry_run", False, "Look at the data; write nothing.")


# --------------------------------------------------------------------------
# Items, classes, splits


def _source() -> tuple[str, str]:
  """The flag that names the items, and its value.

  Raises:
    errors.UserError: there is none, or several.
  """
  given = [(name, getattr(FLAGS, name)) for name in SOURCES]
  given = [(name, value) for name, value in given if value]
  if len(given) != 1:
    raise errors.UserError(
      "Expected one of --manifest=FILE.csv, --embeddings_dir=FOLDER,"
      " --parquet='FILES.parquet' and --webdataset='FILES.tar', received"
      f" {' and '.join(f'--{name}' for name, _ in given) or 'none'}. See"
      " docs/your_own_data.md."
    )
  return given[0]


def _check_feature_names(names: list[str]) -> None:
  """Checks that records can have features of these names.

  Raises:
    errors.UserError: they cannot.
  """
  for name in names:
    reason = ""
    if not name:
      reason = "an empty one"
    elif names.count(name) > 1:
      reason = f"{name} twice"
    elif name in WITH_FRAMES or name.endswith(dtype_key("")):
      reason = f"{name}, which records use for something else"
    if reason:
      raise errors.UserError(
        f"Expected different names of features as --feature_names, received"
        f" {reason}. Choose others."
      )


def find_items() -> ItemTable:
  """The items that the flags name.

  Raises:
    errors.UserError: there are none, or the flags do not go together.
  """
  names = FLAGS.feature_names
  source, value = _source()
  _check_feature_names(names)
  if source == "manifest":
    if FLAGS.labels:
      raise errors.UserError(
        "Expected the labels in the column labels of --manifest, received"
        f" --labels={FLAGS.labels} too. Leave it out."
      )
    items = embedding_items.read_manifest(value, names)
    items = parquet_items.find_in_manifest(items, names)
  elif source == "embeddings_dir":
    if not FLAGS.labels:
      raise errors.UserError(
        "Expected --labels=FILE.json with {id: category} for"
        f" --embeddings_dir={value}, received none. Write it, or a --manifest"
        " with the columns path,labels."
      )
    if len(names) > 1:
      raise errors.UserError(
        "Expected one feature with --embeddings_dir, received"
        f" --feature_names={','.join(names)}. Of several features, write a"
        " --manifest."
      )
    items = embedding_items.read_folder(value, FLAGS.labels, names[0])
    items = parquet_items.find_in_manifest(items, names)
  else:
    if os.path.isdir(value):
      ending = "tar" if source == "webdataset" else "parquet"
      folder = glob.escape(value).replace(",", "\\,")
      value = os.path.join(folder, f"*.{ending}")
    pattern = ",".join(expand_ranges(value, source))
    items = _find_in_containers(source, find_files(pattern, source), names)
  if not items:
    raise errors.UserError(f"Expected items in {value}, found none.")
  items.check()
  return items


def _find_in_containers(source, files: list[str], names) -> ItemTable:
  """The items in parquet files or tars."""
  labels = None
  if FLAGS.labels:
    labels = read_labels_once(FLAGS.labels)
  progress = Progress("Looked through")

  def tell(done: float, found: int) -> None:
    if progress.is_due():
      progress.show(done, f"{done:.0%} of {len(files)} files, {found} videos")

  read = parquet_items.read_tables
  if source == "webdataset":
    read = webdataset_items.read_tars
  try:
    return read(files, names, labels, tell)
  finally:
    progress.end()


def find_classes(items: ItemTable) -> list[str]:
  """The classes, in the order of their indices.

  If all labels are whole numbers, these are the indices, and 01 becomes 1; else
  the names are sorted.

  Args:
    items: whose labels become as the classes are called.

  Raises:
    errors.UserError: the numbers are too large for indices.
  """
  names = items.label_names
  if not all(name.isdecimal() and name.isascii() for name in names):
    return sorted(names)
  too_large = [name for name in names if len(name.lstrip("0")) > _MOST_DIGITS]
  if too_large:
    raise errors.UserError(
      "Expected names, or class indices from 0 on, as labels, received numbers"
      f" only, such as {too_large[0]}. A model has an output for each index."
      " Number the classes from 0, or give them names."
    )
  items.rename_labels([str(int(name)) for name in names])
  return [str(index) for index in range(max(map(int, names), default=-1) + 1)]


def choose_splits(items: ItemTable) -> list[str]:
  """The split of each item: its own, else a share of its class.

  Raises:
    errors.UserError: --splits is no list of fractions; items of one group have
      different splits.
  """
  fractions = splits.parse_splits(FLAGS.splits)
  typed: dict[str, str] = {}
  chosen = [items.split(index) for index in range(len(items))]
  for group, split in zip(items.groups, chosen, strict=True):
    if split and group and typed.setdefault(group, split) != split:
      raise errors.UserError(
        f"Expected one split for the group {group}, received {typed[group]} and"
        f" {split}. Correct the column split or group."
      )
  if typed:
    chosen = [
      split or typed.get(group, "")
      for group, split in zip(items.groups, chosen, strict=True)
    ]
  free = np.flatnonzero([not split for split in chosen]).tolist()
  shares = splits.assign_splits(
    (items.groups[index] or f"id {items.ids[index]}" for index in free),
    ((items.labels(index) or [""])[0] for index in free),
    fractions,
    FLAGS.seed,
  )
  for index, split in zip(free, shares, strict=True):
    chosen[index] = split
  return chosen


def check_output_dir() -> None:
  """Checks --output_dir before any work.

  Raises:
    errors.UserError: it is missing or not free.
  """
  if not FLAGS.output_dir:
    raise errors.UserError(
      "Expected --output_dir=FOLDER, the folder to make, received none."
    )
  check_free(FLAGS.output_dir)


# --------------------------------------------------------------------------
# What was done


def describe(report: Report, names: list[str], output_dir: str) -> str:
  """What was written, and the command that trains on it, as text."""
  card = report.card
  features = ", ".join(
    f"{name} ({size} {dtype})"
    for name, size, dtype in zip(
      card.feature_names, card.feature_sizes, card.feature_dtypes, strict=True
    )
  )
  num_videos = sum(of["videos"] for of in card.splits.values())
  lines = [
    f"{num_videos} videos, {len(names)} classes, {features},"
    f" {report.num_bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
    f" ({num_videos / report.seconds:.0f} videos/s)"
  ]
  if card.frame_features:
    lines.append(f"Frames of a video: {report.num_frames / num_videos:.1f}")
  lines += report.storage_errors
  if report.bad_items:
    lines.append(
      f"Left out {len(report.bad_items)} items, listed with reasons in"
      f" {output_dir}/import_report.csv"
    )
  lines += ["", *_class_table(report, names), "", "Train on it with", ""]
  model = "FrameLevelLogisticModel" if card.frame_features else "LogisticModel"
  folder = shlex.quote(output_dir)
  lines.append(
    f"  python train.py --dataset_dir={folder} --model={model}"
    " --train_dir=my_model"
  )
  return "\n".join(lines)


def _class_table(report: Report, names: list[str]) -> list[str]:
  """Lines with the number of videos of the most frequent classes by split."""
  present = [split for split in SPLITS if split in report.card.splits]
  total = collections.Counter()
  for of_split in report.class_counts.values():
    total.update(of_split)
  rows = [["class", *present]]
  for index, _ in total.most_common(_MOST_LISTED):
    counts = [str(report.class_counts[split][index]) for split in present]
    rows.append([cut(printable(names[index]), _NAME_COLUMNS), *counts])
  if len(total) > _MOST_LISTED:
    rows.append([f"and {len(total) - _MOST_LISTED} more", *[""] * len(present)])
  rows.append(
    ["videos", *[str(report.card.splits[split]["videos"]) for split in present]]
  )
  return aligned(rows)


def _look(items: ItemTable, chosen: list[str], names: list[str]) -> None:
  """Prints what would be imported."""
  reader = ArrayReader(FLAGS.align == "truncate", items.read_part)
  found = "no array that can be read among the first 100"
  for item in itertools.islice(items, 100):
    try:
      arrays = reader.read(item)
    except BadItemError:
      continue
    found = ", ".join(f"{name} {of.shape}" for name, of in arrays.items())
    break
  counts = ", ".join(f"{chosen.count(split)} {split}" for split in SPLITS)
  print(
    f"{len(items)} items ({counts}), {len(names)} classes, the first array:"
    f" {found}; {items.num_problems} without labels or otherwise unusable."
    " Nothing was written."
  )


def main() -> None:
  """Imports what the flags name."""
  check_output_dir()
  items = find_items()
  names = find_classes(items)
  chosen = choose_splits(items)
  if FLAGS.dry_run:
    _look(items, chosen, names)
    return
  options = Options(
    store=FLAGS.store,
    seed=FLAGS.seed,
    max_bad_fraction=FLAGS.max_bad_fraction,
    made_by={
      "command": shlex.join(
        ["python", "-m", "data_tools.import_embeddings", *sys.argv[1:]]
      ),
      "source": os.path.abspath(_source()[1]),
    },
    in_order=items.is_streamed,
  )
  reader = ArrayReader(FLAGS.align == "truncate", items.read_part)
  writer = DatasetWriter(items, chosen, names, reader.read, options)
  report = writer.write(FLAGS.output_dir)
  print(describe(report, names, FLAGS.output_dir))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
