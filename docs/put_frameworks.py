"""Puts tables into docs/frameworks.md, for `make compare-frameworks`.

  python -m docs.put_frameworks DIR

DIR is the --output_dir of reports.compare_frameworks.
"""

import json
import pathlib

import startup  # isort: skip
import errors
from docs import between_marks
from engine.machine import machine_text
from reports import framework_page as pages

PAGE = pathlib.Path(__file__).parent / "frameworks.md"
BEGIN, END = "<!-- frameworks: begin -->", "<!-- frameworks: end -->"


def shown(report: dict) -> str:
  """What the page shows of a report: how it was made, and the tables."""
  results = [
    result for model in report["models"] for result in model["results"]
  ]
  versions = {
    name: version
    for result in results
    for name, version in result["versions"].items()
  }
  made = "; ".join(f"`{command}`" for command in pages.commands(report))
  return "\n\n".join(
    [
      f"Made by {made} on {machine_text(report['machine'])}, with "
      + ", ".join(f"{name} {versions[name]}" for name in versions)
      + ":",
      pages.markdown_table(pages.speed_table(report)),
      "How far they differ with dropout off, see"
      " [what is checked](#what-is-checked):",
      pages.markdown_table(pages.agreement_table(report)),
    ]
  )


def put(folder: pathlib.Path, page: pathlib.Path) -> None:
  """Replaces what stands between the two marks.

  Args:
    folder: of the report.
    page: the page with the marks.

  Raises:
    errors.UserError: the folder has no report, or the page no marks.
  """
  try:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
  except OSError as error:
    raise errors.UserError(
      f"Expected the report of reports.compare_frameworks in {folder},"
      f" found none ({error.strerror}). Run make compare-frameworks."
    ) from error
  between_marks.put(page, BEGIN, END, shown(report))


def main(arguments: list[str]) -> None:
  """Puts a report's tables into docs/frameworks.md.

  Args:
    arguments: the folder of the report.
  """
  if len(arguments) != 1:
    raise errors.UserError(
      f"Expected one folder, received {len(arguments)}. Name that of a report,"
      " such as /tmp/yt8m_frameworks."
    )
  put(pathlib.Path(arguments[0]), PAGE)


if __name__ == "__main__":
  startup.run(main)
