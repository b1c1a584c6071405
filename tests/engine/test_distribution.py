"""Tests of distribution: replicas on devices and machines act as one."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
  REPOSITORY,
  Program,
  assert_same_state,
  checkpoint_steps,
  checkpoint_values,
  event_tags,
)
from make_records import frame_record, video_record, write_records

import errors
import train
from engine import distribution
from engine.checkpoints import checkpoint_step, latest_checkpoint
from engine.model_flags import read_model_flags
from engine.settings import Settings

# Videos in each file. Neither two or three machines divide the files evenly,
# nor any batch the videos.
SIZES = (13, 7, 5, 9, 11)
VIDEO_FLAGS = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
)
FRAME_FLAGS = (
  "--frame_features=True",
  "--feature_names=rgb,audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
  "--max_frames=7",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A folder of video0.tfrecord to video4.tfrecord, frame0.tfrecord, ..."""
  folder = tmp_path_factory.mktemp("data")
  random = np.random.default_rng(3)
  for number, size in enumerate(SIZES):
    videos, frames = [], []
    for index in range(size):
      about = f"{number}-{index}", random.choice(6, 2, replace=False)
      rgb = random.integers(
        256, size=(random.integers(1, 8), 4), dtype=np.uint8
      )
      audio = random.integers(256, size=(len(rgb), 3), dtype=np.uint8)
      frames.append(frame_record(*about, rgb=rgb, audio=audio))
      vectors = np.split(random.normal(size=7).astype(np.float32), [4])
      videos.append(
        video_record(*about, mean_rgb=vectors[0], mean_audio=vectors[1])
      )
    write_records(folder / f"video{number}.tfrecord", videos)
    write_records(folder / f"frame{number}.tfrecord", frames)
  return folder


# --------------------------------------------------------------------------
# Programs


# A second CPU must be configured before TensorFlow computes anything.
RUN_ON_CPUS = """
import startup, json, sys, in_process, tensorflow as tf
number, *commands = json.loads(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
  cpu, [tf.config.LogicalDeviceConfiguration()] * number
)
print(json.dumps([in_process.run(*command) for command in commands]))
"""


def run_on_cpus(folder, number, *commands) -> list[str]:
  """Runs programs on a machine with several CPUs; returns their logs.

  Args:
    folder: for the log.
    number: of CPUs.
    *commands: the module and the flags of each program.
  """
  if number == 1:
    return [in_process.run(*command) for command in commands]
  arguments = json.dumps([number, *commands])
  with Program(
    folder / "log",
    "-c",
    RUN_ON_CPUS,
    arguments,
    PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
  ) as run:
    return json.loads(run.finish().splitlines()[-1])


def free_ports(number) -> list[int]:
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
    for one in sockets:
      one.bind(("127.0.0.1", 0))
    return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def workers(
  folder, number, *flags, own_flags=lambda index: (), program=("train.py",)
):
  """Starts python train.py on several machines, all of them this one.

  own_flags returns further flags of one of them.
  """
  addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
  with contextlib.ExitStack() as stack:
    yield [
      stack.enter_context(
        Program(
          folder / f"log{index}",
          *program,
          *flags,
          *own_flags(index),
          PYTHONPATH=os.pathsep.join(
            str(REPOSITORY / name) for name in ("", "tests", "tests/engine")
          ),
          TF_CONFIG=json.dumps(
            {
              "cluster": {"worker": addresses},
              "task": {"type": "worker", "index": index},
            }
          ),
        )
      )
      for index in range(number)
    ]


def weights_of(checkpoint) -> dict:
  return {
    name: value
    for name, value in checkpoint_values(checkpoint).items()
    if value.dtype == np.float32
  }


def assert_same_weights(one, other) -> None:
  expected, found = weights_of(one), weights_of(other)
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


# --------------------------------------------------------------------------
# Several devices of one machine


# For each name: level of the data, flags.
REPLICATED = {
  "clipped": ("video", ("--model=LogisticModel", "--clip_gradient_norm=0.05")),
  "averaged": (
    "frame",
    ("--model=FrameLevelLogisticModel", "--ema_decay=0.9"),
  ),
  "momentum": (
    "video",
    ("--model=LogisticModel", "--optimizer=MomentumOptimizer"),
  ),
  "autoencoder": (
    "frame",
    (
      "--model=AutoencoderConcatModel",
      "--dropout_rate=0",
      "--lstm_cells=3",
      "--lstm_layers=1",
      "--stream_dense_size=4",
      "--stream_hidden_sizes=4",
      "--nn_tower_sizes=6",
      "--nn_branch_sizes=5",
      "--autoencoder_code_size=8",
      "--autoencoder_frame_code_size=8",
    ),
  ),
}


@pytest.mark.parametrize(
  "names",
  [
    pytest.param(("clipped", "averaged"), marks=pytest.mark.slow),
    pytest.param(("momentum", "autoencoder"), marks=pytest.mark.slow),
  ],
)
def test_two_replicas_equal_one(tmp_path, data, names):
  # 135 videos in batches of 6 are 23 steps, the last one with 3.
  def command(name, folder, batch_size):
    level, flags = REPLICATED[name]
    return (
      "train",
      f"--train_data_pattern={data}/{level}*.tfrecord",
      *(VIDEO_FLAGS if level == "video" else FRAME_FLAGS),
      "--base_learning_rate=0.01",
      "--num_epochs=3",
      *flags,
      f"--batch_size={batch_size}",
      f"--train_dir={tmp_path}/{name}/{folder}",
    )

  for name in names:
    # One training a process: Keras numbers the layers of a second one on, and
    # TensorFlow numbers its sums as those of the first, whose shapes it still
    # expects.
    (log,) = run_on_cpus(tmp_path, 1, command(name, "one", 6))
    assert "Computing on one CPU." in log
    (log,) = run_on_cpus(tmp_path, 2, command(name, "two", 3))
    assert "Computing on 2 CPUs of this machine." in log
    assert "batch size 6" in log
  for name in names:
    folders = tmp_path / name / "one", tmp_path / name / "two"
    for folder in folders:
      assert latest_checkpoint(str(folder)).endswith("-23")
    assert_same_weights(*folders)
    one, two = map(event_tags, folders)
    assert one.keys() == two.keys()
    assert two["label_loss"][23] == pytest.approx(
      one["label_loss"][23], rel=1e-4
    )
    assert two["model/Training_GAP"][23] == pytest.approx(
      one["model/Training_GAP"][23], abs=1e-4
    )


@pytest.mark.slow
def test_replicas_without_videos_change_nothing(tmp_path, data):
  """45 videos in batches of 4 x 11: the last step has one video."""
  common = (
    "train",
    f"--train_data_pattern={data}/video*.tfrecord",
    *VIDEO_FLAGS,
    "--num_epochs=1",
  )
  one, four = tmp_path / "one", tmp_path / "four"
  run_on_cpus(tmp_path, 1, (*common, "--batch_size=44", f"--train_dir={one}"))
  run_on_cpus(tmp_path, 4, (*common, "--batch_size=11", f"--train_dir={four}"))
  assert latest_checkpoint(str(four)).endswith("-2")
  assert_same_weights(one, four)


def test_many_small_models_do_not_look_like_one_traced_anew(caplog):
  """As those of an ensemble, each of which has few batches."""
  placement = distribution.Placement()
  tf.get_logger().addHandler(caplog.handler)
  try:
    for number in range(6):
      compute = placement.compile_forward(
        lambda batch, number=number: batch["rgb"] + number, with_xla=False
      )
      batch = {"rgb": tf.zeros([2, 3])}
      np.testing.assert_array_equal(compute(batch), np.full([2, 3], number))
  finally:
    tf.get_logger().removeHandler(caplog.handler)
  assert not caplog.text


@pytest.mark.slow
def test_evaluation_and_prediction_on_several_devices(tmp_path, data):
  """45 videos in batches of 22 on 3 devices: the last batch has one video."""
  train_dir = f"--train_dir={tmp_path}/run"
  in_process.run(
    "train",
    train_dir,
    f"--train_data_pattern={data}/frame*.tfrecord",
    *FRAME_FLAGS,
    "--model=FrameLevelLogisticModel",
    "--batch_size=6",
  )
  scores, lines = [], []
  for number in (1, 3):
    log, _ = run_on_cpus(
      tmp_path,
      number,
      (
        "eval",
        train_dir,
        f"--eval_data_pattern={data}/frame*.tfrecord",
        "--run_once",
        "--batch_size=22",
      ),
      (
        "inference",
        train_dir,
        f"--input_data_pattern={data}/frame*.tfrecord",
        f"--output_file={tmp_path}/{number}.csv",
        "--batch_size=22",
        "--top_k=6",
      ),
    )
    assert f"Computing on {'one CPU' if number == 1 else '3 CPUs'}" in log
    (path,) = (tmp_path / "run" / "eval").glob("metrics-*.json")
    scores.append(json.loads(path.read_text()))
    with open(tmp_path / f"{number}.csv") as file:
      lines.append([line.replace(",", " ").split() for line in file])
  assert scores[0]["num_examples"] == sum(SIZES)
  for name in ("gap", "map", "avg_hit_at_one", "avg_perr", "avg_loss"):
    assert scores[1][name] == pytest.approx(scores[0][name], abs=1e-5), name
  assert len(lines[0]) == 1 + sum(SIZES)
  # Only a single device's predictions are compiled by XLA: the last digit.
  assert lines[0][0] == lines[1][0]
  for one, other in zip(lines[0][1:], lines[1][1:], strict=True):
    assert [one[0], *one[1::2]] == [other[0], *other[1::2]]  # id and classes
    np.testing.assert_allclose(
      np.array(one[2::2], float), np.array(other[2::2], float), atol=1e-5
    )


# --------------------------------------------------------------------------
# Several machines


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_machines_equal_one_on_the_same_batches(tmp_path, data, number):
  """Through train.py itself, stopped and resumed in between."""
  flags = (
    f"--train_dir={tmp_path}/run",
    f"--train_data_pattern={data}/video*.tfrecord",
    *VIDEO_FLAGS,
    "--batch_size=4",
    "--num_epochs=4",
    "--clip_gradient_norm=0.05",
  )
  # All machines stop for the profile that one of them writes.
  for more in (("--max_steps=9", "--profile_steps=3,5"), ()):
    with workers(tmp_path, number, *flags, *more) as programs:
      logs = [program.finish() for program in programs]
    assert all(f"Computing on {number} machines" in log for log in logs)
    assert all(f"batch size {4 * number}" in log for log in logs)

  files = sorted(str(path) for path in data.glob("video*"))
  step = train.train(
    str(tmp_path / "one"),
    read_model_flags(str(tmp_path / "run")),
    files,
    Settings(
      batch_size=4 * number,
      base_learning_rate=0.01,
      num_epochs=4,
      clip_gradient_norm=0.05,
    ),
  )

  assert latest_checkpoint(str(tmp_path / "run")).endswith(f"-{step}")
  assert_same_weights(tmp_path / "one", tmp_path / "run")
  # Every video in every epoch.
  state = checkpoint_values(tmp_path / "run")
  assert state["examples_seen/.ATTRIBUTES/VARIABLE_VALUE"] == 4 * sum(SIZES)
  # One event file per start, and one writer.
  assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 2
  assert all(
    np.isfinite(v) for v in event_tags(tmp_path / "run")["label_loss"].values()
  )
  assert (tmp_path / "run" / "export" / f"step_{step}").is_dir()
  assert (
    len(list((tmp_path / "run").glob("plugins/profile/*/*.xplane.pb"))) == 1
  )


@pytest.mark.slow
def test_the_number_of_machines_may_change_on_the_way(tmp_path, data):
  """One machine, then three, then two, in batches of 12 of one order."""
  common = (
    f"--train_data_pattern={data}/video*.tfrecord",
    *VIDEO_FLAGS,
    "--num_epochs=3",
  )
  one, run = tmp_path / "one", tmp_path / "run"
  in_process.run("train", *common, "--batch_size=12", f"--train_dir={one}")
  in_process.run(
    "train", *common, "--batch_size=12", f"--train_dir={run}", "--max_steps=2"
  )
  for number, more in ((3, ("--max_steps=6",)), (2, ())):
    with workers(
      tmp_path,
      number,
      *common,
      f"--batch_size={12 // number}",
      f"--train_dir={run}",
      *more,
    ) as programs:
      for program in programs:
        assert "epochs count from here" not in program.finish()
  steps = -(-3 * sum(SIZES) // 12)
  for folder in (one, run):
    assert latest_checkpoint(str(folder)).endswith(f"-{steps}")
  assert_same_weights(one, run)


def endless(tmp_path, data) -> tuple[str, ...]:
  return (
    f"--train_dir={tmp_path}/run",
    f"--train_data_pattern={data}/video*.tfrecord",
    *VIDEO_FLAGS,
    "--batch_size=4",
    "--num_epochs=0",
    "--export_model_steps=10",
  )


@pytest.mark.slow
def test_a_machine_that_dies_ends_all_and_a_signal_saves_and_ends_all(
  tmp_path, data
):
  flags = endless(tmp_path, data)
  with workers(tmp_path, 2, *flags) as (chief, other):
    chief.wait_for(lambda: latest_checkpoint(str(tmp_path / "run")) is not None)
    other.send_signal(signal.SIGKILL)
    began = time.monotonic()

    assert chief.wait_for_end() == 1

    assert time.monotonic() - began < 90
    (line,) = [x for x in chief.log.splitlines() if x.startswith("ERROR: ")]
    assert "lost one" in line
    assert "Start the same command on all of them" in line
    assert "Traceback" not in chief.log
  saved = latest_checkpoint(str(tmp_path / "run"))
  step = checkpoint_step(saved)

  with workers(tmp_path, 2, *flags) as (chief, other):
    other.wait_for_line("training step")
    other.send_signal(signal.SIGTERM)

    logs = [chief.finish(), other.finish()]

  assert all(f"Continuing from {saved}." in log for log in logs)
  newest = latest_checkpoint(str(tmp_path / "run"))
  last = checkpoint_step(newest)
  assert last > step
  assert all(f"Done at step {last}" in log for log in logs)


@pytest.mark.slow
def test_machines_killed_at_any_moment(tmp_path, data):
  """Six kills of one or both of two machines, over the ends of many epochs."""

  def flags(train_dir):
    return (
      f"--train_dir={train_dir}",
      f"--train_data_pattern={data}/video*.tfrecord",
      *VIDEO_FLAGS,
      "--batch_size=4",
      "--num_epochs=24",
      "--export_model_steps=4",
    )

  killed, whole = tmp_path / "killed", tmp_path / "whole"
  random = np.random.default_rng(5)
  steps = []
  # The machines to kill at once; what is left ends by itself.
  for indices in ((0, 1), (0,), (1,), (0, 1), (1,), (0, 1)):
    with workers(tmp_path, 2, *flags(killed)) as programs:
      programs[0].wait_for_line("training step")
      time.sleep(random.uniform(0.0, 0.3 * len(steps)))
      for index in indices:
        programs[index].send_signal(signal.SIGKILL)
      for index, program in enumerate(programs):
        exit_code = -signal.SIGKILL if index in indices else 1
        assert program.wait_for_end() == exit_code, program.log
    steps.append(max(checkpoint_steps(killed), default=0))
  for folder in (killed, whole):
    with workers(tmp_path, 2, *flags(folder)) as programs:
      for program in programs:
        program.finish()

  assert steps == sorted(steps)
  # They were killed in the middle several times. 24 x 45 videos by 8.
  assert len({step for step in steps if 0 < step < 135}) >= 3, steps
  assert_same_state(killed / "model.ckpt-135", whole / "model.ckpt-135")


# train.py with predictions of NaN for some videos.
BAD_TRAINING = """
import startup, pytest, test_divergence, train
test_divergence.make_bad(pytest.MonkeyPatch(), above=0.75)
train.define_flags()
startup.run(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_machines_agree_on_steps_that_are_not_finite(tmp_path, data, policy):
  run = tmp_path / "run"
  with workers(
    tmp_path,
    2,
    f"--train_dir={run}",
    f"--train_data_pattern={data}/video*.tfrecord",
    *VIDEO_FLAGS,
    "--batch_size=2",
    "--num_epochs=1",
    "--seed=1",
    "--export_model_steps=1",
    "--keep_checkpoints=0",
    f"--nan_policy={policy}",
    program=("-c", BAD_TRAINING),
  ) as programs:
    logs = [
      program.finish(exit_code=2 * (policy == "stop")) for program in programs
    ]
  begins = "at step" if policy == "stop" else "Left out the update of step"
  found = [re.search(rf"{begins} (\d+)[.,].*", log) for log in logs]
  # The names of two videos of both machines.
  records = [re.findall(r"\d-\d+ \(\S+, record \d+\)", one[0]) for one in found]
  assert records[0] == records[1]
  assert len(records[0]) == 4
  bad = int(found[0][1])
  assert bad == int(found[1][1]) > 1
  if policy == "stop":
    assert checkpoint_steps(run) == set(range(1, bad))
    return
  before, after, next_one = (
    weights_of(run / f"model.ckpt-{bad + more}") for more in (-1, 0, 1)
  )
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, err_msg=name)
  assert any((next_one[name] != after[name]).any() for name in after)


@pytest.mark.slow
def test_machines_with_other_flags_are_refused(tmp_path, data):
  with workers(
    tmp_path,
    2,
    *endless(tmp_path, data),
    own_flags=lambda index: [f"--seed={index}"],
  ) as programs:
    logs = [program.finish(2) for program in programs]
  assert all("the same flags" in log for log in logs)
  assert latest_checkpoint(str(tmp_path / "run")) is None


# --------------------------------------------------------------------------
# Choosing


@pytest.mark.parametrize(
  "content",
  [
    "",
    "{}",
    '{"cluster": {"worker": ["a:1"]}, "task": {}}',
    '{"cluster": {}, "task": {"type": "worker", "index": 0}}',
  ],
)
def test_a_cluster_of_one_machine_is_ignored(content):
  placement = distribution.choose(content, None)
  assert (placement.num_workers, placement.num_replicas) == (1, 1)
  assert placement.is_chief
  assert placement.most([2.5, -1.0]) == [2.5, -1.0]


@pytest.mark.parametrize(
  ("content", "part"),
  [
    ('{"cluster": {"master": ["a:1"], "ps": ["b:1", "c:1"]}}', "'master'"),
    ('{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}', "'ps'"),
    (
      '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 2}}',
      "one of its 2",
    ),
    (
      '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator"}}',
      "evaluator",
    ),
    ("a:1,b:1", "JSON"),
    ('["a:1"]', "JSON"),
    ('{"cluster": 3}', "JSON"),
    pytest.param("[" * 100_000, "JSON", id="deep"),
    (
      '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": Infinity}}',
      "JSON",
    ),
    ('{"task": {"index": 1e999}}', "JSON"),
    ('{"cluster": {"worker": [1, 2]}}', "strings"),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": "x"}}', "JSON"),
  ],
)
def test_bad_clusters_are_refused(content, part):
  with pytest.raises(errors.UserError, match="TF_CONFIG") as error:
    distribution.choose(content, None)
  assert part in str(error.value)


# --------------------------------------------------------------------------
# Evaluations


def test_one_machine_works_at_once():
  done = []
  distribution.Placement().let_chief_work(lambda: done.append(1))
  assert done == [1]
  with pytest.raises(ZeroDivisionError):
    distribution.Placement().let_chief_work(lambda: 1 // 0)


class Meeting(distribution.Placement):
  """A Placement whose machines are threads of this process."""

  def __init__(self, worker, meeting):
    super().__init__(num_workers=2, worker=worker)
    self._meeting = meeting
    self.num_signs = 0

  def most(self, values):
    self.num_signs += 1
    barrier, table = self._meeting
    table[self.worker] = list(values)
    barrier.wait(timeout=20)
    found = [max(column) for column in zip(*table, strict=True)]
    barrier.wait(timeout=20)
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_the_others_wait_for_the_chief_and_hear_from_it(monkeypatch, fails):
  monkeypatch.setattr(distribution, "_SIGN_OF_LIFE_SECONDS", 0.01)
  meeting = threading.Barrier(2), [[], []]
  machines = [Meeting(worker, meeting) for worker in range(2)]
  done = []

  def work():
    time.sleep(0.3)
    done.append(1)
    if fails:
      raise errors.UserError("it failed")

  other = threading.Thread(
    target=machines[1].let_chief_work, args=(lambda: done.append(2),)
  )
  other.start()
  if fails:
    with pytest.raises(errors.UserError, match="it failed"):
      machines[0].let_chief_work(work)
  else:
    machines[0].let_chief_work(work)
  other.join(20)
  assert done == [1]
  assert machines[0].num_signs == machines[1].num_signs > 5


@pytest.mark.slow
def test_the_chief_evaluates_and_all_stop_early(tmp_path, data):
  """With a learning rate of 0, no evaluation is better than the first."""
  flags = (
    f"--train_dir={tmp_path}/run",
    f"--train_data_pattern={data}/video[0-2].tfrecord",
    f"--eval_data_pattern={data}/video[34].tfrecord",
    *VIDEO_FLAGS,
    "--batch_size=4",
    "--num_epochs=0",
    "--base_learning_rate=0",
    "--eval_steps=3",
    "--early_stopping=4",
  )
  for _ in range(2):  # the second time there is nothing to do
    with workers(tmp_path, 2, *flags) as programs:
      logs = [program.finish() for program in programs]
    assert latest_checkpoint(str(tmp_path / "run")).endswith("-12")
  assert all("has ended after step 12. Raise --early_st" in log for log in logs)
  content = json.loads((tmp_path / "run" / "evaluations.json").read_text())
  evaluated = [scores["global_step"] for scores in content["evaluations"]]
  assert evaluated == [0, 3, 6, 9, 12]
  assert {scores["num_examples"] for scores in content["evaluations"]} == {20}
  # The chief alone has written the events.
  names = [path.name for path in (tmp_path / "run" / "eval").glob("events*")]
  assert len({re.search(r"-(\d+)-\w+\.v2$", name)[1] for name in names}) == 1


@pytest.mark.slow
def test_evaluated_machines_killed_at_any_moment(tmp_path, data):
  def flags(train_dir):
    return (
      f"--train_dir={train_dir}",
      f"--train_data_pattern={data}/video[0-2].tfrecord",
      f"--eval_data_pattern={data}/video[34].tfrecord",
      *VIDEO_FLAGS,
      "--batch_size=4",
      "--num_epochs=0",
      "--max_steps=60",
      "--base_learning_rate=0.1",
      "--eval_steps=4",
      "--early_stopping=9",
    )

  killed, whole = tmp_path / "killed", tmp_path / "whole"
  random = np.random.default_rng(8)
  for most_seconds in (0.2, 0.5, 1.0):
    with workers(tmp_path, 2, *flags(killed)) as programs:
      programs[0].wait_for_line("epoch/eval number")
      time.sleep(random.uniform(0.0, most_seconds))
      for program in programs:
        program.send_signal(signal.SIGKILL)
        program.wait_for_end()
  for folder in (killed, whole):
    with workers(tmp_path, 2, *flags(folder)) as programs:
      for program in programs:
        program.finish()
  newest = latest_checkpoint(str(whole)).rsplit("/", 1)[1]
  assert_same_state(killed / newest, whole / newest)
  best = [
    json.loads((run / "best.json").read_text()) for run in (killed, whole)
  ]
  assert best[0]["step"] == best[1]["step"]
