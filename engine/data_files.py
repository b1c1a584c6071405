"""Finds the files that a flag names, and decides how they are read."""

import fnmatch
import functools
import glob
import hashlib
import itertools
import math
import os
import re
import stat
from collections.abc import Iterable, Sequence

import tensorflow as tf
from absl import logging

import errors
from records import shards

_RANGE = re.compile(r"\{([0-9]{1,12})\.\.([0-9]{1,12})\}")
_MOST_PATTERNS = 1_000_000


def is_local(path: str) -> bool:
  """Whether a path is on a file system of this machine, not a URL."""
  return "://" not in path


def split_at_commas(text: str) -> list[str]:
  r"""Splits a flag's entries at its commas, but not at r"\,"."""
  parts = text.replace("\\,", "\0").split(",")
  return [part.strip().replace("\0", ",") for part in parts]


def expand_ranges(data_pattern: str, flag_name: str) -> list[str]:
  r"""Expands ranges of numbers, such as x/{000..099}.tar, as a shell does.

  Args:
    data_pattern: see find_files.
    flag_name: the flag to name in the error.

  Returns:
    Patterns without ranges, in order; commas in names are still written r"\,".

  Raises:
    errors.UserError: they are too many.
  """
  patterns, total = [], 0
  for part in re.split(r"(?<!\\),", data_pattern):
    # Text and the two ends of a range in turn.
    pieces = _RANGE.split(part)
    choices: list[Sequence[str]] = [[pieces[0]]]
    for first, last, text in zip(
      *(pieces[n::3] for n in (1, 2, 3)), strict=True
    ):
      choices += [_Numbers(first, last), [text]]
    total += math.prod(map(len, choices))
    if total > _MOST_PATTERNS:
      raise errors.UserError(
        f"Expected at most {_MOST_PATTERNS} files as --{flag_name}, received"
        f" the ranges {data_pattern}. Use a pattern such as *."
      )
    patterns += map("".join, itertools.product(*choices))
  return patterns


class _Numbers(Sequence[str]):
  """The numbers of a range, with zeros in front if one of its ends has them."""

  def __init__(self, first: str, last: str):
    ends = first, last
    has_zeros = any(end != str(int(end)) for end in ends)
    self._width = max(map(len, ends)) if has_zeros else 0
    step = 1 if int(first) <= int(last) else -1
    self._numbers = range(int(first), int(last) + step, step)

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index):
    return f"{self._numbers[index]:0{self._width}}"


def find_files(data_pattern: str, flag_name: str) -> list[str]:
  r"""Lists the files of one or more glob patterns, sorted by name.

  Args:
    data_pattern: a glob pattern, or several with commas between them; a comma
      in a name is written r"\,". On any file system that tf.io.gfile knows.
    flag_name: the flag to name in the error.

  Returns:
    The paths, sorted.

  Raises:
    errors.UserError: a pattern matches no file, or something that is not a
      file; a file is named twice.
  """
  paths = set()
  for pattern in split_at_commas(data_pattern):
    flag = f"--{flag_name}={pattern}"
    if is_local(pattern):
      found = _find_local(pattern, flag)
    else:
      found = _find_remote(pattern, flag)
    if not found:
      raise errors.UserError(
        f"Expected files that match {flag}, found none."
        f" {_what_is_near(pattern)}"
      )
    paths.update(found)
  files = sorted(paths)
  _check_files(files, flag_name)
  return files


def _find_local(pattern: str, flag: str) -> list[str]:
  """As glob.glob, which takes a folder that it cannot read for an empty one.

  Args:
    pattern: of local files.
    flag: to name in the error.

  Raises:
    errors.MachineError: a folder cannot be read.
  """
  folder, name = os.path.split(pattern)
  folders = [folder]
  if glob.has_magic(folder):
    folders = _find_local(folder, flag)
  if not glob.has_magic(name):
    paths = [os.path.join(folder, name) for folder in folders]
    return [path for path in paths if os.path.lexists(path)]
  found = []
  for folder in folders:
    try:
      names = os.listdir(folder or ".")
    except OSError as error:
      if not errors.is_fault_of_machine(error):  # no folder, or no rights to it
        continue
      raise errors.MachineError(
        f"Expected files that can be listed, received {flag}: the folder"
        f" {folder} cannot be read ({error.strerror}). Check the disk and its"
        " connection; then start the same command again."
      ) from error
    found += [
      os.path.join(folder, one)
      for one in fnmatch.filter(names, name)
      if name.startswith(".") or not one.startswith(".")
    ]
  return found


def _find_remote(pattern: str, flag: str) -> list[str]:
  try:
    return tf.io.gfile.glob(pattern)
  except tf.errors.UnimplementedError as error:
    scheme = pattern.split("://")[0]
    advice = "Copy the files to a disk of this machine."
    if scheme == "gs":
      advice = (
        "Install tensorflow[gcs-filesystem] (Linux, Python below 3.13), see"
        " docs/distributed.md, or copy the files to a disk."
      )
    raise errors.UserError(
      f"Expected a file system that TensorFlow knows, received {flag}, of which"
      f" {scheme}:// is not registered. {advice}"
    ) from error
  except tf.errors.OpError as error:
    raise errors.of_system(
      error,
      f"Expected files that can be listed, received {flag}"
      f" ({error.message.splitlines()[0]}). Check the address, the network and"
      " the rights to read there.",
    ) from error


def _printable(path: str) -> str:
  """A path as text that every terminal can show."""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def _what_is_near(pattern: str) -> str:
  """Says what the nearest folder of a pattern holds, to show the mistake."""
  if not is_local(pattern):
    return "Check the path."
  folder = os.path.dirname(pattern)
  while folder and (glob.has_magic(folder) or not os.path.isdir(folder)):
    parent = os.path.dirname(folder)
    if parent == folder:
      break
    folder = parent
  folder = folder or "."
  try:
    names = sorted(os.listdir(folder))
  except OSError as error:
    return f"The folder {folder} cannot be read ({error.strerror})."
  listing = ", ".join(map(_printable, names[:5]))
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return (
    f"The folder {folder} holds {listing or 'nothing'}{more}. Check the path,"
    " and quote the pattern so that the shell does not expand it; a comma in a"
    " name is written \\,."
  )


def _check_files(files: list[str], flag_name: str) -> None:
  """Checks that each local path is a regular file, and none is named twice.

  Raises:
    errors.UserError: names those that are not.
  """
  seen: dict[tuple[int, int], str] = {}
  for file in filter(is_local, files):
    shown = _printable(file)
    if shown != file:
      raise errors.UserError(
        f"Expected file names in UTF-8, received {shown}. Rename it, or name"
        f" other files by --{flag_name}."
      )
    try:
      found = os.stat(file)
    except OSError as error:
      raise errors.of_system(
        error,
        f"Expected files that can be read, received {file}"
        f" ({error.strerror}). Check its link and its permissions.",
      ) from error
    if not stat.S_ISREG(found.st_mode):
      kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
      raise errors.UserError(
        f"Expected files, received {file}, which is {kind}. Let --{flag_name}"
        " match files only, such as FOLDER/*."
      )
    same = seen.setdefault((found.st_dev, found.st_ino), file)
    if same != file:
      raise errors.UserError(
        f"Expected each file once, received {same} and {file}, which are the"
        f" same. Let --{flag_name} name it once."
      )


def check_not_used(path: str, flag_name: str, used: Iterable[str]) -> None:
  """Checks that writing a file does not replace one that is needed.

  Args:
    path: the file that is about to be written; empty for none. A pipe or a
      device is never replaced.
    flag_name: the flag that names it.
    used: files that the same command reads, or writes too.

  Raises:
    errors.UserError: it is one of them.
  """
  if not path or (os.path.exists(path) and not os.path.isfile(path)):
    return
  # Of many files, each folder is looked at once.
  real_folder = functools.cache(os.path.realpath)

  def real(file: str) -> str:
    if not is_local(file):
      return file
    if os.path.islink(file):
      return os.path.realpath(file)
    folder, name = os.path.split(file)
    return os.path.join(real_folder(folder), name)

  if real(path) in map(real, used):
    raise errors.UserError(
      f"Expected a file of its own as --{flag_name}, received {path}, which"
      " the same command reads, or writes otherwise. Name another one."
    )


def check_own(path: str, flag_name: str, beginning: str) -> None:
  """Checks that writing a file replaces none that the user has made.

  Args:
    path: a local file, of a name that the user has not typed.
    flag_name: the flag that makes it.
    beginning: what such a file begins with. One without content is free too.

  Raises:
    errors.UserError: it begins with something else, or is a folder.
  """
  found = b""
  if os.path.isfile(path):
    with open(path, "rb") as file:
      found = file.read(len(beginning.encode()))
  if os.path.isdir(path) or found not in (b"", beginning.encode()):
    raise errors.UserError(
      f"Expected a file of an earlier start, or none, as {path}, which"
      f" --{flag_name} writes, received another. Move it elsewhere, or write to"
      " another folder."
    )


def has_numbered_records(file: str) -> bool:
  """Whether the records of a file can be found at random."""
  return is_local(file) and not file.endswith(".gz")


def reads_by_number(files: list[str]) -> bool:
  """Decides how files are read: by number, or by TensorFlow."""
  if not all(map(has_numbered_records, files)):
    return False
  if shards.crc32c is None:
    logging.log_first_n(
      logging.WARNING,
      "TensorFlow reads the data, several times slower, because the package"
      " crc32c is missing: pip install -r requirements.txt.",
      1,
    )
    return False
  return True


def hash_of_files(files: Sequence[str], sizes: Sequence[int]) -> str:
  """A hash of the names and sizes of files, without their folders.

  Args:
    files: their paths.
    sizes: their bytes.

  Returns:
    SHA-256, 64 hexadecimal digits, of a line "name, tab, size" for each file,
    in order.
  """
  lines = [
    f"{os.path.basename(file)}\t{size}\n"
    for file, size in zip(files, sizes, strict=True)
  ]
  return hashlib.sha256("".join(lines).encode()).hexdigest()
