"""Tests of records.frames."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from make_records import frame_record

from records import frames as frames_file

NAMES = ["rgb", "audio"]
SIZES = [5, 130]  # lengths of one and of two bytes


def random_features(num_frames, seed=0):
  """Frames of both features, uint8."""
  generator = np.random.default_rng(seed)
  return {
    name: generator.integers(256, size=(num_frames, size), dtype=np.uint8)
    for name, size in zip(NAMES, SIZES, strict=True)
  }


def cut(records, max_frames=300, padded_length=lambda frames: frames):
  """cut_frames of the two features."""
  return frames_file.cut_frames(
    records, NAMES, SIZES, max_frames, padded_length
  )


def forbid_parsing(monkeypatch):
  """Makes the slow way fail."""

  def fail(*unused_arguments):
    raise AssertionError("a usual record was parsed the slow way")

  monkeypatch.setattr(frames_file, "_parsed_frames", fail)


def side_by_side(features):
  return np.concatenate([features[name] for name in NAMES], axis=1)


@hypothesis.given(
  counts=strategies.lists(strategies.integers(0, 40), min_size=1, max_size=5),
  max_frames=strategies.integers(1, 45),
  extra=strategies.integers(0, 3),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_frames_are_cut_out_and_padded(counts, max_frames, extra):
  videos = [random_features(count, seed) for seed, count in enumerate(counts)]
  records = [
    frame_record(f"v{number}", [number], **features)
    for number, features in enumerate(videos)
  ]
  with pytest.MonkeyPatch.context() as monkeypatch:
    forbid_parsing(monkeypatch)
    frames, num_frames = cut(records, max_frames, lambda most: most + extra)
  longest = min(max(counts), max_frames)
  assert frames.shape == (len(counts), longest + extra, sum(SIZES))
  assert frames.dtype == np.uint8
  assert num_frames.dtype == np.int32
  for video, features in enumerate(videos):
    count = min(counts[video], max_frames)
    assert num_frames[video] == count
    np.testing.assert_array_equal(
      frames[video, :count], side_by_side(features)[:count]
    )
    assert not frames[video, count:].any()


def test_the_order_of_the_features_is_that_of_the_names():
  features = random_features(3)
  frames, _ = frames_file.cut_frames(
    [frame_record("v", **features)], ["audio", "rgb"], SIZES[::-1], 300, int
  )
  np.testing.assert_array_equal(
    frames[0], np.concatenate([features["audio"], features["rgb"]], axis=1)
  )


def test_tensorflow_takes_the_frames_without_a_copy():
  for count in range(1, 9):
    frames, _ = cut([frame_record("v", **random_features(count))])
    assert frames.ctypes.data % 64 == 0


def varint(number, extra_bytes=0):
  """A number as protobuf writes it, or longer than it needs to be."""
  found = bytearray()
  while number >= 0x80:
    found.append(number & 0x7F | 0x80)
    number >>= 7
  found.append(number)
  for _ in range(extra_bytes):
    found[-1] |= 0x80
    found.append(0)
  return bytes(found)


def field(tag, content, extra_bytes=0):
  return bytes([tag]) + varint(len(content), extra_bytes) + content


def feature_lists(*lists, extra_bytes=0):
  """A record's feature lists, (name, frames) each, written by hand."""
  entries = b""
  for name, frames in lists:
    content = b"".join(
      field(
        0x0A, field(0x0A, field(0x0A, frame.tobytes()), extra_bytes=extra_bytes)
      )
      for frame in frames
    )
    entries += field(0x0A, field(0x0A, name.encode()) + field(0x12, content))
  return field(0x12, entries)


def test_other_valid_layouts_are_parsed():
  features = random_features(4)
  usual = frame_record("v", [1], **features)
  context = field(0x0A, b"")
  pairs = list(features.items())
  layouts = {
    "by hand": context + feature_lists(*pairs),
    "lists first": feature_lists(*pairs) + context,
    "another order": feature_lists(*pairs[::-1]),
    "lists in two parts": feature_lists(pairs[0]) + feature_lists(pairs[1]),
    "a list twice, the last one counts": feature_lists(
      (NAMES[0], features["rgb"][:2]), *pairs
    ),
    "long lengths": feature_lists(*pairs, extra_bytes=2),
    "one more list": feature_lists(("other", features["rgb"]), *pairs),
  }
  expected, _ = cut([usual])
  for name, record in layouts.items():
    parsed = tf.train.SequenceExample.FromString(record)
    assert set(NAMES) <= set(parsed.feature_lists.feature_list), name
    frames, num_frames = cut([usual, record])
    np.testing.assert_array_equal(frames[1], expected[0], err_msg=name)
    assert num_frames[1] == 4, name


def bad_records():
  """Records that must be refused, by what is wrong with them."""
  good = random_features(3)
  mixed = [*good["rgb"][:2], good["rgb"][0][:4]]
  # As many bytes as three frames of the right size have.
  shifted = [good["rgb"][0][:4], good["rgb"][1], good["audio"][0][:6]]
  return {
    "a shorter frame": frame_record("v", rgb=mixed, audio=good["audio"]),
    "sizes that add up": frame_record("v", rgb=shifted, audio=good["audio"]),
    "another size": frame_record("v", rgb=good["rgb"], audio=good["rgb"]),
    "unequal frame counts": frame_record(
      "v", rgb=good["rgb"][:2], audio=good["audio"]
    ),
    "a missing list": frame_record("v", rgb=good["rgb"]),
    "floats": frame_record(
      "v", rgb=good["rgb"], audio=good["audio"].astype(np.float32)
    ),
    "cut off": frame_record("v", **good)[:-1],
    "a length past the end": frame_record("v", **good)[:-200],
    "no protobuf": b"\xff\xff no record",
  }


@pytest.mark.parametrize("name", bad_records())
def test_bad_records_are_refused(name):
  good = frame_record("w", **random_features(3))
  with pytest.raises(ValueError, match=r"frame|Example|list"):
    cut([good, bad_records()[name]])


@hypothesis.given(
  position=strategies.integers(0, 500), value=strategies.integers(0, 255)
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_a_damaged_byte_is_refused_or_read_as_protobuf_reads_it(
  position, value
):
  record = bytearray(frame_record("v", [1], **random_features(3)))
  record[position % len(record)] = value
  names = [name.encode() for name in NAMES]
  try:
    frames, _ = cut([bytes(record)])
  except ValueError:
    return
  try:
    parsed = frames_file._parsed_frames(bytes(record), names, SIZES)
  except ValueError:
    # Whoever cuts the frames parses the context, which is in front, as well.
    assert position % len(record) < 2 + record[1]
    return
  np.testing.assert_array_equal(frames[0], np.concatenate(parsed, axis=1))
