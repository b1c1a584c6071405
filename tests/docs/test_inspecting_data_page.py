"""Runs the commands of docs/inspecting_data.md on a small data set."""

import csv
import re
import shlex

import in_process
import numpy as np
import pytest
from conftest import REPOSITORY

from data_tools.dataset_facts import MOST_SAMPLED
from data_tools.dataset_report import MOST_FILES

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

PAGE = (REPOSITORY / "docs" / "inspecting_data.md").read_text()


def commands() -> list[list[str]]:
  """The words of each command of the page."""
  blocks = re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  commands = [block for language, block in blocks if not language]
  lines = "".join(commands).replace("\\\n", " ").splitlines()
  return [shlex.split(line) for line in lines]


def test_the_commands_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  rows = [("path", "labels")]
  for number in range(20):
    np.save(f"{number}.npy", random.normal(size=(3, 4)).astype(np.float32))
    rows.append((f"{number}.npy", ("cat", "dog")[number % 2]))
  with open("m.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  in_process.run(
    "data_tools.import_embeddings", "--manifest=m.csv", "--output_dir=my_data"
  )
  logs = []
  for command in commands():
    assert command[:3] == ["python", "-m", "data_tools.inspect_dataset"]
    logs.append(in_process.run(command[2], *command[3:]))
  assert len(logs) == 3
  # The first lines of the tables, as the page shows them.
  heads = [
    line
    for line in PAGE.splitlines()
    if line.startswith(("feature  ", "class  ", "         "))
  ]
  for head in heads:
    assert head.split() in [line.split() for line in logs[0].splitlines()]
  assert len(heads) == 3
  page = (tmp_path / "report.html").read_text()
  assert "17, 3 frames" in re.sub(r"</?bdi>", "", page)


def test_numbers_of_the_page_are_those_of_the_code():
  assert f"at\nmost {MOST_SAMPLED} evenly spaced frames" in PAGE
  assert f"at most {MOST_SAMPLED} frames of each feature" in PAGE
  assert f"Of more than {MOST_FILES} files" in PAGE
