"""A mirror of YouTube-8M on this machine, which misbehaves as it is told."""

import collections
import contextlib
import hashlib
import http.server
import json
import random
import re
import threading
import time

# A response in pieces, so that a program can be stopped within it.
_PIECE_BYTES = 10_000


class Mirror:
  """What the server holds, what it is to do wrong, and what it was asked.

  Attributes:
    url: its address.
    files: {path: content}.
    faults: {path: names of what goes wrong with the next requests}: drop, after
      half of what is left; cut, without saying so; wrong, a byte of the
      content; stall, without a word; or a status code.
    has_ranges: whether it sends parts of files.
    has_lengths: whether it announces lengths.
    has_head: whether it answers HEAD.
    retry_after: what it says with a status code.
    seconds: how long it waits after each piece.
    requests: (method, path, first byte) of each request.
  """

  def __init__(self):
    self.url = ""
    self.files = {}
    self.faults = collections.defaultdict(list)
    self.has_ranges = self.has_lengths = self.has_head = True
    self.retry_after = ""
    self.seconds = 0.0
    self.requests = []

  def add_partition(self, partition, files) -> None:
    """Holds files and their plan.

    Args:
      partition: such as 2/frame/train.
      files: {remote name: content}.
    """
    version, level, split = partition.split("/")
    plan = {
      name: hashlib.md5(content).hexdigest() for name, content in files.items()
    }
    path = f"/{version}/download_plans/{level}_{split}.json"
    self.files[path] = json.dumps({"files": plan}).encode()
    for name, content in files.items():
      self.files[f"/{partition}/{name}"] = content

  def fetched(self) -> list[str]:
    """The names of the data files that were asked for, in order."""
    return sorted(
      path.rpartition("/")[2]
      for method, path, _ in self.requests
      if method == "GET" and path.endswith(".tfrecord")
    )

  def begins(self, name) -> list[int]:
    """The first bytes that were asked for of a file."""
    return [
      begin
      for method, path, begin in self.requests
      if method == "GET" and path.endswith(f"/{name}")
    ]


class _Handler(http.server.BaseHTTPRequestHandler):
  server: "_Server"

  def log_message(self, *unused):
    pass

  def do_HEAD(self):
    mirror = self.server.mirror
    mirror.requests.append(("HEAD", self.path, 0))
    content = mirror.files.get(self.path)
    self.send_response(
      405 if not mirror.has_head else 404 if content is None else 200
    )
    if content is not None:
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()

  def do_GET(self):
    mirror = self.server.mirror
    asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
    begin = int(asked[1]) if asked else 0
    mirror.requests.append(("GET", self.path, begin))
    faults = mirror.faults[self.path]
    fault = faults.pop(0) if faults else ""
    content = mirror.files.get(self.path)
    if content is None or isinstance(fault, int):
      self.send_response(404 if content is None else fault)
      if mirror.retry_after:
        self.send_header("Retry-After", mirror.retry_after)
      self.end_headers()
    elif fault == "stall":
      self.server.is_over.wait(60)
    elif begin >= len(content) > 0 and mirror.has_ranges:
      self.send_response(416)
      self.end_headers()
    else:
      self._send(content, begin if mirror.has_ranges else 0, fault)

  def _send(self, content, begin, fault):
    mirror = self.server.mirror
    self.send_response(206 if begin else 200)
    if begin:
      last = len(content) - 1
      self.send_header("Content-Range", f"bytes {begin}-{last}/{last + 1}")
    rest = content[begin:]
    if fault == "wrong":
      rest = bytes([rest[0] ^ 1]) + rest[1:]
    if fault == "cut":
      rest = rest[: len(rest) // 2]
    if mirror.has_lengths:
      self.send_header("Content-Length", str(len(rest)))
    self.end_headers()
    if fault == "drop":
      rest = rest[: len(rest) // 2]
    with contextlib.suppress(ConnectionError):  # the program was stopped
      for place in range(0, len(rest), _PIECE_BYTES):
        self.wfile.write(rest[place : place + _PIECE_BYTES])
        time.sleep(mirror.seconds)


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  block_on_close = False

  def __init__(self, mirror):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.mirror = mirror
    self.is_over = threading.Event()

  def handle_error(self, *unused):
    pass


@contextlib.contextmanager
def serving():
  """Serves a mirror while the block runs; yields it."""
  mirror = Mirror()
  with _Server(mirror) as server:
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
      yield mirror
    finally:
      server.is_over.set()
      server.shutdown()
      thread.join()


def random_bytes(name, size) -> bytes:
  """Content that belongs to a name."""
  return random.Random(name).randbytes(size)
