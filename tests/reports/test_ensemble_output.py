"""Tests of the files with an ensemble's predictions."""

import tracemalloc

import numpy as np
import pytest
from conftest import error_of, folder_content

from engine import prediction_file
from engine.prediction_file import Predictions
from reports import ensemble_output
from reports.mixtures import JoinedPredictions

CLASSES = np.array([2, 5, 9], np.int32)
IDS = np.array([b"a", b"b", b"c"])
FIRST = np.array([[0.1, 0.9, 0.5], [0.2, 0.2, 0.2], [0.0, 0.5, 1.0]])
SECOND = np.array([[0.3, 0.1, 0.5], [0.6, 0.2, 0.8], [0.0, 0.5, 1.0]])


def joined(first=FIRST, second=SECOND, ids_of_second=IDS) -> JoinedPredictions:
  sources = [
    Predictions(ids, values.astype(np.float32), CLASSES)
    for ids, values in ((IDS, first), (ids_of_second, second))
  ]
  return JoinedPredictions(sources, IDS)


def write(path, of_models, top_k=2) -> None:
  weights = np.array([0.5, 0.5])
  ensemble_output.write_mean(str(path), of_models, IDS, weights, CLASSES, top_k)


def test_a_csv_by_hand(tmp_path):
  write(tmp_path / "x.csv", joined())
  assert (tmp_path / "x.csv").read_text().splitlines() == [
    "VideoId,LabelConfidencePairs",
    "a,5 0.5 9 0.5",
    "b,9 0.5 2 0.4",
    "c,9 1 5 0.5",
  ]


def test_an_npz_by_hand(tmp_path):
  path = tmp_path / "x.npz"
  write(path, joined())
  found = prediction_file.read_predictions(str(path))
  assert found.video_ids.tolist() == IDS.tolist()
  assert found.classes.tolist() == CLASSES.tolist()
  np.testing.assert_allclose(found.predictions, (FIRST + SECOND) / 2, rtol=1e-6)


def test_fewer_classes_than_wanted(tmp_path):
  write(tmp_path / "x.csv", joined(), top_k=20)
  assert "a,5 0.5 9 0.5 2 0.2\n" in (tmp_path / "x.csv").read_text()


def test_a_video_that_a_model_did_not_predict_is_left_out(tmp_path):
  write(tmp_path / "x.csv", joined(ids_of_second=np.array([b"a", b"x", b"c"])))
  lines = (tmp_path / "x.csv").read_text().splitlines()
  assert [line[0] for line in lines[1:]] == ["a", "c"]


@pytest.mark.parametrize("name", ["x.csv", "x.npz"])
def test_an_old_file_stays_if_the_new_one_fails(tmp_path, monkeypatch, name):
  monkeypatch.setattr("reports.mixtures._BLOCK_VIDEOS", 1)
  (tmp_path / name).write_text("old")
  bad = SECOND.copy()
  bad[2, 0] = np.nan
  assert "received NaN" in error_of(write, tmp_path / name, joined(second=bad))
  assert folder_content(tmp_path) == {name: b"old"}


@pytest.mark.parametrize("name", ["x.txt", "csv", "gs://bucket/x.csv"])
def test_names_that_are_refused(name):
  text = error_of(ensemble_output.check_path, name)
  assert f"as --output_file, received {name}." in text


def test_files_of_others_are_refused(tmp_path):
  (tmp_path / "x.csv").mkdir()
  assert "received" in error_of(
    ensemble_output.check_path, str(tmp_path / "x.csv")
  )
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n")
  assert "belongs to a training run" in error_of(
    ensemble_output.check_path, str(tmp_path / "vocabulary.csv")
  )
  ensemble_output.check_path(str(tmp_path / "y.csv"))
  ensemble_output.check_path(str(tmp_path / "y.npz"))


def test_memory_is_bounded(tmp_path, monkeypatch):
  """Of 16 MB from each of two models, a small part is held at a time."""
  monkeypatch.setattr(prediction_file, "_ZEROS", bytes(1 << 16))
  shape = (20_000, 200)
  ids = np.array([f"v{number}".encode() for number in range(shape[0])])
  classes = np.arange(shape[1], dtype=np.int32)
  rows = np.full((1000, shape[1]), 0.25, np.float32)
  batches = [(ids[at : at + 1000], rows) for at in range(0, shape[0], 1000)]
  path = str(tmp_path / "one.npz")
  prediction_file.write_predictions(path, batches, classes)
  tracemalloc.start()
  source = prediction_file.read_predictions(path)
  of_models = JoinedPredictions([source, source], ids)
  output = str(tmp_path / "mean.npz")
  weights = np.array([0.5, 0.5])
  ensemble_output.write_mean(output, of_models, ids, weights, classes, 20)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8e6
  found = prediction_file.read_predictions(output).predictions
  assert found.shape == shape
  assert (found[::999] == 0.25).all()


def test_ids_of_any_bytes(tmp_path):
  ids = [b"a\0", b"a", b"b,\n\xff"]
  stored = prediction_file.stored_ids(ids)
  source = Predictions(stored, FIRST.astype(np.float32), CLASSES)
  given = (JoinedPredictions([source], stored), stored, np.ones(1), CLASSES, 1)
  for name in ("x.csv", "x.npz"):
    ensemble_output.write_mean(str(tmp_path / name), *given)
  found = prediction_file.read_predictions(str(tmp_path / "x.npz"))
  assert prediction_file.original_ids(found.video_ids) == ids
  assert (tmp_path / "x.csv").read_text() == (
    'VideoId,LabelConfidencePairs\na\\x00,5 0.9\na,2 0.2\n"b,\n\\xff",9 1\n'
  )
