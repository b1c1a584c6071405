"""Tests of engine.export: SavedModels, and the thread that writes them."""

import errno
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from conftest import PATIENCE_SECONDS, error_of, make_once
from make_records import frame_record, video_record, write_records
from saved_models import (
  BATCH,
  VIDEO_FLAGS,
  predict,
  randomize,
  saved_predictions,
)

import models
from engine import export
from engine.data import Data
from records import writing

SIZES = (6, 2)
COMMON_FLAGS = {
  "feature_sizes": "6,2",
  "max_frames": 10,
  "label_loss": "CrossEntropyLoss",
}
BYTES_FLAGS = {
  **COMMON_FLAGS,
  "model": "LstmModel",
  "feature_names": "rgb,audio",
  "frame_features": True,
  "num_classes": 25,
  "lstm_cells": 4,
}
FLOATS_FLAGS = {
  **COMMON_FLAGS,
  "model": "DbofModel",
  "feature_names": "rgb,audio",
  "frame_features": True,
  "num_classes": 5,
  "iterations": 4,
  "dbof_cluster_size": 8,
  "dbof_hidden_size": 8,
}
RANGES_FLAGS = {
  **COMMON_FLAGS,
  "model": "FrameLevelLogisticModel",
  "feature_names": "rgb,audio",
  "feature_ranges": "-1:9,",
  "frame_features": True,
  "num_classes": 5,
}
MIXTURE_FLAGS = {
  **COMMON_FLAGS,
  "model": "MixNextVladModel",
  "feature_names": "rgb,audio",
  "frame_features": True,
  "num_classes": 5,
  "mix_branches": 2,
  "nextvlad_cluster_size": 4,
  "nextvlad_groups": 2,
  "nextvlad_hidden_size": 4,
  "nextvlad_gating_reduction": 2,
}
DEWHITENED_FLAGS = {
  **RANGES_FLAGS,
  "input_transform": "dewhiten",
  "dewhiten_scales": [[3.0, 2.0, 1.5, 0.5, 0.25, 0.125], []],
}
CASES = {
  # Name: flags, how each feature is stored.
  "video": (VIDEO_FLAGS, ["float", "float"]),
  "bytes": (BYTES_FLAGS, ["bytes", "bytes"]),
  "floats": (FLOATS_FLAGS, ["float", "float"]),
  "ranges": (RANGES_FLAGS, ["bytes", "bytes"]),
  "more predictions": (MIXTURE_FLAGS, ["bytes", "bytes"]),
  "mixed": (RANGES_FLAGS, ["bytes", "float16"]),
  "dewhitened": (DEWHITENED_FLAGS, ["bytes", "float16"]),
  "plain video": ({**VIDEO_FLAGS, "input_transform": "none"}, ["float"] * 2),
  "stored video": (
    {**VIDEO_FLAGS, "feature_ranges": "-1:9,"},
    ["bytes", "float16"],
  ),
}
DTYPES = {"bytes": np.uint8, "float16": np.float16, "float": np.float32}

# Runs where only TensorFlow can be imported.
SERVER = """
import pickle
import sys

import tensorflow as tf

requests = pickle.load(sys.stdin.buffer)
answers = {}
for name, (folder, records, batch) in requests.items():
  signatures = tf.saved_model.load(folder).signatures
  serve = signatures["serving_default"]
  answers[name] = {
    "together": serve(example_bytes=tf.constant(records)),
    "alone": [serve(example_bytes=tf.constant([one])) for one in records],
    "arrays": signatures["predict_arrays"](
      **{key: tf.constant(value) for key, value in batch.items()}
    ),
  }
answers = tf.nest.map_structure(lambda tensor: tensor.numpy(), answers)
for module in ("models", "readers", "export_model", "startup"):
  assert module not in sys.modules, module
pickle.dump(answers, sys.stdout.buffer)
"""


def make_records(kind):
  """Serialized records: four videos, one of which has its id as video_id."""
  generator = np.random.default_rng(3)
  records = []
  # At frame level: shorter and longer than max_frames, and exactly as long.
  for number, length in enumerate((7, 1, 14, 10)):
    id_name = "video_id" if number == 1 else "id"
    features = [
      generator.integers(256, size=(length, size), dtype=np.uint8)
      if stored == "bytes"
      else generator.normal(size=(length, size)).astype(DTYPES[stored])
      for size, stored in zip(SIZES, CASES[kind][1], strict=True)
    ]
    arrays = dict(zip(("rgb", "audio"), features, strict=True))
    if kind in ("ranges", "mixed", "dewhitened"):
      record = writing.frame_record(f"video{number}".encode(), [], arrays)
    elif kind == "stored video":
      vectors = {f"mean_{name}": of[0] for name, of in arrays.items()}
      record = writing.video_record(f"video{number}".encode(), [], vectors)
    elif kind in ("video", "plain video"):
      record = video_record(
        f"video{number}",
        id_name=id_name,
        mean_rgb=features[0][0],
        mean_audio=features[1][0],
      )
    else:
      record = frame_record(
        f"video{number}", id_name=id_name, rgb=features[0], audio=features[1]
      )
    records.append(record)
  return records


def serve(folder) -> None:
  """Asks a SavedModel of each of CASES; writes what `served` gives."""
  requests, expected = {}, {}
  for name, (model_flags, kinds) in CASES.items():
    records = make_records(name)
    path = write_records(folder / f"{name}.tfrecord", records)
    data = Data(model_flags, [path], with_labels=False)
    assert data.reader.kinds == kinds
    model = models.build_model(model_flags, data.reader.quantized)
    randomize(model)
    batches = list(data.evaluation_batches(len(records)))
    assert len(batches) == 1
    expected[name] = predict(model, batches[0])

    exporter = export.Exporter(model_flags, kinds)
    exporter.model.set_weights(model.get_weights())
    saved_model = folder / name / "step_1"
    exporter.save(str(saved_model))
    assert os.listdir(folder / name) == ["step_1"]
    batch = {
      key: batches[0][key].numpy() for key in ("video_matrix", "num_frames")
    }
    requests[name] = (str(saved_model), records, batch)

  elsewhere = folder / "elsewhere"
  elsewhere.mkdir()
  server = subprocess.run(
    # -I: neither PYTHONPATH nor the current folder are searched.
    [sys.executable, "-I", "-c", SERVER],
    input=pickle.dumps(requests),
    cwd=elsewhere,
    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    capture_output=True,
    check=False,
  )
  assert server.returncode == 0, server.stderr.decode()
  answers = pickle.loads(server.stdout)
  (folder / "answers").write_bytes(pickle.dumps((answers, expected)))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """For each of CASES: answers of its SavedModel, and what they should be."""
  folder = make_once(tmp_path_factory, "served", serve)
  return pickle.loads((folder / "answers").read_bytes())


# --------------------------------------------------------------------------
# SavedModels


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_answers_records_as_the_model_does(served, name):
  answer = served[0][name]["together"]
  expected = served[1][name]
  top_k = min(20, CASES[name][0]["num_classes"])
  assert set(answer) == {"video_id", "class_indexes", "predictions"}
  assert answer["video_id"].tolist() == [
    b"video0",
    b"video1",
    b"video2",
    b"video3",
  ]
  assert answer["class_indexes"].dtype == np.int32
  assert answer["class_indexes"].shape == (4, top_k)
  assert answer["predictions"].shape == (4, top_k)
  # The best first, each with the probability of its class.
  best = -np.sort(-expected, axis=1)[:, :top_k]
  np.testing.assert_allclose(answer["predictions"], best, atol=1e-6)
  np.testing.assert_allclose(
    np.take_along_axis(expected, answer["class_indexes"], axis=1),
    answer["predictions"],
    atol=1e-6,
  )
  assert all(len(set(row)) == top_k for row in answer["class_indexes"].tolist())
  # The predictions of the videos differ.
  assert abs(expected[1:] - expected[0]).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_records_may_be_sent_together_or_alone(served, name):
  together = served[0][name]["together"]
  for video, alone in enumerate(served[0][name]["alone"]):
    assert alone["video_id"].tolist() == [together["video_id"][video]]
    np.testing.assert_allclose(
      alone["predictions"][0], together["predictions"][video], atol=1e-6
    )


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_answers_batches_as_the_model_does(served, name):
  answer = served[0][name]["arrays"]
  assert list(answer) == ["predictions"]
  np.testing.assert_allclose(answer["predictions"], served[1][name], atol=1e-6)


@pytest.mark.parametrize(
  ("name", "shape", "dtype", "top_k"),
  [
    ("video", [None, 8], "float32", 20),
    ("bytes", [None, None, 8], "uint8", 20),
    ("floats", [None, None, 8], "float32", 5),
  ],
)
def test_signatures(tmp_path, name, shape, dtype, top_k):
  model_flags, kinds = CASES[name]
  export.Exporter(model_flags, kinds).save(str(tmp_path / "export"))
  signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
  assert set(signatures) == {"serving_default", "predict_arrays"}

  def described(specs):
    return {
      key: (spec.shape.as_list(), spec.dtype.name)
      for key, spec in specs.items()
    }

  serving = signatures["serving_default"]
  assert described(serving.structured_input_signature[1]) == {
    "example_bytes": ([None], "string")
  }
  assert described(serving.structured_outputs) == {
    "video_id": ([None], "string"),
    "class_indexes": ([None, top_k], "int32"),
    "predictions": ([None, top_k], "float32"),
  }
  arrays = signatures["predict_arrays"]
  assert described(arrays.structured_input_signature[1]) == {
    "video_matrix": (shape, dtype),
    "num_frames": ([None], "int32"),
  }
  assert described(arrays.structured_outputs) == {
    "predictions": ([None, model_flags["num_classes"]], "float32")
  }


def test_a_saved_model_says_what_it_reads_and_names_its_classes(tmp_path):
  model_flags, kinds = CASES["stored video"]
  vocabulary = tmp_path / "names" / "vocabulary.csv"
  vocabulary.parent.mkdir()
  vocabulary.write_text("Index,Name\n0,日本\n")
  exporter = export.Exporter(model_flags, kinds, str(vocabulary))
  exporter.save(str(tmp_path / "first"))
  exporter.save(str(tmp_path / "second"))
  vocabulary.unlink()
  for name in ("first", "second"):
    served = tf.saved_model.load(str(tmp_path / name))
    path = served.vocabulary.asset_path.numpy().decode()
    assert path == f"{tmp_path / name}/assets/vocabulary.csv"
    with open(path, encoding="utf-8") as file:
      assert "日本" in file.read()
    path = served.model_flags.asset_path.numpy()
    with open(path, encoding="utf-8") as file:
      assert json.load(file) == {
        **model_flags,
        "feature_dtypes": "uint8,float16",
      }


def test_a_saved_model_without_names_has_no_vocabulary(tmp_path):
  export.Exporter(VIDEO_FLAGS).save(str(tmp_path / "export"))
  assert os.listdir(tmp_path / "export" / "assets") == ["model_flags.json"]


# --------------------------------------------------------------------------
# Exporter and BackgroundExporter


@pytest.fixture
def model():
  """A model with random weights."""
  model = models.build_model(VIDEO_FLAGS)
  randomize(model)
  return model


@pytest.fixture
def background_exporter(tmp_path):
  """A BackgroundExporter and the gate that its thread waits at."""
  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  gate = threading.Event()
  # Longer than any test keeps it shut, so a mistake fails instead of hanging.
  exporter._thread.submit(gate.wait, PATIENCE_SECONDS)
  yield exporter, gate
  gate.set()
  exporter.close()


def test_each_save_has_the_current_weights(tmp_path):
  exporter = export.Exporter(VIDEO_FLAGS, False)
  expected = []
  for number in range(2):
    randomize(exporter.model, seed=number)
    expected.append(predict(exporter.model, BATCH))
    exporter.save(str(tmp_path / f"step_{number}"))
  assert abs(expected[1] - expected[0]).max() > 1e-3
  for number in range(2):
    np.testing.assert_allclose(
      saved_predictions(tmp_path / f"step_{number}"),
      expected[number],
      atol=1e-6,
    )


def test_a_temporary_file_that_cannot_be_removed(tmp_path, monkeypatch):
  exporter = export.Exporter(VIDEO_FLAGS, False)
  unlink = os.unlink

  def fail(path, **where):
    if os.path.basename(path) == "model_flags.json":
      raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    unlink(path, **where)

  monkeypatch.setattr(os, "unlink", fail)
  exporter.save(str(tmp_path / "step_1"))
  assert os.listdir(tmp_path) == ["step_1"]


def test_a_failing_disk_is_no_error_of_a_value(tmp_path, monkeypatch):
  """TensorFlow makes one of it where it reads what it has just written."""

  def fail(*_):
    raise ValueError("No singleprint. UNKNOWN: fingerprint.pb; " + said)

  monkeypatch.setattr(tf.saved_model, "save", fail)
  exporter = export.Exporter(VIDEO_FLAGS)
  said = os.strerror(errno.EIO)
  with pytest.raises(OSError, match=said):
    exporter.save(str(tmp_path / "export"))
  said = "no more"
  with pytest.raises(ValueError, match=said):
    exporter.save(str(tmp_path / "export"))
  assert not os.listdir(tmp_path)


def test_what_tensorflow_could_not_remove_is_removed(tmp_path, monkeypatch):
  save = tf.saved_model.save

  def save_and_leave(servable, folder, signatures):
    save(servable, folder, signatures)
    os.mkdir(f"{folder}/variables/variables_temp")

  monkeypatch.setattr(tf.saved_model, "save", save_and_leave)
  export.Exporter(VIDEO_FLAGS).save(str(tmp_path / "export"))
  assert not (tmp_path / "export/variables/variables_temp").exists()


def test_a_save_replaces_the_previous_one(tmp_path):
  exporter = export.Exporter(VIDEO_FLAGS, False)
  for number in range(2):
    randomize(exporter.model, seed=number)
    exporter.save(str(tmp_path / "step_1"))
  assert os.listdir(tmp_path) == ["step_1"]
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "step_1"),
    predict(exporter.model, BATCH),
    atol=1e-6,
  )


def test_the_background_export_has_the_weights_of_the_call(
  background_exporter, model, tmp_path
):
  exporter, gate = background_exporter
  expected = predict(model, BATCH)
  exporter.export(model, 3)
  # Training continues before the thread has begun.
  randomize(model, seed=2)
  assert abs(predict(model, BATCH) - expected).max() > 1e-3
  gate.set()
  exporter.close()
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "export" / "step_3"), expected, atol=1e-6
  )
  # The exporter does not change the model.
  assert os.listdir(tmp_path / "export") == ["step_3"]


def test_the_background_export_has_the_names_of_the_train_dir(model, tmp_path):
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n0,a\n")
  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  exporter.export(model, 2, final=True)
  exporter.close()
  copy = tmp_path / "export" / "step_2" / "assets" / "vocabulary.csv"
  assert copy.read_text() == "Index,Name\n0,a\n"


def test_only_the_newest_export_is_kept(model, tmp_path):
  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  (tmp_path / "export" / "step_1").mkdir(parents=True)
  for name in ("mine", "step_1_good"):
    (tmp_path / "export" / name).mkdir()
  for step in (5, 10):
    randomize(model, seed=step)
    exporter.export(model, step, final=True)
  exporter.close()
  assert sorted(os.listdir(tmp_path / "export")) == [
    "mine",
    "step_10",
    "step_1_good",
  ]
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "export" / "step_10"),
    predict(model, BATCH),
    atol=1e-6,
  )


def test_what_exports_leave_in_memory_is_collected(
  model, tmp_path, monkeypatch
):
  after = []
  monkeypatch.setattr(gc, "collect", lambda: after.append(step))
  monkeypatch.setattr(export, "_EXPORTS_TO_COLLECT", 2)
  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  for step in range(5):
    exporter.export(model, step, final=True)
    exporter._pending.result()
  exporter.close()
  assert after == [1, 3]


def test_an_older_export_is_never_half_there(model, tmp_path, monkeypatch):
  rmtree = shutil.rmtree

  def stop_half_way(path, **given):
    if given:  # of a temporary folder
      return rmtree(path, **given)
    os.remove(os.path.join(path, "saved_model.pb"))
    raise OSError(errno.EIO, os.strerror(errno.EIO), path)

  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  exporter.export(model, 1, final=True)
  exporter.export(model, 2, final=True)
  monkeypatch.setattr(shutil, "rmtree", stop_half_way)
  exporter.export(model, 3, final=True)
  exporter.close()
  shown = [name for name in os.listdir(tmp_path / "export") if name[0] != "."]
  assert shown == ["step_3"]


def test_an_export_is_skipped_while_another_is_written(
  background_exporter, model, tmp_path
):
  exporter, gate = background_exporter
  expected = predict(model, BATCH)
  exporter.export(model, 1)
  randomize(model, seed=2)
  exporter.export(model, 2)  # returns at once
  gate.set()
  exporter.close()
  assert os.listdir(tmp_path / "export") == ["step_1"]
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "export" / "step_1"), expected, atol=1e-6
  )


def test_the_final_export_is_waited_for(background_exporter, model, tmp_path):
  exporter, gate = background_exporter
  exporter.export(model, 1)
  randomize(model, seed=2)
  opener = threading.Timer(0.2, gate.set)
  opener.start()
  exporter.export(model, 2, final=True)
  exporter.close()
  opener.join()
  assert os.listdir(tmp_path / "export") == ["step_2"]
  np.testing.assert_allclose(
    saved_predictions(tmp_path / "export" / "step_2"),
    predict(model, BATCH),
    atol=1e-6,
  )


def test_close_raises_the_error_of_a_failed_export(model, tmp_path):
  (tmp_path / "export").write_text("in the way")
  exporter = export.BackgroundExporter(VIDEO_FLAGS, None, str(tmp_path))
  exporter.export(model, 1)
  with pytest.raises(tf.errors.OpError, match="export"):
    exporter.close()


# --------------------------------------------------------------------------
# float16


@pytest.mark.parametrize("name", ["video", "bytes"])
def test_matrices_in_float16_are_what_a_rounded_model_has(name, tmp_path):
  model_flags, kinds = CASES[name]
  exporter = export.Exporter(model_flags, kinds)
  randomize(exporter.model)
  exporter.save(str(tmp_path / "wide"))
  exporter.save(str(tmp_path / "narrow"), float16=True)
  generator = np.random.default_rng(2)
  matrix = generator.integers(256, size=(3, 5, 8), dtype=np.uint8)
  if not model_flags["frame_features"]:
    matrix = generator.normal(size=(3, 8)).astype(np.float32)
  batch = {"video_matrix": matrix, "num_frames": np.array([5, 1, 3], np.int32)}
  wide = predict(exporter.model, batch)
  for weight in exporter.model.weights:
    if weight.dtype == "float32" and len(weight.shape) > 1:
      weight.assign(weight.numpy().astype(np.float16))
  rounded = predict(exporter.model, batch)
  assert abs(rounded - wide).max() > 1e-5

  def served(folder):
    loaded = tf.saved_model.load(str(tmp_path / folder))
    arrays = {key: tf.constant(values) for key, values in batch.items()}
    answer = loaded.signatures["predict_arrays"](**arrays)["predictions"]
    matrices = [one for one in loaded.weights if one.shape.rank > 1]
    return answer.numpy(), {one.dtype for one in matrices}

  answer, dtypes = served("narrow")
  np.testing.assert_allclose(answer, rounded, atol=1e-6)
  assert dtypes == {tf.float16}
  answer, dtypes = served("wide")
  np.testing.assert_allclose(answer, wide, atol=1e-6)
  assert dtypes == {tf.float32}


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
  exporter = export.Exporter(VIDEO_FLAGS)
  kernel = next(one for one in exporter.model.weights if len(one.shape) == 2)
  kernel.assign(kernel.numpy() + 7e4)
  message = error_of(exporter.save, str(tmp_path / "out"), float16=True)
  assert "weights up to 65504" in message
  assert kernel.path in message
  assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------
# MediaPipe


@pytest.fixture(scope="module")
def for_mediapipe(tmp_path_factory):
  """A SavedModel of the LstmModel of BYTES_FLAGS, and the model itself."""
  folder = tmp_path_factory.mktemp("mediapipe")
  model = models.build_model(BYTES_FLAGS, quantized=False)
  randomize(model)
  vocabulary = folder / "vocabulary.csv"
  vocabulary.write_text("Index,Name\n0,a\n")
  names = [f"class {index}" for index in range(25)]
  path = folder / "saved_model"
  export.save_for_mediapipe(
    model, BYTES_FLAGS, str(path), str(vocabulary), names
  )
  return path, model


def windows(count=3, frames=5):
  random = np.random.default_rng(4)
  return random.uniform(-2, 2, (count, frames, 8)).astype(np.float32)


def test_the_signature_is_what_mediapipe_feeds(for_mediapipe):
  path, _ = for_mediapipe
  signatures = tf.saved_model.load(str(path)).signatures
  assert set(signatures) == {"serving_default"}
  signature = signatures["serving_default"]
  assert {
    name: (spec.shape.as_list(), spec.dtype.name)
    for name, spec in signature.structured_input_signature[1].items()
  } == {
    "rgb_and_audio": ([None, None, 8], "float32"),
    "num_frames": ([None, 1], "int32"),
  }
  (output,) = signature.structured_outputs.items()
  assert output[0] == "predictions"
  assert output[1].shape.as_list() == [None, 25]


def test_windows_are_predicted_as_frames_are(for_mediapipe):
  path, model = for_mediapipe
  loaded = tf.saved_model.load(str(path))  # holds the weights

  def answer(frames, num_frames):
    column = tf.constant(num_frames, tf.int32, [len(num_frames), 1])
    found = loaded.signatures["serving_default"](
      rgb_and_audio=tf.constant(frames), num_frames=column
    )
    return found["predictions"].numpy()

  def wanted(frames, num_frames):
    batch = {"video_matrix": frames, "num_frames": np.int32(num_frames)}
    return predict(model, batch)

  frames = windows()
  np.testing.assert_allclose(
    answer(frames, [5, 2, 4]), wanted(frames, [5, 2, 4]), atol=1e-6
  )
  # MediaPipe's test feeds one number for all, its last window may be shorter.
  for given in ([4], [9]):
    number = min(given[0], 5)
    np.testing.assert_allclose(
      answer(frames, given), wanted(frames, [number] * 3), atol=1e-6
    )
  # Bytes of records are the same numbers after they are dequantized.
  of_bytes = models.build_model(BYTES_FLAGS, quantized=True)
  of_bytes.set_weights(model.get_weights())
  stored = np.random.default_rng(5).integers(256, size=(2, 4, 8))
  batch = {
    "video_matrix": stored.astype(np.uint8),
    "num_frames": np.array([4, 3], np.int32),
  }
  floats = np.float32(stored * (4 / 255) + (4 / 512 - 2))
  np.testing.assert_allclose(
    answer(floats, [4, 3]), predict(of_bytes, batch), atol=1e-6
  )


def test_mediapipe_gets_names_and_what_the_model_reads(for_mediapipe):
  path, _ = for_mediapipe
  assets = path / "assets"
  assert set(os.listdir(assets)) == {
    "label_map.txt",
    "model_flags.json",
    "vocabulary.csv",
  }
  lines = (assets / "label_map.txt").read_text().splitlines()
  assert lines == [f"class {index}" for index in range(25)]
  assert json.loads((assets / "model_flags.json").read_text()) == BYTES_FLAGS
