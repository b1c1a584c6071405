"""Tests of reports.comparison_page."""

import dataclasses

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from pages import Page
from small_comparison import NAMES, made_up_comparison, made_up_rows

from reports.comparison_page import make_page
from reports.comparison_pictures import Picture, draw

NONE = {
  section: []
  for section in ("learning", "cost", "quality", "fractions", "workers")
}


def page_of(comparison, tmp_path, pictures=NONE):
  path = tmp_path / "report.html"
  path.write_text(make_page(comparison, pictures), encoding="utf-8")
  return Page(path)


@pytest.fixture(scope="module")
def comparison():
  return made_up_comparison()


@pytest.fixture(scope="module")
def pictures(comparison):
  return draw(comparison, lambda run: "no such folder")


def test_the_page_is_one_file(comparison, pictures, tmp_path):
  page = page_of(comparison, tmp_path, pictures)
  assert all(
    address.startswith("data:image/svg+xml;base64,")
    for address in page.addresses()
  )
  assert not page.all("script")
  assert not page.all("link")
  (policy,) = (
    meta
    for meta in page.all("meta")
    if meta.get("http-equiv") == "Content-Security-Policy"
  )
  assert policy["content"].startswith("default-src 'none'")


def test_the_page_has_all_numbers(comparison, pictures, tmp_path):
  page = page_of(comparison, tmp_path, pictures)
  texts = set(page.texts)
  for row in comparison.rows:
    assert row.name in texts
  gap = comparison.rows[0].values["gap"]
  assert f"{gap.mean:.3f}" in texts
  assert f"± {gap.deviation:.3f}" in texts
  assert "accuracy (Hit@1)" in texts
  assert any(text.startswith("no difference shown (") for text in texts)
  assert comparison.command in texts
  assert "python train.py --model=Bad" in texts
  for heading in (
    "Which differences are more than chance",
    "Quality against cost",
    "Classes that models disagree on",
    "Videos that models disagree on",
    "What each model confuses",
  ):
    assert heading in texts
  assert "Learning curves" not in texts  # there are no events
  assert "Not finished" not in texts
  # The best score of each column is marked, and the baselines are.
  assert len(page.all("td", class_="best")) >= 5
  classes = [row.get("class", "").split() for row in page.all("tr")]
  # Of the scores all three, of the cost the one that was trained.
  assert sum("baseline" in of for of in classes) == 4
  assert sum("first-baseline" in of for of in classes) == 2


def test_long_names_continue_in_the_next_line(comparison, tmp_path):
  row = dataclasses.replace(
    comparison.rows[0], name="BiLstmModel:lstm_cells=4:<b>"
  )
  rows = [row, *comparison.rows[1:]]
  page = page_of(dataclasses.replace(comparison, rows=rows), tmp_path)
  name = "Bi<wbr>Lstm<wbr>Model:<wbr>lstm_<wbr>cells=4:&lt;b&gt;</span>"
  # Of scores and of cost, of calibration, classes and videos.
  assert page.source.count(name) == 5


def test_what_comes_from_outside_is_escaped(comparison, tmp_path):
  row = dataclasses.replace(comparison.rows[0], name="<i>{{ x }}</i>")
  changed = dataclasses.replace(
    comparison,
    rows=[row, *comparison.rows[1:]],
    facts=[("<u>", "<s>")],
    notes=["<em>"],
    failed=[("<q>", "\x1b<tt>")],
    command="<kbd>",
  )
  page = page_of(changed, tmp_path)
  tags = {tag for tag, _ in page.elements}
  assert not tags & {"i", "u", "s", "em", "q", "tt", "kbd"}
  assert "<i>{{ x }}</i>" in page.texts
  shown = " ".join(page.texts)
  assert any(name in shown for name in NAMES[1:])
  assert "\x1b" not in page.source


def test_parts_of_the_data_and_workers(comparison, tmp_path):
  rows = made_up_rows(seeds=1)
  picture = Picture("x", "Title", "<svg></svg>", "What it shows")
  page = page_of(
    dataclasses.replace(
      comparison,
      by_fraction={0.1: rows, 1.0: rows},
      by_workers={1: rows, 2: rows},
    ),
    tmp_path,
    {**NONE, "fractions": [picture], "workers": [picture]},
  )
  texts = set(page.texts)
  assert {"10% of the training data", "1 worker", "2 workers"} <= texts


def test_pictures_have_words(comparison, tmp_path):
  picture = Picture("x", "Title", "<svg></svg>", "What it shows")
  page = page_of(comparison, tmp_path, {**NONE, "learning": [picture]})
  (image,) = page.all("img")
  assert image["alt"] == "What it shows"
  assert "Learning curves" in page.texts


def test_one_model_has_a_page(tmp_path):
  rows = made_up_rows()[:1]
  page = page_of(made_up_comparison(rows=rows, differences=[]), tmp_path)
  texts = set(page.texts)
  assert "Which differences are more than chance" not in texts
  assert "Videos that models disagree on" not in texts
  assert "0 of 0" not in texts
