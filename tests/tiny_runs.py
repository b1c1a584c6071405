"""Data sets of 22 tiny videos, and train() on them."""

import shutil

import numpy as np
import pytest
from make_records import (
  frame_record,
  segment_record,
  video_record,
  write_records,
)

import train
from engine.dataset_card import DatasetCard
from engine.settings import Settings

TINY_FLAGS = {
  "model": "LogisticModel",
  "feature_names": "mean_rgb,mean_audio",
  "feature_sizes": "4,3",
  "frame_features": False,
  "num_classes": 6,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
}


TINY_FRAME_FLAGS = {
  **TINY_FLAGS,
  "model": "FrameLevelLogisticModel",
  "feature_names": "rgb,audio",
  "frame_features": True,
}


NUM_TINY = 22


def tiny_labels(number):
  return sorted({number % 6, number * number % 5})


TINY_LABELS = np.array(
  [[index in tiny_labels(number) for index in range(6)] for number in range(22)]
)
"""(22, 6) bool, the labels of the videos in tiny_files."""


@pytest.fixture(scope="session")
def tiny_vectors():
  """(22, 7) float32, the features of the videos in tiny_files."""
  return np.random.default_rng(1).normal(size=(NUM_TINY, 7)).astype(np.float32)


def tiny_videos(vectors, labels_of=tiny_labels, prefix="v") -> list[bytes]:
  """The records of tiny_files, or the same with other labels or ids."""
  return [
    video_record(
      f"{prefix}{number}",
      labels_of(number),
      mean_rgb=vector[:4],
      mean_audio=vector[4:],
    )
    for number, vector in enumerate(vectors)
  ]


def tiny_dataset(folder, files, splits=("train", "validate")) -> str:
  """A folder for --dataset_dir with all tiny files in each split."""
  for split in splits:
    for number, file in enumerate(files):
      shutil.copy(file, folder / f"{split}{number}.tfrecord")
  of_split = {"videos": NUM_TINY, "files": len(files)}
  DatasetCard(
    frame_features=False,
    feature_names=["mean_rgb", "mean_audio"],
    feature_sizes=[4, 3],
    feature_dtypes=["float32", "float32"],
    num_classes=6,
    splits=dict.fromkeys(splits, of_split),
    made_by={},
  ).write(str(folder))
  names = "".join(f"{index},class {index}\n" for index in range(6))
  (folder / "vocabulary.csv").write_text(f"Index,Name\n{names}")
  return str(folder)


@pytest.fixture(scope="session")
def tiny_files(tiny_vectors, tmp_path_factory):
  """Two files with 22 video-level records."""
  folder = tmp_path_factory.mktemp("tiny")
  records = tiny_videos(tiny_vectors)
  return [
    write_records(folder / "a", records[:13]),
    write_records(folder / "b", records[13:]),
  ]


def one_label(vector) -> int:
  """The only label of a video in one_label_files: its largest number of 6."""
  return int(np.argmax(vector[:6]))


@pytest.fixture(scope="session")
def one_label_files(tiny_vectors, tmp_path_factory):
  """Two files with 22 video-level records that have one label each."""
  folder = tmp_path_factory.mktemp("one_label")
  records = [
    video_record(
      f"v{number}",
      [one_label(vector)],
      mean_rgb=vector[:4],
      mean_audio=vector[4:],
    )
    for number, vector in enumerate(tiny_vectors)
  ]
  return [
    write_records(folder / "a", records[:13]),
    write_records(folder / "b", records[13:]),
  ]


@pytest.fixture(scope="session")
def tiny_frame_files(tmp_path_factory):
  """Two files with 22 frame-level records."""
  folder = tmp_path_factory.mktemp("tiny_frames")
  random = np.random.default_rng(2)
  records = []
  for number in range(NUM_TINY):
    length = 1 + 3 * number % 14
    records.append(
      frame_record(
        f"v{number}",
        tiny_labels(number),
        rgb=random.integers(256, size=(length, 4), dtype=np.uint8),
        audio=random.integers(256, size=(length, 3), dtype=np.uint8),
      )
    )
  return [
    write_records(folder / "a", records[:13]),
    write_records(folder / "b", records[13:]),
  ]


@pytest.fixture(scope="session")
def tiny_segment_files(tmp_path_factory):
  """Two files with 9 records that have 22 rated segments of 3 frames."""
  folder = tmp_path_factory.mktemp("tiny_segments")
  random = np.random.default_rng(4)
  records = []
  for number, count in enumerate([3, 1, 4, 2, 0, 5, 1, 4, 2]):
    records.append(
      segment_record(
        f"v{number}",
        [
          (5 * start, random.integers(6), random.integers(2))
          for start in range(count)
          for _ in range(1 + start % 2)
        ],
        rgb=random.integers(256, size=(28, 4), dtype=np.uint8),
        audio=random.integers(256, size=(28, 3), dtype=np.uint8),
      )
    )
  return [
    write_records(folder / "a", records[:4]),
    write_records(folder / "b", records[4:]),
  ]


def train_tiny(train_dir, files, model_flags=TINY_FLAGS, **settings):
  """train() with batches of 5, compiled by XLA only if asked for."""
  defaults = {"batch_size": 5, "base_learning_rate": 0.01, "xla": False}
  return train.train(
    str(train_dir), model_flags, files, Settings(**defaults | settings)
  )
