"""What every program of this project does before and around its own work.

Import this module first: it imports TensorFlow without the native log lines
that TensorFlow prints while it loads, with Keras on its TensorFlow backend and
with a memory allocator that suits large temporaries. `run` then turns the
errors a user can cause into one line and a non-zero exit.
"""

import contextlib
import ctypes
import os
import sys
import tempfile

from absl import app, flags, logging

from errors import UserError


def _tune_allocator() -> None:
  """Makes glibc keep large freed blocks instead of returning them.

  A batch of frames, a matrix of activations or a gradient is tens of MB, above
  the size from which glibc asks the kernel for new, zeroed pages each time;
  every training step then pays for its page faults again. See
  docs/performance.md for what this gives. Other C libraries are left alone.
  """
  # Of glibc's malloc.h.
  m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(m_mmap_threshold, 1 << 30)
  mallopt(m_trim_threshold, (1 << 31) - 1)
  # Threads have heaps of 64 MB of their own; this keeps empty ones of them.
  mallopt(m_top_pad, 1 << 26)


def _set_xla_flags() -> None:
  """Tells XLA to update weights in place; a user's own XLA_FLAGS go first.

  By itself it copies a weight matrix that a regularizer reads beside the
  update. See docs/performance.md for what this gives.
  """
  name = "--xla_cpu_copy_insertion_use_region_analysis"
  given = os.environ.get("XLA_FLAGS", "")
  if name not in given:
    os.environ["XLA_FLAGS"] = f"{given} {name}=true".strip()


def _import_tensorflow_quietly() -> None:
  """Imports TensorFlow; its native log stays hidden unless asked for.

  Some lines are printed before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, so the
  process's stderr is put aside during the import, and shown if it fails. A
  user who sets that variable to 0 or 1 sees everything from that level on.
  """
  # Even errors: without a GPU, CUDA's failed search for one is logged as one.
  # What goes wrong for real is raised in Python as well.
  if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
    import tensorflow

    return
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as hidden:
    os.dup2(hidden.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except BaseException:
      hidden.seek(0)
      os.write(stderr, hidden.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


# The programs compute with TensorFlow whatever KERAS_BACKEND says; the model
# files alone run on the other backends too.
os.environ["KERAS_BACKEND"] = "tensorflow"
_tune_allocator()
_set_xla_flags()
_import_tensorflow_quietly()


def _is_worth_showing(record) -> bool:
  """Hides what TensorFlow's own Python code has to say below a warning."""
  return record.levelno >= 30 or "/tensorflow/" not in record.pathname


@contextlib.contextmanager
def naming_flag(name: str):
  """Adds to the error of a file which flag named it.

  Args:
    name: of the flag.

  Raises:
    UserError: the block raised an OSError, or TensorFlow's like of it.
  """
  import tensorflow as tf

  try:
    yield
  except (OSError, *_file_errors(tf)) as error:
    reason = getattr(error, "message", None) or error
    raise UserError(
      f"Expected a file that can be read or written as"
      f" --{name}={flags.FLAGS[name].value}: {reason}"
    ) from error


def _file_errors(tf) -> tuple:
  """What TensorFlow raises for files and folders."""
  return (
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a file where a folder should be
    tf.errors.ResourceExhaustedError,  # memory, or room on the disk
    tf.errors.UnavailableError,
  )


def run(main) -> None:
  """Parses the flags, calls `main()` and exits as a command should.

  Args:
    main: function without arguments. Its return value is ignored.

  Exit codes: 0 done; 1 a UserError or a file that could not be read or
  written, shown as one line on stderr; 130 stopped with Ctrl-C, which train.py
  takes as an order to save and end: 0.
  """
  logging.get_absl_handler().addFilter(_is_worth_showing)
  app.run(lambda argv: _guarded(main, argv))


def _guarded(main, argv) -> None:
  import tensorflow as tf

  tf.get_logger().setLevel("WARNING")
  try:
    if len(argv) > 1:
      raise UserError(
        f"Expected flags only, received the argument {argv[1]!r}. Write"
        " flags as --name=value; a value with blanks needs quotes."
      )
    main()
  except (
    UserError,
    OSError,
    *_file_errors(tf),
  ) as error:
    message = getattr(error, "message", None) or error
    # It would still list what a checkpoint held that the model did not take.
    tf.get_logger().setLevel("CRITICAL")
    logging.flush()
    sys.exit(f"ERROR: {' '.join(str(message).split())}")
  except KeyboardInterrupt:
    logging.flush()
    sys.stderr.write("Stopped by Ctrl-C.\n")
    sys.exit(130)
