"""Tests of layers.whitening."""

import math

import numpy as np
import pytest

from layers import whitening


def test_the_scales_are_of_the_published_eigenvalues(shared_dir):
  path = shared_dir / "data" / "youtube8m_pca" / "eigenvals.npy"
  eigenvalues = np.load(path)[:1024, 0]
  scales = whitening.youtube8m_scales()
  assert len(scales) == 1024
  for scale, eigenvalue in zip(scales, eigenvalues, strict=True):
    assert scale == pytest.approx(math.sqrt(eigenvalue) + 1e-4, rel=1e-6)


def test_the_scales_by_hand():
  scales = whitening.youtube8m_scales()
  assert scales[0] == pytest.approx(3.8390763 + 0.0001, abs=1e-6)
  assert scales[-1] == pytest.approx(0.12392672 + 0.0001, abs=1e-7)
  assert list(scales) == sorted(scales, reverse=True)
  # The first 64 of 1024 dimensions have 52 % of the variance, not 6 %.
  squares = np.square(scales)
  assert squares[:64].sum() / squares.sum() == pytest.approx(0.5176, abs=1e-4)


def test_only_youtube8ms_rgb_is_whitened():
  names = ["rgb", "audio", "mean_rgb", "rgb", "embedding"]
  found = whitening.scales_of(names, [1024, 128, 1024, 512, 1024])
  assert [len(of) for of in found] == [1024, 0, 1024, 0, 0]


def test_a_description_is_short():
  description = whitening.describe([[1.0, 2.0, 0.5], []])
  assert description == "3 numbers of sum 3.5, none"
