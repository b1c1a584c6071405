"""What TensorBoard shows of a run besides its scalars and histograms.

  Graphs          the model, see model_graph.py
  Text            the command, the data and the machine
  Custom Scalars  charts of training and evaluation together
  HParams         the settings and the flags of the model

HParams finds scores only in the run that has the hyper-parameters, or in its
folder; but a run in the folder that TensorBoard was started with is called ".",
and nothing is found in that. So they are in the run of the evaluation.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams

from engine.dataset_card import DatasetCard
from engine.event_file import EventFile
from engine.model_graph import model_graph
from engine.settings import Settings
from engine.train_dir import EVAL_DIR

# {category: {title of a chart: regular expressions of its tags, of all runs}}.
_CHARTS = {
  "Training and evaluation": {
    name: [f"compare/{name}"] for name in ("GAP", "Hit@1", "PERR", "loss")
  },
  # Training has no mAP, and evaluation none of the others.
  "Evaluation alone": {"mAP": ["Epoch/(Seg)?Eval_MAP"]},
  "Training alone": {
    "loss and penalties": ["label_loss", "reg_loss"],
    "learning rate": ["learning_rate"],
  },
  "Resources": {
    "videos/s": ["resources/videos_per_second"],
    "processor and GPU, %": ["resources/cpu_percent", "resources/gpu_percent"],
    "memory and GPU memory, GB": [
      "resources/memory_gb",
      "resources/gpu_memory_gb",
    ],
  },
}
# A longer list is only counted.
_LONGEST_TEXT = 100


def write_pages(
  writer,
  train_dir: str,
  record: Mapping,
  *,
  model: keras.Model,
  settings: Settings,
  card: DatasetCard | None,
  step: int,
) -> None:
  """Writes the pages of a run: all of them at its first start, then the text.

  Args:
    writer: of the events of training, an EventFile.
    train_dir: folder of the run.
    record: content of run.json, see run_record.py.
    model: the model.
    settings: how to train.
    card: of the data set, if it has one.
    step: steps so far.
  """
  is_first = len(record["starts"]) == 1
  with writer.as_default(step=step):
    tf.summary.text("run", describe_run(record, card))
    if is_first:
      tf.summary.graph(model_graph(model))
      layout = custom_scalar.pb(chart_layout())
      tf.summary.experimental.write_raw_pb(layout.SerializeToString(), step=0)
  writer.flush()
  if not is_first:
    return
  eval_dir = os.path.join(train_dir, EVAL_DIR)
  eval_writer = EventFile(eval_dir)
  with eval_writer.as_default():
    # Two runs are two trials, even if all of this is equal. The table shows how
    # the name begins.
    folder, name = os.path.split(os.path.abspath(train_dir))
    hparams.hparams(
      hyperparameters(settings, record["model_flags"]),
      trial_id=f"{name} in {folder}",
    )
  eval_writer.close()


def chart_layout() -> layout_pb2.Layout:
  """The charts of the page Custom Scalars."""
  return layout_pb2.Layout(
    category=[
      layout_pb2.Category(
        title=category,
        chart=[
          layout_pb2.Chart(
            title=title,
            # TensorBoard compares with what tags begin with.
            multiline=layout_pb2.MultilineChartContent(
              tag=[f"{tag}$" for tag in tags]
            ),
          )
          for title, tags in charts.items()
        ],
      )
      for category, charts in _CHARTS.items()
    ]
  )


def hyperparameters(
  settings: Settings, model_flags: Mapping
) -> dict[str, bool | int | float | str]:
  """The settings and the flags of the model, as HParams takes them.

  Args:
    settings: how to train.
    model_flags: see train_dir.py.

  Returns:
    By name. What is None or empty is left out. Lists are joined by commas, or
    counted if they are long.
  """
  found = {}
  for name, value in {**dataclasses.asdict(settings), **model_flags}.items():
    if isinstance(value, (list, tuple)):
      text = ",".join(map(str, value))
      value = text if len(text) <= _LONGEST_TEXT else f"{len(value)} values"
    if isinstance(value, (bool, int, float, str)) and value != "":
      found[name] = value
  return found


def _code(value) -> str:
  """A value as code in Markdown, on one line."""
  text = " ".join(str(value).split()).replace("`", "'")
  return f"`{text}`"


def describe_run(record: Mapping, card: DatasetCard | None) -> str:
  """The page about a run: its command, data and machine, as Markdown.

  Args:
    record: content of run.json, see run_record.py.
    card: of the data set, if it has one.
  """
  start, flags = record["starts"][-1], record["model_flags"]
  lines = []
  if record["command"]:
    # Each line of it, or what follows an end of line would be Markdown.
    command = shlex.join(record["command"]).splitlines()
    lines += [*(f"    {line}" for line in command), ""]
  lines += [
    f"- model: {_code(flags['model'])}, {record['parameters']:,} parameters",
    *_describe_data(record, card),
    f"- machine: {_code(start['machine']['cpu'])},"
    f" {start['machine']['cores']} cores",
    *(f"- GPU: {_code(name)}" for name in start["machine"]["gpus"]),
    "- versions: "
    + ", ".join(
      f"{name} {version}" for name, version in start["versions"].items()
    ),
  ]
  if start["commit"]:
    lines.append(f"- commit: {_code(start['commit'])}")
  # A path may hold bytes that are no text.
  return "\n".join(lines).encode("utf-8", "replace").decode()


def _describe_data(record: Mapping, card: DatasetCard | None) -> list[str]:
  """Lines of Markdown about the data of a run; see describe_run."""
  data, flags = record["data"], record["model_flags"]
  names = flags["feature_names"].split(",")
  sizes = flags["feature_sizes"].split(",")
  dtypes = flags["feature_dtypes"].split(",")
  features = ", ".join(
    f"{_code(name.strip())} ({size.strip()} {dtype})"
    for name, size, dtype in zip(names, sizes, dtypes, strict=True)
  )
  level = "frame" if flags["frame_features"] else "video"
  lines = []
  if data["pattern"]:
    lines.append(f"- data: {_code(data['pattern'])}")
  lines += [
    f"- {data['files']:,} files, about {data['videos']:,} examples in an epoch",
    f"- {flags['num_classes']:,} classes",
    f"- features of each {level}: {features}",
  ]
  if card is None:
    return lines
  splits = ", ".join(
    f"{name} {of['videos']:,}" for name, of in card.splits.items()
  )
  lines.append(f"- videos of the data set: {splits}")
  lines += [
    f"- {name} of the data set: {_code(value)}"
    for name, value in card.made_by.items()
  ]
  if card.extraction:
    lines.append(f"- features made with: {_code(json.dumps(card.extraction))}")
  return lines
