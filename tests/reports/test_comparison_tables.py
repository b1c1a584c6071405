"""Tests of reports.comparison_tables."""

import csv
import dataclasses
import io

import pytest
from small_comparison import made_up_comparison, made_up_rows

from reports import comparison_tables
from reports.bootstrap import Interval
from reports.comparison import Spread
from reports.comparison_tables import (
  COLUMNS,
  cell,
  interval_text,
  make_csv,
  make_markdown,
  readme_table,
  shown_columns,
)


@pytest.fixture(scope="module")
def comparison():
  return made_up_comparison()


def column(key):
  return next(one for one in COLUMNS if one.key == key)


@pytest.mark.parametrize(
  ("function", "value", "text"),
  [
    ("amount", 18_796_342, "18.8 M"),
    ("amount", 640, "640"),
    ("amount", 4_300, "4.3 k"),
    ("amount", 12.34, "12.3"),
    ("num_bytes", 75_400_000, "75.4 MB"),
    ("num_bytes", 1_230_000_000, "1.23 GB"),
    ("seconds", 7.54, "7.54 s"),
    ("seconds", 192.4, "3 min 12 s"),
    ("seconds", 7500, "2 h 5 min"),
    ("milliseconds", 0.01234, "12.3 ms"),
  ],
)
def test_numbers_as_text(function, value, text):
  assert getattr(comparison_tables, function)(value) == text


def test_cells():
  gap = column("gap")
  assert cell(Spread(0.12345, 0.0111), gap) == "0.123 ± 0.011"
  assert cell(Spread(0.12345, None), gap) == "0.123"
  assert cell(None, gap) == "-"
  # Only scores show their spread.
  assert cell(Spread(2e6, 1e5), column("parameters")) == "2 M"


def test_differences_in_words():
  assert (
    interval_text(Interval(0.03, 0.01, 0.05)) == "+0.030 (+0.010 to +0.050)"
  )
  assert (
    interval_text(Interval(0.03, -0.01, 0.05))
    == "no difference shown (-0.010 to +0.050)"
  )


def test_columns_without_a_value_are_left_out(comparison):
  keys = [one.key for one in shown_columns(comparison.rows)]
  assert "gpu_percent" not in keys
  assert "gpu_memory_bytes" not in keys
  assert keys[:5] == ["loss", "hit_at_one", "perr", "map", "gap"]
  assert "accuracy (Hit@1)" in {one.title for one in COLUMNS}


def test_markdown(comparison):
  text = make_markdown(comparison)
  lines = text.splitlines()
  head = next(line for line in lines if line.startswith("| model | loss"))
  rows = lines[lines.index(head) + 2 :][:5]
  assert [row.split(" | ")[0] for row in rows] == [
    r"| Good:lstm\_layers=1",
    "| Bad",
    "| Base (mean-frame logistic)",
    "| majority class",
    "| label frequencies",
  ]
  assert all(row.count("|") == head.count("|") for row in rows)
  gap = comparison.rows[0].values["gap"]
  assert f"{gap.mean:.3f} ± {gap.deviation:.3f}" in rows[0]
  assert "Accuracy is Hit@1" in text
  assert "no difference shown" in text
  assert "means over 2 seeds" in text
  assert "100 steps" in text
  assert "python train.py --model=Good:lstm_layers=1" in text
  assert "python -m reports.compare_models --models='A,B'" in text
  assert "fewer draws" not in text


def test_what_a_reader_must_know_is_said():
  rows = made_up_rows(seeds=1)
  text = make_markdown(
    made_up_comparison(
      seeds=1,
      resamples=2500,
      failed=[("Bad, seed 3", "Expected a finite loss")],
      notes=["Runs are of 2 different commits."],
      by_fraction={0.1: rows, 1.0: rows},
      by_workers={1: rows, 2: rows},
    )
  )
  for part in (
    "There is one seed",
    "With one seed the intervals",
    "fewer draws than 10,000",
    "- Bad, seed 3: Expected a finite loss",
    "2 different commits",
    "10% of the training data",
    "2 workers:",
    "share its cores",
  ):
    assert part in text


def test_names_are_escaped(comparison):
  row = dataclasses.replace(comparison.rows[0], name="A|<b>\n`x` 1*2")
  text = comparison_tables.row_table([row], COLUMNS[:1])
  assert r"| A\|\<b\> \`x\` 1\*2 |" in text
  assert len(text.splitlines()) == 3


def test_csv_has_plain_numbers(comparison):
  rows = list(csv.DictReader(io.StringIO(make_csv(comparison))))
  assert [row["model"] for row in rows] == [row.name for row in comparison.rows]
  gap = comparison.rows[0].values["gap"]
  assert float(rows[0]["gap"]) == pytest.approx(gap.mean)
  assert float(rows[0]["gap_deviation"]) == pytest.approx(gap.deviation)
  assert rows[0]["seeds"] == "2"
  assert rows[0]["gpu_percent"] == ""
  assert rows[3]["training_seconds"] == ""
  assert rows[0]["command"] == "python train.py --model=Good:lstm_layers=1"
  assert rows[2]["is_baseline"] == "True"


def test_csv_has_all_tables():
  rows = made_up_rows(seeds=1)
  found = made_up_comparison(
    by_fraction={0.1: rows[:1]}, by_workers={2: rows[:2]}
  )
  lines = list(csv.DictReader(io.StringIO(make_csv(found))))
  assert [
    (line["table"], line["fraction"], line["workers"]) for line in lines[5:]
  ] == [("fraction", "0.1", "1"), *[("workers", "1", "2")] * 2]


def test_the_table_of_the_readme_has_fewer_columns(comparison):
  head = readme_table(comparison).splitlines()[0]
  assert "accuracy (Hit@1)" in head
  assert "latency" in head
  assert "CPU" not in head
  text = " ".join(readme_table(comparison).split())
  assert "No difference of GAP is shown between B" in text
  assert "Machine: CPU & Co, 2 cores." in text


def test_fastest_batches_are_named_as_they_were_measured():
  comparison = made_up_comparison()
  comparison.rows[0].runs[0].scores["batch_size"] = 512
  assert "fastest batches have 32, 512 videos" in make_markdown(comparison)
  rows = list(csv.DictReader(io.StringIO(make_csv(comparison))))
  found = [row["predicted_batches"] for row in rows]
  assert found == ["32 512", "32", "32", "", ""]
