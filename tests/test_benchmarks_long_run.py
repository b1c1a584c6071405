"""Tests of benchmarks/long_run.py."""

import json
import os
import subprocess
import sys

import pytest
from conftest import run_program

from benchmarks import long_run, memory


@pytest.mark.slow
def test_three_programs_for_a_minute(tmp_path):
  """Half of a minute they only start, so nothing is said about growth."""
  picture = tmp_path / "picture.svg"
  log = run_program(
    "-m",
    "benchmarks.long_run",
    "--minutes=1",
    "--most_growth=1000",
    f"--output={picture}",
    patience=600,
  )
  figures = json.loads(log.strip().splitlines()[-1])
  for name in long_run.PROGRAMS:
    assert figures[name]["memory_mib"] > 50
    assert figures[name]["files"] > 3
  assert picture.read_text().count("TensorBoard") >= 1


def test_growth_is_that_of_the_last_quarter():
  watched = long_run.Watched(None, "")
  assert watched.growth([1, 5, 7, 7, 9, 9, 10, 12]) == 11 - 9
  assert watched.growth([9] * 8) == 0
  assert watched.growth([3, 4]) == 1


def test_memory_and_files_of_a_process_and_its_children(tmp_path):
  """A shell with a file open, whose child has two."""
  script = (
    "import subprocess, sys, os; f = [open(os.devnull) for _ in range(4)];"
    "p = subprocess.Popen([sys.executable, '-c', 'print(1); input()'],"
    " stdin=subprocess.PIPE, stdout=subprocess.PIPE); p.stdout.readline();"
    "print(p.pid, flush=True); input()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", script],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as process:
    child = int(process.stdout.readline())
    assert memory.with_children(process.pid) == [process.pid, child]
    # Of Python, the three files that each has, four more and two pipes.
    assert memory.open_files(process.pid) == 3 + 4 + 2
    assert memory.open_files(child) == 3
    assert 1 < memory.memory_mib(child) <= memory.peak_mib(child)
    process.stdin.write(b"\n")
  assert memory.open_files(process.pid) == 0
  assert memory.memory_mib(process.pid) == 0.0
  assert memory.open_files(os.getpid()) > 3
