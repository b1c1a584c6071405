"""Makes videos in the YouTube-8M format that are worth learning.

Nothing in them comes from YouTube: pictures and sounds are random numbers with
a structure that a model can learn. See data_tools/sample_data.py for the files.

The structure: a class belongs to a topic. Each topic has one general class that
often comes with its specific classes, as "Game" does. The class index is the
rank by expected frequency, which falls like a power law. A video is a sequence
of scenes, each a run of similar frames. Every label adds at least one scene;
background scenes are added between them. Most classes have a unique picture and
sound. Some pairs of classes share the picture and differ only in sound. Some
pairs show the same two scenes in opposite order, so that no model on the mean
frame can distinguish them.

The same arguments give the same bytes on every machine with the same NumPy:
features are integers, and means are computed from exact sums, element by
element. The number of videos and shards does not change a video.
"""

import bisect
import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import errors
import quantization

# Increase it when the same arguments give different bytes.
FORMAT_VERSION = 1
SPLITS = ("train", "validate", "test")
LEVELS = ("frame", "video", "segment")
RGB_SIZE = 1024
AUDIO_SIZE = 128
SEGMENT_FRAMES = 5  # of a rated segment, one a second
# How many scenes the labels of one video need at most; each needs a frame.
MAX_LABEL_SCENES = 8

# The random streams besides those of the splits, which are 0, 1 and 2.
_SCENE_STREAM = 3
_NOISE_STREAM = 4

# A feature value is the sum of four random bytes, each from [0, width): one for
# the topic, one for the scene, one for the video and one for the frame. The
# largest possible sum is 255, so nothing has to be clipped. Scenes differ more
# in sound than in picture, because sound has few features.
_FEATURE_SIZES = (RGB_SIZE, AUDIO_SIZE)
_TOPIC_WIDTHS = np.repeat(np.array([40, 20], np.uint8), _FEATURE_SIZES)
_SCENE_WIDTHS = np.repeat(np.array([90, 140], np.uint8), _FEATURE_SIZES)
_VIDEO_WIDTHS = np.repeat(np.array([50, 20], np.uint8), _FEATURE_SIZES)
_FRAME_WIDTH = 79

_NUM_BACKGROUND_SCENES = 12
_NOISE_POSITIONS = 1 << 22
_FRAMES_PER_EXTRA_SCENE = 32

_ID_CHARACTERS = (
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
_ADJECTIVES = (  # noqa: SIM905 (64 lines as a list)
  "Amber Ancient Arctic Autumn Bold Brass Bright Bronze Calm Carved Cedar "
  "Clever Copper Coral Cosmic Crimson Crystal Curious Dancing Desert Distant "
  "Electric Emerald Endless Floating Flying Folded Forest Frozen Gentle Giant "
  "Golden Hidden Hollow Humble Indigo Iron Ivory Jolly Lively Lunar Marble "
  "Midnight Misty Modern Mountain Paper Patient Polar Quiet Rapid River Royal "
  "Rustic Scarlet Silent Silver Solar Spiral Velvet Wandering Wild Winter "
  "Wooden"
).split()
_NOUNS = (  # noqa: SIM905 (64 lines as a list)
  "Accordion Airship Anchor Aquarium Bakery Balloon Bicycle Bridge Cabin "
  "Camera Canoe Carousel Castle Cello Chess Clock Compass Comet Drum Falcon "
  "Ferry Festival Fountain Garden Glider Guitar Harbor Hockey Island Jigsaw "
  "Juggler Kayak Kite Kitchen Lantern Library Lighthouse Locomotive Mandolin "
  "Market Marathon Meadow Orchard Orchestra Parade Penguin Piano Puppet Rally "
  "Robot Rocket Sailboat Skater Sled Stadium Tailor Telescope Theater Tractor "
  "Trumpet Volcano Waterfall Windmill Workshop"
).split()


class SampleDataError(errors.UserError, ValueError):
  """An argument or a folder cannot be used."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """The arguments that decide every byte of a data set.

  Attributes:
    num_videos: videos in the train split; 0 writes no such split.
    num_validate_videos: videos in the validate split; 0 as above.
    num_test_videos: videos in the test split; 0 as above.
    num_classes: rows of the vocabulary.
    num_active_classes: classes that occur, 0 to num_active_classes - 1.
    min_frames: fewest frames (seconds) of a video, at least MAX_LABEL_SCENES.
    max_frames: most frames of a video.
    num_shards: files that each split is cut into, at most one for each video.
    seed: any integer from 0.
    levels: what is written, some of LEVELS. Records of "segment" are those of
      "frame" with ratings of the segments.

  Raises:
    SampleDataError: if a value is out of range.
  """

  num_videos: int = 480
  num_validate_videos: int = 120
  num_test_videos: int = 60
  num_classes: int = 3862
  num_active_classes: int = 60
  min_frames: int = 8
  max_frames: int = 14
  num_shards: int = 4
  seed: int = 0
  levels: tuple[str, ...] = ("frame", "video")

  def __post_init__(self):
    for name, least in [
      ("num_videos", 0),
      ("num_validate_videos", 0),
      ("num_test_videos", 0),
      ("num_classes", 1),
      ("num_active_classes", 1),
      ("min_frames", MAX_LABEL_SCENES),
      ("num_shards", 1),
      ("seed", 0),
    ]:
      value = getattr(self, name)
      if value < least:
        raise SampleDataError(
          f"Expected {name} of at least {least}, received {value}. Raise it."
        )
    if self.max_frames < self.min_frames:
      raise SampleDataError(
        f"Expected max_frames of at least min_frames ({self.min_frames}),"
        f" received {self.max_frames}. Raise max_frames or lower min_frames."
      )
    if self.num_active_classes > self.num_classes:
      raise SampleDataError(
        f"Expected num_active_classes of at most num_classes"
        f" ({self.num_classes}), received {self.num_active_classes}. Lower"
        " num_active_classes or raise num_classes."
      )
    if not any(self.num_split_videos(split) for split in SPLITS):
      raise SampleDataError(
        "Expected videos to make, received 0 for num_videos,"
        " num_validate_videos and num_test_videos. Raise at least one of them."
      )
    if (
      not self.levels
      or set(self.levels) - set(LEVELS)
      or len(set(self.levels)) < len(self.levels)
    ):
      raise SampleDataError(
        f"Expected levels of {', '.join(LEVELS)}, or several with commas"
        f" between them, received {','.join(self.levels)!r}. Name each once."
      )

  def num_split_videos(self, split: str) -> int:
    """Returns how many videos a split, one of SPLITS, has."""
    return {
      "train": self.num_videos,
      "validate": self.num_validate_videos,
      "test": self.num_test_videos,
    }[split]


class SampleClass(NamedTuple):
  """What distinguishes a class from the others.

  Attributes:
    topic: number of its topic, 0 being the most frequent.
    is_general: whether it is the general class of its topic.
    kind: what is unique: "plain" for picture and sound, "sound" for only the
      sound, "order" for only the order of its two scenes.
    partner: index of the class that shares the rest; None if plain.
  """

  topic: int
  is_general: bool
  kind: str
  partner: int | None


class Video(NamedTuple):
  """One video.

  Attributes:
    id: a name that is unique in the data set, ASCII bytes.
    labels: class indices, ascending.
    frames: (num_frames, RGB_SIZE + AUDIO_SIZE) uint8, quantized, rgb first.
    ratings: (start time in seconds, class, score) of each segment for each
      label; the score is 1.0 if a scene of the class is in the segment.
  """

  id: bytes
  labels: list[int]
  frames: np.ndarray
  ratings: list[tuple[int, int, float]]


def plan_classes(num_active_classes: int) -> list[SampleClass]:
  """Returns the classes of a data set, most frequent first.

  The seed does not matter: the classes are of the same kinds for all seeds.

  Args:
    num_active_classes: how many classes occur.
  """
  num_topics = math.isqrt(num_active_classes)
  # (expected frequency up to a factor, topic, number in the topic, kind). The
  # kinds alternate, two members at a time, because partners must be equally
  # frequent.
  classes = []
  for topic in range(num_topics):
    classes.append((_topic_weight(topic), topic, -1, "plain"))
    num_members = len(range(num_topics + topic, num_active_classes, num_topics))
    all_weights = sum(map(_member_weight, range(num_members)))
    for member in range(num_members):
      has_partner = (member ^ 1) < num_members
      kind = ("plain", "order", "plain", "sound")[(member // 2 + topic) % 4]
      classes.append(
        (
          # There are about two specific labels for each general one.
          2 * _topic_weight(topic) * _member_weight(member) // all_weights,
          topic,
          member,
          kind if has_partner else "plain",
        )
      )
  classes.sort(key=lambda entry: (-entry[0], *entry[1:3]))
  index_of = {entry[1:3]: index for index, entry in enumerate(classes)}
  return [
    SampleClass(
      topic,
      is_general=member < 0,
      kind=kind,
      partner=None if kind == "plain" else index_of[topic, member ^ 1],
    )
    for _, topic, member, kind in classes
  ]


class SampleVideos:
  """All videos of a data set, each made on request.

  Holds the scenes and a table of noise: a few MB for any number of videos.
  """

  def __init__(self, settings: Settings):
    self.settings = settings
    self.classes = plan_classes(settings.num_active_classes)
    # (scenes, RGB_SIZE + AUDIO_SIZE) uint8, and the rows of it that each class
    # shows, in order.
    self.scenes, self.class_scenes = _make_scenes(self.classes, settings.seed)
    self._generals = [
      index for index, entry in enumerate(self.classes) if entry.is_general
    ]
    self._members = [[] for _ in self._generals]
    for index, entry in enumerate(self.classes):
      if not entry.is_general:
        self._members[entry.topic].append(index)
    self._topic_steps = _cumulative(
      map(_topic_weight, range(len(self._members)))
    )
    self._member_steps = [
      _cumulative(_member_weight(member) for member in range(len(members)))
      for members in self._members
    ]
    # New noise for each video would take most of the time. Instead, each video
    # takes the noise of its frames from a different position of this table.
    self._noise = _random_stream(settings.seed, _NOISE_STREAM).integers(
      _FRAME_WIDTH,
      size=_NOISE_POSITIONS + settings.max_frames * self.scenes.shape[1],
      dtype=np.uint8,
    )
    self._id_length = 4
    most_videos = max(settings.num_split_videos(split) for split in SPLITS)
    while len(_ID_CHARACTERS) ** self._id_length < most_videos * len(SPLITS):
      self._id_length += 1

  def video(self, split: str, number: int) -> Video:
    """Makes one video, always the same for the same arguments.

    Args:
      split: one of SPLITS.
      number: the video's number in its split, from 0.
    """
    stream = SPLITS.index(split)
    random = _random_stream(self.settings.seed, stream, number)
    num_frames = int(
      random.integers(self.settings.min_frames, self.settings.max_frames + 1)
    )
    labels = self._draw_labels(random)
    scenes = self._draw_scenes(random, labels, num_frames)
    # Every way to cut the video into this number of runs is equally likely. So
    # a scene has the same mean length in every position; otherwise its share of
    # the mean frame would reveal what came first.
    cuts = 1 + random.permutation(num_frames - 1)[: len(scenes) - 1]
    starts = [0, *sorted(cuts.tolist()), num_frames]

    feature_size = self.scenes.shape[1]
    position = int(random.integers(_NOISE_POSITIONS))
    noise = self._noise[position : position + num_frames * feature_size]
    frames = noise.reshape(num_frames, feature_size).copy()
    offset = random.integers(_VIDEO_WIDTHS, dtype=np.uint8)
    scene_of_frame = np.repeat(scenes, np.diff(starts))
    for scene, (start, end) in zip(
      scenes, itertools.pairwise(starts), strict=True
    ):
      frames[start:end] += self.scenes[scene] + offset
    video_id = self._video_id(number * len(SPLITS) + stream)
    ratings = self._rate(labels, scene_of_frame)
    return Video(video_id, labels, frames, ratings)

  def _rate(self, labels, scene_of_frame):
    """Returns the ratings of a video, see Video."""
    starts = range(0, len(scene_of_frame), SEGMENT_FRAMES)
    is_shown = [
      np.logical_or.reduceat(
        np.isin(scene_of_frame, self.class_scenes[label]), starts
      ).tolist()
      for label in labels
    ]
    return [
      (start, label, float(of_label[number]))
      for number, start in enumerate(starts)
      for label, of_label in zip(labels, is_shown, strict=True)
    ]

  def _draw_labels(self, random):
    """Returns class indices, ascending: what one video is about."""
    labels = []

    def add(index):
      # Both classes of a pair would show the same scenes twice.
      taken = index in labels or self.classes[index].partner in labels
      scenes = sum(len(self.class_scenes[label]) for label in [*labels, index])
      if not taken and scenes <= MAX_LABEL_SCENES:
        labels.append(index)

    topic = _draw(random, self._topic_steps)
    num_draws = int(random.integers(5)) if self._members[topic] else 0
    for _ in range(num_draws):
      add(self._draw_member(random, topic))
    if num_draws == 0 or random.integers(8) > 0:
      add(self._generals[topic])
    # Some videos touch a second topic, sometimes without its general class.
    if random.integers(8) < 3:
      topic = _draw(random, self._topic_steps)
      if self._members[topic]:
        add(self._draw_member(random, topic))
      if random.integers(2):
        add(self._generals[topic])
    return sorted(labels)

  def _draw_member(self, random, topic):
    return self._members[topic][_draw(random, self._member_steps[topic])]

  def _draw_scenes(self, random, labels, num_frames):
    """Returns the scenes of a video, rows of self.scenes, in their order."""
    shown = [self.class_scenes[label] for label in labels]
    # The scenes of an order class are not repeated: which of the two comes
    # first must hold for the whole video.
    repeatable = [scenes for scenes in shown if len(scenes) == 1]
    num_extra = int(random.integers(3)) + num_frames // _FRAMES_PER_EXTRA_SCENE
    for _ in range(min(num_extra, num_frames - sum(map(len, shown)))):
      if repeatable and random.integers(2):
        shown.append(repeatable[random.integers(len(repeatable))])
      else:
        background = int(random.integers(_NUM_BACKGROUND_SCENES))
        shown.append((len(self.scenes) - 1 - background,))
    order = random.permutation(len(shown)).tolist()
    return [scene for position in order for scene in shown[position]]

  def _video_id(self, number):
    """Returns an id for each number, never the same for two."""
    base = len(_ID_CHARACTERS)
    # The factor is coprime to powers of 62, so this permutes the numbers and
    # makes ids of neighbors look different.
    number = (number * 6700417 + 5000011) % base**self._id_length
    characters = []
    for _ in range(self._id_length):
      number, digit = divmod(number, base)
      characters.append(_ID_CHARACTERS[digit])
    return "".join(characters).encode()


def class_name(index: int) -> str:
  """Returns the name of a class, the same in every data set.

  Args:
    index: class index, from 0; no two classes have the same name.
  """
  count, remainder = divmod(index, len(_ADJECTIVES) * len(_NOUNS))
  row, column = divmod(remainder, len(_ADJECTIVES))
  # The noun changes with the adjective, so that the most frequent classes
  # differ in both words.
  noun = _NOUNS[(row + column) % len(_NOUNS)]
  suffix = f" {count + 1}" if count else ""
  return f"{_ADJECTIVES[column]} {noun}{suffix}"


def frame_level_record(
  video: Video, with_labels: bool = True, with_ratings: bool = False
) -> bytes:
  """Returns the serialized tf.train.SequenceExample of a video.

  The frames are serialized here instead of by protobuf, which processes them
  one by one and takes several times as long.

  Args:
    video: the video.
    with_labels: False omits the key `labels`, as in a test split.
    with_ratings: adds the ratings of segments.
  """
  context = tf.train.SequenceExample()
  _fill(context.context, video, with_labels)
  if with_ratings:
    _fill_ratings(context.context, video)
  parts = []
  # Deterministic serialization sorts the keys of a map.
  for name, first, size in [
    (b"audio", RGB_SIZE, AUDIO_SIZE),
    (b"rgb", 0, RGB_SIZE),
  ]:
    # Feature.bytes_list, BytesList.value; the innermost first.
    header = _header(1, size)
    header = _header(1, len(header) + size) + header
    header = _header(1, len(header) + size) + header
    rows = np.empty((len(video.frames), len(header) + size), np.uint8)
    rows[:, : len(header)] = np.frombuffer(header, np.uint8)
    rows[:, len(header) :] = video.frames[:, first : first + size]
    entry = _header(1, len(name)) + name + _header(2, rows.size)
    parts += [_header(1, len(entry) + rows.size) + entry, rows.tobytes()]
  feature_lists = _header(2, sum(map(len, parts)))
  return b"".join(
    [context.SerializeToString(deterministic=True), feature_lists, *parts]
  )


def segment_level_record(video: Video, with_labels: bool = True) -> bytes:
  """Returns a frame_level_record with ratings of its segments.

  Args:
    video: the video.
    with_labels: False omits labels and ratings, as in a test split.
  """
  return frame_level_record(video, with_labels, with_ratings=with_labels)


def video_level_record(video: Video, with_labels: bool = True) -> bytes:
  """Returns the serialized tf.train.Example of a video.

  Args:
    video: the video.
    with_labels: False omits the key `labels`, as in a test split.
  """
  example = tf.train.Example()
  _fill(example.features, video, with_labels)
  # An exact sum and elementwise operations: the same result on all machines.
  sums = video.frames.sum(axis=0, dtype=np.uint32).astype(np.float64)
  means = quantization.dequantize(sums / len(video.frames))
  feature = example.features.feature
  feature["mean_rgb"].float_list.value.extend(means[:RGB_SIZE])
  feature["mean_audio"].float_list.value.extend(means[RGB_SIZE:])
  return example.SerializeToString(deterministic=True)


def _topic_weight(topic):
  """Returns the weight of a topic: integers, so that all machines agree."""
  return 720720 // (topic + 2)


def _member_weight(member):
  """Returns the weight of a class in its topic; partners have the same."""
  return 720720 // (member // 2 + 1)


def _cumulative(weights):
  return list(itertools.accumulate(weights))


def _draw(random, steps):
  """Returns a random index; `steps` are the cumulative sums of the weights."""
  return bisect.bisect_right(steps, int(random.integers(steps[-1])))


def _random_stream(seed, *numbers):
  """Returns a generator that is independent of the seed's other streams."""
  return np.random.Generator(np.random.PCG64([seed, *numbers]))


def _make_scenes(classes, seed):
  """Returns the scenes, and for each class the rows that it shows.

  Returns:
    (scenes, RGB_SIZE + AUDIO_SIZE) uint8 with the background scenes last, and a
    list with a tuple of one or two row numbers for each class.
  """
  random = _random_stream(seed, _SCENE_STREAM)
  num_topics = 1 + max(entry.topic for entry in classes)
  topics = [
    random.integers(_TOPIC_WIDTHS, dtype=np.uint8) for _ in range(num_topics)
  ]
  scenes = []

  def add_scene(topic):
    own = random.integers(_SCENE_WIDTHS, dtype=np.uint8)
    scenes.append(topics[topic] + own)
    return len(scenes) - 1

  class_scenes = []
  for index, entry in enumerate(classes):
    partner = index if entry.partner is None else entry.partner
    is_second = partner < index
    if entry.kind == "order" and is_second:
      class_scenes.append(class_scenes[partner][::-1])
    elif entry.kind == "order":
      class_scenes.append((add_scene(entry.topic), add_scene(entry.topic)))
    else:
      class_scenes.append((add_scene(entry.topic),))
      if is_second:
        (shared,) = class_scenes[partner]
        scenes[-1][:RGB_SIZE] = scenes[shared][:RGB_SIZE]
  for _ in range(_NUM_BACKGROUND_SCENES):
    add_scene(int(random.integers(num_topics)))
  return np.stack(scenes), class_scenes


def _header(field, size):
  """Returns the protobuf tag and length of a field that holds bytes."""
  header = bytearray([field << 3 | 2])
  while size > 127:
    header.append(size & 127 | 128)
    size >>= 7
  header.append(size)
  return bytes(header)


def _fill(features, video, with_labels):
  """Sets the id and the labels in a tf.train.Features."""
  features.feature["id"].bytes_list.value.append(video.id)
  if with_labels:
    features.feature["labels"].int64_list.value.extend(video.labels)


def _fill_ratings(features, video):
  """Sets the ratings of segments in a tf.train.Features."""
  starts, labels, scores = zip(*video.ratings, strict=True)
  feature = features.feature
  feature["segment_start_times"].int64_list.value.extend(starts)
  feature["segment_end_times"].int64_list.value.extend(
    start + SEGMENT_FRAMES for start in starts
  )
  feature["segment_labels"].int64_list.value.extend(labels)
  feature["segment_scores"].float_list.value.extend(scores)
