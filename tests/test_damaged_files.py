"""Files that programs write for each other, with something else in them.

A program that needs such a file ends in one line that names it. One for which
it is only a record goes on.
"""

import json
import shutil

import in_process
import pytest
from tiny_runs import tiny_dataset, train_tiny

from media.extraction import Extraction

DEEP = 100_000
# By name, what is in the place of a whole file.
DAMAGES = {
  "empty": lambda content: b"",
  "null": lambda content: b"null",
  "a number": lambda content: b"3",
  "a list": lambda content: b"[]",
  "a text": lambda content: b'"False"',
  "cut": lambda content: content[: len(content) // 2],
  "no UTF-8": lambda content: b"\xff\xfe" + content,
  "deep lists": lambda content: b"[" * DEEP,
  "deep objects": lambda content: b'{"starts":' * DEEP,
}
# In the place of each value of a file.
VALUES = [None, 3, True, "False", [], {}]


@pytest.fixture(scope="module")
def made(tiny_files, tmp_path_factory):
  """A folder with data/, a data set, and run/, trained and evaluated on it."""
  folder = tmp_path_factory.mktemp("made")
  (folder / "data").mkdir()
  tiny_dataset(folder / "data", tiny_files, ("train", "validate", "test"))
  train_tiny(
    folder / "run",
    tiny_files[:1],
    max_steps=4,
    eval_steps=4,
    eval_data_pattern=tiny_files[1],
  )
  # As train.py keeps it of videos.
  content = {
    **Extraction("random").to_dict(),
    "video_level": True,
    "fit_pca": 0,
    "feature_names": ["mean_rgb", "mean_audio"],
    "feature_dtypes": ["float32", "float32"],
    "feature_ranges": [],
  }
  (folder / "run" / "extraction.json").write_text(json.dumps(content))
  return folder


def flags_of(folder) -> dict[str, tuple[str, ...]]:
  """By program, flags with which it reads the data set and the run."""
  given = (f"--train_dir={folder}/run", f"--dataset_dir={folder}/data")
  output = f"--output_file={folder}/predictions.csv"
  return {
    "train": (
      *given,
      "--batch_size=5",
      "--max_steps=6",
      "--eval_steps=6",
      "--xla=False",
    ),
    "eval": (*given, "--run_once", "--batch_size=5"),
    "inference": (*given, "--batch_size=5", output),
    "inference of the best": (*given, "--checkpoint=best", output),
    "inference of videos": (given[0], f"--videos={folder}", output),
    "export_model": (given[0], "--checkpoint=best"),
    "data_tools.inspect_dataset": given[1:],
  }


# Which program reads which file.
NEEDED = [
  ("train", "run/run.json"),
  ("train", "run/evaluations.json"),
  ("train", "run/best.json"),
  ("train", "data/dataset.json"),
  ("eval", "run/best.json"),
  ("eval", "data/dataset.json"),
  ("inference", "data/dataset.json"),
  ("inference of the best", "run/best.json"),
  ("inference of videos", "run/extraction.json"),
  ("export_model", "run/best.json"),
  ("data_tools.inspect_dataset", "data/dataset.json"),
]


def call(name, folder) -> tuple[int, str]:
  program, *_ = name.split(" ")
  return in_process.call(program, *flags_of(folder)[name])


def check_one_line(name, folder, file) -> None:
  """Checks that a program ends in one line, which names a file."""
  code, log = call(name, folder)
  assert code == 2, log
  lines = [line for line in log.splitlines() if line.startswith("ERROR: ")]
  assert lines == log.splitlines()[-1:]
  assert f"{folder}/{file}" in lines[0]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "file"), NEEDED)
def test_a_file_with_something_else_in_it_is_named(
  made, tmp_path, name, file, damage
):
  folder = shutil.copytree(made, tmp_path / "copy")
  path = folder / file
  path.write_bytes(DAMAGES[damage](path.read_bytes()))
  check_one_line(name, folder, file)


@pytest.mark.parametrize(
  ("name", "file"),
  [
    ("eval", "run/run.json"),
    ("eval", "run/evaluations.json"),
    ("eval", "run/eval/metrics-4.json"),
    ("train", "run/eval/metrics-4.json"),
    ("inference", "run/best.json"),
    ("inference", "run/run.json"),
    ("inference of the best", "run/evaluations.json"),
    ("export_model", "run/run.json"),
  ],
)
def test_a_file_that_is_not_needed_stops_nothing(made, tmp_path, name, file):
  folder = shutil.copytree(made, tmp_path / "copy")
  (folder / file).write_bytes(b'{"a":' * DEEP)
  code, log = call(name, folder)
  assert code == 0, log


def places_of(content, place=()) -> list[tuple]:
  """The places of all values in JSON: the keys and indices on the way there."""
  found = [place] if place else []
  inner = content.items() if isinstance(content, dict) else ()
  if isinstance(content, list):
    inner = list(enumerate(content))[:1]
  for key, value in inner:
    found += places_of(value, (*place, key))
  return found


def put(content, place, value):
  """Replaces the value at a place; returns what was there."""
  *way, last = place
  for key in way:
    content = content[key]
  old, content[last] = content[last], value
  return old


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "file"),
  # What best.json holds is checked in one place, which has its own tests.
  [one for one in NEEDED if one[1] != "run/best.json"],
)
def test_values_of_other_types_are_named_or_a_record(
  made, tmp_path, name, file
):
  whole = (made / file).read_text()
  problems = []
  for place in places_of(json.loads(whole)):
    if file == "run/run.json" and len(place) > 1:
      continue  # most of it is only a record, and its start has its own tests
    for value in VALUES:
      content = json.loads(whole)
      kinds = {type(put(content, place, value)), type(value)}
      if len(kinds) == 1 or kinds == {int, float}:
        continue
      folder = shutil.copytree(made, tmp_path / "copy")
      (folder / file).write_text(json.dumps(content))
      try:
        code, log = call(name, folder)
      except Exception as error:
        code, log = 1, repr(error)
      if code and (code != 2 or f"{folder}/{file}" not in log.splitlines()[-1]):
        problems.append(f"{place} as {value}: {log}")
      shutil.rmtree(folder)
  assert not problems
