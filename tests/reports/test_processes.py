"""Tests of reports.processes."""

import socket

from reports.processes import free_ports, last_line


def test_ports_are_free_and_different():
  ports = free_ports(3)
  assert len(set(ports)) == 3
  for port in ports:
    with socket.socket() as found:
      found.bind(("127.0.0.1", port))


def test_the_last_line_of_a_log(tmp_path):
  log = tmp_path / "log"
  log.write_text("step 1, loss 2\nstep 2, loss 1\nW warning\n \n")
  assert last_line(str(log), "step ") == "step 2, loss 1"
  assert last_line(str(log)) == "W warning"
  log.write_text("W warning\n")
  assert last_line(str(log), "step ") == ""
  log.write_text("")
  assert last_line(str(log)) == ""


def test_a_progress_bar_and_broken_text(tmp_path):
  log = tmp_path / "log"
  log.write_bytes(b"x" * (1 << 17) + b"\n10 of 40\r20 of 40\xff\r")
  assert last_line(str(log)) == "20 of 40\ufffd"
