"""Puts files and folders into place whole.

What is new is written beside its path, flushed to the disk and renamed. A
reader finds the old content or the complete new one, even after the program or
the machine was stopped in between.
"""

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeGuard

import tensorflow as tf
from absl import logging

import errors
from engine import local_files, process_names
from engine.data_files import is_local

FOLDER_EXISTS_ERRORS = (
  tf.errors.AlreadyExistsError,
  tf.errors.FailedPreconditionError,
)
"""What put_in_place raises where a folder with files has the name already."""


# A random number, in earlier versions alone.
TOKEN = r"((?P<writer>[0-9a-f]{8}-\d{1,10})-)?[0-9a-f]{8}"
"""A regular expression of what ends a temporary name, see beside."""

_DAY_SECONDS = 24 * 60 * 60

# The paths that beside has been asked for.
_written: set[str] = set()


def size_of(path: str) -> int:
  """The bytes of a file, or of all files in a folder."""
  if not tf.io.gfile.isdir(path):
    return tf.io.gfile.stat(path).length
  return sum(
    _stat(os.path.join(folder, name)).length
    for folder, _, names in _walk(path)
    for name in names
  )


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
  """As os.walk; for names that are not UTF-8, see names_in."""
  walk = os.walk if is_local(folder) else tf.io.gfile.walk
  return walk(folder)


def _stat(path: str):
  """As tf.io.gfile.stat, also for names that are not UTF-8."""
  return tf.io.gfile.stat(os.fsencode(path))


def names_in(folder: str) -> list[str]:
  """The names of what is in a folder; of a remote one's folders, with a slash.

  Those that are not UTF-8, of which TensorFlow lists none of a folder, come as
  os.listdir has them.

  Raises:
    tf.errors.OpError: it cannot be listed.
  """
  try:
    return tf.io.gfile.listdir(folder)
  except UnicodeDecodeError:
    return os.listdir(folder)


@contextlib.contextmanager
def written_aside(path: str) -> Iterator[str]:
  """Lets a file or folder be written aside, then puts it into place.

  If the block raises, what it wrote is removed. What a link points to is
  replaced, and not the link. To a pipe or a device such as /dev/null the file
  is copied when it is whole.

  Args:
    path: the final path; its folder is made if it is missing.

  Yields:
    A path to write to, in the same folder, or for a pipe or a device in a
    temporary one.

  Raises:
    errors.UserError: path is a folder that is not a SavedModel, or a mount
      point; a disk or a socket; or a pipe or a device, and a folder was
      written.
  """
  path = path.rstrip("/") or "/"
  if is_local(path):
    if local_files.is_stream(path):
      with _written_to_stream(path) as aside:
        yield aside
      return
    path = local_files.target_of(path)
  if tf.io.gfile.isdir(path):
    old = names_in(path)
    if old and not _is_saved_model(old):
      raise errors.UserError(
        f"Expected a name that is free to be written to, received {path}, a"
        " folder with other files in it. Name another."
      )
    if is_local(path):
      local_files.check_replaceable(path)
  with beside(path) as aside:
    with local_files.naming(path):
      yield aside
    if not tf.io.gfile.isdir(path):
      if tf.io.gfile.isdir(aside) and tf.io.gfile.exists(path):
        raise errors.UserError(
          f"Expected the name of a folder, received {path}, a file. Name"
          " another."
        )
      put_in_place(aside, path)
    elif tf.io.gfile.isdir(aside):
      replace_folder(aside, path)
    else:
      raise errors.UserError(
        f"Expected the name of a file, received {path}, a folder. Name another."
      )


def _is_saved_model(names: Sequence[str]) -> bool:
  """Whether a folder has a SavedModel and no file of the user.

  Args:
    names: see names_in.
  """
  known = re.compile(
    r"(saved_model|keras_metadata|fingerprint)\.pb|variables/?"
    r"|assets(\.extra)?/?"
  )
  return "saved_model.pb" in names and all(
    known.fullmatch(name) or local_files.is_of_system(name) for name in names
  )


@contextlib.contextmanager
def _written_to_stream(path: str) -> Iterator[str]:
  """See written_aside."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    aside = os.path.join(folder, os.path.basename(path))
    yield aside
    if os.path.isdir(aside):
      raise errors.UserError(
        f"Expected the name of a folder, received {path}, a pipe or a device."
        " Name another."
      )
    local_files.write_to_stream(aside, path)


@contextlib.contextmanager
def text_written_aside(path: str) -> Iterator[tf.io.gfile.GFile]:
  """As written_aside, for a text file, which is opened.

  Args:
    path: the final path.

  Yields:
    A file to write to, as UTF-8.

  Raises:
    errors.UserError: path is a folder.
  """
  with written_aside(path) as aside, tf.io.gfile.GFile(aside, "w") as file:
    yield file


def write_json(path: str, content: dict) -> None:
  """Writes a dict as readable JSON, whole or not at all."""
  with text_written_aside(path) as file:
    file.write(json.dumps(content, indent=2) + "\n")


def read_json(
  path: str,
  keys: Sequence[str],
  advice: str,
  check: Callable[[dict], object] = bool,
) -> dict | None:
  """Reads a dict that write_json has written.

  Args:
    path: of the file.
    keys: that it must have.
    advice: what to do if it holds something else, a sentence.
    check: raises a TypeError, ValueError, KeyError or AttributeError if it
      holds something else.

  Returns:
    The dict; None if there is no file.

  Raises:
    errors.UserError: the file holds something else.
  """
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      text = file.read()
  except tf.errors.NotFoundError:  # it was there a moment ago
    return None
  with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
    content = errors.parse_json(text)
    if isinstance(content, dict) and content.keys() >= set(keys):
      check(content)
      return content
  raise errors.UserError(
    f"Expected JSON with {', '.join(keys)} in {path}, received something else."
    f" {advice}"
  )


def is_number(value, kind: type = float) -> TypeGuard[float]:
  """Whether a value that was read from JSON is a number.

  Args:
    value: of any type; true is no number, although Python counts with it.
    kind: int for whole numbers alone.
  """
  kinds = (int,) if kind is int else (int, float)
  return isinstance(value, kinds) and not isinstance(value, bool)


def check_number(value, kind: type = float) -> None:
  """Raises a TypeError unless is_number, and a ValueError if it has no use.

  That is NaN, infinity and a whole number of more than 64 bits: Python cannot
  compare the first with others, nor make a fraction of the last.

  Args:
    value: see is_number.
    kind: see is_number.
  """
  if not is_number(value, kind):
    raise TypeError(f"{value!r} is no number")
  if isinstance(value, int):
    has_use = -(2**63) <= value < 2**63
  else:
    has_use = math.isfinite(value)
  if not has_use:
    raise ValueError("a number that is not finite, or too large")


@contextlib.contextmanager
def beside(path: str, form: str = ".{name}.tmp-{token}") -> Iterator[str]:
  """Names a new file or folder beside a path; removes it at the end.

  The first time, what killed programs have left over of this path is removed,
  see remove_leftovers.

  Args:
    path: its folder is made if it is missing.
    form: of the new name, with the name of `path` and a token that names this
      process, see process_names.new_token.

  Yields:
    A path in the same folder. What has this name when the block ends is
    removed.
  """
  folder, name = os.path.split(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  if path not in _written:  # once, because each time lists the folder
    _written.add(path)
    remove_leftovers(folder or ".", re.escape(name))
  token = process_names.new_token()
  aside = os.path.join(folder, form.format(name=name, token=token))
  try:
    yield aside
  finally:
    # What cannot be removed is no reason to lose the block's own error.
    with contextlib.suppress(OSError, tf.errors.OpError):
      remove(aside)


def remove(path: str) -> None:
  """Removes a file, or a folder and all in it, if there is one.

  Of a link, here or in the folder, what it points to stays.

  Raises:
    OSError: a local one cannot be removed.
    tf.errors.OpError: another cannot.
  """
  # TensorFlow would empty the folders that links point to.
  if is_local(path) and os.path.islink(path):
    os.remove(path)
  elif is_local(path) and os.path.isdir(path):
    shutil.rmtree(path)
  elif tf.io.gfile.isdir(path):
    tf.io.gfile.rmtree(path)
  elif tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)


def remove_leftovers(
  folder: str,
  names: str = ".+",
  others: str = "",
  others_are_dead: bool = False,
) -> None:
  """Removes what programs that were killed have left over in a folder.

  That is what beside has named, if its process is dead; where that is not
  known, as on another machine or of an earlier version, what has not changed
  for a day.

  Args:
    folder: where to look, but not in its folders. It may be missing.
    names: regular expression of the names that were to be written.
    others: regular expression of other temporary names; empty for none.
    others_are_dead: whether nobody writes to those.
  """
  removed = num_bytes = 0
  names_there = []
  with contextlib.suppress(tf.errors.OpError):  # it is missing
    names_there = names_in(folder)
  for name in names_there:
    name = name.rstrip("/")
    path = os.path.join(folder, name)
    ours = re.fullmatch(rf"\.({names})\.tmp-{TOKEN}", name)
    is_other = bool(others and re.fullmatch(others, name))
    if not ours and not is_other:
      continue
    writer = ours and ours["writer"]
    is_dead = process_names.is_dead(writer) if writer else None
    # One that stays, as another user's or in a read-only folder, or that
    # another process removes at the same time, keeps no others.
    with contextlib.suppress(OSError, tf.errors.OpError):
      # The clock may have been set since, so the time says less than this.
      if is_dead is None:
        is_dead = (is_other and others_are_dead) or _is_old(path)
      if not is_dead:
        continue
      size = size_of(path)
      remove(path)
      removed, num_bytes = removed + 1, num_bytes + size
  if removed:
    logging.info(
      "Removed %d leftovers of programs that were killed in %s, %.1f MB.",
      removed,
      folder,
      num_bytes / 1e6,
    )


def _is_old(path: str) -> bool:
  """Whether nothing has changed in a file or folder for a day."""
  paths = [path]
  for parent, folders, files in _walk(path):
    paths += [os.path.join(parent, name) for name in (*folders, *files)]
  newest = max(_stat(one).mtime_nsec for one in paths)
  return time.time() - newest / 1e9 > _DAY_SECONDS


def folder_to_make(path: str, flag_name: str) -> str:
  """The path that a new folder is renamed to.

  Args:
    path: as it was typed. What a link points to is replaced, and not the link.
    flag_name: the flag that names it.

  Raises:
    errors.UserError: nothing can be renamed to it.
  """
  target = path.rstrip("/") or "/"
  if not is_local(path):
    return target
  # Nothing can be renamed to . and .. either.
  if os.path.islink(target) or os.path.basename(target) in ("", ".", ".."):
    target = os.path.realpath(target)
  local_files.check_replaceable(target)
  if os.path.isdir(target) and os.path.samefile(target, os.curdir):
    raise errors.UserError(
      f"Expected a folder that can be replaced as --{flag_name}, received"
      f" {path}, the current one. Name a folder in it."
    )
  return target


def free_folder(path: str, flag_name: str = "output_dir") -> str:
  """As folder_to_make, of a folder that must be new or empty.

  Raises:
    errors.UserError: nothing can be renamed to it, or it holds something.
  """
  target = folder_to_make(path, flag_name)
  if is_local(target):
    is_there = os.path.lexists(target)
  else:
    is_there = tf.io.gfile.exists(target)
  if is_there and (not tf.io.gfile.isdir(target) or names_in(target)):
    raise errors.UserError(
      f"Expected a new or empty folder as --{flag_name}, received {path}, which"
      " exists already. Name another, or delete it."
    )
  return target


def put_in_place(aside: str, path: str) -> None:
  """Flushes and renames a file or folder.

  Args:
    aside: what was written.
    path: its new name. A file or an empty folder of this name is replaced.

  Raises:
    tf.errors.OpError: one of FOLDER_EXISTS_ERRORS if a folder with files has
      this name.
  """
  _flush_all(aside)
  _rename(aside, path)


def replace_folder(aside: str, path: str) -> None:
  """Flushes a folder and puts it in the place of another one.

  Where the system cannot do this at once, there is no folder for a moment.

  Args:
    aside: the new folder.
    path: the old folder, which is deleted; it stays if this function raises.

  Raises:
    OSError: they cannot change places.
    tf.errors.OpError: they cannot be renamed; one of FOLDER_EXISTS_ERRORS if
      another process put a folder there in between; that one stays.
  """
  _flush_all(aside)
  if is_local(path) and local_files.exchange(aside, path):
    _flush(os.path.dirname(path) or ".")
    with contextlib.suppress(OSError, tf.errors.OpError):
      remove(aside)
    return
  with beside(path) as old:
    tf.io.gfile.rename(path, old)
    try:
      _rename(aside, path)
    except BaseException:
      with contextlib.suppress(tf.errors.AlreadyExistsError):
        tf.io.gfile.rename(old, path)
      raise


def _rename(aside: str, path: str) -> None:
  tf.io.gfile.rename(aside, path, overwrite=True)
  _flush(os.path.dirname(path) or ".")


def _flush_all(path: str) -> None:
  """Flushes a file, or a folder and everything in it."""
  if is_local(path) and os.path.isdir(path):
    for folder, folders, files in os.walk(path, onerror=_raise):
      for name in (*folders, *files):
        _flush(os.path.join(folder, name))
  _flush(path)


def _raise(error: OSError) -> NoReturn:
  """Raises what os.walk would leave out, with the files that it is about."""
  raise error


def _flush(path: str) -> None:
  """Waits until a file or folder is on the disk, where it is a local one."""
  if is_local(path):
    local_files.flush(path)
