"""Writes docs/flags.md from the flags of the programs: `make docs`.

Nothing is listed here. A program is a file with a function define_flags, at the
root or in a folder of it; all other flags are those that the model files and
losses.py define when imported.
"""

import startup  # isort: skip # noqa: F401

import importlib
import inspect
import pathlib
import re
import sys

from absl import flags
from absl.testing import flagsaver

import losses  # noqa: F401
import models

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "flags.md"

# The first sections, in this order; others follow by name.
_FIRST = (
  "train.py",
  "video_level_models.py",
  "frame_level_models.py",
  "frame_models/",
  "losses.py",
  "eval.py",
  "inference.py",
  "segment_eval_inference.py",
  "export_model.py",
  "export_model_mediapipe.py",
)

_INTRODUCTION = """# Flags

`make docs` writes this page from the help of the programs; edit the help
instead. A boolean flag is turned off by `--noNAME` or `--NAME=False`; an empty
default is an empty string, or what the meaning says. train.py also takes the
flags of the model files and of losses.py. The model_flags.json of a run keeps
those that it was trained with. A path or a pattern may begin with `~` or
`$HOME`, in quotes too.
"""


def _programs() -> list[str]:
  """The paths of files that define flags in a function, from the root."""
  paths = [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")]
  return [
    path.relative_to(ROOT).as_posix()
    for path in paths
    if "tests" not in path.parts
    and re.search(r"^def define_flags\(", path.read_text(), re.MULTILINE)
  ]


def _module_name(path: str) -> str:
  return path.removesuffix(".py").replace("/", ".")


def _flags_of_imports() -> dict[str, list[flags.Flag]]:
  """The flags that files of this project define when imported, by path."""
  found = {}
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    path = pathlib.Path(getattr(sys.modules.get(name), "__file__", None) or "")
    # The root may contain an environment.
    if ROOT in path.parents and "site-packages" not in path.parts and defined:
      found[path.relative_to(ROOT).as_posix()] = defined
  return found


def _flags_of_program(path: str) -> list[flags.Flag]:
  """The flags of a program, without those that exist already."""
  program = importlib.import_module(_module_name(path))
  with flagsaver.flagsaver():  # removes new flags at the end
    before = set(flags.FLAGS)
    program.define_flags()
    return [flags.FLAGS[name] for name in set(flags.FLAGS) - before]


def _row(flag: flags.Flag) -> str:
  default = (flag.default_as_str or "").strip("'")
  default = f"`{default}`" if default else ""
  # absl begins an enum's help with <its|values>: .
  meaning = " ".join((flag.help or "").split())
  meaning = meaning.replace("<|", "<empty|").replace("|", "\\|")
  return f"| --{flag.name} | {default} | {meaning} |"


def _place(path: str) -> tuple[int, str]:
  """The sort key of a section."""
  for place, first in enumerate(_FIRST):
    if path.startswith(first):
      return place, path
  return len(_FIRST), path


def _section(path: str, found: list[flags.Flag]) -> str:
  """The heading, the first line of the file's docstring, and the table."""
  docstring = inspect.getdoc(sys.modules[_module_name(path)]) or ""
  summary = docstring.partition("\n")[0]
  rows = [_row(flag) for flag in sorted(found, key=lambda flag: flag.name)]
  table = "\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])
  return f"\n## {path}\n\n{summary}\n\n{table}\n"


def make_page() -> str:
  """Returns the content that docs/flags.md should have."""
  models.import_model_files()
  of_programs = {path: _flags_of_program(path) for path in _programs()}
  sections = _flags_of_imports() | of_programs
  return _INTRODUCTION + "".join(
    _section(path, sections[path]) for path in sorted(sections, key=_place)
  )


if __name__ == "__main__":
  PAGE.write_text(make_page())
