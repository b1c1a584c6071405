"""The signals that stop a program.

SIGHUP comes when the terminal of a program is closed, often more than once.
nohup makes it ignored.
"""

import contextlib
import os
import signal
import stat

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Some programs, such as timeout, send a signal twice to make sure.
SAME_SECONDS = 0.3


def is_repeated(number: int, seconds: float) -> bool:
  """Whether a signal, not the first one, says nothing new.

  Args:
    number: of the signal.
    seconds: since the first one.
  """
  return seconds < SAME_SECONDS or number == signal.SIGHUP


def leave_terminal() -> None:
  """Lets nothing be written to the terminal from now on: it is closed.

  Each line would be an error, and keep a program from saving.
  """
  for descriptor in (1, 2):
    with contextlib.suppress(OSError):
      if stat.S_ISCHR(os.fstat(descriptor).st_mode):
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
