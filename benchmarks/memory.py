"""The memory of processes that are measured."""

import contextlib
import os
import re


def peak_mib(process: int | str = "self") -> float:
  """The peak memory so far of a running process; 0 if it has ended.

  What getrusage gives, also for ended children, is at least the peak of the
  process that started the measured one, because they shared memory at first.

  Args:
    process: its id, or "self" for this one.
  """
  return _of_status(process, "VmHWM")


def _of_status(process: int | str, name: str) -> float:
  with contextlib.suppress(OSError):
    with open(f"/proc/{process}/status") as file:
      found = re.search(rf"{name}:\s+(\d+)", file.read())
    if found:
      return int(found.group(1)) / 1024
  return 0.0


def memory_mib(process: int) -> float:
  """The memory that a process has now; 0 if it has ended."""
  return _of_status(process, "VmRSS")


def open_files(process: int) -> int:
  """How many files, pipes and sockets a process has open; 0 if it has ended."""
  with contextlib.suppress(OSError):
    return len(os.listdir(f"/proc/{process}/fd"))
  return 0


def with_children(process: int) -> list[int]:
  """The ids of a process and of all processes that it has started."""
  found = [process]
  for parent in found:  # grows on the way
    with contextlib.suppress(OSError):
      for thread in os.listdir(f"/proc/{parent}/task"):
        with open(f"/proc/{parent}/task/{thread}/children") as file:
          found += map(int, file.read().split())
  return found
