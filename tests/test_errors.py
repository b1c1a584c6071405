"""Tests of errors: whose fault an error is, and names that are near."""

import errno
import os

import pytest
import tensorflow as tf

import errors


def system_error(number) -> OSError:
  return OSError(number, os.strerror(number), "/a/file")


@pytest.mark.parametrize(
  "error",
  [
    errors.MachineError("lost one"),
    MemoryError(),
    TimeoutError("no answer"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    *map(system_error, [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE]),
    tf.errors.ResourceExhaustedError(None, None, "OOM"),
    tf.errors.UnavailableError(None, None, "no route"),
    tf.errors.DeadlineExceededError(None, None, "late"),
    tf.errors.UnknownError(None, None, "/a/file; Input/output error"),
    tf.errors.FailedPreconditionError(
      None, None, "libcurl code 28 meaning 'Timeout was reached'"
    ),
    tf.errors.DataLossError(
      None, None, "Unable to open table file a: a; Input/output error"
    ),
  ],
)
def test_faults_of_the_machine(error):
  assert errors.is_fault_of_machine(error)
  assert errors.exit_status(error) == 1
  found = errors.of_system(error, "Expected a file.")
  assert type(found) is errors.MachineError
  assert str(found) == "Expected a file."


@pytest.mark.parametrize(
  "error",
  [
    errors.UserError("Expected more"),
    *map(system_error, [errno.ENOENT, errno.EACCES, errno.EISDIR]),
    OSError("Not a gzipped file"),
    tf.errors.NotFoundError(None, None, "/a/file; No such file"),
    tf.errors.PermissionDeniedError(None, None, "/a/file; denied"),
    tf.errors.UnknownError(None, None, "of a function"),
    tf.errors.DataLossError(None, None, "Checksum does not match"),
  ],
)
def test_what_the_user_can_fix(error):
  assert not errors.is_fault_of_machine(error)
  assert errors.exit_status(error) == 2
  assert type(errors.of_system(error, "Expected a file.")) is errors.UserError


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("modle", "model"),
    ("MODEL", "model"),
    ("bach_size", "batch_size"),
    ("framefeatures", "frame_features"),
    ("StreamLstm", "StreamLstmModel"),
    ("streamlstmmodel", "StreamLstmModel"),
    ("nothing", None),
    ("", None),
    ("x", None),
  ],
)
def test_the_nearest_name(name, near):
  known = ["frame_features", "batch_size", "model", "StreamLstmModel", "xla"]
  assert errors.nearest(name, known) == near
  expected = f" Did you mean {near}?" if near else ""
  assert errors.did_you_mean(name, known) == expected


@pytest.mark.parametrize(
  ("content", "words"),
  [
    *(("", "Expecting value"), ("{", "Expecting property")),
    *((b"\xff", "decode"), ("[" * 100_000, "recursion")),
  ],
)
def test_what_is_no_json_is_one_kind_of_error(content, words):
  with pytest.raises(ValueError, match=words):
    errors.parse_json(content)
  assert errors.parse_json(b'{"a": [1]}') == {"a": [1]}
