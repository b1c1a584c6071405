"""What the programs that read all records of local files have in common."""

import glob
import os
import re

import errors
from engine.data_files import find_files, has_numbered_records
from records import shards
from records.messages import BadRecordError


def patterns_of(arguments: list[str], pattern: str = "") -> list[str]:
  r"""The patterns of a command line, each as `find_files` takes it.

  Args:
    arguments: patterns, or files: the shell has expanded a pattern.
    pattern: of a flag; empty for none.
  """
  patterns = [
    glob.escape(argument).replace(",", "\\,")
    if os.path.exists(argument)
    else argument
    for argument in arguments
  ]
  return [*patterns, pattern] if pattern else patterns


def path_of(pattern: str) -> str:
  """The path of a pattern of `patterns_of` that matches it alone."""
  return re.sub(r"\[([*?[])\]", r"\1", pattern).replace("\\,", ",")


def find_local_files(patterns: list[str], flag: str, program: str) -> list[str]:
  """The files that a command line names.

  Args:
    patterns: see patterns_of.
    flag: the flag to name in errors.
    program: module to name in errors.

  Raises:
    errors.UserError: there are none, or some cannot be read by number.
  """
  if not patterns:
    raise errors.UserError(
      "Expected files, received none. Name them: python -m"
      f' {program} "FOLDER/*.tfrecord".'
    )
  if shards.crc32c is None:
    raise errors.UserError(
      "Expected the package crc32c, found none. Install it: pip install -r"
      " requirements.txt."
    )
  files = find_files(",".join(patterns), flag)
  for file in files:
    if not has_numbered_records(file):
      raise errors.UserError(
        f"Expected local files that are not compressed, received {file}. Copy"
        " the files to a disk of this machine, or decompress them."
      )
  return files


def not_readable(error: OSError) -> BadRecordError:
  """What is wrong with a record that the system could not read."""
  return BadRecordError(
    "cannot be read",
    f"expected a file that can be read, received {error.strerror or error};"
    " check the disk, or download or make the file again",
  )
