"""What a program runs on: the machine, the versions and the commit."""

import contextlib
import math
import os
import platform
import re
import subprocess

import keras
import numpy as np
import tensorflow as tf

from version import __version__

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_GIT_SECONDS = 5.0
_CGROUP = "/sys/fs/cgroup"
_PROC = "/proc"


def describe_machine() -> dict:
  """Describes this machine, and how much of it the process may use.

  Returns:
    host, system and cpu, which are names; cores (int) and memory_bytes (int,
    None if unknown), within the limits of a container; gpus, the names of those
    that TensorFlow may use.
  """
  return {
    "host": platform.node(),
    "system": platform.platform(),
    "cpu": processor_name(),
    "cores": _usable_cores(),
    "memory_bytes": usable_memory(),
    "gpus": _gpu_names(),
  }


def machine_text(machine: dict) -> str:
  """What describe_machine says in words, without the name of the host.

  Args:
    machine: its result; what it lacks is left out.
  """
  memory = machine.get("memory_bytes")
  parts = [
    machine.get("cpu"),
    f"{machine['cores']} cores" if machine.get("cores") else None,
    f"{memory / 2**30:.0f} GiB" if memory else None,
    ", ".join(map(str, machine.get("gpus") or [])) or "no GPU",
    machine.get("system"),
  ]
  return ", ".join(str(part) for part in parts if part)


def processor_name() -> str:
  """The name of the processor, as exactly as the system tells it."""
  with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
    found = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    if found:
      return found[1]
  return platform.processor() or platform.machine()


def _read(path: str) -> str:
  try:
    with open(path) as file:
      return file.read()
  except OSError:
    return ""


def _read_limit(name: str) -> str:
  """The content of a file of cgroup v2, which limits a container."""
  return _read(f"{_CGROUP}/{name}")


def _cgroups() -> list[str]:
  """The folders of cgroup v2 that limit this process: its own and those above.

  In a container the uppermost is its own. A job of a cluster's scheduler has
  one further down.
  """
  found = re.search(r"^0::/(.*)$", _read(f"{_PROC}/self/cgroup"), re.MULTILINE)
  parts = found[1].split("/") if found and found[1] else []
  return [
    os.path.join(_CGROUP, *parts[:depth])
    for depth in range(len(parts), -1, -1)
    if ".." not in parts[:depth]
  ]


def _usable_cores() -> int:
  """How many cores this process may use at the same time, rounded up."""
  cores = os.cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    cores = len(os.sched_getaffinity(0))
  # Microseconds that it may compute in each period of so many microseconds.
  limit = re.match(r"(\d+) (\d+)", _read_limit("cpu.max"))
  if limit:
    cores = min(cores, math.ceil(int(limit[1]) / int(limit[2])))
  return cores


def usable_memory() -> int | None:
  """How many bytes of memory this process may use; None if unknown."""
  limits = []
  with contextlib.suppress(OSError, ValueError):
    limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
  for cgroup in _cgroups():
    limit = _read(f"{cgroup}/memory.max").strip()
    if limit.isdecimal():  # else "max"
      limits.append(int(limit))
  return min(limits, default=None)


def available_memory() -> int | None:
  """How many more bytes this process may use now, without swapping.

  Returns:
    Bytes, within the limits of containers and of a scheduler's jobs; None if
    unknown.
  """
  found = []
  whole = re.search(
    r"^MemAvailable:\s*(\d+) kB", _read(f"{_PROC}/meminfo"), re.MULTILINE
  )
  if whole:
    found.append(1024 * int(whole[1]))
  for cgroup in _cgroups():
    limit = _read(f"{cgroup}/memory.max").strip()
    used = _read(f"{cgroup}/memory.current").strip()
    # What the kernel only keeps of files counts as used, but is given back.
    cached = re.search(
      r"^inactive_file (\d+)$", _read(f"{cgroup}/memory.stat"), re.MULTILINE
    )
    if limit.isdecimal() and used.isdecimal():
      kept = int(cached[1]) if cached else 0
      found.append(max(int(limit) - int(used) + kept, 0))
  return min(found, default=None)


def _gpu_names() -> list[str]:
  names = []
  for gpu in tf.config.get_visible_devices("GPU"):
    details = tf.config.experimental.get_device_details(gpu)
    names.append(details.get("device_name", gpu.name))
  return names


def versions() -> dict[str, str]:
  """The versions of Python and of what a run's numbers depend on."""
  return {
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "numpy": np.__version__,
    "yt8m": __version__,
  }


def commit() -> str | None:
  """The commit of this checkout; with "-dirty" if its files were changed.

  Git runs no hook, and answers for this folder only, not for a repository that
  it was copied into.

  Returns:
    None if this is no checkout, or git is missing or does not answer.
  """
  git_dir = os.path.join(_ROOT, ".git")
  if not os.path.exists(git_dir):
    return None
  # Hooks set these for another repository.
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("GIT_")
  }
  try:
    answer = subprocess.run(
      [
        "git",
        *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
        *(f"--git-dir={git_dir}", f"--work-tree={_ROOT}"),
        *("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
      ],
      env=environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=_GIT_SECONDS,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return answer.stdout.strip() or None
