"""Ends a program at Ctrl-C, SIGTERM and SIGHUP: one line, and an exit status.

startup.py and command_line.py import this file first, so that the imports that
follow, which take seconds, can be stopped too. Before that, while Python itself
starts, SIGTERM ends a program silently, and Ctrl-C with Python's own lines. So
it is after the last line, while Python itself ends.

While a program works, a signal is raised as a KeyboardInterrupt, so that what
is half-written is removed. At any other time, and from the second signal on,
it ends the process at once. train.py saves at the first one instead, see
engine/loop.py.

Python handles a signal only when a call of a library returns. A thread ends the
process where that takes too long, such as while machines wait for each other.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from engine import stop_signals

_LINES = {
  signal.SIGINT: "Stopped by Ctrl-C.\n",
  signal.SIGTERM: "Stopped by SIGTERM.\n",
  signal.SIGHUP: "Stopped by SIGHUP: the terminal was closed.\n",
}
_ROOT = os.path.dirname(os.path.realpath(__file__))

# How long a library may keep Python from handling a first signal, and others.
_PATIENCE_SECONDS = 10.0
_NO_PATIENCE_SECONDS = 1.0


class _State:
  """What has happened so far.

  Attributes:
    received: the first signal; None before.
    received_at: its time, see time.monotonic.
    num_handled: signals so far.
    raises: whether a first one is raised as a KeyboardInterrupt.
    has_spoken: whether its line was written.
    stderr: the file descriptor that the line goes to.
  """

  def __init__(self):
    self.received: int | None = None
    self.received_at = 0.0
    self.num_handled = 0
    self.raises = False
    self.has_spoken = False
    self.stderr = 2


_state = _State()


def exit_status(number: int) -> int:
  """The exit status of a program that a signal ends, as a shell counts it."""
  return 128 + number


def received() -> int | None:
  """The signal that the program was stopped by, or None."""
  return _state.received


@contextlib.contextmanager
def raising() -> Iterator[None]:
  """A block in which a first signal is raised as a KeyboardInterrupt.

  After it, a signal ends the process at once.
  """
  _state.raises = True
  try:
    yield
  finally:
    _state.raises = False


def speak_to(descriptor: int) -> None:
  """Says where the line goes to, while stderr goes elsewhere.

  Args:
    descriptor: of an open file; 2 is stderr.
  """
  _state.stderr = descriptor


def line_to_say(number: int) -> str:
  """The line about a signal; empty if it was said before."""
  if _state.has_spoken:
    return ""
  _state.has_spoken = True
  return _LINES[signal.Signals(number)]


def end_now(number: int) -> NoReturn:
  """Says what has ended the program, and ends it without looking back."""
  with contextlib.suppress(OSError):  # nobody listens any more
    os.write(_state.stderr, line_to_say(number).encode())
  os._exit(exit_status(number))


def handle(number: int, frame: FrameType | None) -> None:
  """What a signal does; see this module."""
  del frame
  now = time.monotonic()
  if number == signal.SIGHUP:
    stop_signals.leave_terminal()
  since_first = now - _state.received_at
  if _state.received is not None and stop_signals.is_repeated(
    number, since_first
  ):
    if since_first >= stop_signals.SAME_SECONDS:  # _watch counts it too
      _state.num_handled += 1
    return
  _state.num_handled += 1
  if not _state.raises or _state.received is not None:
    end_now(number)
  _state.received, _state.received_at = number, now
  raise KeyboardInterrupt


def _open_missing() -> None:
  """Opens the standard input and outputs that were closed, as by 2>&-.

  Else the next file gets the number of one of them, and what libraries print.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
      os.set_inheritable(number, True)
      mode = "w" if number else "r"
      setattr(sys, name, os.fdopen(number, mode, closefd=False))


def install() -> None:
  """Makes signals do what this module says; only the main thread can.

  A signal that is ignored, as Ctrl-C is in the background of a shell, stays so.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  if sys.unraisablehook == _end_if_stopped:  # as they do
    return
  _open_missing()
  for number in _LINES:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, handle)
  sys.unraisablehook = _end_if_stopped
  threading.excepthook = _hush_if_stopped
  told, tell = os.pipe()
  os.set_blocking(tell, False)
  signal.set_wakeup_fd(tell)
  threading.Thread(target=_watch, args=(told,), daemon=True).start()


def _watch(descriptor: int) -> None:
  """Ends the program where Python does not get to handle a signal.

  Args:
    descriptor: of a pipe from which the numbers of signals come.
  """
  num_seen, seen_at = 0, -stop_signals.SAME_SECONDS
  while True:
    number = os.read(descriptor, 1)[0]
    now = time.monotonic()
    if number not in _LINES or now - seen_at < stop_signals.SAME_SECONDS:
      continue
    num_seen, seen_at = num_seen + 1, now
    if num_seen == 1:  # until there is a second one
      select.select([descriptor], [], [], _PATIENCE_SECONDS)
    else:
      time.sleep(_NO_PATIENCE_SECONDS)
    if _state.num_handled < num_seen:
      end_now(number)


def _end_if_stopped(problem) -> None:
  """Ends the program where Python would only report a KeyboardInterrupt.

  As when it was raised while an object was deleted. An OSError, such as of a
  temporary file that a library cannot remove at the end, is said in one line.
  """
  if _state.received is not None and problem.exc_type is KeyboardInterrupt:
    end_now(_state.received)
  if isinstance(problem.exc_value, OSError):
    with contextlib.suppress(OSError):  # nobody listens any more
      os.write(_state.stderr, f"WARNING: {problem.exc_value}.\n".encode())
    return
  sys.__unraisablehook__(problem)


def _hush_if_stopped(problem) -> None:
  """Hides the errors of threads that a stopped program has pulled along."""
  if _state.received is None:
    threading.__excepthook__(problem)


def _is_program() -> bool:
  """Whether Python runs a program of this project, not its tests."""
  path = getattr(sys.modules["__main__"], "__file__", None) or ""
  place = os.path.relpath(os.path.realpath(path), _ROOT).split(os.sep)
  is_elsewhere = place[0].startswith(".") or "site-packages" in place
  return place[-1].endswith(".py") and not is_elsewhere and place[0] != "tests"


def _is_helper() -> bool:
  """Whether this process computes for a program, as multiprocessing's do."""
  return any("multiprocessing.spawn" in word for word in sys.orig_argv[:4])


if _is_helper():
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # the program says the line
elif _is_program():
  install()
