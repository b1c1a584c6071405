"""Times data_tools.inspect_dataset against a raw read of the same files.

Usage, from the root of the repository:

  python -m benchmarks.inspect_dataset --output_dir=/tmp/inspected

makes records of --num_videos videos in output_dir, unless they are there from
an earlier start, and prints readable lines and, at the end, one line of JSON
with all figures:

* raw read: the bytes of the files are read, and nothing is done with them.
* inspection: what the program does, without the page; in a separate process,
  whose peak memory is given too, and the peak of one that inspects nothing but
  a few videos, so that the difference is what the videos take.

The two alternate, and the files are in the system's cache where they fit.
"""

import glob
import json
import os
import statistics
import subprocess
import sys
import time

import startup  # isort: skip # noqa: F401
import numpy as np
from absl import app, flags

from benchmarks.memory import peak_mib
from data_tools import inspect_dataset
from engine import files
from engine.machine import processor_name
from records.writing import RecordWriter, frame_record, video_record

FLAGS = flags.FLAGS

_VIDEOS_A_FILE = 10_000
_READ_BYTES = 8 << 20
_NUM_CLASSES = 3862
_FEW_VIDEOS = 100

if __name__ == "__main__":
  flags.DEFINE_string("output_dir", "", "Folder for the records; required.")
  flags.DEFINE_integer("num_videos", 1_000_000, "Videos to make.")
  flags.DEFINE_enum(
    "level", "video", ["video", "frame"], "What each record holds."
  )
  flags.DEFINE_integer("num_frames", 230, "Frames of a video.")
  flags.DEFINE_integer("repeats", 3, "Repeats of each measurement.")
  flags.DEFINE_integer("num_readers", 8, "Threads that read.")
  flags.DEFINE_string(
    "inspect_only", "", "Only inspect this pattern and print JSON."
  )


def _record(random, video_id: str, level: str) -> bytes:
  """A record of YouTube-8M's form."""
  labels = np.unique(random.integers(0, _NUM_CLASSES, 3)).tolist()
  if level == "video":
    numbers = random.standard_normal(1152, np.float32)
    vectors = {"mean_rgb": numbers[:1024], "mean_audio": numbers[1024:]}
    return video_record(video_id.encode(), labels, vectors)
  content = random.bytes(FLAGS.num_frames * 1152)
  frames = np.frombuffer(content, np.uint8).reshape(-1, 1152)
  return frame_record(
    video_id.encode(),
    labels,
    {"rgb": frames[:, :1024], "audio": frames[:, 1024:]},
  )


def make_files(folder: str, num_videos: int, level: str) -> list[str]:
  """Makes the files that are not there yet; returns all of them.

  Args:
    folder: for the files.
    num_videos: in all files.
    level: "video" or "frame".
  """
  paths = []
  for first in range(0, num_videos, _VIDEOS_A_FILE):
    count = min(_VIDEOS_A_FILE, num_videos - first)
    name = f"{level}_{first}_{count}.tfrecord"
    path = os.path.join(folder, name)
    paths.append(path)
    if os.path.exists(path):
      continue
    random = np.random.default_rng(first)
    with files.written_aside(path) as aside, RecordWriter(aside) as writer:
      for number in range(first, first + count):
        writer.write(_record(random, f"{number:08d}", level))
  return paths


def raw_read(paths: list[str]) -> float:
  """Seconds to read the bytes of files, one file after the other."""
  buffer = bytearray(_READ_BYTES)
  began = time.perf_counter()
  for path in paths:
    with open(path, "rb", buffering=0) as file:
      while file.readinto(buffer):
        pass
  return time.perf_counter() - began


def inspect(pattern: str) -> dict:
  """Inspects files in this process.

  Returns:
    seconds, videos, and peak_mib of the process.
  """
  sources = inspect_dataset.find_sources([pattern])
  began = time.perf_counter()
  inspection, _ = inspect_dataset.inspect(
    sources, num_threads=FLAGS.num_readers
  )
  seconds = time.perf_counter() - began
  return {
    "seconds": seconds,
    "videos": inspection.total().num_videos,
    "peak_mib": peak_mib(),
  }


def _inspect_apart(pattern: str) -> dict:
  """As `inspect`, in a separate process."""
  command = [
    *(sys.executable, "-m", "benchmarks.inspect_dataset"),
    f"--inspect_only={pattern}",
    f"--num_readers={FLAGS.num_readers}",
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main(argv):
  """Makes the records, measures, prints."""
  del argv
  if FLAGS.inspect_only:
    print(json.dumps(inspect(FLAGS.inspect_only)))
    return
  if not FLAGS.output_dir:
    raise app.UsageError(
      "Expected --output_dir=FOLDER for the records, received none.", 2
    )
  few = make_files(os.path.join(FLAGS.output_dir, "few"), _FEW_VIDEOS, "video")
  folder = os.path.join(FLAGS.output_dir, f"{FLAGS.level}_{FLAGS.num_videos}")
  paths = make_files(folder, FLAGS.num_videos, FLAGS.level)
  pattern = os.path.join(glob.escape(folder), "*.tfrecord")
  size = sum(os.path.getsize(path) for path in paths)
  raw, inspected = [], []
  for _ in range(FLAGS.repeats):
    raw.append(raw_read(paths))
    inspected.append(_inspect_apart(pattern))
  seconds = statistics.median(one["seconds"] for one in inspected)
  figures = {
    "machine": processor_name(),
    "cores": os.cpu_count(),
    "numpy": np.__version__,
    "level": FLAGS.level,
    "videos": inspected[0]["videos"],
    "gigabytes": size / 1e9,
    "raw_videos_per_second": FLAGS.num_videos / statistics.median(raw),
    "videos_per_second": FLAGS.num_videos / seconds,
    "part_of_raw": statistics.median(raw) / seconds,
    "peak_mib": max(one["peak_mib"] for one in inspected),
    "peak_mib_of_few": _inspect_apart(few[0])["peak_mib"],
  }
  print(
    f"raw read    {figures['raw_videos_per_second']:10.0f} videos/s\n"
    f"inspection  {figures['videos_per_second']:10.0f} videos/s,"
    f" {figures['part_of_raw']:.1%} of the raw read\n"
    f"peak memory {figures['peak_mib']:10.0f} MiB,"
    f" {figures['peak_mib_of_few']:.0f} MiB with {_FEW_VIDEOS} videos"
  )
  print(json.dumps(figures))


if __name__ == "__main__":
  app.run(main)
