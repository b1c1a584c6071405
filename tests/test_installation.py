"""Tests of `pip install .` and of the files in the Dockerfile's image."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import version


def test_pip_install_says_how_the_project_is_run(tmp_path):
  for name in ("pyproject.toml", "requirements"):
    copy = shutil.copytree if name == "requirements" else shutil.copy
    copy(REPOSITORY / name, tmp_path / name)
  pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]

  for editable in ([], ["--editable"]):
    result = subprocess.run(
      [*pip, f"--target={tmp_path}/target", *editable, str(tmp_path)],
      capture_output=True,
      text=True,
      check=False,
    )

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert (
      "Expected a package to install, received the YouTube-8M starter code,"
      " which runs from its checkout. Use: pip install -r requirements.txt"
    ) in lines
  assert not (tmp_path / "target").exists()


def test_the_version_is_one_that_python_knows_and_the_changelog_begins_with():
  assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", version.__version__)
  changelog = (REPOSITORY / "CHANGELOG.md").read_text()
  (newest, *_) = re.findall(r"^## \[?([\w.]+)", changelog, re.MULTILINE)
  is_development = ".dev" in version.__version__
  assert newest == ("Unreleased" if is_development else version.__version__)


def copy_into_image(folder) -> None:
  """Copies what `COPY . .` does: what .dockerignore excepts from `*`."""
  first, *lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
  assert first == "*"
  for line in lines:
    if not line.startswith("!"):
      assert line == "**/__pycache__"
      continue
    for path in REPOSITORY.glob(line.removeprefix("!")):
      target = folder / path.relative_to(REPOSITORY)
      target.parent.mkdir(exist_ok=True)
      if path.is_dir():
        shutil.copytree(
          path, target, ignore=shutil.ignore_patterns("__pycache__")
        )
      else:
        shutil.copy(path, target)


@pytest.mark.slow
def test_the_files_of_the_image_are_enough_to_train(tmp_path):
  app = tmp_path / "app"
  app.mkdir()
  copy_into_image(app)
  environment = os.environ | {"PYTHONPATH": "", "HOME": str(tmp_path)}

  log = subprocess.run(
    [
      sys.executable,
      "train.py",
      "--max_steps=1",
      f"--train_dir={tmp_path}/run",
    ],
    cwd=app,
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  ).stderr

  assert "training step 1 " in log
  assert not (app / "tests").exists()
