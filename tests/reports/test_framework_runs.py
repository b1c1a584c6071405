"""Tests of reports.framework_runs, with processes that compute nothing."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import error_of

from reports import framework_runs as runs
from reports.frameworks.jobs import Job

ABOUT = {"command": "python -m x", "machine": {"cores": 2}, "commit": "abc"}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
  monkeypatch.setattr(runs, "_WORKER", "tests.reports.fake_worker")


def make_job(folder, model="Works", **changes) -> Job:
  values = {
    "backend": "tensorflow",
    "model_flags": {"model": model, "frame_features": False},
    "files": [],
    "kinds": [],
    "seed": 0,
    "min_frames": 0,
    "window_shards": 1,
    "batch_size": 4,
    "num_frames": 0,
    "weights": "",
    "learning_rate": 0.1,
    "is_check": True,
    "max_steps": 5,
    "max_seconds": 0.0,
    "compiled": False,
    "num_processes": 1,
    "address": "",
    "results": "",
  }
  job = Job(**{**values, **changes})
  return runs.with_results(job, str(folder), "name", "data", "python")


def run(job):
  return runs.run_job(job, "name", sys.executable, ABOUT)


def test_results_are_kept(tmp_path):
  job = make_job(tmp_path)
  assert runs.kept_result(job) is None
  found = run(job)
  assert found.numbers["losses"] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
  assert found.numbers["command"] == "python -m x"
  assert found.numbers["began"].startswith("20")
  assert found.arrays["predictions"].shape == (2, 3)
  # The job, the log and the parts are gone.
  assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npz"]
  again = runs.kept_result(job)
  assert again
  assert again.numbers == found.numbers
  assert again.arrays.keys() == found.arrays.keys()


def test_deep_results_are_damaged(tmp_path):
  job = make_job(tmp_path)
  run(job)
  with open(f"{job.results}.json", "w") as file:
    file.write("[" * 100_000)
  assert runs.kept_result(job) is None


@pytest.mark.parametrize("ending", [".json", ".npz"])
@pytest.mark.parametrize("length", [0, 40])
def test_damaged_results_are_made_again(tmp_path, ending, length):
  job = make_job(tmp_path)
  found = run(job)
  path = f"{job.results}{ending}"
  os.truncate(path, length)
  assert runs.kept_result(job) is None
  assert run(job).numbers["losses"] == found.numbers["losses"]
  assert runs.kept_result(job)


@pytest.mark.parametrize(
  "changes",
  [
    {"seed": 1},
    {"backend": "jax"},
    {"learning_rate": 0.2},
    {"is_check": False},
    {"model_flags": {"model": "Works", "frame_features": True}},
    {"num_processes": 2},
    {"compiled": True},
  ],
)
def test_other_settings_have_other_results(tmp_path, changes):
  assert make_job(tmp_path).results != make_job(tmp_path, **changes).results


def test_where_weights_lie_does_not_matter_but_data_and_python_do(tmp_path):
  job = make_job(tmp_path)
  assert make_job(tmp_path, weights="x").results == job.results
  for data, python in (("b", "python"), ("data", "other/python")):
    other = runs.with_results(job, str(tmp_path), "name", data, python)
    assert other.results != job.results


def test_several_processes(tmp_path):
  found = run(make_job(tmp_path, num_processes=2))
  assert found.numbers["peak_memory_bytes"] == 2 * 2**30
  config = json.loads(found.numbers["tf_config"])
  assert config["task"] == {"type": "worker", "index": 0}
  assert len(set(config["cluster"]["worker"])) == 2
  jax = run(make_job(tmp_path, backend="jax", num_processes=2))
  assert jax.numbers["tf_config"] is None
  host, port = jax.numbers["address"].split(":")
  assert host == "127.0.0.1"
  assert 1024 < int(port) < 65536


def test_torchrun_starts_the_processes_of_pytorch(tmp_path):
  job = make_job(tmp_path, backend="torch", num_processes=2)
  ((command, environment),) = runs._commands(job, "python", "job")
  assert command == [
    *("python", "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node=2", "-m", "tests.reports.fake_worker", "job"),
  ]
  assert environment["KERAS_BACKEND"] == "torch"
  assert environment["OMP_NUM_THREADS"]


def test_what_a_process_says_is_the_error(tmp_path):
  text = error_of(run, make_job(tmp_path, model="Refuses"))
  assert text == "Expected this, received that."


def test_the_log_of_a_bug_stays(tmp_path):
  text = error_of(run, make_job(tmp_path, model="Fails"))
  assert text.startswith("Expected tensorflow to train Fails, but its process")
  (log,) = tmp_path.glob("*.log")
  assert str(log) in text
  assert "ValueError: a bug" in log.read_text()
  assert not list(tmp_path.glob("*.json"))


def test_the_other_processes_end_with_one_that_fails(tmp_path):
  began = time.monotonic()
  text = error_of(run, make_job(tmp_path, model="Hangs", num_processes=2))
  assert "a bug" in text
  assert time.monotonic() - began < 60


def test_the_pythons_of_this_environment():
  assert runs.find_pythons(["tensorflow"]) == {"tensorflow": sys.executable}


def test_a_missing_python_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
  text = error_of(runs.find_pythons, ["tensorflow", "torch"])
  assert f"{tmp_path}/.venv/torch/bin/python" in text
  assert "make .venv/torch/.installed" in text


def test_a_python_without_packages_is_named(tmp_path):
  python = tmp_path / "python"
  python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
  python.chmod(0o755)
  text = error_of(runs.find_pythons, ["jax"], [f"jax={python}"])
  assert f"as {python}, found that it lacks absl" in text


@pytest.mark.parametrize("typed", ["jax", "jax=", "other=/usr/bin/python"])
def test_wrong_pythons(typed):
  text = error_of(runs.find_pythons, ["tensorflow", "jax"], [typed])
  assert "--pythons" in text
  assert typed in text


def test_processes_that_run_are_ended():
  process = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"],
    start_new_session=True,
  )
  runs._stop([process])
  assert process.poll() not in (None, 0)


def test_a_job_does_not_get_this_process_s_cluster(tmp_path, monkeypatch):
  monkeypatch.setenv("TF_CONFIG", "{}")
  assert "TF_CONFIG" not in runs._environment(make_job(tmp_path))
  assert os.environ["TF_CONFIG"] == "{}"
  assert dataclasses.asdict(make_job(tmp_path))["address"] == ""
