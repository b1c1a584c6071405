"""A file of TensorBoard events that says if some of them are lost.

TensorFlow collects events in a buffer, and ignores that a write fails while it
fills: what was in the buffer is dropped, and the next flush succeeds. So the
events that have arrived in the file are counted.

TensorFlow also keeps a tensor of each different Python number that it is given,
about 600 bytes, until the program ends. It keeps none of NumPy's, so steps and
values become such here.
"""

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

import errors
from engine import local_files, process_names
from engine.data_files import is_local

# Of a record: the length of the data and its checksum, and that of the data.
_LENGTH_BYTES, _HEADER_BYTES, _FOOTER_BYTES = 8, 12, 4


class EventFile:
  """Takes TensorBoard events, as a tf.summary writer does.

  Events in remote folders are not counted.

  Args:
    folder: of the file; it is made if it is missing. None to write nothing.
  """

  def __init__(self, folder: str | None):
    self._folder = folder or ""
    self._is_counted = bool(folder) and is_local(folder)
    if folder is None:
      self._writer = tf.summary.create_noop_writer()
      return
    suffix = f".{process_names.new_token()}.v2"
    self._writer = tf.summary.create_file_writer(folder, filename_suffix=suffix)
    self._pattern = os.path.join(
      glob.escape(folder), f"events.out.tfevents.*{suffix}"
    )
    self._written = 1  # the version of the format
    self._found = self._end = 0

  @contextlib.contextmanager
  def as_default(self, step: int | None = None) -> Iterator[None]:
    """A block whose tf.summary calls go to this file.

    Args:
      step: of the events, unless they say it.

    Raises:
      tf.errors.OpError: they cannot be written.
    """
    with (
      self._noting_failure(),
      self._writer.as_default(step=None if step is None else np.int64(step)),
      tf.summary.record_if(self._count),
    ):
      yield

  def _count(self) -> bool:
    """Called by TensorFlow before each event: whether it is to be written."""
    self._written += 1
    return True

  @contextlib.contextmanager
  def _noting_failure(self) -> Iterator[None]:
    """After an error, which says more, the events are no longer counted."""
    try:
      yield
    except BaseException:
      self._is_counted = False
      raise

  def flush(self) -> None:
    """Gives the events to the system.

    Raises:
      errors.MachineError: some were lost on the way.
      tf.errors.OpError: they cannot be written.
    """
    with self._noting_failure():
      self._writer.flush()
      self._check()

  def close(self) -> None:
    """Ends the file, and waits until it is on the disk.

    Raises:
      errors.MachineError, tf.errors.OpError: as above.
      OSError: what was written may be lost.
    """
    self._writer.close()
    self._check()
    if self._folder and is_local(self._folder):
      for path in glob.glob(self._pattern):
        local_files.flush(path)
      local_files.flush(self._folder)

  def _check(self) -> None:
    """Counts the events that have arrived since the last time."""
    if not self._is_counted:
      return
    paths = glob.glob(self._pattern)
    if not paths:
      self._is_counted = False
      logging.warning(
        "TensorBoard gets no more events of this program in %s: its file was"
        " deleted.",
        self._folder,
      )
    for path in paths:
      with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while self._end < size:
          file.seek(self._end)
          length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
          self._end += _HEADER_BYTES + length + _FOOTER_BYTES
          self._found += 1
      if self._end != size or self._found != self._written:
        raise errors.MachineError(
          f"Expected {self._written} TensorBoard events in {path}, found"
          f" {self._found}: the disk has failed while they were written. Check"
          " it and its connection; then start the same command again."
        )


def write_scalars(values: Mapping[str, float]) -> None:
  """Writes numbers to the file that is the default, see EventFile.as_default.

  Args:
    values: by TensorBoard tag.
  """
  for tag, value in values.items():
    tf.summary.scalar(tag, np.float32(value))
