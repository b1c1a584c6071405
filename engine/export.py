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
"""

import concurrent.futures
import os
import tempfile

import keras
import tensorflow as tf
from absl import logging

import readers
from engine import files, model_building
from engine import train_dir as train_dirs
from version import __version__

TOP_K = 20


class _Servable(tf.Module):
  """The object to save: the variables and the two functions on them."""

  def __init__(self, model: keras.Model, reader: readers.Reader):
    super().__init__()
    self.version = tf.Variable(__version__, trainable=False)
    self._reader = reader
    self._model = tf.autograph.experimental.do_not_convert(
      lambda inputs: model(inputs, training=False)["predictions"]
    )
    # SavedModel follows attributes, but does not know Keras variables.
    self.weights = [variable.value for variable in model.variables]
    subset = reader.label_subset
    self.classes = tf.Variable(
      range(reader.num_classes) if subset is None else subset,
      trainable=False,
      dtype=tf.int32,
    )
    self._top_k = min(TOP_K, reader.num_outputs)
    self._input_specs = {
      tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name)
      for tensor in model.inputs
    }

  def _predict_arrays(self, video_matrix, num_frames):
    predictions = self._model(
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


class Exporter:
  """Exports one model any number of times; traces it once.

  Args:
    model_flags: see train_dir.py.
    kinds: how numbers are stored, see the two readers in readers.py.
    vocabulary: CSV with the names of the classes; empty for none.
  """

  def __init__(
    self,
    model_flags: dict,
    kinds: list[str] | None = None,
    vocabulary: str = "",
  ):
    self._model_flags = model_flags
    if kinds:
      self._model_flags = train_dirs.with_dtypes(model_flags, kinds)
    self._vocabulary = vocabulary
    reader = readers.make_reader(model_flags, kinds)
    with tf.device("/cpu:0"):
      self.model = model_building.build_model(model_flags, reader.quantized)
    self._servable = _Servable(self.model, reader)
    self._signatures = self._servable.signatures()

  def save(self, folder: str) -> None:
    """Writes a SavedModel of the model's current weights to a new folder."""
    with (
      tempfile.TemporaryDirectory() as assets,
      files.written_aside(folder) as aside,
    ):
      path = os.path.join(assets, train_dirs.MODEL_FLAGS_FILE)
      files.write_json(path, self._model_flags)
      self._servable.model_flags = tf.saved_model.Asset(path)
      if self._vocabulary:
        self._servable.vocabulary = tf.saved_model.Asset(self._vocabulary)
      tf.saved_model.save(self._servable, aside, self._signatures)


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

  def _export(self, weights, step) -> None:
    if self._exporter is None:
      self._exporter = Exporter(*self._arguments)
    for variable, value in zip(
      self._exporter.model.variables, weights, strict=True
    ):
      variable.assign(value)
    name = f"step_{step}"
    self._exporter.save(os.path.join(self._folder, name))
    for old in tf.io.gfile.listdir(self._folder):
      if old.startswith("step_") and old.rstrip("/") != name:
        tf.io.gfile.rmtree(os.path.join(self._folder, old))

  def close(self) -> None:
    """Waits for the last export; raises its error."""
    if self._pending is not None:
      self._pending.result()
    self._thread.shutdown()
