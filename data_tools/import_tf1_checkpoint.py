r"""Makes a train_dir of a checkpoint of the original TensorFlow 1 code.

  python -m data_tools.import_tf1_checkpoint --train_dir=new \
    --checkpoint=old/model.ckpt-123

The original's model_flags.json must be in the folder of the checkpoint. The
sizes of the layers are those of the weights. What has no weights is as the
original has it by default, unless its flag is typed: --iterations,
--sample_random_frames, --dbof_pooling_method and --dbof_activation of
DbofModel, and --l2_penalty. If the checkpoint has the state of Adam, training
goes on from it. See docs/migrating_from_tf1.md.
"""

import os
import random
import shlex

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
import losses
import models
import program_flags
import readers
from data_tools import tf1_checkpoint
from data_tools.tf1_checkpoint import Original
from engine import files
from engine import train_dir as train_dirs
from engine.distribution import Placement
from engine.model_flags import MODEL_FLAGS_FILE, with_dtypes, write_model_flags
from engine.run import Run
from engine.settings import Settings

FLAGS = flags.FLAGS

# The keys of the original's model_flags.json, and the types of their values.
_KEYS = {
  "model": str,
  "feature_names": str,
  "feature_sizes": str,
  "frame_features": bool,
  "label_loss": str,
}

# The original reads no more frames of a video.
_MAX_FRAMES = 300

# Hyper-parameters of DbofModel that its weights do not show.
_NOT_IN_WEIGHTS = (
  "iterations",
  "sample_random_frames",
  "dbof_pooling_method",
  "dbof_activation",
)


def define_flags() -> None:
  """Defines the flags of this program; the model files define their own."""
  flags.DEFINE_string(
    "checkpoint",
    "",
    "Checkpoint of the original code, without its file endings; required.",
  )
  flags.DEFINE_string("train_dir", "", "New folder to write; required.")
  flags.DEFINE_integer(
    "batch_size",
    1024,
    "Videos of each step of the original, on all its GPUs together. It decides"
    " how many videos the run has seen, on which the learning rate depends.",
    lower_bound=1,
  )


# --------------------------------------------------------------------------
# model_flags.json


def read_original_flags(folder: str) -> dict:
  """Reads the model_flags.json of the original.

  Args:
    folder: of the checkpoint.

  Returns:
    model, feature_names, feature_sizes, frame_features and label_loss.

  Raises:
    errors.UserError: it is missing, it is not the original's, or it names a
      model or a loss that cannot be taken over.
  """
  path = os.path.join(folder, MODEL_FLAGS_FILE)
  if not tf.io.gfile.exists(path):
    raise errors.UserError(
      f"Expected the original's {MODEL_FLAGS_FILE} in the folder of"
      f" the checkpoint, found no {path}. Copy it there from the original's"
      " --train_dir."
    )
  with tf.io.gfile.GFile(path, "rb") as file:
    content = file.read()
  try:
    found = dict(errors.parse_json(content))
  except (ValueError, TypeError) as error:
    raise errors.UserError(
      f"Expected JSON in {path}, received something else ({error}). Copy it"
      " again from the original's --train_dir."
    ) from error
  for key, kind in _KEYS.items():
    if not isinstance(found.get(key), kind):
      raise errors.UserError(
        f"Expected {key} in {path}, as the original code writes it, received"
        f" {found.get(key, 'none')!r}. Set it to what the model was trained"
        " with."
      )
  if found["model"] not in tf1_checkpoint.MODELS:
    raise errors.UserError(
      f"Expected a model of the original code in {path},"
      f" {', '.join(tf1_checkpoint.MODELS)}, received {found['model']!r}. Other"
      " models have to be trained again, see docs/porting_a_fork.md."
    )
  try:
    losses.check_fits(found["label_loss"], exclusive_classes=False)
  except ValueError as error:
    raise errors.UserError(f"{error} It is in {path}.") from error
  return {key: found[key] for key in _KEYS}


def _apply_to_flags(original: Original, known: dict) -> set[str]:
  """Sets the flags of the model to what its weights say.

  Args:
    original: the checkpoint.
    known: result of tf1_checkpoint.hyperparameters_of.

  Returns:
    The names of the typed flags of models and losses.

  Raises:
    errors.UserError: a typed flag says something else.
  """
  defined = FLAGS.flags_by_module_dict()
  typed = {
    flag.name: flag.value
    for module in program_flags.hyperparameter_modules()
    for flag in defined.get(module, [])
    if flag.present
  }
  for name in known.keys() - {"num_classes"}:
    if name not in typed:
      FLAGS.set_default(name, known[name])
    elif typed[name] != known[name]:
      raise errors.UserError(
        f"Expected --{name}={known[name]}, as in the weights of"
        f" {original.path}, received --{name}={typed[name]}. Leave it out."
      )
  return set(typed)


def make_model_flags(original: Original, given: dict) -> dict:
  """Makes the content of model_flags.json.

  The flags of the model decide what its weights do not show.

  Args:
    original: the checkpoint.
    given: result of read_original_flags.

  Raises:
    errors.UserError: the weights are not those of the model, a flag contradicts
      them, or the features are none.
  """
  model, loss = given["model"], given["label_loss"]
  known = tf1_checkpoint.hyperparameters_of(original, model)
  names, sizes = readers.get_feature_names_and_sizes(
    given["feature_names"], given["feature_sizes"]
  )
  typed = _apply_to_flags(original, known)
  model_flags = {
    "model": model,
    "feature_names": ",".join(names),
    "feature_sizes": ",".join(map(str, sizes)),
    "frame_features": given["frame_features"],
    "num_classes": known["num_classes"],
    "max_frames": _MAX_FRAMES,
    "label_loss": loss,
    "input_transform": "l2",
    **models.resolve_hyperparameters(model),
    **losses.resolve_hyperparameters(loss),
  }
  if unused := sorted(typed - model_flags.keys()):
    logging.info("No effect on %s: --%s.", model, ", --".join(unused))
  kind = "bytes" if given["frame_features"] else "float"
  return with_dtypes(model_flags, [kind] * len(names))


# --------------------------------------------------------------------------
# The train_dir


def _refuse_folder(train_dir: str, held: str) -> None:
  raise errors.UserError(
    f"Expected a new folder as --train_dir, received {train_dir}, which has"
    f" {held} in it. Name another one."
  )


def check_new(train_dir: str) -> None:
  """Checks that there is no such folder, or that it is empty.

  Raises:
    errors.UserError: it has files, it is a file, or it cannot be replaced.
  """
  train_dirs.check_no_file(train_dir)
  files.folder_to_make(train_dir, "train_dir")
  if tf.io.gfile.exists(train_dir):
    held = sorted(tf.io.gfile.listdir(train_dir))
    if held:
      _refuse_folder(train_dir, held[0])


def _take_weights(original: Original, run: Run, sources: dict) -> None:
  """Sets the weights of a run to those of the original."""
  weights = {variable.path: variable for variable in run.model.variables}
  for name, paths in sources.items():
    shapes = [weights[path].shape for path in paths]
    parts = tf1_checkpoint.read_parts(original, name, shapes)
    for path, part in zip(paths, parts, strict=True):
      weights[path].assign(part)
  for path, variable in weights.items():
    # Decides the momentum of moving averages; see BatchNormalization.
    if path.endswith("/num_updates"):
      variable.assign(original.step)


def _take_adam(original: Original, run: Run, sources: dict) -> bool:
  """Sets the optimizer of a run to the state of the original's Adam.

  Returns:
    Whether the checkpoint has it, whole. If not, the optimizer stays as it is.
  """
  weights = {
    variable.path: variable for variable in run.model.trainable_variables
  }
  trained = {
    name: paths for name, paths in sources.items() if set(paths) <= set(weights)
  }
  wanted = [
    f"{name}/{slot}" for name in trained for slot in tf1_checkpoint.ADAM_SLOTS
  ]
  missing = [name for name in wanted if name not in original.shapes]
  if missing:
    if len(missing) < len(wanted):
      logging.warning(
        "Only a part of the state of Adam is there, without %s, for instance."
        " None of it is taken over.",
        missing[0],
      )
    return False
  kept = {variable.name: variable for variable in run.optimizer.variables}
  for name, paths in trained.items():
    shapes = [weights[path].shape for path in paths]
    for slot, keras_name in tf1_checkpoint.ADAM_SLOTS.items():
      parts = tf1_checkpoint.read_parts(original, name, shapes, slot)
      for path, part in zip(paths, parts, strict=True):
        kept[f"{path.replace('/', '_')}_{keras_name}"].assign(part)
  run.optimizer.iterations.assign(original.adam_steps)
  return True


def import_checkpoint(
  original: Original, model_flags: dict, train_dir: str, batch_size: int = 1024
) -> None:
  """Makes a train_dir of a checkpoint, whole or not at all.

  Args:
    original: the checkpoint.
    model_flags: result of make_model_flags.
    train_dir: a new folder.
    batch_size: videos of each step of the original, on all devices together.

  Raises:
    errors.UserError: a variable is missing, has another shape or belongs to
      another model, or there is something in the folder.
  """
  sources = tf1_checkpoint.sources(model_flags)
  others = tf1_checkpoint.other_variables(original, list(sources))
  model_class = models.find_class_by_name(model_flags["model"])
  settings = Settings(model_class.batch_size, model_class.base_learning_rate)
  # Keras draws its seeds from here, as in train.train.
  random.seed(settings.seed)
  train_dir = files.folder_to_make(train_dir, "train_dir")
  quantized = model_flags["frame_features"]
  with files.beside(train_dir) as aside:
    run = Run(aside, model_flags, quantized, settings, Placement())
    _take_weights(original, run, sources)
    has_adam = _take_adam(original, run, sources)
    run.state["global_step"].assign(original.step)
    run.state["examples_seen"].assign(original.step * batch_size)
    run.open_checkpoints(with_optimizer=has_adam)
    write_model_flags(aside, model_flags)
    run.save()
    try:
      files.put_in_place(aside, train_dir)
    except files.FOLDER_EXISTS_ERRORS:
      _refuse_folder(train_dir, "something")
  logging.info(
    "%s after step %d, %s parameters, %s the state of Adam: %s",
    model_flags["model"],
    original.step,
    f"{models.num_parameters(run.model):,}",
    "with" if has_adam else "without",
    train_dir,
  )
  if others:
    logging.info("Not taken over: %s", ", ".join(others))


# --------------------------------------------------------------------------
# The program


def _typed(model_flags: dict, names) -> list[str]:
  """Flags as one types them."""
  return [f"--{name}={model_flags[name]}" for name in names]


def training_flags(model_flags: dict) -> list[str]:
  """The flags with which train.py continues the run, without the data.

  Args:
    model_flags: result of make_model_flags.
  """
  names = ["model", "frame_features", "feature_names", "feature_sizes"]
  names += ["num_classes", "label_loss"]
  defaults = {
    **models.default_hyperparameters(model_flags),
    **losses.default_hyperparameters(model_flags["label_loss"]),
  }
  names += [
    name
    for name, default in defaults.items()
    if name in model_flags and model_flags[name] != default
  ]
  return _typed(model_flags, names)


def main() -> None:
  """Imports the checkpoint that the flags name."""
  checkpoint, train_dir = FLAGS.checkpoint, FLAGS.train_dir
  for name, value in (("checkpoint", checkpoint), ("train_dir", train_dir)):
    if not value:
      raise errors.UserError(
        f"Expected --{name}, received none. Name the checkpoint of the original"
        " by --checkpoint and a new folder by --train_dir."
      )
  check_new(train_dir)
  original = Original(checkpoint)
  given = read_original_flags(os.path.dirname(checkpoint))
  model_flags = make_model_flags(original, given)
  if given["model"] == "DbofModel":
    logging.info(
      "The weights do not show these, which are the original's defaults unless"
      " typed: %s",
      " ".join(_typed(model_flags, _NOT_IN_WEIGHTS)),
    )
  import_checkpoint(original, model_flags, train_dir, FLAGS.batch_size)
  train_dir = f"--train_dir={train_dir}"
  for what, *command in (
    ("Score it", "eval.py", "--run_once", train_dir),
    ("Train on", "train.py", train_dir, *training_flags(model_flags)),
  ):
    logging.info("%s: %s", what, shlex.join(["python", *command]))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
