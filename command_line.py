"""Parses the flags of a program, calls its main function, ends it as a command.

`run` turns the errors that are no bugs into one line and an exit status. This
file imports no TensorFlow: programs that need it import startup.py, the others
this.
"""

import stopping  # isort: skip, first: it catches what stops the rest

import contextlib
import inspect
import logging as std_logging
import math
import os
import re
import select
import signal
import sys
import time
import traceback
from typing import NoReturn

try:
  from absl import app, flags, logging
except ModuleNotFoundError as missing:
  sys.stderr.write(
    "ERROR: Expected the packages of requirements.txt, found no"
    f" {missing.name}. Use: pip install -r requirements.txt, or the Python that"
    " has them, such as .venv/bin/python after make demo.\n"
  )
  raise SystemExit(2) from None

import errors
import program_help
from engine import plain_errors
from version import __version__

_HELP_WORDS = {"help", "helpshort", "helpfull", "h", "?"}

# What absl says of a flag that is neither true nor false.
_NO_TRUTH_VALUE = re.compile(r"\('Non-boolean argument to boolean flag', .*\)")

# The largest number of 32 bits with a fraction.
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127

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
    errors.UserError: the block raised an OSError or TensorFlow's equivalent; a
      MachineError if it is a fault of the machine.
  """
  try:
    yield
  except (OSError, *_file_errors()) as error:
    if plain_errors.in_plain_words(error):
      raise
    reason = getattr(error, "message", None) or error
    raise errors.of_system(
      error,
      f"Expected a file that can be read or written as"
      f" --{name}={flags.FLAGS[name].value}: {reason}",
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

  Exit statuses: 0 done; 2 a UserError, or a file that is not there or cannot be
  opened; 1 a MachineError, or another fault of the machine. Each of these is
  one line on stderr; with --verbosity=1 its traceback follows. 1 also a bug,
  shown with its traceback. 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by
  SIGHUP, except that train.py then saves and exits with 0. 141, without a line,
  if who reads the output has ended, as after `| head`.
  """
  stopping.install()
  handler = logging.get_absl_handler()
  handler.addFilter(_is_worth_showing)
  handler.setFormatter(ShortPrefix())
  try:
    app.run(
      lambda argv: call_main(main, argv),
      flags_parser=lambda argv: parse_or_end(main, argv),
    )
  except SystemExit as ended:
    if stopping.received() is None:
      raise
    # Threads that still work, such as on an export, are not waited for.
    logging.flush()
    sys.stdout.flush()
    os._exit(ended.code if isinstance(ended.code, int) else 1)


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


def _discard_output() -> None:
  """Lets Python forget what it could not write.

  It would try again at its end, and end with a status of its own.
  """
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_if_unread(error: BaseException) -> None:
  """Ends the program without a line if nobody reads its output any more.

  As after `| head`, and as programs end that do not handle SIGPIPE.

  Args:
    error: that a write has raised.

  Raises:
    SystemExit: it is so.
  """
  is_of_pipe = isinstance(error.__cause__ or error, BrokenPipeError)
  if not is_of_pipe or not hasattr(select, "poll"):
    return
  poll = select.poll()
  poll.register(sys.stdout.fileno(), 0)
  if any(event & select.POLLERR for _, event in poll.poll(0)):
    _discard_output()
    sys.exit(stopping.exit_status(signal.SIGPIPE))


def _print(*texts: str) -> None:
  """Writes texts, and what was printed before.

  Raises:
    errors.MachineError, OSError: they cannot be written.
  """
  try:
    with plain_errors.said_plainly():
      for text in texts:
        print(text)
      sys.stdout.flush()
  except (errors.UserError, OSError) as error:
    _end_if_unread(error)
    _discard_output()
    raise


def _answer(text: str) -> NoReturn:
  """Prints a text, and ends the program."""
  _print(text)
  sys.exit(0)


def parse_flags(main, argv: list[str]) -> list[str]:
  """Parses the flags; answers --help and --version, then exits.

  Args:
    main: see `run`.
    argv: the program's name and what was typed after it.

  Returns:
    The rest of argv: the name, and what is not a flag.

  Raises:
    errors.UserError, OSError: a flag cannot be parsed, a path begins with the
      home folder and there is none, or the answer cannot be written.
    SystemExit: after an answer.
  """
  # Flags may also follow what is not a flag, where a program takes that.
  flags.FLAGS.set_gnu_getopt(_takes_arguments(main))
  words = {word.lstrip("-") for word in argv[1:] if word.startswith("-")}
  if "version" in words:
    _answer(__version__)
  try:
    if words & _HELP_WORDS:
      rest = [word for word in argv if word.lstrip("-") not in _HELP_WORDS]
      flags.FLAGS(rest, known_only=True)
      _answer(program_help.help_text(main, every_model="helpfull" in words))
    rest = _with_home_folder(flags.FLAGS(argv))
    _check_numbers()
    return rest
  except flags.UnrecognizedFlagError:
    message = f"Expected flags of this program, received {_unknown_flags(argv)}"
  except flags.Error as error:
    received = " ".join(str(error).split()).removeprefix("flag ")
    received = _NO_TRUTH_VALUE.sub("neither true nor false", received)
    message = f"Expected values that the flags take, received {received}"
  raise errors.UserError(
    f"{message.rstrip('.')}. {_command(main, argv)} --help lists the flags."
  )


def parse_or_end(main, argv: list[str]) -> list[str]:
  """As parse_flags, but ends the program where that raises such an error."""
  try:
    return parse_flags(main, argv)
  except (errors.UserError, OSError) as error:
    end(f"ERROR: {error}", errors.exit_status(error))


def expand_home(text: str) -> str:
  """Replaces `~` and `$HOME` at the beginning of a path.

  The shell does this only in some places and only without quotes, which
  patterns need.

  Args:
    text: a path or a pattern, or several with commas between them.

  Raises:
    errors.UserError: the text needs a home folder, and there is none.
  """
  # Without the slash at its end, which the root folder has too.
  home = os.path.expanduser("~/")[:-1]
  if home == "~" and _HOME.search(text):
    raise errors.UserError(
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


def _check_numbers() -> None:
  """Refuses numbers that pass all bounds, but that nothing can compute with.

  Raises:
    flags.IllegalFlagValueError: a number is nan or infinite, or has more bits
      than those of TensorFlow: 32 if it has a fraction, 64 if it is whole.
  """
  for name in flags.FLAGS:
    value = flags.FLAGS[name].value
    for number in value if isinstance(value, list) else [value]:
      problem = ""
      if isinstance(number, float):
        if math.isnan(number):
          problem = "not a number"
        elif abs(number) > _LARGEST_FLOAT:
          problem = "too large for a number of 32 bits"
      elif isinstance(number, int) and not -(2**63) <= number < 2**63:
        problem = "too large for a number of 64 bits"
      if problem:
        raise flags.IllegalFlagValueError(f"flag --{name}={number}: {problem}")


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
    near = errors.nearest(name, flags.FLAGS)
    meant = f" (did you mean --{near}?)" if near else ""
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


def end(line: str, status: int) -> NoReturn:
  """Ends the program with a line on stderr.

  Args:
    line: to write.
    status: its exit status.
  """
  sys.stderr.write(f"{line}\n")
  sys.exit(status)


def _wants_traceback() -> bool:
  """Whether --verbosity asks for more than the usual lines."""
  return logging.get_verbosity() >= logging.DEBUG


def _end_as_asked(error: BaseException) -> None:
  """Ends the program as an error asks; returns if it is a bug.

  Args:
    error: that `main()` has raised.

  Raises:
    SystemExit: with the exit status, see `run`.
  """
  stopped = stopping.received()
  if stopped is None and isinstance(error, KeyboardInterrupt):
    stopped = signal.SIGINT
  if stopped is None:
    _end_if_unread(error)
  # A signal may come out of libraries as another error.
  is_fault = errors.is_fault_of_machine(error)
  is_known = isinstance(error, (errors.UserError, OSError, *_file_errors()))
  if stopped is None and not is_known and not is_fault:
    _drop_locals(error)
    return
  # TensorFlow would still list what was not restored from a checkpoint.
  _set_log_level("CRITICAL")
  logging.flush()
  lines = "".join(traceback.format_exception(error))
  _drop_locals(error)
  if stopped is not None:
    sys.stderr.write(stopping.line_to_say(stopped))
    sys.exit(stopping.exit_status(stopped))
  message = " ".join(str(getattr(error, "message", None) or error).split())
  sys.stderr.write(f"ERROR: {message}\n")
  if _wants_traceback():
    sys.stderr.write(lines)
  sys.exit(errors.exit_status(error))


def _call(main, argv: list[str]) -> None:
  """Calls `main()`; see call_main.

  Raises:
    errors.UserError: arguments were typed that it does not take.
  """
  if _takes_arguments(main):
    main(argv[1:])
    _print()
    return
  if len(argv) > 1:
    advice = "a value with spaces needs quotes."
    if os.path.exists(argv[1]):
      advice = (
        "a pattern needs quotes, as in --name='clips/*.mp4', so that the"
        " shell does not replace it by files."
      )
    raise errors.UserError(
      f"Expected flags only, received the argument {argv[1]!r}. Write"
      f" flags as --name=value; {advice}"
    )
  main()
  _print()


def call_main(main, argv: list[str]) -> None:
  """Calls `main()` and turns errors that are no bugs into one line.

  Args:
    main: see `run`.
    argv: result of `parse_flags`.

  Raises:
    SystemExit: with the exit status, see `run`, after this line.
  """
  _set_log_level("WARNING")
  batch_size = None
  if "batch_size" in flags.FLAGS:
    batch_size = flags.FLAGS["batch_size"].value
  main = plain_errors.said_plainly(batch_size)(main)
  try:
    with stopping.raising():
      _call(main, argv)
  except SystemExit as error:
    _drop_locals(error)
    raise
  except (KeyboardInterrupt, Exception) as error:
    _end_as_asked(error)
    raise
