"""Downloads YouTube-8M, whole or in part: python -m data_tools.download.

Goes on where it was stopped, also inside a file, and verifies each file's md5.
A rerun fetches only what is missing or damaged. Ends with exit status 1 while
anything is missing.

  python -m data_tools.download --partition=2/frame/train --shard=1,100
    --output_dir="$HOME/yt8m/2/frame"

fetches a hundredth of the frame-level training data. See docs/download.md.
"""

import contextlib
import csv
import json
import os
import queue
import shutil
import threading
import time

import command_line  # isort: skip
from absl import flags, logging

import errors
from data_tools import fetching
from data_tools.download_plan import (
  MIRRORS,
  Shard,
  Source,
  local_name,
  parse_plan,
)
from data_tools.fetching import NotFetchedError, RemoteFile, Retries
from engine import local_files
from engine.progress_bar import ProgressBar

VOCABULARY = "vocabulary.csv"

_PROGRESS_SECONDS = 30.0
_REDRAW_SECONDS = 0.2
# Files whose sizes are asked for, to estimate the size of all.
_NUM_SAMPLED = 8
# Of files that fail one after the other, in all connections.
_MOST_FAILED = 12
_MOST_NAMED = 5
# How long the connections have to end; what they wrote is on the disk.
_END_SECONDS = 2.0


class _VerifiedFiles:
  """Remembers in a CSV file beside the data which files were verified.

  A file counts as verified as long as its size and time stay the same. Several
  processes may add lines.

  Args:
    path: of the CSV file.
  """

  _COLUMNS = ["file", "md5", "bytes", "changed_ns"]

  def __init__(self, path: str):
    self._path = path
    self._rows: dict[str, list[str]] = {}
    self._lock = threading.Lock()
    # Without a list, or with a damaged one, each file is verified again.
    with (
      contextlib.suppress(FileNotFoundError, csv.Error),
      open(path, encoding="utf-8", errors="replace", newline="") as file,
    ):
      # A line that was cut off verifies nothing.
      self._rows = {row[0]: row for row in csv.reader(file) if row}

  @classmethod
  def _row(cls, file: RemoteFile) -> list[str]:
    found = os.stat(file.path)
    # Not the time of modification, which programs that copy files set.
    sizes = str(found.st_size), str(found.st_ctime_ns)
    return [file.name, file.md5, *sizes]

  def has(self, file: RemoteFile) -> bool:
    """Whether a file of this name was verified once."""
    return file.name in self._rows

  def is_verified(self, file: RemoteFile) -> bool:
    """Whether a file that is here was verified and has not changed since."""
    return self._rows.get(file.name) == self._row(file)

  def add(self, file: RemoteFile) -> None:
    """Remembers that a file is verified."""
    with self._lock:
      is_new = not os.path.exists(self._path)
      with open(self._path, "a", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        if is_new:
          writer.writerow(self._COLUMNS)
        self._rows[file.name] = self._row(file)
        writer.writerow(self._rows[file.name])


# --------------------------------------------------------------------------
# The folder


def find_here(
  source: Source, plan: dict[str, str], folder: str, verified: _VerifiedFiles
) -> list[RemoteFile]:
  """Looks which files of a plan are in a folder; reads none of them.

  Args:
    source: of the plan.
    plan: {remote name: md5}.
    folder: where the files are to be.
    verified: the files that need not be read again.

  Returns:
    The files. Those that are verified have is_good.
  """
  files = []
  for name, md5 in plan.items():
    path = os.path.join(folder, local_name(name))
    file = RemoteFile(source.file_url(name), path, md5)
    if os.path.isfile(path):
      file.is_here = True
      file.size = os.path.getsize(path)
      file.is_good = verified.is_verified(file)
    elif os.path.isfile(file.part_path):
      file.done_bytes = os.path.getsize(file.part_path)
    files.append(file)
  return files


def ask_for_sizes(files: list[RemoteFile]) -> None:
  """Asks for the sizes of a few missing files, from which others follow."""
  missing = [file for file in files if not file.is_here]
  step = -(-len(missing) // _NUM_SAMPLED) or 1
  try:
    for file in missing[::step]:
      file.size = fetching.remote_size(file.url)
  except NotFetchedError as error:
    logging.info("The sizes are not known yet (%s: %s).", file.url, error)


def mean_size(files: list[RemoteFile]) -> float | None:
  """The mean of the sizes that are known; None if none is."""
  known = [file.size for file in files if file.size is not None]
  return sum(known) / len(known) if known else None


def missing_bytes(files: list[RemoteFile]) -> float | None:
  """About how much is still to be fetched; None if no size is known."""
  missing = [file for file in files if not file.is_here]
  mean = mean_size(files)
  if mean is None:
    return None if missing else 0.0
  return sum(
    max(0.0, (mean if file.size is None else file.size) - file.done_bytes)
    for file in missing
  )


def _free_bytes(folder: str) -> int:
  """The free space of the disk that a folder is on, or would be."""
  folder = os.path.abspath(folder)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  return shutil.disk_usage(folder).free


def _shown(num_bytes: float) -> str:
  """A size as text."""
  if num_bytes < 1e9:
    return f"{num_bytes / 1e6:,.1f} MB"
  return f"{num_bytes / 1e9:,.1f} GB"


def check_room(files: list[RemoteFile], folder: str) -> None:
  """Compares what is missing with the free disk.

  Raises:
    errors.MachineError: it does not fit.
  """
  needed, free = missing_bytes(files) or 0.0, _free_bytes(folder)
  if needed > free:
    raise errors.MachineError(
      f"Expected about {_shown(needed)} of free disk for the"
      f" {sum(not file.is_here for file in files)} files that are missing,"
      f" received {_shown(free)} in {folder}. Use another disk, free space,"
      " or take fewer files by --shard. What is complete stays."
    )


def _summary(files: list[RemoteFile], num_all: int, folder: str) -> str:
  """What there is, and what there is to do, as text."""
  num_good = sum(file.is_good for file in files)
  num_unknown = sum(file.is_here and not file.is_good for file in files)
  missing = [file for file in files if not file.is_here]
  num_parts = sum(file.done_bytes > 0 for file in missing)
  needed = missing_bytes(files)
  size = "of unknown size" if needed is None else f"about {_shown(needed)}"
  return "\n".join(
    [
      f"{len(files)} of {num_all} files, in {folder}:",
      f"  {num_good} verified",
      f"  {num_unknown} to verify",
      f"  {len(missing)} to download, {num_parts} of them in part: {size};"
      f" {_shown(_free_bytes(folder))} are free",
    ]
  )


def _named(files: list[RemoteFile]) -> str:
  """Some remote and local names."""
  return "\n".join(
    f"  {file.url} -> {file.name}" for file in files[:_MOST_NAMED]
  )


# --------------------------------------------------------------------------
# Downloading


class Downloader:
  """Brings files into a folder, several at a time.

  Args:
    files: what to bring, those that are good left out.
    folder: where to.
    verified: to be told of each file.
    max_retries: of a file, in a row.
  """

  def __init__(
    self,
    files: list[RemoteFile],
    folder: str,
    verified: _VerifiedFiles,
    max_retries: int,
  ):
    self._files = files
    self._folder = folder
    self._verified = verified
    self._max_retries = max_retries
    self._waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    for file in files:
      self._waiting.put(file)
    self._must_stop = threading.Event()
    self._fatal: BaseException | None = None
    self._num_failed = 0  # in a row

  def run(self, num_connections: int) -> None:
    """Brings all files; those that cannot be brought have a problem.

    Args:
      num_connections: how many files to fetch at the same time.

    Raises:
      errors.UserError: the disk is too full, or cannot be written.
    """
    # A thread that waits for the network must not delay the end after Ctrl-C.
    threads = [
      threading.Thread(target=self._work, daemon=True)
      for _ in range(min(num_connections, len(self._files)))
    ]
    progress = _Progress(self._files)
    for thread in threads:
      thread.start()
    try:
      for thread in threads:
        while thread.is_alive():
          thread.join(_REDRAW_SECONDS)
          progress.show()
    finally:
      self._must_stop.set()
      give_up = time.monotonic() + _END_SECONDS
      for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
      progress.end()
    if self._fatal:
      raise self._fatal

  def _work(self) -> None:
    """Brings files until none is waiting."""
    try:
      while not self._must_stop.is_set():
        try:
          file = self._waiting.get_nowait()
        except queue.Empty:
          return
        try:
          self._bring(file)
          self._num_failed = 0
        except NotFetchedError as error:
          file.problem = str(error)
          logging.warning("%s is left out: %s.", file.name, error)
          self._num_failed += 1
          if self._num_failed == _MOST_FAILED:
            logging.warning("Stopped: %d files in a row failed.", _MOST_FAILED)
            self._must_stop.set()
    except fetching.StoppedError:
      pass
    except OSError as error:
      self._stop(
        errors.of_system(
          error,
          "Expected an --output_dir that can be written and read, received"
          f" {self._folder}: {error.strerror or error}. Free space or change"
          " the rights; then the same command goes on where it was.",
        )
      )
    except BaseException as error:  # raised in the main thread
      self._stop(error)

  def _stop(self, error: BaseException) -> None:
    """Makes all threads end because of an error."""
    self._fatal = self._fatal or error
    self._must_stop.set()

  def _bring(self, file: RemoteFile) -> None:
    """Verifies a file if it is here, else fetches it."""
    if not file.is_here or not self._is_right(file):
      fetching.fetch_file(
        file,
        Retries(self._max_retries, self._must_stop),
        self._must_stop,
        lambda: check_room(self._files, self._folder),
      )
    file.is_here = file.is_good = True
    self._verified.add(file)

  def _is_right(self, file: RemoteFile) -> bool:
    """Reads a file and compares its md5."""

    def show(num_bytes: int) -> None:
      file.done_bytes = num_bytes

    with open(file.path, "rb", buffering=0) as content:
      digest = fetching.md5_of(content.fileno(), self._must_stop, show)
    if digest.hexdigest() == file.md5:
      return True
    if not self._verified.has(file):
      # It may be something else that has the same name.
      raise NotFetchedError(
        f"another file has this name, with the md5 {digest.hexdigest()}; delete"
        " it to download this one",
        may_pass=False,
      )
    logging.warning("%s is damaged, and is downloaded again.", file.name)
    file.is_here, file.size, file.done_bytes = False, None, 0
    return False


class _Progress:
  """Shows how far a download is: by a bar, or by a line now and then."""

  def __init__(self, files: list[RemoteFile]):
    self._files = files
    self._bar = ProgressBar()
    self._done_before = self._done_bytes()
    self._began = self._last = time.monotonic()

  def _done_bytes(self) -> int:
    return sum(file.done_bytes for file in self._files)

  def show(self) -> None:
    """Draws the bar, or writes a line if it is time."""
    now = time.monotonic()
    wait = _REDRAW_SECONDS if self._bar.is_on_terminal else _PROGRESS_SECONDS
    if now - self._last < wait:
      return
    self._last = now
    done = self._done_bytes()
    rate = max(0, done - self._done_before) / 1e6 / (now - self._began)
    num_good = sum(file.is_good for file in self._files)
    of = ""
    share = num_good / len(self._files)
    if mean := mean_size(self._files):
      total = sum(
        mean if file.size is None else file.size for file in self._files
      )
      share, of = min(done / total, 1.0), f" of {total / 1e9:.2f}"
    text = (
      f"{num_good} of {len(self._files)} files, {done / 1e9:.2f}{of} GB,"
      f" {rate:.1f} MB/s"
    )
    if self._bar.is_on_terminal:
      self._bar.begin(share)
      self._bar.draw(share, text)
    else:
      logging.info("%s", text)

  def end(self) -> None:
    """Ends the bar."""
    self._bar.end()


# --------------------------------------------------------------------------
# The program


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "partition",
    None,
    "What to download: VERSION/LEVEL/SPLIT, such as 2/frame/train,"
    " 2/video/validate or, with rated segments, 3/frame/validate; required.",
  )
  flags.DEFINE_enum("mirror", MIRRORS[0], MIRRORS, "The mirror nearest to you.")
  flags.DEFINE_string(
    "base_url",
    "",
    "Address of your own mirror, such as http://192.168.0.5:8000, which has the"
    " plan and the files under the official paths; instead of --mirror.",
  )
  flags.DEFINE_string(
    "shard",
    "1,1",
    "Which part of the files, as i,n: the i-th of n parts; 1,100 is a"
    " hundredth, 1,1 all.",
  )
  flags.DEFINE_string(
    "output_dir",
    None,
    "The folder for the files, one for each version and level; required.",
  )
  flags.DEFINE_bool(
    "with_vocabulary", False, f"Also fetch {VOCABULARY}, the class names."
  )
  flags.DEFINE_integer(
    "num_connections",
    4,
    "Files to fetch at the same time.",
    lower_bound=1,
    upper_bound=64,
  )
  flags.DEFINE_integer(
    "max_retries",
    8,
    "Retries of a file without progress, each after a longer wait, from 1 s to"
    " 1 minute.",
    lower_bound=0,
  )
  flags.DEFINE_bool(
    "verify",
    False,
    "Read again all files that are here, also those that were verified and have"
    " kept their size and time.",
  )
  flags.DEFINE_bool(
    "dry_run", False, "Only say what there is to do; write nothing."
  )


def _fetch_plan(source: Source, retries: Retries) -> dict[str, str]:
  """Fetches the plan of a partition.

  Raises:
    errors.UserError: it cannot be had.
  """
  try:
    return parse_plan(fetching.fetch_small(source.plan_url, retries), source)
  except NotFetchedError as error:
    kind = errors.MachineError if error.may_pass else errors.UserError
    raise kind(
      f"Expected the plan of {source.partition} at {source.plan_url}, received:"
      f" {error}. Check the network and --partition, or name a mirror of your"
      " own by --base_url."
    ) from error


def _check_folder(plan_path: str, source: Source) -> None:
  """Checks that a folder does not hold another partition of the same names.

  Raises:
    errors.UserError: it does.
  """
  try:
    with open(plan_path, encoding="utf-8") as file:
      kept = errors.parse_json(file.read())["partition"]
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return
  if kept != source.partition:
    raise errors.UserError(
      f"Expected an --output_dir for {source.partition}, received"
      f" {os.path.dirname(plan_path)}, which holds {kept}, whose files have the"
      " same names. Name another folder."
    )


def _fetch_vocabulary(source: Source, folder: str, retries: Retries) -> str:
  """Fetches the class names, unless they are there.

  Returns:
    Why they are missing; empty if they are not.
  """
  path = os.path.join(folder, VOCABULARY)
  if os.path.exists(path):
    return ""
  try:
    content = fetching.fetch_small(source.vocabulary_url, retries)
    if not content.startswith(b"Index,"):
      raise NotFetchedError("something else")
  except NotFetchedError as error:
    advice = "leave out --with_vocabulary, or copy the file from elsewhere"
    if not source.base_url:
      advice = f"the official address has begun to refuse: {advice}"
    return f"{source.vocabulary_url}: {error}; {advice}"
  local_files.write_whole(path, content)
  return ""


def _report(files: list[RemoteFile], vocabulary_problem: str) -> None:
  """Ends the program.

  Raises:
    errors.MachineError: something is missing; says what.
  """
  missing = [file for file in files if not file.is_good]
  problems = [
    f"{file.name} ({file.problem})" for file in missing if file.problem
  ][:_MOST_NAMED]
  if len(missing) > len(problems):
    problems.append(f"and {len(missing) - len(problems)} more")
  if vocabulary_problem:
    problems.append(f"{VOCABULARY} ({vocabulary_problem})")
  if problems:
    raise errors.MachineError(
      f"Expected {len(files)} files, received {len(files) - len(missing)}."
      f" Missing: {', '.join(problems)}. Run the same command again: it fetches"
      " only what is missing."
    )


def _required(name: str, example: str) -> str:
  """The value of a flag without a default.

  Raises:
    errors.UserError: it was not typed.
  """
  value = flags.FLAGS[name].value
  if not value:
    raise errors.UserError(
      f"Expected --{name}, received none. Write --{name}={example}."
    )
  return value


def main() -> None:
  """Downloads what the flags name.

  Raises:
    errors.UserError: a flag is wrong.
    errors.MachineError: the disk is too full, or something is missing at the
      end.
  """
  values = flags.FLAGS
  source = Source(
    _required("partition", "2/frame/train"), values.mirror, values.base_url
  )
  shard = Shard.parse(values.shard)
  folder = _required("output_dir", "FOLDER")
  if "://" in folder:
    raise errors.UserError(
      f"Expected an --output_dir on a disk of this machine, received {folder}."
      " Download to a disk and copy the files from there."
    )
  retries = Retries(values.max_retries, threading.Event())
  plan_path = os.path.join(folder, f"download_plan_{source.split}.json")
  _check_folder(plan_path, source)
  whole = _fetch_plan(source, retries)
  plan = {name: md5 for name, md5 in whole.items() if shard.keeps(name)}
  if not plan:
    raise errors.UserError(
      f"Expected a --shard that has files, received {values.shard}: none of"
      f" {len(whole)} is in it. Take a larger part or another one."
    )
  verified = _VerifiedFiles(
    os.path.join(folder, f"downloaded_{source.split}.csv")
  )
  files = find_here(source, plan, folder, verified)
  if values.verify:
    for file in files:
      file.is_good = False
  ask_for_sizes(files)
  summary = _summary(files, len(whole), folder)
  if values.dry_run:
    print(f"{summary}\n{_named(files)}")
    check_room(files, folder)
    return
  logging.info("%s", summary)
  check_room(files, folder)
  os.makedirs(folder, exist_ok=True)
  content = json.dumps({"partition": source.partition, "files": whole})
  local_files.write_whole(plan_path, content.encode())
  vocabulary_problem = ""
  if values.with_vocabulary:
    retries.begin_again()
    vocabulary_problem = _fetch_vocabulary(source, folder, retries)
  to_do = [file for file in files if not file.is_good]
  if to_do:
    downloader = Downloader(to_do, folder, verified, values.max_retries)
    downloader.run(values.num_connections)
  _report(files, vocabulary_problem)
  logging.info("All %d files are in %s.", len(files), folder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
