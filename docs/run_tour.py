"""Runs docs/tour.ipynb and keeps what its cells show.

  python -m docs.run_tour

It needs requirements/notebook.txt and writes to docs/yt8m_tour what the tour
makes. What else Jupyter notes, such as times and versions, is left out.
"""

import pathlib

import command_line
import errors
from engine import local_files

TOUR = pathlib.Path(__file__).parent / "tour.ipynb"

# Of one cell. The slowest takes half a minute, but others may use the machine.
_PATIENCE_SECONDS = 3600

_METADATA = {
  "kernelspec": {
    "display_name": "Python 3",
    "language": "python",
    "name": "python3",
  },
  "language_info": {"name": "python"},
}


def require_nbclient() -> None:
  """Checks that notebooks can be run.

  Raises:
    errors.UserError: a package is missing.
  """
  try:
    import ipykernel  # noqa: F401
    import nbclient  # noqa: F401
  except ModuleNotFoundError as missing:
    raise errors.UserError(
      "Expected the packages of requirements/notebook.txt to run the tour,"
      f" found no {missing.name}. Use: pip install -r"
      " requirements/notebook.txt"
    ) from missing


def _without_noise(notebook) -> None:
  """Removes what is neither written by us nor shown by a cell."""
  notebook.metadata = _METADATA
  for cell in notebook.cells:
    cell.metadata = {}
    for output in cell.get("outputs", []):
      output.pop("metadata", None)
      if "image/png" in output.get("data", {}):
        output.metadata = {}
        # In the place of a picture, such as <Figure size 500x200 with 1 Axes>.
        output.data.pop("text/plain", None)


def run_tour(path: pathlib.Path) -> None:
  """Runs a notebook in its folder and writes it with its outputs.

  Args:
    path: of the notebook, which is replaced whole, or stays as it is.

  Raises:
    errors.UserError: a cell failed, took too long, or ended Python; which of
      these is in the message.
  """
  require_nbclient()
  import nbclient
  import nbformat
  from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
  )

  notebook = nbformat.read(path, as_version=4)
  number = len(notebook.cells)

  def show_progress(cell, cell_index):
    if cell.cell_type == "code":
      print(f"Cell {cell_index + 1} of {number}", flush=True)

  client = nbclient.NotebookClient(
    notebook,
    timeout=_PATIENCE_SECONDS,
    startup_timeout=_PATIENCE_SECONDS,
    kernel_name="python3",
    record_timing=False,
    resources={"metadata": {"path": str(path.parent)}},
    on_cell_start=show_progress,
  )
  try:
    client.execute()
  except CellExecutionError as error:
    raise errors.UserError(
      f"Expected a notebook whose cells run, received from {path}, in the cell"
      f" that was shown last, {error.ename}: {error.evalue}. Run it in Jupyter"
      " to see where."
    ) from error
  except (CellTimeoutError, DeadKernelError) as error:
    raise errors.UserError(
      f"Expected a notebook whose cells run, received from {path}: {error}"
    ) from error
  _without_noise(notebook)
  nbformat.validate(notebook)
  text = nbformat.writes(notebook)
  local_files.write_whole(str(path), f"{text.rstrip()}\n".encode())


def main() -> None:
  """Runs the tour."""
  run_tour(TOUR)


if __name__ == "__main__":
  command_line.run(main)
