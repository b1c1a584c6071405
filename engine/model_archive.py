"""A model in one file: a .tgz of a checkpoint and what else predicts."""

import contextlib
import filecmp
import gzip
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping

import tensorflow as tf
from absl import logging

import errors
from engine.checkpoints import (
  STATE_FILE,
  DeletedCheckpointError,
  files_of_checkpoint,
)
from engine.data_files import is_local
from engine.dataset_card import CARD_FILE
from engine.files import beside, put_in_place, written_aside
from engine.local_files import lock
from engine.model_flags import MODEL_FLAGS_FILE
from engine.train_dir import fact_files

# What write_model_tgz writes. The file `checkpoint` is of no use beside a
# single one, and is not among them.
_MODEL_FILES = re.compile(
  r"(model_flags|extraction)\.json|vocabulary\.csv|pca/\w[\w.-]*"
  r"|model\.ckpt-(again-)?\d{1,18}\.(index|data-\d{5}-of-\d{5})",
  re.ASCII,
)
_MOST_MEMBERS = 1000
_MOST_HEADER_BYTES = 1 << 22
# After the files come zeros up to a multiple of 10 KB.
_MOST_PADDING_BYTES = 1 << 20
# Weights hardly compress. Those that an optimizer keeps may be zeros: at most
# two of three. So 30 times the size of the archive is more than a model needs,
# unless it is small.
_MOST_RATIO = 30
_LEAST_LIMIT = 1 << 26

# Of folders with a model that this process uses: open until it ends.
_locks: dict[str, int] = {}


def write_model_tgz(train_dir: str, checkpoint_path: str, tgz: str) -> None:
  """Packs a checkpoint and model_flags.json, which is enough to predict.

  Args:
    train_dir: folder of the run.
    checkpoint_path: of a checkpoint, without its file endings.
    tgz: path of the archive to write.

  Raises:
    DeletedCheckpointError: training has deleted the checkpoint meanwhile.
  """
  of_checkpoint = files_of_checkpoint(checkpoint_path)
  # The best checkpoint is in a folder of its own.
  members = {path: os.path.basename(path) for path in of_checkpoint}
  members |= {
    path: os.path.relpath(path, train_dir) for path in fact_files(train_dir)
  }
  with written_aside(tgz) as aside:
    try:
      _pack(members, aside)
    except tf.errors.NotFoundError:
      _check_not_deleted(checkpoint_path)
      raise
    _check_not_deleted(checkpoint_path)


def _pack(members: Mapping[str, str], tgz: str) -> None:
  """Writes an archive of files, which are the keys, under other names."""
  with (
    tf.io.gfile.GFile(tgz, "wb") as file,
    tarfile.open(fileobj=file, mode="w:gz") as archive,
  ):
    for path, name in members.items():
      with tf.io.gfile.GFile(path, "rb") as member:
        info = tarfile.TarInfo(name)
        info.size = tf.io.gfile.stat(path).length
        archive.addfile(info, member)


def _check_not_deleted(checkpoint_path: str) -> None:
  """Raises a DeletedCheckpointError if some of a checkpoint may be missing.

  Training deletes the index first.
  """
  if not tf.io.gfile.exists(f"{checkpoint_path}.index"):
    raise DeletedCheckpointError(f"{checkpoint_path} was deleted.")


def extract_model_tgz(tgz: str, folder: str) -> str:
  """Unpacks what write_model_tgz wrote.

  Archives come from strangers too. So all headers are read, and refused, before
  the first byte is written; and what is unpacked appears when it is whole.

  Args:
    tgz: path of the archive.
    folder: where to; made if it is missing.

  Returns:
    The checkpoint's path. model_flags.json is in the same folder.

  Raises:
    errors.UserError: the archive does not hold a model, or more than a model
      can need; the folder is that of something else, or its other model is
      being used. Nothing is written.
  """
  for name, what in (
    (STATE_FILE, "--train_dir of a run"),
    (CARD_FILE, "folder of a data set"),
  ):
    if tf.io.gfile.exists(os.path.join(folder, name)):
      raise errors.UserError(
        f"Expected a folder for an unpacked model, received the {what},"
        f" {folder}, whose files would be overwritten. Name another"
        " --untar_model_dir."
      )
  facts = fact_files(folder)
  if facts and os.path.join(folder, MODEL_FLAGS_FILE) not in facts:
    raise errors.UserError(
      f"Expected a folder for an unpacked model, received {folder}, which has"
      f" {os.path.relpath(facts[0], folder)} and no model. Name another"
      " --untar_model_dir."
    )
  with _naming_damage(tgz):
    members = _checked_members(tgz)
  checkpoint = _only_checkpoint([member.name for member in members], tgz)
  _check_space(members, tgz, folder)
  names = [member.name for member in members]
  with beside(folder.rstrip("/")) as aside:
    with _naming_damage(tgz):
      _extract(tgz, members, aside)
    with _locked(folder) as is_free:
      if is_free:
        _put_in_place(aside, names, folder)
      elif not _is_same(aside, names, folder):
        raise errors.UserError(
          f"Expected a folder for an unpacked model, received {folder}, whose"
          " other model is being used by another program. Name another"
          " --untar_model_dir."
        )
  return os.path.join(folder, checkpoint)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[bool]:
  """Keeps others from changing the model of a folder while this process lives.

  Args:
    folder: where a model is unpacked to; made if it is missing.

  Yields:
    Whether the block may change it: nobody else uses it.
  """
  tf.io.gfile.makedirs(folder)
  try:
    descriptor = _open(folder)
  except OSError:  # a remote folder has none
    yield True
    return
  is_free = lock(descriptor, waits=False)
  if not is_free:
    lock(descriptor, shared=True)  # waits for who changes it
  try:
    yield is_free
  finally:
    lock(descriptor, shared=True)


def _open(folder: str) -> int:
  """The descriptor of a folder, which stays open until this process ends."""
  path = os.path.realpath(folder)
  if path in _locks:
    if os.path.samestat(os.fstat(_locks[path]), os.stat(path)):
      return _locks[path]
    os.close(_locks.pop(path))  # of a folder that was deleted
  _locks[path] = os.open(path, os.O_RDONLY)
  return _locks[path]


def _put_in_place(aside: str, names: list[str], folder: str) -> None:
  """Puts the files of a model into the place of another one's.

  Args:
    aside: folder that they are in.
    names: their paths in it.
    folder: where they go.
  """
  had_model = tf.io.gfile.exists(os.path.join(folder, MODEL_FLAGS_FILE))
  # First what tells the folder of a model: a kill may leave a part.
  for name in sorted(names, key=lambda name: name != MODEL_FLAGS_FILE):
    path = os.path.join(folder, name)
    tf.io.gfile.makedirs(os.path.dirname(path))
    put_in_place(os.path.join(aside, name), path)
  if had_model:
    _remove_others(set(names), folder)


def _is_same(aside: str, names: list[str], folder: str) -> bool:
  """Whether a folder has the same model; see _put_in_place."""
  return all(
    os.path.isfile(os.path.join(folder, name))
    and filecmp.cmp(
      os.path.join(aside, name), os.path.join(folder, name), shallow=False
    )
    for name in names
  )


def _remove_others(names: set[str], folder: str) -> None:
  """Removes what a model that was unpacked here before does not share.

  Else this one would be used with the class names or the encoders of that one.
  """
  for path in fact_files(folder):
    if os.path.relpath(path, folder) not in names:
      logging.info("Removed, because it is of another model: %s", path)
      tf.io.gfile.remove(path)


class _Headers:
  """A tar that only its headers are read of, and of these not too much.

  Some headers have a length, or go on without one: tarfile would read them into
  memory however long they are.

  Args:
    file: the unpacked bytes.
  """

  def __init__(self, file: gzip.GzipFile):
    self._file = file
    self._left = _MOST_HEADER_BYTES
    self.seek, self.tell = file.seek, file.tell

  def read(self, size: int) -> bytes:
    """Reads a part of a header.

    Raises:
      tarfile.ReadError: there were too many.
    """
    self._left -= size
    if self._left < 0:
      raise tarfile.ReadError("its headers are too long")
    return self._file.read(size)


@contextlib.contextmanager
def _naming_damage(tgz: str) -> Iterator[None]:
  """Turns what a damaged archive raises into one line.

  Raises:
    errors.UserError: the block raised such an error.
  """
  try:
    yield
  except (
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    ValueError,
    OverflowError,
    RecursionError,
  ) as error:
    raise errors.UserError(
      f"Expected a .tgz archive of a model, received {tgz}, which is not one"
      f" ({error}). Make it with inference.py --output_model_tgz."
    ) from error


def _refused(tgz: str, reason: str) -> errors.UserError:
  return errors.UserError(
    f"Expected a .tgz archive of a model, received {tgz}, {reason}. Make it"
    " with inference.py --output_model_tgz."
  )


def _checked_members(tgz: str) -> list[tarfile.TarInfo]:
  """The headers of an archive, if all are files that a model has.

  Stops at the first that is not. To find the next header, the file before it is
  unpacked, but not kept; how long this takes is bounded by its size.

  Raises:
    errors.UserError: names the first that is not.
  """
  members: list[tarfile.TarInfo] = []
  names: set[str] = set()
  most = _MOST_RATIO * tf.io.gfile.stat(tgz).length + _LEAST_LIMIT
  total = 0
  with (
    tf.io.gfile.GFile(tgz, "rb") as file,
    gzip.GzipFile(fileobj=file) as unpacked,
    tarfile.TarFile(fileobj=_Headers(unpacked)) as archive,  # pyright: ignore[reportArgumentType]
  ):
    while (member := archive.next()) is not None:
      name = member.name
      if not member.isreg() or member.issparse():
        raise _refused(tgz, f"with {name!r} in it, which is no plain file")
      if not _MODEL_FILES.fullmatch(name):
        raise _refused(tgz, f"with {name!r} in it, which no model has")
      if name in names:
        raise _refused(tgz, f"with {name!r} twice in it")
      total += member.size
      if total > most:
        raise _refused(
          tgz, f"with {name!r} in it, which unpacks to {total} bytes or more"
        )
      names.add(name)
      members.append(member)
      if len(members) > _MOST_MEMBERS:
        raise _refused(tgz, f"with more than {_MOST_MEMBERS} files in it")
  return members


def _only_checkpoint(names: list[str], tgz: str) -> str:
  """The name of the checkpoint of a model, without its file endings.

  Raises:
    errors.UserError: there is none, or it is not alone.
  """
  indexes = [name for name in names if name.endswith(".index")]
  if MODEL_FLAGS_FILE not in names or len(indexes) != 1:
    raise errors.UserError(
      f"Expected {MODEL_FLAGS_FILE} and one checkpoint in {tgz}, received"
      f" {', '.join(names) or 'nothing'}. Make the archive with inference.py"
      " --output_model_tgz."
    )
  return indexes[0].removesuffix(".index")


def _check_space(members, tgz: str, folder: str) -> None:
  """Checks that there is space for the files, where the folder is local.

  Raises:
    errors.UserError: there is too little.
  """
  if not is_local(folder):
    return
  there = os.path.abspath(folder)
  while not os.path.exists(there):
    there = os.path.dirname(there)
  total, free = sum(one.size for one in members), shutil.disk_usage(there).free
  if total > free:
    raise errors.UserError(
      f"Expected space for the {total} bytes of {tgz} in {folder}, found {free}"
      " bytes. Name another --untar_model_dir."
    )


def _extract(tgz: str, members: list[tarfile.TarInfo], folder: str) -> None:
  """Writes the files; no owner or mode of the archive is used.

  Raises:
    tarfile.ReadError: the archive ends before, or goes on after the files.
  """
  with (
    tf.io.gfile.GFile(tgz, "rb") as file,
    gzip.GzipFile(fileobj=file) as unpacked,
  ):
    for member in members:
      path = os.path.join(folder, member.name)
      tf.io.gfile.makedirs(os.path.dirname(path))
      unpacked.seek(member.offset_data)
      left = member.size
      with tf.io.gfile.GFile(path, "wb") as target:
        target.write(b"")  # TensorFlow makes no file before this
        while part := unpacked.read(min(left, 1 << 24)):
          target.write(part)
          left -= len(part)
      if left:
        raise tarfile.ReadError("it ends within a file")
    # To the end, because gzip checks its checksum there.
    if len(unpacked.read(_MOST_PADDING_BYTES)) == _MOST_PADDING_BYTES:
      raise tarfile.ReadError("it goes on after its last file")
