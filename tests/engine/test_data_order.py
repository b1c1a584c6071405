"""Tests of engine.data_order."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from conftest import read_batches
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  bytes_of,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

import readers
from engine import data_order


def ids_of(batches):
  return [video_id.decode() for batch in batches for video_id in batch]


def video_files(folder, counts):
  """Files with so many videos each, with ids f0v0, f0v1, ..., f1v0, ..."""
  return [
    write_records(
      folder / f"part{part}",
      [small_video(f"f{part}v{number}") for number in range(count)],
    )
    for part, count in enumerate(counts)
  ]


def all_ids(counts):
  return [
    f"f{part}v{number}"
    for part, count in enumerate(counts)
    for number in range(count)
  ]


def training_ids(reader, files, batch_size, *arguments, **keywords):
  """The ids of each training batch."""
  dataset = data_order.training_batches(
    reader, files, batch_size, *arguments, **keywords
  )
  return [
    [video_id.decode() for video_id in batch["video_ids"]]
    for batch in dataset.as_numpy_iterator()
  ]


def joined(batches):
  return [video_id for batch in batches for video_id in batch]


COUNTS = [7, 1, 12, 9]
NUM_VIDEOS = sum(COUNTS)


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory):
  """(reader, files) of 29 video-level records."""
  files = video_files(tmp_path_factory.mktemp("many"), COUNTS)
  return readers.open_reader(SMALL_VIDEO_FLAGS, files, True), files


@pytest.mark.parametrize("batch_size", [1, 4, 29, 100])
def test_evaluation_keeps_the_order_with_one_reader(many_videos, batch_size):
  reader, files = many_videos
  batches = read_batches(reader, files, batch_size, num_readers=1)
  sizes = [len(batch["video_ids"]) for batch in batches]
  assert all(size == batch_size for size in sizes[:-1])
  assert ids_of(batch["video_ids"] for batch in batches) == all_ids(COUNTS)


@pytest.mark.parametrize("num_readers", [2, 8])
def test_evaluation_reads_each_video_once(many_videos, num_readers):
  reader, files = many_videos
  batches = read_batches(reader, files, 4, num_readers=num_readers)
  found = collections.Counter(ids_of(batch["video_ids"] for batch in batches))
  assert found == collections.Counter(all_ids(COUNTS))


def test_training_reads_each_video_once_an_epoch(many_videos):
  reader, files = many_videos
  order = joined(training_ids(reader, files, 4, num_epochs=3))
  assert len(order) == 3 * NUM_VIDEOS
  epochs = [
    order[first : first + NUM_VIDEOS] for first in range(0, len(order), 29)
  ]
  for epoch in epochs:
    assert sorted(epoch) == sorted(all_ids(COUNTS))
    assert epoch != all_ids(COUNTS)
  assert epochs[0] != epochs[1]
  assert epochs[1] != epochs[2]
  assert epochs[0] != epochs[2]


def test_a_training_batch_spans_two_epochs(many_videos):
  reader, files = many_videos
  batches = training_ids(reader, files, 4, num_epochs=2)
  # 58 = 14 * 4 + 2; batch 7 holds video 28 of the first epoch and the first
  # three of the second.
  assert [len(batch) for batch in batches] == [4] * 14 + [2]
  order = joined(batches)
  assert batches[7] == order[28:32]
  assert sorted(order[:29]) == sorted(order[29:]) == sorted(all_ids(COUNTS))


def test_the_seed_decides_the_training_order(many_videos):
  reader, files = many_videos
  first = training_ids(reader, files, 4, num_epochs=2, seed=3)
  assert training_ids(reader, files, 4, num_epochs=2, seed=3) == first
  assert training_ids(reader, files, 4, num_epochs=2, seed=4) != first
  assert training_ids(reader, files, 4, num_epochs=2, seed=0) != first


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_machines_read_each_video_once_an_epoch(many_videos, num_workers):
  reader, files = many_videos
  everything = sorted(joined(training_ids(reader, files, 4, num_epochs=1)))
  shares = []
  for num_epochs in range(1, num_workers + 1):
    found = [
      joined(
        training_ids(
          reader,
          files,
          4,
          num_epochs=num_epochs,
          worker=worker,
          num_workers=num_workers,
        )
      )
      for worker in range(num_workers)
    ]
    assert sorted(joined(found)) == sorted(num_epochs * everything)
    shares = [len(ids) for ids in found]
  # In as many epochs as there are machines each reads as many files, be they
  # fewer than the machines.
  assert min(shares) >= min(COUNTS) * len(COUNTS)


def test_a_machine_continues_exactly(many_videos):
  reader, files = many_videos
  where = {"num_epochs": 3, "worker": 1, "num_workers": 2}
  whole = joined(training_ids(reader, files, 4, **where))
  for skipped in (1, 10, 25):
    rest = training_ids(reader, files, 4, skip_examples=skipped, **where)
    assert joined(rest) == whole[skipped:]


@pytest.mark.parametrize("num_epochs", [None, 0])
def test_training_without_end(many_videos, num_epochs):
  reader, files = many_videos
  endless = data_order.training_batches(reader, files, 29, num_epochs, seed=3)
  ids = [
    [video_id.decode() for video_id in batch["video_ids"]]
    for batch in endless.take(4).as_numpy_iterator()
  ]
  assert ids == training_ids(reader, files, 29, num_epochs=4, seed=3)


@pytest.mark.parametrize("skipped", [0, 1, 4, 28, 29, 30, 57, 58])
def test_training_continues_exactly(many_videos, skipped):
  reader, files = many_videos
  order = joined(training_ids(reader, files, 4, num_epochs=2, seed=9))
  rest = training_ids(reader, files, 4, 2, 9, skipped)
  assert joined(rest) == order[skipped:]
  assert all(len(batch) == 4 for batch in rest[:-1])


def test_training_on_segments_continues_exactly(tmp_path):
  features = {"rgb": bytes_of(30, 3), "audio": bytes_of(30, 2)}
  ratings = [[0, 5, 10], [5], [], [20, 0], [25, 5, 15, 10]]
  records = [
    segment_record(
      f"v{number}", [(start, 1, 1.0) for start in starts], **features
    )
    for number, starts in enumerate(ratings)
  ]
  files = [
    write_records(tmp_path / "a", records[:3]),
    write_records(tmp_path / "b", records[3:]),
  ]
  reader = readers.open_reader(SMALL_FRAME_FLAGS, files, True, True)

  def order(skipped):
    dataset = data_order.training_batches(reader, files, 3, 2, 1, skipped)
    batches = list(dataset.as_numpy_iterator())
    assert all(len(batch["video_ids"]) == 3 for batch in batches[:-1])
    return [
      (video_id.decode(), int(start))
      for batch in batches
      for video_id, start in zip(
        batch["video_ids"], batch["segment_start_times"], strict=True
      )
    ]

  whole = order(0)
  expected = sorted(
    (f"v{number}", start)
    for number, starts in enumerate(ratings)
    for start in starts
  )
  assert sorted(whole[:10]) == sorted(whole[10:]) == expected
  for skipped in (1, 3, 9, 10, 11, 19):
    assert order(skipped) == whole[skipped:]


def test_training_on_frames_reads_each_video_once_an_epoch(tmp_path):
  files = [
    write_records(
      tmp_path / f"part{part}",
      [
        small_frames(f"f{part}v{number}", 1 + 5 * number) for number in range(5)
      ],
    )
    for part in range(2)
  ]
  reader = readers.open_reader(SMALL_FRAME_FLAGS, files, True)
  dataset = data_order.training_batches(reader, files, 4, num_epochs=2)
  lengths = collections.Counter()
  for batch in dataset.as_numpy_iterator():
    for number, video_id in enumerate(batch["video_ids"]):
      length = 1 + 5 * int(video_id.decode()[-1])
      assert batch["num_frames"][number] == length
      np.testing.assert_array_equal(
        batch["video_matrix"][number, :length, :3], bytes_of(length, 3)
      )
      lengths[video_id] += 1
  assert len(lengths) == 10
  assert set(lengths.values()) == {2}


@pytest.mark.parametrize("count", [1, 64, 200])
def test_survey_estimates_the_number_of_like_records(tmp_path, count):
  files = [
    write_records(tmp_path / name, [small_video("good")] * count)
    for name in "ab"
  ]
  assert data_order.survey(files).num_videos == 2 * count


def test_an_empty_file_among_others_is_passed_over(tmp_path):
  files = [
    write_records(tmp_path / "a", []),
    write_records(tmp_path / "b", [small_video("one"), small_video("two")]),
    write_records(tmp_path / "c", []),
    write_records(tmp_path / "d", [small_video("three")]),
  ]
  reader = readers.open_reader(SMALL_VIDEO_FLAGS, files, True)
  (batch,) = read_batches(reader, files)
  assert batch["video_ids"].tolist() == [b"one", b"two", b"three"]
  assert data_order.survey(files).num_videos == 3
  batches = data_order.training_batches(reader, files, 3, num_epochs=2)
  for batch in batches.as_numpy_iterator():
    assert set(batch["video_ids"]) == {b"one", b"two", b"three"}


def test_where_the_data_is_good_the_pipelines_own_error_is_raised(tmp_path):
  file = write_records(tmp_path / "a", [small_video("good")] * 3)
  reader = readers.open_reader(SMALL_VIDEO_FLAGS, [file], True)
  with (
    pytest.raises(tf.errors.DataLossError, match="from elsewhere"),
    data_order.naming_bad_record(reader, [file], with_labels=True),
  ):
    raise tf.errors.DataLossError(None, None, "from elsewhere")
