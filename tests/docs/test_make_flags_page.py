"""Compares the committed table of flags with what `make docs` writes."""

import re

from absl import flags
from conftest import lines_of_sections, warn_of_missing

import models
from docs import make_flags_page


def without_values(rows) -> set:
  """Rows without the values that their flags can have."""
  return {(path, re.sub(r"<[^>]*>: ", "", row)) for path, row in rows}


def test_the_page_is_what_make_docs_writes():
  page, made = make_flags_page.PAGE.read_text(), make_flags_page.make_page()
  rows, made_rows = (lines_of_sections(text, "| --") for text in (page, made))

  # A fork may add a value, such as a schedule, before it documents it.
  stale = without_values(rows) - without_values(made_rows)
  assert not stale, "docs/flags.md is out of date: run `make docs`"
  missing = {row.split()[1] for _, row in made_rows - rows}
  warn_of_missing(missing, "docs/flags.md, run `make docs`")
  if not missing:
    assert page == made, "docs/flags.md is out of date: run `make docs`"


def test_flags_of_every_kind_of_file_are_found():
  rows = {
    (path, row.split()[1])
    for path, row in lines_of_sections(make_flags_page.make_page(), "| --")
  }

  assert {
    ("train.py", "--base_learning_rate"),
    ("eval.py", "--run_once"),
    ("data_tools/sample_data.py", "--num_active_classes"),
    ("video_level_models.py", "--moe_num_mixtures"),
  } <= rows
  assert not {path for path, _ in rows if path.startswith("tests/")}


def test_making_the_page_leaves_no_flag_behind():
  models.import_model_files()
  before = set(flags.FLAGS)

  make_flags_page.make_page()

  assert set(flags.FLAGS) == before
