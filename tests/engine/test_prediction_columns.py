"""Tests of predictions by class, against scikit-learn."""

import io
import tempfile
import types

import numpy as np
import pytest
from sklearn import metrics as reference

import errors
from engine import prediction_columns
from engine.prediction_columns import PredictionColumns
from requested_metrics import area_under_curve, average_precision

NUM_CLASSES = 7


@pytest.fixture
def examples():
  """predictions with many ties, labels and rated pairs of 300 videos."""
  random = np.random.default_rng(3)
  shape = (300, NUM_CLASSES)
  predictions = (random.integers(30, size=shape) / 29).astype(np.float32)
  predictions[::2] = random.random((150, NUM_CLASSES))
  labels = random.random(shape) < 0.1 + 0.4 * predictions
  labels[:, 2] = False
  labels[:, 4] = True
  rated = random.random(shape) < 0.3
  rated[:, 5] = False
  return predictions, labels, rated


@pytest.fixture
def small_blocks(monkeypatch):
  """Blocks of 32 videos; columns of two classes at a time."""
  monkeypatch.setattr(prediction_columns, "_BLOCK_BYTES", 32 * NUM_CLASSES * 4)
  monkeypatch.setattr(prediction_columns, "_COLUMNS_BYTES", 2 * 300 * 4)


def fill(columns, predictions, labels, rated=None, batch_size=45):
  for first in range(0, len(predictions), batch_size):
    part = slice(first, first + batch_size)
    given = None if rated is None else rated[part]
    columns.add(predictions[part], labels[part], given)


def check(columns, predictions, labels, rated):
  """Compares with scikit-learn, class by class."""
  computed = columns.compute([area_under_curve, average_precision])
  for index in range(predictions.shape[1]):
    counts = rated[:, index]
    values, positive = predictions[counts, index], labels[counts, index]
    auc = precision = np.nan
    if positive.any():
      precision = reference.average_precision_score(positive, values)
      if not positive.all():
        auc = reference.roc_auc_score(positive, values)
    for function, expected in (
      (area_under_curve, auc),
      (average_precision, precision),
    ):
      assert computed[function][index] == pytest.approx(
        expected, abs=1e-12, nan_ok=True
      ), (function.__name__, index)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 2000, 0])
@pytest.mark.parametrize("num_videos", [300, 288, 20])
def test_columns_of_all_pairs(examples, small_blocks, memory_bytes, num_videos):
  predictions, labels, _ = (part[:num_videos] for part in examples)
  with PredictionColumns(NUM_CLASSES, memory_bytes) as columns:
    fill(columns, predictions, labels)
    check(columns, predictions, labels, np.ones_like(labels))
    stored = np.concatenate([part.ravel() for part in columns.blocks("")])
    np.testing.assert_array_equal(
      np.sort(stored), np.sort(predictions, axis=None)
    )
    np.testing.assert_array_equal(
      np.sort(columns.positives), np.sort(predictions[labels])
    )


def test_columns_of_rated_pairs(examples, small_blocks):
  predictions, labels, rated = examples
  with PredictionColumns(NUM_CLASSES) as columns:
    fill(columns, predictions, labels & rated, rated)
    check(columns, predictions, labels, rated)
    stored = np.concatenate([part.ravel() for part in columns.blocks("")])
    assert len(stored) == np.count_nonzero(rated)


def test_columns_of_batches_with_and_without_weights(examples, small_blocks):
  predictions, labels, rated = examples
  rated[:100] = True
  with PredictionColumns(NUM_CLASSES, 0) as columns:
    fill(columns, predictions[:100], labels[:100])
    fill(columns, predictions[100:], (labels & rated)[100:], rated[100:])
    check(columns, predictions, labels, rated)


def test_a_negative_zero_is_zero():
  with PredictionColumns(1) as columns:
    columns.add(np.array([[-0.0], [0.0]], np.float32), np.array([[1], [0]]) > 0)
    assert columns.compute([area_under_curve])[area_under_curve] == [0.5]
    assert not np.signbit(columns.positives).any()


def test_without_videos():
  with PredictionColumns(NUM_CLASSES) as columns:
    computed = columns.compute([average_precision])
  assert np.isnan(computed[average_precision]).all()


def test_what_does_not_fit_in_memory_goes_to_a_file(
  examples, small_blocks, tmp_path, monkeypatch, caplog
):
  opened = []

  def open_file():
    opened.append(original())
    return opened[-1]

  original = tempfile.TemporaryFile
  monkeypatch.setattr(tempfile, "TemporaryFile", open_file)
  predictions, labels, _ = examples
  block = 32 * NUM_CLASSES * 4
  with PredictionColumns(NUM_CLASSES, 3 * block) as columns:
    columns.add(predictions[:127], labels[:127])
    assert not opened
    columns.add(predictions[127:200], labels[127:200])
    (file,) = opened
    # The rest is less than a block.
    assert file.seek(0, io.SEEK_END) == 200 // 32 * block
  assert file.closed


def test_a_full_disk(examples, small_blocks, monkeypatch):
  class FullDisk(io.BytesIO):
    def write(self, _):
      raise OSError(28, "No space left on device")

  monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk)
  predictions, labels, _ = examples
  with (
    PredictionColumns(NUM_CLASSES, 0) as columns,
    pytest.raises(errors.UserError) as error,
  ):
    columns.add(predictions, labels)
  assert str(error.value) == (
    f"Expected space for the predictions in {tempfile.gettempdir()}, 4 bytes"
    " for each video and class, received: No space left on device. Set TMPDIR"
    " to a folder with more space, or leave out of --metrics those that rank"
    " all predictions."
  )


def test_what_fails_in_a_thread_is_raised(examples):
  def fail(column):
    raise ZeroDivisionError

  predictions, labels, _ = examples
  with PredictionColumns(NUM_CLASSES) as columns:
    columns.add(predictions, labels)
    with pytest.raises(ZeroDivisionError):
      columns.compute([fail])


def test_progress(monkeypatch):
  times = iter([0.0, 1.0, 6.0, 7.0])
  # Not time.monotonic itself, which other threads call.
  clock = types.SimpleNamespace(monotonic=lambda: next(times))
  monkeypatch.setattr(prediction_columns, "time", clock)
  lines = []
  monkeypatch.setattr(
    prediction_columns.logging,
    "info",
    lambda text, *values: lines.append(text % values),
  )
  items = list(prediction_columns.with_progress("abc", 3, "Sorting: part"))
  assert items == ["a", "b", "c"]
  assert lines == ["Sorting: part 2 of 3"]
