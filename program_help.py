"""What --help prints: the flags of a program by subject, 80 columns wide.

The models and losses are imported in functions: programs that do not import
program_flags have no flags of theirs, and may need no TensorFlow.
"""

import inspect
import sys
import textwrap

from absl import flags

FLAGS = flags.FLAGS

_WIDTH = 79

# What to type as the value of a flag, by absl's name of its type.
_PLACEHOLDERS = {
  "int": "N",
  "float": "X",
  "string": "TEXT",
  "comma separated list of strings": "A,B,...",
}


def help_text(main, every_model: bool = False) -> str:
  """Describes a program and its flags.

  Args:
    main: the program's main function.
    every_model: show the flags of all models and losses, not only of those
      that --model and --label_loss name.
  """
  parts = [inspect.getdoc(sys.modules[main.__module__]) or ""]
  if "program_flags" in sys.modules:
    parts += _subjects(every_model)
  # Programs without subjects, such as those of data_tools.
  own = main.__module__ if main.__module__ != "__main__" else sys.argv[0]
  if listed := FLAGS.flags_by_module_dict().get(own):
    parts.append(_section("Flags", listed))
  parts.append(
    "Log:\n"
    + _described(
      "verbosity=N",
      "0",
      "Lines to log: 0: all; -1: warnings and errors; -2: errors only; 1: also"
      " the traceback of an error.",
    )
  )
  return "\n\n".join(parts)


def _subjects(every_model: bool) -> list[str]:
  """The flags that the program defines by subject."""
  import program_flags

  parts = []
  modules = FLAGS.flags_by_module_dict()
  for title in program_flags.SUBJECTS:
    listed = modules.get(title, [])
    if listed:
      parts.append(_section(title, listed, _defaults_of_model(listed)))
    if any(flag.name == "model" for flag in listed):
      parts += _every_model() if every_model else _named_model()
  # Subjects whose flags are only named, with what else to say about them.
  only_named = {
    program_flags.FROM_MODEL: "and the flags of the model and of the loss.",
    program_flags.WITHOUT_EFFECT: "",
  }
  for title, more in only_named.items():
    if listed := modules.get(title):
      names = sorted(f"--{flag.name}" for flag in listed)
      if every_model and more:
        parts += _every_model()
      parts.append(f"{title}:\n{_indented(', '.join(names), more)}")
  return parts


def _indented(*texts, by: int = 2) -> str:
  """A paragraph of texts."""
  return textwrap.fill(
    " ".join(" ".join(texts).split()),
    width=_WIDTH,
    initial_indent=" " * by,
    subsequent_indent=" " * by,
    break_long_words=False,
    break_on_hyphens=False,
  )


def _described(name: str, default: str, meaning: str) -> str:
  """The lines of a flag."""
  shown = f" (default: {default})" if default else ""
  return f"  --{name}{shown}\n{_indented(meaning, by=6)}"


def _flag(flag: flags.Flag, default=None) -> str:
  """The lines of a flag, with its own default unless another one is given."""
  default = flag.default if default is None else default
  if isinstance(default, list):
    default = ",".join(default)
  meaning = flag.help or ""
  values = getattr(flag.parser, "enum_values", None)
  if flag.flag_type() == "bool":
    name = f"[no]{flag.name}"
  elif values:
    # absl puts the values before the meaning.
    meaning = meaning.removeprefix(f"<{'|'.join(values)}>: ")
    name = f"{flag.name}={'|'.join(value for value in values if value)}"
  else:
    name = f"{flag.name}={_PLACEHOLDERS.get(flag.flag_type(), 'VALUE')}"
  return _described(name, "" if default is None else str(default), meaning)


def _section(title: str, listed, defaults=None) -> str:
  """A heading and the flags under it."""
  defaults = defaults or {}
  lines = [_flag(flag, defaults.get(flag.name)) for flag in listed]
  return "\n".join([f"{title}:", *lines])


def _defaults_of_model(listed) -> dict:
  """The defaults that the named model declares for train.py's flags."""
  import models

  try:
    model_class = models.find_class_by_name(FLAGS.model)
  except (ValueError, AttributeError):  # no such model, or no such flag
    return {}
  return {
    flag.name: getattr(model_class, flag.name)
    for flag in listed
    if flag.default is None
    and flag.name in ("batch_size", "base_learning_rate")
  }


def _named_model() -> list[str]:
  """The flags of the named model and loss, and the names of all others."""
  import losses
  import models

  parts = []
  for name, resolve in (
    (FLAGS.model, models.resolve_hyperparameters),
    (FLAGS.label_loss, losses.resolve_hyperparameters),
  ):
    try:
      taken = resolve(name)
    except ValueError as error:  # there is no such class
      parts.append(_indented(str(error), by=0))
      continue
    if taken:
      listed = [FLAGS[flag] for flag in sorted(taken)]
      parts.append(_section(f"Flags of {name}", listed, taken))
    else:
      parts.append(f"{name} has no flags.")
    if resolve is models.resolve_hyperparameters:
      presets = sorted(models.find_class_by_name(name).presets)
      parts.append(f"Presets of {name}: {', '.join(presets) or 'none'}.")
  parts.append(
    _indented(
      "Add --model=NAME or --label_loss=NAME to --help for the flags of another"
      " one; --helpfull shows those of all.",
      by=0,
    )
  )
  parts.append(f"Models:\n{_indented(', '.join(models.class_names()))}")
  parts.append(f"Losses:\n{_indented(', '.join(losses.class_names()))}")
  return parts


def _every_model() -> list[str]:
  """The flags of each file of models and losses."""
  import program_flags

  modules = FLAGS.flags_by_module_dict()
  return [
    _section(f"Flags of {name.replace('.', '/')}.py", modules[name])
    for name in program_flags.hyperparameter_modules()
    if name in modules
  ]
