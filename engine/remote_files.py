"""Files that TensorFlow reads, from their beginning: remote or compressed."""

from collections.abc import Callable, Iterator

import tensorflow as tf

import errors

# AutoGraph would rewrite each function for tf.data, which takes a good part of
# a second.
_as_written = tf.autograph.experimental.do_not_convert

# A remote file is read in pieces of this size, because each read is a request.
_BUFFER_BYTES = 1 << 20


def interleave(
  paths: tf.data.Dataset,
  num_files: int,
  select: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
) -> tf.data.Dataset:
  """Reads the records of some files at a time, in a fixed order.

  Args:
    paths: dataset of their names.
    num_files: read at the same time.
    select: leaves out records of a dataset like the result; None for none.

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
    records = records.enumerate().map(
      _as_written(lambda number, data: (path, number, data))
    )
    return select(records) if select else records

  parallel = num_files > 1
  return paths.interleave(
    _as_written(read),
    cycle_length=num_files,
    num_parallel_calls=num_files if parallel else None,
    deterministic=True if parallel else None,
  )


def shuffled_records(
  files: list[str],
  num_epochs: int | None,
  seed: int,
  *,
  num_files: int,
  num_shuffled: int,
  worker: int,
  num_workers: int,
  select: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
) -> tf.data.Dataset:
  """Reads files again and again, shuffled, in an order that the seed decides.

  Each epoch has its own order of the files, which are read num_files at a time;
  their records are shuffled in a buffer.

  Args:
    files: their names.
    num_epochs: how often each record is read; None or 0 for no end.
    seed: decides the order.
    num_files: read at the same time.
    num_shuffled: records in the buffer.
    worker: which of several machines this is, from 0.
    num_workers: how many there are; each reads its own files in an epoch.
    select: see interleave.

  Returns:
    See interleave.
  """
  epochs = (
    tf.data.Dataset.range(num_epochs)
    if num_epochs
    else tf.data.Dataset.counter()
  )

  def epoch_records(epoch):
    # Where the files do not divide evenly among the machines, other ones get
    # one more in the next epoch.
    epoch_seed = tf.constant(seed, tf.int64) * 1_000_003 + epoch
    paths = tf.data.Dataset.from_tensor_slices(files).shuffle(
      len(files), seed=epoch_seed, reshuffle_each_iteration=False
    )
    paths = paths.shard(num_workers, (worker + epoch) % num_workers)
    return interleave(paths, num_files, select).shuffle(
      num_shuffled, seed=epoch_seed, reshuffle_each_iteration=False
    )

  return epochs.flat_map(_as_written(epoch_records))


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
