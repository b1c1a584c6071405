"""The data of each task, made from a seed.

Each maker writes train.tfrecord and test.tfrecord to a folder. The flags that
describe the content are beside it.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import quantization
from engine.data_files import find_files
from records import writing

SEED = 20


@dataclasses.dataclass
class DataSet:
  """Records, and what they hold.

  Attributes:
    folder: of the files.
    flags: those that describe the content.
    test_split: the beginning of the names of the files to be predicted.
  """

  folder: Path
  flags: tuple[str, ...]
  test_split: str = "test"

  def pattern(self, split: str) -> str:
    """The files of a split."""
    return f"{self.folder}/{split}*.tfrecord"

  def files(self, split: str) -> list[str]:
    """The same, one by one."""
    return find_files(self.pattern(split), "data")

  @property
  def num_classes(self) -> int:
    """Classes."""
    (number,) = (
      flag.partition("=")[2]
      for flag in self.flags
      if flag.startswith("--num_classes=")
    )
    return int(number)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
  """Fills a folder by a maker unless it is there; returns it.

  What a process that was killed has left behind is in no one's way, and of
  several processes the first one to finish makes the folder.
  """
  if not folder.exists():
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
      prefix=f"{folder.name}.being_made.", dir=folder.parent
    ) as aside:
      made = Path(aside) / folder.name
      made.mkdir()
      make(made)
      try:
        made.rename(folder)
      except OSError:
        if not folder.exists():  # by another process
          raise
  return folder


def to_bytes(values: np.ndarray) -> np.ndarray:
  """Turns numbers around 0 with deviations around 1 into quantized features."""
  return np.clip(np.round(128 + 40 * values), 0, 255).astype(np.uint8)


def write_split(folder: Path, split: str, records: Sequence[bytes]) -> None:
  """Writes records in a mixed order: training reads one file in turn."""
  folder.mkdir(parents=True, exist_ok=True)
  order = np.random.default_rng(SEED).permutation(len(records))
  with writing.RecordWriter(str(folder / f"{split}.tfrecord")) as writer:
    for index in order:
      writer.write(records[index])


def _features_flags(features: Mapping[str, int], num_classes, *more):
  return (
    f"--feature_names={','.join(features)}",
    f"--feature_sizes={','.join(map(str, features.values()))}",
    f"--num_classes={num_classes}",
    *more,
  )


def _split_frame_record(video_id, labels, frames, rgb_size) -> bytes:
  rgb, audio = np.split(frames, [rgb_size], axis=1)
  return writing.frame_record(
    video_id.encode(), labels, {"rgb": rgb, "audio": audio}
  )


# --------------------------------------------------------------------------
# Order and sound: pairs of classes, their videos in pairs of twins

NUM_PAIRS = 3  # of each kind; pair p has the classes 2 p and 2 p + 1
TRAIN_TWINS, TEST_TWINS = 40, 20
_PAIR_RGB, _PAIR_AUDIO = 64, 32


def make_pairs(folder: Path) -> None:
  """Order pairs, classes 0 to 5, and sound pairs, classes 6 to 11.

  Each video has a twin in the same split, of the pair's other class. The twins
  of an order pair show the same frames, one of them backwards; those of a sound
  pair the same pictures with another sound. Nothing else distinguishes them: no
  mean, no length, no scene. The features are L2-normalized together; sounds are
  as loud as pictures. Video-level records of the same videos are in the folder
  video.
  """
  random = np.random.default_rng(SEED)
  size = _PAIR_RGB + _PAIR_AUDIO
  scenes = random.normal(size=(2 * NUM_PAIRS, 2, size))
  # The scenes of a sound pair's two classes: the same picture.
  scenes[NUM_PAIRS:, 1, :_PAIR_RGB] = scenes[NUM_PAIRS:, 0, :_PAIR_RGB]

  def twins(pair):
    length = random.integers(6, 9)
    noise = 0.2 * random.normal(size=size)
    noise = noise + 0.5 * random.normal(size=(length, size))
    if pair < NUM_PAIRS:
      cut = random.integers(2, length - 1)  # 2 frames of either at least
      first, second = scenes[pair]
      frames = np.where(np.arange(length)[:, None] < cut, first, second)
      frames = to_bytes(frames + noise)
      return frames, frames[::-1]
    return tuple(to_bytes(scene + noise) for scene in scenes[pair])

  for split, number in (("train", TRAIN_TWINS), ("test", TEST_TWINS)):
    frame_records, video_records = [], []
    for pair in range(2 * NUM_PAIRS):
      for twin in range(number):
        for member, frames in enumerate(twins(pair)):
          # Sorted by id, the videos of a pair follow each other.
          about = f"{split}-{pair:02}-{twin:03}-{member}", [2 * pair + member]
          frame_records.append(_split_frame_record(*about, frames, _PAIR_RGB))
          means = quantization.dequantize(frames.astype(np.float32)).mean(0)
          video_records.append(
            writing.video_record(
              about[0].encode(),
              about[1],
              {"mean_rgb": means[:_PAIR_RGB], "mean_audio": means[_PAIR_RGB:]},
            )
          )
    write_split(folder, split, frame_records)
    write_split(folder / "video", split, video_records)


def pairs(folder: Path, level: str = "frame", streams: int = 2) -> DataSet:
  """Describes what make_pairs has made.

  Args:
    folder: its folder.
    level: "frame" or "video".
    streams: 1 for rgb only.
  """
  prefix = "mean_" if level == "video" else ""
  features = {f"{prefix}rgb": _PAIR_RGB, f"{prefix}audio": _PAIR_AUDIO}
  return DataSet(
    folder / "video" if level == "video" else folder,
    _features_flags(
      dict(list(features.items())[:streams]), 4 * NUM_PAIRS, "--max_frames=8"
    ),
  )


# --------------------------------------------------------------------------
# Needle: a class shown in a few frames

_NEEDLE_CLASSES = 8
_NEEDLE_RGB, _NEEDLE_AUDIO = 48, 16


@dataclasses.dataclass
class Needle:
  """A haystack.

  Attributes:
    frames: of each video.
    shown: consecutive frames, anywhere, that show the class.
    scenes: the fewest and the most background scenes of a video, which no other
      video has, so that the mean of the frames is mostly these.
    train: videos.
    test: videos.
  """

  frames: int = 300
  shown: int = 5
  scenes: tuple[int, int] = (40, 60)
  train: int = 960
  test: int = 320

  def make(self, folder: Path) -> None:
    """Writes the videos."""
    random = np.random.default_rng(SEED + 1)
    size = _NEEDLE_RGB + _NEEDLE_AUDIO
    needles = random.normal(size=(_NEEDLE_CLASSES, size))
    for split, number in (("train", self.train), ("test", self.test)):
      records = []
      for video in range(number):
        label = video % _NEEDLE_CLASSES
        frames = self._background(random, size)
        start = random.integers(self.frames - self.shown + 1)
        frames[start : start + self.shown] = needles[label]
        frames = to_bytes(frames + 0.3 * random.normal(size=frames.shape))
        records.append(
          _split_frame_record(
            f"{split}-{video:04}", [label], frames, _NEEDLE_RGB
          )
        )
      write_split(folder, split, records)

  def _background(self, random, size) -> np.ndarray:
    least, most = self.scenes
    scenes = random.normal(size=(random.integers(least, most + 1), size))
    return scenes[_scene_of_frame(random, self.frames, len(scenes))]

  def data(self, folder: Path) -> DataSet:
    """Describes them."""
    return DataSet(
      folder,
      _features_flags(
        {"rgb": _NEEDLE_RGB, "audio": _NEEDLE_AUDIO},
        _NEEDLE_CLASSES,
        f"--max_frames={self.frames}",
      ),
    )


def _scene_of_frame(random, num_frames, num_scenes) -> np.ndarray:
  """The scene that each frame shows, in order, cut anywhere."""
  cuts = random.integers(num_frames, size=num_scenes - 1)
  return np.searchsorted(np.sort(cuts), np.arange(num_frames), "right")


# --------------------------------------------------------------------------
# Variance: the classes differ where the pictures did before they were whitened

_VARIANCE_RGB = 1024
INFORMATIVE = 48
_VARIANCE_CLASSES = 20
_VARIANCE_TRAIN, _VARIANCE_TEST = 200, 600
_VARIANCE_FRAMES = (6, 10)
# Of the unit variance of an informative number: between classes.
_CLASS_VARIANCE = 0.5
# Of that of every number, what changes from frame to frame.
_FRAME_VARIANCE = 0.2


def make_variance(folder: Path) -> None:
  """Whitened rgb: the first of the 1024 dimensions tell, the others are noise.

  As in YouTube-8M each number has variance 1, and what is beyond 2 is clipped.
  The classes differ only in the first dimensions of the PCA, those of the
  largest variance before whitening. Most of the noise is a video's own, so that
  more frames do not help, and there are few videos to tell it from what counts.
  """
  random = np.random.default_rng(SEED + 4)
  classes = random.normal(size=(_VARIANCE_CLASSES, _VARIANCE_RGB))
  classes[:, INFORMATIVE:] = 0
  of_class = np.where(
    np.arange(_VARIANCE_RGB) < INFORMATIVE, _CLASS_VARIANCE, 0
  )
  of_video = 1 - _FRAME_VARIANCE - of_class
  for split, number in (("train", _VARIANCE_TRAIN), ("test", _VARIANCE_TEST)):
    records = []
    for video in range(number):
      label = video % _VARIANCE_CLASSES
      shape = random.integers(*_VARIANCE_FRAMES), _VARIANCE_RGB
      frames = (
        np.sqrt(of_class) * classes[label]
        + np.sqrt(of_video) * random.normal(size=_VARIANCE_RGB)
        + math.sqrt(_FRAME_VARIANCE) * random.normal(size=shape)
      )
      records.append(
        writing.frame_record(
          f"{split}-{video:04}".encode(),
          [label],
          {"rgb": quantization.quantize(frames)},
        )
      )
    write_split(folder, split, records)


def variance(folder: Path) -> DataSet:
  """Describes what make_variance has made."""
  return DataSet(
    folder,
    _features_flags(
      {"rgb": _VARIANCE_RGB},
      _VARIANCE_CLASSES,
      f"--max_frames={_VARIANCE_FRAMES[1]}",
    ),
  )


# --------------------------------------------------------------------------
# Several labels, each shown in a scene of its own, among others

_SHOWN_CLASSES = 60
_SHOWN_RGB, _SHOWN_AUDIO = 96, 32
_SHOWN_FRAMES = 30
_SHOWN_TRAIN, _SHOWN_TEST = 1600, 800


def make_shown(folder: Path) -> None:
  """Videos of 1 to 3 labels; each label has a scene, and so have 2 to 4 others.

  Classes are as frequent as 1/(rank + 5). The scene of a label varies from
  video to video; the other scenes are in no other video.
  """
  random = np.random.default_rng(SEED + 5)
  size = _SHOWN_RGB + _SHOWN_AUDIO
  classes = random.normal(size=(_SHOWN_CLASSES, size))
  frequencies = 1 / (np.arange(_SHOWN_CLASSES) + 6)
  frequencies /= frequencies.sum()
  for split, number in (("train", _SHOWN_TRAIN), ("test", _SHOWN_TEST)):
    records = []
    for video in range(number):
      labels = random.choice(
        _SHOWN_CLASSES, random.integers(1, 4), replace=False, p=frequencies
      )
      others = random.normal(size=(random.integers(2, 5), size))
      varied = classes[labels] + random.normal(size=(len(labels), size))
      scenes = random.permutation(np.concatenate([varied, others]))
      frames = scenes[_scene_of_frame(random, _SHOWN_FRAMES, len(scenes))]
      frames = to_bytes(0.7 * frames + 0.5 * random.normal(size=frames.shape))
      records.append(
        _split_frame_record(
          f"{split}-{video:05}", labels.tolist(), frames, _SHOWN_RGB
        )
      )
    write_split(folder, split, records)


def shown(folder: Path) -> DataSet:
  """Describes what make_shown has made."""
  return DataSet(
    folder,
    _features_flags(
      {"rgb": _SHOWN_RGB, "audio": _SHOWN_AUDIO},
      _SHOWN_CLASSES,
      f"--max_frames={_SHOWN_FRAMES}",
    ),
  )


# --------------------------------------------------------------------------
# Video-level records with many labels


def _write_projected(folder, split, random, label_sets, projection, noise):
  """Records whose features are a projection of their labels, and noise."""
  records = []
  for number, labels in enumerate(label_sets):
    features = projection[labels].sum(axis=0) / math.sqrt(len(labels))
    features = features + noise * random.normal(size=features.shape)
    records.append(
      writing.video_record(
        f"{split}-{number:05}".encode(),
        labels.tolist(),
        {"mean_rgb": features.astype(np.float32)},
      )
    )
  write_split(folder, split, records)


# Co-occurrence: groups of classes, most of which are labels together.

_GROUPS, _GROUP_CLASSES = 10, 5
_CO_TRAIN, _CO_TEST = 2000, 1000
_CO_SIZE = 128


def make_co_occurrence(folder: Path) -> None:
  """Each video has 1 or 2 groups of 5 classes, each class 4 times out of 5.

  A class is faint compared with the noise, so the other classes of its group
  say more about it than its own features.
  """
  random = np.random.default_rng(SEED + 2)
  projection = random.normal(size=(_GROUPS * _GROUP_CLASSES, _CO_SIZE))
  for split, number in (("train", _CO_TRAIN), ("test", _CO_TEST)):
    label_sets = []
    for _ in range(number):
      groups = random.choice(_GROUPS, random.integers(1, 3), replace=False)
      likely = _GROUP_CLASSES * groups[:, None] + np.arange(_GROUP_CLASSES)
      likely = likely.ravel()
      labels = likely[random.random(len(likely)) < 0.8]
      label_sets.append(labels if len(labels) else likely[:1])
    _write_projected(folder, split, random, label_sets, projection, 3.0)


def co_occurrence(folder: Path) -> DataSet:
  """Describes what make_co_occurrence has made."""
  return DataSet(
    folder,
    _features_flags({"mean_rgb": _CO_SIZE}, _GROUPS * _GROUP_CLASSES),
  )


# Many labels: label sets of real videos, or such as theirs.

_MANY_SIZE = 256
_MANY_TRAIN = 8000


def make_many_labels(
  folder: Path, label_sets: Sequence[np.ndarray], num_classes: int, noise=0.5
) -> None:
  """Videos with given labels; the first 8000 of a mixed order are for training.

  Args:
    folder: for the files.
    label_sets: class indices of each video.
    num_classes: classes.
    noise: its standard deviation, when a label's is 1.
  """
  random = np.random.default_rng(SEED + 3)
  label_sets = [label_sets[i] for i in random.permutation(len(label_sets))]
  projection = random.normal(size=(num_classes, _MANY_SIZE))
  for split, part in (
    ("train", label_sets[:_MANY_TRAIN]),
    ("test", label_sets[_MANY_TRAIN:]),
  ):
    _write_projected(folder, split, random, part, projection, noise)


def read_label_sets(path: Path) -> list[np.ndarray]:
  """Reads a file with the class indices of a video in each line."""
  lines = path.read_text().splitlines()
  return [np.array(line.split(), np.int64) for line in lines]


def made_up_label_sets(number: int, num_classes: int) -> list[np.ndarray]:
  """1 to 5 classes for each video, as frequent as 1/(rank + 11)."""
  random = np.random.default_rng(SEED + 6)
  frequencies = 1 / (np.arange(num_classes) + 11)
  frequencies /= frequencies.sum()
  return [
    random.choice(
      num_classes, random.integers(1, 6), replace=False, p=frequencies
    )
    for _ in range(number)
  ]


def many_labels(folder: Path, num_classes: int) -> DataSet:
  """Describes what make_many_labels has made."""
  return DataSet(folder, _features_flags({"mean_rgb": _MANY_SIZE}, num_classes))


def real_sample(folder: Path) -> DataSet:
  """Video-level records of YouTube-8M: train*.tfrecord, validate*.tfrecord."""
  return DataSet(
    folder,
    _features_flags({"mean_rgb": 1024, "mean_audio": 128}, 3862),
    test_split="validate",
  )
