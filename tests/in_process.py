"""Calls programs in the process of the tests, as a command line does.

It takes a second or less, while a separate process takes five to ten, most of
them to import TensorFlow. Tests of signals, terminals, several processes or the
start of a program need a real one, see conftest.Program.
"""

import contextlib
import importlib
import io
import logging as std_logging
from unittest import mock

import startup  # isort: skip # noqa: F401
import tensorflow as tf
from absl import logging
from absl.testing import flagsaver

import command_line
import stopping


@contextlib.contextmanager
def _logged_to(stream):
  """Writes absl's log to a stream, as the programs write it to stderr."""
  handler = std_logging.StreamHandler(stream)
  handler.setFormatter(command_line.ShortPrefix())
  handler.addFilter(command_line._is_worth_showing)
  logger = logging.get_absl_logger()
  verbosity = logging.get_verbosity()
  level = tf.get_logger().level
  logger.addHandler(handler)
  logger.propagate = False
  logging.set_verbosity(logging.INFO)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
    logger.removeHandler(handler)
    logger.propagate = True
    tf.get_logger().setLevel(level)


def call(program: str, *arguments) -> tuple[int, str]:
  """Calls a program; returns its exit code and what it wrote.

  Args:
    program: its module: "train", "eval", "data_tools.sample_data".
    *arguments: flags.
  """
  module = importlib.import_module(program)
  output = io.StringIO()
  code = 0
  with (
    flagsaver.flagsaver(),  # removes new flags at the end
    mock.patch.object(stopping, "_state", stopping._State()),
  ):
    module.define_flags()
    getattr(module, "accept_flags", lambda: None)()
    with (
      contextlib.redirect_stderr(output),
      contextlib.redirect_stdout(output),
      _logged_to(output),
    ):
      try:
        argv = command_line.parse_or_end(
          module.main, [f"{program}.py", *map(str, arguments)]
        )
        command_line.call_main(module.main, argv)
      except SystemExit as end:
        code = end.code or 0
  return code, output.getvalue()


def run(program: str, *arguments) -> str:
  """Calls a program that must succeed; returns its log."""
  code, log = call(program, *arguments)
  assert code == 0, log
  return log


def run_into_error(program: str, *arguments, exit_code=2) -> str:
  """Calls a program that must fail with one clear line; returns this line."""
  code, log = call(program, *arguments)
  assert code == exit_code, log
  lines = log.splitlines()
  assert [line for line in lines if line.startswith("ERROR: ")] == lines[-1:]
  return lines[-1]
