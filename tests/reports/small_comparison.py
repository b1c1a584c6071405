"""A comparison of made-up predictions, without any training."""

import numpy as np

import eval_util
from reports.calibration import Calibration
from reports.comparison import (
  Comparison,
  Scored,
  constant_rows,
  differences,
  make_row,
)
from reports.comparison_plan import Entry, EntryData, Run

NUM_CLASSES = 8
NUM_VIDEOS = 60
# What must be escaped, in every place where a page or a table shows a name.
NAMES = [
  "Dog",
  "<b>Cat</b>",
  "a|b",
  'say "x"',
  "Straße",
  "{{ 7 * 7 }}",
  "猫",
  "&amp;",
]


def made_up_run(name, seed=0, fraction=1.0, workers=1, flags=None, **more):
  """A Run of an entry that is not trained."""
  entry = Entry(name, "MoeModel", flags or {}, **more)
  data = EntryData((), "train*.tfrecord", "validate*.tfrecord", False)
  return Run(
    entry,
    data,
    seed,
    fraction,
    workers,
    ("--batch_size=4",),
    "0123456789abcdef",
  )


def labels_of_all() -> np.ndarray:
  """(videos, classes) bool."""
  random = np.random.default_rng(100)
  labels = random.random((NUM_VIDEOS, NUM_CLASSES)) < np.linspace(
    0.5, 0.02, NUM_CLASSES
  )
  labels[:, 0] |= ~labels.any(axis=1)
  return labels


def predictions_of(seed, skill) -> np.ndarray:
  """(videos, classes) float32."""
  random = np.random.default_rng(seed)
  labels = labels_of_all()
  noise = random.random(labels.shape)
  return (skill * labels + (1 - skill) * noise).astype(np.float32)


def record_of(seconds=20.0, videos=400, **changes) -> dict:
  """The content of a run.json."""
  start = {
    "command": ["train.py"],
    "began": "2026-11-26T05:00:00+00:00",
    "ended": "2026-11-26T05:01:00+00:00",
    "first_step": 1,
    "last_step": 100,
    "videos": videos,
    "training_seconds": seconds,
    "start_seconds": 7.5,
    "videos_per_second": videos / seconds,
    "machine": {
      "host": "secret",
      "system": "Linux",
      "cpu": "CPU & Co",
      "cores": 2,
      "memory_bytes": 8 * 2**30,
      "gpus": [],
    },
    "versions": {"python": "3.11", "yt8m": "1"},
    "commit": "abc123",
    "resources": {
      "cpu_percent": 150.0,
      "peak_memory_bytes": 2_000_000_000,
      "gpu_percent": None,
      "gpu_memory_bytes": None,
    },
    **changes,
  }
  return {
    "starts": [start],
    "parameters": 1234,
    "data": {"pattern": "t*", "files": 3, "videos": 480, "hash": "f00"},
  }


def made_up_scored(run, predictions, record=None) -> Scored:
  """What load returns, of given predictions."""
  labels = labels_of_all()
  metrics = eval_util.EvaluationMetrics(NUM_CLASSES, 20)
  metrics.accumulate(predictions, labels, loss=2.5)
  of_all, of_best = Calibration(), Calibration()
  of_all.add(predictions, labels)
  best = predictions.argmax(axis=1)[:, None]
  of_best.add(
    np.take_along_axis(predictions, best, 1),
    np.take_along_axis(labels, best, 1),
  )
  classes, confidences = eval_util.top_k_classes(predictions, 20)
  return Scored(
    run,
    {
      **metrics.scores(),
      "num_videos": NUM_VIDEOS,
      "step": 100,
      "label_loss": "CrossEntropyLoss",
      "num_classes": NUM_CLASSES,
      "parameters": 1_234_567,
      "export_bytes": 5_000_000,
      "latency_seconds": 0.0123,
      "videos_per_second": 800.0,
      "batch_size": 32,
      "calibration": of_all.as_json(),
      "calibration_of_best": of_best.as_json(),
      "eval_files": 2,
      "eval_hash": "beef",
    },
    record_of() if record is None else record,
    np.array([b"video%03d" % number for number in range(NUM_VIDEOS)]),
    classes.astype(np.int32),
    confidences,
    np.take_along_axis(labels, classes, axis=1),
    np.nonzero(labels),
    np.arange(NUM_CLASSES, dtype=np.int32),
  )


def made_up_rows(seeds=2) -> list:
  """The rows of a good model, a bad one, and a baseline like the bad one."""
  rows = []
  for number, (name, skill, more) in enumerate(
    (
      ("Good:lstm_layers=1", 0.6, {}),
      ("Bad", 0.25, {}),
      ("Base (mean-frame logistic)", 0.25, {"is_baseline": True}),
    )
  ):
    runs = [
      made_up_scored(
        made_up_run(name, seed, **more),
        predictions_of(10 * number + seed, skill),
        record_of(seconds=20.0 + 10 * number),
      )
      for seed in range(seeds)
    ]
    rows.append(make_row(runs, f"python train.py --model={name}"))
  return rows


def made_up_comparison(**changes) -> Comparison:
  """A comparison of three rows and the two constant ones."""
  rows = made_up_rows()
  counts = np.arange(NUM_CLASSES, 0, -1) ** 3 // 2
  values = {
    "budget": "100 steps",
    "seeds": 2,
    "rows": [*rows, *constant_rows(counts, 480, rows[0].runs[0])],
    "differences": differences(rows, 200),
    "resamples": 10_000,
    "names": NAMES,
    "train_counts": counts,
    "num_train_videos": 480,
    "by_fraction": {},
    "by_workers": {},
    "failed": [],
    "facts": [("Machine", "CPU & Co, 2 cores")],
    "notes": [],
    "command": "python -m reports.compare_models --models='A,B'",
    **changes,
  }
  return Comparison(**values)
