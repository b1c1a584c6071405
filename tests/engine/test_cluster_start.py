"""Tests of cluster_start: machines that wait for each other."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import REPOSITORY, Program, assert_names, error_of

import errors
from engine import cluster_start
from reports.processes import free_ports


def new_addresses(number) -> list[str]:
  return [f"127.0.0.1:{port}" for port in free_ports(number)]


@contextlib.contextmanager
def stranger(port, greeting=b""):
  """Another program that listens at a port."""
  with socket.create_server(("127.0.0.1", port)) as server:

    def answer():
      with contextlib.suppress(OSError):
        while True:
          caller, _ = server.accept()
          with caller:
            caller.sendall(greeting)

    threading.Thread(target=answer, daemon=True).start()
    yield
    server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("number", [2, 7])
def test_all_go_once_all_are_there(number):
  addresses = new_addresses(number)
  last = threading.Event()

  def start(worker):
    if worker == number - 1:
      last.wait(20)
    cluster_start.wait_for_machines(addresses, worker, 60)
    with socket.socket() as own:  # the address is free for TensorFlow
      own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      own.bind(("127.0.0.1", int(addresses[worker].split(":")[1])))

  with concurrent.futures.ThreadPoolExecutor(number) as threads:
    results = [threads.submit(start, worker) for worker in range(number)]
    done, _ = concurrent.futures.wait(results, 1.0)
    assert not done  # the last one is missing
    last.set()
    for result in results:
      result.result(60)


def test_a_machine_that_never_starts_is_named(monkeypatch, shown):
  monkeypatch.setattr(cluster_start, "_LINE_SECONDS", 0.5)
  addresses = new_addresses(3)
  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    texts = list(
      threads.map(
        lambda worker: error_of(
          cluster_start.wait_for_machines, addresses, worker, 2
        ),
        (0, 1),
      )
    )
  for text in texts:
    assert_names(
      text,
      "Expected all 3 machines of TF_CONFIG to start within 2 s",
      f"{addresses[2]} (Connection refused). Start",
      "--cluster_timeout_seconds",
    )
  assert f"Waiting for {addresses[2]} (Connection refused):" in " ".join(shown)


def test_who_came_and_went_is_waited_for_again():
  """One of three is stopped and started again while the last is missing."""
  addresses = new_addresses(3)
  meeting = cluster_start._Meeting(addresses, 1)
  with concurrent.futures.ThreadPoolExecutor(3) as threads:
    first = threads.submit(cluster_start.wait_for_machines, addresses, 0, 60)
    meeting.look(threads)
    time.sleep(1.0)
    meeting.door.close()
    time.sleep(1.0)
    last = threads.submit(cluster_start.wait_for_machines, addresses, 2, 60)
    time.sleep(1.0)
    assert not first.done()
    assert not last.done()
    cluster_start.wait_for_machines(addresses, 1, 60)
    first.result(60)
    last.result(60)


def test_who_came_and_went_is_named():
  addresses = new_addresses(3)
  meeting = cluster_start._Meeting(addresses, 1)
  with concurrent.futures.ThreadPoolExecutor(3) as threads:
    meeting.look(threads)
    pending = threads.submit(
      error_of, cluster_start.wait_for_machines, addresses, 0, 4
    )
    time.sleep(1.5)
    meeting.door.close()
    text = pending.result(60)
  assert_names(text, *(f"{a} (Connection refused)" for a in addresses[1:]))


@pytest.mark.parametrize("greeting", [b"", b"\0\0\x12\4\0", b"yt8m-1 ready\n"])
def test_another_program_at_the_address(greeting):
  addresses = new_addresses(2)
  with stranger(int(addresses[1].split(":")[1]), greeting):
    text = error_of(cluster_start.wait_for_machines, addresses, 0, 1)
    of_this = error_of(cluster_start.wait_for_machines, addresses, 1, 1)
  reason = "another program answers there"
  if greeting.startswith(b"yt8m"):
    reason = "has another cluster in its TF_CONFIG"
  assert_names(text, f"still waiting for {addresses[1]} ({reason})")
  assert_names(of_this, f"{addresses[1]} (of this machine: Address already in")


@pytest.mark.parametrize("address", ["a", ":1", "a:b", "a:0", "a:70000"])
def test_wrong_addresses(address):
  with pytest.raises(
    errors.UserError, match="such as machine-1:20001"
  ) as error:
    cluster_start.wait_for_machines(["127.0.0.1:1", address], 0, 1)
  assert repr(address) in str(error.value)


STUCK = """
import sys, ctypes
sys.path.insert(0, sys.argv[1])
from engine import cluster_start
with cluster_start.ended_if_stuck(["a:1", "b:2"], float(sys.argv[2])):
  print("begins", flush=True)
  ctypes.PyDLL(None).usleep(int(float(sys.argv[3]) * 1e6))  # keeps the GIL
print("goes on", flush=True)
"""


def test_a_stuck_process_is_ended():
  command = [sys.executable, "-c", STUCK, str(REPOSITORY)]
  run = subprocess.run(
    [*command, "0.5", "60"], capture_output=True, text=True, check=False
  )
  assert run.returncode == -signal.SIGKILL
  (line,) = run.stderr.splitlines()
  assert line.startswith("ERROR: Expected TensorFlow to join a:1, b:2 within 0")
  assert run.stdout == "begins\n"
  run = subprocess.run(
    [*command, "60", "0.1"], capture_output=True, text=True, check=True
  )
  assert (run.stdout, run.stderr) == ("begins\ngoes on\n", "")


@pytest.mark.slow
def test_train_ends_without_the_others(tmp_path):
  addresses = new_addresses(2)
  with Program(
    tmp_path / "log",
    "train.py",
    f"--train_dir={tmp_path}/model",
    "--cluster_timeout_seconds=2",
    TF_CONFIG=json.dumps(
      {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": 0},
      }
    ),
  ) as program:
    lines = program.finish(1).splitlines()
  assert_names(lines[-1], "ERROR: Expected all 2 machines", addresses[1])
  assert not os.path.exists(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("worker", [0, 1])
def test_a_machine_that_dies_before_tensorflow_joins(tmp_path, worker):
  """The other one answered, and is gone when TensorFlow starts."""
  addresses = new_addresses(2)
  code = (
    "import startup; from engine import cluster_start as c, distribution as d;"
    "c.wait_for_machines = lambda *_: None; c.JOINING_SECONDS = 8.0;"
    f"d._choose_cluster({addresses!r}, {worker}, 60)"
  )
  with Program(tmp_path / "log", "-c", code) as program:
    assert program.wait_for_end() != 0
    assert "Expected" in program.log
    lines = [x for x in program.log.splitlines() if x.startswith("ERROR:")]
  assert_names(lines[0], *addresses, "does not answer")
