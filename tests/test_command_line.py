"""Tests of command_line: how a program is called and how it ends."""

import errno
import importlib
import itertools
import os
import re
import signal
import subprocess
import sys
import weakref

import in_process
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from conftest import REPOSITORY

import command_line
import errors
import stopping
import train
import training_flags
from docs import make_flags_page
from engine import schedules


def run_python(program, *arguments):
  """Runs a text as a program."""
  return subprocess.run(
    [sys.executable, "-c", program, *arguments],
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
# What is printed


@pytest.mark.parametrize(
  ("body", "arguments"),
  [("print('scores')", ()), ("pass", ("--version",)), ("pass", ("--help",))],
)
def test_output_that_cannot_be_written(body, arguments):
  program = (
    f"import command_line\ndef main():\n  {body}\ncommand_line.run(main)"
  )
  with open("/dev/full", "w") as full:
    ended = subprocess.run(
      [sys.executable, "-c", program, *arguments],
      cwd=REPOSITORY,
      env={**os.environ, "PYTHONUNBUFFERED": ""},  # written at the end
      stdout=full,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert ended.returncode == 1
  assert ended.stderr.startswith("ERROR: Expected room on the disk")
  assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("body", "arguments"),
  [
    ("print('score ' * 99999)", ()),
    ("print('scores')", ()),
    ("pass", ("--help",)),
  ],
)
def test_output_that_nobody_reads(body, arguments):
  program = (
    f"import command_line\ndef main():\n  {body}\ncommand_line.run(main)"
  )
  reads, writes = os.pipe()
  os.close(reads)
  ended = subprocess.run(
    [sys.executable, "-c", program, *arguments],
    cwd=REPOSITORY,
    env={**os.environ, "PYTHONUNBUFFERED": ""},
    stdout=writes,
    stderr=subprocess.PIPE,
    check=False,
  )
  os.close(writes)
  assert ended.returncode == 128 + signal.SIGPIPE
  assert not ended.stderr


def test_a_pipe_that_nobody_reads():
  """As one that is named by --output_file."""
  body = "os.write(pipe, b'scores')"
  program = (
    "import command_line, os\n"
    "reads, pipe = os.pipe()\nos.close(reads)\n"
    f"def main():\n  {body}\ncommand_line.run(main)"
  )
  ended = subprocess.run(
    [sys.executable, "-c", program],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 1
  assert ended.stderr.startswith("ERROR: Expected a program at the other end")


def test_closed_outputs_are_no_numbers_for_files(tmp_path):
  program = (
    "import command_line, os, sys\n"
    "def main():\n"
    "  with open('scores', 'w') as file:\n"
    "    assert file.fileno() > 2\n"
    "    print('out'); print('err', file=sys.stderr)\n"
    "    os.write(1, b'library'); os.write(2, b'library')\n"
    "    file.write('whole')\n"
    "command_line.run(main)"
  )
  ended = subprocess.run(
    ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    check=False,
  )
  assert ended.returncode == 0
  assert (tmp_path / "scores").read_text() == "whole"


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
  line = in_process.run_into_error("train", flag)
  name = flag.partition("=")[0]
  assert line == (
    f"ERROR: Expected values that the flags take, received {name}={expected}"
    " python train.py --help lists the flags."
  )


NUMBERS = (
  "nan",
  "inf",
  "-inf",
  "-1",
  "0",
  "1e308",
  "9223372036854775807",
  "9223372036854775808",
  "-9223372036854775809",
)


def try_numbers(program, use, *more):
  """Sets each number flag of a program to each of NUMBERS.

  Args:
    program: its module.
    use: called after a value was taken; may raise a UserError.
    *more: flags that are typed too.

  Returns:
    {(flag, number): the error, empty if there was none}.
  """
  found = {}
  with flagsaver.flagsaver():  # removes new flags at the end
    program.define_flags()
    getattr(program, "accept_flags", lambda: None)()
    modules = flags.FLAGS.flags_by_module_dict().items()
    names = {
      flag.name
      for module, defined in modules
      for flag in defined
      if not module.startswith("absl.") and flag.flag_type() in ("int", "float")
    }
    for name, number in itertools.product(sorted(names), NUMBERS):
      with flagsaver.flagsaver():
        error = ""
        try:
          command_line.parse_flags(
            program.main, ["a.py", *more, f"--{name}={number}"]
          )
          use()
          value = flags.FLAGS[name].value
          assert not isinstance(value, int) or abs(value) < 2**63
        except errors.UserError as caught:
          error = str(caught)
          assert f"--{name}" in error
          assert "\n" not in error
        found[name, number] = error
  return found


@pytest.mark.parametrize(
  "name",
  [
    "eval",
    "inference",
    "export_model",
    "export_model_mediapipe",
    "segment_eval_inference",
  ],
)
def test_every_number_is_taken_or_refused_in_one_line(name):
  found = try_numbers(importlib.import_module(name), lambda: None)
  for (flag, number), error in found.items():
    if number in ("nan", "inf", "-inf", "1e308"):
      assert error, (flag, number)


def test_every_number_of_training_is_taken_or_refused_in_one_line():
  def use():
    model_flags = training_flags.model_flags_from_flags()
    settings = training_flags.settings_from_flags(model_flags["model"])
    tf.constant(settings.seed, tf.int64)
    planned = settings.planned_examples(10**7, settings.step_examples(64))
    tf.constant(planned, tf.int64)
    zero = tf.constant(0, tf.int64)
    rate = schedules.learning_rate(zero, settings, tf.constant(planned))
    assert np.isfinite(float(rate))

  # It ends with a MoeModel.
  found = try_numbers(train, use, "--model=DbofModel")
  for flag, refused in {
    "seed": NUMBERS[-2:],
    "batch_size": ("-1", "0", *NUMBERS[-3:]),
    "learning_rate_decay": ("-1", "nan", "inf"),
    "clip_gradient_norm": ("-1", "nan", "inf", "1e308"),
    "regularization_penalty": ("-1", "nan", "1e308"),
    "num_classes": ("-1", "0", *NUMBERS[-3:]),
    "moe_num_mixtures": ("-1", "0", NUMBERS[-3]),
  }.items():
    for number in refused:
      assert found[flag, number], (flag, number)
  for flag in ("seed", "max_steps", "num_epochs", "warmup_examples"):
    assert not found[flag, NUMBERS[-3]], found[flag, NUMBERS[-3]]
  assert not found["seed", "-1"]


@pytest.mark.parametrize(
  ("program", "name"),
  [
    ("train", "train_dir"),
    ("eval", "train_dir"),
    ("inference", "train_dir"),
    ("inference", "output_file"),
    ("inference", "untar_model_dir"),
    ("export_model", "train_dir"),
    ("export_model_mediapipe", "output_dir"),
    ("segment_eval_inference", "submission_file"),
  ],
)
def test_a_path_that_is_empty(program, name):
  line = in_process.run_into_error(program, f"--{name}=")
  assert f"--{name}" in line


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
  assert finished.returncode == 2
  assert finished.stderr == "ERROR: Expected another model.\n"


@pytest.mark.parametrize(
  ("kind", "status"), [("UserError", 2), ("MachineError", 1)]
)
def test_a_traceback_on_request(kind, status):
  program = (
    "import command_line, errors\n"
    f"def main(): raise errors.{kind}('Expected more.')\n"
    "command_line.run(main)"
  )
  usual, asked = run_python(program), run_python(program, "--verbosity=1")
  assert usual.returncode == asked.returncode == status
  assert usual.stderr == "ERROR: Expected more.\n"
  line, *more = asked.stderr.splitlines()
  assert line == "ERROR: Expected more."
  assert more[0].startswith("Traceback")
  assert more[-1] == f"errors.{kind}: Expected more."


def test_a_bug_has_its_traceback():
  finished = run_python("import command_line\ncommand_line.run(lambda: 1 / 0)")
  assert finished.returncode == 1
  assert finished.stderr.startswith("Traceback")
  assert "ERROR" not in finished.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_flags_are_parsed(number):
  finished = run_python(
    "import os, time, command_line\n"
    "def stop(*_):\n"
    f"  os.kill(os.getpid(), {int(number)})\n"
    "  time.sleep(60)\n"
    "command_line.parse_flags = stop\n"
    "command_line.run(print)"
  )
  assert finished.returncode == 128 + number
  assert finished.stderr.startswith("Stopped by ")
  assert finished.stderr.count("\n") == 1


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
def ending_of(capsys):
  """Calls a main function as `run` does; returns its exit status and line."""
  level = tf.get_logger().level

  def call(main, *arguments):
    with pytest.raises(SystemExit) as ended:
      command_line.call_main(main, ["program.py", *arguments])
    return ended.value.code, capsys.readouterr().err.removesuffix("\n")

  yield call
  tf.get_logger().setLevel(level)


def raising(error):
  """A main function that raises an error."""

  def main():
    raise error

  return main


def test_a_users_error_is_one_line(ending_of):
  error = errors.UserError("Expected an even\n  number, received 3.")
  assert ending_of(raising(error)) == (
    2,
    "ERROR: Expected an even number, received 3.",
  )


def test_a_missing_file_is_one_line(ending_of):
  status, line = ending_of(lambda: tf.io.gfile.GFile("/missing/file").read())
  assert status == 2
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
    status, line = ending_of(main)
  assert status == 2
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
    assert ending_of(main) == (1, expected)
    error = tf.errors.InternalError(None, None, text)
    assert ending_of(raising(error)) == (1, expected)
    status, line = ending_of(raising(MemoryError()))
    assert status == 1
    assert "memory for a batch of 3 videos" in line


@pytest.mark.parametrize(
  ("error", "part"),
  [
    (errors.MachineError("Expected 2 machines, lost one."), "lost one"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk full"),
    (
      tf.errors.UnknownError(None, None, "a; Input/output error"),
      "for a, received an",
    ),
    (MemoryError("Unable to allocate 9 TiB"), "memory"),
    (
      tf.errors.ResourceExhaustedError(
        None, None, "OOM when allocating tensor with shape[9,9]"
      ),
      "memory",
    ),
  ],
)
def test_a_fault_of_the_machine_is_one_line(ending_of, error, part):
  status, line = ending_of(raising(error))
  assert status == 1
  assert line.startswith("ERROR: ")
  assert part in line
  assert "\n" not in line


def test_a_fault_of_the_machine_in_a_file_that_a_flag_names(ending_of):
  def main():
    with command_line.naming_flag("words"):
      raise OSError(errno.EIO, "Input/output error")

  with flagsaver.flagsaver():
    flags.DEFINE_string("words", "/broken", "")
    flags.FLAGS(["program.py"])
    status, line = ending_of(main)
  assert status == 1
  assert "a disk that works" in line


@pytest.fixture
def fresh_state(monkeypatch):
  """As if no signal had arrived."""
  monkeypatch.setattr(stopping, "_state", stopping._State())


def test_ctrl_c_has_its_own_exit_code(ending_of, fresh_state):
  assert ending_of(raising(KeyboardInterrupt())) == (130, "Stopped by Ctrl-C.")


def test_a_mistake_in_the_program_stays_as_it_is():
  with pytest.raises(ZeroDivisionError):
    command_line.call_main(lambda: 1 / 0, ["program.py"])


def test_an_argument_that_is_not_a_flag_is_refused(ending_of):
  status, line = ending_of(raising(AssertionError("did run")), "frame")
  assert status == 2
  assert line == (
    "ERROR: Expected flags only, received the argument 'frame'. Write flags as"
    " --name=value; a value with spaces needs quotes."
  )


def test_a_pattern_that_the_shell_has_replaced(ending_of, tmp_path):
  second = tmp_path / "b.mp4"
  second.touch()
  status, line = ending_of(raising(AssertionError("did run")), str(second))
  assert status == 2
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
def test_what_reads_data_is_gone_before_python_shuts_down(
  raised, ends_as, fresh_state
):
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
    with pytest.raises(errors.UserError) as caught:
      command_line.parse_flags(lambda: None, ["a", "--some_file=~/b"])
  assert str(caught.value) == (
    "Expected a home folder to replace ~ or $HOME in ~/b, found none."
    " Set HOME, or write the whole path."
  )
  assert command_line.expand_home("/a/b") == "/a/b"


def test_packages_that_are_missing_are_said_in_one_line():
  finished = run_python(
    "import sys\nsys.modules['absl'] = None\nimport command_line"
  )
  assert finished.returncode == 2
  assert finished.stderr.startswith("ERROR: Expected the packages of")
  assert finished.stderr.count("\n") == 1
  assert "found no absl. Use: pip install -r requirements" in finished.stderr
