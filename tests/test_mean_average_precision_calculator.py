"""Tests of mean_average_precision_calculator."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mean_average_precision_calculator
from mean_average_precision_calculator import MeanAveragePrecisionCalculator

NUM_CLASS = 4

# (class, prediction, positive or not), with few values: most rankings hold
# ties. -0.0 ties with 0.0; 1/3 and what follows it are one float32.
entries_of = st.lists(
  st.tuples(
    st.integers(0, NUM_CLASS - 1),
    st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1 / 3, 1 / 3 + 1e-12, 0.5]),
    st.booleans(),
  ),
  max_size=40,
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


def rankings_by_class(entries):
  return [
    [(value, actual) for index, value, actual in entries if index == wanted]
    for wanted in range(NUM_CLASS)
  ]


def flat(entries, dtype):
  indexes, values, actuals = zip(*entries, strict=True) if entries else [()] * 3
  return (
    np.array(indexes, np.int64),
    np.array(values, dtype),
    np.array(actuals, bool),
  )


def test_by_hand():
  calculator = MeanAveragePrecisionCalculator(3)
  # Class 0: + - +, (1/1 + 2/3) / 2 = 5/6. Class 1: no positives, left out.
  # Class 2: a tie, the negative first: 1/2.
  calculator.accumulate(
    [[0.9, 0.8, 0.7], [0.6], [0.5, 0.5]], [[1, 0, 1], [0], [1, 0]]
  )
  assert calculator.peek_map_at_n() == pytest.approx([5 / 6, 1 / 2])


def test_empty_classes_score_zero_if_they_are_not_filtered():
  calculator = MeanAveragePrecisionCalculator(3, filter_empty_classes=False)
  assert calculator.peek_map_at_n() == [0.0, 0.0, 0.0]
  calculator.accumulate([[], [0.6], [0.5]], [[], [0], [1]])
  assert calculator.peek_map_at_n() == [0.0, 0.0, 1.0]


def test_top_n_by_hand():
  # Ranked: - + +. At n = 2, the first positive at rank 2: (1/2) / 2.
  calculator = MeanAveragePrecisionCalculator(2, top_n=2)
  calculator.accumulate([[0.9, 0.8, 0.7], []], [[0, 1, 1], []])
  assert calculator.peek_map_at_n() == [0.25]
  # All classes pooled, every rank: (1/2 + 2/3) / 2.
  assert calculator.peek_pooled_ap() == pytest.approx(7 / 12)


def test_num_positives_adds_positives_that_are_not_ranked():
  calculator = MeanAveragePrecisionCalculator(3)
  calculator.accumulate([[0.9], [], [0.3]], [[1], [], [0]], [4, 2, 0])
  # Class 0: one of four found. Class 1: none of two. Class 2: nothing to find.
  assert calculator.peek_map_at_n() == [0.25, 0.0]
  assert calculator.num_accumulated_positives.tolist() == [4, 2, 0]
  # Pooled: 0.9 + at rank 1, of six positives.
  assert calculator.peek_pooled_ap() == pytest.approx(1 / 6)


@given(
  entries_of,
  st.sampled_from([np.float32, np.float64]),
  st.one_of(st.none(), st.integers(1, 6)),
  st.lists(st.integers(0, 3), min_size=NUM_CLASS, max_size=NUM_CLASS),
)
def test_equals_the_definition(entries, dtype, top_n, num_missing):
  entries = [(c, float(dtype(value)), actual) for c, value, actual in entries]
  rankings = rankings_by_class(entries)
  num_positives = [
    sum(actual for _, actual in ranking) + missing
    for ranking, missing in zip(rankings, num_missing, strict=True)
  ]
  calculator = MeanAveragePrecisionCalculator(
    NUM_CLASS, filter_empty_classes=False, top_n=top_n
  )
  calculator.accumulate_flat(*flat(entries, dtype), num_positives)
  assert calculator.peek_map_at_n() == pytest.approx(
    [
      plain_average_precision(ranking, number, top_n)
      for ranking, number in zip(rankings, num_positives, strict=True)
    ],
    abs=1e-12,
  )
  assert calculator.peek_pooled_ap() == pytest.approx(
    plain_average_precision(
      [pair for ranking in rankings for pair in ranking], sum(num_positives)
    ),
    abs=1e-12,
  )


@given(
  entries_of,
  st.lists(st.integers(0, 40), max_size=4),
  st.randoms(use_true_random=False),
)
def test_neither_order_nor_split_nor_form_changes_the_result(
  entries, cuts, random
):
  whole = MeanAveragePrecisionCalculator(NUM_CLASS)
  whole.accumulate_flat(*flat(entries, np.float32))
  shuffled = random.sample(entries, len(entries))
  split = MeanAveragePrecisionCalculator(NUM_CLASS)
  by_class = MeanAveragePrecisionCalculator(NUM_CLASS)
  bounds = [0, *sorted(cuts), len(entries)]
  for first, end in itertools.pairwise(bounds):
    part = shuffled[first:end]
    split.accumulate_flat(*flat(part, np.float32))
    rankings = rankings_by_class(part)
    by_class.accumulate(
      [[np.float32(value) for value, _ in ranking] for ranking in rankings],
      [[actual for _, actual in ranking] for ranking in rankings],
    )
  for calculator in (split, by_class):
    assert calculator.peek_map_at_n() == whole.peek_map_at_n()
    assert calculator.peek_pooled_ap() == whole.peek_pooled_ap()


@pytest.mark.parametrize("num_class", [40, 300, 40000])
def test_many_classes_ranked_in_parts(monkeypatch, num_class):
  """The codes of classes need 1, 2 and 4 bytes; parts are a few classes."""
  monkeypatch.setattr(mean_average_precision_calculator, "_RANKED_ENTRIES", 50)
  random = np.random.default_rng(2)
  classes = np.minimum(random.geometric(0.05, 2000) - 1, num_class - 1)
  classes[-1] = num_class - 1
  predictions = random.integers(0, 20, 2000).astype(np.float32) / 20
  actuals = random.random(2000) < 0.3
  actuals[-1] = True
  calculator = MeanAveragePrecisionCalculator(num_class)
  calculator.accumulate_flat(classes, predictions, actuals)
  expected = []
  for index in np.unique(classes[actuals]):
    chosen = classes == index
    ranking = list(zip(predictions[chosen], actuals[chosen], strict=True))
    expected.append(
      plain_average_precision(ranking, np.count_nonzero(actuals[chosen]))
    )
  assert calculator.peek_map_at_n() == pytest.approx(expected)
  assert len(calculator._class_ranges()) > 4


def test_peek_keeps_and_clear_forgets():
  calculator = MeanAveragePrecisionCalculator(2)
  assert calculator.is_empty()
  assert calculator.peek_pooled_ap() == 0.0
  calculator.accumulate([[0.9, 0.8], [0.7]], [[0, 1], [1]])
  assert not calculator.is_empty()
  assert calculator.peek_map_at_n() == calculator.peek_map_at_n() == [0.5, 1.0]
  calculator.peek_map_at_n().clear()  # of the caller
  # Class 0 is then ranked 0.95 +, 0.9 -, 0.8 +: 5/6.
  calculator.accumulate([[0.95], []], [[1], []])
  assert calculator.peek_map_at_n() == pytest.approx([5 / 6, 1.0])
  calculator.clear()
  assert calculator.is_empty()
  assert calculator.peek_map_at_n() == []
  assert calculator.num_accumulated_positives.tolist() == [0, 0]


def test_a_later_change_of_the_callers_array_changes_nothing():
  predictions = np.array([0.9, 0.8], np.float32)
  calculator = MeanAveragePrecisionCalculator(2)
  calculator.accumulate_flat([0, 0], predictions, [0, 1])
  predictions[:] = [0.1, 0.2]
  assert calculator.peek_map_at_n() == [0.5]


def test_kept_memory_is_six_bytes_an_entry():
  calculator = MeanAveragePrecisionCalculator(3862)
  for _ in range(5):
    calculator.accumulate_flat(
      np.full(100, 3861), np.zeros(100, np.float32), np.zeros(100, bool)
    )
  kept = sum(
    column.nbytes for block in calculator._entries.blocks() for column in block
  )
  assert kept == 5 * 100 * 6


@pytest.mark.parametrize("num_class", [0, -3, 2.0, None])
def test_wrong_num_class(num_class):
  with pytest.raises(ValueError, match="num_class to be a positive integer"):
    MeanAveragePrecisionCalculator(num_class)


def test_wrong_top_n():
  with pytest.raises(ValueError, match="top_n to be a positive integer"):
    MeanAveragePrecisionCalculator(2, top_n=0)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([[0.5]], [[1]]), "of 2 classes, .* received 1 and 1 classes"),
    (([[0.5], []], [[1], [0]]), "same length, .* with 1 and 2 entries"),
    (([[0.5], []], [[1], []], [1]), "2 numbers, .* shape \\(1,\\)"),
    (([[0.5], []], [[1], []], [1, -1]), "minimum -1"),
    (([[float("nan")], []], [[1], []]), r"NaN for the classes \[0\]"),
  ],
)
def test_wrong_arguments_change_nothing(arguments, message):
  calculator = MeanAveragePrecisionCalculator(2)
  with pytest.raises(ValueError, match=message):
    calculator.accumulate(*arguments)
  assert calculator.is_empty()
  assert calculator.num_accumulated_positives.tolist() == [0, 0]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([0, 1], [0.5], [1]), r"received shapes \(2,\), \(1,\) and \(1,\)"),
    (([0, 2], [0.5, 0.4], [1, 0]), "from 0 to 1, received int64 from 0 to 2"),
    (([-1], [0.5], [1]), "from -1 to -1"),
    (([0.0], [0.5], [1]), "received float64"),
  ],
)
def test_wrong_flat_arguments_change_nothing(arguments, message):
  calculator = MeanAveragePrecisionCalculator(2)
  with pytest.raises(ValueError, match=message):
    calculator.accumulate_flat(*arguments)
  assert calculator.is_empty()
  assert calculator.num_accumulated_positives.tolist() == [0, 0]
