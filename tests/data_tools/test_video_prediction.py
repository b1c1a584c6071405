"""Tests of inference.py --videos: as trained, so predicted."""

import csv
import io
import json
import os
import shutil
import sys

import av
import in_process
import numpy as np
import pytest
import small_clips
from conftest import assert_names
from tiny_runs import TINY_FLAGS

import errors
import models
from data_tools import (
  extraction_runs,
  video_items,
  video_prediction,
  work_folder,
)
from data_tools.embedding_items import Item
from engine import train_dir as train_dirs
from engine.checkpoints import Checkpoints
from engine.local_files import lock
from engine.model_flags import write_model_flags
from media import parts
from media.extraction import Extracted, Extraction
from media.parts import Entry
from records.shards import numbered_records
from records.writing import RecordWriter, frame_record

EXTRACT = "data_tools.extract_features"


def make_run(folder, model_flags):
  """A folder as training leaves it, with untrained weights."""
  model = models.build_model(model_flags, quantized=False)
  write_model_flags(str(folder), model_flags)
  Checkpoints(str(folder), 1, model=model).save(3)
  return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with clips/, data/, a model of its frames, and new/ videos."""
  folder = tmp_path_factory.mktemp("trained")
  small_clips.make_folder(folder / "clips")
  colors = small_clips.COLORS
  small_clips.make_clip(
    folder / "new/changes.mp4", colors["blue"], 14, colors["red"]
  )
  small_clips.make_clip(folder / "new/green.mp4", colors["green"], 3)
  (folder / "new/text.mp4").write_text("text")
  in_process.run(
    EXTRACT,
    f"--videos={folder}/clips",
    f"--output_dir={folder}/data",
    "--encoder=random",
    "--splits=train:0.8,test:0.2",
    "--frames_per_second=2",
    "--fit_pca=6",
  )
  in_process.run(
    "train",
    f"--dataset_dir={folder}/data",
    f"--train_dir={folder}/model",
    "--model=FrameLevelLogisticModel",
    "--num_epochs=25",
    "--base_learning_rate=0.05",
  )
  return folder


def predict(train_dir, videos, folder, *more) -> str:
  return in_process.run(
    "inference",
    f"--train_dir={train_dir}",
    f"--videos={videos}",
    f"--output_file={folder}/predictions.csv",
    *more,
  )


def rows_of(path) -> list[dict]:
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def lines_by_id(path) -> dict[str, str]:
  _, *lines = path.read_text().splitlines()
  return {line.split(",")[0]: line for line in lines}


def test_the_train_dir_keeps_how_features_were_made(trained):
  settings = train_dirs.read_extraction(str(trained / "model"))
  assert settings["encoder"] == "random"
  assert settings["frames_per_second"] == 2.0
  assert settings["fit_pca"] == 6
  assert settings["feature_dtypes"] == ["float16"]
  kept, made = (
    sorted((trained / folder / "pca").iterdir()) for folder in ("data", "model")
  )
  assert len(kept) == 4
  for one, other in zip(kept, made, strict=True):
    assert one.read_bytes() == other.read_bytes()


def test_a_timeline_says_what_happens_when(trained, tmp_path):
  log = predict(
    trained / "model",
    f"{trained}/new/*.mp4",
    tmp_path,
    "--timeline",
    f"--html={tmp_path}/pages/gallery.html",
  )
  assert_names(
    log,
    "text.mp4: cannot be opened",
    "new/green.mp4: green ",
    f"Left out 1 videos, see {tmp_path}/predictions_left_out.csv",
    "Gallery:",
  )
  best = {
    row["VideoId"]: row["Name"]
    for row in reversed(rows_of(tmp_path / "predictions_readable.csv"))
  }
  assert best.keys() == {"changes", "green"}
  assert best["green"] == "green"
  (left,) = rows_of(tmp_path / "predictions_left_out.csv")
  assert left["id"] == "text"
  found = [
    (row["video_id"], row["start"], row["end"], row["class_name"])
    for row in rows_of(tmp_path / "timeline.csv")
    if row["rank"] == "1"
  ]
  assert found == [
    ("changes", "0", "5", "blue"),
    ("changes", "5", "10", found[1][3]),  # half of it is red
    ("changes", "10", "14", "red"),
    ("green", "0", "3", "green"),
  ]
  content = json.loads((tmp_path / "timeline.json").read_text())
  changes, green = content["videos"]
  assert changes["duration"] == pytest.approx(14)
  assert [window["start"] for window in changes["windows"]] == [0, 5, 10]
  assert green["top"][0]["name"] == "green"
  assert green["path"] == str(trained / "new/green.mp4")
  for page in ("pages/gallery.html", "timeline/changes.html"):
    assert "data:image/jpeg" in (tmp_path / page).read_text()
  assert not (tmp_path / "predictions.csv.extracted").exists()


def test_training_videos_get_the_predictions_of_their_records(
  trained, tmp_path, monkeypatch
):
  """By a model in one file, and though the prediction was stopped once."""
  in_process.run(
    "inference",
    f"--train_dir={trained}/model",
    f"--dataset_dir={trained}/data",
    f"--output_file={tmp_path}/records.csv",
    f"--output_model_tgz={tmp_path}/model.tgz",
  )
  given = (
    f"--input_model_tgz={tmp_path}/model.tgz",
    f"--untar_model_dir={tmp_path}/untarred",
    f"--videos={trained}/clips",
    f"--output_file={tmp_path}/videos.csv",
  )
  take = extraction_runs.Observer.__call__

  def stopping(self, key, result):
    take(self, key, result)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(extraction_runs.Observer, "__call__", stopping)
    code, _ = in_process.call("inference", *given)
  assert code == 130
  assert not (tmp_path / "videos.csv").exists()
  assert "Extracted 17 videos" in in_process.run("inference", *given)
  of_records = lines_by_id(tmp_path / "records.csv")
  of_videos = lines_by_id(tmp_path / "videos.csv")
  assert len(of_videos) == 18
  assert len(of_records) == 4
  for video_id, line in of_records.items():
    assert of_videos[video_id] == line
  assert not (tmp_path / "videos.csv.extracted").exists()
  assert not (tmp_path / "timeline.csv").exists()


def as_records_and_as_videos(clips, folder, of_data, of_model, *more):
  """Predictions of the same videos both ways; {id: line} of each."""
  in_process.run(
    EXTRACT,
    f"--videos={clips}",
    f"--output_dir={folder}/data",
    "--encoder=random",
    "--splits=train:0.8,test:0.2",
    *of_data,
  )
  in_process.run(
    "train",
    f"--dataset_dir={folder}/data",
    f"--train_dir={folder}/model",
    "--base_learning_rate=0.05",
    *of_model,
  )
  in_process.run(
    "inference",
    f"--train_dir={folder}/model",
    f"--dataset_dir={folder}/data",
    f"--output_file={folder}/records.csv",
  )
  predict(f"{folder}/model", clips, folder, *more)
  return (
    lines_by_id(folder / name) for name in ("records.csv", "predictions.csv")
  )


def test_bytes_and_some_classes(trained, tmp_path):
  """Each digit as of the records; the classes' own indices and names."""
  of_records, of_videos = as_records_and_as_videos(
    trained / "clips",
    tmp_path,
    ("--store=uint8", "--frames_per_second=2"),
    (
      "--model=FrameLevelLogisticModel",
      "--label_subset=blue,red",
      "--num_epochs=25",
    ),
    "--timeline",
  )
  assert len(of_records) == 4
  assert of_records.items() <= of_videos.items()
  rows = rows_of(tmp_path / "predictions_readable.csv")
  rows += [
    {"Label": row["class_index"], "Name": row["class_name"]}
    for row in rows_of(tmp_path / "timeline.csv")
  ]
  assert {(row["Label"], row["Name"]) for row in rows} == {
    ("0", "blue"),
    ("2", "red"),
  }
  best = {
    row["video_id"]: row["class_name"]
    for row in rows_of(tmp_path / "timeline.csv")
    if row["rank"] == "1"
  }
  assert [best[f"{name}0"] for name in ("blue", "red")] == ["blue", "red"]


def test_means_of_a_pca_as_bytes(trained, tmp_path):
  of_records, of_videos = as_records_and_as_videos(
    trained / "clips",
    tmp_path,
    ("--store=uint8", "--num_frames=3", "--fit_pca=5", "--video_level"),
    ("--model=LogisticModel", "--num_epochs=2"),
  )
  assert len(of_records) == 4
  assert of_records.items() <= of_videos.items()


def test_pictures_are_those_of_the_windows_and_of_the_videos_shape(tmp_path):
  blue, red = (small_clips.COLORS[name] for name in ("blue", "red"))
  path = small_clips.make_clip(
    tmp_path / "a.mp4", blue, 14, red, size=(128, 48)
  )
  item = Item("a", {video_items.FEATURE: str(path)}, ["any"])
  video = video_prediction._Video(item, 14.0, 28)
  video.windows = [(0, 2.5), (1, 6.5), (1, 7.5), (2, 12.0)]
  images = [image_of(jpeg) for jpeg in video_prediction._thumbnails(video)]
  for image, color in zip(images, (blue, blue, red, red), strict=True):
    assert image.shape == (144, 54, 3)
    assert np.abs(np.median(image, axis=(0, 1)) - color).max() < 20
  video.windows = []
  (image,) = map(image_of, video_prediction._thumbnails(video))
  assert image.shape == (144, 54, 3)


def test_very_long_videos_have_pictures_of_some_windows(tmp_path, monkeypatch):
  monkeypatch.setattr(video_prediction, "_MOST_THUMBNAILS", 2)
  path = small_clips.make_clip(tmp_path / "a.mp4", (9, 9, 9), 14)
  item = Item("a", {video_items.FEATURE: str(path)}, ["any"])
  video = video_prediction._Video(item, 14.0, 28)
  video.windows = [(0, 2.5), (1, 7.5), (2, 12.0)]
  made = video_prediction._thumbnails(video)
  assert list(map(bool, made)) == [True, False, True]
  path.unlink()
  assert video_prediction._thumbnails(video) == [b"", b"", b""]


def image_of(jpeg) -> np.ndarray:
  with av.open(io.BytesIO(jpeg)) as file:
    return next(file.decode(video=0)).to_ndarray(format="rgb24")


def test_who_reads_less_than_all_of_a_video_says_so(trained, tmp_path):
  model = tmp_path / "model"
  shutil.copytree(trained / "model", model)
  path = model / "model_flags.json"
  flags = json.loads(path.read_text())
  path.write_text(json.dumps({**flags, "max_frames": 6}))
  log = predict(model, f"{trained}/new", tmp_path)
  assert_names(
    log,
    "Of 1 videos the model reads the first 6 frames only",
    "new/changes.mp4 with 28",
    "--num_frames=6",
  )


def test_without_jinja2_pages_are_refused_before_any_work(
  trained, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "jinja2", None)
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={trained}/model",
    f"--videos={trained}/new",
    f"--output_file={tmp_path}/p.csv",
    "--timeline",
  )
  assert_names(line, "pip install -r requirements/videos.txt")
  assert not any(tmp_path.iterdir())


def test_features_of_another_model_are_of_no_use(tmp_path):
  folder = str(tmp_path / "extracted")
  path = extraction_runs.part_path(folder)
  kept = Extraction("random")
  extraction_runs.run_part(path, {}, kept, num_workers=1)
  video_prediction._begin_again_if_different(folder, kept)
  assert os.path.exists(path)
  other = Extraction("random", num_frames=3)
  with open(path, "ab") as file:
    assert lock(file)
    with pytest.raises(errors.UserError, match="another is writing"):
      video_prediction._begin_again_if_different(folder, other)
  assert os.path.exists(path)
  video_prediction._begin_again_if_different(folder, other)
  assert not os.path.exists(path)


def test_only_other_settings_are_a_reason_to_begin_again(tmp_path):
  kept = Extraction("random")
  for number in (1, 2):  # the same video in both
    path = extraction_runs.part_path(str(tmp_path), number, 2)
    with RecordWriter(path) as writer:
      writer.write(parts._pack({"version": 1, **kept.to_dict()}))
      writer.write(parts._pack({"key": "a", "stamp": ""}))
  with pytest.raises(errors.UserError, match="each video in one part"):
    video_prediction._begin_again_if_different(str(tmp_path), kept)
  assert len(list(tmp_path.iterdir())) == 2


def test_another_start_for_one_output_is_refused_until_the_end(
  trained, tmp_path, monkeypatch
):
  given = (
    "inference",
    f"--train_dir={trained}/model",
    "--num_workers=1",
    f"--videos={trained}/new",
    f"--output_file={tmp_path}/p.csv",
  )
  folder = f"{tmp_path}/p.csv.extracted"
  seen = []

  def start_another(*_):
    for shared in (False, True):
      with (
        pytest.raises(errors.UserError) as error,
        work_folder.opened(folder, "output_file", [], shared),
      ):
        pass
      seen.append(str(error.value))

  for name in ("_warn_of_long_videos", "_write_reports"):
    monkeypatch.setattr(video_prediction, name, start_another)
  in_process.run(*given)
  assert len(seen) == 4
  assert not os.path.exists(folder)
  with work_folder.opened(folder, "output_file", [], shared=True):
    seen.append(in_process.run_into_error(*given))
    in_process.run(*given, "--shard=1,1")
  for line in seen:
    assert_names(line, f"the only program that works in {folder}")


def test_a_window_has_its_frames_alone(tmp_path):
  class Parts:
    entries = {"key": Entry("", 0, 0, "", "")}

    def read(self, key):
      times = np.array([0.0, 4.0, 6.0, 14.0])
      return Extracted({"rgb": numbers}, times, 15.5)

  class Features:
    def stored(self, found):
      return {"rgb": found.arrays["rgb"].astype(np.float16)}

  numbers = np.arange(8, dtype=np.float32).reshape(4, 2)
  item = Item("a", {"video": "a.mp4"}, ["any"])
  (video,), left_out = video_prediction._write_records(
    [item], ["key"], Parts(), Features(), str(tmp_path), True
  )
  assert left_out == []
  assert video.windows == [(0, 4.0), (1, 6.0), (2, 14.0)]
  half = numbers.astype(np.float16)
  for name, wanted in (
    ("videos", [half]),
    ("windows", [half[:2], half[2:3], half[3:]]),
  ):
    path = str(tmp_path / f"{name}.tfrecord")
    found = [bytes(data) for _, data in numbered_records(path, print)]
    assert found == [frame_record(b"a", None, {"rgb": one}) for one in wanted]
  video.window_tops = [[], [], []]
  windows = video_prediction._result(video).windows
  assert [(one.start, one.end) for one in windows] == [
    (0, 5),
    (5, 10),
    (10, 15),
  ]
  video.duration = 14.5
  assert video_prediction._result(video).windows[2].end == 14.5


def files_of(folder) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
  ("videos", "more"),
  [
    ("list.csv", ("--output_file=list.csv",)),
    ("list_readable.csv", ("--output_file=list.csv",)),
    ("p_left_out.csv", ()),
    ("one.mp4", ("--output_file=one.mp4",)),
    ("*.mp4", ("--output_file=link.csv",)),
    ("one.mp4", ("--output_model_tgz=one.mp4",)),
    ("list.csv", ("--html=list.csv",)),
    ("list.csv", ("--html=one.mp4",)),
    ("one.mp4", ("--html=model.ckpt-1.index",)),
    ("timeline.csv", ("--timeline",)),
    ("one.mp4", ("--html=p.csv",)),
    ("one.mp4", ("--html=p_left_out.csv",)),
    ("one.mp4", ("--html=timeline.json", "--timeline")),
    ("one.mp4", ("--output_file=timeline.csv", "--timeline")),
  ],
)
def test_inputs_and_files_of_a_run_stay(
  trained, tmp_path, monkeypatch, videos, more
):
  monkeypatch.chdir(tmp_path)
  shutil.copy(trained / "new/green.mp4", "one.mp4")
  for name in {"list.csv", "list_readable.csv", "p_left_out.csv", videos}:
    if name.endswith(".csv"):
      (tmp_path / name).write_text("id,path,reason\n1,one.mp4,\n")
  (tmp_path / "link.csv").symlink_to("one.mp4")
  (tmp_path / "model.ckpt-1.index").write_text("weights")
  before = files_of(tmp_path)
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={trained}/model",
    f"--videos={videos}",
    "--output_file=p.csv",
    *more,
  )
  assert_names(line, "Expected a file ", "Name another")
  assert files_of(tmp_path) == before


@pytest.mark.parametrize(
  "name",
  ["p_left_out.csv", "timeline.csv", "timeline.json", "timeline", "folder"],
)
def test_files_of_the_users_own_are_not_replaced(trained, tmp_path, name):
  path = tmp_path / name
  if name == "folder":
    path = tmp_path / "timeline.csv"
    path.mkdir()
  else:
    path.write_text("id,path\nmine")
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={trained}/model",
    f"--videos={trained}/new",
    f"--output_file={tmp_path}/p.csv",
    "--timeline",
  )
  assert_names(line, f"none, as {path}", "Move it elsewhere")
  assert [one.name for one in tmp_path.iterdir()] == [path.name]
  assert path.is_dir() or path.read_text() == "id,path\nmine"


def test_files_of_an_earlier_start_are_replaced(trained, tmp_path):
  more = ("--timeline", f"--html={tmp_path}/g.html", "--spreadsheet_safe")
  (tmp_path / "timeline.json").write_text("")
  predict(trained / "model", trained / "new", tmp_path, *more)
  before = files_of(tmp_path / "timeline")
  assert len(before) == 2
  (tmp_path / "timeline.csv").write_text(
    (tmp_path / "timeline.csv").read_text() + "more"
  )
  predict(trained / "model", trained / "new", tmp_path, *more)
  assert files_of(tmp_path / "timeline") == before
  assert "more" not in (tmp_path / "timeline.csv").read_text()


def test_models_of_whole_videos(trained, tmp_path):
  flags = {
    **TINY_FLAGS,
    "feature_names": "mean_rgb",
    "feature_sizes": "128",
    "num_classes": 3,
  }
  train_dir = make_run(tmp_path / "model", flags)
  settings = {
    **Extraction("random").to_dict(),
    "video_level": True,
    "fit_pca": 0,
    "feature_names": ["mean_rgb"],
    "feature_dtypes": ["float32"],
    "feature_ranges": [],
  }
  (train_dir / "extraction.json").write_text(json.dumps(settings))
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={train_dir}",
    f"--videos={trained}/new",
    f"--output_file={tmp_path}/p.csv",
    "--timeline",
  )
  assert_names(line, "a model of frames", flags["model"], "--timeline")
  gallery = tmp_path / "gallery.html"
  log = predict(train_dir, trained / "new", tmp_path, f"--html={gallery}")
  assert "new/green.mp4: Class " in log
  assert gallery.read_text().count("data:image/jpeg") >= 2
  assert len(lines_by_id(tmp_path / "predictions.csv")) == 2


def test_a_model_of_other_features_is_an_error(tmp_path):
  train_dir = make_run(tmp_path / "model", TINY_FLAGS)
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={train_dir}",
    f"--videos={tmp_path}",
    f"--output_file={tmp_path}/p.csv",
  )
  assert_names(line, f"{tmp_path}/model", "extraction.json", "extract_features")


def test_a_new_model_removes_what_the_old_one_knew(trained, tmp_path):
  model = tmp_path / "model"
  shutil.copytree(trained / "model", model)
  train_dirs.remove_run(str(model))
  assert not any(model.iterdir())


def test_no_video_that_can_be_read(trained, tmp_path):
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={trained}/model",
    f"--videos={trained}/new/text.mp4",
    f"--output_file={tmp_path}/p.csv",
  )
  assert_names(line, "text.mp4: cannot be opened", "p_left_out.csv")
  assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--videos=a", "--input_data_pattern=b"), "--videos and --input_data"),
    (("--videos=a", "--dataset_dir=b"), "--videos and --dataset_dir"),
    (("--videos=a", "--segment_labels"), "--videos and --segment_labels"),
    (("--videos=a", "--min_frames=9"), "--videos and --min_frames"),
    (("--timeline",), "--videos=FILES with --timeline"),
    (("--html=a.html",), "--videos=FILES with --html"),
  ],
)
def test_wrong_command_lines_end_in_one_line(arguments, words):
  assert_names(in_process.run_into_error("inference", *arguments), words)


def test_frames_belong_to_the_windows_of_their_times():
  times = np.array([0, 4.9, 4.9999999, 5.0, 12.0, 14.99])
  found = [
    (number, rows.tolist())
    for number, rows in video_prediction.windows_of(times)
  ]
  assert found == [(0, [0, 1]), (1, [2, 3]), (2, [4, 5])]


def test_features_are_made_in_shards_and_predicted_at_the_merge(
  trained, tmp_path
):
  given = (trained / "model", f"{trained}/clips/**/*.mp4")
  predict(*given, tmp_path)
  folder = tmp_path / "shards"
  for number in (2, 1):
    log = predict(*given, folder, f"--shard={number},2")
    assert_names(log, f"Part {number} of 2 is complete", "--merge")
    assert not (folder / "predictions.csv").exists()
  log = predict(*given, folder, "--merge")
  assert "Extracted" not in log
  wanted = (tmp_path / "predictions.csv").read_bytes()
  assert (folder / "predictions.csv").read_bytes() == wanted
  assert not (folder / "predictions.csv.extracted").exists()


def test_a_merge_deletes_nothing(trained, tmp_path):
  given = (trained / "model", f"{trained}/new/*.mp4")
  predict(*given, tmp_path, "--shard=1,1")
  (part,) = (tmp_path / "predictions.csv.extracted").iterdir()
  part.write_bytes(part.read_bytes().replace(b'"random"', b'"rendom"'))
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={given[0]}",
    f"--videos={given[1]}",
    f"--output_file={tmp_path}/predictions.csv",
    "--merge",
  )
  assert "rendom" in line or "received none for" in line
  assert part.exists()


@pytest.mark.parametrize("flag", ["--shard=1,2", "--merge", "--engine=ray"])
def test_flags_of_videos_need_videos(flag):
  line = in_process.run_into_error("inference", flag)
  assert_names(line, "--videos=FILES", flag.partition("=")[0])
