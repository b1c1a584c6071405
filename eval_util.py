"""The metrics of YouTube-8M: Hit@1, PERR, GAP and mAP.

Everything is computed from the ranking of each video's predictions, from the
largest to the smallest:

* Hit@1: share of the videos whose first class is one of their labels.
* PERR, precision at equal recall rate: a video with n labels scores the share
  of labels among its first n classes; the mean over the videos.
* GAP@k, global average precision: the first k predictions of every video, all
  in one ranking, scored by its average precision. Positives that are in no
  video's first k count as missed.
* mAP: the average precision of each class over those same predictions, averaged
  over the classes that have positives.

Where predictions are equal, a video's classes are ranked with the lower class
index first, and negatives come before positives in the rankings of GAP and mAP.
The order in which videos arrive then changes no score. A video without labels
scores 0 in Hit@1 and in PERR and counts in both means, as in the original
starter code. (There a class also had to be predicted above 0 to count in PERR;
here only its rank matters, as the definition says.)

Segments are rated for few classes. With label_weights, the (segment, class)
pairs of weight 0 are dropped before anything is ranked or counted.

Sources: for Hit@1, PERR and mAP, Abu-El-Haija et al., "YouTube-8M: A
Large-Scale Video Classification Benchmark", 2016,
https://arxiv.org/abs/1609.08675; for GAP, the evaluation page of the contest of
2017, https://www.kaggle.com/c/youtube8m.
"""

import numbers
from typing import NamedTuple

import numpy as np

import average_precision_calculator as ap_calculator
import mean_average_precision_calculator as map_calculator

# Videos ranked at one time: few enough that several passes over 3862 float32 of
# each find them in the cache, enough that the cost of NumPy's calls is small.
_VIDEOS_AT_A_TIME = 128
# Groups of classes whose maxima are compared first, see _top_k_of_rows.
_CLASS_GROUPS = 256
# More labels than most videos have. PERR ranks deeper where a video has more.
_USUAL_LABELS = 20


class RankedVideos(NamedTuple):
  """What the metrics need to know about a batch of videos.

  Attributes:
    class_indexes: (videos, ranks) integers, each video's classes, best first.
    predictions: (videos, ranks) floats, their predictions; -inf fills the ranks
      of a video that has fewer rated classes than there are ranks.
    actuals: (videos, ranks) bool, whether they are labels of the video.
    num_labels: (videos,) integers, the labels of each video.
    num_positives: (classes,) integers, the videos that each class labels.
  """

  class_indexes: np.ndarray
  predictions: np.ndarray
  actuals: np.ndarray
  num_labels: np.ndarray
  num_positives: np.ndarray


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
    The mean over the videos, a float; NaN where there are no videos.

  Raises:
    ValueError: shapes do not fit, or a prediction is NaN or infinite.
  """
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = _rank_videos(predictions, actuals, 1, label_weights)
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
    The mean over the videos, a float; NaN where there are no videos. A video
    without labels counts as 0.

  Raises:
    ValueError: shapes do not fit, or a prediction is NaN or infinite.
  """
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = _rank_videos_for_perr(
    predictions, actuals, _USUAL_LABELS, label_weights
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
    The global average precision, a float; 0.0 where there are no labels.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or top_k is
      not a positive integer.
  """
  _check_k(top_k, "top_k")
  predictions, actuals, label_weights = _check_batch(
    predictions, actuals, label_weights
  )
  ranked = _rank_videos(predictions, actuals, top_k, label_weights)
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
    Three lists with one item for each class: the list of the predictions for it
    that were among their video's top k, in the order of the videos; the list of
    their labels (bool); and the number of videos that have the class as a
    label, whether predicted or not. They fit
    MeanAveragePrecisionCalculator.accumulate.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or k is not
      a positive integer.
  """
  _check_k(k, "k")
  predictions, labels, _ = _check_batch(predictions, labels, None)
  ranked = _rank_videos(predictions, labels, k, None)
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
      left out.

  Returns:
    class_indexes, (videos, ranks) intp, and their predictions, (videos, ranks)
    floats, best first and the lower class index first where predictions are
    equal. ranks is the smaller of k and classes. A video with fewer rated
    classes has -inf as the prediction of its last ranks.

  Raises:
    ValueError: shapes do not fit, a prediction is NaN or infinite, or k is not
      a positive integer.
  """
  _check_k(k, "k")
  predictions = _check_predictions(predictions)
  label_weights = _check_like("label_weights", label_weights, predictions)
  return _top_k(predictions, k, label_weights)


class EvaluationMetrics:
  """All metrics over an evaluation whose batches come one after the other.

  The videos' top k predictions are kept, 6 bytes each at 3862 classes: 120
  bytes a video at top_k 20. Scores do not depend on how videos are batched or
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
      ValueError: shapes do not fit, or a prediction is NaN or infinite. Nothing
        is accumulated then.
    """
    predictions, labels, label_weights = _check_batch(
      predictions, labels, label_weights, self._num_class
    )
    ranked = _rank_videos_for_perr(
      predictions, labels, self._top_k, label_weights
    )
    return self.accumulate_top_k(*ranked, loss=loss)

  def accumulate_top_k(
    self, class_indexes, predictions, actuals, num_labels, num_positives, loss
  ):
    """Adds a batch of videos whose predictions were ranked elsewhere.

    Ranking them on the device that computed them saves the transfer of all
    other predictions. The metrics are those of `accumulate`, provided that the
    lower class index comes first where predictions are equal (tf.math.top_k
    does so), and that unrated classes were set to -inf before. Predictions
    that are not among those passed cannot be checked here for NaN.

    Args:
      class_indexes: (videos, ranks) integers, each video's classes, best first.
        ranks is at least the largest of top_k and num_labels, or num_class
        where that is less.
      predictions: (videos, ranks) floats, their predictions; -inf marks what is
        not rated, whatever its class index.
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
        and num_positives do not add up to the same. Nothing is accumulated
        then.
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
    hits = actuals[:, 0]
    precisions = _precisions_at_equal_recall(actuals, num_labels)

    pooled = rated[:, : self._top_k]
    self._map_calculator.accumulate_flat(
      class_indexes[:, : self._top_k][pooled],
      predictions[:, : self._top_k][pooled],
      actuals[:, : self._top_k][pooled],
      num_positives,
    )
    if num_videos:
      self._num_videos += num_videos
      self._sum_hits += int(hits.sum())
      self._sum_precisions += float(precisions.sum())
      self._sum_losses += batch_loss * num_videos
    return {
      "hit_at_one": _mean(hits),
      "perr": _mean(precisions),
      "loss": batch_loss,
    }

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
        "ranks), and num_labels of shape (videos,); received "
        f"{class_indexes.shape}, {predictions.shape}, {actuals.shape} and "
        f"{num_labels.shape}."
      )
    needed = max(self._top_k, int(num_labels.max(initial=0)))
    if predictions.shape[1] < min(self._num_class, needed):
      raise ValueError(
        f"Expected at least {min(self._num_class, needed)} ranks, for top_k "
        f"{self._top_k} and a video with {num_labels.max(initial=0)} labels; "
        f"received {predictions.shape[1]}. Take the top max(top_k, num_labels) "
        "predictions, or all of them where there are fewer classes."
      )
    not_finite = np.isnan(predictions) | (predictions == np.inf)
    if not_finite.any():
      raise _not_finite_error(np.unique(class_indexes[not_finite]))
    if (predictions[:, :-1] < predictions[:, 1:]).any():
      raise ValueError(
        "Expected each video's predictions best first; received some in "
        "another order. Sort them, the lower class index first where they are "
        "equal."
      )
    if num_labels.sum() != num_positives.sum():
      raise ValueError(
        "Expected num_labels and num_positives to count the same labels; "
        f"received sums of {num_labels.sum()} and {num_positives.sum()}. Count "
        "only rated labels in both, and those of all videos."
      )

  def get(self):
    """The metrics over all videos so far, which are kept.

    Returns:
      {"avg_hit_at_one", "avg_perr", "avg_loss", "gap"}, floats, and "aps", the
      list of the average precisions of the classes that have positives, in the
      order of the classes; its mean is the mAP.

    Raises:
      ValueError: no videos were accumulated.
    """
    if not self._num_videos:
      raise ValueError(
        "Expected at least one video before the metrics are read; received "
        "none. Check that the data pattern matches files that hold records "
        "(for segments: rated ones)."
      )
    return {
      "avg_hit_at_one": self._sum_hits / self._num_videos,
      "avg_perr": self._sum_precisions / self._num_videos,
      "avg_loss": self._sum_losses / self._num_videos,
      "aps": self._map_calculator.peek_map_at_n(),
      "gap": self._map_calculator.peek_pooled_ap(),
    }

  def clear(self):
    """Forgets all videos."""
    self._map_calculator.clear()
    self._num_videos = 0
    self._sum_hits = 0
    self._sum_precisions = 0.0
    self._sum_losses = 0.0


def _check_k(k, name):
  if not isinstance(k, numbers.Integral) or k < 1:
    raise ValueError(
      f"Expected {name} to be a positive integer, the number of predictions of "
      f"each video that count; received {k!r}."
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
      f"Expected predictions of shape (videos, {num_class or 'classes'}); "
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
      f"Expected {name} of the predictions' shape {predictions.shape}; "
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


def _not_finite_error(classes):
  listed = ", ".join(str(index) for index in classes[:10])
  if len(classes) > 10:
    listed += f", and {len(classes) - 10} more"
  return ValueError(
    "Expected finite predictions; received NaN or infinite values in the "
    f"columns (classes) {listed}. The model diverged: train it with a lower "
    "--base_learning_rate or --clip_gradient_norm, or evaluate an earlier "
    "checkpoint."
  )


def _mean(values):
  """Mean as a float; NaN, without NumPy's warning, where there is nothing."""
  return float(np.mean(values)) if len(values) else float("nan")


def _mean_loss(loss, num_videos):
  loss = np.asarray(loss, np.float64)
  if loss.shape not in ((), (num_videos,)):
    raise ValueError(
      f"Expected loss to be one number or of shape ({num_videos},), one number "
      f"a video; received shape {loss.shape}. Sum it over the classes first."
    )
  return _mean(np.broadcast_to(loss, num_videos))


def _precisions_at_equal_recall(actuals, num_labels):
  """Share of labels among as many best predictions as a video has labels.

  Args:
    actuals: (videos, ranks) bool, best first.
    num_labels: (videos,) integers, at most ranks.

  Returns:
    (videos,) float64; 0 for a video without labels.
  """
  within = np.arange(actuals.shape[1]) < num_labels[:, np.newaxis]
  hits = np.count_nonzero(actuals & within, axis=1)
  return hits / np.maximum(num_labels, 1)


def _rank_videos(predictions, labels, k, label_weights):
  """Returns the RankedVideos of a batch with k ranks, fewer if few classes."""
  class_indexes, best = _top_k(predictions, k, label_weights)
  actuals = np.take_along_axis(labels, class_indexes, axis=1) > 0
  actuals &= best > -np.inf
  return RankedVideos(
    class_indexes, best, actuals, *_count_labels(labels, label_weights)
  )


def _rank_videos_for_perr(predictions, labels, k, label_weights):
  """Returns RankedVideos with k ranks and no fewer than any video has labels.

  Videos with more than k labels are rare; only they are ranked deeper. The
  others' ranks beyond k are left unfilled, for nothing reads them.
  """
  ranked = _rank_videos(predictions, labels, k, label_weights)
  ranks = ranked.predictions.shape[1]
  rows = np.flatnonzero(ranked.num_labels > ranks)
  if not rows.size:
    return ranked
  deeper = _rank_videos(
    predictions[rows],
    labels[rows],
    int(ranked.num_labels.max()),
    None if label_weights is None else label_weights[rows],
  )
  shape = (len(predictions), deeper.predictions.shape[1])
  columns = []
  for name, filler in (
    ("class_indexes", 0),
    ("predictions", -np.inf),
    ("actuals", False),
  ):
    column = np.full(shape, filler, getattr(ranked, name).dtype)
    column[:, :ranks] = getattr(ranked, name)
    column[rows] = getattr(deeper, name)
    columns.append(column)
  return RankedVideos(*columns, ranked.num_labels, ranked.num_positives)


def _count_labels(labels, label_weights):
  """Counts the labels that are rated, by video and by class.

  Returns:
    (videos,) and (classes,) int64 arrays.
  """
  num_videos, num_classes = labels.shape
  num_labels = np.zeros(num_videos, np.int64)
  num_positives = np.zeros(num_classes, np.int64)
  # A video has few labels: finding them is cheaper than two sums over all.
  for rows in _row_slices(num_videos):
    positive = labels[rows]
    if positive.dtype != np.bool_:
      positive = positive > 0
    if label_weights is not None:
      positive = positive & (label_weights[rows] > 0)
    videos, classes = np.divmod(np.flatnonzero(positive), num_classes)
    num_labels[rows] = np.bincount(videos, minlength=len(positive))
    num_positives += np.bincount(classes, minlength=num_classes)
  return num_labels, num_positives


def _row_slices(num_videos):
  return [
    slice(first, min(first + _VIDEOS_AT_A_TIME, num_videos))
    for first in range(0, num_videos, _VIDEOS_AT_A_TIME)
  ]


def _top_k(predictions, k, label_weights):
  """See top_k_classes, which checks the arguments."""
  num_videos, num_classes = predictions.shape
  k = min(k, num_classes)
  class_indexes = np.empty((num_videos, k), np.intp)
  best = np.empty((num_videos, k), predictions.dtype)
  for rows in _row_slices(num_videos):
    values = np.ascontiguousarray(predictions[rows])
    # NaN and +inf show in the maximum, -inf in the minimum.
    if not np.isfinite([values.min(), values.max()]).all():
      finite = np.isfinite(predictions).all(axis=0)
      raise _not_finite_error(np.flatnonzero(~finite))
    if label_weights is not None:
      values = np.where(label_weights[rows] > 0, values, -np.inf)
    class_indexes[rows], best[rows] = _top_k_of_rows(values, k)
  return class_indexes, best


def _top_k_of_rows(values, k):
  """The k largest values of each row, the lower column first if equal.

  The columns are dealt out to groups and each group's maximum is taken, which
  is nearly as fast as reading. k groups have a maximum no smaller than the k-th
  largest maximum, so at least k values are no smaller than it, and the top k
  are among these. They are hardly more than k, and only they are sorted.

  Args:
    values: (rows, columns) floats; -inf is no value.
    k: number of values wanted, at most columns.

  Returns:
    (rows, k) columns and (rows, k) values; -inf fills rows of fewer values.
  """
  num_rows, num_columns = values.shape
  num_groups = max(_CLASS_GROUPS, 4 * k)
  if num_columns < 2 * num_groups:
    columns = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return columns, np.take_along_axis(values, columns, axis=1)

  grouped = num_columns // num_groups * num_groups
  maxima = np.concatenate(
    [
      values[:, :grouped].reshape(num_rows, -1, num_groups).max(axis=1),
      values[:, grouped:],
    ],
    axis=1,
  )
  thresholds = np.partition(maxima, -k, axis=1)[:, -k]
  candidates = values >= thresholds[:, np.newaxis]
  if thresholds.min() == -np.inf:
    # Rows of few values, as segments have few ratings.
    candidates &= values > -np.inf
  positions = np.flatnonzero(candidates)
  counts = np.bincount(positions // num_columns, minlength=num_rows)
  # Many equal values can make nearly every column a candidate.
  crowded = np.flatnonzero(counts > 3 * k + 32)
  if crowded.size:
    candidates[crowded] = _exact_candidates(values[crowded], k)
    counts[crowded] = k
    positions = np.flatnonzero(candidates)

  # Side by side in their order, so that a stable sort keeps it within ties.
  rows, columns = np.divmod(positions, num_columns)
  places = np.arange(len(positions)) - (np.cumsum(counts) - counts)[rows]
  shape = (num_rows, max(k, counts.max()))
  candidate_values = np.full(shape, -np.inf, values.dtype)
  candidate_values[rows, places] = values.ravel()[positions]
  candidate_columns = np.zeros(shape, np.intp)
  candidate_columns[rows, places] = columns
  order = np.argsort(-candidate_values, axis=1, kind="stable")[:, :k]
  return (
    np.take_along_axis(candidate_columns, order, axis=1),
    np.take_along_axis(candidate_values, order, axis=1),
  )


def _exact_candidates(values, k):
  """Marks exactly the k largest values of each row, for rows of many ties."""
  kth_values = np.partition(values, -k, axis=1)[:, -k, np.newaxis]
  larger = values > kth_values
  equal = values == kth_values
  missing = k - np.count_nonzero(larger, axis=1)
  places = np.cumsum(equal, axis=1, dtype=np.int32)
  return larger | (equal & (places <= missing[:, np.newaxis]))
