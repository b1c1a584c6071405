"""Tests of --label_subset and --min_frames in the programs."""

import csv
import json
import shutil

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  SEGMENT_RATINGS,
  assert_names,
  assert_same_state,
  load_model,
)
from make_records import bytes_of, frame_record, video_record, write_records
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  tiny_labels,
  train_tiny,
)

SUBSET = [1, 4]
NAMES = ["Game", "Car", "Pet", "Dance", "Toy, doll", "Concert"]
VIDEO_LINE = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
)


def is_left(number) -> bool:
  return bool({*tiny_labels(number)} & {*SUBSET})


NUM_LEFT = sum(map(is_left, range(NUM_TINY)))


@pytest.fixture(scope="module")
def data(tiny_files, tmp_path_factory):
  """Pattern of tiny_files beside a vocabulary."""
  folder = tmp_path_factory.mktemp("with_names")
  for file in tiny_files:
    shutil.copy(file, folder)
  with open(folder / "vocabulary.csv", "w", newline="") as file:
    csv.writer(file).writerows([("Index", "Name"), *enumerate(NAMES)])
  return f"{folder}/[ab]"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
  """(train_dir, log) of a LogisticModel on two classes, named."""
  folder = tmp_path_factory.mktemp("run")
  log = in_process.run(
    "train",
    f"--train_data_pattern={data}",
    f"--train_dir={folder}",
    *VIDEO_LINE,
    r"--label_subset=Toy\, doll,Car",
    "--batch_size=5",
    "--num_epochs=2",
    "--xla=False",
  )
  return folder, log


def copy_of(run, tmp_path):
  return shutil.copytree(run[0], tmp_path / "copy")


# --------------------------------------------------------------------------
# Training


def test_training(run):
  folder, log = run
  assert 0 < NUM_LEFT < NUM_TINY
  assert_names(
    log,
    f"Using {NUM_LEFT} of the {NUM_TINY} videos: those with one of the 2"
    " classes of --label_subset.",
    f", after {2 * NUM_LEFT} examples.",
  )
  model_flags = json.loads((folder / "model_flags.json").read_text())
  assert model_flags["label_subset"] == SUBSET
  assert model_flags["num_classes"] == 6
  assert "Toy, doll" in (folder / "vocabulary.csv").read_text()


def test_it_is_the_training_on_what_is_left(tiny_vectors, tiny_files, tmp_path):
  records = [
    video_record(
      f"v{number}",
      [SUBSET.index(label) for label in tiny_labels(number) if label in SUBSET],
      mean_rgb=tiny_vectors[number][:4],
      mean_audio=tiny_vectors[number][4:],
    )
    for number in range(NUM_TINY)
    if is_left(number)
  ]
  in_first = sum(map(is_left, range(13)))
  left = [
    write_records(tmp_path / "a", records[:in_first]),
    write_records(tmp_path / "b", records[in_first:]),
  ]
  options = {"num_epochs": 2, "mixup_alpha": 0.4}
  flags = {**TINY_FLAGS, "label_subset": SUBSET}
  train_tiny(tmp_path / "one", tiny_files, flags, **options)
  train_tiny(
    tmp_path / "other", left, {**TINY_FLAGS, "num_classes": 2}, **options
  )
  one, other = (
    load_model(tmp_path / name).get_weights() for name in ("one", "other")
  )
  assert len(one) == 2
  for values, expected in zip(one, other, strict=True):
    np.testing.assert_array_equal(values, expected)


@pytest.mark.slow  # tests/engine/test_selected.py has the data's part of it
def test_a_run_continues_exactly(tiny_frame_files, tmp_path):
  flags = {**TINY_FRAME_FLAGS, "label_subset": SUBSET}
  options = {"num_epochs": 3, "min_frames": 3, "batch_size": 2}
  train_tiny(tmp_path / "whole", tiny_frame_files, flags, **options)
  for max_steps in (2, 5, None):
    train_tiny(
      tmp_path / "parts",
      tiny_frame_files,
      flags,
      max_steps=max_steps,
      **options,
    )
  assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_another_min_frames_counts_epochs_from_there(
  tiny_frame_files, tmp_path
):
  def train(min_frames):
    return in_process.run(
      "train",
      f"--train_data_pattern={','.join(tiny_frame_files)}",
      f"--train_dir={tmp_path}",
      "--model=FrameLevelLogisticModel",
      "--frame_features",
      "--feature_sizes=4,3",
      "--num_classes=6",
      "--num_epochs=1",
      "--xla=False",
      "--batch_size=4",
      f"--min_frames={min_frames}",
    )

  assert "epochs count from here" not in train(0)
  assert_names(train(5), "--min_frames", "epochs count from here")
  assert_names(train(5), "Nothing to do: the run")


def test_other_classes_are_another_model(run, data, tmp_path):
  folder = copy_of(run, tmp_path)
  for typed, now in (
    (["--label_subset=1,3"], "[1, 3]"),
    ([], "'not set'"),
  ):
    error = in_process.run_into_error(
      "train",
      f"--train_data_pattern={data}",
      f"--train_dir={folder}",
      *VIDEO_LINE,
      *typed,
    )
    assert_names(error, f"--label_subset was [1, 4] and is now {now}")


def test_an_unknown_class_ends_training(data, tmp_path):
  line = [
    "train",
    f"--train_data_pattern={data}",
    f"--train_dir={tmp_path}/run",
    *VIDEO_LINE,
  ]
  error = in_process.run_into_error(*line, "--label_subset=Concerts")
  assert_names(
    error, "'Concerts'", "/vocabulary.csv", "Did you mean 'Concert'?"
  )
  error = in_process.run_into_error(*line, "--label_subset=1,9")
  assert_names(error, "from 0 to 5 in --label_subset, received 9")
  assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------
# Evaluation, prediction, export


def test_evaluation(run, data, tmp_path):
  folder = copy_of(run, tmp_path)
  line = [
    "eval",
    f"--eval_data_pattern={data}",
    f"--train_dir={folder}",
    "--run_once",
  ]
  log = in_process.run(*line)
  assert f"Using {NUM_LEFT} of the {NUM_TINY} videos" in log
  (path,) = (folder / "eval").glob("metrics-*.json")
  assert json.loads(path.read_text())["num_examples"] == NUM_LEFT
  in_process.run(*line, r"--label_subset=Car,Toy\, doll")
  in_process.run(*line, "--label_subset=4,1")
  error = in_process.run_into_error(*line, "--label_subset=1,3")
  assert_names(error, "--label_subset=1,3 instead of 1,4. Leave these flags")


def test_a_model_of_all_classes_takes_no_subset(video_run, tmp_path):
  for program, *more in (("eval", "--run_once"), ("inference",)):
    error = in_process.run_into_error(
      program, f"--train_dir={video_run[0]}", *more, "--label_subset=1,3"
    )
    assert_names(error, "--label_subset=1,3 instead of all classes.")


def test_predictions_have_the_indices_and_names_of_the_data(
  run, data, tmp_path
):
  output = tmp_path / "predictions.csv"
  log = in_process.run(
    "inference",
    f"--input_data_pattern={data}",
    f"--train_dir={run[0]}",
    f"--output_file={output}",
  )
  assert "Using" not in log
  lines = output.read_text().splitlines()[1:]
  assert len(lines) == NUM_TINY
  for line in lines:
    pairs = line.split(",")[1].split()
    assert sorted(pairs[::2]) == ["1", "4"]
    assert float(pairs[1]) >= float(pairs[3])
  with open(tmp_path / "predictions_readable.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * NUM_TINY
  assert {(row["Label"], row["Name"]) for row in rows} == {
    ("1", "Car"),
    ("4", "Toy, doll"),
  }
  # The served model says the same.
  in_process.run(
    "export_model", f"--train_dir={run[0]}", f"--output_dir={tmp_path}/export"
  )
  served = tf.saved_model.load(str(tmp_path / "export"))
  assert served.classes.numpy().tolist() == SUBSET
  records = list(
    tf.data.TFRecordDataset(
      [data.replace("[ab]", name) for name in "ab"]
    ).as_numpy_iterator()
  )
  found = served.signatures["serving_default"](tf.constant(records))
  for line, indexes, values in zip(
    lines,
    found["class_indexes"].numpy(),
    found["predictions"].numpy(),
    strict=True,
  ):
    pairs = line.split(",")[1].split()
    assert pairs[::2] == [str(index) for index in indexes]
    np.testing.assert_allclose(values, np.float32(pairs[1::2]), rtol=1e-5)


def test_a_model_in_one_file(run, data, tmp_path):
  line = ["inference", f"--input_data_pattern={data}"]
  in_process.run(
    *line,
    f"--train_dir={run[0]}",
    f"--output_file={tmp_path}/one.csv",
    f"--output_model_tgz={tmp_path}/model.tgz",
  )
  in_process.run(
    *line,
    f"--input_model_tgz={tmp_path}/model.tgz",
    f"--untar_model_dir={tmp_path}/model",
    f"--output_file={tmp_path}/other.csv",
    r"--label_subset=Toy\, doll,Car",
  )
  for name in ("one", "other"):
    assert (tmp_path / f"{name}_readable.csv").exists()
  assert (tmp_path / "one.csv").read_text() == (
    tmp_path / "other.csv"
  ).read_text()


def test_segments(segment_files, tmp_path):
  line = (
    "--frame_features",
    "--num_classes=40",
    "--segment_labels",
    "--label_subset=3,39",
  )
  log = in_process.run(
    "train",
    f"--train_data_pattern={segment_files}",
    f"--train_dir={tmp_path}/run",
    "--model=FrameLevelLogisticModel",
    "--batch_size=2",
    "--num_epochs=1",
    "--xla=False",
    *line,
  )
  rated = [
    {start for start, index, _ in ratings if index in (3, 39)}
    for ratings in SEGMENT_RATINGS
  ]
  assert_names(
    log,
    f"Using {sum(map(bool, rated))} of the 7 videos",
    f"which have {sum(map(len, rated))} rated segments",
    f", after {sum(map(len, rated))} examples.",
  )
  in_process.run(
    "eval",
    f"--eval_data_pattern={segment_files}",
    f"--train_dir={tmp_path}/run",
    "--run_once",
    "--segment_labels",
  )
  (path,) = (tmp_path / "run" / "eval").glob("segment-metrics-*.json")
  scores = json.loads(path.read_text())
  assert scores["num_examples"] == sum(map(len, rated))
  predict = [
    "inference",
    f"--input_data_pattern={segment_files}",
    f"--train_dir={tmp_path}/run",
    f"--output_file={tmp_path}/segments.csv",
    "--segment_labels",
  ]
  in_process.run(*predict)
  lines = (tmp_path / "segments.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in lines] == ["Class", "3", "39"]
  (tmp_path / "ids.csv").write_text("Index\n39\n")
  in_process.run(*predict, f"--segment_label_ids_file={tmp_path}/ids.csv")
  (_, of_39) = (tmp_path / "segments.csv").read_text().splitlines()
  assert of_39 == lines[2]
  (tmp_path / "ids.csv").write_text("Index\n39\n4\n")
  error = in_process.run_into_error(
    *predict, f"--segment_label_ids_file={tmp_path}/ids.csv"
  )
  assert_names(error, "ids.csv, line 3, found 4", "--label_subset")


def test_min_frames_where_it_is_typed(tmp_path):
  file = write_records(
    tmp_path / "a",
    [
      frame_record(
        f"v{length}", [1], rgb=bytes_of(length, 4), audio=bytes_of(length, 3)
      )
      for length in (2, 7, 4, 9)
    ],
  )
  flags = {**TINY_FRAME_FLAGS, "max_frames": 4}
  train_tiny(tmp_path / "run", [file], flags, min_frames=5, num_epochs=1)
  assert "min_frames" not in (tmp_path / "run/model_flags.json").read_text()
  output = tmp_path / "predictions.csv"
  predict = [
    "inference",
    f"--input_data_pattern={file}",
    f"--train_dir={tmp_path}/run",
    f"--output_file={output}",
  ]
  evaluate = [
    "eval",
    f"--eval_data_pattern={file}",
    f"--train_dir={tmp_path}/run",
    "--run_once",
  ]
  for typed, names in (
    ([], ["v2", "v7", "v4", "v9"]),
    (["--min_frames=4"], ["v7", "v4", "v9"]),
  ):
    in_process.run(*predict, *typed)
    lines = output.read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == names
  in_process.run(*evaluate, "--min_frames=8")
  (path,) = (tmp_path / "run" / "eval").glob("metrics-*.json")
  assert json.loads(path.read_text())["num_examples"] == 1
  error = in_process.run_into_error(*predict, "--min_frames=10")
  assert_names(error, "at least 10 frames (--min_frames), found none among the")
