"""Fixtures that several tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir():
  """The folder of golden files, beside the repository."""
  path = Path(__file__).parents[2] / "shared"
  if not path.is_dir():
    pytest.skip("needs the project's shared golden files")
  return path
