"""Extracts videos on a cluster of machines, by Ray Data.

The videos are divided into parts. A worker of Ray extracts a part as a single
process does, to a file in a folder that all machines see. Ray chooses where,
shows the progress, and repeats a part whose worker or machine died; the part
then goes on in its file. Results do not travel through Ray, short reports do.
"""

import dataclasses
import importlib
import json
import logging as std_logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import logging

import errors
from media.extraction import Extraction, Extractor
from media.frames import BadVideoError
from media.parts import extract_part

LEAST_PARTS = 64
"""So that a few videos keep many workers busy too."""
VIDEOS_A_PART = 100
"""About so many, if there are more."""

_RETRIES = 3  # of a part whose worker died
_MOST_LISTED = 20
# The server of a network file system frees the locks of a machine that died
# after a minute or two.
_PATIENCE_SECONDS = 300
_CONNECT_SECONDS = 10
_RAY_LOGGER = "ray.data._internal.execution.streaming_executor_state"

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def import_ray() -> Any:
  """The package ray, with ray.data.

  Raises:
    errors.UserError: it is not installed.
  """
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  # Ray Data starts its workers in a way that Ray prints an error about.
  os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
  try:
    ray = importlib.import_module("ray")
    importlib.import_module("ray.data")
  except ImportError as error:
    raise errors.UserError(
      f"Expected the library ray for --engine=ray, received: {error}. Install"
      " it: pip install -r requirements/ray.txt"
    ) from error
  return ray


def num_parts(num_videos: int) -> int:
  """How many parts to make of videos: by their number alone, to go on later."""
  return max(LEAST_PARTS, -(-num_videos // VIDEOS_A_PART))


# --------------------------------------------------------------------------
# In a worker


@dataclasses.dataclass
class Report:
  """What became of a part.

  Attributes:
    done: videos that were extracted or failed.
    bad: those that failed.
    silent: those without sound, if there is a feature of it.
    lines: (key, text) about some videos that failed or lack something.
    waiting_seconds: see Extractor.
    encoding_seconds: the same.
    problem: an error of the user, which ends the extraction; else empty.
  """

  done: int = 0
  bad: int = 0
  silent: int = 0
  lines: list = dataclasses.field(default_factory=list)
  waiting_seconds: float = 0.0
  encoding_seconds: float = 0.0
  problem: str = ""

  def take(self, key: str, result) -> None:
    """Takes the result of a video."""
    self.done += 1
    is_bad = isinstance(result, BadVideoError)
    self.bad += is_bad
    self.silent += not is_bad and not result.has_sound
    text = str(result) if is_bad else result.note
    if text and len(self.lines) < _MOST_LISTED:
      self.lines.append((key, text))


class Worker:
  """Extracts one part after another; the encoder is made once.

  Args:
    extraction: the settings, as Extraction.to_dict gives them.
    batch_size: frames that the encoder takes at once.
    num_workers: processes that decode.
  """

  def __init__(self, extraction: dict, batch_size: int, num_workers: int):
    self._extraction = Extraction.from_dict(extraction)
    self._options: dict[str, Any] = {
      "batch_size": batch_size,
      "num_workers": num_workers,
    }
    self._extractor: Extractor | None = None

  def __call__(self, row: dict[str, str]) -> dict[str, str]:
    """Extracts a part.

    Args:
      row: "part" is JSON: the path of the part, and its videos {key: path}.

    Returns:
      "report" is JSON of a Report.
    """
    path, videos = json.loads(row["part"])
    report = Report()
    before = self._seconds()
    try:
      extract_part(
        path,
        videos,
        self._extraction.to_dict(),
        self._make_extractor,
        report.take,
        patience=_PATIENCE_SECONDS,
      )
    except errors.UserError as error:
      report.problem = str(error)
    except OSError as error:
      report.problem = f"Expected to write {path}, received: {error}."
    after = self._seconds()
    report.waiting_seconds = after[0] - before[0]
    report.encoding_seconds = after[1] - before[1]
    return {"report": json.dumps(dataclasses.asdict(report))}

  def _make_extractor(self) -> Extractor:
    if not self._extractor:
      self._extractor = Extractor(self._extraction, **self._options)
    return self._extractor

  def _seconds(self) -> tuple[float, float]:
    """Spent waiting for frames and in the encoders so far."""
    made = self._extractor
    return (made.waiting_seconds, made.encoding_seconds) if made else (0.0, 0.0)


# --------------------------------------------------------------------------
# In the program


class Summary:
  """Logs the reports of the workers.

  Args:
    total: number of videos.
    takes_sound: whether there is a feature of the sound.
  """

  def __init__(self, total: int, takes_sound: bool):
    self._total = total
    self._takes_sound = takes_sound
    self._all = Report()
    self._listed = 0
    self._began = time.monotonic()

  def add(self, report: Report) -> None:
    """Takes the report of a part.

    Raises:
      errors.UserError: it has one.
    """
    if report.problem:
      raise errors.UserError(report.problem)
    for key, text in report.lines[: max(0, _MOST_LISTED - self._listed)]:
      logging.warning("%s: %s", key, text)
    self._listed += len(report.lines)
    whole = self._all
    whole.done += report.done
    whole.bad += report.bad
    whole.silent += report.silent
    whole.waiting_seconds += report.waiting_seconds
    whole.encoding_seconds += report.encoding_seconds

  def end(self) -> None:
    """Logs how fast it was, and what bounds it."""
    whole = self._all
    if not whole.done:
      return
    seconds = time.monotonic() - self._began
    waiting = whole.waiting_seconds
    share = waiting / max(waiting + whole.encoding_seconds, 1e-9)
    logging.info(
      "Extracted %d of %d videos on Ray in %.1f s, %.2f a second: the encoders"
      " waited for frames %.0f %% of the time. %d cannot be used.",
      whole.done,
      self._total,
      seconds,
      whole.done / seconds,
      100 * share,
      whole.bad,
    )
    if self._takes_sound and whole.silent:
      logging.info("Without sound, stored as silence: %d videos", whole.silent)


@dataclasses.dataclass(frozen=True)
class _Workers:
  """What each worker takes of its machine.

  Attributes:
    cpus: one for each process that decodes.
    gpus: 1 or 0.
    now: how many workers the cluster has room for; it may grow.
  """

  cpus: int
  gpus: int
  now: int


def _workers(nodes: list[dict], encoder: str, num_workers: int | None):
  """Chooses the _Workers for a cluster.

  Args:
    nodes: as ray.nodes() lists its machines.
    encoder: its name; `random` has no use for a GPU.
    num_workers: processes that decode; None: one, or with a GPU its share of
      the CPUs of its machine.
  """
  machines = [node["Resources"] for node in nodes if node["Alive"]]
  with_gpu = [one for one in machines if one.get("GPU", 0) >= 1]
  if encoder == "random" or not with_gpu:
    cpus = num_workers or 1
    now = sum(int(one.get("CPU", 0) // cpus) for one in machines)
    return _Workers(cpus, 0, max(1, now))
  shares = [int(one.get("CPU", 1) // one["GPU"]) for one in with_gpu]
  cpus = num_workers or max(1, min(shares))
  now = sum(int(min(one["GPU"], one.get("CPU", 0) // cpus)) for one in with_gpu)
  return _Workers(cpus, 1, max(1, now))


def _connect(ray, address: str) -> None:
  """Connects to a cluster, or starts one on this machine.

  Raises:
    errors.UserError: there is no cluster.
  """
  paths = [_ROOT, os.getcwd(), *os.environ.get("PYTHONPATH", "").split(":")]
  given: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": std_logging.ERROR,
    "runtime_env": {
      "env_vars": {"PYTHONPATH": ":".join(filter(None, paths))},
    },
  }
  if not address:
    ray.init(address="local", include_dashboard=False, **given)
    return
  try:
    if address != "auto":
      _check_listening(address)
    ray.init(address=address, **given)
  except (OSError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      "Expected the HOST:PORT of a cluster of Ray as"
      f" --ray_address={address}, received: {last_line(error)} Start one with"
      " `ray start --head`; set RAY_AUTH_MODE=token if it has a token; or leave"
      " --ray_address out to use this machine."
    ) from error


def _check_listening(address: str) -> None:
  """Checks that something answers, for which Ray waits for minutes.

  Raises:
    OSError: nothing does.
    ValueError: it is not HOST:PORT.
  """
  host, _, port = address.removeprefix("ray://").rpartition(":")
  if not host or not port.isdigit():
    raise ValueError("no HOST:PORT")
  with socket.create_connection((host, int(port)), _CONNECT_SECONDS):
    pass


def last_line(error: BaseException) -> str:
  """The last line of an error's text, which has the cause in Ray's."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[-1].strip()[:300].rstrip(".") + "."


class _WithoutTraceback(std_logging.Filter):
  """Makes one line of what Ray logs about a part that failed."""

  def filter(self, record: std_logging.LogRecord) -> bool:
    """Puts the last line of the error into the text."""
    if record.exc_info and record.exc_info[1]:
      record.msg = f"{record.getMessage()} {last_line(record.exc_info[1])}"
      record.args = ()
      record.exc_info = record.exc_text = None
    return True


_without_traceback = _WithoutTraceback()


def _reports(ray, rows, options, workers: _Workers) -> Iterator[Report]:
  """Extracts parts on the cluster; yields a report of each that has ended."""
  context = ray.data.DataContext.get_current()
  # A part that fails again and again must not end the others. It is missed
  # when all have ended.
  context.max_errored_blocks = -1
  std_logging.getLogger(_RAY_LOGGER).addFilter(_without_traceback)
  with warnings.catch_warnings():
    # Of the option for the retries, which has no other name yet.
    warnings.simplefilter("ignore")
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
      Worker,
      fn_constructor_kwargs=options,
      compute=ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=min(workers.now, len(rows)),
        max_size=len(rows),
        max_tasks_in_flight_per_actor=2,  # with 1 it would not grow
      ),
      num_cpus=workers.cpus,
      num_gpus=workers.gpus,
      max_task_retries=_RETRIES,
    )
  for row in found.iter_rows():
    yield Report(**json.loads(row["report"]))


def extract_on_ray(
  parts: Iterable[tuple[str, Mapping[str, str]]],
  extraction: Extraction,
  *,
  address: str = "",
  num_workers: int | None = None,
  batch_size: int = 32,
) -> None:
  """Extracts videos to parts; see parts.extract_part.

  Args:
    parts: of each its path, on a file system that all machines see, and its
      videos {key: path}, likewise.
    extraction: the settings.
    address: of a cluster; empty: one is started on this machine, and ended.
    num_workers: processes that decode for each worker of Ray; None: one, or
      with a GPU its share of the CPUs.
    batch_size: frames that an encoder takes at once.

  Raises:
    errors.UserError: ray is not installed, there is no cluster, or a worker
      has met one, such as for weights that its machine does not have.
  """
  rows, total = [], 0
  for path, videos in parts:
    places = {key: os.path.abspath(file) for key, file in videos.items()}
    # As text, because names of files need not be Unicode.
    rows.append({"part": json.dumps([os.path.abspath(path), places])})
    total += len(videos)
  if not rows:
    return
  ray = import_ray()
  summary = Summary(total, bool(extraction.audio))
  before = signal.getsignal(signal.SIGTERM)
  try:
    _connect(ray, address)
    # Ray's own handler aborts the process, without ending what it started.
    signal.signal(signal.SIGTERM, before)
    workers = _workers(ray.nodes(), extraction.encoder, num_workers)
    options = {
      "extraction": extraction.to_dict(),
      "batch_size": batch_size,
      "num_workers": workers.cpus,
    }
    logging.info(
      "Ray: %d parts for %d workers with %d CPUs and %d GPUs each",
      len(rows),
      min(workers.now, len(rows)),
      workers.cpus,
      workers.gpus,
    )
    try:
      for report in _reports(ray, rows, options, workers):
        summary.add(report)
    except ray.exceptions.RayError as error:
      raise errors.MachineError(
        f"Expected workers of Ray to extract the videos, received:"
        f" {last_line(error)} What was extracted is kept; start again to go"
        " on."
      ) from error
  finally:
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)
  summary.end()
