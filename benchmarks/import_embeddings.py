"""Times data_tools.import_embeddings, and measures its memory.

Usage, from the root of the repository:

  python -m benchmarks.import_embeddings --num_items=1000000

Makes embeddings of --num_items videos, one vector each, as .npy files with a
manifest, as one parquet file and as one tar of WebDataset, and imports each of
them --repeats times, alternating with a plain tf.io.TFRecordWriter that writes
as many records of the same size from memory. Each is a process of its own.
Prints readable lines and, at the end, one line of JSON with all figures.

* videos per second: from the first look at the source to the renamed folder;
  the median, and the lowest and highest.
* fraction: of the videos per second that the plain writer reaches, the median
  of the fractions of each repeat.
* memory: the peak of the process, and its memory before the import, when it
  had loaded TensorFlow.

A million items of 512 numbers take 15 GB of disk and, with three repeats, about
an hour, much of it to make the files.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time

import startup  # isort: skip
import numpy as np
import psutil
import tensorflow as tf
from absl import flags

from benchmarks.memory import peak_mib
from data_tools import import_embeddings
from engine import local_files
from engine.dataset_card import read_card
from engine.machine import processor_name

FLAGS = flags.FLAGS

SOURCES = ("npy", "parquet", "webdataset")
_PLAIN = "plain"
_NUM_CLASSES = 100
_CHUNK = 10_000


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_integer("num_items", 1_000_000, "Videos.", lower_bound=1)
  flags.DEFINE_integer("size", 512, "Numbers of each video.", lower_bound=1)
  flags.DEFINE_integer("repeats", 3, "Repeats of each.", lower_bound=1)
  flags.DEFINE_list("sources", list(SOURCES), "What to import.")
  flags.DEFINE_string(
    "data_dir",
    "/tmp/yt8m_bench_import",
    "Folder for the data, made if missing.",
  )
  flags.DEFINE_bool("delete_data", False, "Delete --data_dir at the end.")
  flags.DEFINE_string("only", "", "Do one of the sources once, print JSON.")


# --------------------------------------------------------------------------
# Sources


def _folder() -> str:
  return os.path.join(FLAGS.data_dir, f"{FLAGS.num_items}x{FLAGS.size}")


def _source_flag(source: str) -> str:
  """The flag that names a source."""
  folder = _folder()
  return {
    "npy": f"--manifest={folder}/npy/manifest.csv",
    "parquet": f"--parquet={folder}/parquet/videos.parquet",
    "webdataset": f"--webdataset={folder}/webdataset/videos.tar",
  }[source]


def _chunks():
  """Yields (first number, (some, size) float32) of all videos."""
  rng = np.random.default_rng(0)
  for first in range(0, FLAGS.num_items, _CHUNK):
    number = min(_CHUNK, FLAGS.num_items - first)
    yield first, rng.standard_normal((number, FLAGS.size), np.float32)


def _label(number: int) -> str:
  return f"class {number % _NUM_CLASSES}"


def _npy(vector) -> bytes:
  file = io.BytesIO()
  np.save(file, vector)
  return file.getvalue()


def _make_npy(folder: str) -> None:
  """Files of their own, a thousand in a folder."""
  with open(f"{folder}/manifest.csv", "w") as manifest:
    manifest.write("path,labels\n")
    for first, vectors in _chunks():
      for number, vector in enumerate(vectors, first):
        if number % 1000 == 0:
          os.mkdir(f"{folder}/{number // 1000:06}")
        path = f"{number // 1000:06}/video{number:09}.npy"
        manifest.write(f"{path},{_label(number)}\n")
        with open(f"{folder}/{path}", "wb") as file:
          file.write(_npy(vector))


def _make_parquet(folder: str) -> None:
  """One file, in the row groups that pyarrow makes by itself."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  schema = pa.schema(
    [
      ("id", pa.string()),
      ("labels", pa.string()),
      ("embedding", pa.list_(pa.float32())),
    ]
  )
  # One row group: the memory must not depend on its size.
  with pq.ParquetWriter(f"{folder}/videos.parquet", schema) as writer:
    batches = []
    for first, vectors in _chunks():
      numbers = range(first, first + len(vectors))
      batches.append(
        pa.record_batch(
          [
            pa.array([f"video{number:09}" for number in numbers]),
            pa.array([_label(number) for number in numbers]),
            pa.array(list(vectors), schema.field("embedding").type),
          ],
          schema,
        )
      )
    table = pa.Table.from_batches(batches)
    writer.write_table(table, row_group_size=FLAGS.num_items)


def _make_webdataset(folder: str) -> None:
  """One tar of .npy and .cls."""
  with tarfile.open(f"{folder}/videos.tar", "w") as tar:
    for first, vectors in _chunks():
      for number, vector in enumerate(vectors, first):
        for ending, content in (
          ("npy", _npy(vector)),
          ("cls", _label(number).encode()),
        ):
          info = tarfile.TarInfo(f"video{number:09}.{ending}")
          info.size = len(content)
          tar.addfile(info, io.BytesIO(content))
      tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _make(source: str) -> None:
  """Makes a source, unless it is there already."""
  folder = os.path.join(_folder(), source)
  if os.path.exists(folder):
    return
  print(f"Making {FLAGS.num_items} embeddings as {source}", flush=True)
  partial = f"{folder}.partial"
  shutil.rmtree(partial, ignore_errors=True)
  os.makedirs(partial)
  make = {
    "npy": _make_npy,
    "parquet": _make_parquet,
    "webdataset": _make_webdataset,
  }
  make[source](partial)
  os.rename(partial, folder)


# --------------------------------------------------------------------------
# Measurements, each in a process of its own


def _import_once(source: str) -> dict:
  """Imports a source; returns seconds, memory and the bytes of a record."""
  output = os.path.join(FLAGS.data_dir, "imported")
  shutil.rmtree(output, ignore_errors=True)
  import_embeddings.define_flags()
  FLAGS([sys.argv[0], _source_flag(source), f"--output_dir={output}"])
  start_mb = psutil.Process().memory_info().rss / (1 << 20)
  began = time.perf_counter()
  import_embeddings.main()
  seconds = time.perf_counter() - began
  peak_mb = peak_mib()
  splits = read_card(output).splits
  written = sum(
    entry.stat().st_size
    for entry in os.scandir(output)
    if entry.name.endswith(".tfrecord")
  )
  shutil.rmtree(output)
  num_videos = sum(of["videos"] for of in splits.values())
  if num_videos != FLAGS.num_items:
    raise AssertionError(f"{num_videos} videos instead of {FLAGS.num_items}")
  return {
    "seconds": seconds,
    "peak_mb": peak_mb,
    "start_mb": start_mb,
    "record_bytes": written // num_videos - 16,  # length and checksums
  }


def _write_plainly(record_bytes: int) -> dict:
  """Writes records of equal size from memory; returns the seconds."""
  record = np.random.default_rng(0).bytes(record_bytes)
  path = os.path.join(FLAGS.data_dir, "plain.tfrecord")
  began = time.perf_counter()
  with tf.io.TFRecordWriter(path) as writer:
    for _ in range(FLAGS.num_items):
      writer.write(record)
  local_files.flush(path)  # as the program does
  seconds = time.perf_counter() - began
  os.remove(path)
  return {"seconds": seconds}


def _measure(what: str) -> dict:
  """Runs one measurement in a process."""
  command = [sys.executable, "-m", "benchmarks.import_embeddings"]
  values = (
    f"--{name}={getattr(FLAGS, name)}"
    for name in ("num_items", "size", "data_dir")
  )
  process = subprocess.run(
    [*command, *values, f"--only={what}"],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(process.stdout.splitlines()[-1])


def _summary(rates: list[float]) -> dict:
  return {
    "median": round(statistics.median(rates), 1),
    "lowest": round(min(rates), 1),
    "highest": round(max(rates), 1),
  }


def main() -> None:
  """Measures everything, or does one thing in the process of a measurement."""
  if FLAGS.only:
    source, _, record_bytes = FLAGS.only.partition(":")
    plain = source == _PLAIN
    done = _write_plainly(int(record_bytes)) if plain else _import_once(source)
    print(json.dumps(done))
    return
  for source in FLAGS.sources:
    _make(source)
  found: dict[str, list[dict]] = {source: [] for source in FLAGS.sources}
  plain_rates = []
  for _ in range(FLAGS.repeats):
    for source in FLAGS.sources:
      found[source].append(_measure(source))
      record_bytes = found[source][0]["record_bytes"]
      plain = _measure(f"{_PLAIN}:{record_bytes}")
      found[source][-1]["plain_seconds"] = plain["seconds"]
      plain_rates.append(FLAGS.num_items / plain["seconds"])
  figures = {
    "machine": processor_name(),
    "cores": os.cpu_count(),
    "num_items": FLAGS.num_items,
    "size": FLAGS.size,
    "plain_videos_per_second": _summary(plain_rates),
  }
  _report(found, figures)
  print(json.dumps(figures))
  if FLAGS.delete_data:
    shutil.rmtree(FLAGS.data_dir)


def _report(found: dict[str, list[dict]], figures: dict) -> None:
  """Prints a line for each source, and adds its figures."""
  for source, runs in found.items():
    fractions = [run["plain_seconds"] / run["seconds"] for run in runs]
    rates = [FLAGS.num_items / run["seconds"] for run in runs]
    figures[source] = of = {
      "videos_per_second": _summary(rates),
      "fraction": round(statistics.median(fractions), 3),
      "peak_mb": round(max(run["peak_mb"] for run in runs)),
      "start_mb": round(statistics.median(run["start_mb"] for run in runs)),
    }
    print(
      f"{source}: {of['videos_per_second']['median']:.0f} videos/s,"
      f" {of['fraction']:.2f} of a plain TFRecordWriter; at most"
      f" {of['peak_mb']} MB, {of['start_mb']} MB before the import"
    )


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
