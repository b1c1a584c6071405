"""Tests of engine.machine: what is said about the machine and the commit."""

import os
import platform
import subprocess

import numpy as np
import psutil
import pytest
import tensorflow as tf

import version
from engine import machine


def test_this_machine():
  found = machine.describe_machine()
  assert found["host"] == platform.node()
  assert found["system"] == platform.platform()
  assert 1 <= found["cores"] <= os.cpu_count()
  assert 0 < found["memory_bytes"] <= psutil.virtual_memory().total
  assert len(found["gpus"]) == len(tf.config.list_physical_devices("GPU"))
  with open("/proc/cpuinfo") as file:
    assert found["cpu"] in file.read()


def test_a_machine_in_words():
  found = {"host": "h", "system": "S", "cpu": "A", "cores": 2, "gpus": []}
  assert machine.machine_text({**found, "memory_bytes": 2**33}) == (
    "A, 2 cores, 8 GiB, no GPU, S"
  )
  of_two = {**found, "memory_bytes": None, "gpus": ["G", "H"]}
  assert machine.machine_text(of_two) == "A, 2 cores, G, H, S"


@pytest.mark.parametrize(
  ("limit", "cores"),
  [
    ("150000 100000\n", 2),  # one and a half
    ("200000 100000\n", 2),
    ("10000 100000\n", 1),
    ("900000 100000\n", 3),
    ("max 100000\n", 3),
    (None, 3),
  ],
)
def test_the_cores_of_a_container(tmp_path, monkeypatch, limit, cores):
  monkeypatch.setattr(machine, "_CGROUP", str(tmp_path))
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7})
  if limit:
    (tmp_path / "cpu.max").write_text(limit)
  assert machine.describe_machine()["cores"] == cores


@pytest.mark.parametrize(
  ("limit", "expected"), [("1048576\n", 1048576), ("max\n", None), (None, None)]
)
def test_the_memory_of_a_container(tmp_path, monkeypatch, limit, expected):
  monkeypatch.setattr(machine, "_CGROUP", str(tmp_path))
  if limit:
    (tmp_path / "memory.max").write_text(limit)
  whole = psutil.virtual_memory().total
  assert machine.describe_machine()["memory_bytes"] == (expected or whole)


def test_a_job_of_a_scheduler_has_limits_further_down(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, "_CGROUP", str(tmp_path / "cgroup"))
  monkeypatch.setattr(machine, "_PROC", str(tmp_path / "proc"))
  job = tmp_path / "cgroup" / "slurm" / "job_7"
  job.mkdir(parents=True)
  (tmp_path / "proc" / "self").mkdir(parents=True)
  (tmp_path / "proc" / "self" / "cgroup").write_text(
    "1:x:/y\n0::/slurm/job_7\n"
  )
  memory = tmp_path / "proc" / "meminfo"
  memory.write_text("MemTotal:    9000 kB\nMemAvailable:    5000 kB\n")
  assert machine.available_memory() == 5000 * 1024
  (job / "memory.max").write_text("max\n")
  (job / "memory.current").write_text("123\n")
  assert machine.available_memory() == 5000 * 1024
  (job.parent / "memory.max").write_text("3000000\n")
  (job.parent / "memory.current").write_text("2000000\n")
  assert machine.usable_memory() == 3000000
  assert machine.available_memory() == 1000000
  (job.parent / "memory.stat").write_text("anon 5\ninactive_file 70000\n")
  assert machine.available_memory() == 1070000
  memory.unlink()
  (job.parent / "memory.max").unlink()
  assert machine.available_memory() is None


def test_versions():
  found = machine.versions()
  assert found.keys() == {"python", "tensorflow", "keras", "numpy", "yt8m"}
  assert found["python"] == platform.python_version()
  assert found["numpy"] == np.__version__
  assert found["yt8m"] == version.__version__


# --------------------------------------------------------------------------
# The commit


def git(folder, *arguments) -> str:
  return subprocess.run(
    ["git", "-c", "user.name=A", "-c", "user.email=a@b.example", *arguments],
    cwd=folder,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A repository of one commit that takes the place of this one."""
  folder = tmp_path / "checkout"
  folder.mkdir()
  git(folder, "init", "-q")
  (folder / "train.py").write_text("1")
  git(folder, "add", "train.py")
  git(folder, "commit", "-q", "-m", "first")
  monkeypatch.setattr(machine, "_ROOT", str(folder))
  return folder


def test_the_commit_of_a_checkout(checkout):
  commit = git(checkout, "rev-parse", "HEAD")
  assert len(commit) == 40
  git(checkout, "tag", "-a", "v1", "-m", "v1")  # its name is not wanted
  (checkout / "notes.txt").write_text("not of the repository")
  assert machine.commit() == commit
  (checkout / "train.py").write_text("2")
  assert machine.commit() == f"{commit}-dirty"


def test_the_commit_of_another_worktree(checkout, tmp_path, monkeypatch):
  git(checkout, "worktree", "add", "-q", str(tmp_path / "other"))
  (tmp_path / "other" / "train.py").write_text("2")
  git(tmp_path / "other", "commit", "-q", "-a", "-m", "second")
  monkeypatch.setattr(machine, "_ROOT", str(tmp_path / "other"))
  assert machine.commit() == git(tmp_path / "other", "rev-parse", "HEAD")
  assert machine.commit() != git(checkout, "rev-parse", "HEAD")


def test_no_hook_runs(checkout, tmp_path):
  ran = tmp_path / "ran"
  hooks = checkout / ".git" / "hooks"
  hooks.mkdir(exist_ok=True)
  for name in ("post-index-change", "fsmonitor-watchman"):
    (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
    (hooks / name).chmod(0o755)
  git(checkout, "config", "core.fsmonitor", str(hooks / "fsmonitor-watchman"))
  git(checkout, "status")
  assert "fsmonitor-watchman" in ran.read_text()  # so that it could run below
  ran.unlink()
  (checkout / "train.py").write_text("1")  # of another time: the index changes
  assert machine.commit() == git(checkout, "rev-parse", "HEAD")
  assert not ran.exists()


def test_the_environment_of_a_hook_is_ignored(checkout, tmp_path, monkeypatch):
  commit = git(checkout, "rev-parse", "HEAD")
  monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
  monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
  assert machine.commit() == commit


def test_a_copy_inside_another_repository_has_no_commit(checkout, monkeypatch):
  (checkout / "copy").mkdir()
  monkeypatch.setattr(machine, "_ROOT", str(checkout / "copy"))
  assert machine.commit() is None


def test_a_repository_without_commits_has_none(checkout, tmp_path, monkeypatch):
  (tmp_path / "new").mkdir()
  git(tmp_path / "new", "init", "-q")
  monkeypatch.setattr(machine, "_ROOT", str(tmp_path / "new"))
  assert machine.commit() is None


def test_git_is_missing(checkout, monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert machine.commit() is None


def test_git_does_not_answer(checkout, monkeypatch, tmp_path):
  (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
  (tmp_path / "git").chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.setattr(machine, "_GIT_SECONDS", 0.2)
  assert machine.commit() is None
