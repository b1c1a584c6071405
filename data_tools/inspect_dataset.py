"""Shows what records hold: python -m data_tools.inspect_dataset PATTERN.

Reads all records of local files of any kind, without being told what they hold:
counts videos, frames, labels and classes, and looks for what hurts training,
such as dimensions that never change, NaN, videos that are there twice, also
in two splits, and damage. --html draws it as a page.

  python -m data_tools.inspect_dataset "frame/*.tfrecord" --html=report.html
  python -m data_tools.inspect_dataset --dataset_dir=my_data --html=report.html

PATTERN is a glob pattern, a file or the folder of a data set with dataset.json;
there may be several patterns and files. See
docs/inspecting_data.md.
"""

import collections
import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Iterator

import startup  # isort: skip
import numpy as np
from absl import flags

import errors
import program_flags
from data_tools import dataset_matches, dataset_report, vocabulary
from data_tools.dataset_facts import (
  NO_LABELS,
  Facts,
  FeatureForm,
  Part,
  PartReader,
  hash_of,
)
from data_tools.dataset_report import Inspection
from data_tools.label_sets import LabelSets
from data_tools.local_shards import (
  find_local_files,
  not_readable,
  path_of,
  patterns_of,
)
from engine import files
from engine.data_files import check_not_used, find_files
from engine.dataset_card import (
  CARD_FILE,
  SPLITS,
  VOCABULARY_FILE,
  DatasetCard,
  read_card,
)
from engine.progress_bar import Progress
from engine.train_dir import check_no_own_file
from records import shards
from records.apart import Apart
from records.messages import BadRecordError
from reports.templating import require_jinja2

FLAGS = flags.FLAGS

_PROGRAM = "data_tools.inspect_dataset"
# Bytes and records that are read by one thread at a time.
_PART_BYTES = 32 << 20
_PART_RECORDS = 4096
# Parts that wait for each thread, so that none is idle.
_PARTS_A_THREAD = 2
_WAIT_SECONDS = 0.2
_TOP_CLASSES = 20


def define_flags() -> None:
  """Defines the flags of this program."""
  data = program_flags.Subject(program_flags.DATA)
  data.string(
    "dataset_dir",
    "",
    "Folder made by data_tools.extract_features or import_embeddings, to look"
    " at all its splits.",
  )
  data.string(
    "data_pattern",
    "",
    "Glob pattern of the files to read, or several with commas between them;"
    " added to those that are typed without a flag.",
  )
  data.string(
    "vocabulary",
    "",
    "CSV with the names of the classes; empty: the vocabulary.csv of"
    " --dataset_dir or beside the files, else, for records of YouTube-8M's"
    " form, YouTube-8M's.",
  )
  data.list(
    "classes",
    [],
    "Names or indices of the classes to show; default: the most frequent ones.",
  )
  program_flags.define_num_readers()
  output = program_flags.Subject(program_flags.OUTPUT)
  output.string(
    "html",
    "",
    "Page to write, one file that needs no network; empty: none. Needs"
    " requirements/inspect.txt.",
  )
  output.string(
    "video_id",
    "",
    "Video whose features --html draws; default: the first one.",
  )


# --------------------------------------------------------------------------
# Files


@dataclasses.dataclass
class Sources:
  """What to look at.

  Attributes:
    files: paths.
    groups: names of groups of files.
    group_of_file: of each file the index of its group.
    card: of the data set, if there is one.
  """

  files: list[str]
  groups: list[str]
  group_of_file: list[int]
  card: DatasetCard | None = None


def _group_of(file: str, pattern: str) -> str:
  """The split that a file's name begins with, else the pattern."""
  name = os.path.basename(file)
  for split in SPLITS:
    if name.startswith(split):
      return split
  return "files" if os.path.exists(pattern) else pattern


def find_sources(patterns: list[str], dataset_dir: str = "") -> Sources:
  """Finds the files of a command line, and their groups.

  Args:
    patterns: see local_shards.patterns_of.
    dataset_dir: folder with a card; empty for none.

  Raises:
    errors.UserError: there are none, or both were named, or some cannot be
      read by number.
  """
  card = None
  if len(patterns) == 1 and not dataset_dir:
    folder = path_of(patterns[0])
    if os.path.exists(os.path.join(folder, CARD_FILE)):
      dataset_dir, patterns = folder, []
  if dataset_dir:
    if patterns:
      raise errors.UserError(
        f"Expected files or --dataset_dir, received both, {patterns[0]} and"
        f" {dataset_dir}. Leave out one."
      )
    card = read_card(dataset_dir)
    patterns = [
      card.pattern(dataset_dir, split)
      for split in SPLITS
      if card.splits.get(split, {}).get("videos")
    ]
  flag = "dataset_dir" if card else "data_pattern"
  found = find_local_files(patterns, flag, _PROGRAM)
  names = {}
  for pattern in patterns:
    for file in find_files(pattern, flag):
      names.setdefault(file, _group_of(file, path_of(pattern)))
  order = [*SPLITS, *names.values()]
  groups = sorted(set(names.values()), key=order.index)
  return Sources(
    found, groups, [groups.index(names[file]) for file in found], card
  )


# --------------------------------------------------------------------------
# Reading


class Scanner:
  """Reads all records of files, in several threads.

  Args:
    files: local paths.

  Attributes:
    facts: of all records read so far.
    walks: of each file its walk.
  """

  def __init__(self, files: list[str]):
    self._files = files
    self._size = sum(os.stat(file).st_size for file in files)
    self._done = 0
    self._videos = 0
    self._began = time.monotonic()
    self._progress = Progress("Read")
    self.facts = Facts()
    self.walks: dict[int, shards.Walk] = {}

  def _parts(self) -> Iterator[Part]:
    """Walks the files and divides their records."""
    for file, path in enumerate(self._files):
      try:
        walk = shards.kept_walk(path)
      except OSError as error:
        self.facts.add_damage(file, 0, not_readable(error))
        continue
      self.walks[file] = walk
      first = 0
      while True:
        limit = int(walk.offsets[first]) + _PART_BYTES
        end = int(np.searchsorted(walk.offsets, limit, "right")) - 1
        end = min(max(end, first + 1), first + _PART_RECORDS, len(walk))
        yield Part(file, path, walk, first, end)
        first = end
        if first >= len(walk):
          break

  def run(self, num_threads: int) -> None:
    """Reads everything, and shows how far this is.

    Args:
      num_threads: parts that are read at the same time.
    """
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    waiting: collections.deque = collections.deque()
    try:
      for part in self._parts():
        waiting.append((part, pool.submit(PartReader(part).read)))
        while len(waiting) > num_threads * _PARTS_A_THREAD:
          self._take(*waiting.popleft())
      while waiting:
        self._take(*waiting.popleft())
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
      self._progress.end()

  def _take(self, part: Part, future: concurrent.futures.Future) -> None:
    """Adds the facts of a part when they are there."""
    while not concurrent.futures.wait([future], _WAIT_SECONDS).done:
      self._show()
    self.facts.merge(future.result())
    self._done += part.size
    self._videos += part.end - part.first
    self._show()

  def _show(self) -> None:
    if self._progress.is_due():
      seconds = time.monotonic() - self._began
      self._progress.show(
        self._done / max(self._size, 1),
        f"{self._done / 1e6:.0f} of {self._size / 1e6:.0f} MB,"
        f" {self._videos} records, {self._videos / seconds:.0f} a second",
      )


class _Comparisons:
  """Shows how far the comparison of candidates is.

  Args:
    total: how many records will be read again.
  """

  def __init__(self, total: int):
    self._total = total
    self._done = 0
    self._progress = Progress("Compared")

  def __enter__(self) -> "_Comparisons":
    return self

  def __exit__(self, *_) -> None:
    self._progress.end()

  def count(self) -> None:
    """Counts a record."""
    self._done += 1
    if self._progress.is_due():
      self._progress.show(
        self._done / self._total,
        f"{self._done} of {self._total} videos that may be there twice",
      )


# --------------------------------------------------------------------------
# Names of classes


def _looks_like_youtube_8m(forms: list[FeatureForm]) -> bool:
  """Whether a feature has the name, size and dtype of the visual one."""
  return (
    FeatureForm("rgb", "uint8", 1024, True) in forms
    or FeatureForm("mean_rgb", "float32", 1024, False) in forms
  )


def find_names(
  path: str, sources: Sources, facts: Facts, largest: int
) -> tuple[dict[int, str], str]:
  """Finds the names of the classes.

  Args:
    path: of a vocabulary; empty to look for one.
    sources: the files.
    facts: what they hold.
    largest: the largest class that occurs.

  Returns:
    {class: name}, and where they are from; both empty if they are not known.

  Raises:
    errors.UserError: the file is no vocabulary.
  """
  if path:
    with startup.naming_flag("vocabulary"):
      return vocabulary.read_names(path), path
  folder = os.path.dirname(os.path.abspath(sources.files[0]))
  for near in (folder, os.path.dirname(folder)):
    beside = os.path.join(near, VOCABULARY_FILE)
    if os.path.isfile(beside):
      try:
        names = vocabulary.read_names(beside)
      except errors.UserError:  # a file of someone else
        continue
      if max(names, default=-1) >= largest:
        return names, beside
  if largest < vocabulary.NUM_YOUTUBE_8M_CLASSES and _looks_like_youtube_8m(
    list(facts.moments)
  ):
    return vocabulary.read_names(vocabulary.YOUTUBE_8M_FILE), "YouTube-8M's"
  return {}, ""


def choose_classes(
  wanted: list[str], names: dict[int, str], counts: dict[int, int]
) -> list[int]:
  """The classes to show.

  Args:
    wanted: names or indices; empty: the most frequent ones.
    names: {class: name}.
    counts: {class: videos}, the most frequent first.

  Raises:
    errors.UserError: one is not known.
  """
  if not wanted:
    return list(counts)[:_TOP_CLASSES]
  index_of = {name: index for index, name in reversed(names.items())}
  chosen = []
  for word in wanted:
    index = index_of.get(word)
    if index is None and word.isdecimal() and word.isascii():
      index = int(word)
    if index is None or not (index in names or index in counts):
      raise errors.UserError(
        "Expected names or indices of classes as --classes, received"
        f" {word!r}, which neither the vocabulary nor the records have. A name"
        " with a comma needs double quotes around it."
      )
    chosen.append(index)
  return list(dict.fromkeys(chosen))


# --------------------------------------------------------------------------
# The program


def inspect(
  sources: Sources, vocabulary_file: str = "", num_threads: int = 2
) -> tuple[Inspection, dataset_matches.RecordFinder]:
  """Reads files and finds out what they hold.

  Args:
    sources: the files.
    vocabulary_file: see find_names.
    num_threads: that read.

  Returns:
    What was found, and what reads single records again.

  Raises:
    errors.UserError: the vocabulary cannot be read.
  """
  began = time.monotonic()
  scanner = Scanner(sources.files)
  scanner.run(num_threads)
  facts = scanner.facts
  places = _joined(facts.places, (0, 2))
  ids, features = _joined(facts.ids), _joined(facts.features)
  num_labels = _joined(facts.num_labels)
  labels = LabelSets(np.maximum(num_labels, 0), _joined(facts.labels))
  largest = max(labels.counts, default=-1)
  names, names_from = find_names(vocabulary_file, sources, facts, largest)
  finder = dataset_matches.RecordFinder(sources.files, scanner.walks)
  matches = []
  for hashes, same in (
    (ids, dataset_matches.same_id),
    (features, dataset_matches.same_features),
  ):
    total = dataset_matches.num_candidates(hashes)
    with _Comparisons(total) as comparisons:
      matches.append(
        dataset_matches.find_matches(
          hashes,
          places,
          sources.group_of_file,
          finder,
          same,
          labels,
          comparisons.count,
        )
      )
  num_classes = max(names, default=-1) + 1
  if sources.card:
    num_classes = sources.card.num_classes
  inspection = Inspection(
    files=sources.files,
    groups=sources.groups,
    group_of_file=sources.group_of_file,
    facts=facts,
    places=places,
    ids=ids,
    has_labels=num_labels != NO_LABELS,
    labels=labels,
    same_ids=matches[0],
    same_features=matches[1],
    names=names,
    names_from=names_from,
    num_classes=num_classes,
    ranges=sources.card.byte_ranges() if sources.card else {},
    seconds=time.monotonic() - began,
  )
  return inspection, finder


def _joined(parts: list[np.ndarray], empty=(0,)) -> np.ndarray:
  """The concatenation of arrays, which are freed."""
  joined = np.concatenate(parts) if parts else np.zeros(empty, np.int32)
  parts.clear()
  return joined


def find_video(
  video_id: str,
  inspection: Inspection,
  finder: dataset_matches.RecordFinder,
) -> Apart | None:
  """Finds a video by its id; the first one that has features without one.

  Returns:
    None if no video has features.

  Raises:
    errors.UserError: there is no such video.
  """
  if video_id:
    wanted = os.fsencode(video_id)
    videos = np.flatnonzero(inspection.ids == np.uint64(hash_of(wanted)))
  else:
    wanted, videos = None, np.arange(min(len(inspection.ids), 1000))
  for video in videos.tolist():
    try:
      record = finder.read(*inspection.places[video].tolist())
    except (BadRecordError, OSError):  # the file has changed in between
      continue
    if record.video_id == wanted or (wanted is None and record.has_numbers):
      return record
  if wanted is None:
    return None
  raise errors.UserError(
    f"Expected the id of a video in these files as --video_id, received"
    f" {video_id}, which none has. Leave it out to draw the first video."
  )


def main(arguments: list[str]) -> None:
  """Looks at the files that the command line names.

  Args:
    arguments: patterns, or files.

  Raises:
    errors.UserError: something is damaged; a flag is wrong.
  """
  write_page = None
  if FLAGS.html:
    write_page = _page_writer()
  sources = find_sources(
    patterns_of(arguments, FLAGS.data_pattern), FLAGS.dataset_dir
  )
  check_not_used(FLAGS.html, "html", [*sources.files, FLAGS.vocabulary])
  check_no_own_file(FLAGS.html, "html")
  inspection, finder = inspect(sources, FLAGS.vocabulary, FLAGS.num_readers)
  classes = choose_classes(
    FLAGS.classes, inspection.names, inspection.labels.counts
  )
  findings = dataset_report.find(inspection)
  print(dataset_report.report(inspection, classes, findings))
  if write_page:
    video = find_video(FLAGS.video_id, inspection, finder)
    with startup.naming_flag("html"), files.written_aside(FLAGS.html) as aside:
      write_page(aside, inspection, classes, findings, video)
    print(f"Page: {FLAGS.html}")
  total = inspection.total()
  num_damaged = sum(total.damage.values())
  if num_damaged:
    num_files = sum(bool(of.damage) for of in inspection.facts.files.values())
    raise errors.UserError(
      f"Expected records that can all be read, received {num_damaged} that"
      f" cannot, in {num_files} of {len(sources.files)} files, as said above."
      " Download or make these files again."
    )


def _page_writer():
  """The function that writes the page, if its libraries are there.

  Raises:
    errors.UserError: one is missing.
  """
  require_jinja2("requirements/inspect.txt")
  try:
    from reports.dataset_page import write_page
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"Expected the package {error.name} for --html, found none. Install it:"
      " pip install -r requirements/inspect.txt, or leave out --html."
    ) from error
  return write_page


if __name__ == "__main__":
  define_flags()
  startup.run(main)
