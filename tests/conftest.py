"""Fixtures and helpers that several tests share."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import startup  # isort: skip # noqa: F401
import tensorflow as tf

import models
from data_tools import sample_data

REPOSITORY = Path(__file__).parents[1]

# Programs started from here inherit that Ctrl-C is ignored, as it is in the
# background of a shell.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# A program that takes longer than this hangs.
PATIENCE_SECONDS = 300


@pytest.fixture(scope="session")
def shared_dir():
  """The folder of golden files, beside the repository."""
  path = Path(__file__).parents[2] / "shared"
  if not path.is_dir():
    pytest.skip("needs the project's shared golden files")
  return path


# --------------------------------------------------------------------------
# Records


def _fill(feature, values) -> None:
  """Sets a tf.train.Feature to bytes, floats or integers."""
  if isinstance(values, bytes):
    feature.bytes_list.value.append(values)
    return
  values = np.asarray(values)
  if values.dtype == np.uint8:
    feature.bytes_list.value.append(values.tobytes())
  elif values.dtype.kind == "f":
    feature.float_list.value.extend(values.tolist())
  else:
    feature.int64_list.value.extend(values.astype(np.int64).tolist())


def video_record(video_id, labels=None, id_name="id", **features) -> bytes:
  """A serialized tf.Example; features are floats, or integers."""
  example = tf.train.Example()
  _fill(example.features.feature[id_name], video_id.encode())
  if labels is not None:
    _fill(example.features.feature["labels"], np.array(labels, np.int64))
  for name, values in features.items():
    _fill(example.features.feature[name], values)
  return example.SerializeToString(deterministic=True)


def frame_record(
  video_id, labels=None, id_name="id", context=None, **features
) -> bytes:
  """A serialized tf.SequenceExample.

  Args:
    video_id: its id.
    labels: class indices, or None for a record without the key.
    id_name: key of the id.
    context: {name: values} of further context features.
    **features: for each feature list its frames: arrays, each uint8 for
      bytes or float.
  """
  record = tf.train.SequenceExample()
  _fill(record.context.feature[id_name], video_id.encode())
  if labels is not None:
    _fill(record.context.feature["labels"], np.array(labels, np.int64))
  for name, values in (context or {}).items():
    _fill(record.context.feature[name], values)
  for name, frames in features.items():
    feature_list = record.feature_lists.feature_list[name]
    for frame in frames:
      _fill(feature_list.feature.add(), frame)
  return record.SerializeToString(deterministic=True)


def segment_record(video_id, ratings, **features) -> bytes:
  """A frame_record with rated segments.

  Args:
    video_id: its id.
    ratings: (start time, class, score) of each rating.
    **features: see frame_record.
  """
  starts = np.array([start for start, _, _ in ratings], np.int64)
  context = {
    "segment_start_times": starts,
    "segment_end_times": starts + 5,
    "segment_labels": np.array([index for _, index, _ in ratings], np.int64),
    "segment_scores": np.array([score for _, _, score in ratings], np.float32),
  }
  return frame_record(video_id, [0], context=context, **features)


def write_records(path, records) -> str:
  """Writes a TFRecord file; gives its path."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return str(path)


# --------------------------------------------------------------------------
# Programs


class Program:
  """A `python <arguments>` in the repository, started as a user does.

  What it writes is kept in a file. Used in a with statement, it is killed at
  the end of the block if it still runs.

  Args:
    log_path: the file for its output.
    *arguments: the script, then its flags.
    output: file descriptor for its output, instead of the file.
    **more_environment: further environment variables.
  """

  def __init__(self, log_path, *arguments, output=None, **more_environment):
    self._log_path = Path(log_path)
    # What this process's own import of TensorFlow has set is not for others.
    environment = {
      name: value
      for name, value in os.environ.items()
      if name not in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")
    }
    with self._log_path.open("w") as log:
      self._process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**environment, **more_environment},
        stdin=subprocess.DEVNULL,
        stdout=output or log,
        stderr=output or log,
      )

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self._process.kill()
    self._process.wait()

  @property
  def log(self) -> str:
    """What it has written so far."""
    return self._log_path.read_text()

  def is_running(self) -> bool:
    return self._process.poll() is None

  def send_signal(self, number) -> None:
    self._process.send_signal(number)

  def wait_for(self, condition) -> None:
    """Waits until condition() holds; fails if the program ends before."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
      assert self.is_running(), self.log
      assert time.monotonic() < give_up, self.log
      time.sleep(0.05)

  def wait_for_line(self, text) -> None:
    """Waits until it has written a text."""
    self.wait_for(lambda: text in self.log)

  def wait_for_end(self) -> int:
    """Waits until it has ended; gives its exit code."""
    return self._process.wait(PATIENCE_SECONDS)

  def finish(self, exit_code=0) -> str:
    """Waits for its end, checks its exit code, gives its log."""
    assert self.wait_for_end() == exit_code, self.log
    assert "Traceback" not in self.log
    return self.log


def run_program(*arguments, exit_code=0) -> str:
  """Runs `python <arguments>` in the repository; gives its log."""
  with (
    tempfile.NamedTemporaryFile() as log,
    Program(log.name, *arguments) as program,
  ):
    return program.finish(exit_code)


def run_into_error(*arguments) -> str:
  """Runs a program that must fail with one clear line; gives this line."""
  lines = run_program(*arguments, exit_code=1).splitlines()
  assert [line for line in lines if line.startswith("ERROR: ")] == lines[-1:]
  return lines[-1]


# --------------------------------------------------------------------------
# What programs leave behind


def folder_content(folder) -> dict:
  """{relative path: bytes} of all files in a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(Path(folder).rglob("*"))
    if path.is_file()
  }


def checkpoint_values(checkpoint) -> dict:
  """{name: array} of all that a checkpoint, or a folder's newest, holds."""
  reader = tf.train.load_checkpoint(str(checkpoint))
  return {
    name: np.asarray(reader.get_tensor(name))
    for name in reader.get_variable_to_shape_map()
    if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
  }


def event_tags(folder) -> dict:
  """{tag: {step: value}} of the TensorBoard events in a folder.

  The value of what is no scalar is an array.
  """
  tags = {}
  for file in Path(folder).glob("events.out.tfevents.*"):
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      for value in event.summary.value:
        array = tf.make_ndarray(value.tensor)
        steps = tags.setdefault(value.tag, {})
        steps[event.step] = array if array.ndim else float(array)
  return tags


def load_model(train_dir, quantized=None):
  """The Keras model of a folder's newest checkpoint."""
  model_flags = json.loads((Path(train_dir) / "model_flags.json").read_text())
  model = models.build_model(model_flags, quantized)
  checkpoint = tf.train.latest_checkpoint(str(train_dir))
  status = tf.train.Checkpoint(model=model).restore(checkpoint)
  status.assert_existing_objects_matched().expect_partial()
  return model


# --------------------------------------------------------------------------
# Small data sets, and runs trained on them by the real command line. Tests
# must not change these folders; they work on copies.

DATA_SETTINGS = sample_data.Settings(
  num_videos=60,
  num_validate_videos=20,
  num_test_videos=13,
  num_classes=40,
  num_active_classes=20,
  num_shards=3,
  seed=5,
)
VIDEO_DATA_FLAGS = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=1024,128",
  "--num_classes=40",
)
FRAME_DATA_FLAGS = ("--frame_features", "--num_classes=40")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A folder of sample data with 60, 20 and 13 videos of 40 classes."""
  folder = tmp_path_factory.mktemp("sample") / "data"
  sample_data.make_sample_data(str(folder), DATA_SETTINGS)
  return folder


@pytest.fixture(scope="session")
def video_run(data_dir, tmp_path_factory):
  """(train_dir, log) of a LogisticModel after 24 steps with batches of 10."""
  train_dir = tmp_path_factory.mktemp("video_run") / "model"
  log = run_program(
    "train.py",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=10",
    "--num_epochs=4",
    "--export_model_steps=9",
  )
  return train_dir, log


@pytest.fixture(scope="session")
def segment_files(tmp_path_factory):
  """Pattern of two files with 7 videos of 40 classes with rated segments.

  The first videos are rated near their ends, twice at one time, and not at
  all.
  """
  random = np.random.default_rng(3)
  folder = tmp_path_factory.mktemp("segments")
  ratings = [
    [(10, 3, 1.0), (5, 4, 0.0), (10, 7, 0.0)],
    [(0, 39, 1.0)],
    [],
    [(5, 3, 1.0), (5, 4, 1.0), (0, 3, 0.0)],
    [(5, 7, 1.0), (10, 3, 0.0), (0, 4, 0.0)],
    [(0, 7, 0.0), (5, 7, 1.0), (10, 4, 1.0)],
    [(0, 3, 1.0), (5, 0, 0.0)],
  ]
  num_frames = [13, 5, 8, 15, 17, 20, 10]
  records = [
    segment_record(
      f"seg{number}",
      ratings[number],
      rgb=random.integers(256, size=(length, 1024), dtype=np.uint8),
      audio=random.integers(256, size=(length, 128), dtype=np.uint8),
    )
    for number, length in enumerate(num_frames)
  ]
  write_records(folder / "segments0000.tfrecord", records[:4])
  write_records(folder / "segments0001.tfrecord", records[4:])
  return f"{folder}/segments*.tfrecord"


@pytest.fixture(scope="session")
def frame_run(data_dir, tmp_path_factory):
  """(train_dir, log) of a FrameLevelLogisticModel after 8 steps."""
  train_dir = tmp_path_factory.mktemp("frame_run") / "model"
  log = run_program(
    "train.py",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={data_dir}/frame/train*.tfrecord",
    *FRAME_DATA_FLAGS,
    "--model=FrameLevelLogisticModel",
    "--batch_size=16",
    "--num_epochs=2",
  )
  return train_dir, log
