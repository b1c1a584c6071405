"""Tests of model_flags."""

import json
import math
import os

import pytest
from absl import logging
from conftest import error_of
from small_checkpoints import MODEL_FLAGS

import errors
import video_level_models
from engine.model_flags import (
  kinds_of_training_data,
  read_model_flags,
  require_model_flags,
  resumed_model_flags,
  with_dtypes,
  write_model_flags,
)


def test_model_flags_round_trip(tmp_path):
  model_flags = {**MODEL_FLAGS, "lstm_cells": None, "dbof_add_batch_norm": True}
  folder = tmp_path / "new"
  write_model_flags(str(folder), model_flags)
  assert os.listdir(folder) == ["model_flags.json"]
  assert read_model_flags(str(folder)) == model_flags
  assert require_model_flags(str(folder)) == model_flags


def test_missing_model_flags(tmp_path):
  assert read_model_flags(str(tmp_path)) is None
  with pytest.raises(errors.UserError, match="model_flags") as error:
    require_model_flags(str(tmp_path))
  assert f"--train_dir={tmp_path}" in str(error.value)
  assert "train.py" in str(error.value)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b"5",
    b"null",
    b"[]",
    b'"False"',
    b"\xff\xfe{",
    b"\x00\x01\x02",
    b"[" * 100_000,
    b'{"model":' * 100_000 + b"1" + b"}" * 100_000,
  ],
)
def test_model_flags_that_are_not_json(tmp_path, content):
  (tmp_path / "model_flags.json").write_bytes(content)
  with pytest.raises(errors.UserError, match="Expected JSON in") as error:
    read_model_flags(str(tmp_path))
  assert str(tmp_path / "model_flags.json") in str(error.value)


@pytest.mark.parametrize(
  ("name", "value", "what"),
  [
    ("model", 5, "the name of a model"),
    ("model", ["LogisticModel"], "the name of a model"),
    ("label_loss", None, "the name of a loss"),
    ("feature_names", "", "names separated by commas"),
    ("feature_sizes", 1024, "numbers separated by commas"),
    ("feature_sizes", "many", "numbers separated by commas"),
    ("feature_sizes", "4,3", "a size for each of 1 features"),
    ("frame_features", "False", "true or false"),
    ("frame_features", 0, "true or false"),
    ("num_classes", "3", "a number from 1 to 2147483647"),
    ("num_classes", 0, "a number from 1 to 2147483647"),
    ("num_classes", True, "a number from 1 to 2147483647"),
    ("num_classes", 10**30, "a number from 1 to 2147483647"),
    ("max_frames", 2**31, "a number from 1 to 2147483647"),
    ("feature_sizes", "9999999999", "numbers from 1 to 2147483647"),
    ("max_frames", 300.0, "a number from 1 to 2147483647"),
    ("label_subset", [1, 3], "classes below 3"),
    ("label_subset", "1,2", "a list of classes"),
    ("exclusive_classes", "False", "true or false"),
    ("feature_ranges", [1], "ranges such as"),
    ("feature_dtypes", "int64", "some of uint8"),
    ("input_transform", None, "one of l2"),
    ("dewhiten_scales", [["a"]], "a list of numbers for each feature"),
    ("dewhiten_scales", [[10**400]], "a list of numbers for each feature"),
    ("l2_penalty", "small", "a number"),
    ("l2_penalty", math.inf, "a number"),
    ("l2_penalty", 10**30, "a number"),
    ("l2_penalty", None, "a number"),
  ],
)
def test_a_value_of_another_type_is_an_error(tmp_path, name, value, what):
  folder = str(tmp_path)
  write_model_flags(folder, {**MODEL_FLAGS, name: value})
  for function in (read_model_flags, require_model_flags):
    error = error_of(function, folder)
    assert f"Expected {what}" in error
    assert f" as {name} in {tmp_path}/model_flags.json, received" in error
  assert f"as {name} in" in error_of(resumed_model_flags, folder, MODEL_FLAGS)


def test_the_types_of_hyperparameters(tmp_path):
  folder = str(tmp_path)
  lstm = {**MODEL_FLAGS, "model": "LstmModel", "frame_features": True}
  for value in (5, "512,256"):
    write_model_flags(folder, {**lstm, "lstm_cells": value})
    assert require_model_flags(folder)["lstm_cells"] == value
  for value in (True, 1.5, "many", [5], None, 10**400):
    write_model_flags(folder, {**lstm, "lstm_cells": value})
    error = error_of(require_model_flags, folder)
    assert "Expected a whole number as lstm_cells" in error
  # What nobody knows is a matter of the model, and of earlier versions.
  more = {"of_a_fork": {"a": [1]}, "hinge_margin": "x"}
  write_model_flags(folder, {**MODEL_FLAGS, **more})
  assert require_model_flags(folder) == {**MODEL_FLAGS, **more}
  write_model_flags(folder, {**MODEL_FLAGS, "model": "GoneModel"})
  assert require_model_flags(folder)["model"] == "GoneModel"


def test_a_long_value_is_cut(tmp_path):
  write_model_flags(str(tmp_path), {**MODEL_FLAGS, "model": [7] * 10_000})
  assert len(error_of(require_model_flags, str(tmp_path))) < 500


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
    require_model_flags(str(tmp_path))
  assert "TensorFlow 1" in str(error.value)


def test_the_same_model_continues(tmp_path):
  folder = str(tmp_path)
  resumed_model_flags(folder, MODEL_FLAGS)
  write_model_flags(folder, MODEL_FLAGS)
  resumed_model_flags(folder, dict(reversed(MODEL_FLAGS.items())))


def test_training_may_continue_on_numbers_that_are_stored_otherwise(tmp_path):
  folder = str(tmp_path)
  kinds = ["bytes", "float16", "float"]
  flags = with_dtypes(MODEL_FLAGS, kinds)
  assert flags["feature_dtypes"] == "uint8,float16,float32"
  assert kinds_of_training_data(flags) == kinds
  assert kinds_of_training_data(MODEL_FLAGS) is None
  write_model_flags(folder, flags)
  resumed_model_flags(folder, MODEL_FLAGS)
  resumed_model_flags(folder, with_dtypes(MODEL_FLAGS, ["float"]))


def test_other_ranges_are_another_model(tmp_path):
  folder = str(tmp_path)
  write_model_flags(folder, MODEL_FLAGS)
  new = {**MODEL_FLAGS, "feature_ranges": "0:1"}
  with pytest.raises(errors.UserError, match="--feature_ranges was 'not set'"):
    resumed_model_flags(folder, new)


def test_another_model_is_refused_with_the_flags_that_differ(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "iterations": 30}
  write_model_flags(folder, old)
  new = {
    **MODEL_FLAGS,
    "model": "MoeModel",
    "num_classes": 4,
    "moe_num_mixtures": 2,
  }
  with pytest.raises(errors.UserError) as error:
    resumed_model_flags(folder, new)
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
  write_model_flags(folder, MODEL_FLAGS)
  resumed_model_flags(folder, {**MODEL_FLAGS, "lstm_cells": None})


def test_a_run_older_than_its_loss_flag_continues_with_the_default(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "label_loss": "HingeLoss"}
  write_model_flags(folder, old)
  resumed_model_flags(folder, {**old, "hinge_margin": 1.0})
  with pytest.raises(errors.UserError, match=r"--hinge_margin was 1.0 .* 0.5"):
    resumed_model_flags(folder, {**old, "hinge_margin": 0.5})


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
  write_model_flags(folder, EARLIER_FLAGS)
  expected = {
    **EARLIER_FLAGS,
    "input_transform": "l2",
    "moe_num_mixtures": 4,
  }
  assert require_model_flags(folder) == expected
  # It continues with them, although the defaults are others now.
  now = {**expected, "input_transform": "l2", "moe_num_mixtures": 2}
  now |= {"moe_output_gating": False, "l2_penalty": 1e-8}
  assert resumed_model_flags(folder, now) == {
    **now,
    "moe_num_mixtures": 4,
  }
  with pytest.raises(errors.UserError, match=r"--moe_num_mixtures was 4 .* 3"):
    resumed_model_flags(folder, {**now, "moe_num_mixtures": 3})


def test_a_run_of_this_version_has_what_it_says(tmp_path, changed_default):
  folder = str(tmp_path)
  said = {**EARLIER_FLAGS, "input_transform": "l2", "moe_num_mixtures": 4}
  write_model_flags(folder, said)
  assert require_model_flags(folder) == said
  with pytest.raises(errors.UserError, match=r"--moe_num_mixtures was 4 .* 2"):
    resumed_model_flags(folder, {**said, "moe_num_mixtures": 2})


def test_what_a_preset_stood_for_may_change(tmp_path):
  folder = str(tmp_path)
  write_model_flags(
    folder, {**MODEL_FLAGS, "preset": "a", "preset_settings": {"max_steps": 3}}
  )
  assert resumed_model_flags(folder, MODEL_FLAGS) == MODEL_FLAGS


def test_a_run_that_continues_without_its_preset_is_warned_of(tmp_path, caplog):
  folder = str(tmp_path)
  write_model_flags(folder, {**MODEL_FLAGS, "preset": "a"})
  for same in ("a", "b"):
    resumed_model_flags(folder, {**MODEL_FLAGS, "preset": same})
  assert "--preset" not in caplog.text
  resumed_model_flags(folder, MODEL_FLAGS)
  assert "trained with --preset=a. Without it" in caplog.text


def test_a_run_older_than_the_input_transform_continues_with_l2(
  tmp_path, monkeypatch
):
  folder = str(tmp_path)
  write_model_flags(folder, EARLIER_FLAGS)
  monkeypatch.setattr(
    video_level_models.MoeModel, "input_transform", "dewhiten"
  )
  for declared in ("l2", "dewhiten"):
    now = {**EARLIER_FLAGS, "input_transform": declared}
    resumed = resumed_model_flags(folder, now)
    assert resumed == {**now, "input_transform": "l2"}
  with pytest.raises(errors.UserError, match=r"_transform was 'l2' .* 'none'"):
    resumed_model_flags(folder, {**EARLIER_FLAGS, "input_transform": "none"})


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
  write_model_flags(folder, EARLIER_FLAGS)
  now = {**EARLIER_FLAGS, "input_transform": "l2", "moe_num_mixtures": 4}
  resumed_model_flags(folder, now)
  assert not shown
  now |= {"input_transform": "dewhiten", "moe_num_mixtures": 2}
  resumed_model_flags(folder, now)
  assert shown == [
    f"The run in {folder} keeps what an earlier version began it with:"
    " --input_transform=l2, --moe_num_mixtures=4."
  ]


def test_a_thousand_scales_are_not_listed(tmp_path):
  folder = str(tmp_path)
  old = {**MODEL_FLAGS, "input_transform": "dewhiten"}
  scales = [[2.0] * 1000, []]
  write_model_flags(folder, {**old, "dewhiten_scales": scales})
  resumed_model_flags(folder, {**old, "dewhiten_scales": scales})
  changed = [[2.0] * 999 + [3.0], []]
  with pytest.raises(errors.UserError) as error:
    resumed_model_flags(folder, {**old, "dewhiten_scales": changed})
  assert (
    "--dewhiten_scales was 1000 numbers of sum 2000, none and is now 1000"
    " numbers of sum 2001, none. "
  ) in str(error.value)
  with pytest.raises(errors.UserError, match="is now 'not set'"):
    resumed_model_flags(folder, old)
