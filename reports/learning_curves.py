"""What training wrote to TensorBoard, against steps, seconds and videos."""

import dataclasses
import glob
import os

import numpy as np
import tensorflow as tf

LOSS_TAG, GAP_TAG = "label_loss", "model/Training_GAP"


@dataclasses.dataclass
class Curve:
  """The reported steps of a run; all arrays have one length.

  Attributes:
    steps: (reports,) int64, ascending.
    seconds: (reports,) float64 since the first report, saving included, without
      the time between a stop and the next start.
    videos: (reports,) float64, about how many were seen.
    loss: (reports,) float64, of the batch.
    gap: (reports,) float64, of the batch.
  """

  steps: np.ndarray
  seconds: np.ndarray
  videos: np.ndarray
  loss: np.ndarray
  gap: np.ndarray


def _read_events(path: str) -> dict[int, dict]:
  """{step: {"time", LOSS_TAG, GAP_TAG}} of a file of events."""
  found: dict[int, dict] = {}
  try:
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      for value in event.summary.value:
        if value.tag in (LOSS_TAG, GAP_TAG):
          of_step = found.setdefault(event.step, {})
          of_step[value.tag] = float(tf.make_ndarray(value.tensor))
          of_step["time"] = event.wall_time
  except tf.errors.DataLossError:
    pass  # what a killed process was writing
  return {step: of for step, of in found.items() if len(of) == 3}


def read_curve(train_dir: str, videos_a_step: float) -> Curve:
  """Reads the events of a run.

  Each start of training wrote a file. Of steps that a start repeated, after a
  kill, only the last time counts.

  Args:
    train_dir: folder of the run.
    videos_a_step: videos in a step.
  """
  pattern = os.path.join(glob.escape(train_dir), "events.out.tfevents.*")
  starts = [_read_events(path) for path in sorted(glob.glob(pattern))]
  starts = sorted(
    filter(None, starts),
    key=lambda start: min(of["time"] for of in start.values()),
  )
  kept: list[tuple[int, float, float, float]] = []
  for start in starts:
    first = min(start)
    kept = [report for report in kept if report[0] < first]
    before = kept[-1][1] if kept else 0.0
    began = start[first]["time"]
    kept += [
      (step, before + of["time"] - began, of[LOSS_TAG], of[GAP_TAG])
      for step, of in sorted(start.items())
    ]
  table = np.array(kept, np.float64).reshape(-1, 4)
  steps = table[:, 0].astype(np.int64)
  return Curve(
    steps, table[:, 1], steps * videos_a_step, table[:, 2], table[:, 3]
  )


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
  """Means over `width` neighbors, fewer at the ends.

  Args:
    values: (reports,) float64.
    width: odd number of reports.
  """
  sums = np.concatenate([[0.0], np.cumsum(values)])
  places = np.arange(len(values))
  reach = np.minimum(np.minimum(places, len(values) - 1 - places), width // 2)
  return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
