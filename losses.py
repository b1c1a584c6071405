"""Losses over all classes of a video, in keras.ops: any backend.

Predictions are probabilities, not logits, as models return them.
"""

from keras import ops

import model_utils


class BaseLoss:
  """A loss that is a sum over the classes of a video."""

  def per_class_loss(self, predictions, labels):
    """Gives each video's and class's part of the loss.

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
    """Gives each video's loss.

    Args:
      predictions: (batch, classes) float probabilities.
      labels: (batch, classes) bool or 0/1 of any dtype.
      label_weights: (batch, classes) float, or None for all 1: for segments,
        1 where the class was rated.

    Returns:
      (batch,) float32.
    """
    return ops.sum(self._weighted(predictions, labels, label_weights), axis=1)

  def calculate_loss(self, predictions, labels, label_weights=None):
    """Gives the mean over the videos, a float32 scalar; see per_video_loss."""
    losses = self._weighted(predictions, labels, label_weights)
    num_videos = ops.cast(ops.shape(losses)[0], losses.dtype)
    return model_utils.total(losses) / num_videos


class CrossEntropyLoss(BaseLoss):
  """-sum_c y log(p + e) + (1 - y) log(1 - p + e), with e = 1e-5."""

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    epsilon = 1e-5
    # A label is 0 or 1, so that one logarithm a class does for both terms.
    likelihood = ops.where(
      ops.cast(labels, "bool"), predictions, 1.0 - predictions
    )
    return -ops.log(likelihood + epsilon)


class HingeLoss(BaseLoss):
  """sum_c max(0, b - s p), with s = 1 for a label and -1 for none.

  Args:
    b: the margin.
  """

  def __init__(self, b=1.0):
    self.b = b

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    sign = 2.0 * ops.cast(labels, "float32") - 1.0
    return ops.maximum(0.0, self.b - sign * predictions)


class SoftmaxLoss(BaseLoss):
  """-sum_c (y_c / |y|) log softmax(p)_c, with |y| the number of labels."""

  def per_class_loss(self, predictions, labels):
    """See BaseLoss."""
    labels = ops.cast(labels, "float32")
    count = ops.maximum(ops.sum(labels, axis=1, keepdims=True), 1e-7)
    return -labels / count * ops.log_softmax(predictions, axis=1)


def find_class_by_name(name: str) -> type[BaseLoss]:
  """Finds a loss class of this file.

  Raises:
    ValueError: there is no such class.
  """
  classes = {found.__name__: found for found in BaseLoss.__subclasses__()}
  if name not in classes:
    raise ValueError(
      f"Expected --label_loss to name a class in losses.py, received {name!r}."
      f" There are: {', '.join(sorted(classes))}."
    )
  return classes[name]
