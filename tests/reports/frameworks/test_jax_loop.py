"""Tests of reports.frameworks.jax_loop, in its environment."""

import pytest
from other_loops import check_steps_of_adam

pytestmark = pytest.mark.slow


def test_steps_are_those_of_adam(tiny_files, tmp_path):
  check_steps_of_adam(tmp_path, tiny_files, "jax", False, "jit")
