"""What the programs that make a data set of items have in common.

Their flags, the classes and splits of the items, and what is said at the end.
"""

import collections
import os
import shlex
import sys

import numpy as np
from absl import flags

import errors
import program_flags
from data_tools import splits
from data_tools.dataset_writer import (
  FAILED_REPORT,
  REPORT_COLUMNS,
  Options,
  Report,
)
from data_tools.item_table import ItemTable
from data_tools.number_stores import STORES
from data_tools.text_table import aligned, cut, printable
from engine import csv_cells, files
from engine.data_files import check_not_used, check_own
from engine.dataset_card import SPLITS

FLAGS = flags.FLAGS

_MOST_LISTED = 12
_NAME_COLUMNS = 40
# Of class indices: more would be more classes than any data has.
_MOST_DIGITS = 6


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
# From flags and items to what is written


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


def check_output_dir(*used: str) -> str:
  """Checks --output_dir before any work.

  Args:
    *used: files that the command reads; empty for none.

  Returns:
    Its path, see files.free_folder.

  Raises:
    errors.UserError: it is missing or not free, or the list of what is left out
      may replace a file that is used.
  """
  if not FLAGS.output_dir:
    raise errors.UserError(
      "Expected --output_dir=FOLDER, the folder to make, received none."
    )
  output_dir = files.free_folder(FLAGS.output_dir)
  listed = FAILED_REPORT.format(output_dir=output_dir)
  check_not_used(listed, "output_dir", filter(None, used))
  check_own(listed, "output_dir", csv_cells.line(REPORT_COLUMNS))
  return output_dir


def options_from_flags(program: str, source: str, **more) -> Options:
  """How to write the data set.

  Args:
    program: its name in data_tools.
    source: path of what the data set is made of.
    **more: other attributes of Options.
  """
  command = ["python", "-m", f"data_tools.{program}", *sys.argv[1:]]
  return Options(
    store=FLAGS.store,
    seed=FLAGS.seed,
    max_bad_fraction=FLAGS.max_bad_fraction,
    made_by={
      "command": shlex.join(command),
      "source": os.path.abspath(source),
    },
    **more,
  )


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
