"""Times the lists of the best segments and their score, and their memory.

Usage, from the root of the repository:

  python -m benchmarks.segments --num_segments=500000

Ranks --num_segments random segments in each of --num_classes classes, as
inference.py --segment_labels does with what a model predicts, writes the lists,
and scores them as segment_eval_inference.py does. Prints a line for each and,
at the end, one line of JSON with all figures. Memory is that of the process,
with what TensorFlow takes by itself.

2,000,000 segments are those of the test split of 2019.
"""

import json
import os
import tempfile
import time
from typing import Any

import startup  # isort: skip
import numpy as np
from absl import flags

import segment_eval_inference
from benchmarks.memory import peak_mib
from engine.machine import processor_name
from engine.segment_predictions import write_best_segments
from engine.segment_ratings import Ratings

FLAGS = flags.FLAGS

_VIDEO_SEGMENTS = 46  # of the mean length of a video
_BATCH = 512


class _Array:
  """An array that is taken from a batch as from a tensor."""

  def __init__(self, values: np.ndarray):
    self._values = values

  def numpy(self) -> np.ndarray:
    return self._values


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_integer("num_segments", 500000, "Segments.", lower_bound=1)
  flags.DEFINE_integer("num_classes", 1000, "Classes.", lower_bound=1)
  flags.DEFINE_integer("limit", 100000, "Segments a class.", lower_bound=1)
  flags.DEFINE_integer("num_ratings", 237000, "Rated pairs.", lower_bound=1)


def _segments(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The ids of their videos and the start times of segments."""
  videos = numbers // _VIDEO_SEGMENTS
  ids = np.array([b"v%07d" % video for video in videos.tolist()], object)
  return ids, 5 * (numbers % _VIDEO_SEGMENTS)


def _predictions():
  """Yields batches of segments, with random confidences."""
  random = np.random.default_rng(0)
  for first in range(0, FLAGS.num_segments, _BATCH):
    numbers = np.arange(first, min(first + _BATCH, FLAGS.num_segments))
    ids, starts = _segments(numbers)
    batch = {"video_ids": _Array(ids), "segment_start_times": _Array(starts)}
    size = (len(numbers), FLAGS.num_classes)
    yield batch, random.random(size, np.float32)


def _make_ratings() -> Ratings:
  """Random pairs, half of them positive."""
  random = np.random.default_rng(1)
  number = FLAGS.num_ratings
  numbers = random.integers(FLAGS.num_segments, size=number)
  names = [
    b"%b:%d" % segment
    for segment in zip(*map(np.ndarray.tolist, _segments(numbers)), strict=True)
  ]
  return Ratings(
    np.array(names),
    random.integers(FLAGS.num_classes, size=number),
    random.integers(2, size=number).astype(bool),
  )


def _timed(function, *arguments) -> tuple[float, Any]:
  began = time.perf_counter()
  result = function(*arguments)
  return time.perf_counter() - began, result


def main() -> None:
  """Measures what the flags say."""
  start_mb = peak_mib()
  made, _ = _timed(lambda: [None for _ in _predictions()])
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "predictions.csv")
    classes = np.arange(FLAGS.num_classes)
    ranked, _ = _timed(
      write_best_segments, _predictions(), path, classes, FLAGS.limit
    )
    ranked_mb = peak_mib()
    ratings = _make_ratings()
    scored, score = _timed(
      segment_eval_inference.score_submission, path, ratings, FLAGS.limit
    )
    entries = FLAGS.num_classes * min(FLAGS.limit, FLAGS.num_segments)
    figures = {
      "machine": processor_name(),
      "cores": os.cpu_count(),
      **{
        name: getattr(FLAGS, name)
        for name in ("num_segments", "num_classes", "limit", "num_ratings")
      },
      "file_mb": round(os.path.getsize(path) / 1e6),
      "making_seconds": round(made, 2),
      "ranking_seconds": round(ranked - made, 2),
      "scoring_seconds": round(scored, 2),
      "start_mb": round(start_mb),
      "ranking_peak_mb": round(ranked_mb),
      "map": round(score.mean_average_precision, 6),
    }
  print(
    f"{FLAGS.num_segments:,} segments in {FLAGS.num_classes:,} classes: ranked"
    f" and written in {ranked - made:.1f} s, at most {ranked_mb:.0f} MB,"
    f" {start_mb:.0f} MB before"
  )
  print(
    f"{entries:,} entries scored in {scored:.1f} s,"
    f" {entries / scored / 1e6:.1f} million a second"
  )
  print(json.dumps(figures))


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
