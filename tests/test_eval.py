"""Tests of eval, through the real command line."""

import csv
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  VIDEO_DATA_FLAGS,
  Program,
  event_tags,
  folder_content,
  load_model,
  run_program,
)
from make_records import video_record, write_records
from sklearn import metrics as reference
from small_checkpoints import damage_data
from tiny_runs import NUM_TINY, TINY_FLAGS, tiny_labels, train_tiny

import eval as eval_program
import requested_metrics
from engine import scoring
from engine.distribution import Placement
from engine.model_flags import require_model_flags

SUMMARY_LINE = re.compile(
  r"I\d{4} \d\d:\d\d:\d\d epoch/eval number (?P<step>\d+)"
  r" \| Avg_Hit@1: (?P<avg_hit_at_one>\d\.\d{3})"
  r" \| Avg_PERR: (?P<avg_perr>\d\.\d{3}) \| MAP: (?P<map>\d\.\d{3})"
  r" \| GAP: (?P<gap>\d\.\d{3}) \| Avg_Loss: (?P<avg_loss>\d+\.\d{3})"
)
# Tag in TensorBoard -> name in the JSON file; the scope is put in.
TAGS = {
  "GlobalStep/{}_Hit@1": "avg_hit_at_one",
  "GlobalStep/{}_Perr": "avg_perr",
  "GlobalStep/{}_Loss": "avg_loss",
  "GlobalStep/{}_Example_Second": "examples_per_second",
  "Epoch/{}_Avg_Hit@1": "avg_hit_at_one",
  "Epoch/{}_Avg_Perr": "avg_perr",
  "Epoch/{}_Avg_Loss": "avg_loss",
  "Epoch/{}_MAP": "map",
  "Epoch/{}_GAP": "gap",
}


# --------------------------------------------------------------------------
# All scores from their definitions


def average_precision(ranking, num_positives) -> float:
  """AP of (confidence, is positive) pairs; in a tie negatives come first."""
  ranking = sorted(ranking, key=lambda pair: (-pair[0], pair[1]))
  hits = np.cumsum([positive for _, positive in ranking])
  total = sum(
    hits[rank] / (rank + 1)
    for rank, (_, positive) in enumerate(ranking)
    if positive
  )
  return total / num_positives


def brute_force_scores(predictions, labels, rated, top_k) -> dict:
  """Scores of (examples, classes) arrays; only rated pairs count."""
  hits, precisions, losses, pool = [], [], [], []
  for values, positive, counts in zip(predictions, labels, rated, strict=True):
    classes = np.flatnonzero(counts)
    ranked = classes[np.argsort(-values[classes], kind="stable")]
    hits.append(positive[ranked[0]])
    num_labels = positive[classes].sum()
    if num_labels:
      precisions.append(positive[ranked[:num_labels]].mean())
    else:
      precisions.append(0.0)
    likelihoods = np.where(positive, values, 1 - values.astype(np.float64))
    losses.append(-np.log(likelihoods + 1e-5)[classes].sum())
    pool += [
      (index, values[index], positive[index]) for index in ranked[:top_k]
    ]
  positives = (labels & rated).sum(axis=0)
  return {
    "avg_hit_at_one": np.mean(hits),
    "avg_perr": np.mean(precisions),
    "avg_loss": np.mean(losses),
    "gap": average_precision([pair for _, *pair in pool], positives.sum()),
    "map": np.mean(
      [
        average_precision(
          [pair for index, *pair in pool if index == wanted], positives[wanted]
        )
        for wanted in np.flatnonzero(positives)
      ]
    ),
  }


def records(pattern):
  """Every record of the files, as a SequenceExample."""
  files = sorted(tf.io.gfile.glob(str(pattern)))
  for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
    yield tf.train.SequenceExample.FromString(record)


def predictions_of_videos(train_dir, pattern):
  """Predictions and labels of video-level records, (videos, 40) each."""
  vectors, labels = [], []
  for record in records(pattern):
    features = record.context.feature
    vectors.append(
      [
        *features["mean_rgb"].float_list.value,
        *features["mean_audio"].float_list.value,
      ]
    )
    labels.append(np.zeros(40, bool))
    labels[-1][features["labels"].int64_list.value] = True
  predictions = load_model(train_dir)(
    {
      "video_matrix": np.array(vectors, np.float32),
      "num_frames": np.ones(len(vectors), np.int32),
    },
    training=False,
  )["predictions"].numpy()
  return predictions, np.stack(labels)


def predictions_of_segments(train_dir, pattern):
  """Predictions, labels and rated pairs, (segments, 40) each; their lengths."""
  frames, labels, rated = [], [], []
  for record in records(pattern):
    lists = record.feature_lists.feature_list
    video = np.stack(
      [
        np.frombuffer(
          rgb.bytes_list.value[0] + audio.bytes_list.value[0], np.uint8
        )
        for rgb, audio in zip(
          lists["rgb"].feature, lists["audio"].feature, strict=True
        )
      ]
    )
    context = record.context.feature
    starts = list(context["segment_start_times"].int64_list.value)
    for start in dict.fromkeys(starts):
      frames.append(video[start : start + 5])
      labels.append(np.zeros(40, bool))
      rated.append(np.zeros(40, bool))
      for rated_start, index, score in zip(
        starts,
        context["segment_labels"].int64_list.value,
        context["segment_scores"].float_list.value,
        strict=True,
      ):
        if rated_start == start:
          rated[-1][index] = True
          labels[-1][index] = score > 0
  num_frames = np.array([len(segment) for segment in frames], np.int32)
  matrix = np.stack(
    [np.pad(segment, [[0, 5 - len(segment)], [0, 0]]) for segment in frames]
  )
  predictions = load_model(train_dir)(
    {"video_matrix": matrix, "num_frames": num_frames}, training=False
  )["predictions"].numpy()
  return predictions, np.stack(labels), np.stack(rated), num_frames


def check_outputs(log, train_dir, scope, prefix, step, expected) -> None:
  """Checks the log, the JSON file and TensorBoard against scores."""
  (line,) = [line for line in log.splitlines() if "epoch/eval" in line]
  summary = SUMMARY_LINE.fullmatch(line)
  assert summary, line
  assert int(summary["step"]) == step
  scores = json.loads(
    (train_dir / "eval" / f"{prefix}metrics-{step}.json").read_text()
  )
  assert scores["global_step"] == step
  assert scores["examples_per_second"] > 0
  for name, value in expected.items():
    assert scores[name] == pytest.approx(value, abs=1e-5), name
    if name != "num_examples":
      assert float(summary[name]) == pytest.approx(scores[name], abs=5.1e-4)
  tags = event_tags(train_dir / "eval")
  assert set(tags) >= {tag.format(scope) for tag in TAGS}
  for tag, name in TAGS.items():
    assert tags[tag.format(scope)] == pytest.approx({step: scores[name]}), tag


# --------------------------------------------------------------------------


def test_scores_of_videos(video_run, data_dir, tmp_path):
  train_dir = shutil.copytree(video_run[0], tmp_path / "model")
  before = folder_content(train_dir)
  pattern = data_dir / "video" / "validate*.tfrecord"
  log = run_program(
    "eval.py",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={pattern}",
    "--run_once",
    "--batch_size=7",
    "--top_k=3",
  )
  predictions, labels = predictions_of_videos(train_dir, pattern)
  expected = brute_force_scores(predictions, labels, np.ones_like(labels), 3)
  # A model that has learned something, so that the scores are not trivial.
  assert 0.2 < expected["gap"] < 1.0
  check_outputs(
    log, train_dir, "Eval", "", 24, {**expected, "num_examples": 20}
  )
  # Evaluation only adds to its own folder, and the best checkpoint.
  after = folder_content(train_dir)
  assert {name: after[name] for name in before} == before
  new = after.keys() - before.keys()
  assert len(new) == 5
  assert all(name.startswith(("eval/", "best")) for name in new)


def test_scores_of_segments_leave_out_the_unrated(
  frame_run, segment_files, tmp_path
):
  train_dir = shutil.copytree(frame_run[0], tmp_path / "model")
  log = in_process.run(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={segment_files}",
    "--segment_labels",
    "--run_once",
    "--batch_size=4",
  )
  predictions, labels, rated, num_frames = predictions_of_segments(
    train_dir, segment_files
  )
  assert min(num_frames) == 3  # one starts near the end
  expected = brute_force_scores(predictions, labels, rated, 20)
  unweighted = brute_force_scores(predictions, labels, np.ones_like(rated), 20)
  assert all(abs(expected[name] - unweighted[name]) > 0.01 for name in expected)
  check_outputs(
    log,
    train_dir,
    "SegEval",
    "segment-",
    8,
    {**expected, "num_examples": len(labels)},
  )


@pytest.mark.parametrize("kind", ["missing", "without checkpoint"])
def test_without_a_checkpoint(data_dir, tmp_path, kind):
  train_dir = tmp_path / "model"
  if kind == "without checkpoint":
    train_dir.mkdir()
    (train_dir / "model_flags.json").write_text("{}")
  line = in_process.run_into_error(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
    "--run_once",
  )
  assert f"Expected a checkpoint in --train_dir={train_dir}" in line


def test_data_without_labels(video_run, data_dir, tmp_path):
  train_dir = shutil.copytree(video_run[0], tmp_path / "model")
  line = in_process.run_into_error(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/test*.tfrecord",
    "--run_once",
  )
  assert f"{data_dir}/video/test0000.tfrecord, record 0: " in line
  assert "expected the feature labels" in line
  assert not list(train_dir.glob("eval/*metrics*"))


@pytest.mark.slow
def test_evaluation_during_training(data_dir, tmp_path):
  train_dir = tmp_path / "model"
  evaluation = Program(
    tmp_path / "eval.log",
    "eval.py",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
  )
  training = Program(
    tmp_path / "train.log",
    "train.py",
    f"--train_dir={train_dir}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=10",
    "--num_epochs=0",
    "--export_model_steps=40",
  )

  def scored():
    return [
      int(match["step"])
      for match in map(SUMMARY_LINE.fullmatch, evaluation.log.splitlines())
      if match
    ]

  with evaluation, training:
    evaluation.wait_for(lambda: len(scored()) >= 2)
    training.send_signal(signal.SIGINT)
    training.finish()
    last = int(tf.train.latest_checkpoint(train_dir).rsplit("-", 1)[1])
    # The last checkpoint is scored as well; it then waits for more.
    evaluation.wait_for(lambda: scored()[-1] == last)
    evaluation.send_signal(signal.SIGINT)
    log = evaluation.finish(exit_code=130)
  steps = scored()
  assert steps == sorted(set(steps))
  assert all(step % 40 == 0 for step in steps[:-1])
  assert "ERROR" not in log
  assert log.endswith("Stopped by Ctrl-C.\n")
  assert {path.name for path in train_dir.glob("eval/*.json")} == {
    f"metrics-{step}.json" for step in steps
  }
  assert set(event_tags(train_dir / "eval")["Epoch/Eval_GAP"]) == set(steps)


# --------------------------------------------------------------------------
# Metrics on request


def best_threshold(labels, predictions) -> float:
  """The prediction with the largest micro F1 of flat arrays."""
  return max(
    (reference.f1_score(labels, predictions >= value), value)
    for value in np.unique(predictions[labels])
  )[1]


def rows_of(path) -> list[dict]:
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_requested_metrics_of_videos(video_run, data_dir, tmp_path):
  train_dir = shutil.copytree(video_run[0], tmp_path / "model")
  pattern = f"{data_dir}/video/validate*.tfrecord"
  others = f"{data_dir}/video/train*.tfrecord"
  log = in_process.run(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={pattern}",
    f"--threshold_data_pattern={others}",
    "--metrics=f1,best_f1,auc,d_prime,full_map,accuracy",
    "--run_once",
    "--batch_size=7",
  )
  predictions, labels = predictions_of_videos(train_dir, others)
  threshold = best_threshold(labels.ravel(), predictions.ravel())
  predictions, labels = predictions_of_videos(train_dir, pattern)
  assert threshold != best_threshold(labels.ravel(), predictions.ravel())
  found = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
  auc = reference.roc_auc_score(
    labels[:, found], predictions[:, found], average=None
  )
  precision = reference.average_precision_score(
    labels[:, found], predictions[:, found], average=None
  )
  largest = np.eye(40, dtype=bool)[predictions.argmax(axis=1)]

  def f1(decided, average):
    return reference.f1_score(labels, decided, average=average, zero_division=0)

  expected = {
    "f1_micro": f1(predictions >= 0.5, "micro"),
    "f1_macro": f1(predictions >= 0.5, "macro"),
    "best_f1_micro": f1(predictions >= threshold, "micro"),
    "best_f1_macro": f1(predictions >= threshold, "macro"),
    "best_f1_threshold": threshold,
    "auc": np.mean(auc),
    "d_prime": requested_metrics.d_prime(np.mean(auc)),
    "full_map": np.mean(precision),
    "accuracy": reference.accuracy_score(labels, largest),
    "accuracy_f1_micro": f1(largest, "micro"),
    "accuracy_f1_macro": f1(largest, "macro"),
  }
  scores = json.loads((train_dir / "eval" / "metrics-24.json").read_text())
  tags = event_tags(train_dir / "eval")
  for metric in requested_metrics.REQUESTED_METRICS:
    value = expected.pop(metric.key)
    assert scores[metric.key] == pytest.approx(value, abs=1e-5), metric.key
    assert tags[f"Epoch/Eval_{metric.tag}"] == pytest.approx({24: value}, 1e-5)
    logged = re.search(rf" \| {metric.key}: (\S+)", log)[1]
    assert float(logged) == pytest.approx(value, rel=1e-3)
  assert not expected
  rows = rows_of(train_dir / "eval" / "metrics-by-class-24.csv")
  vocabulary = rows_of(f"{data_dir}/vocabulary.csv")
  assert [row["name"] for row in rows] == [row["Name"] for row in vocabulary]
  assert [int(row["index"]) for row in rows] == list(range(40))
  assert [int(row["positives"]) for row in rows] == labels.sum(axis=0).tolist()
  for place, index in enumerate(found):
    row = rows[index]
    assert float(row["auc"]) == pytest.approx(auc[place], abs=1e-5)
    assert float(row["d_prime"]) == pytest.approx(
      requested_metrics.d_prime(auc[place]), abs=1e-4
    )
    assert float(row["average_precision"]) == pytest.approx(
      precision[place], abs=1e-5
    )
  by_class = [float(row["best_f1"]) for row in rows]
  assert by_class == pytest.approx(f1(predictions >= threshold, None), abs=1e-5)
  missing = next(row for row in rows if row["positives"] == "0")
  assert missing["auc"] == missing["average_precision"] == ""


def test_requested_metrics_of_segments(frame_run, segment_files, tmp_path):
  train_dir = shutil.copytree(frame_run[0], tmp_path / "model")
  first, second = (
    segment_files.replace("*", number) for number in ("0000", "0001")
  )
  in_process.run(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={first}",
    f"--threshold_data_pattern={second}",
    "--segment_labels",
    "--metrics=best_f1,full_map",
    "--run_once",
  )
  predictions, labels, rated, _ = predictions_of_segments(train_dir, second)
  threshold = best_threshold(labels[rated], predictions[rated])
  predictions, labels, rated, _ = predictions_of_segments(train_dir, first)
  micro = reference.f1_score(labels[rated], predictions[rated] >= threshold)
  path = train_dir / "eval" / "segment-metrics-8.json"
  scores = json.loads(path.read_text())
  assert scores["best_f1_threshold"] == pytest.approx(threshold, abs=1e-6)
  assert scores["best_f1_micro"] == pytest.approx(micro, abs=1e-6)
  rows = rows_of(train_dir / "eval" / "segment-metrics-by-class-8.csv")
  assert [int(row["positives"]) for row in rows] == labels.sum(axis=0).tolist()
  is_rated = [row["best_f1"] != "" for row in rows]
  assert is_rated == rated.any(axis=0).tolist()
  assert "Epoch/SegEval_Full_MAP" in event_tags(train_dir / "eval")


def test_requested_metrics_of_a_subset_of_classes(tiny_files, tmp_path):
  train_dir = tmp_path / "model"
  train_tiny(
    train_dir, tiny_files, {**TINY_FLAGS, "label_subset": [1, 4]}, num_epochs=1
  )
  scores = eval_program.evaluate(
    str(train_dir), tiny_files, metrics="auc", class_names={4: "four"}
  )
  (path,) = (train_dir / "eval").glob("metrics-by-class-*.csv")
  rows = rows_of(path)
  assert [(row["index"], row["name"]) for row in rows] == [
    ("1", ""),
    ("4", "four"),
  ]
  labels = [tiny_labels(number) for number in range(NUM_TINY)]
  assert [int(row["positives"]) for row in rows] == [
    sum(index in of_video for of_video in labels) for index in (1, 4)
  ]
  assert scores["auc"] == pytest.approx(
    np.mean([float(row["auc"]) for row in rows]), abs=1e-8
  )


def test_exclusive_classes_always_have_their_accuracy(tmp_path):
  random = np.random.default_rng(6)
  files = [
    write_records(
      tmp_path / "records",
      [
        video_record(
          f"v{number}",
          [number % 4],
          mean_rgb=random.normal(size=4),
          mean_audio=random.normal(size=3),
        )
        for number in range(30)
      ],
    )
  ]
  train_dir = tmp_path / "model"
  flags = {
    **TINY_FLAGS,
    "num_classes": 4,
    "exclusive_classes": True,
    "label_loss": "CategoricalCrossEntropyLoss",
  }
  train_tiny(train_dir, files, flags, num_epochs=1)
  scores = eval_program.evaluate(str(train_dir), files)
  assert scores["accuracy"] == scores["avg_hit_at_one"]
  assert scores["accuracy_f1_micro"] == pytest.approx(scores["accuracy"])
  assert 0 < scores["accuracy_f1_macro"] < 1
  assert "f1_micro" not in scores


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--metrics=auc,gap"], "Expected metrics among f1, best_f1, auc, d_prime"),
    (
      ["--metrics=best_f1"],
      "Expected --threshold_data_pattern with --metrics=best_f1, received none",
    ),
    (
      ["--metrics=best_f1", "--threshold_data_pattern={}/video/*.tfrecord"],
      "Expected other files as --threshold_data_pattern than as"
      " --eval_data_pattern, received 3 as both, such as {}/video/validate0",
    ),
    (
      ["--metrics=best_f1", "--threshold_data_pattern={}/video/none*"],
      "Expected files that match --threshold_data_pattern={}/video/none*",
    ),
  ],
)
def test_requests_that_cannot_be_met(
  video_run, data_dir, tmp_path, flags, message
):
  line = in_process.run_into_error(
    "eval",
    f"--train_dir={video_run[0]}",
    f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
    "--run_once",
    *(flag.format(data_dir) for flag in flags),
  )
  assert message.format(data_dir) in line


def test_a_threshold_that_is_not_needed(video_run, data_dir, tmp_path):
  train_dir = shutil.copytree(video_run[0], tmp_path / "model")
  log = in_process.run(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
    "--threshold_data_pattern=nowhere*",
    "--run_once",
  )
  assert "No effect without --metrics=best_f1: --threshold_data_pattern" in log
  assert "requested" not in log


# --------------------------------------------------------------------------
# Which checkpoints


def scored(log) -> list[int]:
  """The steps of the checkpoints whose scores are shown, in this order."""
  return [
    int(match["step"])
    for match in map(SUMMARY_LINE.fullmatch, log.splitlines())
    if match
  ]


def evaluation_flags(train_dir, data_dir, split="validate") -> tuple[str, ...]:
  return (
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/{split}*.tfrecord",
  )


@pytest.fixture
def train_dir(video_run, tmp_path):
  """A train_dir with the checkpoints 9, 18 and 24."""
  return shutil.copytree(video_run[0], tmp_path / "model")


def test_all_checkpoints_are_scored_once(train_dir, data_dir):
  command = ("eval", *evaluation_flags(train_dir, data_dir))
  log = in_process.run(*command, "--run_once")
  assert scored(log) == [24]
  # It ends, without --run_once too.
  log = in_process.run(*command, "--all_checkpoints")
  assert scored(log) == [9, 18, 24]
  assert re.search(r"Scored 2 of the 3 kept .*; 1 had been scored", log)
  assert set(event_tags(train_dir / "eval")["Epoch/Eval_GAP"]) == {9, 18, 24}
  gaps = {
    step: json.loads(path.read_text())["gap"]
    for step in (9, 18, 24)
    for path in [train_dir / f"eval/metrics-{step}.json"]
  }
  # Also those that were scored before.
  best = json.loads((train_dir / "best.json").read_text())
  assert best["step"] == max(gaps, key=gaps.__getitem__)
  assert best["score"] == max(gaps.values())
  pattern = f"{data_dir}/video/validate*.tfrecord"
  assert (best["metric"], best["pattern"]) == ("gap", pattern)
  before = folder_content(train_dir)
  log = in_process.run(*command, "--all_checkpoints", "--run_once")
  assert scored(log) == [9, 18, 24]
  assert re.search(r"Scored 0 of the 3 kept .*; 3 had been scored", log)
  assert folder_content(train_dir) == before


def test_checkpoints_by_name(train_dir, data_dir):
  command = ("eval", *evaluation_flags(train_dir, data_dir, "validate0000"))
  in_process.run(*command, "--all_checkpoints", "--best_metric=avg_loss")
  before = (train_dir / "best.json").read_text()
  best = json.loads(before)["step"]
  for path in train_dir.glob(f"model.ckpt-{best}.*"):
    path.unlink()  # as training does
  log = in_process.run(*command, "--checkpoint=best")
  assert scored(log) == [best]
  assert "chosen by avg_loss on 1 of the 1 scored files themselves" in log
  command = ("eval", *evaluation_flags(train_dir, data_dir, "validate000[12]"))
  log = in_process.run(*command, "--checkpoint=best")
  assert scored(log) == [best]
  assert "scored files themselves" not in log
  assert scored(in_process.run(*command, "--checkpoint=9")) == [9]
  assert "scored files themselves" not in log
  command = ("eval", *evaluation_flags(train_dir, data_dir))
  log = in_process.run(*command, "--checkpoint=best")
  assert "chosen by avg_loss on 1 of the 3 scored files themselves" in log
  # A single score chooses nothing.
  assert (train_dir / "best.json").read_text() == before
  line = in_process.run_into_error(*command, "--checkpoint=10")
  assert "received 10. There are 9, 18, 24; the best one is" in line


def test_other_files_choose_only_if_asked_to(train_dir, data_dir):
  command = (
    "eval",
    *evaluation_flags(train_dir, data_dir),
    "--all_checkpoints",
  )
  in_process.run(*command)
  before = json.loads((train_dir / "best.json").read_text())
  for path in train_dir.glob(f"model.ckpt-{before['step']}.*"):
    path.unlink()  # as training does
  command = (
    "eval",
    *evaluation_flags(train_dir, data_dir, "validate0000"),
    "--all_checkpoints",
  )
  log = in_process.run(*command)
  assert len(scored(log)) == 3
  assert f"The best checkpoint stays that of step {before['step']}: it" in log
  assert "To choose on these files, add --best_metric=gap." in log
  assert json.loads((train_dir / "best.json").read_text()) == before
  for path in (train_dir / "eval").glob("metrics-*.json"):
    path.unlink()
  log = in_process.run(*command, "--best_metric=gap")
  # The best one so far is scored too, before it loses its place.
  assert scored(log) == [9, 18, 24]
  after = json.loads((train_dir / "best.json").read_text())
  assert after["pattern"].endswith("validate0000*.tfrecord")
  gaps = {
    step: json.loads((train_dir / f"eval/metrics-{step}.json").read_text())
    for step in (9, 18, 24)
  }
  assert after["score"] == max(scores["gap"] for scores in gaps.values())


def test_two_that_wait_leave_the_first_choice(train_dir, data_dir, monkeypatch):
  """Each with other files, turn by turn, as checkpoints appear."""
  validate, part = (
    scoring.Evaluator(
      str(train_dir),
      require_model_flags(str(train_dir)),
      scoring.Task([f"{data_dir}/video/validate000{number}.tfrecord"]),
      Placement(),
    )
    for number in (0, 1)
  )
  newest = None
  monkeypatch.setattr(eval_program, "latest_checkpoint", lambda *_: newest)
  waiting = [
    eval_program._score_each(str(train_dir), evaluator)
    for evaluator in (validate, part)
  ]
  scores = {}
  for step in (9, 18, 24):
    newest = f"{train_dir}/model.ckpt-{step}"
    scores[step] = next(waiting[0])["gap"]
    next(waiting[1])
    best = json.loads((train_dir / "best.json").read_text())
    assert best["files"] == validate.conditions["files"]
    assert best["score"] == max(scores.values())


def test_only_one_way_to_name_checkpoints(train_dir, data_dir):
  line = in_process.run_into_error(
    "eval",
    *evaluation_flags(train_dir, data_dir),
    "--all_checkpoints",
    "--checkpoint=9",
  )
  assert "Expected one of --all_checkpoints and --checkpoint" in line


@pytest.mark.parametrize("name", ["auc", "GAP", "best_f1_threshold"])
def test_a_metric_that_cannot_choose(data_dir, tmp_path, name):
  """Before it waits for a checkpoint."""
  line = in_process.run_into_error(
    "eval", *evaluation_flags(tmp_path, data_dir), f"--best_metric={name}"
  )
  assert f"as --best_metric, received {name!r}" in line
  assert "accuracy" not in line  # which this model does not have


def test_all_checkpoints_of_a_run_without_any(data_dir, tmp_path):
  line = in_process.run_into_error(
    "eval", *evaluation_flags(tmp_path, data_dir), "--all_checkpoints"
  )
  assert "Expected a checkpoint in --train_dir" in line


def test_a_checkpoint_that_training_deletes_is_left_out(
  train_dir, data_dir, monkeypatch
):
  score = scoring.score_checkpoint

  def delete_next(checkpoint, *given):
    for path in train_dir.glob("model.ckpt-18.*"):
      path.unlink()
    return score(checkpoint, *given)

  monkeypatch.setattr(scoring, "score_checkpoint", delete_next)
  command = ("eval", *evaluation_flags(train_dir, data_dir))
  log = in_process.run(*command, "--all_checkpoints")
  assert scored(log) == [9, 24]
  assert "Step 18: training has deleted this checkpoint." in log


def test_the_checkpoint_before_a_damaged_one_is_scored(tmp_path, tiny_files):
  train_tiny(tmp_path, tiny_files, max_steps=4, export_model_steps=2)
  damage_data(tmp_path / "model.ckpt-4.data-00000-of-00001")
  flags = [
    f"--train_dir={tmp_path}",
    f"--eval_data_pattern={','.join(tiny_files)}",
  ]
  log = in_process.run("eval", *flags, "--run_once")
  assert f"{tmp_path}/model.ckpt-4 is damaged: TensorBundle at" in log
  assert "Using the checkpoint before, of step 2." in log
  assert "epoch/eval number 2 |" in log
  log = in_process.run("eval", *flags, "--all_checkpoints")
  assert "Step 4 is not scored: " in log
  for program, *more in (
    ("eval", *flags),
    ("inference", flags[0], f"--input_data_pattern={tiny_files[0]}"),
    ("export_model", flags[0]),
  ):
    line = in_process.run_into_error(program, *more, "--checkpoint=4")
    assert "received a damaged one" in line


@pytest.fixture
def read_only(tmp_path):
  """Makes a folder read-only, also for root."""
  mounted = []

  def make(folder):
    for more in (["--bind"], ["-o", "remount,ro,bind"]):
      done = subprocess.run(
        ["mount", *more, str(folder), str(folder)], capture_output=True
      )
      if done.returncode:
        pytest.skip("needs to be allowed to mount")
      if not mounted:
        mounted.append(folder)

  yield make
  for folder in mounted:
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("has_list", [False, True])
def test_a_read_only_run_is_scored(tmp_path, tiny_files, read_only, has_list):
  run = tmp_path / "run"
  train_tiny(run, tiny_files, max_steps=2)
  (run / "eval").mkdir(exist_ok=True)
  if has_list:
    (run / "eval" / "skipped_records.csv").write_text("file,record\n")
  before = folder_content(run)
  read_only(run)
  bad = Path(shutil.copy(tiny_files[0], tmp_path / "bad"))
  bad.write_bytes(bad.read_bytes() + b"cut")
  files = [str(bad), *tiny_files]
  for more in ("--run_once", "--all_checkpoints"):
    log = in_process.run(
      "eval",
      f"--train_dir={run}",
      f"--eval_data_pattern={','.join(files)}",
      "--skip_corrupt",
      "--max_corrupt_fraction=1",
      more,
    )
    assert "Left out 1 records (1 " in log
    assert "epoch/eval number 2 | Avg_Hit@1" in log
    lines = [line for line in log.splitlines() if "read-only" in line]
    assert len(lines) == 1
    assert f"{run} is read-only: no TensorBoard events" in lines[0]
  assert folder_content(run) == before


def test_a_run_of_another_user_is_scored(tmp_path, tiny_files, monkeypatch):
  run = tmp_path / "run"
  train_tiny(run, tiny_files, max_steps=2)
  before = folder_content(run)
  refuse = tf.errors.PermissionDeniedError(None, None, "Permission denied")

  def makedirs(path):
    raise refuse

  monkeypatch.setattr(tf.io.gfile, "makedirs", makedirs)
  log = in_process.run(
    "eval",
    f"--train_dir={run}",
    f"--eval_data_pattern={','.join(tiny_files)}",
    "--run_once",
  )
  assert "epoch/eval number 2 | Avg_Hit@1" in log
  assert f"{run} is read-only" in log
  assert folder_content(run) == before


def test_a_checkpoint_that_vanishes_gives_way_to_the_next(
  tmp_path, tiny_files, monkeypatch
):
  train_tiny(tmp_path, tiny_files, max_steps=4, export_model_steps=2)
  load = scoring.ForwardPass.load_weights

  def delete_and_load(forward, checkpoint):
    for file in tmp_path.glob("model.ckpt-4.*"):
      file.unlink()
    load(forward, checkpoint)

  monkeypatch.setattr(scoring.ForwardPass, "load_weights", delete_and_load)
  log = in_process.run(
    "eval",
    f"--train_dir={tmp_path}",
    f"--eval_data_pattern={','.join(tiny_files)}",
    "--run_once",
  )
  assert "epoch/eval number 2 |" in log


def test_a_remote_folder_that_does_not_answer_is_waited_for(monkeypatch):
  said = []
  monkeypatch.setattr(
    eval_program.logging,
    "log_every_n_seconds",
    lambda level, text, seconds, *values: said.append(text % values),
  )
  answers = ["no answer"] * 3 + ["gs://bucket/run/model.ckpt-4"]

  def find(train_dir, known_damage=None):
    if answers[0] == "no answer" or train_dir == "/run":
      answers.pop(0)
      raise tf.errors.FailedPreconditionError(
        None, None, "libcurl code 28 meaning 'Timeout was reached'\n when ..."
      )
    return answers[0]

  monkeypatch.setattr(eval_program, "latest_checkpoint", find)
  monkeypatch.setattr(eval_program.time, "sleep", lambda seconds: None)
  assert eval_program._find_newest("gs://bucket/run", {}) == answers[0]
  assert said == 3 * [
    "No answer of gs://bucket/run, trying again: libcurl code 28 meaning"
    " 'Timeout was reached'"
  ]
  with pytest.raises(tf.errors.FailedPreconditionError):
    eval_program._find_newest("/run", {})
