"""Tests of data_tools.number_stores."""

import numpy as np
import pytest
from conftest import assert_names

import quantization
from data_tools.item_table import BadItemError
from data_tools.number_stores import STORES, ByteStore


def measured(*items):
  """A ByteStore that has seen items, each {feature: list}."""
  store = ByteStore()
  for item in items:
    store.measure({name: np.float32(of) for name, of in item.items()})
  return store


def restored(store, name, stored):
  """The floats that a ByteStore's bytes stand for, as readers compute them."""
  (of,) = store.ranges([name])
  scale, bias = quantization.scale_and_bias(tuple(of))
  return quantization.dequantize(stored.astype(np.float32), scale, bias)


def test_bytes_by_hand():
  # A step is (3 - -48)/255 = 0.2.
  store = measured({"a": [3.0, 0.0], "b": [5.0]}, {"a": [-48.0], "b": [7.0]})
  assert store.ranges(["b", "a"]) == [[5.0, 7.0], [-48.0, 3.0]]
  stored = store.convert({"a": np.float32([[-48, 0.05], [-0.13, 3]])})
  assert stored["a"].dtype == np.uint8
  assert stored["a"].tolist() == [[0, 240], [239, 255]]
  # Restored: -48, 0, -0.2, 3.
  found = store.errors()["a"]
  assert found["largest_error"] == pytest.approx(0.07, abs=1e-5)
  # The numbers 3, 0, -48 have a variance of 1542/3 and errors of
  # sqrt((0.05^2 + 0.07^2)/4).
  spread = np.std([3.0, 0.0, -48.0])
  assert found["rms_error_of_spread"] == pytest.approx(
    np.sqrt(0.0074 / 4) / spread, rel=1e-4
  )
  assert_names(store.describe_errors()[0], "a in bytes from -48 to 3", "0.07,")


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_the_one_that_the_readers_make(seed):
  random = np.random.default_rng(seed)
  scale, offset = 10.0 ** random.integers(-8, 8, size=2)
  arrays = [
    np.float32(random.normal(offset, scale, size=(length, 3)))
    for length in (1, 40, 7)
  ]
  store = measured(*({"a": array} for array in arrays))
  differences = [
    restored(store, "a", store.convert({"a": array})["a"]) - array.astype(float)
    for array in arrays
  ]
  everything = np.concatenate(differences)
  found = store.errors()["a"]
  assert found["largest_error"] == np.abs(everything).max()
  low, high = store.ranges(["a"])[0]
  # Half a step, and the rounding of float32.
  rounding = np.spacing(np.float32(max(abs(low), abs(high))))
  assert found["largest_error"] <= (high - low) / 510 + 2 * rounding
  spread = np.concatenate(arrays).astype(float).std()
  assert found["rms_error_of_spread"] == pytest.approx(
    np.sqrt(np.square(everything).mean()) / spread, rel=1e-6
  )


@pytest.mark.parametrize("value", [0.0, -0.1, 5.0, 1e-30, -3e15])
def test_a_constant_feature_is_exact(value):
  array = np.full((2, 3), value, np.float32)
  store = measured({"a": array})
  low, high = store.ranges(["a"])[0]
  assert low < high
  (of,) = store.ranges(["a"])
  text = quantization.format_ranges([tuple(of)])
  assert quantization.parse_ranges(text, 1) == [(low, high)]
  stored = store.convert({"a": array})["a"]
  np.testing.assert_array_equal(restored(store, "a", stored), array)
  assert store.errors()["a"] == {"largest_error": 0, "rms_error_of_spread": 0}


def test_the_ends_of_a_range_come_back_as_they_were():
  store = measured({"a": [-0.1, 0.7]})
  assert store.ranges(["a"]) == [[-0.1, 0.7]]
  found = restored(store, "a", np.uint8([0, 255]))
  np.testing.assert_allclose(found, np.float32([-0.1, 0.7]), rtol=1e-6)
  assert found[0] == np.float32(-0.1)


def test_what_was_not_measured_is_a_bad_item():
  with pytest.raises(BadItemError, match="when ranges were measured"):
    ByteStore().convert({"a": np.float32([1.0])})


@pytest.mark.parametrize("store", STORES)
def test_numbers_that_no_model_can_use(store):
  arrays = {"a": np.float32([1.0]), "b": np.float32([[1.0, 1.0], [1e20, 1.0]])}
  with pytest.raises(BadItemError, match="as large as 1e\\+20"):
    STORES[store]().measure(arrays)
  with pytest.raises(BadItemError, match="as large as 1e\\+20"):
    STORES[store]().convert(arrays)


def test_a_bad_item_does_not_count():
  store = measured({"a": [0.0, 1.0]})
  with pytest.raises(BadItemError):
    store.measure({"a": np.float32([9.0]), "b": np.float32([1e30])})
  assert store.ranges(["a"]) == [[0.0, 1.0]]


def test_numbers_too_large_for_float16():
  store = STORES["float16"]()
  with pytest.raises(BadItemError, match="65520 is too large for float16"):
    store.convert({"a": np.float32([1.0, -65520.0])})
  assert not store.errors()
  assert not store.describe_errors()


@pytest.mark.parametrize("store", STORES)
def test_youtube8ms_bytes_stay_as_they_are(store):
  of_bytes = np.uint8([[1, 2]])
  store = STORES[store]()
  arrays = {"own": of_bytes, "a": np.float32([[0.0, 51.0]])}
  store.measure(arrays)
  stored = store.convert(arrays)
  assert stored["own"] is of_bytes
  assert "own" not in store.errors()
  ranges = store.ranges(["own", "a"])
  assert ranges in ([], [None, [0.0, 51.0]])


def test_numbers_that_float16_has_are_stored_without_error():
  store = STORES["float16"]()
  store.convert({"a": np.array([0.0, 1.0, -0.5], np.float32)})
  assert store.errors() == {"a": {"largest_relative_error": 0.0}}
