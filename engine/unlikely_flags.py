"""Warns of flags that do not fit the data, and refuses those that cannot."""

import math
import os

from absl import logging

import errors
import quantization
from engine import machine
from engine.data import Data
from engine.dataset_card import CARD_FILE, read_card
from engine.settings import Settings

# A run with so few steps learns nothing.
_FEW_STEPS = 2
# With fewer, most models have hardly begun to learn.
_USUAL_STEPS = 100
_GOOD_STEPS = 200
# A model with this many times the classes of its labels is probably a mistake.
_MANY_TIMES = 20


def _planned(
  num_videos: int, settings: Settings, num_replicas: int
) -> tuple[int, int]:
  """The videos of a step, and the steps of a whole run."""
  step_videos = settings.step_examples(num_replicas)
  planned = settings.planned_examples(num_videos, step_videos)
  return step_videos, math.ceil(planned / step_videos)


def check_batch_fits(data: Data, model_flags: dict, num_examples: int) -> None:
  """Refuses a batch that the memory of this machine cannot hold.

  Counts what it holds at least: of each example a frame, the labels and the
  predictions.

  Args:
    data: what is read.
    model_flags: see train_dir.py.
    num_examples: in the largest batch of this machine.

  Raises:
    errors.UserError: it is too large.
  """
  memory = machine.usable_memory()
  sizes = map(int, model_flags["feature_sizes"].split(","))
  num_bytes = 1 if data.reader.quantized else 4
  needed = num_examples * (num_bytes * sum(sizes) + 5 * data.reader.num_outputs)
  if memory and needed > memory:
    raise errors.UserError(
      f"Expected a batch that fits into the {memory / 1e9:.0f} GB of memory of"
      f" this machine, received one of {num_examples} examples, which take at"
      f" least {needed / 1e9:.0f} GB. Set a smaller --batch_size."
    )


def warn_of_short_run(
  num_videos: int, settings: Settings, num_replicas: int
) -> None:
  """Warns of a run of one or two steps: the batch is larger than the data.

  Args:
    num_videos: about how many there are.
    settings: how to train.
    num_replicas: over all machines.
  """
  batches = settings.accumulate_steps * num_replicas
  step_videos, steps = _planned(num_videos, settings, num_replicas)
  if (
    num_videos >= step_videos
    or not 0 < steps <= _FEW_STEPS
    or settings.max_steps == steps
  ):
    return
  logging.warning(
    "The whole training takes %d step%s: a batch has %d videos, the data only"
    " about %d. Set a smaller --batch_size, such as --batch_size=%d.",
    steps,
    "s" if steps > 1 else "",
    step_videos,
    num_videos,
    max(1, num_videos // (10 * batches)),
  )


def warn_of_little_training(
  num_videos: int, settings: Settings, num_replicas: int, has_card: bool
) -> None:
  """Warns of a run that ends before the model can have learned something.

  Args:
    num_videos: about how many there are.
    settings: how to train.
    num_replicas: over all machines.
    has_card: whether it is a data set with a card. Such may have few videos,
      and gets small batches then, so that it is the epochs that are too few.
  """
  warn = warn_of_few_steps if has_card else warn_of_short_run
  warn(num_videos, settings, num_replicas)


def warn_of_few_steps(
  num_videos: int, settings: Settings, num_replicas: int
) -> None:
  """Warns of a run that ends before most models have learned something.

  Args:
    num_videos: about how many there are.
    settings: how to train.
    num_replicas: over all machines.
  """
  step_videos, steps = _planned(num_videos, settings, num_replicas)
  if settings.max_steps or not 0 < steps < _USUAL_STEPS:
    return
  logging.warning(
    "With about %d videos, the whole training takes %d step%s, which is little"
    " to learn from. Read them more often: --num_epochs=%d makes %d steps.",
    num_videos,
    steps,
    "s" if steps > 1 else "",
    math.ceil(_GOOD_STEPS * step_videos / num_videos),
    _GOOD_STEPS,
  )


def warn_of_few_classes(data: Data, num_classes: int) -> None:
  """Warns of a model with far more classes than the labels have.

  Args:
    data: what is read.
    num_classes: of the model.
  """
  largest = data.largest_label
  if largest is not None and largest < num_classes // _MANY_TIMES:
    logging.warning(
      "All labels of the first %d videos are below %d, but the model has %d"
      " classes. If your data has fewer, set --num_classes to their number.",
      data.num_sampled,
      largest + 1,
      num_classes,
    )


def warn_of_trained_files(files: list[str], scored: list[str]) -> None:
  """Warns of files on which a run is both trained and evaluated.

  Args:
    files: that are trained on.
    scored: that are evaluated on.
  """
  shared = set(map(os.path.realpath, files)) & set(
    map(os.path.realpath, scored)
  )
  if shared:
    logging.warning(
      "%d of the files of --eval_data_pattern are trained on too, such as %s:"
      " scores on them say little about other videos.",
      len(shared),
      min(shared),
    )


def warn_of_other_ranges(files: list[str], model_flags: dict) -> None:
  """Warns of bytes that the card beside the files gives another range.

  Args:
    files: that are read.
    model_flags: see train_dir.py.
  """
  folder = os.path.dirname(files[0])
  if not os.path.exists(os.path.join(folder, CARD_FILE)):
    return
  try:
    card = read_card(folder)
  except errors.UserError:  # of something else
    return
  ranges = str(model_flags.get("feature_ranges", ""))
  names = model_flags["feature_names"].split(",")
  dtypes = dict(zip(card.feature_names, card.feature_dtypes, strict=True))
  of_card = card.ranges_of(names)
  read = quantization.parse_ranges(ranges, len(names))
  meant = quantization.parse_ranges(of_card, len(names))
  if any(
    dtypes.get(name) == "uint8" and read[index] != meant[index]
    for index, name in enumerate(names)
  ):
    logging.warning(
      "Reading bytes in %s as numbers in %s, but %s says %s. Name the data by"
      " --dataset_dir=%s, or set --feature_ranges=%s.",
      folder,
      ranges or "YouTube-8M's range",
      CARD_FILE,
      of_card or "YouTube-8M's range",
      folder,
      of_card,
    )
