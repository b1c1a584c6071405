"""Tests of reports.templating."""

import pathlib
import sys

import jinja2
import pytest
from conftest import assert_names, error_of

from reports import templating
from version import __version__

VALUES = {"title": "t", "groups": [], "count": "", "intro": []}


def test_a_page_appears_whole(tmp_path):
  path = tmp_path / "new" / "page.html"
  templating.write_page(str(path), "gallery.html", VALUES)
  assert path.read_text().rstrip().endswith("</html>")
  assert [one.name for one in path.parent.iterdir()] == ["page.html"]


def test_pages_are_one_family():
  """All have the look, and say what made them."""
  environment = templating.make_environment()
  pages = environment.list_templates(extensions=["html"])
  assert pages == [
    "comparison.html",
    "dataset.html",
    "frameworks.html",
    "gallery.html",
    "timeline.html",
  ]
  for page in pages:
    source = (pathlib.Path(templating.TEMPLATES) / page).read_text()
    assert '{% include "look.css" %}' in source
    assert "version {{ version }}.</footer>" in source
  assert environment.globals["version"] == __version__


def test_a_missing_value_is_an_error_and_leaves_the_old_page(tmp_path):
  path = tmp_path / "page.html"
  path.write_text("old")
  with pytest.raises(jinja2.UndefinedError):
    templating.write_page(str(path), "gallery.html", {"title": "t"})
  assert path.read_text() == "old"
  assert len(list(tmp_path.iterdir())) == 1


def test_without_jinja2_the_error_says_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "jinja2", None)
  message = error_of(templating.require_jinja2, "requirements/some.txt")
  assert_names(message, "pip install -r requirements/some.txt")


def test_addresses_are_relative_and_escaped(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  address = templating.relative_address
  assert address("clips/a b.mp4", "out/page.html") == "../clips/a%20b.mp4"
  assert address("javascript:x", "page.html") == "javascript%3Ax"
  assert address("a#b?.mp4", "page.html") == "a%23b%3F.mp4"
  assert address("猫.mp4", "page.html") == "%E7%8C%AB.mp4"
  assert address("caf\udce9.mp4", "page.html") == "caf%E9.mp4"
  assert address(str(tmp_path / "a"), "b/page.html") == "../a"
  assert address("gs://bucket/a.mp4", "page.html") == ""


def test_pictures_are_data():
  assert templating.jpeg_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="
  assert templating.jpeg_uri(b"") == ""
