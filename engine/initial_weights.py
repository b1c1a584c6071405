"""Starts a new run from the weights of another one: --init_checkpoint.

Every variable that has the same name and shape in both models is taken over, of
whatever kind the models are: a LogisticModel on whole videos begins a
FrameLevelLogisticModel, a MoeModel the classifier of a model that ends with
one. If the source kept moving averages, these are taken. The optimizer, the
counters and the random numbers begin anew.

Where the models predict other classes, the variables that depend on their
number, the classifier, begin anew too. If they are classes of the same data
(--label_subset), the columns of those that both predict are taken over. Where
only one of the models has --exclusive_classes, the columns of the experts are
put into the order of the new one.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import errors
import models
from engine import best_checkpoint, model_building
from engine.checkpoints import latest_checkpoint, load_weights
from engine.model_flags import MODEL_FLAGS_FILE, read_model_flags
from engine.run import Run
from engine.settings import Settings
from engine.train_dir import BEST_DIR

# Layers that a log line lists.
_MOST_LISTED = 6


class Source(NamedTuple):
  """A checkpoint of a trained model.

  Attributes:
    checkpoint: its path without endings.
    model_flags: see engine/train_dir.py.
  """

  checkpoint: str
  model_flags: dict


def find_source(path: str) -> Source:
  """Finds the checkpoint that --init_checkpoint names.

  Args:
    path: a train_dir, of which the newest checkpoint counts, its folder best,
      or the path of a checkpoint in either, without its endings.

  Raises:
    errors.UserError: there is none, or not one of this project.
  """
  path = path.rstrip("/")
  if tf.io.gfile.isdir(path):
    folder, checkpoint = path, latest_checkpoint(path)
    if checkpoint is None:
      raise errors.UserError(
        f"Expected a checkpoint in --init_checkpoint={path}, received a folder"
        " without one. Name the --train_dir of a trained model."
      )
  elif tf.io.gfile.exists(f"{path}.index"):
    folder, _, _ = path.rpartition("/")
    folder, checkpoint = folder or ".", path
  else:
    advice = "Check the path."
    run_folder, _, name = path.rpartition("/")
    if name == BEST_DIR and latest_checkpoint(run_folder or "."):
      advice = (
        "The run has a best checkpoint when eval.py --all_checkpoints has"
        f" chosen one; --init_checkpoint={run_folder} takes the newest."
      )
    elif tf.io.gfile.exists(path):
      advice = "Write the path without its ending, such as DIR/model.ckpt-100."
    raise errors.UserError(
      "Expected the --train_dir of a trained model, or a checkpoint's path, as"
      f" --init_checkpoint, received {path}, which is neither. {advice}"
    )
  model_flags = read_model_flags(best_checkpoint.run_of(folder))
  if model_flags is None:
    raise errors.UserError(
      f"Expected {MODEL_FLAGS_FILE} beside the checkpoint of"
      f" --init_checkpoint={path}, received none. Name a --train_dir of this"
      " project; data_tools.import_tf1_checkpoint makes one of a checkpoint of"
      " TensorFlow 1 code."
    )
  return Source(checkpoint, model_flags)


def source_of_run(train_dir: str, settings: Settings) -> Source | None:
  """Finds what a run begins with; None if it continues, or begins at random.

  Args:
    train_dir: of the run.
    settings: how to train.

  Raises:
    errors.UserError: see find_source.
  """
  if not settings.init_checkpoint:
    return None
  if not settings.start_new_model and latest_checkpoint(train_dir):
    return None
  return find_source(settings.init_checkpoint)


# --------------------------------------------------------------------------
# Names


def weights_by_name(model: keras.Model) -> dict[str, keras.Variable]:
  """The variables of a model by name, but not the states of random numbers."""
  found = {}
  for variable in model.variables:
    name, number = variable.path, 1
    if name.endswith("seed_generator_state"):
      continue
    while name in found:  # of layers that their owner gave the same name
      number += 1
      name = f"{variable.path}:{number}"
    found[name] = variable
  return found


def _class_names() -> set[str]:
  """The names of all classes of layers, lower case."""
  pending, names = [keras.layers.Layer], set()
  while pending:
    layer_class = pending.pop()
    names.add(layer_class.__name__.lower())
    pending += layer_class.__subclasses__()
  return names


def _renumbered(names: Sequence[str]) -> dict[str, str]:
  """Names that do not depend on how many models were built before.

  Keras names a layer without a name after its class, and counts them in the
  whole process: dense_7. Here they are counted in their model.

  Args:
    names: of variables, in the order of the model.

  Returns:
    {new name: name}.
  """
  classes = _class_names()
  numbers: dict[tuple[str, str], dict[str, int]] = {}
  renumbered = {}
  for name in names:
    path = ""
    for part in name.split("/"):
      kind = re.sub(r"_\d+$", "", part)
      plain = re.sub(r"^(forward|backward)_", "", kind).replace("_", "")
      if plain in classes:
        known = numbers.setdefault((path, kind), {})
        part = f"{kind}_{known.setdefault(part, len(known))}"
      path = f"{path}/{part}"
    renumbered[path] = name
  return renumbered


def _same_names(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
  """Finds the variable of another model that each of ours corresponds to.

  Args:
    ours: names, in the order of the model.
    theirs: names of the other model.

  Returns:
    {our name: their name}, of those that there are.
  """
  known = set(theirs)
  same = {name: name for name in ours if name in known}
  # Names that Keras has given are never the same for two models of a process.
  others = _renumbered([name for name in theirs if name not in same])
  for path, name in _renumbered([n for n in ours if n not in same]).items():
    if path in others:
      same[name] = others[path]
  return same


# --------------------------------------------------------------------------
# Classes


class _Classes(NamedTuple):
  """Which outputs of two models are of the same class.

  Attributes:
    here: the numbers of these outputs in the new model.
    there: their numbers in the source.
    count_here: outputs of the new model.
    count_there: outputs of the source.
    block_here: whether in the new model all classes of an expert follow each
      other, and not all experts of a class, see layers/classifiers.py.
    block_there: the same of the source.
  """

  here: np.ndarray
  there: np.ndarray
  count_here: int
  count_there: int
  block_here: bool
  block_there: bool

  @property
  def are_all(self) -> bool:
    """Whether both models predict the same classes."""
    return len(self.here) == self.count_here == self.count_there

  def columns(self, width: int, is_here: bool) -> np.ndarray | None:
    """The columns of a variable that belong to the shared classes.

    Args:
      width: columns of the variable, a number for each class.
      is_here: whether it is of the new model.

    Returns:
      (numbers for a class, classes) int, or None if width is no multiple.
    """
    if is_here:
      classes, count, block = self.here, self.count_here, self.block_here
    else:
      classes, count, block = self.there, self.count_there, self.block_there
    if width % count:
      return None
    numbers = np.arange(width // count)[:, None]
    if block:
      return numbers * count + classes
    return classes * len(numbers) + numbers


def _shared_classes(model_flags: dict, source_flags: dict) -> _Classes | None:
  """Finds the classes that both models predict.

  Returns:
    None if all are the same, and their numbers in the same order.
  """
  here = np.array(models.output_classes(model_flags))
  there = np.array(models.output_classes(source_flags))
  of_same_data = model_flags["num_classes"] == source_flags["num_classes"]
  blocks = models.are_exclusive(model_flags), models.are_exclusive(source_flags)
  if of_same_data and np.array_equal(here, there) and len(set(blocks)) == 1:
    return None
  _, at_here, at_there = np.intersect1d(here, there, return_indices=True)
  if not of_same_data:  # then an index may stand for something else
    at_here = at_there = np.zeros(0, np.int64)
  return _Classes(
    at_here,
    at_there,
    len(here),
    len(there),
    *blocks,
  )


def _shapes_with_more_classes(
  model: keras.Model, model_flags: dict
) -> dict[str, tuple[int, ...]]:
  """The shapes that the variables of a model had with one class more."""
  more = {**model_flags, "num_classes": models.num_outputs(model_flags) + 1}
  more.pop("label_subset", None)
  other = weights_by_name(model_building.build_model(more, None))
  names = _same_names(list(weights_by_name(model)), list(other))
  return {ours: tuple(other[theirs].shape) for ours, theirs in names.items()}


def _with_shared_columns(
  value: np.ndarray, source: np.ndarray, axes: list[int], shared: _Classes
) -> np.ndarray | None:
  """Takes over what a variable has for the classes that both models predict.

  Args:
    value: of our variable.
    source: of theirs.
    axes: those of `value` that depend on the number of classes.
    shared: these classes.

  Returns:
    A changed copy; None if it is not clear what belongs to a class.
  """
  last = value.ndim - 1
  square = (shared.count_here,) * 2, (shared.count_there,) * 2
  if not len(shared.here) or value.ndim != source.ndim:
    return None
  changed = value.copy()
  if axes == [0, 1] and (value.shape, source.shape) == square:
    rows = np.ix_(shared.there, shared.there)
    changed[np.ix_(shared.here, shared.here)] = source[rows]
    return changed
  here = shared.columns(value.shape[-1], is_here=True)
  there = shared.columns(source.shape[-1], is_here=False)
  if axes != [last] or here is None or there is None:
    return None
  if value.shape[:-1] != source.shape[:-1] or here.shape != there.shape:
    return None
  changed[..., here.ravel()] = source[..., there.ravel()]
  return changed


# --------------------------------------------------------------------------
# Taking over


@dataclasses.dataclass
class Transfer:
  """What one model takes over from another.

  Attributes:
    values: {name: array}, of the variables that change.
    partly: of which of these only the columns of some classes change.
    num_classes: how many classes these are.
    shapes: {name of any variable: its shape, and that of the variable of the
      same name in the source, or None}.
    unused: names of variables of the source.
  """

  values: dict[str, np.ndarray]
  partly: list[str]
  num_classes: int
  shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]]
  unused: list[str]

  @property
  def fresh(self) -> list[str]:
    """The names of the variables that do not change."""
    return [name for name in self.shapes if name not in self.values]


def plan_transfer(
  model: keras.Model,
  model_flags: dict,
  source: keras.Model,
  source_flags: dict,
) -> Transfer:
  """Finds out what a model can take over from another.

  Args:
    model: a new model, which is not changed.
    model_flags: of it, see engine/train_dir.py.
    source: a model with its weights.
    source_flags: of it.
  """
  ours, theirs = weights_by_name(model), weights_by_name(source)
  partners = _same_names(list(ours), list(theirs))
  shapes = {
    name: (
      tuple(variable.shape),
      tuple(theirs[partners[name]].shape) if name in partners else None,
    )
    for name, variable in ours.items()
  }
  shared = _shared_classes(model_flags, source_flags)
  # The shape alone does not tell: 6 classes of 2 experts are as wide as 4 of 3.
  with_more = _shapes_with_more_classes(model, model_flags) if shared else {}
  values, partly = {}, []
  for name, partner in partners.items():
    here, there = shapes[name]
    axes = _differing_axes(here, with_more.get(name, here))
    value = None
    if shared and axes:
      value = _with_shared_columns(
        _array(ours[name]), _array(theirs[partner]), axes, shared
      )
      if value is not None and not shared.are_all:
        partly.append(name)
    elif here == there:
      value = _array(theirs[partner])
    if value is not None:
      values[name] = value
  for name in _incomplete_statistics(ours, values.keys() - set(partly)):
    values.pop(name, None)
  used = {partners[name] for name in values}
  return Transfer(
    values,
    [name for name in partly if name in values],
    len(shared.here) if shared else 0,
    shapes,
    [name for name in theirs if name not in used],
  )


def _array(variable: keras.Variable) -> np.ndarray:
  """The value of a variable, of which each replica may have one."""
  return tf.convert_to_tensor(variable.value).numpy()


def _differing_axes(one: Sequence[int], other: Sequence[int]) -> list[int]:
  """The axes whose sizes differ, or that only one shape has."""
  pairs = itertools.zip_longest(one, other)
  return [axis for axis, (size, of) in enumerate(pairs) if size != of]


def _incomplete_statistics(
  weights: dict[str, keras.Variable], whole: Iterable[str]
) -> list[str]:
  """The statistics of layers that are not taken over as a whole.

  They belong together: from how many steps they are decides how fast they
  change, so that fresh ones with many steps would stay wrong for long.

  Args:
    weights: of the new model.
    whole: the names of those that are taken over, and not in part.
  """
  incomplete = {name.rpartition("/")[0] for name in weights.keys() - set(whole)}
  return [
    name
    for name, variable in weights.items()
    if not variable.trainable and name.rpartition("/")[0] in incomplete
  ]


def take_over(run: Run) -> None:
  """Gives a new run the weights that --init_checkpoint names, if it does.

  Args:
    run: before restore_or_begin.

  Raises:
    errors.UserError: see find_source; no variable matches.
  """
  if not run.settings.init_checkpoint:
    return
  source = source_of_run(run.train_dir, run.settings)
  if source is None:
    logging.info(
      "The run in %s continues with its own weights: no effect of"
      " --init_checkpoint.",
      run.train_dir,
    )
    return
  try:
    trained = model_building.build_model(source.model_flags, None)
  except errors.UserError as error:
    raise errors.UserError(
      "Expected a model that can be built as --init_checkpoint, received"
      f" {source.checkpoint}. {error}"
    ) from error
  load_weights(trained, source.checkpoint)
  transfer = plan_transfer(
    run.model, run.model_flags, trained, source.model_flags
  )
  if not transfer.values:
    raise _nothing_matches(run, source, trained)
  weights = weights_by_name(run.model)
  with run.placement.strategy.scope():
    for name, value in transfer.values.items():
      weights[name].assign(value)
    averaged = run.model.trainable_variables if run.average else []
    for mean, variable in zip(run.average, averaged, strict=True):
      mean.assign(variable.value)
  _log(transfer, source)
  _warn_of_other_features(run.model_flags, source.model_flags)


def _nothing_matches(
  run: Run, source: Source, trained: keras.Model
) -> errors.UserError:
  """The error that names a variable of each model."""
  here, there = (
    f"{name} {tuple(variable.shape)}"
    for model in (run.model, trained)
    for name, variable in list(weights_by_name(model).items())[:1]
  )
  return errors.UserError(
    f"Expected weights that {run.model_flags['model']} has too in"
    f" --init_checkpoint={source.checkpoint}, received those of"
    f" {source.model_flags['model']}, of which none has the same name and"
    f" shape: {here} here, {there} there. Name another model, or leave the flag"
    " out."
  )


# --------------------------------------------------------------------------
# What is said


def _listed(names: list[str], shapes: dict | None = None) -> str:
  """Lists variables by layer, not too many.

  Args:
    names: of the variables.
    shapes: see Transfer; to tell those that differ.
  """
  layers: dict[str, list[str]] = {}
  for name in names:
    layer, _, variable = name.rpartition("/")
    here, there = (shapes or {}).get(name, (None, None))
    if there and here != there:
      variable = f"{variable} {here} instead of {there}"
    layers.setdefault(layer, []).append(variable)
  parts = [
    f"{layer} ({', '.join(variables)})"
    for layer, variables in list(layers.items())[:_MOST_LISTED]
  ]
  if len(layers) > len(parts):
    parts.append(f"and {len(layers) - len(parts)} more layers")
  return "; ".join(parts)


def _log(transfer: Transfer, source: Source) -> None:
  """Says what was taken over."""
  logging.info(
    "Starting with the weights of %s, a %s: %d of %d variables, %s numbers.",
    source.checkpoint,
    source.model_flags["model"],
    len(transfer.values),
    len(transfer.shapes),
    f"{sum(value.size for value in transfer.values.values()):,}",
  )
  if transfer.partly:
    logging.info(
      "Of these, only the %d classes that both models predict: %s.",
      transfer.num_classes,
      _listed(transfer.partly),
    )
  if transfer.fresh:
    fresh = _listed(transfer.fresh, transfer.shapes)
    logging.info("Not taken over, but new: %s.", fresh)
  if transfer.unused:
    logging.info("Not used of it: %s.", _listed(transfer.unused))


def _input(model_flags: dict) -> str:
  """The input of a model, described alike for both levels."""
  names = model_flags["feature_names"].split(",")
  sizes = model_flags["feature_sizes"].split(",")
  features = [
    f"{name.strip().removeprefix('mean_')} ({size.strip()})"
    for name, size in zip(names, sizes, strict=True)
  ]
  transform = model_flags.get("input_transform", "l2")
  return f"{', '.join(features)} with --input_transform={transform}"


def _warn_of_other_features(model_flags: dict, source_flags: dict) -> None:
  """Warns of inputs that weights of the same shape were not trained on."""
  here, there = _input(model_flags), _input(source_flags)
  if here != there:
    logging.warning(
      "The weights of --init_checkpoint are of a model on %s. This run reads"
      " %s: what weighs the features may fit only after training.",
      there,
      here,
    )
