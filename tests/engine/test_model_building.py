"""Tests of engine.model_building: errors about a model with a bug."""

import concurrent.futures
import re

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from conftest import assert_names, error_of
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import errors
import losses
import models
from engine import distribution, export, model_building
from engine.checkpoints import latest_checkpoint, load_weights
from engine.data import Data
from engine.forward import ForwardPass
from engine.model_flags import require_model_flags

pytest_plugins = ["own_models"]  # for own_file

VIDEO_FLAGS = {**TINY_FLAGS, "model": "OwnModel"}
FRAME_FLAGS = {**TINY_FRAME_FLAGS, "model": "OwnModel"}

# Must not be in any advice if the flag is set correctly.
LEVEL = re.compile(r"--(no)?frame_features")


def build(file, body, model_flags, dtype_policy=None) -> str:
  """The error of building a model with this create_model."""
  file.write(body)
  return error_of(model_building.build_model, model_flags, False, dtype_policy)


# --------------------------------------------------------------------------
# Bugs that appear when the model is built

SHAPES_DO_NOT_FIT = """
def create_model(self, model_input, vocab_size, **unused_params):
  hidden = keras.layers.Dense(9)(model_input)
  return {"predictions": ops.matmul(hidden, ops.ones((5, 4)))}
"""


@pytest.mark.parametrize("model_flags", [VIDEO_FLAGS, FRAME_FLAGS])
def test_shapes_that_do_not_fit(own_file, model_flags):
  text = build(own_file, SHAPES_DO_NOT_FIT, model_flags)
  assert_names(text, f"OwnModel at {own_file.place('ops.matmul')}: Inner dim")
  # The whole message of Keras, which ends with the shapes.
  assert_names(text, "x2.shape=(5, 4)`. At ")
  if model_flags["frame_features"]:
    assert_names(text, "(batch, frames, features)")
    assert not LEVEL.search(text)
  else:
    assert_names(text, "(batch, features)", "need --frame_features=True.")


def test_frames_in_a_model_on_whole_videos():
  # LogisticModel would give predictions of each frame. MoeModel could be built,
  # and would fail in training.
  for name in ("LogisticModel", "MoeModel"):
    model_flags = {**TINY_FRAME_FLAGS, "model": name, "moe_num_mixtures": 2}
    text = error_of(model_building.build_model, model_flags, False)
    assert_names(text, f"received --model={name}, which takes whole videos")
    assert_names(text, "such as FrameLevelLogisticModel")
    assert_names(text, "whole videos, use --frame_features=False")


MEAN_FRAME = """
def create_model(self, model_input, vocab_size, mean_frame, **unused_params):
  return {"predictions": mean_frame + undefined}
"""


def test_whole_videos_in_a_model_with_a_bug_that_takes_the_mean_frame(own_file):
  text = build(own_file, MEAN_FRAME, VIDEO_FLAGS)
  assert text.endswith(
    "'mean_frame'. Models on frames need --frame_features=True."
  )


@pytest.mark.parametrize(
  "name", ["FrameLevelLogisticModel", "LstmModel", "TransformerModel"]
)
def test_whole_videos_in_a_model_on_frames(name):
  model_flags = {
    **TINY_FLAGS,
    "model": name,
    **models.resolve_hyperparameters(name),
  }
  text = error_of(model_building.build_model, model_flags, False)
  assert_names(text, f"received --model={name}, which takes frames. Name")
  assert_names(text, "such as LogisticModel", "need --frame_features=True")


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    ("tf.reduce_mean(model_input, axis=1)", "cannot be used as input"),
    ("tf.shape(model_input)", "cannot be used as input"),
    ("model_input.get_shape()", "AttributeError: 'KerasTensor' object has no"),
    ("tf.contrib.slim.batch_norm(model_input)", "has no attribute 'contrib'"),
    ("tf.get_variable('w', [3])", "has no attribute 'get_variable'"),
    ("np.mean(model_input, axis=1)", "cannot convert it to a NumPy array"),
    ("3 if num_frames > 3 else 4", "cannot be used as a boolean"),
  ],
)
def test_tensorflow_and_numpy_on_symbols(own_file, line, reason):
  text = build(
    own_file,
    f"""
    def create_model(self, model_input, num_frames, **unused_params):
      import numpy as np
      import tensorflow as tf
      return {line}
    """,
    FRAME_FLAGS,
  )
  assert_names(text, f"OwnModel at {own_file.place('return')}: ", reason)
  assert_names(text, "use keras.layers and keras.ops in place of TensorFlow's")
  assert not LEVEL.search(text)


def test_the_long_message_of_keras_stays_whole_in_one_line(own_file):
  text = build(
    own_file,
    """
    def create_model(self, model_input, **unused_params):
      import tensorflow as tf
      return tf.nn.relu(model_input)
    """,
    FRAME_FLAGS,
  )
  with pytest.raises(ValueError, match="KerasTensor") as raised:
    tf.nn.relu(keras.Input((3,)))
  assert_names(text, " ".join(str(raised.value).split()))
  assert "\n" not in text


@pytest.mark.parametrize(
  ("arguments", "advice"),
  [
    ("model_input, vocab_size, num_frames", "with **unused_params."),
    (
      "model_input, vocab_size, num_frames, labels, **unused_params",
      "(labels and is_training of the TensorFlow 1 code are gone)",
    ),
    (
      "model_input, vocab_size, num_frames, is_training, **unused_params",
      "(labels and is_training of the TensorFlow 1 code are gone)",
    ),
  ],
)
def test_arguments_of_the_original(own_file, arguments, advice):
  text = build(
    own_file,
    f"def create_model(self, {arguments}):\n  return None",
    FRAME_FLAGS,
  )
  assert_names(text, f"OwnModel at {own_file.place('def create_model')}: Type")
  assert_names(text, advice)


def test_arguments_of_other_functions_get_no_such_advice(own_file):
  text = build(
    own_file,
    """
    def squash(self, values, slope):
      return values * slope

    def create_model(self, model_input, **unused_params):
      return self.squash(model_input)
    """,
    FRAME_FLAGS,
  )
  assert_names(text, own_file.place("return self.squash"), "argument: 'slope'")
  assert "is_training" not in text


def test_is_training_with_a_default(own_file, monkeypatch):
  shown = []
  monkeypatch.setattr(logging, "log_first_n", lambda *args: shown.append(args))
  own_file.write(
    """
    def create_model(
      self, model_input, vocab_size, is_training=True, **unused_params
    ):
      hidden = keras.layers.Dropout(0.5)(model_input, training=is_training)
      hidden = keras.layers.Dense(vocab_size, activation="sigmoid")(hidden)
      return {"predictions": hidden}
    """
  )
  model_building.build_model(VIDEO_FLAGS, False)
  ((level, text, _, name),) = shown
  assert (level, name) == (logging.WARNING, "OwnModel")
  assert_names(text, "is_training", "Leave it out")
  model_building.build_model(TINY_FLAGS, False)
  assert len(shown) == 1


@pytest.mark.parametrize(
  ("statement", "reason"),
  [
    ("raise ValueError('no such thing')", "no such thing. BaseModel"),
    ("raise NotImplementedError", "NotImplementedError. BaseModel"),
    ("raise KeyError('rgb')", "KeyError: 'rgb'. BaseModel"),
    (
      "raise Exception('first\\n  second line')",
      "Exception: first second line",
    ),
    ("assert not unused_params", "AssertionError. BaseModel"),
    ("1 / 0", "ZeroDivisionError: division by zero. BaseModel"),
    ("[][1]", "IndexError: list index out of range. BaseModel"),
    ("missing_name", "NameError: name 'missing_name' is not defined. BaseMo"),
    ("import tensorflow as tf; tf.constant([1]) + 'a'", "OwnModel at "),
  ],
)
def test_an_exception_of_any_type(own_file, statement, reason):
  text = build(
    own_file,
    f"""
    def create_model(self, model_input, **unused_params):
      {statement}
    """,
    FRAME_FLAGS,
  )
  assert_names(text, f"OwnModel at {own_file.path}:13: ", reason)


def test_a_bug_in_a_layer_of_the_model(own_file):
  text = build(
    own_file,
    """
    def create_model(self, model_input, vocab_size, **unused_params):
      class OwnLayer(keras.layers.Layer):
        def call(self, values):
          return ops.reshape(values, (3, 5, 0, -1, -1))

      return {"predictions": OwnLayer()(model_input)}
    """,
    FRAME_FLAGS,
  )
  assert_names(text, f"OwnModel at {own_file.place('ops.reshape')}: ")
  assert "\x1b" not in text  # Keras makes a part of such a message bold


def test_a_refused_flag_is_the_models_own_sentence():
  model_flags = {
    **TINY_FRAME_FLAGS,
    "model": "TransformerModel",
    "transformer_size": 10,
    "transformer_heads": 4,
    "transformer_layers": 1,
  }
  text = error_of(model_building.build_model, model_flags, False)
  assert text == (
    "Expected --transformer_size to be a multiple of --transformer_heads,"
    " received --transformer_size=10 and --transformer_heads=4."
  )


@pytest.mark.parametrize(
  ("flags_of_data", "model", "flag", "example"),
  [
    (TINY_FRAME_FLAGS, "CnnLstmModel", "cnn_lstm_cells", "512,1024"),
    (TINY_FLAGS, "DeepNnModel", "nn_joint_sizes", "512,1024 or 512,classes"),
  ],
)
def test_refused_sizes_are_one_sentence_too(
  flags_of_data, model, flag, example
):
  # A function of layers/ raises it.
  model_flags = {**flags_of_data, "model": model, flag: "4,x"}
  text = error_of(model_building.build_model, model_flags, False)
  assert text == f"Expected layer sizes such as {example}, received '4,x'."


def test_a_class_that_no_longer_exists():
  model_flags = {**TINY_FLAGS, "model": "GoneModel"}
  text = error_of(model_building.build_model, model_flags, False)
  assert_names(text, "Expected --model to name", "'GoneModel'", "LogisticModel")


# --------------------------------------------------------------------------
# What create_model returns


@pytest.mark.parametrize(
  ("returned", "parts"),
  [
    ('{"prediction": hidden}', ['the key "predictions"', "['prediction']"]),
    ("hidden", ['a dict with the key "predictions"', "received a KerasTensor"]),
    ("None", ["received a NoneType"]),
    ('{"predictions": model_input}', ["of shape (None, 6)", "(None, 7)"]),
    (
      '{"predictions": hidden, "regularization_loss": hidden}',
      ["a scalar as regularization_loss", "(None, 6)"],
    ),
    (
      '{"predictions": hidden, "auxiliary_losses": {"Loss/mine": hidden}}',
      ["a scalar as Loss/mine", "(None, 6)"],
    ),
  ],
)
def test_what_breaks_the_contract(own_file, returned, parts):
  text = build(
    own_file,
    f"""
    def create_model(self, model_input, vocab_size, **unused_params):
      hidden = keras.layers.Dense(vocab_size)(model_input)
      return {returned}
    """,
    VIDEO_FLAGS,
  )
  assert text.startswith("Expected OwnModel.create_model to return ")
  assert_names(text, *parts)
  assert text.endswith(
    f"create_model is at {own_file.place('def create_model')}."
  )
  assert not LEVEL.search(text)


def test_predictions_that_are_not_float32_under_bfloat16(own_file):
  body = """
  def create_model(self, model_input, vocab_size, **unused_params):
    last = keras.layers.Dense(vocab_size, activation="sigmoid")
    return {"predictions": last(model_input)}
  """
  text = build(own_file, body, VIDEO_FLAGS, "mixed_bfloat16")
  assert_names(text, "float32 predictions", "received bfloat16", 'dtype="float')
  model_building.build_model(VIDEO_FLAGS, False)  # is allowed in float32


# --------------------------------------------------------------------------
# Bugs that appear only when the model computes

FRAMES_OF_A_FIXED_NUMBER = """
batch_size = 5

def create_model(self, model_input, vocab_size, **unused_params):
  flat = ops.reshape(model_input, (-1, 300 * 7))
  predictions = keras.layers.Dense(vocab_size, activation="sigmoid")(flat)
  return {"predictions": predictions}
"""


@pytest.mark.parametrize("with_xla", [False, True])
def test_an_operation_that_fails(
  own_file,
  tiny_frame_files,
  tmp_path,
  caplog,
  with_xla,
):
  own_file.write(FRAMES_OF_A_FIXED_NUMBER)
  text = error_of(
    train_tiny, tmp_path / "run", tiny_frame_files, FRAME_FLAGS, xla=with_xla
  )
  assert_names(
    text, f"OwnModel at {own_file.place('ops.reshape')}: Input to re"
  )
  assert_names(text, "requires a multiple of 2100. At frame level")
  assert "Detected at node" not in text
  assert not LEVEL.search(text)
  # The data is not searched for a bad record.
  assert "looking for it" not in caplog.text


def test_a_bug_only_in_training(own_file, tiny_files, tmp_path):
  own_file.write(
    """
    def create_model(self, model_input, vocab_size, **unused_params):
      class OwnLayer(keras.layers.Layer):
        def call(self, values, training=False):
          if training:
            raise RuntimeError("only in training")
          return values

      last = keras.layers.Dense(vocab_size, activation="sigmoid")
      return {"predictions": last(OwnLayer()(model_input))}
    """
  )
  text = error_of(train_tiny, tmp_path / "run", tiny_files, VIDEO_FLAGS)
  assert_names(text, f"OwnModel at {own_file.place('raise RuntimeError')}: ")
  assert_names(text, "only in training")


@pytest.mark.parametrize(
  "error",
  [
    errors.UserError("a record"),
    tf.errors.DataLossError(None, None, "corrupted record"),
    tf.errors.InvalidArgumentError(None, None, "node IteratorGetNext"),
    tf.errors.UnavailableError(None, None, "a machine was lost"),
    KeyboardInterrupt(),
    ZeroDivisionError(),
  ],
)
def test_other_errors_are_unchanged(error):
  with (
    pytest.raises(type(error)) as raised,
    model_building.naming_bug(TINY_FLAGS),
  ):
    raise error
  assert raised.value is error


# --------------------------------------------------------------------------
# Probabilities

PROBABILITIES = """
def create_model(self, model_input, vocab_size, **unused_params):
  logits = keras.layers.Dense(vocab_size, name="last")(model_input)
  return {"predictions": ops.sigmoid(logits)}
"""
# With the same number of operations: checkpoints count them.
LOGITS = PROBABILITIES.replace("ops.sigmoid", "ops.negative")


def assert_tells_of_logits(text, file):
  assert_names(
    text,
    "Expected probabilities from 0 to 1 as the predictions of OwnModel at"
    f" {file.place('def create_model')}, received values from -",
    "keras.ops.sigmoid(logits)",
  )
  assert "learning" not in text


def test_logits_in_training(own_file, tiny_files, tmp_path):
  own_file.write(LOGITS)
  text = error_of(train_tiny, tmp_path / "run", tiny_files, VIDEO_FLAGS)
  assert_tells_of_logits(text, own_file)


def test_logits_in_evaluation_and_prediction(
  own_file,
  tiny_files,
  tmp_path,
):
  own_file.write(PROBABILITIES)
  train_dir = tmp_path / "run"
  train_tiny(train_dir, tiny_files, VIDEO_FLAGS, max_steps=2)
  own_file.write(LOGITS)
  pattern = ",".join(tiny_files)
  for program, *arguments in (
    ("eval", f"--eval_data_pattern={pattern}", "--run_once"),
    (
      "inference",
      f"--input_data_pattern={pattern}",
      f"--output_file={tmp_path}/predictions.csv",
    ),
  ):
    text = in_process.run_into_error(
      program, f"--train_dir={train_dir}", *arguments
    )
    assert_tells_of_logits(text, own_file)
  assert not (tmp_path / "predictions.csv").exists()


def test_sums_that_are_not_one_with_exclusive_classes(
  own_file, one_label_files, tmp_path
):
  own_file.write("""
def create_model(self, model_input, vocab_size, **unused_params):
  from layers import classifiers
  logits = keras.layers.Dense(vocab_size)(model_input)
  return {"predictions": 0.5 * classifiers.probabilities(logits)}
""")
  flags = {
    **VIDEO_FLAGS,
    "exclusive_classes": True,
    "label_loss": "CategoricalCrossEntropyLoss",
  }
  text = error_of(train_tiny, tmp_path / "run", one_label_files, flags)
  assert_names(
    text,
    "Expected probabilities with a sum of 1 for each video",
    f"OwnModel at {own_file.place('def create_model')}, received sums from 0.5",
  )


def test_rounding_errors_and_nan_pass():
  model_building.check_probabilities(np.float32([[-1e-7, 1 + 1e-6]]), "M")
  model_building.check_probabilities(np.float32([[0.5, np.nan]]), "M")
  rounded = np.float32([[0.5, 0.5 + 1e-6], [0.5, np.nan]])
  model_building.check_probabilities(rounded, "M", exclusive_classes=True)


# --------------------------------------------------------------------------
# The dtype policy


def test_a_run_in_bfloat16_on_several_threads(tiny_frame_files, tmp_path):
  train_dir = str(tmp_path / "run")
  in_process.run(
    "train",
    "--model=GruModel",
    "--gru_cells=4",
    "--gru_layers=1",
    "--frame_features=True",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--batch_size=5",
    "--max_steps=2",
    "--noxla",
    "--mixed_precision=bfloat16",
    f"--train_data_pattern={','.join(tiny_frame_files)}",
    f"--train_dir={train_dir}",
  )
  assert keras.config.dtype_policy().name == "float32"

  model_flags = require_model_flags(train_dir)
  checkpoint = latest_checkpoint(train_dir)
  run = model_building.build_model(model_flags, True, "mixed_bfloat16")
  assert "bfloat16" in {layer.compute_dtype for layer in run.layers}

  def predict():
    """On a thread without its own policy."""
    before = keras.config.dtype_policy().name
    exporter = export.Exporter(model_flags)
    load_weights(exporter.model, checkpoint)
    exporter.save(str(tmp_path / "export"))
    forward = ForwardPass(
      model_flags,
      Data(model_flags, tiny_frame_files, with_labels=True),
      distribution.Placement(),
      batch_size=22,
      loss=losses.make_loss(model_flags),
    )
    forward.load_weights(checkpoint)
    batch, (predictions, _), _ = next(forward.run())
    return [before, keras.config.dtype_policy().name], batch, predictions

  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    policies, batch, predictions = thread.submit(predict).result()

  assert policies == ["float32", "float32"]
  assert keras.config.dtype_policy().name == "float32"
  assert predictions.dtype == tf.float32
  inputs = models.model_inputs(run, batch)
  served = tf.saved_model.load(str(tmp_path / "export"))
  np.testing.assert_allclose(
    served.signatures["predict_arrays"](**inputs)["predictions"],
    predictions,
    atol=1e-6,
  )


def test_a_trial_gives_a_model_all_that_building_gives(monkeypatch):
  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    feature_names,
    input_transform,
    feature_sizes,
  ):
    found.append((feature_names, feature_sizes, input_transform))

  found = []
  model_class = models.find_class_by_name("LogisticModel")
  monkeypatch.setattr(model_class, "create_model", create_model)
  model_flags = {
    "model": "LogisticModel",
    "feature_names": "mean_rgb, mean_audio",
    "feature_sizes": "4,3",
    "frame_features": False,
    "num_classes": 2,
    "max_frames": 300,
    "label_loss": "CrossEntropyLoss",
    "input_transform": "none",
  }
  assert model_building._error_of_a_trial(model_flags) is None
  assert found == [(["mean_rgb", "mean_audio"], [4, 3], "none")]
