"""Times what the design must reach: python -m benchmarks.run_all.

Measures in one run this machine's limits (matrix products, reading TFRecords,
copying memory) and beside them the input pipeline, training from files to
updated weights through train.py itself with logging on, evaluation through
eval.py, and the metrics. Prints the figures with machine, versions and commit
as JSON, and writes them to a file in benchmarks/results/.
"""

import datetime
import json
import os
import platform
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

import readers
import train_dir as train_dirs
from data_tools import sample_data

FLAGS = flags.FLAGS

_REPEATS = 5


def _rate(function, amount) -> float:
  """Median of amount/second over repeats, after one call to warm up."""
  function()
  rates = []
  for _ in range(_REPEATS):
    began = time.perf_counter()
    function()
    rates.append(amount / (time.perf_counter() - began))
  return statistics.median(rates)


def measure_limits() -> dict:
  """The machine's limits.

  Returns:
    matmul_gflops and matmul_bfloat16_gflops (TensorFlow, 2048 x 2048), and
    copy_gb_per_s (256 MB, bytes copied).
  """
  limits = {}
  for name, dtype in (
    ("matmul_gflops", tf.float32),
    ("matmul_bfloat16_gflops", tf.bfloat16),
  ):
    matrix = tf.cast(tf.random.uniform((2048, 2048)), dtype)
    product = tf.function(tf.matmul)
    limits[name] = _rate(
      lambda product=product, matrix=matrix: [
        product(matrix, matrix) for _ in range(10)
      ],
      10 * 2 * 2048**3 / 1e9,
    )
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
      sample_data.Settings(
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
      sample_data.Settings(
        num_videos=2048,
        num_validate_videos=8,
        num_test_videos=8,
        min_frames=120,
        max_frames=300,
        num_shards=8,
        levels=("frame",),
      ),
    )


def _files(folder, level) -> list[str]:
  return readers.find_files(
    f"{folder}/{level}/{level}/train*.tfrecord", "data_dir"
  )


def _steady_rate(dataset, batch_size, warm_up=20, timed=60) -> float:
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

  Each is the median of several; they are measured in turn, so that their ratio
  means something on a noisy machine.
  """
  rates = {}
  for level, names, sizes, batch_size in (
    ("frame", "rgb,audio", "1024,128", 128),
    ("video", "mean_rgb,mean_audio", "1024,128", 1024),
  ):
    files = _files(folder, level)
    reader = readers.open_reader(
      {
        "feature_names": names,
        "feature_sizes": sizes,
        "frame_features": level == "frame",
        "num_classes": 3862,
        "max_frames": 300,
      },
      files,
      with_labels=True,
    )
    again = 10 * files  # long enough to be timed
    pipelines = {
      f"raw_read_{level}": tf.data.TFRecordDataset(
        again, buffer_size=1 << 20, num_parallel_reads=4
      ).batch(batch_size),
      f"evaluation_input_{level}": readers.evaluation_batches(
        reader, again, batch_size
      ),
      f"training_input_{level}": readers.training_batches(
        reader, files, batch_size
      ),
    }
    found = {name: [] for name in pipelines}
    for _ in range(_REPEATS):
      for name, dataset in pipelines.items():
        found[name].append(_steady_rate(dataset, batch_size))
    rates |= {name: statistics.median(of) for name, of in found.items()}
  return rates


def _run(*arguments) -> str:
  return subprocess.run(
    [sys.executable, *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stderr


_TIME_AND_STEP = re.compile(
  r"^I\d+ (\d+):(\d+):([\d.]+) .*training step (\d+) ", re.MULTILINE
)


def measure_training(folder, level, model, batch_size, steps, *more) -> dict:
  """Runs train.py; gives videos/s of the second half of its log lines."""
  with tempfile.TemporaryDirectory() as train_dir:
    log = _run(
      "train.py",
      f"--train_dir={train_dir}",
      f"--train_data_pattern={folder}/{level}/{level}/train*.tfrecord",
      f"--model={model}",
      f"--batch_size={batch_size}",
      f"--frame_features={level == 'frame'}",
      f"--max_steps={steps}",
      "--num_epochs=0",
      *more,
    )
  lines = [
    (int(hour) * 3600 + int(minute) * 60 + float(second), int(step))
    for hour, minute, second, step in _TIME_AND_STEP.findall(log)
  ]
  lines = lines[len(lines) // 2 :]
  seconds = lines[-1][0] - lines[0][0]
  rate = (lines[-1][1] - lines[0][1]) * batch_size / seconds
  return {"videos_per_s": rate}


def measure_programs(folder: str) -> dict:
  """Seconds of whole eval.py and inference.py runs on 20,000 videos."""
  seconds = {}
  pattern = f"{folder}/video/video/validate*.tfrecord"
  with tempfile.TemporaryDirectory() as train_dir:
    _run(
      "train.py",
      f"--train_dir={train_dir}",
      f"--train_data_pattern={folder}/video/video/train*.tfrecord",
      "--max_steps=3",
    )
    for name, arguments in (
      ("import_tensorflow", ["-c", "import startup"]),
      ("eval", ["eval.py", "--run_once", f"--eval_data_pattern={pattern}"]),
      (
        "inference",
        [
          "inference.py",
          f"--input_data_pattern={pattern}",
          f"--output_file={train_dir}/predictions.csv",
        ],
      ),
    ):
      if name != "import_tensorflow":
        arguments.append(f"--train_dir={train_dir}")
      times = []
      for _ in range(3):
        began = time.perf_counter()
        _run(*arguments)
        times.append(time.perf_counter() - began)
      seconds[f"{name}_seconds"] = statistics.median(times)
  return seconds


def machine() -> dict:
  """What ran: processor, versions, commit."""
  with open("/proc/cpuinfo") as file:
    models = re.findall(r"model name\s*: (.*)", file.read())
  commit = subprocess.run(
    ["git", "describe", "--always", "--dirty"],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.strip()
  return {
    "processor": models[0] if models else platform.processor(),
    "cores": os.cpu_count(),
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "numpy": np.__version__,
    "commit": commit,
    "date": datetime.date.today().isoformat(),
    "command": "python -m benchmarks.run_all",
  }


def result_path(about: dict) -> str:
  """Where the figures of a machine go, from what `machine` gives."""
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
  flops = 2 * 2 * 1024 * 3862  # forward and the gradient of the weights
  training = {}
  for name, arguments in {
    "LogisticModel": ("video", "LogisticModel", 1024, 200),
    "LogisticModel bfloat16": (
      "video",
      "LogisticModel",
      1024,
      240,
      "--mixed_precision=bfloat16",
    ),
    "MoeModel": ("video", "MoeModel", 1024, 40),
    "FrameLevelLogisticModel": ("frame", "FrameLevelLogisticModel", 128, 240),
    "FrameLevelLogisticModel bfloat16": (
      "frame",
      "FrameLevelLogisticModel",
      128,
      240,
      "--mixed_precision=bfloat16",
    ),
  }.items():
    training[name] = measure_training(folder, *arguments)
    if arguments[1] == "LogisticModel":
      gflops = training[name]["videos_per_s"] * flops / 1e9
      kind = "matmul_bfloat16_gflops" if "bf" in name else "matmul_gflops"
      training[name]["fraction_of_matmul"] = gflops / figures["limits"][kind]
  figures["training"] = training
  figures["programs_20000_videos"] = measure_programs(folder)
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
    train_dirs.write_json(path, figures)
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
  flags.DEFINE_bool("delete_data", False, "Delete --data_dir at the end.")
  startup.run(main)
