"""Tests of reports.comparison_labels."""

import dataclasses

import numpy as np
import pytest
from conftest import error_of
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  small_frames,
  small_video,
  write_records,
)
from small_comparison import made_up_run

from reports import comparison_labels
from reports.comparison_estimate import Facts
from reports.comparison_labels import (
  count_labels,
  look_at_labels,
  read_labels,
)


def run_of(name, train, scored, *flags):
  run = made_up_run(name)
  data = dataclasses.replace(run.data, train_pattern=train, eval_pattern=scored)
  return dataclasses.replace(run, data=data, flags=flags)


@pytest.fixture
def frames(tmp_path):
  """A file of three videos with 2, 3 and 4 frames."""
  return write_records(
    tmp_path / "frames.tfrecord",
    [
      small_frames("a", 2, [0, 3]),
      small_frames("b", 3, [1]),
      small_frames("c", 4, [3, 0]),
    ],
  )


def test_videos_that_a_run_uses(frames):
  def read(min_frames=0, **flags):
    model_flags = SMALL_FRAME_FLAGS | flags
    found = read_labels([frames], model_flags, min_frames)
    return {video_id: labels.tolist() for video_id, labels in found}

  assert read() == {b"a": [0, 3], b"b": [1], b"c": [0, 3]}
  assert read(3) == {b"b": [1], b"c": [0, 3]}
  # Places in the subset; videos without any of it are left out.
  assert read(label_subset=[1, 3]) == {b"a": [1], b"b": [0], b"c": [1]}
  assert read(3, label_subset=[0, 3]) == {b"c": [0, 1]}


def test_labels_are_counted_once_for_the_same_flags(
  frames, tmp_path, monkeypatch
):
  run = run_of("A", frames, frames, "--min_frames=3")
  out = str(tmp_path)

  def count(run, **flags):
    counts, num_videos = count_labels(run, SMALL_FRAME_FLAGS | flags, out)
    return counts.tolist(), num_videos

  assert count(run_of("A", frames, frames)) == ([2, 1, 0, 2, 0], 3)
  assert count(run, label_subset=[0, 1]) == ([1, 1], 2)
  assert count(run) == ([1, 1, 0, 1, 0], 2)
  (kept,) = tmp_path.glob("label_counts_*.json")
  for content in ("{", "[]", "[" * 100_000):
    kept.write_text(content)
    assert count(run) == ([1, 1, 0, 1, 0], 2)
  monkeypatch.setattr(comparison_labels, "read_labels", None)
  assert count(run) == ([1, 1, 0, 1, 0], 2)


@pytest.fixture
def videos(tmp_path):
  def write(name, **labels):
    records = [small_video(one, of) for one, of in labels.items()]
    return write_records(tmp_path / name, records)

  return write


def look(out, *runs):
  facts = {run.entry.name: Facts(model_flags=SMALL_VIDEO_FLAGS) for run in runs}
  look_at_labels(runs, facts, str(out))


def test_other_videos_are_named_before_any_training(videos, tmp_path):
  train = videos("train", t=[1])
  one = run_of("A", train, videos("1", a=[0], b=[1, 2]))
  # In another order.
  look(tmp_path, one, run_of("B", train, videos("2", b=[2, 1], a=[0])))
  for number, (labels, what) in enumerate(
    (
      ({"a": [0]}, "2 and 1 videos of A and B"),
      ({"a": [0], "c": [1, 2]}, "2 videos each with other ids or other labels"),
      ({"a": [0], "b": [1, 3]}, "2 videos each with other ids or other labels"),
    )
  ):
    other = run_of("B", train, videos(f"other{number}", **labels))
    assert what in error_of(look, tmp_path, one, other)


def test_files_without_labels(videos, tmp_path):
  good, bad = videos("good", a=[0]), videos("bad", a=[0], b=None)
  for number, run in enumerate(
    (run_of("A", good, bad), run_of("A", bad, good))
  ):
    text = error_of(look, tmp_path / str(number), run)
    assert text.startswith(f"{bad}, record 1: ")
  counts, num_videos = count_labels(
    run_of("A", good, bad), SMALL_VIDEO_FLAGS, str(tmp_path)
  )
  np.testing.assert_array_equal(counts, [1, 0, 0, 0, 0])
  assert num_videos == 1
