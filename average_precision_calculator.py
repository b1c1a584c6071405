"""Average precision of a ranked list, accumulated over any number of calls.

The average precision (AP) of a ranking is the sum, over the positives in it, of
the precision at the positive's rank, divided by the number of positives:

  AP = 1 / P * sum over positives i of (positives up to rank i) / (rank of i)

Predictions are ranked from the largest to the smallest. Of equal predictions,
negatives come before positives. So a model gains nothing from equal
predictions, and the score does not depend on the order of arrival.
"""

import numbers

import numpy as np

# Pieces are joined once they hold this many entries: enough to make the
# overhead of a NumPy call and of an array object negligible, and small compared
# with what an evaluation keeps.
_BLOCK_ENTRIES = 1 << 18


def as_floats(predictions):
  """Returns predictions as a float array that holds the same values.

  Args:
    predictions: array or sequence of numbers, of any shape.

  Returns:
    An array of the same shape: float32 stays float32, float64 stays float64,
    and smaller types (float16, bfloat16, int8) become float32. It may be the
    same array.
  """
  predictions = np.asarray(predictions)
  return predictions.astype(
    np.result_type(predictions.dtype, np.float32), copy=False
  )


def check_top_n(top_n, name="top_n"):
  """Raises ValueError unless top_n is None or a positive integer."""
  if top_n is not None and (
    not isinstance(top_n, numbers.Integral) or top_n < 1
  ):
    raise ValueError(
      f"Expected {name} to be a positive integer, or None for the whole "
      f"ranking, received {top_n!r}. Pass one of these."
    )


def average_precision(positives, negatives, num_positives=None, n=None):
  """Average precision of the ranking of positives and negatives together.

  Both arrays are sorted in place, to avoid copies: they can be most of a
  program's memory.

  Args:
    positives: (num_ranked_positives,) floats, the predictions of the positives,
      in any order.
    negatives: (num_ranked_negatives,) floats, those of the negatives.
    num_positives: the number of all positives, if some are not in the ranking.
      None: the ranking holds all of them.
    n: number of ranks that count, None for all. The number of positives is
      limited to n too, so that a perfect ranking scores 1.

  Returns:
    The average precision, a float; 0.0 without positives.
  """
  if num_positives is None:
    num_positives = len(positives)
  if n is not None:
    num_positives = min(num_positives, n)
  if not num_positives:
    return 0.0
  # Sorted separately, they need neither an index array nor pairs. Searching
  # from the left puts negatives before positives of the same value.
  positives.sort()
  positives = positives[::-1]
  negatives.sort()
  hits = np.arange(1, len(positives) + 1)
  ranks = hits + len(negatives) - np.searchsorted(negatives, positives, "left")
  if n is not None:
    hits, ranks = hits[ranks <= n], ranks[ranks <= n]
  return float(np.sum(hits / ranks) / num_positives)


class ArrayBlocks:
  """Parallel one-dimensional arrays that grow by appending.

  Every entry is copied at most once after it was appended and no space is
  reserved. So only the entries take memory, whether they arrive a million at a
  time or one by one.
  """

  def __init__(self):
    self._blocks = []
    self._pieces = []
    self._piece_entries = 0

  def append(self, *columns):
    """Adds entries; takes over the arrays, which have the same length.

    Args:
      *columns: (entries,) arrays, the same number in each call.
    """
    self._pieces.append(columns)
    self._piece_entries += len(columns[0])
    if self._piece_entries >= _BLOCK_ENTRIES:
      self._join()

  def _join(self):
    columns = zip(*self._pieces, strict=True)
    self._blocks.append(tuple(np.concatenate(column) for column in columns))
    self._pieces = []
    self._piece_entries = 0

  def blocks(self):
    """Returns the entries as a list of tuples with one array per column."""
    if self._pieces:
      self._join()
    return list(self._blocks)

  def __len__(self):
    return self._piece_entries + sum(len(block[0]) for block in self._blocks)


class AveragePrecisionCalculator:
  """Average precision of one ranking whose predictions arrive in parts.

  The result is exact. It does not depend on the order of arrival or on how the
  data is divided into calls of `accumulate`.

  Args:
    top_n: number of best predictions that are kept and ranked, or None for all.
      With a number, memory is limited to about twice as many predictions plus
      those of one call.

  Raises:
    ValueError: top_n is neither None nor a positive integer.

  Example:
    >>> calculator = AveragePrecisionCalculator()
    >>> calculator.accumulate([0.9, 0.8], [1, 0])
    >>> calculator.accumulate([0.7], [1])
    >>> round(calculator.peek_ap_at_n(), 4)  # (1/1 + 2/3) / 2
    0.8333
  """

  def __init__(self, top_n=None):
    check_top_n(top_n)
    self._top_n = top_n
    self.clear()

  @property
  def heap_size(self):
    """Number of predictions in the ranking, top_n at most."""
    if self._top_n is None:
      return len(self._ranking)
    return min(len(self._ranking), self._top_n)

  @property
  def num_accumulated_positives(self):
    """Number of positives accumulated so far, ranked or not."""
    return self._num_positives

  def accumulate(self, predictions, actuals, num_positives=None):
    """Adds predictions to the ranking.

    Args:
      predictions: (predictions,) numbers, larger for more likely positives.
      actuals: (predictions,) labels; those above zero are positive.
      num_positives: number of all positives, if some are not among these
        predictions (cut off before). None: the positives in actuals.

    Raises:
      ValueError: the lengths differ, a prediction is NaN, or num_positives is
        negative or not a number. In this case nothing is accumulated.
    """
    predictions, actuals = _check_ranking(predictions, actuals)
    if num_positives is None:
      num_positives = int(np.count_nonzero(actuals))
    elif (
      not isinstance(num_positives, (int, float, np.number))
      or num_positives < 0
    ):
      raise ValueError(
        "Expected num_positives to be a number that is not negative, or None "
        f"to count the positives in actuals, received {num_positives!r}. Pass "
        "the number of all positives."
      )
    self._num_positives += num_positives
    if not len(predictions):
      return
    # The caller may change its array later.
    self._ranking.append(predictions.copy(), actuals)
    # A ranking is cut in half once it is twice as long as needed, so that the
    # cost of sorting is constant for each prediction.
    if (
      self._top_n is not None
      and len(self._ranking) > 2 * self._top_n + _BLOCK_ENTRIES // 64
    ):
      self._prune()

  def _prune(self):
    predictions, actuals = self._joined_ranking()
    best = np.lexsort((actuals, -predictions))[: self._top_n]
    self._ranking = ArrayBlocks()
    self._ranking.append(predictions[best], actuals[best])

  def _joined_ranking(self):
    columns = zip(*self._ranking.blocks(), strict=True)
    return tuple(np.concatenate(column) for column in columns)

  def clear(self):
    """Forgets everything accumulated."""
    self._ranking = ArrayBlocks()
    self._num_positives = 0

  def peek_ap_at_n(self):
    """Average precision of everything accumulated, which is kept.

    Returns:
      The average precision over the top_n best predictions, a float; 0.0 if
      nothing was accumulated.
    """
    if not self.heap_size:
      return 0.0
    predictions, actuals = self._joined_ranking()
    return average_precision(
      predictions[actuals],
      predictions[~actuals],
      self._num_positives,
      self._top_n,
    )

  @staticmethod
  def ap(predictions, actuals):
    """Average precision of a whole ranking.

    Args:
      predictions: (predictions,) numbers, in any order.
      actuals: (predictions,) labels; those above zero are positive.

    Returns:
      The average precision, a float; 0.0 without positives.

    Raises:
      ValueError: the lengths differ, or a prediction is NaN.
    """
    return AveragePrecisionCalculator.ap_at_n(predictions, actuals, n=None)

  @staticmethod
  def ap_at_n(
    predictions, actuals, n: int | None = 20, total_num_positives=None
  ):
    """Average precision of the n best predictions of a ranking.

    Args:
      predictions: (predictions,) numbers, in any order.
      actuals: (predictions,) labels; those above zero are positive.
      n: number of ranks that count, None for all.
      total_num_positives: the number of all positives, if some are not in the
        ranking. None: the positives in actuals.

    Returns:
      The sum of the precisions at the positives among the first n, divided by
      the smaller of n and the number of positives; 0.0 without positives.

    Raises:
      ValueError: the lengths differ, a prediction is NaN, or n is neither None
        nor a positive integer.
    """
    check_top_n(n, "n")
    predictions, actuals = _check_ranking(predictions, actuals)
    return average_precision(
      predictions[actuals], predictions[~actuals], total_num_positives, n
    )


def _check_ranking(predictions, actuals):
  """Returns float predictions and bool actuals, or raises ValueError."""
  predictions = as_floats(predictions)
  actuals = np.asarray(actuals)
  if predictions.ndim != 1 or predictions.shape != actuals.shape:
    raise ValueError(
      "Expected predictions and actuals to be lists of the same length, "
      f"received shapes {predictions.shape} and {actuals.shape}. Pass one "
      "actual for each prediction."
    )
  if np.isnan(predictions).any():
    raise ValueError(
      "Expected predictions that can be ranked, received "
      f"{np.count_nonzero(np.isnan(predictions))} NaN among "
      f"{predictions.size}. The model diverged: train it with a lower learning "
      "rate, or evaluate an earlier checkpoint."
    )
  return predictions, actuals > 0
