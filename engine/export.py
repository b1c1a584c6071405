"""SavedModels: trained models that need only TensorFlow.

Signatures:

  serving_default: example_bytes (videos,) string, serialized records as in the
    TFRecord files -> video_id (videos,) string, class_indexes
    (videos, top_k) int32 and predictions (videos, top_k) float32, best first.
    With --label_subset, class_indexes are still those of the data.
  predict_arrays: video_matrix and num_frames as in a batch of readers.py
    -> predictions (videos, classes) float32.

The attribute `version` is the version of this project that wrote the model. The
folder `assets` has model_flags.json, which says what the model reads, and, if
they are known, the names of the classes in vocabulary.csv. The attributes
`model_flags` and `vocabulary` are these files, as tf.saved_model.Asset.
`classes`, (classes,) int32, has the class index of each column of
predict_arrays.

SavedModels for MediaPipe, see save_for_mediapipe, have another signature.
"""

import concurrent.futures
import errno
import gc
import os
import re
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import models
import readers
from engine import files, half_weights, model_building
from engine import train_dir as train_dirs
from engine.model_flags import MODEL_FLAGS_FILE, with_dtypes
from version import __version__

TOP_K = 20

LABEL_MAP_FILE = "label_map.txt"

# Each export leaves functions that refer to each other. Python looks for such
# garbage by the number of its own objects, which are few, while most of the
# memory that they hold is TensorFlow's. To look takes about half a second.
_EXPORTS_TO_COLLECT = 10
_OF_STEP = re.compile(r"step_\d+")


class _Servable(tf.Module):
  """The object to save: a model's variables and what is known about it.

  Args:
    model: result of models.build_model.
    model_flags: see train_dir.py.
    float16: whether to keep matrices in half precision, see half_weights.py;
      the model computes in float32 all the same.
  """

  def __init__(self, model: keras.Model, model_flags: dict, float16=False):
    super().__init__()
    self.version = tf.Variable(__version__, trainable=False)
    # SavedModel follows attributes, but does not know Keras variables.
    self.weights = [
      tf.Variable(
        half_weights.to_half(variable.numpy(), variable.path), trainable=False
      )
      if float16 and half_weights.becomes_half(variable)
      else variable.value
      for variable in model.variables
    ]
    self.classes = tf.Variable(
      models.output_classes(model_flags), trainable=False, dtype=tf.int32
    )
    variables = list(model.variables)

    def call(inputs):
      if not float16:
        return model(inputs, training=False)["predictions"]
      wide = [
        (variable, tf.cast(weight, variable.dtype))
        for variable, weight in zip(variables, self.weights, strict=True)
      ]
      with keras.StatelessScope(wide):
        return model(inputs, training=False)["predictions"]

    self._call = tf.autograph.experimental.do_not_convert(call)

  def save(self, folder: str, signatures: dict, assets: dict[str, str]) -> None:
    """Writes a SavedModel to a new folder, in the place of an older one.

    Args:
      folder: see files.written_aside.
      signatures: by name.
      assets: files that go with it, by the attribute that names them.
    """
    for name, path in assets.items():
      setattr(self, name, tf.saved_model.Asset(path))
    with files.written_aside(folder) as aside:
      try:
        tf.saved_model.save(self, aside, signatures)
      except ValueError as error:
        # Of the fingerprint, which TensorFlow reads again.
        if os.strerror(errno.EIO) not in str(error):
          raise
        raise OSError(errno.EIO, os.strerror(errno.EIO), aside) from error
      # TensorFlow says nothing if it cannot remove its own.
      leftover = os.path.join(aside, "variables", "variables_temp")
      if tf.io.gfile.isdir(leftover):
        tf.io.gfile.rmtree(leftover)


class _RecordServable(_Servable):
  """Predicts records and batches; see this module."""

  def __init__(self, model, model_flags, reader: readers.Reader, float16=False):
    super().__init__(model, model_flags, float16)
    self._reader = reader
    self._top_k = min(TOP_K, reader.num_outputs)
    self._input_specs = {
      tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name)
      for tensor in model.inputs
    }

  def _predict_arrays(self, video_matrix, num_frames):
    predictions = self._call(
      {"video_matrix": video_matrix, "num_frames": num_frames}
    )
    return {"predictions": predictions}

  def _predict_records(self, example_bytes):
    batch = self._reader.parse_batch(example_bytes)
    predictions = self._predict_arrays(
      batch["video_matrix"], batch["num_frames"]
    )["predictions"]
    best, places = tf.math.top_k(predictions, self._top_k)
    return {
      "video_id": batch["video_ids"],
      "class_indexes": tf.gather(self.classes, places),
      "predictions": best,
    }

  def signatures(self) -> dict:
    """Traces the two functions; returns them by signature name."""
    records = tf.TensorSpec([None], tf.string, "example_bytes")
    return {
      "serving_default": tf.function(
        self._predict_records, input_signature=[records]
      ).get_concrete_function(),
      "predict_arrays": tf.function(self._predict_arrays).get_concrete_function(
        **self._input_specs
      ),
    }


class _MediaPipeServable(_Servable):
  """Predicts windows of frames; see save_for_mediapipe."""

  def _predict(self, rgb_and_audio, num_frames):
    windows, length = tf.unstack(tf.shape(rgb_and_audio)[:2])
    num_frames = tf.broadcast_to(num_frames[:, 0], [windows])
    predictions = self._call(
      {
        "video_matrix": rgb_and_audio,
        "num_frames": tf.minimum(num_frames, length),
      }
    )
    return {"predictions": predictions}

  def signatures(self, num_features: int) -> dict:
    """Traces the function; returns it by signature name."""
    return {
      "serving_default": tf.function(self._predict).get_concrete_function(
        rgb_and_audio=tf.TensorSpec(
          [None, None, num_features], tf.float32, "rgb_and_audio"
        ),
        num_frames=tf.TensorSpec([None, 1], tf.int32, "num_frames"),
      )
    }


def save_for_mediapipe(
  model: keras.Model,
  model_flags: dict,
  folder: str,
  vocabulary: str = "",
  label_map: list[str] | None = None,
) -> None:
  """Writes a SavedModel for MediaPipe's graphs of YouTube-8M.

  It has one signature, serving_default: rgb_and_audio (windows, frames, 1152)
  float32, dequantized frames with rgb first, and num_frames (windows, 1) int32,
  or (1, 1) for all windows -> predictions (windows, classes) float32. Frames
  past num_frames do not count. Its assets are those of the other SavedModels,
  and label_map.txt.

  Args:
    model: result of models.build_model on frames of floats.
    model_flags: see train_dir.py.
    folder: for the SavedModel; replaced if it holds one.
    vocabulary: CSV with the names of the classes; empty for none.
    label_map: a name for each column of the predictions; None for no
      label_map.txt.
  """
  servable = _MediaPipeServable(model, model_flags)
  signatures = servable.signatures(model.input["video_matrix"].shape[-1])
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
    assets = _assets(temporary, model_flags, vocabulary)
    if label_map is not None:
      assets["label_map"] = os.path.join(temporary, LABEL_MAP_FILE)
      with files.text_written_aside(assets["label_map"]) as file:
        file.write("".join(f"{name}\n" for name in label_map))
    servable.save(folder, signatures, assets)


def _assets(
  temporary: str, model_flags: dict, vocabulary: str
) -> dict[str, str]:
  """The files that go with a SavedModel, by the attribute that names them.

  Args:
    temporary: a folder to write them to.
    model_flags: see train_dir.py.
    vocabulary: CSV with the names of the classes; empty for none.
  """
  path = os.path.join(temporary, MODEL_FLAGS_FILE)
  files.write_json(path, model_flags)
  assets = {"model_flags": path}
  if vocabulary:
    assets["vocabulary"] = vocabulary
  return assets


class Exporter:
  """Exports one model any number of times; traces it once.

  Args:
    model_flags: see train_dir.py.
    kinds: how numbers are stored, see the two readers in readers.py.
    vocabulary: CSV with the names of the classes; empty for none.

  Attributes:
    model: the model, whose weights are exported.
    model_flags: see above, with how the numbers are stored if that is known.
    reader: of the records.
  """

  def __init__(
    self,
    model_flags: dict,
    kinds: list[str] | None = None,
    vocabulary: str = "",
  ):
    self.model_flags = model_flags
    if kinds:
      self.model_flags = with_dtypes(model_flags, kinds)
    self._vocabulary = vocabulary
    self.reader = readers.make_reader(model_flags, kinds)
    with tf.device("/cpu:0"):
      self.model = model_building.build_model(
        model_flags, self.reader.quantized
      )
    self._servable = _RecordServable(self.model, self.model_flags, self.reader)
    self._signatures = self._servable.signatures()

  def predict(self, batch: dict[str, np.ndarray]) -> np.ndarray:
    """What the signature predict_arrays answers.

    Args:
      batch: video_matrix and num_frames, see this module.

    Returns:
      (videos, classes) float32.
    """
    arrays = {name: tf.constant(values) for name, values in batch.items()}
    answer = self._signatures["predict_arrays"](**arrays)
    return answer["predictions"].numpy()

  def save(self, folder: str, float16: bool = False) -> None:
    """Writes a SavedModel of the model's current weights to a new folder.

    Args:
      folder: for the SavedModel; replaced if it holds one.
      float16: whether to keep matrices in half precision.

    Raises:
      errors.UserError: the folder holds other files, or weights are too large
        for half precision.
    """
    servable, signatures = self._servable, self._signatures
    if float16:
      servable = _RecordServable(
        self.model, self.model_flags, self.reader, float16
      )
      signatures = servable.signatures()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
      assets = _assets(temporary, self.model_flags, self._vocabulary)
      servable.save(folder, signatures, assets)


class BackgroundExporter:
  """Exports in a thread while training continues with its own weights.

  Args:
    model_flags: see train_dir.py.
    kinds: see Exporter.
    train_dir: SavedModels go to its folder export/step_N; the newest is kept.
      They get the names of the classes that it has.
  """

  def __init__(
    self, model_flags: dict, kinds: list[str] | None, train_dir: str
  ):
    self._arguments = (
      model_flags,
      kinds,
      train_dirs.find_vocabulary(train_dir),
    )
    self._folder = os.path.join(train_dir, train_dirs.EXPORT_DIR)
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending = None
    self._exporter = None
    self._num_exports = 0

  def export(
    self, model: keras.Model, step: int, final=False, average=()
  ) -> None:
    """Starts the export of a model's weights after a step.

    While an export is still being written, a new one is skipped, unless it is
    the final one.

    Args:
      model: result of models.build_model.
      step: the step.
      final: whether no other export will follow.
      average: moving averages of the model's trainable weights, a tf.Variable
        each, to export in their place; empty for none.
    """
    if self._pending is not None:
      if not self._pending.done() and not final:
        logging.info(
          "No SavedModel of step %d: the previous one is still being written.",
          step,
        )
        return
      self._pending.result()
    replaced = {
      id(variable): mean
      for variable, mean in zip(
        model.trainable_variables, average, strict=False
      )
    }
    weights = [
      replaced.get(id(variable), variable).numpy()
      for variable in model.variables
    ]
    self._pending = self._thread.submit(self._export, weights, step)

  def has_written(self, step: int) -> bool:
    """Whether there is a SavedModel of a step."""
    return tf.io.gfile.isdir(os.path.join(self._folder, f"step_{step}"))

  def _export(self, weights, step) -> None:
    if self._exporter is None:
      self._exporter = Exporter(*self._arguments)
    for variable, value in zip(
      self._exporter.model.variables, weights, strict=True
    ):
      variable.assign(value)
    self._exporter.save(os.path.join(self._folder, f"step_{step}"))
    self.remove_others(step)
    self._num_exports += 1
    if self._num_exports % _EXPORTS_TO_COLLECT == 0:
      gc.collect()

  def remove_others(self, step: int) -> None:
    """Removes the SavedModels of other steps."""
    for old in files.names_in(self._folder):
      old = old.rstrip("/")
      if _OF_STEP.fullmatch(old) and old != f"step_{step}":
        # It is removed under another name, so that none is ever half there.
        path = os.path.join(self._folder, old)
        with files.beside(path) as aside:
          tf.io.gfile.rename(path, aside)

  def close(self) -> None:
    """Waits for the last export; raises its error."""
    if self._pending is not None:
      self._pending.result()
    self._thread.shutdown()
