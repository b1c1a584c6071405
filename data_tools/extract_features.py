"""Makes a data set of video files: frames and sound become features.

  python -m data_tools.extract_features --videos=clips/ --labels=labels.csv
    --output_dir=my_data
  python train.py --dataset_dir=my_data --model=TransformerModel
    --train_dir=my_model

See docs/videos.md.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import startup  # isort: skip
import numpy as np
from absl import flags, logging

import errors
import program_flags
from data_tools import (
  dataset_making,
  extraction_runs,
  video_features,
  video_items,
  work_folder,
)
from data_tools.dataset_writer import DatasetWriter, Report
from data_tools.extraction_runs import MOST_LISTED, Processes
from data_tools.item_table import BadItemError, Item, ItemTable
from engine.dataset_card import PCA_FOLDER, SPLITS
from engine.progress_bar import Progress
from media import decoding, encoders
from media.extraction import VISUAL, Extracted, Extraction
from media.frames import BadVideoError, Sampling
from media.parts import Parts

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  data = program_flags.Subject(program_flags.DATA)
  data.string(
    "videos",
    "",
    "Folder with video files, which is searched with the folders in it; or a"
    " pattern, such as 'clips/*.mp4'; or a CSV with the columns path,labels"
    " and, if wanted, split, id and group. Required.",
  )
  data.string(
    "labels",
    "",
    "CSV with the columns path,labels and, if wanted, split, id and group, or"
    " JSON of {name: category}. Empty: the folder that a video is in.",
  )
  dataset_making.define_writing_flags()
  _define_feature_flags()
  devices = program_flags.Subject(program_flags.DEVICES)
  devices.integer(
    "batch_size", 32, "Frames that the encoder takes at once.", lower_bound=1
  )
  extraction_runs.define_run_flags(devices)


def _define_feature_flags() -> None:
  features = program_flags.Subject(program_flags.FEATURES)
  features.string(
    "encoder",
    encoders.DEFAULT_ENCODER,
    "What turns a frame into numbers, see docs/encoders.md.",
  )
  features.string(
    "encoder_weights",
    "",
    "File with the encoder's weights; empty: the encoder loads its own.",
  )
  features.string(
    "pca_dir",
    "",
    "With --encoder=inception_2015: folder with YouTube-8M's PCA.",
  )
  features.integer(
    "fit_pca",
    0,
    "Numbers to keep of each frame by a PCA of the training videos; 0: all.",
    lower_bound=0,
  )
  features.float(
    "frames_per_second", 1.0, "Frames to take of each second of a video."
  )
  features.integer(
    "num_frames",
    0,
    "Frames to take of each video, evenly spaced, such as 100; 0: by"
    " --frames_per_second.",
    lower_bound=0,
  )
  features.integer(
    "max_frames",
    0,
    "The most frames to take of a video, from its start on; 0: no limit.",
    lower_bound=0,
  )
  features.enum(
    "audio",
    "",
    ["", "vggish"],
    "Adds a feature of the sound; empty: none.",
  )
  features.string(
    "audio_weights",
    "",
    "With --audio=vggish: its checkpoint, vggish_model.ckpt.",
  )
  features.string(
    "audio_pca",
    "",
    "With --audio=vggish: its PCA parameters, vggish_pca_params.npz; empty: the"
    " network's own numbers.",
  )
  features.bool(
    "video_level",
    False,
    "Store the mean of a video's frames, for models of whole videos, instead of"
    " the frames.",
  )


def extraction_from_flags() -> Extraction:
  """The settings that the flags name.

  Raises:
    errors.UserError: they do not go together.
  """
  if FLAGS.num_frames and FLAGS["frames_per_second"].present:
    raise errors.UserError(
      "Expected one of --frames_per_second and --num_frames, received both."
      " Leave one of them out."
    )
  if FLAGS.fit_pca and FLAGS.pca_dir:
    raise errors.UserError(
      "Expected one of --fit_pca and --pca_dir, received both. Leave one of"
      " them out."
    )
  given = {
    field.name: getattr(FLAGS, field.name)
    for field in dataclasses.fields(Extraction)
  }
  if FLAGS.audio and not FLAGS.audio_weights:
    logging.warning(
      "The sound is left out: --audio=%s needs --audio_weights=FILE, see"
      " docs/encoders.md.",
      FLAGS.audio,
    )
    given["audio"] = ""
  for name in ("encoder_weights", "pca_dir", "audio_weights", "audio_pca"):
    given[name] = os.path.abspath(given[name]) if given[name] else ""
  extraction = Extraction(**given)
  _ = extraction.sampling  # raises what is wrong with it
  return extraction


# --------------------------------------------------------------------------
# Items


def find_items() -> tuple[video_items.Videos, ItemTable]:
  """The videos that the flags name.

  Returns:
    What was found, and its items with the problems that show already.

  Raises:
    errors.UserError: there are none, or too many have problems.
  """
  if not FLAGS.videos:
    raise errors.UserError(
      "Expected --videos=FOLDER, a pattern or a CSV, received none. See"
      " docs/videos.md."
    )
  found = video_items.find_labeled_videos(FLAGS.videos, FLAGS.labels)
  for note in found.notes:
    logging.info("%s", note)
  if found.left_out:
    shown = ", ".join(found.left_out[:5])
    more = len(found.left_out) - 5
    logging.info(
      "Left out %d videos without a label: %s%s",
      len(found.left_out),
      shown,
      f" and {more} more" if more > 0 else "",
    )
  items = ItemTable.of([video_items.FEATURE], found.items)
  items.check()
  bad = [item for item in items if item.problem]
  if len(bad) == len(items) or len(bad) > FLAGS.max_bad_fraction * len(items):
    raise errors.UserError(
      f"Expected at most {FLAGS.max_bad_fraction:.2%} of the videos to be"
      f" unusable, received {len(bad)} of {len(items)} before any was opened;"
      f" the first is {bad[0].paths[video_items.FEATURE]}: {bad[0].problem}."
      " Correct the list, or raise --max_bad_fraction."
    )
  return found, items


def _look(items: Sequence[Item], splits: Sequence[str], names) -> None:
  """Decodes a frame of each video; prints what would be extracted."""
  problems = [
    (item.paths[video_items.FEATURE], item.problem)
    for item in items
    if item.problem
  ]
  durations = []
  progress = Progress("Looked at")
  paths = [
    item.paths[video_items.FEATURE] for item in items if not item.problem
  ]
  looked_at = decoding.decode_all(
    paths, Sampling(num_frames=1), (32, 32), num_workers=FLAGS.num_workers
  )
  for done, (path, video, *_) in enumerate(looked_at, 1):
    if isinstance(video, BadVideoError):
      problems.append((path, str(video)))
    else:
      durations.append(video.duration)
    if progress.is_due():
      progress.show(done / len(paths), f"{done} of {len(paths)} videos")
  progress.end()
  for path, problem in problems[:MOST_LISTED]:
    print(f"{path}: {problem}")
  counts = ", ".join(f"{splits.count(split)} {split}" for split in SPLITS)
  hours = sum(durations) / 3600
  longest = max(durations, default=0.0)
  print(
    f"{len(items)} videos ({counts}), {len(names)} classes, {hours:.2f} hours,"
    f" the longest {longest:.0f} s; {len(problems)} cannot be used. Nothing was"
    " written."
  )


# --------------------------------------------------------------------------
# The data set


class Source:
  """Where the writer of the data set finds the features of items.

  Args:
    items: the videos.
    keys: of each the key in the parts.
    parts: of the extraction.
  """

  def __init__(self, items: Sequence[Item], keys: Sequence[str], parts: Parts):
    self._parts = parts
    self._key_of: dict[str, str] = {}
    for item, key in zip(items, keys, strict=True):
      self._key_of.setdefault(item.video_id, key)

  def read(self, item: Item) -> Extracted:
    """See extraction_runs.read_extracted."""
    key = self._key_of[item.video_id]
    return extraction_runs.read_extracted(item, key, self._parts)

  def frames_of(self, items: Sequence[Item]) -> Iterator[np.ndarray]:
    """The pictures' features of each video that has some."""
    for item in items:
      try:
        yield self.read(item).arrays[VISUAL]
      except BadItemError:
        continue


def _write_dataset(
  source: Source,
  items: Sequence[Item],
  splits: Sequence[str],
  names: Sequence[str],
  extraction: Extraction,
  folder: str,
  left_out: Sequence[str],
) -> Report:
  """Writes the data set.

  Args:
    source: of the features.
    items: the videos.
    splits: of each.
    names: of the classes.
    extraction: the settings.
    folder: for what is written on the way.
    left_out: videos to list in the report.
  """
  settings = {**extraction.to_dict(), "video_level": FLAGS.video_level}
  folders = {}
  if FLAGS.fit_pca:
    train = [
      item
      for item, split in zip(items, splits, strict=True)
      if split == "train"
    ]
    folders[PCA_FOLDER] = os.path.join(folder, PCA_FOLDER)
    video_features.fit_pca(
      source.frames_of(train),
      FLAGS.fit_pca,
      extraction.encoder,
      folders[PCA_FOLDER],
    )
  settings["fit_pca"] = FLAGS.fit_pca
  finish = video_features.Finish(settings, folders.get(PCA_FOLDER, ""))
  options = dataset_making.options_from_flags(
    "extract_features",
    FLAGS.videos,
    extraction=settings,
    folders=folders,
    left_out=[(os.path.basename(path), path, "no label") for path in left_out],
  )
  writer = DatasetWriter(
    items,
    splits,
    names,
    lambda item: finish(source.read(item).arrays),
    options,
  )
  return writer.write(FLAGS.output_dir)


def main() -> None:
  """Extracts what the flags name."""
  output_dir = dataset_making.check_output_dir(FLAGS.videos, FLAGS.labels)
  processes = Processes.from_flags()
  extraction = extraction_from_flags()
  found, table = find_items()
  names = dataset_making.find_classes(table)
  splits = dataset_making.choose_splits(table)
  items = list(table)
  if FLAGS.dry_run:
    _look(items, splits, names)
    return
  folder = work_folder.path_beside(output_dir)
  videos = video_items.files_to_extract(items, found.keys)
  inputs = [FLAGS.videos, FLAGS.labels, *extraction.files, *videos.values()]
  is_shard = processes.shard is not None
  with work_folder.opened(folder, "output_dir", inputs, shared=is_shard):
    parts = extraction_runs.extract(
      folder, videos, extraction, processes, batch_size=FLAGS.batch_size
    )
    if parts is None:
      return
    report = _write_dataset(
      Source(items, found.keys, parts),
      items,
      splits,
      names,
      extraction,
      folder,
      found.left_out,
    )
    work_folder.remove(folder)
  print(dataset_making.describe(report, names, FLAGS.output_dir))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
