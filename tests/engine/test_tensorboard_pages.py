"""Tests of engine.tensorboard_pages: events besides scores and weights."""

import dataclasses
import re

import tensorflow as tf
from conftest import event_tags
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tiny_runs import train_tiny

from engine import run_record, tensorboard_pages
from engine.dataset_card import DatasetCard
from engine.settings import Settings


def test_hyperparameters():
  settings = Settings(
    batch_size=5, base_learning_rate=0.5, profile_steps=(1, 2), xla=True
  )
  flags = {
    "model": "MyModel",
    "preset": "",
    "label_subset": list(range(100)),
    "scales": [[0.5] * 3, []],
    "preset_settings": {"batch_size": 7},
  }
  found = tensorboard_pages.hyperparameters(settings, flags)
  values = dataclasses.asdict(settings)
  fields = values.keys()
  empty = {name for name in fields if values[name] in (None, "")}
  assert fields - found.keys() == empty
  assert {"max_steps", "weight_decay", "teacher"} <= empty
  assert found.keys() - fields == {"model", "label_subset", "scales"}
  assert found["batch_size"] == 5
  assert found["xla"] is True
  assert found["profile_steps"] == "1,2"
  assert found["label_subset"] == "100 values"
  assert found["scales"] == "[0.5, 0.5, 0.5],[]"


RECORD = {
  "command": ["python", "train.py", "--train_data_pattern=a b*"],
  "model_flags": {
    "model": "MyModel",
    "feature_names": "rgb, audio",
    "feature_sizes": "1024,128",
    "feature_dtypes": "uint8,float16",
    "frame_features": True,
    "num_classes": 3862,
  },
  "data": {"pattern": "a`b\n*", "files": 3844, "videos": 3888919},
  "parameters": 12345678,
  "starts": [
    {
      "machine": {"cpu": "Fast 9000", "cores": 2, "gpus": ["GPU 1", "GPU 1"]},
      "versions": {"python": "3.11.2", "numpy": "2.4.6"},
      "commit": "0123abcd",
    }
  ],
}


def test_the_page_about_a_run():
  assert tensorboard_pages.describe_run(RECORD, None).splitlines() == [
    "    python train.py '--train_data_pattern=a b*'",
    "",
    "- model: `MyModel`, 12,345,678 parameters",
    "- data: `a'b *`",
    "- 3,844 files, about 3,888,919 examples in an epoch",
    "- 3,862 classes",
    "- features of each frame: `rgb` (1024 uint8), `audio` (128 float16)",
    "- machine: `Fast 9000`, 2 cores",
    "- GPU: `GPU 1`",
    "- GPU: `GPU 1`",
    "- versions: python 3.11.2, numpy 2.4.6",
    "- commit: `0123abcd`",
  ]


def test_a_command_of_any_text_is_shown_as_code():
  command = ["python", "train.py", "--train_dir=a\n# head\r<b>\udce9"]
  page = tensorboard_pages.describe_run({**RECORD, "command": command}, None)
  assert page.encode().decode() == page
  lines = page.splitlines()
  assert lines[:4] == [
    "    python train.py '--train_dir=a",
    "    # head",
    "    <b>?'",
    "",
  ]


def test_a_training_that_no_command_line_has_started():
  record = {**RECORD, "command": [], "data": {**RECORD["data"], "pattern": ""}}
  lines = tensorboard_pages.describe_run(record, None).splitlines()
  whole = tensorboard_pages.describe_run(RECORD, None).splitlines()
  assert lines == [whole[2], *whole[4:]]


def test_the_card_of_a_data_set_is_on_the_page():
  card = DatasetCard(
    frame_features=True,
    feature_names=["rgb"],
    feature_sizes=[4],
    feature_dtypes=["uint8"],
    num_classes=3,
    splits={
      "train": {"videos": 4800, "files": 2},
      "test": {"videos": 0, "files": 0},
    },
    made_by={"command": "python -m x", "source": "/a"},
    extraction={"encoder": "clip:x", "seconds": 1.0},
  )
  lines = tensorboard_pages.describe_run(RECORD, card).splitlines()
  without = tensorboard_pages.describe_run(RECORD, None).splitlines()
  assert [line for line in lines if line not in without] == [
    "- videos of the data set: train 4,800, test 0",
    "- command of the data set: `python -m x`",
    "- source of the data set: `/a`",
    '- features made with: `{"encoder": "clip:x", "seconds": 1.0}`',
  ]


def test_charts_have_the_tags_of_training_and_evaluation(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=2, eval_data_pattern=tiny_files[0])
  tags = event_tags(tmp_path)
  evaluation_tags = event_tags(tmp_path / "eval")
  charts = {
    chart.title: list(chart.multiline.tag)
    for category in tensorboard_pages.chart_layout().category
    for chart in category.chart
  }
  for wanted in (name for names in charts.values() for name in names):
    # Without a GPU there are no numbers of one.
    found = {
      tag for tag in {**tags, **evaluation_tags} if re.match(wanted, tag)
    }
    assert len(found) == (0 if "gpu" in wanted else 1), wanted
  assert charts["GAP"] == ["compare/GAP$"]
  assert "compare/GAP" in tags
  assert "compare/GAP" in evaluation_tags
  assert re.match(charts["mAP"][0], "Epoch/SegEval_MAP")


def summaries(folder, name) -> list:
  """The summary values with a tag in the events of a folder."""
  return [
    value
    for file in folder.glob("events.out.tfevents.*")
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    for value in tf.compat.v1.Event.FromString(record).summary.value
    if value.tag == name
  ]


def graphs(folder) -> list:
  """The graphs in the events of a folder."""
  events = [
    tf.compat.v1.Event.FromString(record)
    for file in folder.glob("events.out.tfevents.*")
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
  ]
  return [event.graph_def for event in events if event.graph_def]


def test_pages_are_written_once(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=2)
  train_tiny(tmp_path, tiny_files, max_steps=4)
  assert len(graphs(tmp_path)) == 1
  (layout,) = summaries(tmp_path, "custom_scalars__config__")
  (text,) = layout.tensor.string_val
  assert layout_pb2.Layout.FromString(text) == tensorboard_pages.chart_layout()
  # The text at each start, since the command may be another.
  pages = event_tags(tmp_path)["run"]
  assert sorted(pages) == [0, 2]
  (start,) = summaries(tmp_path / "eval", "_hparams_/session_start_info")
  content = plugin_data_pb2.HParamsPluginData.FromString(
    start.metadata.plugin_data.content
  ).session_start_info
  assert content.group_name == f"{tmp_path.name} in {tmp_path.parent}"
  assert content.hparams["batch_size"].number_value == 5
  assert content.hparams["model"].string_value == "LogisticModel"
  assert content.hparams["xla"].bool_value is False
  assert len(list((tmp_path / "eval").iterdir())) == 1


def test_what_is_compared_with_evaluation(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=2)
  tags = event_tags(tmp_path)
  for new, old in {
    "compare/GAP": "model/Training_GAP",
    "compare/Hit@1": "model/Training_Hit@1",
    "compare/PERR": "model/Training_Perr",
    "compare/loss": "label_loss",
    "resources/videos_per_second": "global_step/Examples/Second",
  }.items():
    assert tags[new] == tags[old], new
  assert set(tags["resources/parameters"].values()) == {7 * 6 + 6}
  assert min(tags["resources/cpu_percent"].values()) > 0
  # TensorFlow alone takes a part of a gigabyte.
  assert 0.1 < max(tags["resources/memory_gb"].values()) < 100


def test_a_run_of_an_earlier_version_gets_its_pages(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=2)
  for path in [*tmp_path.glob("events*"), tmp_path / "run.json"]:
    path.unlink()
  train_tiny(tmp_path, tiny_files, max_steps=3)
  assert len(graphs(tmp_path)) == 1
  assert run_record.read_run_record(str(tmp_path))["starts"][0]["videos"] == 5
