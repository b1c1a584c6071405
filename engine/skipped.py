"""Records that cannot be used: counts them, lists them, or stops at the first.

A list is a CSV file, skipped_records.csv, with the columns file, record, kind
and problem. A machine that is not the chief writes a list with its number in
the name.
"""

import collections
import contextlib
import csv
import dataclasses
import io
import os
import threading
from collections.abc import Mapping

import tensorflow as tf
from absl import logging

import errors
from engine import csv_cells
from engine.files import text_written_aside
from records.messages import BadRecordError

_COLUMNS = ("file", "record", "kind", "problem")

# The fraction of bad records is judged from this number of records on.
ENOUGH_RECORDS = 1000


@dataclasses.dataclass(frozen=True)
class Policy:
  """What to do about records that cannot be used.

  Attributes:
    skip: leave them out; False: stop at the first one.
    max_fraction: the largest part of the records that may be left out.
    path: of the list to write; empty for none.
  """

  skip: bool = False
  max_fraction: float = 0.01
  path: str = ""

  def listing_in(self, folder: str, worker: int = 0) -> "Policy":
    """The same policy, with a machine's list in a folder."""
    name = f"skipped_records{f'-{worker}' if worker else ''}.csv"
    return dataclasses.replace(self, path=os.path.join(folder, name))


STOP = Policy()


def listing(counts: Mapping[str, int]) -> str:
  """Lists how many records there are of each kind: "2 checksum, 1 cut off"."""
  return ", ".join(
    f"{number} {kind}" for kind, number in sorted(counts.items())
  )


class SkippedRecords:
  """What was left out of some data; may be used by several threads.

  Args:
    policy: see Policy.

  Attributes:
    policy: see above.
  """

  def __init__(self, policy: Policy):
    self.policy = policy
    self._found: dict[tuple[str, int], tuple[str, str]] = {}
    self._lost: dict[str, int] = {}
    self._lock = threading.Lock()
    self._num_written = 0

  def continue_list(self) -> None:
    """Continues the list that an earlier start of the run wrote."""
    path = self.policy.path
    if not path or not tf.io.gfile.exists(path):
      return
    with tf.io.gfile.GFile(path, "rb") as file:
      text = file.read().decode("utf-8", "replace")
    with contextlib.suppress(csv.Error, ValueError):  # what follows is no list
      for row in csv.DictReader(io.StringIO(text)):
        if all(row.get(name) for name in _COLUMNS) and row["record"].isdigit():
          file, problem = (
            os.fsdecode(csv_cells.original_bytes(row[name]))
            for name in ("file", "problem")
          )
          self._found[file, int(row["record"])] = row["kind"], problem
    self._num_written = len(self._found)

  def add(
    self,
    file: str,
    number: int,
    error: BadRecordError,
    always: bool = False,
    num_lost: int = 0,
  ) -> None:
    """Takes a record that cannot be used.

    Args:
      file: path of its file.
      number: of the record in it, from 0.
      error: what is wrong.
      always: whether it is left out whatever the policy says.
      num_lost: about how many records the file has from there on, where a
        damaged length hides the others.

    Raises:
      errors.UserError: the policy is to stop; names the record.
    """
    if not self.policy.skip and not always:
      raise errors.UserError(
        f"{file}, record {number}: {error}. To leave such records out and"
        " continue, add --skip_corrupt; python -m data_tools.verify_data checks"
        " all records."
      )
    with self._lock:
      self._found.setdefault((file, number), (error.kind, str(error)))
      if num_lost > 1:
        self._lost[file] = num_lost

  @property
  def counts(self) -> dict[str, int]:
    """How many records were left out, by kind; each record counts once."""
    with self._lock:
      return dict(collections.Counter(kind for kind, _ in self._found.values()))

  @property
  def rows(self) -> list[tuple[str, int, str, str]]:
    """The list: file, record, kind and problem, in the order of the files."""
    with self._lock:
      return [(*key, *value) for key, value in sorted(self._found.items())]

  def write(self, always: bool = False) -> None:
    """Writes the list, if there is something new in it.

    Args:
      always: write it even if not, also an empty one.
    """
    rows = self.rows
    if not self.policy.path:
      return
    if len(rows) == self._num_written and not always:
      return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for file, number, kind, problem in rows:
      texts = (csv_cells.to_text(file), number, kind)
      writer.writerow((*texts, csv_cells.to_text(problem)))
    with text_written_aside(self.policy.path) as file:
      file.write(text.getvalue())
    self._num_written = len(rows)

  def list_nowhere(self) -> None:
    """Writes no list any more: its folder is read-only."""
    self.policy = dataclasses.replace(self.policy, path="")

  def write_over(self) -> None:
    """Writes the list as `write` does, also an empty one over an earlier one.

    That one is of other data, unless the list was continued.
    """
    path = self.policy.path
    self.write(always=bool(path) and tf.io.gfile.exists(path))

  def log(self) -> None:
    """Says how many records were left out, if any were."""
    counts = self.counts
    if not counts:
      return
    where = f", listed in {self.policy.path}" if self.policy.path else ""
    with self._lock:
      num_hidden = sum(self._lost.values()) - len(self._lost)
    after = ""
    if num_hidden:
      after = f", and about {num_hidden} after them that cannot be found"
    logging.warning(
      "Left out %d records (%s)%s%s.",
      sum(counts.values()),
      listing(counts),
      where,
      after,
    )

  def check(self, num_records: int, num_skipped: int) -> None:
    """Checks that not too many records of an epoch were left out.

    If the policy is to stop, only videos without frames are: any number may.

    Args:
      num_records: of the epoch so far, of all machines.
      num_skipped: how many of them were left out.

    Raises:
      errors.UserError: they are more than the policy allows.
    """
    if not self.policy.skip or num_records < ENOUGH_RECORDS:
      return
    if num_skipped <= self.policy.max_fraction * num_records:
      return
    self.write()
    where = f" ({self.policy.path} lists them)" if self.policy.path else ""
    raise errors.UserError(
      f"Expected at most {self.policy.max_fraction:.2%} of the records to be"
      f" unusable, received {num_skipped} of {num_records}{where}. Check that"
      " the files are whole and can be read, or raise --max_corrupt_fraction."
    )
