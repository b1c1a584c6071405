"""Kills programs at random moments: python -m tests.faults.kills.

The programs of tests/faults/programs.py are killed as by kill -9, half of the
times after some seconds, half of them before one of their calls on files, which
is exact. What they leave behind must be whole, and the next start must end as
if nothing had happened. At last training is killed many times in one folder.

  --number=50 --seed=0          which moments
  --program=train --call="rename, model/checkpoint, 1"
                                one moment, with the log of the next start
  --leftovers                   each program once, while it has a file aside

Exits with 1 if something is wrong.
"""

import random
import shutil
import signal
import tempfile
import time

from tests.faults import checks, interception, programs
from tests.faults.inject import problems_of_next_start
from tests.faults.interception import Call, Fault

# Of so many moments, these are of the programs.
_SHARES = (
  *("train", "train_without_eval", "train", "eval", "inference"),
  "export_model",
)
_TIMES_IN_ONE_FOLDER = 8
# Of each program, the call that puts a file into place that it has written
# aside.
_RENAMES = {
  "train": Call("rename", "model/run.json", 2),
  "eval": Call("rename", "model/eval/metrics-4.json", 1),
  "inference": Call("rename", "output/predictions.csv", 1),
  "export_model": Call("rename", "model/export/step_4", 1),
}


def main() -> int:
  """Kills at the moments that the command line asks for."""
  options = programs.read_options(
    __doc__,
    number={"type": int, "default": 50},
    leftovers={"action": "store_true"},
  )
  if reason := interception.why_impossible():
    print(f"Nothing done: {reason}.")
    return 0
  began = time.monotonic()
  folder = tempfile.mkdtemp(prefix="kills_")
  bench = programs.Bench(folder, options.patience)
  bench.prepare([options.program] if options.program else list(_SHARES))
  moments = choose(bench, random.Random(options.seed), options)
  rows, all_problems = [("program", "moment", "problems")], []
  for name, moment in moments:
    left, problems, log = kill(bench, name, moment)
    if options.leftovers and not left:
      problems.append("nothing was left over")
    row = (name, describe(moment), "; ".join(problems))
    rows.append(row)
    print(*row[:2], " ".join(left), row[2], sep=" | ", flush=True)
    if options.call or problems:
      print(f"  | {'  | '.join(log.splitlines(keepends=True)[-40:])}")
    all_problems += problems
  if not options.call and not options.leftovers:
    problems, counts = kill_in_one_folder(bench, random.Random(options.seed))
    print(f"Files left over by kills in one folder, after each: {counts}")
    print("; ".join(problems))
    all_problems += problems
  shutil.rmtree(folder)
  print(checks.table(rows))
  print(f"{time.monotonic() - began:.0f} seconds")
  return int(bool(all_problems))


def choose(bench: programs.Bench, dice: random.Random, options) -> list[tuple]:
  """The moments of the command line: (program, call or seconds)."""
  if options.call:
    return [(options.program, options.call)]
  if options.leftovers:
    return [
      (name, call)
      for name, call in _RENAMES.items()
      if options.program in (None, name)
    ]
  moments = []
  for number in range(options.number):
    name = options.program or _SHARES[number % len(_SHARES)]
    outcome = bench.ends[name].outcome
    # By both ways for each program.
    if number // len(_SHARES) % 2:
      moments.append((name, dice.uniform(0, outcome.seconds)))
    else:
      writes = [
        call for call in outcome.calls if call.kind not in interception.READS
      ]
      moments.append((name, dice.choice(writes)))
  return moments


def describe(moment: Call | float) -> str:
  """A moment in words."""
  return str(moment) if isinstance(moment, Call) else f"after {moment:.3f} s"


def _killed(bench: programs.Bench, name: str, moment) -> programs.Result:
  if isinstance(moment, Call):
    return bench.run(name, fault=Fault(moment, 0))
  return bench.run(name, is_watched=False, kill_after=moment)


def kill(bench: programs.Bench, name: str, moment):
  """Kills a program, then runs it again.

  Args:
    bench: has run it without a kill.
    name: of the program.
    moment: the call before which, or seconds after which it is killed.

  Returns:
    (the files left over by the kill, what is wrong, the log of the next start).
  """
  start, end = bench.starts[name], bench.ends[name].found
  bench.set_up(name)
  first = _killed(bench, name, moment)
  problems = checks.problems_of_files(
    start, end, first.found, first.outcome.before, killed=True
  )
  if first.outcome.status not in (0, -signal.SIGKILL):
    problems.append(f"ended with {first.outcome.status} before it was killed")
  second = bench.run(name, is_watched=False)
  problems += problems_of_next_start(end, second)
  still = checks.leftovers(end, second.found)
  problems += [f"left over: {one}" for one in still]
  return checks.leftovers(end, first.found), problems, second.log


def kill_in_one_folder(bench: programs.Bench, dice: random.Random):
  """Kills training before renames, many times in the same folder.

  Returns:
    (what is wrong at last, how many files were left over after each start, of
    which the last was not killed).
  """
  start, end = bench.starts["train"], bench.ends["train"].found
  bench.set_up("train")
  # Those that the first start makes again and again, since it never gets far.
  moments = [
    call
    for call in bench.ends["train"].outcome.calls
    if call.kind == "rename" and not call.path.startswith(("cache", "tmp"))
  ]
  counts, problems = [], []
  for _ in range(_TIMES_IN_ONE_FOLDER):
    killed = _killed(bench, "train", dice.choice(moments[: len(moments) // 2]))
    counts.append(len(checks.leftovers(end, killed.found)))
    problems += checks.problems_of_files(
      start, end, killed.found, killed.outcome.before, killed=True
    )
  last = bench.run("train", is_watched=False)
  left = checks.leftovers(end, last.found)
  counts.append(len(left))
  problems += [f"left over: {one}" for one in left]
  return problems + problems_of_next_start(end, last), counts


if __name__ == "__main__":
  programs.run_command(main)
