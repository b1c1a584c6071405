"""Lets the machines of a cluster wait for each other before TensorFlow starts.

TensorFlow waits without a word and without an end, in a call in which neither
other threads nor signals are served. So the machines meet first: each listens
at its own address of TF_CONFIG, and answers with what it knows. Once all know
that all are there, TensorFlow takes over the addresses.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from absl import logging

import errors

# How long TensorFlow may take, once all machines are there; a machine may have
# died just then.
JOINING_SECONDS = 180.0
_LINE_SECONDS = 60.0
_ROUND_SECONDS = 0.3
_ANSWER_SECONDS = 3.0
_MOST_ASKED_AT_ONCE = 32

_WAITING, _READY = b"waiting", b"ready"

# Its arguments: seconds, the process that may be stuck, what to say. Ends when
# that process ends or closes the pipe; else ends it, which nothing within it
# can do while TensorFlow holds the lock of Python's interpreter.
_WATCHER = """
import os, select, signal, sys
seconds, process, line = sys.argv[1:]
if not select.select([0], [], [], float(seconds))[0]:
  os.write(2, line.encode() + b"\\n")
  os.kill(int(process), signal.SIGKILL)
"""


def _host_and_port(address: str) -> tuple[str, int]:
  """Takes an address apart.

  Raises:
    errors.UserError: it is not HOST:PORT.
  """
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise errors.UserError(
      f"Expected addresses such as machine-1:20001 in the cluster of TF_CONFIG,"
      f" received {address!r}. Give each machine a name and a port."
    )
  return host.strip("[]"), int(port)


class _Door:
  """Answers at the own address of a machine, with whether it is ready.

  Args:
    port: where to listen.
    cluster: what tells this cluster from others.
  """

  def __init__(self, port: int, cluster: bytes):
    self._port = port
    self._cluster = cluster
    self._socket: socket.socket | None = None
    self._thread = threading.Thread(target=self._answer_all, daemon=True)
    self._closed = False
    self.state = _WAITING

  def open(self) -> str:
    """Listens, unless another process still does; returns why not."""
    if self._socket:
      return ""
    both = socket.has_dualstack_ipv6()
    try:
      self._socket = socket.create_server(
        ("", self._port),
        family=socket.AF_INET6 if both else socket.AF_INET,
        dualstack_ipv6=both,
        backlog=128,
      )
    except OSError as error:
      return error.strerror or str(error)
    self._socket.settimeout(_ROUND_SECONDS)
    self._thread.start()
    return ""

  def _answer_all(self) -> None:
    while not self._closed and self._socket:
      with contextlib.suppress(OSError):
        caller, _ = self._socket.accept()
        with caller:
          caller.settimeout(_ANSWER_SECONDS)
          caller.sendall(b"%s %s\n" % (self._cluster, self.state))

  def close(self) -> None:
    """Frees the address for TensorFlow."""
    self._closed = True
    if self._socket:
      self._thread.join()
      self._socket.close()


def _ask(address: str, cluster: bytes) -> tuple[bytes, str]:
  """Asks a machine for its state; returns it, or nothing and why."""
  try:
    with socket.create_connection(
      _host_and_port(address), _ANSWER_SECONDS
    ) as line:
      line.settimeout(_ANSWER_SECONDS)
      answer = b""
      while b"\n" not in answer and len(answer) < 256:
        part = line.recv(256)
        if not part:
          break
        answer += part
  except OSError as error:
    return b"", error.strerror or str(error)
  name, _, state = answer.strip().partition(b" ")
  if name == cluster and state in (_WAITING, _READY):
    return state, ""
  if name.startswith(b"yt8m-"):
    return b"", "has another cluster in its TF_CONFIG"
  return b"", "another program answers there"


class _Meeting:
  """What a machine knows about the others; see wait_for_machines.

  Nobody leaves before all are ready, that is, know that all are there. So who
  is ready may go as soon as each of the others is ready, or was there and has
  gone.
  """

  def __init__(self, addresses: Sequence[str], worker: int):
    listing = "\n".join(addresses)
    self._cluster = (
      b"yt8m-" + hashlib.sha256(listing.encode()).hexdigest()[:16].encode()
    )
    self._others = [a for i, a in enumerate(addresses) if i != worker]
    self._own = addresses[worker]
    self._states = dict.fromkeys(self._others, b"")
    self._reasons = dict.fromkeys(self._others, "")
    self._gone: set[str] = set()
    self.door = _Door(_host_and_port(self._own)[1], self._cluster)

  def look(self, threads: concurrent.futures.Executor) -> bool:
    """Asks all others once; returns whether this machine may go."""
    problem = self.door.open()
    asked = [a for a in self._others if a not in self._gone]
    answers = threads.map(lambda a: _ask(a, self._cluster), asked)
    for address, (state, reason) in zip(asked, answers, strict=True):
      if not state and self._states[address] and self.door.state == _READY:
        self._gone.add(address)
      else:
        self._states[address], self._reasons[address] = state, reason
    self._reasons.pop(self._own, None)
    if problem:
      self._reasons[self._own] = f"of this machine: {problem}"
    elif all(self._states.values()):
      self.door.state = _READY
    return self.door.state == _READY and all(
      address in self._gone or self._states[address] == _READY
      for address in self._others
    )

  def missing(self) -> str:
    """Lists the addresses that are waited for, and why."""
    absent = [
      f"{address} ({reason})"
      for address, reason in self._reasons.items()
      if reason and address not in self._gone
    ]
    if not absent:  # these wait for somebody else
      absent = [a for a in self._others if self._states[a] == _WAITING]
    return ", ".join(absent)


def wait_for_machines(
  addresses: Sequence[str], worker: int, timeout: float
) -> None:
  """Waits until all machines of a cluster have called this.

  Says every minute whom it waits for.

  Args:
    addresses: of all machines, HOST:PORT.
    worker: which of them this is.
    timeout: seconds to wait at most.

  Raises:
    errors.UserError: an address is wrong.
    errors.MachineError: some were not there in time.
  """
  for address in addresses:
    _host_and_port(address)
  meeting = _Meeting(addresses, worker)
  began = shown = time.monotonic()
  with (
    contextlib.closing(meeting.door),
    concurrent.futures.ThreadPoolExecutor(_MOST_ASKED_AT_ONCE) as threads,
  ):
    while not meeting.look(threads):
      now = time.monotonic()
      if now - began >= timeout:
        raise errors.MachineError(
          f"Expected all {len(addresses)} machines of TF_CONFIG to start within"
          f" {timeout:.0f} s, still waiting for {meeting.missing()}. Start"
          " train.py on each of them, check the addresses and the firewalls, or"
          " raise --cluster_timeout_seconds."
        )
      if now - shown >= _LINE_SECONDS:
        shown = now
        logging.info(
          "Waiting for %s: %.0f of %.0f s so far.",
          meeting.missing(),
          now - began,
          timeout,
        )
      time.sleep(_ROUND_SECONDS)


@contextlib.contextmanager
def ended_if_stuck(addresses: Sequence[str], seconds: float) -> Iterator[None]:
  """Ends this process if a block takes too long, whatever it waits for.

  Args:
    addresses: of all machines, for the message.
    seconds: that it may take.
  """
  line = (
    f"ERROR: Expected TensorFlow to join {', '.join(addresses)} within"
    f" {seconds:.0f} s after all had started, but one of them does not answer."
    " Look at their logs, and start the same command on all of them again."
  )
  arguments = [f"{seconds:g}", str(os.getpid()), line]
  with subprocess.Popen(
    [sys.executable, "-S", "-E", "-c", _WATCHER, *arguments],
    stdin=subprocess.PIPE,
  ):
    yield
