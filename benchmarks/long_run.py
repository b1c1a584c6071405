"""Watches programs for long: memory and open files of training and its friends.

Usage, from the root of the repository, with requirements/report.txt:

  python -m benchmarks.long_run --minutes=30

Trains a small model, while eval.py scores each new checkpoint and TensorBoard
shows the run, all three on one train_dir. Reads their memory and open files
from Linux's /proc all the time, asks TensorBoard for its pages, and draws both
over time. It ends with an error if a program did, or if memory or open files
were more in the last quarter of the time than in the third. Prints a line for
each program and one line of JSON with all figures.

--programs=train --export_model_steps=20 watches training alone, with many
checkpoints and SavedModels.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import startup  # isort: skip
import matplotlib as mpl
from absl import flags

import errors
from benchmarks.memory import memory_mib, open_files, with_children
from data_tools import sample_data
from data_tools.sample_videos import Settings
from engine.files import text_written_aside
from engine.machine import processor_name
from reports import charts

FLAGS = flags.FLAGS

PROGRAMS = ("train", "eval", "tensorboard")
_TITLES = {
  "train": "train.py",
  "eval": "eval.py",
  "tensorboard": "TensorBoard",
}
_DATA = Settings(
  num_videos=2000,
  num_validate_videos=200,
  num_test_videos=10,
  num_classes=40,
  num_active_classes=20,
  num_shards=4,
)
_SAMPLES = 400
# A program that does not end after a signal hangs.
_PATIENCE_SECONDS = 120
_HEIGHT = 4.4  # of the picture, in inches


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_float("minutes", 30.0, "How long.", lower_bound=0.1)
  flags.DEFINE_list("programs", list(PROGRAMS), "Which: train, and others.")
  flags.DEFINE_integer(
    "export_model_steps", 200, "Steps between two checkpoints.", lower_bound=1
  )
  flags.DEFINE_string(
    "output", "docs/images/long_run.svg", "Picture to write; empty: none."
  )
  flags.DEFINE_float(
    "most_growth",
    5.0,
    "Percent by which the memory of a program may grow from the third quarter"
    " of the time to the last one.",
    lower_bound=0.0,
  )


@dataclasses.dataclass
class Watched:
  """A program that runs.

  Attributes:
    process: its process.
    log: path of the file that it writes to.
    minutes: when it was looked at.
    memory: MiB at these times.
    files: open files at these times.
  """

  process: subprocess.Popen
  log: str
  minutes: list[float] = dataclasses.field(default_factory=list)
  memory: list[float] = dataclasses.field(default_factory=list)
  files: list[int] = dataclasses.field(default_factory=list)

  def text(self) -> str:
    """What it has written so far."""
    with open(self.log, encoding="utf-8", errors="replace") as file:
      return file.read()

  def look(self, minutes: float) -> None:
    """Notes what it has in memory and open."""
    processes = with_children(self.process.pid)
    self.minutes.append(minutes)
    self.memory.append(sum(map(memory_mib, processes)))
    self.files.append(sum(map(open_files, processes)))

  def growth(self, numbers: list) -> float:
    """How much more the last quarter has than the third; the medians."""
    quarter = max(len(numbers) // 4, 1)
    return statistics.median(numbers[-quarter:]) - statistics.median(
      numbers[-2 * quarter : -quarter] or numbers[:1]
    )


def _commands(folder: str) -> dict[str, list[str]]:
  """What to run, by name."""
  data = (
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=1024,128",
    f"--num_classes={_DATA.num_classes}",
  )
  train_dir = f"{folder}/model"
  found = {
    "train": [
      "train.py",
      f"--train_data_pattern={folder}/data/video/train*.tfrecord",
      *data,
      "--batch_size=16",
      "--num_epochs=0",
      f"--export_model_steps={FLAGS.export_model_steps}",
      f"--train_dir={train_dir}",
    ],
    "eval": [
      "eval.py",
      f"--eval_data_pattern={folder}/data/video/validate*.tfrecord",
      f"--train_dir={train_dir}",
    ],
    "tensorboard": [
      *("-m", "tensorboard.main", "--host=127.0.0.1", "--port=0"),
      f"--logdir={train_dir}",
    ],
  }
  return {name: found[name] for name in PROGRAMS if name in FLAGS.programs}


@contextlib.contextmanager
def _running(folder: str):
  """Starts the programs; ends those that still run at the end of the block."""
  with contextlib.ExitStack() as stack:
    programs = {}
    for name, command in _commands(folder).items():
      path = f"{folder}/{name}.log"
      with open(path, "w") as log:
        process = subprocess.Popen(
          [sys.executable, *command],
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=log,
        )
      stack.callback(process.wait)
      stack.callback(process.kill)
      programs[name] = Watched(process, path)
    yield programs


def _ask_tensorboard(program: Watched) -> None:
  """Asks for the names of its charts, as a page in a browser does."""
  if found := re.search(r"http://127\.0\.0\.1:\d+/", program.text()):
    # Ignores proxies that the environment may set.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"{found[0]}data/plugin/scalars/tags"
    with opener.open(url, timeout=_PATIENCE_SECONDS) as answer:
      json.load(answer)


def _watch(programs: dict[str, Watched]) -> None:
  """Looks at the programs until the time is up.

  Raises:
    errors.UserError: one has ended.
  """
  began, seconds = time.monotonic(), 60.0 * FLAGS.minutes
  while (passed := time.monotonic() - began) < seconds:
    for name, program in programs.items():
      if program.process.poll() is not None:
        raise errors.UserError(
          f"Expected {_TITLES[name]} to run for {FLAGS.minutes:g} minutes, it"
          f" ended after {passed / 60:.1f}: {program.text()[-2000:]}"
        )
      program.look(passed / 60)
    if "tensorboard" in programs:
      _ask_tensorboard(programs["tensorboard"])
    time.sleep(max(seconds / _SAMPLES, 0.5))


def _end(programs: dict[str, Watched]) -> None:
  """Ends the programs as a user does.

  Raises:
    errors.UserError: one ends otherwise than it should, or has written errors.
  """
  for name, program in programs.items():
    # Not Ctrl-C, which the background of a shell lets its programs ignore.
    process = program.process
    process.terminate()
    code = process.wait(_PATIENCE_SECONDS)
    expected = {"train": (0,), "eval": (143,)}.get(name, (0, -signal.SIGTERM))
    wrong = re.search(r"^(Traceback|ERROR|E\d{4} ).*", program.text(), re.M)
    if code not in expected or wrong:
      raise errors.UserError(
        f"Expected {_TITLES[name]} to end with {expected[0]} and no error,"
        f" received {code}: {program.text()[-2000:]}"
      )


def _draw(programs: dict[str, Watched]) -> str:
  """Memory and open files over time, as the text of an SVG image."""
  with mpl.rc_context(charts.STYLE):
    figure = charts.new_figure(_HEIGHT)
    above, below = figure.subplots(2, sharex=True)
    for (name, program), (color, *_) in zip(
      programs.items(), charts.CURVES, strict=False
    ):
      for axes, numbers in ((above, program.memory), (below, program.files)):
        axes.plot(
          program.minutes,
          numbers,
          color=color,
          linewidth=1.4,
          label=_TITLES[name],
        )
    for axes, label in ((above, "memory, MiB"), (below, "open files")):
      axes.set_ylabel(label)
      axes.set_ylim(bottom=0)
      axes.grid(color=charts.GRAY, linewidth=0.6)
    below.set_xlabel("minutes")
    charts.add_legend_above(above)
    return charts.svg_text(figure)


def _figures(program: Watched) -> dict[str, float]:
  """What is said of a program."""
  return {
    "memory_mib": round(program.memory[-1]),
    "memory_growth_mib": round(program.growth(program.memory), 1),
    "files": program.files[-1],
    "files_growth": program.growth(program.files),
  }


def main() -> None:
  """Watches what the flags say."""
  unknown = sorted(set(FLAGS.programs) - set(PROGRAMS))
  if unknown or "train" not in FLAGS.programs:
    raise errors.UserError(
      f"Expected train and others of {', '.join(PROGRAMS)} as --programs,"
      f" received {','.join(FLAGS.programs)}."
    )
  with tempfile.TemporaryDirectory() as folder:
    sample_data.make_sample_data(f"{folder}/data", _DATA)
    with _running(folder) as programs:
      _watch(programs)
      _end(programs)
  if FLAGS.output:
    with text_written_aside(FLAGS.output) as file:
      file.write(_draw(programs))
  found = {name: _figures(program) for name, program in programs.items()}
  for name, figures in found.items():
    print(
      f"{_TITLES[name]}: {figures['memory_mib']} MiB and {figures['files']}"
      f" open files at the end; {figures['memory_growth_mib']:+.1f} MiB and"
      f" {figures['files_growth']:+g} files in the last quarter"
    )
  about = {
    "machine": processor_name(),
    "cores": os.cpu_count(),
    "minutes": FLAGS.minutes,
    "export_model_steps": FLAGS.export_model_steps,
  }
  print(json.dumps({**about, **found}))
  growing = [
    _TITLES[name]
    for name, figures in found.items()
    if figures["files_growth"] > 0
    or figures["memory_growth_mib"]
    > FLAGS.most_growth / 100 * figures["memory_mib"]
  ]
  if growing:
    raise errors.UserError(
      "Expected memory and open files to stay as they are, received growth of"
      f" {', '.join(growing)}. Watch for longer, or find the cause."
    )


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
