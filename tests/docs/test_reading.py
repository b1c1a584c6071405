"""Runs the examples of docs/reading.md where TensorFlow is not installed."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import DATA_SETTINGS, PATIENCE_SECONDS, REPOSITORY

PAGE = (REPOSITORY / "docs" / "reading.md").read_text()


def example(library) -> str:
  """The page's example that imports a library."""
  blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  (found,) = [
    block
    for block in blocks
    if re.search(rf"^import {library}\b", block, re.MULTILINE)
  ]
  return found


def run(python, program, folder, **environment) -> str:
  """Runs a Python program in a folder; returns what it prints."""
  paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
  done = subprocess.run(
    [python, program],
    cwd=folder,
    env={
      **os.environ,
      "PYTHONPATH": os.pathsep.join(paths),
      "CUDA_VISIBLE_DEVICES": "",
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=PATIENCE_SECONDS,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def python_with(library) -> pathlib.Path:
  """The Python of a library's environment, see test_backends.py."""
  python = pathlib.Path(sys.prefix) / library / "bin" / "python"
  message = f"{python} is missing; `make test-backends` makes it"
  if python.exists():
    found = subprocess.run(
      [python, "-c", "import crc32c"], capture_output=True, check=False
    )
    if not found.returncode:
      return python
    message = f"{python} has no crc32c; `make test-backends` installs it"
  if library in os.environ.get("YT8M_BACKENDS", "").split():
    pytest.fail(message)
  pytest.skip(message)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("library", "num_features"), [("jax", 1152), ("torch", 1024)]
)
def test_an_example_reads_every_video(
  library, num_features, data_dir, tmp_path
):
  program = tmp_path / "example.py"
  code = example(library)
  assert code.count("3862") == 1
  program.write_text(code.replace("3862", str(DATA_SETTINGS.num_classes)))

  printed = run(
    python_with(library), program, data_dir, XDG_CACHE_HOME=str(tmp_path)
  )

  shapes = [
    list(map(int, re.findall(r"\d+", line))) for line in printed.splitlines()
  ]
  videos = sum(shape[0] for shape in shapes)
  assert videos == DATA_SETTINGS.num_videos
  for first, size, second, classes in shapes:
    assert first == second <= 16
    assert size == num_features
    assert classes == DATA_SETTINGS.num_classes
  assert list((tmp_path / "yt8m").glob("*.records"))


def test_records_import_neither_tensorflow_nor_keras(tmp_path):
  modules = [
    f"records.{path.stem}"
    for path in (REPOSITORY / "records").glob("*.py")
    if path.stem != "__init__"
  ]
  assert len(modules) >= 4
  program = tmp_path / "imports.py"
  program.write_text(
    f"import sys, {', '.join(modules)}\n"
    "print({'tensorflow', 'keras', 'absl'} & sys.modules.keys())\n"
  )
  assert run(sys.executable, program, tmp_path) == "set()\n"


def test_every_kind_of_bad_record_is_on_the_page():
  paths = subprocess.run(
    ["git", "ls-files", "*.py", ":!tests"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  kinds = set()
  for path in paths:
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text())):
      if isinstance(node, ast.Call) and "BadRecordError" in ast.unparse(
        node.func
      ):
        kinds.add(ast.literal_eval(node.args[0]))
  listed = set(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE))
  assert listed == kinds
