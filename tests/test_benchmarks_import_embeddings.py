"""Tests of benchmarks/import_embeddings.py."""

import json

import pytest
from conftest import run_program


@pytest.mark.slow
def test_every_source_is_measured(tmp_path):
  log = run_program(
    "-m",
    "benchmarks.import_embeddings",
    "--num_items=300",
    "--size=8",
    "--repeats=1",
    f"--data_dir={tmp_path}/data",
    "--delete_data",
  )
  figures = json.loads(log.strip().splitlines()[-1])
  for source in ("npy", "parquet", "webdataset"):
    assert figures[source]["videos_per_second"]["median"] > 0
    assert figures[source]["fraction"] > 0
    assert figures[source]["peak_mb"] >= figures[source]["start_mb"] > 0
  assert not (tmp_path / "data").exists()
