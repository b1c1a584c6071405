"""Runs all benchmarks: python -m benchmarks.run_all.

Measures the limits of this machine (matrix products, reading TFRecords with
checksums, copying memory) and, in the same run: the input pipeline; the
training of every model by train.py, from files to updated weights with logging;
whole runs of eval.py and inference.py; how cost grows with the data; how fast a
resumed run finds its position; and the metrics. Prints the figures with
machine, versions and commit as JSON, and writes them to a file in
benchmarks/results/. --models selects a few models for a shorter run.
"""

import contextlib
import datetime
import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import startup  # isort: skip
import keras
import numpy as np
import tensorflow as tf
from absl import flags

import models
from benchmarks import matrix_work
from benchmarks.memory import peak_mib
from data_tools import sample_data
from data_tools.sample_videos import Settings
from engine.data import Data
from engine.data_files import find_files
from engine.files import write_json
from engine.machine import commit, processor_name, versions
from engine.model_flags import require_model_flags

FLAGS = flags.FLAGS

_REPEATS = 5
_MEAN_FRAMES = 210  # of the frame-level videos made here
_SECONDS_A_MODEL = 15.0
_TIMES_THE_DATA = (4, 20)

# Every model with flags that differ from its defaults.
TRAINED = (
  ("LogisticModel", "--frame_features=False"),
  ("LogisticModel", "--frame_features=False", "--mixed_precision=bfloat16"),
  ("MoeModel", "--frame_features=False"),
  ("DeepNnModel", "--frame_features=False"),
  ("FrameLevelLogisticModel", "--batch_size=128"),
  (
    "FrameLevelLogisticModel",
    "--batch_size=128",
    "--mixed_precision=bfloat16",
  ),
  ("DbofModel", "--batch_size=128"),
  ("DbofModel", "--batch_size=128", "--mixed_precision=bfloat16"),
  ("LstmModel", "--batch_size=128"),
  ("LstmModel", "--batch_size=128", "--mixed_precision=bfloat16"),
  ("StreamLstmModel",),
  ("BiLstmModel",),
  ("NnStreamLstmModel",),
  ("AutoencoderConcatModel",),
  ("SimpleRnnModel",),
  ("CnnLstmModel",),
  ("RandomFrameModel",),
  ("TransformerModel",),
  ("GruModel",),
  ("NetVladModel",),
  ("NetFvModel",),
  ("SoftDbowModel",),
  ("NextVladModel",),
  ("MixNextVladModel",),
  ("AttentionLstmModel",),
  ("AttentionClusterModel",),
)


def _rate(function, amount) -> float:
  """Median of amount/second over repeats, after one call to warm up."""
  function()
  rates = []
  for _ in range(_REPEATS):
    began = time.perf_counter()
    function()
    rates.append(amount / (time.perf_counter() - began))
  return statistics.median(rates)


def measure_products(dtype=tf.float32) -> float:
  """TensorFlow's rate of products of 2048 x 2048 matrices, in GFLOP/s."""
  matrix = tf.cast(tf.random.uniform((2048, 2048)), dtype)
  product = tf.function(tf.matmul, autograph=False)
  return _rate(
    lambda: [product(matrix, matrix) for _ in range(10)],
    10 * 2 * 2048**3 / 1e9,
  )


def measure_limits() -> dict:
  """The machine's limits.

  Returns:
    matmul_gflops and matmul_bfloat16_gflops, and copy_gb_per_s (256 MB, bytes
    copied).
  """
  limits = {
    "matmul_gflops": measure_products(),
    "matmul_bfloat16_gflops": measure_products(tf.bfloat16),
  }
  source = np.ones(256 << 20, np.uint8)
  target = np.empty_like(source)
  limits["copy_gb_per_s"] = _rate(
    lambda: np.copyto(target, source), source.nbytes / 1e9
  )
  return limits


def make_data(folder: str) -> None:
  """Makes the data once: 16,384 video-level and 2,048 frame-level videos."""
  if not os.path.exists(f"{folder}/video"):
    sample_data.make_sample_data(
      f"{folder}/video",
      Settings(
        num_videos=16384,
        num_validate_videos=20000,
        num_test_videos=8,
        num_shards=8,
        levels=("video",),
      ),
    )
  if not os.path.exists(f"{folder}/frame"):
    sample_data.make_sample_data(
      f"{folder}/frame",
      Settings(
        num_videos=2048,
        num_validate_videos=8,
        num_test_videos=8,
        min_frames=120,
        max_frames=300,
        num_shards=8,
        levels=("frame",),
      ),
    )
  for times in _TIMES_THE_DATA:
    os.makedirs(f"{folder}/{times}_times", exist_ok=True)
    for file in glob.glob(f"{folder}/frame/frame/train*.tfrecord"):
      for copy in range(times):
        name = f"{folder}/{times}_times/{copy}-{os.path.basename(file)}"
        if not os.path.exists(name):
          shutil.copy(file, name)


def _files(folder, level) -> list[str]:
  return find_files(f"{folder}/{level}/{level}/train*.tfrecord", "data_dir")


def model_flags_of(level: str) -> dict:
  """Flags that read both features."""
  is_frame = level == "frame"
  return {
    "feature_names": "rgb,audio" if is_frame else "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
    "frame_features": is_frame,
    "num_classes": 3862,
    "max_frames": 300,
  }


def steady_rate(dataset, batch_size, warm_up=20, timed=60) -> float:
  """Records/s of a long dataset once its buffers are full."""
  iterator = iter(dataset)
  for _ in range(warm_up):
    next(iterator)
  began = time.perf_counter()
  for _ in range(timed):
    next(iterator)
  return timed * batch_size / (time.perf_counter() - began)


def measure_input(folder: str) -> dict:
  """Videos/s of reading without parsing and of whole input pipelines.

  Each is the median of several repeats. They alternate, so that ratios are
  meaningful on a noisy machine.
  """
  rates = {}
  for level, batch_size in (("frame", 128), ("video", 1024)):
    files = _files(folder, level)
    model_flags = model_flags_of(level)
    data = Data(model_flags, files, with_labels=True)
    again = 10 * files  # long enough to be timed
    data_again = Data(model_flags, again, with_labels=True)
    pipelines = {
      f"raw_read_{level}": tf.data.TFRecordDataset(
        again, num_parallel_reads=2
      ).batch(batch_size),
      f"evaluation_input_{level}": data_again.evaluation_batches(batch_size),
      f"training_input_{level}": data.training_batches(batch_size),
    }
    found = {name: [] for name in pipelines}
    for _ in range(_REPEATS):
      for name, dataset in pipelines.items():
        found[name].append(steady_rate(dataset, batch_size))
    rates |= {name: statistics.median(of) for name, of in found.items()}
  return rates


def _run(*arguments) -> tuple[float, float]:
  """Runs a program; returns its seconds and its peak memory in GiB."""
  began = time.perf_counter()
  peak = 0.0
  with tempfile.TemporaryFile("w+") as log:
    process = subprocess.Popen(
      [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=log
    )
    while process.poll() is None:
      peak = max(peak, peak_mib(process.pid) / 1024)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)
    seconds = time.perf_counter() - began
    log.seek(0)
    if process.returncode:
      raise RuntimeError(f"{arguments} failed:\n{log.read()}")
  return seconds, peak


_STEP_LINE = re.compile(r"training step (\d+) ")


def watch_training(arguments, seconds):
  """Runs train.py without a limit, and stops it after a while.

  Returns:
    Steps per second, without the first ones, which compile and fill the memory
    that allocators keep; seconds until the first report of a step; the peak
    memory of the process in GiB.
  """
  began = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, "train.py", *arguments, "--num_epochs=0"],
    stderr=subprocess.PIPE,
    text=True,
  )
  reports, log, first = [], [], 1
  try:
    for line in process.stderr or ():
      log.append(line)
      found = _STEP_LINE.search(line)
      if found:
        reports.append((time.perf_counter() - began, int(found.group(1))))
        # Steps of many seconds are similar from the second one on.
        slow = len(reports) > 1 and reports[1][0] - reports[0][0] > 3.0
        first = 1 if slow else 3
        if len(reports) > first + 1 and (
          reports[-1][0] - reports[first][0] > seconds
        ):
          break
    if len(reports) < first + 2:
      raise RuntimeError(f"{arguments} ended:\n{''.join(log[-20:])}")
    peak = peak_mib(process.pid) / 1024
  finally:
    process.kill()
    process.wait()
  (first_time, first_step), (last_time, last_step) = (
    reports[first],
    reports[-1],
  )
  rate = (last_step - first_step) / (last_time - first_time)
  return rate, reports[0][0], peak


def measure_training(folder, model, *more, seconds=_SECONDS_A_MODEL) -> dict:
  """Trains a model from files for a while.

  Args:
    folder: of the data.
    model: name of the class.
    *more: flags of train.py.
    seconds: the least time to measure, once it is running.

  Returns:
    videos_per_s; fraction_of_matmul, the rate of its products divided by the
    rate of large products just before and after; and peak_gib, of the process.
  """
  level = "video" if "--frame_features=False" in more else "frame"
  dtype = tf.float32
  if "--mixed_precision=bfloat16" in more:
    dtype = tf.bfloat16
  batch_size = models.find_class_by_name(model).batch_size
  if "--batch_size=128" in more:
    batch_size = 128
  limits = [measure_products(dtype)]
  with tempfile.TemporaryDirectory() as train_dir:
    steps_per_s, first_seconds, peak = watch_training(
      [
        f"--train_dir={train_dir}",
        f"--train_data_pattern={folder}/{level}/{level}/train*.tfrecord",
        "--frame_features=True",
        f"--model={model}",
        *more,
      ],
      seconds,
    )
    model_flags = require_model_flags(train_dir)
  limits.append(measure_products(dtype))
  gflop = matrix_work.gflop_per_video(model_flags, batch_size, _MEAN_FRAMES)
  keras.backend.clear_session()
  rate = steps_per_s * batch_size
  return {
    "batch_size": batch_size,
    "videos_per_s": rate,
    "gflop_per_video": gflop,
    "fraction_of_matmul": rate * gflop / statistics.mean(limits),
    "seconds_to_first_report": first_seconds,
    "peak_gib": peak,
  }


def measure_programs(folder: str) -> dict:
  """Seconds of whole eval.py and inference.py runs on 20,000 videos.

  They alternate with an import of TensorFlow, which is also timed.
  """
  seconds = {}
  pattern = f"{folder}/video/video/validate*.tfrecord"
  with tempfile.TemporaryDirectory() as train_dir:
    _run(
      "train.py",
      f"--train_dir={train_dir}",
      f"--train_data_pattern={folder}/video/video/train*.tfrecord",
      "--max_steps=3",
    )
    programs = {
      "import_tensorflow": ["-c", "import startup"],
      "eval": [
        "eval.py",
        "--run_once",
        f"--train_dir={train_dir}",
        f"--eval_data_pattern={pattern}",
      ],
      "inference": [
        "inference.py",
        f"--train_dir={train_dir}",
        f"--input_data_pattern={pattern}",
        f"--output_file={train_dir}/predictions.csv",
      ],
    }
    found = {name: [] for name in programs}
    for _ in range(_REPEATS):
      for name, arguments in programs.items():
        found[name].append(_run(*arguments)[0])
  imports = found["import_tensorflow"]
  for name, of in found.items():
    seconds[f"{name}_seconds"] = statistics.median(of)
    if name != "import_tensorflow":
      seconds[f"{name}_seconds_beyond_import"] = statistics.median(
        whole - start for whole, start in zip(of, imports, strict=True)
      )
  return seconds


def measure_growth(folder: str) -> dict:
  """FrameLevelLogisticModel on the frame-level data and 10 and 100 times it.

  Returns:
    By program and number of videos: seconds and peak memory in GiB of the whole
    process; and, except for the smallest, videos_per_s, computed from the
    additional videos and seconds compared with the next smaller size, so that
    the start does not count.
  """
  sizes = {2048: f"{folder}/frame/frame/train*.tfrecord"} | {
    2048 * times: f"{folder}/{times}_times/*.tfrecord"
    for times in _TIMES_THE_DATA
  }
  figures = {}
  with tempfile.TemporaryDirectory() as train_dir:
    for program, data_flag, *more in (
      (
        "train.py",
        "train_data_pattern",
        "--model=FrameLevelLogisticModel",
        "--frame_features=True",
        "--batch_size=128",
        "--num_epochs=1",
        "--start_new_model",
      ),
      ("eval.py", "eval_data_pattern", "--run_once"),
      (
        "inference.py",
        "input_data_pattern",
        f"--output_file={train_dir}/predictions.csv",
      ),
    ):
      figures[program] = {}
      before = None
      for videos, pattern in sizes.items():
        seconds, peak = _run(
          program, f"--train_dir={train_dir}", f"--{data_flag}={pattern}", *more
        )
        found = {"seconds": seconds, "peak_gib": peak}
        if before:
          found["videos_per_s"] = (videos - before[0]) / (seconds - before[1])
        figures[program][videos] = found
        before = videos, seconds
  return figures


def measure_resuming(folder: str) -> dict:
  """Seconds until a resumed run has its place and its first batch.

  The run was stopped after 80 % of an epoch of 204,800 frame-level videos, made
  of links to the same files.

  Returns:
    place_seconds and batch_seconds, for walks that are kept, and place_seconds
    where none is.
  """
  files = _files(folder, "frame")
  with tempfile.TemporaryDirectory() as links:
    many = []
    for copy in range(100):
      for file in files:
        many.append(f"{links}/{copy}-{os.path.basename(file)}")
        os.symlink(file, many[-1])
    data = Data(model_flags_of("frame"), many, with_labels=True)
    found = {"place": [], "batch": [], "place_without_walks": []}
    for _ in range(_REPEATS):
      for name in ("place_without_walks", "place"):
        if name != "place":  # nothing can be kept there
          os.environ["XDG_CACHE_HOME"] = os.devnull
        began = time.perf_counter()
        place = data.order(seed=0).place_after(163_840)
        found[name].append(time.perf_counter() - began)
        os.environ.pop("XDG_CACHE_HOME", None)
      began = time.perf_counter()
      next(iter(data.training_batches(128, place=place)))
      found["batch"].append(time.perf_counter() - began)
  return {
    f"{name}_seconds": statistics.median(of) for name, of in found.items()
  }


def machine() -> dict:
  """Describes the run: processor, versions, commit."""
  return {
    "processor": processor_name(),
    "cores": os.cpu_count(),
    **versions(),
    "commit": commit(),
    "date": datetime.date.today().isoformat(),
    "command": " ".join(["python -m benchmarks.run_all", *sys.argv[1:]]),
  }


def result_path(about: dict) -> str:
  """The file for the figures of a machine, from the result of `machine`."""
  processor = re.sub(r"\([^)]*\)|@.*", "", about["processor"]).lower()
  words = re.findall(r"[a-z0-9]+", processor)[:3]
  name = "_".join([about["date"], *words, str(about["cores"]), "cores"])
  folder = os.path.join(os.path.dirname(__file__), "results")
  return os.path.join(folder, f"{name}.json")


def main() -> None:
  """Measures everything, prints it and writes it to a file."""
  folder = FLAGS.data_dir
  make_data(folder)
  figures = {"machine": machine(), "limits": measure_limits()}
  figures["input"] = measure_input(folder)
  figures["resuming"] = measure_resuming(folder)
  figures["programs_20000_videos"] = measure_programs(folder)
  figures["growth"] = measure_growth(folder)
  training = figures["training"] = {}
  for model, *more in TRAINED:
    if FLAGS.models and model not in FLAGS.models:
      continue
    is_half = "--mixed_precision=bfloat16" in more
    name = f"{model} bfloat16" if is_half else model
    training[name] = measure_training(folder, model, *more)
    print(name, json.dumps(training[name]), file=sys.stderr, flush=True)
  metrics = subprocess.run(
    [sys.executable, "-m", "benchmarks.bench_metrics"],
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  figures["metrics"] = json.loads(metrics.strip().splitlines()[-1])
  text = json.dumps(figures, indent=2)
  print(text)
  path = FLAGS.output_file
  if path is None:
    path = result_path(figures["machine"])
  if path:
    write_json(path, figures)
    print(f"Written to {path}", file=sys.stderr)
  if FLAGS.delete_data:
    shutil.rmtree(folder)


if __name__ == "__main__":
  flags.DEFINE_string(
    "data_dir", "/tmp/yt8m_bench_data", "Folder for the data, made if missing."
  )
  flags.DEFINE_string(
    "output_file",
    None,
    "JSON file to write; default: one in benchmarks/results/ named after the"
    " day and the processor; empty: none.",
  )
  flags.DEFINE_list("models", [], "Models to train; empty: all.")
  flags.DEFINE_bool("delete_data", False, "Delete --data_dir at the end.")
  startup.run(main)
