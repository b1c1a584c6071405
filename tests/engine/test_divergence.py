"""Tests of engine.divergence: steps that are not finite."""

import gzip
import json
import os
import shutil

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from conftest import (
  REPOSITORY,
  Program,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  error_of,
  event_tags,
)
from keras import ops
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import losses
import models
from engine.data import Data
from engine.distribution import Placement
from engine.divergence import Watch
from engine.run import _make_counters

# What a step changes also where its update is left out.
COUNTERS = (
  "global_step",
  "examples_seen",
  "place",
  "position",
  "epoch_records",
  "left_out",
  "save_counter",
  "random_state",
  "finished_epochs",
  "optimizer/_learning_rate",
)
# With it, the bad video is not in the first step, nor in two in a row.
SEED = 1
# The first number of one video's first frame is above this.
BAD_FRAME = 0.38
DBOF_FLAGS = {
  **TINY_FRAME_FLAGS,
  "model": "DbofModel",
  "iterations": 3,
  "dbof_cluster_size": 4,
  "dbof_hidden_size": 3,
}


@pytest.fixture
def warned(monkeypatch):
  """The warnings so far."""
  lines = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: lines.append(text % values)
  )
  return lines


def make_bad(patch, model_name="LogisticModel", above=0.0, number=np.nan):
  """Gives a model NaN predictions of videos whose first feature is large.

  The gradients of all weights are then NaN.
  """
  model_class = models.find_class_by_name(model_name)
  create_model = model_class.create_model

  def create_bad(self, model_input, *arguments, **keywords):
    outputs = create_model(self, model_input, *arguments, **keywords)
    first = model_input
    while len(first.shape) > 1:
      first = first[:, 0]
    wrong = ops.where(first > above, number, 1.0)
    return {"predictions": outputs["predictions"] * wrong[:, None]}

  patch.setattr(model_class, "create_model", create_bad)


@pytest.fixture(scope="module")
def threshold(tiny_vectors):
  """One video's first feature is above this, after normalization."""
  lengths = np.linalg.norm(tiny_vectors, axis=1)
  second, first = np.sort(tiny_vectors[:, 0] / lengths)[-2:]
  return float(first + second) / 2


@pytest.fixture(scope="module")
def bad_video(tiny_vectors):
  """The name of this video."""
  lengths = np.linalg.norm(tiny_vectors, axis=1)
  return f"v{np.argmax(tiny_vectors[:, 0] / lengths)}"


def steps_with(files, video, num_epochs=2):
  """The steps, from 1, whose batches have a video; and all their videos."""
  data = Data(TINY_FLAGS, files, True)
  batches = data.training_batches(5, num_epochs, SEED)
  found = {}
  for step, batch in enumerate(batches.as_numpy_iterator(), start=1):
    names = [name.decode() for name in batch["video_ids"]]
    if video in names:
      found[step] = names
  return found


def assert_unchanged(train_dir, before, after):
  """Compares all of two checkpoints that an update changes, bit for bit."""
  one, other = (
    checkpoint_values(train_dir / f"model.ckpt-{step}")
    for step in (before, after)
  )
  compared = [name for name in one if not name.startswith(COUNTERS)]
  assert any("iterations" in name for name in compared)
  for name in compared:
    np.testing.assert_array_equal(other[name], one[name], err_msg=name)


# --------------------------------------------------------------------------
# Stopping


def test_a_step_that_is_not_finite_stops_training(
  tiny_files, tmp_path, threshold, bad_video, monkeypatch
):
  make_bad(monkeypatch, above=threshold)
  bad, names = next(iter(steps_with(tiny_files, bad_video).items()))
  assert bad > 1
  message = error_of(
    train_tiny,
    tmp_path,
    tiny_files,
    export_model_steps=1,
    num_epochs=2,
    seed=SEED,
  )
  assert f"at step {bad}." in message
  assert "predictions of LogisticModel at" in message
  assert "fully_connected/kernel, fully_connected/bias" in message
  # Only one of the step's videos has such predictions.
  file = tiny_files[int(bad_video[1:]) >= 13]
  number = int(bad_video[1:]) % 13
  assert (
    f"The records of the step: {bad_video} ({file}, record {number}), wh"
    in (message)
  )
  assert not any(f"{name} (" in message for name in set(names) - {bad_video})
  assert f"last checkpoint, of step {bad - 1}: use a smaller" in message
  assert "--nan_policy=skip" in message
  assert checkpoint_steps(tmp_path) == set(range(1, bad))
  assert tf.train.latest_checkpoint(tmp_path).endswith(f"-{bad - 1}")


def test_the_program_ends_with_one_line(data_dir, tmp_path, monkeypatch):
  make_bad(monkeypatch, above=-2.0)
  line = in_process.run_into_error(
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=1024,128",
    "--num_classes=40",
    "--batch_size=10",
  )
  assert "at step 1." in line
  assert "and 5 more. No checkpoint was saved yet: use a smaller" in line
  assert checkpoint_steps(tmp_path / "model") == set()


def test_a_loss_that_is_not_finite_is_named(tiny_files, tmp_path, monkeypatch):
  monkeypatch.setattr(
    losses.CrossEntropyLoss,
    "calculate_loss",
    lambda self, predictions, *_: ops.mean(ops.sqrt(predictions - 2.0)),
  )
  message = error_of(train_tiny, tmp_path, tiny_files, num_epochs=1)
  assert "received nan as CrossEntropyLoss of the labels and" in message
  assert "at step 1." in message


def make_loss_bad(patch):
  """Gives training a loss of NaN whose gradients are finite."""

  def calculate_loss(self, predictions, *_):
    root = ops.sqrt(ops.mean(predictions) - 2.0)
    return ops.mean(predictions) + ops.stop_gradient(root)

  patch.setattr(losses.CrossEntropyLoss, "calculate_loss", calculate_loss)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_a_loss_of_finite_gradients_is_named(
  tiny_files, tmp_path, monkeypatch, accumulate_steps
):
  make_loss_bad(monkeypatch)
  message = error_of(
    train_tiny,
    tmp_path,
    tiny_files,
    num_epochs=1,
    accumulate_steps=accumulate_steps,
  )
  assert "received nan as CrossEntropyLoss of the labels at step 1." in message
  assert f" ({tiny_files[0]}, record " in message
  assert "gradients" not in message


@pytest.mark.parametrize("bad_batch", [1, 2])
def test_each_batch_of_a_step_counts(
  tiny_files, tmp_path, monkeypatch, warned, bad_batch
):
  num_calls = tf.Variable(0)

  def calculate_loss(self, predictions, *_):
    # Of each batch, the first call is for the gradients, the next the value.
    is_bad = tf.equal(num_calls.assign_add(1), 2 * bad_batch)
    return ops.mean(predictions) + tf.where(is_bad, np.nan, 0.0)

  monkeypatch.setattr(losses.CrossEntropyLoss, "calculate_loss", calculate_loss)
  train_tiny(
    tmp_path,
    tiny_files,
    num_epochs=1,
    accumulate_steps=2,
    export_model_steps=1,
    nan_policy="skip",
  )
  assert len(warned) == 1
  assert "step 1" in warned[0]


def test_all_steps_with_a_loss_that_is_not_finite_are_left_out(
  tiny_files, tmp_path, monkeypatch, warned
):
  """Also those between two reports, which come as fast as the steps do."""
  make_loss_bad(monkeypatch)
  steps = train_tiny(
    tmp_path, tiny_files, num_epochs=1, export_model_steps=1, nan_policy="skip"
  )
  assert steps == len(warned) == 5
  assert_unchanged(tmp_path, 1, 5)


def test_a_penalty_that_is_not_finite_is_named(
  tiny_files, tmp_path, monkeypatch
):
  create_model = models.find_class_by_name("LogisticModel").create_model

  def create_more(*arguments, **keywords):
    outputs = create_model(*arguments, **keywords)
    more = ops.sum(ops.sqrt(outputs["predictions"] - 2.0))
    return {**outputs, "auxiliary_losses": {"own_penalty": more}}

  monkeypatch.setattr(
    models.find_class_by_name("LogisticModel"), "create_model", create_more
  )
  message = error_of(train_tiny, tmp_path, tiny_files, num_epochs=1)
  assert "received nan as own_penalty and gradients with it" in message


def test_a_weight_that_is_not_finite_is_named(tiny_files, tmp_path):
  """An update has made it so; the next step has no finite gradients."""
  message = error_of(
    train_tiny,
    tmp_path,
    tiny_files,
    base_learning_rate=3e38,
    optimizer="SGD",
    clip_gradient_norm=0.0,
    regularization_penalty=1e9,
    num_epochs=4,
  )
  assert "infinite ones in fully_connected/" in message
  assert " before step " in message


@pytest.mark.slow
def test_logits_are_named_as_such(tiny_files, tmp_path, monkeypatch):
  """The gradients of the loss of numbers above 1 are NaN too."""
  make_bad(monkeypatch, above=-2.0, number=7.0)
  monkeypatch.setattr(
    losses.CrossEntropyLoss,
    "calculate_loss",
    lambda self, predictions, *_: ops.sum(ops.sqrt(1.0 - predictions)),
  )
  message = error_of(train_tiny, tmp_path, tiny_files, num_epochs=1)
  assert "If they are logits" in message


@pytest.mark.parametrize(
  "kind", ["segments", pytest.param("compressed", marks=pytest.mark.slow)]
)
def test_records_of_other_data_are_named(
  kind, tiny_files, tiny_segment_files, tmp_path, monkeypatch
):
  files, flags, settings = tiny_segment_files, TINY_FRAME_FLAGS, {}
  if kind == "segments":
    settings = {"segment_labels": True}
    make_bad(monkeypatch, "FrameLevelLogisticModel", above=-2.0)
  else:
    files, flags = [], TINY_FLAGS
    make_bad(monkeypatch, above=-2.0)
    for file in tiny_files:
      files.append(f"{tmp_path}/{os.path.basename(file)}.gz")
      with open(file, "rb") as plain, gzip.open(files[-1], "wb") as packed:
        shutil.copyfileobj(plain, packed)
  data = Data(flags, files, True, kind == "segments")
  batch = next(iter(data.training_batches(5, seed=3)))
  names = [name.decode() for name in dict.fromkeys(batch["video_ids"].numpy())]
  message = error_of(
    train_tiny, tmp_path / "run", files, flags, seed=3, **settings
  )
  listed = message.split("The records of the step: ")[1].split(". No check")[0]
  if kind == "compressed":
    assert listed == ", ".join(names)
  else:
    assert [name.split(" ")[0] for name in listed.split("), ")] == names
    assert all(files[0] in one or files[1] in one for one in listed.split("),"))


# --------------------------------------------------------------------------
# Skipping

SKIPPED = {
  "averages, with XLA": (TINY_FLAGS, {"xla": True, "ema_decay": 0.9}, 1),
  "momentum, without XLA": (TINY_FLAGS, {"optimizer": "MomentumOptimizer"}, 1),
  "XLA at the ends of a step": (TINY_FLAGS, {"xla": None}, 1),
  "statistics": (DBOF_FLAGS, {"xla": False}, 1),
  "statistics, with XLA": (DBOF_FLAGS, {"xla": True}, 1),
  "several batches": (DBOF_FLAGS, {"accumulate_steps": 2}, 2),
  "several batches, with XLA": (
    TINY_FLAGS,
    {"accumulate_steps": 2, "xla": True},
    2,
  ),
}


@pytest.mark.parametrize(
  "name",
  [
    "averages, with XLA",
    pytest.param("XLA at the ends of a step", marks=pytest.mark.slow),
    pytest.param("statistics", marks=pytest.mark.slow),
    pytest.param("momentum, without XLA", marks=pytest.mark.slow),
    pytest.param("statistics, with XLA", marks=pytest.mark.slow),
    "several batches",
    pytest.param("several batches, with XLA", marks=pytest.mark.slow),
  ],
)
def test_a_skipped_step_changes_nothing(
  name, request, tmp_path, threshold, monkeypatch, warned
):
  flags, settings, batches = SKIPPED[name]
  files = request.getfixturevalue(
    "tiny_frame_files" if flags is DBOF_FLAGS else "tiny_files"
  )
  if "ends" in name:
    monkeypatch.setattr(
      models.find_class_by_name("LogisticModel"), "xla", False
    )
  above = BAD_FRAME if flags is DBOF_FLAGS else threshold
  make_bad(monkeypatch, flags["model"], above=above)
  steps = train_tiny(
    tmp_path,
    files,
    flags,
    **settings,
    nan_policy="skip",
    num_epochs=2,
    seed=SEED,
    export_model_steps=1,
    keep_checkpoints=0,
  )
  assert steps == -(-2 * 22 // (5 * batches))
  skipped = [int(line.split(",")[0].split()[-1]) for line in warned]
  skipped = [step for step in skipped if step > 1]
  assert skipped
  assert len(skipped) < steps - 1
  for step in range(2, steps + 1):
    if step in skipped:
      assert_unchanged(tmp_path, step - 1, step)
    else:
      with pytest.raises(AssertionError):
        assert_unchanged(tmp_path, step - 1, step)


def test_skipped_steps_are_counted(
  tiny_files, tmp_path, threshold, bad_video, monkeypatch, warned
):
  make_bad(monkeypatch, above=threshold)
  bad = steps_with(tiny_files, bad_video)
  assert len(bad) == 2
  steps = train_tiny(
    tmp_path, tiny_files, nan_policy="skip", num_epochs=2, seed=SEED
  )
  assert len(warned) == 2
  for number, (step, names) in enumerate(bad.items(), start=1):
    line = warned[number - 1]
    assert f"update of step {step}, {number} so far" in line
    # Whose predictions were NaN is known of the last step of a call alone.
    assert any(f"{name} (" in line for name in names)
  record = json.loads((tmp_path / "run.json").read_text())
  assert record["starts"][-1]["skipped_steps"] == 2
  tags = event_tags(tmp_path)
  assert tags["skipped_steps"][steps] == 2
  assert not set(tags["label_loss"]) & set(bad)
  values = checkpoint_values(tmp_path)
  assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 44
  assert values["left_out/.ATTRIBUTES/VARIABLE_VALUE"].tolist() == [2, 0]


@pytest.mark.slow
def test_a_run_with_skipped_steps_is_resumed_exactly(
  tiny_files, tmp_path, threshold, bad_video, monkeypatch
):
  make_bad(monkeypatch, above=threshold)
  bad = list(steps_with(tiny_files, bad_video, num_epochs=3))
  settings = {"nan_policy": "skip", "num_epochs": 3, "seed": SEED, "xla": True}
  steps = train_tiny(tmp_path / "whole", tiny_files, **settings)
  for max_steps in (bad[0], bad[1] - 1):
    train_tiny(tmp_path / "parts", tiny_files, **settings, max_steps=max_steps)
  assert train_tiny(tmp_path / "parts", tiny_files, **settings) == steps
  assert_same_state(
    tmp_path / "whole" / f"model.ckpt-{steps}",
    tmp_path / "parts" / f"model.ckpt-{steps}",
  )


def test_many_skipped_steps_in_a_row_end_a_run(
  tiny_files, tmp_path, monkeypatch, warned
):
  make_bad(monkeypatch, above=-2.0)
  message = error_of(
    train_tiny, tmp_path, tiny_files, nan_policy="skip", num_epochs=5
  )
  assert "step 10, the last of 10 such steps in a row" in message
  assert len(warned) == 9


@pytest.mark.slow
def test_one_finite_step_begins_the_count_again(
  tiny_files, tmp_path, threshold, bad_video, monkeypatch, warned
):
  """There are more than ten of them, but none after another."""
  make_bad(monkeypatch, above=threshold)
  bad = steps_with(tiny_files, bad_video, num_epochs=12)
  train_tiny(tmp_path, tiny_files, nan_policy="skip", num_epochs=12, seed=SEED)
  assert len(warned) == len(bad) == 12


# --------------------------------------------------------------------------
# Several replicas, statistics

REPLICAS = """
import startup, sys, pathlib, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
  cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import pytest, train
from engine import distribution
from engine.settings import Settings
import test_divergence
folder, above, *files = sys.argv[1:]
patch = pytest.MonkeyPatch()
test_divergence.make_bad(patch, "DbofModel", above=float(above))
for accumulate in (1, 2):
  print("run of steps of batches", flush=True)
  print(train.train(
    f"{folder}/{accumulate}", test_divergence.DBOF_FLAGS, files,
    Settings(4, 0.01, nan_policy="skip", num_epochs=4, export_model_steps=1,
    keep_checkpoints=0, accumulate_steps=accumulate),
    distribution.choose("", None),
  ))
"""


@pytest.mark.slow
def test_several_replicas_decide_alike(tiny_frame_files, tmp_path):
  """One video has NaN predictions on one of them; statistics are their own."""
  tests = REPOSITORY / "tests"
  with Program(
    tmp_path / "log",
    "-c",
    REPLICAS,
    tmp_path,
    str(BAD_FRAME),
    *tiny_frame_files,
    PYTHONPATH=os.pathsep.join(map(str, [REPOSITORY, tests, tests / "engine"])),
  ) as program:
    log = program.finish()
  for accumulate in (1, 2):
    skipped = 0
    steps = checkpoint_steps(tmp_path / str(accumulate))
    assert len(steps) == -(-88 // (8 * accumulate))
    for step in sorted(steps)[1:]:
      if f"update of step {step}," in log.split("run of steps")[accumulate]:
        skipped += 1
        assert_unchanged(tmp_path / str(accumulate), step - 1, step)
    assert 0 < skipped < len(steps) - 1


def test_statistics_that_are_not_finite_are_found():
  model = models.build_model(DBOF_FLAGS, quantized=True)
  watch = Watch(model, Placement(), state := _make_counters(1))
  squares = [tf.constant(1.0) for _ in model.trainable_variables]
  assert bool(tf.reduce_all(watch.judge(squares)))
  (variance, *_) = [
    variable
    for variable in model.non_trainable_variables
    if "variance" in variable.path
  ]
  old = variable_value(variance)
  variance.assign(keras.ops.full(variance.shape, np.inf))
  squares[1] = tf.constant(np.inf)
  finite = watch.judge(squares)
  assert int(tf.reduce_sum(tf.cast(finite, tf.int32))) == len(finite) - 2
  watch.restore()
  watch.remember(state, tf.concat([finite, [True]], axis=0))
  np.testing.assert_array_equal(variable_value(variance), old)
  (found,) = watch.take()
  assert found.step == 1
  assert found.weights == [model.trainable_variables[1].path]
  assert found.statistics == [variance.path]
  assert watch.take() == []


def variable_value(variable) -> np.ndarray:
  return variable.numpy().copy()
