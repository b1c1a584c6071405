"""Makes a smaller or an averaged copy of a trained model.

python -m reports.compress_model --train_dir=DIR --output_dir=NEW writes the
weights of a run to a new folder: with --average_checkpoints=K the mean of its
newest K checkpoints, with --float16 in half the bytes. It prints what this
gains or costs on labeled videos, of which nothing is learned.
"""

import startup  # isort: skip
from absl import flags, logging

import errors
import models
import program_flags
from data_tools.text_table import aligned
from engine import (
  best_checkpoint,
  distribution,
  half_weights,
  model_building,
  trained_weights,
  unlikely_flags,
)
from engine.checkpoints import checkpoints_by_step
from engine.data import Data
from engine.data_files import find_files
from engine.forward import ForwardPass, predicted_batches
from engine.model_flags import require_model_flags
from reports.model_predictions import videos_per_second
from reports.video_scores import (
  SCORE_HEADS,
  PairedScores,
  VideoScores,
  gain_text,
  megabytes,
  score_cells,
)

FLAGS = flags.FLAGS


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  program_flags.define_graph_flags(flag_values, trained=True)
  program_flags.define_dataset_dir(flag_values)
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "eval_data_pattern",
    "",
    "Glob pattern of labeled TFRecord files to score on, or several separated"
    " by commas; empty: the built-in sample data.",
  )
  data.integer("batch_size", 1024, "Videos per step.", lower_bound=1)
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  model.string(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  program_flags.define_checkpoint(flag_values)
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.string("output_dir", "", "New folder for the copy.")
  output.integer(
    "average_checkpoints",
    0,
    "Newest checkpoints whose weights are averaged; 0: only that of"
    " --checkpoint is copied.",
    lower_bound=0,
  )
  output.bool(
    "float16",
    False,
    "Store weights in float16; predictions are still computed in float32.",
  )
  output.integer(
    "top_k", 20, "Best predictions of each video that GAP ranks.", lower_bound=1
  )
  program_flags.define_device_flags(flag_values)


def find_checkpoints(train_dir: str, number: int) -> list[str]:
  """Finds the checkpoints to average, without that before training.

  Args:
    train_dir: folder of the run.
    number: of the newest ones.

  Returns:
    Their paths without file endings, by step.

  Raises:
    errors.UserError: there are fewer.
  """
  kept = checkpoints_by_step(train_dir)
  kept.pop(0, None)
  if len(kept) < number:
    steps = ", ".join(map(str, kept)) or "none"
    raise errors.UserError(
      f"Expected at least {number} checkpoints after step 0 in"
      f" --train_dir={train_dir} for --average_checkpoints={number}, received"
      f" {len(kept)}, by their steps {steps}. Average fewer, or train with"
      f" --keep_checkpoints={number} and a smaller --export_model_steps."
    )
  return list(kept.values())[-number:]


def compress(
  train_dir: str, folder: str, checkpoints: list[str], half: bool
) -> str:
  """Writes the copy.

  Args:
    train_dir: folder of the run.
    folder: the new one.
    checkpoints: those to average, the last of which names the step.
    half: see --float16.

  Returns:
    The new checkpoint without its file endings.

  Raises:
    errors.UserError: for everything that the user can fix.
  """
  model_flags = require_model_flags(train_dir)
  model = model_building.build_model(model_flags, quantized=None)
  trained_weights.load_mean(model, checkpoints)
  logging.info("Copied the mean of: %s", ", ".join(checkpoints))
  return trained_weights.write_train_dir(
    model, train_dir, checkpoints[-1], folder, half
  )


def score(
  forward: ForwardPass, checkpoint: str, num_classes: int, top_k: int
) -> tuple[VideoScores, float]:
  """Scores a checkpoint; returns the scores and videos a second.

  Args:
    forward: over labeled videos.
    checkpoint: its path without its file endings.
    num_classes: of the model.
    top_k: see --top_k.
  """
  forward.load_weights(checkpoint)
  scores = VideoScores(num_classes, top_k)
  for batch, predictions in predicted_batches(forward):
    scores.add(predictions, batch["labels"].numpy())
  return scores, videos_per_second(forward)


def compare(
  forward: ForwardPass, checkpoints: dict[str, str], num_classes: int, top_k
) -> list[list[str]]:
  """Scores a model and its copy.

  Args:
    forward: over labeled videos.
    checkpoints: {name: path}, the model first.
    num_classes: of the model.
    top_k: see --top_k.

  Returns:
    The rows of a table, the heads first.
  """
  results = [
    score(forward, checkpoint, num_classes, top_k)
    for checkpoint in checkpoints.values()
  ]
  comparison = PairedScores([scores.ranked() for scores, _ in results])
  rows = [
    [
      *("model", *SCORE_HEADS, "weights, MB", "checkpoint, MB", "videos/s"),
      "GAP gained (95%)",
    ]
  ]
  for place, (name, checkpoint) in enumerate(checkpoints.items()):
    scores, rate = results[place]
    gain = comparison.gain(place, 0)["gap"]
    rows.append(
      [
        name,
        *score_cells(scores.scores()),
        megabytes(half_weights.weight_bytes(forward.model, checkpoint)),
        megabytes(trained_weights.file_bytes(checkpoint)),
        f"{rate:.0f}",
        gain_text(gain) if place else "",
      ]
    )
  return rows


def _check_flags() -> None:
  """Checks that the flags say what to make, and where.

  Raises:
    errors.UserError: they do not.
  """
  if not FLAGS.output_dir:
    raise errors.UserError(
      "Expected --output_dir for the copy of the model, received none. Name a"
      " new folder."
    )
  if FLAGS.average_checkpoints < 2 and not FLAGS.float16:
    raise errors.UserError(
      "Expected --average_checkpoints=K with K from 2 on, or --float16,"
      f" received --average_checkpoints={FLAGS.average_checkpoints}. Add one of"
      " them."
    )
  is_latest = FLAGS.checkpoint == best_checkpoint.LATEST
  if FLAGS.average_checkpoints and not is_latest:
    raise errors.UserError(
      "Expected --checkpoint=latest with --average_checkpoints, which takes the"
      f" newest ones, received --checkpoint={FLAGS.checkpoint}. Leave one of"
      " them out."
    )


def _name_of_original() -> str:
  """What the model is called that the copy is compared with."""
  names = {
    best_checkpoint.LATEST: "newest checkpoint",
    best_checkpoint.BEST: "best checkpoint",
  }
  return names.get(FLAGS.checkpoint, f"checkpoint {FLAGS.checkpoint}")


def main() -> None:
  """Makes the copy and prints what it gains or costs."""
  _check_flags()
  card = program_flags.apply_dataset_dir("validate", "eval_data_pattern")
  model_flags = require_model_flags(FLAGS.train_dir)
  program_flags.check_typed_flags(
    model_flags, f"--train_dir={FLAGS.train_dir}", FLAGS.train_dir
  )
  checkpoints = [
    best_checkpoint.find_checkpoint(FLAGS.train_dir, FLAGS.checkpoint)
  ]
  if FLAGS.average_checkpoints:
    checkpoints = find_checkpoints(FLAGS.train_dir, FLAGS.average_checkpoints)
  original = checkpoints[-1]
  ranges = program_flags.ranges_of_data(model_flags, card)
  if ranges is not None:
    model_flags["feature_ranges"] = ranges
  pattern = program_flags.data_or_sample(
    "eval_data_pattern", "validate", model_flags["frame_features"], original
  )
  files = find_files(pattern, "eval_data_pattern")
  unlikely_flags.warn_of_other_ranges(files, model_flags)
  if FLAGS.checkpoint == best_checkpoint.BEST:
    best_checkpoint.warn_of_choice(FLAGS.train_dir, files)
  data = Data(model_flags, files, with_labels=True, for_trained=True)
  placement = distribution.choose("", FLAGS.num_gpu)
  forward = ForwardPass(
    model_flags, data, placement, batch_size=FLAGS.batch_size
  )
  copy = compress(FLAGS.train_dir, FLAGS.output_dir, checkpoints, FLAGS.float16)
  what = "in float16" if FLAGS.float16 else "in float32"
  if FLAGS.average_checkpoints > 1:
    what = f"mean of {FLAGS.average_checkpoints}, {what}"
  logging.info("Scoring on %s", pattern)
  rows = compare(
    forward,
    {_name_of_original(): original, what: copy},
    models.num_outputs(model_flags),
    FLAGS.top_k,
  )
  print("\n".join(aligned(rows, texts=(0, -1))))
  if FLAGS.average_checkpoints > 1:
    print(
      "Averaged too: the statistics of batch normalization, if there are any."
    )
  logging.info("The copy: %s", FLAGS.output_dir)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
