"""Tests of what a long training keeps: memory, Python objects, open files.

python -m benchmarks.long_run measures it for longer, and draws it.
"""

import gc
import os

import pytest
from tiny_runs import train_tiny

from benchmarks.memory import memory_mib, open_files
from engine import loop

# Python keeps what it has compiled of each checkpoint's name, two objects a
# name: TensorFlow looks for the files of each by a pattern.
_OBJECTS_A_SAVE = 2


@pytest.mark.slow
def test_many_saves_keep_nothing(tiny_files, tmp_path, monkeypatch):
  """Two hundred checkpoints with their events, records and SavedModels."""
  save_if_due = loop.Saver.save_if_due
  found = []

  def save(self, step, *arguments):
    ended = save_if_due(self, step, *arguments)
    if step in (600, 2000):
      self._exporter._pending.result()
      self._reporter.wait()
      gc.collect()
      process = os.getpid()
      found.append(
        (len(gc.get_objects()), open_files(process), memory_mib(process))
      )
    return ended

  monkeypatch.setattr(loop.Saver, "save_if_due", save)
  train_tiny(
    tmp_path, tiny_files, num_epochs=0, max_steps=2010, export_model_steps=10
  )
  (objects, files, memory), (more_objects, more_files, more_memory) = found
  assert more_files == files
  assert more_objects - objects < 140 * _OBJECTS_A_SAVE + 200
  assert more_memory - memory < 12
