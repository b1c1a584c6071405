"""The metrics of YouTube-8M: Hit@1, PERR, GAP and mAP.

Everything is computed from the ranking of each video's predictions, largest
first:

* Hit@1: the share of videos whose first class is one of their labels.
* PERR, precision at equal recall rate: for a video with n labels, the share of
  labels among its first n classes; averaged over the videos.
* GAP@k, global average precision: the average precision of one ranking of the
  first k predictions of all videos. Positives outside the first k count as
  missed.
* mAP: the average precision of each class over the same predictions, averaged
  over the classes that have positives.

Of equal predictions of a video, the lower class index is ranked first. In the
rankings of GAP and mAP, negatives come before positives of the same prediction.
So scores do not depend on the order of the videos. A video without labels
scores 0 in Hit@1 and PERR and counts in both means, as in the original starter
code. (There a class also had to be predicted above 0 to count in PERR; here
only its rank matters, as in the definition.)

Segments are rated for few classes. With label_weights, (segment, class) pairs
of weight 0 are removed before ranking and counting.

Sources: for Hit@1, PERR and mAP, Abu-El-Haija et al., "YouTube-8M: A
Large-Scale Video Classification Benchmark", 2016,
https://arxiv.org/abs/1609.08675; for GAP, the evaluation page of the 2017
contest, https://www.kaggle.com/c/youtube8m.
"""

import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import average_precision_calculator as ap_calculator
import mean_average_precision_calculator as map_calculator
import ranking

# --------------------------------------------------------------------------
# The table of metrics


def hits_at_one(ranked):
  """Whether each video's best class is one of its labels, (videos,) bool."""
  return ranked.actuals[:, 0]


def precisions_at_equal_recall(ranked):
  """PERR of each video, (videos,) float64; 0 for a video without labels."""
  return _precisions_at_equal_recall(ranked.actuals, ranked.num_labels)


def mean_average_precision(calculator):
  """MAP over everything accumulated; 0 if no class has positives."""
  average_precisions = calculator.peek_map_at_n()
  return float(np.mean(average_precisions)) if average_precisions else 0.0


def global_average_precision(calculator):
  """GAP over everything accumulated."""
  return calculator.peek_pooled_ap()


class Metric(NamedTuple):
  """A metric of an evaluation.

  Attributes:
    name: its key in metrics-<step>.json, with the prefix avg_ if it is a mean
      over videos.
    tag: its name in TensorBoard.
    per_video: RankedVideos -> (videos,) numbers, whose mean over all videos is
      the metric; or None.
    whole: MeanAveragePrecisionCalculator over the videos' top k predictions ->
      number, for a metric that is not a mean over videos; or None.
    in_training: whether reported training steps show it.
  """

  name: str
  tag: str
  per_video: Callable | None = None
  whole: Callable | None = None
  in_training: bool = True

  @property
  def key(self):
    """Its key in the scores of an evaluation."""
    return f"avg_{self.name}" if self.per_video else self.name


METRICS = (
  Metric("hit_at_one", "Hit@1", per_video=hits_at_one),
  Metric("perr", "Perr", per_video=precisions_at_equal_recall),
  Metric("map", "MAP", whole=mean_average_precision, in_training=False),
  Metric("gap", "GAP", whole=global_average_precision),
)
"""All metrics. To add one, write a function above and a line here."""


def evaluation_tags(scope):
  """The TensorBoard tags of an evaluation.

  Args:
    scope: "Eval", or "SegEval" for segments.

  Returns:
    {tag: key of EvaluationMetrics.scores, or examples_per_second}.
  """
  means = {metric.tag: metric.key for metric in METRICS if metric.per_video}
  means["Loss"] = "avg_loss"
  return {
    **{f"GlobalStep/{scope}_{tag}": key for tag, key in means.items()},
    f"GlobalStep/{scope}_Example_Second": "examples_per_second",
    **{f"Epoch/{scope}_Avg_{tag}": key for tag, key in means.items()},
    **{
      f"Epoch/{scope}_{metric.tag}": metric.key
      for metric in METRICS
      if metric.whole
    },
  }


COMPARED_TAGS = {
  "compare/Hit@1": ("hit_at_one", "avg_hit_at_one"),
  "compare/PERR": ("perr", "avg_perr"),
  "compare/GAP": ("gap", "gap"),
  "compare/loss": ("loss", "avg_loss"),
}
"""Second tags, which both training and evaluation have.

TensorBoard lays curves of one tag over each other. For each tag, the name of
the score of a training step (see score_batch), and its key in the scores of an
evaluation.
"""


def score_batch(predictions, labels, top_k=20):
  """The metrics that a reported training step shows.

  Args:
    predictions: (videos, classes) floats.
    labels: (videos, classes) labels, bool or 0 and 1 of any dtype.
    top_k: number of predictions of each video that count in GAP.

  Returns:
    {name: float} of the METRICS that are for training.

  Raises:
    ValueError: shapes do not fit, or a prediction is NaN or infinite.
  """
  metrics = EvaluationMetrics(np.shape(predictions)[1], top_k)
  metrics.accumulate(predictions, labels, loss=0.0)
  scores = metrics.scores(only_training=True)
  return {
    metric.name: scores[metric.key] for metric in METRICS if metric.in_training
  }


# --------------------------------------------------------------------------
# Metrics of one batch, and rankings


def flatten(nested):
  """Joins a list of lists into one list.

  Args:
    nested: a sequence of sequences.

  Returns:
    A list of all their items, in order.
  """
  return [item for items in nested for item in items]


def calculate_hit_at_one(predictions, actuals, label_weights=None):
  """Hit@1: the share of videos whose best class is one of their labels.

  Args:
    predictions: (videos, classes) floats.
    actuals: (videos, classes) labels, bool or 0 and 1 of any dtype.
    label_weights: (videos, classes) numbers or None. Only the classes of weight
      above 0 are ranked.

  Returns:
    The mean over the videos, a float; NaN without videos.

  Raises:
    ValueError: shapes do not fit, or a prediction is NaN or infinite.
  """
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = ranking.rank_videos(predictions, actuals, 1, label_weights)
  return _mean(ranked.actuals[:, 0])


def calculate_precision_at_equal_recall_rate(
  predictions, actuals, label_weights=None
):
  """PERR: precision over as many predictions as the video has labels.

  Args:
    predictions: (videos, classes) floats.
    actuals: (videos, classes) labels, bool or 0 and 1 of any dtype.
    label_weights: (videos, classes) numbers or None. Only the classes of weight
      above 0 are ranked, and only their labels count.

  Returns:
    The mean over the videos, a float; NaN without videos. A video without
    labels counts as 0.

  Raises:
    ValueError: shapes do not fit, or a prediction is NaN or infinite.
  """
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = ranking.rank_videos_for_perr(
    predictions, actuals, ranking.USUAL_LABELS, label_weights
  )
  return _mean(_precisions_at_equal_recall(ranked.actuals, ranked.num_labels))


def calculate_gap(predictions, actuals, top_k=20, label_weights=None):
  """GAP@k: average precision of all videos' top k predictions, pooled.

  Args:
    predictions: (videos, classes) floats.
    actuals: (videos, classes) labels, bool or 0 and 1 of any dtype.
    top_k: number of predictions of each video that count.
    label_weights: (videos, classes) numbers or None. Only the classes of weight
      above 0 are ranked, and only their labels count.

  Returns:
    The global average precision, a float; 0.0 without labels.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or top_k is
      not a positive integer.
  """
  _check_k(top_k, "top_k")
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = ranking.rank_videos(predictions, actuals, top_k, label_weights)
  filled = ranked.predictions > -np.inf
  return ap_calculator.AveragePrecisionCalculator.ap_at_n(
    ranked.predictions[filled],
    ranked.actuals[filled],
    n=None,
    total_num_positives=int(ranked.num_labels.sum()),
  )


def top_k_by_class(predictions, labels, k=20):
  """Each video's top k predictions, gathered by class.

  Args:
    predictions: (videos, classes) floats.
    labels: (videos, classes) labels, bool or 0 and 1 of any dtype.
    k: number of predictions of each video that are taken.

  Returns:
    Three lists with one item for each class: the predictions for it that were
    among the top k of their video, in the order of the videos; their labels
    (bool); and the number of videos that have the class as a label, predicted
    or not. They are arguments of MeanAveragePrecisionCalculator.accumulate.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or k is not
      a positive integer.
  """
  _check_k(k, "k")
  predictions, labels, _ = _check_batch(predictions, labels, None)
  ranked = ranking.rank_videos(predictions, labels, k, None)
  class_indexes = ranked.class_indexes.ravel()
  by_class = np.argsort(class_indexes, kind="stable")
  num_classes = predictions.shape[1]
  lengths = np.bincount(class_indexes, minlength=num_classes)
  bounds = np.cumsum(lengths)[:-1]
  class_predictions, class_labels = (
    [part.tolist() for part in np.split(values.ravel()[by_class], bounds)]
    for values in (ranked.predictions, ranked.actuals)
  )
  return class_predictions, class_labels, ranked.num_positives.tolist()


def top_k_classes(predictions, k=20, label_weights=None):
  """The k classes of each video with the largest predictions.

  Args:
    predictions: (videos, classes) floats.
    k: number of classes wanted of each video.
    label_weights: (videos, classes) numbers or None. Classes of weight 0 are
      excluded.

  Returns:
    class_indexes, (videos, ranks) intp, and their predictions, (videos, ranks)
    floats, best first; of equal predictions, the lower class index first. ranks
    is the smaller of k and classes. If a video has fewer rated classes, the
    predictions of its last ranks are -inf.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or k is not
      a positive integer.
  """
  _check_k(k, "k")
  predictions = _check_predictions(predictions)
  label_weights = _check_like("label_weights", label_weights, predictions)
  return ranking.top_k(predictions, k, label_weights)


# --------------------------------------------------------------------------
# Metrics of many batches


class EvaluationMetrics:
  """All metrics over an evaluation that arrives in batches.

  Keeps the top k predictions of each video, 6 bytes each at 3862 classes: 120
  bytes per video at top_k 20. Scores do not depend on how videos are batched or
  ordered.

  Args:
    num_class: number of classes.
    top_k: number of predictions of each video that count in GAP and mAP.
    top_n: number of ranks of each class that count in its average precision,
      None for all.

  Raises:
    ValueError: num_class or top_k is not a positive integer, or top_n is
      neither None nor one.

  Example:
    >>> metrics = EvaluationMetrics(num_class=3, top_k=2)
    >>> metrics.accumulate([[0.9, 0.2, 0.5]], [[1, 0, 0]], loss=0.25)
    {'hit_at_one': 1.0, 'perr': 1.0, 'loss': 0.25}
    >>> metrics.get()["gap"]
    1.0
  """

  def __init__(self, num_class, top_k, top_n=None):
    _check_k(top_k, "top_k")
    self._num_class = num_class
    self._top_k = top_k
    self._map_calculator = map_calculator.MeanAveragePrecisionCalculator(
      num_class, top_n=top_n
    )
    self.clear()

  def accumulate(self, predictions, labels, loss, label_weights=None):
    """Adds a batch of videos.

    Args:
      predictions: (videos, num_class) floats.
      labels: (videos, num_class) labels, bool or 0 and 1 of any dtype.
      loss: (videos,) numbers, or one number, their mean.
      label_weights: (videos, num_class) numbers or None. Only the classes of
        weight above 0 are ranked, and only their labels count.

    Returns:
      {"hit_at_one", "perr", "loss"}, the means over this batch as floats; NaN
      for a batch without videos, which changes nothing.

    Raises:
      ValueError: shapes do not fit, or a prediction is NaN or infinite. In this
        case nothing is accumulated.
    """
    predictions, labels, label_weights = _check_batch(
      predictions, labels, label_weights, self._num_class
    )
    ranked = ranking.rank_videos_for_perr(
      predictions, labels, self._top_k, label_weights
    )
    return self.accumulate_top_k(*ranked, loss=loss)

  def accumulate_top_k(
    self, class_indexes, predictions, actuals, num_labels, num_positives, loss
  ):
    """Adds a batch of videos whose predictions were ranked elsewhere.

    Ranking on the device that computed the predictions avoids transferring all
    of them. The metrics equal those of `accumulate` if the lower class index
    comes first among equal predictions (as in tf.math.top_k), and if unrated
    classes were set to -inf before. Only the predictions that are passed are
    checked for NaN.

    Args:
      class_indexes: (videos, ranks) integers, each video's classes, best first.
        ranks is at least the largest of top_k and num_labels, or num_class if
        that is less.
      predictions: (videos, ranks) floats, their predictions; -inf marks unrated
        classes, whatever their class index.
      actuals: (videos, ranks) labels at those classes.
      num_labels: (videos,) integers, all (rated) labels of each video.
      num_positives: (num_class,) integers, the videos of this batch that each
        class labels (where rated).
      loss: (videos,) numbers, or one number, their mean.

    Returns:
      {"hit_at_one", "perr", "loss"}, the means over this batch as floats; NaN
      for a batch without videos, which changes nothing.

    Raises:
      ValueError: shapes do not fit, there are too few ranks, a video's
        predictions are not in order, a prediction is NaN or +inf, or num_labels
        and num_positives have different sums. In this case nothing is
        accumulated.
    """
    class_indexes = np.asarray(class_indexes)
    predictions = ap_calculator.as_floats(predictions)
    num_labels = np.asarray(num_labels)
    num_positives = np.asarray(num_positives)
    actuals = np.asarray(actuals) > 0
    self._check_top_k(
      class_indexes, predictions, actuals, num_labels, num_positives
    )
    num_videos = len(predictions)
    batch_loss = _mean_loss(loss, num_videos)
    rated = predictions > -np.inf
    actuals &= rated
    ranked = ranking.RankedVideos(
      class_indexes, predictions, actuals, num_labels, num_positives
    )
    per_video = {
      metric.name: np.asarray(metric.per_video(ranked))
      for metric in METRICS
      if metric.per_video
    }
    pooled = rated[:, : self._top_k]
    self._map_calculator.accumulate_flat(
      class_indexes[:, : self._top_k][pooled],
      predictions[:, : self._top_k][pooled],
      actuals[:, : self._top_k][pooled],
      num_positives,
    )
    if num_videos:
      self._num_videos += num_videos
      for name, values in per_video.items():
        self._sums[name] += float(values.sum())
      self._sum_losses += batch_loss * num_videos
    means = {name: _mean(values) for name, values in per_video.items()}
    return {**means, "loss": batch_loss}

  def _check_top_k(
    self, class_indexes, predictions, actuals, num_labels, num_positives
  ):
    if (
      predictions.ndim != 2
      or class_indexes.shape != predictions.shape
      or actuals.shape != predictions.shape
      or num_labels.shape != predictions.shape[:1]
    ):
      raise ValueError(
        "Expected class_indexes, predictions and actuals of one shape (videos, "
        "ranks), and num_labels of shape (videos,), received "
        f"{class_indexes.shape}, {predictions.shape}, {actuals.shape} and "
        f"{num_labels.shape}. Pass one row for each video."
      )
    needed = max(self._top_k, int(num_labels.max(initial=0)))
    if predictions.shape[1] < min(self._num_class, needed):
      raise ValueError(
        f"Expected at least {min(self._num_class, needed)} ranks, for top_k "
        f"{self._top_k} and a video with {num_labels.max(initial=0)} labels, "
        f"received {predictions.shape[1]}. Take the top max(top_k, num_labels) "
        "predictions, or all of them if there are fewer classes."
      )
    not_finite = np.isnan(predictions) | (predictions == np.inf)
    if not_finite.any():
      raise ranking.not_finite_error(np.unique(class_indexes[not_finite]))
    if (predictions[:, :-1] < predictions[:, 1:]).any():
      raise ValueError(
        "Expected each video's predictions best first, received some in "
        "another order. Sort them; of equal ones, the lower class index comes "
        "first."
      )
    if num_labels.sum() != num_positives.sum():
      raise ValueError(
        "Expected num_labels and num_positives to count the same labels, "
        f"received sums of {num_labels.sum()} and {num_positives.sum()}. Count "
        "only rated labels in both, and those of all videos."
      )

  def get(self):
    """The metrics over all videos so far; keeps the videos.

    Returns:
      {"avg_hit_at_one", "avg_perr", "avg_loss", "gap"}, floats, and "aps", the
      list of the average precisions of the classes that have positives, in the
      order of the classes; its mean is the mAP.

    Raises:
      ValueError: no videos were accumulated.
    """
    self._require_videos()
    return {
      **self._means(),
      "avg_loss": self._sum_losses / self._num_videos,
      "aps": self._map_calculator.peek_map_at_n(),
      "gap": self._map_calculator.peek_pooled_ap(),
    }

  def average_precisions(self):
    """The average precision of each class over all videos so far.

    Returns:
      A list of floats, one for each class that has positives, in the order of
      the classes; their mean is the mAP.
    """
    return self._map_calculator.peek_map_at_n()

  def scores(self, only_training=False):
    """One number for each of METRICS, and avg_loss, over all videos so far.

    Args:
      only_training: leave out the metrics that are not for training.

    Returns:
      {key: float}; see Metric.key.

    Raises:
      ValueError: no videos were accumulated.
    """
    self._require_videos()
    return {
      **self._means(),
      "avg_loss": self._sum_losses / self._num_videos,
      **{
        metric.key: float(metric.whole(self._map_calculator))
        for metric in METRICS
        if metric.whole and (metric.in_training or not only_training)
      },
    }

  def _means(self):
    return {
      metric.key: self._sums[metric.name] / self._num_videos
      for metric in METRICS
      if metric.per_video
    }

  def _require_videos(self):
    if not self._num_videos:
      raise ValueError(
        "Expected at least one video before the metrics are read, received "
        "none. Check that the data pattern matches files that hold records "
        "(for segments: rated ones)."
      )

  def clear(self):
    """Forgets all videos."""
    self._map_calculator.clear()
    self._num_videos = 0
    self._sums = {metric.name: 0.0 for metric in METRICS if metric.per_video}
    self._sum_losses = 0.0


def _check_k(k, name):
  if not isinstance(k, numbers.Integral) or k < 1:
    raise ValueError(
      f"Expected {name} to be a positive integer, the number of predictions of "
      f"each video that count, received {k!r}. Pass a number such as 20."
    )


def _check_predictions(predictions, num_class=None):
  """Returns predictions as a (videos, classes) float array."""
  predictions = ap_calculator.as_floats(predictions)
  if (
    predictions.ndim != 2
    or not predictions.shape[1]
    or num_class not in (None, predictions.shape[1])
  ):
    raise ValueError(
      f"Expected predictions of shape (videos, {num_class or 'classes'}), "
      f"received shape {predictions.shape}. Pass one row for each video, with "
      "one prediction for each class of the vocabulary."
    )
  return predictions


def _check_like(name, values, predictions):
  """Returns values as an array of the shape of predictions, or None."""
  if values is None:
    return None
  values = np.asarray(values)
  if values.shape != predictions.shape:
    raise ValueError(
      f"Expected {name} of the predictions' shape {predictions.shape}, "
      f"received shape {values.shape}. Pass one value for each prediction."
    )
  return values


def _check_batch(predictions, labels, label_weights, num_class=None):
  predictions = _check_predictions(predictions, num_class)
  return (
    predictions,
    _check_like("labels", np.asarray(labels), predictions),
    _check_like("label_weights", label_weights, predictions),
  )


def _mean(values):
  """Mean as a float; NaN, without NumPy's warning, if there are no values."""
  return float(np.mean(values)) if len(values) else float("nan")


def _mean_loss(loss, num_videos):
  loss = np.asarray(loss, np.float64)
  if loss.shape not in ((), (num_videos,)):
    raise ValueError(
      f"Expected loss to be one number or of shape ({num_videos},), one number "
      f"per video, received shape {loss.shape}. Sum it over the classes first."
    )
  return _mean(np.broadcast_to(loss, num_videos))


def _precisions_at_equal_recall(actuals, num_labels):
  """Share of labels among a video's first n predictions, n its labels.

  Args:
    actuals: (videos, ranks) bool, best first.
    num_labels: (videos,) integers, at most ranks.

  Returns:
    (videos,) float64; 0 for a video without labels.
  """
  within = np.arange(actuals.shape[1]) < num_labels[:, np.newaxis]
  hits = np.count_nonzero(actuals & within, axis=1)
  return hits / np.maximum(num_labels, 1)
