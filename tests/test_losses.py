"""Tests of losses."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

import losses
import models

ALL_LOSSES = [
  losses.AsymmetricLoss,
  losses.CrossEntropyLoss,
  losses.HingeLoss,
  losses.SoftmaxLoss,
  losses.CategoricalCrossEntropyLoss,
]

# Two videos, three classes; all probabilities except 0.9 are exact in binary.
PREDICTIONS = np.array([[0.5, 0.25, 0.9], [0.0, 0.0, 1.0]], np.float32)
LABELS = np.array([[True, False, True], [False, False, True]])


@pytest.fixture(scope="module")
def golden(shared_dir):
  """Arrays of the original code's losses."""
  return np.load(shared_dir / "golden" / "metrics_and_losses.npz")


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("CrossEntropyLoss", "cross_entropy"),
    ("SoftmaxLoss", "softmax"),
  ],
)
def test_golden_values(golden, name, expected):
  loss = losses.find_class_by_name(name)().calculate_loss(
    golden["loss_predictions"], golden["loss_labels"]
  )
  assert float(loss) == pytest.approx(float(golden[expected]), rel=1e-5)


def test_golden_value_of_the_hinge_loss(golden):
  loss = losses.HingeLoss().calculate_loss(
    golden["loss_predictions"] * 2 - 1, golden["loss_labels"]
  )
  assert float(loss) == pytest.approx(float(golden["hinge"]), rel=1e-5)


def test_golden_value_with_label_weights(golden):
  loss = losses.CrossEntropyLoss().calculate_loss(
    golden["loss_predictions"],
    golden["loss_labels"],
    label_weights=golden["loss_weights"],
  )
  assert float(loss) == pytest.approx(
    float(golden["cross_entropy_weighted"]), rel=1e-5
  )


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    # Video 0: -ln 0.50001 - ln 0.75001 - ln 0.90001
    #   = 0.693127 + 0.287669 + 0.105349 = 1.086145.
    # Video 1: all three are right: -3 ln 1.00001 = -0.00003.
    (losses.CrossEntropyLoss(), [1.086145, -0.00003]),
    # Video 0: (1 - 0.5) + (1 + 0.25) + (1 - 0.9) = 1.85.
    # Video 1: (1 + 0) + (1 + 0) + (1 - 1) = 2.
    (losses.HingeLoss(), [1.85, 2.0]),
    # Margin 0.2: max(0, -0.3) + 0.45 + max(0, -0.7); 0.2 + 0.2 + 0.
    (losses.HingeLoss(hinge_margin=0.2), [0.45, 0.4]),
    # Video 0: the labels as in the cross entropy, 0.693127 + 0.105349; class 1
    # -0.2^4 ln 0.80001 = 0.0016 * 0.223131 = 0.000357. Video 1: no class that
    # is no label has more than 0.05.
    (losses.AsymmetricLoss(), [0.798833, -0.00001]),
    # Labels: -0.5^2 ln 0.50001 - 0.1^2 ln 0.90001 = 0.173282 + 0.001053; class
    # 1: -0.25 ln 0.75001 = 0.071917. Video 1: 0, and -2 * 0 * ln 1.
    (losses.AsymmetricLoss(2.0, 1.0, 0.0), [0.246252, 0.0]),
    # Video 0: ln(e^0.5 + e^0.25 + e^0.9) - (0.5 + 0.9) / 2
    #   = ln(1.648721 + 1.284025 + 2.459603) - 0.7 = 1.684981 - 0.7.
    # Video 1: ln(1 + 1 + e) - 1 = 1.551445 - 1.
    (losses.SoftmaxLoss(), [0.984981, 0.551445]),
  ],
)
def test_numbers_by_hand(loss, expected):
  values = loss.per_video_loss(PREDICTIONS, LABELS)
  np.testing.assert_allclose(values, expected, atol=2e-6)
  mean = loss.calculate_loss(PREDICTIONS, LABELS)
  assert float(mean) == pytest.approx(sum(expected) / 2, abs=2e-6)


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    # The terms of the test above, those of classes 0 and 2 of video 0 with
    # weights 1 and 1/2, and that of class 2 of video 1 with weight 3.
    # 0.693127 + 0.105349 / 2; -3 * 0.00001
    (losses.CrossEntropyLoss(), [0.745802, -0.00003]),
    # The same labels; class 1 of video 0 has weight 0.
    (losses.AsymmetricLoss(), [0.745802, -0.00003]),
    # 0.5 + 0.1 / 2; 3 * 0
    (losses.HingeLoss(), [0.55, 0.0]),
    # (1.684981 - 0.5) / 2 + (1.684981 - 0.9) / 2 / 2: a weight does not change
    # the number of labels. 3 * 0.551445
    (losses.SoftmaxLoss(), [0.788736, 1.654335]),
  ],
)
def test_label_weights_multiply_each_class(loss, expected):
  weights = np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
  values = loss.per_video_loss(PREDICTIONS, LABELS, weights)
  np.testing.assert_allclose(values, expected, atol=2e-6)
  mean = loss.calculate_loss(PREDICTIONS, LABELS, label_weights=weights)
  assert float(mean) == pytest.approx(sum(expected) / 2, abs=2e-6)


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_labels_of_any_dtype_agree(loss_class, dtype):
  loss = loss_class()
  np.testing.assert_array_equal(
    loss.per_video_loss(PREDICTIONS, LABELS.astype(dtype)),
    loss.per_video_loss(PREDICTIONS, LABELS),
  )


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_half_precision_predictions_give_a_float32_loss(loss_class):
  predictions = tf.constant(PREDICTIONS, tf.bfloat16)
  values = loss_class().per_video_loss(predictions, LABELS)
  assert values.dtype == "float32"
  # 0.9 is 0.8984375 in bfloat16; all else is exact.
  rounded = np.where(np.isclose(PREDICTIONS, 0.9), 0.8984375, PREDICTIONS)
  np.testing.assert_allclose(
    values, loss_class().per_video_loss(rounded, LABELS), rtol=1e-6
  )


def test_softmax_loss_of_a_video_without_labels_is_zero():
  values = losses.SoftmaxLoss().per_video_loss(
    PREDICTIONS, np.zeros_like(LABELS)
  )
  assert values.numpy().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_no_videos_give_no_losses(loss_class):
  values = loss_class().per_video_loss(PREDICTIONS[:0], LABELS[:0])
  assert values.shape == (0,)


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    # -y / (p + e) or 1 / (1 - p + e), with e = 1e-5.
    (losses.CrossEntropyLoss(), [-1e5, 1 / 1.00001, -1 / 1.00001, 1e5]),
    # Likewise for labels; else 0 at 0, and at 1 the gradient of
    # -q^4 ln(1 - q + e) at q = 0.95: -4 * 0.857375 * ln 0.05001
    # + 0.814506 / 0.05001 = 10.273334 + 16.286869.
    (losses.AsymmetricLoss(), [-1e5, 0.0, -1 / 1.00001, 26.560203]),
    # -1 for a label, else 1; this margin keeps all hinges away from the kink.
    (losses.HingeLoss(hinge_margin=1.5), [-1.0, 1.0, -1.0, 1.0]),
    # softmax(p) - y / 2, with softmax e^0 or e^1 over 2 + 2e.
    (losses.SoftmaxLoss(), [-0.365529, 0.134471, -0.134471, 0.365529]),
  ],
)
def test_gradients_at_probabilities_of_0_and_1(loss, expected):
  predictions = tf.constant([[0.0, 0.0, 1.0, 1.0]])
  labels = tf.constant([[True, False, True, False]])
  with tf.GradientTape() as tape:
    tape.watch(predictions)
    value = loss.calculate_loss(predictions, labels)
  gradient = tape.gradient(value, predictions)
  # 1 + 1e-5 - 1 is 1.0014e-5 in float32.
  np.testing.assert_allclose(gradient[0], expected, rtol=2e-3)


def random_predictions():
  """Probabilities of 4 videos and 30 classes, some 0 or 1, and labels."""
  generator = np.random.default_rng(3)
  predictions = generator.random((4, 30)).astype(np.float32)
  predictions[:, :4] = [0.0, 1.0, 1e-30, 1.0 - 6e-8]
  return predictions, generator.random((4, 30)) < 0.4


@pytest.mark.parametrize("positive", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("negative", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_asymmetric_loss_against_a_plain_loop(positive, negative, margin):
  predictions, labels = random_predictions()
  expected = np.zeros(4)
  for video, row in enumerate(predictions.astype(np.float64)):
    for p, label in zip(row, labels[video], strict=True):
      shifted = max(p - margin, 0.0)
      if label:
        expected[video] -= (1.0 - p) ** positive * np.log(p + 1e-5)
      else:
        expected[video] -= shifted**negative * np.log(1.0 - shifted + 1e-5)
  loss = losses.AsymmetricLoss(positive, negative, margin)
  values = loss.per_video_loss(predictions, labels)
  np.testing.assert_allclose(values, expected, rtol=1e-3)
  predictions = tf.constant(predictions)
  with tf.GradientTape() as tape:
    tape.watch(predictions)
    value = loss.calculate_loss(predictions, labels)
  assert np.isfinite(tape.gradient(value, predictions)).all()


def test_asymmetric_loss_without_its_settings_is_the_cross_entropy():
  predictions, labels = random_predictions()
  np.testing.assert_allclose(
    losses.AsymmetricLoss(0.0, 0.0, 0.0).per_class_loss(predictions, labels),
    losses.CrossEntropyLoss().per_class_loss(predictions, labels),
    rtol=1e-6,
  )


def test_asymmetric_loss_raises_the_probabilities_of_rare_classes():
  # A class that one video in ten has: 0.1 times the loss as a label and 0.9
  # times that as none, for each probability.
  predictions = np.linspace(0.01, 0.99, 99, dtype=np.float32)[:, None]
  loss = losses.AsymmetricLoss()
  expected = sum(
    share * loss.per_video_loss(predictions, np.full((99, 1), label)).numpy()
    for share, label in ((0.1, True), (0.9, False))
  )
  assert predictions[expected.argmin(), 0] == pytest.approx(0.48)


# --------------------------------------------------------------------------
# A user's own losses


class DistanceLoss(losses.BaseLoss):
  """Not a sum over classes: the distance of the two vectors."""

  def per_video_loss(self, predictions, labels, label_weights=None):
    errors = predictions - keras.ops.cast(labels, "float32")
    if label_weights is not None:
      errors = errors * label_weights
    return keras.ops.sqrt(keras.ops.sum(keras.ops.square(errors), axis=1))


class ScaledHingeLoss(losses.HingeLoss):
  """A subclass with one more setting."""

  def __init__(self, scale=2.0, unflagged=True, **kwargs):
    super().__init__(**kwargs)
    self.scale = scale
    self.unflagged = unflagged

  def per_class_loss(self, predictions, labels):
    return self.scale * super().per_class_loss(predictions, labels)


class UnfinishedLoss(losses.BaseLoss):
  """Has the starter's method only, which evaluation cannot use."""

  def calculate_loss(self, predictions, labels, label_weights=None):
    return 0.0


def test_a_loss_that_is_not_a_sum_over_classes_needs_one_method_too():
  loss = DistanceLoss()
  # sqrt(0.25 + 0.0625 + 0.01), and no error.
  expected = [0.567891, 0.0]
  values = loss.per_video_loss(PREDICTIONS, LABELS)
  np.testing.assert_allclose(values, expected, atol=1e-6)
  mean = loss.calculate_loss(PREDICTIONS, LABELS)
  assert mean.shape == ()
  assert float(mean) == pytest.approx(sum(expected) / 2, abs=1e-6)
  weights = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32)
  mean = loss.calculate_loss(PREDICTIONS, LABELS, weights)
  assert float(mean) == pytest.approx(0.5 / 2)


def test_subclasses_at_any_depth_in_any_file_are_found():
  for loss_class in [*ALL_LOSSES, DistanceLoss, ScaledHingeLoss]:
    assert losses.find_class_by_name(loss_class.__name__) is loss_class


def test_an_unknown_loss_is_answered_with_the_available_ones():
  with pytest.raises(ValueError, match="'CrossEntropy'") as error:
    losses.find_class_by_name("CrossEntropy")
  message = str(error.value)
  assert "--label_loss" in message
  for loss_class in [*ALL_LOSSES, ScaledHingeLoss]:
    assert loss_class.__name__ in message.partition("Available: ")[2]
  assert "BaseLoss" not in message.partition("Available: ")[2]


def test_a_loss_without_a_method_is_refused():
  with pytest.raises(ValueError, match="UnfinishedLoss to define per_class"):
    losses.find_class_by_name("UnfinishedLoss")


# --------------------------------------------------------------------------
# Settings


def test_settings_come_from_flags_or_have_their_defaults():
  assert losses.resolve_hyperparameters("CrossEntropyLoss") == {}
  assert losses.resolve_hyperparameters("HingeLoss") == {"hinge_margin": 1.0}
  with flagsaver.flagsaver(hinge_margin=0.5):
    assert losses.resolve_hyperparameters("HingeLoss") == {"hinge_margin": 0.5}
    assert losses.resolve_hyperparameters("SoftmaxLoss") == {}
    # Also of a subclass; settings without a flag are not kept.
    assert losses.resolve_hyperparameters("ScaledHingeLoss") == {
      "hinge_margin": 0.5
    }
  assert losses.default_hyperparameters("ScaledHingeLoss") == {
    "scale": 2.0,
    "unflagged": True,
    "hinge_margin": 1.0,
  }


def test_a_subclass_may_define_its_flag_in_its_own_file():
  with flagsaver.flagsaver():  # removes new flags at the end
    flags.DEFINE_float("scale", None, "help", module_name=__name__)
    resolved = losses.resolve_hyperparameters("ScaledHingeLoss")
    assert resolved == {"scale": 2.0, "hinge_margin": 1.0}
    with flagsaver.flagsaver(scale=3.0):
      resolved = losses.resolve_hyperparameters("ScaledHingeLoss")
    assert resolved == {"scale": 3.0, "hinge_margin": 1.0}


def test_make_loss():
  loss = losses.make_loss(
    {"model": "SomeModel", "label_loss": "HingeLoss", "hinge_margin": 0.2}
  )
  assert type(loss) is losses.HingeLoss
  assert loss.hinge_margin == 0.2
  # As in a folder that is older than the flag.
  assert losses.make_loss({"label_loss": "HingeLoss"}).hinge_margin == 1.0
  loss = losses.make_loss({"label_loss": "ScaledHingeLoss", "scale": 3.0})
  assert (loss.scale, loss.hinge_margin) == (3.0, 1.0)
  with pytest.raises(ValueError, match="'NoSuchLoss'"):
    losses.make_loss({"label_loss": "NoSuchLoss"})


def test_the_loss_of_exclusive_classes_by_hand():
  predictions = np.float32([[0.25, 0.75, 0], [0.5, 0.5, 0], [0, 0, 1]])
  labels = np.array([[False, True, False], *[[False, False, True]] * 2])
  loss = losses.CategoricalCrossEntropyLoss()
  # -log(0.75), and -log(1e-7) where the label has no probability.
  expected = [0.28768207, 16.118095, 0.0]
  of_videos = loss.per_video_loss(predictions, labels)
  np.testing.assert_allclose(of_videos, expected, rtol=1e-5)
  assert of_videos[2] == 0.0
  np.testing.assert_allclose(
    loss.calculate_loss(predictions, labels), sum(expected) / 3, rtol=1e-5
  )


def test_losses_fit_the_kind_of_classes():
  for name in ("CrossEntropyLoss", "HingeLoss", "SoftmaxLoss"):
    losses.check_fits(name, False)
    with pytest.raises(ValueError, match=f"--label_loss={name}, which is for"):
      losses.make_loss({"label_loss": name, "exclusive_classes": True})
  name = "CategoricalCrossEntropyLoss"
  assert losses.make_loss({"label_loss": name, "exclusive_classes": True})
  with pytest.raises(ValueError, match=f"--exclusive_classes with .*={name},"):
    losses.make_loss({"label_loss": name})


def test_no_setting_of_a_loss_is_a_keyword_of_a_model():
  # Both are in model_flags.json, and a model gets everything in it.
  for module in models.import_model_files():
    for model_class in vars(module).values():
      if inspect.isclass(model_class) and issubclass(
        model_class, models.BaseModel
      ):
        parameters = inspect.signature(model_class.create_model).parameters
        for loss_class in ALL_LOSSES:
          settings = losses.default_hyperparameters(loss_class.__name__)
          assert not settings.keys() & parameters.keys(), model_class


def test_the_base_class_has_no_loss():
  with pytest.raises(NotImplementedError):
    losses.BaseLoss().calculate_loss(PREDICTIONS, LABELS)


# --------------------------------------------------------------------------
# Targets between no label and a label


@pytest.mark.parametrize(
  "loss", [losses.CrossEntropyLoss(), losses.CategoricalCrossEntropyLoss()]
)
def test_cross_entropy_of_targets_by_hand(loss):
  predictions = np.array([[0.5, 0.25, 0.2], [0.1, 0.3, 0.6]], np.float32)
  targets = np.array([[0.25, 0.0, 1.0], [0.5, 0.9, 0.1]], np.float32)
  of_others = 0.0
  if isinstance(loss, losses.CrossEntropyLoss):
    of_others = (1 - targets) * np.log(1 - predictions)
  expected = -(targets * np.log(predictions) + of_others).sum(axis=1).mean()
  assert float(loss.calculate_target_loss(predictions, targets)) == (
    pytest.approx(expected, rel=1e-4)
  )


@pytest.mark.parametrize("weights", [None, [[1, 0, 1], [1, 1, 0]]])
@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_targets_of_0_and_1_are_labels(loss_class, weights):
  loss = loss_class()
  if not loss.takes_targets():
    assert loss_class is losses.SoftmaxLoss
    return
  given = (PREDICTIONS, LABELS.astype(np.float32), weights)
  assert float(loss.calculate_target_loss(*given)) == pytest.approx(
    float(loss.calculate_loss(PREDICTIONS, LABELS, weights)), rel=1e-5
  )


def test_the_loss_of_a_target_lies_between_those_of_its_ends():
  loss = losses.AsymmetricLoss()
  ends = [
    float(loss.calculate_loss(PREDICTIONS, np.full((2, 3), value)))
    for value in (False, True)
  ]
  found = loss.calculate_target_loss(
    PREDICTIONS, np.full((2, 3), 0.25, np.float32)
  )
  assert float(found) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_a_loss_of_whole_videos_takes_no_targets(monkeypatch):
  loss = losses.HingeLoss()
  assert loss.takes_targets()
  monkeypatch.setattr(
    losses.HingeLoss, "per_video_loss", lambda *unused: keras.ops.ones(2)
  )
  assert not loss.takes_targets()
