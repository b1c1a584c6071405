"""The threshold of the best micro F1, of all there are, without sorting.

Only a prediction of a label can be the best threshold: any other one can be
raised to the next of them without losing a true positive. Float32 numbers from
0 to 1 are ordered as their bits are. So the predictions are counted by their
upper 16 bits first, which gives the exact F1 at the border of each range of
numbers, and the most that F1 can be within it. Only the ranges that may have
the best one are then counted by their lower 16 bits.
"""

import numpy as np

import errors
from engine.prediction_columns import PredictionColumns

_LOW_BITS = 16
_NUM_LOW = 1 << _LOW_BITS
# Upper bits of the numbers from 0 to a little above 1, which rounding may give.
_NUM_RANGES = (int(np.float32(1.0).view(np.uint32)) >> _LOW_BITS) + 2
# Counted at a time, 0.5 MB each.
_RANGES_AT_A_TIME = 64


def best_threshold(columns: PredictionColumns) -> float:
  """Finds the threshold with the largest micro F1.

  Args:
    columns: with predictions from 0 to 1, but for rounding.

  Returns:
    The prediction at and above which classes are decided for; of several, the
    largest.

  Raises:
    errors.UserError: there are no labels.
  """
  positives = _bits(columns.positives)
  if not positives.size:
    raise errors.UserError(
      "Expected labels in the files of --threshold_data_pattern, received none."
      " Without labels every threshold has an F1 of 0: name other files."
    )
  counts = np.zeros(_NUM_RANGES, np.int64)
  for block in columns.blocks("Counting the predictions: part"):
    counts += np.bincount(_bits(block) >> _LOW_BITS, minlength=_NUM_RANGES)
  hits = np.bincount(positives >> _LOW_BITS, minlength=_NUM_RANGES)
  predicted_above = _from_above(counts) - counts
  hits_above = _from_above(hits) - hits
  at_borders = _f1(hits_above + hits, predicted_above + counts, positives.size)
  # Within a range, the most is to find all its labels and nothing else.
  bounds = _f1(hits_above + hits, predicted_above + hits, positives.size)
  least = at_borders.max()
  ranges = np.flatnonzero((hits > 0) & (bounds >= least))
  # The most promising ones first: others may then be out.
  ranges = ranges[np.argsort(-bounds[ranges], kind="stable")]
  best = (0.0, 0.0)
  for first in range(0, len(ranges), _RANGES_AT_A_TIME):
    group = ranges[first : first + _RANGES_AT_A_TIME]
    group = group[bounds[group] >= max(least, best[0])]
    if not group.size:
      break
    lower_counts = _count_lower_bits(columns, group)
    for index, lower in zip(group.tolist(), lower_counts, strict=True):
      within = positives[positives >> _LOW_BITS == index] % _NUM_LOW
      scores = _f1(
        hits_above[index]
        + _from_above(np.bincount(within, minlength=_NUM_LOW)),
        predicted_above[index] + _from_above(lower),
        positives.size,
      )
      place = np.flatnonzero(scores == scores.max())[-1]
      bits = np.uint32((index << _LOW_BITS) + place)
      best = max(best, (float(scores.max()), float(bits.view(np.float32))))
  return best[1]


def _f1(hits, predicted, num_positives):
  return 2 * hits / (predicted + num_positives)


def _bits(values: np.ndarray) -> np.ndarray:
  """The bits of float32 numbers, (numbers,) uint32; those below 0 become 0."""
  return np.maximum(values, np.float32(0)).reshape(-1).view(np.uint32)


def _from_above(counts: np.ndarray) -> np.ndarray:
  """How many there are at each place and after it."""
  return np.cumsum(counts[::-1])[::-1]


def _count_lower_bits(
  columns: PredictionColumns, ranges: np.ndarray
) -> np.ndarray:
  """Counts predictions by their lower 16 bits.

  Args:
    columns: of the predictions.
    ranges: the upper bits of those to count.

  Returns:
    (ranges, 2^16) int64.
  """
  row_of = np.full(_NUM_RANGES, -1)
  row_of[ranges] = np.arange(len(ranges))
  smallest = np.uint32(ranges.min() << _LOW_BITS).view(np.float32)
  size = len(ranges) * _NUM_LOW
  counts = np.zeros(size, np.int64)
  for block in columns.blocks("Counting the candidates: part"):
    bits = _bits(block[block >= smallest])  # usually few
    rows = row_of[bits >> _LOW_BITS]
    places = rows * _NUM_LOW + bits % _NUM_LOW
    counts += np.bincount(places[rows >= 0], minlength=size)
  return counts.reshape(-1, _NUM_LOW)
