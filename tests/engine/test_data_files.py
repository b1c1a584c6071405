"""Tests of engine.data_files."""

from conftest import error_of

from engine.data_files import find_files


def test_find_files_sorts_and_joins_patterns(tmp_path):
  for name in ["b1", "a2", "a1", "c1"]:
    (tmp_path / name).touch()
  found = find_files(f"{tmp_path}/b*, {tmp_path}/a*,{tmp_path}/a1", "x")
  assert found == [str(tmp_path / name) for name in ["a1", "a2", "b1"]]


def test_find_files_names_the_pattern_without_files(tmp_path):
  (tmp_path / "a1").touch()
  text = error_of(
    find_files, f"{tmp_path}/a*,{tmp_path}/b*", "eval_data_pattern"
  )
  assert f"--eval_data_pattern={tmp_path}/b*" in text
  assert f"{tmp_path}/a*" not in text
