"""Keeps a second training out of a --train_dir.

training.lock names the process that trains there. This process touches it every
few seconds and removes it at its end. Only the chief of several machines has
one.

A lock that a process left behind when it was killed is taken over: at once if
this machine can see that the process is dead, else when it was not touched for
some minutes. Clocks of two machines differ, so a time in the file says nothing:
this machine watches for changes, by its own clock.
"""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import platform
import shlex
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

import errors
from engine import files, process_names
from engine.data_files import is_local
from engine.local_files import flush, nearest_folder
from engine.train_dir import LOCK_FILE

_RENEWAL_SECONDS = 10.0
# Without a change for so long, the process of another machine counts as dead.
# While machines join, TensorFlow stops all threads of Python, so this must be
# longer than cluster_start.JOINING_SECONDS.
_PATIENCE_SECONDS = 300.0
# How long a lock is watched where nothing is trained, for one sign of life.
_LOOK_SECONDS = 25.0
_POLL_SECONDS = 1.0
_LINE_SECONDS = 30.0


# --------------------------------------------------------------------------
# Processes


@dataclasses.dataclass(frozen=True)
class Owner:
  """The process that has a lock.

  Attributes:
    host: name of its machine.
    pid: its number there.
    kernel: what tells one start of one machine from all others.
    pid_namespace: in which its number counts; containers have one each.
    process_start: when it started, in clock ticks since the machine did.
    began: when it took the lock, ISO 8601, UTC.
    command: how it was started.
    token: random, of this lock alone.
  """

  host: str
  pid: int
  kernel: str
  pid_namespace: str
  process_start: int
  began: str
  command: str
  token: str

  def __str__(self) -> str:
    return f"process {self.pid} on host {self.host}"


def _this_process(command: Sequence[str]) -> Owner:
  _, start = process_names.state_and_start(os.getpid()) or ("", 0)
  return Owner(
    host=platform.node(),
    pid=os.getpid(),
    kernel=process_names.kernel(),
    pid_namespace=process_names.pid_namespace(),
    process_start=start,
    began=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    command=shlex.join(command) or "Python",
    token=uuid.uuid4().hex,
  )


def _is_alive(owner: Owner) -> bool | None:
  """Whether a process runs; None if this machine cannot tell.

  The name of the host decides nothing: containers of one image, and machines
  made from one image, may share it. A process can be looked up only by the same
  kernel, whose id no other start of any machine has, and in the same namespace
  of process numbers. A machine of this name that was started again has another
  kernel id; it may as well be another machine, so its lock is watched.
  """
  where = (owner.kernel, owner.pid_namespace)
  here = (process_names.kernel(), process_names.pid_namespace())
  if not all(where) or where != here:
    return None
  return process_names.is_alive(owner.pid, owner.process_start)


# --------------------------------------------------------------------------
# The file


class _Found(NamedTuple):
  """A lock file, as it was at a moment; it changes when it is touched."""

  content: bytes
  touched: int

  @property
  def owner(self) -> Owner | None:
    """The process that has it; None if it is damaged, or not yet written."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
      found = errors.parse_json(self.content)
      owner = Owner(
        **{field.name: found[field.name] for field in dataclasses.fields(Owner)}
      )
      if isinstance(owner.pid, int) and owner.pid > 0:
        return owner
    return None


def _read(path: str) -> _Found | None:
  """Reads a lock file; returns None if there is none.

  It is opened, not only asked for: network file systems then look at the
  server, and else remember an older state for up to a minute.
  """
  for _ in range(2):
    try:
      with open(path, "rb") as file:
        return _Found(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
      # A link to nothing is in the way as well.
      return _Found(b"", 0) if os.path.lexists(path) else None
    except OSError as error:
      # Another machine has removed or replaced it meanwhile: look again.
      if error.errno != errno.ESTALE:
        raise
  return None


def _write(path: str, content: bytes, flags: int) -> None:
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
  with open(descriptor, "wb") as file:
    file.write(content)
  flush(path)


def _create(path: str, content: bytes) -> bool:
  """Makes a lock file with its content, unless there is one.

  Of several processes that do so at the same moment, one succeeds: the new name
  is a link, which no file system makes over another file.

  Returns:
    Whether it was made.

  Raises:
    OSError: the folder cannot be written to.
  """
  folder, name = os.path.split(path)
  name = f".{name.lstrip('.')}.tmp-{process_names.new_token()}"
  aside = os.path.join(folder, name)
  try:
    _write(aside, content, os.O_EXCL)
    try:
      os.link(aside, path)
      return True
    except FileExistsError:
      # A network file system may have made it and lost the answer.
      return os.stat(aside).st_nlink > 1
    except OSError:  # there are no links here
      try:
        _write(path, content, os.O_EXCL)
        return True
      except FileExistsError:
        return False
  finally:
    # The next start removes what cannot be removed now.
    with contextlib.suppress(OSError):
      os.remove(aside)


def _replace_dead(path: str, dead: _Found, content: bytes) -> bool:
  """Puts a lock into the place of that of a dead process.

  Each dead lock has a name under which its successor is written, and one
  process alone can make this. While it is there, nobody else replaces the lock,
  so that none is replaced that another start has just taken.

  Args:
    path: of the lock file.
    dead: what was found there.
    content: of the new lock.

  Returns:
    Whether this was done; else look again.

  Raises:
    errors.UserError: another process is doing so.
    OSError: the folder cannot be written to.
  """
  folder, name = os.path.split(path)
  token = hashlib.sha256(repr(dead).encode()).hexdigest()[:8]
  successor = os.path.join(folder, f".{name}.tmp-{token}")
  if not _create(successor, content):
    if _dead_lock(successor, _PATIENCE_SECONDS):
      with contextlib.suppress(FileNotFoundError):
        os.remove(successor)
    return False
  if _read(path) != dead:
    os.remove(successor)
    return False
  os.replace(successor, path)
  flush(folder)
  return True


def _refusal(train_dir: str, found: _Found) -> errors.UserError:
  owner = found.owner
  by = "by another process"
  if owner:
    by = f"by {owner} since {owner.began}, started with: {owner.command}"
  return errors.UserError(
    f"Expected a --train_dir that no other process trains in, received"
    f" {train_dir}, which is being trained in {by}. Wait for its end, stop it,"
    " or name another --train_dir."
  )


def _dead_lock(path: str, patience: float) -> _Found | None:
  """Waits until it is known whether the process of a lock lives.

  Args:
    path: of the lock file.
    patience: seconds without a change after which it counts as dead, where this
      machine cannot tell.

  Returns:
    The lock of a dead process; None if there is no lock, or no longer.

  Raises:
    errors.UserError: the process lives.
  """
  first = found = _read(path)
  began, shown = time.monotonic(), -_LINE_SECONDS
  while found is not None:
    owner = found.owner
    alive = _is_alive(owner) if owner else None
    if alive or found != first:
      raise _refusal(os.path.dirname(path), found)
    waited = time.monotonic() - began
    if alive is False or waited >= patience:
      return found
    if waited - shown >= _LINE_SECONDS:
      shown = waited
      logging.info(
        "%s is of %s, which this machine cannot see: watching it for a sign of"
        " life, %.0f of %.0f s so far.",
        path,
        owner or "an unknown process",
        waited,
        patience,
      )
    time.sleep(_POLL_SECONDS)
    found = _read(path)
  return None


# --------------------------------------------------------------------------
# Having it


class NoLock:
  """What a process has that shares its folder with nobody."""

  def raise_if_lost(self) -> None:
    """Raises a UserError if it is known that another process trains here."""

  def verify(self) -> None:
    """As raise_if_lost, after a look at the file: before something is written.

    Raises:
      errors.UserError: another process trains here.
    """


NO_LOCK = NoLock()
"""That of all machines of a cluster but the chief, and of remote folders."""


class TrainDirLock(NoLock):
  """The lock of a train_dir on a local or mounted file system.

  Args:
    train_dir: the folder, which exists.
    command: how this process was started.
  """

  def __init__(self, train_dir: str, command: Sequence[str]):
    self._path = os.path.join(train_dir, LOCK_FILE)
    owner = _this_process(command)
    self._content = json.dumps(dataclasses.asdict(owner), indent=2).encode()
    self._loss: errors.UserError | None = None
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._keep, name="train_dir_lock", daemon=True
    )

  def take(self) -> None:
    """Takes the lock, also that of a dead process.

    Raises:
      errors.UserError: another process trains here.
      OSError: the folder cannot be written to.
    """
    while not _create(self._path, self._content):
      dead = _dead_lock(self._path, _PATIENCE_SECONDS)
      if dead and _replace_dead(self._path, dead, self._content):
        logging.info(
          "Took over the lock of %s, which is dead.",
          dead.owner or "an unknown process",
        )
        break
    self._thread.start()

  def release(self) -> None:
    """Removes the lock, if this process has it."""
    self._ended.set()
    if self._thread.is_alive():
      self._thread.join(_RENEWAL_SECONDS)
    with contextlib.suppress(OSError):
      if self._other() is None:
        os.remove(self._path)

  def raise_if_lost(self) -> None:
    """See NoLock."""
    if self._loss:
      raise self._loss

  def verify(self) -> None:
    """See NoLock."""
    self._look()
    self.raise_if_lost()

  def _other(self) -> _Found | None:
    """What is in the place of this lock; None if it is there itself.

    No file at all counts as one of an unknown process.
    """
    found = _read(self._path) or _Found(b"", 0)
    return None if found.content == self._content else found

  def _look(self) -> None:
    """Notes if another process has the lock."""
    found = self._other()
    if found is None:
      return
    by = f"found that {found.owner} does" if found.owner else "found it gone"
    self._loss = errors.UserError(
      f"Expected {self._path} to be of this process as long as it trains, {by}:"
      f" it was removed, or this process stood still for more than"
      f" {_PATIENCE_SECONDS:.0f} s. Start again to continue from the last"
      " checkpoint, unless another process trains there."
    )

  def _keep(self) -> None:
    """Touches the lock until it is lost or released; runs in a thread."""
    while not self._loss and not self._ended.wait(_RENEWAL_SECONDS):
      # A file system that does not answer for a while is no reason to stop.
      with contextlib.suppress(OSError):
        self._look()
        if not self._loss:
          os.utime(self._path)


def _unwritable(
  train_dir: str, error: OSError | tf.errors.OpError
) -> errors.UserError:
  reason = error.strerror if isinstance(error, OSError) else error.message
  reason = (reason or str(error)).splitlines()[0]
  advice = "Check its path and its permissions, or name another one."
  if errors.is_fault_of_machine(error):
    advice = (
      "Free some space on its disk, or check the disk; then start the same"
      " command again."
    )
  return errors.of_system(
    error,
    f"Expected a --train_dir that can be written to, received {train_dir}"
    f" ({reason}). {advice}",
  )


@contextlib.contextmanager
def _made(train_dir: str) -> Iterator[None]:
  """Makes a folder; removes it at the end if nothing was put into it."""
  missing, folder = [], os.path.abspath(train_dir)
  while not os.path.lexists(folder):
    missing.append(folder)
    folder = os.path.dirname(folder)
  try:
    os.makedirs(train_dir, exist_ok=True)
    yield
  finally:
    with contextlib.suppress(OSError):
      for folder in missing:
        os.rmdir(folder)


def _check_remote(train_dir: str) -> None:
  """Checks that a remote folder can be written to.

  Raises:
    errors.UserError: it cannot.
  """
  try:
    with (
      files.beside(os.path.join(train_dir, LOCK_FILE)) as aside,
      tf.io.gfile.GFile(aside, "w") as file,
    ):
      file.write("can be written to")
  except tf.errors.OpError as error:
    raise _unwritable(train_dir, error) from error
  logging.info(
    "%s is remote and has no lock: see to it that nothing else trains there.",
    train_dir,
  )


@contextlib.contextmanager
def hold(train_dir: str, command: Sequence[str] = ()) -> Iterator[NoLock]:
  """Keeps other trainings out of a folder during a block.

  Args:
    train_dir: the folder; made if it is missing, and removed again if nothing
      is in it at the end.
    command: how this process was started, to tell the others.

  Yields:
    The lock, which is lost if this process stands still for minutes.

  Raises:
    errors.UserError: another process trains there, or the folder cannot be
      written to.
  """
  if not is_local(train_dir):
    _check_remote(train_dir)
    yield NO_LOCK
    return
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(_made(train_dir))
      lock = TrainDirLock(train_dir, command)
      stack.callback(lock.release)
      lock.take()
    except OSError as error:
      raise _unwritable(train_dir, error) from error
    yield lock


def check_free(train_dir: str) -> None:
  """Checks, without a change, that a training could begin in a folder now.

  Where this machine cannot see the process of a lock, it watches it for half a
  minute.

  Args:
    train_dir: the folder, which need not exist.

  Raises:
    errors.UserError: another process trains there, or the folder cannot be
      made or written to.
  """
  if not is_local(train_dir):
    return
  folder = nearest_folder(train_dir)
  try:
    if not os.path.isdir(folder):
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
      # Also on a disk that is read-only, where even root may not.
      raise PermissionError(errno.EACCES, f"{folder} is not writable")
    _dead_lock(os.path.join(train_dir, LOCK_FILE), _LOOK_SECONDS)
  except OSError as error:
    raise _unwritable(train_dir, error) from error
