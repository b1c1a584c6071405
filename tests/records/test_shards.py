"""Tests of records.shards."""

import pytest
from conftest import assert_names, error_of, read_batches
from make_records import SMALL_VIDEO_FLAGS, small_video, write_records

from engine.data import Data


def damage_end(content):
  return content[:-7]


def damage_middle(content):
  """Flips a bit inside of the third of four equally long records."""
  position = len(content) * 5 // 8
  changed = content[position] ^ 1
  return content[:position] + bytes([changed]) + content[position + 1 :]


@pytest.mark.parametrize(
  ("damage", "number", "words"),
  [(damage_end, 3, "a file that ends"), (damage_middle, 2, "damaged data")],
)
def test_damaged_file(tmp_path, damage, number, words):
  write_records(tmp_path / "whole", [small_video("good")] * 4)
  before = write_records(tmp_path / "before", [small_video("good")] * 70)
  damaged = tmp_path / "damaged"
  damaged.write_bytes(damage((tmp_path / "whole").read_bytes()))
  files = [before, str(damaged)]
  data = Data(SMALL_VIDEO_FLAGS, files, True)
  text = error_of(read_batches, data, batch_size=2)
  assert_names(text, f"{damaged}, record {number}: ", words)


@pytest.mark.parametrize("content", [b"id,label\n1,2\n", b"x" * 5000])
def test_file_that_is_no_tfrecord_file(tmp_path, content):
  file = tmp_path / "predictions.csv"
  file.write_bytes(content)
  text = error_of(Data, SMALL_VIDEO_FLAGS, [str(file)], True)
  assert_names(text, f"{file}, record 0: ", "expected a TFRecord file")
