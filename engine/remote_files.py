"""Files that TensorFlow reads, from their beginning: remote or compressed."""

from collections.abc import Iterator

import tensorflow as tf

import errors

# AutoGraph would rewrite each function for tf.data, which takes a good part of
# a second.
_as_written = tf.autograph.experimental.do_not_convert

# A remote file is read in pieces of this size, because each read is a request.
_BUFFER_BYTES = 1 << 20


def interleave(paths: tf.data.Dataset, num_files: int) -> tf.data.Dataset:
  """Reads the records of some files at a time, in a fixed order.

  Args:
    paths: dataset of their names.
    num_files: read at the same time.

  Returns:
    A dataset of (path, number of the record, its data).
  """

  def read(path):
    is_gzip = tf.strings.regex_full_match(path, r".*\.gz")
    records = tf.data.TFRecordDataset(
      path,
      compression_type=tf.where(is_gzip, "GZIP", ""),
      buffer_size=_BUFFER_BYTES,
    )
    return records.enumerate().map(
      _as_written(lambda number, data: (path, number, data))
    )

  parallel = num_files > 1
  return paths.interleave(
    _as_written(read),
    cycle_length=num_files,
    num_parallel_calls=num_files if parallel else None,
    deterministic=True if parallel else None,
  )


def numbered_records(path: str, on_damage) -> Iterator[tuple[int, bytes]]:
  """As records.shards.numbered_records, but damage ends it.

  Args:
    path: of a file.
    on_damage: unused.

  Yields:
    The number of each record, from 0, and its data.

  Raises:
    errors.UserError: a record is damaged. No later one can be found.
  """
  del on_damage
  number = 0
  try:
    records = interleave(tf.data.Dataset.from_tensors(path), 1)
    for _, _, data in records.as_numpy_iterator():
      yield number, data
      number += 1
  except tf.errors.DataLossError as error:
    raise errors.UserError(
      f"{path}, record {number}: expected a whole TFRecord, received one that"
      " is damaged or cut off, or the file is not a TFRecord file; download or"
      " make the file again."
    ) from error
