"""Tests of reports.comparison_estimate."""

import dataclasses
import shutil

import pytest
from conftest import error_of
from make_records import video_record, write_records
from small_comparison import made_up_run

from reports import comparison_estimate
from reports.comparison_estimate import (
  Facts,
  check_disk,
  look_at_entries,
  seconds_of,
)
from reports.comparison_plan import Budget, EntryData


class InProcess:
  """Stands for the process pool."""

  def __init__(self, *_, **__):
    pass

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def submit(self, function, *arguments):
    result = function(*arguments)
    return type("Future", (), {"result": staticmethod(lambda: result)})


@pytest.fixture
def in_this_process(monkeypatch):
  monkeypatch.setattr(
    comparison_estimate.concurrent.futures, "ProcessPoolExecutor", InProcess
  )


def runs_of(pattern, *flags):
  run = made_up_run("A:moe_num_mixtures=2")
  return [
    dataclasses.replace(
      run, flags=flags, data=EntryData((), pattern, pattern, False), seed=seed
    )
    for seed in (0, 1)
  ]


TINY = (
  "--model=MoeModel",
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=4,3",
  "--num_classes=6",
  "--batch_size=5",
)


def test_models_are_built_and_data_is_opened(tiny_files, in_this_process):
  found = look_at_entries(runs_of(",".join(tiny_files), *TINY))
  (facts,) = found.values()
  # Two experts and a gate for each and one for none, with biases of experts.
  assert facts.parameters == 6 * 7 * 3 + 6 * (7 + 1) * 2
  assert 20 <= facts.num_videos <= 24
  assert 0 < facts.seconds_a_video < 10
  assert facts.batch_size == 5
  assert facts.model_flags["num_classes"] == 6


def test_files_to_score_on_are_opened(tiny_files, tmp_path, in_this_process):
  bad = write_records(
    tmp_path / "test", [video_record("a", None, mean_rgb=[1.0] * 4)]
  )
  (run, _) = runs_of(",".join(tiny_files), *TINY)
  data = dataclasses.replace(run.data, eval_pattern=bad)
  run = dataclasses.replace(run, data=data)
  text = error_of(look_at_entries, [run])
  assert text.startswith(f"A:moe_num_mixtures=2 of --models: {bad}, record 0")


def test_frame_level_models_are_tried(tiny_frame_files, in_this_process):
  flags = (
    "--model=FrameLevelLogisticModel",
    "--frame_features",
    "--feature_names=rgb,audio",
    *TINY[2:],
  )
  found = look_at_entries(runs_of(",".join(tiny_frame_files), *flags))
  (facts,) = found.values()
  assert facts.seconds_a_video > 0


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    (("--feature_sizes=5,3",), "mean_rgb"),
    (("--num_classes=2",), "class"),
    (("--moe_num_mixtures=x",), "moe_num_mixtures"),
    # Nobody knows where its cosine ends.
    (
      ("--preset=recommended", *Budget("minutes", 1).flags()),
      "Expected --budget=steps:N or epochs:N for --learning_rate_schedule=cos",
    ),
  ],
)
def test_mistakes_name_the_entry(flags, part, tiny_files, in_this_process):
  runs = runs_of(",".join(tiny_files), *TINY, *flags)
  text = error_of(look_at_entries, runs)
  assert text.startswith("A:moe_num_mixtures=2 of --models: ")
  assert part in text


@pytest.mark.slow
def test_a_process_of_its_own(tiny_files):
  found = look_at_entries(runs_of(",".join(tiny_files), *TINY))
  assert found["A:moe_num_mixtures=2"].batch_size == 5


def test_seconds_by_hand():
  facts = Facts(8_000_000, 1000, 0.01, 20)
  run = made_up_run("A")
  assert seconds_of(run, Budget("minutes", 2), facts) == 180
  # Three passes of 20 videos, and 28 bytes of each weight at 8 GB/s.
  step = 3 * 20 * 0.01 + 0.028
  assert seconds_of(run, Budget("steps", 100), facts) == pytest.approx(
    60 + 100 * step
  )
  assert seconds_of(run, Budget("epochs", 2), facts) == pytest.approx(
    60 + 100 * step
  )
  part = made_up_run("A", fraction=0.1)
  assert seconds_of(part, Budget("epochs", 2), facts) == pytest.approx(
    60 + 10 * step
  )
  # Two workers take turns on one machine.
  two = made_up_run("A", workers=2)
  assert seconds_of(two, Budget("steps", 100), facts) == pytest.approx(
    60 + 200 * step
  )


def test_checkpoints_must_fit_on_the_disk(tmp_path, monkeypatch):
  facts = {"A": Facts(1000), "B": Facts(3000)}
  runs = [made_up_run("A"), made_up_run("B")]
  assert check_disk(runs, facts, str(tmp_path)) == 12 * 4000 + 16 * 3000
  # A part of the videos is copied once, whole files are linked.
  (tmp_path / "train").write_bytes(b"x" * 1000)
  parts = [made_up_run("A", seed, fraction=0.3) for seed in (0, 1)]
  parts.append(dataclasses.replace(parts[0], by_files=True))
  data = dataclasses.replace(runs[0].data, train_pattern=f"{tmp_path}/train")
  parts = [dataclasses.replace(run, data=data) for run in parts]
  assert check_disk(parts, facts, str(tmp_path)) == (
    12 * 3 * 1000 + 16 * 1000 + 300
  )
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    comparison_estimate.shutil,
    "disk_usage",
    lambda _: usage._replace(free=90_000),
  )
  text = error_of(check_disk, runs, facts, str(tmp_path))
  assert "free disk for 2 runs" in text
