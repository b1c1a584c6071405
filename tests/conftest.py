"""Fixtures and helpers that several tests share."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import in_process
import numpy as np
import pytest

import startup  # isort: skip # noqa: F401
import tensorflow as tf
from absl import logging
from make_records import segment_record, write_records
from small_checkpoints import saved_run  # noqa: F401
from tiny_runs import (  # noqa: F401
  one_label_files,
  tiny_files,
  tiny_frame_files,
  tiny_segment_files,
  tiny_vectors,
)

import errors
import models
from data_tools import sample_data
from data_tools.sample_videos import Settings

REPOSITORY = Path(__file__).parents[1]

# Programs started from here inherit that Ctrl-C is ignored, as it is in the
# background of a shell.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# A program that takes longer than this hangs.
PATIENCE_SECONDS = 300


def _note_raised_errors(path) -> None:
  """Makes each UserError add the line that makes it to a file.

  Also that of the ValueError that it takes the place of, if there is one.

  docs/make_troubleshooting_page.py then lists those that no test provokes, of
  errors that are raised in this process.

  Args:
    path: of the file.
  """
  make, of_system = errors.UserError.__init__, errors.of_system.__code__

  def make_and_note(self, *arguments):
    make(self, *arguments)
    frame = sys._getframe(1)
    # Not those of its class, nor the function that chooses the class.
    while frame.f_back and (
      frame.f_locals.get("self") is self or frame.f_code is of_system
    ):
      frame = frame.f_back
    places = [(frame, frame.f_lineno)]
    # Of a model or a loss, about a flag.
    if isinstance(cause := sys.exception(), ValueError):
      *_, innermost = traceback.walk_tb(cause.__traceback__)
      places.append(innermost)
    with open(path, "a") as file:
      for frame, line in places:
        place = os.path.relpath(frame.f_code.co_filename, REPOSITORY)
        file.write(f"{place}:{line}\n")

  errors.UserError.__init__ = make_and_note


if "YT8M_PROVOKED" in os.environ:
  _note_raised_errors(os.environ["YT8M_PROVOKED"])


@pytest.fixture(scope="session")
def shared_dir():
  """The folder of golden files, next to the repository."""
  path = Path(__file__).parents[2] / "shared"
  if not path.is_dir():
    pytest.skip("needs the project's shared golden files")
  return path


def lines_of_sections(page: str, beginning: str) -> set[tuple[str, str]]:
  """The lines of a page that begin so, each with its section's heading."""
  found = set()
  for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
    heading, *lines = section.splitlines()
    found |= {(heading, line) for line in lines if line.startswith(beginning)}
  return found


def warn_of_missing(names, page) -> None:
  """Warns of what a page lacks; .ci/run turns the warning into an error.

  So a fork may add files, models and flags before it documents them, but a page
  must not be wrong.

  Args:
    names: what is missing, possibly nothing.
    page: where it should be.
  """
  if names:
    warnings.warn(f"Not in {page}: {', '.join(sorted(names))}", stacklevel=2)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
  """Keeps what the programs keep about data apart from the user's own."""
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield


# --------------------------------------------------------------------------
# Readers


def read_batches(data, batch_size=100, num_readers=None):
  """All batches of an evaluation, as dicts of arrays."""
  with data.naming_errors():
    dataset = data.evaluation_batches(batch_size, num_readers)
    return list(dataset.as_numpy_iterator())


@pytest.fixture
def dead_process() -> int:
  """The number of a process that has ended."""
  process = subprocess.Popen([sys.executable, "-S", "-c", ""])
  process.wait()
  return process.pid


@pytest.fixture
def hears_hangup():
  """Lets SIGHUP be heard here and in programs, even if nohup runs the tests."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


@pytest.fixture
def shown(monkeypatch):
  """The lines of the log so far."""
  lines = []
  monkeypatch.setattr(
    logging, "info", lambda text, *values: lines.append(text % values)
  )
  return lines


def error_of(function, *arguments, **keywords) -> str:
  """The text of the UserError that a call raises."""
  with pytest.raises(errors.UserError) as caught:
    function(*arguments, **keywords)
  return str(caught.value)


def assert_names(text, *parts):
  for part in parts:
    assert part in text


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
    own_group: whether it leads a group of processes, for kill_group.
    **more_environment: further environment variables.
  """

  def __init__(
    self,
    log_path,
    *arguments,
    output=None,
    own_group=False,
    **more_environment,
  ):
    self._log_path = Path(log_path)
    # Leaves out what the import of TensorFlow in this process has set.
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
        process_group=0 if own_group else None,
      )

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self._process.kill()
    self._process.wait()

  @property
  def log(self) -> str:
    """Its output so far."""
    return self._log_path.read_text()

  def is_running(self) -> bool:
    return self._process.poll() is None

  def send_signal(self, number) -> None:
    self._process.send_signal(number)

  def kill_group(self) -> None:
    """Kills it and all that it started; needs own_group."""
    os.killpg(self._process.pid, signal.SIGKILL)

  def wait_for(self, condition) -> None:
    """Waits until condition() is true; fails if the program ends before."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
      assert self.is_running(), self.log
      assert time.monotonic() < give_up, self.log
      time.sleep(0.05)

  def wait_for_line(self, text) -> None:
    """Waits until it has written a text."""
    self.wait_for(lambda: text in self.log)

  def wait_for_end(self, patience=PATIENCE_SECONDS) -> int:
    """Waits until it has ended; returns its exit code."""
    try:
      return self._process.wait(patience)
    except subprocess.TimeoutExpired:
      pytest.fail(f"It still runs after {patience} s:\n{self.log}")

  def finish(self, exit_code=0, patience=PATIENCE_SECONDS) -> str:
    """Waits for its end, checks its exit code, returns its log."""
    assert self.wait_for_end(patience) == exit_code, self.log
    assert "Traceback" not in self.log
    return self.log


def run_program(*arguments, exit_code=0, patience=PATIENCE_SECONDS) -> str:
  """Runs `python <arguments>` in the repository; returns its log."""
  with (
    tempfile.NamedTemporaryFile() as log,
    Program(log.name, *arguments) as program,
  ):
    return program.finish(exit_code, patience)


def run_into_error(*arguments, exit_code=2) -> str:
  """Runs a program that must fail with one clear line; returns this line."""
  lines = run_program(*arguments, exit_code=exit_code).splitlines()
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


def checkpoint_steps(train_dir) -> set[int]:
  return {
    int(path.name.removeprefix("model.ckpt-").removesuffix(".index"))
    for path in train_dir.glob("model.ckpt-*.index")
  }


def assert_same_state(one, other):
  """Compares two checkpoints bit for bit, but not how often each was saved."""
  one, other = checkpoint_values(one), checkpoint_values(other)
  assert one.keys() == other.keys()
  for name in one.keys() - {"save_counter/.ATTRIBUTES/VARIABLE_VALUE"}:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def event_tags(folder) -> dict:
  """{tag: {step: value}} of the TensorBoard events in a folder.

  Values that are not scalars are arrays, texts are bytes.
  """
  tags = {}
  for file in Path(folder).glob("events.out.tfevents.*"):
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      for value in event.summary.value:
        array = tf.make_ndarray(value.tensor)
        steps = tags.setdefault(value.tag, {})
        steps[event.step] = array if array.ndim else array.item()
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
# Data that is made once for all tests


def make_once(tmp_path_factory, name, make) -> Path:
  """A folder that is made once in a run of pytest, for all of its workers.

  Tests must not change it; they work on copies.

  Args:
    tmp_path_factory: pytest's.
    name: of the folder, one for each content.
    make: function of the folder, which exists and is empty.

  Returns:
    The folder, as `make` left it.
  """
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:  # its folder is inside the run's
    folder = folder.parent
  folder = folder / "made_once" / name
  folder.parent.mkdir(exist_ok=True)
  done = folder.with_name(f"{name}.done")
  # The system releases the lock of a worker that dies.
  with open(folder.with_name(f"{name}.lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir()
      make(folder)
      done.touch()
  return folder


# --------------------------------------------------------------------------
# Small data sets, and runs trained on them

DATA_SETTINGS = Settings(
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

  def make(folder):
    sample_data.make_sample_data(str(folder / "data"), DATA_SETTINGS)

  return make_once(tmp_path_factory, "sample", make) / "data"


@pytest.fixture(scope="session")
def video_run(data_dir, tmp_path_factory):
  """(train_dir, log) of a LogisticModel after 24 steps with batches of 10.

  It is trained by train.py in a separate process, as a user does.
  """

  def make(folder):
    log = run_program(
      "train.py",
      f"--train_dir={folder}/model",
      f"--train_data_pattern={data_dir}/video/train*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=10",
      "--num_epochs=4",
      "--export_model_steps=9",
    )
    (folder / "log").write_text(log)

  folder = make_once(tmp_path_factory, "video_run", make)
  return folder / "model", (folder / "log").read_text()


SEGMENT_RATINGS = [
  [(10, 3, 1.0), (5, 4, 0.0), (10, 7, 0.0)],
  [(0, 39, 1.0)],
  [],
  [(5, 3, 1.0), (5, 4, 1.0), (0, 3, 0.0)],
  [(5, 7, 1.0), (10, 3, 0.0), (0, 4, 0.0)],
  [(0, 7, 0.0), (5, 7, 1.0), (10, 4, 1.0)],
  [(0, 3, 1.0), (5, 0, 0.0)],
]
SEGMENT_NUM_FRAMES = [13, 5, 8, 15, 17, 20, 10]


@pytest.fixture(scope="session")
def segment_files(tmp_path_factory):
  """Pattern of two files with 7 videos of 40 classes with rated segments.

  The first videos are rated near their ends, twice at one time, and not at
  all.
  """

  def make(folder):
    random = np.random.default_rng(3)
    records = [
      segment_record(
        f"seg{number}",
        ratings,
        rgb=random.integers(256, size=(length, 1024), dtype=np.uint8),
        audio=random.integers(256, size=(length, 128), dtype=np.uint8),
      )
      for number, (ratings, length) in enumerate(
        zip(SEGMENT_RATINGS, SEGMENT_NUM_FRAMES, strict=True)
      )
    ]
    write_records(folder / "segments0000.tfrecord", records[:4])
    write_records(folder / "segments0001.tfrecord", records[4:])

  folder = make_once(tmp_path_factory, "segments", make)
  return f"{folder}/segments*.tfrecord"


@pytest.fixture(scope="session")
def frame_run(data_dir, tmp_path_factory):
  """(train_dir, log) of a FrameLevelLogisticModel after 8 steps."""

  def make(folder):
    log = in_process.run(
      "train",
      f"--train_dir={folder}/model",
      f"--train_data_pattern={data_dir}/frame/train*.tfrecord",
      *FRAME_DATA_FLAGS,
      "--model=FrameLevelLogisticModel",
      "--batch_size=16",
      "--num_epochs=2",
    )
    (folder / "log").write_text(log)

  folder = make_once(tmp_path_factory, "frame_run", make)
  return folder / "model", (folder / "log").read_text()
