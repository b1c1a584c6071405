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


def test_quantize():
  values = np.array([-3.0, -2.0, 0.0, 1.0, 2.0, 9.0], np.float32)
  # round((x + 2) * 255/4): 127.5 goes to the even number, 191.25 down.
  stored = quantization.quantize(values)
  assert stored.tolist() == [0, 0, 128, 191, 255, 255]
  assert stored.dtype == np.uint8


def test_every_byte_comes_back():
  every = np.arange(256)
  for dtype in (np.float32, np.float64):
    floats = quantization.dequantize(every.astype(dtype))
    np.testing.assert_array_equal(quantization.quantize(floats), every)
