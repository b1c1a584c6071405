"""Tests of engine.export_formats.

Those that need LiteRT, ONNX and OpenVINO run in an environment of their own.
"""

import inspect
import os
import pkgutil
import sys

import every_model
import keras
import numpy as np
import pytest
import tensorflow as tf
from own_environment import run_slow_tests
from saved_models import VIDEO_FLAGS

import errors
import layers
import models
from engine import export, export_formats

RANGES = {"feature_ranges": "-1:9,", "input_transform": "none"}
DEWHITENED = {
  "input_transform": "dewhiten",
  "dewhiten_scales": [list(np.linspace(0.5, 3.0, 12)), []],
}
SOFTMAX = {
  "exclusive_classes": True,
  "label_loss": "CategoricalCrossEntropyLoss",
}


def case(name, **changes) -> dict:
  """The flags of a small model, {} for a preset's or others."""
  return every_model.make_model_flags(
    models.find_class_by_name(name), **changes
  )


CASES = {
  **{
    each.__name__: case(each.__name__) for each in every_model.model_classes()
  },
  "ranges": case("FrameLevelLogisticModel", **RANGES),
  "dewhitened": case("TransformerModel", **DEWHITENED),
  "softmax of frames": case("RandomFrameModel", **SOFTMAX),
  "softmax of experts": case("MoeModel", **SOFTMAX),
  "whole videos as they are": case("DeepNnModel", input_transform="none"),
}
OTHER_RUNTIMES = ("litert", "onnx", "openvino")
# What docs/export.md says "no" to, and why.
REFUSED = {
  ("LatentPoolingModel", "onnx"): "there is no Erfc in it",
  ("RandomFrameModel", "litert"): "tfl.batch_matmul failed to verify",
  ("TransformerModel", "onnx"): "there is no Erfc in it",
}


@pytest.fixture
def format_name(request) -> str:
  """The name of a format whose packages are installed."""
  try:
    export_formats.require_packages([request.param])
  except errors.UserError as error:
    pytest.skip(str(error))
  return request.param


def randomize(model) -> None:
  """Random weights; moving statistics and biases are not 0 or 1 either."""
  generator = np.random.default_rng(5)
  for weight in model.weights:
    if weight.dtype == "float32":
      values = weight.numpy()
      values = values + generator.normal(scale=0.3, size=values.shape)
      if "variance" in weight.path:
        values = abs(values) + 0.1
      weight.assign(values)


def make_exporter(model_flags) -> export.Exporter:
  exporter = export.Exporter(model_flags)
  randomize(exporter.model)
  return exporter


def directly(exporter, batch):
  """What the Keras model predicts, without any export."""
  return every_model.predict(exporter.model, batch)


def expect(name, exporter, batch, path) -> None:
  """Exports a model and asks what was written, apart from the exporter."""
  exported = export_formats.export(name, exporter, str(path), batch)
  assert exported.difference <= 1e-5
  assert exported.num_bytes > 100
  assert exported.videos_per_second > 0
  predict = export_formats.FORMATS[name].load(str(path), exporter)
  np.testing.assert_allclose(
    predict(batch), directly(exporter, batch), atol=1e-5
  )
  # Padding does not count, and no video depends on the others.
  if batch["video_matrix"].ndim == 3:
    one = every_model.rows(batch, slice(1, 2))
    assert one["num_frames"][0] == 4
    alone = {**one, "video_matrix": one["video_matrix"][:, :4]}
    np.testing.assert_allclose(
      predict(alone), directly(exporter, batch)[1:2], atol=1e-5
    )


# --------------------------------------------------------------------------
# Keras files


# One for each kind of layers; the others take a minute.
QUICK = (
  "AttentionClusterModel",
  "LstmModel",
  "MoeModel",
  "dewhitened",
  "softmax of frames",
)


@pytest.mark.parametrize(
  "name",
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in CASES
  ],
)
def test_a_keras_file_answers_as_the_model_does(name, tmp_path):
  model_flags = CASES[name]
  exporter = make_exporter(model_flags)
  batch = every_model.make_batch(model_flags)
  path = tmp_path / "model.keras"
  export_formats.export("keras", exporter, str(path), batch)
  loaded = keras.models.load_model(path, compile=False)
  wanted = {"video_matrix", "num_frames"}
  assert set(loaded.input) == (
    wanted if model_flags["frame_features"] else {"video_matrix"}
  )
  inputs = {key: batch[key] for key in loaded.input}
  np.testing.assert_allclose(
    loaded(inputs, training=False)["predictions"].numpy(),
    directly(exporter, batch),
    atol=1e-6,
  )
  assert os.listdir(tmp_path) == ["model.keras"]


def test_all_layers_can_be_saved():
  modules = [
    __import__(f"layers.{found.name}", fromlist=["layers"])
    for found in pkgutil.iter_modules(layers.__path__)
  ]
  found = {
    value
    for module in [*modules, *models.import_model_files()]
    for value in vars(module).values()
    if inspect.isclass(value)
    and issubclass(value, keras.layers.Layer)
    and value.__module__ == module.__name__
    and not value.__name__.startswith("_")
  }
  assert len(found) > 15
  # These are base classes, or only for training.
  unsaved = {"MaskedLayer", "Distillation"}
  for layer in found:
    is_registered = ">" in keras.saving.get_registered_name(layer)
    assert is_registered != (layer.__name__ in unsaved), layer


def test_float16_is_refused_where_the_format_has_none(tmp_path):
  exporter = make_exporter(VIDEO_FLAGS)
  batch = {
    "video_matrix": np.ones((2, 8), np.float32),
    "num_frames": np.ones(2, np.int32),
  }
  with pytest.raises(errors.UserError, match="store weights in float16"):
    export_formats.export(
      "keras", exporter, str(tmp_path / "model.keras"), batch, float16=True
    )
  assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------
# What is written, and what is not


@pytest.fixture(scope="module")
def exporter():
  """Has a small model."""
  return make_exporter(CASES["LogisticModel"])


BATCH = every_model.make_batch(CASES["LogisticModel"])


def with_answer(monkeypatch, answer) -> None:
  """Lets the format keras answer something else, and ignore --float16."""
  form = export_formats.FORMATS["keras"]
  changed = form._replace(
    write=lambda exporter, folder, float16: form.write(exporter, folder, False),
    load=lambda *_: answer,
  )
  monkeypatch.setitem(export_formats.FORMATS, "keras", changed)


def test_a_wrong_answer_is_refused_and_nothing_is_replaced(
  exporter, tmp_path, monkeypatch
):
  path = tmp_path / "model.keras"
  path.write_text("old")
  expected = directly(exporter, BATCH)
  wrong = expected + np.float32(3e-5) * (np.arange(5) == 2)
  with_answer(monkeypatch, lambda batch: wrong)
  with pytest.raises(errors.UserError) as caught:
    export_formats.export("keras", exporter, str(path), BATCH)
  assert "differ by up to 3e-05, more than 1e-05" in str(caught.value)
  assert os.listdir(tmp_path) == ["model.keras"]
  assert path.read_text() == "old"

  with_answer(monkeypatch, lambda batch: expected + np.float32(5e-6))
  found = export_formats.export("keras", exporter, str(path), BATCH)
  assert found.difference == pytest.approx(5e-6, rel=0.05)
  assert found.num_bytes == path.stat().st_size > 1000


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_in_float16_any_finite_difference_is_accepted(
  wrong, exporter, tmp_path, monkeypatch
):
  path = str(tmp_path / "model.keras")
  answer = directly(exporter, BATCH) + np.float32(0.1)
  with_answer(monkeypatch, lambda batch: answer)
  found = export_formats.export("keras", exporter, path, BATCH, float16=True)
  assert found.difference == pytest.approx(0.1, rel=1e-3)
  os.remove(path)
  answer[0, 1] = wrong
  with pytest.raises(errors.UserError, match="differ by up to inf"):
    export_formats.export("keras", exporter, path, BATCH, float16=True)
  assert os.listdir(tmp_path) == []


def test_weights_that_float16_cannot_hold_are_refused(tmp_path, monkeypatch):
  exporter = make_exporter(CASES["LogisticModel"])
  with_answer(monkeypatch, lambda batch: directly(exporter, batch))
  kernel = next(one for one in exporter.model.weights if len(one.shape) == 2)
  kernel.assign(kernel.numpy() + 7e4)
  path = str(tmp_path / "model.keras")
  with pytest.raises(errors.UserError, match="up to 65504") as caught:
    export_formats.export("keras", exporter, path, BATCH, float16=True)
  assert kernel.path in str(caught.value)
  assert os.listdir(tmp_path) == []


def test_what_a_runtime_says_is_one_line(exporter, tmp_path, monkeypatch):
  def fail(batch):
    raise RuntimeError("\n  no such kernel.\n  at line 3\n")

  with_answer(monkeypatch, fail)
  with pytest.raises(errors.UserError) as caught:
    export_formats.export("keras", exporter, str(tmp_path / "a"), BATCH)
  assert str(caught.value) == (
    "Expected a model that keras can hold, received one that it cannot: no such"
    " kernel. Name another --format."
  )
  assert os.listdir(tmp_path) == []


def test_operations_that_are_lacking_are_named():
  error = ValueError(
    "<unknown>:0: error: loc(fused): 'tf.While' op is neither a custom op nor"
    " a flex op\n... 'tf.Erf' op is neither a custom op nor a flex op\n"
    "'tf.While' op is neither a custom op nor a flex op"
  )
  assert export_formats.reason_of(error) == "there is no tf.Erf, tf.While in it"
  assert export_formats.reason_of(ValueError()) == "ValueError"
  error = RuntimeError(
    "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from a/b.onnx"
    " failed:This is an invalid model. Error No Op registered for Erfc with"
    " domain_version of 15"
  )
  assert export_formats.reason_of(error) == "there is no Erfc in it"
  error = RuntimeError(
    '<unknown>:0: error: loc(fused["MatMul:", "a/while"]): \'tfl.batch_matmul\''
    " op failed to verify that operand 0 is 2-D\nmore"
  )
  assert (
    export_formats.reason_of(error)
    == "tfl.batch_matmul failed to verify that operand 0 is 2-D"
  )


def test_other_files_are_not_replaced(exporter, tmp_path):
  (tmp_path / "notes.txt").write_text("notes")
  for name in ("keras", "openvino"):
    with pytest.raises(errors.UserError, match="free to be written to"):
      export_formats.export(name, exporter, str(tmp_path), BATCH)
  with pytest.raises(errors.UserError, match="a pipe or a device"):
    export_formats.export("keras", exporter, "/dev/null", BATCH)
  with pytest.raises(errors.UserError, match="a local --output_dir"):
    export_formats.export("keras", exporter, "gs://bucket/model", BATCH)
  assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_folder_with_other_files_besides_is_not_replaced(tmp_path):
  for name in ("model.xml", "model.bin", ".DS_Store"):
    (tmp_path / name).touch()
  export_formats._check_path("openvino", str(tmp_path))
  (tmp_path / "notes.txt").touch()
  with pytest.raises(errors.UserError, match="a folder with other files"):
    export_formats._check_path("openvino", str(tmp_path))


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "openvino", None)
  with pytest.raises(errors.UserError) as caught:
    export_formats.require_packages(["keras", "openvino"])
  assert "the package openvino" in str(caught.value)
  assert "pip install -r requirements/export.txt" in str(caught.value)
  export_formats.require_packages(["keras"])


def test_the_largest_difference():
  one = np.array([[0.1, np.nan], [0.5, 0.2]], np.float32)
  other = np.array([[0.1, np.nan], [0.25, 0.2]], np.float32)
  assert export_formats.largest_difference(one, other) == 0.25
  other[1, 1] = np.nan
  assert export_formats.largest_difference(one, other) == np.inf
  other[1, 1] = -np.inf
  assert export_formats.largest_difference(one, other) == np.inf
  assert export_formats.largest_difference(one, one[:1]) == np.inf


# --------------------------------------------------------------------------
# SavedModels


def test_a_saved_model_is_asked_too(exporter, tmp_path):
  path = tmp_path / "served"
  found = export_formats.export_saved_model(exporter, str(path), BATCH)
  assert found.difference == 0.0
  assert found.num_bytes == sum(
    one.stat().st_size for one in path.rglob("*") if one.is_file()
  )
  narrow = export_formats.export_saved_model(
    exporter, str(path), BATCH, float16=True
  )
  assert 1e-6 < narrow.difference < 1e-2
  unasked = export_formats.export_saved_model(exporter, str(path), None)
  assert unasked.difference is unasked.videos_per_second is None


def test_a_saved_model_that_the_disk_does_not_give_is_a_fault(
  tmp_path, monkeypatch
):
  """As TensorFlow says it."""

  def fail(path):
    raise AssertionError("Some objects had attributes which were not restored:")

  monkeypatch.setattr(tf.saved_model, "load", fail)
  with pytest.raises(errors.MachineError) as error:
    export_formats.export_saved_model(
      export.Exporter(VIDEO_FLAGS), str(tmp_path / "out"), BATCH
    )
  assert f"read back the SavedModel {tmp_path}/out, found no" in str(
    error.value
  )
  assert (tmp_path / "out" / "saved_model.pb").exists()


# --------------------------------------------------------------------------
# Other runtimes


@pytest.mark.slow
def test_the_others_in_an_environment_of_their_own():
  run_slow_tests("export", __file__)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", OTHER_RUNTIMES, indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_a_runtime_answers_as_the_model_does(name, format_name, tmp_path):
  model_flags = CASES[name]
  path = tmp_path / export_formats.FORMATS[format_name].path
  exporter = make_exporter(model_flags)
  batch = every_model.make_batch(model_flags)
  reason = REFUSED.get((model_flags["model"], format_name))
  if reason:
    with pytest.raises(errors.UserError, match=reason):
      export_formats.export(format_name, exporter, str(path), batch)
    assert os.listdir(tmp_path) == []
  else:
    expect(format_name, exporter, batch, path)
    assert os.listdir(tmp_path) == [path.name]
  # OpenVINO has not sent what was converted to anybody.
  assert sys.modules.get("openvino_telemetry") is None


@pytest.mark.slow
@pytest.mark.parametrize("format_name", OTHER_RUNTIMES, indirect=True)
def test_float16_halves_the_size(format_name, tmp_path):
  model_flags = case("GruModel", gru_cells=200)
  exporter = make_exporter(model_flags)
  batch = every_model.make_batch(model_flags)
  path = str(tmp_path / export_formats.FORMATS[format_name].path)
  wide = export_formats.export(format_name, exporter, path, batch)
  narrow = export_formats.export(format_name, exporter, path, batch, True)
  assert 0.4 < narrow.num_bytes / wide.num_bytes < 0.6
  assert 1e-6 < narrow.difference < 1e-2
  predict = export_formats.FORMATS[format_name].load(path, exporter)
  difference = abs(predict(batch) - directly(exporter, batch)).max()
  assert difference == pytest.approx(narrow.difference, abs=1e-5)
