"""Tests of engine.data: files that TensorFlow reads, and those left out."""

import csv
import gzip

import numpy as np
import pytest
from conftest import assert_names, error_of, read_batches
from make_records import (
  SMALL_FRAME_FLAGS,
  SMALL_VIDEO_FLAGS,
  bytes_of,
  frame_record,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

from engine.data import Data
from engine.data_order import Place
from engine.skipped import Policy
from records import shards

FLAGS = {"video": SMALL_VIDEO_FLAGS, "frame": SMALL_FRAME_FLAGS}
MAKE = {"video": small_video, "frame": small_frames}


def ids_of(batches):
  return [name.decode() for batch in batches for name in batch["video_ids"]]


def train_on(data, batch_size=3, **where):
  """All training batches, as dicts of arrays."""
  with data.naming_errors():
    dataset = data.training_batches(batch_size, **{"num_epochs": 1, **where})
    return list(dataset.as_numpy_iterator())


# --------------------------------------------------------------------------
# Files that TensorFlow reads


def compressed(folder, level):
  """Files of 4 and 7 records, compressed."""
  files = []
  for name, count in (("a", 4), ("b", 7)):
    records = [MAKE[level](f"{name}{number}") for number in range(count)]
    plain = write_records(folder / name, records)
    with open(plain, "rb") as file:
      (folder / f"{name}.gz").write_bytes(gzip.compress(file.read()))
    files.append(f"{plain}.gz")
  return files


ALL_IDS = [f"a{number}" for number in range(4)] + [
  f"b{number}" for number in range(7)
]


@pytest.mark.parametrize("level", FLAGS)
def test_compressed_files_are_read_by_tensorflow(tmp_path, level):
  data = Data(FLAGS[level], compressed(tmp_path, level), True)
  assert not data.by_number
  batches = read_batches(data, 4)
  assert ids_of(batches) == ALL_IDS
  plain = Data(FLAGS[level], [str(tmp_path / name) for name in "ab"], True)
  assert plain.by_number
  for batch, other in zip(batches, read_batches(plain, 4), strict=True):
    for name, values in batch.items():
      np.testing.assert_array_equal(values, other[name])


def test_nothing_is_tuned_that_an_end_would_wait_for(tmp_path):
  """tf.data's tuner sleeps up to a minute; freeing an iterator waits for it."""
  remote = Data(SMALL_VIDEO_FLAGS, compressed(tmp_path, "video"), True)
  by_number = Data(SMALL_VIDEO_FLAGS, [str(tmp_path / "a")], True)
  for data in (remote, by_number):
    for batches in (
      data.training_batches(4, 1, 0, num_readers=1),
      data.evaluation_batches(4),
    ):
      assert batches.options().autotune.enabled is False


def test_training_on_compressed_files_continues_exactly(tmp_path):
  data = Data(SMALL_VIDEO_FLAGS, compressed(tmp_path, "video"), True)
  whole = ids_of(train_on(data, num_epochs=2))
  assert sorted(whole[:11]) == sorted(whole[11:]) == ALL_IDS
  assert "place" not in train_on(data)[0]
  for seen in (1, 5, 11, 20):
    rest = train_on(data, num_epochs=2, skip_examples=seen)
    assert ids_of(rest) == whole[seen:]


def test_without_the_package_for_checksums_tensorflow_reads(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(shards, "crc32c", None)
  file = write_records(tmp_path / "a", [small_video("one"), small_video("two")])
  data = Data(SMALL_VIDEO_FLAGS, [file], True)
  assert not data.by_number
  assert ids_of(read_batches(data)) == ["one", "two"]


def test_a_bad_record_of_a_compressed_file_is_named(tmp_path):
  records = [*[small_video("good")] * 70, small_video("bad", labels=[5])]
  write_records(tmp_path / "a", records)
  packed = gzip.compress((tmp_path / "a").read_bytes())
  (tmp_path / "a.gz").write_bytes(packed)
  data = Data(SMALL_VIDEO_FLAGS, [str(tmp_path / "a.gz")], True)
  text = error_of(read_batches, data)
  assert_names(text, f"{tmp_path}/a.gz, record 70: ", "found 5")

  (tmp_path / "a.gz").write_bytes(packed[:-20])
  data = Data(SMALL_VIDEO_FLAGS, [str(tmp_path / "a.gz")], True)
  text = error_of(read_batches, data)
  assert_names(text, f"{tmp_path}/a.gz, record ", "damaged or cut off")


def test_nothing_can_be_left_out_of_training_on_compressed_files(tmp_path):
  files = compressed(tmp_path, "video")
  data = Data(SMALL_VIDEO_FLAGS, files, True, policy=Policy(skip=True))
  text = error_of(Data.check_can_train, data)
  assert_names(text, "--skip_corrupt", files[0])
  Data(SMALL_VIDEO_FLAGS, files, True).check_can_train()


# --------------------------------------------------------------------------
# Records that are left out


def damaged_files(folder):
  """A good file, and one of each kind of damage; the ids that remain."""
  good = [small_frames(f"good{number}") for number in range(80)]
  files = [write_records(folder / "a_good", good)]
  kept = [f"good{number}" for number in range(80)]
  floats = np.ones((3, 3), np.float32)
  bad = {
    "label out of range": small_frames("bad", labels=[7]),
    "no labels": small_frames("bad", labels=None),
    "missing feature": small_frames("bad", audio=None),
    "wrong type": small_frames("bad", rgb=floats),
    "wrong size": small_frames("bad", rgb=np.zeros((3, 4), np.uint8)),
    "different lengths": small_frames("bad", rgb=np.zeros((2, 3), np.uint8)),
    "not an Example": b"\xff\xff no protocol buffer",
  }
  records = []
  for kind, record in bad.items():
    records += [record, small_frames(f"after {kind}")]
    kept.append(f"after {kind}")
  files.append(write_records(folder / "b_contents", records))
  # A checksum that does not fit, a length that does not fit.
  content = bytearray((folder / "a_good").read_bytes())
  offsets = shards.walk(files[0]).offsets
  content[offsets[3] + 40] ^= 1
  content[offsets[60] + 1] ^= 1
  (folder / "c_bits").write_bytes(content)
  kept += [f"good{number}" for number in range(60) if number != 3]
  (folder / "d_cut").write_bytes(
    (folder / "a_good").read_bytes()[: offsets[5] + 9]
  )
  kept += [f"good{number}" for number in range(5)]
  (folder / "e_empty").touch()
  (folder / "f_html").write_text("<html>Service unavailable</html>" * 9)
  (folder / "g_short").write_bytes(bytes(7))
  files += sorted(map(str, folder.glob("[c-g]_*")))
  expected = dict.fromkeys(bad, 1) | {
    "checksum": 2,
    "cut off": 1,
    "empty file": 1,
    "not a TFRecord": 2,
  }
  return files, kept, expected


@pytest.mark.parametrize("num_readers", [1, 8])
def test_bad_records_are_left_out_and_listed(
  tmp_path, num_readers, monkeypatch
):
  monkeypatch.setattr("engine.data._READING_THREADS", 3)
  files, kept, expected = damaged_files(tmp_path)
  policy = Policy(True, path=str(tmp_path / "skipped_records.csv"))
  data = Data(SMALL_FRAME_FLAGS, files, True, policy=policy)
  assert ids_of(read_batches(data, 7, num_readers)) == kept
  assert data.skipped.counts == expected
  batches = train_on(data, 4, num_readers=num_readers)
  assert sorted(ids_of(batches)) == sorted(kept)
  counted = np.sum([batch["place"][3:] for batch in batches], axis=0)
  skipped = sum(expected.values())
  # Of the second half of a file only the bytes tell how much was lost.
  assert counted[0] == len(kept) + 8  # 7 by content and 1 by checksum
  assert skipped - 8 <= counted[1] <= skipped + 20
  data.skipped.write()
  with open(policy.path, newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == skipped
  assert [row["record"] for row in rows if row["file"].endswith("c_bits")] == [
    "3",
    "60",
  ]
  assert {row["kind"] for row in rows} == set(expected)


def test_the_same_is_left_out_after_resuming(tmp_path):
  files, _, _ = damaged_files(tmp_path)
  data = Data(SMALL_FRAME_FLAGS, files, True, policy=Policy(True))
  batches = train_on(data, 4, num_epochs=2, window_shards=2)
  for number, batch in enumerate(batches[:-1], start=1):
    if number % 9 == 0:
      place = Place(*batch["place"][:3].tolist())
      rest = train_on(data, 4, num_epochs=2, window_shards=2, place=place)
      assert ids_of(rest) == ids_of(batches[number:])


def test_without_the_flag_the_first_bad_record_stops(tmp_path):
  files, _, _ = damaged_files(tmp_path)
  data = Data(SMALL_FRAME_FLAGS, files, True)
  for read in (read_batches, train_on):
    text = error_of(read, data)
    assert_names(
      text, ", record ", "add --skip_corrupt", "data_tools.verify_data"
    )
    assert "\n" not in text


def test_too_many_bad_records_stop_in_any_case(tmp_path):
  good, bad = small_video("good"), small_video("bad", labels=[5])
  few = write_records(tmp_path / "few", [*[good] * 80, *[bad] * 19] * 10)
  data = Data(SMALL_VIDEO_FLAGS, [few], True, policy=Policy(True, 0.1))
  read_batches(data)
  data.check_skipped()  # 990 records are too few to judge
  many = write_records(tmp_path / "many", [*[good] * 80, *[bad] * 19] * 11)
  for allowed, stops in ((0.19, True), (0.2, False)):
    data = Data(SMALL_VIDEO_FLAGS, [many], True, policy=Policy(True, allowed))
    read_batches(data)
    if stops:
      text = error_of(data.check_skipped)
      assert_names(text, "209 of 1089", "19.00%", "--max_corrupt_fraction")
    else:
      data.check_skipped()


def test_records_of_batches_that_are_left_out_as_a_whole_count(tmp_path):
  records = [*[small_video("good")] * 70, *[small_video("b", labels=[5])] * 50]
  file = write_records(tmp_path / "a", records)
  data = Data(SMALL_VIDEO_FLAGS, [file], True, policy=Policy(True))
  counts = [batch["place"][3:].tolist() for batch in train_on(data, 1)]
  assert len(counts) == 70
  num_records, num_lost = np.sum(counts, axis=0).tolist()
  # Of those after the last good one, there is no batch to count them with.
  assert num_records > 110
  assert num_lost == 0


def test_data_without_a_usable_record(tmp_path):
  bad = small_video("bad", labels=[5])
  file = write_records(tmp_path / "a", [bad] * 3)
  text = error_of(Data, SMALL_VIDEO_FLAGS, [file], True, policy=Policy(True))
  assert_names(text, "a record that can be used", f"{file}, record 0: ")


def test_a_file_that_goes_while_it_is_read(tmp_path):
  files = [
    write_records(tmp_path / name, [small_video(name)] * 70) for name in "ab"
  ]
  data = Data(SMALL_VIDEO_FLAGS, files, True)
  open_file = data._open_whole_videos

  def open_and_remove(file):
    found = open_file(file)
    if file == 1:
      (tmp_path / "b").unlink()
    return found

  data._open_whole_videos = open_and_remove
  text = error_of(train_on, data)
  assert_names(text, "a file that can be read", files[1], "No such file")


def test_a_long_row_of_bad_records_stops(tmp_path):
  records = [
    *[small_video("good")] * 70,
    *[small_video("b", labels=[5])] * 3000,
  ]
  file = write_records(tmp_path / "a", records)
  data = Data(SMALL_VIDEO_FLAGS, [file], True, policy=Policy(True, 1.0))
  text = error_of(read_batches, data, 10)
  assert_names(text, "1000 in a row", "label out of range")


@pytest.mark.parametrize("has_segments", [False, True])
def test_a_long_row_of_bad_records_stops_training(tmp_path, has_segments):
  good, bad, flags = small_video("a"), small_video("b", [5]), SMALL_VIDEO_FLAGS
  if has_segments:  # each bad record has two
    ratings, flags = [(0, 1, 1.0), (1, 1, 1.0)], SMALL_FRAME_FLAGS
    rgb, audio = bytes_of(9, 3), bytes_of(9, 2)
    good = segment_record("a", ratings, rgb=rgb, audio=audio)
    bad = segment_record("b", ratings, rgb=rgb, audio=audio[1:])
  file = write_records(tmp_path / "a", [good, *[bad] * 2000])
  data = Data(flags, [file], True, has_segments, policy=Policy(True, 1.0))
  text = error_of(train_on, data, 1000, num_epochs=9)
  assert_names(text, "in a row")


# --------------------------------------------------------------------------
# Videos without frames or labels


def test_a_video_without_frames_is_predicted_but_not_trained_on(tmp_path):
  records = [
    small_frames("one"),
    frame_record("none", [1], rgb=[], audio=[]),
    small_frames("two", labels=[]),
  ]
  file = write_records(tmp_path / "a", records)
  data = Data(SMALL_FRAME_FLAGS, [file], True)
  (batch,) = read_batches(data)
  assert batch["video_ids"].tolist() == [b"one", b"none", b"two"]
  assert batch["num_frames"].tolist() == [3, 0, 3]
  assert not batch["video_matrix"][1].any()
  # A video without labels is a good one.
  assert batch["labels"].sum(axis=1).tolist() == [1, 1, 0]
  assert data.skipped.counts == {}
  (batch,) = train_on(data)
  assert sorted(batch["video_ids"].tolist()) == [b"one", b"two"]
  assert batch["place"][3:].tolist() == [3, 0]
  assert data.skipped.counts == {"no frames": 1}
