"""Stands for reports.frameworks.worker: writes numbers without computing.

The model's name, or FAKE_WORKER, says what else it does.
"""

import os
import sys
import time

import numpy as np

from reports.frameworks.jobs import read_job, write_json


def main() -> None:
  """Writes the results of the job that is named."""
  job = read_job(sys.argv[1])
  process = int(sys.argv[2])
  behavior = os.environ.get("FAKE_WORKER", job.model_flags["model"])
  print(f"process {os.getpid()}", flush=True)
  if behavior == "Hangs" and process == 0:
    time.sleep(600)
  if behavior == "Refuses":
    sys.exit("ERROR: Expected this, received that.")
  if behavior in ("Fails", "Hangs"):
    raise ValueError("a bug")
  loss = 2.0 if behavior == "Differs" and job.backend == "torch" else 1.0
  steps = min(job.max_steps, 12)
  if job.is_check and process == 0:
    np.savez(
      f"{job.results}.npz",
      predictions=np.full((2, 3), 0.5, np.float32),
      norms=np.ones(1),
      gradient_0=np.ones(2, np.float32),
    )
  write_json(
    f"{job.results}-{process}.json",
    {
      "losses": [loss / (1 + step) for step in range(steps)],
      "step_seconds": [3.0] + [0.5] * (steps - 1),
      "start_seconds": 5.0,
      "import_seconds": 1.0,
      "build_seconds": 1.0,
      "peak_memory_bytes": 2**30,
      "peak_gpu_bytes": None,
      "device": "CPU",
      "how": "compiled" if job.compiled else "as it is",
      "checksum": 1,
      "parameters": 7,
      "versions": {job.backend: "1.0"},
      "tf_config": os.environ.get("TF_CONFIG"),
      "address": job.address,
    },
  )


if __name__ == "__main__":
  main()
