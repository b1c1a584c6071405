"""Steps that are not finite: leaves their updates out and names the cause.

A step is finite if all gradients are, all moving statistics of the model after
it, and its loss. (The gradients do not need the loss of the labels: it is known
of steps that are reported, with --nan_policy=skip of all.) A step that is not
finite changes no weight, no state of the optimizer, no moving average and no
statistic. It counts as a step all the same, so that a run that is resumed goes
on at the same place.

`Watch` is the part that the compiled step uses. What it remembers of a step is
where the data of the step is, so the names of its records are found again, and
only then: the order of the data is known.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import errors
import losses
import models
from engine import model_building
from engine.checkpoints import checkpoint_step, latest_checkpoint
from engine.data import Data
from engine.data_order import Place
from engine.distribution import Placement
from engine.run import Run, first_not_finite, floats
from layers import sums
from records import contents, messages, shards

MOST_IN_A_ROW = {"stop": 1, "skip": 10}
"""By --nan_policy, how many such steps in a row end a run."""

_MOST_NAMES = 5
# What is remembered of a step before the flags of its gradients.
_PLACE = 4


def squared_norms(gradients: list) -> list[tf.Tensor]:
  """The sum of squares of each gradient; 0 for a weight that has none."""
  squares = []
  for gradient in gradients:
    square = tf.zeros([1]) if gradient is None else tf.square(gradient)
    squares.append(sums.total(square if square.shape.rank else square[None]))
  return squares


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """A step whose update was left out.

  Attributes:
    step: its number, from 1.
    begin: where its data begins, see Place; and before it the examples of this
      machine, where TensorFlow reads.
    end: where its data ends, likewise.
    weights: paths of the weights whose gradients were not finite.
    statistics: paths of the moving statistics that were not.
  """

  step: int
  begin: tuple[Place, int]
  end: tuple[Place, int]
  weights: list[str]
  statistics: list[str]


class Watch:
  """Finds steps that are not finite, inside the compiled loop.

  Args:
    model: as it is before the first step.
    placement: where it is trained.
    state: the counters of a Run.
  """

  def __init__(self, model: keras.Model, placement: Placement, state):
    self._placement = placement
    self._weights = model.trainable_variables
    self._statistics = floats(model.non_trainable_variables)
    with placement.strategy.scope():
      # Each replica has its own statistics, and keeps its own.
      self._kept = [
        tf.Variable(variable.value, trainable=False)
        for variable in self._statistics
      ]
    width = 2 + 2 * _PLACE + len(self._weights) + len(self._statistics)
    self._found = tf.Variable(
      tf.zeros([0, width], tf.int64), trainable=False, shape=[None, width]
    )
    self._begin = tf.Variable(self._place(state), trainable=False)

  def _place(self, state) -> tf.Tensor:
    """Where the run is in its data, (4,) int64; see LeftOut."""
    position = state["position"][self._placement.worker]
    return tf.concat([state["place"], position[None]], axis=0)

  # In a replica

  def judge(self, squares: list[tf.Tensor]) -> tf.Tensor:
    """Whether each gradient and then each statistic is finite.

    Args:
      squares: the squared norms of the gradients.

    Returns:
      bool, the same on all replicas.
    """
    of_gradients = tf.math.is_finite(tf.stack(squares))
    if not self._statistics:
      return of_gradients
    finite = tf.stack(
      [
        tf.reduce_all(tf.math.is_finite(variable.value))
        for variable in self._statistics
      ]
    )
    wrong = self._placement.sum(1.0 - tf.cast(finite, tf.float32))
    return tf.concat([of_gradients, tf.equal(wrong, 0.0)], axis=0)

  def keep(self) -> None:
    """Keeps the statistics as they are after a finite step."""
    for kept, variable in zip(self._kept, self._statistics, strict=True):
      kept.assign(variable.value)

  def restore(self) -> None:
    """Makes the statistics what they were before the step."""
    for kept, variable in zip(self._kept, self._statistics, strict=True):
      variable.value.assign(kept)

  # Around all replicas

  def remember(self, state, finite: tf.Tensor) -> None:
    """Notes a step that is left out, and counts it.

    Args:
      state: the counters of a Run, before global_step counts it.
      finite: result of `judge`, and whether the loss is finite.
    """
    row = tf.concat(
      [
        state["global_step"][None] + 1,
        self._begin,
        self._place(state),
        tf.cast(finite, tf.int64),
      ],
      axis=0,
    )
    self._found.assign(tf.concat([self._found, row[None]], axis=0))
    state["left_out"].assign_add([1, 1])

  def move_on(self, state) -> None:
    """Notes where the next step begins."""
    self._begin.assign(self._place(state))

  # Outside

  def take(self) -> list[LeftOut]:
    """The steps that were left out since the last call."""
    rows = self._found.numpy()
    if not len(rows):
      return []
    self._found.assign(rows[:0])
    paths = [v.path for v in (*self._weights, *self._statistics)]
    return [self._left_out(row.tolist(), paths) for row in rows]

  def _left_out(self, row: list[int], paths: list[str]) -> LeftOut:
    step, *places = row[: 1 + 2 * _PLACE]
    finite = row[1 + 2 * _PLACE :]
    wrong = [not is_finite for is_finite in finite]
    number = len(self._weights)
    return LeftOut(
      step,
      (Place(*places[:3]), places[3]),
      (Place(*places[4:7]), places[7]),
      list(itertools.compress(paths[:number], wrong[:number])),
      list(itertools.compress(paths[number:], wrong[number:])),
    )


# --------------------------------------------------------------------------
# The records of a step


def _local_records(run: Run, data: Data, one: LeftOut) -> Iterator[str]:
  """Names the records of a step that were read by number, of all machines."""
  settings, state = run.settings, run.state
  order = data.order(settings.seed, int(state["window_shards"]))
  batch = settings.batch_size * run.placement.num_replicas
  (begin, _), (end, _) = one.begin, one.end
  reader, seen = shards.RecordReader(data.files), set()
  for table, after, _ in order.batches(begin, batch, settings.num_epochs):
    for file, number, offset, length, _ in table.tolist():
      if (file, number) in seen:  # another segment of it
        continue
      seen.add((file, number))
      try:
        record = messages.parse_record(reader.read(file, offset, length))
        name = contents.video_id(record.context).decode(errors="replace")
      except messages.BadRecordError:  # no example of it was in the batch
        continue
      yield f"{name} ({data.files[file]}, record {number})"
    if dataclasses.astuple(after) >= dataclasses.astuple(end):
      return


def _remote_records(batches: tf.data.Dataset, one: LeftOut) -> Iterator[str]:
  """Names the examples of this machine that TensorFlow has read for a step."""
  left = one.end[1] - one.begin[1]
  for batch in batches:
    names = batch["video_ids"].numpy()[:left]
    left -= len(names)
    for name in dict.fromkeys(names.tolist()):  # segments of one video
      yield name.decode(errors="replace")
    if left <= 0:
      return


def _listed(names: list[str], more: int = 0) -> str:
  """The first of some names, and how many more there are."""
  more += len(names[_MOST_NAMES:])
  rest = f" and {more} more" if more else ""
  return ", ".join(names[:_MOST_NAMES]) + rest


# --------------------------------------------------------------------------
# What to do


class Reaction:
  """Does what --nan_policy says about steps that were left out.

  Args:
    run: in training.
    data: that it is trained on.
    watch: of its steps.
    batches_from: (place, examples of this machine) -> this machine's batches
      from there on.
  """

  def __init__(
    self,
    run: Run,
    data: Data,
    watch: Watch,
    batches_from: Callable[[Place, int], tf.data.Dataset],
  ):
    self._run = run
    self._data = data
    self._watch = watch
    self._batches_from = batches_from

  def react(self, step: int, outputs) -> list[int]:
    """Logs the steps that were left out since the last call, or ends the run.

    Args:
      step: the last one.
      outputs: (scalars, predictions, labels) of it.

    Returns:
      The numbers of these steps.

    Raises:
      errors.UserError: --nan_policy does not allow so many; names the step,
        what was not finite, and the records of the step.
    """
    found = self._watch.take()
    total, in_a_row = self._run.state["left_out"].numpy().tolist()
    policy = self._run.settings.nan_policy
    total -= len(found)
    for one in found:
      total += 1
      is_last = one.step == step
      if is_last:  # predictions that are no probabilities have a better name
        self._check_probabilities(outputs[1].numpy())
      cause = self._cause(one, outputs if is_last else None)
      names = self._names(one, outputs[1].numpy() if is_last else None)
      if is_last and in_a_row >= MOST_IN_A_ROW[policy]:
        raise errors.UserError(self._message(one, cause, names))
      logging.warning(
        "Left out the update of step %d, %d so far: expected %s. Its records:"
        " %s.",
        one.step,
        total,
        cause,
        names,
      )
    return [one.step for one in found]

  def _check_probabilities(self, predictions: np.ndarray) -> None:
    flags = self._run.model_flags
    if len(predictions):
      model_building.check_probabilities(
        predictions, flags["model"], models.are_exclusive(flags)
      )

  def _message(self, one: LeftOut, cause: str, names: str) -> str:
    """The line that ends a run."""
    run = self._run
    most = MOST_IN_A_ROW[run.settings.nan_policy]
    advice = "or leave such steps out with --nan_policy=skip."
    if most > 1:
      cause += f", the last of {most} such steps in a row"
      advice = "or start again with --start_new_model."
    checkpoint = latest_checkpoint(run.train_dir)
    if checkpoint:
      saved = (
        "The same command continues from the last checkpoint, of step"
        f" {checkpoint_step(checkpoint)}:"
      )
    else:
      saved = "No checkpoint was saved yet:"
    return (
      f"Expected {cause}. Training diverged, or the model or the loss divides"
      f" by 0 or takes the logarithm of 0. The records of the step: {names}."
      f" {saved} use a smaller --base_learning_rate or --clip_gradient_norm,"
      f" check whether these records have numbers of unusual size, {advice}"
    )

  def _cause(self, one: LeftOut, outputs) -> str:
    """What was expected and received, as the end of a sentence.

    Args:
      one: the step.
      outputs: of it; None if they are not known.
    """
    model_name = self._run.model_flags["model"]
    where = f"step {one.step}"
    if path := first_not_finite(self._run.model):
      return (
        f"finite weights, received NaN or infinite ones in {path} before"
        f" {where}"
      )
    ending, also = f" at {where}", ""
    if one.weights:
      ending = f", NaN or infinite ones of {_listed(one.weights)}{ending}"
      also = " and gradients with {}"
    elif one.statistics:
      statistics = _listed(one.statistics)
      ending = f", NaN or infinite statistics in {statistics}{ending}"
    if outputs is not None:
      scalars, predictions, labels = outputs
      if not np.isfinite(predictions.numpy()).all():
        return (
          f"finite predictions of {model_building.named(model_name)}, received"
          f" NaN or infinite ones{also.format('them')}{ending}"
        )
      for tag, value in self._losses(scalars, predictions, labels):
        if not np.isfinite(value):
          return (
            f"a finite loss, received {value} as {tag}{also.format('it')}"
            f"{ending}"
          )
    if not (one.weights or one.statistics):
      return f"a finite loss, received NaN or an infinite one{ending}"
    return f"finite gradients, received {ending.removeprefix(', ')}"

  def _losses(
    self, scalars, predictions, labels
  ) -> Iterator[tuple[str, float]]:
    """The parts of the loss of the last step, by name."""
    for tag, value in scalars.items():
      if tag != "label_loss":  # which is computed for reports alone
        yield tag, float(value)
    if len(labels) and labels.dtype == tf.bool:
      loss = losses.make_loss(self._run.model_flags)
      name = f"{type(loss).__name__} of the labels"
      yield name, float(loss.calculate_loss(predictions, labels))

  def _names(self, one: LeftOut, predictions: np.ndarray | None) -> str:
    """The records of a step, first those whose predictions are not finite."""
    if self._data.by_number:
      names = list(_local_records(self._run, self._data, one))
    else:
      names = list(_remote_records(self._batches_from(*one.begin), one))
    if predictions is not None and len(predictions) == len(names):
      rows = np.flatnonzero(~np.isfinite(predictions).all(axis=1))
      if 0 < len(rows) < len(names):
        names = [names[row] for row in rows]
        return f"{_listed(names)}, whose predictions are not finite"
    return _listed(names)
