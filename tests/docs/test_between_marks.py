"""Tests of docs.between_marks."""

import pytest
from conftest import error_of

from docs.between_marks import put, replaced


def test_only_what_is_between_the_marks_changes(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("a\n<!-- b -->\nold\n<!-- e -->\nc\n", encoding="utf-8")
  for text in ("\\1 \u00e9", "\nnew\n"):
    put(page, "<!-- b -->", "<!-- e -->", text)
    assert page.read_text(encoding="utf-8") == (
      f"a\n<!-- b -->\n{text}\n<!-- e -->\nc\n"
    )
  assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
  "page", ["", "B\n", "E\n", "E\nB\n", "B\nE\nB\nE\n", "B\nE\nE\n"]
)
def test_pages_without_two_marks_are_refused(page, tmp_path):
  assert "lines B and E once" in error_of(replaced, page, "B", "E", "text")
  path = tmp_path / "page.md"
  path.write_text(page)
  assert "B and E" in error_of(put, path, "B", "E", "text")
  assert path.read_text() == page
