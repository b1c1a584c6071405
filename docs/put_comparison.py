"""Puts a comparison's table and picture into README.md: `make compare`.

  python -m docs.put_comparison DIR

DIR is the --output_dir of reports.compare_models.
"""

import pathlib
import re
import sys

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
    SystemExit: the folder has no report, or the page no marks.
  """
  try:
    table = (folder / "table.md").read_text(encoding="utf-8").strip()
    picture = (folder / PICTURE).read_bytes()
  except OSError as error:
    raise SystemExit(
      f"ERROR: Expected the report of reports.compare_models in {folder}, found"
      f" none ({error.strerror}). Run make compare."
    ) from error
  page = readme.read_text(encoding="utf-8")
  pattern = re.compile(f"{BEGIN}\n.*?{END}", re.DOTALL)
  if len(pattern.findall(page)) != 1:
    raise SystemExit(f"ERROR: Expected {BEGIN} and {END} once in {readme}.")
  page = pattern.sub(lambda _: f"{BEGIN}\n{table}\n\n{SHOWN}\n{END}", page)
  image.write_bytes(picture)
  readme.write_text(page, encoding="utf-8")


if __name__ == "__main__":
  if len(sys.argv) != 2:
    raise SystemExit("ERROR: Expected one folder, such as /tmp/yt8m_compare.")
  put(pathlib.Path(sys.argv[1]), README, IMAGE)
