"""Tests of data_tools.extract_features: from video files to a data set."""

import csv
import json
import pathlib

import in_process
import pytest
import small_clips
from conftest import assert_names

from data_tools import extraction_runs
from engine.dataset_card import read_card
from media import encoders
from media.frames import Sampling, read_video
from media.parts import PART_ENDING

EXTRACT = "data_tools.extract_features"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """A folder of 18 clips in a folder for each class, and one of text."""
  folder = tmp_path_factory.mktemp("videos") / "clips"
  small_clips.make_folder(folder)
  return folder


def extract(clips, output_dir, *more) -> str:
  return in_process.run(
    EXTRACT,
    f"--videos={clips}",
    f"--output_dir={output_dir}",
    "--encoder=random",
    "--num_workers=2",
    *more,
  )


def records_of(folder) -> dict[str, bytes]:
  """The content of the files of records, by name."""
  return {
    path.name: path.read_bytes()
    for path in sorted(pathlib.Path(folder).glob("*.tfrecord"))
  }


def test_the_list_of_a_failed_extraction_replaces_no_input(tmp_path):
  listed = tmp_path / "q.import_report.csv"
  listed.write_text("path,labels\nnone.mp4,cat\n")
  line = in_process.run_into_error(
    EXTRACT, f"--videos={listed}", f"--output_dir={tmp_path}/q"
  )
  assert_names(line, "as --output_dir", str(listed), "Name another one")


def test_folders_of_clips_become_a_data_set(clips, tmp_path):
  (clips / "top.mp4").write_text("no label, not opened")
  try:
    log = extract(clips, tmp_path / "data", "--store=float32")
  finally:
    (clips / "top.mp4").unlink()
  assert_names(
    log,
    "names of the folders: blue (6), green (6), red (6)",
    "Left out 1 videos without a label",
    "18 videos, 3 classes, rgb (128 float32)",
    "bounded by decoding",
    f"python train.py --dataset_dir={tmp_path}/data",
  )
  card = read_card(str(tmp_path / "data"))
  assert card.frame_features
  assert (card.feature_names, card.feature_sizes) == (["rgb"], [128])
  assert sum(of["videos"] for of in card.splits.values()) == 18
  command = "python -m data_tools.extract_features"
  assert card.made_by["command"].startswith(command)
  assert card.extraction["encoder"] == "random"
  assert card.extraction["frames_per_second"] == 1.0
  with open(tmp_path / "data" / "import_report.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["reason"] for row in rows] == ["no label"]
  assert not (tmp_path / "data.extracted").exists()
  video = read_video(
    str(clips / "red/red3.mp4"), Sampling(), (64, 64), "stretch"
  )
  numbers = encoders.make_encoder("random").encode(video.images)
  everything = b"".join(records_of(tmp_path / "data").values())
  for row in numbers:
    assert row.tobytes() in everything


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
  clips, tmp_path, monkeypatch
):
  extract(clips, tmp_path / "whole")
  take = extraction_runs.Observer.__call__
  seen = []

  def stopping(self, key, result):
    take(self, key, result)
    seen.append(key)
    if len(seen) == 7:
      raise KeyboardInterrupt

  monkeypatch.setattr(extraction_runs.Observer, "__call__", stopping)
  given = (
    f"--videos={clips}",
    f"--output_dir={tmp_path}/stopped",
    "--encoder=random",
  )
  code, _ = in_process.call(EXTRACT, *given)
  assert code == 130
  assert not (tmp_path / "stopped").exists()
  (part,) = (tmp_path / "stopped.extracted").iterdir()
  part.write_bytes(part.read_bytes() + b"torn")
  line = in_process.run_into_error(EXTRACT, *given, "--num_frames=3")
  assert_names(
    line, "num_frames 0 instead of 3", f"{tmp_path}/stopped.extracted"
  )
  log = in_process.run(EXTRACT, *given)
  assert_names(log, "Going on: 7 videos", "Extracted 11 videos")
  assert len(seen) == 18
  whole = records_of(tmp_path / "whole")
  assert len(whole) == 3
  assert records_of(tmp_path / "stopped") == whole
  assert not (tmp_path / "stopped.extracted").exists()


def test_shards_make_the_same_records_as_one_process(clips, tmp_path):
  extract(clips, tmp_path / "whole")
  data = tmp_path / "data"
  for number in (3, 1):
    log = extract(clips, data, f"--shard={number},3")
    assert_names(log, f"Part {number} of 3 is complete", "--merge")
  given = (f"--videos={clips}", f"--output_dir={data}", "--encoder=random")
  line = in_process.run_into_error(EXTRACT, *given, "--merge")
  assert_names(line, "all 18 videos", f"{data}.extracted", "none for")
  extract(clips, data, "--shard=2,3")
  parts = sorted((tmp_path / "data.extracted").glob(f"*{PART_ENDING}"))
  assert len(parts) == 3
  assert sum(path.stat().st_size > 1000 for path in parts) >= 2
  copy = parts[0].with_name(f"copy{PART_ENDING}")
  copy.write_bytes(max(path.read_bytes() for path in parts))
  line = in_process.run_into_error(EXTRACT, *given, "--merge")
  assert_names(line, "each video in one part", copy.name)
  copy.unlink()
  log = in_process.run(EXTRACT, *given, "--merge")
  assert "Extracted" not in log
  assert records_of(data) == records_of(tmp_path / "whole")
  for name in ("vocabulary.csv", "import_report.csv"):
    assert (data / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_bad_files_are_reported_and_tried_again(clips, tmp_path):
  labels = {f"red/red{number}.mp4": "red" for number in range(4)}
  labels |= {"green/green0.mp4": "green", "red/bad.mp4": "red"}
  path = small_clips.write_labels(
    tmp_path / "labels.csv", labels, split=lambda _: "train"
  )
  bad = clips / "red" / "bad.mp4"
  bad.write_text("text")
  given = (
    f"--videos={clips}",
    f"--labels={path}",
    f"--output_dir={tmp_path}/data",
    "--encoder=random",
    "--frames_per_second=2",
  )
  try:
    line = in_process.run_into_error(EXTRACT, *given)
    assert_names(line, "1 of 6", "bad.mp4", "cannot be opened")
    small_clips.make_clip(bad, (200, 0, 0), 1)
    log = in_process.run(EXTRACT, *given)
  finally:
    bad.unlink()
  assert_names(log, "Going on: 5 videos", "Extracted 1 videos", "6 videos, 2")
  assert read_card(str(tmp_path / "data")).splits == {
    "train": {"videos": 6, "files": 1}
  }


def test_too_many_bad_lines_are_an_error_before_any_work(clips, tmp_path):
  path = small_clips.write_labels(
    tmp_path / "labels.csv", {"red0": "red", "none": "red"}
  )
  line = in_process.run_into_error(
    EXTRACT,
    f"--videos={clips}",
    f"--labels={path}",
    f"--output_dir={tmp_path}/data",
    "--encoder=random",
  )
  assert_names(line, "1 of 2 before any was opened", "no such file")
  assert not (tmp_path / "data.extracted").exists()


def test_a_path_with_a_nul_is_left_out(clips, tmp_path):
  lines = [f"{path},any\n" for path in sorted(clips.rglob("*.mp4"))[:3]]
  text = "".join(["path,labels\n", *lines, "a\0,b\n"])
  (tmp_path / "list.csv").write_text(text)
  more = ("--splits=train:1", "--max_bad_fraction=0.3")
  log = extract(tmp_path / "list.csv", tmp_path / "data", *more)
  assert "Left out 1 items" in log
  report = (tmp_path / "data/import_report.csv").read_text()
  assert "a path with a NUL" in report


def test_a_dry_run_looks_at_the_videos_and_writes_nothing(clips, tmp_path):
  (clips / "red" / "bad.mp4").write_text("text")
  try:
    log = extract(clips, tmp_path / "data", "--dry_run")
  finally:
    (clips / "red" / "bad.mp4").unlink()
  assert_names(
    log,
    "bad.mp4: cannot be opened",
    "19 videos",
    "3 classes, 0.01 hours, the longest 2 s; 1 cannot be used",
  )
  assert list(tmp_path.iterdir()) == []


def test_means_of_frames_for_models_of_whole_videos(clips, tmp_path):
  extract(clips, tmp_path / "data", "--video_level", "--num_frames=4")
  card = read_card(str(tmp_path / "data"))
  assert not card.frame_features
  assert card.feature_names == ["mean_rgb"]
  assert card.extraction["video_level"] is True
  assert card.extraction["num_frames"] == 4
  assert json.loads((tmp_path / "data" / "dataset.json").read_text())


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--output_dir=FOLDER"),
    (("--output_dir=x",), "--videos=FOLDER"),
    (("--output_dir=x", "--videos=none"), "--videos=none"),
    (("--output_dir=x", "--shard=4,3", "--videos=a"), "--shard=4,3"),
    (("--output_dir=x", "--shard=1,3", "--merge"), "--shard and --merge"),
    (
      ("--output_dir=x", "--shard=1,3", "--engine=ray"),
      "--shard and --engine=ray",
    ),
    (("--output_dir=x", "--ray_address=a:1"), "received --engine=local"),
    (("--output_dir=x", "--num_frames=3", "--frames_per_second=2"), "both"),
    (("--output_dir=x", "--frames_per_second=0"), "above 0"),
    (
      ("--output_dir=x", "--videos=a", "--fit_pca=3", "--pca_dir=b"),
      "--fit_pca and --pca_dir",
    ),
  ],
)
def test_wrong_command_lines_end_in_one_line(arguments, words):
  line = in_process.run_into_error(EXTRACT, *arguments)
  assert_names(line, words)


def test_sound_without_weights_is_left_out_and_said(clips, tmp_path):
  log = extract(clips, tmp_path / "data", "--audio=vggish", "--max_frames=1")
  assert_names(log, "The sound is left out", "--audio_weights=FILE")
  card = read_card(str(tmp_path / "data"))
  assert card.feature_names == ["rgb"]
  assert card.extraction["audio"] == ""


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "webm"])
def test_videos_as_data_name_this_tool(tmp_path, ending):
  codec = "libvpx" if ending == "webm" else "mpeg4"
  path = small_clips.make_clip(
    tmp_path / f"a.{ending}", (9, 9, 9), 1, codec=codec
  )
  line = in_process.run_into_error(
    "train", f"--train_data_pattern={path}", f"--train_dir={tmp_path}/model"
  )
  assert_names(line, "a video", "data_tools.extract_features")
