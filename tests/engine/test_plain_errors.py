"""Tests of engine.plain_errors: sentences for what the system refuses."""

import contextlib
import errno
import json
import os

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import checkpoint_steps, folder_content
from small_disks import file_limit, small_disk
from tiny_runs import train_tiny

import errors
from engine import plain_errors
from engine.plain_errors import in_plain_words

AGAIN = "then start the same command again."


def of_tensorflow(kind, text):
  return kind(None, None, text)


SAVE = "{{function_node __wrapped__SaveV2_dtypes_3_device_/job:localhost/cpu}} "


@pytest.mark.parametrize(
  ("error", "path"),
  [
    (OSError(errno.ENOSPC, "No space left on device", "/d/a b"), "/d/a b"),
    (OSError(errno.ENOSPC, "No space left on device"), "what is written"),
    (
      OSError(errno.ENOSPC, "full", "/d/.x.csv.tmp-0123abcd"),
      "/d/x.csv",
    ),
    (
      of_tensorflow(
        tf.errors.ResourceExhaustedError,
        f"{SAVE}/d/m y/model.ckpt-5_temp/part-00000-of-00001.data-00000-of-"
        "00001.tempstate77; No space left on device [Op:SaveV2]",
      ),
      "/d/m y/model.ckpt-5",
    ),
    (
      of_tensorflow(
        tf.errors.UnknownError,
        "Failed to flush 2 events to /d/events.v2\n\t/d/events.v2; No space"
        " left on device",
      ),
      "/d/events.v2",
    ),
    (
      of_tensorflow(
        tf.errors.InternalError, "d/x.json; No space left on device"
      ),
      "d/x.json",
    ),
    (
      of_tensorflow(
        tf.errors.DataLossError, "gs://b/x; No space left on device"
      ),
      "gs://b/x",
    ),
  ],
)
def test_a_full_disk(error, path):
  assert in_plain_words(error) == (
    f"Expected room on the disk for {path}, found the disk full. Free some"
    f" space, or name a folder on another disk; {AGAIN}"
  )


@pytest.mark.parametrize(
  ("number", "part"),
  [
    (errno.EDQUOT, "your quota used up"),
    (errno.EFBIG, "one with a limit"),
    (errno.EACCES, "received none from its permissions"),
    (errno.EROFS, "a read-only one"),
    (errno.EIO, "an input/output error"),
    (errno.EMFILE, "ulimit -n 4096"),
    (errno.ENFILE, "ulimit -n 4096"),
    (errno.ENAMETOOLONG, "Name a shorter one"),
    (errno.ELOOP, "which leads back to itself"),
  ],
)
def test_other_refusals(number, part):
  for error in (
    OSError(number, os.strerror(number), "/d/x"),
    of_tensorflow(tf.errors.UnknownError, f"/d/x; {os.strerror(number)}"),
  ):
    text = in_plain_words(error)
    assert part in text
    assert "/d/x" in text
    assert text.startswith("Expected ")
    assert text.endswith(".")


def test_a_network_that_does_not_answer():
  curl = (
    "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve"
    " hostname', error details: Could not resolve host: www.googleapis.com"
  )
  for more, path in (
    ("\n\t when reading metadata of gs://b/run/x", "gs://b/run/x"),
    ("\n\t when reading gs://b/", "gs://b/"),
    ("", "a remote file"),
  ):
    error = of_tensorflow(tf.errors.FailedPreconditionError, curl + more)
    expected = (
      f"Expected an answer of the network about {path}, received none: Could"
      f" not resolve hostname. Check the connection and the address; {AGAIN}"
    )
    assert in_plain_words(error) == expected
    with (
      pytest.raises(errors.MachineError) as caught,
      plain_errors.said_plainly(),
    ):
      raise error
    assert str(caught.value) == expected


MEMORY = [
  MemoryError(),
  OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
  of_tensorflow(
    tf.errors.ResourceExhaustedError,
    "Graph execution error:\n\nDetected at node MatMul\nOOM when allocating"
    " tensor with shape[9,9] and type float on /job:localhost",
  ),
  of_tensorflow(tf.errors.InternalError, "Dst tensor is not initialized."),
  of_tensorflow(tf.errors.UnknownError, "MemoryError: Unable to allocate it"),
]


@pytest.mark.parametrize("error", MEMORY)
def test_too_little_memory(error):
  assert in_plain_words(error, 512) == (
    "Expected memory for a batch of 512 videos, found too little. Use a smaller"
    " --batch_size, or close other programs."
  )
  assert in_plain_words(error) == (
    "Expected more memory than there is. Close other programs, or use a machine"
    " with more."
  )


@pytest.mark.parametrize(
  "error",
  [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    of_tensorflow(tf.errors.NotFoundError, "/x; No such file or directory"),
    of_tensorflow(tf.errors.ResourceExhaustedError, "too many requests"),
    ValueError("No space left on device"),
  ],
)
def test_errors_of_other_kinds(error):
  assert in_plain_words(error) is None
  with pytest.raises(type(error)) as caught, plain_errors.said_plainly():
    raise error
  assert caught.value is error


def raise_of_digits():
  int("9" * 5000)


def raise_of_name():
  "\udc80.csv".encode()


@pytest.mark.parametrize(
  ("function", "words"),
  [
    (
      lambda: tf.io.gfile.exists("no://y"),
      "received no://y, of which no:// is",
    ),
    (lambda: tf.io.gfile.exists("\udc80"), r"received b'\x80'. Rename"),
    (raise_of_name, r"received b'\x80.csv'. Rename"),
    (raise_of_digits, "received one of thousands of digits"),
  ],
)
def test_texts_that_are_no_names_or_numbers(function, words):
  with pytest.raises(errors.UserError) as caught, plain_errors.said_plainly():
    function()
  assert words in str(caught.value)
  assert errors.exit_status(caught.value) == 2


def test_a_block_and_a_function():
  with (
    pytest.raises(errors.UserError, match="a batch of 7 videos") as caught,
    plain_errors.said_plainly(7),
  ):
    raise MEMORY[0]
  assert caught.value.__cause__ is MEMORY[0]
  mine = errors.UserError("Expected another.")
  with pytest.raises(errors.UserError) as caught, plain_errors.said_plainly():
    raise mine
  assert caught.value is mine

  @plain_errors.said_plainly()
  def main():
    raise MEMORY[-1]

  with pytest.raises(errors.MachineError, match="more memory than there is"):
    main()


@pytest.mark.slow
def test_a_batch_that_finds_no_memory(tiny_files, tmp_path, monkeypatch):
  def run(*unused):
    tf.fill([1 << 44], 1.0)

  monkeypatch.setattr("engine.loop.run_some_steps", run)
  with pytest.raises(errors.UserError) as caught:
    train_tiny(tmp_path / "model", tiny_files)
  assert str(caught.value) == in_plain_words(MemoryError(), 5)


# --------------------------------------------------------------------------
# Programs on a disk without room

MODEL = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
  "--batch_size=5",
  "--xla=False",
  "--export_model_steps=100",
)


def check(line, path):
  assert "{{" not in line
  assert "Errno" not in line
  assert str(path) in line
  assert AGAIN in line
  assert line.count("\n") == 0


@pytest.fixture
def trained(tiny_files, tmp_path):
  """(train_dir, flag of the data) after a step."""
  train_tiny(tmp_path / "model", tiny_files, max_steps=1)
  return tmp_path / "model", ",".join(tiny_files)


def test_a_prediction_without_room(trained, tmp_path):
  train_dir, data = trained
  output = tmp_path / "out" / "x.csv"
  flags = (
    f"--train_dir={train_dir}",
    f"--input_data_pattern={data}",
    f"--output_file={output}",
  )
  with file_limit(100):
    line = in_process.run_into_error("inference", *flags, exit_code=1)
  check(line, output)
  assert folder_content(output.parent) == {}
  in_process.run("inference", *flags)
  assert output.exists()


def test_a_model_in_a_file_without_room(trained, tmp_path):
  train_dir, data = trained
  with file_limit(100):
    line = in_process.run_into_error(
      "inference",
      f"--train_dir={train_dir}",
      f"--input_data_pattern={data}",
      f"--output_file={tmp_path}/x.csv",
      f"--output_model_tgz={tmp_path}/x.tgz",
      exit_code=1,
    )
  check(line, tmp_path / "x.tgz")
  assert list(tmp_path.iterdir()) == [train_dir]


def test_a_full_device_of_a_prediction(trained):
  train_dir, data = trained
  line = in_process.run_into_error(
    "inference",
    f"--train_dir={train_dir}",
    f"--input_data_pattern={data}",
    "--output_file=/dev/full",
    exit_code=1,
  )
  check(line, "/dev/full")


@pytest.mark.slow
def test_programs_on_a_full_disk(tiny_files, tmp_path):
  """A disk that is filled after 4 steps, and gets room again."""
  disk = tmp_path / "disk"
  disk.mkdir()
  with small_disk(disk, 8 << 20):
    data = ",".join(tiny_files)
    train_dir = f"--train_dir={disk}/model"
    training = (train_dir, f"--train_data_pattern={data}", *MODEL)
    in_process.run("train", *training, "--max_steps=4")
    before = in_process.run("eval", train_dir, "--run_once", *_evaluated(data))
    fill(disk / "filler")
    more = ("--max_steps=8", "--num_epochs=0")
    line = in_process.run_into_error("train", *training, *more, exit_code=1)
    check(line, f"{disk}/model")
    assert checkpoint_steps(disk / "model") == {4}
    line = in_process.run_into_error(
      "eval", train_dir, "--run_once", *_evaluated(data), exit_code=1
    )
    check(line, f"{disk}/model")
    for program, output in (
      ("inference", "--output_file"),
      ("export_model", "--output_dir"),
    ):
      given = [f"--input_data_pattern={data}"] * (program == "inference")
      path = f"{disk}/out"
      line = in_process.run_into_error(
        program, train_dir, f"{output}={path}", *given, exit_code=1
      )
      check(line, path)
    assert sorted(os.listdir(disk)) == ["filler", "model"]
    os.remove(disk / "filler")
    again = in_process.run("eval", train_dir, "--run_once", *_evaluated(data))
    assert scores_in(again) == scores_in(before)
    in_process.run("train", *training, *more)
    assert max(checkpoint_steps(disk / "model")) == 8
    in_process.run(
      "inference",
      train_dir,
      f"--input_data_pattern={data}",
      f"--output_file={disk}/out",
    )
    in_process.run("export_model", train_dir, f"--output_dir={disk}/exported")
    metrics = json.loads(
      (disk / "model" / "eval" / "metrics-4.json").read_text()
    )
    assert np.isfinite(metrics["gap"])


def _evaluated(data) -> tuple[str, ...]:
  return (f"--eval_data_pattern={data}", "--batch_size=5")


def scores_in(log) -> str:
  return log.partition("epoch/eval number")[2].splitlines()[0]


def fill(path) -> None:
  """Writes a file until the disk is full."""
  with open(path, "wb", buffering=0) as file:
    for size in (1 << 16, 1):
      with contextlib.suppress(OSError):
        while True:
          file.write(bytes(size))
