"""Tests of --exclusive_classes in the programs."""

import csv
import json

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, event_tags, load_model
from make_records import video_record, write_records
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  one_label,
  train_tiny,
)

import models
from engine.data import Data
from engine.step import draw_mixup_weight

EXCLUSIVE_FLAGS = {
  **TINY_FLAGS,
  "exclusive_classes": True,
  "label_loss": "CategoricalCrossEntropyLoss",
}
VIDEO_LINE = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
)


def train_line(files, train_dir):
  return [
    "train",
    f"--train_data_pattern={','.join(files)}",
    f"--train_dir={train_dir}",
    *VIDEO_LINE,
    "--exclusive_classes",
    "--xla=False",
  ]


@pytest.fixture(scope="module")
def run(one_label_files, tmp_path_factory):
  """A train_dir of a MoeModel that has learned the videos."""
  folder = tmp_path_factory.mktemp("run")
  in_process.run(
    *train_line(one_label_files, folder),
    "--model=MoeModel",
    "--moe_output_gating",
    "--batch_size=11",
    "--base_learning_rate=0.1",
    "--num_epochs=60",
  )
  return folder


def several_labels(tmp_path):
  """A file of 4 videos with the labels 1, 2 and 4, 3, none."""
  return write_records(
    tmp_path / "several",
    [
      video_record(
        f"v{number}",
        labels,
        mean_rgb=[0.5, 1.0, -1.0, 0.25],
        mean_audio=[0.25, 2.0, 1.0],
      )
      for number, labels in enumerate([[1], [2, 4], [3], []])
    ],
  )


# --------------------------------------------------------------------------
# From training to prediction


def test_training_and_evaluation(run, one_label_files):
  model_flags = json.loads((run / "model_flags.json").read_text())
  assert model_flags["exclusive_classes"] is True
  assert model_flags["label_loss"] == "CategoricalCrossEntropyLoss"
  in_process.run(
    "eval",
    f"--eval_data_pattern={','.join(one_label_files)}",
    f"--train_dir={run}",
    "--run_once",
    "--exclusive_classes",
  )
  (path,) = (run / "eval").glob("metrics-*.json")
  scores = json.loads(path.read_text())
  assert scores["num_examples"] == NUM_TINY
  assert scores["avg_hit_at_one"] == scores["accuracy"] == 1.0
  model, loss = load_model(run), 0.0
  data = Data(model_flags, one_label_files, with_labels=True)
  for batch in data.evaluation_batches(NUM_TINY).as_numpy_iterator():
    predictions = model(models.model_inputs(model, batch), training=False)
    likely = predictions["predictions"].numpy()[batch["labels"]]
    assert len(likely) == NUM_TINY
    loss = -np.log(likely + 1e-7).mean()
  # Each class alone has a loss of log(6) = 1.79 at first.
  assert 0.0 < loss < 0.6
  assert scores["avg_loss"] == pytest.approx(loss, rel=1e-4)


def test_prediction_and_export(run, one_label_files, tiny_vectors, tmp_path):
  output = tmp_path / "predictions.csv"
  in_process.run(
    "inference",
    f"--input_data_pattern={','.join(one_label_files)}",
    f"--train_dir={run}",
    f"--output_file={output}",
  )
  with open(output, newline="") as file:
    rows = list(csv.reader(file))[1:]
  predicted = {}
  for name, text in rows:
    pairs = text.split()
    predicted[name] = dict(
      zip(pairs[::2], map(float, pairs[1::2]), strict=True)
    )
    assert len(predicted[name]) == 6
    assert sum(predicted[name].values()) == pytest.approx(1.0, abs=1e-4)
  for number, vector in enumerate(tiny_vectors):
    of_video = predicted[f"v{number}"]
    assert int(max(of_video, key=of_video.get)) == one_label(vector)
  in_process.run(
    "export_model", f"--train_dir={run}", f"--output_dir={tmp_path}/export"
  )
  served = tf.saved_model.load(str(tmp_path / "export"))
  found = served.signatures["predict_arrays"](
    video_matrix=tf.constant(tiny_vectors),
    num_frames=tf.ones([NUM_TINY], tf.int32),
  )["predictions"].numpy()
  for number, row in enumerate(found):
    expected = [predicted[f"v{number}"][str(label)] for label in range(6)]
    np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.slow  # nothing is special about segments without labels
def test_segments_can_be_predicted(tiny_frame_files, tmp_path):
  file = write_first_labels(tiny_frame_files, tmp_path)
  flags = {
    **EXCLUSIVE_FLAGS,
    **{name: TINY_FRAME_FLAGS[name] for name in ("feature_names", "model")},
    "frame_features": True,
  }
  train_tiny(tmp_path / "run", [file], flags, max_steps=1)
  in_process.run(
    "inference",
    f"--input_data_pattern={file}",
    f"--train_dir={tmp_path}/run",
    f"--output_file={tmp_path}/segments.csv",
    "--segment_labels",
  )
  assert (tmp_path / "segments.csv").read_text().count("\n") == 1 + 6


def write_first_labels(files, tmp_path):
  """A file of the records of other files, with the first label of each."""
  records = []
  for data in tf.data.TFRecordDataset(files).as_numpy_iterator():
    record = tf.train.SequenceExample.FromString(data)
    labels = record.context.feature["labels"].int64_list.value
    del labels[1:]
    records.append(record.SerializeToString())
  return write_records(tmp_path / "first_labels", records)


def test_mixup_is_the_weighted_mean_of_the_losses_of_both_labels(
  one_label_files, tmp_path
):
  train_tiny(
    tmp_path,
    one_label_files,
    EXCLUSIVE_FLAGS,
    batch_size=NUM_TINY,
    base_learning_rate=0.0,
    seed=5,
    mixup_alpha=0.4,
    max_steps=1,
  )
  kernel, bias = load_model(tmp_path).get_layer("fully_connected").get_weights()
  data = Data(EXCLUSIVE_FLAGS, one_label_files, True)
  batches = data.training_batches(NUM_TINY, num_epochs=1, seed=5)
  (batch,) = batches.as_numpy_iterator()
  weight = float(
    draw_mixup_weight(0.4, tf.constant(5, tf.int64), tf.constant(0, tf.int64))
  )
  assert 0.0 < weight < 1.0
  lengths = np.linalg.norm(batch["video_matrix"], axis=1, keepdims=True)
  vectors = batch["video_matrix"] / lengths
  classes = np.argmax(batch["labels"], axis=1)
  expected = 0.0
  for video in range(NUM_TINY):
    mixed = weight * vectors[video] + (1.0 - weight) * vectors[video - 1]
    powers = np.exp(mixed @ kernel + bias)
    likely = powers / powers.sum()
    expected -= weight * np.log(likely[classes[video]])
    expected -= (1.0 - weight) * np.log(likely[classes[video - 1]])
  losses = event_tags(tmp_path)["label_loss"]
  assert losses[1] == pytest.approx(expected / NUM_TINY, rel=1e-4)


def test_of_a_subset_only_those_labels_count(tmp_path):
  file = several_labels(tmp_path)
  log = in_process.run(
    *train_line([file], tmp_path / "run"),
    "--label_subset=1,2",
    "--num_epochs=1",
  )
  assert "Using 2 of the 4 videos" in log
  error = in_process.run_into_error(
    *train_line([file], tmp_path / "other"), "--label_subset=2,4"
  )
  assert_names(
    error, f"{file}, record 1: expected exactly one", "found 2: 2, 4"
  )


# --------------------------------------------------------------------------
# What is refused, in one line


def test_videos_without_exactly_one_label(run, tmp_path):
  file = several_labels(tmp_path)
  evaluate = [
    "eval",
    f"--eval_data_pattern={file}",
    f"--train_dir={run}",
    "--run_once",
  ]
  error = in_process.run_into_error(*train_line([file], tmp_path / "run"))
  assert_names(
    error,
    f"{file}, record 1: expected exactly one label of each video with"
    " --exclusive_classes, found 2: 2, 4; leave this flag out",
    "add --skip_corrupt",
  )
  error = in_process.run_into_error(*evaluate)
  assert_names(error, f"{file}, record 1: ", "name files like those that")
  log = in_process.run(
    *train_line([file], tmp_path / "run"), "--skip_corrupt", "--num_epochs=1"
  )
  assert_names(log, "Left out 2 records (2 not one label)", "after 2 examples")
  log = in_process.run(*evaluate, "--skip_corrupt")
  assert "Left out 2 records (2 not one label)" in log
  for folder in (tmp_path / "run", run / "eval"):
    with open(folder / "skipped_records.csv", newline="") as listed:
      rows = list(csv.DictReader(listed))
    assert [(row["record"], row["kind"]) for row in rows] == [
      ("1", "not one label"),
      ("3", "not one label"),
    ]


def test_a_loss_that_does_not_fit(one_label_files, tmp_path):
  line = train_line(one_label_files, tmp_path / "run")
  error = in_process.run_into_error(*line, "--label_loss=CrossEntropyLoss")
  assert_names(
    error,
    "received --label_loss=CrossEntropyLoss, which is for a probability of each"
    " class by itself",
    "for CategoricalCrossEntropyLoss",
  )
  line.remove("--exclusive_classes")
  error = in_process.run_into_error(
    *line, "--label_loss=CategoricalCrossEntropyLoss"
  )
  assert_names(
    error,
    "Expected --exclusive_classes with",
    "predict all of them",
    "else leave --label_loss out",
  )
  assert not (tmp_path / "run").exists()


def test_segments_and_a_single_class(
  one_label_files, tiny_segment_files, tmp_path
):
  error = in_process.run_into_error(
    "train",
    f"--train_data_pattern={','.join(tiny_segment_files)}",
    f"--train_dir={tmp_path}/run",
    "--model=FrameLevelLogisticModel",
    "--frame_features",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--exclusive_classes",
    "--segment_labels",
  )
  assert_names(error, "Expected whole videos", "--segment_labels")
  error = in_process.run_into_error(
    *train_line(one_label_files, tmp_path / "run"), "--label_subset=3"
  )
  assert_names(error, "at least two classes", "received one")
  assert not (tmp_path / "run").exists()


def test_the_flag_must_be_that_of_the_model(run, one_label_files, tmp_path):
  train_tiny(tmp_path / "other", one_label_files, max_steps=1)
  for folder, typed, shown in (
    (run, "--noexclusive_classes", "False instead of True"),
    (tmp_path / "other", "--exclusive_classes", "True instead of False"),
  ):
    for program, *more in (
      ("eval", "--run_once"),
      ("inference",),
      ("export_model",),
    ):
      error = in_process.run_into_error(
        program, f"--train_dir={folder}", *more, typed
      )
      assert f"received --exclusive_classes={shown}." in error
  error = in_process.run_into_error(
    *(
      flag
      for flag in train_line(one_label_files, run)
      if flag != "--exclusive_classes"
    ),
    "--model=MoeModel",
    "--moe_output_gating",
  )
  assert_names(
    error,
    "--exclusive_classes was True and is now 'not set'",
    "--label_loss was 'CategoricalCrossEntropyLoss'",
  )
