import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from tests.faults import interception
from tests.faults.interception import Call

pytestmark = pytest.mark.skipif(
  bool(interception.why_impossible()), reason=interception.why_impossible()
)

# The children are forks, which a process with TensorFlow's threads cannot have.
RUNNER = """
import ctypes, errno, json, os, pathlib, sys, time
from tests.faults import interception
from tests.faults.interception import Call, Fault

folder = sys.argv[1]

def write_three():
  with open(f"{folder}/a/three", "wb", buffering=0) as file:
    for number in range(3):
      try:
        file.write(b"%d" % number)
      except OSError as error:
        file.write(errno.errorcode[error.errno].encode())
  pathlib.Path(f"{folder}/elsewhere").write_text("not watched")
  os.rename(f"{folder}/a/three", f"{folder}/a/done")

def write_buffered():
  libc = ctypes.CDLL(None, use_errno=True)
  libc.fopen.restype = ctypes.c_void_p
  file = ctypes.c_void_p(libc.fopen(f"{folder}/a/buffered".encode(), b"w"))
  libc.fwrite(b"abc", 1, 3, file)
  failed = libc.fflush(file)
  sys.exit(errno.errorcode[ctypes.get_errno()] if failed else 0)

def try_all():
  os.chdir(f"{folder}/a")
  failed = []
  for number in range(4):
    try:
      pathlib.Path(f"{number}").write_text("x")
    except OSError as error:
      failed.append(f"{number} {errno.errorcode[error.errno]}")
  sys.stdout.write(" ".join(failed) + "\\n")
  sys.exit(len(failed))

def main():
  programs = {
    "three": write_three, "buffered": write_buffered, "all": try_all,
    "sleep": lambda: time.sleep(60),
  }
  how = json.loads(sys.argv[3])
  if "fault" in how:
    call, *more = how["fault"]
    how["fault"] = Fault(Call.parse(call), *more)
  outcome = interception.run(programs[sys.argv[2]], f"{folder}/a", **how)
  print(json.dumps([
    outcome.status, list(map(str, outcome.calls)), outcome.was_hit
  ]))

try:
  main()
except interception.Child as child:
  child.program()
"""


@pytest.fixture
def watched(tmp_path):
  (tmp_path / "a").mkdir()
  return tmp_path


def run(folder, name, **how):
  ended = subprocess.run(
    [sys.executable, "-c", RUNNER, folder, name, json.dumps(how)],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert ended.returncode == 0, ended.stderr
  status, calls, was_hit = json.loads(ended.stdout.splitlines()[-1])
  return status, calls, was_hit, ended


def test_calls_on_the_folder_are_counted(watched):
  status, calls, was_hit, _ = run(watched, "three")
  assert (status, was_hit) == (0, False)
  assert calls == [
    "open to write, three, 1",
    "write, three, 1",
    "write, three, 2",
    "write, three, 3",
    "rename, done, 1",
  ]
  assert (watched / "a" / "done").read_text() == "012"


def test_one_call_fails(watched):
  status, calls, was_hit, _ = run(
    watched, "three", fault=["write, three, 2", 28]
  )
  assert (status, was_hit) == (0, True)
  assert len(calls) == 6
  assert (watched / "a" / "done").read_text() == "0ENOSPC2"


def test_what_the_c_library_writes_fails(watched):
  assert run(watched, "buffered")[:2] == (
    0,
    ["open to write, buffered, 1", "write, buffered, 1"],
  )
  status, _, was_hit, ended = run(
    watched, "buffered", fault=["write, buffered, 1", 5]
  )
  assert (status, was_hit) == (1, True)
  assert "EIO" in ended.stderr


def test_a_full_disk_stays_full(watched):
  status, _, _, ended = run(watched, "all", fault=["write, 1, 1", 28, True])
  assert status == 3
  assert "1 ENOSPC 2 ENOSPC 3 ENOSPC" in ended.stdout


def test_killed_before_a_call(watched):
  status, calls, was_hit, _ = run(
    watched, "three", fault=["rename, done, 1", 0]
  )
  assert (status, was_hit) == (-9, True)
  assert calls[-1] == "rename, done, 1"
  assert (watched / "a" / "three").read_text() == "012"
  assert not (watched / "a" / "done").exists()


def test_killed_after_a_time_and_hanging(watched):
  assert run(watched, "sleep", kill_after=0.2)[0] == -9
  assert run(watched, "sleep", patience=0.2)[0] is None


def test_names_without_what_is_random():
  assert (
    interception.plain_name("model/.run.json.tmp-0123abcd")
    == interception.plain_name("model/.run.json.tmp-host-1-4567ef01")
    == "model/.run.json.tmp-*"
  )
  assert (
    interception.plain_name("eval/events.out.tfevents.1.host.2.3.v2")
    == "eval/events.out.tfevents"
  )
  assert interception.plain_name("a/tmp0_bcdefg.aside") == "a/tmp*.aside"
  assert interception.plain_name("model.ckpt-12.index") == "model.ckpt-12.index"


def test_a_call_is_read_back():
  call = Call("open to write", "a, b/c", 12)
  assert Call.parse(str(call)) == call
