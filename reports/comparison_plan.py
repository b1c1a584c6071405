"""What a comparison trains: its entries, their budget, and the runs of both.

An entry is a model with flags of its own, such as BiLstmModel:lstm_layers=1,
and becomes a row of the table. A run is one training of an entry: with a seed,
on all of the data or a part of it, on one machine or several.
"""

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Sequence

import tensorflow as tf
from absl import flags

import errors
import losses
import models
import program_flags
import train
from data_tools import sample_data
from engine.data_files import find_files, hash_of_files, is_local
from engine.dataset_card import read_card
from reports.data_fractions import are_enough_files
from reports.model_entries import THESIS_NETWORKS, split_entries, split_entry

THESIS_MODELS = (*THESIS_NETWORKS, "AutoencoderConcatModel")
"""The four networks of the thesis, and the one with autoencoders in front."""

MAJORITY, FREQUENCIES, MEAN_FRAME = (
  "majority class",
  "label frequencies",
  "mean-frame logistic",
)
"""The rows that every model should exceed."""

VIDEO_LEVEL_DATA = (
  "--frame_features=False",
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=1024,128",
)
"""Flags of the sample data at video level, with all of its features."""
FRAME_LEVEL_DATA = (
  "--frame_features=True",
  "--feature_names=rgb,audio",
  "--feature_sizes=1024,128",
)

# Flags of train.py that an entry must not have, and what decides instead.
_DECIDED = {
  "model": "the name of the entry",
  "train_dir": "--output_dir",
  "start_new_model": "an empty --output_dir",
  "check": "the comparison, which always trains,",
  "seed": "--seeds",
  "num_epochs": "--budget",
  "max_steps": "--budget",
  "max_minutes": "--budget",
  "early_stopping": "--budget",
  "eval_steps": "the end of each run",
  "dataset_dir": "--dataset_dir of all entries",
  "label_subset": "--label_subset of all entries",
  "num_classes": "--num_classes of all entries",
  "min_frames": "--min_frames of all entries",
  # Labels are counted and videos are joined over all records.
  "skip_corrupt": "the comparison, which needs records that are whole,",
  "max_corrupt_fraction": "the comparison, which needs records that are whole,",
}


# --------------------------------------------------------------------------
# Entries


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table.

  Attributes:
    name: as typed, or what the baseline is.
    model: a class in the model files.
    flags: {flag of train.py: value} of its own.
    is_baseline: whether it is there to be exceeded.
  """

  name: str
  model: str
  flags: dict[str, str]
  is_baseline: bool = False


def parse_entries(text: str) -> list[Entry]:
  """Reads --models.

  Args:
    text: entries separated by commas, each a model and its flags, separated by
      colons: A,B:lstm_layers=1:lstm_cells=256.

  Raises:
    errors.UserError: a model or flag does not exist, or an entry is there
      twice.
  """
  known = flags.FlagValues()
  train.define_flags(known)
  entries = []
  for part in split_entries(
    text, "Name each once; for another seed raise --seeds."
  ):
    model, own = split_entry(part)
    _check_entry(part, model, own, known)
    entries.append(Entry(part, model, own))
  return entries


def _check_entry(part, model, own, known) -> None:
  """Checks the model and the flags of an entry; see parse_entries."""
  try:
    model_class = models.find_class_by_name(model)
  except ValueError as error:
    raise errors.UserError(
      str(error).replace("--model", f"{part!r} of --models", 1)
    ) from error
  for name, value in own.items():
    if name in _DECIDED:
      raise errors.UserError(
        f"Expected no --{name} in the entry {part!r} of --models:"
        f" {_DECIDED[name]} decides this, so that models are compared with each"
        " other. Leave it out."
      )
    if name == "eval_data_pattern":
      continue
    flag = _find_flag(name, part, known)
    try:
      flag.parser.parse(value)
    except ValueError as error:
      raise errors.UserError(
        f"Expected a value that --{name} takes in the entry {part!r} of"
        f" --models, received {value!r}: {error}."
      ) from error
  if own.get("preset") and own["preset"] not in model_class.presets:
    raise errors.UserError(
      f"Expected a preset of {model} in the entry {part!r} of --models,"
      f" received {own['preset']!r}. Available:"
      f" {', '.join(sorted(model_class.presets)) or 'none'}."
    )
  taken = models.default_hyperparameters({**own, "model": model})
  unused = [name for name in own if name in _model_flags() - taken.keys()]
  if unused:
    raise errors.UserError(
      f"Expected flags that {model} takes in the entry {part!r} of --models,"
      f" received --{unused[0]}, which would change nothing. Leave it out."
    )


def _find_flag(name, part, known) -> flags.Flag:
  """A flag of train.py or of the models; see parse_entries."""
  for values in (known, flags.FLAGS):
    if name in values and (
      values is known or name in _model_flags() | _loss_flags()
    ):
      return values[name]
  names = [*known, *_model_flags(), *_loss_flags()]
  near = difflib.get_close_matches(name, names, 1)
  raise errors.UserError(
    f"Expected flags of train.py in the entry {part!r} of --models, received"
    f" --{name}"
    + (f" (did you mean --{near[0]}?)" if near else "")
    + ". python train.py --help lists them."
  )


def _flags_of(module_names) -> set[str]:
  by_module = flags.FLAGS.flags_by_module_dict()
  return {
    flag.name for name in module_names for flag in by_module.get(name, [])
  }


def _model_flags() -> set[str]:
  """The flags that are hyper-parameters of models."""
  return _flags_of(program_flags.hyperparameter_modules()) - _loss_flags()


def _loss_flags() -> set[str]:
  return _flags_of([losses.__name__])


# --------------------------------------------------------------------------
# The budget
# The flag of train.py for each unit.
_ENDS = {"minutes": "max_minutes", "steps": "max_steps", "epochs": "num_epochs"}


@dataclasses.dataclass(frozen=True)
class Budget:
  """How long each run may train.

  Attributes:
    unit: "minutes", "steps" or "epochs".
    amount: how many.
  """

  unit: str
  amount: float

  def flags(self) -> list[str]:
    """The flags of train.py that keep a run to it, whatever a preset has."""
    ends = {"num_epochs": 0.0, "max_steps": 0.0}
    ends[_ENDS[self.unit]] = self.amount
    return [f"--{name}={amount:.9g}" for name, amount in ends.items()]

  def __str__(self) -> str:
    unit = self.unit if self.amount != 1 else self.unit.removesuffix("s")
    return f"{self.amount:.9g} {unit}"


def parse_budget(text: str) -> Budget:
  """Reads --budget.

  Raises:
    errors.UserError: it is not minutes, steps or epochs with a number.
  """
  unit, _, number = text.partition(":")
  try:
    amount = float(number)
  except ValueError:
    amount = 0.0
  is_whole = amount.is_integer() or unit == "minutes"
  if unit not in _ENDS or not 0 < amount < 1e9 or not is_whole:
    raise errors.UserError(
      "Expected minutes:10, steps:500 or epochs:2 as --budget, with a number"
      f" above 0, received {text!r}."
    )
  return Budget(unit, amount)


# --------------------------------------------------------------------------
# The data of each entry


def _is_true(text: str) -> bool:
  return text.lower() in ("true", "t", "1")


@dataclasses.dataclass(frozen=True)
class Given:
  """The data that all entries share.

  Attributes:
    train_data_pattern: see the flag; empty for the sample data or the data set.
    eval_data_pattern: likewise.
    dataset_dir: a folder with a card; empty for none.
    common: {flag: value} of train.py, typed for all entries.
    min_frames: shorter videos are left out of training and of scoring.
  """

  train_data_pattern: str = ""
  eval_data_pattern: str = ""
  dataset_dir: str = ""
  common: dict[str, str] = dataclasses.field(default_factory=dict)
  min_frames: int = 0

  @property
  def is_sample(self) -> bool:
    """Whether it is the built-in sample data."""
    return not (
      self.train_data_pattern or self.eval_data_pattern or self.dataset_dir
    )

  @property
  def frame_features(self) -> bool:
    """Whether they are frame-level records; the sample data have both."""
    if self.dataset_dir:
      return read_card(self.dataset_dir).frame_features
    return _is_true(self.common.get("frame_features", "False"))

  def check(self) -> None:
    """Checks that there are data to train on and others to score on.

    Raises:
      errors.UserError: one of the two is missing.
    """
    if self.is_sample or self.dataset_dir:
      return
    if not (self.train_data_pattern and self.eval_data_pattern):
      given, missing = "train", "eval"
      if self.eval_data_pattern:
        given, missing = missing, given
      raise errors.UserError(
        f"Expected --{missing}_data_pattern with --{given}_data_pattern,"
        " received none. Name the files of both, or neither for the built-in"
        " sample data."
      )


@dataclasses.dataclass(frozen=True)
class EntryData:
  """The files of an entry and the flags that describe them.

  Attributes:
    flags: of train.py, without the pattern of the files.
    train_pattern: of the files to train on.
    eval_pattern: of the files to score on.
    frame_features: whether they are frame-level records.
  """

  flags: tuple[str, ...]
  train_pattern: str
  eval_pattern: str
  frame_features: bool


def is_video_level_model(model: str) -> bool:
  """Whether a model takes one vector for each video."""
  return models.find_class_by_name(model).__module__ == "video_level_models"


def data_of(entry: Entry, given: Given) -> EntryData:
  """Finds the data that an entry is trained and scored on.

  Of the sample data a model gets the level that suits it.

  Raises:
    errors.UserError: see dataset_card.read_card.
  """
  described = {**given.common, **entry.flags}
  typed_level = described.get("frame_features")
  if given.is_sample:
    level = not is_video_level_model(entry.model)
    if typed_level:
      level = _is_true(typed_level)
    folder = sample_data.ensure_sample_data()
    train_pattern, eval_pattern = (
      sample_data.sample_data_pattern(split, level, folder)
      for split in ("train", "validate")
    )
    data_flags = FRAME_LEVEL_DATA if level else VIDEO_LEVEL_DATA
  elif given.dataset_dir:
    card = read_card(given.dataset_dir)
    level = card.frame_features
    data_flags = (f"--dataset_dir={given.dataset_dir}",)
    train_pattern = card.pattern(given.dataset_dir, "train")
    eval_pattern = card.pattern(given.dataset_dir, "validate")
  else:
    level = _is_true(typed_level or "False")
    data_flags, train_pattern, eval_pattern = (), "", ""
  train_pattern = entry.flags.get(
    "train_data_pattern", given.train_data_pattern or train_pattern
  )
  eval_pattern = entry.flags.get(
    "eval_data_pattern", given.eval_data_pattern or eval_pattern
  )
  if not level and not is_video_level_model(entry.model):
    raise errors.UserError(
      f"Expected frame-level records for {entry.name}, received video-level"
      " ones. Add --frame_features and name frame-level files."
    )
  if level and is_video_level_model(entry.model):
    raise errors.UserError(
      f"Expected video-level records for {entry.name}, received frame-level"
      f" ones. Name its own: {entry.model}:frame_features=False:"
      "feature_names=mean_rgb,mean_audio:train_data_pattern=...:"
      "eval_data_pattern=..., with the same videos."
    )
  return EntryData(data_flags, train_pattern, eval_pattern, level)


def _hash_of_data(train_files: Sequence[str], eval_files: Sequence[str]) -> str:
  """A hash of where the files of a run are, and of their sizes."""
  files = [*train_files, *eval_files]
  paths = [
    [os.path.abspath(file) if is_local(file) else file for file in of]
    for of in (train_files, eval_files)
  ]
  sizes = [tf.io.gfile.stat(file).length for file in files]
  # Extracted in two ways, the same videos may have equal names and sizes.
  return _hash([*paths, hash_of_files(files, sizes)])


def _hash(content) -> str:
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------
# Runs


@dataclasses.dataclass(frozen=True)
class Run:
  """One training, and its scores.

  Attributes:
    entry: what is trained.
    data: what on.
    seed: of the run.
    fraction: of the training data, from above 0 to 1.
    workers: machines.
    flags: of train.py, without the folder and the files.
    data_hash: of the files to train and to score on, and where they are.
    by_files: whether a part of the training data is whole files.
  """

  entry: Entry
  data: EntryData
  seed: int
  fraction: float
  workers: int
  flags: tuple[str, ...]
  data_hash: str
  by_files: bool = False

  @property
  def min_frames(self) -> int:
    """Shorter videos are left out; 0 for none."""
    flag = "--min_frames="
    of = [text for text in self.flags if text.startswith(flag)]
    return int(of[-1].removeprefix(flag)) if of else 0

  @property
  def is_main(self) -> bool:
    """Whether it counts in the main table."""
    return self.fraction == 1 and self.workers == 1

  @property
  def name(self) -> str:
    """Its folder: other flags, other data or another budget have another."""
    parts = [self.entry.model, f"seed{self.seed}"]
    if self.fraction != 1:
      parts.append(self.part)
    if self.workers != 1:
      parts.append(f"workers{self.workers}")
    return "_".join([*parts, _hash([self.flags, self.data_hash])[:8]])

  @property
  def part(self) -> str:
    """Which part of the data it is trained on."""
    return (
      f"fraction{self.fraction}_of_{'files' if self.by_files else 'videos'}"
    )

  def describe(self) -> str:
    """The run in words."""
    text = f"{self.entry.name}, seed {self.seed}"
    if self.fraction != 1:
      text += f", {100 * self.fraction:g}% of the data"
    if self.workers != 1:
      text += f", {self.workers} workers"
    return text


def add_baseline(entries: list[Entry], given: Given) -> list[Entry]:
  """Adds the logistic regression on the mean frame, unless it is there.

  It takes the data that all entries share; of the sample data frame-level
  records if any entry does.
  """
  level = given.frame_features
  if given.is_sample:
    level = any(data_of(entry, given).frame_features for entry in entries)
  model = "FrameLevelLogisticModel" if level else "LogisticModel"
  if any(entry.model == model and not entry.flags for entry in entries):
    return entries
  baseline = Entry(MEAN_FRAME, model, {}, is_baseline=True)
  return [*entries, baseline]


def _batch_size(entry: Entry, given: Given) -> list[str]:
  """The flag of the batch size, which train.py lowers on the sample data."""
  model_class = models.find_class_by_name(entry.model)
  preset = model_class.presets.get(entry.flags.get("preset", ""), {})
  typed = {**given.common, **preset, **entry.flags}
  if not given.is_sample or typed.get("batch_size"):
    return []
  size = min(model_class.batch_size, sample_data.MAX_BATCH_SIZE)
  return [f"--batch_size={size}"]


def _flags_of_run(entry, data, given, budget, seed) -> list[str]:
  own = {
    name: value
    for name, value in entry.flags.items()
    if name not in ("train_data_pattern", "eval_data_pattern")
  }
  found = [f"--model={entry.model}", *data.flags]
  found += [
    f"--{name}={value}" for name, value in {**given.common, **own}.items()
  ]
  found += _batch_size(entry, given)
  # A preset may have these two.
  found.append(f"--min_frames={given.min_frames}")
  found += budget.flags()
  if "keep_checkpoints" not in own:
    found.append("--keep_checkpoints=1")
  return [*found, f"--seed={seed}"]


def make_runs(
  entries: Sequence[Entry],
  given: Given,
  budget: Budget,
  seeds: int,
  fractions: Sequence[float] = (1.0,),
  workers: Sequence[int] = (1,),
) -> list[Run]:
  """All runs of a comparison, those of the main table first.

  Seeds take turns, so that an unfinished comparison has every model. Speed
  needs one seed: several machines get only the first one.

  Args:
    entries: with the baseline.
    given: their data.
    budget: of each run.
    seeds: how many.
    fractions: of the training data, besides all of it.
    workers: numbers of machines, besides one.

  Raises:
    errors.UserError: files cannot be found.
  """
  hashes, data, num_files = {}, {}, []
  for entry in entries:
    data[entry.name] = of = data_of(entry, given)
    pair = of.train_pattern, of.eval_pattern
    if pair not in hashes:
      files = find_files(of.train_pattern, "train_data_pattern")
      num_files.append(len(files))
      hashes[pair] = _hash_of_data(
        files, find_files(of.eval_pattern, "eval_data_pattern")
      )
  by_files = are_enough_files(min(num_files), min(fractions, default=1.0))

  def make(entry, seed, fraction, number):
    of = data[entry.name]
    return Run(
      entry,
      of,
      seed,
      fraction,
      number,
      tuple(_flags_of_run(entry, of, given, budget, seed)),
      hashes[of.train_pattern, of.eval_pattern],
      by_files,
    )

  runs = [
    make(entry, seed, fraction, 1)
    for fraction in sorted({*fractions, 1.0}, reverse=True)
    for seed in range(seeds)
    for entry in entries
  ]
  runs += [
    make(entry, 0, 1.0, number)
    for number in sorted({*workers} - {1})
    for entry in entries
    if not entry.is_baseline
  ]
  return runs
