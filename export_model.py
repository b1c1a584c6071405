"""Exports a checkpoint as a SavedModel: python export_model.py.

The SavedModel runs in any process that has TensorFlow, without this repository.
engine/export.py describes its signatures.
"""

import os

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import program_flags
from engine import best_checkpoint, export
from engine import train_dir as train_dirs

FLAGS = flags.FLAGS


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
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  model.string(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  model.string(
    "checkpoint_file",
    "",
    "Path of the checkpoint to export, without its file endings; empty: the one"
    " that --checkpoint names.",
  )
  program_flags.define_checkpoint(flag_values)
  program_flags.Subject(program_flags.OUTPUT, flag_values).string(
    "output_dir",
    "",
    "Folder for the SavedModel; empty: export/step_N in --train_dir.",
  )


def check_checkpoint(checkpoint: str) -> None:
  """Checks that a checkpoint exists.

  Raises:
    errors.UserError: there is none of this name.
  """
  if not tf.io.gfile.exists(f"{checkpoint}.index"):
    raise errors.UserError(
      f"Expected a checkpoint as --checkpoint_file={checkpoint}, found no"
      f" {checkpoint}.index. Give its path without the file endings, such as"
      " /tmp/yt8m_model/model.ckpt-1000."
    )


def export_checkpoint(
  train_dir: str,
  checkpoint: str,
  folder: str,
  float_frames: bool | None = None,
  feature_ranges: str | None = None,
) -> None:
  """Writes a SavedModel of a checkpoint, with the names of the classes.

  Args:
    train_dir: folder of the run, with its model_flags.json.
    checkpoint: path without its file endings.
    folder: for the SavedModel; replaced if it holds one.
    float_frames: whether records hold floats, else bytes at frame level; None
      for how the training data is stored, if that is known, else False.
    feature_ranges: of the records' bytes, see program_flags.ranges_of_data;
      None for those of the training data.

  Raises:
    errors.UserError: the checkpoint is of another model, or the folder holds
      other files.
  """
  model_flags = train_dirs.require_model_flags(train_dir, feature_ranges)
  kinds = train_dirs.kinds_of_training_data(model_flags)
  if float_frames is not None:
    num_features = len(model_flags["feature_names"].split(","))
    in_bytes = model_flags["frame_features"] and not float_frames
    kinds = ["bytes" if in_bytes else "float"] * num_features
  vocabulary = train_dirs.find_vocabulary(train_dir)
  exporter = export.Exporter(model_flags, kinds, vocabulary)
  train_dirs.load_weights(exporter.model, checkpoint)
  exporter.save(folder)


def _find_checkpoint() -> str:
  """The checkpoint that the flags name.

  Raises:
    errors.UserError: there is none.
  """
  checkpoint = FLAGS.checkpoint_file
  if not checkpoint:
    return best_checkpoint.find_checkpoint(FLAGS.train_dir, FLAGS.checkpoint)
  check_checkpoint(checkpoint)
  if FLAGS["checkpoint"].present:
    logging.info(
      "No effect with --checkpoint_file: --checkpoint=%s.", FLAGS.checkpoint
    )
  return checkpoint


def main() -> None:
  """Exports the checkpoint that the flags name."""
  model_flags = train_dirs.require_model_flags(FLAGS.train_dir)
  program_flags.check_typed_flags(
    model_flags, f"--train_dir={FLAGS.train_dir}", FLAGS.train_dir
  )
  checkpoint = _find_checkpoint()
  folder = FLAGS.output_dir or os.path.join(
    FLAGS.train_dir,
    train_dirs.EXPORT_DIR,
    f"step_{train_dirs.checkpoint_step(checkpoint)}",
  )
  export_checkpoint(
    FLAGS.train_dir,
    checkpoint,
    folder,
    FLAGS.float_frames,
    program_flags.ranges_of_data(model_flags),
  )
  logging.info("SavedModel of %s: %s", checkpoint, folder)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
