"""Scores what needs no features: python -m data_tools.label_frequencies.

Predicts for every video the frequency of each class in the training files, and
prints GAP, mAP, Hit@1 and PERR on the evaluation files. A model that has
learned something must score much higher.
"""

import startup  # isort: skip
import numpy as np
from absl import flags

import errors
import eval_util
import program_flags
from data_tools import sample_data, vocabulary
from engine.data import records_of
from engine.data_files import find_files
from records import contents, messages


def read_labels(
  files: list[str],
  num_classes: int,
  batch_size: int = 1024,
  label_subset: list[int] | None = None,
):
  """Reads the labels of records of either level, without features.

  Args:
    files: TFRecord files.
    num_classes: classes of the data.
    batch_size: videos read at a time.
    label_subset: the classes to take, ascending; videos without any of them are
      left out. None for all classes and videos.

  Yields:
    (videos, classes) bool arrays, up to batch_size videos each.

  Raises:
    errors.UserError: a record has no labels, or a class out of range.
  """
  labels = []
  for file, number, serialized in records_of(files):
    try:
      context = messages.parse_record(serialized).context
      contents.video_id(context)
      classes = contents.labels(context, num_classes)
    except messages.BadRecordError as error:
      raise errors.UserError(f"{file}, record {number}: {error}.") from error
    row = np.zeros(num_classes, bool)
    row[classes] = True
    if label_subset:
      row = row[label_subset]
      if not row.any():
        continue
    labels.append(row)
    if len(labels) == batch_size:
      yield np.array(labels)
      labels = []
  if labels:
    yield np.array(labels)


def score_label_frequencies(
  train_files: list[str],
  eval_files: list[str],
  num_classes: int,
  label_subset: list[int] | None = None,
) -> dict:
  """Scores class frequencies as predictions, the same for all videos.

  Args:
    train_files: TFRecord files to count labels in.
    eval_files: TFRecord files to score on.
    num_classes: classes of the data.
    label_subset: see read_labels.

  Returns:
    gap, map, avg_hit_at_one and avg_perr.

  Raises:
    errors.UserError: see read_labels; there is no video to score on.
  """
  given = {"num_classes": num_classes, "label_subset": label_subset}
  num_outputs = len(label_subset or range(num_classes))
  counts = np.zeros(num_outputs)
  num_videos = 0
  for labels in read_labels(train_files, **given):
    counts += labels.sum(axis=0)
    num_videos += len(labels)
  frequencies = (counts / max(num_videos, 1)).astype(np.float32)
  metrics = eval_util.EvaluationMetrics(num_outputs, top_k=20)
  num_scored = 0
  for labels in read_labels(eval_files, **given):
    num_scored += len(labels)
    predictions = np.tile(frequencies, (len(labels), 1))
    metrics.accumulate(predictions, labels, loss=np.zeros(len(labels)))
  if not num_scored:
    raise errors.UserError(
      "Expected labeled videos in the files of --eval_data_pattern, received"
      " none. Name other files."
    )
  scores = metrics.get()
  return {
    "gap": scores["gap"],
    "map": float(np.mean(scores["aps"])) if scores["aps"] else 0.0,
    "avg_hit_at_one": scores["avg_hit_at_one"],
    "avg_perr": scores["avg_perr"],
  }


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "train_data_pattern",
    "",
    "Glob pattern of the files to count labels in; empty: the sample data.",
  )
  flags.DEFINE_string(
    "eval_data_pattern",
    "",
    "Glob pattern of the files to score on; empty: the sample data.",
  )
  flags.DEFINE_integer(
    "num_classes",
    3862,
    "Classes of the data.",
    lower_bound=1,
    upper_bound=program_flags.LARGEST_SIZE,
  )
  flags.DEFINE_string(
    "label_subset",
    "",
    "Score these classes alone, on videos that have one of them, as train.py"
    " and eval.py do with this flag; empty: all classes.",
  )


def main() -> None:
  """Scores the files that the flags name."""
  values = flags.FLAGS.flag_values_dict()
  patterns = {}
  for split, name in (
    ("train", "train_data_pattern"),
    ("validate", "eval_data_pattern"),
  ):
    patterns[name] = sample_data.pattern_or_sample_data(
      values[name], split, False
    )
  files = {name: find_files(text, name) for name, text in patterns.items()}
  num_classes = values["num_classes"]
  subset, _ = program_flags.label_subset_from_flag(
    num_classes,
    lambda: vocabulary.find_vocabulary(
      files["train_data_pattern"], num_classes
    ),
  )
  scores = score_label_frequencies(
    files["train_data_pattern"],
    files["eval_data_pattern"],
    num_classes,
    subset,
  )
  print(
    f"only label frequencies | Avg_Hit@1: {scores['avg_hit_at_one']:.3f} |"
    f" Avg_PERR: {scores['avg_perr']:.3f} | MAP: {scores['map']:.3f} |"
    f" GAP: {scores['gap']:.3f}"
  )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
