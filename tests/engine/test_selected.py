"""Tests of engine.selected, and of Data with it.

What is left of files must be read as files that hold nothing else are.
"""

import gzip

import numpy as np
import pytest
from conftest import assert_names, error_of, read_batches
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
from engine.data_order import Place
from engine.skipped import Policy
from records import messages, shards

SUBSET = [1, 3]
NUM_RECORDS = (13, 1, 4, 22, 9)


def random_labels(random):
  return random.choice(5, size=random.integers(3), replace=False).tolist()


def make_video(name, random):
  """A record, and what is left of it, or None."""
  labels = random_labels(random)
  record = small_video(name, labels)
  return record, record if {*labels} & {*SUBSET} else None


def make_frames(name, random):
  labels, length = random_labels(random), int(random.integers(1, 9))
  record = small_frames(name, length, labels)
  return record, record if {*labels} & {*SUBSET} and length >= 4 else None


def make_segments(name, random):
  ratings = [
    (5 * int(random.integers(3)), int(random.integers(5)), float(score))
    for score in random.integers(2, size=random.integers(5))
  ]
  length = int(random.integers(10, 16))
  features = {"rgb": bytes_of(length, 3), "audio": bytes_of(length, 2)}
  record = segment_record(name, ratings, **features)
  if length < 12:
    return record, None
  ratings = [rating for rating in ratings if rating[1] in SUBSET]
  plain = segment_record(name, ratings, **features)
  return record, plain if ratings else None


# Kind of data: flags, function that makes a record, --min_frames.
KINDS = {
  "video": (SMALL_VIDEO_FLAGS, make_video, 0),
  "frame": (SMALL_FRAME_FLAGS, make_frames, 4),
  "segment": (SMALL_FRAME_FLAGS, make_segments, 12),
}


class Pair:
  """All of some files with a selection, and files of what is left of them."""

  def __init__(self, folder, kind):
    flags, make, min_frames = KINDS[kind]
    random = np.random.default_rng(7)
    self.all, self.left = [], []
    self.made = []
    for name in ("all", "left"):
      (folder / name).mkdir()
    for part, count in enumerate(NUM_RECORDS):
      made = [make(f"f{part}v{number}", random) for number in range(count)]
      name = f"part{part}"
      records = [record for record, _ in made]
      left = [kept for _, kept in made if kept]
      self.made.append(made)
      self.all.append(write_records(folder / "all" / name, records))
      self.left.append(write_records(folder / "left" / name, left))
    self.num_records = sum(NUM_RECORDS)
    self.num_left = sum(bool(kept) for made in self.made for _, kept in made)
    assert self.num_left < self.num_records * 3 // 4
    self.flags = {**flags, "label_subset": SUBSET}
    self.plain_flags = flags
    self.options = {"segment_labels": kind == "segment"}
    self.min_frames = min_frames

  def selected(self, files=None, **options) -> Data:
    return Data(
      self.flags,
      files or self.all,
      True,
      min_frames=self.min_frames,
      **self.options | options,
    )

  def plain(self, files=None, **options) -> Data:
    # Among the left files, one may be empty.
    options = {"policy": Policy(True, max_fraction=1.0), **options}
    data = Data(
      self.plain_flags, files or self.left, True, **self.options | options
    )
    return data


@pytest.fixture(params=KINDS)
def pair(request, tmp_path):
  return Pair(tmp_path, request.param)


def train_on(data, batch_size=4, **where):
  with data.naming_errors():
    dataset = data.training_batches(
      batch_size, **{"num_epochs": 2, "seed": 3, **where}
    )
    return list(dataset.as_numpy_iterator())


def assert_same(batches, plain):
  """Compares batches with those of other files, which have all classes."""
  assert len(batches) == len(plain) > 1
  for batch, other in zip(batches, plain, strict=True):
    assert batch.keys() == other.keys()
    for name, values in batch.items():
      expected = other[name]
      if name in ("labels", "label_weights"):
        expected = expected[:, SUBSET]
        assert values.shape[1] == 2
      if name == "place":  # an empty file counts as a bad record
        values, expected = values[:3], expected[:3]
      np.testing.assert_array_equal(values, expected)


# --------------------------------------------------------------------------
# The same batches in the same order


def test_evaluation(pair):
  data, plain = pair.selected(), pair.plain()
  assert_same(read_batches(data, 3), read_batches(plain, 3))


@pytest.mark.parametrize("window_shards", [1, None])
def test_training(pair, window_shards):
  data, plain = pair.selected(), pair.plain()
  where = {"batch_size": 3, "window_shards": window_shards}
  assert_same(train_on(data, **where), train_on(plain, **where))


def test_resuming(pair):
  data = pair.selected()
  where = {"window_shards": 2, "batch_size": 4}
  batches = train_on(data, **where)
  for number, batch in enumerate(batches[:-1], start=1):
    if number in (1, len(batches) // 2, len(batches) - 1):
      place = Place(*batch["place"][:3].tolist())
      rest = train_on(pair.selected(), place=place, **where)
      for one, other in zip(rest, batches[number:], strict=True):
        np.testing.assert_array_equal(one["video_ids"], other["video_ids"])
        np.testing.assert_array_equal(one["place"], other["place"])


def test_several_workers(pair):
  data, plain = pair.selected(), pair.plain()
  for worker in (0, 1):
    where = {"worker": worker, "num_workers": 2, "window_shards": 2}
    assert_same(train_on(data, **where), train_on(plain, **where))


def test_an_epoch_has_each_example_once(pair):
  data = pair.selected()
  batches = train_on(data)
  number = sum(len(batch["video_ids"]) for batch in batches)
  assert number == 2 * data.num_videos
  evaluated = read_batches(data)
  assert data.num_videos == sum(len(batch["labels"]) for batch in evaluated)


def damage_some(pair):
  """Damages three records of the largest file.

  What they hold is not known then, so they are among what is left.
  """
  damaged = [4, 11, 17]
  assert {bool(pair.made[3][number][1]) for number in damaged} == {True, False}
  left = [
    (number, record if number in damaged else kept)
    for number, (record, kept) in enumerate(pair.made[3])
    if kept or number in damaged
  ]
  write_records(pair.left[3], [record for _, record in left])
  numbers = [number for number, _ in left]
  for path, wrong in (
    (pair.all[3], damaged),
    (pair.left[3], [numbers.index(number) for number in damaged]),
  ):
    with open(path, "r+b") as file:
      for begin in shards.walk(path).offsets[wrong].tolist():
        file.seek(begin + 40)
        byte = file.read(1)[0]
        file.seek(begin + 40)
        file.write(bytes([byte ^ 1]))


def test_bad_records_are_left_out_of_what_is_left(pair):
  damage_some(pair)
  policy = Policy(True, max_fraction=1.0)
  data, plain = pair.selected(policy=policy), pair.plain()
  assert_same(read_batches(data, 3), read_batches(plain, 3))
  assert data.skipped.counts == {"checksum": 3}
  where = {"window_shards": 2}
  assert_same(train_on(data, **where), train_on(plain, **where))
  text = error_of(pair.selected)
  assert_names(text, f"{pair.all[3]}, record 4: ", "checksum")


def compress(files):
  packed = [f"{file}.gz" for file in files]
  for file, target in zip(files, packed, strict=True):
    with open(file, "rb") as source, gzip.open(target, "wb") as other:
      other.write(source.read())
  return packed


def test_files_that_tensorflow_reads(pair):
  data = pair.selected(compress(pair.all))
  plain = pair.plain(compress(pair.left), policy=Policy())
  assert not data.by_number
  assert_same(read_batches(data, 3), read_batches(plain, 3))
  whole = train_on(data)
  assert_same(whole, train_on(plain))
  rest = np.concatenate(
    [batch["video_ids"] for batch in train_on(data, skip_examples=7)]
  )
  ids = np.concatenate([batch["video_ids"] for batch in whole])
  np.testing.assert_array_equal(rest, ids[7:])
  where = {"worker": 1, "num_workers": 2}
  assert_same(train_on(data, **where), train_on(plain, **where))


# --------------------------------------------------------------------------
# Prediction


def test_prediction_reads_every_video(tmp_path):
  records = [small_frames(f"v{length}", length, None) for length in (2, 5, 3)]
  file = write_records(tmp_path / "a", records)
  flags = {**SMALL_FRAME_FLAGS, "label_subset": SUBSET}
  for min_frames, expected in ((0, [2, 5, 3]), (3, [5, 3])):
    data = Data(flags, [file], False, min_frames=min_frames)
    (batch,) = read_batches(data)
    assert batch["num_frames"].tolist() == expected
    assert "labels" not in batch


def test_segments_to_predict_are_of_long_enough_videos(tmp_path):
  records = [small_frames(f"v{length}", length, None) for length in (4, 11, 7)]
  file = write_records(tmp_path / "a", records)
  data = Data(
    {**SMALL_FRAME_FLAGS, "label_subset": SUBSET},
    [file],
    False,
    segment_labels=True,
    min_frames=7,
  )
  (batch,) = read_batches(data)
  assert batch["num_frames"].tolist() == [5, 5, 1, 5, 2]


# --------------------------------------------------------------------------
# What a user is told


def test_how_many_are_left(tmp_path, shown):
  pair = Pair(tmp_path, "frame")
  data = pair.selected()
  assert data.num_videos == pair.num_left
  assert shown == [
    f"Using {pair.num_left} of the {pair.num_records} videos: those with one of"
    " the 2 classes of --label_subset and at least 4 frames (--min_frames)."
  ]
  shown.clear()
  pair.flags["label_subset"] = [2]
  pair.min_frames = 0
  pair.selected()
  assert shown[0].endswith("those with the class 2 (--label_subset).")
  shown.clear()
  pair.plain()
  assert not shown


def test_how_many_segments_are_left(tmp_path, shown):
  pair = Pair(tmp_path, "segment")
  data = pair.selected()
  assert data.num_videos > pair.num_left
  (line,) = shown
  assert_names(
    line,
    f"Using {pair.num_left} of the {pair.num_records} videos: ",
    f", which have {data.num_videos} rated segments.",
  )


def test_an_estimate_for_files_that_tensorflow_reads(tmp_path, shown):
  pair = Pair(tmp_path, "video")
  data = pair.selected(compress(pair.all))
  assert_names(shown[-1], f"of the first {pair.num_records} videos: ")
  assert 0 < data.num_videos < pair.num_records


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_left(tmp_path, packed):
  records = [small_frames("v", 3, [2])] * 70
  files = [write_records(tmp_path / name, records) for name in "ab"]
  if packed:
    files = compress(files)
  flags = {**SMALL_FRAME_FLAGS, "label_subset": SUBSET}
  text = error_of(Data, flags, files, True)
  assert_names(
    text,
    "one of the 2 classes of --label_subset, found none among the 140 of"
    f" {files[0]} and 1 more files.",
  )
  text = error_of(Data, SMALL_FRAME_FLAGS, files, True, min_frames=4)
  assert_names(text, "at least 4 frames (--min_frames)", "140")


def test_video_level_records_do_not_say_how_long_a_video_is(tmp_path):
  file = write_records(tmp_path / "a", [small_video("v")])
  text = error_of(Data, SMALL_VIDEO_FLAGS, [file], True, min_frames=4)
  assert_names(text, "--min_frames=4", "video-level")


def test_flags_that_do_not_fit_are_still_named(tmp_path):
  file = write_records(tmp_path / "a", [small_video("v", [1])])
  flags = {**SMALL_FRAME_FLAGS, "label_subset": SUBSET}
  text = error_of(Data, flags, [file], True, min_frames=4)
  assert_names(text, f"{file}, record 0: ", "video-level record")


def test_without_a_selection_nothing_is_scanned(tmp_path, monkeypatch):
  file = write_records(tmp_path / "a", [small_video("v", [1])] * 3)
  monkeypatch.setattr(shards.RecordReader, "part", None)
  parse = messages.parse_context
  calls = []
  monkeypatch.setattr(
    messages, "parse_context", lambda data: calls.append(1) or parse(data)
  )
  data = Data(SMALL_VIDEO_FLAGS, [file], True)
  assert len(train_on(data, 2, num_epochs=1)) == 2
  assert not calls


def test_a_damaged_file_loses_as_large_a_part(tmp_path):
  """Of 100 records behind a damaged length, as many are used as of others."""
  records = [small_video("v", [number % 4]) for number in range(100)]
  good = write_records(tmp_path / "a", records)
  content = bytearray((tmp_path / "a").read_bytes())
  content[shards.walk(good).offsets[1]] ^= 1
  (tmp_path / "b").write_bytes(content)
  data = Data(
    {**SMALL_VIDEO_FLAGS, "label_subset": [1]},
    [good, str(tmp_path / "b")],
    True,
    policy=Policy(True, max_fraction=1.0),
  )
  assert data.num_videos == 25
  batches = train_on(data, 5, num_epochs=1)
  counted = np.sum([batch["place"][3:] for batch in batches], axis=0)
  assert abs(counted[1] - 25) <= 2
