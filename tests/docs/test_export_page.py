"""The commands and the code of docs/export.md, and its table."""

import base64
import json
import os
import re
import subprocess
import sys

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import REPOSITORY, warn_of_missing
from make_records import frame_record, write_records
from own_environment import run_slow_tests
from saved_models import predict, randomize
from tiny_runs import TINY_FRAME_FLAGS

import errors
import export_model
import models
from benchmarks import export_formats as benchmark
from engine import export_formats
from engine.checkpoints import Checkpoints
from engine.model_flags import write_model_flags

PAGE = (REPOSITORY / "docs" / "export.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
LENGTHS = (7, 1, 12)


def blocks_with(text, kind="python") -> str:
  """The only block of the page with a text."""
  (found,) = [
    block for language, block in BLOCKS if language == kind and text in block
  ]
  return found


def make_videos() -> list[dict]:
  """The rgb and the audio of three videos, in bytes."""
  random = np.random.default_rng(3)
  return [
    {
      "rgb": random.integers(256, size=(length, 4), dtype=np.uint8),
      "audio": random.integers(256, size=(length, 3), dtype=np.uint8),
    }
    for length in LENGTHS
  ]


VIDEOS = make_videos()
RECORDS = [
  frame_record(f"v{number}", **video) for number, video in enumerate(VIDEOS)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A train_dir with a checkpoint, its model, and a SavedModel of it."""
  folder = tmp_path_factory.mktemp("run")
  model_flags = {
    **TINY_FRAME_FLAGS,
    "model": "GruModel",
    "gru_cells": 5,
    "max_frames": 10,
  }
  write_model_flags(str(folder), model_flags)
  model = models.build_model(model_flags)
  randomize(model)
  Checkpoints(str(folder), 5, model=model).save(19)
  (folder / "vocabulary.csv").write_text(
    "Index,Name\n" + "".join(f"{index},name {index}\n" for index in range(6))
  )
  in_process.run("export_model", f"--train_dir={folder}")
  return folder, model


def wanted(model) -> np.ndarray:
  """What the model predicts of VIDEOS."""
  batch = np.zeros((3, 10, 7), np.uint8)
  counts = np.minimum(LENGTHS, 10).astype(np.int32)
  for row, video in enumerate(VIDEOS):
    frames = np.concatenate([video["rgb"], video["audio"]], axis=1)[:10]
    batch[row, : len(frames)] = frames
  return predict(model, {"video_matrix": batch, "num_frames": counts})


# --------------------------------------------------------------------------
# TensorFlow Serving's REST form


def decoded(value):
  """JSON values, in which {"b64": ...} stands for bytes."""
  if isinstance(value, dict) and set(value) == {"b64"}:
    return base64.b64decode(value["b64"], validate=True)
  if isinstance(value, list):
    return [decoded(one) for one in value]
  return value


def answer_of_server(folder, request: str) -> str:
  """Answers a request for predictions as TensorFlow Serving does.

  Its row form has a list of instances, each a value for every input, or the
  value itself if there is one input; its column form has a list for each input.
  Values become tensors of the signature's types, in order of the instances.
  """
  body = json.loads(request)
  loaded = tf.saved_model.load(str(folder))  # holds the weights
  signature = loaded.signatures[body.get("signature_name", "serving_default")]
  specs = signature.structured_input_signature[1]
  if "inputs" in body:
    columns = {name: decoded(of) for name, of in body["inputs"].items()}
  else:
    rows = [
      row if isinstance(row, dict) and set(row) == set(specs) else None
      for row in body["instances"]
    ]
    if None in rows:
      (name,) = specs
      rows = [{name: row} for row in body["instances"]]
    columns = {name: [decoded(row[name]) for row in rows] for name in specs}
  found = signature(
    **{
      name: tf.constant(columns[name], spec.dtype)
      for name, spec in specs.items()
    }
  )
  arrays = {name: tensor.numpy() for name, tensor in found.items()}

  def listed(values):
    if values.dtype == object:
      return [value.decode() for value in values]
    return values.tolist()

  lists = {name: listed(values) for name, values in arrays.items()}
  if "inputs" in body:
    return json.dumps({"outputs": lists})
  (only, *others) = lists
  return json.dumps(
    {
      "predictions": [
        {name: of[row] for name, of in lists.items()}
        if others
        else lists[only][row]
        for row in range(len(lists[only]))
      ]
    }
  )


def test_the_request_of_the_page(run, tmp_path, monkeypatch):
  folder, model = run
  monkeypatch.chdir(tmp_path)
  os.rename(write_records(tmp_path / "a", RECORDS), "test0000.tfrecord")
  values = {}
  exec(blocks_with("b64encode"), values)
  answer = json.loads(
    answer_of_server(folder / "export" / "step_19", values["request"])
  )["predictions"]
  expected = wanted(model)
  assert [one["video_id"] for one in answer] == ["v0", "v1", "v2"]
  for one, probabilities in zip(answer, expected, strict=True):
    assert set(one) == {"video_id", "class_indexes", "predictions"}
    order = np.argsort(-probabilities, kind="stable")
    assert one["class_indexes"] == order.tolist()
    np.testing.assert_allclose(
      one["predictions"], probabilities[order], atol=1e-6
    )
  # The other two forms of the same request.
  texts = [one["example_bytes"] for one in values["instances"]]
  for request in (
    {"instances": texts},
    {"inputs": {"example_bytes": texts}},
  ):
    found = json.loads(
      answer_of_server(folder / "export" / "step_19", json.dumps(request))
    )
    rows = found.get("predictions")
    if rows is None:
      columns = found["outputs"]
      rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
      ]
    assert rows == answer


def test_numbers_in_a_request(run):
  folder, model = run
  frames = np.concatenate([VIDEOS[0]["rgb"], VIDEOS[0]["audio"]], axis=1)
  request = {
    "signature_name": "predict_arrays",
    "instances": [
      {"video_matrix": frames.tolist(), "num_frames": count} for count in (7, 3)
    ],
  }
  answer = json.loads(
    answer_of_server(folder / "export" / "step_19", json.dumps(request))
  )
  batch = {
    "video_matrix": np.stack([frames, frames]),
    "num_frames": np.array([7, 3], np.int32),
  }
  np.testing.assert_allclose(
    answer["predictions"], predict(model, batch), atol=1e-6
  )


# --------------------------------------------------------------------------
# Code and commands of the page


def test_the_code_for_saved_models_and_names(run, tmp_path, monkeypatch):
  folder, model = run
  monkeypatch.chdir(tmp_path)
  os.rename(write_records(tmp_path / "a", RECORDS), "test0000.tfrecord")
  code = blocks_with("tf.saved_model.load")
  code = code.replace("/tmp/yt8m_model", str(folder)).replace("1152", "7")
  values = {}
  exec(code, values)
  signature = values["served"].signatures["serving_default"]
  found = signature(example_bytes=values["records"])
  np.testing.assert_allclose(
    found["predictions"], -np.sort(-wanted(model)), atol=1e-6
  )
  exec(blocks_with("DictReader"), values)
  assert values["names"] == {index: f"name {index}" for index in range(6)}


def test_the_code_for_keras_files(run, tmp_path, monkeypatch):
  folder, model = run
  monkeypatch.chdir(tmp_path)
  in_process.run(
    "export_model",
    f"--train_dir={folder}",
    "--format=keras",
    f"--output_dir={tmp_path}",
    f"--input_data_pattern={write_records(tmp_path / 'a', RECORDS)}",
  )
  batch = np.random.default_rng(1).integers(256, size=(2, 6, 7))
  values = {
    "frames": batch.astype(np.uint8),
    "counts": np.array([6, 2], np.int32),
  }
  code = blocks_with("load_model")
  exec(code.replace("\nmodel(", "\nfound = model("), values)
  np.testing.assert_allclose(
    values["found"],
    predict(
      model,
      {"video_matrix": values["frames"], "num_frames": values["counts"]},
    ),
    atol=1e-6,
  )


@pytest.mark.slow
def test_tensorflow_s_own_tool_shows_and_runs_it(run, tmp_path):
  folder, model = run
  frames = np.random.default_rng(1).integers(256, size=(2, 6, 7))
  batch = {
    "video_matrix": frames.astype(np.uint8),
    "num_frames": np.array([6, 2], np.int32),
  }
  np.save(tmp_path / "frames.npy", batch["video_matrix"])
  np.save(tmp_path / "counts.npy", batch["num_frames"])
  shown = ""
  script = blocks_with("saved_model_cli run", "text")
  for command in script.replace("\\\n", " ").splitlines():
    command = command.replace("/tmp/yt8m_model", str(folder))
    tool = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    shown += subprocess.run(
      command.replace("saved_model_cli", tool, 1),
      shell=True,
      cwd=tmp_path,
      check=True,
      capture_output=True,
      text=True,
    ).stdout
  for text in ("example_bytes", "class_indexes", "num_frames", "DT_UINT8"):
    assert text in shown
  np.testing.assert_allclose(
    np.load(tmp_path / "answers" / "predictions.npy"),
    predict(model, batch),
    atol=1e-6,
  )


# --------------------------------------------------------------------------
# The table


def test_the_table_has_every_model_or_is_to_be_made():
  _, _, rest = PAGE.partition(benchmark._BEGIN)
  table, end, _ = rest.partition(benchmark._END)
  assert end
  names = set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) - {"model"}
  assert names <= set(models.class_names())
  warn_of_missing(set(models.class_names()) - names, "docs/export.md")


def test_the_formats_of_the_page_exist():
  rows = re.findall(r"^\| `(\w+)`", PAGE.partition("## ")[0], re.MULTILINE)
  assert rows == [
    export_model.SAVED_MODEL,
    *export_formats.FORMATS,
    export_model.ALL,
  ]


# --------------------------------------------------------------------------
# Other runtimes


@pytest.mark.slow
def test_the_others_in_an_environment_of_their_own():
  run_slow_tests("export", __file__)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "package"),
  [
    ("litert", "ai_edge_litert"),
    ("onnx", "onnxruntime"),
    ("openvino", "openvino"),
  ],
)
def test_the_code_for_other_runtimes(name, package, run, tmp_path, monkeypatch):
  try:
    export_formats.require_packages([name])
  except errors.UserError as error:
    pytest.skip(str(error))
  folder, model = run
  monkeypatch.chdir(tmp_path)
  in_process.run(
    "export_model",
    f"--train_dir={folder}",
    f"--format={name}",
    f"--output_dir={tmp_path}",
    f"--input_data_pattern={write_records(tmp_path / 'a', RECORDS)}",
  )
  frames = np.random.default_rng(1).integers(256, size=(2, 6, 7))
  batch = {
    "video_matrix": frames.astype(np.uint8),
    "num_frames": np.array([6, 2], np.int32),
  }
  expected = predict(model, batch)
  values = {"frames": batch["video_matrix"], "counts": batch["num_frames"]}
  if name == "litert":  # one video, all of whose frames are valid
    values = {"frames": batch["video_matrix"][0]}
    expected = expected[:1]
  code = blocks_with(f"import {package}" if name != "litert" else "Interpreter")
  code = code.replace("300", "10").replace("1152", "7")
  *lines, last = code.strip().splitlines()
  exec("\n".join([*lines, f"found = {last}"]), values)
  found = values["found"][0] if name == "onnx" else values["found"]
  np.testing.assert_allclose(found, expected, atol=1e-5)
