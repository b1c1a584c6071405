"""The outer loop of training: runs steps, reports, saves, exports, stops."""

import contextlib
import functools
import os
import signal
import time

import tensorflow as tf
from absl import logging

import errors
import losses
from engine import divergence, model_building, stop_signals
from engine import export as exports
from engine.data import Data
from engine.data_order import Place
from engine.distribution import Placement
from engine.report import Profile, Reporter
from engine.resources import Meter
from engine.run import Run
from engine.run_record import RunRecord
from engine.skipped import SkippedRecords, listing
from engine.step import make_run_steps
from engine.validation import Validation

SAVE_SECONDS = 15 * 60
_LONGEST_SILENCE_SECONDS = 5.0
_MOST_STEPS_AT_ONCE = 10


class StopSignal:
  """Turns a first signal to stop into a flag that the loop checks.

  Of a second one, what was there before hears. See stop_signals.SIGNALS.
  """

  def __init__(self):
    self.received = None
    self._received_at = 0.0

  def __enter__(self):
    self._old = {}
    self._told = -1
    # Only the main thread may; others are stopped by their caller.
    with contextlib.suppress(ValueError):
      for number in stop_signals.SIGNALS:
        # One that is ignored, as by nohup, stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
          self._old[number] = signal.signal(number, self._receive)
      # What else is told of signals would not know that this one is waited for.
      self._told = signal.set_wakeup_fd(-1)
    return self

  def _receive(self, number, frame):
    if number == signal.SIGHUP:
      stop_signals.leave_terminal()
    if self.received is None:
      self.received = signal.Signals(number).name
      self._received_at = time.monotonic()
      logging.info("Received %s: saving, then stopping.", self.received)
    elif not stop_signals.is_repeated(
      number, time.monotonic() - self._received_at
    ):
      self._give_back()
      os.kill(os.getpid(), number)

  def _give_back(self):
    for number, handler in self._old.items():
      signal.signal(number, handler)
    if self._old:
      signal.set_wakeup_fd(self._told)

  def __exit__(self, *unused_exception):
    self._give_back()


class Saver:
  """Saves and evaluates a run when it is time.

  Writes checkpoints, histograms and SavedModels.

  Args:
    run: the run.
    record: its record, written after each checkpoint.
    reporter: writes the histograms.
    exporter: writes the SavedModels.
    skipped: records that were left out, whose list is written first.
    validation: of the run, if it is evaluated while it trains.
  """

  def __init__(
    self,
    run: Run,
    record: RunRecord,
    reporter: Reporter,
    exporter: exports.BackgroundExporter,
    skipped: SkippedRecords,
    validation: Validation | None = None,
  ):
    self._run = run
    self._record = record
    self._skipped = skipped
    self._reporter = reporter
    self._exporter = exporter
    self._validation = validation
    self._every = run.settings.export_model_steps
    self._saved_step = run.step
    self._saved_time = time.monotonic()

  def steps_to_next(self, step: int) -> int:
    """How many steps there are until the next save by number of steps."""
    steps = self._every - step % self._every
    if self._validation is None:
      return steps
    return min(steps, self._validation.steps_to_next(step))

  def save_if_due(self, step: int, ended: bool, stop: StopSignal) -> bool:
    """Saves every --export_model_steps, every 15 minutes and at the end.

    Also where the run is evaluated: always a checkpoint, which may be the best.

    Args:
      step: steps so far.
      ended: whether the run ends here; it was perhaps told to stop.
      stop: whether this machine was.

    Returns:
      Whether the run ends here, also by the evaluation.

    Raises:
      errors.UserError: a weight is not finite, or a reported prediction is no
        probability.
    """
    run, validation = self._run, self._validation
    at_export = step % self._every == 0 and step > self._saved_step
    late = time.monotonic() - self._saved_time > SAVE_SECONDS
    was_told_to_stop = ended and not run.has_ended()
    is_evaluated = (
      validation is not None
      and not was_told_to_stop
      and validation.is_due(step, ended)
    )
    if not (ended or at_export or late or is_evaluated):
      return False
    self._reporter.wait()  # what it finds ends the run before it is saved
    # A run that goes on after this checkpoint does not meet them again.
    self._skipped.write()
    run.save()
    self._record.write()
    self._reporter.histograms(run.model, step)
    if validation is not None and is_evaluated:
      began = time.monotonic()
      if validation.evaluate(lambda: stop.received is not None):
        ended = True
      self._reporter.leave_out(time.monotonic() - began)
    if (at_export or ended) and run.placement.is_chief:
      self._exporter.export(run.model, step, ended, run.average)
    is_evaluation_stopped = ended and stop.received and not run.has_ended()
    if was_told_to_stop or is_evaluation_stopped:
      self._record.note_stop(stop.received or "a signal to another machine")
    self._saved_step, self._saved_time = step, time.monotonic()
    return ended


def training_batches(run: Run, data: Data, place: Place, num_examples: int):
  """This machine's batches of a run.

  Args:
    run: the run.
    data: to train on.
    place: where they begin.
    num_examples: where TensorFlow reads, how many of this machine are before.
  """
  settings, placement = run.settings, run.placement
  return data.training_batches(
    settings.batch_size * placement.local_replicas,
    settings.num_epochs,
    settings.seed,
    place=place,
    window_shards=int(run.state["window_shards"]),
    num_readers=settings.num_readers,
    worker=placement.worker,
    num_workers=placement.num_workers,
    skip_examples=0 if data.by_number else num_examples,
    shuffled_batches=5 * settings.accumulate_steps,
  )


def prepare(run: Run, data: Data):
  """Compiles the inner loop of a run.

  Returns:
    (iterator of this machine's batches from where the run is in the data,
    result of step.make_run_steps, what reacts to steps that are not finite).
  """
  batches_from = functools.partial(training_batches, run, data)
  position = run.state["position"][run.placement.worker]
  batches = batches_from(run.place, int(position))
  watch = divergence.Watch(run.model, run.placement, run.state)
  with model_building.naming_bug(run.model_flags):
    run_steps = make_run_steps(
      run, losses.make_loss(run.model_flags), batches.element_spec, watch
    )
  reaction = divergence.Reaction(run, data, watch, batches_from)
  return iter(batches), run_steps, reaction


def run_some_steps(
  run_steps, iterator, wanted: int, placement: Placement, stop: StopSignal
):
  """Runs up to `wanted` steps on all machines.

  Args:
    run_steps: result of step.make_run_steps.
    iterator: of this machine's batches.
    wanted: steps.
    placement: where.
    stop: whether this machine was told to stop.

  Returns:
    (steps done, report of the last one, seconds, whether any machine was told
    to stop, seconds per step of the slowest machine).
  """
  began = time.monotonic()
  done, outputs = run_steps(iterator, tf.constant(wanted))
  done = int(done)
  seconds = time.monotonic() - began
  stopped, pace = placement.most(
    [stop.received is not None, seconds / max(done, 1)]
  )
  return done, outputs, seconds, stopped > 0, pace


def no_examples(data: Data) -> errors.UserError:
  """The error about data in which there is nothing to train on."""
  return errors.UserError(
    "Expected examples to train on, found none in"
    f" {len(data.files)} files from {data.files[0]} on:"
    f" {listing(data.skipped.counts) or 'no rated segments'}."
    " Name other files."
  )


def train_until_stopped(
  run: Run,
  data: Data,
  reporter: Reporter,
  exporter: exports.BackgroundExporter,
  record: RunRecord,
  validation: Validation | None = None,
) -> None:
  """Trains until the data or the steps end, or a signal stops it.

  Args:
    run: the run, restored or begun.
    data: to train on.
    reporter: shows the run.
    exporter: writes its SavedModels.
    record: of the run.
    validation: its evaluations, if it is evaluated while it trains.

  Raises:
    errors.UserError: a record is bad, training diverged, see --nan_policy, a
      machine was lost, or another process trains here.
  """
  settings, placement = run.settings, run.placement
  iterator, run_steps, reaction = prepare(run, data)
  saver = Saver(run, record, reporter, exporter, data.skipped, validation)
  meter = Meter()
  profile = Profile(
    run.train_dir if placement.is_chief else None, settings.profile_steps
  )
  step, chunk, ended = run.step, 1, False
  with StopSignal() as stop:
    profile.begin_or_end(step)
    while not ended:
      wanted = min(chunk, saver.steps_to_next(step))
      if settings.max_steps:
        wanted = min(wanted, settings.max_steps - step)
      wanted = profile.steps_to_border(step, wanted)
      seen_before, cpu_before = run.examples_seen, time.process_time()
      with (
        placement.naming_lost_machine(step),
        data.naming_errors(),
        model_building.naming_bug(run.model_flags),
      ):
        done, outputs, seconds, stopped, pace = run_some_steps(
          run_steps, iterator, wanted, placement, stop
        )
      run.lock.raise_if_lost()
      usage = meter.usage(seconds, time.process_time() - cpu_before)
      seen = run.examples_seen
      run.training_seconds += record.add_steps(
        done, seen - seen_before, pace * done, usage
      )
      step += done
      left_out = reaction.react(step, outputs)
      record.add_skipped_steps(len(left_out))
      data.skipped.check(*run.state["epoch_records"].numpy().tolist())
      if done < wanted and settings.num_epochs:
        run.state["finished_epochs"].assign(settings.num_epochs)
      ended = done < wanted or run.has_ended() or stopped
      if ended and not step and not stopped:
        raise no_examples(data)
      profile.begin_or_end(step, ended)
      if done:
        rate = (seen - seen_before) / seconds
        if step not in left_out:
          reporter.report(
            step, seen, rate, outputs, usage, run.training_seconds
          )
        # Ten steps between two reports, fewer if steps are slow.
        chunk = int(min(_LONGEST_SILENCE_SECONDS, run.seconds_left()) / pace)
        chunk = max(1, min(_MOST_STEPS_AT_ONCE, chunk))
      if ended:
        reporter.wait()
        logging.info("Saving step %d and exporting the model.", step)
      ended = saver.save_if_due(step, ended, stop)
    profile.begin_or_end(step, ended)  # if an evaluation has ended the run
  data.skipped.log()
