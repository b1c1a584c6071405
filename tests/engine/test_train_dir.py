"""Tests of train_dir."""

import io
import json
import os
import shutil
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

import errors
import models
import video_level_models
from engine import train_dir as train_dirs

MODEL_FLAGS = {
  "model": "LogisticModel",
  "feature_names": "mean_rgb",
  "feature_sizes": "4",
  "frame_features": False,
  "num_classes": 3,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
  "l2_penalty": 1e-8,
  "input_transform": "l2",
}


def small_model(**changes):
  """A LogisticModel, or what the changes to its flags make of it."""
  return models.build_model({**MODEL_FLAGS, **changes})


def all_files(folder):
  """{relative path: content} of all files below a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


# --------------------------------------------------------------------------
# model_flags.json


def test_model_flags_round_trip(tmp_path):
  model_flags = {**MODEL_FLAGS, "lstm_cells": None, "dbof_add_batch_norm": True}
  folder = tmp_path / "new"
  train_dirs.write_model_flags(str(folder), model_flags)
  assert os.listdir(folder) == ["model_flags.json"]
  assert train_dirs.read_model_flags(str(folder)) == model_flags
  assert train_dirs.require_model_flags(str(folder)) == model_flags


def test_missing_model_flags(tmp_path):
  assert train_dirs.read_model_flags(str(tmp_path)) is None
  with pytest.raises(errors.UserError, match="model_flags") as error:
    train_dirs.require_model_flags(str(tmp_path))
  assert f"--train_dir={tmp_path}" in str(error.value)
  assert "train.py" in str(error.value)


@pytest.mark.parametrize(
  "content",
  [b"", b"{", b"5", b"null", b"\xff\xfe{", b"\x00\x01\x02"],
)
def test_model_flags_that_are_not_json(tmp_path, content):
  (tmp_path / "model_flags.json").write_bytes(content)
  with pytest.raises(errors.UserError, match="Expected JSON in") as error:
    train_dirs.read_model_flags(str(tmp_path))
  assert str(tmp_path / "model_flags.json") in str(error.value)


def test_model_flags_of_the_original_code(tmp_path):
  content = {
    "model": "LogisticModel",
    "feature_sizes": "1024",
    "feature_names": "mean_rgb",
    "frame_features": False,
    "label_loss": "CrossEntropyLoss",
  }
  (tmp_path / "model_flags.json").write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match="without num_classes") as error:
    train_dirs.require_model_flags(str(tmp_path))
  assert "TensorFlow 1" in str(error.value)


def test_the_same_model_continues(tmp_path):
  folder = str(tmp_path)
  train_dirs.resumed_model_flags(folder, MODEL_FLAGS)
  train_dirs.write_model_flags(folder, MODEL_FLAGS)
  train_dirs.resumed_model_flags(folder, dict(reversed(MODEL_FLAGS.items())))


def test_training_may_continue_on_numbers_that_are_stored_otherwise(tmp_path):
  folder = str(tmp_path)
  kinds = ["bytes", "float16", "float"]
  flags = train_dirs.with_dtypes(MODEL_FLAGS, kinds)
  assert flags["feature_dtypes"] == "uint8,float16,float32"
  assert train_dirs.kinds_of_training_data(flags) == kinds
  assert train_dirs.kinds_of_training_data(MODEL_FLAGS) is None
  train_dirs.write_model_flags(folder, flags)
  train_dirs.resumed_model_flags(folder, MODEL_FLAGS)
  train_dirs.resumed_model_flags(
    folder, train_dirs.with_dtypes(MODEL_FLAGS, ["float"])
  )


def test_other_ranges_are_another_model(tmp_path):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, MODEL_FLAGS)
  new = {**MODEL_FLAGS, "feature_ranges": "0:1"}
  with pytest.raises(errors.UserError, match="--feature_ranges was 'not set'"):
    train_dirs.resumed_model_flags(folder, new)


def test_another_model_is_refused_with_the_flags_that_differ(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "iterations": 30}
  train_dirs.write_model_flags(folder, old)
  new = {
    **MODEL_FLAGS,
    "model": "MoeModel",
    "num_classes": 4,
    "moe_num_mixtures": 2,
  }
  with pytest.raises(errors.UserError) as error:
    train_dirs.resumed_model_flags(folder, new)
  message = str(error.value)
  assert f"--train_dir={folder}" in message
  assert (
    ": --iterations was 30 and is now 'not set';"
    " --model was 'LogisticModel' and is now 'MoeModel';"
    " --moe_num_mixtures was 'not set' and is now 2;"
    " --num_classes was 3 and is now 4. "
  ) in message
  assert "--start_new_model" in message


def test_a_new_hyperparameter_without_a_value_is_the_same_model(tmp_path):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, MODEL_FLAGS)
  train_dirs.resumed_model_flags(folder, {**MODEL_FLAGS, "lstm_cells": None})


def test_a_run_older_than_its_loss_flag_continues_with_the_default(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "label_loss": "HingeLoss"}
  train_dirs.write_model_flags(folder, old)
  train_dirs.resumed_model_flags(folder, {**old, "hinge_margin": 1.0})
  with pytest.raises(errors.UserError, match=r"--hinge_margin was 1.0 .* 0.5"):
    train_dirs.resumed_model_flags(folder, {**old, "hinge_margin": 0.5})


EARLIER_FLAGS = {
  name: value
  for name, value in MODEL_FLAGS.items()
  if name not in ("l2_penalty", "input_transform")
} | {"model": "MoeModel"}


@pytest.fixture
def changed_default(monkeypatch):
  """MoeModel, as if its experts had been 4 in an earlier version."""
  monkeypatch.setattr(
    video_level_models.MoeModel, "earlier_defaults", {"moe_num_mixtures": 4}
  )


def test_a_run_of_an_earlier_version_has_its_own_defaults(
  tmp_path, changed_default
):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, EARLIER_FLAGS)
  expected = {
    **EARLIER_FLAGS,
    "input_transform": "l2",
    "moe_num_mixtures": 4,
  }
  assert train_dirs.require_model_flags(folder) == expected
  # It continues with them, although the defaults are others now.
  now = {**expected, "input_transform": "l2", "moe_num_mixtures": 2}
  now |= {"moe_output_gating": False, "l2_penalty": 1e-8}
  assert train_dirs.resumed_model_flags(folder, now) == {
    **now,
    "moe_num_mixtures": 4,
  }
  with pytest.raises(errors.UserError, match=r"--moe_num_mixtures was 4 .* 3"):
    train_dirs.resumed_model_flags(folder, {**now, "moe_num_mixtures": 3})


def test_a_run_of_this_version_has_what_it_says(tmp_path, changed_default):
  folder = str(tmp_path)
  said = {**EARLIER_FLAGS, "input_transform": "l2", "moe_num_mixtures": 4}
  train_dirs.write_model_flags(folder, said)
  assert train_dirs.require_model_flags(folder) == said
  with pytest.raises(errors.UserError, match=r"--moe_num_mixtures was 4 .* 2"):
    train_dirs.resumed_model_flags(folder, {**said, "moe_num_mixtures": 2})


def test_what_a_preset_stood_for_may_change(tmp_path):
  folder = str(tmp_path)
  train_dirs.write_model_flags(
    folder, {**MODEL_FLAGS, "preset": "a", "preset_settings": {"max_steps": 3}}
  )
  assert train_dirs.resumed_model_flags(folder, MODEL_FLAGS) == MODEL_FLAGS


def test_a_run_that_continues_without_its_preset_is_warned_of(tmp_path, caplog):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, {**MODEL_FLAGS, "preset": "a"})
  for same in ("a", "b"):
    train_dirs.resumed_model_flags(folder, {**MODEL_FLAGS, "preset": same})
  assert "--preset" not in caplog.text
  train_dirs.resumed_model_flags(folder, MODEL_FLAGS)
  assert "trained with --preset=a. Without it" in caplog.text


def test_a_run_older_than_the_input_transform_continues_with_l2(
  tmp_path, monkeypatch
):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, EARLIER_FLAGS)
  monkeypatch.setattr(
    video_level_models.MoeModel, "input_transform", "dewhiten"
  )
  for declared in ("l2", "dewhiten"):
    now = {**EARLIER_FLAGS, "input_transform": declared}
    resumed = train_dirs.resumed_model_flags(folder, now)
    assert resumed == {**now, "input_transform": "l2"}
  with pytest.raises(errors.UserError, match=r"_transform was 'l2' .* 'none'"):
    train_dirs.resumed_model_flags(
      folder, {**EARLIER_FLAGS, "input_transform": "none"}
    )


def test_the_log_says_what_a_run_of_an_earlier_version_keeps(
  tmp_path, changed_default, monkeypatch
):
  shown = []
  monkeypatch.setattr(
    logging, "info", lambda text, *values: shown.append(text % values)
  )
  monkeypatch.setattr(
    video_level_models.MoeModel, "input_transform", "dewhiten"
  )
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, EARLIER_FLAGS)
  now = {**EARLIER_FLAGS, "input_transform": "l2", "moe_num_mixtures": 4}
  train_dirs.resumed_model_flags(folder, now)
  assert not shown
  now |= {"input_transform": "dewhiten", "moe_num_mixtures": 2}
  train_dirs.resumed_model_flags(folder, now)
  assert shown == [
    f"The run in {folder} keeps what an earlier version began it with:"
    " --input_transform=l2, --moe_num_mixtures=4."
  ]


def test_a_thousand_scales_are_not_listed(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "input_transform": "dewhiten"}
  scales = [[2.0] * 1000, []]
  train_dirs.write_model_flags(folder, {**old, "dewhiten_scales": scales})
  train_dirs.resumed_model_flags(folder, {**old, "dewhiten_scales": scales})
  changed = [[2.0] * 999 + [3.0], []]
  with pytest.raises(errors.UserError) as error:
    train_dirs.resumed_model_flags(folder, {**old, "dewhiten_scales": changed})
  assert (
    "--dewhiten_scales was 1000 numbers of sum 2000, none and is now 1000"
    " numbers of sum 2001, none. "
  ) in str(error.value)
  with pytest.raises(errors.UserError, match="is now 'not set'"):
    train_dirs.resumed_model_flags(folder, old)


# --------------------------------------------------------------------------
# check_removable and remove_run


RUN_FILES = [
  "model_flags.json",
  "run.json",
  "checkpoint",
  "model.ckpt-10.index",
  "model.ckpt-10.data-00000-of-00001",
  "events.out.tfevents.1700000000.host.1.0.v2",
  "eval/events.out.tfevents.1700000000.host.1.0.v2",
  "eval/metrics-10.json",
  "eval/metrics-by-class-10.csv",
  "evaluations.json",
  "best.json",
  "best/model.ckpt-9.index",
  "best/model.ckpt-9.data-00000-of-00001",
  "best/model.ckpt-again-9.index",
  "best/.model.ckpt-10.index.tmp-0123abcd",
  "export/step_10/saved_model.pb",
  "export/step_10/variables/variables.index",
  "export/formats_10/model.onnx",
  # Left behind by a run that was killed while writing.
  ".model_flags.json.tmp-0123abcd",
  ".run.json.tmp-0123abcd",
  "model.ckpt-11_temp/part-00000-of-00001.index",
  "checkpoint.tmp0123456789abcdef0123456789abcdef",
]
OTHER_FILES = [
  "notes.txt",
  "my_checkpoint",
  "model.ckpt.backup",
  "predictions.csv",
  "results/model_flags.json",
  "results/run.json",
  "my_run.json",
  ".hidden",
  ".notes.tmp",
]


def write_files(folder, names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)


def test_remove_run_keeps_only_files_that_are_not_its_own(tmp_path):
  write_files(tmp_path, RUN_FILES + OTHER_FILES)
  train_dirs.remove_run(str(tmp_path))
  assert all_files(tmp_path) == {name: name.encode() for name in OTHER_FILES}


def test_remove_run_keeps_notes_next_to_scores_and_exports(tmp_path):
  write_files(
    tmp_path,
    [
      "model_flags.json",
      "eval/metrics-4.json",
      "eval/segment-metrics-4.json",
      "eval/segment-metrics-by-class-4.csv",
      "eval/events.out.tfevents.1",
      "eval/notes.txt",
      "export/step_4/saved_model.pb",
    ],
  )
  train_dirs.remove_run(str(tmp_path))
  assert list(all_files(tmp_path)) == ["eval/notes.txt"]
  assert [path.name for path in tmp_path.iterdir()] == ["eval"]


def test_a_model_is_not_unpacked_over_a_run(tmp_path):
  write_files(tmp_path / "run", ["checkpoint", "model_flags.json"])
  before = all_files(tmp_path)
  with pytest.raises(errors.UserError, match="--untar_model_dir"):
    train_dirs.extract_model_tgz("any.tgz", str(tmp_path / "run"))
  assert all_files(tmp_path) == before


def test_remove_run_empties_a_folder_of_its_own_files(tmp_path):
  write_files(tmp_path, RUN_FILES)
  train_dirs.remove_run(f"{tmp_path}/")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "name", ["notes.txt", "export/mine", "eval/mine", "my_checkpoint", ".hidden"]
)
def test_a_folder_that_is_not_a_train_dir_is_never_emptied(tmp_path, name):
  write_files(tmp_path, [name])
  for function in (train_dirs.check_removable, train_dirs.remove_run):
    with pytest.raises(errors.UserError, match="--start_new_model") as error:
      function(str(tmp_path))
    assert f"--train_dir={tmp_path}" in str(error.value)
    assert repr(name.split("/")[0]) in str(error.value)
  assert all_files(tmp_path) == {name: name.encode()}


def test_a_file_is_not_a_train_dir(tmp_path):
  path = tmp_path / "file"
  path.write_text("mine")
  for function in (train_dirs.check_removable, train_dirs.remove_run):
    with pytest.raises(errors.UserError, match="received the file"):
      function(str(path))
  assert path.read_text() == "mine"


@pytest.mark.parametrize(
  "name",
  [
    "model_flags.json",
    "checkpoint",
    "model.ckpt-3.index",
    "events.out.tfevents.1.host",
  ],
)
def test_one_file_of_a_run_makes_a_train_dir(tmp_path, name):
  write_files(tmp_path, [name, "notes.txt"])
  train_dirs.check_removable(str(tmp_path))
  assert set(all_files(tmp_path)) == {name, "notes.txt"}
  train_dirs.remove_run(str(tmp_path))
  assert set(all_files(tmp_path)) == {"notes.txt"}


def test_a_missing_or_empty_folder_is_left_as_it_is(tmp_path):
  train_dirs.remove_run(str(tmp_path / "missing"))
  assert not (tmp_path / "missing").exists()
  train_dirs.remove_run(str(tmp_path))
  assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------
# Checkpoints


def set_weights(model, value):
  """Sets every weight of a model to a different number."""
  for variable in model.trainable_variables:
    numbers = np.arange(np.prod(variable.shape)).reshape(variable.shape)
    variable.assign(value + numbers / 10)


def assert_same_weights(model, other):
  for variable, other_variable in zip(
    model.variables, other.variables, strict=True
  ):
    np.testing.assert_array_equal(variable.value, other_variable.value)


def checkpoint_steps(folder):
  """The steps of the checkpoints in a folder, which must be complete."""
  names = sorted(os.listdir(folder))
  steps = [
    int(name.split("-")[1].removesuffix(".index"))
    for name in names
    if name.endswith(".index")
  ]
  assert names == sorted(
    [
      "checkpoint",
      *[f"model.ckpt-{step}.index" for step in steps],
      *[f"model.ckpt-{step}.data-00000-of-00001" for step in steps],
    ]
  )
  return sorted(steps)


def make_run(step):
  """A model with its optimizer and a step counter."""
  model = small_model()
  optimizer = keras.optimizers.Adam(0.1)
  optimizer.build(model.trainable_variables)
  return {
    "model": model,
    "optimizer": optimizer,
    "global_step": tf.Variable(step, dtype=tf.int64),
  }


def train_a_step(run, gradient):
  """One step of Adam with a gradient whose numbers are all the same."""
  variables = run["model"].trainable_variables
  run["optimizer"].apply(
    [tf.fill(variable.shape, gradient) for variable in variables], variables
  )
  run["global_step"].assign_add(1)


def test_a_restored_run_continues_as_if_it_had_not_stopped(tmp_path):
  folder = str(tmp_path / "new")
  run = make_run(0)
  checkpoints = train_dirs.Checkpoints(folder, 5, **run)
  assert checkpoints.restore() is None
  assert train_dirs.latest_checkpoint(folder) is None
  for gradient in (1.0, -3.0):
    train_a_step(run, gradient)
  path = checkpoints.save(2)
  assert path == f"{folder}/model.ckpt-2"
  assert train_dirs.latest_checkpoint(folder) == path
  assert train_dirs.require_checkpoint(folder) == path
  # The third step depends on the moments of the first two.
  train_a_step(run, 0.5)

  resumed = make_run(99)
  assert train_dirs.Checkpoints(folder, 5, **resumed).restore() == path
  assert int(resumed["global_step"]) == 2
  assert int(resumed["optimizer"].iterations) == 2
  train_a_step(resumed, 0.5)
  assert_same_weights(resumed["model"], run["model"])
  for variable, other in zip(
    resumed["optimizer"].variables, run["optimizer"].variables, strict=True
  ):
    np.testing.assert_array_equal(variable.value, other.value)

  # Without the optimizer's state the third step is different.
  forgetful = make_run(0)
  train_dirs.load_weights(forgetful["model"], path)
  train_a_step(forgetful, 0.5)
  difference = (
    forgetful["model"].variables[0].numpy() - run["model"].variables[0].numpy()
  )
  assert abs(difference).min() > 0.01


@pytest.mark.parametrize(
  ("keep", "expected"), [(1, [4]), (3, [2, 3, 4]), (0, [1, 2, 3, 4])]
)
def test_the_newest_checkpoints_are_kept(tmp_path, keep, expected):
  checkpoints = train_dirs.Checkpoints(str(tmp_path), keep, **make_run(0))
  for step in range(1, 5):
    checkpoints.save(step)
  assert checkpoint_steps(tmp_path) == expected


def test_a_resumed_run_deletes_the_checkpoints_of_the_previous_one(tmp_path):
  folder = str(tmp_path)
  checkpoints = train_dirs.Checkpoints(folder, 2, **make_run(0))
  for step in (1, 2):
    checkpoints.save(step)
  checkpoints = train_dirs.Checkpoints(folder, 2, **make_run(0))
  checkpoints.restore()
  checkpoints.save(3)
  assert checkpoint_steps(tmp_path) == [2, 3]


def test_a_train_dir_may_be_moved(tmp_path):
  run = make_run(7)
  set_weights(run["model"], 3.0)
  train_dirs.Checkpoints(str(tmp_path / "old"), 2, **run).save(7)
  (tmp_path / "old").rename(tmp_path / "new")
  path = train_dirs.require_checkpoint(str(tmp_path / "new"))
  assert path == str(tmp_path / "new" / "model.ckpt-7")
  model = small_model()
  train_dirs.load_weights(model, path)
  assert_same_weights(model, run["model"])


def test_a_missing_checkpoint(tmp_path):
  assert train_dirs.latest_checkpoint(str(tmp_path / "missing")) is None
  with pytest.raises(errors.UserError, match="received none") as error:
    train_dirs.require_checkpoint(str(tmp_path))
  assert f"--train_dir={tmp_path}" in str(error.value)


def test_checkpoint_step():
  assert train_dirs.checkpoint_step("/a-1/model.ckpt-0012") == 12


@pytest.fixture
def saved_run(tmp_path):
  """(folder, model, checkpoint's path) of a run after step 5."""
  folder = tmp_path / "run"
  run = make_run(5)
  set_weights(run["model"], 3.0)
  train_dirs.write_model_flags(str(folder), MODEL_FLAGS)
  train_dirs.Checkpoints(str(folder), 5, **run).save(4)
  path = train_dirs.Checkpoints(str(folder), 5, **run).save(5)
  return folder, run["model"], path


def test_load_weights_takes_the_model_of_a_whole_run(saved_run):
  _, model, path = saved_run
  loaded = small_model()
  train_dirs.load_weights(loaded, path)
  assert_same_weights(loaded, model)


@pytest.mark.parametrize(
  "changes",
  [
    {"num_classes": 4},
    {"feature_sizes": "5"},
    {"model": "MoeModel"},
    {"model": "LstmModel", "frame_features": True, "lstm_cells": 2},
  ],
)
def test_load_weights_refuses_another_model(saved_run, changes):
  _, _, path = saved_run
  with pytest.raises(
    errors.UserError, match="received different weights"
  ) as error:
    train_dirs.load_weights(small_model(**changes), path)
  assert path in str(error.value)
  assert "\n" not in str(error.value)


def test_load_weights_refuses_a_model_with_additional_weights(tmp_path):
  # Everything in the checkpoint has its place in the model.
  changes = {"model": "LstmModel", "frame_features": True, "lstm_cells": 2}
  smaller = small_model(**changes, lstm_layers=1)
  path = train_dirs.Checkpoints(str(tmp_path), 5, model=smaller).save(1)
  with pytest.raises(errors.UserError, match="received different weights"):
    train_dirs.load_weights(small_model(**changes, lstm_layers=2), path)


def test_restore_refuses_another_model(saved_run):
  folder, _, path = saved_run
  run = {**make_run(0), "model": small_model(num_classes=4)}
  with pytest.raises(
    errors.UserError, match="received different weights"
  ) as error:
    train_dirs.Checkpoints(str(folder), 5, **run).restore()
  assert path in str(error.value)


def cut(content):
  return content[: len(content) // 2]


def empty(content):
  return content[:0]


def garble(content):
  return bytes(byte ^ 0x5A for byte in content)


@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", [cut, empty, garble])
def test_a_damaged_checkpoint_is_a_user_error(saved_run, ending, damage):
  folder, _, path = saved_run
  file = folder / f"model.ckpt-5.{ending}"
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(errors.UserError, match="damaged file") as error:
    train_dirs.load_weights(small_model(), path)
  assert path in str(error.value)
  with pytest.raises(errors.UserError, match="damaged file") as error:
    train_dirs.Checkpoints(str(folder), 5, **make_run(0)).restore()
  assert path in str(error.value)


@pytest.mark.parametrize("endings", [["index"], ["data*"], ["index", "data*"]])
def test_a_deleted_checkpoint_raises_a_different_error(saved_run, endings):
  # An evaluation during a training run then takes the next checkpoint.
  folder, _, path = saved_run
  for ending in endings:
    for file in folder.glob(f"model.ckpt-5.{ending}"):
      file.unlink()
  with pytest.raises(tf.errors.NotFoundError):
    train_dirs.load_weights(small_model(), path)


@pytest.mark.parametrize("name", ["r*", "ru?"])
def test_a_folder_may_have_the_name_of_a_pattern(saved_run, tmp_path, name):
  """One that matches the folder run, too."""
  folder = shutil.copytree(saved_run[0], tmp_path / name)
  train_dirs.check_no_file(str(folder))
  path = train_dirs.require_checkpoint(str(folder))
  assert train_dirs.files_of_checkpoint(path) == [
    f"{folder}/model.ckpt-5.data-00000-of-00001",
    f"{folder}/model.ckpt-5.index",
  ]


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_a_folder_where_no_checkpoint_is_found_is_refused(
  saved_run, tmp_path, name
):
  folder = str(shutil.copytree(saved_run[0], tmp_path / name))
  assert train_dirs.latest_checkpoint(folder) is None  # TensorFlow's
  with pytest.raises(errors.UserError, match=r"without \[") as error:
    train_dirs.check_no_file(folder)
  assert folder in str(error.value)


# --------------------------------------------------------------------------
# A model in one file


def test_a_model_in_an_archive_comes_back(saved_run, tmp_path):
  folder, model, path = saved_run
  tgz = tmp_path / "archives" / "model.tgz"
  train_dirs.write_model_tgz(str(folder), path, str(tgz))
  assert os.listdir(tgz.parent) == ["model.tgz"]
  with tarfile.open(tgz, "r:gz") as archive:
    # One checkpoint, not all of them.
    assert sorted(archive.getnames()) == [
      "model.ckpt-5.data-00000-of-00001",
      "model.ckpt-5.index",
      "model_flags.json",
    ]
  extracted = tmp_path / "a" / "b"
  checkpoint = train_dirs.extract_model_tgz(str(tgz), str(extracted))
  assert checkpoint == str(extracted / "model.ckpt-5")
  model_flags = train_dirs.require_model_flags(str(extracted))
  assert model_flags == MODEL_FLAGS
  loaded = models.build_model(model_flags)
  train_dirs.load_weights(loaded, checkpoint)
  assert_same_weights(loaded, model)
  # Again, over the files of the first time.
  assert train_dirs.extract_model_tgz(str(tgz), str(extracted)) == checkpoint


def make_archive(path, names):
  """A .tgz of small files."""
  with tarfile.open(path, "w:gz") as archive:
    for name in names:
      info = tarfile.TarInfo(name)
      info.size = 4
      archive.addfile(info, io.BytesIO(b"{}\n\n"))


@pytest.mark.parametrize(
  "names",
  [
    [],
    ["model_flags.json"],
    ["model.ckpt-5.index", "model.ckpt-5.data-00000-of-00001"],
    ["model_flags.json", "model.ckpt-5.index", "model.ckpt-6.index"],
  ],
)
def test_an_archive_of_something_else(tmp_path, names):
  tgz = tmp_path / "model.tgz"
  make_archive(tgz, names)
  with pytest.raises(errors.UserError, match="and one checkpoint in") as error:
    train_dirs.extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert f"{tgz}, received {', '.join(names) or 'nothing'}." in str(error.value)
  assert all_files(tmp_path / "out") == {}


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
  tgz = tmp_path / "model.tgz"
  make_archive(tgz, ["../evil", "model_flags.json", "model.ckpt-5.index"])
  with pytest.raises(errors.UserError, match="which is not one"):
    train_dirs.extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert not (tmp_path / "evil").exists()


def one_bit_off(content):
  """Changes the checksum that ends a gzip stream, before its length."""
  return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


@pytest.mark.parametrize("damage", [cut, empty, garble, one_bit_off])
def test_a_damaged_archive(saved_run, tmp_path, damage):
  folder, _, path = saved_run
  tgz = tmp_path / "model.tgz"
  train_dirs.write_model_tgz(str(folder), path, str(tgz))
  tgz.write_bytes(damage(tgz.read_bytes()))
  with pytest.raises(errors.UserError, match="archive of a model") as error:
    train_dirs.extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert str(tgz) in str(error.value)


def test_a_missing_archive(tmp_path):
  with pytest.raises(tf.errors.NotFoundError, match="missing"):
    train_dirs.extract_model_tgz(
      str(tmp_path / "missing.tgz"), str(tmp_path / "out")
    )
