"""Tests of the contract that every model in the model files must meet."""

import inspect
import itertools
import random
import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from every_model import (
  CLASSES,
  FEATURE_SIZES,
  LENGTH,
  MODEL_FILES,
  NUM_FRAMES,
  dequantized,
  is_frame_level,
  keyword_defaults,
  make_batch,
  make_model_flags,
  model_classes,
  predict,
  rows,
)

import losses
import models
from engine.checkpoints import Checkpoints, load_weights
from engine.model_flags import require_model_flags, write_model_flags


class Case:
  """A small model of a class, its flags and a batch for it."""

  def __init__(self, model_class):
    # Keras draws the seeds of initializers, dropout and sampling from here.
    random.seed(1)
    self.model_flags = make_model_flags(model_class)
    self.model = models.build_model(self.model_flags)
    self.batch = make_batch(self.model_flags)
    # Moves the statistics of batch normalization away from 0 and 1.
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
    if is_frame_level(model_class)
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
    outputs = case.model(case.batch, training=training)
    for predictions in (
      outputs["predictions"],
      *outputs.get("auxiliary_predictions", []),
    ):
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
    # Without the regularizers, whose gradients would reach each kernel.
    loss = sum(
      losses.CrossEntropyLoss().calculate_loss(predictions, labels)
      for predictions in (
        outputs["predictions"],
        *outputs.get("auxiliary_predictions", []),
      )
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
  # In training, batch normalization subtracts the batch's mean, so a shift
  # before it has no effect except by rounding; its running mean hides no shift.
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
    "auxiliary_predictions",
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
  write_model_flags(folder, case.model_flags)
  path = Checkpoints(folder, 1, model=case.model).save(7)
  rebuilt = models.build_model(require_model_flags(folder))
  expected = predict(case.model, case.batch)
  # The new model starts from other random weights.
  assert abs(predict(rebuilt, case.batch) - expected).max() > 1e-4
  load_weights(rebuilt, path)
  np.testing.assert_array_equal(predict(rebuilt, case.batch), expected)


def test_half_precision_inside_gives_float32_probabilities(case):
  half = models.build_model(case.model_flags, dtype_policy="mixed_bfloat16")
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
  # Two equal models, with the same random seeds.
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
  # Nor do the statistics of batch normalization.
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
  # The others do not change.
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


def models_by_default(flag) -> dict:
  """What a flag's help says: {default as text: names of models}.

  A flag with a default names the models before a colon. One without says
  "Default: 30 (SomeModel, AnotherModel), 300 (ThirdModel)."
  """
  text = re.sub(r"^<.*?>: ", "", flag.help)  # absl's, of an enum
  if flag.default is not None:
    return {str(flag.default): text.partition(":")[0].split(", ")}
  groups = re.findall(
    r"(?:, )?([^()]+) \(([^()]+)\)", text.split("Default: ")[1]
  )
  return {default: names.split(", ") for default, names in groups}


MODEL_FLAGS = [
  (module, flag)
  for module in MODEL_FILES
  for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]
]


@pytest.mark.parametrize(
  ("module", "flag"), MODEL_FLAGS, ids=[flag.name for _, flag in MODEL_FLAGS]
)
def test_a_flags_help_names_its_models_and_their_defaults(module, flag):
  told = models_by_default(flag)
  expected = {
    model_class.__name__: keyword_defaults(model_class)[flag.name]
    for model_class in model_classes()
    if flag.name in keyword_defaults(model_class)
  }
  assert sorted(itertools.chain(*told.values())) == sorted(expected)
  for default, names in told.items():
    for name in names:
      if expected[name] is None:
        assert default.startswith("the size of"), name
      elif expected[name] == "":
        assert default == "empty", name
      else:
        assert default == str(expected[name]), name


@pytest.mark.parametrize(
  ("module", "flag"), MODEL_FLAGS, ids=[flag.name for _, flag in MODEL_FLAGS]
)
def test_a_flag_stands_directly_above_the_first_model_that_takes_it(
  module, flag
):
  takers = [
    model_class
    for model_class in model_classes()
    if flag.name in keyword_defaults(model_class)
  ]
  assert takers[0].__module__ == module.__name__
  source = inspect.getsource(module)
  defined = re.search(rf'DEFINE_\w+\(\s*"{flag.name}",', source).start()
  assert defined < source.index(f"class {takers[0].__name__}(")
  between = source[defined : source.index(f"class {takers[0].__name__}(")]
  assert not re.search(r"^class ", between, re.MULTILINE)
