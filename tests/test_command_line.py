"""Tests of command_line: how a program is called and how it ends."""

import importlib
import os
import re
import subprocess
import sys
import weakref

import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from conftest import REPOSITORY

import command_line
import errors
from docs import make_flags_page


def run_python(program):
  """Runs a text as a program."""
  return subprocess.run(
    [sys.executable, "-c", program],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )


def run_main(body):
  """Runs startup.run, as most programs do, on a function of the given lines."""
  lines = "\n".join(f"  {line}" for line in body.splitlines())
  return run_python(
    f"import startup, errors\ndef main():\n{lines}\nstartup.run(main)"
  )


# --------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
  ("flag", "expected"),
  [
    ("--exclusive_classes=maybe", "maybe: neither true nor false."),
    ("--warmup_fraction=nan", "nan: not a number."),
    ("--warmup_fraction=2", "2: 2.0 is not a number in the range [0.0, 1.0]."),
  ],
)
def test_a_value_that_a_flag_does_not_take(flag, expected):
  finished = subprocess.run(
    [sys.executable, "train.py", flag],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 1
  name = flag.partition("=")[0]
  assert finished.stderr == (
    f"ERROR: Expected values that the flags take, received {name}={expected}"
    " python train.py --help lists the flags.\n"
  )


# --------------------------------------------------------------------------
# Running


def test_a_program_that_is_done():
  finished = run_main(
    "from absl import logging\n"
    "logging.info('epoch %d', 3)\n"
    "return 7  # is not an exit code"
  )
  assert finished.returncode == 0
  assert finished.stdout == ""
  # The level, the month and the day, and the time.
  assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d epoch 3\n", finished.stderr)


def test_after_a_users_error_tensorflow_has_no_last_word():
  # It warns when Python ends, if a checkpoint did not fit the model.
  finished = run_main(
    "import atexit, tensorflow as tf\n"
    "atexit.register(tf.get_logger().warning, 'not restored')\n"
    "raise errors.UserError('Expected another model.')"
  )
  assert finished.returncode == 1
  assert finished.stderr == "ERROR: Expected another model.\n"


def test_ctrl_c_while_flags_are_parsed():
  finished = run_python(
    "import os, signal, command_line\n"
    "command_line.parse_flags = lambda *_:"
    " os.kill(os.getpid(), signal.SIGINT)\n"
    "command_line.run(print)"
  )
  assert finished.returncode == 130
  assert finished.stderr == "Stopped by Ctrl-C.\n"


def test_ctrl_c():
  finished = run_main(
    "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"
    "time.sleep(60)"
  )
  assert finished.returncode == 130
  assert finished.stderr == "Stopped by Ctrl-C.\n"


# --------------------------------------------------------------------------
# Errors, in this process


@pytest.fixture
def ending_of():
  """Calls a main function as `run` does; returns what it ends with."""
  level = tf.get_logger().level

  def call(main, *arguments):
    with pytest.raises(SystemExit) as ended:
      command_line.call_main(main, ["program.py", *arguments])
    return ended.value.code

  yield call
  tf.get_logger().setLevel(level)


def raising(error):
  """A main function that raises an error."""

  def main():
    raise error

  return main


def test_a_users_error_is_one_line(ending_of):
  # A text as exit code is printed to stderr, and the code is 1.
  error = errors.UserError("Expected an even\n  number, received 3.")
  assert ending_of(raising(error)) == (
    "ERROR: Expected an even number, received 3."
  )


def test_a_missing_file_is_one_line(ending_of):
  line = ending_of(lambda: tf.io.gfile.GFile("/missing/file").read())
  assert line.startswith("ERROR: ")
  assert "/missing/file" in line
  assert "No such file or directory" in line
  assert "\n" not in line


def test_a_missing_file_that_a_flag_names(ending_of):
  def main():
    with command_line.naming_flag("words"):
      open("/missing")  # noqa: SIM115

  with flagsaver.flagsaver():
    flags.DEFINE_string("words", "/missing", "")
    flags.FLAGS(["program.py"])
    line = ending_of(main)
  assert "--words=/missing:" in line
  assert "\n" not in line


def test_a_full_disk_is_said_plainly_also_for_a_file_of_a_flag(ending_of):
  text = "{{function_node __wrapped__}} /d/x; No space left on device"

  def main():
    with command_line.naming_flag("batch_size"):
      raise tf.errors.ResourceExhaustedError(None, None, text)

  with flagsaver.flagsaver():
    flags.DEFINE_integer("batch_size", 3, "")
    flags.FLAGS(["program.py"])
    expected = (
      "ERROR: Expected room on the disk for /d/x, found the disk full. Free"
      " some space, or name a folder on another disk; then start the same"
      " command again."
    )
    assert ending_of(main) == expected
    error = tf.errors.InternalError(None, None, text)
    assert ending_of(raising(error)) == expected
    line = ending_of(raising(MemoryError()))
    assert "memory for a batch of 3 videos" in line


def test_ctrl_c_has_its_own_exit_code(ending_of, capsys):
  assert ending_of(raising(KeyboardInterrupt())) == 130
  assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_a_mistake_in_the_program_stays_as_it_is():
  with pytest.raises(ZeroDivisionError):
    command_line.call_main(lambda: 1 / 0, ["program.py"])


def test_an_argument_that_is_not_a_flag_is_refused(ending_of):
  line = ending_of(raising(AssertionError("did run")), "frame")
  assert line == (
    "ERROR: Expected flags only, received the argument 'frame'. Write flags as"
    " --name=value; a value with spaces needs quotes."
  )


def test_a_pattern_that_the_shell_has_replaced(ending_of, tmp_path):
  second = tmp_path / "b.mp4"
  second.touch()
  line = ending_of(raising(AssertionError("did run")), str(second))
  assert line == (
    f"ERROR: Expected flags only, received the argument '{second}'. Write flags"
    " as --name=value; a pattern needs quotes, as in --name='clips/*.mp4', so"
    " that the shell does not replace it by files."
  )


@pytest.mark.parametrize(
  ("raised", "ends_as"),
  [
    (errors.UserError("wrong"), SystemExit),
    (KeyboardInterrupt(), SystemExit),
    (ValueError("a bug"), ValueError),
  ],
)
def test_what_reads_data_is_gone_before_python_shuts_down(raised, ends_as):
  """An iterator that lives until then waits for threads that cannot end."""
  living = weakref.WeakSet()

  class Iterator:
    def __init__(self):
      living.add(self)

  def batches():
    held = Iterator()
    yield held

  def program():
    held = [Iterator(), batches()]
    next(held[1])
    try:
      raise OSError("in TensorFlow")
    except OSError as error:
      raise raised from error

  with pytest.raises(ends_as) as caught:
    command_line.call_main(program, ["program.py"])
  assert caught.value is not None
  assert not living


# --------------------------------------------------------------------------
# The home folder


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("~", "/home/me"),
    ("~/a/b*.tfrecord", "/home/me/a/b*.tfrecord"),
    ("$HOME/a", "/home/me/a"),
    ("${HOME}/a", "/home/me/a"),
    ("a,~/b, $HOME/c,~", "a,/home/me/b, /home/me/c,/home/me"),
    # A comma that belongs to a name.
    (r"a\,~/b", r"a\,~/b"),
    ("./~/a", "./~/a"),
    ("a~/b", "a~/b"),
    ("~me/a", "~me/a"),
    ("$HOMES/a", "$HOMES/a"),
    ("/a/$HOME", "/a/$HOME"),
    ("gs://a/~/b", "gs://a/~/b"),
    ("", ""),
  ],
)
def test_the_home_folder_in_paths(monkeypatch, text, expected):
  monkeypatch.setenv("HOME", "/home/me")
  assert command_line.expand_home(text) == expected


def test_the_root_as_home_folder(monkeypatch):
  monkeypatch.setenv("HOME", "/")
  assert command_line.expand_home("~/a,$HOME/b") == "/a,/b"


@pytest.mark.parametrize("path", make_flags_page._programs())
def test_every_program_knows_the_home_folder(monkeypatch, path):
  monkeypatch.setenv("HOME", "/home/me")
  program = importlib.import_module(make_flags_page._module_name(path))
  with flagsaver.flagsaver():  # removes new flags at the end
    before = set(flags.FLAGS)
    program.define_flags()
    names = [
      name
      for name in set(flags.FLAGS) - before
      if flags.FLAGS[name].flag_type() == "string"
      and not hasattr(flags.FLAGS[name].parser, "enum_values")
    ]
    command_line.parse_flags(
      program.main, [path, *(f"--{name}=$HOME/a,~/b" for name in names)]
    )
    values = {flags.FLAGS[name].value for name in names}
  assert values <= {"/home/me/a,/home/me/b"}


def test_lists_and_words_without_a_flag(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  with flagsaver.flagsaver():
    flags.DEFINE_list("some_files", None, "")
    rest = command_line.parse_flags(
      lambda arguments: None, ["a", "~/b", "--some_files=~/c,d", "$HOME/e"]
    )
    assert rest == ["a", "/home/me/b", "/home/me/e"]
    assert flags.FLAGS.some_files == ["/home/me/c", "d"]


def test_without_a_home_folder(monkeypatch):
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  with flagsaver.flagsaver():
    flags.DEFINE_string("some_file", None, "")
    with pytest.raises(SystemExit) as caught:
      command_line.parse_flags(lambda: None, ["a", "--some_file=~/b"])
  assert caught.value.code == (
    "ERROR: Expected a home folder to replace ~ or $HOME in ~/b, found none."
    " Set HOME, or write the whole path."
  )
  assert command_line.expand_home("/a/b") == "/a/b"


def test_packages_that_are_missing_are_said_in_one_line():
  finished = run_python(
    "import sys\nsys.modules['absl'] = None\nimport command_line"
  )
  assert finished.returncode == 1
  assert finished.stderr.startswith("ERROR: Expected the packages of")
  assert finished.stderr.count("\n") == 1
  assert "found no absl. Use: pip install -r requirements" in finished.stderr
