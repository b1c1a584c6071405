"""The start of every program of this project, and its error handling.

Import this module first: it imports TensorFlow without the native log lines
that TensorFlow prints while it loads, with Keras on its TensorFlow backend and
with a memory allocator that suits large temporaries. `run` then turns the
errors a user can cause into one line and a non-zero exit.
"""

import contextlib
import ctypes
import difflib
import inspect
import json
import logging as std_logging
import os
import sys
import tempfile
import time
import traceback

from absl import app, flags, logging

from errors import UserError
from version import __version__

_HELP_WORDS = {"help", "helpshort", "helpfull", "h", "?"}

_STOPPED, _STOPPED_CODE = "Stopped by Ctrl-C.\n", 130

# A flag that is this similar to an unknown one was probably meant.
_SIMILARITY = 0.85


def _wanted_backend() -> tuple[str, str]:
  """The backend that Keras is set to, and the setting."""
  name = os.environ.get("KERAS_BACKEND")
  if name:
    return name, f"KERAS_BACKEND={name}"
  folder = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
  path = os.path.join(folder, "keras.json")
  try:
    with open(path, encoding="utf-8") as file:
      name = json.load(file)["backend"]
  except (OSError, ValueError, KeyError, TypeError):
    name = "tensorflow"
  return name, f'"backend": "{name}" in {path}'


def _refuse_other_backends() -> None:
  """Ends the program if another backend is set.

  It would compute on TensorFlow anyway. The check comes before the import of
  TensorFlow, which takes seconds.
  """
  name, where = _wanted_backend()
  if name != "tensorflow":
    sys.exit(
      f"ERROR: Expected tensorflow as Keras's backend, received {where}. The"
      " programs compute on TensorFlow; only the models also run on others. Set"
      " KERAS_BACKEND=tensorflow."
    )


def _tune_allocator() -> None:
  """Makes glibc keep large freed blocks instead of returning them.

  A batch of frames, a matrix of activations or a gradient is tens of MB, above
  the size from which glibc asks the kernel for new, zeroed pages each time;
  every training step then pays for its page faults again. See
  docs/performance.md for the effect. Other C libraries are not changed.
  """
  # From glibc's malloc.h.
  m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(m_mmap_threshold, 1 << 30)
  mallopt(m_trim_threshold, (1 << 31) - 1)
  # Each thread has heaps of 64 MB; this keeps the empty ones.
  mallopt(m_top_pad, 1 << 26)


def _set_xla_flags() -> None:
  """Makes XLA update weights in place; keeps the user's own XLA_FLAGS.

  By default, XLA copies a weight matrix that a regularizer reads too. See
  docs/performance.md for the effect.
  """
  name = "--xla_cpu_copy_insertion_use_region_analysis"
  given = os.environ.get("XLA_FLAGS", "")
  if name not in given:
    os.environ["XLA_FLAGS"] = f"{given} {name}=true".strip()


def _import_tensorflow_quietly() -> None:
  """Imports TensorFlow; its native log stays hidden unless asked for.

  Some lines are printed before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, so the
  process's stderr is redirected during the import, and shown if it fails. A
  user who sets that variable to 0 or 1 sees everything from that level on.
  """
  # Even errors are hidden: without a GPU, CUDA logs its failed search for one
  # as an error. Real errors are also raised in Python.
  if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
    import tensorflow

    return
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as hidden:
    os.dup2(hidden.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except KeyboardInterrupt:
      os.write(stderr, _STOPPED.encode())
      sys.exit(_STOPPED_CODE)
    except BaseException:
      hidden.seek(0)
      os.write(stderr, hidden.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


_refuse_other_backends()
os.environ["KERAS_BACKEND"] = "tensorflow"
_tune_allocator()
_set_xla_flags()
_import_tensorflow_quietly()


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
  import tensorflow as tf

  try:
    yield
  except (OSError, *_file_errors(tf)) as error:
    reason = getattr(error, "message", None) or error
    raise UserError(
      f"Expected a file that can be read or written as"
      f" --{name}={flags.FLAGS[name].value}: {reason}"
    ) from error


def _file_errors(tf) -> tuple:
  """What TensorFlow raises for files and folders."""
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
    sys.stderr.write(_STOPPED)
    sys.exit(_STOPPED_CODE)


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
    SystemExit: with one line, if a flag cannot be parsed.
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
      print(_help(main, every_model="helpfull" in words))
      sys.exit(0)
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError:
    message = f"Expected flags of this program, received {_unknown_flags(argv)}"
  except flags.Error as error:
    received = " ".join(str(error).split()).removeprefix("flag ")
    message = f"Expected values that the flags take, received {received}"
  sys.exit(
    f"ERROR: {message.rstrip('.')}. {_command(main, argv)} --help lists the"
    " flags."
  )


def _help(main, every_model: bool) -> str:
  """See program_help.help_text."""
  # Imported here because it imports all models, which some programs never do.
  import program_help

  return program_help.help_text(main, every_model)


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


def call_main(main, argv: list[str]) -> None:
  """Calls `main()` and turns errors that a user can fix into one line.

  Args:
    main: see `run`.
    argv: result of `parse_flags`.

  Raises:
    SystemExit: with this line, or 130 after Ctrl-C.
  """
  import tensorflow as tf

  tf.get_logger().setLevel("WARNING")
  try:
    if _takes_arguments(main):
      main(argv[1:])
      return
    if len(argv) > 1:
      raise UserError(
        f"Expected flags only, received the argument {argv[1]!r}. Write"
        " flags as --name=value; a value with spaces needs quotes."
      )
    main()
  except (
    UserError,
    OSError,
    *_file_errors(tf),
  ) as error:
    message = getattr(error, "message", None) or error
    # TensorFlow would still list what was not restored from a checkpoint.
    tf.get_logger().setLevel("CRITICAL")
    logging.flush()
    _drop_locals(error)
    sys.exit(f"ERROR: {' '.join(str(message).split())}")
  except KeyboardInterrupt as error:
    logging.flush()
    _drop_locals(error)
    sys.stderr.write(_STOPPED)
    sys.exit(_STOPPED_CODE)
  except Exception as error:  # a bug: shown with its traceback
    _drop_locals(error)
    raise
