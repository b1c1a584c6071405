"""Shows where a training step spends its time, without reading any data.

Example:
  python -m benchmarks.profile_step --model=DbofModel --batch_size=128

One batch of made-up videos, with the sizes of YouTube-8M, is kept in memory
and used again in each step. The program prints

- the step's time with all cores and with one thread,
- the time that its matrix products would take at the rate of large ones, with
  one thread, without padding: the limit,
- and the operations or XLA kernels that take most of the time with one thread.
  With several, a kernel's work on other threads is not recorded.
"""

import collections
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import losses
import models
import train
from benchmarks import matrix_work, run_all
from engine import run as runs
from engine import step as steps
from engine.distribution import Placement
from engine.settings import Settings

FLAGS = flags.FLAGS

_MEAN_FRAMES, _MAX_FRAMES = 210, 300
_TRACED_STEPS = 5
_REPEATS = 5
_SECONDS_A_REPEAT = 2.0
# What contains other events, by a part of its name.
_AROUND = (
  "Executor",
  "Eager",
  "TFE_",
  "Kernel",
  "CpuExecutable",
  "function",
  "Iterator",
  "Prefetch",
  "while/",
)


def make_batch(model_flags: dict, batch_size: int) -> dict[str, tf.Tensor]:
  """A batch of random videos as the readers make them.

  Args:
    model_flags: see train_dir.py.
    batch_size: videos. Frame-level ones have 120 to 300 frames.
  """
  rng = np.random.default_rng(0)
  size = sum(map(int, model_flags["feature_sizes"].split(",")))
  if model_flags["frame_features"]:
    middle = _MAX_FRAMES - _MEAN_FRAMES
    num_frames = _MEAN_FRAMES + rng.integers(-middle, middle + 1, batch_size)
    num_frames[0] = _MAX_FRAMES
    matrix = rng.integers(0, 256, (batch_size, _MAX_FRAMES, size), np.uint8)
    matrix[np.arange(_MAX_FRAMES) >= num_frames[:, None]] = 0
  else:
    num_frames = np.ones(batch_size)
    matrix = rng.standard_normal((batch_size, size), np.float32)
  classes = model_flags["num_classes"]
  return {
    "video_matrix": tf.constant(matrix),
    "num_frames": tf.constant(num_frames, tf.int32),
    "labels": tf.constant(rng.random((batch_size, classes)) < 3 / classes),
    "place": tf.zeros([5], tf.int64),
  }


def make_step(model_flags: dict, batch_size: int, train_dir: str):
  """Makes a function that trains for a number of steps on one batch."""
  model_class = models.find_class_by_name(model_flags["model"])
  settings = Settings(batch_size, model_class.base_learning_rate)
  run = runs.Run(train_dir, model_flags, True, settings, Placement())
  batches = tf.data.Dataset.from_tensors(
    make_batch(model_flags, batch_size)
  ).repeat()
  run_steps = steps.make_run_steps(
    run, losses.CrossEntropyLoss(), batches.element_spec
  )
  iterator = iter(batches)
  return lambda number: run_steps(iterator, tf.constant(number))


def time_step(train_steps) -> tuple[float, float]:
  """Median seconds and seconds of processor time of a step."""
  train_steps(2)
  began = time.perf_counter()
  train_steps(1)
  number = int(_SECONDS_A_REPEAT / (time.perf_counter() - began)) + 1
  found = []
  for _ in range(_REPEATS):
    began, cpu_began = time.perf_counter(), time.process_time()
    train_steps(number)
    found.append(
      (
        (time.perf_counter() - began) / number,
        (time.process_time() - cpu_began) / number,
      )
    )
  wall, cpu = zip(*found, strict=True)
  return statistics.median(wall), statistics.median(cpu)


def trace_step(train_steps) -> dict[str, float]:
  """Seconds of a step by kernel, those that take longest first."""
  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    train_steps(_TRACED_STEPS)
    tf.profiler.experimental.stop()
    space = xplane_pb2.XSpace()
    (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    with open(path, "rb") as file:
      space.ParseFromString(file.read())
  seconds = collections.Counter()
  for plane in space.planes:
    for line in plane.lines:
      for event in line.events:
        name = plane.event_metadata[event.metadata_id].name
        name = name.removeprefix("while/body/_12/while/StatefulPartitionedCall")
        if not any(part in name for part in _AROUND):
          seconds[name] += event.duration_ps / 1e12 / _TRACED_STEPS
  return dict(seconds.most_common(FLAGS.num_kernels))


def measure(is_single: bool) -> dict:
  """Measures one model in this process.

  Args:
    is_single: with one thread, and with a trace.
  """
  if is_single:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
  name = FLAGS.model
  level = "frame" if FLAGS.frame_features else "video"
  model_flags = {
    **run_all.model_flags_of(level),
    "model": name,
    "label_loss": "CrossEntropyLoss",
    **models.resolve_hyperparameters(name),
  }
  batch_size = FLAGS.batch_size or models.find_class_by_name(name).batch_size
  with tempfile.TemporaryDirectory() as train_dir:
    train_steps = make_step(model_flags, batch_size, train_dir)
    wall, cpu = time_step(train_steps)
    figures = {
      "batch_size": batch_size,
      "wall_ms": 1e3 * wall,
      "cpu_us_per_video": 1e6 * cpu / batch_size,
      "matmul_gflops": run_all.measure_products(),
    }
    if is_single:
      figures["kernels_ms"] = {
        kernel: 1e3 * seconds
        for kernel, seconds in trace_step(train_steps).items()
      }
  if is_single:
    gflop = matrix_work.gflop_per_video(model_flags, batch_size, _MEAN_FRAMES)
    figures["gflop_per_video"] = gflop
  return figures


def main() -> None:
  """Measures in two processes, with all cores and with one thread; prints."""
  if FLAGS.threads:
    print(json.dumps(measure(FLAGS.threads == 1)))
    return
  found = {}
  for threads in (os.cpu_count() or 1, 1):
    process = subprocess.run(
      [
        sys.executable,
        "-m",
        __spec__.name,
        *sys.argv[1:],
        f"--threads={threads}",
      ],
      capture_output=True,
      text=True,
      check=True,
    )
    found[threads] = json.loads(process.stdout.splitlines()[-1])
  for threads, figures in found.items():
    print(
      f"{FLAGS.model}, {figures['batch_size']} videos, {threads} threads:"
      f" {figures['wall_ms']:.1f} ms a step,"
      f" {figures['cpu_us_per_video']:.0f} us of processor time a video;"
      f" large products {figures['matmul_gflops']:.0f} GFLOP/s"
    )
  single = found[1]
  limit = 1e6 * single["gflop_per_video"] / single["matmul_gflops"]
  print(
    f"Its products without padding take {limit:.0f} us a video at that rate"
    f" with one thread: {limit / single['cpu_us_per_video']:.0%}"
  )
  for name, milliseconds in single["kernels_ms"].items():
    print(f"{milliseconds:9.2f} ms  {name[:120]}")


if __name__ == "__main__":
  train.define_flags()
  flags.DEFINE_integer("num_kernels", 20, "Kernels to list.")
  flags.DEFINE_integer(
    "threads", 0, "Measure once, with 1 thread or several; 0: both, in turn."
  )
  startup.run(main)
