"""Makes a data set of embeddings that are there already, one file a video.

  python -m data_tools.import_embeddings --manifest=a.csv --output_dir=my_data
  python train.py --dataset_dir=my_data --model=TransformerModel
    --train_dir=my_model

See docs/your_own_data.md.
"""

import glob
import itertools
import os

import startup  # isort: skip
from absl import flags

import errors
import program_flags
from data_tools import (
  dataset_making,
  embedding_items,
  parquet_items,
  webdataset_items,
)
from data_tools.dataset_writer import DatasetWriter
from data_tools.embedding_items import ArrayReader
from data_tools.item_lists import read_labels_once
from data_tools.item_table import BadItemError, ItemTable
from engine.data_files import expand_ranges, find_files
from engine.dataset_card import SPLITS
from engine.progress_bar import Progress
from records.contents import WITH_FRAMES, dtype_key

FLAGS = flags.FLAGS

SOURCES = ("manifest", "embeddings_dir", "parquet", "webdataset")


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
  dataset_making.define_writing_flags()


# --------------------------------------------------------------------------
# Items


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
  for name in names or [None]:
    reason = ""
    if name is None:
      reason = "none"
    elif not name:
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
  dataset_making.check_output_dir(FLAGS.manifest, FLAGS.labels)
  items = find_items()
  names = dataset_making.find_classes(items)
  chosen = dataset_making.choose_splits(items)
  if FLAGS.dry_run:
    _look(items, chosen, names)
    return
  options = dataset_making.options_from_flags(
    "import_embeddings", _source()[1], in_order=items.is_streamed
  )
  reader = ArrayReader(FLAGS.align == "truncate", items.read_part)
  writer = DatasetWriter(items, chosen, names, reader.read, options)
  report = writer.write(FLAGS.output_dir)
  print(dataset_making.describe(report, names, FLAGS.output_dir))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
