"""Serialized records of unusual layout, and damaged ones.

A record is made by protobuf, taken apart to its fields, changed and put
together again. Many of the changes are valid: messages in several parts, fields
in another order, numbers that are not packed, unknown fields, long lengths.
"""

import random

import numpy as np
import tensorflow as tf
from make_records import frame_record, segment_record, video_record

# Which message each field holds, by its tag; "" for no message.
_MESSAGES = {
  "record": {0x0A: "features", 0x12: "lists"},
  "features": {0x0A: "feature entry"},
  "feature entry": {0x0A: "", 0x12: "feature"},
  "lists": {0x0A: "list entry"},
  "list entry": {0x0A: "", 0x12: "list"},
  "list": {0x0A: "feature"},
  "feature": {0x0A: "bytes", 0x12: "floats", 0x1A: "integers"},
  "bytes": {0x0A: ""},
  "floats": {0x0A: ""},
  "integers": {0x0A: ""},
}

FRAME_NAMES = ["rgb", "audio"]


def varint(number: int, extra_bytes: int = 0) -> bytes:
  """A number of 7 bits a byte, with more bytes than it needs."""
  digits = []
  while number >= 0x80 or extra_bytes > 0:
    if number < 0x80:
      extra_bytes -= 1
    digits.append(number & 0x7F | 0x80)
    number >>= 7
  return bytes([*digits, number])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
  """A number at a place, and where it ends."""
  number = shift = 0
  while True:
    number |= (data[at] & 0x7F) << shift
    shift += 7
    at += 1
    if data[at - 1] < 0x80:
      return number, at


def field(tag: int, content: bytes, extra_bytes: int = 0) -> bytes:
  """A field with a length, which has more bytes than it needs."""
  return varint(tag) + varint(len(content), extra_bytes) + content


def take_apart(data: bytes, message="record") -> list:
  """The fields of a message that protobuf has written.

  Returns:
    [tag, message that it holds or "", content] of each; the content is again
    such a list, or bytes.
  """
  fields = []
  at = 0
  while at < len(data):
    tag, at = read_varint(data, at)
    length, at = read_varint(data, at)
    content = data[at : at + length]
    at += length
    held = _MESSAGES[message][tag]
    fields.append([tag, held, take_apart(content, held) if held else content])
  return fields


class _Changer:
  """Changes records; the seed decides how."""

  def __init__(self, seed):
    self.random = random.Random(seed)
    self.wrong_lengths = self.random.random() < 0.1
    self.long_numbers = self.random.random() < 0.3

  def _number(self, number):
    extra = self.random.randint(0, 5) if self.long_numbers else 0
    return varint(number, extra if self.random.random() < 0.1 else 0)

  def put_together(self, fields) -> bytes:
    """The bytes of fields as from take_apart; bytes among them stay."""
    parts = []
    for one in fields:
      if isinstance(one, bytes):
        parts.append(one)
        continue
      tag, held, content = one
      content = self.put_together(content) if held else content
      length = len(content)
      if self.wrong_lengths and self.random.random() < 0.1:
        length = max(length + self.random.choice([-2, -1, 1, 2, 200]), 0)
      parts.append(self._number(tag) + self._number(length) + content)
    return b"".join(parts)

  def unknown_field(self) -> bytes:
    """A field of any number and wire type; now and then not a valid one."""
    number = self.random.choice([0, 1, 2, 3, 4, 9, 15, 16, 3000, (1 << 29) - 1])
    if self.random.random() < 0.5:
      number = self.random.randint(4, 20)
    kind = self.random.randrange(8 if self.random.random() < 0.1 else 5)
    size = self.random.choice([0, 1, 3, 4, 8])
    content = self.random.randbytes(size)
    if kind == 0:
      big = self.random.getrandbits(self.random.choice([3, 14, 64, 70]))
      return varint(number << 3) + varint(big)
    if kind == 1:
      return varint(number << 3 | 1) + self.random.randbytes(8)
    if kind == 2:
      return varint(number << 3 | 5) + self.random.randbytes(4)
    if kind == 3:
      return field(number << 3 | 2, content)
    if kind == 4:
      return self._group(number)
    return varint(number << 3 | kind) + content

  def _group(self, number) -> bytes:
    depth = self.random.choice([1, 1, 2, 3, *range(93, 102)])
    count = self.random.choice([0, 0, 1, 1, 2, 3])
    inner = b"".join(self.unknown_field() for _ in range(count))
    numbers = [
      max(number, 1),
      *(self.random.randint(0, 9) for _ in range(depth - 1)),
    ]
    begins = b"".join(varint(one << 3 | 3) for one in numbers)
    if self.random.random() < 0.05:
      numbers[0] += 1
    ends = b"".join(varint(one << 3 | 4) for one in reversed(numbers))
    return begins + inner + ends

  def _messages(self, fields, message="record"):
    """All messages in a record: (name, fields)."""
    found = [(message, fields)]
    for one in fields:
      if not isinstance(one, bytes) and one[1]:
        found += self._messages(one[2], one[1])
    return found

  def change(self, fields) -> None:
    """Makes one change to the fields of a record, in place."""
    name, message = self.random.choice(self._messages(fields))
    place = self.random.randint(0, len(message))
    known = [one for one in message if not isinstance(one, bytes)]
    one = self.random.choice(known) if known else None
    kind = self.random.randrange(8)
    if kind == 0:
      self.random.shuffle(message)
    elif kind == 1 and one:
      message.insert(place, one)
    elif kind == 2 and one:
      message.remove(one)
    elif kind == 3 and one and one[1]:
      middle = self.random.randint(0, len(one[2]))
      message.insert(message.index(one), [one[0], one[1], one[2][:middle]])
      message.insert(place, [one[0], one[1], one[2][middle:]])
      message.remove(one)
    elif kind == 4:
      if name.endswith("entry") and self.random.random() < 0.7:
        return  # protobuf would ignore the entry
      message.insert(place, self.unknown_field())
    elif kind == 5 and name in ("bytes", "floats", "integers"):
      self._change_values(name, message, place)
    elif kind == 6 and name == "feature":
      held = self.random.choice(["bytes", "floats", "integers"])
      tag = {"bytes": 0x0A, "floats": 0x12, "integers": 0x1A}[held]
      values = []
      self._change_values(held, values, 0)
      message.insert(place, [tag, held, values])
    elif kind == 7 and one:
      if not one[1]:
        one[2] = self._other_content(name, one[2])
      elif self.random.random() < 0.3:
        one[0] = self.random.choice([0x08, 0x0A, 0x12, 0x1A, 0x22])

  def _other_content(self, name, content) -> bytes:
    if name.endswith("entry"):
      return self.random.choice([
        b"", b"id", b"rgb", b"audio", "ä€𝄞".encode(), b"\xff", b"\xc0\x80",
        b"\xed\xa0\x80", b"\xf4\x90\x80\x80", content[:-1], content + b"\0",
      ])  # fmt: skip
    return self.random.choice(
      [b"", content[:-1], content * 2, content[::-1], b"\xff" * 9 + b"\x01"]
    )

  def _change_values(self, name, message, place) -> None:
    """Adds values to a list: packed, or one for each field."""
    count = self.random.choice([0, 1, 1, 2, 3])
    if name == "bytes":
      values = [field(0x0A, self.random.randbytes(3)) for _ in range(count)]
    elif name == "floats":
      values = [b"\x0d" + self.random.randbytes(4) for _ in range(count)]
    else:
      bits = self.random.choice([2, 7, 14, 63, 64, 70])
      values = [
        b"\x08" + varint(self.random.getrandbits(bits)) for _ in range(count)
      ]
    if name != "bytes" and self.random.random() < 0.5:
      content = b"".join(value[1:] for value in values)
      values = [field(0x0A, content)]
    message[place:place] = values

  def damage(self, data: bytes) -> bytes:
    """Changes a bit, cuts, or adds bytes."""
    place = self.random.randint(0, len(data))
    kind = self.random.randrange(5)
    if kind == 0:
      return data[:place]
    if kind == 1:
      more = self.random.randbytes(self.random.randint(1, 3))
      return data[:place] + more + data[place:]
    if kind == 2:
      return data[:place] + data[place + self.random.randint(1, 3) :]
    damaged = bytearray(data)
    if place < len(data):
      damaged[place] ^= 1 << self.random.randrange(8)
    return bytes(damaged)


def _good_record(seed: int, level: str, sizes: list[int]) -> bytes:
  values = np.random.default_rng(seed)
  count = int(values.choice([0, 1, 1, 2, 3, 4]))
  labels = [None, [], [3], [0, 200, 3861], [-1, 1 << 62]][values.integers(5)]
  name = ["id", "video_id"][values.integers(2)]
  if level == "video":
    features = {
      "mean_rgb": values.normal(size=3).astype(np.float32),
      "mean_audio": values.normal(size=40).astype(np.float32),
    }
    return video_record("abcd", labels, name, **features)
  features = {
    feature: values.integers(256, size=(count, size), dtype=np.uint8)
    for feature, size in zip(FRAME_NAMES, sizes, strict=True)
  }
  if level == "segments":
    ratings = [(5 * number, number, 0.5) for number in range(count)]
    return segment_record("abcd", ratings, **features)
  if level == "float frames":
    features = {
      feature: frames.astype(np.float32) for feature, frames in features.items()
    }
  return frame_record("abcd", labels, name, **features)


def changed_record(
  seed: int,
  num_changes: int,
  num_damages: int,
  level: str,
  sizes: list[int],
) -> bytes:
  """Makes a record that may be valid or not.

  Args:
    seed: decides all that the other arguments leave open.
    num_changes: how many changes to make to its fields.
    num_damages: how many changes to make to its bytes.
    level: "video", "frames", "float frames" or "segments".
    sizes: how many numbers a frame of each of FRAME_NAMES has.
  """
  changer = _Changer(seed)
  fields = take_apart(_good_record(seed, level, sizes))
  for _ in range(num_changes):
    changer.change(fields)
  data = changer.put_together(fields)
  for _ in range(num_damages):
    data = changer.damage(data)
  return data


def by_protobuf(data: bytes):
  """The record as protobuf parses it; None if it refuses it."""
  try:
    return tf.train.SequenceExample.FromString(data)
  except Exception:  # the class differs between protobuf's backends
    return None
