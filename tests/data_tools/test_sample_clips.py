"""Tests of data_tools.sample_clips."""

import csv
import time

import in_process
import numpy as np
import pytest
from conftest import folder_content

from data_tools import sample_clips
from media.frames import Sampling, read_audio, read_video

PROGRAM = "data_tools.sample_clips"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("clips") / "clips"
  said = in_process.run(PROGRAM, f"--output_dir={path}")
  assert "12 clips of 3 classes are in" in said
  return path


def rows(folder) -> list[dict]:
  with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def pitch(samples) -> float:
  """The strongest frequency of sound at 16 kHz, in Hz."""
  spectrum = np.abs(np.fft.rfft(samples))
  return float(spectrum.argmax() * 16000 / len(samples))


def looks_like(image) -> str:
  """The class of an image, by the pixels of its color."""
  counts = {
    look.name: (np.abs(image.astype(int) - look.color).max(axis=2) < 40).sum()
    for look in sample_clips.CLASSES
  }
  return max(counts, key=counts.__getitem__)


def test_every_clip_has_a_label_or_is_new(folder):
  labels = rows(folder)
  assert {row["labels"] for row in labels} == {"circle", "square", "stripes"}
  assert len(labels) == 12
  files = sorted(set(folder_content(folder)) - {"labels.csv"})
  listed = [row["path"] for row in labels]
  assert sorted(path for path in files if "/" not in path) == sorted(listed)
  assert [path for path in files if path.startswith("new/")] == [
    "new/medley.mkv",
    "new/unseen_0.mp4",
    "new/unseen_1.mp4",
    "new/unseen_2.mp4",
  ]
  endings = {path.rpartition(".")[2] for path in listed}
  assert endings == {"mp4", "mov", "mkv", "webm"}


def test_clips_look_and_sound_like_their_class(folder):
  pitches = {look.name: look.pitch for look in sample_clips.CLASSES}
  for row in rows(folder):
    path = str(folder / row["path"])
    video = read_video(path, Sampling(), (120, 160))
    assert video.note == ""
    assert 3 <= video.duration <= 8.1
    assert {looks_like(image) for image in video.images} == {row["labels"]}
    assert pitch(read_audio(path)) == pytest.approx(
      pitches[row["labels"]], rel=0.04
    )


def test_the_medley_shows_each_class_in_turn(folder):
  path = str(folder / "new" / "medley.mkv")
  video = read_video(path, Sampling(0.4), (120, 160))
  assert [looks_like(image) for image in video.images] == [
    *("circle", "circle", "square", "square", "stripes", "stripes")
  ]


def test_the_same_files_come_out(folder):
  clip = sample_clips.labeled_clips()[3]
  time.sleep(1.1)  # files could have the second in them
  assert sample_clips.encode(clip) == (folder / clip.name).read_bytes()


def test_labels_of_other_files_stay(tmp_path):
  (tmp_path / "labels.csv").write_text("path,labels\nmine.mp4,cat\n")
  before = folder_content(tmp_path)
  line = in_process.run_into_error(PROGRAM, f"--output_dir={tmp_path}")
  assert f"received {tmp_path}, whose labels.csv is of other files" in line
  assert folder_content(tmp_path) == before


def test_no_folder_is_one_line():
  said = in_process.run_into_error(PROGRAM)
  assert "Expected --output_dir=FOLDER" in said
