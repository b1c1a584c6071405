"""Tests of quantization."""

import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

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


def test_youtube8ms_bytes_have_a_range_like_any_other():
  low, high = quantization.YOUTUBE8M_RANGE
  assert (low, high) == (-1.9921875, 2.0078125)
  assert quantization.scale_and_bias((low, high)) == (
    quantization.DEQUANTIZE_SCALE,
    quantization.DEQUANTIZE_BIAS,
  )


def test_bytes_of_a_range_by_hand():
  # A step is (9 - -6)/255 = 1/17.
  values = np.array([-7.0, -6.0, 0.0, 0.03, 9.0, 10.0], np.float32)
  stored = quantization.quantize_in(values, (-6.0, 9.0))
  assert stored.tolist() == [0, 0, 102, 103, 255, 255]
  assert stored.dtype == np.uint8
  restored = quantization.dequantize(
    stored.astype(np.float32), *quantization.scale_and_bias((-6.0, 9.0))
  )
  np.testing.assert_allclose(
    restored, [-6, -6, 0, 1 / 17, 9, 9], rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize("of", [(-0.1, 0.3), (1e3, 1e3 + 1), (-1e15, 2e17)])
def test_every_byte_of_a_range_comes_back(of):
  every = np.arange(256)
  floats = quantization.dequantize(
    every.astype(np.float64), *quantization.scale_and_bias(of)
  )
  np.testing.assert_array_equal(quantization.quantize_in(floats, of), every)


def test_features_side_by_side():
  same = quantization.scales_and_biases([(0.0, 51.0), (0.0, 51.0)], [3, 1])
  assert same == (0.2, 0.0)
  scales, biases = quantization.scales_and_biases(
    [(0.0, 51.0), (-1.0, 254.0)], [3, 1]
  )
  np.testing.assert_array_equal(scales, np.float32([0.2, 0.2, 0.2, 1.0]))
  np.testing.assert_array_equal(biases, np.float32([0, 0, 0, -1]))
  assert scales.dtype == biases.dtype == np.float32


def test_ranges_in_a_flag():
  own = quantization.YOUTUBE8M_RANGE
  assert quantization.parse_ranges("", 2) == [own, own]
  text = " -1.5:2 ,, 0 : 1e-3"
  ranges = quantization.parse_ranges(text, 3)
  assert ranges == [(-1.5, 2.0), own, (0.0, 0.001)]
  assert quantization.format_ranges(ranges) == "-1.5:2.0,,0.0:0.001"
  assert quantization.format_ranges([own, own]) == ""


@hypothesis.given(
  strategies.lists(
    strategies.tuples(*[strategies.floats(-1e300, 1e300)] * 2).filter(
      lambda of: of[0] < of[1]
    ),
    min_size=1,
    max_size=4,
  )
)
def test_ranges_are_read_as_they_are_written(ranges):
  text = quantization.format_ranges(ranges)
  assert quantization.parse_ranges(text, len(ranges)) == ranges


@pytest.mark.parametrize(
  ("text", "number", "part"),
  [
    ("0:1", 2, "received 1 ranges"),
    ("0:1,0:2,", 2, "received 3 ranges"),
    ("0:1,5", 2, "'5'"),
    ("0:1:2", 1, "'0:1:2'"),
    ("low:1", 1, "'low:1'"),
    ("1:1", 1, "LOW below HIGH"),
    ("2:1", 1, "'2:1'"),
    ("nan:1", 1, "'nan:1'"),
    ("0:inf", 1, "'0:inf'"),
    ("1-2", 1, "'1-2'"),
  ],
)
def test_what_is_no_range(text, number, part):
  with pytest.raises(ValueError, match=re.escape(part)) as caught:
    quantization.parse_ranges(text, number)
  assert f"--feature_ranges={text}" in str(caught.value)


def test_dewhitening_by_hand():
  # The byte 51 is 0.8 - 2 + 4/512, without the half step -1.2.
  scale, bias = quantization.dewhitened(
    quantization.DEQUANTIZE_SCALE,
    quantization.DEQUANTIZE_BIAS,
    [[3.0, 0.5], []],
    [2, 1],
  )
  assert (scale.dtype, bias.dtype) == (np.float32, np.float32)
  np.testing.assert_allclose(
    51 * scale + bias, [-3.6, -0.6, -1.2 + 0.0078125], atol=1e-6
  )


def test_dewhitened_floats_are_those_of_their_bytes():
  ranges = [quantization.YOUTUBE8M_RANGE, (-1.0, 4.0)]
  of_bytes = quantization.scales_and_biases(ranges, [2, 1])
  scales = [[3.0, 0.5], [7.0]]
  stored = np.arange(256, dtype=np.float32)[:, None] * np.ones(3, np.float32)
  floats = quantization.dequantize(stored, *of_bytes)
  scale, bias = quantization.dewhitened(1.0, 0.0, scales, [2, 1])
  expected = floats * scale + bias
  scale, bias = quantization.dewhitened(*of_bytes, scales, [2, 1])
  np.testing.assert_allclose(stored * scale + bias, expected, atol=1e-5)
