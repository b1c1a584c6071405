"""Tests of reports.video_pages."""

import os
import re
from pathlib import Path

import pytest
from pages import Page

from reports import video_pages
from reports.results import ClassScore, VideoResult, Window

HOSTILE = [
  "<script>alert(1)</script>",
  "\"quoted\" & 'quoted'",
  "</script></style></title><img src=x onerror=alert(1)>",
  "猫と犬",
  "قطط",
  "{{ 7 * 7 }}",
]


def scores(*pairs):
  return [ClassScore(index, f"name{index}", part) for index, part in pairs]


def windows_of(*tops):
  """Windows of five seconds; the picture of each is its number."""
  return [
    Window(5.0 * number, 5.0 * number + 5, top, b"picture%d" % number)
    for number, top in enumerate(tops)
  ]


def picture(number):
  return video_pages.jpeg_uri(b"picture%d" % number)


@pytest.fixture
def work(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def timeline(result, **options):
  path = video_pages.write_timeline_page("pages", result, **options)
  assert path == video_pages.timeline_path("pages", result.video_id)
  return Page(Path(path))


def gallery(work, results, **options):
  video_pages.write_gallery("all.html", results, "My videos", **options)
  return Page(work / "all.html")


def result_of(video_id, top, *tops, duration=None):
  return VideoResult(
    f"clips/{video_id}.mp4",
    video_id,
    5.0 * len(tops) if duration is None else duration,
    top,
    windows_of(*tops),
  )


# --------------------------------------------------------------------------
# The timeline page


def test_a_band_is_as_high_as_the_confidence_when_it_is(work):
  one = result_of(
    "a",
    scores((1, 0.6), (2, 0.3)),
    scores((1, 0.75), (2, 0.5)),
    scores((1, 0.75)),
    scores((2, 0.9), (1, 0.25)),
    scores((1, 0.5)),
  )
  page = timeline(one)
  paths = [found["d"] for found in page.all("path")]
  assert paths == [
    "M0 100H0V25H500V75H750V50H1000V100z",
    "M0 100H0V50H250V100H500V10H750V100H1000V100z",
  ]
  labels = [found["aria-label"] for found in page.all("svg", role="img")]
  assert labels == [
    "name1: highest at 0:00, 75%",
    "name2: highest at 0:10, 90%",
  ]
  runs = [(run["class"], run["x"], run["width"]) for run in page.all("rect")]
  assert runs == [
    ("k0", "0", "500"),
    ("k1", "500", "250"),
    ("k0", "750", "250"),
  ]


def test_every_window_is_in_the_list_with_its_time_and_classes(work):
  tops = [scores((number, 0.9), (50, 0.004)) for number in range(30)]
  page = timeline(result_of("a", scores((1, 0.9)), *tops, duration=149.25))
  items = [found for found in page.all("li") if "data-start" in found]
  assert [item["data-start"] for item in items] == [
    str(5 * number) for number in range(30)
  ]
  links = page.all("a", class_="at time")
  assert links[13]["href"] == "../clips/a.mp4#t=65"
  assert "1:05 to 1:10" in page.texts
  assert page.texts.count("name29") >= 1
  assert page.texts.count("<1%") >= 30
  shown = [found["src"] for found in page.all("img", loading="lazy")]
  assert shown == [picture(number) for number in range(30)]


def test_the_row_of_pictures_covers_the_whole_time(work):
  for count, wanted in ((1, 1), (7, 7), (12, 12), (30, 12), (125, 12)):
    film = video_pages._film(windows_of(*[[]] * count))
    assert len(film) == wanted
    assert sum(float(frame["seconds"]) for frame in film) == 5 * count


def test_long_videos_keep_some_of_the_pictures(work):
  count = 2 * video_pages.MAX_PICTURES + 1
  page = timeline(result_of("a", [], *[scores((1, 0.5))] * count))
  shown = page.all("img", loading="lazy")
  assert count / 4 < len(shown) <= video_pages.MAX_PICTURES
  assert len([one for one in page.all("li") if "data-start" in one]) == count


def test_a_class_that_is_best_for_a_moment_has_a_band(work):
  common = scores(*((index, 0.5 - index / 100) for index in range(12)))
  moment = scores((77, 0.98))
  one = result_of("a", common[:3], *[common] * 40, moment)
  lanes = [score.index for score in video_pages._choose_lanes(one)]
  assert len(lanes) == video_pages.LANES
  assert lanes[:6] == [0, 1, 2, 3, 4, 5]
  assert 77 in lanes


@pytest.mark.parametrize(
  ("end", "times"),
  [
    (3, ["0:00", "0:01", "0:02"]),
    (61, ["0:00", "0:10", "0:20", "0:30", "0:40", "0:50"]),
    (7200, ["0:00", "15:00", "30:00", "45:00", "1:00:00"]),
    (90000, ["0:00", "3:00:00", "6:00:00"]),
  ],
)
def test_the_axis_has_few_round_times(end, times):
  ticks = video_pages._ticks(end)
  assert [tick["time"] for tick in ticks][: len(times)] == times
  assert len(ticks) <= 10
  assert all(float(tick["left"]) <= 94 for tick in ticks)
  assert [tick["is_late"] for tick in ticks] == [
    float(tick["left"]) > 80 for tick in ticks
  ]


def test_a_video_without_windows_has_its_picture_and_no_chart(work):
  one = VideoResult("a.mp4", "a", 0.0, scores((3, 0.75)), thumbnail=b"picture9")
  page = timeline(one, gallery="all.html")
  assert page.all("div", id="chart") == []
  assert page.all("img", src=picture(9))
  assert "75%" in page.texts
  assert page.addresses() == {"../a.mp4", "../all.html"}


def test_windows_without_pictures_or_classes_are_shown(work):
  bare = [Window(0.0, 5.0, []), Window(5.0, 5.0, [])]
  page = timeline(VideoResult("a.mp4", "a", 0.0, [], bare))
  assert len([one for one in page.all("li") if "data-start" in one]) == 2
  assert page.all("path") == []


def test_pages_have_different_names_that_file_systems_take():
  ids = ["a", "a/b", "a:b", "a_b", "..", "", "x" * 300, "x" * 301, "猫" * 200]
  ids += ["caf\udce9", "caf\udce8", "a\n"]
  paths = [video_pages.timeline_path("pages", one) for one in ids]
  assert len(set(paths)) == len(ids)
  for path in paths:
    folder, name = os.path.split(path)
    assert folder == "pages"
    assert len(name.encode()) <= 220
    assert name.endswith(".html")
    assert not name.startswith(".")
  assert paths[0] == "pages/a.html"


# --------------------------------------------------------------------------
# The gallery


def test_a_video_is_under_the_classes_that_it_has(work):
  one = result_of(
    "a",
    scores((1, 0.2), (2, 0.15)),
    scores((3, 0.9), (2, 0.1)),
    scores((2, 0.55), (4, 0.49)),
  )
  two = result_of("b", scores((2, 0.9), (1, 0.3), (5, 0.2)))
  page = gallery(work, iter([one, two]))
  names = [found["data-name"] for found in page.all("section")]
  assert names == ["name1", "name2", "name3"]
  cards = [
    (found["data-video"], found["data-name"])
    for found in page.all("li", class_="card")
  ]
  # Under a class the highest confidence comes first.
  assert cards == [
    ("1", "clips/b.mp4"),
    ("0", "clips/a.mp4"),
    ("1", "clips/b.mp4"),
    ("0", "clips/a.mp4"),
    ("0", "clips/a.mp4"),
  ]
  assert "2 videos, 3 classes" in page.texts
  links = {found["href"] for found in page.all("a")}
  assert {"#class1", "#class2", "#class3"} <= links
  assert {found["id"] for found in page.all("section")} == {
    "class1",
    "class2",
    "class3",
  }


def test_the_moments_that_decided_are_linked(work):
  parts = [0.1, 0.8, 0.9, 0.85, 0.2, 0.6, 0.1, 0.44, 0.7]
  one = result_of("a b", scores((1, 0.5)), *(scores((1, p)) for p in parts))
  page = gallery(work, [one], timeline_dir="pages")
  moments = [found["href"] for found in page.all("a", class_="time")]
  assert moments == [f"clips/a%20b.mp4#t={second}" for second in (10, 40, 25)]
  assert [found["href"] for found in page.all("a", class_="open")] == [
    "pages/a%20b.html#t=10"
  ]
  assert [found["src"] for found in page.all("img")] == [picture(2)]
  assert page.texts[page.texts.index("at 0:40") + 1] == "70%"


def test_without_timeline_pages_the_picture_opens_the_video(work):
  one = result_of("a", scores((1, 0.5)), scores((1, 0.5)), scores((1, 0.9)))
  page = gallery(work, [one])
  assert page.all("a", class_="open")[0]["href"] == "clips/a.mp4#t=5"


def test_videos_without_windows_show_their_picture_under_each_class(work):
  one = VideoResult(
    "a.mp4", "a", 61.0, scores((1, 0.9), (2, 0.4)), thumbnail=b"picture5"
  )
  page = gallery(work, [one])
  assert [found["src"] for found in page.all("img")] == [picture(5)] * 2
  assert "1:01" in page.texts
  assert page.addresses() == {"a.mp4"}


def test_a_class_of_the_whole_video_alone_shows_a_picture(work):
  one = result_of("a", scores((1, 0.9)), [], [], [])
  assert gallery(work, [one]).all("img")[0]["src"] == picture(1)


def test_a_class_of_moments_alone_is_said_to_be_one(work):
  whole = scores((1, 0.8), (2, 0.24), (3, 0.05), (4, 0.04))
  page = gallery(work, [result_of("a", whole, scores((2, 0.5), (3, 0.49)))])
  assert [found["data-name"] for found in page.all("section")] == [
    "name1",
    "name2",
  ]
  assert page.texts.count("in moments") == 1
  also = page.texts[page.texts.index("at 0:00") + 2 : -1]
  assert also == ["Also", "name1", "80%,", "name3", "5%"]


def test_pages_say_what_their_numbers_mean(work):
  one = result_of("a", scores((1, 0.9)), scores((1, 0.9)), duration=5.0)
  whole = VideoResult("b.mp4", "b", 5.0, scores((1, 0.9)))
  sure = "is how sure the model is"
  with_moments = " ".join(gallery(work, [one], timeline_dir="pages").texts)
  assert sure in with_moments
  assert "A moment plays the video from there." in with_moments
  without = " ".join(gallery(work, [whole]).texts)
  assert sure in without
  assert "A picture opens the video." in without
  assert "moment" not in without
  page = " ".join(timeline(one).texts)
  assert sure in page
  assert "Length 0:05, in 1 window of 5 s." in page
  assert "window" not in " ".join(timeline(whole).texts)


def test_a_moment_without_a_picture_shows_the_nearest_one(work):
  tops = [scores((1, part)) for part in (0.1, 0.2, 0.9, 0.1, 0.1)]
  one = result_of("a", scores((1, 0.9)), *tops)
  assert gallery(work, [one]).all("img")[0]["src"] == picture(2)
  one.windows[2].thumbnail = one.windows[1].thumbnail = b""
  assert gallery(work, [one]).all("img")[0]["src"] == picture(3)


def test_videos_without_a_class_are_not_lost(work):
  page = gallery(work, [VideoResult("gs://b/a.mp4", "a", 1.0, [])])
  assert page.all("section")[0]["data-name"] == "No class"
  assert "a.mp4" in page.texts
  assert page.addresses() == set()


def test_no_video_is_said(work):
  page = gallery(work, [])
  assert any("No video was predicted" in text for text in page.texts)
  assert page.all("section") == []


def test_a_video_with_many_classes_is_under_the_best(work):
  top = scores(*((index, 0.9 - index / 50) for index in range(20)))
  page = gallery(work, [result_of("a", top)])
  names = [found["data-name"] for found in page.all("section")]
  assert sorted(names) == [f"name{index}" for index in range(5)]


def test_a_failure_leaves_the_old_gallery(work):
  (work / "all.html").write_text("old")

  def results():
    yield result_of("a", scores((1, 0.5)))
    raise KeyError("stop")

  with pytest.raises(KeyError):
    gallery(work, results())
  assert [one.name for one in work.iterdir()] == ["all.html"]
  assert (work / "all.html").read_text() == "old"


# --------------------------------------------------------------------------
# Both


def test_hostile_names_are_text(work):
  plain = [ClassScore(index, "name", 0.9) for index in range(len(HOSTILE))]
  top = [ClassScore(index, name, 0.9) for index, name in enumerate(HOSTILE)]
  path = "clips/" + HOSTILE[2].replace("/", "_") + "\udcff.mp4"
  name = os.path.basename(path).replace("\udcff", "\ufffd")

  def both(path, classes):
    one = VideoResult(path, "a", 10.0, classes, windows_of(classes, classes))
    return timeline(one), gallery(work, [one], timeline_dir="pages")

  hostile = both(path, top)
  assert all(one in hostile[0].texts for one in [*HOSTILE[:5], name])
  assert all(one in hostile[1].texts for one in [*HOSTILE[:5], name])
  sections = {found["data-name"] for found in hostile[1].all("section")}
  assert sections == set(HOSTILE[:5])
  for page, harmless in zip(hostile, both("clips/a.mp4", plain), strict=True):
    tags = [tag for tag, _ in page.elements]
    assert tags == [tag for tag, _ in harmless.elements]
    assert page.scripts == harmless.scripts
    assert not any(
      name.startswith("on") for _, found in page.elements for name in found
    )


def test_pages_load_nothing_from_elsewhere(work):
  one = result_of("a", scores((1, 0.5)), scores((1, 0.5)), scores((1, 0.9)))
  pages = [
    timeline(one, gallery="all.html"),
    gallery(work, [one], timeline_dir="pages"),
  ]
  assert pages[0].addresses() == {
    "../all.html",
    "../clips/a.mp4",
    "../clips/a.mp4#t=0",
    "../clips/a.mp4#t=5",
  }
  assert pages[1].addresses() == {"pages/a.html#t=5", "clips/a.mp4#t=5"}
  for page in pages:
    assert not re.search(r"https?:|url\(|@import|fetch\(", page.source)
    # What needs JavaScript is hidden without it.
    assert not page.all("link")
  assert "hidden" in pages[0].all("section", id="now")[0]
  assert "hidden" in pages[1].all("div", id="bar")[0]


def test_a_video_in_the_gallery_takes_little_more_than_its_pictures(work):
  tops = [scores((1, 0.9), (2, 0.7), (3, 0.6))] * 100

  def bytes_of(count):
    gallery(work, (result_of(f"{n}", tops[0], *tops) for n in range(count)))
    return (work / "all.html").stat().st_size

  assert (bytes_of(40) - bytes_of(20)) / 20 < 3 * 1100


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0, "0:00"),
    (7.234, "0:07.2"),
    (59.96, "1:00"),
    (65, "1:05"),
    (3599.99, "1:00:00"),
    (7384.5, "2:03:04.5"),
  ],
)
def test_times(seconds, text):
  assert video_pages.format_time(seconds) == text


@pytest.mark.parametrize(
  ("part", "text"),
  [
    (0, "0%"),
    (0.004, "<1%"),
    (0.01, "1%"),
    (0.914, "91%"),
    (0.9951, ">99%"),
    (1, "100%"),
  ],
)
def test_percents(part, text):
  assert video_pages.format_percent(part) == text
