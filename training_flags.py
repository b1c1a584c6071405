"""The flags of train.py, and what they come to: settings and model_flags.

Only programs import this file: train.py, and those that accept its flags or
train as it does.
"""

import dataclasses

from absl import flags

import errors
import input_flags
import losses
import models
import program_flags
from data_tools import sample_data
from engine import distribution, schedules
from engine.dataset_card import DatasetCard
from engine.settings import Settings

FLAGS = flags.FLAGS

# At least, where the number of videos is known and allows it.
_STEPS_IN_AN_EPOCH = 50


def define(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program; the model files define their own."""
  _define_data_flags(flag_values)
  _define_training_flags(flag_values)
  _define_end_flags(flag_values)
  _define_teacher_flags(flag_values)
  _define_learning_rate_flags(flag_values)
  _define_evaluation_flags(flag_values)
  _define_saving_flags(flag_values)
  _define_check_flag(flag_values)
  _define_device_flags(flag_values)


def _define_data_flags(flag_values) -> None:
  program_flags.define_graph_flags(flag_values)
  program_flags.Subject(program_flags.MODEL, flag_values).string(
    "preset",
    "",
    "Name of settings of the model and of training that its class declares,"
    " such as published; typed flags win. --help --model=NAME lists"
    " those there are.",
  )
  program_flags.define_dataset_dir(flag_values)
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "train_data_pattern",
    "",
    "Glob pattern of the TFRecord files, or several separated by commas; empty:"
    " the built-in sample data.",
  )
  data.bool(
    "segment_labels",
    False,
    "Train on the rated 5 s segments of frame-level records.",
  )
  program_flags.define_min_frames(flag_values)
  program_flags.define_num_readers(flag_values)
  program_flags.define_skipping_flags(flag_values)
  data.integer(
    "seed", 0, "Decides the order of the data and all random numbers."
  )


def _define_training_flags(flag_values) -> None:
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.integer(
    "batch_size",
    None,
    "Videos per step on each device; default: the model's own, 1024 for the"
    " starter's models, but at most 16 on the built-in sample data.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  training.integer(
    "accumulate_steps",
    1,
    "Batches whose gradients are summed in one step; N batches equal one batch"
    " N times as large.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  training.float(
    "regularization_penalty",
    1.0,
    "Weight of the regularization losses.",
    lower_bound=0.0,
  )
  training.string(
    "optimizer",
    "AdamOptimizer",
    "TensorFlow 1 name, such as AdamOptimizer, class in keras.optimizers, or"
    " CenteredRMSProp: RMSProp with the variance of the gradients.",
  )
  training.float(
    "weight_decay",
    None,
    "Fraction of each weight, times the learning rate, that a step subtracts"
    " (AdamW), except for biases and normalization; default: the optimizer's, 0"
    " except for AdamW and its variants.",
    lower_bound=0.0,
  )
  training.float(
    "clip_gradient_norm",
    1.0,
    "Largest norm of each variable's gradient; 0: no limit.",
    lower_bound=0.0,
  )
  training.float(
    "clip_global_norm",
    0.0,
    "Largest norm of all gradients together; 0: no limit.",
    lower_bound=0.0,
  )
  training.enum(
    "nan_policy",
    "stop",
    ["stop", "skip"],
    "What to do about a step with a loss or gradients that are NaN or infinite:"
    " stop training, or skip its update, but stop after 10 in a row.",
  )
  training.float(
    "mixup_alpha",
    0.0,
    "Train on weighted means of two videos, with a weight from Beta(alpha,"
    " alpha) for each step; 0: no mixing; 0.4 is a usual value.",
    lower_bound=0.0,
    upper_bound=1e6,
  )
  training.float(
    "ema_decay",
    0.0,
    "Keep an exponential moving average of the weights with this decay per"
    " step, such as 0.999, for evaluation, prediction and export; 0: none.",
    lower_bound=0.0,
    upper_bound=0.999999,
  )


def _define_end_flags(flag_values) -> None:
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.integer(
    "num_epochs",
    5,
    "Times each video is read, counted from the beginning of the run; 0: no"
    " limit.",
    lower_bound=0,
  )
  training.integer(
    "max_steps",
    None,
    "Steps, counted from the beginning of the run; default and 0: no limit.",
    lower_bound=0,
  )
  training.float(
    "max_minutes",
    0.0,
    "Minutes of training, counted from the beginning of the run, without the"
    " first step of each start, which compiles, and without saving; 0: no"
    " limit.",
    lower_bound=0.0,
  )


def _define_teacher_flags(flag_values) -> None:
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.string(
    "teacher",
    "",
    "File of inference.py --all_classes with another model's predictions of the"
    " training videos, to learn from besides the labels; empty: none.",
  )
  training.float(
    "teacher_weight",
    0.5,
    "With --teacher: its part in what is learned; 0: labels alone; 1: the"
    " teacher alone.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def _define_learning_rate_flags(flag_values) -> None:
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.float(
    "base_learning_rate",
    None,
    "Learning rate of the first step; default: the model's own, 0.01 for the"
    " starter's models.",
    lower_bound=0.0,
  )
  training.enum(
    "learning_rate_schedule",
    "exponential",
    list(schedules.SCHEDULES),
    "How the learning rate changes: exponential falls in steps, see"
    " --learning_rate_decay; cosine falls to 0 at the end of the run as planned"
    " when it began.",
  )
  training.float(
    "learning_rate_decay",
    0.95,
    "Factor on the learning rate every --learning_rate_decay_examples.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  training.whole_number(
    "learning_rate_decay_examples",
    4000000,
    "Videos seen between two decays of the learning rate, such as 4000000 or"
    " 4e6.",
    lower_bound=1,
  )
  training.integer(
    "warmup_examples",
    0,
    "Videos over which the learning rate rises from 0 to the schedule's.",
    lower_bound=0,
  )
  training.float(
    "warmup_fraction",
    0.0,
    "Without --warmup_examples, the part of the run, as planned when it began,"
    " over which the learning rate rises.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def _define_evaluation_flags(flag_values) -> None:
  program_flags.Subject(program_flags.DATA, flag_values).string(
    "eval_data_pattern",
    "",
    "Like --train_data_pattern, labeled files on which the run is evaluated"
    " while it trains. Empty: it is not, unless --eval_steps or"
    " --early_stopping asks for it; then the validate split of --dataset_dir,"
    " or of the built-in sample data if it is trained on.",
  )
  training = program_flags.Subject(program_flags.TRAINING, flag_values)
  training.integer(
    "eval_steps",
    None,
    "Steps between two evaluations, each of a checkpoint that is saved; step 0"
    " and the last one are evaluated too. Default: --export_model_steps.",
    lower_bound=1,
  )
  training.integer(
    "early_stopping",
    0,
    "End the run after so many evaluations in a row without gain of"
    " --best_metric; 0: never.",
    lower_bound=0,
  )
  program_flags.define_best_metric(program_flags.TRAINING, flag_values)


def _define_saving_flags(flag_values) -> None:
  saving = program_flags.Subject(program_flags.SAVING, flag_values)
  saving.path(
    "train_dir", "/tmp/yt8m_model/", "Folder of checkpoints and events."
  )
  saving.bool(
    "start_new_model",
    False,
    "Delete the run in --train_dir and start again; False: continue it.",
  )
  saving.string(
    "init_checkpoint",
    "",
    "Start a new run with the weights of another one: its --train_dir, or the"
    " path of a checkpoint, such as DIR/model.ckpt-100; empty: with random"
    " weights. A run that continues keeps its own.",
  )
  saving.integer(
    "export_model_steps",
    1000,
    "Steps between two checkpoints and SavedModels; the last step is always"
    " saved.",
    lower_bound=1,
  )
  saving.integer(
    "keep_checkpoints",
    5,
    "Newest checkpoints to keep; 0: all.",
    lower_bound=0,
  )
  saving.list(
    "profile_steps",
    [],
    "First and last step of a profile for TensorBoard, such as 10,20; empty:"
    " none.",
  )


def _define_check_flag(flag_values) -> None:
  program_flags.Subject(program_flags.TRAINING, flag_values).bool(
    "check",
    False,
    "Do not train: open all that training opens, try one step, show what the"
    " run would take, and write nothing. Fails where training would fail.",
  )


def _define_device_flags(flag_values) -> None:
  program_flags.define_device_flags(flag_values)
  devices = program_flags.Subject(program_flags.DEVICES, flag_values)
  devices.integer(
    "cluster_timeout_seconds",
    distribution.CLUSTER_TIMEOUT_SECONDS,
    "Seconds to wait for the other machines of TF_CONFIG to start, before this"
    " one ends with an error.",
    lower_bound=1,
  )
  devices.bool(
    "xla",
    None,
    "Compile the training step with XLA; default: what suits the model; False:"
    " not even the loss and the update of the weights.",
  )
  devices.enum(
    "mixed_precision",
    "",
    ["", "bfloat16"],
    "Number format of the layers' products; weights, losses and predictions"
    " stay float32. Empty: float32.",
  )
  devices.bool(
    "log_device_placement", False, "Log the device of each operation."
  )


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
  return steps[0], steps[1]


def _check_sizes(hyperparameters: dict) -> None:
  """Checks the hyper-parameters that are whole numbers: sizes, or how many.

  Raises:
    errors.UserError: one has more than 32 bits.
  """
  for name, value in hyperparameters.items():
    if isinstance(value, int) and value > program_flags.LARGEST_SIZE:
      raise errors.UserError(
        f"Expected --{name} of at most {program_flags.LARGEST_SIZE}, received"
        f" {value}. Set a smaller one."
      )


def model_flags_from_flags(card: DatasetCard | None = None) -> dict:
  """Collects what goes into model_flags.json.

  Args:
    card: of --dataset_dir, if it is given.

  Raises:
    errors.UserError: a flag has an invalid value.
  """
  try:
    of_loss = program_flags.loss_flags()
    hyperparameters = {
      **models.resolve_hyperparameters(FLAGS.model),
      **losses.resolve_hyperparameters(of_loss["label_loss"]),
    }
    features = program_flags.feature_flags()
    transform = input_flags.resolve(features, card)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  _check_sizes(hyperparameters)
  return {
    "model": FLAGS.model,
    **features,
    **program_flags.range_flags(len(features["feature_names"].split(","))),
    "frame_features": FLAGS.frame_features,
    "num_classes": FLAGS.num_classes,
    "max_frames": FLAGS.max_frames,
    **of_loss,
    **transform,
    **hyperparameters,
  }


def settings_from_flags(
  model_name: str, num_videos: int | None = None
) -> Settings:
  """Turns flags into Settings, with the model's own defaults.

  With few videos, as on the built-in sample data, batches are smaller.

  Args:
    model_name: a class in the model files.
    num_videos: in the data, if that is known.

  Raises:
    errors.UserError: --profile_steps is invalid.
  """
  model_class = models.find_class_by_name(model_name)
  given = {
    field.name: getattr(FLAGS, field.name)
    for field in dataclasses.fields(Settings)
  }
  if given["batch_size"] is None:
    given["batch_size"] = model_class.batch_size
    if not FLAGS.train_data_pattern:
      given["batch_size"] = min(
        model_class.batch_size, sample_data.MAX_BATCH_SIZE
      )
    elif num_videos:
      given["batch_size"] = min(
        model_class.batch_size,
        max(sample_data.MAX_BATCH_SIZE, num_videos // _STEPS_IN_AN_EPOCH),
      )
  if given["base_learning_rate"] is None:
    given["base_learning_rate"] = model_class.base_learning_rate
  given["profile_steps"] = profile_steps_from_flag(FLAGS.profile_steps)
  return Settings(**given)
