"""Tests of startup: what a program sets and prints before it runs."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

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
  assert finished.returncode == 2
  assert finished.stdout == ""
  assert finished.stderr == ANOTHER_BACKEND.format("KERAS_BACKEND=torch")


def test_another_backend_in_the_settings_of_keras(tmp_path):
  path = tmp_path / "keras.json"
  path.write_text('{"backend": "jax"}')
  finished = run_script("train.py", KERAS_HOME=str(tmp_path))
  assert finished.returncode == 2
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


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_little_memory_for_tensorflow_is_one_line():
  finished = subprocess.run(
    ["sh", "-c", f"ulimit -v 600000; exec '{sys.executable}' eval.py"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.stdout == ""
  (line,) = finished.stderr.splitlines()
  assert line.startswith("ERROR: Expected memory for TensorFlow's libraries")
  assert finished.returncode == 1


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
