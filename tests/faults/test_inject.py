import argparse
import errno
import random

import pytest
from conftest import run_program

from tests.faults import inject, interception
from tests.faults.interception import Call, Fault

CALLS = [
  Call(kind, f"model/{number}", 1)
  for number in range(20)
  for kind in ("open to write", "write", "delete", "read")
]


def options(**changes):
  return argparse.Namespace(
    **{"every": 1, "call": None, "error": None} | changes
  )


def choose(seed=0, **changes):
  return inject.choose(CALLS, random.Random(seed), options(**changes))


def test_every_write_and_some_reads_fail():
  failed = [fault.call for fault in choose()]
  assert len(failed) == len(set(failed))
  writes = {call for call in CALLS if call.kind != "read"}
  assert writes <= set(failed)
  assert len(set(failed) - writes) == 2


def test_a_sample_is_drawn_from_a_seed():
  sample = choose(every=10)
  assert len(sample) == 7
  assert sample == choose(every=10)
  assert sample != choose(seed=1, every=10)


def test_a_disk_is_full_for_what_takes_room_alone():
  faults = choose(error="ENOSPC")
  assert {(fault.call.kind, fault.error, fault.lasts) for fault in faults} == {
    ("open to write", errno.ENOSPC, True),
    ("write", errno.ENOSPC, True),
    ("delete", errno.EIO, False),
    ("read", errno.EIO, False),
  }
  assert {fault.error for fault in choose(error="EIO")} == {errno.EIO}


def test_one_call_of_the_command_line():
  fault = Fault(Call("write", "model/a", 3), errno.EIO)
  assert choose(call=fault.call, error="EIO") == [fault]
  assert (
    inject.describe("train", fault)
    == '--program=train --call="write, model/a, 3" --error=EIO'
  )


def test_the_table_counts_by_ending():
  results = [
    ("eval", Fault(Call("write", f"model/{n}", 1), errno.EIO), ended, problems)
    for n, ended, problems in [
      (1, "status 1", []),
      (2, "status 1", []),
      (3, "done", ["lost"]),
    ]
  ]
  lines = inject.summary(results).splitlines()
  assert lines[0].split("  ")[-2:] == ["done, WRONG", "status 1"]
  assert lines[1].split() == ["eval", "write", "model/N", "EIO", "1", "2"]
  assert lines[2].split() == ["all", "1", "2"]


@pytest.mark.slow
@pytest.mark.skipif(
  bool(interception.why_impossible()), reason=interception.why_impossible()
)
def test_a_sample_of_the_calls_of_each_program():
  log = run_program("-m", "tests.faults.inject", "--every=40", patience=1800)
  assert "not reached" not in log
  assert "status" in log
