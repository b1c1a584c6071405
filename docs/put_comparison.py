"""Puts a comparison's table and picture into README.md: `make compare`.

  python -m docs.put_comparison DIR

DIR is the --output_dir of reports.compare_models.
"""

import pathlib

import command_line
import errors
from docs import between_marks

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
IMAGE = ROOT / "docs" / "images" / "comparison.svg"

PICTURE = "pictures/cost_training.svg"
SHOWN = (
  "![GAP against training time, with the Pareto front]"
  "(docs/images/comparison.svg)"
)
BEGIN, END = "<!-- comparison: begin -->", "<!-- comparison: end -->"


def put(
  folder: pathlib.Path, readme: pathlib.Path, image: pathlib.Path
) -> None:
  """Replaces what stands between the two marks, and the picture.

  Args:
    folder: of the comparison.
    readme: the page with the marks.
    image: where the picture goes.

  Raises:
    errors.UserError: the folder has no report, or the page no marks.
  """
  try:
    table = (folder / "table.md").read_text(encoding="utf-8").strip()
    picture = (folder / PICTURE).read_bytes()
  except OSError as error:
    raise errors.UserError(
      f"Expected the report of reports.compare_models in {folder}, found"
      f" none ({error.strerror}). Run make compare."
    ) from error
  between_marks.put(readme, BEGIN, END, f"{table}\n\n{SHOWN}")
  image.write_bytes(picture)


def main(arguments: list[str]) -> None:
  """Puts a comparison's table and picture into README.md.

  Args:
    arguments: the folder of the comparison.
  """
  if len(arguments) != 1:
    raise errors.UserError(
      f"Expected one folder, received {len(arguments)}. Name that of a"
      " comparison, such as /tmp/yt8m_compare."
    )
  put(pathlib.Path(arguments[0]), README, IMAGE)


if __name__ == "__main__":
  command_line.run(main)
