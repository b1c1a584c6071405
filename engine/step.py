"""The compiled training step: forward pass, loss, gradients, update.

`make_run_steps` puts the functions of this file together. Those that take a
`Step` run on each replica, on its part of the videos; `one_step` and
`run_steps` run once, around all replicas.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

import losses
import models
import readers
from engine import divergence, schedules
from engine.distribution import Placement
from engine.settings import Settings
from layers import recurrent, sums


@dataclasses.dataclass(frozen=True)
class Step:
  """What a training step computes with.

  Attributes:
    model: result of models.build_model.
    forward: the model, or the same model on mixed videos.
    calculate_loss: (predictions, labels, weights) -> scalar.
    squared_norms: (gradients summed over replicas) -> a scalar for each.
    apply_gradients: (these gradients, these scalars, learning rate) -> None.
    watch: finds steps that are not finite.
    settings: how to train.
    placement: where.
    with_xla: whether XLA compiles the whole step.
  """

  model: keras.Model
  forward: keras.Model
  calculate_loss: Callable
  squared_norms: Callable
  apply_gradients: Callable
  watch: divergence.Watch
  settings: Settings
  placement: Placement
  with_xla: bool

  @property
  def mixes(self) -> bool:
    """Whether it trains on weighted means of two videos."""
    return self.settings.mixup_alpha > 0


class Accumulator:
  """Sums the gradients of the batches of one step.

  It is empty between two steps, so that checkpoints need not hold it.

  Args:
    model: whose trainable weights the gradients are of.
    placement: where.

  Attributes:
    gradients: for each trainable weight the sum over the batches so far of the
      gradient of the batch's mean loss, times the batch's videos.
    num_videos: the videos of these batches, float32.
    num_not_finite: the batches of them whose losses are not finite, float32.
  """

  def __init__(self, model: keras.Model, placement: Placement):
    with placement.strategy.scope():
      self.gradients = [
        placement.replicated(tf.zeros_like(variable.value))
        for variable in model.trainable_variables
      ]
      self.num_videos = placement.replicated(0.0)
      self.num_not_finite = placement.replicated(0.0)

  def add(self, gradients, num_videos, has_finite_loss) -> None:
    """Adds a batch's gradients, (the same on all replicas) times its videos."""
    for total, gradient in zip(self.gradients, gradients, strict=True):
      total.assign_add(num_videos * gradient)
    self.num_videos.assign_add(num_videos)
    self.num_not_finite.assign_add(1.0 - tf.cast(has_finite_loss, tf.float32))

  def take(self) -> list[tf.Tensor]:
    """Returns the gradients of the mean loss over all videos, and empties."""
    gradients = [total / self.num_videos for total in self.gradients]
    for total in (*self.gradients, self.num_videos, self.num_not_finite):
      total.assign(tf.zeros_like(total))
    return gradients


# --------------------------------------------------------------------------
# The update


def clip_by_norm(gradient, square: tf.Tensor, norm: float) -> tf.Tensor:
  """As tf.clip_by_norm, of a gradient whose squared norm is known."""
  return gradient * (norm / tf.maximum(tf.sqrt(square), norm))


def clip_by_global_norm(
  gradients: list[tf.Tensor], norm: float
) -> list[tf.Tensor]:
  """Scales all gradients equally to a joint norm of at most `norm`."""
  squares = [sums.total(tf.square(gradient)) for gradient in gradients]
  length = tf.sqrt(tf.add_n(squares))
  scale = norm / tf.maximum(length, norm)
  return [gradient * scale for gradient in gradients]


def apply_gradients(
  optimizer,
  variables,
  average,
  settings: Settings,
  gradients,
  squares,
  learning_rate,
) -> None:
  """Clips the gradients, updates the weights and their moving averages.

  Args:
    optimizer: result of optimizers.build_optimizer.
    variables: the trainable Keras variables.
    average: their moving averages, a tf.Variable each; empty for none.
    settings: the limits of the gradients and the decay of the averages.
    gradients: of the variables, summed over all replicas.
    squares: their squared norms.
    learning_rate: float32 scalar.
  """
  if settings.clip_gradient_norm > 0:
    gradients = [
      clip_by_norm(gradient, square, settings.clip_gradient_norm)
      for gradient, square in zip(gradients, squares, strict=True)
    ]
  if settings.clip_global_norm > 0:
    gradients = clip_by_global_norm(gradients, settings.clip_global_norm)
  optimizer.learning_rate.assign(learning_rate)
  optimizer.apply(gradients, variables)
  if not average:
    return
  # At first the average covers few steps, so it forgets faster.
  steps = tf.cast(optimizer.iterations, tf.float32)
  decay = tf.minimum(settings.ema_decay, steps / (9.0 + steps))
  for mean, variable in zip(average, variables, strict=True):
    mean.assign_add((1.0 - decay) * (variable.value - mean))


# --------------------------------------------------------------------------
# A replica's part of a step


def draw_mixup_weight(alpha: float, seed: tf.Tensor, step: tf.Tensor):
  """Draws the weight of a step from Beta(alpha, alpha); a float32 scalar.

  A resumed run draws the same weights again.
  """
  gammas = tf.random.stateless_gamma([2], tf.stack([seed, step]), alpha)
  return gammas[0] / tf.reduce_sum(gammas)


def mean_loss(step: Step, predictions, batch, mixup_weight):
  """The label loss of a batch, of mixed videos the weighted mean of two."""
  labels = batch.get("targets", batch["labels"])  # of a teacher, see teacher.py
  weights = batch.get("label_weights")
  value = step.calculate_loss(predictions, labels, weights)
  if not step.mixes:
    return value
  others = step.calculate_loss(
    predictions,
    models.mixup_partners(labels),
    None if weights is None else models.mixup_partners(weights),
  )
  return mixup_weight * value + (1.0 - mixup_weight) * others


def forward_and_backward(step: Step, batch, mixup_weight, is_reported):
  """The gradients of one replica's part of a batch, summed over all replicas.

  Args:
    step: a Step.
    batch: the replica's part, without names.
    mixup_weight: float32 scalar.
    is_reported: bool scalar, whether the value of the loss is wanted.

  Returns:
    (gradients, scalars by TensorBoard tag, predictions of this part, videos of
    each machine), the first two summed over all replicas.
  """
  placement = step.placement
  num_videos = tf.shape(batch["labels"], tf.int64)[0]
  batch, share, counts = placement.weigh(batch, num_videos)
  inputs = models.model_inputs(step.model, batch)
  if step.mixes:
    inputs["mixup_weight"] = tf.fill(
      tf.shape(batch["num_frames"]), mixup_weight
    )
  with tf.GradientTape() as tape:
    with recurrent.keras_loops(step.with_xla):  # XLA can compile only these
      outputs = step.forward(inputs, training=True)
    label_loss = mean_loss(step, outputs["predictions"], batch, mixup_weight)
    reg_loss = models.regularization_loss(step.model, outputs)
    auxiliary = dict(outputs.get("auxiliary_losses", {}))
    if more := outputs.get("auxiliary_predictions"):
      auxiliary["auxiliary_label_loss"] = sum(
        mean_loss(step, predictions, batch, mixup_weight)
        for predictions in more
      )
    total = label_loss + step.settings.regularization_penalty * reg_loss
    total = share * sum(auxiliary.values(), total)
  gradients = tape.gradient(total, step.model.trainable_variables)
  # The value needs one logarithm per class, the gradient none. Which steps are
  # reported depends on their speed, which steps are left out must not.
  label_loss = tf.cond(
    is_reported | (step.settings.nan_policy == "skip"),
    lambda: mean_loss(step, outputs["predictions"], batch, mixup_weight),
    lambda: tf.constant(0.0),
  )
  scalars = {"label_loss": label_loss, "reg_loss": reg_loss, **auxiliary}
  scalars = {tag: share * value for tag, value in scalars.items()}
  gradients, scalars = placement.sum((gradients, scalars))
  predictions = outputs["predictions"]
  if placement.num_replicas > 1:
    predictions = predictions[:num_videos]  # drops the video that weigh adds
  return gradients, scalars, predictions, counts


def _are_finite(scalars: dict[str, tf.Tensor]) -> tf.Tensor:
  """Whether a batch's losses are finite, a bool scalar."""
  return tf.reduce_all(tf.math.is_finite([*scalars.values()]))


def _judged(step: Step, gradients):
  """What a step may update the weights with.

  Returns:
    (gradients, their squared norms, whether each is finite and then each
    statistic of the model).
  """
  squares = step.squared_norms(gradients)
  return gradients, squares, step.watch.judge(squares)


def train_step(step: Step, batch, mixup_weight, is_reported):
  """A step on one batch, before the update; see `forward_and_backward`.

  Returns:
    (result of `_judged`, scalars by tag, predictions of this part, videos of
    each machine).
  """
  gradients, scalars, predictions, counts = forward_and_backward(
    step, batch, mixup_weight, is_reported
  )
  return _judged(step, gradients), scalars, predictions, counts


def accumulate_step(
  step: Step, accumulator: Accumulator, batch, mixup_weight, is_reported
):
  """As `train_step`, but the gradients go to the accumulator: () of them."""
  gradients, scalars, predictions, counts = forward_and_backward(
    step, batch, mixup_weight, is_reported
  )
  num_videos = tf.cast(tf.reduce_sum(counts), tf.float32)
  accumulator.add(gradients, num_videos, _are_finite(scalars))
  return (), scalars, predictions, counts


def accumulated_step(step: Step, accumulator: Accumulator):
  """What the accumulator holds, which it empties; see `_judged`."""
  return _judged(step, accumulator.take())


def update_weights(step: Step, gradients, squares, learning_rate) -> None:
  """The update of a step that is finite."""
  step.apply_gradients(gradients, squares, learning_rate)
  step.watch.keep()


# --------------------------------------------------------------------------
# Around all replicas


def _mixup_weight(step: Step, state):
  if not step.mixes:
    return tf.constant(1.0)
  return draw_mixup_weight(
    step.settings.mixup_alpha, state["seed"], state["global_step"]
  )


def _move_on(state, place, num_videos) -> None:
  """Takes over the place after a batch, and counts the epoch's records.

  Args:
    state: the counters of a Run.
    place: of the batch, see Data.training_batches.
    num_videos: that the batch had on all machines.
  """
  epoch = state["place"][0]
  before = tf.where(epoch == place[0], state["epoch_records"], 0)
  num_records, num_lost = place[3], place[4]
  new = tf.stack([num_records + num_lost, num_records - num_videos + num_lost])
  state["epoch_records"].assign(before + new)
  state["place"].assign(place[:3])


def _on_all_replicas(step: Step, replica_step, state, batch, rate, arguments):
  """Runs a replica's part of a batch on all replicas, and counts its examples.

  Args:
    step: a Step.
    replica_step: `train_step` or `accumulate_step`.
    state: the counters of a Run.
    batch: this machine's, without names.
    rate: the learning rate, to report.
    arguments: of replica_step, after the batch.

  Returns:
    (what the step may update the weights with; whether the parts of its loss
    are finite; scalars by tag, predictions and labels of this machine's batch).
  """
  placement = step.placement
  batch = dict(batch)
  place = batch.pop("place", None)
  judged, scalars, predictions, counts = placement.strategy.run(
    replica_step, args=(placement.split(batch), *arguments)
  )
  scalars, counts = placement.first((scalars, counts))
  has_finite_loss = _are_finite(scalars)
  num_videos = tf.reduce_sum(counts)
  state["examples_seen"].assign_add(num_videos)
  if place is None:  # TensorFlow reads the data
    state["position"].assign_add(counts)
  else:
    _move_on(state, place, num_videos)
  scalars = {**scalars, "learning_rate": rate}
  if step.settings.nan_policy == "skip":
    scalars["skipped_steps"] = tf.cast(state["left_out"][0], tf.float32)
  report = scalars, placement.join(predictions), batch["labels"]
  return judged, has_finite_loss, report


def _end_step(step: Step, update, state, judged, has_finite_loss, rate):
  """Updates the weights on all replicas, if the step is finite; counts it.

  Args:
    step: a Step.
    update: `update_weights`, perhaps compiled.
    state: the counters of a Run.
    judged: result of `_judged`.
    has_finite_loss: bool scalar.
    rate: the learning rate.

  Returns:
    Whether training goes on, a bool scalar, see --nan_policy.
  """
  strategy, watch = step.placement.strategy, step.watch
  gradients, squares, finite = judged
  finite = tf.concat(
    [step.placement.first(finite), has_finite_loss[None]], axis=0
  )

  def take_over():
    strategy.run(update, args=(gradients, squares, rate))
    total = state["left_out"][0]
    state["left_out"].assign(tf.stack([total, tf.zeros_like(total)]))
    return True

  def leave_out():
    strategy.run(watch.restore)
    watch.remember(state, finite)
    most = divergence.MOST_IN_A_ROW[step.settings.nan_policy]
    return state["left_out"][1] < most

  goes_on = tf.cond(tf.reduce_all(finite), take_over, leave_out)
  state["global_step"].assign_add(1)
  watch.move_on(state)
  return goes_on


def one_step(step: Step, replica_steps, state, batch, is_last, is_reported):
  """One step on one batch, on all replicas.

  Args:
    step: a Step.
    replica_steps: `train_step` and `update_weights`, perhaps compiled.
    state: the counters of a Run.
    batch: this machine's, without names.
    is_last: unused; see `one_part`.
    is_reported: bool scalar.

  Returns:
    (whether training goes on, a bool scalar; scalars by tag, predictions and
    labels of this machine's batch).
  """
  del is_last
  rate = schedules.learning_rate(
    state["examples_seen"], step.settings, state["schedule_examples"]
  )
  arguments = (_mixup_weight(step, state), is_reported)
  judge, update = replica_steps
  judged, has_finite_loss, report = _on_all_replicas(
    step, judge, state, batch, rate, arguments
  )
  goes_on = _end_step(step, update, state, judged, has_finite_loss, rate)
  return goes_on, report


def one_part(
  step: Step,
  accumulator: Accumulator,
  replica_steps,
  state,
  batch,
  is_last,
  is_reported,
):
  """One of the batches of a step that accumulates several.

  Args:
    step: a Step.
    accumulator: of the gradients.
    replica_steps: `accumulate_step`, `accumulated_step` and `update_weights`,
      perhaps compiled.
    state: the counters of a Run.
    batch: this machine's, without names.
    is_last: bool scalar, whether the step ends with this batch.
    is_reported: bool scalar.

  Returns:
    As `one_step`, for this batch.
  """
  placement = step.placement
  accumulate, judge, update = replica_steps
  seen = state["examples_seen"] - tf.cast(
    placement.first(accumulator.num_videos), tf.int64
  )
  rate = schedules.learning_rate(
    seen, step.settings, state["schedule_examples"]
  )
  arguments = (_mixup_weight(step, state), is_reported)
  _, _, report = _on_all_replicas(
    step, accumulate, state, batch, rate, arguments
  )

  def end_step():
    has_finite_loss = tf.equal(placement.first(accumulator.num_not_finite), 0.0)
    judged = placement.strategy.run(judge)
    return _end_step(step, update, state, judged, has_finite_loss, rate)

  return tf.cond(is_last, end_step, lambda: True), report


def run_steps(
  placement: Placement,
  element_spec,
  take_batch,
  batches_a_step: int,
  zero_scalars,
  iterator,
  num_steps,
):
  """Trains for some steps, or fewer if the data ends or a step is not finite.

  AutoGraph compiles it; the number of steps is a tensor.

  Args:
    placement: where.
    element_spec: of the numeric part of the batches.
    take_batch: (batch, is_last, is_reported) -> what `one_step` returns.
    batches_a_step: batches that make a step.
    zero_scalars: {tag: scalar} of the same structure as a step's.
    iterator: of the batches.
    num_steps: int32 scalar.

  Returns:
    (steps done, (scalars, predictions, labels) of the last batch).
  """
  num_classes = element_spec["labels"].shape[-1]
  steps = tf.constant(0)
  part = tf.constant(0)
  scalars = zero_scalars
  predictions = tf.zeros([0, num_classes])
  labels = tf.zeros([0, num_classes], tf.bool)
  more, batch = placement.next_batch(iterator, element_spec)
  while more:
    tf.autograph.experimental.set_loop_options(
      shape_invariants=[
        (predictions, tf.TensorShape([None, num_classes])),
        (labels, tf.TensorShape([None, num_classes])),
      ]
    )
    # The last batch is reported, so look ahead: the data may end early.
    following = batch
    part += 1
    more = steps * batches_a_step + part < num_steps * batches_a_step
    if more:
      more, following = placement.next_batch(iterator, element_spec)
    is_last = tf.logical_or(part == batches_a_step, tf.logical_not(more))
    goes_on, (scalars, new_predictions, new_labels) = take_batch(
      batch, is_last, tf.logical_not(more)
    )
    more = tf.logical_and(more, goes_on)
    if is_last:
      steps += 1
      part = 0
    batch = following
    if tf.shape(new_labels)[0] > 0:  # else only other machines had videos
      predictions, labels = new_predictions, new_labels
  return steps, (scalars, predictions, labels)


# --------------------------------------------------------------------------
# Putting it together


def what_to_compile(run) -> tuple[bool, bool]:
  """Whether XLA compiles the whole step, or only its ends.

  The ends are the loss and the update of the weights. XLA cannot compile the
  communication of several replicas in between.

  Args:
    run: a run.Run.
  """
  settings = run.settings
  if run.placement.num_replicas > 1:
    return False, False
  if settings.xla is not None:
    return settings.xla, False
  # TensorFlow has half precision products on CPUs, XLA does not.
  half_on_cpu = settings.mixed_precision and not (
    tf.config.list_logical_devices("GPU")
  )
  compile_step = run.model_class.xla and not half_on_cpu
  return compile_step, not compile_step


def _with_xla(function, wanted: bool):
  if not wanted:
    return function
  return tf.function(function, jit_compile=True, autograph=False)


def _on_one_replica(function, placement: Placement, with_xla: bool):
  """Compiles a replica's part of a step, if there is only one replica."""
  if placement.num_replicas > 1:
    return function
  return tf.function(
    function,
    jit_compile=with_xla or None,
    reduce_retracing=True,
    autograph=False,
  )


def _make_take_batch(step: Step, state):
  """What trains on one batch: `one_step`, or `one_part` of a step."""

  def on_one_replica(function, *arguments):
    def bound(*of_the_batch):
      return function(step, *arguments, *of_the_batch)

    bound.__name__ = function.__name__  # profiles show it
    return _on_one_replica(bound, step.placement, step.with_xla)

  update = on_one_replica(update_weights)
  if step.settings.accumulate_steps == 1:
    replica_steps = on_one_replica(train_step), update
    return functools.partial(one_step, step, replica_steps, state)
  accumulator = Accumulator(step.model, step.placement)
  replica_steps = (
    on_one_replica(accumulate_step, accumulator),
    on_one_replica(accumulated_step, accumulator),
    update,
  )
  return functools.partial(one_part, step, accumulator, replica_steps, state)


def make_run_steps(
  run,
  loss: losses.BaseLoss,
  element_spec,
  watch: divergence.Watch | None = None,
):
  """Compiles the inner loop of a run.

  Args:
    run: the run.Run to train.
    loss: of the labels.
    element_spec: of the batches.
    watch: finds steps that are not finite; None for one of its own.

  Returns:
    A function (iterator, num_steps) that trains up to that many steps, fewer
    where the data ends or --nan_policy stops, and returns (steps done, report
    of the last one): the scalars by TensorBoard tag, this machine's predictions
    and their labels. Of a step with several batches, the report is of the last
    one.
  """
  settings, placement, model = run.settings, run.placement, run.model
  element_spec = readers.numeric_part(element_spec)
  whole, ends = what_to_compile(run)
  calculate_loss = loss.calculate_loss
  if "targets" in element_spec:
    calculate_loss = loss.calculate_target_loss
  step = Step(
    model=model,
    forward=models.add_mixup(model) if settings.mixup_alpha > 0 else model,
    calculate_loss=_with_xla(calculate_loss, ends),
    squared_norms=_with_xla(divergence.squared_norms, ends),
    apply_gradients=_with_xla(
      functools.partial(
        apply_gradients,
        run.optimizer,
        model.trainable_variables,
        run.average,
        settings,
      ),
      ends,
    ),
    watch=watch or divergence.Watch(model, placement, run.state),
    settings=settings,
    placement=placement,
    with_xla=whole,
  )
  take_batch = tf.autograph.experimental.do_not_convert(
    _make_take_batch(step, run.state)
  )
  is_true = tf.TensorSpec([], tf.bool)
  zero_scalars = tf.nest.map_structure(
    lambda _: tf.constant(0.0),
    tf.function(take_batch)
    .get_concrete_function(element_spec, is_true, is_true)
    .structured_outputs[1][0],
  )
  # Converted by tf.function it would run as it is where AutoGraph cannot write
  # to the temporary folder, and fail like a bug. This raises the disk's error.
  converted = tf.autograph.to_graph(run_steps)
  return tf.function(
    functools.partial(
      converted,
      placement,
      element_spec,
      take_batch,
      settings.accumulate_steps,
      zero_scalars,
    )
  )
