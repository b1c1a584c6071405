"""Tests of benchmarks/segments.py."""

import json

import pytest
from conftest import run_program


@pytest.mark.slow
def test_lists_and_scores_are_measured():
  log = run_program(
    "-m",
    "benchmarks.segments",
    "--num_segments=3000",
    "--num_classes=7",
    "--limit=200",
    "--num_ratings=9000",
  )
  figures = json.loads(log.strip().splitlines()[-1])
  assert figures["ranking_peak_mb"] >= figures["start_mb"] > 0
  assert figures["scoring_seconds"] >= 0
  # Random lists that are cut off at a fifteenth of the segments.
  assert 0 < figures["map"] < 0.2
