"""Lets each call on a file fail in turn: python -m tests.faults.inject.

Training with an evaluation and exports, eval.py, inference.py and
export_model.py run on tiny records, once without faults to list the calls that
change files, and a sample of those that read. Then, for each of these calls,
the program runs with this call failing: a full disk stays full from there on,
an I/O error comes once. After it nothing may be lost or half-written, and the
next start without faults must end as if nothing had happened.

  --every=20                    only each 20th of the calls
  --program=train --call="rename, model/checkpoint, 1" --error=EIO
                                one call, with the program's log

Prints how many calls failed, how each ended, and what is wrong. Exits with 1 if
something is.
"""

import contextlib
import errno
import random
import re
import shutil
import tempfile
import time
from collections import Counter

from tests.faults import checks, interception, programs
from tests.faults.interception import Call, Fault

# Of the calls that read, one in so many fails: they are the most, and what they
# do to a program is less various.
_READS_EVERY = 10


def main() -> int:
  """Injects the faults that the command line asks for."""
  options = programs.read_options(
    __doc__,
    every={"type": int, "default": 1},
    error={"choices": ["ENOSPC", "EIO"]},
  )
  if reason := interception.why_impossible():
    print(f"Nothing done: {reason}.")
    return 0
  began = time.monotonic()
  folder = tempfile.mkdtemp(prefix="faults_")
  # Training without an evaluation makes no call that the other one does not.
  every = [name for name in programs.PROGRAMS if name != "train_without_eval"]
  names = [options.program] if options.program else every
  bench = programs.Bench(folder, options.patience)
  bench.prepare(names)
  dice = random.Random(options.seed)
  faults = [
    (name, fault)
    for name in names
    for fault in choose(bench.ends[name].outcome.calls, dice, options)
  ]
  dice.shuffle(faults)  # so that each part of them is a sample
  print(f"{len(faults)} faults", flush=True)
  results = []
  # After Ctrl-C the table is shown all the same.
  with contextlib.suppress(KeyboardInterrupt):
    for number, (name, fault) in enumerate(faults, 1):
      ended, problems, log = inject(bench, name, fault)
      results.append((name, fault, ended, problems))
      shown = f"{number}/{len(faults)} {describe(name, fault)}: {ended}"
      print("; ".join([shown, *problems]), flush=True)
      if options.call or problems:
        print(f"  | {'  | '.join(log.splitlines(keepends=True)[-40:])}")
  shutil.rmtree(folder)
  print(summary(results))
  print(f"{time.monotonic() - began:.0f} seconds")
  return int(any(problems for *_, problems in results))


def choose(calls: list[Call], dice: random.Random, options) -> list[Fault]:
  """The faults of a program.

  Args:
    calls: that it makes without faults.
    dice: random numbers that begin from a seed.
    options: the command line.
  """
  if options.call:
    calls = [options.call]
  else:
    writes = [call for call in calls if call.kind not in interception.READS]
    reads = [call for call in calls if call.kind in interception.READS]
    reads = dice.sample(reads, len(reads) // _READS_EVERY)
    calls = dice.sample(
      writes + reads, -(-len(writes + reads) // options.every)
    )
  faults = []
  for call in calls:
    error = options.error or dice.choice(["EIO", "ENOSPC"])
    is_full = call.kind in interception.TAKE_ROOM and error == "ENOSPC"
    faults.append(
      Fault(call, errno.ENOSPC if is_full else errno.EIO, lasts=is_full)
    )
  return faults


def describe(name: str, fault: Fault) -> str:
  """A fault as the flags that bring it about again."""
  return (
    f'--program={name} --call="{fault.call}"'
    f" --error={errno.errorcode[fault.error]}"
  )


def inject(bench: programs.Bench, name: str, fault: Fault):
  """Runs a program with a fault, then again without.

  Args:
    bench: has run it without faults.
    name: of the program.
    fault: what happens.

  Returns:
    (how the run with the fault ended, what is wrong, its log and, if it is the
    next start that went wrong, that one's).
  """
  start, end = bench.starts[name], bench.ends[name].found
  bench.set_up(name)
  first = bench.run(name, fault=fault)
  if not first.outcome.was_hit:
    return "not reached", [], first.log
  status, log = first.outcome.status, first.log
  ended = checks.ending(status, log)
  problems = checks.problems_of_end(status, log)
  if status == 2:
    problems.append("it counts as what the user can fix")
  problems += checks.problems_of_files(
    start, end, first.found, first.outcome.before, killed=False
  )
  if status == 0:
    missing = checks.differences(end, first.found, with_events=True)
    # What could not be written, and is not essential, must be named.
    if any("events" not in one for one in missing) or ended == "done":
      problems += missing
  second = bench.run(name, is_watched=False)
  more = problems_of_next_start(end, second)
  more += [f"left over: {one}" for one in checks.leftovers(end, second.found)]
  if more:
    log += "The next start:\n" + second.log
  return ended, problems + more, log


def problems_of_next_start(end: dict, result: programs.Result) -> list[str]:
  """What is wrong with a run that was begun after a fault, without another.

  Args:
    end: what a run leaves behind that had no fault, see programs.look.
    result: of the run.
  """
  problems = checks.problems_of_end(result.outcome.status, result.log)
  if result.outcome.status != 0:
    problems.append(f"exit status {result.outcome.status}")
  problems += checks.differences(end, result.found, with_events=False)
  return [f"next start: {problem}" for problem in problems]


def summary(results: list[tuple]) -> str:
  """A table of faults by program, kind and file: how they ended.

  Args:
    results: (program, fault, how it ended, what is wrong) of each.
  """
  counts = Counter()
  for name, fault, ended, problems in results:
    file = re.sub(r"\d+", "N", fault.call.path)
    error = errno.errorcode[fault.error]
    ended = f"{ended}{', WRONG' if problems else ''}"
    counts[name, fault.call.kind, file, error, ended] += 1
  endings = sorted({key[-1] for key in counts})
  heading = ("program", "call", "file", "error", *endings)
  rows = [
    (*group, *(counts[(*group, one)] or "" for one in endings))
    for group in sorted({key[:-1] for key in counts})
  ]
  totals = [
    sum(count for key, count in counts.items() if key[-1] == one)
    for one in endings
  ]
  return checks.table([heading, *rows, ("all", "", "", "", *totals)])


if __name__ == "__main__":
  programs.run_command(main)
