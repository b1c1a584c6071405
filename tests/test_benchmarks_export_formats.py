"""Tests of benchmarks/export_formats.py."""

import os

import numpy as np

import models
from benchmarks import export_formats as benchmark
from docs.between_marks import replaced
from engine import export, export_formats

RESULTS = {
  "AModel": {
    "saved_model": "0",
    "keras": "1e-08",
    "litert": "It has no loop. Name another.",
    "onnx": "2e-07",
    "openvino": "Too large.",
  },
  "BModel": {
    "saved_model": "0",
    "keras": "0",
    "litert": "Too large.",
    "onnx": "It has no loop. Name another.",
    "openvino": "3e-07",
  },
}
TABLE = """\
| model | saved_model | keras | litert | onnx | openvino |
|---|---|---|---|---|---|
| AModel | 0 | 1e-08 | no (1) | 2e-07 | no (2) |
| BModel | 0 | 0 | no (2) | no (1) | 3e-07 |

1. It has no loop. Name another.
2. Too large."""


def test_reasons_are_numbered_below_the_table():
  assert benchmark.make_table(RESULTS) == TABLE


def test_the_machine_and_the_versions_stand_below_the_table(monkeypatch):
  monkeypatch.setattr(
    benchmark.machine,
    "describe_machine",
    lambda: {"cores": 2, "cpu": "AMD EPYC"},
  )
  monkeypatch.setattr(benchmark.metadata, "version", lambda name: "1.2")
  text = benchmark.describe()
  assert max(map(len, text.splitlines())) <= 80
  assert " ".join(text.split()) == (
    "Made on 2 cores of AMD EPYC with tensorflow 1.2, keras 1.2, ai-edge-litert"
    " 1.2, onnxruntime 1.2, tf2onnx 1.2, openvino 1.2, by `python -m"
    " benchmarks.export_formats`."
  )


def test_models_are_small_and_fit_the_sample_data():
  for name in ("NetVladModel", "LogisticModel", "StreamLstmModel"):
    model_flags = benchmark.small_flags(name)
    model = models.build_model(model_flags)
    assert model.count_params() < 1e6
    assert model.input["video_matrix"].shape[-1] == 1152
  assert benchmark.small_flags("NetVladModel")["netvlad_cluster_size"] == 16
  sizes = benchmark.small_flags("AttentionLstmModel")["attention_hidden_sizes"]
  assert sizes == "16,16"


def test_what_a_model_gives_in_each_format(monkeypatch):
  def fail(*_):
    raise RuntimeError("no loop")

  keras = export_formats.FORMATS["keras"]
  formats = {"keras": keras, "onnx": keras._replace(write=fail)}
  monkeypatch.setattr(export_formats, "FORMATS", formats)
  exporter = export.Exporter(benchmark.small_flags("LogisticModel"))
  before = exporter.model.get_weights()
  benchmark.randomize(exporter.model)
  for old, new in zip(before, exporter.model.get_weights(), strict=True):
    assert abs(old - new).mean() > 0.01
  matrix = np.random.default_rng(0).normal(size=(2, 1152)).astype(np.float32)
  batch = {"video_matrix": matrix, "num_frames": np.ones(2, np.int32)}
  found = benchmark.try_formats(exporter, batch)
  assert set(found) == {"saved_model", "keras", "onnx"}
  assert found["saved_model"] == "0"
  assert float(found["keras"]) < 1e-6
  assert "no loop" in found["onnx"]
  assert os.path.exists(benchmark._PAGE)


def test_the_page_has_the_marks():
  page = benchmark._PAGE.read_text()
  before, after = page.split(benchmark._BEGIN)[0], page.split(benchmark._END)[1]
  new = replaced(page, benchmark._BEGIN, benchmark._END, "\nnew\n")
  assert new == (
    f"{before}{benchmark._BEGIN}\n\nnew\n\n{benchmark._END}{after}"
  )
