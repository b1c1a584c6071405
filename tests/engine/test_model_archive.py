"""Tests of model_archive."""

import contextlib
import fcntl
import gzip
import io
import os
import shutil
import tarfile

import pytest
import tensorflow as tf
from conftest import error_of, folder_content
from small_checkpoints import (
  MODEL_FLAGS,
  assert_same_weights,
  cut,
  empty,
  garble,
)

import errors
import models
from engine import files, model_archive
from engine.checkpoints import DeletedCheckpointError, load_weights
from engine.model_archive import extract_model_tgz, write_model_tgz
from engine.model_flags import require_model_flags


def test_a_model_is_not_unpacked_over_a_run(tmp_path):
  (tmp_path / "run").mkdir()
  for name in ("checkpoint", "model_flags.json"):
    (tmp_path / "run" / name).write_text(name)
  before = folder_content(tmp_path)
  with pytest.raises(errors.UserError, match="--untar_model_dir"):
    extract_model_tgz("any.tgz", str(tmp_path / "run"))
  assert folder_content(tmp_path) == before


def test_a_model_is_not_unpacked_into_a_data_set(tmp_path):
  for name in ("dataset.json", "vocabulary.csv"):
    (tmp_path / name).write_text(name)
  before = folder_content(tmp_path)
  error = error_of(extract_model_tgz, "any.tgz", str(tmp_path))
  assert "folder of a data set" in error
  assert folder_content(tmp_path) == before


def test_a_model_is_not_unpacked_beside_names_of_other_classes(tmp_path):
  (tmp_path / "vocabulary.csv").write_text("Index,Name\n0,cat\n")
  error = error_of(extract_model_tgz, "any.tgz", str(tmp_path))
  assert f"{tmp_path}, which has vocabulary.csv and no model" in error
  assert list(folder_content(tmp_path)) == ["vocabulary.csv"]


def test_a_part_of_a_model_is_replaced(saved_run, tmp_path, monkeypatch):
  folder, _, path = saved_run
  named = tmp_path / "named"
  shutil.copytree(folder, named)
  (named / "vocabulary.csv").write_text("Index,Name\n0,cat\n")
  named_path = path.replace(str(folder), str(named))
  write_model_tgz(str(named), named_path, f"{tmp_path}/named.tgz")
  write_model_tgz(str(folder), path, f"{tmp_path}/plain.tgz")
  target = tmp_path / "unpacked"
  for number in range(1, 5):  # files that a kill lets through
    left = [True] * number

    def put(aside, path, left=left):
      if not left:
        raise KeyboardInterrupt
      left.pop()
      files.put_in_place(aside, path)

    with monkeypatch.context() as patch:
      patch.setattr(model_archive, "put_in_place", put)
      with contextlib.suppress(KeyboardInterrupt):
        extract_model_tgz(f"{tmp_path}/named.tgz", str(target))
    assert len(folder_content(target)) == number
    extract_model_tgz(f"{tmp_path}/plain.tgz", str(target))
    assert "vocabulary.csv" not in folder_content(target)
    shutil.rmtree(target)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_checkpoint_that_is_deleted_while_it_is_packed(
  saved_run, tmp_path, monkeypatch, when
):
  run, _, path = saved_run

  def delete(*parts):
    for part in parts:
      for file in run.glob(f"model.ckpt-5.{part}*"):
        file.unlink()

  def pack(members, tgz, pack=model_archive._pack):
    if when == "between":
      delete("index", "data")
    pack(members, tgz)
    delete("index")

  monkeypatch.setattr(model_archive, "_pack", pack)
  if when == "before":
    delete("index", "data")
  with pytest.raises(DeletedCheckpointError, match="was deleted"):
    write_model_tgz(str(run), path, f"{tmp_path}/model.tgz")
  assert not list(tmp_path.glob("*.tgz"))


def test_a_model_in_an_archive_comes_back(saved_run, tmp_path):
  folder, model, path = saved_run
  tgz = tmp_path / "archives" / "model.tgz"
  write_model_tgz(str(folder), path, str(tgz))
  assert os.listdir(tgz.parent) == ["model.tgz"]
  with tarfile.open(tgz, "r:gz") as archive:
    # One checkpoint, not all of them.
    assert sorted(archive.getnames()) == [
      "model.ckpt-5.data-00000-of-00001",
      "model.ckpt-5.index",
      "model_flags.json",
    ]
  extracted = tmp_path / "a" / "b"
  checkpoint = extract_model_tgz(str(tgz), str(extracted))
  assert checkpoint == str(extracted / "model.ckpt-5")
  model_flags = require_model_flags(str(extracted))
  assert model_flags == MODEL_FLAGS
  loaded = models.build_model(model_flags)
  load_weights(loaded, checkpoint)
  assert_same_weights(loaded, model)
  # Again, over the files of the first time.
  assert extract_model_tgz(str(tgz), str(extracted)) == checkpoint


def test_a_model_has_no_class_names_of_the_one_unpacked_before(
  saved_run, tmp_path
):
  folder, _, path = saved_run
  named = tmp_path / "named"
  shutil.copytree(folder, named)
  (named / "vocabulary.csv").write_text("Index,Name\n0,cat\n")
  (named / "pca").mkdir()
  (named / "pca" / "mean.npy").touch()  # empty files come back too
  named_path = path.replace(str(folder), str(named))
  write_model_tgz(str(named), named_path, f"{tmp_path}/named.tgz")
  write_model_tgz(str(folder), path, f"{tmp_path}/plain.tgz")
  target = tmp_path / "unpacked"
  extract_model_tgz(f"{tmp_path}/named.tgz", str(target))
  of_named = {"vocabulary.csv", "pca/mean.npy"}
  assert of_named <= folder_content(target).keys()
  (target / "notes.txt").touch()
  extract_model_tgz(f"{tmp_path}/plain.tgz", str(target))
  left = folder_content(target).keys()
  assert not of_named & left
  assert {"notes.txt", "model_flags.json"} <= left


def test_a_model_that_another_program_uses_stays(saved_run, tmp_path):
  folder, _, path = saved_run
  other = tmp_path / "other"
  shutil.copytree(folder, other)
  (other / "vocabulary.csv").write_text("Index,Name\n0,cat\n")
  write_model_tgz(str(folder), path, f"{tmp_path}/model.tgz")
  write_model_tgz(
    str(other), path.replace(str(folder), str(other)), f"{tmp_path}/other.tgz"
  )
  target = tmp_path / "unpacked"
  target.mkdir()
  # As in another program: a descriptor of its own.
  descriptor = os.open(target, os.O_RDONLY)
  try:
    checkpoint = extract_model_tgz(f"{tmp_path}/model.tgz", str(target))
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    before = folder_content(target)
    assert extract_model_tgz(f"{tmp_path}/model.tgz", str(target)) == checkpoint
    error = error_of(extract_model_tgz, f"{tmp_path}/other.tgz", str(target))
    assert "is being used by another program" in error
    assert folder_content(target) == before
    with pytest.raises(BlockingIOError):
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  finally:
    os.close(descriptor)
  extract_model_tgz(f"{tmp_path}/other.tgz", str(target))
  assert "vocabulary.csv" in folder_content(target)
  # A folder that was deleted is another one.
  shutil.rmtree(target)
  extract_model_tgz(f"{tmp_path}/model.tgz", str(target))
  assert "vocabulary.csv" not in folder_content(target)


def make_archive(path, names):
  """A .tgz of small files."""
  with tarfile.open(path, "w:gz") as archive:
    for name in names:
      info = tarfile.TarInfo(name)
      info.size = 4
      archive.addfile(info, io.BytesIO(b"{}\n\n"))


@pytest.mark.parametrize(
  "names",
  [
    [],
    ["model_flags.json"],
    ["model.ckpt-5.index", "model.ckpt-5.data-00000-of-00001"],
    ["model_flags.json", "model.ckpt-5.index", "model.ckpt-6.index"],
  ],
)
def test_an_archive_of_something_else(tmp_path, names):
  tgz = tmp_path / "model.tgz"
  make_archive(tgz, names)
  with pytest.raises(errors.UserError, match="and one checkpoint in") as error:
    extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert f"{tgz}, received {', '.join(names) or 'nothing'}." in str(error.value)
  assert not (tmp_path / "out").exists()


def info(name, size=4, kind=tarfile.REGTYPE, link=""):
  member = tarfile.TarInfo(name)
  member.size, member.type, member.linkname = size, kind, link
  return member


@pytest.mark.parametrize(
  "member",
  [
    info("../evil"),
    info("/tmp/evil"),
    info("pca/../../evil"),
    info("pca/.."),
    info("checkpoint"),
    info("evil.py"),
    info("model.ckpt-5.data-00000-of-00001/evil"),
    info("vocabulary.csv", 0, tarfile.SYMTYPE, "/etc/passwd"),
    info("vocabulary.csv", 0, tarfile.LNKTYPE, "../evil"),
    info("vocabulary.csv", 0, tarfile.FIFOTYPE),
    info("vocabulary.csv", 0, tarfile.CHRTYPE),
    info("pca", 0, tarfile.DIRTYPE),
    info("model_flags.json"),
    info("model.ckpt-5.data-00000-of-00001", 1 << 40),
  ],
  ids=lambda member: f"{member.name} {member.type}",
)
def test_what_no_model_has_is_refused_before_anything_is_written(
  saved_run, tmp_path, member
):
  folder, _, _ = saved_run
  tgz = tmp_path / "model.tgz"
  with tarfile.open(tgz, "w:gz") as archive:
    for name in ("model_flags.json", "model.ckpt-5.index"):
      archive.add(folder / name, name)
    archive.addfile(member, io.BytesIO(b"evil") if member.size == 4 else None)
  before = set(tmp_path.rglob("*"))
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "a" / "out"))
  assert f"received {tgz}, with {member.name!r} " in error
  assert set(tmp_path.rglob("*")) == before


def test_a_small_archive_of_much_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(model_archive, "_LEAST_LIMIT", 1 << 16)
  tgz = tmp_path / "model.tgz"
  size = 1 << 22
  with tarfile.open(tgz, "w:gz") as archive:
    archive.addfile(info("pca/mean.npy", size), io.BytesIO(bytes(size)))
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert f"which unpacks to {size} bytes or more" in error


def test_an_archive_that_needs_more_than_the_disk_has(
  saved_run, tmp_path, monkeypatch
):
  folder, _, path = saved_run
  tgz = tmp_path / "model.tgz"
  write_model_tgz(str(folder), path, str(tgz))
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert "found 100 bytes" in error
  assert not (tmp_path / "out").exists()


def test_an_archive_of_many_files_is_refused(tmp_path):
  tgz = tmp_path / "model.tgz"
  with tarfile.open(tgz, "w:gz") as archive:
    for number in range(2000):
      archive.addfile(info(f"pca/{number}", 0))
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert "with more than 1000 files in it" in error


def pax_header(size):
  """A header that says that the next one is that long."""
  return info("x", size, tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)


def sparse_headers():
  """A header of a sparse file that goes on and on."""
  block = bytearray(info("pca/a", 0, b"S").tobuf(tarfile.GNU_FORMAT))
  block[482] = 1  # it is extended
  block[148:156] = b" " * 8
  block[148:156] = b"%06o\0 " % sum(block)
  more = bytearray(512)
  more[504] = 1
  return bytes(block) + bytes(more) * 40000


@pytest.mark.parametrize(
  "content",
  [
    pax_header(1 << 32) + bytes(1 << 20),
    b"".join([pax_header(0)] * 5000),
    sparse_headers(),
  ],
  ids=["long", "many", "sparse"],
)
def test_headers_without_an_end_are_refused(tmp_path, content):
  tgz = tmp_path / "model.tgz"
  tgz.write_bytes(gzip.compress(content))
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert "which is not one" in error
  assert not (tmp_path / "out").exists()


def test_what_follows_the_files_is_not_read_for_long(saved_run, tmp_path):
  folder, _, path = saved_run
  tgz = tmp_path / "model.tgz"
  write_model_tgz(str(folder), path, str(tgz))
  content = gzip.decompress(tgz.read_bytes())
  tgz.write_bytes(gzip.compress(content + bytes(1 << 21)))
  error = error_of(extract_model_tgz, str(tgz), str(tmp_path / "out"))
  assert "it goes on after its last file" in error


def one_bit_off(content):
  """Changes the checksum that ends a gzip stream, before its length."""
  return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


@pytest.mark.parametrize("damage", [cut, empty, garble, one_bit_off])
def test_a_damaged_archive(saved_run, tmp_path, damage):
  folder, _, path = saved_run
  tgz = tmp_path / "model.tgz"
  write_model_tgz(str(folder), path, str(tgz))
  tgz.write_bytes(damage(tgz.read_bytes()))
  with pytest.raises(errors.UserError, match="archive of a model") as error:
    extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert str(tgz) in str(error.value)
  assert set(os.listdir(tmp_path)) == {"run", "model.tgz"}


def test_a_missing_archive(tmp_path):
  with pytest.raises(tf.errors.NotFoundError, match="missing"):
    extract_model_tgz(str(tmp_path / "missing.tgz"), str(tmp_path / "out"))
