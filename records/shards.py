"""The TFRecord files that hold a data set, and the records in them."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

import errors


def is_local(path: str) -> bool:
  """Tells whether a path is on a file system of this machine, not a URL."""
  return "://" not in path


def find_files(data_pattern: str, flag_name: str) -> list[str]:
  """Lists the files of one or more glob patterns, sorted by name.

  Args:
    data_pattern: a glob pattern, or several with commas between them; on any
      file system that tf.io.gfile knows.
    flag_name: the flag to name in the error.

  Returns:
    The paths, sorted, without duplicates.

  Raises:
    errors.UserError: a pattern matches no file.
  """
  paths = set()
  for pattern in data_pattern.split(","):
    found = tf.io.gfile.glob(pattern.strip())
    if not found:
      raise errors.UserError(
        f"Expected files that match --{flag_name}={pattern.strip()}, found"
        " none. Check the path, and quote the pattern so that the shell does"
        " not expand it."
      )
    paths.update(found)
  return sorted(paths)


@contextlib.contextmanager
def naming_record(file: str, number: int) -> Iterator[None]:
  """Says in an error about a record where the record is.

  Args:
    file: path of the file.
    number: the record's number in it, from 0.

  Raises:
    errors.UserError: the block raised one; file and number are added to it.
  """
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f"{file}, record {number}: {error}.") from error


def numbered_records(file: str) -> Iterator[tuple[int, bytes]]:
  """Reads the records of a file, in order.

  Args:
    file: path of a TFRecord file.

  Yields:
    The number of each record, from 0, and its bytes.

  Raises:
    errors.UserError: a record is damaged, or the file is not a TFRecord file.
  """
  number = 0
  try:
    for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
      yield number, serialized
      number += 1
  except tf.errors.DataLossError as error:
    with naming_record(file, number):
      raise errors.UserError(
        "expected a whole TFRecord, received one that is damaged or cut off,"
        " or the file is not a TFRecord file; download or make the file again"
      ) from error
