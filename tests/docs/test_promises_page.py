"""Every promise of docs/promises.md names tests that are there."""

import re

import pytest
from conftest import REPOSITORY

ROWS = [
  line
  for line in (REPOSITORY / "docs" / "promises.md").read_text().splitlines()
  if line.startswith("| ") and not line.startswith("| promise |")
]


@pytest.mark.parametrize("row", ROWS)
def test_each_promise_names_its_tests(row):
  tests = re.findall(r"(tests/[\w/]+\.py)::(\w+)", row.split(" | ")[-1])
  assert tests
  for path, name in tests:
    text = (REPOSITORY / path).read_text()
    assert re.search(rf"^def {name}\(", text, re.MULTILINE), (path, name)
