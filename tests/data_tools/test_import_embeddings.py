"""Tests of data_tools.import_embeddings, and of --dataset_dir."""

import csv
import json

import in_process
import numpy as np
import pytest
from conftest import assert_names

from engine import train_dir as train_dirs
from engine.dataset_card import read_card

IMPORT = "data_tools.import_embeddings"
CLASSES = ("bird", "cat", "dog", "fish, or so")
LENGTH, SIZE = 6, 16


def make_embeddings(folder, number=200, is_frame_level=True):
  """Files with embeddings that a linear model can tell apart; {id: class}."""
  rng = np.random.default_rng(0)
  centers = rng.standard_normal((len(CLASSES), SIZE))
  labels = {}
  folder.mkdir()
  for index in range(number):
    name = f"video{index}"
    label = index % len(CLASSES)
    frames = centers[label] + 0.3 * rng.standard_normal((LENGTH, SIZE))
    array = frames if is_frame_level else frames.mean(axis=0)
    np.save(folder / f"{name}.npy", array.astype(np.float32))
    labels[name] = CLASSES[label]
  return labels


def write_manifest(folder, labels, name="manifest.csv", **columns):
  """A manifest of the files in its folder; columns: {name: function of id}."""
  with open(folder / name, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["path", "labels", *columns])
    for video_id, label in labels.items():
      more = [function(video_id) for function in columns.values()]
      writer.writerow([f"{video_id}.npy", label, *more])
  return folder / name


@pytest.mark.parametrize(
  ("model", "is_frame_level"),
  [("FrameLevelLogisticModel", True), ("LogisticModel", False)],
)
def test_from_embeddings_to_predictions_with_names(
  tmp_path, model, is_frame_level
):
  labels = make_embeddings(tmp_path / "in", is_frame_level=is_frame_level)
  manifest = write_manifest(tmp_path / "in", labels)
  data, train_dir = tmp_path / "my, [data]", tmp_path / "model"
  log = in_process.run(IMPORT, f"--manifest={manifest}", f"--output_dir={data}")
  assert_names(log, "200 videos, 4 classes", "fish, or so", "16 float16")
  assert f"python train.py --dataset_dir='{data}' --model={model}" in log
  card = read_card(str(data))
  assert {name: of["videos"] for name, of in card.splits.items()} == {
    "train": 160,
    "validate": 20,
    "test": 20,
  }
  given = (f"--dataset_dir={data}", f"--train_dir={train_dir}")
  log = in_process.run("train", *given, f"--model={model}", "--num_epochs=20")
  assert "batch size 16" in log
  log = in_process.run("eval", *given, "--run_once")
  assert "Avg_Hit@1: 1.000" in log
  output = tmp_path / "predictions.csv"
  in_process.run("inference", *given, f"--output_file={output}", "--top_k=1")
  with open(tmp_path / "predictions_readable.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 20
  for row in rows:
    assert row["Name"] == labels[row["VideoId"]]
  # A typed flag wins.
  log = in_process.run_into_error(
    "train", *given, f"--model={model}", "--num_classes=2", "--start_new_model"
  )
  assert "class indices from 0 to 1" in log


def test_a_model_in_one_file_keeps_the_names(tmp_path):
  labels = make_embeddings(tmp_path / "in", is_frame_level=False)
  manifest = write_manifest(tmp_path / "in", labels)
  data, train_dir = tmp_path / "data", tmp_path / "model"
  in_process.run(IMPORT, f"--manifest={manifest}", f"--output_dir={data}")
  given = (f"--dataset_dir={data}", f"--train_dir={train_dir}")
  in_process.run("train", *given, "--max_steps=1")
  assert train_dirs.find_vocabulary(str(train_dir))
  in_process.run(
    "inference",
    *given,
    f"--output_file={tmp_path}/a.csv",
    f"--output_model_tgz={tmp_path}/model.tgz",
  )
  in_process.run(
    "inference",
    given[0],
    f"--input_model_tgz={tmp_path}/model.tgz",
    f"--untar_model_dir={tmp_path}/untarred",
    f"--output_file={tmp_path}/b.csv",
  )
  first = (tmp_path / "a_readable.csv").read_text()
  assert (tmp_path / "b_readable.csv").read_text() == first
  # Names that the data no longer has go with the run.
  in_process.run(
    "train", f"--train_dir={train_dir}", "--start_new_model", "--max_steps=1"
  )
  assert not train_dirs.find_vocabulary(str(train_dir))


def test_a_folder_with_labels_in_json(tmp_path):
  labels = make_embeddings(tmp_path / "in", 40)
  config = tmp_path / "config.json"
  config.write_text(json.dumps(list(labels.items())))
  data = tmp_path / "data"
  log = in_process.run(
    IMPORT,
    f"--embeddings_dir={tmp_path}/in",
    f"--labels={config}",
    f"--output_dir={data}",
    "--feature_names=clip",
    "--store=float32",
    "--splits=train:0.9,test:0.1",
  )
  assert "40 videos, 4 classes, clip (16 float32)" in log
  card = read_card(str(data))
  assert card.feature_names == ["clip"]
  assert set(card.splits) == {"train", "test"}
  line = in_process.run_into_error(
    "eval", f"--dataset_dir={data}", f"--train_dir={tmp_path}/x", "--run_once"
  )
  assert_names(line, "the split validate", "found train, test")


def test_typed_splits_and_groups_are_kept(tmp_path):
  labels = make_embeddings(tmp_path / "in", 60)
  number = lambda name: int(name.removeprefix("video"))  # noqa: E731
  manifest = write_manifest(
    tmp_path / "in",
    labels,
    split=lambda name: "test" if number(name) < 7 else "",
    group=lambda name: "" if number(name) < 10 else f"g{number(name) // 20}",
    id=lambda name: f"id {name}",
  )
  data = tmp_path / "data"
  in_process.run(IMPORT, f"--manifest={manifest}", f"--output_dir={data}")
  splits = read_card(str(data)).splits
  assert sum(of["videos"] for of in splits.values()) == 60
  assert splits["test"]["videos"] >= 7


def test_labels_that_are_numbers_are_indices(tmp_path):
  labels = make_embeddings(tmp_path / "in", 8)
  numbers = {name: f"0{index % 2 * 5}" for index, name in enumerate(labels)}
  manifest = write_manifest(tmp_path / "in", numbers)
  data = tmp_path / "data"
  in_process.run(IMPORT, f"--manifest={manifest}", f"--output_dir={data}")
  assert read_card(str(data)).num_classes == 6


def test_a_dry_run_writes_nothing(tmp_path):
  labels = make_embeddings(tmp_path / "in", 8)
  manifest = write_manifest(tmp_path / "in", labels)
  data = tmp_path / "data"
  log = in_process.run(
    IMPORT, f"--manifest={manifest}", f"--output_dir={data}", "--dry_run"
  )
  assert_names(log, "8 items", "4 classes", f"embedding ({LENGTH}, {SIZE})")
  assert not data.exists()


def test_bad_items_are_counted_and_too_many_are_an_error(tmp_path):
  labels = make_embeddings(tmp_path / "in", 40)
  labels["missing"] = "cat"
  manifest = write_manifest(tmp_path / "in", labels)
  data = tmp_path / "data"
  given = (f"--manifest={manifest}", f"--output_dir={data}")
  line = in_process.run_into_error(IMPORT, *given, "--max_bad_fraction=0.01")
  assert_names(line, "1 of 41", "missing.npy", "No such file")
  assert not data.exists()
  log = in_process.run(IMPORT, *given)
  assert "Left out 1 items" in log
  line = in_process.run_into_error(IMPORT, *given)
  assert_names(line, "exists already", str(data))


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--output_dir=FOLDER"),
    (("--output_dir=x",), "neither"),
    (("--output_dir=x", "--manifest=a", "--embeddings_dir=b"), "both"),
    (("--output_dir=x", "--embeddings_dir=b"), "--labels=FILE.json"),
    (("--output_dir=x", "--manifest=none.csv"), "--manifest=none.csv"),
  ],
)
def test_wrong_command_lines_end_in_one_line(arguments, words):
  line = in_process.run_into_error(IMPORT, *arguments)
  assert_names(line, words)


def test_a_file_of_embeddings_as_data_names_this_tool(tmp_path):
  make_embeddings(tmp_path / "in", 2)
  line = in_process.run_into_error(
    "train",
    f"--train_data_pattern={tmp_path}/in/*.npy",
    f"--train_dir={tmp_path}/model",
  )
  assert_names(line, "NumPy array", "import_embeddings")
