"""Tests of reports.frameworks.torch_loop, in its environment."""

import pytest
from other_loops import check_steps_of_adam

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  ("compiled", "how"), [(False, "eager"), (True, "torch.compile")]
)
def test_steps_are_those_of_adam(tiny_files, tmp_path, compiled, how):
  check_steps_of_adam(tmp_path, tiny_files, "torch", compiled, how)
