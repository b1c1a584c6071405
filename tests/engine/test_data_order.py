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

from engine.data import Data
from engine.data_order import Place, permutation
from engine.skipped import Policy
from records import shards


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


def training_ids(data, batch_size, *arguments, **keywords):
  """The ids of each training batch."""
  dataset = data.training_batches(batch_size, *arguments, **keywords)
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
  """The data of 29 video-level records."""
  files = video_files(tmp_path_factory.mktemp("many"), COUNTS)
  return Data(SMALL_VIDEO_FLAGS, files, True)


@pytest.mark.parametrize("batch_size", [1, 4, 29, 100])
def test_evaluation_keeps_the_order(many_videos, batch_size):
  batches = read_batches(many_videos, batch_size)
  sizes = [len(batch["video_ids"]) for batch in batches]
  assert all(size == batch_size for size in sizes[:-1])
  assert ids_of(batch["video_ids"] for batch in batches) == all_ids(COUNTS)


@pytest.mark.parametrize("num_readers", [2, 8])
def test_evaluation_reads_each_video_once(many_videos, num_readers):
  batches = read_batches(many_videos, 4, num_readers=num_readers)
  found = collections.Counter(ids_of(batch["video_ids"] for batch in batches))
  assert found == collections.Counter(all_ids(COUNTS))


def test_training_reads_each_video_once_an_epoch(many_videos):
  order = joined(training_ids(many_videos, 4, num_epochs=3))
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
  batches = training_ids(many_videos, 4, num_epochs=2)
  # 58 = 14 * 4 + 2; batch 7 holds video 28 of the first epoch and the first
  # three of the second.
  assert [len(batch) for batch in batches] == [4] * 14 + [2]
  order = joined(batches)
  assert batches[7] == order[28:32]
  assert sorted(order[:29]) == sorted(order[29:]) == sorted(all_ids(COUNTS))


def test_the_seed_decides_the_training_order(many_videos):
  first = training_ids(many_videos, 4, num_epochs=2, seed=3)
  assert training_ids(many_videos, 4, num_epochs=2, seed=3) == first
  assert training_ids(many_videos, 4, num_epochs=2, seed=4) != first
  assert training_ids(many_videos, 4, num_epochs=2, seed=0) != first


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_machines_take_turns_in_the_order_of_one(many_videos, num_workers):
  alone = training_ids(many_videos, 4 * num_workers, num_epochs=3)
  shares = [
    training_ids(
      many_videos, 4, num_epochs=3, worker=worker, num_workers=num_workers
    )
    for worker in range(num_workers)
  ]
  # All machines have equally many batches, be they empty.
  together = [joined(parts) for parts in zip(*shares, strict=True)]
  assert together == alone


@pytest.mark.parametrize("num_epochs", [None, 0])
def test_training_without_end(many_videos, num_epochs):
  endless = many_videos.training_batches(29, num_epochs, seed=3)
  ids = [
    [video_id.decode() for video_id in batch["video_ids"]]
    for batch in endless.take(4).as_numpy_iterator()
  ]
  assert ids == training_ids(many_videos, 29, num_epochs=4, seed=3)


def places_of(data, batch_size, *arguments, **keywords):
  """The place after each training batch."""
  dataset = data.training_batches(batch_size, *arguments, **keywords)
  return [
    Place(*batch["place"][:3].tolist()) for batch in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize("window_shards", [1, 2, 3, 4])
def test_training_continues_exactly(many_videos, window_shards):
  settings = {"num_epochs": 2, "seed": 9, "window_shards": window_shards}
  batches = training_ids(many_videos, 4, **settings)
  places = places_of(many_videos, 4, **settings)
  assert len(places) == len(batches) == 15
  for number, place in enumerate(places, start=1):
    rest = training_ids(many_videos, 4, place=place, **settings)
    assert rest == batches[number:]
  order = many_videos.order(9, window_shards)
  for number, place in enumerate(places[:-1], start=1):
    assert order.place_after(4 * number) == place


def test_to_continue_reads_no_record_of_before(many_videos, monkeypatch):
  settings = {"num_epochs": 1, "seed": 9, "window_shards": 2}
  places = places_of(many_videos, 4, **settings)
  read, records = shards.RecordReader.read, []

  def read_and_note(reader, file, offset, length):
    records.append((file, offset))
    return read(reader, file, offset, length)

  monkeypatch.setattr(shards.RecordReader, "read", read_and_note)
  training_ids(many_videos, 4, **settings)
  assert len(records) == len(set(records)) == NUM_VIDEOS
  for number, place in enumerate(places, start=1):
    records.clear()
    training_ids(many_videos, 4, place=place, **settings)
    assert len(records) == max(0, NUM_VIDEOS - 4 * number)


@pytest.mark.parametrize("window_shards", [1, 2, 4])
def test_machines_and_batch_size_may_change_in_an_epoch(
  many_videos, window_shards
):
  """One machine, then three, then two with larger batches."""
  settings = {"num_epochs": 2, "window_shards": window_shards}
  whole = joined(training_ids(many_videos, 1, **settings))
  place, found = Place(), []
  for num_workers, batch_size, num_batches in ((1, 4, 2), (3, 2, 3), (2, 5, 0)):
    shares = []
    for worker in range(num_workers):
      where = {"place": place, "worker": worker, "num_workers": num_workers}
      part = training_ids(many_videos, batch_size, **settings, **where)
      shares.append(part[:num_batches] if num_batches else part)
    places = places_of(
      many_videos,
      batch_size,
      place=place,
      num_workers=num_workers,
      **settings,
    )
    for parts in zip(*shares, strict=True):
      found += joined(parts)
    place = places[num_batches - 1]
  assert found == whole
  assert place == Place(2, 0, 0)


def test_permutations():
  """Known values: an order must not change with a version of anything."""
  assert permutation(10, 0, 0).tolist() == [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
  assert permutation(0, 1).tolist() == []
  assert permutation(1, 1).tolist() == [0]
  found = {tuple(permutation(4, seed)) for seed in range(500)}
  assert len(found) == 24  # all there are
  large = permutation(100_000, 3, 1)
  assert sorted(large.tolist()) == list(range(100_000))
  # As far from the sorted order as chance has it: a third of the length.
  distance = np.abs(large - np.arange(100_000)).mean()
  assert distance == pytest.approx(100_000 / 3, rel=0.01)


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
  data = Data(SMALL_FRAME_FLAGS, files, True, True)

  def order(place):
    dataset = data.training_batches(3, 2, 1, place=place, window_shards=1)
    batches = list(dataset.as_numpy_iterator())
    assert all(len(batch["video_ids"]) == 3 for batch in batches[:-1])
    return [
      (video_id.decode(), int(start))
      for batch in batches
      for video_id, start in zip(
        batch["video_ids"], batch["segment_start_times"], strict=True
      )
    ]

  whole = order(Place())
  expected = sorted(
    (f"v{number}", start)
    for number, starts in enumerate(ratings)
    for start in starts
  )
  assert sorted(whole[:10]) == sorted(whole[10:]) == expected
  places = places_of(data, 3, 2, 1, window_shards=1)
  for number, place in enumerate(places, start=1):
    assert order(place) == whole[3 * number :]


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
  data = Data(SMALL_FRAME_FLAGS, files, True)
  dataset = data.training_batches(4, num_epochs=2)
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
  assert Data(SMALL_VIDEO_FLAGS, files, True).num_videos == 2 * count


def test_an_empty_file_among_others_is_left_out(tmp_path):
  files = [
    write_records(tmp_path / "a", []),
    write_records(tmp_path / "b", [small_video("one"), small_video("two")]),
    write_records(tmp_path / "c", []),
    write_records(tmp_path / "d", [small_video("three")]),
  ]
  data = Data(SMALL_VIDEO_FLAGS, files, True, policy=Policy(skip=True))
  (batch,) = read_batches(data)
  assert batch["video_ids"].tolist() == [b"one", b"two", b"three"]
  assert data.skipped.counts == {"empty file": 2}
  assert data.num_videos == 3
  batches = data.training_batches(3, num_epochs=2)
  for batch in batches.as_numpy_iterator():
    assert set(batch["video_ids"]) == {b"one", b"two", b"three"}


def test_where_the_data_is_good_the_pipelines_own_error_is_raised(tmp_path):
  file = write_records(tmp_path / "a", [small_video("good")] * 3)
  data = Data(SMALL_VIDEO_FLAGS, [file], True)
  with (
    pytest.raises(tf.errors.DataLossError, match="from elsewhere"),
    data.naming_errors(),
  ):
    raise tf.errors.DataLossError(None, None, "from elsewhere")
