"""Evaluates a run while it trains, and stops it when it gains no more.

A run is evaluated every so many steps, at step 0 and at its end, always as a
checkpoint that was saved before. The scores are kept in evaluations.json, which
only training writes: what is decided does not depend on other files that
eval.py has scored meanwhile. A run that is stopped and resumed decides as one
that is not, from the evaluations of the same steps.
"""

import math
import os
from collections.abc import Callable, Sequence

from absl import logging

from engine import best_checkpoint, scoring
from engine import train_dir as train_dirs
from engine.checkpoints import (
  DamagedCheckpointError,
  checkpoint_path,
  latest_checkpoint,
)
from engine.files import check_number, read_json, write_json
from engine.run import Run


def evaluations_without_gain(metric: str, scores: Sequence[float]) -> int:
  """How many evaluations there are after the best one.

  Args:
    metric: see --best_metric.
    scores: in the order of the steps. Of equal ones, the first is the best.
  """
  best = 0
  for place, score in enumerate(scores):
    if best_checkpoint.is_better(metric, score, scores[best]):
      best = place
  return max(len(scores) - 1 - best, 0)


class Validation:
  """The evaluations of a run while it trains.

  All machines of a run have one; the chief evaluates.

  Args:
    run: restored or begun.
    evaluator: of the run.
  """

  def __init__(self, run: Run, evaluator: scoring.Evaluator):
    self._run = run
    self._evaluator = evaluator
    self._every = run.settings.steps_between_evaluations
    self._path = os.path.join(run.train_dir, train_dirs.EVALUATIONS_FILE)
    self._scores: dict[int, dict] = {}  # of each step; only the chief knows it

  def is_due(self, step: int, ended: bool) -> bool:
    """Whether the run is evaluated after a step.

    Args:
      step: steps so far.
      ended: whether the data or the steps have ended.
    """
    return ended or step % self._every == 0

  def steps_to_next(self, step: int) -> int:
    """How many steps there are until the next evaluation."""
    return self._every - step % self._every

  def catch_up(self) -> bool:
    """Makes up for evaluations of kept checkpoints, before the first step.

    That of step 0 is one of them. Others are missing if the run was stopped
    before they were done, or if it began without evaluations.

    Returns:
      Whether the run has been stopped for lack of gain.
    """
    run = self._run
    is_new = latest_checkpoint(run.train_dir) is None
    # All machines look before the first one saves.
    (is_new,) = run.placement.most([float(is_new)])
    if is_new:
      run.save()
    return self._let_chief(self._make_up)

  def evaluate(self, is_stopped: Callable[[], bool]) -> bool:
    """Evaluates the run's last checkpoint, of its current step.

    Args:
      is_stopped: whether this machine was told to stop. Then the evaluation is
        broken off; the next start of the run makes up for it.

    Returns:
      Whether the run ends here, on all machines: for lack of gain, or because
      one was told to stop.
    """
    path = checkpoint_path(self._run.train_dir, self._run.step)

    def work():
      self._score(path, is_stopped)
      self._choose()

    return self._let_chief(work, is_stopped)

  def _let_chief(self, work, is_stopped=scoring.never) -> bool:
    run = self._run
    with run.placement.naming_lost_machine(run.step):
      run.placement.let_chief_work(work)
      (ends,) = run.placement.most([float(self._lacks_gain() or is_stopped())])
    return ends > 0

  def _make_up(self) -> None:
    """Reads what is known, and evaluates what is missing."""
    run, evaluator = self._run, self._evaluator
    self._read(evaluator.conditions)
    kept = best_checkpoint.kept_checkpoints(run.train_dir)
    missing = [
      step
      for step in kept
      if step not in self._scores
      and step <= run.step
      and self.is_due(step, run.has_ended() and step == run.step)
    ]
    if missing and run.step:
      logging.info("Not evaluated yet: step %s.", ", ".join(map(str, missing)))
    for step in missing:
      scores = evaluator.recorded(kept[step])
      if scores is not None:
        self._note(step, scores)
        continue
      try:
        self._score(kept[step], scoring.never)
      except DamagedCheckpointError as error:
        logging.warning("Not evaluated: %s.", error.damage)
    self._choose()
    if not run.has_ended():
      evaluator.build()

  def _read(self, conditions: dict) -> None:
    """Reads the evaluations up to this step, if they were of the same files."""
    content = read_json(
      self._path,
      ("conditions", "evaluations"),
      "Delete it; training then evaluates the kept checkpoints again.",
      lambda content: (
        content["conditions"].keys(),
        [
          (
            check_number(scores["global_step"], int),
            *map(check_number, scores.values()),
          )
          for scores in content["evaluations"]
        ],
      ),
    )
    if content is None:
      return
    noted = {**content["conditions"], "pattern": conditions["pattern"]}
    if noted != conditions:
      logging.info(
        "The files of --eval_data_pattern or what is scored of them changed:"
        " evaluations count from here."
      )
      return
    for scores in content["evaluations"]:
      if scores["global_step"] <= self._run.step:
        self._scores[scores["global_step"]] = scores

  def _score(self, checkpoint: str, is_stopped) -> None:
    """Evaluates a checkpoint, and notes its scores, unless told to stop."""
    try:
      scores = self._evaluator.evaluate(checkpoint, is_stopped)
    except scoring.StoppedError:
      logging.info(
        "The evaluation was broken off; the next start makes up for it."
      )
      return
    self._run.lock.verify()  # this may have taken long
    self._note(scores["global_step"], scores)

  def _note(self, step: int, scores: dict) -> None:
    """Writes the evaluations so far."""
    self._scores[step] = {
      name: score for name, score in scores.items() if math.isfinite(score)
    }
    content = {
      "conditions": self._evaluator.conditions,
      "evaluations": [self._scores[step] for step in sorted(self._scores)],
    }
    write_json(self._path, content)

  def _choose(self) -> None:
    """Keeps the best checkpoint.

    Looks at all that are kept, not only at a new one: --best_metric may be
    another one than in the last start, and eval.py may have chosen otherwise.
    """
    kept = best_checkpoint.kept_checkpoints(self._run.train_dir)
    self._evaluator.choose(
      {
        path: self._scores[step]
        for step, path in kept.items()
        if step in self._scores
      }
    )

  def _lacks_gain(self) -> bool:
    """Whether the run is to stop after its current step; asked of the chief.

    Evaluations at the end of an earlier start, which had fewer steps, do not
    count: a run that is made longer decides as one that was as long from the
    beginning.
    """
    settings = self._run.settings
    if not settings.early_stopping:
      return False
    metric = settings.best_metric
    by_step = {
      step: scores[metric]
      for step, scores in sorted(self._scores.items())
      if step % self._every == 0 and metric in scores
    }
    without_gain = evaluations_without_gain(metric, list(by_step.values()))
    if without_gain < settings.early_stopping:
      return False
    best = list(by_step)[-1 - without_gain]
    logging.info(
      "Stopping early: no gain of %s in %d evaluations. The best of the regular"
      " ones is that of step %d, %.6g.",
      metric,
      without_gain,
      best,
      by_step[best],
    )
    return True
