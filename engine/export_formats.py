"""Models in the formats of other runtimes, asked for predictions there.

FORMATS has them by name. Each has the inputs of the signature predict_arrays of
a SavedModel, video_matrix and, at frame level, num_frames, and the output
predictions:

  keras     a Keras file, which is loaded where this repository is
  litert    a LiteRT model of one video at a time, of up to max_frames frames
  onnx      an ONNX model
  openvino  a folder with model.xml and model.bin

What was written counts only if its runtime answers as the SavedModel does.
"""

import contextlib
import importlib
import os
import re
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

import errors
from engine import files, half_weights, local_files, plain_errors
from engine.data_files import is_local
from engine.export import Exporter
from layers import recurrent

TOLERANCE = 1e-5
"""The largest difference of a probability from the SavedModel's."""

REQUIREMENTS = "requirements/export.txt"

Batch = dict[str, np.ndarray]
Predict = Callable[[Batch], np.ndarray]

# LiteRT takes no number of threads that adapts to the machine.
_LITERT_THREADS = os.cpu_count() or 1

# What TensorFlow's converter says about operations that LiteRT lacks, or has in
# another form, and what ONNX Runtime says.
_LITERT_LACKS = re.compile(r"'(tf\.\w+)' op is neither a custom op nor a flex")
_LITERT_REFUSES = re.compile(r"'(\w+\.\w+)' op (failed to .+)")
_ONNX_LACKS = re.compile(r"No Op registered for (\w+)")


class Format(typing.NamedTuple):
  """How to write a model, and how to load it in its runtime.

  Attributes:
    path: file or folder, in the folder of all formats.
    marker: a file that a folder of this format has; empty for a file.
    packages: modules that writing and loading need, besides TensorFlow.
    write: function of the exporter, a new folder to write to, and whether
      weights are stored in float16.
    load: function of the path and the exporter.
  """

  path: str
  marker: str
  packages: tuple[str, ...]
  write: Callable[[Exporter, str, bool], None]
  load: Callable[[str, Exporter], Predict]


class Exported(typing.NamedTuple):
  """What was written.

  Attributes:
    path: file or folder.
    num_bytes: its size.
    difference: the largest from the SavedModel's probabilities in float32; None
      if there were no videos to ask for.
    videos_per_second: that it predicts; likewise.
  """

  path: str
  num_bytes: int
  difference: float | None
  videos_per_second: float | None


# --------------------------------------------------------------------------
# What the formats share


def _predicting_model(exporter: Exporter) -> keras.Model:
  """The model without the outputs that only training needs.

  Whole videos have no frames to count, so at video level it has no num_frames.
  """
  model = exporter.model
  inputs = model.input
  if not exporter.model_flags["frame_features"]:
    inputs = {"video_matrix": inputs["video_matrix"]}
  outputs = {"predictions": model.output["predictions"]}
  return keras.Model(inputs, outputs, name=model.name)


def _signature(model: keras.Model, videos=None, frames=None) -> list[dict]:
  """What a model takes, for Model.export.

  Args:
    model: result of _predicting_model.
    videos: how many; None for any number.
    frames: likewise.
  """
  return [
    {
      name: keras.InputSpec(
        shape=(videos, *(size or frames for size in tensor.shape[1:])),
        dtype=tensor.dtype,
        name=name,
      )
      for name, tensor in model.input.items()
    }
  ]


def _fitting(batch: Batch, names: Iterable[str]) -> Batch:
  """The entries of a batch that a model takes."""
  return {name: batch[name] for name in names}


def _import(name: str) -> typing.Any:
  """Imports a package of REQUIREMENTS.

  Raises:
    errors.UserError: it is not installed, or does not run here.
  """
  if name == "openvino":
    # It would send statistics of each conversion over the network.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise errors.UserError(
      f"Expected the package {name.partition('.')[0]} to export to this format,"
      f" received: {error}. Use: pip install -r {REQUIREMENTS}"
    ) from error


def require_packages(names: Iterable[str]) -> None:
  """Imports what formats need; programs ask for it before long work.

  Args:
    names: of FORMATS.

  Raises:
    errors.UserError: a package is not installed.
  """
  for name in names:
    for package in FORMATS[name].packages:
      _import(package)


# --------------------------------------------------------------------------
# Keras


def _write_keras(exporter: Exporter, folder: str, float16: bool) -> None:
  if float16:
    raise errors.UserError(
      "Expected a format that can store weights in float16, received keras,"
      " whose weights have the dtype that the model computes in. Leave"
      " --float16 out, or name another --format."
    )
  _predicting_model(exporter).save(os.path.join(folder, "model.keras"))


def _load_keras(path: str, exporter: Exporter) -> Predict:
  del exporter
  model = keras.models.load_model(path, compile=False, safe_mode=True)
  predict = tf.function(
    lambda inputs: model(inputs, training=False)["predictions"]
  )
  return lambda batch: predict(_fitting(batch, model.input)).numpy()


# --------------------------------------------------------------------------
# LiteRT


def _write_litert(exporter: Exporter, folder: str, float16: bool) -> None:
  model = _predicting_model(exporter)
  frames = exporter.model_flags["max_frames"]
  # Without TensorFlow's own operations, which the runtime does not have. They
  # would be needed for loops over frames whose number is not known.
  target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
  options = {}
  if float16:
    target["supported_types"] = [tf.float16]
    options["optimizations"] = [tf.lite.Optimize.DEFAULT]
  with recurrent.keras_loops():
    model.export(
      os.path.join(folder, "model.tflite"),
      format="litert",
      verbose=False,
      input_signature=_signature(model, 1, frames),
      target_spec=target,
      **options,
    )


def _load_litert(path: str, exporter: Exporter) -> Predict:
  library = _import("ai_edge_litert.interpreter")
  interpreter = library.Interpreter(path, num_threads=_LITERT_THREADS)
  runner = interpreter.get_signature_runner()
  names = runner.get_input_details()
  length = exporter.model_flags["max_frames"]

  def predict(batch):
    batch = _fitting(batch, names)
    matrix = batch["video_matrix"]
    if matrix.ndim == 3:
      missing = length - matrix.shape[1]
      batch["video_matrix"] = np.pad(matrix, ((0, 0), (0, missing), (0, 0)))
    return np.concatenate(
      [
        runner(**{name: of[row : row + 1] for name, of in batch.items()})[
          "predictions"
        ]
        for row in range(len(matrix))
      ]
    )

  return predict


# --------------------------------------------------------------------------
# ONNX


def _write_onnx(exporter: Exporter, folder: str, float16: bool) -> None:
  path = os.path.join(folder, "model.onnx")
  model = _predicting_model(exporter)
  with recurrent.keras_loops():
    model.export(
      path, format="onnx", verbose=False, input_signature=_signature(model)
    )
  if float16:
    onnx = _import("onnx")
    written = onnx.load(path)
    _store_in_float16(onnx, written.graph)
    onnx.save(written, path)


def _store_in_float16(onnx, graph) -> None:
  """Replaces matrices in float32 by narrow ones that are cast when it runs."""
  casts = []
  for weight in graph.initializer:
    if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2:
      continue
    name = weight.name
    values = half_weights.to_half(onnx.numpy_helper.to_array(weight), name)
    stored = f"{name}_float16"
    weight.CopyFrom(onnx.numpy_helper.from_array(values, stored))
    casts.append(
      onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT)
    )
  nodes = [*casts, *graph.node]
  del graph.node[:]
  graph.node.extend(nodes)


def _load_onnx(path: str, exporter: Exporter) -> Predict:
  del exporter
  session = _import("onnxruntime").InferenceSession(
    path, providers=["CPUExecutionProvider"]
  )
  names = [one.name for one in session.get_inputs()]
  return lambda batch: session.run(["predictions"], _fitting(batch, names))[0]


# --------------------------------------------------------------------------
# OpenVINO


def _write_openvino(exporter: Exporter, folder: str, float16: bool) -> None:
  openvino = _import("openvino")
  model = _predicting_model(exporter)
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
    path = os.path.join(temporary, "model.xml")
    with recurrent.keras_loops():
      model.export(
        path,
        format="openvino",
        verbose=False,
        input_signature=_signature(model),
      )
    converted = openvino.Core().read_model(path)
    converted.outputs[0].tensor.set_names({"predictions"})
    openvino.save_model(
      converted,
      os.path.join(folder, "openvino", "model.xml"),
      compress_to_fp16=float16,
    )
    # It reads the weights from the temporary folder.
    del converted


def _load_openvino(path: str, exporter: Exporter) -> Predict:
  del exporter
  openvino = _import("openvino")
  # On some processors it would compute in bfloat16 otherwise.
  compiled = openvino.Core().compile_model(
    os.path.join(path, "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
  )
  names = [one.any_name for one in compiled.inputs]
  return lambda batch: compiled(_fitting(batch, names))["predictions"]


FORMATS: dict[str, Format] = {
  "keras": Format("model.keras", "", (), _write_keras, _load_keras),
  "litert": Format(
    "model.tflite",
    "",
    ("ai_edge_litert.interpreter",),
    _write_litert,
    _load_litert,
  ),
  "onnx": Format(
    "model.onnx",
    "",
    ("tf2onnx", "onnx", "onnxruntime"),
    _write_onnx,
    _load_onnx,
  ),
  # Keras's OpenVINO backend, of which its export takes a table, needs SciPy.
  "openvino": Format(
    "openvino",
    "model.xml",
    ("openvino", "scipy"),
    _write_openvino,
    _load_openvino,
  ),
}


# --------------------------------------------------------------------------
# Writing and checking


def export(
  name: str,
  exporter: Exporter,
  path: str,
  batch: Batch,
  float16: bool = False,
) -> Exported:
  """Writes a model in a format, if its runtime answers as the SavedModel does.

  Args:
    name: of FORMATS.
    exporter: has the model.
    path: file or folder to write.
    batch: video_matrix and num_frames of some videos, as the model takes them.
    float16: whether to store weights in float16. Any finite difference is
      accepted.

  Returns:
    What was written.

  Raises:
    errors.UserError: the format cannot hold the model, its runtime cannot
      compute it or answers otherwise, weights are too large for float16, or the
      path is in use. Nothing is written.
  """
  form = FORMATS[name]
  _check_path(name, path)
  if float16:
    # Refuses weights that some converters would make infinite.
    half_weights.to_store(exporter.model)
  # What a link points to is replaced, and not the link.
  target = local_files.target_of(path)
  with files.beside(target) as aside:
    os.makedirs(aside)
    written = os.path.join(aside, form.path)
    with _refusing(name):
      form.write(exporter, aside, float16)
      predict = form.load(written, exporter)
      predictions = predict(batch)
      difference = largest_difference(predictions, exporter.predict(batch))
      if not np.isfinite(difference) or (
        difference > TOLERANCE and not float16
      ):
        raise errors.UserError(
          f"Expected {name} to answer as the SavedModel does, received"
          f" probabilities that differ by up to {difference:.2g}, more than"
          f" {TOLERANCE:g}. Name another --format."
        )
      rate = videos_per_second(predict, batch)
    if os.path.isdir(target):
      files.replace_folder(written, target)
    else:
      files.put_in_place(written, target)
  return Exported(path, files.size_of(path), difference, rate)


def _read_back(path: str):
  """Loads a SavedModel that has just been written; see export_saved_model."""
  try:
    return tf.saved_model.load(path)
  # To TensorFlow, an index that the disk does not give has no weights.
  except (AssertionError, IndexError) as error:
    raise errors.MachineError(
      f"Expected to read back the SavedModel {path}, found no weights in it:"
      " the disk has failed. Check it and its connection; then start the same"
      " command again."
    ) from error


def export_saved_model(
  exporter: Exporter, path: str, batch: Batch | None, float16: bool = False
) -> Exported:
  """Writes a SavedModel, and asks it for predictions.

  Args:
    exporter: has the model.
    path: folder for it; replaced if it holds one.
    batch: see export; None for no videos.
    float16: see export.

  Returns:
    What was written.

  Raises:
    errors.UserError: see Exporter.save.
    errors.MachineError: it cannot be read back.
  """
  exporter.save(path, float16)
  if batch is None:
    return Exported(path, files.size_of(path), None, None)
  served = _read_back(path)

  def predict(batch):
    arrays = {name: tf.constant(values) for name, values in batch.items()}
    return served.signatures["predict_arrays"](**arrays)["predictions"].numpy()

  difference = largest_difference(predict(batch), exporter.predict(batch))
  rate = videos_per_second(predict, batch)
  return Exported(path, files.size_of(path), difference, rate)


def _check_path(name: str, path: str) -> None:
  """Checks that a file or folder can be written or replaced.

  Raises:
    errors.UserError: it is remote, or a folder of other files.
  """
  if not is_local(path):
    raise errors.UserError(
      f"Expected a local --output_dir for --format={name}, received {path}."
      " Export to a local folder, then copy it."
    )
  if local_files.is_stream(path):
    raise errors.UserError(
      f"Expected a name that is free to be written to, received {path}, a pipe"
      " or a device. Name another --output_dir."
    )
  if not os.path.isdir(path):
    return
  old, marker = os.listdir(path), FORMATS[name].marker
  own = os.path.splitext(marker)[0]  # its weights are beside it
  others = [
    name
    for name in old
    if not name.startswith(f"{own}.") and not local_files.is_of_system(name)
  ]
  if not marker or (old and marker not in old) or others:
    raise errors.UserError(
      f"Expected a name that is free to be written to, received {path}, a"
      " folder with other files in it. Name another --output_dir."
    )


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
  """Turns what a converter or a runtime raises into one line.

  Raises:
    errors.UserError: the block raised any error.
  """
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:  # converters raise anything
    if plain_errors.in_plain_words(error):
      raise
    raise errors.UserError(
      f"Expected a model that {name} can hold, received one that it cannot:"
      f" {reason_of(error)}. Name another --format."
    ) from error


def reason_of(error: BaseException) -> str:
  """What a converter or a runtime says about a model, in one line."""
  text = str(error)
  lacking = _LITERT_LACKS.findall(text) + _ONNX_LACKS.findall(text)
  if lacking:
    return f"there is no {', '.join(sorted(set(lacking)))} in it"
  refused = _LITERT_REFUSES.search(text)
  if refused:
    # Before it stands the operation's place in the model, at great length.
    return " ".join(refused.groups()).rstrip(".")
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__).rstrip(".")


def largest_difference(received: np.ndarray, expected: np.ndarray) -> float:
  """The largest difference of two arrays of probabilities.

  Args:
    received: (videos, classes) float.
    expected: likewise.

  Returns:
    Infinity if the shapes differ, or if one is not finite in a place where the
    other is not the same.
  """
  if received.shape != expected.shape:
    return np.inf
  difference = np.abs(received.astype(np.float64) - expected)
  difference[np.isnan(difference)] = np.inf
  difference[np.isnan(received) & np.isnan(expected)] = 0.0
  return float(difference.max())


def videos_per_second(predict: Predict, batch: Batch) -> float:
  """Measures for half a second how many videos are predicted in one.

  Args:
    predict: has been called already, so that it is compiled.
    batch: see export.
  """
  began = time.perf_counter()
  rounds = 0
  while not rounds or time.perf_counter() - began < 0.5:
    predict(batch)
    rounds += 1
  seconds = time.perf_counter() - began
  return rounds * len(batch["video_matrix"]) / seconds
