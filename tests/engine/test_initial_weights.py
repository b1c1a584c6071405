"""Tests of initial_weights: what a run takes over from another one."""

import io
import os
import re
import shutil

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  assert_names,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  error_of,
  event_tags,
  folder_content,
  load_model,
)
from every_model import make_batch, make_model_flags, model_classes, predict
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import models
from engine import best_checkpoint, initial_weights
from engine.initial_weights import find_source, plan_transfer, weights_by_name
from engine.model_flags import read_model_flags, write_model_flags
from reports import compress_model

MODELS = {model.__name__: model for model in model_classes()}
# Of each kind of classifier one; the others are slow together.
QUICK = ("LogisticModel", "MoeModel", "DbofModel", "StreamLstmModel")
ALL_MODELS = pytest.mark.parametrize(
  "model_class",
  [
    pytest.param(
      model, id=name, marks=[] if name in QUICK else pytest.mark.slow
    )
    for name, model in MODELS.items()
  ],
)

# The layers whose size is that of the classes.
CLASSIFIERS = re.compile(
  r"fully_connected|gates|experts|(\w+_)?classifier(/dense)?|output_gating_\w+"
)


def build(model_flags, seed=0):
  """A small model with random weights, also where these begin with zeros."""
  model = models.build_model(model_flags)
  random = np.random.default_rng(seed)
  for variable in model.variables:
    if variable.dtype == "float32":
      values = random.uniform(0.2, 0.8, variable.shape)
      variable.assign(values.astype(np.float32))
  return model


def transfer_between(model_flags, source_flags):
  """(the new model, the source, what is taken over)."""
  model, source = build(model_flags, 1), build(source_flags, 2)
  return model, source, plan_transfer(model, model_flags, source, source_flags)


# --------------------------------------------------------------------------
# Names


@ALL_MODELS
def test_names_do_not_depend_on_models_built_before(model_class):
  model_flags = make_model_flags(model_class)
  first = list(weights_by_name(models.build_model(model_flags)))
  second = list(weights_by_name(models.build_model(model_flags)))
  assert first == second
  assert len(first) == len(set(first))


def unnamed_model(sizes):
  """Layers of the same kind without names, some in another layer."""
  frames = keras.Input((None, 3))
  states = keras.layers.Bidirectional(
    keras.layers.LSTM(2, return_sequences=True)
  )(frames)
  states = keras.layers.Bidirectional(keras.layers.LSTM(2))(states)
  for size in sizes:
    states = keras.layers.Dense(size)(states)
  return keras.Model(frames, states)


def test_layers_without_names_correspond_in_their_order():
  """As in models of forks."""
  models_of = [unnamed_model([4, 4, 4]) for _ in range(2)]
  ours, theirs = (list(weights_by_name(model)) for model in models_of)
  assert set(ours).isdisjoint(theirs)
  same = initial_weights._same_names(ours, theirs)
  assert list(same.items()) == list(zip(ours, theirs, strict=True))
  # The second model has a layer less.
  fewer = list(weights_by_name(unnamed_model([4, 4])))
  same = initial_weights._same_names(ours, fewer)
  assert list(same.items()) == list(zip(ours, fewer, strict=False))


def test_numbers_in_given_names_stay():
  same = initial_weights._same_names(
    ["hidden_1/kernel", "lstm_2/kernel"], ["hidden_2/kernel", "lstm_2/kernel"]
  )
  assert same == {"lstm_2/kernel": "lstm_2/kernel"}


# --------------------------------------------------------------------------
# Classes


@ALL_MODELS
def test_the_same_model_is_taken_over_as_a_whole(model_class):
  model_flags = make_model_flags(model_class)
  model, source, transfer = transfer_between(model_flags, model_flags)
  assert not transfer.fresh
  assert not transfer.unused
  assert not transfer.partly
  theirs = weights_by_name(source)
  for name, value in transfer.values.items():
    np.testing.assert_array_equal(value, theirs[name])
  assert not any("seed" in name for name in transfer.values)
  assert len(transfer.values) == len(weights_by_name(model))


@ALL_MODELS
@pytest.mark.parametrize("there", [3, 8])
def test_other_classes_change_the_classifier_only(model_class, there):
  model_flags = make_model_flags(model_class)
  source_flags = {**model_flags, "num_classes": there}
  _, source, transfer = transfer_between(model_flags, source_flags)
  assert transfer.fresh
  assert transfer.fresh == transfer.unused
  for name in transfer.fresh:
    assert CLASSIFIERS.fullmatch(name.rpartition("/")[0]), name
  theirs = weights_by_name(source)
  for name, value in transfer.values.items():
    np.testing.assert_array_equal(value, theirs[name])


@ALL_MODELS
@pytest.mark.parametrize(
  ("here", "there"),
  [
    (None, [1, 2, 4]),
    ([1, 2, 4], None),
    ([0, 3], [1, 3, 4]),
    # As many, but others: shapes alone do not tell.
    ([0, 3, 4], [1, 3, 4]),
    ([1, 2, 3, 4], [0, 1, 2, 3]),
  ],
)
def test_columns_of_the_classes_of_both(model_class, here, there):
  """The classes of both are predicted as by the source, all others anew."""
  changes = {}
  if "moe_output_gating" in make_model_flags(model_class):
    changes["moe_output_gating"] = False  # would mix the classes
  given = make_model_flags(model_class, num_classes=6, **changes)
  flags_here, flags_there = (
    given if subset is None else {**given, "label_subset": subset}
    for subset in (here, there)
  )
  model, source, transfer = transfer_between(flags_here, flags_there)
  assert transfer.partly
  assert not transfer.fresh
  weights = weights_by_name(model)
  before = {name: np.array(variable) for name, variable in weights.items()}
  for name, value in transfer.values.items():
    weights[name].assign(value)
  batch = make_batch(given)
  found, expected = predict(model, batch), predict(source, batch)
  classes = [list(subset or range(6)) for subset in (here, there)]
  shared = sorted(set(classes[0]) & set(classes[1]))
  assert transfer.num_classes == len(shared)
  np.testing.assert_allclose(
    found[:, [classes[0].index(index) for index in shared]],
    expected[:, [classes[1].index(index) for index in shared]],
    rtol=1e-5,
    atol=1e-6,
  )
  # What belongs to other classes is as it was.
  for name in transfer.partly:
    changed = transfer.values[name] != before[name]
    columns = changed.reshape(-1, changed.shape[-1]).any(axis=0)
    per_class = len(columns) // len(classes[0])
    assert columns.sum() == per_class * len(shared)


def test_gates_between_classes_are_taken_over_for_pairs_of_classes():
  model_flags = make_model_flags(
    MODELS["MoeModel"], moe_output_gating=True, label_subset=[0, 2, 3]
  )
  source_flags = {**model_flags, "label_subset": [1, 2, 3, 4]}
  _, source, transfer = transfer_between(model_flags, source_flags)
  name = "output_gating_dense/kernel"
  np.testing.assert_array_equal(
    transfer.values[name][1:, 1:],
    np.array(weights_by_name(source)[name])[1:3, 1:3],
  )
  # Statistics of some classes from many steps would hold up the others'.
  assert sorted(transfer.fresh) == [
    f"output_gating_bn/{name}"
    for name in ("moving_mean", "moving_variance", "num_updates")
  ]


def test_experts_of_exclusive_classes_stand_side_by_side():
  """All classes of an expert follow each other there."""
  given = make_model_flags(
    MODELS["MoeModel"], moe_num_mixtures=2, exclusive_classes=True
  )
  model_flags = {**given, "label_subset": [0, 2, 3]}
  source_flags = {**given, "label_subset": [2, 4]}
  model, source, transfer = transfer_between(model_flags, source_flags)
  (expected,) = (
    np.array(variable)
    for name, variable in weights_by_name(model).items()
    if name == "experts/bias"
  )
  theirs = np.array(weights_by_name(source)["experts/bias"])
  expected[[1, 4]] = theirs[[0, 2]]
  np.testing.assert_array_equal(transfer.values["experts/bias"], expected)


@pytest.mark.parametrize("exclusive_here", [True, False])
def test_experts_change_their_order_with_exclusive_classes(exclusive_here):
  """The shape is the same: 2 experts of 5 classes, in 10 columns."""
  given = make_model_flags(MODELS["MoeModel"], moe_num_mixtures=2)
  model, source, transfer = transfer_between(
    {**given, "exclusive_classes": exclusive_here},
    {**given, "exclusive_classes": not exclusive_here},
  )
  assert given["num_classes"] == 5
  for name in ("experts/kernel", "experts/bias"):
    theirs = np.array(weights_by_name(source)[name])
    for expert in range(2):
      for index in range(5):
        by_class, by_expert = 2 * index + expert, 5 * expert + index
        here, there = by_class, by_expert
        if exclusive_here:
          here, there = by_expert, by_class
        np.testing.assert_array_equal(
          transfer.values[name][..., here], theirs[..., there]
        )
  assert not transfer.partly
  assert set(weights_by_name(model)) - set(transfer.values) == {
    name for name in weights_by_name(model) if name.startswith("gates/")
  }


def test_as_many_columns_of_other_classes_are_not_taken_over():
  """6 classes of 2 experts have as many columns as 4 classes of 3."""
  flags_here, flags_there = (
    make_model_flags(
      MODELS["MoeModel"], num_classes=classes, moe_num_mixtures=experts
    )
    for classes, experts in [(6, 2), (4, 3)]
  )
  model, source, transfer = transfer_between(flags_here, flags_there)
  shapes = {
    tuple(weights_by_name(each)["experts/bias"].shape)
    for each in (model, source)
  }
  assert shapes == {(12,)}
  assert not [name for name in transfer.values if name.startswith("experts")]


def test_an_index_of_other_data_is_another_class():
  """Three classes here and there, but of five and of six."""
  given = make_model_flags(MODELS["LogisticModel"], label_subset=[0, 2, 3])
  source_flags = {**given, "num_classes": 6}
  _, _, transfer = transfer_between(given, source_flags)
  assert not transfer.values
  assert transfer.num_classes == 0


def test_statistics_stay_with_their_layer():
  """A layer of another size begins its statistics anew, others keep them."""
  given = make_model_flags(MODELS["DbofModel"])
  source_flags = {**given, "dbof_hidden_size": 4}
  _, source, transfer = transfer_between(given, source_flags)
  theirs = weights_by_name(source)
  kept = {name for name in transfer.values if name.endswith("num_updates")}
  assert kept == {
    name
    for name in theirs
    if name.endswith("num_updates") and "hidden1" not in name
  }
  assert kept


# --------------------------------------------------------------------------
# Sources


@pytest.fixture(scope="module")
def source_dir(tiny_files, tmp_path_factory):
  """A train_dir of a LogisticModel with averages, and two checkpoints."""
  folder = tmp_path_factory.mktemp("source") / "run"
  settings = {"ema_decay": 0.9, "export_model_steps": 2, "max_steps": 4}
  train_tiny(folder, tiny_files, **settings)
  assert checkpoint_steps(folder) == {2, 4}
  return folder


def averages(checkpoint) -> list[np.ndarray]:
  """The averages in a checkpoint, in the order of the weights."""
  values = checkpoint_values(checkpoint)
  return [
    values[name] for name in sorted(values) if name.startswith("average/")
  ]


def weights_of(train_dir) -> list[np.ndarray]:
  return [
    np.array(variable) for variable in load_model(train_dir).trainable_variables
  ]


def assert_equal(found, expected):
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_folder_or_a_checkpoint(source_dir, tiny_files, tmp_path):
  """Without a learning rate, the first step changes nothing."""
  settings = {"base_learning_rate": 0.0, "max_steps": 1, "ema_decay": 0.5}
  for number, (source, checkpoint) in enumerate(
    [
      (f"{source_dir}/", source_dir / "model.ckpt-4"),
      (f"{source_dir}/model.ckpt-2", source_dir / "model.ckpt-2"),
    ]
  ):
    train_dir = tmp_path / str(number)
    train_tiny(train_dir, tiny_files, **settings, init_checkpoint=source)
    assert_equal(weights_of(train_dir), averages(checkpoint))
    # The run's own averages begin there too.
    assert_equal(
      averages(tf.train.latest_checkpoint(str(train_dir))),
      averages(checkpoint),
    )
  assert not np.array_equal(
    averages(source_dir / "model.ckpt-2")[0],
    averages(source_dir / "model.ckpt-4")[0],
  )


def test_a_checkpoint_in_this_folder(source_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(source_dir)
  found = find_source("model.ckpt-2")
  assert found.checkpoint == "model.ckpt-2"
  assert found.model_flags["model"] == "LogisticModel"
  assert os.listdir(tmp_path) == []


def test_the_best_checkpoint(source_dir, tmp_path, monkeypatch):
  """It is in a folder without model_flags.json."""
  run = tmp_path / "run"
  shutil.copytree(source_dir, run)
  oldest = f"{run}/model.ckpt-2"
  conditions = {"files": "", "pattern": ""}
  best_checkpoint.consider(str(run), oldest, "gap", 1.0, conditions)
  for path in (f"{run}/best/model.ckpt-2", f"{run}/best", f"{run}/best/"):
    found = find_source(path)
    assert found.checkpoint == f"{run}/best/model.ckpt-2"
    assert found.model_flags["model"] == "LogisticModel"
  monkeypatch.chdir(run)
  assert find_source("best").checkpoint == "best/model.ckpt-2"
  # A run of its own that is called so.
  run.rename(tmp_path / "best")
  found = find_source(f"{tmp_path}/best/model.ckpt-2")
  assert found.model_flags["model"] == "LogisticModel"


def test_weights_in_half_the_bytes(source_dir, tiny_files, tmp_path):
  """Kernels are rounded to float16; biases are not."""
  newest = str(source_dir / "model.ckpt-4")
  compress_model.compress(
    str(source_dir), str(tmp_path / "half"), [newest], half=True
  )
  train_tiny(
    tmp_path / "run",
    tiny_files,
    base_learning_rate=0.0,
    max_steps=1,
    init_checkpoint=str(tmp_path / "half"),
  )
  kernel, bias = averages(newest)
  rounded = kernel.astype(np.float16).astype(np.float32)
  assert not np.array_equal(rounded, kernel)
  assert_equal(weights_of(tmp_path / "run"), [rounded, bias])


def test_from_whole_videos_to_frames(source_dir, tiny_frame_files, tmp_path):
  settings = {"base_learning_rate": 0.0, "max_steps": 1}
  log = io.StringIO()
  with in_process._logged_to(log):
    train_tiny(
      tmp_path / "run",
      tiny_frame_files,
      TINY_FRAME_FLAGS,
      **settings,
      init_checkpoint=str(source_dir),
    )
  assert_equal(
    weights_of(tmp_path / "run"), averages(source_dir / "model.ckpt-4")
  )
  assert "model.ckpt-4, a LogisticModel: 2 of 2 variables, 48 numbers." in (
    log.getvalue()
  )
  assert "Not taken over" not in log.getvalue()
  assert "--init_checkpoint are of a model on" not in log.getvalue()


def test_from_frames_to_segments(
  tiny_frame_files, tiny_segment_files, tmp_path
):
  """A run on rated segments begins with a run on whole videos."""
  source, run = tmp_path / "source", tmp_path / "run"
  train_tiny(source, tiny_frame_files, TINY_FRAME_FLAGS, max_steps=2)
  settings = {"segment_labels": True, "num_epochs": 2, "optimizer": "SGD"}
  train_tiny(
    run,
    tiny_segment_files,
    TINY_FRAME_FLAGS,
    **settings,
    init_checkpoint=str(source),
  )
  (old, _), (new, _) = weights_of(source), weights_of(run)
  assert (new != old).any()
  assert np.abs(new - old).max() < np.abs(old).max()
  # The optimizer and the counters are the run's own.
  values = checkpoint_values(tf.train.latest_checkpoint(str(run)))
  assert values["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 44


def test_a_mixture_becomes_the_classifier_of_frames(
  tiny_files, tiny_frame_files, tmp_path
):
  """The LSTM has as many cells as the video has features."""
  source, run = tmp_path / "source", tmp_path / "run"
  mixture = {"moe_num_mixtures": 2, "l2_penalty": 1e-8}
  moe = {**TINY_FLAGS, **mixture, "model": "MoeModel"}
  train_tiny(source, tiny_files, moe, max_steps=2)
  lstm = {
    **TINY_FRAME_FLAGS,
    **mixture,
    **{"model": "LstmModel", "lstm_cells": 7, "lstm_layers": 1},
  }
  settings = {"max_steps": 1, "base_learning_rate": 0.0}
  log = io.StringIO()
  with in_process._logged_to(log):
    train_tiny(
      run, tiny_frame_files, lstm, **settings, init_checkpoint=str(source)
    )
  ours, theirs = (
    weights_by_name(load_model(folder)) for folder in (run, source)
  )
  for name in theirs:
    np.testing.assert_array_equal(ours[name], theirs[name])
  assert "Not taken over, but new: lstm_0/lstm_cell (" in log.getvalue()


def test_a_continued_run_keeps_its_weights(source_dir, tiny_files, tmp_path):
  source = tmp_path / "source"
  shutil.copytree(source_dir, source)
  given = {"init_checkpoint": str(source), "num_epochs": 2}
  train_tiny(tmp_path / "whole", tiny_files, **given)
  train_tiny(tmp_path / "parts", tiny_files, **given, max_steps=3)
  shutil.rmtree(source)
  log = io.StringIO()
  with in_process._logged_to(log):
    end = train_tiny(tmp_path / "parts", tiny_files, **given)
  assert "no effect of --init_checkpoint" in log.getvalue()
  assert_same_state(
    *(tmp_path / name / f"model.ckpt-{end}" for name in ("whole", "parts"))
  )
  # Nothing in model_flags.json says where the weights came from.
  kept = read_model_flags(str(tmp_path / "whole"))
  assert kept == read_model_flags(str(source_dir))


def test_a_run_may_start_again_from_itself(source_dir, tiny_files, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(source_dir, run)
  train_tiny(
    run,
    tiny_files,
    max_steps=1,
    base_learning_rate=0.0,
    start_new_model=True,
    init_checkpoint=str(run),
  )
  assert checkpoint_steps(run) == {1}
  assert_equal(weights_of(run), averages(source_dir / "model.ckpt-4"))


# --------------------------------------------------------------------------
# What cannot be taken over


def damage(source, tmp_path, how):
  """A path that is wrong in some way, and what the error says."""
  folder = tmp_path / "source"
  shutil.copytree(source, folder)
  if how == "missing":
    return f"{tmp_path}/none", "which is neither. Check the path"
  if how == "no best":
    return f"{folder}/best", f"{folder} takes the newest"
  if how == "empty":
    (tmp_path / "empty").mkdir()
    return f"{tmp_path}/empty", "a folder without one"
  if how == "ending":
    return f"{folder}/model.ckpt-4.index", "Write the path without its ending"
  if how == "no flags":
    (folder / "model_flags.json").unlink()
    return f"{folder}/model.ckpt-4", "TensorFlow 1 code"
  if how == "TensorFlow 1 flags":
    (folder / "model_flags.json").write_text('{"model": "LogisticModel"}')
    return str(folder), "TensorFlow 1 code"
  if how == "other weights":
    flags = {**TINY_FLAGS, "feature_names": "mean_rgb", "feature_sizes": "4"}
    write_model_flags(str(folder), flags)
    return str(folder), "Expected the weights of the model"
  write_model_flags(str(folder), {**TINY_FLAGS, "model": "Gone"})
  return str(folder), "'Gone'"


@pytest.mark.parametrize(
  "how",
  [
    *("missing", "no best", "empty", "ending", "no flags"),
    *("TensorFlow 1 flags", "other weights", "no class"),
  ],
)
def test_a_wrong_source_is_one_line(source_dir, tiny_files, tmp_path, how):
  """The old run stays, although it was to be deleted."""
  path, expected = damage(source_dir, tmp_path, how)
  run = tmp_path / "run"
  shutil.copytree(source_dir, run)
  before = folder_content(run)
  text = error_of(
    train_tiny, run, tiny_files, start_new_model=True, init_checkpoint=path
  )
  assert_names(text, expected, path.removesuffix("/"))
  assert "\n" not in text
  assert folder_content(run) == before


def test_a_model_that_has_nothing_in_common(source_dir, tiny_files, tmp_path):
  moe = {**TINY_FLAGS, "model": "MoeModel"}
  text = error_of(
    train_tiny,
    tmp_path / "run",
    tiny_files,
    moe,
    init_checkpoint=str(source_dir),
  )
  assert_names(
    text,
    f"Expected weights that MoeModel has too in --init_checkpoint={source_dir}",
    "received those of LogisticModel",
    "gates/kernel (7, 18) here, fully_connected/kernel (7, 6) there",
  )
  assert not (tmp_path / "run").exists()


def test_an_error_comes_before_the_data_is_read(source_dir, tmp_path):
  line = in_process.run_into_error(
    "train",
    f"--train_dir={tmp_path}/run",
    f"--train_data_pattern={tmp_path}/none",
    f"--init_checkpoint={source_dir}/model.ckpt-3",
  )
  assert "--init_checkpoint" in line


# --------------------------------------------------------------------------
# What is said


def test_what_differs_is_listed_briefly():
  layers = [f"layer_{number}/kernel" for number in range(9)]
  names = ["layer_0/bias", *layers]
  shapes = {"layer_0/kernel": ((2, 3), (2, 4)), "layer_0/bias": ((3,), (3,))}
  assert initial_weights._listed(names, shapes) == (
    "layer_0 (bias, kernel (2, 3) instead of (2, 4)); layer_1 (kernel);"
    " layer_2 (kernel); layer_3 (kernel); layer_4 (kernel); layer_5 (kernel);"
    " and 3 more layers"
  )


def test_features_in_another_order_are_warned_of(
  source_dir, tiny_files, tmp_path
):
  other = {
    **TINY_FLAGS,
    "feature_names": "mean_audio,mean_rgb",
    "feature_sizes": "3,4",
  }
  log = io.StringIO()
  with in_process._logged_to(log):
    train_tiny(
      tmp_path / "run",
      tiny_files,
      other,
      max_steps=1,
      init_checkpoint=str(source_dir),
    )
  assert (
    "are of a model on rgb (4), audio (3) with --input_transform=l2. This run"
    " reads audio (3), rgb (4)" in log.getvalue()
  )


# --------------------------------------------------------------------------
# Rated segments, by the original's reader


GOLDEN_FLAGS = {
  "model": "FrameLevelLogisticModel",
  "feature_names": "rgb,audio",
  "feature_sizes": "1024,128",
  "frame_features": True,
  "num_classes": 3862,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
}
OF_VIDEOS = {
  **GOLDEN_FLAGS,
  "model": "LogisticModel",
  "feature_names": "mean_rgb,mean_audio",
  "frame_features": False,
}


def expected_loss(expected, kernel, bias) -> float:
  """The loss of all golden segments, of their rated pairs alone."""
  total = 0.0
  pairs = zip(
    expected["segment_weight_rows"],
    expected["segment_weight_classes"],
    expected["segment_scores"],
    strict=True,
  )
  for row, index, score in pairs:
    valid = expected["segment_num_frames"][row]
    frames = expected["segment_matrix"][row, :valid].astype(np.float64)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    logit = frames.mean(axis=0) @ kernel[:, index] + bias[index]
    probability = 1 / (1 + np.exp(-logit))
    likely = probability if score > 0 else 1 - probability
    total -= np.log(likely + 1e-5)
  return total / len(expected["segment_matrix"])


@pytest.mark.parametrize(
  ("level", "source_flags"), [("video", OF_VIDEOS), ("frame", GOLDEN_FLAGS)]
)
def test_golden_segments_after_whole_videos(
  shared_dir, tmp_path, level, source_flags
):
  folder = shared_dir / "golden" / "readers"
  train_tiny(
    tmp_path / "source",
    [str(folder / f"{level}.tfrecord")],
    source_flags,
    max_steps=2,
  )
  kernel, bias = weights_of(tmp_path / "source")
  train_tiny(
    tmp_path / "run",
    [str(folder / "segment.tfrecord")],
    GOLDEN_FLAGS,
    batch_size=100,
    num_epochs=2,
    segment_labels=True,
    init_checkpoint=str(tmp_path / "source"),
  )
  with np.load(folder / "expected.npz") as expected:
    loss = expected_loss(expected, kernel, bias)
  losses = event_tags(tmp_path / "run")["label_loss"]
  assert losses[1] == pytest.approx(loss, rel=1e-4)
