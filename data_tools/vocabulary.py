"""The names of classes: reads vocabularies, and has YouTube-8M's.

youtube8m_vocabulary.csv, beside this file, holds facts of the YouTube-8M data
set (Google, CC BY 4.0) in its 2018 release: index, number of training videos,
knowledge graph id, name and verticals of each class. See docs/formats.md.
"""

import csv
import io
import os

import tensorflow as tf
from absl import logging

import errors
from data_tools.text_table import cut
from engine import csv_cells
from engine.data_files import is_local

YOUTUBE_8M_FILE = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), "youtube8m_vocabulary.csv"
)
NUM_YOUTUBE_8M_CLASSES = 3862

_FILE_NAME = "vocabulary.csv"
_SHOWN = 40  # columns of what a message names
# The columns of the index, the name and the knowledge graph id, which need not
# be there: of YouTube-8M, and of AudioSet's class_labels_indices.csv.
_COLUMNS = (
  ("Index", "Name", "KnowledgeGraphId"),
  ("index", "display_name", "mid"),
)


def read_names(path: str) -> dict[int, str]:
  """Reads the names of classes.

  Args:
    path: a CSV file with the columns Index and Name, or index and display_name.

  Returns:
    {class index: name}. A class without a name has its knowledge graph id, or
    an empty text without this.

  Raises:
    errors.UserError: the file is not such a CSV.
    tf.errors.OpError: it cannot be read.
  """
  names = {}
  try:
    with tf.io.gfile.GFile(path) as file:
      # The lines of a GFile would have no carriage returns.
      text = file.read().removeprefix("\ufeff")  # as spreadsheets write it
      rows = csv.DictReader(io.StringIO(text, newline=""))
      found = rows.fieldnames or ["nothing"]
      columns = [want for want in _COLUMNS if set(want[:2]) <= set(found)]
      if not columns:
        raise errors.UserError(
          "Expected the columns Index and Name, or index and display_name, in"
          f" --vocabulary={path}, found {', '.join(found)}. The sample data"
          " comes with such a vocabulary.csv, see also docs/formats.md."
        )
      index_column, name_column, id_column = columns[0]
      for row in rows:
        index = row[index_column] or ""
        if not csv_cells.is_index(index):
          raise errors.UserError(
            f"Expected a class index in the column {index_column} of {path},"
            f" line {rows.line_num}, found {cut(index, _SHOWN)!r}. Number the"
            " classes from 0 on."
          )
        name = row[name_column] or row.get(id_column) or ""
        if names.setdefault(int(index), name) != name:
          raise errors.UserError(
            f"Expected one name of each class in {path}, found a second one of"
            f" class {int(index)} in line {rows.line_num}: {name!r} after"
            f" {names[int(index)]!r}. Delete one of the two rows."
          )
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.UserError(
      f"Expected a CSV file in UTF-8 as --vocabulary={path}, received another"
      f" one ({error}). Save it as such, or name another file."
    ) from error
  return names


def _name_each(names: dict[int, str], num_classes: int) -> list[str]:
  return [names.get(index) or f"class {index}" for index in range(num_classes)]


def read_class_names(path: str, num_classes: int) -> list[str]:
  """Reads a name for each class of a model; warns if the file does not fit.

  Args:
    path: see read_names.
    num_classes: classes of the model.

  Returns:
    A name for each class; "class N" where the file has none.

  Raises:
    errors.UserError: see read_names.
    tf.errors.OpError: as above.
  """
  names = read_names(path)
  largest = max(names, default=-1)
  if largest + 1 != num_classes:
    logging.warning(
      "%s has the classes 0 to %d, but the model has %d classes. Set"
      " --vocabulary=FILE to the vocabulary of its training data.",
      path,
      largest,
      num_classes,
    )
  return _name_each(names, num_classes)


def find_vocabulary(files: list[str], num_classes: int) -> str:
  """Finds the vocabulary of data whose user named none.

  It is the vocabulary.csv in the folder of the files or in the one above, if it
  has these classes; else YouTube-8M's, if there are as many.

  Args:
    files: of the data.
    num_classes: of it.

  Returns:
    Its path; empty if there is none.
  """
  folder = os.path.dirname(os.path.abspath(files[0]))
  for near in (folder, os.path.dirname(folder)):
    path = os.path.join(near, _FILE_NAME)
    if not is_local(files[0]) or not os.path.isfile(path):
      continue
    try:
      names = read_names(path)
    except (errors.UserError, tf.errors.OpError):  # a file of someone else
      continue
    if sorted(names) == list(range(num_classes)):
      return path
  return YOUTUBE_8M_FILE if num_classes == NUM_YOUTUBE_8M_CLASSES else ""


def default_class_names(files: list[str], num_classes: int) -> list[str] | None:
  """The names of the classes of a model whose user named no vocabulary.

  A model with as many classes as YouTube-8M has these. But other data may have
  as many, such as the sample data, whose vocabulary lies in the folder of the
  data set.

  Args:
    files: the data to predict.
    num_classes: classes of the model.

  Returns:
    A name for each class, or None if they are not known.
  """
  if num_classes != NUM_YOUTUBE_8M_CLASSES:
    return None
  path = find_vocabulary(files, num_classes)
  logging.info("Names of the classes: %s", path)
  return _name_each(read_names(path), num_classes)
