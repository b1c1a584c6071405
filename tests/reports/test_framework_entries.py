"""Tests of reports.framework_entries."""

import dataclasses
import json
import os

import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import error_of

import frame_level_models
from data_tools import sample_data
from engine.data_files import hash_of_files
from engine.dataset_card import DatasetCard
from reports import compare_frameworks
from reports import framework_entries as entries
from reports.framework_entries import FLAGS, find_records, read_entry


@pytest.fixture(autouse=True)
def _flags():
  """The flags of the program, which are gone afterwards."""
  with flagsaver.flagsaver():
    compare_frameworks.define_flags()
    FLAGS(["test"])
    yield


def typed(*arguments) -> None:
  """Parses flags as if they were typed."""
  FLAGS(["test", *map(str, arguments)])


def test_the_default_models_have_the_records_of_their_levels():
  found = [read_entry(name) for name in FLAGS.models.split(",")]
  assert [entry.name for entry in found] == [
    *("DeepNnModel", "BiLstmModel", "StreamLstmModel", "NnStreamLstmModel")
  ]
  names = [entry.model_flags["feature_names"] for entry in found]
  assert names == ["mean_rgb,mean_audio", *3 * ["rgb,audio"]]
  assert {entry.model_flags["feature_sizes"] for entry in found} == {"1024,128"}
  assert [entry.compiles for entry in found] == [True, False, False, False]
  # As train.py on the sample data.
  assert {entry.batch_size for entry in found} == {16}
  assert {entry.learning_rate for entry in found} == {0.001}
  assert [entry.min_frames for entry in found] == [0, 1, 1, 1]


def test_settings_of_an_entry_are_its_own():
  one = read_entry("BiLstmModel:lstm_layers=1:lstm_cells=32:batch_size=4")
  other = read_entry("BiLstmModel")
  assert one.name == "BiLstmModel:lstm_layers=1:lstm_cells=32:batch_size=4"
  assert one.file_name == "BiLstmModel_lstm_layers=1_lstm_cells=32_batch_size=4"
  assert one.model_flags["lstm_layers"] == 1
  assert one.model_flags["lstm_cells"] == 32
  assert one.batch_size == 4
  assert other.model_flags["lstm_layers"] == 2
  assert other.batch_size == 16


def test_a_typed_flag_is_for_all_entries():
  typed("--lstm_cells=8", "--batch_size=6", "--base_learning_rate=0.5")
  for name in ("BiLstmModel", "StreamLstmModel"):
    entry = read_entry(name)
    assert entry.model_flags["lstm_cells"] == 8
    assert (entry.batch_size, entry.learning_rate) == (6, 0.5)


def test_a_preset():
  entry = read_entry("BiLstmModel:preset=thesis")
  assert entry.model_flags["lstm_cells"] == 2304
  assert entry.model_flags["lstm_direction"] == "alternating"
  assert entry.model_flags["max_frames"] == 100
  assert entry.min_frames == 100
  assert FLAGS.max_frames == 300
  typed("--lstm_cells=4")
  again = read_entry("BiLstmModel:lstm_direction=both:preset=thesis")
  assert again.model_flags["lstm_direction"] == "both"
  assert again.model_flags["lstm_cells"] == 4
  typed("--max_frames=50")
  assert read_entry("BiLstmModel:preset=thesis").model_flags["max_frames"] == 50


def test_the_input_transform_of_a_preset(monkeypatch):
  presets = {"other": {"input_transform": "none"}}
  monkeypatch.setattr(
    frame_level_models.FrameLevelLogisticModel, "presets", presets
  )
  found = [
    read_entry(f"FrameLevelLogisticModel{preset}").model_flags[
      "input_transform"
    ]
    for preset in ("", ":preset=other")
  ]
  assert found == ["l2", "none"]


def test_values_may_have_commas():
  entry = read_entry("DeepNnModel:nn_tower_sizes=3,4:nn_joint_sizes=5,6")
  assert entry.model_flags["nn_tower_sizes"] == "3,4"
  assert entry.model_flags["nn_joint_sizes"] == "5,6"


def test_dropout_off():
  entry = read_entry("StreamLstmModel:stream_dropout_rate=0.25")
  assert entry.model_flags["stream_dropout_rate"] == 0.25
  assert entry.model_flags["dropout_rate"] == 0.5
  off = entry.without_dropout()
  assert (off["stream_dropout_rate"], off["dropout_rate"]) == (0.0, 0.0)
  changed = {name for name in off if off[name] != entry.model_flags[name]}
  assert changed == {"stream_dropout_rate", "dropout_rate"}


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("NoModel", "NoModel"),
    ("BiLstmModel:no_flag=1", "received no_flag in BiLstmModel:no_flag=1"),
    ("BiLstmModel:seed=1", "received seed"),
    ("BiLstmModel:lstm_layers=many", "--models=BiLstmModel:lstm_layers=many"),
    ("BiLstmModel:lstm_layers", "received 'BiLstmModel:lstm_layers'"),
    ("BiLstmModel:preset=no", "Available: thesis"),
  ],
)
def test_wrong_entries(text, part):
  assert part in error_of(read_entry, text)
  assert FLAGS.lstm_layers is None


def test_records_of_another_level_are_refused():
  typed("--train_data_pattern=x/*.tfrecord")
  text = error_of(read_entry, "BiLstmModel")
  assert "Expected frame-level records for BiLstmModel" in text
  assert "{level}" in text
  typed("--train_data_pattern=x/*.tfrecord", "--frame_features")
  assert read_entry("BiLstmModel").batch_size == 128
  assert "video-level" in error_of(read_entry, "DeepNnModel")


def test_processes_must_divide_a_batch():
  typed("--processes=3", "--batch_size=16")
  assert "3 processes" in error_of(read_entry, "DeepNnModel")


def test_records_of_both_levels(data_dir):
  typed(
    f"--train_data_pattern={data_dir}/{{level}}/train*.tfrecord",
    "--num_classes=40",
  )
  found = {}
  for name in ("DeepNnModel", "BiLstmModel"):
    found[name] = find_records(read_entry(name))
  video, frame = found["DeepNnModel"], found["BiLstmModel"]
  assert video.videos == frame.videos == 60
  assert (video.kinds, frame.kinds) == ([], ["bytes", "bytes"])
  assert video.num_frames == 0
  assert 8 <= frame.num_frames <= 14
  assert video.hash != frame.hash
  sizes = [os.path.getsize(file) for file in video.files]
  assert video.hash == hash_of_files(video.files, sizes)  # as in run.json
  assert all(map(os.path.isabs, frame.files))


def test_the_sample_data_by_default(data_dir, monkeypatch):
  monkeypatch.setattr(sample_data, "ensure_sample_data", lambda: str(data_dir))
  found = find_records(read_entry("DeepNnModel"))
  assert found.pattern == f"{data_dir}/video/train*.tfrecord"


def test_remote_files_are_refused(tmp_path):
  path = tmp_path / "a.tfrecord.gz"
  path.write_bytes(b"")
  typed(f"--train_data_pattern={path}")
  assert "local, uncompressed" in error_of(
    find_records, read_entry("DeepNnModel")
  )


def test_a_data_set_with_a_card(tmp_path):
  card = DatasetCard(
    frame_features=True,
    feature_names=["clip"],
    feature_sizes=[5],
    feature_dtypes=["uint8"],
    num_classes=9,
    splits={"train": {"videos": 3, "files": 1}},
    made_by={},
    feature_ranges=[[-1.0, 3.0]],
  )
  card.write(str(tmp_path))
  typed(f"--dataset_dir={tmp_path}", "--num_classes=8")
  entries.apply_dataset_dir()
  entry = read_entry("FrameLevelLogisticModel")
  assert entry.model_flags["feature_names"] == "clip"
  assert entry.model_flags["feature_sizes"] == "5"
  assert entry.model_flags["feature_ranges"] == "-1.0:3.0"
  assert entry.model_flags["num_classes"] == 8  # typed
  assert FLAGS.train_data_pattern == f"{tmp_path}/train*.tfrecord"
  json.dumps(dataclasses.asdict(entry))
  assert np.isfinite(entry.learning_rate)
