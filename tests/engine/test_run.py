"""Tests of engine.run: exact resuming, averages, what is kept."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from conftest import (
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  error_of,
  event_tags,
  load_model,
)
from make_records import video_record, write_records
from tiny_runs import NUM_TINY, TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import errors
import models
from engine import loop
from engine.checkpoints import Checkpoints, load_weights
from engine.run import Run, check_not_lost

RESUMED = {
  "logistic": ("tiny_files", TINY_FLAGS, {"xla": True}),
  "momentum": (
    "tiny_files",
    {**TINY_FLAGS, "model": "MoeModel", "moe_num_mixtures": 2},
    {"optimizer": "MomentumOptimizer", "learning_rate_decay_examples": 17},
  ),
  "random frames and batch normalization": (
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
  "branches that learn from their mixture": (
    "tiny_frame_files",
    {
      **TINY_FRAME_FLAGS,
      "model": "MixNextVladModel",
      "mix_branches": 2,
      "nextvlad_cluster_size": 4,
      "nextvlad_groups": 2,
      "nextvlad_hidden_size": 4,
      "nextvlad_gating_reduction": 2,
    },
    {},
  ),
  "mixed videos and averaged weights": (
    "tiny_files",
    TINY_FLAGS,
    {"mixup_alpha": 0.4, "ema_decay": 0.9},
  ),
  "warm-up, weight decay and a joint norm": (
    "tiny_files",
    TINY_FLAGS,
    {
      "warmup_examples": 20,
      "weight_decay": 0.1,
      "clip_global_norm": 0.5,
    },
  ),
  "segments": (
    "tiny_segment_files",
    TINY_FRAME_FLAGS,
    {"segment_labels": True},
  ),
}


# Tracing and exporting two branches three times takes a minute.
SLOW = (
  "branches that learn from their mixture",
  "mixed videos and averaged weights",
  "momentum",
)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in RESUMED
  ],
)
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


class StopWhen:
  """A StopSignal that arrives when a function says so."""

  def __init__(self, arrives):
    self._arrives = arrives

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    pass

  @property
  def received(self):
    return "SIGTERM" if self._arrives() else None


def stop_after(looks) -> StopWhen:
  """A StopSignal that arrives after it was checked some times."""
  counted = itertools.count(1)
  return StopWhen(lambda: next(counted) == looks)


def test_a_stopped_run_keeps_the_end_of_its_cosine(
  tiny_files, tmp_path, monkeypatch
):
  settings = {
    "learning_rate_schedule": "cosine",
    "num_epochs": 3,
    "export_model_steps": 3,
  }
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  train_tiny(whole, tiny_files, **settings)
  with monkeypatch.context() as patch:
    patch.setattr(loop, "StopSignal", lambda: stop_after(2))
    assert 0 < train_tiny(parts, tiny_files, **settings) < 14
  # If the end were planned again, it would be that of five epochs.
  settings["num_epochs"] = 5
  assert train_tiny(parts, tiny_files, **settings, max_steps=12) == 12
  assert_same_state(whole / "model.ckpt-12", parts / "model.ckpt-12")
  rates = event_tags(whole)["learning_rate"]
  # Before the last step, 65 of 66 examples were seen.
  assert rates[14] == pytest.approx(
    0.005 * (1 + np.cos(np.pi * 65 / 66)), rel=1e-4
  )


def test_a_stopped_run_keeps_its_warm_up(tiny_files, tmp_path):
  settings = {"learning_rate_schedule": "constant", "warmup_fraction": 0.5}
  train_tiny(tmp_path, tiny_files, **settings, num_epochs=0, max_steps=4)
  # It was planned over half of 20 examples, and not of 40.
  train_tiny(tmp_path, tiny_files, **settings, num_epochs=0, max_steps=8)
  values = checkpoint_values(str(tmp_path / "model.ckpt-8"))
  assert values["schedule_examples/.ATTRIBUTES/VARIABLE_VALUE"] == 20
  rates = event_tags(tmp_path)["learning_rate"]
  # Before the first step, no examples were seen.
  assert rates[1] == pytest.approx(0.01 / 10, rel=1e-5)
  assert rates[8] == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
  "settings",
  [
    {"learning_rate_schedule": "cosine"},
    {"learning_rate_schedule": "constant", "warmup_fraction": 0.1},
  ],
)
def test_a_plan_of_the_learning_rate_needs_an_end(
  tiny_files, tmp_path, settings
):
  with pytest.raises(errors.UserError, match="--num_epochs nor --max_steps"):
    train_tiny(tmp_path, tiny_files, **settings, num_epochs=0)


def test_a_cosine_that_has_ended_on_other_data_is_refused(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, num_epochs=3)
  other, cosine = tiny_files[:1], {"learning_rate_schedule": "cosine"}
  with pytest.raises(
    errors.UserError, match=r"seen 66 .* while 26 are planned"
  ):
    train_tiny(tmp_path, other, num_epochs=2, **cosine)
  # 78 examples are more than 66.
  train_tiny(tmp_path, other, num_epochs=6, **cosine)
  rates = event_tags(tmp_path)["learning_rate"]
  assert rates[15] == pytest.approx(
    0.005 * (1 + np.cos(np.pi * 66 / 78)), rel=1e-4
  )


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
      # The decay grows to 0.6 as the average covers more steps.
      decay = min(0.6, step / (9.0 + step))
      average = decay * average + (1 - decay) * weights
      np.testing.assert_allclose(found, average, atol=1e-6)
    average = found
    # The averages are evaluated.
    load_weights(model, path)
    np.testing.assert_array_equal(model.trainable_variables[0].numpy(), found)
    assert np.abs(found - weights).max() > 1e-5


def test_averages_are_exported(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, ema_decay=0.9, max_steps=6)
  model = models.build_model(TINY_FLAGS)
  load_weights(model, str(tmp_path / "model.ckpt-6"))
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


def test_the_seed_decides_the_run(tiny_files, tmp_path):
  for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
    train_tiny(tmp_path / name, tiny_files, seed=seed, num_epochs=1)
  assert_same_state(tmp_path / "a", tmp_path / "b")
  weights = [
    load_model(tmp_path / name).get_layer("fully_connected").get_weights()[0]
    for name in "ac"
  ]
  assert np.abs(weights[0] - weights[1]).max() > 0.01


def test_finished_run_continues_with_more_epochs(tiny_files, tmp_path):
  assert train_tiny(tmp_path / "parts", tiny_files, num_epochs=1) == 5
  assert train_tiny(tmp_path / "parts", tiny_files, num_epochs=3) == 14


def test_a_run_of_an_earlier_order_continues_after_as_many_examples(
  tiny_files, tmp_path, monkeypatch
):
  """As with checkpoints of versions that counted examples of each machine."""
  initialize = Checkpoints.__init__

  def without_place(self, *arguments, **state):
    for name in ("place", "window_shards", "epoch_records"):
      del state[name]
    initialize(self, *arguments, **state)

  find_place = Run._find_place

  def count(run, data):
    find_place(run, data)
    run.state["position"].assign([30])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Checkpoints, "__init__", without_place)
    patch.setattr(Run, "_find_place", count)
    train_tiny(tmp_path, tiny_files, max_steps=6)
  weights = load_model(tmp_path).get_weights()
  assert not any(
    name.startswith("place") for name in checkpoint_values(tmp_path)
  )

  lines = []
  monkeypatch.setattr(
    logging, "info", lambda text, *values: lines.append(text % values)
  )
  train_tiny(tmp_path, tiny_files, num_epochs=3)
  assert sum("after as many examples" in line for line in lines) == 1
  state = checkpoint_values(tmp_path)
  seen = state["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"]
  assert seen == 3 * NUM_TINY
  place = state["place/.ATTRIBUTES/VARIABLE_VALUE"]
  assert place.tolist() == [3, 0, 0]
  assert not np.array_equal(weights[0], load_model(tmp_path).get_weights()[0])
  train_tiny(tmp_path, tiny_files, num_epochs=4)  # the line comes once
  assert sum("after as many examples" in line for line in lines) == 1


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
  # Those of the first part of the run count too.
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


@pytest.mark.parametrize("max_steps", [1, 2, 3])
def test_no_checkpoint_of_a_diverged_model(tiny_files, tmp_path, max_steps):
  # Weights become infinite within two steps, the loss one step later.
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
      if value.dtype.kind == "f":
        assert np.isfinite(value).all(), f"{name} after step {step}"


# --------------------------------------------------------------------------
# Lost and damaged checkpoints


def remove_checkpoints(train_dir) -> None:
  for file in train_dir.glob("model.ckpt-*"):
    file.unlink()


def test_a_run_that_lost_its_checkpoints_does_not_begin_again(
  tmp_path, tiny_files
):
  train_tiny(tmp_path, tiny_files, max_steps=3)
  remove_checkpoints(tmp_path)
  state = (tmp_path / "checkpoint").read_bytes()
  record = (tmp_path / "run.json").read_bytes()
  (tmp_path / "run.json").unlink()
  error = error_of(train_tiny, tmp_path, tiny_files, max_steps=4)
  assert "although checkpoint says that it has saved step 3" in error
  (tmp_path / "run.json").write_bytes(record)
  (tmp_path / "checkpoint").write_bytes(b"\xff")
  error = error_of(train_tiny, tmp_path, tiny_files, max_steps=4)
  assert "although run.json says that it has saved step 3" in error
  assert "--start_new_model" in error
  (tmp_path / "run.json").unlink()
  (tmp_path / "evaluations.json").write_text(
    '{"evaluations": [{"global_step": 2}]}'
  )
  error = error_of(check_not_lost, str(tmp_path))
  assert "although evaluations.json says that it has saved step 2" in error
  (tmp_path / "run.json").write_bytes(record)
  (tmp_path / "checkpoint").write_bytes(state)
  again = {"max_steps": 2, "start_new_model": True}
  assert train_tiny(tmp_path, tiny_files, **again) == 2
  # Nor for a damaged index, of a step that was saved to its end.
  (tmp_path / "checkpoint").unlink()
  (tmp_path / "model.ckpt-2.index").write_bytes(b"")
  error = error_of(train_tiny, tmp_path, tiny_files, max_steps=4)
  assert "although run.json says that it has saved step 2" in error


def test_a_run_that_was_killed_before_its_first_checkpoint_begins(
  tmp_path, tiny_files, monkeypatch
):
  def kill(run):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Run, "save", kill)
    with pytest.raises(KeyboardInterrupt):
      train_tiny(tmp_path, tiny_files, max_steps=2)
  assert (tmp_path / "run.json").exists()
  assert train_tiny(tmp_path, tiny_files, max_steps=2) == 2


def test_a_run_with_a_damaged_checkpoint_ends_as_one_without(
  tmp_path, tiny_files
):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  every = {"export_model_steps": 2}
  for folder in (whole, parts):
    train_tiny(folder, tiny_files, **every, max_steps=6)
  file = parts / "model.ckpt-6.data-00000-of-00001"
  content = file.read_bytes()
  middle = len(content) // 2
  file.write_bytes(content[:middle] + b"??" + content[middle + 2 :])
  assert train_tiny(parts, tiny_files, **every, max_steps=6) == 6
  assert_same_state(whole, parts)
  assert checkpoint_steps(parts) == {2, 4, 6}
  assert not list(parts.glob("damaged-*"))
