"""The rooms of the code, and what each may import.

Imports go one way: programs -> engine -> readers, models, losses, metrics ->
records, layers -> errors, quantization. The path of a file decides its room, so
a new file follows the rules of its folder. A file or folder that is not listed
is a program.
"""

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 80

TRACKED = sorted(
  subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
)
PRODUCT = [
  path
  for path in TRACKED
  if not path.startswith("tests/") and (REPOSITORY / path).exists()
]

# Room of each file at the root; for the others the first folder is the room.
ROOM_OF_FILE = {
  "errors.py": "errors",
  "quantization.py": "quantization",
  "version.py": "version",
  "readers.py": "readers",
  "models.py": "models",
  "video_level_models.py": "model files",
  "frame_level_models.py": "model files",
  "losses.py": "losses",
  "eval_util.py": "metrics",
  "ranking.py": "metrics",
  "requested_metrics.py": "metrics",
  "average_precision_calculator.py": "metrics",
  "mean_average_precision_calculator.py": "metrics",
  "program_flags.py": "help of programs",
  "input_flags.py": "help of programs",
  "training_flags.py": "help of programs",
  "command_line.py": "help of programs",
  "startup.py": "help of programs",
  "stopping.py": "help of programs",
}
ROOM_OF_FOLDER = {
  "frame_models": "model files",
  "layers": "layers",
  "records": "records",
  "engine": "engine",
  "media": "media",
  "requirements": "requirements",
}

# The rooms that each room may import from. Programs and their help may import
# everything.
LOWEST = {"errors", "quantization", "version"}
MAY_IMPORT = {
  "errors": set(),
  "quantization": set(),
  "version": set(),
  "requirements": set(),
  "records": LOWEST | {"records"},
  "layers": LOWEST | {"layers"},
  "media": LOWEST | {"media", "records"},
  "readers": LOWEST | {"records"},
  "metrics": LOWEST | {"metrics"},
  "losses": LOWEST | {"layers"},
  # Of the model files, models.py imports the folder, to find what is in it.
  "models": LOWEST | {"layers", "model files"},
  "model files": LOWEST | {"layers", "models", "model files"},
  "engine": LOWEST
  | {"engine", "readers", "models", "losses", "metrics", "records", "layers"},
}

# Rooms that run on each backend of Keras: besides Python's own library they
# import only keras and absl.
ANY_BACKEND = {"models", "model files", "layers", "losses"}
# They use TensorFlow if it is the backend, and import it in functions.
USE_TENSORFLOW = {"layers/recurrent.py", "layers/random_numbers.py"}

# A process of reports/frameworks/ has one framework, which <framework>_loop.py
# imports, and nothing that needs another one.
LOOPS = "reports/frameworks/"
FOR_LOOPS = LOWEST | {"records", "layers", "losses", "models", "model files"}
PROGRAMS_FOR_LOOPS = ("reports", "engine", "benchmarks")
MODULES_FOR_LOOPS = (
  "reports.frameworks",
  "engine.data_order",
  "engine.local_files",
  "benchmarks.memory",
)

DEFINE_FLAGS = {"programs", "help of programs", "model files", "losses"}
READ_FLAGS = DEFINE_FLAGS | {"models"}


def room_of(path: str) -> str:
  """The room of a product file."""
  folder, _, name = path.rpartition("/")
  if folder:
    return ROOM_OF_FOLDER.get(folder.partition("/")[0], "programs")
  return ROOM_OF_FILE.get(name, "programs")


# What an import statement can name: our own files and folders.
OWN = {
  *(path.partition("/")[0].removesuffix(".py") for path in TRACKED),
  *ROOM_OF_FOLDER,
  "reports",
}


def room_of_module(module: str) -> str | None:
  """The room of an imported module of this project, else None."""
  top = module.partition(".")[0]
  if top not in OWN:
    return None
  return ROOM_OF_FOLDER.get(top) or ROOM_OF_FILE.get(f"{top}.py", "programs")


def imports(tree) -> list[tuple[str, bool]]:
  """(dotted name, whether in a function) of each import, at any depth.

  `from a import b` gives a and a.b, since b may be a module.
  """
  found = []

  def visit(node, in_function):
    if isinstance(node, ast.Import):
      found.extend((alias.name, in_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      found.append((module, in_function))
      found.extend((f"{module}.{a.name}", in_function) for a in node.names)
    inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for child in ast.iter_child_nodes(node):
      visit(child, in_function or inside)

  visit(tree, False)
  return found


def complaints_of_imports(path, tree) -> list[str]:
  """The rules that the imports of a file break."""
  room, found = room_of(path), imports(tree)
  wrong = []
  for module, in_function in found:
    top = module.partition(".")[0]
    of = room_of_module(module)
    if not top:
      wrong.append("imports by a relative path")
    elif top == "startup" and room != "programs":
      wrong.append("imports startup, which is for programs")
    elif of and room in MAY_IMPORT and of not in MAY_IMPORT[room]:
      wrong.append(f"{room} may not import {module}, of {of}")
    elif room == "errors":
      if of or top not in sys.stdlib_module_names:
        wrong.append(f"errors may not import {module}")
    elif room == "records" and not of:
      # It also serves readers that have no TensorFlow, see docs/reading.md.
      if not (top in {"numpy", "crc32c"} or top in sys.stdlib_module_names):
        wrong.append(f"records may not import {module}")
    elif room in ANY_BACKEND and not of:
      is_allowed = top in {"keras", "absl"} or top in sys.stdlib_module_names
      if path in USE_TENSORFLOW and in_function:
        is_allowed |= top == "tensorflow"
      if not is_allowed:
        wrong.append(f"{room} run on each backend, but import {module}")
    if module in ("absl.flags", "absl.app") and room not in READ_FLAGS:
      wrong.append(f"{room} may not import {module}")
  return wrong


def complaints_of_loops(path, tree) -> list[str]:
  """Imports that a process with another framework would not have."""
  if not path.startswith(LOOPS):
    return []
  allowed = {"keras", "numpy"}
  name = path.removeprefix(LOOPS)
  if name.endswith("_loop.py"):
    allowed.add(name.removesuffix("_loop.py"))
  wrong = []
  for module, _ in imports(tree):
    top = module.partition(".")[0]
    of = room_of_module(module)
    if top in PROGRAMS_FOR_LOOPS:
      is_allowed = any(
        f"{one}.".startswith(f"{module}.") or f"{module}.".startswith(f"{one}.")
        for one in MODULES_FOR_LOOPS
      )
    elif of:
      is_allowed = of in FOR_LOOPS
    else:
      is_allowed = top in allowed or top in sys.stdlib_module_names
    if not is_allowed:
      wrong.append(f"imports {module}, which one framework alone lacks")
  return wrong


def complaints_of_code(path, tree) -> list[str]:
  """The rules that a file breaks, except by imports."""
  room = room_of(path)
  wrong = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Attribute):
      continue
    text = ast.unparse(node)
    if node.attr.startswith("DEFINE_") and room not in DEFINE_FLAGS:
      wrong.append(f"line {node.lineno}: {room} may not define flags")
    elif text == "sys.path":
      wrong.append(f"line {node.lineno}: uses sys.path")
  return wrong


def complaints_of_comments(path, source) -> list[str]:
  """Wrong uses of `isort: skip`.

  It is for what must come first: `import startup`, or `import command_line`, in
  programs, and `import stopping` in these two.
  """
  allowed = {
    "programs": ("import startup", "import command_line"),
    "help of programs": ("import stopping",),
  }.get(room_of(path), ())
  return [
    f"line {number}: has `isort: skip`"
    for number, line in enumerate(source.splitlines(), 1)
    if "isort: skip" in line
    and not line.startswith(
      tuple(f"{first}  # isort: skip" for first in allowed)
    )
  ]


def complaints(path: str, source: str) -> list[str]:
  """All rules that a file breaks.

  Args:
    path: from the root of the project.
    source: the text of the file.
  """
  tree = ast.parse(source)
  return [
    *complaints_of_imports(path, tree),
    *complaints_of_loops(path, tree),
    *complaints_of_code(path, tree),
    *complaints_of_comments(path, source),
  ]


def long_parts(source: str) -> list[str]:
  """The parts of a file that are longer than the limits."""
  found = []
  length = len(source.splitlines())
  if length > MAX_FILE_LINES:
    found.append(f"the file has {length} lines")
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      if length > MAX_FUNCTION_LINES:
        found.append(f"{node.name} has {length} lines")
  return found


@pytest.mark.parametrize("path", PRODUCT)
def test_a_file_keeps_the_rules_of_its_room(path):
  assert complaints(path, (REPOSITORY / path).read_text()) == []


@pytest.mark.parametrize("path", PRODUCT)
def test_files_and_functions_are_short(path):
  assert long_parts((REPOSITORY / path).read_text()) == []


def test_every_room_is_known():
  assert {room_of(path) for path in PRODUCT} >= MAY_IMPORT.keys() - {"media"}
  assert {path for path in ROOM_OF_FILE if path not in PRODUCT} == set()
  assert set(PRODUCT) >= USE_TENSORFLOW


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("quantization.py", "import errors"),
    ("version.py", "from engine import files"),
    ("records/new.py", "import keras"),
    ("records/new.py", "from keras import ops"),
    ("records/new.py", "import tensorflow as tf"),
    ("records/new.py", "import readers"),
    ("records/new.py", "def read():\n  from engine import files"),
    ("layers/new.py", "import tensorflow as tf"),
    ("layers/new.py", "def call():\n  import tensorflow as tf"),
    ("layers/new.py", "from tensorflow import nn"),
    ("layers/recurrent.py", "import tensorflow as tf"),
    ("layers/new.py", "from absl import flags"),
    ("layers/new.py", "import models"),
    ("frame_models/new.py", "import tensorflow as tf"),
    ("frame_models/new.py", "def create():\n  import torch"),
    ("frame_models/new.py", "import losses"),
    ("frame_models/new.py", "from .clusters import NetVladModel"),
    ("video_level_models.py", "from engine import step"),
    ("models.py", "from absl import flags\nflags.DEFINE_string('a', '', '')"),
    ("losses.py", "import models"),
    ("readers.py", "import models"),
    ("readers.py", "import startup"),
    ("eval_util.py", "from engine import report"),
    ("engine/new.py", "from absl import flags"),
    ("engine/new.py", "from absl.flags import FLAGS"),
    ("engine/new.py", "import absl.flags"),
    ("engine/new.py", "import train"),
    ("engine/new.py", "import program_flags"),
    ("engine/new.py", "from data_tools import sample_data"),
    ("engine/new.py", "from media import frames"),
    ("engine/new.py", "import keras  # isort: skip"),
    ("engine/new.py", "import startup  # isort: skip"),
    ("program_flags.py", "import startup"),
    ("errors.py", "import numpy"),
    ("errors.py", "import version"),
    ("train.py", "import stopping  # isort: skip"),
    ("media/new.py", "import models"),
    ("media/new.py", "from engine import step"),
    ("media/new.py", "from absl import flags"),
    ("media/new.py", "from reports import table"),
    ("train.py", "import keras  # isort: skip"),
    ("train.py", "import sys\nsys.path.insert(0, '..')"),
    ("reports/new.py", "import sys\nsys.path = []"),
    ("reports/frameworks/new.py", "import tensorflow as tf"),
    ("reports/frameworks/new.py", "def run():\n  import torch"),
    ("reports/frameworks/new.py", "from engine import files"),
    ("reports/frameworks/new.py", "from reports import charts"),
    ("reports/frameworks/new.py", "import startup  # isort: skip"),
    ("reports/frameworks/new.py", "import readers"),
    ("reports/frameworks/torch_loop.py", "import jax"),
  ],
)
def test_a_broken_rule_is_found(path, source):
  assert len(complaints(path, source)) >= 1


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("layers/recurrent.py", "def call():\n  import tensorflow as tf"),
    ("layers/new.py", "import math\n\nimport errors\nfrom layers import sums"),
    ("frame_models/new.py", "import keras\nfrom absl import flags"),
    ("frame_models/new.py", "flags.DEFINE_string('a', '', '')"),
    ("engine/new.py", "import readers\nfrom absl import logging"),
    ("records/new.py", "import os\nimport numpy as np\nimport crc32c"),
    ("media/new.py", "import av\nimport errors\nfrom records import contents"),
    ("media/deeper/new.py", "from media import frames"),
    ("reports/new.py", "import startup  # isort: skip\nfrom engine import run"),
    ("data_tools/new.py", "from media import frames"),
    ("data_tools/new.py", "import command_line  # isort: skip"),
    ("startup.py", "import stopping  # isort: skip, first"),
    ("errors.py", "import errno"),
    ("reports/frameworks/torch_loop.py", "import torch\nimport models"),
    (
      "reports/frameworks/new.py",
      "from engine.data_order import Order\nimport reports.frameworks.jobs",
    ),
    ("new_program.py", "import startup  # isort: skip # noqa: F401"),
  ],
)
def test_what_the_rules_allow(path, source):
  assert complaints(path, source) == []


def test_long_files_and_functions_are_found():
  body = "  pass\n" * 79
  assert long_parts(f"def short():\n{body}") == []
  assert long_parts(f"def long():\n{body}  pass\n") == ["long has 81 lines"]
  assert long_parts("a = 1\n" * 700) == []
  assert long_parts("a = 1\n" * 701) == ["the file has 701 lines"]
