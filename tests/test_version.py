"""Tests of the version in checkpoints and SavedModels."""

import pytest
import tensorflow as tf
from conftest import assert_same_state, checkpoint_values
from tiny_runs import train_tiny

from engine import run
from engine.checkpoints import Checkpoints
from version import __version__

KEY = "version/.ATTRIBUTES/VARIABLE_VALUE"


def test_checkpoints_and_exports_carry_the_version(tiny_files, tmp_path):
  train_tiny(tmp_path, tiny_files, max_steps=1)
  assert checkpoint_values(tmp_path)[KEY] == __version__.encode()
  served = tf.saved_model.load(str(tmp_path / "export" / "step_1"))
  assert served.version.numpy() == __version__.encode()


def test_a_continued_run_has_the_version_that_continued_it(
  tiny_files, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    patch.setattr(run, "__version__", "0.9.0")
    train_tiny(tmp_path, tiny_files, max_steps=1)
  assert checkpoint_values(tmp_path)[KEY] == b"0.9.0"
  train_tiny(tmp_path, tiny_files, max_steps=2)
  assert checkpoint_values(tmp_path)[KEY] == __version__.encode()


class OldCheckpoints(Checkpoints):
  """Checkpoints of version 0, without its version and the schedule's end."""

  def __init__(self, *arguments, version, schedule_examples, **state):
    del version, schedule_examples
    super().__init__(*arguments, **state)


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}])
def test_a_run_of_version_0_continues(
  tiny_files, tmp_path, monkeypatch, settings
):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  train_tiny(whole, tiny_files, **settings, max_steps=4)
  with monkeypatch.context() as patch:
    patch.setattr(run, "Checkpoints", OldCheckpoints)
    train_tiny(parts, tiny_files, **settings, max_steps=2)
  assert KEY not in checkpoint_values(parts)
  train_tiny(parts, tiny_files, **settings, max_steps=4)
  assert_same_state(whole, parts)
