"""Tests of records.shards."""

import pytest
from conftest import assert_names, error_of, read_batches
from make_records import SMALL_VIDEO_FLAGS, small_video, write_records

import errors
import readers
from engine import data_order
from records import shards


def test_find_files_sorts_and_joins_patterns(tmp_path):
  for name in ["b1", "a2", "a1", "c1"]:
    (tmp_path / name).touch()
  found = shards.find_files(f"{tmp_path}/b*, {tmp_path}/a*,{tmp_path}/a1", "x")
  assert found == [str(tmp_path / name) for name in ["a1", "a2", "b1"]]


def test_find_files_names_the_pattern_without_files(tmp_path):
  (tmp_path / "a1").touch()
  text = error_of(
    shards.find_files, f"{tmp_path}/a*,{tmp_path}/b*", "eval_data_pattern"
  )
  assert f"--eval_data_pattern={tmp_path}/b*" in text
  assert f"{tmp_path}/a*" not in text


def damage_end(content):
  return content[:-7]


def damage_middle(content):
  """Flips a bit inside of the third of four equally long records."""
  position = len(content) * 5 // 8
  changed = content[position] ^ 1
  return content[:position] + bytes([changed]) + content[position + 1 :]


@pytest.mark.parametrize(
  ("damage", "number"), [(damage_end, 3), (damage_middle, 2)]
)
def test_damaged_file(tmp_path, damage, number):
  whole = write_records(tmp_path / "whole", [small_video("good")] * 4)
  damaged = tmp_path / "damaged"
  damaged.write_bytes(damage((tmp_path / "whole").read_bytes()))
  files = [whole, str(damaged)]
  reader = readers.open_reader(SMALL_VIDEO_FLAGS, files, True)
  with (
    pytest.raises(errors.UserError) as caught,
    data_order.naming_bad_record(reader, files, with_labels=True),
  ):
    read_batches(reader, files, batch_size=2)
  text = str(caught.value)
  assert_names(text, f"{damaged}, record {number}: ", "damaged or cut off")


@pytest.mark.parametrize("content", [b"id,label\n1,2\n", b"x" * 5000])
def test_file_that_is_no_tfrecord_file(tmp_path, content):
  file = tmp_path / "predictions.csv"
  file.write_bytes(content)
  text = error_of(readers.open_reader, SMALL_VIDEO_FLAGS, [str(file)], True)
  assert_names(text, f"{file}, record 0: ", "not a TFRecord file")
