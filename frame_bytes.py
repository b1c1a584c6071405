"""Finds the frames inside serialized SequenceExamples without parsing them.

A frame-level record of the data set holds each feature as a list of frames, all
of one size, so that in the record's bytes the frames of a feature lie in a row:
the same few header bytes, then the frame's bytes, again and again. A protobuf
parser makes a string of each of the some 420 frames of a video; here each
feature is cut out as one block and reshaped, which takes about half as long.
What does not look exactly like this is left to the parser.

Wire format of protocol buffers, as far as it matters: a field is a tag byte
(field number and kind, 0x0A for field 1 and 0x12 for field 2 where they have a
length), the length as a varint (7 bits a byte, low ones first, the top bit set
on all but the last), and so many bytes.

  SequenceExample: 0A context, 12 feature_lists
  feature_lists:   for each feature 0A entry
  entry:           0A name, 12 frames
  frames:          for each frame 0A (0A (0A bytes))
"""

import tensorflow as tf

_FIELD_1 = 0x0A
_FIELD_2 = 0x12
_LONGEST_VARINT = 5  # lengths are below 2 ** 31
_WINDOW = 1 + _LONGEST_VARINT


def _varint(number: int) -> bytes:
  encoded = bytearray()
  while number > 127:
    encoded.append(number & 127 | 128)
    number >>= 7
  return bytes([*encoded, number])


def frame_header(size: int) -> bytes:
  """The bytes in front of each frame of a feature with `size` bytes a frame."""
  header = bytes([_FIELD_1]) + _varint(size)
  for _ in range(2):
    header = bytes([_FIELD_1]) + _varint(len(header) + size) + header
  return header


def _read_field(records, position):
  """Reads a tag and a length at a position of each record.

  Args:
    records: (n,) string.
    position: (n,) int32; past the end, everything reads as 0.

  Returns:
    Of each, (n,) int32: the tag, where the content begins, where it ends.
  """
  length = tf.strings.length(records)
  inside = tf.clip_by_value(position, 0, length)
  window = tf.strings.substr(
    records, inside, tf.minimum(length - inside, _WINDOW)
  )
  window = tf.cast(
    tf.io.decode_raw(window, tf.uint8, fixed_length=_WINDOW), tf.int32
  )
  digits = window[:, 1:]
  goes_on = tf.cast(digits >= 128, tf.int32)
  used = tf.math.cumprod(goes_on, axis=1, exclusive=True)
  weights = tf.constant([1 << (7 * i) for i in range(_LONGEST_VARINT)])
  size = tf.reduce_sum(used * (digits & 127) * weights, axis=1)
  begin = position + 1 + tf.reduce_sum(used, axis=1)
  return window[:, 0], begin, begin + size


def find_frames(
  records: tf.Tensor,
  names: list[str],
  sizes: list[int],
  num_lists: int,
  padded_length,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Cuts the frames of some features out of serialized SequenceExamples.

  Args:
    records: (n,) string.
    names: features to cut out, stored as bytes.
    sizes: bytes in a frame of each.
    num_lists: how many feature lists a record holds, wanted or not.
    padded_length: function from the longest record's number of frames, an int32
      scalar, to how many frames to give; more are padding, fewer cut off.

  Returns:
    Whether every record is laid out as this module describes, a bool scalar;
    the frames, (n, frames, sum of sizes) uint8, and the number of frames in
    each record, (n,) int32, before any are cut off. If the first is False, the
    other two mean nothing.
  """
  tag, _, end = _read_field(records, tf.zeros_like(records, tf.int32))
  regular = tag == _FIELD_1
  tag, position, lists_end = _read_field(records, end)
  regular &= (tag == _FIELD_2) & (lists_end == tf.strings.length(records))
  begins = [tf.zeros_like(position)] * len(names)
  ends = [tf.zeros_like(position)] * len(names)
  found = [tf.zeros_like(position)] * len(names)
  for _ in range(num_lists):
    tag, key_field, entry_end = _read_field(records, position)
    regular &= tag == _FIELD_1
    tag, key_begin, key_end = _read_field(records, key_field)
    regular &= (tag == _FIELD_1) & (key_end <= lists_end)
    key = tf.strings.substr(
      records,
      tf.where(regular, key_begin, 0),
      tf.where(regular, key_end - key_begin, 0),
    )
    tag, value_begin, value_end = _read_field(records, key_end)
    regular &= (tag == _FIELD_2) & (value_end == entry_end)
    for index, name in enumerate(names):
      here = key == name
      begins[index] = tf.where(here, value_begin, begins[index])
      ends[index] = tf.where(here, value_end, ends[index])
      found[index] += tf.cast(here, tf.int32)
    position = entry_end
  regular &= position == lists_end
  for count in found:
    regular &= count == 1

  headers = [frame_header(size) for size in sizes]
  strides = [
    len(header) + size for header, size in zip(headers, sizes, strict=True)
  ]
  num_frames = (ends[0] - begins[0]) // strides[0]
  for begin, end, stride in zip(begins, ends, strides, strict=True):
    regular &= end - begin == num_frames * stride
  all_regular = tf.reduce_all(regular)
  longest = tf.where(all_regular, tf.reduce_max(num_frames), 0)
  length = padded_length(longest)
  valid = tf.range(length) < num_frames[:, tf.newaxis]
  columns = []
  for begin, end, stride, header, size in zip(
    begins, ends, strides, headers, sizes, strict=True
  ):
    block = tf.strings.substr(
      records, tf.where(regular, begin, 0), tf.where(regular, end - begin, 0)
    )
    rows = tf.io.decode_raw(block, tf.uint8, fixed_length=length * stride)
    rows = tf.reshape(rows, [-1, length, stride])
    same = tf.reduce_all(
      rows[:, :, : len(header)] == tf.constant(list(header), tf.uint8), axis=2
    )
    all_regular &= tf.reduce_all(same | ~valid)
    columns.append(
      tf.ensure_shape(rows[:, :, len(header) :], [None, None, size])
    )
  return all_regular, tf.concat(columns, axis=2), num_frames
