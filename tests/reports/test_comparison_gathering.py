"""Tests of reports.comparison_gathering."""

import json
import os

import numpy as np
import pytest
from conftest import error_of
from make_records import video_record, write_records
from small_comparison import (
  NUM_CLASSES,
  NUM_VIDEOS,
  labels_of_all,
  made_up_run,
  made_up_scored,
  predictions_of,
  record_of,
)
from tiny_runs import TINY_FLAGS

from reports import bootstrap, comparison_labels
from reports.comparison import make_row
from reports.comparison_gathering import facts_of, gather, notes_of
from reports.comparison_plan import Budget, Entry, EntryData, Run
from reports.comparison_runs import run_folder


@pytest.fixture
def few_resamples(monkeypatch):
  monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
  monkeypatch.setattr(bootstrap, "_FEWEST_RESAMPLES", 10)


@pytest.fixture
def data(tmp_path):
  """Training data of 30 videos of 8 classes with a vocabulary."""
  folder = tmp_path / "data"
  folder.mkdir()
  records = [
    video_record(f"t{number}", [number % 3, 7], mean_rgb=[1.0])
    for number in range(30)
  ]
  pattern = write_records(folder / "train.tfrecord", records)
  lines = [f"{index},Class {index}" for index in range(NUM_CLASSES)]
  (folder / "vocabulary.csv").write_text("\n".join(["Index,Name", *lines]))
  return EntryData((), pattern, "validate*", False)


def finish(run, folder, seed, record=None):
  """Writes what a run leaves behind."""
  scored = made_up_scored(run, predictions_of(seed, 0.5))
  path = run_folder(run, str(folder))
  os.makedirs(f"{path}/model")
  with open(f"{path}/model/model_flags.json", "w") as file:
    json.dump(TINY_FLAGS | {"num_classes": NUM_CLASSES}, file)
  if record != {}:
    with open(f"{path}/model/run.json", "w") as file:
      json.dump(record or record_of(), file)
  rows, classes = np.nonzero(labels_of_all())
  np.savez(
    f"{path}/predictions.npz",
    video_ids=scored.video_ids,
    class_indexes=scored.class_indexes,
    confidences=scored.confidences,
    hits=scored.hits,
    label_rows=rows,
    label_classes=classes.astype(np.int32),
    classes=scored.classes,
  )
  with open(f"{path}/scores.json", "w") as file:
    json.dump(scored.scores, file)


def make_run(data, name, seed=0, fraction=1.0, workers=1, is_baseline=False):
  entry = Entry(name, "MoeModel", {}, is_baseline)
  flags = (f"--of={name}", f"--seed={seed}")
  return Run(entry, data, seed, fraction, workers, flags, "feed")


def test_everything_is_gathered(tmp_path, data, few_resamples):
  runs = [
    make_run(data, "Base", is_baseline=True),
    *(make_run(data, name, seed) for name in ("A", "B") for seed in (0, 1)),
    make_run(data, "A", fraction=0.5),
    make_run(data, "A", workers=2),
  ]
  for number, run in enumerate(runs):
    finish(run, tmp_path, number)
  unfinished = make_run(data, "C")
  found = gather(
    [*runs, unfinished],
    {unfinished.name: "diverged"},
    Budget("steps", 100),
    str(tmp_path),
    "the command",
  )
  assert [row.name for row in found.rows] == [
    "A",
    "B",
    "Base",
    "majority class",
    "label frequencies",
  ]
  assert [len(row.runs) for row in found.rows] == [2, 2, 1, 0, 0]
  assert found.seeds == 2
  assert found.budget == "100 steps"
  assert found.resamples == 50
  assert {(one.better, one.worse) for one in found.differences} <= {
    pair
    for one in ("A", "B", "Base")
    for other in ("A", "B", "Base")
    for pair in [(one, other)]
    if one != other
  }
  assert len(found.differences) == 3
  assert found.train_counts.tolist() == [10, 10, 10, 0, 0, 0, 0, 30]
  assert found.num_train_videos == 30
  assert found.names == [f"Class {index}" for index in range(8)]
  assert found.failed == [("C, seed 0", "diverged")]
  assert {key: len(rows) for key, rows in found.by_fraction.items()} == {
    0.5: 1,
    1.0: 3,
  }
  # One worker is compared with several at the same seed.
  assert [len(row.runs) for row in found.by_workers[1]] == [1, 1]
  assert [row.name for row in found.by_workers[2]] == ["A"]
  assert "2 times, each with its TF_CONFIG" in found.by_workers[2][0].command
  assert found.rows[0].command.startswith("python train.py --of=A --seed=0")
  assert found.command == "the command"


def test_labels_are_counted_once(tmp_path, data, few_resamples, monkeypatch):
  run = make_run(data, "A")
  finish(run, tmp_path, 0)
  given = ([run], {}, Budget("steps", 1), str(tmp_path), "")
  first = gather(*given)
  monkeypatch.setattr(comparison_labels, "read_labels", None)
  again = gather(*given)
  np.testing.assert_array_equal(first.train_counts, again.train_counts)
  assert again.num_train_videos == 30
  assert again.by_fraction == again.by_workers == {}
  assert again.differences == []


def test_all_runs_failed(tmp_path, data):
  run = make_run(data, "A")
  text = error_of(
    gather, [run], {run.name: "diverged"}, Budget("steps", 1), str(tmp_path), ""
  )
  assert "all failed" in text
  assert "diverged" in text


def test_facts_are_said_once_and_without_the_name_of_the_machine():
  runs = [
    made_up_scored(made_up_run("A", seed), predictions_of(seed, 0.5))
    for seed in (0, 1)
  ]
  facts = facts_of(runs, 480)
  names = [name for name, _ in facts]
  assert names == [
    "Machine",
    "Versions",
    "Commit",
    "Begun",
    "Training data",
    "Scored data",
    "Training videos counted",
  ]
  of = dict(facts)
  assert of["Machine"] == "CPU & Co, 2 cores, 8 GiB, no GPU, Linux"
  assert of["Versions"] == "python 3.11, yt8m 1"
  assert of["Training data"] == (
    "train*.tfrecord: 3 files, about 480 videos, hash f00"
  )
  assert of["Scored data"] == (
    f"validate*.tfrecord: 2 files, {NUM_VIDEOS} videos, hash beef"
  )
  assert "secret" not in str(facts)


def test_notes_of_figures_that_cannot_be_compared():
  def row(name, seeds, record, **scores):
    runs = []
    for seed in range(seeds):
      scored = made_up_scored(
        made_up_run(name, seed), predictions_of(seed, 0.5), record
      )
      scored.scores.update(scores)
      runs.append(scored)
    return make_row(runs, "")

  plain = record_of()
  assert notes_of([row("A", 2, plain), row("B", 2, plain)]) == []
  resumed = record_of()
  again = {"commit": "def456", "first_step": 101, "last_step": 200}
  resumed["starts"] += record_of(**again)["starts"]
  notes = " ".join(
    notes_of([row("A", 2, plain), row("B", 1, resumed, label_loss="HingeLoss")])
  )
  for part in (
    "CrossEntropyLoss, HingeLoss",
    "2 different commits",
    "stopped and continued",
    "1 to 2 seeds",
  ):
    assert part in notes
  # What was killed before it saved is not in the run.
  anew = record_of()
  lost = record_of(commit="def456", last_step=0)
  anew["starts"] = [*lost["starts"], *anew["starts"]]
  assert notes_of([row("A", 1, anew)]) == []
