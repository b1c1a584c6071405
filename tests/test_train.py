"""Tests of train: the real command line, and train() on tiny data."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  FRAME_DATA_FLAGS,
  REPOSITORY,
  VIDEO_DATA_FLAGS,
  Program,
  checkpoint_values,
  event_tags,
  folder_content,
  frame_record,
  load_model,
  run_into_error,
  run_program,
  segment_record,
  video_record,
  write_records,
)

import errors
import models
import readers
import train
import train_dir as train_dirs

STEP_LINE = re.compile(
  r"I\d{4} [\d:.]+ +\d+ train\.py:\d+\] training step (?P<step>\d+) \|"
  r" Loss: (?P<loss>\d+\.\d\d) Examples/sec: (?P<rate>\d+\.\d\d) \|"
  r" Hit@1: (?P<hit>\d\.\d\d) PERR: (?P<perr>\d\.\d\d) GAP: (?P<gap>\d\.\d\d)"
)


def step_lines(log) -> list[dict]:
  """The numbers of each training line of a log."""
  lines = [line for line in log.splitlines() if "training step" in line]
  matches = [STEP_LINE.fullmatch(line) for line in lines]
  assert all(matches), lines
  return [
    {name: float(value) for name, value in match.groupdict().items()}
    for match in matches
  ]


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


# --------------------------------------------------------------------------
# One run by the command line: 24 steps of 10 of 60 videos, saved every 9


def test_log_lines(video_run):
  _, log = video_run
  lines = step_lines(log)
  steps = [line["step"] for line in lines]
  assert steps[-1] == 24
  assert all(0 < gap <= 10 for gap in np.diff([0, *steps]))
  assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
  assert lines[-1]["gap"] > lines[0]["gap"]
  assert "LogisticModel, batch size 10, learning rate 0.01" in log


def test_files_of_a_run(video_run):
  train_dir, _ = video_run
  (events,) = train_dir.glob("events.out.tfevents.*")
  parts = ["index", "data-00000-of-00001"]
  assert {path.name for path in train_dir.iterdir()} == {
    "checkpoint",
    "model_flags.json",
    "export",
    events.name,
    *[f"model.ckpt-{step}.{part}" for step in (9, 18, 24) for part in parts],
  }
  assert [path.name for path in (train_dir / "export").iterdir()] == ["step_24"]
  assert tf.saved_model.contains_saved_model(f"{train_dir}/export/step_24")


def test_model_flags_file(video_run):
  train_dir, _ = video_run
  assert json.loads((train_dir / "model_flags.json").read_text()) == {
    "model": "LogisticModel",
    "feature_names": "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
    "frame_features": False,
    "num_classes": 40,
    "max_frames": 300,
    "label_loss": "CrossEntropyLoss",
  }


def test_checkpoint_counts_steps_and_examples(video_run):
  train_dir, _ = video_run
  for step in (9, 18, 24):
    values = checkpoint_values(train_dir / f"model.ckpt-{step}")
    assert values["global_step/.ATTRIBUTES/VARIABLE_VALUE"] == step
    assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 10 * step


def test_tensorboard_tags(video_run):
  train_dir, log = video_run
  tags = event_tags(train_dir)
  lines = {line["step"]: line for line in step_lines(log)}
  for tag, name in {
    "label_loss": "loss",
    "model/Training_Hit@1": "hit",
    "model/Training_Perr": "perr",
    "model/Training_GAP": "gap",
    "global_step/Examples/Second": "rate",
  }.items():
    assert tags[tag].keys() == lines.keys(), tag
    for step, value in tags[tag].items():
      assert value == pytest.approx(lines[step][name], abs=0.0051), tag
  assert tags["learning_rate"].keys() == lines.keys()
  assert all(
    value == pytest.approx(0.01) for value in tags["learning_rate"].values()
  )
  assert tags["reg_loss"].keys() == lines.keys()
  assert all(0 < value < 1e-3 for value in tags["reg_loss"].values())


def test_histograms_of_all_variables(video_run):
  train_dir, _ = video_run
  tags = event_tags(train_dir)
  weights = load_model(train_dir).get_layer("fully_connected").get_weights()
  for name, values in zip(("kernel", "bias"), weights, strict=True):
    histogram = tags[f"fully_connected/{name}"]
    assert set(histogram) == {9, 18, 24}
    buckets = histogram[24]  # left, right, count
    assert buckets[:, 2].sum() == values.size
    assert buckets[0, 0] == pytest.approx(values.min(), abs=1e-6)
    assert buckets[-1, 1] == pytest.approx(values.max(), abs=1e-6)


def test_a_histogram_of_numbers_that_hardly_differ(tmp_path):
  # Moving variances do so after a first step.
  weights = keras.Variable(np.float32([1.0, np.nextafter(np.float32(1), 2)]))
  reporter = train.Reporter(str(tmp_path), train.Settings(1, 0.1), 10)
  reporter.histograms(types.SimpleNamespace(variables=[weights]), 3)
  reporter.close()
  (buckets,) = event_tags(tmp_path)[weights.path].values()
  assert buckets[:, 2].sum() == 2


def test_frame_level_run(frame_run):
  train_dir, log = frame_run
  # 120 videos in batches of 16: the last one is smaller.
  assert [line["step"] for line in step_lines(log)][-1] == 8
  model_flags = json.loads((train_dir / "model_flags.json").read_text())
  assert model_flags["frame_features"] is True
  assert model_flags["feature_names"] == "rgb,audio"
  assert model_flags["feature_sizes"] == "1024,128"
  values = checkpoint_values(train_dir)
  assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 120


def test_a_finished_run_is_left_as_it_is(video_run, data_dir, tmp_path):
  train_dir, _ = video_run
  copy = shutil.copytree(train_dir, tmp_path / "model")
  before = folder_content(copy)
  for limit in ("--num_epochs=4", "--max_steps=20"):
    log = run_program(
      "train.py",
      f"--train_dir={copy}",
      f"--train_data_pattern={data_dir}/video/train*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=10",
      limit,
    )
    assert f"Nothing to do: the run in {copy} has ended after step 24" in log
    assert folder_content(copy) == before


def test_built_in_sample_data_and_defaults(tmp_path):
  log = run_program(
    "train.py", f"--train_dir={tmp_path}/model", "--max_steps=1"
  )
  assert "LogisticModel, batch size 1024, learning rate 0.01" in log
  assert "/tmp/yt8m_sample_data/video/train*.tfrecord" in log
  assert step_lines(log)[-1]["step"] == 1
  model_flags = json.loads((tmp_path / "model/model_flags.json").read_text())
  assert model_flags["feature_names"] == "mean_rgb"
  assert model_flags["feature_sizes"] == "1024"
  assert model_flags["num_classes"] == 3862


def test_training_on_segments(segment_files, tmp_path):
  train_dir = tmp_path / "model"
  log = run_program(
    "train.py",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={segment_files}",
    *FRAME_DATA_FLAGS,
    "--segment_labels",
    "--model=FrameLevelLogisticModel",
    "--batch_size=4",
    "--num_epochs=2",
  )
  # 13 rated segments, twice, in batches of 4.
  assert step_lines(log)[-1]["step"] == 7
  values = checkpoint_values(train_dir)
  assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 26
  # A model of segments is a model of videos as well.
  assert "segment" not in (train_dir / "model_flags.json").read_text()


# --------------------------------------------------------------------------
# Errors and signals


def test_other_model_flags_on_resume(video_run, data_dir, tmp_path):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  before = folder_content(copy)
  line = run_into_error(
    "train.py",
    f"--train_dir={copy}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    "--num_classes=41",
    "--feature_names=mean_rgb",
    "--feature_sizes=1024",
    "--model=MoeModel",
  )
  for part in (
    f"--train_dir={copy}",
    "--feature_names was 'mean_rgb,mean_audio' and is now 'mean_rgb'",
    "--feature_sizes was '1024,128' and is now '1024'",
    "--model was 'LogisticModel' and is now 'MoeModel'",
    "--moe_num_mixtures was 'not set' and is now 2",
    "--num_classes was 40 and is now 41",
    "--start_new_model",
  ):
    assert part in line
  assert "max_frames" not in line
  assert folder_content(copy) == before


def test_start_new_model_removes_the_old_run(video_run, data_dir, tmp_path):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  (copy / "eval").mkdir()
  (copy / "eval" / "metrics-24.json").write_text("{}")
  (copy / "notes.txt").write_text("of the user")
  old_events = [path.name for path in copy.glob("events*")]
  log = run_program(
    "train.py",
    f"--train_dir={copy}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--model=MoeModel",
    "--start_new_model",
    "--batch_size=10",
    "--max_steps=2",
  )
  assert step_lines(log)[0]["step"] == 1
  assert checkpoint_steps(copy) == {2}
  assert "MoeModel" in (copy / "model_flags.json").read_text()
  assert [path.name for path in (copy / "export").iterdir()] == ["step_2"]
  assert not (copy / "eval").exists()
  assert not any((copy / name).exists() for name in old_events)
  assert (copy / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize(
  ("flag", "part"),
  [
    ("--model=NoSuchModel", "'NoSuchModel'"),
    ("--train_data_pattern=/no/such/file*", "/no/such/file*"),
    ("--optimizer=NoSuchOptimizer", "'NoSuchOptimizer'"),
    ("--feature_sizes=1024,127", "expected 127 numbers"),
  ],
)
def test_bad_flags_do_not_touch_the_old_run(
  video_run, data_dir, tmp_path, flag, part
):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  before = folder_content(copy)
  line = run_into_error(
    "train.py",
    f"--train_dir={copy}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--start_new_model",
    flag,
  )
  assert part in line
  assert folder_content(copy) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_start_new_model_deletes_no_other_folder(data_dir, tmp_path, kind):
  target = tmp_path / "home"
  if kind == "folder":
    (target / "export").mkdir(parents=True)
    (target / "export" / "thesis.txt").write_text("ten years of work")
  else:
    target.write_text("ten years of work")
  before = folder_content(tmp_path)
  line = run_into_error(
    "train.py",
    f"--train_dir={target}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--start_new_model",
  )
  assert str(target) in line
  assert folder_content(tmp_path) == before


@pytest.mark.parametrize(
  ("level", "model"),
  [
    ("video", "FrameLevelLogisticModel"),
    ("video", "LstmModel"),
    ("frame", "LogisticModel"),
  ],
)
def test_model_of_the_other_level(data_dir, tmp_path, level, model):
  flags = FRAME_DATA_FLAGS if level == "frame" else VIDEO_DATA_FLAGS
  line = run_into_error(
    "train.py",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/{level}/train*.tfrecord",
    *flags,
    f"--model={model}",
    "--batch_size=16",
  )
  assert model in line
  assert "--frame_features" in line
  assert not (tmp_path / "model").exists()


def test_bad_record_is_named(data_dir, tmp_path):
  def record(number, label):
    return video_record(f"v{number}", [label], mean_rgb=[1.0, number, 3.0])

  write_records(tmp_path / "a.tfrecord", [record(n, 1) for n in range(8)])
  labels = [0, 2, 1, 7, 0]
  bad = write_records(
    tmp_path / "b.tfrecord", [record(*pair) for pair in enumerate(labels)]
  )
  line = run_into_error(
    "train.py",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={tmp_path}/*.tfrecord",
    "--feature_sizes=3",
    "--num_classes=4",
    "--batch_size=3",
    "--num_epochs=1",
  )
  assert f"{bad}, record 3: " in line
  assert "from 0 to 3 in labels, found 7" in line
  assert "--num_classes" in line


DIVERGING_FLAGS = (
  "--optimizer=GradientDescentOptimizer",
  "--clip_gradient_norm=0",
  "--base_learning_rate=1e38",
)


def test_divergence_ends_with_a_clear_line(data_dir, tmp_path):
  line = run_into_error(
    "train.py",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    *DIVERGING_FLAGS,
    "--batch_size=10",
    "--max_steps=30",
  )
  assert "diverged" in line
  assert "--base_learning_rate" in line
  assert checkpoint_steps(tmp_path / "model") == set()


def endless_command(data_dir, train_dir, *more):
  return (
    "train.py",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=7",
    "--learning_rate_decay_examples=1000",
    "--num_epochs=0",
    *more,
  )


def assert_goes_on_exactly(data_dir, tmp_path, stopped, step):
  """Five more steps of a stopped run end as those of another run do."""
  limit = f"--max_steps={step + 5}"
  log = run_program(*endless_command(data_dir, stopped, limit))
  assert f"Going on from {stopped}/model.ckpt-{step}" in log
  run_program(*endless_command(data_dir, tmp_path / "uninterrupted", limit))
  name = f"model.ckpt-{step + 5}"
  assert_same_state(stopped / name, tmp_path / "uninterrupted" / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(data_dir, tmp_path, number):
  stopped = tmp_path / "stopped"
  command = endless_command(data_dir, stopped)
  with Program(tmp_path / "log", *command) as run:
    run.wait_for(lambda: run.log.count("training step") >= 5)
    run.send_signal(number)
    log = run.finish(exit_code=0)
  assert f"Received {number.name}" in log
  (step,) = checkpoint_steps(stopped)
  steps = [line["step"] for line in step_lines(log)]
  assert steps[-1] == step
  assert all(0 < gap <= 10 for gap in np.diff([0, *steps]))
  assert (stopped / "export" / f"step_{step}").is_dir()
  assert not list(stopped.rglob(".*"))
  if number == signal.SIGINT:
    assert_goes_on_exactly(data_dir, tmp_path, stopped, step)


def test_killed_run_goes_on_from_its_last_checkpoint(data_dir, tmp_path):
  killed = tmp_path / "killed"
  command = endless_command(data_dir, killed, "--export_model_steps=11")
  with Program(tmp_path / "log", *command) as run:
    run.wait_for(lambda: checkpoint_steps(killed) - {11})
    run.send_signal(signal.SIGKILL)
  step = int(tf.train.latest_checkpoint(killed).rsplit("-", 1)[1])
  assert_goes_on_exactly(data_dir, tmp_path, killed, step)


@pytest.mark.slow
def test_killed_at_any_moment(data_dir, tmp_path):
  """Random frames, averages, epoch borders; twelve kills, anywhere in a run."""

  def command(train_dir):
    return (
      "train.py",
      f"--train_dir={train_dir}",
      f"--train_data_pattern={data_dir}/frame/train*.tfrecord",
      *FRAME_DATA_FLAGS,
      "--model=DbofModel",
      "--dbof_cluster_size=16",
      "--dbof_hidden_size=8",
      "--iterations=3",
      "--batch_size=7",
      "--ema_decay=0.9",
      "--mixup_alpha=0.4",
      "--num_epochs=0",
      "--max_steps=240",
      "--export_model_steps=4",
    )

  random = np.random.default_rng(11)
  steps = []
  for _ in range(12):
    with Program(tmp_path / "log", *command(tmp_path / "killed")) as run:
      if random.random() < 0.8:
        run.wait_for_line("training step")
      time.sleep(random.uniform(0.0, 1.0))
      run.send_signal(signal.SIGKILL)
      run.wait_for_end()
    steps.append(max(checkpoint_steps(tmp_path / "killed"), default=0))
  run_program(*command(tmp_path / "killed"))
  run_program(*command(tmp_path / "whole"))

  assert steps == sorted(steps)
  # It was killed in the middle, again and again.
  assert len({step for step in steps if 0 < step < 240}) >= 4
  assert_same_state(
    tmp_path / "killed" / "model.ckpt-240",
    tmp_path / "whole" / "model.ckpt-240",
  )


# --------------------------------------------------------------------------
# On a terminal


def test_progress_bar_on_a_terminal(data_dir, tmp_path):
  leader, follower = pty.openpty()
  with (
    os.fdopen(leader, "rb", buffering=0) as terminal,
    Program(
      tmp_path / "unused",
      "train.py",
      f"--train_dir={tmp_path}/model",
      f"--train_data_pattern={data_dir}/video/train*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=10",
      "--num_epochs=4",
      output=follower,
    ) as run,
  ):
    os.close(follower)
    shown = b""
    try:
      while part := terminal.read(4096):
        shown += part
    except OSError:  # Linux's way to say that the other side is closed
      pass
    run.finish()
  text = shown.decode()
  assert "training step" not in text
  bars = re.findall(
    r"\r\[(=*) *\] epoch (\d+) step (\d+) \| \d+ videos/s"
    r" \| Loss: \d+\.\d\d GAP: \d\.\d\d(?: \| (\d+:\d\d:\d\d) left)?",
    text,
  )
  assert [int(step) for _, _, step, _ in bars][-1] == 24
  # There is nothing to reckon the time left from at first.
  assert (bars[0][3], bars[-1][3]) == ("", "0:00:00")
  filled = [len(bar) for bar, *_ in bars]
  assert filled == sorted(filled)
  assert filled[0] < filled[-1] == 20
  epochs = [int(epoch) for _, epoch, *_ in bars]
  assert epochs == sorted(epochs)
  assert epochs[0] == 1
  # Only four epochs exist, and the last line does not stick to the bar.
  assert epochs[-1] == 4
  assert re.search(r"\nI\d{4} .*Done at step 24", text)
  assert re.search(
    r"240 videos in 0:\d\d:\d\d, \d+ videos/s with all that belongs to it;"
    r" best GAP in training 0\.\d{3} at step \d+\. All files: ",
    text,
  )


def test_profile_of_some_steps(data_dir, tmp_path):
  flags = (
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=10",
  )
  log = run_program("train.py", *flags, "--max_steps=9", "--profile_steps=4,6")
  assert "A profile of steps 4 to 6 is in" in log
  (file,) = (tmp_path / "model").glob("plugins/profile/*/*.xplane.pb")
  assert b"train_step" in file.read_bytes()
  # One that the run's end cuts short.
  log = run_program(
    "train.py", *flags, "--max_steps=12", "--profile_steps=11,99"
  )
  assert "A profile of steps 11 to 12 is in" in log
  line = run_into_error("train.py", *flags, "--profile_steps=5,4")
  assert "--profile_steps=FIRST,LAST" in line
  assert "'5,4'" in line


@pytest.mark.parametrize("given", ["3", "0,3", "5,4", "a,b", "1,2,3", "-1,2"])
def test_steps_to_profile_that_cannot_be(given):
  with pytest.raises(errors.UserError, match="--profile_steps") as error:
    train.profile_steps_from_flag(given.split(","))
  assert repr(given) in str(error.value)


# --------------------------------------------------------------------------
# train() on tiny data

TINY_FLAGS = {
  "model": "LogisticModel",
  "feature_names": "mean_rgb,mean_audio",
  "feature_sizes": "4,3",
  "frame_features": False,
  "num_classes": 6,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
}
TINY_FRAME_FLAGS = {
  **TINY_FLAGS,
  "model": "FrameLevelLogisticModel",
  "feature_names": "rgb,audio",
  "frame_features": True,
}
NUM_TINY = 22


def tiny_labels(number):
  return sorted({number % 6, number * number % 5})


@pytest.fixture(scope="module")
def tiny_vectors():
  """(22, 7) float32, the features of the videos in tiny_files."""
  return np.random.default_rng(1).normal(size=(NUM_TINY, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny_files(tiny_vectors, tmp_path_factory):
  """Two files with 22 video-level records."""
  folder = tmp_path_factory.mktemp("tiny")
  records = [
    video_record(
      f"v{number}",
      tiny_labels(number),
      mean_rgb=vector[:4],
      mean_audio=vector[4:],
    )
    for number, vector in enumerate(tiny_vectors)
  ]
  return [
    write_records(folder / "a", records[:13]),
    write_records(folder / "b", records[13:]),
  ]


@pytest.fixture(scope="module")
def tiny_frame_files(tmp_path_factory):
  """Two files with 22 frame-level records."""
  folder = tmp_path_factory.mktemp("tiny_frames")
  random = np.random.default_rng(2)
  records = []
  for number in range(NUM_TINY):
    length = 1 + 3 * number % 14
    records.append(
      frame_record(
        f"v{number}",
        tiny_labels(number),
        rgb=random.integers(256, size=(length, 4), dtype=np.uint8),
        audio=random.integers(256, size=(length, 3), dtype=np.uint8),
      )
    )
  return [
    write_records(folder / "a", records[:13]),
    write_records(folder / "b", records[13:]),
  ]


@pytest.fixture(scope="module")
def tiny_segment_files(tmp_path_factory):
  """Two files with 9 records that have 22 rated segments of 3 frames."""
  folder = tmp_path_factory.mktemp("tiny_segments")
  random = np.random.default_rng(4)
  records = []
  for number, count in enumerate([3, 1, 4, 2, 0, 5, 1, 4, 2]):
    records.append(
      segment_record(
        f"v{number}",
        [
          (5 * start, random.integers(6), random.integers(2))
          for start in range(count)
          for _ in range(1 + start % 2)
        ],
        rgb=random.integers(256, size=(28, 4), dtype=np.uint8),
        audio=random.integers(256, size=(28, 3), dtype=np.uint8),
      )
    )
  return [
    write_records(folder / "a", records[:4]),
    write_records(folder / "b", records[4:]),
  ]


def train_tiny(train_dir, files, model_flags=TINY_FLAGS, **settings):
  """train() with batches of 5, compiled by XLA only if asked for."""
  defaults = {"batch_size": 5, "base_learning_rate": 0.01, "xla": False}
  return train.train(
    str(train_dir), model_flags, files, train.Settings(**defaults | settings)
  )


RESUMED = {
  "logistic": ("tiny_files", TINY_FLAGS, {"xla": True}),
  "momentum": (
    "tiny_files",
    {**TINY_FLAGS, "model": "MoeModel", "moe_num_mixtures": 2},
    {"optimizer": "MomentumOptimizer", "learning_rate_decay_examples": 17},
  ),
  "random frames and batch normalisation": (
    "tiny_frame_files",
    {
      **TINY_FRAME_FLAGS,
      "model": "DbofModel",
      "iterations": 3,
      "dbof_cluster_size": 4,
      "dbof_hidden_size": 3,
    },
    {},
  ),
  "mixed videos and averaged weights": (
    "tiny_files",
    TINY_FLAGS,
    {"mixup_alpha": 0.4, "ema_decay": 0.9},
  ),
  "segments": (
    "tiny_segment_files",
    TINY_FRAME_FLAGS,
    {"segment_labels": True},
  ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_equals_the_uninterrupted_one(request, tmp_path, name):
  files, model_flags, settings = RESUMED[name]
  files = request.getfixturevalue(files)
  settings = {**settings, "num_epochs": 3, "seed": 7}
  # 66 examples in batches of 5 are 14 steps. Step 5 ends in the second epoch;
  # step 9 ends in the third.
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert train_tiny(whole, files, model_flags, **settings) == 14
  for max_steps in (5, 9):
    train_tiny(parts, files, model_flags, **settings, max_steps=max_steps)
  assert checkpoint_steps(parts) == {5, 9}
  assert train_tiny(parts, files, model_flags, **settings) == 14
  assert_same_state(whole / "model.ckpt-14", parts / "model.ckpt-14")


def test_averages_by_hand(tiny_files, tmp_path):
  settings = {"ema_decay": 0.6, "export_model_steps": 1, "keep_checkpoints": 0}
  train_tiny(tmp_path, tiny_files, **settings, max_steps=12)
  average = None
  for step in range(1, 13):
    path = str(tmp_path / f"model.ckpt-{step}")
    model = models.build_model(TINY_FLAGS)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    weights = model.trainable_variables[0].numpy()
    found = checkpoint_values(path)["average/0/.ATTRIBUTES/VARIABLE_VALUE"]
    if average is not None:
      # The decay grows to 0.6 as the average gets to know more steps.
      decay = min(0.6, step / (9.0 + step))
      average = decay * average + (1 - decay) * weights
      np.testing.assert_allclose(found, average, atol=1e-6)
    average = found
    # They are what is evaluated.
    train_dirs.load_weights(model, path)
    np.testing.assert_array_equal(model.trainable_variables[0].numpy(), found)
    assert np.abs(found - weights).max() > 1e-5


def test_averages_are_exported(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, ema_decay=0.9, max_steps=6)
  model = models.build_model(TINY_FLAGS)
  train_dirs.load_weights(model, str(tmp_path / "model.ckpt-6"))
  batch = {
    "video_matrix": np.random.default_rng(3).normal(size=(4, 7)),
    "num_frames": np.ones(4, np.int32),
  }
  batch["video_matrix"] = batch["video_matrix"].astype(np.float32)
  exported = tf.saved_model.load(str(tmp_path / "export" / "step_6"))
  signature = exported.signatures["predict_arrays"]
  np.testing.assert_allclose(
    signature(**{name: tf.constant(value) for name, value in batch.items()})[
      "predictions"
    ],
    model(batch)["predictions"],
    atol=1e-6,
  )


def test_averages_may_begin_and_end_with_any_part_of_a_run(
  tiny_files, tmp_path
):
  name = "average/0/.ATTRIBUTES/VARIABLE_VALUE"
  train_tiny(tmp_path, tiny_files, max_steps=4)
  assert name not in checkpoint_values(tmp_path)
  plain = load_model(tmp_path).trainable_variables[0].numpy()
  # A step of length 0 after the average began at the restored weights.
  train_tiny(
    tmp_path,
    tiny_files,
    ema_decay=0.9,
    base_learning_rate=0.0,
    max_steps=5,
  )
  np.testing.assert_allclose(checkpoint_values(tmp_path)[name], plain)
  train_tiny(tmp_path, tiny_files, max_steps=6)
  assert name not in checkpoint_values(tmp_path)


def test_the_loss_where_the_data_ends_by_hand(tiny_files, tmp_path):
  """It ends before the steps that were to be taken at once."""
  train_tiny(tmp_path, tiny_files, base_learning_rate=0.0, num_epochs=1)
  losses = event_tags(tmp_path)["label_loss"]
  kernel, bias = load_model(tmp_path).get_layer("fully_connected").get_weights()
  reader = readers.open_reader(TINY_FLAGS, tiny_files, True)
  batches = readers.training_batches(
    reader, tiny_files, 5, num_epochs=1, seed=0
  )
  expected = {}
  for step, batch in enumerate(batches.as_numpy_iterator(), start=1):
    predictions = sigmoid(normalized(batch["video_matrix"]) @ kernel + bias)
    likely = np.where(batch["labels"], predictions, 1 - predictions)
    expected[step] = -np.log(likely + 1e-5).sum(axis=1).mean()
  assert losses == pytest.approx({1: expected[1], 5: expected[5]}, rel=1e-5)


def test_the_loss_of_mixed_videos_by_hand(tiny_files, tmp_path):
  settings = {"batch_size": NUM_TINY, "base_learning_rate": 0.0, "seed": 5}
  train_tiny(tmp_path, tiny_files, mixup_alpha=0.4, max_steps=3, **settings)
  losses = event_tags(tmp_path)["label_loss"]
  kernel, bias = (
    value.astype(np.float64)
    for value in load_model(tmp_path).get_layer("fully_connected").get_weights()
  )
  reader = readers.open_reader(TINY_FLAGS, tiny_files, True)
  batches = readers.training_batches(
    reader, tiny_files, NUM_TINY, num_epochs=3, seed=5
  )
  weights = []
  for step, batch in enumerate(batches.as_numpy_iterator()):
    weight = float(
      train.draw_mixup_weight(
        0.4, tf.constant(5, tf.int64), tf.constant(step, tf.int64)
      )
    )
    weights.append(weight)
    inputs = normalized(batch["video_matrix"])
    inputs = weight * inputs + (1 - weight) * np.roll(inputs, 1, axis=0)
    predictions = sigmoid(inputs @ kernel + bias)
    expected = 0.0
    for share, labels in (
      (weight, batch["labels"]),
      (1 - weight, np.roll(batch["labels"], 1, axis=0)),
    ):
      likely = np.where(labels, predictions, 1 - predictions)
      expected -= share * np.log(likely + 1e-5).sum() / NUM_TINY
    if step + 1 in losses:
      assert losses[step + 1] == pytest.approx(expected, abs=1e-5)
  assert set(losses) == {1, 3}
  assert len(set(weights)) == 3


def test_mixup_weights_have_the_beta_distribution():
  weights = np.array(
    [
      train.draw_mixup_weight(
        0.4, tf.constant(1, tf.int64), tf.constant(step, tf.int64)
      )
      for step in range(2000)
    ]
  )
  # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
  assert weights.mean() == pytest.approx(0.5, abs=0.03)
  assert weights.var() == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_the_seed_decides_the_run(tiny_files, tmp_path):
  for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
    train_tiny(tmp_path / name, tiny_files, seed=seed, num_epochs=1)
  assert_same_state(tmp_path / "a", tmp_path / "b")
  weights = [
    load_model(tmp_path / name).get_layer("fully_connected").get_weights()[0]
    for name in "ac"
  ]
  assert np.abs(weights[0] - weights[1]).max() > 0.01


def test_finished_run_goes_on_with_more_epochs(tiny_files, tmp_path):
  assert train_tiny(tmp_path / "parts", tiny_files, num_epochs=1) == 5
  assert train_tiny(tmp_path / "parts", tiny_files, num_epochs=3) == 14


def test_other_data_is_read_from_its_beginning(
  tiny_files, tiny_vectors, tmp_path
):
  other = write_records(
    tmp_path / "other",
    [
      video_record(
        f"other{number}", [1], mean_rgb=[1.0] * 4, mean_audio=[number] * 3
      )
      for number in np.arange(8.0)
    ],
  )
  train_dir = tmp_path / "model"
  assert train_tiny(train_dir, tiny_files, num_epochs=1) == 5
  # Twice 8 videos in batches of 5.
  assert train_tiny(train_dir, [other], num_epochs=2) == 9
  values = checkpoint_values(train_dir)
  assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 22 + 16


@pytest.mark.parametrize(
  ("keep", "expected"), [(0, {2, 4, 6, 8, 9}), (1, {9}), (3, {6, 8, 9})]
)
def test_keep_checkpoints(tiny_files, tmp_path, keep, expected):
  # Those of the first part of the run count as well.
  for max_steps in (5, 9):
    train_tiny(
      tmp_path,
      tiny_files,
      export_model_steps=2,
      keep_checkpoints=keep,
      max_steps=max_steps,
    )
  if not keep:
    expected = expected | {5}
  assert checkpoint_steps(tmp_path) == expected


def test_learning_rate_decays_in_stairs(tiny_files, tmp_path):
  train_tiny(
    tmp_path,
    tiny_files,
    base_learning_rate=0.02,
    learning_rate_decay=0.5,
    learning_rate_decay_examples=12,
    export_model_steps=1,
    max_steps=8,
  )
  # Before the steps 0, 5, 10 | 15, 20 | 25, 30, 35 examples were seen.
  rates = event_tags(tmp_path)["learning_rate"]
  assert rates == pytest.approx(
    {1: 0.02, 2: 0.02, 3: 0.02, 4: 0.01, 5: 0.01, 6: 0.005, 7: 0.005, 8: 0.005}
  )


def sigmoid(values):
  return 1.0 / (1.0 + np.exp(-values))


def normalized(vectors):
  vectors = vectors.astype(np.float64)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clipped(gradient, limit):
  return gradient * min(1.0, limit / np.linalg.norm(gradient))


def test_a_step_of_gradient_descent_by_hand(tiny_files, tiny_vectors, tmp_path):
  penalty, clip, rate = 3e7, 0.3, 0.25

  def train_until(max_steps, base_learning_rate):
    train_tiny(
      tmp_path,
      tiny_files,
      batch_size=NUM_TINY,
      base_learning_rate=base_learning_rate,
      optimizer="GradientDescentOptimizer",
      regularization_penalty=penalty,
      clip_gradient_norm=clip,
      max_steps=max_steps,
    )
    layer = load_model(tmp_path).get_layer("fully_connected")
    return [value.astype(np.float64) for value in layer.get_weights()]

  # A first step of length 0 only tells the initial weights; the next one is
  # on all videos again.
  kernel, bias = train_until(1, 0.0)
  inputs = normalized(tiny_vectors)
  labels = np.zeros((NUM_TINY, 6))
  for number in range(NUM_TINY):
    labels[number, tiny_labels(number)] = 1
  predictions = sigmoid(inputs @ kernel + bias)
  epsilon = 1e-5
  loss = -np.sum(
    labels * np.log(predictions + epsilon)
    + (1 - labels) * np.log(1 - predictions + epsilon)
  )
  by_predictions = -labels / (predictions + epsilon) + (1 - labels) / (
    1 - predictions + epsilon
  )
  by_logits = by_predictions * predictions * (1 - predictions) / NUM_TINY
  kernel_gradient = inputs.T @ by_logits + penalty * 1e-8 * kernel
  bias_gradient = by_logits.sum(axis=0)
  # Each variable is clipped for itself, and the regularisation matters.
  assert np.linalg.norm(kernel_gradient) > 1.5 * clip
  assert np.linalg.norm(inputs.T @ by_logits - kernel_gradient) > 0.3

  new_kernel, new_bias = train_until(2, rate)
  np.testing.assert_allclose(
    new_kernel, kernel - rate * clipped(kernel_gradient, clip), atol=1e-6
  )
  np.testing.assert_allclose(
    new_bias, bias - rate * clipped(bias_gradient, clip), atol=1e-6
  )
  tags = event_tags(tmp_path)
  for step in (1, 2):
    assert tags["label_loss"][step] == pytest.approx(loss / NUM_TINY, rel=1e-5)
    assert tags["reg_loss"][step] == pytest.approx(
      1e-8 / 2 * np.sum(kernel**2), rel=1e-5
    )
  assert tags["learning_rate"] == {1: 0.0, 2: rate}


def test_gradients_are_not_clipped_without_a_limit(tiny_files, tmp_path):
  changes = {}
  for clip in (0.0, 1e-3, 1e9):
    train_dir = tmp_path / str(clip)
    for max_steps, rate in ((1, 0.0), (2, 1.0)):
      train_tiny(
        train_dir,
        tiny_files,
        batch_size=NUM_TINY,
        base_learning_rate=rate,
        optimizer="SGD",
        clip_gradient_norm=clip,
        keep_checkpoints=0,
        max_steps=max_steps,
      )
    before, after = (
      checkpoint_values(train_dir / f"model.ckpt-{step}") for step in (1, 2)
    )
    name = "optimizer/_trainable_variables/0/.ATTRIBUTES/VARIABLE_VALUE"
    changes[clip] = after[name] - before[name]
  np.testing.assert_allclose(changes[0.0], changes[1e9], atol=1e-7)
  assert np.linalg.norm(changes[0.0]) > 0.1
  assert np.linalg.norm(changes[1e-3]) == pytest.approx(1e-3, rel=1e-3)


def test_segments_are_trained_on_their_ratings_only(tmp_path):
  rgb = np.arange(40, dtype=np.uint8).reshape(10, 4)
  audio = np.arange(30, dtype=np.uint8).reshape(10, 3) + 100
  file = write_records(
    tmp_path / "a",
    [
      segment_record(
        "one", [(0, 2, 1.0), (0, 3, 0.0), (5, 1, 0.0)], rgb=rgb, audio=audio
      )
    ],
  )
  train_tiny(
    tmp_path / "model",
    [file],
    TINY_FRAME_FLAGS,
    base_learning_rate=0.0,
    segment_labels=True,
    max_steps=1,
    batch_size=2,
  )
  model = load_model(tmp_path / "model")
  kernel, bias = model.get_layer("fully_connected").get_weights()
  frames = np.concatenate([rgb, audio], axis=1) * (4 / 255) + 4 / 512 - 2
  means = normalized(frames).reshape(2, 5, 7).mean(axis=1)
  predictions = sigmoid(means @ kernel + bias)
  loss = -(
    np.log(predictions[0, 2] + 1e-5)
    + np.log(1 - predictions[0, 3] + 1e-5)
    + np.log(1 - predictions[1, 1] + 1e-5)
  )
  tags = event_tags(tmp_path / "model")
  assert tags["label_loss"][1] == pytest.approx(loss / 2, rel=1e-5)


@pytest.mark.parametrize("max_steps", [1, 2, 3])
def test_no_checkpoint_of_a_diverged_model(tiny_files, tmp_path, max_steps):
  # Weights get infinite in a step or two, the loss follows a step later.
  message = ""
  try:
    train_tiny(
      tmp_path,
      tiny_files,
      base_learning_rate=3e38,
      optimizer="SGD",
      clip_gradient_norm=0.0,
      max_steps=max_steps,
      export_model_steps=1,
      keep_checkpoints=0,
    )
  except errors.UserError as error:
    message = str(error)
  saved = checkpoint_steps(tmp_path)
  assert "diverged" in message or saved == set(range(1, max_steps + 1))
  for step in saved:
    values = checkpoint_values(tmp_path / f"model.ckpt-{step}")
    for name, value in values.items():
      assert np.isfinite(value).all(), f"{name} after step {step}"


# --------------------------------------------------------------------------
# Optimizers


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("AdamOptimizer", keras.optimizers.Adam),
    ("GradientDescentOptimizer", keras.optimizers.SGD),
    ("MomentumOptimizer", keras.optimizers.SGD),
    ("RMSPropOptimizer", keras.optimizers.RMSprop),
    ("AdagradOptimizer", keras.optimizers.Adagrad),
    ("AdadeltaOptimizer", keras.optimizers.Adadelta),
    ("FtrlOptimizer", keras.optimizers.Ftrl),
    ("Adam", keras.optimizers.Adam),
    ("AdamW", keras.optimizers.AdamW),
    ("SGD", keras.optimizers.SGD),
    ("RMSprop", keras.optimizers.RMSprop),
    ("Lion", keras.optimizers.Lion),
  ],
)
def test_optimizer_names(name, expected):
  assert type(train.make_optimizer(name)) is expected


def test_optimizer_settings_are_the_starters():
  for name in ("Adam", "AdamOptimizer"):
    adam = train.make_optimizer(name)
    assert adam.epsilon == 1e-8
    assert (adam.beta_1, adam.beta_2) == (0.9, 0.999)
  assert train.make_optimizer("MomentumOptimizer").momentum == 0.9
  assert train.make_optimizer("GradientDescentOptimizer").momentum == 0.0
  # TensorFlow 1's defaults.
  rmsprop = train.make_optimizer("RMSPropOptimizer")
  assert (rmsprop.rho, rmsprop.momentum) == (0.9, 0.0)
  adagrad = train.make_optimizer("AdagradOptimizer")
  assert adagrad.initial_accumulator_value == 0.1


def optimizer_error(name):
  with pytest.raises(errors.UserError) as caught:
    train.make_optimizer(name)
  return str(caught.value)


@pytest.mark.parametrize(
  "name",
  # The last one is a class, but no optimizer without another one.
  ["NoSuch", "Optimizer", "adam", "get", "", "LossScaleOptimizer"],
)
def test_unknown_optimizer(name):
  text = optimizer_error(name)
  assert f"received {name!r}" in text
  for known in ("Adam", "SGD", "RMSprop", "Adagrad"):
    assert re.search(rf"\b{known}\b", text)


def test_all_optimizers_of_the_error_message_can_be_made():
  listed = optimizer_error("NoSuch").split("There are: ")[1].rstrip(".")
  for name in listed.split(", "):
    assert type(train.make_optimizer(name)).__name__ == name


# --------------------------------------------------------------------------
# Flags

# Each flag of the original code with its default; None where this project
# decides it later, see test_defaults_that_depend_on_the_model.
STARTER_FLAGS = {
  "train": {
    "train_dir": "/tmp/yt8m_model/",
    "train_data_pattern": "",
    "feature_names": None,
    "feature_sizes": None,
    "frame_features": False,
    "segment_labels": False,
    "model": "LogisticModel",
    "start_new_model": False,
    "num_gpu": None,
    "batch_size": None,
    "label_loss": "CrossEntropyLoss",
    "regularization_penalty": 1.0,
    "base_learning_rate": None,
    "learning_rate_decay": 0.95,
    "learning_rate_decay_examples": 4000000,
    "num_epochs": 5,
    "max_steps": None,
    "export_model_steps": 1000,
    "num_readers": 8,
    "optimizer": "AdamOptimizer",
    "clip_gradient_norm": 1.0,
    "log_device_placement": False,
    "iterations": None,
    "dbof_add_batch_norm": True,
    "sample_random_frames": True,
    "dbof_cluster_size": 8192,
    "dbof_hidden_size": 1024,
    "dbof_pooling_method": "max",
    "dbof_activation": "sigmoid",
    "video_level_classifier_model": "MoeModel",
    "lstm_cells": None,
    "lstm_layers": None,
    "moe_num_mixtures": 2,
  },
  "eval": {
    "train_dir": "/tmp/yt8m_model/",
    "eval_data_pattern": "",
    "segment_labels": False,
    "batch_size": 1024,
    "num_readers": 8,
    "run_once": False,
    "top_k": 20,
  },
  "inference": {
    "train_dir": "/tmp/yt8m_model/",
    "input_data_pattern": "",
    "input_model_tgz": "",
    "untar_model_dir": "/tmp/yt8m-model",
    "segment_labels": False,
    "segment_max_pred": 100000,
    "segment_label_ids_file": "",
    "output_file": "predictions.csv",
    "output_model_tgz": "",
    "top_k": 20,
    "batch_size": 512,
    "num_readers": 1,
  },
}


def typed_value(default):
  """Another value than the default, as one types it; and as it is parsed."""
  if isinstance(default, bool):
    return str(not default), not default
  if isinstance(default, int):
    return str(default + 1), default + 1
  if isinstance(default, float):
    return str(default / 2), default / 2
  return "typed", "typed"


# Where `typed` is not of the right type, or not one of the choices.
TYPED = {
  "num_gpu": ("1", 1),
  "batch_size": ("17", 17),
  "base_learning_rate": ("0.5", 0.5),
  "max_steps": ("17", 17),
  "iterations": ("17", 17),
  "lstm_cells": ("17", 17),
  "lstm_layers": ("3", 3),
  "dbof_pooling_method": ("average", "average"),
}


@pytest.mark.parametrize("program", STARTER_FLAGS)
def test_flags_of_the_starter(program):
  starter_flags = STARTER_FLAGS[program]
  typed = {
    name: TYPED.get(name) or typed_value(default)
    for name, default in starter_flags.items()
  }
  script = (
    f"import json, sys, {program}\n"
    "from absl import flags\n"
    f"{program}.define_flags()\n"
    "for argv in (sys.argv[:1], sys.argv):\n"
    "  flags.FLAGS(argv)\n"
    "  values = flags.FLAGS.flag_values_dict()\n"
    f"  names = {list(starter_flags)}\n"
    "  print(json.dumps({name: values[name] for name in names}))\n"
  )
  completed = subprocess.run(
    [
      sys.executable,
      "-c",
      script,
      *[f"--{name}={text}" for name, (text, _) in typed.items()],
    ],
    cwd=REPOSITORY,
    check=True,
    capture_output=True,
    text=True,
  )
  defaults, parsed = map(json.loads, completed.stdout.splitlines())
  assert defaults == starter_flags
  assert parsed == {name: value for name, (_, value) in typed.items()}


def test_defaults_that_depend_on_the_model():
  for name in (
    "LogisticModel",
    "MoeModel",
    "FrameLevelLogisticModel",
    "DbofModel",
    "LstmModel",
  ):
    model = models.find_class_by_name(name)
    assert model.batch_size == 1024
    assert model.base_learning_rate == 0.01
  completed = subprocess.run(
    [
      sys.executable,
      "-c",
      "import json, train\n"
      "from absl import flags\n"
      "flags.FLAGS(['train'])\n"
      "for name in ('DbofModel', 'LstmModel'):\n"
      "  print(json.dumps(train.models.resolve_hyperparameters(name)))\n",
    ],
    cwd=REPOSITORY,
    check=True,
    capture_output=True,
    text=True,
  )
  dbof, lstm = map(json.loads, completed.stdout.splitlines())
  assert dbof == {
    "iterations": 30,
    "sample_random_frames": True,
    "dbof_add_batch_norm": True,
    "dbof_cluster_size": 8192,
    "dbof_hidden_size": 1024,
    "dbof_pooling_method": "max",
    "dbof_activation": "sigmoid",
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
  }
  assert lstm == {
    "lstm_cells": 1024,
    "lstm_layers": 2,
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
  }
