"""Exports a checkpoint for serving: python export_model.py.

By default it becomes a SavedModel, which runs in any process that has
TensorFlow, without this repository; engine/export.py describes its signatures.
--format names other formats, see docs/export.md.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import program_flags
import readers
from data_tools import sample_data, sample_videos
from engine import best_checkpoint, export, export_formats
from engine import train_dir as train_dirs
from engine.checkpoints import checkpoint_step, load_weights, with_newest
from engine.data import Data
from engine.data_files import find_files
from engine.model_flags import kinds_of_training_data, require_model_flags

FLAGS = flags.FLAGS
Result = TypeVar("Result")

SAVED_MODEL = "saved_model"
ALL = "all"

# Videos that are predicted to compare the formats.
_NUM_VIDEOS = 32


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  program_flags.define_graph_flags(flag_values, trained=True)
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.bool(
    "float_frames",
    None,
    "Records hold floats; False: frame-level records hold bytes, as in"
    " YouTube-8M; default: as in training.",
  )
  data.string(
    "input_data_pattern",
    "",
    "Records whose predictions are compared in the formats, as a glob pattern,"
    " or several separated by commas; empty: the built-in sample data, if it"
    " has the model's features.",
  )
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  model.path("train_dir", "/tmp/yt8m_model/", "Folder with the trained model.")
  program_flags.define_checkpoint_file(flag_values)
  program_flags.define_checkpoint(flag_values)
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.enum(
    "format",
    SAVED_MODEL,
    [SAVED_MODEL, *export_formats.FORMATS, ALL],
    "What to write; all: each of them, but those that cannot hold the model."
    " litert, onnx and openvino need requirements/export.txt.",
  )
  output.bool(
    "float16",
    False,
    "Store weights in float16, half the size; the model computes in float32.",
  )
  output.string(
    "output_dir",
    "",
    "Folder for what is written. With --format=saved_model it becomes the"
    " SavedModel itself; empty: export/step_N in --train_dir, for other formats"
    " export/formats_N.",
  )


def find_checkpoint(train_dir: str) -> str:
  """The checkpoint that --checkpoint_file, else --checkpoint names.

  Args:
    train_dir: folder of the run, for --checkpoint.

  Returns:
    Its path without its file endings.

  Raises:
    errors.UserError: there is none.
  """
  checkpoint = FLAGS.checkpoint_file
  if not checkpoint:
    return best_checkpoint.find_checkpoint(train_dir, FLAGS.checkpoint)
  if not tf.io.gfile.exists(f"{checkpoint}.index"):
    raise errors.UserError(
      f"Expected a checkpoint as --checkpoint_file={checkpoint}, found no"
      f" {checkpoint}.index. Give its path without the file endings, such as"
      " /tmp/yt8m_model/model.ckpt-1000."
    )
  if FLAGS["checkpoint"].present:
    logging.info(
      "No effect with --checkpoint_file: --checkpoint=%s.", FLAGS.checkpoint
    )
  return checkpoint


def make_exporter(
  train_dir: str,
  checkpoint: str,
  float_frames: bool | None = None,
  feature_ranges: str | None = None,
) -> export.Exporter:
  """Builds the model of a checkpoint, with the names of the classes.

  Args:
    train_dir: folder of the run, with its model_flags.json.
    checkpoint: path without its file endings.
    float_frames: whether records hold floats, else bytes at frame level; None
      for how the training data is stored, if that is known, else False.
    feature_ranges: of the records' bytes, see program_flags.ranges_of_data;
      None for those of the training data.

  Raises:
    errors.UserError: the checkpoint is of another model.
  """
  model_flags = require_model_flags(train_dir, feature_ranges)
  kinds = kinds_of_training_data(model_flags)
  if float_frames is not None:
    num_features = len(model_flags["feature_names"].split(","))
    in_bytes = model_flags["frame_features"] and not float_frames
    kinds = ["bytes" if in_bytes else "float"] * num_features
  vocabulary = train_dirs.find_vocabulary(train_dir)
  exporter = export.Exporter(model_flags, kinds, vocabulary)
  load_weights(exporter.model, checkpoint)
  return exporter


def read_batch(exporter: export.Exporter, files: list[str]) -> dict:
  """Reads the first videos of files, as a model takes them.

  Args:
    exporter: has the model.
    files: as from find_files.

  Returns:
    {"video_matrix": (videos, ...), "num_frames": (videos,)}, arrays.

  Raises:
    errors.UserError: the records are not as the model's flags say, or store
      the features otherwise than those it is exported for.
  """
  data = Data(exporter.model_flags, files, with_labels=False, for_trained=True)
  if data.reader.quantized != exporter.reader.quantized:
    wanted, found = (
      "bytes" if reader.quantized else "floats"
      for reader in (exporter.reader, data.reader)
    )
    raise errors.UserError(
      f"Expected frames of {wanted}, for which the model is exported, received"
      f" {found} in {files[0]}. Set --float_frames={found == 'floats'}, or name"
      " other files as --input_data_pattern."
    )
  with data.naming_errors():
    batches = data.evaluation_batches(_NUM_VIDEOS)
    batch = next(batches.as_numpy_iterator())
  return {
    name: batch[name].astype(tensor.dtype)
    for name, tensor in exporter.model.input.items()
  }


def _has_features_of_sample_data(model_flags: dict) -> bool:
  """Whether the built-in sample data has what a model reads."""
  prefix = "" if model_flags["frame_features"] else "mean_"
  known = {
    f"{prefix}rgb": sample_videos.RGB_SIZE,
    f"{prefix}audio": sample_videos.AUDIO_SIZE,
  }
  names, sizes = readers.get_feature_names_and_sizes(
    model_flags["feature_names"], model_flags["feature_sizes"]
  )
  return all(
    known.get(name) == size for name, size in zip(names, sizes, strict=True)
  )


def find_batch(exporter: export.Exporter, is_needed: bool) -> dict | None:
  """Reads the videos that --input_data_pattern or the sample data has.

  Args:
    exporter: has the model.
    is_needed: whether there must be some.

  Returns:
    See read_batch; None if there are none.

  Raises:
    errors.UserError: there are none, or see read_batch.
    OSError: the sample data cannot be written.
    tf.errors.OpError: as above.
  """
  model_flags = exporter.model_flags
  in_bytes = model_flags["frame_features"]
  if not FLAGS.input_data_pattern and not (
    _has_features_of_sample_data(model_flags)
    and exporter.reader.quantized == in_bytes
  ):
    if not is_needed:
      return None
    raise errors.UserError(
      "Expected records to compare the predictions of the formats on, received"
      " none, and the built-in sample data has other features than"
      f" {model_flags['feature_names']} with {model_flags['feature_sizes']}"
      " numbers, or stores them otherwise. Name some by --input_data_pattern."
    )
  try:
    pattern = sample_data.pattern_or_sample_data(
      FLAGS.input_data_pattern, "validate", model_flags["frame_features"]
    )
    return read_batch(exporter, find_files(pattern, "input_data_pattern"))
  except (errors.UserError, OSError, tf.errors.OpError) as error:
    if is_needed or FLAGS.input_data_pattern:
      raise
    logging.warning(
      "No videos to measure the SavedModel on: %s.",
      export_formats.reason_of(error),
    )
    return None


def _report(name: str, exported: export_formats.Exported) -> None:
  """Logs what was written."""
  text = f"{exported.num_bytes / 1e6:.2f} MB"
  if exported.videos_per_second is not None:
    text += f", {exported.videos_per_second:.0f} videos/s"
  if exported.difference is not None and (FLAGS.float16 or name != SAVED_MODEL):
    text += f", differs by up to {exported.difference:.1g}"
  logging.info("%s: %s: %s", name, text, exported.path)


def export_others(
  names: list[str],
  exporter: export.Exporter,
  folder: str,
  batch: dict,
  float16: bool,
) -> None:
  """Writes a model in several formats, and says which cannot hold it.

  Args:
    names: of export_formats.FORMATS.
    exporter: has the model.
    folder: for the files.
    batch: see read_batch.
    float16: whether to store weights in float16.

  Raises:
    errors.UserError: the only format cannot hold the model.
  """
  for name in names:
    path = os.path.join(folder, export_formats.FORMATS[name].path)
    logging.info("Exporting and checking %s", name)
    try:
      exported = export_formats.export(name, exporter, path, batch, float16)
    except errors.UserError as error:
      if len(names) == 1:
        raise
      logging.warning("No %s. %s", name, error)
    else:
      _report(name, exported)


def _load_exporter(model_flags: dict) -> tuple[export.Exporter, str]:
  """The model that the flags name, and the path of its checkpoint."""
  ranges = program_flags.ranges_of_data(model_flags)

  def load(checkpoint):
    given = (FLAGS.train_dir, checkpoint, FLAGS.float_frames, ranges)
    return make_exporter(*given), checkpoint

  return use_checkpoint(FLAGS.train_dir, load)


def use_checkpoint(train_dir: str, use: Callable[[str], Result]) -> Result:
  """Calls a function with the checkpoint that the flags name.

  Args:
    train_dir: folder of the run, for --checkpoint.
    use: function of its path, see checkpoints.with_newest.

  Returns:
    What the function returns.
  """
  if FLAGS.checkpoint_file or FLAGS.checkpoint != best_checkpoint.LATEST:
    return use(find_checkpoint(train_dir))
  return with_newest(train_dir, use)


def main() -> None:
  """Exports the checkpoint that the flags name."""
  others = {ALL: list(export_formats.FORMATS), SAVED_MODEL: []}.get(
    FLAGS.format, [FLAGS.format]
  )
  export_formats.require_packages(others)
  model_flags = require_model_flags(FLAGS.train_dir)
  program_flags.check_typed_flags(
    model_flags, f"--train_dir={FLAGS.train_dir}", FLAGS.train_dir
  )
  exporter, checkpoint = _load_exporter(model_flags)
  folder = FLAGS.output_dir
  if not folder:
    step = checkpoint_step(checkpoint)
    name = f"formats_{step}" if others else f"step_{step}"
    folder = os.path.join(FLAGS.train_dir, train_dirs.EXPORT_DIR, name)
  logging.info("Exporting %s", checkpoint)
  batch = find_batch(exporter, is_needed=bool(others))
  if FLAGS.format in (SAVED_MODEL, ALL):
    exported = export_formats.export_saved_model(
      exporter,
      os.path.join(folder, SAVED_MODEL) if others else folder,
      batch,
      FLAGS.float16,
    )
    _report(SAVED_MODEL, exported)
  if batch is not None:
    export_others(others, exporter, folder, batch, FLAGS.float16)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
