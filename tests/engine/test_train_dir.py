"""Tests of train_dir."""

import contextlib

import pytest
import tensorflow as tf
from conftest import folder_content

import errors
from engine import process_names
from engine import train_dir as train_dirs

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
  ".run.json.tmp-01234567-42-0123abcd",
  "damaged-model.ckpt-12.index",
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
  assert folder_content(tmp_path) == {
    name: name.encode() for name in OTHER_FILES
  }


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
      "eval/formats_2/mine",
      "export/step_4/saved_model.pb",
      "export/model_flags.json",
      "step_1/mine",
    ],
  )
  train_dirs.remove_run(str(tmp_path))
  assert list(folder_content(tmp_path)) == [
    "eval/formats_2/mine",
    "eval/notes.txt",
    "export/model_flags.json",
    "step_1/mine",
  ]


def test_remove_run_leaves_what_links_point_to(tmp_path):
  run, other = tmp_path / "run", tmp_path / "other"
  write_files(run, [*RUN_FILES, "extraction.json"])
  write_files(other, ["mean.npy"])
  (run / "pca").symlink_to(other)
  (run / "export" / "step_20").symlink_to(other)
  train_dirs.remove_run(str(run))
  assert list(run.iterdir()) == []
  assert folder_content(other) == {"mean.npy": b"mean.npy"}


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
  assert folder_content(tmp_path) == {name: name.encode()}


def test_a_run_in_the_folder_of_its_data_set_is_not_deleted(tmp_path):
  names = ["dataset.json", "vocabulary.csv", "model_flags.json", "checkpoint"]
  write_files(tmp_path, names)
  before = folder_content(tmp_path)
  for function in (train_dirs.check_removable, train_dirs.remove_run):
    with pytest.raises(errors.UserError, match="the folder of a data set"):
      function(str(tmp_path))
  assert folder_content(tmp_path) == before


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
  assert set(folder_content(tmp_path)) == {name, "notes.txt"}
  train_dirs.remove_run(str(tmp_path))
  assert set(folder_content(tmp_path)) == {"notes.txt"}


@pytest.mark.parametrize(
  "name",
  [
    ".training.lock.tmp-01234567-42-0123abcd",
    ".model_flags.json.tmp-01234567-42-0123abcd",
    "training.lock",
  ],
)
def test_what_a_start_leaves_that_was_killed_at_once_may_go(tmp_path, name):
  write_files(tmp_path, [name])
  train_dirs.check_removable(str(tmp_path))
  train_dirs.remove_run(str(tmp_path))
  assert set(folder_content(tmp_path)) <= {"training.lock"}


def test_a_run_that_is_half_removed_can_be_removed(tmp_path, monkeypatch):
  """Killed before each of its files in turn."""
  remove, left = tf.io.gfile.remove, []
  listdir = tf.io.gfile.listdir
  # A disk lists them in any order, such as with run.json at last.
  monkeypatch.setattr(
    tf.io.gfile, "listdir", lambda folder: sorted(listdir(folder))
  )

  def remove_or_be_killed(path):
    if not left:
      raise KeyboardInterrupt
    remove(left.pop() and path)

  for number in range(len(RUN_FILES)):
    write_files(tmp_path, RUN_FILES)
    left[:] = [True] * number
    with monkeypatch.context() as patch:
      patch.setattr(tf.io.gfile, "remove", remove_or_be_killed)
      with contextlib.suppress(KeyboardInterrupt):
        train_dirs.remove_run(str(tmp_path))
    train_dirs.remove_run(str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "r*", "ru?"])
def test_a_name_that_is_a_pattern_is_refused(tmp_path, name):
  """TensorFlow deletes old checkpoints of all folders that match it."""
  with pytest.raises(errors.UserError, match=r"without \[") as error:
    train_dirs.check_no_file(f"{tmp_path}/{name}")
  assert f"{tmp_path}/{name}" in str(error.value)


def test_a_missing_or_empty_folder_is_left_as_it_is(tmp_path):
  train_dirs.remove_run(str(tmp_path / "missing"))
  assert not (tmp_path / "missing").exists()
  train_dirs.remove_run(str(tmp_path))
  assert list(tmp_path.iterdir()) == []


def test_what_tensorflow_left_over_goes_with_its_process(
  tmp_path, dead_process
):
  dead = process_names.process_name(dead_process)
  names = [
    "model.ckpt-7_temp/part",
    "checkpoint.tmp0123456789abcdef0123456789abcdef",
    f".run.json.tmp-{dead}-0123abcd",
    f"eval/.metrics-3.json.tmp-{dead}-0123abcd",
    f"export/.step_3.tmp-{dead}-0123abcd",
    f"best/.model.ckpt-3.index.tmp-{dead}-0123abcd",
  ]
  write_files(tmp_path, ["model.ckpt-7.index", *names])
  for writer in ("", process_names.process_name(), f"00000000-{dead_process}"):
    train_dirs.clean(str(tmp_path), writer)
    assert set(folder_content(tmp_path)) == {"model.ckpt-7.index", *names[:2]}
  train_dirs.clean(str(tmp_path), dead)
  assert set(folder_content(tmp_path)) == {"model.ckpt-7.index"}
  train_dirs.clean(str(tmp_path / "missing"), dead)
