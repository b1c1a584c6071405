"""Trains one model under one backend, and writes what it measured.

python -m reports.frameworks.worker JOB [PROCESS], with KERAS_BACKEND set; see
jobs.py, and BEGAN. torchrun starts it without PROCESS. A line on stdout says
now and then how far it is.
"""

import importlib
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata

import numpy as np

import errors
from benchmarks.memory import peak_mib
from engine.local_files import put_in_place
from reports.frameworks.batches import (
  Batch,
  checksum,
  training_batches,
)
from reports.frameworks.jobs import (
  BEGAN,
  PARENT,
  STEP,
  Job,
  name_aside,
  read_job,
  write_json,
)

_LINE_SECONDS = 2.0
_WATCH_SECONDS = 0.5


def end_with(parent: int) -> None:
  """Ends this process soon after another one, whatever it computes then.

  Args:
    parent: its id. It need not have started this one: torchrun may have.
  """

  def watch():
    while True:
      time.sleep(_WATCH_SECONDS)
      try:
        os.kill(parent, 0)  # only looks whether it is there
      except OSError:
        os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def take_share(process: int, num_processes: int) -> None:
  """Gives this process its part of the processor's cores, and one GPU.

  Call it before a framework is imported, which counts both.

  Args:
    process: which of the processes this is, from 0.
    num_processes: that divide the machine.
  """
  if hasattr(os, "sched_setaffinity"):  # Linux
    cores = sorted(os.sched_getaffinity(0))
    share = max(len(cores) // num_processes, 1)
    first = process * share % len(cores)
    os.sched_setaffinity(0, cores[first : first + share])
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  gpus = visible.split(",") if visible else list(map(str, range(num_processes)))
  if visible != "":
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[process % len(gpus)]


def first_step(loop, batch: Batch, model_name: str) -> dict[str, np.ndarray]:
  """The predictions and the gradients of the first batch.

  Args:
    loop: a recipe.Loop.
    batch: this process's part.
    model_name: for the message.

  Returns:
    predictions, (videos, classes); of each weight some of the gradient's
    numbers, by its place among the trainable weights; norms, (weights,), the
    lengths of the whole gradients.

  Raises:
    errors.UserError: a second pass differs.
  """
  # Not before the backend is chosen.
  from reports.frameworks.recipe import some_numbers

  predictions, gradients = loop.gradients(batch)
  again, _ = loop.gradients(batch)
  if not np.allclose(predictions, again, atol=1e-6):
    raise errors.UserError(
      "Expected a model that draws no random numbers when dropout is off, since"
      f" each framework draws others, received {model_name}. Turn off what"
      " draws them, such as sample_random_frames, or leave the model out."
    )
  arrays = {
    f"gradient_{place}": some_numbers(gradient)
    for place, gradient in enumerate(gradients)
  }
  norms = [
    np.linalg.norm(gradient.astype(np.float64)) for gradient in gradients
  ]
  return {"predictions": predictions, "norms": np.array(norms), **arrays}


def run_steps(
  loop, job: Job, process: int, first: Batch, batches: Iterator[Batch]
) -> tuple[list[float], list[float], int]:
  """Trains as long as a job says.

  Args:
    loop: a recipe.Loop.
    job: the job.
    process: which of its processes this is; the first one says how far it is,
      since those of torchrun share a log.
    first: the first batch.
    batches: the following ones.

  Returns:
    The loss of each step; its seconds, without those of reading; the checksum
    of this process's batches.
  """
  values, seconds, crc = [], [], 0
  batch, said = first, 0.0
  while True:
    crc = checksum(batch, crc)
    began = time.perf_counter()
    values.append(loop.step(batch))
    seconds.append(time.perf_counter() - began)
    if process == 0 and time.perf_counter() - said > _LINE_SECONDS:
      said = time.perf_counter()
      print(f"{STEP}{len(values)}, loss {values[-1]:.4g}", flush=True)
    is_late = job.max_seconds and sum(seconds[1:]) >= job.max_seconds
    if len(values) >= job.max_steps or is_late:
      return values, seconds, crc
    batch = next(batches)


def versions(backend: str) -> dict[str, str]:
  """The versions that a figure depends on."""
  names = [backend, "keras", "numpy", *(["jaxlib"] if backend == "jax" else [])]
  return {
    "python": platform.python_version(),
    **{name: metadata.version(name) for name in names},
  }


def run(job: Job, process: int) -> None:
  """Does a job's work, and writes the results."""
  began = time.perf_counter()
  loops = importlib.import_module(f"reports.frameworks.{job.backend}_loop")
  from models import num_parameters  # as the loop: this is what is timed

  imported = time.perf_counter()
  loop = loops.Loop(job, process)
  built, built_at = time.perf_counter(), time.time()
  batches = training_batches(job, process)
  first = next(batches)
  arrays = {}
  if job.is_check:
    arrays = first_step(loop, first, job.model_flags["model"])
  losses, seconds, crc = run_steps(loop, job, process, first, batches)
  if arrays and process == 0:
    aside = name_aside(f"{job.results}.npz")
    with open(aside, "wb") as file:
      np.savez(file, allow_pickle=False, **arrays)
    put_in_place(aside, f"{job.results}.npz")
  write_json(
    f"{job.results}-{process}.json",
    {
      "losses": losses,
      "step_seconds": seconds,
      # Without reading.
      "start_seconds": built_at - float(os.environ[BEGAN]) + seconds[0],
      "import_seconds": imported - began,
      "build_seconds": built - imported,
      "peak_memory_bytes": round(peak_mib() * 2**20) or None,
      "peak_gpu_bytes": loop.peak_gpu_bytes(),
      "device": loop.device,
      "how": loop.how,
      "checksum": crc,
      "parameters": num_parameters(loop.model),
      "versions": versions(job.backend),
    },
  )


def main(arguments: list[str]) -> None:
  """See this file."""
  end_with(int(os.environ[PARENT]))
  job = read_job(arguments[0])
  process = int(arguments[1] if len(arguments) > 1 else os.environ["RANK"])
  if job.num_processes > 1:
    take_share(process, job.num_processes)
  try:
    run(job, process)
  except errors.UserError as error:
    print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(errors.exit_status(error))


if __name__ == "__main__":
  main(sys.argv[1:])
