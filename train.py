"""Trains a model: python train.py --model=NAME [--frame_features=True].

Reads TFRecord files (the built-in sample data if none are named), writes
checkpoints, model_flags.json, TensorBoard events and SavedModels to
--train_dir. The same command continues where an earlier run stopped. --check
shows what it would take, without training.
"""

import contextlib
import dataclasses
import os
import random
import sys
import time
from collections.abc import Sequence

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import models
import program_flags
import training_flags
from data_tools import sample_data
from data_tools.vocabulary import find_vocabulary, read_names
from engine import (
  best_checkpoint,
  check,
  distribution,
  export,
  initial_weights,
  plain_errors,
  report,
  run_record,
  scoring,
  tensorboard_pages,
  train_dir_lock,
  unlikely_flags,
)
from engine import train_dir as train_dirs
from engine.checkpoints import latest_checkpoint
from engine.data import Data
from engine.data_files import find_files, hash_of_files
from engine.dataset_card import VOCABULARY_FILE, DatasetCard, read_card
from engine.loop import train_until_stopped
from engine.model_flags import resumed_model_flags, with_dtypes
from engine.run import Run, check_not_lost
from engine.settings import Settings
from engine.teacher import taught_reader
from engine.validation import Validation

FLAGS = flags.FLAGS


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program; the model files define their own."""
  training_flags.define(flag_values)


def _keep_facts_of_data(train_dir, vocabulary: str, dataset_dir: str) -> None:
  """Copies to the train_dir what predictions need to know; see train."""
  if vocabulary:
    train_dirs.keep_vocabulary(train_dir, vocabulary)
  if dataset_dir:
    train_dirs.keep_extraction(train_dir, dataset_dir, read_card(dataset_dir))


def _flags_of_run(train_dir, model_flags: dict, starts_new: bool) -> dict:
  """The flags that a run has, which may have begun in an earlier version.

  Logs what is done to the features, unless it is the usual.
  """
  # So that later versions know that a new run's defaults are today's.
  model_flags = {"input_transform": "l2", **model_flags}
  if not starts_new:
    check_not_lost(train_dir)
  if not starts_new and latest_checkpoint(train_dir):
    model_flags = resumed_model_flags(train_dir, model_flags)
  if model_flags["input_transform"] != "l2":
    logging.info("Input transform: %s", model_flags["input_transform"])
  return model_flags


def _open_data(train_dir, model_flags, files, settings, placement) -> Data:
  """Opens the data to train on; see train."""
  data = Data(
    model_flags,
    files,
    with_labels=True,
    segment_labels=settings.segment_labels,
    policy=settings.policy.listing_in(train_dir, placement.worker),
    min_frames=settings.min_frames,
  )
  data.check_can_train()
  unlikely_flags.check_batch_fits(
    data,
    model_flags,
    settings.largest_batch(data.num_videos, placement.local_replicas),
  )
  if not sample_data.is_sample_data(files[0]):
    unlikely_flags.warn_of_few_classes(data, data.reader.num_outputs)
  return data


def _lock_of(train_dir: str, is_chief: bool, command: Sequence[str]):
  """Keeps other trainings out of a train_dir during a block; see train."""
  if not is_chief:  # the chief does so for all
    return contextlib.nullcontext(train_dir_lock.NO_LOCK)
  return train_dir_lock.hold(train_dir, command)


def _open_evaluator(
  train_dir: str,
  model_flags: dict,
  settings: Settings,
  placement: distribution.Placement,
  vocabulary: str,
) -> scoring.Evaluator | None:
  """Opens the data that a run is evaluated on while it trains.

  Returns:
    None if it is not evaluated.

  Raises:
    errors.UserError: there are no such files, or they are not what the flags
      say; --best_metric is no metric.
  """
  pattern = settings.eval_data_pattern
  if not pattern:
    return None
  files = find_files(pattern, "eval_data_pattern")
  unlikely_flags.warn_of_other_ranges(files, model_flags)
  vocabulary = vocabulary or find_vocabulary(files, model_flags["num_classes"])
  # What several machines compute, they compute together; the chief is alone,
  # on one of its devices.
  if placement.num_workers > 1:
    placement = distribution.Placement()
  task = scoring.Task(
    files,
    pattern,
    segment_labels=settings.segment_labels,
    batch_size=settings.batch_size * placement.local_replicas,
    num_readers=settings.num_readers,
    policy=settings.policy,
    min_frames=settings.min_frames,
    class_names=read_names(vocabulary) if vocabulary else {},
    best_metric=settings.best_metric,
  )
  return scoring.Evaluator(train_dir, model_flags, task, placement)


def _find_end(run: Run, validation: Validation | None) -> str:
  """The flags that have ended a run; empty if it goes on.

  Makes up for missing evaluations first.
  """
  lacks_gain = validation is not None and validation.catch_up()
  if run.has_ended():
    return "--num_epochs, --max_steps or --max_minutes"
  return "--early_stopping" if lacks_gain else ""


def _open_run(
  train_dir: str,
  model_flags: dict,
  files: list[str],
  settings: Settings,
  placement: distribution.Placement,
  vocabulary: str,
  dataset_dir: str,
  lock: train_dir_lock.NoLock,
) -> tuple[Run, Data, scoring.Evaluator | None]:
  """Opens all that a training needs, and writes nothing; see train.

  Returns:
    The run, neither restored nor begun; its data; what evaluates it, if it is
    evaluated while it trains.
  """
  model_flags = _flags_of_run(train_dir, model_flags, settings.start_new_model)
  # Keras draws its seeds from here. (keras.utils.set_random_seed would also set
  # TensorFlow's; then tf.data does not accept one that depends on the epoch.)
  random.seed(settings.seed)
  data = _open_data(train_dir, model_flags, files, settings, placement)
  data.reader = taught_reader(data.reader, settings, model_flags)
  model_flags = with_dtypes(model_flags, data.reader.kinds)
  unlikely_flags.warn_of_little_training(
    data.num_videos, settings, placement.num_replicas, bool(dataset_dir)
  )
  evaluator = _open_evaluator(
    train_dir, model_flags, settings, placement, vocabulary
  )
  if evaluator:
    unlikely_flags.warn_of_trained_files(files, evaluator.task.files)
  run = Run(
    train_dir, model_flags, data.reader.quantized, settings, placement, lock
  )
  initial_weights.take_over(run)
  return run, data, evaluator


def train(
  train_dir: str,
  model_flags: dict,
  files: list[str],
  settings: Settings,
  placement: distribution.Placement | None = None,
  vocabulary: str = "",
  dataset_dir: str = "",
  lock: train_dir_lock.NoLock | None = None,
  call: run_record.Call = run_record.NO_CALL,
) -> int:
  """Trains a model, or continues a run, until the data or the steps end.

  Args:
    train_dir: folder of the run.
    model_flags: see engine/train_dir.py.
    files: TFRecord files.
    settings: how to train.
    placement: where; None for one device.
    vocabulary: CSV with the names of the classes, which the train_dir keeps.
    dataset_dir: with a card; the train_dir keeps how features were extracted.
    lock: that the caller has on the train_dir; None to take it here.
    call: what was typed, for the record of the run.

  Returns:
    The number of steps so far.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  began = time.monotonic()
  placement = placement or distribution.Placement()
  if lock is None:
    given = (train_dir, model_flags, files, settings, placement, vocabulary)
    with _lock_of(train_dir, placement.is_chief, call.command) as lock:
      return train(*given, dataset_dir, lock, call)
  run, data, evaluator = _open_run(
    train_dir,
    model_flags,
    files,
    settings,
    placement,
    vocabulary,
    dataset_dir,
    lock,
  )
  # Only now: the old run stays if the new model cannot be built.
  if settings.start_new_model and placement.is_chief:
    train_dirs.remove_run(train_dir)
  elif placement.is_chief:
    train_dirs.clean(train_dir, run_record.last_writer(train_dir))
  placement.wait_for_all()
  run.restore_or_begin(data)
  if placement.is_chief:
    best_checkpoint.drop_damaged(train_dir, run.step)
    _keep_facts_of_data(train_dir, vocabulary, dataset_dir)
  validation = Validation(run, evaluator) if evaluator else None
  # Its event file is opened by the first evaluation.
  with contextlib.closing(evaluator) if evaluator else contextlib.nullcontext():
    seconds = time.monotonic()
    end = _find_end(run, validation)
    seconds = time.monotonic() - seconds
    if end:
      _export_if_missing(run, data)
      logging.info(
        "Nothing to do: the run in %s has ended after step %d. Raise %s to"
        " continue, or start again with --start_new_model.",
        train_dir,
        run.step,
        end,
      )
      return run.step
    if placement.is_chief:
      check.warn_of_little_space(check.Opened(run, data, evaluator, 1))
    record = _begin_record(run, data, call, began)
    record.leave_out(seconds)
    _train_to_end(run, data, record, dataset_dir, validation)
  return run.step


def _export_if_missing(run: Run, data: Data) -> None:
  """Exports the model of a run that has ended, if its last start could not.

  It was killed or had no room, after the last checkpoint was saved.
  """
  exporter = export.BackgroundExporter(
    run.model_flags, data.reader.kinds, run.train_dir
  )
  if run.placement.is_chief and exporter.has_written(run.step):
    exporter.remove_others(run.step)
  elif run.placement.is_chief:
    logging.info("Exporting the model of step %d, which is missing.", run.step)
    exporter.export(run.model, run.step, final=True, average=run.average)
  exporter.close()


def _begin_record(
  run: Run, data: Data, call: run_record.Call, began: float
) -> run_record.RunRecord:
  """The record of a run at the beginning of a start; see run_record.py."""
  about = {
    "command": call.command,
    "settings": dataclasses.asdict(run.settings),
    "model_flags": run.model_flags,
    "data": {
      "pattern": call.data_pattern,
      "files": len(data.files),
      "videos": data.num_videos,
      "hash": hash_of_files(data.files, data.file_sizes),
    },
    "parameters": models.num_parameters(run.model),
  }
  return run_record.RunRecord(
    run.train_dir,
    about,
    step=run.step,
    replicas=run.placement.num_replicas,
    writes=run.placement.is_chief,
    began=began,
  )


def _train_to_end(
  run: Run,
  data: Data,
  record: run_record.RunRecord,
  dataset_dir: str,
  validation: Validation | None,
) -> None:
  """Trains until the data or the steps end, or a signal stops it; see train."""
  placement = run.placement
  reporter = report.Reporter(
    run.train_dir if placement.is_chief else None,
    run.settings,
    data.num_videos,
    run.model_flags,
    models.num_parameters(run.model),
  )
  exporter = export.BackgroundExporter(
    run.model_flags, data.reader.kinds, run.train_dir
  )
  seen_before = run.examples_seen
  with (
    contextlib.closing(reporter),  # so that an error is the last line
    plain_errors.said_plainly(run.settings.batch_size),
  ):
    if placement.is_chief:
      _show_run(run, record, reporter, dataset_dir)
    record.write()
    train_until_stopped(run, data, reporter, exporter, record, validation)
  exporter.close()
  record.write(ended=True)
  with placement.naming_lost_machine(run.step):
    placement.wait_for_all()
  _log_end(run, reporter, seen_before)


def _show_run(run: Run, record, reporter, dataset_dir: str) -> None:
  """Writes the pages of TensorBoard about a run."""
  tensorboard_pages.write_pages(
    reporter.writer,
    run.train_dir,
    record.content,
    model=run.model,
    settings=run.settings,
    card=read_card(dataset_dir) if dataset_dir else None,
    step=run.step,
  )


def _log_end(run: Run, reporter: report.Reporter, seen_before: int) -> None:
  """Says what a run has done since its start, when it had seen less."""
  logging.info(
    "Done at step %d, after %d examples. Checkpoint: %s",
    run.step,
    run.examples_seen,
    latest_checkpoint(run.train_dir),
  )
  if run.settings.eval_data_pattern:
    best = best_checkpoint.read_best(run.train_dir) or {}
    logging.info("Best checkpoint: %s", best.get("checkpoint", "none"))
  logging.info(
    "%s", reporter.summary(run.examples_seen - seen_before, run.train_dir)
  )


def _find_evaluation_files(card: DatasetCard | None) -> None:
  """Sets --eval_data_pattern where other flags ask for evaluations.

  Args:
    card: of --dataset_dir, if it is given.

  Raises:
    errors.UserError: there are no files to evaluate on.
  """
  if FLAGS.eval_data_pattern:
    return
  if not (FLAGS.eval_steps or FLAGS.early_stopping):
    if FLAGS["best_metric"].present:
      logging.info("No effect without --eval_data_pattern: --best_metric.")
    return
  if card:
    pattern = card.pattern(FLAGS.dataset_dir, "validate")
  elif not FLAGS.train_data_pattern:
    pattern = sample_data.pattern_or_sample_data(
      "", "validate", FLAGS.frame_features, FLAGS.segment_labels
    )
  else:
    flag = "eval_steps" if FLAGS.eval_steps else "early_stopping"
    raise errors.UserError(
      f"Expected --eval_data_pattern with --{flag}={FLAGS[flag].value},"
      " received none. Name labeled files that are not trained on, such as"
      " validate*.tfrecord."
    )
  FLAGS.set_default("eval_data_pattern", pattern)


def train_by_flags(program: Sequence[str]) -> None:
  """Turns the flags into a call of train.

  Args:
    program: what python was told to run, for the record of the run.
  """
  if FLAGS.log_device_placement:
    tf.debugging.set_log_device_placement(True)
  card = program_flags.apply_dataset_dir("train", "train_data_pattern")
  num_videos, vocabulary = None, ""
  if card:
    num_videos = card.splits["train"]["videos"]
    vocabulary = os.path.join(FLAGS.dataset_dir, VOCABULARY_FILE)
  preset = program_flags.apply_preset()
  model_flags = {**training_flags.model_flags_from_flags(card), **preset}
  program_flags.log_unused_model_flags(model_flags)
  _find_evaluation_files(card)
  settings = training_flags.settings_from_flags(
    model_flags["model"], num_videos
  )
  train_dirs.check_no_file(FLAGS.train_dir)
  if settings.start_new_model:
    train_dirs.check_removable(FLAGS.train_dir)
  initial_weights.source_of_run(FLAGS.train_dir, settings)  # or one error
  command = ["python", *program, *sys.argv[1:]]
  tf_config = os.environ.get("TF_CONFIG", "")
  addresses, worker = distribution.read_cluster(tf_config)
  if FLAGS.check:
    if worker == 0:
      train_dir_lock.check_free(FLAGS.train_dir)
    tf_config = ""  # this machine is checked alone
    lock = contextlib.nullcontext(train_dir_lock.NO_LOCK)
  else:
    lock = _lock_of(FLAGS.train_dir, worker == 0, command)
  with lock as held:
    placement = distribution.choose(
      tf_config, FLAGS.num_gpu, FLAGS.cluster_timeout_seconds
    )
    given = (model_flags, settings, placement, vocabulary, held)
    run_arguments, call = _arguments_of_train(*given, command)
    if FLAGS.check:
      opened = _open_run(*run_arguments)
      found = check.check(check.Opened(*opened, max(len(addresses), 1)))
      print(check.in_lines(found))
    else:
      train(*run_arguments, call=call)


def _arguments_of_train(
  model_flags: dict,
  settings: Settings,
  placement: distribution.Placement,
  vocabulary: str,
  lock: train_dir_lock.NoLock,
  command: list[str],
) -> tuple[tuple, run_record.Call]:
  """Finds the data; returns what train takes, the call apart."""
  pattern = sample_data.pattern_or_sample_data(
    FLAGS.train_data_pattern,
    "train",
    FLAGS.frame_features,
    FLAGS.segment_labels,
  )
  logging.info(
    "%s, batch size %d, learning rate %g, training on %s",
    model_flags["model"],
    settings.step_examples(placement.num_replicas),
    settings.base_learning_rate,
    pattern,
  )
  files = find_files(pattern, "train_data_pattern")
  unlikely_flags.warn_of_other_ranges(files, model_flags)
  subset, names_file = program_flags.label_subset_from_flag(
    FLAGS.num_classes,
    lambda: vocabulary or find_vocabulary(files, FLAGS.num_classes),
  )
  if subset:
    model_flags["label_subset"] = subset
    vocabulary = vocabulary or names_file
  given = (FLAGS.train_dir, model_flags, files, settings, placement)
  of_data = (vocabulary, FLAGS.dataset_dir)
  return (*given, *of_data, lock), run_record.Call(command, pattern)


def main() -> None:
  """Trains as the flags say."""
  train_by_flags(["train.py"])


if __name__ == "__main__":
  define_flags()
  startup.run(main)
