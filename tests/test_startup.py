"""Tests of startup: what a program prints and how it ends."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]

# A TensorFlow that logs as the real one does, past Python's sys.stderr.
FAKE_TENSORFLOW = "import os\nos.write(2, b'native line\\n')\n"


def run_python(program, *arguments, **environment):
  """Runs a program with none of this process's settings but those given."""
  inherited = {
    name: value
    for name, value in os.environ.items()
    if name not in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "PYTHONPATH")
  }
  return subprocess.run(
    [sys.executable, "-c", program, *arguments],
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
    f"import startup\ndef main():\n{lines}\nstartup.run(main)", *arguments
  )


# --------------------------------------------------------------------------
# Importing


def test_importing_prints_nothing_and_computes_with_tensorflow():
  finished = run_python(
    "import startup, keras, tensorflow as tf\n"
    "assert int(tf.constant(1) + 1) == 2\n"
    "assert keras.backend.backend() == 'tensorflow'\n",
    KERAS_BACKEND="jax",
  )
  assert (finished.stdout, finished.stderr) == ("", "")
  assert finished.returncode == 0


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("", "{name}=true"),
    ("--xla_cpu_max_isa=AVX2", "--xla_cpu_max_isa=AVX2 {name}=true"),
    ("{name}=false", "{name}=false"),
  ],
)
def test_xla_flags_of_the_user_stay(given, expected):
  name = "--xla_cpu_copy_insertion_use_region_analysis"
  finished = run_python(
    # TensorFlow ends the process at a flag that it does not know.
    "import startup, os, tensorflow as tf\n"
    "double = tf.function(lambda x: 2 * x, jit_compile=True)\n"
    "assert int(double(tf.constant(2))) == 4\n"
    "print(os.environ['XLA_FLAGS'])\n",
    XLA_FLAGS=given.format(name=name),
  )
  assert finished.stdout.strip() == expected.format(name=name)
  assert finished.returncode == 0


def test_tensorflows_own_lines_are_there_for_who_asks():
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


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's"
)
def test_large_freed_blocks_are_kept(tmp_path):
  (tmp_path / "tensorflow.py").write_text("")
  # 64 MB are 16,384 pages, or 32 huge ones. The second time they are there.
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
  assert finished.stderr.endswith("] epoch 3\n")
  assert finished.stderr.count("\n") == 1


def test_a_users_error_is_one_line():
  finished = run_main(
    "raise startup.UserError('Expected an even\\n  number, received 3.')"
  )
  assert finished.returncode == 1
  assert finished.stderr == "ERROR: Expected an even number, received 3.\n"
  assert finished.stdout == ""


def test_after_a_users_error_tensorflow_has_no_last_word():
  # It warns when Python ends, if a checkpoint did not fit the model.
  finished = run_main(
    "import atexit, tensorflow as tf\n"
    "atexit.register(tf.get_logger().warning, 'not restored')\n"
    "raise startup.UserError('Expected another model.')"
  )
  assert finished.returncode == 1
  assert finished.stderr == "ERROR: Expected another model.\n"


def test_a_missing_file_is_one_line():
  finished = run_main(
    "import tensorflow as tf\ntf.io.gfile.GFile('/missing/file').read()"
  )
  assert finished.returncode == 1
  assert finished.stderr.startswith("ERROR: ")
  assert "/missing/file" in finished.stderr
  assert "No such file or directory" in finished.stderr
  assert finished.stderr.count("\n") == 1


def test_a_missing_file_that_a_flag_names():
  finished = run_main(
    "from absl import flags\nflags.DEFINE_string('words', '/missing', '')\n"
    "with startup.naming_flag('words'):\n"
    "  open(flags.FLAGS['words'].value)"
  )
  assert finished.returncode == 1
  assert "--words=/missing:" in finished.stderr
  assert finished.stderr.count("\n") == 1


def test_a_mistake_in_the_program_keeps_its_traceback():
  finished = run_main("1 / 0")
  assert finished.returncode == 1
  assert finished.stderr.startswith("Traceback")
  assert finished.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_an_argument_that_is_no_flag_is_refused():
  finished = run_main("print('did run')", "frame")
  assert finished.returncode == 1
  assert finished.stdout == ""
  assert finished.stderr == (
    "ERROR: Expected flags only, received the argument 'frame'. Write flags as"
    " --name=value; a value with blanks needs quotes.\n"
  )


def test_ctrl_c():
  finished = run_main(
    "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"
    "time.sleep(60)"
  )
  assert finished.returncode == 130
  assert finished.stderr == "Stopped by Ctrl-C.\n"
