"""Tests of stopping: how Ctrl-C and SIGTERM end a program."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from conftest import (
  PATIENCE_SECONDS,
  REPOSITORY,
  VIDEO_DATA_FLAGS,
  Program,
)

import stopping

pytestmark = pytest.mark.usefixtures("hears_hangup")

LINES = {
  signal.SIGINT: "Stopped by Ctrl-C.\n",
  signal.SIGTERM: "Stopped by SIGTERM.\n",
  signal.SIGHUP: "Stopped by SIGHUP: the terminal was closed.\n",
}
ALL = pytest.mark.parametrize("number", list(LINES))


# --------------------------------------------------------------------------
# In this process


@pytest.fixture
def ended(monkeypatch, tmp_path):
  """What a program ended with: its exit status, and what it said."""
  found = []
  monkeypatch.setattr(stopping, "_state", stopping._State())
  with (tmp_path / "said").open("w+") as file:
    stopping.speak_to(file.fileno())

    def leave(status):
      file.seek(0)
      found.append((status, file.read()))
      raise SystemExit  # so that it does not go on

    monkeypatch.setattr(os, "_exit", leave)
    yield found


@ALL
def test_a_signal_ends_a_program_that_does_not_work_yet(ended, number):
  with pytest.raises(SystemExit):
    stopping.handle(number, None)
  assert ended == [(128 + number, LINES[number])]


@ALL
def test_a_second_signal_ends_a_program_that_cleans_up(ended, number):
  with stopping.raising():
    with pytest.raises(KeyboardInterrupt):
      stopping.handle(number, None)
    assert stopping.received() == number
    stopping.handle(number, None)  # at once: the same, sent twice
    assert not ended
    stopping._state.received_at -= 1.0
    with pytest.raises(SystemExit):
      stopping.handle(signal.SIGINT, None)
  assert ended == [(130, LINES[signal.SIGINT])]


def test_a_terminal_may_say_more_than_once_that_it_was_closed(ended):
  with stopping.raising():
    with pytest.raises(KeyboardInterrupt):
      stopping.handle(signal.SIGHUP, None)
    stopping._state.received_at -= 1.0
    stopping.handle(signal.SIGHUP, None)
    assert not ended
    with pytest.raises(SystemExit):
      stopping.handle(signal.SIGTERM, None)


def test_the_line_is_said_once(ended):
  assert stopping.line_to_say(signal.SIGINT) == LINES[signal.SIGINT]
  with pytest.raises(SystemExit):
    stopping.end_now(signal.SIGINT)
  assert ended == [(130, "")]


def test_a_signal_after_the_work_ends_a_program(ended):
  with stopping.raising():
    pass
  with pytest.raises(SystemExit):
    stopping.handle(signal.SIGTERM, None)
  assert ended == [(143, LINES[signal.SIGTERM])]


def test_threads_of_a_stopped_program_say_nothing(ended, monkeypatch):
  said = []
  monkeypatch.setattr(threading, "__excepthook__", said.append)
  problem = types.SimpleNamespace()
  stopping._hush_if_stopped(problem)
  assert said == [problem]
  stopping._state.received = signal.SIGINT
  stopping._hush_if_stopped(problem)
  assert len(said) == 1


@pytest.mark.parametrize(
  ("path", "expected"),
  [
    ("train.py", True),
    ("data_tools/sample_data.py", True),
    ("reports/frameworks/worker.py", True),
    ("tests/conftest.py", False),
    (".venv/bin/pytest", False),
    ("venv/lib/site-packages/pytest/__main__.py", False),
    ("../own.py", False),
    (None, False),
  ],
)
def test_only_programs_of_this_project_get_handlers(
  monkeypatch, path, expected
):
  main = types.ModuleType("__main__")
  main.__file__ = path and os.path.join(REPOSITORY, path)
  monkeypatch.setitem(sys.modules, "__main__", main)
  assert stopping._is_program() == expected
  # These tests are none.
  assert signal.getsignal(signal.SIGTERM) != stopping.handle


# --------------------------------------------------------------------------
# Programs without TensorFlow


def run_python(*arguments, **environment):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=REPOSITORY,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
    timeout=PATIENCE_SECONDS,
  )


def run_main(body):
  """Runs command_line.run on a function of the given lines."""
  lines = "\n".join(f"  {line}" for line in body.splitlines())
  return run_python(
    "-c",
    "import command_line, os, signal, sys, threading, time\n"
    "def send(number): os.kill(os.getpid(), number)\n"
    f"def main():\n{lines}\n"
    "command_line.run(main)",
  )


@ALL
@pytest.mark.parametrize(
  "program", ["train.py", "eval.py", "inference.py", "export_model.py"]
)
def test_a_signal_while_tensorflow_is_imported(tmp_path, program, number):
  (tmp_path / "tensorflow.py").write_text(
    "import os, time\n"
    "os.write(2, b'native line\\n')\n"
    f"os.kill(os.getpid(), {int(number)})\n"
    "time.sleep(60)"
  )
  done = run_python(program, PYTHONPATH=str(tmp_path), KERAS_BACKEND="")
  assert (done.stdout, done.stderr) == ("", LINES[number])
  assert done.returncode == 128 + number


def test_a_signal_while_the_packages_are_imported(tmp_path):
  (tmp_path / "absl.py").write_text(
    f"import os, time\nos.kill(os.getpid(), {int(signal.SIGTERM)})\n"
    "time.sleep(60)"
  )
  done = run_python("-m", "data_tools.download", PYTHONPATH=str(tmp_path))
  assert (done.returncode, done.stderr) == (143, LINES[signal.SIGTERM])


@ALL
def test_a_program_that_works_cleans_up(number):
  done = run_main(
    f"try:\n  send({int(number)})\n  time.sleep(60)\nfinally:\n  print('clean')"
  )
  assert (done.stdout, done.stderr) == ("clean\n", LINES[number])
  assert done.returncode == 128 + number


def test_a_second_signal_while_it_cleans_up():
  done = run_main(
    "try:\n  send(2)\n  time.sleep(60)\n"
    "finally:\n  time.sleep(0.5)\n  send(2)\n  time.sleep(60)"
  )
  assert (done.returncode, done.stderr) == (130, LINES[signal.SIGINT])


@pytest.mark.parametrize(
  "body",
  [
    # Python only reports what is raised here.
    "class Held:\n  def __del__(self): send(15)\nheld = Held()\ndel held\n"
    "time.sleep(60)",
    # As libraries turn it into errors of their own.
    "try:\n  send(15)\n  time.sleep(60)\n"
    "except BaseException as error:\n"
    "  raise ImportError('no module') from error",
    # A thread is not waited for.
    "threading.Thread(target=time.sleep, args=(60,)).start()\nsend(15)\n"
    "time.sleep(60)",
  ],
)
def test_wherever_it_arrives(body):
  began = time.monotonic()
  done = run_main(body)
  assert (done.returncode, done.stderr) == (143, LINES[signal.SIGTERM])
  assert time.monotonic() - began < 50


def test_a_library_that_cannot_remove_a_file_at_the_end():
  done = run_main("import atexit\natexit.register(os.remove, '/nowhere/a')")
  assert done.returncode == 0
  assert done.stderr == (
    "WARNING: [Errno 2] No such file or directory: '/nowhere/a'.\n"
  )


def test_what_is_ignored_stays_ignored():
  done = run_python(
    "-c",
    "import os, signal\nsignal.signal(2, signal.SIG_IGN)\nimport command_line\n"
    "command_line.run(lambda: print(os.kill(os.getpid(), 2)))",
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


@ALL
def test_a_library_that_does_not_return(number):
  # It waits for a lock that it holds, which no signal interrupts.
  began = time.monotonic()
  done = run_main(
    "import stopping\n"
    "stopping._PATIENCE_SECONDS = 1.0\n"
    f"threading.Timer(1.0, send, [{int(number)}]).start()\n"
    "import ctypes\n"
    "lock = ctypes.CDLL(None).pthread_mutex_lock\n"
    "mutex = ctypes.create_string_buffer(64)\n"
    "lock(mutex)\n"
    "lock(mutex)"
  )
  assert (done.returncode, done.stderr) == (128 + number, LINES[number])
  assert time.monotonic() - began < 50


def test_a_signal_that_is_sent_twice_at_once():
  done = run_main(
    "try:\n  send(15)\n  time.sleep(60)\nfinally:\n  send(15)\n  print('clean')"
  )
  assert (done.stdout, done.stderr) == ("clean\n", LINES[signal.SIGTERM])
  assert done.returncode == 143


def test_helpers_of_multiprocessing_end_silently(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(
    "import stopping, multiprocessing, os, sys, time\n"
    "def work():\n"
    "  os.kill(os.getpid(), 2)\n"
    "  time.sleep(60)\n"
    "if __name__ == '__main__':\n"
    "  helper = multiprocessing.get_context('spawn').Process(target=work)\n"
    "  helper.start()\n"
    "  helper.join()\n"
    "  print(helper.exitcode)\n"
  )
  done = run_python(str(script), PYTHONPATH=str(REPOSITORY))
  assert (done.stdout, done.stderr) == ("-2\n", "")


# --------------------------------------------------------------------------
# Whole programs


def has_handlers(program) -> bool:
  """Whether a process catches SIGTERM by now."""
  with open(f"/proc/{program._process.pid}/status") as file:
    (caught,) = [line for line in file if line.startswith("SigCgt:")]
  return bool(int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 1.5, 4.0, 7.0, 12.0])
@pytest.mark.parametrize("name", ["train", "eval", "inference", "export_model"])
def test_at_any_moment(data_dir, video_run, tmp_path, name, seconds):
  number = signal.SIGTERM if seconds in (1.5, 7.0) else signal.SIGINT
  train_dir = shutil.copytree(video_run[0], tmp_path / "model")
  data = data_dir / "video"
  flags = {
    "train": [
      f"--train_dir={tmp_path}/new",
      f"--train_data_pattern={data}/train*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=7",
      "--num_epochs=0",
    ],
    "eval": [
      f"--train_dir={train_dir}",
      f"--eval_data_pattern={data}/validate*.tfrecord",
    ],
    "inference": [
      f"--train_dir={train_dir}",
      f"--input_data_pattern={data}/test*.tfrecord",
      f"--output_file={tmp_path}/out.csv",
    ],
    "export_model": [
      f"--train_dir={train_dir}",
      f"--input_data_pattern={data}/test*.tfrecord",
      f"--output_dir={tmp_path}/export",
    ],
  }[name]
  with Program(tmp_path / "log", f"{name}.py", *flags) as program:
    program.wait_for(lambda: has_handlers(program))
    time.sleep(seconds)
    program.send_signal(number)
    status = program.wait_for_end()
    log = program.log
  assert "Traceback" not in log
  if status == 0:  # it has saved, or was done before
    assert f"Received {number.name}" in log or "Stopped" not in log
    return
  if status == -number:  # it was done, and Python was ending
    assert "Predictions: " in log or "videos/s" in log, log
    return
  assert status == 128 + number
  assert log.endswith(LINES[number])
  assert log.count("Stopped by") == 1
