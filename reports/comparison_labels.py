"""Looks at the labels of a comparison's data before any model is trained.

What is wrong with them shows at once, not after the last run.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import errors
import models
from engine.data import records_of
from engine.data_files import find_files
from engine.files import write_json
from engine.model_flags import require_model_flags
from engine.progress_bar import Progress
from engine.selected import select
from records import contents, messages, selection
from reports.comparison_estimate import Facts
from reports.comparison_plan import Run
from reports.comparison_runs import train_dir_of

COUNTS_FILE = "label_counts_*.json"
"""In the --output_dir: the counts of each data; * is its hash."""


def read_labels(
  files: list[str], model_flags: dict, min_frames: int
) -> Iterator[tuple[bytes, np.ndarray]]:
  """Reads the ids and labels of the videos that a run uses of files.

  Args:
    files: TFRecord files.
    model_flags: see engine/train_dir.py.
    min_frames: shorter videos are left out; 0 for none.

  Yields:
    The id of each video, and its classes, ascending int64, places in
    models.output_classes.

  Raises:
    errors.UserError: a record is damaged or has no labels; none is used.
  """
  num_classes = model_flags["num_classes"]
  place_of = np.full(num_classes, -1, np.int64)
  classes = np.array(models.output_classes(model_flags))
  place_of[classes] = np.arange(len(classes))
  records = records_of(files)
  selected = select(
    model_flags,
    files,
    with_labels=True,
    segment_labels=False,
    min_frames=min_frames,
  )
  if selected:
    records = selected.of_remote(records)
  for file, number, data in records:
    try:
      context = selection.context_of(data)
      video_id = contents.video_id(context)
      places = place_of[contents.labels(context, num_classes)]
    except messages.BadRecordError as error:
      raise errors.UserError(f"{file}, record {number}: {error}.") from error
    yield bytes(video_id), np.unique(places[places >= 0])


def count_labels(
  run: Run, model_flags: dict, output_dir: str
) -> tuple[np.ndarray, int]:
  """Counts the training videos of each class; keeps the result in a file.

  Args:
    run: whose data.
    model_flags: of it.
    output_dir: of the comparison.

  Returns:
    (classes,) int64, and how many videos there are.

  Raises:
    errors.UserError: see read_labels.
  """
  # Of the same files, other flags count others.
  about = {
    "classes": list(models.output_classes(model_flags)),
    "min_frames": run.min_frames,
  }
  path = os.path.join(output_dir, COUNTS_FILE.replace("*", run.data_hash))
  # What is missing or damaged is counted again.
  with (
    contextlib.suppress(
      OSError, ValueError, KeyError, TypeError, AttributeError
    ),
    open(path, encoding="utf-8") as file,
  ):
    content = errors.parse_json(file.read())
    if about.items() <= content.items():
      return np.array(content["counts"], np.int64), int(content["num_videos"])
  files = find_files(run.data.train_pattern, "train_data_pattern")
  counts, num_videos = np.zeros(len(about["classes"]), np.int64), 0
  progress = Progress("Counted the labels of")
  for _, labels in read_labels(files, model_flags, run.min_frames):
    counts[labels] += 1
    num_videos += 1
    if progress.is_due():
      progress.show(0.0, f"{num_videos:,} training videos")
  progress.end()
  write_json(
    path, {**about, "counts": counts.tolist(), "num_videos": num_videos}
  )
  return counts, num_videos


def _hashes_of_videos(run: Run, model_flags: dict) -> np.ndarray:
  """A number for each scored video with its labels, ascending."""
  files = find_files(run.data.eval_pattern, "eval_data_pattern")
  hashes = []
  progress = Progress("Read the labels of")
  for video_id, labels in read_labels(files, model_flags, run.min_frames):
    content = repr((video_id, labels.tolist())).encode()
    hashes.append(int.from_bytes(hashlib.sha256(content).digest()[:8]))
    if progress.is_due():
      progress.show(0.0, f"{len(hashes):,} videos to score on")
  progress.end()
  return np.sort(np.array(hashes, np.uint64))


def look_at_labels(
  runs: Sequence[Run], facts: Mapping[str, Facts], output_dir: str
) -> None:
  """Checks that runs will be scored on the same videos with the same labels.

  Counts the labels of the training data too.

  Args:
    runs: of a comparison.
    facts: of the entries with runs that are not yet trained.
    output_dir: of the comparison.

  Raises:
    errors.UserError: see read_labels; names two entries that are not.
  """
  model_flags = {
    run.entry.name: facts[run.entry.name].model_flags
    if run.entry.name in facts
    else require_model_flags(train_dir_of(run, output_dir))
    for run in runs
  }
  count_labels(runs[0], model_flags[runs[0].entry.name], output_dir)
  by_pattern: dict[str, Run] = {}
  for run in runs:
    by_pattern.setdefault(run.data.eval_pattern, run)
  first, *others = by_pattern.values()
  expected = _hashes_of_videos(first, model_flags[first.entry.name])
  for other in others:
    found = _hashes_of_videos(other, model_flags[other.entry.name])
    if np.array_equal(found, expected):
      continue
    what = f"{len(expected):,} and {len(found):,} videos"
    if len(expected) == len(found):
      what = f"{len(found):,} videos each with other ids or other labels"
    raise errors.UserError(
      "Expected models that are scored on the same videos with the same labels,"
      f" received {what} of {first.entry.name} and {other.entry.name}. Name"
      " files with the same videos for both."
    )
