"""Times the metrics: videos per second, and a whole evaluation's memory.

Usage, from the root of the repository:

  python -m benchmarks.bench_metrics --repeats=7

Prints readable lines and, at the end, one line of JSON with all figures.

* accumulate: EvaluationMetrics.accumulate on batches of predictions and labels,
  for several kinds of predictions, alternating within each repeat.
* bound: how fast one core copies float32 values that are not in its caches,
  which limits every program that reads the predictions.
* evaluation: --num_videos videos through accumulate_top_k, then get(), in a
  separate process; its peak memory is that of the whole process.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

import eval_util

FLAGS = flags.FLAGS

if __name__ == "__main__":
  flags.DEFINE_integer("repeats", 7, "Repeats of each measurement.")
  flags.DEFINE_integer("batch_size", 1024, "Videos in a batch.")
  flags.DEFINE_integer("num_classes", 3862, "Classes of the vocabulary.")
  flags.DEFINE_integer("top_k", 20, "Predictions of each video that count.")
  flags.DEFINE_integer(
    "num_batches",
    8,
    "Different batches, enough to exceed the caches.",
  )
  flags.DEFINE_integer("num_videos", 1_000_000, "Videos of the evaluation.")
  flags.DEFINE_bool(
    "evaluation_only",
    False,
    "Only run one evaluation and print its figures as JSON.",
  )

LABELS_A_VIDEO = 3


def make_batches(random):
  """Returns {kind: list of (predictions, labels, label_weights)}."""
  shape = (FLAGS.batch_size, FLAGS.num_classes)
  kinds = {"float32": [], "multiples of 1/8": [], "segments": []}
  for _ in range(FLAGS.num_batches):
    # Most predictions of a trained model are close to 0.
    predictions = random.random(shape, np.float32) ** 8
    labels = random.random(shape, np.float32) < (
      LABELS_A_VIDEO / FLAGS.num_classes
    )
    ratings = labels | (
      random.random(shape, np.float32) < LABELS_A_VIDEO / FLAGS.num_classes
    )
    kinds["float32"].append((predictions, labels, None))
    kinds["multiples of 1/8"].append(
      (np.floor(predictions * 8) / 8, labels, None)
    )
    kinds["segments"].append((predictions, labels, ratings))
  return kinds


def seconds_of(function):
  """Returns the seconds that a call takes."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def accumulate_all(batches):
  """Accumulates all batches into new metrics."""
  metrics = eval_util.EvaluationMetrics(FLAGS.num_classes, FLAGS.top_k)
  for predictions, labels, label_weights in batches:
    metrics.accumulate(predictions, labels, 0.0, label_weights)


def time_accumulate():
  """Returns {kind: videos per second} and the bytes copied per second."""
  kinds = make_batches(np.random.default_rng(0))
  target = np.empty_like(kinds["float32"][0][0])

  def copy_all():
    for predictions, _, _ in kinds["float32"]:
      np.copyto(target, predictions)

  seconds = {kind: [] for kind in kinds}
  copy_seconds = []
  for _ in range(FLAGS.repeats):
    copy_seconds.append(seconds_of(copy_all))
    for kind, batches in kinds.items():
      seconds[kind].append(
        seconds_of(lambda part=batches: accumulate_all(part))
      )
  num_videos = FLAGS.num_batches * FLAGS.batch_size
  rates = {
    kind: num_videos / statistics.median(values)
    for kind, values in seconds.items()
  }
  copied = FLAGS.num_batches * target.nbytes
  return rates, copied / statistics.median(copy_seconds)


def peak_bytes():
  """Returns the largest memory of this process so far (Linux counts KiB)."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_evaluation():
  """Runs one evaluation; returns its figures."""
  random = np.random.default_rng(0)
  shape = (FLAGS.batch_size, FLAGS.top_k)
  # The batches are made before the clock starts, and reused.
  batches = []
  for _ in range(FLAGS.num_batches):
    # A few classes are labels of many videos, as in the data set.
    class_indexes = np.minimum(
      random.exponential(FLAGS.num_classes / 8, shape).astype(np.int32),
      FLAGS.num_classes - 1,
    )
    predictions = -np.sort(-random.random(shape, np.float32), axis=1)
    actuals = random.random(shape) < predictions * 0.3
    num_labels = actuals.sum(axis=1)
    num_positives = np.bincount(
      class_indexes[actuals], minlength=FLAGS.num_classes
    )
    batches.append(
      (class_indexes, predictions, actuals, num_labels, num_positives)
    )
  start_bytes = peak_bytes()
  metrics = eval_util.EvaluationMetrics(FLAGS.num_classes, FLAGS.top_k)

  def accumulate():
    for batch in range(FLAGS.num_videos // FLAGS.batch_size):
      metrics.accumulate_top_k(*batches[batch % len(batches)], loss=0.0)

  accumulate_seconds = seconds_of(accumulate)
  kept_bytes = peak_bytes()
  return {
    "accumulate_top_k_seconds": accumulate_seconds,
    "get_seconds": seconds_of(metrics.get),
    "start_bytes": start_bytes,
    "accumulated_bytes": kept_bytes,
    "peak_bytes": peak_bytes(),
  }


def time_evaluations():
  """Returns the medians of run_evaluation, each run in its own process."""
  command = [
    *(sys.executable, "-m", "benchmarks.bench_metrics"),
    *sys.argv[1:],
    "--evaluation_only",
  ]
  runs = [
    json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for _ in range(FLAGS.repeats)
  ]
  return {
    name: statistics.median(run[name] for run in runs) for name in runs[0]
  }


def main(_):
  """Times everything and prints the figures."""
  if FLAGS.evaluation_only:
    print(json.dumps(run_evaluation()))
    return
  # First, while this process is small: Linux includes the memory that a process
  # had before it became another program.
  evaluation = time_evaluations()
  rates, copied_a_second = time_accumulate()
  bytes_a_video = 4 * FLAGS.num_classes
  bound = copied_a_second / bytes_a_video
  for kind, rate in rates.items():
    print(
      f"accumulate, {kind}: {rate:,.0f} videos/s, {rate / bound:.1%} of the "
      f"bound of {bound:,.0f} videos/s ({bytes_a_video:,} bytes per video at "
      f"{copied_a_second / 1e9:.1f} GB/s)"
    )
  kept = evaluation["accumulated_bytes"] - evaluation["start_bytes"]
  print(
    f"evaluation of {FLAGS.num_videos:,} videos x {FLAGS.top_k}: "
    f"{evaluation['accumulate_top_k_seconds']:.2f} s to accumulate, "
    f"{evaluation['get_seconds']:.2f} s to get; the process grew by "
    f"{kept / FLAGS.num_videos:.0f} bytes per video and reached "
    f"{evaluation['peak_bytes'] / 2**20:.0f} MiB in total"
  )
  figures = {
    "accumulate_videos_per_second": rates,
    "copied_bytes_per_second": copied_a_second,
    "bound_videos_per_second": bound,
    "evaluation": evaluation,
    "num_videos": FLAGS.num_videos,
    "num_classes": FLAGS.num_classes,
    "batch_size": FLAGS.batch_size,
    "top_k": FLAGS.top_k,
    "repeats": FLAGS.repeats,
    "numpy": np.__version__,
    "python": platform.python_version(),
    "machine": platform.processor() or platform.machine(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  app.run(main)
