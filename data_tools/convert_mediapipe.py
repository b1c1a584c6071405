r"""Converts the files of MediaPipe's YouTube-8M extractor to records.

The extractor writes one file for each video: a SequenceExample that is not in a
TFRecord file, with floats in RGB/feature/floats and AUDIO/feature/floats. This
program writes them as frame-level records of YouTube-8M, in bytes.

  python -m data_tools.convert_mediapipe --input_pattern="features/*.pb" \
    --labels=labels.csv --output_dir=my_data

writes to output_dir

  mediapipe0000.tfrecord ...  the records, in the order of the files' names
  skipped_files.csv           which files could not be used, and why

A video has the name of its file, without its ending, as its id. See
docs/formats.md for what becomes of silence.
"""

import csv
import dataclasses
import io
import os

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags, logging

import errors
import quantization
from data_tools import sample_videos
from data_tools.sample_videos import AUDIO_SIZE, RGB_SIZE
from engine import csv_cells
from engine import files as files_in_place
from engine.data_files import find_files
from engine.progress_bar import Progress
from engine.skipped import listing
from records.messages import BadRecordError, Record, parse_record

RGB, AUDIO = "RGB/feature/floats", "AUDIO/feature/floats"

# The byte that stands for the float nearest to 0; byte 0 stands for -1.99.
SILENCE = 127

# Sound and picture may differ by so many frames, or by this part of them: a
# frame of sound is 0.96 s, one of picture 1 s.
_FEW_FRAMES, _SMALL_PART = 2, 0.1


@dataclasses.dataclass
class Report:
  """What was converted.

  Attributes:
    shards: the names of the files that were written.
    num_videos: records in them.
    num_frames: frames in these.
    num_without_audio: how many of these have no sound at all.
    num_silent_frames: frames without sound in the others.
    skipped: (path, kind, problem) of each file that could not be used.
  """

  shards: list[str] = dataclasses.field(default_factory=list)
  num_videos: int = 0
  num_frames: int = 0
  num_without_audio: int = 0
  num_silent_frames: int = 0
  skipped: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

  def kinds(self) -> str:
    """What was wrong with how many files."""
    kinds = [kind for _, kind, _ in self.skipped]
    return listing({kind: kinds.count(kind) for kind in kinds})


# --------------------------------------------------------------------------
# One video


class BadFileError(BadRecordError):
  """A file that cannot be used, though it may hold a SequenceExample."""


def _floats(record: Record, name: str, size: int) -> np.ndarray:
  """The frames of a feature: (frames, size) float32, without frames if absent.

  Raises:
    BadFileError: they are not all of this size, or not finite.
  """
  frames = record.lists.get(name, [])
  for number, frame in enumerate(frames):
    if frame.kind != "float" or frame.size != size:
      raise BadFileError(
        "wrong size",
        f"expected {size} floats in each frame of {name}, found {frame.size}"
        f" {frame.kind} in frame {number}",
      )
  values = np.array([frame.values for frame in frames], np.float32)
  if not np.isfinite(values).all():
    raise BadFileError(
      "not finite", f"expected finite numbers in {name}, found NaN or infinity"
    )
  return values.reshape(-1, size)


def quantized_audio(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Quantizes frames of sound; silent ones are stored as SILENCE.

  Args:
    values: (frames, size) float. A silent frame is all 0, or all about -1.99,
      which is what a 0 becomes that was stored as byte 0.

  Returns:
    (frames, size) uint8, and which of them are silent, (frames,) bool.
  """
  stored = quantization.quantize(values)
  silent = (values == 0).all(axis=1) | (stored <= 1).all(axis=1)
  stored[silent] = SILENCE
  return stored, silent


def read_frames(serialized: bytes) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads the features of a video.

  Args:
    serialized: the content of a file.

  Returns:
    (frames, RGB_SIZE + AUDIO_SIZE) uint8, picture first, and which frames are
    silent, (frames,) bool, or None if the video has no sound.

  Raises:
    BadRecordError: they cannot be used.
  """
  record = parse_record(serialized)
  rgb = _floats(record, RGB, RGB_SIZE)
  audio = _floats(record, AUDIO, AUDIO_SIZE)
  if not len(rgb):
    raise BadFileError(
      "no frames",
      f"expected frames in the feature list {RGB}, found"
      f" {', '.join(sorted(record.lists)) or 'no feature lists'}",
    )
  if not len(audio):
    stored = np.full((len(rgb), AUDIO_SIZE), SILENCE, np.uint8)
    return np.hstack([quantization.quantize(rgb), stored]), None
  longest = max(len(rgb), len(audio))
  if abs(len(rgb) - len(audio)) > max(_FEW_FRAMES, _SMALL_PART * longest):
    raise BadFileError(
      "different lengths",
      f"expected about as many frames of sound as of picture, found"
      f" {len(audio)} and {len(rgb)}",
    )
  length = min(len(rgb), len(audio))
  stored, silent = quantized_audio(audio[:length])
  return np.hstack([quantization.quantize(rgb[:length]), stored]), silent


# --------------------------------------------------------------------------
# All videos


def read_labels(path: str) -> dict[str, list[int]]:
  """Reads a CSV file with the columns id and labels.

  Args:
    path: labels are class indices with semicolons between them.

  Returns:
    {id: class indices, ascending}.

  Raises:
    errors.UserError: names the line that is wrong.
    tf.errors.OpError: the file cannot be read.
  """
  try:
    with tf.io.gfile.GFile(path) as file:
      # The lines of a GFile would have no carriage returns.
      text = file.read().removeprefix("\ufeff")  # as spreadsheets write it
      rows = csv.DictReader(io.StringIO(text, newline=""))
    return _labels_of_rows(rows, f"--labels={path}")
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.UserError(
      f"Expected a CSV file in UTF-8 as --labels={path}, received another one"
      f" ({error}). Save it as such."
    ) from error


def _labels_of_rows(rows: csv.DictReader, source: str) -> dict[str, list[int]]:
  """See read_labels."""
  if not {"id", "labels"} <= set(rows.fieldnames or []):
    raise errors.UserError(
      f"Expected the columns id and labels in {source}, found"
      f" {', '.join(rows.fieldnames or ['nothing'])}. Give the file a first"
      " line id,labels."
    )
  labels = {}
  for row in rows:
    words = (row["labels"] or "").replace(";", " ").split()
    where = f"in {source}, line {rows.line_num}"
    if not all(map(csv_cells.is_index, words)):
      raise errors.UserError(
        f"Expected class indices with ; between them {where}, found"
        f" {row['labels']!r}. Write numbers from 0, such as 3;17."
      )
    if row["id"] in labels:
      raise errors.UserError(
        f"Expected each id once {where}, found {row['id']!r} again. Put all"
        " labels of a video in one line."
      )
    labels[row["id"]] = sorted(set(map(int, words)))
  return labels


def _id_of(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


def _convert_file(path, labels, seen_ids, report) -> bytes:
  """The record of a file, which it counts.

  Raises:
    BadRecordError: it cannot be used.
  """
  video_id = _id_of(path)
  if video_id in seen_ids:
    raise BadFileError(
      "duplicate id", f"expected each id once, found {video_id} again"
    )
  if labels is not None and video_id not in labels:
    raise BadFileError(
      "no labels", f"expected the id {video_id} in --labels, found it nowhere"
    )
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      serialized = file.read()
  except (OSError, tf.errors.OpError) as error:
    raise BadFileError(
      "cannot be read", f"expected a file that can be read: {error}"
    ) from error
  frames, silent = read_frames(serialized)
  seen_ids.add(video_id)
  report.num_videos += 1
  report.num_frames += len(frames)
  if silent is None:
    report.num_without_audio += 1
  else:
    report.num_silent_frames += int(silent.sum())
  video = sample_videos.Video(
    video_id.encode(),
    labels[video_id] if labels is not None else [],
    frames,
    ratings=[],
  )
  return sample_videos.frame_level_record(video, labels is not None)


def convert(
  files: list[str],
  output_dir: str,
  labels: dict[str, list[int]] | None = None,
  num_shards: int = 1,
) -> Report:
  """Converts files; the folder appears when it is complete.

  Args:
    files: of the extractor.
    output_dir: a folder that is new or empty.
    labels: see read_labels; None for records without labels.
    num_shards: files to write, at most one for each video.

  Raises:
    errors.UserError: output_dir holds something, or no file can be used.
  """
  report = Report()
  seen_ids = set()
  target = files_in_place.free_folder(output_dir)
  progress = Progress("Converted")
  with files_in_place.written_aside(target) as aside:
    tf.io.gfile.makedirs(aside)
    writer, shard_of_writer = None, -1
    try:
      for number, path in enumerate(files):
        if progress.is_due():
          progress.show(
            number / len(files),
            f"{number} of {len(files)} files, {len(report.skipped)} skipped",
          )
        try:
          record = _convert_file(path, labels, seen_ids, report)
        except BadRecordError as error:
          report.skipped.append((path, error.kind, str(error)))
          continue
        shard = number * num_shards // len(files)
        if writer is None or shard != shard_of_writer:
          if writer is not None:
            writer.close()
          report.shards.append(f"mediapipe{len(report.shards):04d}.tfrecord")
          writer = tf.io.TFRecordWriter(os.path.join(aside, report.shards[-1]))
          shard_of_writer = shard
        writer.write(record)
    finally:
      progress.end()
      if writer is not None:
        writer.close()
    if not report.num_videos:
      path, _, problem = report.skipped[0]
      raise errors.UserError(
        "Expected files of MediaPipe's YouTube-8M extractor, received"
        f" {len(files)} that cannot be used ({report.kinds()}). The first is"
        f" {path}: {problem}."
      )
    path = os.path.join(aside, "skipped_files.csv")
    with tf.io.gfile.GFile(path, "w") as file:
      for row in (("file", "kind", "problem"), *report.skipped):
        file.write(csv_cells.line(row))
  return report


# --------------------------------------------------------------------------
# The program


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "input_pattern",
    None,
    "Glob pattern of the files of MediaPipe's extractor, or several separated"
    " by commas; required.",
  )
  flags.DEFINE_string(
    "labels",
    "",
    "CSV file with the columns id, the name of a file without its ending, and"
    " labels, class indices with ; between them. Empty: records without labels,"
    " for prediction.",
  )
  flags.DEFINE_string(
    "output_dir", None, "Folder to make, which must be new or empty; required."
  )
  flags.DEFINE_integer(
    "num_shards",
    1,
    "Files to write, at most one for each video.",
    lower_bound=1,
  )


def _log(report: Report, output_dir: str) -> None:
  """Logs what was converted."""
  if report.num_without_audio:
    logging.info(
      "Videos without sound, stored as silence: %d", report.num_without_audio
    )
  if report.num_silent_frames:
    logging.info(
      "Silent frames in the other videos: %d", report.num_silent_frames
    )
  if report.skipped:
    logging.warning(
      "Left out: %d of %d files (%s), see %s.",
      len(report.skipped),
      len(report.skipped) + report.num_videos,
      report.kinds(),
      os.path.join(output_dir, "skipped_files.csv"),
    )
  logging.info(
    "%d videos of %d frames: %s",
    report.num_videos,
    report.num_frames,
    os.path.join(output_dir, "mediapipe*.tfrecord"),
  )


def main() -> None:
  """Converts the files that the flags name."""
  values = flags.FLAGS
  for name in ("input_pattern", "output_dir"):
    if not values[name].value:
      raise errors.UserError(
        f"Expected --{name}, received none. Name the files to read by"
        " --input_pattern and the folder to make by --output_dir."
      )
  files_in_place.free_folder(values.output_dir)
  files = find_files(values.input_pattern, "input_pattern")
  labels = None
  if values.labels:
    with startup.naming_flag("labels"):
      labels = read_labels(values.labels)
    unused = labels.keys() - set(map(_id_of, files))
    if unused:
      logging.warning(
        "%d of %d ids in %s have no file, such as %s.",
        len(unused),
        len(labels),
        values.labels,
        min(unused),
      )
  with startup.naming_flag("output_dir"):
    report = convert(files, values.output_dir, labels, values.num_shards)
  _log(report, values.output_dir)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
