"""Tests of data_tools.sample_videos."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

import quantization
from data_tools import sample_videos
from data_tools.sample_videos import SampleVideos, Settings

# Of 16 classes two differ only in order and two only in sound.
PAIRS = Settings(num_videos=2500, num_active_classes=16)


@pytest.fixture(scope="module")
def pair_videos():
  """(SampleVideos of PAIRS, all its training videos)."""
  videos = SampleVideos(PAIRS)
  return videos, [videos.video("train", n) for n in range(PAIRS.num_videos)]


def mean_features(videos):
  """Returns (videos, features) float64, each row L2-normalized."""
  means = np.stack(
    [
      quantization.dequantize(video.frames.astype(float)).mean(axis=0)
      for video in videos
    ]
  )
  return means / np.linalg.norm(means, axis=1, keepdims=True)


def find_pair(videos, kind):
  """Returns the first pair of classes of this kind."""
  return next(
    (index, entry.partner)
    for index, entry in enumerate(videos.classes)
    if entry.kind == kind
  )


# Settings, names and records.


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_videos": -1}, "num_videos of at least 0, received -1"),
    ({"num_shards": 0}, "num_shards of at least 1, received 0"),
    ({"seed": -5}, "seed of at least 0, received -5"),
    ({"min_frames": 7}, "min_frames of at least 8, received 7"),
    ({"max_frames": 7}, r"max_frames of at least min_frames \(8\), received 7"),
    (
      {"num_active_classes": 31},
      r"num_active_classes of at most num_classes \(30\), received 31",
    ),
    ({"num_active_classes": 0}, "num_active_classes of at least 1, received 0"),
    ({"levels": ("frames",)}, "levels of frame, .* received 'frames'"),
    ({"levels": ()}, "levels of frame, .* received ''"),
    ({"levels": ("video", "video")}, "received 'video,video'"),
    (
      {"num_videos": 0, "num_validate_videos": 0, "num_test_videos": 0},
      "Expected videos to make",
    ),
  ],
)
def test_bad_settings_are_explained(change, message):
  with pytest.raises(ValueError, match=message):
    Settings(**{"num_classes": 30, "num_active_classes": 20, **change})


def test_class_names_are_unique_words():
  names = [sample_videos.class_name(index) for index in range(10000)]
  assert len(set(names)) == 10000
  assert names[0] == "Amber Accordion"
  assert all(len(name.split()) == 2 for name in names[:3862])


def test_ids_are_four_characters_and_unique_over_the_splits():
  videos = SampleVideos(Settings(num_videos=4_000_000))
  numbers = [*range(100), *range(3_999_900, 4_000_000)]
  chosen = list(itertools.product(sample_videos.SPLITS, numbers))
  # Where a bad permutation of the 62 ** 4 ids would repeat itself.
  for position in range(62**3, 12_000_000, 62**3):
    chosen.append((sample_videos.SPLITS[position % 3], position // 3))
  ids = {videos.video(split, number).id for split, number in chosen}
  assert len(ids) == len(chosen) == 650
  assert {len(video_id) for video_id in ids} == {4}
  assert all(video_id.decode().isalnum() for video_id in ids)


def test_ids_get_a_fifth_character_when_four_are_not_enough():
  # 62 ** 4 ids serve three splits of 4,925,445 videos.
  for num_videos, length in [(4_925_445, 4), (4_925_446, 5)]:
    videos = SampleVideos(Settings(num_videos=num_videos))
    assert len(videos.video("train", 0).id) == length


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 127, 300])
@pytest.mark.parametrize("with_labels", [True, False])
def test_frame_level_record_is_what_protobuf_writes(num_frames, with_labels):
  frames = np.arange(num_frames * 1152, dtype=np.uint64).astype(np.uint8)
  video = sample_videos.Video(
    b"AbC9",
    [0, 127, 128, 3861],
    frames.reshape(num_frames, 1152),
    ratings=[],
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
  assert sample_videos.frame_level_record(
    video, with_labels
  ) == expected.SerializeToString(deterministic=True)


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
  # The index is the rank, except for chance.
  assert np.corrcoef(np.argsort(np.argsort(-counts)), np.arange(200))[0, 1] > (
    0.95
  )
  slope, _ = np.polyfit(np.log(np.arange(1, 101)), np.log(counts[:100]), 1)
  assert -1.3 < slope < -0.6
  # Within a topic too, not only from topic to topic.
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
  classes = sample_videos.plan_classes(num_active_classes)
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
  classes = sample_videos.plan_classes(Settings().num_active_classes)
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


def test_mean_features_do_not_distinguish_order_pairs(pair_videos):
  videos, train = pair_videos
  chosen, is_second = one_of_pair(videos, train, "order")
  features = mean_features(chosen)
  assert 0.4 < split_half_accuracy(features, is_second) < 0.6
  # A difference would be that one of the two scenes takes more time.
  first_scene, second_scene = videos.class_scenes[find_pair(videos, "order")[0]]
  difference = quantization.dequantize(videos.scenes[first_scene].astype(float))
  difference -= quantization.dequantize(
    videos.scenes[second_scene].astype(float)
  )
  shares = features @ difference
  first, second = shares[~is_second], shares[is_second]
  error = np.sqrt(first.var() / len(first) + second.var() / len(second))
  assert abs(first.mean() - second.mean()) < 3 * error
  # The same mean features distinguish other classes.
  chosen, is_second = one_of_pair(videos, train, "sound")
  assert split_half_accuracy(mean_features(chosen), is_second) > 0.8


def test_pictures_do_not_distinguish_sound_pairs(pair_videos):
  chosen, is_second = one_of_pair(*pair_videos, "sound")
  features = mean_features(chosen)[:, :1024]
  assert 0.4 < split_half_accuracy(features, is_second) < 0.6


def test_frames_distinguish_order_pairs(pair_videos):
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
    # Ranks every prediction once; too good in ties, which helps frequencies.
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


# Ratings of segments.


def scenes_of_frames(videos, video):
  """The scene of each frame, found by its features alone.

  A frame is the sum of its scene and of other numbers, none of them below 0 and
  together below 128.
  """
  rest = video.frames[:, None].astype(int) - videos.scenes[None]
  is_possible = ((rest >= 0) & (rest < 128)).all(axis=-1)
  assert (is_possible.sum(axis=1) == 1).all()
  return is_possible.argmax(axis=1)


def test_a_segment_is_rated_by_the_scenes_in_it():
  videos = SampleVideos(
    Settings(num_active_classes=20, min_frames=8, max_frames=23)
  )
  scores = []
  for number in range(30):
    video = videos.video("train", number)
    scenes = scenes_of_frames(videos, video)
    expected = [
      (
        start,
        label,
        float(
          any(
            scene in videos.class_scenes[label]
            for scene in scenes[start : start + 5]
          )
        ),
      )
      for start in range(0, len(scenes), 5)
      for label in video.labels
    ]
    assert video.ratings == expected
    scores += [score for _, _, score in expected]
  # Neither is rare.
  assert 0.25 < np.mean(scores) < 0.75


def test_segment_level_records():
  """Frame-level records with four more lists in the context."""
  videos = SampleVideos(Settings(num_active_classes=20))
  for number in range(5):
    video = videos.video("validate", number)
    record = tf.train.SequenceExample.FromString(
      sample_videos.segment_level_record(video)
    )
    context = record.context.feature
    starts, labels, scores = zip(*video.ratings, strict=True)
    assert tuple(context["segment_start_times"].int64_list.value) == starts
    assert tuple(context["segment_end_times"].int64_list.value) == tuple(
      start + 5 for start in starts
    )
    assert tuple(context["segment_labels"].int64_list.value) == labels
    assert tuple(context["segment_scores"].float_list.value) == scores
    for name in [name for name in context if name.startswith("segment_")]:
      del context[name]
    plain = sample_videos.frame_level_record(video)
    assert record == tf.train.SequenceExample.FromString(plain)
    # The test split has neither labels nor ratings.
    assert sample_videos.segment_level_record(
      video, with_labels=False
    ) == sample_videos.frame_level_record(video, with_labels=False)
