"""Tests of inference: the real command line, and its parts."""

import csv
import gzip
import io
import json
import os
import shutil
import signal
import stat
import tarfile

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  Program,
  folder_content,
  load_model,
  make_once,
  run_program,
)
from make_records import frame_record, video_record, write_records
from small_checkpoints import damage_data
from tiny_runs import train_tiny

import errors
import inference
import models
from engine import best_checkpoint, csv_cells, prediction_file
from engine.checkpoints import Checkpoints, latest_checkpoint
from engine.model_archive import extract_model_tgz
from engine.model_flags import write_model_flags

# --------------------------------------------------------------------------
# A model made by hand, whose predictions are known

TINY_FLAGS = {
  "model": "LogisticModel",
  "feature_names": "mean_rgb",
  "feature_sizes": "2",
  "frame_features": False,
  "num_classes": 6,
  "max_frames": 300,
  "label_loss": "CrossEntropyLoss",
}
# sigmoid of the logits, except for class 1, whose logit is mean_rgb[0] of the
# normalized video.
LOGITS = [0.0, 0.0, 2.0, -1.0, 2.0, 0.0]
PROBABILITIES = 1 / (1 + np.exp(-np.array(LOGITS)))


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
  """A train_dir with a LogisticModel whose kernel is almost zero."""
  train_dir = tmp_path_factory.mktemp("tiny_model")
  model = models.build_model(TINY_FLAGS)
  kernel = np.zeros((2, 6), np.float32)
  kernel[0, 1] = 1.0
  model.get_layer("fully_connected").set_weights([kernel, np.array(LOGITS)])
  write_model_flags(str(train_dir), TINY_FLAGS)
  Checkpoints(str(train_dir), 1, model=model).save(3)
  return str(train_dir)


def tiny_records(numbers, values=(0.0, 1.0)):
  """Records of videos; class 1 has sigmoid(values[0] / |values|)."""
  return [
    video_record(f"v{number}", mean_rgb=np.array(values)) for number in numbers
  ]


def error_of(function, *arguments) -> str:
  with pytest.raises(errors.UserError) as caught:
    function(*arguments)
  return str(caught.value)


# --------------------------------------------------------------------------
# Videos, by the command line


def list_test_files(data_dir):
  return [
    str(path) for path in sorted((data_dir / "video").glob("test*.tfrecord"))
  ]


def read_vectors(files):
  """(ids, (videos, features) float32) of video-level files, in their order."""
  ids, vectors = [], []
  for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
    feature = tf.train.Example.FromString(record).features.feature
    ids.append(feature["id"].bytes_list.value[0].decode())
    vectors.append(
      [
        *feature["mean_rgb"].float_list.value,
        *feature["mean_audio"].float_list.value,
      ]
    )
  return ids, np.array(vectors, np.float32)


def predict_videos(train_dir, vectors):
  return load_model(train_dir)(
    {
      "video_matrix": vectors,
      "num_frames": np.ones(len(vectors), np.int32),
    },
    training=False,
  )["predictions"].numpy()


def check_lines(text, ids, predictions, top_k) -> None:
  """Checks a predictions.csv line by line."""
  header, *lines = text.split("\n")
  assert header == "VideoId,LabelConfidencePairs"
  assert lines.pop() == ""
  assert len(lines) == len(ids)
  # Of equal confidences the lower class index comes first.
  best = np.argsort(-predictions, axis=1, kind="stable")[:, :top_k]
  for line, video_id, classes, values in zip(
    lines, ids, best, predictions, strict=True
  ):
    written_id, pairs = line.split(",")
    assert written_id == video_id
    words = pairs.split(" ")
    assert words[::2] == [str(index) for index in classes]
    for word, index in zip(words[1::2], classes, strict=True):
      assert word == f"{float(word):g}"  # six digits
      assert float(word) == pytest.approx(float(values[index]), rel=6e-6)


@pytest.fixture(scope="module")
def video_predictions(video_run, data_dir, tmp_path_factory):
  """(predictions.csv, model.tgz, log) of the test videos."""

  def make(folder):
    (folder / "out").mkdir()
    log = run_program(
      "inference.py",
      f"--train_dir={video_run[0]}",
      f"--input_data_pattern={data_dir}/video/test*.tfrecord",
      f"--output_file={folder}/out/predictions.csv",
      f"--output_model_tgz={folder}/out/model.tgz",
      f"--vocabulary={data_dir}/vocabulary.csv",
      "--batch_size=4",
    )
    (folder / "log").write_text(log)

  folder = make_once(tmp_path_factory, "predictions", make)
  output = folder / "out"
  log = (folder / "log").read_text()
  return output / "predictions.csv", output / "model.tgz", log


def test_predictions_line_by_line(video_predictions, video_run, data_dir):
  output, _, log = video_predictions
  files = list_test_files(data_dir)
  assert len(files) == 3
  ids, vectors = read_vectors(files)
  assert len(ids) == 13
  check_lines(
    output.read_text(), ids, predict_videos(video_run[0], vectors), 20
  )
  assert "num examples processed: 13" in log
  assert f"Predictions: {output}" in log


def test_readable_file(video_predictions, data_dir):
  output, _, log = video_predictions
  readable = output.with_name("predictions_readable.csv")
  assert f"With names: {readable}" in log
  with (data_dir / "vocabulary.csv").open() as file:
    names = {row["Index"]: row["Name"] for row in csv.DictReader(file)}
  with readable.open() as file:
    header, *rows = list(csv.reader(file))
  assert header == ["VideoId", "Label", "Name", "Confidence"]
  expected = []
  for line in output.read_text().splitlines()[1:]:
    video_id, pairs = line.split(",")
    words = pairs.split()
    expected += [
      [video_id, index, names[index], confidence]
      for index, confidence in zip(words[::2], words[1::2], strict=True)
    ]
  assert rows == expected
  assert len(rows) == 13 * 20


def test_nothing_else_is_left(video_predictions):
  output, tgz, _ = video_predictions
  assert {path.name for path in output.parent.iterdir()} == {
    output.name,
    tgz.name,
    "predictions_readable.csv",
  }


def test_model_tgz_round_trip(video_predictions, video_run, data_dir, tmp_path):
  output, tgz, _ = video_predictions
  with tarfile.open(tgz) as archive:
    assert sorted(archive.getnames()) == [
      "model.ckpt-24.data-00000-of-00001",
      "model.ckpt-24.index",
      "model_flags.json",
    ]
  in_process.run(
    "inference",
    f"--input_model_tgz={tgz}",
    f"--untar_model_dir={tmp_path}/unpacked",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={tmp_path}/again.csv",
    "--batch_size=4",
  )
  assert (tmp_path / "again.csv").read_bytes() == output.read_bytes()


def test_two_models_are_named(video_predictions, video_run, data_dir, tmp_path):
  _, tgz, _ = video_predictions
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={video_run[0]}",
    f"--input_model_tgz={tgz}",
    f"--untar_model_dir={tmp_path}/unpacked",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={tmp_path}/out/predictions.csv",
  )
  assert "--train_dir" in line
  assert "--input_model_tgz" in line
  assert "received both" in line
  assert not list(tmp_path.iterdir())


def test_a_missing_vocabulary_names_its_flag(video_run, data_dir, tmp_path):
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={video_run[0]}",
    f"--vocabulary={tmp_path}/words.csv",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={tmp_path}/predictions.csv",
  )
  assert f"--vocabulary={tmp_path}/words.csv" in line
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_link", [False, True])
def test_predictions_do_not_replace_a_file_of_the_run(
  video_run, data_dir, tmp_path, is_link
):
  shutil.copytree(video_run[0], tmp_path / "model")
  output = tmp_path / "model" / "model_flags.json"
  content = output.read_bytes()
  if is_link:
    output = tmp_path / "predictions.csv"
    output.symlink_to("model/model_flags.json")
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={tmp_path}/model",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={output}",
  )
  assert f"--output_file, received {output}, which belongs to" in line
  assert output.read_bytes() == content


@pytest.mark.parametrize(
  ("flag", "name"),
  [
    ("output_file", "a.tfrecord"),
    ("output_file", "names.csv"),  # names_readable.csv would be lost
    ("output_model_tgz", "a.tfrecord"),
    ("output_model_tgz", "predictions.csv"),
  ],
)
def test_what_is_read_is_not_replaced(
  video_run, data_dir, tmp_path, flag, name
):
  source = f"{data_dir}/video/test0000.tfrecord"
  shutil.copy(source, tmp_path / "a.tfrecord")
  (tmp_path / "names_readable.csv").write_text("Index,Name\n39,cat\n")
  before = folder_content(tmp_path)
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={video_run[0]}",
    f"--input_data_pattern={tmp_path}/a.tfrecord",
    f"--vocabulary={tmp_path}/names_readable.csv",
    f"--output_file={tmp_path}/predictions.csv",
    f"--{flag}={tmp_path}/{name}",
  )
  assert f"Expected a file of its own as --{flag}" in line
  assert folder_content(tmp_path) == before


def test_without_a_checkpoint(data_dir, tmp_path):
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={tmp_path}/model",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={tmp_path}/predictions.csv",
  )
  assert f"--train_dir={tmp_path}/model" in line
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
  "number",
  [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_stopped_run_leaves_no_part_of_a_file(tiny_dir, tmp_path, number):
  write_records(tmp_path / "part0", tiny_records(range(300_000)))
  output = tmp_path / "out" / "predictions.csv"
  output.parent.mkdir()
  if number == signal.SIGINT:
    output.write_text("of an earlier run")
  with Program(
    tmp_path / "log",
    "inference.py",
    f"--train_dir={tiny_dir}",
    f"--input_data_pattern={tmp_path}/part*",
    f"--output_file={output}",
    "--batch_size=10",
  ) as program:
    program.wait_for(
      lambda: any(path.stat().st_size for path in output.parent.glob(".*.tmp*"))
    )
    program.send_signal(number)
    if number == signal.SIGINT:
      assert program.finish(exit_code=130).endswith("Stopped by Ctrl-C.\n")
      assert [path.name for path in output.parent.iterdir()] == [output.name]
      assert output.read_text() == "of an earlier run"
    else:
      program.wait_for_end()
      assert not output.exists()


def test_failed_run_leaves_the_old_file(tiny_dir, tmp_path):
  bad = video_record("bad", mean_rgb=[1.0, 2.0, 3.0])
  write_records(tmp_path / "a", tiny_records(range(5000)))
  write_records(tmp_path / "b", [*tiny_records(range(7)), bad])
  output = tmp_path / "out" / "predictions.csv"
  output.parent.mkdir()
  output.write_text("of an earlier run")
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={tiny_dir}",
    f"--input_data_pattern={tmp_path}/a,{tmp_path}/b",
    f"--output_file={output}",
    "--batch_size=64",
  )
  assert f"{tmp_path}/b, record 7: " in line
  assert "mean_rgb (3 float)" in line
  assert [path.name for path in output.parent.iterdir()] == [output.name]
  assert output.read_text() == "of an earlier run"


@pytest.fixture(scope="module")
def all_classes(video_run, data_dir, tmp_path_factory):
  """(path, log) of the predictions of all classes of the test videos."""
  path = tmp_path_factory.mktemp("all_classes") / "x.npz"
  log = in_process.run(
    "inference",
    f"--train_dir={video_run[0]}",
    f"--input_data_pattern={data_dir}/video/test*.tfrecord",
    f"--output_file={path}",
    "--all_classes",
    "--top_k=3",
    "--batch_size=4",
  )
  return path, log


def test_all_classes(all_classes, video_run, data_dir):
  path, log = all_classes
  ids, vectors = read_vectors(list_test_files(data_dir))
  with np.load(path) as found:
    assert [name.decode() for name in found["video_ids"].tolist()] == ids
    np.testing.assert_allclose(
      found["predictions"], predict_videos(video_run[0], vectors), atol=1e-6
    )
    assert found["predictions"].dtype == np.float32
    np.testing.assert_array_equal(found["classes"], range(40))
  assert f"Predictions of all classes: {path}" in log
  assert "No effect with --all_classes: --top_k." in log
  assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_all_classes_of_a_label_subset(tmp_path):
  model_flags = {**TINY_FLAGS, "label_subset": [1, 4]}
  model = models.build_model(model_flags)
  model.get_layer("fully_connected").set_weights(
    [np.zeros((2, 2), np.float32), np.array([0.0, 2.0])]
  )
  write_model_flags(str(tmp_path), model_flags)
  Checkpoints(str(tmp_path), 1, model=model).save(3)
  file = write_records(tmp_path / "a", tiny_records([7, 8]))
  inference.predict(
    model_flags,
    latest_checkpoint(str(tmp_path)),
    [file],
    str(tmp_path / "x.npz"),
    all_classes=True,
  )
  with np.load(tmp_path / "x.npz") as found:
    assert found["classes"].tolist() == [1, 4]
    np.testing.assert_allclose(
      found["predictions"], [[0.5, 0.880797]] * 2, rtol=1e-5
    )


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    (["--output_file=x.csv"], "ends in .npz as --output_file"),
    ([], "received predictions.csv"),
    (
      ["--output_file=x.npz", "--segment_labels"],
      "one of --all_classes and --segment_labels, received both",
    ),
    (
      ["--output_file=x.npz", "--videos=clips"],
      "one of --all_classes and --videos, received both",
    ),
  ],
)
def test_what_does_not_go_with_all_classes(
  video_run, tmp_path, monkeypatch, flags, part
):
  monkeypatch.chdir(tmp_path)
  line = in_process.run_into_error(
    "inference", f"--train_dir={video_run[0]}", "--all_classes", *flags
  )
  assert part in line
  assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------
# Videos, by the parts


def write_videos(
  tiny_dir, files, tmp_path, top_k, class_names=None, batch_size=4
):
  inference.predict(
    TINY_FLAGS,
    latest_checkpoint(tiny_dir),
    files,
    str(tmp_path / "out.csv"),
    top_k=top_k,
    class_names=class_names,
    batch_size=batch_size,
  )
  return (tmp_path / "out.csv").read_text()


def test_ties_go_to_the_lower_class(tiny_dir, tmp_path):
  file = write_records(tmp_path / "a", tiny_records([7]))
  assert write_videos(tiny_dir, [file], tmp_path, 5) == (
    "VideoId,LabelConfidencePairs\nv7,2 0.880797 4 0.880797 0 0.5 1 0.5 5 0.5\n"
  )


def test_a_cut_in_a_tie_keeps_the_lower_classes(tiny_dir, tmp_path):
  file = write_records(tmp_path / "a", tiny_records([7]))
  text = write_videos(tiny_dir, [file], tmp_path, 4)
  assert text.endswith("v7,2 0.880797 4 0.880797 0 0.5 1 0.5\n")


def test_more_predictions_than_classes(tiny_dir, tmp_path):
  file = write_records(tmp_path / "a", tiny_records([7], (3.0, -4.0)))
  # sigmoid(0.6) = 0.645656
  assert write_videos(tiny_dir, [file], tmp_path, 100).endswith(
    "v7,2 0.880797 4 0.880797 1 0.645656 0 0.5 5 0.5 3 0.268941\n"
  )


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predictions_come_in_the_order_of_the_input(
  tiny_dir, tmp_path, batch_size
):
  # Each video has a prediction of its own.
  files = [
    write_records(
      tmp_path / name,
      [
        record
        for number in numbers
        for record in tiny_records([number], (np.cos(number), np.sin(number)))
      ],
    )
    for name, numbers in [
      ("a", [5, 3, 9]),
      ("c", range(100, 150)),
      ("d", [1]),
    ]
  ]
  text = write_videos(tiny_dir, files, tmp_path, 6, batch_size=batch_size)
  numbers = [5, 3, 9, *range(100, 150), 1]
  predictions = np.tile(PROBABILITIES, (len(numbers), 1))
  predictions[:, 1] = 1 / (1 + np.exp(-np.cos(numbers)))
  check_lines(text, [f"v{number}" for number in numbers], predictions, 6)


def test_a_video_whose_prediction_is_not_a_number(tiny_dir, tmp_path):
  records = [*tiny_records([1, 2]), *tiny_records([3], (np.nan, 1.0))]
  file = write_records(tmp_path / "a", records)
  text = error_of(write_videos, tiny_dir, [file], tmp_path, 2)
  assert f"{file}, record 2: expected finite numbers" in text
  assert not (tmp_path / "out.csv").exists()


def test_names_in_the_readable_file(tiny_dir, tmp_path):
  names = ["/m/0", "class 1", 'Salt, "pepper" & co', "class 3", "Café", "5"]
  file = write_records(tmp_path / "a", tiny_records([7, 8]))
  write_videos(tiny_dir, [file], tmp_path, 3, names)
  text = (tmp_path / "out_readable.csv").read_text()
  assert text.splitlines()[:4] == [
    "VideoId,Label,Name,Confidence",
    'v7,2,"Salt, ""pepper"" & co",0.880797',
    "v7,4,Café,0.880797",
    "v7,0,/m/0,0.5",
  ]
  rows = list(csv.reader(io.StringIO(text)))
  assert rows[4] == ["v8", "2", 'Salt, "pepper" & co', "0.880797"]


STRANGE_IDS = [
  *(b"v7", b"-_x", b"=cmd()", b"a,b", b'"', b"a\nb", b"\r", b" x "),
  *(b"a\0", b"\xff\xfe", b"caf\xe9", b"\\xe9", "é".encode()),
]


@pytest.fixture
def strange_flags(tiny_dir, tmp_path):
  """Flags that predict videos with strange ids, of strange classes."""
  records = [
    video_record(name, mean_rgb=np.array([0.0, 1.0])) for name in STRANGE_IDS
  ]
  names = ["a,b", '"', "a\nb", "=cmd()", "c\rd", " x "]
  with (tmp_path / "names.csv").open("w", newline="") as file:
    csv.writer(file).writerows([["Index", "Name"], *enumerate(names)])
  return [
    f"--train_dir={tiny_dir}",
    f"--input_data_pattern={write_records(tmp_path / 'a', records)}",
    f"--vocabulary={tmp_path}/names.csv",
  ]


def read_ids(path, begin="") -> list[bytes]:
  """The ids that a CSV file has, which may have an apostrophe in front."""
  with path.open(newline="") as file:
    _, *rows = csv.reader(file)
  ids = [row[0].removeprefix(begin) for row in rows]
  return list(map(csv_cells.original_bytes, dict.fromkeys(ids)))


def test_ids_of_any_bytes_are_read_back(strange_flags, tmp_path):
  output = tmp_path / "out" / "x.csv"
  in_process.run("inference", *strange_flags, f"--output_file={output}")
  assert read_ids(output) == STRANGE_IDS
  assert b"v7,2 0.880797 4 " in output.read_bytes()
  readable = output.with_name("x_readable.csv")
  assert read_ids(readable) == STRANGE_IDS
  with readable.open(newline="") as file:
    _, *rows = csv.reader(file)
  assert [row[1:3] for row in rows[:6]] == [
    *(["2", "a\nb"], ["4", "c\rd"], ["0", "a,b"], ["1", '"'], ["5", " x "]),
    ["3", "=cmd()"],
  ]


def test_a_spreadsheet_takes_no_id_and_no_name_for_a_formula(
  strange_flags, tmp_path
):
  output = tmp_path / "x.csv"
  flags = (*strange_flags, f"--output_file={output}", "--spreadsheet_safe")
  in_process.run("inference", *flags)
  lines = output.read_text().splitlines()
  assert lines[1].startswith("v7,2 0.88")
  assert lines[2].startswith("'-_x,")
  assert lines[3].startswith("'=cmd(),")
  assert read_ids(output, "'") == STRANGE_IDS
  assert ",3,'=cmd(),0.2" in (tmp_path / "x_readable.csv").read_text()
  for name in ("segment_labels", "all_classes"):
    line = in_process.run_into_error("inference", *flags, f"--{name}")
    assert f"one of --spreadsheet_safe and --{name}, received both" in line


def test_all_classes_of_ids_of_any_bytes(strange_flags, tmp_path):
  path = tmp_path / "x.npz"
  in_process.run(
    "inference", *strange_flags, f"--output_file={path}", "--all_classes"
  )
  found = prediction_file.read_predictions(str(path))
  assert prediction_file.original_ids(found.video_ids) == STRANGE_IDS


# --------------------------------------------------------------------------
# Pipes and devices


def test_predictions_go_to_the_output(strange_flags, tmp_path, capfd):
  in_process.run("inference", *strange_flags[:2], "--output_file=/dev/stdout")
  shown = capfd.readouterr().out
  in_process.run(
    "inference", *strange_flags[:2], f"--output_file={tmp_path}/x.csv"
  )
  with (tmp_path / "x.csv").open(newline="") as file:
    assert shown == file.read()


def test_a_device_stays_and_gets_no_file_beside_it(strange_flags):
  before = sorted(os.listdir("/dev"))
  log = in_process.run("inference", *strange_flags, "--output_file=/dev/null")
  assert "there is no second file beside /dev/null" in log
  assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
  assert sorted(os.listdir("/dev")) == before
  line = in_process.run_into_error(
    "inference", "--videos=clips", "--output_file=/dev/null"
  )
  assert "Expected a file as --output_file with --videos" in line


@pytest.fixture(scope="module")
def large_dir(tmp_path_factory):
  """A train_dir with a model of 3862 classes, whose best ones are known."""
  train_dir = tmp_path_factory.mktemp("large_model")
  model_flags = {**TINY_FLAGS, "num_classes": 3862}
  model = models.build_model(model_flags)
  logits = np.zeros(3862)
  logits[[0, 120, 3861]] = 3, 2, 1
  model.get_layer("fully_connected").set_weights(
    [np.zeros((2, 3862), np.float32), logits]
  )
  write_model_flags(str(train_dir), model_flags)
  Checkpoints(str(train_dir), 1, model=model).save(3)
  return str(train_dir)


@pytest.mark.parametrize(
  ("given", "expected"),
  [("", ["Game", "/m/0dxrf", "Gamblerz"]), ("own", ["A", "class 120", "Z"])],
)
def test_names_of_youtube_8m_come_by_default(
  large_dir, tmp_path, given, expected
):
  write_records(tmp_path / "a", tiny_records([7]))
  more = []
  if given:
    (tmp_path / "words.csv").write_text("Index,Name\n0,A\n3861,Z\n")
    more = [f"--vocabulary={tmp_path}/words.csv"]
  log = in_process.run(
    "inference",
    f"--train_dir={large_dir}",
    f"--input_data_pattern={tmp_path}/a",
    f"--output_file={tmp_path}/out.csv",
    "--top_k=3",
    *more,
  )
  assert f"With names: {tmp_path}/out_readable.csv" in log
  assert ("Names of the classes" in log) == (not given)
  header, line = (tmp_path / "out.csv").read_text().splitlines()
  assert header == "VideoId,LabelConfidencePairs"
  assert line == "v7,0 0.952574 120 0.880797 3861 0.731059"
  rows = list(csv.DictReader((tmp_path / "out_readable.csv").open()))
  assert [row["Name"] for row in rows] == expected


def test_readable_path():
  assert inference.readable_path("/a.b/out.csv") == "/a.b/out_readable.csv"
  assert inference.readable_path("/a.b/out") == "/a.b/out_readable"


@pytest.mark.parametrize("kind", ["text", "cut off", "other archive"])
def test_bad_model_tgz(tmp_path, video_predictions, kind):
  tgz = tmp_path / "model.tgz"
  content = video_predictions[1].read_bytes()
  if kind == "text":
    tgz.write_text("no archive")
  elif kind == "cut off":
    tgz.write_bytes(content[: len(content) // 2])
  else:
    with tarfile.open(tgz, "w:gz") as archive:
      archive.add(__file__, "test_inference.py")
  text = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert str(tgz) in text
  assert "--output_model_tgz" in text


def write_zeros_of(path, size) -> None:
  """A .tgz whose only file has so many zeros, but is not made of them all."""
  member = tarfile.TarInfo("model.ckpt-5.data-00000-of-00001")
  member.size = size
  part = gzip.compress(bytes(1 << 27), 1)
  with open(path, "wb") as file:
    file.write(gzip.compress(member.tobuf()))
    # Of many gzip streams one after the other, the content is one, too.
    for _ in range(size >> 27):
      file.write(part)


def write_many_files(path, number) -> None:
  """A .tgz of so many empty files."""
  with gzip.open(path, "wb", 1) as file:
    for index in range(number):
      file.write(tarfile.TarInfo(f"pca/{index}").tobuf())
    file.write(bytes(1024))


@pytest.mark.parametrize(
  ("write", "size", "most_bytes", "words"),
  [
    (write_zeros_of, 10 << 30, 50e6, f"unpacks to {10 << 30} bytes or more"),
    (write_many_files, 100_000, 5e6, "with more than 1000 files in it"),
  ],
)
def test_a_small_archive_that_unpacks_to_much_writes_nothing(
  tmp_path, tiny_files, write, size, most_bytes, words
):
  tgz = tmp_path / "model.tgz"
  write(tgz, size)
  assert tgz.stat().st_size < most_bytes
  line = in_process.run_into_error(
    "inference",
    f"--input_model_tgz={tgz}",
    f"--untar_model_dir={tmp_path}/model",
    f"--input_data_pattern={tiny_files[0]}",
    f"--output_file={tmp_path}/predictions.csv",
  )
  assert f"received {tgz}, " in line
  assert words in line
  assert os.listdir(tmp_path) == ["model.tgz"]


# --------------------------------------------------------------------------
# Segments


def segment_predictions(train_dir, pattern):
  """(names, (segments, classes) confidences) of all segments, in order."""
  names, confidences = [], []
  model = load_model(train_dir)
  files = sorted(tf.io.gfile.glob(pattern))
  for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
    record = tf.train.SequenceExample.FromString(record)
    video_id = record.context.feature["id"].bytes_list.value[0].decode()
    lists = record.feature_lists.feature_list
    frames = np.stack(
      [
        np.frombuffer(
          rgb.bytes_list.value[0] + audio.bytes_list.value[0], np.uint8
        )
        for rgb, audio in zip(
          lists["rgb"].feature, lists["audio"].feature, strict=True
        )
      ]
    )
    for start in range(0, len(frames), 5):
      segment = frames[np.newaxis, start : start + 5]
      outputs = model(
        {
          "video_matrix": segment,
          "num_frames": np.array([segment.shape[1]], np.int32),
        },
        training=False,
      )
      names.append(f"{video_id}:{start}")
      confidences.append(outputs["predictions"].numpy()[0])
  return names, np.stack(confidences)


def write_segments(train_dir, files, output_file, classes):
  inference.predict_segments(
    json.loads((train_dir / "model_flags.json").read_text()),
    latest_checkpoint(str(train_dir)),
    files,
    str(output_file),
    classes=classes,
    batch_size=8,
  )


def test_segments_by_brute_force(frame_run, segment_files, tmp_path):
  (tmp_path / "ids.csv").write_text("Index\n39\n3\n7\n0\n")
  log = in_process.run(
    "inference",
    f"--train_dir={frame_run[0]}",
    f"--input_data_pattern={segment_files}",
    f"--output_file={tmp_path}/predictions.csv",
    "--segment_labels",
    "--segment_max_pred=6",
    f"--segment_label_ids_file={tmp_path}/ids.csv",
    "--batch_size=4",
  )
  names, confidences = segment_predictions(frame_run[0], segment_files)
  # 13, 5, 8, 15, 17, 20 and 10 frames.
  assert len(names) == 3 + 1 + 2 + 3 + 4 + 4 + 2
  assert "num examples processed: 19" in log
  expected = ["Class,Segments"]
  for wanted in (39, 3, 7, 0):
    # No two are so close that rounding decides the order.
    assert np.diff(np.sort(confidences[:, wanted])).min() > 1e-6
    order = np.argsort(-confidences[:, wanted], kind="stable")[:6]
    segments = " ".join(names[index] for index in order)
    expected.append(f"{wanted},{segments}")
  assert (tmp_path / "predictions.csv").read_text().splitlines() == expected


def test_segments_of_all_classes(frame_run, segment_files, tmp_path):
  write_segments(
    frame_run[0],
    sorted(tf.io.gfile.glob(segment_files)),
    tmp_path / "out.csv",
    np.arange(40),
  )
  header, *lines = (tmp_path / "out.csv").read_text().splitlines()
  assert header == "Class,Segments"
  assert [line.split(",")[0] for line in lines] == [str(n) for n in range(40)]
  names, _ = segment_predictions(frame_run[0], segment_files)
  for line in lines:
    # A segment counts even in classes that are not among its best.
    assert sorted(line.split(",")[1].split(" ")) == sorted(names)


def test_a_video_without_frames_has_no_segments(frame_run, tmp_path):
  random = np.random.default_rng(1)
  file = write_records(
    tmp_path / "a",
    [
      frame_record(
        video_id,
        rgb=random.integers(256, size=(length, 1024), dtype=np.uint8),
        audio=random.integers(256, size=(length, 128), dtype=np.uint8),
      )
      for video_id, length in [("a", 5), ("b", 0), ("c", 1)]
    ],
  )
  write_segments(frame_run[0], [file], tmp_path / "out.csv", np.array([3]))
  _, line = (tmp_path / "out.csv").read_text().splitlines()
  assert sorted(line.split(",")[1].split(" ")) == ["a:0", "c:0"]


def test_segments_of_the_classes_that_have_ratings(
  frame_run, segment_files, tmp_path
):
  log = in_process.run(
    "inference",
    f"--train_dir={frame_run[0]}",
    f"--input_data_pattern={segment_files}",
    f"--output_file={tmp_path}/predictions.csv",
    "--segment_labels",
  )
  _, *lines = (tmp_path / "predictions.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in lines] == ["0", "3", "4", "7", "39"]
  assert "Segments of the 5 classes that the records have ratings of" in log
  names, _ = segment_predictions(frame_run[0], segment_files)
  assert sorted(lines[0].split(",")[1].split(" ")) == sorted(names)


def test_a_missing_file_of_segment_classes_names_its_flag(
  frame_run, segment_files, tmp_path
):
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={frame_run[0]}",
    f"--input_data_pattern={segment_files}",
    f"--output_file={tmp_path}/predictions.csv",
    "--segment_labels",
    f"--segment_label_ids_file={tmp_path}/none.csv",
  )
  assert "--segment_label_ids_file" in line
  assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------
# Which checkpoint


def test_the_best_checkpoint_predicts_and_is_packed(tmp_path):
  """Three checkpoints, of which training has deleted the best one."""
  train_dir = tmp_path / "model"
  model = models.build_model(TINY_FLAGS)
  write_model_flags(str(train_dir), TINY_FLAGS)
  names = ["a", "b", "c", "d", "e", "f"]
  lines = [f"{index},{name}" for index, name in enumerate(names)]
  (train_dir / "vocabulary.csv").write_text("\n".join(["Index,Name", *lines]))
  checkpoints = Checkpoints(str(train_dir), 2, model=model)
  for step in (1, 2, 3):
    logits = np.eye(6)[step] * 2.0  # the class of the step is the best
    weights = [np.zeros((2, 6)), logits]
    model.get_layer("fully_connected").set_weights(weights)
    path = checkpoints.save(step)
    best_checkpoint.consider(
      str(train_dir), path, "gap", 1 / step, {"files": "", "pattern": ""}
    )
  assert not (train_dir / "model.ckpt-1.index").exists()
  records = write_records(tmp_path / "records", tiny_records(range(3)))

  def best_class(*flags) -> set[str]:
    output = tmp_path / "out.csv"
    in_process.run(
      "inference",
      f"--input_data_pattern={records}",
      f"--output_file={output}",
      "--top_k=1",
      *flags,
    )
    with open(tmp_path / "out_readable.csv", newline="") as file:
      return {row["Name"] for row in csv.DictReader(file)}

  of_run = f"--train_dir={train_dir}"
  assert best_class(of_run) == {"d"}
  assert best_class(of_run, "--checkpoint=2") == {"c"}
  tgz = f"{tmp_path}/model.tgz"
  flags = ("--checkpoint=best", f"--output_model_tgz={tgz}")
  assert best_class(of_run, *flags) == {"b"}
  packed = (f"--input_model_tgz={tgz}", f"--untar_model_dir={tmp_path}/untar")
  assert best_class(*packed) == {"b"}
  line = in_process.run_into_error("inference", *packed, "--checkpoint=best")
  assert "Expected one of --checkpoint and --input_model_tgz" in line
  line = in_process.run_into_error("inference", of_run, "--checkpoint=7")
  assert "There are 1, 2, 3; the best one is 1." in line


def test_a_checkpoint_that_is_deleted_while_it_is_packed_gives_way(
  tmp_path, tiny_files, monkeypatch
):
  run = tmp_path / "run"
  train_tiny(run, tiny_files, max_steps=4, export_model_steps=2)
  pack = inference.write_model_tgz

  def delete_and_pack(folder, checkpoint, tgz):
    for file in run.glob("model.ckpt-4.*"):
      file.unlink()
    pack(folder, checkpoint, tgz)

  monkeypatch.setattr(inference, "write_model_tgz", delete_and_pack)
  in_process.run(
    "inference",
    f"--train_dir={run}",
    f"--input_data_pattern={tiny_files[0]}",
    f"--output_file={tmp_path}/p.csv",
    f"--output_model_tgz={tmp_path}/m.tgz",
  )
  with tarfile.open(tmp_path / "m.tgz") as archive:
    assert "model.ckpt-2.index" in archive.getnames()
  assert len((tmp_path / "p.csv").read_text().splitlines()) > 1


def test_the_checkpoint_before_a_damaged_one_predicts(tmp_path, tiny_files):
  run = tmp_path / "run"
  train_tiny(run, tiny_files, max_steps=4, export_model_steps=2)
  file = run / "model.ckpt-4.data-00000-of-00001"
  content = file.read_bytes()
  damage_data(file)
  flags = [
    f"--train_dir={run}",
    f"--input_data_pattern={tiny_files[0]}",
    f"--output_file={tmp_path}/p.csv",
  ]
  log = in_process.run("inference", *flags)
  assert "Using the checkpoint before, of step 2." in log
  tgz = tmp_path / "m.tgz"
  in_process.run("inference", *flags, f"--output_model_tgz={tgz}")
  with tarfile.open(tgz) as archive:
    assert "model.ckpt-2.index" in archive.getnames()
  file.write_bytes(content[:-1])
  log = in_process.run("export_model", flags[0])
  assert f"{file} is damaged: it has {len(content) - 1} of" in log
  assert (run / "export" / "step_2" / "saved_model.pb").exists()
