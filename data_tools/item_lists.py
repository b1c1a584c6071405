"""Files that list items with their labels: CSV tables, and JSON by id."""

import csv
from collections.abc import Iterator, Sequence

import errors
from data_tools.item_table import BadItemError
from engine.dataset_card import SPLITS

# Columns that a table may have besides those that it must have.
_OPTIONAL = ("split", "id", "group")
_LABELS_FORM = "JSON of {id: category} or of [id, category] pairs"


def split_labels(text: str) -> list[str]:
  """The labels in a text, which semicolons separate."""
  return [label.strip() for label in text.split(";") if label.strip()]


def categories_of(value: object) -> list[str]:
  """The labels that a value of JSON or of a table stands for.

  Args:
    value: a name, a number, a list of them, or None. A whole number may be a
      float, and NaN is no label: tables make these of a column with gaps.

  Raises:
    BadItemError: it is something else.
  """
  values = value if isinstance(value, list) else [value]
  labels = [_label_of(one) for one in values if one is not None and one == one]
  return [label for label in labels if label]


def labels_of(value: object) -> list[str]:
  """As categories_of, but semicolons in a text separate labels."""
  if isinstance(value, (str, bytes)):
    return split_labels(_label_of(value))
  return categories_of(value)


def text_of(value: object) -> str:
  """The group or split that a value of JSON or of a table stands for.

  Args:
    value: a name, a number, or None. As in categories_of, a whole number may be
      a float, and NaN is none.

  Raises:
    BadItemError: it is something else.
  """
  if isinstance(value, list):
    raise BadItemError(f"expected a name or a number, found {str(value)[:40]}")
  return "".join(categories_of(value))


def known_split(split: str) -> tuple[str, str]:
  """The split; of one that does not exist, none, and what is wrong."""
  if split in ("", *SPLITS):
    return split, ""
  return "", f"the split {split}, expected {', '.join(SPLITS)}"


def _label_of(value: object) -> str:
  if isinstance(value, bytes):  # as some writers of parquet store texts
    value = value.decode(errors="backslashreplace")
  if isinstance(value, float) and value.is_integer():
    return str(int(value))
  if not isinstance(value, (str, int, float)):
    raise BadItemError(
      "expected a name, a number or a list of these as its labels, found"
      f" {str(value)[:40]}"
    )
  return str(value).strip()


def read_rows(
  path: str, flag: str, columns: Sequence[str]
) -> Iterator[dict[str, str]]:
  """Yields the lines of a CSV, as {column: value}, without spaces around both.

  Args:
    path: of the CSV, whose first line names its columns.
    flag: that names the CSV.
    columns: that it must have.

  Raises:
    errors.UserError: it cannot be read, a column is missing or there twice, or
      a line has more values than there are columns.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      rows = csv.reader(file)
      found = [name.strip() for name in next(rows, [])]
      missing = [name for name in columns if name not in found]
      if missing:
        listed, advice = ", ".join(found), ""
        if len(found) == 1 and (";" in listed or "\t" in listed):
          advice = " Separate the columns by commas."
        raise errors.UserError(
          f"Expected the column {missing[0]} in --{flag}={path}, found"
          f" {listed or 'nothing'}. Its first line names the columns:"
          f" {','.join(columns)} and, if wanted, split, id and group.{advice}"
        )
      _check_columns(found, (*columns, *_OPTIONAL), f"--{flag}={path}")
      for row in rows:
        values = [value.strip() for value in row]
        if any(values[len(found) :]):
          raise errors.UserError(
            f"Expected {len(found)} values in line {rows.line_num} of"
            f" --{flag}={path}, as in its first line, found {len(values)}. Put"
            " semicolons between labels, and quotes around a value with a"
            " comma."
          )
        if any(values):
          values += [""] * (len(found) - len(values))
          yield dict(zip(found, values, strict=False))
  except OSError as error:
    raise errors.UserError(
      f"Expected a file that can be read, received --{flag}={path}"
      f" ({error.strerror})."
    ) from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.UserError(
      f"Expected a CSV in UTF-8, received --{flag}={path} ({error})."
    ) from error


def _check_columns(found: list[str], used: Sequence[str], source: str) -> None:
  """Checks that a table has each column once that is used.

  Raises:
    errors.UserError: names the two.
  """
  for name in used:
    if found.count(name) > 1:
      first = found.index(name)
      second = found.index(name, first + 1)
      raise errors.UserError(
        f"Expected each column once in {source}, found {name} as the columns"
        f" {first + 1} and {second + 1}. Give one of them another name."
      )


def read_labels(path: str, or_else: str = "") -> list[tuple[str, object]]:
  """Reads the categories by id of --labels.

  Args:
    path: JSON that maps each id to a category or a list of categories, or
      lists [id, category] pairs.
    or_else: what else a program takes as --labels, for messages.

  Returns:
    (id, category or categories) pairs, in the order of the file; see
    categories_of. An id that the file has twice is there twice.

  Raises:
    errors.UserError: it cannot be read or is something else.
  """
  try:
    with open(path, encoding="utf-8") as file:
      # As pairs, since a dict would keep the last of several equal ids alone.
      content = errors.parse_json(file.read(), object_pairs_hook=list)
  except OSError as error:
    raise errors.UserError(
      f"Expected a file that can be read, received --labels={path}"
      f" ({error.strerror})."
    ) from error
  except ValueError as error:
    advice = "" if or_else else " A CSV with path and labels is a --manifest."
    raise errors.UserError(
      f"Expected {or_else}{_LABELS_FORM} as --labels={path}, received something"
      f" else ({error}).{advice}"
    ) from error
  if not isinstance(content, list) or not all(map(_is_pair, content)):
    raise errors.UserError(
      f"Expected {or_else}{_LABELS_FORM} as --labels={path}, received something"
      " else."
    )
  return [(str(name), category) for name, category in content]


def _is_pair(value: object) -> bool:
  if not isinstance(value, (list, tuple)) or len(value) != 2:
    return False
  return isinstance(value[0], (str, int))


def read_labels_once(path: str) -> dict[str, object]:
  """As read_labels, of a file that must have each id once.

  Raises:
    errors.UserError: see read_labels; an id is there twice.
  """
  found: dict[str, object] = {}
  for name, category in read_labels(path):
    if name in found:
      raise errors.UserError(
        f"Expected each id once in --labels={path}, found {name} twice. Give"
        " all categories of an id in one list."
      )
    found[name] = category
  return found
