"""Parses tf.train.Example and SequenceExample from their bytes.

Reads both as protobuf does, value for value, and refuses what protobuf refuses,
without TensorFlow. It is plain and slow, but it knows every valid layout;
records/frames.py has faster ways for the usual ones. The messages are in
tensorflow/core/example/*.proto, the layout of their fields is described at
protobuf.dev/programming-guides/encoding.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

import errors


class BadRecordError(errors.UserError):
  """A record that cannot be used.

  Args:
    kind: what is wrong, in two or three words, to count by.
    message: what was expected, what was received, how to fix it.
  """

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


@dataclasses.dataclass(slots=True)
class Feature:
  """The values of one feature, or of one frame of it.

  Attributes:
    kind: "bytes", "float", "int64", or "empty" if not even the kind is given.
    values: of bytes and int64 a list, of float an array of float32.
  """

  kind: str
  values: Any

  @property
  def size(self) -> int:
    """How many numbers it holds. Each byte of its first value is one."""
    if self.kind == "bytes":
      return len(self.values[0]) if self.values else 0
    return len(self.values)


@dataclasses.dataclass(slots=True)
class Record:
  """A parsed record.

  Attributes:
    context: features of the whole video, by name. In a video-level record these
      are all of its features.
    lists: features of each frame, by name; empty at video level.
  """

  context: dict[str, Feature]
  lists: dict[str, list[Feature]]


# --------------------------------------------------------------------------
# Protobuf's wire format

_MAX_DEPTH = 100  # of messages and groups in one another, as in protobuf
_MAX_TAG = (1 << 32) - 1
_MAX_LENGTH = (1 << 31) - 1
_64_BITS = (1 << 64) - 1

# Wire types: the lowest three bits of a tag. The others are the field number.
_VARINT, _8_BYTES, _DELIMITED, _GROUP, _END_OF_GROUP, _4_BYTES = range(6)

# Tags of the fields. All messages have their fields numbered from 1.
_FIRST, _SECOND, _THIRD = (number << 3 | _DELIMITED for number in (1, 2, 3))
_FIRST_VARINT = 1 << 3 | _VARINT
_FIRST_4_BYTES = 1 << 3 | _4_BYTES

_KIND_OF_TAG = {_FIRST: "bytes", _SECOND: "float", _THIRD: "int64"}


class MalformedError(Exception):
  """The bytes are not a message."""


# What a parser raises for bytes that are not a message. IndexError: it has read
# on at the end of all bytes.
PARSE_ERRORS = (MalformedError, UnicodeDecodeError, IndexError)


def _varint(data: bytes, at: int, max_bytes: int) -> tuple[int, int]:
  """Reads a number of 7 bits a byte; returns it and where it ends.

  The end may lie past that of the message.
  """
  number = shift = 0
  for place in range(at, at + max_bytes):
    byte = data[place]
    number |= (byte & 0x7F) << shift
    if byte < 0x80:
      return number, place + 1
    shift += 7
  raise MalformedError


def _packed_varints(content: bytes | memoryview) -> list[int]:
  """Reads the unsigned 64-bit numbers that fill some bytes."""
  numbers = []
  number = shift = 0
  for byte in content:
    number |= (byte & 0x7F) << shift
    if byte < 0x80:
      numbers.append(number & _64_BITS)
      number = shift = 0
    elif shift == 63:
      raise MalformedError
    else:
      shift += 7
  if shift:
    raise MalformedError
  return numbers


def _fields(
  data: bytes, at: int, end: int, depth: int
) -> Iterator[tuple[int, int, int]]:
  """Finds the fields of a message.

  Args:
    data: of which the message is a part.
    at: where the message begins.
    end: where it ends.
    depth: how many messages or groups there may be in one another.

  Yields:
    The tag of each field, and where its content begins and ends. A group, which
    no message here has, is one unknown field.

  Raises:
    MalformedError, IndexError: the bytes are not a message.
  """
  groups = []
  while at < end:
    tag = data[at]
    at += 1
    if tag >= 0x80:
      tag, at = _varint(data, at - 1, 5)
    # Field number 0 is not valid, but protobuf skips it in a group.
    if tag > _MAX_TAG or (tag < 8 and not groups):
      raise MalformedError
    wire_type = tag & 7
    begin = at
    if wire_type == _DELIMITED:
      length = data[at]
      begin += 1
      if length >= 0x80:
        length, begin = _varint(data, at, 5)
        if length > _MAX_LENGTH:
          raise MalformedError
      at = begin + length
    elif wire_type == _VARINT:
      _, at = _varint(data, at, 10)
    elif wire_type == _8_BYTES:
      at += 8
    elif wire_type == _4_BYTES:
      at += 4
    elif wire_type == _GROUP:
      groups.append(tag >> 3)
      if len(groups) > depth:
        raise MalformedError
    elif wire_type != _END_OF_GROUP or not groups or groups.pop() != tag >> 3:
      raise MalformedError
    if at > end:
      raise MalformedError
    if not groups:
      yield tag, begin, at
  if groups:
    raise MalformedError


# --------------------------------------------------------------------------
# Parsing
#
# A message may come in several parts, in which case the parts are merged. So
# each function adds one part to what there is already.

# Shared by all features without values: a small file can hold many.
_NO_FLOATS = np.empty(0, np.float32)


def _int64(numbers: list[int]) -> list[int]:
  """Makes signed numbers of unsigned 64-bit ones."""
  return [number - (number >> 63 << 64) for number in numbers]


@dataclasses.dataclass(slots=True)
class _PartialFeature:
  """A feature of which more parts may follow.

  Attributes:
    kind: see Feature.
    values: a list of bytes or of unsigned numbers, or the bytes of floats.
  """

  kind: str = "empty"
  values: Any = dataclasses.field(default_factory=list)

  def add(self, data: bytes, at: int, end: int, depth: int) -> None:
    """Adds a tf.train.Feature. One of another kind replaces the values."""
    for tag, begin, list_end in _fields(data, at, end, depth):
      kind = _KIND_OF_TAG.get(tag)
      if kind is None:
        continue
      if kind != self.kind:
        self.kind = kind
        self.values = bytearray() if kind == "float" else []
      self._add_values(data, begin, list_end, depth - 1)

  def _add_values(self, data, at, end, depth):
    """Adds a tf.train.BytesList, FloatList or Int64List."""
    for tag, begin, value_end in _fields(data, at, end, depth):
      content = data[begin:value_end]
      if self.kind == "bytes":
        if tag == _FIRST:
          self.values.append(content)
      elif self.kind == "float":
        if tag == _FIRST and len(content) % 4:
          raise MalformedError
        if tag in (_FIRST, _FIRST_4_BYTES):
          self.values += content
      elif tag in (_FIRST, _FIRST_VARINT):
        self.values += _packed_varints(content)

  def whole(self) -> Feature:
    """Makes the feature after its last part."""
    if self.kind == "bytes":
      return Feature("bytes", self.values)
    if self.kind == "float":
      floats = np.frombuffer(self.values, "<f4")
      return Feature("float", floats if len(floats) else _NO_FLOATS)
    return Feature(self.kind, _int64(self.values))


@dataclasses.dataclass(slots=True)
class _PartialList:
  """A feature list of which more parts may follow."""

  frames: list[Feature] = dataclasses.field(default_factory=list)

  def add(self, data: bytes, at: int, end: int, depth: int) -> None:
    """Adds a tf.train.FeatureList."""
    for tag, begin, frame_end in _fields(data, at, end, depth):
      if tag == _FIRST:
        frame = _PartialFeature()
        frame.add(data, begin, frame_end, depth - 1)
        self.frames.append(frame.whole())

  def whole(self) -> list[Feature]:
    """Returns the list after its last part."""
    return self.frames


_Partial = TypeVar("_Partial", _PartialFeature, _PartialList)


def _map_entry(
  data: bytes,
  at: int,
  end: int,
  depth: int,
  make_partial: Callable[[], _Partial],
) -> tuple[str, _Partial] | None:
  """Parses an entry of a map: its key and its value.

  Returns:
    The two; what is not given is empty. None for an entry that has an unknown
    field besides: protobuf takes all of it for an unknown field.
  """
  key, value, is_known = "", make_partial(), True
  for tag, begin, field_end in _fields(data, at, end, depth):
    if tag == _FIRST:
      key = data[begin:field_end].decode()
    elif tag == _SECOND:
      value.add(data, begin, field_end, depth - 1)
    else:
      is_known = False
  return (key, value) if is_known else None


def _add_context(
  context: dict[str, Feature], data: bytes, at: int, end: int, depth: int
) -> None:
  """Adds a tf.train.Features to a context."""
  for tag, begin, entry_end in _fields(data, at, end, depth):
    if tag != _FIRST:
      continue
    entry = _map_entry(data, begin, entry_end, depth - 1, _PartialFeature)
    if entry:
      context[entry[0]] = entry[1].whole()


def _add_lists(
  lists: dict[str, list[Feature]], data: bytes, at: int, end: int, depth: int
) -> None:
  """Adds a tf.train.FeatureLists to the feature lists of a record."""
  for tag, begin, entry_end in _fields(data, at, end, depth):
    if tag == _FIRST:
      entry = _map_entry(data, begin, entry_end, depth - 1, _PartialList)
      if entry:
        lists[entry[0]] = entry[1].whole()


def _not_an_example(num_bytes: int) -> BadRecordError:
  return BadRecordError(
    "not an Example",
    "expected a tf.train.Example or SequenceExample, received"
    f" {num_bytes} bytes that are neither",
  )


def parse_record(serialized: bytes | memoryview) -> Record:
  """Parses a record of either level.

  A tf.train.Example parses as a SequenceExample without feature lists: the two
  share their field numbers, so its features are those of the context.

  Args:
    serialized: the data of a record.

  Returns:
    The record. Its values are copies.

  Raises:
    BadRecordError: the bytes are neither.
  """
  data = bytes(serialized)
  parsed = Record({}, {})
  try:
    for tag, begin, end in _fields(data, 0, len(data), _MAX_DEPTH):
      if tag == _FIRST:
        _add_context(parsed.context, data, begin, end, _MAX_DEPTH - 1)
      elif tag == _SECOND:
        _add_lists(parsed.lists, data, begin, end, _MAX_DEPTH - 1)
  except PARSE_ERRORS as error:
    raise _not_an_example(len(data)) from error
  return parsed


def parse_context(serialized: bytes | memoryview) -> dict[str, Feature]:
  """Parses a tf.train.Features, fast if its layout is usual.

  Args:
    serialized: the content of a record's first field.

  Returns:
    Its features by name. Values of float are views.

  Raises:
    BadRecordError: the bytes are no such message.
  """
  try:
    return _usual_features(serialized)
  except PARSE_ERRORS:
    data, parsed = bytes(serialized), {}
    try:
      _add_context(parsed, data, 0, len(data), _MAX_DEPTH - 1)
    except PARSE_ERRORS as error:
      raise _not_an_example(len(data)) from error
    return parsed


def usual_length(data, at: int, tag: int, end: int) -> tuple[int, int]:
  """Reads the head of a field; returns where its content begins and ends.

  Raises:
    MalformedError: another field begins there, or it is too long.
  """
  if data[at] != tag:
    raise MalformedError
  length = data[at + 1]
  at += 2
  if length >= 0x80:
    length, at = _varint(data, at - 1, 5)
  if at + length > end:
    raise MalformedError
  return at, at + length


def _usual_entries(
  data: bytes | memoryview, at: int, end: int
) -> Iterator[tuple[str, str, int, int]]:
  """Finds the entries of a tf.train.Features as every known writer has them.

  Args:
    data: of which the entries are a part.
    at: where they begin.
    end: where they end.

  Yields:
    The name and the kind of a feature, and where its only bytes value, its
    packed integers or its packed floats begin and end; two zeros if it has no
    value.

  Raises:
    One of PARSE_ERRORS: they have another layout, which may be valid.
  """
  while at < end:
    at, entry_end = usual_length(data, at, _FIRST, end)
    at, key_end = usual_length(data, at, _FIRST, entry_end)
    name = str(data[at:key_end], "utf-8")
    at, value_end = usual_length(data, key_end, _SECOND, entry_end)
    if value_end != entry_end:
      raise MalformedError
    if at == entry_end:
      yield name, "empty", 0, 0
      continue
    tag = data[at]
    at, list_end = usual_length(data, at, tag, entry_end)
    kind = _KIND_OF_TAG.get(tag)
    if kind is None or list_end != entry_end:
      raise MalformedError
    if at == entry_end:
      yield name, kind, 0, 0
      continue
    at, value_end = usual_length(data, at, _FIRST, entry_end)
    if value_end != entry_end or (kind == "float" and (entry_end - at) % 4):
      raise MalformedError
    yield name, kind, at, entry_end
    at = entry_end


def _usual_features(data: bytes | memoryview) -> dict[str, Feature]:
  """Parses a tf.train.Features of the usual layout; see `_usual_entries`."""
  features = {}
  for name, kind, begin, end in _usual_entries(data, 0, len(data)):
    content = data[begin:end]
    if kind == "bytes":
      values = [bytes(content)] if end else []
    elif kind == "float":
      values = np.frombuffer(content, "<f4")
    else:
      values = _int64(_packed_varints(content))
    features[name] = Feature(kind, values)
  return features


def usual_spans(record: bytes) -> dict[str, tuple[str, int, int]]:
  """Finds the values of a tf.train.Example of the usual layout.

  Args:
    record: its data.

  Returns:
    For each feature its kind, and where its only bytes value, its packed
    integers or its packed floats begin and end; two zeros if it has no value.

  Raises:
    One of PARSE_ERRORS: the record has another layout, which may be valid.
  """
  begin, end = usual_length(record, 0, _FIRST, len(record))
  entries = list(_usual_entries(record, begin, end))
  spans = {name: (kind, first, last) for name, kind, first, last in entries}
  if end != len(record) or len(spans) < len(entries):
    raise MalformedError
  return spans
