"""Tests of engine.stop_signals; stopping.py and loop.py test what they do."""

import os
import signal
import subprocess
import sys

from conftest import REPOSITORY

from engine import stop_signals


def test_what_says_nothing_new():
  assert stop_signals.is_repeated(signal.SIGINT, 0.1)
  assert not stop_signals.is_repeated(signal.SIGINT, 1.0)
  assert stop_signals.is_repeated(signal.SIGHUP, 1.0)


def test_lines_for_a_closed_terminal_go_nowhere():
  leader, follower = os.openpty()
  code = (
    "import sys\n"
    "from engine import stop_signals\n"
    "sys.stdin.read()\n"  # until the terminal is closed
    "stop_signals.leave_terminal()\n"
    "print('out', flush=True)\n"
    "print('err', file=sys.stderr, flush=True)\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code],
    cwd=REPOSITORY,
    stdin=subprocess.PIPE,
    stdout=follower,
    stderr=follower,
  ) as program:
    os.close(follower)
    os.close(leader)
    program.stdin.close()
    assert program.wait(60) == 0


def test_a_file_goes_on_to_be_written(tmp_path):
  with (tmp_path / "log").open("w") as log:
    subprocess.run(
      [
        *(sys.executable, "-c"),
        "from engine import stop_signals\n"
        "stop_signals.leave_terminal()\nprint('written')",
      ],
      cwd=REPOSITORY,
      stdout=log,
      check=True,
    )
  assert (tmp_path / "log").read_text() == "written\n"
