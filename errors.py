"""The error that a user can fix; this file imports nothing.

Every message says what was expected, what was received and how to fix it.
"""


class UserError(Exception):
  """Shown as one line, without a traceback, and a non-zero exit code."""
