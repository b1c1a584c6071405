"""Every model gives the same on JAX and PyTorch as on TensorFlow.

Keras fixes its backend when it is imported, so the others run in separate
programs, see run_on_backend.py, with the Pythons that `make` puts into folders
of this environment.
"""

import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, make_once
from every_model import (
  CLASSES,
  NUM_FRAMES,
  dequantized,
  make_batch,
  make_model_flags,
  model_classes,
  predict,
)
from run_on_backend import loss_classes

import models

pytestmark = pytest.mark.slow

# Compiling all models for JAX takes minutes on a busy machine.
PATIENCE_SECONDS = 900

# float32 and a different order of sums; the largest difference seen was 6e-7.
TOLERANCE = 1e-5

LABELS = np.arange(CLASSES) % 2 == np.arange(len(NUM_FRAMES))[:, None] % 2


def weights_unlike_the_initial_ones(model) -> list:
  """Random weights; moving statistics and biases are not 0 or 1 either."""
  generator = np.random.default_rng(5)
  weights = []
  for weight in model.weights:
    values = weight.numpy() + generator.normal(scale=0.3, size=weight.shape)
    if "variance" in weight.path:
      values = abs(values) + 0.1
    weights.append(values.astype(np.float32))
  return weights


# Besides all models: those that do something else with exclusive classes than
# another softmax, and presets whose networks differ from the default in more
# than sizes.
MORE_CASES = (
  "MoeModel-exclusive",
  "RandomFrameModel-exclusive",
  "MixNextVladModel-exclusive",
  "BiLstmModel-thesis",
  "StreamLstmModel-thesis",
  "NnStreamLstmModel-thesis",
  "LstmModel-published",
)


def case_names() -> list[str]:
  """The names of all models, and MORE_CASES."""
  return [*(each.__name__ for each in model_classes()), *MORE_CASES]


def make_case(name):
  """A model's flags, weights and inputs, and TensorFlow's results for them.

  Args:
    name: one of case_names.

  Returns:
    ({name: array} for run_on_backend.py, {name: expected array}).
  """
  random.seed(1)  # of Keras's initializers
  model_name, _, variant = name.partition("-")
  exclusive = variant == "exclusive"
  model_flags = make_model_flags(
    models.find_class_by_name(model_name), "" if exclusive else variant
  )
  if exclusive:
    model_flags["exclusive_classes"] = True
  if name == "FrameLevelLogisticModel":
    model_flags["feature_ranges"] = "-1:3,"  # and YouTube-8M's own
    model_flags["input_transform"] = "dewhiten"
    model_flags["dewhiten_scales"] = [[], [0.5, 1.5, 2.0, 0.25]]
  elif name in ("LogisticModel", "LstmModel"):
    model_flags["input_transform"] = "none"
  batch = make_batch(model_flags)
  batches = {"floats": batch}
  if model_flags["frame_features"]:
    without_frames = np.where(np.arange(len(NUM_FRAMES)) == 2, 0, NUM_FRAMES)
    batches = {
      "floats": {
        **dequantized(batch),
        "num_frames": without_frames.astype(np.int32),
      },
      "bytes": batch,
    }
  case = {
    "model_flags": json.dumps(model_flags),
    "kinds": json.dumps(list(batches)),
    "labels": LABELS,
  }
  expected = {}
  weights = None
  for kind, batch in batches.items():
    model = models.build_model(model_flags, quantized=kind == "bytes")
    weights = weights or weights_unlike_the_initial_ones(model)
    model.set_weights(weights)
    expected[f"predictions_{kind}"] = predictions = predict(model, batch)
    case.update({f"{kind}_{name}": batch[name] for name in batch})
  for number, values in enumerate(weights):
    case[f"weight_{number:03}"] = values
  case["predictions"] = predictions
  for loss_class in loss_classes():
    loss = loss_class().calculate_loss(predictions, LABELS)
    expected[f"loss_{loss_class.__name__}"] = loss.numpy()
  return case, expected


def make_cases(folder) -> None:
  """Writes the result of make_case for each model to cases/ and expected/."""
  for name in ("cases", "expected"):
    (folder / name).mkdir()
  for case_name in case_names():
    case, expected = make_case(case_name)
    np.savez(folder / "cases" / case_name, **case)
    np.savez(folder / "expected" / case_name, **expected)


@contextlib.contextmanager
def on_one_core():
  """Runs what the block starts on one core; other tests use the other cores.

  Next to a compiler on all cores, 60 small steps of TensorFlow took 57 s
  instead of 2 s.
  """
  if not hasattr(os, "sched_setaffinity"):  # not on Linux
    yield
    return
  cores = os.sched_getaffinity(0)  # of this thread; its processes inherit them
  os.sched_setaffinity(0, {max(cores)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
  """The folder that make_cases writes."""
  return make_once(tmp_path_factory, "backend_cases", make_cases)


@pytest.fixture(scope="module", params=["jax", "torch"])
def results(request, cases, tmp_path_factory):
  """The folder with what run_on_backend.py has written for all models."""
  backend = request.param
  python = pathlib.Path(sys.prefix) / backend / "bin" / "python"
  if not python.exists():
    message = f"{python} is missing; `make test-backends` makes it"
    if backend in os.environ.get("YT8M_BACKENDS", "").split():
      pytest.fail(message)
    pytest.skip(message)

  def make(folder):
    (folder / "cases").symlink_to(cases / "cases")
    (folder / "results").mkdir()
    with on_one_core():
      program = subprocess.Popen(
        [python, REPOSITORY / "tests" / "run_on_backend.py", folder],
        env={
          **os.environ,
          "KERAS_BACKEND": backend,
          "PYTHONPATH": str(REPOSITORY),
          # A GPU rounds differently.
          "CUDA_VISIBLE_DEVICES": "",
          # Each graph runs once, so optimizing it is not worth the time.
          "XLA_FLAGS": "--xla_backend_optimization_level=0"
          " --xla_llvm_disable_expensive_passes=true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    with program:
      try:
        output, _ = program.communicate(timeout=PATIENCE_SECONDS)
      except subprocess.TimeoutExpired:
        program.kill()
        raise
    assert program.returncode == 0, output

  return make_once(tmp_path_factory, backend, make) / "results"


def load(path) -> dict:
  """The arrays of an .npz file, by name."""
  with np.load(path) as arrays:
    return dict(arrays)


@pytest.mark.parametrize("name", case_names())
def test_a_model_is_the_same_on_another_backend(name, results, cases):
  failure = results / f"{name}.txt"
  assert not failure.exists(), failure.read_text()
  received = load(results / f"{name}.npz")
  for key, values in load(cases / "expected" / f"{name}.npz").items():
    np.testing.assert_allclose(
      received.pop(key), values, atol=TOLERANCE, err_msg=key
    )
  # Dropout and sampling draw other numbers there.
  for key, values in received.items():
    assert np.isfinite(values).all(), key
  predictions = received.pop("training_predictions")
  assert predictions.shape == LABELS.shape
  assert received.pop("training_loss") > 0.0
  assert max(abs(gradient).max() for gradient in received.values()) > 1e-3


def test_the_weights_matter(cases):
  # Otherwise all models would agree on all backends.
  for path in (cases / "expected").iterdir():
    for key, values in load(path).items():
      if key.startswith("predictions_"):
        assert values.std(axis=0).max() > 100 * TOLERANCE, (path, key)
