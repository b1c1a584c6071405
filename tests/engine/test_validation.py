"""Tests of validation: evaluations while training, and early stopping.

Most decide by made-up scores over steps that take no time. A few train, and the
slow ones do so for each case.
"""

import json
import re
import shutil
import signal
import time

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  VIDEO_DATA_FLAGS,
  Program,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  error_of,
  event_tags,
  run_program,
)
from test_run import StopWhen
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS, train_tiny

import eval as eval_program
import train
from engine import best_checkpoint, loop, scoring, validation
from engine.checkpoints import (
  checkpoint_path,
  checkpoint_step,
  checkpoints_by_step,
)
from engine.distribution import Placement
from engine.files import write_json
from engine.settings import Settings
from engine.train_dir_lock import NO_LOCK


class Killed(BaseException):
  """Raised in the place of the end of the process."""


def evaluated(folder) -> dict:
  """{step: scores} of evaluations.json, without what depends on the time."""
  content = json.loads((folder / "evaluations.json").read_text())
  return {
    scores.pop("global_step"): scores
    for scores in content["evaluations"]
    if scores.pop("examples_per_second")
  }


def best(folder) -> dict:
  return json.loads((folder / "best.json").read_text())


# --------------------------------------------------------------------------
# The decision


@pytest.mark.parametrize(
  ("metric", "scores", "expected"),
  [
    ("gap", [], 0),
    ("gap", [0.3], 0),
    ("gap", [0.1, 0.2, 0.3], 0),
    ("gap", [0.1, 0.3, 0.2], 1),
    ("gap", [0.3, 0.1, 0.2], 2),
    ("gap", [0.3, 0.3, 0.3], 2),  # equal is no gain
    ("gap", [0.1, 0.3, 0.2, 0.4, 0.1, 0.2, 0.4], 3),
    ("avg_loss", [3.0, 1.0, 2.0], 1),
    ("avg_loss", [1.0, 2.0, 3.0], 2),
  ],
)
def test_evaluations_without_gain(metric, scores, expected):
  assert validation.evaluations_without_gain(metric, scores) == expected


# GAPs of the steps 0, 3, 6, ...; the best of the first three is that of step 3.
SCRIPT = [0.1, 0.2, 0.2, 0.4, 0.3, 0.4, 0.1, 0.0, 0.3, 0.2, 0.9, 0.9]
CONDITIONS = {"files": "12ab", "pattern": "/data/v*", "top_k": 20}


class ScriptedEvaluator:
  """Finds the scores of SCRIPT.

  Attributes:
    steps: that were evaluated.
    known: scores that eval.py has written, by step.
    kill: the step at whose evaluation the process ends.
    metric: by which to choose.
  """

  def __init__(self, folder, conditions, metric="gap"):
    self._folder = str(folder)
    self.metric = metric
    self.conditions = conditions
    self.steps = []
    self.known = {}
    self.kill = None

  def evaluate(self, checkpoint, is_stopped):
    step = checkpoint_step(checkpoint)
    if step == self.kill:
      raise Killed
    if is_stopped():
      raise scoring.StoppedError
    self.steps.append(step)
    scores = {
      "global_step": step,
      "gap": SCRIPT[step // 3],
      "avg_loss": 1 - SCRIPT[step // 3],
      "map": 1 - SCRIPT[step // 3],
      "examples_per_second": 5.0,
    }
    return scores

  def recorded(self, checkpoint):
    return self.known.get(checkpoint_step(checkpoint))

  def choose(self, scored):
    values = {path: scores[self.metric] for path, scores in scored.items()}
    best_checkpoint.choose(self._folder, self.metric, values, self.conditions)

  def build(self):
    pass


class QuickRun:
  """A Run whose steps take no time, at its newest checkpoint."""

  def __init__(self, folder, **settings):
    self.train_dir = str(folder)
    defaults = {"eval_steps": 3, "num_epochs": 0, "eval_data_pattern": "v*"}
    self.settings = Settings(5, 0.1, **{**defaults, **settings})
    self.placement = Placement()
    self.lock = NO_LOCK
    self.step = max(checkpoints_by_step(self.train_dir), default=0)

  def has_ended(self):
    return self.step >= self.settings.max_steps

  def save(self):
    path = checkpoint_path(self.train_dir, self.step)
    tf.train.Checkpoint(step=tf.Variable(self.step)).write(path)


def go_on(
  folder,
  early_stopping=0,
  max_steps=99,
  evaluator=None,
  stop=None,
  **settings,
):
  """What train() and its loop do with a validation.

  Args:
    folder: the train_dir.
    early_stopping, max_steps: see Settings.
    evaluator: a ScriptedEvaluator.
    stop: the step at whose evaluation a signal arrives.
    **settings: more of Settings.

  Returns:
    (the last step, the steps that were evaluated).
  """
  run = QuickRun(
    folder, early_stopping=early_stopping, max_steps=max_steps, **settings
  )
  evaluator = evaluator or ScriptedEvaluator(folder, CONDITIONS)
  checked = validation.Validation(run, evaluator)
  ended = checked.catch_up() or run.has_ended()
  while not ended:
    run.step += min(checked.steps_to_next(run.step), max_steps - run.step)
    ended = run.has_ended()
    if checked.is_due(run.step, ended):
      run.save()
      ended = checked.evaluate(lambda: run.step == stop) or ended
  return run.step, evaluator.steps


STOPS = [(1, 6), (2, 15), (3, 18), (6, 27), (7, 33)]


@pytest.mark.parametrize(("patience", "expected"), STOPS)
def test_a_run_stops_after_evaluations_without_gain(
  tmp_path, shown, patience, expected
):
  """Of 0.2 0.2 the second is no gain, nor of 0.4 0.3 0.4 the third."""
  step, steps = go_on(tmp_path, patience, 33)
  assert step == expected
  assert steps == list(range(0, expected + 1, 3))
  gained = {6: 3, 15: 9, 18: 9, 27: 9, 33: 30}[expected]
  assert best(tmp_path)["step"] == gained
  stopped = [line for line in shown if line.startswith("Stopping early")]
  assert bool(stopped) == (expected < 33)
  if stopped:
    assert stopped == [
      f"Stopping early: no gain of gap in {patience} evaluations. The best of"
      f" the regular ones is that of step {gained}, {SCRIPT[gained // 3]:.6g}."
    ]
  # The same command changes nothing, and evaluates nothing.
  assert go_on(tmp_path, patience, 33) == (expected, [])


def test_less_loss_is_gain(tmp_path):
  assert go_on(tmp_path, 2, best_metric="avg_loss")[0] == 15


def test_without_patience_a_run_never_stops(tmp_path):
  assert go_on(tmp_path, 0, 33)[0] == 33


def test_a_run_that_stopped_early_continues_with_more_patience(tmp_path):
  assert go_on(tmp_path, 1) == (6, [0, 3, 6])
  assert go_on(tmp_path, 6) == (27, list(range(9, 28, 3)))


def test_the_end_of_an_earlier_start_is_no_regular_evaluation(tmp_path):
  """Step 10 scores as step 9: 0.4, which must not count as one without gain."""
  assert go_on(tmp_path, 2, 10) == (10, [0, 3, 6, 9, 10])
  assert go_on(tmp_path, 2, 99) == (15, [12, 15])
  assert list(evaluated(tmp_path)) == [0, 3, 6, 9, 10, 12, 15]


@pytest.mark.parametrize("kill", range(0, 19, 3))
@pytest.mark.parametrize("where", ["evaluating", "noting"])
def test_a_killed_run_decides_as_the_whole_one(
  tmp_path, monkeypatch, where, kill
):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  for folder in (whole, killed):
    folder.mkdir()
  assert go_on(whole, 3)[0] == 18
  evaluator = ScriptedEvaluator(killed, CONDITIONS)
  with monkeypatch.context() as patch:
    if where == "evaluating":
      evaluator.kill = kill
    else:

      def write(path, content):
        if content["evaluations"][-1]["global_step"] == kill:
          raise Killed
        write_json(path, content)

      patch.setattr(validation, "write_json", write)
    with pytest.raises(Killed):
      go_on(killed, 3, evaluator=evaluator)
  assert go_on(killed, 3) == (18, list(range(kill, 19, 3)))
  assert evaluated(killed) == evaluated(whole)
  assert best(killed) == best(whole)


def test_a_signal_breaks_an_evaluation_off(tmp_path, shown):
  step, steps = go_on(tmp_path, 3, stop=6)
  assert (step, steps) == (6, [0, 3])
  assert "The evaluation was broken off; the next start makes up for it." in (
    shown
  )
  assert go_on(tmp_path, 3) == (18, [6, 9, 12, 15, 18])


def test_kept_checkpoints_of_a_run_without_evaluations_are_made_up_for(
  tmp_path, shown
):
  run = QuickRun(tmp_path)
  for run.step in (6, 9, 11):
    run.save()
  # Step 11 was an end, but is none any more.
  assert go_on(tmp_path, 0, 12) == (12, [6, 9, 12])
  assert "Not evaluated yet: step 6, 9." in shown
  assert best(tmp_path)["step"] == 9


def test_the_end_is_made_up_for(tmp_path):
  run = QuickRun(tmp_path)
  run.step = 11
  run.save()
  assert go_on(tmp_path, 0, 11) == (11, [11])
  assert go_on(tmp_path, 0, 11) == (11, [])


def test_what_eval_has_scored_is_not_scored_again(tmp_path):
  run = QuickRun(tmp_path)
  for run.step in (3, 6):
    run.save()
  evaluator = ScriptedEvaluator(tmp_path, CONDITIONS)
  evaluator.known[3] = {
    "global_step": 3,
    "gap": 0.7,
    "examples_per_second": 1.0,
  }
  assert go_on(tmp_path, 2, 99, evaluator) == (9, [6, 9])
  assert best(tmp_path)["step"] == 3


def test_other_files_count_from_here(tmp_path, shown):
  go_on(tmp_path, 0, 9)
  moved = {**CONDITIONS, "pattern": "/elsewhere/v*"}
  evaluator = ScriptedEvaluator(tmp_path, moved)
  assert go_on(tmp_path, 0, 12, evaluator) == (12, [12])
  assert not [line for line in shown if line.startswith("The files of --eval")]
  evaluator = ScriptedEvaluator(tmp_path, {**CONDITIONS, "files": "34cd"})
  # All that are kept are scored on them.
  assert go_on(tmp_path, 0, 12, evaluator) == (12, [0, 3, 6, 9, 12])
  assert [line for line in shown if line.startswith("The files of --eval")]
  assert list(evaluated(tmp_path)) == [0, 3, 6, 9, 12]


def delete(folder, *steps) -> None:
  """Deletes checkpoints, as training does."""
  for step in steps:
    for path in folder.glob(f"model.ckpt-{step}.*"):
      path.unlink()


@pytest.mark.parametrize("max_steps", [12, 15])
def test_another_metric_chooses_among_all_that_are_kept(tmp_path, max_steps):
  """Step 9 has the best GAP, which is made the worst mAP."""
  go_on(tmp_path, 0, 12)
  assert best(tmp_path)["step"] == 9
  delete(tmp_path, 0, 9)  # step 9 is only in best/ now
  evaluator = ScriptedEvaluator(tmp_path, CONDITIONS, "map")
  go_on(tmp_path, 0, max_steps, evaluator)
  # Of 3 and 6, which are equal, the first one.
  assert (best(tmp_path)["metric"], best(tmp_path)["step"]) == ("map", 3)
  go_on(tmp_path, 0, max_steps)
  assert (best(tmp_path)["metric"], best(tmp_path)["step"]) == (
    "gap",
    max_steps,
  )


def test_other_files_choose_again_also_the_best_one_so_far(tmp_path):
  """It is scored on them before a worse one takes its place."""
  go_on(tmp_path, 0, 12)
  delete(tmp_path, 9)
  evaluator = ScriptedEvaluator(tmp_path, {**CONDITIONS, "files": "34cd"})
  assert go_on(tmp_path, 0, 12, evaluator) == (12, [0, 3, 6, 9, 12])
  assert (best(tmp_path)["step"], best(tmp_path)["files"]) == (9, "34cd")


def test_what_eval_has_chosen_meanwhile_is_chosen_again(tmp_path):
  run = QuickRun(tmp_path, max_steps=99)
  checked = validation.Validation(run, ScriptedEvaluator(tmp_path, CONDITIONS))
  checked.catch_up()
  for run.step in (3, 6):
    run.save()
    checked.evaluate(scoring.never)
  assert best(tmp_path)["step"] == 3
  best_checkpoint.consider(
    str(tmp_path), f"{tmp_path}/model.ckpt-0", "auc", 0.9, CONDITIONS
  )
  run.step = 24
  run.save()
  checked.evaluate(scoring.never)  # 0.3
  run.step = 27
  run.save()
  checked.evaluate(scoring.never)  # 0.2
  assert (best(tmp_path)["step"], best(tmp_path)["metric"]) == (24, "gap")


def test_a_run_that_goes_back_forgets_what_came_after(tmp_path):
  go_on(tmp_path, 0, 9)
  assert best(tmp_path)["step"] == 9
  delete(tmp_path, 6, 9)
  assert go_on(tmp_path, 0, 6) == (6, [6])
  assert list(evaluated(tmp_path)) == [0, 3, 6]


@pytest.mark.parametrize(
  "content",
  [
    "",
    "[]",
    '{"evaluations": []}',
    '{"conditions": 1, "evaluations": []}',
    '{"conditions": {}, "evaluations": 1}',
    '{"conditions": {}, "evaluations": [{"global_step": "3"}]}',
  ],
)
def test_a_damaged_file_is_named(tmp_path, content):
  (tmp_path / "evaluations.json").write_text(content)
  error = error_of(go_on, tmp_path)
  assert f"{tmp_path}/evaluations.json" in error
  assert "Delete it" in error


def test_numbers_that_do_not_exist_are_not_noted(tmp_path):
  checked = validation.Validation(
    QuickRun(tmp_path), ScriptedEvaluator(tmp_path, CONDITIONS)
  )
  checked._note(3, {"global_step": 3, "gap": 0.5, "accuracy": float("nan")})
  content = json.loads((tmp_path / "evaluations.json").read_text())
  assert content == {
    "conditions": CONDITIONS,
    "evaluations": [{"global_step": 3, "gap": 0.5}],
  }


# --------------------------------------------------------------------------
# Runs


@pytest.fixture
def files(tiny_files):
  """Files to train on, and the pattern of others to evaluate on."""
  return tiny_files[:1], tiny_files[1]


def train_evaluated(folder, files, **settings) -> int:
  """13 videos in batches of 5: an epoch has 2.6 steps."""
  defaults = {"eval_steps": 3, "num_epochs": 0, "keep_checkpoints": 2}
  return train_tiny(
    folder,
    files[0],
    settings.pop("model_flags", TINY_FLAGS),
    eval_data_pattern=files[1],
    **{**defaults, **settings},
  )


def test_a_run_is_evaluated_as_by_eval(files, tmp_path, monkeypatch):
  run = tmp_path / "run"
  closed = []
  with monkeypatch.context() as patch:
    patch.setattr(scoring.Evaluator, "close", lambda self: closed.append(self))
    train_evaluated(run, files, max_steps=7, keep_checkpoints=0, ema_decay=0.5)
  (evaluator,) = closed
  evaluator.close()
  found = evaluated(run)
  assert list(found) == [0, 3, 6, 7]
  assert checkpoint_steps(run) == {0, 3, 6, 7}
  written = {
    path.name: json.loads(path.read_text())
    for path in (run / "eval").glob("metrics-*.json")
  }
  by_hand = shutil.copytree(run, tmp_path / "by_hand")
  shutil.rmtree(by_hand / "eval")
  (by_hand / "best.json").unlink()
  eval_program.evaluate(
    str(by_hand), [files[1]], pattern=files[1], all_checkpoints=True
  )
  assert len(written) == 4
  for name, scores in written.items():
    other = json.loads((by_hand / "eval" / name).read_text())
    for one in (scores, other):
      assert one.pop("examples_per_second") > 0
    assert scores.pop("evaluation") == other.pop("evaluation")
    assert scores == pytest.approx(other), name
    step = scores.pop("global_step")
    assert found[step] == scores
  for tags in map(event_tags, (run / "eval", by_hand / "eval")):
    assert set(tags["Epoch/Eval_GAP"]) == {0, 3, 6, 7}
    assert set(tags["compare/GAP"]) == {0, 3, 6, 7}
  assert best(run) == best(by_hand)
  gaps = {step: scores["gap"] for step, scores in found.items()}
  assert best(run)["score"] == max(gaps.values())
  assert gaps[best(run)["step"]] == best(run)["score"]


def test_of_several_machines_one_device_evaluates(files, tmp_path, monkeypatch):
  """With the batch of one device, though the machine has four."""
  opened = []
  monkeypatch.setattr(scoring, "Evaluator", lambda *given: opened.append(given))
  settings = Settings(5, 0.1, eval_data_pattern=files[1])
  machine = Placement()
  for workers, replicas, expected in ((2, 8, 5), (1, 4, 20)):
    machine.num_workers, machine.num_replicas = workers, replicas
    train._open_evaluator(str(tmp_path), TINY_FLAGS, settings, machine, "")
    *_, task, placement = opened.pop()
    assert task.batch_size == expected
    assert (placement is machine) == (workers == 1)


@pytest.fixture
def scripted(monkeypatch):
  """Lets evaluations find the scores of SCRIPT; returns the steps evaluated."""
  evaluate = scoring.score_checkpoint
  steps = []

  def score(checkpoint, *given, **keywords):
    step = checkpoint_step(checkpoint)
    result = evaluate(checkpoint, *given, **keywords)
    steps.append(step)
    result.scores["gap"] = SCRIPT[step // 3]
    return result

  monkeypatch.setattr(scoring, "score_checkpoint", score)
  return steps


@pytest.fixture
def whole(files, tmp_path, scripted):
  """A run that stops after step 18 without being interrupted."""
  folder = tmp_path / "whole"
  assert train_evaluated(folder, files, **STOPPING) == 18
  scripted.clear()
  return folder


STOPPING = {"early_stopping": 3, "max_steps": 99, "ema_decay": 0.5}


@pytest.mark.parametrize(
  ("where", "step"),
  [
    ("evaluating", 12),
    *(
      pytest.param(where, step, marks=pytest.mark.slow)
      for where in ("evaluating", "writing", "noting")
      for step in (0, 6, 18)
    ),
  ],
)
def test_killed_trainings_end_as_the_whole_one(
  files, tmp_path, whole, scripted, monkeypatch, shown, where, step
):
  name, owner = {
    "evaluating": ("score_checkpoint", scoring),
    "writing": ("write_events", scoring),
    "noting": ("write_json", validation),
  }[where]
  function = getattr(owner, name)
  calls = []

  def fail(*given, **keywords):
    calls.append(None)
    if len(calls) == 1 + step // 3:
      raise Killed
    return function(*given, **keywords)

  killed = tmp_path / "killed"
  with monkeypatch.context() as patch:
    patch.setattr(owner, name, fail)
    with pytest.raises(Killed):
      train_evaluated(killed, files, **STOPPING)
  assert max(checkpoint_steps(killed)) == step
  scripted.clear()
  assert train_evaluated(killed, files, **STOPPING) == 18
  # What metrics-N.json has is not computed again.
  first = step + 3 if where == "noting" else step
  assert scripted == list(range(first, 19, 3))
  assert_same_state(whole / "model.ckpt-18", killed / "model.ckpt-18")
  assert evaluated(whole) == evaluated(killed)
  assert best(whole) == best(killed)
  assert best(killed)["step"] == 9
  assert event_tags(killed / "eval")["compare/GAP"].keys() == set(
    range(0, 19, 3)
  )
  # The last step is exported, unless the process ended before.
  assert (whole / "export" / "step_18").is_dir()
  # The same command changes nothing.
  scripted.clear()
  assert train_evaluated(killed, files, **STOPPING) == 18
  assert not scripted
  assert "has ended after step 18. Raise --early_stopping to" in shown[-1]


@pytest.mark.slow
def test_evaluations_change_nothing_in_the_training(tiny_frame_files, tmp_path):
  flags = {
    **TINY_FRAME_FLAGS,
    "model": "DbofModel",
    "iterations": 3,
    "dbof_cluster_size": 4,
    "dbof_hidden_size": 3,
  }
  files = tiny_frame_files[:1], tiny_frame_files[1]
  settings = {"max_steps": 7, "mixup_alpha": 0.4}
  train_evaluated(tmp_path / "one", files, model_flags=flags, **settings)
  train_tiny(tmp_path / "other", files[0], flags, num_epochs=0, **settings)
  name = "model.ckpt-7"
  assert_same_state(tmp_path / "one" / name, tmp_path / "other" / name)


@pytest.mark.slow
def test_when_a_run_is_evaluated(files, tmp_path):
  train_evaluated(
    tmp_path, files, eval_steps=None, export_model_steps=4, max_steps=6
  )
  assert list(evaluated(tmp_path)) == [0, 4, 6]
  # More often than it is exported; the last steps only once.
  train_evaluated(
    tmp_path, files, eval_steps=2, export_model_steps=4, max_steps=8
  )
  assert list(evaluated(tmp_path)) == [0, 4, 6, 8]
  assert (tmp_path / "export" / "step_8").is_dir()


@pytest.mark.slow
def test_the_best_checkpoint_outlives_the_others(files, tmp_path):
  train_evaluated(
    tmp_path, files, max_steps=15, keep_checkpoints=1, best_metric="avg_loss"
  )
  losses = {step: of["avg_loss"] for step, of in evaluated(tmp_path).items()}
  assert best(tmp_path)["step"] == min(losses, key=losses.__getitem__)
  assert best(tmp_path)["metric"] == "avg_loss"
  assert checkpoint_steps(tmp_path / "best") == {best(tmp_path)["step"]}
  assert checkpoint_steps(tmp_path) == {15}


@pytest.mark.slow
def test_a_signal_breaks_the_evaluation_of_a_training_off(
  files, tmp_path, whole, scripted, monkeypatch
):
  began = []
  load = scoring.ForwardPass.load_weights

  def note(forward, checkpoint):
    began.append(checkpoint_step(checkpoint))
    load(forward, checkpoint)

  parts = tmp_path / "parts"
  with monkeypatch.context() as patch:
    patch.setattr(scoring.ForwardPass, "load_weights", note)
    patch.setattr(loop, "StopSignal", lambda: StopWhen(lambda: 6 in began))
    assert train_evaluated(parts, files, **STOPPING) == 6
  assert scripted == [0, 3]
  assert (parts / "export" / "step_6").is_dir()
  assert train_evaluated(parts, files, **STOPPING) == 18
  assert scripted == [0, 3, 6, 9, 12, 15, 18]
  assert_same_state(whole / "model.ckpt-18", parts / "model.ckpt-18")
  assert evaluated(whole) == evaluated(parts)


@pytest.mark.slow
def test_a_stopped_run_is_not_evaluated_where_it_stops(
  files, tmp_path, monkeypatch
):
  looks = []

  class StopSoon(StopWhen):
    def __init__(self):
      super().__init__(lambda: looks.append(None) or len(looks) == 2)

  with monkeypatch.context() as patch:
    patch.setattr(loop, "StopSignal", StopSoon)
    step = train_evaluated(tmp_path, files, eval_steps=50, max_steps=99)
  assert 0 < step < 50
  assert list(evaluated(tmp_path)) == [0]
  assert checkpoint_steps(tmp_path) == {0, step}


# --------------------------------------------------------------------------
# Runs that began otherwise


@pytest.mark.slow
def test_a_new_run_begins_without_evaluations(files, tmp_path):
  train_evaluated(tmp_path, files, max_steps=6)
  train_evaluated(tmp_path, files, max_steps=1, start_new_model=True)
  assert list(evaluated(tmp_path)) == [0, 1]
  assert best(tmp_path)["step"] in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "part"),
  [
    ({"best_metric": "accuracy"}, "as --best_metric, received 'accuracy'"),
    ({"eval_data_pattern": "nowhere*"}, "--eval_data_pattern=nowhere*"),
  ],
)
def test_what_is_refused_is_so_before_anything_is_deleted(
  files, tmp_path, settings, part
):
  train_tiny(tmp_path, files[0], max_steps=1)
  before = sorted(path.name for path in tmp_path.iterdir())
  given = {"eval_data_pattern": files[1], "start_new_model": True, **settings}
  assert part in error_of(train_tiny, tmp_path, files[0], **given)
  assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_segments_are_evaluated_where_they_are_trained_on(
  tiny_segment_files, tmp_path
):
  files = tiny_segment_files[:1], tiny_segment_files[1]
  train_evaluated(
    tmp_path,
    files,
    model_flags=TINY_FRAME_FLAGS,
    segment_labels=True,
    max_steps=2,
  )
  names = {path.name for path in (tmp_path / "eval").glob("*.json")}
  assert names == {"segment-metrics-0.json", "segment-metrics-2.json"}
  assert best(tmp_path)["segment_labels"] is True


def test_the_program_says_what_it_does(files, tmp_path):
  log = in_process.run(
    "train",
    f"--train_dir={tmp_path}/run",
    f"--train_data_pattern={files[0][0]}",
    f"--eval_data_pattern={files[1]}",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--batch_size=5",
    "--max_steps=4",
    "--eval_steps=2",
    "--noxla",
  )
  found = re.findall(r" epoch/eval number (\d+) \| Avg_Hit@1: ", log)
  assert found == ["0", "2", "4"]
  assert re.search(r"The best checkpoint by gap: step \d, 0\.\d+\.\n", log)
  assert re.search(r" Best checkpoint: .*/best/model\.ckpt-\d\n", log)


@pytest.mark.slow
def test_killed_at_any_moment(data_dir, tmp_path, monkeypatch):
  """As tests/test_train.py does, with evaluations and an early end."""

  def command(train_dir):
    return (
      f"--train_dir={train_dir}",
      f"--train_data_pattern={data_dir}/video/train*.tfrecord",
      f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
      *VIDEO_DATA_FLAGS,
      "--batch_size=7",
      "--num_epochs=0",
      "--base_learning_rate=0.1",
      "--export_model_steps=10",
      "--eval_steps=4",
      "--early_stopping=12",
      "--keep_checkpoints=2",
    )

  killed, whole = tmp_path / "killed", tmp_path / "whole"
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  random = np.random.default_rng(12)
  steps = []
  for most_seconds in np.linspace(0.0, 1.8, 10):
    with Program(tmp_path / "log", "train.py", *command(killed)) as run:
      run.wait_for(lambda: "epoch/eval" in run.log or "training st" in run.log)
      time.sleep(random.uniform(0.0, most_seconds))
      run.send_signal(signal.SIGKILL)
      run.wait_for_end()
    steps.append(max(checkpoint_steps(killed), default=0))
    if (killed / "best.json").exists():  # it is whole
      path = best_checkpoint.find_checkpoint(str(killed), "best")
      assert checkpoint_values(path)
  run_program("train.py", *command(killed))
  log = run_program("train.py", *command(whole))
  assert "Stopping early" in log
  last_step = max(checkpoint_steps(whole))
  assert steps == sorted(steps)
  assert len({step for step in steps if 0 < step < last_step}) >= 3, steps
  name = f"model.ckpt-{last_step}"
  assert_same_state(killed / name, whole / name)
  assert evaluated(killed) == evaluated(whole)
  assert best(killed) == best(whole)
