"""The best checkpoint of a run, and checkpoints by name: latest, best, a step.

best.json in a train_dir says which checkpoint is the best one, by which metric,
and on which files it was chosen. The checkpoint is in the folder best, where
training does not delete it. best.json is written after the new checkpoint is
there and before the old one is removed, so that it always names a whole one.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from absl import logging

import errors
from engine import train_dir as train_dirs
from engine.checkpoint_index import find_damage
from engine.checkpoints import (
  CHECKPOINT_NAME,
  DamagedCheckpointError,
  check_whole,
  checkpoint_path,
  checkpoint_step,
  checkpoints_by_step,
  files_of_checkpoint,
  require_checkpoint,
)
from engine.data_files import find_files, hash_of_files, is_local
from engine.files import (
  beside,
  check_number,
  names_in,
  put_in_place,
  read_json,
  write_json,
)
from engine.local_files import lock
from engine.model_flags import MODEL_FLAGS_FILE

LATEST = "latest"
BEST = "best"

# The metrics of which less is better.
_LOSSES = ("avg_loss",)
_CHECKPOINT = re.compile(
  rf"{train_dirs.BEST_DIR}/{re.escape(CHECKPOINT_NAME)}-(again-)?\d+"
)
_GONE_ERRORS = (FileNotFoundError, tf.errors.NotFoundError)


def is_better(metric: str, score: float, other: float) -> bool:
  """Whether a score of a metric is better than another one, not the same."""
  return score < other if metric in _LOSSES else score > other


# --------------------------------------------------------------------------
# Names


def run_of(folder: str) -> str:
  """The train_dir of checkpoints in a folder: it, or that whose best it is."""
  has_flags = tf.io.gfile.exists(os.path.join(folder, MODEL_FLAGS_FILE))
  if os.path.basename(folder) != train_dirs.BEST_DIR or has_flags:
    return folder
  return os.path.dirname(folder) or "."


def kept_checkpoints(train_dir: str) -> dict[int, str]:
  """The paths of all whole checkpoints of a run, by step, in order.

  The best one is among them, also if training has deleted it.
  """
  found = {}
  best = read_best(train_dir)
  if best and tf.io.gfile.exists(f"{best['checkpoint']}.index"):
    found[best["step"]] = best["checkpoint"]
  found |= checkpoints_by_step(train_dir)
  return dict(sorted(found.items()))


def find_checkpoint(train_dir: str, which: str) -> str:
  """Finds the checkpoint that --checkpoint names.

  Args:
    train_dir: folder of the run.
    which: "latest", "best" or the number of a step.

  Returns:
    Its path without its file endings.

  Raises:
    errors.UserError: there is none; lists those there are. Or it is damaged.
  """
  if which == LATEST:
    return require_checkpoint(train_dir)
  if which != BEST and not which.isdecimal():
    raise errors.UserError(
      "Expected latest, best or the number of a step as --checkpoint, received"
      f" {which!r}. Name one of these."
    )
  best = read_best(train_dir)
  if which != BEST:
    kept = kept_checkpoints(train_dir)
    if int(which) in kept:
      check_whole(kept[int(which)])
      return kept[int(which)]
    path, damage = checkpoint_path(train_dir, int(which)), ""
    if files_of_checkpoint(path):
      damage = f", which is damaged: {find_damage(path)}"
    listed = ", ".join(map(str, kept)) or "none"
    more = f"; the best one is {best['step']}" if best else ""
    raise errors.UserError(
      f"Expected the step of a checkpoint in --train_dir={train_dir} as"
      f" --checkpoint, received {which}{damage}. There are {listed}{more}."
      " Name one of these; train.py --keep_checkpoints=0 keeps all."
    )
  if best is None:
    raise errors.UserError(
      f"Expected a best checkpoint in --train_dir={train_dir}, found none,"
      " because none was scored. Score them (python eval.py --all_checkpoints"
      f" --train_dir={train_dir} ...) or name another --checkpoint."
    )
  if not tf.io.gfile.exists(f"{best['checkpoint']}.index"):
    raise errors.UserError(
      f"Expected the best checkpoint, {best['checkpoint']}, which"
      f" {train_dirs.BEST_FILE} names, found no such file. Name another"
      " --checkpoint, or choose the best one again with eval.py"
      " --all_checkpoints."
    )
  check_whole(best["checkpoint"])
  return best["checkpoint"]


# --------------------------------------------------------------------------
# The best one


def read_best(train_dir: str) -> dict | None:
  """Reads best.json.

  Returns:
    None if there is none; else "checkpoint", its path, without its file
    endings; "step"; "metric", by which it was chosen, and its "score";
    "pattern" of the files that it was chosen on; and what else the score
    depends on, see scoring.Evaluator.conditions.

  Raises:
    errors.UserError: it was written by something else.
  """
  best = read_json(
    os.path.join(train_dir, train_dirs.BEST_FILE),
    ("checkpoint", "step", "metric", "score", "files", "pattern"),
    "Delete it; eval.py --all_checkpoints chooses the best checkpoint again.",
    _check_content,
  )
  if best is None:
    return None
  return {**best, "checkpoint": os.path.join(train_dir, best["checkpoint"])}


def _check_content(best: dict) -> None:
  """Raises a TypeError or ValueError if best.json holds something else."""
  check_number(best["step"], int)
  check_number(best["score"])
  # It is in the run's folder; another path is not followed.
  if not _CHECKPOINT.fullmatch(best["checkpoint"]):
    raise ValueError
  if checkpoint_step(best["checkpoint"]) != best["step"]:
    raise ValueError
  for name in ("metric", "files", "pattern"):
    if not isinstance(best[name], str):
      raise TypeError


def drop_damaged(train_dir: str, step: int) -> None:
  """Forgets a best checkpoint that a run has not reached, if it is damaged.

  A run goes on from an older checkpoint if the newest one is damaged. The best
  one may be a link to the same files. Without it, the search starts again.

  Args:
    train_dir: folder of the run.
    step: that the run has reached.
  """
  best = read_best(train_dir)
  if best is None or best["step"] <= step:
    return
  try:
    check_whole(best["checkpoint"], with_data=True)
  except DamagedCheckpointError as error:
    logging.warning(
      "The search for the best checkpoint starts again, since that of step %d"
      " is damaged: %s.",
      best["step"],
      error.damage,
    )
    tf.io.gfile.remove(os.path.join(train_dir, train_dirs.BEST_FILE))


def warn_of_choice(train_dir: str, files: Sequence[str]) -> None:
  """Warns if the best checkpoint was chosen on some of the files to score on.

  Args:
    train_dir: folder of the run.
    files: their paths.
  """
  best = read_best(train_dir)
  if best is None:
    return
  sizes = [tf.io.gfile.stat(file).length for file in files]
  if best["files"] == hash_of_files(files, sizes):
    shared = len(files)
  else:
    try:
      chosen = find_files(best["pattern"], "eval_data_pattern")
    except errors.UserError:  # they are elsewhere now
      return
    scored = set(map(os.path.realpath, files))
    shared = len(scored.intersection(map(os.path.realpath, chosen)))
  if shared:
    logging.warning(
      "The best checkpoint in %s was chosen by %s on %d of the %d scored files"
      " themselves, so its score flatters. Score it on files that chose"
      " nothing.",
      train_dir,
      best["metric"],
      shared,
      len(files),
    )


def choose(
  train_dir: str,
  metric: str,
  scores: Mapping[str, float],
  conditions: dict,
  replaces_others: bool = True,
) -> None:
  """Keeps the best of some checkpoints, if it is better than the best so far.

  If it was deleted meanwhile, the next best one takes its place. Numbers that
  are not finite are left out.

  Args:
    train_dir: folder of the run.
    metric: by which to choose, see --best_metric.
    scores: of the checkpoints, by their paths without their file endings. Of
      equal ones, the first is the best.
    conditions: see consider.
    replaces_others: see consider.
  """
  finite = {
    path: value for path, value in scores.items() if math.isfinite(value)
  }
  best_first = sorted(
    finite.items(), key=lambda item: item[1], reverse=metric not in _LOSSES
  )
  for path, score in best_first:
    given = (train_dir, path, metric, score, conditions, replaces_others)
    if consider(*given) or tf.io.gfile.exists(f"{path}.index"):
      return


def consider(
  train_dir: str,
  checkpoint: str,
  metric: str,
  score: float,
  conditions: dict,
  replaces_others: bool = True,
) -> bool:
  """Keeps a checkpoint if it is better than the best one so far.

  Of equal ones, the first that was scored stays. A checkpoint that was deleted
  meanwhile is not kept.

  Args:
    train_dir: folder of the run.
    checkpoint: path without its file endings.
    metric: by which to choose, see --best_metric.
    score: of the checkpoint, a finite number.
    conditions: what the score depends on, see scoring.Evaluator.conditions.
    replaces_others: whether a best checkpoint that was chosen by another metric
      or under other conditions gives way. Where only one checkpoint is scored,
      it should not: this is no choice, and the other one may exist nowhere
      else.

  Returns:
    Whether it is the best one now.
  """
  folder = os.path.join(train_dir, train_dirs.BEST_DIR)
  tf.io.gfile.makedirs(folder)
  step = checkpoint_step(checkpoint)
  with _locked(folder):
    old = read_best(train_dir)
    if old and find_damage(old["checkpoint"]):
      old = None
    if old and not _gives_way(old, metric, score, conditions, replaces_others):
      # The one before it may be left by a start that was stopped.
      _remove_others(old["checkpoint"])
      return False
    try:
      path = _take(checkpoint, folder, old["checkpoint"] if old else "")
    except _GONE_ERRORS:
      logging.info(
        "Step %d has the best %s so far, %.6g, but its checkpoint was deleted"
        " while it was scored. Raise train.py's --keep_checkpoints.",
        step,
        metric,
        score,
      )
      return False
    content = {
      "checkpoint": f"{train_dirs.BEST_DIR}/{os.path.basename(path)}",
      "step": step,
      "metric": metric,
      "score": score,
      **conditions,
    }
    write_json(os.path.join(train_dir, train_dirs.BEST_FILE), content)
    _remove_others(path)
  logging.info("The best checkpoint by %s: step %d, %.6g.", metric, step, score)
  return True


def _gives_way(
  old: dict, metric: str, score: float, conditions: dict, to_others: bool
) -> bool:
  """Whether the best checkpoint so far is replaced; see consider."""
  of_choice = {
    name: value
    for name, value in old.items()
    if name not in ("checkpoint", "step", "score")
  }
  # The pattern may name the same files in another folder.
  wanted = {**conditions, "metric": metric, "pattern": old["pattern"]}
  if of_choice == wanted:
    return is_better(metric, score, old["score"])
  if to_others:
    message = (
      "The search for the best checkpoint starts again. That of step %d was"
      " chosen by %s on %s, by another metric, on other files or otherwise."
    )
  else:
    message = (
      "The best checkpoint stays that of step %d, chosen by %s on %s: by"
      " another metric, on other files or otherwise than now. eval.py"
      f" --all_checkpoints --best_metric={metric} chooses again."
    )
  logging.info(message, old["step"], old["metric"], old["pattern"])
  return to_others


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
  """Keeps other processes of this machine out of a folder, where it can."""
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # a remote folder has no descriptor
      descriptor = os.open(folder, os.O_RDONLY)
      stack.callback(os.close, descriptor)
      lock(descriptor)
    yield


def _files_of(checkpoint: str) -> list[str]:
  """The names of a checkpoint's files; the index, which completes it, is last.

  Raises:
    FileNotFoundError: some are missing.
  """
  folder, name = os.path.split(checkpoint)
  names = names_in(folder)
  of_data = re.compile(rf"{re.escape(name)}\.data-\d{{5}}-of-\d{{5}}")
  data = sorted(filter(of_data.fullmatch, names))
  # model.ckpt-40.data-00000-of-00001
  if not data or len(data) != int(data[0].rsplit("-", 1)[1]):
    raise FileNotFoundError(checkpoint)
  return [*data, f"{name}.index"]


def _content(path: str) -> bytes:
  with tf.io.gfile.GFile(path, "rb") as file:
    return file.read()


def _take(checkpoint: str, folder: str, old: str) -> str:
  """Puts a checkpoint into a folder, its data as links where this is possible.

  The index, which is small, is a copy: when a run saves a step again,
  TensorFlow writes it into the same file, and the data into another one.

  Args:
    checkpoint: path without its file endings.
    folder: of the best one.
    old: the best one so far, which must stay whole; empty for none.

  Returns:
    Its new path.

  Raises:
    FileNotFoundError, tf.errors.NotFoundError: it was deleted meanwhile.
  """
  names = _files_of(checkpoint)
  base = os.path.basename(checkpoint)
  path = os.path.join(folder, base)
  if path == old:
    # A run that has reached this step twice, or has been scored twice. The
    # index has checksums of all that a checkpoint holds.
    if _content(f"{checkpoint}.index") == _content(f"{old}.index"):
      return old
    step = checkpoint_step(checkpoint)
    path = os.path.join(folder, f"{CHECKPOINT_NAME}-again-{step}")
  for name in names:
    source = os.path.join(os.path.dirname(checkpoint), name)
    target = f"{path}{name.removeprefix(base)}"
    with beside(target) as aside:
      if name.endswith(".index") or not _link(source, aside):
        tf.io.gfile.copy(source, aside)
      put_in_place(aside, target)
  return path


def _link(source: str, target: str) -> bool:
  """Makes a hard link; returns False if the file system has none.

  Raises:
    FileNotFoundError: there is no such source.
  """
  if not is_local(source):
    return False
  try:
    os.link(source, target)
  except FileNotFoundError:
    raise
  except OSError:
    return False
  return True


def _remove_others(path: str) -> None:
  """Removes what else is in the folder of the best checkpoint.

  That is the one before, and what a process that was killed left over.
  """
  folder, kept = os.path.split(path)
  # An index first: without it what is left is no checkpoint.
  for name in sorted(names_in(folder), key=lambda one: ".index" not in one):
    is_of_checkpoint = name.lstrip(".").startswith(f"{CHECKPOINT_NAME}-")
    if is_of_checkpoint and not name.startswith(f"{kept}."):
      with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(os.path.join(folder, name))
