"""What the programs share that train in processes of their own."""

import contextlib
import os
import socket

# A log's last lines are in its last bytes.
_LAST_BYTES = 1 << 16


def free_ports(number: int) -> list[int]:
  """Ports of this machine that nobody uses at the moment, all different."""
  with contextlib.ExitStack() as stack:
    ports = []
    for _ in range(number):
      found = stack.enter_context(socket.socket())
      found.bind(("127.0.0.1", 0))
      ports.append(found.getsockname()[1])
    return ports


def last_line(path: str, beginning: str = "") -> str:
  """The last line of a log that begins so and is not empty; "" for none."""
  with open(path, "rb") as file:
    file.seek(max(os.path.getsize(path) - _LAST_BYTES, 0))
    text = file.read().decode("utf-8", "replace")
  # A progress bar writes its line again after a carriage return.
  lines = [line.strip() for line in text.splitlines()]
  found = [line for line in lines if line and line.startswith(beginning)]
  return found[-1] if found else ""
