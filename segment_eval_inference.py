"""Scores predicted segments: python segment_eval_inference.py.

Reads the file that inference.py --segment_labels writes, and the ratings of
segments in records, and prints the mean average precision (MAP@100,000, the
metric of the challenge of 2019). For each class, the segments without a rating
for it are left out of its list; the others are ranked.
"""

from collections.abc import Iterator
from typing import NamedTuple

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags, logging

import average_precision_calculator
import errors
from data_tools import sample_data
from engine import csv_cells, segment_ratings
from engine.data_files import find_files, is_local
from engine.progress_bar import Progress
from engine.segment_ratings import Ratings

FLAGS = flags.FLAGS

_HEADER = b"Class,Segments"
# More would be no header: a device may have no end of a line.
_MOST_HEADER_BYTES = 1 << 16
# Characters of what was found that a message shows.
_SHOWN = 40

# Of each class, whether it shows in each of the segments that are rated for it.
RatingsByClass = dict[int, dict[bytes, bool]]


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "eval_data_pattern",
    "",
    "Glob pattern of the TFRecord files with ratings, or several separated by"
    " commas; empty: the validate split of the built-in sample segments.",
    flag_values=flag_values,
  )
  flags.DEFINE_string(
    "label_cache",
    "",
    "File that keeps the ratings for the next call; read again if the records"
    " have changed. Empty: none.",
    flag_values=flag_values,
  )
  flags.DEFINE_string(
    "submission_file",
    "predictions.csv",
    "What inference.py --segment_labels has written.",
    flag_values=flag_values,
  )
  flags.DEFINE_integer(
    "top_n",
    100000,
    "The best rated segments of each class that count; 0: all.",
    lower_bound=0,
    flag_values=flag_values,
  )


# --------------------------------------------------------------------------
# The file of predictions


class ClassSegments(NamedTuple):
  """The list of a class in a file of predictions.

  Attributes:
    index: of the class.
    segments: "id:start" of each, best first, the ids as in the records.
  """

  index: int
  segments: list[bytes]


def _open(path: str):
  """Opens a file for reading lines; Python is faster than TensorFlow."""
  return open(path, "rb") if is_local(path) else tf.io.gfile.GFile(path, "rb")


def _shown(text: bytes) -> str:
  """The beginning of some text, for a message."""
  more = "..." if len(text) > _SHOWN else ""
  return repr(text[:_SHOWN].decode("utf-8", "replace")) + more


def _first_repeated(segments: list[bytes]) -> bytes:
  """The first segment of a list that was there before."""
  seen = set()
  for segment in segments:
    if segment in seen:
      break
    seen.add(segment)
  return segment


def read_submission(path: str) -> Iterator[ClassSegments]:
  """Reads a file of predictions, a class at a time.

  Args:
    path: CSV with the header Class,Segments; a line is class,id:start id:start
      ..., best segment first.

  Raises:
    errors.UserError: a line is something else, or names a class or a segment
      that was there before; names the file and the line, from 1.
  """
  lines: dict[int, int] = {}
  with _open(path) as file:
    header = (
      file.readline(_MOST_HEADER_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
    )
    if header.replace(b" ", b"") != _HEADER:
      raise errors.UserError(
        f"Expected the header {_HEADER.decode()} in {path}, line 1, found"
        f" {_shown(header)}. Make the file with inference.py --segment_labels."
      )
    for number, line in enumerate(file, 2):
      if line.isspace():
        continue
      place = f"{path}, line {number}"
      text, comma, listed = line.partition(b",")
      if not comma or not csv_cells.is_index(text.strip()):
        raise errors.UserError(
          f"Expected a class index, a comma and segments in {place}, found"
          f" {_shown(line.rstrip())}. Make the file with inference.py"
          " --segment_labels."
        )
      index = int(text)
      if index in lines:
        raise errors.UserError(
          f"Expected each class once, found class {index} in {place}, and"
          f" before in line {lines[index]}. Leave one of the lines out."
        )
      lines[index] = number
      segments = listed.split()
      # Cheaper than to look at each, of which there may be 100 million.
      if listed.count(b":") < len(segments) or b"," in listed:
        wrong = next(
          segment
          for segment in segments
          if b":" not in segment or b"," in segment
        )
        raise errors.UserError(
          f"Expected segments such as id:5 in {place}, found {_shown(wrong)}."
          " Write the id of the video, a colon, and the start in seconds, with"
          " spaces between segments."
        )
      if b"\\x" in listed:
        segments = list(map(csv_cells.unescaped, segments))
      if len(set(segments)) < len(segments):
        raise errors.UserError(
          f"Expected each segment once in a class, found"
          f" {_shown(_first_repeated(segments))} twice in {place}. Leave one"
          " out."
        )
      yield ClassSegments(index, segments)


# --------------------------------------------------------------------------
# The score


class Score(NamedTuple):
  """How good predicted segments are.

  Attributes:
    mean_average_precision: over the classes with positive ratings.
    average_precisions: of each of these, by class index, ascending.
    num_ranked: rated segments in the lists of these classes, over all classes.
    missing: those of these classes that have no line, and count 0.
  """

  mean_average_precision: float
  average_precisions: dict[int, float]
  num_ranked: int
  missing: list[int]


def by_class(ratings: Ratings) -> RatingsByClass:
  """Sorts ratings into their classes; only those with positive ones stay.

  A class that no segment shows has no average precision.
  """
  positive = set(ratings.classes[ratings.is_positive].tolist())
  found: RatingsByClass = {index: {} for index in sorted(positive)}
  for segment, index, is_positive in zip(
    *(column.tolist() for column in ratings), strict=True
  ):
    if index in found:
      found[index][segment] = is_positive
  return found


def average_precision(
  hits: np.ndarray, num_positives: int, top_n: int = 0
) -> float:
  """The average precision of a class.

  AP = 1 / P * sum over positives i of (positives up to rank i) / (rank of i).
  All positives are in P, also those that are in no list.

  Args:
    hits: (segments,) bool, best first: which of the rated ones are positive.
    num_positives: P.
    top_n: how many of them count; 0 for all.
  """
  hits = hits[: top_n or None]
  order = np.arange(len(hits), 0, -1, dtype=np.float64)
  return average_precision_calculator.average_precision(
    order[hits], order[~hits], num_positives
  )


def score_submission(path: str, ratings: Ratings, top_n: int = 0) -> Score:
  """Scores a file of predictions.

  A class at a time: a list of a hundred thousand segments takes 20 MB.

  Args:
    path: see read_submission.
    ratings: of segments.
    top_n: the best rated segments of each class that count; 0 for all.

  Raises:
    errors.UserError: see read_submission; no segment is positive; no rated
      segment is listed.
  """
  rated_in = by_class(ratings)
  if not rated_in:
    raise errors.UserError(
      "Expected segments that show their class in the files of"
      f" --eval_data_pattern, found none among {len(ratings.segments)} ratings."
      " Name more files."
    )
  found: dict[int, float] = {}
  num_ranked = num_entries = 0
  progress = Progress("Scored")
  for index, segments in read_submission(path):
    num_entries += len(segments)
    rated = rated_in.get(index)
    if rated is None:
      continue
    hits = [rated[segment] for segment in segments if segment in rated]
    num_ranked += len(hits)
    found[index] = average_precision(
      np.array(hits, bool), sum(rated.values()), top_n
    )
    if progress.is_due():
      text = f"{len(found):,} of {len(rated_in):,} classes"
      progress.show(len(found) / len(rated_in), text)
  progress.end()
  if not num_ranked:
    raise errors.UserError(
      f"Expected rated segments in {path}, found none among its"
      f" {num_entries:,} entries: they are of other videos or other classes"
      " than the ratings. Predict the files of --eval_data_pattern."
    )
  precisions = {index: found.get(index, 0.0) for index in rated_in}
  return Score(
    float(np.mean(list(precisions.values()))),
    precisions,
    num_ranked,
    [index for index in rated_in if index not in found],
  )


def main() -> None:
  """Scores the file that the flags name."""
  if not tf.io.gfile.exists(FLAGS.submission_file):
    raise errors.UserError(
      f"Expected predicted segments as --submission_file, received"
      f" {FLAGS.submission_file}, which does not exist. Make them with"
      " inference.py --segment_labels."
    )
  pattern = sample_data.pattern_or_sample_data(
    FLAGS.eval_data_pattern,
    "validate",
    frame_features=True,
    segment_labels=True,
  )
  files = find_files(pattern, "eval_data_pattern")
  ratings = segment_ratings.kept_ratings(files, FLAGS.label_cache)
  logging.info(
    "%s ratings of segments for %s classes in %s",
    f"{len(ratings.segments):,}",
    f"{len(set(ratings.classes.tolist())):,}",
    pattern,
  )
  with startup.naming_flag("submission_file"):
    score = score_submission(FLAGS.submission_file, ratings, FLAGS.top_n)
  if score.missing:
    shown = ", ".join(map(str, score.missing[:10]))
    more = ", ..." if len(score.missing) > 10 else ""
    logging.warning(
      "Not in %s, and counted as 0: %d classes with positive ratings (%s%s).",
      FLAGS.submission_file,
      len(score.missing),
      shown,
      more,
    )
  logging.info("Rated segments in the lists: %s", f"{score.num_ranked:,}")
  logging.info(
    "Num classes: %d | mAP@%s: %.6f",
    len(score.average_precisions),
    FLAGS.top_n or "all",
    score.mean_average_precision,
  )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
