"""Writes docs/troubleshooting.md from the messages in the code: `make docs`.

Nothing is listed here. A message is the text of an errors.UserError, or of an
error that becomes one, of a line that ends a program, or of a warning. What a
message fills in at run time is shown in braces, by the name that the code has
for it.

  python -m docs.make_troubleshooting_page --provoked=FILE

lists the errors that no test has raised, instead. Such a FILE is written by
YT8M_PROVOKED=FILE pytest ...
"""

import ast
import dataclasses
import pathlib
import re

from absl import flags

import command_line

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"

_INTRODUCTION = """# Troubleshooting

Every error is one line that says what was expected, what was received and how
to fix it. Search this page for some of its words: it has all errors and
warnings, by the file that says them. In braces are the parts that differ.
`make docs` writes the page from the code.

## Exit status

| status | what happened |
|---|---|
| 0 | Done. Also if train.py has saved after Ctrl-C, SIGTERM or SIGHUP. |
| 1 | A fault of the machine, see below. Also a bug: it shows a traceback. |
| 2 | What the user can fix: a flag, or a file that is missing or wrong. |
| 129 | Stopped by SIGHUP: the terminal was closed. |
| 130 | Stopped by Ctrl-C. |
| 141 | Who reads the output has ended, as after `| head`. |
| 143 | Stopped by SIGTERM. |

Faults of the machine are a full disk, a failed read, too little memory, a lost
machine of a cluster, no answer in time: the same command may succeed later, or
elsewhere. `--verbosity=1` also shows the traceback of an error.

Ctrl-C and SIGTERM end a program with one line, and so does the end of its
terminal, unless it was started with nohup. While train.py trains, it saves
first, and a second Ctrl-C or SIGTERM ends it at once. In the first moments,
while Python itself starts, a signal ends it without this line.

Errors have status 2, unless the page says otherwise. A ValueError is for
those who call a function from code of their own.
"""

# The errors that a program shows as one line, by the last part of their name.
_ERRORS = {
  "UserError": 2,
  "MachineError": 1,
  "BadRecordError": 2,
  "DamagedCheckpointError": 2,
  "BadFileError": 2,
  "OtherSettingsError": 2,
  "SampleDataError": 2,
}
# Which of the two, the machine says.
_OF_SYSTEM = "of_system"
# What functions say to the code that calls them.
_OF_CODE = ("ValueError", "TypeError", "IndexError")
# A text that becomes an error elsewhere than where it stands.
_ELSEWHERE = "1 or 2, from here"

# Files whose ValueErrors about flags become UserErrors.
_FLAGS_OF_MODELS = ("models.py", "losses.py", "layers/", "frame_models/")


@dataclasses.dataclass(frozen=True)
class Message:
  """What a program may say.

  Attributes:
    path: the file that says it, from the root.
    first_line: where its expression begins in the file, from 1.
    last_line: where it ends.
    text: the message, with braces around what differs.
    kind: "2" or "1", its exit status; "1 or 2"; "warning"; a name of _OF_CODE;
      or _ELSEWHERE.
  """

  path: str
  first_line: int
  last_line: int
  text: str
  kind: str


# --------------------------------------------------------------------------
# Messages


def _name_of(node: ast.AST) -> str:
  """The last part of a dotted name: UserError of errors.UserError."""
  if isinstance(node, ast.Attribute):
    return node.attr
  return node.id if isinstance(node, ast.Name) else ""


def _placeholder(node: ast.AST) -> str:
  """A name for an expression whose value a message shows."""
  if isinstance(node, ast.Name):
    return node.id.strip("_")
  if isinstance(node, ast.Attribute):
    return node.attr.strip("_")
  if isinstance(node, ast.Constant):
    return str(node.value)
  if isinstance(node, (ast.Subscript, ast.Starred, ast.Await)):
    key = getattr(node, "slice", None)
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
      return key.value
    return _placeholder(node.value)
  if isinstance(node, ast.Call):
    if isinstance(node.func, ast.Attribute) and node.func.attr != "join":
      inner = _placeholder(node.func.value)
      if inner not in ("os", "path", "errors", "re", "json", "string"):
        return inner
    if node.args:
      is_cut = _name_of(node.func) == "cut"  # its second argument is a length
      return _placeholder(node.args[0 if is_cut else -1])
    return _name_of(node.func).strip("_")
  if isinstance(node, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
    return _placeholder(node.generators[0].iter)
  for part in ast.iter_child_nodes(node):
    if isinstance(part, ast.expr) and (found := _placeholder(part)):
      return found
  return "..."


def _text(node: ast.AST) -> str:
  """The text of a message, as far as the code has it; else empty."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return node.value
  if isinstance(node, ast.JoinedStr):
    return "".join(map(_text, node.values))
  if isinstance(node, ast.FormattedValue):
    return "{" + _placeholder(node.value) + "}"
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
    parts = [_text(node.left), _text(node.right)]
    return "".join(part or "{...}" for part in parts) if any(parts) else ""
  if isinstance(node, ast.IfExp):
    return _text(node.body) or _text(node.orelse)
  return ""


def _has_words(text: str) -> bool:
  """Whether a text says something besides what it fills in."""
  return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{.*?\}", "", text))) >= 2


def _kind_and_text(call: ast.Call, path: str) -> tuple[str, str] | None:
  """The kind and the text of a call that makes a message."""
  name = _name_of(call.func)
  texts = [_text(argument) for argument in call.args]
  if name in _ERRORS and texts:
    return str(_ERRORS[name]), max(texts, key=len)
  if name == "kind" and texts and texts[0].startswith("Expected "):
    return "1 or 2", texts[0]
  if name == _OF_SYSTEM and len(texts) > 1:
    return "1 or 2", texts[1]
  if name == "log_every_n_seconds":
    return "warning", _named_values(texts[1], call.args[3:])
  if not texts or not texts[0]:
    return None
  if name == "ValueError" and path.startswith(_FLAGS_OF_MODELS):
    return "2", texts[0]
  if name in ("end", "write") and texts[0].startswith("ERROR: "):
    return _status(call), texts[0].removeprefix("ERROR: ")
  if name in _OF_CODE and texts[0].startswith("Expected "):
    return name, texts[0]
  if ast.unparse(call.func) == "logging.warning" or name == "_say_once":
    return "warning", _named_values(texts[0], call.args[1:])
  return None


def _status(call: ast.Call) -> str:
  """The exit status that a call names; 2 if it does not."""
  given = [one.value for one in call.keywords if one.arg == "status"]
  return ast.unparse(given[0]) if given else "2"


def _named_values(text: str, values: list[ast.expr]) -> str:
  """The text of a warning with names in the place of %s, %d and so on."""
  names = iter(values)

  def name(found: re.Match) -> str:
    if found[0] == "%%":
      return "%"
    value = next(names, None)
    return "{" + (_placeholder(value) if value else "...") + "}"

  return re.sub(r"%%|%[-+0-9.,]*[sdfgr]", name, text)


def messages_of(source: str, path: str) -> list[Message]:
  """The messages of a file, in its order.

  Args:
    source: what the file holds.
    path: of it, from the root.
  """
  found, seen = [], set()
  tree = ast.parse(source)

  def add(node: ast.expr, kind: str, text: str) -> None:
    text = " ".join(text.split())
    if _has_words(text):
      seen.update(ast.walk(node))
      last = node.end_lineno or node.lineno
      found.append(Message(path, node.lineno, last, text, kind))

  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and (made := _kind_and_text(node, path)):
      add(node, *made)
  for node in ast.walk(tree):
    if isinstance(node, ast.Expr):  # a docstring
      seen.add(node.value)
    if node not in seen and isinstance(node, (ast.Constant, ast.JoinedStr)):
      text = _text(node).removeprefix("ERROR: ")
      if text.startswith("Expected "):
        add(node, _ELSEWHERE, text)
  return sorted(found, key=lambda message: message.first_line)


def _sources() -> list[str]:
  """The files of programs and of what they use, from the root."""
  paths = [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/**/*.py")]
  names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
  skipped = ("tests/", "benchmarks/", "docs/", "typings/", "requirements/")
  return [
    name
    for name in names
    if not name.startswith(skipped) and "site-packages" not in name
  ]


def all_messages() -> list[Message]:
  """The messages of all files, by file."""
  return [
    message
    for path in _sources()
    for message in messages_of((ROOT / path).read_text(encoding="utf-8"), path)
  ]


# --------------------------------------------------------------------------
# The page


def _place(path: str) -> tuple[bool, str]:
  """The sort key of a section: programs of the root come first."""
  return "/" in path, path


def _summary(path: str) -> str:
  """The first line of a file's docstring."""
  tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
  return (ast.get_docstring(tree) or "").partition("\n")[0]


def _item(message: Message) -> str:
  """The line of a message."""
  about = {
    "2": "",
    "warning": "Warning: ",
    _ELSEWHERE: "Status 1 or 2: ",
    **{name: f"{name}: " for name in _OF_CODE},
  }.get(message.kind, f"Status {message.kind}: ")
  marks = "``" if "`" in message.text else "`"
  space = " " if marks == "``" else ""
  return f"- {about}{marks}{space}{message.text}{space}{marks}"


def make_page() -> str:
  """Returns the content that docs/troubleshooting.md should have."""
  by_path: dict[str, list[str]] = {}
  for message in all_messages():
    by_path.setdefault(message.path, []).append(_item(message))
  sections = [
    f"\n## {path}\n\n{_summary(path)}\n\n"
    + "\n".join(dict.fromkeys(by_path[path]))
    + "\n"
    for path in sorted(by_path, key=_place)
  ]
  return _INTRODUCTION + "".join(sections)


# --------------------------------------------------------------------------
# What tests provoke


def not_provoked(raised: str) -> list[Message]:
  """The errors that were never raised, of those that are made in one place.

  Args:
    raised: lines of a path and the number of a line, such as train.py:83.
  """
  lines: dict[str, set[int]] = {}
  for line in set(raised.splitlines()):
    path, _, number = line.rpartition(":")
    lines.setdefault(path, set()).add(int(number))
  return [
    message
    for message in all_messages()
    if message.kind not in ("warning", _ELSEWHERE, *_OF_CODE)
    and not any(
      message.first_line <= number <= message.last_line
      for number in lines.get(message.path, ())
    )
  ]


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "provoked",
    "",
    "File of the lines that have raised an error while tests ran; lists the"
    " others instead of writing the page.",
  )


def main() -> None:
  """Writes the page, or lists errors."""
  path = flags.FLAGS.provoked
  if not path:
    PAGE.write_text(make_page(), encoding="utf-8")
    return
  with command_line.naming_flag("provoked"):
    raised = pathlib.Path(path).read_text(encoding="utf-8")
  for message in not_provoked(raised):
    print(f"{message.path}:{message.first_line}: {message.text}")


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
