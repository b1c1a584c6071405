"""What must hold after a fault, after a kill, and after the next start.

All of it compares what lies in a folder, as programs.look describes it, and
what a program wrote to its log.
"""

import os
import re

# What no message to a user has in it.
_NATIVE = ("Traceback", "function_node", "Fatal Python", "Exception ignored")
_WARNING = re.compile(r"^W\d{4} ", re.MULTILINE)


def problems_of_end(status: int | None, log: str) -> list[str]:
  """What is wrong with how a program ended after a fault.

  Args:
    status: its exit status, see interception.Outcome.
    log: what it wrote.
  """
  if status is None:
    return ["it hangs"]
  found = [f"{text} in the log" for text in _NATIVE if text in log]
  if status not in (0, 1, 2):
    found.append(f"exit status {status}")
  lines = log.splitlines()
  messages = [line for line in lines if line.startswith("ERROR: ")]
  if status and (len(messages) != 1 or messages != lines[-1:]):
    found.append(f"{len(messages)} messages; the last line: {lines[-1:]}")
  return found


def ending(status: int | None, log: str) -> str:
  """How a program ended, for a table."""
  if status is None:
    return "hang"
  if status:
    return f"status {status}"
  return "done, warned" if _WARNING.search(log) else "done"


def problems_of_files(
  start: dict, end: dict, found: dict, before: list[str] | None, killed: bool
) -> list[str]:
  """What was lost, or is only half there, after a fault.

  Args:
    start: what was there before the program, see programs.look.
    end: what it leaves behind without a fault.
    found: what is there now.
    before: the checkpoints that were whole when the fault came.
    killed: whether it was killed. Then a folder that it was replacing may be
      missing, because no file system swaps two folders.
  """
  problems = []
  # The best one so far is a copy of one of these.
  by_name = {os.path.basename(name): name for name in end["checkpoints"]}
  for name, value in found["checkpoints"].items():
    whole = by_name.get(os.path.basename(name))
    if value != end["checkpoints"].get(whole):
      problems.append(f"checkpoint {name} is another: {value}")
  for name in {*start["checkpoints"], *(before or ())}:
    # The best one so far may have been replaced; see _problems_of_json.
    if name not in found["checkpoints"] and "/best/" not in name:
      problems.append(f"checkpoint {name} is lost")
  if found["newest"] and found["newest"] not in found["checkpoints"]:
    problems.append(f"checkpoint names {found['newest']}, which is not there")
  problems += _problems_of_json(start, end, found)
  for kind in ("outputs", "exports"):
    for name, value in found[kind].items():
      known = (start[kind].get(name), end[kind].get(name))
      if _is_damaged(value) or (kind == "outputs" and value not in known):
        problems.append(f"{name} is half-written: {value}")
    if kind == "exports" and killed:
      continue
    problems += [
      f"{name} is lost" for name in start[kind] if name not in found[kind]
    ]
  if found["others"] != start["others"]:
    problems.append("the user's files changed")
  return problems


def _problems_of_json(start: dict, end: dict, found: dict) -> list[str]:
  problems = []
  for name, content in found["json"].items():
    if _is_damaged(content):
      problems.append(f"{name} is half-written: {content}")
    elif name.endswith("evaluations.json"):
      whole = end["json"][name]["evaluations"]
      if any(one not in whole for one in content["evaluations"]):
        problems.append(f"{name} has other scores")
    elif name.endswith("best.json"):
      path = f"model/{content['checkpoint']}"
      if _is_damaged(found["checkpoints"].get(path, "damaged: missing")):
        problems.append(f"{name} names {path}, which is not whole")
    elif content != end["json"].get(name):
      problems.append(f"{name} is another")
  problems += [
    f"{name} is lost" for name in start["json"] if name not in found["json"]
  ]
  return problems


def _is_damaged(content) -> bool:
  return isinstance(content, str) and content.startswith("damaged")


def differences(end: dict, found: dict, with_events: bool) -> list[str]:
  """Where two runs that ended well differ.

  Args:
    end: what the one leaves behind, see programs.look.
    found: what the other does.
    with_events: whether to compare what TensorBoard shows.
  """
  kinds = ["newest", "checkpoints", "json", "exports", "outputs", "others"]
  if with_events:
    kinds.append("events")
  problems = []
  for kind in kinds:
    one, other = end[kind], found[kind]
    if one == other:
      continue
    if not (isinstance(one, dict) and isinstance(other, dict)):
      problems.append(f"{kind} is {other} in the place of {one}")
      continue
    for name in sorted({*one, *other}):
      if one.get(name) != other.get(name):
        state = "differs" if name in one and name in other else "is missing"
        if name not in one:
          # Training removes older exports with the next one that it writes.
          if kind == "exports" and not _is_damaged(other[name]):
            continue
          state = "is more than there should be"
        problems.append(f"{kind} {name} {state}")
  return problems


def leftovers(end: dict, found: dict) -> list[str]:
  """The files of a run that one without faults would not have."""
  names = list(found["names"])
  for name in end["names"]:
    if name in names:
      names.remove(name)
  # Each start has an event file of its own; the system clears its own folder
  # for temporary files.
  return [
    name
    for name in names
    if "events.out.tfevents" not in name and not name.startswith("tmp/")
  ]


def table(rows: list[tuple]) -> str:
  """Rows of equally many words, the first of them a heading, as columns."""
  rows = [tuple(map(str, row)) for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      word.ljust(width) for word, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )
