"""Fetches files by HTTP: resumes inside a file, retries, checks the md5."""

import contextlib
import dataclasses
import hashlib
import http.client
import os
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from absl import logging

from engine import local_files
from version import __version__

PART_SUFFIX = ".part"
"""What the name of an incomplete file ends with."""

_TIMEOUT_SECONDS = 60.0  # without any byte
_FIRST_WAIT_SECONDS = 1.0
_MOST_WAIT_SECONDS = 60.0
# A server may ask for a longer wait than ours.
_MOST_ASKED_SECONDS = 600.0
# A file whose content is wrong this often is wrong on the server.
_MOST_WRONG = 3
# An attempt that brought this much counts as no failure.
_PROGRESS_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_MOST_SMALL_BYTES = 64 << 20
# Besides those from 500 on.
_CODES_THAT_PASS = (408, 425, 429)


class NotFetchedError(Exception):
  """A request did not bring what was wanted.

  Attributes:
    may_pass: whether another attempt may succeed.
    wait_seconds: how long the server asks to wait before it.
  """

  def __init__(self, reason: str, may_pass: bool = True, wait_seconds=0.0):
    super().__init__(reason)
    self.may_pass = may_pass
    self.wait_seconds = wait_seconds


class WrongContentError(NotFetchedError):
  """The file is complete, but has another md5."""


class StoppedError(Exception):
  """The download is to stop; what was fetched stays for the next one."""


@dataclasses.dataclass
class RemoteFile:
  """A file to fetch; one thread changes it.

  Attributes:
    url: where it is.
    path: where it will be.
    md5: of its content.
    size: its bytes, if known.
    done_bytes: how many of them are here.
    is_here: whether a file has this path, and is not known to be damaged.
    is_good: whether it is here and verified.
    problem: why it is not.
  """

  url: str
  path: str
  md5: str
  size: int | None = None
  done_bytes: int = 0
  is_here: bool = False
  is_good: bool = False
  problem: str = ""

  @property
  def name(self) -> str:
    """Its local name."""
    return os.path.basename(self.path)

  @property
  def part_path(self) -> str:
    """Where it is until it is complete."""
    return self.path + PART_SUFFIX


# --------------------------------------------------------------------------
# Requests


def _described(error: Exception) -> str:
  """The reason of a failed request, without what Python adds."""
  if isinstance(error, urllib.error.URLError) and isinstance(
    error.reason, Exception
  ):
    error = error.reason
  if isinstance(error, TimeoutError):
    return f"no answer for {_TIMEOUT_SECONDS:g} s"
  if isinstance(error, http.client.IncompleteRead):
    return "the connection was dropped"
  return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _request(url: str, begin: int = 0, method: str = "GET"):
  """Sends a request.

  Args:
    url: the address.
    begin: from which byte on to ask for the content.
    method: GET or HEAD.

  Returns:
    The response, to be used in a with statement.

  Raises:
    NotFetchedError: it failed.
  """
  headers = {"User-Agent": f"yt8m-download/{__version__}"}
  if begin:
    headers["Range"] = f"bytes={begin}-"
  request = urllib.request.Request(url, headers=headers, method=method)
  try:
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    with error:
      after = error.headers.get("Retry-After") or ""
      raise NotFetchedError(
        f"{error.code} {error.reason}",
        error.code >= 500 or error.code in _CODES_THAT_PASS,
        # It may also be a date, for which our own waits have to do.
        float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0,
      ) from error
  except http.client.InvalidURL as error:
    raise NotFetchedError(str(error), may_pass=False) from error
  except (OSError, http.client.HTTPException) as error:
    raise NotFetchedError(_described(error)) from error


def _read(response) -> bytes:
  """Reads what has come, at least a byte except at the end."""
  try:
    return response.read1(_CHUNK_BYTES)
  except (OSError, http.client.HTTPException) as error:
    raise NotFetchedError(_described(error)) from error


def _length(response) -> int | None:
  """The bytes that a response announces, if it does."""
  text = response.headers.get("Content-Length") or ""
  return int(text) if text.isdecimal() else None


def remote_size(url: str) -> int | None:
  """Asks for the size of a file.

  Returns:
    Its bytes; None if the server does not say.

  Raises:
    NotFetchedError: the request failed.
  """
  with _request(url, method="HEAD") as response:
    return _length(response)


class Retries:
  """Counts failures in a row, and waits longer after each.

  Args:
    most: how many may follow each other.
    must_stop: ends a wait.
  """

  def __init__(self, most: int, must_stop: threading.Event):
    self._most = most
    self._must_stop = must_stop
    self._failures = 0

  def begin_again(self) -> None:
    """Forgets the failures, since there was progress."""
    self._failures = 0

  def wait(self, error: NotFetchedError, what: str) -> None:
    """Waits for the time of another attempt.

    Args:
      error: the failure.
      what: to name in the log.

    Raises:
      NotFetchedError: there is no reason for another attempt.
      StoppedError: the wait was ended.
    """
    self._failures += 1
    if not error.may_pass or self._failures > self._most:
      raise error
    seconds = _FIRST_WAIT_SECONDS * 2 ** (self._failures - 1)
    seconds = min(seconds, _MOST_WAIT_SECONDS)
    # Several connections that failed together do not come back together.
    seconds *= random.uniform(0.75, 1.25)
    seconds = max(seconds, min(error.wait_seconds, _MOST_ASKED_SECONDS))
    logging.warning(
      "%s: %s. Retry %d of %d in %.0f s.",
      what,
      error,
      self._failures,
      self._most,
      seconds,
    )
    if self._must_stop.wait(seconds):
      raise StoppedError


def fetch_small(url: str, retries: Retries) -> bytes:
  """Fetches a small file into memory.

  Raises:
    NotFetchedError: all attempts failed.
  """
  while True:
    try:
      with _request(url) as response:
        length, content = _length(response), bytearray()
        while data := _read(response):
          content += data
          if len(content) > _MOST_SMALL_BYTES:
            raise NotFetchedError("more than 64 MB", may_pass=False)
      if length is not None and len(content) < length:
        raise NotFetchedError("the connection was dropped")
      return bytes(content)
    except NotFetchedError as error:
      retries.wait(error, url)


# --------------------------------------------------------------------------
# Files


def md5_of(
  descriptor: int,
  must_stop: threading.Event,
  progress: Callable[[int], None] = lambda _: None,
):
  """Reads a file to its end.

  Args:
    descriptor: of the file, at its beginning.
    must_stop: ends this.
    progress: called with the bytes read so far.

  Returns:
    The hash object of its content.

  Raises:
    StoppedError: must_stop was set.
  """
  digest, size = hashlib.md5(usedforsecurity=False), 0
  while data := os.read(descriptor, _CHUNK_BYTES):
    if must_stop.is_set():
      raise StoppedError
    digest.update(data)
    size += len(data)
    progress(size)
  return digest


class _Part:
  """An incomplete file, which only one process writes at a time.

  Args:
    path: of the file. If it exists, it is continued.
    must_stop: ends reading it.

  Attributes:
    size: its bytes.

  Raises:
    NotFetchedError: another process writes it.
  """

  def __init__(self, path: str, must_stop: threading.Event):
    self.path = path
    self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      self._lock()
      self._digest = md5_of(self._descriptor, must_stop)
    except BaseException:
      os.close(self._descriptor)
      raise
    self.size = os.lseek(self._descriptor, 0, os.SEEK_CUR)

  def _lock(self) -> None:
    is_free = local_files.lock(self._descriptor, waits=False)
    # It may have been put into place before it was locked.
    if not is_free or not local_files.is_at(self._descriptor, self.path):
      raise NotFetchedError("another process downloads it", may_pass=False)

  @property
  def md5(self) -> str:
    """Of its content."""
    return self._digest.hexdigest()

  def add(self, data: bytes) -> None:
    """Writes data at its end."""
    rest = memoryview(data)
    while rest:
      rest = rest[os.write(self._descriptor, rest) :]
    self._digest.update(data)
    self.size += len(data)

  def clear(self) -> None:
    """Drops its content."""
    os.ftruncate(self._descriptor, 0)
    os.lseek(self._descriptor, 0, os.SEEK_SET)
    self._digest = hashlib.md5(usedforsecurity=False)
    self.size = 0

  def close(self) -> None:
    """Closes it; an empty one is removed."""
    if not self.size:
      with contextlib.suppress(FileNotFoundError):
        os.remove(self.path)
    os.close(self._descriptor)


def _begin_of(response) -> int | None:
  """The place in the file of the first byte of a response, if it is known."""
  if response.status != http.client.PARTIAL_CONTENT:
    return 0
  found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
  return int(found[1]) if found else None


def _fetch_rest(
  file: RemoteFile,
  part: _Part,
  must_stop: threading.Event,
  check_room: Callable[[], None],
) -> None:
  """Fetches what a part lacks, in one request.

  Raises:
    NotFetchedError: the request failed, or the content is wrong.
    StoppedError: must_stop was set.
  """
  if part.size and part.md5 == file.md5:
    return  # stopped before it was put into place
  try:
    response = _request(file.url, part.size)
  except NotFetchedError as error:
    if isinstance(error.__cause__, urllib.error.HTTPError) and (
      error.__cause__.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE
    ):
      part.clear()
      raise NotFetchedError("the part is too long, and begins again") from error
    raise
  with response:
    begin = _begin_of(response)
    if begin != part.size:
      part.clear()
      if begin != 0:
        raise NotFetchedError("another part of the file than the one asked for")
      logging.info("%s: the server sends whole files only.", file.name)
    length = _length(response)
    file.size = None if length is None else part.size + length
    file.done_bytes = part.size
    check_room()
    while data := _read(response):
      part.add(data)
      file.done_bytes = part.size
      if must_stop.is_set():
        raise StoppedError
  if file.size is not None and part.size < file.size:
    raise NotFetchedError(
      f"the connection was dropped after {part.size} of {file.size} bytes"
    )
  if part.md5 != file.md5:
    wrong = part.md5
    part.clear()
    raise WrongContentError(f"expected the md5 {file.md5}, received {wrong}")


def fetch_file(
  file: RemoteFile,
  retries: Retries,
  must_stop: threading.Event,
  check_room: Callable[[], None],
) -> None:
  """Fetches a file beside its path, checks it, and puts it into place.

  Args:
    file: what to fetch; its size and done_bytes are kept up to date.
    retries: of this file.
    must_stop: ends this.
    check_room: called when the size is known; raises if the disk is too full.

  Raises:
    NotFetchedError: all attempts failed.
    StoppedError: must_stop was set. What was fetched stays.
    OSError: it cannot be written.
  """
  part = _Part(file.part_path, must_stop)
  furthest, num_wrong = part.size, 0
  try:
    while True:
      try:
        _fetch_rest(file, part, must_stop, check_room)
        break
      except NotFetchedError as error:
        if isinstance(error, WrongContentError):
          num_wrong += 1
          if num_wrong == _MOST_WRONG:
            raise
        # More than ever: a server without ranges cannot go on like this.
        if part.size >= furthest + _PROGRESS_BYTES:
          furthest = part.size
          retries.begin_again()
        file.done_bytes = part.size
        retries.wait(error, file.name)
    file.size = file.done_bytes = part.size
    local_files.put_in_place(part.path, file.path)
  finally:
    part.close()
