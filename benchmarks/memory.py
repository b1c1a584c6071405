"""The memory of processes that are measured."""

import contextlib
import re


def peak_mib(process: int | str = "self") -> float:
  """The peak memory so far of a running process; 0 if it has ended.

  What getrusage gives, also for ended children, is at least the peak of the
  process that started the measured one, because they shared memory at first.

  Args:
    process: its id, or "self" for this one.
  """
  with contextlib.suppress(OSError):
    with open(f"/proc/{process}/status") as file:
      found = re.search(r"VmHWM:\s+(\d+)", file.read())
    if found:
      return int(found.group(1)) / 1024
  return 0.0
