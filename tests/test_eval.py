"""Tests of eval, through the real command line."""

import json
import re
import shutil
import signal

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
  labels = np.stack(labels)
  model = load_model(train_dir)
  predictions = model(
    {
      "video_matrix": np.array(vectors, np.float32),
      "num_frames": np.ones(20, np.int32),
    },
    training=False,
  )["predictions"].numpy()
  expected = brute_force_scores(predictions, labels, np.ones_like(labels), 3)
  # A model that has learned something, so that the scores are not trivial.
  assert 0.2 < expected["gap"] < 1.0
  check_outputs(
    log, train_dir, "Eval", "", 24, {**expected, "num_examples": 20}
  )
  # Evaluation only adds its own folder.
  after = folder_content(train_dir)
  assert {
    name: content
    for name, content in after.items()
    if not name.startswith("eval/")
  } == before
  assert len(after) == len(before) + 2


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
  frames, labels, rated = [], [], []
  for record in records(segment_files):
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
  assert min(num_frames) == 3  # one starts near the end
  matrix = np.stack(
    [np.pad(segment, [[0, 5 - len(segment)], [0, 0]]) for segment in frames]
  )
  predictions = load_model(train_dir)(
    {"video_matrix": matrix, "num_frames": num_frames}, training=False
  )["predictions"].numpy()
  labels, rated = np.stack(labels), np.stack(rated)
  expected = brute_force_scores(predictions, labels, rated, 20)
  unweighted = brute_force_scores(predictions, labels, np.ones_like(rated), 20)
  assert all(abs(expected[name] - unweighted[name]) > 0.01 for name in expected)
  check_outputs(
    log,
    train_dir,
    "SegEval",
    "segment-",
    8,
    {**expected, "num_examples": len(frames)},
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
