"""Parts of training data, for scores against the amount of data.

A smaller part is contained in every larger one of the same kind, whole files or
videos. The choice depends only on the names of files, or on the ids of videos:
not on chance, and not on the order. So video-level and frame-level records of
the same videos give the same part.
"""

import glob
import os
import shutil
from collections.abc import Sequence

import errors
from engine import files as files_in_place
from engine.data import records_of
from engine.data_files import is_local
from engine.progress_bar import Progress
from records import contents, messages
from records.writing import RecordWriter
from reports.mixtures import hash_of

# With as many files in the smallest part, files are about as good as videos.
_ENOUGH_FILES = 10
_VOCABULARY = "vocabulary.csv"


def are_enough_files(num_files: int, smallest: float) -> bool:
  """Whether all parts are whole files: else they are videos, and all nested.

  Args:
    num_files: of the whole data.
    smallest: of the fractions.
  """
  return round(smallest * num_files) >= _ENOUGH_FILES


def choose_files(files: Sequence[str], fraction: float) -> list[str]:
  """Chooses a part of files by their names.

  Args:
    files: of the whole data.
    fraction: from above 0 to below 1.

  Returns:
    Some of them, in order.
  """
  count = round(fraction * len(files))
  by_hash = sorted(
    files, key=lambda file: hash_of(os.fsencode(os.path.basename(file)))
  )
  return sorted(by_hash[:count])


def part_of_data(
  files: Sequence[str], fraction: float, folder: str, by_files: bool
) -> str:
  """Makes a folder with a part of the data, unless it is there.

  Local files are linked; if videos are chosen, records are copied.

  Args:
    files: of the whole data.
    fraction: from above 0 to below 1.
    folder: for the part; it appears when it is complete.
    by_files: whether whole files are chosen; the same for all fractions.

  Returns:
    A pattern of the files of the part.

  Raises:
    errors.UserError: a record is damaged, or no video would be left.
  """
  chosen = choose_files(files, fraction) if by_files else []
  if chosen and not all(map(is_local, chosen)):
    return ",".join(file.replace(",", "\\,") for file in chosen)
  literal = glob.escape(folder).replace(",", "\\,")
  pattern = os.path.join(literal, "*.tfrecord*")
  if os.path.isdir(folder):
    return pattern
  os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
  with files_in_place.beside(os.path.abspath(folder)) as aside:
    os.mkdir(aside)
    if chosen:
      for number, file in enumerate(chosen):
        ending = ".gz" if file.endswith(".gz") else ""
        name = f"part{number:05d}.tfrecord{ending}"
        os.symlink(os.path.abspath(file), os.path.join(aside, name))
    else:
      _copy_records(files, fraction, aside)
    _copy_vocabulary(files[0], aside)
    files_in_place.put_in_place(aside, os.path.abspath(folder))
  return pattern


def _copy_vocabulary(file: str, folder: str) -> None:
  """Copies the names of the classes, where readers of the data find them."""
  near = os.path.dirname(os.path.abspath(file))
  for place in (near, os.path.dirname(near)):
    path = os.path.join(place, _VOCABULARY)
    if is_local(file) and os.path.isfile(path):
      shutil.copyfile(path, os.path.join(folder, _VOCABULARY))
      return


def _video_hashes(files: Sequence[str]) -> list[int]:
  """The hash of each video's id, in the order of the records.

  Raises:
    errors.UserError: a record has no id.
  """
  hashes = []
  progress = Progress("Divided")
  for place, file in enumerate(files):
    for _, number, data in records_of([file]):
      try:
        video_id = contents.video_id(messages.parse_record(data).context)
      except messages.BadRecordError as error:
        raise errors.UserError(f"{file}, record {number}: {error}.") from error
      hashes.append(hash_of(bytes(video_id)))
      if progress.is_due():
        progress.show(place / len(files), f"{len(hashes)} videos")
  progress.end()
  return hashes


def _copy_records(files, fraction, folder) -> None:
  """Copies the videos with the smallest hashes; see part_of_data."""
  hashes = _video_hashes(files)
  count = round(fraction * len(hashes))
  if not count:
    raise errors.UserError(
      f"Expected --data_fractions that leave a video, received {fraction:g} of"
      f" {len(hashes)} videos. Name larger ones."
    )
  # Several videos with one id share a hash; the part takes some of them.
  by_hash = sorted(range(len(hashes)), key=lambda place: hashes[place])
  kept = set(by_hash[:count])
  place = 0
  for number, file in enumerate(files):
    path = os.path.join(folder, f"part{number:05d}.tfrecord")
    with RecordWriter(path) as writer:
      for _, _, data in records_of([file]):
        if place in kept:
          writer.write(bytes(data))
        place += 1
    if not writer.num_bytes:
      os.remove(path)
