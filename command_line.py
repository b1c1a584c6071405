"""Parses the flags of a program, calls its main function, ends it as a command.

`run` turns the errors a user can cause into one line and a non-zero exit. This
file imports no TensorFlow: programs that need it import startup.py, the others
this.
"""

import contextlib
import difflib
import inspect
import logging as std_logging
import math
import os
import re
import sys
import time
import traceback

try:
  from absl import app, flags, logging
except ModuleNotFoundError as missing:
  raise SystemExit(
    "ERROR: Expected the packages of requirements.txt, found no"
    f" {missing.name}. Use: pip install -r requirements.txt, or the Python that"
    " has them, such as .venv/bin/python after make demo."
  ) from None

import program_help
from engine import plain_errors
from errors import UserError
from version import __version__

STOPPED, STOPPED_CODE = "Stopped by Ctrl-C.\n", 130
"""What a program prints after Ctrl-C, and its exit code."""

_HELP_WORDS = {"help", "helpshort", "helpfull", "h", "?"}

# What absl says of a flag that is neither true nor false.
_NO_TRUTH_VALUE = re.compile(r"\('Non-boolean argument to boolean flag', .*\)")

# A flag that is this similar to an unknown one was probably meant.
_SIMILARITY = 0.85

# The home folder as the first word of a path, or of one in a list with commas.
_HOME = re.compile(r"(^|(?<!\\),\s*)(?:~|\$HOME|\$\{HOME\})(?=[/,]|\s*$)")


def _is_worth_showing(record) -> bool:
  """Hides what TensorFlow's own Python code logs below a warning."""
  return record.levelno >= 30 or "/tensorflow/" not in record.pathname


@contextlib.contextmanager
def naming_flag(name: str):
  """Adds the flag that named a file to the error about this file.

  Args:
    name: of the flag.

  Raises:
    UserError: the block raised an OSError or TensorFlow's equivalent.
  """
  try:
    yield
  except (OSError, *_file_errors()) as error:
    if plain_errors.in_plain_words(error):
      raise
    reason = getattr(error, "message", None) or error
    raise UserError(
      f"Expected a file that can be read or written as"
      f" --{name}={flags.FLAGS[name].value}: {reason}"
    ) from error


def _tensorflow():
  """TensorFlow, if the program has imported it, else None."""
  return sys.modules.get("tensorflow")


def _file_errors() -> tuple:
  """What TensorFlow raises for files and folders."""
  tf = _tensorflow()
  if not tf:
    return ()
  return (
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a file where a folder should be
    tf.errors.ResourceExhaustedError,  # memory or disk space
    tf.errors.UnavailableError,
  )


def run(main) -> None:
  """Parses the flags, calls `main()` and exits as a command should.

  Args:
    main: function without arguments, or of the list of what was typed besides
      flags. Its return value is ignored.

  Exit codes: 0 done; 1 a UserError or a file that could not be read or
  written, shown as one line on stderr; 130 stopped with Ctrl-C, except that
  train.py then saves and exits with 0.
  """
  handler = logging.get_absl_handler()
  handler.addFilter(_is_worth_showing)
  handler.setFormatter(ShortPrefix())
  try:
    app.run(
      lambda argv: call_main(main, argv),
      flags_parser=lambda argv: parse_flags(main, argv),
    )
  except KeyboardInterrupt:  # while flags are parsed
    sys.stderr.write(STOPPED)
    sys.exit(STOPPED_CODE)


class ShortPrefix(std_logging.Formatter):
  """Starts a log line with its level, date and time: I1124 11:08:15."""

  def format(self, record):
    """Returns the line."""
    level = record.levelname[0]
    when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
    line = f"{level}{when} {record.getMessage()}"
    if record.exc_info:
      line += f"\n{self.formatException(record.exc_info)}"
    return line


def _takes_arguments(main) -> bool:
  """Whether a program takes more than flags."""
  return bool(inspect.signature(main).parameters)


def parse_flags(main, argv: list[str]) -> list[str]:
  """Parses the flags; answers --help and --version, then exits.

  Args:
    main: see `run`.
    argv: the program's name and what was typed after it.

  Returns:
    The rest of argv: the name, and what is not a flag.

  Raises:
    SystemExit: with one line, if a flag cannot be parsed, or a path begins with
      the home folder and there is none.
  """
  # Flags may also follow what is not a flag, where a program takes that.
  flags.FLAGS.set_gnu_getopt(_takes_arguments(main))
  words = {word.lstrip("-") for word in argv[1:] if word.startswith("-")}
  if "version" in words:
    print(__version__)
    sys.exit(0)
  try:
    if words & _HELP_WORDS:
      rest = [word for word in argv if word.lstrip("-") not in _HELP_WORDS]
      flags.FLAGS(rest, known_only=True)
      print(program_help.help_text(main, every_model="helpfull" in words))
      sys.exit(0)
    rest = _with_home_folder(flags.FLAGS(argv))
    _refuse_nan()
    return rest
  except flags.UnrecognizedFlagError:
    message = f"Expected flags of this program, received {_unknown_flags(argv)}"
  except flags.Error as error:
    received = " ".join(str(error).split()).removeprefix("flag ")
    received = _NO_TRUTH_VALUE.sub("neither true nor false", received)
    message = f"Expected values that the flags take, received {received}"
  except UserError as error:
    sys.exit(f"ERROR: {error}")
  sys.exit(
    f"ERROR: {message.rstrip('.')}. {_command(main, argv)} --help lists the"
    " flags."
  )


def expand_home(text: str) -> str:
  """Replaces `~` and `$HOME` at the beginning of a path.

  The shell does this only in some places and only without quotes, which
  patterns need.

  Args:
    text: a path or a pattern, or several with commas between them.

  Raises:
    UserError: the text needs a home folder, and there is none.
  """
  # Without the slash at its end, which the root folder has too.
  home = os.path.expanduser("~/")[:-1]
  if home == "~" and _HOME.search(text):
    raise UserError(
      f"Expected a home folder to replace ~ or $HOME in {text}, found none. Set"
      " HOME, or write the whole path."
    )
  return _HOME.sub(lambda found: found[1] + home, text)


def _with_home_folder(argv: list[str]) -> list[str]:
  """Applies `expand_home` to all that was typed: flags, and argv's rest."""
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if not flag.present:
      continue
    if isinstance(flag.value, str):
      flag.value = expand_home(flag.value)
    elif isinstance(flag.value, list):
      flag.value = [
        expand_home(part) if isinstance(part, str) else part
        for part in flag.value
      ]
  return [argv[0], *map(expand_home, argv[1:])]


def _refuse_nan() -> None:
  """Raises flags.IllegalFlagValueError for nan, which passes all bounds."""
  for name in flags.FLAGS:
    value = flags.FLAGS[name].value
    if isinstance(value, float) and math.isnan(value):
      raise flags.IllegalFlagValueError(f"flag --{name}=nan: not a number")


def _unknown_flags(argv: list[str]) -> str:
  """Names all unknown flags of a command line, not only the first."""
  unknown = []
  while True:
    try:
      flags.FLAGS([argv[0], f"--undefok={','.join(unknown)}", *argv[1:]])
    except flags.UnrecognizedFlagError as error:
      unknown.append(error.flagname)
      continue
    except flags.Error:  # of a flag that is known
      pass
    break
  described = []
  for name in unknown:
    similar = difflib.get_close_matches(name, flags.FLAGS, 1, _SIMILARITY)
    meant = f" (did you mean --{similar[0]}?)" if similar else ""
    described.append(f"--{name}{meant}")
  return ", ".join(described)


def _command(main, argv: list[str]) -> str:
  """How the running program is called."""
  module = main.__module__
  if module == "__main__":
    spec = sys.modules[module].__spec__
    if spec is None:  # called by its path
      return f"python {os.path.basename(argv[0])}"
    module = spec.name
  return f"python -m {module}" if "." in module else f"python {module}.py"


def _drop_locals(error: BaseException) -> None:
  """Drops the local variables of the functions that an error went through.

  An iterator of data among them ends its threads when it goes, which is no
  longer possible, and hangs, when Python shuts down.
  """
  links: list[BaseException | None] = [error]
  seen = set()
  while links:
    link = links.pop()
    if link is not None and id(link) not in seen:
      seen.add(id(link))
      traceback.clear_frames(link.__traceback__)
      links += [link.__cause__, link.__context__]


def _set_log_level(level: str) -> None:
  """Sets from which level on TensorFlow's own Python code logs."""
  if tf := _tensorflow():
    tf.get_logger().setLevel(level)


def call_main(main, argv: list[str]) -> None:
  """Calls `main()` and turns errors that a user can fix into one line.

  Args:
    main: see `run`.
    argv: result of `parse_flags`.

  Raises:
    SystemExit: with this line, or 130 after Ctrl-C.
  """
  _set_log_level("WARNING")
  batch_size = None
  if "batch_size" in flags.FLAGS:
    batch_size = flags.FLAGS["batch_size"].value
  main = plain_errors.said_plainly(batch_size)(main)
  try:
    if _takes_arguments(main):
      main(argv[1:])
      return
    if len(argv) > 1:
      advice = "a value with spaces needs quotes."
      if os.path.exists(argv[1]):
        advice = (
          "a pattern needs quotes, as in --name='clips/*.mp4', so that the"
          " shell does not replace it by files."
        )
      raise UserError(
        f"Expected flags only, received the argument {argv[1]!r}. Write"
        f" flags as --name=value; {advice}"
      )
    main()
  except (
    UserError,
    OSError,
    *_file_errors(),
  ) as error:
    message = getattr(error, "message", None) or error
    # TensorFlow would still list what was not restored from a checkpoint.
    _set_log_level("CRITICAL")
    logging.flush()
    _drop_locals(error)
    sys.exit(f"ERROR: {' '.join(str(message).split())}")
  except KeyboardInterrupt as error:
    logging.flush()
    _drop_locals(error)
    sys.stderr.write(STOPPED)
    sys.exit(STOPPED_CODE)
  except Exception as error:  # a bug: shown with its traceback
    _drop_locals(error)
    raise
