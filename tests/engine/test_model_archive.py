"""Tests of model_archive."""

import io
import os
import tarfile

import pytest
import tensorflow as tf
from conftest import folder_content
from small_checkpoints import (
  MODEL_FLAGS,
  assert_same_weights,
  cut,
  empty,
  garble,
)

import errors
import models
from engine.checkpoints import load_weights
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
  assert folder_content(tmp_path / "out") == {}


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
  tgz = tmp_path / "model.tgz"
  make_archive(tgz, ["../evil", "model_flags.json", "model.ckpt-5.index"])
  with pytest.raises(errors.UserError, match="which is not one"):
    extract_model_tgz(str(tgz), str(tmp_path / "out"))
  assert not (tmp_path / "evil").exists()


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


def test_a_missing_archive(tmp_path):
  with pytest.raises(tf.errors.NotFoundError, match="missing"):
    extract_model_tgz(str(tmp_path / "missing.tgz"), str(tmp_path / "out"))
