"""Tests of layers.sampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layers import sampling


def counting_frames(num_videos, length):
  """(num_videos, length, 1): frame t of video v holds 100 v + t."""
  videos = 100.0 * np.arange(num_videos)[:, None, None]
  return (videos + np.arange(length)[None, :, None]).astype("float32")


@pytest.mark.parametrize(
  ("num_samples", "valid", "expected"),
  [
    # (k + 1/2) 10 / 4 = 1.25, 3.75, 6.25, 8.75
    (4, 10, [1, 3, 6, 8]),
    # (k + 1/2) 3 / 4 = 0.375, 1.125, 1.875, 2.625
    (4, 3, [0, 1, 1, 2]),
    (4, 4, [0, 1, 2, 3]),
    (4, 1, [0, 0, 0, 0]),
    # 10 / 2: the middle.
    (1, 10, [5]),
    # No valid frames: the first one, which is padding.
    (4, 0, [0, 0, 0, 0]),
  ],
)
@pytest.mark.parametrize("random_frames", [True, "in_order", "jittered", False])
def test_inference_takes_evenly_spaced_frames(
  num_samples, valid, expected, random_frames
):
  layer = sampling.SampleFrames(num_samples, random_frames)
  # Video 1 shows that frames come from the video they belong to.
  sample = layer(
    counting_frames(2, 10), np.array([valid, valid]), training=False
  )
  assert sample.shape == (2, num_samples, 1)
  np.testing.assert_array_equal(sample[0, :, 0], expected)
  np.testing.assert_array_equal(sample[1, :, 0], 100 + np.array(expected))


@pytest.mark.parametrize("num_frames", [7, 30, 299, 300])
def test_as_many_samples_as_frames_are_all_frames(num_frames):
  layer = sampling.SampleFrames(num_frames)
  frames = np.arange(num_frames, dtype="float32").reshape(1, -1, 1)
  np.testing.assert_array_equal(layer(frames, np.array([num_frames])), frames)


@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.integers(1, 300), min_size=1, max_size=4),
  st.integers(1, 40),
  st.sampled_from([True, "in_order", "jittered", False]),
  st.booleans(),
)
def test_only_valid_frames_are_sampled(
  num_frames, num_samples, random_frames, training
):
  layer = sampling.SampleFrames(num_samples, random_frames)
  valid = np.arange(300)[None, :] < np.array(num_frames)[:, None]
  sample = layer(
    valid[:, :, None].astype("float32"),
    np.array(num_frames, np.int32),
    training=training,
  )
  assert sample.shape == (len(num_frames), num_samples, 1)
  assert sample.numpy().min() == 1.0


def test_training_samples_frames_independently_of_each_other():
  layer = sampling.SampleFrames(4000)
  frames = counting_frames(2, 12)
  num_frames = np.array([10, 3])
  first = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  counts = np.bincount(first[0].astype(int), minlength=12)
  # Each of 10 frames 400 times, give or take 6 standard deviations of 19.
  assert (counts[10:] == 0).all()
  assert (abs(counts[:10] - 400) < 114).all()
  # Each of 3 frames 1333 times, give or take 6 standard deviations of 30.
  counts = np.bincount((first[1] - 100).astype(int), minlength=12)
  assert (counts[3:] == 0).all()
  assert (abs(counts[:3] - 1333) < 180).all()
  # Neighbors are independent: 4000 / 10 pairs of equal ones.
  equal = (first[0][1:] == first[0][:-1]).sum()
  assert abs(equal - 400) < 114
  second = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (first != second).any()


def test_training_samples_frames_in_order():
  layer = sampling.SampleFrames(4000, "in_order")
  frames, num_frames = counting_frames(2, 12), np.array([10, 3])
  first = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (np.diff(first, axis=1) >= 0).all()
  # As many of each as without the order, see above.
  counts = np.bincount(first[0].astype(int), minlength=12)
  assert (counts[10:] == 0).all()
  assert (abs(counts[:10] - 400) < 114).all()
  counts = np.bincount((first[1] - 100).astype(int), minlength=12)
  assert (abs(counts[:3] - 1333) < 180).all()
  second = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (first != second).any()


def test_training_jitters_evenly_spaced_frames():
  layer = sampling.SampleFrames(4, "jittered")
  # 2000 videos with 10 valid frames, then 2000 with 3.
  num_frames = np.repeat([10, 3], 2000)
  frames = np.tile(counting_frames(1, 12), (4000, 1, 1))
  picked = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  # The quarters of 10 frames end at 2.5, 5 and 7.5: how much of each frame lies
  # in each quarter.
  for part, shares in enumerate(
    [
      {0: 0.4, 1: 0.4, 2: 0.2},
      {2: 0.2, 3: 0.4, 4: 0.4},
      {5: 0.4, 6: 0.4, 7: 0.2},
      {7: 0.2, 8: 0.4, 9: 0.4},
    ]
  ):
    values, counts = np.unique(picked[:2000, part], return_counts=True)
    assert values.tolist() == list(shares)
    # Give or take 6 standard deviations of at most 22.
    expected = 2000 * np.array(list(shares.values()))
    assert (abs(counts - expected) < 132).all()
  # Those of 3 frames end at 0.75, 1.5 and 2.25.
  allowed = [{0}, {0, 1}, {1, 2}, {2}]
  assert [set(values) for values in picked[2000:].T] == allowed
  # The parts move independently of each other.
  moved = (picked[:2000] - picked[:2000].mean(axis=0)).T
  assert abs(np.corrcoef(moved) - np.eye(4)).max() < 0.14


def test_training_samples_a_run_of_consecutive_frames():
  layer = sampling.SampleFrames(3, random_frames=False)
  # 200 videos with 7 valid frames, then 200 with 3 and 200 with 2.
  num_frames = np.repeat([7, 3, 2], 200)
  frames = np.tile(counting_frames(1, 9), (600, 1, 1))
  runs = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert {tuple(run) for run in runs[:200]} == {
    (first, first + 1, first + 2) for first in range(5)
  }
  assert {tuple(run) for run in runs[200:400]} == {(0, 1, 2)}
  assert {tuple(run) for run in runs[400:]} == {(0, 1, 1)}
  again = layer(frames, num_frames, training=True).numpy()[:, :, 0]
  assert (runs != again).any()
