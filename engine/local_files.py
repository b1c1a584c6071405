"""Puts local files into place whole, without TensorFlow; see also files.py."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import IO

import errors
from engine.process_names import new_token

# What opening or flushing raises where it is not possible, as for folders on
# some file systems. Any other error means that what was written may be lost.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)

# What writing raises, often without the path, where there is no room for it.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# From Linux's fcntl.h and fs.h: paths are from the current folder; two names
# change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What a kernel or a file system says that cannot do this.
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)

# What systems put into folders by themselves.
_OF_SYSTEM = re.compile(
  r"\.DS_Store|\._.*|\.nfs[0-9a-f]+|\.directory|Thumbs\.db|desktop\.ini"
)

# Files that this process has open, by their numbers.
_OPEN_FILE = re.compile(
  r"/dev/(?:std(?:in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)"
)
_NUMBERS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def flush(path: str) -> None:
  """Waits until a file or folder is on the disk.

  Raises:
    OSError: what was written may be lost.
  """
  try:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  except OSError as error:
    if error.errno in _CANNOT_FLUSH:
      return
    # What fsync raises names no file.
    raise OSError(error.errno, error.strerror, path) from error


def exchange(path: str, other: str) -> bool:
  """Lets two files or folders change places at once.

  Args:
    path: of one, in the file system of the other.
    other: path of the other.

  Returns:
    Whether they did: not every system can do it.

  Raises:
    OSError: they stay where they are.
  """
  try:
    rename = ctypes.CDLL(None, use_errno=True).renameat2
  except (AttributeError, OSError, TypeError):
    return False
  names = [_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other)]
  if not rename(*names, _RENAME_EXCHANGE):
    return True
  number = ctypes.get_errno()
  if number in _CANNOT_EXCHANGE:
    return False
  raise OSError(number, os.strerror(number), other)


def flush_files(prefix: str) -> None:
  """Waits until files and their folder are on the disk.

  Args:
    prefix: path that the names of the files begin with.

  Raises:
    OSError: what was written may be lost.
  """
  folder, begin = os.path.split(prefix)
  folder = folder or "."
  # Python's glob remembers each pattern, and those of a long run are many.
  for name in os.listdir(folder):
    # It may be removed meanwhile.
    with contextlib.suppress(FileNotFoundError):
      if name.startswith(begin):
        flush(os.path.join(folder, name))
  flush(folder)


def lock(file: int | IO, *, shared: bool = False, waits: bool = True) -> bool:
  """Locks a file or folder until it is closed, against others that lock it.

  Where the system or the file system has no locks, nothing is locked.

  Args:
    file: an open one, or its descriptor.
    shared: whether others may have the same kind of lock.
    waits: for as long as another process has it locked.

  Returns:
    Whether no other process has it locked, as far as the system can say.
  """
  with contextlib.suppress(ImportError):
    import fcntl  # not on every system

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
      fcntl.flock(file, kind if waits else kind | fcntl.LOCK_NB)
    except OSError as error:
      return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
  return True


def is_at(descriptor: int, path: str) -> bool:
  """Whether a path is that of an open file or folder, not of one in its place.

  Another process may have replaced it before it was locked.
  """
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def nearest_folder(path: str) -> str:
  """The path itself if it exists, else the nearest folder above that does."""
  path = os.path.abspath(path)
  while not os.path.lexists(path):
    path = os.path.dirname(path)
  return path


def is_of_system(name: str) -> bool:
  """Whether a system has put a file of this name into a folder, and no user."""
  return bool(_OF_SYSTEM.fullmatch(name))


def put_in_place(aside: str, path: str) -> None:
  """Flushes and renames a file.

  Args:
    aside: what was written, in the folder of `path`.
    path: its new name. A file of this name is replaced.

  Raises:
    OSError: it is not in place, or may be lost.
  """
  flush(aside)
  os.replace(aside, path)
  flush(os.path.dirname(path) or ".")


def write_whole(path: str, content: bytes) -> None:
  """Writes a file beside its path, and puts it into place.

  Raises:
    OSError: as above.
  """
  folder, name = os.path.split(path)
  aside = os.path.join(folder, f".{name}.tmp-{new_token()}")
  try:
    with naming(path), open(aside, "wb") as file:
      file.write(content)
    put_in_place(aside, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(aside)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
  """A block that writes to a path; names it where there is no room for it.

  Raises:
    OSError: as the block has raised it, with the path.
  """
  try:
    yield
  except OSError as error:
    if error.errno in _NO_ROOM and error.filename is None:
      error.filename = path
    raise


# --------------------------------------------------------------------------
# What cannot be replaced: devices, pipes


def _number_of(path: str) -> int | None:
  """The number of the open file that a path stands for; None for no such."""
  found = _OPEN_FILE.fullmatch(path)
  if not found:
    return None
  return _NUMBERS[path] if path in _NUMBERS else int(found[1] or found[2])


def _mode_of(path: str) -> int:
  """What kind of file a path is, after its links; 0 if there is none."""
  try:
    return os.stat(path).st_mode
  except (FileNotFoundError, NotADirectoryError):
    return 0


def is_stream(path: str) -> bool:
  """Whether what is written to a path goes on from there.

  So it is with devices, pipes and what the process has open, as /dev/stdout.

  Raises:
    errors.UserError: it is a disk or a socket, to which nothing is written, or
      no file is open as it says.
  """
  number = _number_of(path)
  if number is not None:
    try:
      os.fstat(number)
    except OSError as error:
      raise errors.UserError(
        f"Expected a file that this program has open as {path}, found none."
        " Name a file, or open one for it in the shell."
      ) from error
    return True
  mode = _mode_of(path)
  if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
    kind = "disk" if stat.S_ISBLK(mode) else "socket"
    raise errors.UserError(
      f"Expected a file to write to, received {path}, a {kind}. Name a file; a"
      " pipe or a device such as /dev/null will do too."
    )
  return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def write_to_stream(source: str, path: str) -> None:
  """Copies a file to a path for which is_stream is true.

  Raises:
    OSError: it cannot be written.
  """
  number = _number_of(path)
  with open(source, "rb") as file:
    if number is None:
      target = open(path, "wb")  # noqa: SIM115
    else:
      # Opened by its name, a file would be written from its beginning again.
      for printed in (sys.stdout, sys.stderr):
        printed.flush()
      target = os.fdopen(os.dup(number), "wb")
    with naming(path), target:
      shutil.copyfileobj(file, target)


def check_replaceable(folder: str) -> None:
  """Checks that a folder, if there is one, can make room for another.

  Raises:
    errors.UserError: it is a mount point.
  """
  if os.path.ismount(folder):
    raise errors.UserError(
      f"Expected a folder that can be renamed, received {folder}, a mount"
      " point. Name a folder below it."
    )


def target_of(path: str) -> str:
  """The path that is written to: of a link, what it points to."""
  return os.path.realpath(path) if os.path.islink(path) else path
