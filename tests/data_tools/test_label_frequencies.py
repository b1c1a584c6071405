import gzip

import in_process
import numpy as np
import pytest
from conftest import run_program
from make_records import video_record, write_records

import errors
from data_tools import label_frequencies


def files_of(folder, name, all_labels):
  records = [
    video_record(f"v{number}", labels, mean_rgb=np.zeros(4, np.float32))
    for number, labels in enumerate(all_labels)
  ]
  return [write_records(folder / f"{name}.tfrecord", records)]


def test_scores_by_hand(tmp_path):
  # Frequencies of the classes 0, 1, 2: 3/4, 2/4, 1/4.
  train = files_of(tmp_path, "train", [[0], [0, 1], [0, 1], [2]])
  evaluation = files_of(tmp_path, "validate", [[0], [1, 2]])

  scores = label_frequencies.score_label_frequencies(train, evaluation, 3)

  # Class 0 is best for both videos, right for the first.
  assert scores["avg_hit_at_one"] == pytest.approx(1 / 2)
  # First video: 1 of 1; second: class 1 among its best two, 1 of 2.
  assert scores["avg_perr"] == pytest.approx((1 + 1 / 2) / 2)
  # Ranking, wrong before right in a tie:
  #   0.75 wrong, 0.75 right, 0.5 wrong, 0.5 right, 0.25 wrong, 0.25 right;
  # precision 1/2 at each of the 3 labels.
  assert scores["gap"] == pytest.approx(1 / 2)
  # Each class: wrong before right at one confidence, 1/2.
  assert scores["map"] == pytest.approx(1 / 2)


def test_some_classes_on_the_videos_that_have_one(tmp_path):
  # Of the classes 1 and 2 among the last three videos: 2/3, 1/3.
  train = files_of(tmp_path, "train", [[0], [0, 1], [0, 1], [2]])
  evaluation = files_of(tmp_path, "validate", [[0], [2]])

  log = in_process.run(
    "data_tools.label_frequencies",
    f"--train_data_pattern={train[0]}",
    f"--eval_data_pattern={evaluation[0]}",
    "--num_classes=3",
    "--label_subset=1,2",
  )

  # Class 2, the only right one, is second for the only video.
  assert "Avg_Hit@1: 0.000 | Avg_PERR: 0.000 | MAP: 1.000 | GAP: 0.500" in log


def test_labels_come_in_batches_without_loss(tmp_path):
  files = files_of(tmp_path, "train", [[0], [1], [2], [0, 2], []])

  batches = list(label_frequencies.read_labels(files, 3, batch_size=2))

  assert [len(batch) for batch in batches] == [2, 2, 1]
  np.testing.assert_array_equal(np.concatenate(batches).sum(axis=0), [2, 1, 2])


def test_class_out_of_range_names_file_and_record(tmp_path):
  files = files_of(tmp_path, "train", [[0], [7]])

  with pytest.raises(errors.UserError, match=r"record 1: .*found 7"):
    list(label_frequencies.read_labels(files, 3))


def test_command_line(data_dir):
  log = run_program(
    "-m",
    "data_tools.label_frequencies",
    f"--train_data_pattern={data_dir}/frame/train*",
    f"--eval_data_pattern={data_dir}/video/validate*",
    "--num_classes=40",
  )
  assert log.startswith("only label frequencies | Avg_Hit@1: 0.")


def test_no_videos_to_score_on(tmp_path):
  with gzip.open(tmp_path / "none.gz", "wb"):
    pass
  line = in_process.run_into_error(
    "data_tools.label_frequencies",
    f"--train_data_pattern={tmp_path}/none.gz",
    f"--eval_data_pattern={tmp_path}/none.gz",
  )
  assert "Expected labeled videos in the files of --eval_data_pattern" in line


def test_split_without_labels_is_refused(data_dir):
  line = in_process.run_into_error(
    "data_tools.label_frequencies",
    f"--train_data_pattern={data_dir}/video/test*",
    f"--eval_data_pattern={data_dir}/video/validate*",
  )
  assert "test0000.tfrecord, record 0" in line
