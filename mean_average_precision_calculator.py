"""Mean average precision: the AP of each class, ranked within the class.

All classes share flat arrays of (class, prediction, positive or not), 6 bytes
an entry at 3862 classes, and one sort ranks all of them. See
average_precision_calculator for the definition of AP and of the order of equal
predictions.
"""

import itertools
import numbers

import numpy as np

import average_precision_calculator as ap_calculator

# Entries ranked at a time, or this share of all entries if that is more. This
# limits the memory of the final computation (8 bytes an entry and temporaries)
# and costs a pass over all entries for each part.
_RANKED_ENTRIES = 1 << 22
_RANKED_SHARE = 8


class MeanAveragePrecisionCalculator:
  """Average precision of each class, from predictions that arrive in parts.

  Results are exact. They do not depend on the order of arrival or on how the
  data is divided into calls.

  Args:
    num_class: number of classes.
    filter_empty_classes: whether classes without positives are excluded from
      the results. Otherwise their average precision is 0.
    top_n: number of ranks of each class that count, None for all. Everything
      accumulated is kept, whatever top_n is.

  Raises:
    ValueError: num_class is not a positive integer, or top_n is neither None
      nor a positive integer.

  Example:
    >>> calculator = MeanAveragePrecisionCalculator(num_class=2)
    >>> calculator.accumulate([[0.9, 0.4], [0.7, 0.2]], [[1, 0], [0, 1]])
    >>> calculator.peek_map_at_n()
    [1.0, 0.5]
  """

  def __init__(self, num_class, filter_empty_classes=True, top_n=None):
    if not isinstance(num_class, numbers.Integral) or num_class < 1:
      raise ValueError(
        "Expected num_class to be a positive integer, received "
        f"{num_class!r}. Pass the size of the vocabulary."
      )
    ap_calculator.check_top_n(top_n)
    self._num_class = int(num_class)
    self._filter_empty_classes = filter_empty_classes
    self._top_n = top_n
    # An entry's code is twice its class, plus one for a positive.
    self._code_dtype = np.min_scalar_type(2 * self._num_class)
    self.clear()

  @property
  def num_accumulated_positives(self):
    """(num_class,) int64 array, the positives of each class so far."""
    return self._num_positives.copy()

  def accumulate(self, predictions, actuals, num_positives=None):
    """Adds predictions, class by class.

    Args:
      predictions: num_class sequences of numbers, of any length.
      actuals: num_class sequences of labels, with the lengths of predictions;
        labels above zero are positive.
      num_positives: (num_class,) numbers of all positives, if some are missing
        among these predictions. None: the positives in actuals.

    Raises:
      ValueError: there are not num_class sequences, the lengths differ, a
        prediction is NaN, or num_positives has a wrong shape or a negative
        number. In this case nothing is accumulated.
    """
    lengths = [len(class_predictions) for class_predictions in predictions]
    if len(lengths) != self._num_class or lengths != [
      len(class_actuals) for class_actuals in actuals
    ]:
      raise ValueError(
        f"Expected predictions and actuals of {self._num_class} classes, for "
        f"each class of the same length, received {len(lengths)} and "
        f"{len(actuals)} classes with {sum(lengths)} and "
        f"{sum(map(len, actuals))} entries. Pass one sequence per class in "
        "both."
      )
    self.accumulate_flat(
      np.repeat(np.arange(self._num_class), lengths),
      np.concatenate([np.asarray(part) for part in predictions]),
      np.concatenate([np.asarray(part) > 0 for part in actuals]),
      num_positives,
    )

  def accumulate_flat(
    self, class_indexes, predictions, actuals, num_positives=None
  ):
    """Adds predictions of any classes in any order; faster than `accumulate`.

    Args:
      class_indexes: (entries,) integers from 0 to num_class - 1.
      predictions: (entries,) numbers.
      actuals: (entries,) labels; those above zero are positive.
      num_positives: (num_class,) numbers of all positives, if some are missing
        among these entries. None: the positives in actuals.

    Raises:
      ValueError: the shapes differ, a class is out of range, a prediction is
        NaN, or num_positives has a wrong shape or a negative number. In this
        case nothing is accumulated.
    """
    class_indexes = np.asarray(class_indexes)
    predictions = ap_calculator.as_floats(predictions)
    actuals = np.asarray(actuals) > 0
    if (
      predictions.ndim != 1
      or class_indexes.shape != predictions.shape
      or actuals.shape != predictions.shape
    ):
      raise ValueError(
        "Expected class_indexes, predictions and actuals to be flat arrays of "
        f"the same length, received shapes {class_indexes.shape}, "
        f"{predictions.shape} and {actuals.shape}. Pass one class and one "
        "actual for each prediction."
      )
    if np.isnan(predictions).any():
      raise ValueError(
        "Expected predictions that can be ranked, received NaN for the classes "
        f"{np.unique(class_indexes[np.isnan(predictions)])}. The model "
        "diverged: train it with a lower learning rate, or evaluate an earlier "
        "checkpoint."
      )
    if class_indexes.size and (
      class_indexes.dtype.kind not in "iu"
      or class_indexes.min() < 0
      or class_indexes.max() >= self._num_class
    ):
      raise ValueError(
        f"Expected integer class indexes from 0 to {self._num_class - 1}, "
        f"received {class_indexes.dtype} from {class_indexes.min()} to "
        f"{class_indexes.max()}. Set num_class to the size of the vocabulary "
        "that the model was trained with."
      )
    if num_positives is None:
      num_positives = np.bincount(
        class_indexes[actuals], minlength=self._num_class
      )
    num_positives = np.asarray(num_positives)
    if num_positives.shape != (self._num_class,) or (num_positives < 0).any():
      raise ValueError(
        f"Expected num_positives to be {self._num_class} numbers, one per "
        "class, none of them negative, received an array of shape "
        f"{num_positives.shape} with the minimum "
        f"{num_positives.min(initial=0)}. Count the positives of each class."
      )
    self._num_positives += num_positives.astype(np.int64)
    self._peeked = None
    if not predictions.size:
      return
    self._num_entries += np.bincount(class_indexes, minlength=self._num_class)
    codes = class_indexes.astype(self._code_dtype)
    codes *= 2
    codes += actuals
    # The caller may change its array later.
    self._entries.append(codes, predictions.copy())

  def clear(self):
    """Forgets everything accumulated."""
    self._entries = ap_calculator.ArrayBlocks()
    self._num_entries = np.zeros(self._num_class, np.int64)
    self._num_positives = np.zeros(self._num_class, np.int64)
    self._peeked = None

  def is_empty(self):
    """Whether no prediction was accumulated."""
    return not len(self._entries)

  def peek_map_at_n(self):
    """Average precision of each class; keeps what was accumulated.

    Returns:
      A list of floats in the order of the classes, one for each class that has
      positives, or for every class if filter_empty_classes is False. Their mean
      is the mAP.
    """
    if self._peeked is not None:  # an evaluation asks twice
      return list(self._peeked)
    precision_sums = np.zeros(self._num_class)
    blocks = self._entries.blocks()
    for first, end in self._class_ranges():
      chosen = [
        (block_codes[in_range], block_predictions[in_range])
        for block_codes, block_predictions in blocks
        for in_range in [(block_codes >= 2 * first) & (block_codes < 2 * end)]
      ]
      codes, predictions = map(np.concatenate, zip(*chosen, strict=True))
      codes -= codes.dtype.type(2 * first)
      precision_sums[first:end] = _precision_sums(
        codes, predictions, end - first, self._top_n
      )
    divisors = self._num_positives
    if self._top_n is not None:
      divisors = np.minimum(divisors, self._top_n)
    average_precisions = precision_sums / np.maximum(divisors, 1)
    if self._filter_empty_classes:
      average_precisions = average_precisions[self._num_positives > 0]
    self._peeked = average_precisions.tolist()
    return list(self._peeked)

  def peek_pooled_ap(self):
    """Average precision of all classes' predictions in one ranking.

    Over each video's top k predictions this is GAP@k. Every rank counts,
    whatever top_n is. Keeps what was accumulated.

    Returns:
      The average precision, a float; 0.0 if nothing was accumulated.
    """
    if self.is_empty():
      return 0.0
    negatives, positives = (
      np.concatenate(
        [
          predictions[codes % 2 == bit]
          for codes, predictions in self._entries.blocks()
        ]
      )
      for bit in (0, 1)
    )
    return ap_calculator.average_precision(
      positives, negatives, int(self._num_positives.sum())
    )

  def _class_ranges(self):
    """Returns (first class, end class) pairs: the parts to rank in turn."""
    if self.is_empty():
      return []
    entries = max(_RANKED_ENTRIES, len(self._entries) // _RANKED_SHARE)
    range_of_class = np.cumsum(self._num_entries) // entries
    bounds = np.flatnonzero(np.diff(range_of_class)) + 1
    bounds = [0, *bounds.tolist(), self._num_class]
    return list(itertools.pairwise(bounds))


def _precision_sums(codes, predictions, num_class, n):
  """Sums, for each class, the precisions at the ranks of its positives.

  Args:
    codes: (entries,) unsigned integers, twice the class plus one for a
      positive.
    predictions: (entries,) float32 or float64.
    num_class: number of classes.
    n: number of ranks of each class that count, None for all.

  Returns:
    (num_class,) float64 array.
  """
  # Sorting these integers sorts by class, then by prediction, best first, then
  # negatives before positives.
  class_shift = np.uint64(33)
  keys = (codes >> 1).astype(np.uint64) << class_shift
  keys |= _descending_bits(predictions).astype(np.uint64) << np.uint64(1)
  keys |= codes & 1
  keys.sort()
  positions = np.flatnonzero(keys & np.uint64(1))
  classes = (keys[positions] >> class_shift).astype(np.intp)
  all_classes = np.arange(num_class, dtype=np.uint64)
  first_positions = np.searchsorted(keys, all_classes << class_shift)
  ranks = positions - first_positions[classes] + 1
  first_hits = np.searchsorted(classes, np.arange(num_class))
  hits = np.arange(len(classes)) - first_hits[classes] + 1
  precisions = hits / ranks
  if n is not None:
    precisions[ranks > n] = 0.0
  return np.bincount(classes, weights=precisions, minlength=num_class)


def _descending_bits(predictions):
  """Returns uint32 numbers that are smaller for larger predictions.

  Args:
    predictions: (entries,) float32 or float64 without NaN.

  Returns:
    (entries,) uint32; equal predictions, 0.0 and -0.0 too, give equal numbers.
  """
  if predictions.dtype != np.float32:
    _, places = np.unique(-predictions, return_inverse=True)
    return places.astype(np.uint32)
  # IEEE 754: the bits of positive floats grow with the float, those of negative
  # floats shrink, and the sign bit puts these last. Adding 0.0 turns -0.0 into
  # 0.0.
  bits = (predictions + np.float32(0)).view(np.uint32)
  return np.where(predictions < 0, bits, bits ^ np.uint32(0x7FFFFFFF))
