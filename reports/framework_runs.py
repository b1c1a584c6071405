"""Starts the processes that train under each backend, and keeps what they say.

Each training is one or several processes of reports/frameworks/worker.py, in
the environment of its backend. What is finished is not run again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

import errors
from engine.files import write_json
from engine.prediction_file import READ_ERRORS
from reports.frameworks.jobs import BEGAN, PARENT, STEP, Job
from reports.processes import free_ports, last_line

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_WORKER = "reports.frameworks.worker"
_PACKAGES = ("absl", "crc32c", "keras", "numpy")
_POLL_SECONDS = 0.2
_LINE_SECONDS = 5.0
_PATIENCE_SECONDS = 10.0

# As startup.py sets them, for the processes of all frameworks.
_ALLOCATOR = {
  "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
  "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
  "MALLOC_TOP_PAD_": str(1 << 26),
}


# --------------------------------------------------------------------------
# Environments


def find_pythons(
  backends: Sequence[str], typed: Sequence[str] = ()
) -> dict[str, str]:
  """Finds the Python of each backend, and checks that it has the packages.

  Args:
    backends: names.
    typed: entries BACKEND=PATH; the others are that of this process for
      TensorFlow, and those that `make` puts beside it.

  Raises:
    errors.UserError: one is missing, or lacks a package.
  """
  named = {}
  for entry in typed:
    backend, _, path = entry.partition("=")
    if backend not in backends or not path:
      raise errors.UserError(
        f"Expected --pythons=BACKEND=PATH with one of {', '.join(backends)},"
        f" received {entry!r}. Name the Python of a backend that is compared,"
        " such as --pythons=torch=/opt/torch/bin/python."
      )
    named[backend] = path
  found = {}
  for backend in backends:
    default = sys.executable
    if backend != "tensorflow":
      default = os.path.join(sys.prefix, backend, "bin", "python")
    found[backend] = named.get(backend, default)
    _check_python(backend, found[backend])
  return found


def _check_python(backend: str, python: str) -> None:
  """Checks that a Python exists and has what a worker imports.

  Raises:
    errors.UserError: it does not.
  """
  folder = f"{os.path.basename(sys.prefix)}/{backend}"
  advice = (
    f"Run make {folder}/.installed, or name another one by --pythons={backend}="
    "PATH."
  )
  if backend == "tensorflow":
    advice = "Use pip install -r requirements.txt."
  if shutil.which(python) is None:
    raise errors.UserError(
      f"Expected the Python of {backend} as {python}, found none. {advice}"
    )
  packages = (*_PACKAGES, backend)
  code = (
    "import importlib.util as u;"
    f"print(*(name for name in {packages!r} if u.find_spec(name) is None))"
  )
  done = subprocess.run(
    [python, "-c", code], capture_output=True, text=True, check=False
  )
  missing = done.stdout.split() if done.returncode == 0 else [done.stderr]
  if missing:
    raise errors.UserError(
      f"Expected a Python with {', '.join(packages)} as {python}, found that"
      f" it lacks {', '.join(missing)}. {advice}"
    )


# --------------------------------------------------------------------------
# Results that are kept


@dataclasses.dataclass(frozen=True)
class Result:
  """What a training has said.

  Attributes:
    numbers: of process 0, see worker.run; peak_memory_bytes is the sum over the
      processes, and began, command, machine and commit are how it was run.
    arrays: those of worker.first_step, of a check; else empty.
  """

  numbers: dict
  arrays: Mapping[str, np.ndarray]


def with_results(
  job: Job, folder: str, name: str, data_hash: str, python: str
) -> Job:
  """Names the files of a job's results after all that these depend on.

  Args:
    job: the job, without them.
    folder: of all results.
    name: of the model in the comparison, as part of a file name.
    data_hash: changes with the data.
    python: of its backend, since another one may compute on a GPU.
  """
  content = dataclasses.asdict(job)
  for of_this_run in ("weights", "address", "results"):
    del content[of_this_run]
  text = json.dumps([content, data_hash, python], sort_keys=True)
  token = hashlib.sha256(text.encode()).hexdigest()[:12]
  kind = "check" if job.is_check else "measured"
  parts = [name, job.backend, f"{job.num_processes}x", kind, token]
  return dataclasses.replace(
    job, results=os.path.join(os.path.abspath(folder), "-".join(parts))
  )


def _read_result(job: Job) -> Result:
  with open(f"{job.results}.json", encoding="utf-8") as file:
    numbers = json.load(file)
  if not job.is_check:
    return Result(numbers, {})
  with np.load(f"{job.results}.npz", allow_pickle=False) as stored:
    return Result(numbers, dict(stored))


def kept_result(job: Job) -> Result | None:
  """What is kept of a job; None if it has not finished, or is damaged."""
  try:
    return _read_result(job)
  except (*READ_ERRORS, OSError):
    return None


# --------------------------------------------------------------------------
# Processes


def _environment(job: Job) -> dict[str, str]:
  """The environment variables of a job's processes."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if name not in ("TF_CONFIG", "RANK", "WORLD_SIZE", "PYTHONHOME")
  }
  environment = {
    **kept,
    **_ALLOCATOR,
    "KERAS_BACKEND": job.backend,
    "PYTHONPATH": ROOT,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # A first run compiles everything.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    BEGAN: str(time.time()),
    PARENT: str(os.getpid()),
  }
  if job.num_processes > 1:  # else torchrun allows each only one
    cores = max((os.cpu_count() or 1) // job.num_processes, 1)
    environment["OMP_NUM_THREADS"] = str(cores)
  return environment


def _commands(
  job: Job, python: str, path: str
) -> list[tuple[list[str], dict[str, str]]]:
  """The processes of a job: their command lines and environments.

  Args:
    job: the job.
    python: of its backend.
    path: of the file with the job.
  """
  environment = _environment(job)
  if job.num_processes == 1:
    return [([python, "-m", _WORKER, path, "0"], environment)]
  if job.backend == "torch":
    torchrun = [
      *(python, "-m", "torch.distributed.run", "--standalone"),
      f"--nproc-per-node={job.num_processes}",
      *("-m", _WORKER, path),
    ]
    return [(torchrun, environment)]
  found = []
  ports = free_ports(job.num_processes)
  for process in range(job.num_processes):
    own = dict(environment)
    if job.backend == "tensorflow":
      own["TF_CONFIG"] = json.dumps(
        {
          "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
          "task": {"type": "worker", "index": process},
        }
      )
    found.append(([python, "-m", _WORKER, path, str(process)], own))
  return found


def _stop(processes: Sequence[subprocess.Popen]) -> None:
  """Ends processes, and theirs, politely first."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    running = [one for one in processes if one.poll() is None]
    for one in running:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(one.pid, number)
    for one in running:
      with contextlib.suppress(subprocess.TimeoutExpired):
        one.wait(_PATIENCE_SECONDS)


def _failure(job: Job, log: str) -> errors.UserError:
  """What to say of a job whose process has failed."""
  with open(log, encoding="utf-8", errors="replace") as file:
    told = [line for line in file if line.startswith("ERROR: ")]
  if told:
    return errors.UserError(told[0].removeprefix("ERROR: ").strip())
  return errors.UserError(
    f"Expected {job.backend} to train {job.model_flags['model']}, but its"
    f" process ended with: {last_line(log)} The whole log is {log}; start the"
    " same command again when this is fixed, it goes on from here."
  )


def _wait(job: Job, name: str, processes, logs: Sequence[str]) -> None:
  """Waits until all processes have ended; says how far they are.

  Raises:
    errors.UserError: one has failed.
  """
  said, before = time.monotonic(), ""
  while True:
    codes = [process.poll() for process in processes]
    for code, log in zip(codes, logs, strict=True):
      if code:
        _stop(processes)
        raise _failure(job, log)
    if all(code == 0 for code in codes):
      return
    if time.monotonic() - said >= _LINE_SECONDS:
      said, text = time.monotonic(), last_line(logs[0], STEP)
      if text != before:
        logging.info("%s, %s: %s", name, job.backend, text)
      before = text
    time.sleep(_POLL_SECONDS)


def run_job(job: Job, name: str, python: str, about: dict) -> Result:
  """Runs a job, and keeps its results.

  Args:
    job: the job.
    name: of the model in the comparison.
    python: of its backend.
    about: what else to keep with the numbers.

  Raises:
    errors.UserError: a process has failed.
  """
  os.makedirs(os.path.dirname(job.results), exist_ok=True)
  if job.backend == "jax" and job.num_processes > 1:
    (port,) = free_ports(1)
    job = dataclasses.replace(job, address=f"127.0.0.1:{port}")
  path = f"{job.results}.job"
  job.write(path)
  began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  processes, logs = [], []
  with contextlib.ExitStack() as stack:
    stack.callback(_stop, processes)
    for number, (command, environment) in enumerate(
      _commands(job, python, path)
    ):
      logs.append(f"{job.results}-{number}.log")
      log = stack.enter_context(open(logs[-1], "w", encoding="utf-8"))
      processes.append(
        subprocess.Popen(
          command,
          cwd=ROOT,
          env=environment,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          start_new_session=True,  # so that torchrun's own end with it
        )
      )
    _wait(job, name, processes, logs)
  numbers = _gather(job)
  write_json(f"{job.results}.json", {**numbers, **about, "began": began})
  for number in range(job.num_processes):
    os.remove(f"{job.results}-{number}.json")
  for used in (path, *logs):
    os.remove(used)
  return _read_result(job)


def _gather(job: Job) -> dict:
  """The numbers of process 0, with the memory of all processes."""
  found = []
  for number in range(job.num_processes):
    with open(f"{job.results}-{number}.json", encoding="utf-8") as file:
      found.append(json.load(file))
  numbers = dict(found[0])
  for name in ("peak_memory_bytes", "peak_gpu_bytes"):
    known = [of[name] for of in found]
    numbers[name] = None if None in known else sum(known)
  return numbers
