"""Tests of engine.checkpoint_files: power cuts and disks that are full."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import PATIENCE_SECONDS, REPOSITORY, checkpoint_steps
from small_disks import file_limit

from engine import checkpoint_files, files, local_files, plain_errors

NAME = "model.ckpt"


def open_manager(folder, keep=1, size=1):
  state = tf.train.Checkpoint(weights=tf.Variable(tf.ones([size])))
  return tf.train.CheckpointManager(
    state, str(folder), max_to_keep=keep, checkpoint_name=NAME
  )


def test_a_checkpoint_is_flushed_before_an_older_one_is_deleted(
  tmp_path, monkeypatch
):
  manager = open_manager(tmp_path)
  checkpoint_files.save(manager, NAME, 1)
  seen = []

  def flush(path):
    state = (tmp_path / "checkpoint").read_text()
    seen.append((os.path.basename(path), checkpoint_steps(tmp_path), state))

  monkeypatch.setattr(local_files, "flush", flush)
  path = checkpoint_files.save(manager, NAME, 2)
  assert path == f"{tmp_path}/{NAME}-2"
  *of_checkpoint, folder, state, again = seen
  assert {name for name, _, _ in of_checkpoint} == {
    f"{NAME}-2.index",
    f"{NAME}-2.data-00000-of-00001",
  }
  for _, steps, named in (*of_checkpoint, folder):
    assert steps == {1, 2}
    assert f"{NAME}-2" not in named
  assert folder[0] == again[0] == tmp_path.name
  assert state[:2] == ("checkpoint", {2})
  assert f'"{NAME}-2"' in state[2]


def test_a_checkpoint_that_finds_no_room_leaves_the_older_one(tmp_path):
  manager = open_manager(tmp_path, size=100_000)
  checkpoint_files.save(manager, NAME, 1)
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(tf.errors.OpError) as caught, file_limit(100_000):
    checkpoint_files.save(manager, NAME, 2)
  assert sorted(os.listdir(tmp_path)) == before
  assert f"{tmp_path}/{NAME}-2" in plain_errors.in_plain_words(caught.value)
  path = tf.train.latest_checkpoint(str(tmp_path))
  weights = tf.train.load_checkpoint(path).get_tensor(
    "weights/.ATTRIBUTES/VARIABLE_VALUE"
  )
  assert weights.shape == (100_000,)
  assert np.all(weights == 1)
  checkpoint_files.save(manager, NAME, 2)
  assert checkpoint_steps(tmp_path) == {2}


# --------------------------------------------------------------------------
# What the system is asked for

PROGRAMS = """
import sys
import in_process
folder, files = sys.argv[1:]
of_model = [
  "--feature_names=mean_rgb,mean_audio", "--feature_sizes=4,3",
  "--num_classes=6",
]
data = f"={files}"
in_process.run(
  "train", f"--train_dir={folder}/model", f"--train_data_pattern{data}",
  f"--eval_data_pattern{data}", "--eval_steps=4", "--keep_checkpoints=1",
  "--export_model_steps=4", "--batch_size=5", "--num_epochs=2", "--xla=False",
  *of_model)
in_process.run(
  "inference", f"--train_dir={folder}/model", f"--input_data_pattern{data}",
  f"--output_file={folder}/predictions.csv",
  f"--output_model_tgz={folder}/model.tgz")
in_process.run(
  "export_model", f"--train_dir={folder}/model", "--format=keras",
  f"--output_dir={folder}/exported", f"--input_data_pattern{data}")
"""


def calls_in(trace, folder) -> list[tuple[str, str, str]]:
  """(call, path, new path) of what was done in a folder, in order."""
  found = []
  for line in trace.read_text(errors="replace").splitlines():
    flushed = re.search(r" f(?:data)?sync\(\d+<([^>]*)>", line)
    renamed = re.search(r" (rename|unlink)\w*\((.*)", line)
    if flushed:
      found.append(("flush", flushed[1], ""))
    elif renamed and " = -1" not in line:
      paths = re.findall(r'"([^"]*)"', renamed[2])
      found.append((renamed[1], *(*paths, "")[:2]))
  return [call for call in found if f"{call[1]}/".startswith(f"{folder}/")]


def test_what_could_not_be_written_to_its_end_is_removed(tmp_path, monkeypatch):
  manager = open_manager(tmp_path)
  checkpoint_files.save(manager, NAME, 1)
  before = sorted(os.listdir(tmp_path))

  def fail(path):
    raise OSError(5, "Input/output error", path)

  def fail_half_written(path):
    (tmp_path / f"{NAME}-2.index").write_bytes(b"")
    fail(path)

  monkeypatch.setattr(local_files, "flush", fail_half_written)
  with pytest.raises(OSError, match="Input/output"):
    checkpoint_files.save(manager, NAME, 2)
  assert sorted(os.listdir(tmp_path)) == before
  # What is whole stays.
  monkeypatch.setattr(local_files, "flush", fail)
  with pytest.raises(OSError, match="Input/output"):
    checkpoint_files.save(manager, NAME, 2)
  assert checkpoint_steps(tmp_path) == {1, 2}


@pytest.mark.slow
def test_all_that_is_renamed_is_on_the_disk(tiny_files, tmp_path):
  if shutil.which("strace") is None:
    pytest.skip("needs strace")
  folder = tmp_path / "out"
  trace = tmp_path / "trace"
  ended = subprocess.run(
    [
      *("strace", "-f", "-qq", "-y", "-s", "9999", "-o", str(trace)),
      *("-e", "trace=/^(rename|unlink).*,fsync,fdatasync"),
      *(sys.executable, "-c", PROGRAMS, str(folder), ",".join(tiny_files)),
    ],
    cwd=REPOSITORY,
    env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"},
    capture_output=True,
    text=True,
    timeout=PATIENCE_SECONDS,
    check=False,
  )
  if "Operation not permitted" in ended.stderr:
    pytest.skip("strace is not allowed here")
  assert ended.returncode == 0, ended.stderr
  calls = calls_in(trace, folder)
  flushes = [
    (at, path) for at, (call, path, _) in enumerate(calls) if call == "flush"
  ]

  def is_flushed(path, begin=0, end=None):
    return any(
      path == one and begin <= at < (len(calls) if end is None else end)
      for at, one in flushes
    )

  renamed = set()
  for at, (call, path, new) in enumerate(calls):
    if call == "unlink" and re.search(r"/model/model\.ckpt-\d+\.index$", path):
      # Of the checkpoints, the newest is on the disk by then.
      data = [
        new
        for _, _, new in calls[:at]
        if re.search(r"/model/model\.ckpt-\d+\.data", new)
      ]
      index = re.sub(r"\.data.*", ".index", data[-1])
      assert is_flushed(data[-1], end=at), path
      assert is_flushed(index, end=at), path
    if call != "rename" or "_temp/" in new:
      continue
    if re.fullmatch(rf"\.[^/]+\.tmp-{files.TOKEN}", os.path.basename(new)):
      continue  # to be deleted there
    renamed.add(os.path.basename(new))
    assert is_flushed(os.path.dirname(new), begin=at), new
    is_aside = re.search(rf"/\.[^/]+\.tmp-{files.TOKEN}/", new)
    if "_temp/" in path or "/checkpoint.tmp" in path or is_aside:
      # TensorFlow's; nothing relies on them before they are flushed.
      assert is_flushed(new, begin=at), new
    else:
      assert is_flushed(path, end=at), new
  assert {
    *("model_flags.json", "run.json", "checkpoint", "best.json"),
    *("evaluations.json", "predictions.csv", "model.tgz"),
  } <= renamed
  assert {name for name in renamed if name.startswith("model.ckpt-")}
  for events in folder.rglob("events.out.tfevents.*"):
    assert is_flushed(str(events)), events
