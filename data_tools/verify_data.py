"""Checks every record of local files: python -m data_tools.verify_data PATTERN.

Reads all records once, before a run of days does: verifies checksums, and
checks that each record holds what the flags say. Prints what each file holds,
and what is damaged. Ends with exit status 2 if anything is.

  python -m data_tools.verify_data "frame/train*.tfrecord" --frame_features

PATTERN is a glob pattern or a file; there may be several. See
docs/verifying_data.md.
"""

import collections
import concurrent.futures
import dataclasses
import os
import threading
import time

import startup  # isort: skip
import numpy as np
from absl import flags

import errors
import program_flags
import readers
from data_tools.local_shards import (
  find_local_files,
  not_readable,
  patterns_of,
)
from data_tools.text_table import aligned
from engine.data_files import check_not_used
from engine.progress_bar import Progress
from engine.skipped import Policy, SkippedRecords, listing
from engine.train_dir import check_no_own_file
from records import contents, messages, selection, shards
from records.frames import FrameBatch
from records.messages import BadRecordError

# With more files than this, only those with damage are listed.
MOST_LISTED = 40

_PROGRAM = "data_tools.verify_data"
_WAIT_SECONDS = 0.2
# Records that are looked at to find out which features are floats.
_MOST_FIRST_RECORDS = 1000
_READ_AHEAD_BYTES = 8 << 20


@dataclasses.dataclass
class Shard:
  """What a file holds; one thread fills it in.

  Attributes:
    path: of the file.
    size: its bytes.
    done_bytes: how many of them were read.
    num_videos: good records.
    num_segments: rated segments of these.
    num_frames: {number of frames: how many of these have it}.
    num_labels: labels of these, or ratings.
    classes: (classes,) bool, those that occur.
    damage: how many records cannot be used, by kind.
    num_records: that a walk found.
    lost_bytes: after the last of these.
  """

  path: str
  size: int
  classes: np.ndarray
  done_bytes: int = 0
  num_videos: int = 0
  num_segments: int = 0
  num_labels: int = 0
  num_records: int = 0
  lost_bytes: int = 0
  num_frames: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  damage: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )


def _total(parts: list[Shard]) -> Shard:
  """The sum of all files."""
  total = Shard("total", 0, np.zeros_like(parts[0].classes))
  for part in parts:
    total.classes |= part.classes
    total.num_frames.update(part.num_frames)
    total.damage.update(part.damage)
    total.size += part.size
    total.num_videos += part.num_videos
    total.num_segments += part.num_segments
    total.num_labels += part.num_labels
    total.num_records += part.num_records
    total.lost_bytes += part.lost_bytes
  return total


# --------------------------------------------------------------------------
# Checking


class Verifier:
  """Checks files, each in one thread.

  Args:
    model_flags: see readers.make_reader.
    files: local paths.
    needs_labels: whether a record without labels is a bad one.
    segment_labels: whether the records have rated segments.
    exclusive_classes: whether labels of whole videos must be exactly one.
    list_path: where to list what is damaged; empty for nowhere.

  Attributes:
    shards: what the files hold, in their order.
    skipped: the records that cannot be used.
  """

  def __init__(
    self,
    model_flags: dict,
    files: list[str],
    needs_labels: bool = True,
    segment_labels: bool = False,
    exclusive_classes: bool = False,
    list_path: str = "",
  ):
    self.skipped = SkippedRecords(Policy(skip=True, path=list_path))
    num_classes = model_flags["num_classes"]
    self.shards = [
      Shard(file, os.stat(file).st_size, np.zeros(num_classes, bool))
      for file in files
    ]
    self._reader = readers.make_reader(model_flags)
    self._needs_labels = needs_labels
    self._segment_labels = segment_labels
    self._exclusive_classes = exclusive_classes
    self._must_stop = threading.Event()

  def run(self, num_threads: int) -> None:
    """Checks all files, and shows how far this is.

    Args:
      num_threads: how many files to read at the same time.
    """
    self._find_kinds()
    progress = _Progress(self.shards)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
      pending = {pool.submit(self._check_file, shard) for shard in self.shards}
      try:
        while pending:
          done, pending = concurrent.futures.wait(
            pending, _WAIT_SECONDS, concurrent.futures.FIRST_COMPLETED
          )
          for future in done:
            future.result()
          progress.update()
      except BaseException:
        self._must_stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
      finally:
        progress.end()

  def _find_kinds(self) -> None:
    """Finds out from the first good record which features are floats."""
    num_records = 0
    for shard in self.shards:
      try:
        for _, data in shards.numbered_records(shard.path, lambda *_: None):
          try:
            if self._reader.configure(messages.parse_record(data)):
              return
          except BadRecordError:
            pass
          num_records += 1
          if num_records == _MOST_FIRST_RECORDS:
            return
      except OSError:  # which is reported later
        continue

  def _add_damage(self, shard: Shard, number: int, error: BadRecordError):
    shard.damage[error.kind] += 1
    self.skipped.add(shard.path, number, error)

  def _check_file(self, shard: Shard) -> None:
    """Walks a file and checks its records."""
    number = 0
    try:
      # Not the kept one: this verifies the checksums of the lengths too.
      identity = shards.identity_of(shard.path)
      found = shards.walk(shard.path)
      damage = shards.damage_after(shard.path, found)
      shards.keep(shard.path, "records", found.offsets, identity)
      shard.num_records, shard.lost_bytes = len(found), found.lost_bytes
      counts = np.ones(len(found), np.int64)
      reader = shards.RecordReader([shard.path])
      advised = 0
      for number in range(len(found)):
        if self._must_stop.is_set():
          return
        offset, end = found.offsets[number : number + 2].tolist()
        if offset >= advised:
          reader.read_ahead(0, offset, _READ_AHEAD_BYTES)
          advised = offset + _READ_AHEAD_BYTES // 2
        counts[number] = self._check_record(shard, reader, number, offset, end)
        shard.done_bytes = end
    except OSError as error:
      self._add_damage(shard, number, not_readable(error))
      return
    if self._segment_labels:
      shards.keep(shard.path, "segments", counts, identity)
    if damage:
      self._add_damage(shard, len(found), damage)
    shard.done_bytes = shard.size

  def _check_record(self, shard, reader, number, offset, end) -> int:
    """Checks a record; returns how many rated segments it counts as."""
    length = end - offset - shards.HEADER_BYTES - shards.FOOTER_BYTES
    data = None
    try:
      data = reader.read(0, offset, length)
      return self._count(shard, data)
    except OSError as error:
      self._add_damage(shard, number, not_readable(error))
    except BadRecordError as error:
      self._add_damage(shard, number, error)
      if data is not None and self._segment_labels:
        return selection.count_segments(data)
    return 1

  def _count(self, shard: Shard, data: memoryview) -> int:
    """Checks the data of a record, and counts what it holds.

    Raises:
      BadRecordError: it cannot be used.
    """
    frames = 0
    if isinstance(self._reader, readers.YT8MFrameFeatureReader):
      batch = FrameBatch(
        1,
        self._reader.frame_features,
        readers.ALL_FRAMES,
        lambda length: length,
      )
      context = batch.add(0, data)
      frames = int(batch.num_frames[0])
    else:
      record = messages.parse_record(data)
      contents.check_video_features(
        record, self._reader.feature_names, self._reader.feature_sizes
      )
      context = record.context
    contents.video_id(context)
    times, classes = [], []
    num_classes = self._reader.num_classes
    if self._segment_labels:
      if self._needs_labels or "segment_labels" in context:
        times, classes, _ = contents.segments(context, num_classes)
    elif self._needs_labels or "labels" in context:
      classes = contents.labels(context, num_classes)
      if self._exclusive_classes:
        contents.check_one_label(classes)
    shard.num_videos += 1
    shard.num_frames[frames] += 1
    shard.num_labels += len(classes)
    shard.classes[classes] = True
    num_segments = len(set(times))
    shard.num_segments += num_segments
    return num_segments


class _Progress(Progress):
  """Shows how far a check is."""

  def __init__(self, parts: list[Shard]):
    super().__init__("Checked")
    self._parts = parts
    self._size = sum(part.size for part in parts)
    self._began = time.monotonic()

  def update(self) -> None:
    """Shows it if it is time."""
    if not self.is_due():
      return
    done = sum(part.done_bytes for part in self._parts)
    self.show(
      done / max(self._size, 1),
      f"{done / 1e6:.0f} of {self._size / 1e6:.0f} MB,"
      f" {done / 1e6 / (time.monotonic() - self._began):.0f} MB/s,"
      f" {sum(sum(part.damage.values()) for part in self._parts)} damaged",
    )


# --------------------------------------------------------------------------
# The report


def _table(
  listed: list[Shard], total: Shard, folder: str, has_frames, has_segments
) -> list[str]:
  """The lines of the table of files."""
  head = ["file", "videos", "frames", "segments", "labels", "damage"]
  rows = []
  for part in [*listed, total]:
    name = part.path
    if part is not total:
      name = os.path.relpath(name, folder)
    frames = sum(length * count for length, count in part.num_frames.items())
    numbers = (part.num_videos, frames, part.num_segments, part.num_labels)
    rows.append([name, *map(str, numbers), listing(part.damage)])
  left_out = set()
  if not has_frames:
    left_out.add("frames")
  if not has_segments:
    left_out.add("segments")
  columns = [
    column
    for column in zip(head, *rows, strict=True)
    if column[0] not in left_out
  ]
  return aligned(list(zip(*columns, strict=True)), texts=(0, -1))


def report(verifier: Verifier, has_frames: bool, has_segments: bool) -> str:
  """What was found, as text.

  Args:
    verifier: after its run.
    has_frames: whether the records are frame-level ones.
    has_segments: whether they have rated segments.
  """
  parts = verifier.shards
  total = _total(parts)
  listed = parts
  folder = os.path.commonpath(
    [os.path.dirname(os.path.abspath(part.path)) for part in parts]
  )
  lines = [f"{len(parts)} files in {folder}", ""]
  if len(parts) > MOST_LISTED:
    listed = [part for part in parts if part.damage]
    lines[0] += f", {len(listed)} of them with damage"
  lines += [*_table(listed, total, folder, has_frames, has_segments), ""]
  if has_frames and total.num_videos:
    frames = total.num_frames
    mean = sum(n * count for n, count in frames.items()) / total.num_videos
    lines.append(
      f"Frames of a video: {min(frames)} at least, {mean:.1f} on average,"
      f" {max(frames)} at most."
    )
    if frames[0]:
      lines.append(
        f"Videos without frames: {frames[0]}. Training leaves them out."
      )
  classes = np.flatnonzero(total.classes)
  if len(classes):
    lines.append(
      f"Classes: {len(classes)} of {len(total.classes)} occur, the largest is"
      f" {classes[-1]}."
    )
  else:
    lines.append("Classes: there are no labels.")
  first = {}
  for file, number, kind, problem in verifier.skipped.rows:
    first.setdefault(kind, f"{file}, record {number}: {problem}.")
  for kind, count in sorted(total.damage.items()):
    lines.append(f"{count} {kind}, first in {first[kind]}")
  if total.lost_bytes:
    about = ""
    if total.num_records:
      mean_bytes = (total.size - total.lost_bytes) / total.num_records
      number = max(1, round(total.lost_bytes / mean_bytes))
      about = f", about {number} record{'s' if number > 1 else ''}"
    lines.append(
      f"Lost after a damaged length or where a file is cut off:"
      f" {total.lost_bytes} bytes{about}."
    )
  return "\n".join(lines)


# --------------------------------------------------------------------------
# The program


def define_flags() -> None:
  """Defines the flags of this program."""
  data = program_flags.Subject(program_flags.DATA)
  data.string(
    "data_pattern",
    "",
    "Glob pattern of the files to check, or several with commas between them;"
    " added to those that are typed without a flag.",
  )
  program_flags.define_record_flags(data)
  data.bool(
    "labels",
    True,
    "Records must have labels; --nolabels: they need not, as in the test"
    " split. Those that there are are checked.",
  )
  data.bool(
    "segment_labels",
    False,
    "Records have rated segments, which are checked instead of the labels of"
    " whole videos.",
  )
  data.bool(
    "exclusive_classes",
    False,
    "Videos must have exactly one label, as train.py needs it with this flag.",
  )
  program_flags.define_num_readers()
  program_flags.Subject(program_flags.OUTPUT).string(
    "output_file",
    "",
    "CSV file to list the records that cannot be used in; empty: none.",
  )


def main(arguments: list[str]) -> None:
  """Checks the files that the command line names.

  Args:
    arguments: patterns, or files.

  Raises:
    errors.UserError: something is damaged; a flag is wrong.
  """
  values = flags.FLAGS
  has_frames, has_segments = values.frame_features, values.segment_labels
  if has_segments and not has_frames:
    raise errors.UserError(
      "Expected --frame_features with --segment_labels, received none. Segments"
      " are cut from frames: add --frame_features."
    )
  if has_segments and values.exclusive_classes:
    raise errors.UserError(
      "Expected labels of whole videos with --exclusive_classes, received"
      " --segment_labels. Leave one of the flags out."
    )
  patterns = patterns_of(arguments, values.data_pattern)
  files = find_local_files(patterns, "data_pattern", _PROGRAM)
  check_not_used(values.output_file, "output_file", files)
  check_no_own_file(values.output_file, "output_file", lists_skipped=True)
  model_flags = {
    **program_flags.feature_flags(),
    "frame_features": has_frames,
    "num_classes": values.num_classes,
    "max_frames": readers.ALL_FRAMES,
  }
  verifier = Verifier(
    model_flags,
    files,
    needs_labels=values.labels,
    segment_labels=has_segments,
    exclusive_classes=values.exclusive_classes,
    list_path=values.output_file,
  )
  verifier.run(values.num_readers)
  print(report(verifier, has_frames, has_segments))
  if values.output_file:
    with startup.naming_flag("output_file"):
      verifier.skipped.write(always=True)
  num_damaged = sum(verifier.skipped.counts.values())
  if num_damaged:
    num_files = sum(bool(part.damage) for part in verifier.shards)
    raise errors.UserError(
      f"Expected records that can all be used, received {num_damaged} that"
      f" cannot, in {num_files} of {len(files)} files. Change the files or the"
      " flags as said above, or train with --skip_corrupt to leave these out."
    )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
