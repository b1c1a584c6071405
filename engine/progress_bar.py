"""How far a long work is: a bar on a terminal, lines elsewhere."""

import contextlib
import datetime
import os
import sys
import time

from absl import logging

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 5.0
_MOST_WIDTH = 20
_UNKNOWN_COLUMNS = 200


class ProgressBar:
  """Draws one line on stderr again and again, which the log does not break.

  Attributes:
    is_on_terminal: whether stderr is a terminal; else nothing should be drawn.
  """

  def __init__(self):
    self.is_on_terminal = sys.stderr.isatty()
    self._is_open = False
    self._width = _MOST_WIDTH
    self._length = 0
    self._first_done: tuple[float, float] | None = None

  @property
  def columns(self) -> int:
    """The longest line that does not wrap, which could not be drawn over."""
    columns = 0
    with contextlib.suppress(OSError):  # the terminal was closed
      columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return (columns or _UNKNOWN_COLUMNS) - 1  # 0 is an unknown width

  def begin(self, done: float) -> None:
    """Estimates the time left from here on; only the first call counts.

    Args:
      done: how much is done, from 0 to 1.
    """
    if self._first_done is None:
      self._first_done = time.monotonic(), done

  def draw(self, done: float, text: str) -> None:
    """Draws the bar.

    Args:
      done: how much is done, from 0 to 1.
      text: what to write after the bar, before the time left.
    """
    began, done_before = self._first_done or (0.0, 1.0)
    left = ""
    if done > done_before:
      pace = (time.monotonic() - began) / (done - done_before)
      left = f" | {datetime.timedelta(seconds=round(pace * (1 - done)))} left"
    columns = self.columns
    text = f" {text}{left}"
    self._width = max(3, min(self._width, columns - len(text) - 2))
    filled = round(self._width * done)
    line = f"[{'=' * filled}{' ' * (self._width - filled)}]{text}"
    # Spaces overwrite the rest of a longer line.
    line = line[:columns].ljust(self._length)
    self._length = len(line)
    if not self._is_open:
      logging.get_absl_handler().addFilter(self._end_before)
      self._is_open = True
    sys.stderr.write(f"\r{line}")
    sys.stderr.flush()

  def _end_before(self, unused_record) -> bool:
    """Ends the bar's line before a line of the log."""
    self.end()
    return True

  def end(self) -> None:
    """Ends the bar's line; the next `draw` begins another one."""
    logging.get_absl_handler().removeFilter(self._end_before)
    if self._is_open:
      self._is_open = False
      sys.stderr.write("\n")


class Progress:
  """Shows how far a work is: by a bar, or by a line now and then.

  Args:
    doing: the first word of a line, such as Checked.
  """

  def __init__(self, doing: str):
    self._doing = doing
    self._bar = ProgressBar()
    self._bar.begin(0.0)
    self._last = time.monotonic()

  def is_due(self) -> bool:
    """Whether it is time to call `show`; then not for a while."""
    now = time.monotonic()
    wait = _REDRAW_SECONDS if self._bar.is_on_terminal else _LINE_SECONDS
    if now - self._last < wait:
      return False
    self._last = now
    return True

  def show(self, done: float, text: str) -> None:
    """Draws the bar, or writes a line.

    Args:
      done: how much is done, from 0 to 1.
      text: what to write about it.
    """
    if self._bar.is_on_terminal:
      self._bar.draw(min(done, 1.0), text)
    else:
      logging.info("%s %s", self._doing, text)

  def end(self) -> None:
    """Ends the bar."""
    self._bar.end()
