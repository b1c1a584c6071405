"""Tests of reports.frameworks.worker."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from jobs_for_tests import (
  first_batches,
  make_frame_job,
  make_job,
  plain_gradients,
  plain_losses,
  write_plain_weights,
)

import models
from reports.frameworks import batches, recipe, worker
from reports.frameworks.jobs import BEGAN, PARENT


@pytest.fixture(autouse=True)
def _started(monkeypatch):
  """As framework_runs starts a worker."""
  monkeypatch.setenv(BEGAN, str(time.time()))
  monkeypatch.setenv(PARENT, str(os.getpid()))


def results(job) -> dict:
  with open(f"{job.results}-0.json") as file:
    return json.load(file)


def test_a_check(tiny_files, tmp_path):
  job = make_job(tmp_path, tiny_files)
  weights = write_plain_weights(job)
  worker.run(job, 0)
  of_steps = first_batches(job, 8)
  numbers = results(job)
  np.testing.assert_allclose(
    numbers["losses"], plain_losses(weights, of_steps), rtol=1e-5
  )
  crc = 0
  for batch in of_steps:
    crc = batches.checksum(batch, crc)
  assert numbers["checksum"] == crc
  assert len(numbers["step_seconds"]) == 8
  assert numbers["start_seconds"] > numbers["step_seconds"][0] > 0
  assert numbers["versions"].keys() == {
    *("python", "tensorflow", "keras", "numpy")
  }
  _, predictions, slopes = plain_gradients(weights, of_steps[0])
  with np.load(f"{job.results}.npz") as arrays:
    np.testing.assert_allclose(arrays["predictions"], predictions, atol=1e-6)
    np.testing.assert_allclose(arrays["gradient_1"], slopes[1], atol=1e-6)
    np.testing.assert_allclose(
      arrays["norms"], [np.linalg.norm(one) for one in slopes], rtol=1e-5
    )


def test_measured_steps_end_in_time(tiny_files, tmp_path):
  job = make_job(
    tmp_path, tiny_files, is_check=False, max_steps=10**6, max_seconds=0.2
  )
  write_plain_weights(job)
  worker.run(job, 0)
  seconds = results(job)["step_seconds"]
  assert sum(seconds[1:-1]) < 0.2 <= sum(seconds[1:])
  assert not os.path.exists(f"{job.results}.npz")


def test_random_numbers_are_refused(
  tiny_frame_files, tmp_path, monkeypatch, capsys
):
  job = make_frame_job(tmp_path, tiny_frame_files)
  job = dataclasses.replace(
    job,
    model_flags={
      **job.model_flags,
      "model": "DbofModel",
      "dbof_cluster_size": 4,
      "dbof_hidden_size": 3,
      "iterations": 2,
    },
  )
  recipe.write_weights(models.build_model(job.model_flags), job.weights)
  job.write(f"{tmp_path}/job")
  # Its thread would go on in later tests.
  monkeypatch.setattr(worker, "end_with", lambda parent: None)
  with pytest.raises(SystemExit) as caught:
    worker.main([f"{tmp_path}/job", "0"])
  assert caught.value.code == 2
  said = capsys.readouterr().err
  assert said.startswith("ERROR: Expected a model that draws no")
  assert "DbofModel" in said
  assert not list(tmp_path.glob("results*"))


def test_a_worker_ends_with_its_parent_whatever_it_does():
  sleep = "import time; time.sleep(600)"
  parent = subprocess.Popen([sys.executable, "-c", sleep])
  code = (
    "from reports.frameworks import worker;"
    f"worker.end_with({parent.pid}); print('watches', flush=True); {sleep}"
  )
  child = subprocess.Popen(
    [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE
  )
  try:
    assert child.stdout is not None
    assert child.stdout.readline() == b"watches\n"
    with pytest.raises(subprocess.TimeoutExpired):
      child.wait(3 * worker._WATCH_SECONDS)
    parent.kill()
    parent.wait()
    assert child.wait(60) == 1
  finally:
    parent.kill()
    child.kill()


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity"), reason="the system has no affinity"
)
def test_processes_share_the_machine():
  code = (
    "import os; from reports.frameworks import worker;"
    "all = sorted(os.sched_getaffinity(0));"
    "worker.take_share({}, 2);"
    "print(len(all), *sorted(os.sched_getaffinity(0)));"
    "print(os.environ['CUDA_VISIBLE_DEVICES'])"
  )
  shares = []
  for process, gpu in ((0, "5"), (1, "7")):
    done = subprocess.run(
      [sys.executable, "-c", code.format(process)],
      cwd=REPOSITORY,
      env={**os.environ, "CUDA_VISIBLE_DEVICES": "5,7"},
      capture_output=True,
      text=True,
      check=True,
    )
    first, visible = done.stdout.splitlines()
    number, *cores = first.split()
    assert len(cores) == max(int(number) // 2, 1)
    assert visible == gpu
    shares.append(set(cores))
  assert int(number) == 1 or not shares[0] & shares[1]
