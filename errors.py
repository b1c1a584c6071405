"""The errors that are shown as one line; this file imports nothing of ours.

Every message says what was expected, what was received and how to fix it.
"""

import difflib
import errno
import json
import os
from collections.abc import Iterable


class UserError(Exception):
  """Shown as one line, without a traceback: what the user can fix."""


class MachineError(UserError):
  """Shown as one line too: a fault of the machine, or of one it depends on.

  Such as a full disk, a failed read or a machine of the cluster that is lost.
  The same command may succeed later, or elsewhere.
  """


# Errors of the system that no other flag and no other file would avoid.
_FAULTS = frozenset(
  getattr(errno, name)
  for name in (
    *("EIO", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "ENFILE", "EPIPE"),
    *("ESTALE", "EREMOTEIO", "ENOLCK", "ETIMEDOUT"),
    *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH"),
    *("ENETDOWN", "ENETUNREACH"),
  )
  if hasattr(errno, name)
)
# What TensorFlow says if a remote file system does not answer, with a code that
# stands for a fault of the user.
_NO_ANSWER = "libcurl code"
# TensorFlow's codes of DeadlineExceeded, ResourceExhausted (memory or disk
# space), Aborted and Unavailable; and of Unknown and DataLoss, which stand for
# EIO too, the latter where a checkpoint is opened.
_FAULT_CODES = (4, 8, 10, 14)
_VAGUE_CODES = (2, 15)


def is_fault_of_machine(error: BaseException) -> bool:
  """Whether an error of Python or TensorFlow is the machine's, not the user's.

  Args:
    error: any; an OSError and an OpError are looked into.
  """
  if isinstance(error, (MachineError, MemoryError, TimeoutError)):
    return True
  if isinstance(error, OSError):
    return error.errno in _FAULTS
  code = getattr(error, "error_code", None)  # of a tf.errors.OpError
  if code in _VAGUE_CODES:
    return os.strerror(errno.EIO) in str(error)
  return code in _FAULT_CODES or (code is not None and _NO_ANSWER in str(error))


def exit_status(error: BaseException) -> int:
  """The exit status of a program: 1 for a fault of the machine, else 2."""
  return 1 if is_fault_of_machine(error) else 2


def of_system(error: BaseException, message: str) -> UserError:
  """The error to raise in the place of one of Python or TensorFlow.

  Args:
    error: what was raised.
    message: what to say.

  Returns:
    A MachineError if is_fault_of_machine, else a UserError.
  """
  kind = MachineError if is_fault_of_machine(error) else UserError
  return kind(message)


def parse_json(content: str | bytes, **options):
  """As json.loads, but what is nested too deep is a ValueError like all else.

  Args:
    content: JSON from outside. Of a text too, a mark of its byte order, as some
      editors write it, is left out.
    **options: of json.loads.

  Raises:
    ValueError: it is none.
  """
  if isinstance(content, str):
    content = content.removeprefix("\ufeff")
  try:
    return json.loads(content, **options)
  except RecursionError as error:
    raise ValueError(str(error)) from error


# A name that is this similar to an unknown one was probably meant.
_SIMILARITY = 0.8


def nearest(name: str, known: Iterable[str]) -> str | None:
  """The known name that was probably meant by an unknown one, if any is.

  Args:
    name: that is not known.
    known: all that are. One that begins with `name` is near too.
  """
  known = list(known)
  lower = {one.lower(): one for one in reversed(known)}
  wanted = name.lower()
  close = difflib.get_close_matches(wanted, lower, 1, _SIMILARITY)
  if not close and len(wanted) > 2:
    close = [one for one in lower if one.startswith(wanted)]
  return lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """What a message adds about an unknown name; empty if none is near."""
  near = nearest(name, known)
  return f" Did you mean {near}?" if near else ""
