"""Tests of the page of messages, and that it has those of the code."""

import pytest
from conftest import (
  _note_raised_errors,
  error_of,
  lines_of_sections,
  warn_of_missing,
)

import errors
import models
from docs import make_troubleshooting_page as page_maker
from engine import skipped
from records.messages import BadRecordError

SOURCE = """
def read(path, names):
  if not names:
    raise errors.UserError(
      f"Expected names in {path}, received none;"
      f" {', '.join(sorted(names))}. Name some."
    )
  try:
    open(path)
  except OSError as error:
    raise errors.of_system(error, f"Expected a file as {self._file.name}.")
  if names == ["x"]:
    raise errors.MachineError("Expected a " + kind + " machine, lost it.")
  raise BadRecordError("two words", f"expected {size:.2f} bytes of words")
  raise errors.UserError(str(error)) from error
  logging.warning("Only %d of %s videos, 5%%.", len(names), flags["folder"])
  end("ERROR: Expected tea, received coffee.", status=1)
  sys.stderr.write("ERROR: Expected no tea.")
  raise ValueError("Expected something that is no flag.")

def sentence(path):
  'Expected in a docstring.'
  _say_once("No use of %s today.", path)
  logging.log_every_n_seconds(logging.WARNING, "No answer of %s.", 60, path)
  return {1: f"Expected room for {path}.", 2: "ERROR: Expected a " + f"{path}."}
"""


def test_messages_of_a_file():
  found = page_maker.messages_of(SOURCE, "a.py")
  assert [(message.kind, message.text) for message in found] == [
    ("2", "Expected names in {path}, received none; {names}. Name some."),
    ("1 or 2", "Expected a file as {name}."),
    ("1", "Expected a {...} machine, lost it."),
    ("2", "expected {size} bytes of words"),
    ("warning", "Only {names} of {folder} videos, 5%."),
    ("1", "Expected tea, received coffee."),
    ("2", "Expected no tea."),
    ("ValueError", "Expected something that is no flag."),
    ("warning", "No use of {path} today."),
    ("warning", "No answer of {path}."),
    (page_maker._ELSEWHERE, "Expected room for {path}."),
  ]
  assert (found[0].first_line, found[0].last_line) == (4, 7)
  assert [page_maker._item(message) for message in found[:3]] == [
    "- `Expected names in {path}, received none; {names}. Name some.`",
    "- Status 1 or 2: `Expected a file as {name}.`",
    "- Status 1: `Expected a {...} machine, lost it.`",
  ]
  assert page_maker._item(found[7]) == (
    "- ValueError: `Expected something that is no flag.`"
  )
  assert page_maker._item(found[10]) == (
    "- Status 1 or 2: `Expected room for {path}.`"
  )
  # What models and losses say about flags becomes a UserError.
  assert page_maker.messages_of(SOURCE, "models.py")[7].kind == "2"


def test_the_page_is_what_make_docs_writes():
  page, made = page_maker.PAGE.read_text(), page_maker.make_page()
  items, made_items = (lines_of_sections(text, "- ") for text in (page, made))

  # A fork may add a message before it documents it.
  missing = {f"{path}: {item}" for path, item in made_items - items}
  stale = items - made_items
  if not missing:
    assert not stale, "docs/troubleshooting.md is out of date: run `make docs`"
    assert page == made, "docs/troubleshooting.md is out of date"
  warn_of_missing(missing, "docs/troubleshooting.md, run `make docs`")


@pytest.mark.parametrize(
  "words",
  [
    "train together, lost one after step",  # MachineError
    "--model to name a class",  # ValueError of models.py
    "Expected tensorflow as Keras's backend",  # ends the program
    "The whole training takes",  # warning
    "Expected records to compare the predictions",  # UserError
    "found the disk full. Free some space",  # a text of many places
    "received a damaged one",  # of an error of its own class
  ],
)
def test_words_of_a_message_are_found(words):
  assert words in page_maker.PAGE.read_text()


def test_what_no_test_provokes():
  (known, *_) = [
    message
    for message in page_maker.all_messages()
    if message.path == "engine/skipped.py"
  ]
  raised = f"{known.path}:{known.last_line}\nother.py:3\n"
  left = page_maker.not_provoked(raised)
  assert known not in left
  assert len(left) > 200
  assert known in page_maker.not_provoked("")


def find_no_model():
  try:
    models.find_class_by_name("NoModel")
  except ValueError as error:
    raise errors.UserError(str(error)) from error


def test_raised_errors_are_noted(tmp_path, monkeypatch):
  make = errors.UserError.__init__
  monkeypatch.setattr(errors.UserError, "__init__", make)
  _note_raised_errors(tmp_path / "raised")
  add = skipped.SkippedRecords(skipped.STOP).add
  error_of(add, "file", 3, BadRecordError("a kind", "a text"))
  with pytest.raises(errors.MachineError):
    raise errors.of_system(MemoryError(), "a text")
  # Of a flag of a model.
  with pytest.raises(errors.UserError):
    find_no_model()
  places = (tmp_path / "raised").read_text().split()
  own = "tests/docs/test_make_troubleshooting_page.py"
  assert [place.rpartition(":")[0] for place in places] == [
    own,
    "engine/skipped.py",
    own,
    own,
    "models.py",
  ]
  left = page_maker.not_provoked("\n".join(places))
  assert len(left) == len(page_maker.not_provoked("")) - 2
