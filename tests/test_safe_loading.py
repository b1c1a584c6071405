"""Nothing that the product loads runs code: models and data of strangers."""

import ast

import pytest
from conftest import REPOSITORY
from test_rooms import PRODUCT

# Modules that make objects of any class, and so run code.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
# Builtin functions that run text, and functions that load such objects.
UNSAFE_CALLS = {"eval", "exec"}
UNSAFE_METHODS = {("yaml", "load"), ("torch", "load")}
# Whatever they belong to.
UNSAFE_NAMES = {"read_pickle", "enable_unsafe_deserialization"}
# Under a name of their own, their arguments would not be looked at.
NOT_IMPORTED = {("numpy", "load"), ("torch", "load"), ("yaml", "load")}
# Functions that are safe only with an argument, and this argument.
SAFE_WITH = {
  ("np", "load"): ("allow_pickle", False),
  ("numpy", "load"): ("allow_pickle", False),
  ("models", "load_model"): ("safe_mode", True),
  ("saving", "load_model"): ("safe_mode", True),
}


def _owner_and_name(function) -> tuple[str, str]:
  """("np", "load") of np.load, ("models", "load_model") of any such."""
  if isinstance(function, ast.Name):
    return "", function.id
  if not isinstance(function, ast.Attribute):
    return "", ""
  owner = function.value
  name = owner.attr if isinstance(owner, ast.Attribute) else ""
  return (owner.id if isinstance(owner, ast.Name) else name), function.attr


def unsafe_lines(source: str) -> list[str]:
  """The lines of a file that load what may run code."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [alias.name for alias in node.names]
      unsafe = False
      if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        unsafe = any(
          (module, name) in NOT_IMPORTED
          or name in UNSAFE_NAMES | {"load_model"}
          for name in names
        )
        names = [module]
      modules = {name.split(".")[0] for name in names}
      unsafe = unsafe or modules & UNSAFE_MODULES
    elif isinstance(node, ast.Call):
      called = _owner_and_name(node.func)
      given = {
        keyword.arg: getattr(keyword.value, "value", None)
        for keyword in node.keywords
      }
      unsafe = (
        called in UNSAFE_METHODS
        or called[1] in UNSAFE_NAMES
        or (not called[0] and called[1] in UNSAFE_CALLS)
        # However the function is called.
        or given.get("allow_pickle", False) is not False
        or given.get("safe_mode", True) is not True
      )
      if called in SAFE_WITH:
        name, value = SAFE_WITH[called]
        unsafe = given.get(name) is not value
    else:
      continue
    if unsafe:
      found.append(f"{node.lineno}: {ast.unparse(node)}")
  return found


@pytest.mark.parametrize("path", PRODUCT)
def test_no_file_runs_what_it_loads(path):
  assert not unsafe_lines((REPOSITORY / path).read_text())


@pytest.mark.parametrize(
  "line",
  [
    "import pickle",
    "from pickle import loads",
    "import joblib.numpy_pickle",
    "eval('1')",
    "exec(text)",
    "yaml.load(file)",
    "torch.load(path)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "keras.models.load_model(path)",
    "keras.models.load_model(path, safe_mode=False)",
    "from keras.models import load_model",
    "from numpy import load as read",
    "pd.read_pickle(path)",
    "from pandas import read_pickle",
    "keras.config.enable_unsafe_deserialization()",
    "n.load(path, allow_pickle=True)",
    "load(path, safe_mode=not_at_all)",
  ],
)
def test_an_unsafe_line_is_found(line):
  assert len(unsafe_lines(line)) == 1


@pytest.mark.parametrize(
  "line",
  [
    "model.eval()",
    "yaml.safe_load(file)",
    "json.load(file)",
    "np.load(path, allow_pickle=False)",
    "keras.models.load_model(path, safe_mode=True)",
    "from json import load",
    "from numpy import save",
  ],
)
def test_a_safe_line_is_none(line):
  assert not unsafe_lines(line)
