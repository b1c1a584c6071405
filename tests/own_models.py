"""Model files that tests write, as a user adds them to frame_models/."""

import importlib
import linecache
import sys
import textwrap

import pytest

import frame_models

_HEAD = '''"""A model of a user."""

import keras
from keras import ops

import models


class OwnModel(models.BaseModel):
  """A model of a user."""

'''


class OwnFile:
  """The file own_model.py, with a class OwnModel."""

  def __init__(self, folder):
    self.path = folder / "own_model.py"

  def write(self, body: str) -> None:
    """Writes the class with these methods, replacing the previous one."""
    self.forget()
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "  ")
    self.path.write_text(f"{_HEAD}{body}\n")

  def forget(self) -> None:
    """Lets Python import the file again."""
    sys.modules.pop("frame_models.own_model", None)
    importlib.invalidate_caches()
    linecache.clearcache()

  def line(self, text: str) -> int:
    """The number of the line with a text."""
    lines = self.path.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if text in line]
    return number

  def place(self, text: str) -> str:
    """The line with a text, as errors name it."""
    return f"{self.path}:{self.line(text)}"


@pytest.fixture
def own_file(tmp_path, monkeypatch):
  """An OwnFile among the files of frame_models/; --model=OwnModel names it."""
  folder = tmp_path / "own_models"
  folder.mkdir()
  monkeypatch.setattr(
    frame_models, "__path__", [*frame_models.__path__, str(folder)]
  )
  # Each test's file is compiled again, however soon it follows the last one.
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  file = OwnFile(folder)
  yield file
  file.forget()
  if hasattr(frame_models, "own_model"):
    del frame_models.own_model
