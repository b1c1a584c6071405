"""What a training program uses: processor, memory, GPUs.

Linux tells it in /proc. Elsewhere the package psutil does, and everywhere
nvidia-ml-py tells how busy GPUs are, if they are installed (see
requirements/report.txt). What nobody tells is None.
"""

import contextlib
import dataclasses
import importlib
import os
import types

import tensorflow as tf

_STATUS = "/proc/self/status"


@dataclasses.dataclass(frozen=True)
class Usage:
  """What the process used in some seconds, or None where that is unknown.

  Attributes:
    cpu_percent: time of all its threads, 100 for one core; 0 to 100 times the
      number of cores.
    memory_bytes: in memory at the end (resident set size).
    gpu_percent: part of the time in which GPUs computed, by whatever program, 0
      to 100; the mean of those in use.
    gpu_memory_bytes: the most that TensorFlow has allocated so far, on the GPU
      where it is most.
  """

  cpu_percent: float | None = None
  memory_bytes: int | None = None
  gpu_percent: float | None = None
  gpu_memory_bytes: int | None = None

  def scalars(self) -> dict[str, float]:
    """What is known, by TensorBoard tag; memory in GB (1e9 bytes)."""
    found = {
      "cpu_percent": self.cpu_percent,
      "memory_gb": _gigabytes(self.memory_bytes),
      "gpu_percent": self.gpu_percent,
      "gpu_memory_gb": _gigabytes(self.gpu_memory_bytes),
    }
    return {
      f"resources/{name}": value
      for name, value in found.items()
      if value is not None
    }


def _gigabytes(size: int | None) -> float | None:
  return None if size is None else size / 1e9


NO_USAGE = Usage()
"""That of which nothing is known."""


class Meter:
  """Measures what this process uses."""

  def __init__(self):
    self._gpus = tf.config.list_logical_devices("GPU")
    self._library, self._handles = _find_gpus(len(self._gpus))

  def usage(self, seconds: float, cpu_seconds: float) -> Usage:
    """What was used in some seconds that have just passed.

    Args:
      seconds: how many.
      cpu_seconds: time of all threads in them, see time.process_time.
    """
    return Usage(
      cpu_percent=100 * cpu_seconds / seconds if seconds else None,
      memory_bytes=used_memory(),
      gpu_percent=self._gpu_percent(),
      gpu_memory_bytes=self._gpu_memory(),
    )

  def _gpu_percent(self) -> float | None:
    if self._library is None or not self._handles:
      return None
    try:
      rates = [
        self._library.nvmlDeviceGetUtilizationRates(handle).gpu
        for handle in self._handles
      ]
    except self._library.NVMLError:  # such as one without this counter
      return None
    return sum(rates) / len(rates)

  def gpu_memory(self) -> int | None:
    """The bytes of memory of the smallest GPU; None if unknown."""
    if self._library is None or not self._handles:
      return None
    try:
      return min(
        self._library.nvmlDeviceGetMemoryInfo(handle).total
        for handle in self._handles
      )
    except self._library.NVMLError:
      return None

  def _gpu_memory(self) -> int | None:
    found = []
    for gpu in self._gpus:
      name = gpu.name.removeprefix("/device:")
      with contextlib.suppress(ValueError):  # its allocator does not count
        found.append(tf.config.experimental.get_memory_info(name)["peak"])
    return max(found, default=None)


def used_memory() -> int | None:
  """The bytes that this process has in memory now; None if unknown."""
  return _memory_from_proc("VmRSS") or _memory_from_psutil()


def peak_memory() -> int | None:
  """The most bytes that this process has had in memory; None if unknown."""
  peak = _memory_from_proc("VmHWM")
  if peak is None:
    with contextlib.suppress(ImportError):  # there is none on Windows
      import resource

      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      # In kB, but in bytes on macOS. On Linux it may be that of the program
      # that started this one, so /proc comes first.
      peak *= 1 if os.uname().sysname == "Darwin" else 1024
  return peak


def _memory_from_proc(name: str) -> int | None:
  """A number of bytes in Linux's description of this process, or None."""
  with contextlib.suppress(OSError), open(_STATUS) as file:
    for line in file:
      if line.startswith(f"{name}:"):
        return 1024 * int(line.split()[1])  # "VmRSS:   1234 kB"
  return None


def _memory_from_psutil() -> int | None:
  try:
    psutil = importlib.import_module("psutil")
  except ImportError:
    return None
  return psutil.Process().memory_info().rss


def _find_gpus(number: int) -> tuple[types.ModuleType | None, list]:
  """Finds the GPUs that TensorFlow uses in NVIDIA's library.

  Args:
    number: how many TensorFlow uses.

  Returns:
    The library, and its handle of each GPU; None and nothing if there are no
    GPUs, the package is not installed, or the driver does not answer.
  """
  if not number:
    return None, []
  try:
    library = importlib.import_module("pynvml")
  except ImportError:
    return None, []
  try:
    library.nvmlInit()
    handles = [
      _handle(library, name) for name in _visible_names(number)[:number]
    ]
  except library.NVMLError:
    return None, []
  return library, handles


def _visible_names(number: int) -> list[str]:
  """The numbers or UUIDs of the first GPUs that CUDA shows, in its order."""
  given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  names = [name.strip() for name in given.split(",") if name.strip()]
  return names or [str(index) for index in range(number)]


def _handle(library, name: str):
  if name.isdecimal():
    return library.nvmlDeviceGetHandleByIndex(int(name))
  return library.nvmlDeviceGetHandleByUUID(name)
