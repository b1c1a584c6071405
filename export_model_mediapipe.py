"""Exports a model for MediaPipe's graphs of YouTube-8M.

  python export_model_mediapipe.py --checkpoint_file=model.ckpt-19

The SavedModel has the signature that MediaPipe's TensorFlowInferenceCalculator
asks there: rgb_and_audio and num_frames -> predictions. engine/export.py
describes it, docs/export.md how to use it.
"""

import os

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import export_model
import models
import program_flags
from data_tools import text_table, vocabulary
from engine import best_checkpoint, export, model_building
from engine import train_dir as train_dirs
from engine.checkpoints import load_weights
from engine.model_flags import require_model_flags, with_dtypes

FLAGS = flags.FLAGS

_FEATURES = ["rgb", "audio"]


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  program_flags.define_checkpoint_file(flag_values)
  model.string(
    "train_dir",
    "",
    "Folder with the trained model; empty: that of --checkpoint_file, else"
    " /tmp/yt8m_model/.",
  )
  program_flags.define_checkpoint(flag_values)
  program_flags.Subject(program_flags.OUTPUT, flag_values).path(
    "output_dir",
    "/tmp/mediapipe/saved_model",
    "Folder for the SavedModel; by default where MediaPipe's graphs look for"
    " it.",
  )


def _check_features(model_flags: dict) -> None:
  """Refuses models that MediaPipe cannot feed.

  Raises:
    errors.UserError: says what the model reads instead.
  """
  names = [name.strip() for name in model_flags["feature_names"].split(",")]
  if not model_flags["frame_features"] or names != _FEATURES:
    level = "frames" if model_flags["frame_features"] else "whole videos"
    raise errors.UserError(
      "Expected a model on frames with the features rgb,audio, which is what"
      f" MediaPipe gives it, received {model_flags['model']} on {level} with"
      f" {','.join(names)}. Train one with --frame_features"
      " --feature_names=rgb,audio, or use export_model.py."
    )


def _label_map(model_flags: dict, path: str) -> list[str] | None:
  """A name for each output of a model, on one line each.

  Args:
    model_flags: see engine/train_dir.py.
    path: of the names of the classes; empty if they are not known.

  Returns:
    The names, an index for a class without one; None if none is known.
  """
  if not path:
    return None
  names = vocabulary.read_names(path)
  return [
    text_table.printable(names.get(index, "")) or str(index)
    for index in models.output_classes(model_flags)
  ]


def export_checkpoint(train_dir: str, checkpoint: str, folder: str) -> None:
  """Writes a SavedModel of a checkpoint for MediaPipe.

  Args:
    train_dir: folder of the run, with its model_flags.json.
    checkpoint: path without its file endings.
    folder: for the SavedModel; replaced if it holds one.

  Raises:
    errors.UserError: the model does not take what MediaPipe gives it, the
      checkpoint is of another model, or the folder holds other files.
  """
  model_flags = require_model_flags(train_dir)
  _check_features(model_flags)
  names = train_dirs.find_vocabulary(train_dir)
  label_map = _label_map(model_flags, names)
  with tf.device("/cpu:0"):
    model = model_building.build_model(model_flags, quantized=False)
  load_weights(model, checkpoint)
  kinds = ["float"] * len(_FEATURES)
  export.save_for_mediapipe(
    model, with_dtypes(model_flags, kinds), folder, names, label_map
  )


def main() -> None:
  """Exports the checkpoint that the flags name."""
  train_dir = FLAGS.train_dir or "/tmp/yt8m_model/"
  if FLAGS.checkpoint_file and not FLAGS.train_dir:
    folder = os.path.dirname(FLAGS.checkpoint_file) or "."
    train_dir = best_checkpoint.run_of(folder)

  def use(checkpoint):
    export_checkpoint(train_dir, checkpoint, FLAGS.output_dir)
    logging.info(
      "SavedModel of %s for MediaPipe: %s", checkpoint, FLAGS.output_dir
    )

  export_model.use_checkpoint(train_dir, use)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
