"""Plain sentences for what the system refuses: disk space, memory, rights.

Python and TensorFlow say so in many words, some of which are for those who
write TensorFlow, and as errors of many kinds. This file imports no TensorFlow.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

import errors

# Sentences by the number of the error; {path} is what was read or written.
_SENTENCES = {
  errno.ENOSPC: (
    "Expected room on the disk for {path}, found the disk full. Free some"
    " space, or name a folder on another disk; then start the same command"
    " again."
  ),
  errno.EDQUOT: (
    "Expected room on the disk for {path}, found your quota used up. Delete"
    " files of yours, or name a folder on another disk; then start the same"
    " command again."
  ),
  errno.EFBIG: (
    "Expected a disk that takes a file as large as {path}, received one with a"
    " limit. Raise it (ulimit -f), or name a folder on another disk; then start"
    " the same command again."
  ),
  errno.EROFS: (
    "Expected a disk that can be written to for {path}, received a read-only"
    " one. Name a folder on another disk."
  ),
  errno.EIO: (
    "Expected a disk that works for {path}, received an input/output error."
    " Check the disk and its connection, or use another one; then start the"
    " same command again."
  ),
  errno.EMFILE: (
    "Expected to open {path}, found as many files open as a process may have."
    " Raise the limit (ulimit -n 4096), and start the same command again."
  ),
  errno.EPIPE: (
    "Expected a program at the other end of the pipe that reads all of {path},"
    " found that it has ended. Start both again, or write to a file."
  ),
}
_SENTENCES[errno.ENAMETOOLONG] = (
  "Expected a name as short as the disk takes, received {path}. A file is first"
  " written under a name that is some 40 letters longer. Name a shorter one."
)
_SENTENCES[errno.EACCES] = (
  "Expected the right to read and write {path}, received none from its"
  " permissions or those of its folder. Change them, or name another."
)
_SENTENCES[errno.ELOOP] = (
  "Expected a link that leads to a file or a folder, received {path}, which"
  " leads back to itself. Repair it, or name another."
)
_SENTENCES[errno.ENFILE] = _SENTENCES[errno.EMFILE]

# Those that another flag or another file avoids; the others are the machine's.
_OF_USER = (errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)

_BY_TEXT = {os.strerror(number): number for number in _SENTENCES}

# "{{function_node ...}} path; No space left on device [Op:SaveV2]"
_REFUSED = re.compile(
  r"(?:(?P<path>[^\n;]*)[;:] )?(?P<reason>"
  + "|".join(map(re.escape, _BY_TEXT))
  + ")"
)
_NO_SCHEME = re.compile(
  r"scheme '(.*?)' not implemented \(file: '(.*)'\)", re.S
)
# "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve
# hostname', error details: ... when reading metadata of gs://bucket/run"
_NO_ANSWER = re.compile(
  r"libcurl code \d+ meaning '(.*?)'(?:.*when reading (?:metadata of )?(\S+))?",
  re.S,
)
_FOR_DEVELOPERS = re.compile(r"\{\{.*?\}\}\s*")

# What Python says of a text that it would make a number of.
_TOO_MANY_DIGITS = "for integer string conversion"

# Of TensorFlow on a CPU and on a GPU, of C++, of XLA and of the system.
_NO_MEMORY = re.compile(
  r"OOM when allocating|[Oo]ut of memory|[Ff]ailed to allocate|bad_alloc"
  r"|Dst tensor is not initialized|MemoryError"
  rf"|{re.escape(os.strerror(errno.ENOMEM))}"
)


def _shown(path: str) -> str:
  """The path that a user knows, of one that is written aside."""
  path = re.sub(r"_temp/.*|\.tempstate\d+$", "", path)
  return re.sub(r"(^|/)\.([^/]+)\.tmp-[0-9a-f-]+", r"\1\2", path)


def _path_in(text: str | None) -> str:
  """The path at the end of what TensorFlow says before the reason."""
  text = _FOR_DEVELOPERS.sub("", text or "").strip()
  found = re.search(r"(?:^|\s)((?:\w+://|/).*)", text)
  return found[1] if found else text


def _refusal(error: BaseException) -> tuple[int, str] | None:
  """The number of an error, and the path that it is about; None for others."""
  text = str(getattr(error, "message", None) or error)
  if isinstance(error, OSError) and error.errno in _SENTENCES:
    return error.errno, os.fsdecode(error.filename or "")
  if isinstance(error, MemoryError):
    return errno.ENOMEM, ""
  is_tensorflows = type(error).__module__.startswith("tensorflow.")
  if not isinstance(error, OSError) and not is_tensorflows:
    return None
  if found := _REFUSED.search(text):
    return _BY_TEXT[found["reason"]], _path_in(found["path"])
  return (errno.ENOMEM, "") if _NO_MEMORY.search(text) else None


def in_plain_words(
  error: BaseException, batch_size: int | None = None
) -> str | None:
  """What the system refused, and what to do about it, in one line.

  Args:
    error: any.
    batch_size: videos in a batch of the program, if it has any.

  Returns:
    None for an error of another kind.
  """
  if text := _of_network(error):
    return text
  refusal = _refusal(error)
  return _sentence(*refusal, batch_size) if refusal else None


def _sentence(number: int, path: str, batch_size: int | None) -> str:
  """See in_plain_words; the number and the path are those of _refusal."""
  if number in _SENTENCES:
    return _SENTENCES[number].format(path=_shown(path) or "what is written")
  if batch_size:
    return (
      f"Expected memory for a batch of {batch_size} videos, found too little."
      " Use a smaller --batch_size, or close other programs."
    )
  return (
    "Expected more memory than there is. Close other programs, or use a machine"
    " with more."
  )


def _of_network(error: BaseException) -> str | None:
  """What is said about a remote file if the network does not answer.

  Returns:
    None for an error of another kind.
  """
  found = _NO_ANSWER.search(str(getattr(error, "message", None) or error))
  if not found or not errors.is_fault_of_machine(error):
    return None
  return (
    f"Expected an answer of the network about {found[2] or 'a remote file'},"
    f" received none: {found[1]}. Check the connection and the address; then"
    " start the same command again."
  )


def _of_text(error: Exception) -> str | None:
  """What is said about a text that no file and no number can be made of.

  Returns:
    None for an error of another kind.
  """
  if isinstance(error, UnicodeEncodeError):
    if not any("\ud800" <= letter <= "\udfff" for letter in error.object):
      return None
    shown = (
      os.fsencode(error.object) if _is_name(error.object) else error.object
    )
    return (
      f"Expected names and texts in UTF-8, received {shown!r}. Rename the file,"
      " or correct the text."
    )
  text = str(getattr(error, "message", None) or error)
  if found := _NO_SCHEME.search(text):
    return (
      f"Expected a file system that TensorFlow knows, received {found[2]}, of"
      f" which {found[1]}:// is not registered. Name a path on a disk of this"
      " machine, or see docs/distributed.md."
    )
  if isinstance(error, ValueError) and _TOO_MANY_DIGITS in text:
    return (
      "Expected numbers of a usual size in flags and files, received one of"
      " thousands of digits. Correct it."
    )
  return None


def _is_name(text: str) -> bool:
  """Whether the system may have given a text as the name of a file."""
  try:
    os.fsencode(text)
  except UnicodeEncodeError:
    return False
  return True


@contextlib.contextmanager
def said_plainly(batch_size: int | None = None) -> Iterator[None]:
  """A block, or a function, whose errors are one plain line where they can be.

  Args:
    batch_size: see in_plain_words.

  Raises:
    errors.UserError: the disk is read-only, a name is too long, a link leads
      nowhere, or a text is none that files can have.
    errors.MachineError: the system refused something else.
  """
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:
    if text := _of_text(error):
      raise errors.UserError(text) from error
    if text := _of_network(error):
      raise errors.MachineError(text) from error
    refusal = _refusal(error)
    if refusal is None:
      raise
    is_of_user = refusal[0] in _OF_USER
    kind = errors.UserError if is_of_user else errors.MachineError
    raise kind(_sentence(*refusal, batch_size)) from error
