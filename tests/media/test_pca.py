import io
import json
import os
import struct

import numpy as np
import pytest

import errors
from media import pca


def vectors(count=500, size=6, seed=0):
  """Vectors far from zero, with another variance along each direction."""
  random = np.random.default_rng(seed)
  turned, _ = np.linalg.qr(random.normal(size=(size, size)))
  scales = np.arange(size, 0, -1)
  return random.normal(size=(count, size)) * scales @ turned + 1000


def fitted(all_vectors, components=3, part=70):
  fit = pca.Fit(all_vectors.shape[1])
  for start in range(0, len(all_vectors), part):
    fit.add(all_vectors[start : start + part])
  return fit.finish(components, "random")


def test_a_fit_in_parts_is_that_of_all_vectors():
  data = vectors()
  found = fitted(data)
  centered = data - data.mean(axis=0)
  # By the singular values of the data, without a scatter matrix.
  _, singular, rows = np.linalg.svd(centered, full_matrices=False)
  variances = singular**2 / (len(data) - 1)
  np.testing.assert_allclose(found.mean, data.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(found.eigenvalues, variances[:3], rtol=1e-5)
  np.testing.assert_allclose(
    np.abs((found.eigenvectors * rows[:3]).sum(axis=1)), 1, rtol=1e-6
  )
  assert found.explained == pytest.approx(variances[:3].sum() / variances.sum())


def test_parts_of_any_length_give_the_same():
  data = vectors()
  whole, single = fitted(data, part=500), fitted(data, part=1)
  np.testing.assert_allclose(whole.eigenvectors, single.eigenvectors, atol=1e-6)
  fit = pca.Fit(6)
  fit.add(data[:0])
  assert fit.count == 0


def test_signs_do_not_depend_on_chance():
  for seed in range(5):
    rows = fitted(vectors(seed=seed), 6).eigenvectors
    assert (rows[range(6), np.abs(rows).argmax(axis=1)] > 0).all()


def test_projections_keep_distances_and_are_not_whitened():
  data = vectors()
  projected = fitted(data, 6).apply(data.astype(np.float32))
  assert projected.dtype == np.float32
  np.testing.assert_allclose(
    np.linalg.norm(projected[0] - projected[1:], axis=1),
    np.linalg.norm(data[0] - data[1:], axis=1),
    rtol=1e-3,
  )


@pytest.mark.parametrize("components", [0, 7])
def test_more_components_than_numbers_are_refused(components):
  with pytest.raises(errors.UserError, match="from 1 to 6, for 500 training"):
    fitted(vectors(), components)


def test_more_components_than_vectors_are_refused():
  with pytest.raises(errors.UserError, match="from 1 to 2, for 3 training"):
    fitted(vectors(3), 3)


def test_vectors_that_are_all_equal_have_no_variance():
  found = fitted(np.ones((5, 4)), 2)
  assert found.explained == 0
  np.testing.assert_array_equal(found.apply(np.ones((2, 4), np.float32)), 0)


def test_a_fitted_one_is_kept(tmp_path):
  saved = fitted(vectors())
  saved.save(str(tmp_path / "pca"))
  found = pca.read(str(tmp_path / "pca"))
  for name in ("mean", "eigenvectors", "eigenvalues"):
    np.testing.assert_array_equal(getattr(found, name), getattr(saved, name))
  assert (found.encoder, found.explained) == ("random", saved.explained)
  assert sorted(path.name for path in (tmp_path / "pca").iterdir()) == [
    "eigenvals.npy",
    "eigenvecs.npy",
    "mean.npy",
    "pca.json",
  ]
  saved.save(str(tmp_path / "pca"))  # again, over the old files


def test_a_fitted_one_is_on_the_disk(tmp_path, monkeypatch):
  flushed = []
  fsync = os.fsync

  def record(descriptor):
    flushed.append(os.fstat(descriptor).st_ino)
    fsync(descriptor)

  monkeypatch.setattr(os, "fsync", record)
  folder = tmp_path / "pca"
  fitted(vectors()).save(str(folder))
  names = (*pca.FILES, "pca.json")
  expected = [(folder / name).stat().st_ino for name in names]
  assert flushed[::2] == expected
  assert set(flushed[1::2]) == {folder.stat().st_ino}


def write_youtube8m(folder, size=1030, seed=0):
  """Files in the form of YouTube-8M's PCA; returns their arrays."""
  random = np.random.default_rng(seed)
  mean = random.normal(size=(size, 1)).astype(np.float32)
  rows = random.normal(size=(size, size)).astype(np.float32) / size**0.5
  values = np.sort(random.random((size, 1)))[::-1].astype(np.float32)
  np.save(folder / "mean.npy", mean)
  np.save(folder / "eigenvecs.npy", rows)
  np.save(folder / "eigenvals.npy", values)
  return mean, rows, values


def test_youtube8m_keeps_1024_components_and_whitens_them(tmp_path):
  mean, rows, values = write_youtube8m(tmp_path)
  found = pca.read(str(tmp_path))
  assert (found.size, found.encoder) == (1024, "")
  random = np.random.default_rng(1)
  data = random.normal(size=(2, 1030)).astype(np.float32)
  projected = found.apply(data)
  assert projected.shape == (2, 1024)
  # Number by number.
  for video in (0, 1):
    for component in (0, 1, 1023):
      total = 0.0
      for number in range(1030):
        total += (float(data[video, number]) - float(mean[number, 0])) * float(
          rows[component, number]
        )
      total /= (float(values[component, 0]) + 1e-4) ** 0.5
      assert projected[video, component] == pytest.approx(total, rel=1e-3)


def npz_bytes() -> bytes:
  file = io.BytesIO()
  np.savez(file, mean=np.zeros(3))
  return file.getvalue()


def npy_bytes(header: str) -> bytes:
  """A NumPy file of this header and no numbers."""
  return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("mean.npy", None, "No such file or directory"),
    ("mean.npy", b"text", "mean.npy of --pca_dir"),
    ("mean.npy", np.full((4, 1), np.nan), "float64 of shape (4, 1)"),
    ("mean.npy", np.zeros((1031, 1)), "mean.npy of shape (1031, 1)"),
    ("eigenvecs.npy", np.zeros((1000, 1030)), "eigenvecs.npy of (1000, 1030)"),
    ("eigenvals.npy", np.zeros((1030, 1), int), "int64 of shape"),
    ("eigenvals.npy", np.zeros((3, 1)), "eigenvals.npy of (3, 1)"),
    ("pca.json", b"{}", "as --fit_pca writes it"),
    pytest.param(
      *("pca.json", b"[" * 100_000, "as --fit_pca writes it"), id="deep"
    ),
    (
      "pca.json",
      b'{"encoder": "a", "components": Infinity}',
      "as --fit_pca writes it",
    ),
    ("pca.json", json.dumps({"encoder": ""}).encode(), "no encoder"),
    ("pca.json", b'{"encoder": "a", "components": 0}', "0 components"),
    ("pca.json", b'{"encoder": "a", "components": -3}', "-3 components"),
    ("mean.npy", np.full((1030, 1), 1e300), "float64 of shape (1030, 1)"),
    pytest.param("mean.npy", npz_bytes(), "mean.npy of --pca_dir", id="npz"),
    pytest.param(
      *("mean.npy", npz_bytes()[:90], "mean.npy of --pca_dir"), id="cut npz"
    ),
    pytest.param(
      *("mean.npy", npy_bytes("{'descr': ("), "mean.npy of --pca_dir"),
      id="cut header",
    ),
    pytest.param(
      "mean.npy",
      npy_bytes(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 50},)}}"
      ),
      "mean.npy of --pca_dir",
      id="huge",
    ),
  ],
)
def test_wrong_files_are_refused(name, content, message, tmp_path):
  write_youtube8m(tmp_path)
  if content is None:
    (tmp_path / name).unlink()
  elif isinstance(content, bytes):
    (tmp_path / name).write_bytes(content)
  else:
    np.save(tmp_path / name, content)
  with pytest.raises(errors.UserError) as caught:
    pca.read(str(tmp_path))
  assert message in str(caught.value)
