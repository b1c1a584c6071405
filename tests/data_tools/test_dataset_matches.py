"""Tests of data_tools.dataset_matches."""

import numpy as np
from make_records import bytes_of, small_frames, write_records

from data_tools import dataset_matches
from data_tools.dataset_facts import hash_of_features
from data_tools.label_sets import LabelSets
from records import shards
from records.apart import take_apart


def test_candidates():
  hashes = np.array([7, 5, 0, 7, 9, 0, 5, 7], np.uint64)
  groups = [group.tolist() for group in dataset_matches.candidates(hashes)]
  assert groups == [[1, 6], [0, 3, 7]]
  assert dataset_matches.num_candidates(hashes) == 5
  for few in ([], [0, 0], [3]):
    hashes = np.array(few, np.uint64)
    assert list(dataset_matches.candidates(hashes)) == []
    assert dataset_matches.num_candidates(hashes) == 0


def find(tmp_path, records, hashes, same):
  """Finds matches in two files, the first two records in the first one."""
  paths = [
    write_records(tmp_path / "a", records[:2]),
    write_records(tmp_path / "b", records[2:]),
  ]
  walks = {file: shards.walk(path) for file, path in enumerate(paths)}
  places = np.array(
    [
      (int(row > 1), row % 2 if row < 2 else row - 2)
      for row in range(len(records))
    ]
  )
  labels = [take_apart(memoryview(record)).labels for record in records]
  read = []
  found = dataset_matches.find_matches(
    np.array(hashes, np.uint64),
    places,
    [0, 1],
    dataset_matches.RecordFinder(paths, walks),
    same,
    LabelSets(np.array([len(of) for of in labels]), np.concatenate(labels)),
    lambda: read.append(1),
  )
  return found, len(read)


def test_equal_hashes_of_different_ids_are_told_apart(tmp_path):
  records = [
    small_frames("x", labels=[1]),
    small_frames("y", labels=[2]),
    small_frames("x", labels=[3]),
    small_frames("z", labels=[1]),
    small_frames("y", labels=[2]),
  ]
  found, num_read = find(
    tmp_path, records, [5, 5, 5, 8, 5], dataset_matches.same_id
  )
  assert num_read == 4
  assert (found.num_groups, found.num_extra) == (2, 2)
  assert found.num_other_labels == 1
  assert found.overlaps == {(0, 1): 2}
  assert found.examples == [((0, 0), (1, 0)), ((0, 1), (1, 2))]


def test_features_are_compared_in_whole(tmp_path):
  """Also the frames that the hash does not see."""
  same = bytes_of(100, 3)
  other = same.copy()
  other[1] += 1
  audio = bytes_of(100, 2)
  records = [
    small_frames(name, rgb=rgb, audio=audio)
    for name, rgb in (("a", same), ("b", other), ("c", same), ("a", same))
  ]
  hashes = [
    hash_of_features(take_apart(memoryview(record)).features)
    for record in records
  ]
  assert len(set(hashes)) == 1
  found, _ = find(tmp_path, records, hashes, dataset_matches.same_features)
  assert (found.num_groups, found.num_extra) == (1, 2)
  assert found.num_other_ids == 1
  assert found.num_other_labels == 0
  assert found.overlaps == {(0, 1): 1}


def test_features_of_another_dtype_shape_or_name_differ():
  def video(**features):
    record = small_frames("a", **{"rgb": None, "audio": None, **features})
    return take_apart(memoryview(record))

  one = video(rgb=bytes_of(2, 3))
  assert dataset_matches.same_features(one, video(rgb=bytes_of(2, 3)))
  for other in (
    video(rgb=bytes_of(2, 3).astype(float)),
    video(rgb=bytes_of(3, 2)),
    video(sound=bytes_of(2, 3)),
    video(rgb=bytes_of(2, 3), audio=bytes_of(2, 3)),
  ):
    assert not dataset_matches.same_features(one, other)


def test_a_record_that_is_gone_is_no_match(tmp_path, monkeypatch):
  records = [small_frames("x"), small_frames("y"), small_frames("x")]
  read = dataset_matches.RecordFinder.read

  def fail(self, file, number):
    if file:
      raise OSError(5, "Input/output error")
    return read(self, file, number)

  monkeypatch.setattr(dataset_matches.RecordFinder, "read", fail)
  found, _ = find(tmp_path, records, [5, 6, 5], dataset_matches.same_id)
  assert found.num_groups == 0
