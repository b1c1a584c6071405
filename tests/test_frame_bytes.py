import numpy as np
import pytest

import startup  # isort: skip # noqa: F401
import tensorflow as tf
from conftest import frame_record

import frame_bytes

NAMES, SIZES = ["rgb", "audio"], [1024, 128]


def frames_of(length, size, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(256, size=(length, size), dtype=np.uint8)


def find(records, names=NAMES, sizes=SIZES, num_lists=2, padded_length=None):
  regular, frames, num_frames = frame_bytes.find_frames(
    tf.constant(records),
    names,
    sizes,
    num_lists,
    padded_length or (lambda longest: tf.maximum(longest, 1)),
  )
  return bool(regular), frames.numpy(), num_frames.numpy()


def test_frame_header_by_hand():
  # Bytes: 0A 80 01, then 128 bytes, 131 in all (83 01); with the BytesList
  # around it 134 (86 01).
  assert frame_bytes.frame_header(128) == bytes.fromhex("0a86010a83010a8001")
  # 3 bytes: 0A 03 + 3 = 5; 0A 05 + 5 = 7.
  assert frame_bytes.frame_header(3) == bytes.fromhex("0a070a050a03")


@pytest.mark.parametrize("size", [1, 3, 121, 122, 127, 128, 1024, 16384])
def test_frame_header_is_what_protobuf_writes(size):
  feature_list = tf.train.FeatureList()
  feature = feature_list.feature.add()
  feature.bytes_list.value.append(b"x" * size)

  header = frame_bytes.frame_header(size)

  assert feature_list.SerializeToString() == header + b"x" * size


def test_frames_of_several_lengths_and_contexts():
  lengths = [3, 1, 250]
  rgb = [frames_of(length, 1024, length) for length in lengths]
  audio = [frames_of(length, 128, length + 1) for length in lengths]
  records = [
    # Contexts of other lengths move everything behind them.
    frame_record("i" * 7**number, [7] * number, rgb=a, audio=b)
    for number, (a, b) in enumerate(zip(rgb, audio, strict=True))
  ]

  regular, frames, num_frames = find(records)

  assert regular
  assert num_frames.tolist() == lengths
  assert frames.shape == (3, 250, 1152)
  for row, length in enumerate(lengths):
    np.testing.assert_array_equal(frames[row, :length, :1024], rgb[row])
    np.testing.assert_array_equal(frames[row, :length, 1024:], audio[row])


def test_other_lists_are_passed_over_and_order_is_that_asked_for():
  rgb, audio, depth = frames_of(4, 8), frames_of(4, 5, 1), frames_of(4, 300, 2)
  record = frame_record("a", [1], rgb=rgb, audio=audio, depth=depth)

  regular, frames, _ = find([record], ["audio", "rgb"], [5, 8], num_lists=3)

  assert regular
  np.testing.assert_array_equal(frames[0], np.concatenate([audio, rgb], 1))


@pytest.mark.parametrize("length", [1, 3, 9])
def test_padded_length_cuts_and_pads(length):
  rgb, audio = frames_of(4, 1024), frames_of(4, 128)
  record = frame_record("a", rgb=rgb, audio=audio)

  regular, frames, num_frames = find(
    [record], padded_length=lambda longest: longest * 0 + length
  )

  assert regular
  assert num_frames.tolist() == [4]
  assert frames.shape == (1, length, 1152)
  kept = min(length, 4)
  np.testing.assert_array_equal(frames[0, :kept, :1024], rgb[:kept])
  np.testing.assert_array_equal(frames[0, :kept, 1024:], audio[:kept])
  assert not frames[0, kept:].any()


GOOD = frame_record("a", [1], rgb=frames_of(4, 1024), audio=frames_of(4, 128))


@pytest.mark.parametrize(
  "record",
  [
    b"",
    b"\x0a",
    b"\xff" * 40,
    b"\x0a\xff\xff\xff\xff\xff",
    GOOD[:-1],
    GOOD[:100],
    GOOD + b"\x12\x00",
    frame_record("a", rgb=frames_of(4, 1024)),
    frame_record("a", rgb=frames_of(4, 1024), sound=frames_of(4, 128)),
    frame_record("a", rgb=frames_of(4, 1024), audio=frames_of(3, 128)),
    frame_record("a", rgb=frames_of(4, 1023), audio=frames_of(4, 128)),
    frame_record(
      "a", rgb=frames_of(4, 1024), audio=frames_of(4, 32).astype(np.float32)
    ),
    frame_record(
      "a", rgb=frames_of(4, 1024), audio=frames_of(4, 128), more=frames_of(4, 2)
    ),
  ],
)
def test_what_is_laid_out_otherwise_is_not_regular(record):
  assert find([GOOD, GOOD])[0]
  assert not find([GOOD, record])[0]


def test_frames_of_unequal_sizes_that_add_up_are_not_regular():
  # 10 + 12 bytes with their headers are as long as 11 + 11.
  frames = [np.zeros(10, np.uint8), np.zeros(12, np.uint8)]
  record = frame_record("a", rgb=frames)

  assert find(
    [frame_record("a", rgb=frames_of(2, 11))], ["rgb"], [11], num_lists=1
  )[0]
  assert not find([record], ["rgb"], [11], num_lists=1)[0]


def test_any_changed_header_byte_is_noticed():
  start = GOOD.index(frame_bytes.frame_header(128), 20)
  stride = 128 + 9
  for frame in range(4):
    for byte in range(9):
      position = start + frame * stride + byte
      changed = bytearray(GOOD)
      changed[position] ^= 1
      assert not find([bytes(changed)])[0], (frame, byte)
