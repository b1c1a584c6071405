"""Tests of engine.checkpoint_index."""

import numpy as np
import pytest
import tensorflow as tf

from engine.checkpoint_index import DamagedIndexError, find_damage, parse, read


@pytest.fixture
def checkpoint(tmp_path):
  """The path of a checkpoint of many tensors, as TensorFlow writes it."""
  variables = {
    f"weight_{number}": tf.Variable(np.full([number], number, np.float32))
    for number in range(1, 200)
  }
  return tf.train.Checkpoint(**variables).write(str(tmp_path / "model.ckpt-7"))


def content_of(checkpoint, ending="index"):
  with open(f"{checkpoint}.{ending}", "rb") as file:
    return file.read()


def test_an_index_tells_what_the_data_is(checkpoint):
  data = content_of(checkpoint, "data-00000-of-00001")
  names = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  assert len(names) > 199
  assert read(checkpoint) == (1, {0: len(data)}, names.keys())
  assert find_damage(checkpoint) == ""


def test_an_index_that_is_cut_anywhere_is_damaged(checkpoint):
  content = content_of(checkpoint)
  for length in range(0, len(content), 97):
    with pytest.raises(DamagedIndexError):
      parse(content[:length])


def test_a_byte_that_has_changed_anywhere_is_found(checkpoint):
  content = content_of(checkpoint)
  whole = parse(content)
  num_unnoticed = 0
  for at in range(0, len(content), 7):
    changed = bytearray(content)
    changed[at] ^= 0x10
    try:
      # The end of the file has bytes that nothing reads.
      assert parse(bytes(changed)) == whole
      num_unnoticed += 1
    except DamagedIndexError:
      pass
  assert num_unnoticed <= 48 / 7 + 1


@pytest.mark.parametrize("content", [b"", b"model", bytes(4096)])
def test_what_is_no_index(content):
  with pytest.raises(DamagedIndexError):
    parse(content)


@pytest.mark.parametrize(
  ("length", "what"),
  [
    (0, "it is empty"),
    (100, "it has 100 of 97181"),
    (None, "is missing"),
  ],
)
def test_data_that_is_not_whole(checkpoint, tmp_path, length, what):
  path = tmp_path / "model.ckpt-7.data-00000-of-00001"
  if length is None:
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:length])
  damage = find_damage(checkpoint)
  assert str(path) in damage
  assert what in damage
