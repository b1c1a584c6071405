"""Tests of docs.run_tour, and of the tour itself."""

import base64
import json
import os
import re
import subprocess
import sys
import types

import pytest
from checkout_copy import CheckoutCopy
from conftest import REPOSITORY, assert_names, error_of
from test_links import anchors, links

from docs import run_tour

# Together, as they are in the repository.
MOST_BYTES = 300_000
MOST_BYTES_OF_A_PICTURE = 40_000


def code_cells(path) -> list[dict]:
  cells = json.loads(path.read_text())["cells"]
  return [cell for cell in cells if cell["cell_type"] == "code"]


def texts_of(cells) -> str:
  """All that cells print."""
  return "".join(
    "".join(output["text"])
    for cell in cells
    for output in cell["outputs"]
    if output["output_type"] == "stream"
  )


def pictures_of(cells) -> list[bytes]:
  """The pictures of cells, as PNG."""
  return [
    base64.b64decode("".join(output["data"]["image/png"]))
    for cell in cells
    for output in cell["outputs"]
    if output["output_type"] == "display_data"
  ]


def check_outputs(path) -> None:
  """Checks the notebook after it has run: what a reader sees."""
  content = path.read_text()
  assert len(content) < MOST_BYTES
  cells = code_cells(path)
  numbers = [cell["execution_count"] for cell in cells]
  assert numbers == list(range(1, len(cells) + 1))
  kinds = {
    (output["output_type"], *output.get("data", {}))
    for cell in cells
    for output in cell["outputs"]
  }
  # No errors, widgets or tables of HTML; no values that are shown by accident.
  assert kinds == {("stream",), ("display_data", "image/png")}
  pictures = pictures_of(cells)
  assert len(pictures) == 7
  for picture in pictures:
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < MOST_BYTES_OF_A_PICTURE

  text = texts_of(cells)
  # Only paths in the folder of the tour.
  assert not re.findall(r"(?<![\w.])/(?!s\b)\w[^\s|]*", text)
  assert_names(text, "data/video/train*.tfrecord", "Done at step 150")
  scores = {
    model: [float(value) for value in values.split()]
    for model, values in re.findall(
      r"^(LogisticModel|MoeModel) ((?: +\d\.\d{3}){4})$", text, re.MULTILINE
    )
  }
  assert scores.keys() == {"LogisticModel", "MoeModel"}
  # Far above the frequencies of the labels, whose GAP is 0.09.
  assert min(gap for *_, gap in scores.values()) > 0.5
  # What the bootstrap compares are the scores of eval.py.
  gains = re.findall(r"^(GAP|mAP) ([+-]\d\.\d{4}) \[", text, re.MULTILINE)
  (*_, map_a, gap_a), (*_, map_b, gap_b) = (
    scores[model] for model in ("MoeModel", "LogisticModel")
  )
  expected = {"GAP": gap_a - gap_b, "mAP": map_a - map_b}
  assert {name: float(gain) for name, gain in gains} == pytest.approx(
    expected, abs=1.1e-3
  )


def test_the_outputs_in_the_repository():
  check_outputs(run_tour.TOUR)


def test_its_links_lead_somewhere():
  for cell in json.loads(run_tour.TOUR.read_text())["cells"]:
    if cell["cell_type"] != "markdown":
      continue
    for link in links("".join(cell["source"])):
      name, _, anchor = link.partition("#")
      page = (run_tour.TOUR.parent / name).read_text()
      assert not anchor or anchor in anchors(page), link


def test_what_the_notebook_notes_besides():
  notebook = json.loads(run_tour.TOUR.read_text())
  assert notebook["metadata"] == run_tour._METADATA
  assert all(cell["metadata"] == {} for cell in notebook["cells"])


@pytest.mark.slow
def test_the_tour_runs_in_a_clean_copy(tmp_path):
  pytest.importorskip("nbclient", reason="needs requirements/notebook.txt")
  copy = CheckoutCopy(tmp_path / "copy")
  before = copy.folder / "docs" / "tour.ipynb"
  sources = [cell["source"] for cell in code_cells(before)]

  finished = copy.run_python("-m", "docs.run_tour")

  assert finished.returncode == 0, finished.stdout
  check_outputs(before)
  assert [cell["source"] for cell in code_cells(before)] == sources
  # Git ignores what the tour makes.
  assert copy.changes().keys() <= {"docs/tour.ipynb"}
  made = copy.folder / "docs" / "yt8m_tour"
  assert (made / "timeline" / "medley.html").exists()
  events = [
    *made.glob("logistic/events.out.tfevents.*"),
    *made.glob("moe/events.out.tfevents.*"),
  ]
  assert len(events) == 2


def run_first_cell(folder, repository, fake_pip) -> tuple[str, list[str]]:
  """Runs the first cell of the tour in a folder, without installing anything.

  Args:
    folder: where the notebook was opened.
    repository: what REPOSITORY is set to.
    fake_pip: folder for a package pip that only notes what it is called with.

  Returns:
    What was printed, and the arguments of pip.
  """
  fake_pip.mkdir()
  noted = fake_pip / "arguments"
  (fake_pip / "pip.py").write_text(
    "import pathlib, sys\n"
    f"pathlib.Path({str(noted)!r}).write_text('\\n'.join(sys.argv[1:]))\n"
  )
  source = "".join(code_cells(run_tour.TOUR)[0]["source"])
  assert source.startswith('REPOSITORY = ""')
  source = source.replace('""', repr(str(repository)), 1)
  finished = subprocess.run(
    [sys.executable, "-c", f"{source}\nprint(CHECKOUT, WORK)"],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(fake_pip)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  arguments = noted.read_text().splitlines() if noted.exists() else []
  return finished.stdout, arguments


def test_the_first_cell_in_a_checkout(tmp_path):
  copy = tmp_path / "copy" / "docs"
  copy.mkdir(parents=True)
  (tmp_path / "copy" / "engine").mkdir()
  (tmp_path / "copy" / "engine" / "train_dir.py").touch()
  (copy / "yt8m_tour" / "old").mkdir(parents=True)

  printed, installed = run_first_cell(copy, "", tmp_path / "fake")

  assert printed.splitlines()[-1] == f"{tmp_path}/copy {copy}/yt8m_tour"
  assert installed == []
  # What an earlier run has made is gone.
  assert not any((copy / "yt8m_tour").iterdir())


def test_the_first_cell_in_a_hosted_notebook(tmp_path):
  repository, folder = tmp_path / "repository", tmp_path / "hosted"
  (repository / "engine").mkdir(parents=True)
  (repository / "engine" / "train_dir.py").touch()
  folder.mkdir()
  author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
  for command in (
    ["init", "--quiet"],
    ["add", "--all"],
    [*author, "commit", "--quiet", "--message=first"],
  ):
    subprocess.run(["git", *command], cwd=repository, check=True)

  printed, installed = run_first_cell(folder, repository, tmp_path / "fake")

  clone = folder / "youtube8m"
  assert printed.splitlines()[-1] == f"{clone} {folder}/yt8m_tour"
  assert installed[:2] == ["install", "--quiet"]
  files = [argument for argument in installed[2:] if argument != "-r"]
  assert [path.removeprefix(f"{clone}/") for path in files] == [
    "requirements.txt",
    "requirements/videos.txt",
    "requirements/inspect.txt",
  ]
  for path in files:
    assert (REPOSITORY / path.removeprefix(f"{clone}/")).exists()


def test_the_first_cell_without_the_address(tmp_path):
  folder = tmp_path / "hosted"
  folder.mkdir()
  printed, installed = run_first_cell(folder, "", tmp_path / "fake")
  assert "RuntimeError: Expected this notebook in a checkout" in printed
  assert "Set REPOSITORY" in printed
  assert installed == []
  assert not any(folder.iterdir())


# --------------------------------------------------------------------------
# docs.run_tour


def write_notebook(path, *sources) -> None:
  cells = [
    {
      "cell_type": "code",
      "id": f"cell-{number}",
      "metadata": {"tags": ["x"]},
      "source": source,
      "execution_count": None,
      "outputs": [],
    }
    for number, source in enumerate(sources)
  ]
  notebook = {
    "cells": cells,
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
  }
  path.write_text(json.dumps(notebook))


def test_a_notebook_is_run_and_tidied(tmp_path):
  pytest.importorskip("nbclient", reason="needs requirements/notebook.txt")
  path = tmp_path / "a.ipynb"
  write_notebook(path, "import os\nprint(os.getcwd())", "print(1 + 1)")
  run_tour.run_tour(path)
  notebook = json.loads(path.read_text())
  assert texts_of(notebook["cells"]) == f"{tmp_path}\n2\n"
  assert notebook["metadata"] == run_tour._METADATA
  assert [cell["metadata"] for cell in notebook["cells"]] == [{}, {}]
  assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_cell_that_fails_leaves_the_notebook(tmp_path):
  pytest.importorskip("nbclient", reason="needs requirements/notebook.txt")
  path = tmp_path / "a.ipynb"
  write_notebook(path, "print(1)", "1 / 0")
  before = path.read_bytes()
  line = error_of(run_tour.run_tour, path)
  assert_names(line, str(path), "ZeroDivisionError")
  assert path.read_bytes() == before


def test_a_cell_that_ends_python_leaves_the_notebook(tmp_path):
  pytest.importorskip("nbclient", reason="needs requirements/notebook.txt")
  path = tmp_path / "a.ipynb"
  write_notebook(path, "import os\nos._exit(1)")
  before = path.read_bytes()
  line = error_of(run_tour.run_tour, path)
  assert_names(line, str(path), "died")
  assert path.read_bytes() == before


def test_a_cell_that_takes_too_long(tmp_path, monkeypatch):
  nbclient = pytest.importorskip(
    "nbclient", reason="needs requirements/notebook.txt"
  )

  def wait(client):
    raise nbclient.exceptions.CellTimeoutError("A cell timed out")

  monkeypatch.setattr(nbclient.NotebookClient, "execute", wait)
  path = tmp_path / "a.ipynb"
  write_notebook(path, "print(1)")
  assert_names(error_of(run_tour.run_tour, path), str(path), "timed out")


def test_the_packages_are_asked_for(monkeypatch):
  monkeypatch.setitem(sys.modules, "nbclient", None)
  monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
  line = error_of(run_tour.require_nbclient)
  assert_names(line, "no nbclient", "requirements/notebook.txt")
