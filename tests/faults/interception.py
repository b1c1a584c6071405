"""Answers a program's system calls on files in the kernel's place.

The kernel asks this process, by a filter of seccomp, about each call of a child
that reads or changes files. Calls on files below one folder are counted; one of
them can be made to fail, or be the moment at which the child is killed.

Why not a preloaded library: TensorFlow writes with fopen, fwrite and fflush,
and what these call inside the C library is bound there, so that no symbol of
ours is asked; which part of a buffer reaches the file would be a guess. Why not
strace: it stops the program twice for each call, has to be installed, and knows
neither "the third write to this file" nor "every call from here on". Here only
the calls of WATCHED are asked about, a few thousand in a run.

Out of reach are writes to memory that is mapped to a file, and the result of
close(), which the kernel honors only on some network file systems.
"""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable

# By x86_64's numbers: name, what to call it here, which argument is the
# descriptor or the path. Of two paths it is the new one.
WATCHED = {
  0: ("read", "read", "fd", 0),
  1: ("write", "write", "fd", 0),
  2: ("open", "open", "path", 0),
  17: ("pread64", "read", "fd", 0),
  18: ("pwrite64", "write", "fd", 0),
  19: ("readv", "read", "fd", 0),
  20: ("writev", "write", "fd", 0),
  40: ("sendfile", "write", "fd", 0),
  74: ("fsync", "flush", "fd", 0),
  75: ("fdatasync", "flush", "fd", 0),
  76: ("truncate", "resize", "path", 0),
  77: ("ftruncate", "resize", "fd", 0),
  82: ("rename", "rename", "path", 1),
  83: ("mkdir", "mkdir", "path", 0),
  84: ("rmdir", "delete", "path", 0),
  85: ("creat", "open", "path", 0),
  86: ("link", "link", "path", 1),
  87: ("unlink", "delete", "path", 0),
  88: ("symlink", "link", "path", 1),
  257: ("openat", "open", "path at", 1),
  258: ("mkdirat", "mkdir", "path at", 1),
  263: ("unlinkat", "delete", "path at", 1),
  264: ("renameat", "rename", "path at", 3),
  265: ("linkat", "link", "path at", 3),
  266: ("symlinkat", "link", "path at", 2),
  277: ("sync_file_range", "flush", "fd", 0),
  285: ("fallocate", "resize", "fd", 0),
  295: ("preadv", "read", "fd", 0),
  296: ("pwritev", "write", "fd", 0),
  316: ("renameat2", "rename", "path at", 3),
  326: ("copy_file_range", "write", "fd", 2),
  327: ("preadv2", "read", "fd", 0),
  328: ("pwritev2", "write", "fd", 0),
}
READS = ("open to read", "read")
"""The kinds of calls that change nothing."""
TAKE_ROOM = (
  "open to write",
  "write",
  "flush",
  "resize",
  "rename",
  "mkdir",
  "link",
)
"""The kinds of calls for which a full disk may have no room."""

# Parts of names that differ between two runs.
_RANDOM = (
  (re.compile(r"\.tmp-[^/]*"), ".tmp-*"),
  (re.compile(r"\.tmp[0-9a-f]{32}"), ".tmp*"),
  (re.compile(r"tempstate\d+"), "tempstate*"),
  (re.compile(r"(events\.out\.tfevents)[^/]*"), r"\1"),
  (re.compile(r"(^|/)tmp[a-z0-9_]{8}(?=/|$|\.aside$)"), r"\1tmp*"),
  (re.compile(r"(__autograph_generated_file)[a-z0-9_]{8}"), r"\1*"),
  # Python tries out a temporary folder.
  (re.compile(r"^tmp/[a-z0-9_]{8}$"), "tmp/*"),
  (re.compile(r"[0-9a-f]{32}(?=\.)"), "*"),
)

_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER = 317, 1, 8
_NO_NEW_PRIVILEGES = 38
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_X86_64 = 0xC000003E
_AT_FDCWD = -100


def plain_name(path: str) -> str:
  """A path without the parts that differ between two runs."""
  for pattern, replacement in _RANDOM:
    path = pattern.sub(replacement, path)
  return path


def why_impossible() -> str:
  """Why calls cannot be answered on this machine; empty if they can."""
  if sys.platform != "linux" or platform.machine() != "x86_64":
    return "the numbers of system calls are those of Linux on x86_64"
  try:
    with open("/proc/sys/kernel/seccomp/actions_avail") as file:
      if "user_notif" in file.read().split():
        return ""
  except OSError:
    pass
  return "this kernel's seccomp does not ask other processes"


@dataclasses.dataclass(frozen=True)
class Call:
  """One call on a file: the count-th of its kind on it.

  Attributes:
    kind: see WATCHED; an open is one "to read" or "to write".
    path: of the file, from the watched folder on, without random parts.
    count: from 1 on.
  """

  kind: str
  path: str
  count: int

  def __str__(self):
    return f"{self.kind}, {self.path}, {self.count}"

  @classmethod
  def parse(cls, text: str) -> "Call":
    """The inverse of str()."""
    kind, rest = text.split(", ", 1)
    path, count = rest.rsplit(", ", 1)
    return cls(kind, path, int(count))


@dataclasses.dataclass(frozen=True)
class Fault:
  """What happens to one call.

  It is named by file, not by its number among all calls, because threads write
  different files in no fixed order.

  Attributes:
    call: which.
    error: as in errno; 0 to kill the program before the call.
    lasts: whether each later call that takes room fails too, as on a full disk.
  """

  call: Call
  error: int
  lasts: bool = False


@dataclasses.dataclass
class Outcome:
  """What a child did.

  Attributes:
    status: its exit status; the negative number of the signal that ended it;
      None if it was killed because it ran for too long.
    calls: those on files of the folder, in order.
    before: what at_fault returned when the fault came; None if none came.
    seconds: that it ran.
  """

  status: int | None
  calls: list[Call]
  before: object
  seconds: float

  @property
  def was_hit(self) -> bool:
    return self.before is not None


# --------------------------------------------------------------------------
# In the child


def _filter() -> ctypes.Array:
  """The program by which the kernel decides about which calls to ask."""
  load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06
  numbers = list(WATCHED)
  code = [
    (load, 0, 0, 4),  # the architecture
    (equal, 1, 0, _X86_64),
    (leave, 0, 0, _ALLOW),
    (load, 0, 0, 0),  # the number of the call
  ]
  for place, number in enumerate(numbers):
    code.append((equal, len(numbers) - place, 0, number))
  code += [
    (leave, 0, 0, _ALLOW),
    # What a program says on stdout and stderr; paths are above.
    (load, 0, 0, 16),  # the low half of the first argument
    (at_least, 1, 0, 3),
    (leave, 0, 0, _ALLOW),
    (leave, 0, 0, _ASK),
  ]
  packed = b"".join(struct.pack("HBBI", *one) for one in code)
  return ctypes.create_string_buffer(packed, len(packed))


def _let_parent_answer(channel: socket.socket) -> None:
  """Sends the parent the descriptor on which the kernel asks.

  Until the parent answers, this process waits in its next watched call.
  """
  code = _filter()
  libc = ctypes.CDLL(None, use_errno=True)
  program = struct.pack(
    "HxxxxxxP", len(bytes(code)) // 8, ctypes.addressof(code)
  )
  if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "prctl")
  listener = libc.syscall(
    _SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.c_char_p(program)
  )
  if listener < 0:
    raise OSError(ctypes.get_errno(), "seccomp")
  socket.send_fds(channel, [b"."], [listener])
  os.close(listener)
  channel.close()


# --------------------------------------------------------------------------
# In the parent


class _Answers:
  """Decides about the calls of one child."""

  def __init__(self, pid, listener, folder, fault, at_fault):
    self._pid = pid
    self._listener = listener
    self._folder = os.path.realpath(folder) + os.sep
    self._fault = fault
    self._at_fault = at_fault
    self._counts = Counter()
    self.calls: list[Call] = []
    self.before = None

  def answer(self) -> None:
    """Answers one call that waits."""
    asked = bytearray(80)
    try:
      fcntl.ioctl(self._listener, _RECEIVE, asked)
    except OSError as error:
      if error.errno in (errno.ENOENT, errno.EINTR):  # the thread has ended
        return
      raise
    identity, thread, _, number, _, _, *arguments = struct.unpack(
      "QIIiIQ6Q", asked
    )
    error = self._decide(thread, number, arguments)
    if error is None:  # it is killed
      return
    reply = struct.pack("QqiI", identity, 0, -error, 0 if error else _CONTINUE)
    try:
      fcntl.ioctl(self._listener, _SEND, reply)
    except OSError as gone:
      if gone.errno != errno.ENOENT:
        raise

  def _decide(self, thread, number, arguments) -> int | None:
    """The error to answer with; 0 for the call itself, None for a kill."""
    _, kind, _, _ = WATCHED[number]
    try:
      path = os.path.normpath(_path_of(thread, number, arguments))
    except OSError:  # it has ended, or asks about memory that it does not have
      return 0
    if not (path + os.sep).startswith(self._folder):
      return 0
    if kind == "open":
      kind += " to write" if _opens_to_write(number, arguments) else " to read"
    path = plain_name(path[len(self._folder) :] or ".")
    self._counts[kind, path] += 1
    call = Call(kind, path, self._counts[kind, path])
    self.calls.append(call)
    fault = self._fault
    if fault is None:
      return 0
    if self.before is not None:
      return fault.error if fault.lasts and kind in TAKE_ROOM else 0
    if call != fault.call:
      return 0
    self.before = self._at_fault()
    if fault.error:
      return fault.error
    os.killpg(self._pid, signal.SIGKILL)
    return None


def _opens_to_write(number, arguments) -> bool:
  if number == 85:  # creat
    return True
  flags = arguments[2 if number == 257 else 1]
  return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _path_of(thread: int, number: int, arguments) -> str:
  """The path of the file that a call is about.

  Raises:
    OSError: nothing is known about it.
  """
  _, _, form, place = WATCHED[number]
  if form == "fd":
    return os.readlink(f"/proc/{thread}/fd/{_signed(arguments[place])}")
  path = _text_at(thread, arguments[place])
  if os.path.isabs(path):
    return path
  folder = _AT_FDCWD if form == "path" else _signed(arguments[place - 1])
  link = "cwd" if folder == _AT_FDCWD else f"fd/{folder}"
  return os.path.join(os.readlink(f"/proc/{thread}/{link}"), path)


def _signed(value: int) -> int:
  """An argument as the 32 bits with a sign that a descriptor has."""
  return ctypes.c_int(value & 0xFFFFFFFF).value


def _text_at(thread: int, address: int) -> str:
  """The text in a process's memory that ends with a zero."""
  found = b""
  memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
  try:
    while b"\0" not in found and len(found) < 1 << 14:
      # Up to the next page, since the one after may not exist.
      start = address + len(found)
      part = os.pread(memory, 4096 - start % 4096, start)
      if not part:
        break
      found += part
  finally:
    os.close(memory)
  return os.fsdecode(found.split(b"\0")[0])


class Child(BaseException):  # no error, see run
  """Carries a program out of the frames of the process that was forked.

  Attributes:
    program: what to do.
  """

  def __init__(self, program: Callable[[], object]):
    super().__init__()
    self.program = program


def run(
  program: Callable[[], object],
  folder: str,
  *,
  is_watched: bool = True,
  fault: Fault | None = None,
  at_fault: Callable[[], object] = lambda: True,
  kill_after: float | None = None,
  patience: float = 300.0,
) -> Outcome:
  """Runs a program in a child of this process, which must have one thread.

  In the child, Child is raised, which must be let through to the end of the
  main module: it ends there as a program does that was started by a shell.

  Args:
    program: what to do.
    folder: whose files are watched.
    is_watched: whether calls are counted.
    fault: what happens to one of them.
    at_fault: called when the fault comes; its result is kept.
    kill_after: seconds after which to kill it.
    patience: seconds after which it counts as hanging.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  ours, theirs = socket.socketpair()
  began = time.monotonic()
  pid = os.fork()
  if not pid:
    ours.close()
    os.setpgid(0, 0)
    if is_watched:
      _let_parent_answer(theirs)
    raise Child(program)
  theirs.close()
  answers, listener = None, -1
  ended = os.pidfd_open(pid)
  try:
    if is_watched:
      _, found, _, _ = socket.recv_fds(ours, 1, 1)
      listener = found[0]
      answers = _Answers(pid, listener, folder, fault, at_fault)
    give_up = began + (patience if kill_after is None else kill_after)
    is_over = _serve(answers, listener, ended, give_up)
  finally:
    _kill_group(pid)
    ours.close()
    os.close(ended)
    if listener >= 0:
      os.close(listener)
  _, status = os.waitpid(pid, 0)
  code = os.waitstatus_to_exitcode(status)
  return Outcome(
    None if not is_over and kill_after is None else code,
    answers.calls if answers else [],
    answers.before if answers else None,
    time.monotonic() - began,
  )


def _serve(answers, listener, ended, give_up) -> bool:
  """Answers calls until the child ends, or it is time to give up."""
  poll = select.poll()
  poll.register(ended, select.POLLIN)
  if answers:
    poll.register(listener, select.POLLIN)
  while (left := give_up - time.monotonic()) > 0:
    ready = dict(poll.poll(1000 * left))
    if ready.get(listener, 0) & select.POLLIN:
      answers.answer()
    elif ended in ready:
      return True
    elif listener in ready:  # nobody is left who could ask
      poll.unregister(listener)
  return False


def _kill_group(pid: int) -> None:
  """Kills a child and what it has started, as far as it still runs."""
  for kill in (os.killpg, os.kill):
    with contextlib.suppress(ProcessLookupError):
      kill(pid, signal.SIGKILL)
