"""Tests of reports.framework_page."""

import re

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from reports import framework_page as pages


def make_result(backend="tensorflow", processes=1, **changes) -> dict:
  values = {
    "backend": backend,
    "processes": processes,
    "how": "XLA",
    "device": "CPU",
    "videos_per_second": 123.4,
    "start_seconds": 7.25,
    "step_seconds": [3.5, 0.5, 0.5],
    "losses": [4.0, 2.0, 1.0],
    "check_losses": [5.0, 3.0],
    "peak_memory_bytes": 3 * 2**29,
    "peak_gpu_bytes": None,
    "versions": {"python": "3.11", backend: "9.8.7"},
    "commit": "abc1234",
    "began": "2026-01-02T03:04:05Z",
    "command": "python -m reports.compare_frameworks --x='<b>'",
    "machine": {
      "cpu": "A | B",
      "cores": 2,
      "memory_bytes": 2**33,
      "system": "Linux",
    },
  }
  return {**values, **changes}


def make_report() -> dict:
  return {
    "command": "python -m reports.compare_frameworks --x='<b>'",
    "check_steps": 50,
    "models": [
      {
        "name": "BiLstmModel:lstm_layers=1",
        "batch_size": 16,
        "learning_rate": 0.001,
        "num_frames": 14,
        "parameters": 1234567,
        "pattern": "/data/*.tfrecord",
        "files": ["/data/a", "/data/b"],
        "videos": 480,
        "hash": "0123abcd",
        "results": [
          make_result(),
          make_result(
            "torch", how="eager", losses=[4.0, 3.0], step_seconds=[2.0, 1.0]
          ),
          make_result("jax", 2, peak_gpu_bytes=2**30, device="A GPU"),
        ],
        "agreements": [
          {
            "one": "TensorFlow",
            "other": "PyTorch",
            "outputs": 1.1e-6,
            "gradients": 2e-5,
            "losses": 3e-2,
            "last_losses": [3.14159265, 3.2],
            "holds": False,
          }
        ],
        "notes": ["a note of this model."],
      }
    ],
  }


def test_the_speed_table():
  header, *rows = pages.speed_table(make_report())
  assert all(len(row) == len(header) for row in rows)
  assert rows[0] == [
    *("BiLstmModel:lstm_layers=1", "TensorFlow", "123.4", "7.2", "3.50"),
    # Of the two steps that all did.
    *("1.50", "", "3 (2)", "XLA", "CPU"),
  ]
  assert rows[1][1] == "PyTorch"
  assert rows[1][-3:] == ["3.5 (2)", "eager", "CPU"]
  assert rows[2][1] == "JAX, 2 processes"
  assert rows[2][6] == "1.00"
  assert header[6] == "GPU, GiB"
  report = make_report()
  del report["models"][0]["results"][2]
  header, first, _ = pages.speed_table(report)
  assert "GPU, GiB" not in header
  assert first == [*rows[0][:6], *rows[0][7:]]


def test_the_agreement_table():
  _, row = pages.agreement_table(make_report())
  assert row == [
    *("BiLstmModel:lstm_layers=1", "TensorFlow and PyTorch"),
    *("1.1e-06", "2.0e-05", "3.0e-02", "3.14159 and 3.2", "NO"),
  ]


def test_every_run_has_its_command_machine_versions_and_commit():
  text = pages.make_markdown(make_report())
  for part in (
    "2026-01-02T03:04:05Z",
    "python 3.11, torch 9.8.7",
    "abc1234",
    "A \\| B, 2 cores, 8 GiB, no GPU, Linux",
    "--x='<b>'",
    "480 videos in 2 files, /data/\\*.tfrecord",
    "0123abcd",
    "1,234,567 weights",
    "batches of 16 videos of 14 frames, learning rate 0.001",
    "BiLstmModel:lstm\\_layers=1: a note of this model.",
    "losses of 50 steps",
  ):
    assert part in text


def test_a_markdown_table():
  rows = [["a", "b"], ["1|2", ""]]
  assert pages.markdown_table(rows) == "| a | b |\n|---|---|\n| 1\\|2 |  |"


def test_the_page_stands_alone_and_escapes():
  page = pages.make_page(make_report())
  assert "&lt;b&gt;" in page
  assert "<b>" not in page
  addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
  assert len(addresses) == 2  # the charts of one model
  assert all(one.startswith("data:image/svg+xml;base64,") for one in addresses)
  for _, cell in re.findall(r"<t[hd]( class=\"text\")?>([^<]*)", page):
    assert cell == cell.strip()
  texts = re.findall(r'alt="([^"]*)"', page)
  assert "TensorFlow from 5 to 3" in texts[0]
  # Means of ten, after the seconds of the start and of two more steps.
  assert "TensorFlow 2.333 after 8 s" in texts[1]
