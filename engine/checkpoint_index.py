"""The index of a checkpoint: which bytes of its data files hold what.

A checkpoint is a table, model.ckpt-N.index, and data files,
model.ckpt-N.data-00000-of-00001. The table is LevelDB's: blocks with a checksum
each. It has an entry for each tensor: the data file, the place of its bytes
there, and a checksum of them. The messages are in
tensorflow/core/protobuf/tensor_bundle.proto.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from records import shards

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
# After the bytes of a block: how it is compressed, and the checksum.
_TRAILER_BYTES = 5

# Field numbers of BundleHeaderProto and BundleEntryProto.
_NUM_SHARDS = 1
_SHARD, _OFFSET, _SIZE = 3, 4, 5


class DamagedIndexError(ValueError):
  """The content of an index is not one; says why."""


class Index(NamedTuple):
  """What an index says about its data files.

  Attributes:
    num_shards: how many data files there are.
    sizes: of each, how many bytes it has at least, as far as tensors lie in it.
    names: of the tensors.
  """

  num_shards: int
  sizes: dict[int, int]
  names: frozenset[str]


def _varint(content: bytes, at: int) -> tuple[int, int]:
  """A number of variable length, and where it ends."""
  number = shift = 0
  while True:
    byte = content[at]
    at += 1
    number |= (byte & 0x7F) << shift
    if byte < 0x80:
      return number, at
    shift += 7
    if shift > 63:
      raise DamagedIndexError("it holds a number that is too long")


def _varints(content: bytes, count: int) -> list[int]:
  """The numbers of variable length that some bytes begin with."""
  numbers, at = [], 0
  for _ in range(count):
    number, at = _varint(content, at)
    numbers.append(number)
  return numbers


def _block(content: bytes, offset: int, size: int) -> bytes:
  """The bytes of a block, whose checksum is right."""
  end = offset + size
  if end + _TRAILER_BYTES > len(content):
    raise DamagedIndexError("it is cut short")
  kind, checksum = struct.unpack_from("<BI", content, end)
  has_checksums = shards.crc32c is not None
  if has_checksums and shards.checksum(content[offset : end + 1]) != checksum:
    raise DamagedIndexError("a checksum of it is wrong")
  if kind:  # TensorFlow writes them uncompressed
    raise DamagedIndexError("it is compressed")
  return content[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
  """The keys and values of a block."""
  (num_restarts,) = struct.unpack_from("<I", block, len(block) - 4)
  end = len(block) - 4 * (num_restarts + 1)
  at, key = 0, b""
  while at < end:
    shared, at = _varint(block, at)
    added, at = _varint(block, at)
    length, at = _varint(block, at)
    key = key[:shared] + block[at : at + added]
    at += added
    yield key, block[at : at + length]
    at += length


def _numbers(message: bytes) -> dict[int, int]:
  """The fields of a message that are numbers of variable length, by number."""
  found, at = {}, 0
  while at < len(message):
    tag, at = _varint(message, at)
    kind = tag & 7
    if kind == 0:
      found[tag >> 3], at = _varint(message, at)
    elif kind == 2:
      length, at = _varint(message, at)
      at += length
    elif kind in (1, 5):
      at += 8 if kind == 1 else 4
    else:
      raise DamagedIndexError("it holds no message of a tensor")
  return found


def parse(content: bytes) -> Index:
  """Parses an index, and checks the checksums of all its blocks.

  Args:
    content: of the file.

  Raises:
    DamagedIndexError: it is not one, or not a whole one.
  """
  if not content:
    raise DamagedIndexError("it is empty")
  if len(content) < _FOOTER_BYTES:
    raise DamagedIndexError("it is cut short")
  footer = content[-_FOOTER_BYTES:]
  if struct.unpack_from("<Q", footer, _FOOTER_BYTES - 8) != (_MAGIC,):
    raise DamagedIndexError("it is cut short, or no index of a checkpoint")
  try:
    return _parse_blocks(content, footer)
  except (IndexError, struct.error) as error:
    raise DamagedIndexError("it holds no table") from error


def _parse_blocks(content: bytes, footer: bytes) -> Index:
  num_shards, sizes, names = 0, {}, set()
  # The place of a block that is empty, then that of the list of blocks.
  *_, offset, size = _varints(footer, 4)
  for _, place in _entries(_block(content, offset, size)):
    for key, message in _entries(_block(content, *_varints(place, 2))):
      fields = _numbers(message)
      if not key:  # the header
        num_shards = fields.get(_NUM_SHARDS, 0)
        continue
      names.add(key.decode(errors="replace"))
      shard = fields.get(_SHARD, 0)
      end = fields.get(_OFFSET, 0) + fields.get(_SIZE, 0)
      sizes[shard] = max(sizes.get(shard, 0), end)
  if not num_shards:
    raise DamagedIndexError("it has no header")
  return Index(num_shards, sizes, frozenset(names))


def read(checkpoint: str) -> Index:
  """Reads the index of a checkpoint, all of it.

  TensorFlow's own reader takes a block that the disk does not give for the end
  of the index.

  Args:
    checkpoint: path without its file endings.

  Raises:
    DamagedIndexError: it is not one, or not a whole one.
    tf.errors.OpError: there is none, or it cannot be read.
  """
  with tf.io.gfile.GFile(f"{checkpoint}.index", "rb") as file:
    return parse(file.read())


def find_damage(checkpoint: str) -> str:
  """Looks for damage to a checkpoint, without reading its data.

  This reads the index and the sizes of the data files: a fraction of a percent
  of the bytes. All of the index is under checksums. Of the data files it sees
  that one is missing or too short, but not that bytes in it have changed:
  TensorFlow finds that when it restores a tensor, by the tensor's checksum, so
  that a large file is not read twice; see checkpoints.py.

  Args:
    checkpoint: path without its file endings.

  Returns:
    The damaged file and what is wrong with it, in words; empty if nothing is.
  """
  index = f"{checkpoint}.index"
  try:
    found = read(checkpoint)
  except tf.errors.NotFoundError:
    return f"{index} is missing"
  except DamagedIndexError as error:
    return f"{index} is damaged: {error}"
  for shard in range(found.num_shards):
    data = f"{checkpoint}.data-{shard:05d}-of-{found.num_shards:05d}"
    try:
      size = tf.io.gfile.stat(data).length
    except tf.errors.NotFoundError:
      return f"{data} is missing"
    wanted = found.sizes.get(shard, 0)
    if size < wanted:
      what = f"it has {size} of {wanted} bytes" if size else "it is empty"
      return f"{data} is damaged: {what}"
  return ""
