"""Tests of startup: what a program prints and how it ends."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import weakref

import pytest

import startup  # isort: skip
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

import errors

REPOSITORY = pathlib.Path(__file__).parents[1]

# A TensorFlow that logs like the real one, bypassing Python's sys.stderr.
FAKE_TENSORFLOW = "import os\nos.write(2, b'native line\\n')\n"


def run_python(program, *arguments, **environment):
  """Runs a text as a program, see run_script."""
  return run_script("-c", program, *arguments, **environment)


def run_script(*arguments, **environment):
  """Runs Python with only the given settings, not those of this process."""
  settings = "TF_CPP_MIN_LOG_LEVEL KERAS_BACKEND KERAS_HOME PYTHONPATH"
  inherited = {
    name: value
    for name, value in os.environ.items()
    if name not in settings.split()
  }
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=REPOSITORY,
    env={**inherited, **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def run_main(body, *arguments):
  """Runs startup.run on a main function with the given lines."""
  lines = "\n".join(f"  {line}" for line in body.splitlines())
  return run_python(
    f"import startup, errors\ndef main():\n{lines}\nstartup.run(main)",
    *arguments,
  )


# --------------------------------------------------------------------------
# Importing


def test_importing_prints_nothing_and_computes_with_tensorflow():
  # XLA ends the process at a flag that it does not know.
  finished = run_python(
    "import startup, keras, os, tensorflow as tf\n"
    "double = tf.function(lambda x: 2 * x, jit_compile=True)\n"
    "assert int(double(tf.constant(2))) == 4\n"
    "assert keras.backend.backend() == 'tensorflow'\n"
    "assert os.environ['XLA_FLAGS'].startswith('--xla_cpu_max_isa=AVX2 --xla')",
    XLA_FLAGS="--xla_cpu_max_isa=AVX2",
  )
  assert (finished.stdout, finished.stderr) == ("", "")
  assert finished.returncode == 0


ANOTHER_BACKEND = (
  "ERROR: Expected tensorflow as Keras's backend, received {}. The programs"
  " compute on TensorFlow; only the models also run on others. Set"
  " KERAS_BACKEND=tensorflow.\n"
)


@pytest.mark.parametrize("program", ["train.py", "eval.py", "inference.py"])
def test_another_backend_is_refused_before_tensorflow_is_imported(
  program, tmp_path
):
  (tmp_path / "tensorflow.py").write_text("raise AssertionError")
  finished = run_script(
    program, KERAS_BACKEND="torch", PYTHONPATH=str(tmp_path)
  )
  assert finished.returncode == 1
  assert finished.stdout == ""
  assert finished.stderr == ANOTHER_BACKEND.format("KERAS_BACKEND=torch")


def test_another_backend_in_the_settings_of_keras(tmp_path):
  path = tmp_path / "keras.json"
  path.write_text('{"backend": "jax"}')
  finished = run_script("train.py", KERAS_HOME=str(tmp_path))
  assert finished.returncode == 1
  assert finished.stderr == ANOTHER_BACKEND.format(
    f'"backend": "jax" in {path}'
  )


@pytest.mark.parametrize(
  ("environment", "settings"),
  [
    ({}, "{}"),
    ({}, "no JSON"),
    ({"KERAS_BACKEND": ""}, '{"backend": "tensorflow"}'),
    ({"KERAS_BACKEND": "tensorflow"}, '{"backend": "jax"}'),
  ],
)
def test_tensorflow_and_no_backend_are_not_refused(
  tmp_path, environment, settings
):
  (tmp_path / "keras.json").write_text(settings)
  (tmp_path / "tensorflow.py").write_text("")
  finished = run_python(
    "import startup, os; print(os.environ['KERAS_BACKEND'])",
    KERAS_HOME=str(tmp_path),
    PYTHONPATH=str(tmp_path),
    **environment,
  )
  assert (finished.stdout, finished.stderr) == ("tensorflow\n", "")


def test_xla_takes_the_flags():
  finished = run_python(
    # TensorFlow ends the process at a flag that it does not know.
    "import startup, os, tensorflow as tf\n"
    "double = tf.function(lambda x: 2 * x, jit_compile=True)\n"
    "assert int(double(tf.constant(2))) == 4\n",
    XLA_FLAGS="--xla_cpu_max_isa=AVX2",
  )
  assert finished.returncode == 0


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("", "{name}=true"),
    ("--xla_cpu_max_isa=AVX2", "--xla_cpu_max_isa=AVX2 {name}=true"),
    ("{name}=false", "{name}=false"),
  ],
)
def test_xla_flags_of_the_user_stay(tmp_path, given, expected):
  name = "--xla_cpu_copy_insertion_use_region_analysis"
  (tmp_path / "tensorflow.py").write_text("")
  finished = run_python(
    "import startup, os\nprint(os.environ['XLA_FLAGS'])",
    PYTHONPATH=str(tmp_path),
    XLA_FLAGS=given.format(name=name),
  )
  assert finished.stdout.strip() == expected.format(name=name)
  assert finished.returncode == 0


def test_tensorflows_own_lines_are_shown_on_request():
  finished = run_python("import startup", TF_CPP_MIN_LOG_LEVEL="0")
  assert finished.returncode == 0
  assert "This TensorFlow binary is optimized" in finished.stderr


def test_the_log_of_an_import_is_hidden(tmp_path):
  (tmp_path / "tensorflow.py").write_text(FAKE_TENSORFLOW)
  finished = run_python(
    "import startup, sys; sys.stderr.write('own line\\n')",
    PYTHONPATH=str(tmp_path),
  )
  assert (finished.stdout, finished.stderr) == ("", "own line\n")
  assert finished.returncode == 0


def test_the_log_of_an_import_that_fails_is_shown(tmp_path):
  (tmp_path / "tensorflow.py").write_text(
    f"{FAKE_TENSORFLOW}raise ImportError('no such library')"
  )
  finished = run_python("import startup", PYTHONPATH=str(tmp_path))
  assert finished.stderr.startswith("native line\nTraceback")
  assert finished.stderr.endswith("ImportError: no such library\n")
  assert finished.returncode == 1


def test_ctrl_c_during_the_import(tmp_path):
  (tmp_path / "tensorflow.py").write_text(
    f"{FAKE_TENSORFLOW}import signal, time\n"
    "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
  )
  finished = run_python("import startup", PYTHONPATH=str(tmp_path))
  assert finished.returncode == 130
  assert finished.stderr == "Stopped by Ctrl-C.\n"


def test_ctrl_c_while_flags_are_parsed():
  finished = run_python(
    "import os, signal, startup\n"
    "startup.parse_flags = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
    "startup.run(print)"
  )
  assert finished.returncode == 130
  assert finished.stderr == "Stopped by Ctrl-C.\n"


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's"
)
def test_large_freed_blocks_are_kept(tmp_path):
  (tmp_path / "tensorflow.py").write_text("")
  # 64 MB are 16,384 pages, or 32 huge ones. The second time they exist already.
  program = (
    "import resource, numpy as np\n"
    "def faults():\n"
    "  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    "  np.ones(8 << 20)\n"
    "  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
    "print(faults(), faults())\n"
  )
  pages = run_python(program).stdout.split()
  assert int(pages[1]) >= 32
  pages = run_python(
    f"import startup\n{program}", PYTHONPATH=str(tmp_path)
  ).stdout.split()
  assert int(pages[0]) >= 32
  assert int(pages[1]) < 16


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
  """Calls a main function as startup.run does; returns what it ends with."""
  level = tf.get_logger().level

  def call(main, *arguments):
    with pytest.raises(SystemExit) as ended:
      startup.call_main(main, ["program.py", *arguments])
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
    with startup.naming_flag("words"):
      open("/missing")  # noqa: SIM115

  with flagsaver.flagsaver():
    flags.DEFINE_string("words", "/missing", "")
    flags.FLAGS(["program.py"])
    line = ending_of(main)
  assert "--words=/missing:" in line
  assert "\n" not in line


def test_ctrl_c_has_its_own_exit_code(ending_of, capsys):
  assert ending_of(raising(KeyboardInterrupt())) == 130
  assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_a_mistake_in_the_program_stays_as_it_is():
  with pytest.raises(ZeroDivisionError):
    startup.call_main(lambda: 1 / 0, ["program.py"])


def test_an_argument_that_is_not_a_flag_is_refused(ending_of):
  line = ending_of(raising(AssertionError("did run")), "frame")
  assert line == (
    "ERROR: Expected flags only, received the argument 'frame'. Write flags as"
    " --name=value; a value with spaces needs quotes."
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
    startup.call_main(program, ["program.py"])
  assert caught.value is not None
  assert not living
