"""Training, evaluation, prediction and export of tiny records, as children.

This process imports TensorFlow and the programs once, but never computes: after
that no child would get far. Each child is a program from its flags to its exit
status.
"""

import argparse
import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

import eval as eval_program
import export_model
import inference
import train
from tests.faults import interception
from tests.make_records import video_record, write_records

# What two equal runs measure differently.
_MEASURED = ("examples_per_second",)
OLD_OUTPUT = "of an earlier run\n"

_TRAIN_FLAGS = (
  "--train_dir=model",
  "--train_data_pattern=data/train*",
  "--model=LogisticModel",
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=2",
  "--batch_size=5",
  "--base_learning_rate=0.1",
  "--max_steps=4",
  "--export_model_steps=2",
  "--xla=False",
)
# Flags of each program, in the folder that has data/, model/ and output/.
PROGRAMS = {
  "train": (
    train,
    ("--eval_data_pattern=data/validate*", "--eval_steps=4", *_TRAIN_FLAGS),
  ),
  # Its first checkpoint is of a step that was trained.
  "train_without_eval": (train, _TRAIN_FLAGS),
  "eval": (
    eval_program,
    ("--train_dir=model", "--eval_data_pattern=data/validate*", "--run_once"),
  ),
  "inference": (
    inference,
    (
      "--train_dir=model",
      "--input_data_pattern=data/validate*",
      "--output_file=output/predictions.csv",
      "--output_model_tgz=output/model.tgz",
    ),
  ),
  "export_model": (
    export_model,
    ("--train_dir=model", "--input_data_pattern=data/validate*"),
  ),
}


def read_options(description: str, **more) -> argparse.Namespace:
  """Reads the flags that inject.py and kills.py share, and more.

  Args:
    description: of the command.
    **more: {name of another flag: what argparse is to know of it}.
  """
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, about in more.items():
    parser.add_argument(f"--{name}", **about)
  parser.add_argument("--program", choices=list(PROGRAMS))
  parser.add_argument("--call", type=interception.Call.parse)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--patience", type=float, default=300.0)
  return parser.parse_args()


def run_command(main: Callable[[], int]) -> None:
  """Calls main() and exits; in its children, runs their programs.

  Args:
    main: returns the exit status.
  """
  try:
    status = main()
  except interception.Child as child:
    program = child.program
  else:
    sys.exit(status)
  program()
  sys.exit()


@dataclasses.dataclass(frozen=True)
class Result:
  """What a program did.

  Attributes:
    outcome: see interception.
    log: what it wrote to stdout and stderr.
    found: what it left behind, see `look`.
  """

  outcome: interception.Outcome
  log: str
  found: dict


class Bench:
  """Folders in which the programs are run, one after the other.

  The folder that they see is always the same, so that the paths that they
  write down are, too.

  Args:
    folder: for everything; it is empty.
    patience: seconds after which a program counts as hanging.

  Attributes:
    ends: by program, what a run without faults leaves behind, a Result.
    starts: by program, what is there before.
  """

  def __init__(self, folder: str, patience: float):
    self._patience = patience
    self._folder = Path(folder).resolve()
    self._work = self._folder / "work"
    self.ends: dict[str, Result] = {}
    self.starts: dict[str, dict] = {}

  def prepare(self, names: Sequence[str]) -> None:
    """Runs programs without faults, training first.

    Args:
      names: of PROGRAMS.

    Raises:
      SystemExit: one of them does not work.
    """
    self._run(lambda: _make_work(self._work), is_watched=False)
    begin = ("train", "train_without_eval")
    for name in begin:
      self._keep(name)
    for name in ("train", *names):
      if name in self.ends:
        continue
      self.set_up(name)
      self.starts[name] = self._look()
      result = self.ends[name] = self.run(name)
      if result.outcome.status:
        sys.exit(f"ERROR: {name} failed without a fault:\n{result.log}")
      if name == "train":
        for other in PROGRAMS.keys() - set(begin):
          self._keep(other)

  def _keep(self, name: str) -> None:
    shutil.copytree(self._work, self._folder / f"before_{name}")

  def set_up(self, name: str) -> None:
    """Makes the folder what it is before a program."""
    shutil.rmtree(self._work, ignore_errors=True)
    shutil.copytree(self._folder / f"before_{name}", self._work)

  def run(self, name: str, **how) -> Result:
    """Runs a program.

    Args:
      name: of PROGRAMS.
      **how: of interception.run.
    """
    log = self._folder / "log"
    outcome = self._run(lambda: _run_program(name, self._work, log), **how)
    return Result(outcome, log.read_text(errors="replace"), self._look())

  def _run(self, program, **how) -> interception.Outcome:
    return interception.run(
      program,
      str(self._work),
      at_fault=lambda: whole_checkpoints(self._work),
      patience=self._patience,
      **how,
    )

  def _look(self) -> dict:
    path = self._folder / "found.json"
    path.unlink(missing_ok=True)
    self._run(lambda: _write_what_is_there(self._work, path), is_watched=False)
    return json.loads(path.read_text())


def _run_program(name: str, work: Path, log: Path) -> None:
  """What a child does: a program, as a shell starts it in a folder."""
  _redirect(log)
  os.chdir(work)
  # The programs keep what they know about data in a cache, and SavedModels'
  # assets in a temporary folder; both may be on the same full disk.
  os.environ["XDG_CACHE_HOME"] = str(work / "cache")
  os.environ["TMPDIR"] = str(work / "tmp")
  tempfile.tempdir = None
  module, words = PROGRAMS[name]
  sys.argv = [f"{name}.py", *words]
  module.define_flags()
  getattr(module, "accept_flags", lambda: None)()
  startup.run(module.main)


def _redirect(log: Path) -> None:
  """Sends stdout and stderr to a file; stdin is empty."""
  null = os.open(os.devnull, os.O_RDONLY)
  written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(null, 0)
  os.dup2(written, 1)
  os.dup2(written, 2)
  os.close(null)
  os.close(written)


# --------------------------------------------------------------------------
# What is there


def _make_work(work: Path) -> None:
  """Makes the folder in which training starts."""
  for name in ("data", "output", "cache", "tmp", "model"):
    (work / name).mkdir(parents=True)
  (work / "output" / "predictions.csv").write_text(OLD_OUTPUT)
  (work / "model" / "notes.txt").write_text("A user's own file.\n")
  random = np.random.default_rng(1)
  for split, count in (("train", 11), ("validate", 7)):
    records = [
      video_record(
        f"{split}{number}",
        [number % 2],
        # So that training makes it better.
        mean_rgb=(random.normal(size=4) + 2 * (number % 2)).astype(np.float32),
        mean_audio=random.normal(size=3).astype(np.float32),
      )
      for number in range(count)
    ]
    write_records(work / "data" / f"{split}0.tfrecord", records)


def whole_checkpoints(work: Path) -> list[str]:
  """The checkpoints below a folder that have an index, without exports.

  One whose index is empty is just being written.
  """
  names = [
    str(path.relative_to(work))
    for path in (work / "model").rglob("*.index")
    if path.stat().st_size
  ]
  return sorted(
    name.removesuffix(".index")
    for name in names
    if not re.search(r"(^|/)\.|_temp/|/variables/", name)
  )


def _write_what_is_there(work: Path, path: Path) -> None:
  _redirect(path.with_suffix(".log"))
  path.write_text(json.dumps(look(work)))


def look(work: Path) -> dict:
  """What lies in a folder, by kinds.

  Returns:
    newest: the checkpoint that TensorFlow finds, or None.
    checkpoints: {path: hash of the values}
    json: {path: content}, without what is measured
    exports: {path: hash of what is predicted with}
    outputs: {path: hash of what a reader sees in it}
    others: {path: hash}, the user's own files and the data
    events: {folder: [[tag, step], ...]}
    names: of all files, without random parts.
    In the place of a hash or a content, a text that begins with "damaged" says
    why it cannot be read.
  """
  model = work / "model"
  newest = tf.train.latest_checkpoint(str(model))
  found = {
    "newest": newest and os.path.relpath(newest, work),
    "checkpoints": {
      name: _or_damage(_checkpoint_hash, work / name)
      for name in whole_checkpoints(work)
    },
    "json": {
      str(path.relative_to(work)): _or_damage(_json_content, path)
      for folder in (model, model / "eval")
      for path in sorted(folder.glob("*.json"))
      if not path.name.startswith(".")
    },
    "exports": {
      str(path.relative_to(work)): _or_damage(_export_hash, path)
      for path in sorted((model / "export").glob("step_*"))
    },
    "outputs": {
      str(path.relative_to(work)): _or_damage(_output_hash, path)
      for path in sorted((work / "output").iterdir())
      if not path.name.startswith(".")
    },
    "others": {
      str(path.relative_to(work)): _hash(path.read_bytes())
      for path in (model / "notes.txt", *sorted((work / "data").iterdir()))
      if path.exists()
    },
    "events": {
      str(folder.relative_to(work)): _events(folder)
      for folder in (model, model / "eval")
    },
    "names": sorted(
      interception.plain_name(str(path.relative_to(work)))
      for path in work.rglob("*")
      if path.is_file() and "cache" not in path.relative_to(work).parts
    ),
  }
  return found


def _or_damage(read, path: Path):
  try:
    return read(path)
  except Exception as error:  # readers raise anything
    return f"damaged: {type(error).__name__}: {str(error)[:200]}"


def _hash(*parts: bytes) -> str:
  digest = hashlib.sha256()
  for part in parts:
    digest.update(len(part).to_bytes(8))
    digest.update(part)
  return digest.hexdigest()[:16]


def _checkpoint_hash(path: Path) -> str:
  reader = tf.train.load_checkpoint(str(path))
  parts = []
  for name in sorted(reader.get_variable_to_shape_map()):
    # How often it was saved, and how its objects hang together, may differ.
    if name.startswith(("save_counter", "_CHECKPOINTABLE")):
      continue
    values = np.asarray(reader.get_tensor(name))
    content = values.tolist() if values.dtype == object else values.tobytes()
    parts += [name.encode(), repr(content).encode()]
  return _hash(*parts)


def _json_content(path: Path):
  content = json.loads(path.read_text())
  if path.name == "run.json":  # the rest is measured
    return {name: content[name] for name in ("settings", "model_flags")}
  # A hash of the index, which counts how often the checkpoint was saved.
  content.get("evaluation", {}).pop("checkpoint", None)
  return _without_measured(content)


def _without_measured(content):
  if isinstance(content, dict):
    return {
      name: _without_measured(value)
      for name, value in content.items()
      if name not in _MEASURED
    }
  if isinstance(content, list):
    return list(map(_without_measured, content))
  return content


def _export_hash(path: Path) -> str:
  """Of what a SavedModel answers with: its weights and its functions.

  It is not called, since that takes a second.
  """
  saved = saved_model_pb2.SavedModel.FromString(
    (path / "saved_model.pb").read_bytes()
  )
  if not (path / "fingerprint.pb").read_bytes():
    raise ValueError("fingerprint.pb is empty")
  (graph,) = saved.meta_graphs
  functions = [
    (len(function.node_def), *sorted(function.signature.attr))
    for function in graph.graph_def.library.function
  ]
  assets = [
    f"{one.name}: {one.read_text()}"
    for one in sorted((path / "assets").iterdir())
  ]
  weights = _checkpoint_hash(path / "variables" / "variables")
  parts = (weights, sorted(functions), sorted(graph.signature_def), assets)
  return _hash(repr(parts).encode())


def _output_hash(path: Path) -> str:
  if path.suffix != ".tgz":
    return _hash(path.read_bytes())
  with gzip.open(path) as file:
    packed = file.read()  # to the end, where the checksum is
  del packed
  with tarfile.open(path) as archive:
    parts = []
    for member in sorted(archive, key=lambda member: member.name):
      content = archive.extractfile(member)
      parts += [member.name.encode(), content.read() if content else b""]
  return _hash(*parts)


def _events(folder: Path) -> list[list]:
  """The tags and steps in a folder's event files, up to a cut record."""
  found = set()
  for path in folder.glob("events.out.tfevents.*"):
    content, place = path.read_bytes(), 0
    while place < len(content):
      # The length of a record and its checksum, the record and its checksum.
      length = int.from_bytes(content[place : place + 8], "little")
      record = content[place + 12 : place + 12 + length]
      place += 16 + length
      if place > len(content):
        found.add((f"cut: {folder.name}", -1))
        break
      try:
        event = tf.compat.v1.Event.FromString(record)
      except DecodeError:  # after a record that is cut there is no order
        found.add((f"cut: {folder.name}", -1))
        break
      found |= {(value.tag, event.step) for value in event.summary.value}
  return sorted(map(list, found))
