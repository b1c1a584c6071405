"""Puts local files into place whole, without TensorFlow; see also files.py."""

import contextlib
import errno
import os
import uuid

# What opening or flushing raises where it is not possible, as for folders on
# some file systems. Any other error means that what was written may be lost.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


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
    if error.errno not in _CANNOT_FLUSH:
      raise


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
  aside = os.path.join(folder, f".{name}.tmp-{uuid.uuid4().hex[:8]}")
  try:
    with open(aside, "wb") as file:
      file.write(content)
    put_in_place(aside, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(aside)
