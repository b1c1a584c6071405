"""Tests of engine.event_file: TensorBoard events that all arrive."""

import ctypes
import os
import sys

import pytest
import tensorflow as tf
from conftest import event_tags
from small_disks import file_limit
from tensorboard.plugins.hparams import api as hparams

import errors
from engine.event_file import EventFile, write_scalars


def test_events_of_all_kinds_are_counted(tmp_path):
  events = EventFile(str(tmp_path))
  for step in range(3):
    with events.as_default(step=step):
      for number in range(12):  # more than TensorFlow keeps to itself
        tf.summary.scalar(f"scalar {number}", 1.0 * step)
      tf.summary.histogram("histogram", [1.0, 2.0])
      tf.summary.write("raw", tf.constant([1.0]))
      tf.summary.text("text", "x" * 10_000)
      hparams.hparams({"rate": 0.1})
      tf.summary.graph(tf.Graph())
      tf.summary.experimental.write_raw_pb(b"")
    events.flush()
  events.close()
  tags = event_tags(tmp_path)
  assert tags["scalar 11"] == {0: 0.0, 1: 1.0, 2: 2.0}
  assert tags["histogram"].keys() == tags["text"].keys() == {0, 1, 2}


def test_events_are_on_the_disk_at_the_end(tmp_path, monkeypatch):
  events = EventFile(str(tmp_path))
  (tmp_path / "other").write_text("other")
  with events.as_default(step=1):
    tf.summary.scalar("a", 1.0)
  flushed, fsync = [], os.fsync

  def record(descriptor):
    flushed.append(os.fstat(descriptor).st_ino)
    fsync(descriptor)

  monkeypatch.setattr(os, "fsync", record)
  events.close()
  (path,) = tmp_path.glob("events.*")
  assert flushed == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_numbers_leave_nothing_in_memory(tmp_path):
  class Allocated(ctypes.Structure):  # glibc's struct mallinfo2
    _fields_ = tuple((f"field {n}", ctypes.c_size_t) for n in range(10))

  mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
  if mallinfo is None:
    pytest.skip("only GNU's C library says how much is allocated")
  mallinfo.restype = Allocated
  in_use = "field 7"
  for events in (EventFile(str(tmp_path)), EventFile(None)):
    before = 0
    for step in range(1100):
      with events.as_default(step=1000 + step):
        write_scalars({"a": 1.5 + step, "b": step})
      if step == 100:
        before = getattr(mallinfo(), in_use)
    # TensorFlow itself would keep some 600 bytes of each number.
    assert getattr(mallinfo(), in_use) - before < 1000 * 100
    events.close()
  assert event_tags(tmp_path)["a"][2000] == 1001.5


def begun(folder) -> tuple[EventFile, int]:
  """An EventFile with one event, and its size in bytes."""
  events = EventFile(str(folder))
  with events.as_default(step=1):
    tf.summary.scalar("a", 1.0)
  events.flush()
  (path,) = folder.glob("events.*")
  return events, path.stat().st_size


@pytest.mark.skipif(
  sys.platform != "linux", reason="what a failed write drops, GNU's C library"
)
def test_an_event_that_does_not_arrive_is_an_error(tmp_path):
  events, size = begun(tmp_path)
  # TensorFlow itself says nothing of this one.
  with file_limit(size), events.as_default(step=2):
    tf.summary.text("b", "x" * 20_000)
  with pytest.raises(errors.MachineError) as error:
    events.flush()
  assert str(error.value).startswith(
    f"Expected 3 TensorBoard events in {tmp_path}/events.out.tfevents."
  )
  assert "found 2: the disk has failed" in str(error.value)


def test_a_file_that_is_deleted_is_said_once(tmp_path, caplog):
  events, _ = begun(tmp_path)
  for path in tmp_path.glob("events.*"):
    path.unlink()
  for step in (2, 3):
    with events.as_default(step=step):
      tf.summary.scalar("a", 1.0)
    events.flush()
  events.close()
  assert [record.getMessage() for record in caplog.records] == [
    f"TensorBoard gets no more events of this program in {tmp_path}: its file"
    " was deleted."
  ]


def test_what_tensorflow_says_is_not_said_in_other_words(tmp_path):
  events, size = begun(tmp_path)
  with (
    pytest.raises(tf.errors.OpError, match="File too large"),
    file_limit(size),
    events.as_default(step=2),
  ):
    tf.summary.scalar("b", 1.0)
  events.close()
