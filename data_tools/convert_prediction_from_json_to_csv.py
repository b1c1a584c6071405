r"""Converts predictions from JSON to CSV.

Batch prediction on a server writes files with one JSON object a line, which has
the keys video_id, class_indexes and predictions. This program makes one
predictions.csv of them, as inference.py writes it. It has the name and the
flags of the original starter code's.

  python -m data_tools.convert_prediction_from_json_to_csv \
    --json_prediction_files_pattern="output/prediction.results*" \
    --csv_output_file=predictions.csv
"""

import sys
from collections.abc import Iterator

import startup  # isort: skip
import tensorflow as tf
from absl import flags, logging

import errors
from engine import csv_cells
from engine.data_files import check_not_used, find_files
from engine.files import is_number, text_written_aside
from engine.train_dir import check_no_own_file

HEADER = "VideoId,LabelConfidencePairs\n"

_KEYS = ("video_id", "class_indexes", "predictions")


def _is_class(value) -> bool:
  return is_number(value, int) and value >= 0


def _is_number(value) -> bool:
  # A whole number may be larger than any float.
  return is_number(value) and abs(value) <= sys.float_info.max


def csv_line(text: str) -> str:
  """A line of predictions.csv of a line of JSON.

  Args:
    text: an object with the keys video_id, a text or a list of one; and
      class_indexes and predictions, lists of the same length. Other keys are
      left out.

  Returns:
    id,label confidence label confidence ...: highest confidence first, of equal
    ones the lower class.

  Raises:
    ValueError: says what is wrong.
  """
  try:
    given = errors.parse_json(text)
  except ValueError as error:
    raise ValueError(f"no JSON ({error})") from error
  if not isinstance(given, dict) or not set(_KEYS) <= set(given):
    found = sorted(given) if isinstance(given, dict) else type(given).__name__
    raise ValueError(f"{found} instead of an object with {', '.join(_KEYS)}")
  video_id, classes, confidences = (given[key] for key in _KEYS)
  if isinstance(video_id, list) and len(video_id) == 1:
    (video_id,) = video_id
  if not isinstance(video_id, str):
    raise ValueError(f"the video_id {video_id!r}, which is no text")
  if not isinstance(classes, list) or not all(map(_is_class, classes)):
    raise ValueError("class_indexes that are no list of classes")
  if not isinstance(confidences, list) or not all(map(_is_number, confidences)):
    raise ValueError("predictions that are no list of finite numbers")
  if len(classes) != len(confidences):
    raise ValueError(
      f"{len(classes)} class_indexes with {len(confidences)} predictions"
    )
  pairs = sorted(
    zip(classes, confidences, strict=True), key=lambda pair: (-pair[1], pair[0])
  )
  words = [f"{index} {confidence:g}" for index, confidence in pairs]
  return csv_cells.line((video_id, " ".join(words)))


def csv_lines(path: str) -> Iterator[str]:
  """The lines of predictions.csv of a JSON file.

  Args:
    path: a text file; empty lines are left out.

  Yields:
    See csv_line.

  Raises:
    errors.UserError: names the line that is no prediction.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    for number, line in enumerate(file, start=1):
      if not line.strip():
        continue
      try:
        yield csv_line(line.decode())
      except ValueError as error:  # a UnicodeDecodeError, too
        raise errors.UserError(
          f"Expected a prediction as JSON in {path}, line {number}, received"
          f" {error}. Name files of predictions only, or make this one again."
        ) from error


def convert(files: list[str], output_file: str) -> int:
  """Writes one CSV file of all lines of JSON files, in their order.

  Args:
    files: see csv_lines.
    output_file: path of the CSV file.

  Returns:
    How many videos it has.

  Raises:
    errors.UserError: see csv_lines.
  """
  num_videos = 0
  with text_written_aside(output_file) as output:
    output.write(HEADER)
    for path in files:
      for line in csv_lines(path):
        output.write(line)
        num_videos += 1
  return num_videos


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "json_prediction_files_pattern",
    None,
    "Glob pattern of the JSON files that batch prediction wrote, such as"
    " output/prediction.results*; required.",
  )
  flags.DEFINE_string(
    "csv_output_file", None, "The CSV file to write; required."
  )


def main() -> None:
  """Converts the files that the flags name."""
  values = flags.FLAGS
  for name in ("json_prediction_files_pattern", "csv_output_file"):
    if not values[name].value:
      raise errors.UserError(
        f"Expected --{name}, received none. Name the files to read by"
        " --json_prediction_files_pattern and the one to write by"
        " --csv_output_file."
      )
  files = find_files(
    values.json_prediction_files_pattern, "json_prediction_files_pattern"
  )
  check_not_used(values.csv_output_file, "csv_output_file", files)
  check_no_own_file(values.csv_output_file, "csv_output_file")
  with startup.naming_flag("csv_output_file"):
    num_videos = convert(files, values.csv_output_file)
  logging.info(
    "%d predictions of %d files: %s",
    num_videos,
    len(files),
    values.csv_output_file,
  )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
