"""Tests of video_items: files, ids and labels of videos."""

import json

import pytest
import small_clips
from conftest import assert_names

import errors
from data_tools import video_items
from data_tools.video_items import FEATURE, find_labeled_videos, find_videos


@pytest.fixture
def clips(tmp_path):
  """Empty files: none is opened."""
  folder = tmp_path / "clips"
  for name in (
    "dog/1.mp4",
    "dog/deep/2.MKV",
    "cat/3.webm",
    "top.avi",
    "notes.txt",
    ".hidden.mp4",
    ".git/4.mp4",
  ):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
  return folder


def ids(found) -> list[str]:
  return [item.video_id for item in found.items]


def labels(found) -> dict:
  return {item.video_id: item.labels for item in found.items}


def problems(found) -> dict:
  return {item.video_id: item.problem for item in found.items if item.problem}


def test_a_folder_is_searched_with_those_in_it(clips):
  found = find_videos(str(clips))
  assert list(found.keys) == [
    "cat/3.webm",
    "dog/1.mp4",
    "dog/deep/2.MKV",
    "top.avi",
  ]
  assert ids(found) == ["3", "1", "2", "top"]
  assert found.items[0].paths[FEATURE] == str(clips / "cat/3.webm")
  assert find_videos(f"{clips}/").keys == found.keys


def test_patterns_and_single_files(clips, monkeypatch):
  assert ids(find_videos(f"{clips}/dog/*.mp4")) == ["1"]
  assert list(find_videos(f"{clips}/*/*.*").keys) == ["cat/3.webm", "dog/1.mp4"]
  deep = find_videos(f"{clips}/**/*.MKV")
  assert list(deep.keys) == ["dog/deep/2.MKV"]
  strange = clips / "a[1].mp4"
  strange.touch()
  assert ids(find_videos(str(strange))) == ["a[1]"]
  monkeypatch.chdir(clips)
  assert ids(find_videos("*.avi")) == ["top"]
  assert ids(find_videos("top.avi")) == ["top"]


@pytest.mark.parametrize("name", ["nothing*.mp4", "empty", "no.mp4"])
def test_no_videos(tmp_path, name):
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UserError) as error:
    find_videos(str(tmp_path / name))
  assert_names(str(error.value), f"--videos={tmp_path}/{name}", "found none")


@pytest.mark.parametrize("named", ["*.npy", "one.NPY"])
def test_embeddings_name_the_tool_that_takes_them(tmp_path, named):
  (tmp_path / "one.NPY").touch()
  (tmp_path / "two.npy").touch()
  with pytest.raises(errors.UserError) as error:
    find_videos(str(tmp_path / named))
  assert_names(str(error.value), str(tmp_path), "data_tools.import_embeddings")


def test_ids_are_names_as_far_as_these_differ():
  assert video_items.name_videos(["a/1.mp4", "a/2.mp4"]) == (["1", "2"], "")
  names, note = video_items.name_videos(["a/1.mp4", "b/1.mp4", "b/2.mp4"])
  assert names == ["a/1", "b/1", "b/2"]
  assert_names(note, "called 1", "paths without ending")
  names, note = video_items.name_videos(["a/1.mp4", "a/1.avi"])
  assert names == ["a/1.mp4", "a/1.avi"]
  assert_names(note, "their paths.")
  assert video_items.name_videos(["\udcff.mp4"])[0] == ["\ufffd"]


def test_folders_are_classes_where_there_are_no_labels(clips):
  found = find_labeled_videos(str(clips), "")
  assert labels(found) == {"1": ["dog"], "2": ["dog"], "3": ["cat"]}
  assert list(found.left_out) == [str(clips / "top.avi")]
  assert_names(found.notes[-1], "names of the folders", "dog (2), cat (1)")
  with pytest.raises(errors.UserError) as error:
    find_labeled_videos(f"{clips}/*.avi", "")
  assert_names(str(error.value), "--labels=FILE.csv", "folder for each class")


@pytest.mark.parametrize("place", [".", "clips"])
def test_labels_name_files_by_path_or_name(tmp_path, clips, place):
  names = {
    "dog/1.mp4": "dog; outdoors",
    "2.MKV": "dog",
    "cat/3": "cat",
    "missing.mp4": "cat",
    "1": "cat",
  }
  if place == ".":
    names["clips/top.avi"] = "none"
  path = small_clips.write_labels(
    tmp_path / place / "labels.csv",
    names,
    id=lambda name: f"id {name}",
    split=lambda name: "test" if name == "2.MKV" else "",
    group=lambda name: name[:3],
  )
  found = find_labeled_videos(str(clips), str(path))
  assert labels(found)["id dog/1.mp4"] == ["dog", "outdoors"]
  assert problems(found) == {
    "id missing.mp4": "no such file",
    "id 1": "an earlier line has the same file",
  }
  item = found.items[1]
  assert (item.split, item.group) == ("test", "2.M")
  assert item.paths[FEATURE] == str(clips / "dog/deep/2.MKV")
  left = [] if place == "." else [str(clips / "top.avi")]
  assert list(found.left_out) == left
  assert len(set(found.keys)) == len(found.keys) == len(names)


def test_a_name_of_several_files_needs_its_folder(tmp_path, clips):
  (clips / "cat/1.mp4").touch()
  (clips / "1.mp4").touch()
  names = {"1": "x", "1.mp4": "top", "dog/1.mp4": "dog"}
  path = small_clips.write_labels(tmp_path / "labels.csv", names)
  found = find_labeled_videos(str(clips), str(path))
  assert list(problems(found).values()) == [
    "several files have this name; write its folder too"
  ]
  named = [
    (key, item.labels)
    for key, item in zip(found.keys, found.items, strict=True)
  ]
  assert named[1:] == [("1.mp4", ["top"]), ("dog/1.mp4", ["dog"])]
  assert len(found.left_out) == 4  # cat/1, cat/3, dog/deep/2, top


@pytest.mark.parametrize(
  "content",
  [{"1": "dog", "3": ["cat", 7]}, [["dog/1.mp4", "dog"], ["3", ["cat", 7]]]],
)
def test_labels_in_json(tmp_path, clips, content):
  path = tmp_path / "labels.json"
  path.write_text(json.dumps(content))
  found = find_labeled_videos(str(clips), str(path))
  assert labels(found) == {"1": ["dog"], "3": ["cat", "7"]}
  assert len(found.left_out) == 2


def test_a_csv_of_videos(tmp_path, clips):
  names = {
    "clips/dog/1.mp4": "dog",
    "clips/./dog/1.mp4": "cat",
    "clips/gone.mp4": "cat;dog",
    f"{clips}/top.avi": "top",
  }
  path = small_clips.write_labels(
    clips.parent / "videos.csv",
    names,
    id=lambda name: "own" if "gone" in name else "",
    split=lambda name: "best" if "gone" in name else "test",
  )
  found = find_labeled_videos(str(path), "")
  assert labels(found) == {
    "1": ["dog"],
    "own": ["cat", "dog"],
    "top": ["top"],
  }
  assert list(found.keys) == [
    "clips/dog/1.mp4",
    "clips/gone.mp4",
    "clips/top.avi",
  ]
  assert_names(problems(found)["own"], "the split best")
  assert_names(found.notes[0], "1 lines", "name a file again")
  path.write_text("path\nclips/top.avi\n\nclips/dog/1.mp4\n")
  assert ids(find_videos(str(path))) == ["top", "1"]


@pytest.mark.parametrize(
  ("name", "content", "words"),
  [
    ("a.csv", "path,label\n", "the column labels in --labels="),
    ("a.csv", None, "No such file"),
    ("a.csv", b"path,labels\n\xff,a\n", "a CSV in UTF-8"),
    ("a.csv", "path;labels\n1.mp4;a\n", "Separate the columns by commas."),
    ("a.json", "[1, 2]", "JSON of {id: category}"),
    ("a.json", "{", "JSON of {id: category}"),
    ("a.json", None, "No such file"),
  ],
)
def test_labels_that_cannot_be_read(tmp_path, clips, name, content, words):
  path = tmp_path / name
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    path.write_text(content)
  with pytest.raises(errors.UserError) as error:
    find_labeled_videos(str(clips), str(path))
  assert_names(str(error.value), words, str(path))


def test_a_csv_without_videos_or_with_labels_twice(tmp_path):
  path = tmp_path / "videos.csv"
  path.write_text("path,labels\n")
  with pytest.raises(errors.UserError, match="found none"):
    find_labeled_videos(str(path), "")
  with pytest.raises(errors.UserError, match="Leave --labels out"):
    find_labeled_videos(str(path), "labels.csv")
