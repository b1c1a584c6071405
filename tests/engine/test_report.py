"""Tests of engine.report: events, and what is refused."""

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from conftest import event_tags

import errors
from engine import report
from engine.report import Reporter
from engine.settings import Settings


def test_a_histogram_of_numbers_that_hardly_differ(tmp_path):
  # Such as moving variances after a first step.
  weights = keras.Variable(np.float32([1.0, np.nextafter(np.float32(1), 2)]))
  reporter = Reporter(str(tmp_path), Settings(1, 0.1), 10, {"model": "MyModel"})
  reporter.histograms(types.SimpleNamespace(variables=[weights]), 3)
  reporter.close()
  (buckets,) = event_tags(tmp_path)[weights.path].values()
  assert buckets[:, 2].sum() == 2


@pytest.mark.parametrize("wrong", [-0.01, 1.5])
def test_predictions_that_are_not_probabilities_are_refused(tmp_path, wrong):
  reporter = Reporter(str(tmp_path), Settings(1, 0.1), 10, {"model": "MyModel"})
  predictions = tf.constant([[0.5, wrong], [0.2, 1.0]])
  labels = tf.constant([[True, False], [False, False]])
  reporter.report(
    1, 2, 3.0, ({"label_loss": tf.constant(1.0)}, predictions, labels)
  )
  with pytest.raises(errors.UserError, match="logits") as error:
    reporter.wait()
  assert f"{wrong:.3g}" in str(error.value)
  assert "MyModel" in str(error.value)
  assert "learning_rate" not in str(error.value)


def reported(tmp_path, step, loss, predictions=0.5, **settings) -> Reporter:
  """A Reporter after a step with this loss."""
  reporter = Reporter(
    str(tmp_path), Settings(1, 0.1, **settings), 1000, {"model": "MyModel"}
  )
  reporter.report(
    step,
    step,
    3.0,
    (
      {"label_loss": tf.constant(loss)},
      tf.fill([2, 3], predictions),
      tf.constant([[True, False, False]] * 2),
    ),
  )
  return reporter


@pytest.mark.parametrize("columns", [60, 80, 120, 0])
def test_the_bar_fits_the_terminal(tmp_path, monkeypatch, columns):
  leader, follower = os.openpty()
  fcntl.ioctl(
    follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0)
  )
  with os.fdopen(follower, "w") as terminal:
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = reported(tmp_path, 1, 1567.79)
    reporter.wait()
    reporter.report(
      900,
      900,
      12345.0,
      (
        {"label_loss": tf.constant(12.3)},
        tf.zeros([1, 3]),
        tf.constant([[True, False, False]]),
      ),
    )
    reporter.wait()
    # Runs before each line of the log.
    record = logging.get_absl_logger().makeRecord("", 20, "", 1, "", (), None)
    assert logging.get_absl_handler().filter(record)
    reporter.close()
    assert (
      logging.get_absl_handler().filters.count(reporter._bar._end_before) == 0
    )
  shown = b""
  with contextlib.suppress(OSError):  # Linux's end, when all of it is read
    while part := os.read(leader, 10000):
      shown += part
  os.close(leader)
  shown = shown.decode()
  # The log message begins a new line, and the bar ends only once.
  assert shown.endswith("\r\n")
  assert shown.count("\n") == 1
  first, second = shown.rstrip("\r\n").lstrip("\r").split("\r")
  for bar in (first, second):
    assert len(bar) < (columns or 200)
    assert re.match(r"\[=* *\] epoch 1 step \d+ \| \d+(/s| videos/s) \|", bar)
  assert len(second) >= len(first)
  if columns in (0, 120):
    assert second.startswith(f"[===={16 * ' '}] epoch 1 step 900 | 12345 vid")
    assert second.endswith(" left")


@pytest.mark.parametrize(
  ("settings", "seconds", "expected"),
  [
    ({"num_epochs": 0}, 45.0, 0.0),
    ({"num_epochs": 0, "max_minutes": 1.5}, 45.0, 0.5),
    ({"num_epochs": 0, "max_minutes": 1.5}, 91.0, 1.0),
    ({"num_epochs": 1, "max_minutes": 1.5}, 45.0, 0.9),  # 900 of 1000 videos
    ({"num_epochs": 0, "max_minutes": 1.5, "max_steps": 10}, 45.0, 0.9),
  ],
)
def test_how_much_of_a_run_is_done(tmp_path, settings, seconds, expected):
  reporter = Reporter(
    str(tmp_path), Settings(1, 0.1, **settings), 1000, {"model": "MyModel"}
  )
  outputs = (
    {"label_loss": tf.constant(1.0)},
    tf.fill([2, 3], 0.5),
    tf.constant([[True, False, False]] * 2),
  )
  reporter.report(9, 900, 3.0, outputs, training_seconds=seconds)
  reporter.close()
  assert reporter._part_done == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["videos", "segments"])
def test_what_is_left_out_of_the_summary(monkeypatch, unit):
  now = 100.0
  monkeypatch.setattr(report.time, "monotonic", lambda: now)
  settings = Settings(1, 0.1, segment_labels=unit == "segments")
  reporter = Reporter(None, settings, 10, {"model": "MyModel"})
  now = 110.0
  reporter.leave_out(6.0)
  summary = reporter.summary(40, "/run")
  assert summary.startswith(
    f"40 {unit} in 0:00:04, 10 {unit}/s including saving"
  )
  reporter.close()
