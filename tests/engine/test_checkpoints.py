"""Tests of checkpoints."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from conftest import error_of, folder_content
from small_checkpoints import (
  assert_same_weights,
  cut,
  empty,
  garble,
  make_run,
  set_weights,
  small_model,
)

import errors
from engine.checkpoints import (
  Checkpoints,
  check_whole,
  checkpoint_step,
  checkpoints_by_step,
  files_of_checkpoint,
  latest_checkpoint,
  load_weights,
  require_checkpoint,
  with_newest,
)
from engine.run import check_not_lost


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
  checkpoints = Checkpoints(folder, 5, **run)
  assert checkpoints.restore() is None
  assert latest_checkpoint(folder) is None
  for gradient in (1.0, -3.0):
    train_a_step(run, gradient)
  path = checkpoints.save(2)
  assert path == f"{folder}/model.ckpt-2"
  assert latest_checkpoint(folder) == path
  assert require_checkpoint(folder) == path
  # The third step depends on the moments of the first two.
  train_a_step(run, 0.5)

  resumed = make_run(99)
  assert Checkpoints(folder, 5, **resumed).restore() == path
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
  load_weights(forgetful["model"], path)
  train_a_step(forgetful, 0.5)
  difference = (
    forgetful["model"].variables[0].numpy() - run["model"].variables[0].numpy()
  )
  assert abs(difference).min() > 0.01


@pytest.mark.parametrize(
  ("keep", "expected"), [(1, [4]), (3, [2, 3, 4]), (0, [1, 2, 3, 4])]
)
def test_the_newest_checkpoints_are_kept(tmp_path, keep, expected):
  checkpoints = Checkpoints(str(tmp_path), keep, **make_run(0))
  for step in range(1, 5):
    checkpoints.save(step)
  assert checkpoint_steps(tmp_path) == expected


def test_a_resumed_run_deletes_the_checkpoints_of_the_previous_one(tmp_path):
  folder = str(tmp_path)
  checkpoints = Checkpoints(folder, 2, **make_run(0))
  for step in (1, 2):
    checkpoints.save(step)
  checkpoints = Checkpoints(folder, 2, **make_run(0))
  checkpoints.restore()
  checkpoints.save(3)
  assert checkpoint_steps(tmp_path) == [2, 3]


def test_a_train_dir_may_be_moved(tmp_path):
  run = make_run(7)
  set_weights(run["model"], 3.0)
  Checkpoints(str(tmp_path / "old"), 2, **run).save(7)
  (tmp_path / "old").rename(tmp_path / "new")
  path = require_checkpoint(str(tmp_path / "new"))
  assert path == str(tmp_path / "new" / "model.ckpt-7")
  model = small_model()
  load_weights(model, path)
  assert_same_weights(model, run["model"])


def test_a_missing_checkpoint(tmp_path):
  assert latest_checkpoint(str(tmp_path / "missing")) is None
  with pytest.raises(errors.UserError, match="received none") as error:
    require_checkpoint(str(tmp_path))
  assert f"--train_dir={tmp_path}" in str(error.value)


def test_checkpoint_step():
  assert checkpoint_step("/a-1/model.ckpt-0012") == 12


def test_load_weights_takes_the_model_of_a_whole_run(saved_run):
  _, model, path = saved_run
  loaded = small_model()
  load_weights(loaded, path)
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
    load_weights(small_model(**changes), path)
  assert path in str(error.value)
  assert "\n" not in str(error.value)


def test_load_weights_refuses_a_model_with_additional_weights(tmp_path):
  # Everything in the checkpoint has its place in the model.
  changes = {"model": "LstmModel", "frame_features": True, "lstm_cells": 2}
  smaller = small_model(**changes, lstm_layers=1)
  path = Checkpoints(str(tmp_path), 5, model=smaller).save(1)
  with pytest.raises(errors.UserError, match="received different weights"):
    load_weights(small_model(**changes, lstm_layers=2), path)


def test_restore_refuses_another_model(saved_run):
  folder, _, path = saved_run
  run = {**make_run(0), "model": small_model(num_classes=4)}
  with pytest.raises(
    errors.UserError, match="received different weights"
  ) as error:
    Checkpoints(str(folder), 5, **run).restore()
  assert path in str(error.value)


def flip(content):
  """Changes a bit in the middle."""
  at = len(content) // 2
  return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DATA = "data-00000-of-00001"
DAMAGES = [
  ("index", cut, "is damaged: it is cut short"),
  ("index", empty, "is damaged: it is empty"),
  ("index", garble, "is damaged: it is cut short, or no index"),
  ("index", flip, "is damaged: a checksum of it is wrong"),
  ("index", None, "is missing"),
  (DATA, cut, "is damaged: it has "),
  (DATA, empty, "is damaged: it is empty"),
  (DATA, garble, "is damaged: "),
  (DATA, flip, "Checksum does not match"),
  (DATA, None, "is missing"),
]


def damage_file(file, damage):
  """Changes a file, or deletes it."""
  content = file.read_bytes()
  file.unlink()
  if damage:
    file.write_bytes(damage(content))


@pytest.fixture
def said(monkeypatch):
  """The warnings of the log so far."""
  lines = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: lines.append(text % values)
  )
  return lines


@pytest.mark.parametrize(("ending", "damage", "what"), DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(
  saved_run, said, ending, damage, what
):
  folder, model, _ = saved_run
  file = folder / f"model.ckpt-5.{ending}"
  damage_file(file, damage)
  before = f"{folder}/model.ckpt-4"
  loaded = small_model()

  def load(checkpoint):
    load_weights(loaded, checkpoint)
    return checkpoint

  assert with_newest(str(folder), load) == before
  assert_same_weights(loaded, model)
  (line,) = said
  assert what in line
  assert f"{folder}/model.ckpt-5" in line
  assert line.endswith("Using the checkpoint before, of step 4.")
  assert Checkpoints(str(folder), 5, **make_run(0)).restore() == before
  assert len(said) == 1  # not again


@pytest.mark.parametrize(("ending", "damage", "what"), DAMAGES[:-1])
def test_a_damaged_checkpoint_that_is_named_is_an_error(
  saved_run, ending, damage, what
):
  folder, _, path = saved_run
  damage_file(folder / f"model.ckpt-5.{ending}", damage)
  if damage:
    error = error_of(load_weights, small_model(), path)
    assert "received a damaged one" in error
    assert what in error
  error = error_of(check_whole, path, with_data=True)
  assert what in error
  assert path in error


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize(("ending", "damage"), [("index", cut), (DATA, flip)])
def test_a_run_saves_again_what_was_damaged(tmp_path, keep, ending, damage):
  run = make_run(0)
  folder = str(tmp_path)
  for step in (2, 4, 6):
    Checkpoints(folder, 5, **run).save(step)
  file = tmp_path / f"model.ckpt-6.{ending}"
  damage_file(file, damage)
  damaged = file.read_bytes()
  checkpoints = Checkpoints(folder, keep, **run)
  assert checkpoints.restore() == f"{folder}/model.ckpt-4"
  checkpoints.save(5)
  assert latest_checkpoint(folder) == f"{folder}/model.ckpt-5"
  aside = tmp_path / f"damaged-model.ckpt-6.{ending}"
  assert aside.read_bytes() == damaged
  # It is not taken for the newest one without the file that names it.
  state = (tmp_path / "checkpoint").read_bytes()
  (tmp_path / "checkpoint").unlink()
  assert latest_checkpoint(folder) == f"{folder}/model.ckpt-5"
  (tmp_path / "checkpoint").write_bytes(state)
  checkpoints.save(6)
  check_whole(f"{folder}/model.ckpt-6", with_data=True)
  assert checkpoint_steps(tmp_path) == [2, 4, 5, 6][-keep:]
  assert tf.train.latest_checkpoint(folder) == f"{folder}/model.ckpt-6"


def test_data_that_a_kill_left_without_an_index_goes(saved_run):
  """Of a step that is not saved again, since the clock chose it."""
  folder, _, _ = saved_run
  for step in (3, 6, 8):
    (folder / f"model.ckpt-{step}.{DATA}").write_bytes(b"half")
  checkpoints = Checkpoints(str(folder), 5, **make_run(0))
  checkpoints.restore()
  checkpoints.save(7)
  found = {path.name for path in folder.glob("model.ckpt-*.data*")}
  # The run has not reached step 8: its index may be put back.
  assert found == {f"model.ckpt-{step}.{DATA}" for step in (4, 5, 7, 8)}


def test_what_a_run_went_back_to_on_purpose_stays(saved_run):
  """Someone let `checkpoint` name an older one; the newer one is whole."""
  folder, _, _ = saved_run
  (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-4"\n')
  checkpoints = Checkpoints(str(folder), 5, **make_run(0))
  assert checkpoints.restore() == f"{folder}/model.ckpt-4"
  checkpoints.save(6)
  assert checkpoints_by_step(str(folder)).keys() == {4, 5, 6}


def test_a_folder_that_the_network_hides_is_not_an_empty_one(monkeypatch):
  """As Google's file system answers without a network."""

  def fail(path):
    raise tf.errors.FailedPreconditionError(None, None, "libcurl code 6")

  monkeypatch.setattr(tf.io.gfile, "isdir", lambda path: False)
  monkeypatch.setattr(tf.io.gfile, "exists", fail)
  for function in (checkpoints_by_step, latest_checkpoint, check_not_lost):
    with pytest.raises(tf.errors.FailedPreconditionError):
      function("gs://bucket/run")
  monkeypatch.setattr(tf.io.gfile, "exists", lambda path: False)
  assert checkpoints_by_step("gs://bucket/run") == {}


def test_a_whole_checkpoint_is_not_written_again(saved_run):
  folder, _, _ = saved_run
  checkpoints = Checkpoints(str(folder), 5, **make_run(0))
  path = checkpoints.restore()
  files = {name: os.stat(name) for name in files_of_checkpoint(path)}
  assert checkpoints.save(5) == path
  assert {name: os.stat(name) for name in files} == files
  assert checkpoints.save(6) == checkpoints.save(6) == f"{folder}/model.ckpt-6"


def test_without_a_whole_checkpoint_nothing_begins(saved_run):
  folder, _, _ = saved_run
  for step in (4, 5):
    damage_file(folder / f"model.ckpt-{step}.{DATA}", cut)
  run = Checkpoints(str(folder), 5, **make_run(0))
  for function in (run.restore, lambda: latest_checkpoint(str(folder))):
    error = error_of(function)
    assert "received none" in error
    assert f"{folder}/model.ckpt-4.{DATA} is damaged" in error
    assert f"{folder}/model.ckpt-5.{DATA} is damaged" in error


@pytest.mark.parametrize("damage", [empty, cut])
@pytest.mark.parametrize("step", [0, 3])
def test_half_of_a_first_checkpoint_is_none(tmp_path, said, damage, step):
  folder = str(tmp_path)
  Checkpoints(folder, 5, **make_run(0)).save(step)
  damage_file(tmp_path / f"model.ckpt-{step}.index", damage)
  checkpoints = Checkpoints(folder, 5, **make_run(0))
  assert "received none" in error_of(checkpoints.restore)
  (tmp_path / "checkpoint").unlink()  # it comes after the index
  assert latest_checkpoint(folder) is None
  error = error_of(require_checkpoint, folder)
  assert f"received none ({folder}/model.ckpt-{step}.index is" in error
  assert checkpoints.restore() is None
  checkpoints.save(step)
  assert checkpoint_steps(tmp_path) == [step]
  check_whole(f"{folder}/model.ckpt-{step}", with_data=True)
  assert not said
  # Of two, the first one was finished.
  Checkpoints(folder, 5, **make_run(0)).save(6)
  for name in (step, 6):
    damage_file(tmp_path / f"model.ckpt-{name}.index", damage)
  (tmp_path / "checkpoint").unlink()
  assert "received none" in error_of(checkpoints.restore)


@pytest.mark.parametrize(
  "error",
  [
    tf.errors.OpError(None, None, "a; Input/output error", tf.errors.UNKNOWN),
    tf.errors.DataLossError(
      None, None, "Unable to open table file a: a; Input/output error"
    ),
  ],
)
def test_what_cannot_be_read_is_no_damage(saved_run, monkeypatch, said, error):
  folder, _, path = saved_run

  def fail(*_):
    raise error

  monkeypatch.setattr(tf.train, "load_checkpoint", fail)
  monkeypatch.setattr(tf.train.Checkpoint, "restore", fail)
  run = Checkpoints(str(folder), 5, **make_run(0))
  for read in (
    lambda: check_whole(path, with_data=True),
    lambda: load_weights(small_model(), path),
    run.restore,
  ):
    with pytest.raises(type(error), match="Input/output error"):
      read()
  assert not said


@pytest.mark.parametrize(
  "error",
  [
    # What TensorFlow makes of a block of the index that the disk did not give.
    tf.errors.NotFoundError(None, None, "Key global_step not found"),
    AssertionError("Unresolved object in checkpoint"),
  ],
)
def test_what_fails_once_is_read_again(saved_run, monkeypatch, said, error):
  folder, model, path = saved_run
  restore = tf.train.Checkpoint.restore

  def fail(*_):
    monkeypatch.setattr(tf.train.Checkpoint, "restore", restore)
    raise error

  loaded, state = small_model(), make_run(0)
  run = Checkpoints(str(folder), 5, **state)
  for read in (lambda: load_weights(loaded, path), run.restore):
    monkeypatch.setattr(tf.train.Checkpoint, "restore", fail)
    read()
  assert_same_weights(loaded, model)
  assert_same_weights(state["model"], model)
  assert not said


def test_another_model_is_no_damage(saved_run, said):
  folder, _, _ = saved_run
  run = {**make_run(0), "model": small_model(num_classes=4)}
  error = error_of(Checkpoints(str(folder), 5, **run).restore)
  assert "received different weights" in error
  assert "model.ckpt-5" in error
  assert not said


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"\x00\xff\xfe garbage",
    b'model_checkpoint_path: "../other/model.ckpt-9"\n',
    b'model_checkpoint_path: "/other/model.ckpt-9"\n',
    b'model_checkpoint_path: "weights"\n',
  ],
)
def test_a_state_file_that_is_none_is_not_followed(
  saved_run, said, content, tmp_path
):
  folder, _, path = saved_run
  other = tmp_path / "other"
  shutil.copytree(folder, other)
  for file in other.glob("model.ckpt-5.*"):
    file.rename(str(file).replace("-5.", "-9."))
  content = content.replace(b"/other", f"{other}".encode(), 1)
  content = content.replace(f"..{other}".encode(), b"../other")
  (folder / "checkpoint").write_bytes(content)
  assert latest_checkpoint(str(folder)) == path
  (line,) = said
  assert f"{folder}/checkpoint" in line
  kept = folder_content(other)
  checkpoints = Checkpoints(str(folder), 1, **make_run(0))
  assert checkpoints.restore() == path
  assert checkpoints.save(6) == f"{folder}/model.ckpt-6"
  assert set(checkpoints_by_step(str(folder))) == {6}
  assert latest_checkpoint(str(folder)) == f"{folder}/model.ckpt-6"
  assert folder_content(other) == kept


def test_an_old_checkpoint_elsewhere_is_not_deleted(saved_run, tmp_path):
  folder, _, _ = saved_run
  other = tmp_path / "other"
  shutil.copytree(folder, other)
  state = (folder / "checkpoint").read_text()
  (folder / "checkpoint").write_text(
    state.replace('paths: "model.ckpt-4"', 'paths: "../other/model.ckpt-4"')
  )
  kept = folder_content(other)
  checkpoints = Checkpoints(str(folder), 1, **make_run(0))
  checkpoints.restore()
  checkpoints.save(6)
  assert folder_content(other) == kept
  assert set(checkpoints_by_step(str(folder))) == {6}


def test_a_checkpoint_that_vanishes_is_followed_by_the_newest(
  saved_run, tmp_path
):
  folder, _, _ = saved_run
  run = Checkpoints(str(folder), 1, **make_run(0))
  run.restore()
  seen = []

  def load(checkpoint):
    seen.append(checkpoint_step(checkpoint))
    if len(seen) == 1:  # training saves the next one meanwhile
      run.save(7)
    load_weights(small_model(), checkpoint)
    return checkpoint

  assert with_newest(str(folder), load) == f"{folder}/model.ckpt-7"
  assert seen == [5, 7]


@pytest.mark.parametrize("endings", [["index"], ["index", "data*"]])
def test_a_deleted_checkpoint_raises_a_different_error(saved_run, endings):
  # An evaluation during a training run then takes the next checkpoint.
  folder, _, path = saved_run
  for ending in endings:
    for file in folder.glob(f"model.ckpt-5.{ending}"):
      file.unlink()
  with pytest.raises(tf.errors.NotFoundError):
    load_weights(small_model(), path)


@pytest.mark.parametrize("name", ["r*", "ru?"])
def test_a_folder_may_have_the_name_of_a_pattern(saved_run, tmp_path, name):
  """One that matches the folder run, too."""
  folder = shutil.copytree(saved_run[0], tmp_path / name)
  path = require_checkpoint(str(folder))
  assert files_of_checkpoint(path) == [
    f"{folder}/model.ckpt-5.data-00000-of-00001",
    f"{folder}/model.ckpt-5.index",
  ]
