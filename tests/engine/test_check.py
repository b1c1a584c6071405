"""Tests of check: what train.py --check says, and that it changes nothing."""

import collections
import os
import re
import shutil
import threading

import in_process
import pytest
from conftest import VIDEO_DATA_FLAGS, assert_names, folder_content

import train
from engine import check, machine, resources, train_dir_lock


def flags_of(data_dir, folder, *more) -> tuple[str, ...]:
  return (
    f"--train_dir={folder}",
    f"--train_data_pattern={data_dir}/video/train*.tfrecord",
    *VIDEO_DATA_FLAGS,
    "--batch_size=10",
    *more,
  )


def table(log) -> dict[str, str]:
  """The result of a check, from the log of train.py."""
  found = re.findall(r"^([a-zA-Z ]+?)  +(\S.*)$", log, re.MULTILINE)
  return dict(found)


def checked(data_dir, folder, *more) -> dict[str, str]:
  """What --check shows; it must leave the folder as it is."""
  existed = folder.exists()
  before = folder_content(folder)
  log = in_process.run("train", *flags_of(data_dir, folder, "--check", *more))
  assert folder.exists() == existed
  assert folder_content(folder) == before
  assert "training step" not in log
  return table(log)


def refused(data_dir, folder, *more) -> str:
  """The error of --check; it must leave the folder as it is."""
  existed = folder.exists()
  before = folder_content(folder)
  line = in_process.run_into_error(
    "train", *flags_of(data_dir, folder, "--check", *more)
  )
  assert folder.exists() == existed
  assert folder_content(folder) == before
  return line


def bytes_of(text) -> float:
  number, unit = re.match(r"([\d.]+) ([kMG])B", text).groups()
  return float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit]


def test_a_new_run(video_run, data_dir, tmp_path):
  found = checked(data_dir, tmp_path / "model", "--num_epochs=4")
  assert list(found) == [
    "model",
    "videos",
    "batch",
    "steps",
    "epochs",
    "checkpoints",
    "disk",
    "memory",
  ]
  # 40 classes of 1152 features.
  assert found["model"] == "LogisticModel, 46,120 parameters"
  assert re.match(r"about 6\d in 3 files|about 5\d in 3 files", found["videos"])
  assert found["batch"] == "10 videos in a step, on 1 device"
  assert found["steps"] in ("23", "24", "25")
  assert found["epochs"] == "4"
  # Of a real run with the same model and optimizer.
  files = video_run[0].glob("model.ckpt-24.*")
  real = sum(path.stat().st_size for path in files)
  assert bytes_of(found["checkpoints"]) == pytest.approx(real, rel=0.05)
  assert_names(found["checkpoints"], "the newest 5 are kept", "1,000 steps")
  # Six checkpoints of three numbers a parameter, two SavedModels of one.
  needed = bytes_of(found["disk"])
  assert needed == pytest.approx((6 * 3 + 2) * 4 * 46120, rel=0.01)
  peak = resources.peak_memory()
  assert bytes_of(found["memory"]) == pytest.approx(peak, rel=0.05)


def test_a_run_that_goes_on_and_one_that_has_ended(
  video_run, data_dir, tmp_path
):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  found = checked(data_dir, copy, "--num_epochs=0", "--max_steps=30")
  assert found["steps"] == "30, 24 are done"
  assert "memory" in found
  found = checked(data_dir, copy, "--num_epochs=4")
  assert found["end"] == "after step 24: there is nothing left to do"
  found = checked(data_dir, copy, "--num_epochs=0", "--start_new_model")
  assert found["steps"] == found["epochs"] == "no end"


def test_several_machines(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv(
    "TF_CONFIG",
    '{"cluster": {"worker": ["a:1", "b:2", "c:3"]},'
    ' "task": {"type": "worker", "index": 1}}',
  )
  found = checked(data_dir, tmp_path / "model", "--max_steps=7")
  assert found["batch"] == "30 videos in a step, on 3 devices"
  assert found["steps"] == "7"


@pytest.mark.parametrize(
  ("flag", "part"),
  [
    ("--feature_sizes=1024,127", "expected 127 numbers"),
    ("--optimizer=NoSuchOptimizer", "'NoSuchOptimizer'"),
    ("--train_data_pattern=/no/such/file*", "/no/such/file*"),
    ("--init_checkpoint=/no/such/run", "/no/such/run"),
    ("--eval_data_pattern=/no/such/file*", "--eval_data_pattern"),
    ("--profile_steps=5,4", "--profile_steps=FIRST,LAST"),
    ("--learning_rate_schedule=cosine", "a run with an end"),
    ("--teacher=/no/such/file", "/no/such/file"),
    ("--train_dir=/proc/version/run", "can be written to"),
  ],
)
def test_what_training_refuses(data_dir, tmp_path, flag, part):
  line = refused(data_dir, tmp_path / "model", "--num_epochs=0", flag)
  assert part in line


def test_a_locked_folder_and_other_flags(video_run, data_dir, tmp_path):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  with train_dir_lock.hold(str(copy)):
    assert "is being trained in by" in refused(data_dir, copy)
  line = refused(data_dir, copy, "--model=MoeModel")
  assert "--model was 'LogisticModel'" in line
  for index in copy.glob("model.ckpt-*.index"):
    index.write_bytes(index.read_bytes()[:40])
  assert "Expected a whole checkpoint" in refused(data_dir, copy)


def test_a_disk_that_is_too_small(data_dir, tmp_path, monkeypatch):
  usage = collections.namedtuple("usage", "free")
  monkeypatch.setattr(check.shutil, "disk_usage", lambda _: usage(2_000_000))
  monkeypatch.setattr(check, "_check_memory", lambda _: {})
  line = refused(data_dir, tmp_path / "model")
  assert_names(line, "3.69 MB of free space", "553 kB each", "found 2 MB")
  checked(data_dir, tmp_path / "model", "--keep_checkpoints=1")
  # Of all checkpoints, as many as are saved are counted.
  keep_all = ("--keep_checkpoints=0", "--num_epochs=4")
  checked(data_dir, tmp_path / "model", *keep_all)
  more = (*keep_all, "--export_model_steps=1")
  assert "MB of free space" in refused(data_dir, tmp_path / "model", *more)


def test_training_warns_of_a_disk_that_is_too_small(
  data_dir, tmp_path, monkeypatch
):
  usage = collections.namedtuple("usage", "free")
  monkeypatch.setattr(check.shutil, "disk_usage", lambda _: usage(2_000_000))
  given = flags_of(data_dir, tmp_path / "model", "--max_steps=1")
  assert "are free" not in in_process.run(
    "train", *given, "--keep_checkpoints=1"
  )
  log = in_process.run("train", *given, "--start_new_model")
  assert_names(
    log,
    "The checkpoints, of 553 kB each, and SavedModels may take 3.69 MB more in"
    f" --train_dir={tmp_path}/model, where 2 MB are free. Lower",
  )
  assert log.index("are free") < log.index("training step 1")


def test_files_that_are_replaced_need_no_space(video_run, data_dir, tmp_path):
  copy = shutil.copytree(video_run[0], tmp_path / "model")
  new = bytes_of(checked(data_dir, tmp_path / "new", "--max_steps=30")["disk"])
  old = bytes_of(checked(data_dir, copy, "--max_steps=30")["disk"])
  kept = sum(
    path.stat().st_size
    for pattern in ("model.ckpt-*", "export/**/*")
    for path in copy.glob(pattern)
    if path.is_file()
  )
  assert old == pytest.approx(new - kept, rel=0.01)


# --------------------------------------------------------------------------
# Memory


def test_a_step_that_cannot_fit_is_not_tried(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(machine, "available_memory", lambda: 100_000)
  monkeypatch.setattr(check, "prepare", None)
  line = refused(data_dir, tmp_path / "model")
  assert_names(line, "enough memory for a step, which needs at least")
  assert_names(line, "100 kB are free now", "Lower --batch_size")


def test_a_step_that_needs_more_than_the_machine_has(
  data_dir, tmp_path, monkeypatch
):
  """As on a machine that swaps: the step was possible."""
  monkeypatch.setattr(check, "_try_step", lambda opened: None)
  monkeypatch.setattr(machine, "usable_memory", lambda: 1_000_000)
  line = refused(data_dir, tmp_path / "model")
  assert_names(line, "this machine has 1 MB")


def test_a_step_that_takes_too_much_is_ended(monkeypatch):
  ended = threading.Event()
  lines = []

  def end(line):
    lines.append(line)
    ended.set()

  monkeypatch.setattr(check, "_end_process", end)
  monkeypatch.setattr(machine, "available_memory", lambda: 200_000_000)
  monkeypatch.setattr(machine, "usable_memory", lambda: 4_000_000_000)
  with check._within_memory():
    assert not ended.wait(0.2)
    taken = bytearray(os.urandom(1)) * 300_000_000
    assert ended.wait(20)
  del taken
  (line,) = lines
  assert_names(line, "for a step, which needs more than", "has 4 GB")


def test_copies_count(data_dir, tmp_path, monkeypatch):
  """The exported model is one, and that of evaluations another."""
  peak = 2_000_000_000
  monkeypatch.setattr(check, "_try_step", lambda opened: None)
  monkeypatch.setattr(check.resources, "peak_memory", lambda: peak)
  monkeypatch.setattr(machine, "usable_memory", lambda: peak + 4 * 46120 + 1)
  checked(data_dir, tmp_path / "model")
  pattern = f"{data_dir}/video/train0000.tfrecord"
  line = refused(data_dir, tmp_path / "model", f"--eval_data_pattern={pattern}")
  assert "enough memory" in line


def test_the_flag_is_off_by_default(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(train.check, "check", None)
  in_process.run(
    "train", *flags_of(data_dir, tmp_path / "model", "--max_steps=1")
  )
