"""Tests of engine.loop: what a signal does while a run trains."""

import os
import signal

import pytest

from engine import stop_signals
from engine.loop import StopSignal

pytestmark = pytest.mark.usefixtures("hears_hangup")


def send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", stop_signals.SIGNALS)
def test_a_first_signal_is_noted_and_a_second_one_stops(number):
  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  with StopSignal() as stop:
    assert stop.received is None
    send(number)
    assert stop.received == number.name
    send(signal.SIGINT)  # at once: the same, sent twice
    stop._received_at -= 1.0
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)
  after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  assert before == after


def test_a_terminal_that_is_closed_stops_once():
  before = signal.getsignal(signal.SIGHUP)
  with StopSignal() as stop:
    send(signal.SIGHUP)
    stop._received_at -= 1.0
    send(signal.SIGHUP)  # of the shell, after that of the system
    assert stop.received == "SIGHUP"
  assert signal.getsignal(signal.SIGHUP) == before


def test_what_is_ignored_stays_so(monkeypatch):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  try:
    with StopSignal() as stop:
      send(signal.SIGHUP)
      assert stop.received is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_others_are_not_told_of_a_signal_that_is_waited_for():
  told, tell = os.pipe()
  os.set_blocking(told, False)
  os.set_blocking(tell, False)
  before = signal.set_wakeup_fd(tell)
  try:
    with StopSignal() as stop:
      send(signal.SIGTERM)
      assert stop.received == "SIGTERM"
    with pytest.raises(BlockingIOError):
      os.read(told, 1)
    assert signal.set_wakeup_fd(before) == tell
  finally:
    signal.set_wakeup_fd(before)
    os.close(told)
    os.close(tell)
