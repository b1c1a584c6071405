"""What --models of compare_frameworks names: models, settings and data."""

import dataclasses
import os
import re

from absl import flags, logging
from absl.testing import flagsaver

import errors
import losses
import models
import video_level_models
from data_tools import sample_data
from engine import data_order
from engine.data import Data
from engine.data_files import find_files, hash_of_files, reads_by_number
from engine.dataset_card import read_card
from layers import whitening
from program_flags import hyperparameter_modules
from records.shards import kept_walk
from reports.frameworks.batches import longest_video
from reports.model_entries import split_entry

FLAGS = flags.FLAGS

LEVEL = "{level}"
_LEVELS = {True: "frame", False: "video"}
# With the hyper-parameters, what an entry may set.
_OF_TRAINING = ("batch_size", "base_learning_rate", "max_frames", "min_frames")


@dataclasses.dataclass(frozen=True)
class Records:
  """The data of a model.

  Attributes:
    pattern: of the files.
    files: local paths.
    videos: records in them.
    hash: of the names and sizes of the files.
    kinds: see jobs.Job.
    num_frames: see jobs.Job.
    window_shards: see jobs.Job.
  """

  pattern: str
  files: list[str]
  videos: int
  hash: str
  kinds: list[str]
  num_frames: int
  window_shards: int


@dataclasses.dataclass(frozen=True)
class Entry:
  """A model of the comparison.

  Attributes:
    name: as typed, such as BiLstmModel:lstm_layers=1.
    model_flags: see models.build_model.
    batch_size: videos of a step, over all processes.
    learning_rate: Adam's.
    min_frames: videos with fewer are left out.
  """

  name: str
  model_flags: dict
  batch_size: int
  learning_rate: float
  min_frames: int

  @property
  def model(self) -> str:
    """The class."""
    return self.model_flags["model"]

  @property
  def compiles(self) -> bool:
    """Whether the class says that compiling a step is worth its time."""
    return models.find_class_by_name(self.model).xla

  @property
  def file_name(self) -> str:
    """The name as part of the name of a file."""
    return re.sub(r"[^\w.=-]+", "_", self.name)

  def without_dropout(self) -> dict:
    """The model_flags of the same model with every rate of dropout 0."""
    return {
      name: 0.0 if name.endswith("dropout_rate") else value
      for name, value in self.model_flags.items()
    }


# --------------------------------------------------------------------------
# Settings


def _set(name: str, text: str, entry: str) -> None:
  """Sets a flag to what an entry says.

  Raises:
    errors.UserError: it is no flag of a model, or the value is none for it.
  """
  modules = FLAGS.flags_by_module_dict()
  known = {
    flag.name
    for module in hyperparameter_modules()
    for flag in modules.get(module, [])
  } | set(_OF_TRAINING)
  if name not in known:
    raise errors.UserError(
      f"Expected flags of the model after its name in --models, received"
      f" {name} in {entry}. Write NAME:flag=value; docs/flags.md lists the"
      " flags of each model."
    )
  try:
    FLAGS[name].parse(text)
  except flags.Error as error:
    reason = " ".join(str(error).split())
    raise errors.UserError(
      f"Expected a value that a flag takes in --models={entry}: {reason}."
    ) from error


def _set_preset(name: str, model_class) -> None:
  """Sets the flags of a preset that are not typed.

  Raises:
    errors.UserError: the model has no such preset.
  """
  if name not in model_class.presets:
    known = ", ".join(sorted(model_class.presets)) or "none"
    raise errors.UserError(
      f"Expected a preset of {model_class.__name__}, received {name!r}."
      f" Available: {known}."
    )
  ignored = []
  for flag, value in model_class.presets[name].items():
    if flag == "input_transform":  # see read_entry
      continue
    if flag not in FLAGS:
      ignored.append(f"{flag}={value}")
    elif not FLAGS[flag].present:
      FLAGS[flag].value = value
  if ignored:
    logging.info(
      "No effect of preset %s of %s, since all are trained by plain Adam: %s.",
      name,
      model_class.__name__,
      ", ".join(ignored),
    )


def _features(frame_features: bool) -> dict:
  """The names and sizes of the features at a level.

  By default all of YouTube-8M's. Where both levels are read, typed names are
  those of frames; videos have their means.
  """
  names = FLAGS.feature_names or "rgb,audio"
  if not frame_features and (_both_levels() or not FLAGS.feature_names):
    names = ",".join(f"mean_{name.strip()}" for name in names.split(","))
  return {
    "feature_names": ",".join(name.strip() for name in names.split(",")),
    "feature_sizes": FLAGS.feature_sizes or "1024,128",
  }


def _both_levels() -> bool:
  """Whether each model gets records of its own level."""
  return not FLAGS.dataset_dir and (
    not FLAGS.train_data_pattern or LEVEL in FLAGS.train_data_pattern
  )


def apply_dataset_dir() -> None:
  """Sets the flags that --dataset_dir stands for and that are not typed.

  Raises:
    errors.UserError: the folder holds no data set.
  """
  if not FLAGS.dataset_dir:
    return
  card = read_card(FLAGS.dataset_dir)
  if not FLAGS.train_data_pattern:
    FLAGS.train_data_pattern = card.pattern(FLAGS.dataset_dir, "train")
  for name, value in card.flags().items():
    if not FLAGS[name].present:
      FLAGS[name].value = value
  if not FLAGS["feature_ranges"].present:
    FLAGS.feature_ranges = card.ranges_of(FLAGS.feature_names.split(","))


def read_entry(text: str) -> Entry:
  """Reads an entry of --models, with the other flags.

  Args:
    text: NAME, NAME:flag=value or NAME:preset=name, more settings after more
      colons.

  Raises:
    errors.UserError: there is no such model or setting, or the model takes
      records of another level than there are.
  """
  name, settings = split_entry(text)
  preset = settings.pop("preset", None)
  try:
    model_class = models.find_class_by_name(name)
    transform = model_class.input_transform
    with flagsaver.flagsaver():
      if preset is not None:
        _set_preset(preset, model_class)
        transform = model_class.presets[preset].get(
          "input_transform", transform
        )
      for flag, value in settings.items():
        _set(flag, value, text)
      return _entry(text, model_class, transform)
  except ValueError as error:
    raise errors.UserError(str(error)) from error


def _entry(
  text: str, model_class: type[models.BaseModel], transform: str
) -> Entry:
  """The entry of a model, from the flags.

  Args:
    text: as typed.
    model_class: the class.
    transform: its input_transform, or that of its preset.
  """
  frame_features = model_class.__module__ != video_level_models.__name__
  if not _both_levels() and frame_features != FLAGS.frame_features:
    level = _LEVELS[frame_features]
    raise errors.UserError(
      f"Expected {level}-level records for {model_class.__name__}, received"
      f" --frame_features={FLAGS.frame_features}. Write {LEVEL} in"
      " --train_data_pattern where frame or video stands in the paths, or name"
      " other models."
    )
  features = _features(frame_features)
  names = features["feature_names"].split(",")
  sizes = [int(size) for size in features["feature_sizes"].split(",")]
  if transform == "dewhiten" and not any(whitening.scales_of(names, sizes)):
    transform = "l2"
  ranges = {"feature_ranges": FLAGS.feature_ranges}
  model_flags = {
    "model": model_class.__name__,
    **features,
    **(ranges if FLAGS.feature_ranges else {}),
    "frame_features": frame_features,
    "num_classes": FLAGS.num_classes,
    "max_frames": FLAGS.max_frames,
    "label_loss": FLAGS.label_loss,
    "input_transform": transform,
    **models.resolve_hyperparameters(model_class.__name__),
    **losses.resolve_hyperparameters(FLAGS.label_loss),
  }
  batch_size = FLAGS.batch_size or model_class.batch_size
  if not FLAGS.batch_size and not FLAGS.train_data_pattern:
    batch_size = min(batch_size, sample_data.MAX_BATCH_SIZE)
  if batch_size % FLAGS.processes:
    raise errors.UserError(
      f"Expected a batch that {FLAGS.processes} processes divide equally,"
      f" received {batch_size} videos of {text}. Set --batch_size."
    )
  return Entry(
    text,
    model_flags,
    batch_size,
    FLAGS.base_learning_rate or model_class.base_learning_rate,
    max(FLAGS.min_frames, 1) if frame_features else 0,
  )


# --------------------------------------------------------------------------
# Records


def find_records(entry: Entry) -> Records:
  """Finds the records of an entry, and looks at the first ones.

  Raises:
    errors.UserError: there are none, they are not local, or not what the flags
      say.
  """
  model_flags = entry.model_flags
  frame_features = model_flags["frame_features"]
  pattern = FLAGS.train_data_pattern.replace(LEVEL, _LEVELS[frame_features])
  pattern = sample_data.pattern_or_sample_data(pattern, "train", frame_features)
  files = find_files(pattern, "train_data_pattern")
  if not reads_by_number(files):
    raise errors.UserError(
      "Expected local, uncompressed files, which all frameworks can read,"
      f" received {files[0]}. Copy them to a disk of this machine."
    )
  # Videos without frames alone are no selection of which to say something.
  min_frames = entry.min_frames if entry.min_frames > 1 else 0
  data = Data(model_flags, files, True, min_frames=min_frames)
  num_frames = 0
  if frame_features:
    first, *_ = model_flags["feature_names"].split(",")
    num_frames = longest_video(files, first, model_flags["max_frames"])
  sizes = [os.stat(file).st_size for file in files]
  return Records(
    pattern,
    [os.path.abspath(file) for file in files],
    sum(len(kept_walk(file)) for file in files),
    hash_of_files(files, sizes),
    list(data.reader.kinds) if frame_features else [],
    num_frames,
    data_order.choose_window(files),
  )
