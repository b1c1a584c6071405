"""Flags that several programs take, by subject; only programs import it.

A program defines each of its flags in a subject, which `--help` shows as a
heading, see program_help.py. Every program that needs a trained model takes the
flags that shaped it: command lines of the starter code and of its forks pass
them to all programs.
"""

import contextlib
from collections.abc import Callable

from absl import flags, logging

import errors
import input_flags
import losses
import models
import quantization
import readers
from data_tools import label_subset, sample_data, vocabulary
from engine import train_dir as train_dirs
from engine.checkpoints import was_trained_on
from engine.data_files import find_files
from engine.dataset_card import DatasetCard, read_card

FLAGS = flags.FLAGS

models.import_model_files()  # defines the flags of the models

DATA = "Data"
FEATURES = "Features of videos"
MODEL = "Model"
TRAINING = "Training"
SAVING = "Saving"
DEVICES = "Devices"
OUTPUT = "Output"
FROM_MODEL = "Known from the trained model; if typed, they must agree with it"
WITHOUT_EFFECT = "Accepted without effect, for command lines of other programs"
# The largest size, or number of things, that TensorFlow counts in 32 bits.
LARGEST_SIZE = 2**31 - 1
SUBJECTS = (DATA, FEATURES, MODEL, TRAINING, SAVING, OUTPUT, DEVICES)


class WholeNumberParser(flags.IntegerParser):
  """Parses whole numbers that may be written as floats: 4e6, 4000000.0."""

  def convert(self, argument: int | float | str) -> int:
    """Returns the number.

    Raises:
      ValueError: it is not whole, or has more than 64 bits.
    """
    number = self._whole(argument)
    if abs(number) >= 2**63:
      raise ValueError(f"{argument} is not a number of 64 bits")
    return number

  def _whole(self, argument: int | float | str) -> int:
    """The number, of any size; raises a ValueError if it is not whole."""
    with contextlib.suppress(ValueError):
      if not isinstance(argument, float):
        return super().convert(argument)
    with contextlib.suppress(ValueError):
      number = float(argument)
      if number.is_integer():
        return int(number)
    raise ValueError(f"{argument} is not a whole number")


class FilledParser(flags.ArgumentParser):
  """Parses texts that must not be empty, such as paths."""

  def parse(self, argument: str) -> str:
    """Returns the text.

    Raises:
      ValueError: it is empty.
    """
    if not argument.strip():
      raise ValueError("an empty text, where a path is needed")
    return argument


class Subject:
  """Defines flags under a heading.

  Args:
    title: one of SUBJECTS.
    flag_values: where to define them.
  """

  def __init__(self, title: str, flag_values: flags.FlagValues = FLAGS):
    self._given = {"flag_values": flag_values, "module_name": title}

  def string(self, name, default, text, **more):
    """See flags.DEFINE_string."""
    flags.DEFINE_string(name, default, text, **self._given, **more)

  def path(self, name, default, text):
    """A string flag that names a file or a folder, and is not empty."""
    flags.DEFINE(
      FilledParser(),
      name,
      default,
      text,
      serializer=flags.ArgumentSerializer(),
      **self._given,
    )

  def bool(self, name, default, text, **more):
    """See flags.DEFINE_bool."""
    flags.DEFINE_bool(name, default, text, **self._given, **more)

  def integer(self, name, default, text, **more):
    """See flags.DEFINE_integer."""
    flags.DEFINE_integer(name, default, text, **self._given, **more)

  def whole_number(self, name, default, text, lower_bound=None):
    """An integer flag that takes floats such as 4e6 too."""
    flags.DEFINE(
      WholeNumberParser(lower_bound),
      name,
      default,
      text,
      serializer=flags.ArgumentSerializer(),
      **self._given,
    )

  def float(self, name, default, text, **more):
    """See flags.DEFINE_float."""
    flags.DEFINE_float(name, default, text, **self._given, **more)

  def enum(self, name, default, values, text, **more):
    """See flags.DEFINE_enum."""
    flags.DEFINE_enum(name, default, values, text, **self._given, **more)

  def list(self, name, default, text, **more):
    """See flags.DEFINE_list."""
    flags.DEFINE_list(name, default, text, **self._given, **more)


def define_record_flags(data: Subject) -> None:
  """Defines the flags that say what the records hold.

  Args:
    data: the subject to define them in.
  """
  data.bool(
    "frame_features",
    False,
    "Records hold features of each frame; False: of the whole video.",
  )
  data.string(
    "feature_names",
    None,
    "Features to use, separated by commas; default: mean_rgb, with"
    " --frame_features rgb,audio.",
  )
  data.string(
    "feature_sizes",
    None,
    "Numbers in each of --feature_names; default: 1024, with"
    " --frame_features 1024,128.",
  )
  data.integer(
    "num_classes",
    3862,
    "Classes of the data.",
    lower_bound=1,
    upper_bound=LARGEST_SIZE,
  )


def define_graph_flags(
  flag_values: flags.FlagValues = FLAGS, trained: bool = False
) -> None:
  """Defines the flags that say what the records hold and name the model.

  Args:
    flag_values: where to define them.
    trained: whether the program takes a trained model, which knows them.
  """
  data = Subject(FROM_MODEL if trained else DATA, flag_values)
  define_record_flags(data)
  data.integer(
    "max_frames",
    300,
    "Frames used of each video, starting with the first one.",
    lower_bound=1,
    upper_bound=LARGEST_SIZE,
  )
  Subject(DATA, flag_values).string(
    "feature_ranges",
    "",
    "What the bytes 0 and 255 of each feature stand for, such as -1:2,0:5;"
    " nothing in the place of one means YouTube-8M's own. Default: as the card"
    " of the data set says, else "
    + ("as in training." if trained else "YouTube-8M's own."),
  )
  data.string(
    "label_subset",
    "",
    "Classes to learn and predict, by index or name, separated by commas, or a"
    " file with one a line; videos without any of them are left out of training"
    " and evaluation. Empty: all classes.",
  )
  model = Subject(FROM_MODEL if trained else MODEL, flag_values)
  model.string("model", "LogisticModel", "Class in the model files.")
  model.enum(
    "input_transform",
    None,
    list(models.INPUT_TRANSFORMS),
    "What is done to the dequantized features: l2 divides each frame, or video,"
    " by its length; none leaves them; dewhiten gives YouTube-8M's rgb back the"
    " variances that its numbers had before they were whitened. Default: the"
    " model's own, l2 for most.",
  )
  model.string(
    "dewhiten_scales",
    "",
    "With --input_transform=dewhiten: what the numbers of each feature are"
    " multiplied by, a file with a number for each (.npy or text); several are"
    " separated by commas. Nothing in the place of one means YouTube-8M's own"
    " scales for a whitened rgb or mean_rgb of 1024 numbers, and none for"
    " others.",
  )
  model.bool(
    "exclusive_classes",
    False,
    "Each video has exactly one label: the model ends in one softmax over the"
    " classes; False: in a probability for each class.",
  )
  model.string(
    "label_loss",
    "CrossEntropyLoss",
    "Class in losses.py; default with --exclusive_classes:"
    " CategoricalCrossEntropyLoss.",
  )


def define_dataset_dir(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that names a data set with a card."""
  Subject(DATA, flag_values).string(
    "dataset_dir",
    "",
    "Folder made by data_tools.extract_features or import_embeddings; stands"
    " for the files, the features and the number of classes, unless their flags"
    " are typed.",
  )


def apply_dataset_dir(split: str, pattern_flag: str) -> DatasetCard | None:
  """Sets the flags that --dataset_dir stands for and that are not typed.

  Args:
    split: of the data set, that the program reads.
    pattern_flag: of the program, which names its files.

  Returns:
    The data set's card; None without the flag.

  Raises:
    errors.UserError: the folder holds no data set, or not this split.
  """
  folder = FLAGS.dataset_dir
  if not folder:
    return None
  card = read_card(folder)
  if not FLAGS[pattern_flag].present:
    FLAGS.set_default(pattern_flag, card.pattern(folder, split))
  for name, value in card.flags().items():
    if not FLAGS[name].present:
      FLAGS.set_default(name, value)
  names = [name.strip() for name in FLAGS.feature_names.split(",")]
  size_of = dict(zip(card.feature_names, card.feature_sizes, strict=True))
  if not FLAGS["feature_sizes"].present and size_of.keys() >= set(names):
    sizes = ",".join(str(size_of[name]) for name in names)
    FLAGS.set_default("feature_sizes", sizes)
  if not FLAGS["feature_ranges"].present:
    FLAGS.set_default("feature_ranges", card.ranges_of(names))
  return card


def apply_preset() -> dict:
  """Sets the flags that --preset stands for and that are not typed.

  Returns:
    What goes into model_flags.json, besides the hyper-parameters: the name and
    the training settings, of which typed flags may have replaced some. Empty
    without the flag.

  Raises:
    errors.UserError: the model has no such preset.
  """
  if not FLAGS.preset:
    return {}
  try:
    presets = models.find_class_by_name(FLAGS.model).presets
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  if FLAGS.preset not in presets:
    known = ", ".join(sorted(presets))
    raise errors.UserError(
      f"Expected --preset to name a preset of {FLAGS.model}, received"
      f" {FLAGS.preset!r}."
      f"{errors.did_you_mean(FLAGS.preset, presets)} "
      + (
        f"Available: {known}." if known else "It has none: leave --preset out."
      )
    )
  named = presets[FLAGS.preset]
  for name, value in named.items():
    if not FLAGS[name].present:
      FLAGS.set_default(name, value)
  resolved = {name: FLAGS[name].value for name in named}
  listing = " ".join(f"--{name}={value}" for name, value in resolved.items())
  logging.info("Preset %s of %s: %s", FLAGS.preset, FLAGS.model, listing)
  shaping = {flag.name for flag in _graph_flags()} | {"input_transform"}
  return {
    "preset": FLAGS.preset,
    "preset_settings": {
      name: value for name, value in resolved.items() if name not in shaping
    },
  }


def ranges_of_data(
  model_flags: dict, card: DatasetCard | None = None
) -> str | None:
  """The ranges of bytes that are not read as those of the training data.

  How numbers are stored is a matter of the data: a model takes what the bytes
  stand for.

  Args:
    model_flags: of the trained model, see engine/train_dir.py.
    card: of --dataset_dir, if it is given.

  Returns:
    The typed --feature_ranges, else those of the card; None without either.

  Raises:
    errors.UserError: the typed ones are not a range for each feature.
  """
  names = model_flags["feature_names"].split(",")
  if FLAGS["feature_ranges"].present:
    readers.get_feature_ranges(FLAGS.feature_ranges, len(names))
    return FLAGS.feature_ranges
  return card.ranges_of(names) if card else None


def define_min_frames(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that leaves out short videos."""
  Subject(DATA, flag_values).integer(
    "min_frames",
    0,
    "Leave out videos with fewer frames; 0: none. Each program has its own.",
    lower_bound=0,
    upper_bound=LARGEST_SIZE,
  )


def define_num_readers(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that bounds how much is read at the same time."""
  Subject(DATA, flag_values).integer(
    "num_readers",
    8,
    "The most threads that read; for remote files, the most files read at the"
    " same time.",
    lower_bound=1,
    upper_bound=LARGEST_SIZE,
  )


def define_skipping_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags that say what to do about unusable records."""
  data = Subject(DATA, flag_values)
  data.bool(
    "skip_corrupt",
    False,
    "Leave out records that cannot be used, and list them in"
    " skipped_records.csv; False: stop at the first one.",
  )
  data.float(
    "max_corrupt_fraction",
    0.01,
    "The largest part of the records that may be left out, judged from 1000"
    " records on; above it, the program stops.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def define_device_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that chooses the devices of this machine."""
  Subject(DEVICES, flag_values).integer(
    "num_gpu",
    None,
    "GPUs of this machine to use; 0: the CPU; default: all.",
    lower_bound=0,
    upper_bound=LARGEST_SIZE,
  )


def define_checkpoint(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that names a checkpoint of the run in --train_dir."""
  Subject(MODEL, flag_values).string(
    "checkpoint",
    "latest",
    "Checkpoint in --train_dir: latest; best, which scored best so far, see"
    " --best_metric of eval.py and train.py; or the number of a step.",
  )


def define_checkpoint_file(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag that names a checkpoint by its path."""
  Subject(MODEL, flag_values).string(
    "checkpoint_file",
    "",
    "Path of the checkpoint to export, without its file endings; empty: the one"
    " that --checkpoint names.",
  )


def define_best_metric(
  title: str, flag_values: flags.FlagValues = FLAGS
) -> None:
  """Defines the flag that says which checkpoint is the best.

  Args:
    title: one of SUBJECTS.
    flag_values: where to define it.
  """
  Subject(title, flag_values).string(
    "best_metric",
    "gap",
    "Score by which the best checkpoint is chosen and kept: a key of"
    " metrics-N.json, such as gap, map, avg_hit_at_one or avg_loss, of which"
    " less is better.",
  )


def define_spreadsheet_safe(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flag for CSV files that are opened in a spreadsheet."""
  Subject(OUTPUT, flag_values).bool(
    "spreadsheet_safe",
    False,
    "Write an apostrophe before ids of videos and names of classes in CSV files"
    " that a spreadsheet would take for formulas, such as =1+1 and the many ids"
    " of YouTube that begin with -; see docs/formats.md.",
  )


def accept_flags_of(define_flags) -> None:
  """Accepts the flags of another program that this one does not use.

  Args:
    define_flags: the other program's function that defines its flags, called
      with a FlagValues.
  """
  others = flags.FlagValues()
  define_flags(others)
  for name in others:
    if name not in FLAGS:
      FLAGS[name] = others[name]
      FLAGS.register_flag_by_module(WITHOUT_EFFECT, others[name])


def log_flags_without_effect() -> None:
  """Logs which of the typed flags this program accepts without effect."""
  typed = [
    f"--{flag.name}"
    for flag in FLAGS.flags_by_module_dict().get(WITHOUT_EFFECT, [])
    if flag.present
  ]
  if typed:
    logging.info("No effect in this program: %s.", ", ".join(sorted(typed)))


def label_subset_from_flag(
  num_classes: int, find_vocabulary: Callable[[], str]
) -> tuple[list[int] | None, str]:
  """Reads --label_subset.

  Args:
    num_classes: of the data.
    find_vocabulary: function that returns the path of the data's vocabulary, or
      an empty text; called if the flag has names.

  Returns:
    The class indices, ascending, or None without the flag; the path of the
    vocabulary if the flag has names, else an empty text.

  Raises:
    errors.UserError: there is no such class, or one is named twice.
  """
  if not FLAGS.label_subset:
    return None, ""
  used = ""

  def find_names():
    nonlocal used
    used = find_vocabulary()
    return (vocabulary.read_names(used) if used else {}), used

  indices = label_subset.read_label_subset(
    FLAGS.label_subset, num_classes, find_names
  )
  return indices, used


def feature_flags() -> dict:
  """The typed or default feature names and sizes, as in model_flags.json.

  Raises:
    errors.UserError: they do not match.
  """
  frame_features = FLAGS.frame_features
  names = FLAGS.feature_names or ("rgb,audio" if frame_features else "mean_rgb")
  sizes = FLAGS.feature_sizes or ("1024,128" if frame_features else "1024")
  names, sizes = readers.get_feature_names_and_sizes(names, sizes)
  return {
    "feature_names": ",".join(names),
    "feature_sizes": ",".join(map(str, sizes)),
  }


def range_flags(number: int) -> dict:
  """The typed --feature_ranges, as in model_flags.json: only if there are any.

  Args:
    number: of features.

  Raises:
    errors.UserError: they are not a range for each feature.
  """
  ranges = quantization.format_ranges(
    readers.get_feature_ranges(FLAGS.feature_ranges, number)
  )
  return {"feature_ranges": ranges} if ranges else {}


def data_or_sample(
  flag_name: str,
  split: str,
  frame_features: bool,
  checkpoint: str,
  segment_labels: bool = False,
) -> str:
  """The pattern that a flag names, else that of the built-in sample data.

  Warns if the model was trained on other data than the sample data.

  Args:
    flag_name: the flag.
    split: "validate" or "test".
    frame_features: the level of the model's data.
    checkpoint: of the model.
    segment_labels: whether the examples are segments.
  """
  typed = FLAGS[flag_name].value or ""
  of_data = (frame_features, segment_labels)
  pattern = sample_data.pattern_or_sample_data(typed, split, *of_data)
  if typed:
    return pattern
  trained = sample_data.pattern_or_sample_data("", "train", *of_data)
  if not was_trained_on(checkpoint, find_files(trained, flag_name)):
    logging.warning(
      "Reading the built-in sample data, but this model was trained on other"
      " files. Set --%s=PATTERN to read yours.",
      flag_name,
    )
  return pattern


def _is_same(typed, kept) -> bool:
  """Whether a typed flag agrees with model_flags.json, ignoring spaces."""
  if isinstance(typed, str) and isinstance(kept, str):
    typed, kept = (
      [part.strip() for part in text.split(",")] for text in (typed, kept)
    )
  return typed == kept


def _differing_label_subset(model_flags: dict, train_dir: str) -> list[str]:
  """Describes a typed --label_subset that is not the model's."""
  if not FLAGS["label_subset"].present:
    return []
  num_classes = model_flags["num_classes"]

  def find_vocabulary():
    path = train_dirs.find_vocabulary(train_dir)
    if not path and num_classes == vocabulary.NUM_YOUTUBE_8M_CLASSES:
      path = vocabulary.YOUTUBE_8M_FILE
    return path

  typed, _ = label_subset_from_flag(num_classes, find_vocabulary)
  kept = model_flags.get("label_subset")
  if typed == kept:
    return []
  shown = ",".join(map(str, kept)) if kept else "all classes"
  return [f"--label_subset={FLAGS.label_subset} instead of {shown}"]


def loss_flags() -> dict:
  """The loss and the kind of classes, as in model_flags.json.

  Returns:
    label_loss, the typed one or the default for the kind of classes;
    exclusive_classes only if true.

  Raises:
    ValueError: there is no such loss, or it does not fit --exclusive_classes.
  """
  exclusive, name = FLAGS.exclusive_classes, FLAGS.label_loss
  if exclusive and FLAGS["label_loss"].using_default_value:
    name = losses.DEFAULT_FOR_EXCLUSIVE_CLASSES
  losses.check_fits(name, exclusive)
  kind = {"exclusive_classes": True} if exclusive else {}
  return {"label_loss": name, **kind}


def _differing_exclusive_classes(model_flags: dict) -> list[str]:
  """Describes a typed --exclusive_classes that is not the model's."""
  typed, kept = FLAGS["exclusive_classes"], models.are_exclusive(model_flags)
  if not typed.present or typed.value == kept:
    return []
  return [f"--{typed.name}={typed.value} instead of {kept}"]


def check_typed_flags(model_flags: dict, source: str, train_dir: str) -> None:
  """Checks that typed flags agree with the model that was trained.

  Logs those that this model does not use.

  Args:
    model_flags: the content of its model_flags.json.
    source: the flag that names the model, with its value, for the message.
    train_dir: its folder, which may have the names of its classes.

  Raises:
    errors.UserError: shows both values of each flag that differs.
  """
  typed = [flag for flag in _graph_flags() if flag.present]
  differing = [
    f"--{flag.name}={flag.value} instead of {model_flags[flag.name]}"
    for flag in typed
    if flag.name in model_flags
    and not _is_same(flag.value, model_flags[flag.name])
  ]
  differing += _differing_label_subset(model_flags, train_dir)
  differing += input_flags.differing(model_flags)
  differing += _differing_exclusive_classes(model_flags)
  if differing:
    raise errors.UserError(
      f"Expected the flags of the trained model of {source}, received"
      f" {', '.join(differing)}. Leave these flags out, or name the model that"
      " has them."
    )
  log_unused_model_flags(model_flags)


def log_unused_model_flags(model_flags: dict) -> None:
  """Logs which of the typed flags a model does not use.

  Args:
    model_flags: the content of its model_flags.json.
  """
  unused = {
    flag.name
    for flag in _graph_flags()
    if flag.present and flag.name not in model_flags
  }
  of_losses = unused & {
    flag.name for flag in FLAGS.flags_by_module_dict()[losses.__name__]
  }
  for name, of in (
    (model_flags["model"], unused - of_losses),
    (model_flags["label_loss"], of_losses),
  ):
    if of:
      listing = ", ".join(f"--{flag}" for flag in sorted(of))
      logging.info("No effect on %s: %s.", name, listing)


def hyperparameter_modules() -> list[str]:
  """The modules whose flags are hyper-parameters of models and losses."""
  return [module.__name__ for module in models.import_model_files()] + [
    losses.__name__
  ]


def _graph_flags() -> list:
  """The flags that shape a model or read its data."""
  found = [FLAGS[name] for name in models.GRAPH_FLAGS]
  modules = FLAGS.flags_by_module_dict()
  for name in hyperparameter_modules():
    found += modules.get(name, [])
  return found
