"""The folder OUTPUT.extracted, which keeps features until they are used.

It has a name that a user may have given to another folder, so nothing is
written to a folder with other files in it, and only what these programs write
there is deleted, by its name. One program at a time works in it: a second one
would replace the records that the first is about to read. Those that extract a
shard each share it.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator

from absl import logging

import errors
from engine import local_files
from engine.dataset_card import PCA_FOLDER
from media.parts import PART_ENDING, is_part
from media.pca import is_own_name

VIDEO_RECORDS = "videos.tfrecord"
WINDOW_RECORDS = "windows.tfrecord"
"""The files that inference.py --videos predicts."""

_PART = re.compile(rf"\d{{5,}}-of-\d{{5,}}{re.escape(PART_ENDING)}")


def path_beside(output: str) -> str:
  """The path of the folder that goes with an output.

  Args:
    output: path of a file; or of a folder, see files.free_folder.
  """
  return f"{output}.extracted"


@contextlib.contextmanager
def opened(
  path: str, flag_name: str, inputs: Iterable[str], shared: bool = False
) -> Iterator[None]:
  """A block that works in the folder, which is made if it is missing.

  Args:
    path: of the folder, or of a link to it.
    flag_name: the flag that names the output.
    inputs: files that the program reads; empty texts for none.
    shared: whether others may work in it too that share it.

  Raises:
    errors.UserError: another program works in it; it has other files, or is
      one; an input is in it.
  """
  is_new = not os.path.isdir(path)
  descriptor = _locked(path, flag_name, shared)
  try:
    _check(path, flag_name, inputs)
    yield
  except BaseException:
    if is_new and not shared:
      with contextlib.suppress(OSError):  # what was extracted is kept
        os.rmdir(path)
    raise
  finally:
    os.close(descriptor)


def _locked(path: str, flag_name: str, shared: bool) -> int:
  """Opens and locks the folder, see opened; returns its descriptor."""
  while True:
    descriptor = None
    try:
      # What a link points to may be missing.
      os.makedirs(os.path.realpath(path), exist_ok=True)
      with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileExistsError, NotADirectoryError) as error:
      raise errors.UserError(
        f"Expected a folder as {path}, which keeps features until they are"
        " used, received a file. Move it elsewhere, or name another"
        f" --{flag_name}."
      ) from error
    if descriptor is None:  # another process has just removed the folder
      continue
    try:
      is_free = local_files.lock(descriptor, shared=shared, waits=False)
      if is_free and local_files.is_at(descriptor, path):
        return descriptor
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)
    if not is_free:
      raise errors.UserError(
        f"Expected to be the only program that works in {path}, received one"
        " in which another is working. Wait for it, or stop it; or name"
        f" another --{flag_name}."
      )


def _check(path: str, flag_name: str, inputs: Iterable[str]) -> None:
  """Checks that all in the folder may be deleted at the end."""
  _, others = _listed(path)
  root = os.path.realpath(path)
  real = functools.cache(os.path.realpath)  # many files are in one folder
  others += [
    file
    for file in filter(None, inputs)
    if f"{real(os.path.dirname(file))}{os.sep}".startswith(f"{root}{os.sep}")
  ]
  if others:
    raise errors.UserError(
      f"Expected nothing in {path} but the features that it keeps until they"
      f" are used, received {others[0]}. Move it elsewhere, or name another"
      f" --{flag_name}."
    )


def _listed(path: str) -> tuple[list[str], list[str]]:
  """The paths of what these programs wrote to the folder, and of the rest."""
  own, others = [], []
  for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
    if entry.is_dir(follow_symlinks=False) and entry.name == PCA_FOLDER:
      for name in sorted(os.listdir(entry.path)):
        file = os.path.join(entry.path, name)
        is_own = is_own_name(name) and os.path.isfile(file)
        (own if is_own else others).append(file)
      continue
    is_own = entry.is_file() and (
      entry.name in (VIDEO_RECORDS, WINDOW_RECORDS)
      or local_files.is_of_system(entry.name)
      or _PART.fullmatch(entry.name)
      or (entry.name.endswith(PART_ENDING) and is_part(entry.path))
    )
    (own if is_own else others).append(entry.path)
  return own, others


def empty(path: str) -> None:
  """Deletes what these programs wrote to the folder.

  Raises:
    errors.UserError: another process writes to a part.
  """
  own, _ = _listed(path)
  for file in own:
    # Where a folder cannot be locked, as on NFS, a file can be.
    if file.endswith(PART_ENDING) and _is_written(file):
      raise errors.UserError(
        f"Expected to be the only program that works in {path}, received one"
        f" in which another is writing {file}. Wait for it, or stop it."
      )
  for file in own:
    os.remove(file)
  with contextlib.suppress(OSError):
    os.rmdir(os.path.join(path, PCA_FOLDER))


def _is_written(path: str) -> bool:
  """Whether another process has a part locked."""
  with contextlib.suppress(PermissionError), open(path, "ab") as file:
    return not local_files.lock(file, waits=False)
  return False


def remove(path: str) -> None:
  """Deletes the folder, with what these programs wrote to it.

  Of a link the folder that it points to stays, empty. The folder stays if
  someone has put something else there, and all of it if another process writes
  to a part.
  """
  try:
    empty(path)
  except errors.UserError as error:
    logging.warning("Kept %s: %s", path, error)
    return
  if os.path.islink(path):
    os.remove(path)
    return
  try:
    os.rmdir(path)
  except OSError as error:
    logging.info("Kept %s: %s.", path, error.strerror)
