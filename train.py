"""Trains a model: python train.py --model=NAME [--frame_features=True].

Reads TFRecord files (the built-in sample data if none are named), writes
checkpoints, model_flags.json, TensorBoard events and SavedModels to
--train_dir. The same command goes on where an earlier run stopped.
"""

import concurrent.futures
import dataclasses
import datetime
import hashlib
import math
import os
import random
import signal
import sys
import time

import startup  # isort: skip
import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging
from tensorboard.plugins.histogram import metadata as histogram_metadata

import distribution
import errors
import eval_util
import export_model

# The model files define flags of their own.
import frame_level_models  # noqa: F401
import losses
import model_utils
import models
import readers
import recurrent
import train_dir as train_dirs
import video_level_models  # noqa: F401
from data_tools import sample_data

FLAGS = flags.FLAGS

SAVE_SECONDS = 15 * 60
_LONGEST_SILENCE_SECONDS = 5.0


def define_flags() -> None:
  """Defines the flags of this program; the model files define their own."""
  # Where.
  flags.DEFINE_string(
    "train_dir", "/tmp/yt8m_model/", "Folder of checkpoints and events."
  )
  flags.DEFINE_bool(
    "start_new_model",
    False,
    "Delete the run in --train_dir and begin anew; False: go on with it.",
  )
  # Data.
  flags.DEFINE_string(
    "train_data_pattern",
    "",
    "Glob pattern of the TFRecord files, several with commas between; empty:"
    " the built-in sample data.",
  )
  define_feature_flags()
  flags.DEFINE_bool(
    "segment_labels",
    False,
    "Train on the rated 5 s segments of frame-level records.",
  )
  flags.DEFINE_integer(
    "num_readers", 8, "Files read at the same time.", lower_bound=1
  )
  flags.DEFINE_integer(
    "seed", 0, "Decides the order of the data and all random numbers."
  )
  # Model and loss.
  flags.DEFINE_string("model", "LogisticModel", "Class in the model files.")
  flags.DEFINE_string("label_loss", "CrossEntropyLoss", "Class in losses.py.")
  flags.DEFINE_float(
    "regularization_penalty", 1.0, "Weight of the regularization losses."
  )
  # Optimisation.
  flags.DEFINE_integer(
    "batch_size",
    None,
    "Videos a step on each device; default: the model's own, 1024 for the"
    " starter's models.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "base_learning_rate",
    None,
    "Learning rate of the first step; default: the model's own, 0.01 for the"
    " starter's models.",
    lower_bound=0.0,
  )
  flags.DEFINE_float(
    "learning_rate_decay",
    0.95,
    "Factor on the learning rate every --learning_rate_decay_examples.",
  )
  flags.DEFINE_integer(
    "learning_rate_decay_examples",
    4000000,
    "Videos seen between two decays of the learning rate.",
    lower_bound=1,
  )
  flags.DEFINE_string(
    "optimizer",
    "AdamOptimizer",
    "TensorFlow 1 name, such as AdamOptimizer, or class in keras.optimizers.",
  )
  flags.DEFINE_float(
    "clip_gradient_norm",
    1.0,
    "Largest norm of each variable's gradient; 0: no limit.",
    lower_bound=0.0,
  )
  flags.DEFINE_float(
    "mixup_alpha",
    0.0,
    "Train on weighted means of two videos, the weight drawn from Beta(alpha,"
    " alpha) for each step; 0: on the videos themselves; the usual value is"
    " 0.4.",
    lower_bound=0.0,
  )
  flags.DEFINE_float(
    "ema_decay",
    0.0,
    "Keep an exponential moving average of the weights with this decay a step,"
    " such as 0.999, for evaluation, prediction and export; 0: none.",
    lower_bound=0.0,
    upper_bound=0.999999,
  )
  # How long.
  flags.DEFINE_integer(
    "num_epochs",
    5,
    "Times each video is read, counted from the beginning of the run; 0: no"
    " limit.",
    lower_bound=0,
  )
  flags.DEFINE_integer(
    "max_steps",
    None,
    "Steps, counted from the beginning of the run; default: no limit.",
    lower_bound=1,
  )
  # Saving.
  flags.DEFINE_integer(
    "export_model_steps",
    1000,
    "Steps between two checkpoints and SavedModels; the last step is saved in"
    " any case.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "keep_checkpoints",
    5,
    "Newest checkpoints to keep; 0: all.",
    lower_bound=0,
  )
  # Devices.
  flags.DEFINE_integer(
    "num_gpu",
    None,
    "GPUs of this machine to use; 0: the CPU; default: all.",
    lower_bound=0,
  )
  flags.DEFINE_bool(
    "xla",
    None,
    "Compile the training step with XLA; default: what suits the model; False:"
    " not even the loss and the update of the weights.",
  )
  flags.DEFINE_enum(
    "mixed_precision",
    "",
    ["", "bfloat16"],
    "Number format of the layers' products; weights, losses and predictions"
    " stay float32. Empty: float32.",
  )
  flags.DEFINE_bool(
    "log_device_placement", False, "Log the device of each operation."
  )
  flags.DEFINE_list(
    "profile_steps",
    [],
    "First and last step of a profile for TensorBoard, such as 10,20; empty:"
    " none.",
  )


def define_feature_flags() -> None:
  """Defines the flags that say what the records hold."""
  flags.DEFINE_bool(
    "frame_features",
    False,
    "Records hold features of each frame; False: of the whole video.",
  )
  flags.DEFINE_string(
    "feature_names",
    None,
    "Features to use, with commas between; default: mean_rgb, with"
    " --frame_features rgb,audio.",
  )
  flags.DEFINE_string(
    "feature_sizes",
    None,
    "Numbers in each of --feature_names; default: 1024, with"
    " --frame_features 1024,128.",
  )
  flags.DEFINE_integer(
    "num_classes", 3862, "Classes of the data.", lower_bound=1
  )
  flags.DEFINE_integer(
    "max_frames",
    300,
    "Frames used of each video, from its first one on.",
    lower_bound=1,
  )


# --------------------------------------------------------------------------
# From flags to objects


def model_flags_from_flags() -> dict:
  """Collects what goes into model_flags.json.

  Raises:
    errors.UserError: a flag has a value that cannot be.
  """
  frame_features = FLAGS.frame_features
  names = FLAGS.feature_names or ("rgb,audio" if frame_features else "mean_rgb")
  sizes = FLAGS.feature_sizes or ("1024,128" if frame_features else "1024")
  names, sizes = readers.get_feature_names_and_sizes(names, sizes)
  try:
    hyperparameters = models.resolve_hyperparameters(FLAGS.model)
    losses.find_class_by_name(FLAGS.label_loss)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  return {
    "model": FLAGS.model,
    "feature_names": ",".join(names),
    "feature_sizes": ",".join(map(str, sizes)),
    "frame_features": frame_features,
    "num_classes": FLAGS.num_classes,
    "max_frames": FLAGS.max_frames,
    "label_loss": FLAGS.label_loss,
    **hyperparameters,
  }


def build_checked_model(model_flags: dict, quantized: bool) -> keras.Model:
  """models.build_model, for flags that a user typed.

  Raises:
    errors.UserError: the model refuses its hyper-parameters or its input.
  """
  try:
    model = models.build_model(model_flags, quantized)
    shape = model.output["predictions"].shape
    if shape != (None, model_flags["num_classes"]):
      raise ValueError(
        f"its predictions have the shape {shape}, not one for each video and"
        " class."
      )
    return model
  except (ValueError, TypeError, IndexError) as error:
    level = "frame" if model_flags["frame_features"] else "video"
    raise errors.UserError(
      f"Expected flags that {model_flags['model']} can be built with, on"
      f" {level}-level features; it failed with:"
      f" {str(error).strip().splitlines()[0]} Frame-level models need"
      " --frame_features=True; video-level models must go without."
    ) from error


def make_optimizer(name: str) -> keras.optimizers.Optimizer:
  """Makes an optimizer from a TensorFlow 1 or a Keras name.

  Args:
    name: such as "AdamOptimizer" or "Adam".

  Raises:
    errors.UserError: there is no such optimizer.
  """
  known = {
    key: value
    for key, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    # The first is the base class; the others need optimizers of their own.
    and key not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
  }
  if name in ("Adam", "AdamOptimizer"):
    return keras.optimizers.Adam(epsilon=1e-8)  # TensorFlow 1's
  if name == "GradientDescentOptimizer":
    return keras.optimizers.SGD()
  if name == "MomentumOptimizer":
    return keras.optimizers.SGD(momentum=0.9)
  if name == "RMSPropOptimizer":
    return keras.optimizers.RMSprop()
  found = known.get(name) or known.get(name.removesuffix("Optimizer"))
  if found is None:
    raise errors.UserError(
      f"Expected --optimizer to name a class in keras.optimizers, received"
      f" {name!r}. There are: {', '.join(sorted(known))}."
    )
  return found()


# --------------------------------------------------------------------------
# The compiled part


def clip_by_norm(gradient: tf.Tensor, norm: float) -> tf.Tensor:
  """tf.clip_by_norm, which XLA makes slow; see model_utils.total."""
  length = tf.sqrt(model_utils.total(tf.square(gradient)))
  return gradient * (norm / tf.maximum(length, norm))


def draw_mixup_weight(alpha: float, seed: tf.Tensor, step: tf.Tensor):
  """Draws the weight of a step from Beta(alpha, alpha); a float32 scalar.

  A resumed run draws the same ones again.
  """
  gammas = tf.random.stateless_gamma([2], tf.stack([seed, step]), alpha)
  return gammas[0] / tf.reduce_sum(gammas)


def make_run_steps(run, loss, settings, element_spec):
  """Compiles the inner loop.

  Args:
    run: the Run to train.
    loss: a losses.BaseLoss.
    settings: see Settings.
    element_spec: of the batches.

  Returns:
    A function (iterator, num_steps) that trains up to so many steps, fewer
    where the data ends, and gives (steps done, report of the last one): the
    scalars by TensorBoard tag, this machine's predictions and their labels.
  """
  model, optimizer, state = run.model, run.optimizer, run.state
  placement = run.placement
  element_spec = readers.numeric_part(element_spec)
  num_classes = element_spec["labels"].shape[-1]
  clip_norm = settings.clip_gradient_norm
  compile_step, compile_ends = _what_to_compile(run, settings)
  if compile_step:
    recurrent.use_keras_loops(model)  # XLA knows no other
  mixes = settings.mixup_alpha > 0
  forward = models.add_mixup(model) if mixes else model

  def compiled(function, wanted):
    if not wanted:
      return function
    return tf.function(function, jit_compile=True, autograph=False)

  def update(gradients, learning_rate):
    if clip_norm > 0:
      gradients = [clip_by_norm(value, clip_norm) for value in gradients]
    optimizer.learning_rate.assign(learning_rate)
    optimizer.apply(gradients, model.trainable_variables)
    # As the average knows few steps at first, it forgets faster then.
    steps = tf.cast(optimizer.iterations, tf.float32)
    decay = tf.minimum(settings.ema_decay, steps / (9.0 + steps))
    for mean, variable in zip(
      run.average, model.trainable_variables, strict=False
    ):
      mean.assign_add((1.0 - decay) * (variable.value - mean))

  calculate_loss = compiled(loss.calculate_loss, compile_ends)
  update = compiled(update, compile_ends)

  def mean_loss(predictions, batch, mixup_weight):
    labels, weights = batch["labels"], batch.get("label_weights")
    value = calculate_loss(predictions, labels, weights)
    if not mixes:
      return value
    others = calculate_loss(
      predictions,
      models.mixup_partners(labels),
      None if weights is None else models.mixup_partners(weights),
    )
    return mixup_weight * value + (1.0 - mixup_weight) * others

  def train_step(batch, learning_rate, mixup_weight, is_reported):
    """A replica's part of a step, on its part of the videos."""
    num_videos = tf.shape(batch["labels"], tf.int64)[0]
    batch, share, counts = placement.weigh(batch, num_videos)
    inputs = {name: batch[name] for name in ("video_matrix", "num_frames")}
    if mixes:
      inputs["mixup_weight"] = tf.fill(
        tf.shape(batch["num_frames"]), mixup_weight
      )
    with tf.GradientTape() as tape:
      outputs = forward(inputs, training=True)
      label_loss = mean_loss(outputs["predictions"], batch, mixup_weight)
      reg_loss = models.regularization_loss(model, outputs)
      auxiliary = outputs.get("auxiliary_losses", {})
      total = label_loss + settings.regularization_penalty * reg_loss
      total = share * sum(auxiliary.values(), total)
    gradients = tape.gradient(total, model.trainable_variables)
    # The gradient needs no logarithms, of which the value has one a class.
    label_loss = tf.cond(
      is_reported,
      lambda: mean_loss(outputs["predictions"], batch, mixup_weight),
      lambda: tf.constant(0.0),
    )
    scalars = {"label_loss": label_loss, "reg_loss": reg_loss, **auxiliary}
    scalars = {tag: share * value for tag, value in scalars.items()}
    gradients, scalars = placement.sum((gradients, scalars))
    update(gradients, learning_rate)
    predictions = outputs["predictions"]
    if placement.num_replicas > 1:
      predictions = predictions[:num_videos]  # without weigh's
    return scalars, predictions, counts

  if placement.num_replicas == 1:
    train_step = tf.function(
      train_step,
      jit_compile=compile_step or None,
      reduce_retracing=True,
      autograph=False,
    )

  def learning_rate():
    decays = state["examples_seen"] // settings.learning_rate_decay_examples
    return settings.base_learning_rate * tf.pow(
      settings.learning_rate_decay, tf.cast(decays, tf.float32)
    )

  @tf.autograph.experimental.do_not_convert
  def one_step(batch, is_reported):
    rate = learning_rate()
    mixup_weight = tf.constant(1.0)
    if mixes:
      mixup_weight = draw_mixup_weight(
        settings.mixup_alpha, state["seed"], state["global_step"]
      )
    scalars, predictions, counts = placement.strategy.run(
      train_step,
      args=(placement.split(batch), rate, mixup_weight, is_reported),
    )
    scalars, counts = placement.first((scalars, counts))
    state["global_step"].assign_add(1)
    state["examples_seen"].assign_add(tf.reduce_sum(counts))
    state["position"].assign_add(counts)
    scalars = {**scalars, "learning_rate": rate}
    return scalars, placement.join(predictions), batch["labels"]

  scalar_specs = tf.nest.map_structure(
    lambda _: tf.constant(0.0),
    tf.function(one_step)
    .get_concrete_function(element_spec, tf.TensorSpec([], tf.bool))
    .structured_outputs[0],
  )

  @tf.function
  def run_steps(iterator, num_steps):
    steps = tf.constant(0)
    scalars = scalar_specs
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
      # The step that is reported must know it, also where the data ends early.
      following = batch
      more = steps + 1 < num_steps
      if more:
        more, following = placement.next_batch(iterator, element_spec)
      scalars, new_predictions, new_labels = one_step(batch, not more)
      steps += 1
      batch = following
      if tf.shape(new_labels)[0] > 0:  # else other machines only had videos
        predictions, labels = new_predictions, new_labels
    return steps, (scalars, predictions, labels)

  return run_steps


def _what_to_compile(run, settings) -> tuple[bool, bool]:
  """Whether XLA compiles the whole step, or its ends alone.

  The ends are the loss and the update of the weights. What replicas have to
  tell each other in between it cannot compile.
  """
  if run.placement.num_replicas > 1:
    return False, False
  if settings.xla is not None:
    return settings.xla, False
  # XLA has no half precision products on CPUs, TensorFlow has.
  half_on_cpu = settings.mixed_precision and not (
    tf.config.list_logical_devices("GPU")
  )
  compile_step = run.model_class.xla and not half_on_cpu
  return compile_step, not compile_step


# --------------------------------------------------------------------------
# What a person sees


class Reporter:
  """Writes log lines, the progress bar and TensorBoard events.

  The scores of a step are worked out in a thread of its own, so that the next
  steps need not wait for them.

  Args:
    train_dir: where the events go; None to write none.
    settings: see Settings.
    epoch_videos: videos in one epoch, about.
  """

  def __init__(self, train_dir, settings, epoch_videos):
    self._writer = (
      tf.summary.create_file_writer(train_dir)
      if train_dir
      else tf.summary.create_noop_writer()
    )
    self._num_videos = epoch_videos * (settings.num_epochs or 0)
    self._max_steps = settings.max_steps
    self._epoch_videos = epoch_videos
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending = None
    self._on_terminal = sys.stderr.isatty()
    self._began = time.monotonic()
    self._first_done = None
    self._best = None

  def report(self, step, examples_seen, rate, outputs) -> None:
    """Reports a step, after the report before it is done.

    Args:
      step: steps so far.
      examples_seen: videos so far.
      rate: videos/s since the last report.
      outputs: (scalars, predictions, labels) of the step.

    Raises:
      errors.UserError: the loss was no number.
    """
    self.wait()
    if self._first_done is None:
      self._first_done = time.monotonic(), self._part_done(step, examples_seen)
    self._pending = self._thread.submit(
      self._report, step, examples_seen, rate, *outputs
    )

  def wait(self) -> None:
    """Waits until the last report is written; raises what it raised."""
    if self._pending is not None:
      self._pending.result()
      self._pending = None

  def _report(self, step, examples_seen, rate, scalars, predictions, labels):
    scalars = {tag: float(value) for tag, value in scalars.items()}
    loss = scalars["label_loss"]
    if not math.isfinite(loss):
      raise errors.UserError(
        f"Expected a finite loss, received {loss} at step {step}: training"
        " diverged. Start anew with a smaller --base_learning_rate; the last"
        " checkpoint was saved before."
      )
    with self._writer.as_default(step=step):
      for tag, value in scalars.items():
        tf.summary.scalar(tag, value)
    predictions, labels = predictions.numpy(), labels.numpy()
    if not len(labels):  # other machines only had videos
      return
    hit_at_one = eval_util.calculate_hit_at_one(predictions, labels)
    perr = eval_util.calculate_precision_at_equal_recall_rate(
      predictions, labels
    )
    gap = eval_util.calculate_gap(predictions, labels)
    if self._best is None or gap > self._best[0]:
      self._best = gap, step
    if self._on_terminal:
      self._draw_bar(step, examples_seen, rate, loss, gap)
    else:
      logging.info(
        "training step %d | Loss: %.2f Examples/sec: %.2f | Hit@1: %.2f"
        " PERR: %.2f GAP: %.2f",
        step,
        loss,
        rate,
        hit_at_one,
        perr,
        gap,
      )
    with self._writer.as_default(step=step):
      tf.summary.scalar("model/Training_Hit@1", hit_at_one)
      tf.summary.scalar("model/Training_Perr", perr)
      tf.summary.scalar("model/Training_GAP", gap)
      tf.summary.scalar("global_step/Examples/Second", rate)
    self._writer.flush()

  def _part_done(self, step, examples_seen) -> float:
    """How much of the whole run is done, from 0 to 1; 0 if it has no end."""
    parts = [0.0]
    if self._num_videos:
      parts.append(examples_seen / self._num_videos)
    if self._max_steps:
      parts.append(step / self._max_steps)
    return min(max(parts), 1.0)

  def _draw_bar(self, step, examples_seen, rate, loss, gap) -> None:
    done = self._part_done(step, examples_seen)
    filled = round(20 * done)
    # Of the last video seen: a full epoch does not begin the next one.
    epoch = 1 + int((examples_seen - 1) / max(self._epoch_videos, 1))
    # The first step takes long, so that the time left is reckoned from there.
    began, done_before = self._first_done
    left = ""
    if done > done_before:
      pace = (time.monotonic() - began) / (done - done_before)
      left = f" | {datetime.timedelta(seconds=round(pace * (1 - done)))} left"
    sys.stderr.write(
      f"\r[{'=' * filled}{' ' * (20 - filled)}] epoch {epoch} step {step}"
      f" | {rate:.0f} videos/s | Loss: {loss:.2f} GAP: {gap:.2f}{left:<18}"
    )
    sys.stderr.flush()

  def summary(self, videos, train_dir) -> str:
    """What a person wants to know of a run at its end, in a line.

    Args:
      videos: trained on since the program began.
      train_dir: the run's folder.
    """
    seconds = time.monotonic() - self._began
    best = ""
    if self._best:
      best = "; best GAP in training {:.3f} at step {}".format(*self._best)
    return (
      f"{videos} videos in {datetime.timedelta(seconds=round(seconds))},"
      f" {videos / seconds:.0f} videos/s with all that belongs to it{best}."
      f" All files: {train_dir}"
    )

  def histograms(self, model, step) -> None:
    """Writes a histogram of each variable, after the report before it."""
    self.wait()
    values = {
      variable.path: variable.numpy()
      for variable in model.variables
      if variable.dtype.startswith(("float", "bfloat"))
    }
    self._pending = self._thread.submit(self._histograms, values, step)

  def _histograms(self, values, step) -> None:
    metadata = histogram_metadata.create_summary_metadata(None, None)
    with self._writer.as_default(step=step):
      for tag, array in values.items():
        # tf.summary.histogram takes 30 doubles for each weight to count them.
        # In float32 there may be no room for the bins between two numbers.
        finite = array[np.isfinite(array)].astype(np.float64)
        counts, edges = np.histogram(finite, bins=30)
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
        tf.summary.write(tag, buckets.astype(np.float64), metadata=metadata)

  def close(self) -> None:
    """Ends the bar's line and the event file."""
    self.wait()
    self._thread.shutdown()
    if self._on_terminal:
      sys.stderr.write("\n")
    self._writer.close()


class Profile:
  """Writes what some steps spend their time on, for TensorBoard.

  Args:
    train_dir: where; None to write nothing, but to take as many steps at once
      as the machine that does.
    steps: first and last step, or nothing.
  """

  def __init__(self, train_dir, steps):
    self._train_dir = train_dir
    # Before which steps it begins and ends.
    self._borders = [steps[0] - 1, steps[1]] if steps else []
    self._is_running = False

  def steps_to_border(self, step, wanted) -> int:
    """How many of the wanted steps to take at once after so many."""
    return min(
      [border - step for border in self._borders if border > step] + [wanted]
    )

  def begin_or_end(self, step, ended=False) -> None:
    """Begins or ends it, if it is time to after so many steps.

    Args:
      step: steps so far.
      ended: whether these were the last.
    """
    if self._is_running and (ended or step >= self._borders[1]):
      tf.profiler.experimental.stop()
      self._is_running = False
      logging.info(
        "A profile of steps %d to %d is in %s.",
        self._borders[0] + 1,
        step,
        self._train_dir,
      )
    elif step in self._borders[:1] and self._train_dir and not ended:
      tf.profiler.experimental.start(self._train_dir)
      self._is_running = True


class StopSignal:
  """Turns a first Ctrl-C or SIGTERM into a flag that the loop looks at."""

  def __init__(self):
    self.received = None

  def __enter__(self):
    self._old = {}
    try:
      for number in (signal.SIGINT, signal.SIGTERM):
        self._old[number] = signal.signal(number, self._receive)
    except ValueError:
      # Only the main thread may; others are stopped by their caller.
      pass
    return self

  def _receive(self, number, frame):
    del frame
    self.received = signal.Signals(number).name
    logging.info("Received %s: saving, then ending.", self.received)
    signal.signal(number, self._old[number])

  def __exit__(self, *unused_exception):
    for number, handler in self._old.items():
      signal.signal(number, handler)


# --------------------------------------------------------------------------
# The loop


def _fingerprint(files: list[str]) -> int:
  """A number that tells one list of files from another."""
  names = "\n".join(os.path.basename(file) for file in files)
  return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7])


class Run:
  """A model in training: all that a checkpoint holds.

  Args:
    train_dir: its folder.
    model_flags: see train_dir.py.
    quantized: whether frames arrive as bytes.
    settings: see Settings. With start_new_model an old run is deleted, once the
      new model has been built.
    placement: a distribution.Placement.

  Attributes:
    train_dir: see above.
    placement: see above.
    model_flags: see train_dir.py.
    model: as from models.build_model.
    model_class: its class in the model files.
    optimizer: built for its weights.
    average: their moving averages, empty without --ema_decay.
    state: counters, by name.

  Raises:
    errors.UserError: for all that the user can mend.
  """

  def __init__(self, train_dir, model_flags, quantized, settings, placement):
    self.train_dir = train_dir
    self.model_flags = model_flags
    self._settings = settings
    self.placement = placement
    self.model_class = models.find_class_by_name(model_flags["model"])
    with placement.strategy.scope():
      self.model = build_checked_model(model_flags, quantized)
      self.optimizer = make_optimizer(settings.optimizer)
      self.optimizer.build(self.model.trainable_variables)
      self.average = []
      if settings.ema_decay > 0:
        self.average = [
          tf.Variable(
            variable.value,
            # All replicas have the same.
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
          )
          for variable in self.model.trainable_variables
        ]
    # It would sum the gradients, which are clipped after they were summed.
    self.optimizer._all_reduce_sum_gradients = lambda pairs: pairs
    self.state = {
      name: tf.Variable(0, dtype=tf.int64, name=name)
      for name in (
        "global_step",
        "examples_seen",
        "finished_epochs",
        "data_fingerprint",
        "seed",
      )
    }
    # Of each machine, examples of its order of this data.
    self.state["position"] = tf.Variable(
      tf.zeros([placement.num_workers], tf.int64), shape=[None], name="position"
    )
    if settings.start_new_model and placement.is_chief:
      train_dirs.remove_run(train_dir)
    placement.wait_for_all()
    self._checkpoints = train_dirs.Checkpoints(
      train_dir,
      settings.keep_checkpoints,
      self.average,
      model=self.model,
      optimizer=self.optimizer,
      # Keras keeps these in the layers, where tf.train.Checkpoint finds none.
      random_state=[
        variable.value
        for variable in self.model.variables
        if variable.path.endswith("seed_generator_state")
      ],
      **self.state,
    )

  def restore_or_begin(self, files: list[str]) -> None:
    """Goes on with the run in train_dir on these files, or begins one."""
    seed = self._settings.seed
    if train_dirs.latest_checkpoint(self.train_dir) is None:
      if self.placement.is_chief:
        train_dirs.write_model_flags(self.train_dir, self.model_flags)
      logging.info("A new run in %s.", self.train_dir)
    else:
      path = self._checkpoints.restore()
      logging.info("Going on from %s.", path)
    self.placement.check_same(
      [self.step, _fingerprint([*files, repr(self._settings)]) % 2**53],
      "Expected all machines to begin at the same step of the same run. Give"
      " them the same flags, the same files and a --train_dir that they share.",
    )
    position = self.state["position"]
    if self.step and (
      int(self.state["data_fingerprint"]) != _fingerprint(files)
      or int(self.state["seed"]) != seed
      or len(position.numpy()) != self.placement.num_workers
    ):
      logging.info(
        "Other files, another --seed or another number of machines: epochs"
        " count from here."
      )
      position.assign(tf.zeros([self.placement.num_workers], tf.int64))
      self.state["finished_epochs"].assign(0)
    self.state["data_fingerprint"].assign(_fingerprint(files))
    self.state["seed"].assign(seed)

  @property
  def step(self) -> int:
    """Steps so far."""
    return int(self.state["global_step"])

  @property
  def examples_seen(self) -> int:
    """Videos so far, over all epochs."""
    return int(self.state["examples_seen"])

  def has_ended(self) -> bool:
    """Whether num_epochs or max_steps was reached."""
    num_epochs, max_steps = self._settings.num_epochs, self._settings.max_steps
    if num_epochs and int(self.state["finished_epochs"]) >= num_epochs:
      return True
    return bool(max_steps and self.step >= max_steps)

  def save(self) -> None:
    """Saves a checkpoint, unless a weight is no number.

    The loss shows such a weight only a step later.

    Raises:
      errors.UserError: names the weight.
    """
    for variable in self.model.variables:
      if variable.dtype.startswith(("float", "bfloat")) and not bool(
        tf.reduce_all(tf.math.is_finite(variable.value))
      ):
        raise errors.UserError(
          f"Expected finite weights, {variable.path} has others after step"
          f" {self.step}: training diverged. Start anew with a smaller"
          " --base_learning_rate."
        )
    if self.placement.is_chief:
      self._checkpoints.save(self.step)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to train: each attribute is as the flag of its name."""

  batch_size: int
  base_learning_rate: float
  segment_labels: bool = False
  num_readers: int = 8
  seed: int = 0
  regularization_penalty: float = 1.0
  learning_rate_decay: float = 0.95
  learning_rate_decay_examples: int = 4000000
  optimizer: str = "AdamOptimizer"
  clip_gradient_norm: float = 1.0
  mixup_alpha: float = 0.0
  ema_decay: float = 0.0
  num_epochs: int | None = 5
  max_steps: int | None = None
  export_model_steps: int = 1000
  keep_checkpoints: int = 5
  mixed_precision: str = ""
  xla: bool | None = None
  start_new_model: bool = False
  profile_steps: tuple[int, int] | None = None


def profile_steps_from_flag(given: list[str]) -> tuple[int, int] | None:
  """Turns --profile_steps into numbers.

  Raises:
    errors.UserError: they are not two whole numbers in order, from 1 on.
  """
  if not given:
    return None
  steps = [int(text) if text.strip().isdecimal() else 0 for text in given]
  if len(steps) != 2 or not 0 < steps[0] <= steps[1]:
    raise errors.UserError(
      f"Expected --profile_steps=FIRST,LAST such as 10,20, received"
      f" {','.join(given)!r}."
    )
  return tuple(steps)


def train(
  train_dir: str,
  model_flags: dict,
  files: list[str],
  settings: Settings,
  placement: distribution.Placement | None = None,
) -> int:
  """Trains a model, or goes on with it, until the data or the steps end.

  Args:
    train_dir: folder of the run.
    model_flags: see train_dir.py.
    files: TFRecord files.
    settings: how.
    placement: where; None for one device.

  Returns:
    The number of steps so far.

  Raises:
    errors.UserError: for all that the user can mend.
  """
  placement = placement or distribution.Placement()
  if not settings.start_new_model and train_dirs.latest_checkpoint(train_dir):
    train_dirs.check_same_model(train_dir, model_flags)
  # Keras draws the seeds of its initializers, dropout and sampling from here.
  # (keras.utils.set_random_seed would set TensorFlow's global seed as well,
  # with which tf.data takes no seed that depends on the epoch.)
  random.seed(settings.seed)
  precision = settings.mixed_precision
  keras.config.set_dtype_policy(
    f"mixed_{precision}" if precision else "float32"
  )
  reader = readers.open_reader(
    model_flags, files, True, settings.segment_labels
  )
  run = Run(train_dir, model_flags, reader.quantized, settings, placement)
  run.restore_or_begin(files)
  if run.has_ended():
    logging.info(
      "Nothing to do: the run in %s has ended after step %d. Raise"
      " --num_epochs or --max_steps to go on, or begin anew with"
      " --start_new_model.",
      train_dir,
      run.step,
    )
    return run.step
  reporter = Reporter(
    train_dir if placement.is_chief else None,
    settings,
    readers.estimate_num_videos(files),
  )
  exporter = export_model.BackgroundExporter(
    model_flags, reader.kinds, train_dir
  )
  seen_before = run.examples_seen
  _train_until_stopped(run, reader, files, settings, reporter, exporter)
  exporter.close()
  reporter.close()
  with placement.naming_lost_machine(run.step):
    placement.wait_for_all()
  logging.info(
    "Done at step %d, after %d examples. Checkpoint: %s",
    run.step,
    run.examples_seen,
    train_dirs.latest_checkpoint(train_dir),
  )
  logging.info(
    "%s", reporter.summary(run.examples_seen - seen_before, train_dir)
  )
  return run.step


def _train_until_stopped(run, reader, files, settings, reporter, exporter):
  """The outer loop: runs the inner one, reports, saves and exports."""
  placement = run.placement
  batches = readers.training_batches(
    reader,
    files,
    settings.batch_size * placement.local_replicas,
    settings.num_epochs,
    settings.seed,
    int(run.state["position"][placement.worker]),
    settings.num_readers,
    placement.worker,
    placement.num_workers,
  )
  loss = losses.find_class_by_name(run.model_flags["label_loss"])()
  run_steps = make_run_steps(run, loss, settings, batches.element_spec)
  iterator = iter(batches)
  step = saved_step = run.step
  saved_time = time.monotonic()
  chunk, every = 1, settings.export_model_steps
  ended = False
  profile = Profile(
    run.train_dir if placement.is_chief else None, settings.profile_steps
  )
  with StopSignal() as stop:
    profile.begin_or_end(step)
    while not ended:
      wanted = profile.steps_to_border(step, min(chunk, every - step % every))
      if settings.max_steps:
        wanted = min(wanted, settings.max_steps - step)
      began, seen_before = time.monotonic(), run.examples_seen
      with placement.naming_lost_machine(step):
        try:
          done, outputs = run_steps(iterator, tf.constant(wanted))
        except readers.READ_ERRORS:
          readers.raise_for_bad_record(reader, files, True)
          raise
        done = int(done)
        seconds = time.monotonic() - began
        stopped, pace = placement.most(
          [stop.received is not None, seconds / max(done, 1)]
        )
      step += done
      if done < wanted and settings.num_epochs:
        run.state["finished_epochs"].assign(settings.num_epochs)
      ended = done < wanted or run.has_ended() or stopped > 0
      profile.begin_or_end(step, ended)
      if done:
        seen = run.examples_seen
        reporter.report(step, seen, (seen - seen_before) / seconds, outputs)
        # Ten steps between two reports, fewer where steps are slow.
        chunk = max(1, min(10, int(_LONGEST_SILENCE_SECONDS / pace)))
      at_export = step % every == 0 and step > saved_step
      late = time.monotonic() - saved_time > SAVE_SECONDS
      if ended or at_export or late:
        reporter.wait()  # raises, before anything is saved, on a loss of NaN
        run.save()
        reporter.histograms(run.model, step)
        if (at_export or ended) and placement.is_chief:
          exporter.export(run.model, step, ended, run.average)
        saved_step, saved_time = step, time.monotonic()


def main() -> None:
  """Turns the flags into a call of train."""
  if FLAGS.log_device_placement:
    tf.debugging.set_log_device_placement(True)
  model_flags = model_flags_from_flags()
  if FLAGS.start_new_model:
    train_dirs.check_removable(FLAGS.train_dir)
  model_class = models.find_class_by_name(model_flags["model"])
  batch_size = FLAGS.batch_size or model_class.batch_size
  rate = FLAGS.base_learning_rate
  if rate is None:
    rate = model_class.base_learning_rate
  pattern = sample_data.pattern_or_sample_data(
    FLAGS.train_data_pattern, "train", FLAGS.frame_features
  )
  placement = distribution.choose(
    os.environ.get("TF_CONFIG", ""), FLAGS.num_gpu
  )
  logging.info(
    "%s, batch size %d, learning rate %g, training on %s",
    model_flags["model"],
    batch_size * placement.num_replicas,
    rate,
    pattern,
  )
  given = {
    field.name: getattr(FLAGS, field.name)
    for field in dataclasses.fields(Settings)
  }
  given |= {
    "batch_size": batch_size,
    "base_learning_rate": rate,
    "profile_steps": profile_steps_from_flag(FLAGS.profile_steps),
  }
  train(
    FLAGS.train_dir,
    model_flags,
    readers.find_files(pattern, "train_data_pattern"),
    Settings(**given),
    placement,
  )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
