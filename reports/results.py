"""What was predicted for video files, and its tables: timeline.csv and .json.

A result is of one video: its best classes as a whole and, with --timeline, the
best classes of each window of some seconds.
"""

import dataclasses
import json
from collections.abc import Iterable

from engine import csv_cells
from engine.files import text_written_aside

CSV_COLUMNS = (
  "video_id",
  "start",
  "end",
  "rank",
  "class_index",
  "class_name",
  "confidence",
)

JSON_BEGINNING = '{"videos": ['
"""Of write_timeline_json."""


@dataclasses.dataclass
class ClassScore:
  """What a model says about one class.

  Attributes:
    index: of the class in the model.
    name: of the class; empty if nobody named it.
    confidence: a probability, 0 to 1.
  """

  index: int
  name: str
  confidence: float

  @property
  def label(self) -> str:
    """The name to show: a class without one is shown by its index."""
    return readable(self.name).strip() or f"Class {self.index}"


@dataclasses.dataclass
class Window:
  """A part of a video.

  Attributes:
    start: seconds from the start of the video.
    end: seconds; the next window's start, or the end of the video.
    top: the best classes of the window, best first.
    thumbnail: a JPEG file's bytes, of a frame of the window; may be empty.
  """

  start: float
  end: float
  top: list[ClassScore]
  thumbnail: bytes = b""


@dataclasses.dataclass
class VideoResult:
  """What was predicted for one video file.

  Attributes:
    path: of the file, as the user named it.
    video_id: its id in predictions.csv.
    duration: seconds.
    top: the best classes of the whole video, best first.
    windows: in the order of time; empty where only whole videos are predicted.
    thumbnail: a JPEG file's bytes, for videos without windows; may be empty.
  """

  path: str
  video_id: str
  duration: float
  top: list[ClassScore]
  windows: list[Window] = dataclasses.field(default_factory=list)
  thumbnail: bytes = b""

  def without_thumbnails(self) -> "VideoResult":
    """A copy for the tables, which takes little memory."""
    windows = [dataclasses.replace(one, thumbnail=b"") for one in self.windows]
    return dataclasses.replace(self, windows=windows, thumbnail=b"")


def readable(text: str) -> str:
  """Text that can be written as UTF-8.

  Names of files are bytes. Python keeps those that are no UTF-8 as surrogates,
  which cannot be written; they become the replacement character.
  """
  return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_timeline_csv(
  path: str, results: Iterable[VideoResult], spreadsheet_safe: bool = False
) -> None:
  """Writes a line for each class of each window, best first.

  Columns: video_id, start and end in seconds, rank (from 1), class_index,
  class_name and confidence. Videos without windows have no line.

  Args:
    path: the CSV file, which appears when it is complete.
    results: read once, in order.
    spreadsheet_safe: see csv_cells.cell.
  """
  with text_written_aside(path) as file:
    file.write(csv_cells.line(CSV_COLUMNS))
    for result in results:
      for window in result.windows:
        for rank, score in enumerate(window.top, 1):
          values = (
            result.video_id,
            f"{window.start:.10g}",
            f"{window.end:.10g}",
            rank,
            score.index,
            score.name,
            f"{score.confidence:g}",
          )
          file.write(csv_cells.line(values, spreadsheet_safe))


def write_timeline_json(path: str, results: Iterable[VideoResult]) -> None:
  """Writes one JSON object, whose "videos" are a line each.

  A video has video_id, path, duration, top and windows; a window has start,
  end and top; a class has index, name and confidence. Times are in seconds.

  Args:
    path: the JSON file, which appears when it is complete.
    results: read once, in order.
  """
  with text_written_aside(path) as file:
    file.write(JSON_BEGINNING)
    separator = "\n"
    for result in results:
      line = json.dumps(_as_json(result), ensure_ascii=False, allow_nan=False)
      file.write(separator + line)
      separator = ",\n"
    file.write("\n]}\n")


def _as_json(result: VideoResult) -> dict:
  return {
    "video_id": readable(result.video_id),
    "path": readable(result.path),
    "duration": _rounded(result.duration),
    "top": _scores(result.top),
    "windows": [
      {
        "start": _rounded(window.start),
        "end": _rounded(window.end),
        "top": _scores(window.top),
      }
      for window in result.windows
    ],
  }


def _scores(scores: list[ClassScore]) -> list[dict]:
  return [
    {
      "index": int(score.index),
      "name": readable(score.name),
      "confidence": float(f"{score.confidence:g}"),
    }
    for score in scores
  ]


def _rounded(seconds: float) -> float:
  return float(f"{seconds:.10g}")
