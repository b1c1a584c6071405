"""Tests of average_precision_calculator."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import average_precision_calculator
from average_precision_calculator import AveragePrecisionCalculator

# Few values, so that most rankings hold ties; -0.0 ties with 0.0.
rankings = st.lists(
  st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5]), st.booleans()),
  max_size=30,
)


def plain_average_precision(ranking, num_positives, n=None):
  """The definition, literally."""
  ranking = sorted(ranking, key=lambda pair: (-pair[0], pair[1]))[:n]
  hits = 0
  precision_sum = 0.0
  for rank, (_, actual) in enumerate(ranking, start=1):
    if actual:
      hits += 1
      precision_sum += hits / rank
  divisor = num_positives if n is None else min(num_positives, n)
  return precision_sum / divisor if divisor else 0.0


def columns(ranking):
  return [pair[0] for pair in ranking], [pair[1] for pair in ranking]


def test_ap_by_hand():
  # Ranked: 0.9 +, 0.8 -, 0.7 +, 0.1 -. (1/1 + 2/3) / 2 = 5/6.
  predictions = [0.1, 0.9, 0.7, 0.8]
  actuals = [0, 1, 1, 0]
  assert AveragePrecisionCalculator.ap(predictions, actuals) == pytest.approx(
    5 / 6
  )


def test_negatives_come_first_within_a_tie():
  # Ranked: 0.5 -, 0.5 -, 0.5 +. The positive has rank 3: 1/3.
  for actuals in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
    assert AveragePrecisionCalculator.ap([0.5] * 3, actuals) == pytest.approx(
      1 / 3
    )


def test_ap_at_n_by_hand():
  # Ranked: + - + + -. Three positives. At n = 2 only the first counts and two
  # positives would fit: (1/1) / 2.
  predictions = [0.9, 0.8, 0.7, 0.6, 0.5]
  actuals = [1, 0, 1, 1, 0]
  ap_at_n = AveragePrecisionCalculator.ap_at_n
  assert ap_at_n(predictions, actuals, n=2) == pytest.approx(1 / 2)
  # At n = 3: (1/1 + 2/3) / 3 = 5/9.
  assert ap_at_n(predictions, actuals, n=3) == pytest.approx(5 / 9)
  # All 5 ranks: (1/1 + 2/3 + 3/4) / 3 = 29/36, also at the default n of 20.
  assert ap_at_n(predictions, actuals, n=None) == pytest.approx(29 / 36)
  assert ap_at_n(predictions, actuals) == pytest.approx(29 / 36)
  # Of 6 positives in total, 3 are not in the ranking: half of that. Four ranks
  # hold at most 4 of the 6: (1/1 + 2/3 + 3/4) / 4 = 29/48.
  assert ap_at_n(
    predictions, actuals, n=None, total_num_positives=6
  ) == pytest.approx(29 / 72)
  assert ap_at_n(
    predictions, actuals, n=4, total_num_positives=6
  ) == pytest.approx(29 / 48)


def test_ap_at_n_counts_the_first_20_ranks_by_default():
  predictions = np.arange(30, 0, -1)
  actuals = np.arange(30) == 20  # rank 21
  assert AveragePrecisionCalculator.ap_at_n(predictions, actuals) == 0.0
  assert AveragePrecisionCalculator.ap(predictions, actuals) == pytest.approx(
    1 / 21
  )


def test_no_positives_score_zero():
  assert AveragePrecisionCalculator.ap([0.5, 0.4], [0, 0]) == 0.0
  assert AveragePrecisionCalculator.ap([], []) == 0.0
  assert AveragePrecisionCalculator().peek_ap_at_n() == 0.0


@given(rankings, st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 5))
def test_ap_at_n_equals_the_definition(ranking, n, num_missing):
  num_positives = sum(actual for _, actual in ranking) + num_missing
  assert AveragePrecisionCalculator.ap_at_n(
    *columns(ranking), n=n, total_num_positives=num_positives
  ) == pytest.approx(
    plain_average_precision(ranking, num_positives, n), abs=1e-12
  )


@given(
  rankings,
  st.one_of(st.none(), st.integers(1, 5)),
  st.lists(st.integers(0, 30), max_size=4),
  st.randoms(use_true_random=False),
)
def test_neither_order_nor_split_changes_the_result(
  ranking, top_n, cuts, random
):
  num_positives = sum(actual for _, actual in ranking)
  expected = plain_average_precision(ranking, num_positives, top_n)
  whole = AveragePrecisionCalculator(top_n)
  whole.accumulate(*columns(ranking))
  shuffled = random.sample(ranking, len(ranking))
  split = AveragePrecisionCalculator(top_n)
  bounds = [0, *sorted(cuts), len(ranking)]
  for first, end in itertools.pairwise(bounds):
    split.accumulate(*columns(shuffled[first:end]))
  assert whole.peek_ap_at_n() == pytest.approx(expected, abs=1e-12)
  assert split.peek_ap_at_n() == whole.peek_ap_at_n()
  assert split.heap_size == min(len(ranking), top_n or len(ranking))
  assert split.num_accumulated_positives == num_positives


def test_top_n_bounds_what_is_kept(monkeypatch):
  monkeypatch.setattr(average_precision_calculator, "_BLOCK_ENTRIES", 64)
  random = np.random.default_rng(1)
  predictions = random.integers(0, 50, 5000) / 50
  actuals = random.random(5000) < predictions / 2
  calculator = AveragePrecisionCalculator(top_n=40)
  for first in range(0, 5000, 7):
    calculator.accumulate(
      predictions[first : first + 7], actuals[first : first + 7]
    )
    kept = calculator._ranking
    assert len(kept) <= 2 * 40 + 1 + 7
  assert calculator.heap_size == 40
  assert calculator.peek_ap_at_n() == pytest.approx(
    plain_average_precision(
      zip(predictions, actuals, strict=True), actuals.sum(), 40
    )
  )


def test_many_single_predictions_are_joined(monkeypatch):
  monkeypatch.setattr(average_precision_calculator, "_BLOCK_ENTRIES", 8)
  calculator = AveragePrecisionCalculator()
  # Ranked 99 to 0, positive where a multiple of 10: the j-th positive, 90, 80,
  # ... is at rank 10 j, precision 1/10 each.
  for value in range(100):
    calculator.accumulate([value], [value % 10 == 0])
  assert calculator.peek_ap_at_n() == pytest.approx(1 / 10)
  assert calculator.heap_size == 100


def test_peek_keeps_and_clear_forgets():
  calculator = AveragePrecisionCalculator()
  calculator.accumulate([0.9, 0.8], [0, 1])
  assert calculator.peek_ap_at_n() == calculator.peek_ap_at_n() == 0.5
  # Then ranked: 0.95 +, 0.9 -, 0.8 +: (1/1 + 2/3) / 2.
  calculator.accumulate([0.95], [1])
  assert calculator.peek_ap_at_n() == pytest.approx(5 / 6)
  calculator.clear()
  assert calculator.heap_size == 0
  assert calculator.num_accumulated_positives == 0
  calculator.accumulate([0.1], [1])
  assert calculator.peek_ap_at_n() == 1.0


def test_num_positives_adds_positives_that_are_not_ranked():
  calculator = AveragePrecisionCalculator()
  calculator.accumulate([0.9], [1], num_positives=3)
  calculator.accumulate([], [], num_positives=1)
  # One found at rank 1, of four: 1/4.
  assert calculator.num_accumulated_positives == 4
  assert calculator.peek_ap_at_n() == 0.25


def test_a_later_change_of_the_callers_array_changes_nothing():
  predictions = np.array([0.9, 0.8])
  actuals = np.array([False, True])
  calculator = AveragePrecisionCalculator()
  calculator.accumulate(predictions, actuals)
  predictions[:] = [0.1, 0.2]
  actuals[:] = [True, False]
  assert calculator.peek_ap_at_n() == 0.5


def test_close_float64_predictions_are_distinguished():
  # Equal as float32; the positive is ahead by one part in 1e12.
  predictions = [0.5, 0.5 + 1e-12]
  assert AveragePrecisionCalculator.ap(predictions, [0, 1]) == 1.0


@pytest.mark.parametrize("top_n", [0, -1, 2.5, "3"])
def test_wrong_top_n(top_n):
  with pytest.raises(ValueError, match="top_n to be a positive integer"):
    AveragePrecisionCalculator(top_n)
  with pytest.raises(ValueError, match="n to be a positive integer"):
    AveragePrecisionCalculator.ap_at_n([0.5], [1], n=top_n)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([0.5, 0.4], [1]), r"the same length, received shapes \(2,\) and \(1,\)"),
    (([[0.5]], [[1]]), r"received shapes \(1, 1\)"),
    (([0.5, float("nan")], [1, 0]), "received 1 NaN among 2"),
    (([0.5], [1], -1), "num_positives to be a number .* received -1"),
    (([0.5], [1], "many"), "received 'many'"),
  ],
)
def test_wrong_arguments_change_nothing(arguments, message):
  calculator = AveragePrecisionCalculator()
  with pytest.raises(ValueError, match=message):
    calculator.accumulate(*arguments)
  assert calculator.heap_size == 0
  assert calculator.num_accumulated_positives == 0
