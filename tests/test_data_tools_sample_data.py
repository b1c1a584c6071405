"""Tests of data_tools.sample_data."""

import collections
import csv
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import errors
from data_tools import sample_data
from data_tools.sample_data import SampleVideos, Settings

REPOSITORY = pathlib.Path(__file__).parents[1]
SMALL = Settings(
  num_videos=23,
  num_validate_videos=5,
  num_test_videos=3,
  num_classes=30,
  num_active_classes=20,
  num_shards=4,
  seed=7,
)
# Of 16 classes two differ only in order and two only in sound.
PAIRS = Settings(num_videos=2500, num_active_classes=16)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
  """A data set of SMALL."""
  folder = tmp_path_factory.mktemp("small") / "data"
  sample_data.make_sample_data(str(folder), SMALL)
  return folder


@pytest.fixture(scope="module")
def pair_videos():
  """(SampleVideos of PAIRS, all its training videos)."""
  videos = SampleVideos(PAIRS)
  return videos, [videos.video("train", n) for n in range(PAIRS.num_videos)]


def read_records(folder, level, split):
  """Returns the serialised records of a split, in the order of the files."""
  pattern = sample_data.sample_data_pattern(
    split, level == "frame", str(folder)
  )
  paths = sorted(tf.io.gfile.glob(pattern))
  return [record.numpy() for record in tf.data.TFRecordDataset(paths)]


def file_hashes(folder):
  """Returns {relative path: SHA-256} of all files."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def dequantise(frames):
  return frames * (4 / 255) + 4 / 512 - 2


def mean_features(videos):
  """Returns (videos, features) float64, each row L2-normalised."""
  means = np.stack([dequantise(video.frames).mean(axis=0) for video in videos])
  return means / np.linalg.norm(means, axis=1, keepdims=True)


def find_pair(videos, kind):
  """Returns the first pair of classes of this kind."""
  return next(
    (index, entry.partner)
    for index, entry in enumerate(videos.classes)
    if entry.kind == kind
  )


def run_program(*arguments, script=False):
  """Starts the program as a user would; returns the process."""
  program = (
    ["data_tools/sample_data.py"]
    if script
    else ["-m", "data_tools.sample_data"]
  )
  environment = dict(os.environ)
  # The import of startup set it in this process; a user's shell has it not.
  environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
  return subprocess.Popen(
    [sys.executable, *program, *arguments],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


# Formats.


def test_files(small_folder):
  assert sorted(file_hashes(small_folder)) == sorted(
    [
      f"{level}/{split}{shard:04d}.tfrecord"
      for level in ["frame", "video"]
      for split, shards in [("train", 4), ("validate", 4), ("test", 3)]
      for shard in range(shards)
    ]
    + ["vocabulary.csv", "sample_data.json"]
  )
  assert len(read_records(small_folder, "frame", "train")) == 23
  assert len(read_records(small_folder, "video", "validate")) == 5
  assert json.loads((small_folder / "sample_data.json").read_text()) == {
    "format_version": sample_data.FORMAT_VERSION,
    "num_videos": 23,
    "num_validate_videos": 5,
    "num_test_videos": 3,
    "num_classes": 30,
    "num_active_classes": 20,
    "min_frames": 8,
    "max_frames": 14,
    "num_shards": 4,
    "seed": 7,
    "levels": ["frame", "video"],
  }


@pytest.mark.parametrize("split", sample_data.SPLITS)
def test_frame_level_records(small_folder, split):
  videos = SampleVideos(SMALL)
  keys = {"id"} if split == "test" else {"id", "labels"}
  for number, record in enumerate(read_records(small_folder, "frame", split)):
    example = tf.train.SequenceExample.FromString(record)
    video = videos.video(split, number)
    context = example.context.feature
    assert set(context) == keys
    assert list(context["id"].bytes_list.value) == [video.id]
    if split != "test":
      assert list(context["labels"].int64_list.value) == video.labels
    lists = example.feature_lists.feature_list
    assert set(lists) == {"rgb", "audio"}
    for name, expected in [
      ("rgb", video.frames[:, :1024]),
      ("audio", video.frames[:, 1024:]),
    ]:
      assert [list(f.bytes_list.value) for f in lists[name].feature] == [
        [frame.tobytes()] for frame in expected
      ]


@pytest.mark.parametrize("split", sample_data.SPLITS)
def test_video_level_records_are_the_means_of_the_frames(small_folder, split):
  pairs = zip(
    read_records(small_folder, "frame", split),
    read_records(small_folder, "video", split),
    strict=True,
  )
  for frame_record, video_record in pairs:
    frames = tf.train.SequenceExample.FromString(frame_record)
    feature = tf.train.Example.FromString(video_record).features.feature
    assert set(feature) == {"mean_rgb", "mean_audio"} | set(
      frames.context.feature
    )
    for key in frames.context.feature:
      assert feature[key] == frames.context.feature[key]
    for name, size in [("rgb", 1024), ("audio", 128)]:
      quantised = np.stack(
        [
          np.frombuffer(entry.bytes_list.value[0], np.uint8)
          for entry in frames.feature_lists.feature_list[name].feature
        ]
      )
      mean = feature[f"mean_{name}"].float_list.value
      assert len(mean) == size
      np.testing.assert_allclose(
        mean, dequantise(quantised).mean(axis=0), rtol=0, atol=1e-6
      )


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 127, 300])
@pytest.mark.parametrize("with_labels", [True, False])
def test_frame_level_record_is_what_protobuf_writes(num_frames, with_labels):
  frames = np.arange(num_frames * 1152, dtype=np.uint64).astype(np.uint8)
  video = sample_data.Video(
    b"AbC9", [0, 127, 128, 3861], frames.reshape(num_frames, 1152)
  )
  expected = tf.train.SequenceExample()
  expected.context.feature["id"].bytes_list.value.append(video.id)
  if with_labels:
    labels = expected.context.feature["labels"].int64_list.value
    labels.extend(video.labels)
  for name, features in [
    ("rgb", video.frames[:, :1024]),
    ("audio", video.frames[:, 1024:]),
  ]:
    for frame in features:
      entry = expected.feature_lists.feature_list[name].feature.add()
      entry.bytes_list.value.append(frame.tobytes())
  assert sample_data.frame_level_record(
    video, with_labels
  ) == expected.SerializeToString(deterministic=True)


def test_vocabulary(small_folder):
  with open(small_folder / "vocabulary.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert ",".join(rows[0]) == (
    "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,"
    "Vertical1,Vertical2,Vertical3,WikiDescription"
  )
  assert [row["Index"] for row in rows] == [str(n) for n in range(30)]
  counts = collections.Counter(
    label
    for record in read_records(small_folder, "video", "train")
    for label in tf.train.Example.FromString(record)
    .features.feature["labels"]
    .int64_list.value
  )
  assert [int(row["TrainVideoCount"]) for row in rows] == [
    counts[index] for index in range(30)
  ]
  assert [row["Name"] for row in rows] == [
    sample_data.class_name(index) for index in range(30)
  ]
  assert {row["Vertical1"] for row in rows[20:]} == {"(Unknown)"}
  # 20 classes make 4 topics, named after their general classes.
  assert len({row["Vertical1"] for row in rows[:20]}) == 4
  assert {row["Vertical1"] for row in rows[:20]} < {r["Name"] for r in rows}
  first, second = find_pair(SampleVideos(SMALL), "order")
  assert rows[second]["Name"] in rows[first]["WikiDescription"]


def test_class_names_are_unique_words():
  names = [sample_data.class_name(index) for index in range(10000)]
  assert len(set(names)) == 10000
  assert names[0] == "Amber Accordion"
  assert all(len(name.split()) == 2 for name in names[:3862])


def test_ids_are_four_characters_and_unique_over_the_splits():
  videos = SampleVideos(dataclasses.replace(SMALL, num_videos=4_000_000))
  numbers = [*range(100), *range(3_999_900, 4_000_000)]
  chosen = list(itertools.product(sample_data.SPLITS, numbers))
  # Where a bad permutation of the 62 ** 4 ids would repeat itself.
  for position in range(62**3, 12_000_000, 62**3):
    chosen.append((sample_data.SPLITS[position % 3], position // 3))
  ids = {videos.video(split, number).id for split, number in chosen}
  assert len(ids) == len(chosen) == 650
  assert {len(video_id) for video_id in ids} == {4}
  assert all(video_id.decode().isalnum() for video_id in ids)


def test_ids_get_a_fifth_character_when_four_are_not_enough():
  # 62 ** 4 ids serve three splits of 4,925,445 videos.
  for num_videos, length in [(4_925_445, 4), (4_925_446, 5)]:
    videos = SampleVideos(dataclasses.replace(SMALL, num_videos=num_videos))
    assert len(videos.video("train", 0).id) == length


# Reproducibility.


def test_same_arguments_same_bytes_and_another_seed_others(
  small_folder, tmp_path
):
  sample_data.make_sample_data(str(tmp_path / "again"), SMALL)
  sample_data.make_sample_data(
    str(tmp_path / "other"), dataclasses.replace(SMALL, seed=8)
  )
  hashes = file_hashes(small_folder)
  assert file_hashes(tmp_path / "again") == hashes
  others = file_hashes(tmp_path / "other")
  assert set(others) == set(hashes)
  assert not set(others.values()) & set(hashes.values())


def test_bytes_are_the_known_ones(small_folder):
  """If this fails and should: increase FORMAT_VERSION, then the hash."""
  combined = json.dumps(file_hashes(small_folder), sort_keys=True)
  assert hashlib.sha256(combined.encode()).hexdigest() == (
    "0d4b6f7a5978b57149008ee6e93706938bb72c8ea07a55fa8ba45f39412d58a3"
  )


def test_videos_do_not_depend_on_the_number_of_videos_and_shards(
  small_folder, tmp_path
):
  settings = dataclasses.replace(
    SMALL, num_videos=40, num_shards=1, levels=("frame",)
  )
  sample_data.make_sample_data(str(tmp_path / "more"), settings)
  records = read_records(tmp_path / "more", "frame", "train")
  assert len(records) == 40
  assert records[:23] == read_records(small_folder, "frame", "train")
  assert not (tmp_path / "more" / "video").exists()


# What there is to learn.


def test_frequencies_fall_like_a_power_law():
  settings = Settings(num_active_classes=200)
  videos = SampleVideos(settings)
  num_videos = 6000
  labels = [videos.video("train", n).labels for n in range(num_videos)]
  assert min(map(len, labels)) == 1
  assert 2.7 < sum(map(len, labels)) / num_videos < 3.5
  counts = np.bincount(np.concatenate(labels), minlength=200)
  assert len(counts) == 200
  # The index is the rank, but for chance.
  assert np.corrcoef(np.argsort(np.argsort(-counts)), np.arange(200))[0, 1] > (
    0.95
  )
  slope, _ = np.polyfit(np.log(np.arange(1, 101)), np.log(counts[:100]), 1)
  assert -1.3 < slope < -0.6
  # Of one topic too, not only from topic to topic.
  members = [
    index
    for index, entry in enumerate(videos.classes)
    if entry.topic == 0 and not entry.is_general
  ]
  assert counts[members[0]] > 4 * counts[members[-1]]


def test_general_classes_come_with_the_others_of_their_topic(pair_videos):
  videos, train = pair_videos
  general = next(i for i, c in enumerate(videos.classes) if c.is_general)
  topic = videos.classes[general].topic
  members = {
    index
    for index, entry in enumerate(videos.classes)
    if entry.topic == topic and not entry.is_general
  }
  with_member = [v for v in train if members & set(v.labels)]
  without = [v for v in train if not members & set(v.labels)]
  share_with = np.mean([general in v.labels for v in with_member])
  share_without = np.mean([general in v.labels for v in without])
  assert share_with > 0.7
  assert share_without < 0.3


def test_lengths_vary(pair_videos):
  _, train = pair_videos
  assert {len(video.frames) for video in train} == set(range(8, 15))


@pytest.mark.parametrize("num_active_classes", [1, 2, 3, 5, 16, 60, 3862])
def test_partners_are_of_one_kind(num_active_classes):
  classes = sample_data.plan_classes(num_active_classes)
  assert len(classes) == num_active_classes
  for index, entry in enumerate(classes):
    if entry.kind == "plain":
      assert entry.partner is None
    else:
      partner = classes[entry.partner]
      # The index is the rank: partners are as frequent as each other.
      assert abs(entry.partner - index) == 1
      assert partner == entry._replace(partner=index)
  videos = SampleVideos(Settings(num_active_classes=num_active_classes))
  for number in range(20):
    labels = videos.video("train", number).labels
    assert labels == sorted(set(labels))
    assert 0 <= labels[0] <= labels[-1] < num_active_classes


def test_some_of_the_default_classes_are_of_each_kind():
  classes = sample_data.plan_classes(Settings().num_active_classes)
  kinds = collections.Counter(entry.kind for entry in classes)
  assert kinds == {"plain": 36, "sound": 12, "order": 12}


def test_sound_pairs_look_alike_and_sound_different(pair_videos):
  videos, _ = pair_videos
  first, second = find_pair(videos, "sound")
  (row,), (other,) = (videos.class_scenes[index] for index in (first, second))
  np.testing.assert_array_equal(
    videos.scenes[row, :1024], videos.scenes[other, :1024]
  )
  assert (videos.scenes[row, 1024:] != videos.scenes[other, 1024:]).mean() > 0.9


def one_of_pair(videos, train, kind):
  """Returns (videos of either class, whether it is the second class)."""
  pair = find_pair(videos, kind)
  chosen = [video for video in train if set(pair) & set(video.labels)]
  is_second = np.array([pair[1] in video.labels for video in chosen])
  assert not any(set(pair) <= set(video.labels) for video in chosen)
  assert min(is_second.sum(), (~is_second).sum()) > 100
  return chosen, is_second


def split_half_accuracy(features, is_second):
  """Returns how often a ridge classifier is right on unseen videos."""
  targets = np.where(is_second, 1.0, -1.0)
  half = len(features) // 2
  known, unseen = features[:half], features[half:]
  kernel = known @ known.T + 0.01 * np.eye(half)
  scores = unseen @ known.T @ np.linalg.solve(kernel, targets[:half])
  return ((scores > 0) == is_second[half:]).mean()


def test_mean_features_do_not_tell_order_pairs_apart(pair_videos):
  videos, train = pair_videos
  chosen, is_second = one_of_pair(videos, train, "order")
  features = mean_features(chosen)
  assert 0.4 < split_half_accuracy(features, is_second) < 0.6
  # Where a difference would be: one of the two scenes taking more time.
  first_scene, second_scene = videos.class_scenes[find_pair(videos, "order")[0]]
  difference = dequantise(videos.scenes[first_scene].astype(float))
  difference -= dequantise(videos.scenes[second_scene].astype(float))
  shares = features @ difference
  first, second = shares[~is_second], shares[is_second]
  error = np.sqrt(first.var() / len(first) + second.var() / len(second))
  assert abs(first.mean() - second.mean()) < 3 * error
  # The same mean features do tell other classes apart.
  chosen, is_second = one_of_pair(videos, train, "sound")
  assert split_half_accuracy(mean_features(chosen), is_second) > 0.8


def test_pictures_do_not_tell_sound_pairs_apart(pair_videos):
  chosen, is_second = one_of_pair(*pair_videos, "sound")
  features = mean_features(chosen)[:, :1024]
  assert 0.4 < split_half_accuracy(features, is_second) < 0.6


def test_frames_tell_order_pairs_apart(pair_videos):
  videos, train = pair_videos
  chosen, is_second = one_of_pair(videos, train, "order")
  rows = videos.class_scenes[find_pair(videos, "order")[0]]
  scenes = videos.scenes.astype(float)
  scenes -= scenes.mean(axis=1, keepdims=True)
  for video, reverse in zip(chosen, is_second, strict=True):
    # The scene that a frame is nearest to.
    frames = video.frames.astype(float)
    nearest = (frames @ scenes.T - (scenes**2).sum(axis=1) / 2).argmax(axis=1)
    places = [np.flatnonzero(nearest == row) for row in rows]
    before, after = places[::-1] if reverse else places
    assert before.max() < after.min()


def test_mean_features_predict_labels():
  settings = Settings()
  videos = SampleVideos(settings)

  def load(split):
    chosen = [
      videos.video(split, n) for n in range(settings.num_split_videos(split))
    ]
    labels = np.zeros((len(chosen), settings.num_classes))
    for row, video in enumerate(chosen):
      labels[row, video.labels] = 1
    return mean_features(chosen), labels

  def gap(scores, labels):
    # Every prediction ranked once; too good at ties, which helps frequencies.
    hits = labels.ravel()[np.argsort(-scores.ravel(), kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return (precision * hits).sum() / hits.sum()

  features, labels = load("train")
  unseen, expected = load("validate")
  kernel = features @ features.T + 0.1 * np.eye(len(features))
  frequency = labels.mean(axis=0)
  ridge = frequency + unseen @ features.T @ np.linalg.solve(
    kernel, labels - frequency
  )
  baseline = gap(np.tile(frequency, (len(unseen), 1)), expected)
  assert 0.05 < baseline < 0.2
  assert gap(ridge, expected) > 3 * baseline


# Folders.


def test_an_occupied_folder_is_refused_before_any_work(tmp_path, monkeypatch):
  monkeypatch.delattr(sample_data, "_write_data_set")
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "notes.txt").write_text("keep")
  for make in [
    lambda: sample_data.make_sample_data(str(folder), SMALL),
    lambda: sample_data.ensure_sample_data(str(folder)),
  ]:
    # Every program shows a UserError as one line.
    with pytest.raises(errors.UserError, match=str(folder)) as error:
      make()
    assert isinstance(error.value, ValueError)
  assert [path.name for path in folder.iterdir()] == ["notes.txt"]
  assert os.listdir(tmp_path) == ["mine"]


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path, monkeypatch):
  folder = tmp_path / "mine"
  write = sample_data._write_data_set

  def write_late(partial, settings):
    write(partial, settings)
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")

  monkeypatch.setattr(sample_data, "_write_data_set", write_late)
  with pytest.raises(ValueError, match=str(folder)):
    sample_data.make_sample_data(str(folder), SMALL)
  assert [path.name for path in folder.iterdir()] == ["notes.txt"]
  assert os.listdir(tmp_path) == ["mine"]


def test_another_data_set_is_not_overwritten(small_folder):
  before = file_hashes(small_folder)
  with pytest.raises(ValueError, match="new or an empty folder"):
    sample_data.make_sample_data(
      str(small_folder), dataclasses.replace(SMALL, seed=8)
    )
  assert file_hashes(small_folder) == before


def test_the_same_data_set_is_not_made_again(small_folder):
  inode = (small_folder / "vocabulary.csv").stat().st_ino
  sample_data.make_sample_data(str(small_folder), SMALL)
  assert (small_folder / "vocabulary.csv").stat().st_ino == inode


def test_an_empty_folder_is_filled(tmp_path):
  sample_data.make_sample_data(str(tmp_path), SMALL)
  assert (tmp_path / "sample_data.json").exists()


@pytest.mark.parametrize("name", ["gs://bucket/data", "s3://bucket/data"])
def test_urls_are_refused(name):
  with pytest.raises(ValueError, match="local disk"):
    sample_data.make_sample_data(name, SMALL)


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path))
  with pytest.raises(ValueError, match="mount point: name a folder below"):
    sample_data.make_sample_data(str(tmp_path), SMALL)


def test_a_disk_without_room_is_refused(tmp_path):
  settings = dataclasses.replace(SMALL, num_videos=10**12)
  with pytest.raises(ValueError, match=f"{tmp_path} has .* MB free"):
    sample_data.make_sample_data(str(tmp_path / "data"), settings)
  assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError("disk error")

  monkeypatch.setattr(sample_data, "_write_vocabulary", fail)
  with pytest.raises(OSError, match="disk error"):
    sample_data.make_sample_data(str(tmp_path / "data"), SMALL)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_videos": -1}, "num_videos must be at least 0, got -1"),
    ({"num_shards": 0}, "num_shards must be at least 1, got 0"),
    ({"seed": -5}, "seed must be at least 0, got -5"),
    ({"min_frames": 7}, "min_frames must be at least 8, got 7"),
    ({"max_frames": 7}, r"max_frames must be at least min_frames \(8\), got 7"),
    (
      {"num_active_classes": 31},
      r"num_active_classes must be at most num_classes \(30\), got 31",
    ),
    ({"num_active_classes": 0}, "num_active_classes must be at least 1, got 0"),
    ({"levels": ("frames",)}, "levels must be frame, .* got 'frames'"),
    ({"levels": ()}, "levels must be frame, .* got ''"),
    ({"levels": ("video", "video")}, "got 'video,video'"),
    (
      {"num_videos": 0, "num_validate_videos": 0, "num_test_videos": 0},
      "nothing to make",
    ),
  ],
)
def test_bad_settings_are_explained(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
  ("split", "frame_features", "expected"),
  [
    ("train", True, "/tmp/yt8m_sample_data/frame/train*.tfrecord"),
    ("test", False, "/tmp/yt8m_sample_data/video/test*.tfrecord"),
  ],
)
def test_pattern(split, frame_features, expected):
  assert sample_data.sample_data_pattern(split, frame_features) == expected


def test_pattern_of_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match="got 'eval'"):
    sample_data.sample_data_pattern("eval", True)


# The default data set, made on first use; a small one stands in for it.


@pytest.fixture
def small_default(monkeypatch):
  monkeypatch.setattr(sample_data, "DEFAULT_SETTINGS", SMALL)


@pytest.mark.usefixtures("small_default")
def test_the_default_data_set_is_made_once(tmp_path, small_folder):
  folder = tmp_path / "deep" / "default"
  assert sample_data.ensure_sample_data(str(folder)) == str(folder)
  assert file_hashes(folder) == file_hashes(small_folder)
  inode = folder.stat().st_ino
  assert sample_data.ensure_sample_data(str(folder)) == str(folder)
  assert folder.stat().st_ino == inode
  assert os.listdir(folder.parent) == ["default"]


def remove_a_shard(folder):
  (folder / "video" / "test0000.tfrecord").unlink()


def make_it_older(folder):
  description = json.loads((folder / "sample_data.json").read_text())
  description["format_version"] = 0
  (folder / "sample_data.json").write_text(json.dumps(description))
  (folder / "frame" / "train9999.tfrecord").write_bytes(b"")


@pytest.mark.usefixtures("small_default")
@pytest.mark.parametrize("spoil", [remove_a_shard, make_it_older])
def test_an_older_or_incomplete_default_data_set_is_replaced(
  tmp_path, small_folder, spoil
):
  folder = tmp_path / "default"
  sample_data.ensure_sample_data(str(folder))
  spoil(folder)
  assert file_hashes(folder) != file_hashes(small_folder)
  sample_data.ensure_sample_data(str(folder))
  assert file_hashes(folder) == file_hashes(small_folder)
  assert os.listdir(tmp_path) == ["default"]


@pytest.mark.usefixtures("small_default")
@pytest.mark.parametrize("is_older_there", [False, True])
def test_the_loser_of_a_race_uses_what_the_winner_made(
  tmp_path, monkeypatch, is_older_there
):
  folder = tmp_path / "default"
  if is_older_there:
    sample_data.ensure_sample_data(str(folder))
    make_it_older(folder)
  write = sample_data._write_data_set
  winner = []

  def write_after_another(partial, settings):
    monkeypatch.setattr(sample_data, "_write_data_set", write)
    sample_data.ensure_sample_data(str(folder))
    winner.append(folder.stat().st_ino)
    write(partial, settings)

  monkeypatch.setattr(sample_data, "_write_data_set", write_after_another)
  sample_data.ensure_sample_data(str(folder))
  assert [folder.stat().st_ino] == winner
  assert os.listdir(tmp_path) == ["default"]


# Two processes that meet before each call: the folder is missing, then older.
_RACER = """
import os, sys, time
from data_tools import sample_data
parent, name, other = sys.argv[1:]
def meet(point):
  open(f"{parent}/{point}.{name}", "w").close()
  while not os.path.exists(f"{parent}/{point}.{other}"):
    time.sleep(0.0005)
for point in ["new", "older"]:
  meet(point)
  folder = sample_data.ensure_sample_data(f"{parent}/{point}_data")
  for split in sample_data.SPLITS:
    pattern = sample_data.sample_data_pattern(split, True, folder)
    assert len(sample_data.tf.io.gfile.glob(pattern)) == 4
"""


def test_two_processes_make_one_default_data_set(tmp_path):
  older = tmp_path / "older_data"
  sample_data.make_sample_data(str(older), SMALL)
  racers = [
    subprocess.Popen(
      [sys.executable, "-c", _RACER, str(tmp_path), *names],
      cwd=REPOSITORY,
      stderr=subprocess.PIPE,
      text=True,
    )
    for names in [("a", "b"), ("b", "a")]
  ]
  for racer in racers:
    _, errors = racer.communicate(timeout=60)
    assert racer.returncode == 0, errors
  assert sorted(os.listdir(tmp_path)) == [
    "new.a",
    "new.b",
    "new_data",
    "older.a",
    "older.b",
    "older_data",
  ]
  hashes = file_hashes(tmp_path / "new_data")
  assert len(hashes) == 2 * 3 * 4 + 2
  assert file_hashes(older) == hashes


# The program.


def test_program_makes_what_its_flags_say(tmp_path, small_folder):
  arguments = [
    f"--{name}={','.join(value) if name == 'levels' else value}"
    for name, value in dataclasses.asdict(SMALL).items()
  ]
  programs = [
    run_program(f"--output_dir={tmp_path / name}", *arguments, script=script)
    for name, script in [("module", False), ("script", True)]
  ]
  for program in programs:
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    assert "Traceback" not in errors
  for name in ["module", "script"]:
    assert file_hashes(tmp_path / name) == file_hashes(small_folder)


def test_bad_flags_end_in_one_line(tmp_path):
  programs = [
    (run_program(), "--output_dir is required"),
    (
      run_program(f"--output_dir={tmp_path / 'x'}", "--min_frames=3"),
      "min_frames must be at least 8, got 3",
    ),
  ]
  for program, message in programs:
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
  assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_the_data(tmp_path):
  def peak_memory(num_videos):
    """Returns the bytes that Python and NumPy held at most."""
    settings = Settings(num_videos=num_videos, min_frames=200, max_frames=300)
    tracemalloc.start()
    sample_data.make_sample_data(str(tmp_path / str(num_videos)), settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak

  # 70 MB more on the disk.
  assert peak_memory(270) - peak_memory(20) < 3e6


def test_importing_defines_no_flags():
  assert "num_active_classes" not in flags.FLAGS


def test_a_stopped_program_leaves_no_half_data_set(tmp_path):
  stopped = {
    number: run_program(
      f"--output_dir={tmp_path / number.name}",
      "--num_videos=6000",
      "--min_frames=300",
      "--max_frames=300",
    )
    for number in [signal.SIGKILL, signal.SIGTERM]
  }
  errors = {}
  for number, program in stopped.items():
    # The file is there as soon as its first video is made.
    pattern = f"{number.name}.partial-*/frame/train0000.tfrecord"
    while not list(tmp_path.glob(pattern)):
      assert program.poll() is None, program.communicate()
      time.sleep(0.01)
    program.send_signal(number)
    _, errors[number] = program.communicate(timeout=60)
  assert stopped[signal.SIGKILL].returncode == -signal.SIGKILL
  assert stopped[signal.SIGTERM].returncode == 1
  assert errors[signal.SIGTERM].splitlines()[-1] == (
    "ERROR: stopped by SIGTERM; what was written is removed."
  )
  # A process that is killed outright cannot remove anything, but what it wrote
  # does not have the name of a data set.
  (left,) = tmp_path.iterdir()
  assert left.name.startswith("SIGKILL.partial-")
