"""Predicts labels: python inference.py.

Reads records, which need no labels, and writes the best classes of each video
to --output_file, in the order of the input; with --all_classes all of them; or,
with --segment_labels, the best segments of each class. The model is the newest
checkpoint in --train_dir, the one that --checkpoint names, or what
--input_model_tgz holds.
"""

import contextlib
import dataclasses
import os

import startup  # isort: skip
import numpy as np
from absl import flags, logging

import errors
import eval as eval_program
import eval_util
import models
import program_flags
import train
from data_tools import video_prediction, vocabulary
from engine import (
  best_checkpoint,
  csv_cells,
  distribution,
  local_files,
  prediction_file,
  segment_predictions,
  skipped,
  unlikely_flags,
)
from engine import train_dir as train_dirs
from engine.checkpoints import (
  DeletedCheckpointError,
  check_whole,
  with_newest,
)
from engine.data import Data
from engine.data_files import check_not_used, find_files, is_local
from engine.files import text_written_aside
from engine.forward import ForwardPass, predicted_batches
from engine.model_archive import extract_model_tgz, write_model_tgz
from engine.model_flags import require_model_flags

FLAGS = flags.FLAGS

CSV_HEADER = "VideoId,LabelConfidencePairs\n"
"""The first line of the best classes of videos, see format_lines."""


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  program_flags.define_graph_flags(flag_values, trained=True)
  program_flags.define_dataset_dir(flag_values)
  _define_model_flags(flag_values)
  _define_data_flags(flag_values)
  _define_output_flags(flag_values)
  program_flags.define_device_flags(flag_values)
  video_prediction.define_video_flags(flag_values)


def accept_flags() -> None:
  """Accepts the flags of train.py and eval.py that have no effect here."""
  for program in (eval_program, train):
    program_flags.accept_flags_of(program.define_flags)


def _define_model_flags(flag_values) -> None:
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  model.path("train_dir", "/tmp/yt8m_model/", "Folder with the trained model.")
  model.string(
    "input_model_tgz",
    "",
    "Archive of a model, as written by --output_model_tgz, to use instead of"
    " --train_dir.",
  )
  model.path(
    "untar_model_dir",
    "/tmp/yt8m-model",
    "Folder that --input_model_tgz is unpacked to.",
  )
  program_flags.define_checkpoint(flag_values)


def _define_data_flags(flag_values) -> None:
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "input_data_pattern",
    "",
    "Glob pattern of the TFRecord files, or several separated by commas; empty:"
    " the built-in sample data.",
  )
  data.bool(
    "segment_labels",
    False,
    "Predict every 5 s segment of the videos: the best segments of each class.",
  )
  data.integer(
    "batch_size",
    512,
    "Videos per step.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  data.integer(
    "num_readers",
    1,
    "Accepted as in the original, without effect: predictions come in the order"
    " of the input.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  program_flags.define_min_frames(flag_values)
  program_flags.define_skipping_flags(flag_values)


def _define_output_flags(flag_values) -> None:
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.path(
    "output_file", "predictions.csv", "File to write the predictions to."
  )
  output.bool(
    "all_classes",
    False,
    "Write the predictions of all classes to --output_file, an .npz file with 4"
    " bytes for each, instead of the best ones as CSV; see docs/formats.md.",
  )
  output.string(
    "output_model_tgz", "", "Archive to write the model to; empty: none."
  )
  output.integer(
    "top_k",
    20,
    "Best classes to write for each video.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  output.string(
    "vocabulary",
    "",
    "CSV file with the names of the classes; adds a second file, named like"
    " --output_file with _readable before its ending. Empty: the names that the"
    " model keeps; YouTube-8M's if it has 3862 classes; else none.",
  )
  output.integer(
    "segment_max_pred",
    100000,
    "With --segment_labels: best segments to write for each class.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  output.string(
    "segment_label_ids_file",
    "",
    "With --segment_labels: CSV with a header and one class index per line, the"
    " classes to write; empty: those that the records have ratings of, or all"
    " classes of the model if there are none.",
  )
  program_flags.define_spreadsheet_safe(flag_values)


# --------------------------------------------------------------------------
# Videos


def format_lines(
  video_ids, class_indexes, confidences, spreadsheet_safe: bool = False
) -> str:
  """Lines of the predictions: id,label confidence label confidence ...

  Args:
    video_ids: of each video, bytes.
    class_indexes: (videos, ranks) int.
    confidences: (videos, ranks) float, written with six digits.
    spreadsheet_safe: see csv_cells.cell.

  Returns:
    A line for each video.
  """
  videos, ranks = class_indexes.shape
  pairs = np.empty((videos, 2 * ranks), object)
  pairs[:, 0::2] = class_indexes
  pairs[:, 1::2] = confidences
  # One format per line takes half the time of one per number.
  line = f"%s,{' '.join(['%d %g'] * ranks)}\n"
  return "".join(
    line % (video_id, *row)
    for video_id, row in zip(
      csv_cells.cells(video_ids, spreadsheet_safe), pairs.tolist(), strict=True
    )
  )


def write_video_predictions(
  forward: ForwardPass,
  num_classes: int,
  output_file: str,
  top_k: int,
  class_names: list[str] | None = None,
  label_subset: list[int] | None = None,
  on_batch: video_prediction.OnBatch | None = None,
  spreadsheet_safe: bool = False,
) -> None:
  """Writes the best classes of each video, highest confidence first.

  Ties go to the lower class index.

  Args:
    forward: over whole videos.
    num_classes: that the model predicts.
    output_file: CSV: VideoId,LabelConfidencePairs.
    top_k: classes per video.
    class_names: adds a second file with the columns VideoId, Label, Name and
      Confidence, a line for each prediction.
    label_subset: the class of each prediction; None if the model predicts all
      classes.
    on_batch: also gets the best predictions of each batch.
    spreadsheet_safe: see csv_cells.cell.
  """
  top_k = min(top_k, num_classes)
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(text_written_aside(output_file))
    file.write(CSV_HEADER)
    readable, names = None, []
    if class_names:
      readable = stack.enter_context(
        text_written_aside(readable_path(output_file))
      )
      readable.write("VideoId,Label,Name,Confidence\n")
      names = [csv_cells.cell(name, spreadsheet_safe) for name in class_names]
    for batch, predictions in predicted_batches(forward):
      video_ids = batch["video_ids"].numpy()
      class_indexes, best = eval_util.top_k_classes(predictions, top_k)
      if on_batch:
        on_batch(class_indexes, best)
      if label_subset:
        class_indexes = np.array(label_subset)[class_indexes]
      file.write(format_lines(video_ids, class_indexes, best, spreadsheet_safe))
      if readable:
        readable.write(
          "".join(
            f"{video_id},{index},{names[index]},{confidence:g}\n"
            for video_id, indexes, confidences in zip(
              csv_cells.cells(video_ids, spreadsheet_safe),
              class_indexes.tolist(),
              best.tolist(),
              strict=True,
            )
            for index, confidence in zip(indexes, confidences, strict=True)
          )
        )


def is_stream(output_file: str) -> bool:
  """Whether an output file is a pipe or a device, with no room beside it."""
  return is_local(output_file) and local_files.is_stream(output_file)


def readable_path(output_file: str) -> str:
  """The path of the file with class names that goes with an output file."""
  root, ending = os.path.splitext(output_file)
  return f"{root}_readable{ending}"


# --------------------------------------------------------------------------
# The whole prediction


def _model_folder() -> str:
  """The folder of the model that the flags name."""
  return FLAGS.untar_model_dir if FLAGS.input_model_tgz else FLAGS.train_dir


def find_model() -> tuple[dict, str]:
  """Finds the model that the flags name.

  Returns:
    Its model_flags and its checkpoint's path.

  Raises:
    errors.UserError: there is none, or two are named.
  """
  if not FLAGS.input_model_tgz:
    model_flags = require_model_flags(FLAGS.train_dir)
    return model_flags, best_checkpoint.find_checkpoint(
      FLAGS.train_dir, FLAGS.checkpoint
    )
  for name in ("train_dir", "checkpoint"):
    if FLAGS[name].present:
      raise errors.UserError(
        f"Expected one of --{name} and --input_model_tgz, received both. Leave"
        " one of them out."
      )
  with startup.naming_flag("input_model_tgz"):
    checkpoint = extract_model_tgz(FLAGS.input_model_tgz, FLAGS.untar_model_dir)
  return require_model_flags(FLAGS.untar_model_dir), checkpoint


def _open_pass(
  model_flags,
  checkpoint,
  files,
  output_file,
  batch_size,
  placement,
  policy,
  min_frames,
  segment_labels=False,
) -> ForwardPass:
  """The pass over files, in their order, with a checkpoint's weights."""
  skipped_list = ""
  if not is_stream(output_file):
    root, _ = os.path.splitext(output_file)
    skipped_list = f"{root}_skipped_records.csv"
  data = Data(
    model_flags,
    files,
    with_labels=False,
    segment_labels=segment_labels,
    for_trained=True,
    policy=dataclasses.replace(policy, path=skipped_list),
    min_frames=min_frames,
  )
  forward = ForwardPass(
    model_flags,
    data,
    placement or distribution.Placement(),
    batch_size=batch_size,
    num_readers=None,
  )
  forward.load_weights(checkpoint)
  return forward


def predict(
  model_flags: dict,
  checkpoint: str,
  files: list[str],
  output_file: str,
  *,
  top_k: int = 20,
  class_names: list[str] | None = None,
  batch_size: int = 512,
  placement: distribution.Placement | None = None,
  policy: skipped.Policy = skipped.STOP,
  min_frames: int = 0,
  on_batch: video_prediction.OnBatch | None = None,
  spreadsheet_safe: bool = False,
  all_classes: bool = False,
) -> None:
  """Writes the best classes of each video; see write_video_predictions.

  Args:
    model_flags: see engine/train_dir.py.
    checkpoint: path without its file endings.
    files: TFRecord files.
    output_file: CSV.
    top_k: classes per video.
    class_names: for the second, readable file; None for no such file.
    batch_size: videos per step.
    placement: where; None for one device.
    policy: what to do about records that cannot be used.
    min_frames: shorter videos are left out; 0 for none.
    on_batch: see write_video_predictions.
    spreadsheet_safe: see csv_cells.cell.
    all_classes: write all of them, see engine/prediction_file.py.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  forward = _open_pass(
    model_flags,
    checkpoint,
    files,
    output_file,
    batch_size,
    placement,
    policy,
    min_frames,
  )
  if all_classes:
    prediction_file.write_predictions(
      output_file,
      (
        (batch["video_ids"].numpy(), predictions)
        for batch, predictions in predicted_batches(forward)
      ),
      models.output_classes(model_flags),
    )
    logging.info("Predictions of all classes: %s", output_file)
    return
  if class_names and is_stream(output_file):
    logging.info("No names: there is no second file beside %s.", output_file)
    class_names = None
  write_video_predictions(
    forward,
    models.num_outputs(model_flags),
    output_file,
    top_k,
    class_names,
    model_flags.get("label_subset"),
    on_batch,
    spreadsheet_safe,
  )
  if class_names:
    logging.info("With names: %s", readable_path(output_file))
  logging.info("Predictions: %s", output_file)


def predict_segments(
  model_flags: dict,
  checkpoint: str,
  files: list[str],
  output_file: str,
  *,
  classes: np.ndarray,
  limit: int = 100000,
  batch_size: int = 512,
  placement: distribution.Placement | None = None,
  policy: skipped.Policy = skipped.STOP,
  min_frames: int = 0,
) -> None:
  """Writes the best segments of each class.

  See engine.segment_predictions.write_best_segments.

  Args:
    model_flags: see engine/train_dir.py.
    checkpoint: path without its file endings.
    files: TFRecord files.
    output_file: CSV.
    classes: the classes to write.
    limit: most segments per class.
    batch_size: segments per step.
    placement: where; None for one device.
    policy: what to do about records that cannot be used.
    min_frames: shorter videos are left out; 0 for none.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  forward = _open_pass(
    model_flags,
    checkpoint,
    files,
    output_file,
    batch_size,
    placement,
    policy,
    min_frames,
    segment_labels=True,
  )
  segment_predictions.write_best_segments(
    predicted_batches(forward),
    output_file,
    classes,
    limit,
    model_flags.get("label_subset"),
  )
  logging.info("Predictions: %s", output_file)


def _predict_videos(model_flags, checkpoint, class_names, placement) -> None:
  """Predicts the files of --videos."""
  given = (model_flags, checkpoint)

  def write(files, on_batch):
    predict(
      *given,
      files,
      FLAGS.output_file,
      top_k=FLAGS.top_k,
      class_names=class_names,
      batch_size=FLAGS.batch_size,
      placement=placement,
      on_batch=on_batch,
      spreadsheet_safe=FLAGS.spreadsheet_safe,
    )

  def batches(files):
    more = (FLAGS.output_file, FLAGS.batch_size, placement, skipped.STOP, 0)
    return predicted_batches(_open_pass(*given, files, *more))

  model = video_prediction.Model(
    folder=_model_folder(),
    is_frame_level=model_flags["frame_features"],
    model_name=model_flags["model"],
    max_frames=model_flags["max_frames"],
    classes=models.output_classes(model_flags),
    class_names=class_names,
    predict=write,
    batches=batches,
  )
  video_prediction.predict_videos(model)


def _segment_classes(files: list[str], model_flags: dict) -> np.ndarray:
  """The classes to predict segments of, see --segment_label_ids_file."""
  path = FLAGS.segment_label_ids_file
  given = (model_flags["num_classes"], model_flags.get("label_subset"))
  if not path:
    return segment_predictions.find_classes(files, *given)
  with startup.naming_flag("segment_label_ids_file"):
    return segment_predictions.read_classes(path, *given)


def _check_output() -> None:
  """Checks that --output_file and --spreadsheet_safe go with the other flags.

  Raises:
    errors.UserError: they do not.
  """
  if is_stream(FLAGS.output_file) and FLAGS.videos:
    raise errors.UserError(
      "Expected a file as --output_file with --videos, beside which others are"
      f" written, received {FLAGS.output_file}, a pipe or a device. Name a"
      " file."
    )
  for name in ("segment_labels", "all_classes"):
    if FLAGS.spreadsheet_safe and FLAGS[name].value:
      raise errors.UserError(
        f"Expected one of --spreadsheet_safe and --{name}, received both. Leave"
        " one of them out."
      )


def _check_all_classes() -> None:
  """Checks that --all_classes goes with the other flags.

  Raises:
    errors.UserError: it does not.
  """
  for name in ("videos", "segment_labels"):
    if FLAGS[name].value:
      raise errors.UserError(
        f"Expected one of --all_classes and --{name}, received both. Leave one"
        " of them out."
      )
  prediction_file.check_path(FLAGS.output_file, "output_file")
  for name in ("top_k", "vocabulary"):
    if FLAGS[name].present:
      logging.info("No effect with --all_classes: --%s.", name)


def _check_not_used(files: list[str], names_file: str) -> None:
  """Checks that no file is overwritten that is read, or written too.

  Args:
    files: of records or videos.
    names_file: with the names of the classes; empty for none.

  Raises:
    errors.UserError: it would be.
  """
  of_model = FLAGS.input_model_tgz
  read = {*files, names_file, FLAGS.segment_label_ids_file, of_model} - {""}
  written = FLAGS.output_file
  check_not_used(written, "output_file", read)
  check_not_used(readable_path(written), "output_file", read)
  archive = FLAGS.output_model_tgz
  check_not_used(archive, "output_model_tgz", {*read, written} - {of_model})
  if FLAGS.videos:
    names = {written, readable_path(written), archive} - {""}
    video_prediction.check_outputs(read | names)


def main() -> None:
  """Predicts what the flags ask for."""
  video_prediction.check_flags()
  _check_output()
  if FLAGS.all_classes:
    _check_all_classes()
  card = program_flags.apply_dataset_dir("test", "input_data_pattern")
  program_flags.log_flags_without_effect()
  model_flags, checkpoint = find_model()
  program_flags.check_typed_flags(
    model_flags,
    f"--input_model_tgz={FLAGS.input_model_tgz}"
    if FLAGS.input_model_tgz
    else f"--train_dir={FLAGS.train_dir}",
    _model_folder(),
  )
  ranges = program_flags.ranges_of_data(model_flags, card)
  if ranges is not None:
    model_flags["feature_ranges"] = ranges
  num_classes = model_flags["num_classes"]
  class_names = classes = None
  names_file = FLAGS.vocabulary or train_dirs.find_vocabulary(_model_folder())
  if names_file:
    with startup.naming_flag("vocabulary"):
      class_names = vocabulary.read_class_names(names_file, num_classes)
  files = []
  if not FLAGS.videos:
    pattern = program_flags.data_or_sample(
      "input_data_pattern",
      "test",
      model_flags["frame_features"],
      checkpoint,
      FLAGS.segment_labels,
    )
    logging.info("Predicting %s with %s", pattern, checkpoint)
    files = find_files(pattern, "input_data_pattern")
    unlikely_flags.warn_of_other_ranges(files, model_flags)
  read = video_prediction.files_read(_model_folder()) if FLAGS.videos else files
  _check_not_used(read, names_file)
  for name in ("output_file", "output_model_tgz"):
    train_dirs.check_no_own_file(getattr(FLAGS, name), name)
  if FLAGS.segment_labels:
    classes = _segment_classes(files, model_flags)

  def use(checkpoint):
    _predict(model_flags, checkpoint, files, classes, class_names)

  if FLAGS.input_model_tgz or FLAGS.checkpoint != best_checkpoint.LATEST:
    use(checkpoint)
  else:
    with_newest(FLAGS.train_dir, use)


def _predict(model_flags, checkpoint, files, classes, class_names) -> None:
  """Writes what the flags ask for with a checkpoint; see main.

  Raises:
    DamagedCheckpointError: the checkpoint is damaged; nothing was written.
    DeletedCheckpointError: likewise.
  """
  placement = distribution.choose("", FLAGS.num_gpu)
  if FLAGS.output_model_tgz:
    # All of it, since who unpacks it has no other checkpoint.
    check_whole(checkpoint, with_data=True)
    deleted = None
    with startup.naming_flag("output_model_tgz"):
      try:
        write_model_tgz(_model_folder(), checkpoint, FLAGS.output_model_tgz)
      except DeletedCheckpointError as error:  # not the archive's fault
        deleted = error
    if deleted:
      raise deleted
    logging.info("Model: %s", FLAGS.output_model_tgz)
  if FLAGS.videos:
    _predict_videos(model_flags, checkpoint, class_names, placement)
    return
  policy = skipped.Policy(FLAGS.skip_corrupt, FLAGS.max_corrupt_fraction)
  given = (model_flags, checkpoint, files, FLAGS.output_file)
  if classes is not None:
    predict_segments(
      *given,
      classes=classes,
      limit=FLAGS.segment_max_pred,
      batch_size=FLAGS.batch_size,
      placement=placement,
      policy=policy,
      min_frames=FLAGS.min_frames,
    )
  else:
    predict(
      *given,
      top_k=FLAGS.top_k,
      class_names=class_names
      or vocabulary.default_class_names(files, model_flags["num_classes"]),
      batch_size=FLAGS.batch_size,
      placement=placement,
      policy=policy,
      min_frames=FLAGS.min_frames,
      spreadsheet_safe=FLAGS.spreadsheet_safe,
      all_classes=FLAGS.all_classes,
    )


if __name__ == "__main__":
  define_flags()
  accept_flags()
  startup.run(main)
