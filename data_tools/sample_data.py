"""Makes a data set in the YouTube-8M format that is worth learning.

It lets you try every program without a download, and measure how fast large
data is read. See data_tools/sample_videos.py for its contents.

  python -m data_tools.sample_data --output_dir=/tmp/my_data

writes to output_dir

  frame/train0000.tfrecord ...  frame-level records, also validate and test
  video/train0000.tfrecord ...  video-level records of the same videos
  segment/train0000.tfrecord ...
                                with --levels=segment: the frame-level records
                                with ratings of their segments of 5 s
  vocabulary.csv                the class names, in the official columns
  sample_data.json              the arguments that made the data

The programs call `pattern_or_sample_data` to use a default data set if the user
names no data.
"""

import contextlib
import csv
import dataclasses
import os
import re
import shutil
import time

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
from data_tools import sample_videos
from data_tools.sample_videos import (
  MAX_LABEL_SCENES,
  SPLITS,
  SampleDataError,
  Settings,
)
from engine import files, local_files
from engine.data_files import is_local

DEFAULT_FOLDER = "/tmp/yt8m_sample_data"
DEFAULT_SETTINGS = Settings()
# Rated segments are a data set for themselves. The classes look as in the other
# one, so that a model may learn from both; videos are longer, so that most
# segments do not show all classes of their video.
SEGMENT_FOLDER = "/tmp/yt8m_sample_segments"
SEGMENT_SETTINGS = Settings(
  num_videos=240, min_frames=20, max_frames=30, levels=("segment",)
)
# The batches of many models are larger than the default train split. Batches of
# at most this size leave at least 30 steps in an epoch, enough to learn from.
MAX_BATCH_SIZE = 16

_PROGRESS_SECONDS = 5.0
_DESCRIPTION_FILE = "sample_data.json"
_VOCABULARY_HEADER = (
  "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,"
  "Vertical1,Vertical2,Vertical3,WikiDescription\n"
)


def sample_data_pattern(
  split: str,
  frame_features: bool,
  folder: str = DEFAULT_FOLDER,
  segment_labels: bool = False,
) -> str:
  """Returns the glob pattern of the records of a split.

  Args:
    split: one of SPLITS.
    frame_features: True for frame-level records, False for video-level ones.
    folder: what ensure_sample_data() returned.
    segment_labels: True for frame-level records with rated segments.

  Raises:
    SampleDataError: if the split is not one of SPLITS.
  """
  if split not in SPLITS:
    raise SampleDataError(
      f"Expected a split of {', '.join(SPLITS)}, received {split!r}. Name one"
      " of these."
    )
  level = "frame" if frame_features else "video"
  if segment_labels:
    level = "segment"
  return os.path.join(folder, level, f"{split}*.tfrecord")


def pattern_or_sample_data(
  pattern: str, split: str, frame_features: bool, segment_labels: bool = False
) -> str:
  """Returns a flag's glob pattern, or that of the sample data if it is empty.

  Makes the default sample data set if it does not exist yet.

  Args:
    pattern: the value of the flag.
    split: see sample_data_pattern.
    frame_features: see sample_data_pattern.
    segment_labels: whether the examples are rated segments, which only
      frame-level records have.
  """
  if pattern:
    return pattern
  if segment_labels and frame_features:
    folder = ensure_sample_data(SEGMENT_FOLDER, SEGMENT_SETTINGS)
    return sample_data_pattern(split, True, folder, segment_labels=True)
  return sample_data_pattern(split, frame_features, ensure_sample_data())


def is_sample_data(path: str) -> bool:
  """Whether a file is one of the default data sets."""
  return path.startswith((f"{DEFAULT_FOLDER}/", f"{SEGMENT_FOLDER}/"))


def make_sample_data(
  output_dir: str, settings: Settings = DEFAULT_SETTINGS
) -> None:
  """Writes a data set to a new folder.

  It is written to a folder `<output_dir>.partial-...` and renamed when it is
  complete. If the same data set exists already, nothing is done.

  Args:
    output_dir: the folder, which must be empty or not exist.
    settings: what to make.

  Raises:
    SampleDataError: if output_dir holds anything else or is a URL, or if the
      disk is too full.
    errors.UserError: if it is a mount point.
    OSError: if output_dir cannot be written.
    tf.errors.OpError: as above.
  """
  if not is_local(output_dir):
    raise SampleDataError(
      f"Expected output_dir on a local disk, received {output_dir}. Make the"
      " data locally and copy it."
    )
  target = os.path.realpath(output_dir)
  if _is_complete(target, settings):
    logging.info("%s already holds this data set.", output_dir)
    return
  occupied = SampleDataError(
    f"Expected a new or an empty folder as output_dir, received {output_dir},"
    " which holds other files. Name another folder or delete this one."
  )
  if _is_occupied(target):
    raise occupied
  with _partial_folder(target, settings) as partial:
    logging.info(
      "Writing about %.0f MB to %s", _num_bytes(settings) / 1e6, partial
    )
    _write_data_set(partial, settings)
    try:
      files.put_in_place(partial, target)
    except files.FOLDER_EXISTS_ERRORS as error:
      raise occupied from error
  logging.info("The data set is complete: %s", output_dir)


def ensure_sample_data(
  folder: str = DEFAULT_FOLDER, settings: Settings | None = None
) -> str:
  """Makes a default data set if it does not exist yet.

  Several processes may call this at the same time. A data set of another
  version, with other arguments or with missing files is replaced.

  Args:
    folder: where the data set should be.
    settings: what to make; None for DEFAULT_SETTINGS.

  Returns:
    folder.

  Raises:
    SampleDataError: if the folder holds anything but sample data, or if the
      disk is too full.
    errors.UserError: if it is a mount point.
    OSError: if the folder cannot be written.
    tf.errors.OpError: as above.
  """
  target = os.path.realpath(folder)
  settings = settings or DEFAULT_SETTINGS
  while not _is_complete(target, settings):
    if _is_occupied(target) and not _is_all_ours(target):
      raise SampleDataError(
        f"Expected the sample data set in {folder}, received a folder with"
        " other files. Rename or delete it, or name the data to read."
      )
    with _partial_folder(target, settings) as partial:
      _write_data_set(partial, settings)
      _replace_folder(partial, target, settings)
    logging.info("The sample data set was made in %s", folder)
  return folder


def _shard_names(settings, split):
  """Returns the file names of a split."""
  num_shards = min(settings.num_shards, settings.num_split_videos(split))
  return [f"{split}{shard:04d}.tfrecord" for shard in range(num_shards)]


def _description(settings):
  """Returns the contents of sample_data.json as Python reads them back."""
  return {
    "format_version": sample_videos.FORMAT_VERSION,
    **dataclasses.asdict(settings),
    "levels": list(settings.levels),
  }


def _read_description(folder):
  """Returns the contents of sample_data.json, or None without that file."""
  try:
    with open(
      os.path.join(folder, _DESCRIPTION_FILE), encoding="utf-8"
    ) as file:
      description = errors.parse_json(file.read())
  except (OSError, ValueError):
    return None
  is_ours = isinstance(description, dict) and "format_version" in description
  return description if is_ours else None


def _is_all_ours(folder):
  """Returns whether a folder holds sample data, and no file of the user."""
  own = re.compile(
    rf"{re.escape(_DESCRIPTION_FILE)}|vocabulary\.csv"
    rf"|({'|'.join(SPLITS)})\d+\.tfrecord"
  )
  return _read_description(folder) is not None and all(
    own.fullmatch(name) or local_files.is_of_system(name)
    for _, _, names in os.walk(folder)
    for name in names
  )


def _is_complete(folder, settings):
  """Returns whether the folder holds the data set with all of its files."""
  names = [
    os.path.join(level, name)
    for level in settings.levels
    for split in SPLITS
    for name in _shard_names(settings, split)
  ]
  return _read_description(folder) == _description(settings) and all(
    os.path.isfile(os.path.join(folder, name))
    for name in ["vocabulary.csv", *names]
  )


def _is_occupied(folder):
  """Returns whether a file or a folder that is not empty has this name."""
  try:
    return bool(os.listdir(folder))
  except FileNotFoundError:
    return False
  except NotADirectoryError:
    return True


@contextlib.contextmanager
def _partial_folder(target, settings):
  """Makes a folder next to the target; removes it unless it was renamed."""
  local_files.check_replaceable(target)
  with files.beside(target, "{name}.partial-{token}") as partial:
    os.mkdir(partial)
    needed = _num_bytes(settings)
    free = shutil.disk_usage(partial).free
    if needed > free:
      raise SampleDataError(
        f"Expected {needed / 1e6:,.0f} MB of free disk for the data set,"
        f" received {free / 1e6:,.0f} MB in {os.path.dirname(target)}. Make"
        " fewer or shorter videos, or use another disk."
      )
    yield partial


def _replace_folder(partial, target, settings):
  """Renames a data set into place, over an older one if there is one.

  Does nothing if another process has already put the same data set there.
  """
  # If another process was faster, its data set stays.
  with contextlib.suppress(*files.FOLDER_EXISTS_ERRORS):
    try:
      old = os.open(os.path.join(target, _DESCRIPTION_FILE), os.O_RDONLY)
    except FileNotFoundError:
      files.put_in_place(partial, target)
      return
    try:
      # If several processes find the same old data set, one replaces it; the
      # others wait here and then find the new one.
      local_files.lock(old)
      if not _is_complete(target, settings):
        logging.info("Replacing other sample data in %s.", target)
        files.replace_folder(partial, target)
    finally:
      os.close(old)


def _num_bytes(settings):
  """Estimates the bytes that the records of a data set take."""
  feature_size = sample_videos.RGB_SIZE + sample_videos.AUDIO_SIZE
  mean_frames = (settings.min_frames + settings.max_frames) / 2
  record_bytes = {
    "frame": 80 + mean_frames * (feature_size + 18),
    "video": 120 + 4 * feature_size,
  }
  record_bytes["segment"] = record_bytes["frame"] + 10 * mean_frames
  return sum(record_bytes[level] for level in settings.levels) * sum(
    settings.num_split_videos(split) for split in SPLITS
  )


def _write_data_set(folder, settings):
  """Writes all files of a data set to a folder that exists."""
  for level in settings.levels:
    os.mkdir(os.path.join(folder, level))
  videos = sample_videos.SampleVideos(settings)
  counts = [0] * settings.num_classes
  for split in SPLITS:
    for labels in _write_split(folder, videos, split):
      if split == "train":
        for label in labels:
          counts[label] += 1
  _write_vocabulary(folder, videos.classes, counts)
  files.write_json(
    os.path.join(folder, _DESCRIPTION_FILE), _description(settings)
  )


def _write_split(folder, videos, split):
  """Writes the records of a split; yields each video's labels."""
  settings = videos.settings
  num_videos = settings.num_split_videos(split)
  names = _shard_names(settings, split)
  serializers = {
    "frame": sample_videos.frame_level_record,
    "video": sample_videos.video_level_record,
    "segment": sample_videos.segment_level_record,
  }
  last_report = time.monotonic()
  for shard, name in enumerate(names):
    with contextlib.ExitStack() as stack:
      writers = {
        level: stack.enter_context(
          tf.io.TFRecordWriter(os.path.join(folder, level, name))
        )
        for level in settings.levels
      }
      for number in range(
        shard * num_videos // len(names), (shard + 1) * num_videos // len(names)
      ):
        video = videos.video(split, number)
        for level, writer in writers.items():
          writer.write(serializers[level](video, split != "test"))
        yield video.labels
        if time.monotonic() - last_report > _PROGRESS_SECONDS:
          last_report = time.monotonic()
          logging.info("%s: %d of %d videos", split, number + 1, num_videos)


def _write_vocabulary(folder, classes, counts):
  """Writes vocabulary.csv.

  Args:
    folder: where to write it.
    classes: the SampleClass of each class that occurs.
    counts: for each class of the vocabulary, its videos in the train split.
  """
  generals = {
    entry.topic: index
    for index, entry in enumerate(classes)
    if entry.is_general
  }
  path = os.path.join(folder, "vocabulary.csv")
  with open(path, "w", encoding="utf-8", newline="") as file:
    file.write(_VOCABULARY_HEADER)
    writer = csv.writer(file, lineterminator="\n")
    for index, count in enumerate(counts):
      if index >= len(classes):
        vertical, description = "(Unknown)", "Does not occur in this data set."
      else:
        entry = classes[index]
        vertical = sample_videos.class_name(generals[entry.topic])
        if entry.is_general:
          description = "General class: comes with the others of its topic."
        elif entry.kind == "plain":
          description = "Has a picture and a sound of its own."
        else:
          partner = sample_videos.class_name(entry.partner)
          description = {
            "sound": f"Looks like {partner} and differs only in sound.",
            "order": f"Shows the two scenes of {partner} in opposite order.",
          }[entry.kind]
      writer.writerow(
        [
          index,
          count,
          f"/sample/{index}",
          sample_videos.class_name(index),
          "",
          vertical,
          "",
          "",
          description,
        ]
      )


def define_flags() -> None:
  """Defines the flags of the command, named like the Settings' attributes.

  Importing this file does not define them, because the importing program may
  have flags of the same names.
  """
  flags.DEFINE_string("output_dir", None, "The folder to make; required.")
  for name, text in {
    "num_videos": "Videos in the train split.",
    "num_validate_videos": "Videos in the validate split.",
    "num_test_videos": "Videos in the test split, which has no labels.",
    "num_classes": "Classes in the vocabulary.",
    "num_active_classes": "Classes that occur, from class 0 on.",
    "min_frames": f"Fewest frames of a video, at least {MAX_LABEL_SCENES}.",
    "max_frames": "Most frames of a video.",
    "num_shards": "Files that each split is cut into.",
    "seed": "Any integer from 0; each seed makes different videos.",
  }.items():
    flags.DEFINE_integer(name, getattr(DEFAULT_SETTINGS, name), text)
  flags.DEFINE_list(
    "levels",
    list(DEFAULT_SETTINGS.levels),
    "What to write: frame, video, segment or several, such as frame,video.",
  )


def main() -> None:
  """Makes the data set that the flags describe."""
  values = flags.FLAGS.flag_values_dict()
  if not values["output_dir"]:
    raise SampleDataError(
      "Expected --output_dir, received none. Name a new folder."
    )
  arguments = {
    name: values[name] for name in dataclasses.asdict(DEFAULT_SETTINGS)
  }
  arguments["levels"] = tuple(arguments["levels"])
  make_sample_data(values["output_dir"], Settings(**arguments))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
