"""Trains the same models in several frameworks, and compares them.

  python -m reports.compare_frameworks --backends=tensorflow,torch,jax

By default the four networks of the thesis in two frameworks, on the sample
data. Each framework trains from the same weights on the same batches, by a loop
of its own, in a process of its own. First 50 steps with dropout off, which must
agree; then as many steps as fit into --seconds, which are measured. Writes
report.md, report.json and report.html. What has finished is not trained again.
See docs/frameworks.md.
"""

import contextlib
import hashlib
import json
import os
import random
import shlex
import sys
import time
from collections.abc import Sequence

import startup  # isort: skip
import keras
import tensorflow as tf
from absl import flags, logging

import errors
import models
import program_flags
from data_tools.text_table import aligned
from engine.files import read_json, write_json
from engine.machine import commit, describe_machine
from reports import comparison_runs
from reports import framework_comparison as comparison
from reports import framework_page as pages
from reports import framework_runs as runs
from reports.framework_entries import (
  Entry,
  Records,
  apply_dataset_dir,
  find_records,
  read_entry,
)
from reports.framework_runs import Result
from reports.frameworks.jobs import BACKENDS, Job
from reports.frameworks.recipe import write_weights
from reports.model_entries import THESIS_NETWORKS, split_entries
from reports.templating import require_report_packages

FLAGS = flags.FLAGS

# Of measured steps; --seconds ends them earlier.
_MOST_STEPS = 100_000
_RUNS = "runs"
_REPORT = "report.json"


def define_flags() -> None:
  """Defines the flags of this program."""
  _define_data_flags()
  model = program_flags.Subject(program_flags.MODEL)
  model.string(
    "models",
    ",".join(THESIS_NETWORKS),
    "Classes in the model files to compare, separated by commas; settings of"
    " one follow its name, as in BiLstmModel:lstm_layers=1:lstm_cells=256,"
    " BiLstmModel:preset=thesis.",
  )
  model.string("label_loss", "CrossEntropyLoss", "Class in losses.py.")
  training = program_flags.Subject(program_flags.TRAINING)
  training.list(
    "backends",
    ["tensorflow", "torch"],
    "Backends of Keras to train under, of tensorflow, torch and jax. The others"
    " must agree with the first one.",
  )
  training.integer(
    "processes",
    1,
    "Also train with this many processes, which divide each batch; 1: only with"
    " one.",
    lower_bound=1,
  )
  training.float(
    "seconds",
    20.0,
    "Seconds of training to measure, after the first step.",
    lower_bound=0.1,
  )
  training.enum(
    "compile",
    "auto",
    ["auto", "on", "off"],
    "Whether TensorFlow compiles steps by XLA, and PyTorch by torch.compile;"
    " auto: unless the model is recurrent, where compiling takes longer than it"
    " saves. JAX always compiles.",
  )
  training.integer(
    "batch_size",
    None,
    "Videos of a step, over all processes; default: the model's own, on the"
    " sample data at most 16.",
    lower_bound=1,
  )
  training.float(
    "base_learning_rate", None, "Adam's; default: the model's own."
  )
  training.integer("seed", 0, "Decides weights and the order of the videos.")
  program_flags.Subject(program_flags.DEVICES).list(
    "pythons",
    [],
    "Pythons with other builds, such as torch=/opt/torch/bin/python; default:"
    " those that make puts into folders of this environment.",
  )
  output = program_flags.Subject(program_flags.OUTPUT)
  output.string(
    "output_dir",
    "/tmp/yt8m_frameworks",
    "Folder for the report, and for what has finished so far.",
  )
  output.bool(
    "keep_results",
    False,
    "Write the report's numbers to benchmarks/results/ too, to a file named"
    " after the day and the processor.",
  )


def _define_data_flags() -> None:
  """Defines the flags that say what is trained on."""
  data = program_flags.Subject(program_flags.DATA)
  data.string(
    "train_data_pattern",
    "",
    "Glob pattern of local records; {level} in it stands for frame or video, as"
    " each model needs. Default: the built-in sample data.",
  )
  program_flags.define_dataset_dir()
  data.bool(
    "frame_features",
    False,
    "Records hold features of each frame; False: of the whole video. Without"
    " effect where both are read.",
  )
  data.string(
    "feature_names",
    None,
    "Features to use, separated by commas; where both levels are read, those of"
    " frames, and videos have mean_ before each. Default: rgb,audio, of videos"
    " mean_rgb,mean_audio.",
  )
  data.string(
    "feature_sizes",
    None,
    "Numbers in each of --feature_names; default: 1024,128.",
  )
  data.integer("num_classes", 3862, "Classes of the data.", lower_bound=1)
  data.string(
    "feature_ranges",
    "",
    "What the bytes 0 and 255 of each feature stand for, such as -1:2,0:5;"
    " default: as the card of the data set says, else YouTube-8M's own.",
  )
  data.integer(
    "max_frames",
    300,
    "Frames used of each video, starting with the first one.",
    lower_bound=1,
  )
  program_flags.define_min_frames()


# --------------------------------------------------------------------------
# Trainings


class Trainer:
  """Runs the jobs of one model.

  Args:
    entry: the model.
    records: its data.
    pythons: of each backend.
    folder: for results.
    about: what to keep with each result.
  """

  def __init__(
    self,
    entry: Entry,
    records: Records,
    pythons: dict[str, str],
    folder: str,
    about: dict,
  ):
    self._entry, self._records = entry, records
    self._pythons, self._folder, self._about = pythons, folder, about

  def check(self, backend: str, processes: int) -> Result:
    """Trains some steps with dropout off."""
    return self._run(backend, processes, comparison.CHECK_STEPS, 0.0, True)

  def measure(
    self, backend: str, processes: int, steps: int = _MOST_STEPS
  ) -> Result:
    """Trains for --seconds, or some steps if they are given."""
    seconds = FLAGS.seconds if steps == _MOST_STEPS else 0.0
    return self._run(backend, processes, steps, seconds, False)

  def _run(
    self,
    backend: str,
    processes: int,
    max_steps: int,
    max_seconds: float,
    is_check: bool,
  ) -> Result:
    entry, records = self._entry, self._records
    model_flags = entry.without_dropout() if is_check else entry.model_flags
    job = Job(
      backend=backend,
      model_flags=model_flags,
      files=records.files,
      kinds=records.kinds,
      seed=FLAGS.seed,
      min_frames=entry.min_frames,
      window_shards=records.window_shards,
      batch_size=entry.batch_size,
      num_frames=records.num_frames,
      weights=self._weights(model_flags),
      learning_rate=entry.learning_rate
      * (comparison.CHECK_SHARE if is_check else 1.0),
      is_check=is_check,
      max_steps=max_steps,
      max_seconds=max_seconds,
      compiled={"on": True, "off": False}.get(FLAGS.compile, entry.compiles),
      num_processes=processes,
      address="",
      results="",
    )
    python = self._pythons[backend]
    job = runs.with_results(
      job, self._folder, entry.file_name, records.hash, python
    )
    what = "dropout off" if is_check else "measured"
    where = f"{processes} processes" if processes > 1 else "1 process"
    kept = runs.kept_result(job)
    if kept:
      logging.info(
        "%s, %s, %s, %s: done before.", entry.name, backend, where, what
      )
      return kept
    logging.info("%s, %s, %s, %s ...", entry.name, backend, where, what)
    self._write_weights(model_flags)
    return runs.run_job(job, entry.name, python, self._about)

  def _weights(self, model_flags: dict) -> str:
    """The file of the starting weights.

    A model with layers of dropout has one of its own: its weights may stand in
    another order, since layers are ordered by their depth.
    """
    content = json.dumps([model_flags, FLAGS.seed], sort_keys=True)
    token = hashlib.sha256(content.encode()).hexdigest()[:12]
    return os.path.join(
      self._folder, f"{self._entry.file_name}-weights-{token}.npz"
    )

  def _write_weights(self, model_flags: dict) -> None:
    """Writes the starting weights, always the same ones, unless they exist."""
    path = self._weights(model_flags)
    if os.path.exists(path):
      return
    os.makedirs(self._folder, exist_ok=True)
    keras.backend.clear_session()
    random.seed(FLAGS.seed)  # Keras draws its seeds from here
    write_weights(models.build_model(model_flags), path)
    keras.backend.clear_session()

  def remove_weights(self) -> None:
    """Removes the starting weights, which can be made again."""
    for model_flags in (self._entry.model_flags, self._entry.without_dropout()):
      with contextlib.suppress(FileNotFoundError):
        os.remove(self._weights(model_flags))


def _has_batch_statistics(model_flags: dict) -> bool:
  """Whether a model normalizes by the mean and variance of a batch."""
  model = models.build_model(model_flags)
  found = any("moving_" in one.path for one in model.non_trainable_weights)
  keras.backend.clear_session()
  return found


def compare(
  entry: Entry,
  records: Records,
  backends: list[str],
  pythons: dict[str, str],
  folder: str,
  about: dict,
) -> dict:
  """Trains one model in all frameworks.

  Args:
    entry: the model.
    records: its data.
    backends: the frameworks; the others must agree with the first one.
    pythons: of each backend.
    folder: for results.
    about: what to keep with each result.

  Returns:
    The model's part of the report; see `report`.

  Raises:
    errors.UserError: a process has failed.
  """
  trainer = Trainer(entry, records, pythons, folder, about)
  numbers_of_processes, notes = [1], []
  if FLAGS.processes > 1:
    numbers_of_processes.append(FLAGS.processes)
    if _has_batch_statistics(entry.model_flags):
      numbers_of_processes.pop()
      notes.append(
        "several processes would normalize by the statistics of parts of a"
        " batch, so that they would compute something else; not compared."
      )
  checks, results = {}, []
  for processes in numbers_of_processes:
    for backend in backends:
      checks[backend, processes] = trainer.check(backend, processes)
  measured = {}
  for processes in numbers_of_processes:
    for backend in backends:
      given = [] if processes == 1 else [len(measured[backend]["losses"])]
      found = trainer.measure(backend, processes, *given).numbers
      measured.setdefault(backend, found)
      results.append(
        {
          "backend": backend,
          "processes": processes,
          "videos_per_second": comparison.videos_per_second(
            found, entry.batch_size
          ),
          **found,
          "check_losses": checks[backend, processes].numbers["losses"],
        }
      )
  trainer.remove_weights()
  return {
    "name": entry.name,
    "model_flags": entry.model_flags,
    "batch_size": entry.batch_size,
    "learning_rate": entry.learning_rate,
    "num_frames": records.num_frames,
    "min_frames": entry.min_frames,
    "parameters": results[0]["parameters"],
    "pattern": records.pattern,
    "files": records.files,
    "videos": records.videos,
    "hash": records.hash,
    "results": results,
    "agreements": agreements(checks, backends, numbers_of_processes),
    "notes": notes,
  }


def agreements(
  checks: dict[tuple[str, int], Result],
  backends: list[str],
  numbers_of_processes: list[int],
) -> list[dict]:
  """Compares frameworks with the first one, and processes with one process.

  Args:
    checks: by backend and number of processes.
    backends: in their order.
    numbers_of_processes: the first one is 1.

  Returns:
    For each pair "one", "other", the differences of comparison.Agreement,
    "last_losses" of both, and "holds".
  """
  first, *others = backends
  pairs = [((first, 1), (backend, 1)) for backend in others]
  pairs += [
    ((backend, 1), (backend, number))
    for number in numbers_of_processes[1:]
    for backend in backends
  ]
  found = []
  for pair in pairs:
    one, other = (checks[key] for key in pair)
    measured = comparison.agreement(one, other)
    same_batches = (
      pair[0][1] != pair[1][1]
      or one.numbers["checksum"] == other.numbers["checksum"]
    )
    names = [
      pages.framework({"backend": backend, "processes": number})
      for backend, number in pair
    ]
    found.append(
      {
        "one": names[0],
        "other": names[1],
        "outputs": measured.outputs,
        "gradients": measured.gradients,
        "losses": measured.losses,
        "last_losses": [of.numbers["losses"][-1] for of in (one, other)],
        "holds": measured.holds and same_batches,
      }
    )
  return found


# --------------------------------------------------------------------------
# The report


def _command() -> str:
  return shlex.join(
    ["python", "-m", "reports.compare_frameworks", *sys.argv[1:]]
  )


def _check_output_dir(output_dir: str) -> None:
  """Checks that a report replaces nothing but an earlier one.

  Raises:
    errors.UserError: it would.
  """
  found = read_json(
    os.path.join(output_dir, _REPORT),
    ("check_steps", "models"),
    "Name another --output_dir.",
  )
  if found is None:
    comparison_runs.check_no_other_files(
      output_dir, ["report.md", "report.html"]
    )


def write_report(folder: str, content: dict) -> None:
  """Writes report.json, report.md and report.html.

  Args:
    folder: for them.
    content: the report, a dict: command, machine, check_steps, and for each of
      models what `compare` returns.
  """
  write_json(os.path.join(folder, _REPORT), content)
  pages.write_text(
    os.path.join(folder, "report.md"), pages.make_markdown(content)
  )
  pages.write_text(
    os.path.join(folder, "report.html"), pages.make_page(content)
  )


def _keep(content: dict) -> str:
  """Writes the numbers to benchmarks/results/; returns the path."""
  from benchmarks.run_all import result_path

  about = content["machine"]
  path = result_path(
    {
      "date": time.strftime("%Y-%m-%d"),
      "processor": about["cpu"],
      "cores": about["cores"],
    }
  )
  path = path.removesuffix(".json") + "_frameworks.json"
  write_json(path, content)
  return path


def _check_backends(names: list[str]) -> None:
  """Checks --backends.

  Raises:
    errors.UserError: one is unknown, or named twice, or there is none.
  """
  if not names or set(names) - set(BACKENDS) or len(set(names)) < len(names):
    raise errors.UserError(
      f"Expected --backends to name some of {', '.join(BACKENDS)}, each once,"
      f" received {','.join(names) or 'none'}. Such as"
      " --backends=tensorflow,torch,jax."
    )


def _check_processes(processes: int, gpus: Sequence[str]) -> None:
  """Checks that each of several processes has a GPU, or none has.

  Raises:
    errors.UserError: there are fewer GPUs than processes, which would wait for
      each other.
  """
  if 0 < len(gpus) < processes:
    raise errors.UserError(
      f"Expected a GPU for each of --processes={processes}, found {len(gpus)}."
      " Lower --processes, or put CUDA_VISIBLE_DEVICES= before the command to"
      " train on the CPU."
    )


def main() -> None:
  """Compares the models that the flags name."""
  require_report_packages()
  _check_output_dir(FLAGS.output_dir)
  _check_backends(FLAGS.backends)
  machine = describe_machine()
  _check_processes(FLAGS.processes, machine["gpus"])
  del machine["host"]  # --keep_results keeps what is published
  # The processes that train need the GPUs.
  tf.config.set_visible_devices([], "GPU")
  pythons = runs.find_pythons(FLAGS.backends, FLAGS.pythons)
  apply_dataset_dir()
  entries = [read_entry(text) for text in split_entries(FLAGS.models)]
  records = [find_records(entry) for entry in entries]
  about = {"command": _command(), "machine": machine, "commit": commit()}
  content = {
    "command": about["command"],
    "machine": about["machine"],
    "check_steps": comparison.CHECK_STEPS,
    "models": [],
  }
  with comparison_runs.alone_in(FLAGS.output_dir):
    _compare_all(entries, records, pythons, about, content)
  for table in (pages.speed_table(content), pages.agreement_table(content)):
    print("\n".join(["", *aligned(table, texts=(0, 1, -1))]))
  logging.info("Report: %s", os.path.join(FLAGS.output_dir, "report.html"))
  if FLAGS.keep_results:
    logging.info("Kept: %s", _keep(content))
  _assert_agreement(content)


def _compare_all(
  entries: Sequence[Entry],
  records: Sequence[Records],
  pythons: dict[str, str],
  about: dict,
  content: dict,
) -> None:
  """Compares all models, and writes the report.

  Args:
    entries: the models.
    records: the data of each.
    pythons: of each backend.
    about: what to keep with each result.
    content: the report, whose models this adds.

  Raises:
    errors.UserError: a process has failed.
  """
  folder = os.path.abspath(os.path.join(FLAGS.output_dir, _RUNS))
  for number, (entry, data) in enumerate(zip(entries, records, strict=True), 1):
    logging.info("Model %d of %d: %s", number, len(entries), entry.name)
    content["models"].append(
      compare(entry, data, FLAGS.backends, pythons, folder, about)
    )
    # After each model, so that an error in a later one leaves these.
    write_report(FLAGS.output_dir, content)


def _assert_agreement(content: dict) -> None:
  """Ends with an error if frameworks do not compute the same.

  Raises:
    errors.UserError: names the first pair that differs.
  """
  for model in content["models"]:
    for found in model["agreements"]:
      if not found["holds"]:
        raise errors.UserError(
          f"Expected {found['one']} and {found['other']} to train"
          f" {model['name']} alike, received differences of"
          f" {found['outputs']:.1e} in outputs, {found['gradients']:.1e} in"
          f" gradients and {found['losses']:.1e} in losses. The report shows"
          " where the losses part; do not compare the models' figures before it"
          " is understood."
        )


if __name__ == "__main__":
  define_flags()
  startup.run(main)
