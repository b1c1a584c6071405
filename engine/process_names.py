"""Names processes in files, and tells whether such a process lives."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import uuid

_PROC = "/proc"


@functools.cache
def kernel() -> str:
  """The random id of the running kernel; empty where there is none.

  No other start of this or any other machine has it.
  """
  with (
    contextlib.suppress(OSError),
    open(f"{_PROC}/sys/kernel/random/boot_id", encoding="utf-8") as file,
  ):
    return file.read().strip()
  return ""


@functools.cache
def pid_namespace() -> str:
  """In which processes are numbered; empty where there is none.

  Containers have one each.
  """
  with contextlib.suppress(OSError):
    return os.readlink(f"{_PROC}/self/ns/pid")
  return ""


def state_and_start(pid: int) -> tuple[str, int] | None:
  """A process's state, a letter, and its start, in ticks; None if unknown."""
  try:
    with open(
      f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace"
    ) as file:
      text = file.read()
    # The name, in parentheses, may hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
  except (OSError, IndexError, ValueError):
    return None


def is_alive(pid: int, start: int | None = None) -> bool | None:
  """Whether a process of this kernel and namespace runs; None if unknown.

  Args:
    pid: its number.
    start: when it started, in clock ticks since the machine did. Another
      process may have got its number since. None if nothing is known.
  """
  try:
    os.kill(pid, 0)  # sends nothing; asks whether it is there
  except ProcessLookupError:
    return False
  except (OSError, OverflowError):  # of another user; no number of a process
    pass
  found = state_and_start(pid)
  if found is None:  # some systems hide the processes of other users
    return None
  # A process that was killed stays as a zombie until its parent asks for it.
  return found[0] not in "ZX" and start in (None, found[1])


def process_name(pid: int | None = None) -> str:
  """A name for a process: of its machine, and its number there.

  Args:
    pid: its number; None for this process.
  """
  return f"{_machine()}-{os.getpid() if pid is None else pid}"


@functools.cache
def _machine() -> str:
  """A name for where numbers of processes mean the same.

  Containers may share a folder and a host name, but count processes each from
  1; and a machine counts anew when it starts.
  """
  parts = (platform.node(), pid_namespace(), kernel())
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_dead(name: str) -> bool | None:
  """Whether a process has ended; None if unknown.

  Args:
    name: its process_name. If it is of another machine, or none, nothing is
      known about it.
  """
  machine, _, pid = name.partition("-")
  if machine != _machine() or not re.fullmatch(r"[1-9]\d{0,9}", pid):
    return None
  alive = is_alive(int(pid))
  return None if alive is None else not alive


def new_token() -> str:
  """What a temporary name ends with: this process, and a random number."""
  return f"{process_name()}-{uuid.uuid4().hex[:8]}"
