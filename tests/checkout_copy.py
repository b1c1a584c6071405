"""Copies of the checkout that tests patch and run programs in."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]

# Runs in the copy, as one process: programs, then tests. Each run of a program
# is [whether it must fail with one line, program, *flags].
_SCRIPT = """
import json, sys
import in_process

for must_fail, *command in json.loads(sys.argv[1]):
  call = in_process.run_into_error if must_fail else in_process.run
  print(call(*command))
if arguments := json.loads(sys.argv[2]):
  import pytest
  sys.exit(pytest.main(["-q", "-n0", "-p", "no:cacheprovider", *arguments]))
"""


def _git(folder, *arguments) -> str:
  return subprocess.run(
    ["git", *arguments],
    cwd=folder,
    capture_output=True,
    text=True,
    check=True,
  ).stdout


class CheckoutCopy:
  """A copy of the files that git tracks, with an index of them.

  Args:
    folder: where to make it.
  """

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    listed = _git(
      REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    )
    for path in listed.rstrip("\0").split("\0"):
      source, target = REPOSITORY / path, self.folder / path
      if source.is_file():  # not deleted since
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    _git(self.folder, "init", "--quiet")
    _git(self.folder, "add", "--all")

  def apply(self, patch: str) -> None:
    """Applies a patch as `git diff` writes it."""
    finished = subprocess.run(
      ["git", "apply", "-"],
      cwd=self.folder,
      input=patch,
      capture_output=True,
      text=True,
      check=False,
    )
    assert finished.returncode == 0, f"{finished.stderr}\n{patch}"

  def changes(self) -> dict[str, tuple[int, int]]:
    """{path: (lines added, lines removed)} of all that was changed."""
    _git(self.folder, "add", "--intent-to-add", "--all")
    lines = _git(self.folder, "diff", "--numstat").splitlines()
    return {
      path: (int(added), int(removed))
      for added, removed, path in (line.split("\t") for line in lines)
    }

  def run_python(self, *arguments) -> subprocess.CompletedProcess:
    """Runs `python <arguments>` in the copy, its output as text."""
    environment = {
      name: value
      for name, value in os.environ.items()
      if name not in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")
      and not name.startswith("PYTEST_")
    }
    return subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=self.folder,
      env={**environment, "PYTHONPATH": str(self.folder / "tests")},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )

  def run(self, commands, tests=()) -> str:
    """Runs programs, then tests, in one process; all must succeed.

    Args:
      commands: of each program [whether it must end with one line that says
        what is wrong, its module, *its flags].
      tests: arguments of pytest; none to run no tests.

    Returns:
      The output; for programs that must fail, only the line.
    """
    finished = self.run_python(
      "-c", _SCRIPT, json.dumps(commands), json.dumps(tests)
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout

  def check_style(self) -> None:
    """Runs the linter over the files that were changed."""
    changed = [path for path in self.changes() if path.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
      finished = self.run_python("-m", "ruff", *command, *changed)
      assert finished.returncode == 0, finished.stdout
