"""Tests of engine.resources: what a process uses."""

import mmap
import sys
import types

import psutil
import pytest
import tensorflow as tf

from engine import resources
from engine.resources import Meter, Usage

MEGABYTE = 2**20


@pytest.fixture
def no_proc(monkeypatch):
  """As on a system without /proc."""
  monkeypatch.setattr(resources, "_STATUS", "/nowhere/status")


def test_the_time_of_all_threads_in_percent_of_one_core():
  assert Meter().usage(2.0, 3.0).cpu_percent == 150.0
  assert Meter().usage(0.0, 0.0).cpu_percent is None


def touched(size) -> mmap.mmap:
  """Memory that no allocator has kept from earlier."""
  memory = mmap.mmap(-1, size)
  for page in range(0, size, mmap.PAGESIZE):
    memory[page] = 1
  return memory


def test_memory_in_use_and_its_peak():
  before = Meter().usage(1.0, 1.0).memory_bytes
  assert before == pytest.approx(
    psutil.Process().memory_info().rss, abs=8 * MEGABYTE
  )
  with touched(100 * MEGABYTE):
    during = Meter().usage(1.0, 1.0).memory_bytes
    peak = resources.peak_memory()
  assert during - before == pytest.approx(100 * MEGABYTE, abs=16 * MEGABYTE)
  # Counters of Linux are exact to some pages for each processor.
  slack = 8 * MEGABYTE
  assert peak >= during - slack
  after = Meter().usage(1.0, 1.0).memory_bytes
  assert after < during - 80 * MEGABYTE
  assert resources.peak_memory() >= peak - slack


def test_memory_without_proc(no_proc):
  expected = psutil.Process().memory_info().rss
  assert Meter().usage(1.0, 1.0).memory_bytes == pytest.approx(
    expected, abs=8 * MEGABYTE
  )
  assert resources.peak_memory() >= 0.9 * expected


def test_memory_that_nobody_tells(no_proc, monkeypatch):
  monkeypatch.setitem(sys.modules, "psutil", None)
  assert Meter().usage(1.0, 1.0).memory_bytes is None
  monkeypatch.setitem(sys.modules, "resource", None)
  assert resources.peak_memory() is None


def test_no_gpu_has_no_numbers():
  usage = Meter().usage(1.0, 1.0)
  assert usage.gpu_percent is None
  assert usage.gpu_memory_bytes is None
  assert usage.scalars().keys() == {
    "resources/cpu_percent",
    "resources/memory_gb",
  }


def test_scalars():
  usage = Usage(123.0, 2_500_000_000, 50.0, 7_000_000_000)
  assert usage.scalars() == {
    "resources/cpu_percent": 123.0,
    "resources/memory_gb": 2.5,
    "resources/gpu_percent": 50.0,
    "resources/gpu_memory_gb": 7.0,
  }
  assert Usage().scalars() == {}


# --------------------------------------------------------------------------
# GPUs


class NvmlError(Exception):
  pass


class FakeNvml(types.ModuleType):
  """nvidia-ml-py on a machine with eight GPUs, of which some are busy."""

  NVMLError = NvmlError

  def __init__(self):
    super().__init__("pynvml")
    self.begun = 0
    self.percents = {index: 10 * index for index in range(8)}
    self.percents["GPU-abc"] = 96

  def nvmlInit(self):  # noqa: N802
    self.begun += 1

  def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
    if index not in self.percents:
      raise NvmlError
    return index

  def nvmlDeviceGetHandleByUUID(self, name):  # noqa: N802
    return name

  def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
    return types.SimpleNamespace(total=1000 + handle)

  def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
    return types.SimpleNamespace(gpu=self.percents[handle], memory=1)


@pytest.fixture
def nvml(monkeypatch):
  """Two GPUs that TensorFlow uses, and NVIDIA's library."""
  library = FakeNvml()
  monkeypatch.setitem(sys.modules, "pynvml", library)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  gpus = [types.SimpleNamespace(name=f"/device:GPU:{n}") for n in range(2)]
  monkeypatch.setattr(
    tf.config,
    "list_logical_devices",
    lambda kind: gpus if kind == "GPU" else [],
  )
  peaks = {"GPU:0": 300, "GPU:1": 400}
  monkeypatch.setattr(
    tf.config.experimental,
    "get_memory_info",
    lambda name: {"current": 5, "peak": peaks[name]},
  )
  return library


@pytest.mark.parametrize(
  ("visible", "percent"),
  [
    (None, 5.0),  # of 0 and 10
    ("", 5.0),
    ("3,5,6", 40.0),  # of 30 and 50: TensorFlow uses two
    ("7, GPU-abc", 83.0),  # of 70 and 96
  ],
)
def test_the_gpus_in_use(nvml, monkeypatch, visible, percent):
  if visible is not None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
  usage = Meter().usage(1.0, 1.0)
  assert usage.gpu_percent == percent
  assert usage.gpu_memory_bytes == 400
  assert nvml.begun == 1


def test_the_memory_of_the_smallest_gpu(nvml, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5")
  assert Meter().gpu_memory() == 1005
  monkeypatch.setitem(sys.modules, "pynvml", None)
  assert Meter().gpu_memory() is None


def test_gpus_without_the_package(nvml, monkeypatch):
  monkeypatch.setitem(sys.modules, "pynvml", None)
  usage = Meter().usage(1.0, 1.0)
  assert usage.gpu_percent is None
  assert usage.gpu_memory_bytes == 400


@pytest.mark.parametrize(
  "function", ["nvmlInit", "nvmlDeviceGetUtilizationRates"]
)
def test_a_driver_that_does_not_answer(nvml, monkeypatch, function):
  def fail(*unused):
    raise NvmlError

  monkeypatch.setattr(nvml, function, fail)
  assert Meter().usage(1.0, 1.0).gpu_percent is None


def test_a_gpu_that_the_library_does_not_know(nvml, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,99")
  assert Meter().usage(1.0, 1.0).gpu_percent is None


def test_an_allocator_that_does_not_count(nvml, monkeypatch):
  def fail(unused_name):
    raise ValueError

  monkeypatch.setattr(tf.config.experimental, "get_memory_info", fail)
  assert Meter().usage(1.0, 1.0).gpu_memory_bytes is None
