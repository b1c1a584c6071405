"""Tests of engine.process_names."""

import os
import subprocess

import pytest

from engine import process_names


def test_processes_that_live_and_that_ended(dead_process):
  assert process_names.is_alive(os.getpid())
  # Of another user, where this one is not root.
  assert process_names.is_alive(1)
  assert process_names.is_alive(dead_process) is False
  assert not process_names.is_dead(process_names.process_name())
  assert process_names.is_dead(process_names.process_name(dead_process))


def test_another_process_may_have_got_the_number():
  _, start = process_names.state_and_start(os.getpid())
  assert process_names.is_alive(os.getpid(), start)
  assert process_names.is_alive(os.getpid(), start - 1) is False


def test_a_process_that_ended_waits_for_its_parent():
  with subprocess.Popen(["true"]) as process:
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_names.state_and_start(process.pid)[0] == "Z"
    assert process_names.is_alive(process.pid) is False
    assert process_names.is_dead(process_names.process_name(process.pid))


def test_where_processes_are_hidden_nothing_is_known(monkeypatch, dead_process):
  monkeypatch.setattr(process_names, "_PROC", "/nowhere")
  assert process_names.is_alive(os.getpid()) is None
  assert not process_names.is_dead(process_names.process_name())
  assert process_names.is_alive(dead_process) is False


@pytest.mark.parametrize(
  "name",
  [
    *("", "-", "00000000-1", "{machine}", "{machine}-", "{machine}-0"),
    *("{machine}--1", "{machine}-9999999999", "{machine}-x", "{machine}-1 "),
  ],
)
def test_names_of_which_nothing_is_known(name):
  machine, _, _ = process_names.process_name().rpartition("-")
  assert not process_names.is_dead(name.format(machine=machine))


def test_temporary_names_differ_and_tell_their_process():
  first, second = process_names.new_token(), process_names.new_token()
  assert first != second
  assert first.startswith(f"{process_names.process_name()}-")
