"""What a process that trains under one backend is told; plain data, as JSON."""

import dataclasses
import json
import uuid

from engine.local_files import put_in_place

BACKENDS = ("tensorflow", "torch", "jax")

BEGAN = "YT8M_FRAMEWORKS_BEGAN"
"""The environment variable with the time at which the process was started."""
PARENT = "YT8M_FRAMEWORKS_PARENT"
"""Likewise with the id of the process that reads the results."""
STEP = "step "
"""How the lines begin that say how far a process is."""


@dataclasses.dataclass(frozen=True)
class Job:
  """What to train, on what, and for how long.

  Attributes:
    backend: one of BACKENDS.
    model_flags: see models.build_model; label_loss and the settings of the loss
      are used too.
    files: local TFRecord files.
    kinds: "bytes", "float" or "float16" for each feature of the records; empty
      at video level.
    seed: decides the order of the videos, and random numbers.
    min_frames: videos with fewer are left out; 0 at video level.
    window_shards: files of a window of the order, see engine/data_order.py.
    batch_size: videos of a step, over all processes.
    num_frames: that videos are padded to; 0 at video level.
    weights: file of the starting weights, see recipe.write_weights.
    learning_rate: Adam's.
    is_check: whether to keep the outputs and the gradients of the first step.
    max_steps: of training.
    max_seconds: of the steps after the first one; 0 for no limit.
    compiled: whether to compile the step, as far as the backend has a choice.
    num_processes: that divide each batch.
    address: host:port where processes of JAX meet; empty for one.
    results: file for the numbers, without its ending: process N writes
      <results>-N.json, and process 0 of a check <results>.npz.
  """

  backend: str
  model_flags: dict
  files: list[str]
  kinds: list[str]
  seed: int
  min_frames: int
  window_shards: int
  batch_size: int
  num_frames: int
  weights: str
  learning_rate: float
  is_check: bool
  max_steps: int
  max_seconds: float
  compiled: bool
  num_processes: int
  address: str
  results: str

  def rows(self, process: int) -> slice:
    """The rows of each batch that a process takes."""
    share = self.batch_size // self.num_processes
    return slice(process * share, (process + 1) * share)

  def write(self, path: str) -> None:
    """Writes the job to a file."""
    write_json(path, dataclasses.asdict(self))


def read_job(path: str) -> Job:
  """Reads what Job.write has written."""
  with open(path, encoding="utf-8") as file:
    return Job(**json.load(file))


def write_json(path: str, content: dict) -> None:
  """Writes JSON, whole or not at all; engine.files needs TensorFlow."""
  aside = name_aside(path)
  with open(aside, "w", encoding="utf-8") as file:
    file.write(json.dumps(content, indent=2) + "\n")
  put_in_place(aside, path)


def name_aside(path: str) -> str:
  """A new name beside a path, for a file that will replace it."""
  return f"{path}.tmp-{uuid.uuid4().hex[:8]}"
