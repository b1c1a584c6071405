"""Tests of eval_util."""

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval_util
from eval_util import EvaluationMetrics
from mean_average_precision_calculator import MeanAveragePrecisionCalculator


@pytest.fixture(autouse=True, scope="module")
def only_the_metrics_of_this_code():
  """Leaves out the metrics that a fork has added."""
  names = ("hit_at_one", "perr", "map", "gap")
  with pytest.MonkeyPatch.context() as patch:
    metrics = [one for one in eval_util.METRICS if one.name in names]
    patch.setattr(eval_util, "METRICS", tuple(metrics))
    yield


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


def plain_metrics(predictions, labels, top_k, top_n=None, weights=None):
  """All metrics by plain loops, from the definitions."""
  num_classes = len(labels[0])
  hit_sum = perr_sum = 0.0
  pool = []
  num_positives = [0] * num_classes
  for video, video_labels in enumerate(labels):
    rated = [
      index
      for index in range(num_classes)
      if weights is None or weights[video][index] > 0
    ]
    # Python sorts stably: the lower index stays first.
    ranked = sorted(rated, key=lambda index: -predictions[video][index])
    positives = {index for index in rated if video_labels[index]}
    hit_sum += bool(ranked) and ranked[0] in positives
    if positives:
      found = positives.intersection(ranked[: len(positives)])
      perr_sum += len(found) / len(positives)
    for index in positives:
      num_positives[index] += 1
    for index in ranked[:top_k]:
      pool.append((index, predictions[video][index], index in positives))
  aps = [
    plain_average_precision(
      [(value, hit) for index, value, hit in pool if index == wanted],
      num_positives[wanted],
      top_n,
    )
    for wanted in range(num_classes)
    if num_positives[wanted]
  ]
  gap = plain_average_precision(
    [(value, hit) for _, value, hit in pool], sum(num_positives)
  )
  return {
    "avg_hit_at_one": hit_sum / len(labels),
    "avg_perr": perr_sum / len(labels),
    "aps": aps,
    "gap": gap,
  }


def random_batch(seed, num_videos, num_classes, num_values, label_share):
  """Predictions of num_values values at most, labels and sparse weights."""
  random = np.random.default_rng(seed)
  values = random.normal(size=num_values).astype(np.float32)
  predictions = random.choice(values, (num_videos, num_classes))
  labels = random.random((num_videos, num_classes)) < label_share
  weights = random.choice([0.0, 0.5, 1.0], (num_videos, num_classes))
  return predictions, labels, weights.astype(np.float32)


def assert_same(metrics, expected):
  for name, value in expected.items():
    assert metrics[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("case", [f"c{number}" for number in range(5)])
def test_golden_values(shared_dir, case):
  golden = np.load(shared_dir / "golden" / "metrics_and_losses.npz")
  predictions = golden[f"{case}_predictions"]
  labels = golden[f"{case}_labels"]
  loss = golden[f"{case}_loss"]
  batch_size = int(golden[f"{case}_batch_size"])
  top_k = int(golden[f"{case}_top_k"])
  metrics = EvaluationMetrics(predictions.shape[1], top_k, top_n=None)
  for batch, first in enumerate(range(0, len(labels), batch_size)):
    rows = slice(first, first + batch_size)
    means = metrics.accumulate(predictions[rows], labels[rows], loss[rows])
    assert list(means) == ["hit_at_one", "perr", "loss"]
    assert list(means.values()) == pytest.approx(
      golden[f"{case}_b{batch}_batch"], abs=1e-6
    )
  results = metrics.get()
  for name in ("avg_hit_at_one", "avg_perr", "avg_loss", "gap", "aps"):
    assert results[name] == pytest.approx(golden[f"{case}_{name}"], abs=1e-6)
  assert np.mean(results["aps"]) == pytest.approx(
    golden[f"{case}_map"], abs=1e-6
  )
  # The functions of the whole data set in one call agree with the class.
  assert eval_util.calculate_hit_at_one(predictions, labels) == pytest.approx(
    results["avg_hit_at_one"]
  )
  assert eval_util.calculate_precision_at_equal_recall_rate(
    predictions, labels
  ) == pytest.approx(results["avg_perr"])
  assert eval_util.calculate_gap(predictions, labels, top_k) == pytest.approx(
    results["gap"]
  )


# Two videos of four classes.
# Video 0 is ranked 1, 0, 2, 3 and has the labels 1 and 2.
# Video 1 is ranked 3, 0, 1, 2 and has the label 0.
PREDICTIONS = np.array([[0.6, 0.9, 0.3, 0.1], [0.7, 0.2, 0.1, 0.8]], np.float32)
LABELS = np.array([[0, 1, 1, 0], [1, 0, 0, 0]])


def test_by_hand():
  # Only video 0's first class is a label.
  assert eval_util.calculate_hit_at_one(PREDICTIONS, LABELS) == 0.5
  # Video 0: one of its first two; video 1: none of its first one.
  assert (
    eval_util.calculate_precision_at_equal_recall_rate(PREDICTIONS, LABELS)
    == 0.25
  )
  # Top 2 pooled: 0.9 +, 0.8 -, 0.7 +, 0.6 -; three positives in total:
  # (1/1 + 2/3) / 3 = 5/9.
  assert eval_util.calculate_gap(PREDICTIONS, LABELS, top_k=2) == pytest.approx(
    5 / 9
  )
  metrics = EvaluationMetrics(4, top_k=2)
  means = metrics.accumulate(PREDICTIONS, LABELS, np.array([1.0, 2.0]))
  assert means == {"hit_at_one": 0.5, "perr": 0.25, "loss": 1.5}
  results = metrics.get()
  assert list(results) == [
    "avg_hit_at_one",
    "avg_perr",
    "avg_loss",
    "aps",
    "gap",
  ]
  # Class 0: 0.7 +, 0.6 -: 1. Class 1: 0.9 +: 1. Class 2: not in a top 2: 0.
  # Class 3 has no positives.
  assert results["aps"] == [1.0, 1.0, 0.0]
  assert results["gap"] == pytest.approx(5 / 9)


def test_top_k_by_class_by_hand():
  predictions, labels, num_positives = eval_util.top_k_by_class(
    np.array([[0.5, 0.75, 0.25], [0.5, 0.125, 0.25]]),
    np.array([[0, 1, 1], [1, 1, 0]]),
    k=2,
  )
  assert predictions == [[0.5, 0.5], [0.75], [0.25]]
  assert labels == [[False, True], [True], [False]]
  assert num_positives == [1, 2, 1]
  calculator = MeanAveragePrecisionCalculator(3)
  calculator.accumulate(predictions, labels, num_positives)
  # Class 0: a tie, the positive second: 1/2. Class 1: one of two found, at
  # rank 1: 1/2. Class 2: not found.
  assert calculator.peek_map_at_n() == [0.5, 0.5, 0.0]


def test_flatten():
  assert eval_util.flatten([[1, 2], [], [3]]) == [1, 2, 3]
  assert eval_util.flatten([]) == []


def test_lower_class_index_comes_first_in_a_tie():
  predictions = np.full((1, 4), 0.5, np.float32)
  first = np.array([[1, 0, 0, 0]])
  second = np.array([[0, 1, 0, 0]])
  assert eval_util.calculate_hit_at_one(predictions, first) == 1.0
  assert eval_util.calculate_hit_at_one(predictions, second) == 0.0
  perr = eval_util.calculate_precision_at_equal_recall_rate
  assert perr(predictions, first) == 1.0
  assert perr(predictions, second) == 0.0
  # The top 1 is class 0. In the pool of the top 2, the negative comes first.
  assert eval_util.calculate_gap(predictions, second, top_k=1) == 0.0
  assert eval_util.calculate_gap(predictions, second, top_k=2) == 0.5


def test_a_video_without_labels_counts_as_zero():
  labels = LABELS * [[1], [0]]
  # Hit@1: one of two. PERR: 1/2 and 0, over both videos.
  assert eval_util.calculate_hit_at_one(PREDICTIONS, labels) == 0.5
  assert (
    eval_util.calculate_precision_at_equal_recall_rate(PREDICTIONS, labels)
    == 0.25
  )
  nothing = np.zeros_like(labels)
  assert eval_util.calculate_gap(PREDICTIONS, nothing) == 0.0
  metrics = EvaluationMetrics(4, 2)
  metrics.accumulate(PREDICTIONS, nothing, 0.0)
  assert metrics.get() == {
    "avg_hit_at_one": 0.0,
    "avg_perr": 0.0,
    "avg_loss": 0.0,
    "aps": [],
    "gap": 0.0,
  }


def test_label_weights_by_hand():
  # Video 0: rated are 0 and 2, ranked 0, 2, label 2. Video 1: rated is 0, its
  # label. The best class of both videos is not rated and does not count.
  weights = np.array([[1, 0, 0.5, 0], [2, 0, 0, 0]])
  assert eval_util.calculate_hit_at_one(PREDICTIONS, LABELS, weights) == 0.5
  assert (
    eval_util.calculate_precision_at_equal_recall_rate(
      PREDICTIONS, LABELS, weights
    )
    == 0.5
  )
  # Pooled: 0.7 +, 0.6 -, 0.3 +, of two rated positives: (1/1 + 2/3) / 2.
  assert eval_util.calculate_gap(
    PREDICTIONS, LABELS, label_weights=weights
  ) == pytest.approx(5 / 6)
  metrics = EvaluationMetrics(4, 20)
  means = metrics.accumulate(PREDICTIONS, LABELS, 0.0, label_weights=weights)
  assert means == {"hit_at_one": 0.5, "perr": 0.5, "loss": 0.0}
  # Class 0: 0.7 +, 0.6 -: 1. Class 2: 0.3 +: 1. Class 1 has no rated positive.
  assert metrics.get()["aps"] == [1.0, 1.0]


def test_a_video_without_ratings_counts_as_zero():
  weights = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
  metrics = EvaluationMetrics(4, 2)
  means = metrics.accumulate(PREDICTIONS, LABELS, 0.0, label_weights=weights)
  # Video 0: first class hit, one of two labels in the first two.
  assert means == {"hit_at_one": 0.5, "perr": 0.25, "loss": 0.0}
  # Pooled: 0.9 +, 0.6 -, of the two positives of video 0.
  assert metrics.get()["gap"] == 0.5


def test_top_k_classes_by_hand():
  classes, values = eval_util.top_k_classes(
    np.array([[0.2, 0.9, 0.9, 0.1]], np.float32), k=3
  )
  assert classes.tolist() == [[1, 2, 0]]
  assert values.tolist() == np.float32([[0.9, 0.9, 0.2]]).tolist()
  assert values.dtype == np.float32
  classes, values = eval_util.top_k_classes(
    np.array([[0.5, 0.75], [0.25, 0.125]]),
    k=9,
    label_weights=np.array([[1, 1], [0, 1]]),
  )
  assert values.tolist() == [[0.75, 0.5], [0.125, -math.inf]]
  assert classes[0].tolist() == [1, 0]
  assert classes[1, 0] == 1


@given(
  seed=st.integers(0, 2**32 - 1),
  num_videos=st.integers(1, 7),
  num_classes=st.integers(1, 9),
  num_values=st.integers(1, 4),
  label_share=st.sampled_from([0.0, 0.2, 0.9]),
  top_k=st.integers(1, 11),
  top_n=st.one_of(st.none(), st.integers(1, 4)),
  weighted=st.booleans(),
)
def test_equals_the_definitions(
  seed,
  num_videos,
  num_classes,
  num_values,
  label_share,
  top_k,
  top_n,
  weighted,
):
  predictions, labels, weights = random_batch(
    seed, num_videos, num_classes, num_values, label_share
  )
  weights = weights if weighted else None
  expected = plain_metrics(predictions, labels, top_k, top_n, weights)
  metrics = EvaluationMetrics(num_classes, top_k, top_n)
  means = metrics.accumulate(predictions, labels, 0.0, weights)
  assert_same(metrics.get(), expected)
  assert means["hit_at_one"] == pytest.approx(expected["avg_hit_at_one"])
  assert means["perr"] == pytest.approx(expected["avg_perr"])
  arguments = (predictions, labels)
  assert eval_util.calculate_hit_at_one(
    *arguments, label_weights=weights
  ) == pytest.approx(expected["avg_hit_at_one"])
  assert eval_util.calculate_precision_at_equal_recall_rate(
    *arguments, label_weights=weights
  ) == pytest.approx(expected["avg_perr"])
  assert eval_util.calculate_gap(
    *arguments, top_k, label_weights=weights
  ) == pytest.approx(expected["gap"], abs=1e-12)


@pytest.mark.parametrize("num_classes", [511, 512, 600, 1000])
@pytest.mark.parametrize("num_values", [1, 2, 30, 1000, 100000])
@pytest.mark.parametrize("weights", ["none", "five", "few", "most"])
@pytest.mark.parametrize("top_k", [1, 20, 300])
def test_top_k_of_many_classes(num_classes, num_values, weights, top_k):
  """With many classes, groups are compared first; ties crowd them."""
  predictions, _, _ = random_batch(3, 150, num_classes, num_values, 0.0)
  random = np.random.default_rng(4)
  rated = np.ones(predictions.shape, bool)
  label_weights = None
  if weights != "none":
    # Some videos have fewer rated classes than ranks, some have none.
    share = random.random((150, 1)) * (0.1 if weights == "few" else 2.0)
    rated = random.random(predictions.shape) < share - 0.02
    if weights == "five":
      rated[:] = False
      rated[:, [0, 7, 300, 301, num_classes - 1]] = True
    label_weights = rated.astype(np.float32)
  classes, values = eval_util.top_k_classes(predictions, top_k, label_weights)
  assert classes.shape == values.shape == (150, min(top_k, num_classes))
  for video in range(150):
    expected = sorted(
      np.flatnonzero(rated[video]).tolist(),
      key=lambda index, row=predictions[video]: -row[index],
    )[:top_k]
    assert classes[video, : len(expected)].tolist() == expected
    assert (
      values[video, : len(expected)].tolist()
      == predictions[video, expected].tolist()
    )
    assert (values[video, len(expected) :] == -np.inf).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_videos_with_more_labels_than_top_k(weighted):
  predictions, labels, weights = random_batch(5, 200, 700, 40, 0.005)
  # Ten videos have about 140 labels.
  labels[::20] |= np.random.default_rng(6).random((10, 700)) < 0.2
  weights = weights if weighted else None
  metrics = EvaluationMetrics(700, top_k=3)
  metrics.accumulate(predictions, labels, 0.0, weights)
  expected = plain_metrics(predictions, labels, 3, None, weights)
  assert_same(metrics.get(), expected)
  assert eval_util.calculate_precision_at_equal_recall_rate(
    predictions, labels, weights
  ) == pytest.approx(expected["avg_perr"])


def test_neither_order_nor_batches_change_the_results():
  predictions, labels, _ = random_batch(7, 300, 30, 5, 0.1)
  loss = np.arange(300.0)
  whole = EvaluationMetrics(30, 4)
  whole.accumulate(predictions, labels, loss)
  expected = whole.get()
  for seed, batch_size in ((0, 300), (1, 7), (2, 1)):
    order = np.random.default_rng(seed).permutation(300)
    metrics = EvaluationMetrics(30, 4)
    for first in range(0, 300, batch_size):
      rows = order[first : first + batch_size]
      metrics.accumulate(predictions[rows], labels[rows], loss[rows])
    results = metrics.get()
    assert results["aps"] == expected["aps"]
    assert results["gap"] == expected["gap"]
    assert results["avg_hit_at_one"] == expected["avg_hit_at_one"]
    assert results["avg_perr"] == pytest.approx(expected["avg_perr"])
    assert results["avg_loss"] == pytest.approx(149.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
def test_other_prediction_types(dtype):
  predictions = np.array([[3, 1, 2], [1, 2, 3]], dtype)
  labels = np.array([[0, 0, 1], [1, 0, 1]])
  metrics = EvaluationMetrics(3, 2)
  metrics.accumulate(predictions, labels, 0.0)
  assert_same(metrics.get(), plain_metrics(predictions.tolist(), labels, 2))


def test_close_float64_predictions_are_distinguished():
  predictions = np.array([[0.5, 0.5 + 1e-12]])
  assert eval_util.calculate_hit_at_one(predictions, [[0, 1]]) == 1.0


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_labels_of_any_type(dtype):
  metrics = EvaluationMetrics(4, 2)
  metrics.accumulate(PREDICTIONS, LABELS.astype(dtype), 0.0)
  assert_same(metrics.get(), plain_metrics(PREDICTIONS, LABELS, 2))


def test_predictions_in_fortran_order_and_views():
  predictions, labels, _ = random_batch(8, 150, 600, 50, 0.01)
  expected = plain_metrics(predictions, labels, 20)
  doubled = np.repeat(predictions, 2, axis=1)[:, ::2]
  for values in (np.asfortranarray(predictions), doubled):
    metrics = EvaluationMetrics(600, 20)
    metrics.accumulate(values, np.asfortranarray(labels), 0.0)
    assert_same(metrics.get(), expected)


def test_predictions_are_not_changed():
  predictions, labels, weights = random_batch(9, 20, 600, 3, 0.01)
  copies = predictions.copy(), labels.copy(), weights.copy()
  EvaluationMetrics(600, 5).accumulate(predictions, labels, 0.0, weights)
  assert (predictions == copies[0]).all()
  assert (labels == copies[1]).all()
  assert (weights == copies[2]).all()


def test_loss_as_a_number_or_one_for_each_video():
  metrics = EvaluationMetrics(4, 2)
  assert metrics.accumulate(PREDICTIONS, LABELS, 4.0)["loss"] == 4.0
  assert metrics.accumulate(PREDICTIONS[:1], LABELS[:1], [1.0])["loss"] == 1.0
  # Two videos at 4, one at 1.
  assert metrics.get()["avg_loss"] == 3.0


def test_get_keeps_and_clear_forgets():
  metrics = EvaluationMetrics(4, 2)
  metrics.accumulate(PREDICTIONS, LABELS, 1.0)
  first = metrics.get()
  assert metrics.get() == first
  assert metrics.average_precisions() == first["aps"]
  metrics.accumulate(PREDICTIONS[:1], LABELS[:1], 1.0)
  assert_same(
    metrics.get(),
    plain_metrics(PREDICTIONS[[0, 1, 0]], LABELS[[0, 1, 0]], 2),
  )
  metrics.clear()
  with pytest.raises(ValueError, match="at least one video"):
    metrics.get()
  metrics.accumulate(PREDICTIONS, LABELS, 1.0)
  assert metrics.get() == first


def test_an_empty_batch_changes_nothing():
  metrics = EvaluationMetrics(4, 2)
  metrics.accumulate(PREDICTIONS, LABELS, 1.0)
  before = metrics.get()
  for loss in (0.0, np.zeros(0)):
    means = metrics.accumulate(PREDICTIONS[:0], LABELS[:0], loss)
    assert all(math.isnan(value) for value in means.values())
  assert metrics.get() == before


def top_k_arguments(predictions, labels, ranks):
  """What a device would pass to accumulate_top_k."""
  order = np.argsort(-predictions, axis=1, kind="stable")[:, :ranks]
  return {
    "class_indexes": order.astype(np.int32),
    "predictions": np.take_along_axis(predictions, order, axis=1),
    "actuals": np.take_along_axis(labels, order, axis=1),
    "num_labels": labels.sum(axis=1, dtype=np.int32),
    "num_positives": labels.sum(axis=0, dtype=np.int32),
  }


def test_accumulate_top_k_equals_accumulate():
  predictions, labels, weights = random_batch(10, 60, 50, 12, 0.1)
  # At least as many ranks as any video has labels.
  ranks = max(4, labels.sum(axis=1).max())
  assert 4 < ranks < 50
  expected = EvaluationMetrics(50, 4)
  metrics = EvaluationMetrics(50, 4)
  assert metrics.accumulate_top_k(
    **top_k_arguments(predictions, labels, ranks), loss=2.0
  ) == expected.accumulate(predictions, labels, 2.0)
  # Not rated: below everything, whatever its label. Video 0 has no ratings, and
  # its label 0 is then the first of its equal predictions.
  weights[0] = 0.0
  labels[0, 0] = True
  rated = weights > 0
  masked = np.where(rated, predictions, -np.inf)
  arguments = top_k_arguments(masked, labels & rated, ranks)
  arguments["actuals"] = np.take_along_axis(
    labels, arguments["class_indexes"], axis=1
  )
  assert metrics.accumulate_top_k(**arguments, loss=1.0) == expected.accumulate(
    predictions, labels, 1.0, weights
  )
  assert metrics.get() == expected.get()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"actuals": np.zeros((2, 3))}, r"one shape \(videos, ranks\)"),
    ({"num_labels": [2, 1, 0]}, r"received .* and \(3,\)"),
    ({"num_labels": [2, 4]}, "at least 4 ranks, .* received 2"),
    ({"predictions": [[0.6, 0.9], [0.8, 0.7]]}, "best first"),
    (
      {"predictions": [[0.9, math.nan], [0.8, 0.7]]},
      r"columns \(classes\) 0\. The model diverged",
    ),
    (
      {"predictions": [[math.inf, 0.5], [math.inf, 0.7]]},
      r"columns \(classes\) 1, 3\. The model diverged",
    ),
    ({"num_labels": [2, 2]}, "received sums of 4 and 3"),
    ({"num_positives": [2, 1]}, r"4 numbers, .* shape \(2,\)"),
    ({"class_indexes": [[1, 0], [4, 0]]}, "from 0 to 3"),
    ({"loss": [1.0]}, r"shape \(2,\), .* received shape \(1,\)"),
  ],
)
def test_wrong_top_k_arguments_change_nothing(changes, message):
  arguments = {**top_k_arguments(PREDICTIONS, LABELS, 2), "loss": 0.0}
  metrics = EvaluationMetrics(4, 2)
  metrics.accumulate_top_k(**arguments)
  before = metrics.get()
  with pytest.raises(ValueError, match=message):
    metrics.accumulate_top_k(**{**arguments, **changes})
  assert metrics.get() == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_that_are_not_finite(bad, weighted):
  predictions, labels, weights = random_batch(11, 200, 600, 50, 0.01)
  predictions[3, 17] = predictions[190, 5] = bad
  message = r"columns \(classes\) 5, 17\. The model diverged"
  weights = np.zeros_like(weights) if weighted else None
  metrics = EvaluationMetrics(600, 20)
  with pytest.raises(ValueError, match=message):
    metrics.accumulate(predictions, labels, 0.0, weights)
  with pytest.raises(ValueError, match="at least one video"):
    metrics.get()
  for calculate in (
    eval_util.calculate_hit_at_one,
    eval_util.calculate_precision_at_equal_recall_rate,
    eval_util.calculate_gap,
    eval_util.top_k_by_class,
  ):
    with pytest.raises(ValueError, match=message):
      calculate(predictions, labels)


def test_many_columns_that_are_not_finite_are_summed_up():
  with pytest.raises(ValueError, match=r"0, 1, 2, .*, 9, and 490 more"):
    eval_util.top_k_classes(np.full((2, 500), np.nan))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((PREDICTIONS[0], LABELS, 0.0), r"\(videos, 4\), received shape \(4,\)"),
    ((PREDICTIONS[:, :3], LABELS, 0.0), r"received shape \(2, 3\)"),
    ((PREDICTIONS, LABELS[:1], 0.0), r"labels of .* received shape \(1, 4\)"),
    ((PREDICTIONS, None, 0.0), r"labels of .* received shape \(\)"),
    ((PREDICTIONS, LABELS, [1.0]), "loss to be one number"),
    ((PREDICTIONS, LABELS, 0.0, LABELS[:, :1]), "label_weights of"),
  ],
)
def test_wrong_shapes_change_nothing(arguments, message):
  metrics = EvaluationMetrics(4, 2)
  with pytest.raises(ValueError, match=message):
    metrics.accumulate(*arguments)
  with pytest.raises(ValueError, match="at least one video"):
    metrics.get()


def test_no_classes():
  with pytest.raises(ValueError, match=r"\(videos, classes\)"):
    eval_util.calculate_hit_at_one(np.zeros((2, 0)), np.zeros((2, 0)))


@pytest.mark.parametrize("k", [0, -1, 1.5, None])
def test_wrong_k(k):
  message = "to be a positive integer"
  with pytest.raises(ValueError, match=message):
    EvaluationMetrics(4, k)
  with pytest.raises(ValueError, match=message):
    eval_util.calculate_gap(PREDICTIONS, LABELS, k)
  with pytest.raises(ValueError, match=message):
    eval_util.top_k_by_class(PREDICTIONS, LABELS, k)
  with pytest.raises(ValueError, match=message):
    eval_util.top_k_classes(PREDICTIONS, k)


def test_wrong_num_class_and_top_n():
  with pytest.raises(ValueError, match="num_class"):
    EvaluationMetrics(0, 20)
  with pytest.raises(ValueError, match="top_n"):
    EvaluationMetrics(4, 20, top_n=0)


def test_tensorflow_is_not_imported():
  program = "import sys, eval_util; sys.exit('tensorflow' in sys.modules)"
  finished = subprocess.run(
    [sys.executable, "-c", program],
    cwd=pathlib.Path(eval_util.__file__).parent,
    check=False,
  )
  assert finished.returncode == 0
