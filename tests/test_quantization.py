"""Tests of quantization."""

import numpy as np

import quantization


def test_dequantize():
  values = quantization.dequantize(np.array([0.0, 1.0, 255.0], np.float32))
  # 4/512 - 2, 4/255 more, and 4 more.
  np.testing.assert_allclose(values, [-1.9921875, -1.9765012, 2.0078125])
  assert values.dtype == np.float32


def test_dequantize_as_the_original(shared_dir):
  golden = np.load(shared_dir / "golden" / "readers" / "expected.npz")
  np.testing.assert_allclose(
    quantization.dequantize(np.arange(256.0)),
    golden["dequantize_table"],
    atol=2e-7,
  )
