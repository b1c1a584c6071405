"""Tests of docs.put_comparison."""

import pytest
from conftest import REPOSITORY, run_into_error

import errors
from docs import put_comparison
from docs.put_comparison import BEGIN, END, SHOWN, put
from reports.comparison_plan import THESIS_MODELS


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "pictures").mkdir()
  (tmp_path / "table.md").write_text("| model |\n|---|\n| \\1 new |\n")
  (tmp_path / "pictures" / "cost_training.svg").write_text("<svg></svg>")
  return tmp_path


def test_only_what_is_between_the_marks_changes(folder):
  readme, image = folder / "README.md", folder / "image.svg"
  readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
  for _ in range(2):
    put(folder, readme, image)
    table = "| model |\n|---|\n| \\1 new |"
    shown = f"{BEGIN}\n{table}\n\n{SHOWN}\n{END}"
    assert readme.read_text() == f"before\n{shown}\nafter\n"
  assert image.read_text() == "<svg></svg>"


def test_nothing_changes_without_a_report_or_marks(folder):
  readme, image = folder / "README.md", folder / "image.svg"
  readme.write_text("no marks\n")
  with pytest.raises(errors.UserError, match="the lines <!-- comparison"):
    put(folder, readme, image)
  (folder / "table.md").unlink()
  with pytest.raises(errors.UserError, match="Run make compare"):
    put(folder, readme, image)
  assert readme.read_text() == "no marks\n"
  assert not image.exists()


@pytest.mark.parametrize(
  "name",
  ["put_comparison", pytest.param("put_frameworks", marks=pytest.mark.slow)],
)
def test_a_mistake_is_one_line(name, tmp_path):
  assert "Run make" in run_into_error("-m", f"docs.{name}", tmp_path)
  assert "received 0" in run_into_error("-m", f"docs.{name}")


def test_the_readme_has_the_marks_and_the_picture_that_it_shows():
  page = (REPOSITORY / "README.md").read_text()
  assert page.count(BEGIN) == page.count(END) == 1
  between = page.split(BEGIN)[1].split(END)[0]
  assert (SHOWN in between) == put_comparison.IMAGE.exists()
  if SHOWN in between:
    for model in THESIS_MODELS:
      assert f"| {model} |" in between
