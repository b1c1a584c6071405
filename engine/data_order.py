"""The order in which the examples of a data set are read.

A reader, see readers.py, turns records into batches; this file decides which
records come when, and names the record that made reading fail.
"""

import contextlib
import dataclasses
import itertools

import tensorflow as tf
from absl import logging

import errors
import readers
from records import contents, shards

_READ_ERRORS = (
  tf.errors.InvalidArgumentError,
  tf.errors.DataLossError,
  UnicodeDecodeError,  # from a message that quotes the bytes of the record
)

# A small record is read much faster together with many others. A local
# frame-level one is large enough to be read without the buffer, which saves a
# copy; a remote file needs the buffer, because each read is a request.
_READ_BUFFER_BYTES = 1 << 20


def training_batches(
  reader: readers.Reader,
  files: list[str],
  batch_size: int,
  num_epochs: int | None = None,
  seed: int = 0,
  skip_examples: int = 0,
  num_readers: int = 8,
  worker: int = 0,
  num_workers: int = 1,
  shuffled_batches: int = 5,
) -> tf.data.Dataset:
  """Makes shuffled batches with labels, in an order that only the seed decides.

  Each epoch has its own order of the files, which are read num_readers at a
  time; their records are shuffled in a buffer. A batch may span two epochs;
  only the last one may be smaller.

  Args:
    reader: as from readers.open_reader.
    files: TFRecord files.
    batch_size: examples in a batch.
    num_epochs: how often each record is read; None or 0 for no end.
    seed: decides the order.
    skip_examples: how many examples at the beginning of that order to leave
      out, so that a resumed run continues where it stopped. They are read but
      not parsed.
    num_readers: files read at the same time.
    worker: which of several machines this is, from 0.
    num_workers: how many machines there are; each reads different files.
    shuffled_batches: batches that the shuffle buffer holds.

  Returns:
    A dataset of batches; see the docstring of readers.py.
  """
  epochs = (
    tf.data.Dataset.range(num_epochs)
    if num_epochs
    else tf.data.Dataset.counter()
  )
  records = epochs.flat_map(
    readers.as_written(
      lambda epoch: _epoch_records(
        reader,
        files,
        epoch,
        seed,
        num_readers,
        shuffled_batches * batch_size,
        worker,
        num_workers,
        skip_examples > 0,
      )
    )
  )
  if reader.one_example_per_record:
    batches = reader.batches(records.skip(skip_examples), batch_size, True)
  else:
    # How many segments a record holds is known only after parsing it.
    batches = (
      reader.batches(records, 1, True)
      .unbatch()
      .skip(skip_examples)
      .batch(batch_size)
    )
  return batches.prefetch(2)


def evaluation_batches(
  reader: readers.Reader,
  files: list[str],
  batch_size: int,
  with_labels: bool = True,
  num_readers: int = 8,
) -> tf.data.Dataset:
  """Makes batches of every example once; the last batch may be smaller.

  Args:
    reader: as from readers.open_reader.
    files: TFRecord files.
    batch_size: examples in a batch.
    with_labels: False for prediction: the records then need no labels.
    num_readers: files read at the same time; 1 keeps the order of the files
      and of the records in them.

  Returns:
    A dataset of batches; see the docstring of readers.py.
  """
  if num_readers > 1:
    records = _interleave(
      reader, tf.data.Dataset.from_tensor_slices(files), files, num_readers
    )
  else:
    records = tf.data.TFRecordDataset(
      files, buffer_size=_read_buffer_bytes(reader, files)
    )
  return reader.batches(records, batch_size, with_labels).prefetch(2)


def _epoch_records(
  reader,
  files,
  epoch,
  seed,
  num_readers,
  shuffle_buffer,
  worker,
  num_workers,
  skips,
):
  """Reads one epoch's records in an order that seed and epoch decide.

  The files are divided among the machines. Where they do not divide evenly,
  other machines get one more in the next epoch.
  """
  epoch_seed = tf.constant(seed, tf.int64) * 1_000_003 + epoch
  paths = tf.data.Dataset.from_tensor_slices(files).shuffle(
    len(files), seed=epoch_seed, reshuffle_each_iteration=False
  )
  paths = paths.shard(num_workers, (worker + epoch) % num_workers)
  records = _interleave(reader, paths, files, num_readers, skips)
  return records.shuffle(
    shuffle_buffer, seed=epoch_seed, reshuffle_each_iteration=False
  )


def _interleave(reader, paths, files, num_readers, skips=False):
  """Reads the records of num_readers files at a time, in a fixed order.

  With skips, the first records are left out. They are then read as fast as
  possible, because there is no other work until the first one that counts.
  """
  cycle_length = min(num_readers, len(files))
  buffer_size = _read_buffer_bytes(reader, files)
  shares_cores = _has_large_local_records(reader, files) and not skips
  calls = readers.HALF_THE_CORES if shares_cores else readers.PARALLEL_CALLS
  calls = min(calls, cycle_length)
  return paths.interleave(
    readers.as_written(
      lambda path: tf.data.TFRecordDataset(path, buffer_size=buffer_size)
    ),
    cycle_length=cycle_length,
    # A single call at a time is made without threads, and in the same order.
    num_parallel_calls=calls if calls > 1 else None,
    deterministic=True if calls > 1 else None,
  )


def _read_buffer_bytes(reader, files) -> int:
  return 0 if _has_large_local_records(reader, files) else _READ_BUFFER_BYTES


def _has_large_local_records(reader, files) -> bool:
  """Tells whether reading is work for the processor, in large pieces."""
  is_local = all(shards.is_local(file) for file in files)
  return is_local and isinstance(reader, readers.YT8MFrameFeatureReader)


@dataclasses.dataclass(frozen=True)
class Survey:
  """What a look at the first records of a data set tells.

  Attributes:
    num_videos: estimate of the examples in all files, from the mean size of
      the sampled records; right if records are alike.
    num_sampled: records looked at.
    largest_label: the largest class index among their labels; None if they have
      none.
  """

  num_videos: int
  num_sampled: int
  largest_label: int | None


def survey(
  files: list[str], segment_labels: bool = False, num_sampled: int = 64
) -> Survey:
  """Looks at the first records of the files.

  Args:
    files: TFRecord files, with at least one record.
    segment_labels: whether rated segments are the examples, not whole videos.
    num_sampled: how many records to look at.
  """
  sizes, labels, num_segments = [], [], 0
  records = tf.data.TFRecordDataset(files).take(num_sampled)
  for serialized in records.as_numpy_iterator():
    sizes.append(len(serialized) + 16)  # a length and two checksums
    with contextlib.suppress(errors.UserError):  # reading it will tell
      context = contents.parse_record(serialized).context.feature
      for name in ("labels", "segment_labels"):
        labels += context[name].int64_list.value if name in context else []
      if "segment_start_times" in context:
        starts = context["segment_start_times"].int64_list.value
        num_segments += len(set(starts))
  num_bytes = sum(tf.io.gfile.stat(file).length for file in files)
  examples = num_segments if segment_labels else len(sizes)
  return Survey(
    round(num_bytes / sum(sizes) * examples),
    len(sizes),
    max(labels, default=None),
  )


@contextlib.contextmanager
def naming_bad_record(
  reader: readers.Reader, files: list[str], with_labels: bool
):
  """Finds the record that made a pipeline fail, and says what is wrong.

  The pipeline itself carries no file names, so that it stays fast. After it
  failed in the block, the files are read again: first the first record of each,
  which shows a wrong file, then all records.

  Args:
    reader: of the pipeline.
    files: that it reads.
    with_labels: whether it reads labels.

  Raises:
    errors.UserError: names the file, the record's number (from 0) and what is
      wrong. If every record is good, the pipeline's own error is raised.
  """
  try:
    yield
  except _READ_ERRORS:
    _find_bad_record(reader, files, with_labels)
    raise


def _find_bad_record(reader, files, with_labels) -> None:
  """Raises the UserError of naming_bad_record, if a record is bad."""
  logging.info("A record could not be read; looking for it in the data.")
  for file in files:
    _check_records(reader, file, with_labels, 1)
  for index, file in enumerate(files):
    if index % 10 == 0 and index:
      logging.info("Checked %d of %d files.", index, len(files))
    _check_records(reader, file, with_labels)


def _check_records(reader, file, with_labels, limit=None) -> None:
  """Checks the first `limit` records of a file, or all of them."""
  records = itertools.islice(shards.numbered_records(file), limit)
  for number, serialized in records:
    with shards.naming_record(file, number):
      reader.check_record(serialized, with_labels)
