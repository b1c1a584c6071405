"""Tests of reports.learning_curves."""

import time

import numpy as np
import pytest

import startup  # isort: skip # noqa: F401
import tensorflow as tf

from reports.learning_curves import read_curve, smoothed


def write_events(folder, reports, suffix):
  """Writes {step: (time, loss, gap)} as training does."""
  writer = tf.io.TFRecordWriter(f"{folder}/events.out.tfevents.{suffix}", None)
  for step, (when, loss, gap) in reports.items():
    for tag, value in (
      ("label_loss", loss),
      ("model/Training_GAP", gap),
      ("learning_rate", 0.1),
    ):
      event = tf.compat.v1.Event(wall_time=when, step=step)
      entry = event.summary.value.add(tag=tag)
      entry.tensor.CopyFrom(tf.make_tensor_proto(value, tf.float32))
      writer.write(event.SerializeToString())
  writer.close()


def test_time_between_starts_does_not_count(tmp_path):
  write_events(
    tmp_path, {1: (100, 5.0, 0.1), 11: (104, 4.0, 0.2), 21: (110, 3.0, 0.3)}, 1
  )
  # It was killed after step 11 was saved, and began again an hour later.
  write_events(tmp_path, {12: (3700, 3.5, 0.25), 22: (3705, 2.0, 0.5)}, 2)
  curve = read_curve(str(tmp_path), videos_a_step=8)
  assert curve.steps.tolist() == [1, 11, 12, 22]
  assert curve.seconds.tolist() == [0, 4, 4, 9]
  assert curve.videos.tolist() == [8, 88, 96, 176]
  assert curve.loss == pytest.approx([5, 4, 3.5, 2])
  assert curve.gap == pytest.approx([0.1, 0.2, 0.25, 0.5])


def test_what_a_killed_process_was_writing_is_left_out(tmp_path):
  write_events(tmp_path, {1: (100, 5.0, 0.1), 2: (101, 4.0, 0.2)}, 1)
  path = tmp_path / "events.out.tfevents.1"
  path.write_bytes(path.read_bytes()[:-5])
  assert read_curve(str(tmp_path), 1).steps.tolist() == [1, 2]
  path.write_bytes(path.read_bytes()[:-150])
  assert read_curve(str(tmp_path), 1).steps.tolist() == [1]


def test_a_folder_without_events(tmp_path):
  assert len(read_curve(str(tmp_path), 1).steps) == 0


def test_curves_of_a_real_run(video_run):
  train_dir, log = video_run
  curve = read_curve(str(train_dir), videos_a_step=10)
  assert curve.steps[-1] == 24
  assert curve.videos[-1] == 240
  assert (np.diff(curve.seconds) >= 0).all()
  assert curve.seconds[-1] < time.monotonic()
  last = [line for line in log.splitlines() if "training step 24" in line][-1]
  assert f"Loss: {curve.loss[-1]:.2f}" in last
  assert f"GAP: {curve.gap[-1]:.2f}" in last


def test_smoothing_takes_as_many_on_both_sides():
  values = np.array([1.0, 5.0, 3.0, 7.0, 4.0])
  assert smoothed(values, 3) == pytest.approx([1, 3, 5, 14 / 3, 4])
  assert smoothed(values, 9) == pytest.approx([1, 3, 4, 14 / 3, 4])
  assert smoothed(values[:1], 9).tolist() == [1.0]
  assert smoothed(values[:0], 9).tolist() == []
