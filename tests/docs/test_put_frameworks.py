"""Tests of docs.put_frameworks."""

import json

import pytest
from conftest import REPOSITORY

import errors
from docs.put_frameworks import BEGIN, END, put

MACHINE = {"cpu": "A", "cores": 2, "memory_bytes": 2**33, "system": "Linux"}


@pytest.fixture
def folder(tmp_path):
  result = {
    "backend": "torch",
    "processes": 1,
    "how": "eager",
    "device": "CPU",
    "videos_per_second": 123.4,
    "start_seconds": 7.25,
    "step_seconds": [3.5, 0.5],
    "losses": [4.0, 2.0],
    "peak_memory_bytes": None,
    "peak_gpu_bytes": None,
    "versions": {"python": "3.11", "torch": "9.8.7"},
    "command": "python -m x",
  }
  agreement = {
    "one": "TensorFlow",
    "other": "PyTorch",
    "outputs": 1e-6,
    "gradients": 2e-5,
    "losses": 3e-4,
    "last_losses": [1.5, 1.5],
    "holds": True,
  }
  model = {"name": "A:b=\\1", "results": [result], "agreements": [agreement]}
  report = {"machine": MACHINE, "check_steps": 50, "models": [model]}
  (tmp_path / "report.json").write_text(json.dumps(report))
  return tmp_path


def test_only_what_is_between_the_marks_changes(folder):
  page = folder / "page.md"
  page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
  for _ in range(2):
    put(folder, page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\nMade by `python -m x` on A, 2 co")
    assert text.endswith(f"|\n{END}\nafter\n")
    assert "old" not in text
    assert (
      "cores, 8 GiB, no GPU, Linux, with python 3.11, torch 9.8.7:\n" in text
    )
    assert "| A:b=\\\\1 | PyTorch | 123.4 | 7.2 | 3.50 |" in text
    assert "| TensorFlow and PyTorch | 1.0e-06 | 2.0e-05 | 3.0e-04 |" in text


def test_nothing_changes_without_a_report_or_marks(folder):
  page = folder / "page.md"
  page.write_text("no marks\n")
  with pytest.raises(errors.UserError, match="the lines <!-- frameworks"):
    put(folder, page)
  (folder / "report.json").unlink()
  with pytest.raises(errors.UserError, match="Run make compare-frameworks"):
    put(folder, page)
  assert page.read_text() == "no marks\n"


def test_the_page_has_the_marks():
  page = (REPOSITORY / "docs" / "frameworks.md").read_text()
  assert page.count(BEGIN) == page.count(END) == 1
