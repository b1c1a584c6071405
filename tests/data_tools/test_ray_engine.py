"""Tests of ray_engine; those with Ray run in an environment of their own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small_clips
from absl import logging
from own_environment import run_slow_tests

import errors
from data_tools import ray_engine
from data_tools.ray_engine import Report
from media.extraction import Extraction
from media.parts import PART_ENDING, Parts

REPOSITORY = pathlib.Path(__file__).parents[2]
RANDOM = Extraction("random")


def test_without_the_library_the_install_command_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(errors.UserError) as caught:
    ray_engine.extract_on_ray([("x.part", {"a": "a"})], RANDOM)
  assert "pip install -r requirements/ray.txt" in str(caught.value)


def test_nothing_to_do_needs_no_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  ray_engine.extract_on_ray([], RANDOM)  # else it would raise


def test_the_number_of_parts_depends_on_the_number_of_videos():
  assert [ray_engine.num_parts(n) for n in (1, 6400, 6401, 1_000_000)] == [
    64,
    64,
    65,
    10_000,
  ]


def part_row(path, videos) -> dict:
  return {"part": json.dumps([str(path), videos])}


def test_a_worker_extracts_parts_with_one_encoder(tmp_path):
  clips = [
    str(small_clips.make_clip(tmp_path / f"{n}.mp4", (9, 99, 40 * n), 1))
    for n in (0, 1)
  ]
  (tmp_path / "text.mp4").write_text("text")
  worker = ray_engine.Worker(RANDOM.to_dict(), batch_size=8, num_workers=1)
  first = {"zero": clips[0], "text": str(tmp_path / "text.mp4")}
  folder = tmp_path / "parts"
  reports = [
    Report(**json.loads(worker(row)["report"]))
    for row in (
      part_row(folder / f"1{PART_ENDING}", first),
      part_row(folder / f"2{PART_ENDING}", {"one": clips[1]}),
      part_row(folder / f"2{PART_ENDING}", {"one": clips[1]}),
    )
  ]
  assert [(report.done, report.bad) for report in reports] == [
    (2, 1),
    (1, 0),
    (0, 0),
  ]
  (line,) = reports[0].lines
  assert line[0] == "text"
  assert "cannot be opened" in line[1]
  assert all(report.encoding_seconds > 0 for report in reports[:2])
  assert reports[2].waiting_seconds == 0
  parts = Parts(str(folder), RANDOM.to_dict())
  assert sorted(parts.entries) == ["one", "text", "zero"]
  assert parts.read("one").arrays["rgb"].shape == (1, 128)


def test_an_error_of_the_user_ends_the_extraction(tmp_path):
  extraction = Extraction("nothing")
  worker = ray_engine.Worker(extraction.to_dict(), batch_size=8, num_workers=1)
  row = part_row(tmp_path / f"1{PART_ENDING}", {"a": "a"})
  report = Report(**json.loads(worker(row)["report"]))
  with pytest.raises(errors.UserError, match="received 'nothing'"):
    ray_engine.Summary(1, takes_sound=False).add(report)
  row = part_row(tmp_path / f"1{PART_ENDING}/below{PART_ENDING}", {"a": "a"})
  assert "Expected to write" in json.loads(worker(row)["report"])["problem"]


def test_reports_are_added_up(monkeypatch):
  lines = []
  for name in ("info", "warning"):
    monkeypatch.setattr(
      logging, name, lambda text, *values: lines.append(text % values)
    )
  summary = ray_engine.Summary(60, takes_sound=True)
  for _ in range(3):
    bad = [("a", "is text")] * 15
    summary.add(Report(20, 15, 2, bad, waiting_seconds=3, encoding_seconds=1))
  assert len(lines) == 20
  summary.end()
  assert lines[20].startswith("Extracted 60 of 60 videos on Ray")
  assert "frames 75 % of the time. 45 cannot be used" in lines[20]
  assert lines[21].endswith("silence: 6 videos")


def node(is_alive=True, **resources) -> dict:
  return {"Alive": is_alive, "Resources": {"memory": 1e9, **resources}}


@pytest.mark.parametrize(
  ("encoder", "num_workers", "wanted"),
  [
    ("random", None, (1, 0, 28)),
    ("random", 3, (3, 0, 9)),
    ("clip:ViT-B-32:openai", None, (4, 1, 6)),
    ("clip:ViT-B-32:openai", 8, (8, 1, 3)),
  ],
)
def test_workers_share_the_cluster(encoder, num_workers, wanted):
  nodes = [
    node(CPU=16.0, GPU=4.0),
    node(CPU=12.0, GPU=2.0),
    node(False, CPU=8.0, GPU=8.0),
    node(),
  ]
  found = ray_engine._workers(nodes, encoder, num_workers)
  assert (found.cpus, found.gpus, found.now) == wanted


def test_without_gpus_the_encoder_gets_none():
  found = ray_engine._workers([node(CPU=2.0)], "clip:ViT-B-32:openai", 4)
  assert (found.cpus, found.gpus, found.now) == (4, 0, 1)


# --------------------------------------------------------------------------
# With Ray


@pytest.mark.slow
def test_the_others_in_an_environment_of_their_own():
  run_slow_tests("ray", __file__)


CLUSTER = """
import sys
import ray
ray.init(address="local", num_cpus=3, include_dashboard=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""

# Larger parts than usual, so that a worker is killed in the middle of one.
PROGRAM = """
import runpy
from data_tools import ray_engine
ray_engine.LEAST_PARTS = 6
runpy.run_module("data_tools.extract_features", None, "__main__", True)
"""

# Notes each call. White videos end the process.
ENCODER = """
import os
import signal
import time

def encode(images):
  with open(f"calls/{os.getpid()}", "a") as file:
    file.write("x")
  time.sleep(0.5)
  if images.mean() > 200:
    os.kill(os.getpid(), signal.SIGKILL)
  return images.mean(axis=(1, 2), dtype=float)
"""

ENVIRONMENT = {
  **os.environ,
  "PYTHONPATH": str(REPOSITORY),
  "RAY_USAGE_STATS_ENABLED": "0",
  "RAY_AUTH_MODE": "token",
  "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The working directory: clips/ and an encoder."""
  pytest.importorskip("ray")
  monkeypatch.chdir(tmp_path)
  small_clips.make_folder("clips")
  pathlib.Path("calls").mkdir()
  pathlib.Path("own_encoder.py").write_text(ENCODER)
  return tmp_path


@pytest.fixture
def address(folder):
  """Of a cluster with three CPUs."""
  process = subprocess.Popen(
    [sys.executable, "-c", CLUSTER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env=ENVIRONMENT,
  )
  words = []
  while words[:1] != ["address"]:
    line = process.stdout.readline()
    assert line, "no cluster"
    words = line.split()
  yield words[1]
  process.stdin.close()
  assert process.wait(60) == 0


def start(output_dir, *more) -> subprocess.Popen:
  """Starts the extraction of the clips."""
  flags = [
    "--videos=clips",
    f"--output_dir={output_dir}",
    "--encoder=own_encoder:encode",
    *more,
  ]
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM, *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=ENVIRONMENT,
  )


def log_of(process, exit_code=0) -> str:
  log, _ = process.communicate(timeout=200)
  assert process.returncode == exit_code, log
  return log


def calls() -> dict[int, int]:
  """How often each process has called the encoder."""
  return {
    int(path.name): path.stat().st_size
    for path in pathlib.Path("calls").iterdir()
  }


def records_of(name) -> dict[str, bytes]:
  return {
    path.name: path.read_bytes()
    for path in pathlib.Path(name).iterdir()
    if path.suffix in (".tfrecord", ".csv")
  }


@pytest.mark.slow
def test_of_three_workers_one_is_killed(folder, address):
  """The records are those of one process, and at most a video is repeated."""
  process = start("data", "--engine=ray", f"--ray_address={address}")
  victim = None
  while not victim and process.poll() is None:
    # The first call is a try, without a video; the last one has not ended.
    victim = next((pid for pid, count in calls().items() if count == 3), None)
    time.sleep(0.02)
  if victim:
    os.kill(victim, signal.SIGKILL)
  log = log_of(process)
  assert "Ray: 6 parts for 3 workers with 1 CPUs and 0 GPUs each" in log
  assert victim
  found = calls()
  assert found[victim] in (3, 4)
  assert len(found) == 4  # one took its place
  assert sum(found.values()) - len(found) in (18, 19)
  assert not pathlib.Path("data.extracted").exists()
  log_of(start("whole"))
  assert len(records_of("whole")) == 5
  assert records_of("data") == records_of("whole")


@pytest.mark.slow
def test_a_video_that_ends_its_workers_does_not_end_the_others(folder):
  """On this machine; when it is replaced, the extraction goes on."""
  deadly = small_clips.make_clip("clips/red/white.mp4", (255, 255, 255), 1)
  log = log_of(start("data", "--engine=ray"), exit_code=2)
  assert "all 19 videos" in log
  assert "such as red/white.mp4. Their workers died" in log
  assert "max_errored_blocks" in log  # Ray's own line about it
  assert "Traceback" not in log
  small_clips.make_clip(deadly, (200, 0, 0), 1)
  log = log_of(start("data", "--engine=ray"))
  assert "Going on: " in log
  log_of(start("whole"))
  assert records_of("data") == records_of("whole")


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag", ["--encoder=keras:Nothing", "--ray_address=127.0.0.1:9"]
)
def test_errors_are_said_in_one_line(flag, folder):
  log = log_of(start("data", "--engine=ray", flag), exit_code=2)
  assert flag.partition("=")[2] in log.splitlines()[-1]
  assert log.splitlines()[-1].startswith("ERROR: ")
  assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_stopped_ends_what_it_has_started(number, folder):
  process = start("data", "--engine=ray")
  while process.poll() is None and 2 not in calls().values():
    time.sleep(0.02)
  started = children_of(process.pid)
  process.send_signal(number)
  log = log_of(process, exit_code=128 + number)
  assert "Traceback" not in log
  assert started
  until = time.monotonic() + 30
  while time.monotonic() < until and any(map(is_running, started)):
    time.sleep(0.1)
  assert not [pid for pid in started if is_running(pid)]
  assert list(pathlib.Path("data.extracted").glob(f"*{PART_ENDING}"))


def children_of(pid: int) -> list[int]:
  tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
  children = [int(one) for path in tasks for one in path.read_text().split()]
  return children + [one for child in children for one in children_of(child)]


def is_running(pid: int) -> bool:
  try:
    return " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return False
