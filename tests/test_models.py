"""Tests of models, and the contract that every model in the files keeps."""

import ast
import inspect
import pathlib
import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

import frame_level_models
import losses
import models
import train_dir as train_dirs
import video_level_models

MODEL_FILES = (video_level_models, frame_level_models)
REPOSITORY = pathlib.Path(models.__file__).parent

CLASSES = 5
FEATURE_SIZES = (12, 4)
# Frames past these hold garbage: bytes that must not matter.
NUM_FRAMES = np.array([9, 4, 1, 6, 9, 2], np.int32)
LENGTH = 9

# Small values of hyper-parameters whose default does not tell that they are
# large; of the others, see small_hyperparameters.
SMALL_VALUES = {"lstm_cells": 4}
SMALL_NUMBER = 8

# Keywords that build_model fills in by itself.
AT_HAND = ("feature_sizes", "mean_frame")


def model_classes():
  """All models of the model files."""
  return [
    value
    for module in MODEL_FILES
    for value in vars(module).values()
    if inspect.isclass(value)
    and issubclass(value, models.BaseModel)
    and value.__module__ == module.__name__
  ]


def keyword_defaults(model_class):
  """The hyper-parameters of a model, by name."""
  return {
    name: parameter.default
    for name, parameter in inspect.signature(
      model_class.create_model
    ).parameters.items()
    if parameter.default is not parameter.empty and name not in AT_HAND
  }


def small_hyperparameters(model_class):
  """A model's own defaults, with 8 for each whole number above it.

  Strings of whole numbers with commas between are treated alike.
  """
  small = {}
  for name, default in keyword_defaults(model_class).items():
    if name in SMALL_VALUES:
      small[name] = SMALL_VALUES[name]
    elif isinstance(default, int) and default > SMALL_NUMBER:
      small[name] = SMALL_NUMBER
    elif isinstance(default, str) and re.fullmatch(r"\d+(,\d+)*", default):
      small[name] = re.sub(r"\d\d+", str(SMALL_NUMBER), default)
    else:
      small[name] = default
  return small


def make_model_flags(model_class, **changes):
  """Content of model_flags.json for a small model of a class."""
  return {
    "model": model_class.__name__,
    "feature_names": "rgb,audio",
    "feature_sizes": ",".join(map(str, FEATURE_SIZES)),
    "frame_features": model_class.__module__ == frame_level_models.__name__,
    "num_classes": CLASSES,
    "max_frames": 20,
    "label_loss": "CrossEntropyLoss",
    **small_hyperparameters(model_class),
    **changes,
  }


def make_batch(model_flags):
  """Inputs of a model: bytes at frame level, else floats."""
  generator = np.random.default_rng(2)
  videos, features = len(NUM_FRAMES), sum(FEATURE_SIZES)
  if model_flags["frame_features"]:
    video_matrix = generator.integers(
      256, size=(videos, LENGTH, features), dtype=np.uint8
    )
    return {"video_matrix": video_matrix, "num_frames": NUM_FRAMES}
  video_matrix = generator.normal(size=(videos, features)).astype("float32")
  return {
    "video_matrix": video_matrix,
    "num_frames": np.ones(videos, np.int32),
  }


def predict(model, batch):
  """The predictions of a batch, as an array."""
  return model(batch, training=False)["predictions"].numpy()


def rows(batch, selection):
  """Some videos of a batch."""
  return {name: values[selection] for name, values in batch.items()}


def dequantized(batch):
  """A batch of bytes as the floats they stand for."""
  frames = batch["video_matrix"].astype(np.float32)
  return {**batch, "video_matrix": frames * (4 / 255) + (4 / 512 - 2)}


class Case:
  """A small model of a class, its flags and a batch for it."""

  def __init__(self, model_class):
    # Keras draws the seeds of initializers, dropout and sampling from here.
    random.seed(1)
    self.model_flags = make_model_flags(model_class)
    self.model = models.build_model(self.model_flags)
    self.batch = make_batch(self.model_flags)
    # Moves the statistics of batch normalisation away from 0 and 1.
    self.model(self.batch, training=True)


@pytest.fixture(
  scope="module",
  params=model_classes(),
  ids=lambda model_class: model_class.__name__,
)
def case(request):
  """A Case of each model."""
  return Case(request.param)


@pytest.fixture(
  scope="module",
  params=[
    model_class
    for model_class in model_classes()
    if model_class.__module__ == frame_level_models.__name__
  ],
  ids=lambda model_class: model_class.__name__,
)
def frame_case(request):
  """A Case of each frame-level model."""
  return Case(request.param)


# --------------------------------------------------------------------------
# The contract


def test_predictions_are_a_probability_for_each_class(case):
  for training in (False, True):
    predictions = case.model(case.batch, training=training)["predictions"]
    assert predictions.shape == (len(NUM_FRAMES), CLASSES)
    assert predictions.dtype == "float32"
    assert predictions.numpy().min() >= 0.0
    assert predictions.numpy().max() <= 1.0
  assert case.model.output["predictions"].shape == (None, CLASSES)


def test_predictions_depend_on_the_video(case):
  predictions = predict(case.model, case.batch)
  for video in range(1, len(NUM_FRAMES)):
    assert abs(predictions[video] - predictions[0]).max() > 1e-5


def gradients_by_path(model, batch, training):
  """The gradient of the loss for each trainable weight."""
  labels = np.arange(CLASSES) % 2 == np.arange(len(NUM_FRAMES))[:, None] % 2
  with tf.GradientTape() as tape:
    outputs = model(batch, training=training)
    # Without the regularizers, which would reach each kernel by themselves.
    loss = losses.CrossEntropyLoss().calculate_loss(
      outputs["predictions"], labels
    )
    loss = sum(outputs.get("auxiliary_losses", {}).values(), loss)
  weights = model.trainable_variables
  gradients = tape.gradient(loss, [weight.value for weight in weights])
  return {
    weight.path: None if gradient is None else tf.convert_to_tensor(gradient)
    for weight, gradient in zip(weights, gradients, strict=True)
  }


def test_a_gradient_reaches_every_weight(case):
  in_training = gradients_by_path(case.model, case.batch, True)
  # Batch normalisation subtracts its batch's mean in training, so that a shift
  # in front of it has no effect but by rounding; its running mean hides none.
  in_inference = gradients_by_path(case.model, case.batch, False)
  assert in_training
  for path, gradient in in_training.items():
    assert gradient is not None, path
    assert np.isfinite(gradient).all(), path
    largest = max(
      abs(gradient.numpy()).max(), abs(in_inference[path].numpy()).max()
    )
    assert largest > 1e-7, path


def test_losses_of_the_model_are_finite_scalars(case):
  outputs = case.model(case.batch, training=True)
  loss = models.regularization_loss(case.model, outputs)
  assert loss.shape == ()
  assert loss.dtype == "float32"
  assert np.isfinite(loss)
  for tag, loss in outputs.get("auxiliary_losses", {}).items():
    assert loss.shape == (), tag
    assert np.isfinite(loss), tag
  assert set(outputs) <= {
    "predictions",
    "regularization_loss",
    "auxiliary_losses",
  }


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(case):
  together = predict(case.model, case.batch)
  for video in range(3):
    alone = predict(case.model, rows(case.batch, slice(video, video + 1)))
    np.testing.assert_allclose(alone[0], together[video], atol=1e-6)


def test_predictions_are_the_same_from_call_to_call(case):
  first = predict(case.model, case.batch)
  np.testing.assert_array_equal(predict(case.model, case.batch), first)


def test_saved_and_rebuilt_from_its_flags_the_model_is_the_same(case, tmp_path):
  folder = str(tmp_path)
  train_dirs.write_model_flags(folder, case.model_flags)
  path = train_dirs.Checkpoints(folder, 1, model=case.model).save(7)
  rebuilt = models.build_model(train_dirs.require_model_flags(folder))
  expected = predict(case.model, case.batch)
  # The new model starts from other random weights.
  assert abs(predict(rebuilt, case.batch) - expected).max() > 1e-4
  train_dirs.load_weights(rebuilt, path)
  np.testing.assert_array_equal(predict(rebuilt, case.batch), expected)


def test_half_precision_inside_gives_float32_probabilities(case):
  policy = keras.config.dtype_policy()
  keras.config.set_dtype_policy("mixed_bfloat16")
  try:
    half = models.build_model(case.model_flags)
  finally:
    keras.config.set_dtype_policy(policy)
  half.set_weights(case.model.get_weights())
  predictions = half(case.batch, training=False)["predictions"]
  assert predictions.dtype == "float32"
  # bfloat16 keeps 8 bits: wrong by 0.4 % at each of several layers.
  exact = predict(case.model, case.batch)
  np.testing.assert_allclose(predictions, exact, atol=0.1)
  outputs = half(case.batch, training=True)
  assert outputs["predictions"].dtype == "float32"
  for loss in [
    models.regularization_loss(half, outputs),
    *outputs.get("auxiliary_losses", {}).values(),
  ]:
    assert loss.dtype == "float32"
  for path, gradient in gradients_by_path(half, case.batch, True).items():
    assert gradient.dtype == "float32", path
    assert np.isfinite(gradient).all(), path


def test_more_padding_changes_nothing(frame_case):
  expected = predict(frame_case.model, frame_case.batch)
  shape = (len(NUM_FRAMES), 5, sum(FEATURE_SIZES))
  generator = np.random.default_rng(3)
  for padding in (
    np.zeros(shape, np.uint8),
    generator.integers(256, size=shape, dtype=np.uint8),
  ):
    longer = np.concatenate([frame_case.batch["video_matrix"], padding], axis=1)
    predictions = predict(
      frame_case.model, {**frame_case.batch, "video_matrix": longer}
    )
    np.testing.assert_allclose(predictions, expected, atol=1e-6)


def test_what_the_padding_holds_does_not_matter(frame_case):
  expected = predict(frame_case.model, frame_case.batch)
  cleared = frame_case.batch["video_matrix"].copy()
  for video, valid in enumerate(NUM_FRAMES):
    cleared[video, valid:] = 0
  predictions = predict(
    frame_case.model, {**frame_case.batch, "video_matrix": cleared}
  )
  np.testing.assert_allclose(predictions, expected, atol=1e-6)


def test_training_does_not_see_the_padding(frame_case):
  # Two models that are alike, also in the seeds of what is random.
  outputs = []
  for value in (0, 255):
    random.seed(4)
    model = models.build_model(frame_case.model_flags)
    frames = frame_case.batch["video_matrix"].copy()
    for video, valid in enumerate(NUM_FRAMES):
      frames[video, valid:] = value
    batch = {**frame_case.batch, "video_matrix": frames}
    outputs.append(model(batch, training=True)["predictions"].numpy())
    outputs.append(predict(model, frame_case.batch))
  np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-6)
  # Nor do the statistics of batch normalisation.
  np.testing.assert_allclose(outputs[3], outputs[1], atol=1e-6)


def test_bytes_and_the_floats_they_stand_for_agree(frame_case):
  on_floats = models.build_model(frame_case.model_flags, quantized=False)
  assert on_floats.input["video_matrix"].dtype == "float32"
  assert frame_case.model.input["video_matrix"].dtype == "uint8"
  on_floats.set_weights(frame_case.model.get_weights())
  np.testing.assert_allclose(
    predict(on_floats, dequantized(frame_case.batch)),
    predict(frame_case.model, frame_case.batch),
    atol=1e-5,
  )


def test_a_video_without_frames_has_finite_predictions(frame_case):
  batch = {
    **frame_case.batch,
    "num_frames": np.where(np.arange(len(NUM_FRAMES)) == 1, 0, NUM_FRAMES),
  }
  for training in (False, True):
    outputs = frame_case.model(batch, training=training)
    assert np.isfinite(outputs["predictions"]).all()
  predictions = predict(frame_case.model, batch)
  assert predictions.min() >= 0.0
  assert predictions.max() <= 1.0
  # The others do not notice.
  others = np.arange(len(NUM_FRAMES)) != 1
  np.testing.assert_allclose(
    predictions[others],
    predict(frame_case.model, frame_case.batch)[others],
    atol=1e-6,
  )


def test_a_video_mixed_with_weight_one_is_itself(case):
  mixed = models.add_mixup(case.model)
  # Of two videos of different lengths the longer one's counts.
  batch = {**case.batch, "num_frames": np.full_like(NUM_FRAMES, LENGTH)}
  expected = predict(case.model, batch)
  for weight, is_same in ((1.0, True), (0.5, False)):
    weights = np.full(len(NUM_FRAMES), weight, np.float32)
    predictions = predict(mixed, {**batch, "mixup_weight": weights})
    difference = abs(predictions - expected).max()
    assert (difference < 1e-5) == is_same, difference


def test_mixing_trains_the_same_weights(case):
  mixed = models.add_mixup(case.model)
  assert [id(variable) for variable in mixed.trainable_variables] == [
    id(variable) for variable in case.model.trainable_variables
  ]
  weights = np.full(len(NUM_FRAMES), 0.3, np.float32)
  for path, gradient in gradients_by_path(
    mixed, {**case.batch, "mixup_weight": weights}, True
  ).items():
    assert gradient is not None, path
    assert np.isfinite(gradient).all(), path


@pytest.mark.parametrize("model_class", model_classes())
def test_a_flags_own_default_is_the_keywords(model_class):
  # Otherwise the command line and a call would build different models.
  for name, default in keyword_defaults(model_class).items():
    if name in flags.FLAGS and flags.FLAGS[name].default is not None:
      assert flags.FLAGS[name].default == default, name


@pytest.mark.parametrize(
  "file",
  [
    "losses.py",
    "models.py",
    "model_utils.py",
    "video_level_models.py",
    "frame_level_models.py",
  ],
)
def test_model_files_run_on_every_backend(file):
  tree = ast.parse((REPOSITORY / file).read_text())
  imported = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      imported.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      imported.add(node.module)
  assert imported <= {
    "absl",
    "importlib",
    "inspect",
    "keras",
    "math",
    "model_utils",
    "models",
    "random_numbers",
    "recurrent",
  }


@pytest.mark.parametrize(
  ("model", "frame_features", "wanted"),
  [
    ("FrameLevelLogisticModel", True, True),
    ("LstmModel", True, False),  # not even its training
    ("LogisticModel", False, False),  # over before it is compiled
  ],
)
def test_which_predictions_xla_compiles(model, frame_features, wanted):
  flags = {"model": model, "frame_features": frame_features}
  assert models.compiles_predictions(flags) is wanted


@pytest.mark.parametrize("file", ["random_numbers.py", "recurrent.py"])
def test_helpers_need_tensorflow_only_where_they_use_it(file):
  tree = ast.parse((REPOSITORY / file).read_text())
  imported = set()
  for node in tree.body:
    if isinstance(node, ast.Import):
      imported.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      imported.add(node.module)
  assert imported == {"keras"}


# --------------------------------------------------------------------------
# Finding a model


def test_find_class_by_name():
  for model_class in model_classes():
    assert models.find_class_by_name(model_class.__name__) is model_class


def test_an_unknown_model_is_answered_with_those_that_there_are():
  with pytest.raises(ValueError, match="'NoSuchModel'") as error:
    models.find_class_by_name("NoSuchModel")
  message = str(error.value)
  assert "--model" in message
  for model_class in model_classes():
    assert model_class.__name__ in message
  # What is in a model file but is no model is no answer.
  with pytest.raises(ValueError, match="'classify'"):
    models.find_class_by_name("classify")


def test_the_base_class_has_no_graph():
  with pytest.raises(NotImplementedError):
    models.BaseModel().create_model(None, 5, None)


@pytest.mark.parametrize(
  "name",
  [
    "LogisticModel",
    "MoeModel",
    "FrameLevelLogisticModel",
    "DbofModel",
    "LstmModel",
  ],
)
def test_the_starters_models_train_with_its_defaults(name):
  model_class = models.find_class_by_name(name)
  assert model_class.batch_size == 1024
  assert model_class.base_learning_rate == 0.01


# --------------------------------------------------------------------------
# resolve_hyperparameters


def test_a_keywords_default_holds_where_the_flag_has_none():
  resolved = models.resolve_hyperparameters("LstmModel")
  assert resolved == {
    "lstm_cells": 1024,
    "lstm_layers": 2,
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
  }


def test_a_model_whose_keyword_defaults_to_none():
  resolved = models.resolve_hyperparameters("StreamLstmModel")
  assert resolved["lstm_cells"] is None
  assert resolved["stream_dense_size"] == 512


def test_a_flags_own_default_and_the_classifiers_keywords():
  assert models.resolve_hyperparameters("DbofModel") == {
    "iterations": 30,
    "sample_random_frames": True,
    "dbof_add_batch_norm": True,
    "dbof_cluster_size": 8192,
    "dbof_hidden_size": 1024,
    "dbof_pooling_method": "max",
    "dbof_activation": "sigmoid",
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
  }


def test_a_models_own_default_goes_before_its_classifiers():
  resolved = models.resolve_hyperparameters("NetVladModel")
  assert resolved["moe_output_gating"] is True
  assert resolved["moe_num_mixtures"] == 2
  with flagsaver.flagsaver(moe_output_gating=False):
    resolved = models.resolve_hyperparameters("NetVladModel")
  assert resolved["moe_output_gating"] is False


def test_typed_flags_win():
  with flagsaver.flagsaver(
    lstm_cells=7, moe_num_mixtures=5, sample_random_frames=False
  ):
    resolved = models.resolve_hyperparameters("LstmModel")
    assert resolved["lstm_cells"] == 7
    assert resolved["moe_num_mixtures"] == 5
    # Another model's flag has no effect.
    assert "sample_random_frames" not in resolved
    resolved = models.resolve_hyperparameters("DbofModel")
    assert resolved["sample_random_frames"] is False
    assert "lstm_cells" not in resolved
    assert models.resolve_hyperparameters("StreamLstmModel")["lstm_cells"] == 7


def test_another_classifier_has_other_keywords():
  with flagsaver.flagsaver(video_level_classifier_model="LogisticModel"):
    resolved = models.resolve_hyperparameters("DbofModel")
  assert resolved["video_level_classifier_model"] == "LogisticModel"
  assert "moe_num_mixtures" not in resolved


def test_unknown_models_and_classifiers_are_refused():
  with pytest.raises(ValueError, match="'NoSuchModel'"):
    models.resolve_hyperparameters("NoSuchModel")
  with (
    flagsaver.flagsaver(video_level_classifier_model="NoSuchModel"),
    pytest.raises(ValueError, match="'NoSuchModel'"),
  ):
    models.resolve_hyperparameters("LstmModel")


@pytest.mark.parametrize("name", ["LstmModel", "DbofModel"])
def test_a_classifier_that_ends_with_a_classifier_is_refused(name, monkeypatch):
  find, found = models.find_class_by_name, []

  def find_a_few_times(wanted):
    found.append(wanted)
    assert len(found) < 20, "looks for a last classifier without end"
    return find(wanted)

  monkeypatch.setattr(models, "find_class_by_name", find_a_few_times)
  with (
    flagsaver.flagsaver(video_level_classifier_model=name),
    pytest.raises(ValueError, match="--video_level_classifier_model"),
  ):
    models.resolve_hyperparameters("DbofModel")


@pytest.mark.parametrize("model_class", model_classes())
def test_the_resolved_values_are_what_create_model_takes(model_class):
  resolved = models.resolve_hyperparameters(model_class.__name__)
  for name, default in keyword_defaults(model_class).items():
    if name in flags.FLAGS:
      assert resolved[name] == default


# --------------------------------------------------------------------------
# build_model and regularization_loss


def test_flags_that_a_model_does_not_know_are_harmless():
  model_flags = make_model_flags(
    video_level_models.LogisticModel,
    dbof_cluster_size=3,
    lstm_cells=1,
    written_by_a_later_version=True,
  )
  model = models.build_model(model_flags)
  # 16 features and a bias for each of 5 classes.
  assert model.count_params() == 17 * 5


def test_inputs_are_named_and_typed():
  model = models.build_model(make_model_flags(video_level_models.MoeModel))
  assert model.name == "MoeModel"
  video_matrix = model.input["video_matrix"]
  assert (video_matrix.shape, video_matrix.dtype) == ((None, 16), "float32")
  model = models.build_model(make_model_flags(frame_level_models.DbofModel))
  video_matrix = model.input["video_matrix"]
  assert (video_matrix.shape, video_matrix.dtype) == ((None, None, 16), "uint8")
  num_frames = model.input["num_frames"]
  assert (num_frames.shape, num_frames.dtype) == ((None,), "int32")


def test_video_features_are_normalised():
  model_flags = make_model_flags(
    video_level_models.LogisticModel, feature_sizes="1,1", num_classes=2
  )
  model = models.build_model(model_flags)
  kernel, bias = model.trainable_variables
  kernel.assign([[1.0, 0.0], [0.0, 1.0]])
  bias.assign([0.0, 0.0])
  batch = {
    "video_matrix": np.array([[30.0, 40.0], [0.0, 0.0]], np.float32),
    "num_frames": np.array([1, 1], np.int32),
  }
  # sigmoid(0.6), sigmoid(0.8); a zero vector stays zero: sigmoid(0).
  np.testing.assert_allclose(
    predict(model, batch), [[0.645656, 0.689974], [0.5, 0.5]], atol=1e-6
  )


def test_frames_are_normalised_one_by_one():
  model_flags = make_model_flags(
    frame_level_models.FrameLevelLogisticModel,
    feature_sizes="1,1",
    num_classes=2,
  )
  model = models.build_model(model_flags, quantized=False)
  kernel, bias = model.trainable_variables
  kernel.assign([[1.0, 0.0], [0.0, 1.0]])
  bias.assign([0.0, 0.0])
  batch = {
    "video_matrix": np.array([[[30, 40], [0.5, 0], [7, 7]]], np.float32),
    "num_frames": np.array([2], np.int32),
  }
  # (0.6, 0.8) and (1, 0) have the mean (0.8, 0.4): sigmoid(0.8), sigmoid(0.4).
  np.testing.assert_allclose(
    predict(model, batch), [[0.689974, 0.598688]], atol=1e-6
  )


def test_mixed_videos_by_hand():
  model = models.build_model(
    make_model_flags(
      video_level_models.LogisticModel, feature_sizes="1,1", num_classes=2
    )
  )
  kernel, bias = model.trainable_variables
  kernel.assign([[1.0, 0.0], [0.0, 1.0]])
  bias.assign([0.0, 0.0])
  batch = {
    "video_matrix": np.array([[30.0, 40.0], [2.0, 0.0]], np.float32),
    "num_frames": np.array([1, 1], np.int32),
    "mixup_weight": np.array([0.75, 0.75], np.float32),
  }
  # 0.75 (0.6, 0.8) + 0.25 (1, 0) = (0.7, 0.6); the other way (0.9, 0.2).
  np.testing.assert_allclose(
    predict(models.add_mixup(model), batch),
    [[0.668188, 0.645656], [0.710950, 0.549834]],
    atol=1e-6,
  )


def test_the_mean_of_mixed_frames_is_over_the_longer_video():
  model_class = frame_level_models.FrameLevelLogisticModel
  model = models.build_model(
    make_model_flags(model_class, feature_sizes="1,1", num_classes=2),
    quantized=False,
  )
  kernel, bias = model.trainable_variables
  kernel.assign([[1.0, 0.0], [0.0, 1.0]])
  bias.assign([0.0, 0.0])
  batch = {
    "video_matrix": np.array(
      [[[3, 4], [9, 9], [9, 9]], [[1, 0], [1, 0], [0, 1]]], np.float32
    ),
    "num_frames": np.array([1, 3], np.int32),
    "mixup_weight": np.array([0.5, 0.5], np.float32),
  }
  # Frames 0.5 (0.6, 0.8) + 0.5 (1, 0), 0.5 (1, 0), 0.5 (0, 1): the mean is
  # (1.3, 0.9) / 3, whichever of the two comes first.
  np.testing.assert_allclose(
    predict(models.add_mixup(model), batch),
    [[0.606669, 0.574443]] * 2,
    atol=1e-6,
  )


def test_regularization_loss_is_half_the_sum_of_squares_times_the_penalty():
  model = models.build_model(make_model_flags(video_level_models.LogisticModel))
  kernel, bias = model.trainable_variables
  kernel.assign(np.full((16, 5), 3.0))
  bias.assign(np.full(5, 100.0))
  # 1e-8 / 2 * 80 * 9; the bias does not count.
  assert float(models.regularization_loss(model, {})) == pytest.approx(3.6e-6)
  # A model's own is added.
  loss = models.regularization_loss(model, {"regularization_loss": 2e-6})
  assert float(loss) == pytest.approx(5.6e-6)


def test_regularization_loss_of_a_model_without_one_is_zero():
  inputs = keras.Input((2,))
  model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
  assert float(models.regularization_loss(model, {})) == 0.0
