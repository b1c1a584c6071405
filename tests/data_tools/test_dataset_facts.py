"""Tests of data_tools.dataset_facts."""

import itertools

import numpy as np
import pytest
from make_records import (
  bytes_of,
  segment_record,
  small_frames,
  small_video,
  write_records,
)

from data_tools import dataset_facts
from data_tools.dataset_facts import (
  FeatureForm,
  Moments,
  Part,
  PartReader,
  hash_of_features,
  sample_of,
)
from records import shards, writing


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def facts_of(path, *bounds):
  """The facts of a file that is read in parts."""
  walk = shards.walk(path)
  bounds = [0, *bounds, len(walk)]
  total = dataset_facts.Facts()
  for first, end in itertools.pairwise(bounds):
    total.merge(PartReader(Part(0, path, walk, first, end)).read())
  return total


# --------------------------------------------------------------------------
# Numbers


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_moments_are_those_of_all_rows(dtype):
  random = np.random.default_rng(0)
  values = (random.normal(size=(3000, 5)) * 20 + 100).astype(dtype)
  whole, left, right = (Moments(5) for _ in range(3))
  for begin in range(0, 3000, 500):
    rows = values[begin : begin + 500]
    assert whole.add(rows, rows, 500)
    assert (left if begin < 1000 else right).add(rows, rows, 500)
  for moments in (whole, left, right):
    moments.flush()
  left.merge(right)

  exact = values.astype(float)
  for moments in (whole, left):
    assert moments.num_videos == 3000
    np.testing.assert_array_equal(moments.least, exact.min(axis=0))
    np.testing.assert_array_equal(moments.most, exact.max(axis=0))
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.spread, exact.std(axis=0), rtol=1e-4)


def test_a_small_spread_around_a_large_mean_is_not_lost():
  random = np.random.default_rng(0)
  values = (1000 + 0.01 * random.normal(size=(4000, 2))).astype(np.float32)
  moments = Moments(2)
  for begin in range(0, 4000, 100):
    rows = values[begin : begin + 100]
    moments.add(rows, rows, 100)
  moments.flush()
  exact = values.astype(float).std(axis=0)
  np.testing.assert_allclose(moments.spread, exact, rtol=1e-2)


def test_half_numbers_are_compared_as_numbers():
  values = np.array(
    [[-1.5, 2.0, -0.0, 65504.0], [-3.0, 0.5, 0.0, -65504.0]], np.float16
  )
  moments = Moments(4)
  assert moments.add(values, values, 2)
  np.testing.assert_array_equal(moments.least, [-3.0, 0.5, 0.0, -65504.0])
  np.testing.assert_array_equal(moments.most, [-1.5, 2.0, 0.0, 65504.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_not_finite_is_counted_and_left_out(dtype, sign):
  nan, inf = np.copysign(np.nan, sign), np.inf * sign
  values = np.array([[1, nan], [2, 5], [inf, 6], [3, 7]], dtype)
  moments = Moments(2)
  assert not moments.add(values, values, 4)
  moments.flush()
  assert (moments.num_nan, moments.num_infinite) == (1, 1)
  np.testing.assert_array_equal(moments.least, [1, 5])
  np.testing.assert_array_equal(moments.most, [3, 7])
  # Of the two rows that are finite.
  np.testing.assert_allclose(moments.mean, [2.5, 6.0])
  np.testing.assert_allclose(moments.spread, [0.5, 1.0])


def test_constant_and_dead_dimensions():
  values = np.array([[0, 7, 1, 0], [0, 7, 2, 3]], np.float32)
  moments = Moments(4)
  moments.add(values, values, 2)
  assert moments.is_constant.tolist() == [True, True, False, False]
  assert moments.is_zero.tolist() == [True, False, False, False]
  # No number at all is not a constant one.
  assert not Moments(4).is_constant.any()


# --------------------------------------------------------------------------
# Hashes


def test_at_most_32_evenly_spaced_frames_are_sampled():
  frames = np.arange(300)[:, np.newaxis]
  assert sample_of(frames)[:, 0].tolist() == list(range(0, 300, 10))
  assert len(sample_of(frames[:33])) == 17
  assert len(sample_of(frames[:32])) == 32
  assert len(sample_of(frames[:0])) == 0
  np.testing.assert_array_equal(sample_of(frames[:, 0][:40]), np.arange(40))


def test_identical_features_have_the_same_hash_and_others_another():
  rgb, audio = bytes_of(4, 3), bytes_of(4, 2)
  hashes = {
    hash_of_features(features)
    for features in (
      {"rgb": rgb, "audio": audio},
      {"audio": audio, "rgb": rgb},
      {"rgb": rgb + 1, "audio": audio},
      {"rgb": rgb[:3], "audio": audio[:3]},
      {"rgb": rgb},
      {"other": rgb},
      {"rgb": rgb.astype(np.float32)},
      {"rgb": rgb.reshape(3, 4)},
    )
  }
  assert len(hashes) == 7
  wide = np.zeros((4, 6), np.uint8)
  wide[:, ::2] = rgb
  assert hash_of_features({"rgb": wide[:, ::2]}) in hashes


# --------------------------------------------------------------------------
# Parts


def test_facts_of_frames(tmp_path):
  path = write_records(
    tmp_path / "a",
    [
      small_frames("a", 2, [4, 1, 4]),
      small_frames("b", 7, []),
      small_frames("c", 0, None),
      small_frames("a", 2, [1]),
    ],
  )
  facts = facts_of(path)
  file = facts.files[0]
  assert (file.num_videos, file.num_frames) == (4, 11)
  assert (file.num_labels, file.num_empty) == (3, 2)
  assert facts.frames == {2: 2, 7: 1, 0: 1}
  assert facts.num_labels[0].tolist() == [2, 0, dataset_facts.NO_LABELS, 1]
  assert facts.labels[0].tolist() == [1, 4, 1]
  assert facts.places[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
  ids, hashes = facts.ids[0], facts.features[0]
  assert ids[0] == ids[3] != ids[1]
  assert hashes[0] == hashes[3] != hashes[1]
  assert hashes[2] == 0  # no frames, nothing to compare
  kind = (
    FeatureForm("audio", "uint8", 2, True),
    FeatureForm("rgb", "uint8", 3, True),
  )
  assert facts.kinds == {kind: 3}
  frames = np.concatenate([bytes_of(2, 3), bytes_of(7, 3), bytes_of(2, 3)])
  rgb = facts.moments[kind[1]]
  np.testing.assert_array_equal(rgb.least, frames.min(axis=0))
  np.testing.assert_array_equal(rgb.most, frames.max(axis=0))
  np.testing.assert_allclose(rgb.mean, frames.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(rgb.spread, frames.std(axis=0), rtol=1e-6)


def test_parts_together_are_the_whole(tmp_path):
  random = np.random.default_rng(0)
  records = []
  for number in range(20):
    labels = random.integers(0, 9, random.integers(0, 4)).tolist()
    numbers = random.normal(size=3).astype(np.float32)
    records.append(small_video(f"v{number}", labels, mean_rgb=numbers))
    records.append(small_frames(f"f{number}", 1 + number % 5, labels))
  path = write_records(tmp_path / "a", records)
  whole, parts = facts_of(path), facts_of(path, 1, 7, 8, 30)
  for name in ("places", "ids", "features", "num_labels", "labels"):
    one, other = (
      np.concatenate(getattr(facts, name)) for facts in (whole, parts)
    )
    np.testing.assert_array_equal(one, other)
  assert whole.frames == parts.frames
  assert whole.kinds == parts.kinds
  assert whole.first_of_kind == parts.first_of_kind
  assert whole.files == parts.files
  for form, moments in whole.moments.items():
    other = parts.moments[form]
    np.testing.assert_array_equal(moments.least, other.least)
    np.testing.assert_allclose(moments.mean, other.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moments.spread, other.spread, rtol=1e-5)


def test_records_of_one_layout_give_what_single_ones_do(tmp_path, monkeypatch):
  """Also those that only look alike."""
  random = np.random.default_rng(0)
  records = []
  for number in range(60):
    numbers = random.normal(size=(3,)).astype(
      (np.float32, np.float16)[number % 2]
    )
    if number % 11 == 0:
      numbers[1] = np.nan
    labels = random.integers(0, 200, random.integers(0, 4)).tolist()
    # Of two features of one size the order differs.
    names = ("a", "b") if number % 3 else ("b", "a")
    vectors = {name: numbers + place for place, name in enumerate(names)}
    labels = None if number % 7 == 0 else [*labels, *labels[:1]]
    records.append(
      writing.video_record(f"v{number:02}".encode(), labels, vectors)
    )
  records[40] = records[40].replace(b"labels", b"Labels")
  path = write_records(tmp_path / "a", records)
  alike = facts_of(path)
  monkeypatch.setattr(
    dataset_facts, "take_apart_alike", lambda records: ([], range(len(records)))
  )
  single = facts_of(path)
  for name in ("places", "ids", "features", "num_labels", "labels"):
    (one,), (other,) = (getattr(facts, name) for facts in (alike, single))
    np.testing.assert_array_equal(one, other)
  for name in ("files", "kinds", "first_of_kind", "not_finite"):
    assert getattr(alike, name) == getattr(single, name)
  assert alike.num_not_finite == single.num_not_finite == 6
  assert len(alike.moments) == 4
  for form, moments in single.moments.items():
    other = alike.moments[form]
    np.testing.assert_array_equal(other.least, moments.least)
    np.testing.assert_allclose(other.mean, moments.mean, rtol=1e-5, atol=1e-6)
    assert other.num_videos == moments.num_videos == 30
    assert other.num_nan == moments.num_nan


def test_videos_that_are_not_finite_are_named(tmp_path):
  good = np.ones((2, 3))
  path = write_records(
    tmp_path / "a",
    [
      small_video("a"),
      small_video("b", mean_rgb=[np.nan, 1.0, np.inf]),
      small_video("c", mean_audio=[-np.inf, 1.0]),
      small_frames("d", rgb=good, audio=good),
      small_frames("e", rgb=good * np.nan, audio=good),
    ],
  )
  facts = facts_of(path)
  assert facts.num_not_finite == 3
  assert facts.not_finite == [(0, 1), (0, 2), (0, 4)]
  form = FeatureForm("mean_rgb", "float32", 3, False)
  assert facts.moments[form].num_nan == 1
  assert facts.moments[form].num_infinite == 1


def test_ratings_of_segments(tmp_path):
  rgb = bytes_of(20, 3)
  path = write_records(
    tmp_path / "a",
    [
      segment_record("a", [(0, 1, 1.0), (5, 1, 0.0), (5, 2, 1.0)], rgb=rgb),
      segment_record("b", [(10, 1, 1.0)], rgb=rgb),
    ],
  )
  facts = facts_of(path, 1)
  assert facts.num_segments == 3
  assert facts.ratings == {1: [1, 2], 2: [0, 1]}


def test_damage_is_counted_and_the_rest_is_read(tmp_path):
  path = tmp_path / "a"
  good = small_frames("a", 4)
  write_records(path, [good, good, b"no record", good, good])
  offsets = shards.walk(str(path)).offsets
  content = bytearray(path.read_bytes())
  content[int(offsets[1]) + 40] ^= 1
  path.write_bytes(content[:-5])

  facts = facts_of(str(path), 2)
  assert facts.files[0].num_videos == 2
  assert facts.files[0].damage == {
    "checksum": 1,
    "not an Example": 1,
    "cut off": 1,
  }
  assert facts.files[0].lost_bytes == len(content) - 5 - int(offsets[4])
  firsts = {what: first[:2] for what, first in facts.damage.items()}
  assert firsts == {
    "checksum": (0, 1),
    "not an Example": (0, 2),
    "cut off": (0, 4),
  }


def test_a_disk_that_fails_is_damage(tmp_path, monkeypatch):
  path = write_records(tmp_path / "a", [small_video("a")] * 3)
  read = shards.RecordReader.read

  def fail(self, file, offset, length):
    if offset:
      raise OSError(5, "Input/output error")
    return read(self, file, offset, length)

  def fail_row(self, file, offsets):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(shards.RecordReader, "read", fail)
  monkeypatch.setattr(shards.RecordReader, "read_row", fail_row)
  facts = facts_of(path)
  assert facts.files[0].num_videos == 1
  assert facts.files[0].damage == {"cannot be read": 2}


def test_only_some_kinds_are_told_apart(tmp_path, monkeypatch):
  monkeypatch.setattr(dataset_facts, "_MOST_KINDS", 2)
  path = write_records(
    tmp_path / "a",
    [small_video(str(size), mean_rgb=[1.0] * size) for size in (1, 2, 3, 1, 4)],
  )
  for facts in (facts_of(path), facts_of(path, 1, 2, 3, 4)):
    assert sorted(facts.kinds.values()) == [1, 2, 2]
    assert facts.kinds[()] == 2
    assert facts.files[0].num_videos == 5
    assert len(facts.moments) == 3  # one mean_audio, two mean_rgb
