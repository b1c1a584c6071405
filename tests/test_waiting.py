"""Tests of what programs log when they wait or are busy for a while."""

import re
import types

import in_process
import pytest
from tiny_runs import train_tiny

import eval as eval_program


def test_waiting_for_the_first_checkpoint(
  tiny_files, tmp_path, monkeypatch, shown
):
  naps, index = [], tmp_path / "model.ckpt-1.index"

  def sleep(seconds):
    naps.append(seconds)
    if len(naps) == 2:  # it is being written
      index.touch()
    if len(naps) == 3:
      index.unlink()
      train_tiny(tmp_path, tiny_files, max_steps=1)

  # Not in the module, where subprocess sleeps too.
  monkeypatch.setattr(eval_program, "time", types.SimpleNamespace(sleep=sleep))
  eval_program.wait_for_checkpoint(str(tmp_path), run_once=False)
  assert len(naps) == 3
  assert shown[0] == (
    f"Waiting for train.py to save the first checkpoint in {tmp_path}. Ctrl-C"
    " ends this program."
  )
  assert not [line for line in shown[1:] if "Waiting" in line]


@pytest.mark.slow
def test_waiting_for_further_checkpoints(
  tiny_files, tmp_path, monkeypatch, shown
):
  steps = iter([2, 3])

  def sleep(seconds):
    del seconds
    step = next(steps, None)
    if step is None:
      raise KeyboardInterrupt
    train_tiny(tmp_path, tiny_files, max_steps=step)

  train_tiny(tmp_path, tiny_files, max_steps=1)
  shown.clear()
  # Not in the module, where subprocess sleeps too.
  monkeypatch.setattr(eval_program, "time", types.SimpleNamespace(sleep=sleep))
  with pytest.raises(KeyboardInterrupt):
    eval_program.evaluate(str(tmp_path), tiny_files, run_once=False)
  scored = [
    int(found[1])
    for line in shown
    if (found := re.match(r"epoch/eval number (\d+) ", line))
  ]
  assert scored == [1, 2, 3]
  waiting = [line for line in shown if line.startswith("Waiting")]
  assert waiting == [
    f"Waiting for train.py to save the next checkpoint in {tmp_path}. Ctrl-C"
    " ends this program; --run_once scores one checkpoint."
  ]
  # Only after the first scores.
  assert shown.index(waiting[0]) > shown.index(
    next(line for line in shown if line.startswith("epoch/eval number 1 "))
  )


def test_no_waiting_with_run_once(tiny_files, tmp_path, shown):
  train_tiny(tmp_path, tiny_files, max_steps=1)
  eval_program.evaluate(str(tmp_path), tiny_files, run_once=True)
  assert not [line for line in shown if "Waiting" in line]


def test_the_end_of_training_says_what_it_does(tiny_files, tmp_path):
  log = in_process.run(
    "train",
    f"--train_data_pattern={','.join(tiny_files)}",
    f"--train_dir={tmp_path}/run",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=4,3",
    "--num_classes=6",
    "--batch_size=5",
    "--max_steps=3",
    "--noxla",
  )
  lines = log.splitlines()

  def place(text):
    (number,) = [n for n, line in enumerate(lines) if text in line]
    return number

  saving = place("Saving")
  assert re.fullmatch(
    r"I\d{4} \d\d:\d\d:\d\d Saving step 3 and exporting the model\.",
    lines[saving],
  )
  (last_step,) = [
    n for n, line in enumerate(lines) if "training step 3" in line
  ]
  (done,) = [n for n, line in enumerate(lines) if "Done at step 3" in line]
  assert last_step < saving < done
