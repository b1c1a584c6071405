"""From the bytes of video-level records to the arrays of a batch.

A video-level record is a tf.train.Example of a few KB, nearly all of them the
numbers of its vectors. Records of the same writer and the same length have the
same layout: only the bytes of the id, of the labels and of the vectors differ.
So of each length one record is parsed, and NumPy compares the others with it
and takes them apart all at once. A record with another layout is parsed by
records/messages.py, and records/contents.py says what is wrong with a bad one.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

import quantization
from records import contents, messages
from records.memory import aligned_empty, aligned_zeros
from records.messages import BadRecordError

# The bytes of a class index in a record: fewer than 2^28 classes.
_MOST_LABEL_BYTES = 4
# Layouts of records of one length: names and labels may share it in many ways.
_MOST_LAYOUTS = 8
# All other numbers are protobuf's floats.
_STORED_IN_BYTES = {b"float16": np.dtype("<f2"), b"uint8": np.dtype(np.uint8)}
# Fewer records are taken apart faster one by one.
_FEWEST_ALIKE = 4


class _Layout:
  """Where the parts of a record are, and of all like it.

  Args:
    record: one of them.
    names: of the vectors.
    sizes: how many numbers each has.

  Attributes:
    vectors: where the bytes of each vector begin and end.
    dtypes: of each vector's numbers.
    video_id: where the id begins and ends.
    labels: where the class indices begin and end; None without the feature.
    fixed: indices of the bytes that are the same in all records of this layout.
    example: these bytes.

  Raises:
    One of messages.PARSE_ERRORS: the record has an unusual layout.
  """

  def __init__(self, record: bytes, names: Sequence[str], sizes: Sequence[int]):
    spans = messages.usual_spans(record)
    self.vectors = []
    # Any bytes are valid floats, or a valid value.
    dtypes = {contents.dtype_key(name): name for name in names}
    free = [
      (begin, end)
      for name, (kind, begin, end) in spans.items()
      if kind != "int64" and name not in dtypes
    ]
    self.dtypes = []
    for key, size in zip(dtypes, sizes, strict=True):
      _, begin, end = spans.get(key, ("", 0, 0))
      dtype = _STORED_IN_BYTES.get(record[begin:end], np.dtype("<f4"))
      self.dtypes.append(dtype)
      kind, begin, end = spans.get(dtypes[key], ("", 0, 0))
      if kind != ("float" if dtype.itemsize == 4 else "bytes"):
        raise messages.MalformedError
      if end - begin != dtype.itemsize * size:
        raise messages.MalformedError
      self.vectors.append((begin, end))
    name = "id" if "id" in spans else "video_id"
    kind, begin, end = spans.get(name, ("", 0, 0))
    self.video_id = begin, end
    if kind != "bytes" or begin == end:
      raise messages.MalformedError
    kind, *labels = spans.get("labels", ("no", 0, 0))
    if kind not in ("int64", "empty", "no"):
      raise messages.MalformedError
    self.labels = None if kind == "no" else labels
    fixed = np.ones(len(record), bool)
    for begin, end in (*free, self.labels or (0, 0)):
      fixed[begin:end] = False
    self.fixed = np.flatnonzero(fixed)
    self.example = np.frombuffer(record, np.uint8)[self.fixed]

  def compare(
    self, records: Sequence[bytes | memoryview]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds out which records have this layout.

    Args:
      records: of the length of the first one.

    Returns:
      (records, bytes) uint8, their bytes; (records,) bool, whether each is of
      this layout.
    """
    joined = np.frombuffer(b"".join(records), np.uint8)
    matrix = joined.reshape(len(records), -1)
    return matrix, (matrix[:, self.fixed] == self.example).all(axis=1)


def _rows_by_length(
  records: Sequence[bytes | memoryview | None],
) -> list[list[int]]:
  """Puts the rows of records of the same length together; leaves out None."""
  of_length: dict[int, list[int]] = {}
  for row, record in enumerate(records):
    if record is not None:
      of_length.setdefault(len(record), []).append(row)
  return list(of_length.values())


def _unpack_labels(packed: np.ndarray) -> tuple[np.ndarray, ...]:
  """Decodes the class indices of records that have equally many bytes of them.

  Args:
    packed: (records, bytes) uint8, numbers of 7 bits a byte, all of which but
      the last have the highest bit.

  Returns:
    (labels,) int64 indices of the records, (labels,) int64 class indices, and
    (records,) bool, whether a record is usual; of others both mean nothing.
  """
  num_bytes = packed.shape[1]
  if not num_bytes:
    none = np.zeros(0, np.int64)
    return none, none, np.ones(len(packed), bool)
  is_usual = packed[:, -1] < 0x80
  # Others have no end of their own, and would take the next record's.
  usual = np.flatnonzero(is_usual)
  flat = packed[usual].reshape(-1)
  ends = np.flatnonzero(flat < 0x80)
  lengths = np.diff(ends, prepend=-1)
  begins = ends - lengths + 1
  rows = usual[begins // num_bytes]
  is_usual[rows[lengths > _MOST_LABEL_BYTES]] = False
  values = np.zeros(len(ends), np.int64)
  for place in range(min(_MOST_LABEL_BYTES, int(lengths.max(initial=0)))):
    has = lengths > place
    digits = flat[begins[has] + place].astype(np.int64) & 0x7F
    values[has] |= digits << (7 * place)
  return rows, values, is_usual


class VectorBatch:
  """A batch of video-level records, which are added one by one.

  Args:
    num_records: how many may be added.
    names: of the features, in the order in which to concatenate them.
    sizes: how many numbers each has.
    num_classes: of the labels; None to read none.
    for_trained: whether a trained model has fixed these, see records.contents.
    ranges: of each feature, what its bytes stand for if its dtype is uint8;
      None for YouTube-8M's.
    label_subset: the classes that labels are wanted of, in order; None for all.
    exclusive_classes: whether a video without exactly one label of these is a
      bad record.
  """

  def __init__(
    self,
    num_records: int,
    names: Sequence[str],
    sizes: Sequence[int],
    num_classes: int | None = None,
    for_trained: bool = False,
    ranges: Sequence[quantization.Range] | None = None,
    label_subset: Sequence[int] | None = None,
    exclusive_classes: bool = False,
  ):
    self._ranges = ranges or [quantization.YOUTUBE8M_RANGE] * len(names)
    self._label_subset = label_subset
    self._exclusive_classes = exclusive_classes
    self._names, self._sizes = names, sizes
    self._num_classes = num_classes
    self._for_trained = for_trained
    self._records: list[bytes | None] = [None] * num_records
    self._ids: list[bytes] = [b""] * num_records
    self._is_good = np.zeros(num_records, bool)
    shape = (num_records, sum(sizes))
    self._vectors = aligned_empty(shape, np.float32)
    self._labels = aligned_zeros((num_records, num_classes or 0), np.bool_)

  def add(self, row: int, record: memoryview) -> None:
    """Adds a record, which is looked at later.

    Args:
      row: of the batch.
      record: its data.
    """
    self._records[row] = bytes(record)

  def finish(
    self, on_bad: Callable[[int, BadRecordError], None]
  ) -> dict[str, np.ndarray]:
    """Makes the batch of the records that were added, in order of their rows.

    Args:
      on_bad: takes the row and the error of a record that cannot be used, and
        is left out.

    Returns:
      video_ids (videos,) object, video_matrix (videos, features) float32,
      num_frames (videos,) int32, all 1, and with num_classes labels (videos,
      classes) bool.
    """
    for of_one_length in _rows_by_length(self._records):
      rows = np.array(of_one_length)
      for _ in range(_MOST_LAYOUTS):
        if len(rows):
          rows = self._take_apart(rows)
    for row in np.flatnonzero(~self._is_good).tolist():
      record = self._records[row]
      if record is not None:
        try:
          self._parse(row, record)
          self._is_good[row] = True
        except BadRecordError as error:
          on_bad(row, error)
    if self._exclusive_classes:
      self._check_labels(on_bad)
    rows = np.flatnonzero(self._is_good)
    vectors, labels = self._vectors, self._labels
    if len(rows) < len(vectors):
      vectors = aligned_empty((len(rows), vectors.shape[1]), np.float32)
      vectors[...] = self._vectors[rows]
      labels = labels[rows]
    batch = {
      "video_ids": np.array([self._ids[row] for row in rows], object),
      "video_matrix": vectors,
      "num_frames": np.ones(len(rows), np.int32),
    }
    if self._num_classes is not None:
      subset = self._label_subset
      batch["labels"] = labels if subset is None else labels[:, subset]
    return batch

  def _check_labels(
    self, on_bad: Callable[[int, BadRecordError], None]
  ) -> None:
    """Leaves out the good ones without exactly one label; see finish."""
    subset = self._label_subset
    labels = self._labels if subset is None else self._labels[:, subset]
    is_other = self._is_good & (np.count_nonzero(labels, axis=1) != 1)
    for row in np.flatnonzero(is_other).tolist():
      self._is_good[row] = False
      try:
        contents.check_one_label(
          np.flatnonzero(self._labels[row]).tolist(), subset, self._for_trained
        )
      except BadRecordError as error:
        on_bad(row, error)

  def _take_apart(self, rows: np.ndarray) -> np.ndarray:
    """Takes those records apart that have the layout of the first one.

    Args:
      rows: of records of the same length.

    Returns:
      The rows of records that have another layout, but for the first one.
    """
    records = [self._records[row] for row in rows]
    try:
      layout = _Layout(records[0], self._names, self._sizes)
    except messages.PARSE_ERRORS:
      return rows[1:]
    if self._num_classes is not None and layout.labels is None:
      return rows[1:]
    matrix, is_like = layout.compare(records)
    others, rows = rows[~is_like], rows[is_like]
    if len(others):
      matrix = matrix[is_like]
      records = [self._records[row] for row in rows]
    at = 0
    for (begin, end), dtype, size, of in zip(
      layout.vectors, layout.dtypes, self._sizes, self._ranges, strict=True
    ):
      if dtype.itemsize == 4:
        target = self._vectors.view(np.uint8)
        target[rows, 4 * at : 4 * (at + size)] = matrix[:, begin:end]
      else:
        stored = np.ascontiguousarray(matrix[:, begin:end]).view(dtype)
        self._vectors[rows, at : at + size] = quantization.floats_of(stored, of)
      at += size
    is_good = contents.rows_of_finite_length(self._vectors[rows])
    if self._num_classes is not None and layout.labels is not None:
      begin, end = layout.labels
      of, classes, is_usual = _unpack_labels(matrix[:, begin:end])
      is_usual[of[classes >= self._num_classes]] = False
      is_good &= is_usual
      known = is_good[of]
      self._labels[rows[of[known]], classes[known]] = True
    begin, end = layout.video_id
    for row, record, good in zip(
      rows.tolist(), records, is_good.tolist(), strict=True
    ):
      if good:
        self._ids[row] = record[begin:end]
    self._is_good[rows] = is_good
    return others

  def _parse(self, row: int, data: bytes) -> None:
    """Reads a record of any layout.

    Raises:
      BadRecordError: it cannot be used.
    """
    record = messages.parse_record(data)
    contents.check_video_features(
      record, self._names, self._sizes, self._for_trained
    )
    self._ids[row] = contents.video_id(record.context)
    if self._num_classes is not None:
      classes = contents.labels(
        record.context, self._num_classes, self._for_trained
      )
      self._labels[row] = False
      self._labels[row, classes] = True
    parts = [
      quantization.floats_of(contents.video_vector(record, name), of)
      for name, of in zip(self._names, self._ranges, strict=True)
    ]
    self._vectors[row] = np.concatenate(parts)


# --------------------------------------------------------------------------
# Without being told what records hold


@dataclasses.dataclass
class Alike:
  """Records of one layout, taken apart together; see records.apart.

  Attributes:
    rows: (records,) int, which of the records that were given.
    video_ids: their ids.
    labels: index into `rows` and class of each label; None without the feature.
    features: (records, numbers) float32, float16 or uint8 by name, as stored.
  """

  rows: np.ndarray
  video_ids: list[bytes]
  labels: tuple[np.ndarray, np.ndarray] | None
  features: dict[str, np.ndarray]


def take_apart_alike(
  records: Sequence[bytes | memoryview],
) -> tuple[list[Alike], list[int]]:
  """Takes video-level records apart, those of one layout at once.

  Args:
    records: the data of each.

  Returns:
    What they hold; and which records have to be taken apart one by one: those
    of other levels, of unusual layouts, of few of a kind, and bad ones.
  """
  found, single = [], []
  for rows in _rows_by_length(records):
    for _ in range(_MOST_LAYOUTS):
      if len(rows) < _FEWEST_ALIKE:
        break
      alike, other, rows = _take_apart_like_first(records, rows)
      single += other
      if alike:
        found.append(alike)
    single += rows
  return found, sorted(single)


def _features_of(record: bytes) -> tuple[list[str], list[int]]:
  """The names and sizes of the features of a record of the usual layout.

  Raises:
    One of messages.PARSE_ERRORS: there are others than vectors of floats, or
      ratings of segments.
  """
  spans = messages.usual_spans(record)
  names, sizes = [], []
  for name, (kind, begin, end) in spans.items():
    _, *dtype = spans.get(contents.dtype_key(name), ("", 0, 0))
    stored = _STORED_IN_BYTES.get(record[slice(*dtype)])
    if name.startswith("segment_"):
      raise messages.MalformedError
    if kind == "bytes" and stored:
      # _Layout refuses a part of a number.
      names.append(name)
      sizes.append((end - begin) // stored.itemsize)
    elif kind == "float" and name not in contents.WITH_FRAMES:
      names.append(name)
      sizes.append((end - begin) // 4)
  return names, sizes


def _take_apart_like_first(
  records: Sequence[bytes | memoryview], rows: list[int]
) -> tuple[Alike | None, list[int], list[int]]:
  """Takes records of one length apart that have the layout of the first one.

  Returns:
    What they hold, if anything could be taken apart; the rows of those of this
    layout that could not; and of those of others.
  """
  try:
    example = bytes(records[rows[0]])
    names, sizes = _features_of(example)
    layout = _Layout(example, names, sizes)
  except messages.PARSE_ERRORS:
    return None, rows[:1], rows[1:]
  matrix, is_like = layout.compare([records[row] for row in rows])
  all_rows = np.array(rows)
  others = all_rows[~is_like].tolist()
  is_good = is_like.copy()
  of = classes = None
  if layout.labels is not None:
    begin, end = layout.labels
    like = np.flatnonzero(is_like)
    of, classes, is_usual = _unpack_labels(matrix[like, begin:end])
    is_good[like[~is_usual]] = False
    known = is_usual[of]
    # Places among the good ones.
    of = (np.cumsum(is_usual) - 1)[of[known]]
    classes = classes[known]
  odd = all_rows[is_like & ~is_good].tolist()
  good = np.flatnonzero(is_good)
  matrix = matrix[good]
  begin, end = layout.video_id
  alike = Alike(
    rows=all_rows[good],
    video_ids=[bytes(records[row][begin:end]) for row in all_rows[good]],
    labels=None if of is None or classes is None else (of, classes),
    features={
      name: np.ascontiguousarray(matrix[:, begin:end]).view(dtype)
      for name, dtype, (begin, end) in zip(
        names, layout.dtypes, layout.vectors, strict=True
      )
    },
  )
  return alike, odd, others
