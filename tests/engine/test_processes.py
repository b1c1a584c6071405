"""Tests of engine.processes."""

import os
import subprocess

import pytest

from engine import processes


@pytest.fixture
def dead():
  """The number of a process that has ended."""
  process = subprocess.Popen(["true"])
  process.wait()
  return process.pid


def test_processes_that_live_and_that_ended(dead):
  assert processes.is_alive(os.getpid())
  assert processes.is_alive(1)  # of another user, where this one is not root
  assert processes.is_alive(dead) is False
  assert not processes.is_dead(processes.process_name())
  assert processes.is_dead(processes.process_name(dead))


def test_another_process_may_have_got_the_number():
  _, start = processes.state_and_start(os.getpid())
  assert processes.is_alive(os.getpid(), start)
  assert processes.is_alive(os.getpid(), start - 1) is False


def test_a_process_that_ended_waits_for_its_parent():
  with subprocess.Popen(["true"]) as process:
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.state_and_start(process.pid)[0] == "Z"
    assert processes.is_alive(process.pid) is False
    assert processes.is_dead(processes.process_name(process.pid))


def test_where_processes_are_hidden_nothing_is_known(monkeypatch, dead):
  monkeypatch.setattr(processes, "_PROC", "/nowhere")
  assert processes.is_alive(os.getpid()) is None
  assert not processes.is_dead(processes.process_name())
  assert processes.is_alive(dead) is False


@pytest.mark.parametrize(
  "name",
  [
    *("", "-", "00000000-1", "{machine}", "{machine}-", "{machine}-0"),
    *("{machine}--1", "{machine}-9999999999", "{machine}-x", "{machine}-1 "),
  ],
)
def test_names_of_which_nothing_is_known(name):
  machine, _, _ = processes.process_name().rpartition("-")
  assert not processes.is_dead(name.format(machine=machine))


def test_temporary_names_differ_and_tell_their_process():
  first, second = processes.new_token(), processes.new_token()
  assert first != second
  assert first.startswith(f"{processes.process_name()}-")
