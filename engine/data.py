"""The data of a run: its files, what they hold, and their batches.

Data opens the files once and is then handed on. It owns their names, the
reader that fits their records, about how many there are, the order in which
they come, and the naming of those that are bad.

Local files are read by number, see records/shards.py. TensorFlow reads what is
remote (gs://, s3://, hdfs://) or compressed (.gz), one file after the other.
"""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

import errors
import readers
from engine import data_order, remote_files
from engine.data_files import reads_by_number
from engine.data_order import Column, Order, Place
from engine.selected import SelectedRecords, select
from engine.skipped import STOP, Policy, SkippedRecords, listing
from records import messages, selection, shards
from records.messages import BadRecordError

# AutoGraph would rewrite each function for tf.data, which takes a good part of
# a second.
_as_written = tf.autograph.experimental.do_not_convert

# A thread reads about as fast as two cores copy memory; see docs/reading.md.
_READING_THREADS = max((os.cpu_count() or 1) // 2, 1)
# Batches whose records the kernel fetches before they are read.
_BATCHES_AHEAD = 4
_SAMPLED_RECORDS = 64
# A run stops at this number of records without a usable one among them.
_MOST_BAD_IN_A_ROW = 1000
# Records whose segments are evaluated together.
_RECORDS_WITH_SEGMENTS = 8


@contextlib.contextmanager
def naming_file(file: str):
  """Turns what the system says about a file into an error with its name."""
  try:
    yield
  except OSError as error:
    raise _unreadable(file, error) from error


def _unreadable(file: str, error: OSError) -> errors.UserError:
  return errors.of_system(
    error,
    f"Expected a file that can be read, received {file}"
    f" ({error.strerror or error}). Check the disk or the network, then start"
    " again.",
  )


def records_of(
  files: list[str],
  on_damage: Callable[[str, int, BadRecordError], None] | None = None,
) -> Iterator[tuple[str, int, bytes | memoryview]]:
  """Reads all records, in the order of the files.

  Args:
    files: as from find_files.
    on_damage: takes the path, the number and the error of a record that cannot
      be read; None to stop there.

  Yields:
    The path and the number of each record, and its data, valid until the next
    one.

  Raises:
    errors.UserError: a record is damaged, see above; a file cannot be read.
  """
  on_damage = on_damage or SkippedRecords(STOP).add
  how = shards if reads_by_number(files) else remote_files
  for file in files:
    with naming_file(file):
      note = functools.partial(on_damage, file)
      for number, data in how.numbered_records(file, note):
        yield file, number, data


# --------------------------------------------------------------------------
# The data of a run


class Data:
  """Open files of records; see this module.

  Args:
    model_flags: see readers.make_reader.
    files: as from find_files.
    with_labels: whether labels are needed.
    segment_labels: whether the examples are segments, not whole videos.
    for_trained: whether a trained model has fixed the flags.
    policy: what to do about records that cannot be used.
    min_frames: see --min_frames; 0 for none.

  Attributes:
    files: see above.
    file_sizes: bytes of each.
    reader: knows which features are floats.
    by_number: whether the files are read by number.
    skipped: the records that were left out so far.
    num_videos: about how many examples are read of the files, from the mean
      size of the first records, which is right if records are alike. Exact if
      some are left out of local files.
    num_sampled: records that this is computed from.
    largest_label: the largest class index among their labels, or None.

  Raises:
    errors.UserError: the first records are not what the flags say, or there are
      none.
  """

  def __init__(
    self,
    model_flags: dict,
    files: list[str],
    with_labels: bool,
    segment_labels: bool = False,
    for_trained: bool = False,
    policy: Policy = STOP,
    min_frames: int = 0,
  ):
    if segment_labels and not model_flags["frame_features"]:
      received, advice = "--frame_features=False", "add --frame_features=True"
      if for_trained:
        received, advice = "a video-level model", "leave out --segment_labels"
      raise errors.UserError(
        f"Expected frame-level features with --segment_labels, received"
        f" {received}. Segments are cut from frames: {advice}."
      )
    self.files = files
    self.by_number = reads_by_number(files)
    self.skipped = SkippedRecords(policy)
    self.reader = readers.make_reader(
      model_flags, segment_labels=segment_labels
    )
    self.reader.for_trained = for_trained
    self._with_labels = with_labels
    self._selected = select(
      model_flags,
      files,
      with_labels=with_labels,
      segment_labels=segment_labels,
      min_frames=min_frames,
    )
    self._readers: list[shards.RecordReader] = []
    self._lock = threading.Lock()
    self._record_bytes = math.inf  # until the first records are known
    self._num_records = self._num_skipped = self._bad_in_a_row = 0
    self._failure: tuple[tuple[int, ...], errors.UserError] | None = None
    self._look_at_first_records()
    if self._selected:
      self._find_what_is_left(self._selected)

  # ------------------------------------------------------------------------
  # One record after the other

  def _look_at_first_records(self) -> None:
    """Finds out what the records hold, and about how many there are."""
    sizes, labels, num_examples = [], [], 0
    is_configured, is_empty, first_error = False, True, None
    for file, number, data in self._first_records():
      is_first, is_empty = is_empty, False
      place = f"{file}, record {number}: "
      try:
        if not is_configured:
          record = messages.parse_record(data)
          is_configured = self.reader.configure(record)
        batch = self._batch_of_one(data)
      except BadRecordError as error:
        if is_first and not self.skipped.policy.skip:  # the flags are wrong
          raise errors.UserError(place + str(error) + ".") from error
        self.skipped.add(file, number, error)
        first_error = first_error or place + str(error) + "."
        continue
      sizes.append(len(data) + shards.HEADER_BYTES + shards.FOOTER_BYTES)
      num_examples += len(batch["num_frames"])
      rated = batch.get("label_weights", batch.get("labels"))
      if rated is not None:
        labels += np.flatnonzero(rated.any(axis=0)).tolist()
      if is_configured and len(sizes) >= _SAMPLED_RECORDS:
        break
    if is_empty:
      first, *others = self.files
      more = f" and {len(others)} more files" if others else ""
      raise errors.UserError(
        f"Expected records in {first}{more}, found none:"
        f" {listing(self.skipped.counts) or 'all are empty'}."
        " Name other files, or make these again."
      )
    if not sizes:
      raise errors.UserError(
        f"Expected a record that can be used, found none. {first_error}"
      )
    self.file_sizes = [tf.io.gfile.stat(file).length for file in self.files]
    num_bytes = sum(self.file_sizes)
    self._record_bytes = sum(sizes) / len(sizes)
    self.num_videos = max(round(num_bytes / sum(sizes) * num_examples), 1)
    self.num_sampled = len(sizes)
    self.largest_label = int(max(labels)) if labels else None

  def _first_records(self):
    """Reads the records that are used, in the order of the files."""
    if self._selected and self.by_number:
      return self._selected.local_records(self._open, self.skipped.add)
    records = records_of(self.files, self.skipped.add)
    return self._selected.of_remote(records) if self._selected else records

  def _find_what_is_left(self, selected: SelectedRecords) -> None:
    """Finds out how many examples of the files are used.

    Raises:
      errors.UserError: none, or a file cannot be read.
    """
    count = selected.count(self._open if self.by_number else None)
    if self.by_number:
      self.num_videos = max(count.examples, 1)
      # Of what a damaged file has lost, as large a part would be left out.
      self._record_bytes *= count.records / count.videos
    else:
      fraction = count.videos / count.records
      self.num_videos = max(round(self.num_videos * fraction), 1)

  def _batch_of_one(self, data) -> dict[str, np.ndarray]:
    """The batch of one record.

    Raises:
      BadRecordError: it cannot be used.
    """

    def fail(row, error):
      raise error

    batch = self.reader.start_batch(1, self._with_labels)
    batch.add(0, memoryview(data))
    return batch.finish(fail)

  # ------------------------------------------------------------------------
  # Batches

  def check_can_train(self) -> None:
    """Checks what can be known before a run is begun or deleted.

    Raises:
      errors.UserError: bad records of files that TensorFlow reads are to be
        left out.
    """
    if self.skipped.policy.skip and not self.by_number:
      # A place counts examples there, and would count those left out.
      raise errors.UserError(
        "Expected local, uncompressed files to train on with --skip_corrupt,"
        f" received {self.files[0]}. Copy them to a disk of this machine, or"
        " leave the flag out."
      )

  def training_batches(
    self,
    batch_size: int,
    num_epochs: int | None = None,
    seed: int = 0,
    *,
    place: Place = data_order.BEGINNING,
    window_shards: int | None = None,
    num_readers: int = 8,
    worker: int = 0,
    num_workers: int = 1,
    skip_examples: int = 0,
    shuffled_batches: int = 5,
  ) -> tf.data.Dataset:
    """Makes shuffled batches, in an order that only the seed decides.

    A batch may span two epochs; only the last one may be smaller, and one of
    which bad records were left out.

    Args:
      batch_size: examples in a batch of this machine.
      num_epochs: how often each record is read; None or 0 for no end.
      seed: decides the order.
      place: where to begin.
      window_shards: see data_order.Order; None for the default.
      num_readers: the most threads or files to read at the same time.
      worker: which of several machines this is, from 0.
      num_workers: how many machines there are, which take turns.
      skip_examples: where TensorFlow reads, how many examples of this machine
        to leave out at the beginning of the order; they are read. `place` has
        no effect then.
      shuffled_batches: where TensorFlow reads, batches that the shuffle buffer
        holds.

    Returns:
      A dataset of batches; see the docstring of readers.py.
    """
    if not self.by_number:
      return self._remote_training_batches(
        batch_size,
        num_epochs,
        seed,
        num_readers,
        worker,
        num_workers,
        skip_examples,
        shuffled_batches,
      )
    order = self.order(seed, window_shards)
    first, end = worker * batch_size, (worker + 1) * batch_size

    def plans():
      steps = order.batches(place, batch_size * num_workers, num_epochs)
      for table, after, lost in steps:
        numbers = (after.epoch, after.window, after.offset, len(table), lost)
        yield table[first:end], np.array(numbers, np.int64)

    batches = self._read(plans, num_readers, for_training=True)
    if num_workers == 1:  # else all machines have equally many batches
      batches = _without_empty_ones(batches)
    return _ahead(batches)

  def evaluation_batches(
    self, batch_size: int, num_readers: int | None = None
  ) -> tf.data.Dataset:
    """Makes batches of every example once; the last batch may be smaller.

    They come in the order of the files, and of the records in them.

    Args:
      batch_size: examples in a batch.
      num_readers: the most threads that read. Of files that TensorFlow reads,
        so many are read at the same time, in no order that is promised; None to
        keep the order.

    Returns:
      A dataset of batches; see the docstring of readers.py.
    """
    size = batch_size
    if self.reader.segment_labels:  # a record has any number of them
      size = _RECORDS_WITH_SEGMENTS
    if self.by_number:
      order = Order(
        len(self.files), self._open_whole_videos, None, 1, self._record_bytes
      )

      def plans():
        for table, _, lost in order.batches(data_order.BEGINNING, size, 1):
          yield table, np.array((0, 0, 0, len(table), lost), np.int64)

      batches = self._read(plans, num_readers, for_training=False)
    else:
      paths = tf.data.Dataset.from_tensor_slices(self.files)
      records = remote_files.interleave(
        paths,
        min(num_readers or 1, len(self.files)),
        self._selected.filter if self._selected else None,
      )
      batches = self._parse(records.batch(size))
    if self.reader.segment_labels:
      batches = batches.unbatch().batch(batch_size)
    else:
      batches = batches.filter(_as_written(_has_examples))
    return _ahead(batches)

  def order(self, seed: int, window_shards: int | None = None) -> Order:
    """The order of training; see data_order.Order.

    Args:
      seed: decides it.
      window_shards: files in a window; None for the default.
    """
    window_shards = window_shards or data_order.choose_window(self.files)
    open_file = self._open_whole_videos
    if self.reader.segment_labels:
      open_file = self._open_segments
    return Order(
      len(self.files), open_file, seed, window_shards, self._record_bytes
    )

  def _open(self, file: int) -> tuple[shards.Walk, np.ndarray | None]:
    """Walks a file, and counts the examples of its records that are used.

    Returns:
      Its walk; (records,) int32, or None if no record is left out.
    """
    path = self.files[file]
    examples = None
    with naming_file(path):
      walk = shards.kept_walk(path)
      damage = shards.damage_after(path, walk)
      if self._selected:
        examples = self._selected.examples(path, walk)
    if damage:
      lost = walk.lost_records(self._record_bytes)
      self.skipped.add(path, len(walk), damage, num_lost=lost)
    return walk, examples

  def _open_whole_videos(self, file: int):
    """Walks a file; see data_order.Order."""
    walk, examples = self._open(file)
    return walk, None if examples is None else np.minimum(examples, 1)

  def _open_segments(self, file: int):
    """Walks a file and counts the rated segments of its records."""
    path = self.files[file]
    walk, counts = self._open(file)
    if counts is not None:
      return walk, counts
    with naming_file(path):
      counts = shards.kept(path, "segments")
      if counts is None:
        identity = shards.identity_of(path)
        counts = np.ones(len(walk), np.int64)  # also of a bad one, then named
        for number, data in shards.numbered_records(path, lambda *_: None):
          counts[number] = selection.count_segments(data)
        shards.keep(path, "segments", counts, identity)
    return walk, counts

  def _read(self, plans, num_readers: int | None, for_training: bool):
    """Reads batches by their tables.

    Args:
      plans: function that returns an iterator of (table, place and counts).
      num_readers: the most threads.
      for_training: whether batches hold their place.
    """
    spec = self.reader.element_spec(self._with_labels)
    tables = tf.data.Dataset.from_generator(
      lambda: self._read_ahead(plans()),
      output_signature=(
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([None, len(Column)], tf.int64),
        tf.TensorSpec([5], tf.int64),
      ),
    )
    function = functools.partial(self._read_batch, for_training)

    def read(index, table, place):
      batch = _call(function, [index, table, place], spec)
      if for_training:
        batch["place"] = place
      return batch

    threads = min(num_readers or _READING_THREADS, _READING_THREADS)
    return tables.prefetch(_BATCHES_AHEAD).map(
      _as_written(read),
      num_parallel_calls=threads if threads > 1 else None,
      deterministic=True if threads > 1 else None,
    )

  def _read_ahead(self, plans):
    """Numbers plans, and asks the kernel to fetch what they will read."""
    reader = shards.RecordReader(self.files)
    try:
      for index, (table, place) in enumerate(plans):
        for file, _, offset, length, _ in table.tolist():
          with naming_file(self.files[file]):
            reader.read_ahead(file, offset, length)
        yield index, table, place
    except errors.UserError as error:
      self._fail((1 << 62,), error)
      raise

  def _read_batch(self, for_training: bool, index, table, place):
    """Reads a batch by its table; returns arrays by name."""
    rows = table.tolist()
    batch = self.reader.start_batch(len(rows), self._with_labels, for_training)
    num_bad = 0

    def leave_out(row, error):
      nonlocal num_bad
      num_bad += 1
      file, number, *_ = rows[row]
      is_usual = error.kind == "no frames"
      self.skipped.add(self.files[file], number, error, is_usual)

    try:
      with self._record_reader() as reader:
        for row, wanted in self._in_turn(table, for_training):
          file, _, offset, length, _ = rows[row]
          try:
            batch.add(row, reader.read(file, offset, length), *wanted)
          except BadRecordError as error:
            leave_out(row, error)
          except OSError as error:
            raise _unreadable(self.files[file], error) from error
      arrays = batch.finish(leave_out)
      if for_training:  # a bad record may have several rows
        num_bad = len(rows) - len(arrays["num_frames"])
      self._count(len(rows) + int(place[4]), num_bad + int(place[4]))
    except errors.UserError as error:
      self._fail((int(index),), error)
      raise
    return arrays

  def _in_turn(self, table, for_training: bool):
    """The rows of a table to read, and the further arguments of `add` for each.

    The longest record comes first, see records/frames.py. In training, rows
    are single segments, of which those of one record are read together.
    """
    if for_training and self.reader.segment_labels:
      of_record: dict[tuple[int, int], list[int]] = {}
      keys = table[:, [Column.FILE, Column.NUMBER]].tolist()
      for row, key in enumerate(keys):
        of_record.setdefault(tuple(key), []).append(row)
      for rows in of_record.values():
        yield rows[0], (table[rows, Column.EXAMPLE],)
    else:
      longest = int(np.argmax(table[:, Column.LENGTH])) if len(table) else 0
      for row in (*range(longest, len(table)), *range(longest)):
        yield row, ()

  @contextlib.contextmanager
  def _record_reader(self) -> Iterator[shards.RecordReader]:
    """Lends a reader, with its buffer and its open files, to a thread.

    What a thread keeps to itself is lost: to Python, TensorFlow's threads are
    new ones at each call.
    """
    with self._lock:
      reader = self._readers.pop() if self._readers else None
    reader = reader or shards.RecordReader(self.files)
    yield reader
    with self._lock:
      self._readers.append(reader)

  def _count(self, num_records: int, num_skipped: int) -> None:
    with self._lock:
      self._num_records += num_records
      self._num_skipped += num_skipped
      if num_records > num_skipped:
        self._bad_in_a_row = 0
        return
      self._bad_in_a_row += num_records
      is_hopeless = self._bad_in_a_row >= _MOST_BAD_IN_A_ROW
    if is_hopeless:
      raise errors.UserError(
        f"Expected records that can be used, received {self._bad_in_a_row} in a"
        f" row that cannot: {listing(self.skipped.counts)}. Check that the"
        " files are whole and can be read."
      )

  def check_skipped(self) -> None:
    """Checks what an evaluation has left out so far.

    Raises:
      errors.UserError: it is more than the policy allows.
    """
    self.skipped.check(self._num_records, self._num_skipped)

  # ------------------------------------------------------------------------
  # Files that TensorFlow reads

  def _remote_training_batches(
    self,
    batch_size,
    num_epochs,
    seed,
    num_readers,
    worker,
    num_workers,
    skip_examples,
    shuffled_batches,
  ):
    """training_batches of files that cannot be read by number."""
    records = remote_files.shuffled_records(
      self.files,
      num_epochs,
      seed,
      num_files=min(num_readers, len(self.files)),
      num_shuffled=shuffled_batches * batch_size,
      worker=worker,
      num_workers=num_workers,
      select=self._selected.filter if self._selected else None,
    )
    if not self.reader.segment_labels:
      records = records.skip(skip_examples)
      return _ahead(self._parse(records.batch(batch_size)))
    # How many segments a record holds is known only after parsing it.
    segments = self._parse(records.batch(1)).unbatch()
    return _ahead(segments.skip(skip_examples).batch(batch_size))

  def _parse(self, records: tf.data.Dataset) -> tf.data.Dataset:
    """Makes batches of (paths, numbers, serialized records)."""
    spec = self.reader.element_spec(self._with_labels)

    def make_batch(paths, numbers, serialized):
      batch = self.reader.start_batch(len(serialized), self._with_labels)

      def leave_out(row, error):
        self.skipped.add(paths[row].decode(), int(numbers[row]), error)

      try:
        for row, data in enumerate(serialized):
          try:
            batch.add(row, memoryview(data))
          except BadRecordError as error:
            leave_out(row, error)
        arrays = batch.finish(leave_out)
      except errors.UserError as error:
        self._fail((0,), error)
        raise
      return arrays

    return records.map(
      _as_written(lambda *batch: _call(make_batch, batch, spec))
    )

  # ------------------------------------------------------------------------
  # Errors

  def _fail(self, place: tuple[int, ...], error: errors.UserError) -> None:
    """Remembers the error of the earliest batch, for naming_errors."""
    with self._lock:
      if self._failure is None or place < self._failure[0]:
        self._failure = (place, error)

  @contextlib.contextmanager
  def naming_errors(self):
    """A block that takes batches; raises what made a pipeline fail.

    Raises:
      errors.UserError: names the file, the record's number (from 0) and what is
        wrong.
    """
    try:
      yield
    except tf.errors.DataLossError:
      for file in self.files:  # TensorFlow's error does not name it
        for _ in remote_files.numbered_records(file, None):
          pass
      raise
    except tf.errors.OpError as error:
      if self._failure is None:
        raise
      raise self._failure[1] from error


# --------------------------------------------------------------------------
# Datasets


def _ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
  """The same batches, of which two are made ahead of their use.

  tf.data has nothing to tune, since all its numbers are given. Its tuner sleeps
  up to a minute at a time, and whoever frees an iterator waits for it, with all
  threads of Python.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return batches.prefetch(2).with_options(options)


def _has_examples(batch) -> tf.Tensor:
  return tf.shape(batch["num_frames"])[0] > 0


def _without_empty_ones(batches: tf.data.Dataset) -> tf.data.Dataset:
  """Counts the records of empty training batches with those of the next."""

  def add_counts(before, batch):
    place = batch["place"] + tf.pad(before, [[3, 0]])
    after = tf.where(_has_examples(batch), tf.zeros_like(before), place[3:])
    return after, {**batch, "place": place}

  counted = batches.scan(tf.zeros([2], tf.int64), _as_written(add_counts))
  return counted.filter(_as_written(_has_examples))


def _call(function, inputs, spec) -> dict[str, tf.Tensor]:
  """Makes a batch by a function on NumPy arrays that returns arrays by name."""

  def in_order(*arrays):
    batch = function(*arrays)
    return [batch[name] for name in spec]

  tensors = tf.numpy_function(
    in_order, inputs, [part.dtype for part in spec.values()]
  )
  return {
    name: tf.ensure_shape(tensor, part.shape)
    for tensor, (name, part) in zip(tensors, spec.items(), strict=True)
  }
