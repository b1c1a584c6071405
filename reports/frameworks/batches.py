"""Batches of records as arrays, in the order of training, without TensorFlow.

All of a job's batches have the same shape, so that each framework compiles one
step.
"""

import zlib
from collections.abc import Iterator

import numpy as np

import errors
import quantization
from engine.data_order import BEGINNING, Column, Order
from records import contents
from records.frames import FrameBatch, FrameFeatures, frames_by_name
from records.messages import BadRecordError
from records.selection import Selection
from records.shards import RecordReader, kept_walk, numbered_records
from records.vectors import VectorBatch
from reports.frameworks.jobs import Job

Batch = dict[str, np.ndarray]


def longest_video(files: list[str], feature: str, max_frames: int) -> int:
  """The most frames that a batch can need.

  Reading ends at a video of max_frames. Bad records are left to those who read
  batches.

  Args:
    files: frame-level records.
    feature: whose frames count.
    max_frames: of a video that are used.
  """
  longest = 1
  for path in files:
    for _, data in numbered_records(path, lambda *_: None):
      try:
        _, found = frames_by_name(data)
      except BadRecordError:
        continue
      longest = max(longest, len(found.get(feature, ())))
      if longest >= max_frames:
        return max_frames
  return longest


def training_batches(job: Job, process: int) -> Iterator[Batch]:
  """Yields a process's part of each batch, without end.

  Args:
    job: names the files and their order.
    process: which of its processes this is, from 0.

  Yields:
    video_matrix, (videos, frames, features) uint8 or float32, at video level
    (videos, features) float32; num_frames, (videos,) int32; labels, (videos,
    classes) bool.

  Raises:
    errors.UserError: a record is bad; names it.
    OSError: a file cannot be read.
  """
  names, _, _ = _features(job)
  selection = Selection(
    job.model_flags["num_classes"], min_frames=job.min_frames, feature=names[0]
  )

  def open_file(file: int):
    path = job.files[file]
    walk = kept_walk(path)
    if not job.min_frames:
      return walk, None
    return walk, selection.examples_of_file(path, walk)

  order = Order(len(job.files), open_file, job.seed, job.window_shards)
  reader = RecordReader(job.files)
  for table, _, _ in order.batches(BEGINNING, job.batch_size, None):
    yield _read(job, reader, table[job.rows(process)])


def checksum(batch: Batch, before: int = 0) -> int:
  """The CRC-32 of a batch, after that of those before it."""
  for name in ("video_matrix", "num_frames", "labels"):
    before = zlib.crc32(np.ascontiguousarray(batch[name]).data, before)
  return before


def _bad(
  job: Job, place: np.ndarray, error: BadRecordError
) -> errors.UserError:
  """Names the record of a place."""
  file, number = job.files[place[Column.FILE]], place[Column.NUMBER]
  return errors.UserError(f"{file}, record {number}: {error}.")


def _read(job: Job, reader: RecordReader, table: np.ndarray) -> Batch:
  """Reads the videos of a table; see training_batches."""
  read = _read_frames if job.model_flags["frame_features"] else _read_vectors
  return read(job, reader, table)


def _features(job: Job):
  """The names, the sizes and the ranges of bytes of the features."""
  names = job.model_flags["feature_names"].split(",")
  sizes = [int(size) for size in job.model_flags["feature_sizes"].split(",")]
  ranges = quantization.parse_ranges(
    job.model_flags.get("feature_ranges", ""), len(names)
  )
  return names, sizes, ranges


def _read_frames(job: Job, reader: RecordReader, table: np.ndarray) -> Batch:
  """A batch of frame-level records."""
  names, sizes, ranges = _features(job)
  features = FrameFeatures(
    tuple(names), tuple(sizes), tuple(job.kinds), ranges=tuple(ranges)
  )
  num_classes = job.model_flags["num_classes"]
  videos = FrameBatch(
    len(table),
    features,
    job.model_flags["max_frames"],
    lambda _: job.num_frames,
  )
  labels = np.zeros((len(table), num_classes), bool)
  for row, place in enumerate(table):
    try:
      data = reader.read(
        place[Column.FILE], place[Column.OFFSET], place[Column.LENGTH]
      )
      context = videos.add(row, data)
      labels[row, contents.labels(context, num_classes)] = True
    except BadRecordError as error:
      raise _bad(job, place, error) from error
  frames, num_frames = videos.finish(np.arange(len(table)))
  if frames.dtype == np.float16:
    frames = frames.astype(np.float32)
  return {"video_matrix": frames, "num_frames": num_frames, "labels": labels}


def _read_vectors(job: Job, reader: RecordReader, table: np.ndarray) -> Batch:
  """A batch of video-level records."""
  names, sizes, ranges = _features(job)
  videos = VectorBatch(
    len(table), names, sizes, job.model_flags["num_classes"], ranges=ranges
  )

  def fail(row: int, error: BadRecordError):
    raise _bad(job, table[row], error) from error

  for row, place in enumerate(table):
    try:
      data = reader.read(
        place[Column.FILE], place[Column.OFFSET], place[Column.LENGTH]
      )
    except BadRecordError as error:
      fail(row, error)
    videos.add(row, data)
  batch = videos.finish(fail)
  return {
    name: batch[name] for name in ("video_matrix", "num_frames", "labels")
  }
