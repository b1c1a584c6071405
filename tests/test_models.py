"""Tests of models."""

import functools
import math
import threading

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from every_model import (
  CLASSES,
  LENGTH,
  NUM_FRAMES,
  keyword_defaults,
  make_batch,
  make_model_flags,
  model_classes,
  predict,
)

import frame_level_models
import models
import video_level_models
from layers import classifiers, preprocessing, whitening

# --------------------------------------------------------------------------
# Finding a model


def test_find_class_by_name():
  for model_class in model_classes():
    assert models.find_class_by_name(model_class.__name__) is model_class


def test_an_unknown_model_is_answered_with_the_available_ones():
  with pytest.raises(ValueError, match="'NoSuchModel'") as error:
    models.find_class_by_name("NoSuchModel")
  message = str(error.value)
  assert "--model" in message
  for model_class in model_classes():
    assert model_class.__name__ in message
  # A model file has other names too, which are not models.
  with pytest.raises(ValueError, match="'lstm_streams'"):
    models.find_class_by_name("lstm_streams")


def test_classify_passes_hyperparameters_on():
  features = keras.Input((2,))
  outputs = models.classify(
    "MoeModel", features, 3, {"moe_num_mixtures": 4, "unknown": 1}
  )
  model = keras.Model(features, outputs["predictions"])
  # Gates 2 * 3 * 5, experts (2 + 1) * 3 * 4.
  assert model.count_params() == 30 + 36


def test_parameters_are_what_training_changes():
  model = keras.Sequential(
    [keras.Input((4,)), keras.layers.BatchNormalization()]
  )
  assert models.num_parameters(model) == 2 * 4
  assert model.count_params() == 4 * 4


def test_classify_refuses_an_unknown_classifier():
  with pytest.raises(ValueError, match="'NoSuchModel'"):
    models.classify("NoSuchModel", None, 3, {})


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
    "lstm_random_frames": 0,
    "video_level_classifier_model": "MoeModel",
    "moe_num_mixtures": 2,
    "moe_output_gating": False,
    "l2_penalty": 1e-8,
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
    "l2_penalty": 1e-8,
  }


def test_a_models_own_default_overrides_its_classifiers():
  assert models.resolve_hyperparameters("GruModel")["l2_penalty"] == 1e-6
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
    assert len(found) < 20, "searches forever for a last classifier"
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


@pytest.mark.parametrize("model_class", model_classes())
def test_published_settings_are_complete(model_class):
  if "published" not in model_class.presets:
    return
  preset = model_class.presets["published"]
  expected = models.resolve_hyperparameters(model_class.__name__).keys() | {
    "input_transform",
    "batch_size",
    "base_learning_rate",
    "learning_rate_schedule",
    "optimizer",
    "clip_gradient_norm",
    "num_epochs",
  }
  if preset["learning_rate_schedule"] == "exponential":
    expected |= {"learning_rate_decay", "learning_rate_decay_examples"}
  assert expected <= preset.keys()
  assert preset["num_epochs"] or preset["max_steps"]


# --batch_size, --learning_rate_decay (0.9 if a command has none), --max_step,
# --moe_l2 (1e-8), --moe_prob_gating (False) and --iterations of the winners'
# commands of 2017. All have a rate of 0.0002.
@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("NetVladModel", (80, 0.8, 700_000, 1e-6, True, 300)),
    ("NetFvModel", (80, 0.8, 600_000, 1e-6, True, 300)),
    ("DbofModel", (80, 0.9, 1_000_000, 1e-6, False, 300)),
    ("SoftDbowModel", (80, 0.9, 800_000, 1e-8, False, 300)),
    ("GruModel", (128, 0.9, 300_000, 1e-6, False, None)),
    ("LstmModel", (128, 0.9, 400_000, 1e-8, False, 150)),
  ],
)
def test_published_settings_are_those_of_the_winners_commands(name, expected):
  preset = models.find_class_by_name(name).presets["published"]
  assert preset["base_learning_rate"] == 0.0002
  assert preset["learning_rate_decay_examples"] == 4_000_000
  assert expected == (
    preset["batch_size"],
    preset["learning_rate_decay"],
    preset["max_steps"],
    preset["l2_penalty"],
    preset["moe_output_gating"],
    preset.get("iterations", preset.get("lstm_random_frames")),
  )


@pytest.mark.parametrize(
  ("model", "frame_features", "wanted"),
  [
    ("FrameLevelLogisticModel", True, True),
    ("LstmModel", True, False),  # its training is not compiled either
    ("LogisticModel", False, False),  # finishes sooner than compilation
  ],
)
def test_which_predictions_xla_compiles(model, frame_features, wanted):
  flags = {"model": model, "frame_features": frame_features}
  assert models.compiles_predictions(flags) is wanted


# --------------------------------------------------------------------------
# build_model and add_mixup


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


@pytest.fixture
def own_model(monkeypatch):
  """A function that installs a create_model as OwnModel; returns its flags."""

  def make(create_model, frame_features=False):
    model_class = type(
      "OwnModel", (models.BaseModel,), {"create_model": create_model}
    )
    monkeypatch.setattr(
      video_level_models, "OwnModel", model_class, raising=False
    )
    return {
      "model": "OwnModel",
      "feature_names": "rgb,audio",
      "feature_sizes": "12,4",
      "frame_features": frame_features,
      "num_classes": CLASSES,
    }

  return make


@pytest.mark.parametrize(
  ("outputs", "complaint"),
  [
    (
      lambda probabilities: {"prediction": probabilities},
      r'dict with the key "predictions", received the keys \[\'prediction\'\]',
    ),
    (lambda probabilities: probabilities, "received a KerasTensor"),
    (lambda probabilities: None, "received a NoneType"),
    (
      lambda probabilities: {"predictions": [probabilities]},
      r"shape \(None, 5\), .* received list",
    ),
    (
      lambda probabilities: {"predictions": probabilities[:, :4]},
      r"shape \(None, 5\), .* received \(None, 4\)",
    ),
  ],
)
def test_what_create_model_returns_is_checked(own_model, outputs, complaint):
  def create_model(self, model_input, vocab_size, **unused_params):
    return outputs(keras.layers.Dense(vocab_size)(model_input))

  model_flags = own_model(create_model)
  with pytest.raises(ValueError, match=complaint) as error:
    models.build_model(model_flags)
  assert "OwnModel.create_model" in str(error.value)


def test_a_model_may_end_in_the_softmax_within_another_model(own_model):
  def create_model(self, model_input, vocab_size, **unused_params):
    given = keras.Input(model_input.shape[1:])
    logits = keras.layers.Dense(vocab_size)(given)
    classifier = keras.Model(given, classifiers.probabilities(logits))
    return {"predictions": 0.5 * (classifier(model_input) + 1.0 / vocab_size)}

  flags = own_model(create_model)
  assert models.build_model(flags)
  assert models.build_model({**flags, "exclusive_classes": True})


@pytest.mark.parametrize("also", [False, True])
def test_exclusive_classes_need_the_softmax(own_model, also):
  def create_model(self, model_input, vocab_size, **unused_params):
    logits = keras.layers.Dense(vocab_size)(model_input)
    outputs = {"predictions": keras.ops.sigmoid(logits)}
    if also:  # of other logits, it does not count
      others = classifiers.probabilities(keras.layers.Dense(3)(model_input))
      outputs["regularization_loss"] = keras.ops.sum(others)
    return outputs

  flags = own_model(create_model)
  assert models.build_model(flags)
  with pytest.raises(models.ContractError) as error:
    models.build_model({**flags, "exclusive_classes": True})
  text = str(error.value)
  assert text.startswith("Expected OwnModel.create_model to make its")
  assert "layers.classifiers.probabilities(logits)" in text
  assert "\n" not in text


def test_predictions_in_half_precision_are_refused(own_model):
  def create_model(self, model_input, vocab_size, **unused_params):
    layer = keras.layers.Dense(vocab_size, activation="sigmoid")
    return {"predictions": layer(model_input)}

  model_flags = own_model(create_model)
  assert models.build_model(model_flags).output["predictions"].dtype
  with pytest.raises(ValueError, match=r"float32 .* received bfloat16"):
    models.build_model(model_flags, dtype_policy="mixed_bfloat16")


def test_the_dtype_policy_is_that_of_the_argument_on_every_thread():
  model_flags = make_model_flags(video_level_models.LogisticModel)
  before = keras.config.dtype_policy().name
  dtypes = []

  def build(policy):
    model = models.build_model(model_flags, dtype_policy=policy)
    layer = model.get_layer("fully_connected")
    dtypes.append((layer.compute_dtype, layer.variable_dtype))

  keras.config.set_dtype_policy("float16")
  try:
    for policy in ("mixed_bfloat16", None):
      build(policy)
      thread = threading.Thread(target=build, args=(policy,))
      thread.start()
      thread.join()
    assert keras.config.dtype_policy().name == "float16"
    with pytest.raises(ValueError, match="NoSuchModel"):
      models.build_model({**model_flags, "model": "NoSuchModel"}, None, None)
    assert keras.config.dtype_policy().name == "float16"
  finally:
    keras.config.set_dtype_policy(before)
  half, full = ("bfloat16", "float32"), ("float32", "float32")
  assert dtypes == [half, half, full, full]


@pytest.mark.parametrize("frame_features", [True, False])
def test_mixup_finds_its_inputs_whatever_layers_a_model_has(
  own_model, frame_features
):
  def create_model(
    self,
    model_input,
    vocab_size,
    num_frames,
    mean_frame=None,
    **unused_params,
  ):
    mean = model_input
    if frame_features:
      mean = mean_frame + keras.ops.max(
        preprocessing.NormalizeFrames()(model_input, num_frames), axis=1
      )
    # Not the model's inputs, but with their names and classes.
    normalized = preprocessing.L2Normalize(name="normalize")(mean)
    normalized = keras.layers.Identity(name="mean_frame")(normalized)
    layer = keras.layers.Dense(vocab_size, activation="sigmoid")
    return {"predictions": layer(normalized)}

  model_flags = own_model(create_model, frame_features)
  model = models.build_model(model_flags)
  mixed = models.add_mixup(model)
  batch = make_batch(model_flags)
  for weight, video in ((1.0, 0), (0.0, 1)):
    weights = np.full(len(NUM_FRAMES), weight, np.float32)
    equal = {**batch, "num_frames": np.full_like(NUM_FRAMES, LENGTH)}
    predictions = predict(mixed, {**equal, "mixup_weight": weights})
    # The other video is the one before.
    np.testing.assert_allclose(
      predictions, np.roll(predict(model, equal), video, axis=0), atol=1e-6
    )
  half = np.full(len(NUM_FRAMES), 0.5, np.float32)
  predictions = predict(mixed, {**batch, "mixup_weight": half})
  assert abs(predictions - predict(model, batch)).max() > 1e-4


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


def test_video_features_are_normalized():
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


def test_frames_are_normalized_one_by_one():
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


def test_bytes_with_ranges_are_mixed_as_what_they_stand_for():
  """Their means wait for the dequantization, of two features with a range."""
  model_class = frame_level_models.FrameLevelLogisticModel
  model_flags = make_model_flags(
    model_class, feature_sizes="2,1", feature_ranges="0:127.5,-100:155"
  )
  of_bytes, of_floats = (
    models.build_model(model_flags, quantized=quantized)
    for quantized in (True, False)
  )
  of_floats.set_weights(of_bytes.get_weights())
  stored = np.array(
    [
      [[6, 8, 90], [0, 255, 0], [7, 7, 7]],
      [[1, 0, 101], [9, 200, 255], [30, 4, 5]],
    ],
    np.uint8,
  )
  batch = {
    "num_frames": np.array([2, 3], np.int32),
    "mixup_weight": np.array([0.7, 0.7], np.float32),
  }
  floats = stored * np.float32([0.5, 0.5, 1]) - np.float32([0, 0, 100])
  found, wanted = (
    predict(models.add_mixup(model), {**batch, "video_matrix": matrix})
    for model, matrix in ((of_bytes, stored), (of_floats, floats))
  )
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  # The ranges matter: YouTube-8M's gives something else.
  other = models.build_model({**model_flags, "feature_ranges": ""})
  other.set_weights(of_bytes.get_weights())
  found = predict(models.add_mixup(other), {**batch, "video_matrix": stored})
  assert np.abs(found - wanted).max() > 1e-3


# --------------------------------------------------------------------------
# What is done to the features

WHOLE_SIZES = [1024, 3]  # YouTube-8M's rgb, and another feature
TRANSFORMS = ("l2", "none", "dewhiten")
BYTE_RANGES = ("", "0:2.55,-1:2")


def transformed(vector, transform, scales):
  """What the model gets of one dequantized vector, by a plain loop.

  Args:
    vector: (features,), float.
    transform: the name.
    scales: of the first features, those that are whitened.
  """
  if transform == "none":
    return [float(value) for value in vector]
  if transform == "l2":
    length = math.sqrt(sum(float(value) ** 2 for value in vector))
    return [float(value) / max(length, 1e-6) for value in vector]
  result = []
  for index, value in enumerate(vector):
    value = float(value)
    if index < len(scales):
      value = (value - 4 / 512) * scales[index]
    result.append(value)
  return result


def dequantized_byte(byte, index, ranges):
  """The float that a byte of WHOLE_SIZES's features stands for."""
  if not ranges:
    return byte * 4 / 255 + 4 / 512 - 2
  return byte / 100 if index < WHOLE_SIZES[0] else byte * 3 / 255 - 1


@pytest.fixture
def inputs_of(own_model):
  """A function: what create_model gets, as functions of a batch."""

  def make(level, transform, quantized=None, policy=None, **more):
    def create_model(
      self,
      model_input,
      vocab_size,
      num_frames,
      mean_frame=None,
      mean_dequantized_frame=None,
      **unused_params,
    ):
      is_frames = mean_frame is not None
      layer = keras.layers.Dense(vocab_size, "sigmoid", dtype="float32")
      outputs = {
        "predictions": layer(mean_frame if is_frames else model_input),
        "model_input": model_input,
      }
      if is_frames:
        outputs["mean_frame"] = mean_frame
        outputs["mean_dequantized_frame"] = mean_dequantized_frame
      # add_mixup takes these tensors as inputs, which cannot be outputs too.
      return {
        name: keras.layers.Identity(dtype=value.dtype)(value)
        for name, value in outputs.items()
      }

    model_flags = own_model(create_model, frame_features=level == "frame")
    model_flags["feature_sizes"] = ",".join(map(str, WHOLE_SIZES))
    prefix = "" if level == "frame" else "mean_"
    model_flags["feature_names"] = f"{prefix}rgb,{prefix}audio"
    if transform != "l2":  # which needs no key
      model_flags["input_transform"] = transform
    return models.build_model({**model_flags, **more}, quantized, policy)

  return make


@functools.cache
def stored_frames():
  """(3, 4, 1027) bytes, and the numbers of valid frames."""
  generator = np.random.default_rng(7)
  frames = generator.integers(
    256, size=(3, 4, sum(WHOLE_SIZES)), dtype=np.uint8
  )
  return frames, np.array([4, 2, 0], np.int32)


def expected_inputs(frames, num_frames, transform):
  """Transformed frames, their means, and those of the frames as they are."""
  scales = whitening.youtube8m_scales()
  result = np.zeros(frames.shape)
  for video, valid in enumerate(num_frames):
    for index in range(valid):
      result[video, index] = transformed(
        frames[video, index], transform, scales
      )
  divisor = np.maximum(num_frames, 1)[:, None]
  valid = np.arange(frames.shape[1]) < num_frames[:, None]
  sums = np.where(valid[:, :, None], frames, 0).sum(axis=1)
  return {
    "model_input": result,
    "mean_frame": result.sum(axis=1) / divisor,
    "mean_dequantized_frame": sums / divisor,
  }


@pytest.mark.parametrize("ranges", BYTE_RANGES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_frames_against_a_plain_loop(inputs_of, transform, ranges):
  stored, num_frames = stored_frames()
  floats = np.array(
    [
      [
        [dequantized_byte(int(b), i, ranges) for i, b in enumerate(frame)]
        for frame in video
      ]
      for video in stored
    ]
  )
  expected = expected_inputs(floats, num_frames, transform)
  for quantized, frames in ((True, stored), (False, floats.astype("float32"))):
    model = inputs_of("frame", transform, quantized, feature_ranges=ranges)
    batch = {"video_matrix": frames, "num_frames": num_frames}
    outputs = model(batch, training=False)
    for name, value in expected.items():
      assert outputs[name].dtype == "float32"
      np.testing.assert_allclose(outputs[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_videos_against_a_plain_loop(inputs_of, transform):
  generator = np.random.default_rng(8)
  # As stored in half precision.
  videos = generator.normal(size=(3, sum(WHOLE_SIZES))).astype(np.float16)
  expected = [
    transformed(video, transform, whitening.youtube8m_scales())
    for video in videos
  ]
  batch = {
    "video_matrix": videos.astype(np.float32),
    "num_frames": np.ones(3, np.int32),
  }
  outputs = inputs_of("video", transform)(batch, training=False)
  np.testing.assert_allclose(outputs["model_input"], expected, atol=1e-5)


@pytest.mark.parametrize("level", ["frame", "video"])
@pytest.mark.parametrize("transform", ["none", "dewhiten"])
def test_half_precision_begins_after_the_transformation(
  inputs_of, level, transform
):
  frames, num_frames = stored_frames()
  if level == "video":
    frames = frames[:, 0].astype(np.float32) / 100
  batch = {"video_matrix": frames, "num_frames": num_frames}
  exact = inputs_of(level, transform)(batch, training=False)
  half = inputs_of(level, transform, policy="mixed_bfloat16")(
    batch, training=False
  )
  for name in set(exact) - {"predictions"}:
    assert half[name].dtype == "bfloat16"
    np.testing.assert_array_equal(
      keras.ops.cast(half[name], "float32"),
      keras.ops.cast(keras.ops.cast(exact[name], "bfloat16"), "float32"),
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_frames_are_mixed(inputs_of, transform):
  frames, num_frames = stored_frames()
  model = inputs_of("frame", transform)
  # The shorter video's missing frames count as zeros, also in the means.
  single = model({"video_matrix": frames, "num_frames": num_frames})
  weight = np.full(3, 0.75, np.float32)
  mixed = models.add_mixup(model)(
    {"video_matrix": frames, "num_frames": num_frames, "mixup_weight": weight}
  )
  longer = np.maximum(num_frames, np.roll(num_frames, 1))
  for name in ("model_input", "mean_frame", "mean_dequantized_frame"):
    values = single[name].numpy()
    if name != "model_input":
      values = values * num_frames[:, None]
    expected = 0.75 * values + 0.25 * np.roll(values, 1, axis=0)
    if name != "model_input":
      expected = expected / longer[:, None]
    np.testing.assert_allclose(mixed[name], expected, atol=1e-5, err_msg=name)


def test_scales_of_model_flags_replace_youtube8ms(inputs_of):
  frames, num_frames = stored_frames()
  batch = {"video_matrix": frames, "num_frames": num_frames}
  kept = inputs_of("frame", "none")(batch)["model_input"].numpy()
  model = inputs_of("frame", "dewhiten", dewhiten_scales=[[], [2.0, 0.5, -1.0]])
  found = model(batch)["model_input"].numpy()
  np.testing.assert_allclose(found[..., :1024], kept[..., :1024], atol=1e-6)
  np.testing.assert_allclose(
    found[:2, 0, 1024:],
    (kept[:2, 0, 1024:] - 0.0078125) * [2.0, 0.5, -1.0],
    atol=1e-6,
  )
  np.testing.assert_array_equal(found[2], np.zeros((4, 1027)))


@pytest.mark.parametrize(
  ("changes", "complaint"),
  [
    ({"input_transform": "l1"}, "one of l2, none, dewhiten, received 'l1'"),
    (
      {"feature_names": "clip,audio"},
      "received 0, 0 scales for the features clip,audio with 1024, 3 numbers",
    ),
    ({"dewhiten_scales": [[], [1.0]]}, "received 0, 1 scales"),
  ],
)
@pytest.mark.parametrize("level", ["frame", "video"])
def test_transformations_that_do_not_fit_are_refused(
  inputs_of, level, changes, complaint
):
  with pytest.raises(ValueError, match=complaint) as error:
    inputs_of(level, "dewhiten", **changes)
  assert str(error.value).startswith("Expected")


# --------------------------------------------------------------------------
# regularization_loss


def test_regularization_loss_is_half_the_sum_of_squares_times_the_penalty():
  model = models.build_model(make_model_flags(video_level_models.LogisticModel))
  kernel, bias = model.trainable_variables
  kernel.assign(np.full((16, 5), 3.0))
  bias.assign(np.full(5, 100.0))
  # 1e-8 / 2 * 80 * 9; the bias does not count.
  assert float(models.regularization_loss(model, {})) == pytest.approx(3.6e-6)
  # The model's own loss is added.
  loss = models.regularization_loss(model, {"regularization_loss": 2e-6})
  assert float(loss) == pytest.approx(5.6e-6)


def test_regularization_loss_of_a_model_without_one_is_zero():
  inputs = keras.Input((2,))
  model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
  assert float(models.regularization_loss(model, {})) == 0.0
