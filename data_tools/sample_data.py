"""Makes a data set in the YouTube-8M format that is worth learning.

Nothing in it comes from YouTube: pictures and sounds are random numbers with a
structure that a model can find. It serves to try every script without a
download, and, made large, to measure how fast data is read.

  python -m data_tools.sample_data --output_dir=/tmp/my_data

writes below output_dir

  frame/train0000.tfrecord ...  frame-level records, also validate and test
  video/train0000.tfrecord ...  video-level records of the same videos
  vocabulary.csv                the class names, in the official columns
  sample_data.json              the arguments that made the data

What there is to learn. A class belongs to a topic, and each topic has one
general class that accompanies its specific ones, as "Game" does. The class
index is the rank by expected frequency, which falls like a power law. A video
is a sequence of scenes, each a run of like frames: every label brings at least
one, and background scenes lie between them. Most classes have a picture and a
sound of their own; some pairs of classes share the picture and differ only in
sound; and some pairs show the same two scenes in opposite order, so that no
model of averaged frames can tell them apart.

The same arguments give the same bytes on every machine with the same NumPy:
features are integers, and a mean is made from an exact sum, element by element.
How many videos and shards there are does not change a video.
"""

import bisect
import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import math
import os
import secrets
import shutil
import signal
import sys
import time
from typing import NamedTuple

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags, logging

import errors

DEFAULT_FOLDER = "/tmp/yt8m_sample_data"
FORMAT_VERSION = 1  # Increase it whenever the same arguments give other bytes.
SPLITS = ("train", "validate", "test")
LEVELS = ("frame", "video")
RGB_SIZE = 1024
AUDIO_SIZE = 128
# The most scenes that labels need in one video; each needs a frame.
MAX_LABEL_SCENES = 8

# The random streams besides those of the splits, which are 0, 1 and 2.
_SCENE_STREAM = 3
_NOISE_STREAM = 4

# A feature value is the sum of four random bytes, each from [0, width): one for
# the topic, one for the scene, one for the video and one for the frame. The
# greatest possible sum is 255, so that nothing has to be clipped. Sound is
# clearer than picture, or its few features would be lost beside the others.
_FEATURE_SIZES = (RGB_SIZE, AUDIO_SIZE)
_TOPIC_WIDTHS = np.repeat(np.uint8([40, 20]), _FEATURE_SIZES)
_SCENE_WIDTHS = np.repeat(np.uint8([90, 140]), _FEATURE_SIZES)
_VIDEO_WIDTHS = np.repeat(np.uint8([50, 20]), _FEATURE_SIZES)
_FRAME_WIDTH = 79

_NUM_BACKGROUND_SCENES = 12
_NOISE_POSITIONS = 1 << 22
_FRAMES_PER_EXTRA_SCENE = 32
_PROGRESS_SECONDS = 5.0

_ID_CHARACTERS = (
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
_DESCRIPTION_FILE = "sample_data.json"
_VOCABULARY_HEADER = (
  "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,"
  "Vertical1,Vertical2,Vertical3,WikiDescription\n"
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
  """An argument or a folder that cannot be used; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """The arguments that decide every byte of a data set.

  Attributes:
    num_videos: videos in the train split; 0 writes no such split.
    num_validate_videos: videos in the validate split, likewise.
    num_test_videos: videos in the test split, likewise.
    num_classes: rows of the vocabulary.
    num_active_classes: classes that occur, 0 to num_active_classes - 1.
    min_frames: fewest frames (seconds) of a video, at least MAX_LABEL_SCENES.
    max_frames: most frames of a video.
    num_shards: files that each split is cut into, at most one a video.
    seed: any integer from 0.
    levels: what is written, "frame", "video" or both.

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
  levels: tuple[str, ...] = LEVELS

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
      if getattr(self, name) < least:
        raise SampleDataError(
          f"{name} must be at least {least}, got {getattr(self, name)}."
        )
    if self.max_frames < self.min_frames:
      raise SampleDataError(
        f"max_frames must be at least min_frames ({self.min_frames}), got "
        f"{self.max_frames}: raise the one or lower the other."
      )
    if self.num_active_classes > self.num_classes:
      raise SampleDataError(
        f"num_active_classes must be at most num_classes "
        f"({self.num_classes}), got {self.num_active_classes}."
      )
    if not any(self.num_split_videos(split) for split in SPLITS):
      raise SampleDataError(
        "there is nothing to make, got 0 for num_videos, num_validate_videos "
        "and num_test_videos: give at least one of them."
      )
    if (
      not self.levels
      or set(self.levels) - set(LEVELS)
      or len(set(self.levels)) < len(self.levels)
    ):
      raise SampleDataError(
        f"levels must be frame, video or frame,video, got "
        f"{','.join(self.levels)!r}."
      )

  def num_split_videos(self, split: str) -> int:
    """Returns how many videos a split, one of SPLITS, has."""
    return {
      "train": self.num_videos,
      "validate": self.num_validate_videos,
      "test": self.num_test_videos,
    }[split]


DEFAULT_SETTINGS = Settings()


class SampleClass(NamedTuple):
  """What sets one class apart from the others.

  Attributes:
    topic: number of its topic, 0 being the most frequent.
    is_general: whether it is the class that accompanies its topic's others.
    kind: "plain" (picture and sound are its own), "sound" (only the sound is)
      or "order" (neither: only the order of its two scenes is).
    partner: index of the class that it shares the rest with; None if plain.
  """

  topic: int
  is_general: bool
  kind: str
  partner: int | None


class Video(NamedTuple):
  """One video.

  Attributes:
    id: the name that is unique in the data set, ASCII bytes.
    labels: class indices, ascending.
    frames: (num_frames, RGB_SIZE + AUDIO_SIZE) uint8, quantised, rgb first.
  """

  id: bytes
  labels: list[int]
  frames: np.ndarray


def plan_classes(num_active_classes: int) -> list[SampleClass]:
  """Returns the classes of a data set, most frequent first.

  It depends on nothing else: the classes are of the same kinds for any seed.

  Args:
    num_active_classes: how many classes occur.
  """
  num_topics = math.isqrt(num_active_classes)
  # (expected frequency up to a factor, topic, number in the topic, kind); the
  # kinds take turns, two members at a time because partners must be equally
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
          # There are about two specific labels to a general one.
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
  """All videos of a data set, each made when it is asked for.

  Holds the scenes and a table of noise: some MB, however many videos there are.
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
    # Fresh noise for each video would take most of the time. Videos take their
    # frames' noise from this table instead, each from another position.
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
    # Every way to cut the video into that many runs is equally likely: a scene
    # is as long on average in any place, or its share of the mean would tell
    # what came first.
    cuts = 1 + random.permutation(num_frames - 1)[: len(scenes) - 1]
    starts = [0, *sorted(cuts.tolist()), num_frames]

    feature_size = self.scenes.shape[1]
    position = int(random.integers(_NOISE_POSITIONS))
    noise = self._noise[position : position + num_frames * feature_size]
    frames = noise.reshape(num_frames, feature_size).copy()
    offset = random.integers(_VIDEO_WIDTHS, dtype=np.uint8)
    for scene, (start, end) in zip(
      scenes, itertools.pairwise(starts), strict=True
    ):
      frames[start:end] += self.scenes[scene] + offset
    video_id = self._video_id(number * len(SPLITS) + stream)
    return Video(video_id, labels, frames)

  def _draw_labels(self, random):
    """Returns class indices, ascending: what one video is about."""
    labels = []

    def add(index):
      # Both classes of a pair in one video would say the same scenes twice.
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
    # Some videos touch a second topic, now and then without its general class.
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
    # Scenes of one class only are repeated: what comes first, the scene of an
    # order class or its other one, must hold for the whole video.
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
    # The factor has no divisor in common with a power of 62, so this permutes
    # the numbers; ids of neighbours then do not look alike.
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
  # The noun moves with the adjective: the most frequent classes, which are read
  # most, then differ in both words.
  noun = _NOUNS[(row + column) % len(_NOUNS)]
  suffix = f" {count + 1}" if count else ""
  return f"{_ADJECTIVES[column]} {noun}{suffix}"


def frame_level_record(video: Video, with_labels: bool = True) -> bytes:
  """Returns the serialised tf.train.SequenceExample of a video.

  The frames' bytes are laid out here instead of by protobuf, which handles each
  frame on its own and takes several times as long.

  Args:
    video: the video.
    with_labels: False leaves out the key `labels`, as in a test split.
  """
  context = tf.train.SequenceExample()
  _fill(context.context, video, with_labels)
  parts = []
  # Deterministic serialisation sorts the keys of a map.
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


def video_level_record(video: Video, with_labels: bool = True) -> bytes:
  """Returns the serialised tf.train.Example of a video.

  Args:
    video: the video.
    with_labels: False leaves out the key `labels`, as in a test split.
  """
  example = tf.train.Example()
  _fill(example.features, video, with_labels)
  # The sum is exact and the rest element by element: the same on all machines.
  sums = video.frames.sum(axis=0, dtype=np.uint32).astype(np.float64)
  means = sums / len(video.frames) * (4 / 255) + (4 / 512 - 2)
  feature = example.features.feature
  feature["mean_rgb"].float_list.value.extend(means[:RGB_SIZE])
  feature["mean_audio"].float_list.value.extend(means[RGB_SIZE:])
  return example.SerializeToString(deterministic=True)


def sample_data_pattern(
  split: str, frame_features: bool, folder: str = DEFAULT_FOLDER
) -> str:
  """Returns the glob pattern of the records of a split.

  Args:
    split: one of SPLITS.
    frame_features: True for frame-level records, False for video-level ones.
    folder: what ensure_sample_data() returned.

  Raises:
    SampleDataError: if the split is not one of SPLITS.
  """
  if split not in SPLITS:
    raise SampleDataError(
      f"split must be one of {', '.join(SPLITS)}, got {split!r}."
    )
  level = "frame" if frame_features else "video"
  return os.path.join(folder, level, f"{split}*.tfrecord")


def pattern_or_sample_data(
  pattern: str, split: str, frame_features: bool
) -> str:
  """Returns a flag's glob pattern, or if it is empty that of the sample data.

  The built-in sample data set is made if it is not there yet.

  Args:
    pattern: what the flag holds.
    split: see sample_data_pattern, as for frame_features.
    frame_features: True for frame-level records.
  """
  return pattern or sample_data_pattern(
    split, frame_features, ensure_sample_data()
  )


def make_sample_data(
  output_dir: str, settings: Settings = DEFAULT_SETTINGS
) -> None:
  """Writes a data set to a new folder.

  It is written to a folder beside the named one, `<output_dir>.partial-...`,
  and renamed when it is complete. If the same data set is already there,
  nothing happens.

  Args:
    output_dir: the folder, which must not exist or be empty.
    settings: what to make.

  Raises:
    SampleDataError: if output_dir holds anything else, is a mount point or a
      URL, or is on a disk without room for the data.
    OSError: if output_dir cannot be written.
    tf.errors.OpError: likewise.
  """
  if "://" in output_dir:
    raise SampleDataError(
      f"output_dir must be on a local disk, got {output_dir}: make the data "
      f"there and copy it."
    )
  target = os.path.realpath(output_dir)
  if _is_complete(target, settings):
    logging.info("%s already holds this very data set.", output_dir)
    return
  message = (
    f"output_dir must be a new or an empty folder, {output_dir} is not: name "
    f"another one or delete it."
  )
  if _is_occupied(target):
    raise SampleDataError(message)
  with _partial_folder(target, settings) as partial:
    logging.info(
      "Writing about %.0f MB to %s", _num_bytes(settings) / 1e6, partial
    )
    _write_data_set(partial, settings)
    if not _rename_folder(partial, target):
      raise SampleDataError(message)
  logging.info("The data set is complete: %s", output_dir)


def ensure_sample_data(folder: str = DEFAULT_FOLDER) -> str:
  """Makes the default data set if it is not there yet.

  Any number of processes may call this at the same time. A data set of another
  version or with other arguments, and one that lost files, is replaced.

  Args:
    folder: where the data set is to be.

  Returns:
    folder.

  Raises:
    SampleDataError: if the folder holds something else than sample data, is a
      mount point, or is on a disk without room for the data.
    OSError: if the folder cannot be written.
    tf.errors.OpError: likewise.
  """
  target = os.path.realpath(folder)
  settings = DEFAULT_SETTINGS
  while not _is_complete(target, settings):
    if _is_occupied(target) and _read_description(target) is None:
      raise SampleDataError(
        f"{folder} was to hold the sample data set, but holds something else: "
        f"rename or delete it, or name the data to read."
      )
    with _partial_folder(target, settings) as partial:
      _write_data_set(partial, settings)
      _replace_folder(partial, target, settings)
    logging.info("The sample data set was made in %s", folder)
  return folder


def _topic_weight(topic):
  """Returns the weight of a topic: integers, so that all machines agree."""
  return 720720 // (topic + 2)


def _member_weight(member):
  """Returns the weight of a class in its topic; partners have the same."""
  return 720720 // (member // 2 + 1)


def _cumulative(weights):
  return list(itertools.accumulate(weights))


def _draw(random, steps):
  """Returns a random position, by the weights whose running sums are given."""
  return bisect.bisect_right(steps, int(random.integers(steps[-1])))


def _random_stream(seed, *numbers):
  """Returns a generator that no other stream of the seed has to do with."""
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
    is_second = entry.partner is not None and entry.partner < index
    if entry.kind == "order" and is_second:
      class_scenes.append(class_scenes[entry.partner][::-1])
    elif entry.kind == "order":
      class_scenes.append((add_scene(entry.topic), add_scene(entry.topic)))
    else:
      class_scenes.append((add_scene(entry.topic),))
      if is_second:
        (shared,) = class_scenes[entry.partner]
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


def _shard_names(settings, split):
  """Returns the file names of a split."""
  num_shards = min(settings.num_shards, settings.num_split_videos(split))
  return [f"{split}{shard:04d}.tfrecord" for shard in range(num_shards)]


def _description(settings):
  """Returns what sample_data.json says, but as Python reads it back."""
  return {
    "format_version": FORMAT_VERSION,
    **dataclasses.asdict(settings),
    "levels": list(settings.levels),
  }


def _read_description(folder):
  """Returns the contents of sample_data.json; None if there is no such file."""
  try:
    with open(
      os.path.join(folder, _DESCRIPTION_FILE), encoding="utf-8"
    ) as file:
      description = json.load(file)
  except (OSError, ValueError):
    return None
  is_ours = isinstance(description, dict) and "format_version" in description
  return description if is_ours else None


def _is_complete(folder, settings):
  """Returns whether the folder holds the data set, no file missing."""
  names = [
    os.path.join(level, name)
    for level in settings.levels
    for split in SPLITS
    for name in _shard_names(settings, split)
  ]
  return _read_description(folder) == _description(settings) and all(
    os.path.isfile(os.path.join(folder, name))
    for name in ["vocabulary.csv", *names]
  )


def _is_occupied(folder):
  """Returns whether anything but an empty folder has this name."""
  try:
    return bool(os.listdir(folder))
  except FileNotFoundError:
    return False
  except NotADirectoryError:
    return True


@contextlib.contextmanager
def _partial_folder(target, settings):
  """Makes a folder beside the target, and removes what is left of it."""
  if os.path.ismount(target):
    raise SampleDataError(
      f"the data set is put in place by renaming, and {target} is a mount "
      f"point: name a folder below it."
    )
  partial = f"{target}.partial-{os.getpid()}-{secrets.token_hex(4)}"
  os.makedirs(partial)
  try:
    needed = _num_bytes(settings)
    free = shutil.disk_usage(partial).free
    if needed > free:
      raise SampleDataError(
        f"the data set takes about {needed / 1e6:,.0f} MB, and "
        f"{os.path.dirname(target)} has {free / 1e6:,.0f} MB free: make fewer "
        f"or shorter videos, or use another disk."
      )
    yield partial
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _rename_folder(partial, target):
  """Renames a folder; returns False if the target was there first."""
  try:
    os.rename(partial, target)
  except OSError as error:
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
    return False
  return True


def _replace_folder(partial, target, settings):
  """Puts a data set in place of an older one, or of none.

  It does nothing if another process has put the same data set there.
  """
  # Not on every system, and needed only here.
  import fcntl

  try:
    old = os.open(os.path.join(target, _DESCRIPTION_FILE), os.O_RDONLY)
  except FileNotFoundError:
    _rename_folder(partial, target)
    return
  try:
    # Of several processes that found the same old data set one moves it away;
    # the others wait here and then find the new one.
    fcntl.flock(old, fcntl.LOCK_EX)
    if _is_complete(target, settings):
      return
    logging.info("%s holds other sample data, which is replaced.", target)
    removed = f"{partial}-replaced"
    os.rename(target, removed)
    try:
      _rename_folder(partial, target)
    finally:
      shutil.rmtree(removed, ignore_errors=True)
  finally:
    os.close(old)


def _num_bytes(settings):
  """Returns about how many bytes the records of a data set take."""
  mean_frames = (settings.min_frames + settings.max_frames) / 2
  record_bytes = {
    "frame": 80 + mean_frames * (RGB_SIZE + AUDIO_SIZE + 18),
    "video": 120 + 4 * (RGB_SIZE + AUDIO_SIZE),
  }
  return sum(record_bytes[level] for level in settings.levels) * sum(
    settings.num_split_videos(split) for split in SPLITS
  )


def _write_data_set(folder, settings):
  """Writes all files of a data set to a folder that exists."""
  for level in settings.levels:
    os.mkdir(os.path.join(folder, level))
  videos = SampleVideos(settings)
  counts = [0] * settings.num_classes
  for split in SPLITS:
    for labels in _write_split(folder, videos, split):
      if split == "train":
        for label in labels:
          counts[label] += 1
  _write_vocabulary(folder, videos.classes, counts)
  path = os.path.join(folder, _DESCRIPTION_FILE)
  with open(path, "w", encoding="utf-8") as file:
    json.dump(_description(settings), file, indent=2)
    file.write("\n")


def _write_split(folder, videos, split):
  """Writes the records of a split; yields each video's labels."""
  settings = videos.settings
  num_videos = settings.num_split_videos(split)
  names = _shard_names(settings, split)
  serializers = {"frame": frame_level_record, "video": video_level_record}
  last_report = time.monotonic()
  for shard, name in enumerate(names):
    with contextlib.ExitStack() as stack:
      writers = {
        level: stack.enter_context(
          tf.io.TFRecordWriter(os.path.join(folder, level, name))
        )
        for level in settings.levels
      }
      for number in range(
        shard * num_videos // len(names), (shard + 1) * num_videos // len(names)
      ):
        video = videos.video(split, number)
        for level, writer in writers.items():
          writer.write(serializers[level](video, split != "test"))
        yield video.labels
        if time.monotonic() - last_report > _PROGRESS_SECONDS:
          last_report = time.monotonic()
          logging.info("%s: %d of %d videos", split, number + 1, num_videos)


def _write_vocabulary(folder, classes, counts):
  """Writes vocabulary.csv.

  Args:
    folder: where to.
    classes: the SampleClass of each class that occurs.
    counts: videos of the train split that each class of the vocabulary has.
  """
  generals = {
    entry.topic: index
    for index, entry in enumerate(classes)
    if entry.is_general
  }
  path = os.path.join(folder, "vocabulary.csv")
  with open(path, "w", encoding="utf-8", newline="") as file:
    file.write(_VOCABULARY_HEADER)
    writer = csv.writer(file, lineterminator="\n")
    for index, count in enumerate(counts):
      if index >= len(classes):
        vertical, description = "(Unknown)", "Does not occur in this data set."
      else:
        entry = classes[index]
        vertical = class_name(generals[entry.topic])
        if entry.is_general:
          description = "General class: comes with the others of its topic."
        elif entry.kind == "plain":
          description = "Has a picture and a sound of its own."
        else:
          partner = class_name(entry.partner)
          description = {
            "sound": f"Looks like {partner} and differs only in sound.",
            "order": f"Shows the two scenes of {partner} in opposite order.",
          }[entry.kind]
      writer.writerow(
        [
          index,
          count,
          f"/sample/{index}",
          class_name(index),
          "",
          vertical,
          "",
          "",
          description,
        ]
      )


def define_flags() -> None:
  """Defines the flags of the command, named like the Settings' attributes.

  They must not exist in a program that only imports this file: it may have
  flags of the same names.
  """
  flags.DEFINE_string("output_dir", None, "The folder to make; required.")
  for name, text in {
    "num_videos": "Videos in the train split.",
    "num_validate_videos": "Videos in the validate split.",
    "num_test_videos": "Videos in the test split, which has no labels.",
    "num_classes": "Classes in the vocabulary.",
    "num_active_classes": "Classes that occur: the first ones.",
    "min_frames": f"Fewest frames of a video, at least {MAX_LABEL_SCENES}.",
    "max_frames": "Most frames of a video.",
    "num_shards": "Files that each split is cut into.",
    "seed": "Any integer from 0: another seed makes other videos.",
  }.items():
    flags.DEFINE_integer(name, getattr(DEFAULT_SETTINGS, name), text)
  flags.DEFINE_list(
    "levels",
    list(DEFAULT_SETTINGS.levels),
    "What to write: frame, video or frame,video.",
  )


def main() -> None:
  """Makes the data set that the flags describe."""

  def stop(signal_number, _):
    sys.exit(
      f"ERROR: stopped by {signal.Signals(signal_number).name}; what was "
      f"written is removed."
    )

  # Python does not clean up on SIGTERM by itself, and it may be many GB.
  signal.signal(signal.SIGTERM, stop)
  values = flags.FLAGS.flag_values_dict()
  if not values["output_dir"]:
    raise SampleDataError("--output_dir is required: name a new folder.")
  arguments = {
    name: values[name] for name in dataclasses.asdict(DEFAULT_SETTINGS)
  }
  arguments["levels"] = tuple(arguments["levels"])
  make_sample_data(values["output_dir"], Settings(**arguments))


if __name__ == "__main__":
  define_flags()
  startup.run(main)
