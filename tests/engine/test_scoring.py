"""Tests of scoring; tests/test_eval.py compares the scores themselves."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import error_of, event_tags
from make_records import segment_record, write_records
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  tiny_labels,
  train_tiny,
)

import eval_util
import requested_metrics
from engine import best_checkpoint, distribution, scoring
from engine.checkpoints import checkpoint_path
from engine.data import Data
from engine.model_flags import require_model_flags
from engine.pr_curves import PrecisionRecallCounts


@pytest.fixture(scope="module")
def tiny_run(tiny_files, tmp_path_factory):
  """A train_dir with checkpoints of the steps 2, 4 and 5."""
  folder = tmp_path_factory.mktemp("tiny_run") / "model"
  train_tiny(folder, tiny_files, export_model_steps=2, max_steps=5)
  return folder


@pytest.fixture
def train_dir(tiny_run, tmp_path):
  return shutil.copytree(tiny_run, tmp_path / "model")


def make_evaluator(train_dir, files, **task) -> scoring.Evaluator:
  return scoring.Evaluator(
    str(train_dir),
    require_model_flags(str(train_dir)),
    scoring.Task(files, **task),
    distribution.Placement(),
  )


def files_of_evaluations(train_dir) -> set[str]:
  """The names in the folder eval, where training leaves hyper-parameters."""
  return {path.name for path in (train_dir / "eval").iterdir()}


def checkpoint(train_dir, step=5) -> str:
  return checkpoint_path(str(train_dir), step)


# --------------------------------------------------------------------------
# What is written


def test_scores_that_are_not_finite(tmp_path):
  metrics = requested_metrics.find_metrics("d_prime,auc,full_map")
  scores = {
    "global_step": 3,
    "avg_hit_at_one": 1.0,
    "avg_perr": 1.0,
    "avg_loss": 0.1,
    "map": 1.0,
    "gap": 1.0,
    "examples_per_second": 9.0,
    "auc": 1.0,
    "d_prime": math.inf,
    "full_map": math.nan,
  }
  writer = tf.summary.create_file_writer(str(tmp_path))
  result = scoring.Result(scores, {}, [], PrecisionRecallCounts(2))
  scoring.write_scores(scores, str(tmp_path), False, metrics)
  scoring.write_events(result, writer, False, metrics, [0, 1])
  scoring.log_scores(scores, metrics)
  del scores["full_map"]  # Evaluator.recorded leaves it out
  scoring.log_scores(scores, metrics)
  scores["full_map"] = math.nan

  def fail(constant):
    raise AssertionError(constant)  # no JSON, but Python's

  text = (tmp_path / "metrics-3.json").read_text()
  assert json.loads(text, parse_constant=fail) == {
    **scores,
    "d_prime": None,
    "full_map": None,
  }
  tags = event_tags(tmp_path)
  assert tags["Epoch/Eval_AUC"] == {3: 1.0}
  assert not {"Epoch/Eval_D_Prime", "Epoch/Eval_Full_MAP"} & set(tags)
  assert "Epoch/Eval_AP_By_Class" not in tags  # no class has labels


def test_events_of_an_evaluation(train_dir, tiny_files):
  evaluator = make_evaluator(train_dir, tiny_files, class_names={1: "one"})
  for step in (2, 5):
    evaluator.evaluate(checkpoint(train_dir, step))
  evaluator.close()
  tags = event_tags(train_dir / "eval")
  scores = {
    step: json.loads((train_dir / f"eval/metrics-{step}.json").read_text())
    for step in (2, 5)
  }
  for tag, key in {
    "compare/GAP": "gap",
    "compare/Hit@1": "avg_hit_at_one",
    "compare/PERR": "avg_perr",
    "compare/loss": "avg_loss",
    "Epoch/Eval_GAP": "gap",
    "GlobalStep/Eval_Loss": "avg_loss",
  }.items():
    expected = {step: of_step[key] for step, of_step in scores.items()}
    assert tags[tag] == pytest.approx(expected), tag
  # Rows of a histogram: from, to, how many.
  buckets = tags["Epoch/Eval_AP_By_Class"][5]
  assert buckets[:, 2].sum() == 6
  assert buckets[0, 0] <= scores[5]["map"] <= buckets[-1, 1]
  # The most frequent of the 6 classes, see tiny_labels.
  labels = [tiny_labels(number) for number in range(NUM_TINY)]
  counts = np.bincount([index for some in labels for index in some])
  frequent = np.argsort(-counts, kind="stable")[:5]
  curves = {tag for tag in tags if tag.endswith("/pr_curves")}
  assert curves == {"Eval_PR/all/pr_curves"} | {
    f"Eval_PR/class_{index}/pr_curves" for index in frequent
  }
  # At the lowest threshold, all labels are found.
  of_all = tags["Eval_PR/all/pr_curves"][5]
  assert of_all[0, 0] == counts.sum()
  assert of_all[1, 0] == 6 * NUM_TINY - counts.sum()


def test_average_precisions_are_those_of_the_map(train_dir, tiny_files):
  evaluator = make_evaluator(train_dir, tiny_files)
  result = scoring.score_checkpoint(
    checkpoint(train_dir), evaluator._forward, 6, 20
  )
  assert len(result.average_precisions) == 6
  assert np.mean(result.average_precisions) == pytest.approx(
    result.scores["map"]
  )


def test_a_loss_of_another_shape_is_named(train_dir, tiny_files, monkeypatch):
  forward = make_evaluator(train_dir, tiny_files)._forward
  run = forward.run

  def run_with_loss_of_each_class():
    for batch, (predictions, losses), progress in run():
      yield batch, (predictions, losses[:, None] + predictions), progress

  monkeypatch.setattr(forward, "run", run_with_loss_of_each_class)
  path = checkpoint(train_dir)
  error = error_of(scoring.score_checkpoint, path, forward, 6, 20)
  assert f"Scoring {path} failed: Expected loss to be one number" in error


def test_segments_that_nobody_rated_are_named(tmp_path, tiny_segment_files):
  features = {"rgb": (20, 4), "audio": (20, 3)}
  record = segment_record(
    "v", [], **{name: np.ones(of, np.uint8) for name, of in features.items()}
  )
  file = write_records(tmp_path / "unrated", [record])
  train_tiny(
    tmp_path / "run",
    tiny_segment_files,
    TINY_FRAME_FLAGS,
    segment_labels=True,
    max_steps=1,
  )
  evaluator = make_evaluator(tmp_path / "run", [file], segment_labels=True)
  error = error_of(evaluator.evaluate, checkpoint(tmp_path / "run", 1))
  assert "Expected examples in the files of --eval_data_pattern" in error


def test_a_request_to_stop_writes_nothing(train_dir, tiny_files):
  before = files_of_evaluations(train_dir)
  evaluator = make_evaluator(train_dir, tiny_files, batch_size=5)
  asked = []

  def is_stopped():
    asked.append(None)
    return len(asked) == 2

  with pytest.raises(scoring.StoppedError):
    evaluator.evaluate(checkpoint(train_dir), is_stopped)
  assert len(asked) == 2
  assert files_of_evaluations(train_dir) == before
  assert not (train_dir / "best.json").exists()
  assert evaluator.evaluate(checkpoint(train_dir))["num_examples"] == NUM_TINY


# --------------------------------------------------------------------------
# What was scored before


def test_an_evaluation_is_known_again(train_dir, tiny_files, tmp_path):
  evaluator = make_evaluator(train_dir, tiny_files)
  path = checkpoint(train_dir)
  assert evaluator.recorded(path) is None
  scores = evaluator.evaluate(path)
  assert make_evaluator(train_dir, tiny_files).recorded(path) == scores
  # Where the files are does not matter, nor how many are read at once.
  moved = [
    shutil.copy(file, f"{tmp_path}/{os.path.basename(file)}")
    for file in tiny_files
  ]
  assert make_evaluator(train_dir, moved, batch_size=3).recorded(path) == scores
  for changes in (
    {"top_k": 2},
    {"metrics": "f1"},
    {"min_frames": 0, "files": tiny_files[:1]},
  ):
    task = {"files": tiny_files, **changes}
    assert make_evaluator(train_dir, **task).recorded(path) is None, changes
  # Another size under the same name.
  with open(moved[0], "ab") as file, open(moved[1], "rb") as other:
    file.write(other.read())
  assert make_evaluator(train_dir, moved).recorded(path) is None
  # Another checkpoint of the same step.
  for ending in ("index", "data-00000-of-00001"):
    shutil.copy(f"{checkpoint(train_dir, 4)}.{ending}", f"{path}.{ending}")
  assert evaluator.recorded(path) is None


@pytest.mark.parametrize(
  "content",
  [
    "",
    "{}",
    '{"global_step": 5}',
    '{"global_step": 5, "evaluation": null}',
    pytest.param("[" * 100_000, id="deep"),
  ],
)
def test_scores_of_earlier_versions_are_not_known(
  train_dir, tiny_files, content
):
  (train_dir / "eval" / "metrics-5.json").write_text(content)
  evaluator = make_evaluator(train_dir, tiny_files)
  assert evaluator.recorded(checkpoint(train_dir)) is None


@pytest.mark.parametrize(
  ("name", "value"),
  [("global_step", None), ("global_step", "5"), ("gap", "high"), ("map", [1])],
)
def test_scores_that_are_no_numbers_are_not_known(
  train_dir, tiny_files, name, value
):
  evaluator = make_evaluator(train_dir, tiny_files)
  evaluator.evaluate(checkpoint(train_dir))
  path = train_dir / "eval" / "metrics-5.json"
  content = json.loads(path.read_text())
  assert evaluator.recorded(checkpoint(train_dir)) is not None
  path.write_text(json.dumps({**content, name: value}))
  assert evaluator.recorded(checkpoint(train_dir)) is None


# --------------------------------------------------------------------------
# The best checkpoint


def test_metrics_that_choose():
  found = requested_metrics.find_metrics("best_f1,auc")
  for name in ("gap", "map", "avg_loss", "avg_perr", "auc", "best_f1_micro"):
    scoring.check_best_metric(name, found)
  for name in ("auc", "best_f1_threshold", "GAP", "global_step", ""):
    error = error_of(scoring.check_best_metric, name, found[:2])
    assert "Expected one of avg_hit_at_one, avg_perr, map, gap, avg_loss" in (
      error
    )
    assert f"received {name!r}" in error


@pytest.mark.parametrize("metric", ["map", "avg_loss"])
def test_the_best_of_some_checkpoints(train_dir, tiny_files, metric):
  evaluator = make_evaluator(train_dir, tiny_files, best_metric=metric)
  scored = {
    checkpoint(train_dir, step): evaluator.evaluate(checkpoint(train_dir, step))
    for step in (2, 4, 5)
  }
  evaluator.choose(scored)
  scores = {of["global_step"]: of[metric] for of in scored.values()}
  choose = min if metric == "avg_loss" else max
  best = best_checkpoint.read_best(str(train_dir))
  assert best is not None
  assert best["score"] == choose(scores.values())
  assert scores[best["step"]] == best["score"]
  assert best["metric"] == metric


def test_a_score_that_is_not_finite_is_never_the_best(train_dir, tiny_files):
  evaluator = make_evaluator(train_dir, tiny_files)
  for score in (math.nan, math.inf, -math.inf):
    evaluator.choose({checkpoint(train_dir): {"gap": score}})
  evaluator.choose({checkpoint(train_dir): {}})
  assert best_checkpoint.read_best(str(train_dir)) is None


def test_scoring_the_best_on_what_chose_it_is_warned_of(
  train_dir, tiny_files, tmp_path, caplog, monkeypatch
):
  def warned(files, **task) -> bool:
    caplog.clear()
    make_evaluator(train_dir, files, **task).warn_of_choice()
    return "so its score flatters" in caplog.text

  assert not warned(tiny_files)  # there is none
  monkeypatch.chdir(os.path.dirname(tiny_files[0]))
  evaluator = make_evaluator(train_dir, tiny_files, pattern="./[ab]")
  path = checkpoint(train_dir)
  evaluator.choose({path: evaluator.evaluate(path)})
  monkeypatch.chdir(tmp_path)
  assert warned(tiny_files)
  assert warned(tiny_files[:1])  # one of those that chose
  assert warned(tiny_files, top_k=3)
  other = shutil.copy(tiny_files[0], f"{tmp_path}/other")
  assert not warned([other])
  # Elsewhere, but the same.
  moved = [
    shutil.copy(file, f"{tmp_path}/{os.path.basename(file)}")
    for file in tiny_files
  ]
  assert warned(moved)


def test_a_damaged_best_file_stops_before_the_work(train_dir, tiny_files):
  (train_dir / "best.json").write_text("{")
  before = files_of_evaluations(train_dir)
  evaluator = make_evaluator(train_dir, tiny_files)
  error = error_of(evaluator.evaluate, checkpoint(train_dir))
  assert "best.json" in error
  assert files_of_evaluations(train_dir) == before


def test_keys_of_all_usual_scores_can_choose():
  """So that --best_metric takes what metrics-N.json has."""
  default = scoring.Task([]).best_metric
  keys = [metric.key for metric in eval_util.METRICS]
  assert default in keys
  for key in keys:
    scoring.check_best_metric(key, ())


def test_hashes_are_of_the_sizes_that_the_data_knows(tiny_files):
  data = Data(TINY_FLAGS, tiny_files, with_labels=True)
  assert data.file_sizes == [os.path.getsize(file) for file in tiny_files]
