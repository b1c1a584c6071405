"""Ranks each video's classes by their predictions, largest first.

Of equal predictions, the lower class index comes first. Segments are rated for
few classes; a class of weight 0 is not ranked.
"""

from typing import NamedTuple

import numpy as np

# Videos ranked at a time: few enough that 3862 float32 of each stay in the
# cache over several passes, enough that the overhead of NumPy's calls is small.
_VIDEOS_AT_A_TIME = 128
# Groups of classes whose maxima are compared first; see _top_k_of_rows.
_CLASS_GROUPS = 256
# More labels than most videos have. PERR ranks deeper where a video has more.
USUAL_LABELS = 20


class RankedVideos(NamedTuple):
  """The ranking of a batch of videos, as the metrics need it.

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


def not_finite_error(classes):
  """The ValueError about predictions of these classes that are not finite."""
  listed = ", ".join(str(index) for index in classes[:10])
  if len(classes) > 10:
    listed += f", and {len(classes) - 10} more"
  return ValueError(
    "Expected finite predictions, received NaN or infinite values in the "
    f"columns (classes) {listed}. The model diverged: train it with a lower "
    "learning rate or gradient norm, or evaluate an earlier checkpoint."
  )


def rank_videos(predictions, labels, k, label_weights):
  """Returns the RankedVideos of a batch with k ranks, fewer if few classes."""
  class_indexes, best = top_k(predictions, k, label_weights)
  actuals = np.take_along_axis(labels, class_indexes, axis=1) > 0
  actuals &= best > -np.inf
  return RankedVideos(
    class_indexes, best, actuals, *_count_labels(labels, label_weights)
  )


def rank_videos_for_perr(predictions, labels, k, label_weights):
  """Returns RankedVideos with k ranks, or more if a video has more labels.

  Videos with more than k labels are rare; only they are ranked deeper. The
  others' ranks beyond k stay unfilled, because nothing reads them.
  """
  ranked = rank_videos(predictions, labels, k, label_weights)
  ranks = ranked.predictions.shape[1]
  rows = np.flatnonzero(ranked.num_labels > ranks)
  if not rows.size:
    return ranked
  deeper = rank_videos(
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
  class_indexes, best, actuals = columns
  return RankedVideos(
    class_indexes, best, actuals, ranked.num_labels, ranked.num_positives
  )


def _count_labels(labels, label_weights):
  """Counts the labels that are rated, by video and by class.

  Returns:
    (videos,) and (classes,) int64 arrays.
  """
  num_videos, num_classes = labels.shape
  num_labels = np.zeros(num_videos, np.int64)
  num_positives = np.zeros(num_classes, np.int64)
  # A video has few labels: finding them is cheaper than summing over both axes.
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


def top_k(predictions, k, label_weights):
  """The k largest predictions of each video; see eval_util.top_k_classes.

  Args:
    predictions: (videos, classes) floats.
    k: number of classes wanted of each video.
    label_weights: (videos, classes) numbers or None.

  Returns:
    (videos, ranks) intp and (videos, ranks) floats.

  Raises:
    ValueError: a prediction is NaN or infinite.
  """
  num_videos, num_classes = predictions.shape
  k = min(k, num_classes)
  class_indexes = np.empty((num_videos, k), np.intp)
  best = np.empty((num_videos, k), predictions.dtype)
  for rows in _row_slices(num_videos):
    values = np.ascontiguousarray(predictions[rows])
    # NaN and +inf show in the maximum, -inf in the minimum.
    if not np.isfinite([values.min(), values.max()]).all():
      finite = np.isfinite(predictions).all(axis=0)
      raise not_finite_error(np.flatnonzero(~finite))
    if label_weights is not None:
      values = np.where(label_weights[rows] > 0, values, -np.inf)
    class_indexes[rows], best[rows] = _top_k_of_rows(values, k)
  return class_indexes, best


def _top_k_of_rows(values, k):
  """The k largest values of each row, the lower column first if equal.

  The columns are divided into groups and the maximum of each group is taken,
  which is nearly as fast as reading. k groups have a maximum of at least the
  k-th largest maximum, so at least k values are that large, and the top k are
  among these. They are hardly more than k, and only they are sorted.

  Args:
    values: (rows, columns) floats; -inf marks a missing value.
    k: number of values wanted, at most columns.

  Returns:
    (rows, k) columns and (rows, k) values; rows with fewer values are filled
    with -inf.
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
    # Rows with few values, because segments have few ratings.
    candidates &= values > -np.inf
  positions = np.flatnonzero(candidates)
  counts = np.bincount(positions // num_columns, minlength=num_rows)
  # Many equal values can make nearly every column a candidate.
  crowded = np.flatnonzero(counts > 3 * k + 32)
  if crowded.size:
    candidates[crowded] = _exact_candidates(values[crowded], k)
    counts[crowded] = k
    positions = np.flatnonzero(candidates)

  # In the order of the columns, which a stable sort keeps within ties.
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
  """Marks exactly the k largest values of each row, for rows with many ties."""
  kth_values = np.partition(values, -k, axis=1)[:, -k, np.newaxis]
  larger = values > kth_values
  equal = values == kth_values
  missing = k - np.count_nonzero(larger, axis=1)
  places = np.cumsum(equal, axis=1, dtype=np.int32)
  return larger | (equal & (places <= missing[:, np.newaxis]))
