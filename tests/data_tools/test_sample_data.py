"""Tests of data_tools.sample_data."""

import collections
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import in_process
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from conftest import PATIENCE_SECONDS

import errors
import quantization
from data_tools import sample_data, sample_videos
from data_tools.sample_videos import SampleVideos, Settings

REPOSITORY = pathlib.Path(__file__).parents[2]
SMALL = Settings(
  num_videos=23,
  num_validate_videos=5,
  num_test_videos=3,
  num_classes=30,
  num_active_classes=20,
  num_shards=4,
  seed=7,
)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
  """A data set of SMALL."""
  folder = tmp_path_factory.mktemp("small") / "data"
  sample_data.make_sample_data(str(folder), SMALL)
  return folder


def read_records(folder, level, split):
  """Returns the serialized records of a split, in the order of the files."""
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


def run_program(*arguments):
  """Starts the program as a user would; returns the process."""
  environment = dict(os.environ)
  # The import of startup set it in this process; a user's shell does not.
  environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
  return subprocess.Popen(
    [sys.executable, "-m", "data_tools.sample_data", *arguments],
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
    "format_version": sample_videos.FORMAT_VERSION,
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


@pytest.mark.parametrize("split", sample_videos.SPLITS)
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


@pytest.mark.parametrize("split", sample_videos.SPLITS)
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
      quantized = np.stack(
        [
          np.frombuffer(entry.bytes_list.value[0], np.uint8)
          for entry in frames.feature_lists.feature_list[name].feature
        ]
      )
      mean = feature[f"mean_{name}"].float_list.value
      assert len(mean) == size
      np.testing.assert_allclose(
        mean,
        quantization.dequantize(quantized.astype(float)).mean(axis=0),
        rtol=0,
        atol=1e-6,
      )


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
    sample_videos.class_name(index) for index in range(30)
  ]
  assert {row["Vertical1"] for row in rows[20:]} == {"(Unknown)"}
  # 20 classes make 4 topics, named after their general classes.
  assert len({row["Vertical1"] for row in rows[:20]}) == 4
  assert {row["Vertical1"] for row in rows[:20]} < {r["Name"] for r in rows}
  classes = sample_videos.plan_classes(SMALL.num_active_classes)
  for row, entry in zip(rows, classes, strict=False):
    if entry.partner is not None:
      assert rows[entry.partner]["Name"] in row["WikiDescription"]


# Reproducibility.


def test_same_arguments_give_the_same_bytes_and_another_seed_others(
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
  with pytest.raises(errors.UserError, match=r"mount point\. Name a folder"):
    sample_data.make_sample_data(str(tmp_path), SMALL)


def test_a_disk_without_room_is_refused(tmp_path):
  settings = dataclasses.replace(SMALL, num_videos=10**12)
  with pytest.raises(
    ValueError, match=f"free disk .* received .* MB in {tmp_path}"
  ):
    sample_data.make_sample_data(str(tmp_path / "data"), settings)
  assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError("disk error")

  monkeypatch.setattr(sample_data, "_write_vocabulary", fail)
  with pytest.raises(OSError, match="disk error"):
    sample_data.make_sample_data(str(tmp_path / "data"), SMALL)
  assert os.listdir(tmp_path) == []


def test_rated_segments_are_a_data_set_of_their_own(tmp_path, monkeypatch):
  """With the same videos, and without a change to the usual data set."""
  settings = dataclasses.replace(SMALL, levels=("segment",))
  monkeypatch.setattr(sample_data, "SEGMENT_FOLDER", f"{tmp_path}/data")
  monkeypatch.setattr(sample_data, "SEGMENT_SETTINGS", settings)
  monkeypatch.delattr(sample_data, "DEFAULT_SETTINGS")
  pattern = sample_data.pattern_or_sample_data("", "validate", True, True)
  assert pattern == f"{tmp_path}/data/segment/validate*.tfrecord"
  (first,) = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern))).take(1)
  video = SampleVideos(SMALL).video("validate", 0)
  assert first.numpy() == sample_videos.segment_level_record(video)
  assert sample_data.is_sample_data(f"{tmp_path}/data/segment/validate0000")
  assert not sample_data.is_sample_data(f"{tmp_path}/database/validate0000")
  typed = sample_data.pattern_or_sample_data("mine*", "validate", True, True)
  assert typed == "mine*"


def test_whole_videos_have_no_segments(monkeypatch):
  """The program then says that segments need frames."""
  monkeypatch.setattr(sample_data, "ensure_sample_data", lambda: "folder")
  pattern = sample_data.pattern_or_sample_data("", "train", False, True)
  assert "/video/train" in pattern


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
  with pytest.raises(ValueError, match="received 'eval'"):
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
def test_files_of_the_user_in_older_sample_data_stay(tmp_path):
  folder = tmp_path / "default"
  sample_data.ensure_sample_data(str(folder))
  make_it_older(folder)
  (folder / "frame" / "notes.txt").write_text("mine")
  before = file_hashes(folder)
  with pytest.raises(errors.UserError, match="a folder with other"):
    sample_data.ensure_sample_data(str(folder))
  assert file_hashes(folder) == before


@pytest.mark.usefixtures("small_default")
def test_a_data_set_with_a_damaged_description_stays(tmp_path):
  folder = tmp_path / "default"
  sample_data.ensure_sample_data(str(folder))
  (folder / "sample_data.json").write_text("[" * 100_000)
  before = file_hashes(folder)
  with pytest.raises(errors.UserError, match="a folder with other"):
    sample_data.ensure_sample_data(str(folder))
  assert file_hashes(folder) == before


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
from data_tools import sample_data, sample_videos
parent, name, other = sys.argv[1:]
def meet(point):
  open(f"{parent}/{point}.{name}", "w").close()
  while not os.path.exists(f"{parent}/{point}.{other}"):
    time.sleep(0.0005)
for point in ["new", "older"]:
  meet(point)
  folder = sample_data.ensure_sample_data(f"{parent}/{point}_data")
  for split in sample_videos.SPLITS:
    pattern = sample_data.sample_data_pattern(split, True, folder)
    assert len(sample_data.tf.io.gfile.glob(pattern)) == 4
"""


@pytest.mark.slow
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
    _, errors = racer.communicate(timeout=PATIENCE_SECONDS)
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
  program = run_program(f"--output_dir={tmp_path / 'data'}", *arguments)
  _, errors = program.communicate(timeout=PATIENCE_SECONDS)
  assert program.returncode == 0, errors
  assert "Traceback" not in errors
  assert file_hashes(tmp_path / "data") == file_hashes(small_folder)


def test_bad_flags_end_in_one_line(tmp_path):
  for arguments, message in [
    ((), "Expected --output_dir, received none"),
    (
      (f"--output_dir={tmp_path / 'x'}", "--min_frames=3"),
      "min_frames of at least 8, received 3",
    ),
  ]:
    code, errors = in_process.call("data_tools.sample_data", *arguments)
    assert code == 2
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


@pytest.mark.slow
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
    _, errors[number] = program.communicate(timeout=PATIENCE_SECONDS)
  assert stopped[signal.SIGKILL].returncode == -signal.SIGKILL
  assert stopped[signal.SIGTERM].returncode == 143
  assert errors[signal.SIGTERM].splitlines()[-1] == "Stopped by SIGTERM."
  # A process that is killed outright cannot remove anything, but what it wrote
  # does not have the name of a data set.
  (left,) = tmp_path.iterdir()
  assert left.name.startswith("SIGKILL.partial-")
