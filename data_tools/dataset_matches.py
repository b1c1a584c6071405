"""Videos that have the same id or the same features.

Hashes of 8 bytes find the candidates; the records of these are then read again
and compared. So a match is certain, and hashes that agree by chance cost only
time: among n different videos the chance of one such pair is below n^2 / 2^65,
3e-8 for a million.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from data_tools.label_sets import LabelSets
from records import shards
from records.apart import Apart, take_apart
from records.messages import BadRecordError

_MOST_LISTED = 5


@dataclasses.dataclass
class Matches:
  """Videos that agree in something.

  Attributes:
    num_groups: groups of videos that agree.
    num_extra: videos beyond the first one of each group.
    num_other_ids: groups whose videos have different ids.
    num_other_labels: groups whose videos have different labels.
    overlaps: {(group of files, group of files): how many of the matching things
      are in both}, the indices in order.
    examples: the first two (file, record number) of some groups.
  """

  num_groups: int = 0
  num_extra: int = 0
  num_other_ids: int = 0
  num_other_labels: int = 0
  overlaps: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  examples: list[tuple[tuple[int, int], tuple[int, int]]] = dataclasses.field(
    default_factory=list
  )


class RecordFinder:
  """Reads records again by file and number.

  Args:
    paths: of the files.
    walks: of each file its walk.
  """

  def __init__(self, paths: list[str], walks: dict[int, shards.Walk]):
    self._walks = walks
    self._reader = shards.RecordReader(paths)

  def read(self, file: int, number: int) -> Apart:
    """A record that could be read before; its arrays are copies.

    Raises:
      BadRecordError, OSError: it cannot be read now.
    """
    data = self._reader.read(file, *self._walks[file].place(number))
    return take_apart(memoryview(bytes(data)))


def candidates(hashes: np.ndarray) -> Iterator[np.ndarray]:
  """Finds equal hashes.

  Args:
    hashes: (videos,) uint64; 0 is never equal.

  Yields:
    Indices of two or more videos, in order, of one hash.
  """
  order = np.argsort(hashes, kind="stable")
  order = order[hashes[order] != 0]
  found = hashes[order]
  bounds = np.flatnonzero(np.diff(found, prepend=0, append=0) != 0)
  begins, ends = bounds[:-1], bounds[1:]
  several = ends - begins > 1
  for begin, end in zip(
    begins[several].tolist(), ends[several].tolist(), strict=True
  ):
    yield order[begin:end]


def num_candidates(hashes: np.ndarray) -> int:
  """How many videos `candidates` yields."""
  _, counts = np.unique(hashes[hashes != 0], return_counts=True)
  return int(counts[counts > 1].sum())


def same_id(one: Apart, other: Apart) -> bool:
  """Whether two videos have the same id."""
  return one.video_id == other.video_id


def same_features(one: Apart, other: Apart) -> bool:
  """Whether two videos have the same features, to the last bit."""
  if one.features.keys() != other.features.keys():
    return False
  return all(
    of.dtype == other.features[name].dtype
    and of.shape == other.features[name].shape
    and of.tobytes() == other.features[name].tobytes()
    for name, of in one.features.items()
  )


def _divide(
  group: np.ndarray,
  read: Callable[[int], Apart],
  same: Callable[[Apart, Apart], bool],
) -> list[list[tuple[int, bytes]]]:
  """Divides candidates into those that really agree.

  Returns:
    The index and id of each video, of each of the groups.
  """
  firsts: list[Apart] = []
  divided: list[list[tuple[int, bytes]]] = []
  for video in group.tolist():
    try:
      record = read(video)
    except (BadRecordError, OSError):  # the file has changed in between
      continue
    for place, first in enumerate(firsts):
      if same(first, record):
        divided[place].append((video, record.video_id))
        break
    else:
      firsts.append(record)
      divided.append([(video, record.video_id)])
  return divided


def find_matches(
  hashes: np.ndarray,
  places: np.ndarray,
  group_of_file: list[int],
  finder: RecordFinder,
  same: Callable[[Apart, Apart], bool],
  labels: LabelSets,
  on_read: Callable[[], None],
) -> Matches:
  """Finds videos that agree in what was hashed.

  Args:
    hashes: (videos,) uint64, of the ids or of the features.
    places: (videos, 2) int, index of the file and number of the record.
    group_of_file: of each file the group, such as a split, that it belongs to.
    finder: reads records again.
    same: whether two records really agree.
    labels: of the videos.
    on_read: called for each record that is read.
  """
  found = Matches()

  def read(video: int) -> Apart:
    on_read()
    file, number = places[video].tolist()
    return finder.read(file, number)

  for candidate in candidates(hashes):
    for members in _divide(candidate, read, same):
      if len(members) < 2:
        continue
      videos = [video for video, _ in members]
      found.num_groups += 1
      found.num_extra += len(members) - 1
      found.num_other_ids += len({name for _, name in members}) > 1
      label_sets = {tuple(labels.of(video)) for video in videos}
      found.num_other_labels += len(label_sets) > 1
      groups = sorted({group_of_file[places[video, 0]] for video in videos})
      for index, one in enumerate(groups):
        for other in groups[index + 1 :]:
          found.overlaps[one, other] += 1
      if len(found.examples) < _MOST_LISTED:
        one, other = (tuple(places[video].tolist()) for video in videos[:2])
        found.examples.append((one, other))
  return found
