"""Tests of segment_eval_inference."""

import tracemalloc

import in_process
import numpy as np
import pytest
from conftest import SEGMENT_RATINGS, assert_names, error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from make_records import segment_record, write_records

import segment_eval_inference
from engine.segment_ratings import Ratings
from segment_eval_inference import (
  average_precision,
  read_submission,
  score_submission,
)


def make_ratings(rated: dict) -> Ratings:
  """Ratings of {(segment, class): whether it is positive}."""
  return Ratings(
    np.array([segment.encode() for segment, _ in rated]),
    np.array([index for _, index in rated], np.int64),
    np.array(list(rated.values()), bool),
  )


def write_submission(path, lists: dict) -> str:
  """A file of {class: segments}."""
  lines = [
    f"{index},{' '.join(segments)}\n" for index, segments in lists.items()
  ]
  path.write_text("Class,Segments\n" + "".join(lines))
  return str(path)


def slow_map(lists: dict, rated: dict, top_n: int = 0) -> float:
  """MAP@N by its definition, one rank after the other."""
  precisions = []
  for index in {label for (_, label), positive in rated.items() if positive}:
    num_positives = sum(
      positive for (_, label), positive in rated.items() if label == index
    )
    ranked = [name for name in lists.get(index, []) if (name, index) in rated]
    if top_n:
      ranked = ranked[:top_n]
    total = 0.0
    for rank, name in enumerate(ranked, 1):
      if rated[name, index]:
        hits = sum(rated[other, index] for other in ranked[:rank])
        total += hits / rank
    precisions.append(total / num_positives)
  return sum(precisions) / len(precisions)


# --------------------------------------------------------------------------
# The score


@pytest.mark.parametrize(
  ("hits", "num_positives", "top_n", "expected"),
  [
    ([1, 0, 1], 2, 0, (1 + 2 / 3) / 2),
    ([0, 0, 1], 1, 0, 1 / 3),
    # One of three positives is in no list.
    ([1, 1], 3, 0, 2 / 3),
    ([1, 0, 1], 2, 2, 1 / 2),
    # The positives beyond the cut count as missed.
    ([1, 1, 1], 3, 1, 1 / 3),
    ([0, 0], 4, 0, 0.0),
    ([], 4, 0, 0.0),
  ],
)
def test_average_precision(hits, num_positives, top_n, expected):
  found = average_precision(np.array(hits, bool), num_positives, top_n)
  assert found == pytest.approx(expected, abs=1e-12)


def test_unrated_segments_are_left_out_before_ranking(tmp_path):
  """Worked out by hand.

  Class 1: rated a:0 (no), b:5 (yes), b:10 (yes, in no list); the list is c:0,
  b:5, c:5, a:0, of which b:5, a:0 are left: AP = 1 / 2. Class 2: a:0 (yes) at
  rank 2 of the rated ones: AP = 1 / 2. Class 3 has no line: AP = 0. Class 4 has
  no positive, class 5 no rating.
  """
  rated = {
    **{("a:0", 1): False, ("b:5", 1): True, ("b:10", 1): True},
    **{("a:0", 2): True, ("c:0", 2): False},
    **{("a:0", 3): True},
    **{("a:0", 4): False},
  }
  lists = {
    4: ["a:0"],
    2: ["c:0", "b:5", "a:0"],
    1: ["c:0", "b:5", "c:5", "a:0"],
    5: ["a:0", "c:0"],
  }
  path = write_submission(tmp_path / "predictions.csv", lists)
  score = score_submission(path, make_ratings(rated))
  assert score.average_precisions == {1: 0.5, 2: 0.5, 3: 0.0}
  assert score.mean_average_precision == pytest.approx(1 / 3)
  assert score.num_ranked == 4
  assert score.missing == [3]
  # The cut is made among the rated ones: b:5 of class 1 is second in its list.
  cut = score_submission(path, make_ratings(rated), top_n=1)
  assert cut.average_precisions == {1: 0.5, 2: 0.0, 3: 0.0}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_by_definition(tmp_path_factory, seed, top_n):
  random = np.random.default_rng(seed)
  names = [
    f"v{video}:{5 * number}" for video in range(6) for number in range(5)
  ]
  rated = {
    (name, index): bool(random.integers(2))
    for name in names
    for index in range(5)
    if random.random() < 0.4
  }
  rated["v0:0", 0] = True
  lists = {}
  for index in random.permutation(7)[:5].tolist():
    shuffled = random.permutation(names).tolist()
    lists[index] = shuffled[: random.integers(len(names))]
  lists.setdefault(0, []).append("extra:0")
  rated["extra:0", 0] = bool(random.integers(2))
  path = tmp_path_factory.mktemp("slow") / "predictions.csv"
  write_submission(path, lists)
  score = score_submission(str(path), make_ratings(rated), top_n)
  assert score.mean_average_precision == pytest.approx(
    slow_map(lists, rated, top_n), abs=1e-12
  )


def test_no_positive_ratings(tmp_path):
  path = write_submission(tmp_path / "p.csv", {1: ["a:0"]})
  text = error_of(score_submission, path, make_ratings({("a:0", 1): False}))
  assert_names(text, "--eval_data_pattern", "found none among 1 ratings")


def test_predictions_of_other_videos(tmp_path):
  path = write_submission(tmp_path / "p.csv", {1: ["b:0", "c:5"], 2: ["a:0"]})
  text = error_of(score_submission, path, make_ratings({("a:0", 1): True}))
  assert_names(text, path, "found none among its 3 entries")


# --------------------------------------------------------------------------
# The file


def read_lists(path) -> dict:
  return {
    index: [name.decode() for name in segments]
    for index, segments in read_submission(str(path))
  }


def test_lists(tmp_path):
  lists = {3: ["a:0", "b:5"], 0: [], 12: ["-_x:295"]}
  path = write_submission(tmp_path / "p.csv", lists)
  assert read_lists(path) == lists


def test_what_other_writers_make_of_it(tmp_path):
  """A byte order mark, Windows's ends of lines, empty lines, no last end."""
  path = tmp_path / "p.csv"
  path.write_bytes(
    b"\xef\xbb\xbfClass,Segments\r\n3,a:0 b:5\r\n\r\n4,\r\n 5 , c:0  d:0"
  )
  assert read_lists(path) == {3: ["a:0", "b:5"], 4: [], 5: ["c:0", "d:0"]}


@pytest.mark.parametrize(
  ("content", "line", "found"),
  [
    ("", 1, "''"),
    ("VideoId,LabelConfidencePairs\na,1 0.5\n", 1, "'VideoId,LabelConf"),
    ("3,a:0\n", 1, "'3,a:0'"),
    ("Class,Segments\n3,a:0\nx,a:0\n", 3, "'x,a:0'"),
    ("Class,Segments\n-3,a:0\n", 2, "'-3,a:0'"),
    (f"Class,Segments\n{'9' * 5000},a:0\n", 2, f"'{'9' * 40}'..."),
    ("Class,Segments\n3.5,a:0\n", 2, "'3.5,a:0'"),
    ("Class,Segments\n3 a:0\n", 2, "'3 a:0'"),
    ("Class,Segments\n3,a:0\n\n3,b:0\n", 4, "class 3"),
    ("Class,Segments\n3,a:0 b:0\n4,c:0 a:5 c:0 a:5\n", 3, "'c:0' twice"),
    ("Class,Segments\n3,\xff:0 \xff:0\n", 2, "'\ufffd:0' twice"),
    ("Class,Segments\n3,a:0 b5 c:0\n", 2, "'b5'"),
    ("Class,Segments\n3,a:0,b:5\n", 2, "'a:0,b:5'"),
    (f"Class,Segments\n{'y' * 500}\n", 2, f"'{'y' * 40}'..."),
  ],
)
def test_a_bad_line_is_named(tmp_path, content, line, found):
  path = tmp_path / "p.csv"
  path.write_bytes(content.encode("latin-1"))
  text = error_of(lambda: list(read_submission(str(path))))
  assert_names(text, f"{path}, line {line}", found)
  assert "\n" not in text
  assert len(text) < 300 + len(str(path))


def test_a_long_file_takes_the_memory_of_a_line(tmp_path):
  """40 lines of 20,000 entries each; a line and what is made of it: 4 MB."""
  path = tmp_path / "p.csv"
  entries = " ".join(f"v{number:05d}:{5}" for number in range(20000))
  with open(path, "w") as file:
    file.write("Class,Segments\n")
    for index in range(40):
      file.write(f"{index},{entries}\n")
  assert path.stat().st_size > 7e6
  ratings = make_ratings({("v00003:5", index): True for index in range(40)})
  tracemalloc.start()
  try:
    score = score_submission(str(path), ratings)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert score.mean_average_precision == 1.0
  assert peak < 6e6


# --------------------------------------------------------------------------
# The program


def test_from_predictions_to_a_score(frame_run, segment_files, tmp_path):
  log = in_process.run(
    "inference",
    f"--train_dir={frame_run[0]}",
    f"--input_data_pattern={segment_files}",
    f"--output_file={tmp_path}/predictions.csv",
    "--segment_labels",
  )
  flags = (
    f"--eval_data_pattern={segment_files}",
    f"--submission_file={tmp_path}/predictions.csv",
    f"--label_cache={tmp_path}/cache",
  )
  log = in_process.run("segment_eval_inference", *flags)
  rated = {
    (f"seg{number}:{start}", index): score > 0
    for number, ratings in enumerate(SEGMENT_RATINGS)
    for start, index, score in ratings
  }
  lists = read_lists(tmp_path / "predictions.csv")
  expected = slow_map(lists, rated)
  assert 0 < expected < 1
  assert f"Num classes: 4 | mAP@100000: {expected:.6f}" in log
  assert f"{len(rated)} ratings of segments for 5 classes" in log
  again = in_process.run("segment_eval_inference", *flags, "--top_n=2")
  assert "those kept in" in again
  assert f"| mAP@2: {slow_map(lists, rated, 2):.6f}" in again
  assert f"| mAP@all: {expected:.6f}" in in_process.run(
    "segment_eval_inference", *flags, "--top_n=0"
  )


def test_classes_without_a_line_are_named(segment_files, tmp_path):
  path = write_submission(tmp_path / "p.csv", {39: ["seg1:0"]})
  log = in_process.run(
    "segment_eval_inference",
    f"--eval_data_pattern={segment_files}",
    f"--submission_file={path}",
  )
  assert "counted as 0: 3 classes with positive ratings (3, 4, 7)" in log
  assert "Num classes: 4 | mAP@100000: 0.250000" in log


def test_a_folder_in_the_place_of_predictions(segment_files, tmp_path):
  line = in_process.run_into_error(
    "segment_eval_inference",
    f"--eval_data_pattern={segment_files}",
    f"--submission_file={tmp_path}",
  )
  assert_names(line, f"--submission_file={tmp_path}", "directory")


def test_a_missing_file_of_predictions(segment_files, tmp_path):
  line = in_process.run_into_error(
    "segment_eval_inference",
    f"--eval_data_pattern={segment_files}",
    f"--submission_file={tmp_path}/none.csv",
  )
  assert_names(line, "--submission_file", "does not exist", "inference.py")


def test_the_same_score_as_the_readers_say(tmp_path):
  """Several ratings of a pair: positive if any is, and counted once."""
  record = segment_record(
    "a",
    [(0, 1, 0.0), (0, 1, 1.0), (5, 1, 0.0)],
    rgb=np.zeros((10, 3), np.uint8),
  )
  file = write_records(tmp_path / "data", [record])
  path = write_submission(tmp_path / "p.csv", {1: ["a:5", "a:0"]})
  ratings = segment_eval_inference.segment_ratings.read_ratings([file])
  assert score_submission(path, ratings).average_precisions == {1: 0.5}
