"""Tests of train: the real command line, and train() on tiny data."""

import dataclasses
import fcntl
import gzip
import importlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time

import in_process
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from conftest import (
  FRAME_DATA_FLAGS,
  REPOSITORY,
  VIDEO_DATA_FLAGS,
  Program,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  event_tags,
  folder_content,
  load_model,
  run_program,
)
from make_records import video_record, write_records
from tiny_runs import train_tiny

import errors
import models
import train
import training_flags
from data_tools import sample_data
from engine import data_order, scoring, train_dir_lock
from engine.dataset_card import DatasetCard
from engine.run import Run

STEP_LINE = re.compile(
  r"I\d{4} \d\d:\d\d:\d\d training step (?P<step>\d+) \|"
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
    "run.json",
    "export",
    "eval",
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
    "l2_penalty": 1e-8,
    "input_transform": "l2",
    "feature_dtypes": "float32,float32",
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
      shown = lines[step][name]  # with two decimals; an event is float32
      assert value == pytest.approx(shown, abs=0.0051, rel=1e-6), tag
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
    log = in_process.run(
      "train",
      f"--train_dir={copy}",
      f"--train_data_pattern={data_dir}/video/train*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=10",
      limit,
    )
    assert f"Nothing to do: the run in {copy} has ended after step 24" in log
    assert folder_content(copy) == before


def test_a_finished_run_gets_the_export_that_its_last_start_could_not_write(
  tiny_files, tmp_path
):
  train_tiny(tmp_path, tiny_files, max_steps=2, export_model_steps=1)
  exported = tmp_path / "export" / "step_2"
  answer = predictions_of(exported)
  exported.rename(tmp_path / "export" / "step_1")
  values = checkpoint_values(tmp_path)
  train_tiny(tmp_path, tiny_files, max_steps=2, export_model_steps=1)
  np.testing.assert_array_equal(predictions_of(exported), answer)
  assert [path.name for path in exported.parent.iterdir()] == ["step_2"]
  np.testing.assert_equal(checkpoint_values(tmp_path), values)


def predictions_of(exported):
  """What a SavedModel of tiny videos answers."""
  served = tf.saved_model.load(str(exported)).signatures["predict_arrays"]
  matrix = np.linspace(-1, 1, 14, dtype=np.float32).reshape(2, 7)
  answer = served(
    video_matrix=tf.constant(matrix), num_frames=tf.ones([2], tf.int32)
  )
  return answer["predictions"].numpy()


def test_built_in_sample_data_and_defaults(tmp_path):
  log = in_process.run(
    "train", f"--train_dir={tmp_path}/model", "--max_steps=1"
  )
  assert "LogisticModel, batch size 16, learning rate 0.01" in log
  assert "/tmp/yt8m_sample_data/video/train*.tfrecord" in log
  assert step_lines(log)[-1]["step"] == 1
  model_flags = json.loads((tmp_path / "model/model_flags.json").read_text())
  assert model_flags["feature_names"] == "mean_rgb"
  assert model_flags["feature_sizes"] == "1024"
  assert model_flags["num_classes"] == 3862


def test_training_on_segments(segment_files, tmp_path):
  train_dir = tmp_path / "model"
  log = in_process.run(
    "train",
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
  # A model of segments is also a model of videos.
  assert "segment" not in (train_dir / "model_flags.json").read_text()


# --------------------------------------------------------------------------
# Errors and signals


def test_other_model_flags_on_resume(video_run, data_dir, tmp_path):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  before = folder_content(copy)
  line = in_process.run_into_error(
    "train",
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
  (copy / "eval" / "metrics-24.json").write_text("{}")
  (copy / "notes.txt").write_text("of the user")
  old_events = list(copy.rglob("events*"))
  assert len(old_events) == 2
  log = in_process.run(
    "train",
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
  assert not (copy / "eval" / "metrics-24.json").exists()
  assert not any(path.exists() for path in old_events)
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
  line = in_process.run_into_error(
    "train",
    f"--train_dir={copy}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--start_new_model",
    flag,
  )
  assert part in line
  assert folder_content(copy) == before


def test_a_refusal_to_skip_does_not_touch_the_old_run(
  video_run, data_dir, tmp_path
):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  before = folder_content(copy)
  packed = tmp_path / "train.tfrecord.gz"
  plain = data_dir / "video" / "train0000.tfrecord"
  packed.write_bytes(gzip.compress(plain.read_bytes()))
  line = in_process.run_into_error(
    "train",
    f"--train_dir={copy}",
    f"--train_data_pattern={packed}",
    *VIDEO_DATA_FLAGS,
    "--start_new_model",
    "--skip_corrupt",
  )
  assert f"received {packed}" in line
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
  line = in_process.run_into_error(
    "train",
    f"--train_dir={target}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--start_new_model",
  )
  assert str(target) in line
  assert folder_content(tmp_path) == before


def test_a_file_as_train_dir(data_dir, tmp_path):
  (tmp_path / "notes").write_text("mine")
  line = in_process.run_into_error(
    "train",
    f"--train_dir={tmp_path}/notes",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
  )
  assert (
    f"Expected a folder as --train_dir, received the file {tmp_path}" in line
  )


@pytest.mark.parametrize(
  ("level", "model", "advice"),
  [
    ("video", "FrameLevelLogisticModel", "--frame_features=True"),
    ("video", "LstmModel", "--frame_features=True"),
    ("frame", "LogisticModel", "--frame_features=False"),
  ],
)
def test_model_of_the_other_level(data_dir, tmp_path, level, model, advice):
  flags = FRAME_DATA_FLAGS if level == "frame" else VIDEO_DATA_FLAGS
  line = in_process.run_into_error(
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/{level}/train*.tfrecord",
    *flags,
    f"--model={model}",
    "--batch_size=16",
  )
  assert model in line
  assert advice in line
  assert not (tmp_path / "model").exists()


def test_bad_record_is_named(data_dir, tmp_path):
  def record(number, label):
    return video_record(f"v{number}", [label], mean_rgb=[1.0, number, 3.0])

  write_records(tmp_path / "a.tfrecord", [record(n, 1) for n in range(8)])
  labels = [0, 2, 1, 7, 0]
  bad = write_records(
    tmp_path / "b.tfrecord", [record(*pair) for pair in enumerate(labels)]
  )
  line = in_process.run_into_error(
    "train",
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
  line = in_process.run_into_error(
    "train",
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


def endless_flags(data_dir, train_dir, *more):
  return (
    f"--train_dir={train_dir}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=7",
    "--learning_rate_decay_examples=1000",
    "--num_epochs=0",
    *more,
  )


def assert_goes_on_exactly(data_dir, tmp_path, stopped, step):
  """Five more steps of a stopped run give the same as those of another run."""
  limit = f"--max_steps={step + 5}"
  log = in_process.run("train", *endless_flags(data_dir, stopped, limit))
  assert f"Continuing from {stopped}/model.ckpt-{step}" in log
  in_process.run(
    "train", *endless_flags(data_dir, tmp_path / "uninterrupted", limit)
  )
  name = f"model.ckpt-{step + 5}"
  assert_same_state(stopped / name, tmp_path / "uninterrupted" / name)


@pytest.mark.parametrize(
  "number",
  [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM],
)
def test_a_signal_saves_and_ends(data_dir, tmp_path, number):
  stopped = tmp_path / "stopped"
  command = ("train.py", *endless_flags(data_dir, stopped))
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


@pytest.mark.slow
@pytest.mark.usefixtures("hears_hangup")
def test_a_closed_terminal_saves_and_ends(data_dir, tmp_path):
  """Nothing can be written to it any more, and its shell tells of it twice."""
  run_dir = tmp_path / "model"
  leader, follower = os.openpty()

  def take_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

  with subprocess.Popen(
    [sys.executable, "train.py", *endless_flags(data_dir, run_dir)],
    cwd=REPOSITORY,
    stdin=follower,
    stdout=follower,
    stderr=follower,
    preexec_fn=take_terminal,
  ) as run:
    os.close(follower)
    shown = b""
    while shown.count(b"GAP") < 5:
      shown += os.read(leader, 4096)
    os.close(leader)
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=120) == 0
  (step,) = checkpoint_steps(run_dir)
  (start,) = json.loads((run_dir / "run.json").read_text())["starts"]
  assert (start["last_step"], start["stopped_by"]) == (step, "SIGHUP")
  assert (run_dir / "export" / f"step_{step}").is_dir()


@pytest.mark.slow
def test_killed_run_continues_from_its_last_checkpoint(data_dir, tmp_path):
  killed = tmp_path / "killed"
  more = "--export_model_steps=11"
  command = ("train.py", *endless_flags(data_dir, killed, more))
  with Program(tmp_path / "log", *command) as run:
    run.wait_for(lambda: checkpoint_steps(killed) - {11})
    run.send_signal(signal.SIGKILL)
  (start,) = json.loads((killed / "run.json").read_text())["starts"]
  # It was written after a checkpoint, the last or the one before.
  assert start["ended"] is None
  assert start["last_step"] > 0
  assert start["last_step"] % 11 == 0
  assert start["videos"] == 7 * start["last_step"]
  step = int(tf.train.latest_checkpoint(killed).rsplit("-", 1)[1])
  assert_goes_on_exactly(data_dir, tmp_path, killed, step)
  record = json.loads((killed / "run.json").read_text())
  first, second = record["starts"]
  assert first == start
  assert (second["first_step"], second["last_step"]) == (step + 1, step + 5)


# For each name: level of the data, shards in a window, steps, further flags.
KILLED = {
  "videos": ("video", 3, 172, ("--num_epochs=20",)),
  "videos, a shard at a time": ("video", 1, 172, ("--num_epochs=20",)),
  "random frames, mixed videos and averaged weights": (
    "frame",
    3,
    240,
    (
      "--model=DbofModel",
      "--dbof_cluster_size=16",
      "--dbof_hidden_size=8",
      "--iterations=3",
      "--ema_decay=0.9",
      "--mixup_alpha=0.4",
      "--num_epochs=0",
      "--max_steps=240",
    ),
  ),
  "frames, a shard at a time": (
    "frame",
    1,
    172,
    ("--model=FrameLevelLogisticModel", "--num_epochs=20"),
  ),
  # 13 segments an epoch.
  "segments": (
    "segments",
    2,
    149,
    ("--model=FrameLevelLogisticModel", "--segment_labels", "--num_epochs=80"),
  ),
  "segments, a shard at a time": (
    "segments",
    1,
    149,
    ("--model=FrameLevelLogisticModel", "--segment_labels", "--num_epochs=80"),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_killed_at_any_moment(
  data_dir, segment_files, tmp_path, monkeypatch, name
):
  """Ten kills, anywhere in a run, which crosses the ends of many epochs."""
  level, window_shards, last_step, flags = KILLED[name]

  def command(train_dir):
    pattern = f"{data_dir}/{level}/train*.tfrecord"
    return (
      f"--train_dir={train_dir}",
      "--train_data_pattern="
      + (segment_files if level == "segments" else pattern),
      *(VIDEO_DATA_FLAGS if level == "video" else FRAME_DATA_FLAGS),
      "--batch_size=7",
      "--export_model_steps=4",
      *flags,
    )

  killed, whole = tmp_path / "killed", tmp_path / "whole"
  if window_shards == 1:  # a checkpoint keeps what such small files never get
    monkeypatch.setattr(data_order, "choose_window", lambda files: 1)
    for folder in (killed, whole):
      in_process.run("train", *command(folder), "--max_steps=3")

  # Kept walks would spare the runs a part of what may be interrupted.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  random = np.random.default_rng(11)
  steps = []
  for most_seconds in np.linspace(0.0, 1.8, 10):  # first before a checkpoint
    with Program(tmp_path / "log", "train.py", *command(killed)) as run:
      if random.random() < 0.8:
        run.wait_for_line("training step")
      time.sleep(random.uniform(0.0, most_seconds))
      run.send_signal(signal.SIGKILL)
      run.wait_for_end()
    steps.append(max(checkpoint_steps(killed), default=0))
  run_program("train.py", *command(killed))
  run_program("train.py", *command(whole))

  assert steps == sorted(steps)
  # It was killed in the middle several times.
  assert len({step for step in steps if 3 < step < last_step}) >= 4, steps
  name = f"model.ckpt-{last_step}"
  assert_same_state(killed / name, whole / name)
  state = checkpoint_values(whole)
  assert state["window_shards/.ATTRIBUTES/VARIABLE_VALUE"] == window_shards


# --------------------------------------------------------------------------
# On a terminal


@pytest.mark.slow
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
    except OSError:  # on Linux, this means that the other side is closed
      pass
    run.finish()
  text = shown.decode()
  assert "training step" not in text
  bars = re.findall(
    r"\r\[(=*) *\] epoch (\d+) step (\d+) \| [\d.]+ videos/s"
    r" \| Loss: \d+\.\d\d GAP: \d\.\d\d(?: \| (\d+:\d\d:\d\d) left)?",
    text,
  )
  assert [int(step) for _, _, step, _ in bars][-1] == 24
  # At first there is nothing to estimate the time left from.
  assert (bars[0][3], bars[-1][3]) == ("", "0:00:00")
  filled = [len(bar) for bar, *_ in bars]
  assert filled == sorted(filled)
  assert filled[0] < filled[-1] == 20
  epochs = [int(epoch) for _, epoch, *_ in bars]
  assert epochs == sorted(epochs)
  assert epochs[0] == 1
  # There are only four epochs, and the last line does not follow the bar.
  assert epochs[-1] == 4
  assert re.search(r"\nI\d{4} .*Done at step 24", text)
  assert re.search(
    r"240 videos in 0:\d\d:\d\d, [\d.]+ videos/s including saving;"
    r" best GAP in training 0\.\d{3} at step \d+\. All files: ",
    text,
  )


def test_profile_of_some_steps(data_dir, tmp_path):
  common = (
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=10",
  )
  log = in_process.run("train", *common, "--max_steps=9", "--profile_steps=4,6")
  assert "A profile of steps 4 to 6 is in" in log
  (file,) = (tmp_path / "model").glob("plugins/profile/*/*.xplane.pb")
  assert b"train_step" in file.read_bytes()
  # The run ends before the profile would.
  log = in_process.run(
    "train", *common, "--max_steps=12", "--profile_steps=11,99"
  )
  assert "A profile of steps 11 to 12 is in" in log
  line = in_process.run_into_error("train", *common, "--profile_steps=5,4")
  assert "--profile_steps=FIRST,LAST" in line
  assert "'5,4'" in line


# --------------------------------------------------------------------------
# Flags

# Each flag of the original code with its default; None if this project decides
# it later, see test_defaults_that_depend_on_the_model.
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
  """A value that is not the default, as typed and as parsed."""
  if isinstance(default, bool):
    return str(not default), not default
  if isinstance(default, int):
    return str(default + 1), default + 1
  if isinstance(default, float):
    return str(default / 2), default / 2
  return "typed", "typed"


# Flags for which `typed` gives a wrong type, or not one of the choices.
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


def flag_values_of(program, *arguments):
  """{name: value} of a program's flags after a command line."""
  with flagsaver.flagsaver():  # removes new flags at the end
    importlib.import_module(program).define_flags()
    flags.FLAGS([program, *arguments])
    return flags.FLAGS.flag_values_dict()


@pytest.mark.parametrize("program", STARTER_FLAGS)
def test_flags_of_the_starter(program):
  starter_flags = STARTER_FLAGS[program]
  typed = {
    name: TYPED.get(name) or typed_value(default)
    for name, default in starter_flags.items()
  }
  arguments = [f"--{name}={text}" for name, (text, _) in typed.items()]

  def values(*arguments):
    found = flag_values_of(program, *arguments)
    return {name: found[name] for name in starter_flags}

  assert values() == starter_flags
  assert values(*arguments) == {
    name: value for name, (_, value) in typed.items()
  }


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
  with flagsaver.flagsaver():
    flags.FLAGS(["train"])
    dbof, lstm = map(models.resolve_hyperparameters, ("DbofModel", "LstmModel"))
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
    "l2_penalty": 1e-8,
  }
  assert lstm == {
    "lstm_cells": 1024,
    "lstm_layers": 2,
    "lstm_random_frames": 0,
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
    "l2_penalty": 1e-8,
  }


# --------------------------------------------------------------------------
# Evaluations while training; tests/engine/test_validation.py has the rest


@pytest.fixture
def evaluation_pattern(tmp_path, monkeypatch):
  """A function of flags that returns which files train.py evaluates on."""
  card = DatasetCard(
    frame_features=False,
    feature_names=["a"],
    feature_sizes=[1],
    feature_dtypes=["float32"],
    num_classes=1,
    splits={"train": {"videos": 3}, "validate": {"videos": 2}},
    made_by={},
  )
  monkeypatch.setattr(
    sample_data,
    "pattern_or_sample_data",
    lambda typed, split, frames, segments: (
      typed or f"sample/{split}/{frames}/{segments}"
    ),
  )

  def find(*typed, **splits) -> str:
    found = dataclasses.replace(card, splits={**card.splits, **splits})
    with flagsaver.flagsaver():
      train.define_flags()
      flags.FLAGS(["train", *typed])
      given = flags.FLAGS.dataset_dir
      if given:  # as apply_dataset_dir does
        flags.FLAGS.set_default("train_data_pattern", "of the card")
      train._find_evaluation_files(found if given else None)
      return training_flags.settings_from_flags(
        "LogisticModel"
      ).eval_data_pattern

  return find


DATASET = "--dataset_dir=data"


@pytest.mark.parametrize(
  ("typed", "expected"),
  [
    ([], ""),
    ([DATASET], ""),  # no command becomes slower by itself
    ([DATASET, "--best_metric=map"], ""),
    ([DATASET, "--eval_steps=3"], "data/validate*.tfrecord"),
    ([DATASET, "--early_stopping=3"], "data/validate*.tfrecord"),
    ([DATASET, "--early_stopping=3", "--eval_data_pattern=own*"], "own*"),
    (["--eval_data_pattern=own*"], "own*"),
    (["--train_data_pattern=t*", "--eval_data_pattern=own*"], "own*"),
    (["--eval_steps=3"], "sample/validate/False/False"),
    (["--early_stopping=1", "--frame_features"], "sample/validate/True/False"),
  ],
)
def test_which_files_are_evaluated_on(evaluation_pattern, typed, expected):
  assert evaluation_pattern(*typed) == expected


@pytest.mark.parametrize("flag", ["--eval_steps=3", "--early_stopping=3"])
def test_evaluations_need_files(evaluation_pattern, flag):
  with pytest.raises(errors.UserError) as caught:
    evaluation_pattern("--train_data_pattern=t*", flag)
  assert f"Expected --eval_data_pattern with {flag}, received" in str(
    caught.value
  )
  with pytest.raises(errors.UserError, match="the split validate"):
    evaluation_pattern(DATASET, flag, validate={"videos": 0})


# --------------------------------------------------------------------------
# Two trainings in one folder; tests/engine/test_train_dir_lock.py has the rest


@pytest.mark.parametrize("more", [(), ("--start_new_model",)])
def test_a_locked_folder_is_refused_before_any_work(
  video_run, tmp_path, monkeypatch, more
):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  monkeypatch.setattr(train, "find_files", None)  # nothing is opened
  with train_dir_lock.hold(str(copy), ["python", "train.py", "--a=1"]):
    before = folder_content(copy)
    line = in_process.run_into_error(
      "train", f"--train_dir={copy}", *VIDEO_DATA_FLAGS, *more
    )
    assert folder_content(copy) == before
  assert f"is being trained in by process {os.getpid()} on host" in line
  assert "started with: python train.py --a=1." in line


def test_the_function_takes_the_lock_too(tiny_files, tmp_path):
  with (
    train_dir_lock.hold(str(tmp_path)),
    pytest.raises(errors.UserError, match="no other process trains in"),
  ):
    train_tiny(tmp_path, tiny_files, max_steps=1)
  train_tiny(tmp_path, tiny_files, max_steps=1)
  assert not (tmp_path / "training.lock").exists()


@pytest.mark.parametrize("moment", ["steps", "save", "evaluation"])
def test_a_run_that_loses_its_lock_ends(
  tiny_files, tmp_path, monkeypatch, moment
):
  owner = {"class": Run, "name": "save"}
  if moment == "steps":
    owner = {"class": train_dir_lock.TrainDirLock, "name": "raise_if_lost"}
  elif moment == "evaluation":
    owner = {"class": scoring.Evaluator, "name": "evaluate"}
  function = getattr(owner["class"], owner["name"])

  def lose(*arguments):
    (tmp_path / "training.lock").write_text("of another process")
    if moment == "steps":
      arguments[0]._look()  # as its thread does
    return function(*arguments)

  monkeypatch.setattr(owner["class"], owner["name"], lose)
  if moment == "steps":
    monkeypatch.setattr(Run, "save", None)  # it ends before
  with pytest.raises(errors.UserError, match=r"training.lock to be of this"):
    train_tiny(
      tmp_path,
      tiny_files,
      max_steps=3,
      eval_data_pattern=tiny_files[0] if moment == "evaluation" else "",
    )
  assert checkpoint_steps(tmp_path) == (
    {0} if moment == "evaluation" else set()
  )
  assert not (tmp_path / "evaluations.json").exists()
  assert (tmp_path / "training.lock").read_text() == "of another process"


def test_a_run_that_has_ended_keeps_its_newest_export(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=2)
  # As after a start that could not remove it any more.
  (tmp_path / "export" / "step_1").mkdir()
  train_tiny(tmp_path, tiny_files, max_steps=2)
  assert os.listdir(tmp_path / "export") == ["step_2"]


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(train, "find_files", None)  # nothing is opened
  (tmp_path / "file").write_text("")
  line = in_process.run_into_error("train", f"--train_dir={tmp_path}/file/run")
  assert "Expected a --train_dir that can be written to" in line
  assert "Not a directory" in line


@pytest.mark.slow
def test_a_killed_training_is_continued_at_once(data_dir, tmp_path):
  """And one that is stopped before its first step removes its lock."""
  folder = tmp_path / "model"
  command = ("train.py", *endless_flags(data_dir, folder))
  with Program(tmp_path / "log", *command) as run:
    run.wait_for_line("training step")
    line = in_process.run_into_error("train", *endless_flags(data_dir, folder))
    assert f"by process {run._process.pid} on host" in line
    run.send_signal(signal.SIGKILL)
    run.wait_for_end()
  assert (folder / "training.lock").exists()
  log = in_process.run(
    "train", *endless_flags(data_dir, folder, "--max_steps=1")
  )
  assert "Took over the lock of process" in log
  assert not (folder / "training.lock").exists()
  with Program(tmp_path / "log", *command) as run:
    run.wait_for((folder / "training.lock").exists)
    run.send_signal(signal.SIGTERM)
    assert run.wait_for_end() in (0, 143), run.log
  assert not (folder / "training.lock").exists()
