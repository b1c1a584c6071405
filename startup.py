"""The start of every program that computes with TensorFlow.

Import this module first: it imports TensorFlow without the native log lines
that TensorFlow prints while it loads, with Keras on its TensorFlow backend and
with a memory allocator that suits large temporaries. `run` then turns the
errors that are no bugs into one line and an exit status. It is that of
command_line.py, which programs that need no TensorFlow import instead.
"""

import stopping  # isort: skip, first: it catches what stops the rest

import ctypes
import json
import os
import sys
import tempfile

from command_line import (
  ShortPrefix,
  call_main,
  end,
  naming_flag,
  parse_flags,
  run,
)

__all__ = ["ShortPrefix", "call_main", "naming_flag", "parse_flags", "run"]


def _wanted_backend() -> tuple[str, str]:
  """The backend that Keras is set to, and the setting."""
  name = os.environ.get("KERAS_BACKEND")
  if name:
    return name, f"KERAS_BACKEND={name}"
  folder = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
  path = os.path.join(folder, "keras.json")
  try:
    with open(path, encoding="utf-8") as file:
      name = json.load(file)["backend"]
  except (OSError, ValueError, KeyError, TypeError):
    name = "tensorflow"
  return name, f'"backend": "{name}" in {path}'


def _refuse_other_backends() -> None:
  """Ends the program if another backend is set.

  It would compute on TensorFlow anyway. The check comes before the import of
  TensorFlow, which takes seconds.
  """
  name, where = _wanted_backend()
  if name != "tensorflow":
    end(
      f"ERROR: Expected tensorflow as Keras's backend, received {where}. The"
      " programs compute on TensorFlow; only the models also run on others. Set"
      " KERAS_BACKEND=tensorflow.",
      status=2,
    )


def _tune_allocator() -> None:
  """Makes glibc keep large freed blocks instead of returning them.

  A batch of frames, a matrix of activations or a gradient is tens of MB, above
  the size from which glibc asks the kernel for new, zeroed pages each time;
  every training step then pays for its page faults again. See
  docs/performance.md for the effect. Other C libraries are not changed.
  """
  # From glibc's malloc.h.
  m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(m_mmap_threshold, 1 << 30)
  mallopt(m_trim_threshold, (1 << 31) - 1)
  # Each thread has heaps of 64 MB; this keeps the empty ones.
  mallopt(m_top_pad, 1 << 26)


def _set_xla_flags() -> None:
  """Makes XLA update weights in place; keeps the user's own XLA_FLAGS.

  By default, XLA copies a weight matrix that a regularizer reads too. See
  docs/performance.md for the effect.
  """
  name = "--xla_cpu_copy_insertion_use_region_analysis"
  given = os.environ.get("XLA_FLAGS", "")
  if name not in given:
    os.environ["XLA_FLAGS"] = f"{given} {name}=true".strip()


def _import_tensorflow_quietly() -> None:
  """Imports TensorFlow; its native log stays hidden unless asked for.

  Some lines are printed before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, so the
  process's stderr is redirected during the import, and shown if it fails. A
  user who sets that variable to 0 or 1 sees everything from that level on.
  """
  # Even errors are hidden: without a GPU, CUDA logs its failed search for one
  # as an error. Real errors are also raised in Python.
  if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
    import tensorflow

    return
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as hidden:
    stopping.speak_to(stderr)
    os.dup2(hidden.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except BaseException:
      hidden.seek(0)
      os.write(stderr, hidden.read())
      raise
    finally:
      os.dup2(stderr, 2)
      stopping.speak_to(2)
      os.close(stderr)


_refuse_other_backends()
os.environ["KERAS_BACKEND"] = "tensorflow"
_tune_allocator()
_set_xla_flags()
try:
  _import_tensorflow_quietly()
except ImportError as _error:
  # What the loader says of a library that the limit of memory has no room for.
  if "failed to map segment" not in str(_error):
    raise
  end(
    "ERROR: Expected memory for TensorFlow's libraries, received too little:"
    f" {_error}. Raise the limit of `ulimit -v`, or use a machine with more.",
    status=1,
  )
