import argparse
import random
import re
import types

import pytest
from conftest import run_program

from tests.faults import interception, kills, programs
from tests.faults.interception import Call

CALLS = [Call("read", "model/a", 1), Call("write", "model/a", 1)]


def choose(**changes):
  """The moments for programs that each ran for 2 s."""
  result = types.SimpleNamespace(
    outcome=types.SimpleNamespace(calls=CALLS, seconds=2.0)
  )
  bench = types.SimpleNamespace(ends=dict.fromkeys(programs.PROGRAMS, result))
  given = {"number": 50, "program": None, "call": None, "leftovers": False}
  return kills.choose(
    bench, random.Random(0), argparse.Namespace(**given | changes)
  )


def test_moments_are_by_call_and_by_time_in_each_program():
  moments = choose()
  assert len(moments) == 50
  for name in programs.PROGRAMS:
    of_program = [moment for one, moment in moments if one == name]
    seconds = [one for one in of_program if isinstance(one, float)]
    assert all(0 <= one <= 2 for one in seconds)
    assert 3 <= len(seconds) <= len(of_program) - 3
    assert CALLS[1] in of_program
    assert CALLS[0] not in of_program
  assert moments == choose()


def test_one_moment_of_the_command_line():
  assert choose(program="eval", call=CALLS[0]) == [("eval", CALLS[0])]
  assert {name for name, _ in choose(program="eval")} == {"eval"}
  assert len(choose(leftovers=True)) == 4
  ((name, call),) = choose(leftovers=True, program="inference")
  assert (name, call.path) == ("inference", "output/predictions.csv")


@pytest.mark.slow
@pytest.mark.skipif(
  bool(interception.why_impossible()), reason=interception.why_impossible()
)
def test_a_sample_of_kills():
  log = run_program("-m", "tests.faults.kills", "--number=8", patience=1800)
  assert "train" in log


@pytest.mark.slow
@pytest.mark.skipif(
  bool(interception.why_impossible()), reason=interception.why_impossible()
)
def test_a_kill_while_the_first_checkpoint_is_written():
  """Its index is empty, and `checkpoint` does not name it yet."""
  log = run_program(
    *("-m", "tests.faults.kills", "--program=train_without_eval"),
    "--call=write, model/model.ckpt-2.index, 1",
    patience=600,
  )
  assert "A new run in model." in log


@pytest.mark.slow
@pytest.mark.skipif(
  bool(interception.why_impossible()), reason=interception.why_impossible()
)
def test_the_next_start_removes_what_a_kill_has_left_over():
  """It ends with another status if anything is left then, or never was."""
  log = run_program("-m", "tests.faults.kills", "--leftovers", patience=1800)
  for name, left in (
    ("train", "model/.run.json.tmp-*"),
    ("eval", "model/eval/.metrics-4.json.tmp-*"),
    ("inference", "output/.predictions.csv.tmp-*"),
    ("export_model", "model/export/.step_4.tmp-*"),
  ):
    row = rf"^{name} \| rename, .* \| .*{re.escape(left)}.* \| $"
    assert re.search(row, log, re.MULTILINE), log
