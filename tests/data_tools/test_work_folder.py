"""Tests of work_folder: nothing of a user's is deleted or written over."""

import os
import shutil

import in_process
import pytest
import small_clips
from conftest import assert_names, folder_content

import errors
from data_tools import extraction_runs, work_folder
from engine import local_files
from media.extraction import Extraction
from media.parts import _pack
from records.writing import RecordWriter

EXTRACT = "data_tools.extract_features"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """A folder of clips in a folder for each class."""
  folder = tmp_path_factory.mktemp("videos") / "clips"
  small_clips.make_folder(folder)
  return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder, which is empty."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def extract(call, clips, output_dir):
  return call(
    EXTRACT,
    f"--videos={clips}",
    f"--output_dir={output_dir}",
    "--encoder=random",
    "--num_workers=1",
  )


def work_in(folder, inputs=(), shared=False):
  with work_folder.opened(str(folder), "output_dir", inputs, shared):
    work_folder.remove(str(folder))


def test_videos_with_the_name_of_the_folder_stay(clips, here):
  shutil.copytree(clips, here / "my.extracted")
  before = folder_content(here)
  line = extract(in_process.run_into_error, "my.extracted", "my")
  assert_names(line, "Expected nothing in my.extracted but", "my.extracted/")
  assert folder_content(here) == before


@pytest.mark.parametrize(
  "name",
  [
    "thesis.txt",
    "x.part",
    "videos.tfrecord/a",
    "00001-of-00001.part/a",
    "pca/mine.npy",
    "pca/mean.npy/a",
    "mean.npy",
  ],
)
def test_other_files_stay(name, tmp_path):
  folder = tmp_path / "a.extracted"
  path = folder / name
  path.parent.mkdir(parents=True)
  path.write_text("mine")
  for shared in (False, True):
    with pytest.raises(errors.UserError, match="Expected nothing in"):
      work_in(folder, shared=shared)
    assert path.read_text() == "mine"


def test_an_input_in_the_folder_stays(tmp_path):
  folder = tmp_path / "a.extracted"
  mean = folder / "pca/mean.npy"
  mean.parent.mkdir(parents=True)
  mean.write_text("an earlier start's")
  (tmp_path / "link").symlink_to(folder)
  for read in (mean.parent, mean, tmp_path / "link/pca"):
    with pytest.raises(errors.UserError, match="Move it elsewhere"):
      work_in(folder, ["", str(tmp_path / "b.mp4"), str(read)])
  work_in(folder, ["", str(tmp_path / "b.mp4")])
  assert not folder.exists()


def test_what_these_programs_write_is_deleted(tmp_path):
  folder = tmp_path / "a.extracted"
  (folder / "pca").mkdir(parents=True)
  for name in ("mean.npy", "pca.json", "eigenvecs.npy.tmp-0123abcd"):
    (folder / "pca" / name).write_text("")
  for name in ("videos.tfrecord", "windows.tfrecord", "00001-of-123456.part"):
    (folder / name).write_text("")
  with RecordWriter(str(folder / "copy.part")) as writer:
    writer.write(_pack({"version": 1}))
  work_in(folder)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
  folder = tmp_path / "a.extracted"
  for shared in (False, True):
    with (
      pytest.raises(KeyboardInterrupt),
      work_folder.opened(str(folder), "output_dir", [], shared),
    ):
      raise KeyboardInterrupt
    assert folder.exists() == shared
  # One that was there stays.
  with (
    pytest.raises(KeyboardInterrupt),
    work_folder.opened(str(folder), "output_dir", []),
  ):
    raise KeyboardInterrupt
  assert folder.exists()


def test_one_program_works_in_it_at_a_time_or_several_that_share_it(tmp_path):
  given = (str(tmp_path / "a.extracted"), "output_dir", [])
  with work_folder.opened(*given):
    for shared in (False, True):
      with (
        pytest.raises(errors.UserError, match="the only program"),
        work_folder.opened(*given, shared),
      ):
        pass
  with (
    work_folder.opened(*given, True),
    work_folder.opened(*given, True),
    pytest.raises(errors.UserError, match="another --output_dir"),
    work_folder.opened(*given),
  ):
    pass
  with work_folder.opened(*given):
    pass


def test_a_folder_that_is_removed_while_it_is_locked_is_made_again(
  tmp_path, monkeypatch
):
  folder = tmp_path / "a.extracted"
  lock = local_files.lock

  def remove_first(descriptor, **options):
    monkeypatch.setattr(local_files, "lock", lock)
    folder.rmdir()
    return lock(descriptor, **options)

  monkeypatch.setattr(local_files, "lock", remove_first)
  with (
    work_folder.opened(str(folder), "output_dir", []),
    pytest.raises(errors.UserError, match="the only program"),
    work_folder.opened(str(folder), "output_dir", []),
  ):
    pass


def test_a_part_that_another_process_writes_stays(tmp_path):
  folder = tmp_path / "a.extracted"
  with work_folder.opened(str(folder), "output_dir", []):
    part = folder / "00001-of-00001.part"
    (folder / "videos.tfrecord").write_text("")
    with open(part, "ab") as file:
      assert local_files.lock(file)
      with pytest.raises(errors.UserError, match="another is writing"):
        work_folder.empty(str(folder))
      work_folder.remove(str(folder))
    assert len(list(folder.iterdir())) == 2
    work_folder.remove(str(folder))
  assert not folder.exists()


def test_what_a_system_puts_there_is_nobodys(tmp_path):
  folder = tmp_path / "a.extracted"
  folder.mkdir()
  (folder / ".DS_Store").touch()
  work_in(folder)
  assert not folder.exists()


@pytest.mark.skipif(
  not os.path.isdir("/proc/self"), reason="Linux alone has it"
)
def test_a_folder_that_cannot_be_made_is_an_error():
  with pytest.raises(FileNotFoundError):
    work_in("/proc/no_such/a.extracted")


def test_what_comes_meanwhile_stays(tmp_path):
  folder = tmp_path / "a.extracted"
  with work_folder.opened(str(folder), "output_dir", []):
    (folder / "mine").write_text("mine")
    work_folder.remove(str(folder))
  assert (folder / "mine").read_text() == "mine"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_on_another_disk(clips, here, is_there):
  if is_there:
    (here / "disk").mkdir()
  (here / "my.extracted").symlink_to("disk")
  extract(in_process.run, clips, "my")
  assert sorted(os.listdir(here)) == ["disk", "my"]
  assert os.listdir(here / "disk") == []


def test_a_file_of_its_name_is_named(clips, here):
  (here / "my.extracted").write_text("mine")
  line = extract(in_process.run_into_error, clips, "my")
  assert_names(line, "a folder as my.extracted", "received a file")
  assert folder_content(here) == {"my.extracted": b"mine"}


def test_folders_without_their_name(clips, here, monkeypatch):
  (here / "e").mkdir()
  extract(in_process.run, clips, "e/.")
  assert "dataset.json" in os.listdir(here / "e")
  assert os.listdir(here) == ["e"]
  (here / "f").mkdir()
  monkeypatch.chdir(here / "f")
  line = extract(in_process.run_into_error, clips, ".")
  assert "received ., the current one. Name a folder in it" in line
  assert sorted(os.listdir(here)) == ["e", "f"]


def test_a_part_of_something_else_is_named(clips, here):
  (here / "my.extracted").mkdir()
  path = extraction_runs.part_path("my.extracted")
  settings = {"version": 1, **Extraction("random").to_dict()}
  for heads in ([[1, 2]], [settings, {"stamp": "x"}]):
    with RecordWriter(path) as writer:
      for head in heads:
        writer.write(_pack(head))
    before = folder_content(here)
    line = extract(in_process.run_into_error, clips, "my")
    assert_names(line, path, "something else wrote")
    assert folder_content(here) == before
