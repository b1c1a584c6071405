"""Tests of reports.score_run."""

import json
import os
import shutil

import in_process
import numpy as np
import pytest
import tiny_runs
from conftest import error_of

import eval as eval_program
import eval_util
from engine.data_files import hash_of_files
from reports import score_run


@pytest.fixture
def quick(monkeypatch):
  """Measures as little as possible."""
  monkeypatch.setattr(score_run, "_BATCH_SIZES", (1, 4))
  monkeypatch.setattr(score_run, "_REPEATS", 2)
  monkeypatch.setattr(score_run, "_SECONDS_A_SIZE", 0.0)
  monkeypatch.setattr(score_run, "_BATCH_SIZE", 7)


@pytest.fixture
def trained(tmp_path, tiny_files):
  tiny_runs.train_tiny(tmp_path / "model", tiny_files, num_epochs=3)
  return tmp_path / "model"


def test_scores_are_those_of_eval(trained, tiny_files, tmp_path, quick):
  expected = eval_program.evaluate(str(trained), tiny_files)
  found = score_run.score_run(str(trained), tiny_files, str(tmp_path / "out"))
  kept = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert kept == found
  for metric in eval_util.METRICS:
    assert found[metric.key] == pytest.approx(expected[metric.key])
  assert found["avg_loss"] == pytest.approx(expected["avg_loss"], rel=1e-5)
  assert found["num_videos"] == tiny_runs.NUM_TINY
  assert found["parameters"] == 7 * 6 + 6
  sizes = [os.path.getsize(file) for file in tiny_files]
  assert found["eval_hash"] == hash_of_files(tiny_files, sizes)
  assert found["step"] == 14
  assert found["batch_size"] in (1, 4)
  assert found["latency_seconds"] > 0
  assert found["videos_per_second"] == max(found["rates"].values())
  calibration = found["calibration"]
  assert sum(calibration["counts"]) == 22 * 6
  assert sum(found["calibration_of_best"]["counts"]) == 22
  assert sum(found["calibration_of_best"]["labels"]) / 22 == pytest.approx(
    found["avg_hit_at_one"]
  )


def test_predictions_are_kept_for_each_video(
  trained, tiny_files, tmp_path, quick
):
  score_run.score_run(str(trained), tiny_files, str(tmp_path / "out"))
  with np.load(tmp_path / "out" / "predictions.npz") as file:
    kept = dict(file)
  assert kept["video_ids"].tolist() == [
    f"v{number}".encode() for number in range(22)
  ]
  wanted = [
    (number, label)
    for number in range(22)
    for label in tiny_runs.tiny_labels(number)
  ]
  assert wanted == list(
    zip(
      kept["label_rows"].tolist(), kept["label_classes"].tolist(), strict=True
    )
  )
  in_process.run(
    "inference",
    f"--train_dir={trained}",
    f"--input_data_pattern={','.join(tiny_files)}",
    f"--output_file={tmp_path}/p.csv",
  )
  lines = (tmp_path / "p.csv").read_text().splitlines()[1:]
  for row, line in enumerate(lines):
    pairs = line.split(",")[1].split()
    assert kept["class_indexes"][row].tolist() == [
      int(word) for word in pairs[::2]
    ]
    np.testing.assert_allclose(
      kept["confidences"][row], [float(word) for word in pairs[1::2]], atol=1e-5
    )
  labels = [set(tiny_runs.tiny_labels(number)) for number in range(22)]
  for row, classes in enumerate(kept["class_indexes"].tolist()):
    assert kept["hits"][row].tolist() == [
      index in labels[row] for index in classes
    ]
  assert kept["classes"].tolist() == list(range(6))


def test_the_size_of_the_export_is_that_of_its_files(
  trained, tiny_files, tmp_path, quick
):
  folder = trained / "export" / "step_14"
  expected = sum(
    path.stat().st_size for path in folder.rglob("*") if path.is_file()
  )
  found = score_run.score_run(str(trained), tiny_files, str(tmp_path / "a"))
  assert found["export_bytes"] == expected
  # Without it, the checkpoint is exported.
  shutil.rmtree(trained / "export")
  found = score_run.score_run(str(trained), tiny_files, str(tmp_path / "b"))
  assert found["export_bytes"] == pytest.approx(expected, rel=0.05)


def test_larger_batches_are_tried_as_long_as_they_are_faster(monkeypatch):
  sizes = []
  seconds = {1: 0.01, 8: 0.02, 32: 0.079, 128: 0.01}

  def measure(forward, batch):
    sizes.append(len(batch["video_ids"]))
    return seconds[sizes[-1]]

  class FakeData:
    def evaluation_batches(self, size):
      ids = np.array([b"v"] * min(size, 5))
      return [{"video_ids": ids, "num_frames": np.arange(len(ids))}]

  monkeypatch.setattr(score_run, "_seconds_a_batch", measure)
  found = score_run.measure_speed(None, FakeData())
  # 32 videos are not faster than 8: 405 and 400 a second.
  assert sizes == [1, 8, 32]
  assert found["latency_seconds"] == 0.01
  assert found["batch_size"] == 32
  assert found["videos_per_second"] == pytest.approx(32 / 0.079)
  assert list(found["rates"]) == ["1", "8", "32"]


def test_label_subset_and_flags(tiny_files, tmp_path, quick):
  flags = {**tiny_runs.TINY_FLAGS, "label_subset": [1, 4]}
  tiny_runs.train_tiny(tmp_path / "model", tiny_files, flags, num_epochs=1)
  log = in_process.run(
    "reports.score_run",
    f"--train_dir={tmp_path}/model",
    f"--eval_data_pattern={','.join(tiny_files)}",
    f"--output_dir={tmp_path}/out",
  )
  assert "GAP" in log
  with np.load(tmp_path / "out" / "predictions.npz") as file:
    assert file["classes"].tolist() == [1, 4]
    assert set(file["label_classes"].tolist()) == {0, 1}
  line = in_process.run_into_error(
    "reports.score_run", f"--train_dir={tmp_path}/model"
  )
  assert "--eval_data_pattern" in line


def test_no_videos_to_score_are_one_line():
  class NoVideos:
    def run(self):
      yield from ()

  error = error_of(score_run._score, NoVideos(), 6)
  assert "Expected videos in the files of --eval_data_pattern" in error
