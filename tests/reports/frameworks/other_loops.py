"""What loops of frameworks must do that the tests' process does not have."""

import json
import os

import numpy as np
from jobs_for_tests import (
  first_batches,
  make_job,
  plain_gradients,
  plain_losses,
  run_worker,
  write_plain_weights,
)


def check_steps_of_adam(folder, files, backend, compiled, how) -> None:
  """Compares the worker's outputs, gradients and losses with NumPy's."""
  job = make_job(folder, files, backend=backend, compiled=compiled)
  weights = write_plain_weights(job)
  run_worker(job)
  batches = first_batches(job, 8)
  _, expected, slopes = plain_gradients(weights, batches[0])
  with np.load(f"{job.results}.npz") as arrays:
    np.testing.assert_allclose(arrays["predictions"], expected, atol=1e-6)
    for place, slope in enumerate(slopes):
      np.testing.assert_allclose(
        arrays[f"gradient_{place}"], slope.reshape(-1), atol=1e-6
      )
      np.testing.assert_allclose(
        arrays["norms"][place], np.linalg.norm(slope), rtol=1e-5
      )
  with open(f"{job.results}-0.json") as file:
    numbers = json.load(file)
  np.testing.assert_allclose(
    numbers["losses"], plain_losses(weights, batches), rtol=1e-5
  )
  assert numbers["how"] == how
  assert numbers["device"] == "CPU"
  assert numbers["parameters"] == 7 * 6 + 6
  assert backend in numbers["versions"]
  assert "tensorflow" not in numbers["versions"]
  assert not os.path.exists(f"{job.results}-tensorflow")
