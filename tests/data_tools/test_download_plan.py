"""Tests of data_tools.download_plan."""

import json

import pytest
from conftest import assert_names, error_of

from data_tools.download_plan import (
  Shard,
  Source,
  local_name,
  parse_plan,
  part_of,
)

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SUFFIXES = [first + second for first in CHARACTERS for second in CHARACTERS]


@pytest.mark.parametrize(
  ("remote", "local"),
  [
    ("trainaa.tfrecord", "train0000.tfrecord"),
    ("trainab.tfrecord", "train0001.tfrecord"),
    ("trainaA.tfrecord", "train0026.tfrecord"),
    ("traina9.tfrecord", "train0061.tfrecord"),
    ("validateba.tfrecord", "validate0062.tfrecord"),
    ("validateAa.tfrecord", "validate1612.tfrecord"),  # 26 * 62
    ("test99.tfrecord", "test3843.tfrecord"),
  ],
)
def test_local_names(remote, local):
  assert local_name(remote) == local


def test_local_names_differ_where_case_does_not_count():
  names = [local_name(f"train{suffix}.tfrecord") for suffix in SUFFIXES]
  assert len(names) == 3844
  assert names == sorted({name.lower() for name in names})


@pytest.mark.parametrize(
  ("split", "kept"),
  [
    ("train", "dw eA ha jw I1"),
    ("validate", "ks BE DH HW 4r"),
    ("test", "gz zd Ia YI"),
  ],
)
def test_the_thousandth_that_the_official_program_takes(split, kept):
  shard = Shard.parse("1,1000")
  assert [
    suffix for suffix in SUFFIXES if shard.keeps(f"{split}{suffix}.tfrecord")
  ] == kept.split()


def test_each_file_is_in_one_part():
  parts = [Shard.parse(f"{number}, 7") for number in range(1, 8)]
  for suffix in SUFFIXES:
    assert sum(part.keeps(f"test{suffix}.tfrecord") for part in parts) == 1
  assert Shard.parse("1,1").keeps("testaa.tfrecord")


@pytest.mark.parametrize(
  "text",
  [
    *("0,5", "6,5", "1", "", "1,2,3", "a,b", "-1,2"),
    *("1,999999999999", "1," + "9" * 5000),
  ],
)
def test_wrong_shards(text):
  assert_names(error_of(Shard.parse, text), f"--shard={text}.", "1,100")


def test_official_addresses():
  source = Source("3/frame/validate", "asia")
  assert source.plan_url == (
    "http://data.yt8m.org/3/download_plans/frame_validate.json"
  )
  assert source.file_url("validate1x.tfrecord") == (
    "http://asia.data.yt8m.org/3/frame/validate/validate1x.tfrecord"
  )
  assert source.vocabulary_url == (
    "https://research.google.com/youtube8m/csv/2/vocabulary.csv"
  )


def test_addresses_of_ones_own_mirror():
  source = Source("2/video/test", "us", "http://host:8000/")
  assert source.plan_url == "http://host:8000/2/download_plans/video_test.json"
  assert source.file_url("testaa.tfrecord") == (
    "http://host:8000/2/video/test/testaa.tfrecord"
  )
  assert source.vocabulary_url == "http://host:8000/csv/2/vocabulary.csv"


@pytest.mark.parametrize(
  "partition", ["2/frame", "frame/train", "2/frame/train/", "2/frame/../train"]
)
def test_wrong_partitions(partition):
  assert_names(error_of(Source, partition), repr(partition), "2/frame/train")


@pytest.mark.parametrize("url", ["host:8000", "file:///data", "http://"])
def test_wrong_mirrors(url):
  assert_names(error_of(Source, "2/frame/train", "us", url), repr(url))


MD5 = "0123456789abcdef" * 2


def test_a_plan_is_sorted_by_local_name():
  names = ["trainaA.tfrecord", "traina0.tfrecord", "trainaz.tfrecord"]
  content = json.dumps({"files": dict.fromkeys(names, MD5)}).encode()
  plan = parse_plan(content, Source("2/frame/train"))
  assert list(plan) == [names[2], names[0], names[1]]
  assert set(plan.values()) == {MD5}


@pytest.mark.parametrize(
  ("content", "shown"),
  [
    (b"<html>Moved</html>", "<html>Moved</html>"),
    (b"[]", "[]"),
    pytest.param(b"[" * 100_000, "[[[", id="deep"),
    (b'{"files": {}}', "an empty one"),
    (b'{"files": ["trainaa.tfrecord"]}', "files"),
    (b'{"files": {"trainaa.tfrecord": "12"}}', "trainaa.tfrecord"),
    (b'{"files": {"trainaa.tfrecord": 12}}', "files"),
    (f'{{"files": {{"testaa.tfrecord": "{MD5}"}}}}'.encode(), "testaa"),
    (f'{{"files": {{"../trainaa.tfrecord": "{MD5}"}}}}'.encode(), "../train"),
    (f'{{"files": {{"train/../b.tfrecord": "{MD5}"}}}}'.encode(), "train/.."),
  ],
)
def test_wrong_plans(content, shown):
  text = error_of(parse_plan, content, Source("2/frame/train"))
  assert_names(text, "2/frame/train", "frame_train.json", shown)


def test_names_need_not_be_unicode_to_be_in_a_part():
  numbers = {part_of(f"{n}\udcff.mp4", 3) for n in range(30)}
  assert numbers == {1, 2, 3}
