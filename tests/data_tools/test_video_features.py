"""Tests of video_features: from an encoder's numbers to what is stored."""

import numpy as np
import pytest

import errors
from data_tools.video_features import Finish, fit_pca

PLAIN = {"video_level": False, "fit_pca": 0}


def test_without_settings_arrays_stay():
  arrays = {"rgb": np.ones((3, 2), np.float32)}
  assert Finish(PLAIN)(arrays) is arrays


def test_means_of_floats_and_of_bytes():
  finish = Finish({**PLAIN, "video_level": True})
  found = finish(
    {
      "rgb": np.array([[1, 2], [2, 4]], np.float32),
      "audio": np.array([[0], [255]], np.uint8),
    }
  )
  assert list(found) == ["mean_rgb", "mean_audio"]
  np.testing.assert_array_equal(found["mean_rgb"], np.float32([1.5, 3]))
  # 127.5 * 4/255 + 4/512 - 2
  np.testing.assert_allclose(found["mean_audio"], [0.0078125], atol=1e-7)
  assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_a_pca_is_fitted_kept_and_applied(tmp_path):
  rng = np.random.default_rng(0)
  # Nearly all of the variance is along (3, 4) / 5.
  along = rng.standard_normal((40, 1)) @ np.array([[3.0, 4.0]])
  frames = (along + 7).astype(np.float32)
  folder = str(tmp_path / "pca")
  fit_pca(iter([frames[:10], frames[10:]]), 1, "random", folder)
  finish = Finish({**PLAIN, "fit_pca": 1}, folder)
  arrays = {"rgb": frames, "audio": np.zeros((40, 1), np.uint8)}
  found = finish(arrays)
  assert found["audio"] is arrays["audio"]
  wanted = (frames - frames.mean(axis=0)) @ np.array([[0.6], [0.8]])
  np.testing.assert_allclose(found["rgb"], wanted, atol=1e-4)


def test_a_pca_of_nothing_is_an_error(tmp_path):
  with pytest.raises(errors.UserError, match="training videos"):
    fit_pca(iter([]), 1, "random", str(tmp_path / "pca"))
