"""Tests of segment_predictions."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from conftest import error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from make_records import segment_record, small_frames, write_records

import segment_eval_inference
from engine import csv_cells, segment_predictions
from engine.segment_predictions import BestSegments, find_classes, read_classes

# --------------------------------------------------------------------------
# Which classes


def test_classes_in_the_order_of_the_file(tmp_path):
  path = tmp_path / "ids.csv"
  path.write_text("Index\n3\n0\n39\n")
  assert read_classes(str(path), 40).tolist() == [3, 0, 39]


@pytest.mark.parametrize(
  ("content", "line", "found"),
  [
    ("Index\n3\n40\n", 3, "40"),
    ("Index\n-1\n", 2, "-1"),
    ("Index\n" + "9" * 5000, 2, "9" * 40),
    ("Index\n3\n4\ngame\n", 4, "game"),
    ("Index\n3\n4,5\n", 3, "4,5"),
    ("Index\n3\n1.5\n", 3, "1.5"),
    ("Index\n\u00b2\n", 2, "\u00b2"),
  ],
)
def test_bad_classes(tmp_path, content, line, found):
  path = tmp_path / "ids.csv"
  path.write_text(content)
  text = error_of(read_classes, str(path), 40)
  assert f"{path}, line {line}, found {found!r}" in text
  assert "from 0 to 39" in text


@pytest.mark.parametrize("content", [b"\xff\xfeI\0", b"Index\n\xe9\n"])
def test_classes_that_are_no_text(tmp_path, content):
  path = tmp_path / "ids.csv"
  path.write_bytes(content)
  assert f"in UTF-8 as {path}" in error_of(read_classes, str(path), 40)


def test_classes_without_a_header(tmp_path):
  # Taking the first class for a header would silently lose it.
  path = tmp_path / "ids.csv"
  path.write_text("\ufeff3\n5\n")  # as a spreadsheet begins it
  assert f"{path}, line 1" in error_of(read_classes, str(path), 40)


def test_a_class_twice(tmp_path):
  # The file of predictions would have two lines for it.
  path = tmp_path / "ids.csv"
  path.write_text("Index\n3\n5\n3\n")
  text = error_of(read_classes, str(path), 40)
  assert "found 3 in line 4 and in line 2" in text


def test_a_class_that_the_model_does_not_predict(tmp_path):
  path = tmp_path / "ids.csv"
  path.write_text("Index\n3\n5\n")
  assert read_classes(str(path), 40, [3, 5]).tolist() == [3, 5]
  text = error_of(read_classes, str(path), 40, [3, 4])
  assert f"{path}, line 3, found 5" in text


@pytest.fixture(scope="module")
def rated_file(tmp_path_factory):
  """Records with ratings of the classes 7, 2 and 30."""
  features = {"rgb": np.zeros((9, 3), np.uint8)}
  records = [
    segment_record("a", [(0, 7, 1.0), (5, 2, 0.0)], **features),
    segment_record("b", [], **features),
    segment_record("c", [(0, 30, 0.0), (0, 7, 0.0)], **features),
  ]
  return write_records(tmp_path_factory.mktemp("rated") / "a", records)


@pytest.mark.parametrize(
  ("num_classes", "subset", "expected"),
  [
    (40, None, [2, 7, 30]),
    (30, None, [2, 7]),
    (40, [0, 7, 30], [7, 30]),
    (40, [0, 1], [0, 1]),
  ],
)
def test_classes_that_have_ratings(rated_file, num_classes, subset, expected):
  found = find_classes([rated_file], num_classes, subset)
  assert found.tolist() == expected


def test_all_classes_where_there_are_no_ratings(tmp_path):
  file = write_records(tmp_path / "a", [small_frames("a"), b"no record"])
  assert find_classes([file], 4).tolist() == [0, 1, 2, 3]
  assert find_classes([file], 4, [1, 3]).tolist() == [1, 3]


# --------------------------------------------------------------------------
# The best of each class


def brute_force_ranking(confidences, limit):
  """The rows of each class, best first; of equal ones, the earlier first."""
  return [
    sorted(range(len(column)), key=lambda row: (-column[row], row))[:limit]
    for column in confidences.T.tolist()
  ]


def rank(confidences, limit, sizes):
  """The rows that BestSegments keeps, given to it in batches of these sizes.

  Each row is a video of one segment.
  """
  best = BestSegments(confidences.shape[1], limit)
  first = 0
  for size in sizes:
    rows = range(first, min(first + size, len(confidences)))
    if rows:
      best.add(
        np.array([str(row).encode() for row in rows], object),
        np.zeros(len(rows), np.int64),
        confidences[rows.start : rows.stop],
      )
    first = max(rows.stop, first)
  assert first == len(confidences)
  return [
    [int(name.removesuffix(":0")) for name in names] for names in best.ranked()
  ]


@settings(deadline=None)
@given(
  st.integers(0, 2**32 - 1),
  st.integers(1, 40),
  st.integers(1, 50),
  st.integers(1, 4),
)
def test_ties(seed, num_segments, limit, num_values):
  random = np.random.default_rng(seed)
  values = random.random(num_values).astype(np.float32)
  confidences = random.choice(values, (num_segments, 3))
  sizes = [num_segments // 3] * 3 + [num_segments]
  assert rank(confidences, limit, sizes) == brute_force_ranking(
    confidences, limit
  )


@settings(deadline=None, max_examples=30)
@given(
  st.integers(0, 2**32 - 1),
  st.integers(1, 400),
  st.integers(1, 60),
  st.integers(1, 9),
  st.integers(1, 40),
)
def test_ties_over_many_drops(seed, num_segments, limit, num_values, at_a_time):
  random = np.random.default_rng(seed)
  confidences = random.integers(num_values, size=(num_segments, 2))
  confidences = confidences.astype(np.float32)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(segment_predictions, "_SEGMENTS_AT_A_TIME", at_a_time)
    found = rank(confidences, limit, [7] * (num_segments // 7) + [7])
  assert found == brute_force_ranking(confidences, limit)


@pytest.mark.parametrize("limit", [1, 100, 4096, 7000, 100000])
@pytest.mark.parametrize("ascending", [False, True])
def test_many_segments(limit, ascending):
  random = np.random.default_rng(6)
  # 300 different values among 20,000 segments.
  confidences = random.integers(300, size=(20000, 2)).astype(np.float32) / 300
  if ascending:  # the worst order: every segment is kept at first
    confidences.sort(axis=0)
  assert rank(confidences, limit, [1500] * 13 + [500]) == brute_force_ranking(
    confidences, limit
  )


def test_a_class_keeps_no_more_than_a_quarter_above_its_limit():
  best = BestSegments(1, 40000)
  values = np.arange(300000, dtype=np.float32)
  for first in range(0, len(values), 1000):
    part = values[first : first + 1000, None]
    starts = 5 * np.arange(first, first + 1000)
    best.add(np.full(len(part), b"a", object), starts, part)
  (kept,) = best._best
  assert len(kept._values) == len(kept._places) == 50000
  (names,) = best.ranked()
  assert names == [f"a:{5 * row}" for row in range(299999, 259999, -1)]
  # All segments are of one video, whose name is there once.
  assert best._names._ids == ["a"]


def test_nothing():
  assert list(BestSegments(2, 5).ranked()) == [[], []]


def test_names_of_videos_in_any_pieces():
  """Videos of any length, and of starts that do not follow each other."""
  random = np.random.default_rng(3)
  ids, starts, names = [], [], []
  for video in range(50):
    name = f"v{video // 2}"  # two videos in a row may have the same id
    for number in range(random.integers(1, 9)):
      start = 5 * number + (7 if number == 4 else 0)
      ids.append(name.encode())
      starts.append(start)
      names.append(f"{name}:{start}")
  best = BestSegments(1, len(ids))
  confidences = np.arange(len(ids), 0, -1, dtype=np.float32)[:, None]
  first = 0
  while first < len(ids):
    rows = slice(first, first + int(random.integers(1, 12)))
    best.add(
      np.array(ids[rows], object), np.array(starts[rows]), confidences[rows]
    )
    first = rows.stop
  assert list(best.ranked()) == [names]


# --------------------------------------------------------------------------
# The file


def test_file_of_predictions(tmp_path):
  """Worked out by hand: three segments, of which each class keeps two."""
  batch = {
    "video_ids": tf.constant([b"a", b"a", b"b"]),
    "segment_start_times": tf.constant([0, 5, 0], tf.int64),
  }
  predictions = np.array(
    [[0.1, 0.9, 0.5], [0.3, 0.8, 0.5], [0.2, 0.7, 0.6]], np.float32
  )
  for label_subset, classes, expected in [
    (None, [2, 0], "2,b:0 a:0\n0,a:5 b:0\n"),
    ([4, 6, 9], [9, 4], "9,b:0 a:0\n4,a:5 b:0\n"),
  ]:
    segment_predictions.write_best_segments(
      [(batch, predictions)],
      str(tmp_path / "out.csv"),
      np.array(classes),
      2,
      label_subset,
    )
    text = (tmp_path / "out.csv").read_text()
    assert text == f"Class,Segments\n{expected}"


def test_a_failure_leaves_the_old_file(tmp_path):
  def fail():
    yield from ()
    raise ValueError("no more")

  (tmp_path / "out.csv").write_text("old")
  with pytest.raises(ValueError, match="no more"):
    segment_predictions.write_best_segments(
      fail(), str(tmp_path / "out.csv"), np.array([0]), 2
    )
  assert (tmp_path / "out.csv").read_text() == "old"
  assert len(list(tmp_path.iterdir())) == 1


def test_ids_of_any_bytes_are_read_back(tmp_path):
  ids = [
    *(b"a b", b"a", b'"', b"a,b", b"a\nb", b"\r", b"\t", b"\0", b":", b""),
    *(b"caf\xe9", b"\\xe9", b"a\x85", "\u2028\xa0\x85".encode(), b"=x"),
  ]
  batch = {
    "video_ids": tf.constant(ids),
    "segment_start_times": tf.constant([5] * len(ids), tf.int64),
  }
  confidences = np.linspace(1, 0, len(ids), dtype=np.float32)[:, None]
  path = tmp_path / "out.csv"
  segment_predictions.write_best_segments(
    [(batch, confidences)], str(path), np.array([0]), 100
  )
  ((index, segments),) = segment_eval_inference.read_submission(str(path))
  assert index == 0
  assert segments == [name + b":5" for name in ids]
  with path.open(newline="", encoding="utf-8") as file:
    _, (_, listed) = csv.reader(file)
  texts = [item.removesuffix(":5") for item in listed.split(" ")]
  assert list(map(csv_cells.original_bytes, texts)) == ids
