"""What records hold, in numbers: counts, ranges, and hashes to compare by.

A part is a row of records of one file. It is read by one thread, and the facts
of parts are then added to each other, in order, so that the result does not
depend on which thread was first.
"""

import collections
import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from data_tools.local_shards import not_readable
from records import shards
from records.apart import Apart, is_example, take_apart
from records.messages import BadRecordError
from records.vectors import Alike, take_apart_alike

# Frames of a video that means, spreads and hashes are of; neighbors are alike.
MOST_SAMPLED = 32
# Forms of records that are told apart; a damaged set may have any number.
_MOST_KINDS = 16
_MOST_LISTED = 5
# Rows whose sums are computed together, in float32.
_BLOCK_ROWS = 1024
# Bytes and records that are read at once.
_ROW_BYTES = 4 << 20
_ROW_RECORDS = 512

NO_LABELS = -1
"""In `Facts.num_labels`: the record has no feature labels."""


class FeatureForm(NamedTuple):
  """A feature as it is stored.

  Attributes:
    name: of the feature.
    dtype: "uint8", "float16" or "float32".
    size: numbers of a frame, or of a video.
    is_frame_level: whether there are several frames.
  """

  name: str
  dtype: str
  size: int
  is_frame_level: bool


Kind = tuple[FeatureForm, ...]
"""The features of a record, by name: what a model must be built for."""


def kind_of(record: Apart) -> Kind:
  """The kind of a record."""
  return tuple(
    FeatureForm(name, of.dtype.name, of.shape[-1], record.is_frame_level)
    for name, of in sorted(record.features.items())
  )


def sample_of(values: np.ndarray) -> np.ndarray:
  """At most MOST_SAMPLED evenly spaced frames, or the vector of a video."""
  if values.ndim == 1:
    return values
  return values[:: -(-len(values) // MOST_SAMPLED) or 1]


def hash_of(content: bytes) -> int:
  """A hash of 8 bytes, above 0."""
  digest = hashlib.blake2b(content, digest_size=8).digest()
  return int.from_bytes(digest, "little") or 1


def hash_of_features(features: dict[str, np.ndarray]) -> int:
  """A hash of 8 bytes of what `sample_of` takes of each feature.

  Features that are identical have the same hash. Others with the same hash must
  be told apart by comparing them.
  """
  digest = hashlib.blake2b(digest_size=8)
  for name, values in sorted(features.items()):
    digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
    digest.update(np.ascontiguousarray(sample_of(values)).data)
  return int.from_bytes(digest.digest(), "little") or 1


# --------------------------------------------------------------------------
# The numbers of a feature


def _flipped(keys: np.ndarray) -> np.ndarray:
  """Maps float16 bits to integers of the same order, and back."""
  return keys ^ ((keys >> 15) & 0x7FFF)


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The least and the largest number of each column, float32.

  Where some are not finite, at least one of the two is not finite either.
  """
  if values.dtype != np.float16:
    with np.errstate(invalid="ignore"):
      extremes = values.min(axis=0), values.max(axis=0)
  else:  # NumPy compares float16 as slowly as Python does
    keys = _flipped(np.ascontiguousarray(values).view(np.int16))
    extremes = tuple(
      _flipped(found).view(np.float16)
      for found in (keys.min(axis=0), keys.max(axis=0))
    )
  least, most = (found.astype(np.float32) for found in extremes)
  return least, most


class Moments:
  """Ranges, means and spreads of the numbers of a feature.

  Args:
    size: numbers of a frame, or of a video.

  Attributes:
    least: (size,) float32, the least finite number of each dimension.
    most: (size,) float32, the largest one.
    num_nan: numbers that are not a number.
    num_infinite: infinite ones.
    num_videos: that have the feature.
  """

  def __init__(self, size: int):
    self.least = np.full(size, np.inf, np.float32)
    self.most = np.full(size, -np.inf, np.float32)
    self.num_nan = self.num_infinite = self.num_videos = 0
    self._count = 0
    self._mean = np.zeros(size)
    self._squares = np.zeros(size)  # sum of squared differences from the mean
    self._pending: list[np.ndarray] = []
    self._num_pending = 0

  def add(self, values: np.ndarray, sample: np.ndarray, videos: int) -> bool:
    """Adds frames, or videos.

    Args:
      values: (rows, size), for the ranges.
      sample: some of the rows, for means and spreads.
      videos: how many have these rows.

    Returns:
      Whether all numbers are finite.
    """
    self.num_videos += videos
    least, most = _extremes(values)
    is_finite = bool(np.isfinite(least).all() and np.isfinite(most).all())
    if not is_finite:
      is_number = np.isfinite(values)
      num_nan = int(np.isnan(values).sum())
      self.num_nan += num_nan
      self.num_infinite += int(values.size - is_number.sum()) - num_nan
      floats = values.astype(np.float32)
      least = np.where(is_number, floats, np.inf).min(axis=0)
      most = np.where(is_number, floats, -np.inf).max(axis=0)
      sample = sample[np.isfinite(sample).all(axis=1)]
    np.minimum(self.least, least, out=self.least)
    np.maximum(self.most, most, out=self.most)
    # A copy: the values may be a view of memory that is used again.
    self._pending.append(sample.astype(np.float32))
    self._num_pending += len(sample)
    if self._num_pending >= _BLOCK_ROWS:
      self.flush()
    return is_finite

  def flush(self) -> None:
    """Adds what waits to means and spreads."""
    if self._num_pending:
      block = np.concatenate(self._pending)
      mean = block.mean(axis=0)
      block -= mean
      squares = np.einsum("ij,ij->j", block, block)
      self._combine(len(block), mean.astype(float), squares.astype(float))
    self._pending, self._num_pending = [], 0

  def _combine(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
    """Adds the moments of other rows (Chan, Golub, LeVeque 1979, eq. 2.1)."""
    total = self._count + count
    if not count:
      return
    difference = mean - self._mean
    self._mean += difference * (count / total)
    self._squares += squares + difference**2 * (self._count * count / total)
    self._count = total

  def merge(self, other: "Moments") -> None:
    """Adds those of other records; both have been flushed."""
    self._combine(other._count, other._mean, other._squares)
    np.minimum(self.least, other.least, out=self.least)
    np.maximum(self.most, other.most, out=self.most)
    self.num_nan += other.num_nan
    self.num_infinite += other.num_infinite
    self.num_videos += other.num_videos

  @property
  def mean(self) -> np.ndarray:
    """(size,) float64, the mean of each dimension."""
    return self._mean

  @property
  def spread(self) -> np.ndarray:
    """(size,) float64, the standard deviation of each dimension."""
    return np.sqrt(self._squares / max(self._count, 1))

  @property
  def is_constant(self) -> np.ndarray:
    """(size,) bool, the dimensions that never change."""
    return self.least == self.most

  @property
  def is_zero(self) -> np.ndarray:
    """(size,) bool, the dimensions in which only 0 (or byte 0) is stored."""
    return self.is_constant & (self.least == 0)


# --------------------------------------------------------------------------
# Facts


@dataclasses.dataclass
class FileFacts:
  """What a file holds.

  Attributes:
    num_videos: good records.
    num_frames: of these.
    num_labels: of these.
    num_empty: videos without any label.
    damage: how many records cannot be used, by what is wrong.
    lost_bytes: after the last record that can be found.
  """

  num_videos: int = 0
  num_frames: int = 0
  num_labels: int = 0
  num_empty: int = 0
  lost_bytes: int = 0
  damage: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def merge(self, other: "FileFacts") -> None:
    """Adds another file, or another part of this one."""
    self.num_videos += other.num_videos
    self.num_frames += other.num_frames
    self.num_labels += other.num_labels
    self.num_empty += other.num_empty
    self.lost_bytes += other.lost_bytes
    self.damage.update(other.damage)


class Part(NamedTuple):
  """A row of records of a file.

  Attributes:
    file: index of the path.
    path: of the file.
    walk: where its records are.
    first: number of the first record.
    end: number after the last one.
  """

  file: int
  path: str
  walk: shards.Walk
  first: int
  end: int

  @property
  def size(self) -> int:
    """Bytes of the records, and of what is lost after the file's last one."""
    offsets = self.walk.offsets
    size = int(offsets[self.end] - offsets[self.first])
    if self.end == len(self.walk):
      size += self.walk.lost_bytes
    return size


class Facts:
  """What records hold; of a part at first.

  For each good record, in order, it keeps 28 bytes, and 4 for each label.

  Attributes:
    places: [(records, 2) int32 array], index of the file and record number.
    ids: [(records,) uint64 array], hashes of the ids.
    features: [(records,) uint64 array], hashes of the features; 0 without any.
    num_labels: [(records,) int32 array], labels, or NO_LABELS.
    labels: [(labels,) int32 array] of all records.
    frames: {number of frames: videos} of frame-level records.
    files: {index of a file: FileFacts}.
    kinds: {kind: records}; the key () counts those beyond _MOST_KINDS.
    first_of_kind: {kind: (file, record number)}.
    moments: {form of a feature: its numbers}.
    damage: {what is wrong: the first (file, record number, message)}.
    not_finite: (file, record number) of videos with NaN or infinity, a few.
    num_not_finite: how many there are.
    num_segments: rated ones.
    ratings: {class: [negative, positive] ratings}.
  """

  def __init__(self):
    self.places: list[np.ndarray] = []
    self.ids: list[np.ndarray] = []
    self.features: list[np.ndarray] = []
    self.num_labels: list[np.ndarray] = []
    self.labels: list[np.ndarray] = []
    self.frames = collections.Counter()
    self.files: dict[int, FileFacts] = {}
    self.kinds: collections.Counter[Kind] = collections.Counter()
    self.first_of_kind: dict[Kind, tuple[int, int]] = {}
    self.moments: dict[FeatureForm, Moments] = {}
    self.damage: dict[str, tuple[int, int, str]] = {}
    self.not_finite: list[tuple[int, int]] = []
    self.num_not_finite = 0
    self.num_segments = 0
    self.ratings: dict[int, list[int]] = {}

  def add_damage(self, file: int, number: int, error: BadRecordError) -> None:
    """Counts a record that cannot be used."""
    self.files.setdefault(file, FileFacts()).damage[error.kind] += 1
    self.damage.setdefault(error.kind, (file, number, str(error)))

  def known_kind(self, kind: Kind, place: tuple[int, int], count: int) -> bool:
    """Counts records of a kind; whether it is one of those told apart."""
    is_known = kind in self.kinds or len(self.kinds) < _MOST_KINDS
    self.kinds[kind if is_known else ()] += count
    if is_known:
      first = self.first_of_kind.get(kind, place)
      self.first_of_kind[kind] = min(first, place)
    return is_known

  def merge(self, other: "Facts") -> None:
    """Adds the facts of records that follow."""
    self.places += other.places
    self.ids += other.ids
    self.features += other.features
    self.num_labels += other.num_labels
    self.labels += other.labels
    self.frames.update(other.frames)
    for file, facts in other.files.items():
      self.files.setdefault(file, FileFacts()).merge(facts)
    for kind, count in other.kinds.items():
      if not kind:
        self.kinds[()] += count
      elif self.known_kind(kind, other.first_of_kind[kind], count):
        for form in kind:
          self.moments.setdefault(form, Moments(form.size))
    for form, moments in other.moments.items():
      if form in self.moments:
        self.moments[form].merge(moments)
    for what, first in other.damage.items():
      self.damage.setdefault(what, first)
    self.not_finite = (self.not_finite + other.not_finite)[:_MOST_LISTED]
    self.num_not_finite += other.num_not_finite
    self.num_segments += other.num_segments
    for index, (negative, positive) in other.ratings.items():
      counts = self.ratings.setdefault(index, [0, 0])
      counts[0] += negative
      counts[1] += positive


class PartReader:
  """Reads a part; for one thread.

  Args:
    part: which records.
  """

  def __init__(self, part: Part):
    self._part = part
    self._facts = Facts()
    self._file = FileFacts()
    self._facts.files[part.file] = self._file
    # (number, hash of the id, hash of the features, labels) of each record; and
    # (number, class) of each label. Not in the order of the numbers.
    self._rows: list[tuple[int, int, int, int]] = []
    self._labels: list[np.ndarray] = []
    self._not_finite: set[int] = set()

  def read(self) -> Facts:
    """Returns the facts of the part."""
    part = self._part
    reader = shards.RecordReader([part.path])
    offsets = part.walk.offsets[part.first : part.end + 1]
    reader.read_ahead(0, int(offsets[0]), int(offsets[-1] - offsets[0]))
    begin, end, last = 0, 0, len(offsets) - 1
    while begin < last:
      limit = int(offsets[begin]) + _ROW_BYTES
      end = int(np.searchsorted(offsets, limit, "right")) - 1
      end = max(begin + 1, min(end, begin + _ROW_RECORDS, last))
      row = offsets[begin : end + 1].tolist()
      damaged = self._add_row(reader, part.first + begin, row)
      for number in damaged:
        self._add_single(reader, number)
      begin = end
    if part.end == len(part.walk):
      self._add_lost()
    return self._finish()

  def _add_row(
    self, reader: shards.RecordReader, first: int, offsets: list[int]
  ) -> list[int]:
    """Adds records that follow each other.

    Args:
      reader: of the file.
      first: number of the first record.
      offsets: where each begins, and the last one ends.

    Returns:
      The numbers of those that cannot be read so.
    """
    numbers = range(first, first + len(offsets) - 1)
    if offsets[-1] - offsets[0] > 2 * _ROW_BYTES:  # a single one
      return list(numbers)
    try:
      row = reader.read_row(0, offsets)
    except OSError:
      return list(numbers)
    whole = [
      (number, data)
      for number, data in zip(numbers, row, strict=True)
      if data is not None
    ]
    damaged = [
      number for number, data in zip(numbers, row, strict=True) if data is None
    ]
    single = range(len(whole))
    if whole and is_example(whole[0][1]):
      alike, single = take_apart_alike([data for _, data in whole])
      for group in alike:
        self._add_alike(np.array([whole[row][0] for row in group.rows]), group)
    for place in single:
      number, data = whole[place]
      try:
        self._add(number, take_apart(data))
      except BadRecordError as error:
        self._facts.add_damage(self._part.file, number, error)
    return damaged

  def _add_single(self, reader: shards.RecordReader, number: int) -> None:
    """Adds a record that could not be read among others."""
    part = self._part
    try:
      data = reader.read(0, *part.walk.place(number))
      self._add(number, take_apart(data))
    except BadRecordError as error:
      self._facts.add_damage(part.file, number, error)
    except OSError as error:
      self._facts.add_damage(part.file, number, not_readable(error))

  def _add_lost(self) -> None:
    """Counts what is after the last record of the file."""
    part = self._part
    try:
      damage = shards.damage_after(part.path, part.walk)
    except OSError as error:
      damage = not_readable(error)
    if damage:
      self._facts.add_damage(part.file, len(part.walk), damage)
    self._file.lost_bytes += part.walk.lost_bytes

  def _add(self, number: int, record: Apart) -> None:
    """Adds a record."""
    if record.is_frame_level:
      self._facts.frames[record.num_frames] += 1
      self._file.num_frames += record.num_frames
    hashed = 0
    if record.has_numbers:
      hashed = hash_of_features(record.features)
      self._add_features(
        kind_of(record),
        [number],
        {
          name: values if values.ndim == 2 else values[np.newaxis]
          for name, values in record.features.items()
        },
      )
    labels = np.unique(np.array(record.labels or [], np.int64))
    self._labels.append(
      np.stack([np.full(len(labels), number), labels], axis=1)
    )
    count = NO_LABELS if record.labels is None else len(labels)
    self._rows.append((number, hash_of(record.video_id), hashed, count))
    self._facts.num_segments += len({start for start, _, _ in record.ratings})
    for _, index, score in record.ratings:
      counts = self._facts.ratings.setdefault(index, [0, 0])
      counts[score > 0] += 1

  def _add_alike(self, numbers: np.ndarray, group: Alike) -> None:
    """Adds video-level records of one layout."""
    counts = [NO_LABELS] * len(numbers)
    if group.labels is not None:
      pairs = np.unique(np.stack(group.labels, axis=1), axis=0)
      rows = np.bincount(pairs[:, 0], minlength=len(numbers))
      counts = rows.tolist()
      pairs[:, 0] = numbers[pairs[:, 0]]
      self._labels.append(pairs)
    has_numbers = any(of.size for of in group.features.values())
    hashes = [0] * len(numbers)
    if has_numbers:
      hashes = [
        hash_of_features({name: of[row] for name, of in group.features.items()})
        for row in range(len(numbers))
      ]
      kind = tuple(
        FeatureForm(name, of.dtype.name, of.shape[1], False)
        for name, of in sorted(group.features.items())
      )
      self._add_features(kind, numbers.tolist(), group.features)
    ids = map(hash_of, group.video_ids)
    self._rows += zip(numbers.tolist(), ids, hashes, counts, strict=True)

  def _add_features(
    self, kind: Kind, numbers: list[int], features: dict[str, np.ndarray]
  ) -> None:
    """Adds the numbers of a record's frames, or of several video-level ones.

    Args:
      kind: of the records.
      numbers: of the records; one at frame level.
      features: (frames or records, size) array by name.
    """
    place = (self._part.file, min(numbers, default=0))
    if not numbers or not self._facts.known_kind(kind, place, len(numbers)):
      return
    for form in kind:
      values = features[form.name]
      moments = self._facts.moments.setdefault(form, Moments(form.size))
      sample = sample_of(values) if form.is_frame_level else values
      if moments.add(values, sample, len(numbers)):
        continue
      if form.is_frame_level:
        self._not_finite.update(numbers)
      else:
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        self._not_finite.update(numbers[row] for row in rows.tolist())

  def _finish(self) -> Facts:
    facts, file = self._facts, self._part.file
    for moments in facts.moments.values():
      moments.flush()
    rows = sorted(self._rows)
    numbers, ids, hashes, counts = zip(*rows, strict=True) if rows else [()] * 4
    places = np.empty((len(rows), 2), np.int32)
    places[:, 0] = file
    places[:, 1] = numbers
    num_labels = np.array(counts, np.int32)
    facts.places.append(places)
    facts.ids.append(np.array(ids, np.uint64))
    facts.features.append(np.array(hashes, np.uint64))
    facts.num_labels.append(num_labels)
    pairs = np.concatenate([np.empty((0, 2), np.int64), *self._labels])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    facts.labels.append(pairs[order, 1].astype(np.int32))
    self._file.num_videos = len(rows)
    self._file.num_labels = len(pairs)
    self._file.num_empty = int((num_labels <= 0).sum())
    found = sorted(self._not_finite)
    facts.num_not_finite = len(found)
    facts.not_finite = [(file, number) for number in found[:_MOST_LISTED]]
    return facts
