"""Which videos of files are used: those with some labels, and long enough ones.

A selection is decided where records are found, from what each record says of
itself, so that places in the order count only the videos that are used. Nothing
but the front of a record is read for it: the context is its first field, and
the number of frames follows from the lengths of a list and of its first frame.

What is found is kept beside the walks of records/shards.py. It does not depend
on the selection, so that another one needs no second look.

A record that cannot be understood is used, so that reading it names what is
wrong. A checksum covers all of a record, and is verified when that is read.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from records import contents, messages, shards
from records.messages import BadRecordError, usual_length
from records.shards import Walk

# More classes than any data has.
_ANY_CLASS = 1 << 63
# Records of at most this many bytes are read whole, others at their front.
_SMALL_BYTES = 8192
_FRONT_BYTES = 2048
# The head of a list of frames: tags, lengths and its name.
_HEAD_BYTES = 256
# Stands for how many there are where a record does not say.
_UNKNOWN = -1

# Tags, see records/frames.py.
_CONTEXT, _LISTS = 0x0A, 0x12
_FIRST, _SECOND = 0x0A, 0x12


# --------------------------------------------------------------------------
# What a record says


class _Data:
  """The data of a record, of which no more is fetched than is asked for.

  Args:
    length: of the data.
    fetch: function of a place in the data and of a number of bytes.
    whole: function that returns all of it.
  """

  def __init__(
    self,
    length: int,
    fetch: Callable[[int, int], bytes | memoryview],
    whole: Callable[[], bytes | memoryview],
  ):
    self.length = length
    self._fetch = fetch
    self._front = fetch(0, min(length, _FRONT_BYTES))
    self.whole = whole

  def part(self, at: int, size: int) -> bytes | memoryview:
    """Some of its bytes, fewer at the end."""
    size = min(size, self.length - at)
    if at + size <= len(self._front):
      return self._front[at : at + size]
    return self._fetch(at, size)


def _held(record: bytes | memoryview) -> _Data:
  """A record that was read."""
  return _Data(
    len(record), lambda at, size: record[at : at + size], lambda: record
  )


def _stored(reader: shards.RecordReader, offset: int, length: int) -> _Data:
  """A record in the only file of a reader.

  Raises:
    BadRecordError: it is damaged.
  """
  whole = functools.partial(reader.read, 0, offset, length)
  if length <= _SMALL_BYTES:
    return _held(whole())
  return _Data(length, functools.partial(reader.part, 0, offset), whole)


def _context_end(data: _Data) -> tuple[int, int]:
  """Finds the context, which every known writer puts first.

  Raises:
    One of messages.PARSE_ERRORS: the record has another layout.
  """
  head = data.part(0, _HEAD_BYTES)
  begin, end = usual_length(head, 0, _CONTEXT, data.length)
  if end < data.length:  # lists fill the rest
    head = data.part(end, _HEAD_BYTES)
    _, rest = usual_length(head, 0, _LISTS, data.length - end)
    if end + rest < data.length:
      raise messages.MalformedError
  return begin, end


def _context(data: _Data) -> dict[str, messages.Feature]:
  """Parses the context of a record.

  Raises:
    BadRecordError: it is no record.
  """
  try:
    begin, end = _context_end(data)
  except messages.PARSE_ERRORS:
    return messages.parse_record(data.whole()).context
  return messages.parse_context(data.part(begin, end - begin))


def stored_context(
  reader: shards.RecordReader, offset: int, length: int
) -> dict[str, messages.Feature]:
  """Reads the context of a record, and of a large one no frames.

  Args:
    reader: of a single file.
    offset: where the record begins.
    length: bytes of data.

  Raises:
    BadRecordError: it is damaged, or no record.
    OSError: it cannot be read.
  """
  return _context(_stored(reader, offset, length))


def context_of(record: bytes | memoryview) -> dict[str, messages.Feature]:
  """Parses the context of a record, without its frames.

  Args:
    record: the data of a record of either level.

  Returns:
    Its features by name; see messages.parse_context.

  Raises:
    BadRecordError: it is no record.
  """
  return _context(_held(record))


def _usual_num_frames(data: _Data, feature: str) -> int:
  """Computes the number of frames of a list from lengths.

  Raises:
    One of messages.PARSE_ERRORS: the record has another layout.
  """
  _, at = _context_end(data)
  head = data.part(at, _HEAD_BYTES)
  begin, _ = usual_length(head, 0, _LISTS, data.length - at)
  at += begin
  while at < data.length:
    head = data.part(at, _HEAD_BYTES)
    begin, entry_end = usual_length(head, 0, _FIRST, data.length - at)
    begin, name_end = usual_length(head, begin, _FIRST, entry_end)
    if bytes(head[begin:name_end]) != feature.encode():
      at += entry_end
      continue
    begin, end = usual_length(head, name_end, _SECOND, entry_end)
    if end != entry_end:
      raise messages.MalformedError
    if begin == end:
      return 0
    _, frame_end = usual_length(head, begin, _FIRST, end)
    num_frames, rest = divmod(end - begin, frame_end - begin)
    if rest:
      raise messages.MalformedError
    return num_frames
  raise messages.MalformedError


def _num_frames(data: _Data, feature: str) -> int | None:
  """The number of frames of a feature; None if it is not there.

  Raises:
    BadRecordError: it is no record.
  """
  try:
    return _usual_num_frames(data, feature)
  except messages.PARSE_ERRORS:
    lists = messages.parse_record(data.whole()).lists
    return len(lists[feature]) if feature in lists else None


# --------------------------------------------------------------------------
# What is kept of many records


class _Facts:
  """One kind of fact about the records of a file: a few numbers of each."""

  def __init__(self):
    self._counts: list[int] = []
    self._values: list[int] = []

  def add(self, values: Sequence[int] | None) -> None:
    """Adds those of the next record; None if it does not say."""
    self._counts.append(_UNKNOWN if values is None else len(values))
    self._values.extend(values or ())

  def packed(self) -> np.ndarray:
    """All of them in one array, int64, as `_unpack` takes it."""
    return np.array([len(self._counts), *self._counts, *self._values], np.int64)


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Takes facts apart.

  Returns:
    (records,) bool, which of them say something; (values,) the values of all;
    (values,) the record of each.
  """
  number = int(packed[0])
  counts, values = packed[1 : 1 + number], packed[1 + number :]
  of = np.repeat(np.arange(number), np.maximum(counts, 0))
  return counts != _UNKNOWN, values, of


def _labels_of(data: _Data) -> list[int]:
  return contents.labels(_context(data), _ANY_CLASS)


def _ratings_of(data: _Data) -> list[int]:
  """The times and classes of a record's ratings, in turn."""
  times, classes, _ = contents.segments(_context(data), _ANY_CLASS)
  pairs = zip(times, classes, strict=True)
  return [number for pair in pairs for number in pair]


def count_segments(record: bytes | memoryview) -> int:
  """The rated segments of a record: 1 of a bad one, which is then named.

  Args:
    record: its data.
  """
  try:
    context = messages.parse_record(record).context
    times, *_ = contents.segments(context, _ANY_CLASS)
  except BadRecordError:
    return 1
  return len(set(times))


class Selection:
  """Chooses videos, or rated segments of videos.

  Args:
    num_classes: of the data.
    classes: of which a video, or the ratings of a segment, must have one; empty
      for any or none.
    min_frames: a shorter video is left out; 0 for none.
    feature: whose frames are counted.
    segments: whether the examples are rated segments.
  """

  def __init__(
    self,
    num_classes: int,
    classes: Sequence[int] = (),
    min_frames: int = 0,
    feature: str = "",
    segments: bool = False,
  ):
    self._num_classes = num_classes
    self._is_wanted = np.ones(num_classes, bool)
    if classes:
      self._is_wanted[:] = False
      self._is_wanted[list(classes)] = True
    self._min_frames = min_frames
    self._segments = segments
    self._looks: dict[str, Callable[[_Data], Sequence[int] | None]] = {}
    if segments:
      self._looks["ratings"] = _ratings_of
    elif classes:
      self._looks["labels"] = _labels_of
    if min_frames:

      def frames_of(data):
        number = _num_frames(data, feature)
        return None if number is None else [number]

      # Of another feature, a record may have another number.
      name = hashlib.sha256(feature.encode()).hexdigest()[:16]
      self._frames_key = f"frames-{name}"
      self._looks[self._frames_key] = frames_of

  def examples_of_file(self, path: str, walk: Walk) -> np.ndarray:
    """How many examples of each record of a local file are used.

    Args:
      path: of the file.
      walk: its walk.

    Returns:
      (records,) int64; 0 or 1 if the examples are videos.

    Raises:
      OSError: the file cannot be read.
    """
    found = {}
    for name in self._looks:
      packed = shards.kept(path, name)
      if packed is not None and packed[:1].tolist() == [len(walk)]:
        found[name] = packed
    missing = [name for name in self._looks if name not in found]
    if missing:
      identity = shards.identity_of(path)
      for name, packed in self._scan(path, walk, missing).items():
        shards.keep(path, name, packed, identity)
        found[name] = packed
    return self._examples(found)

  def num_examples(self, record: bytes | memoryview) -> int:
    """How many examples of a record are used.

    Args:
      record: its data.
    """
    facts = {name: _Facts() for name in self._looks}
    self._look(_held(record), facts)
    packed = {name: fact.packed() for name, fact in facts.items()}
    return int(self._examples(packed)[0])

  def _scan(
    self, path: str, walk: Walk, names: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Looks at all records of a file; returns facts, packed, by name."""
    facts = {name: _Facts() for name in names}
    reader = shards.RecordReader([path])
    places = zip(walk.offsets[:-1].tolist(), walk.lengths.tolist(), strict=True)
    for offset, length in places:
      try:
        data = _stored(reader, offset, length)
      except BadRecordError:
        for fact in facts.values():
          fact.add(None)
        continue
      self._look(data, facts)
    return {name: fact.packed() for name, fact in facts.items()}

  def _look(self, data: _Data, facts: dict[str, _Facts]) -> None:
    """Adds what a record says to facts."""
    for name, fact in facts.items():
      try:
        fact.add(self._looks[name](data))
      except BadRecordError:
        fact.add(None)

  def _examples(self, found: dict[str, np.ndarray]) -> np.ndarray:
    """Computes how many examples are used, from facts, packed, by name."""
    examples = None
    if "labels" in found:
      is_known, classes, of = _unpack(found["labels"])
      examples = self._at_least_if_bad(
        np.zeros(len(is_known), np.int64), is_known, classes, of
      )
      examples[of[self._wanted(classes)]] = 1
    elif "ratings" in found:
      is_known, numbers, of = _unpack(found["ratings"])
      times, classes, of = numbers[0::2], numbers[1::2], of[0::2]
      rows = np.stack([of, times], axis=1)[self._wanted(classes)]
      segments = np.unique(rows, axis=0)
      examples = np.bincount(segments[:, 0], minlength=len(is_known))
      examples = self._at_least_if_bad(examples, is_known, classes, of)
    if self._min_frames:
      is_known, frames, of = _unpack(found[self._frames_key])
      if examples is None:
        examples = np.ones(len(is_known), np.int64)
      examples[of[frames < self._min_frames]] = 0
    assert examples is not None  # else there is nothing to select by
    return examples

  def _wanted(self, classes: np.ndarray) -> np.ndarray:
    """(values,) bool, which classes are among the wanted ones."""
    known = (classes >= 0) & (classes < self._num_classes)
    return known & self._is_wanted[np.where(known, classes, 0)]

  def _at_least_if_bad(self, examples, is_known, classes, of) -> np.ndarray:
    """Lets a bad record have an example, so that reading it names it."""
    is_bad = ~is_known
    is_bad[of[(classes < 0) | (classes >= self._num_classes)]] = True
    return np.maximum(examples, is_bad)


def renumbered(
  times: Sequence[int],
  classes: Sequence[int],
  scores: Sequence[float],
  subset: Sequence[int] | None,
) -> tuple[list[int], list[int], list[float]]:
  """The ratings of some classes, with the places of these for their indices.

  Args:
    times: start time of each rating.
    classes: class of each.
    scores: score of each.
    subset: the classes to keep, in order; None for all, as they are.

  Returns:
    The three for the ratings that are left.
  """
  if subset is None:
    return list(times), list(classes), list(scores)
  place = {index: number for number, index in enumerate(subset)}
  rated = [
    (time, place[index], score)
    for time, index, score in zip(times, classes, scores, strict=True)
    if index in place
  ]
  return (
    [time for time, _, _ in rated],
    [index for _, index, _ in rated],
    [score for _, _, score in rated],
  )
