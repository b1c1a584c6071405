"""Times training on embeddings that are stored as float32, float16 and uint8.

Usage, from the root of the repository:

  python -m benchmarks.stored_dtypes

Makes the same random embeddings, frame by frame, in each --store of
data_tools.import_embeddings. Prints readable lines and, at the end, one line of
JSON with all figures, each a median over --repeats in which the stores
alternate:

* input: videos per second of the training batches, without a model.
* training: videos per second of train.py, --model with batches of 128.

"of float32" is the median of the ratios within each repeat.
"""

import json
import os
import statistics
import sys
import tempfile

import startup  # isort: skip
import numpy as np
from absl import flags

from benchmarks import run_all
from data_tools.dataset_writer import DatasetWriter, Options
from data_tools.item_table import Item
from data_tools.number_stores import STORES
from engine.data import Data
from engine.data_files import find_files
from engine.dataset_card import read_card

FLAGS = flags.FLAGS

_BATCH_SIZE = 128
_NUM_CLASSES = 10
_FIRST = "float32"


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_integer("num_videos", 4000, "Videos.", lower_bound=1)
  flags.DEFINE_integer("frames", 100, "Frames of each.", lower_bound=1)
  flags.DEFINE_integer("size", 512, "Numbers of each frame.", lower_bound=1)
  flags.DEFINE_integer("repeats", 5, "Repeats of each.", lower_bound=1)
  flags.DEFINE_float("seconds", 8.0, "The least time of each training.")
  flags.DEFINE_string("model", "FrameLevelLogisticModel", "Model to train.")


def make_data(folder: str) -> None:
  """Makes a data set for each store, in a folder of its name."""
  shape = (FLAGS.frames, FLAGS.size)
  items = [
    Item(f"{number:06}", {"embedding": ""}, [str(number % _NUM_CLASSES)])
    for number in range(FLAGS.num_videos)
  ]

  def read(item: Item) -> dict[str, np.ndarray]:
    random = np.random.default_rng(int(item.video_id))
    return {"embedding": random.standard_normal(shape, np.float32)}

  names = [str(index) for index in range(_NUM_CLASSES)]
  for store in STORES:
    splits = ["train"] * len(items)
    options = Options(store=store, seed=0, max_bad_fraction=0.0, made_by={})
    writer = DatasetWriter(items, splits, names, read, options)
    writer.write(os.path.join(folder, store))


def input_rate(folder: str) -> float:
  """Videos per second of the training batches of a data set."""
  card = read_card(folder)
  model_flags = {**card.flags(), "max_frames": FLAGS.frames}
  files = find_files(card.pattern(folder, "train"), "train_data_pattern")
  data = Data(model_flags, files, with_labels=True)
  batches = data.training_batches(_BATCH_SIZE)
  return run_all.steady_rate(batches, _BATCH_SIZE)


def training_rate(folder: str) -> float:
  """Videos per second of train.py."""
  with tempfile.TemporaryDirectory() as train_dir:
    steps, *_ = run_all.watch_training(
      [
        f"--train_dir={train_dir}",
        f"--dataset_dir={folder}",
        f"--model={FLAGS.model}",
        f"--batch_size={_BATCH_SIZE}",
      ],
      FLAGS.seconds,
    )
  return steps * _BATCH_SIZE


def summary(rates: dict[str, list[float]]) -> dict:
  """The medians of each store, and those of the ratios to float32."""
  return {
    store: {
      "videos_per_s": statistics.median(found),
      "of_float32": statistics.median(
        rate / first for rate, first in zip(found, rates[_FIRST], strict=True)
      ),
    }
    for store, found in rates.items()
  }


def main() -> None:
  """Makes the data, measures and prints."""
  stores = sorted(STORES, key=lambda store: store != _FIRST)
  measures = {"input": input_rate, "training": training_rate}
  rates = {name: {store: [] for store in stores} for name in measures}
  with tempfile.TemporaryDirectory() as folder:
    make_data(folder)
    for _ in range(FLAGS.repeats):
      for name, measure in measures.items():
        for store in stores:
          rate = measure(os.path.join(folder, store))
          rates[name][store].append(rate)
  about = run_all.machine()
  about["command"] = " ".join(
    ["python -m benchmarks.stored_dtypes", *sys.argv[1:]]
  )
  figures = {"machine": about}
  for name, found in rates.items():
    figures[name] = summary(found)
    for store, of in figures[name].items():
      print(
        f"{name} {store}: {of['videos_per_s']:.0f} videos/s,"
        f" {of['of_float32']:.2f} of float32"
      )
  print(json.dumps(figures))


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
