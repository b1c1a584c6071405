"""Jobs on tiny files, and what a logistic model must learn, in NumPy."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from tiny_runs import TINY_FLAGS, TINY_FRAME_FLAGS

from reports.frameworks.jobs import BEGAN, PARENT, Job

RATE = 0.05


def make_job(folder, files, **changes) -> Job:
  """A check of a LogisticModel on video-level records.

  Args:
    folder: for weights and results.
    files: of tiny_runs.
    **changes: other values of a Job.
  """
  values = {
    "backend": "tensorflow",
    "model_flags": {**TINY_FLAGS, "l2_penalty": 0.01},
    "files": list(map(str, files)),
    "kinds": [],
    "seed": 3,
    "min_frames": 0,
    "window_shards": 2,
    "batch_size": 6,
    "num_frames": 0,
    "weights": f"{folder}/weights.npz",
    "learning_rate": RATE,
    "is_check": True,
    "max_steps": 8,
    "max_seconds": 0.0,
    "compiled": False,
    "num_processes": 1,
    "address": "",
    "results": f"{folder}/results",
  }
  return Job(**{**values, **changes})


def make_frame_job(folder, files, **changes) -> Job:
  """As make_job, for a FrameLevelLogisticModel on frame-level records."""
  values = {
    "model_flags": TINY_FRAME_FLAGS,
    "kinds": ["bytes", "bytes"],
    "min_frames": 1,
    "num_frames": 14,
  }
  return make_job(folder, files, **{**values, **changes})


def plain_gradients(weights, batch, l2_penalty=0.01):
  """LogisticModel's loss, predictions and gradients, in float64.

  The loss of a video is -sum_c log(p_c + e) for a label, else
  -sum_c log(1 - p_c + e), e = 1e-5; that of the model has half the squares of
  the kernel too.
  """
  kernel, bias = (value.astype(np.float64) for value in weights)
  inputs = batch["video_matrix"].astype(np.float64)
  inputs /= np.sqrt((inputs**2).sum(axis=1, keepdims=True))
  labels = batch["labels"]
  predictions = 1.0 / (1.0 + np.exp(-(inputs @ kernel + bias)))
  right = np.where(labels, predictions, 1.0 - predictions)
  loss = -np.log(right + 1e-5).sum(axis=1).mean()
  loss += l2_penalty / 2 * (kernel**2).sum()
  slope = predictions * (1.0 - predictions) / (right + 1e-5) / len(labels)
  slope = np.where(labels, -slope, slope)
  return (
    loss,
    predictions,
    [inputs.T @ slope + l2_penalty * kernel, slope.sum(axis=0)],
  )


def plain_losses(weights, batches) -> list[float]:
  """The losses of LogisticModel's steps by Adam, in float64."""
  weights = [value.astype(np.float64) for value in weights]
  means = [np.zeros_like(one) for one in weights]
  squares = [np.zeros_like(one) for one in weights]
  found = []
  for step, batch in enumerate(batches, 1):
    loss, _, gradients = plain_gradients(weights, batch)
    found.append(loss)
    for place, gradient in enumerate(gradients):
      means[place] = 0.9 * means[place] + 0.1 * gradient
      squares[place] = 0.999 * squares[place] + 0.001 * gradient**2
      mean = means[place] / (1.0 - 0.9**step)
      square = squares[place] / (1.0 - 0.999**step)
      weights[place] = weights[place] - RATE * mean / (np.sqrt(square) + 1e-8)
  return found


def write_plain_weights(job: Job) -> list[np.ndarray]:
  """Writes starting weights for make_job, and returns them."""
  random = np.random.default_rng(7)
  weights = [
    random.normal(size=shape).astype(np.float32) for shape in ((7, 6), (6,))
  ]
  np.savez(job.weights, *weights)
  return weights


def run_worker(job: Job) -> None:
  """Runs a job of one process under its backend; skips without this.

  A process of another backend that imports TensorFlow leaves a file
  <results>-tensorflow behind.
  """
  python = pathlib.Path(sys.executable)
  if job.backend != "tensorflow":
    python = pathlib.Path(sys.prefix) / job.backend / "bin" / "python"
  if not python.exists():
    message = f"{python} is missing; `make test-backends` makes it"
    if job.backend in os.environ.get("YT8M_BACKENDS", "").split():
      pytest.fail(message)
    pytest.skip(message)
  places = [str(REPOSITORY)]
  if job.backend != "tensorflow":
    package = pathlib.Path(f"{job.results}-packages", "tensorflow")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
      f"open({job.results + '-tensorflow'!r}, 'w').close()\n"
      "raise ImportError('this stands for TensorFlow')\n"
    )
    places.append(str(package.parent))
  path = f"{job.results}.job"
  job.write(path)
  done = subprocess.run(
    [python, "-m", "reports.frameworks.worker", path, "0"],
    cwd=REPOSITORY,
    env={
      **os.environ,
      "KERAS_BACKEND": job.backend,
      "PYTHONPATH": os.pathsep.join(places),
      "CUDA_VISIBLE_DEVICES": "",
      BEGAN: str(time.time()),
      PARENT: str(os.getpid()),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


def first_batches(job: Job, number: int) -> list[dict]:
  """The first batches of a job."""
  from reports.frameworks.batches import training_batches

  batches = training_batches(job, 0)
  return [next(batches) for _ in range(number)]
