"""Tests of reports.dataset_page."""

import html.parser
import re

import in_process
import numpy as np
import pytest
from make_records import small_frames, small_video, write_records

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from reports import charts

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & <b>"
EMPTY = {"br", "circle", "col", "img", "line", "meta"}


@pytest.fixture
def no_charts(monkeypatch):
  """Leaves out what takes long and does not matter here."""
  monkeypatch.setattr(charts, "_uri", lambda _: "data:image/svg+xml;base64,")


class Page(html.parser.HTMLParser):
  """The elements of a page, and its text.

  Attributes:
    tags: (name, attributes) of each element.
    text: all text outside of style.
    cells: text of the cells of each row of each table.
  """

  def __init__(self, source: str):
    super().__init__()
    self.tags: list[tuple[str, dict]] = []
    self.text = ""
    self.cells: list[list[list[str]]] = []
    self._open: list[str] = []
    self.feed(source)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == "table":
      self.cells.append([])
    elif tag == "tr":
      self.cells[-1].append([])
    elif tag in ("td", "th"):
      self.cells[-1][-1].append("")
    if tag not in EMPTY:
      self._open.append(tag)

  def handle_endtag(self, tag):
    if tag in EMPTY:
      return
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open[-1:] == ["style"]:
      return
    self.text += data
    if {"td", "th"} & set(self._open):
      self.cells[-1][-1][-1] += data.strip()


def make_page(folder, records, *arguments) -> tuple[Page, str]:
  """The page of a file of records."""
  path = write_records(folder / "train0", records)
  output = folder / "page.html"
  in_process.run(
    "data_tools.inspect_dataset", path, f"--html={output}", *arguments
  )
  source = output.read_text(encoding="utf-8")
  return Page(source), source


@pytest.mark.usefixtures("no_charts")
def test_numbers_of_the_page(tmp_path):
  label_sets = [[0, 1], [0, 1], [0], [0, 2], [2]]
  records = [
    small_frames(f"v{number}", 2 + number, labels)
    for number, labels in enumerate(label_sets)
  ]
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n0,Dog\n1,Cat\n2,日本\n")
  page, source = make_page(tmp_path, records)

  groups, files, classes, matrix, features = page.cells
  assert groups[1] == ["train", "5", "20", "8", "0"]
  assert files[1][:4] == ["train0", "5", "20", "8"]
  assert classes[1] == ["Dog", "", "0.8", "0", "4"]
  assert classes[2] == ["Cat", "", "1.0", "1", "2"]
  assert matrix[0] == ["", "Dog", "Cat", "日本"]
  assert matrix[1:] == [
    ["Dog", "·", "50", "25"],
    ["Cat", "100", "·", ""],
    ["日本", "50", "", "·"],
  ]
  assert features[1][:3] == ["audio", "uint8", "2"]
  # Videos of Dog with 0 and with 1 other labels.
  assert re.findall(r'"width:([\d.]+)%" title="(\d+) videos', source)[:2] == [
    ("25.000", "1"),
    ("75.000", "3"),
  ]
  lines = re.findall(r"<title>(.*)</title></line>", source)
  assert lines == ["2 videos with Dog and Cat", "1 videos with Dog and 日本"]
  tiles = re.findall(r'"tile"><b>(.*)</b><span>(.*)</span>', source)
  assert tiles == [
    ("5", "videos"),
    ("20", "frames"),
    ("3", "of 3 classes"),
    ("1.60", "labels a video"),
    ("1", "file"),
  ]
  titles = [text for tag, text in re.findall(r"<(h3)>(.*)</h3>", source)]
  assert titles == [
    "Label frequency",
    "Labels a video",
    "Frames a video",
    "audio, 2 uint8 a frame",
    "rgb, 3 uint8 a frame",
    "audio",
    "rgb",
  ]


@pytest.mark.usefixtures("no_charts")
def test_texts_of_others_stay_text(tmp_path):
  audio = np.ones((3, 2))
  records = [
    small_frames(HOSTILE, 3, [0, 1], rgb=None, audio=None, **{HOSTILE: audio})
  ] * 2
  quoted = HOSTILE.replace('"', '""')
  (tmp_path / "vocabulary.csv").write_text(
    f'Index,Name\n0,"{quoted}"\n1,\x00\x1b[0m\u202eab\n'
  )
  folder = tmp_path / "<i>'\" onload=x"
  folder.mkdir()
  page, source = make_page(folder, records)
  tags = {tag for tag, _ in page.tags}
  assert not tags & {"script", "b>", "i>", "link", "iframe", "object"}
  names = {name for _, attributes in page.tags for name in attributes}
  assert not [name for name in names if name.startswith("on")]
  images = [of for tag, of in page.tags if tag == "img"]
  assert {of["src"].partition(",")[0] for of in images} == {
    "data:image/svg+xml;base64"
  }
  assert page.text.count(HOSTILE) > 5
  assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", source)


def test_nothing_is_fetched(tmp_path):
  page, source = make_page(tmp_path, [small_frames("a")])
  rules = [of["content"] for tag, of in page.tags if "http-equiv" in of]
  assert rules == [
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  ]
  assert "http:" not in source
  assert "https:" not in source
  assert not [1 for _, of in page.tags if of.keys() & {"href", "srcset"}]
  # Screen readers, and browsers that show no images.
  assert all(of["alt"] for tag, of in page.tags if tag == "img")


@pytest.mark.usefixtures("no_charts")
def test_the_chosen_video_and_classes_are_drawn(tmp_path):
  records = [
    small_frames("one", 3, [1]),
    small_frames("two", 4, [2, 3]),
    small_frames("three", 5, [2]),
  ]
  page, _ = make_page(tmp_path, records)
  assert "one, 3 frames: class 1" in page.text
  page, _ = make_page(tmp_path, records, "--video_id=two", "--classes=3")
  assert "two, 4 frames: class 2, class 3" in page.text
  classes, matrix = page.cells[2:4]
  assert [row[0] for row in classes[1:]] == ["class 3"]
  # With those that it occurs with.
  assert matrix[0] == ["", "class 3", "class 2"]


@pytest.mark.usefixtures("no_charts")
def test_the_first_video_without_frames_is_not_drawn(tmp_path):
  records = [small_frames("empty", 0), small_frames("full", 3)]
  page, _ = make_page(tmp_path, records)
  assert "full, 3 frames" in page.text


def test_video_level_records_and_one_class(tmp_path):
  page, source = make_page(tmp_path, [small_video("a", [0])])
  assert "One video" in page.text
  assert "mean_rgb, 3 float32 a video" in page.text
  assert "Which labels come with which" not in page.text
  assert "frames" not in dict(
    re.findall(r"<span>(.*?)</span>()", source.split("<section>")[0])
  )


def test_neither_labels_nor_numbers(tmp_path):
  page, _ = make_page(
    tmp_path, [small_video("a", None, mean_rgb=None, mean_audio=None)]
  )
  assert "1 video without any feature" in page.text
  for title in ("Labels and frames", "Classes,", "Features", "One video"):
    assert title not in page.text


@pytest.mark.usefixtures("no_charts")
def test_numbers_that_are_all_nan(tmp_path):
  page, _ = make_page(tmp_path, [small_video("a", mean_rgb=[np.nan] * 3)])
  row = next(row for row in page.cells[-1] if row[0] == "mean_rgb")
  assert row == ["mean_rgb", "float32", "3", *"----", "0", "0", "3", "0"]
