"""Tests of the forward pass over other data."""

import numpy as np
import pytest
from make_records import frame_record, write_records
from tiny_runs import NUM_TINY, TINY_FLAGS, TINY_FRAME_FLAGS

import errors
import losses
from engine.data import Data
from engine.distribution import Placement
from engine.forward import ForwardPass, _check_finite


def open_data(flags, files):
  return Data(flags, files, with_labels=True, for_trained=True)


def open_forward(flags, files):
  return ForwardPass(
    flags,
    open_data(flags, files),
    Placement(),
    batch_size=4,
    loss=losses.make_loss(flags),
  )


def predictions_of(forward):
  return np.concatenate([result[0] for _, result, _ in forward.run()])


def test_the_same_weights_over_other_data(tiny_files):
  # They are random, so only the same model predicts the same.
  first = open_forward(TINY_FLAGS, tiny_files[:1])
  second = first.over(open_data(TINY_FLAGS, tiny_files[1:]), "more")
  both = second.over(open_data(TINY_FLAGS, tiny_files), "more")
  expected = predictions_of(both)
  assert len(expected) == NUM_TINY
  np.testing.assert_allclose(predictions_of(second), expected[13:], atol=1e-7)
  # The first one still has its own.
  np.testing.assert_allclose(predictions_of(first), expected[:13], atol=1e-7)


def test_data_that_is_stored_otherwise(tiny_frame_files, tmp_path):
  frames = np.ones((2, 4), np.float32)
  floats = write_records(
    tmp_path / "floats",
    [frame_record("v", [1], rgb=frames, audio=frames[:, :3])],
  )
  forward = open_forward(TINY_FRAME_FLAGS, tiny_frame_files)
  with pytest.raises(errors.UserError) as error:
    forward.over(
      open_data(TINY_FRAME_FLAGS, [floats]), "threshold_data_pattern"
    )
  assert str(error.value) == (
    f"Expected features stored as in {tiny_frame_files[0]}, received others in"
    f" {floats}: bytes in one, floats in the other. Name files as"
    " --threshold_data_pattern that store them alike."
  )


def test_the_video_of_a_prediction_that_is_no_number_may_have_any_id():
  ids = np.array([b"a", b"caf\xe9\0"], object)
  with pytest.raises(errors.UserError, match=r"the video caf\\xe9\\x00:"):
    _check_finite(np.array([[0.5], [np.nan]]), ids)
