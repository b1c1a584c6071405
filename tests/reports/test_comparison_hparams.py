"""Tests of reports.comparison_hparams."""

import os

import pytest
from conftest import event_tags
from small_comparison import made_up_comparison, made_up_rows
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from reports.comparison_hparams import write_hparams


def sessions_of(folder):
  """{run: {hyper-parameter: value}} as TensorBoard reads them."""
  multiplexer = plugin_event_multiplexer.EventMultiplexer()
  multiplexer.AddRunsFromDirectory(str(folder))
  multiplexer.Reload()
  found = {}
  for run, of in multiplexer.PluginRunToTagToContent("hparams").items():
    for tag, content in of.items():
      if tag.endswith("session_start_info"):
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        found[run] = {
          name: getattr(value, value.WhichOneof("kind"))
          for name, value in data.session_start_info.hparams.items()
        }
  return found


def test_each_run_is_a_session(tmp_path):
  rows = made_up_rows()
  comparison = made_up_comparison(by_fraction={1.0: rows})
  folder = tmp_path / "hparams"
  write_hparams(comparison, str(folder))
  sessions = sessions_of(folder)
  runs = {run.run.name: run for row in rows for run in row.runs}
  assert sessions.keys() == runs.keys()
  for name, session in sessions.items():
    run = runs[name].run
    assert session["model"] == run.entry.name
    assert session["seed"] == run.seed
    assert session["budget"] == "100 steps"
    tags = event_tags(folder / name)
    assert tags["gap"][100] == pytest.approx(runs[name].scores["gap"], rel=1e-6)
    assert "gpu_percent" not in tags


def test_another_report_replaces_the_first(tmp_path):
  folder = tmp_path / "hparams"
  write_hparams(made_up_comparison(), str(folder))
  first = set(os.listdir(folder))
  rows = made_up_rows(seeds=1)
  write_hparams(made_up_comparison(rows=rows[:1]), str(folder))
  left = [name for name in os.listdir(folder) if "tfevents" not in name]
  assert left == [rows[0].runs[0].run.name]
  assert len(first) > 2
  assert os.listdir(tmp_path) == ["hparams"]
