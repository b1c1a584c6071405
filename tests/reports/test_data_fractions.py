"""Tests of reports.data_fractions."""

import os

import pytest
from conftest import error_of
from make_records import video_record, write_records

from engine.data import records_of
from engine.data_files import find_files
from records import contents, messages
from reports import data_fractions
from reports.data_fractions import (
  are_enough_files,
  choose_files,
  part_of_data,
)


def ids_of(pattern):
  return {
    bytes(contents.video_id(messages.parse_record(data).context))
    for _, _, data in records_of(find_files(pattern, "train_data_pattern"))
  }


def test_files_are_chosen_by_name_and_parts_are_nested():
  files = [f"/a/train{number:04d}.tfrecord" for number in range(200)]
  chosen = {
    fraction: choose_files(files, fraction) for fraction in (0.1, 0.3, 0.7)
  }
  assert [len(of) for of in chosen.values()] == [20, 60, 140]
  assert set(chosen[0.1]) < set(chosen[0.3]) < set(chosen[0.7])
  # Not the first ones, and neither order nor folder counts.
  assert chosen[0.1] != files[:20]
  elsewhere = [file.replace("/a/", "/b/") for file in reversed(files)]
  assert choose_files(elsewhere, 0.1) == [
    file.replace("/a/", "/b/") for file in chosen[0.1]
  ]


def test_parts_are_nested_across_the_border_of_ten_files(tmp_path):
  files = [
    write_records(
      tmp_path / f"train{number:02d}.tfrecord",
      [
        video_record(f"v{number}.{place}", [0], mean_rgb=[1.0])
        for place in range(5)
      ],
    )
    for number in range(20)
  ]
  assert are_enough_files(20, 0.5)
  assert are_enough_files(19, 0.5)  # rounded
  assert not are_enough_files(20, 0.45)
  for fractions in ((0.5, 0.75), (0.25, 0.75)):
    by_files = are_enough_files(len(files), min(fractions))
    small, large = (
      ids_of(
        part_of_data(
          files, fraction, f"{tmp_path}/{fraction}{by_files}", by_files
        )
      )
      for fraction in fractions
    )
    assert len(small) == fractions[0] * 100
    assert len(large) == 75
    assert small < large


def test_few_files_are_divided_by_videos(
  tiny_files, tiny_frame_files, tmp_path
):
  found = {}
  for fraction in (0.1, 0.3, 0.6):
    pattern = part_of_data(
      tiny_files, fraction, f"{tmp_path}/{fraction}", False
    )
    found[fraction] = ids_of(pattern)
  assert [len(of) for of in found.values()] == [2, 7, 13]
  assert found[0.1] < found[0.3] < found[0.6]
  # The frame-level records of the same videos.
  pattern = part_of_data(tiny_frame_files, 0.3, f"{tmp_path}/frames", False)
  assert ids_of(pattern) == found[0.3]


def test_records_are_copied_as_they_are(tiny_files, tmp_path):
  pattern = part_of_data(tiny_files, 0.6, f"{tmp_path}/part", False)
  whole = {bytes(data) for _, _, data in records_of(tiny_files)}
  copied = [
    bytes(data) for _, _, data in records_of(find_files(pattern, "flag"))
  ]
  assert len(copied) == 13
  assert set(copied) < whole


def test_many_files_are_linked(tmp_path):
  files = [
    write_records(
      tmp_path / f"train{number:02d}.tfrecord",
      [video_record(f"v{number}", [0], mean_rgb=[1.0])],
    )
    for number in range(40)
  ]
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n0,Dog\n")
  pattern = part_of_data(files, 0.5, f"{tmp_path}/parts/half", True)
  links = find_files(pattern, "flag")
  assert len(links) == 20
  assert all(map(os.path.islink, links))
  assert len(ids_of(pattern)) == 20
  assert (tmp_path / "parts/half/vocabulary.csv").read_text().endswith("Dog\n")


def test_a_part_is_made_once_and_whole(tiny_files, tmp_path, monkeypatch):
  def fail(*_):
    raise OSError("no space")

  with monkeypatch.context() as patch:
    patch.setattr(data_fractions, "_copy_vocabulary", fail)
    with pytest.raises(OSError, match="no space"):
      part_of_data(tiny_files, 0.3, f"{tmp_path}/part", False)
  assert list(tmp_path.iterdir()) == []
  pattern = part_of_data(tiny_files, 0.3, f"{tmp_path}/part", False)
  monkeypatch.setattr(data_fractions, "_copy_records", fail)
  assert part_of_data(tiny_files, 0.3, f"{tmp_path}/part", False) == pattern


def test_too_small_a_part_is_refused(tiny_files, tmp_path):
  text = error_of(part_of_data, tiny_files, 0.01, f"{tmp_path}/part", False)
  assert "received 0.01 of 22 videos" in text


def test_commas_in_the_name_of_the_folder(tiny_files, tmp_path):
  pattern = part_of_data(tiny_files, 0.5, f"{tmp_path}/a,b[c]", False)
  assert len(ids_of(pattern)) == 11
