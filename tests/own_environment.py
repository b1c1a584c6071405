"""Runs tests whose libraries do not go together with those of the others."""

import pathlib
import subprocess
import sys

import pytest


def run_slow_tests(environment: str, path: str) -> None:
  """Runs the slow tests of a file, but for the one that calls this.

  That one has "in_an_environment" in its name.

  Args:
    environment: name of a folder in the environment of this process, which
      `make test-slow` makes.
    path: of the file.
  """
  folder = pathlib.Path(sys.prefix) / environment
  if not (folder / ".installed-tests").exists():
    pytest.skip(f"{folder} is missing; `make test-slow` makes it")
  options = ["-m", "slow", "-k", "not in_an_environment", path]
  done = subprocess.run(
    # What is in conftest.py needs more libraries.
    [folder / "bin" / "python", "-m", "pytest", "--noconftest", "-q", *options],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "skipped" not in done.stdout
