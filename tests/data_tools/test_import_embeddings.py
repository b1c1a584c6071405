"""Tests of data_tools.import_embeddings, and of --dataset_dir."""

import csv
import io
import itertools
import json
import os
import tarfile
import tempfile

import hypothesis
import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_names, read_batches
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import quantization
import readers
from data_tools.number_stores import STORES
from engine import train_dir as train_dirs
from engine.data import Data, records_of
from engine.data_files import find_files
from engine.dataset_card import read_card
from engine.model_flags import require_model_flags

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


def confidences(path):
  """{(video, class): confidence} of a predictions.csv."""
  with open(path, newline="") as file:
    rows = list(csv.reader(file))[1:]
  found = {}
  for video_id, pairs in rows:
    classes, values = pairs.split()[::2], pairs.split()[1::2]
    for label, value in zip(classes, values, strict=True):
      found[video_id, label] = float(value)
  return found


def test_bytes_are_read_in_the_ranges_of_their_own_data(tmp_path):
  labels = make_embeddings(tmp_path / "in", 80)
  manifest = write_manifest(tmp_path / "in", labels)
  log = in_process.run(
    IMPORT,
    f"--manifest={manifest}",
    "--store=uint8",
    f"--output_dir={tmp_path}/data",
  )
  assert_names(log, "embedding (16 uint8)", "embedding in bytes from -")
  train_dir = f"--train_dir={tmp_path}/model"
  in_process.run(
    "train",
    f"--dataset_dir={tmp_path}/data",
    train_dir,
    "--model=FrameLevelLogisticModel",
    "--max_steps=20",
    "--num_epochs=0",
  )
  card = read_card(str(tmp_path / "data"))
  model_flags = require_model_flags(f"{tmp_path}/model")
  assert model_flags["feature_ranges"] == card.ranges_of(["embedding"])
  # In other data one frame makes the range three times as wide.
  path = tmp_path / "in" / "video0.npy"
  frames = np.load(path)
  frames[0] *= 12.0
  np.save(path, frames)
  found = {}
  for store in ("float32", "uint8"):
    data = tmp_path / store
    in_process.run(
      IMPORT,
      f"--manifest={manifest}",
      f"--store={store}",
      f"--output_dir={data}",
    )
    output = tmp_path / f"{store}.csv"
    in_process.run(
      "inference",
      f"--dataset_dir={data}",
      train_dir,
      f"--output_file={output}",
    )
    found[store] = confidences(output)
  wide = read_card(str(tmp_path / "uint8"))
  assert np.ptp(wide.feature_ranges[0]) > 2 * np.ptp(card.feature_ranges[0])
  assert found["uint8"].keys() == found["float32"].keys()
  for key, value in found["float32"].items():
    assert abs(found["uint8"][key] - value) < 0.02
  # The model's own range would be wrong here.
  log = in_process.run(
    "inference",
    f"--input_data_pattern={tmp_path}/uint8/test*",
    train_dir,
    f"--output_file={tmp_path}/wrong.csv",
  )
  assert f"Reading bytes in {tmp_path}/uint8 as numbers in" in log
  wrong = confidences(tmp_path / "wrong.csv")
  assert max(abs(wrong[key] - found["uint8"][key]) for key in wrong) > 0.1
  scores = [
    json.loads(path.read_text())
    for path in (
      evaluated(tmp_path, "eval", f"--dataset_dir={tmp_path}/uint8"),
      evaluated(
        tmp_path,
        "typed",
        f"--eval_data_pattern={tmp_path}/uint8/val*",
        f"--feature_ranges={wide.ranges_of(['embedding'])}",
      ),
    )
  ]
  assert scores[0]["avg_loss"] == pytest.approx(scores[1]["avg_loss"])


def evaluated(tmp_path, name, *given):
  """The file with the scores of a call of eval.py, under its own name."""
  in_process.run("eval", *given, f"--train_dir={tmp_path}/model", "--run_once")
  (path,) = (tmp_path / "model" / "eval").glob("metrics-*.json")
  return path.rename(tmp_path / f"{name}.json")


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


def test_numbers_that_are_no_indices_are_refused(tmp_path):
  (tmp_path / "a.csv").write_text("path,labels\na.npy,7\nb.npy,20231105\n")
  line = in_process.run_into_error(
    IMPORT, f"--manifest={tmp_path}/a.csv", f"--output_dir={tmp_path}/data"
  )
  assert_names(line, "such as 20231105", "Number the classes from 0")


def test_names_of_classes_cannot_change_the_terminal(tmp_path):
  labels = make_embeddings(tmp_path / "in", 8)
  renamed = {"cat": "\x1b[31mcat", "dog": "狗" * 30}
  labels = {name: renamed.get(of, of) for name, of in labels.items()}
  manifest = write_manifest(tmp_path / "in", labels)
  log = in_process.run(
    IMPORT, f"--manifest={manifest}", f"--output_dir={tmp_path}/data"
  )
  assert "\x1b" not in log
  assert_names(log, "\ufffd[31mcat", "狗" * 19 + "…")


def test_parquet_files_and_tars_give_what_files_give(tmp_path):
  """The same records, though in other shards."""
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  labels = make_embeddings(tmp_path / "in", 30)
  manifest = write_manifest(tmp_path / "in", labels)
  arrays = {name: np.load(tmp_path / "in" / f"{name}.npy") for name in labels}
  rows = [(name, row) for name, array in arrays.items() for row in array]
  table = {
    "id": [name for name, _ in rows],
    "frame": [frame for _ in labels for frame in range(LENGTH)],
    "embedding": [row for _, row in rows],
    "labels": [labels[name] for name, _ in rows],
  }
  parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
  (tmp_path / "folder").mkdir()
  (tmp_path / "labels.json").write_text(json.dumps(labels))
  for name, array in arrays.items():
    table = pyarrow.table({"embedding": list(array), "frame": range(LENGTH)})
    parquet.write_table(table, tmp_path / "folder" / f"{name}.parquet")
  with tarfile.open(tmp_path / "00.tar", "w") as tar:
    for name, label in labels.items():
      tar.add(tmp_path / "in" / f"{name}.npy", f"{name}.npy")
      info = tarfile.TarInfo(f"{name}.cls")
      info.size = len(label)
      tar.addfile(info, io.BytesIO(label.encode()))
  found = {}
  for name, *source in (
    ("files", f"--manifest={manifest}"),
    (
      "folder of parquet",
      f"--embeddings_dir={tmp_path}/folder",
      f"--labels={tmp_path}/labels.json",
    ),
    ("parquet", f"--parquet={tmp_path}/*.parquet"),
    ("tars", f"--webdataset={tmp_path}/{{00..00}}.tar"),
    ("folder of tars", f"--webdataset={tmp_path}"),
  ):
    data = tmp_path / name
    in_process.run(IMPORT, *source, f"--output_dir={data}")
    card = read_card(str(data))
    assert set(card.made_by) == {"command", "source", "storage_errors"}
    card.made_by.clear()
    content = {"card": card, "names": (data / "vocabulary.csv").read_bytes()}
    for split in card.splits:
      files = sorted(map(str, data.glob(f"{split}*")))
      content[split] = sorted(
        tf.data.TFRecordDataset(files).as_numpy_iterator()
      )
    found[name] = content
  for content in found.values():
    assert content == found["files"]


def test_a_damaged_tar_is_one_bad_item(tmp_path):
  labels = make_embeddings(tmp_path / "in", 30)
  config = tmp_path / "labels.json"
  config.write_text(json.dumps(labels))
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name in labels:
      tar.add(tmp_path / "in" / f"{name}.npy", f"{name}.npy")
  (tmp_path / "b.tar").write_text("no tar")
  given = (
    IMPORT,
    f"--webdataset={tmp_path}/*.tar",
    f"--labels={config}",
    f"--output_dir={tmp_path}/data",
  )
  log = in_process.run(*given, "--dry_run")
  assert_names(log, "31 items", "4 classes", "1 without labels or otherwise")
  log = in_process.run(*given)
  assert_names(log, "30 videos, 4 classes", "Left out 1 items")
  report = (tmp_path / "data" / "import_report.csv").read_text()
  assert_names(report, "b.tar", "no tar without compression")


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


def test_the_list_of_a_failed_import_replaces_no_input(tmp_path):
  labels = make_embeddings(tmp_path / "in", 2)
  (tmp_path / "in" / "video0.npy").write_bytes(b"")
  manifest = write_manifest(tmp_path / "in", labels, "q.import_report.csv")
  before = manifest.read_bytes()
  output = tmp_path / "in" / "q"
  line = in_process.run_into_error(
    IMPORT, f"--manifest={manifest}", f"--output_dir={output}"
  )
  assert_names(line, "as --output_dir, received", str(manifest))
  assert manifest.read_bytes() == before
  # Nor another file of the user.
  (tmp_path / "r.import_report.csv").write_text("mine")
  line = in_process.run_into_error(
    IMPORT, f"--manifest={manifest}", f"--output_dir={tmp_path}/r"
  )
  assert_names(line, f"none, as {tmp_path}/r.import_report.csv, which")


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
  manifest = write_manifest(
    tmp_path / "in", make_embeddings(tmp_path / "in", 3)
  )
  (tmp_path / "data").mkdir()
  (tmp_path / "link").symlink_to("data")
  in_process.run(
    IMPORT, f"--manifest={manifest}", f"--output_dir={tmp_path}/link"
  )
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "data" / "dataset.json").exists()


def test_items_of_a_group_have_one_split(tmp_path):
  labels = make_embeddings(tmp_path / "in", 4)
  manifest = write_manifest(
    tmp_path / "in",
    labels,
    split=lambda name: "test" if name == "video2" else "train",
    group=lambda name: "g",
  )
  line = in_process.run_into_error(
    IMPORT, f"--manifest={manifest}", f"--output_dir={tmp_path}/data"
  )
  assert_names(line, "one split for the group g, received train and test")


def test_nothing_to_import_is_one_line(tmp_path):
  manifest = write_manifest(tmp_path, {})
  output = f"--output_dir={tmp_path}/data"
  line = in_process.run_into_error(IMPORT, f"--manifest={manifest}", output)
  assert_names(line, f"Expected items in {manifest}, found none")
  labels = tmp_path / "labels.json"
  labels.write_text("{}")
  line = in_process.run_into_error(
    IMPORT, f"--embeddings_dir={tmp_path}/no", f"--labels={labels}", output
  )
  assert_names(line, f"--embeddings_dir={tmp_path}/no (No such file")


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--output_dir=FOLDER"),
    (("--output_dir=x",), "received none"),
    (
      ("--output_dir=x", "--manifest=a", "--embeddings_dir=b"),
      "--manifest and --embeddings_dir",
    ),
    (("--output_dir=x", "--embeddings_dir=b"), "--labels=FILE.json"),
    (
      (
        *("--output_dir=x", "--embeddings_dir=b", "--labels=c.json"),
        "--feature_names=clip,audio",
      ),
      "write a --manifest",
    ),
    (("--output_dir=x", "--manifest=none.csv"), "--manifest=none.csv"),
    (("--output_dir=x", "--manifest=a", "--labels=b.json"), "--labels=b.json"),
    (("--output_dir=x", "--manifest=a", "--feature_names=b,b"), "b twice"),
    (("--output_dir=x", "--manifest=a", "--feature_names=labels"), "labels,"),
    (("--output_dir=x", "--manifest=a", "--feature_names=b,"), "an empty one"),
    (("--output_dir=x", "--manifest=a", "--feature_names="), "received none"),
  ],
)
def test_wrong_command_lines_end_in_one_line(arguments, words):
  line = in_process.run_into_error(IMPORT, *arguments)
  assert_names(line, words)


@pytest.mark.parametrize(
  ("ending", "words"),
  [("npy", "NumPy array"), ("parquet", "a parquet file"), ("tar", "a tar")],
)
def test_a_file_of_embeddings_as_data_names_this_tool(tmp_path, ending, words):
  make_embeddings(tmp_path / "in", 2)
  path = tmp_path / "in" / "video0.npy"
  if ending == "parquet":
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1" + bytes(100))
  elif ending == "tar":
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
      info = tarfile.TarInfo("a.npy")
      info.mtime = 12.5  # as the library of WebDataset gives it
      info.size = path.stat().st_size
      tar.addfile(info, io.BytesIO(path.read_bytes()))
  line = in_process.run_into_error(
    "train",
    f"--train_data_pattern={tmp_path}/in/*.{ending}",
    f"--train_dir={tmp_path}/model",
  )
  assert_names(line, words, "import_embeddings")


# --------------------------------------------------------------------------
# Whatever is imported comes back


@st.composite
def data_sets(draw):
  """What may be imported: {"store", "names", "is_frame_level", "videos"}.

  A video has an id, labels, a split or none, and for each feature an array and
  the ending of its file.
  """
  store = draw(st.sampled_from(sorted(STORES)))
  most = {"float16": 65504.0, "float32": 2.0**60, "uint8": 2.0**30}[store]
  numbers = st.floats(-most, most, width=32)
  names = draw(
    st.lists(
      st.sampled_from(["clip", "son_é", "音", "rgb"]),
      min_size=1,
      max_size=3,
      unique=True,
    )
  )
  sizes = {name: draw(st.integers(1, 4)) for name in names}
  is_frame_level = draw(st.booleans())
  printable = st.characters(exclude_categories=["Cc", "Cs"])
  words = st.text(printable, min_size=1, max_size=8).map(str.strip)
  classes = draw(
    st.one_of(
      st.lists(
        words.filter(lambda word: word and ";" not in word),
        min_size=1,
        unique=True,
      ),
      st.lists(st.integers(0, 99).map(str), min_size=1, unique=True),
    )
  )
  ids = st.lists(words.filter(bool), min_size=1, max_size=8, unique=True)
  videos = {}
  for video_id in draw(ids):
    length = (draw(st.integers(1, 11)),) if is_frame_level else ()
    videos[video_id] = {
      "labels": draw(
        st.lists(st.sampled_from(classes), min_size=1, max_size=3, unique=True)
      ),
      "split": draw(st.sampled_from(["", "train", "validate", "test"])),
      "arrays": {
        name: draw(arrays(np.float32, (*length, size), elements=numbers))
        for name, size in sizes.items()
      },
      "ending": draw(st.sampled_from([".npy", ".npz", ".json"])),
    }
  return {
    "store": store,
    "names": names,
    "is_frame_level": is_frame_level,
    "videos": videos,
  }


def write_embeddings(folder, made) -> None:
  """Writes the files of a data set and manifest.csv."""
  names = made["names"]
  columns = ["path"] if len(names) == 1 else [f"path_{name}" for name in names]
  with open(f"{folder}/manifest.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "labels", "split", *columns])
    for number, (video_id, video) in enumerate(made["videos"].items()):
      paths = []
      for name, array in video["arrays"].items():
        path = f"{folder}/{name}{number}{video['ending']}"
        paths.append(os.path.basename(path))
        if path.endswith(".json"):
          with open(path, "w") as content:
            json.dump(array.tolist(), content)
        elif path.endswith(".npz"):
          np.savez(path, array)
        else:
          np.save(path, array)
      labels = ";".join(video["labels"])
      writer.writerow([video_id, labels, video["split"], *paths])


def read_split(folder, card, split):
  """{id: (matrix, class indices)} of a split, in the numbers that models get.

  Serving must give the same.
  """
  ranges = card.ranges_of(card.feature_names)
  model_flags = {**card.flags(), "max_frames": 300, "feature_ranges": ranges}
  files = find_files(card.pattern(folder, split), "x")
  data = Data(model_flags, files, with_labels=True)
  (batch,) = read_batches(data)
  records = [bytes(record) for _, _, record in records_of(files)]
  served = readers.make_reader(model_flags, data.reader.kinds).parse_batch(
    tf.constant(records)
  )
  found = {}
  for row, video_id in enumerate(batch["video_ids"].tolist()):
    matrices = batch["video_matrix"][row], served["video_matrix"].numpy()[row]
    if card.frame_features:
      length = batch["num_frames"][row]
      assert served["num_frames"].numpy()[row] == length
      assert not matrices[0][length:].any()
      matrices = [matrix[:length] for matrix in matrices]
    assert served["video_ids"].numpy()[row] == video_id
    np.testing.assert_array_equal(*matrices)
    if matrices[0].dtype == np.uint8:
      of = quantization.scales_and_biases(
        quantization.parse_ranges(ranges, len(card.feature_names)),
        card.feature_sizes,
      )
      matrices = [quantization.dequantize(np.float32(matrices[0]), *of)]
    labels = np.flatnonzero(batch["labels"][row]).tolist()
    found[video_id.decode()] = matrices[0], labels
  return found


def assert_is_close(found, given, name, card):
  """Checks a feature: exactly, or within the error that the card states."""
  dtype = card.feature_dtypes[card.feature_names.index(name)]
  if dtype == "float32":
    np.testing.assert_array_equal(found.view(np.uint32), given.view(np.uint32))
    return
  error = np.abs(found.astype(np.float64) - given)
  stated = card.made_by["storage_errors"][name]
  if dtype == "uint8":
    # TensorFlow's threads take numbers below the smallest normal one for 0.
    assert error.max() <= stated["largest_error"] + 2.0**-126
    low, high = card.feature_ranges[card.feature_names.index(name)]
    rounding = np.spacing(np.float32(max(abs(low), abs(high))))
    assert stated["largest_error"] <= (high - low) / 510 + 2 * rounding
    return
  is_normal = np.abs(given) >= 2.0**-14
  relative = error[is_normal] / np.abs(given[is_normal])
  assert relative.max(initial=0.0) <= stated["largest_relative_error"]
  assert stated["largest_relative_error"] <= 2.0**-11
  assert error[~is_normal].max(initial=0.0) <= 2.0**-25


@hypothesis.given(made=data_sets())
@hypothesis.settings(max_examples=25, deadline=None)
def test_whatever_is_imported_comes_back(made):
  with tempfile.TemporaryDirectory() as folder:
    write_embeddings(folder, made)
    in_process.run(
      IMPORT,
      f"--manifest={folder}/manifest.csv",
      f"--feature_names={','.join(made['names'])}",
      f"--store={made['store']}",
      f"--output_dir={folder}/data",
    )
    card = read_card(f"{folder}/data")
    assert card.feature_dtypes == [made["store"]] * len(made["names"])
    with open(f"{folder}/data/vocabulary.csv", newline="") as file:
      classes = [row["Name"] for row in csv.DictReader(file)]
    splits = {
      split: read_split(f"{folder}/data", card, split) for split in card.splits
    }
  found = {name: of for split in splits.values() for name, of in split.items()}
  assert found.keys() == made["videos"].keys()
  assert sum(map(len, splits.values())) == len(found)
  for video_id, video in made["videos"].items():
    assert video_id in splits.get(video["split"], found)
    matrix, labels = found[video_id]
    assert {classes[index] for index in labels} == set(video["labels"])
    ends = np.cumsum([0, *card.feature_sizes])
    spans = zip(card.feature_names, itertools.pairwise(ends), strict=True)
    for name, (begin, end) in spans:
      columns = np.ascontiguousarray(matrix[..., begin:end])
      assert_is_close(columns, video["arrays"][name], name, card)
