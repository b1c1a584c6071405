"""Losses of a video's predictions, in keras.ops for any backend.

Predictions are probabilities, not logits, as models return them.

To add a loss, write a subclass of BaseLoss, or of another loss, with one
method, and above it a flag for each of its settings, named like the keyword of
__init__. It may be in another file that is imported.
"""

import inspect

from absl import flags
from keras import ops

import errors
from layers import sums

FLAGS = flags.FLAGS

EPSILON = 1e-5
"""Added to probabilities before their logarithm is taken."""


class BaseLoss:
  """Base class of all losses.

  A loss overrides one method, which training and evaluation both use:
  per_class_loss if it is a sum over the classes of a video, else
  per_video_loss. The other methods follow.

  Each setting is a keyword of __init__ with a default. A flag with the same
  name sets it, and model_flags.json keeps it.

  Attributes:
    for_exclusive_classes: whether it judges one distribution over the classes,
      as models predict it with --exclusive_classes, instead of a probability
      for each class.
  """

  for_exclusive_classes = False

  def per_class_loss(self, predictions, labels):
    """Returns each class's part of each video's loss.

    Args:
      predictions: (batch, classes) float32 probabilities.
      labels: (batch, classes) bool or 0/1 of any dtype.

    Returns:
      (batch, classes) float32.
    """
    raise NotImplementedError

  def _weighted(self, predictions, labels, label_weights):
    losses = self.per_class_loss(ops.cast(predictions, "float32"), labels)
    if label_weights is None:
      return losses
    return losses * ops.cast(label_weights, losses.dtype)

  def per_video_loss(self, predictions, labels, label_weights=None):
    """Returns each video's loss: the sum of its classes' parts.

    Args:
      predictions: (batch, classes) float probabilities.
      labels: (batch, classes) bool or 0/1 of any dtype.
      label_weights: (batch, classes) float, or None for all 1. Segments have
        1 where the class was rated, else 0.

    Returns:
      (batch,) float32.
    """
    return ops.sum(self._weighted(predictions, labels, label_weights), axis=1)

  def calculate_loss(self, predictions, labels, label_weights=None):
    """Returns the mean of per_video_loss over the videos, a float32 scalar."""
    if type(self).per_video_loss is BaseLoss.per_video_loss:
      # One sum over all of it is faster than one for each video.
      losses = self._weighted(predictions, labels, label_weights)
    else:
      losses = self.per_video_loss(predictions, labels, label_weights)
    return self._mean_over_videos(losses)

  def calculate_target_loss(self, predictions, targets, label_weights=None):
    """The mean loss over the videos, of targets between no label and a label.

    A target t counts as a label in the fraction t of cases: t times the loss of
    a label, plus 1 - t times that of none.

    Args:
      predictions: (batch, classes) float probabilities.
      targets: (batch, classes) float32, from 0 to 1.
      label_weights: see per_video_loss.

    Returns:
      A float32 scalar. For targets of 0 and 1 it is calculate_loss.
    """
    of_labels, of_others = (
      self._weighted(predictions, labels, label_weights)
      for labels in (ops.ones_like(targets), ops.zeros_like(targets))
    )
    losses = targets * of_labels + (1.0 - targets) * of_others
    return self._mean_over_videos(losses)

  def takes_targets(self) -> bool:
    """Whether calculate_target_loss is right: classes do not share a loss."""
    if type(self).per_video_loss is not BaseLoss.per_video_loss:
      return False
    predictions = ops.array([[0.1, 0.7, 0.4], [0.6, 0.2, 0.9]])
    labels = ops.array([[True, False, True], [False, True, False]])
    of_labels, of_others = (
      self.per_class_loss(predictions, ops.full_like(labels, value))
      for value in (True, False)
    )
    together = self.per_class_loss(predictions, labels)
    apart = ops.where(labels, of_labels, of_others)
    return bool(ops.all(ops.abs(together - apart) < 1e-6))

  def _mean_over_videos(self, losses):
    num_videos = ops.cast(ops.shape(losses)[0], losses.dtype)
    return sums.total(losses) / num_videos


class CrossEntropyLoss(BaseLoss):
  """-sum_c y log(p + e) + (1 - y) log(1 - p + e), with e = EPSILON."""

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    # A label is 0 or 1, so one logarithm for each class is enough.
    likelihood = ops.where(
      ops.cast(labels, "bool"), predictions, 1.0 - predictions
    )
    return -ops.log(likelihood + EPSILON)


flags.DEFINE_float(
  "hinge_margin",
  1.0,
  "HingeLoss: the margin b in max(0, b - s p); s is 1 for a label, else -1.",
  lower_bound=0.0,
)


class HingeLoss(BaseLoss):
  """sum_c max(0, b - s p), with s = 1 for a label, else -1.

  Args:
    hinge_margin: b, the margin.
  """

  def __init__(self, hinge_margin=1.0):
    self.hinge_margin = hinge_margin

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    sign = 2.0 * ops.cast(labels, "float32") - 1.0
    return ops.maximum(0.0, self.hinge_margin - sign * predictions)


flags.DEFINE_float(
  "asymmetric_gamma_positive",
  0.0,
  "AsymmetricLoss: exponent that makes labels that are already likely count"
  " less; 0: not at all.",
  lower_bound=0.0,
)
flags.DEFINE_float(
  "asymmetric_gamma_negative",
  4.0,
  "AsymmetricLoss: exponent that makes classes that are already unlikely and no"
  " labels count less; 0: not at all.",
  lower_bound=0.0,
)
flags.DEFINE_float(
  "asymmetric_margin",
  0.05,
  "AsymmetricLoss: the probability up to which a class that is no label costs"
  " nothing.",
  lower_bound=0.0,
  upper_bound=0.99,
)


class AsymmetricLoss(BaseLoss):
  """The cross entropy in which easy classes that are no labels count little.

  -sum_c y (1 - p)^g+ log(p + e) + (1 - y) q^g- log(1 - q + e), with
  q = max(p - margin, 0) and e = EPSILON. With both exponents and the margin 0,
  it is CrossEntropyLoss. Its minimum is not at the labels' frequency: with the
  defaults, a class that one video in ten has is best predicted as 0.48. GAP
  ranks the predictions of all videos together, so measure before you use it.
  Source: Ridnik et al. 2021, Asymmetric Loss, equations 4 to 7.

  Args:
    asymmetric_gamma_positive: g+, for labels.
    asymmetric_gamma_negative: g-, for the others.
    asymmetric_margin: what is subtracted from the probability of the others.
  """

  def __init__(
    self,
    asymmetric_gamma_positive=0.0,
    asymmetric_gamma_negative=4.0,
    asymmetric_margin=0.05,
  ):
    self.gamma_positive = asymmetric_gamma_positive
    self.gamma_negative = asymmetric_gamma_negative
    self.margin = asymmetric_margin

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    labels = ops.cast(labels, "bool")
    missing = 1.0 - predictions
    shifted = ops.maximum(predictions - self.margin, 0.0)
    likelihood = ops.where(labels, predictions, 1.0 - shifted)
    focus = ops.where(
      labels,
      _power(missing, self.gamma_positive),
      _power(shifted, self.gamma_negative),
    )
    return -focus * ops.log(likelihood + EPSILON)


def _power(values, exponent):
  """values^exponent for values from 0 to 1, with a finite gradient at 0.

  The gradient of x^0 at 0 is 0 * infinity, that of a root infinite.
  """
  if exponent == 0.0:
    return ops.ones_like(values)
  return ops.power(ops.maximum(values, 1e-8), exponent)


class SoftmaxLoss(BaseLoss):
  """-sum_c (y_c / |y|) log softmax(p)_c, with |y| the number of labels.

  As the starter's, it takes the softmax of probabilities, which are sigmoids
  already, so that no class can be more than e times as likely as another one,
  and the loss has a floor far above 0. For videos with one class, the loss of
  one softmax is CategoricalCrossEntropyLoss, with --exclusive_classes.
  """

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    labels = ops.cast(labels, "float32")
    count = ops.maximum(ops.sum(labels, axis=1, keepdims=True), 1e-7)
    return -labels / count * ops.log_softmax(predictions, axis=1)


class CategoricalCrossEntropyLoss(BaseLoss):
  """-sum_c y_c log((p_c + e) / (1 + e)), e = 1e-7, for --exclusive_classes.

  One y_c is 1, and p is a distribution over the classes. With a probability for
  each class it would teach a model to predict all of them.
  """

  for_exclusive_classes = True

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    epsilon = 1e-7
    likelihood = (predictions + epsilon) / (1.0 + epsilon)
    return ops.where(ops.cast(labels, "bool"), -ops.log(likelihood), 0.0)


# Where --exclusive_classes is given and --label_loss is not.
DEFAULT_FOR_EXCLUSIVE_CLASSES = CategoricalCrossEntropyLoss.__name__


def check_fits(name: str, exclusive_classes: bool) -> None:
  """Checks that a loss judges what a model predicts.

  Args:
    name: a subclass of BaseLoss.
    exclusive_classes: whether each video has exactly one class.

  Raises:
    ValueError: it does not, or there is no such loss.
  """
  fits = find_class_by_name(name).for_exclusive_classes
  if exclusive_classes and not fits:
    raise ValueError(
      "Expected a loss of one distribution over the classes with"
      f" --exclusive_classes, received --label_loss={name}, which is for a"
      " probability of each class by itself. Leave it out, for"
      f" {DEFAULT_FOR_EXCLUSIVE_CLASSES}; a loss of your own says"
      " for_exclusive_classes = True in its class."
    )
  if fits and not exclusive_classes:
    raise ValueError(
      f"Expected --exclusive_classes with --label_loss={name}, received none."
      " It rewards the probability of the label alone, so that with a"
      " probability for each class a model would predict all of them. Add"
      " --exclusive_classes if each video has one label, else leave"
      " --label_loss out."
    )


def _subclasses(loss_class):
  """All subclasses at any depth, by name."""
  found = {}
  for subclass in loss_class.__subclasses__():
    found |= {subclass.__name__: subclass, **_subclasses(subclass)}
  return found


def class_names() -> list[str]:
  """The names that --label_loss takes, sorted."""
  return sorted(_subclasses(BaseLoss))


def find_class_by_name(name: str) -> type[BaseLoss]:
  """Finds a loss: any subclass of BaseLoss in a file that was imported.

  Raises:
    ValueError: there is no such class, or it has no method of a loss.
  """
  classes = _subclasses(BaseLoss)
  if name not in classes:
    raise ValueError(
      f"Expected --label_loss to name a subclass of losses.BaseLoss, received"
      f" {name!r}.{errors.did_you_mean(name, classes)} Available:"
      f" {', '.join(sorted(classes))}."
    )
  found = classes[name]
  if (
    found.per_class_loss is BaseLoss.per_class_loss
    and found.per_video_loss is BaseLoss.per_video_loss
  ):
    raise ValueError(
      f"Expected {name} to define per_class_loss or per_video_loss, received"
      " neither. calculate_loss follows from one of them: define that one."
    )
  return found


def default_hyperparameters(name: str) -> dict:
  """Returns the settings of a loss with their defaults.

  Args:
    name: a subclass of BaseLoss.

  Returns:
    {keyword of __init__: default}, those of a base class included where
    **kwargs passes them on.

  Raises:
    ValueError: there is no such loss.
  """
  keywords = {}
  for base in find_class_by_name(name).__mro__:
    if "__init__" not in vars(base):
      continue
    parameters = inspect.signature(base.__init__).parameters.values()
    for parameter in parameters:
      if parameter.default is not parameter.empty:
        keywords.setdefault(parameter.name, parameter.default)
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
      break
  return keywords


def resolve_hyperparameters(name: str) -> dict:
  """Collects the settings of a loss from flags and its defaults.

  A keyword of __init__ that is also a flag, of the file of the class or of a
  base class, takes the flag's value, or the keyword's default if the flag is
  None.

  Args:
    name: a subclass of BaseLoss.

  Returns:
    {keyword: value}, to be kept in model_flags.json.

  Raises:
    ValueError: there is no such loss.
  """
  modules = FLAGS.flags_by_module_dict()
  values = {
    flag.name: flag.value
    for base in find_class_by_name(name).__mro__
    for flag in modules.get(base.__module__, [])
  }
  return {
    keyword: default if values[keyword] is None else values[keyword]
    for keyword, default in default_hyperparameters(name).items()
    if keyword in values
  }


def make_loss(model_flags: dict) -> BaseLoss:
  """Makes the loss that a model is trained with.

  Args:
    model_flags: the content of model_flags.json: "label_loss" and the settings
      of this loss. Missing settings have their defaults.

  Raises:
    ValueError: there is no such loss, or it is for another kind of classes.
  """
  name = model_flags["label_loss"]
  check_fits(name, bool(model_flags.get("exclusive_classes")))
  settings = {
    keyword: model_flags.get(keyword, default)
    for keyword, default in default_hyperparameters(name).items()
  }
  return find_class_by_name(name)(**settings)
