"""Tests of data_tools.dewhiten_scales."""

import io

import numpy as np
import pytest
from conftest import assert_names, error_of

from data_tools.dewhiten_scales import read_dewhiten_scales

NAMES = ["rgb", "faces"]
SIZES = [3, 2]
KNOWN = [(3.0, 2.0, 1.0), ()]


def read(text):
  return read_dewhiten_scales(text, NAMES, SIZES, KNOWN)


def test_text_and_npy(tmp_path):
  text, array = tmp_path / "rgb.txt", tmp_path / "faces.npy"
  text.write_text("0.5\n 1e-3 7\n\n")
  np.save(array, np.array([[0.25], [4.0]], np.float32))
  assert read(f"{text}, {array}") == [[0.5, 0.001, 7.0], [0.25, 4.0]]


def test_nothing_in_the_place_of_a_feature_leaves_what_is_known(tmp_path):
  array = tmp_path / "faces.npy"
  np.save(array, np.array([0.25, 4.0]))
  assert read(f",{array}") == [KNOWN[0], [0.25, 4.0]]
  assert read(",") == KNOWN


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "faces.txt").write_text("1 2")
  assert read(",~/faces.txt")[1] == [1.0, 2.0]


@pytest.mark.parametrize("text", ["a.npy", "a.npy,b.npy,c.npy"])
def test_a_file_for_each_feature(text):
  assert_names(
    error_of(read, text),
    f"a file for each of the features rgb, faces, received {len(text) // 5} ",
    f"(--dewhiten_scales={text})",
  )


def npy(text) -> bytes:
  """An .npy file with a header and nothing else."""
  return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


def cut_npz() -> bytes:
  file = io.BytesIO()
  np.savez(file, np.ones(2))
  return file.getvalue()[:-30]


@pytest.mark.parametrize(
  ("name", "content", "complaint"),
  [
    ("a.txt", b"1 2 3", "Expected 2 numbers in {path}, one for each of the fe"),
    ("a.txt", b"1 two", "cannot be read (could not convert string to float"),
    ("a.txt", b"1 nan", "Expected finite numbers in {path}, received nan"),
    ("a.txt", b"\xff\xfe", "cannot be read ("),
    ("a.npy", b"1 2", "cannot be read ("),
    ("a.npy", b"", "cannot be read ("),
    ("a.npy", cut_npz(), "cannot be read ("),
    ("a.npy", npy("("), "cannot be read ("),
    ("a.npy", npy("\n  'a'\n {"), "cannot be read ("),
    ("a.npy", npy("-" * 9000 + "1"), "cannot be read ("),
    (
      "a.npy",
      npy(f"{{'descr':'<f8','fortran_order':False,'shape':({'9' * 15},)}}"),
      "cannot be read (",
    ),
  ],
)
def test_a_file_of_something_else(tmp_path, name, content, complaint):
  path = tmp_path / name
  path.write_bytes(content)
  error = error_of(read, f",{path}")
  assert complaint.format(path=f"--dewhiten_scales={path}") in error
  assert "\n" not in error


def test_a_file_that_is_missing(tmp_path):
  error = error_of(read, f",{tmp_path}/no.npy")
  assert f"--dewhiten_scales={tmp_path}/no.npy" in error
  assert "\n" not in error
  assert "of the 2 of faces" in error


def test_an_array_of_objects_is_refused(tmp_path):
  path = tmp_path / "a.npy"
  np.save(path, np.array([1.0, None]), allow_pickle=True)
  assert "cannot be read" in error_of(read, f",{path}")


def test_complex_numbers_and_several_arrays_are_refused(tmp_path):
  path = tmp_path / "a.npy"
  np.save(path, np.array([1.0, 2.0j]))
  assert "(not an array of real numbers)" in error_of(read, f",{path}")
  with open(path, "wb") as file:
    np.savez(file, np.ones(2))
  assert "(not an array of real numbers)" in error_of(read, f",{path}")
